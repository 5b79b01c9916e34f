//! `soctok export` and `soctok import`: runs in one file that replays from another store.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Failure, diff};
use crate::execute::archive::{self, Contents, Imported, Selection};
use crate::execute::files;
use crate::store::hub::LOCK_FILE;
use crate::store::{Store, read_json};

/// Writes the runs into one archive. Each of `names` is a run hash, a name under `runs/by-name`, or an experiment: all its
/// runs and comparisons.
pub fn export(
    store: &Store,
    names: &[String],
    output: Option<&Path>,
    artifacts: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let selection = selection(store, names)?;
    let path = match output {
        Some(path) => path.to_owned(),
        None => PathBuf::from(format!("{}.zip", names[0].replace(['/', '\\'], "-"))),
    };
    if path.exists() {
        let text = format!("`{}` exists already\nhint: name another file with `-o FILE`", path.display());
        return Err(Failure::Usage(text));
    }
    let lock = Path::new(LOCK_FILE);
    let contents = archive::export(store, &selection, artifacts, lock.is_file().then_some(lock), &path)?;
    let bytes = std::fs::metadata(&path)?.len();
    if json {
        let facts = json!({ "archive": path, "bytes": bytes, "runs": contents.runs, "steps": contents.steps });
        return Ok(writeln!(out, "{facts:#}")?);
    }
    let (runs, steps) = (contents.runs.len(), contents.steps.len());
    let what = if artifacts { "artifacts" } else { "records of steps" };
    writeln!(out, "{}: {runs} runs, {steps} {what}, {:.1} MB", path.display(), bytes as f64 / 1e6)?;
    Ok(())
}

fn selection(store: &Store, names: &[String]) -> Result<Selection, Failure> {
    let mut selection = Selection::default();
    let by_name = links(store)?;
    for name in names {
        let of_experiment = |link: &&String| link.split_once('/').is_some_and(|(experiment, _)| experiment == name);
        let links: Vec<&String> = by_name.keys().filter(of_experiment).collect();
        if links.is_empty() {
            let results: Value = read_json(&diff::find(store, name)?.join("results.json"))?;
            selection.runs.extend(results["run"].as_str().map(str::to_owned));
        } else {
            selection.runs.extend(links.iter().map(|link| by_name[*link].clone()));
            selection.experiments.insert(name.clone());
        }
    }
    selection.links = by_name.into_iter().filter(|(_, run)| selection.runs.contains(run)).collect();
    Ok(selection)
}

/// `experiment/label` → run hash, for every link for people that leads to a run.
fn links(store: &Store) -> Result<BTreeMap<String, String>, Failure> {
    let by_name = store.root().join("runs/by-name");
    let mut found = BTreeMap::new();
    for experiment in std::fs::read_dir(&by_name).into_iter().flatten() {
        let experiment = experiment?;
        for link in std::fs::read_dir(experiment.path()).into_iter().flatten() {
            let link = link?;
            let Ok(target) = std::fs::read_link(link.path()) else { continue };
            let run = target.file_name().map(|run| run.to_string_lossy().into_owned()).unwrap_or_default();
            if link.path().join("results.json").is_file() {
                let (experiment, link) = (experiment.file_name(), link.file_name());
                found.insert(format!("{}/{}", experiment.to_string_lossy(), link.to_string_lossy()), run);
            }
        }
    }
    Ok(found)
}

/// Reads an archive into a store and says how to go on.
pub fn import(store: &Store, path: &Path, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if !path.is_file() {
        let text = format!("no archive `{}`\nhint: give the file that `soctok export` wrote", path.display());
        return Err(Failure::Usage(text));
    }
    let (contents, imported, lock) = archive::import(store, path)?;
    let lock = lock.map(|text| keep_lock(&text)).transpose()?;
    if json {
        let facts = json!({
            "runs": contents.runs, "steps": contents.steps,
            "new_runs": imported.runs, "new_steps": imported.steps,
            "experiments": experiments(store, &contents),
        });
        writeln!(out, "{facts:#}")?;
    } else {
        report(store, &contents, imported, out)?;
    }
    if let Some(note) = lock {
        super::say(&note);
    }
    Ok(())
}

fn report(store: &Store, contents: &Contents, imported: Imported, out: &mut dyn Write) -> Result<(), Failure> {
    let root = store.root().display();
    writeln!(
        out,
        "{root}: {} runs ({} new), {} artifacts ({} new)",
        contents.runs.len(),
        imported.runs,
        contents.steps.len(),
        imported.steps,
    )?;
    let experiments = experiments(store, contents);
    for file in experiments.values() {
        writeln!(out, "replay with: soctok run {} --store {root}", file.display())?;
    }
    // An archive of one that kept no experiment files.
    if let Some(run) = contents.runs.first().filter(|_| experiments.is_empty()) {
        writeln!(out, "replay with: soctok run {root}/runs/{run}/experiment.toml --store {root}")?;
    }
    Ok(())
}

/// Experiment → its file in the store: by its name, or by its digest where another stands under the name.
fn experiments(store: &Store, contents: &Contents) -> BTreeMap<String, PathBuf> {
    let file = |(name, digest): (&String, &String)| {
        let is_last = files::last(store, name).as_ref() == Some(digest);
        (name.clone(), if is_last { files::link(store, name) } else { files::path(store, digest) })
    };
    contents.experiments.iter().map(file).collect()
}

/// The commits of hub models belong to the working folder: written there if it has none, left alone otherwise.
fn keep_lock(text: &str) -> Result<String, Failure> {
    let path = Path::new(LOCK_FILE);
    match std::fs::read_to_string(path) {
        Ok(here) if here == text => Ok(format!("`{}` is the archive's", LOCK_FILE)),
        Ok(_) => Ok(format!(
            "note: `{}` differs from the archive's and was kept; unpack the archive to compare the commits of hub models",
            LOCK_FILE
        )),
        Err(_) => {
            std::fs::write(path, text)?;
            Ok(format!("`{}` was written: the commits of the hub models", LOCK_FILE))
        }
    }
}
