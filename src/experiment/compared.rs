//! Cells of tables in which several rows of a comparison would stand, found before anything runs: which rows it will have
//! follows from which points it compares.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::document::{Report, Span};
use super::sweep::{ABLATION, BASE};
use super::{ComparisonSpec, Point, TableSpec};
use crate::comparisons::{self, Arm};

/// Comparison → coordinates of the rows that it will have, of those that tables show.
pub(super) type Rows<'a> = BTreeMap<&'a str, Vec<BTreeMap<String, String>>>;

/// The rows of every comparison that a table shows. What cannot be compared has none here, and says so when it is to be.
pub(super) fn rows<'a>(comparisons: &'a [ComparisonSpec], tables: &[TableSpec], points: &[Point]) -> Rows<'a> {
    let is_shown =
        |spec: &&ComparisonSpec| tables.iter().flat_map(|table| &table.value).any(|(of, _)| *of == spec.name);
    let shown: Vec<&ComparisonSpec> = comparisons.iter().filter(is_shown).collect();
    let kinds = if shown.is_empty() { Vec::new() } else { comparisons::kinds() };
    let known = shown.into_iter().filter_map(|spec| {
        let kind = kinds.iter().find(|kind| kind.name == spec.kind)?;
        Some((spec.name.as_str(), kind.rows(&spec.settings, &arms(spec, points)).ok()?))
    });
    known.collect()
}

/// Reports the first cell of each comparison's figure that holds two rows, and axes that the rows do not have.
pub(super) fn check(report: &mut Report, rows: &Rows<'_>, table: &TableSpec, place: Span) {
    for (of, _) in &table.value {
        let Some(rows) = rows.get(of.as_str()) else { continue };
        let mut cells: BTreeMap<Vec<&String>, &BTreeMap<String, String>> = BTreeMap::new();
        for row in rows {
            if let Some(axis) = table.rows.iter().chain(&table.columns).find(|axis| !row.contains_key(*axis)) {
                let known: Vec<String> = row.keys().map(|axis| format!("`{axis}`")).collect();
                let message = format!("table `{}`: the rows of `{of}` have no `{axis}`", table.name);
                let known = if known.is_empty() { "no axis: there is one row".to_owned() } else { known.join(", ") };
                report.error(place, message, format!("they have {known}"));
                break;
            }
            let holds = |(axis, labels): (&String, &Vec<String>)| row.get(axis).is_none_or(|own| labels.contains(own));
            if !table.r#where.iter().all(holds) {
                continue;
            }
            let listed = table.rows.iter().chain(&table.columns).chain(&table.over);
            let labels: Vec<&String> = listed.filter_map(|axis| row.get(axis)).collect();
            if let Some(other) = cells.insert(labels.clone(), row) {
                let axes = row.keys().filter(|axis| row.get(*axis) != other.get(*axis));
                let free: Vec<String> = axes.map(|axis| format!("`{axis}`")).collect();
                let names: Vec<&str> = labels.into_iter().map(String::as_str).collect();
                let cell = if names.is_empty() { String::new() } else { format!(" `{}`", names.join(", ")) };
                let message = format!("table `{}`: the cell{cell} holds several rows of `{of}`", table.name);
                report.error(place, message, format!("name {} in `rows`, `columns` or `where`", free.join(" or ")));
                break;
            }
        }
    }
}

/// The points as the comparison will get them. Points that share a node will share an artifact.
fn arms(spec: &ComparisonSpec, points: &[Point]) -> Vec<Arm> {
    let compared = points.iter().filter(|point| point.not_applicable.is_none());
    let arm = |point: &Point| {
        let node = point.stages.get(spec.of.0.as_str())?;
        let mut coordinates: BTreeMap<String, String> =
            point.coordinates.iter().map(|(axis, label)| (axis.clone(), label.clone())).collect();
        coordinates.insert(ABLATION.to_owned(), point.ablation.clone().unwrap_or_else(|| BASE.to_owned()));
        Some(Arm { coordinates, artifact: PathBuf::from(format!("{:p}", Arc::as_ptr(node))) })
    };
    compared.filter_map(arm).collect()
}
