//! Cells of tables in which results of several steps would stand, found before anything runs.

use std::collections::{HashMap, hash_map::Entry};
use std::sync::Arc;

use serde_json::Value;

use super::document::{Report, Span};
use super::graph::Graph;
use super::sweep::{ABLATION, BASE, selects};
use super::{Node, Point, TableSpec};

/// Reports the first cell of each figure that holds two different results.
pub(super) fn check(report: &mut Report, graph: &Graph<'_>, points: &[Point], table: &TableSpec, place: Span) {
    let listed = || table.rows.iter().chain(&table.columns).chain(&table.over);
    let with_ablation = listed().any(|axis| axis == ABLATION) || table.r#where.contains_key(ABLATION);
    for (of, _) in table.value.iter().filter(|(of, _)| graph.stage(of).is_some()) {
        let mut cells: HashMap<Vec<&str>, &Point> = HashMap::new();
        let shown = points.iter().filter(|point| {
            point.not_applicable.is_none()
                && point.stages.contains_key(of.as_str())
                && (with_ablation || point.ablation.is_none())
                && selects(&table.r#where, |axis| label(point, axis))
        });
        for point in shown {
            let labels: Option<Vec<&str>> = listed().map(|axis| label(point, axis)).collect();
            let Some(labels) = labels else { continue };
            let known = match cells.entry(labels) {
                Entry::Occupied(known) => known,
                Entry::Vacant(new) => {
                    new.insert(point);
                    continue;
                }
            };
            let first = *known.get();
            if differ(graph, (first, of), (point, of)) {
                let labels = known.key().join(", ");
                let axes = first.coordinates.keys().map(String::as_str).chain([ABLATION]);
                let free: Vec<String> = axes
                    .filter(|axis| label(first, axis) != label(point, axis))
                    .map(|axis| format!("`{axis}`"))
                    .collect();
                let cell = if labels.is_empty() { labels } else { format!(" `{labels}`") };
                let message = format!("table `{}`: the cell{cell} holds different results of `{of}`", table.name);
                let hint = format!("name {} in `rows`, `columns`, `over` or `where`", free.join(" or "));
                report.error(place, message, hint);
                break;
            }
        }
    }
}

fn label<'p>(point: &'p Point, axis: &str) -> Option<&'p str> {
    match axis {
        ABLATION => Some(point.ablation.as_deref().unwrap_or(BASE)),
        axis => point.coordinates.get(axis).map(String::as_str),
    }
}

/// Whether a stage of one point is surely another step than a stage of another. Where only names differ (two data that
/// may have the same bytes) it is not sure.
fn differ(graph: &Graph<'_>, one: (&Point, &str), two: (&Point, &str)) -> bool {
    let (Some(first), Some(second)) = (one.0.stages.get(one.1), two.0.stages.get(two.1)) else { return false };
    if Arc::ptr_eq(first, second) {
        return false;
    }
    if first.kind != second.kind || !counted(graph, one.1, first).eq(counted(graph, two.1, second)) {
        return true;
    }
    first.inputs.iter().any(|(field, reference)| {
        let stages = (reference.0.strip_prefix("stage:"), second.inputs.get(field).map(|other| &other.0));
        match stages {
            (Some(stage), Some(other)) => {
                other.strip_prefix("stage:").is_some_and(|other| differ(graph, (one.0, stage), (two.0, other)))
            }
            (_, Some(_)) => false,
            (_, None) => true,
        }
    })
}

/// The settings of a node that count, references left out; two nodes of a kind have theirs in the same order.
fn counted<'n>(graph: &Graph<'_>, stage: &str, node: &'n Node) -> impl Iterator<Item = (&'n String, &'n Value)> {
    let kind = graph.stage(stage).and_then(|stage| graph.stages[stage].kind);
    let counts = move |name: &str| kind.is_none_or(|kind| kind.is_part_of_key(name) && !kind.is_reference(name));
    node.settings.iter().filter(move |(name, _)| counts(name))
}
