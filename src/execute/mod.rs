//! Runs the steps of a plan, several at once, each under a lease.
//!
//! What another process works on is left to it and looked at again. A failed step holds up only what needs it;
//! everything else goes on, unless the run is to stop at the first failure. [`schedule`] says which step comes next.

pub mod archive;
mod compare;
pub mod files;
pub mod leftovers;
pub mod log;
pub mod rerun;
pub mod runs;
pub mod schedule;
mod step;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use litemap::LiteMap;

use crate::experiment::Cause;
use crate::plan::inputs::Content;
use crate::plan::{Plan, StepInput, Work};
use crate::stages::{ModelCache, Served, StageError};
use crate::store::lease::Waiting;
use crate::store::{Store, StoreError};
use schedule::{Demand, Limits, Schedule};

/// How long to leave a step alone that another process works on.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long to wait before a failed step is tried again the first time; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Artifact kinds that are loaded once and shared by the steps of a process.
const SHARED: [&str; 2] = ["language_model", "encoder"];

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Steps at once.
    pub jobs: usize,
    /// The device, as in `cpu` or `cuda:0`.
    pub device: String,
    /// Time between two checkpoints of a training step.
    pub checkpoint_interval: Duration,
    /// Raised to stop: steps under way leave at their next report of progress, no other begins.
    pub cancelled: Arc<AtomicBool>,
    /// Only these steps and what they need (indices into the plan); empty: all that are needed.
    pub only: Vec<usize>,
    /// Begin other steps after one has failed?
    pub keep_going: bool,
    /// How often a step that failed for one of the causes `retry_on` is tried again.
    pub retries: u32,
    /// See `retries`.
    pub retry_on: Vec<Cause>,
    /// Peak memory of steps in bytes, as far as it is known.
    pub memory: BTreeMap<usize, u64>,
    /// What the machine has.
    pub limits: Limits,
}

/// What happens while steps run.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step begins: its index.
    Started(usize),
    /// How far a step is.
    Progress { step: usize, done: u64, total: u64, unit: &'a str },
    /// A step is done; the seconds it took.
    Done { step: usize, seconds: f64 },
    /// A step was not run because its inputs' bytes are those of a finished one.
    CutOff { step: usize, artifact: String },
    /// A step was done by another process meanwhile.
    Elsewhere(usize),
    /// A step failed and is tried again.
    Again { step: usize, error: &'a StepError, after: Duration },
    /// A step failed.
    Failed { step: usize, error: &'a StepError },
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The stage says why.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The store cannot keep it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A mistake in soctok.
    #[error("internal error: {0}\nhint: this is a mistake in soctok; please report it with the step's log")]
    Panic(String),
}

impl StepError {
    /// What kind of failure it is.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Stage(StageError::Io { .. }) | Self::Store(_) => Cause::Io,
            Self::Stage(_) => Cause::Stage,
            Self::Panic(_) => Cause::Panic,
        }
    }
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Steps that this process ran.
    pub executed: usize,
    /// Steps whose equal was found by the bytes of their inputs.
    pub cut_off: usize,
    /// Steps that another process ran meanwhile.
    pub elsewhere: usize,
    /// Failed steps.
    pub failed: Vec<usize>,
    /// Steps that were not reached because of a failure or a request to stop.
    pub not_reached: usize,
    /// Was the run stopped on request?
    pub cancelled: bool,
    /// Models loaded and used again.
    pub served: Served,
}

struct Board {
    schedule: Schedule,
    outcome: Outcome,
}

/// Everything that the worker threads share.
struct Shop<'a> {
    plan: &'a Plan<'a>,
    store: &'a Store,
    options: &'a Options,
    report: &'a (dyn Fn(Event<'_>) + Sync),
    board: Mutex<Board>,
    changed: Condvar,
    models: Arc<ModelCache>,
    /// What each model of the schedule is.
    sources: Vec<StepInput>,
}

/// Runs what the plan needs.
pub fn execute(plan: &Plan<'_>, store: &Store, options: &Options, report: &(dyn Fn(Event<'_>) + Sync)) -> Outcome {
    let wanted = wanted(plan, &options.only);
    let steps = plan.steps.iter().enumerate();
    let inputs = steps
        .map(|(index, step)| wanted[index].then(|| upstream(&step.inputs).filter(|&input| wanted[input]).collect()));
    let inputs: Vec<Option<Vec<usize>>> = inputs.collect();
    let (demands, sources) = demands(plan, options, &wanted);
    let schedule = Schedule::new(inputs, demands, options.limits);
    let shop = Shop {
        plan,
        store,
        options,
        report,
        board: Mutex::new(Board { schedule, outcome: Outcome::default() }),
        changed: Condvar::new(),
        models: Arc::default(),
        sources,
    };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| shop.work());
        }
    });
    let served = shop.models.served();
    let board = shop.board.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut outcome = board.outcome;
    outcome.failed.sort_unstable();
    outcome.not_reached = board.schedule.open();
    outcome.cancelled = options.cancelled.load(Ordering::Relaxed);
    outcome.served = served;
    outcome
}

/// What each step asks of the machine, and the models among the inputs. A model counts towards the memory of every step
/// that uses it, though they share it: steps of one model may then run one after the other where they could run
/// together, and never the other way round.
fn demands(plan: &Plan<'_>, options: &Options, wanted: &[bool]) -> (Vec<Demand>, Vec<StepInput>) {
    let mut sources = Vec::new();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let demands = plan.steps.iter().enumerate().map(|(index, step)| {
        let Work::Stage { kind, .. } = &step.work else { return Demand::default() };
        let models = step.inputs.iter().filter(|(field, _)| {
            wanted[index] && kind.accepts(field).is_some_and(|kinds| kinds.iter().any(|kind| SHARED.contains(kind)))
        });
        let models = models.map(|(_, input)| {
            let name = match input {
                StepInput::Step { step, .. } => step.to_string(),
                StepInput::External { path, .. } => path.display().to_string(),
            };
            *numbers.entry(name).or_insert_with(|| {
                sources.push(input.clone());
                sources.len() - 1
            })
        });
        Demand {
            models: models.collect(),
            memory: options.memory.get(&index).copied().unwrap_or(0),
            on_device: kind.on_device,
        }
    });
    (demands.collect(), sources)
}

fn upstream(inputs: &LiteMap<String, StepInput>) -> impl Iterator<Item = usize> {
    inputs.values().filter_map(|input| match input {
        StepInput::Step { step, .. } => Some(*step),
        StepInput::External { .. } => None,
    })
}

/// Which steps must run.
pub fn wanted(plan: &Plan<'_>, only: &[usize]) -> Vec<bool> {
    if only.is_empty() {
        return plan.steps.iter().map(|step| step.is_needed).collect();
    }
    let mut wanted = vec![false; plan.steps.len()];
    let mut open = only.to_vec();
    while let Some(index) = open.pop() {
        if !plan.steps[index].is_done && !wanted[index] {
            wanted[index] = true;
            open.extend(upstream(&plan.steps[index].inputs));
        }
    }
    wanted
}

/// What an attempt at a step ended with.
enum Attempt {
    Executed(f64),
    CutOff(String),
    Elsewhere,
    Held(Waiting),
}

impl Shop<'_> {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each thread does until nothing is left.
    fn work(&self) {
        let mut board = self.lock();
        loop {
            let stop_after_failure = !self.options.keep_going && !board.outcome.failed.is_empty();
            if self.options.cancelled.load(Ordering::Relaxed) || stop_after_failure {
                return;
            }
            let Some((index, seen)) = board.schedule.take(Instant::now()) else {
                if board.schedule.is_over() {
                    self.changed.notify_all();
                    return;
                }
                board = self.changed.wait_timeout(board, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            };
            drop(board);
            let body = || step::attempt(self, index, seen.as_ref());
            let attempt = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
                Err(StepError::Panic(text.to_owned()))
            });
            board = self.lock();
            let again = self.settle(&mut board, index, &attempt);
            self.changed.notify_all();
            match &attempt {
                Ok(Attempt::Executed(seconds)) => (self.report)(Event::Done { step: index, seconds: *seconds }),
                Ok(Attempt::CutOff(artifact)) => {
                    (self.report)(Event::CutOff { step: index, artifact: artifact.clone() });
                }
                Ok(Attempt::Elsewhere) => (self.report)(Event::Elsewhere(index)),
                Ok(Attempt::Held(_)) => {}
                Err(error) => match again {
                    Some(after) => (self.report)(Event::Again { step: index, error, after }),
                    None => (self.report)(Event::Failed { step: index, error }),
                },
            }
        }
    }

    /// Enters what came of a step. Returns after how long it is tried again, if it is.
    fn settle(&self, board: &mut Board, index: usize, attempt: &Result<Attempt, StepError>) -> Option<Duration> {
        match attempt {
            Ok(Attempt::Held(seen)) => {
                board.schedule.later(index, LOOK_AGAIN, Some(seen.clone()));
                return None;
            }
            Ok(Attempt::Executed(_)) => board.outcome.executed += 1,
            Ok(Attempt::CutOff(_)) => board.outcome.cut_off += 1,
            Ok(Attempt::Elsewhere) => board.outcome.elsewhere += 1,
            Err(StepError::Stage(StageError::Cancelled)) => {
                board.schedule.stopped(index);
                return None;
            }
            Err(error) => {
                let before = board.schedule.attempt(index);
                if before < self.options.retries && self.options.retry_on.contains(&error.cause()) {
                    let after = FIRST_PAUSE * 2_u32.saturating_pow(before.min(6));
                    board.schedule.later(index, after, None);
                    return Some(after);
                }
                board.outcome.failed.push(index);
                let free = board.schedule.failed(index);
                self.release(&free);
                return None;
            }
        }
        let free = board.schedule.done(index);
        self.release(&free);
        None
    }

    /// Drops loaded models that no step needs any more.
    fn release(&self, models: &[usize]) {
        for &model in models {
            let digest = match &self.sources[model] {
                StepInput::External { content: Content::Known(digest), .. } => Some(digest.clone()),
                StepInput::External { .. } => None,
                StepInput::Step { step, .. } => {
                    self.store.record(&self.plan.steps[*step].name()).ok().map(|record| record.output_digest)
                }
            };
            digest.iter().for_each(|digest| self.models.release(digest));
        }
    }
}

/// The folder of a step's artifact, for comparisons and reports.
pub fn artifact(plan: &Plan<'_>, store: &Store, step: usize) -> PathBuf {
    store.artifact(&plan.steps[step].name())
}
