//! The shape of a DINOv2 vision transformer and the names of its weights in the three kinds of checkpoint.

use std::path::Path;

use serde_json::{Value, json};

use crate::models::checkpoint::{Checkpoint, CheckpointError, Expected};

/// The shape of a DINOv2 vision transformer. [`Dinov2Config::default`] is ViT-B/14; set what differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Dinov2Config {
    /// Width.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the image that the position table was made for, in pixels.
    pub image: usize,
    /// Initial value of LayerScale. timm begins at 1e-5, which makes an untrained model's output nearly constant.
    pub layer_scale: f64,
    /// Epsilon of the norms.
    pub norm_epsilon: f64,
}

impl Default for Dinov2Config {
    fn default() -> Self {
        Self {
            hidden: 768,
            layers: 12,
            heads: 12,
            intermediate: 3072,
            patch: 14,
            image: 518,
            layer_scale: 1e-5,
            norm_epsilon: 1e-6,
        }
    }
}

/// Whose names a checkpoint uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// Hugging Face `Dinov2Model`.
    HuggingFace,
    /// timm, which has the original's names.
    Timm,
}

impl Naming {
    /// The tensor by which a checkpoint of this naming is known.
    pub(super) fn anchor(self) -> &'static str {
        match self {
            Self::HuggingFace => "embeddings.position_embeddings",
            Self::Timm => "pos_embed",
        }
    }

    fn patch_weight(self) -> &'static str {
        match self {
            Self::HuggingFace => "embeddings.patch_embeddings.projection.weight",
            Self::Timm => "patch_embed.proj.weight",
        }
    }

    /// Weights outside the blocks, in the order of [`Dinov2Config::stem`].
    pub(super) fn stem(self) -> [&'static str; 6] {
        match self {
            Self::HuggingFace => [
                "embeddings.cls_token",
                "embeddings.position_embeddings",
                "embeddings.patch_embeddings.projection.weight",
                "embeddings.patch_embeddings.projection.bias",
                "layernorm.weight",
                "layernorm.bias",
            ],
            Self::Timm => [
                "cls_token",
                "pos_embed",
                "patch_embed.proj.weight",
                "patch_embed.proj.bias",
                "norm.weight",
                "norm.bias",
            ],
        }
    }

    /// What a block's names begin with.
    pub(super) fn block(self, index: usize) -> String {
        match self {
            Self::HuggingFace => format!("encoder.layer.{index}."),
            Self::Timm => format!("blocks.{index}."),
        }
    }

    /// A block's weights in the order of [`Dinov2Config::block`]; Hugging Face splits the third and fourth.
    pub(super) fn block_names(self) -> [&'static str; 14] {
        match self {
            Self::HuggingFace => [
                "norm1.weight",
                "norm1.bias",
                "attention.attention.{}.weight",
                "attention.attention.{}.bias",
                "attention.output.dense.weight",
                "attention.output.dense.bias",
                "layer_scale1.lambda1",
                "norm2.weight",
                "norm2.bias",
                "mlp.fc1.weight",
                "mlp.fc1.bias",
                "mlp.fc2.weight",
                "mlp.fc2.bias",
                "layer_scale2.lambda1",
            ],
            Self::Timm => [
                "norm1.weight",
                "norm1.bias",
                "attn.qkv.weight",
                "attn.qkv.bias",
                "attn.proj.weight",
                "attn.proj.bias",
                "ls1.gamma",
                "norm2.weight",
                "norm2.bias",
                "mlp.fc1.weight",
                "mlp.fc1.bias",
                "mlp.fc2.weight",
                "mlp.fc2.bias",
                "ls2.gamma",
            ],
        }
    }
}

/// The parts of Hugging Face's split projection, in the order of the joined one.
pub(super) const QUERY_KEY_VALUE: [&str; 3] = ["query", "key", "value"];

impl Dinov2Config {
    /// Patches along a side of the native image.
    pub(super) fn grid(&self) -> usize {
        self.image / self.patch
    }

    /// Shapes of the weights outside the blocks.
    pub(super) fn stem(&self) -> [Vec<usize>; 6] {
        let hidden = self.hidden;
        [
            vec![1, 1, hidden],
            vec![1, 1 + self.grid() * self.grid(), hidden],
            vec![hidden, 3, self.patch, self.patch],
            vec![hidden],
            vec![hidden],
            vec![hidden],
        ]
    }

    /// Shapes of the weights of a block.
    pub(super) fn block(&self) -> [Vec<usize>; 14] {
        let (hidden, wide) = (self.hidden, self.intermediate);
        [
            vec![hidden],
            vec![hidden],
            vec![3 * hidden, hidden],
            vec![3 * hidden],
            vec![hidden, hidden],
            vec![hidden],
            vec![hidden],
            vec![hidden],
            vec![hidden],
            vec![wide, hidden],
            vec![wide],
            vec![hidden, wide],
            vec![hidden],
            vec![hidden],
        ]
    }

    /// The names and shapes of all weights in a checkpoint of this naming.
    pub(super) fn weights(&self, naming: Naming) -> Vec<Expected> {
        let stem = naming.stem().into_iter().zip(self.stem());
        let mut weights: Vec<Expected> = stem.map(|(name, shape)| (name.to_owned(), shape)).collect();
        for index in 0..self.layers {
            let prefix = naming.block(index);
            for (name, shape) in naming.block_names().into_iter().zip(self.block()) {
                if name.contains("{}") {
                    let third: Vec<usize> = [shape[0] / 3].into_iter().chain(shape[1..].iter().copied()).collect();
                    let parts = QUERY_KEY_VALUE.into_iter().map(|part| name.replace("{}", part));
                    weights.extend(parts.map(|name| (format!("{prefix}{name}"), third.clone())));
                } else {
                    weights.push((format!("{prefix}{name}"), shape));
                }
            }
        }
        weights
    }

    /// The shape of a checkpoint: widths and depth from its tensors; heads and epsilon, which no tensor tells, from
    /// `config.json` if there is a Hugging Face one, else 64 wide heads and 1e-6 as in all published models.
    pub(super) fn of(checkpoint: &Checkpoint, naming: Naming, config: Option<&Path>) -> Result<Self, CheckpointError> {
        let misfit = |what: &str| checkpoint.misfit(format!("{what} is not that of a DINOv2"), "is this a DINOv2?");
        let Some(&[1, positions, hidden]) = checkpoint.shape(naming.anchor()) else {
            return Err(misfit(naming.anchor()));
        };
        let Some(&[_, 3, patch, _]) = checkpoint.shape(naming.patch_weight()) else {
            return Err(misfit(naming.patch_weight()));
        };
        let grid = positions.saturating_sub(1).isqrt();
        if grid == 0 || grid * grid + 1 != positions || hidden == 0 {
            return Err(misfit(naming.anchor()));
        }
        if patch == 0 {
            return Err(misfit(naming.patch_weight()));
        }
        let layers = (0..).take_while(|&index| {
            let prefix = naming.block(index);
            checkpoint.names().any(|name| name.starts_with(&prefix))
        });
        let layers = layers.count();
        let wide = naming.block(0) + "mlp.fc1.weight";
        let Some(&[intermediate, _]) = checkpoint.shape(&wide) else { return Err(misfit(&wide)) };
        let mut shape = Self {
            hidden,
            layers,
            heads: (hidden / 64).max(1),
            intermediate,
            patch,
            image: grid * patch,
            layer_scale: 1.0,
            norm_epsilon: 1e-6,
        };
        if let Some(path) = config.filter(|path| path.is_file()) {
            shape.told_by(path)?;
        }
        if hidden % shape.heads != 0 {
            return Err(misfit("the number of heads"));
        }
        Ok(shape)
    }

    fn told_by(&mut self, path: &Path) -> Result<(), CheckpointError> {
        let text = std::fs::read_to_string(path).map_err(CheckpointError::io(path))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| CheckpointError::format(path, error))?;
        if value.get("model_type").is_none() {
            // timm's file, which names an architecture; its tensors tell the rest.
            return Ok(());
        }
        let wrong = |what: String| CheckpointError::format(path, what);
        match value["model_type"].as_str() {
            Some("dinov2") => {}
            _ => return Err(wrong(format!("`model_type` is {}, and must be `dinov2`", value["model_type"]))),
        }
        for (name, supported) in
            [("use_swiglu_ffn", json!(false)), ("qkv_bias", json!(true)), ("hidden_act", json!("gelu"))]
        {
            if let Some(found) = value.get(name).filter(|found| **found != supported) {
                return Err(wrong(format!("`{name}` = {found} is not supported")));
            }
        }
        if let Some(heads) = value["num_attention_heads"].as_u64().and_then(|heads| usize::try_from(heads).ok()) {
            self.heads = heads.max(1);
        }
        if let Some(epsilon) = value["layer_norm_eps"].as_f64() {
            self.norm_epsilon = epsilon;
        }
        Ok(())
    }

    /// The `config.json` of this shape, as transformers reads it.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": ["Dinov2Model"],
            "model_type": "dinov2",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "mlp_ratio": self.intermediate as f64 / self.hidden as f64,
            "hidden_act": "gelu",
            "layer_norm_eps": self.norm_epsilon,
            "image_size": self.image,
            "patch_size": self.patch,
            "num_channels": 3,
            "qkv_bias": true,
            "layerscale_value": self.layer_scale,
            "use_swiglu_ffn": false,
            "use_mask_token": false,
            "torch_dtype": "float32",
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::models::checkpoint::save;

    #[test]
    fn shapes_that_no_picture_fits_are_errors() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let (table, weight) = ("pos_embed", "patch_embed.proj.weight");
        for (positions, patch, told) in [(5, 0, weight), (0, 2, table), (1, 2, table), (4, 2, table)] {
            let zeros = |shape: &[usize]| TensorData::new(vec![0f32; shape.iter().product()], shape.to_vec());
            let tensors =
                vec![(table.to_owned(), zeros(&[1, positions, 4])), (weight.to_owned(), zeros(&[4, 3, patch, patch]))];
            save(&path, tensors).expect("a temporary folder can be written");
            let checkpoint = Checkpoint::open(&path).expect("a good file");
            let error = Dinov2Config::of(&checkpoint, Naming::Timm, None).expect_err("no picture has this").to_string();
            assert!(error.contains(&format!("{told} is not that of a DINOv2")), "{error}");
        }
    }
}
