//! `clients`: runs published clients of the protocol, as their registries have them, against a
//! shell.

use crate::project::{Project, output, run};
use crate::setup;
use crate::suite::{Shell, Suite};
use anyhow::{Context as _, Result, bail, ensure};
use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

const TESTS: &str = "tests/clients";
const PYTHON: &str = ".tools/python-clients";
/// The directory from which the tests of the clients' own repository are run, so that they find our
/// packages.
const UPSTREAM: &str = "tests/clients/upstream";
const UPSTREAM_TESTS: [&str; 1] = ["packages/y-durable-streams/test/yjs-conformance.test.ts"];

/// Runs the clients. `upstream` is a checkout of the clients' repository, whose own tests run as
/// well.
pub(crate) fn clients(
    project: &Project,
    shell: Shell,
    upstream: Option<&Path>,
) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "clients", shell)?;
    packages(project)?;
    shell.build(project, None)?;
    if let Some(checkout) = upstream {
        copy_tests(project, checkout)?;
        suite.environment("CLIENTS_UPSTREAM", "1");
    }
    suite.run()
}

/// Installs the clients. When both shells are tested at once, one installs and the other waits.
fn packages(project: &Project) -> Result<()> {
    fs::create_dir_all(project.path(".tools"))?;
    let lock = File::create(project.path(".tools/clients.lock"))?;
    lock.lock()?;
    setup::node_packages_in(project, TESTS)?;
    python_packages(project)
}

/// Installs the Python client, and the source of its package with its tests.
fn python_packages(project: &Project) -> Result<()> {
    let requirements = project.path("tests/clients/python/requirements.txt");
    let client = project.path("tests/clients/python/durable-streams.txt");
    let wanted = [
        fs::read_to_string(&requirements)?,
        fs::read_to_string(&client)?,
    ]
    .concat();
    let root = project.path(PYTHON);
    // Written last, so that an interrupted installation does not count.
    let installed = root.join("installed");
    if fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    if output(project.command("python3").arg("--version")).is_none() {
        bail!(
            "Python is missing: install version 3.10 or later with its module venv (https://python.org)"
        );
    }
    println!("installing Python packages into .tools");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let source = root.join("source/packages/client-py");
    fs::create_dir_all(&source)?;
    let environment = root.join("venv");
    run(project
        .command("python3")
        .args(["-m", "venv"])
        .arg(&environment))?;
    let pip = || {
        let mut command = project.command(environment.join("bin/python"));
        command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
        command
    };
    run(pip()
        .args(["install", "--require-hashes", "-r"])
        .arg(&requirements))?;
    let archives = root.join("archives");
    run(pip()
        .args([
            "download",
            "--no-deps",
            "--no-build-isolation",
            "--no-binary",
            ":all:",
        ])
        .args(["--require-hashes", "--dest"])
        .arg(&archives)
        .arg("-r")
        .arg(&client))?;
    for archive in fs::read_dir(&archives)? {
        run(project
            .command("tar")
            .args(["--strip-components=1", "-xzf"])
            .arg(archive?.path())
            .arg("-C")
            .arg(&source))?;
    }
    run(pip()
        .args(["install", "--no-deps", "--no-build-isolation"])
        .arg(&source))?;
    fs::write(&installed, wanted)?;
    Ok(())
}

fn copy_tests(project: &Project, checkout: &Path) -> Result<()> {
    for test in UPSTREAM_TESTS {
        let (from, to) = (checkout.join(test), project.path(UPSTREAM).join(test));
        ensure!(from.is_file(), "{} has no {test}", checkout.display());
        let directory = to.parent().context("a test lies in a directory")?;
        fs::create_dir_all(directory)?;
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}
