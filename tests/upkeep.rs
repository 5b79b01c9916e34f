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
    // Runs under another name, and ones under the same name that its links lead away from.
    folder.write("other.toml", &NOTES.replace("name = \"notes\"", "name = \"other\"").replace("\"one\"", "\"eins\""));
    folder.ok(&["run", "other.toml"]);
    folder.ok(&["run", "notes.toml", "--set", "first.text=uno"]);
    let listed = folder.ok(&["gc", "notes.toml"]);
    let rest = "4 runs, 4 links and 2 experiment files";
    assert!(listed.contains("6 artifacts are reached by none of these experiments"), "{listed}");
    assert!(listed.contains(&format!("with them go {rest};")), "{listed}");
    let runs = folder.path().join("soctok-store/runs");
    let count = |path: &std::path::Path| std::fs::read_dir(path).expect("reads").count();
    assert_eq!((count(&runs), count(&runs.join("experiments"))), (6 + 2, 3), "nothing goes before it is asked for");
    let removed = folder.ok(&["gc", "notes.toml", "--delete"]);
    assert!(removed.contains("6 artifacts removed") && removed.contains(rest), "{removed}");
    assert_eq!((count(&runs), count(&runs.join("experiments"))), (2 + 2, 1));
    assert_eq!(count(&runs.join("by-name")), 0, "no link is left that leads to none");
    let none = "0 artifacts are reached by none of these experiments, 0.0 MB; with them go 0 runs, 0 links and 0 ";
    let listed = folder.ok(&["gc", "notes.toml"]);
    assert!(listed.contains(none), "{listed}");
    let again: Value = folder.json(&["run", "notes.toml"]);
    assert_eq!(again["executed"], 0, "what the experiment reaches was kept");
    assert_eq!(count(&runs.join("by-name/notes")), 3, "two links to runs and one to the experiment file");
    // A run that the experiment reaches stays, whatever became of its artifacts.
    let step = folder.json(&["plan", "notes.toml"])["steps"][0]["step"].as_str().expect("a name").to_owned();
    std::fs::remove_dir_all(folder.path().join("soctok-store/steps").join(step)).expect("removes");
    assert!(folder.ok(&["gc", "notes.toml", "--delete"]).contains("with them 0 runs"));
}

#[test]
fn what_gc_does_not_know_it_leaves_alone() {
    let folder = ran();
    folder.ok(&["run", "notes.toml", "--set", "first.text=uno"]);
    let by_name = folder.path().join("soctok-store/runs/by-name");
    let (file, link) = (by_name.join(".DS_Store"), by_name.join("notes/mine"));
    std::fs::write(&file, "a desktop's").expect("writes");
    std::os::unix::fs::symlink(folder.path().join("notes.toml"), &link).expect("links");
    // A run that cannot be read may have been made by any file.
    let broken = folder.path().join("soctok-store/runs/00ff");
    std::fs::create_dir(&broken).expect("makes a folder");
    std::fs::write(broken.join("results.json"), "{").expect("writes");
    let removed = folder.ok(&["gc", "notes.toml", "--delete"]);
    assert!(removed.contains("with them 2 runs, 2 links and 0 experiment files"), "{removed}");
    assert!(file.is_file() && link.is_symlink() && broken.is_dir());
    std::fs::remove_dir_all(&broken).expect("removes");
    // The file that ran last stays while something of its experiment does.
    assert!(folder.ok(&["gc", "notes.toml", "--delete"]).contains("0 runs, 0 links and 0 experiment files"));
    std::fs::remove_file(&link).expect("removes");
    assert!(folder.ok(&["gc", "notes.toml", "--delete"]).contains("0 runs, 0 links and 1 experiment file\n"));
    assert_eq!(folder.json(&["run", "notes.toml"])["executed"], 0);
    assert!(by_name.join("notes/experiment.toml").is_file(), "as if it had run for the first time");
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
