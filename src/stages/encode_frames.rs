//! `encode_frames`: one feature vector per frame.
//!
//! `oracle` reads the latents that `simulate_clips` wrote and isolates the language side.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Inputs, Reference, Result, Stage, Summary};
use crate::npy::Array;
use crate::vision::features;
use crate::vision::frames::Manifest;
use crate::vision::world;

/// See the module.
pub struct EncodeFrames;

/// What makes the features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The latents of a simulated world through a fixed random map, with a little noise.
    #[default]
    Oracle,
}

/// Settings of `encode_frames`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Frames with their manifest.
    #[schemars(extend("x-accepts" = ["frames"]))]
    pub frames: Reference,
    /// What makes the features.
    #[serde(default)]
    pub method: Method,
    /// Seed of the oracle's map and noise.
    #[serde(default)]
    pub encoder_seed: u64,
    /// Accept features that hardly differ between clips.
    #[serde(default)]
    pub allow_constant_features: bool,
}

impl Stage for EncodeFrames {
    const KIND: &'static str = "encode_frames";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Turns every frame into a feature vector";
    const GIVES: &'static [&'static str] = &["features"];
    type Config = Config;

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let manifest = Manifest::load(&inputs.get("frames")?.path)?;
        let frames: Vec<(String, f64)> =
            manifest.frames.iter().map(|frame| (frame.clip_id.clone(), frame.t_sec)).collect();
        let values = world::oracle_features(manifest.folder(), &frames, config.encoder_seed)?;
        let dim = values.len() / frames.len();
        let array = Array::new([frames.len(), dim], values);
        let spread = features::spread_between_clips(&manifest, &array);
        features::check_spread(spread, config.allow_constant_features)?;
        features::write(context.folder(), &manifest, &array, serde_json::json!({ "method": config.method }))?;
        let mut summary = Summary::new();
        summary.insert("frames".into(), frames.len().into());
        summary.insert("clips".into(), manifest.clips().len().into());
        summary.insert("dim".into(), dim.into());
        summary.insert("spread".into(), spread.into());
        Ok(summary)
    }
}
