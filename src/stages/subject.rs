//! What is read with social tokens: the clips that are scored and embedded, and those (or examples of one text and one
//! frame each) that the analyses look into; and the settings that name them.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::as_trained::{Reading, inherit_inject};
use super::estimate::{Expected, Passes};
use super::perplexity::language;
use super::{Context, Inputs, Reference, Result, StageError, Upstream};
use crate::models::language::LanguageModel;
use crate::npy::{self, Array};
use crate::social::injection::{self, Bank, Prepared};
use crate::social::material::{self, Reader, Trained};
use crate::social::packs::{GlobalMode, Local, PackedClip, Packs};
use crate::social::prompt::{EmbeddingScale, Inject, Prompt};
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

/// Where clips come from, and what reads them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ClipSources {
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
}

impl ClipSources {
    /// Takes `inject` over, and drops what it has no use for.
    pub(super) fn inherit(&mut self, inject: &mut Option<Inject>, upstream: &Upstream) {
        inherit_inject(inject, self.projector.as_ref(), upstream);
        if *inject == Some(Inject::None) {
            (self.packs, self.projector) = (None, None);
        }
    }
}

/// Where clips or examples come from, and what reads them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Sources {
    /// Captions or transcripts; or give `examples`.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["text"]))]
    pub text: Option<Reference>,
    /// Which clip is in which split, instead of what the text says.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["split"]))]
    pub splits: Option<Reference>,
    /// The clips' vectors; needed with `text` unless `inject` is `none`.
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
    /// Texts of your own, each with a frame, instead of `text`.
    #[serde(default)]
    pub examples: Vec<Example>,
    /// The frames that examples name.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["frames"]))]
    pub frames: Option<Reference>,
    /// The features of `frames`.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["features"]))]
    pub features: Option<Reference>,
}

impl Sources {
    /// Takes `inject` over, and drops what it or the lack of examples has no use for.
    pub(super) fn inherit(&mut self, inject: &mut Option<Inject>, upstream: &Upstream) {
        inherit_inject(inject, self.projector.as_ref(), upstream);
        if *inject == Some(Inject::None) {
            (self.packs, self.projector, self.frames, self.features) = (None, None, None, None);
            self.examples.iter_mut().for_each(|example| example.frame = None);
        }
        if self.examples.is_empty() {
            (self.frames, self.features) = (None, None);
        }
    }

    /// The passes over the clips of a split: one without social tokens, or one under each of so many `conditions`. `None`
    /// for examples, which take next to nothing.
    pub(super) fn passes<'a>(
        &self,
        inputs: &'a Expected,
        split: &str,
        prompt: &Prompt,
        batch: usize,
        conditions: usize,
    ) -> Option<Passes<'a>> {
        let repeats = if prompt.inject == Inject::None { 1.0 } else { conditions as f64 };
        let once = Passes::once(inputs, split, Some(prompt.inject), batch, Some(prompt));
        self.examples.is_empty().then_some(Passes { repeats, ..once })
    }
}

/// Everything to read, loaded and checked.
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
        let trained = reading.projector(inputs, &language.gemma.device())?;
        match (examples.is_empty(), inputs.optional("text")) {
            (true, Some(text)) => {
                let clips = transcripts::load(&text.path, &material::selection(inputs, split, caption_index))?;
                Self::of_clips(inputs, language, trained, inject, clips)
            }
            (false, None) => {
                let clips = examples.iter().enumerate().map(|(number, example)| clip(number, example));
                let mut clips: Vec<Clip> = clips.collect::<Result<_>>()?;
                tagger::fill(&mut clips, tagger::Method::Perceptron, tagger::View::Sentence);
                let pack = |inject, clips: &[Clip]| pack(inputs, inject, examples, clips);
                Self::new(inputs, language, trained, inject, clips, pack)
            }
            (true, None) => {
                Err(StageError::hint("there is nothing to look at", "set `text`, or `examples` of text and frame"))
            }
            (false, Some(_)) => {
                Err(StageError::hint("both `text` and `examples` are set", "look at one in a stage of its own"))
            }
        }
    }

    /// These clips with the vectors of the input `packs`. `inject` as set; left out, it is the projector's.
    pub fn of_clips(
        inputs: &Inputs,
        language: Arc<LanguageModel>,
        trained: Option<Trained>,
        inject: Option<Inject>,
        clips: Vec<Clip>,
    ) -> Result<Self> {
        Self::new(inputs, language, trained, inject, clips, |inject, clips| material::packs(inputs, inject, clips))
    }

    fn new(
        inputs: &Inputs,
        language: Arc<LanguageModel>,
        trained: Option<Trained>,
        inject: Option<Inject>,
        clips: Vec<Clip>,
        packs: impl FnOnce(Inject, &[Clip]) -> Result<Packs>,
    ) -> Result<Self> {
        let inject = material::chosen_inject(inject, trained.as_ref())?;
        let social = match inject {
            Inject::None => None,
            _ => {
                let trained = trained.ok_or_else(|| no_projector(inject))?;
                trained.check_language(&language, inputs)?;
                Some((trained, packs(inject, &clips)?))
            }
        };
        Ok(Self { device: language.gemma.device(), language, clips, inject, social })
    }

    /// The samples with the social tokens of `prompt.inject`, which may be fewer than the subject's.
    pub fn sequences(&self, prompt: &Prompt) -> Result<Vec<Sequence>> {
        self.checked(prompt, samples::build(&self.clips, prompt, &pos_set(), &*self.language, |clip| self.locals(clip)))
    }

    /// Each clip as one sample.
    pub fn whole(&self, prompt: &Prompt) -> Result<Vec<Sequence>> {
        self.checked(prompt, samples::whole(&self.clips, prompt, &*self.language, |clip| self.locals(clip)))
    }

    fn checked(&self, prompt: &Prompt, sequences: Result<Vec<Sequence>>) -> Result<Vec<Sequence>> {
        let sequences = sequences?;
        material::check_social(prompt.inject, &sequences)?;
        Ok(sequences)
    }

    fn locals(&self, clip: &str) -> Result<&[Local]> {
        material::locals_of(self.packs(), clip)
    }

    /// The vectors of the clips.
    pub fn packs(&self) -> Option<&Packs> {
        self.social.as_ref().map(|(_, packs)| packs)
    }

    /// The packs' row of each clip; none without social tokens.
    pub fn places(&self) -> Result<Vec<usize>> {
        self.packs().map_or_else(|| Ok(Vec::new()), |packs| material::places(packs, &self.clips))
    }

    /// The vectors that the projector reads.
    pub fn bank(&self) -> Result<Option<Bank<'_>>> {
        self.social.as_ref().map(|(trained, packs)| trained.bank(packs)).transpose()
    }

    /// The samples ready for batches.
    pub fn prepared(&self, sequences: &[Sequence], bank: Option<&Bank>) -> Result<Vec<Prepared>> {
        let places = self.places()?;
        injection::prepare(sequences, bank, &places, &places, self.language.pad)
    }

    /// What reads them, with the social tokens that the projector makes of `bank`.
    pub fn reader(&self, bank: Option<&Bank>, scale: EmbeddingScale) -> Reader<'_> {
        let social = bank.zip(self.social.as_ref());
        let social =
            social.map(|(bank, (trained, _))| (&trained.projector, material::uploaded(&bank.vectors, &self.device)));
        Reader { gemma: &self.language.gemma, pad: self.language.pad, social, scale, zeroed: false }
    }
}

/// The error of an arm with social tokens and nothing to make them of.
fn no_projector(inject: Inject) -> StageError {
    StageError::hint(
        format!("`inject` is {inject:?} and there is no projector").to_lowercase(),
        "set `projector` to a `train_projector` stage or to a given projector, or `inject = \"none\"`",
    )
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
