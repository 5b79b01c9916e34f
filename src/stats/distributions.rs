//! Tails of probability distributions.

/// P(|T| ≥ |t|) of Student's t with `freedom` degrees of freedom.
pub fn student_t_two_sided(t: f64, freedom: f64) -> f64 {
    incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t))
}

/// The t that |T| of Student's t with `freedom` degrees of freedom stays below with probability `within`, more than 0 and less than 1.
pub fn student_t_quantile(within: f64, freedom: f64) -> f64 {
    let tail = 1.0 - within;
    let (mut low, mut high) = (0.0, 1.0);
    while student_t_two_sided(high, freedom) > tail && f64::is_finite(high) {
        (low, high) = (high, 2.0 * high);
    }
    // Until no number lies between the two.
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            return high;
        }
        if student_t_two_sided(middle, freedom) > tail { low = middle } else { high = middle }
    }
}

/// Regularised incomplete beta function I_x(a, b), by its continued fraction (Numerical Recipes 6.4, Lentz's method).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, 1.0 - x) / b
    }
}

fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut result = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        for numerator in [
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        ] {
            d = 1.0 / guard(1.0 + numerator * d);
            c = guard(1.0 + numerator / c);
            result *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    result
}

/// ln Γ(x) for x > 0 (Lanczos, g = 7, nine coefficients).
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let sum = COEFFICIENTS
        .iter()
        .enumerate()
        .fold(0.999_999_999_999_809_9, |sum, (i, coefficient)| sum + coefficient / (x + i as f64 + 1.0));
    let t = x + 7.5;
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_student_t_are_those_of_scipy() {
        // scipy 1.17.1: scipy.stats.t.ppf((1 + within) / 2, n)
        for (within, freedom, expected) in [
            (0.95, 1.0, 12.706_204_736_174_694),
            (0.95, 2.0, 4.302_652_729_749_462),
            (0.95, 4.0, 2.776_445_105_197_793_4),
            (0.95, 29.0, 2.045_229_642_132_703),
            (0.95, 1000.0, 1.962_339_080_826_408_3),
            (0.5, 3.0, 0.764_892_328_404_344_3),
            (0.999, 7.0, 5.407_882_520_861_828),
        ] {
            let t = student_t_quantile(within, freedom);
            assert!((t - expected).abs() <= 1e-9 * expected, "{within}, {freedom} degrees: {t} against {expected}");
        }
    }

    #[test]
    fn tails_of_student_t_are_those_of_scipy() {
        // scipy 1.17: 2 * scipy.stats.t.sf(t, n)
        for (t, freedom, expected) in [
            (0.0, 5.0, 1.0),
            (2.0, 3.0, 0.139_325_968_558_843_05),
            (1.96, 1000.0, 0.050_273_184_955_748_736),
            (0.115_509_4, 26.0, 0.908_928_877_925_536_9),
            (12.0, 19_898.0, 4.621_199_485_550_695e-33),
        ] {
            let p = student_t_two_sided(t, freedom);
            assert!((p - expected).abs() <= 1e-9 * expected, "t {t}, {freedom} degrees: {p} against {expected}");
        }
    }
}
