//! Scene packs as the original project keeps them: per clip an `.npy`, an `.npz` and a line of a manifest.
//!
//! `<key>_global.npy` is the clip's vector `[dim]`, `<key>_locals.npz` has a vector `[dim]` per local token under
//! `"<number>_<word>"`, and the key is the MD5 of the clip id in hex (`build_scene_packs_ooo.py`,
//! `build_scene_packs_gpu.py`). `<key>_meta.pkl` is a pickle, which runs code when it is read and is not read here;
//! `docs/data.md` has the lines of Python that turn it into `<key>_meta.json`.
//!
//! What the number counts differs: of a caption spaCy's tokens (clitics and punctuation apart), of a dialogue the words
//! that have times. The original's trainer took it for a place among the words between spaces, so that in captions with
//! a clitic a token stood one word too late.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::columns::{Columns, broken};
use super::packs::{Packs, read_json, write_json};
use super::transcripts::{Clip, Word};
use crate::npy::{self, Array};
use crate::stages::{Result, StageError};

/// Names of the manifest, in the order in which the original tries them.
pub const MANIFESTS: [&str; 3] =
    ["social_packs_manifest.csv", "scene_packs_manifest_recovered.csv", "scene_packs_manifest.csv"];

/// Columns of the manifest; the ninth is `transcript_json` for dialogues.
const COLUMNS: [&str; 13] = [
    "clip_id",
    "key",
    "global_vec",
    "locals_npz",
    "meta_pkl",
    "n_locals",
    "n_words",
    "frames_dir",
    "caption",
    "status",
    "error",
    "duration_s",
    "device",
];

/// The key of a clip: the MD5 of its id, in hex.
pub fn key(clip_id: &str) -> String {
    format!("{:x}", md5::compute(clip_id))
}

/// A folder of such packs.
pub struct Original {
    folder: PathBuf,
    /// The manifest that was read; `None` when there is none and files are found by their keys.
    pub manifest: Option<PathBuf>,
    /// Clip → its line, of several lines the last that is no error.
    lines: HashMap<String, Line>,
    /// Clips in the order of the manifest.
    pub clips: Vec<String>,
}

/// What a manifest says of a clip.
#[derive(Clone, Debug, Default)]
struct Line {
    global: String,
    locals: String,
    caption: Option<String>,
    /// Why the original made no pack.
    error: Option<String>,
}

/// A local token's vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// The number in its name.
    pub number: usize,
    /// The word in its name.
    pub word: String,
    /// Its values.
    pub values: Vec<f32>,
}

/// What `<key>_meta.json` says: the pickle's fields.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Meta {
    /// The clip.
    pub clip_id: String,
    /// Of captions: the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Of captions: the tokens that numbers count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<String>,
    /// Of captions: the numbers of the local tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locals_idx: Vec<usize>,
    /// Of captions: the words of the local tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locals_tokens: Vec<String>,
    /// Of dialogues: the words that numbers count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<TimedWord>,
}

/// A word of a dialogue's `meta`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TimedWord {
    /// As it stands in the transcript.
    pub text: String,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
}

impl Original {
    /// Opens a folder of packs: its manifest under one of [`MANIFESTS`], or none.
    ///
    /// # Errors
    /// The manifest cannot be read or has other columns; there is none and no `<key>_global.npy` either.
    pub fn open(folder: &Path) -> Result<Self> {
        let manifest = MANIFESTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let mut packs = Self { folder: folder.to_owned(), manifest, lines: HashMap::new(), clips: Vec::new() };
        let Some(path) = packs.manifest.clone() else {
            let mut entries = std::fs::read_dir(folder).map_err(StageError::io(folder))?;
            let is_pack = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().ends_with("_global.npy");
            return match entries.any(|entry| entry.is_ok_and(is_pack)) {
                true => Ok(packs),
                false => Err(StageError::hint(
                    format!("`{}` has no packs of the original project", folder.display()),
                    format!(
                        "they are a manifest (`{}`) and `<md5>_global.npy`, `<md5>_locals.npz`",
                        MANIFESTS.join("`, `")
                    ),
                )),
            };
        };
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(&path).map_err(|e| broken(&path, &e))?;
        let columns = Columns::of(&path, &mut reader)?;
        let (id, global, locals) = (columns.need("clip_id")?, columns.need("global_vec")?, columns.need("locals_npz")?);
        let [status, error, caption] = ["status", "error", "caption"].map(|name| columns.find(name));
        for row in reader.records() {
            let row = row.map_err(|error| broken(&path, &error))?;
            let cell = |column: usize| row.get(column).unwrap_or_default().to_owned();
            let clip = cell(id);
            let failed = status.is_some_and(|column| &cell(column) == "error");
            let line = Line {
                global: cell(global),
                locals: cell(locals),
                caption: caption.map(cell),
                error: failed.then(|| error.map(cell).unwrap_or_default()),
            };
            if !packs.lines.contains_key(&clip) {
                packs.clips.push(clip.clone());
            }
            let known = packs.lines.entry(clip).or_insert_with(|| line.clone());
            if line.error.is_none() {
                *known = line;
            }
        }
        Ok(packs)
    }

    /// The caption that a clip's pack was made from, where the manifest tells.
    pub fn caption(&self, clip_id: &str) -> Option<&str> {
        self.lines.get(clip_id)?.caption.as_deref()
    }

    /// Why the original made no pack of the clip, or that it is missing; `None` when there is one.
    pub fn missing(&self, clip_id: &str) -> Option<String> {
        match self.lines.get(clip_id) {
            Some(Line { error: Some(error), .. }) => Some(format!("its making failed: {error}")),
            None if self.manifest.is_some() => Some("the manifest does not name it".to_owned()),
            _ => {
                let path = self.global_path(clip_id);
                (!path.is_file()).then(|| format!("there is no `{}`", path.display()))
            }
        }
    }

    /// A file of the clip. Manifests hold the paths of another machine: only the file's name counts.
    fn path(&self, clip_id: &str, listed: impl Fn(&Line) -> &str, ending: &str) -> PathBuf {
        let named = self.lines.get(clip_id).and_then(|line| Path::new(listed(line)).file_name());
        match named {
            Some(name) => self.folder.join(name),
            None => self.folder.join(format!("{}_{ending}", key(clip_id))),
        }
    }

    fn global_path(&self, clip_id: &str) -> PathBuf {
        self.path(clip_id, |line| &line.global, "global.npy")
    }

    /// The clip's vector `[dim]`.
    pub fn global(&self, clip_id: &str) -> Result<Vec<f32>> {
        let path = self.global_path(clip_id);
        flat(&path, "it", npy::read(&path)?)
    }

    /// That the clip's vector is all zeros, which the original wrote where it could not read a frame; `None` when it is not.
    /// The file must be there.
    ///
    /// # Errors
    /// As [`Original::global`].
    pub fn zero_global(&self, clip_id: &str) -> Result<Option<String>> {
        let is_zero = is_zero(&self.global(clip_id)?);
        let name = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(is_zero.then(|| {
            format!(
                "`{}` holds nothing but zeros, which the original wrote where it could not read the frames",
                name(self.global_path(clip_id))
            )
        }))
    }

    /// The clip's local tokens, by number.
    pub fn locals(&self, clip_id: &str) -> Result<Vec<Vector>> {
        let path = self.path(clip_id, |line| &line.locals, "locals.npz");
        let mut vectors = Vec::new();
        for (name, array) in npy::read_npz::<f32>(&path)? {
            let parts = name.split_once('_').and_then(|(number, word)| Some((number.parse().ok()?, word)));
            let (number, word) = parts.ok_or_else(|| {
                StageError::hint(
                    format!("`{}` has an array `{name}`", path.display()),
                    "the original's names are a word's number and the word: `3_dogs`",
                )
            })?;
            let values = flat(&path, &format!("array `{name}`"), array)?;
            vectors.push(Vector { number, word: word.to_owned(), values });
        }
        vectors.sort_by(|a, b| (a.number, &a.word).cmp(&(b.number, &b.word)));
        Ok(vectors)
    }

    /// `<key>_meta.json`, where the pickle has been turned into it.
    pub fn meta(&self, clip_id: &str) -> Result<Option<Meta>> {
        let path = self.folder.join(format!("{}_meta.json", key(clip_id)));
        if path.is_file() { read_json(&path).map(Some) } else { Ok(None) }
    }
}

/// Whether a vector is no picture's: every value is zero.
pub fn is_zero(vector: &[f32]) -> bool {
    vector.iter().all(|&value| value == 0.0)
}

fn flat(path: &Path, what: &str, array: Array<f32>) -> Result<Vec<f32>> {
    let lost = array.values.iter().filter(|value| !value.is_finite()).count();
    let message = match (array.shape.as_slice(), lost) {
        ([dim], 0) if *dim > 0 => return Ok(array.values),
        ([dim], lost) if *dim > 0 => format!("{what} has {lost} of {dim} values that are not finite (NaN or infinite)"),
        (shape, _) => format!("{what} has shape {shape:?}"),
    };
    Err(StageError::hint(
        format!("`{}`: {message}", path.display()),
        "a vector of the original's packs is a float32 array `[dim]`",
    ))
}

/// How the numbers in the names of local tokens become places of words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Slip {
    /// By the word in the name: numbers of spaCy's tokens become those of words between spaces.
    #[default]
    Repair,
    /// By the number alone, as in the original's trainer: after clitics the tokens stand at a later word.
    Keep,
}

/// The place of each local token among `words`, which numbers count but for spaCy's further tokens; `None` where `words`
/// has no such place. `meta` is what tells the tokens exactly.
///
/// Without it the shift of number against place is found token by token: the least that is no less than that of the token
/// before (spaCy only ever splits words) and leads to a word that the token is part of.
pub fn places(vectors: &[Vector], words: &[&Word], meta: Option<&Meta>, slip: Slip) -> Vec<Option<usize>> {
    if slip == Slip::Keep {
        return vectors.iter().map(|vector| (vector.number < words.len()).then_some(vector.number)).collect();
    }
    let fits = |place: usize, token: &str| {
        words.get(place).is_some_and(|word| word.text.to_lowercase().contains(&token.to_lowercase()))
    };
    let known = meta.and_then(|meta| match (meta.tokens.is_empty(), meta.words.is_empty()) {
        (false, _) => Some(word_of_each_token(&meta.tokens, words)),
        (_, false) => Some(word_of_each_timed(&meta.words, words)),
        _ => None,
    });
    let mut shift = 0;
    vectors
        .iter()
        .map(|vector| {
            if let Some(known) = &known {
                let place = known.get(vector.number).copied().flatten()?;
                return fits(place, &vector.word).then_some(place);
            }
            // A shift that leads past the last word fits nothing, however large the number is.
            let least = shift.max(vector.number.saturating_sub(words.len().saturating_sub(1)));
            let found = (least..=vector.number).find(|shift| fits(vector.number - shift, &vector.word))?;
            shift = found;
            Some(vector.number - found)
        })
        .collect()
}

/// The word that each token begins in, both in order of one text; `None` for tokens that no word holds.
fn word_of_each_token(tokens: &[String], words: &[&Word]) -> Vec<Option<usize>> {
    let (mut word, mut byte) = (0, 0);
    tokens
        .iter()
        .map(|token| {
            let token = token.trim();
            let found = (word..words.len()).find_map(|place| {
                let from = if place == word { byte } else { 0 };
                Some((place, from + words[place].text.get(from..)?.find(token)?))
            });
            let (place, start) = found.filter(|_| !token.is_empty())?;
            (word, byte) = (place, start + token.len());
            Some(place)
        })
        .collect()
}

/// The word that each timed word of a dialogue is: the next of that text and, where both have one, that start.
fn word_of_each_timed(timed: &[TimedWord], words: &[&Word]) -> Vec<Option<usize>> {
    let mut next = 0;
    timed
        .iter()
        .map(|known| {
            let is_it = |word: &Word| {
                word.text == known.text.trim() && word.start.is_none_or(|start| (start - known.start).abs() < 1e-3)
            };
            let place = (next..words.len()).find(|&place| is_it(words[place]))?;
            next = place + 1;
            Some(place)
        })
        .collect()
}

/// The words of a clip that its local tokens' numbers count, with their places (utterance, word): all of a caption's, of
/// a dialogue those that came with both times.
pub fn counted(clip: &Clip) -> Vec<((usize, usize), &Word)> {
    let words = clip
        .utterances
        .iter()
        .flat_map(|utterance| utterance.words.iter().enumerate().map(|(place, word)| ((utterance.index, place), word)));
    let came_with_times = |word: &Word| {
        (word.start.is_some() && word.end.is_some()) || word.fault.is_some_and(super::times::Fault::is_unusable)
    };
    words.filter(|(_, word)| clip.captions || came_with_times(word)).collect()
}

/// Writes packs as the original keeps them, with `<key>_meta.json` for the pickle.
///
/// # Errors
/// A clip has several captions, or a dialogue's local token stands at a word without times: the original has no place
/// for either.
pub fn write(folder: &Path, clips: &[Clip], packs: &Packs) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(StageError::io(folder))?;
    let captions = clips.iter().any(|clip| clip.captions);
    let name = if captions { MANIFESTS[0] } else { MANIFESTS[2] };
    let path = folder.join(name);
    let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
    let header = COLUMNS.map(|name| if name == "caption" && !captions { "transcript_json" } else { name });
    out.write_record(header).map_err(|error| broken(&path, &error))?;
    for clip in clips {
        if clip.captions && clip.utterances.len() != 1 {
            return Err(StageError::hint(
                format!(
                    "clip `{}` has {} captions, and a pack of the original has one",
                    clip.clip_id,
                    clip.utterances.len()
                ),
                "give a captions CSV with one caption per clip, or leave `write_original` out",
            ));
        }
        let key = key(&clip.clip_id);
        let counted = counted(clip);
        let place = packs.place(&clip.clip_id)?;
        let mut named = Vec::new();
        for local in &packs.clips[place].locals {
            let number = counted.iter().position(|(at, _)| *at == (local.utterance, local.word)).ok_or_else(|| {
                StageError::hint(
                    format!(
                        "word {} of utterance {} of clip `{}` has a local token and no time",
                        local.word, local.utterance, clip.clip_id
                    ),
                    "packs of the original count words with times: set `word_times` to `given` or `skip`, or leave \
                     `write_original` out",
                )
            })?;
            let word = &counted[number].1.text;
            let values = packs.locals.row(local.row).to_vec();
            named.push((number, word.clone(), Array::new([values.len()], values)));
        }
        let files = ["global.npy", "locals.npz", "meta.json"].map(|ending| format!("{key}_{ending}"));
        let global = packs.global.row(place).to_vec();
        npy::write(&folder.join(&files[0]), &Array::new([global.len()], global))?;
        let names: Vec<String> = named.iter().map(|(number, word, _)| format!("{number}_{word}")).collect();
        let arrays = names.iter().map(String::as_str).zip(named.iter().map(|(.., array)| array));
        npy::write_npz(&folder.join(&files[1]), arrays)?;
        write_json(&folder.join(&files[2]), &meta_of(clip, &counted, &named))?;
        let text = clip.utterances.first().map(|utterance| utterance.text.clone()).filter(|_| clip.captions);
        let [locals, words] = [named.len(), counted.len()].map(|count| count.to_string());
        let [global, locals_file, _] = files;
        let row = [
            clip.clip_id.clone(),
            key,
            global,
            locals_file,
            String::new(),
            locals,
            words,
            String::new(),
            text.unwrap_or_default(),
            "ok".to_owned(),
            String::new(),
            String::new(),
            String::new(),
        ];
        out.write_record(row).map_err(|error| broken(&path, &error))?;
    }
    out.flush().map_err(StageError::io(&path))
}

fn meta_of(clip: &Clip, counted: &[((usize, usize), &Word)], named: &[(usize, String, Array<f32>)]) -> Meta {
    let clip_id = clip.clip_id.clone();
    if !clip.captions {
        let timed = |word: &Word| TimedWord {
            text: word.text.clone(),
            start: word.start.unwrap_or_default(),
            end: word.end.unwrap_or_default(),
        };
        return Meta { clip_id, words: counted.iter().map(|(_, word)| timed(word)).collect(), ..Meta::default() };
    }
    Meta {
        clip_id,
        caption: clip.utterances.first().map(|utterance| utterance.text.clone()),
        tokens: counted.iter().map(|(_, word)| word.text.clone()).collect(),
        locals_idx: named.iter().map(|(number, ..)| *number).collect(),
        locals_tokens: named.iter().map(|(_, word, _)| word.clone()).collect(),
        words: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_md5_of_the_id() {
        // hashlib.md5(b"-YwZOeyAQC8_15").hexdigest()
        assert_eq!(key("-YwZOeyAQC8_15"), "f2f9e0ff45b6852c43b3ae04979a75d0");
        assert_eq!(key(""), "d41d8cd98f00b204e9800998ecf8427e");
    }

    fn placed(text: &str, names: &[(usize, &str)], tokens: &[&str], slip: Slip) -> Vec<Option<usize>> {
        let words: Vec<Word> = text.split(' ').map(|word| Word { text: word.into(), ..Word::default() }).collect();
        let words: Vec<&Word> = words.iter().collect();
        let vector = |&(number, word): &(usize, &str)| Vector { number, word: word.into(), values: vec![] };
        let vectors: Vec<Vector> = names.iter().map(vector).collect();
        let meta = Meta { tokens: tokens.iter().map(|token| (*token).into()).collect(), ..Meta::default() };
        places(&vectors, &words, (!tokens.is_empty()).then_some(&meta), slip)
    }

    #[test]
    fn numbers_that_slip_after_a_clitic_are_brought_back() {
        // spaCy: a|woman|jokingly|touches|a|man|'s|game|controller, numbers 1 3 5 7 8.
        let text = "a woman jokingly touches a man's game controller";
        let names = [(1, "woman"), (3, "touches"), (5, "man"), (7, "game"), (8, "controller")];
        let right = [1, 3, 5, 6, 7].map(Some);
        assert_eq!(placed(text, &names, &[], Slip::Repair), right);
        let tokens = ["a", "woman", "jokingly", "touches", "a", "man", "'s", "game", "controller"];
        assert_eq!(placed(text, &names, &tokens, Slip::Repair), right);
        // The original's trainer: one word late, and the last token nowhere.
        assert_eq!(placed(text, &names, &[], Slip::Keep), [Some(1), Some(3), Some(5), Some(7), None]);
        assert_eq!(placed(text, &[(1, "woman"), (3, "dances")], &[], Slip::Repair), [Some(1), None]);
        // A number of a damaged name is not counted down to the text.
        assert_eq!(placed(text, &[(1, "woman"), (usize::MAX, "dances")], &[], Slip::Repair), [Some(1), None]);
        assert_eq!(placed(text, &[(usize::MAX, "a")], &[], Slip::Repair), [Some(6)]);
        // A word that stands twice: the shift of the token before decides.
        let text = "he's a man who is a man";
        assert_eq!(
            placed(text, &[(1, "'s"), (3, "man"), (5, "is"), (7, "man")], &[], Slip::Repair),
            [0, 2, 4, 6].map(Some)
        );
    }

    #[test]
    fn the_words_of_a_dialogues_meta_tell_their_places() {
        // The original left the second word out, so that its numbers are too low behind it.
        let word = |text: &str, start: f64| Word { text: text.into(), start: Some(start), ..Word::default() };
        let words = [word("so", 0.0), word("men", 0.5), word("men", 1.0), word("talk", 1.5)];
        let words: Vec<&Word> = words.iter().collect();
        let timed = |text: &str, start: f64| TimedWord { text: text.into(), start, end: start + 0.1 };
        let meta = Meta { words: vec![timed("so", 0.0), timed("men", 1.0), timed("talk", 1.5)], ..Meta::default() };
        let vectors =
            [(1, "men"), (2, "talk")].map(|(number, word)| Vector { number, word: word.into(), values: vec![] });
        assert_eq!(places(&vectors, &words, Some(&meta), Slip::Repair), [Some(2), Some(3)]);
        assert_eq!(places(&vectors, &words, None, Slip::Repair), [Some(1), None]);
    }
}
