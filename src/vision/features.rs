//! Features of frames on disk, and the check that they tell clips apart.

use std::path::Path;

use serde_json::Value;

use super::frames::{Manifest, seconds};
use crate::npy::{self, Array};
use crate::stages::{Result, StageError};

/// Below this, 1 − mean cosine between clips, features carry next to nothing of the picture. An untrained
/// `vit_base_patch14_dinov2` with LayerScale 1e-5 gives 1e-7; features of real encoders 0.1 and more.
pub const SMALLEST_SPREAD: f64 = 1e-4;

/// Writes `features.npy` (`[frames, dim]`), `frames.csv` (a line per row, with the picture's path) and `features.json` (`dim`, and what is in
/// `description`).
pub fn write(folder: &Path, manifest: &Manifest, features: &Array<f32>, mut description: Value) -> Result<()> {
    npy::write(&folder.join("features.npy"), features)?;
    let path = folder.join("frames.csv");
    let failed = |error: csv::Error| StageError::new(format!("`{}`: {error}", path.display()));
    let mut writer = csv::Writer::from_path(&path).map_err(failed)?;
    writer.write_record(["clip_id", "split", "t_sec", "frame_path"]).map_err(failed)?;
    for frame in &manifest.frames {
        writer.write_record([&frame.clip_id, &frame.split, &seconds(frame.t_sec), &frame.path]).map_err(failed)?;
    }
    writer.flush().map_err(StageError::io(&path))?;
    description["dim"] = features.shape[1].into();
    let path = folder.join("features.json");
    std::fs::write(&path, format!("{description:#}\n")).map_err(StageError::io(&path))
}

/// 1 − mean cosine between the mean features of different clips, 0 when that of a clip is zero; `None` for fewer than two
/// clips or values that are not finite.
pub fn spread_between_clips(manifest: &Manifest, features: &Array<f32>) -> Option<f64> {
    let dim = features.shape[1];
    let mean_of = |rows: std::ops::Range<usize>| {
        let mut mean = vec![0.0; dim];
        for row in rows {
            mean.iter_mut().zip(features.row(row)).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        mean
    };
    spread(manifest.clips().into_iter().map(mean_of))
}

/// The same where each row is a clip's vector.
pub fn spread_of_rows(vectors: &Array<f32>) -> Option<f64> {
    spread((0..vectors.shape[0]).map(|row| vectors.row(row).iter().map(|&value| f64::from(value)).collect()))
}

/// 1 − mean cosine between vectors, in whatever length.
fn spread(vectors: impl Iterator<Item = Vec<f64>>) -> Option<f64> {
    let (mut total, mut count) = (Vec::new(), 0.0);
    for vector in vectors {
        let norm = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        if norm == 0.0 {
            return Some(0.0);
        }
        if !norm.is_finite() {
            return None;
        }
        total.resize(vector.len(), 0.0);
        total.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value / norm);
        count += 1.0;
    }
    // The squared length of the sum of n unit vectors is n plus twice the sum of their pairwise cosines.
    let length: f64 = total.iter().map(|value| value * value).sum();
    (count > 1.0).then(|| 1.0 - (length - count) / (count * (count - 1.0)))
}

/// Fails when the features of different clips are all but the same, which is what a model gives whose weights were not
/// loaded.
pub fn check_spread(spread: Option<f64>, allowed: bool) -> Result<()> {
    match spread {
        Some(spread) if spread < SMALLEST_SPREAD && !allowed => Err(StageError::hint(
            format!(
                "features hardly differ between clips: 1 - mean cosine is {spread:.1e}, below {SMALLEST_SPREAD:.0e}"
            ),
            "check the encoder's weights; `allow_constant_features = true` if this is the control you want",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::frames::{FILE, Frame};
    use crate::vision::image::Rgb;

    fn manifest(folder: &Path, clips: &[(&str, usize)]) -> Manifest {
        Rgb::new(1, 1, vec![0; 3]).save_png(&folder.join("0.png")).unwrap();
        npy::write::<u8>(&folder.join("f.npy"), &Array::new([0, 1, 1, 3], vec![])).unwrap();
        let frames: Vec<Frame> = clips
            .iter()
            .flat_map(|&(clip, count)| {
                (0..count).map(move |item| Frame {
                    split: "train".into(),
                    clip_id: clip.into(),
                    path: format!("f.npy#{item}"),
                    t_sec: item as f64 / 3.0,
                    group: None,
                })
            })
            .collect();
        Manifest::write(folder, &frames).unwrap();
        assert!(folder.join(FILE).is_file());
        Manifest::load(folder).unwrap()
    }

    #[test]
    fn the_spread_is_one_minus_the_mean_cosine_of_clips() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path(), &[("a", 2), ("b", 1), ("c", 1)]);
        // Clip means (1, 1), (0, 1), (1, 0): cosines √½, √½ and 0.
        let features = Array::new([4, 2], vec![2.0, 0.0, 0.0, 2.0, 0.0, 5.0, 0.1, 0.0]);
        let spread = spread_between_clips(&manifest, &features).unwrap();
        assert!((spread - (1.0 - 2f64.sqrt() / 3.0)).abs() < 1e-12, "{spread}");
        assert!(check_spread(Some(spread), false).is_ok());
    }

    #[test]
    fn features_of_an_unloaded_model_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path(), &[("a", 1), ("b", 1)]);
        let features = Array::new([2, 2], vec![1.0, 1.0, 1.0, 1.002]);
        let spread = spread_between_clips(&manifest, &features);
        let message = check_spread(spread, false).unwrap_err().to_string();
        assert!(message.contains("5.0e-7") && message.contains("`allow_constant_features = true`"), "{message}");
        assert!(check_spread(spread, true).is_ok());
        assert!(check_spread(None, false).is_ok(), "one clip has no other to differ from");
        let nothing = spread_between_clips(&manifest, &Array::new([2, 2], vec![1.0, 1.0, 0.0, 0.0]));
        assert_eq!(nothing, Some(0.0));
        assert!(check_spread(nothing, false).is_err());
    }

    #[test]
    fn rows_are_named_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path(), &[("a", 2)]);
        let features = Array::new([2, 3], vec![0.5; 6]);
        write(folder.path(), &manifest, &features, serde_json::json!({ "method": "oracle" })).unwrap();
        let table = std::fs::read_to_string(folder.path().join("frames.csv")).unwrap();
        assert_eq!(table, "clip_id,split,t_sec,frame_path\na,train,0,f.npy#0\na,train,0.333333,f.npy#1\n");
        assert_eq!(npy::read::<f32>(&folder.path().join("features.npy")).unwrap(), features);
        let json = std::fs::read_to_string(folder.path().join("features.json")).unwrap();
        assert!(json.contains("\"dim\": 3") && json.contains("\"method\": \"oracle\""), "{json}");
    }
}
