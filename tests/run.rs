//! `soctok run`: every step once, nothing twice, failures held where they are.

mod support;

use support::{Folder, NOTES, text};

fn executed(folder: &Folder, arguments: &[&str]) -> (i64, i64) {
    let facts = folder.json(arguments);
    (facts["executed"].as_i64().expect("a count"), facts["cut_off"].as_i64().expect("a count"))
}

#[test]
fn a_second_run_executes_nothing() {
    let folder = Folder::new();
    folder.write("notes.toml", NOTES);
    assert_eq!(executed(&folder, &["run", "notes.toml"]), (3, 0));
    assert_eq!(executed(&folder, &["run", "notes.toml"]), (0, 0));
    let runs = std::fs::read_dir(folder.path().join("soctok-store/runs/by-name/notes")).expect("has links");
    let mut names: Vec<String> =
        runs.map(|entry| entry.expect("reads").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, ["ending=three", "ending=two", "experiment.toml"]);
    let note = folder.path().join("soctok-store/runs/by-name/notes/ending=three/results.json");
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(note).expect("reads")).expect("is JSON");
    assert_eq!(results["stages"]["second"]["figures"]["characters"], 10);
}

#[test]
fn only_what_changed_runs_and_equal_bytes_stop_the_wave() {
    let folder = Folder::new();
    folder.write("notes.toml", NOTES);
    folder.ok(&["run", "notes.toml"]);
    // Comments, order and names are not part of a step.
    let cosmetic = format!("# a comment\n{}", NOTES.replace("name = \"notes\"", "name = \"other\""));
    folder.write("notes.toml", &cosmetic);
    assert_eq!(executed(&folder, &["run", "notes.toml"]), (0, 0));
    assert_eq!(executed(&folder, &["run", "notes.toml", "--set", "first.text=uno"]), (3, 0));
    assert_eq!(executed(&folder, &["run", "notes.toml"]), (0, 0), "back to an earlier setting");
    // The same step under another name is the same step.
    let renamed = NOTES.replace("stages.first", "stages.start").replace("stage:first", "stage:start");
    folder.write("renamed.toml", &renamed);
    assert_eq!(executed(&folder, &["run", "renamed.toml"]), (0, 0));
    // Another first note that gives the bytes of the old one: what follows it is found by those bytes.
    let whole = "[stages.whole]\nkind = \"note\"\ntext = \"one\\ntwo\"\n";
    let last = "[stages.last]\nkind = \"note\"\ntext = \"three\"\n";
    let file = |after: &str| format!("name = \"cut\"\n{whole}{last}after = \"stage:{after}\"\n");
    folder.write("cut.toml", &file("whole"));
    assert_eq!(executed(&folder, &["run", "cut.toml"]), (2, 0));
    let parts = NOTES.split("[axes").next().expect("has stages").replace("name = \"notes\"", "");
    folder.write("cut.toml", &format!("{}{parts}", file("second").replace(whole, "")));
    assert_eq!(executed(&folder, &["run", "cut.toml"]), (0, 1));
}

#[test]
fn a_failure_holds_up_only_what_needs_it() {
    let folder = Folder::new();
    folder.write("notes.toml", NOTES);
    // Captions whose clips cannot be split make one step fail; the notes need nothing of it.
    folder.write("captions.csv", "clip_id,caption\na,one\n");
    let lists =
        "[data.captions]\npath = \"captions.csv\"\n[stages.lists]\nkind = \"split\"\nclips = \"data:captions\"\n";
    folder.write("notes.toml", &format!("{NOTES}{lists}method = \"column\"\n"));
    let output = folder.soctok(&["run", "notes.toml", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("lists"), "{}", text(&output.stderr));
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!((&facts["executed"], facts["failed"].as_array().map(Vec::len)), (&3.into(), Some(1)), "{facts}");
}

#[test]
fn two_processes_share_the_work() {
    let folder = Folder::new();
    let values: Vec<String> = (0..40).map(|number| format!("\"{number}\"")).collect();
    folder.write("notes.toml", &NOTES.replace("[\"two\", \"three\"]", &format!("[{}]", values.join(", "))));
    let start = || {
        let mut command = folder.command(&["run", "notes.toml", "--json"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("starts")
    };
    let processes: Vec<_> = (0..3).map(|_| start()).collect();
    let mut total = 0;
    for process in processes {
        let output = process.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
        total += facts["executed"].as_i64().expect("a count");
    }
    assert_eq!(total, 41, "each step runs once");
}
