//! The choices that turn text into what the language model reads: the vocabulary of `inject`, `samples`, `tags`, ….

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which social tokens the language model gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Inject {
    /// No social tokens.
    None,
    /// One global token at the front.
    Global,
    /// A local token after every noun and verb.
    Local,
    /// Global and local tokens.
    Full,
}

impl Inject {
    /// Is there a global token?
    pub fn global(self) -> bool {
        matches!(self, Self::Global | Self::Full)
    }

    /// Are there local tokens?
    pub fn local(self) -> bool {
        matches!(self, Self::Local | Self::Full)
    }
}

/// What one sample is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Samples {
    /// A whole utterance; every token of it is predicted.
    #[default]
    Utterance,
    /// One sample per word but the first: the words before it are the prompt.
    NextWord,
    /// One sample per turn of a dialogue: the turns before it are the prompt.
    NextUtterance,
}

/// Speaker or caption tags around turns (`[A]: `).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tags {
    /// No tags.
    #[default]
    None,
    /// Before each turn of the prompt and at its end; never predicted.
    Prompt,
    /// As `prompt`, and once more at the start of what is predicted, where it costs next to nothing (the original).
    Duplicated,
}

/// What becomes of the kind of social token that a mode of injection leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Disabled {
    /// Its places are not there.
    #[default]
    Removed,
    /// Its places stay, with a vector of zeros (the original at the time of the paper); with `none` there are no places.
    Zeroed,
}

/// What becomes of a sample that is longer than `max_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// It is an error.
    #[default]
    Refuse,
    /// Its end is cut off (the original). Only tokens of text count, so that every arm predicts the same.
    End,
}

/// Where the language model's embedding scale acts, seen from the injection of social tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingScale {
    /// Text rows are scaled before the injection; social tokens enter as the projector gives them.
    Before,
    /// Social tokens enter among unscaled rows and all are scaled after (the original).
    #[default]
    After,
}

/// Everything that decides what stands in a sample and what of it is predicted.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Which social tokens there are.
    pub inject: Inject,
    /// What one sample is.
    pub samples: Samples,
    /// Begin with the beginning-of-sequence token.
    pub bos: bool,
    /// End with the end-of-sequence token.
    pub append_eos: bool,
    /// Predict the end-of-sequence token too.
    pub label_eos: bool,
    /// Text before the first word (after the global token), never predicted.
    pub lead_in: String,
    /// Put what the picture shows, in words, before `lead_in`.
    pub oracle_text: bool,
    /// Speaker or caption tags.
    pub tags: Tags,
    /// The tag of captions.
    pub caption_tag: String,
    /// Turns of context of `next_utterance`.
    pub context_turns: usize,
    /// Split a dialogue with too few turns for `context_turns` into turns of this many words; 0 leaves it out.
    pub chunk_words: usize,
    /// Split such a dialogue into turns of this many seconds instead; 0 leaves it out.
    pub chunk_seconds: f64,
    /// Read the `next_word` samples of an utterance in one forward pass.
    pub one_pass: bool,
    /// What becomes of the kind of social token that `inject` leaves out.
    pub disabled: Disabled,
    /// Longest sample in tokens.
    pub max_tokens: usize,
    /// What becomes of a longer one.
    pub truncation: Truncation,
}

impl Prompt {
    /// Whether the kind of social token that is left out keeps its places.
    pub fn has_zeroed_places(&self) -> bool {
        self.disabled == Disabled::Zeroed && self.inject != Inject::None
    }

    /// Whether there are places of local tokens, filled or not.
    pub fn has_local_places(&self) -> bool {
        self.inject.local() || self.has_zeroed_places()
    }
}

impl Default for Prompt {
    fn default() -> Self {
        Self {
            inject: Inject::None,
            samples: Samples::Utterance,
            bos: true,
            append_eos: true,
            label_eos: false,
            lead_in: String::new(),
            oracle_text: false,
            tags: Tags::None,
            caption_tag: "[CAP]: ".to_owned(),
            context_turns: 1,
            chunk_words: 0,
            chunk_seconds: 0.0,
            one_pass: false,
            disabled: Disabled::Removed,
            max_tokens: 1024,
            truncation: Truncation::Refuse,
        }
    }
}
