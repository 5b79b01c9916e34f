//! `split`: which clips train, validate and test, keeping groups (persons, sessions, scenes) apart.
//!
//! Gives `split.csv` (`clip_id,group,split`), which stages take as `splits`. Two clips of one group in two splits are an
//! error: what is learnt of a person in training must not be met again in the test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::frame_manifest::group_of;
use super::{Context, Inputs, Reference, Result, Stage, StageError, Summary};
use crate::social::identity::Recording;
use crate::social::transcripts::{self, Selection};
use crate::stats::random::Streams;
use crate::vision::frames::Manifest;

/// See the module.
pub struct Split;

/// How clips get their split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Whole groups in random order (`split_seed`): test until `test` of all clips, then val until `val`, the rest train.
    #[default]
    Fraction,
    /// `ids` names the clips or groups of each split.
    Lists,
    /// The splits that the frames, the text or the table already have.
    Column,
}

/// What must not be shared between splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Apart {
    /// The group that clips come with, or that `group_pattern` finds; for ids as in the Seamless dataset that come
    /// without, their session.
    Group,
    /// The session in an id as in the Seamless dataset: `V00_S0809`.
    Session,
    /// The interaction in such an id, of which both persons have a clip: `V00_S0809_I00000582`.
    Scene,
    /// The person in such an id: `P0947`.
    Person,
}

impl Apart {
    fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Session => "session",
            Self::Scene => "scene",
            Self::Person => "person",
        }
    }

    /// The clip's group, session, scene or person.
    fn of(self, clip: &Clip) -> Result<String> {
        let recording = || {
            Recording::of(&clip.id).ok_or_else(|| {
                StageError::hint(
                    format!("`apart` names `{}`, which the id of clip `{}` does not tell", self.name(), clip.id),
                    "ids like `V00_S0809_I00000582_P0947` do; for others say with `group_pattern` what belongs together",
                )
            })
        };
        Ok(match self {
            Self::Group => clip.group.clone(),
            Self::Session => recording()?.session(),
            Self::Scene => recording()?.scene(),
            Self::Person => recording()?.person(),
        })
    }
}

/// Settings of `split`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Frames or text: the clips to split, with their groups.
    #[schemars(extend("x-accepts" = ["frames", "text"]))]
    pub clips: Reference,
    /// For `method = "column"`: a CSV of `clip_id,split` to read instead of what the clips say.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["split"]))]
    pub table: Option<Reference>,
    /// How clips get their split.
    #[serde(default)]
    pub method: Method,
    /// For `method = "fraction"`: part of the clips for the test.
    #[serde(default = "fifth")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub test: f64,
    /// For `method = "fraction"`: part of the clips for validation.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub val: f64,
    /// For `method = "fraction"`: seed of the order of the groups.
    #[serde(default)]
    pub split_seed: u64,
    /// For `method = "lists"`: split → ids of clips or names of groups.
    #[serde(default)]
    pub ids: BTreeMap<String, Vec<String>>,
    /// Split of clips that the lists or the table do not name; an error when not set.
    #[serde(default)]
    pub others: Option<String>,
    /// A regular expression that finds the group in a clip's id, as its first bracketed part, instead of the group that
    /// the clips come with.
    #[serde(default)]
    pub group_pattern: Option<String>,
    /// What must not be shared between splits. Clips that share any of it, directly or over others, go together:
    /// `["session", "person"]` keeps both apart.
    #[serde(default = "apart")]
    #[schemars(length(min = 1))]
    pub apart: Vec<Apart>,
    /// Accept groups with clips in several splits.
    #[serde(default)]
    pub allow_shared_groups: bool,
}

fn apart() -> Vec<Apart> {
    vec![Apart::Group]
}

fn fifth() -> f64 {
    0.2
}

impl Stage for Split {
    const KIND: &'static str = "split";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "Splits clips into train, val and test, keeping groups apart";
    const GIVES: &'static [&'static str] = &["split"];
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &super::Upstream) {
        config.apart.sort_unstable();
        config.apart.dedup();
        if config.method != Method::Fraction {
            (config.test, config.val, config.split_seed) = (fifth(), 0.0, 0);
        } else {
            config.others = None;
            config.allow_shared_groups = false;
        }
        if config.method != Method::Lists {
            config.ids.clear();
        }
        if config.method != Method::Column {
            config.table = None;
        }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let mut clips = read_clips(&inputs.get("clips")?.path)?;
        if let Some(pattern) = &config.group_pattern {
            let pattern = regex::Regex::new(pattern).map_err(|error| {
                StageError::hint(
                    format!("`group_pattern` is no regular expression: {error}"),
                    "escape special characters",
                )
            })?;
            for clip in &mut clips {
                clip.group = group_of(&clip.id, &pattern)?;
            }
        }
        let together = Together::of(&config.apart, &clips)?;
        match config.method {
            Method::Fraction => by_fraction(config, &mut clips, &together)?,
            Method::Lists => by_lists(config, &mut clips, &together)?,
            Method::Column => {
                if let Some(table) = inputs.optional("table") {
                    by_table(&table.path, &mut clips)?;
                }
            }
        }
        for clip in &mut clips {
            if clip.split.is_none() {
                clip.split = config.others.clone();
            }
        }
        check(config, &clips, &together)?;

        let path = context.folder().join("split.csv");
        let failed = |error: csv::Error| StageError::new(format!("`{}`: {error}", path.display()));
        let mut writer = csv::Writer::from_path(&path).map_err(failed)?;
        let by_group = config.apart == apart();
        let header = ["clip_id", "group", "split"].into_iter().chain((!by_group).then_some("together"));
        writer.write_record(header).map_err(failed)?;
        let mut summary = Summary::new();
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (clip, together) in clips.iter().zip(&together.sets) {
            let split = clip.split.as_deref().unwrap_or_default();
            let record =
                [clip.id.as_str(), &clip.group, split].into_iter().chain((!by_group).then_some(together.as_str()));
            writer.write_record(record).map_err(failed)?;
            *counts.entry(split).or_default() += 1;
        }
        writer.flush().map_err(StageError::io(&path))?;
        summary.insert("clips".into(), clips.len().into());
        let sizes = together.sizes();
        summary.insert("groups".into(), sizes.len().into());
        summary.insert("largest_group_clips".into(), sizes.values().max().copied().unwrap_or(0).into());
        for (split, count) in counts {
            summary.insert(format!("{split}_clips"), count.into());
        }
        Ok(summary)
    }
}

/// A clip as far as splitting goes.
#[derive(Clone, Debug, PartialEq)]
struct Clip {
    id: String,
    /// The clip's own id when nothing else is known.
    group: String,
    split: Option<String>,
}

/// The group of a clip that comes without: the session of an id as in the Seamless dataset, else the clip itself.
fn group_by_id(clip_id: &str) -> String {
    Recording::of(clip_id).map_or_else(|| clip_id.to_owned(), |recording| recording.session())
}

/// Which clips go together because they share a group, a session, a scene or a person.
struct Together {
    /// Of each clip, what it must not share: (`person`, `P0947`), ….
    keys: Vec<Vec<(&'static str, String)>>,
    /// Of each clip, the name of its set: of all that is shared in it, what comes first.
    sets: Vec<String>,
}

impl Together {
    fn of(apart: &[Apart], clips: &[Clip]) -> Result<Self> {
        let keys = clips.iter().map(|clip| {
            let keys = apart.iter().map(|apart| Ok((apart.name(), apart.of(clip)?)));
            keys.collect::<Result<Vec<_>>>()
        });
        let keys: Vec<Vec<(&'static str, String)>> = keys.collect::<Result<_>>()?;
        // Each key points to a smaller one of its set, or to itself.
        let mut smaller: BTreeMap<&(&'static str, String), &(&'static str, String)> = BTreeMap::new();
        for key in keys.iter().flatten() {
            smaller.insert(key, key);
        }
        fn first<'a, K: Ord>(smaller: &BTreeMap<&'a K, &'a K>, key: &'a K) -> &'a K {
            let mut key = key;
            while let Some(next) = smaller.get(key).filter(|next| **next != key) {
                key = *next;
            }
            key
        }
        for own in &keys {
            for pair in own.windows(2) {
                let (a, b) = (first(&smaller, &pair[0]), first(&smaller, &pair[1]));
                let (low, high) = if a < b { (a, b) } else { (b, a) };
                smaller.insert(high, low);
            }
        }
        let sets = keys.iter().map(|own| own.first().map(|key| first(&smaller, key).1.clone()).unwrap_or_default());
        let sets = sets.collect();
        Ok(Self { keys, sets })
    }

    /// Number of clips of each set.
    fn sizes(&self) -> BTreeMap<String, usize> {
        let mut sizes = BTreeMap::new();
        for set in &self.sets {
            *sizes.entry(set.clone()).or_default() += 1;
        }
        sizes
    }
}

/// The clips of frames (a folder or file with a manifest) or of text, in their order.
fn read_clips(path: &Path) -> Result<Vec<Clip>> {
    let is_manifest = if path.is_dir() {
        path.join(crate::vision::frames::FILE).is_file()
    } else {
        let mut reader = csv::Reader::from_path(path).ok();
        let header = reader.as_mut().and_then(|reader| reader.headers().ok());
        header.is_some_and(|header| header.iter().any(|name| name == "frame_path"))
    };
    if is_manifest {
        let manifest = Manifest::load(path)?;
        let clips = manifest.clips().into_iter().map(|clip| {
            let frame = &manifest.frames[clip.start];
            Clip {
                id: frame.clip_id.clone(),
                group: frame.group.clone().unwrap_or_else(|| group_by_id(&frame.clip_id)),
                split: Some(frame.split.clone()).filter(|split| !split.is_empty()),
            }
        });
        return Ok(clips.collect());
    }
    let clips = transcripts::load(path, &Selection::default())?;
    Ok(clips
        .into_iter()
        .map(|clip| Clip { group: clip.cluster().to_owned(), id: clip.clip_id, split: clip.split })
        .collect())
}

/// Whole groups, shuffled; each split takes groups while that brings it nearer to its number of clips.
fn by_fraction(config: &Config, clips: &mut [Clip], together: &Together) -> Result<()> {
    for (name, part) in [("test", config.test), ("val", config.val), ("test + val", config.test + config.val)] {
        if !(0.0..=1.0).contains(&part) {
            return Err(StageError::hint(format!("`{name}` is {part}"), "give parts of all clips, from 0 to 1 in all"));
        }
    }
    // From sorted names, so that the order of the clips does not matter.
    let mut groups: Vec<(String, usize)> = together.sizes().into_iter().collect();
    let largest = groups.iter().map(|(_, size)| *size).max().unwrap_or(0);
    Streams::new(config.split_seed, "split").named("groups").shuffle(&mut groups);
    let mut groups = groups.into_iter().peekable();
    let mut splits: BTreeMap<String, &str> = BTreeMap::new();
    for (split, part) in [("test", config.test), ("val", config.val)] {
        let wanted = part * clips.len() as f64;
        let mut taken = 0;
        while let Some((group, size)) =
            groups.next_if(|(_, size)| ((taken + size) as f64 - wanted).abs() < (taken as f64 - wanted).abs())
        {
            taken += size;
            splits.insert(group, split);
        }
        if part > 0.0 && taken == 0 {
            return Err(StageError::hint(
                format!(
                    "no group is small enough for `{split}`, which should have {wanted:.1} clips; the largest has {largest}"
                ),
                "raise the part, name the groups with `method = \"lists\"`, take another `split_seed`, or keep less `apart`",
            ));
        }
    }
    for (clip, set) in clips.iter_mut().zip(&together.sets) {
        clip.split = Some((*splits.get(set).unwrap_or(&"train")).to_owned());
    }
    Ok(())
}

fn by_lists(config: &Config, clips: &mut [Clip], together: &Together) -> Result<()> {
    let mut named: BTreeMap<&str, &str> = BTreeMap::new();
    for (split, ids) in &config.ids {
        for id in ids {
            if let Some(other) = named.insert(id, split) {
                return Err(StageError::hint(
                    format!("`ids` names `{id}` for `{other}` and for `{split}`"),
                    "name every clip or group once",
                ));
            }
        }
    }
    let mut used = BTreeSet::new();
    for (clip, shared) in clips.iter_mut().zip(&together.keys) {
        clip.split = None;
        let own = [clip.id.as_str(), clip.group.as_str()];
        for key in own.into_iter().chain(shared.iter().map(|(_, key)| key.as_str())) {
            if let Some(split) = named.get(key) {
                used.insert(key.to_owned());
                clip.split.get_or_insert_with(|| (*split).to_owned());
            }
        }
    }
    match named.keys().find(|id| !used.contains(**id)) {
        Some(id) => Err(StageError::hint(
            format!("`ids` names `{id}`, which is neither a clip nor a group"),
            "see the clip ids and groups in the manifest or the text",
        )),
        None => Ok(()),
    }
}

fn by_table(path: &Path, clips: &mut [Clip]) -> Result<()> {
    let file = if path.is_dir() { path.join("split.csv") } else { path.to_owned() };
    let failed = |error: csv::Error| {
        StageError::hint(format!("`{}`: {error}", file.display()), "the table has the columns `clip_id` and `split`")
    };
    let mut reader = csv::Reader::from_path(&file).map_err(failed)?;
    let mut splits: BTreeMap<String, String> = BTreeMap::new();
    #[derive(Deserialize)]
    struct Row {
        clip_id: String,
        split: String,
    }
    for row in reader.deserialize() {
        let row: Row = row.map_err(failed)?;
        splits.insert(row.clip_id, row.split);
    }
    for clip in clips {
        clip.split = splits.get(&clip.id).cloned().filter(|split| !split.is_empty());
    }
    Ok(())
}

fn check(config: &Config, clips: &[Clip], together: &Together) -> Result<()> {
    let without: Vec<&str> = clips.iter().filter(|clip| clip.split.is_none()).map(|clip| clip.id.as_str()).collect();
    if let Some(first) = without.first() {
        return Err(StageError::hint(
            format!("{} of {} clips have no split, the first is `{first}`", without.len(), clips.len()),
            "name them, or set `others` to the split of all clips that are not named",
        ));
    }
    if config.allow_shared_groups {
        return Ok(());
    }
    let mut first: BTreeMap<&(&'static str, String), &Clip> = BTreeMap::new();
    for (clip, keys) in clips.iter().zip(&together.keys) {
        for key in keys {
            let known = first.entry(key).or_insert(clip);
            if known.split == clip.split {
                continue;
            }
            let split = |clip: &Clip| clip.split.clone().unwrap_or_default();
            let (what, name) = key;
            return Err(StageError::hint(
                format!(
                    "{what} `{name}` is in two splits: clip `{}` in `{}`, clip `{}` in `{}`",
                    known.id,
                    split(known),
                    clip.id,
                    split(clip)
                ),
                "split by groups, or set `allow_shared_groups = true` if that is the question",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
