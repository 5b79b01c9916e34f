//! Statistics: random streams, ranks, similarity matrices.

pub mod random;
