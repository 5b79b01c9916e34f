//! Representational similarity matrices.

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
}

/// Similarity of every pair of `rows` (equal lengths), row-major `[rows, rows]` with ones on the diagonal. `Err` is the
/// first row that has no similarity to anything (all zeros, or constant under Pearson).
pub fn matrix(rows: &[Vec<f64>], similarity: Similarity) -> Result<Vec<f64>, usize> {
    let units: Vec<Vec<f64>> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let mean = match similarity {
                Similarity::Cosine => 0.0,
                Similarity::Pearson => row.iter().sum::<f64>() / row.len() as f64,
            };
            let norm = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>().sqrt();
            let unit = row.iter().map(|x| (x - mean) / norm).collect();
            if norm > 0.0 && norm.is_finite() { Ok(unit) } else { Err(index) }
        })
        .collect::<Result<_, _>>()?;
    let count = units.len();
    let mut values = vec![1.0; count * count];
    for i in 0..count {
        for j in i + 1..count {
            let product: f64 = units[i].iter().zip(&units[j]).map(|(a, b)| a * b).sum();
            values[i * count + j] = product;
            values[j * count + i] = product;
        }
    }
    Ok(values)
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
        assert_eq!(upper_triangle(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
    }
}
