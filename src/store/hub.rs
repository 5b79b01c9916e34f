//! Models of the Hugging Face hub: `hub = "organisation/name"` in an experiment file.
//!
//! Files lie in the cache that Python's `huggingface_hub` uses (`HF_HUB_CACHE`, `HF_HOME`), so what one of the two has
//! downloaded the other finds. A branch or tag is resolved once to a commit, which [`Lock`] keeps in `soctok.lock`; from
//! then on that commit is used, with or without a network. The identity of a model is repository, commit and file list.
//!
//! `HF_ENDPOINT` names another server, `HF_HUB_OFFLINE=1` forbids the network, `HF_TOKEN` (or the file that
//! `huggingface-cli login` wrote) opens gated models. The token is sent to the endpoint and shown nowhere.

mod lock;

pub use lock::{FILE as LOCK_FILE, Lock, Locked};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

/// The branch that stands for "no revision given".
const DEFAULT_REVISION: &str = "main";

/// Files that are taken when the repository has them; `config.json` and weights must be there.
const SMALL_FILES: [&str; 4] = ["config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Why a hub model is not at hand.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The name or revision cannot be one of the hub.
    #[error("`{text}` is no {what}\nhint: {hint}")]
    Name { text: String, what: &'static str, hint: &'static str },
    /// HTTP 401 or 403.
    #[error(
        "`{repository}` may not be read (HTTP {status})\nhint: check the spelling; if its licence must be accepted, do so on \
         the model's page and set HF_TOKEN to a token of that account"
    )]
    Denied { repository: String, status: u16 },
    /// HTTP 404.
    #[error("`{repository}` has no `{what}` (HTTP 404)\nhint: check the repository, the revision and HF_ENDPOINT")]
    NotFound { repository: String, what: String },
    /// The network is needed and HF_HUB_OFFLINE forbids it.
    #[error(
        "`{repository}` is not in the cache `{cache}`, and HF_HUB_OFFLINE is set: {missing}\nhint: run once without \
         HF_HUB_OFFLINE, or set HF_HOME to the folder that has the model"
    )]
    Offline { repository: String, cache: PathBuf, missing: String },
    /// The server could not be reached or answered something else than a file.
    #[error(
        "`{repository}`, `{what}`: {reason}\nhint: check the network and HF_ENDPOINT; set HF_HUB_OFFLINE=1 to use the cache \
         only"
    )]
    Network { repository: String, what: String, reason: String },
    /// The repository holds no model that soctok loads.
    #[error(
        "`{repository}` at {commit} {reason}\nhint: choose a repository with `config.json` and safetensors weights"
    )]
    Unfit { repository: String, commit: String, reason: String },
    /// The lock file or the cache could not be read or written.
    #[error("`{path}`: {reason}\nhint: {hint}")]
    File { path: PathBuf, reason: String, hint: &'static str },
}

/// Which server and which cache.
#[derive(Clone)]
pub struct Hub {
    cache: PathBuf,
    endpoint: Option<String>,
    token: Option<String>,
    offline: bool,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "set, not shown");
        f.debug_struct("Hub")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &token)
            .field("offline", &self.offline)
            .finish()
    }
}

/// A model whose files are on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// `organisation/name`.
    pub repository: String,
    /// 40 hex digits.
    pub commit: String,
    /// Files that count, sorted.
    pub files: Vec<String>,
    /// The folder with these files (it may have others).
    pub folder: PathBuf,
}

impl HubModel {
    /// What makes two hub models the same: repository, commit and file list.
    pub fn identity(&self) -> String {
        identity(&self.repository, &self.commit, &self.files)
    }
}

/// What is known of a model without asking the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Commit and files are known; with `folder` they are all in the cache.
    Pinned { commit: String, files: Vec<String>, folder: Option<PathBuf> },
    /// The server must be asked which commit the revision is.
    Unresolved,
}

impl Known {
    /// See [`HubModel::identity`]; `None` while the commit is unknown.
    pub fn identity(&self, repository: &str) -> Option<String> {
        match self {
            Self::Pinned { commit, files, .. } => Some(identity(repository, commit, files)),
            Self::Unresolved => None,
        }
    }
}

fn identity(repository: &str, commit: &str, files: &[String]) -> String {
    format!("hub:{repository}@{commit}:{}", files.join(","))
}

impl Hub {
    /// From the environment variables that Python's `huggingface_hub` reads.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// From variables found by `get`.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let home = get("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let below = |folder: PathBuf| folder.join("huggingface");
            let cache = get("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| get("HOME").map(|home| Path::new(&home).join(".cache")));
            below(cache.unwrap_or_else(|| PathBuf::from(".cache")))
        });
        let token_file = get("HF_TOKEN_PATH").map(PathBuf::from).unwrap_or_else(|| home.join("token"));
        let kept = || std::fs::read_to_string(token_file).ok().map(|text| text.trim().to_owned());
        Self {
            cache: get("HF_HUB_CACHE").map(PathBuf::from).unwrap_or_else(|| home.join("hub")),
            endpoint: get("HF_ENDPOINT").map(|url| url.trim_end_matches('/').to_owned()),
            token: get("HF_TOKEN").or_else(kept).filter(|token| !token.is_empty()),
            offline: get("HF_HUB_OFFLINE")
                .is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")),
        }
    }

    /// Brings a model onto this machine and pins it in `lock`, which is saved when it changed. `revision` is a branch, a
    /// tag or a commit (`main` when not given). Nothing is sent over the network when lock and cache have everything.
    pub fn resolve(&self, repository: &str, revision: Option<&str>, lock: &mut Lock) -> Result<HubModel, HubError> {
        let revision = checked(repository, revision)?;
        let (commit, files) = match self.known(repository, Some(revision), lock)? {
            Known::Pinned { commit, files, .. } => (commit, files),
            Known::Unresolved => self.ask(repository, revision)?,
        };
        let folder = self.bring(repository, &commit, &files)?;
        if revision != commit {
            let failed = |error: std::io::Error| HubError::File {
                path: self.cache.clone(),
                reason: error.to_string(),
                hint: "make the cache writable or set HF_HOME to another folder",
            };
            self.cached(repository, revision).create_ref(&commit).map_err(failed)?;
        }
        lock.pin(Locked { repository: repository.into(), revision: revision.into(), commit, files })?;
        let Some(pinned) = lock.get(repository, revision) else { unreachable!("it was just pinned") };
        let (commit, files) = (pinned.commit.clone(), pinned.files.clone());
        Ok(HubModel { repository: repository.into(), commit, files, folder })
    }

    /// Like [`Hub::known`], but asks the server when neither tells, and pins the answer in `lock`. Brings no files.
    pub fn pin(&self, repository: &str, revision: Option<&str>, lock: &mut Lock) -> Result<Known, HubError> {
        let known = self.known(repository, revision, lock)?;
        if known != Known::Unresolved {
            return Ok(known);
        }
        let asked = checked(repository, revision)?;
        let (commit, files) = self.ask(repository, asked)?;
        lock.pin(Locked { repository: repository.into(), revision: asked.into(), commit, files })?;
        self.known(repository, revision, lock)
    }

    /// What lock and cache tell, for plans: sends nothing and writes nothing.
    pub fn known(&self, repository: &str, revision: Option<&str>, lock: &Lock) -> Result<Known, HubError> {
        let revision = checked(repository, revision)?;
        let pinned = |commit: String, files: Vec<String>| {
            let folder = self.cached(repository, revision).pointer_path(&commit);
            let whole = files.iter().all(|file| folder.join(file).is_file());
            Known::Pinned { commit, files, folder: whole.then_some(folder) }
        };
        if let Some(locked) = lock.get(repository, revision) {
            return Ok(pinned(locked.commit.clone(), locked.files.clone()));
        }
        // A commit, or offline a branch, of which the cache has a whole model.
        let commit = if is_commit(revision) { Some(revision.to_owned()) } else { self.reference(repository, revision) };
        let Some(commit) = commit.filter(|_| is_commit(revision) || self.offline) else {
            return Ok(Known::Unresolved);
        };
        Ok(self.cached_files(repository, &commit).map_or(Known::Unresolved, |files| pinned(commit, files)))
    }

    /// The commit that the cache's `refs/` has for a branch.
    fn reference(&self, repository: &str, revision: &str) -> Option<String> {
        let folder = Repo::model(repository.into()).folder_name();
        let text = std::fs::read_to_string(self.cache.join(folder).join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// The files that count of a commit in the cache; `None` when some are missing.
    fn cached_files(&self, repository: &str, commit: &str) -> Option<Vec<String>> {
        let folder = self.cached(repository, commit).pointer_path(commit);
        let present = std::fs::read_dir(&folder).ok()?.flatten();
        let names: BTreeSet<String> = present.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let read = || std::fs::read_to_string(folder.join(INDEX)).map_err(|error| error.to_string());
        let files = chosen(&names, read).ok()?;
        files.iter().all(|file| folder.join(file).is_file()).then_some(files)
    }

    fn cached(&self, repository: &str, revision: &str) -> hf_hub::CacheRepo {
        let repo = Repo::with_revision(repository.into(), RepoType::Model, revision.into());
        Cache::new(self.cache.clone()).repo(repo)
    }

    fn api(&self, repository: &str, revision: &str) -> Result<ApiRepo, HubError> {
        let mut builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_progress(false)
            .with_retries(3)
            .with_token(self.token.clone());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let api: Api = builder.build().map_err(|error| self.failed(repository, "client", &error))?;
        Ok(api.repo(Repo::with_revision(repository.into(), RepoType::Model, revision.into())))
    }

    /// Asks the server for commit and file list of a revision.
    fn ask(&self, repository: &str, revision: &str) -> Result<(String, Vec<String>), HubError> {
        if self.offline {
            return Err(self.offline(repository, &format!("nothing is known of revision `{revision}`")));
        }
        let info = self.api(repository, revision)?.info().map_err(|error| self.failed(repository, revision, &error))?;
        let commit = info.sha;
        let unfit = |reason: String| HubError::Unfit { repository: repository.into(), commit: commit.clone(), reason };
        if !is_commit(&commit) {
            return Err(unfit("has no commit of 40 hex digits".into()));
        }
        let names: BTreeSet<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        let api = self.api(repository, &commit)?;
        let index = || {
            let path = api.get(INDEX).map_err(|error| self.failed(repository, INDEX, &error).to_string())?;
            std::fs::read_to_string(path).map_err(|error| error.to_string())
        };
        let files = chosen(&names, index).map_err(unfit)?;
        Ok((commit, files))
    }

    /// Downloads what the cache lacks; gives the folder of the commit.
    fn bring(&self, repository: &str, commit: &str, files: &[String]) -> Result<PathBuf, HubError> {
        let folder = self.cached(repository, commit).pointer_path(commit);
        let missing: Vec<&String> = files.iter().filter(|file| !folder.join(file).is_file()).collect();
        if missing.is_empty() {
            return Ok(folder);
        }
        if self.offline {
            let names: Vec<String> = missing.iter().map(|file| format!("`{file}`")).collect();
            return Err(self.offline(repository, &format!("no {} of {commit}", names.join(", "))));
        }
        let api = self.api(repository, commit)?;
        for file in missing {
            tracing::info!("downloading {file} of {repository}");
            api.download(file).map_err(|error| self.failed(repository, file, &error))?;
            if !folder.join(file).is_file() {
                return Err(HubError::Network {
                    repository: repository.into(),
                    what: file.clone(),
                    reason: format!("the server gave a file of another commit than {commit}"),
                });
            }
        }
        Ok(folder)
    }

    fn offline(&self, repository: &str, missing: &str) -> HubError {
        HubError::Offline { repository: repository.into(), cache: self.cache.clone(), missing: missing.into() }
    }

    fn failed(&self, repository: &str, what: &str, error: &ApiError) -> HubError {
        let (repository, what) = (repository.to_owned(), what.to_owned());
        if let ApiError::RequestError(error) = error
            && let ureq::Error::StatusCode(status) = **error
        {
            match status {
                401 | 403 => return HubError::Denied { repository, status },
                404 => return HubError::NotFound { repository, what },
                _ => {}
            }
        }
        let mut reason = error.to_string();
        if let Some(token) = &self.token {
            reason = reason.replace(token, "[token]");
        }
        HubError::Network { repository, what, reason }
    }
}

/// The files that count among those of a repository, sorted. `index` gives the text of the shards' index.
fn chosen(names: &BTreeSet<String>, index: impl FnOnce() -> Result<String, String>) -> Result<Vec<String>, String> {
    if !names.contains("config.json") {
        return Err("has no `config.json`".into());
    }
    let mut files: BTreeSet<String> =
        SMALL_FILES.iter().filter(|file| names.contains(**file)).map(|file| (*file).to_owned()).collect();
    if names.contains(WEIGHTS) {
        files.insert(WEIGHTS.into());
    } else if names.contains(INDEX) {
        files.insert(INDEX.into());
        let index: serde_json::Value =
            serde_json::from_str(&index()?).map_err(|error| format!("`{INDEX}`: {error}"))?;
        let shards = index["weight_map"].as_object().ok_or(format!("has no `weight_map` in `{INDEX}`"))?;
        for shard in shards.values().filter_map(serde_json::Value::as_str) {
            if !names.contains(shard) || shard.contains('/') {
                return Err(format!("has no `{shard}`, which `{INDEX}` names"));
            }
            files.insert(shard.to_owned());
        }
    } else {
        return Err(format!("has neither `{WEIGHTS}` nor `{INDEX}`"));
    }
    Ok(files.into_iter().collect())
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The revision asked for; both names become parts of paths, so what could leave a folder is refused.
fn checked<'a>(repository: &str, revision: Option<&'a str>) -> Result<&'a str, HubError> {
    let plain = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && part.chars().all(known) && !part.starts_with('.') && !part.contains("..")
    };
    let (organisation, name) = repository.split_once('/').unwrap_or(("-", repository));
    if !plain(organisation) || !plain(name) {
        let hint = "write it as on the model's page: `organisation/name`";
        return Err(HubError::Name { text: repository.into(), what: "repository of the hub", hint });
    }
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    if !revision.split('/').all(plain) {
        let hint = "give a branch, a tag or a commit of 40 hex digits";
        return Err(HubError::Name { text: revision.into(), what: "revision", hint });
    }
    Ok(revision)
}
