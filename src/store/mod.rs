//! The store: a folder of finished steps, steps under way and runs.
//!
//! ```text
//! steps/<kind>-<key>/   artifact: outputs, summary.json, metrics.jsonl, log.txt, step.json
//! work/<kind>-<key>/    a step under way: outputs-<owner>/, scratch/ (checkpoints); survives a kill; its lease beside it
//! inputs/<digest>       the files of an external input that was read, with their digests
//! outputs/<key>         the second index: (kind, settings, digests of upstream outputs) → name of an artifact
//! runs/<run hash>/      experiment.toml, results.json, provenance.json
//! runs/experiments/     the experiment files that made the runs, each text once
//! runs/by-name/…        links for people
//! signatures            digests of unchanged input files
//! seals                 artifacts whose bytes were found to be those of their record
//! ```
//!
//! A step is done when its folder stands under `steps/` with the bytes that it left: written in `work/`, synced, renamed.
//! Nothing half-written is ever read.

pub mod digest;
pub mod hub;
pub mod lease;
pub mod provenance;
mod seal;
pub mod upkeep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stages::Summary;
use digest::Signatures;

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("store: `{path}`: {source}\nhint: {hint}")]
    Io { path: PathBuf, source: std::io::Error, hint: &'static str },
    /// A file of the store does not hold what it must.
    #[error("store: `{path}` is damaged: {reason}\nhint: run the experiment again: the step is made anew")]
    Damaged { path: PathBuf, reason: String },
    /// Another process took over the step while this one worked on it.
    #[error("store: the lease on `{0}` was lost to another process\nhint: run the same command again")]
    LeaseLost(String),
}

/// For `map_err` on file operations of the store.
pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    |source| {
        let hint = match source.kind() {
            std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
                "make the store writable or choose another with `--store DIR`"
            }
            _ => crate::stages::cure(&source)
                .unwrap_or("check the store's folder and run the same command again; finished steps are kept"),
        };
        StoreError::Io { path, source, hint }
    }
}

/// A store folder.
pub struct Store {
    root: PathBuf,
    signatures: Signatures,
    seals: seal::Seals,
}

/// The name of a step: kind and key, as in `steps/<kind>-<key>`.
pub fn step_name(kind: &str, key: &str) -> String {
    format!("{kind}-{key}")
}

/// Facts kept beside the outputs of a finished step, in `step.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepRecord {
    /// Stage or comparison kind.
    pub kind: String,
    /// The step key.
    pub key: String,
    /// The canonical input that the key is the digest of.
    pub identity: Value,
    /// Every setting, defaults included.
    pub settings: Value,
    /// Where each input was read, by field.
    pub inputs: BTreeMap<String, RecordedInput>,
    /// Digest and size of each output file, by path relative to the artifact.
    pub outputs: BTreeMap<String, RecordedOutput>,
    /// One digest of all outputs: what an equal rerun gives again.
    pub output_digest: String,
    /// What it took.
    pub cost: Cost,
    /// Who made it: binary, host, versions, command line.
    pub provenance: Value,
}

/// See [`StepRecord::inputs`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordedInput {
    /// As written in the experiment.
    pub reference: String,
    /// Folder or file that was read.
    pub path: PathBuf,
    /// Digest of its content.
    pub digest: String,
}

/// See [`StepRecord::outputs`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordedOutput {
    /// BLAKE3 of the bytes, hex.
    pub blake3: String,
    /// Size of the file.
    pub bytes: u64,
}

/// What a step took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Peak resident memory of the process so far, bytes.
    pub peak_memory: u64,
    /// Device it ran on.
    pub device: String,
}

/// Why a step failed, in its work folder.
const FAILURE: &str = "failure.txt";

/// The beginning of the names of outputs folders under way.
const OUTPUTS: &str = "outputs-";

/// Files whose bytes are not part of what a step computes: times and messages.
pub const NOT_OUTPUTS: [&str; 3] = ["step.json", "log.txt", "metrics.jsonl"];

impl Store {
    /// Opens the store at `root`, which need not exist: nothing is written before [`Store::create`].
    pub fn open(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let signatures = Signatures::load(&root.join("signatures"));
        let seals = seal::Seals::new(root.join("seals"));
        Self { root, signatures, seals }
    }

    /// Makes the folders.
    pub fn create(&self) -> Result<(), StoreError> {
        for name in ["steps", "work", "inputs", "outputs", "runs/by-name"] {
            let path = self.root.join(name);
            std::fs::create_dir_all(&path).map_err(io(&path))?;
        }
        Ok(())
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Digests of input files.
    pub fn signatures(&self) -> &Signatures {
        &self.signatures
    }

    /// Keeps what was learned about input files.
    pub fn save_signatures(&self) -> Result<(), StoreError> {
        let path = self.root.join("signatures");
        self.signatures.save(&path).map_err(io(&path))
    }

    /// The folder of the artifact of a finished step.
    pub fn artifact(&self, name: &str) -> PathBuf {
        self.root.join("steps").join(name)
    }

    /// The record of a finished step.
    pub fn record(&self, name: &str) -> Result<StepRecord, StoreError> {
        read_json(&self.artifact(name).join("step.json"))
    }

    /// The figures of a finished step.
    pub fn summary(&self, name: &str) -> Result<Summary, StoreError> {
        read_json(&self.artifact(name).join("summary.json"))
    }

    /// Makes a step done whose outputs are those of another: the early cut-off.
    pub fn alias(&self, name: &str, target: &str) -> Result<(), StoreError> {
        // A chain of aliases would break when its middle is collected: point at the artifact itself.
        let target = match std::fs::read_link(self.artifact(target)) {
            Ok(link) => link.to_string_lossy().into_owned(),
            Err(_) => target.to_owned(),
        };
        let link = self.artifact(name);
        let draft = self.root.join("work").join(format!("{name}.alias-{}", lease::unique()));
        std::os::unix::fs::symlink(&target, &draft).map_err(io(&draft))?;
        self.clear(name)?;
        std::fs::rename(&draft, &link).map_err(io(&link))
    }

    /// Takes away what stands in the place of an artifact without being whole.
    pub fn clear(&self, name: &str) -> Result<(), StoreError> {
        if std::fs::symlink_metadata(self.artifact(name)).is_ok() { self.remove(name) } else { Ok(()) }
    }

    /// The artifact that was made from inputs of these bytes, by the digest of (kind, version, settings, upstream
    /// output digests).
    pub fn find_by_outputs(&self, output_key: &str) -> Option<String> {
        let name = std::fs::read_to_string(self.root.join("outputs").join(output_key)).ok()?;
        self.is_done(&name).then_some(name)
    }

    /// Remembers the artifact under the digest of its inputs' bytes.
    pub fn index_by_outputs(&self, output_key: &str, name: &str) -> Result<(), StoreError> {
        self.write_atomically(&self.root.join("outputs").join(output_key), name.as_bytes())
    }

    /// Keeps the list of files behind an input's digest, so that a later change can be named.
    pub fn keep_listing(&self, digest: &str, files: &BTreeMap<String, String>) -> Result<(), StoreError> {
        let path = self.root.join("inputs").join(digest);
        if path.is_file() {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(files).map_err(|error| io(&path)(error.into()))?;
        self.write_atomically(&path, text.as_bytes())
    }

    /// The files behind an input's digest, if they were kept.
    pub fn listing(&self, digest: &str) -> Option<BTreeMap<String, String>> {
        read_json(&self.root.join("inputs").join(digest)).ok()
    }

    /// Writes a file so that a reader sees the old or the new content, never a part.
    pub fn write_atomically(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let draft = self.root.join("work").join(format!("draft-{}", lease::unique()));
        let written = std::fs::write(&draft, bytes).map_err(io(&draft));
        let written = written.and_then(|()| std::fs::rename(&draft, path).map_err(io(path)));
        if written.is_err() {
            std::fs::remove_file(&draft).ok();
        }
        written
    }

    /// Makes a symbolic link, or leads one that there is elsewhere; a reader sees the old or the new.
    pub fn link_atomically(&self, target: &Path, link: &Path) -> Result<(), StoreError> {
        let draft = self.root.join("work").join(format!("link-{}", lease::unique()));
        std::os::unix::fs::symlink(target, &draft).map_err(io(&draft))?;
        let moved = std::fs::rename(&draft, link).or_else(|error| match link.parent() {
            // `gc` in another process found the folder empty.
            Some(folder) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(folder).and_then(|()| std::fs::rename(&draft, link))
            }
            _ => Err(error),
        });
        moved.map_err(io(link))
    }

    /// Begins a step: an empty folder for this owner's outputs; those of owners before it go, checkpoints stay.
    pub fn begin(&self, name: &str, lease: &lease::Lease) -> Result<Work, StoreError> {
        let folder = self.root.join("work").join(name);
        let (outputs, scratch) = (folder.join(format!("{OUTPUTS}{}", lease.token())), folder.join("scratch"));
        for old in Self::outputs_under_way(&folder) {
            // Out of the way first: an owner that lost its lease and still lives can then put nothing more into it.
            let aside = self.root.join("work").join(format!("{name}.removed-{}", lease::unique()));
            std::fs::rename(&old, &aside).map_err(io(&old))?;
            std::fs::remove_dir_all(&aside).map_err(io(&aside))?;
        }
        std::fs::create_dir_all(&outputs).map_err(io(&outputs))?;
        let failure = folder.join(FAILURE);
        std::fs::remove_file(&failure).or_else(upkeep::unless_absent).map_err(io(&failure))?;
        Ok(Work { folder, outputs, scratch })
    }

    /// The outputs folders in a step's work folder: one for each owner that has not finished.
    pub fn outputs_under_way(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(OUTPUTS)).map(|e| e.path()).collect()
    }

    /// Makes the step done: digests and syncs the outputs, writes `summary.json` and `step.json`, renames. The artifact
    /// is also found by `output_key` from then on. An owner that has lost its lease changes nothing.
    pub fn commit(
        &self,
        work: &Work,
        mut record: StepRecord,
        summary: &Summary,
        output_key: &str,
        lease: &lease::Lease,
    ) -> Result<StepRecord, StoreError> {
        let name = step_name(&record.kind, &record.key);
        write_json(&work.outputs.join("summary.json"), summary)?;
        for (relative, path) in digest::files_below(&work.outputs).map_err(io(&work.outputs))? {
            let file = std::fs::File::open(&path).map_err(io(&path))?;
            file.sync_all().map_err(io(&path))?;
            if !NOT_OUTPUTS.contains(&relative.as_str()) {
                let digest = digest::digest_file(&path).map_err(io(&path))?;
                let bytes = file.metadata().map_err(io(&path))?.len();
                record.outputs.insert(relative, RecordedOutput { blake3: digest.to_hex().to_string(), bytes });
            }
        }
        record.output_digest = output_digest(&record.outputs);
        write_json(&work.outputs.join("step.json"), &record)?;
        sync(&work.outputs.join("step.json"))?;
        sync(&work.outputs)?;
        if !lease.is_held() || self.is_done(&name) {
            std::fs::remove_dir_all(&work.outputs).map_err(io(&work.outputs))?;
            return Err(StoreError::LeaseLost(name));
        }
        // Before the artifact: an index that leads to none is no harm, an artifact without its index is never found by it.
        self.index_by_outputs(output_key, &name)?;
        let target = self.artifact(&name);
        self.clear(&name)?;
        std::fs::rename(&work.outputs, &target).map_err(io(&target))?;
        sync(&self.root.join("steps"))?;
        self.seals.put(&name, &target, &record);
        std::fs::remove_dir_all(&work.folder).map_err(io(&work.folder))?;
        Ok(record)
    }
}

/// One digest of all outputs of a step.
pub fn output_digest(outputs: &BTreeMap<String, RecordedOutput>) -> String {
    let parsed =
        outputs.iter().filter_map(|(name, output)| Some((name.as_str(), blake3::Hash::from_hex(&output.blake3).ok()?)));
    digest::digest_tree(parsed).to_hex().to_string()
}

/// Waits until the disk has a file or the entries of a folder.
pub fn sync(path: &Path) -> Result<(), StoreError> {
    std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(io(path))
}

/// A step under way.
#[derive(Debug)]
pub struct Work {
    folder: PathBuf,
    outputs: PathBuf,
    scratch: PathBuf,
}

impl Work {
    /// What becomes the artifact.
    pub fn outputs(&self) -> &Path {
        &self.outputs
    }

    /// What survives a kill and is dropped at the end: checkpoints.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }
}

/// Reads a JSON file of the store.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let bytes = std::fs::read(path).map_err(io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged { path: path.into(), reason: error.to_string() })
}

/// Writes a JSON file, indented for people.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| io(path)(error.into()))?;
    text.push('\n');
    std::fs::write(path, text).map_err(io(path))
}
