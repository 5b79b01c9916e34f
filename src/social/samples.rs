//! Samples: what the language model reads, where social tokens stand in it, and which tokens are predicted from where.
//!
//! Order in every arm: BOS, SOC-G, oracle text, lead-in, tags and text with a SOC-L after the last token that overlaps
//! each word of the packs, EOS. Text is encoded in one piece, whatever is put between its tokens, so ids and labels are
//! the same in every arm.

use std::collections::BTreeMap;
use std::ops::Range;

use super::alignment::{last_tokens, words_of_tokens};
use super::packs::Local;
use super::prompt::{Prompt, Samples, Tags};
use super::transcripts::{Clip, Utterance};
use crate::stages::{Result, StageError};

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
    /// End of the sequence.
    Eos(u32),
}

impl Slot {
    /// The token id; `None` for a social token.
    pub fn id(self) -> Option<u32> {
        match self {
            Self::Bos(id) | Self::Text(id) | Self::Eos(id) => Some(id),
            Self::Global | Self::Local(_) => None,
        }
    }
}

/// What kind of token is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Of a noun or verb.
    Content,
    /// Of another word.
    Function,
    /// Of a word whose part of speech is not known, or between words.
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
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Number of the clip in the clips given.
    pub clip: usize,
    /// Number of the predicted utterance in its clip.
    pub utterance: usize,
    /// What the model reads.
    pub slots: Vec<Slot>,
    /// What is predicted, in order of position.
    pub targets: Vec<Target>,
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
    let mut sequences = Vec::new();
    for (number, clip) in clips.iter().enumerate() {
        let locals = if prompt.inject.local() { locals(&clip.clip_id)? } else { &[] };
        let mut builder =
            Builder { number, clip, prompt, pos_set, tokenizer, locals, counts: BTreeMap::new(), done: Vec::new() };
        match prompt.samples {
            Samples::Utterance => builder.utterances()?,
            Samples::NextWord => builder.next_words()?,
            Samples::NextUtterance => builder.next_utterances()?,
        }
        sequences.append(&mut builder.done);
    }
    if let Some(long) = sequences.iter().find(|sequence| sequence.slots.len() > prompt.max_tokens) {
        return Err(StageError::hint(
            format!(
                "a sample of clip `{}` has {} tokens, more than `max_tokens` {}",
                clips[long.clip].clip_id,
                long.slots.len(),
                prompt.max_tokens
            ),
            "raise `max_tokens`, or give fewer turns of context",
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
        let locals = if prompt.inject.local() { locals(&clip.clip_id)? } else { &[] };
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
        let mut sequence = builder.opened(0);
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

/// A stretch of words of an utterance.
#[derive(Clone, Debug)]
struct Piece<'a> {
    utterance: &'a Utterance,
    /// Put before the text and encoded with it (a space, a tag).
    before: String,
    /// How many characters of `before` are a tag.
    tag: usize,
    words: Range<usize>,
    /// Characters of the utterance's text.
    span: Range<usize>,
    locals: bool,
    predicted: bool,
}

impl<'a> Piece<'a> {
    /// From after the word before `words` (or the beginning) to the end of `words` (of the text, for the last word);
    /// a space at the beginning is left to `before`.
    fn of(utterance: &'a Utterance, before: &str, words: Range<usize>, locals: bool) -> Self {
        let all = &utterance.words;
        let start = if words.start == 0 { 0 } else { all[words.start - 1].span.1 };
        let end = if words.end == all.len() { utterance.text.chars().count() } else { all[words.end - 1].span.1 };
        let start = if utterance.text.chars().nth(start) == Some(' ') { start + 1 } else { start };
        Self { utterance, before: before.to_owned(), tag: 0, words, span: start..end, locals, predicted: false }
    }

    fn predicted(mut self, tag: usize) -> Self {
        self.tag = tag;
        self.predicted = true;
        self
    }
}

struct Builder<'a> {
    number: usize,
    clip: &'a Clip,
    prompt: &'a Prompt,
    pos_set: &'a [String],
    tokenizer: &'a dyn Encode,
    locals: &'a [Local],
    /// Targets so far of each utterance.
    counts: BTreeMap<usize, usize>,
    done: Vec<Sequence>,
}

impl<'a> Builder<'a> {
    fn utterances(&mut self) -> Result<()> {
        for utterance in &self.clip.utterances {
            let mut sequence = self.opened(utterance.index);
            self.fronted(&mut sequence, Some(utterance))?;
            let piece = Piece::of(utterance, "", 0..utterance.words.len(), true).predicted(0);
            self.text(&mut sequence, &piece)?;
            self.closed(sequence, Some(utterance));
        }
        Ok(())
    }

    fn next_words(&mut self) -> Result<()> {
        let tag = if self.prompt.tags == Tags::None { String::new() } else { self.prompt.caption_tag.clone() };
        for utterance in &self.clip.utterances {
            for word in 1..utterance.words.len() {
                let mut sequence = self.opened(utterance.index);
                self.fronted(&mut sequence, Some(utterance))?;
                self.text(&mut sequence, &Piece::of(utterance, &tag, 0..word, true))?;
                let space = if tag.is_empty() { self.gap(utterance, word) } else { "" };
                let piece = match self.prompt.tags {
                    Tags::None => Piece::of(utterance, space, word..word + 1, false).predicted(0),
                    Tags::Prompt => {
                        self.plain(&mut sequence, &format!(" {}", tag.trim_end()))?;
                        Piece::of(utterance, " ", word..word + 1, false).predicted(0)
                    }
                    Tags::Duplicated => {
                        self.plain(&mut sequence, &format!(" {tag}"))?;
                        let tag_length = tag.trim_end().chars().count();
                        Piece::of(utterance, &tag, word..word + 1, false).predicted(tag_length)
                    }
                };
                self.text(&mut sequence, &piece)?;
                let last = word + 1 == utterance.words.len();
                self.closed(sequence, last.then_some(utterance));
            }
        }
        Ok(())
    }

    /// What stands between the word before `word` and `word`: a space, or nothing where they touch.
    fn gap(&self, utterance: &Utterance, word: usize) -> &'static str {
        let place = utterance.words[word - 1].span.1;
        if utterance.text.chars().nth(place) == Some(' ') { " " } else { "" }
    }

    fn next_utterances(&mut self) -> Result<()> {
        let context = self.prompt.context_turns;
        let mut turns: Vec<(&'a Utterance, Range<usize>)> =
            self.clip.utterances.iter().map(|utterance| (utterance, 0..utterance.words.len())).collect();
        if turns.len() <= context && self.prompt.chunk_words > 0 {
            let chunk = self.prompt.chunk_words;
            turns = turns
                .iter()
                .flat_map(|(utterance, words)| {
                    let end = words.end;
                    (0..end).step_by(chunk).map(move |start| (*utterance, start..(start + chunk).min(end)))
                })
                .collect();
        }
        for turn in context..turns.len() {
            let (target, words) = turns[turn].clone();
            let mut sequence = self.opened(target.index);
            self.fronted(&mut sequence, Some(target))?;
            for (place, (utterance, words)) in turns[turn - context..turn].iter().enumerate() {
                let space = if place == 0 { "" } else { " " };
                let before = format!("{space}{}", self.tag(utterance));
                let last = place + 1 == context;
                self.text(&mut sequence, &Piece::of(utterance, &before, words.clone(), last))?;
            }
            let tag = self.tag(target);
            let piece = match self.prompt.tags {
                Tags::None => Piece::of(target, " ", words.clone(), false).predicted(0),
                Tags::Prompt => {
                    self.plain(&mut sequence, &format!(" {}", tag.trim_end()))?;
                    Piece::of(target, " ", words.clone(), false).predicted(0)
                }
                Tags::Duplicated => {
                    self.plain(&mut sequence, &format!(" {tag}"))?;
                    Piece::of(target, &tag, words.clone(), false).predicted(tag.trim_end().chars().count())
                }
            };
            self.text(&mut sequence, &piece)?;
            self.closed(sequence, (words.end == target.words.len()).then_some(target));
        }
        Ok(())
    }

    fn tag(&self, utterance: &Utterance) -> String {
        match (self.prompt.tags, &utterance.speaker) {
            (Tags::None, _) => String::new(),
            (_, Some(speaker)) => format!("[{speaker}]: "),
            (_, None) => self.prompt.caption_tag.clone(),
        }
    }

    /// BOS and the global token.
    fn opened(&self, utterance: usize) -> Sequence {
        let mut slots = Vec::new();
        if self.prompt.bos {
            slots.push(Slot::Bos(self.tokenizer.bos()));
        }
        if self.prompt.inject.global() {
            slots.push(Slot::Global);
        }
        Sequence { clip: self.number, utterance, slots, targets: Vec::new() }
    }

    /// Oracle text and lead-in.
    fn fronted(&self, sequence: &mut Sequence, utterance: Option<&Utterance>) -> Result<()> {
        if self.prompt.oracle_text {
            let text = utterance.and_then(|utterance| utterance.oracle_text.as_deref()).ok_or_else(|| {
                StageError::hint(
                    format!("clip `{}` has no `oracle_text`", self.clip.clip_id),
                    "give each utterance of transcripts.jsonl the field `oracle_text`, or set `oracle_text = false`",
                )
            })?;
            self.plain(sequence, text)?;
        }
        self.plain(sequence, &self.prompt.lead_in)
    }

    /// Text that is read and never predicted.
    fn plain(&self, sequence: &mut Sequence, text: &str) -> Result<()> {
        if !text.is_empty() {
            sequence.slots.extend(self.tokenizer.encode(text)?.ids.into_iter().map(Slot::Text));
        }
        Ok(())
    }

    fn text(&mut self, sequence: &mut Sequence, piece: &Piece) -> Result<()> {
        let utterance = piece.utterance;
        let length = piece.before.chars().count();
        let text: String = utterance.text.chars().skip(piece.span.start).take(piece.span.len()).collect();
        let encoded = self.tokenizer.encode(&format!("{}{text}", piece.before))?;
        // Word spans in characters of the encoded text.
        let shift = |span: (usize, usize)| (span.0 + length - piece.span.start, span.1 + length - piece.span.start);
        let spans: Vec<(usize, usize)> =
            utterance.words[piece.words.clone()].iter().map(|word| shift(word.span)).collect();
        let owners = words_of_tokens(&encoded.offsets, &spans);
        let mut after: Vec<Vec<usize>> = vec![Vec::new(); encoded.ids.len()];
        if piece.locals {
            let last = last_tokens(&encoded.offsets, &spans);
            for (place, local) in self.locals.iter().enumerate() {
                if local.utterance == utterance.index && piece.words.contains(&local.word) {
                    let token = last[local.word - piece.words.start].ok_or_else(|| {
                        StageError::new(format!(
                            "no token covers word {} of clip `{}`: the tokenizer drops it",
                            local.word, self.clip.clip_id
                        ))
                    })?;
                    after[token].push(place);
                }
            }
        }
        // Without BOS and lead-in the first token has nothing before it in the plainest arm, so no arm predicts it.
        let first_is_free =
            !self.prompt.bos && self.prompt.lead_in.is_empty() && self.prompt.samples == Samples::Utterance;
        let mut bits_of = None;
        for (token, &id) in encoded.ids.iter().enumerate() {
            let position = sequence.slots.len();
            sequence.slots.push(Slot::Text(id));
            sequence.slots.extend(after[token].iter().map(|&place| Slot::Local(place)));
            if !piece.predicted || (token == 0 && first_is_free) {
                continue;
            }
            let is_tag = encoded.offsets[token].0 < piece.tag;
            let word = owners[token].filter(|_| !is_tag).map(|word| word + piece.words.start);
            let first_of_word = word.is_some() && bits_of != word;
            bits_of = word.or(bits_of);
            let known = word.map(|word| &utterance.words[word]);
            let class = match known.map(|word| word.is_content(self.pos_set)) {
                _ if is_tag => Class::Tag,
                Some(Some(true)) => Class::Content,
                Some(Some(false)) => Class::Function,
                _ => Class::Text,
            };
            let bits = |given: Option<f64>| if first_of_word { given } else { known.and(given).map(|_| 0.0) };
            let true_bits = bits(known.and_then(|word| word.true_bits));
            let floor_bits = bits(known.and_then(|word| word.floor_bits));
            let number = self.count(sequence.utterance);
            sequence.targets.push(Target { position, id, word, class, number, true_bits, floor_bits });
        }
        Ok(())
    }

    fn count(&mut self, utterance: usize) -> usize {
        let count = self.counts.entry(utterance).or_default();
        *count += 1;
        *count - 1
    }

    /// EOS; `ended` is the utterance whose end it is, with its exact bits.
    fn closed(&mut self, mut sequence: Sequence, ended: Option<&Utterance>) {
        if self.prompt.append_eos {
            let (position, id) = (sequence.slots.len(), self.tokenizer.eos());
            sequence.slots.push(Slot::Eos(id));
            if self.prompt.label_eos && !sequence.targets.is_empty() {
                sequence.targets.push(Target {
                    position,
                    id,
                    word: None,
                    class: Class::Eos,
                    number: self.count(sequence.utterance),
                    true_bits: ended.and_then(|utterance| utterance.eos_true_bits),
                    floor_bits: ended.and_then(|utterance| utterance.eos_floor_bits),
                });
            }
        }
        self.done.push(sequence);
    }
}

#[cfg(test)]
mod tests;
