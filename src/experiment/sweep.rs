//! Axes, ablations and exclusions as written: which fields they set, and which points they make.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::document::{Entry, Item, ItemValue, Report, Span, Table};
use super::graph::{Graph, Target, section};
use super::{Selection, suggest};

/// The coordinate that is no axis.
pub(super) const ABLATION: &str = "ablation";
/// Its label when no ablation applies.
pub(super) const BASE: &str = "base";

/// A setting and the value that it gets.
pub(super) type Setting = (Target, Item);

pub(super) struct Axis {
    pub name: String,
    pub values: Vec<AxisValue>,
    /// Every field that one of the values sets.
    pub binds: Vec<Target>,
}

pub(super) struct AxisValue {
    pub label: String,
    pub sets: Vec<Setting>,
}

pub(super) struct Ablation {
    pub name: String,
    pub span: Span,
    pub sets: Vec<Setting>,
    /// All must hold.
    pub filters: Vec<Selection>,
}

/// What makes the points.
#[derive(Default)]
pub(super) struct Sweep {
    pub axes: Vec<Axis>,
    pub ablations: Vec<Ablation>,
    pub exclude: Vec<Selection>,
}

impl Sweep {
    pub fn read(report: &mut Report, merged: &Table, graph: &Graph<'_>) -> Self {
        let mut sweep = Self::default();
        let mut bound: BTreeMap<Target, String> = BTreeMap::new();
        for entry in section(merged, "axes") {
            if let Some(axis) = axis(report, entry, graph, &mut bound) {
                sweep.axes.push(axis);
            }
        }
        let plain: Vec<&Entry> = section(merged, "ablations").collect();
        for entry in &plain {
            let ablation = ablation(report, entry, &plain, graph, &bound, &sweep);
            sweep.ablations.extend(ablation);
        }
        for entry in section(merged, "exclude") {
            let Some(item) = entry.item.table().and_then(|table| table.get("where")) else { continue };
            let selection = sweep.selection(report, item, true);
            if item.table().is_some_and(|table| table.entries.is_empty()) {
                report.error(
                    item.span,
                    format!("`exclude.{}` drops every point", entry.key),
                    "name an axis and labels",
                );
            }
            sweep.exclude.push(selection);
        }
        sweep
    }

    /// The fields that an axis sets in every point.
    pub fn always_bound(&self) -> BTreeSet<Target> {
        let everywhere = |axis: &Axis, target: &Target| {
            axis.values.iter().all(|value| value.sets.iter().any(|(other, _)| other == target))
        };
        let binds = self.axes.iter().flat_map(|axis| axis.binds.iter().map(move |target| (axis, target)));
        binds.filter(|(axis, target)| everywhere(axis, target)).map(|(_, target)| target.clone()).collect()
    }

    /// Every setting of every axis value and ablation.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        let axes = self.axes.iter().flat_map(|axis| axis.values.iter().flat_map(|value| &value.sets));
        axes.chain(self.ablations.iter().flat_map(|ablation| &ablation.sets))
    }

    /// The names that a selection, rows, columns and `over` may use.
    pub fn coordinates(&self) -> Vec<&str> {
        self.axes.iter().map(|axis| axis.name.as_str()).chain([ABLATION]).collect()
    }

    /// The labels of an axis or of `ablation`.
    pub fn labels(&self, coordinate: &str) -> Option<Vec<&str>> {
        if coordinate == ABLATION {
            return Some(
                [BASE].into_iter().chain(self.ablations.iter().map(|ablation| ablation.name.as_str())).collect(),
            );
        }
        let axis = self.axes.iter().find(|axis| axis.name == coordinate)?;
        Some(axis.values.iter().map(|value| value.label.as_str()).collect())
    }

    /// Reads a selection; unknown axes and labels are reported.
    pub fn selection(&self, report: &mut Report, item: &Item, with_ablation: bool) -> Selection {
        let mut selection = Selection::new();
        for entry in item.table().into_iter().flat_map(|table| &table.entries) {
            let key = entry.key.as_str();
            let known: Vec<&str> =
                self.coordinates().into_iter().filter(|name| with_ablation || *name != ABLATION).collect();
            if !known.contains(&key) {
                let hint = suggest::hint(key, "axes", known);
                report.error(entry.key_span, format!("no axis `{key}` to select by"), hint);
                continue;
            }
            let labels = self.labels(key).unwrap_or_default();
            let mut chosen = Vec::new();
            for item in entry.item.one_or_many() {
                let ItemValue::Scalar(value) = &item.value else { continue };
                let label = label(value);
                if !labels.contains(&label.as_str()) {
                    let message = match key {
                        ABLATION => format!("no ablation `{label}`"),
                        axis => format!("axis `{axis}` has no value `{label}`"),
                    };
                    let what = if key == ABLATION { "ablations" } else { "values" };
                    report.error(item.span, message, suggest::hint(&label, what, labels.iter().copied()));
                }
                chosen.push(label);
            }
            selection.insert(key.to_owned(), chosen);
        }
        selection
    }
}

/// How a value is called in coordinates, tables and selections.
pub(super) fn label(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether all of a selection holds at a point.
pub(super) fn selects<'a>(selection: &Selection, at: impl Fn(&str) -> Option<&'a str>) -> bool {
    selection.iter().all(|(key, labels)| at(key).is_some_and(|label| labels.iter().any(|chosen| chosen == label)))
}

fn axis(report: &mut Report, entry: &Entry, graph: &Graph<'_>, bound: &mut BTreeMap<Target, String>) -> Option<Axis> {
    let table = entry.item.table()?;
    let name = &entry.key;
    if name == ABLATION {
        report.error(entry.key_span, "an axis cannot be called `ablation`", "give it another name");
        return None;
    }
    let mut axis = Axis { name: name.clone(), values: Vec::new(), binds: Vec::new() };
    let mut spans: Vec<(Target, Span)> = Vec::new();
    let values = table.get("values")?;
    match &values.value {
        ItemValue::Array(items) => {
            let Some(to) = table.get("to") else {
                if !table.keys().any(|key| suggest::nearest(key, ["to", "values"]).first() == Some(&"to")) {
                    let hint = "add `to = [\"stage.field\"]`, the fields that each value sets";
                    report.error(entry.key_span, format!("axis `{name}` needs `to`"), hint);
                }
                axis.values
                    .extend(items.iter().map(|item| AxisValue { label: label(&item.plain()), sets: Vec::new() }));
                return Some(axis);
            };
            for item in to.one_or_many() {
                let Some(text) = item.text() else { continue };
                if let Some(target) = graph.target(report, text, item.span) {
                    spans.push((target, item.span));
                }
            }
            let mut known = BTreeSet::new();
            for item in items {
                let sets: Vec<Setting> = spans.iter().map(|(target, _)| (target.clone(), item.clone())).collect();
                let label = label(&item.plain());
                if !known.insert(label.clone()) {
                    let message = format!("axis `{name}` has the value `{label}` twice");
                    report.error(item.span, message, "each value stands once; take one away");
                    continue;
                }
                axis.values.push(AxisValue { label, sets });
            }
        }
        ItemValue::Table(bundles) => {
            if let Some(to) = table.entry("to") {
                let hint = "take `to` away: each bundle names its fields itself";
                report.error(to.key_span, format!("axis `{name}` has both `to` and bundles"), hint);
            }
            if bundles.entries.is_empty() {
                report.error(values.span, format!("axis `{name}` is empty"), "give at least one bundle");
            }
            for bundle in &bundles.entries {
                let sets = bundle.item.table().map(|table| settings(report, table, graph)).unwrap_or_default();
                spans.extend(sets.iter().map(|(target, _, span)| (target.clone(), *span)));
                let sets = sets.into_iter().map(|(target, item, _)| (target, item)).collect();
                axis.values.push(AxisValue { label: bundle.key.clone(), sets });
            }
        }
        _ => return None,
    }
    for value in &axis.values {
        for (target, item) in &value.sets {
            graph.check_target(report, target, item);
        }
    }
    for (target, span) in spans {
        if axis.binds.contains(&target) {
            if table.get("to").is_some() {
                let message = format!("axis `{name}` names `{}` twice", graph.target_name(&target));
                report.error(span, message, "take one away");
            }
            continue;
        }
        if let Some((_, other)) = bound.iter().find(|(other, _)| other.overlaps(&target)) {
            let message = format!("axes `{other}` and `{name}` both set `{}`", graph.target_name(&target));
            report.error(span, message, "a field belongs to one axis; take it out of one of them");
        } else {
            bound.insert(target.clone(), name.clone());
        }
        axis.binds.push(target);
    }
    Some(axis)
}

/// `{ "stage.field" = value }`, also as `{ stage.field = value }`; with the span of each key.
fn settings(report: &mut Report, table: &Table, graph: &Graph<'_>) -> Vec<(Target, Item, Span)> {
    let mut sets = Vec::new();
    for entry in &table.entries {
        match entry.item.table().filter(|_| !entry.key.contains('.') && graph.stage(&entry.key).is_some()) {
            Some(fields) => {
                for field in &fields.entries {
                    let name = format!("{}.{}", entry.key, field.key);
                    let target = graph.target(report, &name, field.key_span);
                    sets.extend(target.map(|target| (target, field.item.clone(), field.key_span)));
                }
            }
            None => {
                let target = graph.target(report, &entry.key, entry.key_span);
                sets.extend(target.map(|target| (target, entry.item.clone(), entry.key_span)));
            }
        }
    }
    sets
}

fn ablation(
    report: &mut Report,
    entry: &Entry,
    all: &[&Entry],
    graph: &Graph<'_>,
    bound: &BTreeMap<Target, String>,
    axes: &Sweep,
) -> Option<Ablation> {
    let table = entry.item.table()?;
    let name = &entry.key;
    if name == BASE {
        report.error(entry.key_span, "an ablation cannot be called `base`", "give it another name");
        return None;
    }
    let mut ablation = Ablation { name: name.clone(), span: entry.key_span, sets: Vec::new(), filters: Vec::new() };
    let members: Vec<(&Entry, Option<Span>)> = match (table.get("set"), table.get("combine")) {
        (Some(_), Some(combine)) => {
            let message = format!("ablation `{name}` has both `set` and `combine`");
            report.error(combine.span, message, "give the settings an ablation of their own and combine that too");
            return Some(ablation);
        }
        (None, None) => {
            let known = ["set", "where", "combine", "over_axis"];
            if table.keys().all(|key| known.contains(&key)) {
                let hint = "add `set = { \"stage.field\" = value }` or `combine = [\"a\", \"b\"]`";
                report.error(entry.key_span, format!("ablation `{name}` changes nothing"), hint);
            }
            return Some(ablation);
        }
        (Some(_), None) => vec![(entry, None)],
        (None, Some(combine)) => members(report, name, combine, all),
    };
    let own = (table.get("set").is_none()).then(|| table.get("where")).flatten();
    let filters = own.into_iter().chain(members.iter().filter_map(|(member, _)| member.item.table()?.get("where")));
    for item in filters {
        ablation.filters.push(axes.selection(report, item, false));
    }
    for (member, from) in members {
        let Some(table) = member.item.table() else { continue };
        let over_axis = matches!(table.get("over_axis").map(Item::plain), Some(Value::Bool(true)));
        let sets = table.get("set").and_then(Item::table).map(|set| settings(report, set, graph)).unwrap_or_default();
        for (target, item, span) in sets {
            let shown = graph.target_name(&target);
            match from {
                None => graph.check_target(report, &target, &item),
                Some(from) if ablation.sets.iter().any(|(other, _)| *other == target) => {
                    let message = format!("two of the ablations that `{name}` combines set `{shown}`");
                    report.error(from, message, "combine ablations that set different fields");
                }
                Some(_) => {}
            }
            let axis = bound.iter().find(|(other, _)| other.overlaps(&target)).map(|(_, axis)| axis);
            if let (Some(axis), false) = (axis, over_axis) {
                let message = format!("ablation `{}` and axis `{axis}` both set `{shown}`", member.key);
                report.error(span, message, "add `over_axis = true` if the ablation is meant to win");
            }
            ablation.sets.push((target, item));
        }
    }
    Some(ablation)
}

fn members<'a>(report: &mut Report, name: &str, combine: &Item, all: &[&'a Entry]) -> Vec<(&'a Entry, Option<Span>)> {
    let mut found: Vec<(&Entry, Option<Span>)> = Vec::new();
    for item in combine.one_or_many() {
        let Some(text) = item.text() else { continue };
        let known = || all.iter().filter(|entry| entry.key != name).map(|entry| entry.key.as_str());
        match all.iter().find(|entry| entry.key == text && entry.key != name) {
            None => {
                let hint = suggest::hint(text, "ablations", known());
                report.error(item.span, format!("no ablation `{text}` to combine"), hint);
            }
            Some(entry) if entry.item.table().is_some_and(|table| table.get("combine").is_some()) => {
                let message = format!("`{text}` is a combination itself");
                report.error(item.span, message, "name the ablations that it combines");
            }
            Some(entry) if found.iter().any(|(other, _)| other.key == entry.key) => {
                report.error(item.span, format!("`{text}` is combined twice"), "take one away");
            }
            Some(entry) => found.push((entry, Some(item.span))),
        }
    }
    found
}
