//! The stage `split` on clips (a manifest or captions) and on a table of splits, by every method.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::stages::{Context, Input, Inputs, Stage, split};
use soctok_fuzz::{file, folder, parts, shown, within};

fuzz_target!(|data: &[u8]| {
    let [clips, table] = parts(data);
    let (clips, table) = (file("clips.csv", clips), file("table.csv", table));
    within(1024, data, || {
        let mut inputs = Inputs::default();
        for (field, path) in [("clips", clips), ("table", table)] {
            inputs.insert(field, Input { reference: field.into(), path, digest: String::new() });
        }
        for method in ["fraction", "column", "lists"] {
            let config = serde_json::json!({
                "clips": "data:clips", "table": "data:table", "method": method, "val": 0.2,
                "ids": { "test": ["a"] }, "others": "train", "group_pattern": "^(.)",
            });
            let config: split::Config = serde_json::from_value(config).expect("good settings");
            shown(split::Split::run(&config, &inputs, &Context::plain(folder(), "cpu")));
        }
    });
});
