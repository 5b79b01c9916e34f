//! `odd_one_out`: how often the model's similarity makes the choice that a person made.
//!
//! The similarity is that of pooled vectors, or a matrix from elsewhere. Of a trial's three clips a person called one odd
//! and so kept the other two. Three-way accuracy asks whether the kept pair is the most similar of the three pairs (chance
//! 1/3). Two-way accuracy takes each of the two kept clips as an anchor and asks whether it is more similar to the other
//! one than to the odd one (chance 1/2); both anchors count, because picking one leaves the figure to the order in which
//! clips are written. Ties share the credit. Intervals come from a bootstrap of clips: a trial counts as often as the
//! product of its clips' draws.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::embedded::{Compared, Model};
use super::rsa::{Clips, Labels, layer, pool};
use super::{Context, Inputs, Reference, Result, Stage, StageError, Summary, Upstream};
use crate::social::columns::broken;
use crate::social::judgments::{Judgments, read_names};
use crate::social::packs::write_json;
use crate::social::pairing;
use crate::social::pooling::{Pool, Positions};
use crate::stats::defaults;
use crate::stats::random::Streams;
use crate::stats::rsm::Similarity;
use crate::stats::stimuli::{draw, interval};
use crate::stats::triplets::{Repeats, Trials};

/// See the module.
pub struct OddOneOut;

/// Settings of `odd_one_out`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whose similarity makes the choices.
    #[serde(flatten)]
    pub compared: Compared,
    /// Trials (`clip_1,clip_2,clip_3,odd_one`, or `stim1_name,stim2_name,stim3_name,choice`), or a folder with
    /// `triplets.csv`. Those that show the same clip twice are left out.
    #[schemars(extend("x-accepts" = ["judgments"]))]
    pub human: Reference,
    /// Of a folder given as `human`, this file.
    #[serde(default)]
    pub human_file: Option<String>,
    /// A CSV of `index,clip_id` for judgments that name clips by number.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["split"]))]
    pub names: Option<Reference>,
    /// Which positions the vectors are means of.
    #[serde(default = "pool")]
    pub pool: Pool,
    /// Leave BOS out of the pools that hold it (`all`, `exclude_soc`).
    #[serde(default)]
    pub exclude_bos: bool,
    /// The layer whose figures go into tables: `last`, a number, or a module as `layers.16.self_attn.v_proj`.
    #[serde(default = "layer")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub layer: String,
    /// The layers of `layers.csv`; left out, all that are embedded.
    #[serde(default)]
    pub layers: Option<Vec<String>>,
    /// How vectors are compared.
    #[serde(default)]
    pub similarity: Similarity,
    /// Which clips to compare; with `common`, trials that show no other clip.
    #[serde(default)]
    pub clips: Clips,
    /// Whose vectors a clip gets: a control.
    #[serde(default)]
    pub labels: Labels,
    /// Draws the order of permuted labels.
    #[serde(default)]
    pub labels_seed: u64,
    /// Bootstrap draws of clips (0: no intervals).
    #[serde(default = "defaults::draws")]
    #[schemars(range(max = 10_000_000))]
    pub replicates: usize,
    /// Share of the draws inside an interval.
    #[serde(default = "defaults::confidence")]
    #[schemars(range(min = 0.5, max = 0.9999))]
    pub confidence: f64,
    /// Seed of the draws.
    #[serde(default)]
    pub rsa_seed: u64,
}

/// Accuracy with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Share of the trials.
    pub accuracy: f64,
    /// Lower end of the interval.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
}

/// Figures of one layer; `None` where its vectors have no similarity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Its name.
    pub layer: String,
    /// Chance 1/3.
    pub three_way: Option<Accuracy>,
    /// Chance 1/2.
    pub two_way: Option<Accuracy>,
}

/// `odd_one_out.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Clips compared.
    pub clips: usize,
    /// Trials that count.
    pub trials: usize,
    /// Trials that show the same clip twice and do not.
    pub repeated_trials: usize,
    /// Of two trials of the same three clips, the share with the same choice.
    pub agreement: Option<f64>,
    /// The layer of the summary.
    pub fixed: String,
    /// Every layer.
    pub layers: Vec<Layer>,
}

impl Stage for OddOneOut {
    const KIND: &'static str = "odd_one_out";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Counts how often the model's similarity makes people's odd-one-out choices";
    const GIVES: &'static [&'static str] = &["odd_one_out"];
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &Upstream) {
        if config.compared.matrix.is_some() {
            (config.pool, config.exclude_bos, config.similarity) = (pool(), false, Similarity::default());
            (config.layer, config.layers) = (layer(), None);
        } else {
            config.compared.matrix_file = None;
        }
        config.exclude_bos &= Positions::may_exclude_bos(config.pool);
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
        let mut judgments = Judgments::read(human, config.human_file.as_deref(), names.as_ref(), Repeats::LeaveOut)?;
        let positions = Positions::of_pool(config.pool, config.exclude_bos);
        let model = Model::open(inputs, &config.compared, (positions, config.similarity), Repeats::LeaveOut)?;
        if config.clips == Clips::Common {
            judgments = judgments.among(|clip| model.has(clip));
        }
        let trials = judgments.trials.ok_or_else(|| {
            StageError::hint(
                format!("`{}` is a matrix, and choices are counted trial by trial", human.display()),
                "give `human` as trials (`clip_1,clip_2,clip_3,odd_one`)",
            )
        })?;
        let parts: Vec<[usize; 3]> = trials
            .trials
            .iter()
            .filter_map(|trial| trial.parts())
            .map(|(odd, [first, second])| [odd, first, second].map(|clip| clip as usize))
            .collect();
        if parts.is_empty() {
            return Err(StageError::hint(
                "no trial is left",
                "look at `clips`, and whether `names` fits the judgments",
            ));
        }
        let (names, fixed) = model.layers(&config.layer, config.layers.as_deref())?;
        let sources = config.labels.sources(&trials.clips, config.labels_seed, "labels");
        let mut credits = Vec::with_capacity(names.len());
        for (number, layer) in names.iter().enumerate() {
            context.progress(number as u64, names.len() as u64 + 1, "layer")?;
            let similarity = model.similarity(&sources, layer)?;
            credits.push(similarity.ok().map(|similarity| of_trials(&parts, &similarity, trials.clips.len())));
        }
        let accuracies = accuracies(config, &parts, &trials, &credits);
        let layers: Vec<Layer> = names
            .into_iter()
            .zip(accuracies)
            .map(|(layer, found)| {
                let (three_way, two_way) = found.unzip();
                Layer { layer, three_way, two_way }
            })
            .collect();
        let results = Results {
            clips: trials.clips.len(),
            trials: parts.len(),
            repeated_trials: trials.repeated(),
            agreement: trials.agreement(),
            fixed,
            layers,
        };
        write_json(&context.folder().join("odd_one_out.json"), &results)?;
        write_layers(context, &results)?;
        if config.labels == Labels::Permuted {
            let names = |clips| <[String]>::iter(clips).map(String::as_str);
            pairing::write(context.folder(), names(&trials.clips).zip(names(&sources)))?;
        }
        summarised(&results)
    }
}

/// Credits are counted in twelfths, in which thirds, halves and quarters are whole.
const WHOLE: u32 = 12;

/// Per trial the credit for the three-way and the two-way choice.
struct Credits {
    three_way: Vec<u32>,
    two_way: Vec<u32>,
}

/// Credits of trials `[odd, kept, kept]` under a similarity `[clips, clips]`.
fn of_trials(parts: &[[usize; 3]], similarity: &[f64], clips: usize) -> Credits {
    let mut credits = Credits { three_way: Vec::with_capacity(parts.len()), two_way: Vec::with_capacity(parts.len()) };
    for &[odd, first, second] in parts {
        let of = |a: usize, b: usize| similarity[a * clips + b];
        let (kept, others) = (of(first, second), [of(first, odd), of(second, odd)]);
        let equal = others.iter().filter(|&&other| other == kept).count() as u32;
        let beaten = others.iter().any(|&other| other > kept);
        credits.three_way.push(if beaten { 0 } else { WHOLE / (1 + equal) });
        let anchor = |other: f64| match kept.total_cmp(&other) {
            _ if kept == other => WHOLE / 4,
            std::cmp::Ordering::Greater => WHOLE / 2,
            _ => 0,
        };
        credits.two_way.push(others.into_iter().map(anchor).sum());
    }
    credits
}

/// Three-way and two-way accuracy of every layer, all from the same draws of clips.
fn accuracies(
    config: &Config,
    parts: &[[usize; 3]],
    trials: &Trials,
    credits: &[Option<Credits>],
) -> Vec<Option<(Accuracy, Accuracy)>> {
    let streams = Streams::new(config.rsa_seed, "rsa");
    let share = |credits: &[u32], weights: &[u32], total: u64| {
        let sum: u64 = credits.iter().zip(weights).map(|(&credit, &weight)| u64::from(credit * weight)).sum();
        sum as f64 / (total * u64::from(WHOLE)) as f64
    };
    let both = |credits: &Credits, weights: &[u32], total: u64| {
        [share(&credits.three_way, weights, total), share(&credits.two_way, weights, total)]
    };
    let draws: Vec<Vec<Option<[f64; 2]>>> = (0..config.replicates as u64)
        .into_par_iter()
        .map(|number| {
            let times = draw(&streams, number, trials.clips.len());
            let weights: Vec<u32> = parts.iter().map(|clips| clips.iter().map(|&clip| times[clip]).product()).collect();
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            credits
                .iter()
                .map(|credits| credits.as_ref().filter(|_| total > 0).map(|c| both(c, &weights, total)))
                .collect()
        })
        .collect();
    let equal = vec![1; parts.len()];
    credits
        .iter()
        .enumerate()
        .map(|(layer, credits)| {
            let found = both(credits.as_ref()?, &equal, parts.len() as u64);
            let accuracy = |which: usize| {
                let draws = draws.iter().map(|row| row[layer].map_or(f64::NAN, |pair| pair[which]));
                let (low, high) = interval(draws, config.confidence).unzip();
                Accuracy { accuracy: found[which], low, high }
            };
            Some((accuracy(0), accuracy(1)))
        })
        .collect()
}

fn summarised(results: &Results) -> Result<Summary> {
    let layer = results.layers.iter().find(|layer| layer.layer == results.fixed);
    let Some((three, two)) = layer.and_then(|layer| layer.three_way.zip(layer.two_way)) else {
        return Err(StageError::hint(
            format!("in layer `{}` the vector of some clip has no direction to compare", results.fixed),
            "choose another `layer`, `pool` or `similarity`",
        ));
    };
    let mut summary = Summary::new();
    for (prefix, found, chance) in [("", three, 1.0 / 3.0), ("two_way_", two, 0.5)] {
        summary.insert(format!("{prefix}accuracy"), found.accuracy.into());
        summary.insert(format!("{prefix}low"), found.low.into());
        summary.insert(format!("{prefix}high"), found.high.into());
        summary.insert(format!("{prefix}chance"), chance.into());
    }
    summary.insert("agreement".into(), results.agreement.into());
    summary.insert("trials".into(), results.trials.into());
    summary.insert("repeated_trials".into(), results.repeated_trials.into());
    summary.insert("clips".into(), results.clips.into());
    Ok(summary)
}

/// `layers.csv`: one line per layer.
fn write_layers(context: &Context, results: &Results) -> Result<()> {
    let path = context.folder().join("layers.csv");
    let failed = |error: csv::Error| broken(&path, &error);
    let mut writer = csv::Writer::from_path(&path).map_err(failed)?;
    let header = ["layer", "accuracy", "low", "high", "two_way_accuracy", "two_way_low", "two_way_high"];
    writer.write_record(header).map_err(failed)?;
    let text = |number: Option<f64>| number.map_or_else(String::new, |number| number.to_string());
    for layer in &results.layers {
        let cells = [layer.three_way, layer.two_way].into_iter().flat_map(|found| {
            [found.map(|f| f.accuracy), found.and_then(|f| f.low), found.and_then(|f| f.high)].map(text)
        });
        writer.write_record(std::iter::once(layer.layer.clone()).chain(cells)).map_err(failed)?;
    }
    writer.flush().map_err(StageError::io(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_for_the_kept_pair_and_shared_by_ties() {
        // Clips on a line at 0, 1, 3, and a fourth at the place of the third.
        let places: [f64; 4] = [0.0, 1.0, 3.0, 3.0];
        let similarity: Vec<f64> =
            places.iter().flat_map(|a| places.iter().map(move |b: &f64| -(a - b).abs())).collect();
        let of = |parts: [usize; 3]| {
            let credits = of_trials(&[parts], &similarity, 4);
            (credits.three_way[0], credits.two_way[0])
        };
        assert_eq!(of([2, 0, 1]), (12, 12), "0 and 1 are nearest");
        assert_eq!(of([0, 1, 2]), (0, 6), "1 is nearer to 0, 2 is nearer to 1");
        assert_eq!(of([1, 0, 2]), (0, 0), "1 lies between");
        let flat = of_trials(&[[0, 1, 2]], &[1.0; 16], 4);
        assert_eq!((flat.three_way[0], flat.two_way[0]), (4, 6), "chance when all are alike");
    }
}
