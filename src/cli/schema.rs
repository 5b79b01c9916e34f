//! `soctok schema`: JSON Schemas of experiment files and of the kinds, for editors.

use std::io::{self, Write};
use std::path::Path;

use crate::experiment::schema;
use crate::{comparisons, stages::Kind};

/// Prints the schema of experiment files, or writes all schemas into `folder` and names what it wrote.
pub fn run(kinds: &[Kind], folder: Option<&Path>, out: &mut dyn Write) -> io::Result<()> {
    let Some(folder) = folder else {
        return writeln!(out, "{:#}", schema::experiment(kinds, &comparisons::kinds()));
    };
    for (name, text) in schema::files(kinds, &comparisons::kinds()) {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, text)?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}
