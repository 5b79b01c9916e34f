//! One step: lease, early cut-off, run, commit.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Attempt, Event, Shop, StepError, artifact, log};
use crate::comparisons;
use crate::experiment::Settings;
use crate::plan::inputs::{Content, content};
use crate::plan::{Plan, Step, StepInput, Work, key};
use crate::stages::{Context, Input, Inputs, StageError, Summary};
use crate::store::lease::{Claim, Lease, Waiting};
use crate::store::upkeep::ProgressRecord;
use crate::store::{Cost, RecordedInput, StepRecord, Store, StoreError, provenance};

/// Runs the step `index` unless it is done, held by another process, or equal to a finished one. A step that another
/// process takes over meanwhile (this one slept for too long) is left to it.
pub(super) fn attempt(shop: &Shop<'_>, index: usize, seen: Option<&Waiting>) -> Result<Attempt, StepError> {
    let Shop { plan, store, .. } = shop;
    let step = &plan.steps[index];
    let name = step.name();
    if store.is_done(&name) {
        return Ok(Attempt::Elsewhere);
    }
    let lease = match store.claim(&name, seen)? {
        Claim::Taken(lease) => lease,
        Claim::Busy(waiting) => return Ok(Attempt::Held(waiting)),
    };
    match leased(shop, index, &lease) {
        Err(error) if matches!(error, StepError::Store(StoreError::LeaseLost(_))) || !lease.is_held() => {
            tracing::warn!("`{name}` was taken over by another process: {error}");
            Ok(Attempt::Held(Waiting::unseen()))
        }
        Err(error) => {
            if !matches!(error, StepError::Stage(StageError::Cancelled)) {
                // A store that cannot be written to may be what the step failed of.
                store.keep_failure(&name, &error.to_string()).ok();
            }
            Err(error)
        }
        other => other,
    }
}

/// [`attempt`], with the lease.
fn leased(shop: &Shop<'_>, index: usize, lease: &Lease) -> Result<Attempt, StepError> {
    let Shop { plan, store, options, models, report, .. } = shop;
    let step = &plan.steps[index];
    let name = step.name();
    // It may have been finished between the look and the lease.
    if store.is_done(&name) {
        return Ok(Attempt::Elsewhere);
    }
    let inputs = inputs(plan, step, store)?;
    let bytes = inputs.iter().map(|(field, input)| (field.as_str(), input.digest.as_str())).collect();
    let identity = step.identity();
    let output_key = key::by_outputs(&identity, &bytes);
    if let Some(found) = store.find_by_outputs(&output_key).filter(|found| has_inputs(store, found, &output_key)) {
        store.alias(&name, &found)?;
        return Ok(Attempt::CutOff(found));
    }
    report(Event::Started(index));
    let started = Instant::now();
    // An input may have changed since the plan was made.
    unchanged(plan, step, store)?;
    let work = store.begin(&name, lease)?;
    let guard = || if lease.is_held() { unchanged(plan, step, store) } else { Err(StageError::Cancelled) };
    let summary = {
        let _log =
            log::into_step(&work.outputs().join("log.txt")).map_err(StageError::io(work.outputs().join("log.txt")))?;
        let told = Mutex::new(started);
        let progress = |done: u64, total: u64, unit: &str| {
            report(Event::Progress { step: index, done, total, unit });
            tell(&work, &told, ProgressRecord { done, total, unit: unit.to_owned() });
        };
        let (outputs, scratch) = (work.outputs().to_owned(), work.scratch().to_owned());
        let (device, cancelled) = (options.device.clone(), options.cancelled.clone());
        let context = Context::new(outputs, scratch, device, models.clone(), cancelled, &progress);
        let context = context.guarded(lease.lost(), &guard).with_checkpoint_interval(options.checkpoint_interval);
        run(plan, step, store, &inputs, &context)?
    };
    unchanged(plan, step, store)?;
    let seconds = started.elapsed().as_secs_f64();
    let record = StepRecord {
        kind: step.work.kind().to_owned(),
        key: step.key.clone(),
        identity,
        settings: match &step.work {
            Work::Stage { node, .. } => Value::Object(Settings::clone(&node.settings)),
            Work::Comparison { spec, .. } => Value::Object(spec.settings.clone()),
        },
        inputs: inputs
            .iter()
            .map(|(field, input)| {
                let Input { reference, path, digest } = input.clone();
                (field.clone(), RecordedInput { reference, path, digest })
            })
            .collect(),
        outputs: BTreeMap::new(),
        output_digest: String::new(),
        cost: Cost { seconds, peak_memory: provenance::peak_memory(), device: options.device.clone() },
        provenance: provenance::process().clone(),
    };
    store.commit(&work, record, &summary, &output_key, lease)?;
    Ok(Attempt::Executed(seconds))
}

/// Was the artifact made from inputs of these bytes? The step that the index names may have been made again since, from
/// others: those of an upstream step that ran again and left other bytes than before.
fn has_inputs(store: &Store, name: &str, output_key: &str) -> bool {
    store.record(name).is_ok_and(|record| key::of_record(&record) == output_key)
}

/// Writes the progress for `soctok status`, once a second at most. Failing to is no reason to fail the step: a full disk
/// shows at the next output.
fn tell(work: &crate::store::Work, told: &Mutex<Instant>, progress: ProgressRecord) {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    if told.elapsed() > Duration::from_secs(1) {
        *told = Instant::now();
        work.tell(&progress).ok();
    }
}

/// Fails when the bytes of an external input are not, or no longer, those that the key speaks of: the step would read, or
/// may have read, others.
fn unchanged(plan: &Plan<'_>, step: &Step<'_>, store: &Store) -> Result<(), StageError> {
    for input in step.inputs.values() {
        let StepInput::External { reference, path, content: Content::Known(digest), kinds } = input else { continue };
        // A hub model is a commit: its identity is not that of bytes.
        if !plan.listings.contains_key(digest) {
            continue;
        }
        let accepts: Vec<&str> = kinds.iter().map(String::as_str).collect();
        let now = content(path, &accepts, store.signatures(), u64::MAX);
        let now = now.map_err(|error| StageError::new(format!("`{reference}`: {error}")))?.0;
        if now != Content::Known(digest.clone()) {
            return Err(StageError::hint(
                format!("`{reference}` (`{}`) changed after the plan was made", path.display()),
                "run the same command again",
            ));
        }
    }
    Ok(())
}

/// Folder and content digest of every input; an upstream step's digest is that of its outputs' bytes.
pub(super) fn inputs(plan: &Plan<'_>, step: &Step<'_>, store: &Store) -> Result<Inputs, StepError> {
    let mut inputs = Inputs::default();
    for (field, input) in &step.inputs {
        let input = match input {
            StepInput::Step { reference, step } => {
                let name = plan.steps[*step].name();
                // It was when the plan was made, or when it was run.
                if !store.is_done(&name) {
                    return Err(StageError::hint(
                        format!("the artifact of `{reference}`, `{name}`, is no longer what its step left"),
                        "run the same command again: it is made anew",
                    )
                    .into());
                }
                let digest = store.record(&name)?.output_digest;
                Input { reference: reference.clone(), path: artifact(plan, store, *step), digest }
            }
            StepInput::External { reference, path, content, .. } => Input {
                reference: reference.clone(),
                path: path.clone(),
                digest: match content {
                    Content::Known(digest) => digest.clone(),
                    Content::Pending { .. } => {
                        return Err(
                            StageError::new(format!("`{reference}` was not read when the plan was made")).into()
                        );
                    }
                },
            },
        };
        inputs.insert(field.clone(), input);
    }
    Ok(inputs)
}

/// Does the work of a step in the folders of `context`.
pub(super) fn run(
    plan: &Plan<'_>,
    step: &Step<'_>,
    store: &Store,
    inputs: &Inputs,
    context: &Context<'_>,
) -> Result<Summary, StepError> {
    match &step.work {
        Work::Stage { kind, node } => Ok(kind.run(&node.settings, inputs, context)?),
        Work::Comparison { kind, spec, arms } => {
            let arms: Vec<_> = arms
                .iter()
                .map(|arm| comparisons::Arm {
                    coordinates: arm.coordinates.clone(),
                    artifact: artifact(plan, store, arm.step),
                })
                .collect();
            let rows = kind.run(&spec.settings, &spec.of.1, &arms, context)?;
            let path = context.folder().join("rows.json");
            let text = serde_json::to_string_pretty(&rows).map_err(|error| StageError::new(error.to_string()))?;
            std::fs::write(&path, text + "\n").map_err(StageError::io(&path))?;
            let mut summary = Summary::from_iter([("rows".to_owned(), Value::from(rows.len()))]);
            if let Some(sentence) = kind.verdict(&spec.settings, &rows)? {
                summary.insert(comparisons::VERDICT.to_owned(), sentence.into());
            }
            Ok(summary)
        }
    }
}
