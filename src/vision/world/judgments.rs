//! Similarity judgments of simulated clips: noisy choices of the most alike pair of three, as people make them.
//!
//! A pair's utility is [`SHARPNESS`] × (share of phases with the same action + share with the same valence + 1 for the
//! same background). The background is in no caption, so a model that only reads cannot reach the ceiling. Of three
//! clips the pair (a, b) is kept with probability ∝ exp(utility of a and b); the third is the odd one out.

use super::grammar::{ACTIONS, BACKGROUNDS, Latents};
use crate::stats::random::Stream;
use crate::stats::ranks::{rho_a, spearman};

/// Utility of one shared property; the larger, the less noisy the choices.
pub const SHARPNESS: f64 = 2.0;

/// One choice: three clips and which of them (0, 1, 2) is the odd one out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Indices of clips.
    pub clips: [usize; 3],
    /// Place of the odd one in `clips`.
    pub odd: usize,
}

/// What the best possible predictors reach on these judgments.
///
/// Of a predictor's exact expectation ρ-a is the ceiling. Spearman's correlation is not: it divides by the spread of the
/// predictor's ranks, so that a coarse predictor with many ties (the plain count of shared properties) can score higher
/// than the exact expectation.
#[derive(Clone, Copy, Debug)]
pub struct Ceiling {
    /// Spearman's correlation, over pairs of clips, of the judged similarity with the predictor's exact expectation.
    pub spearman: f64,
    /// ρ-a of the same.
    pub rho_a: f64,
    /// Expected share of choices that the predictor gets right.
    pub choices: f64,
}

/// Judgments of a set of clips.
#[derive(Clone, Debug)]
pub struct Judgments {
    latents: Vec<Latents>,
    /// The choices in the order they were made.
    pub trials: Vec<Trial>,
}

/// What two clips share besides the background.
fn shared(a: &Latents, b: &Latents) -> f64 {
    let alike =
        a.phases.iter().zip(&b.phases).map(|(a, b)| {
            f64::from(a.action == b.action) + f64::from(ACTIONS[a.action].kind == ACTIONS[b.action].kind)
        });
    alike.sum::<f64>() / a.phases.len() as f64
}

/// Probabilities that each of three clips is the odd one out, from the utilities of the pairs that leave it out.
fn odds(utilities: [f64; 3]) -> [f64; 3] {
    let weights = utilities.map(f64::exp);
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

impl Judgments {
    /// Draws `count` choices of three different clips out of `latents` (at least three).
    pub fn draw(latents: Vec<Latents>, count: usize, stream: &mut Stream) -> Self {
        let mut judgments = Self { latents, trials: Vec::with_capacity(count) };
        let clips = judgments.latents.len();
        while judgments.trials.len() < count {
            let trio = [stream.below(clips), stream.below(clips), stream.below(clips)];
            if trio[0] == trio[1] || trio[0] == trio[2] || trio[1] == trio[2] {
                continue;
            }
            let odds = judgments.with_pictures(trio);
            let draw = stream.uniform();
            let odd = if draw < odds[0] { 0 } else { 1 + usize::from(draw >= odds[0] + odds[1]) };
            judgments.trials.push(Trial { clips: trio, odd });
        }
        judgments
    }

    /// Share of the times a pair was kept when it was shown, `[clips, clips]` with ones on the diagonal; `None` for a
    /// pair that was never shown.
    pub fn similarity(&self) -> Vec<Vec<Option<f64>>> {
        let clips = self.latents.len();
        let mut counts = vec![vec![(0u32, 0u32); clips]; clips];
        for trial in &self.trials {
            for odd in 0..3 {
                let (a, b) = (trial.clips[(odd + 1) % 3], trial.clips[(odd + 2) % 3]);
                for (row, column) in [(a, b), (b, a)] {
                    let (kept, shown) = &mut counts[row][column];
                    *kept += u32::from(odd == trial.odd);
                    *shown += 1;
                }
            }
        }
        let value = |row: usize, column: usize| match counts[row][column] {
            _ if row == column => Some(1.0),
            (_, 0) => None,
            (kept, shown) => Some(f64::from(kept) / f64::from(shown)),
        };
        (0..clips).map(|row| (0..clips).map(|column| value(row, column)).collect()).collect()
    }

    /// The ceiling of who sees the clips.
    pub fn full_ceiling(&self) -> Option<Ceiling> {
        self.ceiling(|trio| self.with_pictures(trio))
    }

    /// The ceiling of who reads true captions: backgrounds are averaged over.
    pub fn text_ceiling(&self) -> Option<Ceiling> {
        self.ceiling(|trio| self.with_captions(trio))
    }

    fn with_pictures(&self, trio: [usize; 3]) -> [f64; 3] {
        self.odds_given(trio, trio.map(|clip| self.latents[clip].background))
    }

    fn with_captions(&self, trio: [usize; 3]) -> [f64; 3] {
        let tones = BACKGROUNDS.len();
        let mut sum = [0.0; 3];
        // Only which backgrounds are equal matters, so the first may be held fixed.
        for combination in 0..tones * tones {
            let odds = self.odds_given(trio, [0, combination % tones, combination / tones]);
            sum.iter_mut().zip(odds).for_each(|(sum, odds)| *sum += odds / (tones * tones) as f64);
        }
        sum
    }

    fn odds_given(&self, trio: [usize; 3], backgrounds: [usize; 3]) -> [f64; 3] {
        odds([0, 1, 2].map(|odd| {
            let (a, b) = ((odd + 1) % 3, (odd + 2) % 3);
            let alike = shared(&self.latents[trio[a]], &self.latents[trio[b]]);
            SHARPNESS * (alike + f64::from(backgrounds[a] == backgrounds[b]))
        }))
    }

    /// The exact expectation of kept over shown, `[clips, clips]` with ones on the diagonal, of who sees the clips.
    pub fn expected_of_pictures(&self) -> Vec<Vec<f64>> {
        self.expected(|trio| self.with_pictures(trio))
    }

    /// The same of who reads true captions.
    pub fn expected_of_captions(&self) -> Vec<Vec<f64>> {
        self.expected(|trio| self.with_captions(trio))
    }

    /// 1 for two clips with the same background, else 0: the property that no caption mentions.
    pub fn same_background(&self) -> Vec<Vec<f64>> {
        let same = |a: &Latents, b: &Latents| f64::from(a.background == b.background);
        self.latents.iter().map(|a| self.latents.iter().map(|b| same(a, b)).collect()).collect()
    }

    /// `believed` gives the odds that the predictor expects of three clips.
    fn expected(&self, believed: impl Fn([usize; 3]) -> [f64; 3]) -> Vec<Vec<f64>> {
        let clips = self.latents.len();
        let mut expected = vec![vec![0.0; clips]; clips];
        for trio in trios(clips) {
            let [a, b, c] = trio;
            for ((row, column), kept) in [(b, c), (a, c), (a, b)].into_iter().zip(believed(trio)) {
                expected[row][column] += kept / (clips - 2) as f64;
                expected[column][row] = expected[row][column];
            }
        }
        (0..clips).for_each(|clip| expected[clip][clip] = 1.0);
        expected
    }

    /// `believed` gives the odds that the predictor expects of three clips. `None` when nothing varies.
    fn ceiling(&self, believed: impl Fn([usize; 3]) -> [f64; 3]) -> Option<Ceiling> {
        let clips = self.latents.len();
        let (mut right, mut count) = (0.0, 0u32);
        for trio in trios(clips) {
            let (belief, truth) = (believed(trio), self.with_pictures(trio));
            let best = (0..3).fold(0, |best, odd| if belief[odd] > belief[best] { odd } else { best });
            right += truth[best];
            count += 1;
        }
        let (expected, judged) = (self.expected(believed), self.similarity());
        let pairs = (0..clips).flat_map(|a| (a + 1..clips).map(move |b| (a, b)));
        let (model, human): (Vec<f64>, Vec<f64>) =
            pairs.filter_map(|(a, b)| Some((expected[a][b], judged[a][b]?))).unzip();
        let (spearman, _) = spearman(&model, &human)?;
        Some(Ceiling { spearman, rho_a: rho_a(&model, &human)?, choices: right / f64::from(count) })
    }
}

/// Every three of `clips` clips, in ascending order.
fn trios(clips: usize) -> impl Iterator<Item = [usize; 3]> {
    let after = move |a: usize| (a + 1..clips).flat_map(move |b| (b + 1..clips).map(move |c| [a, b, c]));
    (0..clips).flat_map(after)
}

/// Vectors `[rows, rows]` whose cosines are proportional to the off-diagonal values of a symmetric matrix of values of at
/// least 0: the rows of the Cholesky factor of the matrix with one large value all along its diagonal. They let a
/// similarity matrix pass where vectors are asked for, with every rank as it is.
pub fn vectors_of(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let rows = matrix.len();
    let beside = |row: usize| (0..rows).filter(move |&column| column != row).map(move |column| matrix[row][column]);
    // A diagonal above every sum of the others makes the matrix positive definite.
    let diagonal = 1.0 + (0..rows).map(|row| beside(row).sum::<f64>()).fold(0.0, f64::max);
    let mut factor = vec![vec![0.0; rows]; rows];
    for row in 0..rows {
        for column in 0..=row {
            let done: f64 = (0..column).map(|k| factor[row][k] * factor[column][k]).sum();
            factor[row][column] = if row == column {
                (diagonal - done).sqrt()
            } else {
                (matrix[row][column] - done) / factor[column][column]
            };
        }
    }
    factor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::random::Streams;
    use crate::vision::world::grammar::World;

    fn judged(count: usize) -> Judgments {
        let streams = Streams::new(0, "test");
        let mut stream = streams.named("latents");
        let latents = (0..30).map(|_| World::OneClause.draw(&mut stream)).collect();
        Judgments::draw(latents, count, &mut streams.named("judgments"))
    }

    #[test]
    fn pictures_tell_more_than_captions_and_neither_all() {
        let judgments = judged(6000);
        let (full, text) = (judgments.full_ceiling().expect("varies"), judgments.text_ceiling().expect("varies"));
        assert!(text.spearman > 0.4 && text.spearman < full.spearman - 0.1, "{text:?} {full:?}");
        assert!(full.spearman < 0.99 && text.choices < full.choices && full.choices < 0.9, "{text:?} {full:?}");
    }

    #[test]
    fn vectors_have_the_cosines_of_a_matrix() {
        let expected = judged(0).expected_of_pictures();
        let rows = vectors_of(&expected);
        let similarity = crate::stats::rsm::matrix(&rows, crate::stats::rsm::Similarity::Cosine).expect("not zero");
        let scale = expected[0][1] / similarity[1];
        for (a, b) in crate::stats::rsm::upper_triangle(30) {
            assert!((similarity[a * 30 + b] * scale - expected[a][b]).abs() < 1e-12);
        }
    }

    #[test]
    fn counting_shared_properties_gains_by_its_ties_in_spearman_and_not_in_rho_a() {
        // About twenty showings a pair: noise enough that ranks within equal counts tell little.
        let judgments = judged(3000);
        let ceiling = judgments.full_ceiling().expect("varies");
        let (latents, judged) = (&judgments.latents, judgments.similarity());
        let counted = |a: usize, b: usize| {
            shared(&latents[a], &latents[b]) + f64::from(latents[a].background == latents[b].background)
        };
        let pairs = crate::stats::rsm::upper_triangle(30);
        let (model, human): (Vec<f64>, Vec<f64>) =
            pairs.filter_map(|(a, b)| Some((counted(a, b), judged[a][b]?))).unzip();
        assert!(rho_a(&model, &human).expect("varies") < ceiling.rho_a);
        assert!(spearman(&model, &human).expect("varies").0 > ceiling.spearman);
    }

    #[test]
    fn choices_follow_their_probabilities() {
        let judgments = judged(30_000);
        let predicted: f64 = judgments.trials.iter().map(|trial| judgments.with_pictures(trial.clips)[trial.odd]).sum();
        let certain: f64 = judgments
            .trials
            .iter()
            .map(|trial| judgments.with_pictures(trial.clips).iter().map(|odds| odds * odds).sum::<f64>())
            .sum();
        assert!((predicted - certain).abs() / 30_000.0 < 0.01, "{predicted} {certain}");
    }

    #[test]
    fn similarity_is_kept_over_shown() {
        let latents = judged(0).latents;
        let trial = |clips, odd| Trial { clips, odd };
        let trials = vec![trial([0, 1, 2], 2), trial([1, 0, 3], 0), trial([0, 1, 3], 2)];
        let similarity = Judgments { latents, trials }.similarity();
        assert_eq!(similarity[0][1], Some(2.0 / 3.0));
        assert_eq!(similarity[3][0], Some(0.5));
        assert_eq!(similarity[2][3], None);
        assert_eq!(similarity[4][4], Some(1.0));
    }
}
