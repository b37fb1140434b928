//! The build of the server for one machine. Each variant has its own directory.

use crate::bundle::Feature;
use crate::project::{Project, run};
use anyhow::{Context as _, Result};
use std::fs::{self, File};

const PROGRAM: &str = "durable-streams";

pub(crate) fn build(project: &Project, feature: Option<Feature>) -> Result<()> {
    let (mut command, profile, directory) = match feature {
        None => (project.cargo(), "release", "target/server"),
        // With every assertion on.
        Some(_) => (project.cargo_sim(), "sim", "target/server-test"),
    };
    command.args(["build", "--quiet", "--package", "durable-streams-server"]);
    if let Some(feature) = feature {
        command.args(["--features", feature.name()]);
    }
    command
        // Other builds may use another target directory. The program is always taken from this one.
        .env("CARGO_TARGET_DIR", project.path("target"));
    run(command.args(["--profile", profile]))?;
    fs::create_dir_all(project.path(directory))?;
    // Several suites can begin at once, and each builds what it tests.
    let lock = File::create(project.path(directory).with_extension("lock"))?;
    lock.lock()?;
    // It is moved to its place whole, so that a test which runs meanwhile keeps the program that it
    // has started.
    let fresh = project.path(directory).join("fresh");
    let built = project.path("target").join(profile).join(PROGRAM);
    fs::copy(&built, &fresh).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::rename(fresh, project.path(directory).join(PROGRAM))?;
    Ok(())
}
