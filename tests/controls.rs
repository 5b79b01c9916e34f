//! Every control of docs/controls.md, as it stands there, through the real binary: accepted, run, and what must hold of it.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use soctok::npy::{self, Array};
use soctok::social::pairing;
use support::Folder;

/// The blocks of TOML of docs/controls.md.
fn documented() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/controls.md");
    let text = std::fs::read_to_string(path).expect("reads");
    let blocks = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().expect("a block ends"));
    blocks.collect::<Vec<_>>().join("\n")
}

/// Quickstart made small, with the documented controls.
fn experiment(folder: &Folder) -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    // Few draws are enough here.
    let few = "[stages.rsa]\npermutations = 20\nreplicates = 20\ncv_draws = 20\n";
    let controls = documented().replace("[stages.rsa]\n", few);
    let text = format!(
        r#"
name = "controls"
[models.language]
path = "{root}/assets/one-clause-language"
[stages.clips]
kind = "simulate_clips"
world = "one_clause"
train_clips = 96
test_clips = 24
frames_per_phase = 2
judged_clips = 12
judgments = 600
[stages.features]
kind = "encode_frames"
frames = "stage:clips"
method = "oracle"
[stages.packs]
kind = "scene_packs"
text = "stage:clips"
features = "stage:features"
[stages.projector]
kind = "train_projector"
text = "stage:clips"
packs = "stage:packs"
inject = "full"
lead_in = ":"
steps = 3
batch = 32
lr = 1e-2
[stages.perplexity]
kind = "perplexity"
text = "stage:clips"
packs = "stage:packs"
projector = "stage:projector"
[axes.inject]
to = "projector.inject"
values = ["none", "full"]
{controls}
"#
    );
    folder.write("controls.toml", &text)
}

/// What a reader does who takes one block and puts it at the end of the file that the page names.
#[test]
fn every_block_stands_alone_at_the_end_of_quickstart() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let quickstart = std::fs::read_to_string(root.join("experiments/quickstart.toml")).expect("reads");
    let quickstart = quickstart.replace("assets/", &format!("{}/assets/", root.display()));
    let folder = Folder::new();
    let text = std::fs::read_to_string(root.join("docs/controls.md")).expect("reads");
    let blocks = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().expect("a block ends"));
    for (number, block) in blocks.enumerate() {
        let mut file = quickstart.clone();
        // What quickstart has itself is taken out of it, with what needs it.
        for name in ["[ablations.wrong_clip]", "[ablations.constant_token]", "[comparisons.information]"] {
            if block.contains(name) {
                let start = file.find(name).expect("quickstart has it");
                let end = file[start + 1..].find("\n[").map_or(file.len(), |end| start + 1 + end);
                file.replace_range(start..end, "");
            }
        }
        let name = format!("{number}.toml");
        folder.write(&name, &format!("{file}\n{block}"));
        let plan = folder.json(&["plan", &name]);
        assert!(plan["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{block}");
    }
}

/// The folder in the store of what a stage of a run left.
fn artifact(folder: &Folder, results: &serde_json::Value, stage: &str) -> PathBuf {
    folder.path().join("store").join(results["stages"][stage]["artifact"].as_str().expect("has an artifact"))
}

/// clip, utterance, target, word and token of every row, and the scores.
type Rows = (Vec<String>, Vec<f64>);

fn targets(folder: &Path) -> Rows {
    let mut reader = csv::Reader::from_path(folder.join("targets.csv")).expect("has scores");
    let rows = reader.records().map(|row| {
        let row = row.expect("reads");
        // A control that needs groups brings them; they change no target.
        (
            row.iter()
                .take(6)
                .enumerate()
                .filter(|(column, _)| *column != 1)
                .map(|(_, cell)| cell)
                .collect::<Vec<_>>()
                .join(","),
            row[8].parse::<f64>().expect("a number"),
        )
    });
    rows.unzip()
}

#[test]
fn every_documented_control_runs_on_the_same_targets_and_does_what_it_says() {
    let folder = Folder::new();
    let file = experiment(&folder);
    let file = file.to_str().expect("a temporary path is text");
    let facts = folder.json(&["run", file, "--store", "store", "--device", "cpu"]);
    assert_eq!(facts["failed"].as_array().map(Vec::len), Some(0), "{facts:#}");
    let absent = facts["points"].as_array().expect("a list").iter().filter(|point| !point["not_applicable"].is_null());
    let absent: Vec<_> = absent.map(|point| (&point["ablation"], &point["coordinates"]["inject"])).collect();
    assert_eq!(absent, [(&"lora".into(), &"none".into())], "beside `none` there is no projector to be a control of");
    let runs = folder.path().join("store/runs/by-name/controls");
    let mut arms: BTreeMap<String, (PathBuf, Rows)> = BTreeMap::new();
    let mut similarities: BTreeMap<String, PathBuf> = BTreeMap::new();
    for entry in std::fs::read_dir(&runs).expect("has runs") {
        let path = entry.expect("reads").path();
        let Ok(text) = std::fs::read(path.join("results.json")) else { continue };
        let results: serde_json::Value = serde_json::from_slice(&text).expect("is JSON");
        // Beside `none` most controls change nothing; that they run there is seen above.
        let link = path.file_name().expect("has a name").to_string_lossy().into_owned();
        if !link.starts_with("inject=full") {
            continue;
        }
        let name = link.replace("inject=full,", "");
        similarities.insert(name.clone(), artifact(&folder, &results, "rsa"));
        let scores = artifact(&folder, &results, "perplexity");
        arms.insert(name, (scores.clone(), targets(&scores)));
    }
    let count = documented().matches("[ablations.").count();
    assert!(count >= 15 && arms.len() == count + 1, "{count} controls, {:?}", arms.keys());

    let base = &arms["inject=full"].1;
    for (name, (_, rows)) in &arms {
        assert_eq!(rows.0, base.0, "`{name}` scores other targets");
        // What changes nothing is no control. In one clause both frames of a clip show the same.
        let of_similarity = name == "permuted_labels";
        assert_eq!(rows.1 == base.1, name == "inject=full" || of_similarity, "`{name}` scores as the base does");
    }
    // Whose vectors a clip got is stored, and nobody got its own.
    for (name, hard) in [("wrong_clip", false), ("wrong_clip_of_group", true)] {
        let text = std::fs::read_to_string(arms[name].0.join("pairing.csv")).expect("the pairs are stored");
        let pairs: Vec<(&str, &str)> = text.lines().skip(1).filter_map(|line| line.split_once(',')).collect();
        assert!(pairs.len() == 24 && pairs.iter().all(|(clip, from)| clip != from), "{name}: {text}");
        let same_group = |(clip, from): &&(&str, &str)| clip[..9] == from[..9];
        let within = pairs.iter().filter(same_group).count();
        assert!(if hard { within == 24 } else { within < 24 }, "{name}: {within} of 24 within the group");
    }
    assert!(!arms["inject=full"].0.join("pairing.csv").exists());

    // Permuted labels: the same judgments and vectors, but every clip has the row of the one that is named beside it.
    let [own, permuted] = ["inject=full", "permuted_labels"].map(|name| {
        let matrix: Array<f32> = npy::read(&similarities[name].join("rsm.npy")).expect("reads");
        let clips = std::fs::read_to_string(similarities[name].join("human.csv")).expect("reads");
        (matrix, clips)
    });
    assert_eq!(own.1, permuted.1, "the judgments stay");
    let text = std::fs::read_to_string(similarities["inject=full"].join("clips.csv")).expect("reads");
    let clips: Vec<&str> = text.lines().skip(1).collect();
    let pairs = pairing::read(&similarities["permuted_labels"]).expect("the pairs are stored");
    let place = |clip: &str| clips.iter().position(|known| *known == clip).expect("a judged clip");
    let moved: Vec<usize> = pairs.iter().map(|(_, source)| place(source)).collect();
    assert!(moved.len() == 12 && moved != (0..12).collect::<Vec<_>>(), "{pairs:?}");
    for (row, &from) in moved.iter().enumerate() {
        for (column, &other) in moved.iter().enumerate() {
            assert!((permuted.0.row(row)[column] - own.0.row(from)[other]).abs() < 1e-6);
        }
    }

    // The sentence is printed, and stands in the JSON.
    let sentence = facts["verdicts"]["information"].as_str().expect("a sentence");
    assert!(sentence.ends_with('.') && sentence.contains("bits per word"), "{sentence}");
    let table = folder.ok(&["table", file, "--store", "store"]);
    assert!(table.contains(&format!("verdicts\ninformation: {sentence}")), "{table}");
}
