//! The projector: from visual features to vectors in the embedding space of the language model.
//!
//! `original` is that of the original project, ScaleShift – Linear – GELU – Dropout – Linear – ScaleShift, with its
//! checkpoint's key names (`net.0.g`, `net.1.weight`, …); `layer_norm` is its variant without ScaleShift, LayerNorm –
//! Linear – GELU – Dropout – Linear. `mlp` is fc1 – GELU – fc2, `linear` one matrix between two ScaleShifts. GELU is the
//! exact one.
//! Dropout factors are made by the caller from its random streams, so that nothing here has hidden state.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::activation::gelu;
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Checkpoint, CheckpointError, Expected};
use super::dense::Dense;
use crate::stats::random::Streams;

/// Of ScaleShift, as in the original project until November 2025.
pub const SCALE_SHIFT_EPSILON: f64 = 1e-6;

/// Which layers the projector has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// ScaleShift – Linear – GELU – Dropout – Linear – ScaleShift, as in the original project.
    #[default]
    Original,
    /// LayerNorm – Linear – GELU – Dropout – Linear: the original's variant without ScaleShift.
    LayerNorm,
    /// Linear – GELU – Dropout – Linear.
    Mlp,
    /// ScaleShift – Linear – ScaleShift: the same norms, and nothing between them but one matrix (a control of capacity,
    /// after LiMBeR, arXiv 2209.15162).
    Linear,
}

/// The shape of a projector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Which layers it has.
    pub layers: Layers,
    /// Width of the features.
    pub input: usize,
    /// Width between the two linear layers; of `linear`, which has one, the output's.
    pub hidden: usize,
    /// Width of the language model.
    pub output: usize,
    /// Added to the mean square in ScaleShift, to the variance in LayerNorm.
    pub epsilon: f64,
    /// ScaleShift holds its input and its gain within ± this, as the original project since November 2025 (10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<f64>,
    /// Probability that training sets a hidden value to zero.
    pub dropout: f64,
}

impl ProjectorConfig {
    /// The original's projector from features of width `input` into a model of width `output`: hidden width as the
    /// output, epsilon 1e-6, no clamp, dropout 0.1.
    pub fn original(input: usize, output: usize) -> Self {
        Self {
            layers: Layers::Original,
            input,
            hidden: output,
            output,
            epsilon: SCALE_SHIFT_EPSILON,
            clamp: None,
            dropout: 0.1,
        }
    }

    /// The shape of a checkpoint, read off its names and shapes; epsilon, clamp and dropout, which no tensor tells, are
    /// those of [`ProjectorConfig::original`].
    ///
    /// # Errors
    /// The tensors are not those of a projector.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let (layers, first, second) = if checkpoint.contains("fc1.weight") {
            (Layers::Mlp, "fc1.weight", "fc2.weight")
        } else if checkpoint.contains("net.0.weight") {
            (Layers::LayerNorm, "net.1.weight", "net.4.weight")
        } else if checkpoint.contains("net.2.g") {
            (Layers::Linear, "net.1.weight", "net.1.weight")
        } else {
            (Layers::Original, "net.1.weight", "net.4.weight")
        };
        let dims = |name| match checkpoint.shape(name) {
            Some(&[output, input]) => Ok((output, input)),
            _ => Err(checkpoint.misfit(format!("there is no matrix `{name}`"), "is this a projector?")),
        };
        let ((hidden, input), (output, _)) = (dims(first)?, dims(second)?);
        Ok(Self { layers, hidden, input, output, ..Self::original(input, output) })
    }

    fn weights(&self) -> Vec<Expected> {
        let (input, hidden, output) = (self.input, self.hidden, self.output);
        let weights = match self.layers {
            Layers::Original => vec![
                ("net.0.g", vec![input]),
                ("net.0.b", vec![input]),
                ("net.1.weight", vec![hidden, input]),
                ("net.1.bias", vec![hidden]),
                ("net.4.weight", vec![output, hidden]),
                ("net.4.bias", vec![output]),
                ("net.5.g", vec![output]),
                ("net.5.b", vec![output]),
            ],
            Layers::LayerNorm => vec![
                ("net.0.weight", vec![input]),
                ("net.0.bias", vec![input]),
                ("net.1.weight", vec![hidden, input]),
                ("net.1.bias", vec![hidden]),
                ("net.4.weight", vec![output, hidden]),
                ("net.4.bias", vec![output]),
            ],
            Layers::Mlp => vec![
                ("fc1.weight", vec![hidden, input]),
                ("fc1.bias", vec![hidden]),
                ("fc2.weight", vec![output, hidden]),
                ("fc2.bias", vec![output]),
            ],
            Layers::Linear => vec![
                ("net.0.g", vec![input]),
                ("net.0.b", vec![input]),
                ("net.1.weight", vec![output, input]),
                ("net.1.bias", vec![output]),
                ("net.2.g", vec![output]),
                ("net.2.b", vec![output]),
            ],
        };
        weights.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect()
    }
}

/// ScaleShift, `x / sqrt(mean(x²) + ε) · g + b` over the last dimension, or LayerNorm, the same of `x − mean(x)`.
#[derive(Module, Debug)]
struct ScaleShift {
    g: Param<Tensor<1>>,
    b: Param<Tensor<1>>,
}

impl ScaleShift {
    fn forward(&self, x: Tensor<2>, config: &ProjectorConfig) -> Tensor<2> {
        let (mut x, mut gain) = (x, self.g.val());
        if config.layers == Layers::LayerNorm {
            x = x.clone() - x.mean_dim(1);
        } else if let Some(bound) = config.clamp {
            x = x.clamp(-bound, bound);
            gain = gain.clamp(-bound, bound);
        }
        let root = (x.clone() * x.clone()).mean_dim(1).add_scalar(config.epsilon).sqrt();
        x / root * gain.unsqueeze() + self.b.val().unsqueeze()
    }
}

/// A projector, f32. On an autodiff device all its weights ask for gradients.
#[derive(Module, Debug)]
pub struct Projector {
    scale_in: Option<ScaleShift>,
    first: Dense,
    second: Option<Dense>,
    scale_out: Option<ScaleShift>,
    #[module(skip)]
    config: ProjectorConfig,
}

impl Projector {
    /// A projector with PyTorch's default initial values, uniform within 1/√inputs, drawn from the streams of the
    /// weights' names. `gain_out` is the gain of the last ScaleShift (see [`gain_out`]), which `original` and `linear` have.
    pub fn init(config: &ProjectorConfig, gain_out: f32, streams: &Streams, device: &Device) -> Self {
        let drawn = |name: &str, shape: &[usize]| {
            let count = shape.iter().product();
            let inputs = if name.contains(".1.") || name.contains("fc1") { config.input } else { config.hidden };
            let bound = (inputs as f64).sqrt().recip();
            let values = match name {
                "net.0.g" | "net.0.weight" => vec![1.0; count],
                "net.5.g" | "net.2.g" => vec![gain_out; count],
                "net.0.b" | "net.0.bias" | "net.5.b" | "net.2.b" => vec![0.0; count],
                _ => streams.named(name).uniforms(count, -bound, bound),
            };
            Ok::<_, std::convert::Infallible>(TensorData::new(values, shape.to_vec()))
        };
        match Self::build(config, drawn, device) {
            Ok(projector) => projector,
            Err(never) => match never {},
        }
    }

    /// Reads a projector from safetensors or from the original project's `.pt`, whatever its keys are prefixed with.
    /// With `config = None` the shape is read off the file.
    ///
    /// # Errors
    /// The file is no projector, or not one of the given shape.
    pub fn load(path: &Path, config: Option<&ProjectorConfig>, device: &Device) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        let is_mlp = checkpoint.names().any(|name| name.ends_with("fc1.weight"));
        let checkpoint = checkpoint.part_with(if is_mlp { "fc1.weight" } else { "net.1.weight" })?;
        let config = config.map_or_else(|| ProjectorConfig::of(&checkpoint), |config| Ok(config.clone()))?;
        checkpoint.check(&config.weights(), &[])?;
        Self::build(&config, |name, _| checkpoint.data(name, DType::F32), device)
    }

    /// A copy of the weights on `device`.
    pub fn on(&self, device: &Device) -> Self {
        let mut values = self.named_values().into_iter().map(|(_, data)| data);
        let next = |_: &str, _: &[usize]| {
            Ok::<_, std::convert::Infallible>(values.next().expect("a projector has every weight of its shape"))
        };
        match Self::build(&self.config, next, device) {
            Ok(projector) => projector,
            Err(never) => match never {},
        }
    }

    /// The same weights with other settings of the norms, which no tensor tells.
    pub fn with_norms(mut self, epsilon: f64, clamp: Option<f64>) -> Self {
        self.config.epsilon = epsilon;
        self.config.clamp = clamp;
        self
    }

    /// Writes safetensors with the original's key names.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        checkpoint::save(path, self.named_values())
    }

    /// The weights by their key names, on the host.
    pub fn named_values(&self) -> Vec<(String, TensorData)> {
        let mut values: Vec<TensorData> = Vec::new();
        let scale = |scale: &Option<ScaleShift>, values: &mut Vec<TensorData>| {
            values.extend(scale.iter().flat_map(|s| [s.g.val().into_data(), s.b.val().into_data()]));
        };
        scale(&self.scale_in, &mut values);
        for dense in [Some(&self.first), self.second.as_ref()].into_iter().flatten() {
            values.extend([dense.weight.val().into_data(), dense.bias.val().into_data()]);
        }
        scale(&self.scale_out, &mut values);
        self.config.weights().into_iter().map(|(name, _)| name).zip(values).collect()
    }

    /// Gradients of the weights by their key names, on the host; zero for a weight that has none.
    pub fn named_gradients(&self, gradients: &Gradients) -> Vec<(String, TensorData)> {
        fn of<const D: usize>(weight: &Param<Tensor<D>>, gradients: &Gradients) -> TensorData {
            let gradient = weight.val().grad(gradients);
            gradient.unwrap_or_else(|| weight.val().without_autodiff().zeros_like()).into_data()
        }
        let mut values: Vec<TensorData> = Vec::new();
        let scale = |scale: &Option<ScaleShift>, values: &mut Vec<TensorData>| {
            values.extend(scale.iter().flat_map(|s| [of(&s.g, gradients), of(&s.b, gradients)]));
        };
        scale(&self.scale_in, &mut values);
        for dense in [Some(&self.first), self.second.as_ref()].into_iter().flatten() {
            values.extend([of(&dense.weight, gradients), of(&dense.bias, gradients)]);
        }
        scale(&self.scale_out, &mut values);
        self.config.weights().into_iter().map(|(name, _)| name).zip(values).collect()
    }

    /// Where the weights lie.
    pub fn device(&self) -> Device {
        self.first.weight.val().device()
    }

    fn build<E>(
        config: &ProjectorConfig,
        data: impl FnMut(&str, &[usize]) -> Result<TensorData, E>,
        device: &Device,
    ) -> Result<Self, E> {
        let mut data = data;
        let mut made = std::collections::VecDeque::new();
        for (name, shape) in config.weights() {
            made.push_back(data(&name, &shape)?);
        }
        let mut next = || made.pop_front().expect("`weights` lists every tensor in this order");
        let scale = |wanted: bool, next: &mut dyn FnMut() -> TensorData| {
            wanted.then(|| ScaleShift { g: parameter(next(), device), b: parameter(next(), device) })
        };
        let scale_in = scale(config.layers != Layers::Mlp, &mut next);
        let first = Dense { weight: parameter(next(), device), bias: parameter(next(), device) };
        let has_second = config.layers != Layers::Linear;
        let second = has_second.then(|| Dense { weight: parameter(next(), device), bias: parameter(next(), device) });
        let scale_out = scale(matches!(config.layers, Layers::Original | Layers::Linear), &mut next);
        Ok(Self { scale_in, first, second, scale_out, config: config.clone() })
    }

    /// The shape of the projector.
    pub fn config(&self) -> &ProjectorConfig {
        &self.config
    }

    /// Vectors `[rows, output]` of features `[rows, input]`. `dropout` are factors `[rows, hidden]` (0 or 1/(1 − p),
    /// from `Stream::dropout`) while training; evaluation passes `None`, and `linear` has nothing to drop.
    pub fn forward(&self, x: Tensor<2>, dropout: Option<Tensor<2>>) -> Tensor<2> {
        let x = match &self.scale_in {
            Some(scale) => scale.forward(x, &self.config),
            None => x,
        };
        let x = self.first.forward(x);
        let x = match (&self.second, dropout) {
            (Some(second), Some(factors)) => second.forward(gelu(x) * factors),
            (Some(second), None) => second.forward(gelu(x)),
            (None, _) => x,
        };
        match &self.scale_out {
            Some(scale) => scale.forward(x, &self.config),
            None => x,
        }
    }
}

fn parameter<const D: usize>(data: TensorData, device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(data, (device, DType::F32)))
}

/// The gain that makes projected vectors as long as words: the median over vocabulary rows of the root mean square of
/// the embedding matrix `[vocabulary, hidden]`, unscaled. Of an even number of rows the lower middle one, as in torch.
pub fn gain_out(embedding: Tensor<2>) -> f32 {
    let embedding = embedding.without_autodiff().cast(DType::F32);
    let squares = (embedding.clone() * embedding).mean_dim(1).sqrt();
    let mut sizes: Vec<f32> = squares.into_data().try_into_vec().expect("the tensor was cast to f32 just before");
    let middle = sizes.len().saturating_sub(1) / 2;
    if sizes.is_empty() { 1.0 } else { *sizes.select_nth_unstable_by(middle, f32::total_cmp).1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::device;

    #[test]
    fn the_original_shape_has_the_published_number_of_parameters() {
        let config = ProjectorConfig::original(768, 2304);
        let device = device::parse("cpu").expect("the default backend");
        let projector = Projector::init(&config, 0.05, &Streams::new(0, "test"), &device);
        assert_eq!(projector.num_params(), 7_088_640);
    }

    #[test]
    fn what_is_saved_is_read_back_and_its_shape_is_seen() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let device = device::parse("cpu").expect("the default backend");
        for layers in [Layers::Original, Layers::LayerNorm, Layers::Mlp, Layers::Linear] {
            let hidden = if layers == Layers::Linear { 4 } else { 5 };
            let config = ProjectorConfig { layers, hidden, ..ProjectorConfig::original(3, 4) };
            let projector = Projector::init(&config, 0.1, &Streams::new(1, "test"), &device);
            let path = folder.path().join("projector.safetensors");
            projector.save(&path).expect("a temporary folder can be written");
            let read = Projector::load(&path, None, &device).expect("our own file");
            assert_eq!(read.config(), &config);
            assert_eq!(read.named_values(), projector.named_values());
            let wrong = ProjectorConfig { input: 6, ..config };
            let error = Projector::load(&path, Some(&wrong), &device).expect_err("another width").to_string();
            assert!(error.contains("of another shape"), "{error}");
        }
    }

    #[test]
    fn the_linear_projector_is_one_matrix_between_norms() {
        let device = device::parse("cpu").expect("the default backend");
        let config = ProjectorConfig { layers: Layers::Linear, ..ProjectorConfig::original(2, 2) };
        let values = |name: &str, shape: &[usize]| {
            let values: Vec<f32> = match name {
                "net.1.weight" => vec![0.0, 1.0, 2.0, 0.0],
                "net.2.g" => vec![3.0, 3.0],
                name if name.ends_with(".g") => vec![1.0, 1.0],
                _ => vec![0.0, 0.0],
            };
            Ok::<_, std::convert::Infallible>(TensorData::new(values, shape.to_vec()))
        };
        let Ok(projector) = Projector::build(&config, values, &device);
        assert_eq!(projector.num_params(), 2 + 2 + 4 + 2 + 2 + 2);
        // (3, 4) has the root mean square √12.5; swapped, with the first doubled after, (4, 6)/√12.5 · 3/√(26/12.5).
        let out = projector.forward(Tensor::from_floats([[3.0, 4.0]], &device), None);
        let out: Vec<f32> = out.into_data().try_into_vec().expect("f32");
        let expected = [4.0, 6.0].map(|x: f32| 3.0 * x / 26f32.sqrt());
        assert!(out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{out:?} against {expected:?}");
    }

    #[test]
    fn the_originals_pt_files_are_read() {
        let device = device::parse("cpu").expect("the default backend");
        let path = Path::new("tests/data/projector_only.pt");
        let projector = Projector::load(path, None, &device).expect("a file as torch.save writes it");
        let config = ProjectorConfig { hidden: 4, ..ProjectorConfig::original(3, 4) };
        assert_eq!(projector.config(), &config);
        let values: Vec<f32> =
            projector.named_values().into_iter().flat_map(|(_, data)| data.try_into_vec().expect("f32")).collect();
        let expected = (0..values.len()).map(|index| index as f32 * 0.01);
        assert!(values.len() == 50 && values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{values:?}");
    }

    /// By hand, on x = [3, −30]: ScaleShift with g = [2, 20], b = [0.5, −1] has the root of (9 + 900) / 2 + 1e-6 below;
    /// clamped to ± 10 it is ScaleShift of [3, −10] with g = [2, 10] and the root of 54.5 + 1e-5; LayerNorm with the same
    /// g and no b sees ± 16.5 about the mean, whose root is 16.5.
    #[test]
    fn norms_and_their_clamps_follow_the_formula() {
        let device = device::parse("cpu").expect("the default backend");
        let norm = |b: [f32; 2], config: &ProjectorConfig| -> Vec<f32> {
            let part = |values: [f32; 2]| Param::from_tensor(Tensor::from_floats(values, &device));
            let x = Tensor::<2>::from_floats([[3.0, -30.0]], &device);
            let y = ScaleShift { g: part([2.0, 20.0]), b: part(b) }.forward(x, config);
            y.into_data().try_into_vec().expect("f32")
        };
        let original = ProjectorConfig::original(2, 2);
        let clamped = ProjectorConfig { epsilon: 1e-5, clamp: Some(10.0), ..original.clone() };
        let layer_norm = ProjectorConfig { layers: Layers::LayerNorm, epsilon: 1e-5, ..original.clone() };
        let cases = [
            (norm([0.5, -1.0], &original), [0.781_439, -29.143_902]),
            (norm([0.5, -1.0], &clamped), [1.312_742, -14.545_708]),
            (norm([0.0, 0.0], &layer_norm), [2.0, -20.0]),
        ];
        for (ours, expected) in cases {
            for (ours, expected) in ours.iter().zip(expected) {
                assert!((ours - expected).abs() < 1e-4, "{ours} and {expected}");
            }
        }
    }

    #[test]
    fn the_gain_is_the_lower_median_of_row_sizes() {
        let device = device::parse("cpu").expect("the default backend");
        let rows = Tensor::<2>::from_floats([[3.0, 3.0], [1.0, 1.0], [2.0, 2.0], [4.0, 4.0]], &device);
        assert_eq!(gain_out(rows), 2.0);
    }
}
