//! Statistics: random streams, ranks, similarity matrices, permutation, resampling, reliability.

pub mod bootstrap;
pub mod defaults;
mod dense;
pub mod distributions;
pub mod inference;
pub mod logistic;
pub mod pairs;
pub mod permutation;
pub mod random;
pub mod ranks;
pub mod reliability;
pub mod rsm;
pub mod spread;
pub mod stimuli;
pub mod triplets;
