//! `next_word`: one sample per word but the first, predicted from the words before it.
//!
//! As the original does it, every sample is a sequence of its own. With `one_pass` the samples of an utterance are read
//! together: the model is causal, so where the words before a target are the beginning of one long sequence, one forward
//! pass gives what the single sequences give. It is used only where that holds token by token.

use super::super::prompt::Tags;
use super::super::transcripts::Utterance;
use super::builder::{Builder, Piece};
use super::{Sequence, Slot};
use crate::stages::Result;

impl Builder<'_> {
    /// The samples of every utterance.
    pub fn next_words(&mut self) -> Result<()> {
        let clip = self.clip;
        for utterance in clip.utterances.iter().filter(|utterance| utterance.recording.is_none()) {
            let before = self.done.len();
            self.one_by_one(utterance)?;
            if !self.prompt.one_pass {
                continue;
            }
            let single = self.done.split_off(before);
            let counted = self.counts.remove(&utterance.index);
            let together = self.together(utterance)?;
            if is_same(&together, &single) {
                self.done.push(Sequence { samples: single.len(), ..together });
            } else {
                self.counts.extend(counted.map(|count| (utterance.index, count)));
                self.done.extend(single);
            }
        }
        Ok(())
    }

    fn one_by_one(&mut self, utterance: &Utterance) -> Result<()> {
        let tag = if self.prompt.tags == Tags::None { String::new() } else { self.prompt.caption_tag.clone() };
        for word in 1..utterance.words.len() {
            let mut sequence = self.opened(utterance.index, utterance.begins());
            self.fronted(&mut sequence, Some(utterance))?;
            self.text(&mut sequence, &Piece::of(utterance, &tag, 0..word, true))?;
            let space = if tag.is_empty() { gap(utterance, word) } else { "" };
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
        Ok(())
    }

    /// All words of an utterance in one sequence, each but the first predicted.
    fn together(&mut self, utterance: &Utterance) -> Result<Sequence> {
        let count = utterance.words.len();
        let mut sequence = self.opened(utterance.index, utterance.begins());
        self.fronted(&mut sequence, Some(utterance))?;
        for word in 0..count {
            let last = word + 1 == count;
            let space = if word == 0 { "" } else { gap(utterance, word) };
            let piece = Piece::of(utterance, space, word..word + 1, !last);
            self.text(&mut sequence, &if word == 0 { piece } else { piece.predicted(0) })?;
            if word > 0 && self.prompt.append_eos {
                let text = sequence.slots.iter().rposition(|slot| matches!(slot, Slot::Text(_)));
                let position = text.map_or(sequence.slots.len(), |text| text + 1);
                self.end(&mut sequence, position, last.then_some(utterance));
            }
        }
        if self.prompt.append_eos {
            sequence.slots.push(Slot::Eos(self.tokenizer.eos()));
        }
        Ok(sequence)
    }
}

/// Whether one sequence predicts what the single ones predict, each target from the same slots.
fn is_same(together: &Sequence, single: &[Sequence]) -> bool {
    let targets = || single.iter().flat_map(|sample| sample.targets.iter().map(move |target| (sample, target)));
    !single.is_empty()
        && together.targets.len() == targets().count()
        && targets().zip(&together.targets).all(|((sample, target), ours)| {
            target == ours && sample.slots[..target.position] == together.slots[..target.position]
        })
}

/// What stands between the word before `word` and `word`: a space, or nothing where they touch.
fn gap(utterance: &Utterance, word: usize) -> &'static str {
    let place = utterance.words[word - 1].span.1;
    if utterance.text.chars().nth(place) == Some(' ') { " " } else { "" }
}
