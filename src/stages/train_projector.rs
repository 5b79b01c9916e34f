//! `train_projector`: next-token training of the projector through the frozen language model.
//!
//! The language model stays on the plain device and gives −ln p of the labelled tokens with the gradient at its inputs;
//! only the projector (and the constants of `source = "constant"`) is on the autodiff tape, and takes that gradient on
//! by the chain rule. The loss of a step is the mean over the labelled tokens of its batch. Order, dropout and initial
//! values come from streams named by seed, epoch and step. State between steps is weights, optimizer, epoch and step.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checkpoint::Checkpoints;
use super::perplexity::{caption_index, language};
use super::scene_packs::pos_set;
use super::{Context, Inputs, Reference, Result, Stage, StageError, Summary, Upstream};
use crate::models::checkpoint::{self, Checkpoint};
use crate::models::language::LanguageModel;
use crate::models::optimizer::{AdamW, AdamWConfig, cosine_with_warm_up};
use crate::models::projector::{Layers, Projector, ProjectorConfig, gain_out};
use crate::npy::{self, Array};
use crate::social::injection::{self, Bank, Batch, Prepared};
use crate::social::material::{self, Description, Source, Trained};
use crate::social::packs::{Packs, write_json};
use crate::social::prompt::{EmbeddingScale, Inject, Prompt, Samples, Tags};
use crate::social::samples::{self, Sequence};
use crate::social::transcripts::{self, Clip};
use crate::stats::random::Streams;

/// See the module.
pub struct TrainProjector;

/// Settings of `train_projector`.
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
    /// The clips' vectors.
    #[schemars(extend("x-accepts" = ["packs"]))]
    pub packs: Reference,
    /// The frozen language model.
    #[serde(default = "language")]
    #[schemars(extend("x-accepts" = ["language_model"]))]
    pub language: Reference,
    /// A projector to start from, instead of random weights.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["projector"]))]
    pub init: Option<Reference>,
    /// Which social tokens there are.
    pub inject: Inject,
    /// What the projector reads.
    #[serde(default)]
    pub source: Source,
    /// Its layers.
    #[serde(default)]
    pub layers: Layers,
    /// Width between its linear layers; 0 is the width of the language model.
    #[serde(default)]
    pub hidden: usize,
    /// Probability that training sets a hidden value to zero.
    #[serde(default = "dropout")]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
    /// Draws initial values, order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// The split to train on; `all` is every clip.
    #[serde(default = "split")]
    pub split: String,
    /// Of several captions of a clip this one, from 1; 0 takes all.
    #[serde(default = "caption_index")]
    pub caption_index: usize,
    /// What one sample is.
    #[serde(default)]
    pub samples: Samples,
    /// Begin with BOS.
    #[serde(default = "yes")]
    pub bos: bool,
    /// End with EOS.
    #[serde(default = "yes")]
    pub append_eos: bool,
    /// Predict EOS too.
    #[serde(default)]
    pub label_eos: bool,
    /// Whether the embedding scale acts on text rows before the injection or on everything after it.
    #[serde(default)]
    pub embedding_scale: EmbeddingScale,
    /// Text between the global token and the first word, never predicted.
    #[serde(default)]
    pub lead_in: String,
    /// Speaker or caption tags.
    #[serde(default)]
    pub tags: Tags,
    /// The tag of captions.
    #[serde(default = "caption_tag")]
    pub caption_tag: String,
    /// Turns of context of `next_utterance`.
    #[serde(default = "context_turns")]
    #[schemars(range(min = 1))]
    pub context_turns: usize,
    /// Split a dialogue with too few turns into turns of this many words; 0 leaves it out.
    #[serde(default)]
    pub chunk_words: usize,
    /// Longest sample in tokens.
    #[serde(default = "max_tokens")]
    #[schemars(range(min = 2))]
    pub max_tokens: usize,
    /// Passes over the samples; not used when `steps` is given.
    #[serde(default = "epochs")]
    #[schemars(range(min = 1))]
    pub epochs: u64,
    /// Optimizer steps; 0 goes by `epochs`.
    #[serde(default)]
    pub steps: u64,
    /// Samples per step; the last step of an epoch may have fewer.
    #[serde(default = "batch")]
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Largest learning rate.
    #[serde(default = "lr")]
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Steps of linear warm-up; left out it is `warmup` of all steps.
    #[serde(default)]
    pub warmup_steps: Option<u64>,
    /// Share of the steps that warm up.
    #[serde(default = "warmup")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warmup: f64,
    /// Decoupled weight decay on all weights.
    #[serde(default = "weight_decay")]
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// AdamW's decay of the gradients' mean and of their squares' mean.
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    /// AdamW's ε.
    #[serde(default = "epsilon")]
    #[schemars(range(min = 0.0))]
    pub epsilon: f64,
    /// Largest norm of all gradients together; 0 does not clip.
    #[serde(default = "clip")]
    #[schemars(range(min = 0.0))]
    pub clip: f64,
    /// Write the first step's gradients to `gradients.safetensors`, before clipping.
    #[serde(default)]
    pub write_gradients: bool,
}

fn dropout() -> f64 {
    0.1
}

fn split() -> String {
    "train".to_owned()
}

fn yes() -> bool {
    true
}

fn caption_tag() -> String {
    Prompt::default().caption_tag
}

fn context_turns() -> usize {
    Prompt::default().context_turns
}

fn max_tokens() -> usize {
    Prompt::default().max_tokens
}

fn epochs() -> u64 {
    5
}

fn batch() -> usize {
    32
}

fn lr() -> f64 {
    1e-4
}

fn warmup() -> f64 {
    0.1
}

fn weight_decay() -> f64 {
    0.05
}

fn betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn epsilon() -> f64 {
    1e-8
}

fn clip() -> f64 {
    1.0
}

impl Config {
    fn prompt(&self) -> Prompt {
        Prompt {
            inject: self.inject,
            samples: self.samples,
            bos: self.bos,
            append_eos: self.append_eos,
            label_eos: self.label_eos,
            lead_in: self.lead_in.clone(),
            oracle_text: false,
            tags: self.tags,
            caption_tag: self.caption_tag.clone(),
            context_turns: self.context_turns,
            chunk_words: self.chunk_words,
            max_tokens: self.max_tokens,
        }
    }

    fn optimizer_settings(&self) -> AdamWConfig {
        AdamWConfig {
            betas: (self.betas[0], self.betas[1]),
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            clip: (self.clip > 0.0).then_some(self.clip),
        }
    }
}

/// Where the first step's gradients go.
const GRADIENTS: &str = "gradients.safetensors";

/// How many steps there are and how they fall into epochs.
struct Schedule {
    total: u64,
    per_epoch: u64,
    warm_up: u64,
}

impl Schedule {
    fn of(config: &Config, samples: usize) -> Self {
        let per_epoch = samples.div_ceil(config.batch) as u64;
        let total = if config.steps > 0 { config.steps } else { config.epochs * per_epoch };
        let warm_up = config.warmup_steps.unwrap_or((config.warmup * total as f64).round() as u64);
        Self { total, per_epoch, warm_up }
    }
}

/// What is trained.
#[derive(Module, Debug)]
struct Trainable {
    projector: Projector,
    /// `[2, dim]`, with `source = "constant"`.
    constants: Option<Param<Tensor<2>>>,
}

impl Stage for TrainProjector {
    const KIND: &'static str = "train_projector";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str =
        "Trains the projector that turns a clip's vectors into social tokens, through the frozen language model";
    const GIVES: &'static [&'static str] = &["projector"];
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &Upstream) {
        if config.steps > 0 {
            config.epochs = epochs();
        }
        if config.warmup_steps.is_some() {
            config.warmup = warmup();
        }
        if config.tags == Tags::None || config.samples == Samples::Utterance {
            config.caption_tag = caption_tag();
        }
        if config.samples == Samples::Utterance {
            config.tags = Tags::None;
        }
        if config.samples != Samples::NextUtterance {
            config.context_turns = context_turns();
            config.chunk_words = 0;
        }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        if config.inject == Inject::None {
            return Err(StageError::hint(
                "with `inject = \"none\"` there is nothing to train",
                "set `inject` to `global`, `local` or `full`; a stage that evaluates `none` needs no projector",
            ));
        }
        let language = material::language(inputs, context)?;
        let plain = language.gemma.device();
        let clips = load_clips(config, inputs)?;
        let packs = material::packs(inputs, config.inject, &clips)?;
        let (places, prompt) = (material::places(&packs, &clips)?, config.prompt());
        let locals = |clip: &str| material::locals_of(Some(&packs), clip);
        let sequences = samples::build(&clips, &prompt, &pos_set(), &*language, locals)?;
        let (sequences, dropped) = worth_training(sequences);
        if sequences.is_empty() {
            return Err(StageError::hint(
                format!("none of {dropped} samples has a social token before something to predict"),
                "the words of this split may lack parts of speech of `pos_set`: give `pos` for them, or set \
                 `inject = \"global\"`",
            ));
        }
        let bank = match config.source {
            Source::Features => Bank::of_features(&packs),
            Source::Constant | Source::Mean => Bank::of_constants(&packs, Bank::means(&packs, &places)),
        };
        let prepared = injection::prepare(&sequences, Some(&bank), &places, &places, language.pad)?;
        let streams = Streams::new(config.seed, Self::KIND);
        let tracked = plain.clone().autodiff();
        let constants = (config.source == Source::Constant)
            .then(|| Param::from_tensor(material::uploaded(&bank.vectors, &tracked)));
        let mut trainer = Trainer {
            config,
            language: &language,
            prepared: &prepared,
            vectors: material::uploaded(&bank.vectors, &plain),
            schedule: Schedule::of(config, prepared.len()),
            model: Trainable {
                projector: first_projector(config, inputs, &language, &packs, &streams, &tracked)?,
                constants,
            },
            optimizer: AdamW::new(config.optimizer_settings()),
            streams,
            tracked,
        };
        let name = |sample: usize| {
            let sequence: &Sequence = &sequences[sample];
            format!("clip `{}`, utterance {}", clips[sequence.clip].clip_id, sequence.utterance)
        };
        let mut checkpoints = Checkpoints::new(context);
        let mut losses = Losses::default();
        let mut begin = 0;
        if let Some((step, folder)) = checkpoints.resume()? {
            begin = step;
            losses = trainer.resume(&folder, context)?;
        }
        let mut order = Vec::new();
        for step in begin..trainer.schedule.total {
            let (epoch, place) = (step / trainer.schedule.per_epoch, (step % trainer.schedule.per_epoch) as usize);
            if place == 0 || order.is_empty() {
                order = trainer.streams.at(epoch, 0, "order").permutation(prepared.len());
            }
            let chosen = &order[place * config.batch..((place + 1) * config.batch).min(order.len())];
            losses.last = trainer.step(epoch, step, chosen, &name, context)?;
            losses.first.get_or_insert(losses.last);
            let write = |folder: &Path| trainer.keep(folder, &losses, context);
            checkpoints.advance(step + 1, trainer.schedule.total, write)?;
        }
        let model = trainer.model;
        let origin = Origin {
            language: inputs.get("language")?.digest.clone(),
            clips: clips.iter().map(|clip| clip.clip_id.clone()).collect(),
        };
        save(config, &model, &bank, &packs, &places, origin, context)?;
        let mut summary = Summary::new();
        summary.insert("first_loss".into(), losses.first.into());
        summary.insert("last_loss".into(), losses.last.into());
        summary.insert("steps".into(), trainer.schedule.total.into());
        summary.insert("samples".into(), prepared.len().into());
        summary.insert("samples_without_tokens".into(), dropped.into());
        summary.insert("parameters".into(), model.num_params().into());
        Ok(summary)
    }
}

fn load_clips(config: &Config, inputs: &Inputs) -> Result<Vec<Clip>> {
    let selection = material::selection(inputs, &config.split, config.caption_index);
    transcripts::load(&inputs.get("text")?.path, &selection)
}

/// Samples with something to predict and a social token that stands before some of it; and how many have not.
fn worth_training(sequences: Vec<Sequence>) -> (Vec<Sequence>, usize) {
    let all = sequences.len();
    let teaches = |sequence: &Sequence| {
        let first = sequence.slots.iter().position(|slot| slot.id().is_none());
        let last = sequence.targets.last().map(|target| target.position);
        matches!((first, last), (Some(first), Some(last)) if first < last)
    };
    let kept: Vec<Sequence> = sequences.into_iter().filter(teaches).collect();
    let dropped = all - kept.len();
    (kept, dropped)
}

fn first_projector(
    config: &Config,
    inputs: &Inputs,
    language: &LanguageModel,
    packs: &Packs,
    streams: &Streams,
    device: &Device,
) -> Result<Projector> {
    let output = language.gemma.config().hidden;
    let shape = ProjectorConfig {
        layers: config.layers,
        hidden: if config.hidden == 0 { output } else { config.hidden },
        dropout: config.dropout,
        ..ProjectorConfig::original(packs.dim(), output)
    };
    let Some(given) = inputs.optional("init") else {
        let scale =
            if config.embedding_scale == EmbeddingScale::Before { language.gemma.embedding_scale() } else { 1.0 };
        let gain = gain_out(language.gemma.embedding_matrix()) * scale;
        return Ok(Projector::init(&shape, gain, streams, device));
    };
    let projector = Trained::load(&given.path, device)?.projector;
    let found = projector.config();
    let same = (found.layers, found.input, found.output) == (shape.layers, shape.input, shape.output);
    if same && (config.hidden == 0 || found.hidden == config.hidden) {
        return Ok(projector);
    }
    Err(StageError::hint(
        format!(
            "the projector of `init` has {:?} layers of {} → {} → {}, this stage wants {:?} of {} → {} → {}",
            found.layers,
            found.input,
            found.hidden,
            found.output,
            shape.layers,
            shape.input,
            shape.hidden,
            shape.output
        ),
        "set `layers` and `hidden` to those of `init`, and use the same encoder and language model",
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
    /// `[rows, dim]` on the plain device.
    vectors: Tensor<2>,
    schedule: Schedule,
    model: Trainable,
    optimizer: AdamW,
    streams: Streams,
    tracked: Device,
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
        let (config, gemma) = (self.config, &self.language.gemma);
        let batch = Batch::new(chosen.iter().map(|&sample| &self.prepared[sample]), self.language.pad);
        let read = match &self.model.constants {
            Some(constants) => batch.projector_inputs(&constants.val()),
            None => batch.projector_inputs(&self.vectors).autodiff(),
        };
        let projected = self.model.projector.forward(read, self.dropout(epoch, step, batch.rows.len()));
        let social = batch.social(projected);
        let inputs = batch.inputs(gemma, Some(social.clone().without_autodiff()), config.embedding_scale);
        let weights = vec![1.0 / batch.targets.len() as f32; batch.targets.len()];
        let (nll, gradient) = gemma.nll_and_gradient(inputs, &batch.labels, &batch.targets, &weights);
        if let Some(place) = nll.iter().position(|nll| !nll.is_finite()) {
            return Err(StageError::hint(
                format!("the loss is not finite in step {step}, {}", name(chosen[batch.labels[place].0])),
                "lower `lr`, keep `clip` at 1, and look at the features of this clip",
            ));
        }
        let gradient = batch.social_gradient(gradient, gemma, config.embedding_scale);
        let gradients = (social * gradient.autodiff()).sum().backward();
        if config.write_gradients && step == 0 {
            let path = context.folder().join(GRADIENTS);
            checkpoint::save(&path, self.model.projector.named_gradients(&gradients))?;
        }
        let lr = config.lr * cosine_with_warm_up(step, self.schedule.warm_up, self.schedule.total);
        let (model, norm) = self.optimizer.step(self.model.clone(), &gradients, lr);
        if !norm.is_finite() {
            return Err(StageError::hint(
                format!("the gradient is not finite in step {step}, which begins with {}", name(chosen[0])),
                "lower `lr`, keep `clip` at 1, and look at the features of these clips",
            ));
        }
        self.model = model;
        let loss = nll.iter().map(|&nll| f64::from(nll)).sum::<f64>() / nll.len() as f64;
        context.metric(&json!({
            "step": step, "epoch": epoch, "loss": loss, "lr": lr, "gradient_norm": norm, "targets": nll.len(),
        }))?;
        Ok(loss)
    }

    /// Writes all that the next step depends on.
    fn keep(&self, folder: &Path, losses: &Losses, context: &Context) -> Result<()> {
        self.model.projector.save(&folder.join("projector.safetensors"))?;
        if let Some(constants) = &self.model.constants {
            let data = constants.val().without_autodiff().into_data();
            checkpoint::save(&folder.join("constants.safetensors"), vec![("constants".to_owned(), data)])?;
        }
        self.optimizer.save(&folder.join("optimizer.safetensors"))?;
        let gradients = context.folder().join(GRADIENTS);
        if gradients.is_file() {
            std::fs::copy(&gradients, folder.join(GRADIENTS)).map_err(StageError::io(&gradients))?;
        }
        write_json(&folder.join("losses.json"), losses)
    }

    /// Reads back what [`Trainer::keep`] wrote.
    fn resume(&mut self, folder: &Path, context: &Context) -> Result<Losses> {
        let path = folder.join("projector.safetensors");
        let shape = self.model.projector.config().clone();
        self.model.projector = Projector::load(&path, Some(&shape), &self.tracked)?;
        if let Some(constants) = &mut self.model.constants {
            let data = Checkpoint::open(&folder.join("constants.safetensors"))?.data("constants", DType::F32)?;
            *constants = Param::from_tensor(Tensor::from_data(data, &self.tracked));
        }
        self.optimizer =
            AdamW::load(self.config.optimizer_settings(), &folder.join("optimizer.safetensors"), &self.tracked)?;
        let gradients = folder.join(GRADIENTS);
        if gradients.is_file() {
            std::fs::copy(&gradients, context.folder().join(GRADIENTS)).map_err(StageError::io(&gradients))?;
        }
        let path = folder.join("losses.json");
        let text = std::fs::read(&path).map_err(StageError::io(&path))?;
        serde_json::from_slice(&text).map_err(|error| StageError::new(format!("`{}`: {error}", path.display())))
    }

    /// Dropout factors `[rows, hidden]` of a step.
    fn dropout(&self, epoch: u64, step: u64, rows: usize) -> Option<Tensor<2>> {
        let hidden = self.model.projector.config().hidden;
        (self.config.dropout > 0.0).then(|| {
            let factors = self.streams.at(epoch, step, "dropout").dropout(rows * hidden, self.config.dropout);
            Tensor::from_data(TensorData::new(factors, [rows, hidden]), &self.tracked)
        })
    }
}

/// What the projector must be able to tell of its training.
struct Origin {
    /// Digest of the language model.
    language: String,
    /// Clips trained on.
    clips: Vec<String>,
}

/// Writes the weights, which must be finite, what they are, the constants that they read, and the social tokens of the training clips.
fn save(
    config: &Config,
    model: &Trainable,
    bank: &Bank,
    packs: &Packs,
    places: &[usize],
    origin: Origin,
    context: &Context,
) -> Result<()> {
    let folder = context.folder();
    let weights = model.projector.named_values();
    if let Some((name, _)) = weights.iter().find(|(_, data)| data.iter::<f32>().any(|value| !value.is_finite())) {
        return Err(StageError::hint(
            format!("the trained weight `{name}` is not finite"),
            "lower `lr`, keep `clip` at 1, and look at `metrics.jsonl`",
        ));
    }
    model.projector.save(&folder.join("projector.safetensors"))?;
    let settings = serde_json::to_value(config).map_err(|error| StageError::new(error.to_string()))?;
    let description = Description {
        shape: model.projector.config().clone(),
        source: config.source,
        inject: config.inject,
        settings,
        language: Some(origin.language),
        trained_on: origin.clips,
    };
    write_json(&folder.join("projector.json"), &description)?;
    let constants = match (&model.constants, config.source) {
        (Some(constants), _) => {
            Some(Array::new([2, packs.dim()], material::downloaded(constants.val().without_autodiff())?))
        }
        (None, Source::Mean) => Some(bank.vectors.clone()),
        (None, _) => None,
    };
    if let Some(constants) = &constants {
        npy::write(&folder.join("constants.npy"), constants)?;
    }
    let trained = Trained::load(folder, &model.projector.device().without_autodiff())?;
    let tokens = social_tokens(config.inject, &trained, packs, places)?;
    let named: Vec<(&str, &Array<f32>)> = tokens.iter().map(|(name, array)| (*name, array)).collect();
    Ok(npy::write_npz(&folder.join("social_tokens.npz"), named)?)
}

/// The projected vectors of the training clips: `global` `[clips, hidden]` in the order of the text, `local`
/// `[locals, hidden]` in the order of the packs; of constants one row each.
fn social_tokens(
    inject: Inject,
    trained: &Trained,
    packs: &Packs,
    places: &[usize],
) -> Result<Vec<(&'static str, Array<f32>)>> {
    let device = trained.projector.device();
    let project = |rows: Vec<&[f32]>| -> Result<Array<f32>> {
        let (count, hidden) = (rows.len(), trained.projector.config().output);
        let mut values = Vec::with_capacity(count * hidden);
        for rows in rows.chunks(1024) {
            let input = Array::new([rows.len(), rows[0].len()], rows.concat());
            values.extend(material::downloaded(trained.projector.forward(material::uploaded(&input, &device), None))?);
        }
        Ok(Array::new([count, hidden], values))
    };
    let locals = || places.iter().flat_map(|&clip| &packs.clips[clip].locals).map(|local| packs.locals.row(local.row));
    let rows = |global: bool| match (&trained.constants, global) {
        (Some(constants), _) => vec![constants.row(usize::from(!global))],
        (None, true) => places.iter().map(|&clip| packs.global.row(clip)).collect(),
        (None, false) => locals().collect(),
    };
    let mut tokens = Vec::new();
    if inject.global() {
        tokens.push(("global", project(rows(true))?));
    }
    if inject.local() {
        tokens.push(("local", project(rows(false))?));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;
