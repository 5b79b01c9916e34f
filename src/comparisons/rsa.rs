//! `rsa`: scores of a grid of conditions against the same judgments, or differences between conditions.
//!
//! `of = "rsa.spearman"` compares the layer fixed beforehand, `rsa.cv_spearman` the layer chosen by cross-validation and
//! `rsa.max_spearman` the best one; `rho_a` and `kendall_tau_a` alike. All conditions share one set of permutations,
//! bootstrap draws and folds, so a grid costs little more than one condition and differences are paired. Without `minuend`
//! and `subtrahend` every row is a condition, tested against permuted labels; with them it is a difference, tested by the
//! bootstrap. p is adjusted by Holm's method over a family that the file fixes.

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairing::{Coordinates, Correcting, Pair, average, deviation, pairs};
use super::{Arm, Comparison, Row, Selection};
use crate::npy::{self, Array};
use crate::social::judgments::Judgments;
use crate::social::packs::read_json;
use crate::stages::embed::layer_named;
use crate::stages::rsa::{Results, Weight};
use crate::stages::{Context, Result, StageError, Summary};
use crate::stats::bootstrap::two_sided_p;
use crate::stats::defaults;
use crate::stats::inference::{Inference, Settings};
use crate::stats::pairs::{Judged, Modelled};
use crate::stats::permutation::{Side, p_value};
use crate::stats::ranks::Statistic;
use crate::stats::stimuli::interval;
use crate::stats::triplets::Repeats;

/// See the module.
pub struct Rsa;

/// Settings of the comparison `rsa`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Without `minuend` and `subtrahend`: the points that make the grid; left out, all.
    #[serde(default)]
    pub points: Selection,
    /// The points whose scores are taken first.
    #[serde(default)]
    pub minuend: Option<Selection>,
    /// The points whose scores are taken away.
    #[serde(default)]
    pub subtrahend: Option<Selection>,
    /// Axes on which a pair of points must agree. Left out: every axis that neither `minuend` nor `subtrahend` names.
    #[serde(default)]
    #[schemars(extend("x-coordinates" = []))]
    pub pair_by: Vec<String>,
    /// Axes that are averaged over, inside each permutation and draw; the others make rows.
    #[serde(default = "average")]
    #[schemars(extend("x-coordinates" = ["seed"]))]
    pub average: Vec<String>,
    /// This layer instead of the one that each point's stage fixes.
    #[serde(default)]
    pub layer: Option<String>,
    /// How p values are corrected.
    #[serde(flatten)]
    pub correcting: Correcting,
    /// Which permuted scores count as extreme.
    #[serde(default)]
    pub side: Side,
    /// Permutations of clip labels.
    #[serde(default = "defaults::draws")]
    #[schemars(range(min = 100, max = 10_000_000))]
    pub permutations: usize,
    /// Bootstrap draws of clips.
    #[serde(default = "defaults::draws")]
    #[schemars(range(min = 100, max = 10_000_000))]
    pub replicates: usize,
    /// Permutations and bootstrap draws of cross-validated scores, in each of which layers are chosen anew.
    #[serde(default = "defaults::cv_draws")]
    #[schemars(range(min = 100, max = 10_000_000))]
    pub cv_draws: usize,
    /// Folds of clips for the cross-validated choice of a layer.
    #[serde(default = "defaults::folds")]
    #[schemars(range(min = 2, max = 1000))]
    pub folds: usize,
    /// Share of the draws inside an interval.
    #[serde(default = "defaults::confidence")]
    #[schemars(range(min = 0.5, max = 0.9999))]
    pub confidence: f64,
    /// Seed of permutations, draws and folds, the same for all conditions.
    #[serde(default)]
    pub seed: u64,
}

impl Comparison for Rsa {
    const KIND: &'static str = "rsa";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Similarity to human judgments of a grid of conditions, or differences between conditions, on shared permutations, \
         draws and folds";
    const FIGURES: &'static [&'static str] = &[
        "score",
        "difference",
        "low",
        "high",
        "p_value",
        "p_adjusted",
        "p_of_all",
        "minuend",
        "subtrahend",
        "seed_deviation",
        "ceiling",
        "clips",
        "pairs",
        "seeds",
    ];
    type Config = Config;

    fn rows(config: &Config, arms: &[Arm]) -> Result<Vec<Coordinates>> {
        if let (Some(minuend), Some(subtrahend)) = (&config.minuend, &config.subtrahend) {
            let pairs = pairs(minuend, subtrahend, &config.pair_by, &config.average, arms)?;
            return Ok(pairs.into_iter().map(|(coordinates, _)| coordinates).collect());
        }
        let chosen = arms.iter().filter(|arm| config.points.selects(&arm.coordinates));
        Ok(chosen.map(|arm| config.row_of(arm)).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn run(config: &Config, column: &str, arms: &[Arm], context: &Context) -> Result<Vec<Row>> {
        let measure = Measure::of(column)?;
        let settings = config.settings(measure.statistic);
        let mut grid = Grid { measure, settings, layer: config.layer.clone(), groups: Vec::new() };
        let mut rows = match (&config.minuend, &config.subtrahend) {
            (Some(minuend), Some(subtrahend)) => {
                let pairs = pairs(minuend, subtrahend, &config.pair_by, &config.average, arms)?;
                differences(config, &mut grid, &pairs, context)?
            }
            (None, None) => scores(config, &mut grid, arms, context)?,
            _ => {
                return Err(StageError::hint(
                    "one of `minuend` and `subtrahend` is missing",
                    "give both for differences, or neither to test every point",
                ));
            }
        };
        config.correcting.adjust(&mut rows, ("p_value", "p_adjusted"));
        Ok(rows)
    }
}

impl Config {
    /// The coordinates of the row that a point of the grid belongs to.
    fn row_of(&self, arm: &Arm) -> Coordinates {
        let own = arm.coordinates.iter().filter(|(axis, _)| !self.average.contains(axis));
        own.map(|(axis, label)| (axis.clone(), label.clone())).collect()
    }

    fn settings(&self, statistic: Statistic) -> Settings {
        Settings {
            statistic,
            side: self.side,
            permutations: self.permutations,
            replicates: self.replicates,
            cv_draws: self.cv_draws,
            folds: self.folds,
            confidence: self.confidence,
            seed: self.seed,
        }
    }
}

/// Which layer is scored, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Measure {
    pick: Pick,
    statistic: Statistic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pick {
    Fixed,
    Chosen,
    Largest,
}

impl Measure {
    fn of(column: &str) -> Result<Self> {
        let (pick, name) = match column.split_once('_') {
            Some(("cv", name)) => (Pick::Chosen, name),
            Some(("max", name)) => (Pick::Largest, name),
            _ => (Pick::Fixed, column),
        };
        let statistic = Statistic::named(name).ok_or_else(|| {
            let names = Statistic::ALL.map(Statistic::name).join("`, `");
            StageError::hint(
                format!("`{column}` is no score that can be compared"),
                format!("compare one of `{names}`, or the same with `cv_` or `max_` before it"),
            )
        })?;
        Ok(Self { pick, statistic })
    }
}

/// One condition: its layers against the judgments of its group.
struct Condition {
    artifact: std::path::PathBuf,
    models: Vec<Modelled>,
}

/// Conditions with the same judgments of the same clips.
struct Group {
    judgments: Judgments,
    judged: Judged,
    ceiling: Option<f64>,
    conditions: Vec<Condition>,
}

/// What one condition gives.
struct Outcome {
    score: f64,
    replicates: Vec<f64>,
    /// Empty where permutations were not asked for.
    null: Vec<f64>,
}

struct Grid {
    measure: Measure,
    settings: Settings,
    layer: Option<String>,
    groups: Vec<Group>,
}

impl Grid {
    /// Group and place of an artifact's condition, read at its first mention.
    fn place(&mut self, artifact: &Path) -> Result<(usize, usize)> {
        for (number, group) in self.groups.iter().enumerate() {
            if let Some(place) = group.conditions.iter().position(|condition| condition.artifact == artifact) {
                return Ok((number, place));
            }
        }
        let results: Results = read_json(&artifact.join("rsa.json"))?;
        let judgments = Judgments::read(&artifact.join("human.csv"), None, None, Repeats::LeaveOut)?;
        let counts = match results.weight {
            Weight::Equal => None,
            Weight::Judgments => {
                let counts = Judgments::read(&artifact.join("counts.csv"), None, None, Repeats::LeaveOut)?;
                Some(counts.values.iter().map(|count| count.unwrap_or(0.0) as u32).collect::<Vec<u32>>())
            }
        };
        let judged = Judged::new(judgments.clips.len(), &judgments.values, counts.as_deref())
            .ok_or_else(|| StageError::new(format!("`{}` has more pairs than can be ranked", artifact.display())))?;
        let ranks: Array<f32> = npy::read(&artifact.join("ranks.npy"))?;
        let names: Vec<String> = results.layers.iter().map(|layer| layer.layer.clone()).collect();
        let wanted = match self.measure.pick {
            Pick::Fixed => vec![self.fixed(&results, &names, artifact)?],
            Pick::Chosen | Pick::Largest => (0..names.len()).collect(),
        };
        let models = wanted
            .into_iter()
            .map(|row| Modelled::new(&judged, &ranks.row(row).iter().map(|&rank| f64::from(rank)).collect::<Vec<_>>()))
            .collect();
        let condition = Condition { artifact: artifact.to_owned(), models };
        let same = |group: &Group| group.judgments == judgments && group.judged == judged;
        let number = match self.groups.iter().position(same) {
            Some(number) => number,
            None => {
                let ceiling = results.ceiling.map(|reliability| reliability.ceiling);
                self.groups.push(Group { judgments, judged, ceiling, conditions: Vec::new() });
                self.groups.len() - 1
            }
        };
        self.groups[number].conditions.push(condition);
        Ok((number, self.groups[number].conditions.len() - 1))
    }

    fn fixed(&self, results: &Results, names: &[String], artifact: &Path) -> Result<usize> {
        let text = self.layer.as_ref().unwrap_or(&results.fixed);
        let found = layer_named(text, names).and_then(|name| names.iter().position(|known| *known == name));
        found.ok_or_else(|| {
            StageError::hint(
                format!("`{}` has no layer `{text}`", artifact.display()),
                format!("its layers are `{}`", names.join("`, `")),
            )
        })
    }

    /// What every condition of every group gives, with permutations if `tested`.
    fn outcomes(&self, tested: bool, context: &Context) -> Result<Vec<Vec<Outcome>>> {
        let total = self.groups.iter().map(|group| group.conditions.len()).sum::<usize>() as u64;
        let mut done = 0;
        let mut outcomes = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            context.progress(done, total, "condition")?;
            outcomes.push(match self.measure.pick {
                Pick::Fixed | Pick::Largest => self.together(group, tested),
                Pick::Chosen => self.one_by_one(group, tested)?,
            });
            done += group.conditions.len() as u64;
        }
        Ok(outcomes)
    }

    /// All conditions of a group in one go: one permutation, or draw, serves them all.
    fn together(&self, group: &Group, tested: bool) -> Vec<Outcome> {
        let inference = Inference::new(&group.judged, &self.settings);
        let models: Vec<Modelled> =
            group.conditions.iter().flat_map(|condition| condition.models.iter().cloned()).collect();
        let scores = inference.scores(&models, self.measure.statistic);
        let replicates = inference.replicates(&models);
        let null = tested.then(|| inference.null(&models));
        let largest = |values: &[f64]| values.iter().copied().filter(|value| !value.is_nan()).fold(f64::NAN, f64::max);
        let mut start = 0;
        let mut outcomes = Vec::with_capacity(group.conditions.len());
        for condition in &group.conditions {
            let part = start..start + condition.models.len();
            let own: Vec<f64> = scores[part.clone()].iter().map(|score| score.unwrap_or(f64::NAN)).collect();
            let extreme = |row: &[f64]| match self.settings.side {
                Side::TwoSided if row.len() > 1 => row.iter().fold(0.0, |most: f64, score| most.max(score.abs())),
                _ => largest(row),
            };
            outcomes.push(Outcome {
                score: largest(&own),
                replicates: replicates.iter().map(|row| largest(&row[part.clone()])).collect(),
                null: null
                    .iter()
                    .flat_map(|null| (0..null.permutations()).map(|number| null.row(number)))
                    .map(|row| extreme(&row[part.clone()]))
                    .collect(),
            });
            start = part.end;
        }
        outcomes
    }

    fn one_by_one(&self, group: &Group, tested: bool) -> Result<Vec<Outcome>> {
        let inference = Inference::new(&group.judged, &self.settings);
        if let Some(why) = inference.too_few() {
            return Err(StageError::hint(
                format!("no layer can be chosen by cross-validation: {why}"),
                "set fewer `folds`, or compare a fixed layer (`of = \"rsa.spearman\"`)",
            ));
        }
        let one = |condition: &Condition| {
            let choice = inference.choice(&condition.models).ok_or_else(|| {
                let path = condition.artifact.display();
                StageError::hint(format!("in some fold of `{path}` nothing varies"), "set fewer `folds`")
            })?;
            let null = if tested { inference.choice_null(&condition.models) } else { Vec::new() };
            let replicates = inference.choice_replicates(&condition.models);
            Ok(Outcome { score: choice.score, replicates, null })
        };
        group.conditions.iter().map(one).collect()
    }
}

/// The mean over conditions, place by place.
fn mean(parts: &[&[f64]]) -> Vec<f64> {
    let count = parts.len() as f64;
    let length = parts.first().map_or(0, |part| part.len());
    (0..length).map(|place| parts.iter().map(|part| part[place]).sum::<f64>() / count).collect()
}

/// One row per condition, averaged over the axes of `average`.
fn scores(config: &Config, grid: &mut Grid, arms: &[Arm], context: &Context) -> Result<Vec<Row>> {
    let mut rows: std::collections::BTreeMap<Coordinates, Vec<(usize, usize)>> = std::collections::BTreeMap::new();
    for arm in arms.iter().filter(|arm| config.points.selects(&arm.coordinates)) {
        let place = grid.place(&arm.artifact)?;
        let row = rows.entry(config.row_of(arm)).or_default();
        // Points that share a step (a seed that does not matter) are one condition.
        if !row.contains(&place) {
            row.push(place);
        }
    }
    let outcomes = grid.outcomes(true, context)?;
    let mut found = Vec::with_capacity(rows.len());
    let mut nulls: Vec<Vec<f64>> = Vec::with_capacity(rows.len());
    for (coordinates, places) in &rows {
        let group = one_group(grid, places)?;
        let members: Vec<&Outcome> = places.iter().map(|&(group, place)| &outcomes[group][place]).collect();
        let each: Vec<f64> = members.iter().map(|outcome| outcome.score).collect();
        let score = each.iter().sum::<f64>() / each.len() as f64;
        let replicates = mean(&members.iter().map(|outcome| &outcome.replicates[..]).collect::<Vec<_>>());
        let null = mean(&members.iter().map(|outcome| &outcome.null[..]).collect::<Vec<_>>());
        let mut figures = Summary::new();
        figures.insert("score".into(), number(score));
        put_interval(&mut figures, replicates, config.confidence);
        let p = (!score.is_nan()).then(|| p_value(null.iter().copied(), score, config.side));
        figures.insert("p_value".into(), p.into());
        put_size(&mut figures, group, &each);
        found.push(Row { coordinates: coordinates.clone(), figures });
        nulls.push(null);
    }
    if found.is_empty() {
        return Err(StageError::hint("`points` selects no point", "let it name labels that exist"));
    }
    // Against the best of the whole grid under each permutation: stricter than each row's own p, and exact under any
    // dependence between rows.
    let extreme = |number: usize| {
        let of = |null: &Vec<f64>| if config.side == Side::TwoSided { null[number].abs() } else { null[number] };
        nulls.iter().map(of).fold(f64::MIN, f64::max)
    };
    let count = nulls.iter().map(Vec::len).min().unwrap_or(0);
    let best: Vec<f64> = (0..count).map(extreme).collect();
    for row in &mut found {
        let p = row.figures["score"].as_f64().map(|score| p_value(best.iter().copied(), score, config.side));
        row.figures.insert("p_of_all".into(), p.into());
    }
    Ok(found)
}

/// One row per difference, averaged over the axes of `average`.
fn differences(
    config: &Config,
    grid: &mut Grid,
    pairs: &[(Coordinates, Vec<Pair>)],
    context: &Context,
) -> Result<Vec<Row>> {
    let mut places = Vec::with_capacity(pairs.len());
    for (_, pairs) in pairs {
        let of = |(first, second): &Pair| Ok([grid.place(first)?, grid.place(second)?]);
        places.push(pairs.iter().map(of).collect::<Result<Vec<_>>>()?);
    }
    let outcomes = grid.outcomes(false, context)?;
    let mut rows = Vec::with_capacity(pairs.len());
    for ((coordinates, _), places) in pairs.iter().zip(&places) {
        let group = one_group(grid, &places.concat())?;
        let side = |which: usize| -> Vec<&Outcome> {
            places.iter().map(|pair| &outcomes[pair[which].0][pair[which].1]).collect()
        };
        let (minuend, subtrahend) = (side(0), side(1));
        let each: Vec<f64> = minuend.iter().zip(&subtrahend).map(|(a, b)| a.score - b.score).collect();
        let draws = |side: &[&Outcome]| mean(&side.iter().map(|outcome| &outcome.replicates[..]).collect::<Vec<_>>());
        let replicates: Vec<f64> =
            draws(&minuend).iter().zip(draws(&subtrahend)).map(|(first, second)| first - second).collect();
        let score = |side: &[&Outcome]| side.iter().map(|outcome| outcome.score).sum::<f64>() / side.len() as f64;
        let mut figures = Summary::new();
        figures.insert("difference".into(), number(score(&minuend) - score(&subtrahend)));
        let defined: Vec<f64> = replicates.iter().copied().filter(|value| !value.is_nan()).collect();
        put_interval(&mut figures, replicates, config.confidence);
        figures.insert("minuend".into(), number(score(&minuend)));
        figures.insert("subtrahend".into(), number(score(&subtrahend)));
        let p = (!figures["low"].is_null()).then(|| two_sided_p(&defined));
        figures.insert("p_value".into(), p.into());
        put_size(&mut figures, group, &each);
        rows.push(Row { coordinates: coordinates.clone(), figures });
    }
    Ok(rows)
}

/// The group that all these conditions belong to.
fn one_group<'a>(grid: &'a Grid, places: &[(usize, usize)]) -> Result<&'a Group> {
    let first = places[0];
    if let Some(other) = places.iter().find(|place| place.0 != first.0) {
        let path = |(group, place): (usize, usize)| grid.groups[group].conditions[place].artifact.display().to_string();
        return Err(StageError::hint(
            format!("`{}` and `{}` were scored against other judgments or other clips", path(first), path(*other)),
            "give both the same `human`, `clips`, `unobserved` and `weight`, and let them embed the same clips",
        ));
    }
    Ok(&grid.groups[first.0])
}

/// JSON has no NaN: a score that is not defined is null.
fn number(value: f64) -> serde_json::Value {
    if value.is_nan() { serde_json::Value::Null } else { value.into() }
}

fn put_interval(figures: &mut Summary, replicates: Vec<f64>, confidence: f64) {
    let (low, high) = interval(replicates, confidence).unzip();
    figures.insert("low".into(), low.into());
    figures.insert("high".into(), high.into());
}

fn put_size(figures: &mut Summary, group: &Group, seeds: &[f64]) {
    if let Some(deviation) = deviation(seeds) {
        figures.insert("seed_deviation".into(), number(deviation));
    }
    figures.insert("ceiling".into(), group.ceiling.into());
    figures.insert("clips".into(), group.judged.stimuli().into());
    figures.insert("pairs".into(), group.judged.pairs().into());
    figures.insert("seeds".into(), seeds.len().into());
}
