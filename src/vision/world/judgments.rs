//! Similarity judgments of simulated clips: noisy choices of the most alike pair of three, as people make them.
//!
//! A pair's utility is [`SHARPNESS`] × (share of phases with the same action + share with the same valence + 1 for the
//! same background). The background is in no caption, so a model that only reads cannot reach the ceiling. Of three
//! clips the pair (a, b) is kept with probability ∝ exp(utility of a and b); the third is the odd one out.

use super::grammar::{ACTIONS, BACKGROUNDS, Latents};
use crate::stats::random::Stream;
use crate::stats::ranks::spearman;

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
#[derive(Clone, Copy, Debug)]
pub struct Ceiling {
    /// Spearman's correlation, over pairs of clips, of the judged similarity with the predictor's exact expectation.
    pub spearman: f64,
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

    /// `believed` gives the odds that the predictor expects of three clips. `None` when nothing varies.
    fn ceiling(&self, believed: impl Fn([usize; 3]) -> [f64; 3]) -> Option<Ceiling> {
        let clips = self.latents.len();
        let (mut expected, mut right, mut trios) = (vec![vec![0.0; clips]; clips], 0.0, 0u32);
        for a in 0..clips {
            for b in a + 1..clips {
                for c in b + 1..clips {
                    let (belief, truth) = (believed([a, b, c]), self.with_pictures([a, b, c]));
                    for ((row, column), kept) in [(b, c), (a, c), (a, b)].into_iter().zip(belief) {
                        expected[row][column] += kept;
                    }
                    let best = (0..3).fold(0, |best, odd| if belief[odd] > belief[best] { odd } else { best });
                    right += truth[best];
                    trios += 1;
                }
            }
        }
        let judged = self.similarity();
        let pairs = (0..clips).flat_map(|a| (a + 1..clips).map(move |b| (a, b)));
        let (model, human): (Vec<f64>, Vec<f64>) =
            pairs.filter_map(|(a, b)| Some((expected[a][b], judged[a][b]?))).unzip();
        let (spearman, _) = spearman(&model, &human)?;
        Some(Ceiling { spearman, choices: right / f64::from(trios) })
    }
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
