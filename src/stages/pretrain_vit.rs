//! `pretrain_vit`: a small vision transformer of DINOv2's shape, trained from scratch to name what frames of the
//! simulated world show.
//!
//! It is supervised: from the CLS token a linear head reads agent, action, patient, place and background, and the sum of
//! their cross-entropies is the loss. Every batch is rendered afresh, so the model has seen the world and no clip of any
//! experiment. The head is left behind; what stays is an encoder that `encode_frames` takes, the counterpart of its
//! untrained `random_vit`. AdamW, warm-up, cosine to zero.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::Network;
use super::pretraining::{Course, Learner};
use super::{Context, Estimate, Expected, Inputs, Result, Stage, StageError, Summary};
use crate::models::checkpoint::{self, Checkpoint};
use crate::models::dinov2::{Dinov2, Dinov2Config, PositionResampling};
use crate::models::optimizer::AdamWConfig;
use crate::stats::random::{Stream, Streams};
use crate::vision::image::Rgb;
use crate::vision::world::World;
use crate::vision::world::oracle::attributes;
use crate::vision::world::render::{self, Layout};

/// See the module.
pub struct PretrainVit;

/// Settings of `pretrain_vit`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whose frames: `one_clause` or `two_clause`.
    #[serde(default)]
    pub world: World,
    /// Seed of initial weights and frames.
    #[serde(default)]
    pub seed: u64,
    /// Training steps.
    #[serde(default = "steps")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub steps: u64,
    /// Frames per step.
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
    /// Decoupled weight decay.
    #[serde(default = "weight_decay")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 does not clip.
    #[serde(default = "clip")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub clip: f64,
    /// Width.
    #[serde(default = "hidden")]
    #[schemars(range(min = 8, max = 4096))]
    pub hidden: usize,
    /// Blocks.
    #[serde(default = "layers")]
    #[schemars(range(min = 1, max = 100))]
    pub layers: usize,
    /// Attention heads; `hidden` is a multiple of it.
    #[serde(default = "layers")]
    #[schemars(range(min = 1, max = 128))]
    pub heads: usize,
    /// Side of a patch in pixels.
    #[serde(default = "patch")]
    #[schemars(range(min = 1, max = 128))]
    pub patch: usize,
    /// Side of the image in pixels, a multiple of `patch`.
    #[serde(default = "image")]
    #[schemars(range(min = 28, max = 1024))]
    pub image: usize,
    /// Initial LayerScale.
    #[serde(default = "layer_scale")]
    #[schemars(range(min = 0.0))]
    pub layer_scale: f64,
}

fn steps() -> u64 {
    1500
}
fn batch() -> usize {
    64
}
fn learning_rate() -> f64 {
    1e-3
}
fn warm_up() -> u64 {
    100
}
fn weight_decay() -> f64 {
    0.05
}
fn clip() -> f64 {
    1.0
}
fn hidden() -> usize {
    64
}
fn layers() -> usize {
    4
}
fn patch() -> usize {
    14
}
fn image() -> usize {
    56
}
fn layer_scale() -> f64 {
    1.0
}

/// Frames of the check after training.
const CHECKED: usize = 1024;
/// Frames of the check at a time.
const CHECKED_AT_ONCE: usize = 128;

impl Config {
    fn shape(&self) -> Dinov2Config {
        Dinov2Config {
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads,
            intermediate: 4 * self.hidden,
            patch: self.patch,
            image: self.image,
            layer_scale: self.layer_scale,
            ..Dinov2Config::default()
        }
    }

    fn course(&self) -> Course {
        let optimizer = AdamWConfig {
            weight_decay: self.weight_decay,
            clip: (self.clip > 0.0).then_some(self.clip),
            ..AdamWConfig::default()
        };
        Course { steps: self.steps, learning_rate: self.learning_rate, warm_up: self.warm_up, optimizer }
    }
}

impl Stage for PretrainVit {
    const KIND: &'static str = "pretrain_vit";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Trains a small DINOv2-shaped encoder from scratch to name what simulated frames show";
    const GIVES: &'static [&'static str] = &["encoder"];
    const ON_DEVICE: bool = true;
    type Config = Config;

    fn check(config: &Config) -> Result<()> {
        if config.hidden.is_multiple_of(config.heads) && config.image.is_multiple_of(config.patch) {
            return Ok(());
        }
        Err(StageError::hint(
            format!(
                "no transformer has width {} with {} heads, or an image of {} in patches of {}",
                config.hidden, config.heads, config.image, config.patch
            ),
            "make `hidden` a multiple of `heads`, and `image` one of `patch`",
        ))
    }

    fn estimate(config: &Config, _inputs: &Expected) -> Estimate {
        let network = Network::encoder(&config.shape());
        let tokens = (config.image / config.patch.max(1)).pow(2) + 1;
        let rows = (config.batch * tokens) as f64;
        // What every block keeps for its backward pass, and the process itself.
        let kept = rows * (config.layers * (24 * config.hidden + 3 * config.heads * tokens) * 4) as f64;
        let forward = network.forward(tokens as f64);
        config.course().estimate(network, config.batch, forward, (kept as u64).saturating_add(60 << 20))
    }

    fn run(config: &Config, _inputs: &Inputs, context: &Context) -> Result<Summary> {
        let streams = Streams::new(config.seed, Self::KIND);
        let pupil = config.course().train(
            context,
            |device| Pupil::init(config, &streams, device),
            |pupil, step| pupil.loss(&Batch::draw(config, config.batch, &mut streams.at(0, step, "frames"))),
        )?;
        pupil.encoder.save(context.folder())?;

        let (nats, right) = pupil.check(config, &mut streams.named("check"));
        let mut summary = Summary::new();
        let (mut told, mut available) = (0.0, 0.0);
        for (((name, values), nats), right) in attributes().into_iter().zip(nats).zip(right) {
            // The two-clause world has fewer agents.
            let count = if name == "agent" { config.world.agents().len() } else { values.len() };
            summary.insert(format!("accuracy_{name}"), right.into());
            told += (count as f64).log2() - nats / std::f64::consts::LN_2;
            available += (count as f64).log2();
        }
        summary.insert("bits".into(), told.into());
        summary.insert("available".into(), available.into());
        summary.insert("parameters".into(), Self::estimate(config, &Expected::default()).parameters.into());
        Ok(summary)
    }
}

/// Frames with the properties that they show.
struct Batch {
    /// Normalised pixels, `[frames, 3, image, image]`.
    pixels: TensorData,
    /// Of each frame, the value of every property as its index.
    shown: Vec<[usize; 5]>,
}

impl Batch {
    fn draw(config: &Config, count: usize, stream: &mut Stream) -> Self {
        let drawn: Vec<_> = (0..count)
            .map(|_| {
                let latents = config.world.draw(stream);
                (latents, stream.below(config.world.clauses()), Layout::draw(stream))
            })
            .collect();
        let side = config.image;
        let pixels: Vec<Vec<f32>> = drawn
            .par_iter()
            .map(|(latents, phase, layout)| {
                let values = render::frame(latents, *phase, layout, side);
                Rgb { width: side, height: side, values }.normalised()
            })
            .collect();
        Self {
            pixels: TensorData::new(pixels.concat(), [count, 3, side, side]),
            shown: drawn.iter().map(|(latents, phase, _)| latents.shown(*phase)).collect(),
        }
    }
}

/// The encoder with the head that reads it.
#[derive(Module, Debug)]
struct Pupil {
    encoder: Dinov2,
    /// `[hidden, values of all properties]`
    weight: Param<Tensor<2>>,
    /// `[1, values of all properties]`
    bias: Param<Tensor<2>>,
}

impl Pupil {
    fn new(encoder: Dinov2, weight: TensorData, bias: TensorData, device: &Device) -> Self {
        let parameter = |data| Param::from_tensor(Tensor::from_data(data, (device, DType::F32)));
        Self { encoder, weight: parameter(weight), bias: parameter(bias) }
    }

    /// Random weights; the head begins near zero.
    fn init(config: &Config, streams: &Streams, device: &Device) -> Self {
        let encoder = Dinov2::init(&config.shape(), streams, PositionResampling::default(), device);
        let width: usize = attributes().iter().map(|(_, values)| values.len()).sum();
        let weight = streams.named("head").normals(config.hidden * width, 0.02);
        let weight = TensorData::new(weight, [config.hidden, width]);
        Self::new(encoder, weight, TensorData::new(vec![0f32; width], [1, width]), device)
    }

    /// ln p of every value of every property, `[frames, values of all properties]`, of pixels `[frames, 3, side, side]`.
    fn logs(&self, pixels: Tensor<4>) -> Tensor<2> {
        let scores = self.encoder.cls(pixels).matmul(self.weight.val()) + self.bias.val();
        let mut start = 0;
        let parts = attributes().map(|(_, values)| {
            start += values.len();
            log_softmax(scores.clone().narrow(1, start - values.len(), values.len()), 1)
        });
        Tensor::cat(parts.to_vec(), 1)
    }

    /// Mean of −ln p over frames and properties, `[1]`.
    fn loss(&self, batch: &Batch) -> Tensor<1> {
        let device = self.encoder.device();
        let plain = device.clone().without_autodiff();
        let pixels = Tensor::<4>::from_data(batch.pixels.clone(), (&plain, DType::F32));
        let (frames, width) = (batch.shown.len(), self.bias.val().dims()[1]);
        let mut ones = vec![0f32; frames * width];
        for (row, shown) in ones.chunks_exact_mut(width).zip(&batch.shown) {
            places(shown).for_each(|place| row[place] = 1.0);
        }
        let ones = Tensor::<2>::from_data(TensorData::new(ones, [frames, width]), (&plain, DType::F32));
        let logs = self.logs(pixels.autodiff());
        (logs * ones.autodiff()).sum().mul_scalar(-1.0 / (frames * attributes().len()) as f64)
    }

    /// Per property: mean of −ln p in nats, and share of frames whose likeliest value is the one shown, on new frames.
    fn check(&self, config: &Config, stream: &mut Stream) -> ([f64; 5], [f64; 5]) {
        let (mut nats, mut right) = ([0.0; 5], [0.0; 5]);
        let plain = self.encoder.device().without_autodiff();
        let pupil = self.clone().valid();
        for _ in 0..CHECKED / CHECKED_AT_ONCE {
            let batch = Batch::draw(config, CHECKED_AT_ONCE, stream);
            let logs = pupil.logs(Tensor::from_data(batch.pixels, (&plain, DType::F32)));
            let logs: Vec<f32> = logs.into_data().iter::<f32>().collect();
            for (row, shown) in logs.chunks_exact(logs.len() / CHECKED_AT_ONCE).zip(&batch.shown) {
                let mut start = 0;
                for (property, (_, values)) in attributes().iter().enumerate() {
                    let own = &row[start..start + values.len()];
                    let log = own[shown[property]];
                    nats[property] -= f64::from(log) / CHECKED as f64;
                    right[property] += f64::from(own.iter().all(|other| *other <= log)) / CHECKED as f64;
                    start += values.len();
                }
            }
        }
        (nats, right)
    }
}

/// Where the shown values stand among all values of all properties.
fn places(shown: &[usize; 5]) -> impl Iterator<Item = usize> {
    let mut start = 0;
    attributes().into_iter().zip(*shown).map(move |((_, values), value)| {
        start += values.len();
        start - values.len() + value
    })
}

impl Learner for Pupil {
    fn save(&self, folder: &Path) -> Result<()> {
        self.encoder.save(folder)?;
        let head = [("weight", self.weight.val()), ("bias", self.bias.val())];
        let head = head.into_iter().map(|(name, values)| (name.to_owned(), values.into_data())).collect();
        Ok(checkpoint::save(&folder.join("head.safetensors"), head)?)
    }

    fn load(folder: &Path, device: &Device) -> Result<Self> {
        let encoder = Dinov2::load(folder, device, PositionResampling::default())?;
        let head = Checkpoint::open(&folder.join("head.safetensors"))?;
        let (weight, bias) = (head.data("weight", DType::F32)?, head.data("bias", DType::F32)?);
        Ok(Self::new(encoder, weight, bias, device))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::stopping::{stopped, whole};
    use super::*;
    use crate::models::device;
    use crate::models::optimizer::AdamW;

    fn config(steps: u64, seed: u64) -> Config {
        let settings = json!({ "steps": steps, "batch": 4, "seed": seed, "warm_up": 2, "layers": 2, "heads": 2 });
        serde_json::from_value(settings).expect("settings")
    }

    fn trained(config: &Config, scratch: Option<&Path>) -> (Vec<u8>, tempfile::TempDir) {
        let folder = whole::<PretrainVit>(config, &Inputs::default(), scratch);
        (std::fs::read(folder.path().join("model.safetensors")).expect("weights"), folder)
    }

    #[test]
    fn training_depends_on_its_seed_only_and_the_encoder_loads() {
        let (first, folder) = trained(&config(3, 0), None);
        assert_eq!(first, trained(&config(3, 0), None).0);
        assert_ne!(first, trained(&config(3, 1), None).0);
        let device = device::parse("cpu").expect("the default backend");
        let encoder = Dinov2::load(folder.path(), &device, PositionResampling::default()).expect("loads");
        assert_eq!((encoder.config().hidden, encoder.config().image), (64, 56));
    }

    #[test]
    fn sides_that_do_not_go_together_are_found_when_the_file_is_checked() {
        let check = |settings: serde_json::Value| {
            let config: Config = serde_json::from_value(settings).expect("settings");
            PretrainVit::check(&config)
        };
        assert!(check(json!({})).is_ok());
        for wrong in [json!({ "heads": 3 }), json!({ "patch": 13 })] {
            let error = check(wrong).expect_err("cannot be").to_string();
            assert!(error.contains("no transformer has width 64") && error.contains("hint:"), "{error}");
        }
    }

    #[test]
    fn a_training_that_was_stopped_goes_on_to_the_same_bytes() {
        let config = config(6, 0);
        let scratch = stopped::<PretrainVit>(&config, &Inputs::default(), 4);
        assert_eq!(trained(&config, Some(scratch.path())).0, trained(&config, None).0);
    }

    #[test]
    fn the_loss_is_the_cross_entropy_of_what_is_shown_and_every_part_learns() {
        let device = device::parse("cpu").expect("the default backend").autodiff();
        let config = config(60, 0);
        let streams = Streams::new(0, "test");
        let pupil = Pupil::init(&config, &streams, &device);
        let mut optimizer = AdamW::new(config.course().optimizer);
        let batch = Batch::draw(&config, 8, &mut streams.named("frames"));
        // The head starts small: every property is as good as guessed.
        let guessed = [6.0f64, 8.0, 5.0, 4.0, 4.0].map(f64::ln).iter().sum::<f64>() / 5.0;
        let value = |pupil: &Pupil| f64::from(pupil.loss(&batch).inner().into_data().iter::<f32>().sum::<f32>());
        assert!((value(&pupil) - guessed).abs() < 0.1, "{} and {guessed}", value(&pupil));
        // A head without weights gives −ln of softmax(bias) at the shown places, here counted by hand.
        let plain = device.clone().without_autodiff();
        let biases: Vec<f32> = (0..27).map(|place| (place % 7) as f32 * 0.3).collect();
        let fixed = Pupil::new(
            pupil.encoder.clone(),
            TensorData::new(vec![0f32; 64 * 27], [64, 27]),
            TensorData::new(biases.clone(), [1, 27]),
            &device,
        );
        let mut expected = 0.0;
        for shown in &batch.shown {
            let mut start = 0;
            for (count, value) in [6, 8, 5, 4, 4].into_iter().zip(shown) {
                let own = &biases[start..start + count];
                let sum: f64 = own.iter().map(|bias| f64::from(*bias).exp()).sum();
                expected += (sum.ln() - f64::from(own[*value])) / 40.0;
                start += count;
            }
        }
        assert!((value(&fixed) - expected).abs() < 1e-5, "{} and {expected}", value(&fixed));
        // No parameter is left off the tape.
        let gradients = pupil.loss(&batch).backward();
        let pixels = Tensor::<4>::from_data(batch.pixels.clone(), (&plain, DType::F32));
        let logs = |pupil: &Pupil| pupil.logs(pixels.clone().autodiff()).inner().into_data();
        let stepped = optimizer.step(pupil.clone(), &gradients, 1e-2).0;
        assert_ne!(logs(&pupil), logs(&stepped));
        let moments = tempfile::tempdir().expect("a temporary folder");
        stepped.save(moments.path()).expect("saves");
        optimizer.save(&moments.path().join("optimizer.safetensors")).expect("saves");
        let state = Checkpoint::open(&moments.path().join("optimizer.safetensors")).expect("a state");
        let weights = Checkpoint::open(&moments.path().join("model.safetensors")).expect("weights");
        // Hugging Face's names split queries, keys and values of each of two blocks, and the mask token is not there.
        assert_eq!(state.names().filter(|name| name.ends_with(".steps")).count(), weights.names().count() - 2 * 4 + 2);
    }
}
