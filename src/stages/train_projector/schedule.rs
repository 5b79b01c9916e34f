//! How many steps a training takes, and what it tells of its losses.

use serde::{Deserialize, Serialize};

use super::Config;

/// How many steps there are and how they fall into epochs.
pub(super) struct Schedule {
    /// Optimizer steps in all.
    pub total: u64,
    /// Steps that go once through the samples.
    pub per_epoch: u64,
    /// Steps of warm-up.
    pub warm_up: u64,
    /// Samples per step.
    pub samples: usize,
}

impl Schedule {
    /// For so many samples.
    pub fn of(config: &Config, samples: usize) -> Self {
        let per_step = config.batch * config.accumulate;
        let per_epoch = samples.div_ceil(per_step) as u64;
        let total = if config.steps > 0 { config.steps } else { config.epochs * per_epoch };
        let warm_up = config.warmup_steps.unwrap_or((config.warmup * total as f64).round() as u64);
        Self { total, per_epoch, warm_up, samples: per_step }
    }

    /// Whether an epoch, or the training, is over after `steps` steps.
    pub fn is_epoch_end(&self, steps: u64) -> bool {
        steps > 0 && (steps.is_multiple_of(self.per_epoch) || steps == self.total)
    }
}

/// Losses in nats per labelled token: what the summary tells, and what decides which weights are kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Losses {
    /// Of the first step.
    pub first: Option<f64>,
    /// Of the last step so far.
    pub last: f64,
    /// (steps taken, validation loss) after each epoch so far.
    pub validation: Vec<(u64, f64)>,
}

impl Losses {
    /// Place in `validation` of the lowest loss, the earlier of two equal ones.
    pub fn best(&self) -> Option<usize> {
        (0..self.validation.len()).min_by(|&a, &b| self.validation[a].1.total_cmp(&self.validation[b].1))
    }

    /// Whether the loss after `steps` steps is known.
    pub fn is_validated(&self, steps: u64) -> bool {
        self.validation.last().is_some_and(|&(known, _)| known == steps)
    }

    /// Whether the last `patience` epochs brought no lower loss; never with a patience of 0.
    pub fn is_exhausted(&self, patience: usize) -> bool {
        patience > 0 && self.best().is_some_and(|best| self.validation.len() - 1 - best >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_epochs_since_the_earliest_lowest_loss() {
        let mut losses = Losses::default();
        assert!(losses.best().is_none() && !losses.is_exhausted(1));
        losses.validation = vec![(4, 2.0), (8, 1.5), (12, 1.5), (16, 1.7)];
        assert_eq!(losses.best(), Some(1));
        assert!(losses.is_exhausted(2) && !losses.is_exhausted(3) && !losses.is_exhausted(0));
        assert!(losses.is_validated(16) && !losses.is_validated(12));
    }
}
