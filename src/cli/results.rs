//! `soctok results`: the figures of every run of an experiment.

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::{Map, Value, json};

use super::{Failure, store};
use crate::experiment::Experiment;
use crate::plan::{self, Plan, PlannedPoint, Reading};
use crate::report::render::{Format, Grid, figure};
use crate::report::table::Figures;
use crate::stages::Kind;
use crate::store::Store;

/// Prints a row for each point.
pub fn run(experiment: &Experiment, kinds: &[Kind], format: Format, out: &mut dyn Write) -> Result<(), Failure> {
    let store = store(experiment);
    let plan = plan::plan(experiment, kinds, &store, Reading::AtMost(u64::MAX))?;
    if format == Format::Json {
        writeln!(out, "{:#}", as_json(&plan, &store)?)?;
        return Ok(());
    }
    grid(experiment, &plan, &store)?.write(format, out)?;
    Ok(())
}

/// Points with coordinates, run hash, and figures and artifact of every stage that is done.
pub fn as_json(plan: &Plan<'_>, store: &Store) -> Result<Value, Failure> {
    let mut figures = Figures::new(store);
    let mut points = Vec::new();
    for planned in &plan.points {
        let (mut stages, mut artifacts) = (Map::new(), Map::new());
        for (stage, &step) in &planned.steps {
            let name = plan.steps[step].name();
            let summary = figures.of(&name)?.cloned();
            if summary.is_some() {
                artifacts.insert((*stage).to_owned(), json!(store.artifact(&name)));
            }
            stages.insert((*stage).to_owned(), summary.map_or(Value::Null, Value::Object));
        }
        points.push(json!({
            "coordinates": *planned.point.coordinates,
            "ablation": planned.point.ablation,
            "run": planned.run,
            "not_applicable": planned.point.not_applicable.as_ref().map(|rule| &rule.sentence),
            "figures": stages,
            "artifacts": artifacts,
        }));
    }
    Ok(points.into())
}

/// Points as rows, figures of the stages that they were asked to reach as columns.
pub fn grid(experiment: &Experiment, plan: &Plan<'_>, store: &Store) -> Result<Grid, Failure> {
    let mut figures = Figures::new(store);
    let mut columns: BTreeSet<(String, String)> = BTreeSet::new();
    for (stage, step) in plan.points.iter().flat_map(targets) {
        if let Some(summary) = figures.of(&plan.steps[step].name())? {
            columns.extend(summary.keys().map(|name| (stage.to_owned(), name.clone())));
        }
    }
    let axes: Vec<&str> = experiment.axes.iter().map(|axis| axis.name.as_str()).collect();
    let mut header: Vec<String> = axes.iter().map(|axis| (*axis).to_owned()).collect();
    header.extend(["ablation".to_owned(), "run".to_owned()]);
    let labels = header.len();
    header.extend(columns.iter().map(|(stage, name)| format!("{stage}.{name}")));
    let mut rows = Vec::new();
    for planned in &plan.points {
        let point = planned.point;
        let mut row: Vec<String> =
            axes.iter().map(|axis| point.coordinates.get(*axis).cloned().unwrap_or_default()).collect();
        row.push(point.ablation.clone().unwrap_or_else(|| "base".into()));
        row.push(match (&point.not_applicable, &planned.run) {
            (Some(_), _) => "n/a".into(),
            (None, Some(run)) => run[..12].to_owned(),
            (None, None) => "pending".into(),
        });
        for (stage, name) in &columns {
            let summary = match planned.steps.get(stage.as_str()) {
                Some(&step) => figures.of(&plan.steps[step].name())?,
                None => None,
            };
            row.push(summary.and_then(|summary| summary.get(name)).map(figure).unwrap_or_default());
        }
        rows.push(row);
    }
    Ok(Grid { title: String::new(), header, labels, rows, notes: Vec::new() })
}

/// The target stages that a point reaches, with their steps.
fn targets<'p>(planned: &'p PlannedPoint<'_>) -> impl Iterator<Item = (&'p str, usize)> {
    planned.point.targets.iter().filter_map(|target| Some((&**target, *planned.steps.get(&**target)?)))
}
