//! One layer of Gemma: norms, rotary positions, attention and the gated feed-forward layer.
//!
//! Everything is written with elementary tensor operations, the same on every backend and under autodiff. Burn's own
//! attention is not used: on LibTorch it drops soft caps and inverts masks, and on CUDA soft caps take its slow path
//! anyway. Rows are flat, `[batch · tokens, hidden]`, so that every projection is one matrix product.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, Param};
use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::config::{GemmaConfig, Generation};

/// `x · rsqrt(mean(x²) + ε) · (1 + w)` over the last dimension, in f32: `x` is `[rows, width]`, `weight` `[width]`.
pub(super) fn rms_norm(x: Tensor<2>, weight: &Tensor<1>, epsilon: f64) -> Tensor<2> {
    let dtype = x.dtype();
    let x = widened(x);
    let scale = (x.clone() * x.clone()).mean_dim(1).add_scalar(epsilon).sqrt().recip();
    let gain = widened(weight.clone().unsqueeze::<2>()).add_scalar(1.0);
    narrowed((x * scale) * gain, dtype)
}

/// The tanh approximation of GELU, as `x · σ(2 √(2/π) (x + 0.044715 x³))`: the same function in one transcendental.
pub(super) fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    let (bend, cube) = gelu_factors();
    let square = x.clone() * x.clone();
    let inner = square.mul_scalar(cube).add_scalar(bend) * x.clone();
    x * sigmoid(inner)
}

/// The factors of x and x³ inside the sigmoid of [`gelu_tanh`].
pub(super) fn gelu_factors() -> (f64, f64) {
    let bend = (2.0 / std::f64::consts::PI).sqrt() * 2.0;
    (bend, 0.044_715 * bend)
}

/// `x · wᵀ` for `x` `[rows, input]` and `w` `[output, input]` as stored.
pub(super) fn linear(x: Tensor<2>, weight: &Param<Tensor<2>>) -> Tensor<2> {
    x.matmul(weight.val().transpose())
}

/// f32 for the parts that half precision would spoil; nothing happens to f32.
pub(super) fn widened<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    narrowed(x, DType::F32)
}

/// `x` as `dtype`; nothing happens if it is that already.
pub(super) fn narrowed<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// What the layers of one sequence length need beside their weights, made once and kept.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) full: LayerTables,
    pub(super) sliding: LayerTables,
}

/// Rotary factors of queries (which carry the score scale) and keys, and who sees whom.
#[derive(Clone, Debug)]
pub(super) struct LayerTables {
    query: Rotary,
    key: Rotary,
    /// Added to scores: `[1, tokens, tokens]`.
    pub(super) mask: Tensor<3>,
    /// The same as a number: a query sees this many keys, its own the last.
    pub(super) window: usize,
    /// `[1, 0]`: swaps the halves of a head.
    swap: Tensor<1, Int>,
}

/// cos and signed sin of the rotary positions, half-split: `[1, tokens, head_dim]`. The first half of the sines is
/// negative, so that `x · cos + swapped(x) · sin` turns each pair.
#[derive(Clone, Debug)]
struct Rotary {
    cos: Tensor<3>,
    sin: Tensor<3>,
    host: Arc<(Vec<f32>, Vec<f32>)>,
}

/// Added to scores that must not be seen; far below every score, and finite, so that no backend makes NaN of it.
const HIDDEN: f32 = -1e9;

impl Tables {
    fn new(config: &GemmaConfig, tokens: usize, device: &Device, dtype: DType) -> Self {
        let scale = config.query_pre_attn_scalar.powf(-0.5) / config.attention_softcap.unwrap_or(1.0);
        let layer = |theta: f64, window: usize| {
            let mut mask = vec![0f32; tokens * tokens];
            for (query, row) in mask.chunks_exact_mut(tokens).enumerate() {
                let seen = (query + 1).saturating_sub(window)..=query;
                row.iter_mut().enumerate().filter(|(key, _)| !seen.contains(key)).for_each(|(_, cell)| *cell = HIDDEN);
            }
            LayerTables {
                query: Rotary::new(config.head_dim, theta, tokens, scale, device, dtype),
                key: Rotary::new(config.head_dim, theta, tokens, 1.0, device, dtype),
                mask: Tensor::from_data(TensorData::new(mask, [1, tokens, tokens]), (device, DType::F32)),
                window,
                swap: Tensor::from_ints([1, 0], device),
            }
        };
        let full = layer(config.rope_theta, tokens);
        let same = config.rope_theta == config.rope_local_theta && config.sliding_window >= tokens;
        let sliding = if same { full.clone() } else { layer(config.rope_local_theta, config.sliding_window) };
        Self { full, sliding }
    }
}

impl Rotary {
    fn new(head_dim: usize, theta: f64, tokens: usize, scale: f64, device: &Device, dtype: DType) -> Self {
        let half = head_dim / 2;
        let mut cos = vec![0f32; tokens * head_dim];
        let mut sin = vec![0f32; tokens * head_dim];
        for position in 0..tokens {
            for pair in 0..half {
                // The angle is formed in f32, as in transformers; at large positions its rounding shows.
                let frequency = (1.0 / theta.powf(2.0 * pair as f64 / head_dim as f64)) as f32;
                let angle = f64::from(position as f32 * frequency);
                let at = position * head_dim + pair;
                (cos[at], cos[at + half]) = ((angle.cos() * scale) as f32, (angle.cos() * scale) as f32);
                (sin[at], sin[at + half]) = ((-angle.sin() * scale) as f32, (angle.sin() * scale) as f32);
            }
        }
        let table = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [1, tokens, head_dim]);
            narrowed(Tensor::from_data(data, (device, DType::F32)), dtype)
        };
        Self { cos: table(&cos), sin: table(&sin), host: Arc::new((cos, sin)) }
    }
}

impl LayerTables {
    fn rotary(&self, query: bool) -> &Rotary {
        if query { &self.query } else { &self.key }
    }

    /// cos and sin `[tokens, head_dim]` of queries or keys.
    pub(super) fn host_factors(&self, query: bool) -> (&[f32], &[f32]) {
        let (cos, sin) = &*self.rotary(query).host;
        (cos, sin)
    }

    /// Heads `[any, tokens, head_dim]` turned by their positions.
    pub(super) fn turned(&self, x: Tensor<3>, query: bool) -> Tensor<3> {
        let rotary = self.rotary(query);
        x.clone() * rotary.cos.clone() + self.swapped(x) * rotary.sin.clone()
    }

    /// The transpose of [`LayerTables::turned`].
    pub(super) fn turned_back(&self, x: Tensor<3>, query: bool) -> Tensor<3> {
        let rotary = self.rotary(query);
        x.clone() * rotary.cos.clone() + self.swapped(x * rotary.sin.clone())
    }

    fn swapped(&self, x: Tensor<3>) -> Tensor<3> {
        let shape @ [any, tokens, width] = x.dims();
        x.reshape([any * tokens, 2, width / 2]).select(1, self.swap.clone()).reshape(shape)
    }
}

/// A few tables by sequence length; shared by the clones of a model.
#[derive(Clone, Default)]
pub(super) struct TableCache(Arc<Mutex<Vec<CachedTables>>>);

type CachedTables = (usize, Device, DType, Arc<Tables>);

impl TableCache {
    /// Lengths that are kept; batches of many more lengths make their tables anew.
    const KEPT: usize = 64;

    /// The tables for `tokens` positions on `device` (without autodiff: tables are constants).
    pub(super) fn get(&self, config: &GemmaConfig, tokens: usize, device: &Device, dtype: DType) -> Arc<Tables> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(t, d, p, _): &&CachedTables| *t == tokens && d == device && *p == dtype;
        if let Some((_, _, _, tables)) = kept.iter().find(same) {
            return tables.clone();
        }
        let plain = device.clone().without_autodiff();
        let tables = Arc::new(Tables::new(config, tokens, &plain, dtype));
        if kept.len() == Self::KEPT {
            kept.remove(0);
        }
        kept.push((tokens, plain, dtype, tables.clone()));
        tables
    }
}

impl std::fmt::Debug for TableCache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TableCache")
    }
}

/// The weights of one layer, under Hugging Face's names and in its layout (`[output, input]`).
#[derive(Module, Debug)]
pub struct Layer {
    pub(super) input_layernorm: Param<Tensor<1>>,
    pub(super) q_proj: Param<Tensor<2>>,
    pub(super) k_proj: Param<Tensor<2>>,
    pub(super) v_proj: Param<Tensor<2>>,
    pub(super) o_proj: Param<Tensor<2>>,
    pub(super) q_norm: Option<Param<Tensor<1>>>,
    pub(super) k_norm: Option<Param<Tensor<1>>>,
    pub(super) post_attention_layernorm: Param<Tensor<1>>,
    pub(super) pre_feedforward_layernorm: Param<Tensor<1>>,
    pub(super) gate_proj: Param<Tensor<2>>,
    pub(super) up_proj: Param<Tensor<2>>,
    pub(super) down_proj: Param<Tensor<2>>,
    pub(super) post_feedforward_layernorm: Param<Tensor<1>>,
}

/// Where a weight of a layer lies in the checkpoint (below `model.layers.N.`) and its shape.
pub(super) fn layer_weights(config: &GemmaConfig) -> Vec<(&'static str, Vec<usize>)> {
    let queries = config.heads * config.head_dim;
    let keys = config.key_value_heads * config.head_dim;
    let mut weights = vec![
        ("input_layernorm.weight", vec![config.hidden]),
        ("self_attn.q_proj.weight", vec![queries, config.hidden]),
        ("self_attn.k_proj.weight", vec![keys, config.hidden]),
        ("self_attn.v_proj.weight", vec![keys, config.hidden]),
        ("self_attn.o_proj.weight", vec![config.hidden, queries]),
        ("post_attention_layernorm.weight", vec![config.hidden]),
        ("pre_feedforward_layernorm.weight", vec![config.hidden]),
        ("mlp.gate_proj.weight", vec![config.intermediate, config.hidden]),
        ("mlp.up_proj.weight", vec![config.intermediate, config.hidden]),
        ("mlp.down_proj.weight", vec![config.hidden, config.intermediate]),
        ("post_feedforward_layernorm.weight", vec![config.hidden]),
    ];
    if config.generation == Generation::Three {
        weights.push(("self_attn.q_norm.weight", vec![config.head_dim]));
        weights.push(("self_attn.k_norm.weight", vec![config.head_dim]));
    }
    weights
}

/// A weight as a parameter on `device`.
pub(super) fn parameter<const D: usize>(data: TensorData, device: &Device, dtype: DType) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(data, (device, dtype)))
}

impl Layer {
    /// Makes the layer of `data(name, shape)`, with the names of [`layer_weights`].
    pub(super) fn build<E>(
        config: &GemmaConfig,
        mut data: impl FnMut(&str, &[usize]) -> Result<TensorData, E>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, E> {
        let shapes = layer_weights(config);
        let mut get = |name: &str| {
            let found = shapes.iter().find(|(known, _)| *known == name);
            found.map(|(_, shape)| data(name, shape)).transpose()
        };
        macro_rules! weight {
            ($name:literal) => {
                get($name)?.map(|data| parameter(data, device, dtype))
            };
        }
        const LISTED: &str = "`layer_weights` lists every weight of both generations";
        Ok(Self {
            input_layernorm: weight!("input_layernorm.weight").expect(LISTED),
            q_proj: weight!("self_attn.q_proj.weight").expect(LISTED),
            k_proj: weight!("self_attn.k_proj.weight").expect(LISTED),
            v_proj: weight!("self_attn.v_proj.weight").expect(LISTED),
            o_proj: weight!("self_attn.o_proj.weight").expect(LISTED),
            q_norm: weight!("self_attn.q_norm.weight"),
            k_norm: weight!("self_attn.k_norm.weight"),
            post_attention_layernorm: weight!("post_attention_layernorm.weight").expect(LISTED),
            pre_feedforward_layernorm: weight!("pre_feedforward_layernorm.weight").expect(LISTED),
            gate_proj: weight!("mlp.gate_proj.weight").expect(LISTED),
            up_proj: weight!("mlp.up_proj.weight").expect(LISTED),
            down_proj: weight!("mlp.down_proj.weight").expect(LISTED),
            post_feedforward_layernorm: weight!("post_feedforward_layernorm.weight").expect(LISTED),
        })
    }

    /// The weights by their names in the checkpoint.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&'static str, TensorData)> {
        let vectors = [
            ("input_layernorm.weight", Some(&self.input_layernorm)),
            ("self_attn.q_norm.weight", self.q_norm.as_ref()),
            ("self_attn.k_norm.weight", self.k_norm.as_ref()),
            ("post_attention_layernorm.weight", Some(&self.post_attention_layernorm)),
            ("pre_feedforward_layernorm.weight", Some(&self.pre_feedforward_layernorm)),
            ("post_feedforward_layernorm.weight", Some(&self.post_feedforward_layernorm)),
        ];
        let matrices = [
            ("self_attn.q_proj.weight", &self.q_proj),
            ("self_attn.k_proj.weight", &self.k_proj),
            ("self_attn.v_proj.weight", &self.v_proj),
            ("self_attn.o_proj.weight", &self.o_proj),
            ("mlp.gate_proj.weight", &self.gate_proj),
            ("mlp.up_proj.weight", &self.up_proj),
            ("mlp.down_proj.weight", &self.down_proj),
        ];
        let vectors = vectors.into_iter().filter_map(|(name, weight)| Some((name, weight?.val().into_data())));
        vectors.chain(matrices.into_iter().map(|(name, weight)| (name, weight.val().into_data())))
    }

    /// The layer on rows `[batch · tokens, hidden]`; `size` is (batch, tokens).
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        size: (usize, usize),
        config: &GemmaConfig,
        tables: &Tables,
        sliding: bool,
    ) -> Tensor<2> {
        let epsilon = config.norm_epsilon;
        let attended = rms_norm(x.clone(), &self.input_layernorm.val(), epsilon);
        let attended = self.attention(attended, size, config, tables, sliding);
        let x = x + rms_norm(attended, &self.post_attention_layernorm.val(), epsilon);
        let inner = rms_norm(x.clone(), &self.pre_feedforward_layernorm.val(), epsilon);
        let gate = gelu_tanh(linear(inner.clone(), &self.gate_proj));
        let inner = linear(gate * linear(inner, &self.up_proj), &self.down_proj);
        x + rms_norm(inner, &self.post_feedforward_layernorm.val(), epsilon)
    }

    fn attention(
        &self,
        x: Tensor<2>,
        (batch, tokens): (usize, usize),
        config: &GemmaConfig,
        tables: &Tables,
        sliding: bool,
    ) -> Tensor<2> {
        let (heads, groups, width) = (config.heads, config.key_value_heads, config.head_dim);
        let shared = heads / groups;
        let layer = if sliding { &tables.sliding } else { &tables.full };
        let normed = |rows: Tensor<2>, count: usize, norm: &Option<Param<Tensor<1>>>| match norm {
            Some(norm) => rms_norm(rows.reshape([batch * tokens * count, width]), &norm.val(), config.norm_epsilon),
            None => rows,
        };
        let split = |rows: Tensor<2>, count: usize| rows.reshape([batch, tokens, count, width]).swap_dims(1, 2);
        let turned = |rows: Tensor<2>, count: usize, query: bool| {
            layer.turned(split(rows, count).reshape([batch * count, tokens, width]), query)
        };
        let query = normed(linear(x.clone(), &self.q_proj), heads, &self.q_norm);
        let key = normed(linear(x.clone(), &self.k_proj), groups, &self.k_norm);
        let value = split(linear(x, &self.v_proj), groups);
        // Queries that share a key head are stacked as more rows of one product, so that keys are never copied.
        let query = turned(query, heads, true).reshape([batch, groups, shared * tokens, width]);
        let key = turned(key, groups, false).reshape([batch, groups, tokens, width]);
        let dtype = value.dtype();
        let scores = widened(query.matmul(key.swap_dims(2, 3)));
        let scores = match config.attention_softcap {
            Some(cap) => scores.tanh().mul_scalar(cap),
            None => scores,
        };
        let scores = scores.reshape([batch * heads, tokens, tokens]) + layer.mask.clone();
        let weights = narrowed(softmax(scores, 2), dtype).reshape([batch, groups, shared * tokens, tokens]);
        let mixed = weights.matmul(value).reshape([batch, heads, tokens, width]);
        linear(mixed.swap_dims(1, 2).reshape([batch * tokens, heads * width]), &self.o_proj)
    }
}
