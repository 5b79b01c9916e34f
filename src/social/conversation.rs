//! Conversations of which every person has a recording, joined to dialogues (method notes, section 2.7).
//!
//! Each recording stays a clip, with the turns of all persons of its conversation in order of time and the person as
//! speaker. Its own person's turns are those that are predicted. The others' are context: they name their `recording`,
//! whose frames their local tokens are made of. The clip's frames, and with them its global token, are its own person's,
//! so a turn is predicted with the vectors of who says it.

use std::collections::{BTreeMap, BTreeSet};

use super::identity::Recording;
use super::transcripts::{Clip, Utterance, Word};
use crate::stages::{Result, StageError};

/// What became of the recordings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Conversations of two persons or more.
    pub conversations: usize,
    /// Recordings of a person whose conversation has no other.
    pub alone: usize,
    /// Clips whose id names no person and conversation: nothing is joined to them.
    pub others: usize,
    /// Turns without a usable time, which stay behind the turn before them in their recording.
    pub turns_without_time: usize,
    /// Words that end after the cut.
    pub words_cut: usize,
}

/// Drops what is said after `seconds`: of every turn the words from the first one that ends later, and turns without
/// timed words that end later. Gives the number of words dropped.
pub fn cut(clip: &mut Clip, seconds: f64) -> usize {
    let words = |clip: &Clip| clip.utterances.iter().map(|utterance| utterance.words.len()).sum::<usize>();
    let before = words(clip);
    for utterance in &mut clip.utterances {
        let late = |time: Option<f64>| time.is_some_and(|time| time > seconds);
        let first_late = utterance.words.iter().position(|word| late(word.end.or(word.start)));
        let timed = |words: &[Word]| words.iter().any(|word| word.middle().is_some());
        let kept = match first_late {
            // Words without a time go with the one before them, at the beginning with the one after them.
            Some(first) if timed(&utterance.words[..first]) => first,
            Some(_) => 0,
            None if !timed(&utterance.words) && late(utterance.end.or(utterance.start)) => 0,
            None => continue,
        };
        utterance.words.truncate(kept);
        let characters = utterance.words.last().map_or(0, |word| word.span.1);
        utterance.text = utterance.text.chars().take(characters).collect();
        utterance.end = utterance.end.map(|end| end.min(seconds));
    }
    clip.utterances.retain(|utterance| !utterance.words.is_empty());
    before - words(clip)
}

/// The dialogues of these clips, one per clip and in their order.
///
/// # Errors
/// Two recordings of one person in a conversation, recordings of a conversation in two splits, a recording with a partner
/// and without any time.
pub fn join(clips: &[Clip], counts: &mut Counts) -> Result<Vec<Clip>> {
    let conversations = conversations(clips);
    counts.others += clips.len() - conversations.values().map(Vec::len).sum::<usize>();
    let mut joined = clips.to_vec();
    for ((scene, _), members) in &conversations {
        check(scene, members, clips)?;
        if members.len() == 1 {
            counts.alone += 1;
        } else {
            counts.conversations += 1;
        }
        let mut turns = Vec::new();
        for &member in members {
            let times = times(&clips[member], members.len() > 1, counts)?;
            turns.extend(times.into_iter().zip(&clips[member].utterances).map(|(time, turn)| (time, member, turn)));
        }
        // Stable: of turns at the same time those of the recording that comes first.
        turns.sort_by(|a, b| a.0.0.total_cmp(&b.0.0).then(a.0.1.total_cmp(&b.0.1)));
        for &own in members {
            let utterances = turns.iter().enumerate().map(|(index, &(_, member, turn))| Utterance {
                speaker: named(&clips[member]).map(|recording| recording.person()),
                recording: (member != own).then(|| clips[member].clip_id.clone()),
                index,
                ..turn.clone()
            });
            joined[own].utterances = utterances.collect();
        }
    }
    Ok(joined)
}

/// The places of the clips whose conversation has no other recording. One that has, in which nothing is said, is not alone.
pub fn alone(clips: &[Clip]) -> BTreeSet<usize> {
    conversations(clips).into_values().filter(|members| members.len() == 1).flatten().collect()
}

/// The places of the clips of each conversation.
fn conversations(clips: &[Clip]) -> BTreeMap<(String, &str), Vec<usize>> {
    let mut conversations: BTreeMap<(String, &str), Vec<usize>> = BTreeMap::new();
    for (number, clip) in clips.iter().enumerate() {
        if let Some(recording) = named(clip) {
            // Pieces of the same number belong together: what follows the person in the id.
            let piece = clip.clip_id.splitn(5, '_').nth(4).unwrap_or_default();
            conversations.entry((recording.scene(), piece)).or_default().push(number);
        }
    }
    conversations
}

/// The person and conversation that a dialogue's id names.
fn named(clip: &Clip) -> Option<Recording<'_>> {
    Recording::of(&clip.clip_id).filter(|_| !clip.captions)
}

fn check(scene: &str, members: &[usize], clips: &[Clip]) -> Result<()> {
    let persons: BTreeSet<String> =
        members.iter().filter_map(|&member| Some(Recording::of(&clips[member].clip_id)?.person())).collect();
    if persons.len() < members.len() {
        return Err(StageError::hint(
            format!("a person has two recordings in conversation `{scene}`"),
            "leave one of them out, or give its pieces ids with a number behind the person (`…_P0947_1`)",
        ));
    }
    let splits: BTreeSet<&str> = members.iter().filter_map(|&member| clips[member].split.as_deref()).collect();
    if splits.len() > 1 {
        let splits: Vec<&str> = splits.into_iter().collect();
        return Err(StageError::hint(
            format!("the recordings of conversation `{scene}` are in the splits `{}`", splits.join("`, `")),
            "keep conversations together (a `split` stage with `apart = [\"scene\"]`): each recording has all its words",
        ));
    }
    Ok(())
}

/// Start and end in seconds by which turns are put in order. One without a time has that of the turn before it, or at
/// the beginning that of the first one with a time.
fn times(clip: &Clip, needed: bool, counts: &mut Counts) -> Result<Vec<(f64, f64)>> {
    let own = |utterance: &Utterance| {
        let start = utterance.start.or_else(|| utterance.words.iter().find_map(|word| word.start.or(word.end)))?;
        let end = utterance.end.or_else(|| utterance.words.iter().rev().find_map(|word| word.end.or(word.start)));
        Some((start, end.unwrap_or(start).max(start)))
    };
    let found: Vec<Option<(f64, f64)>> = clip.utterances.iter().map(own).collect();
    counts.turns_without_time += found.iter().filter(|time| time.is_none()).count();
    let Some(mut last) = found.iter().flatten().next().copied() else {
        if needed && !found.is_empty() {
            return Err(StageError::hint(
                format!("no turn of `{}` has a time, so it cannot be joined with its partner's", clip.clip_id),
                "give segments or words `start` and `end`, or leave the conversation out",
            ));
        }
        return Ok(vec![(0.0, 0.0); found.len()]);
    };
    let filled = found.into_iter().map(|time| {
        last = time.unwrap_or(last);
        last
    });
    Ok(filled.collect())
}

#[cfg(test)]
mod tests {
    use super::super::transcripts::settle;
    use super::*;

    fn utterance(text: &str, start: f64, step: f64) -> Utterance {
        let mut utterance = Utterance { text: text.into(), ..Utterance::default() };
        let words = text.split(' ').enumerate().map(|(place, word)| Word {
            text: word.into(),
            start: Some(start + step * place as f64),
            end: Some(start + step * (place + 1) as f64),
            ..Word::default()
        });
        utterance.words = words.collect();
        settle(&mut utterance).unwrap();
        utterance
    }

    fn clip(clip_id: &str, utterances: Vec<Utterance>) -> Clip {
        Clip { clip_id: clip_id.into(), utterances, ..Clip::default() }
    }

    const FIRST: &str = "V00_S0809_I00000582_P0947";
    const SECOND: &str = "V00_S0809_I00000582_P0001";

    #[test]
    fn turns_of_two_persons_follow_each_other_by_time() {
        let clips = [
            clip(FIRST, vec![utterance("so how was it", 0.5, 0.3), utterance("and then", 4.0, 0.3)]),
            clip("talk", vec![utterance("alone", 0.0, 1.0)]),
            clip(SECOND, vec![utterance("it was fine", 2.0, 0.3), utterance("we left", 4.0, 0.2)]),
            clip("V00_S0809_I00000583_P0001", vec![utterance("hello", 1.0, 0.3)]),
        ];
        let mut counts = Counts::default();
        let joined = join(&clips, &mut counts).unwrap();
        let expected = Counts { conversations: 1, alone: 1, others: 1, ..Counts::default() };
        assert_eq!(counts, expected);
        assert_eq!(alone(&clips), BTreeSet::from([3]));
        // A partner who says nothing is a partner, and captions are no recording.
        let captions = Clip { captions: true, ..clip("V00_S0809_I00000584_P0001", vec![utterance("a dog", 0.0, 1.0)]) };
        assert_eq!(alone(&[clips[0].clone(), clip(SECOND, Vec::new()), captions]), BTreeSet::new());
        let told = |clip: &Clip| -> Vec<(String, String, bool)> {
            let told = clip
                .utterances
                .iter()
                .map(|turn| (turn.speaker.clone().unwrap_or_default(), turn.text.clone(), turn.recording.is_some()));
            told.collect()
        };
        let turn = |speaker: &str, text: &str, other| (speaker.to_owned(), text.to_owned(), other);
        // Both begin at 4 s; the shorter turn is first.
        let whole = |first: bool| {
            vec![
                turn("P0947", "so how was it", !first),
                turn("P0001", "it was fine", first),
                turn("P0001", "we left", first),
                turn("P0947", "and then", !first),
            ]
        };
        assert_eq!((told(&joined[0]), told(&joined[2])), (whole(true), whole(false)));
        assert_eq!(joined[0].utterances[1].recording.as_deref(), Some(SECOND));
        assert_eq!(joined[1], clips[1]);
        assert_eq!(told(&joined[3]), [turn("P0001", "hello", false)]);
    }

    #[test]
    fn a_turn_without_time_stays_behind_the_one_before_it() {
        let untimed = |text: &str| {
            let mut utterance = utterance(text, 0.0, 1.0);
            utterance.words.iter_mut().for_each(|word| (word.start, word.end) = (None, None));
            utterance
        };
        let first = vec![untimed("well"), utterance("yes", 1.0, 0.5), untimed("no"), utterance("maybe", 5.0, 0.5)];
        let second = vec![utterance("why", 3.0, 0.5)];
        let mut counts = Counts::default();
        let joined = join(&[clip(FIRST, first), clip(SECOND, second.clone())], &mut counts).unwrap();
        let texts: Vec<&str> = joined[1].utterances.iter().map(|turn| turn.text.as_str()).collect();
        assert_eq!((texts, counts.turns_without_time), (vec!["well", "yes", "no", "why", "maybe"], 2));
        let clips = [clip(FIRST, vec![untimed("well")]), clip(SECOND, second)];
        let message = join(&clips, &mut counts).unwrap_err().to_string();
        assert!(message.contains(FIRST) && message.contains("hint:"), "{message}");
    }

    #[test]
    fn conversations_that_cannot_be_joined_are_named() {
        let turns = || vec![utterance("why", 3.0, 0.5)];
        let error = |clips: &[Clip]| join(clips, &mut Counts::default()).unwrap_err().to_string();
        let twice = [clip(FIRST, turns()), clip(FIRST, turns())];
        assert!(error(&twice).contains("two recordings"), "{}", error(&twice));
        let pieces = [clip(&format!("{FIRST}_1"), turns()), clip(&format!("{FIRST}_2"), turns())];
        let mut counts = Counts::default();
        join(&pieces, &mut counts).unwrap();
        assert_eq!(counts.alone, 2, "pieces of other numbers are other conversations");
        let split = |clip: Clip, split: &str| Clip { split: Some(split.into()), ..clip };
        let apart = [split(clip(FIRST, turns()), "train"), split(clip(SECOND, turns()), "test")];
        assert!(error(&apart).contains("`test`, `train`"), "{}", error(&apart));
    }

    #[test]
    fn what_is_said_after_the_cut_is_left_out() {
        let mut late = Utterance { start: Some(130.0), end: Some(131.0), ..utterance("no times here", 0.0, 1.0) };
        late.words.iter_mut().for_each(|word| (word.start, word.end) = (None, None));
        let mut found = clip(FIRST, vec![utterance("one, two three four.", 118.5, 0.5), late]);
        found.utterances[0].words[1].end = None;
        found.utterances[0].words[1].start = None;
        // `three` ends at 120.0 s, `four.` at 120.5 s.
        assert_eq!(cut(&mut found, 120.0), 4);
        assert_eq!((found.utterances.len(), found.utterances[0].text.as_str()), (1, "one, two three"));
        let mut late = clip(FIRST, vec![utterance("so that was it", 119.7, 0.4)]);
        (late.utterances[0].words[0].start, late.utterances[0].words[0].end) = (None, None);
        assert_eq!((cut(&mut late, 120.0), late.utterances.len()), (4, 0), "no word is known to be before the cut");
    }
}
