//! Outputs of the model's parts on the way of one forward pass, each handed out as soon as it is there.

use std::collections::BTreeSet;

use burn::tensor::Tensor;

use super::Gemma;
use super::block::widened;
use super::modules::{Module, Part};
use super::plain::Surroundings;

/// Who wants outputs of a layer's parts.
pub(super) trait Tap {
    /// Whether this part's output is wanted.
    fn wants(&self, part: Part) -> bool;
    /// Takes an output `[batch · tokens, width]`.
    fn take(&mut self, part: Part, output: Tensor<2>);
}

/// Nobody.
pub(super) struct NoTap;

impl Tap for NoTap {
    fn wants(&self, _part: Part) -> bool {
        false
    }

    fn take(&mut self, _part: Part, _output: Tensor<2>) {}
}

/// Hands `output` to whoever wants it.
pub(super) fn tap(tap: &mut dyn Tap, part: Part, output: &Tensor<2>) {
    if tap.wants(part) {
        tap.take(part, output.clone());
    }
}

/// What [`Gemma::visit`] hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A hidden state as Hugging Face numbers them; the last one is after the final norm.
    State(usize),
    /// The output of a module.
    Of(Module),
}

struct LayerTap<'a, E> {
    layer: usize,
    size: (usize, usize),
    wanted: &'a BTreeSet<Module>,
    take: &'a mut dyn FnMut(Output, Tensor<3>) -> Result<(), E>,
    failed: Option<E>,
}

impl<E> Tap for LayerTap<'_, E> {
    fn wants(&self, part: Part) -> bool {
        self.failed.is_none() && self.wanted.contains(&Module::Layer(self.layer, part))
    }

    fn take(&mut self, part: Part, output: Tensor<2>) {
        let ((batch, tokens), width) = (self.size, output.dims()[1]);
        let output = widened(output).reshape([batch, tokens, width]);
        self.failed = (self.take)(Output::Of(Module::Layer(self.layer, part)), output).err();
    }
}

impl Gemma {
    /// One forward pass of scaled inputs `[batch, tokens, hidden]`. `take` gets every hidden state and the output of every
    /// module of `wanted` that belongs to a layer, `[batch, tokens, width]` in f32, in the order of computation; nothing is
    /// kept here, so memory is that of a plain forward pass. The hidden states are those of [`Gemma::hidden_states`].
    ///
    /// # Errors
    /// What `take` gives, after which nothing more is handed out.
    ///
    /// # Panics
    /// When the model is on an autodiff device.
    pub fn visit<E>(
        &self,
        inputs: Tensor<3>,
        wanted: &BTreeSet<Module>,
        mut take: impl FnMut(Output, Tensor<3>) -> Result<(), E>,
    ) -> Result<(), E> {
        assert!(!self.device().is_autodiff(), "a model that is looked into lies on a plain device");
        let shape @ [batch, tokens, _] = inputs.dims();
        let mut x = self.entered(inputs.without_autodiff());
        let tables = self.tables(tokens, &x);
        for (index, layer) in self.layers.iter().enumerate() {
            take(Output::State(index), widened(x.clone()).reshape(shape))?;
            let (config, sliding) = (&self.config, self.config.sliding[index]);
            let around = Surroundings { size: (batch, tokens), config, tables: &tables, sliding };
            let mut tap = LayerTap { layer: index, size: (batch, tokens), wanted, take: &mut take, failed: None };
            x = layer.forward_tapped(x, around, &mut tap).0;
            if let Some(error) = tap.failed {
                return Err(error);
            }
        }
        take(Output::State(self.layers.len()), widened(self.final_norm(x)).reshape(shape))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Int, TensorData};

    use super::super::block::{gelu_tanh, linear, rms_norm};
    use super::super::config::{GemmaConfig, Generation};
    use super::*;
    use crate::stats::random::Streams;

    fn model(generation: Generation) -> Gemma {
        let config = GemmaConfig {
            generation,
            vocabulary: 48,
            hidden: 24,
            intermediate: 40,
            heads: 4,
            key_value_heads: 2,
            head_dim: 8,
            query_pre_attn_scalar: 8.0,
            sliding: GemmaConfig::alternating(3),
            sliding_window: 4,
            ..GemmaConfig::default()
        };
        Gemma::init(
            &config,
            &Streams::new(3, "test"),
            &crate::models::device::parse("cpu").expect("the default backend"),
        )
    }

    fn close(what: &str, ours: Tensor<3>, other: Tensor<2>) {
        let values = |data: TensorData| data.try_into_vec::<f32>().expect("f32");
        let (ours, other) = (values(ours.into_data()), values(other.into_data()));
        assert_eq!(ours.len(), other.len(), "{what}");
        let off = ours.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(off < 1e-5, "{what} is off by {off:e}");
    }

    /// Every part from its formula, given the stream that enters the layer and the part before.
    #[test]
    fn every_part_gives_what_its_formula_gives() {
        for generation in [Generation::Two, Generation::Three] {
            let model = model(generation);
            let device: Device = model.device();
            let ids: Vec<i64> = vec![2, 7, 9, 11, 5, 6, 2, 8, 30, 4, 1, 0];
            let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [2, 6]), &device);
            let inputs = model.rows(ids).mul_scalar(model.embedding_scale());
            let wanted: BTreeSet<Module> =
                (0..3).flat_map(|layer| Part::ALL.map(|part| Module::Layer(layer, part))).collect();
            let (mut states, mut outputs) = (Vec::new(), std::collections::BTreeMap::new());
            let visited = model.visit(inputs.clone(), &wanted, |output, tensor| {
                match output {
                    Output::State(number) => {
                        assert_eq!(number, states.len());
                        states.push(tensor);
                    }
                    Output::Of(module) => assert!(outputs.insert(module, tensor).is_none(), "{module} came twice"),
                }
                Ok::<_, std::convert::Infallible>(())
            });
            assert!(visited.is_ok() && outputs.len() == wanted.len());
            for (state, expected) in states.iter().zip(model.hidden_states(inputs)) {
                assert_eq!(state.to_data(), expected.to_data(), "the same bytes as without taps");
            }
            for (index, layer) in model.layers.iter().enumerate() {
                let of = |part: Part| outputs[&Module::Layer(index, part)].clone();
                let flat = |tensor: Tensor<3>| {
                    let [batch, tokens, width] = tensor.dims();
                    tensor.reshape([batch * tokens, width])
                };
                let rows = |part: Part| flat(of(part));
                let norm = |x: Tensor<2>, weight: &burn::module::Param<Tensor<1>>| rms_norm(x, &weight.val(), 1e-6);
                let entered = flat(states[index].clone());
                let normed = norm(entered.clone(), &layer.input_layernorm);
                close("input norm", of(Part::InputNorm), normed.clone());
                close("query", of(Part::Query), linear(normed.clone(), &layer.q_proj));
                close("key", of(Part::Key), linear(normed.clone(), &layer.k_proj));
                close("value", of(Part::Value), linear(normed, &layer.v_proj));
                let attended = norm(rows(Part::AttentionOutput), &layer.post_attention_layernorm);
                close("post-attention norm", of(Part::PostAttentionNorm), attended.clone());
                let middle = entered + attended;
                let normed = norm(middle.clone(), &layer.pre_feedforward_layernorm);
                close("pre-feed-forward norm", of(Part::PreFeedforwardNorm), normed.clone());
                close("gate", of(Part::Gate), linear(normed.clone(), &layer.gate_proj));
                close("up", of(Part::Up), linear(normed, &layer.up_proj));
                close("activation", of(Part::Activation), gelu_tanh(rows(Part::Gate)));
                let fed = linear(rows(Part::Activation) * rows(Part::Up), &layer.down_proj);
                close("down", of(Part::Down), fed.clone());
                let fed = norm(fed, &layer.post_feedforward_layernorm);
                close("post-feed-forward norm", of(Part::PostFeedforwardNorm), fed.clone());
                close("block", of(Part::Block), middle + fed);
                if index + 1 < model.layers.len() {
                    assert_eq!(of(Part::Block).to_data(), states[index + 1].to_data());
                }
            }
            assert_eq!(states[0].dtype(), DType::F32);
        }
    }

    #[test]
    fn an_error_ends_the_pass() {
        let model = model(Generation::Two);
        let inputs = Tensor::<3>::ones([1, 3, 24], &model.device());
        let wanted = BTreeSet::from([Module::Layer(0, Part::Value), Module::Layer(0, Part::Up)]);
        let mut seen = 0;
        let result = model.visit(inputs, &wanted, |output, _| {
            seen += 1;
            if matches!(output, Output::Of(_)) { Err("enough") } else { Ok(()) }
        });
        assert_eq!((result, seen), (Err("enough"), 2));
    }
}
