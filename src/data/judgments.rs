//! Human judgments: trials and matrices, known by their header whatever the file is called.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::joined::Clips;
use super::survey::Survey;
use super::text::first_line;
use super::{Form, Found, Name, Report};
use crate::social::judgments::{Judgments, read_names};
use crate::stats::triplets::Repeats;

/// Fewest clips of a matrix under a name of its own: smaller tables of numbers are something else.
const FEWEST: usize = 3;

/// In which of its two forms a table is judgments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A choice per line.
    Trials,
    /// A similarity per pair.
    Matrix,
}

/// Number → clip, by every table that names clips by number.
type Names = Vec<HashMap<String, String>>;

/// Reads all judgments of the folder.
pub(super) fn look(survey: &Survey, clips: &Clips, report: &mut Report) {
    let names = names(survey);
    for (path, columns) in &survey.tables {
        let place = survey.name(path);
        match kind(path, columns, clips, &names) {
            Some(Kind::Trials) => {
                let refused = odd_trials(path, columns, &place, report);
                read(survey, path, Kind::Trials, refused, (clips, &names), report);
            }
            Some(Kind::Matrix) => {
                let mut seen = BTreeSet::new();
                for clip in columns.iter().filter(|name| !name.is_empty()) {
                    if !seen.insert(clip) {
                        report.add(Name::DuplicateClip, &place, Some(clip), "two columns of the matrix are named so");
                    }
                }
                read(survey, path, Kind::Matrix, false, (clips, &names), report);
            }
            None => {}
        }
    }
}

/// Every table that tells clips by number.
pub(super) fn names(survey: &Survey) -> Names {
    let has = |columns: &[String], name: &str| columns.iter().any(|column| column == name);
    let tables = survey.tables.iter().filter(|(_, columns)| has(columns, "index") && has(columns, "clip_id"));
    tables.filter_map(|(path, _)| read_names(path).ok()).collect()
}

/// Whether a table is judgments: trials by their columns; a matrix by its name, or by clips as columns and numbers below.
pub(super) fn kind(path: &Path, columns: &[String], clips: &Clips, names: &Names) -> Option<Kind> {
    let has = |name: &str| columns.iter().any(|column| column == name);
    if has("odd_one") || (has("choice") && has("stim1_name")) {
        return Some(Kind::Trials);
    }
    let is_named = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase().contains("rsm");
    let beside = |name: &str| path.with_file_name(name).is_file();
    if !is_named && (beside("world.json") || beside("summary.json")) {
        return None;
    }
    (is_named || is_matrix(path, columns, clips, names)).then_some(Kind::Matrix)
}

fn is_matrix(path: &Path, columns: &[String], clips: &Clips, names: &Names) -> bool {
    let is_clip = |name: &str| clips.knows(name) || names.iter().any(|names| names.contains_key(name));
    // The cell above a column of names ought to be empty; the reader tells where it is not.
    let first = columns.first().map(String::as_str).unwrap_or_default();
    let skip = usize::from(first.is_empty() || (!is_clip(first) && first.parse::<f64>().is_err()));
    let named = columns.get(skip..).unwrap_or_default();
    if named.len() < FEWEST {
        return false;
    }
    let are_clips = named.iter().all(|name| is_clip(name));
    if columns.len() != named.len() && !first.is_empty() && !are_clips {
        return false;
    }
    let Ok(mut reader) = csv::ReaderBuilder::new().flexible(true).from_path(path) else { return false };
    let (mut rows, mut diagonal) = (0, BTreeSet::new());
    for row in reader.records() {
        let Ok(row) = row else { return false };
        let is_number = |cell: &str| cell.trim().is_empty() || cell.trim().parse::<f64>().is_ok();
        if !row.iter().skip(skip).all(is_number) {
            return false;
        }
        diagonal.insert(row.get(skip + rows).unwrap_or_default().trim().to_owned());
        rows += 1;
    }
    are_clips || (rows == named.len() && diagonal.len() == 1)
}

/// Trials that show a clip twice, or whose odd one is none of the three: all of them, where the reader names the first.
/// Tells whether the reader refuses one.
fn odd_trials(path: &Path, columns: &[String], place: &str, report: &mut Report) -> bool {
    let of = |names: [&str; 4]| names.map(|name| columns.iter().position(|column| column == name));
    let places = match columns.iter().any(|column| column == "odd_one") {
        true => of(["clip_1", "clip_2", "clip_3", "odd_one"]),
        false => of(["stim1_name", "stim2_name", "stim3_name", "choice"]),
    };
    let [Some(first), Some(second), Some(third), Some(odd)] = places else { return false };
    let Ok(mut reader) = csv::ReaderBuilder::new().flexible(true).from_path(path) else { return false };
    let (mut strangers, mut repeated) = (Vec::new(), Vec::new());
    for row in reader.records().flatten() {
        let line = row.position().map_or(0, csv::Position::line);
        let cell = |column: usize| row.get(column).unwrap_or_default().trim();
        let shown = [cell(first), cell(second), cell(third)];
        let chosen = cell(odd);
        if shown.contains(&"") || chosen.is_empty() {
            continue;
        }
        if !shown.contains(&chosen) {
            strangers.push((line, chosen.to_owned()));
        }
        if shown[0] == shown[1] || shown[0] == shown[2] || shown[1] == shown[2] {
            repeated.push(line);
        }
    }
    if let Some((line, chosen)) = strangers.first() {
        let text = format!(
            "the odd one is none of the three clips shown in {} trials, the first in line {line} (`{chosen}`)",
            strangers.len()
        );
        report.add(Name::OddTrials, place, None, text);
    }
    if let Some(line) = repeated.first() {
        let text = format!(
            "{} trials show a clip twice, the first in line {line}; `rsa` leaves them out unless `repeats = \"count\"`",
            repeated.len()
        );
        report.add(Name::OddTrials, place, None, text);
    }
    !strangers.is_empty()
}

/// Reads the file as `rsa` does; `refused` says that the reason for which the reader stops is told already.
fn read(
    survey: &Survey,
    path: &Path,
    kind: Kind,
    refused: bool,
    (clips, names): (&Clips, &Names),
    report: &mut Report,
) {
    let place = survey.name(path);
    let judgments = match Judgments::read(path, None, None, Repeats::LeaveOut) {
        Ok(judgments) => judgments,
        Err(_) if refused => return,
        Err(error) => {
            let text = survey.shorten(&first_line(&error.to_string()));
            return report.add(Name::UnreadableFile, &place, None, text);
        }
    };
    let count = judgments.clips.len();
    let trials = judgments.trials.as_ref().map_or(0, |trials| trials.trials.len());
    let (clips_told, size) = match kind {
        Kind::Matrix => (count, format!("a matrix, {} pairs without a judgment", judgments.unobserved())),
        Kind::Trials => (0, format!("{trials} trials of {count} clips")),
    };
    report.found.push(Found { form: Form::Judgments, place: place.clone(), clips: clips_told, size });
    if clips.is_empty() {
        return;
    }
    let is_known = |clip: &str, names: Option<&HashMap<String, String>>| match names {
        Some(names) => names.get(clip).is_some_and(|clip| clips.knows(clip)),
        None => clips.knows(clip),
    };
    let unknown = |names: Option<&HashMap<String, String>>| -> Vec<&String> {
        judgments.clips.iter().filter(|clip| !is_known(clip, names)).collect()
    };
    let best = names.iter().map(|names| unknown(Some(names))).chain([unknown(None)]).min_by_key(Vec::len);
    if let Some(first) = best.as_ref().and_then(|best| best.first()) {
        let lost = best.as_ref().map_or(0, Vec::len);
        let hint = match lost == count {
            true => "; if they are numbers, give a CSV with `index` and `clip_id` as `names`",
            false => "",
        };
        let text = format!("{lost} of {count} judged clips have neither text nor frames, the first is `{first}`{hint}");
        report.add(Name::UnmatchedClip, &place, None, text);
    }
}
