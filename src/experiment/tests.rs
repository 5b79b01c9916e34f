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
    /// The protocols set it.
    #[serde(default)]
    unobserved: Option<String>,
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
    assert_eq!(none.stages.keys().map(|stage| &**stage).collect::<Vec<_>>(), ["embed", "rsa"]);
    assert_eq!(*none.targets, ["rsa".into()]);
    assert!(none.stages["embed"].inputs.is_empty());
    let global = &experiment.points[5];
    assert_eq!(global.coordinates["inject"], "global");
    assert_eq!(global.stages["projector"].settings["lr"], 1e-4);
    assert_eq!(global.stages["projector"].inputs.get("language").unwrap().0, "model:language");
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

fn setting(experiment: &Experiment, stage: &str, field: &str) -> serde_json::Value {
    experiment.points[0].stages[stage].settings[field].clone()
}

#[test]
fn each_layer_lies_above_the_one_before() {
    let files = Files::new(&[
        ("low.toml", "[stages.clips]\nkind = \"clips\"\ndata_seed = 1\n[run]\njobs = 2\nstore = \"low\"\n"),
        ("high.toml", "extends = \"low.toml\"\n[run]\nstore = \"high\"\n[profiles.p.stages.clips]\ndata_seed = 4\n"),
        (
            "x.toml",
            "name = \"x\"\nextends = [\"low.toml\", \"high.toml\"]\n[run]\ndevice = \"cpu\"\n\
             [profiles.p.run]\njobs = 5\n[stages.clips]\ndata_seed = 3\n",
        ),
    ]);
    let mut options = LoadOptions::default();
    let load = |options: &LoadOptions| files.load("x.toml", options).unwrap_or_else(|found| panic!("{found}"));
    let plain = load(&options);
    assert_eq!((setting(&plain, "clips", "data_seed"), plain.run.jobs), (3.into(), 2));
    assert_eq!((plain.run.store.to_str(), plain.run.device.as_str()), (Some("high"), "cpu"));
    options.profile = Some("p".into());
    let profiled = load(&options);
    assert_eq!((setting(&profiled, "clips", "data_seed"), profiled.run.jobs), (4.into(), 5));
    options.environment = vec![
        ("SOCTOK_STAGES__CLIPS__DATA_SEED".into(), "5".into()),
        ("SOCTOK_RUN__STORE".into(), "some where".into()),
        ("SOCTOK_LOG".into(), "debug".into()),
    ];
    let surrounded = load(&options);
    assert_eq!(setting(&surrounded, "clips", "data_seed"), 5);
    assert_eq!(surrounded.run.store.to_str(), Some("some where"));
    options.sets = vec!["clips.data_seed=6".into(), "run.device=tch:cpu".into(), "stages.clips.data_seed=7".into()];
    let set = load(&options);
    assert_eq!((setting(&set, "clips", "data_seed"), set.run.device.as_str()), (7.into(), "tch:cpu"));
}

#[test]
fn files_that_extend_each_other_or_nothing_are_errors() {
    let files = Files::new(&[
        ("a.toml", "name = \"a\"\nextends = \"b.toml\"\n"),
        ("b.toml", "extends = [\"a.toml\", \"c.toml\"]\n"),
    ]);
    let found = files.load("a.toml", &LoadOptions::default()).expect_err("they are wrong").0;
    let shown: Vec<String> =
        found.iter().map(|d| format!("{d}").replace(&format!("{}/", files.0.path().display()), "")).collect();
    assert!(shown[0].starts_with("b.toml:1:12: error: `a.toml` extends itself"), "{shown:?}");
    assert!(shown[1].starts_with("b.toml:1:22: error: `c.toml` cannot be read: there is no such file"), "{shown:?}");
    let endless = Files::new(&[("x.toml", "name = \"x\"\nextends = [\"/dev/zero\", \".\"]\n")]);
    let found = endless.load("x.toml", &LoadOptions::default()).expect_err("they are no files").to_string();
    assert!(found.contains("`/dev/zero` cannot be read: it has more than 16 MiB"), "{found}");
}

#[test]
fn bundles_ablations_combinations_and_exclusions_make_the_points() {
    let text = format!(
        "{GRID}
[axes.cap.values]
small = {{ \"packs.local_cap\" = 1, projector.lr = 0.5 }}
plain = {{}}
[ablations.wrong_clip]
set = {{ embed.pairing = \"wrong_clip\" }}
where = {{ inject = [\"global\", \"local\", \"full\"] }}
[ablations.constant]
set = {{ \"projector.source\" = \"constant\" }}
where = {{ inject = \"full\", cap = \"plain\" }}
[ablations.both]
combine = [\"wrong_clip\", \"constant\"]
[exclude.eos]
where = {{ pool = \"eos\", ablation = [\"both\", \"wrong_clip\"] }}
"
    );
    let experiment = good(&text);
    let count =
        |ablation: Option<&str>| experiment.points.iter().filter(|point| point.ablation.as_deref() == ablation).count();
    assert_eq!(experiment.ablations, ["wrong_clip", "constant", "both"]);
    assert_eq!((count(None), count(Some("wrong_clip"))), (4 * 5 * 2, 3 * 4 * 2));
    assert_eq!((count(Some("constant")), count(Some("both"))), (5, 4));
    let both = experiment.points.iter().find(|point| point.ablation.as_deref() == Some("both")).expect("it is there");
    assert_eq!(both.stages["embed"].settings["pairing"], "wrong_clip");
    assert_eq!(both.stages["projector"].settings["source"], "constant");
    let small = experiment.points.iter().find(|point| point.coordinates["cap"] == "small" && point.stages.len() > 2);
    let small = small.expect("it is there");
    assert_eq!(
        (&small.stages["packs"].settings["local_cap"], &small.stages["projector"].settings["lr"]),
        (&1.into(), &0.5.into())
    );
    assert_eq!(experiment.axes[2].binds, ["packs.local_cap", "projector.lr"]);
    assert!(experiment.notes.is_empty(), "{:?}", experiment.notes);
}

#[test]
fn an_ablation_that_changes_nothing_is_noted_and_one_for_no_point_is_an_error() {
    let idle = good(&format!("{GRID}[ablations.wrong]\nset = {{ embed.pairing = \"wrong\" }}\n"));
    assert_eq!(idle.notes.len(), 1);
    assert!(idle.notes[0].message.contains("`wrong` changes nothing in 5 points, the first at inject = none"));
    let never = format!(
        "{GRID}[ablations.a]\nset = {{ embed.pairing = \"a\" }}\nwhere = {{ inject = \"full\" }}\n\
         [ablations.b]\nset = {{ projector.lr = 1 }}\nwhere = {{ inject = \"local\" }}\n[ablations.c]\ncombine = [\"a\", \"b\"]\n"
    );
    assert!(mistakes(&never)[0].starts_with("33: ablation `c` applies to no point"), "{:?}", mistakes(&never));
}

#[test]
fn a_cell_that_does_not_exist_is_an_error_where_nothing_chose_it() {
    let (fixed, _) = GRID.split_once("[axes.inject]").expect("it is there");
    let fixed = fixed.replace("inject = \"full\"", "inject = \"none\"");
    let single = fixed.replace("embeddings = ", "pool = \"only_soc\"\nembeddings = ");
    let found = mistakes(&single);
    assert!(found[0].starts_with("20: stage `rsa`: with `inject = \"none\"` there are no social tokens"), "{found:?}");
    let ablated = format!("{fixed}[ablations.x]\nset = {{ rsa.pool = \"only_soc\" }}\n");
    let experiment = good(&ablated);
    assert_eq!(experiment.points[1].not_applicable.as_ref().map(|na| na.rule.as_str()), Some("none_only_soc"));
    // The axis is on the projector; `embed` only inherits it.
    let inherited = single.replace("pool = \"only_soc\"\n", "")
        + "[axes.inject]\nto = \"projector.inject\"\nvalues = [\"none\", \"full\"]\n[axes.pool]\nto = \"rsa.pool\"\nvalues = [\"only_soc\"]\n";
    assert_eq!(good(&inherited).points.iter().filter(|point| point.not_applicable.is_some()).count(), 1);
    let unusual = good(&fixed.replace("inject = \"none\"", "inject = \"local\"")).notes;
    assert!(unusual[0].message.contains("meant to be read with"), "{unusual:?}");
}

#[test]
fn axes_and_ablations_that_set_the_same_field_are_errors() {
    let twice = format!("{GRID}[axes.more]\nto = [\"rsa.pool\"]\nvalues = [\"all\"]\n");
    assert_eq!(mistakes(&twice)[0].split(" | ").next(), Some("28: axes `pool` and `more` both set `rsa.pool`"));
    let ablation = format!("{GRID}[ablations.x]\nset = {{ rsa.pool = \"eos\" }}\nwhere = {{ pool = \"all\" }}\n");
    assert_eq!(
        mistakes(&ablation)[0].split(" | ").next(),
        Some("28: ablation `x` and axis `pool` both set `rsa.pool`")
    );
    assert_eq!(good(&format!("{ablation}over_axis = true\n")).points.len(), 24);
}

#[test]
fn cycles_are_found_also_where_an_axis_closes_them() {
    let own = GRID.replace("frames = \"stage:clips\"", "frames = \"stage:clips\"\n[stages.a]\nkind = \"note\"");
    assert!(mistakes(&own)[0].contains("no stage kind `note`"));
    let kinds = [kinds(), vec![Kind::of::<crate::stages::note::Note>()]].concat();
    let check = |text: &str| {
        let files = Files::new(&[("x.toml", text)]);
        load(&files.path("x.toml"), &LoadOptions::default(), &kinds).expect_err("it is wrong").0[0].clone()
    };
    let notes = "name = \"n\"\n[stages.a]\nkind = \"note\"\ntext = \"a\"\nafter = \"stage:b\"\n[stages.b]\nkind = \"note\"\ntext = \"b\"\n";
    let found = check(&format!("{notes}after = \"stage:a\"\n"));
    assert_eq!(found.message, "stages need each other in a cycle: `a` needs `b` needs `a`");
    assert_eq!(found.location.map(|place| (place.line, place.column)), Some((9, 9)));
    let axis = format!(
        "{notes}[stages.c]\nkind = \"note\"\ntext = \"c\"\n[axes.x]\nto = \"b.after\"\nvalues = [\"stage:c\", \"stage:a\"]\n[run]\ntargets = [\"a\"]\n"
    );
    assert!(check(&axis).message.contains("in a cycle"));
}

#[test]
fn what_is_shown_loads_to_the_same_points() {
    let text = format!(
        "{GRID}[run]\nstore = \"a \\\"b\\\"\"\n[axes.cap.values]\nsmall = {{ \"packs.local_cap\" = 1 }}\nplain = {{ }}\n\
         [ablations.slow]\nset = {{ projector.lr = 1e-9 }}\n[tables.t]\nvalue = [\"rsa.spearman\"]\nrows = [\"pool\", \"inject\", \"cap\"]\n"
    );
    let files = Files::new(&[("x.toml", &text)]);
    let options = LoadOptions { sets: vec!["packs.local_cap=9".into()], ..LoadOptions::default() };
    let shown = show(&files.path("x.toml"), &options, &kinds()).unwrap_or_else(|found| panic!("{found}"));
    assert!(shown.toml.contains("local_cap = 9"), "{}", shown.toml);
    assert_eq!(shown.json["stages"]["packs"]["local_cap"]["origin"], "--set");
    assert_eq!(shown.json["stages"]["projector"]["lr"], serde_json::json!({ "value": 1e-4, "origin": "built-in" }));
    assert_eq!(shown.json["axes"]["inject"]["binds"], serde_json::json!(["projector.inject", "embed.inject"]));
    let before = files.load("x.toml", &options).unwrap_or_else(|found| panic!("{found}"));
    let after = good(&shown.toml);
    assert_eq!(before.points.len(), after.points.len());
    for (before, after) in before.points.iter().zip(&after.points) {
        assert_eq!((&before.coordinates, &before.ablation), (&after.coordinates, &after.ablation));
        assert_eq!(before.stages, after.stages);
    }
    assert_eq!((before.run, before.tables), (after.run, after.tables));
}

#[test]
fn a_value_laid_over_a_base_file_is_reported_where_it_stands() {
    let low =
        "[stages.clips]\nkind = \"clips\"\n[stages.packs]\nkind = \"packs\"\nframes = \"stage:clips\"\nlocal_cap = 3\n";
    let place = |above: &str, sets: &[&str]| {
        let files =
            Files::new(&[("low.toml", low), ("x.toml", &format!("name = \"x\"\nextends = \"low.toml\"\n{above}"))]);
        let options =
            LoadOptions { sets: sets.iter().map(|set| (*set).to_owned()).collect(), ..LoadOptions::default() };
        let found = files.load("x.toml", &options).expect_err("it is wrong").0[0].clone();
        let place = found.location.clone().expect("it has a place");
        (place.file.rsplit('/').next().expect("a name").to_owned(), place.line, place.column, found.message)
    };
    let wrong = |found: &str| format!("`local_cap` must be a whole number of at least 1, found {found}");
    // A table over a number, text over a number, a list over a number.
    let (table, text, list) = ("{ a = 1 }", "\"3\"", "[3]");
    for (value, found) in [(table, "a table"), (text, "text"), (list, "a list")] {
        let expected = ("x.toml".to_owned(), 4, 13, wrong(found));
        assert_eq!(place(&format!("[stages.packs]\nlocal_cap = {value}\n"), &[]), expected);
    }
    let expected = ("x.toml".to_owned(), 4, 1, wrong("a table"));
    let found = place("[stages.packs.local_cap]\na = 1\n", &[]);
    assert_eq!((&found.0, found.1, &found.3), (&expected.0, 3, &expected.3), "{found:?}");
    assert_eq!(place("", &["packs.local_cap={ a = 1 }"]), ("--set".to_owned(), 1, 17, wrong("a table")));
    // A table that several files write begins where the lowest of them has it.
    let (file, line, ..) =
        place("[stages.projector]\nkind = \"projector\"\ninject = \"full\"\n", &["projector.seed=1"]);
    assert_eq!((file.as_str(), line), ("x.toml", 3));
}

#[test]
fn three_thousand_wrong_references_are_told_at_once() {
    let kinds = [Kind::of::<crate::stages::note::Note>()];
    let stage =
        |number: usize| format!("[stages.s{number}]\nkind = \"note\"\ntext = \"a\"\nafter = \"stage:s{number}_\"\n");
    let text = format!("name = \"n\"\n{}", (0..3000).map(stage).collect::<String>());
    let files = Files::new(&[("x.toml", &text)]);
    let start = std::time::Instant::now();
    let found = load(&files.path("x.toml"), &LoadOptions::default(), &kinds).expect_err("it has mistakes").0;
    let elapsed = start.elapsed();
    assert_eq!(found.len(), 201);
    assert_eq!(found[7].hint.as_deref(), Some("did you mean `stage:s7`?"));
    assert_eq!(found[200].message, "2800 more mistakes are not told");
    // 4.8 s when the hints of all were made from the distances of all words.
    assert!(elapsed.as_secs_f64() < 3.0, "{elapsed:?}");
}

#[test]
fn a_setting_of_too_many_parts_is_an_error_and_no_overflow_of_the_stack() {
    let files = Files::new(&[("x.toml", GRID)]);
    let set = |argument: String| {
        let options = LoadOptions { sets: vec![argument], ..LoadOptions::default() };
        files.load("x.toml", &options).expect_err("it is too deep").to_string()
    };
    assert!(set(format!("projector.{}seed=1", "a.".repeat(100_000))).contains("the setting has 100003 parts"));
    let value = format!("projector.seed={}1{}", "[".repeat(60), "]".repeat(60));
    assert!(set(value).contains("more than 32 deep"));
}

#[test]
fn files_that_are_extended_along_many_ways_are_read_once() {
    // Each names the one below it twice: 2⁴⁰ ways lead to the lowest.
    let text = |number: usize| match number {
        0 => GRID.to_owned(),
        _ => format!("extends = [\"{0}.toml\", \"./{0}.toml\"]\n[stages.projector]\nseed = {number}\n", number - 1),
    };
    let files = Files::new(&[]);
    for number in 0..=40 {
        std::fs::write(files.path(&format!("{number}.toml")), text(number)).expect("writes");
    }
    let many = vec!["\"40.toml\""; 20_000].join(", ");
    std::fs::write(files.path("x.toml"), format!("extends = [{many}]\n")).expect("writes");
    let start = std::time::Instant::now();
    let experiment = files.load("x.toml", &LoadOptions::default()).unwrap_or_else(|found| panic!("{found}"));
    let elapsed = start.elapsed();
    assert_eq!(experiment.points[5].stages["projector"].settings["seed"], 40);
    assert!(elapsed.as_secs_f64() < 5.0, "{elapsed:?}");
}
