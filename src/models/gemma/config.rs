//! The shape of a Gemma model, read from and written to Hugging Face's `config.json`.

use std::path::Path;

use serde_json::{Value, json};

use crate::models::checkpoint::CheckpointError;

/// Most that a width, a vocabulary or a length may be: products of two stay far from overflowing.
const LARGEST: u64 = 1 << 30;
/// Most layers that a model may have.
const MOST_LAYERS: usize = 10_000;

/// Which Gemma: they differ in norms of queries and keys, position bases and soft caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Gemma 2: soft caps, every even layer slides.
    Two,
    /// Gemma 3, text: norms of queries and keys, another position base on sliding layers.
    Three,
}

/// The shape of a Gemma model. [`GemmaConfig::default`] is Gemma-2-2B; set what differs.
#[derive(Clone, Debug, PartialEq)]
pub struct GemmaConfig {
    /// Gemma 2 or Gemma 3.
    pub generation: Generation,
    /// Rows of the embedding matrix (with padding rows, if there are any).
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / key_value_heads` queries.
    pub key_value_heads: usize,
    /// Width of a head; `heads · head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Scores are divided by the root of this, which need not be `head_dim`.
    pub query_pre_attn_scalar: f64,
    /// Scores become `cap · tanh(score / cap)`.
    pub attention_softcap: Option<f64>,
    /// Logits become `cap · tanh(logit / cap)`.
    pub final_softcap: Option<f64>,
    /// A sliding layer sees this many positions, its own included.
    pub sliding_window: usize,
    /// Per layer: whether it slides. Its length is the number of layers.
    pub sliding: Vec<bool>,
    /// Base of the rotary positions on full layers.
    pub rope_theta: f64,
    /// Base of the rotary positions on sliding layers.
    pub rope_local_theta: f64,
    /// Epsilon of every norm.
    pub norm_epsilon: f64,
    /// Longest sequence that the model was made for.
    pub max_positions: usize,
    /// Token that begins a sequence.
    pub bos: u32,
    /// Tokens that end a sequence, the first one being the one to append.
    pub eos: Vec<u32>,
    /// Token that pads.
    pub pad: u32,
    /// Standard deviation of initial values (norms begin at zero, that is at a factor of one).
    pub initializer_range: f64,
}

impl Default for GemmaConfig {
    fn default() -> Self {
        Self {
            generation: Generation::Two,
            vocabulary: 256_000,
            hidden: 2304,
            intermediate: 9216,
            heads: 8,
            key_value_heads: 4,
            head_dim: 256,
            query_pre_attn_scalar: 256.0,
            attention_softcap: Some(50.0),
            final_softcap: Some(30.0),
            sliding_window: 4096,
            sliding: Self::alternating(26),
            rope_theta: 10_000.0,
            rope_local_theta: 10_000.0,
            norm_epsilon: 1e-6,
            max_positions: 8192,
            bos: 2,
            eos: vec![1],
            pad: 0,
            initializer_range: 0.02,
        }
    }
}

impl GemmaConfig {
    /// Gemma 2's pattern for `layers` layers: 0, 2, … slide.
    pub fn alternating(layers: usize) -> Vec<bool> {
        (0..layers).map(|layer| layer % 2 == 0).collect()
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.sliding.len()
    }

    /// Reads `config.json` of a Hugging Face folder.
    ///
    /// # Errors
    /// No such file, another architecture, or a setting that this implementation does not have.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(CheckpointError::io(&path))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| CheckpointError::format(&path, error))?;
        Self::parse(&value).map_err(|reason| CheckpointError::format(&path, reason))
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let fields = Fields(value);
        let generation = match fields.text("model_type") {
            Some("gemma2") => Generation::Two,
            Some("gemma3_text") => Generation::Three,
            other => {
                let other = other.unwrap_or("nothing");
                return Err(format!("`model_type` is `{other}`, and only `gemma2` and `gemma3_text` can be loaded"));
            }
        };
        fields.only("hidden_activation", &[json!("gelu_pytorch_tanh")])?;
        fields.only("tie_word_embeddings", &[json!(true)])?;
        fields.only("attention_bias", &[json!(false)])?;
        fields.only("use_bidirectional_attention", &[json!(false)])?;
        fields.only("rope_scaling", &[])?;
        let layers = fields.count("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(format!("`num_hidden_layers` is {layers}, more than any model has"));
        }
        let heads = fields.count("num_attention_heads")?;
        let key_value_heads = fields.count("num_key_value_heads")?;
        if key_value_heads == 0 || heads % key_value_heads != 0 {
            return Err(format!("{heads} attention heads cannot share {key_value_heads} key-value heads"));
        }
        let head_dim = fields.count("head_dim")?;
        if head_dim % 2 != 0 {
            return Err(format!("`head_dim` {head_dim} is odd, and rotary positions turn pairs"));
        }
        let (rope_theta, rope_local_theta) = Self::thetas(&fields, generation)?;
        let softcap = |name| fields.number(name).filter(|&cap| cap > 0.0);
        Ok(Self {
            generation,
            vocabulary: fields.count("vocab_size")?,
            hidden: fields.count("hidden_size")?,
            intermediate: fields.count("intermediate_size")?,
            heads,
            key_value_heads,
            head_dim,
            query_pre_attn_scalar: fields.number("query_pre_attn_scalar").unwrap_or(256.0),
            attention_softcap: softcap("attn_logit_softcapping"),
            final_softcap: softcap("final_logit_softcapping"),
            sliding_window: fields.count("sliding_window")?,
            sliding: Self::layer_types(&fields, generation, layers)?,
            rope_theta,
            rope_local_theta,
            norm_epsilon: fields.number("rms_norm_eps").unwrap_or(1e-6),
            max_positions: fields.count("max_position_embeddings")?,
            bos: fields.token("bos_token_id")?.first().copied().unwrap_or(2),
            eos: Some(fields.token("eos_token_id")?).filter(|ids| !ids.is_empty()).unwrap_or_else(|| vec![1]),
            pad: fields.token("pad_token_id")?.first().copied().unwrap_or(0),
            initializer_range: fields.number("initializer_range").unwrap_or(0.02),
        })
    }

    /// Position bases of full and sliding layers: transformers 5 groups them in `rope_parameters`, 4 did not.
    fn thetas(fields: &Fields, generation: Generation) -> Result<(f64, f64), String> {
        let grouped = fields.0.get("rope_parameters");
        let group = |name: &str| grouped.map(|all| all.get(name).unwrap_or(all));
        for kind in ["full_attention", "sliding_attention"] {
            let kind = group(kind).and_then(|group| group.get("rope_type")).and_then(Value::as_str);
            if let Some(other) = kind.filter(|kind| *kind != "default") {
                return Err(format!("rotary positions of type `{other}` are not supported"));
            }
        }
        let theta = |kind| group(kind).and_then(|group| group.get("rope_theta")).and_then(Value::as_f64);
        let full = theta("full_attention").or_else(|| fields.number("rope_theta"));
        Ok(match generation {
            Generation::Two => {
                let full = full.unwrap_or(10_000.0);
                (full, full)
            }
            Generation::Three => {
                let local = fields.number("rope_local_base_freq");
                let grouped = grouped.and_then(|all| all.get("sliding_attention")).and(theta("sliding_attention"));
                (full.unwrap_or(1_000_000.0), grouped.or(local).unwrap_or(10_000.0))
            }
        })
    }

    fn layer_types(fields: &Fields, generation: Generation, layers: usize) -> Result<Vec<bool>, String> {
        let Some(types) = fields.0.get("layer_types").and_then(Value::as_array) else {
            return Ok(match generation {
                Generation::Two => Self::alternating(layers),
                Generation::Three => {
                    let pattern = fields.number("sliding_window_pattern").map_or(6, |pattern| pattern as usize).max(1);
                    (1..=layers).map(|layer| layer % pattern != 0).collect()
                }
            });
        };
        if types.len() != layers {
            return Err(format!("`layer_types` names {} layers of {layers}", types.len()));
        }
        let slides = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(format!("`layer_types` has {kind}")),
        };
        types.iter().map(slides).collect()
    }

    /// The `config.json` of this shape, as transformers reads it.
    pub fn to_json(&self) -> Value {
        let (model_type, architecture) = match self.generation {
            Generation::Two => ("gemma2", "Gemma2ForCausalLM"),
            Generation::Three => ("gemma3_text", "Gemma3ForCausalLM"),
        };
        let kind = |sliding: &bool| if *sliding { "sliding_attention" } else { "full_attention" };
        let eos = if self.eos.len() == 1 { json!(self.eos[0]) } else { json!(self.eos) };
        json!({
            "architectures": [architecture],
            "model_type": model_type,
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers(),
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_dim,
            "query_pre_attn_scalar": self.query_pre_attn_scalar,
            "attn_logit_softcapping": self.attention_softcap,
            "final_logit_softcapping": self.final_softcap,
            "sliding_window": self.sliding_window,
            "layer_types": self.sliding.iter().map(kind).collect::<Vec<_>>(),
            "rope_theta": self.rope_theta,
            "rope_local_base_freq": self.rope_local_theta,
            "rms_norm_eps": self.norm_epsilon,
            "max_position_embeddings": self.max_positions,
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "tie_word_embeddings": true,
            "bos_token_id": self.bos,
            "eos_token_id": eos,
            "pad_token_id": self.pad,
            "initializer_range": self.initializer_range,
            "torch_dtype": "float32",
        })
    }
}

/// A `config.json`, field by field.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Value::as_f64)
    }

    fn count(&self, name: &str) -> Result<usize, String> {
        let count = self.0.get(name).and_then(Value::as_u64);
        let count = count.ok_or_else(|| format!("`{name}` is needed, as a whole number"))?;
        if count > LARGEST {
            return Err(format!("`{name}` is {count}, more than any model has"));
        }
        usize::try_from(count).map_err(|_| format!("`{name}` is {count}, more than this machine counts to"))
    }

    /// One token id or a list of them; an absent field is an empty list.
    fn token(&self, name: &str) -> Result<Vec<u32>, String> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.0.get(name) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(one) => id(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| format!("`{name}` must be a token id or a list of them"))
    }

    /// A setting that has a single supported value: absent, null or one of `values`.
    fn only(&self, name: &str, values: &[Value]) -> Result<(), String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if values.contains(value) => Ok(()),
            Some(value) => Err(format!("`{name}` = {value} is not supported")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> GemmaConfig {
        GemmaConfig::read(&Path::new("tests/fixtures").join(name)).expect("the fixture is complete")
    }

    #[test]
    fn both_generations_are_read() {
        let two = fixture("gemma2_tiny");
        assert_eq!((two.generation, two.sliding_window, two.rope_theta), (Generation::Two, 8, 10_000.0));
        assert_eq!(two.sliding, [true, false, true, false]);
        assert_eq!((two.attention_softcap, two.final_softcap, two.query_pre_attn_scalar), (Some(5.0), Some(3.0), 32.0));
        let three = fixture("gemma3_tiny");
        assert_eq!((three.rope_theta, three.rope_local_theta), (1_000_000.0, 10_000.0));
        assert_eq!((three.attention_softcap, three.final_softcap), (None, None));
        assert_eq!(three.sliding, [true, false, true, false]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for name in ["gemma2_tiny", "gemma3_tiny"] {
            let config = fixture(name);
            assert_eq!(GemmaConfig::parse(&config.to_json()).expect("our own file"), config);
        }
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let mut value = fixture("gemma2_tiny").to_json();
        value["rope_scaling"] = json!({"factor": 8.0, "rope_type": "linear"});
        let error = GemmaConfig::parse(&value).expect_err("scaled positions");
        assert!(error.contains("`rope_scaling`"), "{error}");
        value["model_type"] = json!("llama");
        assert!(GemmaConfig::parse(&value).expect_err("another model").contains("`model_type` is `llama`"));
    }

    #[test]
    fn sizes_that_no_model_has_are_refused_before_anything_is_made_for_them() {
        for (name, size) in [("num_hidden_layers", 1u64 << 50), ("num_hidden_layers", 20_000), ("head_dim", 1 << 62)] {
            let mut value = fixture("gemma2_tiny").to_json();
            value.as_object_mut().expect("is an object").remove("layer_types");
            value[name] = json!(size);
            let error = GemmaConfig::parse(&value).expect_err("no model is that large");
            assert!(error.contains(name) && error.contains("more than any model has"), "{error}");
        }
    }
}
