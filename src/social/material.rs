//! What the stages that feed the language model have in common: the model, the trained projector, the clips' vectors.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::injection::{Bank, Batch, Prepared, by_length};
use super::packs::{Local, Packs, read_json};
use super::prompt::{EmbeddingScale, Inject};
use super::samples::{Encode, Encoded, Sequence};
use super::transcripts::{Clip, Selection};
use crate::models::device;
use crate::models::gemma::Gemma;
use crate::models::language::{LanguageModel, Precision};
use crate::models::projector::{Projector, ProjectorConfig};
use crate::npy::{self, Array};
use crate::stages::{Context, Inputs, Result, StageError};

impl Encode for LanguageModel {
    fn encode(&self, text: &str) -> Result<Encoded> {
        let found = LanguageModel::encode(self, text)?;
        let offsets = found.offsets.iter().map(|span| (span.start, span.end)).collect();
        Ok(Encoded { ids: found.ids, offsets })
    }

    fn bos(&self) -> u32 {
        self.bos
    }

    fn eos(&self) -> u32 {
        self.eos
    }
}

/// The language model of the field `language`, f32, loaded once per process and device.
pub fn language(inputs: &Inputs, context: &Context) -> Result<Arc<LanguageModel>> {
    language_in(Precision::F32, inputs, context)
}

/// The language model of the field `language` in a precision, loaded once per process, device and precision.
pub fn language_in(precision: Precision, inputs: &Inputs, context: &Context) -> Result<Arc<LanguageModel>> {
    let input = inputs.get("language")?;
    let device = computing(context)?;
    let what = format!("language {} {}", context.device(), precision.name());
    context.models().get(&input.digest, &what, || Ok(LanguageModel::load(&input.path, &device, precision.dtype())?))
}

/// The device of the step.
pub fn computing(context: &Context) -> Result<Device> {
    device::parse(context.device()).map_err(|error| StageError::new(error.to_string()))
}

/// Which clips to read: `split` as written (`all` is every clip), `splits` the field of that name.
pub fn selection(inputs: &Inputs, split: &str, caption_index: usize) -> Selection {
    Selection {
        split: (split != "all").then(|| split.to_owned()),
        splits: inputs.optional("splits").map(|input| input.path.clone()),
        caption_index: (caption_index > 0).then_some(caption_index),
    }
}

/// What the projector reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The clip's own vectors.
    #[default]
    Features,
    /// Two learned vectors, one for every global and one for every local token: the same capacity and places without
    /// any word of the clip. They start at the training clips' means.
    Constant,
    /// As `constant`, but the first, second, … local token of an utterance have a learned vector each: what knowing the
    /// places of nouns and verbs gives. A place that no training utterance has takes the last one.
    ConstantByPlace,
    /// As `constant`, but the means stay as they are.
    Mean,
    /// Normal noise, one vector for all tokens of a clip, drawn from its name and `seed`: it tells clips apart and
    /// nothing of what they show.
    Noise,
}

/// `projector.json`: what a projector is and how it was trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Its shape.
    pub shape: ProjectorConfig,
    /// What it reads.
    pub source: Source,
    /// The mode that it was trained with.
    pub inject: Inject,
    /// All settings of the training.
    pub settings: serde_json::Value,
    /// Digest of the language model that it was trained through.
    #[serde(default)]
    pub language: Option<String>,
    /// The clips that it was trained on.
    #[serde(default)]
    pub trained_on: Vec<String>,
}

/// A projector ready for evaluation.
pub struct Trained {
    /// The weights, on a plain device.
    pub projector: Projector,
    /// `None` for a projector that no training stage of ours wrote.
    pub description: Option<Description>,
    /// The constants that it reads, of which the first is the global tokens': `[2, dim]` with `constant` and `mean`,
    /// `[1 + places, dim]` with `constant_by_place`.
    pub constants: Option<Array<f32>>,
}

impl Trained {
    /// Reads a training stage's folder, or a given projector: a `.safetensors` or `.pt` file, or a folder with one.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let described = path.join("projector.json");
        if !described.is_file() {
            let projector = Projector::load(&weights_file(path)?, None, device)?;
            return Ok(Self { projector, description: None, constants: None });
        }
        let description: Description = read_json(&described)?;
        let weights = path.join("projector.safetensors");
        let projector = Projector::load(&weights, Some(&description.shape), device)?;
        let constants = match description.source {
            Source::Features | Source::Noise => None,
            Source::Constant | Source::ConstantByPlace | Source::Mean => {
                Some(npy::read::<f32>(&path.join("constants.npy"))?)
            }
        };
        let by_place = description.source == Source::ConstantByPlace;
        let fits = |array: &Array<f32>| match array.shape[..] {
            [rows, dim] => dim == description.shape.input && (rows == 2 || by_place && rows > 2),
            _ => false,
        };
        if let Some(array) = constants.as_ref().filter(|array| !fits(array)) {
            let (shape, input) = (&array.shape, description.shape.input);
            let rows = if by_place { "2 or more" } else { "2" };
            let message = format!("`{}`: `constants.npy` has shape {shape:?}, not [{rows}, {input}]", path.display());
            return Err(StageError::new(message));
        }
        Ok(Self { projector, description: Some(description), constants })
    }

    /// The same weights with other settings of the norms, where these are set.
    pub fn with_norms(mut self, epsilon: Option<f64>, clamp: Option<f64>) -> Self {
        let known = self.projector.config().clone();
        let clamp = clamp.map_or(known.clamp, |clamp| (clamp > 0.0).then_some(clamp));
        self.projector = self.projector.with_norms(epsilon.unwrap_or(known.epsilon), clamp);
        self
    }

    /// The vectors that it reads for these packs.
    pub fn bank<'a>(&self, packs: &'a Packs) -> Result<Bank<'a>> {
        let bank = match (&self.constants, &self.description) {
            (Some(constants), _) => Bank::of_constants(packs, constants.clone()),
            (None, Some(Description { source: Source::Noise, settings, .. })) => {
                Bank::of_noise(packs, settings["seed"].as_u64().unwrap_or_default())
            }
            (None, _) => Bank::of_features(packs),
        };
        self.checked(bank)
    }

    /// The mean vectors of all clips of these packs, which it then reads in the place of every clip's own.
    pub fn bank_of_means<'a>(&self, packs: &'a Packs) -> Result<Bank<'a>> {
        let all: Vec<usize> = (0..packs.clips.len()).collect();
        self.checked(Bank::of_constants(packs, Bank::means(packs, &all)))
    }

    fn checked<'a>(&self, bank: Bank<'a>) -> Result<Bank<'a>> {
        let (given, wanted) = (bank.vectors.shape[1], self.projector.config().input);
        if given != wanted {
            return Err(StageError::hint(
                format!("the packs' vectors have {given} values, but the projector reads {wanted}"),
                "use packs of the encoder that the projector was trained with",
            ));
        }
        Ok(bank)
    }

    /// Fails unless it was trained through this language model, the input `language`; of a given projector without a
    /// record only the width must fit.
    pub fn check_language(&self, language: &LanguageModel, inputs: &Inputs) -> Result<()> {
        self.fits(language.gemma.config().hidden, &inputs.get("language")?.digest)
    }

    fn fits(&self, hidden: usize, digest: &str) -> Result<()> {
        let output = self.projector.config().output;
        let hint = "set `language` to the one it was trained through";
        if output != hidden {
            return Err(StageError::hint(
                format!("the projector gives vectors of {output} values, but the language model reads {hidden}"),
                hint,
            ));
        }
        match self.description.as_ref().and_then(|description| description.language.as_ref()) {
            Some(trained) if trained != digest => Err(StageError::hint(
                "the projector was trained through another language model than the one of `language`",
                hint,
            )),
            _ => Ok(()),
        }
    }

    /// How many of these clips it was trained on; `None` for a given projector that does not tell.
    pub fn seen(&self, clips: &[Clip]) -> Option<usize> {
        let trained_on = &self.description.as_ref()?.trained_on;
        let known: HashSet<&str> = trained_on.iter().map(String::as_str).collect();
        (!known.is_empty()).then(|| clips.iter().filter(|clip| known.contains(clip.clip_id.as_str())).count())
    }

    /// [`Trained::seen`], which must be 0 in a split other than the one of the training; `all` may hold anything.
    pub fn check_seen(&self, clips: &[Clip], split: &str) -> Result<Option<usize>> {
        let seen = self.seen(clips);
        let trained = self.description.as_ref().and_then(|description| description.settings["split"].as_str());
        match (seen, trained) {
            (Some(count), Some(trained)) if count > 0 && split != trained && split != "all" => Err(StageError::hint(
                format!(
                    "the projector was trained on {count} of the {} clips of split `{split}`, as split `{trained}`",
                    clips.len()
                ),
                "give `splits` as the projector has it, or evaluate the split that it was trained on",
            )),
            _ => Ok(seen),
        }
    }
}

/// The one projector file of a folder, or the file itself.
fn weights_file(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let entries = std::fs::read_dir(path).map_err(StageError::io(path))?;
    let is_weights = |path: &PathBuf| path.extension().is_some_and(|end| end == "safetensors" || end == "pt");
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_weights).collect();
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(file),
        (_, others) => Err(StageError::hint(
            format!(
                "`{}` should hold one projector and holds {}",
                path.display(),
                if others == 0 { 0 } else { others + 1 }
            ),
            "name the `.safetensors` or `.pt` file itself",
        )),
    }
}

/// The packs of the field `packs`, if `inject` can be made of them, with the local tokens of these clips' text only.
pub fn packs(inputs: &Inputs, inject: Inject, clips: &[Clip]) -> Result<Packs> {
    let mut packs = Packs::load(&inputs.get("packs")?.path)?;
    if inject.local() && !packs.parts_of_speech {
        return Err(StageError::hint(
            "local tokens need to know nouns and verbs, and no word of the text has a part of speech",
            "set `tagger = \"perceptron\"` (English) in the `scene_packs` stage, or give each word of transcripts.jsonl the \
             field `pos` (or `content`), or the captions CSV a column `pos` with one universal part of speech per word \
             (`DET NOUN VERB`)",
        ));
    }
    if inject.local() && packs.locals.shape[0] == 0 {
        return Err(StageError::hint(
            format!("`inject` is {inject:?} and no word of the packs has a local token").to_lowercase(),
            "compare `pos_set` of the `scene_packs` stage with the parts of speech in the text's `pos`: they must be written \
             alike (universal ones: `NOUN`, `VERB`)",
        ));
    }
    packs.narrow(clips)?;
    Ok(packs)
}

/// How many of the clips to be evaluated the encoder of the packs was trained on, which must be none unless that is
/// `allowed`; `None` without packs, or where nothing is known of their encoder.
pub fn check_encoder(packs: Option<&Packs>, clips: &[Clip], allowed: bool) -> Result<Option<usize>> {
    let seen = packs.and_then(|packs| packs.seen.as_ref());
    seen.map(|seen| seen.check(clips.iter().map(|clip| clip.clip_id.as_str()), allowed)).transpose()
}

/// Fails when samples that should hold social tokens hold none.
pub fn check_social(inject: Inject, sequences: &[Sequence]) -> Result<()> {
    let social = |sequence: &Sequence| sequence.slots.iter().any(|slot| slot.is_social());
    if inject == Inject::None || sequences.iter().any(social) {
        return Ok(());
    }
    Err(StageError::hint(
        format!("`inject` is {inject:?} and none of {} samples has a social token", sequences.len()).to_lowercase(),
        "the words of this split may lack parts of speech of `pos_set`: give `pos` for them, or set `inject = \"global\"`",
    ))
}

/// The packs' row of each clip.
pub fn places(packs: &Packs, clips: &[Clip]) -> Result<Vec<usize>> {
    clips.iter().map(|clip| packs.place(&clip.clip_id)).collect()
}

/// The local tokens of a clip, in order of the text.
pub fn locals_of<'a>(packs: Option<&'a Packs>, clip_id: &str) -> Result<&'a [Local]> {
    match packs {
        Some(packs) => Ok(&packs.clips[packs.place(clip_id)?].locals),
        None => Ok(&[]),
    }
}

/// A model that reads samples: the language model and, with social tokens, the projector and its vectors.
pub struct Reader<'a> {
    /// The language model's network.
    pub gemma: &'a Gemma,
    /// The id that pads.
    pub pad: u32,
    /// The projector, and the vectors `[rows, dim]` that it reads, on the model's device.
    pub social: Option<(&'a Projector, Tensor<2>)>,
    /// Where the embedding scale acts.
    pub scale: EmbeddingScale,
    /// Zero vectors stand in the places of social tokens.
    pub zeroed: bool,
}

impl Reader<'_> {
    /// Pads some of `samples` to a batch, and gives what enters the first layer `[batch, tokens, hidden]`.
    pub fn inputs(&self, samples: &[Prepared], chosen: &[usize]) -> (Batch, Tensor<3>) {
        let batch = Batch::new(chosen.iter().map(|&sample| &samples[sample]), self.pad);
        let social = self.social.as_ref().filter(|_| batch.is_social());
        let social =
            social.map(|(projector, bank)| batch.social(projector.forward(batch.projector_inputs(bank), None)));
        let social = social.map(|social| if self.zeroed { social.zeros_like() } else { social });
        let inputs = batch.inputs(self.gemma, social, self.scale);
        (batch, inputs)
    }
}

/// −ln p of each sample's targets in nats, read in batches of `size` samples of like length. `done` hears how many
/// samples are read.
///
/// # Errors
/// What `done` returns.
pub fn score(
    reader: &Reader,
    samples: &[Prepared],
    size: usize,
    mut done: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<f32>>> {
    let mut scores: Vec<Vec<f32>> = vec![Vec::new(); samples.len()];
    let mut read = 0;
    for chosen in by_length(samples, size) {
        let (batch, inputs) = reader.inputs(samples, &chosen);
        if !batch.labels.is_empty() {
            let nll = downloaded(batch.nll(reader.gemma, reader.gemma.forward(inputs)))?;
            for (&(sample, _), nll) in batch.labels.iter().zip(nll) {
                scores[chosen[sample]].push(nll);
            }
        }
        read += chosen.len();
        done(read)?;
    }
    Ok(scores)
}

/// A matrix on a device.
pub fn uploaded(array: &Array<f32>, device: &Device) -> Tensor<2> {
    let shape = [array.shape[0], array.shape[1]];
    Tensor::from_data(TensorData::new(array.values.clone(), shape), (device, DType::F32))
}

/// The values of a tensor on the host, which must be f32.
pub fn downloaded<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor.into_data().try_into_vec().map_err(|error| StageError::new(format!("a tensor is not f32: {error:?}")))
}

/// The mode of injection: as set, else that of the projector.
pub fn chosen_inject(set: Option<Inject>, trained: Option<&Trained>) -> Result<Inject> {
    let described = trained.and_then(|trained| trained.description.as_ref()).map(|description| description.inject);
    match (set.or(described), trained) {
        (Some(inject), _) => Ok(inject),
        (None, None) => Ok(Inject::None),
        (None, Some(_)) => Err(StageError::hint(
            "a given projector does not tell what it was trained with",
            "set `inject` to `global`, `local` or `full`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_must_hold_one_projector() {
        let folder = tempfile::tempdir().unwrap();
        let error = weights_file(folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds 0"), "{error}");
        std::fs::write(folder.path().join("a.pt"), "").unwrap();
        assert!(weights_file(folder.path()).unwrap().ends_with("a.pt"));
        std::fs::write(folder.path().join("b.safetensors"), "").unwrap();
        assert!(weights_file(folder.path()).unwrap_err().to_string().contains("holds 2"));
    }

    #[test]
    fn constants_of_another_shape_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = ProjectorConfig::original(2, 3);
        let streams = crate::stats::random::Streams::new(0, "test");
        let projector = Projector::init(&config, 1.0, &streams, &Device::default());
        projector.save(&folder.path().join("projector.safetensors")).unwrap();
        let description = Description {
            shape: config,
            source: Source::Constant,
            inject: Inject::Full,
            settings: serde_json::json!({}),
            language: None,
            trained_on: Vec::new(),
        };
        crate::social::packs::write_json(&folder.path().join("projector.json"), &description).unwrap();
        let load = |shape: &[usize]| {
            let values = vec![0.5f32; shape.iter().product()];
            npy::write(&folder.path().join("constants.npy"), &Array::new(shape, values)).unwrap();
            Trained::load(folder.path(), &Device::default()).map(|trained| trained.constants)
        };
        assert_eq!(load(&[2, 2]).unwrap().unwrap().shape, [2, 2]);
        for shape in [&[2, 3][..], &[1, 2], &[2], &[2, 2, 1], &[]] {
            let error = load(shape).unwrap_err().to_string();
            assert!(error.contains("has shape") && error.contains("not [2, 2]"), "{error}");
        }
    }

    #[test]
    fn a_given_projector_needs_inject() {
        assert_eq!(chosen_inject(None, None).unwrap(), Inject::None);
        assert_eq!(chosen_inject(Some(Inject::Local), None).unwrap(), Inject::Local);
        let config = ProjectorConfig::original(2, 3);
        let streams = crate::stats::random::Streams::new(0, "test");
        let projector = Projector::init(&config, 1.0, &streams, &Device::default());
        let mut trained = Trained { projector, description: None, constants: None };
        assert!(chosen_inject(None, Some(&trained)).unwrap_err().to_string().contains("set `inject`"));
        assert!(trained.fits(3, "any").is_ok() && trained.seen(&[]).is_none());
        assert!(trained.fits(4, "any").unwrap_err().to_string().contains("gives vectors of 3 values"));
        trained.description = Some(Description {
            shape: config,
            source: Source::Features,
            inject: Inject::Full,
            settings: serde_json::json!({"split": "train"}),
            language: Some("one".into()),
            trained_on: vec!["a".into()],
        });
        assert_eq!(chosen_inject(None, Some(&trained)).unwrap(), Inject::Full);
        assert!(trained.fits(3, "one").is_ok());
        assert!(trained.fits(3, "other").unwrap_err().to_string().contains("another language model"));
        let clips = ["a", "b"].map(|name| Clip { clip_id: name.into(), ..Clip::default() });
        assert_eq!(trained.check_seen(&clips, "train").unwrap(), Some(1));
        assert_eq!(trained.check_seen(&clips, "all").unwrap(), Some(1));
        assert_eq!(trained.check_seen(&clips[1..], "test").unwrap(), Some(0));
        assert!(trained.check_seen(&clips, "test").unwrap_err().to_string().contains("1 of the 2 clips"));
    }
}
