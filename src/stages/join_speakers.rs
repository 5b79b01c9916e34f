//! `join_speakers`: recordings of single persons become the dialogues that they have with each other.
//!
//! Seamless Interaction has a file per person and interaction; the original project merges the segments of both persons
//! by start and end, cuts at 120 s, and predicts each turn with the vectors of the person who says it (method notes,
//! sections 2.2 and 2.7). See `social/conversation.rs` for the form of the result.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::Size;
use super::{Context, Estimate, Expected, Inputs, Reference, Result, Stage, StageError, Summary};
use crate::social::conversation::{self, Counts};
use crate::social::times::Timing;
use crate::social::transcripts::{self, Selection};

/// See the module.
pub struct JoinSpeakers;

/// What becomes of a recording whose conversation has no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Alone {
    /// It is kept, as a dialogue of one person.
    #[default]
    Keep,
    /// It is left out.
    LeaveOut,
}

/// Settings of `join_speakers`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Transcripts, one per person and conversation, with ids as in the Seamless dataset: `V00_S0809_I00000582_P0947`.
    #[schemars(extend("x-accepts" = ["text"]))]
    pub text: Reference,
    /// Leave out words that end after this many seconds; 0 keeps all.
    #[serde(default = "max_seconds")]
    #[schemars(range(min = 0.0))]
    pub max_seconds: f64,
    /// What becomes of a recording whose conversation has no other.
    #[serde(default)]
    pub alone: Alone,
}

fn max_seconds() -> f64 {
    120.0
}

impl Stage for JoinSpeakers {
    const KIND: &'static str = "join_speakers";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Joins the recordings of a conversation's persons to a dialogue, turns in order of time";
    const GIVES: &'static [&'static str] = &["text"];
    type Config = Config;

    fn estimate(_config: &Config, inputs: &Expected) -> Estimate {
        let text = inputs.of("text");
        // Each of two persons' clips has the words of both.
        let [words, utterances] = [text.words, text.utterances].map(|count| count.map(|count| 2.0 * count));
        let size = Size { words, utterances, ..text.clone() };
        Estimate { items: text.clips_in("all"), size, ..Estimate::default() }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let mut clips = transcripts::load(&inputs.get("text")?.path, &Selection::default())?;
        let timing = Timing::of(&clips);
        let mut counts = Counts::default();
        if config.max_seconds > 0.0 {
            counts.words_cut = clips.iter_mut().map(|clip| conversation::cut(clip, config.max_seconds)).sum();
        }
        let mut joined = conversation::join(&clips, &mut counts)?;
        if counts.others == clips.len() {
            return Err(StageError::hint(
                "no clip's id names a person and a conversation",
                "ids must be written as in the Seamless dataset (`V00_S0809_I00000582_P0947`); text that is a dialogue \
                 already needs no `join_speakers`",
            ));
        }
        if config.alone == Alone::LeaveOut {
            let alone = conversation::alone(&clips);
            let kept = joined.into_iter().enumerate().filter(|(place, _)| !alone.contains(place));
            joined = kept.map(|(_, clip)| clip).collect();
        }
        transcripts::save(&context.folder().join("transcripts.jsonl"), &joined)?;
        let turns = joined.iter().flat_map(|clip| &clip.utterances);
        let mut summary = Summary::new();
        summary.insert("clips".into(), joined.len().into());
        summary.insert("conversations".into(), counts.conversations.into());
        summary.insert("alone".into(), counts.alone.into());
        summary.insert("others".into(), counts.others.into());
        summary.insert("turns".into(), turns.filter(|turn| turn.recording.is_none()).count().into());
        summary.insert("turns_without_time".into(), counts.turns_without_time.into());
        summary.insert("words_cut".into(), counts.words_cut.into());
        summary.insert("words_timed".into(), timing.timed.into());
        summary.insert("words_untimed".into(), timing.untimed.into());
        summary.insert("words_mistimed".into(), timing.mistimed.into());
        summary.insert("words_overlapping".into(), timing.overlapping.into());
        Ok(summary)
    }
}
