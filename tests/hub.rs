//! Hub models against a server on this machine: what is asked, what is cached, what is pinned, and where the token goes.

mod server;
mod support;

use std::path::Path;

use server::{COMMIT, OTHER_COMMIT, Server, TOKEN};
use soctok::store::hub::{Hub, HubError, Known, LOCK_FILE, Lock};

const TINY: &str = "someone/tiny";

/// A hub that asks `server` and keeps its cache in `home`.
fn hub(server: &Server, home: &Path, extra: &[(&str, &str)]) -> Hub {
    let home = home.to_string_lossy().into_owned();
    let endpoint = server.endpoint();
    let mut variables = vec![("HF_HOME", home.as_str()), ("HF_ENDPOINT", endpoint.as_str()), ("HF_TOKEN", TOKEN)];
    variables.extend_from_slice(extra);
    Hub::from_variables(|name| {
        variables.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

/// Every file below `folder` whose bytes contain the token.
fn files_with_token(folder: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| entry.path().is_file());
    let leaking = files.filter(|file| {
        let bytes = std::fs::read(file.path()).unwrap();
        bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes())
    });
    leaking.map(|file| file.path().display().to_string()).collect()
}

#[test]
fn a_branch_is_resolved_once_and_pinned() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let hub = hub(&server, &home, &[]);
    let mut lock = Lock::load(folder.path()).unwrap();
    assert_eq!(hub.known(TINY, None, &lock).unwrap(), Known::Unresolved);
    assert_eq!(server.requests(), [""; 0], "a plan sends nothing");

    let model = hub.resolve(TINY, None, &mut lock).unwrap();
    assert_eq!(model.commit, COMMIT);
    assert_eq!(model.files, ["config.json", "model.safetensors", "tokenizer.json"]);
    // The layout of Python's cache.
    let repository = home.join("hub/models--someone--tiny");
    assert_eq!(model.folder, repository.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    assert!(model.folder.join("config.json").symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read(model.folder.join("model.safetensors")).unwrap(), server::content("model.safetensors"));
    assert!(!model.folder.join("README.md").exists(), "only what counts is downloaded");
    assert!(server.requests().iter().all(|request| !request.contains("README")));
    assert!(server.authorized(), "every request carries the token");

    let text = std::fs::read_to_string(folder.path().join(LOCK_FILE)).unwrap();
    let expected = format!(
        "[[model]]\nrepository = \"{TINY}\"\nrevision = \"main\"\ncommit = \"{COMMIT}\"\n\
         files = [\"config.json\", \"model.safetensors\", \"tokenizer.json\"]\n"
    );
    assert!(text.starts_with("# Written by soctok") && text.ends_with(&expected), "{text}");

    // The branch moves on; the experiment does not, and nothing is asked any more.
    server.move_branch();
    let asked = server.requests().len();
    let mut lock = Lock::load(folder.path()).unwrap();
    assert_eq!(hub.resolve(TINY, Some("main"), &mut lock).unwrap(), model);
    assert_eq!(hub.known(TINY, None, &lock).unwrap().identity(TINY), Some(model.identity()));
    assert_eq!(server.requests().len(), asked);
    // Without the entry it is resolved anew.
    std::fs::remove_file(folder.path().join(LOCK_FILE)).unwrap();
    let moved = hub.resolve(TINY, None, &mut Lock::load(folder.path()).unwrap()).unwrap();
    assert_eq!(moved.commit, OTHER_COMMIT);
    assert_ne!(moved.identity(), model.identity());
    assert_eq!(files_with_token(folder.path()), [""; 0]);
}

#[test]
fn shards_come_with_their_index_and_a_commit_needs_no_resolving() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&server, folder.path(), &[]);
    let mut lock = Lock::load(folder.path()).unwrap();
    let model = hub.resolve("someone/sharded", Some(COMMIT), &mut lock).unwrap();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert_eq!(model.files, ["config.json", shards[0], shards[1], "model.safetensors.index.json"]);
    assert!(shards.iter().all(|shard| model.folder.join(shard).is_file()));
}

#[test]
fn offline_the_cache_serves_and_what_is_missing_is_named() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (home, work) = (folder.path().join("home"), folder.path().join("work"));
    std::fs::create_dir(&work).unwrap();
    let offline = hub(&server, &home, &[("HF_HUB_OFFLINE", "1")]);
    let error = offline.resolve(TINY, None, &mut Lock::load(&work).unwrap()).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    assert!(error.to_string().contains("hint: run once without HF_HUB_OFFLINE"), "{error}");

    let model = hub(&server, &home, &[]).resolve(TINY, None, &mut Lock::load(folder.path()).unwrap()).unwrap();
    let asked = server.requests().len();
    // A cache filled by somebody else (no lock here): the branch is what the cache says.
    let mut lock = Lock::load(&work).unwrap();
    assert_eq!(offline.resolve(TINY, None, &mut lock).unwrap(), model);
    assert!(work.join(LOCK_FILE).is_file());
    std::fs::remove_file(model.folder.join("tokenizer.json")).unwrap();
    let error = offline.resolve(TINY, None, &mut lock).unwrap_err().to_string();
    assert!(error.contains("`tokenizer.json`"), "{error}");
    assert!(matches!(offline.known(TINY, None, &lock).unwrap(), Known::Pinned { folder: None, .. }));
    assert_eq!(server.requests().len(), asked, "nothing is sent offline");
}

#[test]
fn refusals_say_what_to_do_and_never_show_the_token() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&server, folder.path(), &[]);
    let fail = |hub: &Hub, repository: &str, revision: Option<&str>| {
        let error = hub.resolve(repository, revision, &mut Lock::load(folder.path()).unwrap()).unwrap_err();
        let text = format!("{error}\n{error:?}\n{hub:?}");
        assert!(!text.contains(TOKEN), "{text}");
        text
    };
    for (repository, status) in [("gated/401", "HTTP 401"), ("gated/403", "HTTP 403")] {
        let text = fail(&hub, repository, None);
        assert!(text.contains(status) && text.contains("licence") && text.contains("set HF_TOKEN"), "{text}");
    }
    assert!(fail(&hub, "someone/nothing", None).contains("`someone/nothing` has no `main` (HTTP 404)"));
    assert!(fail(&hub, TINY, Some("no-such-branch")).contains("has no `no-such-branch`"));
    assert!(fail(&hub, "someone/pickled", None).contains("neither `model.safetensors` nor"));
    assert!(fail(&hub, "broken/500", None).contains("status: 500"));
    assert!(fail(&hub, "broken/echo", None).contains("hint: check the network"));
    assert!(fail(&hub, "../etc", None).contains("is no repository of the hub"));
    assert!(fail(&hub, TINY, Some("../../x")).contains("is no revision"));
    let nowhere = Hub::from_variables(|name| match name {
        "HF_HOME" => Some(folder.path().display().to_string()),
        "HF_ENDPOINT" => Some(server::closed_port()),
        "HF_TOKEN" => Some(TOKEN.to_owned()),
        _ => None,
    });
    assert!(fail(&nowhere, TINY, None).contains("HF_ENDPOINT"));
    assert_eq!(files_with_token(folder.path()), [""; 0]);
    assert!(!folder.path().join(LOCK_FILE).exists(), "nothing is pinned by a failure");
}

#[test]
fn a_damaged_lock_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for (text, part) in [
        ("[[model]]\nrepository = \"a/b\"\n", "missing field"),
        ("[[model]]\nrepository=\"a/b\"\nrevision=\"main\"\ncommit=\"12\"\nfiles=[]\n", "`12` is no commit"),
        ("[[models]]\n", "unknown field `models`"),
    ] {
        std::fs::write(folder.path().join(LOCK_FILE), text).unwrap();
        let error = Lock::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("hint:"), "{error}");
    }
}

#[test]
fn a_token_file_is_used_and_a_variable_goes_before_it() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let hub = hub(&server, folder.path(), &[("HF_TOKEN", "")]);
    hub.resolve(TINY, None, &mut Lock::load(folder.path()).unwrap()).unwrap();
    assert!(server.authorized());
}

const EXPERIMENT: &str = r#"
name = "hub"

[data.captions]
path = "captions.csv"
[models.language]
hub = "someone/gemma"

[stages.embed]
kind   = "embed"
text   = "data:captions"
inject = "none"
"#;

/// Whether `text` has a piece of the token, whole or as a dump of bytes shows it.
fn shows_token(text: &str) -> bool {
    let dumped = |piece: &str| {
        let hex: String = piece.bytes().map(|byte| format!("{byte:02x}")).collect();
        text.replace(' ', "").to_lowercase().contains(&hex)
    };
    (0..TOKEN.len() - 8).any(|start| text.contains(&TOKEN[start..start + 8]) || dumped(&TOKEN[start..start + 8]))
}

#[test]
fn a_run_with_a_hub_model_pins_it_and_shows_the_token_nowhere() {
    let server = Server::start();
    let folder = support::Folder::new();
    folder.write("captions.csv", "clip_id,caption\na,people walk\nb,a man smiles at the door\n");
    folder.write("hub.toml", EXPERIMENT);
    let home = tempfile::tempdir().unwrap();
    let run = |offline: bool, arguments: &[&str]| {
        let mut command = folder.command(arguments);
        for name in ["HF_HUB_CACHE", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"] {
            command.env_remove(name);
        }
        if offline {
            command.env("HF_HUB_OFFLINE", "1");
        }
        command.env("HF_HOME", home.path()).env("HF_ENDPOINT", server.endpoint()).env("HF_TOKEN", TOKEN);
        let output = command.env("RUST_LOG", "trace").output().unwrap();
        let (stdout, stderr) = (support::text(&output.stdout), support::text(&output.stderr));
        assert!(!shows_token(&stdout) && !shows_token(&stderr), "the token is shown\n{stdout}\n{stderr}");
        (output.status.code(), stdout, stderr)
    };
    let (code, _, stderr) = run(false, &["plan", "hub.toml"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(server.requests(), [""; 0], "a plan sends nothing");
    let (code, _, stderr) = run(true, &["run", "hub.toml"]);
    assert!(code != Some(0) && stderr.contains("HF_HUB_OFFLINE"), "{stderr}");
    assert_eq!(server.requests(), [""; 0], "nothing is sent offline");

    let (code, _, stderr) = run(false, &["run", "hub.toml"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(server.authorized());
    let lock = std::fs::read_to_string(folder.path().join(LOCK_FILE)).unwrap();
    assert!(lock.contains("someone/gemma") && lock.contains(COMMIT), "{lock}");
    // The branch moves and the network goes: the same step is found, nothing is asked.
    server.move_branch();
    let asked = server.requests().len();
    let (code, stdout, stderr) = run(true, &["run", "hub.toml", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let facts: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(facts["executed"], 0);
    assert_eq!(server.requests().len(), asked);

    assert_eq!(files_with_token(folder.path()), [""; 0]);
    assert_eq!(files_with_token(home.path()), [""; 0]);
    let logs = walkdir::WalkDir::new(folder.path()).into_iter().map(Result::unwrap);
    for log in logs.filter(|file| file.file_name() == "log.txt") {
        assert!(!shows_token(&std::fs::read_to_string(log.path()).unwrap()));
    }
}
