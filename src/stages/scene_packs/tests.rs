//! Packs of small texts and features, worked out by hand.

use super::super::Input;
use super::*;

const FRAMES: &str = "clip_id,split,t_sec\nb,train,1.0\nb,train,0.0\na,train,0.0\na,train,2.0\na,train,4.0\n";

const NAMED: &str = "clip_id,split,t_sec,frame_path\nb,train,1.0,b/f_1.png\nb,train,0.0,b/f_0.png\n\
    a,train,0.0,a/f_1.png\na,train,2.0,a/f_2.png\na,train,4.0,a/f_3.png\n";

fn run(text: &str, settings: serde_json::Value) -> Result<Packs> {
    run_with(text, FRAMES, settings)
}

fn run_with(text: &str, frames: &str, settings: serde_json::Value) -> Result<Packs> {
    let folder = tempfile::tempdir().unwrap();
    let (text_path, features, out) =
        (folder.path().join("t.jsonl"), folder.path().join("features"), folder.path().join("out"));
    std::fs::create_dir(&features).unwrap();
    std::fs::create_dir(&out).unwrap();
    std::fs::write(&text_path, text).unwrap();
    // Frames of `b` stand before those of `a` and out of order: vector (clip, time).
    std::fs::write(features.join("frames.csv"), frames).unwrap();
    std::fs::write(features.join(crate::social::seen::FILE), "clip_id\nb\n").unwrap();
    let values = vec![-1.0f32, 1.0, -1.0, 0.0, 1.0, 0.0, 1.0, 2.0, 1.0, 4.0];
    npy::write(&features.join("features.npy"), &Array::new([5, 2], values)).unwrap();
    let mut inputs = Inputs::default();
    for (field, path) in [("text", text_path), ("features", features)] {
        inputs.insert(field, Input { reference: String::new(), path, digest: String::new() });
    }
    let mut fields = serde_json::json!({"text": "data:text", "features": "data:features"});
    fields.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let config: Config = serde_json::from_value(fields).unwrap();
    ScenePacks::run(&config, &inputs, &Context::plain(&out, "cpu"))?;
    Packs::load(&out)
}

const TEXT: &str = r#"{"clip_id":"a","split":"train","utterances":[{"text":"dogs run fast","start":0.0,"end":4.0,"words":[{"text":"dogs","pos":"NOUN","start":0.5,"end":1.5},{"text":"run","pos":"VERB","start":3.5,"end":4.5},{"text":"fast","pos":"ADV"}]}]}
{"clip_id":"b","utterances":[{"text":"yes"}]}"#;

#[test]
fn words_take_their_frames() {
    let packs = run(TEXT, serde_json::json!({})).unwrap();
    assert_eq!(packs.global.values, [1.0, 2.0, -1.0, 0.5]);
    // `dogs` lies midway between the frames at 0 and 2: the earlier one.
    assert_eq!(packs.locals.values, [1.0, 0.0, 1.0, 4.0]);
    assert_eq!(packs.clips[0].locals[1], Local { utterance: 0, word: 1, frames: vec![2], row: 1 });
    let mean = run(TEXT, serde_json::json!({"local_frame": "window_mean"})).unwrap();
    assert_eq!(mean.locals.values, [1.0, 1.0, 1.0, 4.0]);
    let flat = run(TEXT, serde_json::json!({"local_frame": "clip_mean", "local_cap": 1})).unwrap();
    assert_eq!(flat.locals.values, [1.0, 2.0]);
    let narrow = run(TEXT, serde_json::json!({"pos_set": ["ADV"], "local_frame": "rank_uniform"})).unwrap();
    assert_eq!(narrow.clips[0].locals[0].frames, [1]);
}

#[test]
fn a_word_without_time_says_what_to_set() {
    let error = run(TEXT, serde_json::json!({"pos_set": ["ADV"]})).unwrap_err().to_string();
    assert!(error.contains("`fast`") && error.contains("set `word_times` to `spread`"), "{error}");
    let spread = run(TEXT, serde_json::json!({"pos_set": ["ADV"], "word_times": "spread"})).unwrap();
    assert_eq!(spread.clips[0].locals[0].frames, [2]);
}

/// Clip `a`, whose dialogue has a turn of the person of recording `b`.
const JOINED: &str = r#"{"clip_id":"a","utterances":[{"text":"dogs run","words":[{"text":"dogs","pos":"NOUN","start":0.0,"end":0.4},{"text":"run","pos":"VERB","start":0.4,"end":1.0}]},{"text":"men walk","recording":"b","words":[{"text":"men","pos":"NOUN","start":1.0,"end":1.4},{"text":"walk","pos":"VERB","start":1.4,"end":1.8}]},{"text":"dogs","words":[{"text":"dogs","pos":"NOUN","start":3.5,"end":4.0}]}]}"#;

#[test]
fn turns_of_a_partner_take_the_partners_frames() {
    let packs = run(JOINED, serde_json::json!({})).unwrap();
    assert_eq!(packs.global.values, [1.0, 2.0], "the global vector is the clip's own");
    // First value: 1 for frames of `a`, -1 for those of `b`; second: their time.
    assert_eq!(packs.locals.values, [1.0, 0.0, 1.0, 0.0, -1.0, 1.0, -1.0, 1.0, 1.0, 4.0]);
    // Each recording has its own cap.
    let first = run(JOINED, serde_json::json!({"local_cap": 1})).unwrap();
    let places: Vec<(usize, usize)> = first.clips[0].locals.iter().map(|local| (local.utterance, local.word)).collect();
    assert_eq!(places, [(0, 0), (1, 0)]);
    // The record of what the encoder saw has `b`, so the dialogue counts as seen.
    assert_eq!(packs.seen.unwrap().count(["a"]), 1);
    let error = run(&JOINED.replace("\"recording\":\"b\"", "\"recording\":\"z\""), serde_json::json!({}));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("recording `z`") && error.contains("hint:"), "{error}");
    for refused in [serde_json::json!({"write_original": true}), serde_json::json!({"global_mode": "projected_locals"})]
    {
        let error = run(JOINED, refused).unwrap_err().to_string();
        assert!(error.contains("joined dialogue"), "{error}");
    }
}

#[test]
fn a_clip_without_features_is_named() {
    let one_sided = TEXT.replace("\"b\"", "\"c\"");
    let error = run(&one_sided, serde_json::json!({})).unwrap_err().to_string();
    assert!(error.contains("clip `c`") && error.contains("hint:"), "{error}");
}

#[test]
fn words_without_parts_of_speech_are_tagged_unless_told_otherwise() {
    let text = r#"{"clip_id":"b","utterances":[{"text":"yes two men walk","words":[{"text":"yes"},{"text":"two"},
            {"text":"men"},{"text":"walk","pos":"NOUN"}]}]}"#;
    let settings = |tagger| serde_json::json!({"tagger": tagger, "local_frame": "rank_uniform"});
    let packs = run(&text.replace('\n', " "), settings("perceptron")).unwrap();
    assert_eq!(packs.clips[0].locals.iter().map(|local| local.word).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(packs.tagging.unwrap().coverage, Coverage { given: 1, tagged: 3, none: 0 });
    let packs = run("{\"clip_id\":\"b\",\"utterances\":[{\"text\":\"yes sir\"}]}", settings("none")).unwrap();
    assert_eq!(packs.tagging.unwrap().coverage, Coverage { given: 0, tagged: 0, none: 2 });
    assert_eq!(packs.locals.shape, [0, 2]);
}

const TURNS: &str = r#"{"clip_id":"conv_001","utterances":[{"text":"dogs run","start":1.5,"frame_path":"data/frames/a/frames/f_1.png"},{"text":"men walk","start":3.0}]}"#;

fn frames_of(text: &str, word_times: &str) -> Result<Vec<Vec<usize>>> {
    let packs = run_with(text, NAMED, serde_json::json!({"word_times": word_times}))?;
    Ok(packs.clips[0].locals.iter().map(|local| local.frames.clone()).collect())
}

#[test]
fn words_of_a_turn_share_its_picture_or_the_frame_at_its_time() {
    // The picture is at 0 s, though the turn's time is nearer to 2 s; the other turn has only its time.
    assert_eq!(frames_of(TURNS, "none").unwrap(), [[0], [0], [1], [1]]);
    assert_eq!(frames_of(TURNS, "spread").unwrap(), [[1], [1], [1], [1]]);
    let error = frames_of(TURNS, "given").unwrap_err().to_string();
    assert!(error.contains("`dogs`") && error.contains("`none` (all words at the utterance's frame)"), "{error}");
    assert!(frames_of(TURNS, "skip").unwrap().is_empty());
    // A picture that is none of the frames is no reason to take another.
    let other = TURNS.replace("conv_001", "a").replace("f_1.png", "f_9.png");
    let error = frames_of(&other, "none").unwrap_err().to_string();
    assert!(error.contains("`data/frames/a/frames/f_9.png` is none of the clip's frames"), "{error}");
    let foreign = TURNS.replace("conv_001", "b");
    assert!(frames_of(&foreign, "none").unwrap_err().to_string().contains("is none of the clip's frames"));
}

#[test]
fn unusable_times_are_counted_and_not_used() {
    let text = r#"{"clip_id":"a","utterances":[{"words":[{"text":"dogs","start":0.1,"end":0.3},{"text":"run","start":2.0,"end":1.0},{"text":"men","start":9.0,"end":9.5},{"text":"home"}]}]}"#;
    let error = run(text, serde_json::json!({})).unwrap_err().to_string();
    assert!(
        error.contains("`run`") && error.contains("has no time that can be used: it ends before it begins"),
        "{error}"
    );
    let packs = run(text, serde_json::json!({"word_times": "skip"})).unwrap();
    assert_eq!(packs.clips[0].locals.iter().map(|local| local.word).collect::<Vec<_>>(), [0]);
    assert_eq!(packs.timing, Some(Timing { timed: 1, untimed: 1, mistimed: 2, overlapping: 0 }));
    // Without times at all the ranks of words do.
    let ranks = run(text, serde_json::json!({"local_frame": "rank_uniform"})).unwrap();
    assert!(ranks.clips[0].locals.len() >= 3);
}

#[test]
fn the_record_of_what_the_encoder_saw_goes_with_the_packs() {
    let packs = run(TEXT, serde_json::json!({})).unwrap();
    assert_eq!(packs.seen, Some(Seen::of(["b".to_owned()])));
}

#[test]
fn the_record_knows_a_conversation_by_its_pictures() {
    let text = TURNS.replace("data/frames/a/frames/f_1.png", "b/f_1.png");
    let packs = run_with(&text, NAMED, serde_json::json!({"word_times": "none"})).unwrap();
    assert_eq!(packs.seen, Some(Seen::of(["b", "conv_001"].map(str::to_owned))));
}

#[test]
fn causal_words_see_no_frame_after_their_end() {
    // Frames of `a` at 0, 2 and 4 s: `dogs` (0.5–1.5 s) has the first, `run` (3.5–4.5 s) the last before 4.5.
    let near = run(TEXT, serde_json::json!({"causal": true})).unwrap();
    assert_eq!(near.locals.values, [1.0, 0.0, 1.0, 4.0]);
    let window = run(TEXT, serde_json::json!({"causal": true, "local_frame": "window_mean"})).unwrap();
    assert_eq!(window.clips[0].locals[0].frames, [0], "the frame at 2 s is within the pad and after the word");
    let mean = run(TEXT, serde_json::json!({"causal": true, "local_frame": "clip_mean"})).unwrap();
    assert_eq!(mean.locals.values, [1.0, 0.0, 1.0, 2.0]);
    // A word that is over before the first frame has none.
    let early = run_with(TEXT, &FRAMES.replace("a,train,0.0", "a,train,1.8"), serde_json::json!({"causal": true}));
    let early = early.unwrap();
    assert_eq!(early.clips[0].locals.iter().map(|local| (local.word, local.row)).collect::<Vec<_>>(), [(1, 0)]);
    let error = run(TEXT, serde_json::json!({"causal": true, "local_frame": "rank_uniform"})).unwrap_err();
    assert!(error.to_string().contains("cannot be causal"), "{error}");
}

#[test]
fn causal_means_are_over_the_frames_so_far() {
    let packs = run(TEXT, serde_json::json!({"global_mode": "causal_mean"})).unwrap();
    let causal = packs.causal.as_ref().unwrap();
    assert_eq!(causal.means.values, [1.0, 0.0, 1.0, 1.0, 1.0, 2.0, -1.0, 0.0, -1.0, 0.5]);
    assert_eq!(causal.frames[1], [(0.0, 3), (1.0, 4)]);
    assert_eq!(packs.causal_row(0, Some(3.9)).unwrap(), 1);
    assert!(run(TEXT, serde_json::json!({})).unwrap().causal.is_none());
}

#[test]
fn other_words_and_another_order_change_nothing_else() {
    let plain = run(TEXT, serde_json::json!({"local_frame": "rank_uniform"})).unwrap();
    let function = serde_json::json!({"local_words": "function", "local_frame": "rank_uniform"});
    let words: Vec<usize> = run(TEXT, function).unwrap().clips[0].locals.iter().map(|local| local.word).collect();
    assert_eq!(words, [2]);
    let shuffled = |seed: u64| {
        let settings =
            serde_json::json!({"frame_order": "shuffled", "control_seed": seed, "local_frame": "rank_uniform"});
        run(TEXT, settings).unwrap()
    };
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..12 {
        let packs = shuffled(seed);
        assert!(packs.global.values.iter().zip(&plain.global.values).all(|(a, b)| (a - b).abs() < 1e-6));
        assert_eq!(packs.clips[0].locals, plain.clips[0].locals);
        orders.insert(packs.locals.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
    }
    assert!(orders.len() > 2, "no seed gives another order");
}
