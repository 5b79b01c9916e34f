//! `scores`: how many bits one arm's scores are above another's, on the same targets, and what that says.
//!
//! Differences are minuend − subtrahend, target by target, averaged over seeds, summed, and divided by the number of
//! words (`difference`, `low`, `high`) and of captions (`…_per_caption`). The interval is the percentile interval of a
//! cluster bootstrap; all targets of a drawn cluster count as often as it is drawn, and every replicate averages over
//! the seeds. p is two-sided from the same replicates, adjusted by Holm's method over a family that the file fixes.
//! With a margin there are two one-sided tests beside it: equivalent is what has the interval of share 2 · confidence − 1
//! (90 % for 95 %) within ± margin.
//!
//! What is asked decides what the figures may be called. *Information* is NLL(constant token, same training) −
//! NLL(method): an amount, in bits. *Dependence* is NLL(wrong clip) − NLL(right clip): a wrong clip misleads, which costs
//! more bits than there are, so only its sign is tested and no amount of it is ever written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairing::{Coordinates, Correcting, average, axes, deviation, listed, rows, side};
use super::targets::Tables;
use super::{Arm, Comparison, Row, Selection, verdict};
use crate::stages::{Context, Result, StageError, Summary};
use crate::stats::bootstrap::{equivalence_p, percentile, ratio_replicates, two_sided_p};
use crate::stats::defaults;
use crate::stats::random::Streams;

/// See the module.
pub struct Scores;

/// What the difference of two sides means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Asks {
    /// No more than how far the two sides are apart.
    #[default]
    Difference,
    /// What tokens tell of their clip: the minuend has the same token for every clip after the same training.
    Information,
    /// Whether scores depend on the clip: the minuend has the tokens of wrong clips. A test; no bits are written.
    Dependence,
}

/// What is drawn together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("x-aliases" = ["session"]))]
pub enum Cluster {
    /// Each clip on its own.
    #[default]
    Clip,
    /// The clips of one group: a session, a source video.
    #[serde(alias = "session")]
    Group,
}

/// Settings of `scores`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the difference means.
    #[serde(default)]
    pub asks: Asks,
    /// The points whose scores are taken first.
    pub minuend: Selection,
    /// The points whose scores are taken away.
    pub subtrahend: Selection,
    /// Points whose bits stand beside the two (text alone, `{ inject = "none", ablation = "base" }`).
    #[serde(default)]
    pub beside: Option<Selection>,
    /// Points with the tokens of wrong clips: rows then tell whether the subtrahend's scores depend on the clip.
    #[serde(default)]
    pub wrong: Option<Selection>,
    /// Axes on which a pair of points must agree (`target` is always among them). Left out: every axis that neither
    /// `minuend` nor `subtrahend` names.
    #[serde(default)]
    #[schemars(extend("x-coordinates" = ["target"]))]
    pub pair_by: Vec<String>,
    /// Axes (or `ablation`) along which the subtrahend makes rows of its own, each against the same minuend: all controls
    /// against text alone, say.
    #[serde(default)]
    #[schemars(extend("x-coordinates" = []))]
    pub each: Vec<String>,
    /// Axes of `pair_by` that are averaged over, inside each replicate; the others make rows.
    #[serde(default = "average")]
    #[schemars(extend("x-coordinates" = ["seed"]))]
    pub average: Vec<String>,
    /// What is drawn together.
    #[serde(default)]
    pub cluster: Cluster,
    /// How p values are corrected.
    #[serde(flatten)]
    pub correcting: Correcting,
    /// A difference within ± this many bits per word counts as none: rows get `equivalent`, true when the interval of
    /// share 2 · `confidence` − 1 lies within (two one-sided tests).
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub margin: Option<f64>,
    /// Bootstrap replicates.
    #[serde(default = "defaults::draws")]
    #[schemars(range(min = 100))]
    pub replicates: usize,
    /// Share of the replicates inside the interval.
    #[serde(default = "defaults::confidence")]
    #[schemars(range(min = 0.5, max = 0.9999))]
    pub confidence: f64,
    /// Draws the clusters.
    #[serde(default)]
    pub seed: u64,
}

impl Comparison for Scores {
    const KIND: &'static str = "scores";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "Paired differences of scores on the same targets, with cluster bootstrap, Holm's correction, equivalence and a \
         verdict in words";
    const FIGURES: &'static [&'static str] = &[
        "difference",
        "low",
        "high",
        "p_value",
        "p_adjusted",
        "verdict",
        "minuend",
        "subtrahend",
        "beside",
        "seed_deviation",
        "difference_per_caption",
        "low_per_caption",
        "high_per_caption",
        "minuend_per_caption",
        "subtrahend_per_caption",
        "beside_per_caption",
        "seed_deviation_per_caption",
        "margin",
        "equivalent",
        "equivalence_low",
        "equivalence_high",
        "equivalence_p_value",
        "depends",
        "misleads",
        "dependence_p_value",
        "dependence_p_adjusted",
        "pairs",
        "clusters",
        "seeds",
    ];
    type Config = Config;

    fn rows(config: &Config, arms: &[Arm]) -> Result<Vec<Coordinates>> {
        Ok(matched(config, arms)?.into_iter().map(|(coordinates, _)| coordinates).collect())
    }

    fn run(config: &Config, column: &str, arms: &[Arm], context: &Context) -> Result<Vec<Row>> {
        let found = matched(config, arms)?;
        check_wrong_clips(config, &found)?;
        let mut tables = Tables::new(column, config.cluster);
        let mut rows = Vec::new();
        let total = found.len() as u64;
        for (done, (coordinates, pairs)) in found.into_iter().enumerate() {
            context.progress(done as u64, total, "row")?;
            let figures = compare(config, &mut tables, &pairs)?;
            rows.push(Row { coordinates, figures });
        }
        for figures in [("p_value", "p_adjusted"), ("dependence_p_value", "dependence_p_adjusted")] {
            config.correcting.adjust(&mut rows, figures);
        }
        verdict::judge(config, &mut rows);
        Ok(rows)
    }

    fn verdict(config: &Config, rows: &[Row]) -> Option<String> {
        Some(verdict::sentence(config, rows))
    }
}

/// The artifacts of one combination of what is averaged over.
struct Pair {
    /// Its labels.
    place: Coordinates,
    minuend: PathBuf,
    subtrahend: PathBuf,
    beside: Option<PathBuf>,
    wrong: Option<PathBuf>,
}

/// Row → its pairs of artifacts, one per combination of what is averaged over.
fn matched(config: &Config, arms: &[Arm]) -> Result<Vec<(Coordinates, Vec<Pair>)>> {
    let by = axes(&config.minuend, &config.subtrahend, &config.pair_by, &config.each, arms)?;
    let of_subtrahend: Vec<&String> =
        by.iter().copied().chain(config.each.iter().filter(|axis| !by.contains(axis))).collect();
    // Wrong clips are an ablation of their own, so rows by ablation share them.
    let of_wrong: Vec<&String> = of_subtrahend.iter().copied().filter(|axis| *axis != "ablation").collect();
    // What stands beside is the same for all labels of the axes that its selection fixes.
    let beside_by: Vec<&String> = match &config.beside {
        Some(beside) => by.iter().copied().filter(|axis| !beside.0.contains_key(*axis)).collect(),
        None => Vec::new(),
    };
    let minuend = side(arms, &config.minuend, "minuend", &by)?;
    let subtrahend = side(arms, &config.subtrahend, "subtrahend", &of_subtrahend)?;
    let beside = config.beside.as_ref().map(|beside| side(arms, beside, "beside", &beside_by)).transpose()?;
    let wrong = config.wrong.as_ref().map(|wrong| side(arms, wrong, "wrong", &of_wrong)).transpose()?;
    let (mut found, mut idle) = (Vec::new(), Vec::new());
    for (key, second) in subtrahend {
        let on = |axes: &[&String]| -> Coordinates {
            let shared = key.iter().filter(|(axis, _)| axes.contains(axis));
            shared.map(|(axis, label)| (axis.clone(), label.clone())).collect()
        };
        let Some(first) = minuend.get(&on(&by)) else { continue };
        let beside = beside.as_ref().map(|found| partner(found, &on(&beside_by), "beside")).transpose()?;
        let wrong = wrong.as_ref().map(|found| partner(found, &on(&of_wrong), "wrong")).transpose()?;
        // Where an ablation changes nothing (wrong clips without social tokens) its point is the base's.
        let swapped = if config.asks == Asks::Dependence { Some(first) } else { wrong.as_ref() };
        if swapped == Some(&second) {
            idle.push(if key.is_empty() { "the only pair".to_owned() } else { listed(&key) });
            continue;
        }
        let pair = Pair { place: key.clone(), minuend: first.clone(), subtrahend: second, beside, wrong };
        found.push((key, pair));
    }
    if found.is_empty() && !idle.is_empty() {
        return Err(StageError::hint(
            format!("wrong clips change nothing at {}", idle.join("; ")),
            "compare points that have social tokens, and let the ablation set `pairing` of the `perplexity` stage",
        ));
    }
    for place in idle {
        tracing::info!("left out of the comparison: {place}, where wrong clips change nothing");
    }
    rows(found, &config.average)
}

fn partner(found: &BTreeMap<Coordinates, PathBuf>, key: &Coordinates, name: &str) -> Result<PathBuf> {
    found.get(key).cloned().ok_or_else(|| {
        StageError::hint(
            format!("no point of `{name}` belongs to {}", if key.is_empty() { "any row".into() } else { listed(key) }),
            format!("let `{name}` choose a point for every pair of `minuend` and `subtrahend`"),
        )
    })
}

/// Arms that were given wrong clips have a `pairing.csv`. They belong where dependence is tested and nowhere else.
fn check_wrong_clips(config: &Config, rows: &[(Coordinates, Vec<Pair>)]) -> Result<()> {
    if config.asks == Asks::Dependence && config.wrong.is_some() {
        return Err(StageError::hint(
            "`wrong` has nothing to say beside `asks = \"dependence\"`, whose minuend has the wrong clips",
            "leave `wrong` out, or ask for `information`",
        ));
    }
    let paired = |artifact: &Path| artifact.join("pairing.csv").is_file();
    for pair in rows.iter().flat_map(|(_, pairs)| pairs) {
        let amount = config.asks != Asks::Dependence;
        if (amount && paired(&pair.minuend)) || paired(&pair.subtrahend) {
            return Err(StageError::hint(
                "a difference to the scores under wrong clips is no amount of information: a wrong clip misleads",
                "set `asks = \"dependence\"` with the wrong clips as `minuend`, or name them in `wrong`",
            ));
        }
        let wrong = pair.wrong.as_ref().or((!amount).then_some(&pair.minuend));
        if wrong.is_some_and(|wrong| !paired(wrong)) {
            let place = if pair.place.is_empty() { String::new() } else { format!(" at {}", listed(&pair.place)) };
            return Err(StageError::hint(
                format!("the point that should have the tokens of wrong clips{place} has those of its own"),
                "let its ablation set `pairing` of the `perplexity` stage to `wrong_clip` or `wrong_clip_of_group`, or leave the \
                 point out with `where` in the ablation and in the comparison",
            ));
        }
    }
    Ok(())
}

/// Sums of differences of one row.
struct Sums {
    /// Of each cluster, averaged over pairs.
    clusters: Vec<f64>,
    /// Of each pair.
    pairs: Vec<f64>,
}

/// The figures of one row.
fn compare(config: &Config, tables: &mut Tables, pairs: &[Pair]) -> Result<Summary> {
    let first = (tables.get(&pairs[0].minuend)?, pairs[0].minuend.clone());
    let clusters = first.0.sizes.len();
    let mut difference = |left: &dyn Fn(&Pair) -> PathBuf| -> Result<Sums> {
        let mut sums = Sums { clusters: vec![0.0; clusters], pairs: Vec::new() };
        for pair in pairs {
            let (left, right) = (tables.like(&left(pair), &first)?, tables.like(&pair.subtrahend, &first)?);
            let mut total = 0.0;
            for ((&cluster, left), right) in first.0.clusters.iter().zip(&left.bits).zip(&right.bits) {
                sums.clusters[cluster] += (left - right) / pairs.len() as f64;
                total += left - right;
            }
            sums.pairs.push(total);
        }
        Ok(sums)
    };
    let sums = difference(&|pair| pair.minuend.clone())?;
    let wrong = match config.wrong {
        Some(_) => Some(difference(&|pair| pair.wrong.clone().unwrap_or_default())?),
        None => None,
    };
    let mut level = |of: &dyn Fn(&Pair) -> Option<PathBuf>| -> Result<Option<f64>> {
        let found: Vec<PathBuf> = pairs.iter().filter_map(of).collect();
        let mut total = 0.0;
        for artifact in &found {
            total += tables.like(artifact, &first)?.bits.iter().sum::<f64>() / found.len() as f64;
        }
        Ok((!found.is_empty()).then_some(total))
    };
    let levels = [
        ("minuend", level(&|pair| Some(pair.minuend.clone()))?),
        ("subtrahend", level(&|pair| Some(pair.subtrahend.clone()))?),
        ("beside", level(&|pair| pair.beside.clone())?),
    ];
    let words: Vec<f64> = first.0.sizes.iter().map(|size| size.0).collect();
    let captions: Vec<f64> = first.0.sizes.iter().map(|size| size.1).collect();
    let streams = Streams::new(config.seed, Scores::KIND);
    let sorted = |sums: &Sums, sizes: &[f64]| {
        let mut replicates = ratio_replicates(&sums.clusters, sizes, config.replicates, &streams);
        replicates.sort_by(f64::total_cmp);
        replicates
    };
    let mut figures = Summary::new();
    let by_word = sorted(&sums, &words);
    if config.asks == Asks::Dependence {
        figures.insert("p_value".into(), two_sided_p(&by_word).into());
        figures.insert("misleads".into(), (sums.clusters.iter().sum::<f64>() > 0.0).into());
    } else {
        for (suffix, sizes) in [("", &words), ("_per_caption", &captions)] {
            let size: f64 = sizes.iter().sum();
            let replicates = if suffix.is_empty() { by_word.clone() } else { sorted(&sums, sizes) };
            let mut put = |name: &str, value: f64| figures.insert(format!("{name}{suffix}"), value.into());
            let tail = (1.0 - config.confidence) / 2.0;
            put("difference", sums.clusters.iter().sum::<f64>() / size);
            put("low", percentile(&replicates, tail));
            put("high", percentile(&replicates, 1.0 - tail));
            for (name, bits) in levels {
                bits.map(|bits| put(name, bits / size));
            }
            deviation(&sums.pairs).map(|deviation| put("seed_deviation", deviation / size));
        }
        figures.insert("p_value".into(), two_sided_p(&by_word).into());
        equivalence(config, &by_word, &mut figures);
    }
    if let Some(wrong) = wrong {
        figures.insert("dependence_p_value".into(), two_sided_p(&sorted(&wrong, &words)).into());
        figures.insert("misleads".into(), (wrong.clusters.iter().sum::<f64>() > 0.0).into());
    }
    figures.insert("pairs".into(), first.0.bits.len().into());
    figures.insert("clusters".into(), clusters.into());
    figures.insert("seeds".into(), pairs.len().into());
    Ok(figures)
}

/// Two one-sided tests against the margin, and the interval that goes with them.
fn equivalence(config: &Config, sorted: &[f64], figures: &mut Summary) {
    let Some(margin) = config.margin else { return };
    let tail = 1.0 - config.confidence;
    let (low, high) = (percentile(sorted, tail), percentile(sorted, 1.0 - tail));
    figures.insert("margin".into(), margin.into());
    figures.insert("equivalence_low".into(), low.into());
    figures.insert("equivalence_high".into(), high.into());
    figures.insert("equivalence_p_value".into(), equivalence_p(sorted, margin).into());
    figures.insert("equivalent".into(), (low > -margin && high < margin).into());
}

#[cfg(test)]
mod tests;
