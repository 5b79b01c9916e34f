//! Drives the real binary in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Two notes, one after the other, and an axis over the second.
#[allow(dead_code, reason = "every test file includes this module and uses a part of it")]
pub const NOTES: &str = r#"
name = "notes"

[stages.first]
kind = "note"
text = "one"

[stages.second]
kind = "note"
text = "two"
after = "stage:first"

[axes.ending]
to = ["second.text"]
values = ["two", "three"]
"#;

/// A temporary folder in which soctok runs.
pub struct Folder(tempfile::TempDir);

#[allow(dead_code, reason = "every test file includes this module and uses a part of it")]
impl Folder {
    /// An empty folder.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("makes the folder");
        std::fs::write(&path, text).expect("writes");
        path
    }

    /// The command `soctok ARGUMENTS` in the folder, with no setting from outside.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soctok"));
        command.args(arguments).current_dir(self.path()).env_remove("RUST_BACKTRACE").env_remove("RUST_LOG");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SOCTOK_")) {
            command.env_remove(name);
        }
        // What soctok learns of the machine stays in the folder.
        command.env("XDG_CACHE_HOME", self.path().join("cache"));
        command
    }

    /// Runs it and returns what came of it.
    pub fn soctok(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("soctok starts")
    }

    /// Runs it; it must end with 0. Returns stdout.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.soctok(arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "soctok {arguments:?}\nstdout: {stdout}\nstderr: {stderr}");
        stdout
    }

    /// Runs it with `--json`; it must end with 0.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let stdout = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
    }
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
