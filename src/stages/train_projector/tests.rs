use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::Input;
use super::super::perplexity::Perplexity;
use super::*;
use crate::models::checkpoint::Checkpoint;
use crate::npy::{self, Array};
use crate::social::material::Description;
use crate::social::packs::{GlobalMode, Local, PackedClip, Packs};

/// Four clips, their packs, and the reference language model.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new(global_mode: GlobalMode) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let made = |name: &str| {
            let path = world.folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let language = made("language");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixtures.join("gemma2_tiny").join(file), language.join(file)).unwrap();
        }
        std::fs::copy(fixtures.join("tokenizer.json"), language.join("tokenizer.json")).unwrap();
        let texts = ["She smiled.", "They walk to the door.", "A man nods.", "The dog ran around."];
        let mut lines = String::new();
        let mut clips = Vec::new();
        for (number, text) in texts.iter().enumerate() {
            let clip_id = format!("c{number}");
            lines += &format!("{}\n", json!({"clip_id": clip_id, "split": "train", "utterances": [{"text": text}]}));
            let locals = vec![Local { utterance: 0, word: 1, frames: vec![0], row: number }];
            clips.push(PackedClip { clip_id, split: None, group: None, locals });
        }
        std::fs::write(world.folder.path().join("text.jsonl"), lines).unwrap();
        let vectors = |name: &str| Array::new([4, 6], Streams::new(1, "test").named(name).normals(24, 1.0));
        let packs = Packs::new(clips, vectors("global"), vectors("local"), global_mode, true);
        packs.save(&made("packs")).unwrap();
        world
    }

    /// From now on the first two clips are in `train`, the third in `val`, the last in `test`.
    fn divide(self) -> Self {
        let splits = "clip_id,split\nc0,train\nc1,train\nc2,val\nc3,test\n";
        std::fs::write(self.folder.path().join("splits.csv"), splits).unwrap();
        self
    }

    /// Runs `perplexity` with a projector that was trained here; its figures and its `targets.csv`.
    fn score(&self, projector: &str, name: &str, settings: serde_json::Value) -> (Summary, Vec<Scored>) {
        let out = self.folder.path().join(name);
        std::fs::create_dir(&out).unwrap();
        let mut fields = json!({"text": "data:t", "packs": "data:p", "projector": "data:q", "split": "train"});
        fields.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        // What a plan would take over from the training.
        let trained: Description =
            serde_json::from_slice(&bytes(&self.folder.path().join(projector), "projector.json")).unwrap();
        let settings = trained.settings.as_object().unwrap().clone();
        let mut upstream = Upstream::default();
        upstream.stages.insert("projector".into(), ("train_projector", settings.into()));
        let mut config = serde_json::from_value(fields).unwrap();
        Perplexity::normalise(&mut config, &upstream);
        let summary = Perplexity::run(&config, &self.inputs(Some(projector)), &Context::plain(&out, "cpu")).unwrap();
        let mut table = csv::Reader::from_path(out.join("targets.csv")).unwrap();
        let row = |row: csv::StringRecord| {
            ([&row[0], &row[2], &row[3], &row[5], &row[7]].join(" "), row[8].parse::<f64>().unwrap())
        };
        (summary, table.records().map(|record| row(record.unwrap())).collect())
    }

    fn inputs(&self, projector: Option<&str>) -> Inputs {
        let mut inputs = Inputs::default();
        let fields = [("text", "text.jsonl"), ("packs", "packs"), ("language", "language")];
        let splits = self.folder.path().join("splits.csv").exists().then_some(("splits", "splits.csv"));
        let more = projector.map(|name| ("projector", name)).into_iter().chain(splits);
        for (field, name) in fields.into_iter().chain(more) {
            let path = self.folder.path().join(name);
            inputs.insert(field, Input { reference: format!("data:{name}"), path, digest: name.to_owned() });
        }
        inputs
    }

    fn config(&self, settings: serde_json::Value) -> Config {
        let mut fields = json!({"text": "data:text", "packs": "data:packs", "inject": "full", "batch": 2, "steps": 3,
                "lr": 1e-2, "warmup": 0.0});
        fields.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        serde_json::from_value(fields).unwrap()
    }

    fn train(&self, name: &str, settings: serde_json::Value) -> Result<(Summary, PathBuf)> {
        let out = self.folder.path().join(name);
        std::fs::create_dir(&out).unwrap();
        let summary = TrainProjector::run(&self.config(settings), &self.inputs(None), &Context::plain(&out, "cpu"))?;
        Ok((summary, out))
    }
}

/// What identifies a target, and its −ln p.
type Scored = (String, f64);

/// Sorted by target; the largest difference of −ln p, which must be of the same targets.
fn largest_difference(a: &[Scored], b: &[Scored]) -> f64 {
    let sorted = |scores: &[Scored]| {
        let mut scores = scores.to_vec();
        scores.sort_by(|a, b| a.0.cmp(&b.0));
        scores
    };
    let (a, b) = (sorted(a), sorted(b));
    assert!(!a.is_empty() && a.iter().map(|row| &row.0).eq(b.iter().map(|row| &row.0)), "other targets");
    a.iter().zip(&b).map(|(a, b)| (a.1 - b.1).abs()).fold(0.0, f64::max)
}

/// The largest difference of the first step's gradients, as a share of their largest value.
fn gradient_difference(a: &Path, b: &Path) -> f32 {
    let read = |folder: &Path| Checkpoint::open(&folder.join("gradients.safetensors")).unwrap();
    let (a, b) = (read(a), read(b));
    let (mut worst, mut largest) = (0f32, 0f32);
    for name in a.names() {
        let (a, b) = (a.floats(name).unwrap().0, b.floats(name).unwrap().0);
        worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        largest = a.iter().map(|a| a.abs()).fold(largest, f32::max);
    }
    assert!(largest > 0.0);
    worst / largest
}

fn lines(folder: &Path) -> Vec<serde_json::Value> {
    let text = String::from_utf8(bytes(folder, "metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bytes(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap()
}

#[test]
fn the_loss_falls_and_a_seed_fixes_every_byte() {
    for mode in [GlobalMode::ClipMean, GlobalMode::ProjectedLocals] {
        let world = World::new(mode);
        let (summary, first) = world.train("a", json!({"steps": 40})).unwrap();
        let loss = |name: &str| summary[name].as_f64().unwrap();
        assert!(loss("last_loss") < loss("first_loss") - 0.1, "{mode:?}: {summary:?}");
        let second = world.train("b", json!({"steps": 40})).unwrap().1;
        let other = world.train("c", json!({"steps": 40, "seed": 1})).unwrap().1;
        for file in ["projector.safetensors", "metrics.jsonl", "social_tokens.npz"] {
            assert_eq!(bytes(&first, file), bytes(&second, file), "{file}");
            assert_ne!(bytes(&first, file), bytes(&other, file), "{file}");
        }
        assert_eq!(String::from_utf8(bytes(&first, "metrics.jsonl")).unwrap().lines().count(), 40);
        let tokens = npy::read_npz::<f32>(&first.join("social_tokens.npz")).unwrap();
        assert_eq!(
            (tokens["global"].shape.as_slice(), tokens["local"].shape.as_slice()),
            ([4, 64].as_slice(), [4, 64].as_slice())
        );
    }
}

#[test]
fn constants_know_no_clip() {
    let world = World::new(GlobalMode::ClipMean);
    let means = world.train("mean", json!({"source": "mean"})).unwrap().1;
    let learned = world.train("constant", json!({"source": "constant"})).unwrap().1;
    let read = |folder: &Path| npy::read::<f32>(&folder.join("constants.npy")).unwrap();
    let packs = Packs::load(&world.folder.path().join("packs")).unwrap();
    assert_eq!(read(&means), Bank::means(&packs, &[0, 1, 2, 3]));
    assert_ne!(read(&means), read(&learned), "the constants of `constant` are trained");
    // With a constant per place they differ from each other once trained.
    let by_place = world.train("by_place", json!({"source": "constant_by_place"})).unwrap().1;
    assert_eq!(read(&by_place).shape, [2, 6], "no utterance has a second local token");
    with_a_second_local(&world);
    let by_place = world.train("two_places", json!({"source": "constant_by_place", "steps": 8})).unwrap().1;
    let constants = read(&by_place);
    assert_eq!(constants.shape, [3, 6]);
    assert_ne!(constants.row(1), constants.row(2), "each place is trained on its own");
    let tokens = npy::read_npz::<f32>(&by_place.join("social_tokens.npz")).unwrap();
    assert_eq!((tokens["global"].shape[0], tokens["local"].shape[0]), (1, 2));
    let both = |name: &str, pairing: &str| world.score("two_places", name, json!({"pairing": pairing})).1;
    assert_eq!(both("right", "right"), both("wrong", "wrong_clip"));
    // Whose vectors a clip gets makes no difference then, and it does with features.
    world.train("features", json!({})).unwrap();
    for (projector, same) in [("constant", true), ("features", false)] {
        let bits = ["right", "wrong_clip"].map(|pairing| {
            let out = world.folder.path().join(format!("{projector}-{pairing}"));
            std::fs::create_dir(&out).unwrap();
            let settings = json!({"text": "data:t", "packs": "data:p", "projector": "data:q", "split": "train",
                    "pairing": pairing});
            let config = serde_json::from_value(settings).unwrap();
            Perplexity::run(&config, &world.inputs(Some(projector)), &Context::plain(&out, "cpu")).unwrap();
            bytes(&out, "targets.csv")
        });
        assert_eq!(bits[0] == bits[1], same, "{projector}");
    }
}

/// The longest caption gets a second local token.
fn with_a_second_local(world: &World) {
    let folder = world.folder.path().join("packs");
    let packs = Packs::load(&folder).unwrap();
    let mut clips = packs.clips.clone();
    clips[1].locals.push(Local { utterance: 0, word: 3, frames: vec![0], row: 4 });
    let values = [packs.locals.values.clone(), vec![0.5; 6]].concat();
    Packs::new(clips, packs.global.clone(), Array::new([5, 6], values), GlobalMode::ClipMean, true)
        .save(&folder)
        .unwrap();
}

#[test]
fn words_without_a_part_of_speech_are_classed_by_the_tagger() {
    let world = World::new(GlobalMode::ClipMean);
    world.train("trained", json!({})).unwrap();
    let figures = world.score("trained", "tagged", json!({})).0;
    let figure = |name: &str| figures[name].as_f64().unwrap();
    assert_eq!(figure("pos_given_share"), 0.0, "{figures:?}");
    // One token of 31 stands between words.
    assert!((figure("share_text") - 1.0 / 31.0).abs() < 1e-9, "{figures:?}");
    assert!(figure("share_content") > 0.3 && figure("share_function") > 0.3, "{figures:?}");
    // What the text says wins.
    let word = |text: &str| json!({"text": text, "content": true});
    let line = json!({"clip_id": "c0", "split": "train", "utterances": [{"text": "She smiled.",
        "words": [word("She"), word("smiled.")]}]});
    std::fs::write(world.folder.path().join("text.jsonl"), line.to_string()).unwrap();
    let figures = world.score("trained", "given", json!({})).0;
    assert_eq!((&figures["pos_given_share"], &figures["share_content"]), (&json!(1.0), &json!(1.0)), "{figures:?}");
}

#[test]
fn wrong_clips_are_wrong_in_validation_too() {
    let world = World::new(GlobalMode::ClipMean);
    let splits = "clip_id,split\nc0,train\nc1,train\nc2,val\nc3,val\n";
    std::fs::write(world.folder.path().join("splits.csv"), splits).unwrap();
    let (summary, _) = world.train("shuffled", json!({"pairing": "wrong_clip", "validation": "val"})).unwrap();
    let measured = |name: &str, pairing: &str| {
        let settings = json!({"split": "val", "pairing": pairing});
        world.score("shuffled", name, settings).0["perplexity"].as_f64().unwrap().ln()
    };
    let loss = summary["validation_loss"].as_f64().unwrap();
    let (wrong, right) = (measured("wrong", "wrong_clip"), measured("right", "right"));
    assert!((loss - wrong).abs() < 1e-6 && (loss - right).abs() > 1e-4, "{loss}: {wrong}, {right}");
}

#[test]
fn settings_of_norms_stay_where_there_are_such_norms() {
    let world = World::new(GlobalMode::ClipMean);
    let normal = |layers: &str| {
        let mut config = world.config(json!({"layers": layers, "norm_epsilon": 1e-5, "norm_clamp": 10.0}));
        TrainProjector::normalise(&mut config, &Upstream::default());
        (config.norm_epsilon, config.norm_clamp)
    };
    assert_eq!(normal("original"), (1e-5, 10.0));
    assert_eq!(normal("linear"), (1e-5, 10.0), "one matrix between two ScaleShifts");
    assert_eq!(normal("layer_norm"), (1e-5, 0.0));
    assert_eq!(normal("mlp"), (1e-6, 0.0));
}

#[test]
fn one_pass_has_the_gradient_and_the_probabilities_of_single_samples() {
    let world = World::new(GlobalMode::ClipMean);
    for inject in ["global", "local", "full"] {
        let train = |name: &str, one_pass: bool| {
            let settings = json!({"inject": inject, "samples": "next_word", "one_pass": one_pass, "steps": 1, "batch": 64,
                "dropout": 0.0, "write_gradients": true, "label_eos": true});
            world.train(&format!("{inject}-{name}"), settings).unwrap()
        };
        let (single, one_by_one) = train("single", false);
        let (together, at_once) = train("together", true);
        for figure in ["samples", "samples_without_tokens"] {
            assert_eq!(single[figure], together[figure], "{inject} {figure}");
        }
        let loss = |summary: &Summary| summary["first_loss"].as_f64().unwrap();
        assert!((loss(&single) - loss(&together)).abs() < 1e-5, "{inject}");
        let worst = gradient_difference(&one_by_one, &at_once);
        assert!(worst < 1e-5, "{inject}: gradients differ by {worst:.1e} of the largest");
        let projector = format!("{inject}-single");
        let (figures, expanded) = world.score(&projector, &format!("{inject}-a"), json!({"one_pass": false}));
        let (same, read_once) = world.score(&projector, &format!("{inject}-b"), json!({}));
        let worst = largest_difference(&expanded, &read_once);
        assert!(worst < 1e-5, "{inject}: −ln p differ by {worst:.1e}");
        for figure in ["samples", "targets", "targets_digest", "bytes"] {
            assert_eq!(figures[figure], same[figure], "{inject} {figure}");
        }
    }
}

#[test]
fn neither_batch_nor_padding_nor_a_second_pass_changes_a_probability() {
    let world = World::new(GlobalMode::ClipMean);
    world.train("trained", json!({"samples": "next_word", "dropout": 0.5})).unwrap();
    let score = |name: &str, batch: usize| world.score("trained", name, json!({"batch": batch, "one_pass": false})).1;
    let alone = score("one", 1);
    for batch in [4, 7] {
        let worst = largest_difference(&alone, &score(&format!("batch-{batch}"), batch));
        assert!(worst < 1e-5, "batch {batch}: −ln p differ by {worst:.1e}");
    }
    // The projector was trained with dropout; scoring has none, so that two passes are the same to the bit.
    assert_eq!(alone, score("again", 1));
    // The same targets in every arm, zeroed places or not.
    let digests: std::collections::BTreeSet<String> = ["none", "global", "local", "full"]
        .into_iter()
        .flat_map(|inject| ["removed", "zeroed"].map(|disabled| (inject, disabled)))
        .map(|(inject, disabled)| {
            let settings = json!({"inject": inject, "disabled": disabled});
            world.score("trained", &format!("{inject}-{disabled}"), settings).0["targets_digest"].to_string()
        })
        .collect();
    assert_eq!(digests.len(), 1);
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    let world = World::new(GlobalMode::ProjectedLocals);
    let train = |name: &str, batch: usize, accumulate: usize| {
        let settings = json!({"batch": batch, "accumulate": accumulate, "dropout": 0.0, "write_gradients": true});
        world.train(name, settings).unwrap()
    };
    let (one, large) = train("large", 4, 1);
    let (two, parts) = train("parts", 1, 4);
    let loss = |summary: &Summary| summary["last_loss"].as_f64().unwrap();
    assert!((loss(&one) - loss(&two)).abs() < 1e-5);
    let worst = gradient_difference(&large, &parts);
    assert!(worst < 1e-5, "gradients differ by {worst:.1e} of the largest");
    assert_eq!(lines(&large).len(), lines(&parts).len());
}

#[test]
fn warm_up_begins_at_zero_and_has_the_published_tenth() {
    let world = World::new(GlobalMode::ClipMean);
    let settings = json!({"steps": 11, "lr": 1e-4, "warmup_steps": 100});
    let rates: Vec<f64> =
        lines(&world.train("rates", settings).unwrap().1).iter().map(|line| line["lr"].as_f64().unwrap()).collect();
    assert_eq!(rates[0], 0.0);
    assert!((rates[10] - 1e-5).abs() < 1e-18, "{rates:?}");
}

#[test]
fn the_best_weights_by_validation_are_kept_and_training_stops_when_it_no_longer_helps() {
    let world = World::new(GlobalMode::ClipMean).divide();
    for source in ["features", "constant"] {
        let settings = json!({"source": source, "validation": "val", "checkpoint": "best", "patience": 3, "steps": 0,
            "epochs": 60, "lr": 3e-2, "original_metrics": true});
        let (summary, folder) = world.train(source, settings).unwrap();
        assert_eq!(summary["stopped_early"], true, "{source}: {summary:?}");
        let losses: Vec<(u64, f64)> = lines(&folder)
            .iter()
            .filter_map(|line| Some((line["step"].as_u64()? + 1, line["validation_loss"].as_f64()?)))
            .collect();
        let best = losses.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        assert_eq!(summary["validation_loss"], best.1);
        assert_eq!(summary["kept_step"], best.0);
        let steps = summary["steps"].as_u64().unwrap();
        assert_eq!((steps, losses.len() as u64), (best.0 + 3, best.0 + 3), "one step per epoch, three of patience");
        // What is kept has the loss that was measured, and the last weights have another.
        let scored = world.score(source, &format!("{source}-val"), json!({"split": "val"})).0;
        let measured = scored["perplexity"].as_f64().unwrap().ln();
        assert!((measured - best.1).abs() < 1e-6, "{source}: {measured} and {}", best.1);
        let csv = String::from_utf8(bytes(&folder, "metrics.csv")).unwrap();
        let header = "split,epoch,step,loss,ppl,tokens,tok_per_s,dt_s,lr_proj,lr_dino,gpu_mem_mb,g_has,l_has,\
            ablation_mode,val_ppl_vis,val_ppl_no_vis,test_ppl_vis,test_ppl_no_vis";
        let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(csv.lines().next(), Some(header));
        assert_eq!(rows.len() as u64, 1 + 3 * steps, "a step, its epoch and its validation");
        assert_eq!(
            (rows[1][..3].join(","), rows[2][..3].join(","), rows[3][..3].join(",")),
            ("train,0,1".to_owned(), "train,0,-1".to_owned(), "val,0,-1".to_owned())
        );
        assert_eq!((rows[1][11], rows[1][12], rows[1][13]), ("2", "2", "both"));
        let perplexity: f64 = rows[3][14].parse().unwrap();
        assert!((perplexity.ln() - losses[0].1).abs() < 1e-9);
    }
    let error = |name: &str, settings| world.train(name, settings).unwrap_err().to_string();
    assert!(error("impatient", json!({"patience": 2})).contains("set `validation`"));
    assert!(error("best of none", json!({"checkpoint": "best"})).contains("set `validation`"));
    for (validation, kept) in [(None, Keep::Last), (Some("val"), Keep::Best)] {
        let mut config = world.config(json!({"checkpoint": "best_or_last", "validation": validation}));
        TrainProjector::normalise(&mut config, &Upstream::default());
        assert_eq!(config.checkpoint, kept);
    }
    assert!(error("both", json!({"validation": "all"})).contains("2 clips of the validation split `all`"));
}

#[test]
fn half_precision_trains_the_same_projector_nearly() {
    let world = World::new(GlobalMode::ClipMean);
    let loss = |summary: &Summary| summary["first_loss"].as_f64().unwrap();
    let exact = loss(&world.train("f32", json!({"dropout": 0.0})).unwrap().0);
    let half = loss(&world.train("bf16", json!({"dropout": 0.0, "precision": "bf16"})).unwrap().0);
    assert!(half != exact && (half - exact).abs() < 0.05, "{half} and {exact}");
    let weights = Checkpoint::open(&world.folder.path().join("bf16/projector.safetensors")).unwrap();
    assert!(
        weights.floats("net.1.weight").unwrap().0.iter().any(|w| w.to_bits() & 0xffff != 0),
        "the projector is f32"
    );
}

#[test]
fn what_cannot_be_trained_says_why() {
    let world = World::new(GlobalMode::ClipMean);
    let error = |name: &str, settings| world.train(name, settings).unwrap_err().to_string();
    assert!(error("none", json!({"inject": "none"})).contains("nothing to train"));
    let message = error("diverged", json!({"lr": 1e38, "clip": 0.0}));
    assert!(message.contains("not finite in step") && message.contains("clip `c"), "{message}");
    assert!(error("empty", json!({"split": "test"})).contains("`train` (4)"));
    let packs = Packs::load(&world.folder.path().join("packs")).unwrap();
    let with = |locals: &dyn Fn(usize) -> Vec<Local>, values: Array<f32>| {
        let clips = packs.clips.iter().enumerate();
        let clips = clips.map(|(row, clip)| PackedClip { locals: locals(row), ..clip.clone() }).collect();
        let changed = Packs::new(clips, packs.global.clone(), values, GlobalMode::ClipMean, true);
        changed.save(&world.folder.path().join("packs")).unwrap();
    };
    // Of a caption that is not read, and none at all.
    with(&|row| vec![Local { utterance: 1, word: 0, frames: vec![0], row }], packs.locals.clone());
    for (name, steps) in [("elsewhere", 3), ("elsewhere-epochs", 0)] {
        let message = error(name, json!({"inject": "local", "steps": steps}));
        assert!(message.contains("none of 4 samples"), "{message}");
    }
    with(&|_| Vec::new(), Array::new([0, 6], Vec::new()));
    let message = error("nowhere", json!({"inject": "local"}));
    assert!(message.contains("no word of the packs") && message.contains("`pos_set`"), "{message}");
}

#[test]
fn constants_by_place_without_local_tokens_are_plain_constants() {
    let source = |inject: &str| {
        let settings =
            json!({ "text": "stage:t", "packs": "stage:p", "source": "constant_by_place", "inject": inject });
        let mut config: Config = serde_json::from_value(settings).unwrap();
        TrainProjector::normalise(&mut config, &Upstream::default());
        config.source
    };
    assert_eq!(source("global"), Source::Constant);
    assert_eq!((source("local"), source("full")), (Source::ConstantByPlace, Source::ConstantByPlace));
}
