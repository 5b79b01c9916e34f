//! The store's own records, which a crash, a full disk or a hand may have damaged: of a finished step, of one under way,
//! of an input's files, and the memory of digests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::store::Store;
use soctok_fuzz::{file, folder, parts, shown, within};

fuzz_target!(|data: &[u8]| {
    let [record, summary, listing, signatures, lease, progress, index] = parts(data);
    file("store/steps/note-1/step.json", record);
    file("store/steps/note-1/summary.json", summary);
    file("store/steps/note-1/note.txt", b"text");
    file("store/inputs/digest", listing);
    file("store/signatures", signatures);
    file("store/work/note-2.lease", lease);
    file("store/work/note-2/progress.json", progress);
    file("store/outputs/key", index);
    within(1024, data, || {
        let store = Store::open(folder().join("store"));
        shown(store.record("note-1"));
        shown(store.summary("note-1"));
        shown(store.verify("note-1"));
        shown(store.size("note-1"));
        shown(store.under_way());
        shown(store.steps());
        store.listing("digest");
        store.find_by_outputs("key");
        drop(store.signatures().known(&folder().join("store/steps/note-1/note.txt")));
    });
});
