//! Features, scene packs, splits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::joined::Clips;
use super::survey::Survey;
use super::text::first_line;
use super::{Form, Found, Name, Report};
use crate::npy::{self, Array};
use crate::social::original::{Original, is_zero};
use crate::social::packs::Packs;
use crate::vision::features::{SMALLEST_SPREAD, spread_of_rows};

/// Reads all tables and arrays that are neither text nor pictures.
pub(super) fn look(survey: &Survey, clips: &mut Clips, report: &mut Report) {
    for folder in &survey.features {
        features(survey, folder, clips, report);
    }
    for folder in &survey.packs {
        let place = survey.name(folder);
        match Packs::load(folder) {
            Ok(packs) => {
                constant(&packs.global, &place, report);
                for clip in &packs.clips {
                    clips.vectors(&clip.clip_id, Form::Packs, &place);
                    clips.split(&clip.clip_id, clip.split.as_deref(), clip.group.as_deref(), &place);
                }
                let size = format!("{} local vectors of {} values", packs.locals.shape[0], packs.dim());
                report.found.push(Found { form: Form::Packs, place, clips: packs.clips.len(), size });
            }
            Err(error) => {
                report.add(Name::UnreadableFile, &place, None, survey.shorten(&first_line(&error.to_string())))
            }
        }
    }
    for folder in &survey.originals {
        originals(survey, folder, clips, report);
    }
    for (path, columns) in &survey.tables {
        let has = |name: &str| columns.iter().any(|column| column == name);
        let place = survey.name(path);
        let beside = |name: &str| path.with_file_name(name).is_file();
        // Tables of other things that name clips and splits too: of embeddings, and the latents of a simulated world.
        let is_other = has("frame_path") || has("caption") || beside("embeddings.json") || beside("world.json");
        if has("clip_id") && has("split") && !is_other {
            splits(path, &place, clips, report);
        }
    }
    for (path, error) in &survey.broken {
        report.add(Name::UnreadableFile, &survey.name(path), None, survey.shorten(error));
    }
}

/// 1 − mean cosine of the clips' vectors, and an oddity where there is next to none.
fn constant(vectors: &Array<f32>, place: &str, report: &mut Report) {
    if let Some(spread) = spread_of_rows(vectors).filter(|spread| *spread < SMALLEST_SPREAD) {
        let text = format!(
            "1 - mean cosine between clips is {spread:.1e}, below {SMALLEST_SPREAD:.0e}: were the encoder's weights loaded?"
        );
        report.add(Name::NearConstantFeatures, place, None, text);
    }
}

/// A vector per frame, with the clip and the split of each.
struct FrameVectors {
    values: Array<f32>,
    rows: Vec<(String, String)>,
}

impl FrameVectors {
    fn read(folder: &Path) -> Result<Self, String> {
        let values: Array<f32> = npy::read(&folder.join("features.npy")).map_err(|error| error.to_string())?;
        let mut reader = csv::Reader::from_path(folder.join("frames.csv")).map_err(|e| format!("`frames.csv`: {e}"))?;
        let header = reader.headers().cloned().map_err(|error| error.to_string())?;
        let id = header.iter().position(|name| name == "clip_id").ok_or("`frames.csv` has no column `clip_id`")?;
        let split = header.iter().position(|name| name == "split");
        let cell = |row: &csv::StringRecord, column: usize| row.get(column).unwrap_or_default().to_owned();
        let rows = reader.records().map(|row| {
            let row = row.map_err(|error| error.to_string())?;
            Ok((cell(&row, id), split.map(|column| cell(&row, column)).unwrap_or_default()))
        });
        let rows = rows.collect::<Result<Vec<_>, String>>()?;
        if values.shape.len() != 2 || values.shape[0] != rows.len() {
            let shape = &values.shape;
            return Err(format!("`features.npy` has shape {shape:?} but `frames.csv` names {} frames", rows.len()));
        }
        Ok(Self { values, rows })
    }
}

fn features(survey: &Survey, folder: &Path, clips: &mut Clips, report: &mut Report) {
    let place = survey.name(folder);
    let FrameVectors { values, rows } = match FrameVectors::read(folder) {
        Ok(read) => read,
        Err(error) => return report.add(Name::UnreadableFile, &place, None, error),
    };
    let dim = values.shape[1];
    let mut means: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (row, (clip, split)) in rows.iter().enumerate() {
        let mean = means.entry(clip).or_insert_with(|| vec![0.0; dim]);
        mean.iter_mut().zip(values.row(row)).for_each(|(sum, &value)| *sum += f64::from(value));
        clips.split(clip, Some(split), None, &place);
    }
    if values.values.iter().any(|value| !value.is_finite()) {
        report.add(Name::UnreadableFile, &place, None, "`features.npy` has values that are not finite");
    }
    // Length does not matter to cosines, so sums serve as means.
    let sums: Vec<f32> = means.values().flatten().map(|&value| value as f32).collect();
    constant(&Array::new([means.len(), dim], sums), &place, report);
    means.keys().for_each(|clip| clips.vectors(clip, Form::Features, &place));
    let size = format!("{} vectors of {dim} values", rows.len());
    report.found.push(Found { form: Form::Features, place, clips: means.len(), size });
}

fn originals(survey: &Survey, folder: &Path, clips: &mut Clips, report: &mut Report) {
    let place = survey.name(folder);
    let packs = match Original::open(folder) {
        Ok(packs) => packs,
        Err(error) => {
            return report.add(Name::UnreadableFile, &place, None, survey.shorten(&first_line(&error.to_string())));
        }
    };
    if packs.manifest.is_none() {
        report.add(
            Name::MissingFile,
            &place,
            None,
            "there is no manifest: vectors are found by the ids of the text alone",
        );
    }
    let (mut rows, mut count, mut clips_with_files, mut locals, mut dim) = (Vec::new(), 0, 0, 0, None);
    for clip in &packs.clips {
        if let Some(reason) = packs.missing(clip) {
            report.add(Name::MissingFile, &place, Some(clip), reason);
            continue;
        }
        match packs.global(clip).and_then(|global| Ok((global, packs.locals(clip)?))) {
            Ok((global, own)) if *dim.get_or_insert(global.len()) == global.len() => {
                locals += own.len();
                clips_with_files += 1;
                let zeros: Vec<_> = own.iter().filter(|local| is_zero(&local.values)).collect();
                if let Some(first) = zeros.first() {
                    let text = format!(
                        "{} of {} local vectors are nothing but zeros, the first is `{}_{}`",
                        zeros.len(),
                        own.len(),
                        first.number,
                        first.word
                    );
                    report.add(Name::ZeroVectors, &place, Some(clip), text);
                }
                if is_zero(&global) {
                    let text = "its vector is nothing but zeros, which the original wrote where it could not read the \
                                frames; `missing = \"leave_out\"` of `import_packs` leaves the clip out";
                    report.add(Name::ZeroVectors, &place, Some(clip), text);
                } else {
                    rows.extend(global);
                    count += 1;
                }
                clips.vectors(clip, Form::OriginalPacks, &place);
            }
            Ok((global, _)) => {
                let text = format!("its vector has {} values, others {}", global.len(), dim.unwrap_or_default());
                report.add(Name::UnreadableFile, &place, Some(clip), text);
            }
            Err(error) => {
                report.add(Name::UnreadableFile, &place, Some(clip), survey.shorten(&first_line(&error.to_string())))
            }
        }
    }
    constant(&Array::new([count, dim.unwrap_or_default()], rows), &place, report);
    let size = format!("{locals} local vectors of {} values", dim.unwrap_or_default());
    report.found.push(Found { form: Form::OriginalPacks, place, clips: clips_with_files, size });
}

fn splits(path: &Path, place: &str, clips: &mut Clips, report: &mut Report) {
    let mut seen = BTreeSet::new();
    let read = csv::Reader::from_path(path).and_then(|mut reader| {
        let header = reader.headers()?.clone();
        let find = |name: &str| header.iter().position(|column| column.trim() == name);
        for row in reader.records() {
            let row = row?;
            let cell = |name: &str| find(name).and_then(|column| row.get(column)).map(str::trim);
            let id = cell("clip_id").unwrap_or_default();
            clips.split(id, cell("split"), cell("group").filter(|group| !group.is_empty()), place);
            seen.insert(id.to_owned());
        }
        Ok(())
    });
    if let Err(error) = read {
        report.add(Name::UnreadableFile, place, None, error.to_string());
    }
    let size = "a split for each".to_owned();
    report.found.push(Found { form: Form::Splits, place: place.to_owned(), clips: seen.len(), size });
}
