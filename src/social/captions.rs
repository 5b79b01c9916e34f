//! Captions as CSV: `clip_id,caption` or `clip_id,caption_index,caption`, with further columns where they are known.
//!
//! The original's captions of Moments in Time have `video_name` (`clip.mp4`) for `clip_id`: the clip is the file's name
//! without its ending, as in the original.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::columns::{Columns, broken};
use super::transcripts::{Clip, Utterance, Word};
use crate::stages::{Result, StageError};

/// Reads a captions CSV. Optional columns: `caption_index` (from 1; without it the captions of a clip are counted as
/// they come), `split`, `group`, `pos` (universal parts of speech, one per word, separated by spaces), `oracle_text`.
/// Clips come in the order of their first line.
pub(super) fn read(path: &Path) -> Result<Vec<Clip>> {
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_path(path).map_err(|error| broken(path, &error))?;
    let columns = Columns::of(path, &mut reader)?;
    let (video, caption) = (columns.find("video_name"), columns.need("caption")?);
    let id = match (columns.find("clip_id"), video) {
        (None, Some(video)) => video,
        _ => columns.need("clip_id")?,
    };
    let names_videos = video == Some(id);
    let [number, split, group, pos, oracle] =
        ["caption_index", "split", "group", "pos", "oracle_text"].map(|name| columns.find(name));
    let mut clips: Vec<Clip> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut numbers: HashSet<(usize, usize)> = HashSet::new();
    for (line, row) in reader.records().enumerate() {
        let row = row.map_err(|error| broken(path, &error))?;
        let cell = |column: Option<usize>| {
            column.and_then(|column| row.get(column)).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let bad = |message: String| StageError::new(format!("`{}`, line {}: {message}", path.display(), line + 2));
        let clip_id = cell(Some(id)).ok_or_else(|| bad("the clip id is empty".into()))?;
        let clip_id = if names_videos { without_ending(&clip_id).to_owned() } else { clip_id };
        let place = *places.entry(clip_id.clone()).or_insert_with(|| {
            clips.push(Clip { clip_id: clip_id.clone(), captions: true, ..Clip::default() });
            clips.len() - 1
        });
        let clip = &mut clips[place];
        for (known, found, name) in [(&mut clip.split, cell(split), "split"), (&mut clip.group, cell(group), "group")] {
            if let (Some(known), Some(found)) = (known.as_ref(), &found)
                && known != found
            {
                return Err(bad(format!("clip `{clip_id}` has the {name} `{found}` here and `{known}` above")));
            }
            *known = known.take().or(found);
        }
        let index = match cell(number) {
            None => clip.utterances.len(),
            Some(text) => match text.parse::<usize>() {
                Ok(number) if number > 0 => number - 1,
                _ => return Err(bad(format!("`{text}` is no caption number, which starts at 1"))),
            },
        };
        if !numbers.insert((place, index)) {
            return Err(bad(format!("clip `{clip_id}` has caption {} twice", index + 1)));
        }
        let words: Vec<&str> = row[caption].split_whitespace().collect();
        let tags: Vec<String> =
            cell(pos).map(|tags| tags.split_whitespace().map(str::to_owned).collect()).unwrap_or_default();
        if !tags.is_empty() && tags.len() != words.len() {
            return Err(bad(format!("`pos` has {} tags for {} words", tags.len(), words.len())));
        }
        let words = words.iter().enumerate().map(|(i, word)| Word {
            text: (*word).to_owned(),
            pos: tags.get(i).cloned(),
            ..Word::default()
        });
        clip.utterances.push(Utterance {
            words: words.collect(),
            oracle_text: cell(oracle),
            index,
            ..Utterance::default()
        });
    }
    Ok(clips)
}

/// The line of a clip's caption `number` (from 1) where it stands in the CSV and is empty; `None` where it does not.
/// `path` is the CSV or a folder with `captions.csv`.
pub(super) fn empty_line(path: &Path, clip_id: &str, number: usize) -> Option<u64> {
    let file = if path.is_dir() { path.join("captions.csv") } else { path.to_owned() };
    let mut reader = csv::Reader::from_path(&file).ok()?;
    let columns = Columns::of(&file, &mut reader).ok()?;
    let caption = columns.find("caption")?;
    let (id, names_videos) = match columns.find("clip_id") {
        Some(id) => (id, false),
        None => (columns.find("video_name")?, true),
    };
    let index = columns.find("caption_index");
    let mut count = 0;
    for row in reader.records().flatten() {
        let name = row.get(id)?.trim();
        if (if names_videos { without_ending(name) } else { name }) != clip_id {
            continue;
        }
        count += 1;
        let found = index.and_then(|index| row.get(index)?.trim().parse().ok()).unwrap_or(count);
        if found == number {
            let is_empty = row.get(caption)?.trim().is_empty();
            return is_empty.then(|| row.position().map_or(0, csv::Position::line));
        }
    }
    None
}

/// The name of a video file without its ending; other names stay as they are.
pub(crate) fn without_ending(name: &str) -> &str {
    const ENDINGS: [&str; 6] = ["mp4", "avi", "mov", "mkv", "webm", "m4v"];
    match name.rsplit_once('.') {
        Some((stem, ending)) if ENDINGS.contains(&ending.to_lowercase().as_str()) => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::super::transcripts::{Selection, load};

    #[test]
    fn the_originals_captions_name_videos() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions.csv");
        std::fs::write(&path, "video_name,caption\n-YwZ_15.mp4,a man sits \nvine-1.2_3,two men\n").unwrap();
        let clips = load(&path, &Selection::default()).unwrap();
        assert_eq!(clips.iter().map(|clip| clip.clip_id.as_str()).collect::<Vec<_>>(), ["-YwZ_15", "vine-1.2_3"]);
        assert_eq!(clips[0].utterances[0].text, "a man sits");
    }

    #[test]
    fn captions_keep_their_numbers_and_lose_their_spaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions.csv");
        let text = "clip_id,caption_index,caption,pos\na,2,two dogs,NUM NOUN\nb,1,\"one cat, asleep  \",\na,1,a dog ,DET NOUN\n";
        std::fs::write(&path, text).unwrap();
        let all = load(&path, &Selection::default()).unwrap();
        assert_eq!(
            all.iter().map(|clip| (clip.clip_id.as_str(), clip.utterances.len())).collect::<Vec<_>>(),
            [("a", 2), ("b", 1)]
        );
        let first = load(folder.path(), &Selection { caption_index: Some(1), ..Selection::default() }).unwrap();
        assert_eq!(first[0].utterances[0].text, "a dog");
        assert_eq!(first[0].utterances[0].words[1].pos.as_deref(), Some("NOUN"));
        assert_eq!(first[1].utterances[0].text, "one cat, asleep");
        assert_eq!(first[1].utterances[0].words[0].pos, None);
        let error = load(&path, &Selection { caption_index: Some(2), ..Selection::default() }).unwrap_err();
        assert!(error.to_string().contains("clip `b` has no caption number 2"), "{error}");
    }

    #[test]
    fn an_empty_caption_is_named_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions.csv");
        std::fs::write(&path, "video_name,caption\na.mp4,a dog\nb.mp4,  \n").unwrap();
        let first = Selection { caption_index: Some(1), ..Selection::default() };
        for place in [&path, &folder.path().to_owned()] {
            let error = load(place, &first).unwrap_err().to_string();
            assert!(error.contains("line 3: caption 1 of clip `b` is empty") && error.contains("hint:"), "{error}");
        }
        std::fs::write(&path, "clip_id,caption_index,caption\na,2,a dog\n").unwrap();
        let error = load(&path, &first).unwrap_err().to_string();
        assert!(error.contains("clip `a` has no caption number 1"), "{error}");
    }

    #[test]
    fn captions_of_one_clip_are_in_one_split() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions.csv");
        std::fs::write(&path, "clip_id,caption,split\na,a dog,train\na,a cat,\na,a hen,test\n").unwrap();
        let error = load(&path, &Selection::default()).unwrap_err().to_string();
        assert!(error.contains("line 4") && error.contains("`test` here and `train` above"), "{error}");
    }

    #[test]
    fn a_clip_may_have_a_hundred_thousand_captions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions.csv");
        let rows = (1..=100_000).map(|number| format!("a,{number},dog\n"));
        std::fs::write(&path, "clip_id,caption_index,caption\n".to_owned() + &rows.collect::<String>()).unwrap();
        let start = std::time::Instant::now();
        let clips = load(&path, &Selection::default()).unwrap();
        assert_eq!((clips.len(), clips[0].utterances.len()), (1, 100_000));
        // A look at all captions before each would be five thousand million of them, some minutes.
        assert!(start.elapsed().as_secs_f64() < 20.0, "{:?}", start.elapsed());
        std::fs::write(&path, "clip_id,caption_index,caption\na,2,dog\na,1,cat\na,2,hen\n").unwrap();
        let error = load(&path, &Selection::default()).unwrap_err().to_string();
        assert!(error.contains("line 4: clip `a` has caption 2 twice"), "{error}");
    }

    #[test]
    fn a_wrong_number_of_tags_is_an_error_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions.csv");
        std::fs::write(&path, "clip_id,caption,pos\na,a dog,NOUN\n").unwrap();
        let error = load(&path, &Selection::default()).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("1 tags for 2 words"), "{error}");
    }
}
