//! Low-rank adaptation (LoRA, Hu et al. 2021, arXiv 2106.09685) of a Gemma model: W + alpha / rank · B·A.
//!
//! The one way in which a language model's weights change here: the control that adapts the model to the text without any
//! social token. Saved in the form of the `peft` library (`adapter_config.json`, `adapter_model.safetensors`), which reads
//! it as an adapter of the Hugging Face model.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checkpoint::{self, Checkpoint, CheckpointError, Expected};
use super::gemma::GemmaConfig;
use crate::stats::random::Streams;

/// A matrix of every layer that can be adapted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Queries of the attention.
    QProj,
    /// Its keys.
    KProj,
    /// Its values.
    VProj,
    /// Its output.
    OProj,
    /// The gate of the feed-forward layer.
    GateProj,
    /// What is gated.
    UpProj,
    /// Its output.
    DownProj,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// As in `adapter_config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    fn part(self) -> &'static str {
        match self {
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
            _ => "self_attn",
        }
    }

    /// (outputs, inputs) of the matrix.
    fn shape(self, model: &GemmaConfig) -> (usize, usize) {
        let (queries, keys) = (model.heads * model.head_dim, model.key_value_heads * model.head_dim);
        match self {
            Self::QProj => (queries, model.hidden),
            Self::KProj | Self::VProj => (keys, model.hidden),
            Self::OProj => (model.hidden, queries),
            Self::GateProj | Self::UpProj => (model.intermediate, model.hidden),
            Self::DownProj => (model.hidden, model.intermediate),
        }
    }
}

/// The shape of an adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// B·A is multiplied by alpha / rank.
    pub alpha: f64,
    /// The matrices that are adapted, in every layer.
    pub targets: Vec<Target>,
}

impl LoraConfig {
    /// Parameters that each rank adds.
    pub fn per_rank(targets: &[Target], model: &GemmaConfig) -> usize {
        let of_layer = targets.iter().map(|target| target.shape(model)).map(|(out, input)| out + input);
        model.layers() * of_layer.sum::<usize>()
    }

    fn weights(&self, model: &GemmaConfig) -> Vec<Expected> {
        let mut weights = Vec::new();
        for layer in 0..model.layers() {
            for target in &self.targets {
                let (outputs, inputs) = target.shape(model);
                let name = format!("base_model.model.model.layers.{layer}.{}.{}", target.part(), target.name());
                weights.push((format!("{name}.lora_A.weight"), vec![self.rank, inputs]));
                weights.push((format!("{name}.lora_B.weight"), vec![outputs, self.rank]));
            }
        }
        weights
    }
}

/// A and B of one matrix.
#[derive(Module, Debug)]
struct Pair {
    /// `[rank, inputs]`.
    a: Param<Tensor<2>>,
    /// `[outputs, rank]`.
    b: Param<Tensor<2>>,
}

/// An adapter. On an autodiff device all its weights ask for gradients.
#[derive(Module, Debug)]
pub struct Lora {
    /// Layer by layer, the targets of each in the order of the configuration.
    pairs: Vec<Pair>,
    #[module(skip)]
    config: LoraConfig,
}

impl Lora {
    /// An adapter that changes nothing yet: A uniform within 1/√inputs as in `peft`, B zero.
    pub fn init(config: &LoraConfig, model: &GemmaConfig, streams: &Streams, device: &Device) -> Self {
        let drawn = |name: &str, shape: &[usize]| {
            let count = shape.iter().product();
            let bound = (shape[1] as f64).sqrt().recip();
            let values = if name.contains("lora_A") {
                streams.named(name).uniforms(count, -bound, bound)
            } else {
                vec![0.0; count]
            };
            Ok::<_, std::convert::Infallible>(TensorData::new(values, shape.to_vec()))
        };
        match Self::build(config, model, drawn, device) {
            Ok(lora) => lora,
            Err(never) => match never {},
        }
    }

    /// Reads the folder that [`Lora::save`] wrote, for a model of this shape.
    ///
    /// # Errors
    /// A file is missing, or the tensors are not those of the configuration.
    pub fn load(folder: &Path, model: &GemmaConfig, device: &Device) -> Result<Self, CheckpointError> {
        let path = folder.join("adapter_config.json");
        let text = std::fs::read(&path).map_err(CheckpointError::io(&path))?;
        let read: Described = serde_json::from_slice(&text).map_err(|error| CheckpointError::format(&path, error))?;
        let config = LoraConfig { rank: read.r, alpha: read.lora_alpha, targets: read.target_modules };
        let checkpoint = Checkpoint::open(&folder.join("adapter_model.safetensors"))?;
        checkpoint.check(&config.weights(model), &[])?;
        Self::build(&config, model, |name, _| checkpoint.data(name, DType::F32), device)
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, folder: &Path, model: &GemmaConfig) -> Result<(), CheckpointError> {
        let path = folder.join("adapter_config.json");
        let described = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": self.config.rank, "lora_alpha": self.config.alpha,
            "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false, "inference_mode": true,
            "target_modules": self.config.targets,
        });
        std::fs::write(&path, format!("{described:#}\n")).map_err(CheckpointError::io(&path))?;
        checkpoint::save(&folder.join("adapter_model.safetensors"), self.named_values(model))
    }

    /// The weights by their names, on the host.
    pub fn named_values(&self, model: &GemmaConfig) -> Vec<(String, TensorData)> {
        let values = self.pairs.iter().flat_map(|pair| [pair.a.val().into_data(), pair.b.val().into_data()]);
        self.config.weights(model).into_iter().map(|(name, _)| name).zip(values).collect()
    }

    /// The shape of the adapter.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// alpha / rank · B·A `[outputs, inputs]` of a matrix of a layer; `None` for one that is not adapted.
    pub fn change(&self, layer: usize, target: Target) -> Option<Tensor<2>> {
        let place = self.config.targets.iter().position(|known| *known == target)?;
        let pair = &self.pairs[layer * self.config.targets.len() + place];
        let scale = self.config.alpha / self.config.rank as f64;
        Some(pair.b.val().matmul(pair.a.val()).mul_scalar(scale))
    }

    fn build<E>(
        config: &LoraConfig,
        model: &GemmaConfig,
        mut data: impl FnMut(&str, &[usize]) -> Result<TensorData, E>,
        device: &Device,
    ) -> Result<Self, E> {
        let mut matrices = Vec::new();
        for (name, shape) in config.weights(model) {
            matrices.push(Param::from_tensor(Tensor::from_data(data(&name, &shape)?, (device, DType::F32))));
        }
        let mut matrices = matrices.into_iter();
        let mut pairs = Vec::new();
        while let (Some(a), Some(b)) = (matrices.next(), matrices.next()) {
            pairs.push(Pair { a, b });
        }
        Ok(Self { pairs, config: config.clone() })
    }
}

#[cfg(test)]
impl Lora {
    /// The sum of squares of all gradients.
    pub(super) fn gradient_squares(&self, gradients: &burn::tensor::Gradients) -> f64 {
        let weights = self.pairs.iter().flat_map(|pair| [&pair.a, &pair.b]);
        let of = |weight: &Param<Tensor<2>>| {
            let gradient = weight.val().grad(gradients).expect("every weight has a gradient");
            gradient.into_data().iter::<f64>().map(|value| value * value).sum::<f64>()
        };
        weights.map(of).sum()
    }

    /// Every weight moved by `step` times its gradient.
    pub(super) fn moved(&self, gradients: &burn::tensor::Gradients, step: f64) -> Self {
        let of = |weight: &Param<Tensor<2>>| {
            let gradient = weight.val().grad(gradients).expect("every weight has a gradient");
            let device = weight.val().device();
            let value = weight.val().without_autodiff() + gradient.mul_scalar(step);
            Param::from_tensor(Tensor::from_data(value.into_data(), (&device, DType::F32)))
        };
        let pairs = self.pairs.iter().map(|pair| Pair { a: of(&pair.a), b: of(&pair.b) }).collect();
        Self { pairs, config: self.config.clone() }
    }
}

/// What is read of `adapter_config.json`.
#[derive(Deserialize)]
struct Described {
    r: usize,
    lora_alpha: f64,
    target_modules: Vec<Target>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::device;

    #[test]
    fn an_adapter_is_read_back_and_counts_its_parameters() {
        let model = GemmaConfig {
            hidden: 8,
            intermediate: 12,
            heads: 2,
            key_value_heads: 1,
            head_dim: 6,
            ..GemmaConfig::default()
        };
        let model = GemmaConfig { sliding: GemmaConfig::alternating(2), ..model };
        let device = device::parse("cpu").expect("the default backend");
        let config = LoraConfig { rank: 3, alpha: 6.0, targets: vec![Target::VProj, Target::DownProj] };
        // Two layers of (6 + 8) and (8 + 12).
        assert_eq!(LoraConfig::per_rank(&config.targets, &model), 2 * (14 + 20));
        let mut lora = Lora::init(&config, &model, &Streams::new(0, "test"), &device);
        assert_eq!(lora.num_params(), 3 * 68);
        let zero: Vec<f32> =
            lora.change(1, Target::DownProj).expect("adapted").into_data().try_into_vec().expect("f32");
        assert!(zero.len() == 96 && zero.iter().all(|&value| value == 0.0));
        assert!(lora.change(0, Target::QProj).is_none());
        lora.pairs[3].b = Param::from_tensor(Tensor::ones([8, 3], &device));
        let folder = tempfile::tempdir().expect("a temporary folder");
        lora.save(folder.path(), &model).expect("a temporary folder can be written");
        let read = Lora::load(folder.path(), &model, &device).expect("our own folder");
        assert_eq!(read.named_values(&model), lora.named_values(&model));
        assert_eq!(read.config(), &config);
        let other = GemmaConfig { intermediate: 16, ..model };
        assert!(Lora::load(folder.path(), &other, &device).is_err());
        // Every row of B is ones, so each row of the change is twice the sum of A's rows.
        let change = read.change(1, Target::DownProj).expect("adapted");
        let a = read.pairs[3].a.val().sum_dim(0).mul_scalar(2.0);
        let difference: Vec<f32> = (change.narrow(0, 0, 1) - a).into_data().try_into_vec().expect("f32");
        assert!(difference.iter().all(|value| value.abs() < 1e-6), "{difference:?}");
    }
}
