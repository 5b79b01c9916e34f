//! Human similarity judgments as files: odd-one-out trials, or a square matrix.
//!
//! A square matrix is a CSV with a header of clips and, as the original writes it, no column of names; a first column of
//! names is known by the empty cell above it. An empty cell is a pair that nobody judged. Trials are
//! `clip_1,clip_2,clip_3,odd_one`, or `stim1_name,stim2_name,stim3_name,choice`, with whoever chose in `participant` or
//! `participation`.

use std::collections::HashMap;
use std::path::Path;

use super::columns::{Columns, broken};
use crate::stages::{Result, StageError};
use crate::stats::random::Streams;
use crate::stats::reliability::{self, Reliability};
use crate::stats::rsm::upper_triangle;
use crate::stats::triplets::{Repeats, Trial, Trials};

/// Human similarity of clips.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgments {
    /// Names of the clips, in the order of rows and columns.
    pub clips: Vec<String>,
    /// `[clips, clips]`; `None` where nobody judged.
    pub values: Vec<Option<f64>>,
    /// How often each pair was shown, `[clips, clips]`; `None` for a ready-made matrix.
    pub shown: Option<Vec<u32>>,
    /// The trials behind the values, which may show more clips; `None` for a ready-made matrix.
    pub trials: Option<Trials>,
    /// The number in [`Trials::clips`] of each clip.
    members: Vec<usize>,
    repeats: Repeats,
}

impl Judgments {
    /// Reads a CSV, or of a folder `file`, else `triplets.csv`, else `rsm.csv`. `names` (number → clip id) is for
    /// judgments that name clips by number.
    ///
    /// # Errors
    /// No such file, a file of a file, a trial or row that does not fit its header, or a number that `names` lacks.
    pub fn read(
        path: &Path,
        file: Option<&str>,
        names: Option<&HashMap<String, String>>,
        repeats: Repeats,
    ) -> Result<Self> {
        let file = match (path.is_dir(), file) {
            (true, Some(file)) => path.join(file),
            (true, None) if path.join("triplets.csv").is_file() => path.join("triplets.csv"),
            (true, None) => path.join("rsm.csv"),
            (false, None) => path.to_owned(),
            (false, Some(file)) => {
                return Err(StageError::hint(
                    format!("`{}` is a file, and `{file}` would be one of a folder", path.display()),
                    "leave the name of the file out, or point to the folder that it lies in",
                ));
            }
        };
        let mut reader =
            csv::ReaderBuilder::new().flexible(true).from_path(&file).map_err(|error| broken(&file, &error))?;
        let columns = Columns::of(&file, &mut reader)?;
        let mut judgments = if columns.find("odd_one").or(columns.find("choice")).is_some() {
            let trials = read_trials(&file, &mut reader, &columns)?;
            Self::of_trials(trials, repeats)
        } else {
            square(&file, &mut reader)?
        };
        if let Some(names) = names {
            judgments.rename(names)?;
        }
        Ok(judgments)
    }

    /// Similarity from odd-one-out choices.
    pub fn of_trials(trials: Trials, repeats: Repeats) -> Self {
        let counts = trials.counts(repeats, |_, _| true);
        Self {
            clips: trials.clips.clone(),
            values: counts.similarity(),
            shown: Some(counts.shown),
            members: (0..trials.clips.len()).collect(),
            trials: Some(trials),
            repeats,
        }
    }

    fn rename(&mut self, names: &HashMap<String, String>) -> Result<()> {
        for clip in &mut self.clips {
            *clip = names.get(clip).cloned().ok_or_else(|| {
                StageError::hint(
                    format!("`names` has no clip number `{clip}` of the judgments"),
                    "give a CSV with columns `index` and `clip_id` for every judged clip",
                )
            })?;
        }
        if let Some(trials) = &mut self.trials {
            trials.clips.clone_from(&self.clips);
        }
        Ok(())
    }

    /// The judgments of pairs of some clips. What was judged beside other clips still counts.
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let kept = self.places(wanted);
        let count = self.clips.len();
        let cells: Vec<usize> = kept.iter().flat_map(|&i| kept.iter().map(move |&j| i * count + j)).collect();
        Self {
            clips: kept.iter().map(|&clip| self.clips[clip].clone()).collect(),
            values: cells.iter().map(|&cell| self.values[cell]).collect(),
            shown: self.shown.as_ref().map(|shown| cells.iter().map(|&cell| shown[cell]).collect()),
            trials: self.trials.clone(),
            members: kept.iter().filter_map(|&clip| self.members.get(clip).copied()).collect(),
            repeats: self.repeats,
        }
    }

    /// The judgments of some clips from trials that show no other; of a ready-made matrix their part of it.
    pub fn among(&self, wanted: impl Fn(&str) -> bool) -> Self {
        match &self.trials {
            None => self.only(wanted),
            Some(trials) => {
                let kept: Vec<usize> = self.places(wanted).into_iter().map(|clip| self.members[clip]).collect();
                Self::of_trials(trials.among(&kept), self.repeats)
            }
        }
    }

    fn places(&self, wanted: impl Fn(&str) -> bool) -> Vec<usize> {
        (0..self.clips.len()).filter(|&clip| wanted(&self.clips[clip])).collect()
    }

    /// Split-half reliability of the judged pairs; `None` without trials of at least two participants. See
    /// [`reliability::split_half`].
    pub fn reliability(&self, zeros: bool, splits: usize, streams: &Streams) -> Option<Reliability> {
        let trials = self.trials.as_ref()?;
        reliability::split_half(trials, &self.members, self.repeats, zeros, splits, streams)
    }

    /// Pairs that nobody judged.
    pub fn unobserved(&self) -> usize {
        let count = self.clips.len();
        upper_triangle(count).filter(|&(i, j)| self.values[i * count + j].is_none()).count()
    }

    /// Writes the similarity in the original's form: a header of clips and no column of names. Empty cells are pairs that
    /// nobody judged.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_square(path, &self.clips, |cell| self.values[cell].map_or_else(String::new, |value| value.to_string()))
    }
}

/// Writes a square matrix with a header of clips and no column of names; `cell` gives the text of a row-major place.
///
/// # Errors
/// The file cannot be written.
pub fn write_square(path: &Path, clips: &[String], cell: impl Fn(usize) -> String) -> Result<()> {
    let mut writer = csv::Writer::from_path(path).map_err(|error| broken(path, &error))?;
    writer.write_record(clips).map_err(|error| broken(path, &error))?;
    for row in 0..clips.len() {
        let cells = (0..clips.len()).map(|column| cell(row * clips.len() + column));
        writer.write_record(cells).map_err(|error| broken(path, &error))?;
    }
    writer.flush().map_err(StageError::io(path))
}

/// Number → clip id, from a CSV with the columns `index` and `clip_id`.
///
/// # Errors
/// The file cannot be read or lacks a column.
pub fn read_names(path: &Path) -> Result<HashMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).map_err(|error| broken(path, &error))?;
    let columns = Columns::of(path, &mut reader)?;
    let (index, id) = (columns.need("index")?, columns.need("clip_id")?);
    reader
        .records()
        .map(|row| row.map(|row| (row[index].to_owned(), row[id].to_owned())).map_err(|error| broken(path, &error)))
        .collect()
}

fn square(path: &Path, reader: &mut csv::Reader<std::fs::File>) -> Result<Judgments> {
    let header: Vec<String> =
        reader.headers().map_err(|error| broken(path, &error))?.iter().map(str::to_owned).collect();
    let skip = usize::from(header.first().is_some_and(|name| name.trim().is_empty()));
    let clips: Vec<String> = header[skip..].iter().map(|name| name.trim().to_owned()).collect();
    let mut values = Vec::new();
    for (line, row) in reader.records().enumerate() {
        let row = row.map_err(|error| broken(path, &error))?;
        let bad = |what: String| StageError::new(format!("`{}`, line {}: {what}", path.display(), line + 2));
        if row.len() != header.len() {
            return Err(bad(format!("{} cells under a header of {}", row.len(), header.len())));
        }
        for cell in row.iter().skip(skip).map(str::trim) {
            values.push(match cell {
                "" => None,
                number => {
                    let value: f64 = number.parse().map_err(|_| bad(format!("`{number}` is no number")))?;
                    value.is_finite().then_some(value)
                }
            });
        }
    }
    let count = clips.len();
    if values.len() != count * count {
        let rows = values.len() / count.max(1);
        return Err(StageError::new(format!("`{}` has {count} columns and {rows} rows, not a square", path.display())));
    }
    let differs = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() > 1e-9,
        (a, b) => a.is_some() != b.is_some(),
    };
    if let Some((i, j)) = upper_triangle(count).find(|&(i, j)| differs(values[i * count + j], values[j * count + i])) {
        return Err(StageError::new(format!(
            "`{}` is not symmetric at `{}`, `{}`",
            path.display(),
            clips[i],
            clips[j]
        )));
    }
    Ok(Judgments { clips, values, shown: None, trials: None, members: Vec::new(), repeats: Repeats::LeaveOut })
}

/// Most cells of a matrix for each trial that it is made from. The matrix grows with the square of the clips, the file with
/// the trials: past this it would fill the memory, and next to no pair would be judged.
const CELLS_PER_TRIAL: usize = 1000;

/// One line of a file of trials.
struct Line {
    participant: Option<String>,
    clips: [String; 3],
    odd: String,
}

/// Clips come in the order of their numbers, or of their names.
fn read_trials(path: &Path, reader: &mut csv::Reader<std::fs::File>, columns: &Columns) -> Result<Trials> {
    let names = match columns.find("odd_one") {
        Some(_) => ["clip_1", "clip_2", "clip_3", "odd_one"],
        None => ["stim1_name", "stim2_name", "stim3_name", "choice"],
    };
    let shown = [columns.need(names[0])?, columns.need(names[1])?, columns.need(names[2])?];
    let odd = columns.need(names[3])?;
    let participant = columns.find("participant").or(columns.find("participation"));
    let mut lines: Vec<Line> = Vec::new();
    for (number, row) in reader.records().enumerate() {
        let row = row.map_err(|error| broken(path, &error))?;
        let place = || format!("`{}`, line {}", path.display(), number + 2);
        let cell = |column: usize| row.get(column).unwrap_or("").trim().to_owned();
        let cells = [shown[0], shown[1], shown[2], odd].map(cell);
        if cells.iter().any(String::is_empty) {
            return Err(StageError::hint(
                format!("{}: the trial has an empty or missing cell", place()),
                format!("every line needs `{}`", names.join("`, `")),
            ));
        }
        let [first, second, third, odd] = cells;
        let clips = [first, second, third];
        if !clips.contains(&odd) {
            return Err(StageError::new(format!("{}: `{odd}` is none of the three clips shown", place())));
        }
        lines.push(Line { participant: participant.map(cell), clips, odd });
    }
    let mut clips: Vec<String> = lines.iter().flat_map(|line| line.clips.clone()).collect();
    clips.sort_by_cached_key(|clip| (clip.parse::<u64>().unwrap_or(u64::MAX), clip.clone()));
    clips.dedup();
    if clips.len().pow(2) > CELLS_PER_TRIAL * lines.len() {
        return Err(StageError::hint(
            format!("`{}` has {} trials for {} clips, too few for a matrix", path.display(), lines.len(), clips.len()),
            "give more trials, or those of fewer clips",
        ));
    }
    let places: HashMap<&str, u32> = clips.iter().map(String::as_str).zip(0..).collect();
    let mut participants: HashMap<String, u32> = HashMap::new();
    let mut trials = Vec::with_capacity(lines.len());
    for (number, line) in lines.iter().enumerate() {
        let next = participants.len() as u32;
        let participant = match &line.participant {
            Some(name) => *participants.entry(name.clone()).or_insert(next),
            None => number as u32,
        };
        let clips = [0, 1, 2].map(|place: usize| places[line.clips[place].as_str()]);
        trials.push(Trial { participant, clips, odd: places[line.odd.as_str()] });
    }
    let participants = if participant.is_some() { participants.len() } else { trials.len() };
    Ok(Trials { clips, participants, trials })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judgments(text: &str) -> Result<Judgments> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.csv");
        std::fs::write(&path, text).unwrap();
        Judgments::read(&path, None, None, Repeats::LeaveOut)
    }

    #[test]
    fn a_file_of_a_file_is_refused_and_not_overlooked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.csv");
        std::fs::write(&path, "a,b\n1,0.5\n0.5,1\n").unwrap();
        let read = |path: &Path| Judgments::read(path, Some("j.csv"), None, Repeats::LeaveOut);
        assert!(read(folder.path()).is_ok());
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("is a file, and `j.csv` would be one of a folder\nhint:"), "{error}");
    }

    #[test]
    fn matrices_with_and_without_names_and_gaps_are_read() {
        let plain = judgments("a,b\n1,0.5\n0.5,1\n").unwrap();
        assert_eq!(plain, judgments(",a,b\na,1,0.5\nb,0.5,1\n").unwrap());
        assert_eq!(plain.values[1], Some(0.5));
        assert_eq!(judgments("a,b\n1,\n,1\n").unwrap().values[1], None);
        assert!(judgments("a,b\n1,0.5\n0.4,1\n").unwrap_err().to_string().contains("not symmetric"));
        assert!(judgments("a,b\n1,0.5\n").unwrap_err().to_string().contains("not a square"));
    }

    #[test]
    fn a_matrix_is_written_as_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rsm.csv");
        let text = "10,2,7\n1,0.3333333333333333,\n0.3333333333333333,1,0.25\n,0.25,1\n";
        let read = judgments(text).unwrap();
        read.write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(read.unobserved(), 1);
        assert_eq!(read.only(|clip| clip != "2").values, [Some(1.0), None, None, Some(1.0)]);
    }

    #[test]
    fn a_folder_is_read_by_the_name_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rsm.csv"), "a,b\n1,0.5\n0.5,1\n").unwrap();
        std::fs::write(folder.path().join("tone.csv"), "a,b\n1,0\n0,1\n").unwrap();
        let read = |file| Judgments::read(folder.path(), file, None, Repeats::LeaveOut);
        assert_eq!(read(None).unwrap().values[1], Some(0.5));
        assert_eq!(read(Some("tone.csv")).unwrap().values[1], Some(0.0));
        assert!(read(Some("none.csv")).unwrap_err().to_string().contains("none.csv"));
    }

    #[test]
    fn a_short_trial_is_an_error_with_its_line_and_spaces_do_not_count() {
        let header = "clip_1,clip_2,clip_3,odd_one\n1,2,3,1\n";
        let error = judgments(&format!("{header}1,2,3\n")).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("`odd_one`"), "{error}");
        assert_eq!(judgments(&format!("{header}1, 2,3 , 1\n")).unwrap().clips, ["1", "2", "3"]);
    }

    #[test]
    fn tables_that_would_fill_the_memory_are_refused() {
        let header = ",".repeat(200_000);
        assert!(judgments(&format!("{header}\n")).unwrap_err().to_string().contains("not a square"));
        let trials =
            (0..2000).map(|trial| format!("{},{},{},{}\n", 3 * trial, 3 * trial + 1, 3 * trial + 2, 3 * trial));
        let text = "clip_1,clip_2,clip_3,odd_one\n".to_owned() + &trials.collect::<String>();
        assert!(judgments(&text).unwrap_err().to_string().contains("has 2000 trials for 6000 clips"));
    }

    #[test]
    fn trials_give_kept_over_shown() {
        let text = "participant,clip_1,clip_2,clip_3,odd_one\n0,10,9,2,9\n1,2,9,10,2\n1,2,2,9,9\n";
        let found = judgments(text).unwrap();
        assert_eq!(found.clips, ["2", "9", "10"]);
        let rounds =
            [Some(1.0), Some(0.0), Some(0.5), Some(0.0), Some(1.0), Some(0.5), Some(0.5), Some(0.5), Some(1.0)];
        assert_eq!(found.values, rounds);
        let trials = found.trials.clone().unwrap();
        assert_eq!((trials.participants, trials.repeated(), found.shown.as_ref().unwrap()[1]), (2, 1, 2));
        let other = text
            .replace("clip_1,clip_2,clip_3,odd_one", "stim1_name,stim2_name,stim3_name,choice")
            .replace("participant", "participation");
        assert_eq!(judgments(&other).unwrap(), found);
        assert_eq!(found.only(|clip| clip != "9").values, [Some(1.0), Some(0.5), Some(0.5), Some(1.0)]);
        assert_eq!(found.among(|clip| clip != "9").values, [Some(1.0), None, None, Some(1.0)]);
        let nobody = judgments(&text.replace("participant,", "").replace("\n0,", "\n").replace("\n1,", "\n"));
        assert_eq!(nobody.unwrap().trials.unwrap().participants, 3);
        assert!(
            judgments("clip_1,clip_2,clip_3,odd_one\n1,2,3,4\n").unwrap_err().to_string().contains("none of the three")
        );
    }
}
