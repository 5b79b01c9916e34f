//! Which words get a local token and in which order their frames stand: the method's choice, and controls of it.
//!
//! Draws are named by clip and utterance, so they depend on nothing but the clip and the seed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::transcripts::Utterance;
use crate::stats::random::Streams;

/// The words that get a local token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LocalWords {
    /// Those with a part of speech of `pos_set`: nouns and verbs.
    #[default]
    Content,
    /// As many words of the utterance as `content` would take, drawn from all of them.
    Random,
    /// As many as `content` would take, drawn from the others; all of them where there are fewer.
    Function,
}

impl LocalWords {
    /// Numbers of the words of an utterance that get a local token, in order.
    pub fn chosen(self, clip_id: &str, utterance: &Utterance, pos_set: &[String], seed: u64) -> Vec<usize> {
        let is = |content: bool| {
            let words = utterance.words.iter().enumerate();
            let kept = words.filter(move |(_, word)| word.is_content(pos_set) == Some(content));
            kept.map(|(number, _)| number).collect::<Vec<usize>>()
        };
        let content = is(true);
        let mut pool = match self {
            Self::Content => return content,
            Self::Random => (0..utterance.words.len()).collect(),
            Self::Function => is(false),
        };
        let name = format!("words {clip_id} {}", utterance.index);
        Streams::new(seed, "placement").named(&name).shuffle(&mut pool);
        pool.truncate(content.len());
        pool.sort_unstable();
        pool
    }
}

/// The order of a clip's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FrameOrder {
    /// That of time.
    #[default]
    Time,
    /// Drawn anew for each clip: which frame stands at which time is lost, and nothing else.
    Shuffled,
}

impl FrameOrder {
    /// Of every place in time the number of the frame that stands there.
    pub fn order(self, clip_id: &str, frames: usize, seed: u64) -> Vec<usize> {
        match self {
            Self::Time => (0..frames).collect(),
            Self::Shuffled => Streams::new(seed, "placement").named(&format!("frames {clip_id}")).permutation(frames),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::transcripts::Word;
    use super::*;

    fn utterance(contents: &[Option<bool>]) -> Utterance {
        let word = |content: &Option<bool>| Word { text: "w".into(), content: *content, ..Word::default() };
        Utterance { words: contents.iter().map(word).collect(), ..Utterance::default() }
    }

    #[test]
    fn the_count_of_words_is_matched() {
        let (yes, no) = (Some(true), Some(false));
        let text = utterance(&[no, yes, no, None, yes, no, yes, no, no]);
        let chosen = |words: LocalWords, seed| words.chosen("a", &text, &[], seed);
        assert_eq!(chosen(LocalWords::Content, 0), [1, 4, 6]);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let (random, function) = (chosen(LocalWords::Random, seed), chosen(LocalWords::Function, seed));
            for words in [&random, &function] {
                assert!(words.len() == 3 && words.windows(2).all(|pair| pair[0] < pair[1]), "{words:?}");
            }
            // A word of unknown part of speech is neither content nor function.
            assert!(function.iter().all(|word| [0, 2, 5, 7, 8].contains(word)), "{function:?}");
            seen.extend(random);
        }
        assert_eq!(seen.len(), 9, "every word is drawn now and then");
        assert_eq!(chosen(LocalWords::Random, 7), chosen(LocalWords::Random, 7));
        let few = utterance(&[yes, no, yes]);
        assert_eq!(LocalWords::Function.chosen("a", &few, &[], 0), [1]);
    }

    #[test]
    fn frames_are_all_kept() {
        assert_eq!(FrameOrder::Time.order("a", 3, 9), [0, 1, 2]);
        let mut order = FrameOrder::Shuffled.order("a", 20, 9);
        assert_eq!(order, FrameOrder::Shuffled.order("a", 20, 9));
        assert_ne!(order, FrameOrder::Shuffled.order("b", 20, 9));
        assert_ne!(order, (0..20).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
    }
}
