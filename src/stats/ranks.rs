//! Ranks and rank correlation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::distributions::student_t_two_sided;

/// How two rankings are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Statistic {
    /// Spearman's correlation: Pearson's of average ranks.
    #[default]
    Spearman,
    /// The expectation of Spearman's correlation when ties are broken at random: a model that predicts ties gains
    /// nothing by them (`rsatoolbox/rdm/compare.py`, `rho-a`).
    RhoA,
    /// Kendall's τ-a: concordant minus discordant pairs over all pairs.
    KendallTauA,
}

impl Statistic {
    /// Every statistic.
    pub const ALL: [Self; 3] = [Self::Spearman, Self::RhoA, Self::KendallTauA];

    /// As in config keys and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spearman => "spearman",
            Self::RhoA => "rho_a",
            Self::KendallTauA => "kendall_tau_a",
        }
    }

    /// The statistic of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|statistic| statistic.name() == name)
    }
}

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

/// Spearman's correlation of average ranks and its two-sided p, as `scipy.stats.spearmanr` gives them.
pub fn spearman(left: &[f64], right: &[f64]) -> Option<(f64, f64)> {
    let rho = pearson(&average_ranks(left), &average_ranks(right))?;
    (left.len() > 2).then(|| (rho, spearman_p(rho, left.len())))
}

/// The two-sided p of a Spearman correlation of `count` values (at least 3) from Student's t, as scipy gives it. It treats
/// the values as independent, which the pairs of a similarity matrix are not.
pub fn spearman_p(rho: f64, count: usize) -> f64 {
    let freedom = count as f64 - 2.0;
    let t = rho * (freedom / ((rho + 1.0) * (1.0 - rho))).sqrt();
    if rho.abs() >= 1.0 { 0.0 } else { student_t_two_sided(t, freedom) }
}

/// ρ-a: `12 Σ r̃ s̃ / (n³ − n)` of centred average ranks. `None` for fewer than two values.
pub fn rho_a(left: &[f64], right: &[f64]) -> Option<f64> {
    if left.len() < 2 || left.len() != right.len() {
        return None;
    }
    let count = left.len() as f64;
    let middle = (count + 1.0) / 2.0;
    let product: f64 =
        average_ranks(left).iter().zip(average_ranks(right)).map(|(l, r)| (l - middle) * (r - middle)).sum();
    Some(12.0 * product / (count * count * count - count))
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
