//! A folder of transcripts in the shapes of other projects: a JSON file (the Seamless dataset's, the seed's turns), a file
//! of JSON lines of segments, and plain text beside them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::social::times::{Timing, cut};
use soctok::social::transcripts::{Selection, load, save};
use soctok_fuzz::{file, folder, parts, shown, within};

fuzz_target!(|data: &[u8]| {
    let [json, lines, text] = parts(data);
    let root = folder().join("dialogues");
    std::fs::remove_dir_all(&root).ok();
    std::fs::create_dir_all(&root).expect("makes a folder");
    for (name, part) in [("V00_S0809_I00000582_P0947.json", json), ("V00_S0809_I00000582_P0950.jsonl", lines)] {
        if !part.is_empty() {
            file(&format!("dialogues/{name}"), part);
        }
    }
    let text = file("talk.txt", text);
    within(2048, data, || {
        shown(load(&text, &Selection::default()));
        let Some(mut clips) = shown(load(&root, &Selection::default())) else { return };
        Timing::of(&clips);
        let copy = folder().join("copy.jsonl");
        save(&copy, &clips).expect("writes");
        let again = load(&copy, &Selection::default()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.len(), clips.len());
        for clip in &mut clips {
            clip.cluster();
            cut(&mut clip.utterances, 1.0);
        }
    });
});
