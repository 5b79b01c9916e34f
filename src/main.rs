//! The binary: the command line with the built-in stage kinds.

use std::process::ExitCode;

/// A plan is many small pieces: with the system's allocator a third of its time goes into giving them out and taking them
/// back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    soctok::cli::main(soctok::stages::kinds)
}
