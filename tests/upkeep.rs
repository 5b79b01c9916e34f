//! `status`, `logs`, `diff`, `verify`, `gc`: looking at a store and keeping it.

mod support;

use serde_json::Value;
use support::{Folder, NOTES, text};

fn ran() -> Folder {
    let folder = Folder::new();
    folder.write("notes.toml", NOTES);
    folder.ok(&["run", "notes.toml"]);
    folder
}

#[test]
fn two_runs_differ_in_what_was_set_and_in_what_came_of_it() {
    let folder = ran();
    let found = folder.json(&["diff", "notes/ending=two", "notes/ending=three"]);
    let rows: Vec<(&str, &str, &str, &str)> = found
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            let cell = |name: &str| row[name].as_str().expect("text");
            (cell("what"), cell("name"), cell("first"), cell("second"))
        })
        .collect();
    assert_eq!(rows, [("setting", "second.text", "two", "three"), ("figure", "second.characters", "8", "10")]);
    assert_eq!(folder.ok(&["diff", "notes/ending=two", "notes/ending=two"]), "no difference\n");
    let output = folder.soctok(&["diff", "notes/ending=two", "ffff"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no run `ffff`"), "{}", text(&output.stderr));
}

#[test]
fn an_edited_artifact_is_found_and_made_again() {
    let folder = ran();
    assert!(folder.ok(&["verify"]).ends_with("3 artifacts, 0 damaged\n"));
    let plan = folder.json(&["plan", "notes.toml"]);
    let step = plan["steps"][0]["step"].as_str().expect("a name");
    let artifact = folder.path().join("soctok-store/steps").join(step);
    std::fs::write(artifact.join("note.txt"), "edited\n").expect("writes");
    let output = folder.soctok(&["verify"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("`note.txt` has other bytes than when it was made"),
        "{}",
        text(&output.stdout)
    );
    std::fs::remove_dir_all(artifact).expect("removes");
    folder.ok(&["run", "notes.toml"]);
    // What follows it was done; nobody asked for the first note itself.
    assert!(folder.ok(&["verify"]).ends_with("2 artifacts, 0 damaged\n"));
}

#[test]
fn what_no_experiment_reaches_is_listed_first_and_removed_when_asked() {
    let folder = ran();
    folder.ok(&["run", "notes.toml", "--set", "first.text=uno"]);
    let listed = folder.ok(&["gc", "notes.toml"]);
    assert!(listed.contains("3 artifacts are reached by none of these experiments"), "{listed}");
    assert!(folder.ok(&["gc", "notes.toml", "--delete"]).contains("3 artifacts removed"));
    assert!(folder.ok(&["gc", "notes.toml"]).contains("0 artifacts"));
    let again: Value = folder.json(&["run", "notes.toml"]);
    assert_eq!(again["executed"], 0, "what the experiment reaches was kept");
}

#[test]
fn status_and_logs_tell_what_there_is() {
    let folder = ran();
    let status = folder.json(&["status", "notes.toml"]);
    assert_eq!((&status["done"], &status["to_run"]), (&Value::from(3), &Value::from(0)));
    assert_eq!(folder.ok(&["logs", "notes.toml", "first"]), "");
    let output = folder.soctok(&["logs", "notes.toml", "third"]);
    assert_eq!(output.status.code(), Some(2));
}
