//! `soctok plan`: the steps that a run would take.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};

use super::forecast::{Forecast, bytes, duration, scaled};
use super::{Failure, plural, store};
use crate::experiment::Experiment;
use crate::plan::explain::{self, Reason};
use crate::plan::{self, Plan, Reading, Step, StepInput, inputs::Content};
use crate::report::render::{Format, Grid};
use crate::stages::{Estimate, Kind, estimate::Memory};

/// Inputs larger than this are not read for a plan when they are not remembered.
pub const READ: u64 = 64 << 20;

/// Prints the plan; reads no large input that is not remembered and writes nothing.
pub fn run(
    experiment: &Experiment,
    kinds: &[Kind],
    explain: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let store = store(experiment);
    let plan = plan::plan(experiment, kinds, &store, Reading::AtMost(READ))?;
    let forecast = Forecast::new(&plan, &store, &experiment.run)?;
    let reasons = if explain || json { explain::explain(experiment, &plan, &store)? } else { BTreeMap::new() };
    if json {
        writeln!(out, "{:#}", as_json(experiment, &plan, &reasons, &forecast))?;
        return Ok(());
    }
    for (&step, reasons) in &reasons {
        let step = &plan.steps[step];
        let because: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        writeln!(out, "{} ({}): {}", step.stages.join(", "), step.name(), because.join("; "))?;
    }
    if !reasons.is_empty() {
        writeln!(out)?;
    }
    grid(&plan, &forecast).write(Format::Text, out)?;
    writeln!(out, "\n{}", sentence(experiment, &plan))?;
    let wanted = crate::execute::wanted(&plan, &[]);
    if let Some(expected) = expectation(&forecast, &plan, &wanted, experiment.run.jobs) {
        writeln!(out, "{expected}")?;
    }
    if let Err(refusal) = forecast.check(&plan, &wanted) {
        writeln!(out, "will be refused: {refusal}")?;
    }
    for (reference, files, bytes) in pending(&plan) {
        let megabytes = bytes as f64 / 1e6;
        writeln!(
            out,
            "pending: `{reference}` is not read yet: {files} files, {megabytes:.1} MB; its steps may be done"
        )?;
    }
    for (sentence, count) in not_applicable(&plan) {
        writeln!(out, "n/a: {count} points: {sentence}")?;
    }
    Ok(())
}

fn state(step: &Step<'_>) -> &'static str {
    match (step.is_done, step.is_pending, step.is_needed) {
        (true, _, _) => "done",
        (false, true, _) => "pending",
        (false, false, true) => "to run",
        (false, false, false) => "not needed",
    }
}

/// What the steps of a stage that are to run need together; of parameters and memory the most that one needs.
#[derive(Default)]
struct Needs {
    parameters: Option<u64>,
    flops: Option<f64>,
    memory: Option<u64>,
    seconds: Option<f64>,
    /// Some step's time is unknown.
    is_partial: bool,
}

impl Needs {
    fn add(&mut self, estimate: &Estimate, seconds: Option<f64>) {
        self.parameters = self.parameters.max(estimate.parameters);
        self.memory = self.memory.max(estimate.memory.as_ref().map(Memory::total));
        let sum = |left: Option<f64>, right: Option<f64>| right.map_or(left, |right| Some(left.unwrap_or(0.0) + right));
        self.flops = sum(self.flops, estimate.flops);
        self.seconds = sum(self.seconds, seconds);
        self.is_partial |= seconds.is_none();
    }

    fn cells(&self) -> [String; 4] {
        let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
        let seconds = self.seconds.map(duration);
        [
            self.parameters.map_or_else(|| "–".to_owned(), |count| scaled(count as f64)),
            self.flops.map_or_else(|| "–".to_owned(), scaled),
            or_unknown(self.memory.map(bytes)),
            or_unknown(if self.is_partial { seconds.map(|seconds| format!("≥ {seconds}")) } else { seconds }),
        ]
    }
}

/// Steps by stage, and what those to run need.
fn grid(plan: &Plan<'_>, forecast: &Forecast) -> Grid {
    let mut needs: BTreeMap<&str, Needs> = BTreeMap::new();
    for (&step, estimate) in forecast.estimates.iter().filter(|(step, _)| plan.steps[**step].is_needed) {
        for stage in &plan.steps[step].stages {
            needs.entry(stage).or_default().add(estimate, forecast.seconds.get(&step).copied());
        }
    }
    let mut order: Vec<&str> = Vec::new();
    let mut counts: BTreeMap<&str, (&str, BTreeMap<&str, usize>)> = BTreeMap::new();
    for step in &plan.steps {
        for stage in &step.stages {
            if !order.contains(stage) {
                order.push(stage);
            }
            *counts
                .entry(stage)
                .or_insert_with(|| (step.work.kind(), BTreeMap::new()))
                .1
                .entry(state(step))
                .or_default() += 1;
        }
    }
    let states = ["done", "to run", "pending", "not needed"];
    let rows = order.iter().filter_map(|stage| {
        let (kind, states_of) = counts.get(stage)?;
        let total: usize = states_of.values().sum();
        let mut row = vec![(*stage).to_owned(), (*kind).to_owned(), total.to_string()];
        row.extend(states.iter().map(|state| states_of.get(state).copied().unwrap_or(0).to_string()));
        row.extend(needs.get(stage).map_or_else(|| std::array::from_fn(|_| "–".to_owned()), Needs::cells));
        Some(row)
    });
    let header =
        ["stage", "kind", "steps", "done", "to run", "pending", "not needed", "parameters", "FLOP", "memory", "time"];
    Grid {
        title: String::new(),
        header: header.map(str::to_owned).to_vec(),
        labels: 2,
        rows: rows.collect(),
        notes: Vec::new(),
    }
}

/// `quickstart: 14 points (3 n/a), 23 steps (9 shared by several points): 20 to run`
pub fn sentence(experiment: &Experiment, plan: &Plan<'_>) -> String {
    let missing = plan.points.iter().filter(|planned| planned.point.not_applicable.is_some()).count();
    let shared = plan.steps.iter().filter(|step| step.points > 1).count();
    let done = plan.steps.iter().filter(|step| step.is_done).count();
    let needed = plan.steps.iter().filter(|step| step.is_needed).count();
    format!(
        "{}: {} ({missing} n/a), {} ({shared} shared by several points): {done} done, {needed} to run",
        experiment.name,
        plural(plan.points.len(), "point"),
        plural(plan.steps.len(), "step"),
    )
}

/// `about 2 min with 2 jobs on `cpu`, which has 25.2 GB (the time of 3 steps is unknown)`; nothing when nothing is to run.
pub fn expectation(forecast: &Forecast, plan: &Plan<'_>, wanted: &[bool], jobs: usize) -> Option<String> {
    wanted.contains(&true).then_some(())?;
    let (seconds, unknown) = forecast.total(plan, wanted, jobs);
    let memory = if forecast.memory == u64::MAX { "an unknown amount".to_owned() } else { bytes(forecast.memory) };
    let unknown =
        if unknown > 0 { format!("; the time of {} is unknown", plural(unknown, "step")) } else { String::new() };
    let jobs = plural(jobs, "job");
    Some(format!("about {} with {jobs} on `{}`, which has {memory}{unknown}", duration(seconds), forecast.device))
}

fn pending<'p>(plan: &'p Plan<'_>) -> Vec<(&'p str, usize, u64)> {
    let mut found: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for input in plan.steps.iter().flat_map(|step| step.inputs.values()) {
        if let StepInput::External { reference, content: Content::Pending { files, bytes }, .. } = input {
            found.insert(reference, (*files, *bytes));
        }
    }
    found.into_iter().map(|(reference, (files, bytes))| (reference, files, bytes)).collect()
}

fn not_applicable<'p>(plan: &'p Plan<'_>) -> BTreeMap<&'p str, usize> {
    let mut found = BTreeMap::new();
    for rule in plan.points.iter().filter_map(|planned| planned.point.not_applicable.as_ref()) {
        *found.entry(rule.sentence.as_str()).or_default() += 1;
    }
    found
}

fn as_json(
    experiment: &Experiment,
    plan: &Plan<'_>,
    reasons: &BTreeMap<usize, Vec<Reason>>,
    forecast: &Forecast,
) -> Value {
    let steps: Vec<Value> = plan
        .steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let because: Vec<String> = reasons.get(&index).into_iter().flatten().map(ToString::to_string).collect();
            let inputs: BTreeMap<&String, Value> = step
                .inputs
                .iter()
                .map(|(field, input)| {
                    let value = match input {
                        StepInput::Step { step, .. } => json!({ "step": plan.steps[*step].name() }),
                        StepInput::External { reference, path, content: Content::Known(digest), .. } => {
                            json!({ "reference": reference, "path": path, "digest": digest })
                        }
                        StepInput::External { reference, path, content: Content::Pending { files, bytes }, .. } => {
                            json!({ "reference": reference, "path": path, "pending_files": files, "pending_bytes": bytes })
                        }
                    };
                    (field, value)
                })
                .collect();
            json!({
                "step": step.name(),
                "kind": step.work.kind(),
                "stages": step.stages,
                "state": state(step),
                "points": step.points,
                "because": because,
                "estimate": forecast.estimates.get(&index),
                "expected_memory": forecast.estimates.get(&index).and_then(|e| Some(e.memory.as_ref()?.total())),
                "expected_seconds": forecast.seconds.get(&index),
                "inputs": inputs,
                "identity": step.identity(),
            })
        })
        .collect();
    let points: Vec<Value> = plan
        .points
        .iter()
        .map(|planned| {
            let steps: BTreeMap<_, _> =
                planned.steps.iter().map(|(stage, &step)| (*stage, plan.steps[step].name())).collect();
            json!({
                "coordinates": *planned.point.coordinates,
                "ablation": planned.point.ablation,
                "run": planned.run,
                "not_applicable": planned.point.not_applicable.as_ref().map(|rule| &rule.sentence),
                "steps": steps,
            })
        })
        .collect();
    json!({ "experiment": experiment.name, "protocol": experiment.protocol, "steps": steps, "points": points })
}
