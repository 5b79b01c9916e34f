//! `export`, `import`, `verify --rerun`, `completions`.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;
use support::{Folder, NOTES, text};

/// Two notes of which the second is also a copy of an external file, and a comparison-free table.
const COPIED: &str = r#"
name = "copied"

[data.words]
path = "words.txt"

[stages.copy]
kind = "command"
command = ["cp", "{input:words}", "note.txt"]
version = "cp"
inputs = { words = "data:words" }
outputs = ["note.txt"]
gives = ["note"]

[stages.last]
kind = "note"
text = "end"
after = "stage:copy"

[axes.ending]
to = ["last.text"]
values = ["end", "fin"]
"#;

fn copied() -> Folder {
    let folder = Folder::new();
    folder.write("words.txt", "words from outside\n");
    folder.write("copied.toml", COPIED);
    folder
}

/// Every file of a store's artifacts and runs with its bytes; links are followed.
fn bytes(store: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for part in ["steps", "runs", "outputs", "inputs"] {
        let files = soctok::store::digest::files_below(&store.join(part)).expect("reads");
        found.extend(
            files.into_iter().map(|(name, path)| (format!("{part}/{name}"), std::fs::read(path).expect("reads"))),
        );
    }
    found
}

/// Copies an archive, with what `change` makes of each entry (`None` leaves it out).
fn changed(from: &Path, to: &Path, change: impl Fn(&str, Vec<u8>) -> Option<(String, Vec<u8>)>) {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(from).expect("opens")).expect("is an archive");
    let mut writer = zip::ZipWriter::new(std::fs::File::create(to).expect("creates"));
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).expect("is there");
        let name = entry.name().expect("is text").into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("reads");
        if let Some((name, bytes)) = change(&name, bytes) {
            writer.start_file(name, zip::write::SimpleFileOptions::default()).expect("writes");
            writer.write_all(&bytes).expect("writes");
        }
    }
    writer.finish().expect("writes");
}

#[test]
fn an_exported_experiment_replays_from_another_store() {
    let here = copied();
    assert_eq!(here.json(&["run", "copied.toml"])["executed"], 3);
    let facts = here.json(&["export", "copied", "-o", "copied.zip"]);
    assert_eq!((facts["runs"].as_array().map(Vec::len), facts["steps"].as_array().map(Vec::len)), (Some(2), Some(3)));

    let there = copied();
    std::fs::copy(here.path().join("copied.zip"), there.path().join("copied.zip")).expect("copies");
    let facts = there.json(&["import", "copied.zip", "--store", "store"]);
    assert_eq!((&facts["new_runs"], &facts["new_steps"]), (&2.into(), &3.into()));
    assert_eq!(bytes(&here.path().join("soctok-store")), bytes(&there.path().join("store")));
    assert!(there.ok(&["verify", "--store", "store"]).contains("3 artifacts, 0 damaged"));
    let facts = there.json(&["run", "copied.toml", "--store", "store"]);
    assert_eq!((&facts["executed"], &facts["cut_off"]), (&0.into(), &0.into()));
    // Each run also replays by itself, from the file that came along.
    let run = facts["points"][1]["run"].as_str().expect("a hash").to_owned();
    let file = format!("store/runs/{run}/experiment.toml");
    let alone = there.json(&["run", &file, "--store", "store"]);
    assert_eq!((&alone["executed"], &alone["points"][0]["run"]), (&0.into(), &run.into()));
    assert!(there.ok(&["diff", "copied/ending=end", "copied/ending=fin", "--store", "store"]).contains("last.text"));
    // A second time nothing is new.
    let facts = there.json(&["import", "copied.zip", "--store", "store"]);
    assert_eq!((&facts["new_runs"], &facts["new_steps"]), (&0.into(), &0.into()));
    // The bytes of the input count, wherever it lies: other words, other steps.
    there.write("words.txt", "other words\n");
    assert_eq!(there.json(&["run", "copied.toml", "--store", "store"])["executed"], 3);
}

/// An experiment above another, with a profile: what the archive holds is all of it in one file.
#[test]
fn who_gets_an_archive_runs_the_same_experiment_from_it() {
    let here = copied();
    let above = "#:schema ../schema.json\n# Which ending\n# is it?\n\nextends = \"copied.toml\"\nname = \"above\"\n\
        [run]\njobs = 2\n[profiles.more.axes.ending]\nvalues = [\"z\", \"a\", \"m\"]\n\
        [axes.form.values]\nz = { \"last.after\" = \"stage:copy\" }\na = { \"last.after\" = \"stage:copy\", \"copy.version\" = \"é\\n\" }\n\
        [tables.t]\nvalue = \"last.characters\"\nrows = [\"form\", \"ending\"]\n\
        [tables.t.published.p]\nwhere = { ending = \"z\" }\nvalue = 1e-3\n";
    here.write("above.toml", above);
    let options = ["--profile", "more", "--set", "copy.version=v3", "--set", "axes.ending.values=[\"z\", \"b\"]"];
    here.ok(&[&["run", "above.toml"], &options[..]].concat());
    let shown = |folder: &Folder, arguments: &[&str]| folder.json(&[&["results"], arguments].concat());
    let points = shown(&here, &[&["above.toml"], &options[..]].concat());
    let table = here.ok(&[&["table", "above.toml"], &options[..]].concat());
    // An edit that changes no run: the archive has the file as it ran last.
    here.write("above.toml", &above.replace("is it?", "shall it be?"));
    here.ok(&[&["run", "above.toml"], &options[..]].concat());
    here.ok(&["export", "above"]);

    let there = Folder::new();
    there.write("words.txt", "words from outside\n");
    std::fs::copy(here.path().join("above.zip"), there.path().join("above.zip")).expect("copies");
    let said = there.ok(&["import", "above.zip", "--store", "store"]);
    let file = "store/runs/by-name/above/experiment.toml";
    assert!(said.contains(&format!("replay with: soctok run {file} --store store")), "{said}");
    let written = std::fs::read_to_string(there.path().join(file)).expect("reads");
    assert!(written.starts_with("# Which ending\n# shall it be?\n\nname = \"above\"\nprotocol = "), "{written}");
    assert!(!written.contains("extends") && !written.contains("jobs"), "{written}");
    let plan = there.json(&["plan", file, "--store", "store"]);
    let steps = plan["steps"].as_array().expect("a list");
    assert!(!steps.is_empty() && steps.iter().all(|step| step["state"] == "done"), "{plan}");
    assert!(there.ok(&["plan", file, "--store", "store"]).contains("0 to run"));
    let again = shown(&there, &[file, "--store", "store"]);
    let runs = |points: &Value| {
        let each = points.as_array().expect("a list").iter();
        each.map(|point| (point["coordinates"].clone(), point["run"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(runs(&points), runs(&again), "the same points in the same order");
    assert_eq!(table, there.ok(&["table", file, "--store", "store"]));
    // The file that was run from there is itself.
    assert_eq!(there.json(&["run", file, "--store", "store"])["executed"], 0);
    assert_eq!(std::fs::read_to_string(there.path().join(file)).expect("reads"), written);
    let texts = std::fs::read_dir(there.path().join("store/runs/experiments")).expect("reads").count();
    assert_eq!(texts, 2, "the file before the edit made the runs, the one after it ran last");
    // Under a name that is taken the file lies by its digest.
    there.write("copied.toml", &COPIED.replace("name = \"copied\"", "name = \"above\""));
    there.ok(&["run", "copied.toml", "--store", "taken"]);
    let facts = there.json(&["import", "above.zip", "--store", "taken"]);
    let file = facts["experiments"]["above"].as_str().expect("a path");
    assert!(file.starts_with("taken/runs/experiments/") && there.path().join(file).is_file(), "{file}");
    assert_eq!(there.json(&["run", file, "--store", "taken"])["executed"], 0);
}

#[test]
fn one_run_exports_alone_with_what_it_was_made_of() {
    let here = copied();
    here.ok(&["run", "copied.toml"]);
    let said = here.ok(&["export", "copied/ending=fin"]);
    assert!(said.starts_with("copied-ending=fin.zip: 1 runs, 2 artifacts"), "{said}");
    let archive = here.path().join("copied-ending=fin.zip");
    let mut zip = zip::ZipArchive::new(std::fs::File::open(&archive).expect("opens")).expect("is an archive");
    let mut entry = |name: &str| {
        let mut text = String::new();
        zip.by_name(name).expect("is there").read_to_string(&mut text).expect("is text");
        text
    };
    let readme = entry("README.md");
    assert!(readme.contains("`data:words`: `words.txt`, 1 file,") && readme.contains("soctok import"), "{readme}");
    let inputs: Value = serde_json::from_str(&entry("inputs.json")).expect("is JSON");
    let expected = blake3::hash(b"words from outside\n").to_hex().to_string();
    assert_eq!(inputs["data:words"][0]["files"][""], *expected);
    let output = here.soctok(&["export", "copied/ending=fin"]);
    assert_eq!(output.status.code(), Some(2), "an archive is not overwritten");
    std::fs::create_dir(here.path().join("again")).expect("makes a folder");
    here.ok(&["export", "copied/ending=fin", "-o", "again/copied-ending=fin.zip"]);
    let again = std::fs::read(here.path().join("again/copied-ending=fin.zip")).expect("reads");
    assert!(again == std::fs::read(&archive).expect("reads"), "equal contents are equal bytes");
    // Records alone are small, can be read, and cannot pass for artifacts.
    here.ok(&["export", "copied", "-o", "records.zip", "--no-artifacts"]);
    let output = here.soctok(&["import", "records.zip", "--store", "other"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("holds records only"), "{}", text(&output.stderr));
    let output = here.soctok(&["export", "nothing"]);
    assert!(text(&output.stderr).contains("no run `nothing`"), "{}", text(&output.stderr));
}

#[test]
fn an_archive_that_was_changed_leaves_nothing_in_the_store() {
    let folder = copied();
    folder.ok(&["run", "copied.toml"]);
    folder.ok(&["export", "copied", "-o", "good.zip"]);
    let (good, bad) = (folder.path().join("good.zip"), folder.path().join("bad.zip"));
    let refused = |expected: &str| {
        let output = folder.soctok(&["import", "bad.zip", "--store", "other"]);
        assert_eq!(output.status.code(), Some(2), "{expected}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(expected), "{expected}: {}", text(&output.stderr));
        assert!(bytes(&folder.path().join("other")).is_empty(), "{expected}");
        let work = std::fs::read_dir(folder.path().join("other/work")).expect("reads");
        assert_eq!(work.count(), 0, "{expected}: nothing is left over");
        assert!(!folder.path().join("escaped").exists());
    };
    let edit = |end: &'static str, from: &'static str, to: &'static str| {
        move |name: &str, bytes: Vec<u8>| {
            let bytes = if name.ends_with(end) { text(&bytes).replace(from, to).into_bytes() } else { bytes };
            Some((name.to_owned(), bytes))
        }
    };
    changed(&good, &bad, edit("note.txt", "end", "END"));
    refused("has other bytes");
    changed(&good, &bad, edit("step.json", "\"fin\"", "\"end\""));
    refused("is another step's");
    changed(&good, &bad, |name, bytes| (!name.ends_with("note.txt")).then(|| (name.to_owned(), bytes)));
    refused("is missing");
    changed(&good, &bad, |name, bytes| {
        let name = if name == "inputs.json" { "../../escaped" } else { name };
        Some((name.to_owned(), bytes))
    });
    refused("no plain file below the archive");
    changed(&good, &bad, edit("archive.json", "\"copied/ending=end\"", "\"../../escaped\""));
    refused("names what it does not hold");
    changed(&good, &bad, edit("archive.json", "\"format\": 2", "\"format\": 3"));
    refused("format 3");
    changed(&good, &bad, |name, bytes| {
        let bytes = if name.starts_with("experiments/") { [&bytes[..], b"# more\n"].concat() } else { bytes };
        Some((name.to_owned(), bytes))
    });
    refused("is missing or has other bytes");
    changed(&good, &bad, |name, bytes| (!name.starts_with("experiments/")).then(|| (name.to_owned(), bytes)));
    refused("is missing or has other bytes");
    let whole = std::fs::read(&good).expect("reads");
    std::fs::write(&bad, &whole[..whole.len() / 2]).expect("writes");
    let output = folder.soctok(&["import", "bad.zip", "--store", "other"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn finished_steps_run_again_beside_the_store() {
    let folder = Folder::new();
    let random = "\n[stages.random]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", '''\n\
                  n=$(od -An -N4 -tu4 /dev/urandom); echo \"{{\\\"n\\\": $n}}\" > summary.json; echo \"x,$n.5\" > a.csv; pwd > b.txt''']\n\
                  version = \"sh\"\noutputs = [\"a.csv\", \"b.txt\"]\n";
    folder.write("same.toml", NOTES);
    folder.write("random.toml", &format!("{NOTES}{random}"));
    let output = folder.soctok(&["verify", "same.toml", "--rerun", "2"]);
    assert_eq!(output.status.code(), Some(2), "there is no store yet");
    folder.ok(&["run", "random.toml"]);
    let before = bytes(&folder.path().join("soctok-store"));
    let said = folder.ok(&["verify", "same.toml", "--rerun", "9"]);
    assert!(said.contains("3 of 3 finished steps run again: 0 differ, 0 failed"), "{said}");
    assert!(said.contains("the same bytes in 2 files"), "{said}");
    // Which two are run again is drawn by the seed.
    let drawn = |seed: &str| {
        let facts = folder.json(&["verify", "random.toml", "--rerun", "2", "--seed", seed]);
        let steps = facts["steps"].as_array().expect("a list").iter().map(|step| step["step"].to_string());
        steps.collect::<Vec<_>>()
    };
    let without = |seed: &&String| {
        let output = folder.soctok(&["verify", "random.toml", "--rerun", "2", "--seed", seed]);
        output.status.success()
    };
    let seeds: Vec<String> = (0..40).map(|seed| seed.to_string()).collect();
    let harmless: Vec<&String> = seeds.iter().filter(without).take(2).collect();
    assert_eq!(drawn(harmless[0]), drawn(harmless[0]));
    let output = folder.soctok(&["verify", "random.toml", "--rerun", "4"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("4 of 4 finished steps run again: 1 differ, 0 failed"), "{said}");
    assert!(said.contains("`a.csv` 1 of 1 numbers differ, by ") && said.contains("`b.txt` has other bytes"), "{said}");
    assert_eq!(bytes(&folder.path().join("soctok-store")), before, "the store is only read");
    let output = folder.soctok(&["verify", "--rerun", "1"]);
    assert_eq!(output.status.code(), Some(2), "which steps there are stands in an experiment file");
}

#[test]
fn completions_name_every_command() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = folder.ok(&["completions", shell]);
        for command in ["check", "run", "export", "import", "completions"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}
