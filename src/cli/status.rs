//! `soctok status` and `soctok logs`: how far a run is, from any terminal.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::json;

use super::{Failure, plan::sentence, plural, progress::points_of, store};
use crate::experiment::Experiment;
use crate::plan::{self, Plan, Reading};
use crate::stages::Kind;
use crate::store::{Store, upkeep::UnderWay};

/// Prints how many steps are done and what is under way on the experiment's store.
pub fn run(experiment: &Experiment, kinds: &[Kind], json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let store = store(experiment);
    let plan = plan::plan(experiment, kinds, &store, Reading::AtMost(super::plan::READ))?;
    let under_way = store.under_way()?;
    let tried = |name: &str| !under_way.iter().any(|step| step.name == name);
    let failed: Vec<(usize, String)> = (0..plan.steps.len())
        .filter(|&step| !plan.steps[step].is_done && tried(&plan.steps[step].name()))
        .filter_map(|step| Some((step, store.failure(&plan.steps[step].name())?)))
        .collect();
    if json {
        let listed: Vec<_> = under_way
            .iter()
            .map(|step| {
                json!({
                    "step": step.name, "stages": stages(&plan, step), "owner": step.owner,
                    "silent_seconds": step.silent, "progress": step.progress,
                })
            })
            .collect();
        let done = plan.steps.iter().filter(|step| step.is_done).count();
        let needed = plan.steps.iter().filter(|step| step.is_needed).count();
        let failed: Vec<_> = failed
            .iter()
            .map(|(step, message)| {
                let step = &plan.steps[*step];
                json!({ "step": step.name(), "stages": step.stages, "message": message })
            })
            .collect();
        let facts = json!({ "done": done, "to_run": needed, "under_way": listed, "failed": failed });
        writeln!(out, "{facts:#}")?;
        return Ok(());
    }
    writeln!(out, "{}", sentence(experiment, &plan))?;
    for step in &under_way {
        let progress = step.progress.as_ref().map_or("no progress told yet".to_owned(), |progress| {
            let of = if progress.total == 0 { String::new() } else { format!(" of {}", progress.total) };
            format!("{}{of} {}s", progress.done, progress.unit)
        });
        let names = stages(&plan, step);
        let names = if names.is_empty() { "another experiment's step".to_owned() } else { names.join(", ") };
        let silent = if step.silent > 10.0 { format!("; silent for {:.0} s", step.silent) } else { String::new() };
        writeln!(out, "under way: {names} ({}): {progress}; on {}{silent}", step.name, step.owner)?;
    }
    for (place, (step, message)) in failed.iter().enumerate() {
        // Steps of several points often fail of one cause, which is told once.
        if failed[..place].iter().any(|(_, told)| told == message) {
            continue;
        }
        let alike = failed[place..].iter().filter(|(_, other)| other == message).count() - 1;
        let more = if alike > 0 { format!(" and {}", plural(alike, "more step")) } else { String::new() };
        let (names, name) = (plan.steps[*step].stages.join(", "), plan.steps[*step].name());
        writeln!(out, "failed: {names} ({name}){}{more}\nerror: {message}", points_of(&plan, *step))?;
    }
    Ok(())
}

fn stages<'p>(plan: &'p Plan<'_>, under_way: &UnderWay) -> Vec<&'p str> {
    let step = plan.steps.iter().find(|step| step.name() == under_way.name);
    step.map(|step| step.stages.clone()).unwrap_or_default()
}

/// Prints the messages of a stage's steps: finished ones from their artifacts, others from the work folder, with why they
/// failed.
pub fn logs(experiment: &Experiment, kinds: &[Kind], stage: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let store = store(experiment);
    let plan = plan::plan(experiment, kinds, &store, Reading::AtMost(super::plan::READ))?;
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for step in plan.steps.iter().filter(|step| step.stages.contains(&stage)) {
        let name = step.name();
        let under_way = Store::outputs_under_way(&store.root().join("work").join(&name));
        for folder in std::iter::once(store.artifact(&name)).chain(under_way) {
            if let Ok(text) = std::fs::read_to_string(folder.join("log.txt")) {
                found.insert(name.clone(), text);
                break;
            }
        }
        if let Some(message) = store.failure(&name) {
            *found.entry(name).or_default() += &format!("error: {message}\n");
        }
    }
    if found.is_empty() {
        let text =
            format!("no log of a stage `{stage}`\nhint: `soctok plan` lists the stages; only steps that ran have one");
        return Err(Failure::Usage(text));
    }
    if found.values().all(String::is_empty) {
        super::say(&"no messages");
    }
    for (name, text) in &found {
        if found.len() > 1 {
            writeln!(out, "── {name}")?;
        }
        write!(out, "{text}")?;
    }
    Ok(())
}
