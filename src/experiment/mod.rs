//! The experiment: one TOML file as written, checked, and resolved to points.
//!
//! The file and everything above it (protocol, base files, profile, environment, `--set`) are merged with the origin of
//! each value kept, checked against the schemas of the stage kinds, and resolved: every point has its stages with all
//! settings filled in. Nothing here knows keys, the store or how a stage runs.

mod diagnostic;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::stages::kind::Settings;
pub use diagnostic::{Diagnostic, Diagnostics, Location, Severity};

use crate::stages::Reference;

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

/// `[run]`: how to run, which changes no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSettings {
    /// The store's folder.
    pub store: PathBuf,
    /// `cpu`, `cuda:0`, `tch:cpu`, `tch:cuda:0` or `auto`.
    pub device: String,
    /// Steps at once.
    pub jobs: usize,
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
    /// Axis → label.
    pub coordinates: BTreeMap<String, String>,
    /// The ablation or named combination; `None` is the base.
    pub ablation: Option<String>,
    /// The stages that the targets reach.
    pub stages: BTreeMap<String, Arc<Node>>,
    /// The stages that this point must reach.
    pub targets: Vec<String>,
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
    pub settings: Settings,
    /// The references that are left after normalisation, by field.
    pub inputs: BTreeMap<String, Reference>,
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
    /// The published value.
    pub value: f64,
    /// How far our value may be off; `None` makes it no check.
    pub tolerance: Option<f64>,
    /// Where it was published.
    pub source: Option<String>,
}
