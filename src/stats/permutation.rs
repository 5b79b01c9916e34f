//! Permutations of stimulus labels (Mantel's test): what a model's score would be if the judged stimuli were others.
//!
//! A permutation moves rows and columns of the judged matrix together, gaps included. One set of permutations serves
//! every model: the judged side is permuted once and all models are scored against it. Permutation r depends on the seed
//! and r alone, and sums are integers, so results are the same on any number of threads.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dense::{Dense, Rank};
use super::pairs::{Judged, Modelled, Scorer, concordance, score_of, tau};
use super::random::Streams;
use super::ranks::Statistic;

/// Which scores count as at least as extreme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Side {
    /// Larger ones: is the model more like people than chance?
    #[default]
    Greater,
    /// Scores further from 0, in either direction.
    TwoSided,
}

impl Side {
    /// As in config keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Greater => "greater",
            Self::TwoSided => "two_sided",
        }
    }

    fn extremeness(self, score: f64) -> f64 {
        match self {
            Self::Greater => score,
            Self::TwoSided => score.abs(),
        }
    }
}

/// Scores under permuted labels, `[permutations, models]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Null {
    models: usize,
    scores: Vec<f64>,
}

impl Null {
    /// Number of permutations.
    pub fn permutations(&self) -> usize {
        self.scores.len() / self.models.max(1)
    }

    /// The scores of every model under one permutation.
    pub fn row(&self, permutation: usize) -> &[f64] {
        &self.scores[permutation * self.models..(permutation + 1) * self.models]
    }

    /// p of one model's score: (1 + number at least as extreme) / (1 + permutations).
    pub fn p_value(&self, model: usize, score: f64, side: Side) -> f64 {
        p_value((0..self.permutations()).map(|permutation| self.row(permutation)[model]), score, side)
    }

    /// p of the largest of all models' scores, against the largest under each permutation.
    pub fn p_of_largest(&self, score: f64, side: Side) -> f64 {
        let largest = |row: &[f64]| row.iter().map(|&score| side.extremeness(score)).fold(f64::MIN, f64::max);
        p_value((0..self.permutations()).map(|permutation| largest(self.row(permutation))), score, side)
    }
}

/// (1 + number of `null` at least as extreme as `score`) / (1 + number of `null`).
pub fn p_value(null: impl Iterator<Item = f64>, score: f64, side: Side) -> f64 {
    let (mut count, mut extreme) = (0u64, 0u64);
    for value in null {
        count += 1;
        extreme += u64::from(side.extremeness(value) >= side.extremeness(score));
    }
    (extreme + 1) as f64 / (count + 1) as f64
}

/// The permutation `number` of the set that `streams` names, of 0..`order.len()`.
pub fn permute(streams: &Streams, number: u64, order: &mut [u16]) {
    let mut stream = streams.at(0, number, "labels");
    order.iter_mut().zip(0..).for_each(|(place, index)| *place = index);
    for last in (1..order.len()).rev() {
        order.swap(last, stream.below_u32(last as u32 + 1) as usize);
    }
}

/// Scores of every model under `permutations` permutations of the judged stimuli. A score that is not defined (a side
/// that does not vary among the pairs that meet) is 0.
pub fn null(
    judged: &Judged,
    models: &[Modelled],
    statistic: Statistic,
    permutations: usize,
    streams: &Streams,
) -> Null {
    let complete = judged.pairs() == judged.levels().len() && judged.weight() == judged.pairs() as u64;
    let scores = if complete && statistic != Statistic::KendallTauA {
        if judged.stimuli() <= 256 {
            complete_null::<i16>(judged, models, statistic, permutations, streams)
        } else {
            complete_null::<i32>(judged, models, statistic, permutations, streams)
        }
    } else {
        gapped_null(judged, models, statistic, permutations, streams)
    };
    Null { models: models.len(), scores }
}

/// Permutations that one task takes: enough to be worth a task, few enough for both cores to end together.
const CHUNK: usize = 32;

/// Every pair is judged and counts once: a model's ranks never change, and a score is one product.
fn complete_null<R: Rank>(
    judged: &Judged,
    models: &[Modelled],
    statistic: Statistic,
    permutations: usize,
    streams: &Streams,
) -> Vec<f64> {
    let (ranks, human_ties) = judged.own_ranks();
    let levels = judged.levels().iter().map(|&level| u64::from(ranks[level as usize - 1])).collect::<Vec<u64>>();
    let pairs = levels.len() as u64;
    let centred = |doubled: u64| doubled as i64 - (pairs as i64 + 1);
    let dense = Dense::<R>::new(judged.stimuli(), levels.iter().map(|&rank| centred(rank)));
    let sides: Vec<(Vec<R>, u64)> = models
        .iter()
        .map(|model| {
            let (doubled, ties) = model.doubled_ranks();
            (dense.triangle(doubled.iter().map(|&rank| centred(rank))), ties)
        })
        .collect();
    let middle = pairs * (pairs + 1) * (pairs + 1);
    let mut scores = vec![0.0; permutations * models.len()];
    scores.par_chunks_mut(CHUNK * models.len().max(1)).enumerate().for_each_init(
        || (vec![0u16; judged.stimuli()], dense.space()),
        |(order, space), (chunk, scores)| {
            for (within, row) in scores.chunks_mut(models.len().max(1)).enumerate() {
                permute(streams, (chunk * CHUNK + within) as u64, order);
                dense.permute(order, space);
                for (score, (side, ties)) in row.iter_mut().zip(&sides) {
                    let product = middle.wrapping_add_signed(dense.product(side, space));
                    *score = score_of(pairs, product, [human_ties, *ties], statistic).unwrap_or(0.0);
                }
            }
        },
    );
    scores
}

/// One judged pair as it is moved about.
#[derive(Clone, Copy, Default)]
struct Cell {
    weight: u32,
    /// Doubled average rank, or for τ-a the number of the group of equal values.
    rank: u32,
}

/// Some pairs are not judged, or pairs have weights: the model's ranks are among the pairs that a permutation leaves.
fn gapped_null(
    judged: &Judged,
    models: &[Modelled],
    statistic: Statistic,
    permutations: usize,
    streams: &Streams,
) -> Vec<f64> {
    let stimuli = judged.stimuli();
    let (ranks, human_ties) = judged.own_ranks();
    let mut table = vec![Cell::default(); stimuli * stimuli];
    let pairs = super::rsm::upper_triangle(stimuli);
    for (((i, j), &level), &weight) in pairs.zip(judged.levels()).zip(judged.weight_of()) {
        if level > 0 {
            let group = level - 1;
            let rank = if statistic == Statistic::KendallTauA { group } else { ranks[group as usize] };
            table[i * stimuli + j] = Cell { weight, rank };
            table[j * stimuli + i] = Cell { weight, rank };
        }
    }
    let single_ties = judged.weight_of().iter().map(|&weight| u64::from(weight)).map(|w| w * w * w - w).sum();
    let mut scores = vec![0.0; permutations * models.len()];
    scores.par_chunks_mut(CHUNK * models.len().max(1)).enumerate().for_each_init(
        || (vec![0u16; stimuli], vec![Cell::default(); judged.levels().len()], Vec::new()),
        |(order, cells, tree), (chunk, scores)| {
            for (within, row) in scores.chunks_mut(models.len().max(1)).enumerate() {
                permute(streams, (chunk * CHUNK + within) as u64, order);
                let mut place = 0;
                for (i, &from) in order.iter().enumerate() {
                    let source = &table[usize::from(from) * stimuli..][..stimuli];
                    for (cell, &column) in cells[place..].iter_mut().zip(&order[i + 1..]) {
                        *cell = source[usize::from(column)];
                    }
                    place += stimuli - i - 1;
                }
                for (score, model) in row.iter_mut().zip(models) {
                    let found = if statistic == Statistic::KendallTauA {
                        let of = |place: usize| {
                            let cell = cells[model.all[place] as usize];
                            (cell.rank, u64::from(cell.weight))
                        };
                        let ends = if model.all_ends.len() < model.all.len() { &model.all_ends[..] } else { &[] };
                        tau(concordance(tree, judged.distinct(), ends, model.all.len(), of), judged.weight())
                    } else {
                        gapped_score(model, cells, statistic, [human_ties, single_ties])
                    };
                    *score = found.unwrap_or(0.0);
                }
            }
        },
    );
    scores
}

fn gapped_score(model: &Modelled, cells: &[Cell], statistic: Statistic, ties: [u64; 2]) -> Option<f64> {
    let [human_ties, mut model_ties] = ties;
    let (mut before, mut product) = (0u64, 0u64);
    if model.all_ends.len() == model.all.len() {
        for &place in &model.all {
            let Cell { weight, rank } = cells[place as usize];
            let weight = u64::from(weight);
            product += weight * (2 * before + weight + 1) * u64::from(rank);
            before += weight;
        }
    } else {
        model_ties = 0;
        let mut start = 0;
        for &end in &model.all_ends {
            let (mut group, mut other) = (0u64, 0u64);
            for &place in &model.all[start..end as usize] {
                let Cell { weight, rank } = cells[place as usize];
                group += u64::from(weight);
                other += u64::from(weight) * u64::from(rank);
            }
            product += (2 * before + group + 1) * other;
            model_ties += (group * group * group).saturating_sub(group);
            before += group;
            start = end as usize;
        }
    }
    score_of(before, product, [human_ties, model_ties], statistic)
}

/// Scores of every model with the labels as they are; 0 where a score is not defined.
pub fn observed(judged: &Judged, models: &[Modelled], statistic: Statistic) -> Vec<f64> {
    let mut scorer = Scorer::new(judged, statistic);
    let times = vec![1; judged.stimuli()];
    models.iter().map(|model| scorer.score(model, &times).unwrap_or(0.0)).collect()
}
