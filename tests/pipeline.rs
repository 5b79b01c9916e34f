//! The whole way from frames and words to perplexity, representations, similarity and gradients, against the numbers of
//! an independent implementation (torch and transformers; `tests/fixtures/SPEC.md`, `pipeline/` and `pipeline_prescaled/`).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use soctok::npy::{self, Array};
use soctok::stages::{self, Context, Input, Inputs, Summary};

const INJECT: [&str; 4] = ["none", "global", "local", "full"];
const POOL: [&str; 5] = ["all", "exclude_soc", "only_soc", "locals_only", "eos"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn reference(folder: &str) -> soctok::models::checkpoint::Checkpoint {
    soctok::models::checkpoint::Checkpoint::open(&fixtures().join(folder).join("reference.safetensors")).unwrap()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The fixture's clips in our own form, the frames' features and a language model folder.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (clips, at) = (read_json(&fixtures().join("pipeline/clips.json")), folder.path());
        let frames =
            soctok::models::checkpoint::Checkpoint::open(&fixtures().join("pipeline/frames.safetensors")).unwrap();
        std::fs::create_dir(at.join("features")).unwrap();
        let (mut lines, mut rows, mut values) = (String::new(), String::from("clip_id,split,t_sec\n"), Vec::new());
        for clip in clips.as_array().unwrap() {
            let id = clip["clip_id"].as_str().unwrap();
            let words: Vec<Value> = clip["words"].as_array().unwrap().iter().map(|word| json!({
                "text": word["word"], "start": word["t_sec"], "end": word["t_sec"], "content": word["is_noun_or_verb"],
            })).collect();
            let line = json!({"clip_id": id, "split": "test", "utterances": [{"text": clip["text"], "words": words}]});
            lines += &format!("{line}\n");
            for time in clip["frame_t_sec"].as_array().unwrap() {
                rows += &format!("{id},test,{time}\n");
            }
            values.extend(frames.floats(&format!("{id}.features")).unwrap().0);
        }
        let array = Array::new([values.len() / 32, 32], values);
        npy::write(&at.join("features/features.npy"), &array).unwrap();
        std::fs::write(at.join("features/frames.csv"), rows).unwrap();
        std::fs::write(at.join("transcripts.jsonl"), lines).unwrap();
        std::fs::create_dir(at.join("language")).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixtures().join("gemma2_tiny").join(file), at.join("language").join(file)).unwrap();
        }
        std::fs::copy(fixtures().join("tokenizer.json"), at.join("language/tokenizer.json")).unwrap();
        let world = Self { folder };
        world.run("packs", "scene_packs", json!({"text": "transcripts.jsonl", "features": "features"}));
        world
    }

    /// Runs a stage; string settings that name a file or folder of the world are inputs.
    fn run(&self, name: &str, kind: &str, mut settings: Value) -> Summary {
        let (at, mut inputs) = (self.folder.path(), Inputs::default());
        let kind = stages::kinds().into_iter().find(|known| known.name == kind).unwrap();
        let fields = settings.as_object_mut().unwrap();
        if kind.accepts("language").is_some() {
            fields.insert("language".into(), "language".into());
        }
        for (field, value) in fields.iter() {
            if kind.accepts(field).is_some() {
                let given = value.as_str().unwrap();
                let path = if given.starts_with('/') { PathBuf::from(given) } else { at.join(given) };
                let reference = format!("data:{given}");
                inputs.insert(field.clone(), Input { reference, path, digest: given.to_owned() });
            }
        }
        let out = at.join(name);
        std::fs::create_dir_all(&out).unwrap();
        let settings = kind.normalise(fields, &stages::Upstream::default()).unwrap();
        kind.run(&settings, &inputs, &Context::plain(&out, "cpu")).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

fn close(what: &str, ours: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}: number of values");
    let size = expected.iter().fold(1.0f64, |size, value| size.max(f64::from(value.abs())));
    let off = ours.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    println!("{what}: off by {off:.2e}, largest value {size:.3}");
    assert!(off <= tolerance * size, "{what}: off by {off:.2e}, allowed {:.2e}", tolerance * size);
}

fn whole_pipeline(folder: &str, scale: &str) {
    let world = World::new();
    let (expected, reference) = (read_json(&fixtures().join(folder).join("expected.json")), reference(folder));
    let projector = fixtures().join("pipeline/projector.safetensors");
    let human = fixtures().join("pipeline/human_rsm.csv");
    for inject in INJECT {
        let given = json!({"text": "transcripts.jsonl", "packs": "packs", "projector": projector, "inject": inject,
            "embedding_scale": scale});
        let with = |more: Value| {
            let mut all = given.clone();
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        let name = format!("perplexity-{inject}");
        let summary = world.run(&name, "perplexity", with(json!({"label_eos": true, "batch": 3})));
        let wanted = &expected[inject];
        assert_eq!(summary["targets"], wanted["n_target_tokens"]);
        let (ours, ppl) = (summary["perplexity"].as_f64().unwrap(), wanted["ppl"].as_f64().unwrap());
        assert!((ours / ppl - 1.0).abs() < 1e-4, "{inject}: perplexity {ours}, expected {ppl}");
        clips_agree(&world.folder.path().join(&name), wanted);
        let embed = format!("embed-{inject}");
        world.run(&embed, "embed", with(json!({"batch": 3})));
        let vectors = npy::read_npz::<f32>(&world.folder.path().join(&embed).join("embeddings.npz")).unwrap();
        for pool in POOL {
            let wanted = &wanted["rsa"][pool];
            let defined = wanted["defined"].as_bool().unwrap();
            assert_eq!(vectors.contains_key(&format!("{pool}.last")), defined, "{inject} {pool}");
            if !defined {
                continue;
            }
            let (pooled, _) = reference.floats(&format!("{inject}.{pool}.pooled")).unwrap();
            close(&format!("{inject} {pool}"), &vectors[&format!("{pool}.last")].values, &pooled, 1e-4);
            let name = format!("rsa-{inject}-{pool}");
            let summary = world.run(&name, "rsa", json!({"embeddings": embed, "human": human, "pool": pool}));
            let rsm: Array<f32> = npy::read(&world.folder.path().join(&name).join("rsm.npy")).unwrap();
            close(
                &format!("{inject} {pool} rsm"),
                &rsm.values,
                &reference.floats(&format!("{inject}.{pool}.rsm")).unwrap().0,
                1e-5,
            );
            for (figure, key) in [("spearman", "spearman_r"), ("p_value", "p_value")] {
                let (ours, wanted) = (summary[figure].as_f64().unwrap(), wanted[key].as_f64().unwrap());
                assert!((ours - wanted).abs() < 1e-3, "{inject} {pool} {figure}: {ours}, expected {wanted}");
            }
            assert_eq!(summary["pairs"], wanted["n_pairs"]);
        }
        if inject != "none" {
            let name = format!("train-{inject}");
            let mut settings = with(
                json!({"label_eos": true, "init": projector, "layers": "mlp", "hidden": 40, "steps": 1,
                "batch": 8, "split": "test", "dropout": 0.0, "lr": 1e-3, "weight_decay": 0.01, "warmup_steps": 0, "clip": 0.0,
                "write_gradients": true}),
            );
            settings.as_object_mut().unwrap().remove("projector");
            world.run(&name, "train_projector", settings);
            let open = |file: &str| {
                soctok::models::checkpoint::Checkpoint::open(&world.folder.path().join(&name).join(file)).unwrap()
            };
            for weight in ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"] {
                let (ours, _) = open("gradients.safetensors").floats(weight).unwrap();
                let (wanted, _) = reference.floats(&format!("{inject}.grad.{weight}")).unwrap();
                close(&format!("{inject} gradient {weight}"), &ours, &wanted, 1e-4);
                if inject == "full" {
                    let (ours, _) = open("projector.safetensors").floats(weight).unwrap();
                    let (wanted, _) = reference.floats(&format!("full.adamw_step1.{weight}")).unwrap();
                    close(&format!("after a step {weight}"), &ours, &wanted, 1e-4);
                }
            }
        }
    }
}

/// Sums of −ln p per clip.
fn clips_agree(artifact: &Path, wanted: &Value) {
    let mut reader = csv::Reader::from_path(artifact.join("targets.csv")).unwrap();
    let mut sums: std::collections::BTreeMap<String, (usize, f64)> = Default::default();
    for row in reader.records() {
        let row = row.unwrap();
        let sum = sums.entry(row[0].to_owned()).or_default();
        *sum = (sum.0 + 1, sum.1 + row[8].parse::<f64>().unwrap());
    }
    for clip in wanted["per_clip"].as_array().unwrap() {
        let (count, nll) = sums[clip["clip_id"].as_str().unwrap()];
        assert_eq!(count as u64, clip["n_target_tokens"].as_u64().unwrap());
        assert!((nll / clip["nll_sum"].as_f64().unwrap() - 1.0).abs() < 1e-4, "{clip} against {nll}");
    }
}

#[test]
fn social_rows_beside_scaled_text() {
    whole_pipeline("pipeline", "before");
}

#[test]
fn social_rows_scaled_like_text() {
    whole_pipeline("pipeline_prescaled", "after");
}
