//! Every default of the three protocols (method 8.1), as `soctok show` tells it: the value, and that the protocol set it.
//!
//! Rows of the table that no protocol can set are the file's: the language model, the encoder and where features come
//! from, the splits, and the seeds of `controlled`, which are an axis.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::Folder;

const EXPERIMENT: &str = r#"
name = "protocols"
protocol = "PROTOCOL"

[data.frames]
path = "frames"
[data.text]
path = "captions.csv"
[data.human]
path = "human.csv"
[models.language]
path = "language"
[models.vision]
path = "vision"

[stages.features]
kind = "encode_frames"
frames = "data:frames"
encoder = "model:vision"
[stages.packs]
kind = "scene_packs"
text = "data:text"
features = "stage:features"
[stages.projector]
kind = "train_projector"
text = "data:text"
packs = "stage:packs"
inject = "full"
SAMPLES
[stages.perplexity]
kind = "perplexity"
text = "data:text"
packs = "stage:packs"
projector = "stage:projector"
[stages.text_only]
kind = "perplexity"
text = "data:text"
SAMPLES
[stages.embed]
kind = "embed"
text = "data:text"
packs = "stage:packs"
projector = "stage:projector"
[stages.rsa]
kind = "rsa"
embeddings = "stage:embed"
human = "data:human"
"#;

const PROTOCOLS: [&str; 3] = ["paper-2025", "repo-2025-12", "controlled"];
const SAMPLES: [&str; 2] = ["next_word", "next_utterance"];

fn folder() -> Folder {
    let folder = Folder::new();
    for name in ["frames/manifest.csv", "captions.csv", "human.csv", "language/config.json", "vision/config.json"] {
        folder.write(name, "");
    }
    for protocol in PROTOCOLS {
        for samples in SAMPLES {
            let text = EXPERIMENT.replace("PROTOCOL", protocol).replace("SAMPLES", &format!("samples = \"{samples}\""));
            folder.write(&format!("{protocol}-{samples}.toml"), &text);
        }
    }
    folder
}

/// A row of the table: fields, and per protocol the values for captions and for dialogues.
type Row = (&'static str, [[Value; 2]; 3]);

/// The same value for captions and for dialogues.
fn both(value: Value) -> [Value; 2] {
    [value.clone(), value]
}

/// Table 8.1, without what depends on no protocol.
fn table() -> Vec<Row> {
    let same = |value: Value| [both(value.clone()), both(value.clone()), both(value)];
    let each = |values: [Value; 3]| values.map(both);
    let (yes, no) = (json!(true), json!(false));
    vec![
        ("projector.bos", each([no.clone(), no.clone(), yes.clone()])),
        ("text_only.bos", each([no.clone(), no.clone(), yes.clone()])),
        ("perplexity.none_bos", each([Value::Null, yes.clone(), Value::Null])),
        (
            "projector.tags",
            [both(json!("duplicated")), [json!("none"), json!("duplicated")], [json!("none"), json!("prompt")]],
        ),
        (
            "text_only.tags",
            [both(json!("duplicated")), [json!("none"), json!("duplicated")], [json!("none"), json!("prompt")]],
        ),
        ("projector.caption_tag", [[json!("[CAP]: "), Value::Null], both(Value::Null), both(Value::Null)]),
        ("projector.label_eos", each([yes.clone(), no.clone(), no.clone()])),
        ("text_only.label_eos", each([yes.clone(), no.clone(), no.clone()])),
        ("features.l2_normalize", same(yes.clone())),
        ("features.allow_constant_features", each([yes.clone(), Value::Null, Value::Null])),
        (
            "packs.global_mode",
            [both(json!("clip_mean")), both(json!("clip_mean")), [json!("clip_mean"), json!("causal_mean")]],
        ),
        (
            "packs.local_frame",
            [
                [json!("rank_uniform"), json!("window_mean")],
                [json!("rank_uniform"), json!("window_mean")],
                [json!("rank_uniform"), json!("nearest")],
            ],
        ),
        ("packs.window_pad", each([json!(0.75), json!(0.75), Value::Null])),
        ("packs.causal", [both(no.clone()), both(no.clone()), [Value::Null, yes.clone()]]),
        ("packs.pos_set", same(json!(["NOUN", "PROPN", "VERB", "AUX"]))),
        ("packs.local_cap", [[json!(50), json!(12)], [json!(50), json!(12)], both(json!(50))]),
        ("projector.disabled", each([json!("zeroed"), json!("removed"), json!("removed")])),
        ("projector.layers", same(json!("original"))),
        ("projector.norm_epsilon", each([json!(1e-6), json!(1e-5), json!(1e-6)])),
        ("projector.norm_clamp", each([json!(0.0), json!(10.0), json!(0.0)])),
        ("projector.dropout", same(json!(0.1))),
        ("projector.lr", same(json!(1e-4))),
        ("projector.weight_decay", same(json!(0.05))),
        ("projector.clip", same(json!(1.0))),
        ("projector.warmup_steps", each([json!(888), json!(888), Value::Null])),
        ("projector.warmup", each([Value::Null, Value::Null, json!(0.1)])),
        ("projector.epochs", each([json!(4), json!(5), json!(5)])),
        ("projector.batch", same(json!(32))),
        ("projector.one_pass", [both(Value::Null), both(Value::Null), [yes.clone(), Value::Null]]),
        ("projector.checkpoint", each([json!("last"), json!("last"), json!("best_or_last")])),
        ("projector.seed", each([json!(42), json!(42), Value::Null])),
        ("projector.precision", each([json!("bf16"), json!("bf16"), json!("f32")])),
        ("projector.truncation", each([json!("end"), json!("end"), json!("refuse")])),
        ("projector.context_turns", [[Value::Null, json!(1)], [Value::Null, json!(1)], both(Value::Null)]),
        ("projector.chunk_words", [[Value::Null, json!(12)], [Value::Null, json!(12)], both(Value::Null)]),
        ("perplexity.perplexity_cap", each([json!(20.0), json!(20.0), Value::Null])),
        ("embed.bos", each([yes.clone(), yes.clone(), Value::Null])),
        ("embed.append_eos", each([no.clone(), no.clone(), Value::Null])),
        ("rsa.pool", each([json!("all"), json!("all"), Value::Null])),
        ("rsa.unobserved", each([json!("zero"), json!("zero"), json!("mask")])),
    ]
}

fn field<'a>(shown: &'a Value, name: &str) -> &'a Value {
    let (stage, field) = name.split_once('.').expect("stage.field");
    &shown["stages"][stage][field]
}

#[test]
fn show_says_which_protocol_set_every_value_of_the_table() {
    let folder = folder();
    for (number, protocol) in PROTOCOLS.into_iter().enumerate() {
        for (material, samples) in SAMPLES.into_iter().enumerate() {
            let shown = folder.json(&["show", &format!("{protocol}-{samples}.toml")]);
            for (name, values) in table() {
                let (found, wanted) = (field(&shown, name), &values[number][material]);
                let origin = found["origin"].as_str().unwrap_or_default();
                match wanted {
                    // The protocol says nothing: the kind's own default holds, or the projector's setting.
                    Value::Null => assert!(!origin.starts_with("protocol"), "{protocol} {samples} {name}: {found}"),
                    wanted => {
                        let is_same = match (found["value"].as_f64(), wanted.as_f64()) {
                            (Some(found), Some(wanted)) => found == wanted,
                            _ => found["value"] == *wanted,
                        };
                        assert!(is_same, "{protocol} {samples} {name}: {found}, wanted {wanted}");
                        assert_eq!(origin, format!("protocol {protocol}"), "{samples} {name}");
                    }
                }
            }
            // What a stage takes over from the projector's training is not the protocol's a second time.
            assert_ne!(field(&shown, "perplexity.bos")["origin"], format!("protocol {protocol}"));
            for origin in ["projector.samples", "text_only.samples"].map(|name| &field(&shown, name)["origin"]) {
                assert!(origin.as_str().is_some_and(|origin| origin.contains(".toml:")), "{origin}");
            }
        }
    }
}

/// Another value than the one given.
fn other(name: &str, value: &Value) -> String {
    match (name, value) {
        (_, Value::Bool(value)) => (!value).to_string(),
        (_, Value::Number(_)) if ["norm_clamp", "dropout", "clip"].iter().any(|end| name.ends_with(end)) => {
            "0.5".into()
        }
        (_, Value::Number(number)) if number.is_f64() => "0.125".into(),
        (_, Value::Number(_)) => "7".into(),
        (_, Value::Array(_)) => "['NOUN']".into(),
        ("projector.tags" | "text_only.tags", Value::String(text)) => {
            if text == "none" {
                "'prompt'".into()
            } else {
                "'none'".into()
            }
        }
        ("projector.caption_tag", _) => "'<c>'".into(),
        ("packs.global_mode", _) => "'projected_locals'".into(),
        ("packs.local_frame", _) => "'clip_mean'".into(),
        ("projector.disabled", Value::String(text)) => if text == "zeroed" { "'removed'" } else { "'zeroed'" }.into(),
        ("projector.layers", _) => "'mlp'".into(),
        ("projector.checkpoint", Value::String(text)) => {
            if text == "best_or_last" { "'last'" } else { "'best'" }.into()
        }
        ("projector.precision", Value::String(text)) => if text == "f32" { "'bf16'" } else { "'f32'" }.into(),
        ("projector.truncation", Value::String(text)) => if text == "end" { "'refuse'" } else { "'end'" }.into(),
        ("rsa.pool", _) => "'eos'".into(),
        ("rsa.unobserved", Value::String(text)) => if text == "mask" { "'zero'" } else { "'mask'" }.into(),
        (name, value) => panic!("no other value of {name} than {value}"),
    }
}

#[test]
fn every_default_of_a_protocol_is_switched_on_its_own() {
    let folder = folder();
    for (number, protocol) in PROTOCOLS.into_iter().enumerate() {
        let file = format!("{protocol}-next_utterance.toml");
        let before = folder.json(&["show", &file]);
        for (name, values) in table() {
            let value = &values[number][1];
            if value.is_null() {
                continue;
            }
            let argument = format!("{name}={}", other(name, value));
            let after = folder.json(&["show", &file, "--set", &argument]);
            assert_eq!(field(&after, name)["origin"], "--set", "{protocol} {argument}");
            assert_ne!(field(&after, name)["value"], field(&before, name)["value"], "{protocol} {argument}");
            for (unchanged, _) in table().iter().filter(|(unchanged, _)| *unchanged != name) {
                // Settings that the stage itself takes over may follow.
                if field(&before, unchanged)["origin"] != "inherited" {
                    assert_eq!(
                        field(&after, unchanged),
                        field(&before, unchanged),
                        "{protocol} {argument}: {unchanged}"
                    );
                }
            }
        }
    }
}

/// A lens or a map of attention into text alone reads it as its scores do: under a protocol all three get one prompt.
#[test]
fn text_alone_is_looked_into_as_it_is_scored() {
    let folder = folder();
    let kinds = ["perplexity", "logit_lens", "attention"];
    let fields = ["bos", "tags", "label_eos", "max_tokens", "truncation", "precision", "context_turns", "chunk_words"];
    for protocol in PROTOCOLS {
        for samples in SAMPLES {
            let stage = |kind| {
                format!("[stages.alone_{kind}]\nkind = \"{kind}\"\ntext = \"data:text\"\nsamples = \"{samples}\"\n")
            };
            let text = EXPERIMENT.replace("PROTOCOL", protocol).replace("SAMPLES", &format!("samples = \"{samples}\""));
            folder.write("alone.toml", &format!("{text}{}", kinds.map(stage).concat()));
            let shown = folder.json(&["show", "alone.toml"]);
            for name in fields {
                let [scores, lens, attention] = kinds.map(|kind| {
                    let field = field(&shown, &format!("alone_{kind}.{name}")).clone();
                    let by = field["origin"].as_str().unwrap_or_default().split(':').next().map(str::to_owned);
                    (field["value"].clone(), by)
                });
                assert_eq!((&lens, &attention), (&scores, &scores), "{protocol} {samples}: {name}");
            }
            let bos = field(&shown, "alone_logit_lens.bos");
            assert_eq!(bos["value"], json!(protocol == "controlled"), "{protocol}");
            assert!(bos["origin"].as_str().is_some_and(|origin| origin.contains(protocol)), "{bos}");
        }
    }
}

/// The committed experiments about published figures.
const PUBLISHED: [&str; 8] = [
    "paper-2025/captions",
    "paper-2025/dialogue",
    "paper-2025/smoke",
    "paper-2025/rsa",
    "repo-2025-12/captions",
    "repo-2025-12/dialogue",
    "controlled/captions",
    "controlled/dialogue",
];

/// Every number of section 2.9 of the method notes, how often it was published, and where it must be found. What stands
/// beside one of these there (the reduction in percent, other ranks of the same list) is in its note; one cell is NaN.
const NUMBERS: [(&str, &[f64]); 5] = [
    ("paper-2025/captions", &[2662.02, 3.25, 2.79, 5.84, 166.89, 206.71]),
    ("paper-2025/dialogue", &[50.37, 5.25, 90.37]),
    ("paper-2025/smoke", &[1969.85, 2835.73, 2.14, 3.12]),
    ("paper-2025/rsa", &[0.323, 0.335, 0.280, 0.3229, 0.3289, 0.3266, 0.2799, 0.2799, 0.2484, 0.2592]),
    ("repo-2025-12/captions", &[36.94, 164.28, 65.0, 65.0, 17.49, 24.21]),
];

#[test]
fn every_published_number_is_carried_with_its_source_and_what_it_is_worth() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    for name in PUBLISHED {
        let text = std::fs::read_to_string(root.join(format!("{name}.toml"))).expect("is committed");
        let file: toml::Table = text.parse().expect("is TOML");
        let tables = file["tables"].as_table().expect("has tables").values();
        let cells = tables.filter_map(|table| table.get("published")?.as_table()).flat_map(|cells| cells.iter());
        let mut found = Vec::new();
        for (cell, published) in cells {
            for key in ["source", "note"] {
                let said = published.get(key).and_then(toml::Value::as_str).unwrap_or_default();
                assert!(said.len() > 10, "{name}: `{cell}` has no `{key}`");
            }
            found.push(published["value"].as_float().expect("a number"));
        }
        let Some((_, wanted)) = NUMBERS.iter().find(|(file, _)| *file == name) else { continue };
        let sorted = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values
        };
        assert_eq!(sorted(found), sorted(wanted.to_vec()), "{name}");
    }
}

#[test]
fn the_experiments_about_published_figures_have_no_mistake() {
    let folder = Folder::new();
    let given = ["captions.csv", "clips.csv", "frames/a/frame_1.jpg"].map(|name| format!("moments/{name}"));
    let talks = ["transcripts/a.json", "clips.csv", "frames/a/frame_1.jpg"].map(|name| format!("seamless/{name}"));
    let models = ["gemma-2-2b", "gemma-2-2b-it", "dinov2-base"].map(|name| format!("weights/{name}/config.json"));
    let judgments = ["sim_judg_train_rsm.csv", "names.csv"].map(|name| format!("judgments/{name}"));
    for path in given.iter().chain(&talks).chain(&models).chain(&judgments) {
        folder.write(path, "");
    }
    for name in PUBLISHED {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("experiments/{name}.toml"));
        let path = path.to_str().expect("a path in UTF-8");
        assert!(folder.ok(&["check", path]).starts_with("ok: "), "{name}");
        // The file names its protocol and leaves to it what it sets.
        let protocol = name.split('/').next().expect("a folder");
        let shown = folder.json(&["show", path]);
        let fields = if name.ends_with("rsa") {
            vec!["projector.bos", "projector.disabled", "rsa.unobserved"]
        } else {
            vec!["projector.bos", "projector.disabled", "projector.norm_clamp", "packs.local_cap", "packs.local_frame"]
        };
        for field_name in fields {
            assert_eq!(field(&shown, field_name)["origin"], format!("protocol {protocol}"), "{name} {field_name}");
        }
    }
}
