//! Packs as the original's scripts write them, made here, and the way there and back.

use std::path::Path;

use super::*;
use crate::npy;
use crate::social::original::key;
use crate::stages::{Input, scene_packs};

const CAPTIONS: &str = "video_name,caption\na.mp4,a man's dog runs \nb.mp4,two men\nc.mp4,a hen\n";

/// `a` after a clitic (spaCy: a|man|'s|dog|runs), `b` plain, `c` failed.
fn packs(folder: &Path) {
    let vector = |values: [f32; 2]| Array::new([2], values.to_vec());
    let manifest = "clip_id,key,global_vec,locals_npz,meta_pkl,n_locals,n_words,frames_dir,caption,status,error,duration_s,device\n\
        a,KA,/cluster/out/KA_global.npy,/cluster/out/KA_locals.npz,x.pkl,3,5,/f,a man's dog runs ,ok,,0.1,cuda\n\
        b,KB,/cluster/out/KB_global.npy,/cluster/out/KB_locals.npz,x.pkl,1,2,/f,two men,ok,,0.1,cuda\n\
        b,KB,/cluster/out/KB_global.npy,/cluster/out/KB_locals.npz,x.pkl,,,/f,two men,skipped,,0.0,cuda\n\
        c,,,,,,,/f,a hen,error,FileNotFoundError: No frames in /f/c,0.0,cuda\n";
    let manifest = manifest.replace("KA", &key("a")).replace("KB", &key("b"));
    std::fs::write(folder.join("social_packs_manifest.csv"), manifest).unwrap();
    let locals = [
        ("a", [1.0, 0.0], vec![("1_man", [1.0, 1.0]), ("3_dog", [2.0, 2.0]), ("4_runs", [3.0, 3.0])]),
        ("b", [0.0, 1.0], vec![("1_men", [4.0, 4.0])]),
    ];
    for (clip, global, locals) in locals {
        npy::write(&folder.join(format!("{}_global.npy", key(clip))), &vector(global)).unwrap();
        let arrays: Vec<(&str, Array<f32>)> = locals.iter().map(|&(name, values)| (name, vector(values))).collect();
        let arrays = arrays.iter().map(|(name, array)| (*name, array));
        npy::write_npz(&folder.join(format!("{}_locals.npz", key(clip))), arrays).unwrap();
    }
}

fn run_on(folder: &Path, text: &Path, settings: serde_json::Value) -> Result<(Packs, Summary, String)> {
    let mut inputs = Inputs::default();
    for (field, path) in [("folder", folder), ("text", text)] {
        inputs.insert(field, Input { reference: String::new(), path: path.into(), digest: String::new() });
    }
    let mut fields = serde_json::json!({"folder": "data:packs", "text": "data:text"});
    fields.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let config: Config = serde_json::from_value(fields).unwrap();
    let out = tempfile::tempdir().unwrap();
    let summary = ImportPacks::run(&config, &inputs, &Context::plain(out.path(), "cpu"))?;
    let slips = std::fs::read_to_string(out.path().join("slips.csv")).unwrap();
    Ok((Packs::load(out.path())?, summary, slips))
}

fn run(captions: &str, settings: serde_json::Value) -> Result<(Packs, Summary, String)> {
    let folder = tempfile::tempdir().unwrap();
    packs(folder.path());
    let text = folder.path().join("captions.csv");
    std::fs::write(&text, captions).unwrap();
    run_on(folder.path(), &text, settings)
}

fn words(packs: &Packs, clip: usize) -> Vec<(usize, f32)> {
    packs.clips[clip].locals.iter().map(|local| (local.word, packs.locals.row(local.row)[0])).collect()
}

#[test]
fn tokens_after_a_clitic_go_to_their_word_or_stay_where_the_original_had_them() {
    let (packs, summary, slips) = run(CAPTIONS, serde_json::json!({"missing": "leave_out"})).unwrap();
    assert_eq!(packs.global.values, [1.0, 0.0, 0.0, 1.0]);
    assert_eq!(words(&packs, 0), [(1, 1.0), (2, 2.0), (3, 3.0)]);
    assert_eq!(words(&packs, 1), [(1, 4.0)]);
    assert!(packs.parts_of_speech && packs.tagging.is_none() && packs.clips[0].locals[0].frames.is_empty());
    assert_eq!(slips, "clip_id,name,word\na,3_dog,2\na,4_runs,3\n");
    let figure = |name: &str| summary[name].as_f64().unwrap();
    let names = ["clips", "clips_left_out", "slipped_clips", "slipped_locals", "locals_left_out", "spread"];
    assert_eq!(names.map(figure), [2.0, 1.0, 1.0, 2.0, 0.0, 1.0]);
    let settings = serde_json::json!({"missing": "leave_out", "index_slip": "keep"});
    let (packs, summary, slips) = run(CAPTIONS, settings).unwrap();
    assert_eq!(words(&packs, 0), [(1, 1.0), (3, 2.0)]);
    assert_eq!((slips.as_str(), &summary["locals_left_out"]), ("clip_id,name,word\na,3_dog,3\na,4_runs,\n", &1.into()));
}

#[test]
fn what_is_missing_or_does_not_fit_is_named() {
    let message = |captions: &str| run(captions, serde_json::json!({})).unwrap_err().to_string();
    let error = message(CAPTIONS);
    assert!(
        error.contains("1 of 3 clips of the text have no usable pack; `c`: its making failed: FileNotFoundError"),
        "{error}"
    );
    let error = message("video_name,caption\na.mp4,a man's cat runs\n");
    assert!(error.contains("does not have the caption") && error.contains("clip `a`"), "{error}");
    let error = message("video_name,caption\nz.mp4,a man\n");
    assert!(error.contains("the manifest does not name it"), "{error}");
}

#[test]
fn a_token_of_another_text_and_constant_vectors_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    packs(folder.path());
    let text = folder.path().join("captions.csv");
    std::fs::write(&text, "clip_id,caption\na,a man's cat runs\nb,two men\n").unwrap();
    // Without a manifest files are found by their keys, and no caption tells that the text is another.
    std::fs::remove_file(folder.path().join("social_packs_manifest.csv")).unwrap();
    let error = run_on(folder.path(), &text, serde_json::json!({})).err().unwrap().to_string();
    assert!(error.contains("`3_dog` fits no word") && error.contains("meta.json"), "{error}");
    let same = Array::new([2], vec![0f32, 1.001]);
    npy::write(&folder.path().join(format!("{}_global.npy", key("a"))), &same).unwrap();
    std::fs::write(&text, CAPTIONS.replace("c.mp4,a hen\n", "")).unwrap();
    let error = run_on(folder.path(), &text, serde_json::json!({})).err().unwrap().to_string();
    assert!(error.contains("hardly differ between clips"), "{error}");
    let allowed = serde_json::json!({"allow_constant_features": true});
    assert!(run_on(folder.path(), &text, allowed).is_ok());
    let empty = tempfile::tempdir().unwrap();
    let error = run_on(empty.path(), &text, serde_json::json!({})).err().unwrap().to_string();
    assert!(error.contains("has no packs of the original") && error.contains("scene_packs_manifest.csv"), "{error}");
}

/// The original's builders wrote zeros where a frame could not be read.
#[test]
fn vectors_of_zeros_are_missing_and_not_constant() {
    let folder = tempfile::tempdir().unwrap();
    packs(folder.path());
    let text = folder.path().join("captions.csv");
    std::fs::write(&text, CAPTIONS.replace("c.mp4,a hen\n", "")).unwrap();
    let zero = Array::new([2], vec![0f32; 2]);
    let locals = [("1_man", &zero), ("3_dog", &Array::new([2], vec![2f32; 2]))];
    npy::write_npz(&folder.path().join(format!("{}_locals.npz", key("a"))), locals).unwrap();
    let message = |settings| run_on(folder.path(), &text, settings).err().unwrap().to_string();
    let error = message(serde_json::json!({}));
    assert!(error.contains("clip `a`: local token `1_man` holds nothing but zeros"), "{error}");
    let (packs, summary, _) = run_on(folder.path(), &text, serde_json::json!({"missing": "leave_out"})).unwrap();
    assert_eq!((words(&packs, 0), &summary["zero_locals_left_out"]), (vec![(2, 2.0)], &1.into()));
    npy::write(&folder.path().join(format!("{}_global.npy", key("a"))), &zero).unwrap();
    for settings in [serde_json::json!({}), serde_json::json!({"allow_constant_features": true})] {
        let error = message(settings);
        assert!(error.contains("1 of 2 clips of the text have no usable pack; `a`: `"), "{error}");
        assert!(error.contains("nothing but zeros") && error.contains("`missing = \"leave_out\"`"), "{error}");
    }
    let (packs, summary, _) = run_on(folder.path(), &text, serde_json::json!({"missing": "leave_out"})).unwrap();
    assert_eq!((packs.clips.len(), &summary["clips_left_out"]), (1, &1.into()));
    let lost = Array::new([2], vec![1f32, f32::NAN]);
    npy::write(&folder.path().join(format!("{}_global.npy", key("b"))), &lost).unwrap();
    let error = message(serde_json::json!({"missing": "leave_out"}));
    assert!(error.contains("it has 1 of 2 values that are not finite"), "{error}");
}

#[test]
fn the_originals_own_tokens_decide_where_they_are_given() {
    let folder = tempfile::tempdir().unwrap();
    packs(folder.path());
    let meta = r#"{"clip_id": "a", "caption": "a man's dog runs ", "tokens": ["a", "man", "'s", "dog", "runs", " "]}"#;
    std::fs::write(folder.path().join(format!("{}_meta.json", key("a"))), meta).unwrap();
    let text = folder.path().join("captions.csv");
    std::fs::write(&text, CAPTIONS).unwrap();
    let (packs, ..) = run_on(folder.path(), &text, serde_json::json!({"missing": "leave_out"})).unwrap();
    assert_eq!(words(&packs, 0), [(1, 1.0), (2, 2.0), (3, 3.0)]);
}

/// Packs of ours, written in the original's form and read back.
fn there_and_back(text: &str, name: &str, frames: &str, settings: serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let (text_path, features, out) =
        (folder.path().join(name), folder.path().join("features"), folder.path().join("out"));
    std::fs::create_dir(&features).unwrap();
    std::fs::create_dir(&out).unwrap();
    std::fs::write(&text_path, text).unwrap();
    std::fs::write(features.join("frames.csv"), frames).unwrap();
    let count = frames.lines().count() - 1;
    let values = (0..count * 2).map(|place| if place % 3 == 0 { place as f32 } else { 1.5 }).collect();
    npy::write(&features.join("features.npy"), &Array::new([count, 2], values)).unwrap();
    let mut inputs = Inputs::default();
    for (field, path) in [("text", text_path.clone()), ("features", features)] {
        inputs.insert(field, Input { reference: String::new(), path, digest: String::new() });
    }
    let mut fields = serde_json::json!({"text": "data:text", "features": "data:features", "write_original": true});
    fields.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let config: scene_packs::Config = serde_json::from_value(fields).unwrap();
    scene_packs::ScenePacks::run(&config, &inputs, &Context::plain(&out, "cpu")).unwrap();
    let ours = Packs::load(&out).unwrap();
    let (back, summary, _) = run_on(&out.join("original"), &text_path, serde_json::json!({})).unwrap();
    assert!(!ours.locals.values.is_empty());
    assert_eq!((&back.global, &back.locals), (&ours.global, &ours.locals));
    for (a, b) in back.clips.iter().zip(&ours.clips) {
        let words = |clip: &PackedClip| -> Vec<(usize, usize)> {
            clip.locals.iter().map(|local| (local.utterance, local.word)).collect()
        };
        assert_eq!((&a.clip_id, words(a)), (&b.clip_id, words(b)));
    }
    assert_eq!(summary["slipped_locals"], 0);
}

#[test]
fn packs_come_back_from_the_originals_form() {
    let frames = "clip_id,split,t_sec\na,,0\na,,1\na,,2\nb,,0\nb,,1\n";
    let captions = "clip_id,caption\na,a man's dog runs and/or walks\nb,two men talk\n";
    there_and_back(captions, "captions.csv", frames, serde_json::json!({"local_frame": "rank_uniform"}));
    let talk = concat!(
        r#"{"clip_id":"a","utterances":[{"words":[{"text":"so"},{"text":"dogs","start":0.1,"end":0.3},"#,
        r#"{"text":"run","start":0.9,"end":0.6},{"text":"home","start":1.5,"end":1.6}]},"#,
        r#"{"words":[{"text":"men","start":1.7,"end":2.1}]}]}"#,
        "\n",
        r#"{"clip_id":"b","utterances":[{"words":[{"text":"women","start":0.1,"end":0.3}]}]}"#,
        "\n"
    );
    there_and_back(talk, "transcripts.jsonl", frames, serde_json::json!({"word_times": "skip"}));
}
