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

/// Which p values are corrected together, and how.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Correcting {
    /// How p values are corrected for their number.
    #[serde(default)]
    pub correction: Correction,
    /// The tests that are corrected together: `all` rows, or the rows that agree on this axis.
    #[serde(default = "family")]
    #[schemars(extend("x-coordinates" = ["all"]))]
    pub family: String,
}

fn family() -> String {
    "all".to_owned()
}

impl Correcting {
    /// Adds the figure `adjusted`: `p_value` corrected over all rows, or over those that agree on the axis `family`. Rows
    /// without a p are left as they are.
    pub(super) fn adjust(&self, rows: &mut [Row], (p_value, adjusted): (&str, &str)) {
        let mut families: BTreeMap<Option<String>, Vec<(usize, f64)>> = BTreeMap::new();
        for (index, row) in rows.iter().enumerate() {
            if let Some(p) = row.figures.get(p_value).and_then(serde_json::Value::as_f64) {
                families.entry(row.coordinates.get(&self.family).cloned()).or_default().push((index, p));
            }
        }
        for members in families.into_values() {
            let p_values: Vec<f64> = members.iter().map(|&(_, p)| p).collect();
            let corrected = if self.correction == Correction::Holm { holm(&p_values) } else { p_values };
            for ((row, _), p) in members.into_iter().zip(corrected) {
                rows[row].figures.insert(adjusted.to_owned(), p.into());
            }
        }
    }
}

/// The default of every `average`.
pub(super) fn average() -> Vec<String> {
    vec!["seed".to_owned()]
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
    let by = axes(minuend, subtrahend, pair_by, &[], arms)?;
    let (minuend, subtrahend) = (side(arms, minuend, "minuend", &by)?, side(arms, subtrahend, "subtrahend", &by)?);
    let both = minuend.into_iter().filter_map(|(key, first)| {
        let second = subtrahend.get(&key)?.clone();
        Some((key, (first, second)))
    });
    rows(both, average)
}

/// The axes on which a pair of points must agree: `pair_by` (`target` is always meant), or, where that is empty, every
/// axis that neither side names and `each` does not either.
pub(super) fn axes<'a>(
    minuend: &Selection,
    subtrahend: &Selection,
    pair_by: &'a [String],
    each: &[String],
    arms: &'a [Arm],
) -> Result<Vec<&'a String>> {
    let named: BTreeSet<&String> = minuend.0.keys().chain(subtrahend.0.keys()).chain(each).collect();
    let axes: BTreeSet<&String> = arms.iter().flat_map(|arm| arm.coordinates.keys()).collect();
    let by: Vec<&String> = match pair_by.is_empty() {
        true => axes.iter().copied().filter(|axis| !named.contains(axis) && *axis != "ablation").collect(),
        false => pair_by.iter().filter(|axis| *axis != "target").collect(),
    };
    match by.iter().find(|axis| !axes.contains(**axis)) {
        Some(unknown) => {
            let known: Vec<&str> = axes.iter().map(|axis| axis.as_str()).collect();
            Err(StageError::hint(
                format!("`pair_by` names `{unknown}`, which no point has"),
                format!("the points have `{}`", known.join("`, `")),
            ))
        }
        None => Ok(by),
    }
}

/// The artifacts that a selection chooses, by their labels on the axes `by`. `name` is the selection's in messages.
pub(super) fn side(
    arms: &[Arm],
    selection: &Selection,
    name: &str,
    by: &[&String],
) -> Result<BTreeMap<Coordinates, PathBuf>> {
    let mut found: BTreeMap<Coordinates, PathBuf> = BTreeMap::new();
    for arm in arms.iter().filter(|arm| selection.selects(&arm.coordinates)) {
        let key = by.iter().filter_map(|axis| Some(((*axis).clone(), arm.coordinates.get(*axis)?.clone()))).collect();
        if let Some(other) = found.insert(key, arm.artifact.clone()).filter(|other| *other != arm.artifact) {
            return Err(StageError::hint(
                format!(
                    "two points of the {name} pair alike, one of them {} (`{}`)",
                    listed(&arm.coordinates),
                    other.display()
                ),
                "name the axis that tells them apart in `pair_by`, or fix its label in the selection",
            ));
        }
    }
    Ok(found)
}

/// Coordinates in words.
pub(super) fn listed(coordinates: &Coordinates) -> String {
    coordinates.iter().map(|(axis, label)| format!("{axis} = {label}")).collect::<Vec<_>>().join(", ")
}

/// Pairs by their coordinates without the axes of `average`; there must be one.
pub(super) fn rows<T>(
    pairs: impl IntoIterator<Item = (Coordinates, T)>,
    average: &[String],
) -> Result<Vec<(Coordinates, Vec<T>)>> {
    let mut rows: BTreeMap<Coordinates, Vec<T>> = BTreeMap::new();
    for (key, pair) in pairs {
        let row = key.into_iter().filter(|(axis, _)| !average.contains(axis)).collect();
        rows.entry(row).or_default().push(pair);
    }
    if rows.is_empty() {
        return Err(StageError::hint(
            "no point of the minuend has a partner in the subtrahend",
            "let `minuend` and `subtrahend` name labels that exist, and `pair_by` axes that both sides share",
        ));
    }
    Ok(rows.into_iter().collect())
}

/// Sample standard deviation; `None` for fewer than two values.
pub(super) fn deviation(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (values.len() > 1).then(|| (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt())
}
