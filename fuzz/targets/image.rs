//! An image file, through the whole transform of an encoder. A byte of a file can stand for 8,256 pixels: deflate's limit
//! of 1,032 bytes of eight one-bit pixels each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::vision::image::Rgb;
use soctok_fuzz::{file, shown, within};

fuzz_target!(|data: &[u8]| {
    let path = file("frame.png", data);
    within(8 * 8256, data, || {
        let Some(image) = shown(Rgb::open(&path)) else { return };
        let Some(image) = shown(image.resize_shorter(28)) else { return };
        let Some(image) = shown(image.centre_crop(28)) else { return };
        assert_eq!(image.normalised().len(), 3 * 28 * 28);
    });
});
