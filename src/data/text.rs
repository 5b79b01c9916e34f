//! Text: captions, clips with words, transcripts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;

use super::joined::Clips;
use super::survey::Survey;
use super::{Form, Found, Name, Report};
use crate::social::times::{Fault, Timing};
use crate::social::transcripts::{self, Clip, Selection};
use crate::social::{captions, dialogue};

/// Reads every text of the folder.
pub(super) fn look(survey: &Survey, clips: &mut Clips, report: &mut Report) {
    let mut captions: HashMap<String, BTreeSet<String>> = HashMap::new();
    for (path, columns) in &survey.tables {
        let has = |name: &str| columns.iter().any(|column| column == name);
        if !has("caption") || !(has("clip_id") || has("video_name")) {
            continue;
        }
        // `simulate_clips` writes its captions twice: the clips with words are what is read.
        if path.with_file_name("transcripts.jsonl").is_file() && path.ends_with("captions.csv") {
            continue;
        }
        let place = survey.name(path);
        raw_captions(path, &place, report);
        table_or_lines(survey, path, &place, Form::Captions, clips, report, &mut captions);
    }
    let mut transcripts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for path in &survey.texts {
        let place = survey.name(path);
        let is_lines =
            path.extension().is_some_and(|end| end == "jsonl") && !dialogue::has_segments(path).unwrap_or(false);
        if is_lines {
            if has_clips(path) {
                table_or_lines(survey, path, &place, Form::Clips, clips, report, &mut captions);
            }
            continue;
        }
        let read = transcripts::load(path, &Selection::default());
        match read {
            Ok(read) => {
                let folder = survey.name(path.parent().unwrap_or(Path::new("")));
                let counts = transcripts.entry(common(&folder)).or_default();
                foreign_tags(&read, &place, report);
                for mut clip in read {
                    counts.0 += 1;
                    counts.1 += words(&clip);
                    clip.split = clip.split.or_else(|| survey.split_of(path));
                    raw_transcript(path, &place, &clip.clip_id, report);
                    one(&clip, &place, report);
                    clips.text(clip, &place, report);
                }
            }
            // A JSON file without anything like a transcript is some other file; one that should have one is broken.
            Err(error) if !is_other_json(path) => {
                report.add(Name::UnreadableFile, &place, None, survey.shorten(&first_line(&error.to_string())));
            }
            Err(_) => {}
        }
    }
    for (place, (clips, words)) in transcripts {
        report.found.push(Found { form: Form::Transcripts, place, clips, size: format!("{words} words") });
    }
    let repeated = captions.values().filter(|clips| clips.len() > 1).count();
    match repeated {
        0 => {}
        1 => report.notes.push("1 caption stands at more than one clip".to_owned()),
        _ => report.notes.push(format!("{repeated} captions stand at more than one clip")),
    }
}

/// A captions CSV or a file of clips: one found thing with many clips.
fn table_or_lines(
    survey: &Survey,
    path: &Path,
    place: &str,
    form: Form,
    clips: &mut Clips,
    report: &mut Report,
    captions: &mut HashMap<String, BTreeSet<String>>,
) {
    let read = match transcripts::load(path, &Selection::default()) {
        Ok(read) => read,
        Err(error) => {
            let text = survey.shorten(&first_line(&error.to_string()));
            // What is told by its own name is not told again.
            if !(text.contains(" twice") && report.odd.iter().any(|odd| odd.place == place)) {
                report.add(Name::UnreadableFile, place, None, text);
            }
            return;
        }
    };
    let size = format!("{} words", read.iter().map(words).sum::<usize>());
    report.found.push(Found { form, place: place.to_owned(), clips: read.len(), size });
    foreign_tags(&read, place, report);
    for clip in read {
        if clip.captions {
            for utterance in &clip.utterances {
                captions.entry(utterance.text.clone()).or_default().insert(clip.clip_id.clone());
            }
        }
        one(&clip, place, report);
        clips.text(clip, place, report);
    }
}

fn words(clip: &Clip) -> usize {
    clip.utterances.iter().map(|utterance| utterance.words.len()).sum()
}

/// The universal parts of speech (<https://universaldependencies.org/u/pos/>).
const UNIVERSAL: [&str; 17] = [
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ",
    "SYM", "VERB", "X",
];

/// Words that came with tags of another set (`NN`, `VBZ`), which no default `pos_set` has.
fn foreign_tags(clips: &[Clip], place: &str, report: &mut Report) {
    let words = clips.iter().flat_map(|clip| &clip.utterances).flat_map(|utterance| &utterance.words);
    let tags: Vec<&str> = words.filter_map(|word| word.pos.as_deref()).collect();
    let foreign: Vec<&str> = tags.iter().copied().filter(|tag| !UNIVERSAL.contains(tag)).collect();
    if let Some(first) = foreign.first() {
        let text = format!(
            "{} of {} parts of speech are not universal ones (`NOUN`, `VERB`), the first is `{first}`: with the default \
             `pos_set` such words get no local token",
            foreign.len(),
            tags.len()
        );
        report.add(Name::ForeignTags, place, None, text);
    }
}

/// What is odd in a clip by itself.
fn one(clip: &Clip, place: &str, report: &mut Report) {
    let id = Some(clip.clip_id.as_str());
    if words(clip) == 0 {
        report.add(Name::EmptyTranscript, place, id, "no word is said or written");
        return;
    }
    let timing = Timing::of(std::slice::from_ref(clip));
    if timing.untimed > 0 && timing.timed + timing.mistimed > 0 {
        let without = clip.utterances.iter().flat_map(|utterance| &utterance.words);
        let first = without.into_iter().find(|word| word.middle().is_none() && word.fault.is_none());
        let first = first.map(|word| word.text.as_str()).unwrap_or_default();
        let all = timing.timed + timing.untimed + timing.mistimed;
        let message = format!("{} of {all} words have no time, the first is `{first}`", timing.untimed);
        report.add(Name::MissingWordTimes, place, id, message);
    }
    let mut faults: BTreeMap<Fault, (usize, String)> = BTreeMap::new();
    for utterance in &clip.utterances {
        let number = utterance.index;
        if let Some(fault) = utterance.fault {
            faults.entry(fault).or_insert_with(|| (0, format!("utterance {number}"))).0 += 1;
        }
        for (position, word) in utterance.words.iter().enumerate() {
            if let Some(fault) = word.fault {
                let first = || (0, format!("word {position} of utterance {number}, `{}`,", word.text));
                faults.entry(fault).or_insert_with(first).0 += 1;
            }
        }
    }
    for (fault, (count, first)) in faults {
        let name = match fault {
            Fault::Reversed => Name::ReversedTimes,
            Fault::Overlapping => Name::OverlappingWords,
            Fault::BeyondClip => Name::TimeBeyondClip,
            Fault::BeforeClip | Fault::OutsideUtterance | Fault::OutOfOrder => Name::MistimedWords,
        };
        let more = if count > 1 { format!(" ({count} in all)") } else { String::new() };
        report.add(name, place, id, format!("{first} {}{more}", fault.describe()));
    }
    let starts: Vec<(usize, f64)> = clip.utterances.iter().filter_map(|u| Some((u.index, u.start?))).collect();
    if let Some(pair) = starts.windows(2).find(|pair| pair[1].1 < pair[0].1) {
        let message = format!("utterance {} begins before utterance {}", pair[1].0, pair[0].0);
        report.add(Name::MistimedWords, place, id, message);
    }
}

/// What the reader of captions mends or stops at: spaces at the end, one caption of a clip twice.
fn raw_captions(path: &Path, place: &str, report: &mut Report) {
    let Ok(mut reader) = csv::Reader::from_path(path) else { return };
    let Ok(header) = reader.headers().cloned() else { return };
    let find = |name: &str| header.iter().position(|column| column.trim() == name);
    let (clip_id, video) = (find("clip_id"), find("video_name"));
    let (Some(id), Some(caption)) = (clip_id.or(video), find("caption")) else { return };
    let number = find("caption_index");
    let mut seen: HashMap<(String, String), u64> = HashMap::new();
    let mut numbers: HashMap<(String, String), u64> = HashMap::new();
    for row in reader.records().flatten() {
        let line = row.position().map_or(0, csv::Position::line);
        let (clip, text) = (row[id].trim(), row[caption].to_owned());
        let clip = if clip_id.is_none() { captions::without_ending(clip) } else { clip }.to_owned();
        if text.ends_with(char::is_whitespace) {
            report.add(
                Name::TrailingSpace,
                place,
                Some(&clip),
                format!("line {line}: the caption ends in white space"),
            );
        }
        if text.trim().is_empty() {
            report.add(Name::EmptyTranscript, place, Some(&clip), format!("line {line}: the caption is empty"));
        }
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut told = false;
        if let Some(first) = seen.insert((clip.clone(), words), line) {
            let message = format!("line {line} has the caption of line {first}");
            report.add(Name::DuplicateCaption, place, Some(&clip), message);
            told = true;
        }
        if let Some(number) = number.and_then(|column| row.get(column))
            && let Some(first) = numbers.insert((clip.clone(), number.trim().to_owned()), line)
            && !told
        {
            let message = format!("line {line} has the caption number {number} of line {first}");
            report.add(Name::DuplicateCaption, place, Some(&clip), message);
        }
    }
}

/// Text of a transcript that ends in white space.
fn raw_transcript(path: &Path, place: &str, clip: &str, report: &mut Report) {
    let Ok(text) = std::fs::read_to_string(path) else { return };
    let lines: Vec<Value> = match serde_json::from_str(&text) {
        Ok(value) => vec![value],
        Err(_) => text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
    };
    fn trailing(value: &Value) -> usize {
        match value {
            Value::Array(items) => items.iter().map(trailing).sum(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| match value.as_str() {
                    Some(text) if matches!(name.as_str(), "text" | "utterance" | "transcript" | "word" | "token") => {
                        usize::from(text.ends_with(char::is_whitespace))
                    }
                    _ => trailing(value),
                })
                .sum(),
            _ => 0,
        }
    }
    let count: usize = lines.iter().map(trailing).sum();
    if count > 0 {
        report.add(Name::TrailingSpace, place, Some(clip), format!("{count} texts or words end in white space"));
    }
}

/// Whether a `.jsonl` has clips in its first line.
fn has_clips(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let first = text.lines().find(|line| !line.trim().is_empty());
    let first = first.and_then(|line| serde_json::from_str::<Value>(line).ok());
    first.is_some_and(|line| line.get("clip_id").is_some())
}

/// Valid JSON that has nothing of a transcript.
fn is_other_json(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lists = ["metadata:transcript", "segments", "turns", "utterances"];
    serde_json::from_str::<Value>(&text).is_ok_and(|value| lists.iter().all(|list| value.get(list).is_none()))
}

/// Transcripts of a folder per clip, `<clip>/transcripts/<clip>.json`, are one thing of the folder above.
fn common(folder: &str) -> String {
    match folder.strip_suffix("/transcripts").and_then(|clip| clip.rsplit_once('/')) {
        Some((above, _)) => above.to_owned(),
        None if folder.ends_with("/transcripts") => ".".to_owned(),
        None => folder.to_owned(),
    }
}

/// The message of an error without its hint.
pub(super) fn first_line(error: &str) -> String {
    error.lines().next().unwrap_or_default().to_owned()
}
