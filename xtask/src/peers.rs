//! `perf --peers`: the server for one machine beside others of the same protocol, which are
//! installed as their registries have them.

use crate::project::{Project, output, run};
use crate::{server, setup};
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;

/// The programs that the measurements use, and the Debian package of each.
const PROGRAMS: [(&str, &str); 2] = [("wrk", "wrk"), ("perf", "linux-perf")];

/// Names and exact versions.
#[derive(Deserialize)]
struct Peers {
    crates: BTreeMap<String, String>,
    packages: BTreeMap<String, String>,
}

pub(crate) fn compare(project: &Project, rounds: u32) -> Result<ExitCode> {
    setup::node_packages(project)?;
    programs(project)?;
    install(project)?;
    server::build(project, None)?;
    run(project
        .cargo()
        .args(["build", "--quiet", "--release", "--package", "fan-out"])
        .env("CARGO_TARGET_DIR", project.path("target")))?;
    let status = project
        .command("node")
        .arg("tests/performance/peers.mjs")
        .args(["--rounds", &rounds.to_string()])
        .status()
        .context("cannot start Node")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn programs(project: &Project) -> Result<()> {
    let is_there = |program: &str| output(project.command("which").arg(program)).is_some();
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::Uid::effective().is_root() || !is_there("apt-get") {
        bail!(
            "programs are missing; on Debian: apt-get install {}",
            missing.join(" ")
        );
    }
    println!("installing {}", missing.join(", "));
    run(project
        .command("apt-get")
        .args(["install", "--yes"])
        .args(missing))
}

/// Installs each into a directory of .tools whose name has its version, so that an installed
/// version is never the wrong one.
fn install(project: &Project) -> Result<()> {
    let versions = fs::read_to_string(project.path("tests/performance/peers/versions.json"))?;
    let peers: Peers = serde_json::from_str(&versions).context("versions.json")?;
    for (name, version) in &peers.crates {
        let root = project.path(format!(".tools/{name}-{version}"));
        // Cargo writes this file last.
        if root.join(".crates.toml").exists() {
            continue;
        }
        println!("installing {name} {version} into .tools");
        run(project
            .cargo()
            .args(["install", name, "--version", version, "--locked", "--root"])
            .arg(root))?;
    }
    for (name, version) in &peers.packages {
        let root = project.path(format!(
            ".tools/{}-{version}",
            name.replace(['@', '/'], "_")
        ));
        // npm writes this file last.
        if root.join("node_modules/.package-lock.json").exists() {
            continue;
        }
        println!("installing {name} {version} into .tools");
        fs::create_dir_all(&root)?;
        // Its native parts come as packages of their own.
        run(project
            .command("npm")
            .args([
                "install",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--prefix",
            ])
            .arg(&root)
            .arg(format!("{name}@{version}")))?;
    }
    Ok(())
}
