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
}

impl Schedule {
    pub fn of(config: &Config, samples: usize) -> Self {
        let per_epoch = samples.div_ceil(config.batch) as u64;
        let total = if config.steps > 0 { config.steps } else { config.epochs * per_epoch };
        let warm_up = config.warmup_steps.unwrap_or((config.warmup * total as f64).round() as u64);
        Self { total, per_epoch, warm_up }
    }
}

/// Losses that the summary tells, in nats per labelled token.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Losses {
    pub first: Option<f64>,
    pub last: f64,
}
