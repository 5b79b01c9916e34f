//! `[comparisons.*]` and `[tables.*]`: what they name must be there and must select something.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::cells;
use super::check::Checker;
use super::compared;
use super::document::{Entry, Item, Report, Span, Table};
use super::graph::{Graph, section};
use super::suggest;
use super::sweep::{ABLATION, BASE, Sweep, selects};
use super::{ComparisonSpec, Point, Published, Selection, TableSpec};
use crate::comparisons::{ComparisonKind, is_selection};

/// The comparison kind when a file names none.
const DEFAULT_KIND: &str = "scores";

/// A selection that must choose points in which a stage is run.
struct Selecting {
    span: Span,
    what: String,
    selections: Vec<Selection>,
    stage: Option<String>,
}

/// The comparisons and tables, and what is left to check when the points are known.
#[derive(Default)]
pub(super) struct Reports {
    pub comparisons: Vec<ComparisonSpec>,
    pub tables: Vec<TableSpec>,
    /// Where the names of the tables stand.
    places: Vec<Span>,
    selecting: Vec<Selecting>,
}

impl Reports {
    pub fn read(
        report: &mut Report,
        merged: &Table,
        graph: &Graph<'_>,
        sweep: &Sweep,
        kinds: &[ComparisonKind],
    ) -> Self {
        let mut reports = Self::default();
        for entry in section(merged, "comparisons") {
            reports.comparison(report, entry, graph, sweep, kinds);
        }
        for entry in section(merged, "tables") {
            reports.table(report, merged, entry, graph, sweep, kinds);
        }
        reports
    }

    /// Reports selections that choose no point, and cells in which several results would stand.
    pub fn check_points(&self, report: &mut Report, graph: &Graph<'_>, points: &[Point]) {
        let rows = compared::rows(&self.comparisons, &self.tables, points);
        for (table, place) in self.tables.iter().zip(&self.places) {
            cells::check(report, graph, points, table, *place);
            compared::check(report, &rows, table, *place);
        }
        for selecting in &self.selecting {
            let chosen = points.iter().any(|point| {
                let at = |key: &str| match key {
                    ABLATION => Some(point.ablation.as_deref().unwrap_or(BASE)),
                    axis => point.coordinates.get(axis).map(String::as_str),
                };
                point.not_applicable.is_none()
                    && selecting.stage.as_ref().is_none_or(|stage| point.stages.contains_key(stage.as_str()))
                    && selecting.selections.iter().all(|selection| selects(selection, at))
            });
            if !chosen {
                let stage = selecting.stage.as_ref().map(|stage| format!(" that runs `{stage}`")).unwrap_or_default();
                let hint = format!(
                    "no point{stage} has these labels; `soctok check` counts the points, `soctok plan` lists them"
                );
                report.error(selecting.span, format!("{} selects nothing", selecting.what), hint);
            }
        }
    }

    fn comparison(
        &mut self,
        report: &mut Report,
        entry: &Entry,
        graph: &Graph<'_>,
        sweep: &Sweep,
        kinds: &[ComparisonKind],
    ) {
        let Some(table) = entry.item.table() else { return };
        let name = &entry.key;
        if graph.stage(name).is_some() {
            let message = format!("comparison `{name}` is called like a stage");
            report.error(entry.key_span, message, "give it another name: tables name both in the same way");
        }
        let kind_item = table.get("kind");
        let kind_name = kind_item.and_then(Item::text).unwrap_or(DEFAULT_KIND);
        let kind = kinds.iter().find(|kind| kind.name == kind_name);
        let Some(kind) = kind else {
            let hint = suggest::hint(kind_name, "comparison kinds", kinds.iter().map(|kind| kind.name));
            let span = kind_item.map_or(entry.key_span, |item| item.span);
            report.error(span, format!("no comparison kind `{kind_name}`"), hint);
            return;
        };
        Checker::new(report).table(
            table,
            entry.key_span,
            &comparison_schema(kind),
            &format!("comparison `{name}`"),
            &BTreeSet::new(),
        );
        let of = table.get("of").and_then(|item| figure(report, item, "of", &stage_names(graph)));
        let mut settings = super::Settings::new();
        for field in table.entries.iter().filter(|field| !matches!(field.key.as_str(), "kind" | "of")) {
            if is_selection(&kind.schema["properties"][&field.key]) {
                let selection = sweep.selection(report, &field.item, true);
                settings.insert(field.key.clone(), json!(selection));
                self.selecting.push(Selecting {
                    span: field.item.span,
                    what: format!("`{}` of comparison `{name}`", field.key),
                    selections: vec![selection],
                    stage: of.as_ref().map(|(stage, _)| stage.clone()),
                });
            } else {
                check_coordinates(report, field, &kind.schema["properties"][&field.key], sweep);
                settings.insert(field.key.clone(), field.item.plain());
            }
        }
        if let Some(of) = of {
            self.comparisons.push(ComparisonSpec { name: name.clone(), kind: kind_name.to_owned(), of, settings });
        }
    }

    fn table(
        &mut self,
        report: &mut Report,
        merged: &Table,
        entry: &Entry,
        graph: &Graph<'_>,
        sweep: &Sweep,
        kinds: &[ComparisonKind],
    ) {
        let Some(table) = entry.item.table() else { return };
        let name = &entry.key;
        let comparisons: Vec<&str> = section(merged, "comparisons").map(|entry| entry.key.as_str()).collect();
        let mut known = stage_names(graph);
        known.extend(&comparisons);
        let items = table.get("value").map(Item::one_or_many).unwrap_or_default();
        let value: Vec<_> = items.iter().filter_map(|item| figure(report, item, "value", &known)).collect();
        let misspelt = items.iter().filter(|item| !self.is_figure(report, item, kinds)).count() > 0;
        let mut used = Vec::new();
        let mut dimension = |report: &mut Report, key: &str| {
            let items = table.get(key).map(Item::one_or_many).unwrap_or_default();
            let names: Vec<String> = items
                .iter()
                .filter_map(|item| {
                    let axis = item.text()?;
                    if !sweep.coordinates().contains(&axis) {
                        let hint = suggest::hint(axis, "axes", sweep.coordinates());
                        report.error(item.span, format!("`{key}` of table `{name}` names no axis: `{axis}`"), hint);
                    } else if used.contains(&axis.to_owned()) {
                        let message = format!("table `{name}` uses the axis `{axis}` twice");
                        report.error(item.span, message, "an axis makes rows, or columns, or is averaged over");
                    }
                    used.push(axis.to_owned());
                    Some(axis.to_owned())
                })
                .collect();
            names
        };
        let (rows, columns, over) =
            (dimension(report, "rows"), dimension(report, "columns"), dimension(report, "over"));
        let shown = table.get("where").map(|item| (item.span, sweep.selection(report, item, true)));
        let stage = value.first().filter(|(of, _)| graph.stage(of).is_some()).map(|(stage, _)| stage.clone());
        if let Some((span, selection)) = &shown {
            self.selecting.push(Selecting {
                span: *span,
                what: format!("`where` of table `{name}`"),
                selections: vec![selection.clone()],
                stage: stage.clone(),
            });
        }
        let shown = shown.map(|(_, selection)| selection).unwrap_or_default();
        let shown_figures: Vec<String> = value.iter().map(|(of, column)| format!("{of}.{column}")).collect();
        let mut published = BTreeMap::new();
        for cell in table.get("published").and_then(Item::table).into_iter().flat_map(|table| &table.entries) {
            let Some(of) = cell.item.table() else { continue };
            let (Some(item), Some(value)) = (of.get("where"), of.get("value").and_then(number)) else { continue };
            let selection = sweep.selection(report, item, true);
            self.selecting.push(Selecting {
                span: item.span,
                what: format!("published value `{}` lies outside of table `{name}`: its `where`", cell.key),
                selections: vec![shown.clone(), selection.clone()],
                stage: stage.clone(),
            });
            let words = |key: &str| of.get(key).and_then(Item::text).map(str::to_owned);
            published.insert(
                cell.key.clone(),
                Published {
                    r#where: selection,
                    // Beside a misspelt figure the right name would be blamed.
                    figure: if misspelt { 0 } else { which_figure(report, cell, of, &shown_figures) },
                    value,
                    tolerance: of.get("tolerance").and_then(number),
                    source: words("source"),
                    note: words("note"),
                },
            );
        }
        self.places.push(entry.key_span);
        self.tables.push(TableSpec { name: name.clone(), value, rows, columns, over, r#where: shown, published });
    }

    /// Whether rows of the comparison that a `value` names can have the figure; what is wrong is reported. Of the figures
    /// of a stage nothing is known before it has run.
    fn is_figure(&self, report: &mut Report, item: &Item, kinds: &[ComparisonKind]) -> bool {
        let Some((of, column)) = item.text().and_then(|text| text.split_once('.')) else { return true };
        let Some(spec) = self.comparisons.iter().find(|spec| spec.name == of) else { return true };
        let Some(kind) = kinds.iter().find(|kind| kind.name == spec.kind) else { return true };
        if kind.figures.contains(&column) {
            return true;
        }
        let hint = suggest::hint(column, "figures", kind.figures.iter().copied());
        report.error(item.span, format!("comparison `{of}` (kind `{}`) has no figure `{column}`", kind.name), hint);
        false
    }
}

/// The schema of `[comparisons.NAME]` of a kind: its settings, `kind` and `of`.
pub(super) fn comparison_schema(kind: &ComparisonKind) -> Value {
    let mut schema = kind.schema.clone();
    schema["additionalProperties"] = Value::Bool(false);
    let of = json!({ "type": "string", "description": "What is compared, as `stage.column`" });
    let name = json!({ "const": kind.name, "default": DEFAULT_KIND, "description": kind.summary });
    match schema["properties"].as_object_mut() {
        Some(properties) => {
            properties.insert("kind".to_owned(), name);
            properties.insert("of".to_owned(), of);
        }
        None => schema["properties"] = json!({ "kind": name, "of": of }),
    }
    match schema["required"].as_array_mut() {
        Some(required) => required.insert(0, json!("of")),
        None => schema["required"] = json!(["of"]),
    }
    schema
}

/// A field with `x-coordinates` names axes, `ablation`, or one of the words that the extension lists.
fn check_coordinates(report: &mut Report, field: &Entry, schema: &Value, sweep: &Sweep) {
    let Some(words) = schema["x-coordinates"].as_array() else { return };
    let known: Vec<&str> = sweep.coordinates().into_iter().chain(words.iter().filter_map(Value::as_str)).collect();
    for item in field.item.one_or_many() {
        if let Some(name) = item.text().filter(|name| !known.contains(name)) {
            let hint = suggest::hint(name, "axes", known.iter().copied());
            report.error(item.span, format!("`{}` names no axis: `{name}`", field.key), hint);
        }
    }
}

fn stage_names<'a>(graph: &Graph<'a>) -> Vec<&'a str> {
    graph.stages.iter().map(|stage| stage.name).collect()
}

/// The place among the table's figures of the one that a published value is of.
fn which_figure(report: &mut Report, cell: &Entry, of: &Table, figures: &[String]) -> usize {
    let Some(item) = of.get("figure") else {
        if figures.len() > 1 {
            let message = format!("published value `{}` does not say which figure it is", cell.key);
            report.error(cell.key_span, message, format!("set `figure` to one of `{}`", figures.join("`, `")));
        }
        return 0;
    };
    let name = item.text().unwrap_or_default();
    figures.iter().position(|figure| figure == name).unwrap_or_else(|| {
        let hint = suggest::hint(name, "figures of the table", figures.iter().map(String::as_str));
        let message = format!("`value` and the published value `{}` differ: the table shows no `{name}`", cell.key);
        report.error(
            item.span,
            message,
            format!("{hint} (one of the two names is misspelt, or `value` lacks a figure)"),
        );
        0
    })
}

fn number(item: &Item) -> Option<f64> {
    item.plain().as_f64()
}

/// Splits `stage.column`; the stage (or comparison) must be known.
fn figure(report: &mut Report, item: &Item, key: &str, known: &[&str]) -> Option<(String, String)> {
    let text = item.text()?;
    let (of, column) = text.split_once('.').unwrap_or((text, ""));
    if !known.contains(&of) {
        let hint = suggest::hint(of, "names", known.iter().copied());
        report.error(item.span, format!("`{key}` names nothing known: `{of}`"), hint);
        return None;
    }
    if column.is_empty() {
        let hint = format!("write `{key} = \"{of}.COLUMN\"`, as in `perplexity.bits_per_word`");
        report.error(item.span, format!("`{text}` names no column"), hint);
        return None;
    }
    Some((of.to_owned(), column.to_owned()))
}
