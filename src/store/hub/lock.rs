//! `soctok.lock`: which commit each hub model's revision was resolved to.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{HubError, is_commit};

/// Name of the lock file in the experiment's working folder.
pub const FILE: &str = "soctok.lock";

const HEADING: &str = "# Written by soctok: the commit that each revision of a hub model was resolved to. Keep it with the \
                       experiment;\n# remove an entry to resolve its revision anew.\n\n";
const HINT: &str = "restore the file from version control, or remove it to resolve every revision anew";

/// One pinned model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// `organisation/name`.
    pub repository: String,
    /// What was asked for: a branch, a tag or a commit.
    pub revision: String,
    /// 40 hex digits.
    pub commit: String,
    /// Files that count, sorted.
    pub files: Vec<String>,
}

/// The lock file of a working folder.
#[derive(Clone, Debug)]
pub struct Lock {
    path: PathBuf,
    models: Vec<Locked>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    model: Vec<Locked>,
}

impl Lock {
    /// Reads `soctok.lock` in `folder`; without the file nothing is pinned.
    pub fn load(folder: &Path) -> Result<Self, HubError> {
        let path = folder.join(FILE);
        let failed = |reason: String| HubError::File { path: path.clone(), reason, hint: HINT };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error.to_string())),
        };
        let document: Document = toml::from_str(&text).map_err(|error| failed(error.to_string()))?;
        for model in &document.model {
            super::checked(&model.repository, Some(&model.revision))?;
            if !is_commit(&model.commit) {
                return Err(failed(format!("`{}` is no commit of 40 hex digits", model.commit)));
            }
            if let Some(file) = model.files.iter().find(|file| file.contains(['/', '\\']) || file.starts_with('.')) {
                return Err(failed(format!("`{file}` is no file of a model")));
            }
        }
        Ok(Self { path, models: document.model })
    }

    /// What is pinned for a revision.
    pub fn get(&self, repository: &str, revision: &str) -> Option<&Locked> {
        self.models.iter().find(|model| model.repository == repository && model.revision == revision)
    }

    /// Pins a model, and saves the file when that changed anything. Entries are sorted; the file is replaced as a whole.
    pub(super) fn pin(&mut self, locked: Locked) -> Result<(), HubError> {
        if self.models.contains(&locked) {
            return Ok(());
        }
        self.models.retain(|model| (&model.repository, &model.revision) != (&locked.repository, &locked.revision));
        self.models.push(locked);
        self.models.sort_by(|a, b| (&a.repository, &a.revision).cmp(&(&b.repository, &b.revision)));
        let hint = "make the experiment's working folder writable";
        let failed = |reason: String| HubError::File { path: self.path.clone(), reason, hint };
        let document = Document { model: self.models.clone() };
        let text = toml::to_string(&document).map_err(|error| failed(error.to_string()))?;
        let part = self.path.with_extension(format!("lock.{}", std::process::id()));
        std::fs::write(&part, format!("{HEADING}{text}")).map_err(|error| failed(error.to_string()))?;
        std::fs::rename(&part, &self.path).map_err(|error| failed(error.to_string()))
    }
}
