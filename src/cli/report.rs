//! `soctok report`: one HTML page of an experiment that needs nothing beside itself.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::{Failure, plot::unwritable, store, told};
use crate::experiment::Experiment;
use crate::plan::{self, Reading};
use crate::report::page;
use crate::stages::Kind;

/// Writes the page to `file` and prints where. A table or plot that cannot be made keeps no other from being in it.
pub fn run(
    experiment: &Experiment,
    kinds: &[Kind],
    file: Option<&Path>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let store = store(experiment);
    let plan = plan::plan(experiment, kinds, &store, Reading::AtMost(u64::MAX))?;
    let page = page::write(experiment, &plan, &store)?;
    let default = format!("{}.html", experiment.name.replace('/', "_"));
    let file = file.unwrap_or(Path::new(&default));
    std::fs::write(file, &page.html).map_err(|error| unwritable(file, &error))?;
    if json {
        let facts = json!({
            "experiment": experiment.name, "file": file, "bytes": page.html.len(),
            "tables": page.tables, "plots": page.plots,
        });
        writeln!(out, "{facts:#}")?;
    } else {
        writeln!(out, "{}", file.display())?;
    }
    out.flush()?;
    told(page.broken)
}
