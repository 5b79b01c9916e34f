//! `compare_embeddings`: how far two sets of representations of the same clips are apart.
//!
//! The statistics of the original's `compare_soc_embeddings.py`: mean, deviation and largest |Δ| over all values, the
//! relative change ‖Δ‖ / ‖first‖ (Frobenius), the cosine of each clip's two vectors (mean and deviation), Spearman's
//! correlation of the flattened matrices, the Frobenius norm of Δ, and the number of dimensions whose mean |Δ| is above
//! .01, .05 and .10. Δ is second − first.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Inputs, Reference, Result, Stage, StageError, Summary, embedded};
use crate::npy::{self, Array};
use crate::social::columns::broken;
use crate::social::pooling::Pool;
use crate::stats::ranks::spearman;

/// See the module.
pub struct CompareEmbeddings;

/// Settings of `compare_embeddings`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Pooled vectors.
    #[schemars(extend("x-accepts" = ["embeddings"]))]
    pub first: Reference,
    /// Pooled vectors of the same clips.
    #[schemars(extend("x-accepts" = ["embeddings"]))]
    pub second: Reference,
    /// Which positions the vectors are means of.
    #[serde(default = "pool")]
    pub pool: Pool,
    /// For `second`, where it differs: `only_soc` against `all`.
    #[serde(default)]
    pub second_pool: Option<Pool>,
    /// `last`, or a layer's number.
    #[serde(default = "layer")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub layer: String,
}

fn pool() -> Pool {
    Pool::All
}

fn layer() -> String {
    "last".to_owned()
}

/// Bounds of the mean |Δ| of a dimension, with the names of their figures.
const BOUNDS: [(f64, &str); 3] = [(0.01, "dims_above_001"), (0.05, "dims_above_005"), (0.10, "dims_above_010")];

impl Stage for CompareEmbeddings {
    const KIND: &'static str = "compare_embeddings";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Tells how far two sets of representations of the same clips are apart";
    const GIVES: &'static [&'static str] = &["embedding_comparison"];
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &super::Upstream) {
        if config.second_pool == Some(config.pool) {
            config.second_pool = None;
        }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let (first, second) = (&inputs.get("first")?.path, &inputs.get("second")?.path);
        let clips = embedded::clips(first)?;
        let places: HashMap<String, usize> = embedded::clips(second)?.into_iter().zip(0..).collect();
        let order: Vec<usize> = clips.iter().map(|clip| place(&places, clip)).collect::<Result<_>>()?;
        if places.len() != clips.len() {
            return Err(other_clips(&format!("`first` has {} clips and `second` {}", clips.len(), places.len())));
        }
        let name = |pool: Pool| format!("{}.{}", pool.name(), config.layer);
        let left = embedded::vectors(first, &name(config.pool), clips.len())?;
        let right = embedded::vectors(second, &name(config.second_pool.unwrap_or(config.pool)), clips.len())?;
        if left.shape[1] != right.shape[1] {
            return Err(StageError::hint(
                format!("the vectors have {} and {} values", left.shape[1], right.shape[1]),
                "compare embeddings of one language model",
            ));
        }
        let values: Vec<f32> = order.iter().flat_map(|&row| right.row(row).to_vec()).collect();
        let right = Array::new(left.shape.clone(), values);
        let compared = compare(&left, &right);
        write(context, &clips, &left, &right, &compared)?;
        Ok(compared.figures)
    }
}

struct Compared {
    figures: Summary,
    /// Cosine of each clip's vectors.
    cosines: Vec<f64>,
    /// ‖Δ‖ of each clip.
    lengths: Vec<f64>,
}

fn compare(left: &Array<f32>, right: &Array<f32>) -> Compared {
    let [rows, width] = [left.shape[0], left.shape[1]];
    let wide = |array: &Array<f32>| array.values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    let (first, second) = (wide(left), wide(right));
    let delta: Vec<f64> = first.iter().zip(&second).map(|(first, second)| second - first).collect();
    let sizes: Vec<f64> = delta.iter().map(|delta| delta.abs()).collect();
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let cosine = |row: usize| {
        let (a, b) = (&first[row * width..(row + 1) * width], &second[row * width..(row + 1) * width]);
        a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (norm(a) * norm(b))
    };
    let cosines: Vec<f64> = (0..rows).map(cosine).collect();
    let lengths: Vec<f64> = delta.chunks(width).map(norm).collect();
    let by_dimension: Vec<f64> =
        (0..width).map(|column| (0..rows).map(|row| sizes[row * width + column]).sum::<f64>() / rows as f64).collect();
    let (mean, deviation) = spread(&sizes);
    let (cosine, cosine_deviation) = spread(&cosines);
    let mut figures = Summary::new();
    // JSON has no NaN: a cosine of a zero vector, a correlation of constants become null.
    let mut put = |name: &str, value: f64| figures.insert(name.to_owned(), value.into());
    put("mean_change", mean);
    put("change_deviation", deviation);
    put("largest_change", sizes.iter().copied().fold(0.0, f64::max));
    put("relative_change", norm(&delta) / norm(&first));
    put("frobenius", norm(&delta));
    put("cosine", cosine);
    put("cosine_deviation", cosine_deviation);
    put("spearman", spearman(&first, &second).map_or(f64::NAN, |(rho, _)| rho));
    for (bound, name) in BOUNDS {
        put(name, by_dimension.iter().filter(|&&size| size > bound).count() as f64);
    }
    figures.insert("clips".into(), rows.into());
    figures.insert("dims".into(), width.into());
    Compared { figures, cosines, lengths }
}

/// Mean and standard deviation (of all values, as NumPy's default).
fn spread(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt())
}

/// `comparison_stats.csv` (statistic, value), `items.csv` (clip by clip), `embedding_delta.npz` (`delta`, `first`, `second`).
fn write(context: &Context, clips: &[String], left: &Array<f32>, right: &Array<f32>, found: &Compared) -> Result<()> {
    let path = context.folder().join("comparison_stats.csv");
    let failed = |error: csv::Error| broken(&path, &error);
    let mut out = csv::Writer::from_path(&path).map_err(failed)?;
    out.write_record(["statistic", "value"]).map_err(failed)?;
    for (name, value) in &found.figures {
        out.write_record([name.as_str(), &value.to_string()]).map_err(failed)?;
    }
    out.flush().map_err(StageError::io(&path))?;
    let path = context.folder().join("items.csv");
    let failed = |error: csv::Error| broken(&path, &error);
    let mut out = csv::Writer::from_path(&path).map_err(failed)?;
    out.write_record(["clip_id", "cosine", "length_of_change"]).map_err(failed)?;
    for ((clip, cosine), length) in clips.iter().zip(&found.cosines).zip(&found.lengths) {
        out.write_record([clip, &cosine.to_string(), &length.to_string()]).map_err(failed)?;
    }
    out.flush().map_err(StageError::io(&path))?;
    let delta = left.values.iter().zip(&right.values).map(|(first, second)| second - first).collect();
    let delta = Array::new(left.shape.clone(), delta);
    let arrays = [("delta", &delta), ("first", left), ("second", right)];
    Ok(npy::write_npz(&context.folder().join("embedding_delta.npz"), arrays)?)
}

fn place(places: &HashMap<String, usize>, clip: &str) -> Result<usize> {
    places.get(clip).copied().ok_or_else(|| other_clips(&format!("`second` has no clip `{clip}`")))
}

fn other_clips(what: &str) -> StageError {
    StageError::hint(what, "embed the same `split` of the same text in both")
}

#[cfg(test)]
mod tests {
    use super::super::Input;
    use super::*;

    /// numpy 2.4.6 and scipy 1.17.1 of the same two matrices:
    /// `d = b - a; abs(d).mean(), abs(d).std(), abs(d).max(), norm(d)/norm(a), norm(d), spearmanr(a.ravel(), b.ravel())`.
    #[test]
    fn the_statistics_are_those_of_numpy() {
        let left = Array::new([2, 3], vec![1.0f32, 2.0, 3.0, -1.0, 0.5, 4.0]);
        let right = Array::new([2, 3], vec![1.5f32, 2.0, 2.75, -1.0, 0.25, 5.0]);
        let found = compare(&left, &right);
        let of = |name: &str| found.figures[name].as_f64().unwrap();
        let expected = [
            ("mean_change", 0.333_333_333_333_333_3),
            ("change_deviation", 0.343_592_135_468_138_4),
            ("largest_change", 1.0),
            ("relative_change", 0.209_761_769_634_030_32),
            ("frobenius", 1.172_603_939_955_857_4),
            ("cosine", 0.992_547_847_195_490_8),
            ("spearman", 1.0),
        ];
        for (name, value) in expected {
            assert!((of(name) - value).abs() < 1e-12, "{name}: {} and not {value}", of(name));
        }
        assert_eq!((of("dims_above_001"), of("dims_above_010")), (3.0, 3.0));
        assert_eq!(found.figures["dims"], 3);
    }

    #[test]
    fn clips_are_matched_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, order: &str, rows: Vec<f32>| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("clips.csv"), format!("clip_id,row\n{order}")).unwrap();
            let array = Array::new([2, 2], rows);
            npy::write_npz(&path.join("embeddings.npz"), [("all.last", &array)]).unwrap();
            path
        };
        let first = made("first", "a,0\nb,1\n", vec![1.0, 0.0, 0.0, 1.0]);
        let second = made("second", "b,0\na,1\n", vec![0.0, 1.0, 1.0, 0.0]);
        let mut inputs = Inputs::default();
        for (field, path) in [("first", first), ("second", second.clone())] {
            inputs.insert(field, Input { reference: String::new(), path, digest: String::new() });
        }
        let config: Config =
            serde_json::from_value(serde_json::json!({"first": "stage:a", "second": "stage:b"})).unwrap();
        let out = folder.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let figures = CompareEmbeddings::run(&config, &inputs, &Context::plain(&out, "cpu")).unwrap();
        assert_eq!((figures["frobenius"].as_f64(), figures["cosine"].as_f64()), (Some(0.0), Some(1.0)));
        assert!(out.join("comparison_stats.csv").is_file() && out.join("embedding_delta.npz").is_file());
        std::fs::write(second.join("clips.csv"), "clip_id,row\nb,0\nc,1\n").unwrap();
        let error = CompareEmbeddings::run(&config, &inputs, &Context::plain(&out, "cpu")).unwrap_err().to_string();
        assert!(error.contains("no clip `a`"), "{error}");
    }
}
