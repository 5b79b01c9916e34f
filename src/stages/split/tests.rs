//! Splits of a few clips, worked out by hand.

use super::*;
use crate::stages::Input;

const CAPTIONS: &str = "clip_id,split,group,caption\na_0,train,a,one\na_1,train,a,two\nb_0,test,b,three\n\
                        c_0,train,c,four\nc_1,test,c,five\nd_0,,d,six\n";

fn run(settings: serde_json::Value, table: Option<&str>) -> Result<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut inputs = Inputs::default();
    for (field, text) in [("clips", Some(CAPTIONS)), ("table", table)] {
        let Some(text) = text else { continue };
        let path = folder.path().join(format!("{field}.csv"));
        std::fs::write(&path, text).unwrap();
        inputs.insert(field, Input { reference: format!("data:{field}"), path, digest: String::new() });
    }
    let mut settings = settings;
    settings["clips"] = "data:clips".into();
    let config: Config = serde_json::from_value(settings).unwrap();
    let out = tempfile::tempdir().unwrap();
    Split::run(&config, &inputs, &Context::plain(out.path(), "cpu"))?;
    Ok(std::fs::read_to_string(out.path().join("split.csv")).unwrap())
}

#[test]
fn fractions_keep_groups_whole_and_depend_on_the_seed() {
    let mut seen = BTreeSet::new();
    for seed in 0..8 {
        let text = run(serde_json::json!({ "test": 0.34, "val": 0.17, "split_seed": seed }), None);
        let Ok(text) = text else { continue };
        let mut of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in text.lines().skip(1) {
            let parts: Vec<&str> = line.split(',').collect();
            of.entry(parts[1].into()).or_default().insert(parts[2].into());
        }
        assert!(of.values().all(|splits| splits.len() == 1), "{text}");
        seen.insert(text);
    }
    assert!(seen.len() > 2);
}

#[test]
fn lists_name_clips_or_groups() {
    let ids = serde_json::json!({ "method": "lists", "ids": { "test": ["a", "d_0"] }, "others": "train" });
    let text = run(ids, None).unwrap();
    let expected = "clip_id,group,split\na_0,a,test\na_1,a,test\nb_0,b,train\nc_0,c,train\nc_1,c,train\nd_0,d,test\n";
    assert_eq!(text, expected);
    let message = |ids: serde_json::Value| {
        run(serde_json::json!({ "method": "lists", "ids": ids }), None).unwrap_err().to_string()
    };
    assert!(message(serde_json::json!({ "test": ["a", "z"] })).contains("`z`, which is neither"));
    assert!(message(serde_json::json!({ "test": ["a"], "train": ["a"] })).contains("`a` for `test` and for `train`"));
    assert!(message(serde_json::json!({ "test": ["a", "b", "c"] })).contains("1 of 6 clips have no split"));
}

#[test]
fn a_group_in_two_splits_is_refused() {
    let settings = serde_json::json!({ "method": "column", "others": "val" });
    let message = run(settings, None).unwrap_err().to_string();
    assert!(message.contains("group `c` is in two splits: clip `c_0` in `train`, clip `c_1` in `test`"), "{message}");
    let settings = serde_json::json!({ "method": "column", "others": "val", "allow_shared_groups": true });
    assert!(run(settings, None).unwrap().contains("d_0,d,val"));
    // With every clip its own group nothing is shared.
    let settings = serde_json::json!({ "method": "column", "others": "val", "group_pattern": "(.*)" });
    assert!(run(settings, None).unwrap().contains("c_1,c_1,test"));
}

#[test]
fn a_table_replaces_what_the_clips_say() {
    let table = "index,clip_id,split\n0,a_0,x\n1,a_1,x\n2,b_0,y\n3,c_0,y\n4,c_1,y\n5,d_0,y\n";
    let text = run(serde_json::json!({ "method": "column", "table": "data:table" }), Some(table)).unwrap();
    assert!(text.contains("a_1,a,x") && text.contains("c_0,c,y"), "{text}");
}

const SEAMLESS: &str = "clip_id,caption\nV00_S01_I1_P1,one\nV00_S01_I1_P2,two\nV00_S02_I2_P2,three\n\
                        V00_S02_I2_P3,four\nV00_S03_I3_P4,five\nV00_S03_I3_P5,six\nV00_S03_I4_P4,seven\n";

fn run_seamless(settings: serde_json::Value) -> Result<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clips.csv");
    std::fs::write(&path, SEAMLESS).unwrap();
    let mut inputs = Inputs::default();
    inputs.insert("clips", Input { reference: "data:clips".into(), path, digest: String::new() });
    let mut settings = settings;
    settings["clips"] = "data:clips".into();
    let mut config: Config = serde_json::from_value(settings).unwrap();
    Split::normalise(&mut config, &super::super::Upstream::default());
    let out = tempfile::tempdir().unwrap();
    Split::run(&config, &inputs, &Context::plain(out.path(), "cpu"))?;
    Ok(std::fs::read_to_string(out.path().join("split.csv")).unwrap())
}

#[test]
fn persons_and_sessions_are_kept_apart_over_what_they_share() {
    // P2 joins sessions 1 and 2; nobody joins session 3 to them.
    let mut seen = BTreeSet::new();
    for seed in 0..6 {
        let settings = serde_json::json!({"apart": ["person", "session"], "test": 0.45, "split_seed": seed});
        let text = run_seamless(settings).unwrap();
        let of = |id: &str| {
            let line = text.lines().find(|line| line.starts_with(id)).unwrap();
            line.split(',').skip(2).collect::<Vec<_>>().join(",")
        };
        assert_eq!(of("V00_S01_I1_P1"), of("V00_S02_I2_P3"), "{text}");
        assert_eq!(of("V00_S03_I3_P4"), of("V00_S03_I4_P4"));
        assert_ne!(of("V00_S01_I1_P1"), of("V00_S03_I3_P4"));
        assert!(text.starts_with("clip_id,group,split,together\nV00_S01_I1_P1,V00_S01,"), "{text}");
        seen.insert(text);
    }
    assert!(!seen.is_empty());
    // By session alone person 2 may be on both sides; by default it is the session.
    let lists = |apart: serde_json::Value| {
        let ids = serde_json::json!({"test": ["V00_S02"]});
        serde_json::json!({"method": "lists", "ids": ids, "others": "train", "apart": apart})
    };
    assert!(run_seamless(lists(serde_json::json!(["group"]))).unwrap().contains("V00_S02_I2_P3,V00_S02,test"));
    let message = run_seamless(lists(serde_json::json!(["person"]))).unwrap_err().to_string();
    assert!(message.contains("person `P2` is in two splits: clip `V00_S01_I1_P2` in `train`"), "{message}");
    let persons = serde_json::json!({"method": "lists", "ids": {"val": ["P4", "P5"]}, "others": "train",
        "apart": ["person"]});
    assert!(run_seamless(persons).unwrap().contains("V00_S03_I4_P4,V00_S03,val,P4"));
}

#[test]
fn ids_that_do_not_tell_persons_are_refused() {
    let message = run(serde_json::json!({ "apart": ["person"] }), None).unwrap_err().to_string();
    assert!(message.contains("does not tell") && message.contains("`group_pattern`"), "{message}");
}
