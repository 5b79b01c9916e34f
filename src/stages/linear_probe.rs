//! `linear_probe`: what a linear reader can tell from features, in bits.
//!
//! For each column of labels a multinomial logistic regression is fitted on the training clips' features (standardised by
//! their means and deviations) and read on the others. Its bits are the drop of the mean −log2 p of the label, from that
//! of the training clips' frequencies to that of the regression: what the features tell a linear reader of it. Beside what
//! a projector gets out of the same features it says what there was to get.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scene_packs::FrameFeatures;
use super::{Context, Estimate, Expected, Inputs, Reference, Result, Stage, StageError, Summary, Upstream};
use crate::social::columns::{Columns, broken};
use crate::stats::logistic::Logistic;

/// See the module.
pub struct LinearProbe;

/// What has one label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A clip, with the mean of its frames' features.
    #[default]
    Clip,
    /// A frame; the table of labels then has a column `t_sec`.
    Frame,
}

/// Settings of `linear_probe`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A vector per frame.
    #[schemars(extend("x-accepts" = ["features"]))]
    pub features: Reference,
    /// A CSV of `clip_id,split` and a column for each thing to tell, with `t_sec` where frames have their own; or a
    /// simulated world, whose `latents.csv` is one.
    #[schemars(extend("x-accepts" = ["world"]))]
    pub labels: Reference,
    /// The columns to tell.
    pub columns: Vec<String>,
    /// What has one label.
    #[serde(default)]
    pub unit: Unit,
    /// The split to fit on.
    #[serde(default = "train")]
    pub train: String,
    /// The split to read.
    #[serde(default = "test")]
    pub test: String,
    /// Half of it times the squared weights is added to the sum of −ln p.
    #[serde(default = "penalty")]
    #[schemars(range(min = 0.0))]
    pub penalty: f64,
}

fn train() -> String {
    "train".to_owned()
}

fn test() -> String {
    "test".to_owned()
}

fn penalty() -> f64 {
    1.0
}

impl Stage for LinearProbe {
    const KIND: &'static str = "linear_probe";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Tells, in bits, what a linear reader of features can say of labels";
    const GIVES: &'static [&'static str] = &["probe"];
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &Upstream) {
        config.columns.sort();
        config.columns.dedup();
    }

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        let clips = inputs.of("labels").clips_in("all");
        Estimate { items: clips.map(|clips| clips * config.columns.len() as u64), ..Estimate::default() }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let labels = Labels::load(&labels_file(&inputs.get("labels")?.path), config)?;
        let features = FrameFeatures::load(&inputs.get("features")?.path)?;
        let (train, test) = (labels.of(&config.train, &features)?, labels.of(&config.test, &features)?);
        let (train_rows, test_rows) = standardised(&train.rows, &test.rows);
        let path = context.folder().join("probe.csv");
        let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
        let header = ["column", "classes", "accuracy", "bits", "available"];
        out.write_record(header).map_err(|error| broken(&path, &error))?;
        let mut summary = Summary::new();
        let (mut total, mut total_available) = (0.0, 0.0);
        for (column, name) in config.columns.iter().enumerate() {
            context.progress(column as u64, config.columns.len() as u64, "column")?;
            let (fitted, asked) = (&train.labels[column], &test.labels[column]);
            let classes: Vec<&str> = {
                let known: std::collections::BTreeSet<&str> = fitted.iter().map(String::as_str).collect();
                known.into_iter().collect()
            };
            let number = |label: &String| classes.binary_search(&label.as_str()).ok();
            let fitted: Vec<usize> = fitted.iter().filter_map(number).collect();
            let model = Logistic::fit(&train_rows, &fitted, classes.len(), config.penalty);
            let (mut prior, mut read, mut right) = (0.0, 0.0, 0usize);
            for (row, label) in test_rows.iter().zip(asked) {
                let class = number(label).ok_or_else(|| {
                    StageError::hint(
                        format!("the label `{label}` of `{name}` occurs in split `{}` only", config.test),
                        "leave the column out, or make splits in which every label can be learnt",
                    )
                })?;
                let share = fitted.iter().filter(|&&other| other == class).count() as f64 / fitted.len() as f64;
                let logs = model.log_probabilities(row);
                prior -= share.log2();
                read -= logs[class] / std::f64::consts::LN_2;
                right += usize::from(logs.iter().all(|&log| log <= logs[class]));
            }
            let count = asked.len() as f64;
            let (bits, available, accuracy) = ((prior - read) / count, prior / count, right as f64 / count);
            let figures = [bits, available, accuracy];
            let [bits_text, available_text, accuracy_text] = figures.map(|figure| figure.to_string());
            out.write_record([name, &classes.len().to_string(), &accuracy_text, &bits_text, &available_text])
                .map_err(|error| broken(&path, &error))?;
            summary.insert(format!("accuracy_{name}"), accuracy.into());
            summary.insert(format!("bits_{name}"), bits.into());
            total += bits;
            total_available += available;
        }
        out.flush().map_err(StageError::io(&path))?;
        summary.insert("bits".into(), total.into());
        summary.insert("available".into(), total_available.into());
        summary.insert("share".into(), (total / total_available).into());
        summary.insert("rows".into(), test_rows.len().into());
        Ok(summary)
    }
}

/// The table itself, or the latents of a simulated world.
fn labels_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("latents.csv") } else { path.to_owned() }
}

/// A clip, and a time in milliseconds where frames have labels of their own.
type Place = (String, Option<i64>);

struct Labels {
    path: PathBuf,
    unit: Unit,
    /// (where, split, label of each column), each once, in the order of the file.
    entries: Vec<(Place, String, Vec<String>)>,
}

/// Features and labels of a split.
struct Material {
    rows: Vec<Vec<f64>>,
    /// Labels of the rows, by column.
    labels: Vec<Vec<String>>,
}

fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

impl Labels {
    fn load(path: &Path, config: &Config) -> Result<Self> {
        if config.columns.is_empty() {
            return Err(StageError::hint(
                "`columns` is empty",
                "name the columns of the table that the probe should tell",
            ));
        }
        let mut reader = csv::Reader::from_path(path).map_err(|error| broken(path, &error))?;
        let columns = Columns::of(path, &mut reader)?;
        let (clip, split) = (columns.need("clip_id")?, columns.need("split")?);
        let time = (config.unit == Unit::Frame).then(|| columns.need("t_sec")).transpose()?;
        let wanted = config.columns.iter().map(|name| columns.need(name)).collect::<Result<Vec<usize>>>()?;
        let mut entries: Vec<(Place, String, Vec<String>)> = Vec::new();
        let mut known: HashMap<Place, usize> = HashMap::new();
        for row in reader.records() {
            let row = row.map_err(|error| broken(path, &error))?;
            let at =
                match time {
                    Some(time) => {
                        Some(row[time].trim().parse().map(milliseconds).map_err(|_| {
                            StageError::new(format!("`{}`: `{}` is no time", path.display(), &row[time]))
                        })?)
                    }
                    None => None,
                };
            let place = (row[clip].to_owned(), at);
            let labels: Vec<String> = wanted.iter().map(|&column| row[column].to_owned()).collect();
            match known.get(&place) {
                Some(&before) if entries[before].2 != labels => {
                    return Err(StageError::hint(
                        format!("clip `{}` has several labels in `{}`", place.0, path.display()),
                        "set `unit = \"frame\"` where frames of a clip differ, or leave such columns out",
                    ));
                }
                Some(_) => {}
                None => {
                    known.insert(place.clone(), entries.len());
                    entries.push((place, row[split].to_owned(), labels));
                }
            }
        }
        Ok(Self { path: path.to_owned(), unit: config.unit, entries })
    }

    fn of(&self, split: &str, features: &FrameFeatures) -> Result<Material> {
        let chosen: Vec<_> = self.entries.iter().filter(|(_, known, _)| known == split).collect();
        if chosen.is_empty() {
            let mut splits: BTreeMap<&str, usize> = BTreeMap::new();
            self.entries.iter().for_each(|(_, split, _)| *splits.entry(split).or_default() += 1);
            let found: Vec<String> = splits.iter().map(|(split, count)| format!("`{split}` ({count})")).collect();
            return Err(StageError::hint(
                format!("`{}` has no label in split `{split}`: it has {}", self.path.display(), found.join(", ")),
                "set `train` and `test` to splits of the table",
            ));
        }
        let columns = chosen[0].2.len();
        let mut material = Material { rows: Vec::new(), labels: vec![Vec::new(); columns] };
        for ((clip, at), _, labels) in chosen {
            let missing = || {
                StageError::hint(
                    format!(
                        "clip `{clip}` has a label and no features{}",
                        at.map(|ms| format!(" at {ms} ms")).unwrap_or_default()
                    ),
                    "make the features of the same clips as the labels",
                )
            };
            let frames = &features.clips.get(clip).ok_or_else(missing)?.rows;
            let rows: Vec<usize> = match (self.unit, at) {
                (Unit::Frame, Some(at)) => {
                    frames.iter().filter(|(time, _)| milliseconds(*time) == *at).map(|&(_, row)| row).collect()
                }
                _ => frames.iter().map(|&(_, row)| row).collect(),
            };
            if rows.is_empty() {
                return Err(missing());
            }
            material.rows.push(features.mean(rows.into_iter()).into_iter().map(f64::from).collect());
            material.labels.iter_mut().zip(labels).for_each(|(column, label)| column.push(label.clone()));
        }
        Ok(material)
    }
}

/// Both with the mean and deviation of the first taken out; what does not vary there is 0.
fn standardised(train: &[Vec<f64>], test: &[Vec<f64>]) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let (count, width) = (train.len() as f64, train.first().map_or(0, Vec::len));
    let mean: Vec<f64> = (0..width).map(|i| train.iter().map(|row| row[i]).sum::<f64>() / count).collect();
    let deviation: Vec<f64> =
        (0..width).map(|i| (train.iter().map(|row| (row[i] - mean[i]).powi(2)).sum::<f64>() / count).sqrt()).collect();
    let of = |rows: &[Vec<f64>]| {
        let standard = |(i, x): (usize, &f64)| if deviation[i] > 0.0 { (x - mean[i]) / deviation[i] } else { 0.0 };
        rows.iter().map(|row| row.iter().enumerate().map(standard).collect()).collect()
    };
    (of(train), of(test))
}

#[cfg(test)]
mod tests {
    use super::super::Input;
    use super::*;
    use crate::npy::{self, Array};
    use crate::stats::random::Streams;

    /// Features of 300 clips of two frames each: colour in the first value of both, phase in the second, noise in the third.
    fn probe(settings: serde_json::Value) -> Result<Summary> {
        let folder = tempfile::tempdir().unwrap();
        let features = folder.path().join("features");
        std::fs::create_dir(&features).unwrap();
        let mut stream = Streams::new(0, "test").named("probe");
        let (mut frames, mut labels) =
            ("clip_id,split,t_sec\n".to_owned(), "clip_id,split,t_sec,colour,phase,coin\n".to_owned());
        let mut values = Vec::new();
        for clip in 0..300 {
            let (split, colour, coin) = (if clip < 200 { "train" } else { "test" }, clip % 4, stream.coin(0.5));
            for phase in 0..2 {
                frames += &format!("c{clip},{split},{phase}.5\n");
                labels += &format!("c{clip},{split},{phase}.5,k{colour},p{phase},{coin}\n");
                values.extend([colour as f32, phase as f32, stream.normal() as f32, 7.0]);
            }
        }
        npy::write(&features.join("features.npy"), &Array::new([600, 4], values)).unwrap();
        std::fs::write(features.join("frames.csv"), frames).unwrap();
        let table = folder.path().join("labels.csv");
        std::fs::write(&table, labels).unwrap();
        let mut inputs = Inputs::default();
        for (field, path) in [("features", features), ("labels", table)] {
            inputs.insert(field, Input { reference: String::new(), path, digest: String::new() });
        }
        let mut fields = serde_json::json!({"features": "data:f", "labels": "data:l"});
        fields.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let config: Config = serde_json::from_value(fields).unwrap();
        LinearProbe::run(&config, &inputs, &Context::plain(folder.path(), "cpu"))
    }

    #[test]
    fn what_features_hold_is_told_and_what_they_do_not_is_not() {
        let summary = probe(serde_json::json!({"columns": ["coin", "colour"], "penalty": 0.001})).unwrap();
        let figure = |name: &str| summary[name].as_f64().unwrap();
        assert!(figure("bits_colour") > 1.9 && figure("accuracy_colour") == 1.0, "{summary:?}");
        assert!(figure("bits_coin") < 0.03 && figure("accuracy_coin") < 0.7, "{summary:?}");
        assert!((figure("available") - 3.0).abs() < 0.05, "{summary:?}");
        assert!((figure("share") - figure("bits") / figure("available")).abs() < 1e-12);
        let frames = probe(serde_json::json!({"columns": ["phase"], "unit": "frame"})).unwrap();
        assert!(frames["bits"].as_f64().unwrap() > 0.95 && frames["rows"] == 200, "{frames:?}");
    }

    #[test]
    fn what_cannot_be_told_says_why() {
        let error = |settings| probe(settings).unwrap_err().to_string();
        let message = error(serde_json::json!({"columns": ["phase"]}));
        assert!(message.contains("several labels") && message.contains("unit = \"frame\""), "{message}");
        assert!(
            error(serde_json::json!({"columns": ["colour"], "test": "val"})).contains("`test` (100), `train` (200)")
        );
        assert!(error(serde_json::json!({"columns": ["size"]})).contains("no column `size`"));
        assert!(error(serde_json::json!({"columns": []})).contains("`columns` is empty"));
    }
}
