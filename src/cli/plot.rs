//! `soctok plot`: SVG plots of what has run, each with its data as CSV beside it.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::{Failure, store, told};
use crate::experiment::Experiment;
use crate::plan::{self, Reading};
use crate::report::plot::{Figure, figures};
use crate::stages::Kind;

/// Writes the plots named, or all, into `folder`, and prints their files.
pub fn run(
    experiment: &Experiment,
    kinds: &[Kind],
    names: &[String],
    folder: Option<&Path>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let store = store(experiment);
    let plan = plan::plan(experiment, kinds, &store, Reading::AtMost(u64::MAX))?;
    let (found, broken) = figures(experiment, &plan, &store);
    if found.is_empty() && !broken.is_empty() {
        return told(broken);
    }
    if found.is_empty() {
        return Err(Failure::Usage(format!(
            "nothing of `{}` has run that can be plotted\nhint: `soctok run {}`",
            experiment.name,
            experiment.path.display()
        )));
    }
    let known: Vec<&str> = found.iter().map(|figure| figure.name.as_str()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        told(broken)?;
        let text = format!("no plot `{unknown}`\nhint: there are {}", known.join(", "));
        return Err(Failure::Usage(text));
    }
    let chosen: Vec<&Figure> = found.iter().filter(|figure| names.is_empty() || names.contains(&figure.name)).collect();
    let default = Path::new("plots").join(experiment.name.replace('/', "_"));
    let folder = folder.unwrap_or(&default);
    std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    let mut facts = Vec::new();
    for figure in chosen {
        let (svg, data) = (folder.join(format!("{}.svg", figure.name)), folder.join(format!("{}.csv", figure.name)));
        for (path, text) in [(&svg, &figure.svg), (&data, &figure.data)] {
            std::fs::write(path, text).map_err(|error| unwritable(path, &error))?;
        }
        if !json {
            writeln!(out, "{}", svg.display())?;
        }
        facts.push(json!({
            "name": figure.name, "title": figure.title, "caption": figure.caption, "svg": svg, "csv": data,
        }));
    }
    if json {
        writeln!(out, "{:#}", json!({ "experiment": experiment.name, "plots": facts }))?;
    }
    out.flush()?;
    told(broken)
}

/// A file that was asked for and cannot be written.
pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("`{}`: {error}\nhint: name another place with `-o`", path.display()))
}
