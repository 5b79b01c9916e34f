//! Training through a frozen model: negative log-likelihoods and their gradient at the inputs.
//!
//! The vocabulary head runs at label rows alone, in chunks, and forms its gradient on the way: softmax minus one-hot,
//! through the soft cap, times the embedding matrix. Then the layers are gone through backwards without a tape
//! ([`super::plain`]), from what the forward pass kept; where that would be too much memory, only the inputs of the
//! layers are kept and each layer is run again. Both give the same numbers.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use super::Gemma;
use super::block::{narrowed, widened};
use super::host;
use super::plain::{Saved, Surroundings, from_values, into_values, is_host, norm_backward};

/// Above this many bytes kept by all layers together, the backward pass runs each layer again instead.
const KEPT_BYTES: usize = 1 << 29;

/// What is kept of a layer until its backward pass.
enum Kept {
    All(Box<Saved>),
    Input(Box<Tensor<2>>),
}

impl Gemma {
    /// Negative log-likelihoods and their gradient at the inputs, for a model on a plain device.
    ///
    /// `inputs` are scaled inputs `[batch, tokens, hidden]` on the same plain device; `rows` are the (batch, position)
    /// pairs whose hidden state predicts `targets`; `weights` are the factors of each −ln p in the objective.
    /// Returns −ln p per row in nats, and d(Σ weight · nll)/d inputs `[batch, tokens, hidden]`, f32. Right padding gets
    /// zero gradient because no row may lie on it.
    ///
    /// # Panics
    /// When `rows`, `targets` and `weights` differ in length, a row lies outside `inputs`, or the model is on an
    /// autodiff device (take `valid()` of it).
    pub fn nll_and_gradient(
        &self,
        inputs: Tensor<3>,
        rows: &[(usize, usize)],
        targets: &[u32],
        weights: &[f32],
    ) -> (Vec<f32>, Tensor<3>) {
        self.nll_and_gradient_within(KEPT_BYTES, inputs, rows, targets, weights)
    }

    /// [`Gemma::nll_and_gradient`] that keeps at most `kept_bytes` between the passes, if more than layers' inputs.
    fn nll_and_gradient_within(
        &self,
        kept_bytes: usize,
        inputs: Tensor<3>,
        rows: &[(usize, usize)],
        targets: &[u32],
        weights: &[f32],
    ) -> (Vec<f32>, Tensor<3>) {
        let shape @ [batch, tokens, hidden] = inputs.dims();
        assert!(rows.len() == targets.len() && rows.len() == weights.len(), "one target and one weight per row");
        assert!(rows.iter().all(|&(b, t)| b < batch && t < tokens), "every row lies inside the inputs");
        assert!(!self.device().is_autodiff(), "a frozen model lies on a plain device");
        if rows.is_empty() {
            return (Vec::new(), widened(inputs).zeros_like());
        }
        let mut x = self.entered(inputs.without_autodiff());
        let device = x.device();
        let tables = self.tables(tokens, &x);
        let around = |index: usize| Surroundings {
            size: (batch, tokens),
            config: &self.config,
            tables: &tables,
            sliding: self.config.sliding[index],
        };
        let bytes = Surroundings::saved_bytes(&self.config, (batch, tokens));
        let keep_all = bytes.saturating_mul(self.layers.len()) <= kept_bytes;
        let mut kept = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let input = (!keep_all).then(|| Box::new(x.clone()));
            let (output, saved) = layer.forward_plain(x, around(index));
            kept.push(input.map_or_else(|| Kept::All(Box::new(saved)), Kept::Input));
            x = output;
        }
        let at: Vec<i64> = rows.iter().map(|&(b, t)| (b * tokens + t) as i64).collect();
        let at = Tensor::<1, Int>::from_data(TensorData::new(at, [rows.len()]), &device);
        let labelled = x.select(0, at.clone());
        let (nll, gradient) = self.head_gradient(self.final_norm(labelled.clone()), targets, weights);
        let gradient = norm_backward(labelled, &self.norm.val(), self.config.norm_epsilon, gradient);
        let zeros = Tensor::zeros([batch * tokens, hidden], (&device, gradient.dtype()));
        let mut gradient = zeros.select_assign(0, at, gradient, IndexingUpdateOp::Add);
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let saved = match kept.pop() {
                Some(Kept::All(saved)) => *saved,
                Some(Kept::Input(input)) => layer.forward_plain(*input, around(index)).1,
                None => break,
            };
            gradient = layer.backward_plain(saved, gradient, around(index));
        }
        (nll, widened(gradient).reshape(shape))
    }

    /// −ln p of targets given hidden states `[rows, hidden]` after the final norm, on a plain device; no gradient.
    pub(super) fn plain_nll(&self, hidden: Tensor<2>, targets: &[u32]) -> Vec<f32> {
        let chunk = self.head_rows();
        let mut nll = Vec::with_capacity(targets.len());
        for (start, targets) in (0..).step_by(chunk).zip(targets.chunks(chunk)) {
            let logits = self.head(hidden.clone().narrow(0, start, targets.len()));
            let cap = self.config.final_softcap.map(|cap| cap as f32);
            nll.extend(host::nll(&mut into_values(logits), self.config.vocabulary, cap, targets, None));
        }
        nll
    }

    /// −ln p of the targets, and the gradient of Σ weight · nll at `hidden` `[rows, hidden]` in the model's precision.
    pub(super) fn head_gradient(&self, hidden: Tensor<2>, targets: &[u32], weights: &[f32]) -> (Vec<f32>, Tensor<2>) {
        let embedding = self.embed_tokens.val();
        let chunk = self.head_rows();
        let (mut nll, mut gradients) = (Vec::with_capacity(targets.len()), Vec::new());
        for (start, targets) in (0..).step_by(chunk).zip(targets.chunks(chunk)) {
            let weights = &weights[start..start + targets.len()];
            let logits = self.head(hidden.clone().narrow(0, start, targets.len()));
            let (part, gradient) = self.logits_gradient(logits, targets, weights);
            nll.extend(part);
            gradients.push(narrowed(gradient, embedding.dtype()).matmul(embedding.clone()));
        }
        (nll, Tensor::cat(gradients, 0))
    }

    /// −ln p of the targets, and the gradient of Σ weight · nll at the raw logits `[rows, vocabulary]`.
    fn logits_gradient(&self, logits: Tensor<2>, targets: &[u32], weights: &[f32]) -> (Vec<f32>, Tensor<2>) {
        let (shape @ [count, vocabulary], device) = (logits.dims(), logits.device());
        if is_host(&logits) {
            let cap = self.config.final_softcap.map(|cap| cap as f32);
            let mut logits = into_values(logits);
            let nll = host::nll(&mut logits, vocabulary, cap, targets, Some(weights));
            return (nll, from_values(logits, shape, &device));
        }
        let ids: Vec<i64> = targets.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [count, 1]), &device);
        let weights = from_values(weights.to_vec(), [count, 1], &device);
        // With a cap, `slope` is d capped / d raw = 1 − tanh².
        let (logits, slope) = match self.config.final_softcap {
            Some(cap) => {
                let bent = logits.div_scalar(cap).tanh();
                let slope = (bent.clone() * bent.clone()).neg().add_scalar(1.0);
                (bent.mul_scalar(cap), Some(slope))
            }
            None => (logits, None),
        };
        let largest = logits.clone().max_dim(1);
        let chosen = logits.clone().gather(1, ids.clone()) - largest.clone();
        let exponentials = (logits - largest).exp();
        let total = exponentials.clone().sum_dim(1);
        let nll = into_values(total.clone().log() - chosen);
        let softmax: Tensor<2> = exponentials * (weights.clone() / total);
        let gradient = softmax.scatter(1, ids, weights.neg(), IndexingUpdateOp::Add);
        let gradient = match slope {
            Some(slope) => gradient * slope,
            None => gradient,
        };
        (nll, gradient)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;
    use crate::models::device;
    use std::path::Path;

    #[test]
    fn running_layers_again_gives_the_same_bytes_and_half_precision_nearly_the_same() {
        let device = device::parse("cpu").expect("the default backend");
        for fixture in ["gemma2_tiny", "gemma3_tiny"] {
            let folder = Path::new("tests/fixtures").join(fixture);
            let run = |dtype: DType, kept_bytes: usize| {
                let model = Gemma::load(&folder, &device, dtype).expect("a fixture");
                let ids = Tensor::<2, Int>::from_ints([[2, 40, 300, 77, 12, 9, 88, 5, 6, 7]], &device);
                let inputs = model.rows(ids).mul_scalar(model.embedding_scale());
                let rows: Vec<(usize, usize)> = (2..9).map(|position| (0, position)).collect();
                let targets = [77, 12, 9, 88, 5, 6, 7];
                let (nll, gradient) = model.nll_and_gradient_within(kept_bytes, inputs, &rows, &targets, &[0.1; 7]);
                (nll, into_values(gradient))
            };
            let kept = run(DType::F32, usize::MAX);
            assert_eq!(kept, run(DType::F32, 0), "{fixture}");
            // bf16 takes the tensor operations, not the passes over slices.
            let half = run(DType::BF16, usize::MAX);
            let worst = kept.0.iter().zip(&half.0).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let cosine = dot(&kept.1, &half.1) / (dot(&kept.1, &kept.1) * dot(&half.1, &half.1)).sqrt();
            assert!(worst < 0.3 && cosine > 0.99, "{fixture}: bf16 nll differs by {worst}, gradient cosine {cosine}");
        }
    }
}
