//! `scores`: how many bits one arm's scores are above another's, on the same targets.
//!
//! Differences are minuend − subtrahend, target by target, averaged over seeds, summed, and divided by the number of
//! words (`difference`, `low`, `high`) and of captions (`…_per_caption`). The interval is the percentile interval of a
//! cluster bootstrap; all targets of a drawn cluster count as often as it is drawn, and every replicate averages over
//! the seeds. p is two-sided from the same replicates, adjusted by Holm's method over a family that the file fixes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Arm, Comparison, Row, Selection};
use crate::social::columns::{Columns, broken};
use crate::stages::{Context, Result, StageError, Summary};
use crate::stats::bootstrap::{holm, percentile, ratio_replicates, two_sided_p};
use crate::stats::random::Streams;

/// See the module.
pub struct Scores;

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

/// Settings of `scores`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The points whose scores are taken first.
    pub minuend: Selection,
    /// The points whose scores are taken away.
    pub subtrahend: Selection,
    /// Axes on which a pair of points must agree (`target` is always among them). Left out: every axis that neither
    /// `minuend` nor `subtrahend` names.
    #[serde(default)]
    #[schemars(extend("x-coordinates" = ["target"]))]
    pub pair_by: Vec<String>,
    /// Axes of `pair_by` that are averaged over, inside each replicate; the others make rows.
    #[serde(default = "average")]
    #[schemars(extend("x-coordinates" = ["seed"]))]
    pub average: Vec<String>,
    /// What is drawn together.
    #[serde(default)]
    pub cluster: Cluster,
    /// How p values are corrected for their number.
    #[serde(default)]
    pub correction: Correction,
    /// The tests that are corrected together: `all` rows, or the rows that agree on this axis.
    #[serde(default = "family")]
    #[schemars(extend("x-coordinates" = ["all"]))]
    pub family: String,
    /// A difference within ± this many bits per word counts as none: rows get `equivalent`, true when the whole interval
    /// lies within.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub margin: Option<f64>,
    /// Bootstrap replicates.
    #[serde(default = "replicates")]
    #[schemars(range(min = 100))]
    pub replicates: usize,
    /// Share of the replicates inside the interval.
    #[serde(default = "confidence")]
    #[schemars(range(min = 0.5, max = 0.9999))]
    pub confidence: f64,
    /// Draws the clusters.
    #[serde(default)]
    pub seed: u64,
}

fn average() -> Vec<String> {
    vec!["seed".to_owned()]
}

fn family() -> String {
    "all".to_owned()
}

fn replicates() -> usize {
    10_000
}

fn confidence() -> f64 {
    0.95
}

impl Comparison for Scores {
    const KIND: &'static str = "scores";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Paired differences of scores on the same targets, with cluster bootstrap, Holm's correction and equivalence";
    type Config = Config;

    fn run(config: &Config, column: &str, arms: &[Arm], context: &Context) -> Result<Vec<Row>> {
        let pairs = pairs(config, arms)?;
        let mut tables = Tables { column: column.to_owned(), cluster: config.cluster, read: HashMap::new() };
        let mut rows = Vec::new();
        let total = pairs.len() as u64;
        for (done, (coordinates, pairs)) in pairs.into_iter().enumerate() {
            context.progress(done as u64, total, "row")?;
            let figures = compare(config, &mut tables, &pairs)?;
            rows.push(Row { coordinates, figures });
        }
        adjust(config, &mut rows);
        Ok(rows)
    }
}

type Coordinates = BTreeMap<String, String>;
/// Artifacts of a minuend and its subtrahend.
type Pair = (PathBuf, PathBuf);

/// Row → its pairs of artifacts, one per combination of what is averaged over.
fn pairs(config: &Config, arms: &[Arm]) -> Result<Vec<(Coordinates, Vec<Pair>)>> {
    let named: BTreeSet<&String> = config.minuend.0.keys().chain(config.subtrahend.0.keys()).collect();
    let axes: BTreeSet<&String> = arms.iter().flat_map(|arm| arm.coordinates.keys()).collect();
    let by: Vec<&String> = match config.pair_by.is_empty() {
        true => axes.iter().copied().filter(|axis| !named.contains(axis) && *axis != "ablation").collect(),
        false => config.pair_by.iter().filter(|axis| *axis != "target").collect(),
    };
    if let Some(unknown) = by.iter().find(|axis| !axes.contains(**axis)) {
        let known: Vec<&str> = axes.iter().map(|axis| axis.as_str()).collect();
        return Err(StageError::hint(
            format!("`pair_by` names `{unknown}`, which no point has"),
            format!("the points have `{}`", known.join("`, `")),
        ));
    }
    let side = |selection: &Selection, name: &str| -> Result<BTreeMap<Coordinates, PathBuf>> {
        let mut found: BTreeMap<Coordinates, PathBuf> = BTreeMap::new();
        for arm in arms.iter().filter(|arm| selection.selects(&arm.coordinates)) {
            let key =
                by.iter().filter_map(|axis| Some(((*axis).clone(), arm.coordinates.get(*axis)?.clone()))).collect();
            if let Some(other) = found.insert(key, arm.artifact.clone()).filter(|other| *other != arm.artifact) {
                let own: Vec<String> =
                    arm.coordinates.iter().map(|(axis, label)| format!("{axis} = {label}")).collect();
                return Err(StageError::hint(
                    format!(
                        "two points of the {name} pair alike, one of them {} (`{}`)",
                        own.join(", "),
                        other.display()
                    ),
                    "name the axis that tells them apart in `pair_by`, or fix its label in the selection",
                ));
            }
        }
        Ok(found)
    };
    let (minuend, subtrahend) = (side(&config.minuend, "minuend")?, side(&config.subtrahend, "subtrahend")?);
    let mut rows: BTreeMap<Coordinates, Vec<Pair>> = BTreeMap::new();
    for (key, first) in minuend {
        if let Some(second) = subtrahend.get(&key) {
            let row = key.into_iter().filter(|(axis, _)| !config.average.contains(axis)).collect();
            rows.entry(row).or_default().push((first, second.clone()));
        }
    }
    if rows.is_empty() {
        return Err(StageError::hint(
            "no point of the minuend has a partner in the subtrahend",
            "let `minuend` and `subtrahend` name labels that exist, and `pair_by` axes that both sides share",
        ));
    }
    Ok(rows.into_iter().collect())
}

/// One artifact's column with what identifies its rows.
struct Table {
    /// Clip, utterance, target and token of each row.
    keys: Vec<String>,
    /// Bits.
    bits: Vec<f64>,
    /// Number of the cluster of each row, in order of appearance.
    clusters: Vec<usize>,
    /// Words and captions of each cluster.
    sizes: Vec<(f64, f64)>,
}

struct Tables {
    column: String,
    cluster: Cluster,
    read: HashMap<PathBuf, std::rc::Rc<Table>>,
}

impl Tables {
    fn get(&mut self, artifact: &Path) -> Result<std::rc::Rc<Table>> {
        if let Some(table) = self.read.get(artifact) {
            return Ok(table.clone());
        }
        let table = std::rc::Rc::new(self.parse(&artifact.join("targets.csv"))?);
        self.read.insert(artifact.to_owned(), table.clone());
        Ok(table)
    }

    fn parse(&self, path: &Path) -> Result<Table> {
        let mut reader = csv::Reader::from_path(path).map_err(|error| broken(path, &error))?;
        let columns = Columns::of(path, &mut reader)?;
        let identity = ["clip_id", "utterance", "target", "token"].map(|name| columns.need(name));
        let [clip, utterance, target, token] = identity;
        let (clip, utterance, target, token) = (clip?, utterance?, target?, token?);
        let (group, word, value) = (columns.need("group")?, columns.need("word")?, columns.need(&self.column)?);
        let cluster = if self.cluster == Cluster::Clip { clip } else { group };
        // `nll` is in nats; every other column of scores is in bits.
        let unit = if self.column == "nll" { std::f64::consts::LN_2.recip() } else { 1.0 };
        let mut table = Table { keys: Vec::new(), bits: Vec::new(), clusters: Vec::new(), sizes: Vec::new() };
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let (mut words, mut captions) = (BTreeSet::new(), BTreeSet::new());
        for row in reader.records() {
            let row = row.map_err(|error| broken(path, &error))?;
            let text = &row[value];
            let value: f64 = text.parse().map_err(|_| {
                StageError::new(format!("`{}`: `{text}` in column `{}` is no number", path.display(), self.column))
            })?;
            let number = *numbers.entry(row[cluster].to_owned()).or_insert_with(|| {
                table.sizes.push((0.0, 0.0));
                table.sizes.len() - 1
            });
            let caption = format!("{}\u{1f}{}", &row[clip], &row[utterance]);
            if !row[word].is_empty() && words.insert(format!("{caption}\u{1f}{}", &row[word])) {
                table.sizes[number].0 += 1.0;
            }
            table.keys.push(format!("{caption}\u{1f}{}\u{1f}{}", &row[target], &row[token]));
            if captions.insert(caption) {
                table.sizes[number].1 += 1.0;
            }
            table.bits.push(value * unit);
            table.clusters.push(number);
        }
        if table.bits.is_empty() {
            return Err(StageError::new(format!("`{}` has no targets", path.display())));
        }
        Ok(table)
    }
}

/// The figures of one row.
fn compare(config: &Config, tables: &mut Tables, pairs: &[Pair]) -> Result<Summary> {
    let first = tables.get(&pairs[0].0)?;
    let (count, clusters) = (pairs.len() as f64, first.sizes.len());
    let mut sums = vec![0.0; clusters];
    let mut per_seed = Vec::with_capacity(pairs.len());
    let (mut minuend, mut subtrahend) = (0.0, 0.0);
    for (left, right) in pairs {
        let (left_table, right_table) = (tables.get(left)?, tables.get(right)?);
        for (table, path) in [(&left_table, left), (&right_table, right)] {
            if table.keys != first.keys {
                return Err(other_targets(&first, table, &pairs[0].0, path));
            }
        }
        let mut total = 0.0;
        for ((&cluster, left), right) in first.clusters.iter().zip(&left_table.bits).zip(&right_table.bits) {
            sums[cluster] += (left - right) / count;
            total += left - right;
        }
        minuend += left_table.bits.iter().sum::<f64>() / count;
        subtrahend += right_table.bits.iter().sum::<f64>() / count;
        per_seed.push(total);
    }
    let words: Vec<f64> = first.sizes.iter().map(|size| size.0).collect();
    let captions: Vec<f64> = first.sizes.iter().map(|size| size.1).collect();
    let streams = Streams::new(config.seed, Scores::KIND);
    let mut figures = Summary::new();
    let mut put = |name: String, value: f64| figures.insert(name, value.into());
    let mut p_value = 1.0;
    for (suffix, sizes) in [("", &words), ("_per_caption", &captions)] {
        let size: f64 = sizes.iter().sum();
        let mut replicates = ratio_replicates(&sums, sizes, config.replicates, &streams);
        replicates.sort_by(f64::total_cmp);
        let tail = (1.0 - config.confidence) / 2.0;
        put(format!("difference{suffix}"), sums.iter().sum::<f64>() / size);
        put(format!("low{suffix}"), percentile(&replicates, tail));
        put(format!("high{suffix}"), percentile(&replicates, 1.0 - tail));
        put(format!("minuend{suffix}"), minuend / size);
        put(format!("subtrahend{suffix}"), subtrahend / size);
        if let Some(deviation) = deviation(&per_seed) {
            put(format!("seed_deviation{suffix}"), deviation / size);
        }
        if suffix.is_empty() {
            p_value = two_sided_p(&replicates);
        }
    }
    put("p_value".into(), p_value);
    figures.insert("pairs".into(), first.bits.len().into());
    figures.insert("clusters".into(), clusters.into());
    figures.insert("seeds".into(), pairs.len().into());
    if let (Some(margin), Some(low), Some(high)) = (config.margin, figures["low"].as_f64(), figures["high"].as_f64()) {
        figures.insert("margin".into(), margin.into());
        figures.insert("equivalent".into(), (low > -margin && high < margin).into());
    }
    Ok(figures)
}

fn other_targets(first: &Table, other: &Table, left: &Path, right: &Path) -> StageError {
    let place =
        first.keys.iter().zip(&other.keys).position(|(a, b)| a != b).unwrap_or(first.keys.len().min(other.keys.len()));
    let show =
        |table: &Table| table.keys.get(place).map_or_else(|| "nothing".to_owned(), |key| key.replace('\u{1f}', ", "));
    StageError::hint(
        format!(
            "the arms score other targets: row {} is `{}` in `{}` and `{}` in `{}` (clip, utterance, target, token)",
            place + 1,
            show(first),
            left.display(),
            show(other),
            right.display()
        ),
        "give both arms the same text, split, `samples`, `bos`, `label_eos`, tags and lead-in",
    )
}

/// Sample standard deviation; `None` for fewer than two values.
fn deviation(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (values.len() > 1).then(|| (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt())
}

/// Adds `p_adjusted`.
fn adjust(config: &Config, rows: &mut [Row]) {
    let mut families: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        families.entry(row.coordinates.get(&config.family).cloned()).or_default().push(index);
    }
    for members in families.into_values() {
        let p_values: Vec<f64> =
            members.iter().map(|&row| rows[row].figures["p_value"].as_f64().unwrap_or(1.0)).collect();
        let adjusted = if config.correction == Correction::Holm { holm(&p_values) } else { p_values };
        for (&row, p) in members.iter().zip(adjusted) {
            rows[row].figures.insert("p_adjusted".into(), p.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Arms {
        folder: tempfile::TempDir,
        arms: Vec<Arm>,
    }

    impl Arms {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), arms: Vec::new() }
        }

        /// Twenty clips of two words; `nll` by clip and word, in bits.
        fn add(&mut self, coordinates: &[(&str, &str)], bits: impl Fn(usize, usize) -> f64) {
            let artifact = self.folder.path().join(self.arms.len().to_string());
            std::fs::create_dir(&artifact).unwrap();
            let mut text = String::from("clip_id,group,utterance,target,word,token,piece,class,nll\n");
            for clip in 0..20 {
                for word in 0..2 {
                    let nll = bits(clip, word) * std::f64::consts::LN_2;
                    text += &format!("c{clip},g{},0,{word},{word},7,x,content,{nll}\n", clip / 2);
                }
            }
            std::fs::write(artifact.join("targets.csv"), text).unwrap();
            let coordinates = coordinates.iter().map(|(axis, label)| ((*axis).into(), (*label).into())).collect();
            self.arms.push(Arm { coordinates, artifact });
        }

        fn compare(&self, settings: serde_json::Value) -> Result<Vec<Row>> {
            let config: Config = serde_json::from_value(settings).unwrap();
            Scores::run(&config, "nll", &self.arms, &Context::plain(self.folder.path(), "cpu"))
        }
    }

    fn figure(row: &Row, name: &str) -> f64 {
        row.figures[name].as_f64().unwrap_or_else(|| panic!("no `{name}`"))
    }

    #[test]
    fn differences_are_paired_and_averaged_over_seeds() {
        let mut arms = Arms::new();
        for (inject, gain) in [("global", 1.0), ("full", 0.0)] {
            for seed in ["0", "1"] {
                let extra = if seed == "1" { 0.5 } else { 0.0 };
                arms.add(&[("inject", inject), ("seed", seed), ("ablation", "base")], |clip, word| {
                    (clip + word) as f64
                });
                arms.add(&[("inject", inject), ("seed", seed), ("ablation", "constant")], |clip, word| {
                    (clip + word) as f64 + if gain > 0.0 { gain + extra } else { ((clip % 2) as f64 - 0.5) * 0.1 }
                });
            }
        }
        // A base without a partner makes no row.
        arms.add(&[("inject", "none"), ("seed", "0"), ("ablation", "base")], |_, _| 1.0);
        let settings = serde_json::json!({"minuend": {"ablation": "constant"}, "subtrahend": {"ablation": ["base"]},
            "pair_by": ["inject", "seed", "target"], "margin": 0.1, "replicates": 2000});
        let rows = arms.compare(settings.clone()).unwrap();
        assert_eq!(rows.iter().map(|row| row.coordinates["inject"].as_str()).collect::<Vec<_>>(), ["full", "global"]);
        let global = &rows[1];
        assert!((figure(global, "difference") - 1.25).abs() < 1e-9 && (figure(global, "low") - 1.25).abs() < 1e-9);
        assert!((figure(global, "difference_per_caption") - 2.5).abs() < 1e-9);
        assert!((figure(global, "seed_deviation") - 0.5 / 2f64.sqrt()).abs() < 1e-9);
        assert!((figure(global, "p_value") - 2.0 / 2001.0).abs() < 1e-9);
        assert!((figure(global, "p_adjusted") - 4.0 / 2001.0).abs() < 1e-9);
        assert_eq!((figure(global, "pairs"), figure(global, "clusters"), figure(global, "seeds")), (40.0, 20.0, 2.0));
        assert_eq!(global.figures["equivalent"], false);
        let full = &rows[0];
        assert!(figure(full, "difference").abs() < 1e-9 && figure(full, "p_value") > 0.5);
        assert_eq!(full.figures["equivalent"], true);
        // By default what neither side names is paired; groups of two opposite clips leave no spread.
        let mut grouped = settings;
        grouped["pair_by"] = serde_json::json!([]);
        grouped["cluster"] = "session".into();
        let rows = arms.compare(grouped).unwrap();
        assert_eq!(figure(&rows[0], "clusters"), 10.0);
        assert!((figure(&rows[0], "high") - figure(&rows[0], "low")).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_paired_says_so() {
        let mut arms = Arms::new();
        for seed in ["0", "1"] {
            arms.add(&[("inject", "none"), ("seed", seed), ("ablation", "base")], |_, _| 1.0);
            arms.add(&[("inject", "full"), ("seed", seed), ("ablation", "base")], |_, _| 2.0);
        }
        let settings = |by: &[&str], second: &str| serde_json::json!({"minuend": {"inject": "none"}, "subtrahend": {"inject": second}, "pair_by": by, "replicates": 100});
        assert!(arms.compare(settings(&["target"], "full")).unwrap_err().to_string().contains("pair alike"));
        assert!(arms.compare(settings(&["sed"], "full")).unwrap_err().to_string().contains("`sed`"));
        assert!(arms.compare(settings(&["seed"], "local")).unwrap_err().to_string().contains("has a partner"));
        assert_eq!(arms.compare(settings(&["seed"], "full")).unwrap()[0].figures["difference"], -1.0);
        let text = "clip_id,group,utterance,target,word,token,piece,class,nll\nc0,g,0,0,0,7,x,content,1\n";
        std::fs::write(arms.arms[1].artifact.join("targets.csv"), text).unwrap();
        let error = arms.compare(settings(&["seed"], "full")).unwrap_err().to_string();
        assert!(error.contains("other targets") && error.contains("hint:"), "{error}");
    }
}
