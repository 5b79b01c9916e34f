//! The seed's transcripts and manifest, the original's encoder and packs, text without parts of speech: through the binary.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use soctok::stats::random::Streams;
use soctok::vision::image::Rgb;
use support::{Folder, text};

const EXPERIMENT: &str = r#"
name = "talk"

[data.frames]
path = "data/manifests/all.csv"
[data.talk]
path = "data/transcripts"
[models.language]
path = "language"
[models.vision]
path = "dino/best.pt"

[stages.features]
kind = "encode_frames"
frames = "data:frames"
resize = 28
[stages.packs]
kind = "scene_packs"
text = "data:talk"
features = "stage:features"
word_times = "none"
[stages.projector]
kind = "train_projector"
text = "data:talk"
packs = "stage:packs"
inject = "full"
steps = 2
batch = 2
[stages.perplexity]
kind = "perplexity"
text = "data:talk"
packs = "stage:packs"
projector = "stage:projector"
"#;

const IMPORT: &str = r#"
name = "import"

[data.packs]
path = "packs"
[data.captions]
path = "captions.csv"

[stages.packs]
kind = "import_packs"
folder = "data:packs"
text = "data:captions"
"#;

/// Four conversations as the seed's README has them, with frames named as the videos are and no parts of speech.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("talk.toml", EXPERIMENT);
    let mut manifest = "split,clip_id,frame_path,t_sec\n".to_owned();
    for clip in 0..4 {
        let split = if clip == 3 { "test" } else { "train" };
        let mut turns = Vec::new();
        for frame in 0..2 {
            let path = format!("data/frames/clip_{clip}/frame_{frame:04}.png");
            let file = folder.path().join(&path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            let mut stream = Streams::new(0, "picture").named(&path);
            let values = (0..40 * 30 * 3).map(|_| (stream.next_u32() >> 24) as u8).collect();
            Rgb::new(40, 30, values).save_png(&file).unwrap();
            manifest += &format!("{split},clip_{clip},{path},{frame}\n");
            let utterance = ["a man walks to the door", "two dogs run"][frame];
            turns.push(
                json!({"speaker": "A", "utterance": utterance, "timestamp": frame as f64 + 0.4, "frame_path": path}),
            );
        }
        let talk = json!({"conversation_id": format!("conv_{clip}"), "split": split, "turns": turns});
        folder.write(&format!("data/transcripts/conv_{clip}.json"), &talk.to_string());
    }
    folder.write("data/manifests/all.csv", &manifest);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for name in ["language", "dino"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    for (from, to) in [
        ("fixtures/gemma2_tiny/config.json", "language/config.json"),
        ("fixtures/gemma2_tiny/model.safetensors", "language/model.safetensors"),
        ("fixtures/tokenizer.json", "language/tokenizer.json"),
        ("data/dino_student.pt", "dino/best.pt"),
    ] {
        std::fs::copy(tests.join(from), folder.path().join(to)).unwrap();
    }
    folder
}

fn figures(folder: &Folder, name: &str, stage: &str) -> Value {
    let path = folder.path().join(format!("soctok-store/runs/by-name/{name}"));
    let runs = std::fs::read_dir(path).unwrap().map(|run| run.unwrap().path().join("results.json"));
    let newest = runs.max_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap()).unwrap();
    let results: Value = serde_json::from_slice(&std::fs::read(newest).unwrap()).unwrap();
    results["stages"][stage]["figures"].clone()
}

#[test]
fn conversations_with_pictures_run_through_the_originals_encoder() {
    let folder = folder();
    folder.ok(&["run", "talk.toml"]);
    let packs = figures(&folder, "talk", "packs");
    assert_eq!((&packs["words"], &packs["words_untimed"]), (&json!(36), &json!(36)), "{packs:#}");
    assert_eq!((&packs["pos_tagged_share"], &packs["pos_given_share"]), (&json!(1.0), &json!(0.0)));
    // Man, walks, door and dogs, run in every conversation.
    assert_eq!((&packs["locals"], &packs["dim"]), (&json!(20), &json!(4)));

    // The encoder turns out to have seen the test clip, which its video names: the features say so, and the evaluation
    // refuses it unless the protocol allows it.
    folder.write("dino/seen_clips.csv", "clip_id\nclip_0\nclip_3\n");
    let output = folder.soctok(&["run", "talk.toml"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("trained on 1 of the 1 clips to be evaluated, the first is `conv_3`"), "{stderr}");
    assert!(stderr.contains("`allow_seen_clips = true`"), "{stderr}");
    folder.ok(&["run", "talk.toml", "--set", "perplexity.allow_seen_clips=true"]);
    let perplexity = figures(&folder, "talk", "perplexity");
    assert_eq!(perplexity["clips_seen_by_encoder"], 1, "{perplexity:#}");
}

#[test]
fn packs_in_the_originals_form_are_written_and_read() {
    let folder = folder();
    let mut captions = "video_name,caption\n".to_owned();
    for clip in 0..4 {
        captions += &format!("clip_{clip}.mp4,a man's dog runs to the door \n");
    }
    folder.write("captions.csv", &captions);
    let talk = EXPERIMENT.replace("data/transcripts", "captions.csv");
    let written = talk[..talk.find("[stages.projector]").unwrap()]
        .replace("word_times = \"none\"", "local_frame = \"rank_uniform\"\nwrite_original = true");
    folder.write("write.toml", &written);
    folder.ok(&["run", "write.toml"]);
    let steps = std::fs::read_dir(folder.path().join("soctok-store/steps")).unwrap();
    let packs = steps.map(|step| step.unwrap().path()).find(|path| path.join("original").is_dir()).unwrap();
    std::fs::rename(packs.join("original"), folder.path().join("packs")).unwrap();
    folder.write("import.toml", IMPORT);
    folder.ok(&["run", "import.toml"]);
    let figures = figures(&folder, "import", "packs");
    // Man's, dog, runs, door.
    assert_eq!((&figures["clips"], &figures["locals"], &figures["slipped_locals"]), (&json!(4), &json!(16), &json!(0)));
    assert_eq!(figures["spread"].as_f64().map(|spread| spread > 1e-4), Some(true), "{figures:#}");
}
