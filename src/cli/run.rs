//! `soctok run`: runs what is not done yet, keeps the runs, prints the tables.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::forecast::Forecast;
use super::plan::{expectation, sentence};
use super::{Failure, interrupt, plural, progress::Progress, results, store, table};
use crate::execute::schedule::Limits;
use crate::execute::{self, Event, Options, Outcome, runs};
use crate::experiment::Experiment;
use crate::models::device;
use crate::plan::{self, Plan, Reading};
use crate::report::{self, render::Format, table::Figures};
use crate::stages::{Kind, Served};
use crate::store::{Store, StoreError};

/// What came of running what was not done.
pub struct Ran<'e> {
    store: Store,
    plan: Plan<'e>,
    outcome: Outcome,
    /// Runs of which every step is done.
    complete: usize,
    seconds: f64,
}

/// Runs what is not done and keeps the runs; nothing is shown of their figures.
pub fn execute<'e>(experiment: &'e Experiment, kinds: &'e [Kind], only: &[String]) -> Result<Ran<'e>, Failure> {
    let started = Instant::now();
    device::parse(&experiment.run.device).map_err(|error| Failure::Usage(error.to_string()))?;
    let store = store(experiment);
    let mut plan = plan::plan(experiment, kinds, &store, Reading::Everything)?;
    let only = selected(&plan, only)?;
    let wanted = execute::wanted(&plan, &only);
    plan::bring_models(experiment, &mut plan, &wanted)?;
    let mut forecast = Forecast::new(&plan, &store, &experiment.run)?;
    forecast.check(&plan, &wanted)?;
    // A store on which all is done may be read-only: nothing of this is then needed.
    if let Err(error) = prepare(&store, &plan)
        && wanted.contains(&true)
    {
        return Err(error.into());
    }
    super::say(&sentence(experiment, &plan));
    if let Some(expected) = expectation(&forecast, &plan, &wanted, experiment.run.jobs) {
        super::say(&expected);
    }
    let options = Options {
        jobs: experiment.run.jobs,
        device: forecast.device.clone(),
        checkpoint_interval: experiment.run.checkpoint_interval,
        cancelled: interrupt::flag(),
        only,
        keep_going: experiment.run.keep_going,
        retries: experiment.run.retries,
        retry_on: experiment.run.retry_on.clone(),
        memory: forecast.memory_of_steps(),
        limits: Limits { memory: forecast.memory, is_exclusive: device::is_gpu(&forecast.device) },
    };
    let progress = Progress::new(&plan, wanted.iter().filter(|wanted| **wanted).count());
    let took = Mutex::new(Vec::new());
    let outcome = execute::execute(&plan, &store, &options, &|event| {
        if let Event::Done { step, seconds } = event {
            took.lock().unwrap_or_else(PoisonError::into_inner).push((step, seconds));
        }
        progress.show(&event);
    });
    progress.clear();
    for (step, seconds) in took.into_inner().unwrap_or_else(PoisonError::into_inner) {
        if let Some(estimate) = forecast.estimates.get(&step) {
            forecast.pace.learn(&forecast.device, plan.steps[step].work.kind(), estimate, seconds);
        }
    }
    if outcome.executed > 0 {
        forecast.pace.save();
    }
    let complete = runs::write(experiment, &plan, &store)?;
    Ok(Ran { store, plan, outcome, complete, seconds: started.elapsed().as_secs_f64() })
}

/// See the module.
pub fn run(
    experiment: &Experiment,
    kinds: &[Kind],
    only: &[String],
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let ran = execute(experiment, kinds, only)?;
    let Ran { store, plan, outcome, .. } = &ran;
    // A table that cannot be made is told when all else is: what was run stands.
    let mut shown = Ok(());
    if json {
        let points = results::as_json(plan, store)?;
        let verdicts: Map<String, Value> = report::table::verdicts(experiment, plan, &mut Figures::new(store))?
            .into_iter()
            .map(|(name, text)| (name, text.into()))
            .collect();
        let failed: Vec<String> = outcome.failed.iter().map(|&step| plan.steps[step].name()).collect();
        let facts = json!({
            "experiment": experiment.name,
            "executed": outcome.executed, "cut_off": outcome.cut_off, "elsewhere": outcome.elsewhere,
            "failed": failed, "not_reached": outcome.not_reached,
            "models": { "loaded": outcome.served.loads.0, "reused": outcome.served.reuses.0,
                "seconds_saved": outcome.served.reuses.1 },
            "points": points,
            "verdicts": verdicts,
        });
        writeln!(out, "{facts:#}")?;
    } else if experiment.tables.is_empty() {
        results::grid(experiment, plan, store)?.write(Format::Text, out)?;
        table::verdicts(experiment, plan, &mut Figures::new(store), Format::Text, out)?;
    } else {
        shown = match table::write(experiment, plan, store, &[], Format::Text, out) {
            Err(Failure::Output(error)) => return Err(error.into()),
            other => other,
        };
    }
    ran.tell();
    let failed = ran.failed();
    if let (Err(table), Err(_)) = (&shown, &failed) {
        super::say(&format!("error: {table}"));
    }
    failed.and(shown)
}

impl Ran<'_> {
    /// Says how much was run and what was saved.
    pub fn tell(&self) {
        let Self { store, outcome, complete, seconds, .. } = self;
        super::say(&format!(
            "{} run, {} found by their inputs, {} done elsewhere; {} under {} in {seconds:.1} s",
            plural(outcome.executed, "step"),
            outcome.cut_off,
            outcome.elsewhere,
            plural(*complete, "run"),
            store.root().join("runs").display(),
        ));
        let Served { loads, reuses } = outcome.served;
        if reuses.0 > 0 {
            super::say(&format!(
                "{} loaded in {:.1} s, used again {}: {:.1} s of loading saved",
                plural(loads.0, "model"),
                loads.1,
                plural(reuses.0, "time"),
                reuses.1,
            ));
        }
    }

    /// Whether it ended before all was done.
    pub fn failed(&self) -> Result<(), Failure> {
        failure(&self.outcome)
    }
}

/// Whether the run ended before all was done.
fn failure(outcome: &Outcome) -> Result<(), Failure> {
    if outcome.cancelled {
        return Err(Failure::Steps("stopped on request; the same command goes on".into()));
    }
    if !outcome.failed.is_empty() {
        let (failed, open) = (plural(outcome.failed.len(), "step"), outcome.not_reached);
        let was = if open == 1 { "was" } else { "were" };
        let text = format!(
            "{failed} failed, {open} {was} not reached because of {}",
            if outcome.failed.len() == 1 { "it" } else { "them" }
        );
        return Err(Failure::Steps(text));
    }
    Ok(())
}

/// Makes the store's folders, sweeps out what killed processes left, and keeps what was learned about the inputs.
fn prepare(store: &Store, plan: &Plan<'_>) -> Result<(), StoreError> {
    store.create()?;
    store.sweep()?;
    store.save_signatures()?;
    plan.listings.iter().try_for_each(|(digest, files)| store.keep_listing(digest, files))
}

/// The steps of the named stages or comparisons.
fn selected(plan: &Plan<'_>, names: &[String]) -> Result<Vec<usize>, Failure> {
    let mut chosen = Vec::new();
    for name in names {
        let found: Vec<usize> =
            (0..plan.steps.len()).filter(|&step| plan.steps[step].stages.contains(&name.as_str())).collect();
        if found.is_empty() {
            let mut known: Vec<&str> = plan.steps.iter().flat_map(|step| step.stages.iter().copied()).collect();
            known.sort_unstable();
            known.dedup();
            let text = format!("no stage or comparison `{name}` in the plan\nhint: it has {}", known.join(", "));
            return Err(Failure::Usage(text));
        }
        chosen.extend(found);
    }
    Ok(chosen)
}
