//! `soctok plan` and `run`: what a plan will need, what is refused before it starts, and what happens after a failure.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use support::{Folder, text};

/// Quickstart's graph with few clips and steps.
fn small(folder: &Folder) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).display().to_string();
    let file = folder.write(
        "small.toml",
        &format!(
            r#"
name    = "small"
extends = "{root}/experiments/quickstart.toml"
[models.language]
path = "{root}/assets/one-clause-language"
[stages.clips]
train_clips      = 64
test_clips       = 20
frames_per_phase = 1
judged_clips     = 0
[stages.projector]
steps = 5
[exclude.one]
where = {{ inject = ["global", "local"] }}
"#
        ),
    );
    file.to_str().expect("a temporary path is text").to_owned()
}

fn steps<'a>(plan: &'a Value, kind: &str) -> Vec<&'a Value> {
    let steps = plan["steps"].as_array().expect("has steps");
    steps.iter().filter(|step| step["kind"] == kind).collect()
}

#[test]
fn a_plan_of_nothing_built_tells_operations_memory_and_time() {
    let folder = Folder::new();
    let file = small(&folder);
    let plan = folder.json(&["plan", &file]);
    let training = steps(&plan, "train_projector");
    assert_eq!(training.len(), 2, "the method and its constant token");
    for step in training {
        let estimate = &step["estimate"];
        // The committed language model has 102,848 weights, the projector of a 64-d feature 8,576.
        assert_eq!(estimate["parameters"], 102_848 + 8_576, "{estimate}");
        let (clips, batch, steps) = (64.0, 64.0, 5.0);
        let flops = estimate["flops"].as_f64().expect("is known");
        // Forwards and backwards through 103 k weights for about 15 tokens, 320 times: to a factor of two.
        let rough = 2.0 * 2.0 * 103e3 * 15.0 * clips * (steps * batch / clips);
        assert!(flops > rough / 2.0 && flops < rough * 2.0, "{flops} against {rough}");
        assert!(step["expected_memory"].as_u64().expect("is known") > 60_000_000);
        assert!(step["expected_seconds"].as_f64().expect("calibrated") > 0.0);
    }
    assert_eq!(steps(&plan, "simulate_clips")[0]["estimate"]["size"]["frames"], 84);
    let shown = folder.ok(&["plan", &file]);
    assert!(shown.contains("parameters") && shown.contains("111 k") && shown.contains("about "), "{shown}");
    assert!(!folder.path().join("soctok-store").exists(), "a plan writes nothing");
}

#[test]
fn what_cannot_fit_is_refused_before_anything_runs() {
    let folder = Folder::new();
    let file = small(&folder);
    let output = folder.soctok(&["run", &file, "--set", "run.memory=0.07"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("`projector` needs about") && stderr.contains("has 70.0 MB"), "{stderr}");
    let batch = stderr.split("`projector.batch = ").nth(1).and_then(|rest| rest.split('`').next()).expect("a cure");
    let batch: u64 = batch.parse().expect("a number");
    assert!((1..64).contains(&batch), "{batch}");
    assert!(!folder.path().join("soctok-store/steps").exists());
    assert!(folder.ok(&["plan", &file, "--set", "run.memory=0.07"]).contains("will be refused"));
    // The cure cures.
    let cure = format!("projector.batch={batch}");
    let cured = folder.soctok(&["run", &file, "--only", "projector", "--set", "run.memory=0.07", "--set", &cure]);
    let stderr = text(&cured.stderr);
    assert!(!stderr.contains("`projector` needs about"), "{stderr}");
}

#[test]
fn one_loaded_model_serves_every_step_and_the_pace_is_learned() {
    let folder = Folder::new();
    let file = small(&folder);
    let facts = folder.json(&["run", &file, "--device", "cpu"]);
    let users = 2 + steps(&folder.json(&["plan", &file]), "perplexity").len();
    assert_eq!(facts["models"]["loaded"], 1, "{facts}");
    assert_eq!(facts["models"]["reused"], users - 1, "{facts}");
    // What was learned from the steps that ran now tells the time of those that had no operations to go by.
    let plan = folder.json(&["plan", &file, "--set", "clips.data_seed=7"]);
    let simulated = &steps(&plan, "simulate_clips")[0]["expected_seconds"];
    assert!(simulated.as_f64().is_some_and(|seconds| seconds > 0.0), "{simulated}");
}

/// Three programs that each read a file that is not there.
fn broken(folder: &Folder) -> [PathBuf; 3] {
    let files = ["one", "two", "three"].map(|name| folder.path().join(name));
    folder.write(
        "broken.toml",
        &format!(
            r#"
name = "broken"

[stages.read]
kind    = "command"
command = ["cat", "{{value:file}}"]
version = "any"

[axes.file]
to     = "read.values.file"
values = {files:?}
"#
        ),
    );
    files
}

#[test]
fn the_first_failure_stops_a_run_only_when_asked_to() {
    let folder = Folder::new();
    broken(&folder);
    let run = |more: &[&str]| {
        let output = folder.soctok(&[&["run", "broken.toml", "--json", "--jobs", "1"], more].concat());
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let facts: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
        (facts["failed"].as_array().map(Vec::len), facts["not_reached"].as_u64())
    };
    assert_eq!(run(&[]), (Some(3), Some(0)));
    assert_eq!(run(&["--fail-fast"]), (Some(1), Some(2)));
    assert_eq!(run(&["--set", "run.keep_going=false", "--keep-going"]), (Some(3), Some(0)));
    let both = folder.soctok(&["run", "broken.toml", "--fail-fast", "--keep-going"]);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn a_named_cause_is_tried_again_and_no_other() {
    let folder = Folder::new();
    let files = broken(&folder);
    let run = |cause: &str| {
        let cause = format!("run.retry_on=[\"{cause}\"]");
        folder.soctok(&["run", "broken.toml", "--json", "--jobs", "3", "--set", "run.retries=3", "--set", &cause])
    };
    // A program that fails is no file that soctok could not read.
    let output = run("io");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("tried again"), "{stderr}");
    // The files come while the steps wait for their next attempt.
    let healer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        files.iter().for_each(|file| std::fs::write(file, "here\n").expect("writes"));
    });
    let output = run("stage");
    healer.join().expect("ends");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("tried again in 1 s"), "{stderr}");
    let facts: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!((&facts["executed"], facts["failed"].as_array().map(Vec::len)), (&3.into(), Some(0)), "{facts}");
}
