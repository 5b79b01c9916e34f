//! Checkpoints of a training step: the state after some number of steps, from which an interrupted one goes on.
//!
//! A checkpoint lies in the step's scratch folder as `checkpoint-<steps>/` and appears under that name when it is whole.
//! The lines of `metrics.jsonl` so far are kept in it, so that a resumed step leaves every line once.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Context, Result, StageError};

/// How often a training step leaves a checkpoint.
const INTERVAL: Duration = Duration::from_secs(20);

/// The checkpoints of one step.
pub struct Checkpoints<'a> {
    context: &'a Context<'a>,
    last: Instant,
}

impl<'a> Checkpoints<'a> {
    /// Those of the step that runs in `context`.
    pub fn new(context: &'a Context<'a>) -> Self {
        Self { context, last: Instant::now() }
    }

    /// The steps taken at the last whole checkpoint, and its folder. The metrics up to there are put back.
    pub fn resume(&self) -> Result<Option<(u64, PathBuf)>> {
        let found = self.latest()?;
        if let Some((step, folder)) = &found {
            let kept = folder.join("metrics.jsonl");
            if kept.is_file() {
                let path = self.context.folder().join("metrics.jsonl");
                std::fs::copy(&kept, &path).map_err(StageError::io(&path))?;
            }
            tracing::info!("going on from the checkpoint after {step} steps");
        }
        Ok(found)
    }

    /// Reports that `step` of `total` steps are taken. Leaves a checkpoint when it is time to or when the step must stop;
    /// `write` puts the state into a folder.
    pub fn advance(&mut self, step: u64, total: u64, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let stop = self.context.progress(step, total, "step");
        if stop.is_err() || self.last.elapsed() > INTERVAL && step < total {
            self.save(step, write)?;
            self.last = Instant::now();
        }
        stop
    }

    fn save(&self, step: u64, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let scratch = self.context.scratch();
        let old = self.latest()?;
        if old.as_ref().is_some_and(|(known, _)| *known == step) {
            return Ok(());
        }
        let (part, whole) =
            (scratch.join(format!("part-{}", std::process::id())), scratch.join(format!("checkpoint-{step}")));
        if part.exists() {
            std::fs::remove_dir_all(&part).map_err(StageError::io(&part))?;
        }
        std::fs::create_dir_all(&part).map_err(StageError::io(&part))?;
        write(&part)?;
        let metrics = self.context.folder().join("metrics.jsonl");
        if metrics.is_file() {
            std::fs::copy(&metrics, part.join("metrics.jsonl")).map_err(StageError::io(&metrics))?;
        }
        std::fs::rename(&part, &whole).map_err(StageError::io(&whole))?;
        match old {
            Some((_, old)) => std::fs::remove_dir_all(&old).map_err(StageError::io(&old)),
            None => Ok(()),
        }
    }

    fn latest(&self) -> Result<Option<(u64, PathBuf)>> {
        let scratch = self.context.scratch();
        let mut last: Option<(u64, PathBuf)> = None;
        for entry in std::fs::read_dir(scratch).map_err(StageError::io(scratch))? {
            let path = entry.map_err(StageError::io(scratch))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let step = name.strip_prefix("checkpoint-").and_then(|step| step.parse().ok());
            if let Some(step) = step.filter(|step| last.as_ref().is_none_or(|(known, _)| step > known)) {
                last = Some((step, path));
            }
        }
        Ok(last)
    }
}
