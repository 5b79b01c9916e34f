//! `soctok data check`: a folder of somebody's files. Each part of the input is a file, its first line the name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::data::{Options, check};
use soctok_fuzz::{file, folder, parts, within};

/// Names and endings that tell one form of data from another.
const NAMES: [&str; 20] = [
    "captions.csv",
    "transcripts.jsonl",
    "train/V00_S0809_I00000582_P0947.json",
    "test/V00_S0809_I00000582_P0950.jsonl",
    "manifest.csv",
    "frames/a/frame_1.png",
    "frames/a/frame_2.jpg",
    "frames/b/0001.png",
    "a.mp4",
    "features/features.npy",
    "features/frames.csv",
    "packs/packs.json",
    "packs/clips.csv",
    "packs/locals.csv",
    "packs/global.npy",
    "packs/locals.npy",
    "original/scene_packs_manifest.csv",
    "original/0cc175b9c0f1b6a831c399e269772661_global.npy",
    "splits.csv",
    "rsm.csv",
];

fuzz_target!(|data: &[u8]| {
    let root = folder().join("data");
    std::fs::remove_dir_all(&root).ok();
    std::fs::create_dir_all(&root).expect("makes a folder");
    for part in parts::<12>(data) {
        let end = part.iter().position(|byte| *byte == b'\n').unwrap_or(part.len());
        let name = String::from_utf8_lossy(&part[..end]);
        let known = NAMES.into_iter().find(|known| *known == name).unwrap_or("triplets.csv");
        file(&format!("data/{known}"), part.get(end + 1..).unwrap_or_default());
    }
    // A byte of a picture can stand for 8,256 pixels; see the target `image`.
    within(8 * 8256, data, || {
        for quick in [false, true] {
            let report = check(&root, &Options { quick, ..Options::default() });
            serde_json::to_string(&report).expect("a report can be written");
        }
    });
});
