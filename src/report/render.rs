//! A grid of text as terminal table, CSV, Markdown, LaTeX or JSON: the same cells in each.

mod latex;

use std::io::{self, Write};

pub use latex::escaped as latex_escaped;
use serde_json::{Map, Value};

/// A table ready to be shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    /// What it is, on a line of its own.
    pub title: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// How many leading columns hold labels (shown flush left).
    pub labels: usize,
    /// Rows as long as `header`.
    pub rows: Vec<Vec<String>>,
    /// Lines below the table.
    pub notes: Vec<String>,
}

/// How to write a grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Text,
    /// Comma-separated values.
    Csv,
    /// A Markdown table.
    Markdown,
    /// A LaTeX table with the rules of `booktabs`.
    Latex,
    /// A list of objects.
    Json,
}

impl Grid {
    /// Writes it.
    pub fn write(&self, format: Format, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Text => self.text(out),
            Format::Csv => self.csv(out),
            Format::Markdown => self.markdown(out),
            Format::Latex => latex::write(self, out),
            Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&self.json())?),
        }
    }

    /// Rows as objects by column name.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let cells = self.header.iter().cloned().zip(row.iter().map(|cell| match cell.parse::<f64>() {
                Ok(number) if number.is_finite() => Value::from(number),
                _ => Value::from(cell.as_str()),
            }));
            Value::Object(cells.collect::<Map<_, _>>())
        });
        rows.collect()
    }

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.chain([self.header[column].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &[String], columns: &[usize]| {
            let padded = columns.iter().map(|&column| {
                let space = " ".repeat(widths[column] - cells[column].chars().count());
                if column < self.labels { cells[column].clone() + &space } else { space + &cells[column] }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        if !self.title.is_empty() {
            writeln!(out, "{}", self.title)?;
        }
        for (number, columns) in self.parts(&widths).iter().enumerate() {
            if number > 0 {
                writeln!(out)?;
            }
            writeln!(out, "{}", line(&self.header, columns))?;
            writeln!(out, "{}", "─".repeat(width(&widths, columns)))?;
            for row in &self.rows {
                writeln!(out, "{}", line(row, columns))?;
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "{note}"))
    }

    /// The columns of each part of a terminal table: as many as [`WIDEST`] has room for, the labels in every part.
    fn parts(&self, widths: &[usize]) -> Vec<Vec<usize>> {
        let labels: Vec<usize> = (0..self.labels.min(widths.len())).collect();
        let mut parts = vec![labels.clone()];
        for column in labels.len()..widths.len() {
            let last = parts.len() - 1;
            let wider: Vec<usize> = parts[last].iter().copied().chain([column]).collect();
            if parts[last].len() > labels.len() && width(widths, &wider) > WIDEST {
                parts.push(labels.iter().copied().chain([column]).collect());
            } else {
                parts[last] = wider;
            }
        }
        parts
    }

    fn csv(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(&self.header)?;
        self.rows.iter().try_for_each(|row| writer.write_record(row))?;
        writer.flush()
    }

    fn markdown(&self, out: &mut dyn Write) -> io::Result<()> {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |", cells.join(" | "))
        };
        writeln!(out, "{}", line(&self.header))?;
        let rule: Vec<&str> = (0..self.header.len()).map(|c| if c < self.labels { ":--" } else { "--:" }).collect();
        writeln!(out, "| {} |", rule.join(" | "))?;
        self.rows.iter().try_for_each(|row| writeln!(out, "{}", line(row)))?;
        self.notes.iter().try_for_each(|note| writeln!(out, "\n{note}"))
    }
}

/// Characters of the widest line of a terminal table; a wider table goes on below.
const WIDEST: usize = 120;

/// Characters of a line of these columns.
fn width(widths: &[usize], columns: &[usize]) -> usize {
    columns.iter().map(|&column| widths[column]).sum::<usize>() + 2 * columns.len().saturating_sub(1)
}

/// A figure for people: whole numbers as they are, others with three decimals, or four significant digits when small.
pub fn figure(value: &Value) -> String {
    match value {
        Value::Null => "n/a".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(real)) => decimal(real),
            (None, None) => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// Three decimals, or four significant digits when smaller than 0.1.
pub fn decimal(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.000_1 {
        format!("{value:.3e}")
    } else if value != 0.0 && value.abs() < 0.1 {
        format!("{value:.4}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_the_same_cells() {
        let grid = Grid {
            title: "t".into(),
            header: vec!["inject".into(), "bits".into()],
            labels: 1,
            rows: vec![vec!["none".into(), "16.714".into()], vec!["a|b".into(), "n/a".into()]],
            notes: vec!["note".into()],
        };
        let show = |format| {
            let mut bytes = Vec::new();
            grid.write(format, &mut bytes).expect("writes to memory");
            String::from_utf8(bytes).expect("is text")
        };
        assert_eq!(show(Format::Text), "t\ninject    bits\n──────────────\nnone    16.714\na|b        n/a\nnote\n");
        assert_eq!(show(Format::Csv), "inject,bits\nnone,16.714\na|b,n/a\n");
        assert_eq!(
            show(Format::Markdown),
            "| inject | bits |\n| :-- | --: |\n| none | 16.714 |\n| a\\|b | n/a |\n\nnote\n"
        );
        assert_eq!(grid.json()[0]["bits"], 16.714);
        let latex = show(Format::Latex);
        assert!(latex.contains("    none & 16.714 \\\\\n    a\\textbar{}b & n/a \\\\\n"), "{latex}");
    }

    #[test]
    fn a_wide_table_goes_on_below_with_its_labels() {
        let names: Vec<String> = (0..9).map(|column| format!("stage.figure_number_{column}")).collect();
        let grid = Grid {
            header: ["seed".to_owned()].into_iter().chain(names.clone()).collect(),
            labels: 1,
            rows: vec![["0".to_owned()].into_iter().chain((0..9).map(|column| format!("{column}.5"))).collect()],
            ..Grid::default()
        };
        let mut bytes = Vec::new();
        grid.write(Format::Text, &mut bytes).expect("writes to memory");
        let text = String::from_utf8(bytes).expect("is text");
        let parts: Vec<&str> = text.split("\n\n").collect();
        assert_eq!(parts.len(), 2, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDEST), "{text}");
        for part in &parts {
            let lines: Vec<&str> = part.lines().collect();
            assert!(lines.len() == 3 && lines[0].starts_with("seed  ") && lines[2].starts_with("0  "), "{text}");
        }
        let shown: Vec<&str> = text.split_whitespace().filter(|word| word.starts_with("stage.")).collect();
        assert_eq!(shown, names, "every column once, in order");
        let narrow = Grid { header: vec!["a".repeat(200), "b".into()], labels: 1, ..Grid::default() };
        assert_eq!(narrow.parts(&[200, 1]), [[0, 1]], "a label of any width has a figure beside it");
    }
}
