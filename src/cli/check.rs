//! `soctok check`: every mistake of an experiment file, or that there is none.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::json;

use super::plural;
use crate::experiment::Experiment;

/// Says what an experiment without mistakes amounts to.
pub fn run(experiment: &Experiment, json: bool, out: &mut dyn Write) -> io::Result<()> {
    let points = experiment.points.len();
    let not_applicable = experiment.points.iter().filter(|point| point.not_applicable.is_some()).count();
    let stages: BTreeSet<&Arc<str>> = experiment.points.iter().flat_map(|point| point.stages.keys()).collect();
    let live = experiment.points.iter().filter(|point| point.not_applicable.is_none());
    let steps: BTreeSet<_> = live.flat_map(|point| point.stages.values().map(Arc::as_ptr)).collect();
    // A comparison is a step too, as in `soctok plan`.
    let steps = steps.len() + experiment.comparisons.len();
    if json {
        let notes: Vec<String> = experiment.notes.iter().map(ToString::to_string).collect();
        let facts = json!({
            "experiment": experiment.name, "points": points, "stages": stages.len(), "steps": steps,
            "not_applicable": not_applicable, "notes": notes,
        });
        return writeln!(out, "{facts:#}");
    }
    let (point, stage, step) = (plural(points, "point"), plural(stages.len(), "stage"), plural(steps, "step"));
    writeln!(out, "ok: {point}, {stage}, {step}, {not_applicable} not applicable")
}
