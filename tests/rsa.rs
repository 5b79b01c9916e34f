//! `rsa` and `odd_one_out` as stages, and the comparison `rsa` over their artifacts, on vectors and judgments whose
//! answers are known; and that comparisons of every kind write the figures that they declare. Through the library;
//! `tests/pipeline.rs` drives the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use soctok::comparisons::{self, Arm, Row};
use soctok::npy::{self, Array};
use soctok::social::judgments::Judgments;
use soctok::stages::{self, Context, Input, Inputs, StageError, Summary, Upstream};
use soctok::stats::random::Streams;
use soctok::stats::ranks::{rho_a, spearman};
use soctok::stats::rsm::{Similarity, matrix, upper_triangle};
use soctok::stats::triplets::Repeats;

const CLIPS: usize = 30;

/// Embeddings of clips `c00`, `c01`, … with three layers: `0` says nothing of the latents, `1` a little, `last` much.
struct World {
    folder: tempfile::TempDir,
    latents: Vec<Vec<f64>>,
}

fn name(clip: usize) -> String {
    format!("c{clip:02}")
}

impl World {
    fn new() -> Self {
        let mut stream = Streams::new(0, "test").named("latents");
        let latents = (0..CLIPS).map(|_| (0..6).map(|_| stream.normal()).collect()).collect();
        Self { folder: tempfile::tempdir().expect("a temporary folder"), latents }
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("makes the folder");
        path
    }

    /// Embeddings in which layer l is `shares[l]` of the latents and the rest noise of that seed.
    fn embed(&self, to: &str, seed: u64, shares: [f64; 3]) -> PathBuf {
        let path = self.path(to);
        let mut stream = Streams::new(seed, "test").named("noise");
        let layers = ["0", "layers.0.self_attn.v_proj", "last"];
        let arrays: Vec<(String, Array<f32>)> = layers
            .iter()
            .zip(shares)
            .map(|(layer, share)| {
                let values =
                    self.latents.iter().flatten().map(|x| (share * x + (1.0 - share) * stream.normal()) as f32);
                (format!("all.{layer}"), Array::new([CLIPS, 6], values.collect()))
            })
            .collect();
        npy::write_npz(&path.join("embeddings.npz"), arrays.iter().map(|(name, array)| (name.as_str(), array)))
            .expect("writes");
        let description = json!({ "inject": "none", "layers": layers, "hidden": 6, "pools": [
            { "pool": "all", "exclude_bos": false, "undefined": null },
            { "pool": "only_soc", "exclude_bos": false, "undefined": "there is no social token" }] });
        std::fs::write(path.join("embeddings.json"), description.to_string()).expect("writes");
        let lines: String = (0..CLIPS).map(|clip| name(clip) + "\n").collect();
        std::fs::write(path.join("clips.csv"), format!("clip_id\n{lines}")).expect("writes");
        path
    }

    /// Choices of 20 participants by the latents, with noise; one trial shows a clip twice, and nobody sees the first clip
    /// beside the five after it.
    fn judge(&self) -> PathBuf {
        let mut stream = Streams::new(1, "test").named("choices");
        let similarity = matrix(&self.latents, Similarity::Cosine).expect("no latent is 0");
        let mut text = String::from("participant,clip_1,clip_2,clip_3,odd_one\np0,c00,c00,c01,c01\n");
        for trial in 0..4000 {
            let shown = [0; 3].map(|_| stream.below(CLIPS));
            let apart = shown.contains(&0) && shown.iter().any(|clip| (1..6).contains(clip));
            if apart || shown[0] == shown[1] || shown[0] == shown[2] || shown[1] == shown[2] {
                continue;
            }
            let of = |odd: usize| similarity[shown[(odd + 1) % 3] * CLIPS + shown[(odd + 2) % 3]];
            let kept = [0, 1, 2].map(|odd| of(odd) + 0.5 * stream.normal());
            let odd = (0..3).fold(0, |best, odd| if kept[odd] > kept[best] { odd } else { best });
            let [a, b, c] = shown.map(name);
            text += &format!("p{},{a},{b},{c},{}\n", trial % 20, name(shown[odd]));
        }
        let path = self.path("human").join("triplets.csv");
        std::fs::write(&path, text).expect("writes");
        path
    }

    /// The cosines of the vectors of layer `last` as a CSV: the clips in another order, with a column of names.
    fn elsewhere(&self, embeddings: &Path) -> PathBuf {
        let rows = vectors(embeddings, (0..CLIPS).rev());
        let values = matrix(&rows, Similarity::Cosine).expect("no vector is 0");
        let mut text = (0..CLIPS).rev().map(|clip| format!(",{}", name(clip))).collect::<String>() + "\n";
        for (row, clip) in values.chunks(CLIPS).zip((0..CLIPS).rev()) {
            text += &(name(clip) + &row.iter().map(|value| format!(",{value}")).collect::<String>() + "\n");
        }
        let path = self.path("elsewhere").join("cosines.csv");
        std::fs::write(&path, text).expect("writes");
        path
    }

    fn run(
        &self,
        kind: &str,
        to: &str,
        settings: Value,
        inputs: &[(&str, &Path)],
    ) -> Result<(Summary, PathBuf), StageError> {
        let mut settings = settings.as_object().expect("a table").clone();
        let mut given = Inputs::default();
        for (field, path) in inputs {
            let reference = format!("data:{field}");
            settings.insert((*field).to_owned(), reference.clone().into());
            given.insert(*field, Input { reference, path: path.to_path_buf(), digest: String::new() });
        }
        let kind = stages::kinds().into_iter().find(|known| known.name == kind).expect("a kind");
        let settings = kind.normalise(&settings, &Upstream::default())?;
        let folder = self.path(to);
        Ok((kind.run(&settings, &given, &Context::plain(&folder, "cpu"))?, folder))
    }

    fn rsa(&self, to: &str, settings: Value, embeddings: &Path) -> Result<(Summary, PathBuf), StageError> {
        let human = self.folder.path().join("human/triplets.csv");
        self.run("rsa", to, settings, &[("embeddings", embeddings), ("human", &human)])
    }
}

/// Vectors of layer `last` of these clips.
fn vectors(embeddings: &Path, clips: impl Iterator<Item = usize>) -> Vec<Vec<f64>> {
    let table = npy::read_npz_array::<f32>(&embeddings.join("embeddings.npz"), "all.last");
    let table = table.expect("reads").expect("is there");
    clips.map(|clip| table.row(clip).iter().map(|&x| f64::from(x)).collect()).collect()
}

fn few(mut settings: Value) -> Value {
    for (field, value) in [("permutations", 200), ("replicates", 200), ("cv_draws", 50), ("ceiling_splits", 3)] {
        settings[field] = value.into();
    }
    settings
}

fn number(summary: &Summary, name: &str) -> f64 {
    summary[name].as_f64().unwrap_or_else(|| panic!("`{name}` is {}", summary[name]))
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("reads")).expect("is JSON")
}

#[test]
fn the_curve_the_fixed_layer_the_chosen_one_and_the_best() {
    let world = World::new();
    world.judge();
    let embeddings = world.embed("embeddings", 2, [0.0, 0.5, 0.9]);
    let (summary, folder) = world.rsa("rsa", few(json!({ "layer": "Linear-6-3" })), &embeddings).expect("runs");
    let results = json_of(&folder.join("rsa.json"));
    assert_eq!(results["fixed"], "layers.0.self_attn.v_proj", "the original's label names a module");
    // What the file says is what the matrices give.
    let human = csv::ReaderBuilder::new().from_path(folder.join("human.csv"));
    let mut human = human.expect("reads");
    let header: Vec<String> = human.headers().expect("has one").iter().map(str::to_owned).collect();
    assert_eq!((header.len(), header[0].as_str()), (CLIPS, "c00"), "no column of names");
    let human: Vec<Vec<Option<f64>>> =
        human.records().map(|row| row.expect("reads").iter().map(|cell| cell.parse().ok()).collect()).collect();
    let model = matrix(&vectors(&embeddings, 0..CLIPS), Similarity::Cosine).expect("no vector is 0");
    let (ours, theirs): (Vec<f64>, Vec<f64>) =
        upper_triangle(CLIPS).filter_map(|(i, j)| Some((model[i * CLIPS + j], human[i][j]?))).unzip();
    let last = &results["layers"][2];
    assert!((last["spearman"].as_f64().expect("a score") - spearman(&ours, &theirs).expect("varies").0).abs() < 1e-12);
    assert!((last["rho_a"].as_f64().expect("a score") - rho_a(&ours, &theirs).expect("long enough")).abs() < 1e-12);
    assert_eq!(number(&summary, "pairs") as usize + number(&summary, "unobserved") as usize, CLIPS * (CLIPS - 1) / 2);
    // The layer that knows most is the best and is chosen in every fold; the one that knows nothing is not significant.
    assert_eq!((&summary["max_layer"], &summary["cv_layers"]), (&json!("last"), &json!("last last last last last")));
    assert!(number(&summary, "max_p_value") < 0.01 && number(&summary, "cv_p_value") < 0.03);
    assert!(results["layers"][0]["p_value"].as_f64().expect("a p") > 0.05);
    assert!(results["layers"][0]["p_of_all"].as_f64() >= results["layers"][0]["p_value"].as_f64());
    assert_eq!(results["maximum"]["selected_on_tested_data"], true);
    let [low, score, high] = ["low", "spearman", "high"].map(|name| number(&summary, name));
    assert!(low < score && score < high && score < number(&summary, "max_spearman"), "{low} {score} {high}");
    assert!(number(&summary, "ceiling") > number(&summary, "max_spearman") - 0.1 && number(&summary, "ceiling") < 1.0);
    assert_eq!((number(&summary, "repeated_trials"), number(&summary, "layers")), (1.0, 3.0));
    assert_eq!(std::fs::read_to_string(folder.join("layers.csv")).expect("reads").lines().count(), 4);
    let again = world.rsa("again", few(json!({ "layer": "Linear-6-3" })), &embeddings).expect("runs").0;
    assert_eq!(again, summary, "the same settings give the same figures");
}

#[test]
fn what_is_held_out_is_scored_by_the_layer_that_is_best_without_it() {
    let world = World::new();
    let human = world.judge();
    let embeddings = world.embed("embeddings", 2, [0.0, 0.5, 0.9]);
    let splits = world.path("splits").join("clips.csv");
    let lines: String =
        (0..CLIPS).map(|clip| format!("{},{}\n", name(clip), if clip < 22 { "train" } else { "test" })).collect();
    std::fs::write(&splits, format!("clip_id,split\n{lines}")).expect("writes");
    let inputs = [("embeddings", embeddings.as_path()), ("human", &human), ("splits", &splits)];
    let settings = few(json!({ "held_out": "test" }));
    let (summary, folder) = world.run("rsa", "rsa", settings, &inputs).expect("runs");
    assert_eq!((number(&summary, "clips"), number(&summary, "test_clips")), (22.0, 8.0));
    assert_eq!(summary["test_layer"], "last");
    assert!(number(&summary, "test_spearman") > 0.3 && number(&summary, "test_p_value") < 0.05);
    assert_eq!(json_of(&folder.join("rsa.json"))["held_out"]["split"], "test");
    let error = world.run("rsa", "none", few(json!({ "held_out": "val" })), &inputs).expect_err("no such split");
    assert!(error.to_string().contains("split `val` has 0 judged clips"), "{error}");
}

#[test]
fn settings_that_cannot_be_say_so() {
    let world = World::new();
    world.judge();
    let embeddings = world.embed("embeddings", 2, [0.0, 0.5, 0.9]);
    let error = |settings: Value| world.rsa("none", few(settings), &embeddings).expect_err("cannot be").to_string();
    assert!(error(json!({ "layer": "7" })).contains("no layer `7`"));
    assert!(error(json!({ "pool": "only_soc" })).contains("there is no social token"));
    assert!(error(json!({ "exclude_bos": true })).contains("`all_without_bos` was not embedded"));
    let matrix = world.path("matrix").join("rsm.csv");
    std::fs::write(&matrix, "c00,c01,c02,c03\n1,.1,.2,.3\n.1,1,.4,.5\n.2,.4,1,.6\n.3,.5,.6,1\n").expect("writes");
    let inputs = [("embeddings", embeddings.as_path()), ("human", &matrix)];
    let weighted = world.run("rsa", "none", few(json!({ "weight": "judgments" })), &inputs);
    assert!(weighted.expect_err("a matrix has no counts").to_string().contains("how often each pair"));
    let choices = world.run("odd_one_out", "none", json!({}), &inputs).expect_err("a matrix has no trials");
    assert!(choices.to_string().contains("trial by trial"), "{choices}");
    // Four clips make no five folds: that figure is missing, with the reason, and the others are there.
    let (summary, folder) = world.run("rsa", "small", few(json!({})), &inputs).expect("runs");
    assert!(summary["cv_spearman"].is_null() && summary["ceiling"].is_null() && summary["spearman"].is_number());
    let why = json_of(&folder.join("rsa.json"))["not_cross_validated"].clone();
    assert!(why.as_str().expect("a reason").contains("too few for 5 folds"), "{why}");
}

#[test]
fn counts_can_weigh_pairs_and_gaps_can_be_zeros() {
    let world = World::new();
    world.judge();
    let embeddings = world.embed("embeddings", 2, [0.0, 0.5, 0.9]);
    let score =
        |to: &str, settings: Value| number(&world.rsa(to, few(settings), &embeddings).expect("runs").0, "spearman");
    let plain = score("plain", json!({}));
    let weighted = score("weighted", json!({ "weight": "judgments" }));
    assert!((plain - weighted).abs() > 1e-6 && (plain - weighted).abs() < 0.1, "{plain} {weighted}");
    let pairs = |settings| number(&world.rsa("zeros", few(settings), &embeddings).expect("runs").0, "pairs");
    assert_eq!((pairs(json!({})), pairs(json!({ "unobserved": "zero" }))), (430.0, 435.0));
}

fn compare(world: &World, of: &str, settings: Value, arms: &[Arm]) -> Result<Vec<Row>, StageError> {
    let kind = comparisons::kinds().into_iter().find(|kind| kind.name == "rsa").expect("a kind");
    let mut settings = settings;
    for (field, value) in [("permutations", 400), ("replicates", 400), ("cv_draws", 100)] {
        settings[field] = value.into();
    }
    let context_folder = world.path("comparison");
    kind.run(settings.as_object().expect("a table"), of, arms, &Context::plain(&context_folder, "cpu"))
}

#[test]
fn conditions_are_compared_on_shared_permutations_and_draws() {
    let world = World::new();
    world.judge();
    let mut arms = Vec::new();
    for (inject, share) in [("none", 0.4), ("global", 0.8)] {
        for seed in ["0", "1"] {
            // The two seeds of `none` share a step, as stages that a seed does not enter do.
            let noise = if inject == "none" { 5 } else { 6 + seed.len() as u64 + u64::from(seed == "1") };
            let embeddings = world.embed(&format!("e {inject} {seed}"), noise, [0.0, 0.1, share]);
            let artifact = match arms.iter().find(|_| inject == "none" && seed == "1") {
                Some(Arm { artifact, .. }) => artifact.clone(),
                None => world.rsa(&format!("r {inject} {seed}"), few(json!({})), &embeddings).expect("runs").1,
            };
            let coordinates = [("inject", inject), ("seed", seed), ("ablation", "base")];
            let coordinates: BTreeMap<String, String> =
                coordinates.iter().map(|(axis, label)| ((*axis).to_owned(), (*label).to_owned())).collect();
            arms.push(Arm { coordinates, artifact });
        }
    }
    let figure = |row: &Row, name: &str| row.figures[name].as_f64().unwrap_or_else(|| panic!("`{name}` of {row:?}"));
    for of in ["spearman", "cv_spearman", "max_rho_a", "kendall_tau_a"] {
        let rows = compare(&world, of, json!({}), &arms).expect("compares");
        let [global, none] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((figure(global, "seeds"), figure(none, "seeds")), (2.0, 1.0));
        assert!(figure(global, "score") > figure(none, "score") && figure(global, "p_value") < 0.02, "{of}: {rows:?}");
        assert!(rows.iter().all(|row| figure(row, "p_adjusted") >= figure(row, "p_value")));
        assert!(rows.iter().all(|row| figure(row, "p_of_all") >= figure(row, "p_value")));
        assert!(rows.iter().all(|row| figure(row, "ceiling") > 0.5 && row.coordinates.len() == 2));
        let sides = json!({ "minuend": { "inject": "global" }, "subtrahend": { "inject": "none" } });
        let rows = compare(&world, of, sides, &arms).expect("compares");
        let [row] = &rows[..] else { panic!("{rows:?}") };
        let difference = figure(global, "score") - figure(none, "score");
        assert!((figure(row, "difference") - difference).abs() < 1e-12, "{of}: {row:?}");
        assert!(figure(row, "low") < difference && difference < figure(row, "high"));
        assert!(figure(row, "p_value") < 0.05 && figure(row, "seeds") == 2.0, "{of}: {row:?}");
    }
    // A condition differs from itself by nothing in every draw.
    let same =
        json!({ "minuend": { "inject": "global", "seed": "0" }, "subtrahend": { "inject": "global", "seed": "0" } });
    let rows = compare(&world, "spearman", same, &arms).expect("compares");
    assert_eq!(["difference", "low", "high", "p_value"].map(|name| figure(&rows[0], name)), [0.0, 0.0, 0.0, 1.0]);
    let error = |of: &str, settings: Value| compare(&world, of, settings, &arms).expect_err("cannot be").to_string();
    assert!(error("pearson", json!({})).contains("no score that can be compared"));
    assert!(error("spearman", json!({ "layer": "9" })).contains("has no layer `9`"));
    assert!(error("spearman", json!({ "minuend": { "inject": "none" } })).contains("is missing"));
    assert!(error("cv_spearman", json!({ "folds": 20 })).contains("too few for 20 folds"));
    // Other judgments are another question.
    let embeddings = world.embed("other", 9, [0.0, 0.1, 0.5]);
    let settings = few(json!({ "unobserved": "zero", "layers": ["last"] }));
    arms[2].artifact = world.rsa("zeros", settings, &embeddings).expect("runs").1;
    let sides = json!({ "minuend": { "inject": "global" }, "subtrahend": { "inject": "none" } });
    let error = compare(&world, "spearman", sides, &arms).expect_err("other judgments").to_string();
    assert!(error.contains("other judgments"), "{error}");
}

/// Scores of ten clips of two words that are `bits` each; with the tokens of wrong clips if `wrong`.
fn scored(world: &World, to: &str, bits: f64, wrong: bool) -> PathBuf {
    let folder = world.path(to);
    let header = "clip_id,group,utterance,target,word,token,piece,class,nll\n";
    let line = |clip: usize, word: usize| {
        let nll = (bits + 0.1 * ((clip + word) % 3) as f64) * std::f64::consts::LN_2;
        format!("{},g{clip},0,{word},{word},7,x,content,{nll}\n", name(clip))
    };
    let lines: String = (0..20).map(|place| line(place / 2, place % 2)).collect();
    std::fs::write(folder.join("targets.csv"), format!("{header}{lines}")).expect("writes");
    if wrong {
        std::fs::write(folder.join("pairing.csv"), "clip_id,vectors_of\nc00,c01\n").expect("writes");
    }
    folder
}

/// What is compared, and settings that together make a kind write all that it can.
fn everything(world: &World, kind: &str) -> (&'static str, Vec<Value>, Vec<Arm>) {
    let mut arms = Vec::new();
    let mut add = |inject: &str, seed: &str, ablation: &str, artifact: PathBuf| {
        let coordinates = [("inject", inject), ("seed", seed), ("ablation", ablation)];
        let coordinates = coordinates.iter().map(|(axis, label)| ((*axis).to_owned(), (*label).to_owned())).collect();
        arms.push(Arm { coordinates, artifact });
    };
    match kind {
        "scores" => {
            for (seed, more) in [("0", 0.0), ("1", 0.05)] {
                add("none", seed, "base", scored(world, &format!("none {seed}"), 3.0, false));
                for (ablation, bits) in [("base", 1.0 + more), ("constant", 2.0), ("wrong", 9.0)] {
                    let artifact = scored(world, &format!("{ablation} {seed}"), bits, ablation == "wrong");
                    add("full", seed, ablation, artifact);
                }
            }
            let information = json!({ "asks": "information", "minuend": { "ablation": "constant" },
                "subtrahend": { "inject": "full", "ablation": "base" }, "beside": { "inject": "none" },
                "wrong": { "ablation": "wrong" }, "margin": 0.1, "replicates": 100, "pair_by": ["seed"] });
            let dependence = json!({ "asks": "dependence", "minuend": { "ablation": "wrong" }, "replicates": 100,
                "subtrahend": { "inject": "full", "ablation": "base" }, "pair_by": ["seed"] });
            ("nll", vec![information, dependence], arms)
        }
        "rsa" => {
            world.judge();
            for (inject, share) in [("none", 0.4), ("full", 0.8)] {
                for (seed, noise) in [("0", 6), ("1", 7)] {
                    let embeddings = world.embed(&format!("e {inject} {seed}"), noise, [0.0, 0.1, share]);
                    let rsa = world.rsa(&format!("r {inject} {seed}"), few(json!({})), &embeddings).expect("runs");
                    add(inject, seed, "base", rsa.1);
                }
            }
            let differences = json!({ "minuend": { "inject": "full" }, "subtrahend": { "inject": "none" } });
            ("spearman", vec![few_draws(json!({})), few_draws(differences)], arms)
        }
        other => panic!("comparisons of kind `{other}` declare figures: make one here that writes them all"),
    }
}

fn few_draws(mut settings: Value) -> Value {
    for (field, value) in [("permutations", 100), ("replicates", 100), ("cv_draws", 100)] {
        settings[field] = value.into();
    }
    settings
}

/// Files that name a figure which is not declared are refused before anything runs, and a declared one that is never
/// written would be found missing after everything has.
#[test]
fn the_figures_that_comparisons_declare_are_those_that_they_write() {
    for kind in comparisons::kinds() {
        let world = World::new();
        let (column, settings, arms) = everything(&world, kind.name);
        let context = Context::plain(&world.path("comparison"), "cpu");
        let mut written = BTreeSet::new();
        for settings in settings {
            let settings = settings.as_object().expect("a table");
            let rows = kind.run(settings, column, &arms, &context).expect("compares");
            let told = kind.rows(settings, &arms).expect("is known before");
            assert_eq!(rows.iter().map(|row| row.coordinates.clone()).collect::<Vec<_>>(), told);
            for row in rows {
                written.extend(row.figures.into_iter().map(|(name, _)| name));
            }
        }
        let declared: BTreeSet<String> = kind.figures.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(declared.len(), kind.figures.len(), "`{}` declares one twice", kind.name);
        assert_eq!(written, declared, "figures of comparisons of kind `{}`", kind.name);
    }
}

#[test]
fn choices_are_made_by_the_most_similar_pair() {
    let world = World::new();
    let human = world.judge();
    let embeddings = world.embed("embeddings", 2, [0.0, 0.5, 1.0]);
    let inputs = [("embeddings", embeddings.as_path()), ("human", &human)];
    let settings = json!({ "replicates": 200 });
    let (summary, folder) = world.run("odd_one_out", "choices", settings, &inputs).expect("runs");
    let layers = json_of(&folder.join("odd_one_out.json"))["layers"].clone();
    let accuracy = |layer: usize, way: &str| layers[layer][way]["accuracy"].as_f64().expect("a share");
    // The latents themselves choose as people do up to their noise; noise alone is at chance.
    assert!((accuracy(0, "three_way") - 1.0 / 3.0).abs() < 0.1 && (accuracy(0, "two_way") - 0.5).abs() < 0.1);
    assert!(accuracy(2, "three_way") > 0.6 && accuracy(2, "two_way") > accuracy(2, "three_way"));
    assert_eq!(number(&summary, "accuracy"), accuracy(2, "three_way"));
    assert!(
        number(&summary, "low") < number(&summary, "accuracy")
            && number(&summary, "accuracy") < number(&summary, "high")
    );
    assert_eq!((number(&summary, "repeated_trials"), number(&summary, "two_way_chance")), (1.0, 0.5));
    assert!(number(&summary, "agreement") > 0.4);
}

#[test]
fn choices_can_be_made_by_a_matrix_from_elsewhere() {
    let world = World::new();
    let human = world.judge();
    let embeddings = world.embed("embeddings", 2, [0.0, 0.5, 1.0]);
    let elsewhere = world.elsewhere(&embeddings);
    let inputs = [("embeddings", embeddings.as_path()), ("matrix", elsewhere.as_path()), ("human", human.as_path())];
    let choose = |to: &str, settings: Value, inputs: &[(&str, &Path)]| world.run("odd_one_out", to, settings, inputs);
    for labels in [json!({}), json!({ "labels": "permuted", "labels_seed": 3 })] {
        let mut settings = labels;
        settings["replicates"] = 200.into();
        let (of_vectors, vectors) = choose("vectors", settings.clone(), &[inputs[0], inputs[2]]).expect("runs");
        settings["layer"] = "7".into();
        let (of_matrix, folder) = choose("matrix", settings, &inputs[1..]).expect("a layer means nothing");
        assert_eq!(of_matrix, of_vectors);
        let layers = json_of(&folder.join("odd_one_out.json"))["layers"].clone();
        assert_eq!((layers.as_array().map(Vec::len), &layers[0]["layer"]), (Some(1), &json!("matrix")));
        let pairing = |folder: &Path| std::fs::read_to_string(folder.join("pairing.csv")).ok();
        assert_eq!(pairing(&folder), pairing(&vectors));
    }
    for (given, what) in [(&inputs[2..], "neither"), (&inputs[..], "both")] {
        let error = choose("none", json!({}), given).expect_err("cannot be").to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn permuted_labels_choose_by_the_vectors_of_the_clips_that_the_file_names() {
    let world = World::new();
    let human = world.judge();
    let embeddings = world.embed("embeddings", 2, [0.0, 0.5, 1.0]);
    let inputs = [("embeddings", embeddings.as_path()), ("human", human.as_path())];
    let accuracy = |to: &str, settings: Value| {
        let (summary, folder) = world.run("odd_one_out", to, settings, &inputs).expect("runs");
        (number(&summary, "accuracy"), folder)
    };
    let (own, folder) = accuracy("own", json!({ "replicates": 0 }));
    assert!(own > 0.6 && !folder.join("pairing.csv").exists());
    let (permuted, folder) = accuracy("permuted", json!({ "replicates": 0, "labels": "permuted" }));
    let sources: BTreeMap<String, String> =
        soctok::social::pairing::read(&folder).expect("reads").into_iter().collect();
    let mut used: Vec<&String> = sources.values().collect();
    used.sort_unstable();
    assert_eq!(used, sources.keys().collect::<Vec<_>>(), "every clip's vectors are used once");
    // Trial by trial, from the cosines themselves.
    let model = matrix(&vectors(&embeddings, 0..CLIPS), Similarity::Cosine).expect("no vector is 0");
    let place = |clip: &str| sources[clip][1..].parse::<usize>().expect("a number");
    let of = |a: &str, b: &str| model[place(a) * CLIPS + place(b)];
    let (mut trials, mut right) = (0, 0);
    for row in csv::Reader::from_path(&human).expect("reads").records() {
        let row = row.expect("reads");
        let [odd, shown @ ..] = [&row[4], &row[1], &row[2], &row[3]];
        let kept: Vec<&str> = shown.into_iter().filter(|&clip| clip != odd).collect();
        if let [first, second] = kept[..]
            && first != second
        {
            trials += 1;
            right += usize::from(of(first, second) > of(first, odd).max(of(second, odd)));
        }
    }
    assert!((permuted - right as f64 / trials as f64).abs() < 1e-12, "{permuted}, {right} of {trials}");
    assert!((permuted - 1.0 / 3.0).abs() < 0.15, "{permuted}");
    let other = accuracy("other", json!({ "replicates": 0, "labels": "permuted", "labels_seed": 1 })).0;
    assert_ne!(other, permuted);
}

/// The simulated world's perfect readers and viewers reach the ceilings that the simulation wrote, through the files and
/// the stage that every model's similarity can go through.
#[test]
fn full_and_text_knowledge_reach_their_ceilings() {
    let world = World::new();
    let settings = json!({ "train_clips": 1, "test_clips": 40, "judged_clips": 40, "judgments": 6000, "frames_per_phase": 1, "size": 28 });
    let (simulated, clips) = world.run("simulate_clips", "clips", settings, &[]).expect("runs");
    let inputs = [("matrix", clips.as_path()), ("human", clips.as_path())];
    for knowledge in ["full", "text"] {
        let settings = few(json!({ "matrix_file": format!("expected_{knowledge}.csv") }));
        let (summary, folder) = world.run("rsa", knowledge, settings, &inputs).expect("runs");
        let ceiling = format!("{knowledge}_ceiling");
        for (figure, ceiling) in [("spearman", ceiling.clone()), ("rho_a", format!("{ceiling}_rho_a"))] {
            let (found, written) = (number(&summary, figure), number(&simulated, &ceiling));
            assert!((found - written).abs() < 1e-9, "{knowledge}: {figure} {found}, ceiling {written}");
        }
        assert_eq!((&summary["max_layer"], number(&summary, "layers")), (&json!("matrix"), 1.0));
        assert_eq!(json_of(&folder.join("rsa.json"))["fixed"], "matrix");
    }
    // The property that no caption mentions is in full knowledge and not in that of captions.
    let p = |knowledge: &str| {
        let settings = json!({ "human_file": "background.csv", "matrix_file": format!("expected_{knowledge}.csv") });
        number(&world.run("rsa", "unsaid", few(settings), &inputs).expect("runs").0, "p_value")
    };
    let [full, text] = ["full", "text"].map(p);
    assert!(full < 0.01 && text > 0.01, "full {full}, text {text}");
}

#[test]
fn a_matrix_from_elsewhere_scores_as_the_vectors_that_it_was_made_of() {
    let world = World::new();
    let human = world.judge();
    let embeddings = world.embed("embeddings", 2, [0.0, 0.5, 0.9]);
    let (of_vectors, _) = world.rsa("vectors", few(json!({ "layers": ["last"] })), &embeddings).expect("runs");
    let path = world.elsewhere(&embeddings);
    let inputs = [("matrix", path.as_path()), ("human", human.as_path())];
    let (of_matrix, _) =
        world.run("rsa", "matrix", few(json!({ "layer": "7" })), &inputs).expect("a layer means nothing");
    for figure in ["spearman", "rho_a", "kendall_tau_a", "low", "high", "p_value", "cv_spearman", "ceiling", "pairs"] {
        assert_eq!(number(&of_matrix, figure), number(&of_vectors, figure), "{figure}");
    }
    let error = |text: &str, settings: Value| {
        std::fs::write(&path, text).expect("writes");
        world.run("rsa", "broken", few(settings), &inputs).expect_err("cannot be").to_string()
    };
    assert!(error("c00,c01\n1,.5\n.5,1\n", json!({})).contains("judged clip `c02` has no row in `matrix`"));
    let gap = error("c00,c01,c02\n1,.5,\n.5,1,.3\n,.3,1\n", json!({ "clips": "common" }));
    assert!(gap.contains("no similarity of `c00` and `c02`"), "{gap}");
    let both = [inputs[0], inputs[1], ("embeddings", embeddings.as_path())];
    for (given, what) in [(&both[1..2], "neither"), (&both[..], "both")] {
        let error = world.run("rsa", "none", json!({}), given).expect_err("cannot be").to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn permuted_labels_give_every_clip_the_vectors_of_the_one_that_the_file_names() {
    let world = World::new();
    world.judge();
    let embeddings = world.embed("embeddings", 2, [0.0, 0.5, 0.9]);
    let permuted = |to: &str, seed: u64| {
        let settings = few(json!({ "labels": "permuted", "labels_seed": seed }));
        world.rsa(to, settings, &embeddings).expect("runs")
    };
    let (own, folder) = world.rsa("own", few(json!({})), &embeddings).expect("runs");
    assert!(!folder.join("pairing.csv").exists() && number(&own, "spearman") > 0.3);
    let (summary, folder) = permuted("permuted", 0);
    let pairs = soctok::social::pairing::read(&folder).expect("reads");
    let mut sources: Vec<&str> = pairs.iter().map(|(_, source)| source.as_str()).collect();
    let human = Judgments::read(&folder.join("human.csv"), None, None, Repeats::LeaveOut).expect("reads");
    assert_eq!(pairs.iter().map(|(clip, _)| clip).collect::<Vec<_>>(), human.clips.iter().collect::<Vec<_>>());
    let rows = vectors(&embeddings, sources.iter().map(|source| source[1..].parse().expect("a number")));
    let model = matrix(&rows, Similarity::Cosine).expect("no vector is 0");
    let (ours, theirs): (Vec<f64>, Vec<f64>) =
        upper_triangle(CLIPS).filter_map(|(i, j)| Some((model[i * CLIPS + j], human.values[i * CLIPS + j]?))).unzip();
    let expected = spearman(&ours, &theirs).expect("varies").0;
    assert!((number(&summary, "spearman") - expected).abs() < 1e-12 && expected.abs() < 0.2, "{expected}");
    sources.sort_unstable();
    assert_eq!(sources, human.clips, "every clip's vectors are used once");
    assert_ne!(number(&permuted("other", 1).0, "spearman"), number(&summary, "spearman"));
    // Over many draws chance gives nothing.
    let scores: Vec<f64> = (0..20).map(|seed| number(&permuted("many", seed).0, "spearman")).collect();
    let mean = scores.iter().sum::<f64>() / 20.0;
    assert!(mean.abs() < 0.06, "{mean} {scores:?}");
}
