//! The experiment: one TOML file as written, checked, and resolved to points.
//!
//! The file and everything above it (protocol, base files, profile, environment, `--set`) are merged with the origin of
//! each value kept, checked against the schemas of the stage kinds, and resolved: every point has its stages with all
//! settings filled in. Nothing here knows keys, the store or how a stage runs.

mod cells;
mod check;
mod compared;
mod diagnostic;
mod document;
mod grammar;
mod graph;
mod hidden;
mod layers;
mod protocols;
mod reports;
mod resolve;
pub mod rules;
pub mod schema;
mod show;
mod suggest;
mod sweep;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;

pub use crate::stages::kind::Settings;
pub use check::describe;
pub use diagnostic::{Diagnostic, Diagnostics, Location, Severity};
pub use show::{Shown, inline, show};
pub use suggest::nearest;

use crate::stages::{CHECKPOINT_INTERVAL, Kind, Reference};
use document::{Item, Report, Span, Table};

/// Loads an experiment: reads all layers, checks everything and resolves the points.
///
/// On error, every mistake that could be found is in the diagnostics, in the order of the texts.
pub fn load(path: &Path, options: &LoadOptions, kinds: &[Kind]) -> Result<Experiment, Diagnostics> {
    let mut report = Report::default();
    let experiment = read(&mut report, path, options, kinds);
    match experiment {
        Some((_, experiment)) if !report.has_errors() => {
            Ok(Experiment { notes: report.of(Severity::Note).0, ..experiment })
        }
        _ => Err(report.of(Severity::Error)),
    }
}

fn read(report: &mut Report, path: &Path, options: &LoadOptions, kinds: &[Kind]) -> Option<(Table, Experiment)> {
    let layers::Merged { table: merged, written, protocol } = layers::load(report, path, options)?;
    let start = Span { source: 0, start: 0, end: 0 };
    check::Checker::new(report).table(&merged, start, &grammar::schema(), "", &BTreeSet::new());
    for profile in graph::section(&merged, "profiles") {
        if let Some(table) = profile.item.table() {
            let what = format!("`profiles.{}`", profile.key);
            check::Checker::partial(report).table(table, profile.key_span, &grammar::schema(), &what, &BTreeSet::new());
        }
    }
    let graph = graph::Graph::read(report, &merged, kinds);
    graph.check_profiles(report, &merged);
    let sweep = sweep::Sweep::read(report, &merged, &graph);
    graph.check_stages(report, &sweep.always_bound());
    let reports = reports::Reports::read(report, &merged, &graph, &sweep, &crate::comparisons::kinds());
    let (run, targets) = run_settings(report, &merged, &graph);
    if report.has_errors() {
        return None;
    }
    let points = resolve::Resolver::new(&graph, &sweep, targets).points(report);
    if report.has_errors() {
        return None;
    }
    if points.is_empty() {
        report.error_nowhere("no point is left", "`exclude` drops them all; take an entry of `[exclude]` away");
    }
    reports.check_points(report, &graph, &points);
    hidden::check(report, &merged, &graph, &sweep, &points);
    let label = |value: &sweep::AxisValue| value.label.clone();
    let axes = sweep.axes.iter().map(|axis| AxisInfo {
        name: axis.name.clone(),
        labels: axis.values.iter().map(label).collect(),
        binds: axis.binds.iter().map(|target| graph.target_name(target)).collect(),
    });
    let experiment = Experiment {
        name: merged.get("name").and_then(Item::text)?.to_owned(),
        path: path.to_owned(),
        written: written::text(report, &written, &protocol),
        protocol,
        run,
        data: externals(&merged, "data"),
        models: externals(&merged, "models"),
        axes: axes.collect(),
        ablations: sweep.ablations.iter().map(|ablation| ablation.name.clone()).collect(),
        points,
        comparisons: reports.comparisons,
        tables: reports.tables,
        notes: Vec::new(),
    };
    Some((merged, experiment))
}

fn externals(merged: &Table, section: &str) -> BTreeMap<String, External> {
    let external = |table: &Table| {
        let text = |key: &str| table.get(key).and_then(Item::text).map(str::to_owned);
        let source = match (text("path"), text("hub")) {
            (Some(path), _) => Source::Path(PathBuf::from(path)),
            (None, Some(repository)) => Source::Hub { repository, revision: text("revision") },
            (None, None) => return None,
        };
        Some(External { kind: text("kind"), source })
    };
    let entries = graph::section(merged, section);
    entries.filter_map(|entry| Some((entry.key.clone(), external(entry.item.table()?)?))).collect()
}

/// `[run]` with its defaults, and the stages that it names as targets.
fn run_settings(report: &mut Report, merged: &Table, graph: &graph::Graph<'_>) -> (RunSettings, Vec<usize>) {
    let table = merged.get("run").and_then(Item::table);
    let field = |key: &str| table.and_then(|table| table.get(key));
    let text = |key: &str| field(key).and_then(Item::text).map(str::to_owned);
    let defaults = grammar::schema()["properties"]["run"]["properties"].clone();
    let default = |key: &str| defaults[key]["default"].as_str().unwrap_or_default().to_owned();
    let mut targets = Vec::new();
    for item in field("targets").map(Item::one_or_many).unwrap_or_default() {
        let Some(name) = item.text() else { continue };
        match graph.stage(name) {
            Some(stage) => targets.push(stage),
            None => {
                let hint = suggest::hint(name, "stages", graph.stages.iter().map(|stage| stage.name));
                report.error(item.span, format!("no stage `{name}` to reach"), hint);
            }
        }
    }
    let names = targets.iter().map(|stage| graph.stages[*stage].name.to_owned()).collect();
    let jobs = field("jobs").and_then(|item| item.plain().as_u64()).and_then(|jobs| usize::try_from(jobs).ok());
    let retry_on = field("retry_on").map_or_else(|| defaults["retry_on"]["default"].clone(), Item::plain);
    let seconds = field("checkpoint_seconds").and_then(|item| item.plain().as_f64());
    let checkpoint = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let run = RunSettings {
        store: PathBuf::from(text("store").unwrap_or_else(|| default("store"))),
        device: text("device").unwrap_or_else(|| default("device")),
        jobs: jobs.unwrap_or(1),
        memory: field("memory").and_then(|item| item.plain().as_f64()).map(|gigabytes| (gigabytes * 1e9) as u64),
        keep_going: field("keep_going").and_then(|item| item.plain().as_bool()).unwrap_or(true),
        retries: field("retries").and_then(|item| item.plain().as_u64()).map_or(0, |times| times.min(1000) as u32),
        retry_on: serde_json::from_value(retry_on).unwrap_or_default(),
        checkpoint_interval: checkpoint.unwrap_or(CHECKPOINT_INTERVAL),
        targets: names,
    };
    (run, targets)
}

/// What lies above the experiment file.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `--set` arguments in their order, as typed: `projector.epochs=3`, `run.device=cpu`.
    pub sets: Vec<String>,
    /// `--profile`: the name of a `[profiles.NAME]`.
    pub profile: Option<String>,
    /// Environment variables (name, value); those that start with `SOCTOK_` and name a setting are used.
    pub environment: Vec<(String, String)>,
}

/// An experiment with everything resolved.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// `name` of the file.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The whole experiment as one file, which loads to the same points wherever it lies.
    pub written: String,
    /// The protocol whose defaults hold.
    pub protocol: String,
    /// `[run]`.
    pub run: RunSettings,
    /// `[data.*]`.
    pub data: BTreeMap<String, External>,
    /// `[models.*]`.
    pub models: BTreeMap<String, External>,
    /// `[axes.*]` in the order of the file.
    pub axes: Vec<AxisInfo>,
    /// Names of the ablations and combinations in the order of the file.
    pub ablations: Vec<String>,
    /// The points: for each combination of axis values the base, then its ablations.
    pub points: Vec<Point>,
    /// `[comparisons.*]` in the order of the file.
    pub comparisons: Vec<ComparisonSpec>,
    /// `[tables.*]` in the order of the file.
    pub tables: Vec<TableSpec>,
    /// What is unusual but no mistake.
    pub notes: Vec<Diagnostic>,
}

/// Kinds of failure of a step, for retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A file could not be read or written, in the store or outside.
    Io,
    /// The stage says that an input, a setting or a result is wrong, or that a program failed.
    Stage,
    /// A mistake in soctok.
    Panic,
}

/// `[run]`: how to run, which changes no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSettings {
    /// The store's folder.
    pub store: PathBuf,
    /// `cpu`, `cuda:0`, `tch:cpu`, `tch:cuda:0` or `auto`.
    pub device: String,
    /// Steps at once.
    pub jobs: usize,
    /// Bytes that steps may use; `None`: what the device has.
    pub memory: Option<u64>,
    /// Whether steps that do not need a failed one still run.
    pub keep_going: bool,
    /// How often a failed step is tried again.
    pub retries: u32,
    /// For which causes.
    pub retry_on: Vec<Cause>,
    /// Time between two checkpoints of a training step.
    pub checkpoint_interval: Duration,
    /// Stages to reach; empty: the sinks of the graph.
    pub targets: Vec<String>,
}

/// Data or a model from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// The artifact kind that it serves as, when the file says so (`projector`, `judgments`, …).
    pub kind: Option<String>,
    /// Where it comes from.
    pub source: Source,
}

/// Where external data or a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or folder, relative to the working folder.
    Path(PathBuf),
    /// A repository of the Hugging Face hub.
    Hub {
        /// `owner/name`.
        repository: String,
        /// A commit or branch.
        revision: Option<String>,
    },
}

/// An axis and its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AxisInfo {
    /// Name of the axis.
    pub name: String,
    /// Labels of its values in the order of the file.
    pub labels: Vec<String>,
    /// The fields that it sets, as `stage.field`.
    pub binds: Vec<String>,
}

/// One combination of axis values and at most one ablation.
#[derive(Clone, Debug)]
pub struct Point {
    /// Axis → label; a base and its ablations share them.
    pub coordinates: Arc<BTreeMap<String, String>>,
    /// The ablation or named combination; `None` is the base.
    pub ablation: Option<String>,
    /// The stages that the targets reach.
    pub stages: BTreeMap<Arc<str>, Arc<Node>>,
    /// The stages that this point must reach.
    pub targets: Arc<[Arc<str>]>,
    /// Set when a rule says that this cell does not exist.
    pub not_applicable: Option<NotApplicable>,
}

/// Why a point does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotApplicable {
    /// Name of the rule.
    pub rule: String,
    /// Its sentence.
    pub sentence: String,
}

/// A stage of a point, resolved. Points share a node while neither its settings nor anything upstream differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The stage kind.
    pub kind: &'static str,
    /// Normalised settings, every default filled in, references included.
    pub settings: Arc<Settings>,
    /// The references that are left after normalisation, by field.
    pub inputs: LiteMap<String, Reference>,
}

/// Points chosen by axis labels: axis or `ablation` → labels (`base` is no ablation).
pub type Selection = BTreeMap<String, Vec<String>>;

/// `[comparisons.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparisonSpec {
    /// Its name.
    pub name: String,
    /// The kind of comparison (`scores` unless given).
    pub kind: String,
    /// (stage, column).
    pub of: (String, String),
    /// Everything else.
    pub settings: Settings,
}

/// `[tables.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSpec {
    /// Its name.
    pub name: String,
    /// (stage or comparison, figure); several stand side by side.
    pub value: Vec<(String, String)>,
    /// Axes (or `ablation`) that make the rows.
    pub rows: Vec<String>,
    /// Axes (or `ablation`) that make the columns.
    pub columns: Vec<String>,
    /// Axes that are averaged over.
    pub over: Vec<String>,
    /// Which points it shows.
    pub r#where: Selection,
    /// Published values beside the cells.
    pub published: BTreeMap<String, Published>,
}

/// `[tables.NAME.published.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The cell.
    pub r#where: Selection,
    /// Which of the table's figures it is: a place in [`TableSpec::value`].
    pub figure: usize,
    /// The published value.
    pub value: f64,
    /// How far our value may be off; `None` makes it no check.
    pub tolerance: Option<f64>,
    /// Where it was published.
    pub source: Option<String>,
    /// What the number is worth.
    pub note: Option<String>,
}

#[cfg(test)]
mod tests;
