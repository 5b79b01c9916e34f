//! The oracle encoder: features that hold a frame's latents and nothing else.
//!
//! It takes the visual side out of the question: whatever is lost with these features is lost on the language side.

use std::collections::HashMap;
use std::path::Path;

use crate::stages::{Result, StageError};
use crate::stats::random::Streams;

use super::grammar::{ACTIONS, AGENTS, BACKGROUNDS, PATIENTS, PLACES};

/// Length of an oracle feature.
pub const DIMENSIONS: usize = 64;
/// Standard deviation of the noise on each coordinate, whose own standard deviation over clips is about 1.
pub const NOISE: f64 = 0.05;

/// Columns of `latents.csv` with the values that each may have, in the order of [`Latents::shown`](super::Latents::shown).
pub fn attributes() -> [(&'static str, Vec<&'static str>); 5] {
    [
        ("agent", AGENTS.to_vec()),
        ("action", ACTIONS.iter().map(|action| action.name).collect()),
        ("patient", PATIENTS.to_vec()),
        ("place", PLACES.to_vec()),
        ("background", BACKGROUNDS.to_vec()),
    ]
}

/// Features of frames, `[frames, 64]` row after row: the one-hot latents of each frame through a random linear map,
/// plus noise. Map and noise depend on `seed` only (the noise on clip and time too), not on which frames are asked for.
///
/// `folder` is what `simulate_clips` left (it holds `latents.csv`); `frames` names each frame by clip id and time in
/// seconds as the manifest does. A frame that is not in the file is an error.
pub fn oracle_features(folder: &Path, frames: &[(String, f64)], seed: u64) -> Result<Vec<f32>> {
    let path = folder.join("latents.csv");
    let hint = "the oracle reads latents: give it the frames of a `simulate_clips` stage";
    if !path.is_file() {
        return Err(StageError::hint(format!("`{}` does not exist", path.display()), hint));
    }
    let broken = |error: csv::Error| StageError::new(format!("`{}`: {error}", path.display()));
    let attributes = attributes();
    let streams = Streams::new(seed, "oracle");
    let scale = 1.0 / (attributes.len() as f64).sqrt();
    let maps: Vec<Vec<f32>> =
        attributes.iter().map(|(name, values)| streams.named(name).normals(values.len() * DIMENSIONS, scale)).collect();

    let mut latents = HashMap::new();
    let mut reader = csv::Reader::from_path(&path).map_err(broken)?;
    for row in reader.deserialize::<HashMap<String, String>>() {
        let row = row.map_err(broken)?;
        let cell = |name: &str| {
            row.get(name).ok_or_else(|| StageError::new(format!("`{}` has no column `{name}`", path.display())))
        };
        let mut values = Vec::with_capacity(attributes.len());
        for (name, known) in &attributes {
            let cell = cell(name)?;
            let value = known.iter().position(|value| value == cell);
            values.push(
                value.ok_or_else(|| {
                    StageError::new(format!("`{}`: `{cell}` is no value of `{name}`", path.display()))
                })?,
            );
        }
        let seconds: f64 = cell("t_sec")?
            .parse()
            .map_err(|error| StageError::new(format!("`{}`: `t_sec`: {error}", path.display())))?;
        latents.insert((cell("clip_id")?.clone(), milliseconds(seconds)), values);
    }

    let mut features = Vec::with_capacity(frames.len() * DIMENSIONS);
    for (clip, seconds) in frames {
        let key = (clip.clone(), milliseconds(*seconds));
        let values = latents.get(&key).ok_or_else(|| {
            StageError::hint(format!("`{}` has no frame of `{clip}` at {seconds} s", path.display()), hint)
        })?;
        let noise = streams.named(&format!("{clip} {}", key.1)).normals(DIMENSIONS, NOISE);
        features.extend(noise.iter().enumerate().map(|(dimension, noise)| {
            let parts = values.iter().zip(&maps).map(|(value, map)| map[value * DIMENSIONS + dimension]);
            parts.sum::<f32>() + noise
        }));
    }
    Ok(features)
}

fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_hold_the_latents() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = "clip_id,split,t_sec,agent,action,patient,place,background\n\
                    a,train,0.25,red,greet,white,door,dark\n\
                    a,train,0.75,red,greet,white,door,dark\n\
                    b,test,0.25,red,greet,white,door,bright\n";
        std::fs::write(folder.path().join("latents.csv"), text).expect("written");
        let frames = [("a".to_owned(), 0.25), ("a".to_owned(), 0.75), ("b".to_owned(), 0.25)];
        let features = oracle_features(folder.path(), &frames, 0).expect("features");
        let distance = |a: usize, b: usize| -> f32 {
            let row = |r: usize| &features[r * DIMENSIONS..(r + 1) * DIMENSIONS];
            row(a).iter().zip(row(b)).map(|(x, y)| (x - y).powi(2)).sum::<f32>().sqrt()
        };
        assert!(distance(0, 1) < 1.0 && distance(0, 1) > 0.1, "only noise: {}", distance(0, 1));
        assert!(distance(0, 2) > 3.0, "another background: {}", distance(0, 2));
        assert_eq!(features[..DIMENSIONS], oracle_features(folder.path(), &frames[..1], 0).expect("one")[..]);
        assert_ne!(features, oracle_features(folder.path(), &frames, 1).expect("another seed"));
        let missing = oracle_features(folder.path(), &[("c".to_owned(), 0.25)], 0).expect_err("no such clip");
        assert!(missing.to_string().contains("`c`"), "{missing}");
    }
}
