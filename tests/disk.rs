//! Full disk, read-only store, vanished input: a clear error that says what to do, nothing lost, and the same command
//! goes on after.
//!
//! A real full disk and a real read-only mount need a mount of the test's own. Those tests are not part of the default
//! suite and fail where the system does not allow it: `cargo test --release --test disk -- --ignored`. The default suite
//! has a limit on the size of files and permissions in their place.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{CAPTIONS, CHAIN, Folder, text};

fn undisturbed() -> BTreeMap<String, Vec<u8>> {
    let folder = Folder::with_chain();
    folder.ok(&["run", "chain.toml"]);
    folder.results()
}

/// The command failed as a step or the store fails: exit code 1, the place, the reason, a hint.
fn failed(output: &Output, words: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no `{word}` in\n{stderr}");
    }
    assert!(!stderr.contains("internal error"), "{stderr}");
}

fn executed(folder: &Folder, arguments: &[&str]) -> u64 {
    folder.json(arguments)["executed"].as_u64().expect("a count")
}

/// No file may grow beyond `bytes`: writing more fails as on a full disk, with another error code.
fn with_file_limit(command: &mut Command, bytes: u64) -> &mut Command {
    let limit = move || {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: `setrlimit` and `signal` are async-signal-safe; `limit` lives on this stack.
        let done = unsafe {
            // Without this the kernel ends the process instead of refusing the write.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit)
        };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure calls nothing but async-signal-safe functions.
    unsafe { command.pre_exec(limit) }
}

#[test]
fn a_file_that_cannot_be_written_fails_its_step_and_nothing_else() {
    let expected = undisturbed();
    let folder = Folder::with_chain();
    // The projector's weights have 28 kB; all other files stay below the limit.
    let mut command = folder.command(&["run", "chain.toml", "--json"]);
    let output = with_file_limit(&mut command, 16 << 10).output().expect("starts");
    failed(
        &output,
        &["projector (train_projector", "projector", "File too large", "hint: raise the limit on the size of files"],
    );
    let facts: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!(
        (&facts["executed"], &facts["not_reached"]),
        (&6.into(), &1.into()),
        "all but the projector and its scores"
    );
    assert_eq!(facts["failed"].as_array().map(Vec::len), Some(1));
    folder.ok(&["verify"]);
    assert_eq!(executed(&folder, &["run", "chain.toml"]), 2, "nothing is lost");
    assert!(folder.results() == expected, "the bytes of an undisturbed run");
}

/// Not even the smallest file of the store can be written.
#[test]
fn a_store_that_takes_nothing_says_so_at_once_and_is_usable_after() {
    let folder = Folder::with_chain();
    let mut command = folder.command(&["run", "chain.toml"]);
    let output = with_file_limit(&mut command, 8).output().expect("starts");
    failed(&output, &["store: `", "File too large", "hint: "]);
    assert_eq!(executed(&folder, &["run", "chain.toml"]), 8);
    let began = Instant::now();
    // A lease that could not be written must not be waited for.
    let mut command = folder.command(&["run", "chain.toml", "--set", "second.text=three"]);
    failed(&with_file_limit(&mut command, 8).output().expect("starts"), &["File too large"]);
    assert_eq!(executed(&folder, &["run", "chain.toml", "--set", "second.text=three"]), 1);
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
}

/// Makes everything below a folder read-only, or writable again. What goes away meanwhile is left out.
fn set_writable(folder: &Path, writable: bool) {
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in paths.filter(|path| !path.is_symlink()) {
        if path.is_dir() {
            set_writable(&path, writable);
        } else {
            set_one_writable(&path, writable);
        }
    }
    set_one_writable(folder, writable);
}

fn set_one_writable(path: &Path, writable: bool) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let mut permissions = metadata.permissions();
    permissions.set_mode(if writable { permissions.mode() | 0o200 } else { permissions.mode() & !0o222 });
    match std::fs::set_permissions(path, permissions) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{}: {error}", path.display()),
        _ => {}
    }
}

/// Root may write where nobody may: takes that right (`CAP_DAC_OVERRIDE`) from the command.
fn as_user(command: &mut Command) -> &mut Command {
    const CAP_DAC_OVERRIDE: libc::c_ulong = 1;
    let drop = || {
        // SAFETY: `geteuid` and `prctl` are async-signal-safe.
        let done =
            unsafe { if libc::geteuid() == 0 { libc::prctl(libc::PR_CAPBSET_DROP, CAP_DAC_OVERRIDE) } else { 0 } };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure calls nothing but async-signal-safe functions.
    unsafe { command.pre_exec(drop) }
}

fn user(folder: &Folder, arguments: &[&str]) -> Output {
    as_user(&mut folder.command(arguments)).output().expect("soctok starts")
}

#[test]
fn a_read_only_store_can_be_read_and_says_what_to_do_when_it_must_be_written() {
    let folder = Folder::with_chain();
    folder.ok(&["run", "chain.toml"]);
    let expected = folder.results();
    let store = folder.path().join("soctok-store");
    set_writable(&store, false);
    assert!(std::fs::metadata(&store).expect("reads").permissions().readonly());
    for arguments in
        [&["run", "chain.toml"][..], &["results", "chain.toml"], &["plan", "chain.toml", "--explain"], &["verify"]]
    {
        let output = user(&folder, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    }
    let more = ["run", "chain.toml", "--set", "second.text=three"];
    failed(&user(&folder, &more), &["soctok-store", "Permission denied", "hint: make the", "--store DIR"]);
    let elsewhere = user(&folder, &[&more[..], &["--store", "other"]].concat());
    assert_eq!(elsewhere.status.code(), Some(0), "what the hint says works: {}", text(&elsewhere.stderr));
    set_writable(&store, true);
    assert_eq!(folder.results(), expected);
    assert_eq!(executed(&folder, &more), 1);
}

/// The store's folder that holds what the training under way has written.
fn wait_for_training(folder: &Folder) {
    let began = Instant::now();
    let work = folder.path().join("soctok-store/work");
    let is_training = |entry: std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let outputs = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
        name.starts_with("train_projector") && outputs.into_iter().any(|it| it.path().join("metrics.jsonl").is_file())
    };
    while !std::fs::read_dir(&work).into_iter().flatten().flatten().any(is_training) {
        assert!(began.elapsed() < Duration::from_secs(60), "never trained");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const LONG: [&str; 7] =
    ["run", "chain.toml", "--json", "--set", "projector.steps=200", "--set", "run.checkpoint_seconds=0.05"];

#[test]
fn a_store_that_turns_read_only_fails_what_is_under_way_and_it_goes_on_after() {
    let whole = Folder::with_chain();
    whole.ok(&LONG);
    let folder = Folder::with_chain();
    let mut command = folder.command(&LONG);
    let child = as_user(&mut command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    wait_for_training(&folder);
    set_writable(&folder.path().join("soctok-store"), false);
    let output = child.wait_with_output().expect("ends");
    failed(&output, &["Permission denied", "hint: make the"]);
    set_writable(&folder.path().join("soctok-store"), true);
    let facts = folder.json(&LONG[..2].iter().chain(&LONG[3..]).copied().collect::<Vec<_>>());
    let executed = facts["executed"].as_u64().expect("a count");
    assert!((2..=5).contains(&executed), "the training, its scores, what had not been reached: {facts}");
    assert!(folder.results() == whole.results(), "the bytes of an undisturbed run");
}

#[test]
fn an_input_that_is_not_there_is_named_before_anything_runs() {
    let folder = Folder::with_chain();
    for file in ["captions.csv", "listed/b1.png", "language/config.json"] {
        let (path, aside) = (folder.path().join(file), folder.path().join("aside"));
        std::fs::rename(&path, &aside).expect("moves");
        let output = folder.soctok(&["run", "chain.toml"]);
        let stderr = text(&output.stderr);
        if file == "language/config.json" {
            // A folder counts by the files that are in it: that one is missing shows when the model is read.
            assert_eq!(output.status.code(), Some(1), "{stderr}");
        } else {
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains("hint: "), "{stderr}");
            assert!(!folder.path().join("soctok-store").exists(), "nothing ran");
        }
        assert!(stderr.contains(file), "{stderr}");
        std::fs::rename(&aside, &path).expect("moves back");
    }
    assert!(executed(&folder, &["run", "chain.toml"]) >= 2);
}

/// Between the plan and the step that reads it.
#[test]
fn an_artifact_that_is_damaged_during_the_run_is_not_built_on() {
    let folder = Folder::new();
    let stages = format!(
        r#"
name = "damaged"
[stages.first]
kind = "note"
text = "one"
[stages.slow]
kind = "command"
command = ["sh", "-c", "while [ -d \"$1\" ] && [ ! -e \"$1/go\" ]; do sleep 0.02; done; echo done > done.txt", "sh", "{}"]
version = "POSIX sh"
outputs = ["done.txt"]
[stages.last]
kind = "command"
command = ["cat", "{{input:first}}/note.txt", "{{input:slow}}/done.txt"]
version = "POSIX cat"
inputs = {{ first = "stage:first", slow = "stage:slow" }}
"#,
        folder.path().display()
    );
    folder.write("damaged.toml", &stages);
    folder.ok(&["run", "damaged.toml", "--only", "first"]);
    let step = folder.json(&["plan", "damaged.toml"])["points"][0]["steps"]["first"].clone();
    let store = folder.path().join("soctok-store");
    let child = folder.command(&["run", "damaged.toml"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
    let child = child.expect("starts");
    let began = Instant::now();
    let is_under_way = || {
        let work = std::fs::read_dir(store.join("work")).into_iter().flatten().flatten();
        work.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().ends_with(".lease"))
    };
    while !is_under_way() {
        assert!(began.elapsed() < Duration::from_secs(60), "the slow step never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    let note = store.join("steps").join(step.as_str().expect("a name")).join("note.txt");
    std::fs::write(&note, "two\n").expect("writes");
    folder.write("go", "");
    failed(
        &child.wait_with_output().expect("ends"),
        &["last (command", "is no longer what its step left", "hint: run"],
    );
    assert_eq!(executed(&folder, &["run", "damaged.toml"]), 2, "the first and the last");
    assert_eq!(std::fs::read_to_string(&note).expect("reads"), "one\n");
}

/// A program asks nobody before it keeps something: what it read shows in the look after the step alone.
#[test]
fn an_input_that_changes_while_a_program_reads_it_leaves_no_artifact() {
    let folder = Folder::new();
    let stages = format!(
        r#"
name = "changed"
[data.words]
path = "words.txt"
[stages.slow]
kind = "command"
command = ["sh", "-c", "touch \"$2/runs\"; while [ -d \"$2\" ] && [ ! -e \"$2/go\" ]; do sleep 0.02; done; cat \"$1\" > read.txt", "sh", "{{input:words}}", "{}"]
version = "POSIX sh"
inputs = {{ words = "data:words" }}
outputs = ["read.txt"]
"#,
        folder.path().display()
    );
    folder.write("changed.toml", &stages);
    folder.write("words.txt", "one\n");
    let child = folder.command(&["run", "changed.toml"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
    let child = child.expect("starts");
    let began = Instant::now();
    while !folder.path().join("runs").exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "the program never ran");
        std::thread::sleep(Duration::from_millis(5));
    }
    folder.write("words.txt", "two\n");
    folder.write("go", "");
    let words =
        ["slow (command", "`data:words`", "changed after the plan was made", "hint: run the same command again"];
    failed(&child.wait_with_output().expect("ends"), &words);
    // Neither under the key of the bytes that were planned nor under that of those that were read.
    assert!(folder.results().is_empty(), "{:?}", folder.results());
    for bytes in ["one\n", "two\n"] {
        folder.write("words.txt", bytes);
        assert_eq!(executed(&folder, &["run", "changed.toml"]), 1, "nothing was kept");
        assert!(folder.results().iter().any(|(file, read)| file.ends_with("/read.txt") && read == bytes.as_bytes()));
    }
}

#[test]
fn an_input_that_vanishes_meanwhile_fails_what_needs_it_and_nothing_else() {
    // The scores read a file of their own, which is removed while the training before them runs.
    let folder = Folder::with_chain();
    let file =
        CHAIN.replace("kind = \"perplexity\"\ntext = \"data:captions\"", "kind = \"perplexity\"\ntext = \"data:test\"");
    assert_ne!(file, CHAIN);
    folder.write("chain.toml", &format!("{file}\n[data.test]\npath = \"test.csv\"\n"));
    let test = folder.write("test.csv", CAPTIONS);
    let start = || {
        let mut command = folder.command(&LONG);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
    };
    let child = start();
    wait_for_training(&folder);
    std::fs::remove_file(&test).expect("removes");
    let output = child.wait_with_output().expect("ends");
    failed(&output, &["perplexity (perplexity", "data:test", "test.csv", "No such file", "hint: "]);
    let facts: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!((&facts["executed"], &facts["not_reached"]), (&7.into(), &0.into()), "{facts}");

    // One that the step under way reads, changed and put back: no checkpoint of what might have been read is kept.
    std::fs::write(&test, CAPTIONS).expect("writes");
    folder.ok(&LONG);
    let expected = folder.results();
    let steps = folder.path().join("soctok-store/steps");
    for step in std::fs::read_dir(&steps).expect("reads").flatten() {
        if step.file_name().to_string_lossy().starts_with("train_projector") {
            std::fs::remove_dir_all(step.path()).expect("removes");
        }
    }
    let scores = ["--set", "perplexity.split=train"];
    let mut command = folder.command(&[&LONG[..], &scores].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    wait_for_training(&folder);
    folder.write("captions.csv", &CAPTIONS.replace("the cat sat", "the dog sat"));
    let output = child.wait_with_output().expect("ends");
    failed(
        &output,
        &["projector (train_projector", "data:captions", "captions.csv", "changed after the plan was made"],
    );
    folder.write("captions.csv", CAPTIONS);
    folder.ok(&[&LONG[..], &scores].concat());
    for (name, bytes) in &expected {
        assert!(folder.results()[name] == *bytes, "{name}");
    }
}

/// Runs a script of `bash` in a mount namespace of its own, with `$SOCTOK` as the program. What it mounts nobody else sees.
fn in_own_mounts(folder: &Folder, script: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "bash", "-euc", script]).current_dir(folder.path());
    command.env("SOCTOK", env!("CARGO_BIN_EXE_soctok"));
    command.output().expect("this test needs the program `unshare` (util-linux)")
}

/// A store on a disk of a few pages that grows bit by bit: every size fails at another place.
#[test]
#[ignore = "needs the right to mount"]
fn a_full_disk_loses_nothing() {
    let expected = undisturbed();
    let folder = Folder::with_chain();
    let script = r#"
mkdir soctok-store kept
mount -t tmpfs -o size=16k tmpfs soctok-store
for size in $(seq 16 8 1024); do
    mount -o remount,size=${size}k soctok-store
    before=$(ls soctok-store/steps 2>/dev/null | wc -l)
    code=0; "$SOCTOK" run chain.toml > out.txt 2> err.txt || code=$?
    after=$(ls soctok-store/steps 2>/dev/null | wc -l)
    echo "$size $code $before $after $(grep -c 'hint: free space' err.txt || true)"
    cp err.txt "kept/$size.txt"
    if [ $code = 0 ]; then break; fi
done
"$SOCTOK" verify >&2
cp -r soctok-store copy
"#;
    let output = in_own_mounts(&folder, script);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    println!("size code before after hints\n{stdout}");
    let rows: Vec<Vec<u64>> =
        stdout.lines().map(|line| line.split(' ').map(|number| number.parse().expect("a number")).collect()).collect();
    let (last, full) = rows.split_last().expect("ran");
    assert_eq!((last[1], last[3]), (0, 8), "{stdout}");
    assert!(full.len() >= 10, "the disk was full {} times", full.len());
    for row in full {
        let message = || std::fs::read_to_string(folder.path().join(format!("kept/{}.txt", row[0]))).expect("reads");
        assert!(row[1] == 1 && row[4] >= 1, "size {}: exit code {}\n{}", row[0], row[1], message());
        assert!(row[3] >= row[2], "size {}: a finished step was lost\n{}", row[0], message());
    }
    std::fs::rename(folder.path().join("copy"), folder.path().join("soctok-store2")).expect("renames");
    std::fs::remove_dir(folder.path().join("soctok-store")).expect("is an empty folder outside of the script");
    std::fs::rename(folder.path().join("soctok-store2"), folder.path().join("soctok-store")).expect("renames");
    assert!(folder.results() == expected, "the bytes of an undisturbed run");
}

#[test]
#[ignore = "needs the right to mount"]
fn a_store_on_a_read_only_mount_loses_nothing() {
    let folder = Folder::with_chain();
    let script = r#"
mkdir soctok-store
mount -t tmpfs tmpfs soctok-store
"$SOCTOK" run chain.toml > /dev/null 2>&1
mount -o remount,ro soctok-store
if touch soctok-store/x 2> /dev/null; then echo "the mount is not read-only"; exit 9; fi
code=0; "$SOCTOK" run chain.toml > out.txt 2> err.txt || code=$?; echo "done: $code"
code=0; "$SOCTOK" results chain.toml > out.txt 2> err.txt || code=$?; echo "results: $code"
code=0; "$SOCTOK" run chain.toml --set second.text=three > out.txt 2> err.txt || code=$?
echo "more: $code, $(grep -c 'Read-only file system' err.txt) errors, $(grep -c 'hint: make the .*--store DIR' err.txt) hints"
mount -o remount,rw soctok-store
code=0; "$SOCTOK" run chain.toml --set second.text=three --json > out.txt 2> err.txt || code=$?
echo "after: $code, $(grep -o '"executed": [0-9]*' out.txt)"
"#;
    let output = in_own_mounts(&folder, script);
    let expected = "done: 0\nresults: 0\nmore: 1, 1 errors, 1 hints\nafter: 0, \"executed\": 1\n";
    assert_eq!((text(&output.stdout).as_str(), output.status.success()), (expected, true), "{}", text(&output.stderr));
}
