//! `soctok table`: the tables of an experiment from results that are there, and what its comparisons say in words.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::{Failure, store, told};
use crate::experiment::Experiment;
use crate::plan::{self, Plan, Reading};
use crate::report::render::{Format, latex_escaped};
use crate::report::table::{self, Figures, grid};
use crate::stages::Kind;
use crate::store::Store;

/// Prints the tables named, or all.
pub fn run(
    experiment: &Experiment,
    kinds: &[Kind],
    names: &[String],
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let store = store(experiment);
    let plan = plan::plan(experiment, kinds, &store, Reading::AtMost(u64::MAX))?;
    write(experiment, &plan, &store, names, format, out)
}

/// Writes the tables named, or all, one after another. A table that cannot be made keeps no other from being shown.
pub fn write(
    experiment: &Experiment,
    plan: &Plan<'_>,
    store: &Store,
    names: &[String],
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let known: Vec<&str> = experiment.tables.iter().map(|spec| spec.name.as_str()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        let text = format!("no table `{unknown}` in the file\nhint: it has {}", known.join(", "));
        return Err(Failure::Usage(text));
    }
    let mut figures = Figures::new(store);
    let mut broken = Vec::new();
    let mut written = 0;
    for spec in experiment.tables.iter().filter(|spec| names.is_empty() || names.contains(&spec.name)) {
        let grid = match grid(experiment, plan, spec, &mut figures, format) {
            Ok(grid) => grid,
            Err(error) => {
                broken.push(error);
                continue;
            }
        };
        if written > 0 && format != Format::Json {
            writeln!(out)?;
        }
        grid.write(format, out)?;
        written += 1;
    }
    if names.is_empty() {
        verdicts(experiment, plan, &mut figures, format, out)?;
    }
    // What could be made stands before what is wrong with the rest.
    out.flush()?;
    told(broken)
}

/// Writes what every comparison says, in words; CSV has no place for words.
pub fn verdicts(
    experiment: &Experiment,
    plan: &Plan<'_>,
    figures: &mut Figures<'_>,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let found = table::verdicts(experiment, plan, figures)?;
    if found.is_empty() || format == Format::Csv {
        return Ok(());
    }
    match format {
        Format::Json => {
            let by_name: Map<String, Value> = found.into_iter().map(|(name, text)| (name, text.into())).collect();
            writeln!(out, "{:#}", json!({ "verdicts": by_name }))?;
        }
        Format::Markdown => found.iter().try_for_each(|(name, text)| writeln!(out, "\n**{name}**: {text}"))?,
        Format::Latex => found.iter().try_for_each(|(name, text)| {
            writeln!(out, "\n\\par\\noindent\\textbf{{{}}}: {}", latex_escaped(name), latex_escaped(text))
        })?,
        Format::Text | Format::Csv => {
            writeln!(out, "\nverdicts")?;
            found.iter().try_for_each(|(name, text)| writeln!(out, "{name}: {text}"))?;
        }
    }
    Ok(())
}
