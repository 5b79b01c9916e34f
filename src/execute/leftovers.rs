//! What is left in a store of runs whose artifacts are gone: their folders, links and lists, and experiment files that
//! made no run that is left.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files;
use crate::store::{Store, StoreError, io, read_json};

/// See the module.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Runs, by their hashes.
    pub runs: BTreeSet<String>,
    /// Links for people that lead to none.
    pub links: Vec<PathBuf>,
    /// Experiment files.
    pub files: Vec<PathBuf>,
    /// Lists of comparisons whose artifacts are gone, with what is left of them.
    lists: Vec<(PathBuf, BTreeMap<String, String>)>,
    /// Folders of experiments of which nothing is left.
    folders: Vec<PathBuf>,
}

impl Leftovers {
    /// What would be left over of the runs that are not in `kept` once the artifacts in `removed` are gone, and of those
    /// removed before.
    pub fn find(store: &Store, removed: &BTreeSet<String>, kept: &BTreeSet<String>) -> Result<Self, StoreError> {
        let is_gone = |artifact: &str| {
            let name = artifact.trim_start_matches("steps/");
            removed.contains(name) || std::fs::symlink_metadata(store.artifact(name)).is_err()
        };
        let mut found = Self::default();
        let runs = store.root().join("runs");
        // Before the runs are looked at: a process that makes one meanwhile keeps its file after its results.
        let files = entries(&runs.join("experiments"))?;
        for (run, folder) in entries(&runs)?.into_iter().filter(|(run, _)| !kept.contains(run)) {
            // A folder without results is a run that is being written, or none; what cannot be read is left alone.
            let Ok(results) = read_json::<Value>(&folder.join("results.json")) else { continue };
            let mut artifacts = results["stages"].as_object().into_iter().flat_map(|stages| stages.values());
            if artifacts.any(|stage| stage["artifact"].as_str().is_some_and(is_gone)) {
                found.runs.insert(run);
            }
        }
        for (_, folder) in entries(&runs.join("by-name"))? {
            // What a hand or a desktop put there is left alone, here and below.
            if folder.is_symlink() || !folder.is_dir() {
                continue;
            }
            let mut is_empty = true;
            for (name, path) in entries(&folder)? {
                if name == files::LINK {
                    continue;
                }
                if name == "comparisons.json" {
                    let Ok(mut list) = read_json::<BTreeMap<String, String>>(&path) else {
                        is_empty = false;
                        continue;
                    };
                    let before = list.len();
                    list.retain(|_, artifact| !is_gone(artifact));
                    is_empty &= list.is_empty();
                    if list.len() < before {
                        found.lists.push((path, list));
                    }
                    continue;
                }
                if linked_run(&path).is_some_and(|run| found.runs.contains(&run) || !runs.join(&run).exists()) {
                    found.links.push(path);
                } else {
                    is_empty = false;
                }
            }
            if is_empty {
                found.folders.push(folder);
            }
        }
        if let Some(used) = used(store, &found.runs, &found.folders)? {
            let is_unused = |name: &str| name.strip_suffix(".toml").is_some_and(|digest| !used.contains(digest));
            found.files = files.into_iter().filter(|(name, _)| is_unused(name)).map(|(_, path)| path).collect();
        }
        Ok(found)
    }

    /// Removes all of it, links before what they lead to. What another process removed already is no failure, and what one
    /// made since [`Leftovers::find`] stays.
    pub fn remove(&self, store: &Store) -> Result<(), StoreError> {
        for link in &self.links {
            std::fs::remove_file(link).or_else(unless_absent).map_err(io(link))?;
        }
        for (path, list) in &self.lists {
            if list.is_empty() {
                std::fs::remove_file(path).or_else(unless_absent).map_err(io(path))?;
            } else {
                let text = serde_json::to_string_pretty(list).map_err(|error| io(path)(error.into()))? + "\n";
                store.write_atomically(path, text.as_bytes())?;
            }
        }
        for folder in &self.folders {
            if entries(folder)?.iter().all(|(name, _)| name == files::LINK) {
                let link = folder.join(files::LINK);
                std::fs::remove_file(&link).or_else(unless_absent).map_err(io(&link))?;
                std::fs::remove_dir(folder).or_else(unless_absent).map_err(io(folder))?;
            }
        }
        for run in &self.runs {
            let folder = store.root().join("runs").join(run);
            std::fs::remove_dir_all(&folder).or_else(unless_absent).map_err(io(&folder))?;
        }
        // Once more, now that the rest is gone: one of them may have made a run in the meantime.
        let Some(used) = used(store, &BTreeSet::new(), &[])? else { return Ok(()) };
        let is_used = |file: &Path| file.file_stem().is_some_and(|digest| used.contains(&*digest.to_string_lossy()));
        for file in self.files.iter().filter(|file| !is_used(file)) {
            std::fs::remove_file(file).or_else(unless_absent).map_err(io(file))?;
        }
        Ok(())
    }
}

/// The digests of the experiment files that runs and links name, but for those that go; `None` when a run cannot be read.
fn used(store: &Store, runs: &BTreeSet<String>, folders: &[PathBuf]) -> Result<Option<BTreeSet<String>>, StoreError> {
    let root = store.root().join("runs");
    let mut used = BTreeSet::new();
    for (run, folder) in entries(&root)? {
        let path = folder.join("results.json");
        if runs.contains(&run) || !path.is_file() {
            continue;
        }
        let Ok(results) = read_json::<Value>(&path) else { return Ok(None) };
        used.extend(results["experiment_file"].as_str().map(str::to_owned));
    }
    for (experiment, folder) in entries(&root.join("by-name"))? {
        if !folders.contains(&folder) {
            used.extend(files::last(store, &experiment));
        }
    }
    Ok(Some(used))
}

/// The run that a link for people leads to; `None` of what is no such link.
fn linked_run(link: &Path) -> Option<String> {
    let target = std::fs::read_link(link).ok()?;
    let run = target.strip_prefix("../..").ok()?.to_str()?;
    files::is_hex(run).then(|| run.to_owned())
}

/// Names and paths in a folder, sorted; none when there is no such folder.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        let entry = entry.map_err(io(folder))?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    found.sort();
    Ok(found)
}

/// For `or_else`: what was to be removed may be gone, or in use again.
fn unless_absent(error: std::io::Error) -> std::io::Result<()> {
    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) { Ok(()) } else { Err(error) }
}
