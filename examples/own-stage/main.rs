//! A stage kind of your own, outside the crate: `count_words` counts the words of a note.
//!
//! The program is soctok with one kind more; every command works, `soctok stages count_words` and the checks of
//! experiment files included. `docs/your-own-stage.md` goes through it line by line.

use std::collections::BTreeMap;
use std::process::ExitCode;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use soctok::stages::{self, Context, Inputs, Kind, Reference, Stage, StageError, Summary};

/// Counts words: how often each stands in a note, and how many differ.
struct CountWords;

/// Settings of `count_words`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The note whose words are counted.
    #[schemars(extend("x-accepts" = ["note"]))]
    note: Reference,
    /// Words of fewer letters are left out.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    letters: usize,
}

fn one() -> usize {
    1
}

impl Stage for CountWords {
    const KIND: &'static str = "count_words";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Counts the words of a note into `words.json`";
    const GIVES: &'static [&'static str] = &["word_counts"];
    type Config = Config;

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> stages::Result<Summary> {
        let path = inputs.get("note")?.path.join("note.txt");
        let text = std::fs::read_to_string(&path).map_err(StageError::io(&path))?;
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        let words: Vec<&str> = text.split_whitespace().filter(|w| w.chars().count() >= config.letters).collect();
        for (done, word) in words.iter().enumerate() {
            *counts.entry(word).or_default() += 1;
            context.progress(done as u64 + 1, words.len() as u64, "word")?;
        }
        let path = context.folder().join("words.json");
        let json = serde_json::to_string_pretty(&counts).map_err(|error| StageError::new(error.to_string()))?;
        std::fs::write(&path, json + "\n").map_err(StageError::io(&path))?;
        let figures = [("words", words.len()), ("different_words", counts.len())];
        Ok(figures.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect())
    }
}

fn main() -> ExitCode {
    soctok::cli::main(|| stages::kinds().into_iter().chain([Kind::of::<CountWords>()]).collect())
}
