//! `scene_packs`: text and frame features become what social tokens are made of.
//!
//! A clip's global vector is the mean of its frame features. Every noun and verb gets a local vector from the frames that
//! belong to its time; a word that comes without part of speech is tagged first. Vectors stay as the encoder gave them: the projector comes later, and so do modes of injection.

use std::collections::HashMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::Size;
use super::{Context, Estimate, Expected, Inputs, Reference, Result, Stage, StageError, Summary};
use crate::npy::{self, Array};
use crate::social::columns::{Columns, broken};
use crate::social::packs::{Causal, GlobalMode, Local, PackedClip, Packs, Tagging};
use crate::social::placement::{FrameOrder, LocalWords};
use crate::social::seen::Seen;
use crate::social::tagger::{self, Coverage};
use crate::social::times::{self, Timing};
use crate::social::transcripts::{self, Clip, Selection, Utterance, Word};
use crate::social::{alignment, original};

/// See the module.
pub struct ScenePacks;

/// Which frames a local vector is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LocalFrame {
    /// The frame nearest to the middle of the word; of two equally near the earlier.
    #[default]
    Nearest,
    /// The mean over frames from `window_pad` seconds before the word to as much after it.
    WindowMean,
    /// The r-th of M such words takes frame round((r + 0.5) / M · (N − 1)) of N, halves to even: needs no times.
    RankUniform,
    /// The mean over the whole clip, at the places of local tokens: a control that removes order and nothing else.
    ClipMean,
}

/// What to do about words without times, those whose times are unusable among them. A word's own times always win.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WordTimes {
    /// They must be given.
    #[default]
    Given,
    /// Words have none: they share the frame of their utterance, which is the one of its `frame_path`, else the one at its
    /// time.
    None,
    /// They are spread evenly over the time of their utterance.
    Spread,
    /// Words without times get no local token, as in the original's packs of dialogues.
    Skip,
}

/// Settings of `scene_packs`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Captions or transcripts.
    #[schemars(extend("x-accepts" = ["text"]))]
    pub text: Reference,
    /// A vector per frame.
    #[schemars(extend("x-accepts" = ["features"]))]
    pub features: Reference,
    /// What a global token is made of.
    #[serde(default)]
    pub global_mode: GlobalMode,
    /// Which frames a local vector is made of.
    #[serde(default)]
    pub local_frame: LocalFrame,
    /// Seconds before and after the word that `window_mean` takes in.
    #[serde(default = "window_pad")]
    #[schemars(range(min = 0.0))]
    pub window_pad: f64,
    /// Give a word only frames that are shown at or before its end, so that a local token sees nothing of what comes after
    /// it. A word that ends before the first frame gets no local token then.
    #[serde(default)]
    pub causal: bool,
    /// What to do about words without times.
    #[serde(default)]
    pub word_times: WordTimes,
    /// What tags the words that come without `pos` (or `content`).
    #[serde(default)]
    pub tagger: tagger::Method,
    /// What the tagger sees of a word's surroundings.
    #[serde(default)]
    pub tagger_view: tagger::View,
    /// Universal parts of speech that get a local token.
    #[serde(default = "pos_set")]
    pub pos_set: Vec<String>,
    /// Which words get a local token: those of `pos_set`, or as many others (a control).
    #[serde(default)]
    pub local_words: LocalWords,
    /// In which order the clip's frames stand (a control).
    #[serde(default)]
    pub frame_order: FrameOrder,
    /// Draws the words of `local_words` and the order of `shuffled` frames.
    #[serde(default)]
    pub control_seed: u64,
    /// At most this many local tokens per clip (per caption where a clip has captions), the first ones.
    #[serde(default = "local_cap")]
    #[schemars(range(min = 1))]
    pub local_cap: usize,
    /// Write the packs in the original project's form too, into the folder `original` of the artifact.
    #[serde(default)]
    pub write_original: bool,
}

/// What to do about a person of a dialogue whose frames are missing.
const WITHOUT_FRAMES: &str = "bring the frames of every person of a conversation; or take that person's transcript out of the \
    text that `join_speakers` reads, which leaves a dialogue of one, or none with `alone = \"leave_out\"`";

fn window_pad() -> f64 {
    0.75
}

/// The parts of speech that get a local token unless the experiment says otherwise.
pub fn pos_set() -> Vec<String> {
    ["NOUN", "PROPN", "VERB", "AUX"].map(str::to_owned).to_vec()
}

fn local_cap() -> usize {
    50
}

impl Config {
    /// Are words left out because the local frame needs a time that they lack?
    fn skips(&self) -> bool {
        let needs_times = self.causal || matches!(self.local_frame, LocalFrame::Nearest | LocalFrame::WindowMean);
        needs_times && self.word_times == WordTimes::Skip
    }
}

impl Stage for ScenePacks {
    const KIND: &'static str = "scene_packs";
    const VERSION: u32 = 3;
    const SUMMARY: &'static str =
        "Joins text and frame features into the vectors of each clip's global and local social tokens";
    const GIVES: &'static [&'static str] = &["packs"];
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &super::Upstream) {
        if config.local_frame != LocalFrame::WindowMean {
            config.window_pad = window_pad();
        }
        let timeless = matches!(config.local_frame, LocalFrame::RankUniform | LocalFrame::ClipMean);
        if timeless && !config.causal {
            config.word_times = WordTimes::Given;
        }
        if (config.local_words, config.frame_order) == (LocalWords::Content, FrameOrder::Time) {
            config.control_seed = 0;
        }
        if config.tagger == tagger::Method::None {
            config.tagger_view = tagger::View::default();
        }
    }

    fn estimate(_config: &Config, inputs: &Expected) -> Estimate {
        let (text, features) = (inputs.of("text"), inputs.of("features"));
        Estimate {
            items: text.clips_in("all"),
            size: Size { width: features.width, frames: features.frames, ..text.clone() },
            ..Estimate::default()
        }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let mut clips = transcripts::load(&inputs.get("text")?.path, &Selection::default())?;
        let features = FrameFeatures::load(&inputs.get("features")?.path)?;
        if config.causal && config.local_frame == LocalFrame::RankUniform {
            return Err(StageError::hint(
                "`local_frame = \"rank_uniform\"` takes no notice of times, so it cannot be causal",
                "set `causal = false`, or `local_frame = \"nearest\"`",
            ));
        }
        if config.write_original && clips.iter().any(Clip::is_joined) {
            return Err(StageError::hint(
                "packs of the original number the words of one person, and the text has joined dialogues",
                "set `write_original` in packs of the transcripts as they were before `join_speakers`",
            ));
        }
        if config.global_mode == GlobalMode::ProjectedLocals && clips.iter().any(Clip::is_joined) {
            return Err(StageError::hint(
                "`global_mode = \"projected_locals\"` would mean the local tokens of all persons of a joined dialogue",
                "set `global_mode` to `clip_mean` or `causal_mean`, which are of the frames of the clip's own person",
            ));
        }
        let coverage = tagger::fill(&mut clips, config.tagger, config.tagger_view);
        for clip in &mut clips {
            let own = features.of(clip)?;
            for utterance in &mut clip.utterances {
                if let Some(end) = features.showing(utterance, own)?.end {
                    times::cut([utterance], end);
                }
            }
        }
        let timing = Timing::of(&clips);
        let (mut packs, unseen) = pack(config, &clips, coverage, &features)?;
        packs.timing = Some(timing);
        packs.save(context.folder())?;
        if let Some(mut seen) = Seen::load(&inputs.get("features")?.path)? {
            for clip in &clips {
                let own = features.of(clip)?;
                for utterance in &clip.utterances {
                    seen.alias(&features.showing(utterance, own)?.clip, &clip.clip_id);
                }
                seen.alias(&own.clip, &clip.clip_id);
            }
            seen.save(context.folder())?;
        }
        if config.write_original {
            original::write(&context.folder().join("original"), &clips, &packs)?;
        }
        let mut summary = Summary::new();
        summary.insert("clips".into(), packs.clips.len().into());
        summary.insert("locals".into(), packs.locals.shape[0].into());
        summary.insert("dim".into(), packs.dim().into());
        summary.insert("words".into(), coverage.words().into());
        let share = |count: usize| (count as f64 / coverage.words().max(1) as f64).into();
        summary.insert("pos_given_share".into(), share(coverage.given));
        summary.insert("pos_tagged_share".into(), share(coverage.tagged));
        summary.insert("pos_none_share".into(), share(coverage.none));
        if config.causal {
            summary.insert("words_before_the_first_frame".into(), unseen.into());
        }
        summary.insert("words_timed".into(), timing.timed.into());
        summary.insert("words_untimed".into(), timing.untimed.into());
        summary.insert("words_mistimed".into(), timing.mistimed.into());
        summary.insert("words_overlapping".into(), timing.overlapping.into());
        Ok(summary)
    }
}

/// Features of frames, by clip.
pub(super) struct FrameFeatures {
    values: Array<f32>,
    pub(super) clips: HashMap<String, Frames>,
    /// Folder and name of a picture → its clip and time.
    pictures: HashMap<(String, String), (String, f64)>,
}

/// The frames of a clip.
pub(super) struct Frames {
    /// What they call the clip.
    clip: String,
    /// (time, row), in order of time.
    pub(super) rows: Vec<(f64, usize)>,
    /// Where the clip ends in seconds: a frame's time behind the last frame. `None` for a single frame.
    end: Option<f64>,
}

impl FrameFeatures {
    pub(super) fn load(folder: &Path) -> Result<Self> {
        let values: Array<f32> = npy::read(&folder.join("features.npy"))?;
        let path = folder.join("frames.csv");
        let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
        let columns = Columns::of(&path, &mut reader)?;
        let (id, time, picture) = (columns.need("clip_id")?, columns.need("t_sec")?, columns.find("frame_path"));
        let mut clips: HashMap<String, Vec<(f64, usize)>> = HashMap::new();
        let mut pictures = HashMap::new();
        let mut rows = 0;
        for row in reader.records() {
            let row = row.map_err(|error| broken(&path, &error))?;
            let seconds =
                row[time].trim().parse::<f64>().ok().filter(|seconds| seconds.is_finite()).ok_or_else(|| {
                    StageError::new(format!("`{}`, line {}: `{}` is no time", path.display(), rows + 2, &row[time]))
                })?;
            clips.entry(row[id].to_owned()).or_default().push((seconds, rows));
            if let Some(picture) = picture {
                pictures.insert(picture_name(&row[picture], &row[id]), (row[id].to_owned(), seconds));
            }
            rows += 1;
        }
        if values.shape.len() != 2 || values.shape[0] != rows {
            return Err(StageError::new(format!(
                "`{}`: `features.npy` has shape {:?} but `frames.csv` names {rows} frames",
                folder.display(),
                values.shape
            )));
        }
        if let Some(row) = (0..rows).find(|&row| values.row(row).iter().any(|value| !value.is_finite())) {
            return Err(StageError::new(format!("`{}`: features of frame {row} are not finite", folder.display())));
        }
        let clips = clips.into_iter().map(|(clip, mut rows)| {
            rows.sort_by(|a, b| a.0.total_cmp(&b.0));
            let times: Vec<f64> = rows.iter().map(|&(time, _)| time).collect();
            (clip.clone(), Frames { clip, rows, end: alignment::end(&times) })
        });
        Ok(Self { values, clips: clips.collect(), pictures })
    }

    /// The frames of a clip: those under its id, else those of the one clip that its utterances' pictures belong to (a
    /// conversation need not be named as its video).
    fn of(&self, clip: &Clip) -> Result<&Frames> {
        let of_pictures = || {
            let clips = clip.utterances.iter().filter_map(|utterance| Some(&self.picture(clip, utterance)?.0));
            let mut clips: Vec<&String> = clips.collect();
            clips.dedup();
            if clips.len() == 1 { self.clips.get(clips[0]) } else { None }
        };
        self.clips.get(&clip.clip_id).or_else(of_pictures).ok_or_else(|| {
            let hint = match clip.is_joined() {
                true => WITHOUT_FRAMES,
                false => "make text and frames of the same clips, with the same `clip_id`",
            };
            StageError::hint(format!("clip `{}` of the text has no frame features", clip.clip_id), hint)
        })
    }

    /// The frames that show who says an utterance: those of its `recording`, else the clip's `own`.
    fn showing<'a>(&'a self, utterance: &Utterance, own: &'a Frames) -> Result<&'a Frames> {
        let Some(recording) = &utterance.recording else { return Ok(own) };
        self.clips.get(recording).ok_or_else(|| {
            StageError::hint(
                format!("recording `{recording}`, of turns in the dialogue of `{}`, has no frame features", own.clip),
                WITHOUT_FRAMES,
            )
        })
    }

    /// Clip and time of an utterance's picture, if it names one that is there.
    fn picture(&self, clip: &Clip, utterance: &Utterance) -> Option<&(String, f64)> {
        self.pictures.get(&picture_name(utterance.frame_path.as_ref()?, &clip.clip_id))
    }

    /// Adds a clip: the mean of its frames up to each one, summed in f64.
    fn extend_causal(&self, causal: &mut Causal, frames: &[(f64, usize)]) {
        let mut sum = vec![0.0f64; self.values.shape[1]];
        let first = causal.means.shape[0];
        for (count, &(_, row)) in frames.iter().enumerate() {
            sum.iter_mut().zip(self.values.row(row)).for_each(|(sum, &x)| *sum += f64::from(x));
            causal.means.values.extend(sum.iter().map(|sum| (sum / (count + 1) as f64) as f32));
        }
        causal.means.shape[0] += frames.len();
        causal.frames.push(frames.iter().enumerate().map(|(place, &(time, _))| (time, first + place)).collect());
    }

    /// Mean of rows, summed in f64.
    pub(super) fn mean(&self, rows: impl Iterator<Item = usize>) -> Vec<f32> {
        let (mut sum, mut count) = (vec![0.0f64; self.values.shape[1]], 0usize);
        for row in rows {
            sum.iter_mut().zip(self.values.row(row)).for_each(|(sum, &x)| *sum += f64::from(x));
            count += 1;
        }
        sum.iter().map(|sum| (sum / count as f64) as f32).collect()
    }
}

/// What two ways of naming a picture have in common: the folder that it lies in (a folder `frames` is passed over, and
/// without any it is the clip) and its name.
fn picture_name(path: &str, clip_id: &str) -> (String, String) {
    let mut parts = path.rsplit(['/', '\\']);
    let name = parts.next().unwrap_or_default();
    let folder = parts.find(|part| !matches!(*part, "frames" | "." | "")).unwrap_or(clip_id);
    (folder.to_owned(), name.to_owned())
}

/// The packs, and how many words are without a local token because they end before the first frame.
fn pack(config: &Config, clips: &[Clip], coverage: Coverage, features: &FrameFeatures) -> Result<(Packs, usize)> {
    let dim = features.values.shape[1];
    let tagging = Tagging { tagger: config.tagger, tagger_view: config.tagger_view, coverage };
    let (mut packed, mut global, mut local_values, mut row) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let (mut causal, mut unseen) = (Causal { means: Array::new([0, dim], Vec::new()), frames: Vec::new() }, 0);
    for clip in clips {
        let own = features.of(clip)?;
        let shown = Shown::of(&clip.clip_id, own, config);
        global.extend(features.mean(shown.rows.iter().copied()));
        if config.global_mode == GlobalMode::CausalMean {
            let frames: Vec<(f64, usize)> = shown.times.iter().copied().zip(shown.rows.iter().copied()).collect();
            features.extend_causal(&mut causal, &frames);
        }
        let mut locals: Vec<Local> = Vec::new();
        // Of the recordings of a dialogue each has its frames and its cap of local tokens.
        let mut of_recordings: HashMap<Option<&str>, (Shown, usize)> = HashMap::from([(None, (shown, 0))]);
        for (place, utterance) in clip.utterances.iter().enumerate() {
            let frames = features.showing(utterance, own)?;
            let recording = utterance.recording.as_deref();
            let (shown, taken) = of_recordings
                .entry(recording)
                .or_insert_with(|| (Shown::of(recording.unwrap_or(&clip.clip_id), frames, config), 0));
            let end = utterance.end.or_else(|| clip.utterances.get(place + 1)?.start);
            let mut kept = config.local_words.chosen(&clip.clip_id, utterance, &config.pos_set, config.control_seed);
            if config.skips() {
                kept.retain(|&word| utterance.words[word].middle().is_some());
            }
            let shared = match config.word_times {
                WordTimes::None => shared(clip, utterance, features, frames)?,
                _ => None,
            };
            let used = if clip.captions { 0 } else { *taken };
            for (word, frames) in choose(config, utterance, end, shared, &shown.times, &kept, used)
                .map_err(|word| no_time(clip, utterance, &utterance.words[word]))?
            {
                if frames.is_empty() {
                    unseen += 1;
                    continue;
                }
                local_values.extend(features.mean(frames.iter().map(|&frame| shown.rows[frame])));
                locals.push(Local { utterance: utterance.index, word, frames, row });
                *taken += 1;
                row += 1;
            }
        }
        let (split, group) = (clip.split.clone(), clip.group.clone());
        packed.push(PackedClip { clip_id: clip.clip_id.clone(), split, group, locals });
    }
    let (global, locals) = (Array::new([clips.len(), dim], global), Array::new([row, dim], local_values));
    let mut packs = Packs::new(packed, global, locals, config.global_mode, coverage.given + coverage.tagged > 0);
    packs.tagging = Some(tagging);
    packs.causal = (config.global_mode == GlobalMode::CausalMean).then_some(causal);
    Ok((packs, unseen))
}

/// A clip's frames as its tokens see them.
struct Shown {
    /// In order, in seconds.
    times: Vec<f64>,
    /// The row of the features that stands at each time.
    rows: Vec<usize>,
}

impl Shown {
    /// `name` is what the text calls the clip.
    fn of(name: &str, frames: &Frames, config: &Config) -> Self {
        let order = config.frame_order.order(name, frames.rows.len(), config.control_seed);
        let times = frames.rows.iter().map(|&(time, _)| time).collect();
        Self { times, rows: order.into_iter().map(|frame| frames.rows[frame].1).collect() }
    }
}

/// The time that the words of an utterance share: that of its picture, which must be one of `frames`, else its own.
fn shared(clip: &Clip, utterance: &Utterance, features: &FrameFeatures, frames: &Frames) -> Result<Option<(f64, f64)>> {
    let Some(path) = &utterance.frame_path else {
        return Ok(utterance.start.or(utterance.end).map(|time| (time, utterance.end.unwrap_or(time))));
    };
    let Some((_, time)) = features.picture(clip, utterance).filter(|(clip, _)| *clip == frames.clip) else {
        return Err(StageError::hint(
            format!("clip `{}`, utterance {}: `{path}` is none of the clip's frames", clip.clip_id, utterance.index),
            "take the frames with `frame_manifest` or a manifest, which keep the names of files, or set \
             `word_times = \"spread\"`, which goes by the utterance's time",
        ));
    };
    Ok(Some((*time, *time)))
}

/// (word, frames) of each local token of one utterance (no frames: it ends before the first one); `Err` is a word without
/// the times that are needed. `kept` are its words that may have one, of which `taken` fewer than the clip's cap are left;
/// `end` closes an utterance whose words are spread; `shared` is the time of words without their own.
fn choose(
    config: &Config,
    utterance: &Utterance,
    end: Option<f64>,
    shared: Option<(f64, f64)>,
    times: &[f64],
    kept: &[usize],
    taken: usize,
) -> std::result::Result<Vec<(usize, Vec<usize>)>, usize> {
    let first = kept.iter().copied().take(config.local_cap.saturating_sub(taken)).enumerate();
    first
        .map(|(rank, word)| {
            let span = || word_time(config, utterance, end, word).or(shared).ok_or(word);
            let times = if config.causal { seen(times, span()?.1) } else { times };
            let frames = match config.local_frame {
                _ if times.is_empty() => Vec::new(),
                LocalFrame::ClipMean => (0..times.len()).collect(),
                LocalFrame::RankUniform => vec![alignment::rank_uniform(rank, kept.len(), times.len())],
                LocalFrame::Nearest => {
                    let (start, end) = span()?;
                    vec![alignment::nearest(times, (start + end) / 2.0)]
                }
                LocalFrame::WindowMean => {
                    let (start, end) = span()?;
                    alignment::window(times, start, end, config.window_pad)
                }
            };
            Ok((word, frames))
        })
        .collect()
}

/// The times, in order, at or before `until`.
fn seen(times: &[f64], until: f64) -> &[f64] {
    &times[..times.partition_point(|&time| time <= until)]
}

/// Start and end of a word in seconds.
fn word_time(config: &Config, utterance: &Utterance, end: Option<f64>, word: usize) -> Option<(f64, f64)> {
    let known = &utterance.words[word];
    if let Some(middle) = known.middle() {
        return Some((known.start.unwrap_or(middle), known.end.unwrap_or(middle)));
    }
    if config.word_times != WordTimes::Spread {
        return None;
    }
    let (start, count) = (utterance.start?, utterance.words.len() as f64);
    let step = (end.unwrap_or(start) - start).max(0.0) / count;
    Some((start + step * word as f64, start + step * (word as f64 + 1.0)))
}

fn no_time(clip: &Clip, utterance: &Utterance, word: &Word) -> StageError {
    let hint = if utterance.start.is_some() {
        "set `word_times` to `spread` (over the utterance's time), `none` (all words at the utterance's frame) or `skip` (no \
         local token), or `local_frame = \"rank_uniform\"`"
    } else {
        "set `local_frame = \"rank_uniform\"`, which needs no times, or `word_times = \"skip\"` (no local token), or give \
         each word `start` and `end`"
    };
    let why = word.fault.map(|fault| format!(" that can be used: it {}", fault.describe())).unwrap_or_default();
    StageError::hint(
        format!("word `{}` of clip `{}`, utterance {} has no time{why}", word.text, clip.clip_id, utterance.index),
        hint,
    )
}

#[cfg(test)]
mod tests;
