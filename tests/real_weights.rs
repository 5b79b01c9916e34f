//! Real weights against numbers that transformers gave for the same weights (tests/fixtures/real).
//!
//! Not part of the default suite, because the weights are not ours to ship and weigh more than a gigabyte. Get them
//! into a folder with `gemma3-270m/` (f32, with its tokenizer) and `dinov2-s/`, then run
//! `SOCTOK_ASSETS=FOLDER cargo test --release --test real_weights -- --ignored --nocapture`.
//! The device is that of `SOCTOK_PARITY_DEVICE` (default `cpu`). A missing folder is a failure, never a pass.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use soctok::models::checkpoint::Checkpoint;
use soctok::models::dinov2::{Dinov2, PositionResampling};
use soctok::models::language::LanguageModel;
use soctok::vision::image::Rgb;

fn device() -> Device {
    let name = std::env::var("SOCTOK_PARITY_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    soctok::models::device::parse(&name).unwrap_or_else(|error| panic!("{error}"))
}

fn asset(name: &str) -> PathBuf {
    let folder = std::env::var_os("SOCTOK_ASSETS").expect("SOCTOK_ASSETS must name the folder with the real weights");
    let path = Path::new(&folder).join(name);
    assert!(path.is_dir(), "`{}` is missing", path.display());
    path
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn largest_difference(ours: &[f32], reference: &[f32]) -> f32 {
    assert_eq!(ours.len(), reference.len());
    assert!(ours.iter().chain(reference).all(|value| value.is_finite()), "a value is not finite");
    ours.iter().zip(reference).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
}

/// Peak resident memory of this process so far, MiB.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN);
    kib / 1024.0
}

#[test]
#[ignore = "needs SOCTOK_ASSETS"]
fn gemma3_270m() {
    let text = std::fs::read_to_string(fixture("real/llm_expected.json")).expect("a fixture");
    let expected: serde_json::Value = serde_json::from_str(&text).expect("a fixture");
    let start = Instant::now();
    let folder = asset("gemma3-270m");
    let model = LanguageModel::load(&folder, &device(), DType::F32).unwrap_or_else(|error| panic!("{error}"));
    println!("loaded in {:.1} s, peak memory {:.0} MiB", start.elapsed().as_secs_f64(), peak_memory());
    assert_eq!((model.bos, model.eos, model.pad), (2, 1, 0), "the model's config decides, not tokenizer_config.json");
    for case in expected["gemma3-270m"]["cases"].as_array().expect("a list") {
        let text = case["text"].as_str().expect("text");
        let mut ids = vec![model.bos];
        ids.extend(model.encode(text).unwrap_or_else(|error| panic!("{error}")).ids);
        assert_eq!(serde_json::json!(ids), case["ids"], "{text}");
        let reference: Vec<f32> = serde_json::from_value(case["token_nll"].clone()).expect("numbers");
        let gemma = &model.gemma;
        let (tokens, hidden) = (ids.len(), gemma.config().hidden);
        let start = Instant::now();
        let inputs = gemma.rows(model.batch(&[ids.clone()])).mul_scalar(gemma.embedding_scale());
        let last = gemma.forward(inputs.clone()).reshape([tokens, hidden]).narrow(0, 0, tokens - 1);
        let targets: Vec<i64> = ids[1..].iter().map(|&id| i64::from(id)).collect();
        let targets = TensorData::new(targets, [tokens - 1]);
        let nll = gemma.nll(last, Tensor::<1, Int>::from_data(targets, &gemma.device()));
        let nll: Vec<f32> = nll.into_data().try_into_vec().expect("f32");
        let forward = start.elapsed().as_secs_f64();
        let worst = largest_difference(&nll, &reference);
        let start = Instant::now();
        let rows: Vec<(usize, usize)> = (0..tokens - 1).map(|position| (0, position)).collect();
        let (frozen, gradient) = gemma.nll_and_gradient(inputs, &rows, &ids[1..], &vec![1.0; tokens - 1]);
        let gradient: Vec<f32> = gradient.into_data().try_into_vec().expect("f32");
        println!(
            "{tokens} tokens: nll differs by at most {worst:.1e}, mean {:.5} (reference {:.5}); forward {forward:.2} s, \
             nll and gradient {:.2} s, peak memory {:.0} MiB",
            nll.iter().sum::<f32>() / nll.len() as f32,
            case["mean_nll"].as_f64().expect("a number"),
            start.elapsed().as_secs_f64(),
            peak_memory()
        );
        // The reference is rounded to five decimals; 1e-4 of its largest value is the tolerance of all fixtures.
        assert!(worst < 1.5e-3, "{text}");
        assert!(largest_difference(&frozen, &nll) < 1e-3, "{text}");
        assert!(gradient.iter().all(|value| value.is_finite()) && gradient.iter().any(|value| *value != 0.0));
    }
}

#[test]
#[ignore = "needs SOCTOK_ASSETS"]
fn dinov2_small() {
    let device = device();
    let folder = asset("dinov2-s");
    let model = Dinov2::load(&folder, &device, PositionResampling::Hf).unwrap_or_else(|error| panic!("{error}"));
    let image = Rgb::open(&fixture("image/input.png")).unwrap_or_else(|error| panic!("{error}"));
    let image = image.resize_shorter(224).unwrap().centre_crop(224).unwrap_or_else(|error| panic!("{error}"));
    let pixels = Tensor::<4>::from_data(TensorData::new(image.normalised(), [1, 3, 224, 224]), &device);
    let start = Instant::now();
    let tokens = model.forward(pixels);
    let reference = Checkpoint::open(&fixture("real/dinov2s_expected.safetensors")).expect("a fixture");
    let cls: Vec<f32> = tokens.clone().narrow(1, 0, 1).into_data().try_into_vec().expect("f32");
    let forward = start.elapsed().as_secs_f64();
    let patches: Vec<f32> = tokens.narrow(1, 1, 256).mean_dim(1).into_data().try_into_vec().expect("f32");
    let worst = largest_difference(&cls, &reference.floats("cls").expect("a fixture").0);
    let patch_worst = largest_difference(&patches, &reference.floats("patch_mean").expect("a fixture").0);
    println!("DINOv2-S CLS differs by at most {worst:.1e}, mean of patches {patch_worst:.1e}; forward {forward:.2} s");
    let norm = cls.iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!((norm - 48.176_31).abs() < 1e-2 && worst < 1e-3 && patch_worst < 1e-3);
}
