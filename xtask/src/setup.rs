//! Installs what the commands need, if it is missing or has another version.

use crate::project::{Project, output, run};
use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

const CHROMIUM: &str = "/usr/bin/chromium-headless-shell";
const NODE_MAJOR_MIN: u32 = 20;
/// The version whose mutants `machine/mutants.toml` names.
const CARGO_MUTANTS: &str = "27.1.0";
pub(crate) const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// The programs that make a Worker from a Rust crate.
pub(crate) struct BuildTools {
    pub(crate) wasm_bindgen: PathBuf,
    pub(crate) worker_build: PathBuf,
}

pub(crate) fn all(project: &Project) -> Result<()> {
    let tools = build_tools(project)?;
    node_packages(project)?;
    chromium(project)?;
    println!("target        {WASM_TARGET}");
    println!("wasm-bindgen  {}", tools.wasm_bindgen.display());
    println!("worker-build  {}", tools.worker_build.display());
    println!("npm packages  {}", project.path("node_modules").display());
    Ok(())
}

pub(crate) fn build_tools(project: &Project) -> Result<BuildTools> {
    wasm_target(project)?;
    // Each tool must have the version of its crate in Cargo.lock.
    let lock: toml::Table = fs::read_to_string(project.path("Cargo.lock"))?
        .parse()
        .context("Cargo.lock")?;
    Ok(BuildTools {
        wasm_bindgen: cargo_tool(
            project,
            "wasm-bindgen",
            "wasm-bindgen-cli",
            locked_version(&lock, "wasm-bindgen")?,
            &["--version"],
            // Its test runner alone needs TLS, which takes long to build.
            &["--no-default-features"],
        )?,
        worker_build: cargo_tool(
            project,
            "worker-build",
            "worker-build",
            locked_version(&lock, "worker")?,
            &["--version"],
            &[],
        )?,
    })
}

/// Installs the program that lists the mutants, if it is missing.
pub(crate) fn cargo_mutants(project: &Project) -> Result<PathBuf> {
    let package = "cargo-mutants";
    let ask = ["mutants", "--version"];
    cargo_tool(project, package, package, CARGO_MUTANTS, &ask, &[])
}

pub(crate) fn node_packages(project: &Project) -> Result<()> {
    node_packages_in(project, ".")
}

/// Installs the packages of the lock file in a directory of the project.
pub(crate) fn node_packages_in(project: &Project, directory: &str) -> Result<()> {
    node(project)?;
    let directory = project.path(directory);
    // npm writes this file last, so that an interrupted installation does not count.
    let installed = modified(&directory.join("node_modules/.package-lock.json"));
    let wanted = modified(&directory.join("package-lock.json"));
    if installed.is_some() && installed >= wanted {
        return Ok(());
    }
    println!("installing npm packages");
    // The packages' own install scripts only look for other ways to get what npm has just
    // installed.
    run(project.command("npm").current_dir(&directory).args([
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
    ]))
}

/// Installs Chromium, in which tests use the server as a web page does. The program that has no
/// window starts in a third of the time. `CHROMIUM` names another program than Debian's.
pub(crate) fn chromium(project: &Project) -> Result<()> {
    if std::env::var_os("CHROMIUM").is_some() || Path::new(CHROMIUM).exists() {
        return Ok(());
    }
    let is_root = output(project.command("id").arg("-u")).as_deref() == Some("0");
    if !is_root || output(project.command("apt-get").arg("--version")).is_none() {
        println!(
            "Chromium is missing, and the tests in a browser will fail: apt-get install chromium-headless-shell, or name one in CHROMIUM"
        );
        return Ok(());
    }
    println!("installing Chromium");
    run(project.command("apt-get").args(["update", "--quiet=2"]))?;
    run(project
        .command("apt-get")
        .args([
            "install",
            "--yes",
            "--quiet=2",
            "--no-install-recommends",
            "chromium-headless-shell",
        ])
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

fn node(project: &Project) -> Result<()> {
    let Some(version) = output(project.command("node").arg("--version")) else {
        bail!("Node is missing: install version {NODE_MAJOR_MIN} or later (https://nodejs.org)");
    };
    match node_major(&version) {
        Some(major) if major >= NODE_MAJOR_MIN => Ok(()),
        Some(_) | None => {
            bail!(
                "Node {version} is too old: install version {NODE_MAJOR_MIN} or later (https://nodejs.org)"
            )
        }
    }
}

fn node_major(version: &str) -> Option<u32> {
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

pub(crate) fn wasm_target(project: &Project) -> Result<()> {
    let libraries = output(project.command("rustc").args([
        "--print",
        "target-libdir",
        "--target",
        WASM_TARGET,
    ]));
    if libraries.is_some_and(|directory| Path::new(&directory).is_dir()) {
        return Ok(());
    }
    println!("adding the target {WASM_TARGET}");
    run(project
        .command("rustup")
        .args(["target", "add", WASM_TARGET]))
}

/// Returns the program in the wanted version: from the search path, or from the user's cache, where
/// it is installed if it is missing. Each version has its own directory, because another
/// project may need another one. `ask` makes the program tell its version.
fn cargo_tool(
    project: &Project,
    program: &str,
    package: &str,
    version: &str,
    ask: &[&str],
    options: &[&str],
) -> Result<PathBuf> {
    let root = project.cache().join(format!("{package}-{version}"));
    let cached = root.join("bin").join(program);
    for candidate in [Path::new(program), cached.as_path()] {
        let found = tool_version(project, candidate.as_os_str(), ask);
        if found.as_deref() == Some(version) {
            return Ok(candidate.to_path_buf());
        }
    }
    println!("installing {package} {version} into {}", root.display());
    run(project
        .cargo()
        .args([
            "install",
            package,
            "--bin",
            program,
            // The programs run for a second, so that it is not worth the time to optimize them.
            "--debug",
            "--version",
            version,
            "--locked",
            "--force",
            "--root",
        ])
        .arg(&root)
        .args(options)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        // The programs have libraries in common.
        .env("CARGO_TARGET_DIR", project.path("target/tools")))?;
    Ok(cached)
}

/// Returns the last word of the answer, because some programs say their name first.
fn tool_version(project: &Project, program: &OsStr, ask: &[&str]) -> Option<String> {
    let answer = output(project.command(program).args(ask))?;
    answer.split_whitespace().last().map(str::to_owned)
}

fn locked_version<'a>(lock: &'a toml::Table, name: &str) -> Result<&'a str> {
    let packages = lock
        .get("package")
        .and_then(toml::Value::as_array)
        .context("Cargo.lock lists no package")?;
    let text = |package: &'a toml::Value, key: &str| package.get(key).and_then(toml::Value::as_str);
    let mut versions = packages
        .iter()
        .filter(|package| text(package, "name") == Some(name))
        .map(|package| text(package, "version"));
    match (versions.next().flatten(), versions.next()) {
        (Some(version), None) => Ok(version),
        (Some(_), Some(_)) => bail!("Cargo.lock has several versions of {name}"),
        (None, _) => bail!("Cargo.lock does not have {name}"),
    }
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_node_is_read() {
        assert_eq!(node_major("v20.20.2"), Some(20));
        assert_eq!(node_major("v9.0.0-pre"), Some(9));
        assert_eq!(node_major("20"), None);
    }

    #[test]
    fn a_version_comes_from_the_lock_file_only_when_there_is_one() {
        let lock: toml::Table = r#"
            [[package]]
            name = "worker"
            version = "0.8.7"
            [[package]]
            name = "twice"
            version = "1.0.0"
            [[package]]
            name = "twice"
            version = "2.0.0"
        "#
        .parse()
        .unwrap();
        assert_eq!(locked_version(&lock, "worker").unwrap(), "0.8.7");
        assert!(
            locked_version(&lock, "twice")
                .unwrap_err()
                .to_string()
                .contains("several")
        );
        assert!(locked_version(&lock, "none").is_err());
    }
}
