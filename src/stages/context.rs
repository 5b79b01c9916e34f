//! What a running stage is given: its inputs, its folder, the device, progress, metrics, cancellation, loaded models.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// Loaded models, shared by all steps of one process. A model is kept under the digest of its content and what was
/// made of it (its type, device and precision) until no step needs it any more.
#[derive(Default)]
pub struct ModelCache {
    models: Mutex<HashMap<(String, String), Loaded>>,
    served: Mutex<Served>,
}

struct Loaded {
    model: Arc<dyn Any + Send + Sync>,
    seconds: f64,
}

/// What a cache has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// Models that were loaded, and the seconds it took.
    pub loads: (usize, f64),
    /// Times that a loaded model was used again, and the seconds that loading it took the first time.
    pub reuses: (usize, f64),
}

impl ModelCache {
    /// The model of content `digest`, loaded by `load` the first time; `what` tells apart what is made of one content
    /// (type, device and precision).
    pub fn get<M: Any + Send + Sync>(
        &self,
        digest: &str,
        what: &str,
        load: impl FnOnce() -> Result<M>,
    ) -> Result<Arc<M>> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (digest.to_owned(), what.to_owned());
        let served = || self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let found = models.get(&key).map(|loaded| (loaded.model.clone().downcast::<M>(), loaded.seconds));
        if let Some((Ok(found), seconds)) = found {
            let mut served = served();
            served.reuses = (served.reuses.0 + 1, served.reuses.1 + seconds);
            return Ok(found);
        }
        let started = Instant::now();
        let model = Arc::new(load()?);
        let seconds = started.elapsed().as_secs_f64();
        models.insert(key, Loaded { model: model.clone(), seconds });
        let mut served = served();
        served.loads = (served.loads.0 + 1, served.loads.1 + seconds);
        Ok(model)
    }

    /// Drops what was made of the content `digest`: its memory is free once the steps that use it are done.
    pub fn release(&self, digest: &str) {
        self.models.lock().unwrap_or_else(PoisonError::into_inner).retain(|(content, _), _| content != digest);
    }

    /// What it has done so far.
    pub fn served(&self) -> Served {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where progress of a step goes: (done, total, unit).
pub type Progress<'a> = dyn Fn(u64, u64, &str) + Sync + 'a;

/// May what the step has done so far be kept? See [`Context::may_keep`].
pub type Guard<'a> = dyn Fn() -> Result<()> + Sync + 'a;

/// How often a training step leaves a checkpoint unless `[run] checkpoint_seconds` says otherwise.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(20);

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
    superseded: Arc<AtomicBool>,
    guard: &'a Guard<'a>,
    checkpoint_interval: Duration,
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
        Self {
            folder,
            scratch,
            device,
            models,
            cancelled,
            progress,
            metrics: Mutex::new(None),
            log: Mutex::new(None),
            superseded: Arc::default(),
            guard: &|| Ok(()),
            checkpoint_interval: CHECKPOINT_INTERVAL,
        }
    }

    /// With a flag that is raised when another process has taken the step over, and a question that is asked before a
    /// checkpoint is kept.
    pub fn guarded(self, superseded: Arc<AtomicBool>, guard: &'a Guard<'a>) -> Self {
        Self { superseded, guard, ..self }
    }

    /// With another time between two checkpoints.
    pub fn with_checkpoint_interval(self, interval: Duration) -> Self {
        Self { checkpoint_interval: interval, ..self }
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

    /// A folder for checkpoints that survives a kill of the process and is dropped when the step is done. It is made when it
    /// is first asked for: most steps need none.
    pub fn scratch(&self) -> Result<&Path> {
        std::fs::create_dir_all(&self.scratch).map_err(StageError::io(&self.scratch))?;
        Ok(&self.scratch)
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
        if self.is_cancelled() { Err(StageError::Cancelled) } else { Ok(()) }
    }

    /// Fails when what the step has done so far must not outlive it: another process has taken the step over, or an input
    /// is no longer the one that the step is known by.
    pub fn may_keep(&self) -> Result<()> {
        (self.guard)()
    }

    /// The time between two checkpoints.
    pub fn checkpoint_interval(&self) -> Duration {
        self.checkpoint_interval
    }

    /// Was the step asked to stop? For stages that wait; all others hear it from [`Context::progress`].
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.superseded.load(Ordering::Relaxed)
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
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
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
