//! Resampling of a position table to another grid, as one matrix per direction.
//!
//! Hugging Face and timm differ away from the native size: both are bicubic, but only timm smooths when it shrinks
//! (antialias), and its kernel is another one (a = −0.5 against −0.75). Resampling is linear, so it is kept as weights
//! `[to, from]`; applied by matrix products, it is the same on every backend and has a gradient.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How positions are resampled to image sizes other than the model's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PositionResampling {
    /// As timm: bicubic with antialias.
    #[default]
    Timm,
    /// As Hugging Face transformers: bicubic without antialias.
    Hf,
}

/// Keys's cubic kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// Row-major weights `[to, from]` that resample a line of `from` values to `to` values, pixel centres at half.
pub(super) fn weights(from: usize, to: usize, resampling: PositionResampling) -> Vec<f32> {
    let mut weights = vec![0f64; to * from];
    let scale = from as f64 / to as f64;
    for (index, row) in weights.chunks_exact_mut(from).enumerate() {
        match resampling {
            PositionResampling::Hf => {
                let at = (index as f64 + 0.5) * scale - 0.5;
                let left = at.floor();
                for tap in -1..=2i64 {
                    // Beyond the border the border value is taken, so that its weight grows.
                    let source = (left as i64 + tap).clamp(0, from as i64 - 1) as usize;
                    row[source] += cubic(at - left - tap as f64, -0.75);
                }
            }
            PositionResampling::Timm => {
                let stretch = scale.max(1.0);
                let centre = (index as f64 + 0.5) * scale;
                let first = (centre - 2.0 * stretch + 0.5).max(0.0) as usize;
                let end = ((centre + 2.0 * stretch + 0.5) as usize).min(from);
                for (source, weight) in row.iter_mut().enumerate().take(end).skip(first) {
                    *weight = cubic((source as f64 - centre + 0.5) / stretch, -0.5);
                }
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|weight| *weight /= sum);
            }
        }
    }
    weights.into_iter().map(|weight| weight as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_weights_sums_to_one() {
        for resampling in [PositionResampling::Hf, PositionResampling::Timm] {
            for (from, to) in [(37, 16), (3, 5), (3, 6), (37, 37), (16, 37)] {
                for row in weights(from, to, resampling).chunks_exact(from) {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{resampling:?} {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn the_native_size_is_left_as_it_is() {
        for resampling in [PositionResampling::Hf, PositionResampling::Timm] {
            let same = weights(4, 4, resampling);
            assert!(same.iter().enumerate().all(|(i, &w)| (w - f32::from(u8::from(i % 5 == 0))).abs() < 1e-6));
        }
    }
}
