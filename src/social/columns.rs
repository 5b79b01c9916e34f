//! Columns of CSV files by name, and errors that name the file.

use std::path::{Path, PathBuf};

use crate::stages::{Result, StageError};

/// The header of a CSV file.
pub(crate) struct Columns {
    path: PathBuf,
    names: Vec<String>,
}

impl Columns {
    /// Reads the header.
    pub(crate) fn of(path: &Path, reader: &mut csv::Reader<std::fs::File>) -> Result<Self> {
        let header = reader.headers().map_err(|error| broken(path, &error))?;
        Ok(Self { path: path.to_owned(), names: header.iter().map(|name| name.trim().to_owned()).collect() })
    }

    /// The place of a column that may be missing.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// The place of a column that must be there.
    pub(crate) fn need(&self, name: &str) -> Result<usize> {
        self.find(name).ok_or_else(|| {
            StageError::hint(
                format!("`{}` has no column `{name}`", self.path.display()),
                format!("its first line names the columns `{}`", self.names.join(",")),
            )
        })
    }
}

/// The error of a CSV file that cannot be read or written.
pub(crate) fn broken(path: &Path, error: &csv::Error) -> StageError {
    StageError::new(format!("`{}`: {error}", path.display()))
}
