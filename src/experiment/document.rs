//! A TOML text as a tree in which every key and value knows its place.

use std::collections::HashSet;

use serde_json::{Number, Value};
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Diagnostics, Location, Severity};

/// How deep tables and lists may lie in each other. Whatever walks the tree goes as deep as this on the stack.
pub(super) const DEPTH: usize = 32;

/// How many mistakes are told at once.
const TOLD: usize = 200;

/// Bytes `start..end` of the source number `source`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub source: usize,
    pub start: usize,
    pub end: usize,
}

/// A text that values come from.
#[derive(Clone, Debug)]
pub(super) struct SourceText {
    pub name: String,
    pub text: String,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub span: Span,
    pub value: ItemValue,
}

#[derive(Clone, Debug)]
pub(super) enum ItemValue {
    Table(Table),
    Array(Vec<Item>),
    /// Text, number or truth value.
    Scalar(Value),
    /// Reported already; checked no further.
    Invalid,
}

/// Entries in the order of the text.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub item: Item,
}

impl Table {
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub fn get(&self, key: &str) -> Option<&Item> {
        self.entry(key).map(|entry| &entry.item)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at))
    }
}

impl Item {
    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            ItemValue::Table(table) => Some(table),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            ItemValue::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The value without places; what was reported as invalid is left out.
    pub fn plain(&self) -> Value {
        match &self.value {
            ItemValue::Table(table) => {
                Value::Object(table.entries.iter().map(|entry| (entry.key.clone(), entry.item.plain())).collect())
            }
            ItemValue::Array(items) => Value::Array(items.iter().map(Item::plain).collect()),
            ItemValue::Scalar(value) => value.clone(),
            ItemValue::Invalid => Value::Null,
        }
    }

    /// Whether nothing in it was reported as invalid.
    pub fn is_valid(&self) -> bool {
        match &self.value {
            ItemValue::Table(table) => table.entries.iter().all(|entry| entry.item.is_valid()),
            ItemValue::Array(items) => items.iter().all(Item::is_valid),
            ItemValue::Scalar(_) => true,
            ItemValue::Invalid => false,
        }
    }

    /// The items of an array, or the item itself when it is no array: `rows = "a"` is `rows = ["a"]`.
    pub fn one_or_many(&self) -> &[Item] {
        match &self.value {
            ItemValue::Array(items) => items,
            ItemValue::Invalid => &[],
            _ => std::slice::from_ref(self),
        }
    }
}

/// The source texts and what was found wrong in them.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub sources: Vec<SourceText>,
    found: Vec<(Option<Span>, Diagnostic)>,
    seen: HashSet<(Option<Span>, String)>,
    /// Mistakes past those that are told.
    untold: usize,
}

impl Report {
    pub fn add_source(&mut self, name: impl Into<String>, text: impl Into<String>) -> usize {
        self.sources.push(SourceText { name: name.into(), text: text.into() });
        self.sources.len() - 1
    }

    /// The text under a span.
    pub fn written(&self, span: Span) -> &str {
        self.sources.get(span.source).and_then(|source| source.text.get(span.start..span.end)).unwrap_or_default()
    }

    pub fn location(&self, span: Span) -> Option<Location> {
        let source = self.sources.get(span.source)?;
        Some(Location::of(&source.name, &source.text, span.start, span.end))
    }

    pub fn error(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, Some(span), message.into(), Some(hint.into()));
    }

    /// [`Report::error`] with message and hint that are made only if they are told.
    pub fn error_of(&mut self, span: Span, told: impl FnOnce() -> (String, String)) {
        if self.is_full() {
            self.untold += 1;
        } else {
            let (message, hint) = told();
            self.error(span, message, hint);
        }
    }

    pub fn error_nowhere(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, None, message.into(), Some(hint.into()));
    }

    pub fn note(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Note, Some(span), message.into(), Some(hint.into()));
    }

    fn add(&mut self, severity: Severity, span: Option<Span>, message: String, hint: Option<String>) {
        if self.is_full() {
            // A file of a thousand mistakes has one cause or a few; what is told stays in proportion to the file.
            self.untold += usize::from(severity == Severity::Error);
        } else if self.seen.insert((span, message.clone())) {
            let location = span.and_then(|span| self.location(span));
            self.found.push((span, Diagnostic { severity, message, hint, location }));
        }
    }

    /// Whether further mistakes are only counted.
    fn is_full(&self) -> bool {
        self.found.len() == TOLD
    }

    pub fn has_errors(&self) -> bool {
        self.untold > 0 || self.found.iter().any(|(_, diagnostic)| diagnostic.severity == Severity::Error)
    }

    /// All errors (or all notes), by source and place.
    pub fn of(&self, severity: Severity) -> Diagnostics {
        let mut found: Vec<_> = self.found.iter().filter(|(_, found)| found.severity == severity).collect();
        found.sort_by_key(|(span, _)| *span);
        let mut told: Vec<Diagnostic> = found.into_iter().map(|(_, diagnostic)| diagnostic.clone()).collect();
        if severity == Severity::Error && self.untold > 0 {
            let message = format!("{} more mistakes are not told", self.untold);
            let hint = Some("correct these first".to_owned());
            told.push(Diagnostic { severity, message, hint, location: None });
        }
        Diagnostics(told)
    }
}

impl std::hash::Hash for Span {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.source, self.start, self.end).hash(state);
    }
}

/// Parses source number `source`; every syntax error is reported, and the tree is what could be read.
pub(super) fn parse(report: &mut Report, source: usize) -> Table {
    let text = report.sources[source].text.clone();
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        let range = error.span().unwrap_or(text.len()..text.len());
        let span = Span { source, start: range.start, end: range.end };
        let message = error.message().trim();
        let hint = if message.contains("duplicate") {
            "a key stands once in a table; remove or rename one of the two"
        } else if message.contains("string") {
            "text stands in quotes: `\"text\"`"
        } else {
            "this is no TOML: a line is `key = value` or `[table]`, and text stands in quotes"
        };
        report.error(span, message.to_owned(), hint);
    }
    table_of(report, source, table.get_ref())
}

/// Parses one TOML value that stands at byte `offset` of a source; `None` when it is no TOML.
pub(super) fn parse_value(report: &mut Report, source: usize, offset: usize) -> Option<Item> {
    let text = report.sources[source].text.clone();
    let value = DeValue::parse(&text[offset..]).ok()?;
    if matches!(value.get_ref(), DeValue::Datetime(_)) {
        return None;
    }
    let range = value.span();
    Some(item_of(report, source, offset, range, value.get_ref(), 0))
}

fn table_of(report: &mut Report, source: usize, table: &DeTable<'_>) -> Table {
    table_at(report, source, 0, table, 0)
}

fn table_at(report: &mut Report, source: usize, offset: usize, table: &DeTable<'_>, depth: usize) -> Table {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| {
            let range = key.span();
            Entry {
                key: key.get_ref().to_string(),
                key_span: Span { source, start: offset + range.start, end: offset + range.end },
                item: item_of(report, source, offset, value.span(), value.get_ref(), depth + 1),
            }
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    Table { entries }
}

fn item_of(
    report: &mut Report,
    source: usize,
    offset: usize,
    range: std::ops::Range<usize>,
    value: &DeValue<'_>,
    depth: usize,
) -> Item {
    let span = Span { source, start: offset + range.start, end: offset + range.end };
    let value = match value {
        DeValue::Array(_) | DeValue::Table(_) if depth > DEPTH => {
            let message = format!("tables and lists lie in each other more than {DEPTH} deep");
            report.error(span, message, "no setting is as deep as this; look for a key with too many dots");
            ItemValue::Invalid
        }
        DeValue::String(text) => ItemValue::Scalar(Value::String(text.to_string())),
        DeValue::Boolean(truth) => ItemValue::Scalar(Value::Bool(*truth)),
        DeValue::Integer(number) => {
            let (digits, radix) = (number.as_str(), number.radix());
            // Numbers past these have no form in TOML, in which a run keeps its settings.
            match i64::from_str_radix(digits, radix) {
                Ok(number) => ItemValue::Scalar(Value::Number(number.into())),
                Err(_) => {
                    let written = report.written(span).to_owned();
                    let hint =
                        "whole numbers go from -9223372036854775808 to 9223372036854775807; longer ones are text";
                    report.error(span, format!("`{written}` is too large"), hint);
                    ItemValue::Invalid
                }
            }
        }
        DeValue::Float(number) => match number.as_str().parse().map(Number::from_f64) {
            Ok(Some(number)) => ItemValue::Scalar(Value::Number(unsigned_zero(number))),
            // The syntax error is reported already.
            Err(_) => ItemValue::Invalid,
            Ok(None) => {
                let written = report.written(span).to_owned();
                report.error(span, format!("`{written}` is not a finite number"), "write a finite number");
                ItemValue::Invalid
            }
        },
        DeValue::Datetime(_) => {
            let written = report.written(span).to_owned();
            report.error(span, format!("`{written}` is a date, which no setting takes"), "put text in quotes");
            ItemValue::Invalid
        }
        DeValue::Array(items) => ItemValue::Array(
            items.iter().map(|item| item_of(report, source, offset, item.span(), item.get_ref(), depth + 1)).collect(),
        ),
        DeValue::Table(table) => ItemValue::Table(table_at(report, source, offset, table, depth)),
    };
    Item { span, value }
}

/// `-0.0` is `0.0`: no setting means another thing by it, so it must not make another step.
fn unsigned_zero(number: Number) -> Number {
    match number.as_f64() {
        Some(0.0) if number.is_f64() => Number::from_f64(0.0).unwrap_or(number),
        _ => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Table, Report) {
        let mut report = Report::default();
        let source = report.add_source("x.toml", text);
        (parse(&mut report, source), report)
    }

    #[test]
    fn keys_and_values_know_their_places_and_keep_their_order() {
        let (table, report) = read("b = 1_000\na = { z = [0x10, \"é\"], y = 1e-3 }\n[c.\"d.e\"]\n");
        assert!(!report.has_errors());
        assert_eq!(table.keys().collect::<Vec<_>>(), ["b", "a", "c"]);
        let a = table.get("a").and_then(Item::table).expect("a is a table");
        assert_eq!(a.keys().collect::<Vec<_>>(), ["z", "y"]);
        let z = a.entry("z").expect("z is there");
        assert_eq!(report.written(z.key_span), "z");
        assert_eq!(report.written(z.item.span), "[0x10, \"é\"]");
        assert_eq!(table.get("a").expect("a").plain(), serde_json::json!({ "z": [16, "é"], "y": 1e-3 }));
        let c = table.get("c").and_then(Item::table).expect("c is a table");
        assert_eq!(report.written(c.entries[0].key_span), "\"d.e\"");
    }

    #[test]
    fn all_syntax_errors_and_impossible_numbers_are_found_at_once() {
        let (_, report) = read("a = nan\nb = \nc = 99999999999999999999\nd = 1 2\nd = 2\ne = 2026-01-01\n");
        let lines: Vec<usize> =
            report.of(Severity::Error).0.iter().map(|d| d.location.as_ref().expect("a place").line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_thousand_mistakes_are_counted_and_not_all_told() {
        let (_, report) = read(&"a = nan\n".repeat(1000));
        let told = report.of(Severity::Error).0;
        assert!(report.has_errors() && told.len() == TOLD + 1, "{}", told.len());
        assert!(told[TOLD].message.ends_with("more mistakes are not told"), "{}", told[TOLD]);
    }

    #[test]
    fn depth_ends_in_an_error_and_not_in_an_overflow_of_the_stack() {
        // The parser lets 80 dotted parts stand in each of 80 inline tables.
        let dotted = vec!["a"; 79].join(".");
        let deep = format!("{dotted} = {}1{}\n", format!("{{ {dotted} = ").repeat(70), " }".repeat(70));
        let (table, report) = read(&deep);
        let told = report.of(Severity::Error).0;
        assert!(told.iter().any(|d| d.message.contains("more than 32 deep")), "{told:?}");
        assert!(!table.entries[0].item.is_valid());
        let (_, report) = read(&format!("a = {}1{}\n", "[".repeat(DEPTH), "]".repeat(DEPTH)));
        assert!(!report.has_errors(), "{:?}", report.of(Severity::Error));
    }
}
