//! Protocols: named sets of defaults by stage kind, as TOML files in `protocols/`.
//!
//! What a protocol says lies above the built-in defaults of a kind and below everything that a file says. Which value
//! comes from where is told in each file. Values that differ between captions and dialogues stand under `captions` and
//! `dialogue`: a stage whose `samples` is `next_word` is about captions, one with `next_utterance` about a dialogue, and a
//! stage that has no `samples` goes with the others of the file where these agree. Under `alone` stands what a stage
//! without `projector` gets, since it has no training to take these settings over from.

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
    let sections = parse(report, source);
    let about = material(merged);
    let stages = merged.get("stages").and_then(Item::table).into_iter().flat_map(|stages| &stages.entries);
    let entries: Vec<Entry> = stages
        .filter_map(|stage| {
            let table = stage.item.table()?;
            let kind = table.get("kind")?.text()?;
            let about = table.get("samples").map_or(about, section_of);
            let alone = table.get("projector").is_none();
            let keyed = about.and_then(|about| sections.get(about)?.table());
            let own = [Some(&sections), keyed].into_iter().flatten().flat_map(|section| {
                let alone = section.get("alone").and_then(Item::table).filter(|_| alone);
                [Some(section), alone]
            });
            let tables = own.flatten().filter_map(|section| section.entry(kind));
            tables.cloned().reduce(joined).map(|defaults| Entry { key: stage.key.clone(), ..defaults })
        })
        .collect();
    let Some(span) = entries.first().map(|entry| entry.key_span) else {
        return (name.to_owned(), None);
    };
    let stages = Item { span, value: ItemValue::Table(Table { entries }) };
    let layer = Table { entries: vec![Entry { key: "stages".to_owned(), key_span: span, item: stages }] };
    (name.to_owned(), Some(layer))
}

/// The section that goes with a value of `samples`.
fn section_of(samples: &Item) -> Option<&'static str> {
    match samples.text()? {
        "next_word" => Some("captions"),
        "next_utterance" => Some("dialogue"),
        _ => None,
    }
}

/// The section that all stages with `samples` agree on.
fn material(merged: &Table) -> Option<&'static str> {
    let stages = merged.get("stages").and_then(Item::table).into_iter().flat_map(|stages| &stages.entries);
    let mut sections = stages.filter_map(|stage| Some(section_of(stage.item.table()?.get("samples")?)));
    let first = sections.next()??;
    sections.all(|section| section == Some(first)).then_some(first)
}

/// Two tables of settings as one; the second wins.
fn joined(mut first: Entry, second: Entry) -> Entry {
    if let (ItemValue::Table(below), ItemValue::Table(above)) = (&mut first.item.value, second.item.value) {
        for entry in above.entries {
            below.remove(&entry.key);
            below.entries.push(entry);
        }
    }
    first
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
            let sections = parse(&mut report, source);
            let nested = |path: &[&str]| {
                let table = path.iter().try_fold(&sections, |table, key| table.get(key)?.table());
                table.map(|table| table.entries.clone()).unwrap_or_default()
            };
            let paths: [&[&str]; 6] =
                [&[], &["captions"], &["dialogue"], &["alone"], &["captions", "alone"], &["dialogue", "alone"]];
            let entries: Vec<Entry> = paths.into_iter().flat_map(nested).collect();
            for entry in entries.iter().filter(|entry| !matches!(entry.key.as_str(), "captions" | "dialogue" | "alone"))
            {
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
