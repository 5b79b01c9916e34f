//! The simulated world: clips of two shapes that interact, with captions whose uncertainty is known exactly.
//!
//! A clip has latents ([`grammar::Latents`]): who acts, what is done, to whom, where, before which background. The
//! renderer draws them, the grammar ([`grammar`]) speaks of them, and because the grammar is small enough
//! to enumerate ([`enumeration`]) the bits that text alone leaves open, and those that a picture can take away, are
//! known. A method that claims to use vision can be held against these numbers.

pub mod enumeration;
pub mod grammar;
pub mod judgments;
pub mod oracle;
pub mod render;
pub mod tokens;

pub use grammar::{Latents, Phase, World};
pub use oracle::oracle_features;
