//! `mutants`: planted faults, each a patch of the machine, each to be noticed by the oracle that it
//! names.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sim::oracles::Oracle;
use sim::run::{self, Options};
use sim::storage;

use super::replay::shrunk;
use super::{clock, commit_number, root};
use crate::Storage;

/// Which layer is to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// The machine in its simulated world: `sim/bugs`.
    Inner,
    /// The server on a simulated network: `sim/turmoil/bugs`.
    Outer,
}

impl Layer {
    const fn bugs(self) -> &'static str {
        match self {
            Self::Inner => "sim/bugs",
            Self::Outer => "sim/turmoil/bugs",
        }
    }

    /// What a planted fault is built of.
    const fn members(self) -> &'static [&'static str] {
        match self {
            Self::Inner => &["fuzz", "machine", "shells/sqlite", "sim"],
            Self::Outer => &[
                "machine",
                "shells/server",
                "shells/sqlite",
                "sim",
                "sim/turmoil",
            ],
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Inner => "sim",
            Self::Outer => "sim-turmoil",
        }
    }

    /// Each has its own, for both are built of the same with other flags.
    fn target(self) -> PathBuf {
        root().join(match self {
            Self::Inner => "target/mutants",
            Self::Outer => "target/mutants-turmoil",
        })
    }
}

/// A planted fault: a directory.
pub(crate) struct Bug {
    layer: Layer,
    name: String,
    directory: PathBuf,
    caught_by: Oracle,
    storage: Storage,
}

/// What its `bug.toml` says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    title: String,
    /// What the fault is and how it shows.
    about: String,
    caught_by: Oracle,
    /// The storage on which it shows.
    #[serde(default = "ordered_maps")]
    storage: Storage,
}

const fn ordered_maps() -> Storage {
    Storage::Map
}

impl Description {
    fn read(directory: &Path) -> Result<Self> {
        let text = fs::read_to_string(directory.join("bug.toml"))?;
        let description: Self = toml::from_str(&text)?;
        ensure!(!description.title.is_empty(), "it has no title");
        ensure!(
            !description.about.is_empty(),
            "it does not say what it is about"
        );
        Ok(description)
    }
}

impl Bug {
    /// The shortest way to it that was found.
    fn tape(&self) -> PathBuf {
        self.directory.join("bug.tape")
    }
}

fn bugs(layer: Layer) -> Result<Vec<Bug>> {
    let mut bugs = Vec::new();
    for entry in fs::read_dir(root().join(layer.bugs())).context("there are no bugs")? {
        let directory = entry?.path();
        let name = directory
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default()
            .to_owned();
        let description = Description::read(&directory);
        let description = description.with_context(|| format!("cannot read bug.toml of {name}"))?;
        bugs.push(Bug {
            layer,
            name,
            directory,
            caught_by: description.caught_by,
            storage: description.storage,
        });
    }
    bugs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(bugs)
}

/// Those whose name contains `name`, and of these so many as the git commit picks.
pub(crate) fn picked(layer: Layer, name: Option<&str>, pick: Option<usize>) -> Result<Vec<Bug>> {
    let mut bugs = bugs(layer)?;
    bugs.retain(|bug| name.is_none_or(|name| bug.name.contains(name)));
    if let Some(pick) = pick {
        let mut number = commit_number();
        while bugs.len() > pick {
            let at = usize::try_from(number % bugs.len() as u64).unwrap_or(0);
            bugs.remove(at);
            number = number.rotate_right(7);
        }
    }
    ensure!(!bugs.is_empty(), "there is no such bug");
    Ok(bugs)
}

/// Builds nothing: each patch applies, and each tape passes on the clean machine.
pub(crate) fn check(bugs: &[Bug]) -> Result<ExitCode> {
    let house = tempfile::tempdir()?;
    for bug in bugs {
        plant(bug, house.path())?;
        ensure!(bug.tape().exists(), "{} has no tape", bug.name);
        passes_when_clean(bug)?;
    }
    println!(
        "{} patches apply, and their tapes pass where nothing is planted",
        bugs.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// Draws seeds until one notices.
pub(crate) fn draw(bugs: &[Bug], longest: Duration) -> Result<ExitCode> {
    let house = tempfile::tempdir()?;
    println!(
        "{:<34} {:<16} {:>8} {:>9} {:>8} {:>8} {:>9}",
        "planted fault", "oracle", "seeds", "ms", "tape", "shrunk", "in ms"
    );
    let mut survivors = 0;
    let mut catches = Vec::new();
    for bug in bugs {
        plant(bug, house.path())?;
        passes_when_clean(bug)?;
        let program = build(bug.layer, house.path())?;
        let mut hunt = Command::new(program);
        hunt.args(["hunt", "--oracle", bug.caught_by.name(), "--seconds"])
            .arg(longest.as_secs().to_string());
        if bug.layer == Layer::Inner {
            hunt.args(["--storage", bug.storage.name()]);
        }
        let output = hunt.arg("--known").arg(bug.tape()).output()?;
        let told = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            let catch: Catch = told.parse()?;
            println!("{:<34} {:<16} {catch}", bug.name, bug.caught_by);
            catches.push(catch);
        } else {
            survivors += 1;
            println!(
                "{:<34} {:<16} survived: {}",
                bug.name,
                bug.caught_by,
                told.trim_end()
            );
        }
    }
    if let Some(median) = Catch::median(&catches) {
        println!("{:<51} {median}", "median");
    }
    Ok(verdict(bugs.len(), survivors))
}

/// How a planted fault was caught, in the columns of the table.
#[derive(Clone, Copy)]
struct Catch {
    seeds: u64,
    caught_ms: u64,
    tape_bytes: u64,
    shrunk_bytes: u64,
    shrink_ms: u64,
}

impl Catch {
    /// Column by column; of two in the middle the lesser.
    fn median(catches: &[Self]) -> Option<Self> {
        let middle = |of: fn(&Self) -> u64| {
            let mut column: Vec<_> = catches.iter().map(of).collect();
            column.sort_unstable();
            column.get(catches.len().checked_sub(1)? / 2).copied()
        };
        Some(Self {
            seeds: middle(|catch| catch.seeds)?,
            caught_ms: middle(|catch| catch.caught_ms)?,
            tape_bytes: middle(|catch| catch.tape_bytes)?,
            shrunk_bytes: middle(|catch| catch.shrunk_bytes)?,
            shrink_ms: middle(|catch| catch.shrink_ms)?,
        })
    }
}

impl fmt::Display for Catch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seeds,
            caught_ms,
            tape_bytes,
            shrunk_bytes,
            shrink_ms,
        } = self;
        write!(
            f,
            "{seeds:>8} {caught_ms:>9} {tape_bytes:>8} {shrunk_bytes:>8} {shrink_ms:>9}"
        )
    }
}

impl FromStr for Catch {
    type Err = anyhow::Error;

    fn from_str(told: &str) -> Result<Self> {
        let mut columns = told.split_whitespace().map(str::parse);
        let mut column = || {
            columns
                .next()
                .context("a column is missing")?
                .context("no number")
        };
        Ok(Self {
            seeds: column()?,
            caught_ms: column()?,
            tape_bytes: column()?,
            shrunk_bytes: column()?,
            shrink_ms: column()?,
        })
    }
}

fn verdict(bugs: usize, survivors: usize) -> ExitCode {
    println!("{} of {bugs} caught", bugs - survivors);
    if survivors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Lets libFuzzer look for them, each on one core and from an empty corpus. Whichever oracle
/// notices counts.
pub(crate) fn fuzz(bugs: &[Bug], longest: Duration) -> Result<ExitCode> {
    let house = tempfile::tempdir()?;
    let findings = root().join("target/fuzz-findings");
    fs::create_dir_all(&findings)?;
    println!(
        "{:<34} {:<20} {:>8} {:>10} {:>8}",
        "planted fault", "noticed by", "seconds", "runs", "tape"
    );
    let mut survivors = 0;
    for bug in bugs {
        plant(bug, house.path())?;
        let program = build_fuzzer(bug, house.path())?;
        let tape = findings.join(format!("mutant-{}", bug.name));
        let corpus = tempfile::tempdir()?;
        let start = clock();
        let output = Command::new(program)
            .arg(corpus.path())
            .arg(format!("-max_total_time={}", longest.as_secs()))
            .arg(format!("-exact_artifact_path={}", tape.display()))
            // The same search each time.
            .args([
                "-seed=1",
                "-max_len=2048",
                "-len_control=0",
                "-print_final_stats=1",
            ])
            .output()
            .context("cannot start the fuzzer")?;
        let seconds = start.elapsed().as_secs_f64();
        let told = String::from_utf8_lossy(&output.stderr);
        let runs = after(&told, "stat::number_of_executed_units:").unwrap_or("?");
        if output.status.success() {
            survivors += 1;
            println!(
                "{:<34} {:<20} {seconds:>8.1} {runs:>10}",
                bug.name, "survived"
            );
        } else {
            let oracle = after(&told, "oracle ").and_then(|told| told.split(':').next());
            println!(
                "{:<34} {:<20} {seconds:>8.1} {runs:>10} {:>8}",
                bug.name,
                oracle.unwrap_or("panic"),
                fs::metadata(&tape)?.len()
            );
        }
    }
    Ok(verdict(bugs.len(), survivors))
}

/// What follows these words in the first line that begins with them.
fn after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(words))
        .map(str::trim)
}

/// A workspace of machine, simulator and fuzzers with the fault in it. Files that are the same are
/// left alone, so that they are not built again.
fn plant(bug: &Bug, house: &Path) -> Result<()> {
    let patched = tempfile::tempdir()?;
    let members = bug.layer.members();
    for part in members.iter().copied().chain(["migrations"]) {
        copy(&root().join(part), &patched.path().join(part))?;
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let members = |line: &str| {
        if line.starts_with("members = ") {
            format!("members = {members:?}")
        } else {
            line.to_owned()
        }
    };
    let others = |line: &&str| !line.starts_with("default-members = ");
    let manifest: Vec<_> = manifest.lines().filter(others).map(members).collect();
    fs::write(patched.path().join("Cargo.toml"), manifest.join("\n"))?;
    fs::copy(root().join("Cargo.lock"), patched.path().join("Cargo.lock"))?;
    let patch = bug.directory.join("patch.diff");
    let applied = Command::new("git")
        .arg("apply")
        .arg(&patch)
        .current_dir(patched.path())
        .output()
        .context("cannot run git")?;
    let reason = String::from_utf8_lossy(&applied.stderr);
    ensure!(
        applied.status.success(),
        "the patch of {} does not apply: {reason}",
        bug.name
    );
    copy(patched.path(), house)
}

/// Copies what is different, but no corpus.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name() == "corpus" {
            continue;
        }
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            let content = fs::read(entry.path())?;
            if fs::read(&target).ok().as_ref() != Some(&content) {
                fs::write(target, content)?;
            }
        }
    }
    Ok(())
}

fn build(layer: Layer, house: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let target = layer.target();
    let mut command = Command::new(cargo);
    if layer == Layer::Outer {
        command
            .env("RUSTFLAGS", super::turmoil::flags())
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
    }
    let output = command
        .env("CARGO_INCREMENTAL", "1")
        .args([
            "build",
            "--quiet",
            "--profile",
            "sim",
            "--package",
            layer.package(),
        ])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(house)
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "the patched machine does not build: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(target.join("sim").join(layer.package()))
}

fn build_fuzzer(bug: &Bug, house: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let target = root().join("target/mutants");
    let name = if bug.storage == Storage::Sqlite {
        "sequence-on-sqlite"
    } else {
        "sequence"
    };
    let output = Command::new(cargo)
        .env("CARGO_INCREMENTAL", "1")
        // These would replace the flags that make a fuzzer of it.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args([
            "--config",
            "fuzz/sancov.toml",
            "build",
            "--quiet",
            "--profile",
            "sim",
        ])
        .args([
            "--package",
            "fuzz",
            "--features",
            "libfuzzer",
            "--bin",
            name,
        ])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(house)
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "the patched machine does not build: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(target.join("x86_64-unknown-linux-gnu/sim").join(name))
}

fn passes_when_clean(bug: &Bug) -> Result<()> {
    // One that is being planted has none yet.
    if !bug.tape().exists() {
        return Ok(());
    }
    match bug.layer {
        Layer::Inner => {
            let failure = run::tape(&fs::read(bug.tape())?, Options::default()).failure;
            ensure!(
                failure.is_none(),
                "the tape of {} fails on the clean machine: {failure:?}",
                bug.name
            );
        }
        Layer::Outer => {
            let arguments = ["replay".into(), bug.tape().into_os_string()];
            let passes = super::turmoil::turmoil(arguments)? == ExitCode::SUCCESS;
            ensure!(passes, "the tape of {} fails on the clean server", bug.name);
        }
    }
    Ok(())
}

/// Run by a patched simulator: the known tape must fail, and so must some seed before the time is
/// up. Writes the tape where there was none.
pub(crate) fn hunt(
    oracle: Oracle,
    seconds: u64,
    known: &Path,
    storage: storage::Kind,
) -> Result<ExitCode> {
    let options = Options {
        storage,
        ..Options::default()
    };
    let start = clock();
    let mut other = None;
    for seed in 0.. {
        if start.elapsed() > Duration::from_secs(seconds) {
            println!("{seed} seeds; the first failure of another oracle: {other:?}");
            return Ok(ExitCode::FAILURE);
        }
        let outcome = run::seed(seed, options);
        let Some(failure) = outcome.failure else {
            continue;
        };
        if failure.oracle != oracle {
            other.get_or_insert((seed, failure.oracle));
            continue;
        }
        let caught = start.elapsed();
        let shrunk = shrunk(&outcome.tape, oracle, options);
        let catch = Catch {
            seeds: seed + 1,
            caught_ms: u64::try_from(caught.as_millis())?,
            tape_bytes: outcome.tape.len() as u64,
            shrunk_bytes: shrunk.tape.len() as u64,
            shrink_ms: u64::try_from((start.elapsed() - caught).as_millis())?,
        };
        if known.exists() {
            let failure = run::tape(&fs::read(known)?, options).failure;
            ensure!(
                failure.is_some_and(|failure| failure.oracle == oracle),
                "the known tape does not fail any more"
            );
        } else {
            fs::write(known, shrunk.tape)?;
        }
        println!("{catch}");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
