//! The build of the server for one machine. Each variant has its own directory.

use crate::bundle::Feature;
use crate::project::{Project, run};
use anyhow::{Context as _, Result};
use std::fs;

const PROGRAM: &str = "durable-streams";

pub(crate) fn build(project: &Project, feature: Option<Feature>) -> Result<()> {
    let mut command = project.cargo();
    command
        .args(["build", "--quiet", "--package", "durable-streams-server"])
        // Other builds may use another target directory. The program is always taken from this one.
        .env("CARGO_TARGET_DIR", project.path("target"));
    let (profile, directory) = match feature {
        None => ("release", "target/server"),
        Some(feature) => {
            command.args(["--features", feature.name()]);
            // With every assertion on.
            ("sim", "target/server-test")
        }
    };
    run(command.args(["--profile", profile]))?;
    fs::create_dir_all(project.path(directory))?;
    // It is moved to its place whole, so that a test which runs meanwhile keeps the program that it
    // has started.
    let fresh = project.path(directory).join("fresh");
    let built = project.path("target").join(profile).join(PROGRAM);
    fs::copy(&built, &fresh).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::rename(fresh, project.path(directory).join(PROGRAM))?;
    Ok(())
}
