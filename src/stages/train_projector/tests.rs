use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::Input;
use super::super::perplexity::Perplexity;
use super::*;
use crate::npy::{self, Array};
use crate::social::packs::{GlobalMode, Local, PackedClip, Packs};

/// Four clips, their packs, and the reference language model.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new(global_mode: GlobalMode) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let made = |name: &str| {
            let path = world.folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let language = made("language");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixtures.join("gemma2_tiny").join(file), language.join(file)).unwrap();
        }
        std::fs::copy(fixtures.join("tokenizer.json"), language.join("tokenizer.json")).unwrap();
        let texts = ["She smiled.", "They walk to the door.", "A man nods.", "The dog ran around."];
        let mut lines = String::new();
        let mut clips = Vec::new();
        for (number, text) in texts.iter().enumerate() {
            let clip_id = format!("c{number}");
            lines += &format!("{}\n", json!({"clip_id": clip_id, "split": "train", "utterances": [{"text": text}]}));
            let locals = vec![Local { utterance: 0, word: 1, frames: vec![0], row: number }];
            clips.push(PackedClip { clip_id, split: None, group: None, locals });
        }
        std::fs::write(world.folder.path().join("text.jsonl"), lines).unwrap();
        let vectors = |name: &str| Array::new([4, 6], Streams::new(1, "test").named(name).normals(24, 1.0));
        let packs = Packs::new(clips, vectors("global"), vectors("local"), global_mode, true);
        packs.save(&made("packs")).unwrap();
        world
    }

    fn inputs(&self, projector: Option<&str>) -> Inputs {
        let mut inputs = Inputs::default();
        let fields = [("text", "text.jsonl"), ("packs", "packs"), ("language", "language")];
        for (field, name) in fields.into_iter().chain(projector.map(|name| ("projector", name))) {
            let path = self.folder.path().join(name);
            inputs.insert(field, Input { reference: format!("data:{name}"), path, digest: name.to_owned() });
        }
        inputs
    }

    fn config(&self, settings: serde_json::Value) -> Config {
        let mut fields = json!({"text": "data:text", "packs": "data:packs", "inject": "full", "batch": 2, "steps": 3,
                "lr": 1e-2, "warmup": 0.0});
        fields.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        serde_json::from_value(fields).unwrap()
    }

    fn train(&self, name: &str, settings: serde_json::Value) -> Result<(Summary, PathBuf)> {
        let out = self.folder.path().join(name);
        std::fs::create_dir(&out).unwrap();
        let summary = TrainProjector::run(&self.config(settings), &self.inputs(None), &Context::plain(&out, "cpu"))?;
        Ok((summary, out))
    }
}

fn bytes(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap()
}

#[test]
fn the_loss_falls_and_a_seed_fixes_every_byte() {
    for mode in [GlobalMode::ClipMean, GlobalMode::ProjectedLocals] {
        let world = World::new(mode);
        let (summary, first) = world.train("a", json!({"steps": 40})).unwrap();
        let loss = |name: &str| summary[name].as_f64().unwrap();
        assert!(loss("last_loss") < loss("first_loss") - 0.1, "{mode:?}: {summary:?}");
        let second = world.train("b", json!({"steps": 40})).unwrap().1;
        let other = world.train("c", json!({"steps": 40, "seed": 1})).unwrap().1;
        for file in ["projector.safetensors", "metrics.jsonl", "social_tokens.npz"] {
            assert_eq!(bytes(&first, file), bytes(&second, file), "{file}");
            assert_ne!(bytes(&first, file), bytes(&other, file), "{file}");
        }
        assert_eq!(String::from_utf8(bytes(&first, "metrics.jsonl")).unwrap().lines().count(), 40);
        let tokens = npy::read_npz::<f32>(&first.join("social_tokens.npz")).unwrap();
        assert_eq!(
            (tokens["global"].shape.as_slice(), tokens["local"].shape.as_slice()),
            ([4, 64].as_slice(), [4, 64].as_slice())
        );
    }
}

#[test]
fn constants_know_no_clip() {
    let world = World::new(GlobalMode::ClipMean);
    let means = world.train("mean", json!({"source": "mean"})).unwrap().1;
    let learned = world.train("constant", json!({"source": "constant"})).unwrap().1;
    let read = |folder: &Path| npy::read::<f32>(&folder.join("constants.npy")).unwrap();
    let packs = Packs::load(&world.folder.path().join("packs")).unwrap();
    assert_eq!(read(&means), Bank::means(&packs, &[0, 1, 2, 3]));
    assert_ne!(read(&means), read(&learned), "the constants of `constant` are trained");
    // Whose vectors a clip gets makes no difference then, and it does with features.
    world.train("features", json!({})).unwrap();
    for (projector, same) in [("constant", true), ("features", false)] {
        let bits = ["right", "wrong_clip"].map(|pairing| {
            let out = world.folder.path().join(format!("{projector}-{pairing}"));
            std::fs::create_dir(&out).unwrap();
            let settings = json!({"text": "data:t", "packs": "data:p", "projector": "data:q", "split": "train",
                    "pairing": pairing});
            let config = serde_json::from_value(settings).unwrap();
            Perplexity::run(&config, &world.inputs(Some(projector)), &Context::plain(&out, "cpu")).unwrap();
            bytes(&out, "targets.csv")
        });
        assert_eq!(bits[0] == bits[1], same, "{projector}");
    }
}

#[test]
fn what_cannot_be_trained_says_why() {
    let world = World::new(GlobalMode::ClipMean);
    let error = |name: &str, settings| world.train(name, settings).unwrap_err().to_string();
    assert!(error("none", json!({"inject": "none"})).contains("nothing to train"));
    let message = error("diverged", json!({"lr": 1e38, "clip": 0.0}));
    assert!(message.contains("not finite in step") && message.contains("clip `c"), "{message}");
    assert!(error("empty", json!({"split": "test"})).contains("`train` (4)"));
    let packs = Packs::load(&world.folder.path().join("packs")).unwrap();
    let with = |locals: &dyn Fn(usize) -> Vec<Local>, values: Array<f32>| {
        let clips = packs.clips.iter().enumerate();
        let clips = clips.map(|(row, clip)| PackedClip { locals: locals(row), ..clip.clone() }).collect();
        let changed = Packs::new(clips, packs.global.clone(), values, GlobalMode::ClipMean, true);
        changed.save(&world.folder.path().join("packs")).unwrap();
    };
    // Of a caption that is not read, and none at all.
    with(&|row| vec![Local { utterance: 1, word: 0, frames: vec![0], row }], packs.locals.clone());
    for (name, steps) in [("elsewhere", 3), ("elsewhere-epochs", 0)] {
        let message = error(name, json!({"inject": "local", "steps": steps}));
        assert!(message.contains("none of 4 samples"), "{message}");
    }
    with(&|_| Vec::new(), Array::new([0, 6], Vec::new()));
    let message = error("nowhere", json!({"inject": "local"}));
    assert!(message.contains("no word of the packs") && message.contains("`pos_set`"), "{message}");
}
