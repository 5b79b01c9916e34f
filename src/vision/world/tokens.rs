//! The world's vocabulary as a word-level tokenizer, and the documents a language model learns it from.
//!
//! A document is `<bos> [front tags] : w1 w2 [tags] … <eos>`. Tags say what is true of the clip (front) or of the phase
//! of the word before them (inline), in words that no caption uses. They stand where social tokens will stand later, and
//! they, `<bos>` and `:` are read but never predicted, so the caption's entropy without them stays exact. A group of
//! tags may stand in one position, its embedding rows summed and divided by the root of their number: one social token
//! must be able to carry a whole group.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::grammar::{self, ACTIONS, PATIENTS, PLACES, Phase, World};
use crate::stats::random::Stream;

/// Token id of padding.
pub const PAD: u32 = 0;
/// Token id of the end of a caption.
pub const EOS: u32 = 1;
/// Token id of the beginning of a text.
pub const BOS: u32 = 2;
const SPECIAL: [&str; 4] = ["<pad>", "<eos>", "<bos>", "<unk>"];
/// What stands before every caption.
pub const LEAD_IN: &str = ":";

/// All tokens of a world; a token's id is its place.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// Specials, `:`, caption words, tags, in this order.
    pub fn of(world: World) -> Self {
        let mut tokens: Vec<String> = SPECIAL.iter().chain(&[LEAD_IN]).map(|token| (*token).to_owned()).collect();
        let mut add = |token: &str| {
            if !tokens.iter().any(|known| known == token) {
                tokens.push(token.to_owned());
            }
        };
        let then = if world.clauses() > 1 { &["then"][..] } else { &[] };
        ["the", "one", "at"].iter().chain(then).for_each(|word| add(word));
        world.agents().iter().chain(&PATIENTS).for_each(|word| add(word));
        ACTIONS.iter().flat_map(|action| action.verbs).for_each(&mut add);
        PLACES.iter().for_each(|word| add(word));
        let first: Vec<Vec<String>> = world.contents().iter().map(|phases| phases[0].tags()).collect();
        for slot in 0..4 {
            first.iter().for_each(|tags| add(&tags[slot]));
        }
        let ids = tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect();
        Self { tokens, ids }
    }

    /// Number of tokens.
    pub fn size(&self) -> usize {
        self.tokens.len()
    }

    /// All tokens in the order of their ids.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }

    fn id(&self, token: &str) -> u32 {
        self.ids[token]
    }

    /// `tokenizer.json` as the Hugging Face tokenizers read it: words split at white space, no special tokens added.
    pub fn tokenizer(&self) -> Value {
        let added: Vec<Value> = SPECIAL
            .iter()
            .enumerate()
            .map(|(id, token)| {
                json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true })
            })
            .collect();
        let vocabulary: serde_json::Map<String, Value> =
            self.tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": { "type": "WhitespaceSplit" },
            "post_processor": null,
            "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
        })
    }
}

/// How often tags stand in documents.
#[derive(Clone, Copy, Debug)]
pub struct Tagging {
    /// Probability of front tags, and of inline tags, in a document.
    pub present: f64,
    /// Probability that a tag of a group is kept.
    pub kept: f64,
    /// Probability that a group stands in one position.
    pub joined: f64,
    /// Probability that the inline tags of a document are those of the whole clip, all kept, and not of the phase.
    pub of_clip: f64,
}

/// One training text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The token ids at each position; more than one are a group in one position.
    pub positions: Vec<Vec<u32>>,
    /// Per position the token that it predicts; `None` before what is only read.
    pub targets: Vec<Option<u32>>,
}

impl Document {
    /// Draws a clip, its caption and its tags.
    pub fn draw(world: World, vocabulary: &Vocabulary, tagging: &Tagging, stream: &mut Stream) -> Self {
        let phases = world.draw(stream).phases;
        let coins = world.toss(stream);
        Self::write(world, vocabulary, tagging, &phases, &coins, stream)
    }

    /// The document of a given caption; `stream` decides about the tags.
    fn write(
        world: World,
        vocabulary: &Vocabulary,
        tagging: &Tagging,
        phases: &[Phase],
        coins: &[usize],
        stream: &mut Stream,
    ) -> Self {
        let (front, inline) = (stream.coin(tagging.present), stream.coin(tagging.present));
        // Not tossed when it is never so, which leaves the texts of such settings as they are.
        let of_clip = inline && tagging.of_clip > 0.0 && stream.coin(tagging.of_clip);
        let whole = Tagging { kept: 1.0, ..*tagging };
        let mut document = Self::default();
        document.read(vec![BOS]);
        if front {
            document.group(grammar::tags(phases), vocabulary, tagging, stream);
        }
        document.read(vec![vocabulary.id(LEAD_IN)]);
        for word in world.caption(phases, coins) {
            document.predict(vocabulary.id(word.text));
            document.read(vec![vocabulary.id(word.text)]);
            if of_clip && word.content {
                document.group(grammar::tags(phases), vocabulary, &whole, stream);
            } else if inline && word.content {
                document.group(phases[word.phase].tags(), vocabulary, tagging, stream);
            }
        }
        document.predict(EOS);
        document
    }

    fn read(&mut self, ids: Vec<u32>) {
        self.positions.push(ids);
        self.targets.push(None);
    }

    fn predict(&mut self, id: u32) {
        if let Some(last) = self.targets.last_mut() {
            *last = Some(id);
        }
    }

    fn group(&mut self, mut tags: Vec<String>, vocabulary: &Vocabulary, tagging: &Tagging, stream: &mut Stream) {
        let joined = stream.coin(tagging.joined);
        stream.shuffle(&mut tags);
        tags.retain(|_| stream.coin(tagging.kept));
        let mut ids: Vec<u32> = tags.iter().map(|tag| vocabulary.id(tag)).collect();
        if joined && !ids.is_empty() {
            ids.sort_unstable();
            self.read(ids);
        } else {
            ids.into_iter().for_each(|id| self.read(vec![id]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::random::Streams;

    fn words(document: &Document, vocabulary: &Vocabulary) -> String {
        let group = |ids: &Vec<u32>| {
            let words: Vec<&str> = ids.iter().map(|id| vocabulary.tokens()[*id as usize].as_str()).collect();
            words.join("+")
        };
        document.positions.iter().map(group).collect::<Vec<_>>().join(" ")
    }

    fn example(present: f64, joined: f64) -> (Document, Vocabulary) {
        let vocabulary = Vocabulary::of(World::OneClause);
        let phase = Phase { agent: 0, action: 5, patient: 2, place: 1 };
        let tagging = Tagging { present, kept: 1.0, joined, of_clip: 0.0 };
        let mut stream = Streams::new(0, "test").named("document");
        let document = Document::write(World::OneClause, &vocabulary, &tagging, &[phase], &[0], &mut stream);
        (document, vocabulary)
    }

    #[test]
    fn a_bare_document_is_the_caption() {
        let (document, vocabulary) = example(0.0, 0.0);
        assert_eq!(words(&document, &vocabulary), "<bos> : the red one chases the pink one at the tree");
        assert_eq!(document.targets[0], None, "the lead-in is not predicted");
        assert_eq!(document.targets[1], Some(vocabulary.id("the")));
        assert_eq!(document.targets.last(), Some(&Some(EOS)));
    }

    #[test]
    fn groups_in_one_position_stand_in_front_and_after_content_words() {
        let (document, vocabulary) = example(1.0, 1.0);
        let group = "agent=red+action=chase+patient=pink+place=tree";
        assert_eq!(
            words(&document, &vocabulary),
            format!("<bos> {group} : the red one {group} chases {group} the pink one {group} at the tree {group}")
        );
        let labelled = document.targets.iter().flatten().count();
        assert_eq!(labelled, 11, "ten words and the end are predicted, tags are not");
    }

    #[test]
    fn separate_tags_take_a_position_each() {
        let (document, _) = example(1.0, 0.0);
        assert!(document.positions.iter().all(|ids| ids.len() == 1));
        assert_eq!(document.positions.len(), 2 + 10 + 5 * 4);
        let labelled = document.targets.iter().flatten().count();
        assert_eq!(labelled, 11);
    }

    #[test]
    fn inline_tags_of_the_whole_clip_are_never_thinned() {
        let vocabulary = Vocabulary::of(World::TwoClause);
        let first = Phase { agent: 0, action: 5, patient: 2, place: 1 };
        let second = Phase { agent: 0, action: 1, patient: 3, place: 2 };
        let tagging = Tagging { present: 1.0, kept: 0.0, joined: 1.0, of_clip: 1.0 };
        let mut stream = Streams::new(0, "test").named("document");
        let document = Document::write(World::TwoClause, &vocabulary, &tagging, &[first, second], &[0, 0], &mut stream);
        let groups: Vec<&Vec<u32>> = document.positions.iter().filter(|ids| ids.len() > 1).collect();
        assert_eq!(groups.len(), 8);
        assert!(groups.iter().all(|ids| ids.len() == 7));
    }

    #[test]
    fn the_tokenizer_loads_and_keeps_tags_whole() {
        for world in [World::OneClause, World::TwoClause] {
            let vocabulary = Vocabulary::of(world);
            let bytes = serde_json::to_vec(&vocabulary.tokenizer()).expect("json");
            let tokenizer = tokenizers::Tokenizer::from_bytes(bytes).expect("loads");
            assert_eq!(tokenizer.get_vocab_size(true), vocabulary.size());
            let encoded = tokenizer.encode("agent=red : the blue one", false).expect("encodes");
            let expected = ["agent=red", ":", "the", "blue", "one"];
            assert_eq!(encoded.get_tokens(), expected);
            let ids: Vec<u32> = expected.iter().map(|token| vocabulary.id(token)).collect();
            assert_eq!(encoded.get_ids(), ids);
        }
    }
}
