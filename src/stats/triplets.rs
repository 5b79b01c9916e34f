//! Odd-one-out trials and the similarity that they give: how often a pair was kept, of the times that it was shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One trial. Numbers are those of [`Trials::clips`] and [`Trials::participants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Who chose.
    pub participant: u32,
    /// The three clips shown; two may be the same one.
    pub clips: [u32; 3],
    /// Which clip was called the odd one out.
    pub odd: u32,
}

impl Trial {
    /// Whether a clip was shown twice.
    pub fn repeats(&self) -> bool {
        let [a, b, c] = self.clips;
        a == b || a == c || b == c
    }

    /// The clip that was chosen and the two that were kept; `None` for a trial that [`Trial::repeats`].
    pub fn parts(&self) -> Option<(u32, [u32; 2])> {
        if self.repeats() {
            return None;
        }
        let [a, b, c] = self.clips;
        let kept = if self.odd == a {
            [b, c]
        } else if self.odd == b {
            [a, c]
        } else {
            [a, b]
        };
        Some((self.odd, kept))
    }
}

/// What becomes of trials that show the same clip twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Repeats {
    /// They are left out.
    #[default]
    LeaveOut,
    /// Each of their positions counts, as in the original's test matrix.
    Count,
}

/// Trials over a set of clips.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trials {
    /// Names of the clips.
    pub clips: Vec<String>,
    /// How many participants there are; without names of participants every trial is one.
    pub participants: usize,
    /// In the order in which they were read.
    pub trials: Vec<Trial>,
}

/// How often each pair of clips was kept and shown, both `[clips, clips]` and symmetric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    clips: usize,
    /// Times that neither was chosen.
    pub kept: Vec<u32>,
    /// Times that both were shown.
    pub shown: Vec<u32>,
}

impl Counts {
    /// Kept over shown, with ones on the diagonal; `None` for a pair that was never shown.
    pub fn similarity(&self) -> Vec<Option<f64>> {
        let value = |place: usize| match self.shown[place] {
            _ if place % self.clips == place / self.clips => Some(1.0),
            0 => None,
            shown => Some(f64::from(self.kept[place]) / f64::from(shown)),
        };
        (0..self.shown.len()).map(value).collect()
    }
}

impl Trials {
    /// Counts of the trials for which `take` holds.
    pub fn counts(&self, repeats: Repeats, take: impl Fn(usize, &Trial) -> bool) -> Counts {
        let clips = self.clips.len();
        let mut counts = Counts { clips, kept: vec![0; clips * clips], shown: vec![0; clips * clips] };
        for (number, trial) in self.trials.iter().enumerate() {
            if !take(number, trial) || (repeats == Repeats::LeaveOut && trial.repeats()) {
                continue;
            }
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                let (a, b) = (trial.clips[a], trial.clips[b]);
                if a == b {
                    continue;
                }
                let kept = u32::from(trial.odd != a && trial.odd != b);
                for place in [a as usize * clips + b as usize, b as usize * clips + a as usize] {
                    counts.shown[place] += 1;
                    counts.kept[place] += kept;
                }
            }
        }
        counts
    }

    /// Trials that show a clip twice.
    pub fn repeated(&self) -> usize {
        self.trials.iter().filter(|trial| trial.repeats()).count()
    }

    /// The trials of which every clip is one of `kept` (numbers in ascending order), renumbered to them.
    pub fn among(&self, kept: &[usize]) -> Self {
        let place = |clip: u32| kept.binary_search(&(clip as usize)).ok().map(|place| place as u32);
        let moved = |trial: &Trial| {
            let [a, b, c] = trial.clips.map(place);
            Some(Trial { clips: [a?, b?, c?], odd: place(trial.odd)?, ..*trial })
        };
        Self {
            clips: kept.iter().map(|&clip| self.clips[clip].clone()).collect(),
            participants: self.participants,
            trials: self.trials.iter().filter_map(moved).collect(),
        }
    }

    /// Of every two trials of the same three clips, the share with the same choice; `None` when no three clips were shown
    /// twice. What one person's choice says of another's: a ceiling of three-way accuracy.
    pub fn agreement(&self) -> Option<f64> {
        let mut choices: std::collections::BTreeMap<[u32; 3], Vec<u32>> = std::collections::BTreeMap::new();
        for trial in self.trials.iter().filter(|trial| !trial.repeats()) {
            let mut clips = trial.clips;
            clips.sort_unstable();
            choices.entry(clips).or_default().push(trial.odd);
        }
        let (mut same, mut pairs) = (0u64, 0u64);
        for chosen in choices.into_values() {
            for (place, first) in chosen.iter().enumerate() {
                pairs += (chosen.len() - place - 1) as u64;
                same += chosen[place + 1..].iter().filter(|second| *second == first).count() as u64;
            }
        }
        (pairs > 0).then(|| same as f64 / pairs as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trials(of: &[([u32; 3], u32)]) -> Trials {
        let trials = of.iter().map(|&(clips, odd)| Trial { participant: 0, clips, odd }).collect();
        Trials { clips: ["a", "b", "c", "d"].map(str::to_owned).to_vec(), participants: 1, trials }
    }

    #[test]
    fn similarity_is_kept_over_shown() {
        let trials = trials(&[([0, 1, 2], 2), ([1, 0, 3], 0), ([0, 1, 3], 3), ([0, 0, 1], 1)]);
        let counts = trials.counts(Repeats::LeaveOut, |_, _| true);
        let similarity = counts.similarity();
        assert_eq!((counts.shown[1], counts.kept[1], similarity[1]), (3, 2, Some(2.0 / 3.0)));
        assert_eq!((similarity[0], similarity[4 + 3], similarity[2 * 4 + 3]), (Some(1.0), Some(0.5), None));
        assert_eq!(trials.repeated(), 1);
        // The repeated trial shows a and b at two pairs of positions, and b was chosen.
        let counts = trials.counts(Repeats::Count, |_, _| true);
        assert_eq!((counts.shown[1], counts.kept[1]), (5, 2));
        let half = trials.counts(Repeats::LeaveOut, |number, _| number == 0);
        assert_eq!(half.similarity()[1], Some(1.0));
        assert_eq!(trials.trials[1].parts(), Some((0, [1, 3])));
        assert_eq!(trials.trials[3].parts(), None);
    }

    #[test]
    fn trials_of_some_clips_are_renumbered() {
        let trials = trials(&[([0, 1, 2], 2), ([3, 1, 2], 1)]);
        let kept = trials.among(&[1, 2, 3]);
        assert_eq!(kept.clips, ["b", "c", "d"]);
        assert_eq!(kept.trials, [Trial { participant: 0, clips: [2, 0, 1], odd: 0 }]);
    }

    #[test]
    fn agreement_is_over_pairs_of_equal_trials() {
        let repeated = [([0, 1, 2], 2), ([2, 1, 0], 2), ([1, 0, 2], 0), ([0, 1, 3], 3)];
        assert_eq!(trials(&repeated).agreement(), Some(1.0 / 3.0));
        assert_eq!(trials(&repeated[2..]).agreement(), None);
    }
}
