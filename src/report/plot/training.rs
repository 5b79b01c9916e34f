//! Training curves: the loss of every stage that reports `step` and `loss` in `metrics.jsonl`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::arms::{Facet, facets};
use super::curves::{Chart, Curve, draw};
use super::{Figure, PlotError, Sources, cell, csv_text, palette};
use crate::plan::Work;
use crate::store::io;

/// Points of a curve at most; more steps are averaged in bins.
const POINTS: usize = 120;

pub(super) fn figures(sources: &Sources<'_>) -> Result<Vec<Figure>, PlotError> {
    let steps = sources.plan.steps.iter().filter(|step| matches!(step.work, Work::Stage { .. }));
    let stages: BTreeSet<&str> = steps.flat_map(|step| step.stages.iter().copied()).collect();
    let mut figures = Vec::new();
    for stage in stages {
        for facet in facets(sources.arms(stage), palette::DISTINCT) {
            figures.extend(figure(sources, stage, &facet)?);
        }
    }
    Ok(figures)
}

fn figure(sources: &Sources<'_>, stage: &str, facet: &Facet) -> Result<Option<Figure>, PlotError> {
    let mut curves = Vec::new();
    let mut rows = Vec::new();
    for arm in &facet.arms {
        let mut runs = Vec::new();
        for (step, repeat) in &arm.steps {
            let losses = losses(sources, step)?;
            if losses.len() > 1 {
                runs.push((repeat.clone(), binned(&losses)));
            }
        }
        if runs.is_empty() {
            continue;
        }
        let name = arm.name(&facet.axes());
        let places: BTreeSet<u64> =
            runs.iter().flat_map(|(_, run)| run.iter().map(|point| point.0.to_bits())).collect();
        let mean = |place: u64| {
            let values: Vec<f64> = runs
                .iter()
                .filter_map(|(_, run)| run.iter().find(|point| point.0.to_bits() == place).map(|point| point.1))
                .collect();
            (f64::from_bits(place), values.iter().sum::<f64>() / values.len() as f64)
        };
        let points: Vec<(f64, f64)> = places.into_iter().map(mean).collect();
        for (repeat, run) in &runs {
            rows.extend(run.iter().map(|(step, loss)| vec![name.clone(), repeat.clone(), cell(*step), cell(*loss)]));
        }
        let repeats = if runs.len() > 1 { runs.into_iter().map(|(_, run)| run).collect() } else { Vec::new() };
        curves.push(Curve { name, points, band: Vec::new(), repeats });
    }
    if curves.is_empty() {
        return Ok(None);
    }
    let title = format!("Training of {stage}{}", facet.suffix());
    let caption = format!(
        "Training loss of `{stage}` over optimiser steps, averaged in bins of steps (at most {POINTS} along the curve); \
         thin lines are single seeds, thick lines their mean."
    );
    let kinds = ["train_projector", "pretrain_lm", "pretrain_vit"];
    let is_nll = kinds.iter().any(|kind| sources.stages(kind).contains(&stage));
    let svg = draw(&Chart {
        title: title.clone(),
        description: caption.clone(),
        x: "optimiser step".into(),
        y: if is_nll { "loss (nats per target)".into() } else { "loss".into() },
        curves,
        ..Chart::default()
    });
    let name = format!("training-{stage}{}", facet.file_suffix());
    Ok(Some(Figure { name, title, caption, svg, data: csv_text(&["arm", "seed", "step", "loss"], rows) }))
}

/// Loss by step; a step done twice (a resumed training) counts as it was done last.
fn losses(sources: &Sources<'_>, step: &str) -> Result<BTreeMap<u64, f64>, PlotError> {
    let path = sources.store.artifact(step).join("metrics.jsonl");
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let text = std::fs::read_to_string(&path).map_err(io(&path))?;
    let mut losses = BTreeMap::new();
    for line in text.lines() {
        // A line cut off by a kill is no number.
        let Ok(metric) = serde_json::from_str::<Value>(line) else { continue };
        if let (Some(step), Some(loss)) = (metric["step"].as_u64(), metric["loss"].as_f64()) {
            losses.insert(step, loss);
        }
    }
    Ok(losses)
}

/// Means of bins of neighbouring steps, at the bins' middles.
fn binned(losses: &BTreeMap<u64, f64>) -> Vec<(f64, f64)> {
    let all: Vec<(f64, f64)> = losses.iter().map(|(step, loss)| (*step as f64, *loss)).collect();
    let size = all.len().div_ceil(POINTS);
    let mean = |bin: &[(f64, f64)]| {
        let count = bin.len() as f64;
        (bin.iter().map(|point| point.0).sum::<f64>() / count, bin.iter().map(|point| point.1).sum::<f64>() / count)
    };
    all.chunks(size).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_trainings_are_averaged_in_bins() {
        let losses: BTreeMap<u64, f64> = (0..600).map(|step| (step, step as f64)).collect();
        let bins = binned(&losses);
        assert_eq!((bins.len(), bins[0], bins[119]), (120, (2.0, 2.0), (597.0, 597.0)));
        assert_eq!(binned(&BTreeMap::from([(3, 1.0), (4, 2.0)])), [(3.0, 1.0), (4.0, 2.0)]);
    }
}
