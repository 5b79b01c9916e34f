//! Settings of `--set` and the environment that no point sees: an axis or an ablation gives the field in every one.
//!
//! In a file such a value is a default that says what holds where an axis is taken away. Said for one run it is meant to
//! change that run, and must not be lost without a word.

use super::document::{Entry, Item, ItemValue, Report, Table};
use super::graph::{Graph, Target, section};
use super::sweep::{Setting, Sweep};
use super::{Point, show};

/// The sources that are no files.
const OUTSIDE: [&str; 2] = ["--set", "environment"];

/// Reports every setting from outside that points which run its stage never have.
pub(super) fn check(report: &mut Report, merged: &Table, graph: &Graph<'_>, sweep: &Sweep, points: &[Point]) {
    for (stage, entry) in graph.stages.iter().enumerate() {
        for field in &entry.table.entries {
            let is_table = entry.kind.is_some_and(|kind| kind.is_table(&field.key));
            for (field, item) in parts(field, is_table) {
                let from = report.sources.get(item.span.source).map_or("", |source| source.name.as_str());
                if !OUTSIDE.contains(&from) {
                    continue;
                }
                let from = if from == OUTSIDE[0] { "`--set`" } else { "the environment variable" };
                let target = Target { stage, field };
                if is_hidden(sweep, points, entry.name, &target, item) {
                    let name = graph.target_name(&target);
                    let (by, hint) = hider(merged, sweep, &target, item);
                    let message = format!("{from} changes nothing: {by} `{name}` in every point");
                    report.error(item.span, message, hint);
                }
            }
        }
    }
}

/// A field, or each entry of a field that is a table of names.
fn parts(field: &Entry, is_table: bool) -> Vec<(String, &Item)> {
    match &field.item.value {
        ItemValue::Table(table) if is_table => {
            table.entries.iter().map(|entry| (format!("{}.{}", field.key, entry.key), &entry.item)).collect()
        }
        _ => vec![(field.key.clone(), &field.item)],
    }
}

/// The value that a setting puts in place of `target`'s, if it does.
fn over<'s>((other, value): &'s Setting, target: &Target) -> Option<&'s Item> {
    if other.stage != target.stage {
        return None;
    }
    if other.field == target.field {
        return Some(value);
    }
    // A table on an axis is joined with that of the stage, entry by entry.
    value.table()?.get(target.field.strip_prefix(&other.field)?.strip_prefix('.')?)
}

/// Whether every point that runs the stage has the field from an axis or its ablation, and not all of them this value.
fn is_hidden(sweep: &Sweep, points: &[Point], stage: &str, target: &Target, item: &Item) -> bool {
    let given = |point: &Point| {
        let chosen = sweep.axes.iter().flat_map(|axis| {
            let label = point.coordinates.get(&axis.name);
            axis.values.iter().filter(move |value| Some(&value.label) == label).flat_map(|value| &value.sets)
        });
        let ablated = sweep.ablations.iter().filter(|ablation| Some(&ablation.name) == point.ablation.as_ref());
        let sets = chosen.chain(ablated.flat_map(|ablation| &ablation.sets));
        sets.filter_map(|setting| over(setting, target)).next_back().map(Item::plain)
    };
    let mut differs = false;
    for point in points.iter().filter(|point| point.stages.contains_key(stage)) {
        match given(point) {
            None => return false,
            Some(value) => differs |= value != item.plain(),
        }
    }
    differs
}

/// What gives the field, and what to do about it.
fn hider(merged: &Table, sweep: &Sweep, target: &Target, item: &Item) -> (String, String) {
    let axis = sweep
        .axes
        .iter()
        .find(|axis| axis.values.iter().all(|value| value.sets.iter().any(|setting| over(setting, target).is_some())));
    let Some(axis) = axis else {
        let hint = "change it in the axes and ablations that give it, or take it out of them";
        return ("axes and ablations give".to_owned(), hint.to_owned());
    };
    let name = &axis.name;
    let written = section(merged, "axes").find(|entry| entry.key == *name);
    let is_list =
        written.and_then(|entry| entry.item.table()?.get("values")).is_some_and(|item| item.table().is_none());
    let hint = match is_list {
        true => format!("for this value alone write `--set 'axes.{name}.values=[{}]'`", show::inline(&item.plain())),
        false => {
            let bundles: Vec<&str> = axis.values.iter().map(|value| value.label.as_str()).collect();
            format!(
                "change it in the bundles of `axes.{name}.values` (`{}`), or take it out of them",
                bundles.join("`, `")
            )
        }
    };
    (format!("axis `{name}` gives"), hint)
}
