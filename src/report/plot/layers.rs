//! Similarity: the score of every layer with interval and noise ceiling, and both similarity matrices in one map.

use std::path::Path;

use serde_json::Value;

use super::arms::{Arm, Facet, facets};
use super::curves::{Chart, Curve, Level, draw};
use super::heat;
use super::{Figure, PlotError, Sources, cell, csv_text, palette};
use crate::npy::{self, Array};
use crate::social::columns::{Columns, broken};
use crate::stages::{Result as StageResult, StageError};
use crate::stats::ranks::average_ranks;
use crate::store::read_json;

pub(super) fn figures(sources: &Sources<'_>) -> Result<Vec<Figure>, PlotError> {
    let mut figures = Vec::new();
    for stage in sources.stages("rsa") {
        let arms = sources.arms(stage);
        for facet in facets(arms.clone(), palette::DISTINCT) {
            figures.extend(by_layer(sources, stage, &facet)?);
        }
        for arm in &arms {
            figures.extend(matrices(sources, stage, arm)?);
        }
    }
    Ok(figures)
}

/// One row of `layers.csv`.
struct Layer {
    name: String,
    score: f64,
    low: f64,
    high: f64,
    p: f64,
    ceiling: f64,
}

/// For people.
fn statistic_name(statistic: &str) -> &str {
    match statistic {
        "rho_a" => "ρ-a",
        "kendall_tau_a" => "Kendall's τ-a",
        _ => "Spearman's ρ",
    }
}

fn read_layers(path: &Path, statistic: &str) -> StageResult<Vec<Layer>> {
    let mut reader = csv::Reader::from_path(path).map_err(|error| broken(path, &error))?;
    let columns = Columns::of(path, &mut reader)?;
    let (layer, score) = (columns.need("layer")?, columns.need(statistic)?);
    let others = ["low", "high", "p_value", "ceiling"].map(|name| columns.find(name));
    let rows = reader.records().map(|row| {
        let row = row.map_err(|error| broken(path, &error))?;
        let number = |column: Option<usize>| column.and_then(|column| row[column].parse().ok()).unwrap_or(f64::NAN);
        let [low, high, p, ceiling] = others.map(number);
        Ok(Layer { name: row[layer].to_owned(), score: number(Some(score)), low, high, p, ceiling })
    });
    rows.collect()
}

fn by_layer(sources: &Sources<'_>, stage: &str, facet: &Facet) -> Result<Option<Figure>, PlotError> {
    let mut places: Vec<String> = Vec::new();
    let mut found: Vec<(String, String, Vec<Layer>)> = Vec::new();
    let mut statistic = "spearman".to_owned();
    for arm in &facet.arms {
        for (step, repeat) in &arm.steps {
            let folder = sources.store.artifact(step);
            if !folder.join("layers.csv").is_file() {
                continue;
            }
            if folder.join("rsa.json").is_file() {
                let results: Value = read_json(&folder.join("rsa.json"))?;
                if let Some(name) = results["statistic"].as_str() {
                    statistic = name.to_owned();
                }
            }
            let layers = read_layers(&folder.join("layers.csv"), &statistic)?;
            for layer in &layers {
                if !places.contains(&layer.name) {
                    places.push(layer.name.clone());
                }
            }
            found.push((arm.name(&facet.axes()), repeat.clone(), layers));
        }
    }
    if places.len() < 2 {
        return Ok(None);
    }
    let place = |name: &str| places.iter().position(|known| known == name).map_or(f64::NAN, |place| place as f64);
    let mut curves: Vec<Curve> = Vec::new();
    let mut rows = Vec::new();
    let mut ceilings: Vec<f64> = Vec::new();
    for (name, repeat, layers) in &found {
        let points: Vec<(f64, f64)> = layers.iter().map(|layer| (place(&layer.name), layer.score)).collect();
        let band: Vec<(f64, f64)> = layers.iter().map(|layer| (layer.low, layer.high)).collect();
        for layer in layers {
            let numbers = [layer.score, layer.low, layer.high, layer.p, layer.ceiling].map(cell);
            rows.push([name.clone(), repeat.clone(), layer.name.clone()].into_iter().chain(numbers).collect());
            if layer.ceiling.is_finite() && !ceilings.contains(&layer.ceiling) {
                ceilings.push(layer.ceiling);
            }
        }
        match curves.iter_mut().find(|curve| curve.name == *name) {
            Some(curve) => curve.repeats.push(points),
            None => curves.push(Curve { name: name.clone(), points: points.clone(), band, repeats: vec![points] }),
        }
    }
    for curve in &mut curves {
        averaged(curve);
    }
    let level = |(number, value): (usize, &f64)| Level {
        name: if ceilings.len() == 1 { "noise ceiling".into() } else { format!("noise ceiling {}", number + 1) },
        value: *value,
    };
    let levels: Vec<Level> = ceilings.iter().enumerate().map(level).collect();
    let measure = statistic_name(&statistic);
    let title = format!("Similarity to people by layer: {stage}{}", facet.suffix());
    let ceiling = if levels.is_empty() { "" } else { "; the dashed line is the noise ceiling of the judgments" };
    let caption = format!(
        "{measure} between the model's and people's similarity of clips, layer by layer (`{stage}`). Bands are bootstrap \
         intervals over clips{ceiling}. The highest point of a curve is selected on the tested data and is no unbiased score."
    );
    let svg = draw(&Chart {
        title: title.clone(),
        description: caption.clone(),
        x: "layer".into(),
        y: measure.into(),
        places,
        curves,
        levels,
        ..Chart::default()
    });
    let data = csv_text(&["arm", "seed", "layer", statistic.as_str(), "low", "high", "p_value", "ceiling"], rows);
    Ok(Some(Figure { name: format!("layers-{stage}{}", facet.file_suffix()), title, caption, svg, data }))
}

/// A curve of several runs is their mean; its band would be that of the first run alone and goes.
fn averaged(curve: &mut Curve) {
    if curve.repeats.len() < 2 {
        curve.repeats.clear();
        return;
    }
    for (number, point) in curve.points.iter_mut().enumerate() {
        let values: Vec<f64> = curve.repeats.iter().filter_map(|run| run.get(number).map(|point| point.1)).collect();
        point.1 = values.iter().sum::<f64>() / values.len() as f64;
    }
    curve.band.clear();
}

/// The first run's matrices: people's above the diagonal, the model's below, both as ranks so that one bar serves both.
fn matrices(sources: &Sources<'_>, stage: &str, arm: &Arm) -> Result<Option<Figure>, PlotError> {
    let Some((step, _)) = arm.steps.first() else { return Ok(None) };
    let folder = sources.store.artifact(step);
    if !folder.join("rsm.npy").is_file() {
        return Ok(None);
    }
    let model: Array<f32> = npy::read(&folder.join("rsm.npy")).map_err(StageError::from)?;
    let count = model.shape[0];
    let human = human(&folder.join("human.csv"), count)?;
    let clips = clip_names(&folder.join("clips.csv"))?;
    let lower: Vec<f64> = triangle(count).map(|(i, j)| f64::from(model.values[i * count + j])).collect();
    let lower = shares(&lower);
    let upper =
        human.as_ref().map(|human| shares(&triangle(count).map(|(i, j)| human[i * count + j]).collect::<Vec<_>>()));
    // A clip is as alike to itself as can be.
    let mut values = vec![vec![1.0; count]; count];
    let mut rows = Vec::new();
    for (number, (i, j)) in triangle(count).enumerate() {
        values[j][i] = lower[number];
        values[i][j] = upper.as_ref().map_or(lower[number], |upper| upper[number]);
        let of_people = human.as_ref().map_or(f64::NAN, |human| human[i * count + j]);
        let clip = |place: usize| clips.get(place).cloned().unwrap_or_else(|| place.to_string());
        rows.push(vec![clip(i), clip(j), cell(f64::from(model.values[i * count + j])), cell(of_people)]);
    }
    let name = match arm.name(&[]) {
        empty if empty.is_empty() => String::new(),
        name => format!(", {name}"),
    };
    let title = format!("Similarity of clips: {stage}{name}");
    let caption = match &human {
        Some(_) => format!(
            "Similarity of {count} clips as ranks (0 least alike, 1 most): people above the diagonal, the model below \
             (`{stage}`). Grey pairs were judged by nobody."
        ),
        None => format!("The model's similarity of {count} clips as ranks (0 least alike, 1 most) (`{stage}`)."),
    };
    let names = if count <= 40 { clips } else { Vec::new() };
    let svg = heat::draw(&heat::Map {
        title: title.clone(),
        description: caption.clone(),
        x: "clip".into(),
        y: "clip".into(),
        amount: "rank of similarity".into(),
        columns: names.clone(),
        rows: names,
        values,
        ..heat::Map::default()
    });
    let suffix: String = arm.labels.iter().map(|(axis, label)| format!("-{axis}-{label}")).collect();
    let data = csv_text(&["clip_1", "clip_2", "model", "people"], rows);
    Ok(Some(Figure { name: format!("matrix-{stage}{suffix}"), title, caption, svg, data }))
}

fn triangle(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |i| (i + 1..count).map(move |j| (i, j)))
}

/// Mean ranks as shares of the largest; what is not finite stays so.
fn shares(values: &[f64]) -> Vec<f64> {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let last = (finite.len() as f64 - 1.0).max(1.0);
    let mut ranked = average_ranks(&finite).into_iter();
    let mut share = || ranked.next().map_or(f64::NAN, |rank| (rank - 1.0) / last);
    values.iter().map(|value| if value.is_finite() { share() } else { f64::NAN }).collect()
}

/// A square CSV with a header of clips; an empty cell is not known.
fn human(path: &Path, count: usize) -> StageResult<Option<Vec<f64>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut reader = csv::Reader::from_path(path).map_err(|error| broken(path, &error))?;
    let mut values = Vec::with_capacity(count * count);
    for row in reader.records() {
        let row = row.map_err(|error| broken(path, &error))?;
        values.extend(
            row.iter().skip(row.len().saturating_sub(count)).map(|cell| cell.trim().parse().unwrap_or(f64::NAN)),
        );
    }
    if values.len() != count * count {
        return Err(StageError::new(format!("`{}` is no square of {count} clips", path.display())));
    }
    Ok(Some(values))
}

fn clip_names(path: &Path) -> StageResult<Vec<String>> {
    let mut reader = csv::Reader::from_path(path).map_err(|error| broken(path, &error))?;
    let id = Columns::of(path, &mut reader)?.need("clip_id")?;
    reader.records().map(|row| Ok(row.map_err(|error| broken(path, &error))?[id].to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_leave_gaps_and_share_ties() {
        let found = shares(&[0.5, f64::NAN, 0.1, 0.5, 0.9]);
        assert!(found[1].is_nan());
        assert_eq!([found[0], found[2], found[3], found[4]], [0.5, 0.0, 0.5, 1.0]);
    }

    #[test]
    fn runs_are_averaged() {
        let run = |value: f64| vec![(0.0, value), (1.0, 2.0 * value)];
        let mut curve =
            Curve { points: run(1.0), band: vec![(0.0, 1.0)], repeats: vec![run(1.0), run(3.0)], ..Curve::default() };
        averaged(&mut curve);
        assert_eq!((curve.points, curve.band.len()), (run(2.0), 0));
    }
}
