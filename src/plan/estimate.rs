//! What the steps of a plan will need, from their kinds' formulas and the sizes of what they read.
//!
//! A step that is not done hands the size of what it will make on to those that need it; data from outside and
//! finished artifacts are looked at: the shape of a model, the rows of a manifest, the words of a text.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::inputs::Content;
use super::{Plan, StepInput, Work};
use crate::models::{Dinov2, GemmaConfig};
use crate::social::transcripts::{self, Selection};
use crate::stages::estimate::{Estimate, Expected, Network, Size};
use crate::stages::frame_manifest::is_frame;
use crate::store::Store;
use crate::vision::frames::Manifest;

/// Most bytes of an input that are read for an estimate; the size of a larger one stays unknown.
const READ: u64 = 64 << 20;

/// The estimate of every step that is to run, by its place in the plan; those of other steps are left out.
pub fn estimates(plan: &Plan<'_>, store: &Store) -> BTreeMap<usize, Estimate> {
    let mut estimates = BTreeMap::new();
    let mut sizes: HashMap<usize, Size> = HashMap::new();
    let mut seen: HashMap<(String, String), Size> = HashMap::new();
    for (index, step) in plan.steps.iter().enumerate().filter(|(_, step)| !step.is_done) {
        let Work::Stage { kind, node } = &step.work else { continue };
        let mut expected = Expected::default();
        for (field, input) in &step.inputs {
            let accepted = || kind.accepts(field).unwrap_or_default().join(",");
            let size = match input {
                StepInput::Step { step: upstream, .. } => match sizes.get(upstream) {
                    Some(size) => size.clone(),
                    None => {
                        let folder = store.artifact(&plan.steps[*upstream].name());
                        let key = (folder.display().to_string(), accepted());
                        seen.entry(key).or_insert_with_key(|(_, kinds)| look(&folder, kinds)).clone()
                    }
                },
                StepInput::External { path, content: Content::Known(_), .. } => {
                    let key = (path.display().to_string(), accepted());
                    seen.entry(key).or_insert_with_key(|(_, kinds)| look(path, kinds)).clone()
                }
                // Weights that were not read yet still say their shape, and folders of frames their number.
                StepInput::External { path, content: Content::Pending { .. }, .. } => {
                    let key = (path.display().to_string(), accepted());
                    seen.entry(key)
                        .or_insert_with_key(|(_, kinds)| look_unread(path, kinds).unwrap_or_default())
                        .clone()
                }
            };
            expected.sizes.insert(field.clone(), size);
        }
        let estimate = kind.estimate(&node.settings, &expected).unwrap_or_default();
        sizes.insert(index, estimate.size.clone());
        estimates.insert(index, estimate);
    }
    estimates
}

/// The size of what lies at `path` and serves as one of `kinds` (joined by commas); what it does not tell is unknown. A
/// step that cannot read it will say why.
fn look(path: &Path, kinds: &str) -> Size {
    let has = |kind: &str| kinds.split(',').any(|accepted| accepted == kind);
    if let Some(size) = look_unread(path, kinds) {
        return size;
    }
    let mut size = Size::default();
    if !is_small(path) {
        return size;
    }
    if has("text")
        && let Ok(clips) = transcripts::load(path, &Selection::default())
    {
        let words: usize = clips.iter().flat_map(|clip| &clip.utterances).map(|utterance| utterance.words.len()).sum();
        let utterances: usize = clips.iter().map(|clip| clip.utterances.len()).sum();
        let mean = |count: usize| (!clips.is_empty()).then(|| count as f64 / clips.len() as f64);
        (size.words, size.utterances) = (mean(words), mean(utterances));
        for clip in &clips {
            *size.clips.entry(clip.split.clone().unwrap_or_default()).or_default() += 1;
        }
    }
    if has("frames")
        && let Ok(manifest) = Manifest::load(path)
    {
        size.frames = Some(manifest.frames.len() as u64);
    }
    if has("features") {
        (size.frames, size.width) = (rows(&path.join("frames.csv")), width(&path.join("features.json")));
    }
    if has("packs") {
        size.width = width(&path.join("summary.json"));
    }
    size
}

/// Whether the tables and texts at `path` are few enough bytes to be read for an estimate.
fn is_small(path: &Path) -> bool {
    let is_table =
        |path: &Path| path.extension().is_some_and(|kind| kind == "csv" || kind == "json" || kind == "jsonl");
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let total: u64 = match std::fs::read_dir(path) {
        Ok(entries) => {
            entries.flatten().map(|entry| entry.path()).filter(|path| is_table(path)).map(|path| bytes(&path)).sum()
        }
        Err(_) => bytes(path),
    };
    total <= READ
}

/// Rows of a CSV with a header.
fn rows(path: &Path) -> Option<u64> {
    let mut reader = csv::Reader::from_path(path).ok()?;
    Some(reader.byte_records().take_while(Result::is_ok).count() as u64)
}

/// `dim` of a description.
fn width(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    serde_json::from_str::<serde_json::Value>(&text).ok()?["dim"].as_u64()
}

/// The size of what tells it without being read: a model its shape, a folder of frames their number. `None` if `kinds` has
/// neither or `path` is none.
fn look_unread(path: &Path, kinds: &str) -> Option<Size> {
    if kinds.split(',').any(|kind| kind == "frame_folder") {
        let entries = walkdir::WalkDir::new(path).follow_links(true).into_iter().flatten();
        let frames = entries.filter(|entry| entry.file_type().is_file() && is_frame(entry.path())).count();
        return Some(Size { frames: Some(frames as u64), ..Size::default() });
    }
    let network = kinds.split(',').find_map(|kind| match kind {
        "language_model" => GemmaConfig::read(path).ok().map(|config| Network::language(&config)),
        "encoder" => Dinov2::shape(path).ok().map(|config| Network::encoder(&config)),
        _ => None,
    })?;
    Some(Size { width: Some(network.hidden), network: Some(network), ..Size::default() })
}
