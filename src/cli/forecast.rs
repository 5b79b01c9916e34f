//! What a plan will need, for `plan` and `run`: estimates of the steps that are to run, the time they should take, and
//! whether they fit.

use std::collections::BTreeMap;

use super::Failure;
use crate::experiment::RunSettings;
use crate::models::device;
use crate::plan::pace::Pace;
use crate::plan::{Plan, StepInput, estimate};
use crate::stages::Estimate;
use crate::store::Store;

/// Estimates of the steps that are to run, and the machine that they meet.
pub struct Forecast {
    /// By the step's place in the plan.
    pub estimates: BTreeMap<usize, Estimate>,
    /// Seconds that a step should take, as far as they can be told.
    pub seconds: BTreeMap<usize, f64>,
    /// The device that `[run] device` means.
    pub device: String,
    /// Bytes that steps may use.
    pub memory: u64,
    /// How fast this machine is.
    pub pace: Pace,
}

impl Forecast {
    /// Looks at what the plan's steps will read, and measures the device unless its pace is remembered.
    pub fn new(plan: &Plan<'_>, store: &Store, run: &RunSettings) -> Result<Self, Failure> {
        let usage = |error: device::DeviceError| Failure::Usage(error.to_string());
        let device = device::resolve(&run.device).map_err(usage)?;
        let estimates = estimate::estimates(plan, store);
        let mut pace = Pace::load();
        if estimates.values().any(|estimate| estimate.flops.is_some()) {
            pace.calibrate(&device, &device::parse(&device).map_err(usage)?);
            pace.save();
        }
        let kind = |step: usize| plan.steps[step].work.kind();
        let seconds =
            estimates.iter().filter_map(|(&step, estimate)| Some((step, pace.seconds(&device, kind(step), estimate)?)));
        let seconds = seconds.collect();
        // A device that does not tell how much it has refuses for itself.
        let memory = run.memory.or_else(|| device::memory(&device)).unwrap_or(u64::MAX);
        Ok(Self { estimates, seconds, device, memory, pace })
    }

    /// Peak memory of each step, as far as it is known.
    pub fn memory_of_steps(&self) -> BTreeMap<usize, u64> {
        let known = |(&step, estimate): (&usize, &Estimate)| Some((step, estimate.memory.as_ref()?.total()));
        self.estimates.iter().filter_map(known).collect()
    }

    /// Fails, before anything runs, when a wanted step cannot fit.
    pub fn check(&self, plan: &Plan<'_>, wanted: &[bool]) -> Result<(), Failure> {
        let mut complaints = Vec::new();
        for (&step, estimate) in self.estimates.iter().filter(|(step, _)| wanted[**step]) {
            let Some(memory) = estimate.memory.as_ref().filter(|memory| memory.total() > self.memory) else { continue };
            let stage = plan.steps[step].stages.first().copied().unwrap_or_default();
            let hint = match (memory.largest_within(self.memory), memory.setting) {
                (Some((setting, fits)), _) => format!("`{stage}.{setting} = {fits}` would fit"),
                (None, Some((setting, _))) => {
                    format!("not even `{stage}.{setting} = 1` would fit: take a smaller model or a larger machine")
                }
                (None, None) => "take smaller settings or a larger machine".to_owned(),
            };
            complaints.push(format!(
                "`{stage}` needs about {} of memory, and `{}` has {}\nhint: {hint}; if you know better, set `run.memory` (GB)",
                bytes(memory.total()),
                self.device,
                bytes(self.memory),
            ));
        }
        complaints.dedup();
        if complaints.is_empty() { Ok(()) } else { Err(Failure::Usage(complaints.join("\nerror: "))) }
    }

    /// Seconds that the wanted steps should take with `jobs` at once, and how many steps are not counted because
    /// nothing tells their time: the longer of the sum shared out and the longest chain.
    pub fn total(&self, plan: &Plan<'_>, wanted: &[bool], jobs: usize) -> (f64, usize) {
        let mut ends = vec![0.0_f64; plan.steps.len()];
        let (mut sum, mut unknown) = (0.0, 0);
        for (index, step) in plan.steps.iter().enumerate().filter(|(index, _)| wanted[*index]) {
            let seconds = self.seconds.get(&index).copied();
            let starts = step.inputs.values().filter_map(|input| match input {
                StepInput::Step { step, .. } => Some(ends[*step]),
                StepInput::External { .. } => None,
            });
            ends[index] = starts.fold(0.0, f64::max) + seconds.unwrap_or(0.0);
            sum += seconds.unwrap_or(0.0);
            // Comparisons are quick beside what they compare.
            unknown += usize::from(seconds.is_none() && self.estimates.contains_key(&index));
        }
        (ends.into_iter().fold(sum / jobs.max(1) as f64, f64::max), unknown)
    }
}

/// `1.3 GB`
pub fn bytes(bytes: u64) -> String {
    format!("{}B", scaled(bytes as f64))
}

/// `7.1 M`
pub fn scaled(number: f64) -> String {
    const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let step = if number < 1000.0 { 0 } else { (number.log10() / 3.0).floor() as usize };
    let step = step.min(UNITS.len() - 1);
    let value = number / 1000_f64.powi(step as i32);
    let digits = usize::from(step > 0 && value < 99.95);
    format!("{value:.digits$} {}", UNITS[step])
}

/// `40 s`, `12 min`, `3.5 h`
pub fn duration(seconds: f64) -> String {
    match seconds {
        under if under < 0.95 => "<1 s".to_owned(),
        under if under < 99.5 => format!("{under:.0} s"),
        under if under < 99.5 * 60.0 => format!("{:.0} min", under / 60.0),
        over => format!("{:.1} h", over / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(scaled(7.0), "7 ");
        assert_eq!(scaled(7_088_640.0), "7.1 M");
        assert_eq!(scaled(2.614e9), "2.6 G");
        assert_eq!(scaled(999.0), "999 ");
        assert_eq!(scaled(1e21), "1000000 P");
        assert_eq!(bytes(1_300_000_000), "1.3 GB");
        assert_eq!(bytes(131_000_000), "131 MB");
        assert_eq!(duration(0.2), "<1 s");
        assert_eq!(duration(40.2), "40 s");
        assert_eq!(duration(400.0), "7 min");
        assert_eq!(duration(12_600.0), "3.5 h");
    }
}
