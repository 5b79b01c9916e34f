//! SIGKILL and SIGTERM at random moments of an experiment with a training stage: the same command goes on, and what it
//! leaves is byte for byte what an undisturbed run leaves.

mod support;

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use soctok::stats::random::Streams;
use support::{Folder, text};

/// Kills in all.
const KILLS: usize = 50;

/// A training of part of a second that leaves a checkpoint every 20 ms.
const COMMAND: [&str; 8] =
    ["run", "chain.toml", "--json", "--set", "projector.steps=60", "--set", "run.checkpoint_seconds=0.02", "--jobs=2"];

fn start(folder: &Folder) -> Child {
    folder.command(&COMMAND).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
}

fn send(child: &Child, signal: i32) {
    // SAFETY: the process is our own child, which has not been waited for: its number is nobody else's.
    unsafe { libc::kill(child.id() as libc::pid_t, signal) };
}

/// What an undisturbed run leaves, and how long it takes.
fn undisturbed() -> (BTreeMap<String, Vec<u8>>, Duration) {
    let folder = Folder::with_chain();
    let began = Instant::now();
    let output = start(&folder).wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let results = folder.results();
    assert!(results.keys().any(|file| file.contains("projector.safetensors")), "{:?}", results.keys());
    (results, began.elapsed())
}

/// Compares what is left with an undisturbed run, byte for byte; nothing else may be left behind.
fn finished(folder: &Folder, expected: &BTreeMap<String, Vec<u8>>) {
    let found = folder.results();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (file, bytes) in expected {
        assert!(found[file] == *bytes, "`{file}` has other bytes than in an undisturbed run");
    }
    assert!(folder.ok(&["verify"]).ends_with("8 artifacts, 0 damaged\n"));
    let runs = folder.path().join("soctok-store/runs/by-name/chain/base/results.json");
    assert!(runs.is_file(), "the run is written");
    let work: Vec<_> = std::fs::read_dir(folder.path().join("soctok-store/work")).expect("reads").flatten().collect();
    assert!(work.is_empty(), "nothing is left behind: {work:?}");
}

/// Was the training under way when the process ended: has it a work folder?
fn was_training(folder: &Folder) -> bool {
    let work = std::fs::read_dir(folder.path().join("soctok-store/work")).into_iter().flatten().flatten();
    work.filter(|entry| entry.path().is_dir())
        .any(|entry| entry.file_name().to_string_lossy().starts_with("train_projector"))
}

fn steps_done(folder: &Folder) -> usize {
    std::fs::read_dir(folder.path().join("soctok-store/steps")).map_or(0, Iterator::count)
}

#[test]
fn fifty_kills_at_random_moments_change_no_byte() {
    let (expected, duration) = undisturbed();
    let mut moments = Streams::new(0, "kill").at(0, 0, "moments");
    let (mut kills, mut in_training, mut resumed, mut stores) = (0, 0, 0, 0);
    let mut lost = 0;
    while kills < KILLS {
        // One store after another: each is killed again and again until it is done in spite of it.
        stores += 1;
        let folder = Folder::with_chain();
        loop {
            let child = start(&folder);
            let done = steps_done(&folder);
            std::thread::sleep(duration.mul_f64(moments.uniform()));
            send(&child, libc::SIGKILL);
            let output = child.wait_with_output().expect("ends");
            resumed += usize::from(text(&output.stderr).contains("going on from the checkpoint"));
            match output.status.code() {
                // It was done before the signal came.
                Some(0) => break,
                None => kills += 1,
                code => panic!("ended with {code:?}: {}", text(&output.stderr)),
            }
            in_training += usize::from(was_training(&folder));
            lost += usize::from(steps_done(&folder) < done);
        }
        // Sweeps what the kills left, and finds nothing more to do.
        let again = start(&folder).wait_with_output().expect("ends");
        assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
        let facts: serde_json::Value = serde_json::from_slice(&again.stdout).expect("is JSON");
        assert_eq!((&facts["executed"], &facts["cut_off"]), (&0.into(), &0.into()), "{facts}");
        finished(&folder, &expected);
    }
    println!("{kills} kills over {stores} stores, {in_training} in training, {resumed} resumed from a checkpoint");
    assert_eq!(lost, 0, "a finished step is never lost");
    assert!(in_training >= KILLS / 5, "only {in_training} kills met the training");
    assert!(resumed >= KILLS / 10, "only {resumed} runs went on from a checkpoint");
}

#[test]
fn a_request_to_stop_is_heard_within_seconds_and_the_same_command_goes_on() {
    let (expected, duration) = undisturbed();
    let mut folder = Folder::with_chain();
    let mut moments = Streams::new(0, "stop").at(0, 0, "moments");
    let mut stopped = 0;
    for round in 0..40 {
        if stopped == 4 {
            break;
        }
        let child = start(&folder);
        std::thread::sleep(duration.mul_f64(0.2 + 0.4 * moments.uniform()));
        let asked = Instant::now();
        send(&child, if round % 2 == 0 { libc::SIGTERM } else { libc::SIGINT });
        let output = child.wait_with_output().expect("ends");
        assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
        let stderr = text(&output.stderr);
        match output.status.code() {
            // It was done before the signal came: the next store.
            Some(0) => {
                finished(&folder, &expected);
                folder = Folder::with_chain();
            }
            Some(1) => {
                assert!(stderr.contains("stopped on request; the same command goes on"), "{stderr}");
                stopped += 1;
            }
            // The signal came before the run began: nothing was under way.
            None => {}
            code => panic!("ended with {code:?}: {stderr}"),
        }
    }
    assert!(stopped == 4, "it was stopped {stopped} times");
    assert_eq!(start(&folder).wait_with_output().expect("ends").status.code(), Some(0));
    finished(&folder, &expected);
}
