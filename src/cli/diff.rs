//! `soctok diff RUN RUN`: what differs between two runs in settings, inputs and figures.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Failure;
use crate::report::render::{Format, Grid, figure};
use crate::store::{Store, read_json};

/// Prints the differences of two runs, named by (the beginning of) their hash or by their link under `runs/by-name`.
pub fn run(store: &Store, one: &str, other: &str, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let results: Vec<Value> = [one, other]
        .iter()
        .map(|run| Ok(read_json(&find(store, run)?.join("results.json"))?))
        .collect::<Result<_, Failure>>()?;
    let stages: BTreeSet<&String> =
        results.iter().filter_map(|run| run["stages"].as_object()).flat_map(|stages| stages.keys()).collect();
    let mut rows = Vec::new();
    for stage in stages {
        let sides: Vec<&Value> = results.iter().map(|run| &run["stages"][stage]).collect();
        let identities: Vec<Value> = sides.iter().map(|side| identity(store, side)).collect::<Result<_, _>>()?;
        for what in ["kind", "version"] {
            let (before, after) = (&identities[0][what], &identities[1][what]);
            if before != after {
                rows.push([what.to_owned(), stage.clone(), shown(Some(before)), shown(Some(after))]);
            }
        }
        for (what, key) in [("setting", "settings"), ("input", "inputs")] {
            differing(&identities[0][key], &identities[1][key], |name, before, after| {
                rows.push([what.to_owned(), format!("{stage}.{name}"), shown(before), shown(after)]);
            });
        }
        differing(&sides[0]["figures"], &sides[1]["figures"], |name, before, after| {
            rows.push(["figure".to_owned(), format!("{stage}.{name}"), shown(before), shown(after)]);
        });
    }
    if json {
        let listed: Vec<Value> = rows
            .iter()
            .map(|[what, name, before, after]| json!({ "what": what, "name": name, "first": before, "second": after }))
            .collect();
        writeln!(out, "{:#}", json!(listed))?;
        return Ok(());
    }
    if rows.is_empty() {
        writeln!(out, "no difference")?;
        return Ok(());
    }
    let header = ["what", "name", one, other].map(str::to_owned).to_vec();
    let rows = rows.into_iter().map(Vec::from).collect();
    Ok(Grid { header, rows, labels: 2, ..Grid::default() }.write(Format::Text, out)?)
}

/// The folder of a run.
pub(super) fn find(store: &Store, run: &str) -> Result<PathBuf, Failure> {
    let runs = store.root().join("runs");
    let by_name = runs.join("by-name").join(run);
    if by_name.join("results.json").is_file() {
        return Ok(by_name);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(run) && entry.path().join("results.json").is_file() {
            found.push(entry.path());
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => {
            let hint = "`soctok results FILE` lists the runs; a link under runs/by-name is taken too, and `--store` names the store";
            Err(Failure::Usage(format!("no run `{run}` in `{}`\nhint: {hint}", store.root().display())))
        }
        (Some(_), false) => {
            Err(Failure::Usage(format!("several runs begin with `{run}`\nhint: give more of the hash")))
        }
    }
}

/// The canonical input of a stage's step, with the keys of upstream steps left out: they differ when anything does.
fn identity(store: &Store, stage: &Value) -> Result<Value, Failure> {
    // A stage that only the other run has.
    let Some(artifact) = stage["artifact"].as_str() else { return Ok(Value::Null) };
    let record: Value = read_json(&store.root().join(artifact).join("step.json")).map_err(|error| {
        Failure::Usage(format!("the artifact of a run is gone: {error}\nhint: run its experiment again, then compare"))
    })?;
    let mut identity = record["identity"].clone();
    if let Some(inputs) = identity.get_mut("inputs").and_then(Value::as_object_mut) {
        inputs.retain(|_, input| input.get("content").is_some());
    }
    Ok(identity)
}

fn differing(one: &Value, other: &Value, mut row: impl FnMut(&str, Option<&Value>, Option<&Value>)) {
    let empty = serde_json::Map::new();
    let (one, other) = (one.as_object().unwrap_or(&empty), other.as_object().unwrap_or(&empty));
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for name in names {
        if one.get(name) != other.get(name) {
            row(name, one.get(name), other.get(name));
        }
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "–".into(),
        Some(Value::Object(map)) if map.contains_key("content") => {
            map["content"].as_str().map_or_else(String::new, |digest| digest.chars().take(12).collect())
        }
        Some(value) => figure(value),
    }
}
