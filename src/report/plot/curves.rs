//! Line charts: curves with bands, dashed levels, a legend above.

use super::palette;
use super::scale::Scale;
use super::svg::{Anchor, SMALL, Sheet, TEXT, text_width};

/// A curve.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// x and y; a gap where y is not finite.
    pub points: Vec<(f64, f64)>,
    /// Lower and upper end of an interval at each point; empty without.
    pub band: Vec<(f64, f64)>,
    /// Other runs of the same (seeds), drawn thin.
    pub repeats: Vec<Vec<(f64, f64)>>,
}

/// A level across the chart.
#[derive(Clone, Debug)]
pub struct Level {
    /// Its name, written at the line.
    pub name: String,
    /// Its height.
    pub value: f64,
}

/// What a line chart shows.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// Title.
    pub title: String,
    /// A sentence for screen readers and captions.
    pub description: String,
    /// Label of the x axis, with its unit.
    pub x: String,
    /// Label of the y axis, with its unit.
    pub y: String,
    /// Names of places on the x axis (layers); empty: x is a number.
    pub places: Vec<String>,
    /// Whether y is logarithmic.
    pub logarithmic: bool,
    /// The curves.
    pub curves: Vec<Curve>,
    /// Levels.
    pub levels: Vec<Level>,
}

const WIDTH: f64 = 480.0;
const PLOT: f64 = 230.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;

/// Draws it.
pub fn draw(chart: &Chart) -> String {
    let legend = legend_rows(chart);
    let named_places = longest(&chart.places);
    let upright = named_places > 4;
    let top = 30.0 + 18.0 * legend.len() as f64 + 8.0;
    let bottom = if upright { 26.0 + text_width(&"0".repeat(named_places), SMALL) } else { 42.0 };
    let height = top + PLOT + bottom;
    let mut sheet = Sheet::new(WIDTH, height);
    sheet.bold((10.0, 20.0), &chart.title);
    draw_legend(&mut sheet, &legend);
    let x = x_scale(chart);
    let y = y_scale(chart, top);
    axes(&mut sheet, chart, (&x, &y), top, upright);
    for level in &chart.levels {
        let at = y.at(level.value);
        sheet.dashed((LEFT, at), (WIDTH - RIGHT, at), "5 3");
        sheet.text((WIDTH - RIGHT, at - 4.0), &level.name, Anchor::End, SMALL);
    }
    for (number, curve) in chart.curves.iter().enumerate() {
        let colour = palette::series(number);
        let place = |(px, py): (f64, f64)| (x.at(px), y.at(py));
        let both = curve.points.iter().zip(&curve.band);
        let whole: Vec<_> = both.filter(|(_, (low, high))| low.is_finite() && high.is_finite()).collect();
        let upper = whole.iter().map(|((px, _), (_, high))| place((*px, *high)));
        let lower = whole.iter().rev().map(|((px, _), (low, _))| place((*px, *low)));
        sheet.area(&upper.chain(lower).collect::<Vec<_>>(), colour);
        for repeat in &curve.repeats {
            for part in unbroken(repeat) {
                sheet.path(&part.into_iter().map(place).collect::<Vec<_>>(), colour, 0.6, "");
            }
        }
        for part in unbroken(&curve.points) {
            let part: Vec<(f64, f64)> = part.into_iter().map(place).collect();
            sheet.path(&part, colour, 1.8, palette::dashes(number));
            if curve.points.len() <= 40 {
                part.iter().for_each(|&at| sheet.mark(at, number, 2.6, colour));
            }
        }
    }
    sheet.finish(&chart.title, &chart.description)
}

/// The stretches of a curve between gaps.
fn unbroken(points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    points.split(|(_, y)| !y.is_finite()).filter(|part| !part.is_empty()).map(<[_]>::to_vec).collect()
}

fn longest(names: &[String]) -> usize {
    names.iter().map(|name| name.chars().count()).max().unwrap_or(0)
}

/// Legend entries (number of the curve, name) in rows as wide as the chart.
fn legend_rows(chart: &Chart) -> Vec<Vec<(usize, String)>> {
    let mut rows: Vec<Vec<(usize, String)>> = Vec::new();
    if let [only] = chart.curves.as_slice()
        && only.name.is_empty()
    {
        return rows;
    }
    let mut room = 0.0;
    for (number, curve) in chart.curves.iter().enumerate() {
        let need = legend_width(&curve.name);
        if need > room || rows.is_empty() {
            rows.push(Vec::new());
            room = WIDTH - 20.0;
        }
        room -= need;
        if let Some(row) = rows.last_mut() {
            row.push((number, curve.name.clone()));
        }
    }
    rows
}

fn legend_width(name: &str) -> f64 {
    26.0 + text_width(name, SMALL) + 16.0
}

fn draw_legend(sheet: &mut Sheet, rows: &[Vec<(usize, String)>]) {
    for (row, entries) in rows.iter().enumerate() {
        let y = 40.0 + 18.0 * row as f64;
        let mut x = 10.0;
        for (number, name) in entries {
            let colour = palette::series(*number);
            sheet.path(&[(x, y - 4.0), (x + 20.0, y - 4.0)], colour, 1.8, palette::dashes(*number));
            sheet.mark((x + 10.0, y - 4.0), *number, 2.6, colour);
            sheet.text((x + 25.0, y), name, Anchor::Start, SMALL);
            x += legend_width(name);
        }
    }
}

fn x_scale(chart: &Chart) -> Scale {
    let (from, to) = (LEFT + 6.0, WIDTH - RIGHT - 6.0);
    if chart.places.is_empty() {
        let values = chart.curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0));
        Scale::linear(values, from, to, 6)
    } else {
        Scale::places(chart.places.len(), from, to)
    }
}

fn y_scale(chart: &Chart, top: f64) -> Scale {
    let points = chart.curves.iter().flat_map(|curve| {
        let band = curve.band.iter().flat_map(|&(low, high)| [low, high]);
        let repeats = curve.repeats.iter().flatten().map(|point| point.1);
        curve.points.iter().map(|point| point.1).chain(band).chain(repeats).collect::<Vec<_>>()
    });
    let values = points.chain(chart.levels.iter().map(|level| level.value));
    let (from, to) = (top + PLOT, top + 4.0);
    if chart.logarithmic { Scale::logarithmic(values, from, to) } else { Scale::linear(values, from, to, 5) }
}

fn axes(sheet: &mut Sheet, chart: &Chart, (x, y): (&Scale, &Scale), top: f64, upright: bool) {
    let floor = top + PLOT;
    for &tick in &y.ticks {
        let at = y.at(tick);
        sheet.line((LEFT, at), (WIDTH - RIGHT, at), false);
        sheet.text((LEFT - 6.0, at + 4.0), &y.label(tick), Anchor::End, SMALL);
    }
    sheet.line((LEFT, floor), (WIDTH - RIGHT, floor), true);
    let room = if upright { SMALL + 2.0 } else { text_width(&"0".repeat(longest(&chart.places).max(2)), SMALL) + 8.0 };
    let thin = match chart.places.len() {
        0 => 1,
        count => (count as f64 * room / (WIDTH - LEFT - RIGHT)).ceil().max(1.0) as usize,
    };
    for (number, &tick) in x.ticks.iter().enumerate() {
        let at = x.at(tick);
        let name = chart.places.get(number).cloned().unwrap_or_else(|| x.label(tick));
        // The last place is always named; its neighbour gives way.
        let last = chart.places.len().saturating_sub(1);
        let shown = number == last || number % thin == 0 && number + thin <= last;
        if !chart.places.is_empty() && !shown {
            continue;
        }
        sheet.line((at, floor), (at, floor + 4.0), true);
        if upright {
            sheet.upwards((at + 4.0, floor + 7.0), &name, Anchor::End, SMALL);
        } else {
            sheet.text((at, floor + 17.0), &name, Anchor::Middle, SMALL);
        }
    }
    let below =
        if upright { floor + 22.0 + text_width(&"0".repeat(longest(&chart.places)), SMALL) } else { floor + 35.0 };
    sheet.text((f64::midpoint(LEFT, WIDTH - RIGHT), below), &chart.x, Anchor::Middle, TEXT);
    sheet.upwards((15.0, top + PLOT / 2.0), &chart.y, Anchor::Middle, TEXT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_break_a_curve_and_the_same_chart_gives_the_same_bytes() {
        let curve = |name: &str| Curve {
            name: name.into(),
            points: vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 2.0)],
            band: vec![(0.5, 1.5), (f64::NAN, f64::NAN), (2.0, 4.0), (1.0, 3.0)],
            repeats: Vec::new(),
        };
        let chart = Chart {
            title: "a".into(),
            places: ["0", "1", "2", "last"].map(str::to_owned).to_vec(),
            curves: vec![curve("one & two"), curve("three")],
            levels: vec![Level { name: "ceiling".into(), value: 5.0 }],
            ..Chart::default()
        };
        let svg = draw(&chart);
        assert_eq!(svg, draw(&chart));
        assert!(svg.contains("one &amp; two") && svg.contains(">ceiling<") && svg.contains(">last<"));
        assert!(!svg.contains("NaN"));
        // Two curves, each in two parts and a legend line.
        assert_eq!(svg.matches("stroke-linejoin").count(), 6);
    }
}
