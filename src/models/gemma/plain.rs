//! A layer without a tape: forward with what its backward pass needs, and the gradient at its input.
//!
//! A frozen model needs no gradients of weights, so the backward pass is written by hand: the same matrix products
//! transposed, and elementwise parts in closed form. It needs no autodiff device and nothing is recomputed. On the CPU
//! backend in f32 the elementwise parts are single passes (`host.rs`); elsewhere they are tensor operations.

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::block::{Layer, LayerTables, Tables, linear, narrowed, rms_norm, widened};
use super::config::GemmaConfig;
use super::host;
use super::modules::Part;
use super::taps::{NoTap, Tap, tap};

/// What the backward pass of one layer needs of its forward pass. Shapes in `[…]`; N = batch · tokens.
pub(super) struct Saved {
    /// Input `[N, hidden]`.
    input: Tensor<2>,
    /// Queries and keys before their norms `[N · heads, head_dim]`, if the generation has such norms.
    unnormed: Option<(Tensor<2>, Tensor<2>)>,
    /// Turned queries and keys, values: `[batch, key_value_heads, …, head_dim]`.
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    /// tanh of the scores (if capped) and attention weights `[batch · heads, tokens, tokens]`.
    bent: Option<Tensor<3>>,
    pub(super) weights: Tensor<3>,
    /// Attention's result before its norm, the stream after it, gate, up, and the feed-forward result before its norm.
    attended: Tensor<2>,
    middle: Tensor<2>,
    gate: Tensor<2>,
    up: Tensor<2>,
    fed: Tensor<2>,
}

/// The surroundings of a layer: batch and tokens, the model's shape, tables, and whether the layer slides.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub size: (usize, usize),
    pub config: &'a GemmaConfig,
    pub tables: &'a Tables,
    pub sliding: bool,
}

impl Surroundings<'_> {
    fn layer(&self) -> &LayerTables {
        if self.sliding { &self.tables.sliding } else { &self.tables.full }
    }

    /// Bytes of f32 that [`Saved`] holds per layer.
    pub(super) fn saved_bytes(config: &GemmaConfig, (batch, tokens): (usize, usize)) -> usize {
        let heads = 2 * config.heads * config.head_dim + 4 * config.key_value_heads * config.head_dim;
        let row = 4 * config.hidden + heads + 2 * config.intermediate + 2 * config.heads * tokens;
        4 * batch * tokens * row
    }
}

/// Whether tensors of this kind are f32 slices of the CPU backend.
fn on_host(device: &Device, dtype: DType) -> bool {
    #[cfg(feature = "cpu")]
    return dtype == DType::F32 && *device == Device::flex() && !device.is_autodiff();
    #[cfg(not(feature = "cpu"))]
    {
        let _ = (device, dtype);
        false
    }
}

pub(super) fn is_host<const D: usize>(x: &Tensor<D>) -> bool {
    on_host(&x.device(), x.dtype())
}

/// The values of an f32 tensor; no copy where nothing else holds it.
pub(super) fn into_values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().expect("the tensor is f32, by the check before")
}

/// The way back, without a copy on the CPU backend.
pub(super) fn from_values<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

impl Layer {
    /// The layer on rows `[N, hidden]`, and what its backward pass needs.
    pub(super) fn forward_plain(&self, x: Tensor<2>, around: Surroundings) -> (Tensor<2>, Saved) {
        self.forward_tapped(x, around, &mut NoTap)
    }

    /// [`Layer::forward_plain`] that hands outputs of its parts to `taps`.
    pub(super) fn forward_tapped(&self, x: Tensor<2>, around: Surroundings, taps: &mut dyn Tap) -> (Tensor<2>, Saved) {
        let Surroundings { size: (batch, tokens), config, .. } = around;
        let (heads, groups, width) = (config.heads, config.key_value_heads, config.head_dim);
        let epsilon = config.norm_epsilon;
        let layer = around.layer();
        let (normed, input) = norm(x, &self.input_layernorm.val(), epsilon);
        let query = linear(normed.clone(), &self.q_proj);
        let key = linear(normed.clone(), &self.k_proj);
        tap(taps, Part::InputNorm, &normed);
        let value = linear(normed, &self.v_proj);
        tap(taps, Part::Query, &query);
        tap(taps, Part::Key, &key);
        tap(taps, Part::Value, &value);
        let (query, key, unnormed) = match (&self.q_norm, &self.k_norm) {
            (Some(q_norm), Some(k_norm)) => {
                let narrow = |rows: Tensor<2>, count: usize| rows.reshape([batch * tokens * count, width]);
                let (query, q) = norm(narrow(query, heads), &q_norm.val(), epsilon);
                let (key, k) = norm(narrow(key, groups), &k_norm.val(), epsilon);
                (query, key, Some((q, k)))
            }
            _ => (query, key, None),
        };
        let query = split(query, (batch, tokens, heads, width), Some((layer, true)));
        let key = split(key, (batch, tokens, groups, width), Some((layer, false)));
        let value = split(value, (batch, tokens, groups, width), None);
        let query = query.reshape([batch, groups, heads / groups * tokens, width]);
        let scores = query.clone().matmul(key.clone().swap_dims(2, 3)).reshape([batch * heads, tokens, tokens]);
        let (weights, bent) = attention_weights(scores, layer, config.attention_softcap);
        let stacked = weights.clone().reshape([batch, groups, heads / groups * tokens, tokens]);
        let mixed = stacked.matmul(value.clone()).reshape([batch, heads, tokens, width]);
        let attended = linear(join(mixed, (batch, tokens, heads, width), None), &self.o_proj);
        tap(taps, Part::AttentionOutput, &attended);
        let (normed, attended) = norm(attended, &self.post_attention_layernorm.val(), epsilon);
        tap(taps, Part::PostAttentionNorm, &normed);
        let middle = normed + input.clone();
        let (normed, middle) = norm(middle, &self.pre_feedforward_layernorm.val(), epsilon);
        tap(taps, Part::PreFeedforwardNorm, &normed);
        let gate = linear(normed.clone(), &self.gate_proj);
        let up = linear(normed, &self.up_proj);
        tap(taps, Part::Gate, &gate);
        if taps.wants(Part::Activation) {
            taps.take(Part::Activation, super::block::gelu_tanh(gate.clone()));
        }
        tap(taps, Part::Up, &up);
        let (inner, gate, up) = geglu(gate, up);
        let fed = linear(inner, &self.down_proj);
        tap(taps, Part::Down, &fed);
        let (normed, fed) = norm(fed, &self.post_feedforward_layernorm.val(), epsilon);
        tap(taps, Part::PostFeedforwardNorm, &normed);
        let output = normed + middle.clone();
        tap(taps, Part::Block, &output);
        let saved = Saved { input, unnormed, query, key, value, bent, weights, attended, middle, gate, up, fed };
        (output, saved)
    }

    /// The gradient at the layer's input, given the one at its output.
    pub(super) fn backward_plain(&self, saved: Saved, gradient: Tensor<2>, around: Surroundings) -> Tensor<2> {
        let Surroundings { size: (batch, tokens), config, .. } = around;
        let (heads, groups, width) = (config.heads, config.key_value_heads, config.head_dim);
        let epsilon = config.norm_epsilon;
        let layer = around.layer();
        // Feed-forward half.
        let inner = norm_backward(saved.fed, &self.post_feedforward_layernorm.val(), epsilon, gradient.clone());
        let (gate, up) = geglu_backward(saved.gate, saved.up, inner.matmul(self.down_proj.val()));
        let inner = gate.matmul(self.gate_proj.val()) + up.matmul(self.up_proj.val());
        let inner = norm_backward(saved.middle, &self.pre_feedforward_layernorm.val(), epsilon, inner);
        let gradient = gradient + inner;
        // Attention half.
        let inner = norm_backward(saved.attended, &self.post_attention_layernorm.val(), epsilon, gradient.clone());
        let mixed = split(inner.matmul(self.o_proj.val()), (batch, tokens, heads, width), None);
        let mixed = mixed.reshape([batch, groups, heads / groups * tokens, width]);
        let stacked = [batch, groups, heads / groups * tokens, tokens];
        let value = saved.weights.clone().reshape(stacked).swap_dims(2, 3).matmul(mixed.clone());
        let at_weights = mixed.matmul(saved.value.swap_dims(2, 3)).reshape([batch * heads, tokens, tokens]);
        let cap = config.attention_softcap;
        let scores = attention_weights_backward(saved.weights, saved.bent, layer, cap, at_weights).reshape(stacked);
        let key = scores.clone().swap_dims(2, 3).matmul(saved.query);
        let query = scores.matmul(saved.key).reshape([batch, heads, tokens, width]);
        let mut query = join(query, (batch, tokens, heads, width), Some((layer, true)));
        let mut key = join(key, (batch, tokens, groups, width), Some((layer, false)));
        let value = join(value, (batch, tokens, groups, width), None);
        if let (Some((q, k)), Some(q_norm), Some(k_norm)) = (saved.unnormed, &self.q_norm, &self.k_norm) {
            let (q_shape, k_shape) = (q.dims(), k.dims());
            let (q_rows, k_rows) = (query.dims(), key.dims());
            query = norm_backward(q, &q_norm.val(), epsilon, query.reshape(q_shape)).reshape(q_rows);
            key = norm_backward(k, &k_norm.val(), epsilon, key.reshape(k_shape)).reshape(k_rows);
        }
        let inner = query.matmul(self.q_proj.val()) + key.matmul(self.k_proj.val()) + value.matmul(self.v_proj.val());
        gradient + norm_backward(saved.input, &self.input_layernorm.val(), epsilon, inner)
    }
}

/// `(normed, x)` with the norm's weight `[width]` (the factor is 1 + weight).
fn norm(x: Tensor<2>, weight: &Tensor<1>, epsilon: f64) -> (Tensor<2>, Tensor<2>) {
    if !is_host(&x) {
        return (rms_norm(x.clone(), weight, epsilon), x);
    }
    let (shape, device) = (x.dims(), x.device());
    let gain = into_values(weight.clone().add_scalar(1.0));
    let x = into_values(x);
    let normed = host::rms_norm(&x, &gain, epsilon as f32);
    (from_values(normed, shape, &device), from_values(x, shape, &device))
}

pub(super) fn norm_backward(x: Tensor<2>, weight: &Tensor<1>, epsilon: f64, gradient: Tensor<2>) -> Tensor<2> {
    if is_host(&x) {
        let (shape, device) = (x.dims(), x.device());
        let gain = into_values(weight.clone().add_scalar(1.0));
        let mut gradient = into_values(gradient);
        host::rms_norm_backward(&into_values(x), &gain, epsilon as f32, &mut gradient);
        return from_values(gradient, shape, &device);
    }
    let dtype = x.dtype();
    let (x, gradient) = (widened(x), widened(gradient));
    let scale = (x.clone() * x.clone()).mean_dim(1).add_scalar(epsilon).sqrt().recip();
    let gradient = gradient * widened(weight.clone().unsqueeze::<2>()).add_scalar(1.0);
    let along = (gradient.clone() * x.clone()).mean_dim(1) * scale.clone() * scale.clone() * scale.clone();
    narrowed(gradient * scale - x * along, dtype)
}

/// `(gelu(gate) · up, gate, up)`.
fn geglu(gate: Tensor<2>, up: Tensor<2>) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
    if !is_host(&gate) {
        return (super::block::gelu_tanh(gate.clone()) * up.clone(), gate, up);
    }
    let (shape, device) = (gate.dims(), gate.device());
    let (gate, up) = (into_values(gate), into_values(up));
    let made = |values| from_values(values, shape, &device);
    (made(host::geglu(&gate, &up)), made(gate), made(up))
}

fn geglu_backward(gate: Tensor<2>, up: Tensor<2>, gradient: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    if is_host(&gate) {
        let (shape, device) = (gate.dims(), gate.device());
        let (mut gate, mut up) = (into_values(gate), into_values(up));
        host::geglu_backward(&mut gate, &mut up, &into_values(gradient));
        return (from_values(gate, shape, &device), from_values(up, shape, &device));
    }
    let (bend, cube) = super::block::gelu_factors();
    let square = gate.clone() * gate.clone();
    let part = sigmoid(square.clone().mul_scalar(cube).add_scalar(bend) * gate.clone());
    let rest = part.clone().neg().add_scalar(1.0);
    let slope = part.clone() + gate.clone() * part.clone() * rest * square.mul_scalar(3.0 * cube).add_scalar(bend);
    (gradient.clone() * up * slope, gradient * gate * part)
}

type HeadShape = (usize, usize, usize, usize);

/// Rows `[batch · tokens, heads · width]` as heads `[batch, heads, tokens, width]`; with tables, turned by the rotary
/// factors of queries (`true`, which carry the score scale) or keys.
fn split(rows: Tensor<2>, (batch, tokens, heads, width): HeadShape, turned: Option<(&LayerTables, bool)>) -> Tensor<4> {
    let shape = [batch, heads, tokens, width];
    if is_host(&rows) {
        let device = rows.device();
        let factors = turned.map(|(layer, query)| layer.host_factors(query));
        let values = host::split_heads(&into_values(rows), (tokens, heads, width), factors);
        return from_values(values, shape, &device);
    }
    let split = rows.reshape([batch, tokens, heads, width]).swap_dims(1, 2);
    match turned {
        Some((layer, query)) => layer.turned(split.reshape([batch * heads, tokens, width]), query).reshape(shape),
        None => split,
    }
}

/// The gradient of [`split`]; without tables its inverse.
fn join(
    heads_in: Tensor<4>,
    (batch, tokens, heads, width): HeadShape,
    turned: Option<(&LayerTables, bool)>,
) -> Tensor<2> {
    let shape = [batch * tokens, heads * width];
    if is_host(&heads_in) {
        let device = heads_in.device();
        let factors = turned.map(|(layer, query)| layer.host_factors(query));
        let values = host::join_heads(&into_values(heads_in), (tokens, heads, width), factors);
        return from_values(values, shape, &device);
    }
    let heads_in = match turned {
        Some((layer, query)) => {
            let back = layer.turned_back(heads_in.reshape([batch * heads, tokens, width]), query);
            back.reshape([batch, heads, tokens, width])
        }
        None => heads_in,
    };
    heads_in.swap_dims(1, 2).reshape(shape)
}

/// `(weights, tanh(scores) if capped)` of raw scores `[batch · heads, tokens, tokens]`.
fn attention_weights(scores: Tensor<3>, layer: &LayerTables, cap: Option<f64>) -> (Tensor<3>, Option<Tensor<3>>) {
    if is_host(&scores) {
        let (shape, device) = (scores.dims(), scores.device());
        let mut scores = into_values(scores);
        let weights = host::attention_weights(&mut scores, shape[1], layer.window, cap.map(|cap| cap as f32));
        let bent = cap.map(|_| from_values(scores, shape, &device));
        return (from_values(weights, shape, &device), bent);
    }
    let dtype = scores.dtype();
    let scores = widened(scores);
    let (scores, bent) = match cap {
        Some(cap) => {
            let bent = scores.tanh();
            (bent.clone().mul_scalar(cap), Some(bent))
        }
        None => (scores, None),
    };
    (narrowed(softmax(scores + layer.mask.clone(), 2), dtype), bent)
}

fn attention_weights_backward(
    weights: Tensor<3>,
    bent: Option<Tensor<3>>,
    layer: &LayerTables,
    cap: Option<f64>,
    gradient: Tensor<3>,
) -> Tensor<3> {
    if is_host(&gradient) {
        let (shape, device) = (gradient.dims(), gradient.device());
        let mut gradient = into_values(gradient);
        let bent = bent.map(into_values);
        let bent = bent.as_deref().zip(cap.map(|cap| cap as f32));
        host::attention_weights_backward(&into_values(weights), bent, shape[1], layer.window, &mut gradient);
        return from_values(gradient, shape, &device);
    }
    let dtype = gradient.dtype();
    let (weights, gradient) = (widened(weights), widened(gradient));
    let mean = (weights.clone() * gradient.clone()).sum_dim(2);
    let gradient = weights * (gradient - mean);
    let gradient = match (bent, cap) {
        (Some(bent), Some(cap)) => gradient * (bent.clone() * bent).neg().add_scalar(1.0).mul_scalar(cap),
        _ => gradient,
    };
    narrowed(gradient, dtype)
}
