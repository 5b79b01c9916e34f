//! DINOv2 vision transformers: Hugging Face, timm and original checkpoints, any image size that patches divide.
//!
//! The published features were very probably those of a model in which no weight had been loaded; here a checkpoint
//! of which a single tensor does not fit is an error. Away from the native size the position table is resampled, and
//! Hugging Face and timm do that differently: see [`PositionResampling`].

mod config;
mod positions;

use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::module::{attention, layer_norm};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::models::checkpoint::{self, Checkpoint, CheckpointError};
use crate::models::dense::Dense;
use crate::stats::random::Streams;
pub use config::Dinov2Config;
use config::{Naming, QUERY_KEY_VALUE};
pub use positions::PositionResampling;

/// `(x − mean) / sqrt(var + ε) · weight + bias` over the last dimension.
#[derive(Module, Debug)]
struct Norm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl Norm {
    fn forward(&self, x: Tensor<2>, epsilon: f64) -> Tensor<2> {
        layer_norm(x, self.weight.val(), Some(self.bias.val()), epsilon)
    }
}

/// The embedding of patches: a convolution whose stride is its size, so a product on flattened patches.
#[derive(Module, Debug)]
struct Patches {
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
}

impl Patches {
    /// Pixels `[batch, 3, height, width]` to rows `[batch · patches, hidden]`.
    fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        let [batch, channels, height, width] = pixels.dims();
        let [hidden, _, side, _] = self.weight.val().dims();
        let (rows, columns) = (height / side, width / side);
        let patches = pixels.reshape([batch, channels, rows, side, columns, side]).permute([0, 2, 4, 1, 3, 5]);
        let patches = patches.reshape([batch * rows * columns, channels * side * side]);
        let weight = self.weight.val().reshape([hidden, channels * side * side]);
        patches.matmul(weight.transpose()) + self.bias.val().unsqueeze()
    }
}

/// One pre-norm block with LayerScale.
#[derive(Module, Debug)]
struct Block {
    norm1: Norm,
    qkv: Dense,
    proj: Dense,
    scale1: Param<Tensor<1>>,
    norm2: Norm,
    fc1: Dense,
    fc2: Dense,
    scale2: Param<Tensor<1>>,
}

impl Block {
    /// Rows `[batch · tokens, hidden]` to rows of the same shape.
    fn forward(&self, x: Tensor<2>, (batch, tokens): (usize, usize), config: &Dinov2Config) -> Tensor<2> {
        let epsilon = config.norm_epsilon;
        let (heads, width) = (config.heads, config.hidden / config.heads);
        let joined = self.qkv.forward(self.norm1.forward(x.clone(), epsilon));
        let joined = joined.reshape([batch, tokens, 3, heads, width]);
        let part = |index| joined.clone().narrow(2, index, 1).squeeze_dim::<4>(2).swap_dims(1, 2);
        let mixed = attend(part(0), part(1), part(2));
        let mixed = mixed.swap_dims(1, 2).reshape([batch * tokens, config.hidden]);
        let x = x + self.proj.forward(mixed) * self.scale1.val().unsqueeze();
        let inner = gelu(self.fc1.forward(self.norm2.forward(x.clone(), epsilon)));
        x + self.fc2.forward(inner) * self.scale2.val().unsqueeze()
    }
}

/// softmax(q·kᵀ/√width)·v on `[batch, heads, tokens, width]`. Without autodiff this is the backend's own attention,
/// which keeps no scores; there is neither mask nor soft cap here, the two in which LibTorch's differs.
fn attend(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    if !query.is_autodiff() {
        return attention(query, key, value, None, None, AttentionModuleOptions::default());
    }
    let scale = (query.dims()[3] as f64).sqrt().recip();
    softmax(query.mul_scalar(scale).matmul(key.swap_dims(2, 3)), 3).matmul(value)
}

/// A DINOv2 vision transformer, f32.
#[derive(Module, Debug)]
pub struct Dinov2 {
    cls_token: Param<Tensor<3>>,
    positions: Param<Tensor<3>>,
    patches: Patches,
    blocks: Vec<Block>,
    norm: Norm,
    #[module(skip)]
    config: Dinov2Config,
    #[module(skip)]
    resampling: PositionResampling,
}

impl Dinov2 {
    /// Reads a Hugging Face or timm folder, or a single file with the names of either (the original's are timm's),
    /// `.pt` and `.pth` included. What the names begin with (`student_backbone.backbone.`) is found and taken off.
    ///
    /// # Errors
    /// No DINOv2, or one of which a tensor is missing, left over or of the wrong shape (`mask_token` alone may be
    /// there or not: it is never used outside training).
    pub fn load(path: &Path, device: &Device, resampling: PositionResampling) -> Result<Self, CheckpointError> {
        let (checkpoint, naming, config) = Self::open(path)?;
        checkpoint.check(&config.weights(naming), &["embeddings.mask_token", "mask_token"])?;
        let data = |name: &str, _: &[usize]| match name.split_once("{}") {
            None => checkpoint.data(name, DType::F32),
            Some((before, after)) => {
                let (mut joined, mut shape) = (Vec::new(), Vec::new());
                for part in QUERY_KEY_VALUE {
                    let (values, part_shape) = checkpoint.floats(&format!("{before}{part}{after}"))?;
                    joined.extend(values);
                    shape = part_shape;
                }
                shape[0] *= 3;
                Ok(TensorData::new(joined, shape))
            }
        };
        Self::build(&config, naming, resampling, data, device)
    }

    /// The shape of the model at `path`, from the names and shapes of its tensors; no weight is read.
    ///
    /// # Errors
    /// As [`Dinov2::load`].
    pub fn shape(path: &Path) -> Result<Dinov2Config, CheckpointError> {
        Ok(Self::open(path)?.2)
    }

    fn open(path: &Path) -> Result<(Checkpoint, Naming, Dinov2Config), CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        let is_hf = checkpoint.names().any(|name| name.ends_with(Naming::HuggingFace.anchor()));
        let naming = if is_hf { Naming::HuggingFace } else { Naming::Timm };
        let checkpoint = checkpoint.part_with(naming.anchor())?;
        let folder = if path.is_dir() { Some(path.to_owned()) } else { path.parent().map(PathBuf::from) };
        let file = folder.map(|folder| folder.join("config.json"));
        let config = Dinov2Config::of(&checkpoint, naming, file.as_deref())?;
        Ok((checkpoint, naming, config))
    }

    /// A model with random weights as timm draws them: matrices and positions normal with deviation 0.02, CLS 1e-6,
    /// patches uniform within 1/√inputs, biases 0, norms 1, LayerScale as configured. Each weight is drawn from the
    /// stream of its own timm name.
    pub fn init(config: &Dinov2Config, streams: &Streams, resampling: PositionResampling, device: &Device) -> Self {
        let drawn = |name: &str, shape: &[usize]| {
            let count: usize = shape.iter().product();
            let mut stream = streams.named(name);
            let values = if name.ends_with(".gamma") {
                vec![config.layer_scale as f32; count]
            } else if name.starts_with("patch_embed") {
                let bound = ((3 * config.patch * config.patch) as f64).sqrt().recip();
                stream.uniforms(count, -bound, bound)
            } else if name == "cls_token" {
                stream.normals(count, 1e-6)
            } else if shape.len() > 1 {
                stream.normals(count, 0.02)
            } else {
                vec![if name.contains("norm") && name.ends_with(".weight") { 1.0 } else { 0.0 }; count]
            };
            Ok::<_, std::convert::Infallible>(TensorData::new(values, shape.to_vec()))
        };
        match Self::build(config, Naming::Timm, resampling, drawn, device) {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }

    fn build<E>(
        config: &Dinov2Config,
        naming: Naming,
        resampling: PositionResampling,
        mut data: impl FnMut(&str, &[usize]) -> Result<TensorData, E>,
        device: &Device,
    ) -> Result<Self, E> {
        let mut blocks = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let prefix = naming.block(index);
            let mut made = Vec::with_capacity(14);
            for (name, shape) in naming.block_names().into_iter().zip(config.block()) {
                made.push(data(&format!("{prefix}{name}"), &shape)?);
            }
            let made: [TensorData; 14] = made.try_into().expect("a block has fourteen names");
            let [g1, b1, qkv, qkv_bias, proj, proj_bias, s1, g2, b2, fc1, fc1_bias, fc2, fc2_bias, s2] = made;
            let norm = |g, b| Norm { weight: parameter(g, device), bias: parameter(b, device) };
            let dense = |w, b| Dense { weight: parameter(w, device), bias: parameter(b, device) };
            blocks.push(Block {
                norm1: norm(g1, b1),
                qkv: dense(qkv, qkv_bias),
                proj: dense(proj, proj_bias),
                scale1: parameter(s1, device),
                norm2: norm(g2, b2),
                fc1: dense(fc1, fc1_bias),
                fc2: dense(fc2, fc2_bias),
                scale2: parameter(s2, device),
            });
        }
        let mut made = Vec::with_capacity(6);
        for (name, shape) in naming.stem().into_iter().zip(config.stem()) {
            made.push(data(name, &shape)?);
        }
        let [cls, positions, patches, patches_bias, gain, bias]: [TensorData; 6] =
            made.try_into().expect("the stem has six names");
        Ok(Self {
            cls_token: parameter(cls, device),
            positions: parameter(positions, device),
            patches: Patches { weight: parameter(patches, device), bias: parameter(patches_bias, device) },
            blocks,
            norm: Norm { weight: parameter(gain, device), bias: parameter(bias, device) },
            config: config.clone(),
            resampling,
        })
    }

    /// Writes `config.json` and `model.safetensors` with Hugging Face's names.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join("config.json");
        std::fs::write(&path, format!("{:#}\n", self.config.to_json())).map_err(CheckpointError::io(&path))?;
        let naming = Naming::HuggingFace;
        let vector = |weight: &Param<Tensor<1>>| weight.val().into_data();
        let matrix = |weight: &Param<Tensor<2>>| weight.val().into_data();
        let stem = [
            self.cls_token.val().into_data(),
            self.positions.val().into_data(),
            self.patches.weight.val().into_data(),
            vector(&self.patches.bias),
            vector(&self.norm.weight),
            vector(&self.norm.bias),
        ];
        let mut tensors: Vec<(String, TensorData)> = naming.stem().into_iter().map(str::to_owned).zip(stem).collect();
        for (index, block) in self.blocks.iter().enumerate() {
            let prefix = naming.block(index);
            let third = |part: usize| part * self.config.hidden..(part + 1) * self.config.hidden;
            for (part, name) in QUERY_KEY_VALUE.into_iter().enumerate() {
                let weight = block.qkv.weight.val().slice([third(part)]).into_data();
                let bias = block.qkv.bias.val().slice([third(part)]).into_data();
                tensors.push((format!("{prefix}attention.attention.{name}.weight"), weight));
                tensors.push((format!("{prefix}attention.attention.{name}.bias"), bias));
            }
            let values = [
                vector(&block.norm1.weight),
                vector(&block.norm1.bias),
                matrix(&block.proj.weight),
                vector(&block.proj.bias),
                vector(&block.scale1),
                vector(&block.norm2.weight),
                vector(&block.norm2.bias),
                matrix(&block.fc1.weight),
                vector(&block.fc1.bias),
                matrix(&block.fc2.weight),
                vector(&block.fc2.bias),
                vector(&block.scale2),
            ];
            let names = naming.block_names().into_iter().filter(|name| !name.contains("{}"));
            tensors.extend(names.map(|name| format!("{prefix}{name}")).zip(values));
        }
        checkpoint::save(&folder.join("model.safetensors"), tensors)
    }

    /// The shape of the model.
    pub fn config(&self) -> &Dinov2Config {
        &self.config
    }

    /// Where the weights lie.
    pub fn device(&self) -> Device {
        self.cls_token.val().device()
    }

    /// The tokens after the final norm, `[batch, 1 + patches, hidden]` with CLS first, of normalised pixels
    /// `[batch, 3, height, width]` in row-major order of patches.
    ///
    /// # Panics
    /// When the patch side does not divide height and width; [`Dinov2::fits`] tells beforehand.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        let [batch, _, height, width] = pixels.dims();
        assert!(self.fits(height, width), "an image of {height} x {width} is no whole number of patches");
        let (side, hidden) = (self.config.patch, self.config.hidden);
        let (rows, columns) = (height / side, width / side);
        let patches = self.patches.forward(pixels);
        let (cls_position, positions) = self.positions_for(rows, columns);
        let patches = patches.reshape([batch, rows * columns, hidden]) + positions;
        let cls = (self.cls_token.val() + cls_position).expand([batch, 1, hidden]);
        let tokens = 1 + rows * columns;
        let mut x = Tensor::cat(vec![cls, patches], 1).reshape([batch * tokens, hidden]);
        for block in &self.blocks {
            x = block.forward(x, (batch, tokens), &self.config);
        }
        self.norm.forward(x, self.config.norm_epsilon).reshape([batch, tokens, hidden])
    }

    /// The CLS token after the final norm, `[batch, hidden]`, of normalised pixels `[batch, 3, height, width]`.
    pub fn cls(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.forward(pixels).narrow(1, 0, 1).squeeze_dim(1)
    }

    /// Whether images of this size, in pixels, are a whole number of patches.
    pub fn fits(&self, height: usize, width: usize) -> bool {
        let side = self.config.patch;
        height >= side && width >= side && height.is_multiple_of(side) && width.is_multiple_of(side)
    }

    /// The positions of CLS `[1, 1, hidden]` and of a grid of patches `[1, rows · columns, hidden]`.
    fn positions_for(&self, rows: usize, columns: usize) -> (Tensor<3>, Tensor<3>) {
        let (grid, hidden) = (self.config.grid(), self.config.hidden);
        let table = self.positions.val();
        let cls = table.clone().narrow(1, 0, 1);
        let patches = table.narrow(1, 1, grid * grid);
        if (rows, columns) == (grid, grid) {
            return (cls, patches);
        }
        let device = self.device().without_autodiff();
        let weights = |to| {
            let data = TensorData::new(positions::weights(grid, to, self.resampling), [to, grid]);
            Tensor::<2>::from_data(data, (&device, DType::F32))
        };
        let tall = weights(rows).matmul(patches.reshape([grid, grid * hidden]));
        let wide = weights(columns).unsqueeze::<3>().matmul(tall.reshape([rows, grid, hidden]));
        (cls, wide.reshape([1, rows * columns, hidden]))
    }
}

fn parameter<const D: usize>(data: TensorData, device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(data, (device, DType::F32)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::device;

    fn small() -> Dinov2Config {
        Dinov2Config {
            hidden: 64,
            layers: 2,
            heads: 4,
            intermediate: 128,
            image: 56,
            layer_scale: 1.0,
            ..Dinov2Config::default()
        }
    }

    fn values(tensor: Tensor<3>) -> Vec<f32> {
        tensor.into_data().try_into_vec().expect("f32")
    }

    #[test]
    fn a_random_model_is_the_same_for_the_same_seed_and_is_read_back() {
        let device = device::parse("cpu").expect("the default backend");
        let pixels = Streams::new(7, "test").named("pixels").normals(3 * 56 * 56, 1.0);
        let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, 56, 56]), &device);
        let made = |seed| Dinov2::init(&small(), &Streams::new(seed, "test"), PositionResampling::Timm, &device);
        let tokens = values(made(0).forward(pixels.clone()));
        assert_eq!(tokens, values(made(0).forward(pixels.clone())));
        assert_ne!(tokens, values(made(1).forward(pixels.clone())));
        let folder = tempfile::tempdir().expect("a temporary folder");
        made(0).save(folder.path()).expect("a temporary folder can be written");
        let read = Dinov2::load(folder.path(), &device, PositionResampling::Timm).expect("our own folder");
        assert_eq!(read.config(), &small());
        assert_eq!(tokens, values(read.forward(pixels)));
    }

    #[test]
    fn timms_layer_scale_makes_an_untrained_model_nearly_constant() {
        let device = device::parse("cpu").expect("the default backend");
        let spread = |layer_scale| {
            let config = Dinov2Config { layer_scale, ..small() };
            let model = Dinov2::init(&config, &Streams::new(0, "test"), PositionResampling::Timm, &device);
            let pixels = Streams::new(7, "test").named("pixels").normals(2 * 3 * 56 * 56, 1.0);
            let cls = model.cls(Tensor::from_data(TensorData::new(pixels, [2, 3, 56, 56]), &device));
            let cls: Vec<f32> = cls.into_data().try_into_vec().expect("f32");
            let (a, b) = cls.split_at(64);
            let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>();
            1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        let (constant, random) = (spread(1e-5), spread(1.0));
        assert!(constant < 1e-4 && random > 100.0 * constant.abs(), "{constant:.2e} and {random:.2e}");
    }

    #[test]
    fn a_prefix_is_taken_off_and_a_missing_tensor_is_named() {
        let device = device::parse("cpu").expect("the default backend");
        let fixture = Path::new("tests/fixtures/dinov2_tiny");
        let source = Checkpoint::open(&fixture.join("timm_model.safetensors")).expect("a fixture");
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::copy(fixture.join("config.json"), folder.path().join("config.json")).expect("a fixture");
        let path = folder.path().join("checkpoint.safetensors");
        let written = |leave_out: &str| {
            let names = source.names().filter(|name| *name != leave_out);
            let data = |name: &String| source.data(name, DType::F32).expect("a fixture");
            let named = |name: &String| (format!("student_backbone.backbone.{name}"), data(name));
            let head = ("student_head.weight".to_owned(), TensorData::new(vec![0f32; 4], [2, 2]));
            let tensors = names.map(named).chain([head]).collect();
            checkpoint::save(&path, tensors).expect("a temporary folder can be written");
        };
        written("");
        let model = Dinov2::load(&path, &device, PositionResampling::Timm).expect("the student of a checkpoint");
        assert_eq!((model.config().heads, model.config().layers), (4, 3));
        written("blocks.1.attn.qkv.bias");
        let error = Dinov2::load(&path, &device, PositionResampling::Timm).expect_err("a tensor is missing");
        assert!(error.to_string().contains("1 missing: `blocks.1.attn.qkv.bias`"), "{error}");
    }
}
