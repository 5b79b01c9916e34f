//! Settings that a stage takes over from the training of the projector (or of the adapter) that it evaluates, where its file
//! does not set them: they stand among the stage's own, so that every kind knows them by the same names.

use burn::tensor::Device;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Inputs, Reference, Result, Upstream};
use crate::models::language::Precision;
use crate::social::material::Trained;
use crate::social::prompt::{Disabled, EmbeddingScale, Inject, Prompt, Samples, Tags, Truncation};

/// What text is read and what of it is predicted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Text {
    /// What one sample is.
    #[serde(default)]
    pub samples: Option<Samples>,
    /// Begin with BOS.
    #[serde(default)]
    pub bos: Option<bool>,
    /// End with EOS.
    #[serde(default)]
    pub append_eos: Option<bool>,
    /// Predict EOS too.
    #[serde(default)]
    pub label_eos: Option<bool>,
    /// Text before the first word (after the global token), never predicted.
    #[serde(default)]
    pub lead_in: Option<String>,
    /// Speaker or caption tags.
    #[serde(default)]
    pub tags: Option<Tags>,
    /// The tag of captions.
    #[serde(default)]
    pub caption_tag: Option<String>,
    /// Turns of context of `next_utterance`.
    #[serde(default)]
    pub context_turns: Option<usize>,
    /// Split a dialogue with too few turns into turns of this many words; 0 leaves it out.
    #[serde(default)]
    pub chunk_words: Option<usize>,
    /// Split it into turns of this many seconds instead; 0 leaves it out.
    #[serde(default)]
    pub chunk_seconds: Option<f64>,
    /// Longest sample in tokens.
    #[serde(default)]
    pub max_tokens: Option<usize>,
    /// What becomes of a longer one.
    #[serde(default)]
    pub truncation: Option<Truncation>,
}

/// How the language model reads it, with or without social tokens.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Reading {
    /// Whether the embedding scale acts on text rows before the injection or on everything after it.
    #[serde(default)]
    pub embedding_scale: Option<EmbeddingScale>,
    /// What becomes of the kind of social token that `inject` leaves out.
    #[serde(default)]
    pub disabled: Option<Disabled>,
    /// Precision in which the language model computes.
    #[serde(default)]
    pub precision: Option<Precision>,
    /// Added to the mean square in the projector's norms. A given projector does not tell: 1e-6 unless set here.
    #[serde(default)]
    pub norm_epsilon: Option<f64>,
    /// Hold the input and the gain of its ScaleShifts within ± this; 0 does not. A given projector does not tell.
    #[serde(default)]
    pub norm_clamp: Option<f64>,
}

/// Takes a setting over from the training of the projector, or of the adapter, or its default.
pub(super) fn inherit<T: DeserializeOwned>(field: &mut Option<T>, upstream: &Upstream, name: &str, otherwise: T) {
    if field.is_none() {
        let found = upstream.setting("projector", name).or_else(|| upstream.setting("adapter", name));
        *field = Some(found.unwrap_or(otherwise));
    }
}

/// Takes `inject` over; `none` where there is no projector to take it from.
pub(super) fn inherit_inject(inject: &mut Option<Inject>, projector: Option<&Reference>, upstream: &Upstream) {
    *inject = inject.or_else(|| upstream.setting("projector", "inject"));
    if projector.is_none() {
        *inject = inject.or(Some(Inject::None));
    }
}

impl Text {
    /// Takes over what is not set.
    pub(super) fn inherit(&mut self, upstream: &Upstream) {
        let default = Prompt::default();
        inherit(&mut self.samples, upstream, "samples", default.samples);
        inherit(&mut self.bos, upstream, "bos", default.bos);
        inherit(&mut self.append_eos, upstream, "append_eos", default.append_eos);
        inherit(&mut self.label_eos, upstream, "label_eos", default.label_eos);
        inherit(&mut self.lead_in, upstream, "lead_in", default.lead_in);
        inherit(&mut self.tags, upstream, "tags", default.tags);
        inherit(&mut self.caption_tag, upstream, "caption_tag", default.caption_tag);
        inherit(&mut self.context_turns, upstream, "context_turns", default.context_turns);
        inherit(&mut self.chunk_words, upstream, "chunk_words", default.chunk_words);
        inherit(&mut self.chunk_seconds, upstream, "chunk_seconds", default.chunk_seconds);
        inherit(&mut self.max_tokens, upstream, "max_tokens", default.max_tokens);
        inherit(&mut self.truncation, upstream, "truncation", default.truncation);
    }

    /// The prompt of an inject mode; what is not said here has its default.
    pub(super) fn prompt(&self, inject: Inject) -> Prompt {
        let default = Prompt::default();
        Prompt {
            inject,
            samples: self.samples.unwrap_or(default.samples),
            bos: self.bos.unwrap_or(default.bos),
            append_eos: self.append_eos.unwrap_or(default.append_eos),
            label_eos: self.label_eos.unwrap_or(default.label_eos),
            lead_in: self.lead_in.clone().unwrap_or(default.lead_in),
            tags: self.tags.unwrap_or(default.tags),
            caption_tag: self.caption_tag.clone().unwrap_or(default.caption_tag),
            context_turns: self.context_turns.unwrap_or(default.context_turns),
            chunk_words: self.chunk_words.unwrap_or(default.chunk_words),
            chunk_seconds: self.chunk_seconds.unwrap_or(default.chunk_seconds),
            max_tokens: self.max_tokens.unwrap_or(default.max_tokens),
            truncation: self.truncation.unwrap_or(default.truncation),
            ..default
        }
    }
}

impl Reading {
    /// Takes over what is not set, and drops what has no effect under `inject`.
    pub(super) fn inherit(&mut self, upstream: &Upstream, inject: Option<Inject>) {
        inherit(&mut self.precision, upstream, "precision", Precision::default());
        inherit(&mut self.embedding_scale, upstream, "embedding_scale", EmbeddingScale::default());
        inherit(&mut self.disabled, upstream, "disabled", Disabled::default());
        if inject == Some(Inject::None) {
            self.embedding_scale = Some(EmbeddingScale::default());
            (self.norm_epsilon, self.norm_clamp) = (None, None);
        }
        if matches!(inject, Some(Inject::None | Inject::Full)) {
            self.disabled = Some(Disabled::default());
        }
    }

    /// The prompt of an inject mode for a text that is read like this.
    pub(super) fn prompt(&self, text: &Text, inject: Inject) -> Prompt {
        Prompt { disabled: self.disabled.unwrap_or_default(), ..text.prompt(inject) }
    }

    /// The projector of the input `projector`, if there is one, with the norms as set.
    pub(super) fn projector(&self, inputs: &Inputs, device: &Device) -> Result<Option<Trained>> {
        let Some(input) = inputs.optional("projector") else { return Ok(None) };
        Ok(Some(Trained::load(&input.path, device)?.with_norms(self.norm_epsilon, self.norm_clamp)))
    }
}
