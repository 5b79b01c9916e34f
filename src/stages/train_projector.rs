//! `train_projector`: next-token training of the projector through the frozen language model.
//!
//! The language model stays on the plain device and gives −ln p of the labelled tokens with the gradient at its inputs;
//! only the projector (and the constants of `source = "constant"`) is on the autodiff tape, and takes that gradient on
//! by the chain rule. The loss of a step is the mean over the labelled tokens of its batch. Order, dropout and initial
//! values come from streams named by seed, epoch and step. State between steps is weights, optimizer, epoch and step.

mod config;
mod original;
mod outcome;
mod schedule;
mod trainer;
mod validation;

use std::collections::{BTreeSet, HashSet};

use burn::module::{Module, Param};

use super::checkpoint::Checkpoints;
use super::estimate::{Passes, social};
use super::scene_packs::pos_set;
use super::{Context, Estimate, Expected, Inputs, Result, Stage, StageError, Summary, Upstream};
use crate::models::optimizer::AdamW;
use crate::models::projector::Layers;
use crate::social::injection::{self, Bank};
use crate::social::material::{self, Source};
use crate::social::pairing::Pairing;
use crate::social::prompt::{Inject, Samples, Tags};
use crate::social::samples::{self, Sequence, Slot};
use crate::social::transcripts::{self, Clip};
use crate::social::unknown;
use crate::stats::random::Streams;
pub use config::{Config, Keep};
use config::{caption_tag, context_turns, dropout, epochs, norm_epsilon, warmup};
use outcome::{Origin, first_projector, save};
use schedule::{Losses, Schedule};
use trainer::{Trainable, Trainer};
use validation::Validation;

/// See the module.
pub struct TrainProjector;

impl Stage for TrainProjector {
    const KIND: &'static str = "train_projector";
    const VERSION: u32 = 4;
    const SUMMARY: &'static str =
        "Trains the projector that turns a clip's vectors into social tokens, through the frozen language model";
    const GIVES: &'static [&'static str] = &["projector"];
    const ON_DEVICE: bool = true;
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &Upstream) {
        if config.source == Source::ConstantByPlace && config.inject == Inject::Global {
            config.source = Source::Constant;
        }
        if matches!(config.source, Source::Constant | Source::ConstantByPlace | Source::Mean) {
            config.pairing = Pairing::Right;
        }
        if config.pairing == Pairing::Right {
            config.pairing_seed = 0;
        }
        if config.layers == Layers::Linear {
            (config.hidden, config.dropout) = (0, dropout());
        }
        if config.steps > 0 {
            config.epochs = epochs();
        }
        if config.warmup_steps.is_some() {
            config.warmup = warmup();
        }
        if config.tags == Tags::None || config.samples == Samples::Utterance {
            config.caption_tag = caption_tag();
        }
        if config.samples == Samples::Utterance {
            config.tags = Tags::None;
        }
        if config.samples != Samples::NextUtterance {
            config.context_turns = context_turns();
            config.chunk_words = 0;
            config.chunk_seconds = 0.0;
        }
        if config.samples != Samples::NextWord {
            config.one_pass = false;
        }
        if config.checkpoint == Keep::BestOrLast {
            config.checkpoint = if config.validation.is_some() { Keep::Best } else { Keep::Last };
        }
        if config.layers == Layers::Mlp {
            config.norm_epsilon = norm_epsilon();
        }
        if matches!(config.layers, Layers::Mlp | Layers::LayerNorm) {
            config.norm_clamp = 0.0;
        }
    }

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        let (text, network) = (inputs.of("text"), inputs.of("language").network);
        let sequences = text.clips_in(&config.split);
        let batch = config.batch as u64;
        let samples = text.samples(&config.prompt());
        let social = social(config.inject, text.words);
        let (network_size, words) = (network.as_ref(), text.words);
        let epochs = config.epochs as f64;
        let passes =
            Passes { network: network_size, sequences, words, social, batch, samples, repeats: epochs, backward: true };
        let passes = passes.in_steps(config.steps, config.accumulate as u64);
        let mut estimate = passes.estimate();
        if let (Some(network), Some(width)) = (network, inputs.of("packs").width) {
            let middle = if config.hidden > 0 { config.hidden as u64 } else { network.hidden };
            let projector = (width + 1) * middle + (middle + 1) * network.hidden + 2 * (width + network.hidden);
            estimate.parameters = Some(network.parameters + projector);
        }
        estimate
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        if config.inject == Inject::None {
            return Err(StageError::hint(
                "with `inject = \"none\"` there is nothing to train",
                "set `inject` to `global`, `local` or `full`; a stage that evaluates `none` needs no projector",
            ));
        }
        let language = material::language_in(config.precision, inputs, context)?;
        let plain = language.gemma.device();
        let clips = load_clips(config, inputs, &config.split)?;
        let held_out = held_out(config, inputs, &clips)?;
        let every: Vec<Clip> = clips.iter().chain(&held_out).cloned().collect();
        let packs = material::packs(inputs, config.inject, &every)?;
        let (places, prompt) = (material::places(&packs, &clips)?, config.prompt());
        let locals = |clip: &str| material::locals_of(Some(&packs), clip);
        let sequences = samples::build(&clips, &prompt, &pos_set(), &*language, locals)?;
        let (sequences, dropped) = worth_training(sequences);
        if sequences.is_empty() {
            return Err(StageError::hint(
                format!("none of {dropped} samples has a social token before something to predict"),
                "the words of this split may lack parts of speech of `pos_set`: give `pos` for them, or set \
                 `inject = \"global\"`",
            ));
        }
        let bank = match config.source {
            Source::Features => Bank::of_features(&packs),
            Source::Constant | Source::Mean => Bank::of_constants(&packs, Bank::means(&packs, &places)),
            Source::ConstantByPlace => Bank::of_constants(&packs, Bank::means_by_place(&packs, &places)),
            Source::Noise => Bank::of_noise(&packs, config.seed),
        };
        let partners = config.pairing.sources(&clips, config.pairing_seed)?;
        let sources: Vec<usize> = partners.iter().map(|&clip| places[clip]).collect();
        let prepared = injection::prepare(&sequences, Some(&bank), &places, &sources, language.pad)?;
        let validation = match held_out.is_empty() {
            true => None,
            false => {
                let sequences = samples::build(&held_out, &prompt, &pos_set(), &*language, locals)?;
                let places = material::places(&packs, &held_out)?;
                let partners = config.pairing.sources(&held_out, config.pairing_seed).map_err(|error| match error {
                    StageError::Invalid { message, hint } => {
                        StageError::Invalid { message: format!("of the clips of `validation`: {message}"), hint }
                    }
                    other => other,
                })?;
                let sources: Vec<usize> = partners.iter().map(|&clip| places[clip]).collect();
                let prepared = injection::prepare(&sequences, Some(&bank), &places, &sources, language.pad)?;
                let clip = |sequence: &Sequence| held_out[sequence.clip].clip_id.clone();
                Some(Validation { prepared, clips: sequences.iter().map(clip).collect() })
            }
        };
        let mut summary = Summary::new();
        unknown::tell(language.unknown, &clips, &sequences, &mut summary);
        let streams = Streams::new(config.seed, Self::KIND);
        let tracked = plain.clone().autodiff();
        let constants = matches!(config.source, Source::Constant | Source::ConstantByPlace)
            .then(|| Param::from_tensor(material::uploaded(&bank.vectors, &tracked)));
        let has = |sequence: &Sequence, is: fn(&Slot) -> bool| sequence.slots.iter().any(is);
        let tokens = |sequence: &Sequence| {
            (has(sequence, |slot| *slot == Slot::Global), has(sequence, |slot| matches!(slot, Slot::Local(_))))
        };
        let mut trainer = Trainer {
            config,
            language: &language,
            prepared: &prepared,
            tokens: sequences.iter().map(tokens).collect(),
            validation,
            vectors: material::uploaded(&bank.vectors, &plain),
            schedule: Schedule::of(config, prepared.len()),
            model: Trainable {
                projector: first_projector(config, inputs, &language, &packs, &streams, &tracked)?,
                constants,
            },
            optimizer: AdamW::new(config.optimizer_settings()),
            losses: Losses::default(),
            best: None,
            streams,
            tracked,
        };
        let name = |sample: usize| {
            let sequence: &Sequence = &sequences[sample];
            format!("clip `{}`, utterance {}", clips[sequence.clip].clip_id, sequence.utterance)
        };
        let steps = train(&mut trainer, &name, context)?;
        let (losses, schedule) = (&trainer.losses, &trainer.schedule);
        if config.original_metrics {
            original::write(context.folder(), config.inject, schedule.per_epoch)?;
        }
        let best = losses.best().filter(|_| config.checkpoint == Keep::Best);
        summary.insert("first_loss".into(), losses.first.into());
        summary.insert("last_loss".into(), losses.last.into());
        summary.insert("steps".into(), steps.into());
        summary.insert("samples".into(), sequences.iter().map(|sequence| sequence.samples).sum::<usize>().into());
        summary.insert("samples_without_tokens".into(), dropped.into());
        summary.insert("parameters".into(), trainer.model.num_params().into());
        if let Some(&(at, loss)) = best.map(|best| &losses.validation[best]).or(losses.validation.last()) {
            summary.insert("validation_loss".into(), loss.into());
            summary.insert("kept_step".into(), at.into());
            summary.insert("stopped_early".into(), (steps < schedule.total).into());
        }
        let model = match trainer.best.take() {
            Some(best) => best,
            None => trainer.snapshot()?,
        };
        let origin = Origin {
            language: inputs.get("language")?.digest.clone(),
            clips: clips.iter().map(|clip| clip.clip_id.clone()).collect(),
        };
        save(config, &model, &bank, &packs, &places, origin, context)?;
        config.pairing.write(context.folder(), &clips, &partners)?;
        Ok(summary)
    }
}

/// Takes the steps, from the last checkpoint if there is one; returns how many were taken in all.
fn train(trainer: &mut Trainer, name: &dyn Fn(usize) -> String, context: &Context) -> Result<u64> {
    let mut checkpoints = Checkpoints::new(context);
    let mut step = 0;
    if let Some((taken, folder)) = checkpoints.resume()? {
        step = taken;
        trainer.resume(&folder, context)?;
    }
    let (total, per_epoch, per_step) = (trainer.schedule.total, trainer.schedule.per_epoch, trainer.schedule.samples);
    let mut order = Vec::new();
    loop {
        if let Err(error) = trainer.validate(step, context) {
            if matches!(error, StageError::Cancelled) {
                checkpoints.advance(step, total, |folder| trainer.keep(folder, context))?;
            }
            return Err(error);
        }
        if step == total || trainer.losses.is_exhausted(trainer.config.patience) {
            return Ok(step);
        }
        let (epoch, place) = (step / per_epoch, (step % per_epoch) as usize);
        if place == 0 || order.is_empty() {
            order = trainer.streams.at(epoch, 0, "order").permutation(trainer.prepared.len());
        }
        let chosen = &order[place * per_step..((place + 1) * per_step).min(order.len())];
        trainer.step(epoch, step, chosen, name, context)?;
        step += 1;
        checkpoints.advance(step, total, |folder| trainer.keep(folder, context))?;
    }
}

fn load_clips(config: &Config, inputs: &Inputs, split: &str) -> Result<Vec<Clip>> {
    let selection = material::selection(inputs, split, config.caption_index);
    transcripts::load(&inputs.get("text")?.path, &selection)
}

/// The clips of the validation split, none of which may be trained on; empty without one.
fn held_out(config: &Config, inputs: &Inputs, clips: &[Clip]) -> Result<Vec<Clip>> {
    let Some(split) = &config.validation else {
        if config.patience > 0 || config.checkpoint == Keep::Best {
            return Err(StageError::hint(
                "`checkpoint = \"best\"` and `patience` go by the validation loss, and there is no validation",
                "set `validation` to a split, or `checkpoint = \"last\"` and `patience = 0`",
            ));
        }
        return Ok(Vec::new());
    };
    let held_out = load_clips(config, inputs, split)?;
    let trained: HashSet<&str> = clips.iter().map(|clip| clip.clip_id.as_str()).collect();
    let both = held_out.iter().filter(|clip| trained.contains(clip.clip_id.as_str())).count();
    if both > 0 {
        return Err(StageError::hint(
            format!("{both} clips of the validation split `{split}` are trained on as split `{}`", config.split),
            "let `split` and `validation` name two splits without a clip in common",
        ));
    }
    Ok(held_out)
}

/// Samples with something to predict and a social token that stands before some of it, and how many have not. Of
/// samples that are read in one pass only such are left, so that losses are means over the same tokens either way.
fn worth_training(sequences: Vec<Sequence>) -> (Vec<Sequence>, usize) {
    let all: usize = sequences.iter().map(|sequence| sequence.samples).sum();
    let taught = |mut sequence: Sequence| {
        let first = sequence.slots.iter().position(|slot| slot.is_social())?;
        if sequence.samples > 1 {
            // One word is one sample.
            let words = |sequence: &Sequence| {
                sequence.targets.iter().filter_map(|target| target.word).collect::<BTreeSet<_>>().len()
            };
            let before = words(&sequence);
            let start = sequence.targets.iter().position(|target| first < target.position);
            sequence.targets.drain(..start.unwrap_or(sequence.targets.len()));
            sequence.samples -= before - words(&sequence);
        }
        sequence.targets.last().is_some_and(|target| first < target.position).then_some(sequence)
    };
    let kept: Vec<Sequence> = sequences.into_iter().filter_map(taught).collect();
    let dropped = all - kept.iter().map(|sequence| sequence.samples).sum::<usize>();
    (kept, dropped)
}

#[cfg(test)]
mod tests;
