//! `simulate_clips`: clips of the simulated world ([`crate::vision::world`]) as frames, text, judgments and latents.
//!
//! Frames are packed into `frames.npy`; `manifest.csv` gives each the middle of the time that it stands for.
//! `transcripts.jsonl` holds the captions with word times and, per word, the exact bits that text alone leaves open
//! (`true_bits`) and those that a reader who sees the whole clip cannot know (`floor_bits`). In the blind world the
//! captions speak of other, independently drawn latents: whatever a method gains there comes from a leak.

use std::io::Write;
use std::path::Path;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::estimate::{Memory, Size};
use super::{Context, Estimate, Expected, Inputs, Result, Stage, StageError, Summary};
use crate::npy::{self, Array};
use crate::social::judgments::write_square;
use crate::social::transcripts::{self, Clip, Utterance, Word};
use crate::stats::random::{Stream, Streams};
use crate::vision::world::enumeration::{Enumeration, Knowledge, role};
use crate::vision::world::grammar::{self, ACTIONS, AGENTS, BACKGROUNDS, PATIENTS, PLACES};
use crate::vision::world::judgments::{Ceiling, Judgments};
use crate::vision::world::render::{self, Layout};
use crate::vision::world::{Latents, World};

/// See the module.
pub struct SimulateClips;

/// Settings of `simulate_clips`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which grammar: `one_clause` or `two_clause`.
    #[serde(default)]
    pub world: World,
    /// Captions speak of other latents than the frames show.
    #[serde(default)]
    pub blind: bool,
    /// Clips of the split `train`.
    #[serde(default = "train_clips")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub train_clips: usize,
    /// Clips of the split `test`.
    #[serde(default = "test_clips")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub test_clips: usize,
    /// Frames of each phase (a clip has one phase per clause).
    #[serde(default = "frames_per_phase")]
    #[schemars(range(min = 1, max = 100))]
    pub frames_per_phase: usize,
    /// Length of a phase in seconds.
    #[serde(default = "phase_seconds")]
    #[schemars(range(min = 0.1, max = 100.0))]
    pub phase_seconds: f64,
    /// Width and height of a frame in pixels.
    #[serde(default = "size")]
    #[schemars(range(min = 28, max = 1024))]
    pub size: usize,
    /// How many of the first test clips are judged for similarity (0: none).
    #[serde(default = "judged_clips")]
    #[schemars(range(min = 0, max = 200))]
    pub judged_clips: usize,
    /// Three-way choices made on them.
    #[serde(default = "judgments")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub judgments: usize,
    /// Seed of clips, captions and judgments.
    #[serde(default)]
    pub data_seed: u64,
}

fn train_clips() -> usize {
    2000
}
fn test_clips() -> usize {
    300
}
fn frames_per_phase() -> usize {
    3
}
fn phase_seconds() -> f64 {
    1.5
}
fn size() -> usize {
    56
}
fn judged_clips() -> usize {
    60
}
fn judgments() -> usize {
    12_000
}

/// One clip before it is written.
struct Simulated {
    id: String,
    split: &'static str,
    latents: Latents,
    /// What the caption speaks of: the same, but in the blind world.
    spoken: Latents,
    coins: Vec<usize>,
    pictures: Stream,
}

impl Stage for SimulateClips {
    const KIND: &'static str = "simulate_clips";
    const VERSION: u32 = 3;
    const SUMMARY: &'static str =
        "Renders clips of shapes that interact, with captions, word times, exact entropies and similarity judgments";
    const GIVES: &'static [&'static str] = &["frames", "text", "judgments", "world"];
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &super::Upstream) {
        config.judged_clips = config.judged_clips.min(config.test_clips);
        if config.judged_clips == 0 {
            config.judgments = judgments();
        }
    }

    fn estimate(config: &Config, _inputs: &Expected) -> Estimate {
        let clips = [("train", config.train_clips), ("test", config.test_clips)];
        let frames = (config.train_clips + config.test_clips) * config.world.clauses() * config.frames_per_phase;
        let pixels = (frames * config.size * config.size * 3) as u64;
        Estimate {
            items: Some(frames as u64),
            // The pictures, once as they are made and once as they are written.
            memory: Some(Memory::fixed(2 * pixels + (64 << 20))),
            size: Size {
                clips: clips.into_iter().map(|(split, count)| (split.to_owned(), count as u64)).collect(),
                words: Some(if config.world.clauses() == 1 { 9.0 } else { 21.0 }),
                utterances: Some(1.0),
                frames: Some(frames as u64),
                ..Size::default()
            },
            ..Estimate::default()
        }
    }

    fn run(config: &Config, _inputs: &Inputs, context: &Context) -> Result<Summary> {
        let judged = config.judged_clips.min(config.test_clips);
        if matches!(judged, 1 | 2) {
            return Err(StageError::hint(
                format!("{judged} clips are to be judged, and a choice needs three"),
                "set `judged_clips` to 0 or to at least 3 (and `test_clips` to no less)",
            ));
        }
        let folder = context.folder();
        let clips = draw(config);
        let total = clips.len() as u64;
        context.progress(0, total, "clip")?;
        write_frames(config, &clips, folder)?;
        context.progress(total, total, "clip")?;
        write_tables(config, &clips, folder)?;
        let enumeration = Enumeration::of(config.world);
        let floor = enumeration.total(if config.blind { Knowledge::None } else { Knowledge::Full });
        write_text(config, &clips, &enumeration, folder)?;
        write_entropy(&enumeration, folder)?;
        let ceilings = write_judgments(config, &clips, folder)?;
        write_world(config, &enumeration, ceilings, folder)?;

        let mut summary = Summary::new();
        summary.insert("clips".into(), total.into());
        summary.insert("frames".into(), (total * frames_per_clip(config) as u64).into());
        summary.insert("true_bits_per_caption".into(), enumeration.total(Knowledge::None).into());
        summary.insert("floor_bits_per_caption".into(), floor.into());
        if let Some((full, text)) = ceilings {
            summary.insert("full_ceiling".into(), full.spearman.into());
            summary.insert("text_ceiling".into(), text.spearman.into());
            summary.insert("full_ceiling_rho_a".into(), full.rho_a.into());
            summary.insert("text_ceiling_rho_a".into(), text.rho_a.into());
        }
        Ok(summary)
    }
}

fn frames_per_clip(config: &Config) -> usize {
    config.world.clauses() * config.frames_per_phase
}

/// The middle of the time that frame `index` of a clip stands for, in seconds.
fn time(config: &Config, index: usize) -> f64 {
    (index as f64 + 0.5) * config.phase_seconds / config.frames_per_phase as f64
}

fn draw(config: &Config) -> Vec<Simulated> {
    let streams = Streams::new(config.data_seed, SimulateClips::KIND);
    let mut clips = Vec::with_capacity(config.train_clips + config.test_clips);
    for (part, (split, count)) in [("train", config.train_clips), ("test", config.test_clips)].into_iter().enumerate() {
        for index in 0..count {
            let stream = |name| streams.at(part as u64, index as u64, name);
            let latents = config.world.draw(&mut stream("latents"));
            let spoken = if config.blind { config.world.draw(&mut stream("other latents")) } else { latents.clone() };
            clips.push(Simulated {
                id: format!("{split}_{index:05}"),
                split,
                latents,
                spoken,
                coins: config.world.toss(&mut stream("verbs")),
                pictures: stream("pictures"),
            });
        }
    }
    clips
}

fn write_frames(config: &Config, clips: &[Simulated], folder: &Path) -> Result<()> {
    let frame_bytes = config.size * config.size * 3;
    let clip_bytes = frame_bytes * frames_per_clip(config);
    let mut pixels = vec![0; clip_bytes * clips.len()];
    pixels.par_chunks_mut(clip_bytes).zip(clips).for_each(|(pixels, clip)| {
        let mut stream = clip.pictures.clone();
        let mut layout = Layout::draw(&mut stream);
        for (index, frame) in pixels.chunks_mut(frame_bytes).enumerate() {
            let (phase, within) = (index / config.frames_per_phase, index % config.frames_per_phase);
            layout = if within == 0 { Layout::draw(&mut stream) } else { layout.moved(&mut stream) };
            frame.copy_from_slice(&render::frame(&clip.latents, phase, &layout, config.size));
        }
    });
    let shape = [clips.len() * frames_per_clip(config), config.size, config.size, 3];
    Ok(npy::write(&folder.join("frames.npy"), &Array::new(shape, pixels))?)
}

/// `manifest.csv` and `latents.csv`: one line per frame, in the order of `frames.npy`.
fn write_tables(config: &Config, clips: &[Simulated], folder: &Path) -> Result<()> {
    let mut manifest = table(&folder.join("manifest.csv"), &["split", "clip_id", "frame_path", "t_sec", "group"])?;
    let columns = ["clip_id", "split", "t_sec", "phase", "agent", "action", "patient", "place", "background"];
    let mut latents = table(&folder.join("latents.csv"), &columns)?;
    let mut row = 0;
    for clip in clips {
        for index in 0..frames_per_clip(config) {
            let seconds = format!("{:.3}", time(config, index));
            manifest.write([clip.split, &clip.id, &format!("frames.npy#{row}"), &seconds, &clip.id])?;
            let phase = index / config.frames_per_phase;
            let shown = &clip.latents.phases[phase];
            latents.write([
                &clip.id,
                clip.split,
                &seconds,
                &(phase + 1).to_string(),
                AGENTS[shown.agent],
                ACTIONS[shown.action].name,
                PATIENTS[shown.patient],
                PLACES[shown.place],
                BACKGROUNDS[clip.latents.background],
            ])?;
            row += 1;
        }
    }
    manifest.finish()?;
    latents.finish()
}

/// `transcripts.jsonl`, and the same captions for people in `captions.csv`.
fn write_text(config: &Config, clips: &[Simulated], enumeration: &Enumeration, folder: &Path) -> Result<()> {
    let open = enumeration.targets(Knowledge::None);
    let left = enumeration.targets(if config.blind { Knowledge::None } else { Knowledge::Full });
    let mut captions = table(&folder.join("captions.csv"), &["clip_id", "caption", "split", "group", "pos"])?;
    let mut texts = Vec::with_capacity(clips.len());
    for clip in clips {
        let spoken = config.world.caption(&clip.spoken.phases, &clip.coins);
        let times = grammar::times(&spoken, config.phase_seconds);
        let words: Vec<Word> = spoken
            .iter()
            .zip(&times)
            .zip(open.iter().zip(left))
            .map(|((word, (start, end)), (open, left))| Word {
                text: word.text.to_owned(),
                start: Some(*start),
                end: Some(*end),
                pos: Some(word.pos.to_owned()),
                content: Some(word.content),
                true_bits: Some(*open),
                floor_bits: Some(*left),
                ..Word::default()
            })
            .collect();
        let join = |parts: Vec<&str>| parts.join(" ");
        let text = join(spoken.iter().map(|word| word.text).collect());
        captions.write([&clip.id, &text, clip.split, &clip.id, &join(spoken.iter().map(|word| word.pos).collect())])?;
        let utterance = Utterance {
            text,
            start: Some(0.0),
            end: Some(config.phase_seconds * config.world.clauses() as f64),
            oracle_text: Some(grammar::tags(&clip.latents.phases).join(" ")),
            words,
            eos_true_bits: open.last().copied(),
            eos_floor_bits: left.last().copied(),
            ..Utterance::default()
        };
        texts.push(Clip {
            clip_id: clip.id.clone(),
            split: Some(clip.split.to_owned()),
            group: Some(clip.id.clone()),
            utterances: vec![utterance],
            captions: true,
        });
    }
    captions.finish()?;
    transcripts::save(&folder.join("transcripts.jsonl"), &texts)
}

/// `entropy.csv`: per target of a caption the bits left open, per inject mode.
fn write_entropy(enumeration: &Enumeration, folder: &Path) -> Result<()> {
    let names: Vec<&str> = ["target", "role"].into_iter().chain(Knowledge::ALL.map(Knowledge::name)).collect();
    let mut entropy = table(&folder.join("entropy.csv"), &names)?;
    let line = |first: [String; 2], bits: [f64; 5]| first.into_iter().chain(bits.map(|value| format!("{value:.6}")));
    for target in 0..=enumeration.example.len() {
        let bits = Knowledge::ALL.map(|knowledge| enumeration.targets(knowledge)[target]);
        entropy.write(line([target.to_string(), role(&enumeration.example, target)], bits))?;
    }
    entropy
        .write(line(["all".into(), "caption".into()], Knowledge::ALL.map(|knowledge| enumeration.total(knowledge))))?;
    entropy.finish()
}

/// `triplets.csv` (each choice, by clip ids), `rsm.csv` (kept over shown; 0 for a pair never shown, as the published
/// human matrices have it), `background.csv` (1 where two clips have the same background, which no caption mentions), what
/// perfect readers of captions (`expected_text.csv`) and perfect viewers (`expected_full.csv`) expect, and what they would
/// reach.
fn write_judgments(config: &Config, clips: &[Simulated], folder: &Path) -> Result<Option<(Ceiling, Ceiling)>> {
    if config.judged_clips == 0 {
        return Ok(None);
    }
    let judged = &clips[config.train_clips..][..config.judged_clips.min(config.test_clips)];
    let latents = judged.iter().map(|clip| clip.latents.clone()).collect();
    let mut stream = Streams::new(config.data_seed, SimulateClips::KIND).named("judgments");
    let judgments = Judgments::draw(latents, config.judgments, &mut stream);

    let mut triplets =
        table(&folder.join("triplets.csv"), &["trial", "stim1_name", "stim2_name", "stim3_name", "choice"])?;
    for (number, trial) in judgments.trials.iter().enumerate() {
        let [first, second, third] = trial.clips.map(|clip| judged[clip].id.as_str());
        let odd = judged[trial.clips[trial.odd]].id.as_str();
        triplets.write([number.to_string().as_str(), first, second, third, odd])?;
    }
    triplets.finish()?;

    let ids: Vec<String> = judged.iter().map(|clip| clip.id.clone()).collect();
    let similarity = judgments.similarity();
    let similarity = similarity.iter().map(|row| row.iter().map(|value| value.unwrap_or(0.0)).collect()).collect();
    for (name, rows) in [
        ("rsm.csv", similarity),
        ("background.csv", judgments.same_background()),
        ("expected_text.csv", judgments.expected_of_captions()),
        ("expected_full.csv", judgments.expected_of_pictures()),
    ] {
        let rows: Vec<Vec<f64>> = rows;
        write_square(&folder.join(name), &ids, |cell| rows[cell / ids.len()][cell % ids.len()].to_string())?;
    }
    Ok(judgments.full_ceiling().zip(judgments.text_ceiling()))
}

fn write_world(
    config: &Config,
    enumeration: &Enumeration,
    ceilings: Option<(Ceiling, Ceiling)>,
    folder: &Path,
) -> Result<()> {
    let bits: serde_json::Map<String, serde_json::Value> = Knowledge::ALL
        .iter()
        .map(|knowledge| (knowledge.name().to_owned(), json!(enumeration.total(*knowledge))))
        .collect();
    let reaches =
        |ceiling: Ceiling| json!({ "spearman": ceiling.spearman, "rho_a": ceiling.rho_a, "choices": ceiling.choices });
    let world = json!({
        "settings": config,
        "agents": config.world.agents(),
        "actions": ACTIONS.map(|action| json!({ "name": action.name, "verbs": action.verbs, "kind": action.kind })),
        "patients": PATIENTS,
        "places": PLACES,
        "backgrounds": BACKGROUNDS,
        "bits_per_caption_left": bits,
        "judgment_ceilings": ceilings.map(|(full, text)| json!({ "full": reaches(full), "text": reaches(text) })),
    });
    let path = folder.join("world.json");
    let text = serde_json::to_string_pretty(&world).map_err(|error| StageError::new(error.to_string()))?;
    std::fs::write(&path, text + "\n").map_err(StageError::io(&path))
}

/// A CSV file whose errors name it.
struct Table {
    path: std::path::PathBuf,
    writer: csv::Writer<std::fs::File>,
}

fn table(path: &Path, columns: &[&str]) -> Result<Table> {
    let file = std::fs::File::create(path).map_err(StageError::io(path))?;
    let mut table = Table { path: path.to_owned(), writer: csv::Writer::from_writer(file) };
    table.write(columns)?;
    Ok(table)
}

impl Table {
    fn write<I: IntoIterator<Item: AsRef<[u8]>>>(&mut self, cells: I) -> Result<()> {
        let path = &self.path;
        self.writer.write_record(cells).map_err(|error| StageError::new(format!("`{}`: {error}", path.display())))
    }

    fn finish(self) -> Result<()> {
        let mut file = self
            .writer
            .into_inner()
            .map_err(|error| StageError::Io { path: self.path.clone(), source: error.into_error() })?;
        file.flush().map_err(StageError::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: serde_json::Value) -> Config {
        serde_json::from_value(settings).expect("settings")
    }

    fn simulate(settings: serde_json::Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let context = Context::plain(folder.path(), "cpu");
        SimulateClips::run(&config(settings), &Inputs::default(), &context).expect("runs");
        folder
    }

    fn bytes(folder: &tempfile::TempDir) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder.path())
            .expect("folder")
            .map(|entry| entry.expect("entry").path())
            .map(|path| (path.file_name().expect("name").to_string_lossy().into(), std::fs::read(path).expect("file")))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_others() {
        let small = |seed| json!({ "train_clips": 6, "test_clips": 5, "judgments": 50, "data_seed": seed });
        let (first, again, other) =
            (bytes(&simulate(small(0))), bytes(&simulate(small(0))), bytes(&simulate(small(1))));
        assert_eq!(first, again);
        let names: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "background.csv",
                "captions.csv",
                "entropy.csv",
                "expected_full.csv",
                "expected_text.csv",
                "frames.npy",
                "latents.csv",
                "manifest.csv",
                "rsm.csv",
                "transcripts.jsonl",
                "triplets.csv",
                "world.json"
            ]
        );
        for (name, content) in &first {
            let changed = other.iter().any(|(other, new)| other == name && new != content);
            assert_eq!(changed, !matches!(name.as_str(), "entropy.csv" | "manifest.csv"), "{name}");
        }
    }

    #[test]
    fn a_clip_does_not_depend_on_how_many_there_are() {
        let lines = |train, test| {
            let folder = simulate(json!({ "train_clips": train, "test_clips": test, "judged_clips": 0 }));
            std::fs::read_to_string(folder.path().join("captions.csv")).expect("captions")
        };
        let (few, many) = (lines(3, 2), lines(6, 4));
        assert!(few.lines().all(|line| many.lines().any(|other| other == line)));
    }

    #[test]
    fn transcripts_hold_exact_bits_and_the_tags_of_the_picture() {
        for (blind, floor) in [(false, 2.0), (true, 16.714)] {
            let folder = simulate(json!({ "world": "two_clause", "blind": blind, "train_clips": 2, "test_clips": 40,
                                          "judged_clips": 0, "frames_per_phase": 1 }));
            let clips = transcripts::load(folder.path(), &transcripts::Selection::default()).expect("loads");
            let mut agree = 0;
            for clip in &clips {
                let utterance = &clip.utterances[0];
                let sum = |bits: fn(&Word) -> Option<f64>| utterance.words.iter().filter_map(bits).sum::<f64>();
                assert!((sum(|word| word.true_bits) - 16.714).abs() < 5e-4);
                assert!((sum(|word| word.floor_bits) - floor).abs() < 5e-4);
                let tags = utterance.oracle_text.as_deref().expect("tags");
                agree += usize::from(tags.contains(&format!("agent={} ", utterance.words[1].text)));
            }
            assert_eq!(agree == clips.len(), !blind, "{agree} of {}", clips.len());
        }
    }
}
