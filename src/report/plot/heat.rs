//! Heat maps: rows and columns of amounts, with a bar that says what the colours mean.

use super::palette::{UNKNOWN, hex, viridis};
use super::scale::Scale;
use super::svg::{Anchor, SMALL, Sheet, TEXT, text_width};

/// What a heat map shows.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// Title.
    pub title: String,
    /// A sentence for screen readers and captions.
    pub description: String,
    /// Label of the columns.
    pub x: String,
    /// Label of the rows.
    pub y: String,
    /// What the colours mean, with the unit.
    pub amount: String,
    /// Names of columns; thinned where there is no room, left out when empty.
    pub columns: Vec<String>,
    /// Names of rows, as columns.
    pub rows: Vec<String>,
    /// Row after row; not finite where nothing is known.
    pub values: Vec<Vec<f64>>,
    /// Whether colours go by the logarithm.
    pub logarithmic: bool,
    /// Columns with a box around them.
    pub boxed: Vec<usize>,
}

/// Cells beyond which the map is one picture of a pixel per cell: as rectangles it would be megabytes.
const DRAWN: usize = 2500;

/// Draws it.
pub fn draw(map: &Map) -> String {
    let (count, width) = (map.values.len(), map.values.first().map_or(0, Vec::len));
    let left = if map.rows.is_empty() { 34.0 } else { 34.0 + names_width(&map.rows) };
    let room = 480.0 - left - 14.0;
    let size = (room / width.max(1) as f64).min(26.0);
    let tall = if width == count { size } else { (300.0 / count.max(1) as f64).clamp(5.0, 20.0).min(size.max(9.0)) };
    let (grid_width, grid_height) = (size * width as f64, tall * count as f64);
    let top = 34.0;
    let under = if map.columns.is_empty() { 8.0 } else { 10.0 + names_width(&map.columns) };
    let floor = top + grid_height;
    let bar = floor + under + 26.0;
    let sheet_width = 480.0_f64.max(text_width(&map.title, TEXT) + 20.0);
    let mut sheet = Sheet::new(sheet_width, bar + 46.0);
    sheet.bold((10.0, 20.0), &map.title);
    let known = map.values.iter().flatten().copied().filter(|value| value.is_finite());
    let known: Vec<f64> = if map.logarithmic { known.filter(|value| *value > 0.0).collect() } else { known.collect() };
    let (low, high) = known.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    let (low, high) = if low < high {
        (low, high)
    } else {
        (if low.is_finite() { low } else { 0.1 }, if high.is_finite() { high * 1.01 + 1e-9 } else { 1.0 })
    };
    let colour = |value: f64| {
        if !value.is_finite() {
            return UNKNOWN;
        }
        let share = if map.logarithmic {
            (value.max(low) / low).ln() / (high / low).ln()
        } else {
            (value - low) / (high - low)
        };
        viridis(share)
    };
    if count * width > DRAWN {
        let pixels: Vec<u8> = map.values.iter().flatten().flat_map(|value| colour(*value)).collect();
        sheet.pixels([left, top, grid_width, grid_height], &png(&pixels, width, count));
    } else {
        for (row, values) in map.values.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                let place = [left + size * column as f64, top + tall * row as f64, size + 0.05, tall + 0.05];
                sheet.cell(place, &hex(colour(*value)));
            }
        }
    }
    sheet.frame([left, top, grid_width, grid_height], 1.0);
    for &column in &map.boxed {
        sheet.boxed([left + size * column as f64, top, size, grid_height]);
    }
    named(&map.rows, tall, |name, place| {
        sheet.text((left - 5.0, top + tall * (place + 0.5) + 4.0), name, Anchor::End, SMALL);
    });
    named(&map.columns, size, |name, place| {
        sheet.upwards((left + size * (place + 0.5) + 4.0, floor + 6.0), name, Anchor::End, SMALL);
    });
    sheet.upwards((14.0, top + grid_height / 2.0), &map.y, Anchor::Middle, TEXT);
    sheet.text((left + grid_width / 2.0, floor + under + 12.0), &map.x, Anchor::Middle, TEXT);
    colour_bar(&mut sheet, map, (low, high), bar);
    sheet.finish(&map.title, &map.description)
}

fn names_width(names: &[String]) -> f64 {
    names.iter().map(|name| text_width(name, SMALL)).fold(0.0, f64::max)
}

/// Calls for the names that have room.
fn named(names: &[String], room: f64, mut write: impl FnMut(&str, f64)) {
    let thin = ((SMALL + 1.0) / room.max(0.1)).ceil().max(1.0) as usize;
    for (place, name) in names.iter().enumerate().step_by(thin) {
        write(name, place as f64);
    }
}

fn colour_bar(sheet: &mut Sheet, map: &Map, (low, high): (f64, f64), y: f64) {
    let (from, to) = (34.0, 234.0);
    let steps = 50;
    for step in 0..steps {
        let at = from + (to - from) * f64::from(step) / f64::from(steps);
        let share = (f64::from(step) + 0.5) / f64::from(steps);
        sheet.cell([at, y, (to - from) / f64::from(steps) + 0.05, 9.0], &hex(viridis(share)));
    }
    let scale = if map.logarithmic {
        Scale::logarithmic([low, high], from, to)
    } else {
        Scale::linear([low, high], from, to, 4)
    };
    // The bar ends at the data, the scale at round numbers: ticks are placed by the data.
    let place = |tick: f64| match map.logarithmic {
        true => from + (to - from) * (tick / low).ln() / (high / low).ln(),
        false => from + (to - from) * (tick - low) / (high - low),
    };
    for &tick in &scale.ticks {
        let at = place(tick);
        if (from - 0.5..=to + 0.5).contains(&at) {
            sheet.line((at, y + 9.0), (at, y + 13.0), true);
            sheet.text((at, y + 25.0), &scale.label(tick), Anchor::Middle, SMALL);
        }
    }
    sheet.text((to + 10.0, y + 9.0), &map.amount, Anchor::Start, SMALL);
    if map.values.iter().flatten().any(|value| !value.is_finite()) {
        sheet.cell([to + 30.0, y + 17.0, 10.0, 9.0], &hex(UNKNOWN));
        sheet.text((to + 44.0, y + 25.0), "not known", Anchor::Start, SMALL);
    }
}

/// A PNG of RGB pixels in base 64.
fn png(pixels: &[u8], width: usize, height: usize) -> String {
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    let size = (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0));
    let written = image::ImageEncoder::write_image(encoder, pixels, size.0, size.1, image::ExtendedColorType::Rgb8);
    written.expect("there are three bytes for each of width · height pixels, and memory takes them");
    base64(&bytes)
}

/// RFC 4648, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().enumerate().fold(0u32, |word, (place, byte)| word | u32::from(*byte) << (16 - 8 * place));
        for letter in 0..4 {
            let index = (word >> (18 - 6 * letter)) & 63;
            out.push(if letter <= chunk.len() { char::from(LETTERS[index as usize]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        assert_eq!(texts.map(|text| base64(text.as_bytes())), expected);
    }

    #[test]
    fn small_maps_are_rectangles_and_large_ones_pixels() {
        let values =
            |count: usize| (0..count).map(|row| (0..count).map(|column| (row * column) as f64).collect()).collect();
        let small = Map {
            title: "s".into(),
            values: values(4),
            columns: vec!["<bos>".into(); 4],
            boxed: vec![1],
            ..Map::default()
        };
        let svg = draw(&small);
        assert_eq!(svg, draw(&small));
        assert!(svg.contains("&lt;bos&gt;") && !svg.contains("<image"));
        let mut large = Map { values: values(60), ..small.clone() };
        large.columns.clear();
        large.values[0][0] = f64::NAN;
        let svg = draw(&large);
        assert!(svg.contains("data:image/png;base64,iVBORw0KGgo") && svg.contains(">not known<"));
    }
}
