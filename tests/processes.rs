//! Several processes on one store share the work; several steps in one process do not disturb one another.

mod support;

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{CHAIN, Folder, text};

/// The chain with three training steps and twelve notes.
fn many() -> Folder {
    let folder = Folder::with_chain();
    let seeds = "[axes.seed]\nto = [\"projector.seed\"]\nvalues = [0, 1, 2]\n";
    let numbers: Vec<String> = (0..12).map(|number| format!("\"{number}\"")).collect();
    let notes = format!("[axes.ending]\nto = [\"second.text\"]\nvalues = [{}]\n", numbers.join(", "));
    folder.write("chain.toml", &format!("{}\n{seeds}\n{notes}", CHAIN.replace("steps = 6", "steps = 60")));
    folder
}

/// Frames, features, listed, packs, the first note; three projectors and their scores; twelve notes.
const STEPS: u64 = 5 + 2 * 3 + 12;

fn start(folder: &Folder, arguments: &[&str]) -> Child {
    let mut command = folder.command(&[&["run", "chain.toml", "--json"], arguments].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
}

/// Waits for it; it must end with 0. Returns its facts.
fn facts(child: Child) -> Value {
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("is JSON")
}

/// The leases that stand in the store on steps of this kind.
fn leases(folder: &Folder, kind: &str) -> usize {
    let work = std::fs::read_dir(folder.path().join("soctok-store/work")).into_iter().flatten().flatten();
    let names = work.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(kind) && Path::new(name).extension().is_some_and(|it| it == "lease")).count()
}

/// Waits until `done` says so.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "never seen: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn shared_by(count: usize) {
    let alone = many();
    assert_eq!(facts(start(&alone, &[]))["executed"], STEPS);
    let folder = many();
    let processes: Vec<Child> = (0..count).map(|_| start(&folder, &[])).collect();
    let ended: Vec<Value> = processes.into_iter().map(facts).collect();
    let sum = |what: &str| ended.iter().map(|facts| facts[what].as_u64().expect("a count")).sum::<u64>();
    assert_eq!((sum("executed"), sum("cut_off"), sum("not_reached")), (STEPS, 0, 0), "each step runs once");
    assert!(ended.iter().filter(|facts| facts["executed"] != 0).count() >= 2, "the work was shared");
    for facts in &ended {
        assert_eq!(facts["points"], ended[0]["points"], "every process has the same results");
    }
    assert!(folder.results() == alone.results(), "the bytes of one process");
    let work: Vec<_> = std::fs::read_dir(folder.path().join("soctok-store/work")).expect("reads").flatten().collect();
    assert!(work.is_empty(), "nothing is left behind: {work:?}");
}

#[test]
fn two_processes_run_each_step_once() {
    shared_by(2);
}

#[test]
fn eight_processes_run_each_step_once() {
    shared_by(8);
}

#[test]
fn the_steps_of_a_process_that_is_killed_are_taken_over_by_the_others() {
    let alone = many();
    alone.ok(&["run", "chain.toml"]);
    let folder = many();
    let mut first = start(&folder, &[]);
    until("a training step under way", || leases(&folder, "train_projector") > 0);
    let others: Vec<Child> = (0..2).map(|_| start(&folder, &[])).collect();
    until("a second training step under way", || leases(&folder, "train_projector") > 1);
    first.kill().expect("kills");
    first.wait().expect("ends");
    others.into_iter().for_each(|other| drop(facts(other)));
    assert!(folder.results() == alone.results(), "the bytes of one process");
}

#[test]
fn two_training_steps_at_once_give_the_bytes_of_two_in_turn() {
    let results = |jobs: &str| {
        let folder = many();
        // All that comes before them, so that they begin together.
        folder.ok(&["run", "chain.toml", "--only", "packs"]);
        let child = start(&folder, &["--jobs", jobs, "--only", "projector", "--set", "axes.seed.values=[0, 1]"]);
        let mut most = 0;
        let mut child = Some(child);
        let facts = loop {
            most = most.max(leases(&folder, "train_projector"));
            let ended = child.as_mut().is_some_and(|child| child.try_wait().expect("waits").is_some());
            if ended && let Some(child) = child.take() {
                break facts(child);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(facts["executed"], 2);
        (most, folder.results())
    };
    let (in_turn, at_once) = (results("1"), results("2"));
    assert_eq!((in_turn.0, at_once.0), (1, 2), "training steps at once");
    assert!(in_turn.1.keys().any(|file| file.starts_with("train_projector") && file.ends_with("metrics.jsonl")));
    assert!(in_turn.1 == at_once.1, "the bytes of two in turn");
}
