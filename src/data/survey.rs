//! Which files of a folder could be an input, and of what form.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::social::original::MANIFESTS;
use crate::vision::video;

/// Endings of pictures.
const IMAGES: [&str; 3] = ["jpg", "jpeg", "png"];

/// JSON files that soctok and models of the hub write and that are no text.
const NO_TEXT: [&str; 9] = [
    "packs.json",
    "features.json",
    "projector.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
];

/// The files below a folder, by what they could be. Each list is in order of path.
#[derive(Default)]
pub(super) struct Survey {
    root: PathBuf,
    /// Video files.
    pub videos: Vec<PathBuf>,
    /// CSV files with their columns.
    pub tables: Vec<(PathBuf, Vec<String>)>,
    /// `.json` and `.jsonl` files that could be text.
    pub texts: Vec<PathBuf>,
    /// Folder → its pictures.
    pub pictures: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// Folders with `features.npy`.
    pub features: Vec<PathBuf>,
    /// Folders with `packs.json`.
    pub packs: Vec<PathBuf>,
    /// Folders with packs of the original project.
    pub originals: Vec<PathBuf>,
    /// Folders of steps and of simulated worlds, whose further tables are results.
    pub outputs: Vec<PathBuf>,
    /// Files and folders that cannot be read, and why.
    pub broken: Vec<(PathBuf, String)>,
}

impl Survey {
    /// Lists `root`; links are followed, hidden folders and stores below it left out.
    pub fn of(root: &Path) -> Self {
        let mut survey = Self { root: root.to_owned(), ..Self::default() };
        let is_wanted = |entry: &DirEntry| {
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            let path = entry.path();
            let store = path.join("steps").is_dir() && path.join("runs").is_dir();
            entry.depth() == 0 || !(entry.file_type().is_dir() && (hidden || store))
        };
        for entry in WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter().filter_entry(is_wanted) {
            match entry {
                Ok(entry) if entry.file_type().is_file() => survey.add(entry.path()),
                Ok(_) => {}
                Err(error) => {
                    let path = error.path().unwrap_or(root).to_owned();
                    survey.broken.push((path, error.to_string()));
                }
            }
        }
        survey.originals.dedup();
        // Tables that belong to vectors are read with them.
        let owners: Vec<PathBuf> =
            survey.features.iter().chain(&survey.packs).chain(&survey.originals).cloned().collect();
        let is_own = |path: &Path| {
            let parent = path.parent().unwrap_or(Path::new(""));
            let named = |names: &[&str]| path.file_name().is_some_and(|name| names.iter().any(|known| name == *known));
            owners.iter().any(|owner| owner == parent)
                && (named(&["frames.csv", "clips.csv", "locals.csv", "slips.csv", "seen_clips.csv"])
                    || named(&MANIFESTS))
        };
        survey.tables.retain(|(path, _)| !is_own(path));
        survey
    }

    fn add(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        match ending.as_str() {
            "csv" | "tsv" => {
                if MANIFESTS.contains(&name.as_ref()) {
                    self.originals.push(folder);
                }
                let header = csv::Reader::from_path(path).and_then(|mut reader| reader.headers().cloned());
                match header {
                    Ok(header) => {
                        let names = header.iter().map(|name| name.trim().to_owned()).collect();
                        self.tables.push((path.to_owned(), names));
                    }
                    Err(error) => self.broken.push((path.to_owned(), error.to_string())),
                }
            }
            "json" if name == "packs.json" => self.packs.push(folder),
            "json" if matches!(name.as_ref(), "summary.json" | "step.json" | "world.json" | "embeddings.json") => {
                self.outputs.push(folder);
            }
            "json" if NO_TEXT.contains(&name.as_ref()) || name.ends_with("_meta.json") => {}
            "json" | "jsonl" if name != "metrics.jsonl" => self.texts.push(path.to_owned()),
            "npy" if name == "features.npy" => self.features.push(folder),
            "npy" if name.ends_with("_global.npy") => self.originals.push(folder),
            ending if IMAGES.contains(&ending) => self.pictures.entry(folder).or_default().push(path.to_owned()),
            ending if video::ENDINGS.contains(&ending) => self.videos.push(path.to_owned()),
            _ => {}
        }
    }

    /// A path as the report names it.
    pub fn name(&self, path: &Path) -> String {
        let name = path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned();
        if name.is_empty() { ".".to_owned() } else { name }
    }

    /// A message with the paths in it as the report names them.
    pub fn shorten(&self, message: &str) -> String {
        message.replace(&format!("{}/", self.root.display()), "")
    }

    /// The split that the folders above a file name: the Seamless dataset has `improvised/train/…`.
    pub fn split_of(&self, path: &Path) -> Option<String> {
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        let mut folders: Vec<String> = relative.iter().map(|part| part.to_string_lossy().to_lowercase()).collect();
        folders.pop();
        folders.into_iter().rev().find(|part| matches!(part.as_str(), "train" | "dev" | "val" | "valid" | "test"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_name_and_header() {
        let folder = tempfile::tempdir().unwrap();
        let packs = ["p/packs.json", "p/clips.csv", "s/steps/x/packs.json", "s/runs/y.json"];
        let others = ["a/train/x.json", "a/config.json", "m.mp4", "c/frames/f_1.PNG", "t.csv", ".git/z.json"];
        for name in packs.into_iter().chain(others) {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "clip_id, split\n").unwrap();
        }
        let survey = Survey::of(folder.path());
        let names = |paths: &[PathBuf]| paths.iter().map(|path| survey.name(path)).collect::<Vec<_>>();
        assert_eq!(names(&survey.texts), ["a/train/x.json"]);
        assert_eq!((names(&survey.videos), names(&survey.packs)), (vec!["m.mp4".into()], vec!["p".into()]));
        assert_eq!(survey.tables.len(), 1);
        assert_eq!(survey.tables[0].1, ["clip_id", "split"]);
        assert_eq!(survey.split_of(&survey.texts[0]).as_deref(), Some("train"));
        assert_eq!((survey.split_of(Path::new("train.json")), survey.name(folder.path())), (None, ".".into()));
    }
}
