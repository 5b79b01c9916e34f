//! `perplexity`: how well the frozen language model predicts the text of clips, token by token.
//!
//! Leaves −ln p of every labelled token in `targets.csv`; figures are sums of these. Bits per word are the bits of all
//! labelled tokens over the number of words they belong to; bits per caption and per byte (UTF-8, tags not counted) the
//! same over utterances and bytes; the perplexity is exp of the mean −ln p per labelled token. The original sums means
//! over batches weighted by their labelled tokens, which is the same mean. Content and function words are told apart by
//! the text's own parts of speech, and by the built-in tagger's where it has none.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::as_trained::{Reading, Text};
use super::estimate::Passes;
use super::subject::{ClipSources, Subject};
use super::{Context, Estimate, Expected, Inputs, Reference, Result, Stage, StageError, Summary, Upstream, train_lora};
use crate::social::columns::broken;
use crate::social::injection::{self, Bank};
use crate::social::material::{self, Reader, Source, Trained};
use crate::social::packs::Packs;
use crate::social::pairing::Pairing;
use crate::social::prompt::{Inject, Prompt};
use crate::social::samples::{self, Class, Sequence};
use crate::social::tagger;
use crate::social::transcripts::{self, Clip};
use crate::social::unknown;

/// See the module.
pub struct Perplexity;

/// What stands in the places of social tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Substitute {
    /// What the projector makes of the clip's vectors.
    #[default]
    Nothing,
    /// What it makes of the mean vectors of all clips of the packs.
    Mean,
    /// Zero vectors.
    Zero,
}

/// Settings of `perplexity`. What is left out of `inject` to `max_tokens` is as in the training of the projector.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is read, and by which models.
    #[serde(flatten)]
    pub sources: ClipSources,
    /// An adapter of the language model, for the control that was trained on text alone.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["adapter"]))]
    pub adapter: Option<Reference>,
    /// Which social tokens there are; without a projector `none`.
    #[serde(default)]
    pub inject: Option<Inject>,
    /// Whose vectors a clip gets.
    #[serde(default)]
    pub pairing: Pairing,
    /// Draws the pairs of wrong clips.
    #[serde(default)]
    pub pairing_seed: u64,
    /// What stands in the places of social tokens, without training for it.
    #[serde(default)]
    pub substitute: Substitute,
    /// The split to evaluate; `all` is every clip.
    #[serde(default = "split")]
    pub split: String,
    /// Of several captions of a clip this one, from 1; 0 takes all.
    #[serde(default = "caption_index")]
    pub caption_index: usize,
    /// Evaluate clips that the encoder of the vectors was trained on (where its `seen_clips.csv` tells).
    #[serde(default)]
    pub allow_seen_clips: bool,
    /// What text is read.
    #[serde(flatten)]
    pub as_text: Text,
    /// How it is read.
    #[serde(flatten)]
    pub reading: Reading,
    /// Put what the picture shows, in words, before `lead_in`: a control with the truth as text.
    #[serde(default)]
    pub oracle_text: bool,
    /// With `inject = "none"`: begin with BOS whatever `bos` says, as the original's later text-only baseline.
    #[serde(default)]
    pub none_bos: Option<bool>,
    /// Largest mean −ln p per labelled token that `perplexity` is made of (the original: 20); 0 sets no bound.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub perplexity_cap: f64,
    /// Read all `next_word` samples of a caption in one forward pass where that gives the same probabilities.
    #[serde(default = "yes")]
    #[schemars(extend("x-key" = false))]
    pub one_pass: bool,
    /// Samples at once.
    #[serde(default = "batch")]
    #[schemars(range(min = 1), extend("x-key" = false))]
    pub batch: usize,
}

/// The default of every `language`.
pub(super) fn language() -> Reference {
    Reference("model:language".to_owned())
}

fn split() -> String {
    "test".to_owned()
}

/// The default of every `caption_index`.
pub(super) fn caption_index() -> usize {
    1
}

fn batch() -> usize {
    64
}

fn yes() -> bool {
    true
}

impl Config {
    fn prompt(&self, inject: Inject) -> Prompt {
        Prompt { oracle_text: self.oracle_text, one_pass: self.one_pass, ..self.reading.prompt(&self.as_text, inject) }
    }
}

impl Stage for Perplexity {
    const KIND: &'static str = "perplexity";
    const VERSION: u32 = 5;
    const SUMMARY: &'static str = "Scores every token of the text of clips under an inject mode or a control";
    const GIVES: &'static [&'static str] = &["scores"];
    const ON_DEVICE: bool = true;
    type Config = Config;

    fn normalise(config: &mut Config, upstream: &Upstream) {
        config.sources.inherit(&mut config.inject, upstream);
        config.as_text.inherit(upstream);
        config.reading.inherit(upstream, config.inject);
        if config.inject == Some(Inject::None) {
            config.substitute = Substitute::Nothing;
            config.allow_seen_clips = false;
            config.as_text.bos = config.none_bos.or(config.as_text.bos);
        }
        config.none_bos = None;
        if config.inject == Some(Inject::None) || config.substitute != Substitute::Nothing {
            config.pairing = Pairing::Right;
        }
        if config.pairing == Pairing::Right {
            config.pairing_seed = 0;
        }
    }

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        let prompt = config.prompt(config.inject.unwrap_or(Inject::None));
        Passes::once(inputs, &config.split, config.inject, config.batch, Some(&prompt)).estimate()
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let language = material::language_in(config.reading.precision.unwrap_or_default(), inputs, context)?;
        let selection = material::selection(inputs, &config.split, config.caption_index);
        let mut clips = transcripts::load(&inputs.get("text")?.path, &selection)?;
        let coverage = tagger::fill(&mut clips, tagger::Method::Perceptron, tagger::View::Sentence);
        let trained = config.reading.projector(inputs, &language.gemma.device())?;
        let subject = Subject::of_clips(inputs, language, trained, config.inject, clips)?;
        let Subject { language, clips, inject, social, .. } = &subject;
        let mut seen = match social {
            Some((trained, _)) => trained.check_seen(clips, &config.split)?,
            None => None,
        };
        let seen_by_encoder = material::check_encoder(subject.packs(), clips, config.allow_seen_clips)?;
        let sequences = subject.sequences(&config.prompt(*inject))?;
        let bank = match social {
            Some((trained, packs)) => Some(bank(trained, packs, config.substitute)?),
            None => None,
        };
        let places = subject.places()?;
        let sources = match inject {
            Inject::None => places.clone(),
            _ => {
                let partners = config.pairing.sources(clips, config.pairing_seed)?;
                config.pairing.write(context.folder(), clips, &partners)?;
                partners.into_iter().map(|clip| places[clip]).collect()
            }
        };
        let prepared = injection::prepare(&sequences, bank.as_ref(), &places, &sources, language.pad)?;
        let adapted = match inputs.optional("adapter") {
            Some(adapter) => {
                let digest = &inputs.get("language")?.digest;
                let (lora, known) = train_lora::load(&adapter.path, language, digest, clips, &config.split)?;
                seen = Some(seen.unwrap_or(0).max(known));
                Some(language.gemma.adapted(&lora))
            }
            None => None,
        };
        let zeroed = config.substitute == Substitute::Zero;
        let reader = subject.reader(bank.as_ref(), config.reading.embedding_scale.unwrap_or_default());
        let reader = Reader { gemma: adapted.as_ref().unwrap_or(&language.gemma), zeroed, ..reader };
        let count = prepared.len() as u64;
        let scores =
            material::score(&reader, &prepared, config.batch, |done| context.progress(done as u64, count, "sample"))?;
        check(&scores, &sequences, clips)?;
        write(context, clips, &sequences, &scores, |id| language.piece(id).unwrap_or_default())?;
        let mut summary = summary(&sequences, &scores, config.perplexity_cap);
        summary.insert("targets_digest".into(), samples::targets_digest(clips, &sequences).into());
        unknown::tell(language.unknown, clips, &sequences, &mut summary);
        let given = coverage.given as f64 / coverage.words().max(1) as f64;
        summary.insert("pos_given_share".into(), given.into());
        if let Some(seen) = seen {
            summary.insert("clips_seen_in_training".into(), seen.into());
        }
        if let Some(seen) = seen_by_encoder {
            summary.insert("clips_seen_by_encoder".into(), seen.into());
        }
        Ok(summary)
    }
}

/// The vectors that the projector reads, or their means.
fn bank<'a>(trained: &Trained, packs: &'a Packs, substitute: Substitute) -> Result<Bank<'a>> {
    let source = trained.description.as_ref().map_or(Source::Features, |description| description.source);
    match substitute {
        Substitute::Mean if source != Source::Features => Err(StageError::hint(
            "the projector was trained on vectors that are not the packs', so their mean is nothing to it",
            "set `substitute = \"mean\"` only where the projector's `source` is `features`",
        )),
        Substitute::Mean => trained.bank_of_means(packs),
        Substitute::Nothing | Substitute::Zero => trained.bank(packs),
    }
}

fn check(scores: &[Vec<f32>], sequences: &[Sequence], clips: &[Clip]) -> Result<()> {
    match scores.iter().position(|nll| nll.iter().any(|nll| !nll.is_finite())) {
        Some(sample) => Err(StageError::hint(
            format!("a probability in clip `{}` is not finite", clips[sequences[sample].clip].clip_id),
            "look at the projector's training (`metrics.jsonl`): it may have diverged",
        )),
        None => Ok(()),
    }
}

fn write(
    context: &Context,
    clips: &[Clip],
    sequences: &[Sequence],
    scores: &[Vec<f32>],
    piece: impl Fn(u32) -> String,
) -> Result<()> {
    let path = context.folder().join("targets.csv");
    let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
    let exact = sequences.iter().flat_map(|sequence| &sequence.targets).any(|target| target.true_bits.is_some());
    let mut header = vec!["clip_id", "group", "utterance", "target", "word", "token", "piece", "class", "nll"];
    if exact {
        header.extend(["true_bits", "floor_bits"]);
    }
    out.write_record(header).map_err(|error| broken(&path, &error))?;
    for (sequence, scores) in sequences.iter().zip(scores) {
        let clip = &clips[sequence.clip];
        for (target, nll) in sequence.targets.iter().zip(scores) {
            let bits = |bits: Option<f64>| bits.map(|bits| bits.to_string()).unwrap_or_default();
            let mut record = vec![
                clip.clip_id.clone(),
                clip.cluster().to_owned(),
                sequence.utterance.to_string(),
                target.number.to_string(),
                target.word.map(|word| word.to_string()).unwrap_or_default(),
                target.id.to_string(),
                piece(target.id),
                target.class.name().to_owned(),
                nll.to_string(),
            ];
            if exact {
                record.extend([bits(target.true_bits), bits(target.floor_bits)]);
            }
            out.write_record(record).map_err(|error| broken(&path, &error))?;
        }
    }
    out.flush().map_err(StageError::io(&path))
}

/// The figures. `cap` bounds the mean that `perplexity` is made of; 0 does not.
fn summary(sequences: &[Sequence], scores: &[Vec<f32>], cap: f64) -> Summary {
    let (mut words, mut captions) = (BTreeSet::new(), BTreeSet::new());
    let (mut nats, mut targets, mut bytes) = (0.0, 0usize, 0usize);
    let mut classes: BTreeMap<Class, (usize, f64)> = BTreeMap::new();
    for (sequence, scores) in sequences.iter().zip(scores) {
        for (target, &nll) in sequence.targets.iter().zip(scores) {
            nats += f64::from(nll);
            targets += 1;
            bytes += target.bytes;
            let class = classes.entry(target.class).or_default();
            *class = (class.0 + 1, class.1 + f64::from(nll));
            captions.insert((sequence.clip, sequence.utterance));
            words.extend(target.word.map(|word| (sequence.clip, sequence.utterance, word)));
        }
    }
    let bits = nats / std::f64::consts::LN_2;
    let captions = captions.len() as f64;
    let mut summary = Summary::new();
    let mut put = |name: &str, value: f64| summary.insert(name.to_owned(), value.into());
    put("bits_per_word", bits / words.len() as f64);
    put("bits_per_caption", bits / captions);
    put("bits_per_byte", bits / bytes as f64);
    put("bits_per_token", bits / targets as f64);
    let mean = nats / targets as f64;
    put("perplexity", if cap > 0.0 { mean.min(cap) } else { mean }.exp());
    let of_text = |class: &Class| matches!(class, Class::Content | Class::Function | Class::Text);
    let text: Vec<&(usize, f64)> = classes.iter().filter(|(class, _)| of_text(class)).map(|(_, sums)| sums).collect();
    let count: usize = text.iter().map(|sums| sums.0).sum();
    if count > 0 {
        put("text_perplexity", (text.iter().map(|sums| sums.1).sum::<f64>() / count as f64).exp());
    }
    for class in [Class::Content, Class::Function, Class::Text, Class::Tag, Class::Eos] {
        let (count, nats) = classes.get(&class).copied().unwrap_or_default();
        put(&format!("share_{}", class.name()), count as f64 / targets as f64);
        put(&format!("bits_{}", class.name()), nats / std::f64::consts::LN_2);
    }
    let exact = [
        ("true_bits_per_caption", exact_bits(sequences, |target| target.true_bits)),
        ("floor_bits_per_caption", exact_bits(sequences, |target| target.floor_bits)),
    ];
    for (name, bits) in exact {
        if let Some(bits) = bits {
            put(name, bits / captions);
        }
    }
    summary.insert("targets".into(), targets.into());
    summary.insert("words".into(), words.len().into());
    summary.insert("bytes".into(), bytes.into());
    summary.insert("samples".into(), sequences.iter().map(|sequence| sequence.samples).sum::<usize>().into());
    summary.insert("captions".into(), (captions as u64).into());
    summary
}

/// The sum of exact bits over the same targets that are scored; `None` when one of them has none.
fn exact_bits(sequences: &[Sequence], bits: impl Fn(&samples::Target) -> Option<f64>) -> Option<f64> {
    let mut total = 0.0;
    for target in sequences.iter().flat_map(|sequence| &sequence.targets) {
        match bits(target) {
            Some(bits) => total += bits,
            None if target.word.is_none() && target.class == Class::Text => {}
            None => return None,
        }
    }
    Some(total)
}

#[cfg(test)]
mod tests;
