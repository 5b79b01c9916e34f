//! `embed`: what the language model makes of each clip, pooled over positions.
//!
//! One forward pass gives every pool of every layer; `rsa` picks. Layers are numbered as Hugging Face numbers hidden
//! states (`0` is what enters the first layer); `last` is the last layer's output after the final norm.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use burn::tensor::Tensor;

use super::estimate::{Passes, social};
use super::perplexity::{caption_index, inherit, language, no_projector};
use super::{Context, Estimate, Expected, Inputs, Reference, Result, Stage, StageError, Summary, Upstream};
use crate::models::language::Precision;
use crate::npy::{self, Array};
use crate::social::columns::broken;
use crate::social::injection;
use crate::social::material::{self, Reader, Trained};
use crate::social::packs::write_json;
use crate::social::pooling::{self, Pool};
use crate::social::prompt::{EmbeddingScale, Inject, Prompt};
use crate::social::samples::{self, Sequence};
use crate::social::transcripts::{self, Clip};

/// See the module.
pub struct Embed;

/// Settings of `embed`. What is left out of `inject` to `max_tokens` is as in the training of the projector.
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
    /// The clips' vectors; needed unless `inject` is `none`.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["packs"]))]
    pub packs: Option<Reference>,
    /// The trained or given projector; needed unless `inject` is `none`.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["projector"]))]
    pub projector: Option<Reference>,
    /// The frozen language model.
    #[serde(default = "language")]
    #[schemars(extend("x-accepts" = ["language_model"]))]
    pub language: Reference,
    /// Which social tokens there are; without a projector `none`.
    #[serde(default)]
    pub inject: Option<Inject>,
    /// The split to embed; `all` is every clip.
    #[serde(default = "split")]
    pub split: String,
    /// Of several captions of a clip this one, from 1.
    #[serde(default = "caption_index")]
    #[schemars(range(min = 1))]
    pub caption_index: usize,
    /// Begin with BOS.
    #[serde(default)]
    pub bos: Option<bool>,
    /// End with EOS.
    #[serde(default)]
    pub append_eos: Option<bool>,
    /// Whether the embedding scale acts on text rows before the injection or on everything after it.
    #[serde(default)]
    pub embedding_scale: Option<EmbeddingScale>,
    /// Text between the global token and the first word.
    #[serde(default)]
    pub lead_in: Option<String>,
    /// Longest text in tokens.
    #[serde(default)]
    pub max_tokens: Option<usize>,
    /// Precision in which the language model computes; not taken over from the projector's training.
    #[serde(default)]
    pub precision: Precision,
    /// Added to the mean square in the projector's norms. A given projector does not tell: 1e-6 unless set here.
    #[serde(default)]
    pub norm_epsilon: Option<f64>,
    /// Hold the input and the gain of its ScaleShifts within ± this; 0 does not. A given projector does not tell.
    #[serde(default)]
    pub norm_clamp: Option<f64>,
    /// Clips at once.
    #[serde(default = "batch")]
    #[schemars(range(min = 1), extend("x-key" = false))]
    pub batch: usize,
}

fn split() -> String {
    "all".to_owned()
}

fn batch() -> usize {
    32
}

/// `embeddings.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// The mode of injection.
    pub inject: Inject,
    /// Names of the layers, in order.
    pub layers: Vec<String>,
    /// Length of a vector.
    pub hidden: usize,
    /// Every pool, and why it is not defined if it is not.
    pub pools: Vec<PoolState>,
}

/// Whether a pool has vectors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolState {
    /// The pool.
    pub pool: Pool,
    /// Why it has no vectors; `None` when it has.
    pub undefined: Option<String>,
}

impl Config {
    fn prompt(&self, inject: Inject) -> Prompt {
        let default = Prompt::default();
        Prompt {
            inject,
            bos: self.bos.unwrap_or(default.bos),
            append_eos: self.append_eos.unwrap_or(default.append_eos),
            lead_in: self.lead_in.clone().unwrap_or_default(),
            max_tokens: self.max_tokens.unwrap_or(default.max_tokens),
            ..default
        }
    }
}

impl Stage for Embed {
    const KIND: &'static str = "embed";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str =
        "Pools the language model's hidden states of each clip, every pool of every layer at once";
    const GIVES: &'static [&'static str] = &["embeddings"];
    const ON_DEVICE: bool = true;
    type Config = Config;

    fn normalise(config: &mut Config, upstream: &Upstream) {
        let default = Prompt::default();
        inherit(&mut config.bos, upstream, "bos", default.bos);
        inherit(&mut config.append_eos, upstream, "append_eos", default.append_eos);
        inherit(&mut config.lead_in, upstream, "lead_in", default.lead_in);
        inherit(&mut config.max_tokens, upstream, "max_tokens", default.max_tokens);
        inherit(&mut config.embedding_scale, upstream, "embedding_scale", EmbeddingScale::default());
        config.inject = config.inject.or_else(|| upstream.setting("projector", "inject"));
        if config.projector.is_none() {
            config.inject = config.inject.or(Some(Inject::None));
        }
        if config.inject == Some(Inject::None) {
            config.packs = None;
            config.projector = None;
            (config.norm_epsilon, config.norm_clamp) = (None, None);
            config.embedding_scale = Some(EmbeddingScale::default());
        }
    }

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        let text = inputs.of("text");
        let passes = Passes {
            network: inputs.of("language").network.as_ref(),
            sequences: text.clips_in(&config.split),
            words: text.words,
            social: social(config.inject.unwrap_or(Inject::None), text.words),
            batch: config.batch as u64,
            repeats: 1.0,
            backward: false,
        };
        passes.estimate()
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let language = material::language_in(config.precision, inputs, context)?;
        let device = language.gemma.device();
        let selection = material::selection(inputs, &config.split, config.caption_index);
        let clips = transcripts::load(&inputs.get("text")?.path, &selection)?;
        let trained = match inputs.optional("projector") {
            Some(input) => {
                Some(Trained::load(&input.path, &device)?.with_norms(config.norm_epsilon, config.norm_clamp))
            }
            None => None,
        };
        let inject = material::chosen_inject(config.inject, trained.as_ref())?;
        let (trained, packs) = match inject {
            Inject::None => (None, None),
            _ => (Some(trained.ok_or_else(|| no_projector(inject))?), Some(material::packs(inputs, inject, &clips)?)),
        };
        if let Some(trained) = &trained {
            trained.check_language(&language, inputs)?;
        }
        let locals = |clip: &str| material::locals_of(packs.as_ref(), clip);
        let sequences = samples::whole(&clips, &config.prompt(inject), &*language, locals)?;
        material::check_social(inject, &sequences)?;
        let (bank, places) = match (&trained, &packs) {
            (Some(trained), Some(packs)) => (Some(trained.bank(packs)?), material::places(packs, &clips)?),
            _ => (None, Vec::new()),
        };
        let prepared = injection::prepare(&sequences, bank.as_ref(), &places, &places, language.pad)?;
        let social = bank.as_ref().zip(trained.as_ref());
        let social = social.map(|(bank, trained)| (&trained.projector, material::uploaded(&bank.vectors, &device)));
        let scale = config.embedding_scale.unwrap_or_default();
        let reader = Reader { gemma: &language.gemma, pad: language.pad, social, scale, zeroed: false };
        let pools = pool_states(inject, &clips, &sequences);
        let defined: Vec<Pool> =
            pools.iter().filter(|state| state.undefined.is_none()).map(|state| state.pool).collect();
        let hidden = language.gemma.config().hidden;
        let layers = layer_names(language.gemma.config().layers());
        let table = forward(&reader, &sequences, &prepared, &defined, layers.len(), config.batch, context)?;
        let named = defined.iter().flat_map(|pool| layers.iter().map(move |layer| format!("{}.{layer}", pool.name())));
        let named: Vec<(String, &Array<f32>)> = named.zip(&table).collect();
        let path = context.folder().join("embeddings.npz");
        npy::write_npz(&path, named.iter().map(|(name, array)| (name.as_str(), *array)))?;
        write_clips(context, &clips)?;
        let mut summary = Summary::new();
        summary.insert("clips".into(), clips.len().into());
        summary.insert("layers".into(), layers.len().into());
        summary.insert("hidden".into(), hidden.into());
        if let Some(seen) = trained.as_ref().and_then(|trained| trained.seen(&clips)) {
            summary.insert("clips_seen_in_training".into(), seen.into());
        }
        write_json(&context.folder().join("embeddings.json"), &Description { inject, layers, hidden, pools })?;
        Ok(summary)
    }
}

/// `0`, `1`, …, `last`: the names of `layers + 1` hidden states.
fn layer_names(layers: usize) -> Vec<String> {
    (0..layers).map(|layer| layer.to_string()).chain(["last".to_owned()]).collect()
}

/// Which pools have a position in every clip.
fn pool_states(inject: Inject, clips: &[Clip], sequences: &[Sequence]) -> Vec<PoolState> {
    let why = |pool: Pool| {
        if let Err(sentence) = pool.defined(inject) {
            return Some(sentence.to_owned());
        }
        let empty = sequences.iter().find(|sequence| pool.positions(&sequence.slots).is_empty())?;
        Some(format!("clip `{}` has no position for it", clips[empty.clip].clip_id))
    };
    Pool::ALL.map(|pool| PoolState { pool, undefined: why(pool) }).to_vec()
}

/// One table `[clips, hidden]` per pool and layer, pools outermost.
fn forward(
    reader: &Reader,
    sequences: &[Sequence],
    prepared: &[injection::Prepared],
    pools: &[Pool],
    layers: usize,
    size: usize,
    context: &Context,
) -> Result<Vec<Array<f32>>> {
    let hidden = reader.gemma.config().hidden;
    let mut tables =
        vec![Array::new([prepared.len(), hidden], vec![0.0; prepared.len() * hidden]); pools.len() * layers];
    let mut done = 0;
    for chosen in injection::by_length(prepared, size) {
        let (batch, inputs) = reader.inputs(prepared, &chosen);
        let samples: Vec<&Sequence> = chosen.iter().map(|&sample| &sequences[sample]).collect();
        let weights =
            Tensor::<3>::from_data(pooling::weights(&samples, pools, batch.shape().1), &reader.gemma.device());
        for (layer, states) in reader.gemma.hidden_states(inputs).into_iter().enumerate() {
            let values = material::downloaded(pooling::pooled(weights.clone(), states))?;
            for (row, values) in values.chunks(hidden).enumerate() {
                let (sample, pool) = (chosen[row / pools.len()], row % pools.len());
                let table = &mut tables[pool * layers + layer];
                table.values[sample * hidden..(sample + 1) * hidden].copy_from_slice(values);
            }
        }
        done += chosen.len();
        context.progress(done as u64, prepared.len() as u64, "clip")?;
    }
    match tables.iter().any(|table| table.values.iter().any(|value| !value.is_finite())) {
        true => Err(StageError::hint(
            "a hidden state is not finite",
            "look at the projector's training (`metrics.jsonl`): it may have diverged",
        )),
        false => Ok(tables),
    }
}

fn write_clips(context: &Context, clips: &[Clip]) -> Result<()> {
    let path = context.folder().join("clips.csv");
    let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
    out.write_record(["clip_id", "split", "group", "row"]).map_err(|error| broken(&path, &error))?;
    for (row, clip) in clips.iter().enumerate() {
        let split = clip.split.as_deref().unwrap_or("");
        out.write_record([clip.clip_id.as_str(), split, clip.cluster(), &row.to_string()])
            .map_err(|error| broken(&path, &error))?;
    }
    out.flush().map_err(StageError::io(&path))
}
