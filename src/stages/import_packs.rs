//! `import_packs`: scene packs of the original project become packs of ours.
//!
//! Reads `<md5>_global.npy`, `<md5>_locals.npz` and the manifest under one of its three names (`social/original.rs` has the
//! form), and finds the word of each local token in the text. In captions the original's numbers count spaCy's tokens
//! while its trainer took them for words between spaces, so that after a clitic (`man's`) a token stood one word too
//! late: `index_slip` repairs that or keeps it, and `slips.csv` names every token that is concerned.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Inputs, Reference, Result, Stage, StageError, Summary};
use crate::npy::Array;
use crate::social::columns::broken;
use crate::social::original::{self, Original, Slip};
use crate::social::packs::{GlobalMode, Local, PackedClip, Packs};
use crate::social::transcripts::{self, Clip, Selection};
use crate::vision::features;

/// See the module.
pub struct ImportPacks;

/// What to do about clips of the text without a pack, or with one of zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Stop. The original took zeros for them, which the projector turns into one learned constant.
    #[default]
    Refuse,
    /// Leave them out of the packs; a stage that needs one of them then stops. Local tokens of zeros alone go too.
    LeaveOut,
}

/// Settings of `import_packs`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A folder with the original's manifest, `.npy` and `.npz` files.
    #[schemars(extend("x-accepts" = ["original_packs"]))]
    pub folder: Reference,
    /// The captions or transcripts that they were made from.
    #[schemars(extend("x-accepts" = ["text"]))]
    pub text: Reference,
    /// What a global token is made of.
    #[serde(default)]
    pub global_mode: GlobalMode,
    /// How the numbers in the names of local tokens become places of words.
    #[serde(default)]
    pub index_slip: Slip,
    /// What to do about clips of the text without a pack, or with one of zeros.
    #[serde(default)]
    pub missing: Missing,
    /// At most this many local tokens per clip, the first ones.
    #[serde(default = "local_cap")]
    #[schemars(range(min = 1))]
    pub local_cap: usize,
    /// Accept vectors that hardly differ between clips.
    #[serde(default)]
    pub allow_constant_features: bool,
}

fn local_cap() -> usize {
    50
}

/// What was found on the way.
#[derive(Default)]
struct Report {
    left_out: usize,
    moved: usize,
    nowhere: usize,
    /// Local tokens of zeros that were left out.
    zeros: usize,
    slipped_clips: usize,
    /// Clip, name in the file, number of the word taken or nothing.
    slips: Vec<[String; 3]>,
}

impl Stage for ImportPacks {
    const KIND: &'static str = "import_packs";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "Reads scene packs of the original project";
    const GIVES: &'static [&'static str] = &["packs"];
    type Config = Config;

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        if config.global_mode == GlobalMode::CausalMean {
            return Err(StageError::hint(
                "packs of the original have one vector per clip, so `global_mode` cannot be `causal_mean`",
                "make packs with `scene_packs`, from frames",
            ));
        }
        let given = Original::open(&inputs.get("folder")?.path)?;
        let clips = transcripts::load(&inputs.get("text")?.path, &Selection::default())?;
        if let Some(clip) = clips.iter().find(|clip| clip.is_joined()) {
            return Err(StageError::hint(
                format!(
                    "clip `{}` is a joined dialogue, and packs of the original number the words of one person",
                    clip.clip_id
                ),
                "give the transcripts as they were before `join_speakers`",
            ));
        }
        let mut report = Report::default();
        let packs = import(config, &given, &clips, &mut report, context)?;
        let spread = features::spread_of_rows(&packs.global);
        features::check_spread(spread, config.allow_constant_features)?;
        packs.save(context.folder())?;
        write_slips(context, &report)?;
        let mut summary = Summary::new();
        summary.insert("clips".into(), packs.clips.len().into());
        summary.insert("clips_left_out".into(), report.left_out.into());
        let named = clips.iter().map(|clip| clip.clip_id.as_str()).collect::<std::collections::HashSet<_>>();
        let without_text = given.clips.iter().filter(|clip| !named.contains(clip.as_str())).count();
        summary.insert("packs_without_text".into(), without_text.into());
        summary.insert("locals".into(), packs.locals.shape[0].into());
        summary.insert("dim".into(), packs.dim().into());
        summary.insert("spread".into(), spread.into());
        summary.insert("slipped_clips".into(), report.slipped_clips.into());
        summary.insert("slipped_locals".into(), report.moved.into());
        summary.insert("locals_left_out".into(), report.nowhere.into());
        if report.zeros > 0 {
            summary.insert("zero_locals_left_out".into(), report.zeros.into());
        }
        Ok(summary)
    }
}

fn import(config: &Config, given: &Original, clips: &[Clip], report: &mut Report, context: &Context) -> Result<Packs> {
    let (mut packed, mut global, mut locals, mut row) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut dim = None;
    for (done, clip) in clips.iter().enumerate() {
        context.progress(done as u64, clips.len() as u64, "clip")?;
        let id = &clip.clip_id;
        if let Some(reason) = unusable(given, id)? {
            if config.missing == Missing::Refuse {
                let all = clips.iter().filter(|clip| matches!(unusable(given, &clip.clip_id), Ok(Some(_)))).count();
                return Err(StageError::hint(
                    format!("{all} of {} clips of the text have no usable pack; `{id}`: {reason}", clips.len()),
                    "bring the packs, or set `missing = \"leave_out\"` and evaluate splits that need none of them",
                ));
            }
            report.left_out += 1;
            continue;
        }
        let vector = given.global(id)?;
        let width = *dim.get_or_insert(vector.len());
        let clip = with_its_caption(clip, given)?;
        let placed = place(config, given, &clip, report)?;
        for values in placed.iter().map(|(_, values)| values).chain([&vector]) {
            if values.len() != width {
                return Err(StageError::new(format!(
                    "clip `{id}` has vectors of {} values, others of {width}",
                    values.len()
                )));
            }
        }
        global.extend(vector);
        let mut own = Vec::new();
        for ((utterance, word), values) in placed {
            own.push(Local { utterance, word, frames: Vec::new(), row });
            locals.extend(values);
            row += 1;
        }
        let (split, group) = (clip.split.clone(), clip.group.clone());
        packed.push(PackedClip { clip_id: id.clone(), split, group, locals: own });
    }
    let dim = dim.ok_or_else(|| StageError::new("no clip of the text has a pack"))?;
    let (global, locals) = (Array::new([packed.len(), dim], global), Array::new([row, dim], locals));
    Ok(Packs::new(packed, global, locals, config.global_mode, row > 0))
}

/// Why a clip has no vector of its frames: no pack, or one of zeros; `None` when it has one.
fn unusable(given: &Original, clip_id: &str) -> Result<Option<String>> {
    match given.missing(clip_id) {
        Some(reason) => Ok(Some(reason)),
        None => given.zero_global(clip_id),
    }
}

/// The clip with the one caption that its pack was made from.
fn with_its_caption(clip: &Clip, given: &Original) -> Result<Clip> {
    let mut clip = clip.clone();
    if !clip.captions {
        return Ok(clip);
    }
    if let Some(caption) = given.caption(&clip.clip_id).filter(|caption| !caption.trim().is_empty()) {
        let caption = caption.split_whitespace().collect::<Vec<_>>().join(" ");
        clip.utterances.retain(|utterance| utterance.text == caption);
        clip.utterances.truncate(1);
    }
    if clip.utterances.len() == 1 {
        return Ok(clip);
    }
    Err(StageError::hint(
        format!("the text does not have the caption that the pack of clip `{}` was made from", clip.clip_id),
        "give the captions that the packs were made from (the manifest's column `caption` has them)",
    ))
}

/// A local token's place (utterance, word) and values.
type Placed = ((usize, usize), Vec<f32>);

/// The local tokens of a clip, in order of the text.
fn place(config: &Config, given: &Original, clip: &Clip, report: &mut Report) -> Result<Vec<Placed>> {
    let mut vectors = given.locals(&clip.clip_id)?;
    vectors.truncate(config.local_cap);
    let counted = original::counted(clip);
    let words: Vec<_> = counted.iter().map(|(_, word)| *word).collect();
    let meta = given.meta(&clip.clip_id)?;
    let repaired = original::places(&vectors, &words, meta.as_ref(), Slip::Repair);
    let kept = original::places(&vectors, &words, None, Slip::Keep);
    let mut slipped = false;
    let mut placed = Vec::new();
    for ((vector, right), number) in vectors.into_iter().zip(repaired).zip(kept) {
        let name = format!("{}_{}", vector.number, vector.word);
        if original::is_zero(&vector.values) {
            if config.missing == Missing::Refuse {
                return Err(StageError::hint(
                    format!(
                        "clip `{}`: local token `{name}` holds nothing but zeros, which the original wrote where it could \
                         not read the frame",
                        clip.clip_id
                    ),
                    "make the pack anew, or set `missing = \"leave_out\"`, with which the word has no local token",
                ));
            }
            report.zeros += 1;
            continue;
        }
        let right = right.ok_or_else(|| {
            StageError::hint(
                format!("clip `{}`: local token `{name}` fits no word of the text", clip.clip_id),
                "give the text that the packs were made from; if it is, turn `<md5>_meta.pkl` into `<md5>_meta.json` as \
                 docs/data.md says, which has the original's own tokens",
            )
        })?;
        let taken = if config.index_slip == Slip::Keep { number } else { Some(right) };
        if number != Some(right) {
            slipped = true;
            report.moved += 1;
            let taken = taken.map(|place| place.to_string()).unwrap_or_default();
            report.slips.push([clip.clip_id.clone(), name, taken]);
        }
        match taken {
            Some(place) => placed.push((counted[place].0, vector.values)),
            None => report.nowhere += 1,
        }
    }
    report.slipped_clips += usize::from(slipped);
    Ok(placed)
}

/// `slips.csv`: the local tokens whose number is not the place of their word.
fn write_slips(context: &Context, report: &Report) -> Result<()> {
    let path = context.folder().join("slips.csv");
    let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
    out.write_record(["clip_id", "name", "word"]).map_err(|error| broken(&path, &error))?;
    for slip in &report.slips {
        out.write_record(slip).map_err(|error| broken(&path, &error))?;
    }
    out.flush().map_err(StageError::io(&path))
}

#[cfg(test)]
mod tests;
