//! The loss on clips that are not trained on, after every epoch, and the weights of the best one.

use std::path::Path;

use burn::tensor::{DType, Tensor};

use super::trainer::{Snapshot, Trainer};
use crate::models::checkpoint::{self, Checkpoint};
use crate::models::projector::Projector;
use crate::npy::Array;
use crate::social::injection::Prepared;
use crate::social::material::{self, Reader};
use crate::stages::{Result, StageError};

/// Where a checkpoint keeps the best weights so far.
const BEST: &str = "best.safetensors";
const BEST_CONSTANTS: &str = "best-constants.safetensors";

/// The samples of the validation split.
pub(super) struct Validation {
    /// Settled, with the rows of the training's bank.
    pub prepared: Vec<Prepared>,
    /// The clip of each, for messages.
    pub clips: Vec<String>,
}

impl Trainer<'_> {
    /// Mean −ln p in nats per labelled token of the validation samples under the present weights, dropout off, and the
    /// number of those tokens. `done` hears of samples read and may stop it.
    pub fn validation_loss(&self, done: &dyn Fn() -> Result<()>) -> Result<Option<(f64, usize)>> {
        let Some(validation) = &self.validation else { return Ok(None) };
        let now = self.snapshot()?;
        let vectors = match &now.constants {
            Some(constants) => material::uploaded(constants, &self.vectors.device()),
            None => self.vectors.clone(),
        };
        let reader = Reader {
            gemma: &self.language.gemma,
            pad: self.language.pad,
            social: Some((&now.projector, vectors)),
            scale: self.config.embedding_scale,
            zeroed: false,
        };
        let scores = material::score(&reader, &validation.prepared, self.config.batch, |_| done())?;
        if let Some(sample) = scores.iter().position(|nll| nll.iter().any(|nll| !nll.is_finite())) {
            return Err(StageError::hint(
                format!("the validation loss is not finite, clip `{}`", validation.clips[sample]),
                "lower `lr`, keep `clip` at 1, and look at the features of this clip",
            ));
        }
        let count = scores.iter().map(Vec::len).sum();
        let sum: f64 = scores.iter().flatten().map(|&nll| f64::from(nll)).sum();
        Ok(Some((sum / count as f64, count)))
    }
}

impl Snapshot {
    /// Writes it beside the state of a checkpoint.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        self.projector.save(&folder.join(BEST))?;
        if let Some(constants) = &self.constants {
            let device = self.projector.device();
            let data = material::uploaded(constants, &device).into_data();
            checkpoint::save(&folder.join(BEST_CONSTANTS), vec![("constants".to_owned(), data)])?;
        }
        Ok(())
    }

    /// Reads back what [`Snapshot::keep`] wrote; `None` when there was no best yet. `like` has the shape.
    pub fn kept(folder: &Path, like: &Projector) -> Result<Option<Self>> {
        let path = folder.join(BEST);
        if !path.is_file() {
            return Ok(None);
        }
        let device = like.device().without_autodiff();
        let projector = Projector::load(&path, Some(like.config()), &device)?;
        let path = folder.join(BEST_CONSTANTS);
        let constants = match path.is_file() {
            true => {
                let data = Checkpoint::open(&path)?.data("constants", DType::F32)?;
                let tensor: Tensor<2> = Tensor::from_data(data, (&device, DType::F32));
                let shape = tensor.dims();
                Some(Array::new(shape, material::downloaded(tensor)?))
            }
            false => None,
        };
        Ok(Some(Self { projector, constants }))
    }
}
