//! A `tokenizer.json`, and a text that it splits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::models::language::{encode, read_tokenizer};
use soctok_fuzz::{file, parts, shown, within};

fuzz_target!(|data: &[u8]| {
    let [tokenizer, text] = parts(data);
    let path = file("tokenizer.json", tokenizer);
    let text = String::from_utf8_lossy(text);
    let work = || {
        let Some(tokenizer) = shown(read_tokenizer(&path)) else { return };
        shown(encode(&tokenizer, "the red one chases the blue one"));
        shown(encode(&tokenizer, &text));
    };
    // The crate keeps a memory for each tokenizer that a thread has used, which ends with the thread.
    within(4096, data, || std::thread::scope(|scope| scope.spawn(work).join().is_ok()));
});
