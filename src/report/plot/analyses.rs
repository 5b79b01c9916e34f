//! Analyses: the logit lens by layer, attention by class and layer, and attention grids of single samples.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::arms::{Arm, Facet, facets};
use super::curves::{Chart, Curve, draw};
use super::heat;
use super::{Figure, PlotError, Sources, cell, csv_text};
use crate::social::columns::{Columns, broken};
use crate::stages::Result as StageResult;

pub(super) fn figures(sources: &Sources<'_>) -> Result<Vec<Figure>, PlotError> {
    let mut figures = Vec::new();
    for stage in sources.stages("logit_lens") {
        // With and without: two curves of each arm.
        for facet in facets(sources.arms(stage), 3) {
            for view in VIEWS {
                figures.extend(lens(sources, stage, &facet, &view)?);
            }
        }
    }
    for stage in sources.stages("attention") {
        for arm in sources.arms(stage) {
            figures.extend(by_class(sources, stage, &arm)?);
            figures.extend(grids(sources, stage, &arm)?);
        }
    }
    Ok(figures)
}

/// A table of the lens by layer.
struct View {
    name: &'static str,
    file: &'static str,
    title: &'static str,
    y: &'static str,
    what: &'static str,
    logarithmic: bool,
}

const VIEWS: [View; 3] = [
    View {
        name: "ce",
        file: "layerwise_ce.tsv",
        title: "Logit lens, cross-entropy",
        y: "−ln p of the word (nats)",
        what: "Mean −ln p of the next word's token",
        logarithmic: false,
    },
    View {
        name: "rank",
        file: "target_rank.tsv",
        title: "Logit lens, rank",
        y: "median rank of the word",
        what: "Median rank of the next word's token",
        logarithmic: true,
    },
    View {
        name: "margin",
        file: "target_margin.tsv",
        title: "Logit lens, margin",
        y: "logit − largest other",
        what: "Mean margin of the next word's token (its logit less the largest other)",
        logarithmic: false,
    },
];

fn lens(sources: &Sources<'_>, stage: &str, facet: &Facet, view: &View) -> Result<Option<Figure>, PlotError> {
    let mut places: Vec<String> = Vec::new();
    let mut curves: Vec<Curve> = Vec::new();
    let mut rows = Vec::new();
    for arm in &facet.arms {
        let name = arm.name(&facet.axes());
        for (column, condition) in [(1, "with"), (2, "without")] {
            let mut runs: Vec<Vec<(f64, f64)>> = Vec::new();
            for (step, repeat) in &arm.steps {
                let path = sources.store.artifact(step).join(view.file);
                let mut run = Vec::new();
                for (layer, value) in tsv(&path, column)? {
                    let place = places.iter().position(|known| *known == layer).unwrap_or_else(|| {
                        places.push(layer.clone());
                        places.len() - 1
                    });
                    rows.push(vec![name.clone(), condition.to_owned(), repeat.clone(), layer, cell(value)]);
                    run.push((place as f64, value));
                }
                if !run.is_empty() {
                    runs.push(run);
                }
            }
            let Some(first) = runs.first() else { continue };
            let mean = first.iter().enumerate().map(|(number, (x, _))| {
                let values: Vec<f64> = runs.iter().filter_map(|run| run.get(number).map(|point| point.1)).collect();
                (*x, values.iter().sum::<f64>() / values.len() as f64)
            });
            let label = if condition == "with" { "with social tokens" } else { "without" };
            let name = if name.is_empty() { label.to_owned() } else { format!("{name}, {label}") };
            let points = mean.collect();
            curves.push(Curve {
                name,
                points,
                band: Vec::new(),
                repeats: if runs.len() > 1 { runs } else { Vec::new() },
            });
        }
    }
    if curves.is_empty() {
        return Ok(None);
    }
    let title = format!("{}: {stage}{}", view.title, facet.suffix());
    let caption = format!(
        "{} when a layer's state goes through the final norm and the vocabulary head as if it were the last (`{stage}`). \
         Layer 0 is what enters the first layer.",
        view.what
    );
    let svg = draw(&Chart {
        title: title.clone(),
        description: caption.clone(),
        x: "layer".into(),
        y: view.y.into(),
        places,
        logarithmic: view.logarithmic,
        curves,
        ..Chart::default()
    });
    let name = format!("lens-{}-{stage}{}", view.name, facet.file_suffix());
    Ok(Some(Figure {
        name,
        title,
        caption,
        svg,
        data: csv_text(&["arm", "condition", "seed", "layer", view.name], rows),
    }))
}

/// Layer and value of a column; nothing where the file or the value is not there.
fn tsv(path: &Path, column: usize) -> StageResult<Vec<(String, f64)>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let mut reader =
        csv::ReaderBuilder::new().delimiter(b'\t').from_path(path).map_err(|error| broken(path, &error))?;
    let mut found = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| broken(path, &error))?;
        if let Some(value) = row.get(column).and_then(|text| text.parse().ok()) {
            found.push((row[0].to_owned(), value));
        }
    }
    Ok(found)
}

fn suffix(arm: &Arm) -> String {
    arm.labels.iter().map(|(axis, label)| format!("-{axis}-{label}")).collect()
}

fn named(arm: &Arm) -> String {
    match arm.name(&[]) {
        empty if empty.is_empty() => String::new(),
        name => format!(", {name}"),
    }
}

/// Mean attention over heads to BOS and SOC-G by layer, under every condition.
fn by_class(sources: &Sources<'_>, stage: &str, arm: &Arm) -> Result<Option<Figure>, PlotError> {
    let Some((step, _)) = arm.steps.first() else { return Ok(None) };
    let path = sources.store.artifact(step).join("attention.csv");
    let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
    let columns = Columns::of(&path, &mut reader)?;
    let [condition, layer, to, mean] = ["condition", "layer", "to", "mean"].map(|name| columns.need(name));
    let (condition, layer, to, mean) = (condition?, layer?, to?, mean?);
    // (class, condition) → layer → values of heads.
    let mut heads: BTreeMap<(String, String), BTreeMap<usize, Vec<f64>>> = BTreeMap::new();
    for row in reader.records() {
        let row = row.map_err(|error| broken(&path, &error))?;
        let (Ok(layer), Ok(mean)) = (row[layer].parse(), row[mean].parse()) else { continue };
        let key = (row[to].to_owned(), row[condition].to_owned());
        heads.entry(key).or_default().entry(layer).or_default().push(mean);
    }
    let shown = [
        ("soc_g", "own", "SOC-G"),
        ("soc_g", "constant", "SOC-G, constant"),
        ("soc_g", "zero", "SOC-G, zero"),
        ("bos", "own", "BOS"),
        ("bos", "none", "BOS, no social tokens"),
        ("soc_l", "own", "SOC-L"),
        ("soc_l", "constant", "SOC-L, constant"),
    ];
    let mut curves = Vec::new();
    let mut rows = Vec::new();
    let layers: BTreeSet<usize> = heads.values().flat_map(|layers| layers.keys().copied()).collect();
    for (class, condition, name) in shown {
        let Some(found) = heads.get(&(class.to_owned(), condition.to_owned())) else { continue };
        let points: Vec<(f64, f64)> = found
            .iter()
            .map(|(layer, values)| (*layer as f64, values.iter().sum::<f64>() / values.len() as f64))
            .collect();
        for (layer, value) in &points {
            rows.push(vec![class.to_owned(), condition.to_owned(), cell(*layer), cell(*value)]);
        }
        curves.push(Curve { name: name.into(), points, ..Curve::default() });
    }
    if curves.is_empty() {
        return Ok(None);
    }
    let title = format!("Attention by layer: {stage}{}", named(arm));
    let caption = format!(
        "Share of attention that text positions give, mean over heads, over queries that may look (`{stage}`). Position 0 \
         draws attention whatever stands there: only what SOC-G has above its constant and zero controls can be the clip."
    );
    let svg = draw(&Chart {
        title: title.clone(),
        description: caption.clone(),
        x: "layer".into(),
        y: "share of attention".into(),
        places: layers.iter().map(usize::to_string).collect(),
        curves,
        ..Chart::default()
    });
    let data = csv_text(&["to", "condition", "layer", "mean"], rows);
    Ok(Some(Figure { name: format!("attention-{stage}{}", suffix(arm)), title, caption, svg, data }))
}

/// One line of `grid.csv`.
struct Line {
    layer: usize,
    position: usize,
    piece: String,
    kind: String,
    mean: f64,
}

/// Layer by token, seen from the last position that predicts; social tokens boxed.
fn grids(sources: &Sources<'_>, stage: &str, arm: &Arm) -> Result<Vec<Figure>, PlotError> {
    let Some((step, _)) = arm.steps.first() else { return Ok(Vec::new()) };
    let path = sources.store.artifact(step).join("grid.csv");
    let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
    let columns = Columns::of(&path, &mut reader)?;
    let names = ["sample", "clip_id", "condition", "layer", "position", "piece", "kind", "mean"];
    let places: Vec<usize> = names.iter().map(|name| columns.need(name)).collect::<StageResult<_>>()?;
    let mut samples: BTreeMap<(usize, String, String), Vec<Line>> = BTreeMap::new();
    for row in reader.records() {
        let row = row.map_err(|error| broken(&path, &error))?;
        let text = |column: usize| row[places[column]].to_owned();
        let number = |column: usize| row[places[column]].parse::<usize>().unwrap_or_default();
        let line = Line {
            layer: number(3),
            position: number(4),
            piece: text(5).replace('▁', " ").trim().to_owned(),
            kind: text(6),
            mean: row[places[7]].parse().unwrap_or(f64::NAN),
        };
        samples.entry((number(0), text(1), text(2))).or_default().push(line);
    }
    // The controls' grids are in the data of the artifact; the page shows what the model does with its own tokens.
    let own = samples.iter().any(|((_, _, condition), _)| condition == "own");
    let wanted = if own { "own" } else { "none" };
    let chosen = samples.into_iter().filter(|((_, _, condition), _)| condition == wanted);
    Ok(chosen.map(|((sample, clip, _), lines)| grid(stage, arm, (sample, &clip), &lines)).collect())
}

fn grid(stage: &str, arm: &Arm, (sample, clip): (usize, &str), lines: &[Line]) -> Figure {
    let layers = lines.iter().map(|line| line.layer).max().map_or(0, |last| last + 1);
    let positions = lines.iter().map(|line| line.position).max().map_or(0, |last| last + 1);
    let mut values = vec![vec![f64::NAN; positions]; layers];
    let mut columns = vec![String::new(); positions];
    let mut boxed = BTreeSet::new();
    for line in lines {
        values[line.layer][line.position] = line.mean;
        columns[line.position].clone_from(&line.piece);
        if line.kind.starts_with("soc_") {
            boxed.insert(line.position);
        }
    }
    let title = format!("Attention from the last prediction: {clip}{}", named(arm));
    let caption = format!(
        "Mean over heads of the attention from the last position that predicts to every token before it (`{stage}`, clip \
         `{clip}`), colours by the logarithm; social tokens are boxed."
    );
    let rows = lines.iter().map(|line| {
        vec![line.layer.to_string(), line.position.to_string(), line.piece.clone(), line.kind.clone(), cell(line.mean)]
    });
    let data = csv_text(&["layer", "position", "piece", "kind", "mean"], rows);
    let svg = heat::draw(&heat::Map {
        title: title.clone(),
        description: caption.clone(),
        x: "token".into(),
        y: "layer".into(),
        amount: "attention".into(),
        columns,
        rows: (0..layers).map(|layer| layer.to_string()).collect(),
        values,
        logarithmic: true,
        boxed: boxed.into_iter().collect(),
    });
    Figure { name: format!("grid-{stage}-{sample}{}", suffix(arm)), title, caption, svg, data }
}
