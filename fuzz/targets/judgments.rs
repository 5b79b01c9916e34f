//! The stages `rsa` and `odd_one_out`: human judgments (triplets or a matrix, by themselves or in a folder), the names of
//! their clips, the embeddings' own files, and a table of splits.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use soctok::npy::{Array, write_npz};
use soctok::stages::{Context, Input, Inputs, Stage, odd_one_out, rsa};
use soctok_fuzz::{file, folder, parts, shown, within};

const DESCRIPTION: &[u8] =
    br#"{"inject":"none","layers":["last"],"hidden":2,"pools":[{"pool":"all","undefined":null}]}"#;

fn vectors() {
    std::fs::create_dir_all(folder().join("embeddings")).expect("makes a folder");
    let values = Array::new([4, 2], vec![1.0f32, 0.0, 0.5, 1.0, -1.0, 0.25, 0.0, 1.0]);
    write_npz(&folder().join("embeddings/embeddings.npz"), [("all.last", &values)]).expect("writes");
}

fuzz_target!(|data: &[u8]| {
    static VECTORS: Once = Once::new();
    VECTORS.call_once(vectors);
    let [human, names, clips, description, splits] = parts(data);
    file("judgments/human.csv", human);
    let given = (!names.is_empty()).then(|| file("names.csv", names));
    file("embeddings/clips.csv", if clips.is_empty() { b"clip_id\n1\n2\n3\na\n" } else { clips });
    file("embeddings/embeddings.json", if description.is_empty() { DESCRIPTION } else { description });
    let table = (!splits.is_empty()).then(|| file("splits.csv", splits));
    let held_out = table.is_some().then_some("test");
    within(4096, data, || {
        let mut inputs = Inputs::default();
        let fields = [
            ("human", Some(folder().join("judgments"))),
            ("names", given),
            ("embeddings", Some(folder().join("embeddings"))),
            ("splits", table),
        ];
        for (field, path) in fields {
            let Some(path) = path else { continue };
            inputs.insert(field, Input { reference: field.into(), path, digest: String::new() });
        }
        let context = Context::plain(folder(), "cpu");
        for clips in ["judged", "common"] {
            let mut config = serde_json::json!({
                "embeddings": "stage:e", "human": "data:h", "human_file": "human.csv", "clips": clips, "replicates": 20,
            });
            let accuracy: odd_one_out::Config = serde_json::from_value(config.clone()).expect("good settings");
            shown(odd_one_out::OddOneOut::run(&accuracy, &inputs, &context));
            for (field, draws) in [("permutations", 20), ("cv_draws", 4), ("ceiling_splits", 4)] {
                config[field] = draws.into();
            }
            config["held_out"] = held_out.into();
            let config: rsa::Config = serde_json::from_value(config).expect("good settings");
            shown(rsa::Rsa::run(&config, &inputs, &context));
        }
    });
});
