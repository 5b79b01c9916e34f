//! Our models against reference numbers from transformers and timm (tests/fixtures/SPEC.md says how they were made).
//!
//! The device comes from `SOCTOK_PARITY_DEVICE` (default `cpu`); the one command for another one is
//! `SOCTOK_PARITY_DEVICE=tch:cpu cargo test --release --features tch --test parity -- --nocapture`.
//! Every comparison prints its largest difference. Tolerance, f32: `1e-4 · max(1, largest reference value)`.

use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use soctok::models::checkpoint::Checkpoint;
use soctok::models::dinov2::{Dinov2, Dinov2Config, PositionResampling};
use soctok::models::gemma::Gemma;
use soctok::models::language;
use soctok::models::optimizer::{AdamW, AdamWConfig};
use soctok::models::projector::Projector;
use soctok::stages::logit_lens;

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

    fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let data = self.0.data(name, DType::F32).unwrap_or_else(|error| panic!("{error}"));
        Tensor::from_data(data, (device, DType::F32))
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

/// Attention weights and logit-lens readings; `make_looks.py` says where the numbers come from.
fn looks(name: &str) {
    let device = device();
    let model = Gemma::load(&fixture(name), &device, DType::F32).unwrap_or_else(|error| panic!("{error}"));
    let reference = Reference::open(&format!("{name}/reference.safetensors"));
    let expected = Reference::open(&format!("{name}/looks.safetensors"));
    let mask = reference.floats("attention_mask");
    let [batch, tokens, heads] = [2, 21, model.config().heads];
    let inputs = reference.tensor::<3>("inputs_embeds_passed", &device);
    let looked = model.attentions(inputs.clone(), |layer, weights| {
        assert_eq!(weights.dims(), [batch, heads, tokens, tokens]);
        let real = |i: usize| mask[i / (heads * tokens * tokens) * tokens + i / tokens % tokens] == 1.0;
        let of = expected.floats(&format!("attention.{layer}"));
        compare_where(&format!("{name} attention {layer}"), &values(weights), &of, real);
        Ok::<(), std::convert::Infallible>(())
    });
    match looked {
        Ok(()) => {}
        Err(never) => match never {},
    }

    let labels = reference.floats("labels");
    let at: Vec<(usize, u32)> = (0..batch * tokens)
        .filter(|place| place % tokens < tokens - 1 && labels[place + 1] >= 0.0)
        .map(|place| (place, labels[place + 1] as u32))
        .collect();
    let places: Vec<i64> = at.iter().map(|(place, _)| *place as i64).collect();
    let targets: Vec<u32> = at.iter().map(|(_, target)| *target).collect();
    let layers = model.config().layers();
    let mut found: Vec<[Vec<f32>; 4]> = Vec::new();
    for (index, state) in model.hidden_states(inputs).into_iter().enumerate() {
        let place = Tensor::<1, Int>::from_data(TensorData::new(places.clone(), [places.len()]), &device);
        let state = state.reshape([batch * tokens, model.config().hidden]).select(0, place);
        let normed = if index == layers { state } else { model.final_normed(state) };
        let readings = logit_lens::read(&model, normed, &targets, true).unwrap_or_else(|error| panic!("{error}"));
        let column = |value: fn(&logit_lens::Reading) -> f64| readings.iter().map(|r| value(r) as f32).collect();
        found.push([column(|r| r.ce), column(|r| r.rank), column(|r| r.margin), column(|r| r.cosine)]);
    }
    for (number, what) in ["ce", "rank", "margin", "cosine"].into_iter().enumerate() {
        let ours: Vec<f32> = found.iter().flat_map(|columns| columns[number].clone()).collect();
        compare(&format!("{name} lens {what}"), &ours, &expected.floats(&format!("lens.{what}")));
    }
}

#[test]
fn looking_into_gemma2() {
    looks("gemma2_tiny");
}

#[test]
fn looking_into_gemma3() {
    looks("gemma3_tiny");
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

fn dinov2(file: &str, resampling: PositionResampling, names: &[(&str, &str)]) {
    let device = device();
    let model = Dinov2::load(&fixture(file), &device, resampling).unwrap_or_else(|error| panic!("{error}"));
    let reference = Reference::open("dinov2_tiny/reference.safetensors");
    for (size, expected) in names {
        let pixels = reference.tensor::<4>(&format!("{size}.pixel_values"), &device);
        let expected = format!("{size}.{expected}");
        compare(&format!("{file} {expected}"), &values(model.forward(pixels.clone())), &reference.floats(&expected));
        // The path for training computes attention by itself.
        let tracked = model.forward(pixels.autodiff().require_grad()).inner();
        compare(&format!("{file} {expected}, autodiff"), &values(tracked), &reference.floats(&expected));
    }
}

#[test]
fn dinov2_hugging_face_names() {
    let all = ["native", "larger", "rect"];
    dinov2("dinov2_tiny", PositionResampling::Hf, &all.map(|size| (size, "hf_last_hidden_state")));
    dinov2("dinov2_tiny", PositionResampling::Timm, &all.map(|size| (size, "timm_features")));
}

#[test]
fn dinov2_timm_names() {
    let all = ["native", "larger", "rect"];
    let file = "dinov2_tiny/timm_model.safetensors";
    dinov2(file, PositionResampling::Hf, &all.map(|size| (size, "hf_last_hidden_state")));
    dinov2(file, PositionResampling::Timm, &all.map(|size| (size, "timm_features")));
}

/// The weights of the formula in SPEC.md, for a tensor of this name and shape.
fn formula(name: &str, shape: &[usize], seed: u64, scale: f32, offset: f32) -> TensorData {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let count: u64 = shape.iter().product::<usize>() as u64;
    let value = |k: u64| {
        let z = (k + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(hash ^ seed);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let u = ((z ^ (z >> 31)) >> 40) as f32;
        offset + scale * (u * 2f32.powi(-23) - 1.0)
    };
    TensorData::new((0..count).map(value).collect::<Vec<f32>>(), shape.to_vec())
}

#[test]
fn dinov2_base_by_formula() {
    let device = device();
    let text = std::fs::read_to_string(fixture("dinov2_base_formula/formula.json")).expect("a fixture");
    let recipe: serde_json::Value = serde_json::from_str(&text).expect("a fixture");
    let seed = recipe["seed"].as_u64().expect("a number");
    let mut tensors = Vec::new();
    for (name, shape) in recipe["shapes"].as_object().expect("names and shapes") {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).expect("a shape");
        let (scale, offset) = if name.contains("lambda1") {
            (0.05, 0.1)
        } else if name.contains("norm") && name.ends_with(".weight") {
            (0.1, 1.0)
        } else if name.ends_with(".bias") {
            (0.02, 0.0)
        } else if ["position", "cls", "mask"].iter().any(|part| name.contains(part)) {
            (0.05, 0.0)
        } else {
            ((3.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32, 0.0)
        };
        tensors.push((name.clone(), formula(name, &shape, seed, scale, offset)));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("model.safetensors");
    soctok::models::checkpoint::save(&file, tensors).unwrap_or_else(|error| panic!("{error}"));
    let config = format!("{}", Dinov2Config::default().to_json());
    std::fs::write(folder.path().join("config.json"), config).expect("a temporary folder");
    let model = Dinov2::load(folder.path(), &device, PositionResampling::Hf).unwrap_or_else(|error| panic!("{error}"));
    let pixels = formula("pixel_values", &[1, 3, 224, 224], seed, 2.0, 0.0);
    let pixels = Tensor::<4>::from_data(pixels, (&device, DType::F32));
    let tokens = model.forward(pixels);
    let reference = Reference::open("dinov2_base_formula/reference.safetensors");
    let patches = tokens.clone().narrow(1, 1, 256);
    let part = |start: usize, count: usize| values(tokens.clone().narrow(1, start, count));
    compare("ViT-B/14 CLS", &part(0, 1), &reference.floats("cls"));
    compare("ViT-B/14 first patches", &part(1, 4), &reference.floats("first_patches"));
    compare("ViT-B/14 last patch", &part(256, 1), &reference.floats("last_patch"));
    compare("ViT-B/14 mean of patches", &values(patches.mean_dim(1)), &reference.floats("patch_mean"));
}
