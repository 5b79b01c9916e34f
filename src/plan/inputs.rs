//! External inputs: which files of a model or of data make its identity, and their digest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::social::seen;
use crate::stages::kind::ANY;
use crate::store::digest::{Signatures, digest_tree, files_below};

/// What is known about an external input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Digest of every byte that counts, hex.
    Known(String),
    /// Not read yet: files and bytes to read.
    Pending { files: usize, bytes: u64 },
}

/// A file or folder that a step reads from outside the store could not be used.
#[derive(Debug, thiserror::Error)]
#[error("`{path}`: {reason}\nhint: {hint}")]
pub struct InputError {
    path: PathBuf,
    reason: String,
    hint: &'static str,
}

impl InputError {
    fn new(path: &Path, reason: impl ToString, hint: &'static str) -> Self {
        Self { path: path.into(), reason: reason.to_string(), hint }
    }
}

/// Files of a model folder that change what a model computes.
fn is_model_file(name: &str) -> bool {
    let ends = |ending: &str| name.ends_with(ending);
    !name.contains('/')
        && (matches!(name, "config.json" | "tokenizer.json" | "projector.json" | seen::FILE)
            || ends(".safetensors")
            || ends(".safetensors.index.json")
            || ends(".pt")
            || ends(".pth"))
}

/// The files that `path` stands for to a field that accepts `accepts`, by their name relative to it.
///
/// A file stands for itself; a frame manifest (to a field that accepts anything: a CSV file with a column `frame_path`)
/// also for the frames that it names; a model folder for its configuration, weights and tokenizer; any other folder for
/// every file below it.
pub fn files(path: &Path, accepts: &[&str]) -> Result<Vec<(String, PathBuf)>, InputError> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| InputError::new(path, error, "correct the path in the experiment file, or bring the data"))?;
    if !metadata.is_dir() && !metadata.is_file() {
        let hint = "give a file or a folder: what a pipe or a device says is read once and cannot be identified";
        return Err(InputError::new(path, "it is neither", hint));
    }
    let is_model = accepts.iter().any(|kind| matches!(*kind, "language_model" | "encoder" | "projector"));
    let mut files = if metadata.is_dir() {
        let below = files_below(path)
            .map_err(|error| InputError::new(path, error, "check that every file below the folder can be read"))?;
        if is_model { below.into_iter().filter(|(name, _)| is_model_file(name)).collect() } else { below }
    } else {
        // What an encoder has seen lies beside its weights and goes with them.
        let record = path.with_file_name(seen::FILE);
        let record = (is_model && record.is_file()).then(|| (seen::FILE.to_owned(), record));
        std::iter::once((String::new(), path.to_owned())).chain(record).collect()
    };
    let is_any = accepts.contains(&ANY);
    if is_any || accepts.contains(&"frames") {
        let manifest = if metadata.is_dir() { path.join("manifest.csv") } else { path.to_owned() };
        let could_be_other = (is_any || accepts.len() > 1) && !has_frames(&manifest);
        if manifest.is_file() && !could_be_other {
            files.extend(frames_of(&manifest)?);
            files.sort();
            files.dedup();
        }
    }
    if files.is_empty() {
        let hint = if is_model {
            "a model folder has `config.json` and `*.safetensors` in it"
        } else {
            "bring the data, or correct the path in the experiment file"
        };
        return Err(InputError::new(path, "the folder has no file that counts", hint));
    }
    Ok(files)
}

/// Is it a CSV file with a column `frame_path`? Captions, which some fields accept too, have none.
fn has_frames(path: &Path) -> bool {
    csv::Reader::from_path(path)
        .is_ok_and(|mut reader| reader.headers().is_ok_and(|header| header.iter().any(|name| name == "frame_path")))
}

/// The files that a manifest's `frame_path` column names, relative to the manifest's folder.
fn frames_of(manifest: &Path) -> Result<Vec<(String, PathBuf)>, InputError> {
    let hint = "a manifest is a CSV file with a column `frame_path`";
    let mut reader = csv::Reader::from_path(manifest).map_err(|error| InputError::new(manifest, error, hint))?;
    let header = reader.headers().map_err(|error| InputError::new(manifest, error, hint))?;
    let Some(column) = header.iter().position(|name| name == "frame_path") else {
        return Err(InputError::new(manifest, "no column `frame_path`", hint));
    };
    let mut folder = None;
    let mut files = Vec::new();
    for record in reader.into_records() {
        let record = record.map_err(|error| InputError::new(manifest, error, hint))?;
        let name = record.get(column).unwrap_or_default().split('#').next().unwrap_or_default();
        let folder = folder.get_or_insert_with(|| crate::vision::frames::base(manifest, name));
        files.push((name.to_owned(), folder.join(name)));
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// File name relative to the input → digest, hex.
pub type Listing = BTreeMap<String, String>;

/// The digest of an external input and of each file in it. When more than `limit` bytes are not remembered, nothing is
/// read and the list is empty.
pub fn content(
    path: &Path,
    accepts: &[&str],
    signatures: &Signatures,
    limit: u64,
) -> Result<(Content, Listing), InputError> {
    let files = files(path, accepts)?;
    let unreadable = |path: &Path, error: std::io::Error| {
        InputError::new(path, error, "bring the file, or take its line out of the manifest")
    };
    let (mut unread, mut bytes) = (0, 0);
    for (_, path) in &files {
        if signatures.known(path).map_err(|error| unreadable(path, error))?.is_none() {
            let metadata = std::fs::metadata(path).map_err(|error| unreadable(path, error))?;
            if !metadata.is_file() {
                return Err(InputError::new(path, "it is no file", "take its line out of the manifest"));
            }
            unread += 1;
            bytes += metadata.len();
        }
    }
    if bytes > limit {
        return Ok((Content::Pending { files: unread, bytes }, Listing::new()));
    }
    // On all cores, as one file is: thousands of frames are read as fast as one checkpoint.
    let digest = |(_, path): &(String, PathBuf)| signatures.digest(path).map_err(|error| unreadable(path, error));
    let digests = files.par_iter().map(digest).collect::<Result<Vec<_>, _>>()?;
    let tree = digest_tree(files.iter().map(|(name, _)| name.as_str()).zip(digests.iter().copied()));
    let listing = files.into_iter().map(|(name, _)| name).zip(digests.iter().map(|digest| digest.to_hex().to_string()));
    Ok((Content::Known(tree.to_hex().to_string()), listing.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_no_input() {
        for path in ["/dev/zero", "/dev/null"] {
            let error = files(Path::new(path), &["text"]).expect_err("it never ends").to_string();
            assert!(error.contains("it is neither") && error.contains("hint: give a file or a folder"), "{error}");
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let manifest = folder.path().join("manifest.csv");
        std::fs::write(&manifest, "split,clip_id,frame_path,t_sec\ntest,a,/dev/zero,0\n").expect("writes");
        let error = content(&manifest, &["frames"], &Signatures::default(), u64::MAX).expect_err("it never ends");
        assert!(error.to_string().contains("`/dev/zero`: it is no file"), "{error}");
    }

    #[test]
    fn a_manifest_stands_for_its_frames_and_a_model_folder_for_its_weights() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writes");
        write("manifest.csv", "split,clip_id,frame_path,t_sec\ntest,a,one.png,0\ntest,a,pack.npy#3,1\n");
        write("one.png", "picture");
        write("pack.npy", "pictures");
        let manifest = folder.path().join("manifest.csv");
        let digest = || content(&manifest, &["frames"], &Signatures::default(), u64::MAX).expect("reads").0;
        let before = digest();
        write("one.png", "another");
        assert_ne!(digest(), before, "a frame changed under an unchanged manifest");
        write("one.png", "picture");
        assert_eq!(digest(), before);
        write("notes.txt", "not ours");
        assert_eq!(digest(), before);
        let error = files(folder.path(), &["language_model"]).expect_err("no weights there");
        assert!(error.to_string().contains("config.json"), "{error}");
        write("weights.pt", "weights");
        let weights = folder.path().join("weights.pt");
        let unseen = content(&weights, &["encoder"], &Signatures::default(), u64::MAX).expect("reads").0;
        write("seen_clips.csv", "clip_id\na\n");
        let seen = content(&weights, &["encoder"], &Signatures::default(), u64::MAX).expect("reads").0;
        assert_ne!(seen, unseen, "the record of what an encoder has seen goes with its weights");
        let pending = content(&manifest, &["frames"], &Signatures::default(), 0).expect("looks");
        assert!(matches!(pending.0, Content::Pending { files: 3, .. }), "{pending:?}");
    }
}
