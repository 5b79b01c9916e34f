//! Names of the model's parts whose outputs can be looked at, and what the original called them.
//!
//! Names are those of Hugging Face: `layers.16.self_attn.v_proj`. The original's RSA numbered module outputs instead
//! (`Linear-6-131`); how its numbers count was found out from the index sets of its result files (`method.md` 3).

use std::fmt;
use std::str::FromStr;

/// A part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The norm before attention.
    InputNorm,
    /// Queries, before norm and rotation.
    Query,
    /// Keys, before norm and rotation.
    Key,
    /// Values.
    Value,
    /// What attention gives to the stream, before its norm.
    AttentionOutput,
    /// The norm after attention.
    PostAttentionNorm,
    /// The norm before the feed-forward layer.
    PreFeedforwardNorm,
    /// The gate, before its activation.
    Gate,
    /// The activation of the gate.
    Activation,
    /// What the gate is multiplied with.
    Up,
    /// What the feed-forward layer gives to the stream, before its norm.
    Down,
    /// The norm after the feed-forward layer.
    PostFeedforwardNorm,
    /// The layer as a whole: the stream after it.
    Block,
}

impl Part {
    /// Every part in the order of computation.
    pub const ALL: [Self; 13] = [
        Self::InputNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionOutput,
        Self::PostAttentionNorm,
        Self::PreFeedforwardNorm,
        Self::Gate,
        Self::Activation,
        Self::Up,
        Self::Down,
        Self::PostFeedforwardNorm,
        Self::Block,
    ];

    /// Below `layers.N.`; empty for the layer as a whole.
    fn name(self) -> &'static str {
        match self {
            Self::InputNorm => "input_layernorm",
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::AttentionOutput => "self_attn.o_proj",
            Self::PostAttentionNorm => "post_attention_layernorm",
            Self::PreFeedforwardNorm => "pre_feedforward_layernorm",
            Self::Gate => "mlp.gate_proj",
            Self::Activation => "mlp.act_fn",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
            Self::PostFeedforwardNorm => "post_feedforward_layernorm",
            Self::Block => "",
        }
    }
}

/// A part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Module {
    /// Scaled embedding rows with social tokens in their places: hidden state 0.
    Embedding,
    /// A part of the layer of that number, from 0.
    Layer(usize, Part),
    /// The final norm: hidden state `last`.
    Norm,
    /// The vocabulary head, before its soft cap.
    Head,
    /// Logits, after the soft cap.
    Logits,
}

impl fmt::Display for Module {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => formatter.write_str("embed_tokens"),
            Self::Layer(layer, Part::Block) => write!(formatter, "layers.{layer}"),
            Self::Layer(layer, part) => write!(formatter, "layers.{layer}.{}", part.name()),
            Self::Norm => formatter.write_str("norm"),
            Self::Head => formatter.write_str("lm_head"),
            Self::Logits => formatter.write_str("logits"),
        }
    }
}

/// The text names no part of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no module")]
pub struct UnknownModule(String);

impl FromStr for Module {
    type Err = UnknownModule;

    /// Reads Hugging Face's name (a leading `model.` is left out) or the original's label.
    fn from_str(text: &str) -> Result<Self, UnknownModule> {
        let unknown = || UnknownModule(text.to_owned());
        if let Some(module) = of_original(text) {
            return Ok(module);
        }
        let name = text.strip_prefix("model.").unwrap_or(text);
        match name {
            "embed_tokens" => Ok(Self::Embedding),
            "norm" => Ok(Self::Norm),
            "lm_head" => Ok(Self::Head),
            "logits" => Ok(Self::Logits),
            _ => {
                let below = name.strip_prefix("layers.").ok_or_else(unknown)?;
                let (layer, part) = below.split_once('.').unwrap_or((below, ""));
                let part = Part::ALL.into_iter().find(|known| known.name() == part).ok_or_else(unknown)?;
                Ok(Self::Layer(layer.parse().map_err(|_| unknown())?, part))
            }
        }
    }
}

/// The module that the original's RSA called `label`, as in `Linear-6-131`. `None` for a label of another form, and for
/// the projector's own layers (`Linear-2-2`, `GELU-2-3`, `Linear-2-4`), which are no part of the language model.
pub fn of_original(label: &str) -> Option<Module> {
    let (kind, numbers) = label.split_once('-')?;
    let (depth, number) = numbers.split_once('-')?;
    let (depth, number): (usize, usize) = (depth.parse().ok()?, number.parse().ok()?);
    let counted = number.checked_sub(1)?;
    let part = match (kind, depth) {
        ("Linear", 2) => return (number == 30).then_some(Module::Head),
        ("Gemma2ForCausalLM", 1) => return Some(Module::Logits),
        ("Gemma2DecoderLayer", 4) => return Some(Module::Layer(counted, Part::Block)),
        ("Linear", 6) => match number % 8 {
            1 => Part::Query,
            2 => Part::Key,
            3 => Part::Value,
            4 => Part::AttentionOutput,
            5 => Part::Gate,
            7 => Part::Up,
            0 => Part::Down,
            _ => return None,
        },
        ("PytorchGELUTanh", 6) if number % 8 == 6 => Part::Activation,
        ("Gemma2RMSNorm", 5) => match number % 6 {
            1 => Part::InputNorm,
            3 => Part::PostAttentionNorm,
            4 => Part::PreFeedforwardNorm,
            0 => Part::PostFeedforwardNorm,
            _ => return None,
        },
        _ => return None,
    };
    Some(Module::Layer(counted / if depth == 6 { 8 } else { 6 }, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let mut modules = vec![Module::Embedding, Module::Norm, Module::Head, Module::Logits];
        modules.extend(Part::ALL.map(|part| Module::Layer(16, part)));
        for module in modules {
            assert_eq!(module.to_string().parse(), Ok(module));
            assert_eq!(format!("model.{module}").parse(), Ok(module));
        }
        assert_eq!("layers.16.self_attn.v_proj".parse(), Ok(Module::Layer(16, Part::Value)));
        for wrong in
            ["layers.x", "layers.1.mlp", "last", "3", "Linear-6-6", "Linear-2-2", "GELU-2-3", "Gemma2RMSNorm-5-2"]
        {
            assert_eq!(wrong.parse::<Module>(), Err(UnknownModule(wrong.to_owned())));
        }
    }

    #[test]
    fn the_originals_labels_are_decoded() {
        let named = |label: &str| of_original(label).map(|module| module.to_string());
        for (label, name) in [
            ("Linear-6-131", "layers.16.self_attn.v_proj"),
            ("Linear-6-1", "layers.0.self_attn.q_proj"),
            ("Linear-6-8", "layers.0.mlp.down_proj"),
            ("Linear-6-208", "layers.25.mlp.down_proj"),
            ("PytorchGELUTanh-6-6", "layers.0.mlp.act_fn"),
            ("Gemma2RMSNorm-5-1", "layers.0.input_layernorm"),
            ("Gemma2RMSNorm-5-156", "layers.25.post_feedforward_layernorm"),
            ("Gemma2DecoderLayer-4-26", "layers.25"),
            ("Linear-2-30", "lm_head"),
            ("Gemma2ForCausalLM-1-11", "logits"),
        ] {
            assert_eq!(named(label).as_deref(), Some(name), "{label}");
        }
        // 26 layers of Gemma-2-2B: 7 projections, an activation, 4 norms and the block of each, none named twice.
        let labels = (1..=208).flat_map(|n| [format!("Linear-6-{n}"), format!("PytorchGELUTanh-6-{n}")]);
        let labels = labels.chain((1..=156).map(|n| format!("Gemma2RMSNorm-5-{n}")));
        let labels = labels.chain((1..=26).map(|n| format!("Gemma2DecoderLayer-4-{n}")));
        let found: std::collections::BTreeSet<Module> = labels.filter_map(|label| of_original(&label)).collect();
        let all: std::collections::BTreeSet<Module> =
            (0..26).flat_map(|layer| Part::ALL.map(|part| Module::Layer(layer, part))).collect();
        assert_eq!(found, all);
    }
}
