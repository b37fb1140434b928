//! The paths of the project, and how other programs are called.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The Worker, which is built for wasm.
pub(crate) const WORKER: &str = "durable-streams-worker";

/// Selects all other packages. Cargo builds libraries once for all of them.
pub(crate) const NATIVE_PACKAGES: [&str; 3] = ["--workspace", "--exclude", WORKER];

pub(crate) struct Project {
    root: PathBuf,
}

impl Project {
    pub(crate) fn locate() -> Result<Self> {
        // Cargo tells a program where its crate is, because two checkouts can share one target
        // directory.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest)
            .parent()
            .context("the commands' crate lies in no directory")?;
        Ok(Self {
            root: root.to_path_buf(),
        })
    }

    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// Returns where programs are kept that every clone of the project can use.
    pub(crate) fn cache(&self) -> PathBuf {
        let directory = |name| std::env::var_os(name).filter(|path| !path.is_empty());
        let user = directory("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| directory("HOME").map(|home| Path::new(&home).join(".cache")));
        user.map_or_else(|| self.path(".tools"), |user| user.join("durable-streams"))
    }

    /// Returns the path of a program of an installed npm package.
    pub(crate) fn npm_program(&self, name: &str) -> PathBuf {
        self.root.join("node_modules/.bin").join(name)
    }

    /// Makes a command that runs at the root of the project.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            // No command sends telemetry.
            .env("WRANGLER_SEND_METRICS", "false")
            .env("WRANGLER_HIDE_BANNER", "true")
            .env("CLOUDFLARE_CF_FETCH_ENABLED", "false");
        command
    }

    pub(crate) fn cargo(&self) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        self.outside_cargo(cargo)
    }

    /// Makes a command without the variables in which cargo describes the package of these
    /// commands. Some build scripts run again when one of them changes.
    pub(crate) fn outside_cargo(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_PKG_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Makes a cargo command for the profile `sim`. Only the outer layer needs the flag, because
    /// it makes tokio repeatable. All builds of the profile have it, so that they share libraries.
    pub(crate) fn cargo_sim(&self) -> Command {
        let mut flags = std::env::var_os("RUSTFLAGS").unwrap_or_default();
        flags.push(" --cfg tokio_unstable");
        let mut cargo = self.cargo();
        cargo
            .env("RUSTFLAGS", flags)
            // The encoded flags would replace these.
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo
    }

    /// Builds an example, and returns what makes a run of it. It has the features of all native
    /// packages, as tests have, so that nothing is built twice.
    pub(crate) fn example(&self, name: &str) -> Result<Command> {
        run(self
            .cargo()
            .args(["build", "--quiet", "--example", name])
            .args(NATIVE_PACKAGES)
            .env("CARGO_TARGET_DIR", self.path("target")))?;
        Ok(self.command(self.path("target/debug/examples").join(name)))
    }

    /// Makes a cargo command with a configuration file. Variables do not replace its flags.
    pub(crate) fn cargo_with(&self, configuration: &str) -> Command {
        let mut cargo = self.cargo();
        cargo
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .args(["--config", configuration]);
        cargo
    }

    pub(crate) fn wrangler(&self) -> Command {
        self.command(self.npm_program("wrangler"))
    }
}

/// Runs a command in the foreground.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", name(command));
    }
    Ok(())
}

/// Returns the standard output of a command, or `None` if it cannot be run.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = std::iter::once(program.file_name().unwrap_or_else(|| command.get_program()))
        .chain(command.get_args().take(3));
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
