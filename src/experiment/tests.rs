//! Loading and resolving with kinds that have the shape of the real ones.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::stages::{Context, Inputs, Stage, Summary, Upstream};

macro_rules! kind {
    ($name:ident, $kind:literal, $gives:expr, $config:ty, $normalise:expr) => {
        struct $name;
        impl Stage for $name {
            const KIND: &'static str = $kind;
            const VERSION: u32 = 1;
            const SUMMARY: &'static str = "For tests";
            const GIVES: &'static [&'static str] = $gives;
            type Config = $config;
            fn normalise(config: &mut Self::Config, upstream: &Upstream) {
                let normalise: fn(&mut $config, &Upstream) = $normalise;
                normalise(config, upstream);
            }
            fn run(_: &Self::Config, _: &Inputs, _: &Context) -> crate::stages::Result<Summary> {
                Ok(Summary::new())
            }
        }
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Inject {
    None,
    Global,
    Local,
    Full,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Clips {
    #[serde(default)]
    data_seed: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Packs {
    #[schemars(extend("x-accepts" = ["frames"]))]
    frames: Reference,
    #[serde(default = "cap")]
    #[schemars(range(min = 1))]
    local_cap: usize,
}

fn cap() -> usize {
    50
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Projector {
    #[schemars(extend("x-accepts" = ["packs"]))]
    packs: Reference,
    #[serde(default = "language")]
    #[schemars(extend("x-accepts" = ["language_model"]))]
    language: Reference,
    inject: Inject,
    #[serde(default)]
    seed: u64,
    #[serde(default = "rate")]
    #[schemars(range(min = 0.0))]
    lr: f64,
    #[serde(default)]
    source: Option<String>,
}

fn language() -> Reference {
    Reference("model:language".into())
}

fn rate() -> f64 {
    1e-4
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Embed {
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["packs"]))]
    packs: Option<Reference>,
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["projector"]))]
    projector: Option<Reference>,
    #[serde(default)]
    inject: Option<Inject>,
    #[serde(default)]
    pairing: Option<String>,
}

fn inherit(config: &mut Embed, upstream: &Upstream) {
    config.inject = config.inject.or_else(|| upstream.setting("projector", "inject"));
    if config.inject == Some(Inject::None) {
        (config.packs, config.projector, config.pairing) = (None, None, None);
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rsa {
    #[schemars(extend("x-accepts" = ["embeddings"]))]
    embeddings: Reference,
    #[serde(default = "pool")]
    pool: String,
}

fn pool() -> String {
    "all".into()
}

kind!(ClipsStage, "clips", &["frames", "text"], Clips, |_, _| {});
kind!(PacksStage, "packs", &["packs"], Packs, |_, _| {});
kind!(ProjectorStage, "projector", &["projector"], Projector, |_, _| {});
kind!(EmbedStage, "embed", &["embeddings"], Embed, inherit);
kind!(RsaStage, "rsa", &["rsa"], Rsa, |_, _| {});

fn kinds() -> Vec<Kind> {
    vec![
        Kind::of::<ClipsStage>(),
        Kind::of::<PacksStage>(),
        Kind::of::<ProjectorStage>(),
        Kind::of::<EmbedStage>(),
        Kind::of::<RsaStage>(),
    ]
}

const GRID: &str = r#"
name = "grid"
[models.language]
hub = "google/gemma"
[stages.clips]
kind = "clips"
[stages.packs]
kind = "packs"
frames = "stage:clips"
[stages.projector]
kind = "projector"
packs = "stage:packs"
inject = "full"
[stages.embed]
kind = "embed"
packs = "stage:packs"
projector = "stage:projector"
[stages.rsa]
kind = "rsa"
embeddings = "stage:embed"
[axes.inject]
to = ["projector.inject", "embed.inject"]
values = ["none", "global", "local", "full"]
[axes.pool]
to = "rsa.pool"
values = ["all", "exclude_soc", "only_soc", "locals_only", "eos"]
"#;

struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("it can be written");
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, name: &str, options: &LoadOptions) -> Result<Experiment, Diagnostics> {
        load(&self.path(name), options, &kinds())
    }
}

fn resolve(text: &str) -> Result<Experiment, Diagnostics> {
    Files::new(&[("x.toml", text)]).load("x.toml", &LoadOptions::default())
}

fn good(text: &str) -> Experiment {
    resolve(text).unwrap_or_else(|found| panic!("{found}"))
}

/// Each message as `line: message | hint`.
fn mistakes(text: &str) -> Vec<String> {
    let found = resolve(text).expect_err("it has mistakes").0;
    let line = |d: &Diagnostic| d.location.as_ref().map_or(0, |place| place.line);
    found.iter().map(|d| format!("{}: {} | {}", line(d), d.message, d.hint.clone().unwrap_or_default())).collect()
}

fn distinct(experiment: &Experiment, stage: &str) -> usize {
    let live = experiment.points.iter().filter(|point| point.not_applicable.is_none());
    live.filter_map(|point| point.stages.get(stage)).map(Arc::as_ptr).collect::<BTreeSet<_>>().len()
}

#[test]
fn twenty_cells_share_four_embeddings_and_three_do_not_exist() {
    let experiment = good(GRID);
    assert_eq!(experiment.points.len(), 20);
    assert_eq!(experiment.points.iter().filter(|point| point.not_applicable.is_some()).count(), 3);
    assert_eq!((distinct(&experiment, "embed"), distinct(&experiment, "rsa")), (4, 17));
    let none = &experiment.points[0];
    assert_eq!(none.stages.keys().collect::<Vec<_>>(), ["embed", "rsa"]);
    assert_eq!(none.targets, ["rsa"]);
    assert!(none.stages["embed"].inputs.is_empty());
    let global = &experiment.points[5];
    assert_eq!(global.coordinates["inject"], "global");
    assert_eq!(global.stages["projector"].settings["lr"], 1e-4);
    assert_eq!(global.stages["projector"].inputs["language"].0, "model:language");
}

#[test]
fn projector_seeds_do_not_multiply_what_does_not_depend_on_them() {
    let experiment = good(&format!("{GRID}[axes.seed]\nto = \"projector.seed\"\nvalues = [0, 1, 2]\n"));
    assert_eq!(experiment.points.len(), 60);
    assert_eq!((distinct(&experiment, "embed"), distinct(&experiment, "packs")), (10, 1));
    assert_eq!(experiment.axes[2].labels, ["0", "1", "2"]);
}

#[test]
fn ten_thousand_points_resolve_quickly_and_share_their_stages() {
    let seeds: Vec<String> = (0..500).map(|seed| seed.to_string()).collect();
    let text = format!("{GRID}[axes.seed]\nto = \"projector.seed\"\nvalues = [{}]\n", seeds.join(", "));
    let files = Files::new(&[("x.toml", &text)]);
    let start = std::time::Instant::now();
    let experiment = files.load("x.toml", &LoadOptions::default()).unwrap_or_else(|found| panic!("{found}"));
    let elapsed = start.elapsed();
    assert_eq!(experiment.points.len(), 10_000);
    assert_eq!(distinct(&experiment, "embed"), 1501);
    eprintln!("10,000 points: {elapsed:?}");
    assert!(elapsed.as_secs_f64() < 2.0, "10,000 points took {elapsed:?}");
}

#[test]
fn every_mistake_is_found_at_once_with_its_place_and_cure() {
    let text = GRID
        .replace("frames = \"stage:clips\"", "frames = \"stage:clisp\"\nlocal_cap = 0\nlocal_cpa = 3")
        .replace("kind = \"rsa\"", "kind = \"rsaa\"")
        .replace("packs = \"stage:packs\"\nprojector", "packs = \"stage:clips\"\nprojetcor")
        .replace("\"local\", \"full\"]", "\"local\", \"ful\"]")
        .replace("to = \"rsa.pool\"", "to = \"embed.pairign\"");
    let expected = [
        "9: `stage:clisp` leads to nothing: no stage `clisp` | did you mean `stage:clips`?",
        "10: `0` is out of range for `local_cap` | `local_cap` is a whole number of at least 1",
        "11: unknown key `local_cpa` in stage `packs` (kind `packs`) | did you mean `local_cap`?",
        "18: `stage:clips` gives `frames`, `text`, but `packs` takes `packs` | these fit: `stage:packs`",
        "19: unknown key `projetcor` in stage `embed` (kind `embed`) | did you mean `projector`?",
        "21: no stage kind `rsaa` | did you mean `rsa`?",
        "25: `ful` is no value of `projector.inject` | did you mean `full`? it is one of `none`, `global`, `local`, `full`",
        "25: `ful` is no value of `embed.inject` | did you mean `full`? it is one of `none`, `global`, `local`, `full`",
        "27: stage `embed` (kind `embed`) has no field `pairign` | did you mean `pairing`?",
    ];
    let found = mistakes(&text);
    assert_eq!(found, expected, "{found:#?}");
}
