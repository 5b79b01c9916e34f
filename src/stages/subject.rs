//! What the analyses look into: clips with their social tokens, or examples of one text and one frame each.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::as_trained::Reading;
use super::perplexity::no_projector;
use super::{Context, Inputs, Result, StageError};
use crate::models::language::LanguageModel;
use crate::npy::{self, Array};
use crate::social::injection::{self, Bank, Prepared};
use crate::social::material::{self, Trained};
use crate::social::packs::{GlobalMode, Local, PackedClip, Packs};
use crate::social::prompt::{Inject, Prompt};
use crate::social::samples::{self, Sequence};
use crate::social::tagger;
use crate::social::transcripts::{self, Clip, Utterance, Word};
use crate::stages::scene_packs::pos_set;
use crate::vision::frames::Manifest;

/// A text and the one frame that its social tokens are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct Example {
    /// The text.
    pub text: String,
    /// The frame, as the manifest of `frames` names it; nothing with `inject = "none"`.
    #[serde(default)]
    pub frame: Option<String>,
    /// Universal parts of speech, one per word, for local tokens: `DET NOUN VERB`. Left out, the tagger of this binary
    /// (English) gives them.
    #[serde(default)]
    pub pos: Option<String>,
}

/// Everything an analysis needs, loaded and checked.
pub(super) struct Subject {
    /// The language model.
    pub language: Arc<LanguageModel>,
    /// Where it lies.
    pub device: Device,
    /// The clips, or the examples as clips called `example 1`, `example 2`, ….
    pub clips: Vec<Clip>,
    /// Which social tokens there are.
    pub inject: Inject,
    /// With social tokens.
    pub social: Option<(Trained, Packs)>,
}

impl Subject {
    /// Reads the inputs `language`, `projector`, and `text` with `packs`, or `frames` and `features` of `examples`.
    pub fn load(
        inputs: &Inputs,
        context: &Context,
        reading: &Reading,
        (inject, examples): (Option<Inject>, &[Example]),
        (split, caption_index): (&str, usize),
    ) -> Result<Self> {
        let language = material::language_in(reading.precision.unwrap_or_default(), inputs, context)?;
        let device = language.gemma.device();
        let trained = reading.projector(inputs, &device)?;
        let inject = material::chosen_inject(inject, trained.as_ref())?;
        let clips = match (examples.is_empty(), inputs.optional("text")) {
            (true, Some(text)) => transcripts::load(&text.path, &material::selection(inputs, split, caption_index))?,
            (false, None) => {
                let clips = examples.iter().enumerate().map(|(number, example)| clip(number, example));
                let mut clips: Vec<Clip> = clips.collect::<Result<_>>()?;
                tagger::fill(&mut clips, tagger::Method::Perceptron, tagger::View::Sentence);
                clips
            }
            (true, None) => {
                return Err(StageError::hint(
                    "there is nothing to look at",
                    "set `text`, or `examples` of text and frame",
                ));
            }
            (false, Some(_)) => {
                return Err(StageError::hint(
                    "both `text` and `examples` are set",
                    "look at one in a stage of its own",
                ));
            }
        };
        let social = match inject {
            Inject::None => None,
            _ => {
                let trained = trained.ok_or_else(|| no_projector(inject))?;
                trained.check_language(&language, inputs)?;
                let packs = if examples.is_empty() {
                    material::packs(inputs, inject, &clips)?
                } else {
                    pack(inputs, inject, examples, &clips)?
                };
                Some((trained, packs))
            }
        };
        Ok(Self { language, device, clips, inject, social })
    }

    /// The samples with the social tokens of `prompt.inject`, which may be fewer than the subject's.
    pub fn sequences(&self, prompt: &Prompt) -> Result<Vec<Sequence>> {
        let packs = self.social.as_ref().map(|(_, packs)| packs);
        let locals = |clip: &str| material::locals_of(packs, clip);
        let sequences = samples::build(&self.clips, prompt, &pos_set(), &*self.language, locals)?;
        material::check_social(prompt.inject, &sequences)?;
        Ok(sequences)
    }

    /// The vectors that the projector reads.
    pub fn bank(&self) -> Result<Option<Bank<'_>>> {
        self.social.as_ref().map(|(trained, packs)| trained.bank(packs)).transpose()
    }

    /// The samples ready for batches.
    pub fn prepared(&self, sequences: &[Sequence], bank: Option<&Bank>) -> Result<Vec<Prepared>> {
        let places = match &self.social {
            Some((_, packs)) => material::places(packs, &self.clips)?,
            None => Vec::new(),
        };
        injection::prepare(sequences, bank, &places, &places, self.language.pad)
    }
}

/// An example as a clip with one caption.
fn clip(number: usize, example: &Example) -> Result<Clip> {
    let texts: Vec<&str> = example.text.split_whitespace().collect();
    let tags: Vec<&str> = example.pos.as_deref().unwrap_or_default().split_whitespace().collect();
    if texts.is_empty() || !tags.is_empty() && tags.len() != texts.len() {
        return Err(StageError::hint(
            format!("example {} has {} words and {} parts of speech", number + 1, texts.len(), tags.len()),
            "give a text of at least one word, and in `pos` none or one for each word",
        ));
    }
    let words = texts.iter().enumerate().map(|(place, text)| Word {
        text: (*text).to_owned(),
        pos: tags.get(place).map(|tag| (*tag).to_owned()),
        ..Word::default()
    });
    let mut utterance = Utterance { words: words.collect(), ..Utterance::default() };
    transcripts::settle(&mut utterance).map_err(|error| StageError::new(format!("example {}: {error}", number + 1)))?;
    let clip_id = format!("example {}", number + 1);
    Ok(Clip { clip_id, captions: true, utterances: vec![utterance], ..Clip::default() })
}

/// Packs in which the global and every local token of an example hold its frame.
fn pack(inputs: &Inputs, inject: Inject, examples: &[Example], clips: &[Clip]) -> Result<Packs> {
    let manifest = Manifest::load(&inputs.get("frames")?.path)?;
    let folder = &inputs.get("features")?.path;
    let features: Array<f32> = npy::read(&folder.join("features.npy"))?;
    if features.shape.len() != 2 || features.shape[0] != manifest.frames.len() {
        return Err(StageError::hint(
            format!("`features` has {:?} values for {} frames", features.shape, manifest.frames.len()),
            "set `features` to the `encode_frames` stage that reads `frames`",
        ));
    }
    let (mut packed, mut global, mut local_values) = (Vec::new(), Vec::new(), Vec::new());
    let mut row = 0;
    for (example, clip) in examples.iter().zip(clips) {
        let vector = features.row(frame(&manifest, example, &clip.clip_id)?);
        global.extend_from_slice(vector);
        let words = clip.utterances[0].words.iter().enumerate();
        let content = words.filter(|(_, word)| word.is_content(&pos_set()) == Some(true));
        let locals: Vec<Local> = content
            .map(|(word, _)| {
                row += 1;
                Local { utterance: 0, word, frames: vec![0], row: row - 1 }
            })
            .collect();
        locals.iter().for_each(|_| local_values.extend_from_slice(vector));
        packed.push(PackedClip { clip_id: clip.clip_id.clone(), split: None, group: None, locals });
    }
    if inject.local() && row == 0 {
        return Err(StageError::hint(
            "local tokens come after nouns and verbs, and no example has any",
            "give each example `pos`, one universal part of speech per word, or set `inject = \"global\"`",
        ));
    }
    let dim = features.shape[1];
    let (global, locals) = (Array::new([examples.len(), dim], global), Array::new([row, dim], local_values));
    Ok(Packs::new(packed, global, locals, GlobalMode::ClipMean, row > 0))
}

/// The row of an example's frame.
fn frame(manifest: &Manifest, example: &Example, name: &str) -> Result<usize> {
    let wanted = example.frame.as_deref().ok_or_else(|| {
        StageError::hint(format!("{name} has no frame"), "set `frame` to a frame that the manifest of `frames` names")
    })?;
    manifest.frames.iter().position(|frame| Path::new(&frame.path) == Path::new(wanted)).ok_or_else(|| {
        let known: Vec<&str> = manifest.frames.iter().take(3).map(|frame| frame.path.as_str()).collect();
        StageError::hint(
            format!("{name}: the manifest of `frames` names no frame `{wanted}`"),
            format!("it has {} frames, as `{}`", manifest.frames.len(), known.join("`, `")),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_a_clip_of_one_caption() {
        let example =
            |text: &str, pos: Option<&str>| Example { text: text.into(), frame: None, pos: pos.map(str::to_owned) };
        let found = clip(1, &example(" a  dog runs ", Some("DET NOUN VERB"))).unwrap();
        assert_eq!((found.clip_id.as_str(), found.utterances[0].text.as_str()), ("example 2", "a dog runs"));
        assert_eq!(found.utterances[0].words[2].pos.as_deref(), Some("VERB"));
        assert!(clip(0, &example("a dog", Some("DET"))).unwrap_err().to_string().contains("2 words and 1 parts"));
        assert!(clip(0, &example("  ", None)).is_err());
    }
}
