//! Settings of `train_projector` and their defaults.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::Reference;
use super::super::perplexity::{caption_index, language};
use crate::models::language::Precision;
use crate::models::optimizer::AdamWConfig;
use crate::models::projector::{Layers, SCALE_SHIFT_EPSILON};
use crate::social::material::Source;
use crate::social::pairing::Pairing;
use crate::social::prompt::{Disabled, EmbeddingScale, Inject, Prompt, Samples, Tags, Truncation};

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
    /// Whose vectors a clip gets while the projector is trained, in `split` and in `validation`. What evaluates it has its
    /// own `pairing`.
    #[serde(default)]
    pub pairing: Pairing,
    /// Draws the pairs of wrong clips.
    #[serde(default)]
    pub pairing_seed: u64,
    /// Its layers.
    #[serde(default)]
    pub layers: Layers,
    /// Width between its linear layers; 0 is the width of the language model.
    #[serde(default)]
    pub hidden: usize,
    /// Added to the mean square in its ScaleShifts, or to the variance in its LayerNorm.
    #[serde(default = "norm_epsilon")]
    #[schemars(range(min = 0.0))]
    pub norm_epsilon: f64,
    /// Hold the input and the gain of its ScaleShifts within ± this; 0 does not.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub norm_clamp: f64,
    /// Precision in which the language model computes; the projector is always f32.
    #[serde(default)]
    pub precision: Precision,
    /// Probability that training sets a hidden value to zero.
    #[serde(default = "dropout")]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
    /// Draws initial values, order, dropout and the noise of `source`.
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
    /// Split it into turns of this many seconds instead (at least 0.5); 0 leaves it out. Needs the times of words.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub chunk_seconds: f64,
    /// Read all `next_word` samples of a caption in one forward pass: the same probabilities as one by one, and `batch`
    /// counts captions. Captions for which that would not be the same (tags, words that share a token) stay one by one.
    #[serde(default)]
    pub one_pass: bool,
    /// What becomes of the kind of social token that `inject` leaves out; here, and in what evaluates the projector.
    #[serde(default)]
    pub disabled: Disabled,
    /// Longest sample in tokens.
    #[serde(default = "max_tokens")]
    #[schemars(range(min = 2))]
    pub max_tokens: usize,
    /// What becomes of a longer one.
    #[serde(default)]
    pub truncation: Truncation,
    /// Passes over the samples; not used when `steps` is given.
    #[serde(default = "epochs")]
    #[schemars(range(min = 1))]
    pub epochs: u64,
    /// Optimizer steps; 0 goes by `epochs`.
    #[serde(default)]
    pub steps: u64,
    /// Samples that are read at once; the last of an epoch may be fewer.
    #[serde(default = "batch")]
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Batches whose gradients make one step, weighted by their labelled tokens: as one batch of them all.
    #[serde(default = "accumulate")]
    #[schemars(range(min = 1))]
    pub accumulate: usize,
    /// The split whose loss is measured after every epoch, without dropout; left out there is none.
    #[serde(default)]
    pub validation: Option<String>,
    /// Which weights are kept.
    #[serde(default)]
    pub checkpoint: Keep,
    /// Stop after this many epochs without a lower validation loss; 0 goes on to the end.
    #[serde(default)]
    pub patience: usize,
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
    /// Write `metrics.csv` too, with the columns of the original project.
    #[serde(default)]
    pub original_metrics: bool,
    /// Write the first step's gradients to `gradients.safetensors`, before clipping.
    #[serde(default)]
    pub write_gradients: bool,
}

/// Which weights a training keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Those of the last step.
    #[default]
    Last,
    /// Those of the epoch with the lowest validation loss, the earlier of two equal ones. Needs `validation`.
    Best,
    /// `best` with `validation`, `last` without.
    BestOrLast,
}

pub(super) fn norm_epsilon() -> f64 {
    SCALE_SHIFT_EPSILON
}

fn accumulate() -> usize {
    1
}

pub(super) fn dropout() -> f64 {
    0.1
}

fn split() -> String {
    "train".to_owned()
}

fn yes() -> bool {
    true
}

pub(super) fn caption_tag() -> String {
    Prompt::default().caption_tag
}

pub(super) fn context_turns() -> usize {
    Prompt::default().context_turns
}

fn max_tokens() -> usize {
    Prompt::default().max_tokens
}

pub(super) fn epochs() -> u64 {
    5
}

fn batch() -> usize {
    32
}

fn lr() -> f64 {
    1e-4
}

pub(super) fn warmup() -> f64 {
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
    /// What samples are made of.
    pub(super) fn prompt(&self) -> Prompt {
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
            chunk_seconds: self.chunk_seconds,
            one_pass: self.one_pass,
            disabled: self.disabled,
            max_tokens: self.max_tokens,
            truncation: self.truncation,
        }
    }

    /// For AdamW.
    pub(super) fn optimizer_settings(&self) -> AdamWConfig {
        AdamWConfig {
            betas: (self.betas[0], self.betas[1]),
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            clip: (self.clip > 0.0).then_some(self.clip),
        }
    }
}
