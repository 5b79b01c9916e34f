//! A language model as the stages use it: the network, its tokenizer and its special tokens.

use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokenizers::{ModelWrapper, Tokenizer};

use super::checkpoint::CheckpointError;
use super::gemma::Gemma;

/// In which precision a frozen language model holds its weights and computes; norms, softmax and losses are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16, half the memory. A CPU has no such arithmetic here: every product is computed in f32 and rounded, which is
    /// right and slow.
    Bf16,
}

impl Precision {
    /// As Burn names it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// As in config keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// A frozen language model with its tokenizer.
pub struct LanguageModel {
    /// The network.
    pub gemma: Gemma,
    tokenizer: Tokenizer,
    /// The token that begins a sequence.
    pub bos: u32,
    /// The token that ends a sequence.
    pub eos: u32,
    /// The token that pads; it is never seen and never predicted.
    pub pad: u32,
    /// The token that stands for all that the tokenizer has no token for, where it has one.
    pub unknown: Option<u32>,
}

/// A text as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, without BOS or EOS.
    pub ids: Vec<u32>,
    /// The characters (not bytes) of the text that each token covers; empty for none.
    pub offsets: Vec<Range<usize>>,
    /// The tokens as they stand in the vocabulary.
    pub pieces: Vec<String>,
}

impl LanguageModel {
    /// Reads a Hugging Face folder: `config.json`, weights and `tokenizer.json`. The special tokens are those of
    /// `config.json`, which is the model's own; `tokenizer_config.json` is not looked at, because it may name the end
    /// of a chat turn instead (Gemma 3).
    ///
    /// # Errors
    /// A file is missing or does not fit the others: a tokenizer with more tokens than the model has rows.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<Self, CheckpointError> {
        let path = folder.join("tokenizer.json");
        let tokenizer = read_tokenizer(&path)?;
        Self::new(Gemma::load(folder, device, dtype)?, tokenizer, path)
    }

    fn new(gemma: Gemma, tokenizer: Tokenizer, path: PathBuf) -> Result<Self, CheckpointError> {
        let rows = gemma.config().vocabulary;
        // Added tokens may lie beyond (Gemma 3 has one for pictures, which its text model has no row for); a text that
        // contains one is refused when it is encoded.
        let largest = tokenizer.get_vocab(false).into_values().max().unwrap_or(0);
        if largest as usize >= rows {
            let reason = format!("token {largest} has no row in a model with a vocabulary of {rows}");
            return Err(CheckpointError::format(path, reason));
        }
        let config = gemma.config();
        let (bos, eos, pad) = (config.bos, config.eos.first().copied().unwrap_or(1), config.pad);
        let unknown = unknown(&tokenizer);
        Ok(Self { gemma, tokenizer, bos, eos, pad, unknown })
    }

    /// The tokens of a text. No special tokens are added.
    ///
    /// # Errors
    /// The tokenizer refuses the text, or the text has a token that the model has no row for.
    pub fn encode(&self, text: &str) -> Result<Encoding, crate::stages::StageError> {
        let found = encode(&self.tokenizer, text)?;
        let rows = self.gemma.config().vocabulary;
        match found.ids.iter().position(|&id| id as usize >= rows) {
            Some(place) => Err(crate::stages::StageError::hint(
                format!("the model has no row for the token `{}`", found.pieces[place]),
                "take it out of the text",
            )),
            None => Ok(found),
        }
    }

    /// The text of tokens.
    ///
    /// # Errors
    /// The tokenizer refuses the tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, crate::stages::StageError> {
        self.tokenizer.decode(ids, false).map_err(refused)
    }

    /// A token as it stands in the vocabulary.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The id of a token that stands in the vocabulary as `piece`.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.tokenizer.token_to_id(piece)
    }

    /// The ids of equally long sequences as a tensor `[batch, tokens]` on the model's device, shorter ones filled up
    /// with `pad` on the right.
    pub fn batch(&self, sequences: &[Vec<u32>]) -> Tensor<2, Int> {
        let tokens = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let padded = |ids: &Vec<u32>| {
            let missing = tokens - ids.len();
            ids.iter().copied().chain(std::iter::repeat_n(self.pad, missing)).map(i64::from).collect::<Vec<_>>()
        };
        let ids: Vec<i64> = sequences.iter().flat_map(padded).collect();
        Tensor::from_data(TensorData::new(ids, [sequences.len(), tokens]), &self.gemma.device())
    }
}

/// Reads `tokenizer.json`, with padding and truncation turned off: a file may ask for either, and both would change
/// what a text is.
///
/// # Errors
/// The file is missing or no tokenizer.
pub fn read_tokenizer(path: &Path) -> Result<Tokenizer, CheckpointError> {
    let text = std::fs::read(path).map_err(CheckpointError::io(path))?;
    // The tokenizers crate panics on what is no JSON inside some of its parts, so that is found out first.
    serde_json::from_slice::<Json>(&text).map_err(|error| CheckpointError::format(path, error))?;
    let mut tokenizer = Tokenizer::from_bytes(text).map_err(|error| CheckpointError::format(path, error))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| CheckpointError::format(path, error))?;
    Ok(tokenizer)
}

/// Any JSON that can be parsed to its end, kept nowhere.
struct Json;

impl<'de> serde::Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> serde::de::Visitor<'de> for Json {
    type Value = Self;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// The token of a tokenizer for what it has none for.
fn unknown(tokenizer: &Tokenizer) -> Option<u32> {
    let piece = match tokenizer.get_model() {
        ModelWrapper::BPE(model) => model.unk_token.as_deref()?,
        ModelWrapper::WordLevel(model) => &model.unk_token,
        ModelWrapper::WordPiece(model) => &model.unk_token,
        // Its number is no part of the crate's interface; models of the kind call it so.
        ModelWrapper::Unigram(_) => "<unk>",
    };
    tokenizer.token_to_id(piece)
}

/// The tokens of a text with their character offsets, without special tokens.
///
/// # Errors
/// The tokenizer refuses the text.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Encoding, crate::stages::StageError> {
    let found = tokenizer.encode_char_offsets(text, false).map_err(refused)?;
    Ok(Encoding {
        ids: found.get_ids().to_vec(),
        offsets: found.get_offsets().iter().map(|&(start, end)| start..end).collect(),
        pieces: found.get_tokens().to_vec(),
    })
}

fn refused(error: tokenizers::Error) -> crate::stages::StageError {
    crate::stages::StageError::new(format!("the tokenizer fails: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_for_the_rest_is_known() {
        for file in ["tests/fixtures/tokenizer.json", "assets/one-clause-language/tokenizer.json"] {
            let tokenizer = read_tokenizer(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("is one");
            let found = unknown(&tokenizer).and_then(|id| tokenizer.id_to_token(id));
            assert_eq!(found.as_deref(), Some("<unk>"), "{file}");
        }
    }

    #[test]
    fn a_tokenizer_cut_off_in_its_decoder_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("tokenizer.json");
        for text in
            [r#"{"version":"1.0","decoder":{"type":"ByteFallbacfallback": false}}"#, r#"{"decoder":{"type""#, ""]
        {
            std::fs::write(&path, text).expect("writes");
            let error = read_tokenizer(&path).expect_err("it is broken").to_string();
            assert!(error.contains("line 1 column") || error.contains("EOF"), "{error}");
        }
    }
}
