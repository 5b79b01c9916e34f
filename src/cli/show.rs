//! `soctok show`: the resolved experiment with the origin of each value.

use std::io::{self, Write};

use crate::experiment::Shown;

/// Prints it as TOML that loads to the same points, or as JSON.
pub fn run(shown: &Shown, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json { writeln!(out, "{:#}", shown.json) } else { out.write_all(shown.toml.as_bytes()) }
}
