//! The experiment as one file: what all files, the profile, the environment and `--set` say together.
//!
//! It loads to the same points wherever it lies. What belongs to the place where it ran (`[run]`, but for `targets`) and
//! what was chosen already (`extends`, `[profiles]`) is left out, and so is what the protocol says: the file names it.

use std::fmt::Write;

use super::document::{Item, Report, Table};
use super::show::{inline, key};

/// The text; reading it and writing it again gives the same. The comment at the head of the file stays, since it says
/// what is asked. The first source of `report` is the file.
pub(super) fn text(report: &Report, written: &Table, protocol: &str) -> String {
    let source = report.sources.first().map_or("", |source| source.text.as_str());
    let head = source.lines().take_while(|line| line.starts_with('#')).filter(|line| !line.starts_with("#:"));
    let mut out: String = head.map(|line| format!("{}\n", line.trim_end())).collect();
    if !out.is_empty() {
        out.push('\n');
    }
    let name = written.get("name").and_then(Item::text).unwrap_or_default();
    let _ = writeln!(out, "name = {}\nprotocol = {}", inline(&name.into()), inline(&protocol.into()));
    let targets = written.get("run").and_then(Item::table).and_then(|run| run.get("targets"));
    if let Some(targets) = targets {
        let _ = writeln!(out, "\n[run]\ntargets = {}", value(targets));
    }
    let dropped = ["name", "protocol", "extends", "profiles", "run"];
    for section in written.entries.iter().filter(|section| !dropped.contains(&section.key.as_str())) {
        for named in section.item.table().into_iter().flat_map(|table| &table.entries) {
            let _ = writeln!(out, "\n[{}.{}]", key(&section.key), key(&named.key));
            for field in named.item.table().into_iter().flat_map(|table| &table.entries) {
                match field.item.table().filter(|table| !table.entries.is_empty()) {
                    // A line for each entry, in their order: that of an axis' values is the order of the points.
                    Some(table) => table.entries.iter().for_each(|entry| {
                        let _ = writeln!(out, "{}.{} = {}", key(&field.key), key(&entry.key), value(&entry.item));
                    }),
                    None => {
                        let _ = writeln!(out, "{} = {}", key(&field.key), value(&field.item));
                    }
                }
            }
        }
    }
    out
}

/// A value in one line of TOML.
fn value(item: &Item) -> String {
    inline(&item.plain())
}
