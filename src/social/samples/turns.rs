//! `next_utterance`: one sample per turn of a dialogue, predicted from the turns before it; of joined recordings, per turn
//! of the clip's own person.

use std::ops::Range;

use super::super::prompt::Tags;
use super::super::transcripts::{Utterance, Word};
use super::builder::{Builder, Piece};
use crate::stages::{Result, StageError};

/// The least length in seconds of a chunk by time, as in the original.
const SHORTEST_CHUNK: f64 = 0.5;

/// Words of an utterance that are one turn of the samples.
#[derive(Clone)]
struct Turn<'a> {
    utterance: &'a Utterance,
    words: Range<usize>,
}

impl Turn<'_> {
    fn words(&self) -> &[Word] {
        &self.utterance.words[self.words.clone()]
    }

    /// Start in seconds.
    fn begins(&self) -> Option<f64> {
        let first = self.words().first().and_then(|word| word.start);
        if self.words.start == 0 { self.utterance.start.or(first) } else { first }
    }

    /// End in seconds; of a turn that only has a start, that of its last word or none.
    fn ends(&self) -> Option<f64> {
        let last = self.words().last().and_then(|word| word.end.or(word.start));
        if self.words.end == self.utterance.words.len() { self.utterance.end.or(last) } else { last }
    }
}

impl<'a> Builder<'a> {
    /// The samples of the clip.
    pub fn next_utterances(&mut self) -> Result<()> {
        let context = self.prompt.context_turns;
        let turns = self.turns()?;
        for place in context..turns.len() {
            let target = &turns[place];
            if target.utterance.recording.is_some() {
                continue;
            }
            let before = &turns[place - context..place];
            // A turn without an end, or with one inside the next turn, is over when that begins.
            let until = match (before.last().and_then(Turn::ends), target.begins()) {
                (Some(end), Some(begins)) => Some(end.min(begins)),
                (end, begins) => end.or(begins),
            };
            let mut sequence = self.opened(target.utterance.index, until);
            self.fronted(&mut sequence, Some(target.utterance))?;
            for (number, turn) in before.iter().enumerate() {
                let space = if number == 0 { "" } else { " " };
                let tagged = format!("{space}{}", self.tag(turn.utterance));
                let last = number + 1 == context;
                self.text(&mut sequence, &Piece::of(turn.utterance, &tagged, turn.words.clone(), last))?;
            }
            let (tag, words) = (self.tag(target.utterance), target.words.clone());
            let piece = match self.prompt.tags {
                Tags::None => Piece::of(target.utterance, " ", words, false).predicted(0),
                Tags::Prompt => {
                    self.plain(&mut sequence, &format!(" {}", tag.trim_end()))?;
                    Piece::of(target.utterance, " ", words, false).predicted(0)
                }
                Tags::Duplicated => {
                    self.plain(&mut sequence, &format!(" {tag}"))?;
                    Piece::of(target.utterance, &tag, words, false).predicted(tag.trim_end().chars().count())
                }
            };
            self.text(&mut sequence, &piece)?;
            let ends = target.words.end == target.utterance.words.len();
            self.closed(sequence, ends.then_some(target.utterance));
        }
        Ok(())
    }

    /// The utterances; where there are too few for the context, their chunks in order of time.
    fn turns(&self) -> Result<Vec<Turn<'a>>> {
        let whole = self.clip.utterances.iter();
        let whole: Vec<Turn> = whole.map(|utterance| Turn { utterance, words: 0..utterance.words.len() }).collect();
        let (words, seconds) = (self.prompt.chunk_words, self.prompt.chunk_seconds);
        if whole.len() > self.prompt.context_turns || (words == 0 && seconds == 0.0) {
            return Ok(whole);
        }
        let mut chunks = Vec::new();
        for Turn { utterance, words: all } in whole {
            let ends = match seconds > 0.0 {
                true => self.ends_by_time(utterance, seconds.max(SHORTEST_CHUNK))?,
                false => (0..all.end).step_by(words).map(|start| (start + words).min(all.end)).collect(),
            };
            let starts = std::iter::once(0).chain(ends.iter().copied());
            chunks.extend(starts.zip(&ends).map(|(start, &end)| Turn { utterance, words: start..end }));
        }
        if chunks.iter().all(|chunk| chunk.begins().is_some()) {
            chunks.sort_by(|a, b| {
                let key = |turn: &Turn| (turn.begins().unwrap_or_default(), turn.ends().unwrap_or_default());
                key(a).0.total_cmp(&key(b).0).then(key(a).1.total_cmp(&key(b).1))
            });
        }
        Ok(chunks)
    }

    /// Where chunks end: after each word that ends at least `seconds` after the chunk's start.
    fn ends_by_time(&self, utterance: &Utterance, seconds: f64) -> Result<Vec<usize>> {
        let (mut ends, mut begun) = (Vec::new(), None);
        for (place, word) in utterance.words.iter().enumerate() {
            let (Some(start), Some(end)) = (word.start, word.end.or(word.start)) else {
                return Err(StageError::hint(
                    format!(
                        "word `{}` of clip `{}` has no time, which `chunk_seconds` needs",
                        word.text, self.clip.clip_id
                    ),
                    "give words `start` and `end`, or split by words: `chunk_words = 12`, `chunk_seconds = 0`",
                ));
            };
            if end - *begun.get_or_insert(start) >= seconds {
                ends.push(place + 1);
                begun = None;
            }
        }
        if begun.is_some() {
            ends.push(utterance.words.len());
        }
        Ok(ends)
    }

    fn tag(&self, utterance: &Utterance) -> String {
        match (self.prompt.tags, &utterance.speaker) {
            (Tags::None, _) => String::new(),
            (_, Some(speaker)) => format!("[{speaker}]: "),
            (_, None) => self.prompt.caption_tag.clone(),
        }
    }
}
