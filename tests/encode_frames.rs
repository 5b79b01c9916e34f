//! `encode_frames` against the reference features of the fixtures, and its refusals.

use std::path::{Path, PathBuf};

use soctok::npy;
use soctok::stages::encode_frames::{Config, EncodeFrames};
use soctok::stages::{Context, Input, Inputs, Result, Stage, Summary, Upstream};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn encode(frames: &Path, encoder: Option<&Path>, settings: serde_json::Value) -> Result<(Summary, npy::Array<f32>)> {
    let mut settings = settings;
    settings["frames"] = "data:frames".into();
    let mut config: Config = serde_json::from_value(settings).unwrap();
    EncodeFrames::normalise(&mut config, &Upstream::default());
    let mut inputs = Inputs::default();
    for (field, path) in [("frames", Some(frames)), ("encoder", encoder)] {
        if let Some(path) = path {
            inputs.insert(field, Input { reference: field.into(), path: path.into(), digest: String::new() });
        }
    }
    let out = tempfile::tempdir().unwrap();
    let summary = EncodeFrames::run(&config, &inputs, &Context::plain(out.path(), "cpu"))?;
    Ok((summary, npy::read(&out.path().join("features.npy")).unwrap()))
}

/// The pipeline fixture's pixel tensors, listed in a manifest beside a copy of the file.
fn pipeline_frames() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("pipeline/frames.safetensors"), folder.path().join("frames.safetensors")).unwrap();
    let clips: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("pipeline/clips.json")).unwrap()).unwrap();
    let mut manifest = "split,clip_id,frame_path,t_sec\n".to_owned();
    for clip in clips.as_array().unwrap() {
        let id = clip["clip_id"].as_str().unwrap();
        for (item, time) in clip["frame_t_sec"].as_array().unwrap().iter().enumerate() {
            manifest += &format!("test,{id},frames.safetensors#{id}.pixel_values#{item},{time}\n");
        }
    }
    std::fs::write(folder.path().join("manifest.csv"), manifest).unwrap();
    folder
}

#[test]
fn pixel_tensors_give_the_reference_features_whatever_the_batch() {
    let bytes = std::fs::read(fixture("pipeline/frames.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut expected = Vec::new();
    for clip in 0..8 {
        let tensor = tensors.tensor(&format!("clip_{clip:03}.features")).unwrap();
        expected.extend(tensor.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())));
    }
    let frames = pipeline_frames();
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    for batch in [1, 7, 64] {
        let settings = serde_json::json!({ "l2_normalize": false, "batch": batch });
        let (summary, features) = encode(frames.path(), Some(&fixture("dinov2_tiny")), settings).unwrap();
        assert_eq!(features.shape, [31, 32]);
        assert_eq!(summary["clips"], 8);
        let worst = features.values.iter().zip(&expected).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst <= 1e-4 * largest.max(1.0), "largest difference {worst}");
    }
    let settings = serde_json::json!({});
    let (_, features) = encode(frames.path(), Some(&fixture("dinov2_tiny")), settings).unwrap();
    for row in 0..31 {
        let norm: f32 = features.row(row).iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5);
    }
}

/// Two clips of one noisy image each.
fn image_frames() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("image/input.png"), folder.path().join("a.png")).unwrap();
    let mut image = soctok::vision::image::Rgb::open(&folder.path().join("a.png")).unwrap();
    image.values.iter_mut().for_each(|value| *value = 255 - *value);
    image.save_png(&folder.path().join("b.png")).unwrap();
    let manifest = "split,clip_id,frame_path,t_sec\n,a,a.png,0\n,b,b.png,0\n";
    std::fs::write(folder.path().join("manifest.csv"), manifest).unwrap();
    folder
}

#[test]
fn a_random_transformer_tells_clips_apart_unless_layer_scale_is_that_of_timm() {
    let frames = image_frames();
    let settings = |scale: f64, allow: bool, seed: u64| {
        serde_json::json!({
            "method": "random_vit", "vit_layer_scale": scale, "allow_constant_features": allow, "encoder_seed": seed,
        })
    };
    let (summary, features) = encode(frames.path(), None, settings(1.0, false, 0)).unwrap();
    assert_eq!(features.shape, [2, 64]);
    assert!(summary["spread"].as_f64().unwrap() > 1e-3, "{summary:?}");
    assert_eq!(encode(frames.path(), None, settings(1.0, false, 0)).unwrap().1, features);
    assert_ne!(encode(frames.path(), None, settings(1.0, false, 1)).unwrap().1, features);

    let message = encode(frames.path(), None, settings(1e-5, false, 0)).unwrap_err().to_string();
    assert!(message.contains("features hardly differ") && message.contains("allow_constant_features"), "{message}");
    let (summary, _) = encode(frames.path(), None, settings(1e-5, true, 0)).unwrap();
    assert!(summary["spread"].as_f64().unwrap() < 1e-4, "{summary:?}");
}

#[test]
fn sizes_that_do_not_fit_say_what_to_set() {
    let frames = image_frames();
    let fail = |settings: serde_json::Value| {
        encode(frames.path(), Some(&fixture("dinov2_tiny")), settings).unwrap_err().to_string()
    };
    let message = fail(serde_json::json!({ "resize": 60 }));
    assert!(message.contains("60x60 is no whole number of patches of 14") && message.contains("hint:"), "{message}");
    let message = fail(serde_json::json!({ "resize": 42, "crop": 56 }));
    assert!(message.contains("too small for a crop of 56"), "{message}");
    let message = encode(frames.path(), None, serde_json::json!({ "method": "oracle" })).unwrap_err().to_string();
    assert!(message.contains("latents.csv") && message.contains("simulate_clips"), "{message}");
}

/// The real DINOv2-S of a folder fetched beforehand, named by `SOCTOK_ASSETS`:
/// `SOCTOK_ASSETS=DIR cargo test --release --test encode_frames -- --ignored`.
#[test]
#[ignore = "needs real weights"]
fn real_weights_give_the_reference_cls() {
    let assets = std::env::var("SOCTOK_ASSETS").expect("set SOCTOK_ASSETS to the folder with dinov2-s/");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("image/input.png"), folder.path().join("a.png")).unwrap();
    std::fs::write(folder.path().join("manifest.csv"), "split,clip_id,frame_path,t_sec\n,a,a.png,0\n").unwrap();
    let settings = serde_json::json!({ "l2_normalize": false, "resize": 224, "position_resampling": "hf" });
    let (_, features) = encode(folder.path(), Some(&Path::new(&assets).join("dinov2-s")), settings).unwrap();
    let bytes = std::fs::read(fixture("real/dinov2s_expected.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let expected = tensors.tensor("cls").unwrap();
    let expected = expected.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
    let worst = features.values.iter().zip(expected).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
    println!("largest difference {worst}");
    assert!(worst <= 1e-3, "largest difference {worst}");
}

#[test]
fn the_student_of_the_originals_dino_training_is_an_encoder_and_its_record_goes_along() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("best.pt");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dino_student.pt");
    std::fs::copy(source, &weights).unwrap();
    let frames = image_frames();
    let settings = serde_json::json!({ "resize": 28 });
    let (summary, features) = encode(frames.path(), Some(&weights), settings.clone()).unwrap();
    assert_eq!((features.shape.as_slice(), summary.get("clips_seen_by_encoder")), ([2, 4].as_slice(), None));
    assert!(summary["spread"].as_f64().unwrap() > 1e-4, "{summary:?}");
    std::fs::write(folder.path().join("seen_clips.csv"), "clip_id\nb\nother\n").unwrap();
    let (summary, again) = encode(frames.path(), Some(&weights), settings.clone()).unwrap();
    assert_eq!((&summary["clips_seen_by_encoder"], &again), (&1.into(), &features));
    // A projector is no encoder, and nothing is loaded by halves.
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/projector_only.pt");
    let message = encode(frames.path(), Some(&other), settings).unwrap_err().to_string();
    assert!(message.contains("does not fit the model"), "{message}");
}
