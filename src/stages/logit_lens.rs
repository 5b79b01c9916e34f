//! `logit_lens`: what the model would predict after each layer, with and without social tokens.
//!
//! Every hidden state at a position that predicts goes through the final norm (once: the last state has been through it
//! already) and the vocabulary head, as if it were the last one (nostalgebraist 2020; the original's
//! `logit_lens_from_jsonl_weights_ooo.py`). For the token that comes next there are, layer by layer,
//!
//! * `ce`: −ln p in nats, and `rank`: 1 + the number of tokens with a larger logit;
//! * `margin`: its logit less the largest other one, and `logit`;
//! * `cosine`: of the normed state with the token's row of the embedding matrix.
//!
//! `with` has the social tokens of `inject`, `without` the same text without any. The original took the gold token to be
//! the `[` of its marker and applied the final norm twice in the last layer; here the token is the word's own.

use std::collections::HashMap;
use std::fmt::Write;

use burn::tensor::{Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::as_trained::{self, Text};
use super::perplexity::caption_index;
use super::subject::{Sources, Subject};
use super::{Context, Estimate, Expected, Inputs, Result, Stage, StageError, Summary, Upstream};
use crate::models::gemma::Gemma;
use crate::social::columns::broken;
use crate::social::injection;
use crate::social::material;
use crate::social::prompt::Inject;
use crate::social::samples::{Sequence, Target};

/// See the module.
pub struct LogitLens;

/// Which tokens of a word are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tokens {
    /// The first of each word: the one at which the word is chosen.
    #[default]
    First,
    /// Every predicted token.
    All,
}

/// Settings of `logit_lens`. What is left out of `inject` to `max_tokens` is as in the training of the projector.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is looked at.
    #[serde(flatten)]
    pub sources: Sources,
    /// Which social tokens there are `with`; without a projector `none`, and then there is only `without`.
    #[serde(default)]
    pub inject: Option<Inject>,
    /// Which tokens of a word are looked at.
    #[serde(default)]
    pub tokens: Tokens,
    /// Apply the model's soft cap to logits (where it has one), so that the last layer gives its own probabilities. The
    /// original did not.
    #[serde(default = "yes")]
    pub softcap: bool,
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
    pub reading: as_trained::Reading,
    /// Samples at once.
    #[serde(default = "batch")]
    #[schemars(range(min = 1), extend("x-key" = false))]
    pub batch: usize,
}

fn yes() -> bool {
    true
}

fn split() -> String {
    "test".to_owned()
}

fn batch() -> usize {
    32
}

impl Stage for LogitLens {
    const KIND: &'static str = "logit_lens";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str =
        "Reads every layer's states through the final norm and the vocabulary head, with and without social tokens";
    const GIVES: &'static [&'static str] = &["lens"];
    type Config = Config;

    fn normalise(config: &mut Config, upstream: &Upstream) {
        config.sources.inherit(&mut config.inject, upstream);
        config.as_text.inherit(upstream);
        config.reading.inherit(upstream, config.inject);
    }

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        // Once per condition.
        let prompt = config.reading.prompt(&config.as_text, config.inject.unwrap_or(Inject::None));
        let passes = config.sources.passes(inputs, &config.split, &prompt, config.batch, 2);
        let Some(passes) = passes else { return Estimate::default() };
        let mut estimate = passes.estimate();
        if let (Some(network), Some(tokens)) = (passes.network, passes.tokens()) {
            // Every layer's states are kept to the end of the pass, and each goes through the vocabulary head; the last
            // layer's is in the estimate already.
            let states = network.layers as f64 * tokens;
            if let (Some(flops), Some(sequences)) = (&mut estimate.flops, passes.sequences) {
                *flops += states * network.head() * passes.repeats * sequences as f64;
            }
            if let Some(memory) = &mut estimate.memory {
                memory.each += 4 * (states.ceil() as u64) * network.hidden;
            }
        }
        estimate
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let chosen = (config.inject, config.sources.examples.as_slice());
        let subject = Subject::load(inputs, context, &config.reading, chosen, (&config.split, config.caption_index))?;
        let without = look(config, &subject, Inject::None, context, 0)?;
        let with = match subject.inject {
            Inject::None => None,
            inject => Some(look(config, &subject, inject, context, 1)?),
        };
        let layers = layer_names(subject.language.gemma.config().layers());
        let found = Found { layers, with, without };
        found.check()?;
        found.write(&subject, context)?;
        let mut summary = Summary::new();
        let arms = [("with", found.with.as_ref()), ("without", Some(&found.without))];
        for (name, views) in arms.into_iter().filter_map(|(name, views)| Some((name, views?))) {
            let last = found.layers.len() - 1;
            let mean = |value: fn(&Reading) -> f64| mean(views.iter().map(|view| value(&view.layers[last])));
            summary.insert(format!("ce_{name}"), mean(|reading| reading.ce).into());
            summary.insert(format!("margin_{name}"), mean(|reading| reading.margin).into());
            let ranks = views.iter().map(|view| view.layers[last].rank);
            summary.insert(format!("median_rank_{name}"), median(ranks).into());
        }
        summary.insert("targets".into(), found.without.len().into());
        summary.insert("layers".into(), found.layers.len().into());
        let capped = config.softcap && subject.language.gemma.config().final_softcap.is_some();
        summary.insert("softcapped".into(), capped.into());
        Ok(summary)
    }
}

/// `0`, `1`, …, `last`: the hidden states as `embed` names them.
fn layer_names(layers: usize) -> Vec<String> {
    (0..layers).map(|layer| layer.to_string()).chain(["last".to_owned()]).collect()
}

/// What one layer says of one target; see the module.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// −ln p, in nats.
    pub ce: f64,
    /// 1 + the number of tokens with a larger logit.
    pub rank: f64,
    /// The target's logit less the largest other one.
    pub margin: f64,
    /// The target's logit.
    pub logit: f64,
    /// Of the normed state with the target's row of the embedding matrix.
    pub cosine: f64,
}

/// One target through all layers.
#[derive(Clone, Debug)]
struct View {
    clip: usize,
    utterance: usize,
    target: Target,
    layers: Vec<Reading>,
}

fn look(config: &Config, subject: &Subject, inject: Inject, context: &Context, part: u64) -> Result<Vec<View>> {
    let gemma = &subject.language.gemma;
    let sequences = subject.sequences(&config.reading.prompt(&config.as_text, inject))?;
    let sequences: Vec<Sequence> = sequences.into_iter().map(|sequence| narrowed(sequence, config.tokens)).collect();
    let bank = if inject == Inject::None { None } else { subject.bank()? };
    let prepared = subject.prepared(&sequences, bank.as_ref())?;
    let reader = subject.reader(bank.as_ref(), config.reading.embedding_scale.unwrap_or_default());
    let mut views: Vec<Vec<View>> = vec![Vec::new(); sequences.len()];
    let mut done = 0;
    for chosen in injection::by_length(&prepared, config.batch) {
        let (batch, inputs) = reader.inputs(&prepared, &chosen);
        let tokens = batch.shape().1;
        let at: Vec<i64> = batch.labels.iter().map(|&(sample, position)| (sample * tokens + position) as i64).collect();
        let mut readings = vec![Vec::new(); at.len()];
        let states = gemma.hidden_states(inputs);
        let last = states.len() - 1;
        for (layer, states) in states.into_iter().enumerate().filter(|_| !at.is_empty()) {
            let [samples, tokens, hidden] = states.dims();
            let index = Tensor::<1, Int>::from_data(TensorData::new(at.clone(), [at.len()]), &subject.device);
            let states = states.reshape([samples * tokens, hidden]).select(0, index);
            let normed = if layer == last { states } else { gemma.final_normed(states) };
            let found = read(gemma, normed, &batch.targets, config.softcap)?;
            readings.iter_mut().zip(found).for_each(|(all, reading)| all.push(reading));
        }
        let mut readings = readings.into_iter();
        for &sample in &chosen {
            let sequence = &sequences[sample];
            let own = sequence.targets.iter().zip(readings.by_ref());
            views[sample] = own
                .map(|(target, layers)| View {
                    clip: sequence.clip,
                    utterance: sequence.utterance,
                    target: target.clone(),
                    layers,
                })
                .collect();
        }
        done += chosen.len() as u64;
        let all = sequences.len() as u64;
        context.progress(part * all + done, all * if subject.inject == Inject::None { 1 } else { 2 }, "sample")?;
    }
    Ok(views.into_iter().flatten().collect())
}

/// Of each word the first token alone, if so asked.
fn narrowed(mut sequence: Sequence, tokens: Tokens) -> Sequence {
    if tokens == Tokens::First {
        let mut before = None;
        sequence.targets.retain(|target| {
            let first = target.word.is_some() && target.word != before;
            before = target.word;
            first
        });
    }
    sequence
}

/// Rows of logits that are looked at together: 32 MiB of f32.
const ELEMENTS: usize = 1 << 23;

/// Readings of states `[rows, hidden]` after the final norm, one target each.
///
/// # Errors
/// A tensor cannot be read back.
pub fn read(gemma: &Gemma, normed: Tensor<2>, targets: &[u32], softcap: bool) -> Result<Vec<Reading>> {
    let vocabulary = gemma.config().vocabulary;
    let chunk = (ELEMENTS / vocabulary).max(1);
    let device = normed.device();
    let mut readings = Vec::with_capacity(targets.len());
    for (start, targets) in (0..).step_by(chunk).zip(targets.chunks(chunk)) {
        let states = normed.clone().narrow(0, start, targets.len());
        let ids: Vec<i64> = targets.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, targets.len()]), &device);
        let rows = gemma.rows(ids).reshape(states.dims());
        let product = |a: &Tensor<2>, b: &Tensor<2>| (a.clone() * b.clone()).sum_dim(1);
        let lengths = (product(&states, &states) * product(&rows, &rows)).sqrt();
        // What enters the first layer at a disabled token's place is zeros, which have no direction: a cosine of 0.
        let cosines = material::downloaded(product(&states, &rows) / lengths.clamp_min(f32::MIN_POSITIVE))?;
        // The cap is monotone: it changes no rank, so it can be applied on the way out.
        let logits = material::downloaded(gemma.raw_logits(states))?;
        let cap = gemma.config().final_softcap.filter(|_| softcap);
        for ((logits, &target), cosine) in logits.chunks(vocabulary).zip(targets).zip(cosines) {
            readings.push(Reading { cosine: f64::from(cosine), ..reading(logits, target as usize, cap) });
        }
    }
    Ok(readings)
}

/// What a row of logits says of a target.
fn reading(logits: &[f32], target: usize, cap: Option<f64>) -> Reading {
    let capped = |logit: f32| cap.map_or(f64::from(logit), |cap| cap * (f64::from(logit) / cap).tanh());
    let own = logits[target];
    let (mut above, mut other) = (0usize, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate().filter(|(id, _)| *id != target) {
        above += usize::from(logit > own || logit.is_nan() && id < target);
        other = other.max(logit);
    }
    let (logit, other) = (capped(own), capped(other));
    let largest = logit.max(other);
    let total: f64 = logits.iter().map(|&logit| (capped(logit) - largest).exp()).sum();
    Reading { ce: total.ln() + largest - logit, rank: above as f64 + 1.0, margin: logit - other, logit, cosine: 0.0 }
}

struct Found {
    layers: Vec<String>,
    with: Option<Vec<View>>,
    without: Vec<View>,
}

type Key = (usize, usize, usize);

fn key(view: &View) -> Key {
    (view.clip, view.utterance, view.target.number)
}

impl Found {
    fn check(&self) -> Result<()> {
        let views = self.with.iter().flatten().chain(&self.without);
        if views.flat_map(|view| &view.layers).any(|reading| !reading.ce.is_finite() || !reading.cosine.is_finite()) {
            return Err(StageError::hint(
                "a logit is not finite",
                "look at the projector's training (`metrics.jsonl`): it may have diverged",
            ));
        }
        Ok(())
    }

    fn write(&self, subject: &Subject, context: &Context) -> Result<()> {
        self.long(subject, context)?;
        let sides = |value: fn(&Reading) -> f64, all: fn(Vec<f64>) -> f64| -> String {
            let mut text = String::from("layer\twith\twithout\n");
            for (place, layer) in self.layers.iter().enumerate() {
                let side = |views: Option<&Vec<View>>| {
                    views.map_or_else(String::new, |views| {
                        all(views.iter().map(|view| value(&view.layers[place])).collect()).to_string()
                    })
                };
                let _ = writeln!(text, "{layer}\t{}\t{}", side(self.with.as_ref()), side(Some(&self.without)));
            }
            text
        };
        let average: fn(Vec<f64>) -> f64 = |values| mean(values.into_iter());
        save(context, "layerwise_ce.tsv", &sides(|reading| reading.ce, average))?;
        save(context, "target_rank.tsv", &sides(|reading| reading.rank, |values| median(values.into_iter())))?;
        save(context, "target_margin.tsv", &sides(|reading| reading.margin, average))?;
        save(context, "resid_contrib.tsv", &sides(|reading| reading.cosine, average))?;
        let Some(with) = &self.with else { return Ok(()) };
        let without: HashMap<Key, &View> = self.without.iter().map(|view| (key(view), view)).collect();
        let pairs: Vec<(&View, &View)> =
            with.iter().filter_map(|view| Some((view, *without.get(&key(view))?))).collect();
        let mut text = String::from("layer\tdelta\n");
        for (place, layer) in self.layers.iter().enumerate() {
            let deltas = pairs.iter().map(|(with, without)| with.layers[place].logit - without.layers[place].logit);
            let _ = writeln!(text, "{layer}\t{}", mean(deltas));
        }
        save(context, "delta_true.tsv", &text)?;
        let mut text =
            String::from("clip_id\tutterance\ttarget\tpiece\tce_with\tce_without\trank_with\trank_without\n");
        let last = self.layers.len() - 1;
        for (with, without) in pairs {
            let (a, b) = (&with.layers[last], &without.layers[last]);
            let _ = writeln!(
                text,
                "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
                subject.clips[with.clip].clip_id,
                with.utterance,
                with.target.number,
                piece(subject, with),
                a.ce,
                b.ce,
                a.rank,
                b.rank
            );
        }
        save(context, "summary_lastlayer.tsv", &text)
    }

    /// `lens.csv`: every target, layer and condition.
    fn long(&self, subject: &Subject, context: &Context) -> Result<()> {
        let path = context.folder().join("lens.csv");
        let failed = |error: csv::Error| broken(&path, &error);
        let mut out = csv::Writer::from_path(&path).map_err(failed)?;
        let header = [
            "clip_id",
            "utterance",
            "target",
            "word",
            "token",
            "piece",
            "condition",
            "layer",
            "ce",
            "rank",
            "margin",
            "logit",
            "cosine",
        ];
        out.write_record(header).map_err(failed)?;
        for (condition, views) in [("with", self.with.as_deref()), ("without", Some(self.without.as_slice()))] {
            for view in views.unwrap_or_default() {
                for (layer, reading) in self.layers.iter().zip(&view.layers) {
                    let of = [
                        subject.clips[view.clip].clip_id.clone(),
                        view.utterance.to_string(),
                        view.target.number.to_string(),
                        view.target.word.map(|word| word.to_string()).unwrap_or_default(),
                        view.target.id.to_string(),
                        piece(subject, view),
                        condition.to_owned(),
                        layer.clone(),
                    ];
                    let numbers = [reading.ce, reading.rank, reading.margin, reading.logit, reading.cosine];
                    out.write_record(of.into_iter().chain(numbers.map(|number| number.to_string()))).map_err(failed)?;
                }
            }
        }
        out.flush().map_err(StageError::io(&path))
    }
}

/// The token as the vocabulary writes it; a tab or line break in it would break a table.
fn piece(subject: &Subject, view: &View) -> String {
    subject.language.piece(view.target.id).unwrap_or_default().replace(['\t', '\n', '\r'], " ")
}

fn save(context: &Context, name: &str, text: &str) -> Result<()> {
    let path = context.folder().join(name);
    std::fs::write(&path, text).map_err(StageError::io(&path))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

/// The middle value, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_logits_gives_probability_rank_and_margin() {
        let logits = [1.0f32, 3.0, 2.0, -1.0];
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let found = reading(&logits, 2, None);
        assert!((found.ce - (total.ln() - 2.0)).abs() < 1e-12);
        assert_eq!((found.rank, found.margin, found.logit), (2.0, -1.0, 2.0));
        assert_eq!(reading(&logits, 1, None).margin, 1.0);
        let capped = reading(&logits, 2, Some(2.0));
        assert!((capped.margin - 2.0 * (1f64.tanh() - 1.5f64.tanh())).abs() < 1e-12);
        assert_eq!((capped.rank, median([3.0, 1.0, 2.0].into_iter()), median([1.0, 2.0].into_iter())), (2.0, 2.0, 1.5));
    }

    #[test]
    fn of_a_word_the_first_token_is_taken() {
        let target = |number, word| Target {
            position: number + 1,
            id: 1,
            word,
            class: crate::social::samples::Class::Text,
            number,
            true_bits: None,
            floor_bits: None,
            bytes: 0,
        };
        let targets =
            vec![target(0, Some(0)), target(1, Some(0)), target(2, None), target(3, Some(1)), target(4, Some(1))];
        let sequence = Sequence { clip: 0, utterance: 0, slots: vec![], targets, samples: 1, until: None };
        let numbers =
            |tokens| narrowed(sequence.clone(), tokens).targets.iter().map(|target| target.number).collect::<Vec<_>>();
        assert_eq!(numbers(Tokens::First), [0, 3]);
        assert_eq!(numbers(Tokens::All).len(), 5);
    }
}
