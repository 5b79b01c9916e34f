//! What a step will need, told before anything runs: operations, memory, and how large its artifact will be.
//!
//! Estimates are formulas over settings and the sizes of inputs; they are right to a factor of about two, which is
//! enough to refuse what cannot fit and to tell minutes from days. Time is not estimated here: operations become
//! seconds by what this machine was measured to do ([`crate::plan::pace`]).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::models::{Dinov2Config, GemmaConfig, gemma::Gemma};
use crate::social::prompt::{Inject, Prompt, Samples, Tags};

/// Bytes of a process that has loaded nothing yet.
const PROCESS: u64 = 60 << 20;
/// Bytes of an f32.
const FLOAT: u64 = 4;
/// Texts of a vocabulary above this are split into word pieces.
const WHOLE_WORDS: u64 = 10_000;
/// Word pieces of an English word, special tokens aside (Gemma's tokenizer on captions: 1.1 to 1.4).
const PIECES: f64 = 1.3;
/// Most bytes that a backward pass keeps of a forward pass before it runs layers again (`models/gemma/frozen.rs`).
const KEPT: u64 = 1 << 29;
/// Most logits at once (`models/gemma`), with their gradient.
const LOGITS: u64 = 2 << 24;

/// What a step needs, as far as its settings and the sizes of its inputs tell. `None` is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Parameters of the networks that it runs, trained or not.
    pub parameters: Option<u64>,
    /// Floating-point operations; a multiplication with its addition counts as two.
    pub flops: Option<f64>,
    /// Things done one after the other (frames, clips, pairs), for work that operations do not measure.
    pub items: Option<u64>,
    /// Peak memory.
    pub memory: Option<Memory>,
    /// Width of the matrices that take most of the operations: narrow ones run slower.
    pub width: u64,
    /// How large the artifact will be.
    pub size: Size,
}

/// Peak memory in bytes: `fixed + each · value` of the setting that governs it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// What is needed whatever the setting says.
    pub fixed: u64,
    /// What each unit of the setting adds.
    pub each: u64,
    /// The setting's name (`batch`) and value; `None` when no setting helps.
    pub setting: Option<(&'static str, u64)>,
}

impl Memory {
    /// Memory that no setting changes.
    pub fn fixed(bytes: u64) -> Self {
        Self { fixed: bytes, each: 0, setting: None }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.fixed.saturating_add(self.each.saturating_mul(self.setting.map_or(0, |(_, value)| value)))
    }

    /// The largest value of the setting that fits into `bytes`; `None` when none does.
    pub fn largest_within(&self, bytes: u64) -> Option<(&'static str, u64)> {
        let (setting, value) = self.setting?;
        let room = bytes.checked_sub(self.fixed)?;
        let fits = room.checked_div(self.each)?.min(value);
        (fits > 0).then_some((setting, fits))
    }
}

/// How large data is, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Size {
    /// Clips by split; those without a split under the empty name.
    pub clips: BTreeMap<String, u64>,
    /// Words of a clip's text, on average.
    pub words: Option<f64>,
    /// Utterances of a clip, on average.
    pub utterances: Option<f64>,
    /// Frames of all clips.
    pub frames: Option<u64>,
    /// Values of a feature vector.
    pub width: Option<u64>,
    /// The network that the data is.
    pub network: Option<Network>,
}

impl Size {
    /// Clips of a split, `all` being every one; `None` when no clips are known.
    pub fn clips_in(&self, split: &str) -> Option<u64> {
        if self.clips.is_empty() {
            return None;
        }
        let every = || self.clips.values().sum();
        // A split that the text does not name is assigned elsewhere: every clip is the safe side.
        Some(if split == "all" { every() } else { self.clips.get(split).copied().unwrap_or_else(every) })
    }

    /// Samples that a clip's text gives at most, on average; `None` when the text is not known.
    pub fn samples(&self, prompt: &Prompt) -> Option<f64> {
        let is_each_word = prompt.samples == Samples::NextWord && !(prompt.one_pass && prompt.tags == Tags::None);
        let is_cut = prompt.samples == Samples::NextUtterance && (prompt.chunk_words > 0 || prompt.chunk_seconds > 0.0);
        if is_each_word || is_cut { self.words } else { self.utterances }
    }
}

/// The sizes of a step's inputs, by field.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Field → size; a field without an input is not there.
    pub sizes: BTreeMap<String, Size>,
}

impl Expected {
    /// The size of the input of `field`; nothing known when it has none.
    pub fn of(&self, field: &str) -> &Size {
        const UNKNOWN: &Size =
            &Size { clips: BTreeMap::new(), words: None, utterances: None, frames: None, width: None, network: None };
        self.sizes.get(field).unwrap_or(UNKNOWN)
    }
}

/// A transformer, as far as its cost goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Network {
    /// All weights.
    pub parameters: u64,
    /// Weights that are looked up and not multiplied with every token.
    pub embedding: u64,
    /// Blocks.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width of the feed-forward layers.
    pub intermediate: u64,
    /// Heads times their width.
    pub attention: u64,
    /// Attention heads.
    pub heads: u64,
    /// Rows of the vocabulary head; 0 for none.
    pub vocabulary: u64,
    /// Side of the image and of a patch in pixels, of an encoder.
    pub image: Option<(u64, u64)>,
}

impl Network {
    /// A language model.
    pub fn language(config: &GemmaConfig) -> Self {
        let count = |(_, shape): (String, Vec<usize>)| shape.iter().product::<usize>() as u64;
        Self {
            parameters: Gemma::weights(config).into_iter().map(count).sum(),
            embedding: (config.vocabulary * config.hidden) as u64,
            layers: config.layers() as u64,
            hidden: config.hidden as u64,
            intermediate: config.intermediate as u64,
            attention: (config.heads * config.head_dim) as u64,
            heads: config.heads as u64,
            vocabulary: config.vocabulary as u64,
            image: None,
        }
    }

    /// A vision transformer.
    pub fn encoder(config: &Dinov2Config) -> Self {
        let (hidden, inner) = (config.hidden as u64, config.intermediate as u64);
        let (patch, side) = (config.patch as u64, (config.image / config.patch.max(1)) as u64);
        let block = 4 * hidden * hidden + 2 * hidden * inner + inner + 11 * hidden;
        let embedding = (side * side + 1) * hidden + hidden;
        Self {
            parameters: config.layers as u64 * block + 3 * patch * patch * hidden + 3 * hidden + embedding,
            embedding,
            layers: config.layers as u64,
            hidden,
            intermediate: inner,
            attention: hidden,
            heads: config.heads as u64,
            vocabulary: 0,
            image: Some((config.image as u64, patch)),
        }
    }

    /// Operations of a forward pass over one sequence, without the vocabulary head.
    pub fn forward(&self, tokens: f64) -> f64 {
        let weights = self.parameters.saturating_sub(self.embedding) as f64;
        2.0 * weights * tokens + 4.0 * (self.layers * self.attention) as f64 * tokens * tokens
    }

    /// Operations of the vocabulary head for one prediction.
    pub fn head(&self) -> f64 {
        2.0 * (self.hidden * self.vocabulary) as f64
    }

    /// Tokens of a text of so many words.
    pub fn tokens(&self, words: f64) -> f64 {
        let pieces = if self.vocabulary > WHOLE_WORDS { PIECES } else { 1.0 };
        words * pieces
    }

    /// Bytes of the weights in f32.
    pub fn bytes(&self) -> u64 {
        self.parameters * FLOAT
    }

    /// Bytes that one sequence takes in a forward pass: the widest layer's values and its attention scores.
    fn sequence(&self, tokens: f64) -> u64 {
        let tokens = tokens.ceil() as u64;
        let row = 6 * self.hidden + 3 * self.intermediate + 6 * self.attention + 3 * self.heads * tokens;
        FLOAT * tokens * row
    }
}

/// Social tokens that a text of so many words gets: one global, and one local after every noun or verb (about two words
/// in five of English).
pub fn social(inject: Inject, words: Option<f64>) -> f64 {
    let local = 0.4 * words.unwrap_or(0.0);
    match inject {
        Inject::None => 0.0,
        Inject::Global => 1.0,
        Inject::Local => local,
        Inject::Full => 1.0 + local,
    }
}

/// What passes through a language model cost.
#[derive(Clone, Copy, Debug)]
pub struct Passes<'a> {
    /// The model's size.
    pub network: Option<&'a Network>,
    /// Sequences in one pass over the data.
    pub sequences: Option<u64>,
    /// Words of a sequence that are read.
    pub words: Option<f64>,
    /// Social tokens of a sequence.
    pub social: f64,
    /// Sequences at once, as set.
    pub batch: u64,
    /// How many of those there are for one of `sequences` at most; `None` where it is not known.
    pub samples: Option<f64>,
    /// How many sequences are gone through in all, per one of `sequences`.
    pub repeats: f64,
    /// Whether a backward pass to the inputs follows.
    pub backward: bool,
}

impl<'a> Passes<'a> {
    /// One forward pass over the `text` of a split through `language`: in the samples of `prompt`, or clip by clip.
    pub fn once(
        inputs: &'a Expected,
        split: &str,
        inject: Option<Inject>,
        batch: usize,
        prompt: Option<&Prompt>,
    ) -> Self {
        let text = inputs.of("text");
        Self {
            network: inputs.of("language").network.as_ref(),
            sequences: text.clips_in(split),
            words: text.words,
            social: social(inject.unwrap_or(Inject::None), text.words),
            batch: batch as u64,
            samples: prompt.map_or(Some(1.0), |prompt| text.samples(prompt)),
            repeats: 1.0,
            backward: false,
        }
    }

    /// Sequences that are at once in memory: no more than there are.
    pub fn at_once(&self) -> u64 {
        self.among(self.batch)
    }

    /// Gone through in optimizer steps of `accumulate` batches each instead of in passes; 0 steps leave it as it is.
    pub fn in_steps(self, steps: u64, accumulate: u64) -> Self {
        match self.sequences.filter(|_| steps > 0) {
            Some(sequences) => {
                let each = self.among(self.batch.saturating_mul(accumulate));
                Self { repeats: steps as f64 * each as f64 / sequences.max(1) as f64, ..self }
            }
            None => self,
        }
    }

    /// `wanted` sequences, or all if there are fewer.
    fn among(&self, wanted: u64) -> u64 {
        let most = self.sequences.zip(self.samples).map(|(sequences, each)| (sequences as f64 * each).ceil() as u64);
        most.map_or(wanted, |most| wanted.min(most.max(1)))
    }

    /// Tokens of a sequence, as far as the model and the text are known.
    pub fn tokens(&self) -> Option<f64> {
        Some(self.network?.tokens(self.words?) + self.social + 2.0)
    }

    /// Operations and memory; unknown as far as the model or the text are.
    pub fn estimate(&self) -> Estimate {
        let Some(network) = self.network else { return Estimate::default() };
        let tokens = self.tokens();
        // Backwards to the inputs costs what forwards does: the weights get no gradient.
        let passes = if self.backward { 2.0 } else { 1.0 };
        let flops = tokens.zip(self.sequences).map(|(tokens, sequences)| {
            (network.forward(tokens) + network.head() * tokens) * passes * self.repeats * sequences as f64
        });
        let batch = self.at_once();
        let memory = tokens.map(|tokens| {
            let kept = if self.backward { network.layers * network.sequence(tokens) * batch } else { 0 };
            let logits = (FLOAT * LOGITS).min(FLOAT * 2 * network.vocabulary * tokens.ceil() as u64 * batch);
            Memory {
                fixed: PROCESS + network.bytes() + kept.min(KEPT) + logits,
                each: network.sequence(tokens),
                setting: Some(("batch", batch)),
            }
        });
        Estimate { parameters: Some(network.parameters), flops, memory, width: network.hidden, ..Estimate::default() }
    }
}

/// An encoder over images: `side` pixels square, `batch` at once. `network` holds the model's own size.
pub fn images(network: &Network, frames: Option<u64>, side: Option<u64>, batch: u64) -> Estimate {
    let (image, patch) = network.image.unwrap_or((0, 1));
    let side = side.unwrap_or(image);
    let tokens = (side / patch.max(1)).pow(2) as f64 + 1.0;
    let pixels = 3 * side * side * FLOAT;
    Estimate {
        parameters: Some(network.parameters),
        flops: frames.map(|frames| network.forward(tokens) * frames as f64),
        items: frames,
        memory: Some(Memory {
            fixed: PROCESS + network.bytes() + frames.unwrap_or(0) * network.hidden * FLOAT,
            each: network.sequence(tokens) + 3 * pixels,
            setting: Some(("batch", frames.map_or(batch, |frames| batch.min(frames.max(1))))),
        }),
        width: network.hidden,
        size: Size { frames, width: Some(network.hidden), ..Size::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gemma_2_2b_has_its_published_size_and_cost() {
        let network = Network::language(&GemmaConfig::default());
        assert_eq!(network.parameters, 2_614_341_888);
        // 2 operations per weight outside the embedding and token, and attention beside it.
        let per_token = network.forward(1.0);
        assert!((per_token / (2.0 * (2_614_341_888.0 - 589_824_000.0)) - 1.0).abs() < 1e-3);
        assert!((network.head() - 2.0 * 589_824_000.0).abs() < 1.0);
    }

    #[test]
    fn dinov2_base_has_its_published_size() {
        // `dinov2_vitb14` has 86,580,480, of which 768 are the mask token, which is never used outside training.
        let network = Network::encoder(&Dinov2Config::default());
        assert_eq!(network.parameters, 86_580_480 - 768);
    }

    #[test]
    fn memory_tells_the_largest_setting_that_fits() {
        let memory = Memory { fixed: 1000, each: 10, setting: Some(("batch", 64)) };
        assert_eq!(memory.total(), 1640);
        assert_eq!(memory.largest_within(1300), Some(("batch", 30)));
        assert_eq!(memory.largest_within(10_000), Some(("batch", 64)));
        assert_eq!(memory.largest_within(1005), None);
        assert_eq!(memory.largest_within(10), None);
        assert_eq!(Memory::fixed(7).total(), 7);
    }

    #[test]
    fn what_is_not_known_stays_unknown() {
        let passes = Passes {
            network: None,
            sequences: Some(10),
            words: Some(7.0),
            social: 5.0,
            batch: 8,
            samples: Some(1.0),
            repeats: 1.0,
            backward: true,
        };
        assert_eq!(passes.estimate(), Estimate::default());
        let network = Network::language(&GemmaConfig::default());
        let unread = Passes { network: Some(&network), words: None, ..passes }.estimate();
        assert_eq!((unread.flops, unread.memory), (None, None));
        assert_eq!(unread.parameters, Some(2_614_341_888));
    }

    #[test]
    fn no_more_is_at_once_than_there_is() {
        let network = Network::language(&GemmaConfig::default());
        let text = Size {
            clips: BTreeMap::from([("test".to_owned(), 4)]),
            words: Some(7.0),
            utterances: Some(1.0),
            ..Size::default()
        };
        let sizes =
            [("language".to_owned(), Size { network: Some(network), ..Size::default() }), ("text".to_owned(), text)];
        let inputs = Expected { sizes: sizes.into() };
        let batch = |batch, prompt: Option<&Prompt>| {
            let memory = Passes::once(&inputs, "test", None, batch, prompt).estimate().memory.expect("all is known");
            (memory.setting.expect("a setting").1, memory.total())
        };
        assert_eq!((batch(2, None).0, batch(32, None).0), (2, 4));
        assert_eq!(batch(4, None), batch(64, None));
        // A sample for each word, in passes of their own or together.
        let single = Prompt { samples: Samples::NextWord, ..Prompt::default() };
        let together = Prompt { one_pass: true, ..single.clone() };
        let tagged = Prompt { tags: Tags::Prompt, ..together.clone() };
        let dialogue = Prompt { samples: Samples::NextUtterance, ..Prompt::default() };
        let cut = Prompt { chunk_words: 3, ..dialogue.clone() };
        let prompts = [Prompt::default(), single, together, tagged, dialogue, cut];
        assert_eq!(prompts.each_ref().map(|prompt| batch(32, Some(prompt)).0), [4, 28, 4, 28, 4, 28]);
        // Where the text is not known, what is set is taken.
        let unread = Expected { sizes: inputs.sizes.clone().into_iter().take(1).collect() };
        assert_eq!(Passes::once(&unread, "test", None, 32, Some(&prompts[0])).at_once(), 32);
        // Ten steps of 2 · 32 samples of which there are four are ten passes; of 2 · 1 samples, half as many.
        let repeats = |batch| Passes::once(&inputs, "test", None, batch, None).in_steps(10, 2).repeats;
        assert_eq!((repeats(32), repeats(1)), (10.0, 5.0));
        assert_eq!(Passes::once(&inputs, "test", None, 1, None).in_steps(0, 2).repeats, 1.0);
        let encoder = Network::encoder(&Dinov2Config::default());
        assert_eq!(images(&encoder, Some(3), None, 32), images(&encoder, Some(3), None, 3));
    }
}
