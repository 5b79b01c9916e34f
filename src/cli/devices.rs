//! `soctok devices`: what this build and this machine can compute on.

use std::io::Write;

use serde_json::json;

use super::Failure;
use crate::models::device::{DeviceError, available};

/// Prints each device, and for one that cannot be used the reason and the cure.
pub fn run(json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let devices = available();
    if json {
        let listed: Vec<_> = devices
            .iter()
            .map(|(name, state)| {
                let problem = state.as_ref().err().map(DeviceError::to_string);
                json!({ "device": name, "usable": problem.is_none(), "problem": problem })
            })
            .collect();
        writeln!(out, "{:#}", json!(listed))?;
        return Ok(());
    }
    for (name, state) in &devices {
        match state {
            Ok(()) => writeln!(out, "{name:<12} usable")?,
            Err(error) => writeln!(out, "{name:<12} {}", error.to_string().replace('\n', "; "))?,
        }
    }
    Ok(())
}
