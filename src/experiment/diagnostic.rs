//! What is wrong, where, and what to do: one message with file, line, column, the source line and carets.

use std::fmt;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The experiment cannot run.
    Error,
    /// Allowed, but seldom meant.
    Note,
}

impl Severity {
    /// `error` or `note`.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Note => "note",
        }
    }
}

/// A place in a source text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file as given, or `--set`, or `environment`.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The whole source line, without its line break.
    pub text: String,
    /// How many characters are meant, at least 1.
    pub width: usize,
}

impl Location {
    /// The place of the bytes `start..end` of `source`; what lies past the end of the first line is not marked.
    pub fn of(file: &str, source: &str, start: usize, end: usize) -> Self {
        let start = floor_boundary(source, start);
        let end = floor_boundary(source, end.max(start));
        let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |at| start + at);
        let text = source[line_start..line_end].trim_end_matches('\r');
        let marked = &source[start..end.min(line_start + text.len()).max(start)];
        Self {
            file: file.to_owned(),
            line: source[..start].matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            text: text.to_owned(),
            width: marked.chars().count().max(1),
        }
    }
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or note.
    pub severity: Severity,
    /// Lower case, no full stop, the offending word in backticks.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Where; `None` when it is about no single place.
    pub location: Option<Location>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.severity.word();
        match &self.location {
            None => write!(out, "{word}: {}", self.message)?,
            Some(place) => {
                let number = place.line.to_string();
                let margin = " ".repeat(number.len());
                let indent: String =
                    place.text.chars().take(place.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                writeln!(out, "{}:{}:{}: {word}: {}", place.file, place.line, place.column, self.message)?;
                writeln!(out, "{margin} |")?;
                writeln!(out, "{number} | {}", place.text)?;
                write!(out, "{margin} | {indent}{}", "^".repeat(place.width))?;
            }
        }
        match &self.hint {
            Some(hint) => write!(out, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// What programs read: `file`, `line` and `column` are null where it is about no single place.
impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = self.location.as_ref();
        let mut object = serializer.serialize_struct("Diagnostic", 5)?;
        object.serialize_field("file", &place.map(|place| &place.file))?;
        object.serialize_field("line", &place.map(|place| place.line))?;
        object.serialize_field("column", &place.map(|place| place.column))?;
        object.serialize_field("message", &self.message)?;
        object.serialize_field("hint", &self.hint)?;
        object.end()
    }
}

/// Every mistake of an experiment, in the order of its sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_str("\n\n")?;
            }
            diagnostic.fmt(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_and_stays_on_its_line() {
        let source = "a = 1\nb = \"é\" # x\nc = [\n1]\n";
        let start = source.find('#').expect("it is there");
        let place = Location::of("x.toml", source, start, start + 1);
        assert_eq!((place.line, place.column, place.width), (2, 9, 1));
        let start = source.find('[').expect("it is there");
        let place = Location::of("x.toml", source, start, source.len());
        assert_eq!((place.line, place.column, place.width), (3, 5, 1));
        assert_eq!(place.text, "c = [");
        let place = Location::of("x.toml", source, 999, 1000);
        assert_eq!((place.line, place.column), (5, 1));
    }

    #[test]
    fn a_message_shows_its_line_and_what_to_do() {
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            message: "unknown key `epoch`".into(),
            hint: Some("did you mean `epochs`?".into()),
            location: Some(Location::of("x.toml", "\nepoch = 3", 1, 6)),
        };
        let expected =
            "x.toml:2:1: error: unknown key `epoch`\n  |\n2 | epoch = 3\n  | ^^^^^\nhint: did you mean `epochs`?";
        assert_eq!(diagnostic.to_string(), expected);
    }
}
