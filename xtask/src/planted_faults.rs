//! `planted-faults`: each is a patch of the machine or of the server, and the oracle that it names
//! must notice it.

use crate::project::{Project, output};
use crate::setup::WASM_TARGET;
use crate::workspace;
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};
use walkdir::WalkDir;

/// The layer of the simulator that must notice.
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

    /// Returns the members of the workspace that a planted fault is built in.
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
}

/// The directory that planted faults are built in.
const TARGET: &str = "target/planted-faults";
/// The copy of the workspace that they are planted in.
const WORKSPACE: &str = "target/planted-faults-workspace";

/// The storage on which a fault shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Storage {
    #[default]
    Map,
    Sqlite,
}

impl Storage {
    /// Returns its name on the command line.
    const fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Sqlite => "sqlite",
        }
    }
}

/// The world of the inner layer in which a fault shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum World {
    /// One stream, with all that surrounds it.
    #[default]
    Stream,
    /// Streams and their forks.
    Forks,
    /// Streams and their subscriptions.
    Subscriptions,
}

impl World {
    /// Returns the argument that selects it on the command line.
    fn flag(self) -> Option<&'static str> {
        match self {
            Self::Stream => None,
            Self::Forks => Some("--forks"),
            Self::Subscriptions => Some("--subscriptions"),
        }
    }
}

/// A planted fault, which is a directory.
pub(crate) struct PlantedFault {
    layer: Layer,
    name: String,
    directory: PathBuf,
    /// The name of an oracle.
    caught_by: String,
    storage: Storage,
    world: World,
}

/// The content of its `bug.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    title: String,
    /// What the fault is, and how it shows.
    about: String,
    /// The name of an oracle.
    caught_by: String,
    /// The storage on which it shows.
    #[serde(default)]
    storage: Storage,
    /// The world in which it shows.
    #[serde(default)]
    world: World,
}

impl Description {
    fn read(directory: &Path) -> Result<Self> {
        let text = fs::read_to_string(directory.join("bug.toml"))?;
        let description: Self = toml::from_str(&text)?;
        ensure!(!description.title.is_empty(), "it has no title");
        ensure!(!description.about.is_empty(), "its `about` is empty");
        Ok(description)
    }
}

impl PlantedFault {
    fn patch(&self) -> io::Result<String> {
        fs::read_to_string(self.directory.join("patch.diff"))
    }

    fn does_not_apply(&self) -> String {
        format!("the patch of {} does not apply", self.name)
    }

    /// Returns the path of the shortest tape that was found.
    fn tape(&self) -> PathBuf {
        self.directory.join("bug.tape")
    }
}

fn bugs(project: &Project, layer: Layer) -> Result<Vec<PlantedFault>> {
    let mut bugs = Vec::new();
    for entry in fs::read_dir(project.path(layer.bugs())).context("there are no planted faults")? {
        let directory = entry?.path();
        let name = directory
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default()
            .to_owned();
        let description = Description::read(&directory);
        let description = description.with_context(|| format!("cannot read bug.toml of {name}"))?;
        bugs.push(PlantedFault {
            layer,
            name,
            directory,
            caught_by: description.caught_by,
            storage: description.storage,
            world: description.world,
        });
    }
    bugs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(bugs)
}

/// Returns the faults whose name contains `name`, or the `pick` of them that the git commit picks.
pub(crate) fn picked(
    project: &Project,
    layer: Layer,
    name: Option<&str>,
    pick: Option<usize>,
) -> Result<Vec<PlantedFault>> {
    let mut bugs = bugs(project, layer)?;
    bugs.retain(|bug| name.is_none_or(|name| bug.name.contains(name)));
    if let Some(pick) = pick {
        let mut number = commit_number(project);
        while bugs.len() > pick {
            let at = usize::try_from(number % bugs.len() as u64).unwrap_or(0);
            bugs.remove(at);
            number = number.rotate_right(7);
        }
    }
    ensure!(!bugs.is_empty(), "there is no such planted fault");
    Ok(bugs)
}

/// Returns a number that follows from the git commit, so that each commit tries other faults.
pub(crate) fn commit_number(project: &Project) -> u64 {
    let commit = output(project.command("git").args(["rev-parse", "HEAD"]));
    let digits = commit.as_deref().and_then(|text| text.get(..16));
    digits
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .map_or(0, |number| number >> 1)
}

/// Checks that each patch applies, that each tape passes on the clean code, and that each oracle
/// exists. Builds no planted fault.
pub(crate) fn check(project: &Project, bugs: &[PlantedFault]) -> Result<ExitCode> {
    let clean = Clean::build(project, bugs)?;
    for bug in bugs {
        let applies = workspace::check(&bug.patch()?, &project.path("."));
        applies.with_context(|| bug.does_not_apply())?;
        ensure!(bug.tape().exists(), "{} has no tape", bug.name);
        clean.check(bug)?;
    }
    println!(
        "{} patches apply, and their tapes pass where nothing is planted",
        bugs.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// The simulator without a planted fault.
struct Clean {
    program: PathBuf,
    /// A line for each oracle, which begins with its name.
    oracles: String,
}

impl Clean {
    fn build(project: &Project, bugs: &[PlantedFault]) -> Result<Self> {
        let layer = bugs.first().map_or(Layer::Inner, |bug| bug.layer);
        let target = project.path("target");
        let oracles = build(project, Layer::Inner, &project.path("."), &target)?;
        let oracles = output(project.command(oracles).arg("oracles"));
        Ok(Self {
            program: build(project, layer, &project.path("."), &target)?,
            oracles: oracles.context("cannot list the oracles")?,
        })
    }

    fn check(&self, bug: &PlantedFault) -> Result<()> {
        let is_oracle = |line: &str| {
            let rest = line.strip_prefix(&bug.caught_by);
            rest.is_some_and(|rest| rest.starts_with(' '))
        };
        ensure!(
            self.oracles.lines().any(is_oracle),
            "{} names the oracle {:?}, which does not exist",
            bug.name,
            bug.caught_by
        );
        // A fault that is being planted has no tape yet.
        if !bug.tape().exists() {
            return Ok(());
        }
        let replay = Command::new(&self.program)
            .arg("replay")
            .arg(bug.tape())
            .args(bug.world.flag())
            .output()?;
        ensure!(
            replay.status.success(),
            "the tape of {} fails on the clean code: {}",
            bug.name,
            String::from_utf8_lossy(&replay.stdout)
        );
        Ok(())
    }
}

/// The copy of the workspace with a planted fault. It stays, so that the next build makes only what
/// differs.
struct Copy {
    path: PathBuf,
    /// Held while the copy is used.
    _lock: File,
}

impl Copy {
    /// Waits until no other command uses the copy.
    fn take(project: &Project) -> Result<Self> {
        let path = project.path(WORKSPACE);
        fs::create_dir_all(&path)?;
        let lock = File::create(path.with_extension("lock"))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }
}

/// A program of the simulator.
pub(crate) struct Simulator {
    program: PathBuf,
    /// Where it builds itself for wasm.
    target: PathBuf,
    /// Its workspace, if that is a copy.
    _copy: Option<Copy>,
}

impl Simulator {
    /// Builds the simulator without a planted fault.
    pub(crate) fn clean(project: &Project) -> Result<Self> {
        let target = project.path("target");
        Ok(Self {
            program: build(project, Layer::Inner, &project.path("."), &target)?,
            target,
            _copy: None,
        })
    }

    /// Builds the simulator with this planted fault. Returns it with the tape that shows the fault,
    /// relative to the root of the project.
    pub(crate) fn planted(project: &Project, name: &str) -> Result<(Self, PathBuf)> {
        let bugs = picked(project, Layer::Inner, Some(name), None)?;
        let bug = bugs.first().context("there is no such planted fault")?;
        let copy = Copy::take(project)?;
        plant(project, bug, &copy.path, Runs::Few)?;
        let target = project.path(TARGET);
        share_dependencies(project, &target)?;
        let simulator = Self {
            program: build(project, bug.layer, &copy.path, &target)?,
            target,
            _copy: Some(copy),
        };
        let tape = Path::new(bug.layer.bugs()).join(&bug.name).join("bug.tape");
        Ok((simulator, tape))
    }

    /// Makes a command that runs at the root of the project.
    pub(crate) fn command(&self, project: &Project) -> Command {
        let mut command = project.command(&self.program);
        command.env("CARGO_TARGET_DIR", &self.target);
        command
    }
}

/// Draws seeds until an oracle notices. While one fault is hunted, the next is built.
pub(crate) fn draw(
    project: &Project,
    bugs: &[PlantedFault],
    longest: Duration,
) -> Result<ExitCode> {
    let copy = Copy::take(project)?;
    let clean = Clean::build(project, bugs)?;
    println!(
        "{:<34} {:<16} {:>8} {:>9} {:>8} {:>8}",
        "planted fault", "oracle", "seeds", "ms", "tape", "known"
    );
    let mut survivors = 0;
    let mut catches = Vec::new();
    let mut note = |bug: &PlantedFault, found: Output| -> Result<()> {
        let text = String::from_utf8_lossy(&found.stdout);
        if found.status.success() {
            let catch: Catch = text.parse()?;
            println!("{:<34} {:<16} {catch}", bug.name, bug.caught_by);
            catches.push(catch);
        } else {
            survivors += 1;
            println!(
                "{:<34} {:<16} survived: {}{}",
                bug.name,
                bug.caught_by,
                text.trim_end(),
                String::from_utf8_lossy(&found.stderr).trim_end()
            );
        }
        Ok(())
    };
    let mut hunted: Option<(&PlantedFault, Child)> = None;
    for (number, bug) in bugs.iter().enumerate() {
        let target = project.path(TARGET);
        // The next build replaces the program while this one still runs.
        let program = target.join(format!("hunted-{}", number % 2));
        let built = clean.check(bug).and_then(|()| {
            // Most faults of the inner layer show within a second.
            let runs = match bug.layer {
                Layer::Inner => Runs::Few,
                Layer::Outer => Runs::Many,
            };
            plant(project, bug, &copy.path, runs)?;
            share_dependencies(project, &target)?;
            let built = build(project, bug.layer, &copy.path, &target)?;
            Ok(fs::copy(built, &program)?)
        });
        if let Some((bug, hunt)) = hunted.take() {
            note(bug, hunt.wait_with_output()?)?;
        }
        built?;
        hunted = Some((bug, hunt(&program, bug, longest)?));
    }
    if let Some((bug, hunt)) = hunted {
        note(bug, hunt.wait_with_output()?)?;
    }
    if let Some(median) = Catch::median(&catches) {
        println!("{:<51} {median}", "median");
    }
    Ok(verdict(bugs.len(), survivors))
}

/// Starts to look for a fault.
fn hunt(program: &Path, bug: &PlantedFault, longest: Duration) -> io::Result<Child> {
    let mut hunt = Command::new(program);
    hunt.args(["hunt", "--oracle", &bug.caught_by, "--seconds"])
        .arg(longest.as_secs().to_string());
    if bug.layer == Layer::Inner {
        hunt.args(["--storage", bug.storage.name()]);
        hunt.args(bug.world.flag());
    }
    hunt.arg("--known")
        .arg(bug.tape())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// How a planted fault was caught: the columns of the table.
#[derive(Clone, Copy)]
struct Catch {
    seeds: u64,
    caught_ms: u64,
    tape_bytes: u64,
    known_bytes: u64,
}

impl Catch {
    /// Returns the median of each column, and the lesser of two.
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
            known_bytes: middle(|catch| catch.known_bytes)?,
        })
    }
}

impl fmt::Display for Catch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seeds,
            caught_ms,
            tape_bytes,
            known_bytes,
        } = self;
        write!(
            f,
            "{seeds:>8} {caught_ms:>9} {tape_bytes:>8} {known_bytes:>8}"
        )
    }
}

impl FromStr for Catch {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut columns = text.split_whitespace().map(str::parse);
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
            known_bytes: column()?,
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

/// Lets libFuzzer look for the faults, on one core and from an empty corpus. Any oracle counts.
pub(crate) fn fuzz(
    project: &Project,
    bugs: &[PlantedFault],
    longest: Duration,
) -> Result<ExitCode> {
    let copy = Copy::take(project)?;
    let findings = project.path("target/fuzz-findings");
    fs::create_dir_all(&findings)?;
    println!(
        "{:<34} {:<20} {:>8} {:>10} {:>8}",
        "planted fault", "noticed by", "seconds", "runs", "tape"
    );
    let mut survivors = 0;
    for bug in bugs {
        plant(project, bug, &copy.path, Runs::Many)?;
        let program = build_fuzzer(project, bug, &copy.path)?;
        let tape = findings.join(format!("planted-fault-{}", bug.name));
        let corpus = tempfile::tempdir()?;
        let start = now();
        let found = Command::new(program)
            .arg(corpus.path())
            .arg(format!("-max_total_time={}", longest.as_secs()))
            .arg(format!("-exact_artifact_path={}", tape.display()))
            // Repeats the same search each time.
            .args([
                "-seed=1",
                "-max_len=2048",
                "-len_control=0",
                "-print_final_stats=1",
            ])
            .output()
            .context("cannot start the fuzzer")?;
        let seconds = start.elapsed().as_secs_f64();
        let text = String::from_utf8_lossy(&found.stderr);
        let runs = after(&text, "stat::number_of_executed_units:").unwrap_or("?");
        if found.status.success() {
            survivors += 1;
            println!(
                "{:<34} {:<20} {seconds:>8.1} {runs:>10}",
                bug.name, "survived"
            );
        } else {
            let oracle = after(&text, "oracle ").and_then(|text| text.split(':').next());
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

/// Returns the rest of the first line that begins with these words.
fn after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(words))
        .map(str::trim)
}

/// How often a program with a fault runs the simulation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runs {
    /// So that a quick build is worth more than quick runs.
    Few,
    Many,
}

/// Makes a workspace with the fault in it. Leaves equal files alone, so that they are not built
/// again.
fn plant(project: &Project, bug: &PlantedFault, copy: &Path, runs: Runs) -> Result<()> {
    let patched = tempfile::tempdir()?;
    workspace::copy(project, bug.layer.members(), patched.path())?;
    if runs == Runs::Few {
        let manifest = patched.path().join("Cargo.toml");
        let quick = fs::read_to_string(&manifest)?.replace("opt-level = 3", "opt-level = 1");
        fs::write(manifest, quick)?;
    }
    let applied = workspace::apply(&bug.patch()?, patched.path());
    applied.with_context(|| bug.does_not_apply())?;
    workspace::copy_files(patched.path(), copy)
}

/// Links the built dependencies of the clean simulator into the other build directory, so that they
/// are not built again. Cargo never changes these files, but another build may delete its
/// intermediate ones meanwhile.
fn share_dependencies(project: &Project, target: &Path) -> Result<()> {
    for profile in [Path::new("sim"), &Path::new(WASM_TARGET).join("sim")] {
        let (built, shared) = (project.path("target").join(profile), target.join(profile));
        if !shared.exists() && built.exists() {
            link_dependencies(&built, &shared)?;
        }
    }
    Ok(())
}

fn link_dependencies(built: &Path, shared: &Path) -> Result<()> {
    for part in ["deps", "build", ".fingerprint"] {
        for entry in WalkDir::new(built.join(part)) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if error.io_error().is_some_and(is_gone) => continue,
                Err(error) => return Err(error.into()),
            };
            let to = shared.join(entry.path().strip_prefix(built)?);
            if entry.file_type().is_dir() {
                fs::create_dir_all(to)?;
            } else {
                match fs::hard_link(entry.path(), to) {
                    Err(error) if !is_gone(&error) => return Err(error.into()),
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Builds the simulator of a workspace, and returns its program.
fn build(project: &Project, layer: Layer, copy: &Path, target: &Path) -> Result<PathBuf> {
    let mut cargo = project.cargo_sim();
    cargo
        .args(["build", "--quiet", "--profile", "sim", "--package"])
        .arg(layer.package())
        .arg("--target-dir")
        .arg(target);
    if copy != project.path(".") {
        // The next fault differs in one file.
        cargo.env("CARGO_INCREMENTAL", "1");
    }
    built(cargo.current_dir(copy))?;
    Ok(target.join("sim").join(layer.package()))
}

fn build_fuzzer(project: &Project, bug: &PlantedFault, copy: &Path) -> Result<PathBuf> {
    let target = project.path(TARGET);
    let name = match bug.storage {
        Storage::Map => "sequence",
        Storage::Sqlite => "sequence-on-sqlite",
    };
    let mut cargo = project.cargo_with("fuzz/sancov.toml");
    cargo
        .args(["build", "--quiet"])
        .args(["--profile", "sim", "--package", "fuzz"])
        .args(["--features", "libfuzzer", "--bin", name, "--target-dir"])
        .arg(&target);
    built(cargo.env("CARGO_INCREMENTAL", "1").current_dir(copy))?;
    let programs = target.join("x86_64-unknown-linux-gnu/sim");
    Ok(programs.join(name))
}

fn built(cargo: &mut Command) -> Result<()> {
    let built = cargo.output().context("cannot run cargo")?;
    ensure!(
        built.status.success(),
        "the simulator does not build: {}",
        String::from_utf8_lossy(&built.stderr)
    );
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the duration of a search is the result"
)]
fn now() -> Instant {
    Instant::now()
}
