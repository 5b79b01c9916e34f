//! A model folder: `config.json`, the index of its shards and their weights; as Gemma and as DINOv2.
#![no_main]

use burn::tensor::DType;
use libfuzzer_sys::fuzz_target;
use soctok::models::device;
use soctok::models::dinov2::{Dinov2, PositionResampling};
use soctok::models::gemma::Gemma;
use soctok_fuzz::{file, folder, parts, shown, within};

fuzz_target!(|data: &[u8]| {
    let [config, index, weights] = parts(data);
    let config = file("model/config.json", config);
    file("model/model.safetensors", weights);
    file("model/one.safetensors", weights);
    let listed = folder().join("model/model.safetensors.index.json");
    if index.is_empty() {
        std::fs::remove_file(&listed).ok();
    } else {
        file("model/model.safetensors.index.json", index);
    }
    let device = device::parse("cpu").expect("there is a CPU");
    within(4096, data, || {
        let model = config.parent().expect("it lies in a folder");
        shown(Gemma::load(model, &device, DType::F32));
        shown(Dinov2::load(model, &device, PositionResampling::default()));
    });
});
