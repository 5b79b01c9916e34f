//! Several processes on one store share the work; several steps in one process do not disturb one another.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use soctok::execute::{self, schedule::Limits};
use soctok::experiment;
use soctok::plan::{self, Reading};
use soctok::stages::{self, CHECKPOINT_INTERVAL, Context, Inputs, Kind, Stage, StageError, Summary};
use soctok::store::{Store, lease::Claim};
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
    start_file(folder, "chain.toml", arguments)
}

fn start_file(folder: &Folder, file: &str, arguments: &[&str]) -> Child {
    let mut command = folder.command(&[&["run", file, "--json"], arguments].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
}

/// Waits for it; it must end with 0. Returns its facts.
fn facts(child: Child) -> Value {
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("is JSON")
}

/// The leases that stand in the store on steps of this kind.
fn lease_files(folder: &Folder, kind: &str) -> Vec<PathBuf> {
    let work = std::fs::read_dir(folder.path().join("soctok-store/work")).into_iter().flatten().flatten();
    let is_lease = |path: &PathBuf| path.extension().is_some_and(|it| it == "lease");
    let of_kind = work.filter(|entry| entry.file_name().to_string_lossy().starts_with(kind));
    of_kind.map(|entry| entry.path()).filter(is_lease).collect()
}

fn leases(folder: &Folder, kind: &str) -> usize {
    lease_files(folder, kind).len()
}

/// Does to the only lease on a step of this kind what a process does that finds it dead. Its owner lives.
fn bury_lease(folder: &Folder, kind: &str) {
    let leases = lease_files(folder, kind);
    let [lease] = &leases[..] else { panic!("not one lease: {leases:?}") };
    std::fs::rename(lease, folder.path().join("buried")).expect("renames");
}

fn assert_nothing_is_left_behind(folder: &Folder) {
    let work: Vec<_> = std::fs::read_dir(folder.path().join("soctok-store/work")).expect("reads").flatten().collect();
    assert!(work.is_empty(), "nothing is left behind: {work:?}");
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
    assert_nothing_is_left_behind(&folder);
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

/// An owner that slept for so long that another took its step, and then goes on.
#[test]
fn a_process_that_is_replaced_stops_its_program_and_takes_the_result_of_the_other() {
    let folder = Folder::new();
    let stages = format!(
        r#"
name = "slow"
[stages.slow]
kind = "command"
command = ["sh", "-c", "echo $$ >> \"$1/programs\"; while [ -d \"$1\" ] && [ ! -e \"$1/go\" ]; do sleep 0.02; done; echo $$ > who.txt", "sh", "{}"]
version = "POSIX sh"
outputs = ["who.txt"]
"#,
        folder.path().display()
    );
    folder.write("slow.toml", &stages);
    let programs = || -> Vec<libc::pid_t> {
        let text = std::fs::read_to_string(folder.path().join("programs")).unwrap_or_default();
        text.lines().map(|line| line.parse().expect("a process")).collect()
    };
    let first = start_file(&folder, "slow.toml", &[]);
    until("the program of the first", || programs().len() == 1);
    bury_lease(&folder, "command");
    let second = start_file(&folder, "slow.toml", &[]);
    until("the program of the second", || programs().len() == 2);
    // Its owner hears of it at the next heartbeat, and the program would run for ever.
    // SAFETY: signal 0 is sent to nobody, it only asks whether the process is there.
    until("the end of the first program", || unsafe { libc::kill(programs()[0], 0) } != 0);
    folder.write("go", "");
    let (first, second) = (facts(first), facts(second));
    assert_eq!((&first["executed"], &first["elsewhere"], &second["executed"]), (&0.into(), &1.into(), &1.into()));
    assert_eq!(first["points"], second["points"], "both have the result");
    let written = folder.results().into_iter().find(|(file, _)| file.ends_with("/who.txt")).expect("is there").1;
    assert_eq!(text(&written), format!("{}\n", programs()[1]), "that of the second");
    assert!(folder.ok(&["verify"]).ends_with("1 artifacts, 0 damaged\n"));
    assert_nothing_is_left_behind(&folder);
}

/// Says in files of `place` how far it is and what it is told; runs until it has been taken over once.
struct Slow;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SlowConfig {
    place: PathBuf,
}

/// Waits until `done` says so; false when it has not for very long.
fn in_time(done: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !done() && began.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(2));
    }
    done()
}

impl Stage for Slow {
    const KIND: &'static str = "slow";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Is slow enough to be taken over";
    const GIVES: &'static [&'static str] = &[];
    type Config = SlowConfig;

    fn run(config: &SlowConfig, _inputs: &Inputs, context: &Context) -> stages::Result<Summary> {
        let place = |name: &str| config.place.join(name);
        let say = |name: &str, what: bool| {
            let (draft, path) = (place("draft"), place(name));
            let written = std::fs::write(&draft, what.to_string()).and_then(|()| std::fs::rename(&draft, &path));
            written.map_err(StageError::io(&path))
        };
        if File::create_new(place("first")).is_err() {
            say("second", true)?;
            in_time(|| place("told").exists());
            let path = context.folder().join("second.txt");
            std::fs::write(&path, "second\n").map_err(StageError::io(&path))?;
            return Ok(Summary::new());
        }
        in_time(|| place("second").exists());
        // Before the heartbeat has found out: what is asked before a checkpoint is kept looks itself.
        say("may_keep", context.may_keep().is_ok())?;
        let path = context.folder().join("first.txt");
        let written = std::fs::write(&path, "first\n");
        say("may_write", written.is_ok())?;
        say("told", in_time(|| context.is_cancelled()))?;
        // What befalls a stage that is replaced between two looks is no failure of the step.
        written.map_err(StageError::io(&path))?;
        Ok(Summary::new())
    }
}

/// Two owners in one process, each with a store of its own.
#[test]
fn an_owner_that_is_replaced_keeps_and_writes_nothing_more() {
    let folder = Folder::new();
    let file = format!("name = \"slow\"\n[stages.slow]\nkind = \"slow\"\nplace = \"{}\"\n", folder.path().display());
    let (file, kinds) = (folder.write("slow.toml", &file), [Kind::of::<Slow>()]);
    let experiment = experiment::load(&file, &experiment::LoadOptions::default(), &kinds).expect("loads");
    let options = execute::Options {
        jobs: 1,
        device: "cpu".to_owned(),
        checkpoint_interval: CHECKPOINT_INTERVAL,
        cancelled: Arc::default(),
        only: Vec::new(),
        keep_going: true,
        retries: 0,
        retry_on: Vec::new(),
        memory: BTreeMap::new(),
        limits: Limits { memory: u64::MAX, is_exclusive: false },
    };
    let owner = || {
        let store = Store::open(folder.path().join("soctok-store"));
        store.create().expect("makes the folders");
        let plan = plan::plan(&experiment, &kinds, &store, Reading::Everything).expect("plans");
        execute::execute(&plan, &store, &options, &|_| {})
    };
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(owner);
        until("the first owner", || folder.path().join("first").exists());
        bury_lease(&folder, "slow");
        let second = scope.spawn(owner);
        (first.join().expect("ends"), second.join().expect("ends"))
    });
    let said = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("was said");
    assert_eq!(said("may_keep"), "false", "a checkpoint of an owner that was replaced");
    assert_eq!(said("may_write"), "false", "its folder of outputs was taken out of the way");
    assert_eq!(said("told"), "true", "it is asked to stop");
    let counts = |outcome: &execute::Outcome| {
        (outcome.executed, outcome.elsewhere, outcome.failed.len(), outcome.not_reached, outcome.cancelled)
    };
    assert_eq!(counts(&first), (0, 1, 0, 0, false), "the first takes the result of the second");
    assert_eq!(counts(&second), (1, 0, 0, 0, false));
    let results: Vec<String> = folder.results().into_keys().collect();
    assert!(results.iter().all(|file| !file.ends_with("/first.txt")), "{results:?}");
    assert!(results.iter().any(|file| file.ends_with("/second.txt")), "{results:?}");
    assert_nothing_is_left_behind(&folder);
}

/// A claim reads the lease and then renames it away. Pipes in the place of the lease hold the reader up, so that here the
/// step is always taken by another between the two.
#[test]
fn a_living_lease_in_the_place_of_a_dead_one_is_put_back() {
    let folder = Folder::new();
    let store = Store::open(folder.path().join("soctok-store"));
    store.create().expect("makes the folders");
    let work = folder.path().join("soctok-store/work");
    let Claim::Taken(_lease) = store.claim("other-1", None).expect("asks") else { panic!("it is free") };
    let living = std::fs::read_to_string(work.join("other-1.lease")).expect("reads");
    // The same process number, begun at another time: such a process is gone.
    let parts: Vec<&str> = living.split(' ').collect();
    let [place, process, start, number] = parts[..] else { panic!("another form: {living}") };
    let dead = format!("{place} {process} {} {number}", start.parse::<u64>().expect("a time") + 1);

    let (path, another) = (work.join("slow-1.lease"), folder.path().join("another"));
    for pipe in [&path, &another] {
        let name = std::ffi::CString::new(pipe.as_os_str().as_bytes()).expect("a path");
        // SAFETY: `name` ends in a zero byte and lives until the call is over.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    }
    let taken = folder.write("taken", &living);
    let place_of_lease = path.clone();
    let writer = std::thread::spawn(move || {
        // To open a pipe waits until the other end is open. Both looks at the lease, whether it is one's own and whose
        // it is, find the dead owner; at the second the living one takes the step.
        for next in [another, taken] {
            let mut pipe = File::options().write(true).open(&place_of_lease).expect("opens");
            std::fs::rename(next, &place_of_lease).expect("renames");
            pipe.write_all(dead.as_bytes()).expect("writes");
        }
    });
    assert!(matches!(store.claim("slow-1", None).expect("asks"), Claim::Busy(_)));
    writer.join().expect("ends");
    assert_eq!(std::fs::read_to_string(&path).expect("it was put back"), living);
    assert!(matches!(store.claim("slow-1", None).expect("asks"), Claim::Busy(_)), "it is the other's");
    assert_eq!(std::fs::read_dir(&work).expect("reads").count(), 2, "two leases and nothing else");
}
