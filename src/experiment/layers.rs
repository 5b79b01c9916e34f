//! The layers of an experiment and their merge: protocol < base files < the file < profile < environment < `--set`.
//!
//! Figment decides which layer wins; its tag on each value leads back to the layer, and the path to the place in that
//! layer's text. Tables are joined key by key, everything else is replaced whole.

use std::io::Read;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value as FigmentValue};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::Value;

use super::LoadOptions;
use super::document::{DEPTH, Entry, Item, ItemValue, Report, Span, Table, parse, parse_value};
use super::{grammar, protocols, suggest};

/// Most bytes that an experiment file has.
const LARGEST: u64 = 16 << 20;

/// The layers joined, with `extends` left out, and the protocol that was used.
pub(super) struct Merged {
    pub table: Table,
    /// The same without what the protocol says.
    pub written: Table,
    pub protocol: String,
}

/// Reads every layer. What could not be read is in the report; `None` when there is nothing to go on with.
pub(super) fn load(report: &mut Report, path: &Path, options: &LoadOptions) -> Option<Merged> {
    let mut files = Files::default();
    files.read(report, path, None);
    if report.has_errors() {
        return None;
    }
    let mut layers: Vec<Table> = files.layers.into_iter().map(|(_, table)| table).collect();
    if let Some(name) = &options.profile {
        layers.extend(profile(report, name, &layers));
    }
    let below = merge(&layers, None);
    for (name, value) in &options.environment {
        layers.extend(environment(report, name, value, &below));
    }
    for argument in &options.sets {
        layers.extend(set(report, argument, &below));
    }
    let written = merge(&layers, None);
    let (protocol, defaults) = protocols::layer(report, &written);
    Some(Merged { table: merge(&layers, defaults.as_ref()), written, protocol })
}

#[derive(Default)]
struct Files {
    /// File → its table, lowest first.
    layers: Vec<(PathBuf, Table)>,
    stack: Vec<PathBuf>,
}

impl Files {
    /// Reads a file after those that it extends; `from` is where another file names it.
    fn read(&mut self, report: &mut Report, path: &Path, from: Option<Span>) {
        let shown = path.display().to_string();
        let text = match text_of(path) {
            Ok(text) => text,
            Err(error) => {
                let is_text = error.kind() != std::io::ErrorKind::InvalidData;
                let reason = match error.kind() {
                    std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
                    std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
                    _ => error.to_string(),
                };
                match from {
                    Some(span) => report.error(
                        span,
                        format!("`{shown}` cannot be read: {reason}"),
                        "`extends` names files relative to the file that it stands in",
                    ),
                    None => report.error_nowhere(
                        format!("`{shown}` cannot be read: {reason}"),
                        match is_text {
                            true => "give the path of an experiment file",
                            false => "an experiment file is TOML in UTF-8: save it anew in that encoding",
                        },
                    ),
                }
                return;
            }
        };
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let (true, Some(span)) = (self.stack.contains(&identity), from) {
            let message = format!("`{shown}` extends itself");
            report.error(span, message, "take this name out of `extends`; a file cannot stand above itself");
            return;
        }
        if let Some(at) = self.layers.iter().position(|(known, _)| *known == identity) {
            // Named once more it lies above what came between; all that it says is said there again.
            let layer = self.layers.remove(at);
            self.layers.push(layer);
            return;
        }
        let source = report.add_source(shown, text);
        let mut table = parse(report, source);
        self.stack.push(identity.clone());
        if let Some(extends) = table.remove("extends") {
            let folder = path.parent().unwrap_or(Path::new(""));
            for item in extends.item.one_or_many() {
                match item.text() {
                    Some(base) => self.read(report, &folder.join(base), Some(item.span)),
                    None => report.error(
                        item.span,
                        "`extends` must be text or a list of texts",
                        "write `extends = \"base.toml\"`",
                    ),
                }
            }
        }
        self.stack.pop();
        self.layers.push((identity, table));
    }
}

/// The text of an experiment file; something endless (a device) is not read to its end.
fn text_of(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    match text.len() as u64 > LARGEST {
        true => Err(std::io::Error::other(format!("it has more than {} MiB", LARGEST >> 20))),
        false => Ok(text),
    }
}

/// The tables `[profiles.NAME]` of all files, lowest first.
fn profile(report: &mut Report, name: &str, layers: &[Table]) -> Vec<Table> {
    let profiles = |layer: &Table| layer.get("profiles").and_then(Item::table).cloned();
    let found: Vec<Table> =
        layers.iter().filter_map(|layer| profiles(layer)?.get(name).and_then(Item::table).cloned()).collect();
    if found.is_empty() {
        let source = report.add_source("--profile", name);
        let known: Vec<String> =
            layers.iter().filter_map(profiles).flat_map(|p| p.keys().map(str::to_owned).collect::<Vec<_>>()).collect();
        report.error(
            Span { source, start: 0, end: name.len() },
            format!("no profile `{name}`"),
            suggest::hint(name, "profiles", known.iter().map(String::as_str)),
        );
    }
    found
}

/// `SOCTOK_RUN__STORE=x` sets `run.store`. Variables that name no setting (`SOCTOK_LOG`) belong to others.
fn environment(report: &mut Report, name: &str, value: &str, below: &Table) -> Option<Table> {
    let rest = name.strip_prefix("SOCTOK_")?;
    let lowered = rest.to_lowercase();
    let path: Vec<&str> = lowered.split("__").collect();
    if path.len() == 1 && !matches!(path[0], "name" | "protocol") {
        return None;
    }
    let source = report.add_source("environment", format!("{name}={value}"));
    let mut start = "SOCTOK_".len();
    let mut keys = Vec::new();
    for segment in path {
        keys.push((segment.to_owned(), Span { source, start, end: start + segment.len() }));
        start += segment.len() + "__".len();
    }
    if !grammar::TOP_LEVEL.contains(&keys[0].0.as_str()) {
        let hint = suggest::hint(&keys[0].0, "first words", grammar::TOP_LEVEL.iter().copied());
        report.error(
            keys[0].1,
            format!("environment variable `{name}` sets nothing: unknown key `{}`", keys[0].0),
            hint,
        );
        return None;
    }
    if !is_there(report, &keys, below) {
        return None;
    }
    nested(report, keys, source, name.len() + 1)
}

/// Whether the files name what a setting from outside is to change (`data.NAME`, `stages.NAME`, …).
fn is_there(report: &mut Report, keys: &[(String, Span)], below: &Table) -> bool {
    let [(section, _), (name, span), ..] = keys else { return true };
    if section == "run" {
        return true;
    }
    let table = below.get(section).and_then(Item::table);
    if table.is_some_and(|table| table.get(name).is_some()) {
        return true;
    }
    let known: Vec<&str> = table.into_iter().flat_map(Table::keys).collect();
    let hint = suggest::hint(name, "names", known);
    report.error(*span, format!("there is no `{section}.{name}` to change"), hint);
    false
}

/// `--set stage.field=value`, or a path from the top: `data.x.path=…`, `run.device=…`, `axes.seed.values=[0]`.
fn set(report: &mut Report, argument: &str, below: &Table) -> Option<Table> {
    let source = report.add_source("--set", argument);
    let whole = Span { source, start: 0, end: argument.len() };
    let Some((mut keys, equals)) = key_path(argument, source) else {
        report.error(whole, format!("`{argument}` is no setting"), "write `--set stage.field=value`");
        return None;
    };
    let first = keys[0].0.clone();
    if !grammar::TOP_LEVEL.contains(&first.as_str()) {
        let stages = below.get("stages").and_then(Item::table);
        if stages.is_none_or(|stages| stages.get(&first).is_none()) {
            let known = stages.into_iter().flat_map(Table::keys).chain(grammar::TOP_LEVEL.iter().copied());
            let hint = suggest::hint(&first, "stages and keys", known);
            report.error(keys[0].1, format!("`--set` names no stage or key: `{first}`"), hint);
            return None;
        }
        keys.insert(0, ("stages".to_owned(), keys[0].1));
    }
    if matches!(first.as_str(), "extends" | "profiles") {
        report.error(
            keys[0].1,
            format!("`{first}` cannot be set"),
            "`--set` changes settings, not where they come from",
        );
        return None;
    }
    if !is_there(report, &keys, below) {
        return None;
    }
    nested(report, keys, source, equals + 1)
}

/// The keys before the first `=`, and where that stands. A part in quotes may hold dots.
fn key_path(argument: &str, source: usize) -> Option<(Vec<(String, Span)>, usize)> {
    let mut keys = Vec::new();
    let (mut quote, mut start) = (None, 0);
    for (at, character) in argument.char_indices() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '.' | '=') => {
                let key = argument[start..at].trim().trim_matches(['"', '\'']);
                if key.is_empty() {
                    return None;
                }
                keys.push((key.to_owned(), Span { source, start, end: at }));
                if character == '=' {
                    return Some((keys, at));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    None
}

/// The rest of a source as a TOML value, or as text when it is none.
fn bare(report: &mut Report, source: usize, offset: usize) -> Item {
    parse_value(report, source, offset).unwrap_or_else(|| {
        let text = report.sources[source].text[offset..].trim().to_owned();
        let end = report.sources[source].text.len();
        Item { span: Span { source, start: offset, end }, value: ItemValue::Scalar(Value::String(text)) }
    })
}

/// A table of tables down to the value that stands at `offset` of a source.
fn nested(report: &mut Report, keys: Vec<(String, Span)>, source: usize, offset: usize) -> Option<Table> {
    if let Some((_, span)) = keys.get(DEPTH) {
        report.error(*span, format!("the setting has {} parts", keys.len()), "name a setting that a stage has");
        return None;
    }
    let value = bare(report, source, offset);
    let mut table = Table::default();
    let mut inner = Some(value);
    for (key, key_span) in keys.into_iter().rev() {
        let item = match inner.take() {
            Some(item) => item,
            None => Item { span: key_span, value: ItemValue::Table(std::mem::take(&mut table)) },
        };
        table = Table { entries: vec![Entry { key, key_span, item }] };
    }
    Some(table)
}

struct Layer<'a> {
    index: usize,
    table: &'a Table,
}

impl Provider for Layer<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.index.to_string())
    }

    fn data(&self) -> Result<figment::value::Map<Profile, Dict>, figment::Error> {
        Ok(figment::value::Map::from([(Profile::Default, dict(self.table))]))
    }
}

/// A table for Figment. Of what is no table only the tag is read back, so its text will do.
fn dict(table: &Table) -> Dict {
    let value = |item: &Item| match &item.value {
        ItemValue::Table(table) => FigmentValue::from(dict(table)),
        _ => FigmentValue::from(item.plain().to_string()),
    };
    table.entries.iter().map(|entry| (entry.key.clone(), value(&entry.item))).collect()
}

/// Joins the layers, lowest first; `defaults` lies below them all.
fn merge(layers: &[Table], defaults: Option<&Table>) -> Table {
    let mut figment = Figment::new();
    for (index, table) in layers.iter().enumerate() {
        figment = figment.merge(Layer { index, table });
    }
    if let Some(table) = defaults {
        figment = figment.join(Layer { index: layers.len(), table });
    }
    let tables: Vec<Option<&Table>> = layers.iter().map(Some).chain([defaults]).collect();
    match figment.data() {
        Ok(mut data) => place(&figment, &data.remove(&Profile::Default).unwrap_or_default(), &tables),
        Err(_) => Table::default(),
    }
}

/// Figment's result with the places that its tags lead to, in the order in which the layers first name the keys.
fn place(figment: &Figment, merged: &Dict, layers: &[Option<&Table>]) -> Table {
    let mut joined = Table::default();
    for entry in layers.iter().flatten().flat_map(|layer| &layer.entries) {
        let Some(value) = merged.get(&entry.key) else { continue };
        if joined.get(&entry.key).is_some() {
            continue;
        }
        match value {
            FigmentValue::Dict(_, inner) => {
                let below: Vec<Option<&Table>> =
                    layers.iter().map(|layer| layer.and_then(|table| table.get(&entry.key)?.table())).collect();
                let value = ItemValue::Table(place(figment, inner, &below));
                let owner = first_table(layers, &entry.key).unwrap_or(entry);
                joined.entries.push(Entry {
                    key: entry.key.clone(),
                    key_span: owner.key_span,
                    item: Item { span: owner.item.span, value },
                });
            }
            leaf => {
                let layer = figment.get_metadata(leaf.tag()).and_then(|metadata| metadata.name.parse::<usize>().ok());
                let winner = layer.and_then(|index| layers.get(index).copied().flatten()?.entry(&entry.key));
                joined.entries.push(winner.unwrap_or(entry).clone());
            }
        }
    }
    joined
}

/// The entry that a joined table begins with: the lowest above the last layer that says something else under this key.
/// The last of `layers` lies below all others.
fn first_table<'a>(layers: &[Option<&'a Table>], key: &str) -> Option<&'a Entry> {
    let (defaults, above) = layers.split_last()?;
    let entries = std::iter::once(defaults).chain(above).filter_map(|layer| layer.and_then(|table| table.entry(key)));
    // From the top down to the first that is no table.
    let tables: Vec<&Entry> = entries.collect();
    tables.into_iter().rev().take_while(|entry| entry.item.table().is_some()).last()
}
