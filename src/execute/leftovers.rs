//! What is left in a store of runs whose artifacts are gone: their folders, links and lists, and experiment files that
//! made no run that is left.

use std::collections::{BTreeMap, BTreeSet};
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
        let mut used = BTreeSet::new();
        for (run, folder) in entries(&runs)? {
            // A folder without results is a run that is being written, or none.
            let path = folder.join("results.json");
            if !path.is_file() {
                continue;
            }
            let results: Value = read_json(&path)?;
            let mut artifacts = results["stages"].as_object().into_iter().flat_map(|stages| stages.values());
            if !kept.contains(&run) && artifacts.any(|stage| stage["artifact"].as_str().is_some_and(is_gone)) {
                found.runs.insert(run);
            } else {
                used.extend(results["experiment_file"].as_str().map(str::to_owned));
            }
        }
        for (experiment, folder) in entries(&runs.join("by-name"))? {
            let mut is_empty = true;
            for (name, path) in entries(&folder)? {
                if name == files::LINK {
                    continue;
                }
                if name == "comparisons.json" {
                    let mut list: BTreeMap<String, String> = read_json(&path)?;
                    let before = list.len();
                    list.retain(|_, artifact| !is_gone(artifact));
                    is_empty &= list.is_empty();
                    if list.len() < before {
                        found.lists.push((path, list));
                    }
                    continue;
                }
                let target = std::fs::read_link(&path).ok();
                let run = target.as_deref().and_then(Path::file_name).map(|run| run.to_string_lossy().into_owned());
                // What a hand put there is left alone.
                if run.is_some_and(|run| found.runs.contains(&run) || !runs.join(&run).exists()) {
                    found.links.push(path);
                } else {
                    is_empty = false;
                }
            }
            if is_empty {
                found.folders.push(folder);
            } else {
                used.extend(files::last(store, &experiment));
            }
        }
        let kept_file = |name: &str| name.strip_suffix(".toml").is_none_or(|digest| used.contains(digest));
        let files = entries(&runs.join("experiments"))?;
        found.files = files.into_iter().filter(|(name, _)| !kept_file(name)).map(|(_, path)| path).collect();
        Ok(found)
    }

    /// Removes all of it, links before what they lead to.
    pub fn remove(&self, store: &Store) -> Result<(), StoreError> {
        for link in &self.links {
            std::fs::remove_file(link).map_err(io(link))?;
        }
        for (path, list) in &self.lists {
            if list.is_empty() {
                std::fs::remove_file(path).map_err(io(path))?;
            } else {
                let text = serde_json::to_string_pretty(list).map_err(|error| io(path)(error.into()))? + "\n";
                store.write_atomically(path, text.as_bytes())?;
            }
        }
        for folder in &self.folders {
            let link = folder.join(files::LINK);
            std::fs::remove_file(&link).or_else(unless_absent).map_err(io(&link))?;
            std::fs::remove_dir(folder).map_err(io(folder))?;
        }
        for run in &self.runs {
            let folder = store.root().join("runs").join(run);
            std::fs::remove_dir_all(&folder).map_err(io(&folder))?;
        }
        for file in &self.files {
            std::fs::remove_file(file).map_err(io(file))?;
        }
        Ok(())
    }
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

fn unless_absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
