//! `frame_manifest`: folders of frames that exist already become frames with times.
//!
//! Every folder with images is a clip: `…/<clip>/frames/frame_<n>.jpg` or `…/<clip>/frame_000001.jpg`. The number is the
//! last run of digits of the file name and gives the order. The original project counted time in two ways that differ by
//! a frame (method notes, section 2.2); `frame_time_origin` chooses: `zero`: the k-th file of the list is at k / fps;
//! `filename`: file number n is at n / fps. Where a number is missing between others the first would give every later
//! frame a time that is too early, so that the step stops; `gaps` says that it need not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, Expected, Size};
use super::{Context, Inputs, Reference, Result, Stage, StageError, Summary};
use crate::vision::frames::{Frame, Manifest};

/// See the module.
pub struct FrameManifest;

/// Which frame is at time 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The first file, whatever its number.
    #[default]
    Zero,
    /// File number 0, so that files counted from 1 begin at 1 / fps.
    Filename,
}

/// What to do about a number that is missing between those of a clip's frames, where the order gives the times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gaps {
    /// Stop: the frames behind the gap would be early.
    #[default]
    Refuse,
    /// Take the numbers for an order alone, as the original's scripts do (every tenth frame was kept, say).
    Close,
}

/// How frames get into the step's folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// As copies.
    #[default]
    Copy,
    /// As links to the files given: needs no space, but the files must stay where and as they are. The step is the same
    /// for equal bytes elsewhere, so a link made for another place may serve it.
    Link,
}

/// Settings of `frame_manifest`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A folder with a folder of images per clip, at any depth.
    #[schemars(extend("x-accepts" = ["frame_folder"]))]
    pub folder: Reference,
    /// Frames per second that the images were taken at.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub fps: f64,
    /// Which frame is at time 0.
    #[serde(default)]
    pub frame_time_origin: Origin,
    /// What to do about a number that is missing between those of a clip's frames, with `frame_time_origin = "zero"`.
    #[serde(default)]
    pub gaps: Gaps,
    /// Split of all clips; empty for none yet.
    #[serde(default)]
    pub split: String,
    /// A regular expression that finds a clip's group (session, video, …) in its id, as its first bracketed part.
    #[serde(default)]
    pub group_pattern: Option<String>,
    /// Link to the files given, or copy them.
    #[serde(default)]
    pub place: Place,
}

fn one() -> f64 {
    1.0
}

impl Stage for FrameManifest {
    const KIND: &'static str = "frame_manifest";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Lists existing folders of frames, with the time of each";
    const GIVES: &'static [&'static str] = &["frames"];
    type Config = Config;

    fn estimate(_config: &Config, inputs: &Expected) -> Estimate {
        let frames = inputs.of("folder").frames;
        Estimate { items: frames, size: Size { frames, ..Size::default() }, ..Estimate::default() }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        if !(config.fps.is_finite() && config.fps > 0.0) {
            return Err(StageError::hint(format!("`fps` is {}", config.fps), "give a number above 0"));
        }
        let pattern = config.group_pattern.as_deref().map(regex::Regex::new).transpose().map_err(|error| {
            StageError::hint(format!("`group_pattern` is no regular expression: {error}"), "escape special characters")
        })?;
        let clips = clips_below(&inputs.get("folder")?.path)?;
        let missing = clips.values().flat_map(|images| gaps(images)).map(|(from, to)| to - from - 1).sum::<u64>();
        if config.frame_time_origin == Origin::Zero {
            if config.gaps == Gaps::Refuse {
                check_gaps(&clips)?;
            }
            warn_of_starts(&clips);
        }
        let mut frames = Vec::new();
        for (done, (clip_id, images)) in clips.iter().enumerate() {
            context.progress(done as u64, clips.len() as u64, "clip")?;
            let group = pattern.as_ref().map(|pattern| group_of(clip_id, pattern)).transpose()?;
            let folder = context.folder().join(clip_id);
            std::fs::create_dir_all(&folder).map_err(StageError::io(&folder))?;
            for (place, (number, file)) in images.iter().enumerate() {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                let path = format!("{clip_id}/{name}");
                put(config.place, file, &context.folder().join(&path))?;
                let position = match config.frame_time_origin {
                    Origin::Zero => place as f64,
                    Origin::Filename => *number as f64,
                };
                let t_sec = position / config.fps;
                let split = config.split.clone();
                frames.push(Frame { split, clip_id: clip_id.clone(), path, t_sec, group: group.clone() });
            }
        }
        Manifest::write(context.folder(), &frames)?;
        let mut summary = Summary::new();
        summary.insert("clips".into(), clips.len().into());
        summary.insert("frames".into(), frames.len().into());
        if missing > 0 {
            summary.insert("frames_missing".into(), missing.into());
        }
        Ok(summary)
    }
}

/// The numbers before and behind each gap in a clip's frames, which come in order.
fn gaps(images: &[(u64, PathBuf)]) -> impl Iterator<Item = (u64, u64)> {
    images.windows(2).map(|pair| (pair[0].0, pair[1].0)).filter(|(from, to)| to - from > 1)
}

/// Fails at the first gap, behind which frames would get the times of frames before them.
fn check_gaps(clips: &BTreeMap<String, Vec<(u64, PathBuf)>>) -> Result<()> {
    let all = clips.values().filter(|images| gaps(images).next().is_some()).count();
    let first = clips.iter().find_map(|(clip_id, images)| Some((clip_id, gaps(images).next()?)));
    let Some((clip_id, (from, to))) = first else { return Ok(()) };
    let lacks = if to - from == 2 { format!("{}", from + 1) } else { format!("{} to {}", from + 1, to - 1) };
    let others = if all > 1 { format!(", and {} other clips have gaps too", all - 1) } else { String::new() };
    Err(StageError::hint(
        format!(
            "clip `{clip_id}` has frames {from} and {to} and lacks {lacks}, so that every later frame would be early{others}"
        ),
        "bring the missing files; or set `frame_time_origin = \"filename\"` if file number n is at n / `fps`, or \
         `gaps = \"close\"` if the numbers tell no more than an order",
    ))
}

/// Tells of clips whose frames begin at another number than most: the files before it may be missing.
fn warn_of_starts(clips: &BTreeMap<String, Vec<(u64, PathBuf)>>) {
    let starts = || clips.iter().filter_map(|(clip_id, images)| Some((clip_id, images.first()?.0)));
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    starts().for_each(|(_, start)| *counts.entry(start).or_default() += 1);
    let usual = counts.iter().find(|(_, count)| **count * 2 > clips.len());
    let late = |usual: u64| starts().find(move |(_, start)| *start > usual);
    if let Some((clip_id, start)) = usual.and_then(|(usual, _)| late(*usual)) {
        tracing::warn!(
            "clip `{clip_id}` begins with frame {start}, which gets time 0 as the first frame of every clip does; \
             `frame_time_origin = \"filename\"` would go by the numbers"
        );
    }
}

fn put(place: Place, from: &Path, to: &Path) -> Result<()> {
    match place {
        Place::Copy => std::fs::copy(from, to).map(|_| ()).map_err(StageError::io(from)),
        Place::Link => {
            let from = from.canonicalize().map_err(StageError::io(from))?;
            std::os::unix::fs::symlink(from, to).map_err(StageError::io(to))
        }
    }
}

/// The group in a clip's id: the first bracketed part of the pattern, or all that it matches.
pub fn group_of(clip_id: &str, pattern: &regex::Regex) -> Result<String> {
    let found = pattern.captures(clip_id).and_then(|found| found.get(1).or_else(|| found.get(0)));
    found.map(|part| part.as_str().to_owned()).ok_or_else(|| {
        StageError::hint(
            format!("`group_pattern` does not match clip `{clip_id}`"),
            "write it so that every clip id has a group",
        )
    })
}

/// Whether a file is a frame by the ending of its name.
pub fn is_frame(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    matches!(ending.as_deref(), Some("jpg" | "jpeg" | "png"))
}

/// The number of a frame's file: the last run of digits of its name without ending.
pub fn number_of(path: &Path) -> Option<u64> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let after = stem.trim_end_matches(|c: char| !c.is_ascii_digit());
    after[after.trim_end_matches(|c: char| c.is_ascii_digit()).len()..].parse().ok()
}

/// Clip id → its images as (number, path), in the order of the numbers.
fn clips_below(root: &Path) -> Result<BTreeMap<String, Vec<(u64, PathBuf)>>> {
    let mut folders: BTreeMap<PathBuf, Vec<(u64, PathBuf)>> = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|error| StageError::new(format!("`{}`: {error}", root.display())))?;
        let path = entry.path();
        if !entry.file_type().is_file() || !is_frame(path) {
            continue;
        }
        let number = number_of(path).ok_or_else(|| {
            StageError::hint(
                format!("`{}` has no number that could be its place", path.display()),
                "frames are named like `frame_000001.jpg`",
            )
        })?;
        let folder = path.parent().unwrap_or(root).to_owned();
        folders.entry(folder).or_default().push((number, path.to_owned()));
    }
    let mut clips: BTreeMap<String, Vec<(u64, PathBuf)>> = BTreeMap::new();
    for (folder, mut images) in folders {
        images.sort();
        if let Some(pair) = images.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(StageError::hint(
                format!("`{}` and `{}` have the same number", pair[0].1.display(), pair[1].1.display()),
                "keep one of them",
            ));
        }
        let is_inner = folder.file_name().is_some_and(|name| name == "frames") && folder != root;
        let named = if is_inner { folder.parent().unwrap_or(&folder) } else { &folder };
        let named = named.file_name().map(|name| name.to_string_lossy().into_owned());
        let clip_id = named.ok_or_else(|| StageError::new(format!("`{}` has no name", folder.display())))?;
        if clips.insert(clip_id.clone(), images).is_some() {
            return Err(StageError::hint(
                format!(
                    "two folders below `{}` are clip `{clip_id}`, one of them `{}`",
                    root.display(),
                    folder.display()
                ),
                "give every clip its own name",
            ));
        }
    }
    if clips.is_empty() {
        return Err(StageError::hint(
            format!("no image lies below `{}`", root.display()),
            "frames are .jpg or .png files in a folder per clip",
        ));
    }
    Ok(clips)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::Input;
    use crate::vision::image::Rgb;

    fn data(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            Rgb::new(1, 1, vec![7; 3]).save_png(&path.with_extension("png")).unwrap();
            std::fs::rename(path.with_extension("png"), &path).unwrap();
        }
        folder
    }

    fn run(data: &Path, settings: serde_json::Value) -> Result<Vec<Frame>> {
        let mut settings = settings;
        settings["folder"] = "data:frames".into();
        let config: Config = serde_json::from_value(settings).unwrap();
        let mut inputs = Inputs::default();
        inputs.insert("folder", Input { reference: "data:frames".into(), path: data.into(), digest: String::new() });
        let out = tempfile::tempdir().unwrap();
        FrameManifest::run(&config, &inputs, &Context::plain(out.path(), "cpu"))?;
        Ok(Manifest::load(out.path())?.frames)
    }

    #[test]
    fn both_forms_of_folders_and_both_origins_of_time() {
        let folder = data(&["a/frames/frame_2.jpg", "a/frames/frame_10.jpg", "x/b/frame_000001.png"]);
        for (origin, times) in [("zero", [0.0, 0.5, 0.0]), ("filename", [1.0, 5.0, 0.5])] {
            let settings = serde_json::json!({ "fps": 2.0, "frame_time_origin": origin, "gaps": "close" });
            let frames = run(folder.path(), settings).unwrap();
            let found: Vec<(&str, f64)> = frames.iter().map(|frame| (frame.path.as_str(), frame.t_sec)).collect();
            let expected = ["a/frame_2.jpg", "a/frame_10.jpg", "b/frame_000001.png"].into_iter().zip(times);
            assert_eq!(found, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_missing_frame_moves_no_other_silently() {
        let folder = data(&["a/f_1.png", "a/f_2.png", "b/f_1.png", "b/f_3.png", "b/f_4.png", "c/f_0.png", "c/f_9.png"]);
        let message = run(folder.path(), serde_json::json!({})).unwrap_err().to_string();
        assert!(
            message.contains("clip `b` has frames 1 and 3 and lacks 2") && message.contains("1 other"),
            "{message}"
        );
        assert!(message.contains("hint:") && message.contains("`frame_time_origin = \"filename\"`"), "{message}");
        let times = |settings: serde_json::Value| {
            let frames = run(folder.path(), settings).unwrap();
            frames.iter().filter(|frame| frame.clip_id == "b").map(|frame| frame.t_sec).collect::<Vec<_>>()
        };
        assert_eq!(times(serde_json::json!({ "frame_time_origin": "filename" })), [1.0, 3.0, 4.0]);
        assert_eq!(times(serde_json::json!({ "gaps": "close" })), [0.0, 1.0, 2.0]);
        std::fs::remove_dir_all(folder.path().join("b")).unwrap();
        let message = run(folder.path(), serde_json::json!({})).unwrap_err().to_string();
        assert!(message.contains("lacks 1 to 8"), "{message}");
    }

    #[test]
    fn groups_come_from_clip_ids_and_copies_stand_alone() {
        let folder = data(&["V1_S2_I3_P0/frame_1.png", "V1_S2_I4_P1/frame_1.png"]);
        let settings = serde_json::json!({ "group_pattern": "_(S[0-9]+)_", "place": "copy", "split": "test" });
        let frames = run(folder.path(), settings).unwrap();
        assert!(frames.iter().all(|frame| frame.group.as_deref() == Some("S2")));
        let message = run(folder.path(), serde_json::json!({ "group_pattern": "_(Q)_" })).unwrap_err().to_string();
        assert!(message.contains("clip `V1_S2_I3_P0`"), "{message}");
    }

    #[test]
    fn names_that_give_no_order_are_errors() {
        let message = |files: &[&str]| run(data(files).path(), serde_json::json!({})).unwrap_err().to_string();
        assert!(message(&["a/first.png"]).contains("has no number"));
        assert!(message(&["a/f_1.png", "a/f_01.png"]).contains("the same number"));
        assert!(message(&["x/a/f_1.png", "y/a/f_1.png"]).contains("are clip `a`"));
        assert!(message(&[]).contains("no image lies below"));
    }
}
