//! Statistics: random streams, ranks, similarity matrices, resampling.

pub mod bootstrap;
pub mod distributions;
pub mod logistic;
pub mod random;
pub mod ranks;
pub mod rsm;
pub mod spread;
