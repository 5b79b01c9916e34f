//! The determinism check: runs finished steps again, beside the store, and compares what they leave.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::{StepError, compare, log, step};
use crate::plan::{Plan, StepInput};
use crate::stages::{Context, ModelCache, StageError};
use crate::store::digest::{digest_file, files_below};
use crate::store::{NOT_OUTPUTS, Store, lease, write_json};

/// Where steps run again.
#[derive(Default)]
pub struct Place {
    /// The device, as in `cpu` or `cuda:0`.
    pub device: String,
    /// Raised to stop.
    pub cancelled: Arc<AtomicBool>,
    /// Models loaded once for all of them.
    pub models: Arc<ModelCache>,
}

/// What came of running a step again.
#[derive(Debug)]
pub struct Rerun {
    /// Seconds that it took.
    pub seconds: f64,
    /// Outputs with the bytes that they had.
    pub same: usize,
    /// The others, by file.
    pub differences: Vec<(String, Difference)>,
}

/// How an output differs from the one in the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// It was not written again.
    Missing,
    /// It was not there before.
    Additional,
    /// Numbers differ: how many of how many, and the largest difference (infinite where one of the two is no number).
    Values { different: usize, total: usize, largest: f64 },
    /// Something else than numbers differs.
    Bytes,
    /// The file in the store is not what its record says; nothing can be compared with it.
    Damaged,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => write!(formatter, "was not written again"),
            Self::Additional => write!(formatter, "was not written before"),
            Self::Values { different, total, largest } => {
                write!(formatter, "{different} of {total} numbers differ, by {largest:.3e} at most")
            }
            Self::Bytes => write!(formatter, "has other bytes"),
            Self::Damaged => write!(formatter, "is damaged in the store; `soctok verify` says more"),
        }
    }
}

/// The finished steps that can run again (their inputs are there), each artifact once, in an order drawn by `seed`.
pub fn candidates(plan: &Plan<'_>, store: &Store, seed: u64) -> Vec<usize> {
    let is_done = |step: usize| plan.steps[step].is_done;
    let has_inputs = |index: &usize| {
        plan.steps[*index].inputs.values().all(|input| match input {
            StepInput::Step { step, .. } => is_done(*step),
            StepInput::External { .. } => true,
        })
    };
    let mut known = BTreeSet::new();
    let mut found: Vec<usize> = (0..plan.steps.len()).filter(|&index| is_done(index)).filter(has_inputs).collect();
    found.retain(|&index| {
        let name = plan.steps[index].name();
        known.insert(store.alias_of(&name).unwrap_or(name))
    });
    found.sort_by_key(|&index| *blake3::hash(format!("{seed} {}", plan.steps[index].name()).as_bytes()).as_bytes());
    found
}

/// Runs the finished step `index` again in a folder of its own and compares its outputs with those in the store, which is
/// only read.
pub fn rerun(plan: &Plan<'_>, index: usize, store: &Store, place: &Place) -> Result<Rerun, StepError> {
    let step = &plan.steps[index];
    let folder = Scratch::new()?;
    let (outputs, scratch) = (folder.0.join("outputs"), folder.0.join("scratch"));
    std::fs::create_dir_all(&outputs).map_err(StageError::io(&outputs))?;
    let started = Instant::now();
    let inputs = step::inputs(plan, step, store)?;
    {
        let path = outputs.join("log.txt");
        let _log = log::into_step(&path).map_err(StageError::io(&path))?;
        let Place { device, cancelled, models } = place;
        let (device, models, cancelled) = (device.clone(), models.clone(), cancelled.clone());
        let context = Context::new(outputs.clone(), scratch, device, models, cancelled, &|_, _, _| {});
        let summary = step::run(plan, step, store, &inputs, &context)?;
        write_json(&outputs.join("summary.json"), &summary)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (same, differences) = compared(&store.artifact(&step.name()), &outputs, store, &step.name())?;
    Ok(Rerun { seconds, same, differences })
}

fn compared(
    artifact: &Path,
    outputs: &Path,
    store: &Store,
    name: &str,
) -> Result<(usize, Vec<(String, Difference)>), StepError> {
    let record = store.record(name)?;
    let (mut same, mut differences) = (0, Vec::new());
    let written = files_below(outputs).map_err(StageError::io(outputs))?;
    for (file, _) in written.iter().filter(|(file, _)| !NOT_OUTPUTS.contains(&file.as_str())) {
        if !record.outputs.contains_key(file) {
            differences.push((file.clone(), Difference::Additional));
        }
    }
    for (file, before) in &record.outputs {
        let (old, new) = (artifact.join(file), outputs.join(file));
        let digest = |path: &Path| digest_file(path).map(|digest| digest.to_hex().to_string());
        if !new.is_file() {
            differences.push((file.clone(), Difference::Missing));
        } else if digest(&new).map_err(StageError::io(&new))? == before.blake3 {
            same += 1;
        } else if digest(&old).ok().as_ref() != Some(&before.blake3) {
            differences.push((file.clone(), Difference::Damaged));
        } else {
            differences.push((file.clone(), compare::files(&old, &new)));
        }
    }
    differences.sort_by(|one, two| one.0.cmp(&two.0));
    Ok((same, differences))
}

/// A folder outside the store that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, StageError> {
        let path = std::env::temp_dir().join(format!("soctok-rerun-{}", lease::unique()));
        std::fs::create_dir_all(&path).map_err(StageError::io(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
