//! Why a step will run: what differs between its identity and that of the step that stood in its place last time.
//!
//! The place of a step is a stage of a point of an experiment of this name; what stood there is found through the links
//! under `runs/by-name/`. Two canonical inputs are compared, so what is named is what moved the key.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::inputs::Content;
use super::{Plan, Step, StepInput};
use crate::execute::runs::{by_name, label};
use crate::experiment::Experiment;
use crate::store::{Store, StoreError, read_json};

/// One reason why a step will run.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Nothing stood in its place before.
    New,
    /// A setting has another value; `None` is the built-in default.
    Setting { name: String, before: Option<Value>, after: Option<Value> },
    /// The bytes of an external input changed.
    Content { reference: String, files: Vec<FileChange> },
    /// An external input was touched or is new, and was not read.
    Unread { reference: String, files: usize, bytes: u64 },
    /// An upstream step is another one.
    Upstream { field: String, stage: String },
    /// A reference is given now that was not, or the other way round.
    Input { field: String, given: bool },
    /// The stage kind computes something else since its version was raised.
    Version { before: u64, after: u64 },
    /// The stage is of another kind.
    Kind { before: String, after: String },
    /// The way keys are formed changed.
    Scheme,
    /// It was done, and its artifact is gone.
    Missing,
    /// It was done, and its artifact is not whole.
    Damaged,
    /// The arms of a comparison are other points.
    Arms,
}

/// A file of an external input that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// Other bytes under the same name.
    Changed(String),
    /// Not there before.
    Added(String),
    /// Not there any more.
    Removed(String),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = |value: &Option<Value>| value.as_ref().map_or("default".to_owned(), Value::to_string);
        match self {
            Self::New => write!(formatter, "new"),
            Self::Setting { name, before, after } => {
                write!(formatter, "setting `{name}` {} → {}", value(before), value(after))
            }
            Self::Content { reference, files } => {
                let listed: Vec<String> = files.iter().take(3).map(ToString::to_string).collect();
                let more = files.len().saturating_sub(3);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                write!(formatter, "`{reference}`: {}{more}", listed.join(", "))
            }
            Self::Unread { reference, files, bytes } => {
                let megabytes = *bytes as f64 / 1e6;
                write!(
                    formatter,
                    "`{reference}`: {files} files ({megabytes:.1} MB) are new or touched and not read yet"
                )
            }
            Self::Upstream { field, stage } => write!(formatter, "upstream `{stage}` ({field}) changed"),
            Self::Input { field, given: true } => write!(formatter, "input `{field}` is given now"),
            Self::Input { field, given: false } => write!(formatter, "input `{field}` is not given any more"),
            Self::Version { before, after } => write!(formatter, "kind version {before} → {after}"),
            Self::Kind { before, after } => write!(formatter, "kind `{before}` → `{after}`"),
            Self::Scheme => write!(formatter, "keys are formed in another way"),
            Self::Missing => write!(formatter, "its artifact is missing"),
            Self::Damaged => write!(formatter, "its artifact is damaged"),
            Self::Arms => write!(formatter, "it compares other points"),
        }
    }
}

impl std::fmt::Display for FileChange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |name: &str| if name.is_empty() { "the file".to_owned() } else { format!("file `{name}`") };
        match self {
            Self::Changed(file) => write!(formatter, "{} changed", name(file)),
            Self::Added(file) => write!(formatter, "{} added", name(file)),
            Self::Removed(file) => write!(formatter, "{} removed", name(file)),
        }
    }
}

/// Step → reasons, for every step that will run.
pub fn explain(
    experiment: &Experiment,
    plan: &Plan<'_>,
    store: &Store,
) -> Result<BTreeMap<usize, Vec<Reason>>, StoreError> {
    let mut places: BTreeMap<usize, PathBuf> = BTreeMap::new();
    let folder = by_name(experiment, store);
    for planned in &plan.points {
        let results: Option<Value> = read_json(&folder.join(label(planned.point)).join("results.json")).ok();
        let Some(results) = results else { continue };
        for (stage, &step) in planned.steps.iter().filter(|(_, step)| plan.steps[**step].is_needed) {
            if let Some(artifact) = results["stages"][*stage]["artifact"].as_str() {
                places.entry(step).or_insert_with(|| store.root().join(artifact));
            }
        }
    }
    let comparisons: Value = read_json(&folder.join("comparisons.json")).unwrap_or_default();
    for (name, &step) in plan.comparisons.iter().filter(|(_, step)| plan.steps[**step].is_needed) {
        if let Some(artifact) = comparisons[*name].as_str() {
            places.insert(step, store.root().join(artifact));
        }
    }
    let mut reasons = BTreeMap::new();
    for (index, step) in plan.steps.iter().enumerate().filter(|(_, step)| step.is_needed) {
        reasons.insert(index, of_step(plan, step, places.get(&index), store));
    }
    Ok(reasons)
}

fn of_step(plan: &Plan<'_>, step: &Step<'_>, before: Option<&PathBuf>, store: &Store) -> Vec<Reason> {
    let artifact = store.artifact(&step.name());
    if !step.is_pending && std::fs::symlink_metadata(&artifact).is_ok() {
        return vec![Reason::Damaged];
    }
    let Some(before) = before else { return vec![Reason::New] };
    if !step.is_pending && *before == artifact {
        return vec![Reason::Missing];
    }
    let record: Result<Value, _> = read_json(&before.join("step.json"));
    let Ok(record) = record else { return vec![Reason::New] };
    differences(plan, step, &record["identity"], store)
}

/// What differs between the identity of a step and an earlier one.
fn differences(plan: &Plan<'_>, step: &Step<'_>, before: &Value, store: &Store) -> Vec<Reason> {
    let after = &step.identity();
    let mut reasons = Vec::new();
    if before["scheme"] != after["scheme"] {
        reasons.push(Reason::Scheme);
    }
    if before["kind"] != after["kind"] {
        let name = |value: &Value| value["kind"].as_str().unwrap_or_default().to_owned();
        reasons.push(Reason::Kind { before: name(before), after: name(after) });
    } else if before["version"] != after["version"] {
        let number = |value: &Value| value["version"].as_u64().unwrap_or(0);
        reasons.push(Reason::Version { before: number(before), after: number(after) });
    }
    for name in keys(&before["settings"], &after["settings"]) {
        let (old, new) = (before["settings"].get(&name), after["settings"].get(&name));
        if old != new {
            reasons.push(Reason::Setting { name, before: old.cloned(), after: new.cloned() });
        }
    }
    for field in keys(&before["inputs"], &after["inputs"]) {
        let (old, new) = (before["inputs"].get(&field), after["inputs"].get(&field));
        if old == new {
            continue;
        }
        reasons.push(match (step.inputs.get(&field), old) {
            (None, _) => Reason::Input { field, given: false },
            (Some(_), None) => Reason::Input { field, given: true },
            (Some(StepInput::Step { reference, step }), Some(_)) => {
                let stage = plan.steps[*step].stages.first().copied();
                Reason::Upstream { field, stage: stage.unwrap_or(reference).to_owned() }
            }
            (Some(StepInput::External { reference, content, .. }), Some(old)) => match content {
                Content::Pending { files, bytes } => {
                    Reason::Unread { reference: reference.clone(), files: *files, bytes: *bytes }
                }
                Content::Known(digest) => {
                    let old = old["content"].as_str().unwrap_or_default();
                    Reason::Content { reference: reference.clone(), files: changes(plan, store, old, digest) }
                }
            },
        });
    }
    if before["arms"] != after["arms"] {
        reasons.push(Reason::Arms);
    }
    reasons
}

fn keys(one: &Value, other: &Value) -> Vec<String> {
    let mut keys: Vec<String> =
        [one, other].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys().cloned()).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The files that differ between a content whose list the store has and one of the plan.
fn changes(plan: &Plan<'_>, store: &Store, before: &str, after: &str) -> Vec<FileChange> {
    let (Some(before), Some(after)) = (store.listing(before), plan.listings.get(after)) else { return Vec::new() };
    let mut changes = Vec::new();
    for (name, digest) in after {
        match before.get(name) {
            None => changes.push(FileChange::Added(name.clone())),
            Some(old) if old != digest => changes.push(FileChange::Changed(name.clone())),
            Some(_) => {}
        }
    }
    changes.extend(before.keys().filter(|name| !after.contains_key(*name)).cloned().map(FileChange::Removed));
    changes
}
