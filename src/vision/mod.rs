//! Pictures: image transform, frame manifests, the simulated world.

pub mod features;
pub mod frames;
pub mod image;
pub mod video;
pub mod world;
