//! The stage `rsa`: human judgments (triplets or a matrix), the names of their clips, and the embeddings' own files.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use soctok::npy::{Array, write_npz};
use soctok::stages::{Context, Input, Inputs, Stage, rsa};
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
    let [human, names, clips, description] = parts(data);
    let human = file("human.csv", human);
    let given = (!names.is_empty()).then(|| file("names.csv", names));
    file("embeddings/clips.csv", if clips.is_empty() { b"clip_id\n1\n2\n3\na\n" } else { clips });
    file("embeddings/embeddings.json", if description.is_empty() { DESCRIPTION } else { description });
    within(4096, data, || {
        let mut inputs = Inputs::default();
        let fields = [("human", Some(human)), ("names", given), ("embeddings", Some(folder().join("embeddings")))];
        for (field, path) in fields {
            let Some(path) = path else { continue };
            inputs.insert(field, Input { reference: field.into(), path, digest: String::new() });
        }
        for clips in ["judged", "common"] {
            let config = serde_json::json!({ "embeddings": "stage:e", "human": "data:h", "clips": clips });
            let config: rsa::Config = serde_json::from_value(config).expect("good settings");
            shown(rsa::Rsa::run(&config, &inputs, &Context::plain(folder(), "cpu")));
        }
    });
});
