//! Whose vectors a clip gets: its own, or for a control those of another clip.
//!
//! Wrong clips are a derangement: every clip gives its vectors to exactly one other, none keeps its own. `hard` ones stay
//! within the group (session, source video, scene), so that what groups have in common cannot tell right from wrong. The
//! clips of a joined dialogue (see `conversation.rs`) have the same local tokens, so none of them is a wrong clip of another.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::columns::{Columns, broken};
use super::transcripts::Clip;
use crate::stages::{Result, StageError};
use crate::stats::random::{Stream, Streams};

/// Whose vectors a clip gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Its own.
    #[default]
    Right,
    /// Those of another clip of the split, by a derangement from `pairing_seed`. A local token takes the vector of its
    /// rank among the other clip's.
    WrongClip,
    /// Those of another clip of the same group (session, source video), by a derangement within each group.
    WrongClipOfGroup,
}

/// The file that a stage leaves with the pairs of wrong clips.
pub const FILE: &str = "pairing.csv";

impl Pairing {
    /// Of every clip the number of the clip that its vectors come from. Depends on the order of the clips, their
    /// groups and `seed`.
    pub fn sources(self, clips: &[Clip], seed: u64) -> Result<Vec<usize>> {
        let mut stream = Streams::new(seed, "pairing").named("wrong_clip");
        match self {
            Self::Right => Ok((0..clips.len()).collect()),
            Self::WrongClip => {
                let all: Vec<usize> = (0..clips.len()).collect();
                deranged(clips, &all, &mut stream).ok_or_else(|| {
                    StageError::hint(
                        "`pairing = \"wrong_clip\"` needs at least two clips, and of joined dialogues two conversations",
                        "take a split with more clips, or set `pairing = \"right\"`",
                    )
                })
            }
            Self::WrongClipOfGroup => within_groups(clips, &mut stream),
        }
    }

    /// Writes `pairing.csv`, who got whose vectors, unless everybody has their own.
    pub fn write(self, folder: &Path, clips: &[Clip], sources: &[usize]) -> Result<()> {
        if self == Self::Right {
            return Ok(());
        }
        let pairs = clips.iter().zip(sources);
        write(folder, pairs.map(|(clip, &source)| (clip.clip_id.as_str(), clips[source].clip_id.as_str())))
    }
}

/// Writes `pairing.csv`: each clip and the one whose vectors it got.
///
/// # Errors
/// The file cannot be written.
pub fn write<'a>(folder: &Path, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
    let path = folder.join(FILE);
    let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
    out.write_record(["clip_id", "vectors_of"]).map_err(|error| broken(&path, &error))?;
    for (clip, source) in pairs {
        out.write_record([clip, source]).map_err(|error| broken(&path, &error))?;
    }
    out.flush().map_err(StageError::io(&path))
}

/// Reads what [`write()`] wrote: (clip, the clip that its vectors came from).
pub fn read(folder: &Path) -> Result<Vec<(String, String)>> {
    let path = folder.join(FILE);
    let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
    let columns = Columns::of(&path, &mut reader)?;
    let (clip, source) = (columns.need("clip_id")?, columns.need("vectors_of")?);
    let pairs = reader.records().map(|row| {
        let row = row.map_err(|error| broken(&path, &error))?;
        Ok((row[clip].to_owned(), row[source].to_owned()))
    });
    pairs.collect()
}

/// Draws of a derangement before it is given up.
const DRAWS: usize = 1000;

/// A derangement of `members` (places in it) in which none gets the vectors of a clip that it shares a joined dialogue with.
/// `None` where there is none.
fn deranged(clips: &[Clip], members: &[usize], stream: &mut Stream) -> Option<Vec<usize>> {
    let recordings = |&member: &usize| clips[member].utterances.iter().filter_map(|turn| turn.recording.as_deref());
    let partners: Vec<HashSet<&str>> = members.iter().map(|member| recordings(member).collect()).collect();
    let names = |one: usize, other: usize| partners[one].contains(clips[members[other]].clip_id.as_str());
    (0..DRAWS).find_map(|_| {
        let order = stream.derangement(members.len())?;
        let is_apart = order.iter().enumerate().all(|(own, &from)| !names(own, from) && !names(from, own));
        is_apart.then_some(order)
    })
}

fn within_groups(clips: &[Clip], stream: &mut Stream) -> Result<Vec<usize>> {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, clip) in clips.iter().enumerate() {
        groups.entry(clip.cluster()).or_default().push(number);
    }
    let alone: Vec<&str> = groups.iter().filter(|(_, members)| members.len() < 2).map(|(name, _)| *name).collect();
    if let Some(first) = alone.first() {
        return Err(StageError::hint(
            format!(
                "`pairing = \"wrong_clip_of_group\"` has no other clip for {} of {} groups, the first is `{first}`",
                alone.len(),
                groups.len()
            ),
            "give clips a `group` of two clips or more (in the text or in `splits`), or set `pairing = \"wrong_clip\"`",
        ));
    }
    let mut sources = vec![0; clips.len()];
    for (name, members) in &groups {
        let order = deranged(clips, members, stream).ok_or_else(|| {
            StageError::hint(
                format!(
                    "`pairing = \"wrong_clip_of_group\"` has in group `{name}` only partners of one dialogue, who have the \
                     same local tokens"
                ),
                "give clips a `group` of several conversations, or set `pairing = \"wrong_clip\"`",
            )
        })?;
        members.iter().zip(order).for_each(|(&member, to)| sources[member] = members[to]);
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::super::transcripts::Utterance;
    use super::*;

    fn clips(groups: &[&str]) -> Vec<Clip> {
        let clip = |(number, group): (usize, &&str)| Clip {
            clip_id: format!("c{number}"),
            group: (!group.is_empty()).then(|| (*group).to_owned()),
            ..Clip::default()
        };
        groups.iter().enumerate().map(clip).collect()
    }

    fn sorted(mut values: Vec<usize>) -> Vec<usize> {
        values.sort_unstable();
        values
    }

    #[test]
    fn nobody_keeps_its_own_and_everybody_gives_once() {
        let clips = clips(&["a", "b", "a", "b", "a", "c", "c"]);
        let all: Vec<usize> = (0..7).collect();
        assert_eq!(Pairing::Right.sources(&clips, 3).unwrap(), all);
        for pairing in [Pairing::WrongClip, Pairing::WrongClipOfGroup] {
            let sources = pairing.sources(&clips, 3).unwrap();
            assert!(sources.iter().enumerate().all(|(clip, &from)| clip != from), "{pairing:?}: {sources:?}");
            assert_eq!(sorted(sources.clone()), all);
            assert_eq!(sources, pairing.sources(&clips, 3).unwrap());
            let others = (4..12).map(|seed| pairing.sources(&clips, seed).unwrap());
            assert!(others.into_iter().any(|other| other != sources), "the seed of {pairing:?} draws nothing");
        }
        let hard = Pairing::WrongClipOfGroup.sources(&clips, 3).unwrap();
        assert!(hard.iter().enumerate().all(|(clip, &from)| clips[clip].group == clips[from].group));
        assert_eq!((hard[1], hard[3], hard[5], hard[6]), (3, 1, 6, 5));
    }

    #[test]
    fn clips_without_another_are_named() {
        assert!(Pairing::WrongClip.sources(&clips(&["a"]), 0).unwrap_err().to_string().contains("two clips"));
        let error = Pairing::WrongClipOfGroup.sources(&clips(&["a", "a", "b", ""]), 0).unwrap_err().to_string();
        assert!(error.contains("2 of 3 groups") && error.contains("`b`") && error.contains("hint:"), "{error}");
    }

    #[test]
    fn a_partner_of_the_same_dialogue_is_no_wrong_clip() {
        const PARTNERS: [(usize, usize); 4] = [(0, 1), (1, 0), (2, 3), (3, 2)];
        let mut clips = clips(&["s", "s", "s", "s", "t", "t"]);
        for (own, partner) in PARTNERS {
            let turn = Utterance { recording: Some(format!("c{partner}")), ..Utterance::default() };
            clips[own].utterances = vec![turn];
        }
        for (seed, pairing) in (0..20).flat_map(|seed| [(seed, Pairing::WrongClip), (seed, Pairing::WrongClipOfGroup)])
        {
            let sources = pairing.sources(&clips, seed).unwrap();
            assert_eq!(sorted(sources.clone()), [0, 1, 2, 3, 4, 5]);
            assert!(PARTNERS.iter().all(|&(own, partner)| sources[own] != partner), "{pairing:?}: {sources:?}");
        }
        let error = |pairing: Pairing| pairing.sources(&clips[..2], 0).unwrap_err().to_string();
        assert!(error(Pairing::WrongClip).contains("two conversations"), "{}", error(Pairing::WrongClip));
        assert!(error(Pairing::WrongClipOfGroup).contains("group `s`"), "{}", error(Pairing::WrongClipOfGroup));
    }

    #[test]
    fn pairs_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let clips = clips(&["", "", ""]);
        Pairing::Right.write(folder.path(), &clips, &[0, 1, 2]).unwrap();
        assert!(!folder.path().join(FILE).exists());
        Pairing::WrongClip.write(folder.path(), &clips, &[1, 2, 0]).unwrap();
        let pair = |clip: &str, from: &str| (clip.to_owned(), from.to_owned());
        assert_eq!(read(folder.path()).unwrap(), [pair("c0", "c1"), pair("c1", "c2"), pair("c2", "c0")]);
    }
}
