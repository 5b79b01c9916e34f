//! `soctok schema` and `soctok stages`: the committed schemas are those of this binary.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use support::Folder;

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.expect("reads"));
    let files = entries.filter(|entry| entry.file_type().is_file());
    files
        .map(|entry| {
            let name = entry.path().strip_prefix(folder).expect("it lies in the folder").display().to_string();
            (name, std::fs::read_to_string(entry.path()).expect("reads"))
        })
        .collect()
}

#[test]
fn committed_schemas_are_not_stale() {
    let folder = Folder::new();
    folder.ok(&["schema", "--write", "schemas"]);
    let (made, committed) =
        (files(&folder.path().join("schemas")), files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")));
    let names = made.keys().chain(committed.keys());
    let stale: Vec<&String> = names.filter(|name| made.get(*name) != committed.get(*name)).collect();
    assert!(stale.is_empty(), "stale: {stale:?}; run `soctok schema --write schemas`, and delete what no kind has");
}

#[test]
fn the_schema_of_experiments_names_every_kind_and_rule() {
    let folder = Folder::new();
    let schema = folder.ok(&["schema"]);
    for kind in folder.json(&["stages"]).as_array().expect("a list") {
        let name = kind["kind"].as_str().expect("a name");
        assert!(schema.contains(&format!("\"const\": \"{name}\"")), "{name}");
        assert!(folder.ok(&["stages", name]).starts_with(&format!("{name}: ")));
    }
    let unknown = folder.soctok(&["stages", "noet"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(support::text(&unknown.stderr).contains("did you mean `note`?"));
}
