//! Our models against reference numbers from transformers and timm (tests/fixtures/SPEC.md says how they were made).
//!
//! The device comes from `SOCTOK_PARITY_DEVICE` (default `cpu`); the one command for another one is
//! `SOCTOK_PARITY_DEVICE=tch:cpu cargo test --release --features tch --test parity -- --nocapture`.
//! Every comparison prints its largest difference. Tolerance, f32: `1e-4 · max(1, largest reference value)`.

use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use soctok::models::checkpoint::Checkpoint;
use soctok::models::gemma::Gemma;
use soctok::models::language;
use soctok::models::optimizer::{AdamW, AdamWConfig};
use soctok::models::projector::Projector;

fn device() -> Device {
    let name = std::env::var("SOCTOK_PARITY_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    soctok::models::device::parse(&name).unwrap_or_else(|error| panic!("{error}"))
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// A reference file.
struct Reference(Checkpoint);

impl Reference {
    fn open(path: &str) -> Self {
        Self(Checkpoint::open(&fixture(path)).unwrap_or_else(|error| panic!("{error}")))
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.0.floats(name).unwrap_or_else(|error| panic!("{error}")).0
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

/// Compares where `keep` says so, prints the largest difference and fails above the tolerance.
fn compare_where(what: &str, ours: &[f32], reference: &[f32], keep: impl Fn(usize) -> bool) {
    assert_eq!(ours.len(), reference.len(), "{what}: number of values");
    let kept = (0..ours.len()).filter(|&i| keep(i));
    let (mut worst, mut largest, mut count) = (0f32, 0f32, 0);
    for i in kept {
        let difference = (ours[i] - reference[i]).abs();
        worst = if difference.is_nan() { f32::INFINITY } else { worst.max(difference) };
        largest = largest.max(reference[i].abs());
        count += 1;
    }
    let tolerance = 1e-4 * largest.max(1.0);
    println!("{what}: largest difference {worst:.2e} of {count} values up to {largest:.3} (tolerance {tolerance:.1e})");
    assert!(count > 0 && worst <= tolerance, "{what}: {worst:.3e} is more than {tolerance:.1e}");
}

fn compare(what: &str, ours: &[f32], reference: &[f32]) {
    compare_where(what, ours, reference, |_| true);
}

fn gemma(name: &str) {
    let device = device();
    let model = Gemma::load(&fixture(name), &device, DType::F32).unwrap_or_else(|error| panic!("{error}"));
    let reference = Reference::open(&format!("{name}/reference.safetensors"));
    let mask = reference.floats("attention_mask");
    let labels = reference.floats("labels");
    let [batch, tokens] = [2, 21];
    let hidden = model.config().hidden;
    let real = |width: usize| {
        let mask = mask.clone();
        move |i: usize| mask[i / width] == 1.0
    };

    let ids: Vec<i64> = reference.floats("input_ids").iter().map(|&id| id as i64).collect();
    let rows = model.rows(Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, tokens]), &device));
    compare(&format!("{name} rows"), &values(rows.clone()), &reference.floats("inputs_embeds_raw"));
    let inputs = rows.mul_scalar(model.embedding_scale());
    let passed = reference.floats("inputs_embeds_passed");
    compare(&format!("{name} inputs"), &values(inputs.clone()), &passed);

    for (index, state) in model.hidden_states(inputs.clone()).into_iter().enumerate() {
        let expected = reference.floats(&format!("hidden_states.{index}"));
        compare_where(&format!("{name} hidden state {index}"), &values(state), &expected, real(hidden));
    }
    let last = model.forward(inputs.clone());
    let logits = model.logits(last.clone().reshape([batch * tokens, hidden]));
    let expected = reference.floats("logits");
    compare_where(&format!("{name} logits"), &values(logits), &expected, real(model.config().vocabulary));

    // Position t predicts labels[t + 1]; −100 is no target.
    let (mut at, mut targets, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    let token_nll = reference.floats("token_nll");
    for row in 0..batch {
        for position in 0..tokens - 1 {
            let label = labels[row * tokens + position + 1];
            if label >= 0.0 {
                at.push((row, position));
                targets.push(label as u32);
                expected.push(token_nll[row * (tokens - 1) + position]);
            }
        }
    }
    let count = at.len();
    let weights = vec![1.0 / count as f32; count];
    let loss = reference.floats("loss");

    let (nll, gradient) = model.nll_and_gradient(inputs.clone(), &at, &targets, &weights);
    compare(&format!("{name} nll, frozen path"), &nll, &expected);
    compare(&format!("{name} loss, frozen path"), &[nll.iter().sum::<f32>() / count as f32], &loss);
    let expected_gradient = reference.floats("grad_inputs_embeds");
    gradients(&format!("{name} gradient, frozen path"), &values(gradient), &expected_gradient);

    let tracked = inputs.autodiff().require_grad();
    let last = model.forward(tracked.clone()).reshape([batch * tokens, hidden]);
    let flat: Vec<i64> = at.iter().map(|&(row, position)| (row * tokens + position) as i64).collect();
    let flat = Tensor::<1, Int>::from_data(TensorData::new(flat, [count]), &device);
    let ids: Vec<i64> = targets.iter().map(|&id| i64::from(id)).collect();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device);
    let nll = model.nll(last.select(0, flat), ids);
    compare(&format!("{name} nll, autodiff"), &values(nll.clone().inner()), &expected);
    let mean = nll.mean();
    compare(&format!("{name} loss, autodiff"), &values(mean.clone().inner()), &loss);
    let gradient = tracked.grad(&mean.backward()).expect("the inputs ask for their gradient");
    gradients(&format!("{name} gradient, autodiff"), &values(gradient), &expected_gradient);
}

/// Gradients of a mean are small, so they are compared after scaling to a largest value of one.
fn gradients(what: &str, ours: &[f32], reference: &[f32]) {
    let largest = reference.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let scaled = |values: &[f32]| values.iter().map(|value| value / largest).collect::<Vec<_>>();
    compare(what, &scaled(ours), &scaled(reference));
}

#[test]
fn gemma2() {
    gemma("gemma2_tiny");
}

#[test]
fn gemma3() {
    gemma("gemma3_tiny");
}

#[test]
fn tokenizer() {
    let tokenizer = language::read_tokenizer(&fixture("tokenizer.json")).unwrap_or_else(|error| panic!("{error}"));
    let text = std::fs::read_to_string(fixture("tokenizer_cases.json")).expect("a fixture");
    let cases: serde_json::Value = serde_json::from_str(&text).expect("a fixture");
    let cases = cases.as_array().expect("a list");
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let found = language::encode(&tokenizer, text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(serde_json::json!(found.ids), case["ids"], "{text}");
        let offsets: Vec<[usize; 2]> = found.offsets.iter().map(|span| [span.start, span.end]).collect();
        assert_eq!(serde_json::json!(offsets), case["offsets"], "{text}");
        assert_eq!(tokenizer.decode(&found.ids, false).expect("ids of a text"), case["decoded"], "{text}");
    }
    println!("tokenizer: {} cases equal", cases.len());
}

#[test]
fn adamw_step() {
    let device = device().autodiff();
    let projector = Projector::load(&fixture("pipeline/projector.safetensors"), None, &device);
    let projector = projector.unwrap_or_else(|error| panic!("{error}"));
    let reference = Reference::open("pipeline/reference.safetensors");
    // A loss that is linear in the weights has the reference's gradient as its own.
    let given = |name: &str| reference.0.data(&format!("full.grad.{name}"), DType::F32).expect("a fixture");
    let mut sum = Sum { total: Tensor::zeros([1], &device), gradients: vec![] };
    for name in ["fc2.bias", "fc2.weight", "fc1.bias", "fc1.weight"] {
        sum.gradients.push(given(name));
    }
    projector.visit(&mut sum);
    let gradients = sum.total.backward();
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let (projector, _) = optimizer.step(projector, &gradients, 1e-3);
    for (name, values) in projector.named_values() {
        let ours: Vec<f32> = values.try_into_vec().expect("f32");
        compare(&format!("AdamW {name}"), &ours, &reference.floats(&format!("full.adamw_step1.{name}")));
    }
}

/// Σ weight · gradient over the parameters of a module, in their order.
struct Sum {
    total: Tensor<1>,
    gradients: Vec<TensorData>,
}

impl ModuleVisitor for Sum {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.pop().expect("one gradient per parameter");
        let gradient = Tensor::<D>::from_data(gradient, &self.total.device());
        self.total = self.total.clone() + (param.val() * gradient).sum();
    }
}
