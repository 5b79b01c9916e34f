//! An archive of `soctok export`, read into an empty store: the file itself, or the parts that it is made of (its list of
//! contents, its inputs, the results of a run, comparisons, the record of a step), which no checksum protects from changes.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use soctok::execute::archive::import;
use soctok::store::Store;
use soctok_fuzz::{file, folder, parts, shown, within};
use zip::write::SimpleFileOptions;

fn packed(data: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 6] = parts(data);
    let names = [
        "archive.json",
        "inputs.json",
        "runs/ab/results.json",
        "comparisons/n",
        "steps/note-1/step.json",
        "soctok.lock",
    ];
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, part) in names.into_iter().zip(parts).filter(|(_, part)| !part.is_empty()) {
        archive.start_file(name, options).expect("a file in memory can be written");
        archive.write_all(part).expect("a file in memory can be written");
    }
    archive.finish().expect("a file in memory can be written").into_inner()
}

fuzz_target!(|data: &[u8]| {
    let whole = if data.starts_with(b"PK") { data.to_vec() } else { packed(data) };
    let path = file("archive.zip", &whole);
    let root = folder().join("imported");
    std::fs::remove_dir_all(&root).ok();
    within(4 * 1032, &whole, || {
        shown(import(&Store::open(&root), &path));
        // Nothing half-read stays behind.
        let left = std::fs::read_dir(root.join("work")).into_iter().flatten().count();
        assert_eq!(left, 0, "something is left of the import");
    });
});
