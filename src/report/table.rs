//! The tables of an experiment: figures of runs and comparisons, with published values beside them.
//!
//! A table `over` an axis (seeds) shows mean, standard deviation and an interval of the mean. People read them in one
//! cell, programs (CSV, JSON) in columns of their own; the numbers are the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::render::{Format, Grid, decimal, figure};
use crate::comparisons::{self, Row};
use crate::experiment::{Experiment, Published, Selection, TableSpec};
use crate::plan::{Plan, PlannedPoint};
use crate::stages::Summary;
use crate::stats::spread::{CONFIDENCE, Spread};
use crate::store::{Store, StoreError, read_json};

const ABLATION: &str = "ablation";
const BASE: &str = "base";

/// Why a table cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A step's figures cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// One cell stands for several different results.
    #[error(
        "table `{table}`: the cell {cell} holds {count} different results\nhint: name {axes} in `rows`, `columns`, `over` or `where`"
    )]
    Ambiguous { table: String, cell: String, count: usize, axes: String },
    /// A comparison has no rows by an axis that the table wants.
    #[error("table `{table}`: the rows of `{comparison}` have no `{axis}`\nhint: they have {known}")]
    NoAxis { table: String, comparison: String, axis: String, known: String },
    /// A step has no figure of that name.
    #[error("table `{table}`: `{stage}` has no figure `{figure}`\nhint: it has {known}")]
    NoFigure { table: String, stage: String, figure: String, known: String },
}

/// Reads the figures of steps, each once.
pub struct Figures<'a> {
    store: &'a Store,
    summaries: HashMap<String, Summary>,
}

impl<'a> Figures<'a> {
    /// Nothing is read before it is asked for.
    pub fn new(store: &'a Store) -> Self {
        Self { store, summaries: HashMap::new() }
    }

    /// The figures of a step; `None` while it is not done.
    pub fn of(&mut self, step: &str) -> Result<Option<&Summary>, StoreError> {
        if !self.summaries.contains_key(step) {
            if !self.store.was_done(step) {
                return Ok(None);
            }
            self.summaries.insert(step.to_owned(), self.store.summary(step)?);
        }
        Ok(self.summaries.get(step))
    }
}

/// The sentence of every comparison that has run, by name, in the order of the file.
pub fn verdicts(
    experiment: &Experiment,
    plan: &Plan<'_>,
    figures: &mut Figures<'_>,
) -> Result<Vec<(String, String)>, TableError> {
    let mut found = Vec::new();
    for spec in &experiment.comparisons {
        let Some(&step) = plan.comparisons.get(spec.name.as_str()) else { continue };
        let summary = figures.of(&plan.steps[step].name())?;
        if let Some(sentence) = summary.and_then(|summary| summary.get(comparisons::VERDICT)?.as_str()) {
            found.push((spec.name.clone(), sentence.to_owned()));
        }
    }
    Ok(found)
}

/// One value that falls into a cell.
struct Entry {
    /// Labels of the axes that are averaged over.
    over: Vec<String>,
    /// What tells results apart: the step's name, or the row's number in a comparison.
    source: String,
    coordinates: BTreeMap<String, String>,
    value: Reading,
}

pub(super) enum Reading {
    Figure(Value),
    /// With the sentence of the rule.
    NotApplicable(String),
    NotRun,
}

/// What stands in a cell.
enum Cell {
    /// A figure as it is, or why there is none.
    Text(String),
    /// Runs that differ in the axes that are averaged over.
    Runs(Spread),
    /// A figure that is no number, or that one run gives to all.
    One(String),
}

impl Cell {
    /// In one cell: `2.408 ± 0.0531 (2.342 to 2.474)`, with the number of runs where it is not `usual`.
    fn for_people(&self, usual: usize) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::One(figure) => format!("{figure} ± –"),
            Self::Runs(Spread { count, mean, repeated }) => {
                let n = if *count == usual { String::new() } else { format!("; n = {count}") };
                let spread = repeated.map_or("± –".to_owned(), |repeated| {
                    let [deviation, low, high] = [repeated.deviation, repeated.low, repeated.high].map(decimal);
                    format!("± {deviation} ({low} to {high}{n})")
                });
                format!("{} {spread}", decimal(*mean))
            }
        }
    }

    /// In one cell for each of [`PARTS`], the mean before them.
    fn for_programs(&self) -> [String; 1 + PARTS.len()] {
        let none = || "–".to_owned();
        match self {
            Self::Text(text) => [text.clone(), none(), none(), none(), none()],
            Self::One(figure) => [figure.clone(), none(), none(), none(), "1".to_owned()],
            Self::Runs(Spread { count, mean, repeated }) => {
                let part = |value: Option<f64>| value.map_or_else(none, decimal);
                [
                    decimal(*mean),
                    part(repeated.map(|repeated| repeated.deviation)),
                    part(repeated.map(|repeated| repeated.low)),
                    part(repeated.map(|repeated| repeated.high)),
                    count.to_string(),
                ]
            }
        }
    }
}

/// What programs read beside a mean.
const PARTS: [&str; 4] = ["deviation", "low", "high", "n"];

/// Makes the grid of one table, for the readers of `format`.
pub fn grid(
    experiment: &Experiment,
    plan: &Plan<'_>,
    spec: &TableSpec,
    figures: &mut Figures<'_>,
    format: Format,
) -> Result<Grid, TableError> {
    let in_columns = matches!(format, Format::Csv | Format::Json);
    let order = Order::new(experiment);
    let mut cells: BTreeMap<(Vec<usize>, Vec<usize>, usize), Vec<Entry>> = BTreeMap::new();
    let mut grid = Grid { title: spec.name.clone(), labels: spec.rows.len(), ..Grid::default() };
    for (number, (stage, name)) in spec.value.iter().enumerate() {
        let Some(found) = readings(plan, spec, stage, name, figures)? else {
            grid.notes.push(format!("`{stage}` has not run"));
            continue;
        };
        for (coordinates, source, value) in found {
            let places = |axes: &[String]| -> Option<Vec<usize>> {
                axes.iter().map(|axis| order.place(axis, coordinates.get(axis)?)).collect()
            };
            let (Some(row), Some(column)) = (places(&spec.rows), places(&spec.columns)) else { continue };
            let over = spec.over.iter().filter_map(|axis| coordinates.get(axis).cloned()).collect();
            cells.entry((row, column, number)).or_default().push(Entry { over, source, coordinates, value });
        }
    }
    let rows: BTreeSet<&Vec<usize>> = cells.keys().map(|(row, _, _)| row).collect();
    let columns: BTreeSet<(&Vec<usize>, usize)> = cells.keys().map(|(_, column, number)| (column, *number)).collect();
    grid.notes.dedup();
    grid.header.clone_from(&spec.rows);
    let names = names(spec);
    for (column, number) in &columns {
        let mut parts = order.labels(&spec.columns, column);
        if spec.value.len() > 1 || parts.is_empty() {
            parts.push(names[*number].clone());
        }
        let name = parts.join(" ");
        grid.header.push(name.clone());
        if in_columns && !spec.over.is_empty() {
            grid.header.extend(PARTS.map(|part| format!("{name} {part}")));
        }
        if in_columns && has_published(spec, *number) {
            grid.header.push(format!("{name} published"));
        }
    }
    let mut found = BTreeMap::new();
    for (place, entries) in &cells {
        let row = order.labels(&spec.rows, &place.0);
        found.insert(place, cell(spec, entries, &row)?);
    }
    let counts = found.values().filter_map(|cell| if let Cell::Runs(runs) = cell { Some(runs.count) } else { None });
    let usual = counts.max().unwrap_or(1);
    let mut cited = Vec::new();
    for row in rows {
        let mut line = order.labels(&spec.rows, row);
        for (column, number) in &columns {
            let cell = found.get(&(row.clone(), (*column).clone(), *number));
            let published = published(&order, spec, (row, column, *number));
            let values: Vec<String> = published.iter().map(|published| decimal(published.value)).collect();
            cited.extend(published.into_iter().filter_map(citation));
            match cell {
                Some(cell) if in_columns && !spec.over.is_empty() => line.extend(cell.for_programs()),
                None if in_columns && !spec.over.is_empty() => line.extend((0..=PARTS.len()).map(|_| String::new())),
                Some(cell) => line.push(cell.for_people(usual)),
                None => line.push(String::new()),
            }
            match line.last_mut() {
                _ if in_columns && has_published(spec, *number) => line.push(values.join("; ")),
                Some(cell) if !values.is_empty() => *cell = format!("{cell} [{}]", values.join("; ")),
                _ => {}
            }
        }
        grid.rows.push(line);
    }
    if !spec.over.is_empty() {
        let (over, percent) = (spec.over.join(", "), 100.0 * CONFIDENCE);
        grid.notes.push(format!(
            "mean ± standard deviation over {over} ({percent} % t interval of the mean), n = {usual}; ± – where one run serves all"
        ));
    }
    grid.notes.extend(cited);
    Ok(grid)
}

/// The figures as they stand above their columns: `spearman`, or `rsa.spearman` for all of a table in which two columns
/// would be called alike.
fn names(spec: &TableSpec) -> Vec<String> {
    let mut taken: BTreeSet<&str> = spec.rows.iter().map(String::as_str).collect();
    let short = spec.value.iter().all(|(_, figure)| taken.insert(figure));
    let name = |(of, figure): &(String, String)| if short { figure.clone() } else { format!("{of}.{figure}") };
    spec.value.iter().map(name).collect()
}

pub(super) type Found = (BTreeMap<String, String>, String, Reading);

/// The values of one figure with their places; `None` while a comparison has not run.
pub(super) fn readings(
    plan: &Plan<'_>,
    spec: &TableSpec,
    stage: &str,
    name: &str,
    figures: &mut Figures<'_>,
) -> Result<Option<Vec<Found>>, TableError> {
    let no_figure = |known: &Summary| TableError::NoFigure {
        table: spec.name.clone(),
        stage: stage.to_owned(),
        figure: name.to_owned(),
        known: known.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "),
    };
    let mut found = Vec::new();
    if let Some(&step) = plan.comparisons.get(stage) {
        let folder = figures.store.artifact(&plan.steps[step].name());
        if !figures.store.was_done(&plan.steps[step].name()) {
            return Ok(None);
        }
        let rows: Vec<Row> = read_json(&folder.join("rows.json"))?;
        for (number, row) in rows.into_iter().enumerate() {
            let value = row.figures.get(name).cloned().ok_or_else(|| no_figure(&row.figures))?;
            let mut wanted = spec.rows.iter().chain(&spec.columns);
            if let Some(axis) = wanted.find(|axis| !row.coordinates.contains_key(*axis)) {
                return Err(TableError::NoAxis {
                    table: spec.name.clone(),
                    comparison: stage.to_owned(),
                    axis: axis.clone(),
                    known: row.coordinates.keys().map(|axis| format!("`{axis}`")).collect::<Vec<_>>().join(", "),
                });
            }
            if holds(&spec.r#where, &row.coordinates) {
                found.push((row.coordinates, number.to_string(), Reading::Figure(value)));
            }
        }
        return Ok(Some(found));
    }
    for planned in &plan.points {
        let coordinates = coordinates(planned);
        let base_only = !mentions(spec, ABLATION) && planned.point.ablation.is_some();
        if base_only || !holds(&spec.r#where, &coordinates) {
            continue;
        }
        let Some(&step) = planned.steps.get(stage) else {
            if let Some(rule) = &planned.point.not_applicable
                && planned.point.stages.contains_key(stage)
            {
                found.push((coordinates, "n/a".into(), Reading::NotApplicable(rule.sentence.clone())));
            }
            continue;
        };
        let source = plan.steps[step].name();
        let value = match figures.of(&source)? {
            None => Reading::NotRun,
            Some(summary) => Reading::Figure(summary.get(name).cloned().ok_or_else(|| no_figure(summary))?),
        };
        found.push((coordinates, source, value));
    }
    Ok(Some(found))
}

/// Axis → label of a point, with `ablation`.
pub fn coordinates(planned: &PlannedPoint<'_>) -> BTreeMap<String, String> {
    let mut coordinates = BTreeMap::clone(&planned.point.coordinates);
    coordinates.insert(ABLATION.into(), planned.point.ablation.clone().unwrap_or_else(|| BASE.into()));
    coordinates
}

pub(super) fn mentions(spec: &TableSpec, axis: &str) -> bool {
    let listed = [&spec.rows, &spec.columns, &spec.over].into_iter().flatten().any(|name| name == axis);
    listed || spec.r#where.contains_key(axis)
}

pub(super) fn holds(selection: &Selection, coordinates: &BTreeMap<String, String>) -> bool {
    // A comparison's row has no label for what it averages over: nothing to hold it against.
    selection.iter().all(|(axis, labels)| coordinates.get(axis).is_none_or(|label| labels.contains(label)))
}

/// The labels of the axes and of `ablation`, in the order of the file.
struct Order<'e> {
    labels: HashMap<&'e str, Vec<&'e str>>,
    places: HashMap<(&'e str, &'e str), usize>,
}

impl<'e> Order<'e> {
    fn new(experiment: &'e Experiment) -> Self {
        let ablations = std::iter::once(BASE).chain(experiment.ablations.iter().map(String::as_str)).collect();
        let axes = experiment.axes.iter().map(|axis| {
            let labels: Vec<&str> = axis.labels.iter().map(String::as_str).collect();
            (axis.name.as_str(), labels)
        });
        let labels: HashMap<&str, Vec<&str>> = axes.chain([(ABLATION, ablations)]).collect();
        let places = labels
            .iter()
            .flat_map(|(&axis, labels)| labels.iter().enumerate().map(move |(place, &label)| ((axis, label), place)));
        let places = places.collect();
        Self { labels, places }
    }

    /// Where a label stands.
    fn place(&self, axis: &str, label: &str) -> Option<usize> {
        self.places.get(&(axis, label)).copied()
    }

    fn labels(&self, axes: &[String], places: &[usize]) -> Vec<String> {
        let label =
            |(axis, &place): (&String, &usize)| self.labels.get(axis.as_str())?.get(place).map(|&l| l.to_owned());
        axes.iter().zip(places).filter_map(label).collect()
    }
}

/// Whether any cell of a figure has a published value.
fn has_published(spec: &TableSpec, figure: usize) -> bool {
    spec.published.values().any(|published| published.figure == figure)
}

fn cell(spec: &TableSpec, entries: &[Entry], row: &[String]) -> Result<Cell, TableError> {
    let mut by_over: BTreeMap<&Vec<String>, BTreeMap<&str, &Entry>> = BTreeMap::new();
    for entry in entries {
        by_over.entry(&entry.over).or_default().insert(&entry.source, entry);
    }
    if let Some(several) = by_over.values().find(|sources| sources.len() > 1) {
        let varying: BTreeSet<&String> =
            several.values().flat_map(|entry| entry.coordinates.keys()).filter(|axis| !mentions(spec, axis)).collect();
        return Err(TableError::Ambiguous {
            table: spec.name.clone(),
            cell: format!("`{}`", row.join(", ")),
            count: several.len(),
            axes: varying.iter().map(|axis| format!("`{axis}`")).collect::<Vec<_>>().join(" or "),
        });
    }
    let entries: Vec<&Entry> = by_over.into_values().flat_map(BTreeMap::into_values).collect();
    if entries.iter().any(|entry| matches!(entry.value, Reading::NotRun)) {
        return Ok(Cell::Text("not run".into()));
    }
    let values: Vec<&Value> = entries
        .iter()
        .filter_map(|entry| match &entry.value {
            Reading::Figure(value) => Some(value),
            _ => None,
        })
        .collect();
    let Some(first) = values.first() else { return Ok(Cell::Text("n/a".into())) };
    let lacking = entries.len() - values.iter().filter(|value| !value.is_null()).count();
    if lacking > 0 {
        let text = if entries.len() > 1 { format!("n/a ({lacking} of {})", entries.len()) } else { "n/a".into() };
        return Ok(Cell::Text(text));
    }
    // Runs that share a step are one result: counted twice they would make the deviation too small.
    let distinct: BTreeMap<&str, &Value> =
        entries.iter().map(|entry| entry.source.as_str()).zip(values.iter().copied()).collect();
    let numbers: Option<Vec<f64>> = distinct.values().map(|value| value.as_f64()).collect();
    Ok(match numbers.filter(|_| !spec.over.is_empty()) {
        Some(numbers) if numbers.len() == 1 => Cell::One(figure(first)),
        Some(numbers) => Spread::of(&numbers).map_or_else(|| Cell::Text("n/a".into()), Cell::Runs),
        None => Cell::Text(figure(first)),
    })
}

/// The published values of a cell: row, column and number of the figure.
fn published<'s>(
    order: &Order<'_>,
    spec: &'s TableSpec,
    (row, column, figure): (&[usize], &[usize], usize),
) -> Vec<&'s Published> {
    let axes = spec.rows.iter().chain(&spec.columns).cloned();
    let names = order.labels(&spec.rows, row).into_iter().chain(order.labels(&spec.columns, column));
    let mut coordinates: BTreeMap<String, String> = axes.zip(names).collect();
    for (axis, labels) in &spec.r#where {
        if let [only] = labels.as_slice() {
            coordinates.insert(axis.clone(), only.clone());
        }
    }
    coordinates.entry(ABLATION.to_owned()).or_insert_with(|| BASE.to_owned());
    let found = spec.published.values().filter(|published| {
        // What the table averages over has no label in a cell.
        let named = |(axis, labels): (&String, &Vec<String>)| {
            spec.over.contains(axis) || coordinates.get(axis).is_some_and(|label| labels.contains(label))
        };
        published.figure == figure && published.r#where.iter().all(named) && is_base_or_named(published, &coordinates)
    });
    found.collect()
}

/// A published value whose `where` names no ablation is one of the base.
pub(super) fn is_base_or_named(published: &Published, coordinates: &BTreeMap<String, String>) -> bool {
    published.r#where.contains_key(ABLATION) || coordinates.get(ABLATION).is_none_or(|label| label == BASE)
}

/// `[36.940] source: what it is worth`, where there is a source or a note.
fn citation(published: &Published) -> Option<String> {
    let words: Vec<&str> = [&published.source, &published.note].into_iter().flatten().map(String::as_str).collect();
    (!words.is_empty()).then(|| format!("[{}] {}", decimal(published.value), words.join(": ")))
}
