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
    /// Accept groups with clips in several splits.
    #[serde(default)]
    pub allow_shared_groups: bool,
}

fn fifth() -> f64 {
    0.2
}

impl Stage for Split {
    const KIND: &'static str = "split";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Splits clips into train, val and test, keeping groups apart";
    const GIVES: &'static [&'static str] = &["split"];
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &super::Upstream) {
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
        match config.method {
            Method::Fraction => by_fraction(config, &mut clips)?,
            Method::Lists => by_lists(config, &mut clips)?,
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
        check(config, &clips)?;

        let path = context.folder().join("split.csv");
        let failed = |error: csv::Error| StageError::new(format!("`{}`: {error}", path.display()));
        let mut writer = csv::Writer::from_path(&path).map_err(failed)?;
        writer.write_record(["clip_id", "group", "split"]).map_err(failed)?;
        let mut summary = Summary::new();
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for clip in &clips {
            let split = clip.split.as_deref().unwrap_or_default();
            writer.write_record([clip.id.as_str(), &clip.group, split]).map_err(failed)?;
            *counts.entry(split).or_default() += 1;
        }
        writer.flush().map_err(StageError::io(&path))?;
        summary.insert("clips".into(), clips.len().into());
        summary.insert("groups".into(), clips.iter().map(|clip| &clip.group).collect::<BTreeSet<_>>().len().into());
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
                group: frame.group.clone().unwrap_or_else(|| frame.clip_id.clone()),
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
fn by_fraction(config: &Config, clips: &mut [Clip]) -> Result<()> {
    for (name, part) in [("test", config.test), ("val", config.val), ("test + val", config.test + config.val)] {
        if !(0.0..=1.0).contains(&part) {
            return Err(StageError::hint(format!("`{name}` is {part}"), "give parts of all clips, from 0 to 1 in all"));
        }
    }
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    for clip in clips.iter() {
        *sizes.entry(clip.group.clone()).or_default() += 1;
    }
    // From sorted names, so that the order of the clips does not matter.
    let mut groups: Vec<(String, usize)> = sizes.into_iter().collect();
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
                format!("no group is small enough for `{split}`, which should have {wanted:.1} clips"),
                "raise the part, name the groups with `method = \"lists\"`, or take another `split_seed`",
            ));
        }
    }
    for clip in clips {
        clip.split = Some((*splits.get(&clip.group).unwrap_or(&"train")).to_owned());
    }
    Ok(())
}

fn by_lists(config: &Config, clips: &mut [Clip]) -> Result<()> {
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
    for clip in clips {
        clip.split = None;
        for key in [clip.id.as_str(), clip.group.as_str()] {
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

fn check(config: &Config, clips: &[Clip]) -> Result<()> {
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
    let mut first: BTreeMap<&str, &Clip> = BTreeMap::new();
    for clip in clips {
        let known = first.entry(&clip.group).or_insert(clip);
        if known.split != clip.split {
            let split = |clip: &Clip| clip.split.clone().unwrap_or_default();
            return Err(StageError::hint(
                format!(
                    "group `{}` is in two splits: clip `{}` in `{}`, clip `{}` in `{}`",
                    clip.group,
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
mod tests {
    use super::*;
    use crate::stages::Input;

    const CAPTIONS: &str = "clip_id,split,group,caption\na_0,train,a,one\na_1,train,a,two\nb_0,test,b,three\n\
                            c_0,train,c,four\nc_1,test,c,five\nd_0,,d,six\n";

    fn run(settings: serde_json::Value, table: Option<&str>) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let mut inputs = Inputs::default();
        for (field, text) in [("clips", Some(CAPTIONS)), ("table", table)] {
            let Some(text) = text else { continue };
            let path = folder.path().join(format!("{field}.csv"));
            std::fs::write(&path, text).unwrap();
            inputs.insert(field, Input { reference: format!("data:{field}"), path, digest: String::new() });
        }
        let mut settings = settings;
        settings["clips"] = "data:clips".into();
        let config: Config = serde_json::from_value(settings).unwrap();
        let out = tempfile::tempdir().unwrap();
        Split::run(&config, &inputs, &Context::plain(out.path(), "cpu"))?;
        Ok(std::fs::read_to_string(out.path().join("split.csv")).unwrap())
    }

    #[test]
    fn fractions_keep_groups_whole_and_depend_on_the_seed() {
        let mut seen = BTreeSet::new();
        for seed in 0..8 {
            let text = run(serde_json::json!({ "test": 0.34, "val": 0.17, "split_seed": seed }), None);
            let Ok(text) = text else { continue };
            let mut of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for line in text.lines().skip(1) {
                let parts: Vec<&str> = line.split(',').collect();
                of.entry(parts[1].into()).or_default().insert(parts[2].into());
            }
            assert!(of.values().all(|splits| splits.len() == 1), "{text}");
            seen.insert(text);
        }
        assert!(seen.len() > 2);
    }

    #[test]
    fn lists_name_clips_or_groups() {
        let ids = serde_json::json!({ "method": "lists", "ids": { "test": ["a", "d_0"] }, "others": "train" });
        let text = run(ids, None).unwrap();
        let expected =
            "clip_id,group,split\na_0,a,test\na_1,a,test\nb_0,b,train\nc_0,c,train\nc_1,c,train\nd_0,d,test\n";
        assert_eq!(text, expected);
        let message = |ids: serde_json::Value| {
            run(serde_json::json!({ "method": "lists", "ids": ids }), None).unwrap_err().to_string()
        };
        assert!(message(serde_json::json!({ "test": ["a", "z"] })).contains("`z`, which is neither"));
        assert!(
            message(serde_json::json!({ "test": ["a"], "train": ["a"] })).contains("`a` for `test` and for `train`")
        );
        assert!(message(serde_json::json!({ "test": ["a", "b", "c"] })).contains("1 of 6 clips have no split"));
    }

    #[test]
    fn a_group_in_two_splits_is_refused() {
        let settings = serde_json::json!({ "method": "column", "others": "val" });
        let message = run(settings, None).unwrap_err().to_string();
        assert!(
            message.contains("group `c` is in two splits: clip `c_0` in `train`, clip `c_1` in `test`"),
            "{message}"
        );
        let settings = serde_json::json!({ "method": "column", "others": "val", "allow_shared_groups": true });
        assert!(run(settings, None).unwrap().contains("d_0,d,val"));
        // With every clip its own group nothing is shared.
        let settings = serde_json::json!({ "method": "column", "others": "val", "group_pattern": "(.*)" });
        assert!(run(settings, None).unwrap().contains("c_1,c_1,test"));
    }

    #[test]
    fn a_table_replaces_what_the_clips_say() {
        let table = "index,clip_id,split\n0,a_0,x\n1,a_1,x\n2,b_0,y\n3,c_0,y\n4,c_1,y\n5,d_0,y\n";
        let text = run(serde_json::json!({ "method": "column", "table": "data:table" }), Some(table)).unwrap();
        assert!(text.contains("a_1,a,x") && text.contains("c_0,c,y"), "{text}");
    }
}
