use std::path::PathBuf;

use super::super::perplexity::Perplexity;
use super::super::stopping::{stopped, whole};
use super::super::{Input, Inputs};
use super::*;
use crate::models::projector::{Projector, ProjectorConfig};

/// Four captions and the reference language model.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let language = world.path("language");
        std::fs::create_dir(&language).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixtures.join("gemma2_tiny").join(file), language.join(file)).unwrap();
        }
        std::fs::copy(fixtures.join("tokenizer.json"), language.join("tokenizer.json")).unwrap();
        let texts = ["She smiled.", "They walk to the door.", "A man nods.", "The dog ran around."];
        let lines: Vec<String> = (0..4)
            .map(|number| {
                let text = texts[number];
                json!({"clip_id": format!("c{number}"), "split": "train", "utterances": [{"text": text}]}).to_string()
            })
            .collect();
        std::fs::write(world.path("text.jsonl"), lines.join("\n")).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn inputs(&self, more: &[(&str, &str)]) -> Inputs {
        let mut inputs = Inputs::default();
        for (field, name) in [("text", "text.jsonl"), ("language", "language")].iter().chain(more) {
            let input = Input { reference: format!("data:{name}"), path: self.path(name), digest: (*name).to_owned() };
            inputs.insert(*field, input);
        }
        inputs
    }

    fn train(&self, name: &str, settings: serde_json::Value, more: &[(&str, &str)]) -> Result<Summary> {
        let mut fields = json!({"text": "data:text", "batch": 2, "steps": 20, "lr": 1e-2, "warmup": 0.0, "rank": 2});
        fields.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let out = self.path(name);
        std::fs::create_dir(&out).unwrap();
        let config: Config = serde_json::from_value(fields).unwrap();
        TrainLora::run(&config, &self.inputs(more), &Context::plain(&out, "cpu"))
    }

    /// Bits per word of the training captions.
    fn bits(&self, name: &str, adapter: Option<&str>) -> Result<f64> {
        self.bits_of("train", name, adapter)
    }

    fn bits_of(&self, split: &str, name: &str, adapter: Option<&str>) -> Result<f64> {
        let out = self.path(name);
        std::fs::create_dir(&out).unwrap();
        let config =
            json!({"text": "data:text", "split": split, "inject": "none", "adapter": adapter.map(|_| "stage:l")});
        let more: Vec<(&str, &str)> = adapter.iter().map(|adapter| ("adapter", *adapter)).collect();
        let config = serde_json::from_value(config).unwrap();
        let summary = Perplexity::run(&config, &self.inputs(&more), &Context::plain(&out, "cpu"))?;
        Ok(summary["bits_per_word"].as_f64().unwrap())
    }
}

#[test]
fn the_adapter_lowers_the_bits_and_a_seed_fixes_every_byte() {
    let world = World::new();
    let summary = world.train("a", json!({}), &[]).unwrap();
    let loss = |name: &str| summary[name].as_f64().unwrap();
    assert!(loss("last_loss") < loss("first_loss") - 0.5, "{summary:?}");
    let bytes = |name: &str, file: &str| std::fs::read(world.path(name).join(file)).unwrap();
    world.train("b", json!({}), &[]).unwrap();
    world.train("c", json!({"seed": 1}), &[]).unwrap();
    for file in ["adapter_model.safetensors", "metrics.jsonl"] {
        assert_eq!(bytes("a", file), bytes("b", file), "{file}");
        assert_ne!(bytes("a", file), bytes("c", file), "{file}");
    }
    let (without, with) = (world.bits("plain", None).unwrap(), world.bits("adapted", Some("a")).unwrap());
    assert!(with < without - 1.0, "{with} with the adapter, {without} without");
    // Its training clips under the name of another split are refused.
    let text = std::fs::read_to_string(world.path("text.jsonl")).unwrap();
    std::fs::write(world.path("text.jsonl"), text.replace("\"train\"", "\"test\"")).unwrap();
    let error = world.bits_of("test", "leak", Some("a")).unwrap_err().to_string();
    assert!(error.contains("trained on 4 of the 4 clips of split `test`"), "{error}");
    std::fs::write(world.path("text.jsonl"), text).unwrap();
    // The language model itself is as it was.
    assert_eq!(world.bits("again", None).unwrap(), without);
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes() {
    let world = World::new();
    world.train("whole", json!({"steps": 7}), &[]).unwrap();
    let fields = json!({"text": "data:text", "batch": 2, "steps": 7, "lr": 1e-2, "warmup": 0.0, "rank": 2});
    let config: Config = serde_json::from_value(fields).unwrap();
    let scratch = stopped::<TrainLora>(&config, &world.inputs(&[]), 3);
    let after = whole::<TrainLora>(&config, &world.inputs(&[]), Some(scratch.path()));
    for file in ["adapter_model.safetensors", "metrics.jsonl"] {
        let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
        assert_eq!(read(&world.path("whole")), read(after.path()), "{file}");
    }
}

#[test]
fn the_rank_matches_the_projector_and_what_does_not_fit_is_refused() {
    let world = World::new();
    let device = Device::default();
    let projector = Projector::init(&ProjectorConfig::original(64, 64), 1.0, &Streams::new(0, "test"), &device);
    let given = world.path("given");
    std::fs::create_dir(&given).unwrap();
    projector.save(&given.join("projector.safetensors")).unwrap();
    let summary = world.train("matched", json!({"rank": 0, "steps": 1}), &[("projector", "given")]).unwrap();
    let (found, wanted) = (summary["parameters"].as_u64().unwrap() as f64, projector.num_params() as f64);
    let per_rank = found / summary["rank"].as_u64().unwrap() as f64;
    assert!((found - wanted).abs() <= (per_rank / 2.0).max(per_rank - wanted), "{found} for {wanted}");
    // The same with a projector that tells what it was trained on: the same clips, or others.
    let description = |clips: &[&str]| {
        json!({"shape": ProjectorConfig::original(64, 64), "source": "features", "inject": "full", "settings": {},
            "language": null, "trained_on": clips})
    };
    let tell = |clips: &[&str]| std::fs::write(given.join("projector.json"), description(clips).to_string()).unwrap();
    tell(&["c3", "c2", "c1", "c0"]);
    let control = |name: &str| world.train(name, json!({"rank": 0, "steps": 1}), &[("projector", "given")]);
    control("same").unwrap();
    tell(&["c0", "c1", "x"]);
    let error = control("others").unwrap_err().to_string();
    assert!(error.contains("on 4 clips and `projector` was on 3, 2 of them the same"), "{error}");
    let error = world.train("neither", json!({"rank": 0}), &[]).unwrap_err().to_string();
    assert!(error.contains("neither `rank` nor a projector"), "{error}");
    let error = world.train("nothing", json!({"targets": []}), &[]).unwrap_err().to_string();
    assert!(error.contains("`targets` is empty"), "{error}");
    let path = world.path("matched/adapter.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"language\": \"language\"", "\"language\": \"other\"");
    std::fs::write(&path, text).unwrap();
    let error = world.bits("foreign", Some("matched")).unwrap_err().to_string();
    assert!(error.contains("another language model"), "{error}");
}
