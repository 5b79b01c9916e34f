//! The finished steps of a stage as arms: named by what tells them apart, repeats (seeds) together.

use std::collections::{BTreeMap, BTreeSet};

use crate::experiment::Experiment;
use crate::plan::Plan;
use crate::report::table::coordinates;
use crate::store::Store;

const ABLATION: &str = "ablation";
const BASE: &str = "base";

/// One arm: a combination of labels, with the steps that only repeat it.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Axis and label, of the axes that tell arms apart, in the order of the file.
    pub labels: Vec<(String, String)>,
    /// Names of its steps with the label of the repeat (`seed`), empty without one.
    pub steps: Vec<(String, String)>,
}

impl Arm {
    /// For legends: its labels, without the axes of `but` and without `base` beside other labels.
    pub fn name(&self, but: &[String]) -> String {
        let told: Vec<&(String, String)> = self.labels.iter().filter(|(axis, _)| !but.contains(axis)).collect();
        let others = told.iter().any(|(axis, _)| axis != ABLATION);
        let shown = told.iter().filter(|(axis, label)| !(others && axis == ABLATION && label == BASE));
        shown.map(|(axis, label)| labelled(axis, label)).collect::<Vec<_>>().join(" · ")
    }
}

/// A label that says nothing alone (a number, a truth value) goes with its axis.
fn labelled(axis: &str, label: &str) -> String {
    let bare = label.parse::<f64>().is_ok() || matches!(label, "true" | "false" | "last");
    if bare { format!("{axis} {label}") } else { label.to_owned() }
}

/// An axis whose labels are repeats of one arm.
pub fn is_repeat(axis: &str) -> bool {
    axis == "seed" || axis.ends_with("_seed")
}

/// The arms of `stage` that have run, in the order of the points.
pub fn of(experiment: &Experiment, plan: &Plan<'_>, store: &Store, stage: &str) -> Vec<Arm> {
    let mut steps: Vec<(String, Vec<BTreeMap<String, String>>)> = Vec::new();
    for planned in &plan.points {
        let Some(&step) = planned.steps.get(stage) else { continue };
        let name = plan.steps[step].name();
        if !store.is_done(&name) {
            continue;
        }
        let own = coordinates(planned);
        match steps.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push(own),
            None => steps.push((name, vec![own])),
        }
    }
    let axes: Vec<String> = experiment.axes.iter().map(|axis| axis.name.clone()).chain([ABLATION.to_owned()]).collect();
    let label = |points: &[BTreeMap<String, String>], axis: &str| -> Option<String> {
        let labels: BTreeSet<&String> = points.iter().filter_map(|point| point.get(axis)).collect();
        match labels.len() {
            1 => labels.first().map(|label| (*label).clone()),
            // A step that the base and ablations share is the base's.
            _ if axis == ABLATION => labels.into_iter().min_by_key(|label| order(experiment, label)).cloned(),
            _ => None,
        }
    };
    let telling: Vec<&String> = axes
        .iter()
        .filter(|axis| steps.iter().filter_map(|(_, points)| label(points, axis)).collect::<BTreeSet<_>>().len() > 1)
        .collect();
    let mut arms: Vec<Arm> = Vec::new();
    for (name, points) in &steps {
        let told = |repeat: bool| {
            let chosen = telling.iter().filter(move |axis| is_repeat(axis) == repeat);
            chosen.filter_map(|axis| Some(((*axis).clone(), label(points, axis)?))).collect::<Vec<_>>()
        };
        let repeat = told(true).into_iter().map(|(_, label)| label).collect::<Vec<_>>().join(", ");
        let labels = told(false);
        match arms.iter_mut().find(|arm| arm.labels == labels) {
            Some(arm) => arm.steps.push((name.clone(), repeat)),
            None => arms.push(Arm { labels, steps: vec![(name.clone(), repeat)] }),
        }
    }
    arms
}

fn order(experiment: &Experiment, ablation: &str) -> usize {
    experiment.ablations.iter().position(|name| name == ablation).map_or(0, |place| place + 1)
}

/// A part of the arms for one figure: the axes that it fixes with their labels, and the arms.
#[derive(Clone, Debug, PartialEq)]
pub struct Facet {
    /// Axis and label.
    pub fixed: Vec<(String, String)>,
    /// At most as many arms as were asked for.
    pub arms: Vec<Arm>,
}

impl Facet {
    /// The axes that it fixes.
    pub fn axes(&self) -> Vec<String> {
        self.fixed.iter().map(|(axis, _)| axis.clone()).collect()
    }

    /// `, inject full`: for titles.
    pub fn suffix(&self) -> String {
        self.fixed.iter().map(|(axis, label)| format!(", {axis} {label}")).collect()
    }

    /// `-inject-full`: for file names.
    pub fn file_suffix(&self) -> String {
        self.fixed.iter().map(|(axis, label)| format!("-{axis}-{label}")).collect()
    }
}

/// Splits arms by one axis after the other until no figure has more than `most`.
pub fn facets(arms: Vec<Arm>, most: usize) -> Vec<Facet> {
    split(arms, most, Vec::new())
}

fn split(arms: Vec<Arm>, most: usize, fixed: Vec<(String, String)>) -> Vec<Facet> {
    if arms.len() <= most {
        return vec![Facet { fixed, arms }];
    }
    let label =
        |arm: &Arm, axis: &str| arm.labels.iter().find(|(known, _)| known == axis).map(|(_, label)| label.clone());
    let mut axes: Vec<String> = Vec::new();
    for (axis, _) in arms.iter().flat_map(|arm| &arm.labels) {
        if !axes.contains(axis) && !fixed.iter().any(|(known, _)| known == axis) {
            axes.push(axis.clone());
        }
    }
    let varies = |axis: &&String| arms.iter().map(|arm| label(arm, axis)).collect::<BTreeSet<_>>().len() > 1;
    let Some(axis) = axes.iter().find(varies) else {
        // Nothing tells them apart but their number.
        let parts = arms.chunks(most).enumerate();
        return parts
            .map(|(part, arms)| {
                let fixed = fixed.iter().cloned().chain([("part".to_owned(), (part + 1).to_string())]).collect();
                Facet { fixed, arms: arms.to_vec() }
            })
            .collect();
    };
    let mut groups: Vec<(Option<String>, Vec<Arm>)> = Vec::new();
    for arm in arms.iter().cloned() {
        let own = label(&arm, axis);
        match groups.iter_mut().find(|(known, _)| *known == own) {
            Some((_, members)) => members.push(arm),
            None => groups.push((own, vec![arm])),
        }
    }
    let parts = groups.into_iter().map(|(label, arms)| {
        let own = (axis.clone(), label.unwrap_or_else(|| "any".to_owned()));
        split(arms, most, fixed.iter().cloned().chain([own]).collect())
    });
    parts.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(labels: &[(&str, &str)]) -> Arm {
        let labels = labels.iter().map(|(axis, label)| ((*axis).to_owned(), (*label).to_owned())).collect();
        Arm { labels, steps: Vec::new() }
    }

    #[test]
    fn names_leave_out_what_all_share() {
        let full = arm(&[("inject", "full"), ("layer", "6"), ("ablation", "base")]);
        assert_eq!(full.name(&[]), "full · layer 6");
        assert_eq!(full.name(&["inject".into(), "layer".into()]), "base");
        assert_eq!(arm(&[("inject", "full"), ("ablation", "wrong_clip")]).name(&[]), "full · wrong_clip");
    }

    #[test]
    fn too_many_arms_are_split_by_the_first_axis_that_varies() {
        let arms: Vec<Arm> = ["none", "full"]
            .iter()
            .flat_map(|inject| ["all", "eos", "only"].map(|pool| arm(&[("inject", inject), ("pool", pool)])))
            .collect();
        assert_eq!(facets(arms.clone(), 6).len(), 1);
        let parts = facets(arms.clone(), 4);
        assert_eq!(
            parts.iter().map(|part| (part.suffix(), part.arms.len())).collect::<Vec<_>>(),
            [(", inject none".into(), 3), (", inject full".into(), 3)]
        );
        assert_eq!(facets(arms, 2).len(), 2 * 3, "one pool each");
        assert_eq!(facets(vec![arm(&[]); 5], 2).len(), 3);
    }
}
