//! From what the results were made: code, machine, times, inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::parts;

use crate::plan::{Plan, PlannedPoint};
use crate::report::plot::svg::escaped;
use crate::store::{Store, StoreError, read_json};

/// What the records of an experiment's steps and runs say.
#[derive(Debug, Default)]
pub(super) struct Provenance {
    /// Fact → the values that steps have for it, and how many steps.
    facts: BTreeMap<&'static str, BTreeMap<String, usize>>,
    commits: BTreeSet<String>,
    /// Uncommitted changes, each once.
    changes: BTreeSet<String>,
    /// Stage → (kind, steps, seconds, peak bytes).
    costs: BTreeMap<String, (String, usize, f64, u64)>,
    /// Reference → digests of what was read.
    inputs: BTreeMap<String, BTreeSet<String>>,
    /// First and last time at which a step was finished, seconds of the epoch.
    span: Option<(u64, u64)>,
}

/// Facts of a step's record in the order in which they are shown.
const FACTS: [(&str, &str); 7] = [
    ("soctok", "version"),
    ("build", "binary (BLAKE3)"),
    ("features", "backends built in"),
    ("host", "host"),
    ("cpu", "processor"),
    ("threads", "threads"),
    ("device", "device"),
];

pub(super) fn read(plan: &Plan<'_>, store: &Store) -> Result<Provenance, StoreError> {
    let mut found = Provenance::default();
    for step in &plan.steps {
        let name = step.name();
        if !store.is_done(&name) {
            continue;
        }
        let record = store.record(&name)?;
        for (key, _) in FACTS {
            let value = match key {
                "device" => Some(record.cost.device.clone()),
                _ => text(&record.provenance[key]),
            };
            if let Some(value) = value {
                *found.facts.entry(key).or_default().entry(value).or_default() += 1;
            }
        }
        if let Some(command) = text(&record.provenance["command"]) {
            *found.facts.entry("command").or_default().entry(command).or_default() += 1;
        }
        for stage in &step.stages {
            let cost = found.costs.entry((*stage).to_owned()).or_insert_with(|| (record.kind.clone(), 0, 0.0, 0));
            cost.1 += 1;
            cost.2 += record.cost.seconds;
            cost.3 = cost.3.max(record.cost.peak_memory);
        }
        for input in record.inputs.values().filter(|input| !input.reference.starts_with("stage:")) {
            found.inputs.entry(input.reference.clone()).or_default().insert(input.digest.clone());
        }
        let modified = std::fs::metadata(store.artifact(&name).join("step.json")).and_then(|file| file.modified());
        if let Ok(at) = modified.map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()) {
            let (first, last) = found.span.unwrap_or((at, at));
            found.span = Some((first.min(at), last.max(at)));
        }
    }
    for run in plan.points.iter().filter_map(|planned| planned.run.as_ref()) {
        let path = store.root().join("runs").join(run).join("provenance.json");
        if path.is_file() {
            let facts: Value = read_json(&path)?;
            found.commits.extend(text(&facts["commit"]));
            found.changes.extend(text(&facts["uncommitted"]));
        }
    }
    Ok(found)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => Some(items.iter().filter_map(text).collect::<Vec<_>>().join(" ")),
        other => Some(other.to_string()),
    }
}

impl Provenance {
    /// Whether every step of a point is done.
    pub(super) fn is_complete(&self, planned: &PlannedPoint<'_>, plan: &Plan<'_>, store: &Store) -> bool {
        planned.run.is_some() && planned.steps.values().all(|&step| store.is_done(&plan.steps[step].name()))
    }

    /// `finished 2026-11-23 13:50 UTC`; empty when nothing is.
    pub(super) fn when(&self) -> String {
        self.span.map_or_else(String::new, |(_, last)| format!("finished {}", utc(last)))
    }

    /// The commits that runs were made from.
    pub(super) fn commits(&self) -> Vec<&String> {
        self.commits.iter().collect()
    }

    /// The command lines that steps were made by.
    pub(super) fn commands(&self) -> Vec<String> {
        self.facts.get("command").into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// The section.
    pub(super) fn html(&self) -> String {
        let Some((first, last)) = self.span else { return String::new() };
        let mut terms: Vec<(String, String)> = Vec::new();
        if !self.commits.is_empty() {
            terms.push(("commit".into(), self.commits.iter().cloned().collect::<Vec<_>>().join(", ")));
        }
        for (key, name) in FACTS {
            let Some(values) = self.facts.get(key) else { continue };
            let values = match values.len() {
                1 => values.keys().cloned().collect::<String>(),
                _ => values
                    .iter()
                    .map(|(value, steps)| format!("{value} ({steps} steps)"))
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            terms.push((name.to_owned(), values));
        }
        terms.push(("steps finished".into(), format!("{} to {}", utc(first), utc(last))));
        let mut out = String::from("<dl>\n");
        for (term, value) in terms {
            out += &format!("<dt>{}</dt><dd>{}</dd>\n", escaped(&term), escaped(&value));
        }
        out += "</dl>\n";
        if self.facts.get("device").is_some_and(|devices| devices.len() > 1) {
            out += "<p class=\"missing\">The steps were computed on several devices; their numbers agree within 1e-4.</p>\n";
        }
        let costs = self.costs.iter().map(|(stage, (kind, steps, seconds, memory))| {
            vec![
                stage.clone(),
                kind.clone(),
                steps.to_string(),
                duration(*seconds),
                format!("{:.1} GB", *memory as f64 / 1e9),
            ]
        });
        out += &parts::worded(
            "What it took",
            &["stage or comparison", "kind", "steps", "time", "peak memory of the process"],
            costs,
        );
        if !self.inputs.is_empty() {
            let inputs = self.inputs.iter().map(|(reference, digests)| {
                vec![
                    reference.clone(),
                    digests
                        .iter()
                        .map(|digest| digest.chars().take(16).collect::<String>())
                        .collect::<Vec<_>>()
                        .join(", "),
                ]
            });
            out += &parts::worded("What was read (beginning of the digest)", &["input", "digest"], inputs);
        }
        for change in &self.changes {
            out += &format!(
                "<details>\n<summary>uncommitted changes ({} lines)</summary>\n<pre>{}</pre>\n</details>\n",
                change.lines().count(),
                escaped(change)
            );
        }
        if self.changes.is_empty() && !self.commits.is_empty() {
            out += "<p>No uncommitted changes.</p>\n";
        }
        out
    }
}

fn duration(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs() {
        0..=99 => format!("{seconds:.1} s"),
        whole @ 100..=5999 => format!("{} min", whole / 60),
        whole => format!("{:.1} h", whole as f64 / 3600.0),
    }
}

/// `2026-11-23 13:50 UTC` of seconds of the epoch (days to dates as in Hinnant's `civil_from_days`).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // `date -u -d @…` gives the same.
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_795_442_460), "2026-11-23 14:01 UTC");
        assert_eq!([30.0, 120.0, 9000.0].map(duration), ["30.0 s", "2 min", "2.5 h"]);
    }
}
