//! Text, its alignment with frames, and the social tokens that carry frames into a frozen language model.
//!
//! [`transcripts`] reads captions and dialogues into words. Stages keep nothing of the method themselves: they join these
//! modules with the [`crate::models`].

mod captions;
mod dialogue;
pub mod transcripts;
