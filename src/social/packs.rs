//! Scene packs: per clip the vector of its global token and those of its local tokens, before projection.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::columns::{Columns, broken};
use super::seen::Seen;
use super::tagger::{self, Coverage};
use super::times::Timing;
use super::transcripts::Clip;
use crate::npy::{self, Array};
use crate::stages::{Result, StageError};

/// What a global token is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GlobalMode {
    /// The mean feature of the clip's frames, then projected (the original code).
    #[default]
    ClipMean,
    /// The mean of the clip's projected local tokens (the paper's equation 1).
    ProjectedLocals,
    /// The mean feature of the frames up to the end of the context from which a text is predicted, then projected: nothing
    /// of what is predicted, nor of what comes after, can be seen. Needs the times of the text.
    CausalMean,
}

/// What causal global tokens are made of: means over all frames up to each one.
#[derive(Clone, Debug, PartialEq)]
pub struct Causal {
    /// `[frames, dim]`: the mean of the clip's frames up to and with this one.
    pub means: Array<f32>,
    /// Time in seconds and row of each frame, in order of time, by clip.
    pub frames: Vec<Vec<(f64, usize)>>,
}

/// A word that has a local token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Number of the utterance in its clip.
    pub utterance: usize,
    /// Number of the word in its utterance.
    pub word: usize,
    /// The frames its vector is the mean of, as places in the clip's frames in order of time; empty when not known.
    pub frames: Vec<usize>,
    /// Row of [`Packs::locals`].
    pub row: usize,
}

/// One clip of the packs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedClip {
    /// Its identity.
    pub clip_id: String,
    /// As in the text.
    pub split: Option<String>,
    /// As in the text.
    pub group: Option<String>,
    /// Its local tokens in order of the text.
    pub locals: Vec<Local>,
}

/// The packs of all clips.
#[derive(Clone, Debug)]
pub struct Packs {
    /// Clips, in the order of the rows of `global`.
    pub clips: Vec<PackedClip>,
    /// `[clips, dim]`: mean feature of each clip.
    pub global: Array<f32>,
    /// `[locals, dim]`: the vector of each local token.
    pub locals: Array<f32>,
    /// What a global token is made of.
    pub global_mode: GlobalMode,
    /// False when nothing is known of parts of speech, so that no word could have a local token.
    pub parts_of_speech: bool,
    /// Where the words' parts of speech come from, where that is known.
    pub tagging: Option<Tagging>,
    /// With `global_mode = "causal_mean"`.
    pub causal: Option<Causal>,
    /// What is known of the words' times, where that is recorded.
    pub timing: Option<Timing>,
    /// The clips that the encoder of the vectors was trained on, where that is known.
    pub seen: Option<Seen>,
    places: HashMap<String, usize>,
}

/// Where the words' parts of speech come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagging {
    /// What tagged the words that came without.
    pub tagger: tagger::Method,
    /// What it saw of a word's surroundings.
    pub tagger_view: tagger::View,
    /// How many words have one, and from where.
    #[serde(flatten)]
    pub coverage: Coverage,
}

#[derive(Serialize, Deserialize)]
struct Description {
    dim: usize,
    global_mode: GlobalMode,
    parts_of_speech: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tagging: Option<Tagging>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timing: Option<Timing>,
}

impl Packs {
    /// Joins the parts; `global` has a row per clip.
    pub fn new(
        clips: Vec<PackedClip>,
        global: Array<f32>,
        locals: Array<f32>,
        global_mode: GlobalMode,
        parts_of_speech: bool,
    ) -> Self {
        let places = clips.iter().enumerate().map(|(place, clip)| (clip.clip_id.clone(), place)).collect();
        let (tagging, timing, causal, seen) = (None, None, None, None);
        Self { clips, global, locals, global_mode, parts_of_speech, tagging, timing, causal, seen, places }
    }

    /// Length of a vector.
    pub fn dim(&self) -> usize {
        self.global.shape[1]
    }

    /// The row of a clip.
    pub fn place(&self, clip_id: &str) -> Result<usize> {
        self.places.get(clip_id).copied().ok_or_else(|| {
            StageError::hint(
                format!("the packs have no clip `{clip_id}`"),
                "make the packs from the same text as the stage that reads them",
            )
        })
    }

    /// The row of [`Causal::means`] of the last frame of the clip in row `place` that is shown at or before `until`.
    pub fn causal_row(&self, place: usize, until: Option<f64>) -> Result<usize> {
        let name = &self.clips[place].clip_id;
        let Some(until) = until else {
            return Err(StageError::hint(
                format!("no time is known at which the context in clip `{name}` ends, which `causal_mean` needs"),
                "give utterances `start` and `end`, or set `global_mode = \"clip_mean\"` in the packs",
            ));
        };
        let frames = self.causal.as_ref().and_then(|causal| causal.frames.get(place));
        let seen = frames.and_then(|frames| frames.iter().rfind(|&&(time, _)| time <= until));
        seen.map(|&(_, row)| row).ok_or_else(|| {
            StageError::hint(
                format!("clip `{name}` has no frame at or before {until} s, where a context ends"),
                "count the times of frames from the start of the clip, or set `global_mode = \"clip_mean\"` in the packs",
            )
        })
    }

    /// Leaves out the local tokens of captions or turns that these clips were loaded without; rows keep their numbers.
    pub fn narrow(&mut self, clips: &[Clip]) -> Result<()> {
        for clip in clips {
            let place = self.place(&clip.clip_id)?;
            let kept: HashSet<usize> = clip.utterances.iter().map(|utterance| utterance.index).collect();
            self.clips[place].locals.retain(|local| kept.contains(&local.utterance));
        }
        Ok(())
    }

    /// Writes `clips.csv`, `global.npy`, `locals.csv`, `locals.npy` and `packs.json`; with causal means `causal.csv` and
    /// `causal.npy` too.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join("clips.csv");
        let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
        out.write_record(["clip_id", "split", "group", "row"]).map_err(|error| broken(&path, &error))?;
        for (row, clip) in self.clips.iter().enumerate() {
            let (split, group) = (clip.split.as_deref().unwrap_or(""), clip.group.as_deref().unwrap_or(""));
            out.write_record([&clip.clip_id, split, group, &row.to_string()]).map_err(|error| broken(&path, &error))?;
        }
        out.flush().map_err(StageError::io(&path))?;
        let path = folder.join("locals.csv");
        let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
        out.write_record(["clip_id", "utterance", "word", "frame", "row"]).map_err(|error| broken(&path, &error))?;
        for clip in &self.clips {
            for local in &clip.locals {
                let frames: Vec<String> = local.frames.iter().map(usize::to_string).collect();
                let numbers =
                    [local.utterance.to_string(), local.word.to_string(), frames.join(" "), local.row.to_string()];
                let record = std::iter::once(&clip.clip_id).chain(&numbers);
                out.write_record(record).map_err(|error| broken(&path, &error))?;
            }
        }
        out.flush().map_err(StageError::io(&path))?;
        npy::write(&folder.join("global.npy"), &self.global)?;
        npy::write(&folder.join("locals.npy"), &self.locals)?;
        if let Some(causal) = &self.causal {
            causal.save(&self.clips, folder)?;
        }
        let (global_mode, parts_of_speech) = (self.global_mode, self.parts_of_speech);
        let (tagging, timing) = (self.tagging, self.timing);
        let description = Description { dim: self.dim(), global_mode, parts_of_speech, tagging, timing };
        write_json(&folder.join("packs.json"), &description)
    }

    /// Reads what [`Packs::save`] wrote.
    pub fn load(folder: &Path) -> Result<Self> {
        let description: Description = read_json(&folder.join("packs.json"))?;
        let (global, locals) = (npy::read(&folder.join("global.npy"))?, npy::read(&folder.join("locals.npy"))?);
        let path = folder.join("clips.csv");
        let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
        let columns = Columns::of(&path, &mut reader)?;
        let [id, split, group] = [columns.need("clip_id")?, columns.need("split")?, columns.need("group")?];
        let mut clips = Vec::new();
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        for row in reader.records() {
            let row = row.map_err(|error| broken(&path, &error))?;
            clips.push(PackedClip {
                clip_id: row[id].to_owned(),
                split: known(&row[split]),
                group: known(&row[group]),
                locals: Vec::new(),
            });
        }
        let mut packs = Self::new(clips, global, locals, description.global_mode, description.parts_of_speech);
        if packs.places.len() != packs.clips.len() {
            let twice = packs.clips.iter().enumerate().find(|(place, clip)| packs.places[&clip.clip_id] != *place);
            let name = twice.map_or("", |(_, clip)| &clip.clip_id);
            return Err(StageError::new(format!("clip `{name}` stands twice in `{}`", path.display())));
        }
        (packs.tagging, packs.timing) = (description.tagging, description.timing);
        packs.seen = Seen::load(folder)?;
        let path = folder.join("locals.csv");
        let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
        let columns = Columns::of(&path, &mut reader)?;
        let id = columns.need("clip_id")?;
        let frames = columns.need("frame")?;
        let numbers = [columns.need("utterance")?, columns.need("word")?, columns.need("row")?];
        for row in reader.records() {
            let row = row.map_err(|error| broken(&path, &error))?;
            let bad = |text: &str| StageError::new(format!("`{}`: `{text}` is no number", path.display()));
            let number = |column: usize| row[column].parse::<usize>().map_err(|_| bad(&row[column]));
            let frames = row[frames]
                .split_whitespace()
                .map(|text| text.parse().map_err(|_| bad(text)))
                .collect::<Result<_>>()?;
            let local =
                Local { utterance: number(numbers[0])?, word: number(numbers[1])?, frames, row: number(numbers[2])? };
            if packs.locals.shape.first().is_none_or(|&rows| local.row >= rows) {
                let message = format!("`{}`: `locals.npy` has no row {}", path.display(), local.row);
                return Err(StageError::new(message));
            }
            let place = packs.place(&row[id])?;
            packs.clips[place].locals.push(local);
        }
        if description.global_mode == GlobalMode::CausalMean {
            packs.causal = Some(Causal::load(&packs, folder)?);
        }
        let rows: usize = packs.clips.iter().map(|clip| clip.locals.len()).sum();
        if packs.global.shape != [packs.clips.len(), description.dim] || packs.locals.shape != [rows, description.dim] {
            return Err(StageError::new(format!(
                "the arrays of `{}` do not fit its tables: global {:?}, locals {:?}, {} clips, {rows} locals, dim {}",
                folder.display(),
                packs.global.shape,
                packs.locals.shape,
                packs.clips.len(),
                description.dim
            )));
        }
        Ok(packs)
    }
}

impl Causal {
    fn save(&self, clips: &[PackedClip], folder: &Path) -> Result<()> {
        let path = folder.join("causal.csv");
        let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
        out.write_record(["clip_id", "t_sec", "row"]).map_err(|error| broken(&path, &error))?;
        for (clip, frames) in clips.iter().zip(&self.frames) {
            for (time, row) in frames {
                let record = [clip.clip_id.clone(), time.to_string(), row.to_string()];
                out.write_record(record).map_err(|error| broken(&path, &error))?;
            }
        }
        out.flush().map_err(StageError::io(&path))?;
        Ok(npy::write(&folder.join("causal.npy"), &self.means)?)
    }

    fn load(packs: &Packs, folder: &Path) -> Result<Self> {
        let means: Array<f32> = npy::read(&folder.join("causal.npy"))?;
        let path = folder.join("causal.csv");
        let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
        let columns = Columns::of(&path, &mut reader)?;
        let [id, time, number] = [columns.need("clip_id")?, columns.need("t_sec")?, columns.need("row")?];
        let mut frames = vec![Vec::new(); packs.clips.len()];
        for row in reader.records() {
            let row = row.map_err(|error| broken(&path, &error))?;
            let bad = |text: &str| StageError::new(format!("`{}`: `{text}` is no number", path.display()));
            let seconds: f64 = row[time].parse().map_err(|_| bad(&row[time]))?;
            let place: usize = row[number].parse().map_err(|_| bad(&row[number]))?;
            frames[packs.place(&row[id])?].push((seconds, place));
        }
        let rows: usize = frames.iter().map(Vec::len).sum();
        let inside = frames.iter().flatten().all(|&(_, row)| row < rows);
        if means.shape != [rows, packs.dim()] || !inside {
            return Err(StageError::new(format!(
                "`causal.npy` of `{}` has shape {:?}, which does not fit the {rows} frames of `causal.csv`",
                folder.display(),
                means.shape
            )));
        }
        Ok(Self { means, frames })
    }
}

/// Writes `value` as indented JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| StageError::new(error.to_string()))?;
    text.push('\n');
    std::fs::write(path, text).map_err(StageError::io(path))
}

/// Reads a JSON file.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(StageError::io(path))?;
    serde_json::from_str(&text).map_err(|error| StageError::new(format!("`{}`: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_that_are_not_loaded_leave_and_rows_stay() {
        use crate::social::transcripts::Utterance;
        let locals = [0, 1, 1].into_iter().enumerate();
        let locals = locals.map(|(row, utterance)| Local { utterance, word: 0, frames: vec![0], row }).collect();
        let clip = PackedClip { clip_id: "a".into(), split: None, group: None, locals };
        let array = |rows: usize| Array::new([rows, 1], vec![0.0; rows]);
        let mut packs = Packs::new(vec![clip], array(1), array(3), GlobalMode::ClipMean, true);
        let second = Utterance { index: 1, ..Utterance::default() };
        packs.narrow(&[Clip { clip_id: "a".into(), utterances: vec![second], ..Clip::default() }]).unwrap();
        assert_eq!(packs.clips[0].locals.iter().map(|local| local.row).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(packs.locals.shape, [3, 1]);
    }

    #[test]
    fn packs_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let clip = |name: &str, locals| PackedClip {
            clip_id: name.into(),
            split: (name == "a").then(|| "train".into()),
            group: None,
            locals,
        };
        let local = |word, frames: &[usize], row| Local { utterance: 0, word, frames: frames.to_vec(), row };
        let clips = vec![clip("a", vec![local(1, &[0], 0), local(4, &[2, 3], 1)]), clip("b", vec![])];
        let global = Array::new([2, 2], vec![1.0, 2.0, 3.0, 4.0]);
        let locals = Array::new([2, 2], vec![5.0, 6.0, 7.0, 8.0]);
        let coverage = Coverage { given: 1, tagged: 4, none: 2 };
        let mut packs = Packs::new(clips, global, locals, GlobalMode::ProjectedLocals, true);
        packs.tagging = Some(Tagging { coverage, ..Tagging::default() });
        packs.save(folder.path()).unwrap();
        let back = Packs::load(folder.path()).unwrap();
        assert_eq!((&back.clips, &back.global, &back.locals), (&packs.clips, &packs.global, &packs.locals));
        assert_eq!((back.global_mode, back.place("b").unwrap()), (GlobalMode::ProjectedLocals, 1));
        assert_eq!((back.parts_of_speech, back.tagging), (true, packs.tagging));
        let means = Array::new([3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let causal = Causal { means, frames: vec![vec![(0.0, 0), (0.5, 2)], vec![(1.25, 1)]] };
        let causal_packs = Packs { causal: Some(causal.clone()), global_mode: GlobalMode::CausalMean, ..packs };
        causal_packs.save(folder.path()).unwrap();
        assert_eq!(Packs::load(folder.path()).unwrap().causal, Some(causal));
        let rows = folder.path().join("locals.csv");
        let text = std::fs::read_to_string(&rows).unwrap();
        std::fs::write(&rows, text.replace(",1\n", ",7\n")).unwrap();
        let error = Packs::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("`locals.npy` has no row 7"), "{error}");
        let error = back.place("c").unwrap_err().to_string();
        assert!(error.contains("`c`") && error.contains("hint:"), "{error}");
        let table = folder.path().join("clips.csv");
        let text = std::fs::read_to_string(&table).unwrap();
        std::fs::write(&table, text.replace("\nb,", "\na,")).unwrap();
        let error = Packs::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("clip `a` stands twice in"), "{error}");
    }
}
