//! What runs again after an edit: a built experiment is changed in every way that should and should not rerun, and the
//! exact set of steps that ran is compared. Steps are named by their stages.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use soctok::plan::{Reading, plan};
use soctok::stages::{Context, Inputs, Kind, Reference, Result, Stage, Summary};
use soctok::store::Store;
use support::{CAPTIONS, CHAIN, Folder, text};

const ALL: [&str; 8] = ["features", "first", "frames", "listed", "packs", "perplexity", "projector", "second"];

/// What one command did.
#[derive(Debug, PartialEq)]
struct Ran {
    executed: BTreeSet<String>,
    cut_off: BTreeSet<String>,
}

/// The stages whose lines on stderr end in `what`: `[2/3] packs (scene_packs 1234abcd) done in 0.1 s`.
fn stages(stderr: &str, what: &str) -> BTreeSet<String> {
    let lines = stderr.lines().filter(|line| line.starts_with('[') && line.contains(what));
    let names = lines.map(|line| line.split(['[', ']', '(']).nth(2).expect("has a place and a name"));
    names.flat_map(|names| names.split(',')).map(|name| name.trim().to_owned()).collect()
}

/// Runs the command, which must do what `plan` said: execute or cut off exactly the steps that were to run.
fn run_command(folder: &Folder, arguments: &[&str], prepare: &dyn Fn(&mut Command)) -> Ran {
    let output = |verb: &str| {
        let mut command = folder.command(&[&[verb, "chain.toml", "--json"], arguments].concat());
        prepare(&mut command);
        let output = command.output().expect("soctok starts");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{verb} {arguments:?}\n{stderr}");
        (serde_json::from_slice::<Value>(&output.stdout).expect("is JSON"), stderr)
    };
    let planned = output("plan").0;
    let (facts, stderr) = output("run");
    let ran = Ran { executed: stages(&stderr, ") done in"), cut_off: stages(&stderr, ") same inputs as") };
    assert_eq!(facts["executed"], ran.executed.len(), "{stderr}");
    assert_eq!(facts["cut_off"], ran.cut_off.len(), "{stderr}");
    let steps = planned["steps"].as_array().expect("a list").iter();
    let to_run = steps.filter(|step| step["state"] == "to run" || step["state"] == "pending");
    let to_run: BTreeSet<String> = to_run.map(|step| step["stages"][0].as_str().expect("a name").to_owned()).collect();
    let all: BTreeSet<String> = ran.executed.union(&ran.cut_off).cloned().collect();
    assert_eq!(all, to_run, "what `plan` said and what `run` did, {arguments:?}");
    ran
}

fn run(folder: &Folder, arguments: &[&str]) -> Ran {
    run_command(folder, arguments, &|_| {})
}

fn only<const N: usize>(executed: [&str; N]) -> Ran {
    Ran { executed: executed.iter().map(|&name| name.to_owned()).collect(), cut_off: BTreeSet::new() }
}

const NOTHING: [&str; 0] = [];
const FROM_CAPTIONS: [&str; 3] = ["packs", "projector", "perplexity"];

/// A built experiment whose inputs are old enough for their digests to be remembered: only then does a rerun show that
/// the memory is not believed blindly.
fn built() -> Folder {
    let folder = Folder::with_chain();
    std::thread::sleep(Duration::from_millis(2200));
    assert_eq!(run(&folder, &[]), only(ALL));
    assert_eq!(run(&folder, &[]), only(NOTHING));
    let remembered = std::fs::read_to_string(folder.path().join("soctok-store/signatures")).expect("reads");
    // 8 pictures of frame folders, 8 under the manifest, the manifest, the captions, 3 files of the model.
    assert_eq!(remembered.lines().count(), 21);
    folder
}

/// Writes other bytes of the same length and puts the time of the last change back.
fn overwrite(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).expect("has a time");
    let mut bytes = std::fs::read(path).expect("reads");
    let (size, before) = (bytes.len(), bytes.clone());
    edit(&mut bytes);
    assert!(bytes.len() == size && bytes != before, "an edit that keeps the size");
    std::fs::write(path, bytes).expect("writes");
    let file = std::fs::File::options().write(true).open(path).expect("opens");
    file.set_modified(modified).expect("sets the time");
    assert_eq!(std::fs::metadata(path).and_then(|metadata| metadata.modified()).expect("has a time"), modified);
}

/// Another last byte.
fn other_end(bytes: &mut [u8]) {
    let last = bytes.last_mut().expect("is not empty");
    *last ^= 1;
}

fn touch(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).expect("opens");
    file.set_modified(SystemTime::now() + Duration::from_secs(60)).expect("sets the time");
}

/// The folder of the artifact of a stage.
fn artifact(folder: &Folder, stage: &str) -> PathBuf {
    let planned = folder.json(&["plan", "chain.toml"]);
    let mut steps = planned["steps"].as_array().expect("a list").iter();
    let step = steps.find(|step| step["stages"][0] == stage).expect("is planned");
    folder.path().join("soctok-store/steps").join(step["step"].as_str().expect("a name"))
}

#[test]
fn what_is_written_otherwise_but_means_the_same_runs_nothing() {
    let folder = built();
    let sections: Vec<&str> = CHAIN.split("\n\n").collect();
    let reordered: Vec<&str> =
        sections.iter().rev().copied().filter(|section| !section.contains("name = \"chain\"")).collect();
    let head = sections.iter().find(|section| section.contains("name = \"chain\"")).expect("has a name");
    let named = |old: &str, new: &str| {
        CHAIN
            .replace(&format!("stages.{old}]"), &format!("stages.{new}]"))
            .replace(&format!("stage:{old}"), &format!("stage:{new}"))
    };
    for (what, edited) in [
        ("a comment", format!("# what it asks\n{}", CHAIN.replace("lr = 1e-3", "lr = 1e-3  # slow"))),
        ("another form of a number", CHAIN.replace("lr = 1e-3", "lr = 0.001")),
        ("another form of a text", CHAIN.replace("text = \"one\"", "text = '''one'''")),
        ("tables in another order", format!("{head}\n\n{}", reordered.join("\n\n"))),
        ("keys in another order", CHAIN.replace("steps = 6\nbatch = 2\nlr = 1e-3", "lr = 1e-3\nbatch = 2\nsteps = 6")),
        (
            "inline tables",
            CHAIN.replace("[data.captions]\npath = \"captions.csv\"", "[data]\ncaptions = { path = \"captions.csv\" }"),
        ),
        ("another name of the experiment", CHAIN.replace("name = \"chain\"", "name = \"other\"")),
        ("another name of a stage", named("features", "vectors")),
        ("a default written out", CHAIN.replace("lr = 1e-3", "lr = 1e-3\ndropout = 0.1\nseed = 0\nepochs = 5")),
        ("a setting that does not matter here", CHAIN.replace("local_frame", "window_pad = 3.0\nlocal_frame")),
        ("the batch size of an evaluation", CHAIN.replace("kind = \"perplexity\"", "kind = \"perplexity\"\nbatch = 1")),
    ] {
        assert_ne!(edited, CHAIN, "{what}");
        folder.write("chain.toml", &edited);
        assert_eq!(run(&folder, &[]), only(NOTHING), "{what}");
    }
    folder.write("chain.toml", CHAIN);
    // How and where it runs.
    for arguments in [
        &["--device", "cpu"][..],
        &["--device", "auto"],
        &["--jobs", "2"],
        &["--set", "run.checkpoint_seconds=0.5"],
        &["--store", "./soctok-store"],
    ] {
        assert_eq!(run(&folder, arguments), only(NOTHING), "{arguments:?}");
    }
    let environment = |name: &'static str, value: &'static str| {
        run_command(&folder, &[], &|command| {
            command.env(name, value);
        })
    };
    assert_eq!(environment("SOCTOK_RUN__DEVICE", "cpu"), only(NOTHING));
    assert_eq!(environment("RAYON_NUM_THREADS", "1"), only(NOTHING));
    // The same data under another path.
    let elsewhere = folder.path().join("moved");
    std::fs::rename(folder.path().join("listed"), &elsewhere).expect("moves");
    assert_eq!(run(&folder, &["--set", "data.listed.path=moved/manifest.csv"]), only(NOTHING));
}

#[test]
fn a_changed_setting_reruns_its_step_and_what_follows_and_going_back_runs_nothing() {
    let folder = built();
    let back = || assert_eq!(run(&folder, &[]), only(NOTHING), "back to the earlier setting");
    for (setting, expected, cut_off) in [
        ("second.text=three", &["second"][..], &[][..]),
        ("first.text=uno", &["first", "second"], &[]),
        ("projector.lr=2e-3", &["projector", "perplexity"], &[]),
        ("projector.dropout=0.2", &["projector", "perplexity"], &[]),
        ("perplexity.split=all", &["perplexity"], &[]),
        ("packs.local_frame=clip_mean", &FROM_CAPTIONS, &[]),
        ("features.encoder_seed=1", &["features", "packs", "projector", "perplexity"], &[]),
        // Packs by rank tell times that the projector does not read: other times reach no further than the packs.
        ("frames.fps=2", &["frames", "features", "packs"], &["projector", "perplexity"]),
    ] {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let expected = Ran { executed: names(expected), cut_off: names(cut_off) };
        assert_eq!(run(&folder, &["--set", setting]), expected, "{setting}");
        back();
    }
    // The file, `--set`, a profile and the environment say the same thing: one step serves all four.
    folder.write("chain.toml", &CHAIN.replace("lr = 1e-3", "lr = 5e-3"));
    assert_eq!(run(&folder, &[]), only(["projector", "perplexity"]));
    folder.write("chain.toml", &format!("{CHAIN}\n[profiles.fast.stages.projector]\nlr = 5e-3\n"));
    back();
    assert_eq!(run(&folder, &["--set", "projector.lr=5e-3"]), only(NOTHING));
    assert_eq!(run(&folder, &["--profile", "fast"]), only(NOTHING));
    let environment = |value: &'static str| {
        run_command(&folder, &[], &|command| {
            command.env("SOCTOK_STAGES__PROJECTOR__LR", value);
        })
    };
    assert_eq!(environment("5e-3"), only(NOTHING));
    assert_eq!(environment("7e-3"), only(["projector", "perplexity"]));
    assert_eq!(environment("0.007"), only(NOTHING));
    back();
}

#[test]
fn an_input_counts_by_its_bytes_whatever_its_size_and_time_say() {
    let folder = built();
    let path = |name: &str| folder.path().join(name);
    for input in
        ["captions.csv", "pictures/a/frame_0.png", "listed/manifest.csv", "listed/b1.png", "language/model.safetensors"]
    {
        touch(&path(input));
    }
    assert_eq!(run(&folder, &[]), only(NOTHING), "touched, same bytes");
    // A file of a model folder that no model reads.
    folder.write("language/README.md", "where it is from");
    assert_eq!(run(&folder, &[]), only(NOTHING));

    // Other bytes of the same size under the same time.
    let swap = |bytes: &mut Vec<u8>| *bytes = text(bytes).replace("the cat sat", "the dog sat").into_bytes();
    overwrite(&path("captions.csv"), swap);
    assert_eq!(run(&folder, &[]), only(FROM_CAPTIONS));
    folder.write("captions.csv", CAPTIONS);
    assert_eq!(run(&folder, &[]), only(NOTHING), "the bytes of before");
    overwrite(&path("language/model.safetensors"), |bytes| other_end(bytes));
    assert_eq!(run(&folder, &[]), only(["projector", "perplexity"]));
    overwrite(&path("language/model.safetensors"), |bytes| other_end(bytes));
    assert_eq!(run(&folder, &[]), only(NOTHING));

    // A frame under an unchanged manifest.
    let frame = path("listed/b1.png");
    let before = std::fs::read(&frame).expect("reads");
    std::fs::copy(path("listed/a0.png"), &frame).expect("copies");
    assert_eq!(run(&folder, &[]), only(["listed"]));
    std::fs::write(&frame, before).expect("writes");
    assert_eq!(run(&folder, &[]), only(NOTHING));

    // A folder counts by what lies in it, names included.
    std::fs::rename(path("pictures/a/frame_0.png"), path("pictures/a/frame_2.png")).expect("renames");
    assert_eq!(run(&folder, &[]), only(["frames", "features", "packs", "projector", "perplexity"]));
    std::fs::rename(path("pictures/a/frame_2.png"), path("pictures/a/frame_0.png")).expect("renames");
    assert_eq!(run(&folder, &[]), only(NOTHING));
}

#[test]
fn an_output_that_was_edited_or_deleted_is_made_again_with_the_same_bytes() {
    let folder = built();
    let expected = folder.results();
    let last = artifact(&folder, "perplexity");

    overwrite(&last.join("targets.csv"), |bytes| *bytes = text(bytes).replacen('a', "b", 1).into_bytes());
    let reasons = folder.ok(&["plan", "chain.toml", "--explain"]);
    assert!(reasons.contains("its artifact is damaged"), "{reasons}");
    assert_eq!(run(&folder, &[]), only(["perplexity"]), "edited, size and time kept");
    assert_eq!(folder.results(), expected);

    std::fs::remove_file(last.join("summary.json")).expect("removes");
    assert_eq!(run(&folder, &[]), only(["perplexity"]), "one file deleted");
    std::fs::remove_dir_all(&last).expect("removes");
    assert_eq!(run(&folder, &[]), only(["perplexity"]), "deleted");
    std::fs::write(last.join("step.json"), "{").expect("writes");
    assert_eq!(run(&folder, &[]), only(["perplexity"]), "the record is no record");
    assert_eq!(folder.results(), expected);

    // What the step did not write, and touching, damages nothing.
    std::fs::write(last.join(".DS_Store"), "desktop").expect("writes");
    touch(&last.join("targets.csv"));
    assert_eq!(run(&folder, &[]), only(NOTHING));
    std::fs::remove_file(last.join(".DS_Store")).expect("removes");

    // A damaged step in the middle: nobody asks for it until something is to be built on it.
    let middle = artifact(&folder, "projector");
    overwrite(&middle.join("projector.safetensors"), |bytes| other_end(bytes));
    assert_eq!(run(&folder, &[]), only(NOTHING));
    let verified = folder.soctok(&["verify"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(text(&verified.stdout).contains("`projector.safetensors` has other bytes"), "{}", text(&verified.stdout));
    assert_eq!(run(&folder, &["--set", "perplexity.split=train"]), only(["projector", "perplexity"]));
    folder.ok(&["verify"]);
    for (file, bytes) in expected {
        assert_eq!(folder.results()[&file], bytes, "{file}");
    }

    // A store that was copied has other inodes and times, and the same bytes.
    let copied = Command::new("cp").args(["-r", "soctok-store", "copy"]).current_dir(folder.path()).status();
    assert!(copied.expect("cp starts").success());
    assert_eq!(run(&folder, &["--store", "copy"]), only(NOTHING));
}

#[test]
fn an_upstream_step_that_gives_the_same_bytes_stops_the_wave() {
    let folder = built();
    let expected = folder.results();
    // Links to the frames instead of copies: another step, the same bytes to whoever reads them.
    let found = run(&folder, &["--set", "frames.place=link"]);
    assert_eq!(found.executed, BTreeSet::from(["frames".to_owned()]));
    assert_eq!(found.cut_off, ["features", "packs", "projector", "perplexity"].map(str::to_owned).into());
    assert_eq!(run(&folder, &["--set", "frames.place=link"]), only(NOTHING));
    // The end of the chain is the artifact of before, under another key.
    let figures = |arguments: &[&str]| {
        let results = folder.json(&[&["results", "chain.toml"], arguments].concat());
        results[0]["figures"]["perplexity"].clone()
    };
    assert_eq!(figures(&[]), figures(&["--set", "frames.place=link"]));
    // An equal that is damaged is no equal.
    let last = artifact(&folder, "perplexity");
    overwrite(&last.join("targets.csv"), |bytes| *bytes = text(bytes).replacen('a', "b", 1).into_bytes());
    assert_eq!(run(&folder, &["--set", "frames.place=link"]).executed, ["perplexity".to_owned()].into());
    assert_eq!(run(&folder, &[]).cut_off, ["perplexity".to_owned()].into());
    for (file, bytes) in expected {
        assert_eq!(folder.results()[&file], bytes, "{file}");
    }
}

/// `note` with one more setting, as a later version of soctok may have it.
struct LaterNote;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LaterConfig {
    text: String,
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["note"]))]
    after: Option<Reference>,
    #[serde(default)]
    repetitions: u64,
}

impl Stage for LaterNote {
    const KIND: &'static str = "note";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Writes its text";
    const GIVES: &'static [&'static str] = &["note"];
    type Config = LaterConfig;

    fn run(_config: &LaterConfig, _inputs: &Inputs, _context: &Context) -> Result<Summary> {
        unreachable!("this test only plans")
    }
}

#[test]
fn a_new_setting_with_a_default_moves_no_key() {
    let folder = Folder::new();
    folder.write("notes.toml", support::NOTES);
    folder.ok(&["run", "notes.toml"]);
    let store = Store::open(folder.path().join("soctok-store"));
    let mut kinds = soctok::stages::kinds();
    *kinds.iter_mut().find(|kind| kind.name == "note").expect("is there") = Kind::of::<LaterNote>();
    let needed = |sets: &[&str], kinds: &[Kind]| -> BTreeMap<String, bool> {
        let options = soctok::experiment::LoadOptions {
            sets: sets.iter().map(|&set| set.to_owned()).collect(),
            ..Default::default()
        };
        let experiment = soctok::experiment::load(&folder.path().join("notes.toml"), &options, kinds).expect("loads");
        let plan = plan(&experiment, kinds, &store, Reading::Everything).expect("plans");
        plan.steps.iter().map(|step| (step.name(), step.is_needed)).collect()
    };
    let before = needed(&[], &soctok::stages::kinds());
    assert_eq!((before.len(), before.values().any(|needed| *needed)), (3, false));
    assert_eq!(needed(&[], &kinds), before);
    assert_eq!(needed(&["first.repetitions=0"], &kinds), before);
    let set = needed(&["first.repetitions=2"], &kinds);
    assert_eq!(set.values().filter(|needed| **needed).count(), 3, "{set:?}");
}
