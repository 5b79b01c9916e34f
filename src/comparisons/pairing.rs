//! What comparisons have in common: which points belong together, and correction for many tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Arm, Row, Selection};
use crate::stages::{Result, StageError};
use crate::stats::bootstrap::holm;

/// How p values are corrected for their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// Holm's step-down method.
    #[default]
    Holm,
    /// Not at all.
    None,
}

pub(super) type Coordinates = BTreeMap<String, String>;
/// Artifacts of a minuend and its subtrahend.
pub(super) type Pair = (PathBuf, PathBuf);

/// Row → its pairs of artifacts, one per combination of what is averaged over. Points are paired that agree on `pair_by`
/// (empty: on every axis that neither side names); axes of `average` make no rows.
pub(super) fn pairs(
    minuend: &Selection,
    subtrahend: &Selection,
    pair_by: &[String],
    average: &[String],
    arms: &[Arm],
) -> Result<Vec<(Coordinates, Vec<Pair>)>> {
    let named: BTreeSet<&String> = minuend.0.keys().chain(subtrahend.0.keys()).collect();
    let axes: BTreeSet<&String> = arms.iter().flat_map(|arm| arm.coordinates.keys()).collect();
    let by: Vec<&String> = match pair_by.is_empty() {
        true => axes.iter().copied().filter(|axis| !named.contains(axis) && *axis != "ablation").collect(),
        false => pair_by.iter().filter(|axis| *axis != "target").collect(),
    };
    if let Some(unknown) = by.iter().find(|axis| !axes.contains(**axis)) {
        let known: Vec<&str> = axes.iter().map(|axis| axis.as_str()).collect();
        return Err(StageError::hint(
            format!("`pair_by` names `{unknown}`, which no point has"),
            format!("the points have `{}`", known.join("`, `")),
        ));
    }
    let side = |selection: &Selection, name: &str| -> Result<BTreeMap<Coordinates, PathBuf>> {
        let mut found: BTreeMap<Coordinates, PathBuf> = BTreeMap::new();
        for arm in arms.iter().filter(|arm| selection.selects(&arm.coordinates)) {
            let key =
                by.iter().filter_map(|axis| Some(((*axis).clone(), arm.coordinates.get(*axis)?.clone()))).collect();
            if let Some(other) = found.insert(key, arm.artifact.clone()).filter(|other| *other != arm.artifact) {
                let own: Vec<String> =
                    arm.coordinates.iter().map(|(axis, label)| format!("{axis} = {label}")).collect();
                return Err(StageError::hint(
                    format!(
                        "two points of the {name} pair alike, one of them {} (`{}`)",
                        own.join(", "),
                        other.display()
                    ),
                    "name the axis that tells them apart in `pair_by`, or fix its label in the selection",
                ));
            }
        }
        Ok(found)
    };
    let (minuend, subtrahend) = (side(minuend, "minuend")?, side(subtrahend, "subtrahend")?);
    let mut rows: BTreeMap<Coordinates, Vec<Pair>> = BTreeMap::new();
    for (key, first) in minuend {
        if let Some(second) = subtrahend.get(&key) {
            let row = key.into_iter().filter(|(axis, _)| !average.contains(axis)).collect();
            rows.entry(row).or_default().push((first, second.clone()));
        }
    }
    if rows.is_empty() {
        return Err(StageError::hint(
            "no point of the minuend has a partner in the subtrahend",
            "let `minuend` and `subtrahend` name labels that exist, and `pair_by` axes that both sides share",
        ));
    }
    Ok(rows.into_iter().collect())
}

/// Adds `p_adjusted`: `p_value` corrected over all rows, or over those that agree on the axis `family`. Rows without a p
/// are left as they are.
pub(super) fn adjust(correction: Correction, family: &str, rows: &mut [Row]) {
    let mut families: BTreeMap<Option<String>, Vec<(usize, f64)>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        if let Some(p) = row.figures["p_value"].as_f64() {
            families.entry(row.coordinates.get(family).cloned()).or_default().push((index, p));
        }
    }
    for members in families.into_values() {
        let p_values: Vec<f64> = members.iter().map(|&(_, p)| p).collect();
        let adjusted = if correction == Correction::Holm { holm(&p_values) } else { p_values };
        for ((row, _), p) in members.into_iter().zip(adjusted) {
            rows[row].figures.insert("p_adjusted".into(), p.into());
        }
    }
}

/// Sample standard deviation; `None` for fewer than two values.
pub(super) fn deviation(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (values.len() > 1).then(|| (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt())
}
