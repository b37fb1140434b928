//! One module per command, and what they share.

pub(crate) mod explore;
pub(crate) mod fidelity;
pub(crate) mod meta;
pub(crate) mod mutants;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod turmoil;
mod watch;
pub(crate) mod writers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// The directory of the workspace.
pub(crate) fn root() -> &'static Path {
    let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
    sim.parent().unwrap_or(sim)
}

/// Where what is found is put.
pub(crate) fn findings() -> Result<PathBuf> {
    let directory = root().join("target/sim-findings");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// A number that follows from the git commit, so that a red run names its own seeds.
pub(crate) fn commit_number() -> u64 {
    let commit = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(root())
        .output();
    let text = commit
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    // Half of the numbers are room enough for the seeds that follow.
    text.get(..16)
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .map_or(0, |number| number >> 1)
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long it takes is no part of a run"
)]
pub(crate) fn clock() -> Instant {
    Instant::now()
}
