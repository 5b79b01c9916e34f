//! Stage kinds: what a step can do.
//!
//! A kind is one file here: doc with the formula or paper section, `Config`, `run`. A stage reads the folders of its
//! inputs, writes into its own folder and returns its summary; it knows nothing of the store, of TOML or of SLURM.
//! To add a kind: one file and one line in [`kinds`].

pub mod as_trained;
pub mod attention;
pub mod checkpoint;
pub mod command;
pub mod compare_embeddings;
mod context;
pub mod embed;
mod embedded;
pub mod encode_frames;
pub mod encode_text;
pub mod estimate;
pub mod extract_frames;
pub mod frame_manifest;
pub mod import_packs;
pub mod join_speakers;
pub mod kind;
pub mod linear_probe;
pub mod logit_lens;
pub mod note;
pub mod odd_one_out;
pub mod perplexity;
pub mod pretrain_lm;
pub mod pretrain_vit;
mod pretraining;
pub mod rsa;
pub mod scene_packs;
pub mod simulate_clips;
pub mod split;
#[cfg(test)]
mod stopping;
mod subject;
pub mod train_lora;
pub mod train_projector;

pub use context::{CHECKPOINT_INTERVAL, Context, Guard, Input, Inputs, ModelCache, Served};
pub use estimate::{Estimate, Expected};
pub use kind::{Kind, Stage, Upstream};

use serde::{Deserialize, Serialize};

/// Every built-in kind, in the order of the data's way.
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::of::<simulate_clips::SimulateClips>(),
        Kind::of::<extract_frames::ExtractFrames>(),
        Kind::of::<frame_manifest::FrameManifest>(),
        Kind::of::<join_speakers::JoinSpeakers>(),
        Kind::of::<split::Split>(),
        Kind::of::<encode_frames::EncodeFrames>(),
        Kind::of::<encode_text::EncodeText>(),
        Kind::of::<linear_probe::LinearProbe>(),
        Kind::of::<scene_packs::ScenePacks>(),
        Kind::of::<import_packs::ImportPacks>(),
        Kind::of::<pretrain_lm::PretrainLm>(),
        Kind::of::<pretrain_vit::PretrainVit>(),
        Kind::of::<train_projector::TrainProjector>(),
        Kind::of::<train_lora::TrainLora>(),
        Kind::of::<perplexity::Perplexity>(),
        Kind::of::<embed::Embed>(),
        Kind::of::<rsa::Rsa>(),
        Kind::of::<odd_one_out::OddOneOut>(),
        Kind::of::<command::Command>(),
        Kind::of::<logit_lens::LogitLens>(),
        Kind::of::<attention::Attention>(),
        Kind::of::<compare_embeddings::CompareEmbeddings>(),
        Kind::of::<note::Note>(),
    ]
}

/// The name of what a field points to: `stage:NAME`, `model:NAME` or `data:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Reference(pub String);

impl Reference {
    /// Splits into (`stage` | `model` | `data`, name); `None` when the text has another form.
    pub fn parts(&self) -> Option<(&str, &str)> {
        let (space, name) = self.0.split_once(':')?;
        (matches!(space, "stage" | "model" | "data") && !name.is_empty()).then_some((space, name))
    }
}

/// Figures of one step for tables: name → number, text or null (`bits_per_word`, `spearman`, …).
pub type Summary = serde_json::Map<String, serde_json::Value>;

/// Why a step failed. Messages are lower case, name the file or value, and end with what to do in `hint`.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// An input, a setting or a result is not what it must be.
    #[error("{message}{}", hint.as_ref().map(|h| format!("\nhint: {h}")).unwrap_or_default())]
    Invalid { message: String, hint: Option<String> },
    /// Reading or writing a file failed.
    #[error("`{path}`: {source}{}", cure(source).map(|hint| format!("\nhint: {hint}")).unwrap_or_default())]
    Io { path: std::path::PathBuf, source: std::io::Error },
    /// The person or the scheduler asked to stop; the step's checkpoint is written.
    #[error("stopped on request")]
    Cancelled,
}

impl StageError {
    /// An error without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), hint: None }
    }

    /// An error that says what to do.
    pub fn hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), hint: Some(hint.into()) }
    }

    /// For `map_err` on file operations: `.map_err(StageError::io(&path))`.
    pub fn io(path: impl Into<std::path::PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// What to do about a file operation that the disk refused; `None` where the error itself says enough.
pub fn cure(error: &std::io::Error) -> Option<&'static str> {
    use std::io::ErrorKind::{
        FileTooLarge, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    match error.kind() {
        StorageFull | QuotaExceeded => {
            Some("free space on the disk and run the same command again; finished steps are kept")
        }
        FileTooLarge => Some("raise the limit on the size of files (`ulimit -f`) and run the same command again"),
        ReadOnlyFilesystem | PermissionDenied => {
            Some("make the place readable and writable, or choose another store with `--store DIR`")
        }
        NotFound => Some("bring the file back and run the same command again; finished steps are kept"),
        _ => None,
    }
}

/// What stage code returns.
pub type Result<T> = std::result::Result<T, StageError>;
