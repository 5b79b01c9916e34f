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
        let line = |cells: &[String]| {
            let padded = cells.iter().enumerate().map(|(column, cell)| {
                let space = " ".repeat(widths[column] - cell.chars().count());
                if column < self.labels { format!("{cell}{space}") } else { format!("{space}{cell}") }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        if !self.title.is_empty() {
            writeln!(out, "{}", self.title)?;
        }
        writeln!(out, "{}", line(&self.header))?;
        writeln!(out, "{}", "─".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)))?;
        for row in &self.rows {
            writeln!(out, "{}", line(row))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "{note}"))
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
}
