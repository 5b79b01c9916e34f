//! From values to places: ticks at round numbers, linear or logarithmic.

/// The span of an axis and where it lies on the sheet.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
    /// Values with a label.
    pub ticks: Vec<f64>,
}

impl Scale {
    /// A linear scale that holds all of `values` (and what they touch), from place `from` to place `to`, with about
    /// `count` ticks at round numbers.
    pub fn linear(values: impl IntoIterator<Item = f64>, from: f64, to: f64, count: usize) -> Self {
        let (low, high) = span(values);
        let (low, high) =
            if low == high { (low - 0.5 * low.abs().max(1.0), high + 0.5 * high.abs().max(1.0)) } else { (low, high) };
        let step = round_step((high - low) / count.max(1) as f64);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let ticks: Vec<f64> = (first as i64..=last as i64).map(|place| place as f64 * step).collect();
        Self { low: first * step, high: last * step, from, to, logarithmic: false, ticks }
    }

    /// A logarithmic scale with ticks at powers of ten (or 1, 2, 5 of each when there are few). Values must be positive.
    pub fn logarithmic(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = span(values.into_iter().filter(|value| *value > 0.0));
        let (low, high) = if low > 0.0 { (low, high.max(low * 1.5)) } else { (0.1, 1.0) };
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let steps: &[f64] = if last - first <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let all = (first..=last).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
        let thin = usize::try_from((last - first) / 8 + 1).unwrap_or(1);
        let ticks: Vec<f64> =
            all.filter(|tick| *tick >= low / 1.0001 && *tick <= high * 1.0001).step_by(thin).collect();
        Self { low, high, from, to, logarithmic: true, ticks }
    }

    /// Places for `count` items side by side; the ticks are their numbers.
    pub fn places(count: usize, from: f64, to: f64) -> Self {
        let last = count.saturating_sub(1).max(1) as f64;
        let ticks = (0..count).map(|place| place as f64).collect();
        Self { low: 0.0, high: last, from, to, logarithmic: false, ticks }
    }

    /// Where a value lies on the sheet.
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.low * 1e-3) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// The text of a tick: as many decimals as tell ticks apart.
    pub fn label(&self, tick: f64) -> String {
        let most = if self.logarithmic { 1e5 } else { 1e7 };
        if tick != 0.0 && (tick.abs() >= most || tick.abs() < 1e-4) {
            return format!("{tick:.0e}").replace('-', "−");
        }
        let step = if self.logarithmic {
            tick
        } else {
            self.ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(1.0, f64::min)
        };
        let decimals = if step <= 0.0 { 0 } else { (-(step * 1.000_001).log10().floor()).clamp(0.0, 8.0) as usize };
        let text = format!("{tick:.decimals$}").replace('-', "−");
        if text.trim_start_matches('−').chars().all(|digit| matches!(digit, '0' | '.')) {
            text.replace('−', "")
        } else {
            text
        }
    }
}

fn span(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|value| value.is_finite());
    let (low, high) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|round| *round >= step * 0.999_999)
        .unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_every_value() {
        let scale = Scale::linear([0.12, 0.87], 0.0, 100.0, 5);
        assert_eq!(
            scale.ticks.iter().map(|&tick| scale.label(tick)).collect::<Vec<_>>(),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert!((scale.at(0.5) - 50.0).abs() < 1e-9);
        let scale = Scale::linear([-0.03, 0.05], 0.0, 1.0, 4);
        assert_eq!(scale.label(scale.ticks[0]), "−0.04");
        assert!(scale.ticks.iter().any(|&tick| scale.label(tick) == "0.00"));
        assert_eq!(Scale::linear([3.0], 0.0, 1.0, 4).at(3.0), 0.5);
        assert_eq!(Scale::linear([], 0.0, 1.0, 5).ticks.len(), 6);
    }

    #[test]
    fn logarithms_go_by_powers() {
        let scale = Scale::logarithmic([1.0, 1000.0], 0.0, 3.0);
        assert_eq!(scale.ticks, [1.0, 10.0, 100.0, 1000.0]);
        assert!((scale.at(100.0) - 2.0).abs() < 1e-9);
        assert_eq!(scale.label(0.01), "0.01");
    }
}
