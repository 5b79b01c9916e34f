//! Interruption: the same command goes on, and the bytes are those of an undisturbed run.

mod support;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Folder, text};

/// A training step of some seconds on the one-clause world, with dropout, an order, accumulated gradients and best weights
/// to get wrong.
fn training(folder: &Folder) {
    let language = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/one-clause-language");
    let file = format!(
        r#"
name = "interrupt"
[models.language]
path = "{language}"
[stages.clips]
kind = "simulate_clips"
world = "one_clause"
train_clips = 200
test_clips = 20
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
steps = 150
batch = 8
accumulate = 2
dropout = 0.1
validation = "test"
checkpoint = "best"
original_metrics = true
"#
    );
    folder.write("interrupt.toml", &file);
}

fn start(folder: &Folder) -> Child {
    let mut command = folder.command(&["run", "interrupt.toml", "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
}

/// The digest of the projector's outputs, and the lines of its metrics.
fn outcome(folder: &Folder) -> (String, Vec<Value>) {
    let steps = folder.path().join("soctok-store/steps");
    let projector = std::fs::read_dir(steps)
        .expect("reads")
        .map(|entry| entry.expect("reads").path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("train_projector")))
        .expect("it was trained");
    let read = |name: &str| std::fs::read_to_string(projector.join(name)).expect("reads");
    let record: Value = serde_json::from_str(&read("step.json")).expect("is JSON");
    let metrics = read("metrics.jsonl").lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
    (record["output_digest"].as_str().expect("a digest").to_owned(), metrics)
}

#[test]
fn a_run_that_was_stopped_goes_on_from_its_checkpoint_to_the_same_bytes() {
    let undisturbed = Folder::new();
    training(&undisturbed);
    undisturbed.ok(&["run", "interrupt.toml"]);
    let expected = outcome(&undisturbed);
    // Thirteen steps of sixteen clips are an epoch: eleven whole ones and the end.
    let validated = expected.1.iter().filter(|line| line["validation_loss"].is_f64()).count();
    assert_eq!((expected.1.len(), validated), (150 + 12, 12));

    let folder = Folder::new();
    training(&folder);
    let (mut stopped, mut resumed) = (0, 0);
    for round in 0..12 {
        let child = start(&folder);
        let pid = child.id() as libc::pid_t;
        // Stop it once it trains; every third time with no chance to leave a checkpoint.
        let began = Instant::now();
        let metrics = || {
            let work = std::fs::read_dir(folder.path().join("soctok-store/work")).ok()?;
            let lines = |path: std::path::PathBuf| std::fs::read_to_string(path).ok().map(|text| text.lines().count());
            let outputs =
                work.flatten().flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten());
            outputs.filter_map(|entry| lines(entry.path().join("metrics.jsonl"))).max()
        };
        let goal = 8 * (round + 1);
        while metrics().unwrap_or(0) < goal && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let signal = if round % 3 == 2 { libc::SIGKILL } else { libc::SIGTERM };
        // SAFETY: the process is our own child, which has not been waited for.
        unsafe { libc::kill(pid, signal) };
        let output = child.wait_with_output().expect("ends");
        match output.status.code() {
            Some(0) => break,
            Some(1) => stopped += 1,
            None => {}
            code => panic!("ended with {code:?}: {}", text(&output.stderr)),
        }
        resumed += usize::from(text(&output.stderr).contains("going on from the checkpoint"));
    }
    folder.ok(&["run", "interrupt.toml"]);
    assert!(stopped >= 2, "it was stopped {stopped} times");
    assert!(resumed >= 1, "it went on from a checkpoint {resumed} times");
    let found = outcome(&folder);
    assert_eq!(found.0, expected.0, "the bytes of an undisturbed run");
    assert_eq!(found.1, expected.1, "every line of the metrics once");
    let work: Vec<_> = std::fs::read_dir(folder.path().join("soctok-store/work")).expect("reads").flatten().collect();
    assert!(work.is_empty(), "nothing is left behind: {work:?}");
}
