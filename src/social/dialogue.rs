//! Transcripts in the shapes that other projects write: lists of segments or of words, with or without times.
//!
//! JSON files, JSON lines of segments (the raw layout of the Seamless Interaction dataset) and plain text.

use std::path::Path;

use serde_json::{Map, Value};
use walkdir::WalkDir;

use super::transcripts::{Clip, Utterance, Word};
use crate::stages::{Result, StageError};

/// Keys under which a transcript's segments, a segment's text, its start and its end are looked for, best first.
const SEGMENTS: [&str; 5] = ["metadata:transcript", "segments", "turns", "utterances", "transcript"];
const TEXT: [&str; 5] = ["text", "utterance", "transcript", "word", "token"];
const START: [&str; 3] = ["start", "begin", "timestamp"];
const END: [&str; 2] = ["end", "finish"];
const CLIP_ID: [&str; 3] = ["clip_id", "conversation_id", "id"];

/// Whether a `.jsonl` has a segment per line and not a clip per line.
pub(crate) fn has_segments(path: &Path) -> Result<bool> {
    let text = std::fs::read_to_string(path).map_err(StageError::io(path))?;
    let first =
        text.lines().find(|line| !line.trim().is_empty()).and_then(|line| serde_json::from_str::<Value>(line).ok());
    let is_clip = first.as_ref().is_some_and(|line| line.get("utterances").or(line.get("clip_id")).is_some());
    Ok(!is_clip && first.as_ref().and_then(segment).is_some())
}

/// Reads every `.json` and `.jsonl` below `folder`, in order of path.
pub(super) fn read_folder(folder: &Path) -> Result<Vec<Clip>> {
    let mut clips = Vec::new();
    for entry in WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.map_err(|error| StageError::new(format!("`{}`: {error}", folder.display())))?;
        if entry.file_type().is_file() && entry.path().extension().is_some_and(|end| end == "json" || end == "jsonl") {
            clips.push(read_file(entry.path())?);
        }
    }
    if clips.is_empty() {
        return Err(StageError::hint(
            format!("`{}` holds no text", folder.display()),
            "it should have `transcripts.jsonl`, `captions.csv` or transcript files that end in `.json` or `.jsonl`",
        ));
    }
    Ok(clips)
}

/// Reads one transcript. The clip id is `clip_id`, `conversation_id` or `id`, else the file's name without `.json`.
pub(super) fn read_file(path: &Path) -> Result<Clip> {
    let text = std::fs::read_to_string(path).map_err(StageError::io(path))?;
    let json = |text: &str| {
        serde_json::from_str(text).map_err(|error| StageError::new(format!("`{}`: {error}", path.display())))
    };
    let value: Value = match path.extension().and_then(|end| end.to_str()) {
        Some("txt") => Value::String(text),
        Some("jsonl") => {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            Value::Array(lines.map(json).collect::<Result<_>>()?)
        }
        _ => json(&text)?,
    };
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    parse(&value, &stem).ok_or_else(|| {
        if let Some(why) = amiss(&value) {
            return StageError::hint(
                format!("`{}`: {why}", path.display()),
                "give it a text, or take it out of the transcript",
            );
        }
        StageError::hint(
            format!("`{}` has no transcript that can be read", path.display()),
            format!("segments are looked for under `{}`, `words` or `text`, or as a list", SEGMENTS.join("`, `")),
        )
    })
}

fn parse(value: &Value, stem: &str) -> Option<Clip> {
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    let name = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let utterances = match value {
        Value::Object(object) => match SEGMENTS.iter().find_map(|key| object.get(*key).and_then(Value::as_array)) {
            Some(list) => segments(list)?,
            None => vec![segment(value)?],
        },
        Value::Array(list) => segments(list)?,
        Value::String(_) => vec![segment(value)?],
        _ => return None,
    };
    let clip_id = CLIP_ID.iter().find_map(|key| name(key)).unwrap_or_else(|| stem.to_owned());
    Some(Clip { clip_id, split: name("split"), group: name("group"), utterances, captions: false })
}

/// The first word or segment of a transcript that has no text, though there is a list of them; counted from 1.
fn amiss(value: &Value) -> Option<String> {
    let list = match value {
        Value::Object(object) => SEGMENTS.iter().find_map(|key| object.get(*key).and_then(Value::as_array)),
        other => other.as_array(),
    };
    let own = std::slice::from_ref(value);
    let segments = list.map_or(own, Vec::as_slice);
    let (number, found) = segments.iter().enumerate().find(|(_, item)| segment(item).is_none())?;
    let words = found.get("words").and_then(Value::as_array);
    let said = match words.and_then(|words| words.iter().enumerate().find(|(_, item)| word(item).is_none())) {
        Some((place, item)) => format!("word {} of segment {} has no text: `{item}`", place + 1, number + 1),
        None if list.is_none() || words.is_some() => return None,
        None => format!("segment {} has neither text nor words: `{found}`", number + 1),
    };
    Some(said)
}

/// A list whose items are words is one segment; otherwise each item is a segment.
fn segments(list: &[Value]) -> Option<Vec<Utterance>> {
    let is_word = |item: &Value| item.get("word").or(item.get("token")).is_some() && item.get("words").is_none();
    if !list.is_empty() && list.iter().all(is_word) {
        let words = list.iter().map(word).collect::<Option<Vec<_>>>()?;
        return Some(vec![Utterance { words, ..Utterance::default() }]);
    }
    list.iter().map(segment).collect()
}

fn segment(value: &Value) -> Option<Utterance> {
    if let Some(text) = value.as_str() {
        return Some(Utterance { text: text.to_owned(), ..Utterance::default() });
    }
    let object = value.as_object()?;
    let words = match object.get("words").and_then(Value::as_array) {
        Some(words) => words.iter().map(word).collect::<Option<Vec<_>>>()?,
        None => Vec::new(),
    };
    let text = TEXT.iter().find_map(|key| object.get(*key).and_then(Value::as_str));
    if text.is_none() && !object.get("words").is_some_and(Value::is_array) {
        return None;
    }
    Some(Utterance {
        text: text.unwrap_or_default().to_owned(),
        speaker: object.get("speaker").and_then(|speaker| match speaker {
            Value::String(name) => Some(name.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }),
        start: number(object, &START),
        end: number(object, &END),
        frame_path: object.get("frame_path").and_then(Value::as_str).map(str::to_owned),
        words,
        ..Utterance::default()
    })
}

fn word(value: &Value) -> Option<Word> {
    if let Some(text) = value.as_str() {
        return Some(Word { text: text.to_owned(), ..Word::default() });
    }
    let object = value.as_object()?;
    Some(Word {
        text: ["text", "token", "word"].iter().find_map(|key| object.get(*key).and_then(Value::as_str))?.to_owned(),
        start: number(object, &START),
        end: number(object, &END),
        pos: object.get("pos").and_then(Value::as_str).map(str::to_owned),
        content: object.get("content").and_then(Value::as_bool),
        ..Word::default()
    })
}

/// Times may be null, which is the same as left out.
fn number(object: &Map<String, Value>, keys: &[&str]) -> Option<f64> {
    keys.iter().find_map(|key| object.get(*key).and_then(Value::as_f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(json: &str) -> Clip {
        parse(&serde_json::from_str(json).unwrap(), "stem").unwrap()
    }

    #[test]
    fn every_known_shape_is_read() {
        let turns = clip(
            r#"{"conversation_id":"conv_001","turns":[{"speaker":"A","utterance":"Hello, you","timestamp":1.5,"frame_path":"f.jpg"}]}"#,
        );
        assert_eq!((turns.clip_id.as_str(), turns.utterances[0].text.as_str()), ("conv_001", "Hello, you"));
        assert_eq!((turns.utterances[0].start, turns.utterances[0].speaker.as_deref()), (Some(1.5), Some("A")));
        assert_eq!(turns.utterances[0].frame_path.as_deref(), Some("f.jpg"));
        let segments = clip(
            r#"{"id":"V1","metadata:vad":[],"metadata:transcript":[{"words":[{"word":"so","start":0.5,"end":0.75},{"word":"yes","start":null,"end":null}]},{"start":1,"end":2,"text":"no words"}]}"#,
        );
        assert_eq!(segments.utterances.len(), 2);
        assert_eq!(segments.utterances[0].words[0].middle(), Some(0.625));
        assert_eq!(segments.utterances[0].words[1].middle(), None);
        let words = clip(r#"[{"word":"a","begin":0,"finish":1},{"token":"b","begin":1,"finish":2}]"#);
        assert_eq!((words.clip_id.as_str(), words.utterances.len(), words.utterances[0].words.len()), ("stem", 1, 2));
        assert_eq!(clip(r#""only text""#).utterances[0].text, "only text");
        assert_eq!(clip(r#"{"transcript":"plain"}"#).utterances[0].text, "plain");
        assert_eq!(clip(r#"{"words":["x","y"]}"#).utterances[0].words.len(), 2);
        assert!(parse(&serde_json::json!({"id": "x"}), "stem").is_none());
    }

    #[test]
    fn a_word_without_text_is_named_with_its_segment() {
        let folder = tempfile::tempdir().unwrap();
        let message = |json: &str| {
            let path = folder.path().join("talk.json");
            std::fs::write(&path, json).unwrap();
            read_file(&path).unwrap_err().to_string()
        };
        let error = message(r#"{"segments":[{"text":"so"},{"words":[{"word":"a"},{"word":null,"start":1.0}]}]}"#);
        assert!(error.contains(r#"word 2 of segment 2 has no text: `{"word":null,"start":1.0}`"#), "{error}");
        assert!(error.contains("hint:"), "{error}");
        let error = message(r#"{"turns":[{"speaker":"A","timestamp":1.0}]}"#);
        assert!(error.contains("segment 1 has neither text nor words"), "{error}");
        assert!(message(r#"{"id":"x"}"#).contains("has no transcript that can be read"));
    }

    #[test]
    fn lines_of_segments_and_plain_text_are_transcripts_too() {
        use super::super::transcripts::{Selection, load};
        let folder = tempfile::tempdir().unwrap();
        let lines =
            "{\"start\":0.0,\"end\":1.0,\"text\":\"Hello\"}\n\n{\"start\":1.0,\"end\":2.0,\"text\":\"world\"}\n";
        let path = folder.path().join("V00_S0809_I00000582_P0947.jsonl");
        std::fs::write(&path, lines).unwrap();
        for path in [&path, &folder.path().to_owned()] {
            let clips = load(path, &Selection::default()).unwrap();
            assert_eq!((clips.len(), clips[0].utterances.len()), (1, 2));
            assert_eq!(clips[0].clip_id, "V00_S0809_I00000582_P0947");
            assert_eq!(clips[0].cluster(), "V00_S0809", "the session is the group of such an id");
        }
        let path = folder.path().join("talk.txt");
        std::fs::write(&path, "so it\n goes ").unwrap();
        assert_eq!(load(&path, &Selection::default()).unwrap()[0].utterances[0].text, "so it goes");
    }
}
