//! The binary: parses arguments, calls the command, turns what came of it into an exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = soctok::cli::Arguments::parse();
    soctok::execute::log::init();
    ExitCode::from(soctok::cli::call(arguments))
}
