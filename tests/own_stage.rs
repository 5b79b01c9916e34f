//! The recipe of `docs/your-own-stage.md`: a program outside the crate with a stage kind of its own.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{Folder, text};

/// The example, which `cargo test` builds beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in `deps`");
    let program = folder.join("examples/own-stage");
    assert!(program.is_file(), "build it first: cargo build --release --example own-stage");
    program
}

fn run(folder: &Folder, arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).current_dir(folder.path()).output().expect("starts")
}

fn committed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()))
}

#[test]
fn a_program_with_a_kind_of_its_own_runs_experiments() {
    let folder = Folder::new();
    folder.write("words.toml", &committed("examples/own-stage/words.toml"));
    let output = run(&folder, &["run", "words.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["1", "7", "5"]) && rows.contains(&vec!["4", "2", "2"]), "{table}");
    let again = run(&folder, &["run", "words.toml", "--json"]);
    let facts: serde_json::Value = serde_json::from_slice(&again.stdout).expect("is JSON");
    assert_eq!(facts["executed"], 0, "its steps are known by their keys like any other");
}

#[test]
fn its_settings_are_checked_and_listed_like_built_in_ones() {
    let folder = Folder::new();
    let wrong = committed("examples/own-stage/words.toml").replace("note = \"stage:text\"", "nota = \"stage:text\"");
    folder.write("words.toml", &wrong);
    let output = run(&folder, &["check", "words.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("unknown key `nota`"), "{}", text(&output.stderr));
    let listed = text(&run(&folder, &["stages", "count_words"]).stdout);
    assert!(listed.contains("gives: word_counts") && listed.contains("default `1`"), "{listed}");
    let unknown = folder.soctok(&["check", "words.toml"]);
    assert!(text(&unknown.stderr).contains("no stage kind `count_words`"), "the binary itself does not have it");
}

#[test]
fn the_recipe_shows_the_program_as_it_is() {
    let recipe = committed("docs/your-own-stage.md");
    assert!(recipe.contains(&committed("examples/own-stage/main.rs")), "copy the example into docs/your-own-stage.md");
    assert!(recipe.contains(&committed("examples/own-stage/words.toml")), "copy the file into docs/your-own-stage.md");
}
