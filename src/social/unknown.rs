//! Words that a tokenizer has no tokens for: they all become one token, and a model is asked to predict that.

use super::samples::Sequence;
use super::transcripts::Clip;
use crate::stages::Summary;

/// Puts the share of the targets that are the tokenizer's `unknown` token into `summary` as `unknown_tokens_share`, and
/// warns of them. Without such targets nothing is put or said.
pub fn tell(unknown: Option<u32>, clips: &[Clip], sequences: &[Sequence], summary: &mut Summary) {
    let Some(unknown) = unknown else { return };
    let targets =
        || sequences.iter().flat_map(|sequence| sequence.targets.iter().map(move |target| (sequence, target)));
    let (all, count) = (targets().count(), targets().filter(|(_, target)| target.id == unknown).count());
    let Some((sequence, target)) = targets().find(|(_, target)| target.id == unknown) else { return };
    summary.insert("unknown_tokens_share".into(), (count as f64 / all as f64).into());
    let clip = &clips[sequence.clip];
    let utterance = clip.utterances.iter().find(|utterance| utterance.index == sequence.utterance);
    let word = target.word.and_then(|word| utterance?.words.get(word));
    let first = word.map(|word| format!(", the first in `{}` of clip `{}`", word.text, clip.clip_id));
    tracing::warn!(
        "{count} of {all} tokens to predict are the tokenizer's token for all that it has no token for{}: what they stand \
         for is lost",
        first.unwrap_or_default()
    );
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Class, Target};
    use super::super::transcripts::{Utterance, Word};
    use super::*;

    #[test]
    fn the_share_is_told_where_there_is_any() {
        let word = |text: &str| Word { text: text.into(), ..Word::default() };
        let utterance = Utterance { index: 1, words: vec![word("a"), word("zyx")], ..Utterance::default() };
        let clips = [Clip { clip_id: "c".into(), utterances: vec![utterance], ..Clip::default() }];
        let target = |place: usize, id| Target {
            position: 1 + place,
            id,
            word: Some(place),
            class: Class::Function,
            number: place,
            true_bits: None,
            floor_bits: None,
            bytes: 1,
        };
        let sequences = [Sequence { utterance: 1, targets: vec![target(0, 7), target(1, 3)], ..Sequence::default() }];
        let share = |unknown| {
            let mut summary = Summary::new();
            tell(unknown, &clips, &sequences, &mut summary);
            summary.get("unknown_tokens_share").cloned()
        };
        assert_eq!(share(Some(3)), Some(0.5.into()));
        assert_eq!((share(Some(4)), share(None)), (None, None));
    }
}
