//! Samples: what the language model reads, where social tokens stand in it, and which tokens are predicted from where.
//!
//! Order in every arm: BOS, SOC-G, oracle text, lead-in, tags and text with a SOC-L after the last token that overlaps
//! each word of the packs, EOS. Text is encoded in one piece, whatever is put between its tokens, so ids and labels are
//! the same in every arm.

mod builder;
mod turns;
mod words;

use std::collections::BTreeMap;

use super::packs::Local;
use super::prompt::{Prompt, Samples, Truncation};
use super::transcripts::Clip;
use crate::stages::{Result, StageError};
use builder::{Builder, Piece};

/// Ids of a text with the characters that each stands for (`start` inclusive, `end` exclusive).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Characters of each token.
    pub offsets: Vec<(usize, usize)>,
}

/// What turns text into tokens, without adding any of its own.
pub trait Encode {
    /// Ids and characters of `text`.
    fn encode(&self, text: &str) -> Result<Encoded>;
    /// The beginning-of-sequence id.
    fn bos(&self) -> u32;
    /// The end-of-sequence id.
    fn eos(&self) -> u32;
}

/// One position of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Beginning of the sequence.
    Bos(u32),
    /// A token of text, lead-in or tag.
    Text(u32),
    /// The global social token.
    Global,
    /// A local social token: its number among the locals of the clip.
    Local(usize),
    /// The place of a social token that the mode of injection leaves out, held by a vector of zeros.
    Zeroed,
    /// End of the sequence.
    Eos(u32),
}

impl Slot {
    /// The token id; `None` for a social token and for the place of one.
    pub fn id(self) -> Option<u32> {
        match self {
            Self::Bos(id) | Self::Text(id) | Self::Eos(id) => Some(id),
            Self::Global | Self::Local(_) | Self::Zeroed => None,
        }
    }

    /// Is it made by the projector?
    pub fn is_social(self) -> bool {
        matches!(self, Self::Global | Self::Local(_))
    }
}

/// What kind of token is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Of a noun or verb.
    Content,
    /// Of another word.
    Function,
    /// Between words, or of a word that nothing has given a part of speech.
    Text,
    /// Of a speaker or caption tag.
    Tag,
    /// The end of the sequence.
    Eos,
}

impl Class {
    /// As in `targets.csv`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Function => "function",
            Self::Text => "text",
            Self::Tag => "tag",
            Self::Eos => "eos",
        }
    }
}

/// A predicted token.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its position; it is predicted from the one before.
    pub position: usize,
    /// Its id.
    pub id: u32,
    /// Number of its word in the utterance.
    pub word: Option<usize>,
    /// What it is.
    pub class: Class,
    /// Running number among the targets of its utterance, the same in every arm.
    pub number: usize,
    /// Exact bits of its word, carried by the word's first token.
    pub true_bits: Option<f64>,
    /// Bits of its word that full knowledge of the picture leaves, carried by the word's first token.
    pub floor_bits: Option<f64>,
    /// Bytes (UTF-8) of the text that it adds to the tokens before it; 0 for a tag and for EOS.
    pub bytes: usize,
}

/// One sample, or several that are read together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    /// Number of the clip in the clips given.
    pub clip: usize,
    /// Number of the predicted utterance in its clip.
    pub utterance: usize,
    /// What the model reads.
    pub slots: Vec<Slot>,
    /// What is predicted, in order of position.
    pub targets: Vec<Target>,
    /// How many samples it stands for: more than one where `next_word` samples are read in one pass.
    pub samples: usize,
    /// End of the context in seconds, after which nothing may be seen if the global token is causal; `None` where no
    /// time is known, infinite where nothing is predicted.
    pub until: Option<f64>,
}

/// Builds the samples of clips. `locals` gives the local tokens of a clip in order of the text (only asked for when
/// they are injected); `pos_set` tells content from function words in the classes of targets.
pub fn build<'a>(
    clips: &[Clip],
    prompt: &Prompt,
    pos_set: &[String],
    tokenizer: &dyn Encode,
    locals: impl Fn(&str) -> Result<&'a [Local]>,
) -> Result<Vec<Sequence>> {
    if prompt.chunk_words > 0 && prompt.chunk_seconds > 0.0 {
        return Err(StageError::hint(
            "both `chunk_words` and `chunk_seconds` are set",
            "set one of them to 0: a dialogue is split by words or by time",
        ));
    }
    let mut sequences = Vec::new();
    for (number, clip) in clips.iter().enumerate() {
        let locals = if prompt.has_local_places() { locals(&clip.clip_id)? } else { &[] };
        let mut builder =
            Builder { number, clip, prompt, pos_set, tokenizer, locals, counts: BTreeMap::new(), done: Vec::new() };
        match prompt.samples {
            Samples::Utterance => builder.utterances()?,
            Samples::NextWord => builder.next_words()?,
            Samples::NextUtterance => builder.next_utterances()?,
        }
        sequences.append(&mut builder.done);
    }
    if prompt.truncation == Truncation::End {
        sequences.iter_mut().for_each(|sequence| cut(sequence, prompt.max_tokens));
        sequences.retain(|sequence| !sequence.targets.is_empty());
    } else if let Some(long) = sequences.iter().find(|sequence| sequence.slots.len() > prompt.max_tokens) {
        return Err(StageError::hint(
            format!(
                "a sample of clip `{}` has {} tokens, more than `max_tokens` {}",
                clips[long.clip].clip_id,
                long.slots.len(),
                prompt.max_tokens
            ),
            "raise `max_tokens`, give fewer turns of context, or set `truncation = \"end\"` to cut as the original does",
        ));
    }
    if sequences.iter().all(|sequence| sequence.targets.is_empty()) {
        return Err(StageError::hint(
            "the text gives no sample with anything to predict",
            "`next_word` needs two words, `next_utterance` more turns than `context_turns`",
        ));
    }
    Ok(sequences)
}

/// Keeps the first `most` tokens of text (social tokens not counted, so that every arm keeps the same) and what is
/// predicted among them.
fn cut(sequence: &mut Sequence, most: usize) {
    let mut text = sequence.slots.iter().enumerate().filter(|(_, slot)| slot.id().is_some());
    if let Some((beyond, _)) = text.nth(most) {
        sequence.slots.truncate(beyond);
        sequence.targets.retain(|target| target.position < beyond);
    }
}

/// Digest (hex) of what is predicted: clip, utterance, number, word, id and class of every target in this order. Arms
/// that may be compared have the same.
pub fn targets_digest(clips: &[Clip], sequences: &[Sequence]) -> String {
    let mut hasher = blake3::Hasher::new();
    for sequence in sequences {
        for target in &sequence.targets {
            let word = target.word.map_or(u64::MAX, |word| word as u64);
            let numbers = [sequence.utterance as u64, target.number as u64, word, u64::from(target.id)];
            hasher.update(clips[sequence.clip].clip_id.as_bytes()).update(b"\0");
            numbers.iter().for_each(|number| {
                hasher.update(&number.to_le_bytes());
            });
            hasher.update(target.class.name().as_bytes()).update(b"\0");
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// The whole text of each clip as one sequence without targets: what representations are taken from. A clip whose
/// utterances are several captions is an error.
pub fn whole<'a>(
    clips: &[Clip],
    prompt: &Prompt,
    tokenizer: &dyn Encode,
    locals: impl Fn(&str) -> Result<&'a [Local]>,
) -> Result<Vec<Sequence>> {
    let mut sequences = Vec::new();
    for (number, clip) in clips.iter().enumerate() {
        if clip.captions && clip.utterances.len() > 1 {
            return Err(StageError::hint(
                format!("clip `{}` has {} captions", clip.clip_id, clip.utterances.len()),
                "choose one with `caption_index`",
            ));
        }
        let locals = if prompt.has_local_places() { locals(&clip.clip_id)? } else { &[] };
        let mut builder = Builder {
            number,
            clip,
            prompt,
            pos_set: &[],
            tokenizer,
            locals,
            counts: BTreeMap::new(),
            done: Vec::new(),
        };
        let mut sequence = builder.opened(0, Some(f64::INFINITY));
        builder.fronted(&mut sequence, clip.utterances.first())?;
        for (place, utterance) in clip.utterances.iter().enumerate() {
            let before = if place == 0 { "" } else { " " };
            builder.text(&mut sequence, &Piece::of(utterance, before, 0..utterance.words.len(), true))?;
        }
        builder.closed(sequence, None);
        sequences.append(&mut builder.done);
    }
    Ok(sequences)
}

#[cfg(test)]
mod tests;
