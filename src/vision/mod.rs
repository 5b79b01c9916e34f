//! Pictures: the simulated world.

pub mod world;
