//! Rank statistics of judged pairs of stimuli against a model's, made to be asked thousands of times.
//!
//! Both sides are sorted once. After that a permutation of labels, a bootstrap draw of stimuli or a fold is a set of
//! integer weights on the pairs, and average ranks are running sums of weights in the sorted order (a pair of weight w
//! counts as w equal pairs). Everything is summed in integers, so results depend neither on the order of summation nor on
//! the number of threads. Resampled pairs that fall on one stimulus drop out, because only pairs i < j exist.

use super::ranks::Statistic;
use super::rsm::upper_triangle;

/// Stimuli at most: beyond, sums of cubed ranks would leave 64 bits.
pub const MOST_WEIGHT: u64 = 1_200_000;

/// The judged side: pairs that somebody judged, in ascending order of their similarity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    stimuli: usize,
    /// Judged pairs in ascending order of value.
    sorted: Vec<[u16; 2]>,
    /// Weights of `sorted`; all 1 unless pairs are weighted by their number of judgments.
    weights: Vec<u32>,
    /// Ends in `sorted` of the groups of equal values.
    ends: Vec<u32>,
    /// Per pair i < j in row order: number of its group plus one, or 0 where nobody judged.
    levels: Vec<u32>,
    /// Per pair i < j in row order: its weight, 0 where nobody judged.
    weight_of: Vec<u32>,
    /// Pairs that nobody judged, if every other pair weighs 1.
    absent: Option<Vec<[u16; 2]>>,
}

/// A model's side for one [`Judged`]: the same pairs in ascending order of the model's similarity.
#[derive(Clone, Debug)]
pub struct Modelled {
    entries: Vec<Entry>,
    /// Weights of `entries`, where not all are 1.
    weights: Option<Vec<u32>>,
    /// Ends in `entries` of the groups of equal values; empty when no two are equal.
    ends: Vec<u32>,
    /// Every pair, judged or not, in ascending order (places in row order), with the ends of groups of equal values.
    pub(super) all: Vec<u32>,
    pub(super) all_ends: Vec<u32>,
}

/// A judged pair in the model's order.
#[derive(Clone, Copy, Debug)]
struct Entry {
    pair: [u16; 2],
    /// Its group on the judged side.
    level: u32,
}

/// Sums that give the statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    /// Total weight W.
    weight: u64,
    /// Σ w · R · S of doubled average ranks R, S.
    product: u64,
    /// Σ (g³ − g) over groups of equal values, of each side.
    ties: [u64; 2],
}

impl Sums {
    /// `(12 Σ r̃ s̃, W³ − W)`.
    fn centred(&self) -> (f64, f64) {
        let weight = self.weight;
        let product = i128::from(self.product) - i128::from(weight) * i128::from(weight + 1) * i128::from(weight + 1);
        let cube = u128::from(weight).pow(3) - u128::from(weight);
        (3.0 * product as f64, cube as f64)
    }

    fn score(&self, statistic: Statistic) -> Option<f64> {
        let (product, cube) = self.centred();
        if self.weight < 2 {
            return None;
        }
        match statistic {
            Statistic::Spearman => correlation(product, cube, self.ties),
            _ => Some(product / cube),
        }
    }
}

/// The statistic (not τ-a) of the total weight, Σ w · R · S of doubled average ranks, and the ties of both sides.
pub(super) fn score_of(weight: u64, product: u64, ties: [u64; 2], statistic: Statistic) -> Option<f64> {
    Sums { weight, product, ties }.score(statistic)
}

/// Spearman's correlation of `12 Σ r̃ s̃`, `W³ − W` and the ties of both sides; `None` when a side does not vary.
fn correlation(product: f64, cube: f64, ties: [u64; 2]) -> Option<f64> {
    let [left, right] = ties.map(|ties| cube - ties as f64);
    let scale = (left * right).sqrt();
    (scale > 0.0).then(|| (product / scale).clamp(-1.0, 1.0))
}

/// Places of finite `values` in ascending order, and the ends of groups of equal values.
fn sorted(values: &[f64]) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_by(|&a, &b| values[a as usize].total_cmp(&values[b as usize]).then(a.cmp(&b)));
    let ends = (1..=order.len())
        .filter(|&end| end == order.len() || values[order[end] as usize] != values[order[end - 1] as usize])
        .map(|end| end as u32)
        .collect();
    (order, ends)
}

impl Judged {
    /// Of `values` `[stimuli, stimuli]` (row-major; the upper triangle is read, `None` is a pair that nobody judged) and,
    /// if pairs are to count by their number of judgments, `counts` of the same shape. `None` for more than
    /// [`MOST_WEIGHT`] pairs (or judgments), or more than 65,536 stimuli.
    pub fn new(stimuli: usize, values: &[Option<f64>], counts: Option<&[u32]>) -> Option<Self> {
        if stimuli > 1 << 16 || stimuli * stimuli.saturating_sub(1) / 2 > MOST_WEIGHT as usize {
            return None;
        }
        let all: Vec<(usize, usize)> = upper_triangle(stimuli).collect();
        let judged: Vec<u32> = (0..all.len() as u32)
            .filter(|&place| {
                let (i, j) = all[place as usize];
                values[i * stimuli + j].is_some() && counts.is_none_or(|counts| counts[i * stimuli + j] > 0)
            })
            .collect();
        let chosen: Vec<f64> = judged
            .iter()
            .filter_map(|&place| {
                let (i, j) = all[place as usize];
                values[i * stimuli + j]
            })
            .collect();
        let (order, ends) = sorted(&chosen);
        let mut side = Self {
            stimuli,
            sorted: Vec::with_capacity(order.len()),
            weights: Vec::with_capacity(order.len()),
            ends,
            levels: vec![0; all.len()],
            weight_of: vec![0; all.len()],
            absent: None,
        };
        let mut level = 0;
        for (place, &of) in order.iter().enumerate() {
            level += usize::from(place == side.ends[level] as usize);
            let pair = judged[of as usize] as usize;
            let (i, j) = all[pair];
            let weight = counts.map_or(1, |counts| counts[i * stimuli + j]);
            side.sorted.push([i as u16, j as u16]);
            side.weights.push(weight);
            side.levels[pair] = level as u32 + 1;
            side.weight_of[pair] = weight;
        }
        if side.weights.iter().all(|&weight| weight == 1) {
            let missing = all.iter().zip(&side.levels).filter(|(_, level)| **level == 0);
            side.absent = Some(missing.map(|(&(i, j), _)| [i as u16, j as u16]).collect());
        }
        (side.weight() <= MOST_WEIGHT).then_some(side)
    }

    /// Number of stimuli.
    pub fn stimuli(&self) -> usize {
        self.stimuli
    }

    /// Judged pairs.
    pub fn pairs(&self) -> usize {
        self.sorted.len()
    }

    /// Sum of the weights.
    pub fn weight(&self) -> u64 {
        self.weights.iter().map(|&weight| u64::from(weight)).sum()
    }

    /// Per pair i < j in row order: its group of equal values from 1, or 0 where nobody judged.
    pub(super) fn levels(&self) -> &[u32] {
        &self.levels
    }

    /// Per pair i < j in row order: its weight.
    pub(super) fn weight_of(&self) -> &[u32] {
        &self.weight_of
    }

    /// Number of different values.
    pub(super) fn distinct(&self) -> usize {
        self.ends.len()
    }

    /// The judgments that stimulus i and j get when theirs are those of `order[i]` and `order[j]`.
    pub(super) fn permuted(&self, order: &[u16]) -> Self {
        let mut to = vec![0u16; order.len()];
        order.iter().zip(0..).for_each(|(&from, place)| to[usize::from(from)] = place);
        let moved = |&[i, j]: &[u16; 2]| {
            let (i, j) = (to[usize::from(i)], to[usize::from(j)]);
            [i.min(j), i.max(j)]
        };
        let from = |(i, j): (usize, usize)| {
            let (i, j) = (usize::from(order[i]), usize::from(order[j]));
            place(self.stimuli, i.min(j), i.max(j))
        };
        let places: Vec<usize> = upper_triangle(self.stimuli).map(from).collect();
        Self {
            stimuli: self.stimuli,
            sorted: self.sorted.iter().map(moved).collect(),
            weights: self.weights.clone(),
            ends: self.ends.clone(),
            levels: places.iter().map(|&place| self.levels[place]).collect(),
            weight_of: places.iter().map(|&place| self.weight_of[place]).collect(),
            absent: self.absent.as_ref().map(|absent| absent.iter().map(moved).collect()),
        }
    }

    /// Doubled average rank of each group of equal values, and Σ (g³ − g), with the pairs' own weights.
    pub(super) fn own_ranks(&self) -> (Vec<u32>, u64) {
        let mut drawn = Drawn::default();
        self.draw(&vec![1; self.stimuli], &mut drawn);
        (drawn.ranks, drawn.ties)
    }

    /// Ranks when stimulus i counts `times[i]` times.
    fn draw(&self, times: &[u32], drawn: &mut Drawn) {
        drawn.ranks.clear();
        drawn.ranks.resize(self.ends.len(), 0);
        let pair_weight = |pair: &[u16; 2]| times[usize::from(pair[0])] * times[usize::from(pair[1])];
        drawn.single_ties = match &self.absent {
            Some(absent) => single_ties(times, absent.iter().map(pair_weight)),
            None => {
                let weights = self.sorted.iter().zip(&self.weights);
                weights.map(|(pair, &own)| cube(u64::from(pair_weight(pair) * own))).sum()
            }
        };
        let mut before = 0u32;
        if self.ends.len() == self.sorted.len() && self.absent.is_some() {
            for (pair, rank) in self.sorted.iter().zip(&mut drawn.ranks) {
                let weight = pair_weight(pair);
                *rank = 2 * before + weight + 1;
                before += weight;
            }
            (drawn.weight, drawn.ties) = (u64::from(before), drawn.single_ties);
            return;
        }
        let (mut start, mut ties) = (0, 0);
        for (&end, rank) in self.ends.iter().zip(&mut drawn.ranks) {
            let range = start..end as usize;
            let group: u32 = match &self.absent {
                Some(_) => self.sorted[range].iter().map(pair_weight).sum(),
                None => {
                    let pairs = self.sorted[range.clone()].iter().zip(&self.weights[range]);
                    pairs.map(|(pair, &own)| pair_weight(pair) * own).sum()
                }
            };
            *rank = 2 * before + group + 1;
            before += group;
            ties += cube(u64::from(group));
            start = end as usize;
        }
        (drawn.weight, drawn.ties) = (u64::from(before), ties);
    }
}

/// Σ (w³ − w) over the pairs of stimuli but `absent`, w being the product of their times: of all pairs it follows from sums
/// over stimuli.
fn single_ties(times: &[u32], absent: impl Iterator<Item = u32>) -> u64 {
    let power = |exponent: u32| times.iter().map(|&times| u64::from(times).pow(exponent)).sum::<u64>();
    let of_pairs = |sum: u64, squares: u64| (sum * sum - squares) / 2;
    let all = of_pairs(power(3), power(6)) - of_pairs(power(1), power(2));
    all - absent.map(|weight| cube(u64::from(weight))).sum::<u64>()
}

/// The place of pair i < j of `stimuli` stimuli in row order.
fn place(stimuli: usize, i: usize, j: usize) -> usize {
    i * (2 * stimuli - i - 1) / 2 + j - i - 1
}

/// `w³ − w`.
fn cube(weight: u64) -> u64 {
    weight * weight * weight - weight
}

/// The judged side of one draw of stimuli: scratch space of [`Scorer`].
#[derive(Clone, Debug, Default)]
struct Drawn {
    /// Doubled average rank of each group of equal values.
    ranks: Vec<u32>,
    weight: u64,
    /// Σ (g³ − g) over groups of equal values.
    ties: u64,
    /// Σ (w³ − w) over pairs: the ties of a model whose values all differ.
    single_ties: u64,
}

impl Modelled {
    /// Of the model's finite similarities of all pairs i < j in row order. Only their order matters.
    pub fn new(judged: &Judged, values: &[f64]) -> Self {
        assert_eq!(values.len(), judged.levels.len(), "one similarity per pair of stimuli");
        let (all, all_ends) = sorted(values);
        Self { entries: Vec::new(), weights: None, ends: Vec::new(), all, all_ends }.against(judged)
    }

    /// The same similarities for other judgments of as many stimuli.
    pub(super) fn against(&self, judged: &Judged) -> Self {
        let pairs: Vec<[u16; 2]> = upper_triangle(judged.stimuli).map(|(i, j)| [i as u16, j as u16]).collect();
        let weighted = judged.weights.iter().any(|&weight| weight != 1);
        let (mut entries, mut weights, mut ends) = (Vec::with_capacity(judged.pairs()), Vec::new(), Vec::new());
        let mut start = 0;
        for &end in &self.all_ends {
            for &place in &self.all[start..end as usize] {
                let place = place as usize;
                if judged.levels[place] > 0 {
                    entries.push(Entry { pair: pairs[place], level: judged.levels[place] - 1 });
                    if weighted {
                        weights.push(judged.weight_of[place]);
                    }
                }
            }
            start = end as usize;
            if ends.last().copied().unwrap_or(0) < entries.len() as u32 {
                ends.push(entries.len() as u32);
            }
        }
        if ends.len() == entries.len() {
            ends.clear();
        }
        let weights = weighted.then_some(weights);
        Self { entries, weights, ends, all: self.all.clone(), all_ends: self.all_ends.clone() }
    }

    /// Doubled average rank of every pair, in row order, and Σ (g³ − g) over groups of equal values.
    pub(super) fn doubled_ranks(&self) -> (Vec<u64>, u64) {
        let mut ranks = vec![0; self.all.len()];
        let (mut start, mut ties) = (0, 0);
        for &end in &self.all_ends {
            self.all[start as usize..end as usize]
                .iter()
                .for_each(|&place| ranks[place as usize] = u64::from(start + end + 1));
            ties += cube(u64::from(end - start));
            start = end;
        }
        (ranks, ties)
    }

    /// Average ranks among all pairs, in row order: enough to make an equal side again.
    pub fn ranks(&self) -> Vec<f32> {
        self.doubled_ranks().0.into_iter().map(|rank| rank as f32 / 2.0).collect()
    }
}

/// Scores models against one judged side for many draws of stimuli, without allocating.
#[derive(Clone, Debug)]
pub struct Scorer<'a> {
    judged: &'a Judged,
    statistic: Statistic,
    drawn: Drawn,
    tree: Vec<u64>,
}

impl<'a> Scorer<'a> {
    /// A scorer of `statistic`, with every stimulus counting once.
    pub fn new(judged: &'a Judged, statistic: Statistic) -> Self {
        let mut scorer = Self { judged, statistic, drawn: Drawn::default(), tree: Vec::new() };
        scorer.draw(&vec![1; judged.stimuli]);
        scorer
    }

    /// From now on stimulus i counts `times[i]` times, and 0 leaves it out. `None` when that leaves too little or too
    /// much to compare.
    pub fn draw(&mut self, times: &[u32]) -> Option<()> {
        self.judged.draw(times, &mut self.drawn);
        (2..=MOST_WEIGHT + MOST_WEIGHT / 2).contains(&self.drawn.weight).then_some(())
    }

    /// The statistic with the draw of [`Scorer::draw`], whose `times` are given again. `None` when a side does not vary.
    pub fn score(&mut self, model: &Modelled, times: &[u32]) -> Option<f64> {
        if self.statistic == Statistic::KendallTauA {
            return self.kendall(model, times);
        }
        let mut sums = Sums { weight: self.drawn.weight, ties: [self.drawn.ties, 0], product: 0 };
        let ranks = &self.drawn.ranks[..];
        let weight = |entry: &Entry| times[usize::from(entry.pair[0])] * times[usize::from(entry.pair[1])];
        if !model.ends.is_empty() {
            let (mut start, mut before) = (0, 0u64);
            for &end in &model.ends {
                let (mut group, mut other) = (0u64, 0u64);
                for place in start..end as usize {
                    let entry = &model.entries[place];
                    let own = model.weights.as_ref().map_or(1, |weights| weights[place]);
                    let weight = u64::from(weight(entry) * own);
                    group += weight;
                    other += weight * u64::from(ranks[entry.level as usize]);
                }
                sums.product += (2 * before + group + 1) * other;
                sums.ties[1] += cube(group);
                before += group;
                start = end as usize;
            }
            return sums.score(self.statistic);
        }
        let mut before = 0u32;
        let mut add = |entry: &Entry, weight: u32| {
            let rank = u64::from(2 * before + weight + 1);
            sums.product += rank * (u64::from(weight) * u64::from(ranks[entry.level as usize]));
            before += weight;
        };
        match &model.weights {
            None => model.entries.iter().for_each(|entry| add(entry, weight(entry))),
            Some(own) => model.entries.iter().zip(own).for_each(|(entry, &own)| add(entry, weight(entry) * own)),
        }
        sums.ties[1] = self.drawn.single_ties;
        sums.score(self.statistic)
    }

    /// τ-a by a tree of weights over the judged groups, filled in the model's order.
    fn kendall(&mut self, model: &Modelled, times: &[u32]) -> Option<f64> {
        let weight = |place: usize| {
            let entry = &model.entries[place];
            let own = model.weights.as_ref().map_or(1, |weights| weights[place]);
            (entry.level, u64::from(times[usize::from(entry.pair[0])] * times[usize::from(entry.pair[1])] * own))
        };
        let groups = self.judged.distinct();
        let difference = concordance(&mut self.tree, groups, &model.ends, model.entries.len(), weight);
        tau(difference, self.drawn.weight)
    }
}

/// τ-a of concordant minus discordant weight and total weight.
pub(super) fn tau(difference: i64, weight: u64) -> Option<f64> {
    (weight > 1).then(|| 2.0 * difference as f64 / (weight as f64 * (weight - 1) as f64))
}

/// Concordant minus discordant weight of `count` places in ascending order of one side, `ends` being its groups of equal
/// values (empty: all differ); `of` gives the group on the other side (of `groups`) and the weight of a place.
pub(super) fn concordance(
    tree: &mut Vec<u64>,
    groups: usize,
    ends: &[u32],
    count: usize,
    of: impl Fn(usize) -> (u32, u64),
) -> i64 {
    tree.clear();
    tree.resize(groups + 1, 0);
    let (mut start, mut total, mut difference) = (0, 0u64, 0i64);
    let mut next = ends.iter();
    while start < count {
        let end = next.next().map_or(start + 1, |&end| end as usize);
        for place in start..end {
            let (group, weight) = of(place);
            if weight > 0 {
                let (below, upto) = (prefix(tree, group as usize), prefix(tree, group as usize + 1));
                difference += weight as i64 * (below as i64 - (total - upto) as i64);
            }
        }
        for place in start..end {
            let (group, weight) = of(place);
            total += weight;
            let mut node = group as usize + 1;
            while weight > 0 && node <= groups {
                tree[node] += weight;
                node += node & node.wrapping_neg();
            }
        }
        start = end;
    }
    difference
}

/// Weight in the first `count` groups.
fn prefix(tree: &[u64], count: usize) -> u64 {
    let (mut node, mut sum) = (count, 0);
    while node > 0 {
        sum += tree[node];
        node &= node - 1;
    }
    sum
}
