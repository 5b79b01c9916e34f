//! The sample counts of method 8.2 on the captions of the human study.
//!
//! Not part of the default suite, because the captions have no licence to redistribute. Put them into a folder as
//! `captions.csv` (`clip_id,caption_index,caption`) and `clips.csv` (`index,clip_id,split`), then run
//! `SOCTOK_JUDGMENTS=FOLDER cargo test --release --test real_captions -- --ignored`.
//! A missing folder is a failure, never a pass.

use std::path::{Path, PathBuf};

use soctok::social::prompt::{Prompt, Samples};
use soctok::social::samples::{self, Encode, Encoded};
use soctok::social::transcripts::{self, Selection};
use soctok::stages::Result;

/// One token per character: how a text is cut does not change how many samples it gives.
struct Letters;

impl Encode for Letters {
    fn encode(&self, text: &str) -> Result<Encoded> {
        let ids = text.chars().map(|letter| letter as u32).collect();
        Ok(Encoded { ids, offsets: (0..text.chars().count()).map(|at| (at, at + 1)).collect() })
    }

    fn bos(&self) -> u32 {
        2
    }

    fn eos(&self) -> u32 {
        1
    }
}

fn folder() -> PathBuf {
    let folder = std::env::var_os("SOCTOK_JUDGMENTS").expect("SOCTOK_JUDGMENTS must name the folder with captions.csv");
    let folder = PathBuf::from(folder);
    assert!(folder.join("captions.csv").is_file(), "`{}` has no captions.csv", folder.display());
    folder
}

/// Clips, single samples, sequences when read in one pass, and the samples that these stand for.
fn count(folder: &Path, split: Option<&str>) -> (usize, usize, usize, usize) {
    let selection =
        Selection { split: split.map(str::to_owned), splits: Some(folder.join("clips.csv")), caption_index: Some(1) };
    let clips = transcripts::load(&folder.join("captions.csv"), &selection).unwrap_or_else(|error| panic!("{error}"));
    let build = |one_pass| {
        let prompt = Prompt { samples: Samples::NextWord, one_pass, ..Prompt::default() };
        samples::build(&clips, &prompt, &[], &Letters, |_| Ok(&[])).unwrap_or_else(|error| panic!("{error}"))
    };
    let (single, together) = (build(false), build(true));
    let stands_for = together.iter().map(|sequence| sequence.samples).sum();
    assert_eq!(samples::targets_digest(&clips, &single), samples::targets_digest(&clips, &together));
    (clips.len(), single.len(), together.len(), stands_for)
}

#[test]
#[ignore = "needs SOCTOK_JUDGMENTS"]
fn next_word_samples_of_the_250_captions() {
    let folder = folder();
    assert_eq!(count(&folder, None), (250, 2436, 250, 2436));
    assert_eq!(count(&folder, Some("train")), (200, 1951, 200, 1951));
    assert_eq!(count(&folder, Some("test")), (50, 485, 50, 485));
}
