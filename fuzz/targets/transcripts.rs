//! Transcripts: one JSON file in a foreign shape, or our own JSON lines (inputs that begin with a line break).
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::social::transcripts::{Selection, load, save};
use soctok_fuzz::{file, folder, shown, within};

fuzz_target!(|data: &[u8]| {
    let path = match data.strip_prefix(b"\n") {
        Some(lines) => file("transcripts.jsonl", lines),
        None => file("transcript.json", data),
    };
    within(2048, data, || {
        let Some(clips) = shown(load(&path, &Selection::default())) else { return };
        let copy = folder().join("copy.jsonl");
        save(&copy, &clips).expect("writes");
        let again = load(&copy, &Selection::default()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.len(), clips.len());
    });
});
