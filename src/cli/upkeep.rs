//! `soctok verify` and `soctok gc`: is the store whole, and what in it does nothing reach?

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::Failure;
use crate::experiment::Experiment;
use crate::plan::{self, Reading};
use crate::stages::Kind;
use crate::store::{Store, upkeep::Problem};

/// Compares the bytes of every artifact with its record; a difference is a failure.
pub fn verify(store: &Store, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let steps = store.steps()?;
    let mut damaged = Vec::new();
    for name in steps.iter().filter(|name| store.alias_of(name).is_none()) {
        let problems: Vec<String> = store.verify(name)?.iter().map(Problem::to_string).collect();
        if !problems.is_empty() {
            damaged.push((name, problems));
        }
    }
    if json {
        let listed: Vec<_> =
            damaged.iter().map(|(name, problems)| json!({ "step": name, "problems": problems })).collect();
        writeln!(out, "{:#}", json!({ "steps": steps.len(), "damaged": listed }))?;
    } else {
        for (name, problems) in &damaged {
            writeln!(out, "{name}: {}", problems.join("; "))?;
        }
        writeln!(out, "{} artifacts, {} damaged", steps.len(), damaged.len())?;
    }
    if damaged.is_empty() {
        return Ok(());
    }
    let text =
        "the store has damaged artifacts\nhint: remove their folders under `steps/`; `soctok run` makes them again";
    Err(Failure::Steps(text.into()))
}

/// The profiles of a file, and none: what `gc` keeps is what any of them reaches.
pub fn profiles(file: &Path) -> Vec<Option<String>> {
    let table = std::fs::read_to_string(file).ok().and_then(|text| text.parse::<toml::Table>().ok());
    let names = table.as_ref().and_then(|table| table.get("profiles")?.as_table());
    std::iter::once(None).chain(names.into_iter().flat_map(toml::Table::keys).cloned().map(Some)).collect()
}

/// Lists (or with `delete` removes) the artifacts that none of the experiments reaches.
pub fn collect(
    store: &Store,
    experiments: &[Experiment],
    kinds: &[Kind],
    delete: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut reached = BTreeSet::new();
    for experiment in experiments {
        let plan = plan::plan(experiment, kinds, store, Reading::Everything)?;
        reached.extend(plan.steps.iter().map(crate::plan::Step::name));
    }
    let aliases: Vec<String> = reached.iter().filter_map(|name| store.alias_of(name)).collect();
    reached.extend(aliases);
    let held: BTreeSet<String> = store.under_way()?.into_iter().map(|step| step.name).collect();
    let (mut count, mut total) = (0, 0);
    for name in store.steps()?.into_iter().filter(|name| !reached.contains(name) && !held.contains(name)) {
        let bytes = store.size(&name)?;
        (count, total) = (count + 1, total + bytes);
        writeln!(out, "{:>10.1} MB  {name}", bytes as f64 / 1e6)?;
        if delete {
            store.remove(&name)?;
        }
    }
    let megabytes = total as f64 / 1e6;
    if delete {
        writeln!(out, "{count} artifacts removed, {megabytes:.1} MB")?;
    } else {
        writeln!(
            out,
            "{count} artifacts are reached by none of these experiments, {megabytes:.1} MB; `--delete` removes them"
        )?;
    }
    Ok(())
}
