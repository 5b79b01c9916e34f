//! Gemma 2 and Gemma 3 (text), after Hugging Face transformers' modelling files with eager attention.
//!
//! Inputs are vectors, not token ids, because social tokens enter between the embedding and the first layer:
//! `rows(ids) · embedding_scale()` gives what the model makes of ids. Attention soft caps are always applied.
//! Right padding is harmless: attention is causal, so no position sees what stands after it.

mod adapted;
mod block;
mod config;
mod frozen;
mod host;
mod look;
pub mod modules;
mod plain;
mod taps;

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::models::checkpoint::{self, Checkpoint, CheckpointError, Expected};
use crate::stats::random::Streams;
use block::{Layer, TableCache, layer_weights, narrowed, rms_norm, widened};
pub use config::{GemmaConfig, Generation};
pub use taps::Output;

/// Logits that are held at once by the vocabulary head: 64 MiB of f32.
const HEAD_ELEMENTS: usize = 1 << 24;

/// A Gemma language model. Its weights keep their precision (f32, f16 or bf16); norms, softmax, logits and everything
/// handed out are f32.
#[derive(Module, Debug)]
pub struct Gemma {
    embed_tokens: Param<Tensor<2>>,
    layers: Vec<Layer>,
    norm: Param<Tensor<1>>,
    #[module(skip)]
    config: GemmaConfig,
    #[module(skip)]
    tables: TableCache,
}

impl Gemma {
    /// A model with random weights: normal with `initializer_range`, norms at a factor of one. Each weight is drawn
    /// from the stream of its own name, so that a shape changed elsewhere changes nothing here.
    pub fn init(config: &GemmaConfig, streams: &Streams, device: &Device) -> Self {
        let drawn = |name: &str, shape: &[usize]| {
            let count = shape.iter().product();
            let values = match shape {
                [_] => vec![0.0; count],
                _ => streams.named(name).normals(count, config.initializer_range),
            };
            Ok::<_, std::convert::Infallible>(TensorData::new(values, shape.to_vec()))
        };
        match Self::build(config, drawn, device, DType::F32) {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }

    /// Reads a Hugging Face folder (`config.json` and `model.safetensors` or shards with their index).
    ///
    /// # Errors
    /// Another architecture, or tensors that are not exactly those of the configuration.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<Self, CheckpointError> {
        let config = GemmaConfig::read(folder)?;
        let checkpoint = Checkpoint::open(folder)?;
        checkpoint.check(&Self::weights(&config), &[])?;
        Self::build(&config, |name, _| checkpoint.data(name, dtype), device, dtype)
    }

    /// Writes `config.json` and `model.safetensors`, which transformers reads.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join("config.json");
        let text = format!("{:#}\n", self.config.to_json());
        std::fs::write(&path, text).map_err(CheckpointError::io(&path))?;
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), self.embed_tokens.val().into_data()),
            ("model.norm.weight".to_owned(), self.norm.val().into_data()),
        ];
        for (index, layer) in self.layers.iter().enumerate() {
            tensors.extend(layer.tensors().map(|(name, data)| (format!("model.layers.{index}.{name}"), data)));
        }
        checkpoint::save(&folder.join("model.safetensors"), tensors)
    }

    /// The names in the checkpoint and the shapes of all weights.
    pub fn weights(config: &GemmaConfig) -> Vec<Expected> {
        let mut weights = vec![
            ("model.embed_tokens.weight".to_owned(), vec![config.vocabulary, config.hidden]),
            ("model.norm.weight".to_owned(), vec![config.hidden]),
        ];
        for layer in 0..config.layers() {
            let names = layer_weights(config).into_iter();
            weights.extend(names.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
        }
        weights
    }

    fn build<E>(
        config: &GemmaConfig,
        mut data: impl FnMut(&str, &[usize]) -> Result<TensorData, E>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, E> {
        let (vocabulary, hidden) = (config.vocabulary, config.hidden);
        let embed = data("model.embed_tokens.weight", &[vocabulary, hidden])?;
        let norm = data("model.norm.weight", &[hidden])?;
        let layers = (0..config.layers()).map(|layer| {
            let prefix = format!("model.layers.{layer}.");
            Layer::build(config, |name, shape| data(&format!("{prefix}{name}"), shape), device, dtype)
        });
        Ok(Self {
            layers: layers.collect::<Result<_, E>>()?,
            embed_tokens: block::parameter(embed, device, dtype),
            norm: block::parameter(norm, device, dtype),
            config: config.clone(),
            tables: TableCache::default(),
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &GemmaConfig {
        &self.config
    }

    /// Where the weights lie.
    pub fn device(&self) -> Device {
        self.norm.val().device()
    }

    /// The embedding matrix `[vocabulary, hidden]`, unscaled.
    pub fn embedding_matrix(&self) -> Tensor<2> {
        self.embed_tokens.val()
    }

    /// Unscaled embedding rows `[batch, tokens, hidden]` of ids `[batch, tokens]`, f32.
    pub fn rows(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        widened(burn::tensor::module::embedding(self.embed_tokens.val(), ids))
    }

    /// The factor between embedding rows and the input of the first layer: the root of `hidden`.
    pub fn embedding_scale(&self) -> f32 {
        (self.config.hidden as f64).sqrt() as f32
    }

    /// The hidden states after the final norm, `[batch, tokens, hidden]`, of scaled inputs of that shape.
    pub fn forward(&self, inputs: Tensor<3>) -> Tensor<3> {
        let shape = inputs.dims();
        let mut x = self.entered(inputs);
        let tables = self.tables(shape[1], &x);
        for index in 0..self.layers.len() {
            x = self.through(index, x, (shape[0], shape[1]), &tables);
        }
        widened(self.final_norm(x)).reshape(shape)
    }

    /// All `layers + 1` hidden states `[batch, tokens, hidden]` as Hugging Face gives them: the input, the output of
    /// every layer but the last, and the output of the last layer after the final norm.
    pub fn hidden_states(&self, inputs: Tensor<3>) -> Vec<Tensor<3>> {
        let shape = inputs.dims();
        let mut x = self.entered(inputs);
        let tables = self.tables(shape[1], &x);
        let mut states = Vec::with_capacity(self.layers.len() + 1);
        for index in 0..self.layers.len() {
            states.push(widened(x.clone()).reshape(shape));
            x = self.through(index, x, (shape[0], shape[1]), &tables);
        }
        states.push(widened(self.final_norm(x)).reshape(shape));
        states
    }

    /// Logits `[rows, vocabulary]` after the final soft cap, of hidden states `[rows, hidden]` after the final norm.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let logits = self.head(hidden);
        match self.config.final_softcap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    /// Logits `[rows, vocabulary]` before the final soft cap, of hidden states `[rows, hidden]` after the final norm.
    pub fn raw_logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head(hidden)
    }

    /// −ln p of each target `[rows]`, in nats, given hidden states `[rows, hidden]` after the final norm. The head
    /// runs over chunks of rows; under autodiff all chunks stay until the backward pass.
    pub fn nll(&self, hidden: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        if plain::is_host(&hidden) && plain::is_host(&self.embed_tokens.val()) {
            let (count, device) = (targets.dims()[0], hidden.device());
            let ids: Vec<u32> = targets.into_data().iter::<i64>().map(|id| id as u32).collect();
            return plain::from_values(self.plain_nll(hidden, &ids), [count], &device);
        }
        let rows = hidden.dims()[0];
        let chunk = self.head_rows();
        let parts = (0..rows).step_by(chunk).map(|start| {
            let count = chunk.min(rows - start);
            let logits = self.logits(hidden.clone().narrow(0, start, count));
            let target = targets.clone().narrow(0, start, count).unsqueeze_dim::<2>(1);
            let largest = logits.clone().detach().max_dim(1);
            let chosen = logits.clone().gather(1, target) - largest.clone();
            let total = (logits - largest).exp().sum_dim(1).log();
            (total - chosen).squeeze_dim::<1>(1)
        });
        let parts: Vec<Tensor<1>> = parts.collect();
        if parts.is_empty() { hidden.reshape([0]) } else { Tensor::cat(parts, 0) }
    }

    /// Rows per chunk of the vocabulary head.
    fn head_rows(&self) -> usize {
        (HEAD_ELEMENTS / self.config.vocabulary).max(1)
    }

    /// Logits before the soft cap, f32.
    fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let dtype = self.embed_tokens.val().dtype();
        widened(block::linear(narrowed(hidden, dtype), &self.embed_tokens))
    }

    fn entered(&self, inputs: Tensor<3>) -> Tensor<2> {
        let [batch, tokens, hidden] = inputs.dims();
        narrowed(inputs.reshape([batch * tokens, hidden]), self.norm.val().dtype())
    }

    fn tables(&self, tokens: usize, x: &Tensor<2>) -> std::sync::Arc<block::Tables> {
        self.tables.get(&self.config, tokens, &x.device(), x.dtype())
    }

    fn through(&self, index: usize, x: Tensor<2>, size: (usize, usize), tables: &block::Tables) -> Tensor<2> {
        let (layer, config, sliding) = (&self.layers[index], &self.config, self.config.sliding[index]);
        if x.is_autodiff() || self.device().is_autodiff() {
            return layer.forward(x, size, config, tables, sliding);
        }
        layer.forward_plain(x, plain::Surroundings { size, config, tables, sliding }).0
    }

    fn final_norm(&self, x: Tensor<2>) -> Tensor<2> {
        rms_norm(x, &self.norm.val(), self.config.norm_epsilon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::device;

    fn small() -> GemmaConfig {
        GemmaConfig {
            vocabulary: 48,
            hidden: 64,
            intermediate: 96,
            heads: 4,
            key_value_heads: 2,
            head_dim: 16,
            query_pre_attn_scalar: 16.0,
            sliding: GemmaConfig::alternating(2),
            sliding_window: 4,
            ..GemmaConfig::default()
        }
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_into_vec().expect("f32")
    }

    fn ids(ids: &[i64], tokens: usize, device: &Device) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(ids.to_vec(), [ids.len() / tokens, tokens]), device)
    }

    #[test]
    fn a_random_model_is_the_same_for_the_same_seed_and_is_read_back() {
        let device = device::parse("cpu").expect("the default backend");
        let model = Gemma::init(&small(), &Streams::new(3, "test"), &device);
        let inputs = model.rows(ids(&[2, 7, 9, 11, 5, 6], 6, &device)).mul_scalar(model.embedding_scale());
        let last = values(model.forward(inputs.clone()));
        let again = Gemma::init(&small(), &Streams::new(3, "test"), &device);
        assert_eq!(last, values(again.forward(inputs.clone())));
        let folder = tempfile::tempdir().expect("a temporary folder");
        model.save(folder.path()).expect("a temporary folder can be written");
        let read = Gemma::load(folder.path(), &device, DType::F32).expect("our own folder");
        assert_eq!(read.config(), model.config());
        assert_eq!(last, values(read.forward(inputs.clone())));
        let half = Gemma::load(folder.path(), &device, DType::BF16).expect("our own folder");
        let half = values(half.forward(inputs));
        assert!(half.iter().chain(&last).all(|value| value.is_finite()));
        let worst = half.iter().zip(&last).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst > 0.0 && worst < 0.2, "bf16 differs by {worst}");
    }

    #[test]
    fn padding_on_the_right_changes_nothing() {
        let device = device::parse("cpu").expect("the default backend");
        let model = Gemma::init(&small(), &Streams::new(3, "test"), &device);
        let forward = |tokens: &[i64], count| values(model.forward(model.rows(ids(tokens, count, &device))));
        let (alone, padded) = (forward(&[2, 7, 9], 3), forward(&[2, 7, 9, 0, 0, 4, 5, 6, 7, 8], 5));
        for (a, b) in alone.iter().zip(&padded) {
            assert!((a - b).abs() < 1e-5, "{a} and {b}");
        }
    }

    #[test]
    fn a_model_on_an_autodiff_device_learns() {
        let device = device::parse("cpu").expect("the default backend").autodiff();
        let mut model = Gemma::init(&small(), &Streams::new(0, "test"), &device);
        let mut optimizer = crate::models::AdamW::new(crate::models::AdamWConfig::default());
        let tokens = ids(&[2, 7, 9, 11, 2, 8, 9, 12], 4, &device);
        let targets = Tensor::<1, Int>::from_ints([7, 9, 11, 1, 8, 9, 12, 1], &device);
        let mut losses = Vec::new();
        for _ in 0..30 {
            let inputs = model.rows(tokens.clone()).mul_scalar(model.embedding_scale());
            let hidden = model.forward(inputs).reshape([8, 64]);
            let loss = model.nll(hidden, targets.clone()).mean();
            losses.push(values(loss.clone().inner())[0]);
            (model, _) = optimizer.step(model, &loss.backward(), 1e-2);
        }
        assert!((losses[0] - 48f32.ln()).abs() < 0.5 && losses[29] < 0.5, "{losses:?}");
    }
}
