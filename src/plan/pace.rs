//! Pace: how long work takes on this machine.
//!
//! What finished steps took is remembered per device, kind and width of the network, and makes operations (or frames,
//! clips, pairs where operations do not tell) into seconds. Before a kind has run once, a short calibration of matrix
//! products stands in. Both are kept in `pace.json` in the user's cache folder, never in a store: they tell of the
//! machine and not of results. A file that cannot be read or written costs a calibration and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::stages::Estimate;

/// Widths that the calibration measures.
const WIDTHS: [u64; 3] = [64, 256, 1024];
/// Rows of the matrices of the calibration.
const ROWS: usize = 512;
/// How long each width is measured, after one product that is not counted.
const LONG_ENOUGH: Duration = Duration::from_millis(40);
/// Steps after which older ones count half.
const MEMORY: u32 = 16;

/// See the module.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Pace {
    /// Device → width → operations per second of matrix products.
    #[serde(default)]
    calibrated: BTreeMap<String, BTreeMap<u64, f64>>,
    /// `device kind width` → what steps took.
    #[serde(default)]
    learned: BTreeMap<String, Learned>,
    #[serde(skip)]
    file: Option<PathBuf>,
}

/// What the finished steps of a kind took together.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Learned {
    /// Operations, or items where operations are unknown.
    amount: f64,
    seconds: f64,
    steps: u32,
}

impl Pace {
    /// What is remembered of this machine.
    pub fn load() -> Self {
        Self::load_from(cache_folder().map(|folder| folder.join("pace.json")))
    }

    fn load_from(file: Option<PathBuf>) -> Self {
        let text = file.as_deref().and_then(|file| std::fs::read_to_string(file).ok());
        let known: Option<Self> = text.and_then(|text| serde_json::from_str(&text).ok());
        Self { file, ..known.unwrap_or_default() }
    }

    /// Keeps what is remembered. Failing to is no reason to fail anything.
    pub fn save(&self) {
        let (Some(file), Ok(text)) = (&self.file, serde_json::to_string_pretty(self)) else { return };
        let draft = file.with_extension(format!("{}.draft", std::process::id()));
        let folder = file.parent().unwrap_or(Path::new("."));
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&draft, text));
        written.and_then(|()| std::fs::rename(&draft, file)).ok();
    }

    /// Measures the device, unless that is remembered.
    pub fn calibrate(&mut self, name: &str, device: &Device) {
        if self.calibrated.contains_key(name) {
            return;
        }
        let rates = WIDTHS.into_iter().map(|width| (width, measure(device, width as usize))).collect();
        self.calibrated.insert(name.to_owned(), rates);
    }

    /// Adds what a step took.
    pub fn learn(&mut self, device: &str, kind: &str, estimate: &Estimate, seconds: f64) {
        let Some(amount) = amount(estimate).filter(|amount| *amount > 0.0 && seconds > 0.0) else { return };
        let learned = self.learned.entry(entry(device, kind, estimate)).or_default();
        if learned.steps >= MEMORY {
            *learned =
                Learned { amount: learned.amount / 2.0, seconds: learned.seconds / 2.0, steps: learned.steps / 2 };
        }
        learned.amount += amount;
        learned.seconds += seconds;
        learned.steps += 1;
    }

    /// Seconds that a step should take; `None` when neither its operations nor its kind's past are known.
    pub fn seconds(&self, device: &str, kind: &str, estimate: &Estimate) -> Option<f64> {
        let amount = amount(estimate)?;
        if let Some(learned) = self.learned.get(&entry(device, kind, estimate)) {
            return Some(amount * learned.seconds / learned.amount);
        }
        let flops = estimate.flops?;
        let rates = self.calibrated.get(device)?;
        let nearest = rates.iter().min_by_key(|(width, _)| width.abs_diff(estimate.width))?;
        Some(flops / nearest.1)
    }
}

fn amount(estimate: &Estimate) -> Option<f64> {
    estimate.flops.or(estimate.items.map(|items| items as f64))
}

/// Networks within a factor of two in width share a pace.
fn entry(device: &str, kind: &str, estimate: &Estimate) -> String {
    let unit = if estimate.flops.is_some() { "operations" } else { "items" };
    format!("{device} {kind} {unit} {}", estimate.width.checked_ilog2().map_or(0, |log| 1_u64 << log))
}

/// Operations per second of `[ROWS, width] · [width, width]`.
fn measure(device: &Device, width: usize) -> f64 {
    let values = |rows: usize| Tensor::<2>::ones([rows, width], device) * 0.5;
    let (left, right) = (values(ROWS), values(width));
    let product = || left.clone().matmul(right.clone()).sum().into_data();
    product();
    let started = Instant::now();
    let mut products = 0_u32;
    while started.elapsed() < LONG_ENOUGH {
        product();
        products += 1;
    }
    2.0 * (ROWS * width * width) as f64 * f64::from(products) / started.elapsed().as_secs_f64()
}

/// `$XDG_CACHE_HOME/soctok`, else `~/.cache/soctok`.
fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(folder.join("soctok"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flops(flops: f64, width: u64) -> Estimate {
        Estimate { flops: Some(flops), width, ..Estimate::default() }
    }

    #[test]
    fn a_kind_that_ran_sets_the_pace_and_others_go_by_calibration() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("below/pace.json");
        let mut pace = Pace::load_from(Some(file.clone()));
        assert_eq!(pace.seconds("cpu", "perplexity", &flops(1e9, 64)), None);
        pace.calibrated.insert("cpu".into(), [(64, 1e9), (1024, 4e9)].into());
        assert_eq!(pace.seconds("cpu", "perplexity", &flops(2e9, 70)), Some(2.0));
        assert_eq!(pace.seconds("cpu", "perplexity", &flops(2e9, 2304)), Some(0.5));
        pace.learn("cpu", "perplexity", &flops(1e9, 64), 3.0);
        pace.learn("cpu", "perplexity", &flops(3e9, 100), 1.0);
        pace.save();
        let pace = Pace::load_from(Some(file));
        assert_eq!(pace.seconds("cpu", "perplexity", &flops(2e9, 70)), Some(2.0));
        // Another width or device is another pace; so is a kind without operations.
        assert_eq!(pace.seconds("cpu", "perplexity", &flops(4e9, 640)), Some(1.0));
        assert_eq!(pace.seconds("cuda:0", "perplexity", &flops(2e9, 70)), None);
        let items = Estimate { items: Some(10), ..Estimate::default() };
        assert_eq!(pace.seconds("cpu", "scene_packs", &items), None);
    }

    #[test]
    fn old_steps_are_forgotten_by_halves() {
        let mut pace = Pace::default();
        for _ in 0..MEMORY {
            pace.learn("cpu", "embed", &flops(1.0, 64), 1.0);
        }
        for _ in 0..4 * MEMORY {
            pace.learn("cpu", "embed", &flops(1.0, 64), 3.0);
        }
        let seconds = pace.seconds("cpu", "embed", &flops(1.0, 64)).expect("known");
        assert!((seconds - 3.0).abs() < 0.1, "{seconds}");
    }

    #[test]
    #[cfg(feature = "cpu")]
    fn the_calibration_measures_something_plausible() {
        let rate = measure(&Device::flex(), 64);
        assert!(rate > 1e7 && rate < 1e14, "{rate}");
    }
}
