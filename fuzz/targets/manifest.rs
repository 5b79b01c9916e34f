//! A frame manifest, and the pictures that it names in files that are there: an image, a packed array, a tensor.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use soctok::npy::{self, Array};
use soctok::plan::inputs;
use soctok::vision::features;
use soctok::vision::frames::{Manifest, Reader};
use soctok::vision::image::Rgb;
use soctok_fuzz::{file, folder, shown, within};

fn pictures() {
    Rgb::new(2, 1, vec![1, 2, 3, 4, 5, 6]).save_png(&folder().join("0.png")).expect("writes");
    npy::write::<u8>(&folder().join("f.npy"), &Array::new([2, 1, 2, 3], (0..12).collect())).expect("writes");
    npy::write::<u8>(&folder().join("e.npy"), &Array::new([2, 0, 2, 3], Vec::new())).expect("writes");
    // A safetensors file by hand: an f32 tensor `x` of [2, 3, 1, 1].
    let header = br#"{"x":{"dtype":"F32","shape":[2,3,1,1],"data_offsets":[0,24]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes(), &header[..], &[0; 24]].concat();
    file("p.safetensors", &bytes);
}

fuzz_target!(|data: &[u8]| {
    static PICTURES: Once = Once::new();
    PICTURES.call_once(pictures);
    let path = file("manifest.csv", data);
    within(512, data, || {
        drop(inputs::files(&path, &["frames", "text"]).map_err(|error| error.to_string()));
        let Some(manifest) = shown(Manifest::load(&path)) else { return };
        manifest.files();
        let mut reader = Reader::new(&manifest);
        for frame in 0..manifest.frames.len().min(64) {
            shown(reader.read(frame));
        }
        let zeros = Array::new([manifest.frames.len(), 2], vec![1.0; manifest.frames.len() * 2]);
        features::spread_between_clips(&manifest, &zeros);
    });
});
