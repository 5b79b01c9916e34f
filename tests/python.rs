//! `docs/python.md`: what programs read. The Python itself runs with
//! `cargo test --release --test python -- --ignored`, which needs `python3`; what it reads is tested without it.

mod support;

use std::path::Path;
use std::process::Command;

use support::{Folder, text};

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/python.md")).expect("is committed")
}

/// The blocks of the document that begin with this word.
fn blocks(document: &str, heading: &str) -> Vec<String> {
    let parts = document.split("```").skip(1).step_by(2);
    parts.filter_map(|part| part.strip_prefix(&format!("{heading}\n"))).map(str::to_owned).collect()
}

fn ran() -> Folder {
    let folder = Folder::new();
    folder.write("python.toml", &blocks(&document(), "toml")[0]);
    folder.ok(&["run", "python.toml"]);
    folder
}

#[test]
fn results_hold_what_the_document_says() {
    let folder = ran();
    let points = folder.json(&["results", "python.toml"]);
    let points = points.as_array().expect("a list");
    assert_eq!(points.len(), 2);
    for (seed, point) in ["0", "1"].iter().zip(points) {
        assert_eq!(point["coordinates"]["encoder_seed"], *seed);
        assert_eq!(point["figures"]["features"]["frames"], 90, "30 clips of three frames: {point}");
        let artifact = folder.path().join(point["artifacts"]["features"].as_str().expect("it is done"));
        let array: soctok::npy::Array<f32> = soctok::npy::read(&artifact.join("features.npy")).expect("is an array");
        assert_eq!(array.shape, [90, 64]);
        for file in ["summary.json", "step.json", "log.txt", "frames.csv", "features.json"] {
            assert!(artifact.join(file).is_file(), "{file}");
        }
        let name = format!("soctok-store/runs/by-name/python/encoder_seed={seed}/results.json");
        let results = std::fs::read(folder.path().join(name)).expect("reads");
        let results: serde_json::Value = serde_json::from_slice(&results).expect("is JSON");
        let relative = results["stages"]["features"]["artifact"].as_str().expect("a folder");
        assert_eq!(folder.path().join("soctok-store").join(relative), artifact);
    }
    let unbuilt = folder.json(&["results", "python.toml", "--store", "another"]);
    assert!(unbuilt[0]["figures"]["features"].is_null() && unbuilt[0]["artifacts"]["features"].is_null());
}

#[test]
#[ignore = "needs python3; arrays also need numpy"]
fn the_lines_of_python_run() {
    let folder = ran();
    let binary = Path::new(env!("CARGO_BIN_EXE_soctok")).parent().expect("a folder");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
    let python = |code: &str| {
        let mut command = Command::new("python3");
        let output = command.args(["-c", code]).current_dir(folder.path()).env("PATH", &path).output();
        output.unwrap_or_else(|error| panic!("python3 cannot be started ({error}): install it, or leave this test out"))
    };
    let document = document();
    let (figures, arrays) = (blocks(&document, "python"), blocks(&document, "python numpy"));
    assert!(figures.len() == 1 && arrays.len() == 1);
    assert!(figures.iter().chain(&arrays).all(|code| code.lines().count() == 3), "three lines");
    let output = python(&figures[0]);
    assert_eq!(text(&output.stdout), "{'0': 90, '1': 90}\n", "{}", text(&output.stderr));
    if !python("import numpy").status.success() {
        eprintln!("numpy is not installed: the example that reads arrays was not run");
        return;
    }
    let output = python(&arrays[0]);
    assert_eq!(text(&output.stdout), "{'0': (90, 64), '1': (90, 64)}\n", "{}", text(&output.stderr));
}
