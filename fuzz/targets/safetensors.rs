//! A safetensors file: as a checkpoint, as a projector, as a DINOv2.
#![no_main]

use libfuzzer_sys::fuzz_target;
use soctok::models::checkpoint::Checkpoint;
use soctok::models::device;
use soctok::models::dinov2::{Dinov2, PositionResampling};
use soctok::models::projector::Projector;
use soctok_fuzz::{file, shown, within};

fuzz_target!(|data: &[u8]| {
    let path = file("weights.safetensors", data);
    let device = device::parse("cpu").expect("there is a CPU");
    within(1024, data, || {
        let Some(checkpoint) = shown(Checkpoint::open(&path)) else { return };
        let names: Vec<String> = checkpoint.names().cloned().collect();
        for name in &names {
            shown(checkpoint.floats(name));
        }
        shown(Projector::load(&path, None, &device));
        shown(Dinov2::load(&path, &device, PositionResampling::default()));
    });
});
