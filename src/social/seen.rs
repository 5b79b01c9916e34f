//! Which clips an encoder saw when it was trained: a record that goes with the weights and with all that is made of them.
//!
//! `seen_clips.csv` has the column `clip_id` (others are passed over) and lies beside the encoder's weights. `encode_frames` takes it into the features, `scene_packs` into the packs, `embed` into the embeddings, and
//! what evaluates refuses clips that are in it: features of a clip that the encoder was trained on are no held-out
//! features (method notes, section 6.1, pitfall 8). An encoder without a record is one of which nothing is known.

use std::collections::BTreeSet;
use std::path::Path;

use super::columns::{Columns, broken};
use crate::stages::{Result, StageError};

/// Name of the record in a folder.
pub const FILE: &str = "seen_clips.csv";

/// The clips that an encoder was trained on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    clips: BTreeSet<String>,
}

impl Seen {
    /// A record of these clips.
    pub fn of(clips: impl IntoIterator<Item = String>) -> Self {
        Self { clips: clips.into_iter().collect() }
    }

    /// The record in a folder, or beside a file; `None` when there is none.
    pub fn load(place: &Path) -> Result<Option<Self>> {
        let path = if place.is_file() { place.with_file_name(FILE) } else { place.join(FILE) };
        if !path.is_file() {
            return Ok(None);
        }
        let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
        let id = Columns::of(&path, &mut reader)?.need("clip_id")?;
        let rows = reader.records().map(|row| Ok(row.map_err(|error| broken(&path, &error))?[id].trim().to_owned()));
        Ok(Some(Self { clips: rows.collect::<Result<_>>()? }))
    }

    /// Writes the record into `folder`.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
        for cell in std::iter::once("clip_id").chain(self.clips.iter().map(String::as_str)) {
            out.write_record([cell]).map_err(|error| broken(&path, &error))?;
        }
        out.flush().map_err(StageError::io(&path))
    }

    /// Adds `name` if `clip`, which is the same clip under another name, is in the record.
    pub fn alias(&mut self, clip: &str, name: &str) {
        if self.clips.contains(clip) {
            self.clips.insert(name.to_owned());
        }
    }

    /// How many of these clips are in the record.
    pub fn count<'a>(&self, clips: impl IntoIterator<Item = &'a str>) -> usize {
        clips.into_iter().filter(|clip| self.clips.contains(*clip)).count()
    }

    /// Fails when any of these clips, which are to be evaluated, is in the record and that is not `allowed`; gives their
    /// number.
    pub fn check<'a>(&self, clips: impl IntoIterator<Item = &'a str>, allowed: bool) -> Result<usize> {
        let (mut all, mut seen) = (0, Vec::new());
        for clip in clips {
            all += 1;
            if self.clips.contains(clip) {
                seen.push(clip);
            }
        }
        match seen.first() {
            Some(first) if !allowed => Err(StageError::hint(
                format!(
                    "the encoder of these features was trained on {} of the {all} clips to be evaluated, the first is \
                     `{first}`",
                    seen.len()
                ),
                "train the encoder and evaluate with the same `splits`, or set `allow_seen_clips = true` if the protocol \
                 does so",
            )),
            _ => Ok(seen.len()),
        }
    }
}

/// Takes the record in a folder, or beside a file, into another folder, where there is one.
pub fn pass_on(from: &Path, to: &Path) -> Result<Option<Seen>> {
    let seen = Seen::load(from)?;
    if let Some(seen) = &seen {
        seen.save(to)?;
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_passed_on_and_refuses_what_is_in_it() {
        let [from, to] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        assert_eq!(pass_on(from.path(), to.path()).unwrap(), None);
        std::fs::write(from.path().join(FILE), "split,clip_id\ntrain,b\ntrain,\"a, the first\"\n").unwrap();
        let seen = pass_on(from.path(), to.path()).unwrap().unwrap();
        assert_eq!(Seen::load(to.path()).unwrap(), Some(seen.clone()));
        std::fs::write(to.path().join("weights.pt"), "").unwrap();
        assert_eq!(Seen::load(&to.path().join("weights.pt")).unwrap(), Some(seen.clone()));
        assert_eq!(seen, Seen::of(["a, the first".to_owned(), "b".to_owned()]));
        assert_eq!((seen.check(["c", "d"], false).unwrap(), seen.count(["b", "c"])), (0, 1));
        assert_eq!(seen.check(["b", "c"], true).unwrap(), 1);
        let message = seen.check(["b", "c"], false).unwrap_err().to_string();
        assert!(message.contains("1 of the 2 clips") && message.contains("`allow_seen_clips = true`"), "{message}");
    }
}
