//! Run folders: what one point was and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::files;
use crate::experiment::{Experiment, External, Point, Settings, Source};
use crate::plan::{Plan, PlannedPoint};
use crate::store::{Store, StoreError, provenance};

/// Writes the folder of every run whose steps are all done and that has none yet, and its links for people. Returns
/// how many runs stand complete.
pub fn write(experiment: &Experiment, plan: &Plan<'_>, store: &Store) -> Result<usize, StoreError> {
    let (mut complete, mut new) = (0, 0);
    let mut facts = None;
    for planned in &plan.points {
        let Some(run) = &planned.run else { continue };
        let folder = store.root().join("runs").join(run);
        if !folder.join("results.json").is_file() {
            if !planned.steps.values().all(|&step| store.is_done(&plan.steps[step].name())) {
                continue;
            }
            std::fs::create_dir_all(&folder).map_err(crate::store::io(&folder))?;
            let text = resolved(experiment, planned.point).map_err(|error| malformed(&folder, &error))?;
            store.write_atomically(&folder.join("experiment.toml"), text.as_bytes())?;
            let facts = facts.get_or_insert_with(|| provenance::run(Path::new(".")));
            let text = serde_json::to_string_pretty(facts).map_err(|error| malformed(&folder, &error))? + "\n";
            store.write_atomically(&folder.join("provenance.json"), text.as_bytes())?;
            if new == 0 {
                // Results name the file: it is there before them.
                files::keep(store, &experiment.written)?;
            }
            let results = results(experiment, plan, planned, run, store)?;
            let text = serde_json::to_string_pretty(&results).map_err(|error| malformed(&folder, &error))? + "\n";
            // Last: a run with results is complete.
            store.write_atomically(&folder.join("results.json"), text.as_bytes())?;
            new += 1;
        }
        link(experiment, planned, run, store)?;
        complete += 1;
    }
    if complete > 0 {
        files::keep_as_run(store, experiment, new > 0)?;
    }
    let compared: BTreeMap<&str, String> = plan
        .comparisons
        .iter()
        .map(|(name, &step)| (*name, plan.steps[step].name()))
        .filter(|(_, step)| store.is_done(step))
        .map(|(name, step)| (name, format!("steps/{step}")))
        .collect();
    if !compared.is_empty() {
        let folder = by_name(experiment, store);
        std::fs::create_dir_all(&folder).map_err(crate::store::io(&folder))?;
        let text = serde_json::to_string_pretty(&compared).map_err(|error| malformed(&folder, &error))? + "\n";
        let path = folder.join("comparisons.json");
        if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
            return Ok(complete);
        }
        store.write_atomically(&path, text.as_bytes())?;
    }
    Ok(complete)
}

/// The folder of the links for people of an experiment, and of `comparisons.json` (comparison → artifact).
pub fn by_name(experiment: &Experiment, store: &Store) -> PathBuf {
    store.root().join("runs/by-name").join(experiment.name.replace('/', "_"))
}

/// A name for people: `inject=full,seed=0,wrong_clip`; `base` for the only point of an experiment without axes.
pub fn label(point: &Point) -> String {
    let axis = |(axis, label): (&String, &String)| format!("{}={}", encoded(axis, "="), encoded(label, ""));
    let mut parts: Vec<String> = point.coordinates.iter().map(axis).collect();
    // Alone it could be called like another file of the folder, or like the folder.
    let alone = if parts.is_empty() { "." } else { "" };
    parts.extend(point.ablation.as_ref().map(|ablation| encoded(ablation, alone)));
    let text = if parts.is_empty() { "base".into() } else { parts.join(",") };
    // A file name has 255 bytes at most.
    if text.len() <= 200 {
        return text;
    }
    let kept = (0..=180).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}…{}", &text[..kept], &blake3::hash(text.as_bytes()).to_hex()[..12])
}

/// A part of a link's name. What a file name cannot have, what a terminal would obey, what stands between parts, `%` and
/// what is in `more` become `%` and the hexadecimal code of each byte, so that two points never have one name.
fn encoded(text: &str, more: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if letter.is_control() || "/%,".contains(letter) || more.contains(letter) {
            letter.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| out += &format!("%{byte:02X}"));
        } else {
            out.push(letter);
        }
    }
    out
}

fn link(experiment: &Experiment, planned: &PlannedPoint<'_>, run: &str, store: &Store) -> Result<(), StoreError> {
    let folder = by_name(experiment, store);
    let link = folder.join(label(planned.point));
    let target = Path::new("../..").join(run);
    if std::fs::read_link(&link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    std::fs::create_dir_all(&folder).map_err(crate::store::io(&folder))?;
    store.link_atomically(&target, &link)
}

fn results(
    experiment: &Experiment,
    plan: &Plan<'_>,
    planned: &PlannedPoint<'_>,
    run: &str,
    store: &Store,
) -> Result<Value, StoreError> {
    let mut stages = Map::new();
    for (stage, &step) in &planned.steps {
        let name = plan.steps[step].name();
        let record = store.record(&name)?;
        stages.insert(
            (*stage).to_owned(),
            json!({
                "kind": record.kind,
                "key": record.key,
                "artifact": format!("steps/{name}"),
                "output_digest": record.output_digest,
                "device": record.cost.device,
                "seconds": record.cost.seconds,
                "figures": store.summary(&name)?,
            }),
        );
    }
    Ok(json!({
        "run": run,
        "experiment": experiment.name,
        "experiment_file": files::digest(experiment),
        "protocol": experiment.protocol,
        "coordinates": *planned.point.coordinates,
        "ablation": planned.point.ablation,
        "stages": stages,
    }))
}

fn malformed(folder: &Path, error: &dyn std::fmt::Display) -> StoreError {
    crate::store::io(folder)(std::io::Error::other(error.to_string()))
}

/// The point as an experiment file of its own: every setting written out, no axes, only the data and models it reads.
fn resolved(experiment: &Experiment, point: &Point) -> Result<String, toml::ser::Error> {
    let references: BTreeSet<&str> =
        point.stages.values().flat_map(|node| node.inputs.values()).map(|reference| reference.0.as_str()).collect();
    let externals = |space: &str, table: &BTreeMap<String, External>| -> Map<String, Value> {
        let used = table.iter().filter(|(name, _)| references.contains(format!("{space}:{name}").as_str()));
        let entries = used.map(|(name, external)| {
            let mut value = match &external.source {
                Source::Path(path) => json!({ "path": path }),
                Source::Hub { repository, revision } => json!({ "hub": repository, "revision": revision }),
            };
            value["kind"] = external.kind.clone().into();
            (name.clone(), value)
        });
        entries.collect()
    };
    let stages: Map<String, Value> = point
        .stages
        .iter()
        .map(|(name, node)| {
            let mut settings = Settings::clone(&node.settings);
            settings.insert("kind".into(), node.kind.into());
            (name.to_string(), Value::Object(settings))
        })
        .collect();
    // A name has letters, digits and `-_.` only, and 200 of them at most.
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '-' };
    let name: String = format!("{}-{}", experiment.name, label(point)).chars().take(200).map(plain).collect();
    let file = json!({
        "name": name,
        "protocol": experiment.protocol,
        "data": externals("data", &experiment.data),
        "models": externals("model", &experiment.models),
        "stages": stages,
    });
    // TOML has no null: a setting that is not set is left out.
    toml::to_string(&toml::Table::try_from(without_null(file))?)
}

fn without_null(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_null(v))).collect()
        }
        Value::Array(values) => values.into_iter().map(without_null).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_file_name_of_its_own_whatever_the_values_are() {
        let label = |axes: &[(&str, &str)], ablation: Option<&str>| {
            label(&Point {
                coordinates: axes
                    .iter()
                    .map(|(axis, value)| ((*axis).to_owned(), (*value).to_owned()))
                    .collect::<BTreeMap<_, _>>()
                    .into(),
                ablation: ablation.map(str::to_owned),
                stages: BTreeMap::new(),
                targets: [].into(),
                not_applicable: None,
            })
        };
        let one = |value: &str| label(&[("v", value)], Some("wrong"));
        assert_eq!(one("a b·c=1.5"), "v=a b·c=1.5,wrong");
        assert_eq!(one("a/b\0c\nd"), "v=a%2Fb%00c%0Ad,wrong");
        assert_eq!((one("%2F"), one("\u{9b}1m")), ("v=%252F,wrong".to_owned(), "v=%C2%9B1m,wrong".to_owned()));
        let names = [
            label(&[("a", "1,b=2"), ("b", "3")], None),
            label(&[("a", "1"), ("b", "2,b=3")], None),
            label(&[("a", "1"), ("b", "2")], Some("b=3")),
            label(&[("a", "1"), ("b", "2,b=3")], None),
            label(&[("a=1", "2")], None),
            label(&[("a", "1=2")], None),
        ];
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len() - 1, "{names:?}");
        assert_eq!(label(&[], Some("..")), "%2E%2E");
        assert_eq!(label(&[], Some(files::LINK)), "experiment%2Etoml");
        let long = one(&"é".repeat(300));
        assert!(long.len() < 255 && long != one(&"é".repeat(301)), "{long}");
    }
}
