//! The resolved file with the origin of each value, which fields each axis binds and which it does not.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::document::{Entry, Item, ItemValue, Report, Span, Table};
use super::graph::{Graph, section};
use super::{AxisInfo, Diagnostics, Experiment, LoadOptions, Severity, read};
use crate::stages::Kind;

/// Sections in the order in which they are shown.
const SECTIONS: &[&str] = &["run", "data", "models", "stages", "axes", "exclude", "ablations", "comparisons", "tables"];

/// Tables (section, key) that are shown under a header of their own instead of in one line.
const SPREAD: &[(&str, &str)] = &[("tables", "published"), ("axes", "values")];

/// A resolved experiment for people and for programs.
pub struct Shown {
    /// TOML that loads to the same points.
    pub toml: String,
    /// The same facts.
    pub json: Value,
}

/// Loads an experiment and shows it.
pub fn show(path: &Path, options: &LoadOptions, kinds: &[Kind]) -> Result<Shown, Diagnostics> {
    let mut report = Report::default();
    match read(&mut report, path, options, kinds) {
        Some((merged, experiment)) if !report.has_errors() => {
            let graph = Graph::read(&mut report, &merged, kinds);
            Ok(Showing { report: &report, merged: &merged, experiment: &experiment, graph: &graph }.shown())
        }
        _ => Err(report.of(Severity::Error)),
    }
}

struct Showing<'a> {
    report: &'a Report,
    merged: &'a Table,
    experiment: &'a Experiment,
    graph: &'a Graph<'a>,
}

/// `key = value` and a remark.
struct Line {
    key: String,
    value: Value,
    origin: String,
    /// Shown as a comment: it is no setting of the file.
    is_comment: bool,
}

impl Showing<'_> {
    fn shown(&self) -> Shown {
        let mut toml = String::new();
        let mut json = Map::new();
        let protocol = json!(self.experiment.protocol);
        let default = Line { key: "protocol".into(), value: protocol, origin: "built-in".into(), is_comment: false };
        let mut top: Vec<Line> = Vec::new();
        top.extend(self.merged.entry("name").map(|entry| self.line(entry)));
        top.push(self.merged.entry("protocol").map_or(default, |entry| self.line(entry)));
        write_lines(&mut toml, &top);
        for line in &top {
            json.insert(line.key.clone(), line.json());
        }
        for section_name in SECTIONS {
            let mut shown = Map::new();
            if *section_name == "run" {
                let lines = self.run_lines();
                write_header(&mut toml, &["run"]);
                write_lines(&mut toml, &lines);
                shown.extend(lines.iter().map(|line| (line.key.clone(), line.json())));
            }
            for entry in section(self.merged, section_name).filter(|_| *section_name != "run") {
                let Some(table) = entry.item.table() else { continue };
                write_header(&mut toml, &[section_name, &entry.key]);
                let mut lines = self.lines(section_name, table);
                if *section_name == "stages" {
                    self.defaults(&entry.key, &mut lines);
                }
                let mut fields: Map<String, Value> = lines.iter().map(|line| (line.key.clone(), line.json())).collect();
                if let Some(axis) =
                    self.experiment.axes.iter().find(|axis| *section_name == "axes" && axis.name == entry.key)
                {
                    let apart = self.same_named(axis);
                    let _ = writeln!(toml, "# binds {}", axis.binds.join(", "));
                    if !apart.is_empty() {
                        let _ = writeln!(toml, "# does not bind {}", apart.join(", "));
                    }
                    fields.insert("binds".into(), json!(axis.binds));
                    fields.insert("same_named".into(), json!(apart));
                }
                write_lines(&mut toml, &lines);
                for inner in table.entries.iter().filter(|inner| is_spread(section_name, inner)) {
                    let mut spread = Map::new();
                    for row in inner.item.table().into_iter().flat_map(|table| &table.entries) {
                        let Some(table) = row.item.table() else { continue };
                        write_header(&mut toml, &[section_name, &entry.key, &inner.key, &row.key]);
                        let lines: Vec<Line> = table.entries.iter().map(|entry| self.line(entry)).collect();
                        write_lines(&mut toml, &lines);
                        let each = lines.iter().map(|line| (line.key.clone(), line.json())).collect();
                        spread.insert(row.key.clone(), Value::Object(each));
                    }
                    if inner.item.table().is_some() {
                        fields.insert(inner.key.clone(), Value::Object(spread));
                    }
                }
                shown.insert(entry.key.clone(), Value::Object(fields));
            }
            if !shown.is_empty() {
                json.insert((*section_name).to_owned(), Value::Object(shown));
            }
        }
        Shown { toml, json: Value::Object(json) }
    }

    fn line(&self, entry: &Entry) -> Line {
        Line {
            key: entry.key.clone(),
            value: entry.item.plain(),
            origin: self.origin(first_value(entry)),
            is_comment: false,
        }
    }

    fn lines(&self, section: &str, table: &Table) -> Vec<Line> {
        let whole = table.entries.iter().filter(|entry| !is_spread(section, entry));
        whole.map(|entry| self.line(entry)).collect()
    }

    fn run_lines(&self) -> Vec<Line> {
        let written = self.merged.get("run").and_then(Item::table);
        let run = &self.experiment.run;
        let mut fields = vec![
            ("store", json!(run.store.to_string_lossy())),
            ("device", json!(run.device)),
            ("jobs", json!(run.jobs)),
            ("checkpoint_seconds", json!(run.checkpoint_interval.as_secs_f64())),
        ];
        if !run.targets.is_empty() {
            fields.push(("targets", json!(run.targets)));
        }
        let line = |(key, value): (&str, Value)| match written.and_then(|table| table.entry(key)) {
            Some(entry) => self.line(entry),
            None => Line { key: key.to_owned(), value, origin: "built-in".to_owned(), is_comment: false },
        };
        fields.into_iter().map(line).collect()
    }

    /// Adds the built-in defaults of a stage's kind, and what the stage takes over from upstream.
    fn defaults(&self, stage: &str, lines: &mut Vec<Line>) {
        let Some(kind) = self.graph.stage(stage).and_then(|index| self.graph.stages[index].kind) else { return };
        let point = self.experiment.points.iter().find(|point| {
            point.ablation.is_none() && point.not_applicable.is_none() && point.stages.contains_key(stage)
        });
        let bound = |field: &str| {
            let name = format!("{stage}.{field}");
            self.experiment.axes.iter().any(|axis| axis.binds.contains(&name))
        };
        for (field, schema) in kind.fields() {
            if lines.iter().any(|line| line.key == field) {
                continue;
            }
            let default = schema.get("default").cloned().unwrap_or(Value::Null);
            let inherited =
                point.and_then(|point| point.stages[stage].settings.get(field)).cloned().unwrap_or(Value::Null);
            let leads_nowhere = match (kind.accepts(field), default.as_str()) {
                (Some(accepts), Some(text)) => self.graph.follow(text, &accepts).is_err(),
                _ => false,
            };
            let (value, origin, is_comment) = match (default, bound(field)) {
                (Value::Null, false) if !inherited.is_null() => (inherited, "inherited".to_owned(), true),
                (Value::Null, _) => continue,
                (default, _) => (default, "built-in".to_owned(), leads_nowhere),
            };
            lines.push(Line { key: field.to_owned(), value, origin, is_comment });
        }
    }

    /// Fields that are called like those that the axis binds, in stages that it does not bind.
    fn same_named(&self, axis: &AxisInfo) -> Vec<String> {
        let mut names: Vec<&str> = axis.binds.iter().filter_map(|bound| Some(bound.split_once('.')?.1)).collect();
        names.sort_unstable();
        names.dedup();
        let mut apart = Vec::new();
        for name in names {
            for stage in &self.graph.stages {
                let full = format!("{}.{name}", stage.name);
                let has = stage.kind.is_some_and(|kind| kind.fields().any(|(field, _)| field == name));
                if has && !axis.binds.contains(&full) {
                    apart.push(full);
                }
            }
        }
        apart
    }

    fn origin(&self, span: Span) -> String {
        let Some(place) = self.report.location(span) else { return String::new() };
        match place.file.as_str() {
            "environment" => place.text.split('=').next().unwrap_or_default().to_owned(),
            "--set" => place.file,
            name if name.starts_with("protocol ") => place.file,
            _ => format!("{}:{}", place.file, place.line),
        }
    }
}

impl Line {
    fn json(&self) -> Value {
        json!({ "value": self.value, "origin": self.origin })
    }
}

/// The place of the first value in an entry, which tells the origin of a table too.
fn first_value(entry: &Entry) -> Span {
    match &entry.item.value {
        ItemValue::Table(table) => table.entries.first().map_or(entry.key_span, first_value),
        _ => entry.item.span,
    }
}

/// Is it shown under a header of its own?
fn is_spread(section: &str, entry: &Entry) -> bool {
    SPREAD.contains(&(section, entry.key.as_str())) && entry.item.table().is_some()
}

fn write_header(out: &mut String, path: &[&str]) {
    let path: Vec<String> = path.iter().map(|part| key(part)).collect();
    let _ = writeln!(out, "\n[{}]", path.join("."));
}

fn write_lines(out: &mut String, lines: &[Line]) {
    let texts: Vec<String> = lines
        .iter()
        .map(|line| {
            let mark = if line.is_comment { "# " } else { "" };
            format!("{mark}{} = {}", key(&line.key), inline(&line.value))
        })
        .collect();
    let width = texts.iter().map(|text| text.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
    for (text, line) in texts.iter().zip(lines) {
        let _ = writeln!(out, "{text:width$}  # {}", line.origin);
    }
}

pub(super) fn key(text: &str) -> String {
    let bare = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { text.to_owned() } else { basic(text) }
}

/// A text in double quotes, which is the one form that a key may have whatever its characters. JSON's escapes are
/// TOML's, but for a character that TOML wants escaped too.
fn basic(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A value in one line of TOML.
pub fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => toml::Value::from(text.as_str()).to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(name, value)| format!("{} = {}", key(name), inline(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_any_characters_are_read_back() {
        for text in ["", "a.b", "'\\", "\"'\\'\"", "two\nlines\t\u{7f}\u{0}", "\u{e9}", "'''"] {
            let table: toml::Table = toml::from_str(&format!("{} = 1", key(text))).expect("a key");
            assert_eq!(table.keys().collect::<Vec<_>>(), [text]);
        }
    }
}
