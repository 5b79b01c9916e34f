//! Provenance: who made a result, from what code, where.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

/// Facts that do not change while the process lives: binary, versions, host, CPU, command line. Part of every
/// `step.json`.
pub fn process() -> &'static Value {
    static FACTS: OnceLock<Value> = OnceLock::new();
    FACTS.get_or_init(|| {
        json!({
            "soctok": env!("CARGO_PKG_VERSION"),
            "build": build(),
            "features": features(),
            "host": super::lease::host(),
            "cpu": cpu(),
            "threads": rayon::current_num_threads(),
            "command": std::env::args().map(|argument| without_secrets(&argument)).collect::<Vec<_>>(),
        })
    })
}

/// Facts of one run on top of [`process`]: the commit of the working folder and what is not committed.
pub fn run(folder: &Path) -> Value {
    let mut facts = process().clone();
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    };
    facts["commit"] = git(&["rev-parse", "HEAD"]).into();
    facts["uncommitted"] = git(&["diff", "HEAD"]).filter(|diff| !diff.is_empty()).into();
    facts
}

/// Peak resident memory of this process so far, in bytes (0 where the system does not tell).
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Digest of the running binary: tells two builds of one commit apart.
fn build() -> Option<String> {
    let path = std::env::current_exe().ok()?;
    super::digest::digest_file(&path).ok().map(|digest| digest.to_hex()[..16].to_owned())
}

fn features() -> Vec<&'static str> {
    [("cpu", cfg!(feature = "cpu")), ("cuda", cfg!(feature = "cuda")), ("tch", cfg!(feature = "tch"))]
        .into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect()
}

fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A token given on the command line (`hf_…`) is not kept.
fn without_secrets(argument: &str) -> String {
    match argument.find("hf_") {
        Some(start) => format!("{}hf_…", &argument[..start]),
        None => argument.to_owned(),
    }
}
