//! Training of a network from scratch, as `pretrain_lm` and `pretrain_vit` do it: AdamW, warm-up, cosine to zero, a line of
//! `metrics.jsonl` now and then, and checkpoints from which a training that was stopped goes on to the same bytes.
//!
//! What is trained and by which loss is the stage's own. `train_projector` and `train_lora` have loops of their own: their
//! gradients come piece by piece through a frozen language model, and their errors name the sample.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde_json::json;

use super::checkpoint::Checkpoints;
use super::estimate::{Estimate, Memory, Network, Size};
use super::{Context, Result, StageError};
use crate::models::device;
use crate::models::optimizer::{AdamW, AdamWConfig, cosine_with_warm_up};

/// Steps between lines of `metrics.jsonl`.
const METRIC_STEPS: u64 = 25;
/// The optimizer's state in a checkpoint.
const OPTIMIZER: &str = "optimizer.safetensors";

/// What is trained: a module whose weights can be written to a folder and read back.
pub(super) trait Learner: Module {
    /// Writes all weights.
    fn save(&self, folder: &Path) -> Result<()>;

    /// Reads what [`Learner::save`] wrote, onto a device that keeps a tape.
    fn load(folder: &Path, device: &Device) -> Result<Self>;
}

/// How long and how fast.
pub(super) struct Course {
    /// Steps in all.
    pub steps: u64,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises.
    pub warm_up: u64,
    /// The optimizer's own settings.
    pub optimizer: AdamWConfig,
}

impl Course {
    /// Trains on the device of `context` what `init` makes there. `loss` gives the mean loss `[1]` of the step with that
    /// number (from 0) and depends on nothing else, so that a training goes on as it began.
    ///
    /// # Errors
    /// The loss or the gradient is not finite, the step was asked to stop, or a checkpoint cannot be written or read.
    pub fn train<L: Learner>(
        &self,
        context: &Context,
        init: impl FnOnce(&Device) -> L,
        loss: impl Fn(&L, u64) -> Tensor<1>,
    ) -> Result<L> {
        let device = device::parse(context.device())?.autodiff();
        let mut checkpoints = Checkpoints::new(context);
        let mut training = match checkpoints.resume()? {
            Some((step, folder)) => Training {
                learner: L::load(&folder, &device)?,
                optimizer: AdamW::load(self.optimizer.clone(), &folder.join(OPTIMIZER), &device)?,
                step,
            },
            None => Training { learner: init(&device), optimizer: AdamW::new(self.optimizer.clone()), step: 0 },
        };
        while training.step < self.steps {
            let loss = loss(&training.learner, training.step);
            training.advance(self, loss, context)?;
            checkpoints.advance(training.step, self.steps, |folder| training.save(folder))?;
        }
        Ok(training.learner)
    }

    /// What the training takes. `forward` are the operations of a forward pass over one sample, `kept` the bytes that a
    /// step keeps for its backward pass.
    pub fn estimate(&self, network: Network, batch: usize, forward: f64, kept: u64) -> Estimate {
        // Weights, gradients and two moments.
        let state = 16 * network.parameters;
        Estimate {
            parameters: Some(network.parameters),
            flops: Some(3.0 * forward * (batch as u64 * self.steps) as f64),
            memory: Some(Memory::fixed(kept.saturating_add(state))),
            width: network.hidden,
            size: Size { network: Some(network), ..Size::default() },
            ..Estimate::default()
        }
    }
}

/// A training under way.
struct Training<L> {
    learner: L,
    optimizer: AdamW,
    /// Steps taken.
    step: u64,
}

impl<L: Learner> Training<L> {
    fn advance(&mut self, course: &Course, loss: Tensor<1>, context: &Context) -> Result<()> {
        let value: f32 = loss.clone().inner().into_data().iter::<f32>().sum();
        let rate = course.learning_rate * cosine_with_warm_up(self.step, course.warm_up, course.steps);
        let (learner, norm) = self.optimizer.step(self.learner.clone(), &loss.backward(), rate);
        if !value.is_finite() || !norm.is_finite() {
            return Err(StageError::hint(
                format!("training diverged at step {}: loss {value}, norm of the gradient {norm}", self.step),
                "lower `learning_rate` or raise `warm_up`",
            ));
        }
        self.learner = learner;
        self.step += 1;
        if self.step.is_multiple_of(METRIC_STEPS) || self.step == course.steps {
            context.metric(&json!({ "step": self.step, "loss": value, "learning_rate": rate, "norm": norm }))?;
        }
        Ok(())
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.learner.save(folder)?;
        Ok(self.optimizer.save(&folder.join(OPTIMIZER))?)
    }
}
