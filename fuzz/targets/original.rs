//! The stage `import_packs`: the original project's manifest, a clip's local tokens (an npz as it is, or a name of a local
//! token per line), its `meta`, its vector and the text that all of it was made from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::npy::{Array, write_npz};
use soctok::social::original::key;
use soctok::stages::{Context, Input, Inputs, Stage, import_packs};
use soctok_fuzz::{file, folder, parts, shown, within};

/// The clip whose files there are.
const CLIP: &str = "a";

fuzz_target!(|data: &[u8]| {
    let [manifest, locals, meta, vector, text] = parts(data);
    let packs = folder().join("original");
    std::fs::remove_dir_all(&packs).ok();
    let place = |ending: &str| format!("original/{}_{ending}", key(CLIP));
    file("original/scene_packs_manifest.csv", manifest);
    if !meta.is_empty() {
        file(&place("meta.json"), meta);
    }
    file(&place("global.npy"), vector);
    if locals.starts_with(b"PK") {
        file(&place("locals.npz"), locals);
    } else {
        // An archive has each name once.
        let names = String::from_utf8_lossy(locals);
        let names: std::collections::BTreeSet<&str> = names.lines().collect();
        let values = Array::new([2], vec![0.5f32, -1.0]);
        let arrays = names.iter().map(|name| (*name, &values));
        if write_npz(&packs.join(format!("{}_locals.npz", key(CLIP))), arrays).is_err() {
            return;
        }
    }
    let text = file(if text.starts_with(b"{") { "text.jsonl" } else { "text.csv" }, text);
    let made = folder().join("made");
    std::fs::create_dir_all(&made).expect("makes a folder");
    // The vectors of an npz may be compressed; see the target `npz`.
    within(4 * 1032, data, || {
        let mut inputs = Inputs::default();
        for (field, path) in [("folder", packs), ("text", text)] {
            inputs.insert(field, Input { reference: field.into(), path, digest: String::new() });
        }
        for slip in ["repair", "keep"] {
            let config = serde_json::json!({
                "folder": "data:f", "text": "data:t", "index_slip": slip, "missing": "leave_out",
                "allow_constant_features": true,
            });
            let config: import_packs::Config = serde_json::from_value(config).expect("good settings");
            shown(import_packs::ImportPacks::run(&config, &inputs, &Context::plain(&made, "cpu")));
        }
    });
});
