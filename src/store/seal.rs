//! Seals: which artifacts were found to have the bytes of their record, and need not be read again to know it.
//!
//! A seal is a line of `seals`: the step's name, a digest over the signatures (`store::digest`: device, inode, size, mtime
//! and ctime) of its files, the files. While the signatures stand, so do the bytes; when one moved (an edit, but also a
//! copy of the store) the bytes are read and compared with the record. The digest covers the names, so a line torn by a
//! kill seals nothing.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::digest::{digest_file, signature};
use super::{StepRecord, Store, StoreError, io, output_digest};

#[derive(Debug)]
struct Seal {
    signatures: blake3::Hash,
    files: Vec<String>,
}

/// The seals of one store, read when the first is asked for.
#[derive(Debug)]
pub(super) struct Seals {
    path: PathBuf,
    known: OnceLock<Mutex<HashMap<String, Seal>>>,
    /// Steps that this process found done.
    found: Mutex<HashSet<String>>,
}

impl Seals {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, known: OnceLock::new(), found: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Seal>> {
        let load = || {
            let bytes = std::fs::read(&self.path).unwrap_or_default();
            bytes.split(|byte| *byte == b'\n').filter_map(|line| parse(std::str::from_utf8(line).ok()?)).collect()
        };
        self.known.get_or_init(|| Mutex::new(load())).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Are the files of an artifact those that were sealed?
    fn holds(&self, name: &str, artifact: &Path) -> bool {
        let known = self.known();
        let Some(seal) = known.get(name) else { return false };
        signatures(artifact, seal.files.iter().map(String::as_str)).is_ok_and(|now| now == seal.signatures)
    }

    /// Seals an artifact whose bytes are known to be those of its record.
    pub(super) fn put(&self, name: &str, artifact: &Path, record: &StepRecord) {
        if let Ok(signatures) = signatures(artifact, sealed(record)) {
            self.keep(name, signatures, record);
        }
    }

    /// That a seal cannot be kept is no failure: the bytes are then read again next time.
    fn keep(&self, name: &str, signatures: blake3::Hash, record: &StepRecord) {
        let files: Vec<String> = sealed(record).map(str::to_owned).collect();
        if files.iter().any(|file| file.contains(['\t', '\n'])) {
            return;
        }
        let line = format!("{name}\t{signatures}\t{}\n", files.join("\t"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).ok();
        self.known().insert(name.to_owned(), Seal { signatures, files });
    }
}

fn parse(line: &str) -> Option<(String, Seal)> {
    let mut parts = line.split('\t');
    let name = parts.next()?.to_owned();
    let signatures = blake3::Hash::from_hex(parts.next()?).ok()?;
    Some((name, Seal { signatures, files: parts.map(str::to_owned).collect() }))
}

/// The files that a seal covers: the outputs and the record itself.
fn sealed(record: &StepRecord) -> impl Iterator<Item = &str> {
    record.outputs.keys().map(String::as_str).chain(["step.json"])
}

fn signatures<'f>(artifact: &Path, files: impl Iterator<Item = &'f str>) -> std::io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let signature = signature(&std::fs::metadata(artifact.join(file))?);
        hasher.update(format!("{file}\t{signature:?}\n").as_bytes());
    }
    Ok(hasher.finalize())
}

impl Store {
    /// Is the step done: does its artifact stand there with the bytes that the step left? Files that the step did not
    /// write, its log and its metrics do not matter.
    pub fn is_done(&self, name: &str) -> bool {
        self.is_done_within(name, u64::MAX)
    }

    /// [`Store::is_done`] that reads an artifact whose bytes are not known only up to `limit` bytes; of a larger one it
    /// compares the sizes.
    pub fn is_done_within(&self, name: &str, limit: u64) -> bool {
        let artifact = self.artifact(name);
        let is_done = self.seals.holds(name, &artifact) || self.is_whole(name, &artifact, limit).unwrap_or(false);
        let mut found = self.seals.found.lock().unwrap_or_else(PoisonError::into_inner);
        if is_done {
            found.insert(name.to_owned());
        } else {
            found.remove(name);
        }
        is_done
    }

    /// [`Store::is_done`] for reading what was found done a moment ago, by the plan of the same command: that is not
    /// looked at again.
    pub fn was_done(&self, name: &str) -> bool {
        self.seals.found.lock().unwrap_or_else(PoisonError::into_inner).contains(name) || self.is_done(name)
    }

    fn is_whole(&self, name: &str, artifact: &Path, limit: u64) -> Result<bool, StoreError> {
        // The most frequent answer, without an error to build.
        if !artifact.join("step.json").is_file() {
            return Ok(false);
        }
        let record = self.record(name)?;
        if record.output_digest != output_digest(&record.outputs) {
            return Ok(false);
        }
        for (file, output) in &record.outputs {
            let path = artifact.join(file);
            if std::fs::metadata(&path).map_err(io(&path))?.len() != output.bytes {
                return Ok(false);
            }
        }
        if record.outputs.values().map(|output| output.bytes).sum::<u64>() > limit {
            return Ok(true);
        }
        let before = signatures(artifact, sealed(&record)).map_err(io(artifact))?;
        for (file, output) in &record.outputs {
            let path = artifact.join(file);
            if digest_file(&path).map_err(io(&path))?.to_hex().as_str() != output.blake3 {
                return Ok(false);
            }
        }
        if signatures(artifact, sealed(&record)).map_err(io(artifact))? == before {
            self.seals.keep(name, before, &record);
        }
        Ok(true)
    }
}
