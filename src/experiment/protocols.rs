//! Protocols: named sets of defaults by stage kind, as TOML files in `protocols/`.
//!
//! What a protocol says lies above the built-in defaults of a kind and below everything that a file says. Which value
//! comes from where is told in each file.

use super::document::{Entry, Item, ItemValue, Report, Table, parse};

/// Name → text.
pub(super) const PROTOCOLS: &[(&str, &str)] = &[
    ("controlled", include_str!("protocols/controlled.toml")),
    ("paper-2025", include_str!("protocols/paper-2025.toml")),
    ("repo-2025-12", include_str!("protocols/repo-2025-12.toml")),
];

/// The protocol when a file names none.
pub(super) const DEFAULT: &str = "controlled";

/// Names of all protocols.
pub(super) fn names() -> Vec<&'static str> {
    PROTOCOLS.iter().map(|(name, _)| *name).collect()
}

/// The protocol that `merged` names, and its defaults as a layer for the stages of `merged`.
pub(super) fn layer(report: &mut Report, merged: &Table) -> (String, Option<Table>) {
    let named = merged.get("protocol");
    let name = named.and_then(Item::text).unwrap_or(DEFAULT);
    // An unknown name is reported by the check of the whole file.
    let Some((_, text)) = PROTOCOLS.iter().find(|(known, _)| *known == name) else { return (name.to_owned(), None) };
    let source = report.add_source(format!("protocol {name}"), *text);
    let kinds = parse(report, source);
    let stages = merged.get("stages").and_then(Item::table).into_iter().flat_map(|stages| &stages.entries);
    let entries: Vec<Entry> = stages
        .filter_map(|stage| {
            let kind = stage.item.table()?.get("kind")?.text()?;
            let defaults = kinds.entry(kind)?;
            Some(Entry { key: stage.key.clone(), ..defaults.clone() })
        })
        .collect();
    let Some(span) = entries.first().map(|entry| entry.key_span) else {
        return (name.to_owned(), None);
    };
    let stages = Item { span, value: ItemValue::Table(Table { entries }) };
    let layer = Table { entries: vec![Entry { key: "stages".to_owned(), key_span: span, item: stages }] };
    (name.to_owned(), Some(layer))
}

#[cfg(test)]
mod tests {
    use super::super::check::Checker;
    use super::super::diagnostic::Severity;
    use super::*;

    #[test]
    fn protocols_name_only_fields_and_values_that_their_kinds_have() {
        let kinds = crate::stages::kinds();
        for (name, text) in PROTOCOLS {
            let mut report = Report::default();
            let source = report.add_source(format!("protocols/{name}.toml"), *text);
            for entry in parse(&mut report, source).entries {
                let Some(kind) = kinds.iter().find(|kind| kind.name == entry.key) else {
                    panic!("protocol {name}: no kind `{}`", entry.key);
                };
                let table = entry.item.table().expect("a table of settings");
                let what = format!("kind `{}`", kind.name);
                Checker::partial(&mut report).table(table, entry.key_span, &kind.schema, &what, &Default::default());
            }
            assert!(!report.has_errors(), "{}", report.of(Severity::Error));
        }
    }
}
