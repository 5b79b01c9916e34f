//! What lies above an experiment file: `--set` arguments, environment variables (a line each) and `--profile`.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use soctok::experiment::{LoadOptions, load};
use soctok::stages::{Kind, kinds};
use soctok_fuzz::{file, parts, shown, within};

const EXPERIMENT: &str = r#"
name = "layers"
[data.clips]
path = "captions.csv"
[stages.split]
kind = "split"
clips = "data:clips"
[stages.note]
kind = "note"
text = "a"
[axes.text]
to = ["note.text"]
values = ["a", "b"]
[ablations.other]
set = { "split.split_seed" = 1 }
[profiles.small]
run = { jobs = 1 }
stages.split.test = 0.5
"#;

fuzz_target!(|data: &[u8]| {
    static KINDS: OnceLock<(Vec<Kind>, PathBuf)> = OnceLock::new();
    let (kinds, path) = KINDS.get_or_init(|| (kinds(), file("layers.toml", EXPERIMENT.as_bytes())));
    let Ok(text) = std::str::from_utf8(data) else { return };
    let [sets, environment, profile] = parts(text.as_bytes()).map(|part| std::str::from_utf8(part).unwrap_or_default());
    let variable = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    let options = LoadOptions {
        sets: sets.lines().map(str::to_owned).collect(),
        environment: environment.lines().filter_map(variable).collect(),
        profile: (!profile.is_empty()).then(|| profile.to_owned()),
    };
    within(8192, data, || shown(load(path, &options, kinds)));
});
