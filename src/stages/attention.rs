//! `attention`: where the model looks, per layer and head, with its social tokens and with controls in their places.
//!
//! Position 0 draws attention whatever stands there (StreamingLLM, arXiv 2309.17453), so a look at SOC-G says nothing
//! alone. BOS stands beside it, and the same text is looked at under four conditions:
//!
//! * `own`: the social tokens of `inject`;
//! * `constant`: every SOC-G is the mean SOC-G of all samples, every SOC-L the mean SOC-L: places without any clip;
//! * `zero`: zero vectors in their places (the paper's figure 3);
//! * `none`: the text without any.
//!
//! Weights are averaged over legal queries only: text positions that may look at a key of the class (the original
//! averaged over all positions, the masked triangle's zeros included, so that early keys looked strong). A class's weight
//! in a query is the sum over its keys; text stands for all text before the query and the query itself.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::as_trained::{Reading, Text};
use super::perplexity::caption_index;
use super::subject::{Sources, Subject};
use super::{Context, Estimate, Expected, Inputs, Result, Stage, StageError, Summary, Upstream};
use crate::social::columns::broken;
use crate::social::injection::{self, Batch, Prepared};
use crate::social::material;
use crate::social::prompt::Inject;
use crate::social::samples::{Sequence, Slot};

/// See the module.
pub struct Attention;

/// Settings of `attention`. What is left out of `inject` to `max_tokens` is as in the training of the projector.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is looked at.
    #[serde(flatten)]
    pub sources: Sources,
    /// Which social tokens there are; without a projector `none`, and then that is the only condition.
    #[serde(default)]
    pub inject: Option<Inject>,
    /// Samples whose whole grid (layer by token, seen from the last position that predicts) is written.
    #[serde(default = "grids")]
    pub grids: usize,
    /// The split to look at; `all` is every clip.
    #[serde(default = "split")]
    pub split: String,
    /// Of several captions of a clip this one, from 1; 0 takes all.
    #[serde(default = "caption_index")]
    pub caption_index: usize,
    /// What text is read.
    #[serde(flatten)]
    pub as_text: Text,
    /// How it is read.
    #[serde(flatten)]
    pub reading: Reading,
    /// Samples at once.
    #[serde(default = "batch")]
    #[schemars(range(min = 1), extend("x-key" = false))]
    pub batch: usize,
}

fn grids() -> usize {
    3
}

fn split() -> String {
    "test".to_owned()
}

fn batch() -> usize {
    16
}

/// What stands in the places of social tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Own,
    Constant,
    Zero,
    None,
}

impl Condition {
    const ALL: [Self; 4] = [Self::Own, Self::Constant, Self::Zero, Self::None];

    fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Constant => "constant",
            Self::Zero => "zero",
            Self::None => "none",
        }
    }
}

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Bos,
    SocG,
    SocL,
    Zeroed,
    Text,
}

impl Class {
    const ALL: [Self; 5] = [Self::Bos, Self::SocG, Self::SocL, Self::Zeroed, Self::Text];

    fn of(slot: Slot) -> Self {
        match slot {
            Slot::Bos(_) => Self::Bos,
            Slot::Global => Self::SocG,
            Slot::Local(_) => Self::SocL,
            Slot::Zeroed => Self::Zeroed,
            Slot::Text(_) | Slot::Eos(_) => Self::Text,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::SocG => "soc_g",
            Self::SocL => "soc_l",
            Self::Zeroed => "zeroed",
            Self::Text => "text",
        }
    }
}

impl Stage for Attention {
    const KIND: &'static str = "attention";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str =
        "Averages attention to BOS, social tokens and text over legal queries, per layer and head, beside controls";
    const GIVES: &'static [&'static str] = &["attention"];
    type Config = Config;

    fn normalise(config: &mut Config, upstream: &Upstream) {
        config.sources.inherit(&mut config.inject, upstream);
        config.as_text.inherit(upstream);
        config.reading.inherit(upstream, config.inject);
    }

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        // Once per condition.
        let prompt = config.reading.prompt(&config.as_text, config.inject.unwrap_or(Inject::None));
        let passes = config.sources.passes(inputs, &config.split, &prompt, config.batch, Condition::ALL.len());
        let Some(passes) = passes else { return Estimate::default() };
        let mut estimate = passes.estimate();
        if let (Some(network), Some(tokens), Some(memory)) = (passes.network, passes.tokens(), &mut estimate.memory) {
            // A layer's weights in f32, where they were made and where they are read.
            memory.each += 2 * 4 * network.heads * (tokens.ceil() as u64).pow(2);
        }
        estimate
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let chosen = (config.inject, config.sources.examples.as_slice());
        let subject = Subject::load(inputs, context, &config.reading, chosen, (&config.split, config.caption_index))?;
        let conditions: &[Condition] =
            if subject.inject == Inject::None { &[Condition::None] } else { &Condition::ALL };
        let mut found = Found::new(subject.language.gemma.config().layers(), subject.language.gemma.config().heads);
        for (part, &condition) in conditions.iter().enumerate() {
            look(config, &subject, condition, &mut found, context, (part, conditions.len()))?;
        }
        found.check()?;
        found.write(&subject, context)?;
        Ok(found.summary(conditions))
    }
}

fn look(
    config: &Config,
    subject: &Subject,
    condition: Condition,
    found: &mut Found,
    context: &Context,
    (part, parts): (usize, usize),
) -> Result<()> {
    let gemma = &subject.language.gemma;
    let inject = if condition == Condition::None { Inject::None } else { subject.inject };
    let sequences = subject.sequences(&config.reading.prompt(&config.as_text, inject))?;
    let bank = if inject == Inject::None { None } else { subject.bank()? };
    let prepared = subject.prepared(&sequences, bank.as_ref())?;
    let tokens = match (&bank, &subject.social) {
        (Some(bank), Some((trained, _))) => {
            let vectors = material::uploaded(&bank.vectors, &subject.device);
            let projected = |batch: &Batch| {
                let rows = trained.projector.forward(batch.projector_inputs(&vectors), None);
                material::downloaded(batch.social(rows))
            };
            Some(replaced(condition, &sequences, social_tokens(&prepared, subject.language.pad, projected)?))
        }
        _ => None,
    };
    let hidden = gemma.config().hidden;
    let mut done = 0;
    for chosen in injection::by_length(&prepared, config.batch) {
        let batch = Batch::new(chosen.iter().map(|&sample| &prepared[sample]), subject.language.pad);
        let social = tokens.as_ref().map(|tokens| {
            let rows: Vec<f32> = chosen.iter().flat_map(|&sample| tokens[sample].iter().copied()).collect();
            let shape = [rows.len() / hidden, hidden];
            Tensor::<2>::from_data(TensorData::new(rows, shape), &subject.device)
        });
        let inputs = batch.inputs(gemma, social, config.reading.embedding_scale.unwrap_or_default());
        gemma.attentions(inputs, |layer, weights| {
            let [_, heads, length, _] = weights.dims();
            let reach = gemma.reach(layer, length);
            let values = material::downloaded(weights)?;
            for (place, &sample) in chosen.iter().enumerate() {
                let own = &values[place * heads * length * length..(place + 1) * heads * length * length];
                found.add(condition, layer, (sample, &sequences[sample]), own, (length, reach), sample < config.grids);
            }
            Ok::<(), StageError>(())
        })?;
        done += chosen.len() as u64;
        let all = prepared.len() as u64;
        context.progress(part as u64 * all + done, all * parts as u64, "sample")?;
    }
    Ok(())
}

/// The social tokens of each sample in the order of its positions, flat `[tokens · hidden]`.
fn social_tokens(
    prepared: &[Prepared],
    pad: u32,
    projected: impl Fn(&Batch) -> Result<Vec<f32>>,
) -> Result<Vec<Vec<f32>>> {
    let mut own: Vec<Vec<f32>> = Vec::with_capacity(prepared.len());
    for sample in prepared {
        let batch = Batch::new([sample], pad);
        own.push(if batch.is_social() { projected(&batch)? } else { Vec::new() });
    }
    Ok(own)
}

/// Social tokens as the condition has them, given the samples' own.
fn replaced(condition: Condition, sequences: &[Sequence], own: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    if condition == Condition::Own {
        return own;
    }
    let classes = |sequence: &Sequence| -> Vec<Class> {
        sequence.slots.iter().filter(|slot| slot.is_social()).map(|&slot| Class::of(slot)).collect()
    };
    let mut means: BTreeMap<Class, (Vec<f64>, f64)> = BTreeMap::new();
    for (sequence, rows) in sequences.iter().zip(&own) {
        let kinds = classes(sequence);
        let width = rows.len() / kinds.len().max(1);
        for (class, row) in kinds.into_iter().zip(rows.chunks(width.max(1))) {
            let (sum, count) = means.entry(class).or_insert_with(|| (vec![0.0; width], 0.0));
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            *count += 1.0;
        }
    }
    let mean = |class: Class| {
        let (sum, count) = &means[&class];
        sum.iter().map(|sum| (sum / count) as f32).collect::<Vec<_>>()
    };
    let each = sequences.iter().zip(own).map(|(sequence, rows)| match condition {
        Condition::Zero => vec![0.0; rows.len()],
        _ => classes(sequence).into_iter().flat_map(mean).collect(),
    });
    each.collect()
}

/// Sum, largest and number of queries of one cell.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    sum: f64,
    largest: f64,
    queries: f64,
}

/// One line of `grid.csv`: attention from one position to one token, mean over heads.
struct GridLine {
    sample: usize,
    condition: Condition,
    layer: usize,
    position: usize,
    slot: Slot,
    mean: f64,
}

struct Found {
    layers: usize,
    heads: usize,
    /// Condition, layer, head, class.
    cells: BTreeMap<(usize, usize, usize, Class), Cell>,
    grid: Vec<GridLine>,
    clips: BTreeMap<usize, usize>,
}

impl Found {
    fn new(layers: usize, heads: usize) -> Self {
        Self { layers, heads, cells: BTreeMap::new(), grid: Vec::new(), clips: BTreeMap::new() }
    }

    /// Takes the weights `[heads, length, length]` of one sample in one layer, padded to `length`.
    fn add(
        &mut self,
        condition: Condition,
        layer: usize,
        (sample, sequence): (usize, &Sequence),
        weights: &[f32],
        (length, reach): (usize, usize),
        grid: bool,
    ) {
        let classes: Vec<Class> = sequence.slots.iter().map(|&slot| Class::of(slot)).collect();
        self.clips.insert(sample, sequence.clip);
        for (head, weights) in weights.chunks(length * length).enumerate() {
            for query in (0..classes.len()).filter(|&query| classes[query] == Class::Text) {
                let seen = (query + 1).saturating_sub(reach)..query + 1;
                for class in Class::ALL {
                    let keys = seen.clone().filter(|&key| classes[key] == class);
                    let (sum, count) = keys.fold((0.0, 0), |(sum, count), key| {
                        (sum + f64::from(weights[query * length + key]), count + 1)
                    });
                    if count > 0 {
                        let place = (condition as usize, layer, head, class);
                        let cell = self.cells.entry(place).or_default();
                        cell.sum += sum;
                        cell.largest = cell.largest.max(sum);
                        cell.queries += 1.0;
                    }
                }
            }
        }
        let Some(query) = sequence.targets.iter().map(|target| target.position - 1).max().filter(|_| grid) else {
            return;
        };
        for (position, &slot) in sequence.slots.iter().enumerate().take(query + 1) {
            let over = weights.chunks(length * length).map(|weights| f64::from(weights[query * length + position]));
            let mean = over.sum::<f64>() / self.heads as f64;
            self.grid.push(GridLine { sample, condition, layer, position, slot, mean });
        }
    }

    fn check(&self) -> Result<()> {
        match self.cells.values().any(|cell| !cell.sum.is_finite()) {
            true => Err(StageError::hint(
                "an attention weight is not finite",
                "look at the projector's training (`metrics.jsonl`): it may have diverged",
            )),
            false => Ok(()),
        }
    }

    /// `attention.csv` and `grid.csv`.
    fn write(&self, subject: &Subject, context: &Context) -> Result<()> {
        let path = context.folder().join("attention.csv");
        let failed = |error: csv::Error| broken(&path, &error);
        let mut out = csv::Writer::from_path(&path).map_err(failed)?;
        out.write_record(["condition", "layer", "head", "to", "mean", "largest", "queries"]).map_err(failed)?;
        for (&(condition, layer, head, class), cell) in &self.cells {
            let numbers = [cell.sum / cell.queries, cell.largest, cell.queries].map(|number| number.to_string());
            let place = [
                Condition::ALL[condition].name().to_owned(),
                layer.to_string(),
                head.to_string(),
                class.name().to_owned(),
            ];
            out.write_record(place.iter().chain(&numbers)).map_err(failed)?;
        }
        out.flush().map_err(StageError::io(&path))?;
        let path = context.folder().join("grid.csv");
        let failed = |error: csv::Error| broken(&path, &error);
        let mut out = csv::Writer::from_path(&path).map_err(failed)?;
        let header = ["sample", "clip_id", "condition", "layer", "position", "piece", "kind", "mean"];
        out.write_record(header).map_err(failed)?;
        let mut lines: Vec<&GridLine> = self.grid.iter().collect();
        lines.sort_by_key(|line| (line.sample, line.condition as usize, line.layer, line.position));
        for line in lines {
            let class = Class::of(line.slot);
            let piece = line.slot.id().and_then(|id| subject.language.piece(id));
            let record = [
                line.sample.to_string(),
                subject.clips[self.clips[&line.sample]].clip_id.clone(),
                line.condition.name().to_owned(),
                line.layer.to_string(),
                line.position.to_string(),
                piece.unwrap_or_else(|| class.name().to_uppercase().replace('_', "-")),
                class.name().to_owned(),
                line.mean.to_string(),
            ];
            out.write_record(record).map_err(failed)?;
        }
        out.flush().map_err(StageError::io(&path))
    }

    /// `to_bos`, `to_soc_g`, …: means over layers and heads, with the condition's name unless it is `own`.
    fn summary(&self, conditions: &[Condition]) -> Summary {
        let mut summary = Summary::new();
        for &condition in conditions {
            for class in Class::ALL {
                let cells = self.cells.iter().filter(|((c, _, _, of), _)| *c == condition as usize && *of == class);
                let means: Vec<f64> = cells.map(|(_, cell)| cell.sum / cell.queries).collect();
                if !means.is_empty() {
                    let suffix =
                        if condition == Condition::Own { String::new() } else { format!("_{}", condition.name()) };
                    let mean = means.iter().sum::<f64>() / means.len() as f64;
                    summary.insert(format!("to_{}{suffix}", class.name()), mean.into());
                }
            }
        }
        summary.insert("layers".into(), self.layers.into());
        summary.insert("heads".into(), self.heads.into());
        summary.insert("samples".into(), self.clips.len().into());
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(slots: Vec<Slot>) -> Sequence {
        let target = crate::social::samples::Target {
            position: slots.len() - 1,
            id: 1,
            word: None,
            class: crate::social::samples::Class::Text,
            number: 0,
            true_bits: None,
            floor_bits: None,
            bytes: 0,
        };
        Sequence { clip: 0, utterance: 0, slots, targets: vec![target], samples: 1, until: None }
    }

    #[test]
    fn only_queries_that_may_look_count() {
        // One head, four positions padded to five; the last row is the last text.
        let sequence = sequence(vec![Slot::Bos(2), Slot::Global, Slot::Text(5), Slot::Text(6)]);
        let rows = [
            [1.0, 0.0, 0.0, 0.0, 0.0],
            [0.5, 0.5, 0.0, 0.0, 0.0],
            [0.2, 0.3, 0.5, 0.0, 0.0],
            [0.1, 0.2, 0.3, 0.4, 0.0],
            [0.0; 5],
        ];
        let weights: Vec<f32> = rows.concat();
        let mut found = Found::new(1, 1);
        found.add(Condition::Own, 0, (0, &sequence), &weights, (5, 5), true);
        let cell = |found: &Found, class| found.cells[&(0, 0, 0, class)];
        let of = cell(&found, Class::SocG);
        assert_eq!(
            (of.queries, (of.sum / of.queries * 100.0).round()),
            (2.0, 25.0),
            "text queries alone, padding never"
        );
        assert!((cell(&found, Class::Text).sum - (0.5 + 0.7)).abs() < 1e-6);
        assert_eq!(found.grid.len(), 3, "from the position before the target");
        // A window of two hides BOS from both and SOC-G from the last.
        let mut near = Found::new(1, 1);
        near.add(Condition::Own, 0, (0, &sequence), &weights, (5, 2), false);
        assert!(!near.cells.contains_key(&(0, 0, 0, Class::Bos)));
        assert_eq!(cell(&near, Class::SocG).queries, 1.0);
        assert!(near.grid.is_empty());
    }

    #[test]
    fn controls_keep_the_places_and_take_the_clip_away() {
        let sequences = [
            sequence(vec![Slot::Global, Slot::Text(5), Slot::Local(0), Slot::Text(6)]),
            sequence(vec![Slot::Global, Slot::Text(5), Slot::Text(6)]),
        ];
        let means = |condition| {
            let own = [vec![1.0f32, 2.0, 10.0, 20.0], vec![3.0, 4.0]];
            replaced(condition, &sequences, own.to_vec())
        };
        assert_eq!(means(Condition::Constant), [vec![2.0, 3.0, 10.0, 20.0], vec![2.0, 3.0]]);
        assert_eq!(means(Condition::Zero), [vec![0.0; 4], vec![0.0; 2]]);
        assert_eq!(means(Condition::Own)[1], [3.0, 4.0]);
    }
}
