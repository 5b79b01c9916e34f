//! Scene packs and what they are made of: their tables, and the tables of frame features.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use soctok::npy::{self, Array};
use soctok::social::packs::Packs;
use soctok::social::tagger::built_in;
use soctok::stages::{Context, Input, Inputs, Stage, scene_packs};
use soctok_fuzz::{file, folder, parts, shown, within};

fn arrays() {
    for name in ["packs", "features", "made"] {
        std::fs::create_dir_all(folder().join(name)).expect("makes a folder");
    }
    let rows = |count: usize| Array::new([count, 2], vec![0.5f32; count * 2]);
    npy::write(&folder().join("packs/global.npy"), &rows(2)).expect("writes");
    npy::write(&folder().join("packs/locals.npy"), &rows(2)).expect("writes");
    npy::write(&folder().join("features/features.npy"), &rows(3)).expect("writes");
    // Its table is unpacked once, which is no input's doing.
    built_in();
}

fuzz_target!(|data: &[u8]| {
    static ARRAYS: Once = Once::new();
    ARRAYS.call_once(arrays);
    let [description, clips, locals, frames, text] = parts(data);
    file("packs/packs.json", description);
    file("packs/clips.csv", clips);
    file("packs/locals.csv", locals);
    file("features/frames.csv", frames);
    let text = file("text.jsonl", text);
    within(1024, data, || {
        if let Some(packs) = shown(Packs::load(&folder().join("packs"))) {
            packs.save(&folder().join("made")).expect("what was read can be written");
        }
        let mut inputs = Inputs::default();
        for (field, path) in [("text", text), ("features", folder().join("features"))] {
            inputs.insert(field, Input { reference: field.into(), path, digest: String::new() });
        }
        for frame in ["nearest", "window_mean", "rank_uniform", "clip_mean"] {
            let config = serde_json::json!({
                "text": "data:t", "features": "stage:f", "local_frame": frame, "word_times": "spread",
            });
            let config: scene_packs::Config = serde_json::from_value(config.clone()).unwrap_or_else(|_| {
                serde_json::from_value(
                    serde_json::json!({ "text": "data:t", "features": "stage:f", "local_frame": frame }),
                )
                .expect("good settings")
            });
            shown(scene_packs::ScenePacks::run(&config, &inputs, &Context::plain(&folder().join("made"), "cpu")));
        }
    });
});
