//! `soctok reproduce`: our figures held against the published values of the file.
//!
//! Ends with 0 when all that has a tolerance lies within it, with 3 when a figure lies outside, and with 1 when none lies
//! outside but some could not be compared: nothing was reproduced of them.

use std::io::Write;

use serde_json::json;

use super::{Failure, run, store};
use crate::experiment::Experiment;
use crate::plan::{self, Reading};
use crate::report::render::Format;
use crate::report::reproduce::{Check, Verdict, checks, grid};
use crate::report::table::Figures;
use crate::stages::Kind;

/// Runs what is missing (unless `check`), then compares.
pub fn run(
    experiment: &Experiment,
    kinds: &[Kind],
    check: bool,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if experiment.tables.iter().all(|table| table.published.is_empty()) {
        return Err(Failure::Usage(format!(
            "`{}` names no published value\nhint: give one as `[tables.NAME.published.NAME]` with `where`, `value`, \
             `tolerance`, `source` and `note`",
            experiment.path.display()
        )));
    }
    // A failed step leaves cells missing; the others are still compared.
    let failed = match check {
        true => None,
        false => {
            let ran = run::execute(experiment, kinds, &[])?;
            ran.tell();
            ran.failed().err()
        }
    };
    let store = store(experiment);
    let plan = plan::plan(experiment, kinds, &store, Reading::AtMost(u64::MAX))?;
    let (found, broken) = checks(experiment, &plan, &mut Figures::new(&store));
    let count = |verdict| found.iter().filter(|check| check.verdict == verdict).count();
    let (within, out_of, missing, beside) =
        (count(Verdict::In), count(Verdict::Out), count(Verdict::Missing), count(Verdict::Beside));
    match format {
        Format::Json => writeln!(out, "{:#}", facts(experiment, &found, (within, out_of, missing, beside)))?,
        _ => grid(experiment, &found).write(format, out)?,
    }
    // What could be compared stands before what is wrong with the rest.
    out.flush()?;
    broken.iter().for_each(|error| super::say(&format!("error: {error}")));
    let sentence = format!("{within} in, {out_of} out, {missing} missing, {beside} without a tolerance");
    if out_of > 0 {
        return Err(Failure::Differs(sentence));
    }
    if !broken.is_empty() {
        return Err(Failure::Steps(format!("{sentence}\nhint: mend in the file what is wrong above")));
    }
    if missing > 0 {
        let hint = if check { "`soctok reproduce` without `--check` runs what is missing" } else { "see above why" };
        return Err(Failure::Steps(format!("{sentence}\nhint: {hint}")));
    }
    if let Some(failed) = failed {
        return Err(Failure::Steps(format!("{sentence}, but {failed}")));
    }
    super::say(&sentence);
    Ok(())
}

fn facts(
    experiment: &Experiment,
    checks: &[Check],
    (within, out_of, missing, beside): (usize, usize, usize, usize),
) -> serde_json::Value {
    json!({
        "experiment": experiment.name,
        "in": within, "out": out_of, "missing": missing, "beside": beside,
        "checks": checks,
    })
}
