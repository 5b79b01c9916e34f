//! Which step comes next: what is ready, what fits beside the steps under way, what a loaded model serves.
//!
//! A ready step is taken when its memory fits beside that of the running ones (one step always may run) and, on a
//! device that holds one step at a time, when no other step computes there. Among those, steps whose models are loaded
//! come first, so that a model serves all that need it before it is dropped; then the order of the plan.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::store::lease::Waiting;

/// What a step asks of the machine.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// Bytes at its peak, beside the models that other steps share; 0 when unknown.
    pub memory: u64,
    /// Does it compute on the device?
    pub on_device: bool,
    /// The models that it loads, as numbers.
    pub models: Vec<usize>,
}

/// What the machine has.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes for all steps under way.
    pub memory: u64,
    /// Does the device hold one step at a time?
    pub is_exclusive: bool,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing asks for it, or it is done.
    Settled,
    /// So many of its inputs are not done.
    Waiting(usize),
    /// Its inputs are done.
    Ready,
    /// Under way.
    Running,
    /// It failed.
    Failed,
}

/// The steps and what they wait for.
pub struct Schedule {
    states: Vec<State>,
    /// The steps in state `Ready`.
    ready: BTreeSet<usize>,
    demands: Vec<Demand>,
    needed_by: Vec<Vec<usize>>,
    limits: Limits,
    /// Ready steps that are left alone for a while: until when, and what another process was seen to do.
    later: HashMap<usize, (Instant, Option<Waiting>)>,
    running: Vec<usize>,
    /// Steps that still need a model, by its number.
    uses: Vec<usize>,
    loaded: Vec<bool>,
    attempts: HashMap<usize, u32>,
}

impl Schedule {
    /// `inputs[step]` are the steps that a wanted step needs and that are wanted themselves; `None` for a step that is
    /// not wanted.
    pub fn new(inputs: Vec<Option<Vec<usize>>>, demands: Vec<Demand>, limits: Limits) -> Self {
        let mut needed_by = vec![Vec::new(); inputs.len()];
        let mut states = vec![State::Settled; inputs.len()];
        let models = demands.iter().flat_map(|demand| &demand.models).max().map_or(0, |largest| largest + 1);
        let mut uses = vec![0; models];
        for (index, inputs) in inputs.into_iter().enumerate() {
            let Some(mut open) = inputs else { continue };
            open.sort_unstable();
            open.dedup();
            open.iter().for_each(|&input| needed_by[input].push(index));
            states[index] = if open.is_empty() { State::Ready } else { State::Waiting(open.len()) };
            demands[index].models.iter().for_each(|&model| uses[model] += 1);
        }
        let is_ready = |(step, state): (usize, &State)| (*state == State::Ready).then_some(step);
        Self {
            ready: states.iter().enumerate().filter_map(is_ready).collect(),
            states,
            demands,
            needed_by,
            limits,
            later: HashMap::new(),
            running: Vec::new(),
            loaded: vec![false; uses.len()],
            uses,
            attempts: HashMap::new(),
        }
    }

    /// Takes the next step, with what was seen of another process that held it; `None` when nothing can begin now.
    pub fn take(&mut self, now: Instant) -> Option<(usize, Option<Waiting>)> {
        let taken: u64 = self.running.iter().map(|&step| self.demands[step].memory).sum();
        let busy = self.running.iter().any(|&step| self.demands[step].on_device);
        let fits = |demand: &Demand| {
            let has_device = !(self.limits.is_exclusive && demand.on_device && busy);
            has_device && (self.running.is_empty() || taken.saturating_add(demand.memory) <= self.limits.memory)
        };
        let mut best: Option<(usize, usize)> = None;
        for &step in &self.ready {
            let is_due = self.later.get(&step).is_none_or(|(again, _)| *again <= now);
            if !is_due || !fits(&self.demands[step]) {
                continue;
            }
            let to_load = self.demands[step].models.iter().filter(|&&model| !self.loaded[model]).count();
            if best.is_none_or(|(least, _)| to_load < least) {
                best = Some((to_load, step));
            }
            if to_load == 0 {
                break;
            }
        }
        let (_, step) = best?;
        self.ready.remove(&step);
        self.states[step] = State::Running;
        self.running.push(step);
        self.demands[step].models.iter().for_each(|&model| self.loaded[model] = true);
        let seen = self.later.remove(&step).and_then(|(_, seen)| seen);
        Some((step, seen))
    }

    /// A running step is done. Returns the models that no step needs any more.
    pub fn done(&mut self, step: usize) -> Vec<usize> {
        self.states[step] = State::Settled;
        for next in std::mem::take(&mut self.needed_by[step]) {
            match self.states[next] {
                State::Waiting(1) => self.make_ready(next),
                State::Waiting(open) => self.states[next] = State::Waiting(open - 1),
                _ => {}
            }
        }
        self.leave(step)
    }

    /// A running step failed for good. Returns the models that no step needs any more.
    pub fn failed(&mut self, step: usize) -> Vec<usize> {
        self.states[step] = State::Failed;
        self.leave(step)
    }

    /// A running step is left to be taken again after a while: another process holds it, or it is tried again.
    pub fn later(&mut self, step: usize, after: Duration, seen: Option<Waiting>) {
        self.stopped(step);
        self.later.insert(step, (Instant::now() + after, seen));
    }

    /// A running step was stopped on request: it is ready as before.
    pub fn stopped(&mut self, step: usize) {
        self.running.retain(|&running| running != step);
        self.make_ready(step);
    }

    /// Counts one more attempt at a step and returns how many there were before.
    pub fn attempt(&mut self, step: usize) -> u32 {
        let attempts = self.attempts.entry(step).or_default();
        *attempts += 1;
        *attempts - 1
    }

    /// Is nothing under way and nothing left that may be taken up later?
    pub fn is_over(&self) -> bool {
        self.running.is_empty() && self.later.is_empty()
    }

    /// Steps that were not reached.
    pub fn open(&self) -> usize {
        self.states.iter().filter(|state| matches!(state, State::Waiting(_) | State::Ready)).count()
    }

    fn make_ready(&mut self, step: usize) {
        self.states[step] = State::Ready;
        self.ready.insert(step);
    }

    fn leave(&mut self, step: usize) -> Vec<usize> {
        self.running.retain(|&running| running != step);
        let mut free = Vec::new();
        for &model in &self.demands[step].models {
            self.uses[model] -= 1;
            if self.uses[model] == 0 {
                self.loaded[model] = false;
                free.push(model);
            }
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Limits = Limits { memory: u64::MAX, is_exclusive: false };

    fn loads(models: &[usize]) -> Demand {
        Demand { models: models.to_vec(), on_device: true, ..Demand::default() }
    }

    fn next(schedule: &mut Schedule) -> Option<usize> {
        schedule.take(Instant::now()).map(|(step, _)| step)
    }

    #[test]
    fn inputs_come_before_what_needs_them() {
        let inputs = vec![Some(vec![]), Some(vec![0, 0]), Some(vec![]), None, Some(vec![1, 2])];
        let mut schedule = Schedule::new(inputs, vec![Demand::default(); 5], ROOMY);
        assert_eq!((next(&mut schedule), next(&mut schedule), next(&mut schedule)), (Some(0), Some(2), None));
        schedule.done(0);
        assert_eq!(next(&mut schedule), Some(1));
        schedule.done(2);
        assert_eq!(next(&mut schedule), None);
        schedule.failed(1);
        assert_eq!((next(&mut schedule), schedule.open(), schedule.is_over()), (None, 1, true));
    }

    #[test]
    fn a_loaded_model_serves_all_its_steps_before_another_is_loaded() {
        let demands = vec![loads(&[0]), loads(&[1]), loads(&[0]), loads(&[1]), loads(&[0]), Demand::default()];
        let mut schedule = Schedule::new(vec![Some(vec![]); 6], demands, ROOMY);
        let mut order = Vec::new();
        let mut released = Vec::new();
        while let Some(step) = next(&mut schedule) {
            order.push(step);
            released.extend(schedule.done(step).into_iter().map(|model| (step, model)));
        }
        // The step without a model comes first: it keeps none waiting.
        assert_eq!(order, [5, 0, 2, 4, 1, 3]);
        assert_eq!(released, [(4, 0), (3, 1)]);
    }

    #[test]
    fn memory_and_an_exclusive_device_hold_steps_back() {
        let step = |memory, on_device| Demand { memory, on_device, models: Vec::new() };
        let demands = vec![step(6, false), step(5, false), step(4, false), step(100, false)];
        let limits = Limits { memory: 10, is_exclusive: false };
        let mut schedule = Schedule::new(vec![Some(vec![]); 4], demands, limits);
        assert_eq!((next(&mut schedule), next(&mut schedule), next(&mut schedule)), (Some(0), Some(2), None));
        schedule.done(0);
        assert_eq!(next(&mut schedule), Some(1));
        schedule.done(1);
        schedule.done(2);
        // What was let through to run runs alone, whatever it needs.
        assert_eq!(next(&mut schedule), Some(3));

        let demands = vec![step(0, true), step(0, true), step(0, false)];
        let limits = Limits { memory: 10, is_exclusive: true };
        let mut schedule = Schedule::new(vec![Some(vec![]); 3], demands, limits);
        assert_eq!((next(&mut schedule), next(&mut schedule), next(&mut schedule)), (Some(0), Some(2), None));
        schedule.done(0);
        assert_eq!(next(&mut schedule), Some(1));
    }

    #[test]
    fn what_is_put_off_is_taken_when_its_time_has_come() {
        let mut schedule = Schedule::new(vec![Some(vec![])], vec![Demand::default()], ROOMY);
        assert_eq!(next(&mut schedule), Some(0));
        assert_eq!((schedule.attempt(0), schedule.attempt(0)), (0, 1));
        schedule.later(0, Duration::from_secs(60), None);
        assert_eq!((next(&mut schedule), schedule.is_over()), (None, false));
        assert_eq!(schedule.take(Instant::now() + Duration::from_secs(61)).map(|(step, _)| step), Some(0));
    }
}
