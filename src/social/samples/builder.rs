//! The parts that samples are put together from: openings, stretches of text with their social tokens, ends.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::alignment::{last_tokens, words_of_tokens};
use super::super::packs::Local;
use super::super::prompt::{Prompt, Samples};
use super::super::transcripts::{Clip, Utterance};
use super::{Class, Encode, Sequence, Slot, Target};
use crate::stages::{Result, StageError};

/// A stretch of words of an utterance.
#[derive(Clone, Debug)]
pub(super) struct Piece<'a> {
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
    pub fn of(utterance: &'a Utterance, before: &str, words: Range<usize>, locals: bool) -> Self {
        let all = &utterance.words;
        let start = if words.start == 0 { 0 } else { all[words.start - 1].span.1 };
        let end = if words.end == all.len() { utterance.text.chars().count() } else { all[words.end - 1].span.1 };
        let start = if utterance.text.chars().nth(start) == Some(' ') { start + 1 } else { start };
        Self { utterance, before: before.to_owned(), tag: 0, words, span: start..end, locals, predicted: false }
    }

    /// To be predicted; the first `tag` characters are a tag.
    pub fn predicted(mut self, tag: usize) -> Self {
        self.tag = tag;
        self.predicted = true;
        self
    }
}

/// Makes the samples of one clip.
pub(super) struct Builder<'a> {
    pub number: usize,
    pub clip: &'a Clip,
    pub prompt: &'a Prompt,
    pub pos_set: &'a [String],
    pub tokenizer: &'a dyn Encode,
    pub locals: &'a [Local],
    /// Targets so far of each utterance.
    pub counts: BTreeMap<usize, usize>,
    pub done: Vec<Sequence>,
}

impl<'a> Builder<'a> {
    /// One sample per utterance.
    pub fn utterances(&mut self) -> Result<()> {
        for utterance in self.clip.utterances.iter().filter(|utterance| utterance.recording.is_none()) {
            let mut sequence = self.opened(utterance.index, utterance.begins());
            self.fronted(&mut sequence, Some(utterance))?;
            let piece = Piece::of(utterance, "", 0..utterance.words.len(), true).predicted(0);
            self.text(&mut sequence, &piece)?;
            self.closed(sequence, Some(utterance));
        }
        Ok(())
    }

    /// BOS and the global token; `until` is the end of the context in seconds.
    pub fn opened(&self, utterance: usize, until: Option<f64>) -> Sequence {
        let mut slots = Vec::new();
        if self.prompt.bos {
            slots.push(Slot::Bos(self.tokenizer.bos()));
        }
        if self.prompt.inject.global() {
            slots.push(Slot::Global);
        } else if self.prompt.has_zeroed_places() {
            slots.push(Slot::Zeroed);
        }
        Sequence { clip: self.number, utterance, slots, targets: Vec::new(), samples: 1, until }
    }

    /// Oracle text and lead-in.
    pub fn fronted(&self, sequence: &mut Sequence, utterance: Option<&Utterance>) -> Result<()> {
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
    pub fn plain(&self, sequence: &mut Sequence, text: &str) -> Result<()> {
        if !text.is_empty() {
            sequence.slots.extend(self.tokenizer.encode(text)?.ids.into_iter().map(Slot::Text));
        }
        Ok(())
    }

    /// Text with its local tokens, and with its targets if it is predicted.
    pub fn text(&mut self, sequence: &mut Sequence, piece: &Piece) -> Result<()> {
        let utterance = piece.utterance;
        let length = piece.before.chars().count();
        let text: String = utterance.text.chars().skip(piece.span.start).take(piece.span.len()).collect();
        let whole = format!("{}{text}", piece.before);
        let encoded = self.tokenizer.encode(&whole)?;
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
        let bytes_of: Vec<usize> = whole.chars().map(char::len_utf8).collect();
        let (mut bits_of, mut covered) = (None, piece.tag);
        for (token, &id) in encoded.ids.iter().enumerate() {
            let position = sequence.slots.len();
            sequence.slots.push(Slot::Text(id));
            // Tokens that spell one character together all have its place.
            let (start, end) = encoded.offsets[token];
            let added = start.max(covered)..end.max(covered).min(bytes_of.len());
            let bytes = bytes_of.get(added.clone()).map_or(0, |bytes| bytes.iter().sum());
            covered = covered.max(added.end);
            let local = |&place: &usize| if self.prompt.inject.local() { Slot::Local(place) } else { Slot::Zeroed };
            sequence.slots.extend(after[token].iter().map(local));
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
            sequence.targets.push(Target { position, id, word, class, number, true_bits, floor_bits, bytes });
        }
        Ok(())
    }

    fn count(&mut self, utterance: usize) -> usize {
        let count = self.counts.entry(utterance).or_default();
        *count += 1;
        *count - 1
    }

    /// EOS; `ended` is the utterance whose end it is, with its exact bits.
    pub fn closed(&mut self, mut sequence: Sequence, ended: Option<&Utterance>) {
        if self.prompt.append_eos {
            let (position, id) = (sequence.slots.len(), self.tokenizer.eos());
            sequence.slots.push(Slot::Eos(id));
            self.end(&mut sequence, position, ended);
        }
        self.done.push(sequence);
    }

    /// EOS as a target at `position`, where it is labelled and something else is predicted too.
    pub fn end(&mut self, sequence: &mut Sequence, position: usize, ended: Option<&Utterance>) {
        if self.prompt.label_eos && !sequence.targets.is_empty() {
            sequence.targets.push(Target {
                position,
                id: self.tokenizer.eos(),
                word: None,
                class: Class::Eos,
                number: self.count(sequence.utterance),
                true_bits: ended.and_then(|utterance| utterance.eos_true_bits),
                floor_bits: ended.and_then(|utterance| utterance.eos_floor_bits),
                bytes: 0,
            });
        }
    }
}
