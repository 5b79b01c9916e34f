//! `soctok plan`: how many steps there are, and why each will run.

mod support;

use serde_json::Value;
use support::Folder;

const GRID: &str = r#"
name = "grid"

[data.captions]
path = "captions.csv"
[data.judgments]
path = "judgments.csv"
[data.frames]
path = "manifest.csv"

[models.language]
path = "language"
[models.vision]
path = "vision"

[stages.features]
kind = "encode_frames"
frames = "data:frames"
encoder = "model:vision"

[stages.packs]
kind = "scene_packs"
text = "data:captions"
features = "stage:features"

[stages.projector]
kind = "train_projector"
text = "data:captions"
packs = "stage:packs"
inject = "full"

[stages.embed]
kind = "embed"
text = "data:captions"
packs = "stage:packs"
projector = "stage:projector"
inject = "full"

[stages.rsa]
kind = "rsa"
embeddings = "stage:embed"
human = "data:judgments"

[axes.inject]
to = ["embed.inject"]
values = ["none", "global", "local", "full"]

[axes.pool]
to = ["rsa.pool"]
values = ["all", "exclude_soc", "only_soc", "locals_only", "eos"]
"#;

fn grid() -> Folder {
    let folder = Folder::new();
    folder
        .write("captions.csv", "clip_id,split,caption,pos\na,test,a man waves,DET NOUN VERB\nb,test,a dog,DET NOUN\n");
    folder.write("judgments.csv", "a,b\n1,0.5\n0.5,1\n");
    folder.write("manifest.csv", "split,clip_id,frame_path,t_sec\ntest,a,a.png,0\ntest,b,b.png,0\n");
    for name in ["a.png", "b.png"] {
        folder.write(name, "a picture");
    }
    for model in ["language", "vision"] {
        folder.write(&format!("{model}/config.json"), "{}");
        folder.write(&format!("{model}/model.safetensors"), "weights");
    }
    folder.write("grid.toml", GRID);
    folder
}

fn count(plan: &Value, kind: &str) -> usize {
    plan["steps"].as_array().expect("a list").iter().filter(|step| step["kind"] == kind).count()
}

fn not_applicable(plan: &Value) -> Vec<&Value> {
    let points = plan["points"].as_array().expect("a list").iter();
    points.filter(|point| !point["not_applicable"].is_null()).collect()
}

#[test]
fn four_forwards_serve_twenty_cells() {
    let folder = grid();
    let plan = folder.json(&["plan", "grid.toml"]);
    assert_eq!(plan["points"].as_array().expect("a list").len(), 20);
    assert_eq!(count(&plan, "embed"), 4);
    assert_eq!(count(&plan, "rsa"), 17);
    assert_eq!(
        (count(&plan, "train_projector"), count(&plan, "scene_packs"), count(&plan, "encode_frames")),
        (1, 1, 1)
    );
    let mut cells: Vec<(String, String)> = not_applicable(&plan)
        .iter()
        .map(|point| {
            let label = |axis: &str| point["coordinates"][axis].as_str().expect("a label").to_owned();
            assert!(point["run"].is_null() && point["steps"].as_object().expect("a table").is_empty());
            (label("inject"), label("pool"))
        })
        .collect();
    cells.sort();
    let pair = |inject: &str, pool: &str| (inject.to_owned(), pool.to_owned());
    assert_eq!(cells, [pair("global", "locals_only"), pair("none", "locals_only"), pair("none", "only_soc")]);
}

#[test]
fn none_runs_once_for_all_projector_seeds() {
    let folder = grid();
    let seeds = "\n[axes.seed]\nto = [\"projector.seed\"]\nvalues = [0, 1, 2]\n";
    folder.write("grid.toml", &format!("{GRID}{seeds}"));
    let plan = folder.json(&["plan", "grid.toml"]);
    assert_eq!(count(&plan, "embed"), 10, "one for `none`, three for each of the other modes");
    assert_eq!(count(&plan, "train_projector"), 3);
    for seed in ["0", "1", "2"] {
        let missing = not_applicable(&plan);
        assert_eq!(missing.iter().filter(|point| point["coordinates"]["seed"] == seed).count(), 3);
    }
}

#[test]
fn planning_writes_nothing_and_the_batch_size_is_no_part_of_a_step() {
    let folder = grid();
    let before = folder.json(&["plan", "grid.toml"]);
    assert!(!folder.path().join("soctok-store").exists());
    let after = folder.json(&["plan", "grid.toml", "--set", "embed.batch=3", "--device", "cpu", "--jobs", "2"]);
    let keys = |plan: &Value| -> Vec<String> {
        plan["steps"].as_array().expect("a list").iter().map(|step| step["step"].to_string()).collect()
    };
    assert_eq!(keys(&before), keys(&after));
}

const NOTES: &str = r#"
name = "notes"

[data.captions]
path = "captions.csv"

[stages.lists]
kind = "split"
clips = "data:captions"

[stages.first]
kind = "note"
text = "one"

[stages.second]
kind = "note"
text = "two"
after = "stage:first"
"#;

/// Stage → reasons, of the steps that will run.
fn because(folder: &Folder, arguments: &[&str]) -> Vec<(String, String)> {
    let plan = folder.json(&[&["plan", "notes.toml"], arguments].concat());
    let steps = plan["steps"].as_array().expect("a list").iter();
    let mut found: Vec<(String, String)> = steps
        .filter(|step| step["state"] == "to run")
        .map(|step| {
            let reasons: Vec<&str> =
                step["because"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
            (step["stages"][0].as_str().expect("a name").to_owned(), reasons.join("; "))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn every_step_that_will_run_says_why() {
    let folder = Folder::new();
    folder.write("captions.csv", "clip_id,group,caption\na,x,one\nb,y,two\nc,z,three\n");
    folder.write("notes.toml", NOTES);
    let pair = |stage: &str, reason: &str| (stage.to_owned(), reason.to_owned());
    assert_eq!(because(&folder, &[]), [pair("first", "new"), pair("lists", "new"), pair("second", "new")]);
    folder.ok(&["run", "notes.toml"]);
    assert_eq!(because(&folder, &[]), []);
    assert_eq!(
        because(&folder, &["--set", "first.text=uno"]),
        [pair("first", "setting `text` \"one\" → \"uno\""), pair("second", "upstream `first` (after) changed")]
    );
    assert_eq!(because(&folder, &["--set", "lists.split_seed=3"]), [pair("lists", "setting `split_seed` default → 3")]);
    folder.write("captions.csv", "clip_id,group,caption\na,x,one\nb,y,two\nc,z,another\n");
    assert_eq!(because(&folder, &[]), [pair("lists", "`data:captions`: the file changed")]);
    folder.write("captions.csv", "clip_id,group,caption\na,x,one\nb,y,two\nc,z,three\n");
    assert_eq!(because(&folder, &[]), []);
    let steps = folder.path().join("soctok-store/steps");
    let plan = folder.json(&["plan", "notes.toml"]);
    let name = |stage: &str| {
        let steps = plan["steps"].as_array().expect("a list").iter();
        let step = steps.clone().find(|step| step["stages"][0] == stage).expect("is there");
        step["step"].as_str().expect("a name").to_owned()
    };
    std::fs::remove_dir_all(steps.join(name("second"))).expect("removes");
    std::fs::remove_file(steps.join(name("lists")).join("step.json")).expect("removes");
    assert_eq!(
        because(&folder, &[]),
        [pair("lists", "its artifact is damaged"), pair("second", "its artifact is missing")]
    );
    folder.ok(&["run", "notes.toml"]);
    assert_eq!(because(&folder, &[]), []);
}

/// Pictures in plain folders: how many there are is known before any is read.
#[test]
fn folders_of_frames_tell_their_number() {
    let folder = Folder::new();
    for frame in 1..=3 {
        folder.write(&format!("pictures/a/frame_{frame}.png"), &format!("{frame}"));
        folder.write(&format!("pictures/b/frames/{frame}.JPG"), &format!("b{frame}"));
    }
    folder.write("pictures/notes.txt", "no frame");
    let text = "name = \"p\"\n[data.pictures]\npath = \"pictures\"\n[stages.frames]\nkind = \"frame_manifest\"\n\
                folder = \"data:pictures\"\n[stages.features]\nkind = \"encode_frames\"\nframes = \"stage:frames\"\n\
                method = \"random_vit\"\nbatch = 32\n";
    folder.write("p.toml", text);
    let plan = folder.json(&["plan", "p.toml"]);
    let needs: Vec<&Value> = plan["steps"].as_array().expect("a list").iter().map(|step| &step["estimate"]).collect();
    assert_eq!((&needs[0]["items"], &needs[1]["items"]), (&6.into(), &6.into()), "{plan:#}");
    assert!(needs[1]["flops"].as_f64().is_some_and(|flops| flops > 0.0), "{plan:#}");
    assert_eq!(needs[1]["memory"]["setting"], serde_json::json!(["batch", 6]), "no more are at once than there are");
}
