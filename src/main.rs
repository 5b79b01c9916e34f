//! The binary: the command line with the built-in stage kinds.

use std::process::ExitCode;

fn main() -> ExitCode {
    soctok::cli::main(soctok::stages::kinds)
}
