//! Parts of speech for words that come without: an averaged perceptron for English, compiled into the binary.
//!
//! Features and decoding are those of `perceptron.py` in the Python package `denckring-en-pos` 0.6.0 (M. Honnibal's
//! averaged-perceptron tagger, Apache-2.0), the table is that package's (CC BY-SA 4.0); `assets/tagger/README.md` has
//! sources, licences and figures: 93.4 % of universal parts of speech right on the test split of UD English-EWT without
//! punctuation, and F1 .979 for the nouns and verbs that get local tokens. spaCy, which the original project used, is an
//! option of the input: a word that comes with `pos` keeps it.
//!
//! The table knows tokens as a treebank has them and no punctuation, so a word of the text is taken apart first
//! ([`fill`]): punctuation at its ends is dropped, `don't` is read as `do` `n't` and tagged as `do`, `skate-boarding` is
//! tagged as `boarding` unless the whole is known. A word without letter or digit is `PUNCT`.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::transcripts::{Clip, Utterance};

/// What stands before and after a sentence, in the features.
const START: &str = "<s>";
const END: &str = "</s>";

/// Endings that the treebank writes as tokens of their own, longest first.
const CLITICS: [&str; 7] = ["n't", "'ll", "'re", "'ve", "'s", "'d", "'m"];

/// Words of two tokens without an apostrophe: where the second begins.
const JOINED: [(&str, usize); 5] = [("cannot", 3), ("gonna", 3), ("gotta", 3), ("wanna", 3), ("gimme", 3)];

/// Words after whose full stop the sentence goes on.
const ABBREVIATIONS: [&str; 10] = ["mr", "mrs", "ms", "dr", "st", "jr", "sr", "vs", "prof", "e.g"];

/// What gives words their part of speech.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The averaged perceptron of this binary, for English.
    #[default]
    Perceptron,
    /// Nothing: words without `pos` have none.
    None,
}

/// What the tagger sees of a word's surroundings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// The sentence that the word stands in.
    #[default]
    Sentence,
    /// The word alone, as in the original's packs of dialogues.
    Word,
}

/// How many words have a part of speech, and from where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Words that came with `pos` (or with `content`).
    pub given: usize,
    /// Words that the tagger has tagged.
    pub tagged: usize,
    /// Words without.
    pub none: usize,
}

impl Coverage {
    /// All words.
    pub fn words(&self) -> usize {
        self.given + self.tagged + self.none
    }
}

/// Gives every word that has neither `pos` nor `content` its part of speech, and counts.
pub fn fill(clips: &mut [Clip], method: Method, view: View) -> Coverage {
    let mut coverage = Coverage::default();
    for utterance in clips.iter_mut().flat_map(|clip| &mut clip.utterances) {
        let without = |utterance: &Utterance| -> usize {
            utterance.words.iter().filter(|word| word.pos.is_none() && word.content.is_none()).count()
        };
        let open = without(utterance);
        coverage.given += utterance.words.len() - open;
        if method == Method::None || open == 0 {
            coverage.none += open;
            continue;
        }
        let texts: Vec<&str> = utterance.words.iter().map(|word| word.text.as_str()).collect();
        let tags = built_in().tag_words(&texts, view);
        for (word, tag) in utterance.words.iter_mut().zip(tags) {
            if word.pos.is_none() && word.content.is_none() {
                word.pos = Some(tag.to_owned());
                coverage.tagged += 1;
            }
        }
    }
    coverage
}

/// The tagger of this binary, unpacked at its first use.
pub fn built_in() -> &'static Tagger {
    static TAGGER: LazyLock<Tagger> = LazyLock::new(|| {
        let packed: &[u8] = include_bytes!("../../assets/tagger/tagger.json.gz");
        Tagger::read(packed).expect("the table is part of the binary, and a test reads this very table")
    });
    &TAGGER
}

/// An averaged perceptron with its table.
pub struct Tagger {
    /// Labels `UPOS|VerbForm`, sorted: of equal scores the last wins.
    classes: Vec<String>,
    /// Words with one reading: lower-cased word → label.
    only: HashMap<String, usize>,
    /// Lower-cased words of the training data.
    known: HashSet<String>,
    /// Feature → weight of labels.
    weights: HashMap<String, Vec<(usize, f64)>>,
}

/// The table as the package has it.
#[derive(Deserialize)]
struct Table {
    classes: Vec<String>,
    tagdict: HashMap<String, String>,
    vocabulary: HashSet<String>,
    weights: HashMap<String, HashMap<String, f64>>,
}

impl Tagger {
    /// Reads a table: gzipped JSON of `classes`, `tagdict`, `vocabulary` and `weights`.
    fn read(packed: &[u8]) -> std::result::Result<Self, String> {
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).map_err(|error| error.to_string())?;
        let table: Table = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let mut classes = table.classes;
        classes.sort();
        let places: HashMap<String, usize> = classes.iter().cloned().zip(0..).collect();
        let place = |label: &str| places.get(label).copied().ok_or_else(|| format!("`{label}` is no class"));
        let only = table.tagdict.iter().map(|(word, label)| Ok((word.clone(), place(label)?)));
        let weights = table.weights.into_iter().map(|(feature, row)| {
            let row = row.iter().map(|(label, &weight)| Ok((place(label)?, weight)));
            Ok((feature, row.collect::<std::result::Result<Vec<_>, String>>()?))
        });
        Ok(Self {
            only: only.collect::<std::result::Result<_, String>>()?,
            weights: weights.collect::<std::result::Result<_, String>>()?,
            known: table.vocabulary,
            classes,
        })
    }

    /// Universal parts of speech of one sentence's tokens, without punctuation, from left to right.
    pub fn tag(&self, tokens: &[&str]) -> Vec<&str> {
        let lower: Vec<String> = tokens.iter().map(|token| token.to_lowercase()).collect();
        let mut labels: Vec<usize> = Vec::with_capacity(tokens.len());
        for place in 0..tokens.len() {
            let label = match self.only.get(&lower[place]) {
                Some(&label) => label,
                None => self.predict(place, tokens[place], &lower, &labels),
            };
            labels.push(label);
        }
        labels.into_iter().map(|label| self.classes[label].split('|').next().unwrap_or_default()).collect()
    }

    /// The best label of token `place`, given those before it.
    fn predict(&self, place: usize, token: &str, lower: &[String], labels: &[usize]) -> usize {
        let word = &lower[place];
        let near = |offset: isize| match place.checked_add_signed(offset) {
            Some(near) => lower.get(near).map_or(END, String::as_str),
            None => START,
        };
        let tag = |back: usize| match place.checked_sub(back) {
            Some(before) => self.classes[labels[before]].as_str(),
            None => START,
        };
        let upper = token.chars().next().is_some_and(char::is_uppercase);
        let digits = if token.contains(|c: char| c.is_numeric()) { "d" } else { "" };
        let features = [
            "bias".to_owned(),
            format!("suf3 {}", last(word, 3)),
            format!("suf2 {}", last(word, 2)),
            format!("suf1 {}", last(word, 1)),
            format!("pre1 {}", word.chars().take(1).collect::<String>()),
            format!("shape {}{digits}", if upper { "X" } else { "x" }),
            format!("w {word}"),
            format!("t-1 {}", tag(1)),
            format!("t-2 {}", tag(2)),
            format!("t-1t-2 {} {}", tag(1), tag(2)),
            format!("w-1 {}", near(-1)),
            format!("w-2 {}", near(-2)),
            format!("w+1 {}", near(1)),
            format!("w+2 {}", near(2)),
            format!("t-1 w {} {word}", tag(1)),
        ];
        let mut scores = vec![0.0; self.classes.len()];
        for row in features.iter().filter_map(|feature| self.weights.get(feature)) {
            row.iter().for_each(|&(label, weight)| scores[label] += weight);
        }
        (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or_default()
    }

    /// Universal parts of speech of the words of a text, punctuation and all.
    fn tag_words(&self, words: &[&str], view: View) -> Vec<&str> {
        let mut tags = Vec::with_capacity(words.len());
        let mut sentence: Vec<Pieces> = Vec::new();
        for (place, word) in words.iter().enumerate() {
            sentence.push(self.pieces(word));
            if place + 1 == words.len() || view == View::Word || ends_sentence(word) {
                let tokens: Vec<&str> = sentence.iter().flat_map(|pieces| &pieces.tokens).map(String::as_str).collect();
                let found = self.tag(&tokens);
                let mut first = 0;
                for pieces in sentence.drain(..) {
                    tags.push(if pieces.tokens.is_empty() { "PUNCT" } else { found[first + pieces.head] });
                    first += pieces.tokens.len();
                }
            }
        }
        tags
    }

    /// The treebank's tokens in a word of the text.
    fn pieces(&self, word: &str) -> Pieces {
        let word = word.replace(['’', '‘'], "'");
        if word == "&" || CLITICS.contains(&word.to_lowercase().as_str()) {
            return Pieces { tokens: vec![word], head: 0 };
        }
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let is_known = self.known.contains(&bare.to_lowercase());
        let parts: Vec<&str> = if is_known {
            vec![bare]
        } else {
            bare.split(['-', '–', '—', '/']).filter(|part| part.contains(char::is_alphanumeric)).collect()
        };
        let (mut tokens, mut head) = (Vec::new(), 0);
        for part in parts {
            head = tokens.len();
            let lower = part.to_lowercase();
            let clitic = CLITICS.iter().find(|clitic| lower.ends_with(*clitic) && lower.len() > clitic.len());
            let joined = JOINED.iter().find(|(joined, _)| *joined == lower).map(|&(_, place)| place);
            // Lower case may have other bytes than the word: the place is counted from the end, which is ASCII.
            match clitic
                .map(|clitic| part.len() - clitic.len())
                .or(joined)
                .and_then(|place| part.split_at_checked(place))
            {
                Some((stem, ending)) => tokens.extend([stem.to_owned(), ending.to_owned()]),
                None => tokens.push(part.to_owned()),
            }
        }
        Pieces { tokens, head }
    }
}

/// A word as the treebank would have it.
struct Pieces {
    tokens: Vec<String>,
    /// The token whose part of speech is the word's.
    head: usize,
}

/// The last characters of a word, all of them where it has no more.
fn last(word: &str, count: usize) -> &str {
    word.char_indices().rev().nth(count - 1).map_or(word, |(place, _)| &word[place..])
}

/// Whether a sentence ends behind this word.
fn ends_sentence(word: &str) -> bool {
    let word = word.trim_end_matches(['"', '\'', '”', '’', ')', ']']);
    if word.ends_with(['?', '!', '…']) {
        return true;
    }
    let stem = word.trim_end_matches('.');
    let is_short = stem.chars().count() < 2 || ABBREVIATIONS.contains(&stem.to_lowercase().as_str());
    word.ends_with('.') && !is_short
}

#[cfg(test)]
mod tests {
    use super::super::transcripts::{Word, settle};
    use super::*;

    fn counted(lower: bool, alone: bool) -> (usize, usize, f64) {
        const CONTENT: [&str; 4] = ["NOUN", "PROPN", "VERB", "AUX"];
        let (mut right, mut all, mut both, mut either) = (0, 0, 0, 0);
        for line in include_str!("../../tests/data/tagger/ewt-test.txt").lines() {
            let pairs: Vec<(&str, &str)> = line.split(' ').map(|pair| pair.rsplit_once('/').unwrap()).collect();
            let words = pairs.iter().map(|(word, _)| if lower { word.to_lowercase() } else { (*word).to_owned() });
            let words: Vec<String> = words.collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let tags: Vec<&str> = if alone {
                words.iter().flat_map(|word| built_in().tag(&[word])).collect()
            } else {
                built_in().tag(&words)
            };
            for (tag, (_, gold)) in tags.iter().zip(&pairs) {
                all += 1;
                right += usize::from(tag == gold);
                both += usize::from(CONTENT.contains(tag) && CONTENT.contains(gold)) * 2;
                either += usize::from(CONTENT.contains(tag)) + usize::from(CONTENT.contains(gold));
            }
        }
        (right, all, both as f64 / either as f64)
    }

    /// The package's own code on the same words gives 20445, 19398, 18532 and 17448 right of 21889 and these F1
    /// (`perceptron.py` of denckring-en-pos 0.6.0, Python 3.11): the port must make the same choices.
    #[test]
    fn the_test_split_is_tagged_as_the_package_tags_it() {
        let expected = [
            (false, false, 20445, 0.978_938_744),
            (true, false, 19398, 0.969_345_485),
            (false, true, 18532, 0.962_360_706),
            (true, true, 17448, 0.952_855_789),
        ];
        for (lower, alone, right, f1) in expected {
            let found = counted(lower, alone);
            assert_eq!((found.0, found.1), (right, 21889), "lower {lower}, alone {alone}");
            assert!((found.2 - f1).abs() < 1e-6, "{found:?}");
        }
    }

    fn tags(text: &str, view: View) -> String {
        let words: Vec<&str> = text.split(' ').collect();
        built_in().tag_words(&words, view).join(" ")
    }

    #[test]
    fn words_of_real_text_are_taken_apart() {
        // From `Tagger.tag` of the package on the tokens: two men walk through the door and shake hands.
        let text = "two men walk through the door and shake hands.";
        assert_eq!(tags(text, View::Sentence), "NUM NOUN VERB ADP DET NOUN CCONJ VERB NOUN");
        assert_eq!(tags("\"She smiled,\" he said —", View::Sentence), "PRON VERB PRON VERB PUNCT");
        let pieces = |word: &str| {
            let pieces = built_in().pieces(word);
            format!("{}:{}", pieces.tokens.join(" "), pieces.head)
        };
        assert_eq!(pieces("Don’t!"), "Do n't:0");
        assert_eq!(pieces("cannot"), "can not:0");
        assert_eq!(pieces("(other's"), "other 's:0");
        assert_eq!(pieces("skate-boarding"), "skate boarding:1");
        assert_eq!(pieces("e-mail"), "e-mail:0");
        assert_eq!(pieces("İ's"), "İ 's:0");
        assert_eq!([pieces("--"), pieces("'s"), pieces("&")], [":0", "'s:0", "&:0"]);
    }

    #[test]
    fn a_sentence_ends_at_its_stop_and_not_at_an_abbreviation() {
        assert_eq!(
            ["left.", "what?\"", "Mr.", "a.", "e.g.", "so"].map(ends_sentence),
            [true, true, false, false, false, false]
        );
        // The word after the stop is tagged as the first of a sentence.
        let joined = tags("he left. walk home", View::Sentence);
        assert!(joined.ends_with(&tags("walk home", View::Sentence)), "{joined}");
    }

    #[test]
    fn what_is_given_stays_and_the_rest_is_counted() {
        let mut utterance = Utterance { text: "dogs run -".into(), ..Utterance::default() };
        settle(&mut utterance).unwrap();
        utterance.words[0].pos = Some("X".into());
        utterance.words.push(Word { text: "far".into(), content: Some(true), ..Word::default() });
        let clip = Clip { utterances: vec![utterance], ..Clip::default() };
        let mut clips = [clip.clone()];
        let none = fill(&mut clips, Method::None, View::Sentence);
        assert_eq!((none, &clips[0]), (Coverage { given: 2, tagged: 0, none: 2 }, &clip));
        let coverage = fill(&mut clips, Method::Perceptron, View::Sentence);
        assert_eq!(coverage, Coverage { given: 2, tagged: 2, none: 0 });
        assert_eq!(coverage.words(), 4);
        let found: Vec<_> = clips[0].utterances[0].words.iter().map(|word| word.pos.as_deref()).collect();
        assert_eq!(found, [Some("X"), Some("VERB"), Some("PUNCT"), None]);
    }
}
