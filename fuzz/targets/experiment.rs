//! An experiment file, and one that it may extend as `base.toml`: loading, checking, resolving, showing.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use soctok::experiment::{LoadOptions, Settings, load, show};
use soctok::plan::key::{canonical, digest};
use soctok::stages::{Kind, kinds};
use soctok_fuzz::{file, parts, shown, within};

fuzz_target!(|data: &[u8]| {
    static KINDS: OnceLock<Vec<Kind>> = OnceLock::new();
    let kinds = KINDS.get_or_init(kinds);
    let [text, base] = parts(data);
    let path = file("experiment.toml", text);
    file("base.toml", base);
    within(8192, data, || {
        let options = LoadOptions::default();
        let Some(experiment) = shown(load(&path, &options, kinds)) else { return };
        for node in experiment.points.iter().flat_map(|point| point.stages.values()) {
            digest(&canonical(&serde_json::Value::Object(Settings::clone(&node.settings))));
        }
        // What loads can be shown, and what is shown loads to the same points.
        let text = show(&path, &options, kinds).expect("it has just been loaded").toml;
        let again = load(&file("shown.toml", text.as_bytes()), &options, kinds);
        let again = again.unwrap_or_else(|error| panic!("{error}\n\n{text}"));
        assert_eq!(again.points.len(), experiment.points.len());
        for (one, other) in again.points.iter().zip(&experiment.points) {
            assert_eq!(
                (&one.coordinates, &one.ablation, &one.stages),
                (&other.coordinates, &other.ablation, &other.stages)
            );
        }
    });
});
