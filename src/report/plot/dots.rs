//! Dots with intervals, one row per arm: differences and scores.

use super::palette;
use super::scale::Scale;
use super::svg::{Anchor, SMALL, Sheet, TEXT, text_width};

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its interval.
    pub interval: Option<(f64, f64)>,
    /// Values of single runs (seeds).
    pub repeats: Vec<f64>,
    /// Rows of one group share a colour.
    pub group: usize,
}

/// What a dot chart shows.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// Title.
    pub title: String,
    /// A sentence for screen readers and captions.
    pub description: String,
    /// Label of the axis, with its unit.
    pub x: String,
    /// Rows from above.
    pub rows: Vec<Row>,
    /// Upright dashed lines: name and value.
    pub levels: Vec<(String, f64)>,
    /// A span in which a value counts as nothing.
    pub margin: Option<f64>,
    /// Whether the axis holds 0.
    pub from_zero: bool,
}

const ROW: f64 = 22.0;
const PLOT: f64 = 270.0;

/// Draws it.
pub fn draw(chart: &Chart) -> String {
    let left = 18.0 + chart.rows.iter().map(|row| text_width(&row.name, SMALL)).fold(60.0, f64::max);
    let width = (left + PLOT + 16.0).max(480.0);
    let top = 34.0 + 16.0 * chart.levels.len() as f64;
    let floor = top + ROW * chart.rows.len() as f64 + 4.0;
    let mut sheet = Sheet::new(width, floor + 44.0);
    sheet.bold((10.0, 20.0), &chart.title);
    let values = chart.rows.iter().flat_map(|row| {
        let (low, high) = row.interval.unwrap_or((row.value, row.value));
        [row.value, low, high].into_iter().chain(row.repeats.iter().copied()).collect::<Vec<_>>()
    });
    let margin = chart.margin.into_iter().flat_map(|margin| [-margin, margin]);
    let levels = chart.levels.iter().map(|level| level.1);
    let zero = chart.from_zero.then_some(0.0);
    let x = Scale::linear(values.chain(margin).chain(levels).chain(zero), left, width - 18.0, 6);
    if let Some(margin) = chart.margin {
        let (from, to) = (x.at(-margin), x.at(margin));
        sheet.area(&[(from, top), (to, top), (to, floor), (from, floor)], palette::series(0));
    }
    for &tick in &x.ticks {
        let at = x.at(tick);
        sheet.line((at, top), (at, floor), false);
        sheet.text((at, floor + 16.0), &x.label(tick), Anchor::Middle, SMALL);
    }
    sheet.line((left, floor), (width - 18.0, floor), true);
    if x.ticks.iter().any(|tick| *tick < 0.0) {
        sheet.line((x.at(0.0), top), (x.at(0.0), floor), true);
    }
    for (number, (name, value)) in chart.levels.iter().enumerate() {
        let (at, y) = (x.at(*value), 38.0 + 16.0 * number as f64);
        sheet.dashed((at, y + 2.0), (at, floor), "4 3");
        let anchor = if at > f64::midpoint(left, width) { Anchor::End } else { Anchor::Start };
        let aside = if anchor == Anchor::End { -4.0 } else { 4.0 };
        sheet.text((at + aside, y + 4.0), name, anchor, SMALL);
    }
    for (number, row) in chart.rows.iter().enumerate() {
        let y = top + ROW * (number as f64 + 0.5);
        let colour = palette::series(row.group);
        sheet.text((left - 8.0, y + 4.0), &row.name, Anchor::End, SMALL);
        if let Some((low, high)) = row.interval {
            sheet.path(&[(x.at(low), y), (x.at(high), y)], colour, 1.8, "");
            for end in [low, high] {
                sheet.path(&[(x.at(end), y - 4.0), (x.at(end), y + 4.0)], colour, 1.8, "");
            }
        }
        row.repeats.iter().for_each(|value| sheet.ring((x.at(*value), y + 7.0), 1.9, colour));
        sheet.mark((x.at(row.value), y), row.group, 3.6, colour);
    }
    sheet.text((f64::midpoint(left, width - 18.0), floor + 36.0), &chart.x, Anchor::Middle, TEXT);
    sheet.finish(&chart.title, &chart.description)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_dots_and_intervals() {
        let row = |name: &str, group| Row {
            name: name.into(),
            value: 1.0,
            interval: Some((0.5, 1.5)),
            repeats: vec![0.9, 1.1],
            group,
        };
        let chart = Chart {
            title: "t".into(),
            rows: vec![row("full", 0), row("a very long name of an arm with an ablation", 1)],
            levels: vec![("exact".into(), 0.2)],
            margin: Some(0.02),
            from_zero: true,
            ..Chart::default()
        };
        let svg = draw(&chart);
        assert_eq!(svg, draw(&chart));
        assert_eq!((svg.matches("r=\"1.9\"").count(), svg.matches(">exact<").count()), (4, 1));
        assert!(svg.contains(">a very long name of an arm with an ablation<") && !svg.contains("NaN"));
    }
}
