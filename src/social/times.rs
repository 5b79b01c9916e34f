//! Times that cannot be right. About a tenth of the Seamless Interaction dataset is mis-timed by its own account.
//!
//! What is unusable is taken away when text is read, so that no stage can use it, and remembered as the word's fault, so
//! that it can be counted: a word with a fault is then a word without times. `scene_packs` and `data check` report both.

use serde::{Deserialize, Serialize};

use super::transcripts::{Clip, Utterance};

/// Seconds by which a word may lie outside its utterance.
const OUTSIDE: f64 = 0.5;

/// Seconds by which a word may begin before the word before it ends; aligners round.
const OVERLAP: f64 = 0.05;

/// What is wrong with the times of a word or of an utterance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It ends before it begins.
    Reversed,
    /// It begins before the clip does.
    BeforeClip,
    /// Its middle lies more than half a second outside its utterance.
    OutsideUtterance,
    /// It begins before the word before it begins.
    OutOfOrder,
    /// Its middle lies behind the last frame of the clip.
    BeyondClip,
    /// It begins before the word before it ends. The times are used: their order is clear.
    Overlapping,
}

impl Fault {
    /// Whether the times are taken away.
    pub fn is_unusable(self) -> bool {
        self != Self::Overlapping
    }

    /// What the word or utterance does: "`dogs` ends before it begins".
    pub fn describe(self) -> &'static str {
        match self {
            Self::Reversed => "ends before it begins",
            Self::BeforeClip => "begins before the clip",
            Self::OutsideUtterance => "lies outside the time of its utterance",
            Self::BeyondClip => "lies behind the end of the clip",
            Self::OutOfOrder => "begins before the word before it",
            Self::Overlapping => "begins before the word before it ends",
        }
    }
}

/// What is known of the times of words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Words with times that are used.
    pub timed: usize,
    /// Words without times in the input.
    pub untimed: usize,
    /// Words whose times are unusable.
    pub mistimed: usize,
    /// Of the timed: words that overlap the word before them.
    pub overlapping: usize,
}

impl Timing {
    /// Counts the words of clips.
    pub fn of(clips: &[Clip]) -> Self {
        let mut timing = Self::default();
        for word in clips.iter().flat_map(|clip| &clip.utterances).flat_map(|utterance| &utterance.words) {
            match (word.fault, word.middle()) {
                (Some(fault), _) if fault.is_unusable() => timing.mistimed += 1,
                (_, None) => timing.untimed += 1,
                (fault, Some(_)) => {
                    timing.timed += 1;
                    timing.overlapping += usize::from(fault.is_some());
                }
            }
        }
        timing
    }
}

/// Finds the faults of an utterance's times and takes away those that are unusable.
pub(super) fn review(utterance: &mut Utterance) {
    utterance.fault = alone(utterance.start, utterance.end);
    if utterance.fault.is_some() {
        (utterance.start, utterance.end) = (None, None);
    }
    let whole = utterance.start.zip(utterance.end);
    let mut before: Option<(f64, f64)> = None;
    for word in &mut utterance.words {
        let Some(middle) = word.middle() else { continue };
        let (start, end) = (word.start.unwrap_or(middle), word.end.unwrap_or(middle));
        word.fault = alone(word.start, word.end).or(match (whole, before) {
            (Some((from, to)), _) if middle < from - OUTSIDE || middle > to + OUTSIDE => Some(Fault::OutsideUtterance),
            (_, Some((begun, _))) if start < begun => Some(Fault::OutOfOrder),
            (_, Some((_, ended))) if start < ended - OVERLAP => Some(Fault::Overlapping),
            _ => None,
        });
        if word.fault.is_some_and(Fault::is_unusable) {
            (word.start, word.end) = (None, None);
        } else {
            before = Some((start, end));
        }
    }
}

/// Finds the words of a clip's utterances that lie behind its end (seconds) and takes their times away.
pub fn cut<'a>(utterances: impl IntoIterator<Item = &'a mut Utterance>, end: f64) {
    for word in utterances.into_iter().flat_map(|utterance| &mut utterance.words) {
        if word.middle().is_some_and(|middle| middle > end) {
            word.fault = Some(Fault::BeyondClip);
            (word.start, word.end) = (None, None);
        }
    }
}

/// What is wrong with a time by itself.
fn alone(start: Option<f64>, end: Option<f64>) -> Option<Fault> {
    let not_finite = [start, end].into_iter().flatten().any(|time| !time.is_finite());
    if not_finite || start.zip(end).is_some_and(|(start, end)| end < start) {
        Some(Fault::Reversed)
    } else if start.or(end).is_some_and(|time| time < 0.0) {
        Some(Fault::BeforeClip)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::transcripts::Word;
    use super::*;

    fn utterance(span: (f64, f64), words: &[(f64, f64)]) -> Utterance {
        let word = |&(start, end): &(f64, f64)| Word {
            text: "word".into(),
            start: Some(start).filter(|time| *time > -9.0),
            end: Some(end).filter(|time| *time > -9.0),
            ..Word::default()
        };
        let (start, end) = (Some(span.0), Some(span.1));
        let mut utterance = Utterance { start, end, words: words.iter().map(word).collect(), ..Utterance::default() };
        review(&mut utterance);
        utterance
    }

    #[test]
    fn what_cannot_be_right_is_taken_away_and_remembered() {
        let words =
            [(0.1, 0.4), (0.9, 0.6), (0.2, 0.5), (0.3, 0.9), (0.25, 0.35), (-1.0, 0.5), (3.0, 3.4), (-9.0, -9.0)];
        let found = utterance((0.0, 2.0), &words);
        let faults: Vec<Option<Fault>> = found.words.iter().map(|word| word.fault).collect();
        let expected = [
            None,
            Some(Fault::Reversed),
            Some(Fault::Overlapping),
            Some(Fault::Overlapping),
            Some(Fault::OutOfOrder),
            Some(Fault::BeforeClip),
            Some(Fault::OutsideUtterance),
            None,
        ];
        assert_eq!(faults, expected);
        let kept: Vec<bool> = found.words.iter().map(|word| word.start.is_some()).collect();
        assert_eq!(kept, [true, false, true, true, false, false, false, false]);
        let mut clip = Clip { utterances: vec![found], ..Clip::default() };
        assert_eq!(Timing::of(&[clip.clone()]), Timing { timed: 3, untimed: 1, mistimed: 4, overlapping: 2 });
        cut(&mut clip.utterances, 0.5);
        assert_eq!(clip.utterances[0].words[3].fault, Some(Fault::BeyondClip));
        assert_eq!(Timing::of(&[clip]), Timing { timed: 2, untimed: 1, mistimed: 5, overlapping: 1 });
    }

    #[test]
    fn a_reversed_utterance_says_nothing_of_its_words() {
        let found = utterance((2.0, 1.0), &[(5.0, 5.5)]);
        assert_eq!((found.fault, found.start, found.end), (Some(Fault::Reversed), None, None));
        assert_eq!((found.words[0].fault, found.words[0].start), (None, Some(5.0)));
    }

    #[test]
    fn rounding_of_an_aligner_is_no_overlap() {
        let found = utterance((0.0, 2.0), &[(0.1, 0.44), (0.4, 0.8), (0.8, 1.0)]);
        assert!(found.words.iter().all(|word| word.fault.is_none()));
    }
}
