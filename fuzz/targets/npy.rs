//! An npy file, as each type of element.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::npy::{Element, read};
use soctok_fuzz::{file, shown, within};

fn rows<T: Element>(path: &std::path::Path) {
    let Some(array) = shown(read::<T>(path)) else { return };
    assert_eq!(array.shape.iter().product::<usize>(), array.values.len());
    if let Some(&count @ 1..) = array.shape.first() {
        array.row(count - 1);
    }
}

fuzz_target!(|data: &[u8]| {
    let path = file("array.npy", data);
    within(16, data, || {
        rows::<f32>(&path);
        rows::<f64>(&path);
        rows::<i32>(&path);
        rows::<i64>(&path);
        rows::<u8>(&path);
    });
});
