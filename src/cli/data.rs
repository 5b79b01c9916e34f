//! `soctok data check`: what a folder of data holds, what it lacks, what is odd in it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::Failure;
use crate::data::{self, Name, Odd, Options, Report};

/// How many oddities of one kind are printed; `--json` has all.
const SHOWN: usize = 10;

/// Looks at `folder` and prints what is there. Fails when something is odd, or when there is nothing that soctok knows.
pub fn check(folder: &Path, options: &Options, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if !folder.is_dir() {
        let text = format!("there is no folder `{}`\nhint: name the folder that the data lies in", folder.display());
        return Err(Failure::Usage(text));
    }
    let report = data::check(folder, options);
    if json {
        let mut facts = json!(report);
        facts["folder"] = folder.to_string_lossy().into();
        writeln!(out, "{facts:#}")?;
    } else {
        print(folder, &report, out)?;
    }
    if report.found.is_empty() && report.odd.is_empty() {
        let text = format!(
            "`{}` holds nothing that soctok reads\nhint: docs/data.md lists the forms of text, frames, features and packs",
            folder.display()
        );
        return Err(Failure::Usage(text));
    }
    match report.odd.len() {
        0 => Ok(()),
        count => Err(Failure::Odd(format!("{count} things are odd in `{}`", folder.display()))),
    }
}

fn print(folder: &Path, report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", folder.display())?;
    for found in &report.found {
        let unit = if found.form == data::Form::Videos { "files" } else { "clips" };
        let counted = if found.clips > 0 { format!("{} {unit}, ", found.clips) } else { String::new() };
        let (form, place, size) = (found.form.name(), &found.place, &found.size);
        writeln!(out, "  {form:<26} {place}: {counted}{size}; for {}", found.form.taken_by())?;
    }
    for missing in &report.missing {
        writeln!(out, "  missing                    {missing}")?;
    }
    for note in &report.notes {
        writeln!(out, "  note                       {note}")?;
    }
    let mut kinds: BTreeMap<Name, Vec<&Odd>> = BTreeMap::new();
    for odd in &report.odd {
        kinds.entry(odd.name).or_default().push(odd);
    }
    for (name, odd) in kinds {
        writeln!(out, "{} ({})", name.text(), odd.len())?;
        for Odd { place, clip, message, .. } in odd.iter().take(SHOWN) {
            let clip = clip.as_ref().map(|clip| format!(", clip `{clip}`")).unwrap_or_default();
            writeln!(out, "  {place}{clip}: {message}")?;
        }
        if odd.len() > SHOWN {
            writeln!(out, "  and {} more", odd.len() - SHOWN)?;
        }
    }
    if report.odd.is_empty() && !report.found.is_empty() {
        writeln!(out, "nothing odd")?;
    }
    Ok(())
}
