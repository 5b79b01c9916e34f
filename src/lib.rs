//! soctok runs declarative experiments with social tokens: visual features projected into a frozen language model.
//!
//! The data goes one way: an experiment file is parsed ([`experiment`]), resolved to points, planned to steps with keys
//! ([`plan`]), executed ([`execute`]) into the store ([`store`]) and read back as tables ([`report`]). What a step does
//! is a stage ([`stages`]); stages are made of [`models`], [`social`], [`vision`] and [`stats`].

pub mod cli;
pub mod comparisons;
pub mod data;
pub mod execute;
pub mod experiment;
pub mod models;
pub mod npy;
pub mod plan;
pub mod report;
pub mod social;
pub mod stages;
pub mod stats;
pub mod store;
pub mod vision;
