//! The outer layer. It is a separate program (`sim/turmoil`), because it needs the server, its
//! libraries, and a tokio that is built to be repeatable.

use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::Result;

use sim::layer::cargo;

use super::exit;

/// Builds and runs it.
pub(crate) fn turmoil(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<ExitCode> {
    let mut flags = std::env::var_os("RUSTFLAGS").unwrap_or_default();
    flags.push(" --cfg tokio_unstable");
    let command = [
        "run",
        "--quiet",
        "--profile",
        "sim",
        "--package",
        "sim-turmoil",
        "--",
    ];
    let mut cargo = cargo();
    cargo
        .args(command)
        .args(arguments)
        .env("RUSTFLAGS", flags)
        // The encoded flags would replace these.
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    exit(&mut cargo)
}
