//! The stage kind `command`: programs with declared inputs and outputs.

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Folder, text};

/// A script that counts the lines of its first argument, and the file that runs it over an axis.
const SCRIPT: &str = r#"#!/bin/sh
set -eu
printf 'counting\n'
lines=$(grep -c '' "$1")
printf '{"lines": %s, "plus": "%s"}\n' "$lines" "$2" > summary.json
printf '%s %s\n' "$lines" "$2" > "$3"
"#;

const EXPERIMENT: &str = r#"
name = "count"

[data.script]
path = "count.sh"

[data.words]
path = "words.txt"

[stages.note]
kind = "note"
text = "from a note"

[stages.count]
kind = "command"
command = ["{input:script}", "{input:words}", "{value:plus}", "{output:count.txt}"]
inputs = { script = "data:script", words = "data:words" }
values = { plus = 1 }
outputs = ["count.txt"]

[stages.merge]
kind = "command"
command = ["sh", "-c", "cat \"$1\" \"$2/note.txt\" > note.txt", "sh", "{input:count}/count.txt", "{input:note}"]
version = "POSIX sh"
inputs = { count = "stage:count", note = "stage:note" }
outputs = ["note.txt"]
gives = ["note"]

[stages.last]
kind = "note"
text = "end"
after = "stage:merge"

[axes.plus]
to = ["count.values.plus"]
values = [1, 2]
"#;

fn folder() -> Folder {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let script = folder.write("count.sh", SCRIPT);
    std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)).expect("makes it executable");
    folder.write("words.txt", "one\ntwo\nthree\n");
    folder.write("count.toml", EXPERIMENT);
    folder
}

/// A file with the single stage `only`.
fn only(stage: &str) -> String {
    format!("name = \"only\"\n[stages.only]\nkind = \"command\"\n{stage}\n")
}

fn executed(folder: &Folder) -> i64 {
    folder.json(&["run", "count.toml"])["executed"].as_i64().expect("a count")
}

/// What `run` says about a file of one stage that fails with this exit code.
fn failure(stage: &str, code: i32) -> String {
    let folder = Folder::new();
    folder.write("only.toml", &only(stage));
    let output = folder.soctok(&["run", "only.toml"]);
    assert_eq!(output.status.code(), Some(code), "{stage}\n{}", text(&output.stderr));
    text(&output.stderr)
}

#[test]
fn programs_and_stages_feed_each_other_and_run_again_only_for_cause() {
    let folder = folder();
    // Two counts, two merges, two last notes, one first note.
    let facts = folder.json(&["run", "count.toml"]);
    assert_eq!(facts["executed"], 7, "{facts}");
    let figures = &facts["points"][1]["figures"];
    assert_eq!((&figures["count"]["lines"], &figures["count"]["plus"]), (&3.into(), &"2".into()));
    let last = &folder.json(&["plan", "count.toml"])["points"][1]["steps"]["last"];
    let note = folder.path().join("soctok-store/steps").join(last.as_str().expect("a name")).join("note.txt");
    assert_eq!(std::fs::read_to_string(note).expect("reads"), "3 2\nfrom a note\nend\n");
    assert_eq!(folder.ok(&["logs", "count.toml", "count"]).matches("\ncounting\n").count(), 2);
    assert!(folder.ok(&["verify"]).contains("0 damaged"));
    assert_eq!(executed(&folder), 0);
    // An edited script runs again; bytes that come out as before stop the wave.
    folder.write("count.sh", &SCRIPT.replace("'counting\\n'", "'counting again\\n'"));
    assert_eq!(executed(&folder), 2, "both counts and nothing after them");
    folder.write("words.txt", "one\n");
    assert_eq!(executed(&folder), 6, "everything but the first note");
    let plan = folder.ok(&["plan", "count.toml", "--explain", "--set", "merge.version=\"2\""]);
    assert!(plan.contains("setting `version` \"POSIX sh\" → \"2\""), "{plan}");
}

#[test]
fn a_graph_is_made_of_tables_of_references_and_mistakes_in_them_have_a_place() {
    let folder = folder();
    let check = |from: &str, to: &str| {
        assert!(EXPERIMENT.contains(from), "{from}");
        folder.write("wrong.toml", &EXPERIMENT.replacen(from, to, 1));
        let output = folder.soctok(&["check", "wrong.toml"]);
        assert_eq!(output.status.code(), Some(2), "{to}");
        text(&output.stderr)
    };
    let place = |name: &str| {
        let line = EXPERIMENT.lines().position(|line| line.contains(name)).expect("stands there");
        let column = EXPERIMENT.lines().nth(line).and_then(|text| text.find(name)).expect("stands there");
        format!("wrong.toml:{}:{}", line + 1, column + 1)
    };
    let error = check("count = \"stage:count\"", "count = \"stage:cuont\"");
    assert!(error.contains("`stage:cuont` leads to nothing") && error.contains("`stage:count`"), "{error}");
    assert!(error.contains(&place("\"stage:count\"")), "{error}");
    let error = check("text = \"from a note\"", "text = \"from a note\"\nafter = \"stage:last\"");
    assert!(error.contains("stages need each other in a cycle"), "{error}");
    let error = check("gives = [\"note\"]", "gives = [\"nota\"]");
    assert!(error.contains("no artifact kind `nota`") && error.contains("`note`"), "{error}");
    let error = check("gives = [\"note\"]", "gives = [\"rsm\", \"features\"]");
    assert!(error.contains("`stage:merge` gives") && error.contains("takes `note`"), "{error}");
    let error = check("gives = [\"note\"]\n", "");
    assert!(error.contains("`stage:merge` gives nothing by name"), "{error}");
    let error = check("to = [\"count.values.plus\"]", "to = [\"count.valeus.plus\"]");
    assert!(error.contains("has no field `valeus.plus`"), "{error}");
    let error = check("{value:plus}", "{value:pluz}");
    assert!(error.contains("names `pluz`, which `values` has not") && error.contains("`plus`"), "{error}");
    let error = check("values = { plus = 1 }", "values = { plus = 1, minus = 2 }");
    assert!(error.contains("no argument uses `values.minus`"), "{error}");
    let error = check("version = \"POSIX sh\"\n", "");
    assert!(error.contains("nothing says which `sh` this is"), "{error}");
    let error = check("outputs = [\"count.txt\"]", "outputs = [\"../count.txt\"]");
    assert!(error.contains("`../count.txt` is no output") || error.contains("which `outputs` has not"), "{error}");
    let error = check("values = { plus = 1 }", "values = { plus = [1] }");
    assert!(error.contains("values.plus"), "{error}");
}

#[test]
fn what_a_program_leaves_is_what_it_declared() {
    let sh = |script: &str, rest: &str| format!("command = [\"sh\", \"-c\", '{script}']\nversion = \"1\"\n{rest}");
    let error = failure(&sh("exit 0", "outputs = [\"a.txt\"]"), 1);
    assert!(error.contains("the program left no `a.txt`"), "{error}");
    let error = failure(&sh("echo > b.txt", ""), 1);
    assert!(error.contains("the program left `b.txt`, which `outputs` has not"), "{error}");
    let error = failure(&sh("ln -s /etc/passwd a.txt", "outputs = [\"a.txt\"]"), 1);
    assert!(error.contains("no plain file"), "{error}");
    let error = failure(&sh("exit 0", "outputs = [\"many/\"]"), 1);
    assert!(error.contains("no file below `many/`"), "{error}");
    let error = failure(&sh("echo {{\\\"a\\\": [1]}} > summary.json", ""), 1);
    assert!(error.contains("`a` in the program"), "{error}");
    let error = failure(&sh("echo one; echo two >&2; echo three >&2; exit 7", ""), 1);
    assert!(error.contains("`sh` ended with exit code 7; it wrote:\n  two\n  three\n"), "{error}");
    let error = failure("command = [\"no-such-program\"]\nversion = \"1\"", 1);
    assert!(error.contains("`no-such-program` cannot be started"), "{error}");
    // A daemon that leaves the process group and keeps the pipes open does not hold the step up.
    let started = Instant::now();
    let error = failure(&sh("setsid sleep 30 & echo gone >&2; exit 5", ""), 1);
    assert!(error.contains("exit code 5; it wrote:\n  gone\n"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let folder = Folder::new();
    folder.write("only.toml", &only(&sh("mkdir many/a; echo > many/a/b; echo > many/c", "outputs = [\"many/\"]")));
    folder.ok(&["run", "only.toml"]);
    assert!(folder.ok(&["verify"]).contains("0 damaged"));
}

#[test]
fn the_environment_is_what_is_listed() {
    let folder = Folder::new();
    let stage =
        "command = [\"env\"]\nversion = \"1\"\nenvironment = { GIVEN = \"set here\" }\npass = [\"PASSED\", \"ABSENT\"]";
    folder.write("only.toml", &only(stage));
    let run = |passed: &str| {
        let mut command = folder.command(&["run", "only.toml", "--json"]);
        let output = command.env("PASSED", passed).env("UNLISTED", "x").output().expect("starts");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let facts: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
        facts["executed"].as_i64()
    };
    assert_eq!(run("first"), Some(1));
    let log = folder.ok(&["logs", "only.toml", "only"]);
    let names: Vec<&str> = log.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let allowed = ["PATH", "HOME", "LANG", "TMPDIR", "PYTHONDONTWRITEBYTECODE", "GIVEN", "PASSED"];
    assert!(names.iter().all(|name| allowed.contains(name)), "{log}");
    assert!(log.contains("GIVEN=set here\n") && log.contains("PASSED=first\n") && names.contains(&"PATH"), "{log}");
    assert_eq!(run("second"), Some(0), "a passed value is no part of the key");
}

#[test]
fn a_request_to_stop_reaches_the_program_and_what_it_started() {
    let folder = Folder::new();
    // The first listens, the second does not: it is ended after the grace time. Each starts a child of its own.
    let listens = "trap \"echo stopped; exit 3\" TERM; sleep 60 & echo $! > \"$1/child\"; wait";
    let deaf = "trap \"\" TERM; sleep 60 & echo $! > \"$1/child\"; while true; do sleep 1; done";
    for (name, script, least, most) in [("listens", listens, 0.0, 20.0), ("deaf", deaf, 1.0, 25.0)] {
        let stage = format!(
            "command = [\"sh\", \"-c\", '{script}', \"sh\", \"{{scratch}}\"]\nversion = \"{name}\"\ngrace = 1.0"
        );
        folder.write("only.toml", &only(&stage));
        let mut process = folder.command(&["run", "only.toml"]).spawn().expect("starts");
        let deadline = Instant::now() + Duration::from_secs(60);
        let child = loop {
            assert!(Instant::now() < deadline, "the program says whom it started");
            let step = folder.json(&["plan", "only.toml"])["steps"][0]["step"].as_str().expect("a name").to_owned();
            let path = folder.path().join("soctok-store/work").join(step).join("scratch/child");
            match std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok()) {
                Some(child) => break child,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let asked = Instant::now();
        let ours = i32::try_from(process.id()).expect("a process number");
        // SAFETY: `kill` touches no memory; the process is ours and not waited for yet.
        assert_eq!(unsafe { libc::kill(ours, libc::SIGTERM) }, 0);
        let status = process.wait().expect("ends");
        let seconds = asked.elapsed().as_secs_f64();
        assert_eq!(status.code(), Some(1), "{name}");
        assert!((least..most).contains(&seconds), "{name} took {seconds} s");
        let alive = || std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        let deadline = Instant::now() + Duration::from_secs(5);
        while alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!alive(), "{name}: what it started is gone");
    }
}

#[test]
fn whole_numbers_reach_the_program_digit_by_digit_or_are_refused() {
    let folder = Folder::new();
    let values = "values = { a = 9223372036854775807, b = -9223372036854775808, c = 9007199254740993 }";
    let stage = "command = [\"sh\", \"-c\", \"echo $1 $2 $3 > out.txt\", \"sh\", \"{value:a}\", \"{value:b}\", \"{value:c}\"]\n\
                 version = \"POSIX sh\"\noutputs = [\"out.txt\"]\n";
    folder.write("only.toml", &only(&format!("{stage}{values}")));
    assert_eq!(folder.json(&["run", "only.toml"])["executed"], 1);
    let step = folder.json(&["plan", "only.toml"])["points"][0]["steps"]["only"].clone();
    let out = folder.path().join("soctok-store/steps").join(step.as_str().expect("a name")).join("out.txt");
    let said = "9223372036854775807 -9223372036854775808 9007199254740993\n";
    assert_eq!(std::fs::read_to_string(out).expect("reads"), said);
    // Numbers that one float would stand for are other steps.
    assert_eq!(folder.json(&["run", "only.toml", "--set", "only.values.c=9007199254740992"])["executed"], 1);
    // No float stands for a number that is too large, nor does the run fail when it is to be written down.
    let said = failure(&format!("{stage}{}", values.replace("5807", "5808")), 2);
    assert!(
        said.contains("`9223372036854775808` is too large") && said.contains("hint: whole numbers go from"),
        "{said}"
    );
    let output = folder.soctok(&["run", "only.toml", "--set", "only.values.c=18446744073709551615"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn an_output_whose_name_is_no_text_is_refused() {
    let said = failure(
        "command = [\"sh\", \"-c\", \"touch \\\"frames/$(printf '\\\\377')\\\"\"]\nversion = \"POSIX sh\"\noutputs = [\"frames/\"]\n",
        1,
    );
    assert!(said.contains("whose name is no text") && said.contains("UTF-8"), "{said}");
}

#[test]
fn why_a_step_failed_is_told_with_its_points_and_kept_until_it_succeeds() {
    let folder = Folder::new();
    let cured = folder.path().join("cured");
    let script = format!("echo so far; test -e {} || exit 3", cured.display());
    let program = format!("command = [\"sh\", \"-c\", \"{script}\", \"sh\", \"{{value:x}}\"]\n");
    let rest = "version = \"1\"\nvalues = { x = 0 }\n[stages.other]\nkind = \"note\"\ntext = \"a\"\n\
                [axes.x]\nto = \"only.values.x\"\nvalues = [1, 2]\n[axes.ending]\nto = \"other.text\"\nvalues = [\"a\", \"b\"]\n";
    folder.write("only.toml", &only(&format!("{program}{rest}")));
    let output = folder.soctok(&["run", "only.toml", "--jobs", "1"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    // Two steps of two points each fail alike: the reason stands once, the points with each.
    assert!(told.contains("failed at ending=a,x=1 and 1 more point\nerror: "), "{told}");
    assert!(told.contains("failed at ending=a,x=2 and 1 more point: as only (command "), "{told}");
    assert_eq!(told.matches("exit code 3").count(), 1, "{told}");
    assert!(told.contains("error: 2 steps failed, 0 were not reached"), "{told}");

    let status = folder.ok(&["status", "only.toml"]);
    assert!(status.contains("at ending=a,x=1 and 1 more point and 1 more step\nerror: "), "{status}");
    assert_eq!(status.matches("exit code 3").count(), 1, "{status}");
    let failed = folder.json(&["status", "only.toml"])["failed"].clone();
    assert_eq!((failed.as_array().map(Vec::len), &failed[0]["stages"][0]), (Some(2), &"only".into()), "{failed}");
    let log = folder.ok(&["logs", "only.toml", "only"]);
    assert!(log.matches("so far\n").count() == 2 && log.matches("exit code 3").count() == 2, "{log}");

    std::fs::write(&cured, "").expect("writes");
    assert_eq!(folder.json(&["run", "only.toml"])["executed"], 2);
    assert_eq!(folder.json(&["status", "only.toml"])["failed"].as_array().map(Vec::len), Some(0));
    assert!(!folder.ok(&["logs", "only.toml", "only"]).contains("exit code 3"));
    let quiet = folder.soctok(&["logs", "only.toml", "other"]);
    assert!(quiet.status.success() && text(&quiet.stderr).contains("no messages"), "{}", text(&quiet.stderr));
}
