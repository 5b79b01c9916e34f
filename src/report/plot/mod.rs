//! Plots of what an experiment has found: each an SVG that stands on its own, with its data as CSV of the same name.
//!
//! Which plots there are follows from the kinds of the finished steps; nothing needs to be asked for in the file. The same
//! results give the same bytes.

mod analyses;
pub mod arms;
mod curves;
mod dots;
mod heat;
mod layers;
mod palette;
mod scale;
mod scores;
pub mod svg;
mod training;

pub(crate) use heat::base64;

use std::collections::{BTreeMap, BTreeSet};

use crate::experiment::Experiment;
use crate::plan::{Plan, Work};
use crate::stages::StageError;
use crate::store::{Store, StoreError};

/// A plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name, as of its files: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Its title.
    pub title: String,
    /// What it shows and how it was made, in a sentence or two.
    pub caption: String,
    /// The drawing.
    pub svg: String,
    /// The numbers in it, as CSV.
    pub data: String,
}

/// Why a plot cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// A step's record cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A step's output is not what it should be.
    #[error("{0}")]
    Artifact(#[from] StageError),
}

/// What plots are made of.
struct Sources<'a> {
    experiment: &'a Experiment,
    plan: &'a Plan<'a>,
    store: &'a Store,
}

impl Sources<'_> {
    /// The stages of a kind, sorted by name.
    fn stages(&self, kind: &str) -> Vec<&str> {
        let steps = self.plan.steps.iter().filter(|step| matches!(step.work, Work::Stage { .. }));
        let found: BTreeSet<&str> =
            steps.filter(|step| step.work.kind() == kind).flat_map(|step| step.stages.iter().copied()).collect();
        found.into_iter().collect()
    }

    /// The arms of a stage that have run.
    fn arms(&self, stage: &str) -> Vec<arms::Arm> {
        arms::of(self.experiment, self.plan, self.store, stage)
    }
}

/// Every plot that the finished steps give, in the order: scores, comparisons, similarity, analyses, training. Beside
/// them why others cannot be made: a finished step's outputs cannot be read, which costs all plots of that sort.
pub fn figures(experiment: &Experiment, plan: &Plan<'_>, store: &Store) -> (Vec<Figure>, Vec<PlotError>) {
    let sources = Sources { experiment, plan, store };
    let sorts = [scores::figures, layers::figures, analyses::figures, training::figures];
    let (mut found, mut broken) = (Vec::new(), Vec::new());
    for sort in sorts {
        match sort(&sources) {
            Ok(figures) => found.extend(figures),
            Err(error) => broken.push(error),
        }
    }
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for figure in &mut found {
        figure.name = file_name(&figure.name);
        // Labels that differ in signs only are the same in a file name.
        let count = names.entry(figure.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            figure.name = format!("{}.{count}", figure.name);
        }
    }
    (found, broken)
}

fn file_name(name: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    name.chars().map(|character| if plain(character) { character } else { '_' }).collect()
}

/// CSV of a header and rows.
fn csv_text(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written =
        writer.write_record(header).and_then(|()| rows.into_iter().try_for_each(|row| writer.write_record(row)));
    written.expect("memory takes every record, and all have the length of the header");
    let bytes = writer.into_inner().expect("memory is always flushed");
    String::from_utf8(bytes).expect("records are text")
}

/// A number of a CSV file; empty where it is not finite.
fn cell(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { String::new() }
}
