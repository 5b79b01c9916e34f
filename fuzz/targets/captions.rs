//! A captions CSV and a table of splits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::social::transcripts::{Selection, load, save};
use soctok_fuzz::{file, folder, parts, shown, within};

fuzz_target!(|data: &[u8]| {
    let [captions, table] = parts(data);
    let (path, splits) = (file("captions.csv", captions), file("splits.csv", table));
    within(1024, data, || {
        let Some(clips) = shown(load(&path, &Selection::default())) else { return };
        shown(load(&path, &Selection { caption_index: Some(1), ..Selection::default() }));
        shown(load(&path, &Selection { splits: Some(splits), split: Some("test".into()), caption_index: None }));
        // What was read can be kept and read again.
        let copy = folder().join("copy.jsonl");
        save(&copy, &clips).expect("writes");
        let again = load(&copy, &Selection::default()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.len(), clips.len());
    });
});
