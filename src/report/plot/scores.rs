//! Scores: bits per word of every arm with intervals, and the differences of comparisons.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::arms::{Facet, facets};
use super::dots::{Chart, Row, draw};
use super::{Figure, PlotError, Sources, cell, csv_text};
use crate::comparisons;
use crate::social::columns::{Columns, broken};
use crate::stages::{Result as StageResult, StageError};
use crate::stats::bootstrap::{percentile, ratio_replicates};
use crate::stats::random::Streams;
use crate::store::read_json;

/// Rows of one chart at most.
const MOST: usize = 16;
/// Bootstrap replicates of an arm's interval.
const REPLICATES: usize = 2000;

pub(super) fn figures(sources: &Sources<'_>) -> Result<Vec<Figure>, PlotError> {
    let mut figures = Vec::new();
    for stage in sources.stages("perplexity") {
        for facet in facets(sources.arms(stage), MOST) {
            figures.extend(by_arm(sources, stage, &facet)?);
        }
    }
    for spec in &sources.experiment.comparisons {
        let Some(&step) = sources.plan.comparisons.get(spec.name.as_str()) else { continue };
        let name = sources.plan.steps[step].name();
        if sources.store.is_done(&name) {
            let rows: Vec<comparisons::Row> = read_json(&sources.store.artifact(&name).join("rows.json"))?;
            figures.extend(differences(&spec.name, &format!("{}.{}", spec.of.0, spec.of.1), &rows));
        }
    }
    Ok(figures)
}

/// Bits and words of each clip.
type Clips = BTreeMap<String, (f64, f64)>;

fn by_arm(sources: &Sources<'_>, stage: &str, facet: &Facet) -> Result<Option<Figure>, PlotError> {
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    let mut levels: BTreeSet<(String, String)> = BTreeSet::new();
    let mut clips = 0;
    for (number, arm) in facet.arms.iter().enumerate() {
        let name = match arm.name(&facet.axes()) {
            empty if empty.is_empty() => stage.to_owned(),
            name => name,
        };
        let mut runs: Vec<(String, Clips)> = Vec::new();
        for (step, repeat) in &arm.steps {
            let path = sources.store.artifact(step).join("targets.csv");
            runs.push((repeat.clone(), bits(&path)?));
            let figures = sources.store.summary(step)?;
            let figure = |name: &str| figures.get(name).and_then(serde_json::Value::as_f64);
            let per_word =
                figure("bits_per_word").zip(figure("bits_per_caption")).map(|(word, caption)| word / caption);
            for (name, figure) in [
                ("exact, text only", figure("true_bits_per_caption")),
                ("exact, picture known", figure("floor_bits_per_caption")),
            ] {
                if let Some((bits, share)) = figure.zip(per_word) {
                    levels.insert((name.to_owned(), format!("{:.6}", bits * share)));
                }
            }
        }
        let Some((value, interval, singles)) = summed(&runs) else { continue };
        clips = clips.max(runs[0].1.len());
        lines.push(vec![name.clone(), String::new(), cell(value), cell(interval.0), cell(interval.1)]);
        let many = singles.len() > 1;
        for ((repeat, _), single) in runs.iter().zip(&singles).filter(|_| many) {
            lines.push(vec![name.clone(), repeat.clone(), cell(*single), String::new(), String::new()]);
        }
        let group = arm
            .labels
            .iter()
            .find(|(axis, _)| !facet.axes().contains(axis))
            .map_or(number, |first| facet.arms.iter().position(|arm| arm.labels.contains(first)).unwrap_or(number));
        rows.push(Row {
            name,
            value,
            interval: Some(interval),
            repeats: if many { singles } else { Vec::new() },
            group,
        });
    }
    if rows.is_empty() {
        return Ok(None);
    }
    // Colours go to groups in the order in which they appear.
    let groups: BTreeSet<usize> = rows.iter().map(|row| row.group).collect();
    rows.iter_mut().for_each(|row| row.group = groups.range(..row.group).count());
    let title = format!("Bits per word by arm: {stage}{}", facet.suffix());
    let caption = format!(
        "Bits per word of `{stage}`: dots are means over seeds (rings: single seeds), bars 95 % percentile intervals of a \
         bootstrap of {clips} clips ({REPLICATES} draws). Arms share their clips, so bars that overlap say nothing of a \
         difference; comparisons do."
    );
    // Exact levels of captions that differ in their words between arms would mislead.
    let mut exact: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in levels {
        exact.entry(name).or_default().extend(value.parse::<f64>());
    }
    let levels = exact.into_iter().filter_map(|(name, values)| match values.as_slice() {
        [only] => Some((name, *only)),
        _ => None,
    });
    let svg = draw(&Chart {
        title: title.clone(),
        description: caption.clone(),
        x: "bits per word".into(),
        rows,
        levels: levels.collect(),
        margin: None,
        from_zero: true,
    });
    let data = csv_text(&["arm", "seed", "bits_per_word", "low", "high"], lines);
    Ok(Some(Figure { name: format!("scores-{stage}{}", facet.file_suffix()), title, caption, svg, data }))
}

/// Bits and words of every clip of `targets.csv`.
fn bits(path: &Path) -> StageResult<Clips> {
    let mut reader = csv::Reader::from_path(path).map_err(|error| broken(path, &error))?;
    let columns = Columns::of(path, &mut reader)?;
    let [clip, utterance, word, nll] = ["clip_id", "utterance", "word", "nll"].map(|name| columns.need(name));
    let (clip, utterance, word, nll) = (clip?, utterance?, word?, nll?);
    let mut clips = Clips::new();
    let mut words = BTreeSet::new();
    for row in reader.records() {
        let row = row.map_err(|error| broken(path, &error))?;
        let value: f64 = row[nll].parse().map_err(|_| {
            StageError::new(format!("`{}`: `{}` in column `nll` is no number", path.display(), &row[nll]))
        })?;
        let of = clips.entry(row[clip].to_owned()).or_default();
        of.0 += value / std::f64::consts::LN_2;
        if !row[word].is_empty()
            && words.insert((row[clip].to_owned(), row[utterance].to_owned(), row[word].to_owned()))
        {
            of.1 += 1.0;
        }
    }
    Ok(clips)
}

/// The mean over runs with its interval, and the value of each run.
fn summed(runs: &[(String, Clips)]) -> Option<(f64, (f64, f64), Vec<f64>)> {
    let (_, first) = runs.first()?;
    let words: Vec<f64> = first.values().map(|clip| clip.1).collect();
    let total: f64 = words.iter().sum();
    if total == 0.0 {
        return None;
    }
    let mut sums = vec![0.0; words.len()];
    let mut singles = Vec::new();
    for (_, clips) in runs {
        let own: Vec<f64> = first.keys().map(|clip| clips.get(clip).map_or(0.0, |clip| clip.0)).collect();
        sums.iter_mut().zip(&own).for_each(|(sum, bits)| *sum += bits / runs.len() as f64);
        singles.push(own.iter().sum::<f64>() / total);
    }
    let mut replicates = ratio_replicates(&sums, &words, REPLICATES, &Streams::new(0, "plot"));
    replicates.retain(|value| value.is_finite());
    replicates.sort_by(f64::total_cmp);
    let value = sums.iter().sum::<f64>() / total;
    if replicates.is_empty() {
        return None;
    }
    Some((value, (percentile(&replicates, 0.025), percentile(&replicates, 0.975)), singles))
}

/// The rows of a comparison that have a difference with an interval.
fn differences(name: &str, of: &str, rows: &[comparisons::Row]) -> Option<Figure> {
    let figure = |row: &comparisons::Row, name: &str| row.figures.get(name).and_then(serde_json::Value::as_f64);
    let mut shown = Vec::new();
    let mut lines = Vec::new();
    let mut margin = None;
    for row in rows {
        let Some(value) = figure(row, "difference") else { continue };
        let interval = figure(row, "low").zip(figure(row, "high"));
        margin = margin.or(figure(row, "margin"));
        let labels: Vec<String> = row.coordinates.iter().map(|(axis, label)| format!("{axis} {label}")).collect();
        let label = if labels.is_empty() { name.to_owned() } else { labels.join(" · ") };
        let ends = interval.unwrap_or((f64::NAN, f64::NAN));
        let p = figure(row, "p_adjusted").unwrap_or(f64::NAN);
        lines.push(vec![label.clone(), cell(value), cell(ends.0), cell(ends.1), cell(p)]);
        shown.push(Row { name: label, value, interval, repeats: Vec::new(), group: 0 });
    }
    if shown.is_empty() {
        return None;
    }
    let title = format!("Comparison {name}");
    let band =
        margin.map_or_else(String::new, |margin| format!(" The shaded span (± {margin}) counts as no difference."));
    let caption =
        format!("Paired differences (minuend − subtrahend) of `{of}` with the intervals of comparison `{name}`.{band}");
    let x = if of.ends_with(".nll") { "difference (bits per word)" } else { "difference" };
    let svg = draw(&Chart {
        title: title.clone(),
        description: caption.clone(),
        x: x.into(),
        rows: shown,
        levels: Vec::new(),
        margin,
        from_zero: true,
    });
    let data = csv_text(&["row", "difference", "low", "high", "p_adjusted"], lines);
    Some(Figure { name: format!("comparison-{name}"), title, caption, svg, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_is_the_mean_over_seeds_with_an_interval_over_clips() {
        let clips = |bits: f64| Clips::from([("a".to_owned(), (bits, 2.0)), ("b".to_owned(), (3.0 * bits, 2.0))]);
        let (value, (low, high), singles) = summed(&[("0".into(), clips(1.0)), ("1".into(), clips(2.0))]).unwrap();
        assert_eq!((value, singles), (1.5, vec![1.0, 2.0]));
        assert_eq!((low, high), (0.75, 2.25), "only two clips: the ends are one of them drawn twice");
        assert!(summed(&[]).is_none());
    }

    #[test]
    fn a_test_without_an_amount_gives_no_bar() {
        let row = |figures: serde_json::Value| comparisons::Row {
            coordinates: BTreeMap::from([("inject".to_owned(), "full".to_owned())]),
            figures: figures.as_object().unwrap().clone(),
        };
        assert!(differences("wrong", "p.nll", &[row(serde_json::json!({"p_value": 0.01}))]).is_none());
        let found = differences(
            "gain",
            "p.nll",
            &[row(serde_json::json!({"difference": 1.5, "low": 1.0, "high": 2.0, "margin": 0.02}))],
        )
        .unwrap();
        assert_eq!(found.data, "row,difference,low,high,p_adjusted\ninject full,1.5,1,2,\n");
        assert!(found.caption.contains("± 0.02"));
    }
}
