//! The training loop's inside: one optimizer step, and the state that lies between two.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::json;

use super::config::{Config, Keep};
use super::schedule::{Losses, Schedule};
use super::validation::Validation;
use crate::models::checkpoint::{self, Checkpoint};
use crate::models::language::LanguageModel;
use crate::models::optimizer::{AdamW, cosine_with_warm_up};
use crate::models::projector::Projector;
use crate::npy::Array;
use crate::social::injection::{Batch, Prepared};
use crate::social::material;
use crate::social::packs::{read_json, write_json};
use crate::stages::{Context, Result, StageError};
use crate::stats::random::Streams;

/// Where the first step's gradients go.
const GRADIENTS: &str = "gradients.safetensors";

/// What is trained.
#[derive(Module, Debug)]
pub(super) struct Trainable {
    pub projector: Projector,
    /// The bank of constants `[2 or more, dim]`, where they are learned.
    pub constants: Option<Param<Tensor<2>>>,
}

/// Trained weights on the plain device.
pub(super) struct Snapshot {
    pub projector: Projector,
    /// The bank of constants `[2 or more, dim]`, where they are learned.
    pub constants: Option<Array<f32>>,
}

/// The training under way: its settings, its samples, and the state between steps.
pub(super) struct Trainer<'a> {
    pub config: &'a Config,
    pub language: &'a LanguageModel,
    pub prepared: &'a [Prepared],
    /// Which samples have a global and which a local token.
    pub tokens: Vec<(bool, bool)>,
    pub validation: Option<Validation>,
    /// `[rows, dim]` on the plain device.
    pub vectors: Tensor<2>,
    pub schedule: Schedule,
    pub model: Trainable,
    pub optimizer: AdamW,
    pub losses: Losses,
    /// The weights with the lowest validation loss, when these are to be kept.
    pub best: Option<Snapshot>,
    pub streams: Streams,
    pub tracked: Device,
}

impl Trainer<'_> {
    /// One step on the samples `chosen`. `name` names a sample.
    pub fn step(
        &mut self,
        epoch: u64,
        step: u64,
        chosen: &[usize],
        name: &dyn Fn(usize) -> String,
        context: &Context,
    ) -> Result<()> {
        let (config, gemma) = (self.config, &self.language.gemma);
        let batches: Vec<Batch> = chosen
            .chunks(config.batch)
            .map(|chosen| Batch::new(chosen.iter().map(|&sample| &self.prepared[sample]), self.language.pad))
            .collect();
        let targets: usize = batches.iter().map(|batch| batch.targets.len()).sum();
        let (mut objective, mut nats, mut tokens) = (None, 0.0, 0);
        for (number, (batch, chosen)) in batches.iter().zip(chosen.chunks(config.batch)).enumerate() {
            let read = match &self.model.constants {
                Some(constants) => batch.projector_inputs(&constants.val()),
                None => batch.projector_inputs(&self.vectors).autodiff(),
            };
            let factors = self.dropout(epoch, step, number, batch.rows.len());
            let social = batch.social(self.model.projector.forward(read, factors));
            let inputs = batch.inputs(gemma, Some(social.clone().without_autodiff()), config.embedding_scale);
            let weights = vec![1.0 / targets as f32; batch.targets.len()];
            let (nll, gradient) = gemma.nll_and_gradient(inputs, &batch.labels, &batch.targets, &weights);
            if let Some(place) = nll.iter().position(|nll| !nll.is_finite()) {
                return Err(StageError::hint(
                    format!("the loss is not finite in step {step}, {}", name(chosen[batch.labels[place].0])),
                    "lower `lr`, keep `clip` at 1, and look at the features of this clip",
                ));
            }
            let gradient = batch.social_gradient(gradient, gemma, config.embedding_scale);
            let part = (social * gradient.autodiff()).sum();
            objective = Some(objective.map_or(part.clone(), |objective: Tensor<1>| objective + part));
            nats += nll.iter().map(|&nll| f64::from(nll)).sum::<f64>();
            tokens += batch.shape().0 * batch.shape().1;
        }
        let Some(objective) = objective else { return Ok(()) };
        let gradients = objective.backward();
        if config.write_gradients && step == 0 {
            let path = context.folder().join(GRADIENTS);
            checkpoint::save(&path, self.model.projector.named_gradients(&gradients))?;
        }
        let lr = config.lr * cosine_with_warm_up(step, self.schedule.warm_up, self.schedule.total);
        let (model, norm) = self.optimizer.step(self.model.clone(), &gradients, lr);
        if !norm.is_finite() {
            return Err(StageError::hint(
                format!("the gradient is not finite in step {step}, which begins with {}", name(chosen[0])),
                "lower `lr`, keep `clip` at 1, and look at the features of these clips",
            ));
        }
        self.model = model;
        let loss = nats / targets as f64;
        self.losses.last = loss;
        self.losses.first.get_or_insert(loss);
        let with = |kind: fn(&(bool, bool)) -> bool| chosen.iter().filter(|&&at| kind(&self.tokens[at])).count();
        context.metric(&json!({
            "step": step, "epoch": epoch, "loss": loss, "lr": lr, "gradient_norm": norm, "targets": targets,
            "tokens": tokens, "with_global": with(|has| has.0), "with_local": with(|has| has.1),
        }))
    }

    /// Measures the validation loss after `steps` steps, if an epoch is over and it is not known yet.
    pub fn validate(&mut self, steps: u64, context: &Context) -> Result<()> {
        if !self.schedule.is_epoch_end(steps) || self.losses.is_validated(steps) {
            return Ok(());
        }
        let hear = || context.progress(steps, self.schedule.total, "step");
        let Some((loss, targets)) = self.validation_loss(&hear)? else { return Ok(()) };
        self.losses.validation.push((steps, loss));
        if self.config.checkpoint == Keep::Best && self.losses.best() == Some(self.losses.validation.len() - 1) {
            self.best = Some(self.snapshot()?);
        }
        let epoch = (steps - 1) / self.schedule.per_epoch;
        context.metric(&json!({
            "step": steps - 1, "epoch": epoch, "validation_loss": loss, "validation_targets": targets,
        }))
    }

    /// The present weights on the plain device.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let projector = self.model.projector.on(&self.vectors.device());
        let constants = match &self.model.constants {
            Some(constants) => {
                let values = constants.val().without_autodiff();
                Some(Array::new(values.dims(), material::downloaded(values)?))
            }
            None => None,
        };
        Ok(Snapshot { projector, constants })
    }

    /// Writes all that the next step depends on.
    pub fn keep(&self, folder: &Path, context: &Context) -> Result<()> {
        self.model.projector.save(&folder.join("projector.safetensors"))?;
        if let Some(constants) = &self.model.constants {
            let data = constants.val().without_autodiff().into_data();
            checkpoint::save(&folder.join("constants.safetensors"), vec![("constants".to_owned(), data)])?;
        }
        self.optimizer.save(&folder.join("optimizer.safetensors"))?;
        if let Some(best) = &self.best {
            best.keep(folder)?;
        }
        let gradients = context.folder().join(GRADIENTS);
        if gradients.is_file() {
            std::fs::copy(&gradients, folder.join(GRADIENTS)).map_err(StageError::io(&gradients))?;
        }
        write_json(&folder.join("losses.json"), &self.losses)
    }

    /// Reads back what [`Trainer::keep`] wrote.
    pub fn resume(&mut self, folder: &Path, context: &Context) -> Result<()> {
        let path = folder.join("projector.safetensors");
        let shape = self.model.projector.config().clone();
        self.model.projector = Projector::load(&path, Some(&shape), &self.tracked)?;
        if let Some(constants) = &mut self.model.constants {
            let data = Checkpoint::open(&folder.join("constants.safetensors"))?.data("constants", DType::F32)?;
            *constants = Param::from_tensor(Tensor::from_data(data, &self.tracked));
        }
        self.optimizer =
            AdamW::load(self.config.optimizer_settings(), &folder.join("optimizer.safetensors"), &self.tracked)?;
        self.best = Snapshot::kept(folder, &self.model.projector)?;
        let gradients = folder.join(GRADIENTS);
        if gradients.is_file() {
            std::fs::copy(&gradients, context.folder().join(GRADIENTS)).map_err(StageError::io(&gradients))?;
        }
        self.losses = read_json(&folder.join("losses.json"))?;
        Ok(())
    }

    /// Dropout factors `[rows, hidden]` of a batch of a step.
    fn dropout(&self, epoch: u64, step: u64, batch: usize, rows: usize) -> Option<Tensor<2>> {
        let hidden = self.model.projector.config().hidden;
        (self.config.dropout > 0.0).then(|| {
            let name = if batch == 0 { "dropout".to_owned() } else { format!("dropout.{batch}") };
            let factors = self.streams.at(epoch, step, &name).dropout(rows * hidden, self.config.dropout);
            Tensor::from_data(TensorData::new(factors, [rows, hidden]), &self.tracked)
        })
    }
}
