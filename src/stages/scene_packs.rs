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
use crate::social::alignment;
use crate::social::columns::{Columns, broken};
use crate::social::packs::{Causal, GlobalMode, Local, PackedClip, Packs, Tagging};
use crate::social::placement::{FrameOrder, LocalWords};
use crate::social::tagger::{self, Coverage};
use crate::social::transcripts::{self, Clip, Selection, Utterance, Word};

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

/// What to do about words without times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WordTimes {
    /// They must be given.
    #[default]
    Given,
    /// Words without times are spread evenly over the time of their utterance.
    Spread,
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
}

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

impl Stage for ScenePacks {
    const KIND: &'static str = "scene_packs";
    const VERSION: u32 = 2;
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
        let coverage = tagger::fill(&mut clips, config.tagger, config.tagger_view);
        let (packs, unseen) = pack(config, &clips, coverage, &features)?;
        packs.save(context.folder())?;
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
        Ok(summary)
    }
}

/// Features of frames, by clip.
pub(super) struct FrameFeatures {
    values: Array<f32>,
    /// Clip → (time, row) of its frames, in order of time.
    pub(super) clips: HashMap<String, Vec<(f64, usize)>>,
}

impl FrameFeatures {
    pub(super) fn load(folder: &Path) -> Result<Self> {
        let values: Array<f32> = npy::read(&folder.join("features.npy"))?;
        let path = folder.join("frames.csv");
        let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
        let columns = Columns::of(&path, &mut reader)?;
        let (id, time) = (columns.need("clip_id")?, columns.need("t_sec")?);
        let mut clips: HashMap<String, Vec<(f64, usize)>> = HashMap::new();
        let mut rows = 0;
        for row in reader.records() {
            let row = row.map_err(|error| broken(&path, &error))?;
            let seconds =
                row[time].trim().parse::<f64>().ok().filter(|seconds| seconds.is_finite()).ok_or_else(|| {
                    StageError::new(format!("`{}`, line {}: `{}` is no time", path.display(), rows + 2, &row[time]))
                })?;
            clips.entry(row[id].to_owned()).or_default().push((seconds, rows));
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
        clips.values_mut().for_each(|frames| frames.sort_by(|a, b| a.0.total_cmp(&b.0)));
        Ok(Self { values, clips })
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

/// The packs, and how many words are without a local token because they end before the first frame.
fn pack(config: &Config, clips: &[Clip], coverage: Coverage, features: &FrameFeatures) -> Result<(Packs, usize)> {
    let dim = features.values.shape[1];
    let tagging = Tagging { tagger: config.tagger, tagger_view: config.tagger_view, coverage };
    let (mut packed, mut global, mut local_values, mut row) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let (mut causal, mut unseen) = (Causal { means: Array::new([0, dim], Vec::new()), frames: Vec::new() }, 0);
    for clip in clips {
        let frames = features.clips.get(&clip.clip_id).ok_or_else(|| {
            StageError::hint(
                format!("clip `{}` of the text has no frame features", clip.clip_id),
                "make text and frames of the same clips, with the same `clip_id`",
            )
        })?;
        let times: Vec<f64> = frames.iter().map(|&(time, _)| time).collect();
        let order = config.frame_order.order(&clip.clip_id, frames.len(), config.control_seed);
        let rows: Vec<usize> = order.into_iter().map(|frame| frames[frame].1).collect();
        global.extend(features.mean(rows.iter().copied()));
        if config.global_mode == GlobalMode::CausalMean {
            let shown: Vec<(f64, usize)> = times.iter().copied().zip(rows.iter().copied()).collect();
            features.extend_causal(&mut causal, &shown);
        }
        let mut locals: Vec<Local> = Vec::new();
        for (place, utterance) in clip.utterances.iter().enumerate() {
            let taken = if clip.captions { 0 } else { locals.len() };
            let end = utterance.end.or_else(|| clip.utterances.get(place + 1)?.start);
            let kept = config.local_words.chosen(&clip.clip_id, utterance, &config.pos_set, config.control_seed);
            for (word, frames) in choose(config, utterance, end, &times, &kept, taken)
                .map_err(|word| no_time(clip, utterance, &utterance.words[word]))?
            {
                if frames.is_empty() {
                    unseen += 1;
                    continue;
                }
                locals.push(Local { utterance: utterance.index, word, frames, row });
                row += 1;
            }
        }
        for local in &locals {
            local_values.extend(features.mean(local.frames.iter().map(|&frame| rows[frame])));
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

/// (word, frames) of each local token of one utterance (no frames: it ends before the first one); `Err` is a word without
/// the times that are needed. `kept` are its words that may have one, of which `taken` fewer than the clip's cap are left;
/// `end` closes an utterance whose words are spread.
fn choose(
    config: &Config,
    utterance: &Utterance,
    end: Option<f64>,
    times: &[f64],
    kept: &[usize],
    taken: usize,
) -> std::result::Result<Vec<(usize, Vec<usize>)>, usize> {
    let first = kept.iter().copied().take(config.local_cap.saturating_sub(taken)).enumerate();
    first
        .map(|(rank, word)| {
            let span = || word_time(config, utterance, end, word).ok_or(word);
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
    if config.word_times == WordTimes::Given {
        return None;
    }
    let (start, count) = (utterance.start?, utterance.words.len() as f64);
    let step = (end.unwrap_or(start) - start).max(0.0) / count;
    Some((start + step * word as f64, start + step * (word as f64 + 1.0)))
}

fn no_time(clip: &Clip, utterance: &Utterance, word: &Word) -> StageError {
    let hint = if utterance.start.is_some() {
        "set `word_times = \"spread\"` to spread words over their utterance, or `local_frame = \"rank_uniform\"`"
    } else {
        "set `local_frame = \"rank_uniform\"`, which needs no times, or give each word `start` and `end`"
    };
    StageError::hint(
        format!("word `{}` of clip `{}`, utterance {} has no time", word.text, clip.clip_id, utterance.index),
        hint,
    )
}

#[cfg(test)]
mod tests {
    use super::super::Input;
    use super::*;

    fn run(text: &str, settings: serde_json::Value) -> Result<Packs> {
        let folder = tempfile::tempdir().unwrap();
        let (text_path, features, out) =
            (folder.path().join("t.jsonl"), folder.path().join("features"), folder.path().join("out"));
        std::fs::create_dir(&features).unwrap();
        std::fs::create_dir(&out).unwrap();
        std::fs::write(&text_path, text).unwrap();
        // Frames of `b` stand before those of `a` and out of order: vector (clip, time).
        let frames = "clip_id,split,t_sec\nb,train,1.0\nb,train,0.0\na,train,0.0\na,train,2.0\na,train,4.0\n";
        std::fs::write(features.join("frames.csv"), frames).unwrap();
        let values = vec![-1.0f32, 1.0, -1.0, 0.0, 1.0, 0.0, 1.0, 2.0, 1.0, 4.0];
        npy::write(&features.join("features.npy"), &Array::new([5, 2], values)).unwrap();
        let mut inputs = Inputs::default();
        for (field, path) in [("text", text_path), ("features", features)] {
            inputs.insert(field, Input { reference: String::new(), path, digest: String::new() });
        }
        let mut fields = serde_json::json!({"text": "data:text", "features": "data:features"});
        fields.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let config: Config = serde_json::from_value(fields).unwrap();
        ScenePacks::run(&config, &inputs, &Context::plain(&out, "cpu"))?;
        Packs::load(&out)
    }

    const TEXT: &str = r#"{"clip_id":"a","split":"train","utterances":[{"text":"dogs run fast","start":0.0,"end":3.0,"words":[{"text":"dogs","pos":"NOUN","start":0.5,"end":1.5},{"text":"run","pos":"VERB","start":3.5,"end":4.5},{"text":"fast","pos":"ADV"}]}]}
{"clip_id":"b","utterances":[{"text":"yes"}]}"#;

    #[test]
    fn words_take_their_frames() {
        let packs = run(TEXT, serde_json::json!({})).unwrap();
        assert_eq!(packs.global.values, [1.0, 2.0, -1.0, 0.5]);
        // `dogs` lies midway between the frames at 0 and 2: the earlier one.
        assert_eq!(packs.locals.values, [1.0, 0.0, 1.0, 4.0]);
        assert_eq!(packs.clips[0].locals[1], Local { utterance: 0, word: 1, frames: vec![2], row: 1 });
        let mean = run(TEXT, serde_json::json!({"local_frame": "window_mean"})).unwrap();
        assert_eq!(mean.locals.values, [1.0, 1.0, 1.0, 4.0]);
        let flat = run(TEXT, serde_json::json!({"local_frame": "clip_mean", "local_cap": 1})).unwrap();
        assert_eq!(flat.locals.values, [1.0, 2.0]);
        let narrow = run(TEXT, serde_json::json!({"pos_set": ["ADV"], "local_frame": "rank_uniform"})).unwrap();
        assert_eq!(narrow.clips[0].locals[0].frames, [1]);
    }

    #[test]
    fn causal_words_see_no_frame_after_their_end() {
        // Frames of `a` at 0, 2 and 4 s: `dogs` (0.5–1.5 s) has the first, `run` (3.5–4.5 s) the last before 4.5.
        let near = run(TEXT, serde_json::json!({"causal": true})).unwrap();
        assert_eq!(near.locals.values, [1.0, 0.0, 1.0, 4.0]);
        let window = run(TEXT, serde_json::json!({"causal": true, "local_frame": "window_mean"})).unwrap();
        assert_eq!(window.clips[0].locals[0].frames, [0], "the frame at 2 s is within the pad and after the word");
        let mean = run(TEXT, serde_json::json!({"causal": true, "local_frame": "clip_mean"})).unwrap();
        assert_eq!(mean.locals.values, [1.0, 0.0, 1.0, 2.0]);
        // A word that is over before the first frame has none.
        let early = TEXT.replace("\"start\":0.5,\"end\":1.5", "\"start\":-2.0,\"end\":-1.0");
        let early = run(&early, serde_json::json!({"causal": true})).unwrap();
        assert_eq!(early.clips[0].locals.iter().map(|local| (local.word, local.row)).collect::<Vec<_>>(), [(1, 0)]);
        let error = run(TEXT, serde_json::json!({"causal": true, "local_frame": "rank_uniform"})).unwrap_err();
        assert!(error.to_string().contains("cannot be causal"), "{error}");
    }

    #[test]
    fn causal_means_are_over_the_frames_so_far() {
        let packs = run(TEXT, serde_json::json!({"global_mode": "causal_mean"})).unwrap();
        let causal = packs.causal.as_ref().unwrap();
        assert_eq!(causal.means.values, [1.0, 0.0, 1.0, 1.0, 1.0, 2.0, -1.0, 0.0, -1.0, 0.5]);
        assert_eq!(causal.frames[1], [(0.0, 3), (1.0, 4)]);
        assert_eq!(packs.causal_row(0, Some(3.9)).unwrap(), 1);
        assert!(run(TEXT, serde_json::json!({})).unwrap().causal.is_none());
    }

    #[test]
    fn other_words_and_another_order_change_nothing_else() {
        let plain = run(TEXT, serde_json::json!({"local_frame": "rank_uniform"})).unwrap();
        let function = serde_json::json!({"local_words": "function", "local_frame": "rank_uniform"});
        let words: Vec<usize> = run(TEXT, function).unwrap().clips[0].locals.iter().map(|local| local.word).collect();
        assert_eq!(words, [2]);
        let shuffled = |seed: u64| {
            let settings =
                serde_json::json!({"frame_order": "shuffled", "control_seed": seed, "local_frame": "rank_uniform"});
            run(TEXT, settings).unwrap()
        };
        let mut orders = std::collections::BTreeSet::new();
        for seed in 0..12 {
            let packs = shuffled(seed);
            assert!(packs.global.values.iter().zip(&plain.global.values).all(|(a, b)| (a - b).abs() < 1e-6));
            assert_eq!(packs.clips[0].locals, plain.clips[0].locals);
            orders.insert(packs.locals.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
        }
        assert!(orders.len() > 2, "no seed gives another order");
    }

    #[test]
    fn a_word_without_time_says_what_to_set() {
        let error = run(TEXT, serde_json::json!({"pos_set": ["ADV"]})).unwrap_err().to_string();
        assert!(error.contains("`fast`") && error.contains("word_times = \"spread\""), "{error}");
        let spread = run(TEXT, serde_json::json!({"pos_set": ["ADV"], "word_times": "spread"})).unwrap();
        assert_eq!(spread.clips[0].locals[0].frames, [1]);
    }

    #[test]
    fn a_clip_without_features_is_named() {
        let one_sided = TEXT.replace("\"b\"", "\"c\"");
        let error = run(&one_sided, serde_json::json!({})).unwrap_err().to_string();
        assert!(error.contains("clip `c`") && error.contains("hint:"), "{error}");
    }

    #[test]
    fn words_without_parts_of_speech_are_tagged_unless_told_otherwise() {
        let text = r#"{"clip_id":"b","utterances":[{"text":"yes two men walk","words":[{"text":"yes"},{"text":"two"},
            {"text":"men"},{"text":"walk","pos":"NOUN"}]}]}"#;
        let settings = |tagger| serde_json::json!({"tagger": tagger, "local_frame": "rank_uniform"});
        let packs = run(&text.replace('\n', " "), settings("perceptron")).unwrap();
        assert_eq!(packs.clips[0].locals.iter().map(|local| local.word).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(packs.tagging.unwrap().coverage, Coverage { given: 1, tagged: 3, none: 0 });
        let packs = run("{\"clip_id\":\"b\",\"utterances\":[{\"text\":\"yes sir\"}]}", settings("none")).unwrap();
        assert_eq!(packs.tagging.unwrap().coverage, Coverage { given: 0, tagged: 0, none: 2 });
        assert_eq!(packs.locals.shape, [0, 2]);
    }
}
