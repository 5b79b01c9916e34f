//! `soctok.lock`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::store::hub::{LOCK_FILE, Lock};
use soctok_fuzz::{file, folder, shown, within};

fuzz_target!(|data: &[u8]| {
    file(LOCK_FILE, data);
    within(1024, data, || {
        if let Some(lock) = shown(Lock::load(folder())) {
            lock.get("google/gemma-2-2b", "main");
        }
    });
});
