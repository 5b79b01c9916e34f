//! The model's side of a comparison with people: the vectors that an `embed` stage left, or a ready-made matrix, and the
//! similarity of clips that they give.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::embed::{Description, layer_named};
use super::{Inputs, Reference, Result, StageError};
use crate::npy::{self, Array};
use crate::social::columns::{Columns, broken};
use crate::social::judgments::Judgments;
use crate::social::packs::read_json;
use crate::social::pooling::Positions;
use crate::stats::rsm::{Similarity, matrix};
use crate::stats::triplets::Repeats;

/// Vectors of one pool.
pub(super) struct Embedded<'a> {
    folder: &'a Path,
    positions: Positions,
    similarity: Similarity,
    description: Description,
    /// Clip → row.
    rows: HashMap<String, usize>,
}

impl<'a> Embedded<'a> {
    /// Opens an artifact of kind `embeddings`.
    ///
    /// # Errors
    /// A file is missing or broken, or the pool was not embedded or is not defined.
    pub(super) fn open(folder: &'a Path, positions: Positions, similarity: Similarity) -> Result<Self> {
        let description: Description = read_json(&folder.join("embeddings.json"))?;
        let Some(state) = description.pools.iter().find(|state| state.positions == positions) else {
            return Err(StageError::hint(
                format!("pool `{}` was not embedded", positions.name()),
                "add it to `pools` of the `embed` stage",
            ));
        };
        if let Some(why) = &state.undefined {
            return Err(StageError::hint(
                format!("pool `{}` is not defined here: {why}", positions.name()),
                "choose another `pool` or `inject`",
            ));
        }
        let rows = clips(folder)?.into_iter().zip(0..).collect();
        Ok(Self { folder, positions, similarity, description, rows })
    }

    /// Whether the clip has a vector.
    pub(super) fn has(&self, clip: &str) -> bool {
        self.rows.contains_key(clip)
    }

    /// The wanted layers (all if not named), the `fixed` one among them, and the name of that one.
    ///
    /// # Errors
    /// A layer that was not embedded.
    pub(super) fn layers(&self, fixed: &str, wanted: Option<&[String]>) -> Result<(Vec<String>, String)> {
        let named = |text: &str| {
            layer_named(text, &self.description.layers).ok_or_else(|| {
                StageError::hint(
                    format!("there is no layer `{text}`"),
                    format!(
                        "layers are `{}`; set `modules` in the `embed` stage for outputs inside of layers",
                        self.description.layers.join("`, `")
                    ),
                )
            })
        };
        let fixed = named(fixed)?;
        let mut layers = match wanted {
            Some(layers) => layers.iter().map(|layer| named(layer)).collect::<Result<Vec<_>>>()?,
            None => self.description.layers.clone(),
        };
        if !layers.contains(&fixed) {
            layers.push(fixed.clone());
        }
        Ok((layers, fixed))
    }

    /// Similarity `[clips, clips]` of these clips in a layer; the inner `Err` names a clip that has none.
    ///
    /// # Errors
    /// A clip without a vector, or an array that is missing.
    pub(super) fn similarity(&self, clips: &[String], layer: &str) -> Result<std::result::Result<Vec<f64>, String>> {
        let name = format!("{}.{layer}", self.positions.name());
        let table = vectors(self.folder, &name, self.rows.len())?;
        let rows = clips.iter().map(|clip| {
            let row = self.rows.get(clip).ok_or_else(|| {
                StageError::hint(
                    format!("judged clip `{clip}` has no vector"),
                    "embed every judged clip (`split = \"all\"`), set `clips = \"common\"` to leave others out, or give \
                     `names` if the judgments name clips by number",
                )
            })?;
            Ok(table.row(*row).iter().map(|&value| f64::from(value)).collect())
        });
        let rows = rows.collect::<Result<Vec<Vec<f64>>>>()?;
        Ok(matrix(&rows, self.similarity).map_err(|row| clips[row].clone()))
    }
}

/// The clips of an artifact of kind `embeddings`, in the order of its rows.
///
/// # Errors
/// The table is missing or broken, or a clip stands twice in it.
pub(super) fn clips(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join("clips.csv");
    let mut reader = csv::Reader::from_path(&path).map_err(|error| broken(&path, &error))?;
    let id = Columns::of(&path, &mut reader)?.need("clip_id")?;
    let rows = reader.records().map(|row| Ok(row.map_err(|error| broken(&path, &error))?[id].to_owned()));
    let clips = rows.collect::<Result<Vec<String>>>()?;
    let mut seen = HashSet::new();
    match clips.iter().find(|clip| !seen.insert(*clip)) {
        Some(twice) => Err(StageError::new(format!("clip `{twice}` stands twice in `{}`", path.display()))),
        None => Ok(clips),
    }
}

/// The vectors `[clips, hidden]` called `name` of an artifact of kind `embeddings` that has so many clips.
///
/// # Errors
/// The array is missing or broken, or has another number of rows.
pub(super) fn vectors(folder: &Path, name: &str, clips: usize) -> Result<Array<f32>> {
    let path = folder.join("embeddings.npz");
    let table: Array<f32> = npy::read_npz_array(&path, name)?.ok_or_else(|| {
        StageError::hint(
            format!("`{}` has no vectors `{name}`", folder.display()),
            "look into its `embeddings.json`: it says which pools and layers there are, and why others are not",
        )
    })?;
    if table.shape.len() != 2 || table.shape[0] != clips {
        let shape = &table.shape;
        let message = format!("`{}`: `{name}` has shape {shape:?} but `clips.csv` names {clips} clips", path.display());
        return Err(StageError::new(message));
    }
    Ok(table)
}

/// Whose similarity is compared: settings of the stages that compare it with people's.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Compared {
    /// Pooled vectors; or give `matrix`.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["embeddings"]))]
    pub embeddings: Option<Reference>,
    /// A ready-made similarity matrix instead of vectors: what another program, a simulation or other people say of the
    /// same clips, in the forms of `human`, by the clips' names. It is one layer, called `matrix`.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["judgments"]))]
    pub matrix: Option<Reference>,
    /// Of a folder given as `matrix`, this file.
    #[serde(default)]
    pub matrix_file: Option<String>,
}

impl Compared {
    /// One of the two must be given.
    pub(super) fn check(&self) -> Result<()> {
        let what = match (&self.embeddings, &self.matrix) {
            (None, None) => "neither `embeddings` nor `matrix` is given",
            (Some(_), Some(_)) => "both `embeddings` and `matrix` are given",
            _ => return Ok(()),
        };
        Err(StageError::hint(what, "give the vectors of an `embed` stage, or a similarity matrix"))
    }
}

/// What human judgments are compared with.
pub(super) enum Model<'a> {
    /// Pooled vectors.
    Vectors(Embedded<'a>),
    /// A similarity matrix from elsewhere: one layer, called [`MATRIX`].
    Matrix(Judgments),
}

/// The one layer of a ready-made matrix.
const MATRIX: &str = "matrix";

impl<'a> Model<'a> {
    /// Opens the input `matrix`, of which `repeats` counts if it is made of trials; or `embeddings`.
    ///
    /// # Errors
    /// What [`Judgments::read`] or [`Embedded::open`] finds wrong.
    pub(super) fn open(
        inputs: &'a Inputs,
        compared: &Compared,
        (positions, similarity): (Positions, Similarity),
        repeats: Repeats,
    ) -> Result<Self> {
        match inputs.optional("matrix") {
            Some(matrix) => {
                let file = compared.matrix_file.as_deref();
                Ok(Self::Matrix(Judgments::read(&matrix.path, file, None, repeats)?))
            }
            None => Ok(Self::Vectors(Embedded::open(&inputs.get("embeddings")?.path, positions, similarity)?)),
        }
    }

    /// Whether the clip has a vector, or a row.
    pub(super) fn has(&self, clip: &str) -> bool {
        match self {
            Self::Vectors(vectors) => vectors.has(clip),
            Self::Matrix(matrix) => matrix.clips.iter().any(|known| known == clip),
        }
    }

    /// See [`Embedded::layers`].
    pub(super) fn layers(&self, fixed: &str, wanted: Option<&[String]>) -> Result<(Vec<String>, String)> {
        match self {
            Self::Vectors(vectors) => vectors.layers(fixed, wanted),
            Self::Matrix(_) => Ok((vec![MATRIX.to_owned()], MATRIX.to_owned())),
        }
    }

    /// See [`Embedded::similarity`].
    pub(super) fn similarity(&self, clips: &[String], layer: &str) -> Result<std::result::Result<Vec<f64>, String>> {
        match self {
            Self::Vectors(vectors) => vectors.similarity(clips, layer),
            Self::Matrix(matrix) => of_matrix(matrix, clips).map(Ok),
        }
    }
}

/// The part `[clips, clips]` of a ready-made matrix, 1 on the diagonal.
fn of_matrix(matrix: &Judgments, clips: &[String]) -> Result<Vec<f64>> {
    let places: HashMap<&str, usize> = matrix.clips.iter().map(String::as_str).zip(0..).collect();
    let place = |clip: &String| {
        places.get(clip.as_str()).copied().ok_or_else(|| {
            StageError::hint(
                format!("judged clip `{clip}` has no row in `matrix`"),
                "give a matrix of every judged clip, or set `clips = \"common\"` to leave others out",
            )
        })
    };
    let rows = clips.iter().map(place).collect::<Result<Vec<usize>>>()?;
    let mut values = Vec::with_capacity(rows.len() * rows.len());
    for (i, &row) in rows.iter().enumerate() {
        for (j, &column) in rows.iter().enumerate() {
            let value = if i == j { Some(1.0) } else { matrix.values[row * matrix.clips.len() + column] };
            values.push(value.ok_or_else(|| {
                StageError::hint(
                    format!("`matrix` has no similarity of `{}` and `{}`", clips[i], clips[j]),
                    "fill its empty cells: the model's side has a value for every pair",
                )
            })?);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_clips_names_each_once_and_fits_its_vectors() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let table = |text: &str| std::fs::write(folder.path().join("clips.csv"), text).expect("writes");
        let array = Array::new([2, 2], vec![1.0, 0.0, 0.0, 1.0]);
        npy::write_npz(&folder.path().join("embeddings.npz"), [("all.last", &array)]).expect("writes");
        table("clip_id\na\nb\na\n");
        let error = clips(folder.path()).expect_err("which row is `a`?").to_string();
        assert!(error.contains("clip `a` stands twice in"), "{error}");
        table("clip_id\na\nb\n");
        let clips = clips(folder.path()).expect("reads");
        assert_eq!(clips, ["a", "b"]);
        let read = |name: &str, clips: usize| vectors(folder.path(), name, clips).map_err(|error| error.to_string());
        assert_eq!(read("all.last", 2).expect("reads").values, array.values);
        let error = read("all.last", 3).expect_err("a clip too many");
        assert!(error.contains("shape [2, 2] but `clips.csv` names 3 clips"), "{error}");
        assert!(read("all.0", 2).expect_err("no such layer").contains("has no vectors `all.0`"));
    }
}
