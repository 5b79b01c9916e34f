//! Similarity judgments of simulated clips: noisy choices of the most alike pair of three, as people make them.
//!
//! A pair's utility is [`SHARPNESS`] × (share of phases with the same action + share with the same valence + 1 for the
//! same background). The background is in no caption, so a model that only reads cannot reach the ceiling. Of three
//! clips the pair (a, b) is kept with probability ∝ exp(utility of a and b); the third is the odd one out.

use super::grammar::{ACTIONS, BACKGROUNDS, Latents};
use crate::stats::random::Stream;
use crate::stats::ranks::{rho_a, spearman};
use crate::stats::rsm::upper_triangle;

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

/// Probabilities that each of three clips is the odd one out, from the utilities of the pairs that leave it out. Bit by bit
/// the same in every order of the three and for equal differences of utilities.
fn odds(utilities: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|odd| {
        let against = |other: usize| (utilities[(odd + other) % 3] - utilities[odd]).exp();
        1.0 / (1.0 + (against(1) + against(2)))
    })
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
        let [a, b, c] = trio.map(|clip| self.latents[clip].background);
        self.odds_given(trio, [b == c, c == a, a == b])
    }

    fn with_captions(&self, trio: [usize; 3]) -> [f64; 3] {
        let tones = BACKGROUNDS.len() as f64;
        let all = self.odds_given(trio, [true; 3]);
        let none = self.odds_given(trio, [false; 3]);
        let one = [0, 1, 2].map(|pair| self.odds_given(trio, [pair == 0, pair == 1, pair == 2]));
        [0, 1, 2].map(|odd| {
            let others = one[(odd + 1) % 3][odd] + one[(odd + 2) % 3][odd];
            let (two, three) = (tones - 1.0, (tones - 1.0) * (tones - 2.0));
            (all[odd] + three * none[odd] + two * (one[odd][odd] + others)) / (tones * tones)
        })
    }

    /// `alike` tells of each clip whether the other two have the same background.
    fn odds_given(&self, trio: [usize; 3], alike: [bool; 3]) -> [f64; 3] {
        odds([0, 1, 2].map(|odd| {
            let (a, b) = ((odd + 1) % 3, (odd + 2) % 3);
            SHARPNESS * (shared(&self.latents[trio[a]], &self.latents[trio[b]]) + f64::from(alike[odd]))
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

    /// `believed` gives the odds that the predictor expects of three clips. Pairs that stand in the same relations to
    /// the other clips get the same number bit by bit, because ranks tell the last bit: terms are added in ascending order.
    fn expected(&self, believed: impl Fn([usize; 3]) -> [f64; 3]) -> Vec<Vec<f64>> {
        let clips = self.latents.len();
        let mut terms = vec![Vec::with_capacity(clips.saturating_sub(2)); clips * clips];
        for trio in trios(clips) {
            let [a, b, c] = trio;
            for ((row, column), kept) in [(b, c), (a, c), (a, b)].into_iter().zip(believed(trio)) {
                terms[row * clips + column].push(kept);
            }
        }
        let mut expected = vec![vec![1.0; clips]; clips];
        for (row, column) in upper_triangle(clips) {
            let terms = &mut terms[row * clips + column];
            terms.sort_by(f64::total_cmp);
            expected[row][column] = terms.iter().sum::<f64>() / terms.len() as f64;
            expected[column][row] = expected[row][column];
        }
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
        let (model, human): (Vec<f64>, Vec<f64>) =
            upper_triangle(clips).filter_map(|(a, b)| Some((expected[a][b], judged[a][b]?))).unzip();
        let (spearman, _) = spearman(&model, &human)?;
        Some(Ceiling { spearman, rho_a: rho_a(&model, &human)?, choices: right / f64::from(count) })
    }
}

/// Every three of `clips` clips, in ascending order.
fn trios(clips: usize) -> impl Iterator<Item = [usize; 3]> {
    let after = move |a: usize| (a + 1..clips).flat_map(move |b| (b + 1..clips).map(move |c| [a, b, c]));
    (0..clips).flat_map(after)
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

    /// Values that are nearly equal are equal.
    fn assert_levels(expected: &[Vec<f64>]) {
        let mut values: Vec<f64> = upper_triangle(expected.len()).map(|(a, b)| expected[a][b]).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        assert!(values.windows(2).all(|pair| pair[1] - pair[0] > 1e-9), "equal but for rounding: {values:?}");
    }

    #[test]
    fn equal_pairs_have_the_same_expectation_bit_by_bit() {
        for world in [World::OneClause, World::TwoClause] {
            let mut stream = Streams::new(0, "test").named("latents");
            let mut latents: Vec<Latents> = (0..24).map(|_| world.draw(&mut stream)).collect();
            // Every clip twice: the pairs of (a, b), (a', b), (a, b') and (a', b') are equal, the clips in another order.
            latents.extend(latents.clone().into_iter().rev());
            let judgments = Judgments { latents, trials: Vec::new() };
            for expected in [judgments.expected_of_captions(), judgments.expected_of_pictures()] {
                let twin = |clip: usize| 47 - clip;
                for (a, b) in upper_triangle(24) {
                    let others = [expected[twin(a)][b], expected[a][twin(b)], expected[twin(a)][twin(b)]];
                    assert_eq!(others, [expected[a][b]; 3]);
                }
                assert_levels(&expected);
            }
        }
    }

    #[test]
    fn expectations_are_the_mean_over_third_clips_and_backgrounds() {
        let judgments = judged(0);
        let (full, text) = (judgments.expected_of_pictures(), judgments.expected_of_captions());
        let utility = |a: usize, b: usize, tones: [usize; 30]| {
            let alike = shared(&judgments.latents[a], &judgments.latents[b]) + f64::from(tones[a] == tones[b]);
            (SHARPNESS * alike).exp()
        };
        let kept = |trio: [usize; 3], tones: [usize; 30]| {
            let [a, b, c] = trio;
            let weights = [utility(a, b, tones), utility(a, c, tones), utility(b, c, tones)];
            weights[0] / weights.iter().sum::<f64>()
        };
        let own = std::array::from_fn(|clip| judgments.latents[clip].background);
        for (a, b) in [(0, 1), (3, 17), (28, 29)] {
            let thirds: Vec<usize> = (0..30).filter(|&c| c != a && c != b).collect();
            let seen: f64 = thirds.iter().map(|&c| kept([a, b, c], own)).sum();
            assert!((full[a][b] - seen / 28.0).abs() < 1e-12);
            let (count, mut read) = (BACKGROUNDS.len(), 0.0);
            for (&c, number) in thirds.iter().flat_map(|c| (0..count.pow(3)).map(move |number| (c, number))) {
                let mut tones = own;
                (tones[a], tones[b], tones[c]) = (number % count, number / count % count, number / count / count);
                read += kept([a, b, c], tones);
            }
            assert!((text[a][b] - read / (28 * count.pow(3)) as f64).abs() < 1e-12);
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
        let pairs = upper_triangle(30);
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
