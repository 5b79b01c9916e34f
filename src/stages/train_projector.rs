//! `train_projector`: next-token training of the projector through the frozen language model.
//!
//! The language model stays on the plain device and gives −ln p of the labelled tokens with the gradient at its inputs;
//! only the projector (and the constants of `source = "constant"`) is on the autodiff tape, and takes that gradient on
//! by the chain rule. The loss of a step is the mean over the labelled tokens of its batch. Order, dropout and initial
//! values come from streams named by seed, epoch and step. State between steps is weights, optimizer, epoch and step.

mod config;
mod outcome;
mod schedule;
mod trainer;

use std::path::Path;

use burn::module::{Module, Param};

use super::checkpoint::Checkpoints;
use super::estimate::{Passes, social};
use super::scene_packs::pos_set;
use super::{Context, Estimate, Expected, Inputs, Result, Stage, StageError, Summary, Upstream};
use crate::models::optimizer::AdamW;
use crate::social::injection::{self, Bank};
use crate::social::material::{self, Source};
use crate::social::prompt::{Inject, Samples, Tags};
use crate::social::samples::{self, Sequence};
use crate::social::transcripts::{self, Clip};
use crate::stats::random::Streams;
pub use config::Config;
use config::{caption_tag, context_turns, epochs, warmup};
use outcome::{Origin, first_projector, save};
use schedule::{Losses, Schedule};
use trainer::{Trainable, Trainer};

/// See the module.
pub struct TrainProjector;

impl Stage for TrainProjector {
    const KIND: &'static str = "train_projector";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str =
        "Trains the projector that turns a clip's vectors into social tokens, through the frozen language model";
    const GIVES: &'static [&'static str] = &["projector"];
    const ON_DEVICE: bool = true;
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &Upstream) {
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
        }
    }

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        let (text, network) = (inputs.of("text"), inputs.of("language").network);
        let sequences = text.clips_in(&config.split);
        let batch = config.batch as u64;
        let repeats = match sequences.filter(|_| config.steps > 0) {
            Some(sequences) => (config.steps * batch) as f64 / sequences.max(1) as f64,
            None => config.epochs as f64,
        };
        let social = social(config.inject, text.words);
        let passes =
            Passes { network: network.as_ref(), sequences, words: text.words, social, batch, repeats, backward: true };
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
        let language = material::language(inputs, context)?;
        let plain = language.gemma.device();
        let clips = load_clips(config, inputs)?;
        let packs = material::packs(inputs, config.inject, &clips)?;
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
        };
        let prepared = injection::prepare(&sequences, Some(&bank), &places, &places, language.pad)?;
        let streams = Streams::new(config.seed, Self::KIND);
        let tracked = plain.clone().autodiff();
        let constants = (config.source == Source::Constant)
            .then(|| Param::from_tensor(material::uploaded(&bank.vectors, &tracked)));
        let mut trainer = Trainer {
            config,
            language: &language,
            prepared: &prepared,
            vectors: material::uploaded(&bank.vectors, &plain),
            schedule: Schedule::of(config, prepared.len()),
            model: Trainable {
                projector: first_projector(config, inputs, &language, &packs, &streams, &tracked)?,
                constants,
            },
            optimizer: AdamW::new(config.optimizer_settings()),
            streams,
            tracked,
        };
        let name = |sample: usize| {
            let sequence: &Sequence = &sequences[sample];
            format!("clip `{}`, utterance {}", clips[sequence.clip].clip_id, sequence.utterance)
        };
        let mut checkpoints = Checkpoints::new(context);
        let mut losses = Losses::default();
        let mut begin = 0;
        if let Some((step, folder)) = checkpoints.resume()? {
            begin = step;
            losses = trainer.resume(&folder, context)?;
        }
        let mut order = Vec::new();
        for step in begin..trainer.schedule.total {
            let (epoch, place) = (step / trainer.schedule.per_epoch, (step % trainer.schedule.per_epoch) as usize);
            if place == 0 || order.is_empty() {
                order = trainer.streams.at(epoch, 0, "order").permutation(prepared.len());
            }
            let chosen = &order[place * config.batch..((place + 1) * config.batch).min(order.len())];
            losses.last = trainer.step(epoch, step, chosen, &name, context)?;
            losses.first.get_or_insert(losses.last);
            let write = |folder: &Path| trainer.keep(folder, &losses, context);
            checkpoints.advance(step + 1, trainer.schedule.total, write)?;
        }
        let model = trainer.model;
        let origin = Origin {
            language: inputs.get("language")?.digest.clone(),
            clips: clips.iter().map(|clip| clip.clip_id.clone()).collect(),
        };
        save(config, &model, &bank, &packs, &places, origin, context)?;
        let mut summary = Summary::new();
        summary.insert("first_loss".into(), losses.first.into());
        summary.insert("last_loss".into(), losses.last.into());
        summary.insert("steps".into(), trainer.schedule.total.into());
        summary.insert("samples".into(), prepared.len().into());
        summary.insert("samples_without_tokens".into(), dropped.into());
        summary.insert("parameters".into(), model.num_params().into());
        Ok(summary)
    }
}

fn load_clips(config: &Config, inputs: &Inputs) -> Result<Vec<Clip>> {
    let selection = material::selection(inputs, &config.split, config.caption_index);
    transcripts::load(&inputs.get("text")?.path, &selection)
}

/// Samples with something to predict and a social token that stands before some of it; and how many have not.
fn worth_training(sequences: Vec<Sequence>) -> (Vec<Sequence>, usize) {
    let all = sequences.len();
    let teaches = |sequence: &Sequence| {
        let first = sequence.slots.iter().position(|slot| slot.id().is_none());
        let last = sequence.targets.last().map(|target| target.position);
        matches!((first, last), (Some(first), Some(last)) if first < last)
    };
    let kept: Vec<Sequence> = sequences.into_iter().filter(teaches).collect();
    let dropped = all - kept.len();
    (kept, dropped)
}

#[cfg(test)]
mod tests;
