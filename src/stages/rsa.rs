//! `rsa`: how alike the model's and people's similarity of clips are, layer by layer.
//!
//! Scores are rank correlations over the strict upper triangles of two matrices: the similarity of pooled vectors (or a
//! matrix from elsewhere), and human judgments. Pairs of clips are not independent, so p comes from permutations of clip
//! labels and intervals from a bootstrap of clips ([`crate::stats::inference`]); scipy's p is given beside them because the
//! original quotes it. `rsa.json` and `layers.csv` hold the whole curve; `ranks.npy` and `human.csv` are what comparisons read.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::embedded::Model;
use super::{Context, Inputs, Result, Stage, StageError, Summary, Upstream};
use crate::npy::{self, Array};
use crate::social::columns::{Columns, broken};
use crate::social::judgments::{Judgments, read_names, write_square};
use crate::social::packs::write_json;
use crate::social::pairing;
use crate::social::pooling::Positions;
use crate::social::seen::Seen;
use crate::stats::inference::{Chosen, Inference, LayerFigures};
use crate::stats::pairs::{Judged, MOST_WEIGHT, Modelled};
use crate::stats::permutation::Side;
use crate::stats::random::Streams;
use crate::stats::ranks::{Statistic, spearman_p};
use crate::stats::reliability::Reliability;
use crate::stats::rsm::triangle;
use crate::stats::stimuli::best;

mod config;

pub use config::{Clips, Config, Labels, Unobserved, Weight};
pub(super) use config::{layer, pool};

/// See the module.
pub struct Rsa;

/// One layer of `rsa.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Layer {
    /// Its name.
    pub layer: String,
    /// Its figures.
    #[serde(flatten)]
    pub figures: LayerFigures,
}

/// The best layer, selected on the data that it is scored on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Maximum {
    /// Its name.
    pub layer: String,
    /// Its score, too high because it is the best of many.
    pub score: f64,
    /// p against the best under each permutation.
    pub p_value: Option<f64>,
    /// Always true: a reminder to readers of the file.
    pub selected_on_tested_data: bool,
}

/// A layer chosen on the other splits, scored on one that was left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldOut {
    /// The split.
    pub split: String,
    /// The layer that is best on the other splits.
    pub layer: String,
    /// Clips of the split.
    pub clips: usize,
    /// Judged pairs of them.
    pub pairs: usize,
    /// Reliability of the judgments of them.
    pub ceiling: Option<Reliability>,
    /// The layer's figures on them.
    #[serde(flatten)]
    pub figures: LayerFigures,
}

/// `rsa.json`: see `docs/rsa.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Clips compared.
    pub clips: usize,
    /// Pairs of them that count.
    pub pairs: usize,
    /// Pairs that nobody judged.
    pub unobserved: usize,
    /// How much a pair counts.
    pub weight: Weight,
    /// The statistic of intervals, p values and choices.
    pub statistic: Statistic,
    /// Which permuted scores count as extreme.
    pub side: Side,
    /// Permutations of labels.
    pub permutations: usize,
    /// Bootstrap draws.
    pub replicates: usize,
    /// Share of the draws inside an interval.
    pub confidence: f64,
    /// Reliability of the judgments and the ceiling of a correlation; `None` without trials.
    pub ceiling: Option<Reliability>,
    /// Every layer of the curve, in order; the rows of `ranks.npy`.
    pub layers: Vec<Layer>,
    /// The layer fixed beforehand.
    pub fixed: String,
    /// The layer chosen by cross-validation; `None` when that is not possible.
    pub cross_validated: Option<Chosen>,
    /// Why it is not.
    pub not_cross_validated: Option<String>,
    /// The best layer.
    pub maximum: Option<Maximum>,
    /// With `held_out`.
    pub held_out: Option<HeldOut>,
}

impl Stage for Rsa {
    const KIND: &'static str = "rsa";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "Correlates the model's similarity of clips with human judgments, layer by layer, with permutation p and intervals";
    const GIVES: &'static [&'static str] = &["rsa"];
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &Upstream) {
        if config.compared.matrix.is_some() {
            config.ignore_vectors();
        } else {
            config.compared.matrix_file = None;
        }
        config.exclude_bos &= Positions::may_exclude_bos(config.pool);
        if config.held_out.is_none() {
            config.splits = None;
        }
        if config.labels == Labels::Own {
            config.labels_seed = 0;
        }
    }

    fn check(config: &Config) -> Result<()> {
        config.compared.check()
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let names = inputs.optional("names").map(|input| read_names(&input.path)).transpose()?;
        let human = &inputs.get("human")?.path;
        let mut judgments = Judgments::read(human, config.human_file.as_deref(), names.as_ref(), config.repeats)?;
        let repeated = judgments.trials.as_ref().map(|trials| (trials.trials.len(), trials.repeated()));
        let positions = Positions::of_pool(config.pool, config.exclude_bos);
        let vectors = Model::open(inputs, &config.compared, (positions, config.similarity), config.repeats)?;
        let seen = inputs.optional("embeddings").map(|vectors| Seen::load(&vectors.path)).transpose()?.flatten();
        if config.clips == Clips::Common {
            judgments = judgments.only(|clip| vectors.has(clip));
        }
        let judged = judgments.clips.iter().map(String::as_str);
        let seen = seen.map(|seen| seen.check(judged, config.allow_seen_clips)).transpose()?;
        let held_out = match &config.held_out {
            Some(split) => {
                let tested = clips_of(&inputs.get("splits")?.path, split)?;
                let part = judgments.among(|clip| tested.contains(clip));
                if part.clips.len() < 3 {
                    return Err(StageError::hint(
                        format!("split `{split}` has {} judged clips", part.clips.len()),
                        "name a split of `splits` whose clips were judged, or leave `held_out` out",
                    ));
                }
                judgments = judgments.among(|clip| !tested.contains(clip));
                Some((split.clone(), part))
            }
            None => None,
        };
        let mut pairs = Pairs::default();
        let mut results = curve(config, &judgments, &vectors, &mut pairs, context)?;
        let mut summary = summarised(config, &judgments, &results);
        if let Some((all, repeated)) = repeated {
            summary.insert("trials".into(), all.into());
            summary.insert("repeated_trials".into(), repeated.into());
        }
        if let Some(seen) = seen {
            summary.insert("clips_seen_by_encoder".into(), seen.into());
        }
        if let Some((split, part)) = held_out {
            let tested = tested(config, split, &part, &vectors, &results, &mut pairs)?;
            put_layer(&mut summary, "test_", &tested.figures);
            summary.insert("test_layer".into(), tested.layer.clone().into());
            summary.insert("test_clips".into(), tested.clips.into());
            summary.insert("test_pairs".into(), tested.pairs.into());
            summary.insert("test_ceiling".into(), tested.ceiling.map(|reliability| reliability.ceiling).into());
            results.held_out = Some(tested);
        }
        write_json(&context.folder().join("rsa.json"), &results)?;
        write_layers(context, &results)?;
        if config.labels == Labels::Permuted {
            pairing::write(context.folder(), pairs.iter().map(|(clip, source)| (clip.as_str(), source.as_str())))?;
        }
        Ok(summary)
    }
}

/// The judged side, with gaps left out or filled, and its weights.
fn judged_side(config: &Config, judgments: &Judgments) -> Result<Judged> {
    let values: Vec<Option<f64>> = match config.unobserved {
        Unobserved::Mask => judgments.values.clone(),
        Unobserved::Zero => judgments.values.iter().map(|value| Some(value.unwrap_or(0.0))).collect(),
    };
    let counts = match (config.weight, &judgments.shown) {
        (Weight::Equal, _) => None,
        (Weight::Judgments, Some(shown)) => Some(shown.as_slice()),
        (Weight::Judgments, None) => {
            return Err(StageError::hint(
                "`weight = \"judgments\"` needs to know how often each pair was judged",
                "give `human` as trials, not as a matrix",
            ));
        }
    };
    Judged::new(judgments.clips.len(), &values, counts).ok_or_else(|| {
        StageError::hint(
            format!("{} clips make more pairs or judgments than the {MOST_WEIGHT} that can be ranked", values.len()),
            "compare fewer clips",
        )
    })
}

/// Clips, each with the one whose vectors it gets.
type Pairs = Vec<(String, String)>;

/// All but the held-out split. Writes the matrices.
fn curve(
    config: &Config,
    judgments: &Judgments,
    vectors: &Model,
    pairs: &mut Pairs,
    context: &Context,
) -> Result<Results> {
    let judged = judged_side(config, judgments)?;
    let clips = &config.labels.sources(&judgments.clips, config.labels_seed, "labels");
    pairs.extend(judgments.clips.iter().cloned().zip(clips.iter().cloned()));
    let (layers, fixed) = vectors.layers(&config.layer, config.layers.as_deref())?;
    let (mut models, mut ranks) = (Vec::with_capacity(layers.len()), Vec::new());
    for (number, layer) in layers.iter().enumerate() {
        context.progress(number as u64, layers.len() as u64 + 1, "layer")?;
        let model = match vectors.similarity(clips, layer)? {
            Ok(similarity) => similarity,
            Err(clip) if *layer == fixed => {
                let why = format!("the vector of clip `{clip}` has no direction to compare");
                return Err(StageError::hint(why, "choose another `layer`, `pool` or `similarity`"));
            }
            // A layer of the curve without directions has no score, as one in which all clips are alike.
            Err(_) => vec![0.0; clips.len() * clips.len()],
        };
        if *layer == fixed {
            let values = model.iter().map(|&value| value as f32).collect();
            npy::write(&context.folder().join("rsm.npy"), &Array::new([clips.len(); 2], values))?;
        }
        let model = Modelled::new(&judged, &triangle(&model, clips.len()));
        ranks.extend(model.ranks());
        models.push(model);
    }
    let pairs = clips.len() * clips.len().saturating_sub(1) / 2;
    npy::write(&context.folder().join("ranks.npy"), &Array::new([layers.len(), pairs], ranks))?;
    write_human(config, judgments, context)?;

    let settings = config.settings();
    let inference = Inference::new(&judged, &settings);
    let figures = inference.layers(&models);
    let place = layers.iter().position(|layer| *layer == fixed).unwrap_or_default();
    if figures[place].score(config.statistic).is_none() {
        return Err(StageError::new(format!(
            "{} judged pairs of {} clips give no correlation",
            judged.pairs(),
            clips.len()
        )));
    }
    let maximum = best(figures.iter().map(|figures| figures.score(config.statistic))).map(|place| Maximum {
        layer: layers[place].clone(),
        score: figures[place].score(config.statistic).unwrap_or_default(),
        p_value: figures[place].p_of_all,
        selected_on_tested_data: true,
    });
    let (cross_validated, not_cross_validated) = match inference.too_few() {
        Some(why) => (None, Some(why)),
        None => match inference.chosen(&models) {
            Some(chosen) => (Some(chosen), None),
            None => (None, Some("in some fold nothing varies".to_owned())),
        },
    };
    if let Some(why) = &not_cross_validated {
        tracing::warn!("no layer is chosen by cross-validation: {why}");
    }
    let streams = Streams::new(config.rsa_seed, Rsa::KIND);
    Ok(Results {
        clips: clips.len(),
        pairs: judged.pairs(),
        unobserved: judgments.unobserved(),
        weight: config.weight,
        statistic: config.statistic,
        side: config.side,
        permutations: config.permutations,
        replicates: config.replicates,
        confidence: config.confidence,
        ceiling: judgments.reliability(config.unobserved == Unobserved::Zero, config.ceiling_splits, &streams),
        layers: layers.into_iter().zip(figures).map(|(layer, figures)| Layer { layer, figures }).collect(),
        fixed,
        cross_validated,
        not_cross_validated,
        maximum,
        held_out: None,
    })
}

/// The layer that is best on the other splits, on the held-out one.
fn tested(
    config: &Config,
    split: String,
    part: &Judgments,
    vectors: &Model,
    results: &Results,
    pairs: &mut Pairs,
) -> Result<HeldOut> {
    let layer = results.maximum.as_ref().map_or_else(|| results.fixed.clone(), |maximum| maximum.layer.clone());
    let judged = judged_side(config, part)?;
    let clips = config.labels.sources(&part.clips, config.labels_seed, "held-out labels");
    let similarity = vectors.similarity(&clips, &layer)?;
    let similarity = similarity.map_err(|clip| {
        StageError::new(format!("the vector of clip `{clip}` has no direction to compare in layer `{layer}`"))
    })?;
    let models = [Modelled::new(&judged, &triangle(&similarity, part.clips.len()))];
    let settings = config.settings();
    let figures = Inference::new(&judged, &settings).layers(&models).swap_remove(0);
    pairs.extend(part.clips.iter().cloned().zip(clips));
    let streams = Streams::new(config.rsa_seed, Rsa::KIND);
    let zeros = config.unobserved == Unobserved::Zero;
    let ceiling = part.reliability(zeros, config.ceiling_splits, &streams);
    Ok(HeldOut { split, layer, clips: part.clips.len(), pairs: judged.pairs(), ceiling, figures })
}

fn put_layer(summary: &mut Summary, prefix: &str, figures: &LayerFigures) {
    let LayerFigures { spearman, rho_a, kendall_tau_a, low, high, p_value, p_of_all: _ } = figures;
    for (name, value) in [
        ("spearman", spearman),
        ("rho_a", rho_a),
        ("kendall_tau_a", kendall_tau_a),
        ("low", low),
        ("high", high),
        ("p_value", p_value),
    ] {
        summary.insert(format!("{prefix}{name}"), (*value).into());
    }
}

fn summarised(config: &Config, judgments: &Judgments, results: &Results) -> Summary {
    let mut summary = Summary::new();
    if let Some(fixed) = results.layers.iter().find(|layer| layer.layer == results.fixed) {
        put_layer(&mut summary, "", &fixed.figures);
        // Weights are integers, so equal weights are what scipy has.
        let scipy = fixed.figures.spearman.filter(|_| config.weight == Weight::Equal);
        let scipy = scipy.map(|rho| spearman_p(rho, results.pairs));
        summary.insert("scipy_p_value".into(), scipy.into());
    }
    let ceiling = results.ceiling;
    summary.insert("ceiling".into(), ceiling.map(|reliability| reliability.ceiling).into());
    summary.insert("split_half".into(), ceiling.map(|reliability| reliability.split_half).into());
    summary.insert("spearman_brown".into(), ceiling.map(|reliability| reliability.spearman_brown).into());
    let statistic = config.statistic.name();
    let chosen = results.cross_validated.as_ref();
    summary.insert(format!("cv_{statistic}"), chosen.map(|chosen| chosen.score).into());
    summary.insert("cv_low".into(), chosen.and_then(|chosen| chosen.low).into());
    summary.insert("cv_high".into(), chosen.and_then(|chosen| chosen.high).into());
    summary.insert("cv_p_value".into(), chosen.and_then(|chosen| chosen.p_value).into());
    let names = chosen.map(|chosen| {
        let names: Vec<&str> = chosen.layers.iter().map(|&place| results.layers[place].layer.as_str()).collect();
        names.join(" ")
    });
    summary.insert("cv_layers".into(), names.into());
    let maximum = results.maximum.as_ref();
    summary.insert(format!("max_{statistic}"), maximum.map(|maximum| maximum.score).into());
    summary.insert("max_layer".into(), maximum.map(|maximum| maximum.layer.clone()).into());
    summary.insert("max_p_value".into(), maximum.and_then(|maximum| maximum.p_value).into());
    summary.insert("max_is_selected_on_tested_data".into(), true.into());
    summary.insert("layers".into(), results.layers.len().into());
    summary.insert("pairs".into(), results.pairs.into());
    summary.insert("clips".into(), judgments.clips.len().into());
    summary.insert("unobserved".into(), results.unobserved.into());
    summary
}

/// `layers.csv`: the curve, one line per layer.
fn write_layers(context: &Context, results: &Results) -> Result<()> {
    let path = context.folder().join("layers.csv");
    let failed = |error: csv::Error| broken(&path, &error);
    let mut writer = csv::Writer::from_path(&path).map_err(failed)?;
    let header = ["layer", "spearman", "rho_a", "kendall_tau_a", "low", "high", "p_value", "p_of_all", "ceiling"];
    writer.write_record(header).map_err(failed)?;
    let ceiling = results.ceiling.map(|reliability| reliability.ceiling);
    for Layer { layer, figures } in &results.layers {
        let LayerFigures { spearman, rho_a, kendall_tau_a, low, high, p_value, p_of_all } = figures;
        let numbers = [*spearman, *rho_a, *kendall_tau_a, *low, *high, *p_value, *p_of_all, ceiling];
        let cells = numbers.map(|number| number.map_or_else(String::new, |number| number.to_string()));
        writer.write_record(std::iter::once(layer.clone()).chain(cells)).map_err(failed)?;
    }
    writer.flush().map_err(StageError::io(&path))
}

/// `human.csv` as compared (gaps filled if they count as 0), `counts.csv`, and `clips.csv`.
fn write_human(config: &Config, judgments: &Judgments, context: &Context) -> Result<()> {
    let mut filled = judgments.clone();
    if config.unobserved == Unobserved::Zero {
        filled.values.iter_mut().for_each(|value| *value = Some(value.unwrap_or(0.0)));
    }
    filled.write(&context.folder().join("human.csv"))?;
    if let Some(shown) = &judgments.shown {
        write_square(&context.folder().join("counts.csv"), &judgments.clips, |cell| shown[cell].to_string())?;
    }
    let path = context.folder().join("clips.csv");
    let lines = std::iter::once("clip_id").chain(judgments.clips.iter().map(String::as_str));
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n") + "\n").map_err(StageError::io(&path))
}

/// The clips of a split, from a CSV with the columns `clip_id` and `split`, or a folder with `split.csv`.
fn clips_of(path: &Path, split: &str) -> Result<HashSet<String>> {
    let path = if path.is_dir() { path.join("split.csv") } else { path.to_owned() };
    let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
    let columns = Columns::of(&path, &mut reader)?;
    let (id, of) = (columns.need("clip_id")?, columns.need("split")?);
    let mut found = HashSet::new();
    for row in reader.records() {
        let row = row.map_err(|error| broken(&path, &error))?;
        if &row[of] == split {
            found.insert(row[id].to_owned());
        }
    }
    Ok(found)
}
