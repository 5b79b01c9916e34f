//! AdamW exactly as `torch.optim.AdamW`, with clipping by the global norm as `clip_grad_norm_` and the learning-rate
//! schedule of Hugging Face. It works on every [`Module`]; its state is kept by the path of each parameter in the
//! module, so that it can be written to a checkpoint and read back to go on with the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};

use super::checkpoint::{self, Checkpoint, CheckpointError};

/// Settings of [`AdamW`]. The default is torch's, without clipping.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients and of their squares.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled: every step takes `learning rate · weight decay` of each weight away. Applied to all parameters.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; above it they are scaled down.
    pub clip: Option<f64>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: (0.9, 0.999), epsilon: 1e-8, weight_decay: 0.01, clip: None }
    }
}

/// Running means of one parameter's gradient and of its square, flat.
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
    steps: u64,
}

/// The optimizer with its state.
pub struct AdamW {
    config: AdamWConfig,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// An optimizer that has not stepped yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, moments: BTreeMap::new() }
    }

    /// One step. Returns the module and the global norm of the gradients before clipping; a norm that is not finite
    /// means that training has diverged, and then the module's weights are not finite either. Parameters without a
    /// gradient stay as they are, as in torch.
    pub fn step<M: Module>(&mut self, module: M, gradients: &Gradients, learning_rate: f64) -> (M, f64) {
        let mut squares = Squares { gradients, sums: Vec::new() };
        module.visit(&mut squares);
        if squares.sums.is_empty() {
            return (module, 0.0);
        }
        let sums: Vec<f32> = Tensor::cat(squares.sums, 0).into_data().try_into_vec().expect("sums were cast to f32");
        let norm = sums.iter().map(|&sum| f64::from(sum)).sum::<f64>().sqrt();
        let scale = self.config.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        let path = Vec::new();
        let mut update = Update { optimizer: self, gradients, learning_rate, scale, path };
        (module.map(&mut update), norm)
    }

    /// Writes the state as safetensors: `NAME.first`, `NAME.second` and `NAME.steps` of every parameter.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        let mut tensors = Vec::with_capacity(3 * self.moments.len());
        for (name, moments) in &self.moments {
            tensors.push((format!("{name}.first"), moments.first.clone().into_data()));
            tensors.push((format!("{name}.second"), moments.second.clone().into_data()));
            // Whole numbers up to 2^24 are exact in f32, and more steps than that nobody takes.
            tensors.push((format!("{name}.steps"), TensorData::new(vec![moments.steps as f32], [1])));
        }
        checkpoint::save(path, tensors)
    }

    /// Reads the state back, onto the device of the module that it belongs to.
    ///
    /// # Errors
    /// The file is not a state written by [`AdamW::save`].
    pub fn load(config: AdamWConfig, path: &Path, device: &Device) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        let device = device.clone().without_autodiff();
        let mut moments = BTreeMap::new();
        let tensor = |name: String| {
            let data = checkpoint.data(&name, DType::F32)?;
            Ok::<_, CheckpointError>(Tensor::from_data(data, (&device, DType::F32)))
        };
        for name in checkpoint.names().filter_map(|name| name.strip_suffix(".first")) {
            let steps = checkpoint.floats(&format!("{name}.steps"))?.0.first().map_or(0, |&steps| steps as u64);
            let (first, second) = (tensor(format!("{name}.first"))?, tensor(format!("{name}.second"))?);
            moments.insert(name.to_owned(), Moments { first, second, steps });
        }
        Ok(Self { config, moments })
    }
}

/// The part of the learning rate at `step` (from 0): rising over `warm_up` steps, then a half cosine to zero at
/// `total`, as `get_cosine_schedule_with_warmup` of Hugging Face. The first step of a warm-up has rate zero.
pub fn cosine_with_warm_up(step: u64, warm_up: u64, total: u64) -> f64 {
    if step < warm_up {
        return step as f64 / warm_up.max(1) as f64;
    }
    let progress = (step - warm_up) as f64 / total.saturating_sub(warm_up).max(1) as f64;
    (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
}

/// Sums of squares of all gradients, in the order of the parameters.
struct Squares<'a> {
    gradients: &'a Gradients,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            let gradient = gradient.cast(DType::F32);
            self.sums.push((gradient.clone() * gradient).sum());
        }
    }
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: &'a Gradients,
    learning_rate: f64,
    scale: f64,
    path: Vec<String>,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = param.val().grad(self.gradients) else { return param };
        let AdamWConfig { betas: (beta1, beta2), epsilon, weight_decay, .. } = self.optimizer.config;
        let (shape, count) = (gradient.dims(), gradient.shape().num_elements());
        let mut gradient = gradient.reshape([count]);
        if self.scale < 1.0 {
            gradient = gradient.mul_scalar(self.scale);
        }
        let square = (gradient.clone() * gradient.clone()).mul_scalar(1.0 - beta2);
        let gradient = gradient.mul_scalar(1.0 - beta1);
        let (first, second, steps) = match self.optimizer.moments.remove(&self.path.join(".")) {
            Some(old) => (old.first.mul_scalar(beta1) + gradient, old.second.mul_scalar(beta2) + square, old.steps + 1),
            None => (gradient, square, 1),
        };
        let correction = |beta: f64| 1.0 - beta.powf(steps as f64);
        let root = second.clone().sqrt().div_scalar(correction(beta2).sqrt()).add_scalar(epsilon);
        let change = (first.clone() / root).mul_scalar(self.learning_rate / correction(beta1)).reshape(shape);
        self.optimizer.moments.insert(self.path.join("."), Moments { first, second, steps });
        let decay = 1.0 - self.learning_rate * weight_decay;
        param.map(|weight| {
            let requires = weight.is_require_grad();
            let weight = weight.without_autodiff().mul_scalar(decay) - change;
            weight.autodiff().set_require_grad(requires)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::device;

    #[derive(Module, Debug)]
    struct Pair {
        a: Param<Tensor<2>>,
        b: Param<Tensor<1>>,
    }

    fn pair(device: &Device) -> Pair {
        Pair {
            a: Param::from_tensor(Tensor::from_floats([[1.0, -2.0], [0.5, 0.0]], device)),
            b: Param::from_tensor(Tensor::from_floats([3.0], device)),
        }
    }

    fn stepped(optimizer: &mut AdamW, pair: Pair) -> (Pair, f64) {
        // d/da = 2a, d/db = 4b: known gradients.
        let loss = (pair.a.val() * pair.a.val()).sum() + (pair.b.val() * pair.b.val()).sum().mul_scalar(2.0);
        let gradients = loss.backward();
        optimizer.step(pair, &gradients, 0.1)
    }

    fn values(pair: &Pair) -> Vec<f32> {
        let a: Vec<f32> = pair.a.val().inner().into_data().try_into_vec().expect("f32");
        let b: Vec<f32> = pair.b.val().inner().into_data().try_into_vec().expect("f32");
        [a, b].concat()
    }

    /// The recurrence of torch.optim.AdamW, in f64 on single numbers.
    fn by_hand(start: &[f64], slopes: &[f64], config: &AdamWConfig, rate: f64, steps: usize) -> Vec<f64> {
        let mut weights = start.to_vec();
        let (mut first, mut second) = (vec![0.0; start.len()], vec![0.0; start.len()]);
        for step in 1..=steps {
            let mut gradients: Vec<f64> = weights.iter().zip(slopes).map(|(w, s)| w * s).collect();
            if let Some(clip) = config.clip {
                let norm = gradients.iter().map(|g| g * g).sum::<f64>().sqrt();
                gradients.iter_mut().for_each(|g| *g *= (clip / (norm + 1e-6)).min(1.0));
            }
            let (beta1, beta2) = config.betas;
            for i in 0..weights.len() {
                first[i] = beta1 * first[i] + (1.0 - beta1) * gradients[i];
                second[i] = beta2 * second[i] + (1.0 - beta2) * gradients[i] * gradients[i];
                let mean = first[i] / (1.0 - beta1.powi(step as i32));
                let root = (second[i] / (1.0 - beta2.powi(step as i32))).sqrt();
                weights[i] = weights[i] * (1.0 - rate * config.weight_decay) - rate * mean / (root + config.epsilon);
            }
        }
        weights
    }

    #[test]
    fn steps_follow_the_published_recurrence_with_and_without_clipping() {
        let device = device::parse("cpu").expect("the default backend").autodiff();
        for clip in [None, Some(1.0)] {
            let config = AdamWConfig { clip, weight_decay: 0.05, ..AdamWConfig::default() };
            let mut optimizer = AdamW::new(config.clone());
            let mut pair = pair(&device);
            let mut norm = 0.0;
            for step in 0..3 {
                let stepped = stepped(&mut optimizer, pair);
                pair = stepped.0;
                if step == 0 {
                    norm = stepped.1;
                }
            }
            let expected = by_hand(&[1.0, -2.0, 0.5, 0.0, 3.0], &[2.0, 2.0, 2.0, 2.0, 4.0], &config, 0.1, 3);
            let ours = values(&pair);
            for (ours, expected) in ours.iter().zip(&expected) {
                assert!((f64::from(*ours) - expected).abs() < 1e-5, "{ours} and {expected}");
            }
            assert!((norm - (4.0f64 + 16.0 + 1.0 + 144.0).sqrt()).abs() < 1e-5, "norm before clipping is {norm}");
        }
    }

    #[test]
    fn a_state_that_is_read_back_goes_on_with_the_same_bytes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("optimizer.safetensors");
        let device = device::parse("cpu").expect("the default backend").autodiff();
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let (pair, _) = stepped(&mut optimizer, pair(&device));
        optimizer.save(&path).expect("a temporary folder can be written");
        let (onwards, _) = stepped(&mut optimizer, pair.clone());
        let mut read = AdamW::load(AdamWConfig::default(), &path, &device).expect("our own file");
        let (resumed, _) = stepped(&mut read, pair);
        assert_eq!(values(&onwards), values(&resumed));
    }

    #[test]
    fn the_schedule_has_the_published_multipliers() {
        assert_eq!(cosine_with_warm_up(0, 100, 1000), 0.0);
        assert!((1e-4 * cosine_with_warm_up(10, 100, 1000) - 1e-5).abs() < 1e-18);
        assert_eq!(cosine_with_warm_up(100, 100, 1000), 1.0);
        assert!((cosine_with_warm_up(550, 100, 1000) - 0.5).abs() < 1e-12);
        assert!(cosine_with_warm_up(1000, 100, 1000) < 1e-12);
        assert_eq!(cosine_with_warm_up(0, 0, 10), 1.0);
    }
}
