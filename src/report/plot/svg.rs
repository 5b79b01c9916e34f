//! A sheet to draw on, written as SVG: text stays text, shapes stay vectors, the same drawing gives the same bytes.
//!
//! Ink, rules and paper carry a class beside their colour, so that a page can give them other colours in the dark.

use std::fmt::Write;

/// Size of ordinary text, in the units of the sheet.
pub const TEXT: f64 = 14.0;
/// Size of labels at axes.
pub const SMALL: f64 = 12.5;
/// Black of text and lines.
pub const INK: &str = "#1d1f23";
/// Grey of grids.
pub const RULE: &str = "#c9ccd1";

/// Where a text stands relative to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// A drawing under way.
pub struct Sheet {
    width: f64,
    height: f64,
    body: String,
}

impl Sheet {
    /// An empty sheet.
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// A line of ink (class `ink`) or of the grid (class `rule`).
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), is_ink: bool) {
        let (class, colour, width) = if is_ink { ("ink", INK, 1.0) } else { ("rule", RULE, 0.7) };
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(number);
        let _ = writeln!(
            self.body,
            r#"<line class="{class}-line" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}"/>"#
        );
    }

    /// A dashed line of ink.
    pub fn dashed(&mut self, from: (f64, f64), to: (f64, f64), pattern: &str) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(number);
        let _ = writeln!(
            self.body,
            r#"<line class="ink-line" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{INK}" stroke-width="1.2" stroke-dasharray="{pattern}"/>"#
        );
    }

    /// A line of data in a colour, through points.
    pub fn path(&mut self, points: &[(f64, f64)], colour: &str, width: f64, pattern: &str) {
        if points.is_empty() {
            return;
        }
        let dashes = if pattern.is_empty() { String::new() } else { format!(r#" stroke-dasharray="{pattern}""#) };
        let _ = writeln!(
            self.body,
            r#"<path d="{}" fill="none" stroke="{colour}" stroke-width="{}" stroke-linejoin="round"{dashes}/>"#,
            outline(points),
            number(width)
        );
    }

    /// A filled area, mostly see-through.
    pub fn area(&mut self, points: &[(f64, f64)], colour: &str) {
        if points.len() > 2 {
            let _ = writeln!(self.body, r#"<path d="{}Z" fill="{colour}" fill-opacity="0.18"/>"#, outline(points));
        }
    }

    /// A mark of data: one shape for each number, so that series differ in more than colour.
    pub fn mark(&mut self, at: (f64, f64), shape: usize, size: f64, colour: &str) {
        let (x, y) = at;
        match shape % 4 {
            0 => {
                let [x, y, r] = [x, y, size].map(number);
                let _ = writeln!(self.body, r#"<circle cx="{x}" cy="{y}" r="{r}" fill="{colour}"/>"#);
            }
            1 => self.polygon(
                &[(x - size, y - size), (x + size, y - size), (x + size, y + size), (x - size, y + size)],
                colour,
            ),
            2 => {
                let high = 1.25 * size;
                self.polygon(&[(x, y - high), (x + high, y + 0.8 * high), (x - high, y + 0.8 * high)], colour);
            }
            _ => {
                let high = 1.35 * size;
                self.polygon(&[(x, y - high), (x + high, y), (x, y + high), (x - high, y)], colour);
            }
        }
    }

    fn polygon(&mut self, points: &[(f64, f64)], colour: &str) {
        let _ = writeln!(self.body, r#"<path d="{}Z" fill="{colour}"/>"#, outline(points));
    }

    /// A ring: a single result beside a mean.
    pub fn ring(&mut self, at: (f64, f64), size: f64, colour: &str) {
        let [x, y, r] = [at.0, at.1, size].map(number);
        let _ = writeln!(
            self.body,
            r#"<circle cx="{x}" cy="{y}" r="{r}" fill="none" stroke="{colour}" stroke-width="0.9"/>"#
        );
    }

    /// A filled rectangle `[x, y, width, height]`.
    pub fn cell(&mut self, [x, y, width, height]: [f64; 4], colour: &str) {
        let [x, y, width, height] = [x, y, width, height].map(number);
        let _ = writeln!(self.body, r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{colour}"/>"#);
    }

    /// The outline of a rectangle `[x, y, width, height]`, in ink.
    pub fn frame(&mut self, [x, y, width, height]: [f64; 4], stroke: f64) {
        let [x, y, width, height, stroke] = [x, y, width, height, stroke].map(number);
        let _ = writeln!(
            self.body,
            r#"<rect class="ink-line" x="{x}" y="{y}" width="{width}" height="{height}" fill="none" stroke="{INK}" stroke-width="{stroke}"/>"#
        );
    }

    /// A box around cells of any colour: ink on a white edge.
    pub fn boxed(&mut self, [x, y, width, height]: [f64; 4]) {
        let [x, y, width, height] = [x, y, width, height].map(number);
        for (colour, stroke) in [("#ffffff", "3"), (INK, "1.4")] {
            let _ = writeln!(
                self.body,
                r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="none" stroke="{colour}" stroke-width="{stroke}"/>"#
            );
        }
    }

    /// A picture of one pixel per value, as it is (`png` in base 64).
    pub fn pixels(&mut self, [x, y, width, height]: [f64; 4], png: &str) {
        let [x, y, width, height] = [x, y, width, height].map(number);
        let _ = writeln!(
            self.body,
            r#"<image x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none" style="image-rendering:pixelated" href="data:image/png;base64,{png}"/>"#
        );
    }

    /// A line of text.
    pub fn text(&mut self, at: (f64, f64), text: &str, anchor: Anchor, size: f64) {
        self.write(at, text, anchor, size, "");
    }

    /// A line of bold text, smaller where it would not fit.
    pub fn bold(&mut self, at: (f64, f64), text: &str) {
        let room = (self.width - at.0 - 8.0) / text_width(text, 1.15).max(1.0);
        self.write(at, text, Anchor::Start, TEXT.min(room), r#" font-weight="600""#);
    }

    /// Text that reads upwards.
    pub fn upwards(&mut self, at: (f64, f64), text: &str, anchor: Anchor, size: f64) {
        let turn = format!(r#" transform="rotate(-90 {} {})""#, number(at.0), number(at.1));
        self.write(at, text, anchor, size, &turn);
    }

    fn write(&mut self, at: (f64, f64), text: &str, anchor: Anchor, size: f64, more: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let [x, y, size] = [at.0, at.1, size].map(number);
        let _ = writeln!(
            self.body,
            r#"<text class="ink" x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{INK}"{more}>{}</text>"#,
            escaped(text)
        );
    }

    /// The file. `title` and `description` are read out by screen readers.
    pub fn finish(self, title: &str, description: &str) -> String {
        let [width, height] = [self.width, self.height].map(number);
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" font-family="Helvetica, Arial, 'Liberation Sans', sans-serif">
<title>{}</title>
<desc>{}</desc>
<rect class="paper" width="{width}" height="{height}" fill="#ffffff"/>
{}</svg>
"##,
            escaped(title),
            escaped(description),
            self.body
        )
    }
}

fn outline(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let _ = write!(path, "{}{} {}", if index == 0 { "M" } else { "L" }, number(*x), number(*y));
    }
    path
}

/// Two decimals at most.
pub fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Text between tags or in a quoted attribute.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML allows no other control characters.
            control if control.is_control() && !matches!(control, '\n' | '\t' | '\r') => out.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// About how wide a text is: Helvetica's letters are half as wide as high.
pub fn text_width(text: &str, size: f64) -> f64 {
    text.chars().map(|character| if character.is_ascii() { 0.54 } else { 0.62 }).sum::<f64>() * size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_numbers_are_short() {
        assert_eq!(escaped("a<b & \"c\" 'd'\u{1}"), "a&lt;b &amp; &quot;c&quot; &#39;d&#39;\u{fffd}");
        assert_eq!([0.0, -0.001, 1.5, 10.0, 1.0 / 3.0].map(number), ["0", "0", "1.5", "10", "0.33"]);
        let mut sheet = Sheet::new(10.0, 5.0);
        sheet.text((1.0, 2.0), "<&>", Anchor::Middle, TEXT);
        let svg = sheet.finish("a & b", "c");
        assert!(svg.contains("<title>a &amp; b</title>") && svg.contains(">&lt;&amp;&gt;</text>"), "{svg}");
    }
}
