//! The outer layer, which is a program of its own (`sim/turmoil`): it needs the server and its
//! libraries, and a tokio that can be told in which order to do things.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use super::root;

/// What it is compiled with.
pub(crate) fn flags() -> OsString {
    let mut flags = std::env::var_os("RUSTFLAGS").unwrap_or_default();
    flags.push(" --cfg tokio_unstable");
    flags
}

/// Builds and runs it.
pub(crate) fn turmoil(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let status = Command::new(cargo)
        .args([
            "run",
            "--quiet",
            "--profile",
            "sim",
            "--package",
            "sim-turmoil",
            "--",
        ])
        .args(arguments)
        .env("RUSTFLAGS", flags())
        // It would replace the flags.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(root())
        .status()
        .context("cannot run cargo")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
