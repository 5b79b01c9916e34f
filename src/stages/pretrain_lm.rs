//! `pretrain_lm`: a small language model of Gemma 2's shape, trained from scratch on texts of the simulated world.
//!
//! The documents ([`crate::vision::world::tokens`]) carry tags before the caption and inside it, so that the model learns
//! to use what stands there; a social token has to be read by the frozen model later. Caption words and the end are
//! predicted, tags are only read. Every batch is drawn afresh from the grammar. AdamW, warm-up, cosine to zero.

use std::path::Path;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::Network;
use super::pretraining::{Course, Learner};
use super::{Context, Estimate, Expected, Inputs, Result, Stage, StageError, Summary};
use crate::models::gemma::{Gemma, GemmaConfig};
use crate::models::optimizer::AdamWConfig;
use crate::stats::random::{Stream, Streams};
use crate::vision::world::World;
use crate::vision::world::enumeration::{Enumeration, Knowledge};
use crate::vision::world::tokens::{self, Document, Tagging, Vocabulary};

/// See the module.
pub struct PretrainLm;

/// Settings of `pretrain_lm`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whose grammar the texts follow: `one_clause` or `two_clause`.
    #[serde(default)]
    pub world: World,
    /// Seed of initial weights and texts.
    #[serde(default)]
    pub seed: u64,
    /// Training steps.
    #[serde(default = "steps")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub steps: u64,
    /// Documents per step.
    #[serde(default = "batch")]
    #[schemars(range(min = 1, max = 100_000))]
    pub batch: usize,
    /// Highest learning rate.
    #[serde(default = "learning_rate")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub learning_rate: f64,
    /// Steps over which the learning rate rises.
    #[serde(default = "warm_up")]
    pub warm_up: u64,
    /// AdamW's decay of the mean of gradients.
    #[serde(default = "beta1")]
    #[schemars(range(min = 0.0, max = 0.9999))]
    pub beta1: f64,
    /// AdamW's decay of the mean of squared gradients.
    #[serde(default = "beta2")]
    #[schemars(range(min = 0.0, max = 0.9999))]
    pub beta2: f64,
    /// Decoupled weight decay.
    #[serde(default = "weight_decay")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 does not clip.
    #[serde(default = "clip")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub clip: f64,
    /// Probability that a document has tags in front, and, independently, inside.
    #[serde(default = "half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tags_present: f64,
    /// Probability that a tag of a group is kept.
    #[serde(default = "tags_kept")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tags_kept: f64,
    /// Probability that a group of tags stands in one position.
    #[serde(default = "half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tags_joined: f64,
    /// Probability that the tags inside a document are those of the whole clip, all kept, and not of the phase of their
    /// word: for social tokens that hold a clip's mean at the places of local ones.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tags_of_clip: f64,
    /// Width of the residual stream.
    #[serde(default = "hidden")]
    #[schemars(range(min = 8, max = 4096))]
    pub hidden: usize,
    /// Layers.
    #[serde(default = "layers")]
    #[schemars(range(min = 1, max = 100))]
    pub layers: usize,
    /// Attention heads, each of width `head_dim`.
    #[serde(default = "heads")]
    #[schemars(range(min = 1, max = 128))]
    pub heads: usize,
    /// Heads of keys and values; `heads` is a multiple of it.
    #[serde(default = "layers")]
    #[schemars(range(min = 1, max = 128))]
    pub key_value_heads: usize,
    /// Width of a head; even.
    #[serde(default = "head_dim")]
    #[schemars(range(min = 2, max = 512))]
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    #[serde(default = "intermediate")]
    #[schemars(range(min = 8, max = 16_384))]
    pub intermediate: usize,
    /// Standard deviation of initial weights.
    #[serde(default = "initial_deviation")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub initial_deviation: f64,
}

fn steps() -> u64 {
    1000
}
fn batch() -> usize {
    128
}
fn learning_rate() -> f64 {
    6e-3
}
fn warm_up() -> u64 {
    50
}
fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.98
}
fn weight_decay() -> f64 {
    0.01
}
fn clip() -> f64 {
    1.0
}
fn half() -> f64 {
    0.5
}
fn tags_kept() -> f64 {
    0.7
}
fn hidden() -> usize {
    64
}
fn layers() -> usize {
    2
}
fn heads() -> usize {
    4
}
fn head_dim() -> usize {
    16
}
fn intermediate() -> usize {
    192
}
fn initial_deviation() -> f64 {
    0.02
}

/// Documents of the check after training.
const CHECKED: usize = 1024;

impl Config {
    fn course(&self) -> Course {
        let optimizer = AdamWConfig {
            betas: (self.beta1, self.beta2),
            weight_decay: self.weight_decay,
            clip: (self.clip > 0.0).then_some(self.clip),
            ..AdamWConfig::default()
        };
        Course { steps: self.steps, learning_rate: self.learning_rate, warm_up: self.warm_up, optimizer }
    }
}

impl Stage for PretrainLm {
    const KIND: &'static str = "pretrain_lm";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Trains a small Gemma-2-shaped language model from scratch on the simulated world's texts";
    const GIVES: &'static [&'static str] = &["language_model"];
    const ON_DEVICE: bool = true;
    type Config = Config;

    fn estimate(config: &Config, _inputs: &Expected) -> Estimate {
        let shape = shape(config, Vocabulary::of(config.world).size());
        let network = Network::language(&shape);
        // Documents are about twice as long as their captions, tags and padding included.
        let tokens = 22 * config.world.clauses();
        let positions = config.batch * tokens;
        // What every layer keeps for its backward pass.
        let kept = positions * config.layers * (24 * config.hidden + 6 * config.intermediate) * 4;
        let forward = network.forward(tokens as f64) + network.head() * tokens as f64;
        config.course().estimate(network, config.batch, forward, kept as u64)
    }

    fn run(config: &Config, _inputs: &Inputs, context: &Context) -> Result<Summary> {
        if !config.heads.is_multiple_of(config.key_value_heads) || !config.head_dim.is_multiple_of(2) {
            return Err(StageError::hint(
                format!(
                    "{} heads of width {} cannot share {} heads of keys and values",
                    config.heads, config.head_dim, config.key_value_heads
                ),
                "`heads` must be a multiple of `key_value_heads`, and `head_dim` even",
            ));
        }
        let vocabulary = Vocabulary::of(config.world);
        let streams = Streams::new(config.seed, Self::KIND);
        let tagging = Tagging {
            present: config.tags_present,
            kept: config.tags_kept,
            joined: config.tags_joined,
            of_clip: config.tags_of_clip,
        };
        let draw = |count: usize, tagging: &Tagging, mut stream: Stream| -> Vec<Document> {
            (0..count).map(|_| Document::draw(config.world, &vocabulary, tagging, &mut stream)).collect()
        };
        let model = config.course().train(
            context,
            |device| Gemma::init(&shape(config, vocabulary.size()), &streams, device),
            |model, step| {
                let documents = draw(config.batch, &tagging, streams.at(0, step, "documents"));
                let (sum, count) = loss(model, &documents, &vocabulary);
                sum.div_scalar(count as f64)
            },
        )?;

        let folder = context.folder();
        model.save(folder)?;
        let path = folder.join("tokenizer.json");
        let tokenizer = format!("{:#}\n", vocabulary.tokenizer());
        std::fs::write(&path, tokenizer).map_err(StageError::io(&path))?;

        let enumeration = Enumeration::of(config.world);
        let bits = |present, kept| {
            let tagging = Tagging { present, kept, joined: 0.5, of_clip: 0.0 };
            let documents = draw(CHECKED, &tagging, streams.named("check"));
            let (sum, _) = loss(&model, &documents, &vocabulary);
            let nats: f32 = sum.inner().into_data().iter::<f32>().sum();
            f64::from(nats) / CHECKED as f64 / std::f64::consts::LN_2
        };
        let mut summary = Summary::new();
        summary.insert("bits_per_caption".into(), bits(0.0, 1.0).into());
        summary.insert("true_bits_per_caption".into(), enumeration.total(Knowledge::None).into());
        summary.insert("bits_per_caption_with_tags".into(), bits(1.0, 1.0).into());
        summary.insert("floor_bits_per_caption".into(), enumeration.total(Knowledge::Full).into());
        summary.insert("parameters".into(), Self::estimate(config, &Expected::default()).parameters.into());
        Ok(summary)
    }
}

fn shape(config: &Config, vocabulary: usize) -> GemmaConfig {
    GemmaConfig {
        vocabulary,
        hidden: config.hidden,
        intermediate: config.intermediate,
        heads: config.heads,
        key_value_heads: config.key_value_heads,
        head_dim: config.head_dim,
        query_pre_attn_scalar: config.head_dim as f64,
        sliding: GemmaConfig::alternating(config.layers),
        max_positions: 512,
        bos: tokens::BOS,
        eos: vec![tokens::EOS],
        pad: tokens::PAD,
        initializer_range: config.initial_deviation,
        ..GemmaConfig::default()
    }
}

/// Sum over all targets of −ln p, `[1]`, and the number of targets.
///
/// Positions are products of a matrix `[positions, vocabulary]` with the embedding matrix, which sums the rows of a
/// group for free and needs no scatter on the way back. Documents are padded on the right to the longest.
fn loss(model: &Gemma, documents: &[Document], vocabulary: &Vocabulary) -> (Tensor<1>, usize) {
    let (batch, size) = (documents.len(), vocabulary.size());
    let length = documents.iter().map(|document| document.positions.len()).max().unwrap_or(0);
    let mut mixing = vec![0f32; batch * length * size];
    let (mut targets, mut labelled) = (vec![0i64; batch * length], vec![0f32; batch * length]);
    for (row, document) in documents.iter().enumerate() {
        for (position, (ids, target)) in document.positions.iter().zip(&document.targets).enumerate() {
            let place = row * length + position;
            for id in ids {
                mixing[place * size + *id as usize] = 1.0 / (ids.len() as f32).sqrt();
            }
            if let Some(target) = target {
                (targets[place], labelled[place]) = (i64::from(*target), 1.0);
            }
        }
    }
    let count = labelled.iter().filter(|label| **label > 0.0).count();
    let embedding = model.embedding_matrix();
    let device = embedding.device();
    let plain = device.clone().without_autodiff();
    let mixing: Tensor<2> = Tensor::from_data(TensorData::new(mixing, [batch * length, size]), (&plain, DType::F32));
    let labelled: Tensor<1> = Tensor::from_data(TensorData::new(labelled, [batch * length]), (&plain, DType::F32));
    let targets: Tensor<1, Int> = Tensor::from_data(TensorData::new(targets, [batch * length]), &device);
    let follow = |tensor: Tensor<2>| if device == plain { tensor } else { tensor.autodiff() };
    let inputs = follow(mixing).matmul(embedding).mul_scalar(model.embedding_scale());
    let hidden = model.forward(inputs.reshape([batch, length, model.config().hidden]));
    let nll = model.nll(hidden.reshape([batch * length, model.config().hidden]), targets);
    let labelled = follow(labelled.reshape([1, batch * length])).reshape([batch * length]);
    ((nll * labelled).sum(), count)
}

impl Learner for Gemma {
    fn save(&self, folder: &Path) -> Result<()> {
        Ok(Gemma::save(self, folder)?)
    }

    fn load(folder: &Path, device: &Device) -> Result<Self> {
        Ok(Gemma::load(folder, device, DType::F32)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::stopping::{stopped, whole};
    use super::*;
    use crate::models::device;

    fn config(steps: u64, seed: u64) -> Config {
        serde_json::from_value(json!({ "steps": steps, "batch": 8, "seed": seed, "warm_up": 2 })).expect("settings")
    }

    fn trained(config: &Config, scratch: Option<&Path>) -> (Vec<u8>, tempfile::TempDir) {
        let folder = whole::<PretrainLm>(config, &Inputs::default(), scratch);
        (std::fs::read(folder.path().join("model.safetensors")).expect("weights"), folder)
    }

    #[test]
    fn training_depends_on_its_seed_only_and_the_model_loads() {
        let (first, folder) = trained(&config(3, 0), None);
        assert_eq!(first, trained(&config(3, 0), None).0);
        assert_ne!(first, trained(&config(3, 1), None).0);
        let device = device::parse("cpu").expect("the default backend");
        let model = crate::models::language::LanguageModel::load(folder.path(), &device, DType::F32).expect("loads");
        assert_eq!(model.encode("the red one").expect("encodes").ids.len(), 3);
        assert_eq!(model.id(tokens::LEAD_IN), Some(4));
    }

    #[test]
    fn a_training_that_was_stopped_goes_on_to_the_same_bytes() {
        let config = config(6, 0);
        let scratch = stopped::<PretrainLm>(&config, &Inputs::default(), 4);
        assert_eq!(trained(&config, Some(scratch.path())).0, trained(&config, None).0);
    }

    #[test]
    fn a_loss_that_is_not_finite_stops_the_training() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let broken = Config { learning_rate: f64::INFINITY, warm_up: 0, ..config(20, 0) };
        let context = Context::plain(folder.path(), "cpu");
        let error = PretrainLm::run(&broken, &Inputs::default(), &context).expect_err("diverges");
        assert!(error.to_string().contains("diverged at step"), "{error}");
    }
}
