//! `embed`: what the language model makes of each clip, pooled over positions.
//!
//! One forward pass gives every pool of every layer, and of the outputs of modules inside the layers if they are asked
//! for; `rsa` picks. Layers are numbered as Hugging Face numbers hidden states (`0` is what enters the first layer);
//! `last` is the last layer's output after the final norm. Everything is pooled as soon as it is there, so no more than
//! one output of one batch is held.

use std::collections::{BTreeSet, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use burn::tensor::Tensor;

use super::as_trained::inherit;
use super::estimate::Passes;
use super::perplexity::caption_index;
use super::subject::{ClipSources, Subject};
use super::{Context, Estimate, Expected, Inputs, Result, Stage, StageError, Summary, Upstream};
use crate::models::gemma::modules::{Module, Part};
use crate::models::gemma::{GemmaConfig, Output};
use crate::models::language::Precision;
use crate::npy::{self, Array};
use crate::social::columns::broken;
use crate::social::injection;
use crate::social::material::{self, Reader, Trained};
use crate::social::packs::write_json;
use crate::social::pooling::{self, Pool, Positions};
use crate::social::prompt::{EmbeddingScale, Inject, Prompt};
use crate::social::samples::Sequence;
use crate::social::seen;
use crate::social::transcripts::{self, Clip};

/// See the module.
pub struct Embed;

/// Whose outputs are pooled beside the hidden states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Modules {
    /// A set of them.
    Set(ModuleSet),
    /// These, by Hugging Face's names (`layers.16.self_attn.v_proj`, `lm_head`, `logits`) or the original's labels
    /// (`Linear-6-131`).
    Named(Vec<String>),
}

/// A set of modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ModuleSet {
    /// None: hidden states only.
    Layers,
    /// Every projection, norm and activation of every layer. `lm_head` and `logits` are as wide as the vocabulary and
    /// must be named.
    All,
}

impl Default for Modules {
    fn default() -> Self {
        Self::Set(ModuleSet::Layers)
    }
}

impl Modules {
    /// The modules that are no hidden state by another name.
    fn of(&self, config: &GemmaConfig) -> Result<BTreeSet<Module>> {
        let layers = config.layers();
        match self {
            Self::Set(ModuleSet::Layers) => Ok(BTreeSet::new()),
            Self::Set(ModuleSet::All) => {
                let all = (0..layers).flat_map(|layer| Part::ALL.map(|part| Module::Layer(layer, part)));
                Ok(all.filter(|&module| state_of(module, layers).is_none()).collect())
            }
            Self::Named(names) => {
                let modules = names.iter().map(|name| named(name, layers)).collect::<Result<BTreeSet<_>>>()?;
                Ok(modules.into_iter().filter(|&module| state_of(module, layers).is_none()).collect())
            }
        }
    }
}

fn named(name: &str, layers: usize) -> Result<Module> {
    let hint = format!(
        "name one as `layers.{}.self_attn.v_proj`, or a label of the original as `Linear-6-131`",
        layers.saturating_sub(1)
    );
    let module: Module = name.parse().map_err(|error| StageError::hint(format!("{error}"), hint.as_str()))?;
    match module {
        Module::Layer(layer, _) if layer >= layers => {
            Err(StageError::hint(format!("`{name}` is in layer {layer}, and the model has {layers}"), hint))
        }
        module => Ok(module),
    }
}

/// The hidden state that a module's output is, if it is one.
fn state_of(module: Module, layers: usize) -> Option<String> {
    match module {
        Module::Embedding => Some("0".to_owned()),
        Module::Norm => Some("last".to_owned()),
        Module::Layer(layer, Part::Block) if layer + 1 < layers => Some((layer + 1).to_string()),
        _ => None,
    }
}

/// The name in `layers` of what `text` names: a hidden state, a module, or the original's label of one.
pub fn layer_named(text: &str, layers: &[String]) -> Option<String> {
    if layers.iter().any(|layer| layer == text) {
        return Some(text.to_owned());
    }
    let module: Module = text.parse().ok()?;
    let states = layers.iter().filter(|layer| *layer == "last" || layer.parse::<usize>().is_ok()).count();
    let name = state_of(module, states.saturating_sub(1)).unwrap_or_else(|| module.to_string());
    layers.contains(&name).then_some(name)
}

/// Settings of `embed`. What is left out of `inject` to `max_tokens` is as in the training of the projector.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is read, and by which models.
    #[serde(flatten)]
    pub sources: ClipSources,
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
    /// Outputs that are pooled beside the hidden states: `layers` (none), `all`, or a list of modules.
    #[serde(default)]
    pub modules: Modules,
    /// The pools that are kept, if not all: worth it with `modules = "all"`, which gives many vectors.
    #[serde(default)]
    pub pools: Option<Vec<Pool>>,
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
    /// Names of the layers, in order: hidden states, then modules.
    pub layers: Vec<String>,
    /// Length of a hidden state's vector; those of modules have their own.
    pub hidden: usize,
    /// Every pool, and why it is not defined if it is not.
    pub pools: Vec<PoolState>,
}

/// Whether a pool has vectors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolState {
    /// The pool, with or without BOS.
    #[serde(flatten)]
    pub positions: Positions,
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
    const VERSION: u32 = 3;
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
        config.sources.inherit(&mut config.inject, upstream);
        if config.inject == Some(Inject::None) {
            (config.norm_epsilon, config.norm_clamp) = (None, None);
            config.embedding_scale = Some(EmbeddingScale::default());
        }
    }

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        Passes::once(inputs, &config.split, config.inject, config.batch, None).estimate()
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let language = material::language_in(config.precision, inputs, context)?;
        let selection = material::selection(inputs, &config.split, config.caption_index);
        let clips = transcripts::load(&inputs.get("text")?.path, &selection)?;
        let projector = inputs.optional("projector");
        let trained = projector.map(|input| Trained::load(&input.path, &language.gemma.device())).transpose()?;
        let trained = trained.map(|trained| trained.with_norms(config.norm_epsilon, config.norm_clamp));
        let subject = Subject::of_clips(inputs, language, trained, config.inject, clips)?;
        let Subject { inject, clips, .. } = &subject;
        let sequences = subject.whole(&config.prompt(*inject))?;
        let bank = subject.bank()?;
        let prepared = subject.prepared(&sequences, bank.as_ref())?;
        let reader = subject.reader(bank.as_ref(), config.embedding_scale.unwrap_or_default());
        let pools = pool_states(config, *inject, clips, &sequences);
        let defined: Vec<Positions> =
            pools.iter().filter(|state| state.undefined.is_none()).map(|state| state.positions).collect();
        let shape = subject.language.gemma.config();
        let (hidden, modules) = (shape.hidden, config.modules.of(shape)?);
        let layers = layer_names(shape.layers(), &modules);
        let table = forward(&reader, &sequences, &prepared, (&defined, &modules), config.batch, context)?;
        let wanted = defined.iter().flat_map(|pool| layers.iter().map(|layer| (pool.name(), layer)));
        let named: Vec<(String, &Array<f32>)> = wanted
            .filter_map(|(pool, layer)| {
                let table = &table.iter().find(|((of, name), _)| *of == pool && name == layer)?.1;
                Some((format!("{pool}.{layer}"), table))
            })
            .collect();
        let path = context.folder().join("embeddings.npz");
        npy::write_npz(&path, named.iter().map(|(name, array)| (name.as_str(), *array)))?;
        write_clips(context, clips)?;
        if subject.packs().is_some() {
            seen::pass_on(&inputs.get("packs")?.path, context.folder())?;
        }
        let mut summary = Summary::new();
        summary.insert("clips".into(), clips.len().into());
        summary.insert("layers".into(), layers.len().into());
        summary.insert("hidden".into(), hidden.into());
        if let Some(seen) = subject.social.as_ref().and_then(|(trained, _)| trained.seen(clips)) {
            summary.insert("clips_seen_in_training".into(), seen.into());
        }
        write_json(&context.folder().join("embeddings.json"), &Description { inject: *inject, layers, hidden, pools })?;
        Ok(summary)
    }
}

/// `0`, `1`, …, `last`: the names of `layers + 1` hidden states; then the modules'.
fn layer_names(layers: usize, modules: &BTreeSet<Module>) -> Vec<String> {
    let states = (0..layers).map(|layer| layer.to_string()).chain(["last".to_owned()]);
    states.chain(modules.iter().map(Module::to_string)).collect()
}

/// Which of the wanted pools have a position in every clip.
fn pool_states(config: &Config, inject: Inject, clips: &[Clip], sequences: &[Sequence]) -> Vec<PoolState> {
    let why = |positions: Positions| {
        if let Err(sentence) = positions.pool.defined(inject) {
            return Some(sentence.to_owned());
        }
        let empty = sequences.iter().find(|sequence| positions.of(&sequence.slots).is_empty())?;
        Some(format!("clip `{}` has no position for it", clips[empty.clip].clip_id))
    };
    let wanted = |positions: &Positions| config.pools.as_ref().is_none_or(|pools| pools.contains(&positions.pool));
    let positions = Positions::all().into_iter().filter(wanted);
    positions.map(|positions| PoolState { positions, undefined: why(positions) }).collect()
}

/// Tables `[clips, width]` by name of pool and layer.
struct Tables<'a> {
    clips: usize,
    pools: &'a [Positions],
    tables: HashMap<(usize, String), Array<f32>>,
}

impl Tables<'_> {
    /// Takes pooled vectors `[samples, pools, width]` of the chosen samples.
    fn put(&mut self, layer: &str, chosen: &[usize], pooled: Tensor<3>) -> Result<()> {
        let width = pooled.dims()[2];
        let values = material::downloaded(pooled)?;
        for (row, values) in values.chunks(width).enumerate() {
            let (sample, pool) = (chosen[row / self.pools.len()], row % self.pools.len());
            let clips = self.clips;
            let table = self.tables.entry((pool, layer.to_owned()));
            let table = table.or_insert_with(|| Array::new([clips, width], vec![0.0; clips * width]));
            table.values[sample * width..(sample + 1) * width].copy_from_slice(values);
        }
        Ok(())
    }
}

/// Names of pool and layer, and their table.
type NamedTable = ((String, String), Array<f32>);

/// The tables of every pool and layer, by their names.
fn forward(
    reader: &Reader,
    sequences: &[Sequence],
    prepared: &[injection::Prepared],
    (pools, modules): (&[Positions], &BTreeSet<Module>),
    size: usize,
    context: &Context,
) -> Result<Vec<NamedTable>> {
    let gemma = reader.gemma;
    let names = layer_names(gemma.config().layers(), &BTreeSet::new());
    let mut tables = Tables { clips: prepared.len(), pools, tables: HashMap::new() };
    let mut done = 0;
    for chosen in injection::by_length(prepared, size) {
        let (batch, inputs) = reader.inputs(prepared, &chosen);
        let samples: Vec<&Sequence> = chosen.iter().map(|&sample| &sequences[sample]).collect();
        let weights = Tensor::<3>::from_data(pooling::weights(&samples, pools, batch.shape().1), &gemma.device());
        gemma.visit(inputs, modules, |output, tensor| {
            let name = match output {
                Output::State(number) => names[number].clone(),
                Output::Of(module) => module.to_string(),
            };
            if matches!(output, Output::State(number) if number + 1 == names.len()) {
                vocabulary(reader, modules, &weights, &tensor, &chosen, &mut tables)?;
            }
            tables.put(&name, &chosen, pooling::pooled(weights.clone(), tensor))
        })?;
        done += chosen.len();
        context.progress(done as u64, prepared.len() as u64, "clip")?;
    }
    let mut tables: Vec<((usize, String), Array<f32>)> = tables.tables.into_iter().collect();
    tables.sort_by(|(one, _), (other, _)| one.cmp(other));
    match tables.iter().any(|(_, table)| table.values.iter().any(|value| !value.is_finite())) {
        true => Err(StageError::hint(
            "a hidden state is not finite",
            "look at the projector's training (`metrics.jsonl`): it may have diverged",
        )),
        false => Ok(tables.into_iter().map(|((pool, layer), table)| ((pools[pool].name(), layer), table)).collect()),
    }
}

/// Pools the outputs of the vocabulary head, if wanted, sample by sample: they are as wide as the vocabulary. The head is
/// linear, so its pooled output is its output for pooled states; the soft cap of the logits is not.
fn vocabulary(
    reader: &Reader,
    modules: &BTreeSet<Module>,
    weights: &Tensor<3>,
    last: &Tensor<3>,
    chosen: &[usize],
    tables: &mut Tables,
) -> Result<()> {
    let gemma = reader.gemma;
    for (place, &sample) in chosen.iter().enumerate() {
        let weights = weights.clone().narrow(0, place, 1);
        let states = last.clone().narrow(0, place, 1);
        let [_, tokens, hidden] = states.dims();
        if modules.contains(&Module::Head) {
            let pooled = pooling::pooled(weights.clone(), states.clone()).reshape([tables.pools.len(), hidden]);
            tables.put(&Module::Head.to_string(), &[sample], gemma.raw_logits(pooled).unsqueeze::<3>())?;
        }
        if modules.contains(&Module::Logits) {
            let logits = gemma.logits(states.reshape([tokens, hidden])).unsqueeze::<3>();
            tables.put(&Module::Logits.to_string(), &[sample], pooling::pooled(weights, logits))?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_by_every_name_that_they_have() {
        let config = GemmaConfig { sliding: GemmaConfig::alternating(26), ..GemmaConfig::default() };
        let all = Modules::Set(ModuleSet::All).of(&config).unwrap();
        // 13 parts of 26 layers, but that 25 of them are hidden states by another name.
        assert_eq!(all.len(), 26 * 12 + 1);
        let layers = layer_names(26, &all);
        assert_eq!(layers.len(), 27 + 26 * 12 + 1);
        for (text, name) in [
            ("last", "last"),
            ("norm", "last"),
            ("3", "3"),
            ("embed_tokens", "0"),
            ("layers.2", "3"),
            ("Gemma2DecoderLayer-4-3", "3"),
            ("layers.25", "layers.25"),
            ("Linear-6-131", "layers.16.self_attn.v_proj"),
        ] {
            assert_eq!(layer_named(text, &layers).as_deref(), Some(name), "{text}");
        }
        assert_eq!(layer_named("27", &layers), None);
        assert_eq!(layer_named("lm_head", &layers), None);
        let few: Modules = serde_json::from_str(r#"["Linear-6-131", "lm_head", "layers.2"]"#).unwrap();
        let names: Vec<String> = few.of(&config).unwrap().iter().map(Module::to_string).collect();
        assert_eq!(names, ["layers.16.self_attn.v_proj", "lm_head"]);
        let of = |text: &str| serde_json::from_str::<Modules>(text).unwrap().of(&config);
        assert!(of("\"layers\"").unwrap().is_empty());
        assert!(of(r#"["layers.26.mlp.up_proj"]"#).unwrap_err().to_string().contains("in layer 26"));
        assert!(of(r#"["layer.2"]"#).unwrap_err().to_string().contains("names no module"));
    }
}
