//! Cluster bootstrap of a ratio of sums, and corrections for many tests.

use super::random::Streams;

/// Replicates of `sum(numerators) / sum(denominators)` over clusters drawn with replacement, in order of replicate.
/// Replicate r depends on the streams and r only; a cluster of which nothing is drawn cannot make the ratio undefined
/// as long as every denominator is positive.
pub fn ratio_replicates(numerators: &[f64], denominators: &[f64], replicates: usize, streams: &Streams) -> Vec<f64> {
    (0..replicates)
        .map(|replicate| {
            let mut stream = streams.at(0, replicate as u64, "bootstrap");
            let (mut numerator, mut denominator) = (0.0, 0.0);
            for _ in 0..numerators.len() {
                let drawn = stream.below(numerators.len());
                numerator += numerators[drawn];
                denominator += denominators[drawn];
            }
            numerator / denominator
        })
        .collect()
}

/// The value below which the share `share` of `sorted` lies (linear interpolation, as NumPy's default).
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let low = place.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (place - low as f64) * (sorted[high] - sorted[low])
}

/// Two-sided p of "the statistic is 0" from bootstrap replicates: twice the smaller share on either side of 0, with one
/// added to counts and number so that it is never 0.
pub fn two_sided_p(replicates: &[f64]) -> f64 {
    let below = replicates.iter().filter(|&&value| value <= 0.0).count();
    let above = replicates.iter().filter(|&&value| value >= 0.0).count();
    (2.0 * (below.min(above) as f64 + 1.0) / (replicates.len() as f64 + 1.0)).min(1.0)
}

/// p of two one-sided tests that the statistic lies within ± `margin`, from bootstrap replicates: the larger of the shares
/// on the far side of either bound, with one added to counts and number. Below α exactly when the interval of share 1 − 2α
/// of the replicates lies within, up to the added one.
pub fn equivalence_p(replicates: &[f64], margin: f64) -> f64 {
    let below = replicates.iter().filter(|&&value| value <= -margin).count();
    let above = replicates.iter().filter(|&&value| value >= margin).count();
    (below.max(above) as f64 + 1.0) / (replicates.len() as f64 + 1.0)
}

/// Holm's step-down adjustment of p values, in their order.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest: f64 = 0.0;
    for (place, &index) in order.iter().enumerate() {
        largest = largest.max((p_values.len() - place) as f64 * p_values[index]).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate() {
        let sorted = [0.0, 1.0, 2.0, 4.0];
        assert_eq!([0.0, 0.5, 1.0].map(|share| percentile(&sorted, share)), [0.0, 1.5, 4.0]);
        assert_eq!(percentile(&[3.0], 0.975), 3.0);
    }

    #[test]
    fn holm_steps_down() {
        assert_eq!(holm(&[0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]);
        assert_eq!(holm(&[0.6, 0.7]), [1.0, 1.0]);
    }

    #[test]
    fn the_interval_has_the_width_of_the_standard_error() {
        let streams = Streams::new(3, "test");
        let mut stream = streams.named("data");
        let values: Vec<f64> = (0..400).map(|_| 1.0 + stream.normal()).collect();
        let mean = values.iter().sum::<f64>() / 400.0;
        let mut replicates = ratio_replicates(&values, &[1.0; 400], 4000, &streams);
        assert_eq!(replicates, ratio_replicates(&values, &[1.0; 400], 4000, &streams));
        replicates.sort_by(f64::total_cmp);
        let half = (percentile(&replicates, 0.975) - percentile(&replicates, 0.025)) / 2.0;
        assert!((half - 1.96 / 20.0).abs() < 0.01, "{half}");
        assert!((percentile(&replicates, 0.5) - mean).abs() < 0.01);
        assert!((two_sided_p(&replicates) - 2.0 / 4001.0).abs() < 1e-12);
        assert!(two_sided_p(&[-1.0, 1.0, -2.0, 2.0]) > 0.9);
    }

    #[test]
    fn replicates_of_uneven_clusters_are_those_of_all_resamples() {
        // All 5^5 resamples in Python, itertools.product: a = [1, -.5, .75, 2, -.25], b = [2, 1, 3, 4, 2]; mean, standard
        // deviation and shares of sum(a)/sum(b), np.percentile at 5 and 95.
        let streams = Streams::new(5, "test");
        let mut found = ratio_replicates(&[1.0, -0.5, 0.75, 2.0, -0.25], &[2.0, 1.0, 3.0, 4.0, 2.0], 200_000, &streams);
        found.sort_by(f64::total_cmp);
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        let deviation = (found.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / found.len() as f64).sqrt();
        assert!((mean - 0.229_398_8).abs() < 0.001 && (deviation - 0.140_936_3).abs() < 0.001, "{mean} {deviation}");
        assert!((two_sided_p(&found) - 2.0 * 0.066_24).abs() < 0.003, "{}", two_sided_p(&found));
        assert!((equivalence_p(&found, 0.45) - 0.027_84).abs() < 0.0015, "{}", equivalence_p(&found, 0.45));
        assert_eq!(percentile(&found, 0.05), -0.05);
        assert!((percentile(&found, 0.95) - 0.423_076_9).abs() < 1e-6);
    }
}
