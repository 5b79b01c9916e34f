//! `soctok check` and `soctok show` on a file without mistakes.

mod support;

use std::path::Path;

use support::{Folder, text};

fn grid() -> Folder {
    let folder = Folder::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["grid.toml", "base.toml"] {
        let content = std::fs::read_to_string(root.join("tests/experiments").join(name)).expect("reads");
        folder.write(name, &content);
    }
    folder.write("Cargo.toml", "");
    folder.write("src/lib.rs", "");
    folder
}

#[test]
fn check_counts_what_there_is() {
    let folder = grid();
    assert_eq!(folder.ok(&["check", "grid.toml"]), "ok: 57 points, 6 stages, 53 steps, 0 not applicable\n");
    let facts = folder.json(&["check", "grid.toml", "--set", "axes.seed.values=[0]"]);
    assert_eq!((&facts["experiment"], &facts["points"]), (&"grid".into(), &21.into()));
    assert!(!folder.path().join("soctok-store").exists(), "nothing is written");
}

#[test]
fn show_tells_where_each_value_comes_from() {
    let folder = grid();
    let arguments = ["show", "grid.toml", "--profile", "quick", "--set", "packs.window_pad=0.5", "--store", "there"];
    let output = folder.command(&arguments).env("SOCTOK_RUN__JOBS", "3").output().expect("soctok starts");
    let shown = text(&output.stdout);
    let origin = |line: &str| {
        let found =
            shown.lines().find(|shown| shown.starts_with(line)).unwrap_or_else(|| panic!("no {line} in {shown}"));
        found.split("# ").nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(origin("name = \"grid\""), "grid.toml:4");
    assert_eq!(origin("store = \"there\""), "--set");
    assert_eq!(origin("jobs = 3"), "SOCTOK_RUN__JOBS");
    assert_eq!(origin("train_clips = 5"), "grid.toml:108");
    assert_eq!(origin("test_clips = 10"), "base.toml:6");
    assert_eq!(origin("window_pad = 0.5"), "--set");
    assert_eq!(origin("global_mode = \"clip_mean\""), "grid.toml:43");
    assert_eq!(origin("local_frame = \"nearest\""), "protocol controlled");
    assert_eq!(origin("word_times = \"given\""), "built-in");
    assert!(shown.contains("# binds clips.data_seed, features.encoder_seed\n"), "{shown}");
    assert!(shown.contains("# does not bind other.encoder_seed\n"), "{shown}");
    folder.write("shown.toml", &shown);
    assert_eq!(folder.ok(&["check", "shown.toml"]), "ok: 57 points, 6 stages, 53 steps, 0 not applicable\n");
}
