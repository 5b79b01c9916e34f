//! The whole way from pixels and words to perplexity, representations, similarity and gradients, through the binary with
//! an experiment file, against the numbers of an independent implementation (torch and transformers;
//! `tests/fixtures/SPEC.md`, `pipeline/` and `pipeline_prescaled/`). Tolerances are those of SPEC.md.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use soctok::models::checkpoint::Checkpoint;
use soctok::npy::{self, Array};
use support::Folder;

/// One step per inject mode, five pools of each; SCALE stands for the convention under test.
const EXPERIMENT: &str = r#"
name = "pipeline"

[data.frames]
path = "frames"
[data.text]
path = "transcripts.jsonl"
[data.human]
path = "human_rsm.csv"
[models.vision]
path = "vision"
[models.language]
path = "language"
[models.given]
kind = "projector"
path = "projector.safetensors"

[stages.features]
kind = "encode_frames"
frames = "data:frames"
position_resampling = "hf"
l2_normalize = false
[stages.packs]
kind = "scene_packs"
text = "data:text"
features = "stage:features"
[stages.perplexity]
kind = "perplexity"
text = "data:text"
packs = "stage:packs"
projector = "model:given"
inject = "full"
embedding_scale = "SCALE"
label_eos = true
batch = 3
[stages.embed]
kind = "embed"
text = "data:text"
packs = "stage:packs"
projector = "model:given"
inject = "full"
embedding_scale = "SCALE"
batch = 3
[stages.rsa]
kind = "rsa"
embeddings = "stage:embed"
human = "data:human"
similarity = "cosine" # the references' own; the original's protocols have Pearson's correlation

[axes.inject]
to = ["perplexity.inject", "embed.inject"]
values = ["none", "global", "local", "full"]
[axes.pool]
to = ["rsa.pool"]
values = ["all", "exclude_soc", "only_soc", "locals_only", "eos"]
"#;

/// One optimizer step from the given projector, on all clips at once.
const TRAINING: &str = r#"
name = "training"

[data.frames]
path = "frames"
[data.text]
path = "transcripts.jsonl"
[models.vision]
path = "vision"
[models.language]
path = "language"
[models.given]
kind = "projector"
path = "projector.safetensors"

[stages.features]
kind = "encode_frames"
frames = "data:frames"
position_resampling = "hf"
l2_normalize = false
[stages.packs]
kind = "scene_packs"
text = "data:text"
features = "stage:features"
[stages.projector]
kind = "train_projector"
text = "data:text"
packs = "stage:packs"
init = "model:given"
inject = "full"
layers = "mlp"
hidden = 40
split = "test"
embedding_scale = "SCALE"
label_eos = true
steps = 1
batch = 8
dropout = 0.0
lr = 1e-3
weight_decay = 0.01
warmup_steps = 0
clip = 0.0
write_gradients = true

[axes.inject]
to = ["projector.inject"]
values = ["global", "local", "full"]
"#;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn copy(from: &str, folder: &Folder, to: &str) {
    let to = folder.path().join(to);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(fixtures().join(from), to).unwrap();
}

/// The fixture's clips in our own forms: `transcripts.jsonl`, and a manifest of the stored pixel tensors.
fn prepare(scale: &str) -> Folder {
    let folder = Folder::new();
    let (mut lines, mut manifest) = (String::new(), String::from("split,clip_id,frame_path,t_sec\n"));
    for clip in read_json(&fixtures().join("pipeline/clips.json")).as_array().unwrap() {
        let id = clip["clip_id"].as_str().unwrap();
        let words = clip["words"].as_array().unwrap().iter().map(|word| {
            let (time, pos) = (&word["t_sec"], if word["is_noun_or_verb"] == true { "NOUN" } else { "X" });
            json!({ "text": word["word"], "start": time, "end": time, "pos": pos })
        });
        let utterance = json!({ "text": clip["text"], "words": words.collect::<Vec<_>>() });
        lines += &format!("{}\n", json!({ "clip_id": id, "split": "test", "utterances": [utterance] }));
        for (index, time) in clip["frame_t_sec"].as_array().unwrap().iter().enumerate() {
            manifest += &format!("test,{id},frames.safetensors#{id}.pixel_values#{index},{time}\n");
        }
    }
    folder.write("transcripts.jsonl", &lines);
    folder.write("frames/manifest.csv", &manifest);
    copy("pipeline/frames.safetensors", &folder, "frames/frames.safetensors");
    for name in ["projector.safetensors", "human_rsm.csv"] {
        copy(&format!("pipeline/{name}"), &folder, name);
    }
    for name in ["config.json", "model.safetensors"] {
        copy(&format!("gemma2_tiny/{name}"), &folder, &format!("language/{name}"));
        copy(&format!("dinov2_tiny/{name}"), &folder, &format!("vision/{name}"));
    }
    copy("tokenizer.json", &folder, "language/tokenizer.json");
    folder.write("pipeline.toml", &EXPERIMENT.replace("SCALE", scale));
    folder.write("training.toml", &TRAINING.replace("SCALE", scale));
    folder
}

/// A run as the store keeps it: coordinates, and per stage its figures and its folder.
struct Run {
    stages: Value,
    store: PathBuf,
}

impl Run {
    fn artifact(&self, stage: &str) -> PathBuf {
        self.store.join(self.stages[stage]["artifact"].as_str().unwrap())
    }

    fn figure(&self, stage: &str, name: &str) -> f64 {
        self.stages[stage]["figures"][name].as_f64().unwrap()
    }
}

/// Runs an experiment; its runs by the labels of their axes, joined by spaces. Points that do not apply are left out.
fn runs(folder: &Folder, file: &str) -> (BTreeMap<String, Run>, usize) {
    folder.ok(&["run", file, "--device", "cpu"]);
    let store = folder.path().join("soctok-store");
    let points = folder.json(&["results", file]);
    let points = points.as_array().unwrap();
    let applicable = points.iter().filter(|point| point["not_applicable"].is_null());
    let found = applicable.map(|point| {
        let labels: Vec<&str> =
            point["coordinates"].as_object().unwrap().values().map(|l| l.as_str().unwrap()).collect();
        let results = read_json(&store.join("runs").join(point["run"].as_str().unwrap()).join("results.json"));
        (labels.join(" "), Run { stages: results["stages"].clone(), store: store.clone() })
    });
    let found: BTreeMap<String, Run> = found.collect();
    let missing = points.len() - found.len();
    (found, missing)
}

fn close(what: &str, ours: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}: number of values");
    let size = expected.iter().fold(1.0f64, |size, value| size.max(f64::from(value.abs())));
    assert!(ours.iter().all(|value| value.is_finite()), "{what}: a value is not finite");
    let off = ours.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    println!("{what}: off by {off:.2e}, largest value {size:.3}");
    assert!(off <= tolerance * size, "{what}: off by {off:.2e}, allowed {:.2e}", tolerance * size);
}

/// Number of targets and sum of −ln p of each clip.
fn sums(artifact: &Path) -> BTreeMap<String, (u64, f64)> {
    let mut sums: BTreeMap<String, (u64, f64)> = BTreeMap::new();
    for row in csv::Reader::from_path(artifact.join("targets.csv")).unwrap().records() {
        let row = row.unwrap();
        let sum = sums.entry(row[0].to_owned()).or_default();
        *sum = (sum.0 + 1, sum.1 + row[8].parse::<f64>().unwrap());
    }
    sums
}

fn scores_agree(inject: &str, run: &Run, wanted: &Value) {
    assert_eq!(run.stages["perplexity"]["figures"]["targets"], wanted["n_target_tokens"]);
    let (ours, expected) = (run.figure("perplexity", "perplexity"), wanted["ppl"].as_f64().unwrap());
    assert!((ours.ln() / expected.ln() - 1.0).abs() < 1e-4, "{inject}: perplexity {ours}, expected {expected}");
    let sums = sums(&run.artifact("perplexity"));
    for clip in wanted["per_clip"].as_array().unwrap() {
        let (count, nll) = sums[clip["clip_id"].as_str().unwrap()];
        assert_eq!(count, clip["n_target_tokens"].as_u64().unwrap());
        let expected = clip["ppl"].as_f64().unwrap().ln();
        assert!((nll / count as f64 / expected - 1.0).abs() < 1e-4, "{inject} {}: nll {nll}", clip["clip_id"]);
    }
}

fn cell_agrees(cell: &str, run: &Run, wanted: &Value, reference: &Checkpoint) {
    let name = cell.replace(' ', ".");
    let pool = cell.split(' ').nth(1).unwrap();
    let vectors = npy::read_npz::<f32>(&run.artifact("embed").join("embeddings.npz")).unwrap();
    let pooled = &vectors[&format!("{pool}.last")].values;
    close(cell, pooled, &reference.floats(&format!("{name}.pooled")).unwrap().0, 1e-4);
    let rsm: Array<f32> = npy::read(&run.artifact("rsa").join("rsm.npy")).unwrap();
    close(&format!("{cell} rsm"), &rsm.values, &reference.floats(&format!("{name}.rsm")).unwrap().0, 1e-5);
    for (figure, key) in [("spearman", "spearman_r"), ("scipy_p_value", "p_value"), ("pairs", "n_pairs")] {
        let (ours, expected) = (run.figure("rsa", figure), wanted[key].as_f64().unwrap());
        assert!((ours - expected).abs() < 1e-3, "{cell} {figure}: {ours}, expected {expected}");
    }
}

fn whole_pipeline(fixture: &str, scale: &str) {
    check(fixture, &prepare(scale));
}

/// Runs both experiments of a folder and compares every number that the fixture has.
fn check(fixture: &str, folder: &Folder) {
    let expected = read_json(&fixtures().join(fixture).join("expected.json"));
    let reference = Checkpoint::open(&fixtures().join(fixture).join("reference.safetensors")).unwrap();
    let (cells, not_applicable) = runs(folder, "pipeline.toml");
    assert_eq!((cells.len(), not_applicable), (17, 3), "defined cells and cells that are n/a");
    let mut embeddings: Vec<PathBuf> = cells.values().map(|run| run.artifact("embed")).collect();
    embeddings.sort();
    embeddings.dedup();
    assert_eq!(embeddings.len(), 4, "one forward per mode serves every pool");
    for (inject, wanted) in expected.as_object().unwrap() {
        scores_agree(inject, &cells[&format!("{inject} all")], wanted);
        for (pool, wanted) in wanted["rsa"].as_object().unwrap() {
            let cell = format!("{inject} {pool}");
            assert_eq!(cells.contains_key(&cell), wanted["defined"].as_bool().unwrap(), "{cell}");
            if let Some(run) = cells.get(&cell) {
                cell_agrees(&cell, run, wanted, &reference);
            }
        }
    }
    for (inject, run) in runs(folder, "training.toml").0 {
        let open = |file: &str| Checkpoint::open(&run.artifact("projector").join(file)).unwrap();
        let (gradients, weights) = (open("gradients.safetensors"), open("projector.safetensors"));
        for weight in ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"] {
            let ours = gradients.floats(weight).unwrap().0;
            let wanted = reference.floats(&format!("{inject}.grad.{weight}")).unwrap().0;
            close(&format!("{inject} gradient of {weight}"), &ours, &wanted, 1e-4);
            if inject == "full" {
                let wanted = reference.floats(&format!("full.adamw_step1.{weight}")).unwrap().0;
                close(&format!("{weight} after a step"), &weights.floats(weight).unwrap().0, &wanted, 1e-4);
            }
        }
    }
}

/// The fixture's own choices where another protocol than `controlled` makes others.
fn under(protocol: &str, folder: &Folder) {
    let named = |text: &str, name: &str| {
        text.replace(&format!("name = \"{name}\""), &format!("name = \"{name}\"\nprotocol = \"{protocol}\""))
    };
    let packs = "kind = \"scene_packs\"";
    let frames = |text: String| text.replace(packs, &format!("{packs}\nlocal_frame = \"nearest\""));
    let embed = "kind = \"embed\"";
    let whole = frames(named(EXPERIMENT, "pipeline")).replace(embed, &format!("{embed}\nappend_eos = true"));
    let train = "kind = \"train_projector\"";
    let own = "bos = true\ntags = \"none\"\ndisabled = \"removed\"\nprecision = \"f32\"";
    let training = frames(named(TRAINING, "training")).replace(train, &format!("{train}\n{own}"));
    folder.write("pipeline.toml", &whole.replace("SCALE", "after"));
    folder.write("training.toml", &training.replace("SCALE", "after"));
}

#[test]
fn social_rows_scaled_like_text_under_the_originals_protocols() {
    for protocol in ["paper-2025", "repo-2025-12"] {
        let folder = prepare("after");
        under(protocol, &folder);
        check("pipeline_prescaled", &folder);
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
