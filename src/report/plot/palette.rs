//! Colours that people with any colour vision tell apart: Okabe and Ito's for series, viridis for amounts.

/// Okabe and Ito's colours (jfly.uni-koeln.de/color, 2008) without yellow, which is lost on white.
const SERIES: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];

/// Dashes that tell series apart in print: none, then these when the colours begin again.
const DASHES: [&str; 3] = ["", "6 3", "2 3"];

/// The colour of the series of that number.
pub fn series(number: usize) -> &'static str {
    SERIES[number % SERIES.len()]
}

/// Its dashes.
pub fn dashes(number: usize) -> &'static str {
    DASHES[(number / SERIES.len()) % DASHES.len()]
}

/// How many series look different.
pub const DISTINCT: usize = SERIES.len();

/// Nine of viridis' colours (matplotlib, van der Walt and Smith 2015), evenly spaced; between them it is linear.
const VIRIDIS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 82, 139],
    [44, 114, 142],
    [33, 145, 140],
    [39, 173, 129],
    [94, 201, 98],
    [170, 220, 50],
    [253, 231, 37],
];

/// Red, green and blue of a share between 0 and 1.
pub fn viridis(share: f64) -> [u8; 3] {
    let place = share.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let low = (place.floor() as usize).min(VIRIDIS.len() - 2);
    let part = place - low as f64;
    let mixed = |channel: usize| {
        let (a, b) = (f64::from(VIRIDIS[low][channel]), f64::from(VIRIDIS[low + 1][channel]));
        (a + part * (b - a)).round() as u8
    };
    [mixed(0), mixed(1), mixed(2)]
}

/// As in `fill="#21908d"`.
pub fn hex([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// What is not known.
pub const UNKNOWN: [u8; 3] = [190, 190, 190];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viridis_goes_from_dark_to_light() {
        assert_eq!((hex(viridis(0.0)), hex(viridis(1.0))), ("#440154".into(), "#fde725".into()));
        let light = |share: f64| {
            viridis(share).iter().zip([0.2126, 0.7152, 0.0722]).map(|(&c, w)| f64::from(c) * w).sum::<f64>()
        };
        let steps: Vec<f64> = (0..=32).map(|step| light(f64::from(step) / 32.0)).collect();
        assert!(steps.windows(2).all(|pair| pair[1] > pair[0]), "{steps:?}");
    }
}
