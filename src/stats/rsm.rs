//! Representational similarity matrices.

use rayon::prelude::*;

/// How two pooled vectors are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Similarity {
    /// Cosine of the angle between them.
    #[default]
    Cosine,
    /// Pearson correlation over their dimensions.
    Pearson,
    /// Minus the Euclidean distance.
    Euclidean,
}

/// Similarity of every pair of `rows` (equal lengths), row-major `[rows, rows]` with that of a row to itself on the
/// diagonal (1, or 0 under [`Similarity::Euclidean`]). `Err` is the first row that has no similarity to anything (a value
/// that is not finite; all zeros under cosine; constant under Pearson).
pub fn matrix(rows: &[Vec<f64>], similarity: Similarity) -> Result<Vec<f64>, usize> {
    let prepared: Vec<Vec<f64>> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let mean = match similarity {
                Similarity::Pearson => row.iter().sum::<f64>() / row.len() as f64,
                Similarity::Cosine | Similarity::Euclidean => 0.0,
            };
            let norm = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>().sqrt();
            let scale = if similarity == Similarity::Euclidean { 1.0 } else { norm };
            let prepared = row.iter().map(|x| (x - mean) / scale).collect();
            if scale > 0.0 && norm.is_finite() { Ok(prepared) } else { Err(index) }
        })
        .collect::<Result<_, _>>()?;
    let count = prepared.len();
    let of = |a: &[f64], b: &[f64]| match similarity {
        Similarity::Euclidean => -a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt(),
        Similarity::Cosine | Similarity::Pearson => a.iter().zip(b).map(|(a, b)| a * b).sum(),
    };
    let own = if similarity == Similarity::Euclidean { 0.0 } else { 1.0 };
    let upper: Vec<Vec<f64>> =
        (0..count).into_par_iter().map(|i| (i + 1..count).map(|j| of(&prepared[i], &prepared[j])).collect()).collect();
    let mut values = vec![own; count * count];
    for (i, row) in upper.iter().enumerate() {
        for (j, &value) in (i + 1..count).zip(row) {
            values[i * count + j] = value;
            values[j * count + i] = value;
        }
    }
    Ok(values)
}

/// The strict upper triangle of a square matrix, in row order.
pub fn triangle(matrix: &[f64], count: usize) -> Vec<f64> {
    upper_triangle(count).map(|(i, j)| matrix[i * count + j]).collect()
}

/// The pairs (i, j), i < j, of the strict upper triangle, in row order.
pub fn upper_triangle(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |i| (i + 1..count).map(move |j| (i, j)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_and_pearson_differ_by_the_mean() {
        let rows = vec![vec![1.0, 2.0, 3.0], vec![2.0, 4.0, 6.0], vec![3.0, 2.0, 1.0]];
        let cosine = matrix(&rows, Similarity::Cosine).unwrap();
        assert!((cosine[1] - 1.0).abs() < 1e-12 && (cosine[2] - 10.0 / 14.0).abs() < 1e-12, "{cosine:?}");
        let correlation = matrix(&rows, Similarity::Pearson).unwrap();
        assert!((correlation[1] - 1.0).abs() < 1e-12 && (correlation[2] + 1.0).abs() < 1e-12);
        assert_eq!(matrix(&[vec![1.0, 1.0], vec![2.0, 2.0]], Similarity::Pearson), Err(0));
        let distance = matrix(&rows, Similarity::Euclidean).unwrap();
        assert_eq!((distance[0], distance[2]), (0.0, -(8f64.sqrt())));
        assert_eq!(matrix(&[vec![0.0, 0.0], vec![3.0, 4.0]], Similarity::Euclidean).unwrap(), [0.0, -5.0, -5.0, 0.0]);
        assert_eq!(matrix(&[vec![0.0, 0.0]], Similarity::Cosine), Err(0));
        assert_eq!(triangle(&cosine, 3), [cosine[1], cosine[2], cosine[5]]);
        assert_eq!(upper_triangle(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
    }
}
