//! Models: one file or folder per model, self-contained, with the checkpoint's own names.
//!
//! Tensors carry their device, so nothing here is generic over a backend. Loaded models can be shared between threads
//! (`Arc<Gemma>` in the model cache): Burn's parameters are `Sync` from 0.22 on, which a test below keeps true.

pub mod checkpoint;
mod dense;
pub mod device;
pub mod dinov2;
pub mod gemma;
pub mod language;
pub mod lora;
pub mod optimizer;
pub mod projector;

pub use checkpoint::CheckpointError;
pub use device::DeviceError;
pub use dinov2::{Dinov2, Dinov2Config, PositionResampling};
pub use gemma::{Gemma, GemmaConfig};
pub use language::LanguageModel;
pub use optimizer::{AdamW, AdamWConfig};
pub use projector::{Projector, ProjectorConfig};

#[cfg(test)]
mod tests {
    #[test]
    fn models_can_be_shared_between_threads() {
        fn shared<M: std::any::Any + Send + Sync>() {}
        shared::<super::Dinov2>();
        shared::<super::Gemma>();
        shared::<super::LanguageModel>();
        shared::<super::Projector>();
    }
}
