//! What a running stage is given: its inputs, its folder, the device, progress, metrics, cancellation, loaded models.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::{Result, StageError};

/// One input of a step: the folder of an artifact, or the file or folder of a model or of data.
#[derive(Clone, Debug)]
pub struct Input {
    /// As written: `stage:packs`, `model:language`, `data:frames`.
    pub reference: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Identity of its content (hex): upstream output digest or digest of the external files.
    pub digest: String,
}

/// The inputs of a step by field name.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    fields: BTreeMap<String, Input>,
}

impl Inputs {
    /// Adds or replaces the input of `field`.
    pub fn insert(&mut self, field: impl Into<String>, input: Input) {
        self.fields.insert(field.into(), input);
    }

    /// The input of a field that must be given here.
    pub fn get(&self, field: &str) -> Result<&Input> {
        self.optional(field).ok_or_else(|| {
            StageError::hint(format!("`{field}` is needed with these settings"), format!("set `{field}` in the stage"))
        })
    }

    /// The input of a field that may be left out.
    pub fn optional(&self, field: &str) -> Option<&Input> {
        self.fields.get(field)
    }

    /// All inputs, by field name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Input)> {
        self.fields.iter()
    }
}

/// Loaded models, shared by all steps of one process. A model is kept under its type, content digest and device.
#[derive(Default)]
pub struct ModelCache {
    models: Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>,
}

impl ModelCache {
    /// The model `key` (name it by type, input digest, device and precision), loaded by `load` the first time.
    pub fn get<M: Any + Send + Sync>(&self, key: &str, load: impl FnOnce() -> Result<M>) -> Result<Arc<M>> {
        let mut models = self.models.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = models.get(key).and_then(|model| model.clone().downcast::<M>().ok()) {
            return Ok(found);
        }
        let model = Arc::new(load()?);
        models.insert(key.to_owned(), model.clone());
        Ok(model)
    }
}

/// Where progress of a step goes: (done, total, unit).
pub type Progress<'a> = dyn Fn(u64, u64, &str) + Sync + 'a;

/// The surroundings of a running stage.
pub struct Context<'a> {
    folder: PathBuf,
    scratch: PathBuf,
    device: String,
    models: Arc<ModelCache>,
    cancelled: Arc<AtomicBool>,
    progress: &'a Progress<'a>,
    metrics: Mutex<Option<std::fs::File>>,
    log: Mutex<Option<std::fs::File>>,
}

impl<'a> Context<'a> {
    /// `folder` takes the outputs, `scratch` the checkpoints; both exist. `device` as in `cpu`, `cuda:0`, `tch:cpu`.
    pub fn new(
        folder: PathBuf,
        scratch: PathBuf,
        device: String,
        models: Arc<ModelCache>,
        cancelled: Arc<AtomicBool>,
        progress: &'a Progress<'a>,
    ) -> Self {
        Self { folder, scratch, device, models, cancelled, progress, metrics: Mutex::new(None), log: Mutex::new(None) }
    }

    /// A context for tests and library use: outputs in `folder`, no progress shown, nothing cancels.
    pub fn plain(folder: &Path, device: &str) -> Self {
        Self::new(
            folder.to_owned(),
            folder.to_owned(),
            device.to_owned(),
            Arc::default(),
            Arc::default(),
            &|_, _, _| {},
        )
    }

    /// The folder that becomes the artifact. It exists and, at the start of the step, is empty.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder for checkpoints that survives a kill of the process and is dropped when the step is done.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The device to compute on, as written: `cpu`, `cuda:0`, `tch:cpu`, `tch:cuda:0`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Models loaded once per process.
    pub fn models(&self) -> &ModelCache {
        &self.models
    }

    /// Tells how far the step is (`unit`: `step`, `frame`, `clip`). Also the place where a request to stop is heard:
    /// returns [`StageError::Cancelled`] then, which the stage passes on after it has written its checkpoint.
    pub fn progress(&self, done: u64, total: u64, unit: &str) -> Result<()> {
        (self.progress)(done, total, unit);
        if self.cancelled.load(Ordering::Relaxed) { Err(StageError::Cancelled) } else { Ok(()) }
    }

    /// Was the step asked to stop? For stages that wait; all others hear it from [`Context::progress`].
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Appends one line to `metrics.jsonl` (loss, learning rate, … of a training step).
    pub fn metric(&self, values: &Value) -> Result<()> {
        append(&self.metrics, &self.folder.join("metrics.jsonl"), values)
    }

    /// Appends one line to the step's `log.txt` that the terminal does not show: the output of a program.
    pub fn log(&self, line: &str) -> Result<()> {
        append(&self.log, &self.folder.join("log.txt"), &line)
    }
}

/// Writes a line at the end of a file that is opened once.
fn append(file: &Mutex<Option<std::fs::File>>, path: &Path, line: &dyn std::fmt::Display) -> Result<()> {
    let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if file.is_none() {
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
        *file = Some(opened.map_err(StageError::io(path))?);
    }
    match file.as_mut() {
        // One call for the line and its end: the log has several writers.
        Some(file) => file.write_all(format!("{line}\n").as_bytes()).map_err(StageError::io(path)),
        None => Ok(()),
    }
}
