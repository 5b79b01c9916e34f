//! Broken experiment files, made from every committed one: each mistake is reported at its place with its cure, ends with
//! 2 and writes nothing.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{Folder, text};
use toml::de::{DeTable, DeValue};

/// A file with one mistake.
struct Broken {
    what: String,
    text: String,
    /// Where the mistake stands, in bytes of `text`.
    at: usize,
    /// The word that must come first among the suggestions.
    word: Option<String>,
}

/// A key or value of the file: its path, its bytes, and for values what it is.
struct Place<'a> {
    path: Vec<String>,
    start: usize,
    end: usize,
    value: Option<&'a DeValue<'a>>,
}

fn places<'a>(table: &'a DeTable<'a>, path: &[String], found: &mut Vec<Place<'a>>) {
    for (key, value) in table {
        let path: Vec<String> = path.iter().cloned().chain([key.get_ref().to_string()]).collect();
        found.push(Place { path: path.clone(), start: key.span().start, end: key.span().end, value: None });
        value_places(value, path, found);
    }
}

fn value_places<'a>(value: &'a toml::Spanned<DeValue<'a>>, path: Vec<String>, found: &mut Vec<Place<'a>>) {
    let span = value.span();
    found.push(Place { path: path.clone(), start: span.start, end: span.end, value: Some(value.get_ref()) });
    match value.get_ref() {
        DeValue::Table(table) => places(table, &path, found),
        DeValue::Array(items) => {
            for item in items {
                value_places(item, [path.clone(), vec!["[]".to_owned()]].concat(), found);
            }
        }
        _ => {}
    }
}

/// Two neighbouring letters in the middle interchanged; `None` when there are no two different ones.
fn slip(word: &str) -> Option<String> {
    let mut letters: Vec<char> = word.chars().collect();
    let pairs = 1..letters.len();
    let middle = letters.len() / 2;
    let usable = |at: &usize| {
        letters[*at] != letters[at - 1] && letters[*at].is_alphanumeric() && letters[at - 1].is_alphanumeric()
    };
    let at = pairs.filter(usable).min_by_key(|at| at.abs_diff(middle))?;
    letters.swap(at, at - 1);
    Some(letters.into_iter().collect())
}

fn replaced(source: &str, start: usize, end: usize, by: &str) -> String {
    format!("{}{by}{}", &source[..start], &source[end..])
}

/// What a key is, by its path: a word of the grammar, an axis, a target `stage.field`, or a name that the user chose.
fn role(path: &[&str]) -> &'static str {
    match path {
        ["profiles", _, rest @ ..] => match role(rest) {
            "word" => "word",
            _ => "name",
        },
        [_] => "word",
        ["run", _]
        | ["data" | "models" | "stages" | "axes" | "exclude" | "ablations" | "comparisons" | "tables", _, _] => "word",
        ["axes", _, "values", _, _] | ["ablations", _, "set", _] => "target",
        ["exclude" | "ablations" | "tables", _, "where", _]
        | ["comparisons", _, "minuend" | "subtrahend" | "beside" | "wrong", _]
        | ["tables", _, "published", _, "where", _] => "axis",
        ["tables", _, "published", _, _] => "word",
        _ => "name",
    }
}

/// Every way in which one file is broken.
fn mutations(source: &str, kinds: &BTreeMap<String, Value>, overridden: &BTreeSet<Vec<String>>) -> Vec<Broken> {
    let table = DeTable::parse(source).expect("a committed file is TOML");
    let mut found = Vec::new();
    places(table.get_ref(), &[], &mut found);
    let mut broken = Vec::new();
    let mut add = |what: &str, text: String, at: usize, word: Option<&str>| {
        broken.push(Broken { what: what.to_owned(), text, at, word: word.map(str::to_owned) });
    };
    let kind_of = |stage: &str| {
        let kind = found.iter().find(|place| place.value.is_some() && place.path == ["stages", stage, "kind"])?;
        kinds.get(kind.value?.as_str()?)
    };
    for place in &found {
        let path: Vec<&str> = place.path.iter().map(String::as_str).collect();
        let (start, end) = (place.start, place.end);
        let Some(value) = place.value else {
            let word = path[path.len() - 1];
            let (part, offset) = match role(&path) {
                "word" | "axis" => (word, 0),
                "target" if source[start..end].starts_with('"') => match word.split_once('.') {
                    Some((stage, field)) => (field, stage.len() + 1),
                    None => continue,
                },
                _ => continue,
            };
            let Some(slipped) = slip(part) else { continue };
            let quote = usize::from(source[start..end].starts_with('"'));
            let from = start + quote + offset;
            let text = replaced(source, from, from + part.len(), &slipped);
            add(&format!("key {} misspelled", path.join(".")), text, start, Some(part));
            continue;
        };
        let name = path.join(".");
        if let ["stages", stage, "kind"] = path[..] {
            let header = found.iter().find(|place| place.path == ["stages", stage]).map_or(0, |place| place.start);
            let from = source[..start].rfind('\n').map_or(0, |at| at + 1);
            let to = source[end..].find('\n').map_or(source.len(), |at| end + at);
            if header < from {
                add(&format!("{name} is left out"), replaced(source, from, to, ""), header, None);
            }
        }
        if overridden.contains(&place.path) || path[0] == "profiles" && path.len() > 2 {
            continue;
        }
        if let Some(word) = value.as_str() {
            let misspelled = |part: &str, offset: usize| {
                Some(replaced(source, start + 1 + offset, start + 1 + offset + part.len(), &slip(part)?))
            };
            if let Some((space, target)) =
                word.split_once(':').filter(|(space, _)| ["stage", "model", "data"].contains(space))
            {
                if let Some(text) = misspelled(target, space.len() + 1) {
                    add(&format!("{name} refers to nothing"), text, start, Some(word));
                }
                let bare = replaced(source, start, end, &format!("\"{target}\""));
                add(&format!("{name} is no reference"), bare, start, Some(word));
                if let ["stages", stage, _] = path[..] {
                    let own = replaced(source, start, end, &format!("\"stage:{stage}\""));
                    add(&format!("{name} refers to its own stage"), own, start, None);
                }
                let unknown = replaced(source, start, end, "\"data:nothing_like_it\"");
                add(&format!("{name} refers to unknown data"), unknown, start, None);
            }
            let is_word = match path[..] {
                ["protocol"] | ["stages", _, "kind"] | ["comparisons", _, "kind"] => true,
                ["tables", _, "rows" | "columns" | "over"] | ["tables", _, "rows" | "columns" | "over", "[]"] => true,
                ["comparisons", _, "pair_by" | "each", "[]"]
                | ["ablations", _, "combine", "[]"]
                | ["run", "targets", "[]"] => true,
                ["exclude" | "ablations" | "tables", _, "where", ..]
                | ["comparisons", _, "minuend" | "subtrahend" | "beside" | "wrong", ..] => true,
                ["tables", _, "published", _, "where", ..] => true,
                ["stages", stage, field] => kind_of(stage).is_some_and(|kind| {
                    let field = kind["properties"][field].to_string();
                    field.contains("\"const\"") || field.contains("\"enum\"")
                }),
                _ => false,
            };
            if let (true, Some(text)) = (is_word, misspelled(word, 0)) {
                add(&format!("word {name} misspelled"), text, start, Some(word));
            }
            if let (["axes", _, "to", ..], Some((stage, field))) = (&path[..], word.split_once('.')) {
                if let Some(text) = misspelled(stage, 0) {
                    add(&format!("{name} names no stage"), text, start, Some(stage));
                }
                if let Some(text) = misspelled(field, stage.len() + 1) {
                    add(&format!("{name} names no field"), text, start, Some(field));
                }
            }
            if let (["comparisons", _, "of"] | ["tables", _, "value", ..], Some((of, _))) =
                (&path[..], word.split_once('.'))
                && let Some(text) = misspelled(of, 0)
            {
                add(&format!("{name} names nothing"), text, start, Some(of));
            }
            if let ["data" | "models", _, "path"] = path[..] {
                let text = replaced(source, start, end, "\"no/such/file\"");
                add(&format!("{name} is missing"), text, start, None);
            }
        }
        let schema = match path[..] {
            ["stages", stage, field] if field != "kind" => kind_of(stage).map(|kind| &kind["properties"][field]),
            _ => None,
        };
        let plain_field = !path.contains(&"[]") && role(&path) == "word" && path.len() > 1;
        let takes_table = schema.is_some_and(|schema| schema.to_string().contains("\"object\""));
        if plain_field && !takes_table {
            let bundles = matches!(path[..], ["axes", _, "values"]);
            let wrong = if value.is_table() || bundles { "3" } else { "{ zzz = 1 }" };
            if source.get(start..end).is_some_and(|text| !text.starts_with('[') || value.is_array()) {
                add(&format!("{name} has a wrong type"), replaced(source, start, end, wrong), start, None);
            }
        }
        if schema.is_some() && (value.is_integer() || value.is_float()) {
            add(&format!("{name} is text"), replaced(source, start, end, "\"many\""), start, None);
            add(&format!("{name} is not finite"), replaced(source, start, end, "nan"), start, None);
            if schema.is_some_and(|schema| schema["minimum"].is_number()) {
                add(&format!("{name} is out of range"), replaced(source, start, end, "-1"), start, None);
            }
        }
        if let (["axes", _, "values"], true) = (&path[..], value.is_array()) {
            add(&format!("{name} is empty"), replaced(source, start, end, "[]"), start, None);
            let first = value.as_array().and_then(|items| items.iter().next()).map(toml::Spanned::span);
            if let Some(item) = first {
                let twice = format!("{}, {}", &source[item.clone()], &source[item.clone()]);
                let at = item.end + 2;
                add(&format!("{name} has a value twice"), replaced(source, item.start, item.end, &twice), at, None);
            }
        }
        if let (["axes", _, "to"], Some(first)) =
            (&path[..], value.as_array().and_then(|items| items.iter().next()).or(None))
        {
            let target = first.get_ref().as_str().unwrap_or_default();
            let text = format!("{source}\n[axes.zzz]\nvalues = [0]\nto = [\"{target}\"]\n");
            let at = text.rfind(&format!("\"{target}\"")).expect("it was just written");
            add(&format!("two axes set {target}"), text, at, None);
        }
    }
    add("unknown section", format!("{source}\n[satges.more]\nkind = \"note\"\n"), source.len() + 2, Some("stages"));
    let (missing, at) = match found.iter().find(|place| place.value.is_some() && place.path == ["extends"]) {
        Some(base) => (replaced(source, base.start, base.end, "\"no-such-base.toml\""), base.start),
        None => (format!("extends = \"no-such-base.toml\"\n{source}"), "extends = ".len()),
    };
    add("base file missing", missing, at, None);
    add("no TOML", format!("{source}\n[run\n"), source.len() + 5, None);
    let unfinished = format!("{source}\n[zzz]\nz = \"never ends\n");
    let at = unfinished.len() - 1;
    add("unfinished text", unfinished, at, None);
    broken
}

fn experiments(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("reads").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            experiments(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
}

/// A folder that looks like the repository, in which experiments can be broken.
fn workplace() -> Folder {
    let folder = Folder::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root).expect("the repository") {
        let name = entry.expect("reads").file_name();
        let skipped = ["target", ".git", "experiments", "soctok-store", "soctok.lock"];
        if !skipped.contains(&name.to_string_lossy().as_ref()) {
            std::os::unix::fs::symlink(root.join(&name), folder.path().join(&name)).expect("links");
        }
    }
    folder
}

/// `--set` for data and models that are not on this machine, and what they replace.
fn stand_ins(source: &str, folder: &Path) -> (Vec<String>, BTreeSet<Vec<String>>) {
    let table: toml::Table = source.parse().expect("a committed file is TOML");
    let (mut sets, mut replaced) = (Vec::new(), BTreeSet::new());
    for space in ["data", "models"] {
        for (name, external) in table.get(space).and_then(toml::Value::as_table).into_iter().flatten() {
            if let Some(path) =
                external.get("path").and_then(toml::Value::as_str).filter(|path| !folder.join(path).exists())
            {
                assert!(!path.is_empty());
                sets.extend(["--set".to_owned(), format!("{space}.{name}.path=.")]);
                replaced.insert(vec![space.to_owned(), name.clone(), "path".to_owned()]);
            }
        }
    }
    (sets, replaced)
}

fn soctok(folder: &Folder, arguments: &[&str], sets: &[String]) -> Command {
    let mut command = folder.command(arguments);
    command.args(sets);
    command
}

fn listing(folder: &Path) -> BTreeSet<PathBuf> {
    walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.expect("reads").into_path()).collect()
}

#[test]
fn every_broken_experiment_is_reported_at_its_place_with_its_cure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    experiments(&root.join("experiments"), &mut files);
    experiments(&root.join("tests/experiments"), &mut files);
    let folder = workplace();
    for file in &files {
        let source = std::fs::read_to_string(file).expect("reads");
        folder.write(
            &file.strip_prefix(root).expect("it lies in the repository").display().to_string().replace("tests/", ""),
            &source,
        );
    }
    let kinds: BTreeMap<String, Value> = folder
        .json(&["stages"])
        .as_array()
        .expect("a list")
        .iter()
        .map(|kind| (kind["kind"].as_str().expect("a name").to_owned(), kind["schema"].clone()))
        .collect();
    let (mut count, mut failures) = (0, Vec::new());
    for file in &files {
        let source = std::fs::read_to_string(file).expect("reads");
        if !source.lines().any(|line| line.starts_with("name")) {
            continue;
        }
        let name =
            file.strip_prefix(root).expect("it lies in the repository").display().to_string().replace("tests/", "");
        let (sets, overridden) = stand_ins(&source, folder.path());
        let whole = soctok(&folder, &["check", &name], &sets).output().expect("soctok starts");
        assert!(whole.status.success(), "{name} is not broken:\n{}", text(&whole.stderr));
        let broken_name = name.replace(".toml", ".broken.toml");
        folder.write(&broken_name, "");
        let before = listing(folder.path());
        for (index, broken) in mutations(&source, &kinds, &overridden).into_iter().enumerate() {
            folder.write(&broken_name, &broken.text);
            let command = if index % 2 == 0 { "check" } else { "run" };
            let output = soctok(&folder, &[command, &broken_name], &sets).output().expect("soctok starts");
            let stderr = text(&output.stderr);
            let line_start = broken.text[..broken.at].rfind('\n').map_or(0, |at| at + 1);
            let line = broken.text[..broken.at].matches('\n').count() + 1;
            let column = broken.text[line_start..broken.at].chars().count() + 1;
            let place = format!("{broken_name}:{line}:{column}: error: ");
            let message = stderr.split("\n\n").find(|message| message.starts_with(&place)).unwrap_or_default();
            let cured = match &broken.word {
                Some(word) => message.contains(&format!("\nhint: did you mean `{word}`")),
                None => message.contains("\nhint: "),
            };
            count += 1;
            if output.status.code() != Some(2) || !output.stdout.is_empty() || !cured || stderr.contains("panicked") {
                let expected = broken.word.as_deref().unwrap_or("a hint");
                let code = output.status.code();
                failures.push(format!("{}: expected {place}… {expected}; exit {code:?}\n{stderr}", broken.what));
            }
        }
        assert_eq!(listing(folder.path()), before, "nothing is written");
        std::fs::remove_file(folder.path().join(&broken_name)).expect("removes");
    }
    eprintln!("{count} broken files, {} not reported as they should be", failures.len());
    assert!(failures.is_empty(), "{} of {count}:\n\n{}", failures.len(), failures.join("\n\n"));
    assert!(count >= 100, "only {count} broken files");
}

#[test]
fn settings_from_outside_are_checked_with_their_place() {
    let folder = Folder::new();
    folder.write(
        "x.toml",
        "name = \"x\"\n[stages.first]\nkind = \"note\"\ntext = \"one\"\n[profiles.quick.stages.first]\ntext = \"q\"\n",
    );
    let cases: &[(&[&str], &str, &str)] = &[
        (&["--set", "frist.text=x"], "--set:1:1: error: ", "did you mean `first`?"),
        (&["--set", "stages.frist.text=x"], "--set:1:8: error: ", "did you mean `first`?"),
        (&["--set", "first.txet=x"], "--set:1:7: error: ", "did you mean `text`?"),
        (&["--set", "first.text=3"], "--set:1:12: error: ", "put it in quotes: `\"3\"`"),
        (&["--set", "first"], "--set:1:1: error: ", "write `--set stage.field=value`"),
        (&["--profile", "quikc"], "--profile:1:1: error: ", "did you mean `quick`?"),
        (&["--device", "gpu"], "--set:1:12: error: ", "`cpu`"),
    ];
    for (arguments, place, hint) in cases {
        let output = folder.soctok(&[&["check", "x.toml"], *arguments].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with(place) && stderr.contains(hint), "{arguments:?}: {stderr}");
    }
    let mut command = folder.command(&["check", "x.toml"]);
    let output = command.env("SOCTOK_STAGES__FIRST__TXET", "x").output().expect("soctok starts");
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("environment:1:23: error: unknown key `txet`"), "{stderr}");
    let missing = folder.soctok(&["check", "y.toml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("`y.toml` cannot be read: there is no such file"));
    std::fs::write(folder.path().join("latin.toml"), b"name = \"caf\xe9\"").expect("writes");
    let stderr = text(&folder.soctok(&["check", "latin.toml"]).stderr);
    assert!(stderr.contains("it is not UTF-8 text\nhint: an experiment file is TOML in UTF-8"), "{stderr}");
    folder.write("empty.toml", "");
    let stderr = text(&folder.soctok(&["check", "empty.toml"]).stderr);
    assert!(stderr.contains("hint: add `[stages.NAME]` with its settings"), "{stderr}");
}

#[test]
fn a_setting_from_outside_that_no_point_can_see_is_refused_with_its_cure() {
    let folder = Folder::new();
    folder.write("notes.toml", support::NOTES);
    let check = |arguments: &[&str]| folder.soctok(&[&["check", "notes.toml"], arguments].concat());
    let hidden = check(&["--set", "second.text=three"]);
    let stderr = text(&hidden.stderr);
    assert_eq!(hidden.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.starts_with("--set:1:13: error: `--set` changes nothing: axis `ending` gives `second.text`"),
        "{stderr}"
    );
    assert!(stderr.contains("\nhint: for this value alone write `--set 'axes.ending.values=[\"three\"]'`"), "{stderr}");
    // The cure cures, and what the file says below an axis is a default.
    assert!(check(&["--set", "axes.ending.values=[\"three\"]"]).status.success());
    let both = ["--set", "axes.ending.values=[\"three\"]", "--set", "second.text=three"];
    assert!(check(&both).status.success(), "the axis says the same");
    assert!(check(&["--set", "first.text=uno"]).status.success());
    let output = folder.command(&["check", "notes.toml"]).env("SOCTOK_STAGES__SECOND__TEXT", "x").output();
    let stderr = text(&output.expect("soctok starts").stderr);
    assert!(stderr.starts_with("environment:1:29: error: the environment variable changes nothing"), "{stderr}");

    // Bundles of which one leaves the field alone hide nothing; those that all give it do.
    let bundles = "name = \"b\"\n[stages.first]\nkind = \"note\"\ntext = \"one\"\n[stages.second]\nkind = \"note\"\ntext = \"two\"\n\
                   [axes.way.values]\none = { \"first.text\" = \"1\" }\ntwo = { \"second.text\" = \"2\" }\n";
    folder.write("notes.toml", bundles);
    assert!(check(&["--set", "first.text=x"]).status.success());
    folder.write("notes.toml", &bundles.replace("two = {", "two = { \"first.text\" = \"2\","));
    let stderr = text(&check(&["--set", "first.text=x"]).stderr);
    assert!(stderr.contains("hint: change it in the bundles of `axes.way.values` (`one`, `two`)"), "{stderr}");
}

#[test]
fn mistakes_come_as_json_for_programs() {
    let folder = Folder::new();
    folder.write(
        "notes.toml",
        &support::NOTES.replace("text = \"one\"", "txet = \"one\"").replace("to = [\"second", "to = [\"secnd"),
    );
    for command in ["check", "run", "plan"] {
        let output = folder.soctok(&[command, "notes.toml", "--json"]);
        assert_eq!(output.status.code(), Some(2));
        let facts: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
        let mistakes = facts["mistakes"].as_array().expect("a list");
        assert_eq!(mistakes.len(), text(&output.stderr).matches(": error: ").count(), "{facts:#}");
        let first = &mistakes[0];
        assert_eq!((&first["file"], &first["line"], &first["column"]), (&"notes.toml".into(), &6.into(), &1.into()));
        assert!(first["message"].as_str().is_some_and(|message| message.contains("`txet`")), "{first}");
        assert_eq!(first["hint"], "did you mean `text`?");
    }
    let missing = folder.soctok(&["check", "y.toml", "--json"]);
    let facts: Value = serde_json::from_slice(&missing.stdout).expect("is JSON");
    assert!(facts["mistakes"][0]["file"].is_null() && facts["mistakes"][0]["message"].is_string(), "{facts}");
}
