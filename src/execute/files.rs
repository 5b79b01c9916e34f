//! Experiment files beside the runs that they made: each text once, under the digest of its bytes.
//!
//! ```text
//! runs/experiments/<digest>.toml            an experiment as one file (`Experiment::written`)
//! runs/by-name/<experiment>/experiment.toml link to the one that ran last under this name
//! ```

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::experiment::Experiment;
use crate::store::{Store, StoreError, io};

/// The name of the link to an experiment's file beside the links to its runs.
pub const LINK: &str = "experiment.toml";

/// The digest of an experiment's file.
pub fn digest(experiment: &Experiment) -> String {
    blake3::hash(experiment.written.as_bytes()).to_hex().to_string()
}

/// Where the file of a digest lies.
pub fn path(store: &Store, digest: &str) -> PathBuf {
    store.root().join("runs/experiments").join(format!("{digest}.toml"))
}

/// The link for people to the file of an experiment.
pub fn link(store: &Store, experiment: &str) -> PathBuf {
    store.root().join("runs/by-name").join(experiment).join(LINK)
}

/// The digest of the file that ran last under a name, if one was kept.
pub fn last(store: &Store, experiment: &str) -> Option<String> {
    let target = std::fs::read_link(link(store, experiment)).ok()?;
    target.file_stem()?.to_str().filter(|digest| is_hex(digest)).map(str::to_owned)
}

/// Whether a text can be a digest or a run hash, and so leads to no other place as a part of a path.
pub fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Keeps a file; returns its digest.
pub fn keep(store: &Store, text: &str) -> Result<String, StoreError> {
    let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
    let file = path(store, &digest);
    if !file.is_file() {
        make_folder(&file)?;
        store.write_atomically(&file, text.as_bytes())?;
    }
    Ok(digest)
}

/// Leads the link for people of an experiment to a file.
pub fn lead(store: &Store, experiment: &str, digest: &str) -> Result<(), StoreError> {
    if last(store, experiment).as_deref() == Some(digest) {
        return Ok(());
    }
    let link = link(store, experiment);
    make_folder(&link)?;
    store.link_atomically(&Path::new("../../experiments").join(format!("{digest}.toml")), &link)
}

/// Keeps the file of an experiment that ran. Where nothing new was made (`is_new`) a store that takes no more is no
/// failure: its runs stand.
pub fn keep_as_run(store: &Store, experiment: &Experiment, is_new: bool) -> Result<(), StoreError> {
    let read_only = |error: &StoreError| {
        let StoreError::Io { source, .. } = error else { return false };
        matches!(source.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
    };
    let kept = keep(store, &experiment.written).and_then(|digest| lead(store, &experiment.name, &digest));
    match kept {
        Err(error) if !is_new && read_only(&error) => Ok(()),
        other => other,
    }
}

fn make_folder(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder).map_err(io(folder))
}
