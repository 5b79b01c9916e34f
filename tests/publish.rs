//! What is published in a store: whole from the first moment it is seen, and under a key only what belongs to it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use soctok::store::Store;
use support::{Folder, NOTES};

/// What comes into folders, in its order, as the kernel tells it: nothing is missed, however short it was there.
struct Watch {
    events: File,
    folders: BTreeMap<i32, PathBuf>,
}

/// Something came into a folder, or a file in it was written.
#[derive(Debug)]
struct Event {
    folder: PathBuf,
    name: String,
    /// In one move, as opposed to made or written in its place.
    is_move: bool,
}

impl Watch {
    fn new(folders: &[PathBuf]) -> Self {
        // SAFETY: the call takes no pointer; the descriptor is new and nobody else's.
        let events = unsafe {
            let descriptor = libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC);
            assert!(descriptor >= 0, "{}", std::io::Error::last_os_error());
            File::from_raw_fd(descriptor)
        };
        let mask = libc::IN_CREATE | libc::IN_MODIFY | libc::IN_CLOSE_WRITE | libc::IN_MOVED_TO;
        let watched = folders.iter().map(|folder| {
            let name = std::ffi::CString::new(folder.as_os_str().as_bytes()).expect("a path");
            // SAFETY: `name` ends in a zero byte and lives until the call is over.
            let number = unsafe { libc::inotify_add_watch(events.as_raw_fd(), name.as_ptr(), mask) };
            assert!(number >= 0, "{}: {}", folder.display(), std::io::Error::last_os_error());
            (number, folder.clone())
        });
        let folders = watched.collect();
        Self { events, folders }
    }

    /// All that has happened so far.
    fn events(mut self) -> Vec<Event> {
        let (mut events, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            let mut rest = match self.events.read(&mut buffer) {
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return events,
                Err(error) => panic!("{error}"),
            };
            // Folder, kind, a number that ties moves together, length of the name: 4 bytes each; the name, filled up
            // with zeros.
            while let Some((head, after)) = rest.split_first_chunk::<16>() {
                let word = |index: usize| head[4 * index..4 * index + 4].try_into().expect("four bytes");
                let (kind, length) = (u32::from_ne_bytes(word(1)), u32::from_ne_bytes(word(3)) as usize);
                assert_eq!(kind & libc::IN_Q_OVERFLOW, 0, "too much happened");
                let name = after[..length].split(|byte| *byte == 0).next().unwrap_or_default();
                events.push(Event {
                    folder: self.folders[&i32::from_ne_bytes(word(0))].clone(),
                    name: support::text(name),
                    is_move: kind & libc::IN_MOVED_TO != 0,
                });
                rest = &after[length..];
            }
        }
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("reads");
    entries.map(|entry| entry.expect("reads").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn what_a_run_publishes_comes_into_its_place_in_one_move() {
    let folder = Folder::with_chain();
    folder.ok(&["run", "chain.toml"]);
    let store = folder.path().join("soctok-store");
    let runs = names(&store.join("runs"))
        .into_iter()
        .find(|name| !["by-name", "experiments"].contains(&&**name))
        .expect("one run");
    let run = store.join("runs").join(runs);
    let places = ["steps", "outputs", "inputs", "runs/by-name/chain"].map(|name| store.join(name));
    let folders = [&places[..], std::slice::from_ref(&run)].concat();
    // The same once more, into folders that are there and empty.
    let before: Vec<BTreeSet<String>> = folders.iter().map(|folder| names(folder)).collect();
    for path in folders.iter().zip(&before).flat_map(|(folder, names)| names.iter().map(|name| folder.join(name))) {
        let is_folder = path.symlink_metadata().expect("is there").is_dir();
        let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.expect("removes");
    }
    let watch = Watch::new(&folders);
    assert_eq!(folder.json(&["run", "chain.toml"])["executed"], 8);
    let events = watch.events();
    for (folder, before) in folders.iter().zip(before) {
        let here: Vec<&Event> = events.iter().filter(|event| event.folder == *folder).collect();
        let in_place: Vec<&&Event> = here.iter().filter(|event| !event.is_move).collect();
        assert!(in_place.is_empty(), "written where it is read: {in_place:?}");
        let moved: BTreeSet<String> = here.iter().map(|event| event.name.clone()).collect();
        assert_eq!((moved.len(), &moved), (here.len(), &before), "each once: {here:?}");
        assert!(!before.is_empty() && names(folder) == before, "{}", folder.display());
    }
    let last = events.iter().rfind(|event| event.folder == run).expect("the run was written");
    assert_eq!(last.name, "results.json", "a run with results is complete");
    let link = events.iter().position(|event| event.folder == places[3]).expect("its link was written");
    assert!(events[..link].iter().any(|event| event.name == "results.json"), "the link leads to a complete run");
}

#[test]
fn a_reader_of_a_file_that_is_replaced_reads_the_old_one_to_its_end() {
    let folder = Folder::new();
    let store = Store::open(folder.path().join("soctok-store"));
    store.create().expect("makes the folders");
    let path = folder.path().join("soctok-store/outputs/key");
    let (old, new) = (vec![1; 3000], vec![2; 2000]);
    store.write_atomically(&path, &old).expect("writes");
    let (mut reader, mut read) = (File::open(&path).expect("opens"), vec![0; 1000]);
    reader.read_exact(&mut read).expect("reads");
    store.write_atomically(&path, &new).expect("writes");
    reader.read_to_end(&mut read).expect("reads");
    assert!(read == old, "a part of each");
    assert!(std::fs::read(&path).expect("reads") == new);
    assert!(names(&folder.path().join("soctok-store/work")).is_empty(), "no draft is left");
}

#[test]
fn an_alias_of_an_alias_leads_to_the_artifact_itself() {
    let folder = Folder::new();
    folder.write("notes.toml", NOTES);
    folder.ok(&["run", "notes.toml"]);
    let store = Store::open(folder.path().join("soctok-store"));
    let artifact = names(&folder.path().join("soctok-store/steps")).pop_first().expect("three notes");
    let [one, two] = ["1", "2"].map(|digit| format!("note-{}", digit.repeat(32)));
    store.alias(&one, &artifact).expect("links");
    store.alias(&two, &one).expect("links");
    assert_eq!(store.alias_of(&two), Some(artifact));
    // Collecting the one between them takes nothing from the other.
    store.remove(&one).expect("removes");
    assert!(!store.is_done(&one) && store.is_done(&two));
}

/// A hand may put anything there.
#[test]
fn whatever_stands_in_the_place_of_an_artifact_makes_way() {
    let folder = Folder::new();
    folder.write("notes.toml", NOTES);
    folder.ok(&["run", "notes.toml"]);
    let expected = folder.results();
    let steps = folder.path().join("soctok-store/steps");
    let paths: Vec<PathBuf> = names(&steps).iter().map(|name| steps.join(name)).collect();
    let [file, link, empty] = &paths[..] else { panic!("not three notes: {paths:?}") };
    paths.iter().for_each(|path| std::fs::remove_dir_all(path).expect("removes"));
    std::fs::write(file, "no artifact").expect("writes");
    std::os::unix::fs::symlink("nowhere", link).expect("links");
    std::fs::create_dir(empty).expect("makes the folder");
    assert_eq!(folder.json(&["run", "notes.toml"])["executed"], 3);
    assert!(folder.results() == expected, "the bytes of before");
    assert!(names(&folder.path().join("soctok-store/work")).is_empty(), "nothing is left behind");
}

/// A program that gives other bytes for the same key, as one does that reads what it does not declare.
#[test]
fn an_artifact_that_was_made_again_from_other_bytes_stands_for_those_alone() {
    let folder = Folder::new();
    let branch = |name: &str, version: &str| {
        format!(
            r#"
[stages.{name}]
kind = "command"
command = ["cp", "{}/undeclared.txt", "read.txt"]
version = "{version}"
outputs = ["read.txt"]
[stages.{name}-copy]
kind = "command"
command = ["cp", "{{input:from}}/read.txt", "copy.txt"]
version = "POSIX cp"
inputs = {{ from = "stage:{name}" }}
outputs = ["copy.txt"]
"#,
            folder.path().display()
        )
    };
    folder.write("two.toml", &["name = \"two\"\n", &branch("one", "1"), &branch("other", "2")].concat());
    let run = |bytes: &str, stage: &str| {
        folder.write("undeclared.txt", bytes);
        let facts = folder.json(&["run", "two.toml", "--only", stage]);
        (facts["executed"].as_u64().expect("a count"), facts["cut_off"].as_u64().expect("a count"))
    };
    let copied = |stage: &str| {
        let step = folder.json(&["plan", "two.toml"])["points"][0]["steps"][stage].as_str().expect("a name").to_owned();
        std::fs::read_to_string(folder.path().join("soctok-store/steps").join(step).join("copy.txt")).expect("reads")
    };
    assert_eq!(run("first\n", "one-copy"), (2, 0));
    // The store lost both, and the program reads something else now.
    for step in names(&folder.path().join("soctok-store/steps")) {
        std::fs::remove_dir_all(folder.path().join("soctok-store/steps").join(step)).expect("removes");
    }
    assert_eq!(run("second\n", "one-copy"), (2, 0));
    // The bytes of before, from another step: the copy of the second is none of them.
    assert_eq!(run("first\n", "other-copy"), (2, 0));
    assert_eq!((copied("one-copy").as_str(), copied("other-copy").as_str()), ("second\n", "first\n"));
}
