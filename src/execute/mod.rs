//! Runs the steps of a plan, several at once, each under a lease.
//!
//! A step is ready when its inputs are done. What another process works on is left to it and looked at again. A failed
//! step holds up only what needs it; everything else goes on.

pub mod log;
pub mod runs;
mod step;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::plan::{Plan, StepInput};
use crate::stages::{ModelCache, StageError};
use crate::store::lease::Waiting;
use crate::store::{Store, StoreError};

/// How long to leave a step alone that another process works on.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Steps at once.
    pub jobs: usize,
    /// The device, as in `cpu` or `cuda:0`.
    pub device: String,
    /// Raised to stop: steps under way leave at their next report of progress, no other begins.
    pub cancelled: Arc<AtomicBool>,
    /// Only these steps and what they need (indices into the plan); empty: all that are needed.
    pub only: Vec<usize>,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing asks for it, or it is done.
    Settled,
    Waiting(usize),
    Ready,
    Running,
    Failed,
}

struct Board {
    states: Vec<State>,
    /// Steps that another process holds: when to look again, and what was seen.
    held: HashMap<usize, (Instant, Waiting)>,
    running: usize,
    outcome: Outcome,
}

/// Runs what the plan needs.
pub fn execute(plan: &Plan<'_>, store: &Store, options: &Options, report: &(dyn Fn(Event<'_>) + Sync)) -> Outcome {
    let wanted = wanted(plan, &options.only);
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); plan.steps.len()];
    let mut states = vec![State::Settled; plan.steps.len()];
    for (index, step) in plan.steps.iter().enumerate().filter(|(index, _)| wanted[*index]) {
        let mut open: Vec<usize> = upstream(&step.inputs).filter(|&input| wanted[input]).collect();
        open.sort_unstable();
        open.dedup();
        open.iter().for_each(|&input| needed_by[input].push(index));
        states[index] = if open.is_empty() { State::Ready } else { State::Waiting(open.len()) };
    }
    let board = Mutex::new(Board { states, held: HashMap::new(), running: 0, outcome: Outcome::default() });
    let changed = Condvar::new();
    let models = Arc::new(ModelCache::default());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| work(plan, store, options, report, &board, &changed, &needed_by, &models));
        }
    });
    let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut outcome = board.outcome;
    outcome.failed.sort_unstable();
    outcome.not_reached = board.states.iter().filter(|s| matches!(s, State::Waiting(_) | State::Ready)).count();
    outcome.cancelled = options.cancelled.load(Ordering::Relaxed);
    outcome
}

fn upstream(inputs: &std::collections::BTreeMap<String, StepInput>) -> impl Iterator<Item = usize> {
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

#[allow(clippy::too_many_arguments, reason = "the body of a scoped thread: everything is borrowed from `execute`")]
fn work(
    plan: &Plan<'_>,
    store: &Store,
    options: &Options,
    report: &(dyn Fn(Event<'_>) + Sync),
    board: &Mutex<Board>,
    changed: &Condvar,
    needed_by: &[Vec<usize>],
    models: &Arc<ModelCache>,
) {
    let lock = || board.lock().unwrap_or_else(PoisonError::into_inner);
    let mut guard = lock();
    loop {
        if options.cancelled.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let ready = guard.states.iter().enumerate().position(|(index, state)| {
            *state == State::Ready && guard.held.get(&index).is_none_or(|(again, _)| *again <= now)
        });
        let Some(index) = ready else {
            if guard.running == 0 && guard.held.is_empty() {
                changed.notify_all();
                return;
            }
            guard = changed.wait_timeout(guard, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        };
        guard.states[index] = State::Running;
        guard.running += 1;
        let seen = guard.held.remove(&index).map(|(_, seen)| seen);
        drop(guard);
        let body = || step::attempt(plan, index, store, options, models, seen.as_ref(), report);
        let attempt = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            Err(StepError::Panic(text.to_owned()))
        });
        guard = lock();
        guard.running -= 1;
        settle(&mut guard, index, &attempt, needed_by);
        changed.notify_all();
        match &attempt {
            Ok(Attempt::Executed(seconds)) => report(Event::Done { step: index, seconds: *seconds }),
            Ok(Attempt::CutOff(artifact)) => report(Event::CutOff { step: index, artifact: artifact.clone() }),
            Ok(Attempt::Elsewhere) => report(Event::Elsewhere(index)),
            Ok(Attempt::Held(_)) => {}
            Err(error) => report(Event::Failed { step: index, error }),
        }
    }
}

fn settle(board: &mut Board, index: usize, attempt: &Result<Attempt, StepError>, needed_by: &[Vec<usize>]) {
    match attempt {
        Ok(Attempt::Held(seen)) => {
            board.states[index] = State::Ready;
            board.held.insert(index, (Instant::now() + LOOK_AGAIN, seen.clone()));
            return;
        }
        Ok(Attempt::Executed(_)) => board.outcome.executed += 1,
        Ok(Attempt::CutOff(_)) => board.outcome.cut_off += 1,
        Ok(Attempt::Elsewhere) => board.outcome.elsewhere += 1,
        Err(StepError::Stage(StageError::Cancelled)) => {
            board.states[index] = State::Ready;
            return;
        }
        Err(_) => {
            board.states[index] = State::Failed;
            board.outcome.failed.push(index);
            return;
        }
    }
    board.states[index] = State::Settled;
    for &next in &needed_by[index] {
        board.states[next] = match board.states[next] {
            State::Waiting(1) => State::Ready,
            State::Waiting(open) => State::Waiting(open - 1),
            other => other,
        };
    }
}

/// The folder of a step's artifact, for comparisons and reports.
pub fn artifact(plan: &Plan<'_>, store: &Store, step: usize) -> PathBuf {
    store.artifact(&plan.steps[step].name())
}
