//! `soctok verify` and `soctok gc`: is the store whole, does a step give the same again, and what does nothing reach?

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::{Failure, interrupt, plural};
use crate::execute::StepError;
use crate::execute::leftovers::Leftovers;
use crate::execute::rerun::{self, Difference, Place, Rerun};
use crate::experiment::Experiment;
use crate::models::device;
use crate::plan::{self, Reading};
use crate::stages::{Kind, StageError};
use crate::store::{Store, upkeep::Problem};

/// Compares the bytes of every artifact with its record; a difference is a failure.
pub fn verify(store: &Store, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let steps = store.steps()?;
    let mut damaged = Vec::new();
    for name in steps.iter().filter(|name| store.alias_of(name).is_none()) {
        let problems: Vec<String> = store.verify(name)?.iter().map(Problem::to_string).collect();
        if !problems.is_empty() {
            damaged.push((name, problems));
        }
    }
    if json {
        let listed: Vec<_> =
            damaged.iter().map(|(name, problems)| json!({ "step": name, "problems": problems })).collect();
        writeln!(out, "{:#}", json!({ "steps": steps.len(), "damaged": listed }))?;
    } else {
        for (name, problems) in &damaged {
            writeln!(out, "{name}: {}", problems.join("; "))?;
        }
        writeln!(out, "{} artifacts, {} damaged", steps.len(), damaged.len())?;
    }
    if damaged.is_empty() {
        return Ok(());
    }
    let text = "the store has damaged artifacts\nhint: `soctok run` makes those again that something is to be built on or that are asked for";
    Err(Failure::Steps(text.into()))
}

/// Runs `count` finished steps of an experiment again, beside the store, and compares what they leave.
pub fn rerun(
    experiment: &Experiment,
    kinds: &[Kind],
    store: &Store,
    count: usize,
    seed: u64,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let device = device::resolve(&experiment.run.device).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut plan = plan::plan(experiment, kinds, store, Reading::Everything)?;
    let mut chosen = rerun::candidates(&plan, store, seed);
    let finished = chosen.len();
    if finished == 0 {
        let text = "no finished step of this experiment can be run again\nhint: `soctok run` it first";
        return Err(Failure::Usage(text.into()));
    }
    chosen.truncate(count);
    let wanted: Vec<bool> = (0..plan.steps.len()).map(|step| chosen.contains(&step)).collect();
    plan::bring_models(experiment, &mut plan, &wanted)?;
    let place = Place { device, cancelled: interrupt::flag(), ..Place::default() };
    let (mut listed, mut unlike, mut failed) = (Vec::new(), 0, 0);
    for &index in &chosen {
        let step = &plan.steps[index];
        let (name, before) = (step.name(), store.record(&step.name())?.cost.device);
        let called = format!("{} ({name})", step.stages.join(", "));
        super::say(&format!("running {called} again"));
        let outcome = match rerun::rerun(&plan, index, store, &place) {
            Err(StepError::Stage(StageError::Cancelled)) => {
                return Err(Failure::Steps("stopped on request; the store is as it was".into()));
            }
            outcome => outcome,
        };
        unlike += usize::from(outcome.as_ref().is_ok_and(|outcome| !outcome.differences.is_empty()));
        failed += usize::from(outcome.is_err());
        if json {
            listed.push(as_json(&name, &step.stages, &before, &place.device, &outcome));
        } else {
            write_rerun(&called, &before, &place.device, &outcome, out)?;
        }
    }
    let steps = chosen.len();
    if json {
        let facts =
            json!({ "finished": finished, "rerun": steps, "differ": unlike, "failed": failed, "steps": listed });
        writeln!(out, "{facts:#}")?;
    } else {
        writeln!(out, "{steps} of {finished} finished steps run again: {unlike} differ, {failed} failed")?;
    }
    match (unlike, failed) {
        (0, 0) => Ok(()),
        (_, 0) => Err(Failure::Steps(
            "steps do not give the same again\nhint: the same bytes are promised for the same binary, device, CPU and number \
             of threads; `step.json` of the artifact says what made it"
                .into(),
        )),
        _ => Err(Failure::Steps("steps that were done could not be run again".into())),
    }
}

fn write_rerun(
    called: &str,
    before: &str,
    device: &str,
    outcome: &Result<Rerun, StepError>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match outcome {
        Ok(Rerun { seconds, same, differences }) if differences.is_empty() => {
            writeln!(out, "{called}: the same bytes in {same} files ({seconds:.1} s)")?;
        }
        Ok(Rerun { seconds, same, differences }) => {
            let elsewhere = if before == device { String::new() } else { format!("; made on {before}, now {device}") };
            writeln!(out, "{called}: differs ({seconds:.1} s{elsewhere})")?;
            for (file, difference) in differences {
                writeln!(out, "  `{file}` {difference}")?;
            }
            if *same > 0 {
                writeln!(out, "  the same bytes in {same} other files")?;
            }
        }
        Err(error) => writeln!(out, "{called}: failed: {error}")?,
    }
    Ok(())
}

fn as_json(
    name: &str,
    stages: &[&str],
    before: &str,
    device: &str,
    outcome: &Result<Rerun, StepError>,
) -> serde_json::Value {
    let mut facts = json!({ "step": name, "stages": stages, "made_on": before, "device": device });
    match outcome {
        Err(error) => facts["error"] = error.to_string().into(),
        Ok(Rerun { seconds, same, differences }) => {
            let listed: Vec<_> = differences
                .iter()
                .map(|(file, difference)| {
                    let largest = match difference {
                        Difference::Values { largest, .. } => Some(*largest),
                        _ => None,
                    };
                    json!({ "file": file, "difference": difference.to_string(), "largest": largest })
                })
                .collect();
            facts["seconds"] = json!(seconds);
            facts["same_files"] = json!(same);
            facts["differences"] = json!(listed);
        }
    }
    facts
}

/// The profiles of a file, and none: what `gc` keeps is what any of them reaches.
pub fn profiles(file: &Path) -> Vec<Option<String>> {
    let table = std::fs::read_to_string(file).ok().and_then(|text| text.parse::<toml::Table>().ok());
    let names = table.as_ref().and_then(|table| table.get("profiles")?.as_table());
    std::iter::once(None).chain(names.into_iter().flat_map(toml::Table::keys).cloned().map(Some)).collect()
}

/// Lists (or with `delete` removes) the artifacts that none of the experiments reaches, and what is left of their runs.
pub fn collect(
    store: &Store,
    experiments: &[Experiment],
    kinds: &[Kind],
    delete: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let (mut reached, mut runs) = (BTreeSet::new(), BTreeSet::new());
    for experiment in experiments {
        let plan = plan::plan(experiment, kinds, store, Reading::Everything)?;
        reached.extend(plan.steps.iter().map(crate::plan::Step::name));
        runs.extend(plan.points.iter().filter_map(|point| point.run.clone()));
    }
    let aliases: Vec<String> = reached.iter().filter_map(|name| store.alias_of(name)).collect();
    reached.extend(aliases);
    let held: BTreeSet<String> = store.under_way()?.into_iter().map(|step| step.name).collect();
    let steps = store.steps()?.into_iter();
    let removed: BTreeSet<String> = steps.filter(|name| !reached.contains(name) && !held.contains(name)).collect();
    let mut total = 0;
    for name in &removed {
        let bytes = store.size(name)?;
        total += bytes;
        writeln!(out, "{:>10.1} MB  {name}", bytes as f64 / 1e6)?;
    }
    let leftovers = Leftovers::find(store, &removed, &runs)?;
    if delete {
        leftovers.remove(store)?;
        removed.iter().try_for_each(|name| store.remove(name))?;
    }
    let (count, megabytes) = (removed.len(), total as f64 / 1e6);
    let rest = format!(
        "{}, {} and {}",
        plural(leftovers.runs.len(), "run"),
        plural(leftovers.links.len(), "link"),
        plural(leftovers.files.len(), "experiment file"),
    );
    if delete {
        writeln!(out, "{count} artifacts removed, {megabytes:.1} MB; with them {rest}")?;
    } else {
        writeln!(
            out,
            "{count} artifacts are reached by none of these experiments, {megabytes:.1} MB; with them go {rest}; \
             `--delete` removes them"
        )?;
    }
    Ok(())
}
