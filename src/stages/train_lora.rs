//! `train_lora`: adapts the language model to the text, without any social token.
//!
//! The one stage in which the language model's weights are changed, by low-rank matrices beside them (Hu et al. 2021). A
//! control: what a projector gains beyond an adapter of as many parameters, trained as long on the same samples and labels,
//! is no adaptation to the form of the text. Give the projector's stage as `projector`: its prompt, its budget and its
//! number of parameters are taken over; inputs are not, and where the rank follows from the projector other clips than
//! its own are refused. The loss of a step is the mean over the labelled tokens of its batch.

use std::collections::HashSet;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::as_trained::{Text, inherit};
use super::checkpoint::Checkpoints;
use super::estimate::Passes;
use super::perplexity::{caption_index, language};
use super::scene_packs::pos_set;
use super::{Context, Estimate, Expected, Inputs, Reference, Result, Stage, StageError, Summary, Upstream};
use crate::models::language::LanguageModel;
use crate::models::lora::{Lora, LoraConfig, Target};
use crate::models::optimizer::{AdamW, AdamWConfig, cosine_with_warm_up};
use crate::social::injection::{self, Batch, Prepared};
use crate::social::material::{self, Trained};
use crate::social::packs::{read_json, write_json};
use crate::social::prompt::{EmbeddingScale, Inject, Prompt};
use crate::social::samples;
use crate::social::transcripts::{self, Clip};
use crate::stats::random::Streams;

/// See the module.
pub struct TrainLora;

/// Settings of `train_lora`. What is left out of `samples` to `max_tokens`, and of `split` to `clip`, is as in the training
/// of `projector`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Captions or transcripts.
    #[schemars(extend("x-accepts" = ["text"]))]
    pub text: Reference,
    /// Which clip is in which split, instead of what the text says.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["split"]))]
    pub splits: Option<Reference>,
    /// The language model.
    #[serde(default = "language")]
    #[schemars(extend("x-accepts" = ["language_model"]))]
    pub language: Reference,
    /// The projector that the adapter is a control of.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["projector"]))]
    pub projector: Option<Reference>,
    /// Rank of the matrices; 0 gives the number of parameters that is nearest to that of `projector`.
    #[serde(default)]
    pub rank: usize,
    /// The change is multiplied by `alpha` / rank; 0 is twice the rank.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub alpha: f64,
    /// The matrices that are adapted.
    #[serde(default = "targets")]
    pub targets: Vec<Target>,
    /// Draws initial values and order.
    #[serde(default)]
    pub seed: u64,
    /// What text is read.
    #[serde(flatten)]
    pub as_text: Text,
    /// Read all `next_word` samples of a caption in one forward pass where that gives the same probabilities.
    #[serde(default)]
    pub one_pass: Option<bool>,
    /// The split to train on; `all` is every clip.
    #[serde(default)]
    pub split: Option<String>,
    /// Of several captions of a clip this one, from 1; 0 takes all.
    #[serde(default)]
    pub caption_index: Option<usize>,
    /// Passes over the samples; not used when `steps` is given.
    #[serde(default)]
    pub epochs: Option<u64>,
    /// Optimizer steps; 0 goes by `epochs`.
    #[serde(default)]
    pub steps: Option<u64>,
    /// Samples per step; the last step of an epoch may have fewer.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub batch: Option<usize>,
    /// Largest norm of all gradients together; 0 does not clip.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub clip: Option<f64>,
    /// Largest learning rate.
    #[serde(default = "lr")]
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Share of the steps that warm up.
    #[serde(default = "warmup")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warmup: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
}

fn targets() -> Vec<Target> {
    Target::ALL.to_vec()
}

fn lr() -> f64 {
    2e-4
}

fn warmup() -> f64 {
    0.1
}

/// Written beside the adapter.
#[derive(Serialize, Deserialize)]
struct Description {
    settings: serde_json::Value,
    /// Digest of the language model.
    language: String,
    /// The clips trained on.
    trained_on: Vec<String>,
}

impl Config {
    fn prompt(&self) -> Prompt {
        Prompt { one_pass: self.one_pass.unwrap_or_default(), ..self.as_text.prompt(Inject::None) }
    }

    fn batch(&self) -> usize {
        self.batch.unwrap_or(32)
    }

    /// Steps in all, and of one epoch.
    fn schedule(&self, samples: usize) -> (u64, u64) {
        let per_epoch = samples.div_ceil(self.batch()) as u64;
        let steps = self.steps.unwrap_or(0);
        (if steps > 0 { steps } else { self.epochs.unwrap_or(5) * per_epoch }, per_epoch)
    }

    fn optimizer_settings(&self) -> AdamWConfig {
        let clip = self.clip.unwrap_or(1.0);
        AdamWConfig { weight_decay: self.weight_decay, clip: (clip > 0.0).then_some(clip), ..AdamWConfig::default() }
    }
}

impl Stage for TrainLora {
    const KIND: &'static str = "train_lora";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Adapts the language model to the text by low-rank matrices, without social tokens: a control of the projector";
    const GIVES: &'static [&'static str] = &["adapter"];
    type Config = Config;

    fn normalise(config: &mut Config, upstream: &Upstream) {
        config.as_text.inherit(upstream);
        inherit(&mut config.one_pass, upstream, "one_pass", Prompt::default().one_pass);
        inherit(&mut config.split, upstream, "split", "train".to_owned());
        inherit(&mut config.caption_index, upstream, "caption_index", caption_index());
        inherit(&mut config.epochs, upstream, "epochs", 5);
        inherit(&mut config.steps, upstream, "steps", 0);
        inherit(&mut config.batch, upstream, "batch", 32);
        inherit(&mut config.clip, upstream, "clip", 1.0);
        if config.rank > 0 {
            config.projector = None;
        }
        config.targets.sort_unstable();
        config.targets.dedup();
    }

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        let (text, network) = (inputs.of("text"), inputs.of("language").network);
        let sequences = text.clips_in(config.split.as_deref().unwrap_or("train"));
        let (batch, steps) = (config.batch() as u64, config.steps.unwrap_or(0));
        let (network, words, samples) = (network.as_ref(), text.words, text.samples(&config.prompt()));
        let repeats = config.epochs.unwrap_or(5) as f64;
        let passes = Passes { network, sequences, words, social: 0.0, batch, samples, repeats, backward: true };
        passes.in_steps(steps, 1).estimate()
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let language = material::language(inputs, context)?;
        let plain = language.gemma.device();
        let split = config.split.clone().unwrap_or_else(|| "train".to_owned());
        let selection = material::selection(inputs, &split, config.caption_index.unwrap_or_else(caption_index));
        let clips = transcripts::load(&inputs.get("text")?.path, &selection)?;
        let mut sequences = samples::build(&clips, &config.prompt(), &pos_set(), &*language, |_| Ok(&[]))?;
        sequences.retain(|sequence| !sequence.targets.is_empty());
        let prepared = injection::prepare(&sequences, None, &[], &[], language.pad)?;
        let shape = shape(config, inputs, &language, &clips, &plain)?;
        let (total, per_epoch) = config.schedule(prepared.len());
        let tracked = plain.clone().autodiff();
        let streams = Streams::new(config.seed, Self::KIND);
        let mut trainer = Trainer {
            config,
            language: &language,
            prepared: &prepared,
            lora: Lora::init(&shape, language.gemma.config(), &streams, &tracked),
            optimizer: AdamW::new(config.optimizer_settings()),
            total,
        };
        let name = |sample: usize| format!("clip `{}`", clips[sequences[sample].clip].clip_id);
        let mut checkpoints = Checkpoints::new(context);
        let mut losses = Losses::default();
        let mut begin = 0;
        if let Some((step, folder)) = checkpoints.resume()? {
            begin = step;
            losses = trainer.resume(&folder, &tracked)?;
        }
        let mut order = Vec::new();
        for step in begin..total {
            let (epoch, place) = (step / per_epoch, (step % per_epoch) as usize);
            if place == 0 || order.is_empty() {
                order = streams.at(epoch, 0, "order").permutation(prepared.len());
            }
            let chosen = &order[place * config.batch()..((place + 1) * config.batch()).min(order.len())];
            losses.last = trainer.step(epoch, step, chosen, &name, context)?;
            losses.first.get_or_insert(losses.last);
            checkpoints.advance(step + 1, total, |folder| trainer.keep(folder, &losses))?;
        }
        let (lora, model) = (trainer.lora, language.gemma.config());
        lora.save(context.folder(), model)?;
        let settings = serde_json::to_value(config).map_err(|error| StageError::new(error.to_string()))?;
        let trained_on = clips.iter().map(|clip| clip.clip_id.clone()).collect();
        let description = Description { settings, language: inputs.get("language")?.digest.clone(), trained_on };
        write_json(&context.folder().join("adapter.json"), &description)?;
        let mut summary = Summary::new();
        summary.insert("first_loss".into(), losses.first.into());
        summary.insert("last_loss".into(), losses.last.into());
        summary.insert("steps".into(), total.into());
        summary.insert("samples".into(), prepared.len().into());
        summary.insert("rank".into(), shape.rank.into());
        summary.insert("parameters".into(), lora.num_params().into());
        Ok(summary)
    }
}

/// The adapter of a training stage's folder, which must have been trained on this language model; and how many of these
/// clips it was trained on, which must be none in a split other than the one of the training (`all` may hold anything).
pub(super) fn load(
    path: &Path,
    language: &LanguageModel,
    digest: &str,
    clips: &[Clip],
    split: &str,
) -> Result<(Lora, usize)> {
    let description: Description = read_json(&path.join("adapter.json"))?;
    let known: HashSet<&str> = description.trained_on.iter().map(String::as_str).collect();
    let seen = clips.iter().filter(|clip| known.contains(clip.clip_id.as_str())).count();
    let trained = description.settings["split"].as_str().unwrap_or("train");
    if seen > 0 && split != trained && split != "all" {
        return Err(StageError::hint(
            format!(
                "the adapter was trained on {seen} of the {} clips of split `{split}`, as `{trained}`",
                clips.len()
            ),
            "give `splits` as the adapter has it, or evaluate the split that it was trained on",
        ));
    }
    if description.language != digest {
        return Err(StageError::hint(
            "the adapter was trained on another language model than the one of `language`",
            "set `language` to the one it was trained on",
        ));
    }
    Ok((Lora::load(path, language.gemma.config(), &language.gemma.device())?, seen))
}

/// The shape as set, or with about as many parameters as the projector.
fn shape(
    config: &Config,
    inputs: &Inputs,
    language: &LanguageModel,
    clips: &[Clip],
    device: &Device,
) -> Result<LoraConfig> {
    if config.targets.is_empty() {
        return Err(StageError::hint("`targets` is empty", "name the matrices to adapt, `[\"q_proj\", \"v_proj\"]`"));
    }
    let per_rank = LoraConfig::per_rank(&config.targets, language.gemma.config());
    let rank = match (config.rank, inputs.optional("projector")) {
        (0, Some(projector)) => {
            let trained = Trained::load(&projector.path, device)?;
            check_clips(&trained, clips)?;
            let wanted = trained.projector.num_params();
            ((wanted as f64 / per_rank as f64).round() as usize).max(1)
        }
        (0, None) => {
            return Err(StageError::hint(
                "neither `rank` nor a projector to match is given",
                "set `rank`, or `projector` to the `train_projector` stage that this is a control of",
            ));
        }
        (rank, _) => rank,
    };
    let alpha = if config.alpha > 0.0 { config.alpha } else { 2.0 * rank as f64 };
    Ok(LoraConfig { rank, alpha, targets: config.targets.clone() })
}

/// Fails where the projector is known to have been trained on other clips than these: its control must not have more to
/// learn from, or less.
fn check_clips(trained: &Trained, clips: &[Clip]) -> Result<()> {
    let Some(description) = &trained.description else { return Ok(()) };
    let of_projector: HashSet<&str> = description.trained_on.iter().map(String::as_str).collect();
    let here: HashSet<&str> = clips.iter().map(|clip| clip.clip_id.as_str()).collect();
    if of_projector.is_empty() || of_projector == here {
        return Ok(());
    }
    let shared = here.intersection(&of_projector).count();
    Err(StageError::hint(
        format!(
            "the adapter would be trained on {} clips and `projector` was on {}, {shared} of them the same",
            here.len(),
            of_projector.len()
        ),
        "give the `text`, `splits` and `split` that the projector was trained with, or `rank` for an adapter of its own",
    ))
}

/// Losses that the summary tells, in nats per labelled token.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Losses {
    first: Option<f64>,
    last: f64,
}

struct Trainer<'a> {
    config: &'a Config,
    language: &'a LanguageModel,
    prepared: &'a [Prepared],
    lora: Lora,
    optimizer: AdamW,
    total: u64,
}

impl Trainer<'_> {
    /// One step on the samples `chosen`; returns its loss in nats per labelled token. `name` names a sample.
    fn step(
        &mut self,
        epoch: u64,
        step: u64,
        chosen: &[usize],
        name: &dyn Fn(usize) -> String,
        context: &Context,
    ) -> Result<f64> {
        let gemma = &self.language.gemma;
        let batch = Batch::new(chosen.iter().map(|&sample| &self.prepared[sample]), self.language.pad);
        let inputs = batch.inputs(gemma, None, EmbeddingScale::default());
        let weights = vec![1.0 / batch.targets.len() as f32; batch.targets.len()];
        let adapted = gemma.adapted(&self.lora);
        let (nll, gradients) = adapted.nll_and_adapter_gradients(inputs, &batch.labels, &batch.targets, &weights);
        let hint = "lower `lr`, or keep `clip` at 1";
        if let Some(place) = nll.iter().position(|nll| !nll.is_finite()) {
            let sample = name(chosen[batch.labels[place].0]);
            return Err(StageError::hint(format!("the loss is not finite in step {step}, {sample}"), hint));
        }
        let warm_up = (self.config.warmup * self.total as f64).round() as u64;
        let lr = self.config.lr * cosine_with_warm_up(step, warm_up, self.total);
        let (lora, norm) = self.optimizer.step(self.lora.clone(), &gradients, lr);
        if !norm.is_finite() {
            return Err(StageError::hint(format!("the gradient is not finite in step {step}"), hint));
        }
        self.lora = lora;
        let loss = nll.iter().map(|&nll| f64::from(nll)).sum::<f64>() / nll.len() as f64;
        context.metric(&json!({
            "step": step, "epoch": epoch, "loss": loss, "lr": lr, "gradient_norm": norm, "targets": nll.len(),
        }))?;
        Ok(loss)
    }

    /// Writes all that the next step depends on.
    fn keep(&self, folder: &Path, losses: &Losses) -> Result<()> {
        self.lora.save(folder, self.language.gemma.config())?;
        self.optimizer.save(&folder.join("optimizer.safetensors"))?;
        write_json(&folder.join("losses.json"), losses)
    }

    /// Reads back what [`Trainer::keep`] wrote.
    fn resume(&mut self, folder: &Path, device: &Device) -> Result<Losses> {
        self.lora = Lora::load(folder, self.language.gemma.config(), device)?;
        self.optimizer = AdamW::load(self.config.optimizer_settings(), &folder.join("optimizer.safetensors"), device)?;
        read_json(&folder.join("losses.json"))
    }
}

#[cfg(test)]
mod tests;
