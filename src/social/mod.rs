//! Text, its alignment with frames, and the social tokens that carry frames into a frozen language model.
//!
//! [`transcripts`] reads captions and dialogues into words. Stages keep nothing of the method themselves: they join these
//! modules with the [`crate::models`].

pub mod alignment;
pub(crate) mod captions;
pub(crate) mod columns;
pub mod conversation;
pub(crate) mod dialogue;
pub mod identity;
pub mod injection;
pub mod judgments;
pub mod material;
pub mod original;
pub mod packs;
pub mod pairing;
pub mod placement;
pub mod pooling;
pub mod prompt;
pub mod samples;
pub mod seen;
pub mod tagger;
pub mod times;
pub mod transcripts;
pub mod unknown;
