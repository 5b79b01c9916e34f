//! How far judgments agree with themselves: split halves and the noise ceiling that follows.
//!
//! Odd-one-out trials are sparse, so no single person has a matrix of their own. Participants are split into halves at
//! random, each half gives its similarity, and the two are correlated over the pairs that both observed. Spearman and
//! Brown's formula 2r / (1 + r) gives the reliability of all trials together, and its square root is the largest
//! correlation that a perfect model can expect (`method.md` 3.1).

use serde::{Deserialize, Serialize};

use super::random::Streams;
use super::ranks::spearman;
use super::rsm::upper_triangle;
use super::triplets::{Repeats, Trials};

/// The reliability of a similarity matrix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// Mean over splits of Spearman's correlation between halves.
    pub split_half: f64,
    /// Spearman and Brown's estimate for all trials: `2r / (1 + r)`.
    pub spearman_brown: f64,
    /// The noise ceiling of a correlation: its root, or 0 when halves do not agree at all.
    pub ceiling: f64,
}

impl Reliability {
    /// Of a mean split-half correlation.
    pub fn of(split_half: f64) -> Self {
        let spearman_brown = 2.0 * split_half / (1.0 + split_half);
        Self { split_half, spearman_brown, ceiling: spearman_brown.max(0.0).sqrt() }
    }
}

/// Split-half reliability of the pairs of `members` (numbers of clips) over `splits` random splits of the participants.
/// Pairs that a half did not observe are left
/// out, or count as 0 under `zeros`. `None` when there are fewer than two participants or halves share no varying pairs.
pub fn split_half(
    trials: &Trials,
    members: &[usize],
    repeats: Repeats,
    zeros: bool,
    splits: usize,
    streams: &Streams,
) -> Option<Reliability> {
    if trials.participants < 2 || splits == 0 {
        return None;
    }
    let mut sum = 0.0;
    for split in 0..splits {
        let order = streams.at(0, split as u64, "halves").permutation(trials.participants);
        let mut first = vec![false; trials.participants];
        order[..order.len() / 2].iter().for_each(|&participant| first[participant] = true);
        let half = |which: bool| {
            let counts = trials.counts(repeats, |_, trial| first[trial.participant as usize] == which);
            counts.similarity()
        };
        let (left, right) = (half(true), half(false));
        let fill = |value: Option<f64>| if zeros { Some(value.unwrap_or(0.0)) } else { value };
        let clips = trials.clips.len();
        let cells = upper_triangle(members.len()).map(|(i, j)| members[i] * clips + members[j]);
        let (left, right): (Vec<f64>, Vec<f64>) =
            cells.filter_map(|cell| fill(left[cell]).zip(fill(right[cell]))).unzip();
        sum += spearman(&left, &right)?.0;
    }
    Some(Reliability::of(sum / splits as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::triplets::Trial;

    /// Choices by a shared latent with more or less noise.
    fn judged(noise: f64, participants: u32) -> Trials {
        let mut stream = Streams::new(0, "test").named("trials");
        let latent: Vec<f64> = (0..12).map(|_| stream.normal()).collect();
        let mut trials = Vec::new();
        for number in 0..6000u32 {
            let clips = [0; 3].map(|_| stream.below(12) as u32);
            let far = |place: usize| -> f64 {
                let others = (0..3).filter(|&other| other != place);
                others.map(|other| (latent[clips[place] as usize] - latent[clips[other] as usize]).abs()).sum()
            };
            let noisy = [0, 1, 2].map(|place| far(place) + noise * stream.normal());
            let odd = (0..3).fold(0, |best, place| if noisy[place] > noisy[best] { place } else { best });
            trials.push(Trial { participant: number % participants, clips, odd: clips[odd] });
        }
        Trials { clips: (0..12).map(|clip| clip.to_string()).collect(), participants: participants as usize, trials }
    }

    #[test]
    fn halves_agree_the_more_the_less_noise_there_is() {
        let streams = Streams::new(1, "test");
        let clips: Vec<usize> = (0..12).collect();
        let of = |noise| split_half(&judged(noise, 30), &clips, Repeats::LeaveOut, false, 5, &streams).unwrap();
        let (clear, noisy, none) = (of(0.1), of(5.0), of(1e9));
        assert!(clear.split_half > 0.95 && noisy.split_half < clear.split_half, "{clear:?} {noisy:?}");
        assert!(none.split_half.abs() < 0.2, "{none:?}");
        assert!(noisy.spearman_brown > noisy.split_half && noisy.ceiling > noisy.spearman_brown);
        let halves = Reliability::of(0.324);
        assert!((halves.spearman_brown - 0.489_4).abs() < 1e-4 && (halves.ceiling - 0.699_6).abs() < 1e-4);
        assert_eq!(Reliability::of(-0.1).ceiling, 0.0);
        assert_eq!(split_half(&judged(0.1, 1), &clips, Repeats::LeaveOut, false, 5, &streams), None);
    }
}
