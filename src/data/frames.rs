//! Pictures: manifests, folders of frames, videos.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::joined::{Clips, Shown};
use super::survey::Survey;
use super::text::first_line;
use super::{Form, Found, Name, Options, Report};
use crate::vision::frames::{self, Frame, Manifest, Picture, Reader};

/// Reads every picture of the folder.
pub(super) fn look(survey: &Survey, options: &Options, clips: &mut Clips, report: &mut Report) {
    let mut listed = BTreeSet::new();
    let mut alike = Alike::default();
    for (path, columns) in &survey.tables {
        let has = |name: &str| columns.iter().any(|column| column == name);
        if has("frame_path") && has("clip_id") {
            manifest(survey, path, options, &mut listed, &mut alike, clips, report);
        }
    }
    folders(survey, options, &listed, &mut alike, clips, report);
    alike.tell(report);
    let mut videos: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for video in &survey.videos {
        *videos.entry(video.parent().unwrap_or(Path::new("")).to_owned()).or_default() += 1;
    }
    for (folder, count) in videos {
        let place = survey.name(&folder);
        report.found.push(Found { form: Form::Videos, place, clips: count, size: "not looked into".into() });
    }
}

/// A frame manifest, line by line: its strict reader tells only the first of what is found here.
fn manifest(
    survey: &Survey,
    path: &Path,
    options: &Options,
    listed: &mut BTreeSet<PathBuf>,
    alike: &mut Alike,
    clips: &mut Clips,
    report: &mut Report,
) {
    let place = survey.name(path);
    let unreadable = |report: &mut Report, error: String| report.add(Name::UnreadableFile, &place, None, error);
    let mut reader = match csv::Reader::from_path(path) {
        Ok(reader) => reader,
        Err(error) => return unreadable(report, error.to_string()),
    };
    let header = reader.headers().cloned().unwrap_or_default();
    let find = |name: &str| header.iter().position(|column| column.trim() == name);
    let (Some(id), Some(picture)) = (find("clip_id"), find("frame_path")) else { return };
    let Some(time) = find("t_sec") else { return unreadable(report, "there is no column `t_sec`".into()) };
    let [split, group] = ["split", "group"].map(find);
    let mut frames: Vec<Frame> = Vec::new();
    let mut last: HashMap<String, (f64, u64)> = HashMap::new();
    for row in reader.records() {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                unreadable(report, error.to_string());
                continue;
            }
        };
        let line = row.position().map_or(0, csv::Position::line);
        let cell = |column: usize| row.get(column).unwrap_or_default().trim().to_owned();
        let (clip, file) = (cell(id), cell(picture));
        let Some(t_sec) = cell(time).parse().ok().filter(|time: &f64| time.is_finite()) else {
            let text = format!("line {line}: `t_sec` is `{}`, not a number of seconds", cell(time));
            report.add(Name::UnreadableFile, &place, Some(&clip), text);
            continue;
        };
        if let Some((before, at)) = last.get(&clip).filter(|(before, _)| t_sec <= *before) {
            let text = format!("line {line} is at {t_sec} s, line {at} before it at {before} s");
            report.add(Name::FramesOutOfOrder, &place, Some(&clip), text);
        }
        last.insert(clip.clone(), (t_sec, line));
        let text = |column: Option<usize>| column.map(cell).filter(|text| !text.is_empty());
        let (split, group) = (text(split).unwrap_or_default(), text(group));
        frames.push(Frame { split, clip_id: clip, path: file, t_sec, group });
    }
    let base = frames::base(path, frames.first().map_or("", |frame| frame.path.as_str()));
    let mut missing: BTreeMap<String, (usize, String)> = BTreeMap::new();
    frames.retain(|frame| {
        let file = base.join(frame.path.split('#').next().unwrap_or_default());
        let is_there = file.is_file();
        if !is_there {
            missing.entry(frame.clip_id.clone()).or_insert_with(|| (0, frame.path.clone())).0 += 1;
        }
        listed.insert(file);
        is_there
    });
    for (clip, (count, first)) in missing {
        report.add(
            Name::MissingFile,
            &place,
            Some(&clip),
            format!("{count} frames are not there, the first is `{first}`"),
        );
    }
    let manifest = Manifest::of(base, frames);
    let mut by_clip: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, frame) in manifest.frames.iter().enumerate() {
        by_clip.entry(&frame.clip_id).or_default().push(index);
        clips.split(&frame.clip_id, Some(&frame.split), frame.group.as_deref(), &place);
    }
    let size = format!("{} frames", manifest.frames.len());
    report.found.push(Found { form: Form::FrameManifest, place: place.clone(), clips: by_clip.len(), size });
    // Packed pictures are read through one reader, which keeps the file; others at once.
    let is_packed = manifest.frames.iter().any(|frame| frame.path.contains('#'));
    let groups: Vec<(&str, Vec<usize>)> = by_clip.into_iter().collect();
    let look = |reader: &mut Reader, (clip, indices): &(&str, Vec<usize>)| {
        let read = |index: &usize| {
            let frame = &manifest.frames[*index];
            if options.quick && !is_packed {
                return opened(&manifest.folder().join(&frame.path)).map(|()| None);
            }
            let picture = reader.read(*index).map_err(|error| survey.shorten(&first_line(&error.to_string())))?;
            Ok(Some(digest(&picture)))
        };
        (clip.to_string(), indices.iter().map(read).collect::<Vec<_>>())
    };
    let looked: Vec<(String, Vec<Looked>)> = if is_packed {
        let mut reader = Reader::new(&manifest);
        groups.iter().map(|group| look(&mut reader, group)).collect()
    } else {
        groups.par_iter().map(|group| look(&mut Reader::new(&manifest), group)).collect()
    };
    for ((clip, results), (_, indices)) in looked.into_iter().zip(&groups) {
        let times: Vec<f64> = indices.iter().map(|index| manifest.frames[*index].t_sec).collect();
        results_of(&clip, &place, results, alike, report);
        clips.frames(&clip, Shown { place: place.clone(), times }, report);
    }
}

/// What came of a picture: its digest (nothing when only its beginning was read), or why it cannot be read.
type Looked = Result<Option<blake3::Hash>, String>;

fn results_of(clip: &str, place: &str, results: Vec<Looked>, alike: &mut Alike, report: &mut Report) {
    let mut digests = Vec::new();
    for result in results {
        match result {
            Ok(Some(digest)) => digests.push(digest),
            Ok(None) => {}
            Err(error) => report.add(Name::UnreadableImage, place, Some(clip), error),
        }
    }
    alike.add(clip, place, digests);
}

fn digest(picture: &Picture) -> blake3::Hash {
    match picture {
        Picture::Image(image) => blake3::hash(&image.values),
        Picture::Pixels { values, .. } => {
            let mut hasher = blake3::Hasher::new();
            values.iter().for_each(|value| {
                hasher.update(&value.to_le_bytes());
            });
            hasher.finalize()
        }
    }
}

/// Whether the beginning of a file is that of a picture.
fn opened(path: &Path) -> Result<(), String> {
    let size = image::image_dimensions(path);
    size.map(|_| ()).map_err(|error| format!("`{}`: {error}", path.display()))
}

/// Folders of frames, `<clip>/frames/frame_1.jpg` or `<clip>/frame_1.jpg`, that no manifest lists.
fn folders(
    survey: &Survey,
    options: &Options,
    listed: &BTreeSet<PathBuf>,
    alike: &mut Alike,
    clips: &mut Clips,
    report: &mut Report,
) {
    let mut found: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (folder, pictures) in &survey.pictures {
        if pictures.iter().any(|picture| listed.contains(picture)) {
            continue;
        }
        let place = survey.name(folder);
        let is_inner = folder.file_name().is_some_and(|name| name == "frames") && place != "frames" && place != ".";
        let named = if is_inner { folder.parent().unwrap_or(folder) } else { folder };
        let clip = named.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut numbered = Vec::new();
        let mut without = 0;
        for picture in pictures {
            match crate::stages::frame_manifest::number_of(picture) {
                Some(number) => numbered.push((number, picture)),
                None => without += 1,
            }
        }
        if numbered.is_empty() {
            report.notes.push(format!(
                "{place}: {without} pictures are no frames, because their names have no number: frames are named like \
                 `frame_000001.jpg`"
            ));
            continue;
        }
        if without > 0 {
            let text = format!("{without} pictures have no number that could be their place");
            report.add(Name::FramesOutOfOrder, &place, Some(&clip), text);
        }
        // Pictures come sorted by name.
        if let Some(pair) = numbered.windows(2).find(|pair| pair[1].0 <= pair[0].0) {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = if pair[1].0 == pair[0].0 {
                format!("`{}` and `{}` have the same number", name(pair[0].1), name(pair[1].1))
            } else {
                format!(
                    "sorted by name `{}` stands before `{}`: the original's scripts would read them in that order",
                    name(pair[0].1),
                    name(pair[1].1)
                )
            };
            report.add(Name::FramesOutOfOrder, &place, Some(&clip), text);
        }
        numbered.sort();
        if let Some(pair) = numbered.windows(2).find(|pair| pair[1].0.saturating_sub(pair[0].0) > 1) {
            let text = format!(
                "after frame {} comes frame {}: later times would be early, and `frame_manifest` stops unless \
                 `frame_time_origin = \"filename\"` or `gaps = \"close\"`",
                pair[0].0, pair[1].0
            );
            report.add(Name::FramesOutOfOrder, &place, Some(&clip), text);
        }
        let results: Vec<Looked> = numbered
            .par_iter()
            .map(|(_, path)| {
                if options.quick {
                    return opened(path).map(|()| None);
                }
                let image = crate::vision::image::Rgb::open(path).map_err(|error| first_line(&error.to_string()))?;
                Ok(Some(digest(&Picture::Image(image))))
            })
            .collect();
        let results = results.into_iter().map(|result| result.map_err(|error| survey.shorten(&error))).collect();
        results_of(&clip, &place, results, alike, report);
        let times = (0..numbered.len()).map(|position| position as f64 / options.fps).collect();
        clips.split(&clip, survey.split_of(&folder.join("frame")).as_deref(), None, &place);
        clips.frames(&clip, Shown { place: place.clone(), times }, report);
        let above = survey.name(named.parent().unwrap_or(folder));
        let counts = found.entry(above).or_default();
        (counts.0, counts.1) = (counts.0 + 1, counts.1 + numbered.len());
    }
    for (place, (clips, frames)) in found {
        report.found.push(Found { form: Form::FrameFolders, place, clips, size: format!("{frames} frames") });
    }
}

/// Which clips show the same pictures.
#[derive(Default)]
struct Alike {
    clips: BTreeMap<Vec<[u8; 32]>, Vec<(String, String)>>,
}

impl Alike {
    fn add(&mut self, clip: &str, place: &str, digests: Vec<blake3::Hash>) {
        if !digests.is_empty() {
            let digests = digests.into_iter().map(|digest| *digest.as_bytes()).collect();
            self.clips.entry(digests).or_default().push((clip.to_owned(), place.to_owned()));
        }
    }

    /// Pictures of one clip in two places, a manifest and a copy, are no oddity.
    fn tell(&self, report: &mut Report) {
        for clips in self.clips.values() {
            let names: BTreeSet<&str> = clips.iter().map(|(clip, _)| clip.as_str()).collect();
            let mut names = names.into_iter();
            if let Some(first) = names.next() {
                for other in names {
                    let place = clips.iter().find(|(clip, _)| clip == other).map(|(_, place)| place.as_str());
                    let text = format!("shows the very pictures of clip `{first}`");
                    report.add(Name::DuplicateClip, place.unwrap_or_default(), Some(other), text);
                }
            }
        }
    }
}
