//! The commands of the inner layer alone, one module each.

pub(crate) mod explore;
pub(crate) mod fidelity;
pub(crate) mod meta;
pub(crate) mod turmoil;
pub(crate) mod writers;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

/// Runs cargo in the foreground, and returns how it exits.
fn exit(cargo: &mut Command) -> Result<ExitCode> {
    let status = cargo.status().context("cannot run cargo")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
