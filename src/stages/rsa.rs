//! `rsa`: how alike the model's and people's similarity of clips are.
//!
//! Spearman's correlation of the strict upper triangles of two matrices: the similarity of pooled vectors, and human
//! judgments. The p value is scipy's, which takes pairs as independent; they are not.

use std::collections::HashMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::embed::Description;
use super::{Context, Inputs, Reference, Result, Stage, StageError, Summary};
use crate::npy::{self, Array};
use crate::social::columns::{Columns, broken};
use crate::social::packs::read_json;
use crate::social::pooling::Pool;
use crate::stats::ranks::spearman;
use crate::stats::rsm::{Similarity, matrix, upper_triangle};

/// See the module.
pub struct Rsa;

/// What to do with pairs that nobody judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unobserved {
    /// Leave them out.
    #[default]
    Mask,
    /// Take their similarity as 0 (the original).
    Zero,
}

/// Which clips to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Clips {
    /// Every judged clip; each must have a vector.
    #[default]
    Judged,
    /// The judged clips that have a vector.
    Common,
}

/// Most cells of a matrix for each trial that it is made from. The matrix grows with the square of the clips, the file with
/// the trials: past this it would fill the memory, and next to no pair would be judged.
const CELLS_PER_TRIAL: usize = 1000;

/// Settings of `rsa`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Pooled vectors.
    #[schemars(extend("x-accepts" = ["embeddings"]))]
    pub embeddings: Reference,
    /// Human judgments: a square matrix as CSV with a header of clips (with or without a column of their names; an empty
    /// cell is a pair that nobody judged), triplets (`clip_1,clip_2,clip_3,odd_one`, or `stim1_name,…,choice`), or a
    /// folder with `triplets.csv` (which tells what nobody judged) or `rsm.csv`.
    #[schemars(extend("x-accepts" = ["judgments"]))]
    pub human: Reference,
    /// A CSV of `index,clip_id` for judgments that name clips by number.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["split"]))]
    pub names: Option<Reference>,
    /// Which positions the vectors are means of.
    #[serde(default = "pool")]
    pub pool: Pool,
    /// `last`, or a layer's number.
    #[serde(default = "layer")]
    #[schemars(regex(pattern = r"^(last|[0-9]+)$"))]
    pub layer: String,
    /// How vectors are compared.
    #[serde(default)]
    pub similarity: Similarity,
    /// What to do with pairs that nobody judged.
    #[serde(default)]
    pub unobserved: Unobserved,
    /// Which clips to compare.
    #[serde(default)]
    pub clips: Clips,
}

fn pool() -> Pool {
    Pool::All
}

fn layer() -> String {
    "last".to_owned()
}

impl Stage for Rsa {
    const KIND: &'static str = "rsa";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Correlates the model's similarity of clips with human judgments";
    const GIVES: &'static [&'static str] = &["rsa"];
    type Config = Config;

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let embeddings = &inputs.get("embeddings")?.path;
        let names = inputs.optional("names").map(|input| read_names(&input.path)).transpose()?;
        let mut judgments = Judgments::read(&inputs.get("human")?.path, names.as_ref())?;
        let places = read_places(embeddings)?;
        if config.clips == Clips::Common {
            judgments.keep(|clip| places.contains_key(clip));
        }
        let rows: Vec<usize> = judgments.clips.iter().map(|clip| place(&places, clip)).collect::<Result<_>>()?;
        let vectors = read_vectors(embeddings, config)?;
        if vectors.shape.len() != 2 || vectors.shape[0] != places.len() {
            return Err(StageError::new(format!(
                "`{}`: `embeddings.npz` has vectors of shape {:?} but `clips.csv` names {} clips",
                embeddings.display(),
                vectors.shape,
                places.len()
            )));
        }
        let chosen: Vec<Vec<f64>> =
            rows.iter().map(|&row| vectors.row(row).iter().map(|&value| f64::from(value)).collect()).collect();
        let model = matrix(&chosen, config.similarity).map_err(|row| {
            StageError::new(format!("the vector of clip `{}` has no direction to compare", judgments.clips[row]))
        })?;
        let count = rows.len();
        let (mut ours, mut human, mut unobserved) = (Vec::new(), Vec::new(), 0usize);
        for (i, j) in upper_triangle(count) {
            let judged = judgments.values[i * count + j];
            unobserved += usize::from(judged.is_none());
            if let Some(judged) = judged.or((config.unobserved == Unobserved::Zero).then_some(0.0)) {
                ours.push(model[i * count + j]);
                human.push(judged);
            }
        }
        let (rho, p) = spearman(&ours, &human).ok_or_else(|| {
            StageError::new(format!("{} judged pairs of {count} clips give no correlation", human.len()))
        })?;
        let values = model.iter().map(|&value| value as f32).collect();
        npy::write(&context.folder().join("rsm.npy"), &Array::new([count, count], values))?;
        write_order(context, &judgments.clips)?;
        let mut summary = Summary::new();
        summary.insert("spearman".into(), rho.into());
        summary.insert("p_value".into(), p.into());
        summary.insert("pairs".into(), human.len().into());
        summary.insert("clips".into(), count.into());
        summary.insert("unobserved".into(), unobserved.into());
        Ok(summary)
    }
}

fn read_places(embeddings: &Path) -> Result<HashMap<String, usize>> {
    let path = embeddings.join("clips.csv");
    let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
    let id = Columns::of(&path, &mut reader)?.need("clip_id")?;
    let rows = reader.records().enumerate();
    rows.map(|(place, row)| Ok((row.map_err(|error| broken(&path, &error))?[id].to_owned(), place))).collect()
}

fn place(places: &HashMap<String, usize>, clip: &str) -> Result<usize> {
    places.get(clip).copied().ok_or_else(|| {
        StageError::hint(
            format!("judged clip `{clip}` has no vector"),
            "embed every judged clip (`split = \"all\"`), set `clips = \"common\"` to leave others out, or give `names` if \
             the judgments name clips by number",
        )
    })
}

fn read_vectors(embeddings: &Path, config: &Config) -> Result<Array<f32>> {
    let description: Description = read_json(&embeddings.join("embeddings.json"))?;
    let state = description.pools.iter().find(|state| state.pool == config.pool);
    if let Some(why) = state.and_then(|state| state.undefined.as_ref()) {
        return Err(StageError::hint(
            format!("pool `{}` is not defined here: {why}", config.pool.name()),
            "choose another `pool` or `inject`",
        ));
    }
    let name = format!("{}.{}", config.pool.name(), config.layer);
    npy::read_npz_array(&embeddings.join("embeddings.npz"), &name)?.ok_or_else(|| {
        StageError::hint(
            format!("there is no layer `{}`", config.layer),
            format!("layers are `{}`", description.layers.join("`, `")),
        )
    })
}

fn write_order(context: &Context, clips: &[String]) -> Result<()> {
    let path = context.folder().join("clips.csv");
    let text: String =
        std::iter::once("clip_id").chain(clips.iter().map(String::as_str)).collect::<Vec<_>>().join("\n");
    std::fs::write(&path, text + "\n").map_err(StageError::io(&path))
}

/// Index → clip id.
fn read_names(path: &Path) -> Result<HashMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).map_err(|error| broken(path, &error))?;
    let columns = Columns::of(path, &mut reader)?;
    let (index, id) = (columns.need("index")?, columns.need("clip_id")?);
    reader
        .records()
        .map(|row| row.map(|row| (row[index].to_owned(), row[id].to_owned())).map_err(|error| broken(path, &error)))
        .collect()
}

/// Human similarity of clips.
#[derive(Debug, PartialEq)]
struct Judgments {
    clips: Vec<String>,
    /// `[clips, clips]`; `None` where nobody judged.
    values: Vec<Option<f64>>,
}

impl Judgments {
    fn read(path: &Path, names: Option<&HashMap<String, String>>) -> Result<Self> {
        let file = if path.is_dir() {
            let triplets = path.join("triplets.csv");
            if triplets.is_file() { triplets } else { path.join("rsm.csv") }
        } else {
            path.to_owned()
        };
        let mut reader =
            csv::ReaderBuilder::new().flexible(true).from_path(&file).map_err(|error| broken(&file, &error))?;
        let columns = Columns::of(&file, &mut reader)?;
        let mut judgments = if columns.find("odd_one").or(columns.find("choice")).is_some() {
            triplets(&file, &mut reader, &columns)?
        } else {
            square(&file, &mut reader)?
        };
        if let Some(names) = names {
            for clip in &mut judgments.clips {
                *clip = names.get(clip).cloned().ok_or_else(|| {
                    StageError::hint(
                        format!("`names` has no clip number `{clip}` of the judgments"),
                        "give a CSV with columns `index` and `clip_id` for every judged clip",
                    )
                })?;
            }
        }
        Ok(judgments)
    }

    fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        let count = self.clips.len();
        let kept: Vec<usize> = (0..count).filter(|&clip| wanted(&self.clips[clip])).collect();
        self.values = kept
            .iter()
            .flat_map(|&i| kept.iter().map(move |&j| (i, j)))
            .map(|(i, j)| self.values[i * count + j])
            .collect();
        self.clips = kept.into_iter().map(|clip| self.clips[clip].clone()).collect();
    }
}

/// A square matrix; a first column of names is known by the empty cell above it.
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
    Ok(Judgments { clips, values })
}

/// Similarity from odd-one-out choices: how often a pair was kept, of the times that it was shown. Trials that show a
/// clip twice are left out. Clips come in the order of their numbers, or of their names.
fn triplets(path: &Path, reader: &mut csv::Reader<std::fs::File>, columns: &Columns) -> Result<Judgments> {
    let names = match columns.find("odd_one") {
        Some(_) => ["clip_1", "clip_2", "clip_3", "odd_one"],
        None => ["stim1_name", "stim2_name", "stim3_name", "choice"],
    };
    let shown = [columns.need(names[0])?, columns.need(names[1])?, columns.need(names[2])?];
    let odd = columns.need(names[3])?;
    let mut trials: Vec<([String; 3], String)> = Vec::new();
    for (line, row) in reader.records().enumerate() {
        let row = row.map_err(|error| broken(path, &error))?;
        let place = || format!("`{}`, line {}", path.display(), line + 2);
        let cells = [shown[0], shown[1], shown[2], odd].map(|column| row.get(column).unwrap_or("").trim().to_owned());
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
        if clips[0] != clips[1] && clips[0] != clips[2] && clips[1] != clips[2] {
            trials.push((clips, odd));
        }
    }
    let mut clips: Vec<String> = trials.iter().flat_map(|(clips, _)| clips.clone()).collect();
    clips.sort_by_cached_key(|clip| (clip.parse::<u64>().unwrap_or(u64::MAX), clip.clone()));
    clips.dedup();
    if clips.len().pow(2) > CELLS_PER_TRIAL * trials.len() {
        return Err(StageError::hint(
            format!("`{}` has {} trials for {} clips, too few for a matrix", path.display(), trials.len(), clips.len()),
            "give more trials, or those of fewer clips",
        ));
    }
    let places: HashMap<&str, usize> = clips.iter().enumerate().map(|(place, clip)| (clip.as_str(), place)).collect();
    let count = clips.len();
    let (mut kept, mut seen) = (vec![0u32; count * count], vec![0u32; count * count]);
    for (shown, odd) in &trials {
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let (i, j) = (places[shown[a].as_str()], places[shown[b].as_str()]);
            let together = shown[a] != *odd && shown[b] != *odd;
            for cell in [i * count + j, j * count + i] {
                seen[cell] += 1;
                kept[cell] += u32::from(together);
            }
        }
    }
    let mut values: Vec<Option<f64>> =
        kept.iter().zip(&seen).map(|(&kept, &seen)| (seen > 0).then(|| f64::from(kept) / f64::from(seen))).collect();
    (0..count).for_each(|clip| values[clip * count + clip] = Some(1.0));
    Ok(Judgments { clips, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judgments(text: &str) -> Result<Judgments> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.csv");
        std::fs::write(&path, text).unwrap();
        Judgments::read(&path, None)
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
    fn triplets_give_kept_over_shown() {
        let text = "participant,clip_1,clip_2,clip_3,odd_one\n0,10,9,2,9\n1,2,9,10,2\n1,2,2,9,9\n";
        let mut found = judgments(text).unwrap();
        assert_eq!(found.clips, ["2", "9", "10"]);
        let rounds =
            [Some(1.0), Some(0.0), Some(0.5), Some(0.0), Some(1.0), Some(0.5), Some(0.5), Some(0.5), Some(1.0)];
        assert_eq!(found.values, rounds);
        let other = text.replace("clip_1,clip_2,clip_3,odd_one", "stim1_name,stim2_name,stim3_name,choice");
        assert_eq!(judgments(&other).unwrap(), found);
        found.keep(|clip| clip != "9");
        assert_eq!(found.values, [Some(1.0), Some(0.5), Some(0.5), Some(1.0)]);
        assert!(
            judgments("clip_1,clip_2,clip_3,odd_one\n1,2,3,4\n").unwrap_err().to_string().contains("none of the three")
        );
    }
}
