//! Ranks and rank correlation.

use super::distributions::student_t_two_sided;

/// Average ranks from 1 (ties share the mean of their places). Values must be finite.
pub fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..].iter().take_while(|&&i| values[i] == values[order[start]]).count();
        let rank = start as f64 + (tied as f64 + 1.0) / 2.0;
        order[start..start + tied].iter().for_each(|&i| ranks[i] = rank);
        start += tied;
    }
    ranks
}

/// Pearson correlation; `None` when fewer than two values or one side does not vary.
pub fn pearson(left: &[f64], right: &[f64]) -> Option<f64> {
    let count = left.len() as f64;
    if left.len() < 2 || left.len() != right.len() {
        return None;
    }
    let (mean_left, mean_right) = (left.iter().sum::<f64>() / count, right.iter().sum::<f64>() / count);
    let (mut product, mut square_left, mut square_right) = (0.0, 0.0, 0.0);
    for (l, r) in left.iter().zip(right) {
        let (l, r) = (l - mean_left, r - mean_right);
        product += l * r;
        square_left += l * l;
        square_right += r * r;
    }
    let scale = (square_left * square_right).sqrt();
    (scale > 0.0).then(|| (product / scale).clamp(-1.0, 1.0))
}

/// Spearman's correlation of average ranks and its two-sided p from Student's t, as `scipy.stats.spearmanr` gives it.
/// The p treats the values as independent, which the pairs of a similarity matrix are not.
pub fn spearman(left: &[f64], right: &[f64]) -> Option<(f64, f64)> {
    let rho = pearson(&average_ranks(left), &average_ranks(right))?;
    let freedom = left.len() as f64 - 2.0;
    if freedom <= 0.0 {
        return None;
    }
    let t = rho * (freedom / ((rho + 1.0) * (1.0 - rho))).sqrt();
    Some((rho, if rho.abs() >= 1.0 { 0.0 } else { student_t_two_sided(t, freedom) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_their_mean_rank() {
        assert_eq!(average_ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0]);
        assert!(average_ranks(&[]).is_empty());
    }

    #[test]
    fn spearman_is_that_of_scipy() {
        // scipy 1.17: spearmanr([1, 2, 3, 4, 5, 6, 7], [2, 1, 4, 4, 7, 5, 6])
        let (rho, p) = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &[2.0, 1.0, 4.0, 4.0, 7.0, 5.0, 6.0]).unwrap();
        assert!((rho - 0.846_881_214_933_825_5).abs() < 1e-12, "{rho}");
        assert!((p - 0.016_197_127_467_871_63).abs() < 1e-10, "{p}");
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[5.0, 6.0, 7.0]), Some((1.0, 0.0)));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[5.0, 5.0, 5.0]), None);
    }
}
