//! The golden table: every stage and comparison kind with its version and built-in defaults.
//!
//! Settings at their default are left out of step keys, so a default that changes without its kind's `VERSION` would
//! pass off old results as new ones. When a change is meant: raise `VERSION`, then write the table anew with
//! `SOCTOK_WRITE_GOLDEN=1 cargo test --release --test golden`. Adding a field is no such change: its line is new.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

fn table() -> BTreeMap<String, Value> {
    let defaults = |schema: &Value| -> BTreeMap<String, Value> {
        let fields = schema["properties"].as_object().into_iter().flatten();
        fields.filter_map(|(name, field)| Some((name.clone(), field.get("default")?.clone()))).collect()
    };
    let stages = soctok::stages::kinds().into_iter().map(|kind| (kind.name, kind.version, defaults(&kind.schema)));
    let comparisons =
        soctok::comparisons::kinds().into_iter().map(|kind| (kind.name, kind.version, defaults(&kind.schema)));
    let named = |(name, version, defaults): (&str, u32, BTreeMap<String, Value>)| {
        (name.to_owned(), json!({ "version": version, "defaults": defaults }))
    };
    let stages = stages.map(named);
    stages.chain(comparisons.map(named).map(|(name, entry)| (format!("comparison {name}"), entry))).collect()
}

#[test]
fn a_default_does_not_change_without_its_kinds_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kinds.json");
    let now = table();
    if std::env::var_os("SOCTOK_WRITE_GOLDEN").is_some() {
        let text = serde_json::to_string_pretty(&now).expect("is JSON") + "\n";
        std::fs::create_dir_all(path.parent().expect("has a folder")).expect("makes the folder");
        std::fs::write(&path, text).expect("writes");
    }
    let text = std::fs::read_to_string(&path).expect("the table is committed");
    let golden: BTreeMap<String, Value> = serde_json::from_str(&text).expect("is JSON");
    for (name, before) in &golden {
        let Some(after) = now.get(name) else { panic!("kind `{name}` is gone: users' files name it") };
        if before["version"] != after["version"] {
            continue;
        }
        for (field, default) in before["defaults"].as_object().expect("a table") {
            assert_eq!(
                Some(default),
                after["defaults"].get(field),
                "the default of `{name}.{field}` changed: raise its VERSION and write the table anew"
            );
        }
    }
    assert_eq!(now, golden, "the table lacks what is new: write it anew with SOCTOK_WRITE_GOLDEN=1");
}
