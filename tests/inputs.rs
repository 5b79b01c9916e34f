//! The seed's transcripts and manifest, the original's encoder and packs, text without parts of speech: through the binary.

mod support;

use std::path::Path;

use burn::tensor::TensorData;
use serde_json::{Value, json};
use soctok::models::checkpoint;
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
    let results = std::fs::read_dir(path).unwrap().map(|run| run.unwrap().path().join("results.json"));
    // Beside the links to runs lies one to the experiment.
    let runs = results.filter(|path| path.is_file());
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

/// The seed's `--eval-only`: no training, a projector as the original saves it.
const EVALUATION: &str = r#"
[models.given]
kind = "projector"
path = "projector_tiny.pt"

[stages.perplexity]
kind = "perplexity"
text = "data:talk"
packs = "stage:packs"
projector = "model:given"
inject = "full"
[stages.embed]
kind = "embed"
text = "data:talk"
packs = "stage:packs"
projector = "model:given"
inject = "full"
"#;

/// A projector of 4 → 64 → 64 values with the original's names, as `tests/data/make_torch.py` writes it; `sign` times
/// its values.
fn projector(path: &Path, sign: f32) {
    let shapes: [(&str, &[usize]); 8] = [
        ("net.0.g", &[4]),
        ("net.0.b", &[4]),
        ("net.1.weight", &[64, 4]),
        ("net.1.bias", &[64]),
        ("net.4.weight", &[64, 64]),
        ("net.4.bias", &[64]),
        ("net.5.g", &[64]),
        ("net.5.b", &[64]),
    ];
    let mut next = (0i64..).map(|index| sign * (37 * index % 101 - 50) as f32 / 100.0);
    let tensors = shapes.map(|(name, shape)| {
        let values: Vec<f32> = next.by_ref().take(shape.iter().product()).collect();
        (name.to_owned(), TensorData::new(values, shape.to_vec()))
    });
    checkpoint::save(path, tensors.to_vec()).unwrap();
}

#[test]
fn a_projector_of_the_original_is_evaluated_without_training() {
    let folder = folder();
    let untrained = &EXPERIMENT[..EXPERIMENT.find("[stages.projector]").unwrap()];
    folder.write("talk.toml", &format!("{untrained}{EVALUATION}"));
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for name in ["projector_tiny.pt", "projector_only.pt"] {
        std::fs::copy(data.join(name), folder.path().join(name)).unwrap();
    }
    let evaluated = |file: &str| {
        folder.ok(&["run", "talk.toml", "--set", &format!("models.given.path={file}")]);
        let nll = figures(&folder, "talk", "perplexity")["bits_per_token"].as_f64().unwrap();
        let steps = std::fs::read_dir(folder.path().join("soctok-store/steps")).unwrap();
        let embeddings = steps.map(|step| step.unwrap().path().join("embeddings.npz")).filter(|file| file.is_file());
        let newest = embeddings.max_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap()).unwrap();
        (nll, std::fs::read(newest).unwrap())
    };
    let original = evaluated("projector_tiny.pt");
    // The same values, and others, in a file that does not go through the reader of pickles.
    projector(&folder.path().join("same.safetensors"), 1.0);
    projector(&folder.path().join("other.safetensors"), -1.0);
    assert!(original == evaluated("same.safetensors"), "the .pt gives other figures than its values");
    let other = evaluated("other.safetensors");
    assert!(original.0 != other.0 && original.1 != other.1, "the projector does not matter");
    let none = folder.soctok(&["run", "talk.toml", "--set", "models.given.path=projector_only.pt"]);
    let stderr = text(&none.stderr);
    assert_eq!(none.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the projector gives vectors of 4 values"), "{stderr}");
    let bare = EVALUATION.replace("inject = \"full\"\n", "");
    folder.write("talk.toml", &format!("{untrained}{bare}"));
    let stderr = text(&folder.soctok(&["run", "talk.toml"]).stderr);
    assert!(stderr.contains("a given projector does not tell what it was trained with"), "{stderr}");
}

/// Seamless Interaction as it is published: a transcript and a folder of frames per person and interaction.
const DIALOGUES: &str = r#"
name = "dialogues"
protocol = "controlled"

[data.transcripts]
path = "seamless/transcripts"
[data.images]
path = "seamless/frames"
[data.clips]
path = "seamless/clips.csv"
[models.language]
path = "language"
[models.vision]
path = "dino/best.pt"

[stages.dialogues]
kind = "join_speakers"
text = "data:transcripts"
max_seconds = 6
[stages.frames]
kind = "frame_manifest"
folder = "data:images"
[stages.features]
kind = "encode_frames"
frames = "stage:frames"
resize = 28
[stages.packs]
kind = "scene_packs"
text = "stage:dialogues"
features = "stage:features"
word_times = "spread"
[stages.projector]
kind = "train_projector"
text = "stage:dialogues"
splits = "data:clips"
packs = "stage:packs"
inject = "full"
samples = "next_utterance"
context_turns = 1
steps = 2
batch = 2
[stages.perplexity]
kind = "perplexity"
text = "stage:dialogues"
splits = "data:clips"
packs = "stage:packs"
projector = "stage:projector"
"#;

#[test]
fn recordings_of_two_persons_are_dialogues() {
    let folder = folder();
    folder.write("dialogues.toml", DIALOGUES);
    let mut splits = "clip_id,split\n".to_owned();
    for (scene, split) in [("V00_S0001_I00000001", "train"), ("V00_S0002_I00000002", "test")] {
        for (person, offset) in [("P0001", 0.0), ("P0002", 1.0)] {
            let clip = format!("{scene}_{person}");
            splits += &format!("{clip},{split}\n");
            // A turn of each person every two seconds, from 0.2 s or 1.2 s on; the fourth is later than 6 s.
            let segment = |turn: usize| {
                let start = 0.2 + offset + 2.0 * turn as f64;
                let word = |place: usize, word: &str| {
                    let from = start + 0.2 * place as f64;
                    json!({"word": word, "start": from, "end": from + 0.2})
                };
                let mut words = vec![word(0, "the"), word(1, ["dog", "man"][turn % 2]), word(2, "runs")];
                words[0]["start"] = Value::Null;
                words[0]["end"] = Value::Null;
                json!({"start": start, "end": start + 0.6, "words": words})
            };
            let talk = json!({"id": clip, "metadata:vad": [],
                "metadata:transcript": (0..4).map(segment).collect::<Vec<_>>()});
            folder.write(&format!("seamless/transcripts/{clip}.json"), &talk.to_string());
            for frame in 1..=6 {
                let path = folder.path().join(format!("seamless/frames/{clip}/frame_{frame:04}.png"));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                let mut stream = Streams::new(0, "picture").named(&format!("{clip} {frame}"));
                let values = (0..40 * 30 * 3).map(|_| (stream.next_u32() >> 24) as u8).collect();
                Rgb::new(40, 30, values).save_png(&path).unwrap();
            }
        }
    }
    folder.write("seamless/clips.csv", &splits);
    folder.ok(&["run", "dialogues.toml"]);
    let joined = figures(&folder, "dialogues", "dialogues");
    let counts = ["clips", "conversations", "alone", "turns", "words_cut", "words_untimed"].map(|name| &joined[name]);
    // Of eight turns of each conversation two are later than 6 s, with three words each.
    assert_eq!(counts, [4, 2, 0, 12, 12, 16].map(|count| json!(count)).each_ref(), "{joined:#}");

    // Every turn of the test conversation but the first is predicted once, by the clip of the person who says it.
    let steps = std::fs::read_dir(folder.path().join("soctok-store/steps")).unwrap();
    let targets = steps.map(|step| step.unwrap().path().join("targets.csv")).find(|file| file.is_file()).unwrap();
    let mut table = csv::Reader::from_path(&targets).unwrap();
    let rows: std::collections::BTreeSet<(usize, String)> =
        table.records().map(|row| row.unwrap()).map(|row| (row[2].parse().unwrap(), row[0].to_owned())).collect();
    let turns = (1..6).map(|turn| (turn, format!("V00_S0002_I00000002_P000{}", 1 + turn % 2)));
    assert_eq!(rows, turns.collect());
    let figures = figures(&folder, "dialogues", "perplexity");
    assert_eq!((&figures["words"], &figures["samples"]), (&json!(15), &json!(5)), "{figures:#}");

    // The pictures of a person matter to the turns of both: as global token to their own, as local ones to the answers.
    let nll = |path: &Path| -> Vec<(String, String)> {
        let mut table = csv::Reader::from_path(path).unwrap();
        table.records().map(|row| row.unwrap()).map(|row| (row[2].to_owned(), row[8].to_owned())).collect()
    };
    let before = nll(&targets);
    let path = folder.path().join("seamless/frames/V00_S0002_I00000002_P0001/frame_0001.png");
    Rgb::new(40, 30, vec![7; 40 * 30 * 3]).save_png(&path).unwrap();
    folder.ok(&["run", "dialogues.toml"]);
    let steps = std::fs::read_dir(folder.path().join("soctok-store/steps")).unwrap();
    let scores = steps.map(|step| step.unwrap().path().join("targets.csv"));
    let other = scores.filter(|file| file.is_file()).find(|file| *file != targets).unwrap();
    let moved = |turn: &str| before.iter().zip(nll(&other)).any(|(a, b)| a.0 == turn && a.1 != b.1);
    // Causally: frame 1 is at 0 s and belongs to all means of P0001, who says turns 0, 2, 4. Turn 1 has P0002's global
    // token and reads turn 0 with its local tokens; turn 3 reads turn 2, whose words have later frames.
    assert_eq!(["1", "2", "3", "4", "5"].map(moved), [true, true, false, true, false]);
}
