//! Checkpoints of a training step: the state after some number of steps, from which an interrupted one goes on.
//!
//! A checkpoint lies in the step's scratch folder as `checkpoint-<steps>/` and appears under that name when it is whole.
//! The lines of `metrics.jsonl` so far are kept in it, so that a resumed step leaves every line once.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Context, Result, StageError};

/// The beginning of the names of checkpoints that are being written.
const PART: &str = "part-";

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

    /// The steps taken at the last whole checkpoint, and its folder. The metrics up to there are put back, and what was
    /// left of a checkpoint that did not become whole is removed.
    pub fn resume(&self) -> Result<Option<(u64, PathBuf)>> {
        let scratch = self.context.scratch()?;
        for entry in std::fs::read_dir(scratch).map_err(StageError::io(scratch))? {
            let entry = entry.map_err(StageError::io(scratch))?;
            if entry.file_name().to_string_lossy().starts_with(PART) {
                std::fs::remove_dir_all(entry.path()).map_err(StageError::io(entry.path()))?;
            }
        }
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
        if stop.is_err() || self.last.elapsed() > self.context.checkpoint_interval() && step < total {
            self.save(step, write)?;
            self.last = Instant::now();
        }
        stop
    }

    fn save(&self, step: u64, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let scratch = self.context.scratch()?;
        let old = self.latest()?;
        if old.as_ref().is_some_and(|(known, _)| *known == step) {
            return Ok(());
        }
        // The folder of outputs is this owner's own, and so is its name.
        let owner = self.context.folder().file_name().unwrap_or_default().to_string_lossy();
        let (part, whole) = (scratch.join(format!("{PART}{owner}")), scratch.join(format!("checkpoint-{step}")));
        if part.exists() {
            std::fs::remove_dir_all(&part).map_err(StageError::io(&part))?;
        }
        std::fs::create_dir_all(&part).map_err(StageError::io(&part))?;
        write(&part)?;
        let metrics = self.context.folder().join("metrics.jsonl");
        if metrics.is_file() {
            std::fs::copy(&metrics, part.join("metrics.jsonl")).map_err(StageError::io(&metrics))?;
        }
        // Whole means on the disk: after a power cut a name may be there before the bytes.
        for entry in std::fs::read_dir(&part).map_err(StageError::io(&part))? {
            let path = entry.map_err(StageError::io(&part))?.path();
            std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(StageError::io(&path))?;
        }
        if let Err(refused) = self.context.may_keep() {
            std::fs::remove_dir_all(&part).map_err(StageError::io(&part))?;
            return Err(refused);
        }
        std::fs::rename(&part, &whole).map_err(StageError::io(&whole))?;
        match old {
            Some((_, old)) => std::fs::remove_dir_all(&old).map_err(StageError::io(&old)),
            None => Ok(()),
        }
    }

    fn latest(&self) -> Result<Option<(u64, PathBuf)>> {
        let scratch = self.context.scratch()?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_step_that_was_taken_over_keeps_no_checkpoint() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |part: &Path| std::fs::write(part.join("state"), "bytes").map_err(StageError::io(part));
        let flag = Arc::new(AtomicBool::new(true));
        let refuse = || Err(StageError::Cancelled);
        let context = Context::plain(folder.path(), "cpu").guarded(flag.clone(), &refuse);
        assert!(matches!(Checkpoints::new(&context).advance(3, 9, write), Err(StageError::Cancelled)));
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 0);
        let context = Context::plain(folder.path(), "cpu").guarded(flag, &|| Ok(()));
        assert!(matches!(Checkpoints::new(&context).advance(3, 9, write), Err(StageError::Cancelled)));
        let (step, kept) = Checkpoints::new(&context).resume().expect("reads").expect("is there");
        assert_eq!((step, kept.join("state").is_file()), (3, true));
        // What a kill left of the next one is no checkpoint, and goes.
        std::fs::create_dir(folder.path().join("part-outputs-1")).expect("makes");
        assert_eq!(Checkpoints::new(&context).resume().expect("reads").map(|(step, _)| step), Some(3));
        assert!(!folder.path().join("part-outputs-1").exists());
    }
}
