//! `encode_text`: one feature vector per clip, made of its text.
//!
//! The text of each clip is read by a language model (the frozen one, or another under `language`) and the hidden states of
//! one layer are averaged. The vectors have the form of frame features, one frame per clip, and go through the same packs
//! and projector: what social tokens gain when they are made of words and not of pictures. The text that is to be predicted
//! would give itself away, so take another caption of the clip (`caption_index = 2`) than the one that is scored.

use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::estimate::{Passes, Size};
use super::perplexity::language;
use super::{Context, Estimate, Expected, Inputs, Reference, Result, Stage, StageError, Summary};
use crate::npy::{self, Array};
use crate::social::columns::broken;
use crate::social::injection;
use crate::social::material::{self, Reader};
use crate::social::packs::write_json;
use crate::social::pooling;
use crate::social::prompt::{EmbeddingScale, Prompt};
use crate::social::samples;
use crate::social::transcripts;

/// See the module.
pub struct EncodeText;

/// Settings of `encode_text`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Captions or transcripts.
    #[schemars(extend("x-accepts" = ["text"]))]
    pub text: Reference,
    /// Which clip is in which split, instead of what the text says.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["split"]))]
    pub splits: Option<Reference>,
    /// The model whose states are taken.
    #[serde(default = "language")]
    #[schemars(extend("x-accepts" = ["language_model"]))]
    pub language: Reference,
    /// Of several captions of a clip this one, from 1.
    #[serde(default = "caption_index")]
    #[schemars(range(min = 1))]
    pub caption_index: usize,
    /// `last` (after the final norm), or a layer's number; 0 is what enters the first.
    #[serde(default = "layer")]
    #[schemars(regex(pattern = r"^(last|[0-9]+)$"))]
    pub layer: String,
    /// Begin with BOS.
    #[serde(default = "yes")]
    pub bos: bool,
    /// Divide each vector by its length.
    #[serde(default = "yes")]
    pub l2_normalize: bool,
    /// Longest text in tokens.
    #[serde(default = "max_tokens")]
    #[schemars(range(min = 2))]
    pub max_tokens: usize,
    /// Texts at once.
    #[serde(default = "batch")]
    #[schemars(range(min = 1), extend("x-key" = false))]
    pub batch: usize,
}

fn caption_index() -> usize {
    1
}

fn layer() -> String {
    "last".to_owned()
}

fn yes() -> bool {
    true
}

fn max_tokens() -> usize {
    Prompt::default().max_tokens
}

fn batch() -> usize {
    64
}

impl Stage for EncodeText {
    const KIND: &'static str = "encode_text";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Turns the text of every clip into a feature vector, as if it were its only frame";
    const GIVES: &'static [&'static str] = &["features"];
    type Config = Config;

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        let (text, network) = (inputs.of("text"), inputs.of("language").network);
        let sequences = text.clips_in("all");
        let passes = Passes::once(inputs, "all", None, config.batch, None);
        let width = network.map(|network| network.hidden);
        Estimate { size: Size { frames: sequences, width, ..Size::default() }, ..passes.estimate() }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let language = material::language(inputs, context)?;
        let clips =
            transcripts::load(&inputs.get("text")?.path, &material::selection(inputs, "all", config.caption_index))?;
        let layers = language.gemma.config().layers();
        let layer = match config.layer.parse::<usize>() {
            Ok(layer) if layer < layers => layer,
            Ok(layer) => {
                return Err(StageError::hint(
                    format!("the language model has no layer {layer}"),
                    format!("set `layer` to a number below {layers}, or to `last`"),
                ));
            }
            Err(_) => layers,
        };
        // The mean is over the positions of the text: neither BOS, a sink that is alike in all texts, nor EOS.
        let prompt = Prompt { bos: config.bos, append_eos: false, max_tokens: config.max_tokens, ..Prompt::default() };
        let sequences = samples::whole(&clips, &prompt, &*language, |_| Ok(&[]))?;
        if let Some(empty) = sequences.iter().find(|sequence| sequence.slots.len() <= usize::from(config.bos)) {
            return Err(StageError::hint(
                format!("clip `{}` has no text to make a vector of", clips[empty.clip].clip_id),
                "leave such clips out, or choose another `caption_index`",
            ));
        }
        if let Some(long) = sequences.iter().find(|sequence| sequence.slots.len() > config.max_tokens) {
            return Err(StageError::hint(
                format!("the text of clip `{}` has {} tokens", clips[long.clip].clip_id, long.slots.len()),
                "raise `max_tokens`",
            ));
        }
        let prepared = injection::prepare(&sequences, None, &[], &[], language.pad)?;
        let scale = EmbeddingScale::default();
        let reader = Reader { gemma: &language.gemma, pad: language.pad, social: None, scale, zeroed: false };
        let hidden = language.gemma.config().hidden;
        let mut values = vec![0.0f32; clips.len() * hidden];
        let mut done = 0;
        for chosen in injection::by_length(&prepared, config.batch) {
            let (batch, entered) = reader.inputs(&prepared, &chosen);
            let tokens = batch.shape().1;
            let mut weights = vec![0.0f32; chosen.len() * tokens];
            for (row, &sample) in weights.chunks_exact_mut(tokens).zip(&chosen) {
                let words = &mut row[usize::from(config.bos)..sequences[sample].slots.len()];
                words.fill(1.0 / words.len() as f32);
            }
            let weights = TensorData::new(weights, [chosen.len(), 1, tokens]);
            let weights = Tensor::<3>::from_data(weights, &language.gemma.device());
            let states = language.gemma.hidden_states(entered).swap_remove(layer);
            let pooled = material::downloaded(pooling::pooled(weights, states))?;
            for (&sample, vector) in chosen.iter().zip(pooled.chunks_exact(hidden)) {
                values[sample * hidden..(sample + 1) * hidden].copy_from_slice(vector);
            }
            done += chosen.len();
            context.progress(done as u64, clips.len() as u64, "text")?;
        }
        if let Some(row) = values.chunks_exact(hidden).position(|row| row.iter().any(|value| !value.is_finite())) {
            return Err(StageError::new(format!("the vector of clip `{}` is not finite", clips[row].clip_id)));
        }
        if config.l2_normalize {
            for row in values.chunks_exact_mut(hidden) {
                let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(1e-12);
                row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
            }
        }
        npy::write(&context.folder().join("features.npy"), &Array::new([clips.len(), hidden], values))?;
        let path = context.folder().join("frames.csv");
        let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
        out.write_record(["clip_id", "split", "t_sec"]).map_err(|error| broken(&path, &error))?;
        for clip in &clips {
            let split = clip.split.as_deref().unwrap_or_default();
            out.write_record([clip.clip_id.as_str(), split, "0"]).map_err(|error| broken(&path, &error))?;
        }
        out.flush().map_err(StageError::io(&path))?;
        let description =
            json!({ "method": "text", "layer": config.layer, "l2_normalize": config.l2_normalize, "dim": hidden });
        write_json(&context.folder().join("features.json"), &description)?;
        let mut summary = Summary::new();
        summary.insert("clips".into(), clips.len().into());
        summary.insert("dim".into(), hidden.into());
        Ok(summary)
    }
}
