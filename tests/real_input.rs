//! Existing frame folders, captions and a split by group, through the binary: what real input needs besides models.

mod support;

use std::path::Path;

use soctok::stats::random::Streams;
use soctok::vision::image::Rgb;
use support::Folder;

const EXPERIMENT: &str = r#"
name = "input"

[data.frames]
path = "data"
[data.captions]
path = "captions.csv"
[models.language]
path = "language"

[stages.frames]
kind = "frame_manifest"
folder = "data:frames"
fps = 2.0
group_pattern = "^([a-z]+)_"
[stages.split]
kind = "split"
clips = "stage:frames"
method = "lists"
ids = { test = ["kitchen"] }
others = "train"
[stages.features]
kind = "encode_frames"
frames = "stage:frames"
method = "random_vit"
vit_hidden = 16
vit_layers = 1
vit_heads = 2
[stages.packs]
kind = "scene_packs"
text = "data:captions"
features = "stage:features"
local_frame = "rank_uniform"
[stages.projector]
kind = "train_projector"
text = "data:captions"
splits = "stage:split"
packs = "stage:packs"
inject = "full"
steps = 2
batch = 2
[stages.perplexity]
kind = "perplexity"
text = "data:captions"
splits = "stage:split"
packs = "stage:packs"
projector = "stage:projector"
"#;

fn picture(path: &Path, name: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut stream = Streams::new(0, "picture").named(name);
    let values = (0..64 * 60 * 3).map(|_| (stream.next_u32() >> 24) as u8).collect();
    Rgb::new(64, 60, values).save_png(path).unwrap();
}

/// Four clips of two sessions: two frames each, in both forms of frame folders.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("input.toml", EXPERIMENT);
    let mut captions = "clip_id,caption,pos\n".to_owned();
    for (clip, form) in [("street_0", ""), ("street_1", "frames/"), ("kitchen_0", ""), ("kitchen_1", "frames/")] {
        for frame in 1..3 {
            let file = folder.path().join(format!("data/{clip}/{form}frame_{frame:06}.png"));
            picture(&file, &format!("{clip} {frame}"));
        }
        captions += &format!("{clip},a man walks to the door,DET NOUN VERB ADP DET NOUN\n");
    }
    folder.write("captions.csv", &captions);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::create_dir(folder.path().join("language")).unwrap();
    for (from, to) in [
        ("gemma2_tiny/config.json", "config.json"),
        ("gemma2_tiny/model.safetensors", "model.safetensors"),
        ("tokenizer.json", "tokenizer.json"),
    ] {
        std::fs::copy(fixtures.join(from), folder.path().join("language").join(to)).unwrap();
    }
    folder
}

fn executed(folder: &Folder, arguments: &[&str]) -> i64 {
    folder.json(arguments)["executed"].as_i64().unwrap()
}

#[test]
fn frame_folders_run_to_perplexity_and_one_changed_frame_runs_what_depends_on_it() {
    let folder = folder();
    assert_eq!(executed(&folder, &["run", "input.toml"]), 6);
    assert_eq!(executed(&folder, &["run", "input.toml"]), 0);
    let figure = |stage: &str, name: &str| {
        let path = folder.path().join("soctok-store/runs/by-name/input");
        let mut results = std::fs::read_dir(path).unwrap().map(|run| run.unwrap().path().join("results.json"));
        let results = std::fs::read(results.find(|path| path.is_file()).unwrap()).unwrap();
        let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
        results["stages"][stage]["figures"][name].clone()
    };
    assert_eq!(figure("frames", "frames"), 8);
    assert_eq!((figure("split", "test_clips"), figure("split", "train_clips")), (2.into(), 2.into()));
    assert_eq!(figure("perplexity", "captions"), 2);

    // A frame's bytes are part of the step, though no list of frames changes. The split does not depend on them: equal
    // bytes of the manifest are not enough for that, so it runs too.
    picture(&folder.path().join("data/street_1/frames/frame_000002.png"), "another");
    let again = executed(&folder, &["run", "input.toml"]);
    assert!((5..=6).contains(&again), "{again} steps");
    // A file that is no frame changes nothing that is computed.
    std::fs::write(folder.path().join("data/street_1/notes.txt"), "not a frame").unwrap();
    let facts = folder.json(&["run", "input.toml"]);
    assert_eq!(facts["executed"].as_i64().unwrap() + facts["cut_off"].as_i64().unwrap(), 1 + 5, "{facts}");
    assert_eq!(facts["executed"], 1);
}

#[test]
fn a_group_in_two_splits_stops_the_steps_that_need_them() {
    let folder = folder();
    let output = folder.soctok(&["run", "input.toml", "--set", "split.ids.test=[\"kitchen_0\"]"]);
    let stderr = support::text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("group `kitchen` is in two splits"), "{stderr}");
    assert!(stderr.contains("hint: split by groups"), "{stderr}");
}
