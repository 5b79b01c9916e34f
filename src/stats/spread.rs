//! Mean, deviation and interval of repeated runs.

use super::distributions::student_t_quantile;

/// The part of intervals that hold the true mean when runs are drawn independently from a normal distribution.
pub const CONFIDENCE: f64 = 0.95;

/// What repeated runs (seeds) say of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Number of runs.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// What only two runs or more can tell.
    pub repeated: Option<Repeated>,
}

/// See [`Spread::repeated`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repeated {
    /// Standard deviation of a run (with `count - 1`).
    pub deviation: f64,
    /// Student's t interval of the mean: `mean ± t · deviation / √count`, with `count - 1` degrees of freedom.
    pub low: f64,
    /// See `low`.
    pub high: f64,
}

impl Spread {
    /// Of one value per run; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let repeated = (count > 1).then(|| {
            let freedom = (count - 1) as f64;
            let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom).sqrt();
            let reach = student_t_quantile(CONFIDENCE, freedom) * deviation / (count as f64).sqrt();
            Repeated { deviation, low: mean - reach, high: mean + reach }
        });
        (count > 0).then_some(Self { count, mean, repeated })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_scipy() {
        // scipy 1.17.1: x.mean(), x.std(ddof=1), scipy.stats.t.interval(0.95, len(x) - 1, loc=x.mean(), scale=scipy.stats.sem(x))
        for (values, mean, deviation, low, high) in [
            (
                &[2.39, 2.41, 2.47, 2.33, 2.44][..],
                2.408,
                0.053_103_672_189_407_03,
                2.342_063_082_069_999_2,
                2.473_936_917_930_001_5,
            ),
            (&[16.71, 16.75], 16.73, 0.028_284_271_247_461_298, 16.475_875_905_276_514, 16.984_124_094_723_487),
            (
                &[36.9, 37.1, 36.2],
                36.733_333_333_333_334,
                0.472_581_562_625_259_3,
                35.559_375_651_738_03,
                37.907_291_014_928_64,
            ),
        ] {
            let found = Spread::of(values).expect("has values");
            let repeated = found.repeated.expect("has two values or more");
            assert_eq!(found.count, values.len());
            for (ours, expected) in
                [(found.mean, mean), (repeated.deviation, deviation), (repeated.low, low), (repeated.high, high)]
            {
                assert!((ours - expected).abs() <= 1e-9 * expected, "{values:?}: {ours} against {expected}");
            }
        }
    }

    #[test]
    fn one_run_tells_no_spread() {
        assert_eq!(Spread::of(&[3.0]), Some(Spread { count: 1, mean: 3.0, repeated: None }));
        assert_eq!(Spread::of(&[]), None);
        let equal = Spread::of(&[1.5, 1.5]).and_then(|spread| spread.repeated);
        assert_eq!(equal, Some(Repeated { deviation: 0.0, low: 1.5, high: 1.5 }));
    }
}
