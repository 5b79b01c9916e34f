//! Quickstart, made smaller, through the real binary: what must hold of its figures, and that they are reproducible.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use support::Folder;

/// The committed file with fewer clips, fewer steps and two of its four inject modes.
fn reduced(folder: &Folder) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = format!(
        r#"
name    = "reduced"
extends = "{root}/experiments/quickstart.toml"
[models.language]
path = "{root}/assets/one-clause-language"
[stages.clips]
train_clips      = 640
test_clips       = 100
frames_per_phase = 1
judged_clips     = 0
[stages.projector]
steps = 80
[exclude.global]
where = {{ inject = "global" }}
[exclude.local]
where = {{ inject = "local" }}
[run]
jobs = 1
"#,
        root = root.display()
    );
    folder.write("reduced.toml", &text)
}

fn run(folder: &Folder, store: &str, more: &[&str]) -> i64 {
    let file = reduced(folder);
    let file = file.to_str().expect("a temporary path is text");
    let facts = folder.json(&[&["run", file, "--store", store, "--device", "cpu"], more].concat());
    facts["executed"].as_i64().expect("a count")
}

/// Every numeric output of a store's steps, by step and file.
fn outputs(store: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for step in std::fs::read_dir(store.join("steps")).expect("has steps") {
        let step = step.expect("reads").path();
        for file in std::fs::read_dir(&step).expect("reads") {
            let file = file.expect("reads").path();
            let name = file.strip_prefix(store).expect("lies in the store").to_string_lossy().into_owned();
            // These two hold times.
            if !name.ends_with("/log.txt") && !name.ends_with("/step.json") {
                found.insert(name, std::fs::read(&file).expect("reads"));
            }
        }
    }
    found
}

/// Scores of one run: per caption the bits of the model, of text alone and of the floor.
struct Scores(Vec<[f64; 3]>);

impl Scores {
    fn of(store: &Path, run: &str) -> Self {
        let path = store.join("runs/by-name/reduced").join(run).join("results.json");
        let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let results: serde_json::Value = serde_json::from_slice(&text).expect("is JSON");
        let artifact = results["stages"]["perplexity"]["artifact"].as_str().expect("has an artifact");
        let mut reader = csv::Reader::from_path(store.join(artifact).join("targets.csv")).expect("has scores");
        let header = reader.headers().expect("has a header").clone();
        let column = |name| header.iter().position(|column| column == name).expect("has the column");
        let (clip, columns) = (column("clip_id"), ["nll", "true_bits", "floor_bits"].map(column));
        let mut captions: BTreeMap<String, [f64; 3]> = BTreeMap::new();
        for row in reader.records() {
            let row = row.expect("reads");
            let sums = captions.entry(row[clip].to_owned()).or_default();
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum += row[column].parse::<f64>().expect("is a number");
            }
        }
        let bits = |[nll, open, floor]: [f64; 3]| [nll / std::f64::consts::LN_2, open, floor];
        Self(captions.into_values().map(bits).collect())
    }

    /// Mean of `value` over captions and its standard error.
    fn mean(&self, value: impl Fn(&[f64; 3]) -> f64) -> (f64, f64) {
        let (count, values) = (self.0.len() as f64, self.0.iter().map(value).collect::<Vec<f64>>());
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, (variance / count).sqrt())
    }

    fn bits(&self) -> f64 {
        self.mean(|[bits, ..]| *bits).0
    }
}

#[test]
fn figures_hold_and_are_the_same_bytes_again() {
    let folder = Folder::new();
    assert!(run(&folder, "first", &[]) > 0);
    assert_eq!(run(&folder, "first", &[]), 0, "everything is done already");

    let store = folder.path().join("first");
    let [none, oracle, right, wrong, constant] = [
        "inject=none",
        "inject=none,text_oracle",
        "inject=full",
        "inject=full,wrong_clip",
        "inject=full,constant_token",
    ]
    .map(|run| Scores::of(&store, run));
    let above_truth = none.mean(|[bits, open, _]| bits - open).0;
    assert!(above_truth.abs() <= 0.05, "`none` is {above_truth} bits per caption above the true entropy");
    assert!(oracle.bits() <= 1.15, "`text_oracle` leaves {} bits, the floor is 1", oracle.bits());
    let gain = constant.bits() - right.bits();
    assert!(gain >= 0.6 * 9.907, "{gain} of 9.907 bits recovered: {} against {}", right.bits(), constant.bits());
    assert!(wrong.bits() > right.bits() + 9.907, "wrong {} and right {}", wrong.bits(), right.bits());
    for (name, scores) in [("none", &none), ("oracle", &oracle), ("right", &right), ("constant", &constant)] {
        let (above, error) = scores.mean(|[bits, _, floor]| bits - floor);
        assert!(above > -3.0 * error - 1e-9, "`{name}` is {above} ± {error} from the floor, below it");
    }

    assert!(run(&folder, "second", &["--jobs", "2"]) > 0);
    let (first, second) = (outputs(&store), outputs(&folder.path().join("second")));
    assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>());
    for (name, bytes) in &first {
        assert!(second[name] == *bytes, "`{name}` has other bytes in the second store");
    }

    // Only what the seed enters runs again, and gives other numbers.
    let before = first.len();
    assert!(run(&folder, "first", &["--set", "projector.seed=1"]) > 0);
    let both = outputs(&store);
    let fresh: Vec<&String> = both.keys().filter(|name| !first.contains_key(*name)).collect();
    assert!(both.len() > before && fresh.iter().all(|name| !name.starts_with("steps/simulate_clips")), "{fresh:?}");
    let weights = |name: &&String| name.ends_with("projector.safetensors");
    for name in fresh.iter().copied().filter(weights) {
        let same = first.iter().any(|(old, bytes)| old.ends_with("projector.safetensors") && *bytes == both[name]);
        assert!(!same, "`{name}` is what another seed gave");
    }
    assert_eq!(fresh.iter().copied().filter(weights).count(), 2);
}
