//! A model with an adapter: merged into its weights, or on the tape so that the adapter can be trained.

use burn::module::{Param, ParamId};
use burn::tensor::{Gradients, Int, Tensor, TensorData};

use super::Gemma;
use super::block::{narrowed, widened};
use crate::models::lora::{Lora, Target};

impl Gemma {
    /// The model with the adapter's changes added to its weights. An adapter on an autodiff device stays on the tape:
    /// what is computed with the model then has gradients at the adapter's weights, and at no others.
    pub fn adapted(&self, lora: &Lora) -> Self {
        let mut model = self.clone();
        for (number, layer) in model.layers.iter_mut().enumerate() {
            let weights = [
                (Target::QProj, &mut layer.q_proj),
                (Target::KProj, &mut layer.k_proj),
                (Target::VProj, &mut layer.v_proj),
                (Target::OProj, &mut layer.o_proj),
                (Target::GateProj, &mut layer.gate_proj),
                (Target::UpProj, &mut layer.up_proj),
                (Target::DownProj, &mut layer.down_proj),
            ];
            for (target, weight) in weights {
                if let Some(change) = lora.change(number, target) {
                    let fixed = weight.val();
                    let change = narrowed(change, fixed.dtype());
                    let fixed = if change.is_autodiff() { fixed.autodiff() } else { fixed };
                    // Not `from_tensor`, which would make the sum a leaf of its own.
                    *weight = Param::initialized(ParamId::new(), fixed + change);
                }
            }
        }
        model
    }

    /// Negative log-likelihoods `[rows]` in nats of a model with an adapter on the tape ([`Gemma::adapted`]), and the
    /// gradients of Σ weight · nll at the adapter's weights. `inputs` are scaled inputs `[batch, tokens, hidden]` on the
    /// plain device; the rest is as in [`Gemma::nll_and_gradient`]. The vocabulary head forms its gradient in the forward
    /// pass, in chunks, so that no logits are kept.
    ///
    /// # Panics
    /// When `rows` is empty or differs in length from `targets` or `weights`.
    pub fn nll_and_adapter_gradients(
        &self,
        inputs: Tensor<3>,
        rows: &[(usize, usize)],
        targets: &[u32],
        weights: &[f32],
    ) -> (Vec<f32>, Gradients) {
        assert!(!rows.is_empty() && rows.len() == targets.len() && rows.len() == weights.len(), "one target per row");
        let [batch, tokens, hidden] = inputs.dims();
        let at: Vec<i64> = rows.iter().map(|&(sample, position)| (sample * tokens + position) as i64).collect();
        let at = Tensor::<1, Int>::from_data(TensorData::new(at, [rows.len()]), &inputs.device());
        let states = self.forward(inputs.autodiff()).reshape([batch * tokens, hidden]).select(0, at);
        let plain = narrowed(states.clone().without_autodiff(), self.norm.val().dtype());
        let (nll, gradient) = self.head_gradient(plain, targets, weights);
        (nll, (states * widened(gradient).autodiff()).sum().backward())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::DType;

    use super::*;
    use crate::models::device;
    use crate::models::lora::LoraConfig;
    use crate::models::{AdamW, AdamWConfig};
    use crate::stats::random::Streams;

    const ROWS: [(usize, usize); 5] = [(0, 1), (0, 2), (0, 4), (1, 0), (1, 3)];
    const TARGETS: [u32; 5] = [300, 77, 9, 41, 12];

    fn inputs(model: &Gemma) -> Tensor<3> {
        let ids = Tensor::<2, Int>::from_ints([[2, 40, 300, 77, 12, 9], [2, 41, 5, 6, 12, 7]], &model.device());
        model.rows(ids).mul_scalar(model.embedding_scale())
    }

    fn weighted(nll: &[f32], weights: &[f32]) -> f64 {
        nll.iter().zip(weights).map(|(nll, weight)| f64::from(nll * weight)).sum()
    }

    #[test]
    fn gradients_are_those_of_finite_differences_and_training_lowers_the_loss() {
        let plain = device::parse("cpu").expect("the default backend");
        let tracked = plain.clone().autodiff();
        for fixture in ["gemma2_tiny", "gemma3_tiny"] {
            let model = Gemma::load(&Path::new("tests/fixtures").join(fixture), &plain, DType::F32).expect("a fixture");
            let config = LoraConfig { rank: 2, alpha: 4.0, targets: Target::ALL.to_vec() };
            let streams = Streams::new(1, "test");
            let mut lora = Lora::init(&config, model.config(), &streams, &tracked);
            let weights = [0.2, 0.3, 0.1, 0.25, 0.15];
            // As it begins it changes nothing: the model's own forward pass.
            let (before, _) = model.nll_and_gradient(inputs(&model), &ROWS, &TARGETS, &weights);
            let (same, gradients) =
                model.adapted(&lora).nll_and_adapter_gradients(inputs(&model), &ROWS, &TARGETS, &weights);
            assert!(before.iter().zip(&same).all(|(a, b)| (a - b).abs() < 1e-4), "{fixture}: {before:?} and {same:?}");
            let mut optimizer = AdamW::new(AdamWConfig::default());
            (lora, _) = optimizer.step(lora, &gradients, 1e-2);
            // Finite differences along the gradient itself: moving by step · g changes the loss by step · ‖g‖².
            let adapted = model.adapted(&lora);
            let (start, gradients) = adapted.nll_and_adapter_gradients(inputs(&model), &ROWS, &TARGETS, &weights);
            let squares = lora.gradient_squares(&gradients);
            let moved = |step: f64| {
                let moved = lora.moved(&gradients, step);
                let (nll, _) =
                    model.adapted(&moved).nll_and_adapter_gradients(inputs(&model), &ROWS, &TARGETS, &weights);
                weighted(&nll, &weights)
            };
            let step = 1e-3 / squares.sqrt();
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((slope / squares - 1.0).abs() < 0.02, "{fixture}: slope {slope} against {squares}");
            for _ in 0..25 {
                let adapted = model.adapted(&lora);
                let (_, gradients) = adapted.nll_and_adapter_gradients(inputs(&model), &ROWS, &TARGETS, &weights);
                (lora, _) = optimizer.step(lora, &gradients, 1e-2);
            }
            let (end, _) = model.adapted(&lora).nll_and_adapter_gradients(inputs(&model), &ROWS, &TARGETS, &weights);
            assert!(weighted(&end, &weights) < weighted(&start, &weights) - 0.5, "{fixture}: {start:?} and {end:?}");
            // Merged on the plain device it is the same model.
            let folder = tempfile::tempdir().expect("a temporary folder");
            lora.save(folder.path(), model.config()).expect("a temporary folder can be written");
            let merged = model.adapted(&Lora::load(folder.path(), model.config(), &plain).expect("our own folder"));
            let (merged, _) = merged.nll_and_gradient(inputs(&model), &ROWS, &TARGETS, &weights);
            assert!(merged.iter().zip(&end).all(|(a, b)| (a - b).abs() < 2e-3), "{fixture}: {merged:?} and {end:?}");
        }
    }
}
