//! The training loop's inside: one optimizer step, and the state that lies between two.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::json;

use super::Config;
use super::schedule::{Losses, Schedule};
use crate::models::checkpoint::{self, Checkpoint};
use crate::models::language::LanguageModel;
use crate::models::optimizer::{AdamW, cosine_with_warm_up};
use crate::models::projector::Projector;
use crate::social::injection::{Batch, Prepared};
use crate::social::packs::write_json;
use crate::stages::{Context, Result, StageError};
use crate::stats::random::Streams;

/// Where the first step's gradients go.
const GRADIENTS: &str = "gradients.safetensors";

/// What is trained.
#[derive(Module, Debug)]
pub(super) struct Trainable {
    pub projector: Projector,
    /// `[2, dim]`, with `source = "constant"`.
    pub constants: Option<Param<Tensor<2>>>,
}

/// The training under way: its settings, its samples, and the state between steps.
pub(super) struct Trainer<'a> {
    pub config: &'a Config,
    pub language: &'a LanguageModel,
    pub prepared: &'a [Prepared],
    /// `[rows, dim]` on the plain device.
    pub vectors: Tensor<2>,
    pub schedule: Schedule,
    pub model: Trainable,
    pub optimizer: AdamW,
    pub streams: Streams,
    pub tracked: Device,
}

impl Trainer<'_> {
    /// One step on the samples `chosen`; returns its loss in nats per labelled token. `name` names a sample.
    pub fn step(
        &mut self,
        epoch: u64,
        step: u64,
        chosen: &[usize],
        name: &dyn Fn(usize) -> String,
        context: &Context,
    ) -> Result<f64> {
        let (config, gemma) = (self.config, &self.language.gemma);
        let batch = Batch::new(chosen.iter().map(|&sample| &self.prepared[sample]), self.language.pad);
        let read = match &self.model.constants {
            Some(constants) => batch.projector_inputs(&constants.val()),
            None => batch.projector_inputs(&self.vectors).autodiff(),
        };
        let projected = self.model.projector.forward(read, self.dropout(epoch, step, batch.rows.len()));
        let social = batch.social(projected);
        let inputs = batch.inputs(gemma, Some(social.clone().without_autodiff()), config.embedding_scale);
        let weights = vec![1.0 / batch.targets.len() as f32; batch.targets.len()];
        let (nll, gradient) = gemma.nll_and_gradient(inputs, &batch.labels, &batch.targets, &weights);
        if let Some(place) = nll.iter().position(|nll| !nll.is_finite()) {
            return Err(StageError::hint(
                format!("the loss is not finite in step {step}, {}", name(chosen[batch.labels[place].0])),
                "lower `lr`, keep `clip` at 1, and look at the features of this clip",
            ));
        }
        let gradient = batch.social_gradient(gradient, gemma, config.embedding_scale);
        let gradients = (social * gradient.autodiff()).sum().backward();
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
        let loss = nll.iter().map(|&nll| f64::from(nll)).sum::<f64>() / nll.len() as f64;
        context.metric(&json!({
            "step": step, "epoch": epoch, "loss": loss, "lr": lr, "gradient_norm": norm, "targets": nll.len(),
        }))?;
        Ok(loss)
    }

    /// Writes all that the next step depends on.
    pub fn keep(&self, folder: &Path, losses: &Losses, context: &Context) -> Result<()> {
        self.model.projector.save(&folder.join("projector.safetensors"))?;
        if let Some(constants) = &self.model.constants {
            let data = constants.val().without_autodiff().into_data();
            checkpoint::save(&folder.join("constants.safetensors"), vec![("constants".to_owned(), data)])?;
        }
        self.optimizer.save(&folder.join("optimizer.safetensors"))?;
        let gradients = context.folder().join(GRADIENTS);
        if gradients.is_file() {
            std::fs::copy(&gradients, folder.join(GRADIENTS)).map_err(StageError::io(&gradients))?;
        }
        write_json(&folder.join("losses.json"), losses)
    }

    /// Reads back what [`Trainer::keep`] wrote.
    pub fn resume(&mut self, folder: &Path, context: &Context) -> Result<Losses> {
        let path = folder.join("projector.safetensors");
        let shape = self.model.projector.config().clone();
        self.model.projector = Projector::load(&path, Some(&shape), &self.tracked)?;
        if let Some(constants) = &mut self.model.constants {
            let data = Checkpoint::open(&folder.join("constants.safetensors"))?.data("constants", DType::F32)?;
            *constants = Param::from_tensor(Tensor::from_data(data, &self.tracked));
        }
        self.optimizer =
            AdamW::load(self.config.optimizer_settings(), &folder.join("optimizer.safetensors"), &self.tracked)?;
        let gradients = folder.join(GRADIENTS);
        if gradients.is_file() {
            std::fs::copy(&gradients, context.folder().join(GRADIENTS)).map_err(StageError::io(&gradients))?;
        }
        let path = folder.join("losses.json");
        let text = std::fs::read(&path).map_err(StageError::io(&path))?;
        serde_json::from_slice(&text).map_err(|error| StageError::new(format!("`{}`: {error}", path.display())))
    }

    /// Dropout factors `[rows, hidden]` of a step.
    fn dropout(&self, epoch: u64, step: u64, rows: usize) -> Option<Tensor<2>> {
        let hidden = self.model.projector.config().hidden;
        (self.config.dropout > 0.0).then(|| {
            let factors = self.streams.at(epoch, step, "dropout").dropout(rows * hidden, self.config.dropout);
            Tensor::from_data(TensorData::new(factors, [rows, hidden]), &self.tracked)
        })
    }
}
