//! Progress of a run on stderr: a line when a step begins and ends; on a terminal also how far each is.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::plural;
use crate::execute::{Event, runs};
use crate::plan::{Plan, PlannedPoint};

/// How often the terminal's status line changes.
const REFRESH: Duration = Duration::from_millis(200);
/// When a step that runs for long tells a log that it lives, and how often after that.
const REMINDER: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(30)];

/// Shows events.
pub struct Progress<'a> {
    plan: &'a Plan<'a>,
    total: usize,
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    settled: usize,
    /// Message of a failure → the step that it was first told of.
    failures: HashMap<String, usize>,
    running: BTreeMap<usize, Running>,
    shown: Option<Instant>,
}

struct Running {
    since: Instant,
    told: Instant,
    done: u64,
    total: u64,
    unit: String,
}

impl<'a> Progress<'a> {
    /// `total` steps are to run.
    pub fn new(plan: &'a Plan<'a>, total: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { plan, total, terminal, state: Mutex::default() }
    }

    /// Shows one event.
    pub fn show(&self, event: &Event<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let line = match event {
            Event::Started(step) => {
                let running = Running { since: now, told: now, done: 0, total: 0, unit: String::new() };
                state.running.insert(*step, running);
                None
            }
            Event::Progress { step, done, total, unit } => self.advance(&mut state, *step, *done, *total, unit),
            Event::Done { step, seconds } => Some(self.settle(&mut state, *step, &format!("done in {seconds:.1} s"))),
            Event::CutOff { step, artifact } => {
                Some(self.settle(&mut state, *step, &format!("same inputs as `{artifact}`: not run")))
            }
            Event::Elsewhere(step) => Some(self.settle(&mut state, *step, "done by another process")),
            Event::Again { step, error, after } => {
                state.running.remove(step);
                Some(format!(
                    "{} failed; tried again in {:.0} s\nerror: {error}",
                    self.label(*step),
                    after.as_secs_f64()
                ))
            }
            Event::Failed { step, error } => {
                let points = points_of(self.plan, *step);
                let told = match state.failures.entry(error.to_string()) {
                    Entry::Occupied(first) => format!("failed{points}: as {} did", self.label(*first.get())),
                    Entry::Vacant(new) => {
                        let told = format!("failed{points}\nerror: {error}");
                        new.insert(*step);
                        told
                    }
                };
                Some(self.settle(&mut state, *step, &told))
            }
        };
        if let Some(line) = line {
            self.clear();
            super::say(&line);
        }
        if self.terminal && state.shown.is_none_or(|shown| shown.elapsed() > REFRESH) {
            state.shown = Some(now);
            self.clear();
            let mut stderr = std::io::stderr();
            write!(stderr, "{}", self.status(&state)).and_then(|()| stderr.flush()).ok();
        }
    }

    /// Removes the status line.
    pub fn clear(&self) {
        if self.terminal {
            write!(std::io::stderr(), "\r\x1b[2K").ok();
        }
    }

    fn label(&self, step: usize) -> String {
        let step = &self.plan.steps[step];
        format!("{} ({} {})", step.stages.join(", "), step.work.kind(), &step.key[..8])
    }

    fn settle(&self, state: &mut State, step: usize, what: &str) -> String {
        state.running.remove(&step);
        state.settled += 1;
        format!("[{}/{}] {} {what}", state.settled, self.total, self.label(step))
    }

    fn advance(&self, state: &mut State, step: usize, done: u64, total: u64, unit: &str) -> Option<String> {
        let running = state.running.get_mut(&step)?;
        (running.done, running.total) = (done, total);
        unit.clone_into(&mut running.unit);
        let first = running.told == running.since;
        if self.terminal || running.told.elapsed() < REMINDER[usize::from(!first)] {
            return None;
        }
        running.told = Instant::now();
        Some(format!("{}: {}", self.label(step), fraction(running)))
    }

    fn status(&self, state: &State) -> String {
        let running: Vec<String> = state
            .running
            .iter()
            .map(|(step, running)| format!("{} {}", self.plan.steps[*step].stages.join(", "), fraction(running)))
            .collect();
        let text = format!("[{}/{}] {}", state.settled, self.total, running.join(" | "));
        // A status line that wraps could not be removed.
        text.chars().take(100).collect()
    }
}

/// The points that a step belongs to: ` at inject=full,seed=0 and 3 more points`; nothing where there is one point in all
/// or where it is a comparison's.
pub(super) fn points_of(plan: &Plan<'_>, step: usize) -> String {
    if plan.points.len() == 1 {
        return String::new();
    }
    let needing = |point: &&PlannedPoint<'_>| point.steps.values().any(|&other| other == step);
    let mut labels = plan.points.iter().filter(needing).map(|point| runs::label(point.point));
    let Some(first) = labels.next() else { return String::new() };
    match labels.count() {
        0 => format!(" at {first}"),
        more => format!(" at {first} and {}", plural(more, "more point")),
    }
}

/// `120/600 steps, 14 s left`; `120 seconds` where nobody knows of how many.
fn fraction(running: &Running) -> String {
    if running.total == 0 && running.done > 0 {
        return format!("{} {}s", running.done, running.unit);
    }
    if running.total == 0 || running.done == 0 {
        return "…".into();
    }
    let left = running.since.elapsed().as_secs_f64() * (running.total.saturating_sub(running.done)) as f64;
    format!("{}/{} {}s, {:.0} s left", running.done, running.total, running.unit, left / running.done as f64)
}
