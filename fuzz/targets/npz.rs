//! An npz archive. Deflate makes up to 1,032 bytes of one, and numpy's own archives may be compressed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::npy::{read_npz, read_npz_array};
use soctok_fuzz::{file, shown, within};

fuzz_target!(|data: &[u8]| {
    let path = file("arrays.npz", data);
    within(4 * 1032, data, || {
        shown(read_npz::<f32>(&path));
        shown(read_npz::<u8>(&path));
        shown(read_npz_array::<f32>(&path, "all.last"));
    });
});
