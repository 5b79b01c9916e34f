//! `logit_lens`, `attention` and `compare_embeddings` through the binary: they agree with what the model scores, and their
//! controls behave as controls.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Folder, text};

fn experiment(folder: &Folder) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = format!(
        r#"
name    = "looked"
extends = "{root}/experiments/quickstart.toml"
[models.language]
path = "{root}/assets/one-clause-language"
[stages.clips]
train_clips      = 120
test_clips       = 20
frames_per_phase = 1
judged_clips     = 0
[stages.projector]
steps = 20
[stages.lens]
kind      = "logit_lens"
text      = "stage:clips"
packs     = "stage:packs"
projector = "stage:projector"
tokens    = "all"
[stages.attention]
kind      = "attention"
text      = "stage:clips"
packs     = "stage:packs"
projector = "stage:projector"
grids     = 2
[stages.example]
kind      = "attention"
projector = "stage:projector"
frames    = "stage:clips"
features  = "stage:features"
examples  = [
  {{ text = "the red one bites the pink one at the door", frame = "frames.npy#3", pos = "DET ADJ NOUN VERB DET ADJ NOUN ADP DET NOUN" }},
]
[stages.own]
kind      = "embed"
text      = "stage:clips"
packs     = "stage:packs"
projector = "stage:projector"
[stages.bare]
kind   = "embed"
text   = "stage:clips"
inject = "none"
lead_in = ":"
[stages.compared]
kind   = "compare_embeddings"
first  = "stage:own"
second = "stage:bare"
pool   = "exclude_soc"
[axes.inject]
values = ["none", "global", "full"]
[ablations.wrong_clip]
where = {{ inject = "full" }}
[ablations.constant_token]
where = {{ inject = "full" }}
[ablations.text_oracle]
where = {{ inject = "full" }}
[tables.information]
where = {{ inject = "full" }}
[run]
device  = "cpu"
jobs    = 1
targets = ["lens", "attention", "example", "compared", "perplexity"]
"#,
        root = root.display()
    );
    folder.write("looked.toml", &text)
}

fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let header = reader.headers().expect("has a header").clone();
    let row = |row: csv::StringRecord| header.iter().map(str::to_owned).zip(row.iter().map(str::to_owned)).collect();
    reader.records().map(|record| row(record.expect("reads"))).collect()
}

/// The artifact and the figures of a stage in the run `inject=…`.
fn stage(folder: &Folder, inject: &str, name: &str) -> (PathBuf, Value) {
    let store = folder.path().join("soctok-store");
    let path = store.join("runs/by-name/looked").join(format!("inject={inject}")).join("results.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let results: Value = serde_json::from_slice(&text).expect("is JSON");
    let of = &results["stages"][name];
    (store.join(of["artifact"].as_str().expect("has an artifact")), of["figures"].clone())
}

fn number(row: &BTreeMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("`{}` in {column}", row[column]))
}

/// The lens of the last layer is the model: −ln p of every target as `perplexity` has it. Gives the lens's artifact.
fn the_last_layer_is_what_is_scored(folder: &Folder, inject: &str) -> PathBuf {
    let (lens, _) = stage(folder, inject, "lens");
    let (scores, _) = stage(folder, inject, "perplexity");
    let scored: BTreeMap<(String, String), f64> = rows(&scores.join("targets.csv"))
        .iter()
        .map(|row| ((row["clip_id"].clone(), row["target"].clone()), number(row, "nll")))
        .collect();
    let seen = rows(&lens.join("lens.csv"));
    let last: Vec<_> = seen.iter().filter(|row| row["layer"] == "last" && row["condition"] == "with").collect();
    assert_eq!(last.len(), scored.len());
    for row in last {
        let nll = scored[&(row["clip_id"].clone(), row["target"].clone())];
        assert!((number(row, "ce") - nll).abs() < 1e-4, "{} and not {nll}", row["ce"]);
        assert_eq!(number(row, "rank") == 1.0, number(row, "margin") > 0.0, "{row:?}");
    }
    lens
}

/// Tags, zeroed places and labels are taken over from the projector's training, norms and precision are as set.
#[test]
fn the_model_is_looked_into_as_it_was_trained() {
    let folder = Folder::new();
    experiment(&folder);
    let set = |what: &str| {
        let mut arguments = vec!["run", "looked.toml"];
        let trained = ["projector.tags=\"prompt\"", "projector.caption_tag=\": \"", "projector.disabled=\"zeroed\""];
        let targets = "run.targets=[\"lens\", \"attention\", \"perplexity\"]";
        for set in trained.into_iter().chain([targets]).chain(what.split_whitespace()) {
            arguments.extend(["--set", set]);
        }
        folder.ok(&arguments);
        the_last_layer_is_what_is_scored(&folder, "global");
        stage(&folder, "global", "attention")
    };
    let (attention, plain) = set("");
    let shares = rows(&attention.join("attention.csv"));
    assert!(shares.iter().any(|row| row["to"] == "zeroed" && row["condition"] == "own"), "the places of local tokens");
    let share = |figures: &Value| figures["to_soc_g"].as_f64().expect("a share");
    let (_, other) = set("lens.norm_epsilon=0.5 perplexity.norm_epsilon=0.5 attention.norm_epsilon=0.5");
    assert_ne!(share(&plain), share(&other), "norms are as set");
    let targets = "run.targets=[\"attention\", \"perplexity\"]";
    folder.ok(&["run", "looked.toml", "--set", targets, "--set", "attention.precision=\"bf16\""]);
    let (_, rounded) = stage(&folder, "full", "attention");
    folder.ok(&["run", "looked.toml", "--set", targets]);
    let (_, exact) = stage(&folder, "full", "attention");
    let apart = (share(&rounded) - share(&exact)).abs();
    assert!(apart > 0.0 && apart < 0.02, "bf16 is near f32 and not the same: {rounded} {exact}");
}

#[test]
fn what_is_looked_into_is_what_is_scored() {
    let folder = Folder::new();
    experiment(&folder);
    folder.ok(&["run", "looked.toml"]);

    for inject in ["global", "full"] {
        let lens = the_last_layer_is_what_is_scored(&folder, inject);
        // Without social tokens it is the same in both arms.
        let table = std::fs::read_to_string(lens.join("layerwise_ce.tsv")).expect("is written");
        assert_eq!(table.lines().next(), Some("layer\twith\twithout"));
        assert_eq!(table.lines().count(), 1 + 3, "two layers and what enters the first");
        for name in
            ["target_rank.tsv", "target_margin.tsv", "resid_contrib.tsv", "delta_true.tsv", "summary_lastlayer.tsv"]
        {
            assert!(lens.join(name).is_file(), "{name}");
        }
    }
    let without = |inject: &str| stage(&folder, inject, "lens").1["ce_without"].as_f64().expect("a number");
    assert_eq!(without("global"), without("full"));

    // With a global token every text position sees BOS, SOC-G and text, so the three shares make one.
    let (attention, figures) = stage(&folder, "global", "attention");
    let shares = rows(&attention.join("attention.csv"));
    for condition in ["own", "constant", "zero", "none"] {
        for (layer, head) in [("0", "0"), ("0", "3"), ("1", "2")] {
            let of = shares
                .iter()
                .filter(|row| row["condition"] == condition && row["layer"] == layer && row["head"] == head);
            let total: f64 = of.map(|row| number(row, "mean")).sum();
            assert!((total - 1.0).abs() < 1e-4, "{condition}, layer {layer}, head {head}: {total}");
        }
    }
    let figure = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("no `{name}` in {figures}"));
    assert_ne!(figure("to_soc_g"), figure("to_soc_g_constant"));
    assert_ne!(figure("to_soc_g_constant"), figure("to_soc_g_zero"));
    assert!(figures.get("to_soc_g_none").is_none() && figures.get("to_soc_l").is_none());
    let grid = rows(&attention.join("grid.csv"));
    let one = |condition: &str| {
        let of = grid.iter().filter(|row| row["sample"] == "0" && row["condition"] == condition && row["layer"] == "1");
        of.map(|row| number(row, "mean")).sum::<f64>()
    };
    assert!((one("own") - 1.0).abs() < 1e-4 && (one("none") - 1.0).abs() < 1e-4, "a query's weights make one");

    // A text and a frame of one's own.
    let (example, figures) = stage(&folder, "full", "example");
    assert_eq!(figures["samples"], 1);
    let pieces: Vec<String> = rows(&example.join("grid.csv"))
        .into_iter()
        .filter(|row| row["condition"] == "own" && row["layer"] == "0")
        .map(|row| row["kind"].clone())
        .collect();
    let locals = pieces.iter().filter(|kind| *kind == "soc_l").count();
    assert_eq!(locals, 4, "after one, bites, one and, because EOS is predicted as in training, door: {pieces:?}");
    assert_eq!(pieces[1], "soc_g");

    let (compared, figures) = stage(&folder, "full", "compared");
    assert!(figures["cosine"].as_f64() < Some(1.0) && figures["mean_change"].as_f64() > Some(0.0));
    assert_eq!(rows(&compared.join("items.csv")).len(), 140);

    // And each has its plots.
    let facts = folder.json(&["plot", "looked.toml", "-o", "plots"]);
    let names: Vec<&str> =
        facts["plots"].as_array().expect("a list").iter().map(|p| p["name"].as_str().expect("text")).collect();
    for name in [
        "lens-ce-lens",
        "lens-rank-lens",
        "lens-margin-lens",
        "attention-attention-inject-full",
        "grid-example-0-inject-full",
    ] {
        assert!(names.iter().any(|known| known.starts_with(name)), "no `{name}` among {names:?}");
    }
}

#[test]
fn an_example_that_cannot_be_looked_at_says_why() {
    let folder = Folder::new();
    experiment(&folder);
    let fails = |set: &str, words: &str| {
        let output = folder.soctok(&["run", "looked.toml", "--only", "example", "--set", set]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    };
    fails(r#"example.examples=[{text="the red one", frame="frames.npy#9999"}]"#, "names no frame `frames.npy#9999`");
    fails(r#"example.examples=[{text="the red one"}]"#, "example 1 has no frame");
    fails(r#"example.examples=[{text="the red one", pos="DET"}]"#, "3 words and 1 parts of speech");
}
