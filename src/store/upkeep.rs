//! Upkeep of a store: which steps stand in it, whether their bytes are still theirs, what they weigh, what is under way.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::{digest_file, files_below};
use super::lease::Claim;
use super::{Store, StoreError, io, read_json, write_json};

/// How far a step under way is, in `work/<step>/progress.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgressRecord {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// `step`, `frame`, `clip`.
    pub unit: String,
}

/// A step under way.
#[derive(Clone, Debug)]
pub struct UnderWay {
    /// `<kind>-<key>`.
    pub name: String,
    /// Host and process of its owner.
    pub owner: String,
    /// Seconds since the owner last said that it lives.
    pub silent: f64,
    /// How far it is, when it has said so.
    pub progress: Option<ProgressRecord>,
}

/// What is wrong with an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// An output is gone.
    Missing(String),
    /// An output has other bytes than when it was made.
    Changed(String),
    /// A file that the step did not write.
    Foreign(String),
    /// Its record cannot be read.
    NoRecord(String),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(file) => write!(formatter, "`{file}` is missing"),
            Self::Changed(file) => write!(formatter, "`{file}` has other bytes than when it was made"),
            Self::Foreign(file) => write!(formatter, "`{file}` was not written by the step"),
            Self::NoRecord(reason) => write!(formatter, "no record: {reason}"),
        }
    }
}

impl Store {
    /// Names of everything under `steps/`, sorted; links of the early cut-off included.
    pub fn steps(&self) -> Result<Vec<String>, StoreError> {
        names(&self.root().join("steps"))
    }

    /// Where a step's link of the early cut-off leads to; `None` for an artifact of its own.
    pub fn alias_of(&self, name: &str) -> Option<String> {
        let target = std::fs::read_link(self.artifact(name)).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    /// Compares the bytes of an artifact with the digests in its record.
    pub fn verify(&self, name: &str) -> Result<Vec<Problem>, StoreError> {
        let folder = self.artifact(name);
        let record = match self.record(name) {
            Ok(record) => record,
            Err(error) => return Ok(vec![Problem::NoRecord(error.to_string())]),
        };
        let mut problems = Vec::new();
        for (file, output) in &record.outputs {
            let path = folder.join(file);
            if !path.is_file() {
                problems.push(Problem::Missing(file.clone()));
            } else if digest_file(&path).map_err(io(&path))?.to_hex().as_str() != output.blake3 {
                problems.push(Problem::Changed(file.clone()));
            }
        }
        for (file, _) in files_below(&folder).map_err(io(&folder))? {
            if !record.outputs.contains_key(&file) && !super::NOT_OUTPUTS.contains(&file.as_str()) {
                problems.push(Problem::Foreign(file));
            }
        }
        Ok(problems)
    }

    /// Bytes of an artifact; a link weighs nothing.
    pub fn size(&self, name: &str) -> Result<u64, StoreError> {
        let folder = self.artifact(name);
        if self.alias_of(name).is_some() {
            return Ok(0);
        }
        let files = files_below(&folder).map_err(io(&folder))?;
        files.iter().map(|(_, path)| Ok(std::fs::metadata(path).map_err(io(path))?.len())).sum()
    }

    /// Removes an artifact: out of `steps/` in one move, then its bytes.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let folder = self.artifact(name);
        if self.alias_of(name).is_some() {
            return std::fs::remove_file(&folder).map_err(io(&folder));
        }
        let aside = self.root().join("work").join(format!("{name}.removed-{}", super::lease::unique()));
        std::fs::rename(&folder, &aside).map_err(io(&folder))?;
        // A hand may have put a file there.
        let removed = if aside.is_dir() { std::fs::remove_dir_all(&aside) } else { std::fs::remove_file(&aside) };
        removed.map_err(io(&aside))
    }

    /// Removes what killed processes of this host left in `work/`: drafts, and the work folders and leases of steps that
    /// are done. What a step that is not done left stays: it goes on from there.
    pub fn sweep(&self) -> Result<(), StoreError> {
        let work = self.root().join("work");
        for file in names(&work)? {
            let path = work.join(&file);
            if super::lease::is_left_behind(&file) {
                let is_folder = std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
                let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                // Another process may sweep at the same time.
                removed.or_else(unless_absent).map_err(io(&path))?;
                continue;
            }
            let name = file.strip_suffix(".lease").unwrap_or(&file);
            if !self.is_done(name) {
                continue;
            }
            // The second claim takes what the first found dead. A living owner removes its folder itself.
            let mut claim = self.claim(name, None)?;
            if matches!(claim, Claim::Busy(_)) {
                claim = self.claim(name, None)?;
            }
            if let Claim::Taken(_lease) = claim {
                let folder = work.join(name);
                std::fs::remove_dir_all(&folder).or_else(unless_absent).map_err(io(&folder))?;
            }
        }
        Ok(())
    }

    /// Keeps why a step failed, until it is begun again or done. To be called by who holds its lease.
    pub fn keep_failure(&self, name: &str, message: &str) -> Result<(), StoreError> {
        let folder = self.root().join("work").join(name);
        std::fs::create_dir_all(&folder).map_err(io(&folder))?;
        let path = folder.join(super::FAILURE);
        std::fs::write(&path, message).map_err(io(&path))
    }

    /// Why a step that is not done failed the last time it was tried.
    pub fn failure(&self, name: &str) -> Option<String> {
        let path = self.root().join("work").join(name).join(super::FAILURE);
        std::fs::read_to_string(path).ok().filter(|_| !self.is_done(name))
    }

    /// The steps that some process holds a lease on.
    pub fn under_way(&self) -> Result<Vec<UnderWay>, StoreError> {
        let work = self.root().join("work");
        let mut found = Vec::new();
        for file in names(&work)? {
            let Some(name) = file.strip_suffix(".lease") else { continue };
            let path = work.join(&file);
            // A lease that was given back between the listing and here is no longer under way.
            let (Ok(owner), Ok(metadata)) = (std::fs::read_to_string(&path), std::fs::metadata(&path)) else {
                continue;
            };
            if super::lease::is_gone(&owner) {
                continue;
            }
            let silent = metadata.modified().ok().and_then(|time| time.elapsed().ok());
            found.push(UnderWay {
                name: name.to_owned(),
                owner: described(&owner),
                silent: silent.map_or(0.0, |time| time.as_secs_f64()),
                progress: read_json(&work.join(name).join("progress.json")).ok(),
            });
        }
        Ok(found)
    }
}

impl super::Work {
    /// Says how far the step is, for `soctok status`.
    pub fn tell(&self, progress: &ProgressRecord) -> Result<(), StoreError> {
        write_json(&self.folder.join("progress.json"), progress)
    }
}

/// For `or_else`: what was to be removed may be gone already.
pub(super) fn unless_absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// `host, process 12`
fn described(owner: &str) -> String {
    let mut parts = owner.split(' ');
    let host = parts.next().and_then(|place| place.split('/').next()).unwrap_or_default();
    format!("{host}, process {}", parts.next().unwrap_or_default())
}

fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        names.push(entry.map_err(io(folder))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::Summary;
    use crate::store::{Cost, StepRecord};

    fn record() -> StepRecord {
        StepRecord {
            kind: "note".into(),
            key: "1".into(),
            identity: Default::default(),
            settings: Default::default(),
            inputs: Default::default(),
            outputs: Default::default(),
            output_digest: String::new(),
            cost: Cost::default(),
            provenance: Default::default(),
        }
    }

    #[test]
    fn an_owner_that_lost_its_lease_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(folder.path());
        store.create().expect("creates");
        let Claim::Taken(lease) = store.claim("note-1", None).expect("asks") else { panic!("free") };
        let work = store.begin("note-1", &lease).expect("begins");
        std::fs::write(work.outputs().join("note.txt"), "late").expect("writes");
        // Another process takes over, and begins.
        std::fs::remove_file(folder.path().join("work/note-1.lease")).expect("removes");
        let Claim::Taken(other) = store.claim("note-1", None).expect("asks") else { panic!("free") };
        let theirs = store.begin("note-1", &other).expect("begins");
        assert!(!work.outputs().exists(), "the late owner has no folder to write to");
        std::fs::create_dir_all(work.outputs()).expect("it may make it anew");
        std::fs::write(work.outputs().join("note.txt"), "late").expect("writes");
        let lost = store.commit(&work, record(), &Summary::new(), "a", &lease);
        assert!(matches!(lost, Err(StoreError::LeaseLost(_))), "{lost:?}");
        assert!(!store.is_done("note-1"));
        std::fs::write(theirs.outputs().join("note.txt"), "in time").expect("writes");
        store.commit(&theirs, record(), &Summary::new(), "a", &other).expect("commits");
        let text = std::fs::read_to_string(store.artifact("note-1").join("note.txt")).expect("reads");
        assert_eq!(text, "in time");
    }

    #[test]
    fn an_edited_artifact_is_found_out() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(folder.path());
        store.create().expect("creates");
        let Claim::Taken(lease) = store.claim("note-1", None).expect("asks") else { panic!("free") };
        let work = store.begin("note-1", &lease).expect("begins");
        std::fs::write(work.outputs().join("note.txt"), "text").expect("writes");
        work.tell(&ProgressRecord { done: 1, total: 2, unit: "step".into() }).expect("writes");
        let under_way = store.under_way().expect("reads");
        assert_eq!((under_way[0].name.as_str(), under_way[0].progress.as_ref().map(|p| p.done)), ("note-1", Some(1)));
        store.commit(&work, record(), &Summary::new(), "a", &lease).expect("commits");
        drop(lease);
        assert!(store.under_way().expect("reads").is_empty());
        assert_eq!(store.verify("note-1").expect("reads"), []);
        let artifact = store.artifact("note-1");
        std::fs::write(artifact.join("note.txt"), "Text").expect("writes");
        std::fs::write(artifact.join("more.txt"), "more").expect("writes");
        std::fs::remove_file(artifact.join("summary.json")).expect("removes");
        assert!(!store.is_done("note-1"));
        let found = store.verify("note-1").expect("reads");
        assert!(found.contains(&Problem::Changed("note.txt".into())), "{found:?}");
        assert!(found.contains(&Problem::Foreign("more.txt".into())), "{found:?}");
        assert!(found.contains(&Problem::Missing("summary.json".into())), "{found:?}");
        store.remove("note-1").expect("removes");
        assert!(!store.is_done("note-1") && store.steps().expect("reads").is_empty());
    }
}
