//! Text of clips: captions and dialogues, as words with times, parts of speech and places in the text.
//!
//! Three forms are read ([`load`]): a captions CSV, our own `transcripts.jsonl` (one [`Clip`] per line, written by
//! [`save`]), and a folder of transcript JSON files in the shapes that other projects write (`dialogue.rs`).
//! Whatever the form, text is made of its words joined by single spaces, so spaces at the end never become tokens.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::columns::{Columns, broken};
use super::identity::Recording;
use super::times::{self, Fault};
use super::{captions, dialogue};
use crate::stages::{Result, StageError};

/// One clip and what is said about it or in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clip {
    /// Its identity, the same in frames, features and judgments.
    pub clip_id: String,
    /// `train`, `val`, `test`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// What clips may not be independent over: a session, a source video. When not given, the session of an id as in
    /// the Seamless dataset (see `identity.rs`), else the clip itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// In order of time, or the captions of the clip.
    pub utterances: Vec<Utterance>,
    /// True when the utterances are captions, each about the whole clip, and not turns that follow each other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub captions: bool,
}

/// One caption or one turn of a dialogue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Utterance {
    /// Words joined by single spaces once loaded.
    #[serde(default)]
    pub text: String,
    /// Who says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// Seconds from the start of the clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Seconds from the start of the clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
    /// The clip whose frames show who says it, when that is another than its own (see `conversation.rs`). Such a turn is
    /// context and never predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<String>,
    /// The picture that goes with it, as the transcript names it: `frames/clip_001/frame_0001.jpg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_path: Option<String>,
    /// What the picture shows, in words: for the control that gives the model the truth as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oracle_text: Option<String>,
    /// The words; when left out, `text` split at white space.
    #[serde(default)]
    pub words: Vec<Word>,
    /// Exact −log2 p(end | all words) of a text whose distribution is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_true_bits: Option<f64>,
    /// The same when the whole picture is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_floor_bits: Option<f64>,
    /// Its number in the clip as it stands in the file, which a selection of captions does not change.
    #[serde(skip)]
    pub index: usize,
    /// What was wrong with its times.
    #[serde(skip)]
    pub fault: Option<Fault>,
}

/// One word of an utterance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// As it stands in the text; punctuation may or may not be part of it.
    pub text: String,
    /// Seconds from the start of the clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Seconds from the start of the clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
    /// Universal part of speech (`NOUN`, `VERB`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<String>,
    /// Whether a local social token follows it; asked only when `pos` is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<bool>,
    /// Exact −log2 p(word | words before) of a text whose distribution is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_bits: Option<f64>,
    /// The same when the whole picture is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_bits: Option<f64>,
    /// Characters `span.0..span.1` of the utterance's text.
    #[serde(skip)]
    pub span: (usize, usize),
    /// What is wrong with its times.
    #[serde(skip)]
    pub fault: Option<Fault>,
}

impl Word {
    /// Whether the word is one that gets a local token; `None` when nothing is known of its part of speech.
    pub fn is_content(&self, pos_set: &[String]) -> Option<bool> {
        match &self.pos {
            Some(pos) => Some(pos_set.iter().any(|kept| kept == pos)),
            None => self.content,
        }
    }

    /// The middle of its time in seconds, or the one end that is known.
    pub fn middle(&self) -> Option<f64> {
        match (self.start, self.end) {
            (Some(start), Some(end)) => Some((start + end) / 2.0),
            (start, end) => start.or(end),
        }
    }
}

impl Utterance {
    /// Its start in seconds, or its first word's.
    pub fn begins(&self) -> Option<f64> {
        self.start.or_else(|| self.words.first()?.start)
    }
}

impl Clip {
    /// The cluster it belongs to in statistics: its group, or itself.
    pub fn cluster(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.clip_id)
    }

    /// Whether it has turns of another person's recording.
    pub fn is_joined(&self) -> bool {
        self.utterances.iter().any(|turn| turn.recording.is_some())
    }
}

/// Which clips and which of their captions to read.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only clips of this split; `None` for all clips.
    pub split: Option<String>,
    /// A CSV (or a folder with `split.csv`) of `clip_id,split` and perhaps `group` that replaces what the text says.
    pub splits: Option<PathBuf>,
    /// Of several captions of a clip only this one, counted from 1; `None` for all. Dialogues are not touched.
    pub caption_index: Option<usize>,
}

/// Reads the clips of `path` in the order of the file (of a folder of JSON: by file name).
///
/// `path` is a captions CSV, a `.jsonl` of [`Clip`]s, one JSON transcript, or a folder with `transcripts.jsonl`,
/// `captions.csv` or JSON transcripts. Times that cannot be right are taken away and remembered as the word's `fault`.
/// Fails when a clip id stands twice, a word does not stand in its text, or the selection fits nothing.
pub fn load(path: &Path, selection: &Selection) -> Result<Vec<Clip>> {
    let mut clips = read(path)?;
    if let Some(splits) = &selection.splits {
        assign_splits(&mut clips, splits)?;
    }
    if let Some(wanted) = &selection.split {
        let known: BTreeMap<String, usize> = clips.iter().fold(BTreeMap::new(), |mut counts, clip| {
            *counts.entry(clip.split.clone().unwrap_or_else(|| "(none)".into())).or_default() += 1;
            counts
        });
        clips.retain(|clip| clip.split.as_deref() == Some(wanted));
        if clips.is_empty() {
            let found: Vec<String> = known.iter().map(|(split, count)| format!("`{split}` ({count})")).collect();
            return Err(StageError::hint(
                format!("no clip of `{}` is in split `{wanted}`: there are {}", path.display(), found.join(", ")),
                "set `split` to one of these or to `all`, or give `splits` (a CSV of `clip_id,split`)",
            ));
        }
    }
    if let Some(number) = selection.caption_index {
        for clip in clips.iter_mut().filter(|clip| clip.captions) {
            clip.utterances.retain(|utterance| utterance.index + 1 == number);
            if clip.utterances.is_empty() {
                if let Some(line) = captions::empty_line(path, &clip.clip_id, number) {
                    return Err(StageError::hint(
                        format!(
                            "`{}`, line {line}: caption {number} of clip `{}` is empty",
                            path.display(),
                            clip.clip_id
                        ),
                        "write the caption, or take the line out and the clip's frames with it",
                    ));
                }
                return Err(StageError::hint(
                    format!("clip `{}` has no caption number {number}", clip.clip_id),
                    "set `caption_index` to a number that every clip has, or to 0 for all captions",
                ));
            }
        }
    }
    Ok(clips)
}

/// Writes clips as `transcripts.jsonl`.
pub fn save(path: &Path, clips: &[Clip]) -> Result<()> {
    let file = std::fs::File::create(path).map_err(StageError::io(path))?;
    let mut out = std::io::BufWriter::new(file);
    for clip in clips {
        let line = serde_json::to_string(clip).map_err(|error| StageError::new(error.to_string()))?;
        writeln!(out, "{line}").map_err(StageError::io(path))?;
    }
    out.flush().map_err(StageError::io(path))
}

fn read(path: &Path) -> Result<Vec<Clip>> {
    let mut clips = if path.is_dir() {
        let (lines, table) = (path.join("transcripts.jsonl"), path.join("captions.csv"));
        if lines.is_file() {
            return read(&lines);
        } else if table.is_file() {
            return read(&table);
        }
        dialogue::read_folder(path)?
    } else {
        match path.extension().and_then(|end| end.to_str()) {
            Some("csv") => captions::read(path)?,
            Some("jsonl") if dialogue::has_segments(path)? => vec![dialogue::read_file(path)?],
            Some("jsonl") => read_lines(path)?,
            Some("json" | "txt") => vec![dialogue::read_file(path)?],
            _ => {
                return Err(StageError::hint(
                    format!("`{}` is no text that can be read", path.display()),
                    "give a captions .csv, a .jsonl, a .json or .txt transcript, or a folder of these",
                ));
            }
        }
    };
    let mut seen = HashSet::new();
    for clip in &mut clips {
        if !seen.insert(clip.clip_id.clone()) {
            return Err(StageError::new(format!("clip `{}` stands twice in `{}`", clip.clip_id, path.display())));
        }
        for (index, utterance) in clip.utterances.iter_mut().enumerate() {
            if !clip.captions {
                utterance.index = index;
            }
            settle(utterance).map_err(|message| {
                StageError::new(format!("`{}`, clip `{}`, utterance {index}: {message}", path.display(), clip.clip_id))
            })?;
            times::review(utterance);
        }
        if clip.group.is_none() {
            clip.group = Recording::of(&clip.clip_id).map(|recording| recording.session());
        }
        clip.utterances.retain(|utterance| !utterance.words.is_empty());
    }
    Ok(clips)
}

fn read_lines(path: &Path) -> Result<Vec<Clip>> {
    let file = std::fs::File::open(path).map_err(StageError::io(path))?;
    let mut clips: Vec<Clip> = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(StageError::io(path))?;
        if line.trim().is_empty() {
            continue;
        }
        let mut clip: Clip = serde_json::from_str(&line)
            .map_err(|error| StageError::new(format!("`{}`, line {}: {error}", path.display(), number + 1)))?;
        for (index, utterance) in clip.utterances.iter_mut().enumerate() {
            utterance.index = index;
        }
        clips.push(clip);
    }
    Ok(clips)
}

/// Brings text, words and spans of one utterance into agreement.
pub(crate) fn settle(utterance: &mut Utterance) -> std::result::Result<(), String> {
    if utterance.text.trim().is_empty() {
        let words: Vec<&str> = utterance.words.iter().flat_map(|word| word.text.split_whitespace()).collect();
        utterance.text = words.join(" ");
    } else {
        utterance.text = utterance.text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if utterance.words.is_empty() {
        let words = utterance.text.split(' ').filter(|word| !word.is_empty());
        utterance.words = words.map(|word| Word { text: word.to_owned(), ..Word::default() }).collect();
    }
    utterance.words.retain(|word| !word.text.trim().is_empty());
    for word in &mut utterance.words {
        word.text = word.text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let spans =
        place(&utterance.text, &utterance.words, true).or_else(|_| place(&utterance.text, &utterance.words, false))?;
    for (word, span) in utterance.words.iter_mut().zip(spans) {
        word.span = span;
    }
    Ok(())
}

/// Characters of each word in `text`, in order. With `whole` a word is looked for where it does not begin or end inside
/// another (what words before and after it cover is no other), and only without such a place anywhere in the rest.
fn place(text: &str, words: &[Word], whole: bool) -> std::result::Result<Vec<(usize, usize)>, String> {
    let (mut byte, mut character) = (0, 0);
    let mut spans = Vec::with_capacity(words.len());
    // Pairs of words of which the first has no such place in the rest: it is not looked for to the end again.
    let mut hopeless: HashSet<(&str, Option<&str>)> = HashSet::new();
    let inside = |left: Option<char>, right: Option<char>| {
        left.is_some_and(char::is_alphanumeric) && right.is_some_and(char::is_alphanumeric)
    };
    for (number, word) in words.iter().enumerate() {
        let rest = &text[byte..];
        let fits = |&(start, found): &(usize, &str)| {
            let (before, after) = (&rest[..start], &rest[start + found.len()..]);
            let continues = words.get(number + 1).is_some_and(|next| after.starts_with(&next.text));
            !inside(before.chars().next_back(), found.chars().next())
                && (continues || !inside(found.chars().next_back(), after.chars().next()))
        };
        let first = || rest.find(&word.text);
        let pair = (word.text.as_str(), words.get(number + 1).map(|next| next.text.as_str()));
        let place = match whole && !hopeless.contains(&pair) {
            true => rest.match_indices(&word.text).find(fits).map(|(start, _)| start),
            false => None,
        };
        if place.is_none() {
            hopeless.insert(pair);
        }
        let found = place.or_else(first);
        let Some(found) = found else {
            return Err(format!("word `{}` does not stand in the rest of the text, `{rest}`", word.text));
        };
        let start = character + rest[..found].chars().count();
        character = start + word.text.chars().count();
        byte += found + word.text.len();
        spans.push((start, character));
    }
    Ok(spans)
}

fn assign_splits(clips: &mut [Clip], path: &Path) -> Result<()> {
    let file = if path.is_dir() { path.join("split.csv") } else { path.to_owned() };
    let mut reader = csv::Reader::from_path(&file).map_err(|error| broken(&file, &error))?;
    let columns = Columns::of(&file, &mut reader)?;
    let (id, split, group) = (columns.need("clip_id")?, columns.need("split")?, columns.find("group"));
    let mut known: BTreeMap<String, (String, Option<String>)> = BTreeMap::new();
    for row in reader.records() {
        let row = row.map_err(|error| broken(&file, &error))?;
        let group = group.and_then(|column| row.get(column)).filter(|group| !group.is_empty()).map(str::to_owned);
        let (clip, split) = (row[id].to_owned(), row[split].to_owned());
        if let Some((other, _)) = known.get(&clip).filter(|(other, _)| *other != split) {
            return Err(StageError::hint(
                format!("`{}` has clip `{clip}` in two splits, `{other}` and `{split}`", file.display()),
                "leave one line per clip",
            ));
        }
        known.insert(clip, (split, group));
    }
    let unnamed: Vec<&str> =
        clips.iter().map(|clip| clip.clip_id.as_str()).filter(|clip| !known.contains_key(*clip)).collect();
    if let Some(first) = unnamed.first() {
        return Err(StageError::hint(
            format!(
                "`{}` names no split for {} of {} clips, the first is `{first}`",
                file.display(),
                unnamed.len(),
                clips.len()
            ),
            "give each clip of the text a line; a split that no stage uses (`none`) leaves a clip out",
        ));
    }
    for clip in &mut *clips {
        let given = known.get(&clip.clip_id);
        clip.split = given.map(|(split, _)| split.clone());
        if let Some((_, Some(group))) = given {
            clip.group = Some(group.clone());
        }
    }
    together(clips, &file)
}

/// That the clips of a joined dialogue are in one split: each has all turns of the others.
fn together(clips: &[Clip], file: &Path) -> Result<()> {
    let splits: HashMap<&str, &str> =
        clips.iter().filter_map(|clip| Some((clip.clip_id.as_str(), clip.split.as_deref()?))).collect();
    for clip in clips {
        let own = clip.split.as_deref();
        for partner in clip.utterances.iter().filter_map(|turn| turn.recording.as_deref()) {
            if let Some(other) = splits.get(partner).filter(|other| Some(**other) != own) {
                return Err(StageError::hint(
                    format!(
                        "`{}` has `{}` in split `{}` and `{partner}`, who is of the same dialogue, in `{other}`",
                        file.display(),
                        clip.clip_id,
                        own.unwrap_or_default()
                    ),
                    "keep conversations together (a `split` stage with `apart = [\"scene\"]`): each clip has the turns of all",
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn partners_of_a_dialogue_are_in_one_split() {
        let lines = r#"{"clip_id":"a","utterances":[{"text":"hi"},{"text":"ho","recording":"b"}]}
            {"clip_id":"b","utterances":[{"text":"hi","recording":"a"},{"text":"ho"}]}"#;
        let (folder, path) = written("t.jsonl", lines);
        let load_with = |split: &str| {
            let splits = folder.path().join("splits.csv");
            std::fs::write(&splits, format!("clip_id,split\na,train\nb,{split}\n")).unwrap();
            load(&path, &Selection { splits: Some(splits), ..Selection::default() })
        };
        assert_eq!(load_with("train").unwrap().len(), 2);
        let error = load_with("test").unwrap_err().to_string();
        assert!(error.contains("`a` in split `train` and `b`") && error.contains("apart = [\"scene\"]"), "{error}");
    }

    #[test]
    fn spaces_do_not_leak_into_text_and_spans_count_characters() {
        let (_folder, path) =
            written("t.jsonl", r#"{"clip_id":"a","utterances":[{"text":"  naïve  cooks — eat.  "}]}"#);
        let clips = load(&path, &Selection::default()).unwrap();
        let utterance = &clips[0].utterances[0];
        assert_eq!(utterance.text, "naïve cooks — eat.");
        let spans: Vec<_> = utterance.words.iter().map(|word| (word.text.as_str(), word.span)).collect();
        assert_eq!(spans, [("naïve", (0, 5)), ("cooks", (6, 11)), ("—", (12, 13)), ("eat.", (14, 18))]);
    }

    #[test]
    fn words_without_punctuation_find_their_place() {
        let line = r#"{"clip_id":"a","utterances":[{"text":"He is. It is","words":[
            {"text":"He"},{"text":"is","pos":"AUX"},{"text":"It"},{"text":"is","content":true}]}]}"#;
        let (_folder, path) = written("t.jsonl", &line.replace('\n', " "));
        let clips = load(&path, &Selection::default()).unwrap();
        let words = &clips[0].utterances[0].words;
        assert_eq!(words.iter().map(|word| word.span).collect::<Vec<_>>(), [(0, 2), (3, 5), (7, 9), (10, 12)]);
        let set = ["NOUN".to_owned()];
        let content: Vec<_> = words.iter().map(|word| word.is_content(&set)).collect();
        assert_eq!(content, [None, Some(false), None, Some(true)]);
    }

    #[test]
    fn whole_words_come_before_parts_of_others() {
        let spans = |text: &str, words: &[&str]| {
            let words = words.iter().map(|word| Word { text: (*word).into(), ..Word::default() }).collect();
            let mut utterance = Utterance { text: text.into(), words, ..Utterance::default() };
            settle(&mut utterance).unwrap();
            utterance.words.iter().map(|word| word.span).collect::<Vec<_>>()
        };
        assert_eq!(spans("this island is a hat", &["is", "a", "hat"]), [(12, 14), (15, 16), (17, 20)]);
        // Pieces of one word touch, a lemma falls back to where it begins, and so does a text whose words do not add up.
        assert_eq!(spans("he cannot, I can", &["can", "not", "can"]), [(3, 6), (6, 9), (13, 16)]);
        assert_eq!(spans("she walks", &["she", "walk"]), [(0, 3), (4, 8)]);
        assert_eq!(spans("walks the walk", &["walk", "the"]), [(0, 4), (6, 9)]);
        // Twenty thousand words without a place of their own are placed in no more than a look each.
        assert_eq!(spans(&"ab ".repeat(20_000), &["b"; 20_000]).last(), Some(&(59_998, 59_999)));
    }

    #[test]
    fn a_word_outside_the_text_is_an_error() {
        let (_folder, path) =
            written("t.jsonl", r#"{"clip_id":"a","utterances":[{"text":"he is","words":[{"text":"was"}]}]}"#);
        let message = load(&path, &Selection::default()).unwrap_err().to_string();
        assert!(message.contains("clip `a`") && message.contains("`was`"), "{message}");
    }

    #[test]
    fn splits_come_from_a_table_and_a_split_without_clips_says_which_there_are() {
        let lines = "{\"clip_id\":\"a\",\"split\":\"x\",\"utterances\":[{\"text\":\"one\"}]}\n\
                     {\"clip_id\":\"b\",\"utterances\":[{\"text\":\"two\"}]}\n";
        let (folder, path) = written("t.jsonl", lines);
        let table = folder.path().join("clips.csv");
        std::fs::write(&table, "index,clip_id,split,group\n0,a,train,g1\n1,b,test,\n").unwrap();
        let mut selection = Selection { split: Some("test".into()), splits: Some(table), caption_index: None };
        let clips = load(&path, &selection).unwrap();
        assert_eq!(clips.iter().map(|clip| clip.clip_id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(clips[0].cluster(), "b");
        let table = |text: &str| std::fs::write(folder.path().join("clips.csv"), text).unwrap();
        table("clip_id,split\na,train\n");
        let message = load(&path, &selection).unwrap_err().to_string();
        assert!(message.contains("no split for 1 of 2 clips") && message.contains("`b`"), "{message}");
        table("clip_id,split\na,train\nb,test\na,test\n");
        let message = load(&path, &selection).unwrap_err().to_string();
        assert!(message.contains("clip `a` in two splits, `train` and `test`"), "{message}");
        table("clip_id,split\na,train\nb,test\nb,test\n");
        selection.split = Some("val".into());
        let message = load(&path, &selection).unwrap_err().to_string();
        assert!(message.contains("`test` (1), `train` (1)") && message.contains("hint:"), "{message}");
    }

    #[test]
    fn saved_clips_load_the_same() {
        let (folder, path) = written(
            "t.jsonl",
            r#"{"clip_id":"a","group":"s","utterances":[{"text":"one two","words":[{"text":"one","start":0.5,"end":1.0,"true_bits":2.5},{"text":"two"}],"eos_true_bits":0.0}]}"#,
        );
        let clips = load(&path, &Selection::default()).unwrap();
        let copy = folder.path().join("copy.jsonl");
        save(&copy, &clips).unwrap();
        assert_eq!(load(&copy, &Selection::default()).unwrap(), clips);
        assert_eq!(clips[0].utterances[0].words[0].middle(), Some(0.75));
    }
}
