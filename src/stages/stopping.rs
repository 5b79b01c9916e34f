//! Runs of a stage that is stopped and goes on, for the tests of those that leave checkpoints.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Context, Inputs, Result, Stage, StageError};

/// The outputs of the stage run to its end, with checkpoints in `scratch` or, without one, from the beginning.
pub fn whole<S: Stage>(config: &S::Config, inputs: &Inputs, scratch: Option<&Path>) -> tempfile::TempDir {
    run::<S>(config, inputs, scratch, None).expect("runs to its end")
}

/// The scratch folder after the stage was asked to stop when `step` steps were taken.
pub fn stopped<S: Stage>(config: &S::Config, inputs: &Inputs, step: u64) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let error = run::<S>(config, inputs, Some(scratch.path()), Some(step)).expect_err("was asked to stop");
    assert!(matches!(error, StageError::Cancelled), "{error}");
    assert!(scratch.path().join(format!("checkpoint-{step}")).is_dir());
    scratch
}

fn run<S: Stage>(
    config: &S::Config,
    inputs: &Inputs,
    scratch: Option<&Path>,
    stop: Option<u64>,
) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scratch = scratch.unwrap_or(folder.path()).to_owned();
    let cancelled = Arc::new(AtomicBool::new(false));
    let progress = |done: u64, _: u64, unit: &str| {
        cancelled.store(unit == "step" && Some(done) == stop, Ordering::Relaxed);
    };
    let device = "cpu".to_owned();
    let context = Context::new(folder.path().to_owned(), scratch, device, Arc::default(), cancelled.clone(), &progress);
    S::run(config, inputs, &context)?;
    Ok(folder)
}
