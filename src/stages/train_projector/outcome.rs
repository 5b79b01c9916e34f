//! What a training begins with and what it leaves: the first weights, the trained ones, constants and social tokens.

use burn::tensor::Device;

use super::Config;
use super::trainer::Snapshot;
use crate::models::language::LanguageModel;
use crate::models::projector::{Projector, ProjectorConfig, gain_out};
use crate::npy::{self, Array};
use crate::social::injection::Bank;
use crate::social::material::{self, Description, Source, Trained};
use crate::social::packs::{Packs, write_json};
use crate::social::prompt::{EmbeddingScale, Inject};
use crate::stages::{Context, Inputs, Result, StageError};
use crate::stats::random::Streams;

/// The projector of `init`, which must fit, or random weights.
pub(super) fn first_projector(
    config: &Config,
    inputs: &Inputs,
    language: &LanguageModel,
    packs: &Packs,
    streams: &Streams,
    device: &Device,
) -> Result<Projector> {
    let output = language.gemma.config().hidden;
    let shape = ProjectorConfig {
        layers: config.layers,
        hidden: if config.hidden == 0 { output } else { config.hidden },
        dropout: config.dropout,
        epsilon: config.norm_epsilon,
        clamp: (config.norm_clamp > 0.0).then_some(config.norm_clamp),
        ..ProjectorConfig::original(packs.dim(), output)
    };
    let Some(given) = inputs.optional("init") else {
        let scale =
            if config.embedding_scale == EmbeddingScale::Before { language.gemma.embedding_scale() } else { 1.0 };
        let gain = gain_out(language.gemma.embedding_matrix()) * scale;
        return Ok(Projector::init(&shape, gain, streams, device));
    };
    let projector = Trained::load(&given.path, device)?.projector;
    let found = projector.config();
    let same = (found.layers, found.input, found.output) == (shape.layers, shape.input, shape.output);
    if same && (config.hidden == 0 || found.hidden == config.hidden) {
        return Ok(projector.with_norms(shape.epsilon, shape.clamp));
    }
    Err(StageError::hint(
        format!(
            "the projector of `init` has {:?} layers of {} → {} → {}, this stage wants {:?} of {} → {} → {}",
            found.layers,
            found.input,
            found.hidden,
            found.output,
            shape.layers,
            shape.input,
            shape.hidden,
            shape.output
        ),
        "set `layers` and `hidden` to those of `init`, and use the same encoder and language model",
    ))
}

/// What the projector must be able to tell of its training.
pub(super) struct Origin {
    /// Digest of the language model.
    pub language: String,
    /// Clips trained on.
    pub clips: Vec<String>,
}

/// Writes the weights, which must be finite, what they are, the constants that they read, and the social tokens of the training clips.
pub(super) fn save(
    config: &Config,
    model: &Snapshot,
    bank: &Bank,
    packs: &Packs,
    places: &[usize],
    origin: Origin,
    context: &Context,
) -> Result<()> {
    let folder = context.folder();
    let weights = model.projector.named_values();
    if let Some((name, _)) = weights.iter().find(|(_, data)| data.iter::<f32>().any(|value| !value.is_finite())) {
        return Err(StageError::hint(
            format!("the trained weight `{name}` is not finite"),
            "lower `lr`, keep `clip` at 1, and look at `metrics.jsonl`",
        ));
    }
    model.projector.save(&folder.join("projector.safetensors"))?;
    let settings = serde_json::to_value(config).map_err(|error| StageError::new(error.to_string()))?;
    let description = Description {
        shape: model.projector.config().clone(),
        source: config.source,
        inject: config.inject,
        settings,
        language: Some(origin.language),
        trained_on: origin.clips,
    };
    write_json(&folder.join("projector.json"), &description)?;
    let constants = match (&model.constants, config.source) {
        (Some(constants), _) => Some(constants.clone()),
        (None, Source::Mean) => Some(bank.vectors.clone()),
        (None, _) => None,
    };
    if let Some(constants) = &constants {
        npy::write(&folder.join("constants.npy"), constants)?;
    }
    let trained = Trained::load(folder, &model.projector.device().without_autodiff())?;
    let tokens = social_tokens(config.inject, &trained, packs, places)?;
    let named: Vec<(&str, &Array<f32>)> = tokens.iter().map(|(name, array)| (*name, array)).collect();
    Ok(npy::write_npz(&folder.join("social_tokens.npz"), named)?)
}

/// The projected vectors of the training clips: `global` `[clips, hidden]` in the order of the text, `local`
/// `[locals, hidden]` in the order of the packs; of constants one row each, of noise one per clip.
fn social_tokens(
    inject: Inject,
    trained: &Trained,
    packs: &Packs,
    places: &[usize],
) -> Result<Vec<(&'static str, Array<f32>)>> {
    let device = trained.projector.device();
    let project = |rows: Vec<&[f32]>| -> Result<Array<f32>> {
        let (count, hidden) = (rows.len(), trained.projector.config().output);
        let mut values = Vec::with_capacity(count * hidden);
        for rows in rows.chunks(1024) {
            let input = Array::new([rows.len(), rows[0].len()], rows.concat());
            values.extend(material::downloaded(trained.projector.forward(material::uploaded(&input, &device), None))?);
        }
        Ok(Array::new([count, hidden], values))
    };
    let is_noise = trained.description.as_ref().is_some_and(|description| description.source == Source::Noise);
    let bank = trained.bank(packs)?;
    let locals = || places.iter().flat_map(|&clip| &packs.clips[clip].locals).map(|local| packs.locals.row(local.row));
    let rows = |global: bool| match (&trained.constants, global) {
        (Some(constants), true) => vec![constants.row(0)],
        (Some(constants), false) => (1..constants.shape[0]).map(|row| constants.row(row)).collect(),
        (None, _) if is_noise => places.iter().map(|&clip| bank.vectors.row(clip)).collect(),
        (None, true) => places.iter().map(|&clip| packs.global.row(clip)).collect(),
        (None, false) => locals().collect(),
    };
    let mut tokens = Vec::new();
    if inject.global() {
        tokens.push(("global", project(rows(true))?));
    }
    if inject.local() {
        tokens.push(("local", project(rows(false))?));
    }
    Ok(tokens)
}
