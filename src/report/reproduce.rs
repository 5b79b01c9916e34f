//! Our figures held against published ones: in, out or missing, each with its source and what the number is worth.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::render::{Grid, decimal};
use super::table::{Figures, Found, Reading, TableError, holds, is_base_or_named, mentions, readings};
use crate::experiment::{Experiment, Published, Selection, TableSpec};
use crate::plan::Plan;

/// What came of a published value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Ours lies within the tolerance.
    In,
    /// Ours lies outside.
    Out,
    /// There is none of ours to compare.
    Missing,
    /// The file gives no tolerance: both are shown, neither is judged.
    Beside,
}

impl Verdict {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Missing => "missing",
            Self::Beside => "beside",
        }
    }
}

/// One published value beside ours.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The table.
    pub table: String,
    /// The name of the published value in the file.
    pub name: String,
    /// The cell.
    pub cell: Selection,
    /// `stage.figure` or `comparison.figure`.
    pub figure: String,
    /// The published value.
    pub published: f64,
    /// How far ours may be off.
    pub tolerance: Option<f64>,
    /// Our value: the mean over what the table averages over.
    pub ours: Option<f64>,
    /// How many results that mean is of.
    pub results: usize,
    /// Ours − published.
    pub difference: Option<f64>,
    /// What came of it.
    pub verdict: Verdict,
    /// Why ours is missing.
    pub reason: Option<String>,
    /// Where it was published.
    pub source: Option<String>,
    /// What the number is worth.
    pub note: Option<String>,
}

/// Every published value of the tables beside ours, in the order of the file, and what is wrong with those that cannot
/// be compared: a step's figures cannot be read, the file names a figure that there is not, or the value stands for
/// several different results.
pub fn checks(experiment: &Experiment, plan: &Plan<'_>, figures: &mut Figures<'_>) -> (Vec<Check>, Vec<TableError>) {
    let (mut checks, mut broken) = (Vec::new(), Vec::new());
    for spec in &experiment.tables {
        for (name, published) in &spec.published {
            let ours = ours(plan, spec, name, published, figures).unwrap_or_else(|error| {
                let reason = error.to_string();
                if broken.iter().all(|known: &TableError| known.to_string() != reason) {
                    broken.push(error);
                }
                Err(reason)
            });
            checks.push(check(spec, name, published, ours));
        }
    }
    (checks, broken)
}

/// The mean of our results of a cell and their number, or why there is none.
type Ours = Result<(f64, usize), String>;

fn ours(
    plan: &Plan<'_>,
    spec: &TableSpec,
    name: &str,
    published: &Published,
    figures: &mut Figures<'_>,
) -> Result<Ours, TableError> {
    let (stage, figure) = &spec.value[published.figure];
    match readings(plan, spec, stage, figure, figures)? {
        None => Ok(Err(format!("`{stage}` has not run"))),
        Some(found) => mean(spec, name, published, found),
    }
}

fn check(spec: &TableSpec, name: &str, published: &Published, ours: Ours) -> Check {
    let (stage, figure) = &spec.value[published.figure];
    let difference = ours.as_ref().ok().map(|(mean, _)| mean - published.value);
    let verdict = match (difference, published.tolerance) {
        (None, Some(_)) => Verdict::Missing,
        (_, None) => Verdict::Beside,
        // Figures are read from decimal text; the last binary place must not decide at the edge.
        (Some(off), Some(tolerance)) if off.abs() <= tolerance + 1e-9 * published.value.abs() => Verdict::In,
        (Some(_), Some(_)) => Verdict::Out,
    };
    Check {
        table: spec.name.clone(),
        name: name.to_owned(),
        cell: published.r#where.clone(),
        figure: format!("{stage}.{figure}"),
        published: published.value,
        tolerance: published.tolerance,
        ours: ours.as_ref().ok().map(|(mean, _)| *mean),
        results: ours.as_ref().map_or(0, |(_, count)| *count),
        difference,
        verdict,
        reason: ours.err(),
        source: published.source.clone(),
        note: published.note.clone(),
    }
}

fn mean(spec: &TableSpec, name: &str, published: &Published, found: Vec<Found>) -> Result<Ours, TableError> {
    let chosen: Vec<Found> = found
        .into_iter()
        .filter(|(coordinates, ..)| holds(&published.r#where, coordinates) && is_base_or_named(published, coordinates))
        .collect();
    let mut by_over: BTreeMap<Vec<&String>, BTreeSet<&String>> = BTreeMap::new();
    for (coordinates, source, _) in &chosen {
        let over = spec.over.iter().filter_map(|axis| coordinates.get(axis)).collect();
        by_over.entry(over).or_default().insert(source);
    }
    if let Some(several) = by_over.values().find(|sources| sources.len() > 1) {
        let axes: BTreeSet<&String> = chosen.iter().flat_map(|(coordinates, ..)| coordinates.keys()).collect();
        let free = axes.into_iter().filter(|axis| {
            let labels: BTreeSet<_> = chosen.iter().filter_map(|(coordinates, ..)| coordinates.get(*axis)).collect();
            labels.len() > 1 && !spec.over.contains(axis) && (mentions(spec, axis) || axis.as_str() != "ablation")
        });
        return Err(TableError::Ambiguous {
            table: spec.name.clone(),
            cell: format!("of the published value `{name}`"),
            count: several.len(),
            axes: free.map(|axis| format!("`{axis}`")).collect::<Vec<_>>().join(" and "),
        });
    }
    if chosen.is_empty() {
        return Ok(Err("no result has these labels".into()));
    }
    if chosen.iter().any(|(.., reading)| matches!(reading, Reading::NotRun)) {
        return Ok(Err("not run".into()));
    }
    let mut numbers: BTreeMap<&str, f64> = BTreeMap::new();
    for (_, source, reading) in &chosen {
        match reading {
            Reading::NotApplicable(sentence) => return Ok(Err(format!("n/a: {sentence}"))),
            Reading::Figure(value) => match value.as_f64() {
                Some(number) => {
                    numbers.insert(source, number);
                }
                None if value.is_null() => return Ok(Err("n/a in our results".into())),
                None => return Ok(Err(format!("our figure is `{}`, no number", text(value)))),
            },
            Reading::NotRun => {}
        }
    }
    let count = numbers.len();
    Ok(Ok((numbers.values().sum::<f64>() / count as f64, count)))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The checks as a grid, with sources, notes and reasons below.
pub fn grid(experiment: &Experiment, checks: &[Check]) -> Grid {
    let header = ["table", "published value", "figure", "published", "tolerance", "ours", "difference", "verdict"];
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), decimal);
    let rows = checks.iter().map(|check| {
        vec![
            check.table.clone(),
            check.name.clone(),
            check.figure.clone(),
            decimal(check.published),
            number(check.tolerance),
            number(check.ours),
            number(check.difference),
            check.verdict.word().to_owned(),
        ]
    });
    let notes = checks.iter().filter_map(|check| {
        let source = check.source.as_ref().map(|source| format!("source: {source}"));
        let note = check.note.as_ref().map(|note| format!("worth: {note}"));
        let reason = check.reason.as_ref().map(|reason| format!("missing: {reason}"));
        let words: Vec<String> = [reason, source, note].into_iter().flatten().collect();
        (!words.is_empty()).then(|| format!("{}.{}: {}", check.table, check.name, words.join("; ")))
    });
    Grid {
        title: format!("{}: published values", experiment.name),
        header: header.map(str::to_owned).to_vec(),
        labels: 3,
        rows: rows.collect(),
        notes: notes.collect(),
    }
}
