//! `mutation`: changes the machine in one place after the other, and shows which tests notice.
//!
//! cargo-mutants lists the changes. Each is built once, with the tests of the machine, the replay
//! of the corpora and the simulator, which try it in this order until one of them fails.

use crate::project::Project;
use crate::setup;
use crate::workspace;
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The list of mutants that behave like the machine.
const EQUIVALENT: &str = "machine/mutants.toml";
const MEMBERS: &[&str] = &["fuzz", "machine", "shells/sqlite", "sim"];
/// What cargo-mutants writes where it has changed something.
const MARK: &str = " /* ~ changed by cargo-mutants ~ */";
/// The storages and the seeds of the simulator.
const SIMULATIONS: [(&str, &str); 2] = [("map", "0..2000"), ("sqlite", "0..400")];
/// The time limit of a program, as a multiple of its time on the machine without a change.
const SLOWER_MAX: u32 = 4;
/// The least time limit of a program.
const TIME_MIN: Duration = Duration::from_secs(20);
/// The memory of a program, because a mutant may allocate for ever.
const MEMORY_KIB_MAX: u64 = 8 << 20;

/// Which mutants are tried.
pub(crate) struct Selection {
    /// Only those whose name contains one of these, if there are any.
    pub(crate) filters: Vec<String>,
    /// How many of them to try, drawn at random. `None` means all.
    pub(crate) sample: Option<usize>,
    /// The number that the sample is drawn with.
    pub(crate) seed: u64,
    pub(crate) shard: Option<Shard>,
}

/// One of several parts, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    part: usize,
    parts: usize,
}

impl FromStr for Shard {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (part, parts) = text.split_once('/').context("it has no slash")?;
        let (part, parts) = (part.parse()?, parts.parse()?);
        ensure!(
            (1..=parts).contains(&part),
            "the parts count from 1 to {parts}"
        );
        Ok(Self { part, parts })
    }
}

/// A change of the machine, as cargo-mutants lists it.
#[derive(Clone, Debug, Deserialize)]
struct Mutant {
    file: PathBuf,
    /// File, line, column and the change.
    name: String,
    diff: String,
}

impl Mutant {
    /// Returns its name without line and column, which change with any edit of the file.
    fn text(&self) -> String {
        let mut parts = self.name.splitn(4, ':');
        let file = parts.next().unwrap_or_default();
        let change = parts.nth(2).unwrap_or_default();
        format!("{file}:{change}")
    }

    /// Returns the first line that it changes, as it is after the change.
    fn code(&self) -> String {
        let changed = |line: &&str| line.starts_with('+') && !line.starts_with("+++");
        let line = self.diff.lines().find(changed).unwrap_or_default();
        line.trim_start_matches('+')
            .replace(MARK, "")
            .trim()
            .to_owned()
    }

    /// Returns its diff with paths that git accepts.
    fn patch(&self) -> String {
        let hunks = self.diff.lines().skip_while(|line| !line.starts_with("@@"));
        let file = self.file.display();
        let mut patch = format!("--- a/{file}\n+++ b/{file}\n");
        hunks.for_each(|line| patch.extend([line, "\n"]));
        patch
    }
}

/// The mutants that no test can notice, because they behave like the machine.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Equivalents {
    #[serde(default)]
    equivalent: Vec<Equivalent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Equivalent {
    /// The name of the mutant without line and column.
    mutant: String,
    /// The first line that it changes, as it is after the change.
    code: String,
    reason: String,
}

impl Equivalents {
    fn read(project: &Project) -> Result<Self> {
        let text = fs::read_to_string(project.path(EQUIVALENT))?;
        toml::from_str(&text).context(EQUIVALENT)
    }

    /// Checks that each entry has a reason and is a mutant.
    fn check(&self, mutants: &[Mutant]) -> Result<()> {
        for entry in &self.equivalent {
            let text = &entry.mutant;
            ensure!(!entry.reason.is_empty(), "{text} has no reason");
            ensure!(
                mutants.iter().any(|mutant| entry.is(mutant)),
                "{EQUIVALENT} names what is no longer a mutant: {text}: {}",
                entry.code
            );
        }
        Ok(())
    }

    fn reason(&self, mutant: &Mutant) -> Option<&str> {
        let entry = self.equivalent.iter().find(|entry| entry.is(mutant));
        entry.map(|entry| entry.reason.as_str())
    }
}

impl Equivalent {
    fn is(&self, mutant: &Mutant) -> bool {
        self.mutant == mutant.text() && self.code == mutant.code()
    }
}

/// What became of a mutant.
enum Outcome {
    DoesNotCompile,
    Caught { kind: &'static str, by: String },
    Survived { code: String },
    Equivalent { reason: String },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoesNotCompile => f.write_str("does not compile"),
            Self::Caught { kind, by } => write!(f, "caught by {kind}: {by}"),
            Self::Survived { code } => write!(f, "SURVIVED: {code}"),
            Self::Equivalent { reason } => write!(f, "equivalent: {reason}"),
        }
    }
}

pub(crate) fn mutation(project: &Project, selection: &Selection) -> Result<ExitCode> {
    let mutants = list(project)?;
    let equivalents = Equivalents::read(project)?;
    equivalents.check(&mutants)?;
    let all = mutants.len();
    let picked = pick(mutants, selection);
    println!(
        "{} of {all} mutants, drawn with seed {}",
        picked.len(),
        selection.seed
    );
    ensure!(!picked.is_empty(), "there is no such mutant");
    let trial = Trial::new(project)?;
    let mut score = Score::default();
    for mutant in &picked {
        let start = now();
        let outcome = match equivalents.reason(mutant) {
            Some(reason) => Outcome::Equivalent {
                reason: reason.to_owned(),
            },
            None => trial.outcome(mutant)?,
        };
        println!(
            "{:>4.0} s  {}: {outcome}",
            start.elapsed().as_secs_f64(),
            mutant.name
        );
        score.count(&outcome);
    }
    println!("{score}");
    Ok(if score.survived == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How many mutants came to which end.
#[derive(Default)]
struct Score {
    not_compiled: usize,
    caught: BTreeMap<&'static str, usize>,
    survived: usize,
    equivalent: usize,
}

impl Score {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::DoesNotCompile => self.not_compiled += 1,
            Outcome::Caught { kind, .. } => *self.caught.entry(kind).or_default() += 1,
            Outcome::Survived { .. } => self.survived += 1,
            Outcome::Equivalent { .. } => self.equivalent += 1,
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caught: usize = self.caught.values().sum();
        let by = self
            .caught
            .iter()
            .map(|(by, count)| format!("{count} by {by}"));
        let by: Vec<_> = by.collect();
        let (survived, equivalent) = (self.survived, self.equivalent);
        write!(
            f,
            "{} do not compile, {caught} caught ({}), {survived} survived, {equivalent} equivalent",
            self.not_compiled,
            by.join(", "),
        )?;
        match caught + survived {
            0 => Ok(()),
            tried => write!(f, "; score {:.1} %", 100.0 * caught as f64 / tried as f64),
        }
    }
}

fn list(project: &Project) -> Result<Vec<Mutant>> {
    let program = setup::cargo_mutants(project)?;
    let listed = project
        .command(program)
        .args(["mutants", "--list", "--json", "--diff"])
        .args(["--package", "machine"])
        .output()
        .context("cannot run cargo-mutants")?;
    let reason = String::from_utf8_lossy(&listed.stderr);
    ensure!(listed.status.success(), "cargo-mutants fails: {reason}");
    Ok(serde_json::from_slice(&listed.stdout)?)
}

/// Returns the mutants that are selected, in their order in the files.
fn pick(mutants: Vec<Mutant>, selection: &Selection) -> Vec<Mutant> {
    let mut picked = mutants;
    let filters = &selection.filters;
    picked.retain(|mutant| {
        filters.is_empty() || filters.iter().any(|filter| mutant.name.contains(filter))
    });
    if let Some(sample) = selection.sample {
        let mut state = selection.seed;
        while picked.len() > sample {
            let among = picked.len() as u64;
            let at = usize::try_from(splitmix64(&mut state) % among);
            picked.remove(at.expect("an index fits"));
        }
    }
    if let Some(Shard { part, parts }) = selection.shard {
        let of_part = picked.into_iter().skip(part - 1).step_by(parts);
        picked = of_part.collect();
    }
    picked
}

/// Returns the next of a sequence of random numbers (Steele, Lea and Flood, 2014).
const fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A copy of the workspace, in which mutants are built and tried.
struct Trial<'a> {
    project: &'a Project,
    workspace: PathBuf,
    target: PathBuf,
    /// How long each check may take, in the order of [`Check::of`].
    limits: Vec<Duration>,
}

/// A program that may notice a mutant.
struct Check {
    kind: &'static str,
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
}

/// How a check has ended.
enum End {
    Passed,
    Failed(String),
}

impl<'a> Trial<'a> {
    /// Makes the copy, and shows that all checks pass where nothing is changed.
    fn new(project: &'a Project) -> Result<Self> {
        let directory = project.path("target/mutation");
        let workspace = directory.join("workspace");
        workspace::copy(project, MEMBERS, &workspace)?;
        let corpus = workspace.join("fuzz/corpus");
        fs::create_dir_all(&corpus)?;
        for entry in fs::read_dir(project.path("fuzz/corpus"))? {
            let entry = entry?;
            fs::copy(entry.path(), corpus.join(entry.file_name()))?;
        }
        // The cases that both twins of the live reader are held to.
        fs::create_dir_all(workspace.join("tests"))?;
        let cases = "tests/live-reader-cases.json";
        fs::copy(project.path(cases), workspace.join(cases))?;
        // The tests of the simulator itself need not be built.
        for member in ["sim", "shells/sqlite"] {
            let manifest = workspace.join(member).join("Cargo.toml");
            let mut text = fs::read_to_string(&manifest)?;
            text.push_str("\n[lib]\ntest = false\n");
            if member == "sim" {
                text.push_str("\n[[bin]]\nname = \"sim\"\npath = \"src/main.rs\"\ntest = false\n");
            }
            fs::write(manifest, text)?;
        }
        let mut trial = Self {
            project,
            workspace,
            target: directory.join("build"),
            limits: Vec::new(),
        };
        let Some(checks) = trial.build()? else {
            bail!("the machine does not build");
        };
        for check in &checks {
            let start = now();
            let generous = Duration::from_secs(1_200);
            if let End::Failed(by) = check.run(generous)? {
                bail!("{} fails where nothing is changed: {by}", check.name);
            }
            trial
                .limits
                .push(TIME_MIN.max(start.elapsed() * SLOWER_MAX));
        }
        Ok(trial)
    }

    fn outcome(&self, mutant: &Mutant) -> Result<Outcome> {
        let file = self.workspace.join(&mutant.file);
        let original = fs::read(&file)?;
        workspace::apply(&mutant.patch(), &self.workspace)
            .with_context(|| format!("the diff of {} does not apply", mutant.name))?;
        let outcome = self.try_out(mutant);
        fs::write(file, original)?;
        outcome
    }

    fn try_out(&self, mutant: &Mutant) -> Result<Outcome> {
        let Some(checks) = self.build()? else {
            return Ok(Outcome::DoesNotCompile);
        };
        for (check, limit) in checks.iter().zip(&self.limits) {
            if let End::Failed(by) = check.run(*limit)? {
                let kind = check.kind;
                return Ok(Outcome::Caught { kind, by });
            }
        }
        let code = mutant.code();
        Ok(Outcome::Survived { code })
    }

    /// Builds all programs at once. Returns `None` if the machine does not compile.
    fn build(&self) -> Result<Option<Vec<Check>>> {
        let built = self
            .project
            .cargo()
            .args(["build", "--quiet", "--workspace", "--tests", "--bin", "sim"])
            .args(["--profile", "mutation", "--message-format", "json"])
            .arg("--target-dir")
            .arg(&self.target)
            .current_dir(&self.workspace)
            // A shared cache of compilers refuses incremental builds.
            .env_remove("RUSTC_WRAPPER")
            .env_remove("CARGO_INCREMENTAL")
            .output()
            .context("cannot run cargo")?;
        if !built.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8(built.stdout)?;
        let mut programs = Vec::new();
        for line in text.lines() {
            let artifact: Artifact = serde_json::from_str(line)?;
            programs.extend(artifact.program());
        }
        Check::of(programs, &self.workspace).map(Some)
    }
}

/// A line of cargo's report.
#[derive(Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// A program that cargo has built.
struct Program {
    name: String,
    /// The directory of its package.
    directory: PathBuf,
    path: PathBuf,
}

impl Artifact {
    fn program(self) -> Option<Program> {
        Some(Program {
            name: self.target?.name,
            directory: self.manifest_path?.parent()?.to_path_buf(),
            path: self.executable?,
        })
    }
}

impl Check {
    /// Returns the checks that these programs make, in the order of what they cost.
    fn of(programs: Vec<Program>, workspace: &Path) -> Result<Vec<Self>> {
        let (mut tests, mut last) = (Vec::new(), Vec::new());
        let mut simulator = None;
        for Program {
            name,
            directory,
            path,
        } in programs
        {
            if name == "sim" {
                simulator = Some(path);
                continue;
            }
            let (kind, checks) = if name == "fuzz" {
                ("the corpora", &mut last)
            } else {
                ("the tests", &mut tests)
            };
            checks.push(Self {
                kind,
                name,
                program: path,
                arguments: Vec::new(),
                directory,
            });
        }
        ensure!(
            tests.len() > 1 && last.len() == 1,
            "cargo has built other tests"
        );
        tests.sort_by(|one, other| one.name.cmp(&other.name));
        let simulator = simulator.context("cargo has not built the simulator")?;
        for (storage, seeds) in SIMULATIONS {
            let arguments = ["run", "--seeds", seeds, "--storage", storage];
            last.push(Self {
                kind: "the simulator",
                name: format!("seeds {seeds} on {storage}"),
                program: simulator.clone(),
                arguments: arguments.map(str::to_owned).to_vec(),
                directory: workspace.to_path_buf(),
            });
        }
        tests.extend(last);
        Ok(tests)
    }

    /// Runs it up to the first failure.
    fn run(&self, limit: Duration) -> Result<End> {
        let seconds = limit.as_secs_f64().ceil();
        let mut command = Command::new("timeout");
        // `timeout` passes a signal on to everything that it has started.
        command
            .args(["--signal=KILL", &seconds.to_string(), "sh", "-c"])
            .arg(format!("ulimit -v {MEMORY_KIB_MAX}; exec \"$0\" \"$@\""))
            .arg(&self.program)
            .args(&self.arguments)
            .current_dir(&self.directory)
            // Tests that draw their cases draw the same ones each time.
            .env("PROPTEST_RNG_SEED", "1")
            .env("CARGO_MANIFEST_DIR", &self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().context("cannot run `timeout`")?;
        let output = child.stdout.take().context("it has no output")?;
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            if let Some(by) = failure(&String::from_utf8_lossy(&line)) {
                // What it does after that does not matter.
                let _ = kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM);
                child.wait()?;
                return Ok(End::Failed(by));
            }
        }
        let status = child.wait()?;
        Ok(if status.success() {
            End::Passed
        } else if status.code().is_none_or(|code| code == 137) {
            End::Failed(format!("{}: no end after {seconds} s", self.name))
        } else {
            End::Failed(format!("{}: {status}", self.name))
        })
    }
}

/// Returns the name of the test or of the oracle that fails, if this line says so.
fn failure(line: &str) -> Option<String> {
    let test = line.strip_prefix("test ");
    let test = test.and_then(|line| line.strip_suffix(" ... FAILED"));
    let oracle = || line.strip_prefix("oracle ").map(str::trim);
    let test = test.map(|name| name.trim_end_matches(" - should panic"));
    test.or_else(oracle).map(str::to_owned)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the time that a program takes without a change is its measure"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(name: &str) -> Mutant {
        Mutant {
            file: "machine/src/offset.rs".into(),
            name: name.to_owned(),
            diff: "--- machine/src/offset.rs\n+++ replace > with >= in at\n@@ -1,2 +1,2 @@\n a\n\
                   -b > c\n+    b >= /* ~ changed by cargo-mutants ~ */ c\n"
                .to_owned(),
        }
    }

    fn selection() -> Selection {
        Selection {
            filters: Vec::new(),
            sample: None,
            seed: 7,
            shard: None,
        }
    }

    #[test]
    fn a_mutant_is_named_without_its_place() {
        let mutant = mutant("machine/src/offset.rs:52:29: replace > with >= in at::b");
        assert_eq!(
            mutant.text(),
            "machine/src/offset.rs: replace > with >= in at::b"
        );
        assert_eq!(mutant.code(), "b >= c");
        assert!(mutant.patch().starts_with(
            "--- a/machine/src/offset.rs\n+++ b/machine/src/offset.rs\n@@ -1,2 +1,2 @@\n a\n-b"
        ));
    }

    #[test]
    fn an_entry_without_a_mutant_is_an_error() {
        let mutant = mutant("machine/src/offset.rs:52:29: replace > with >= in at");
        let entry = |code: &str| Equivalents {
            equivalent: vec![Equivalent {
                mutant: mutant.text(),
                code: code.to_owned(),
                reason: "it is".to_owned(),
            }],
        };
        let mutants = [mutant.clone()];
        entry("b >= c").check(&mutants).expect("it is a mutant");
        assert!(entry("b >= c").reason(&mutant).is_some());
        assert!(entry("b >= d").check(&mutants).is_err());
    }

    #[test]
    fn shards_divide_a_sample() {
        let mutants: Vec<_> = (0..100)
            .map(|line| mutant(&format!("a.rs:{line}:1: b")))
            .collect();
        let names = |shard: Option<&str>| -> Vec<_> {
            let selection = Selection {
                sample: Some(10),
                shard: shard.map(|shard| shard.parse().expect("it is a shard")),
                ..selection()
            };
            let picked = pick(mutants.clone(), &selection).into_iter();
            picked.map(|mutant| mutant.name).collect()
        };
        let mut parts = [names(Some("1/3")), names(Some("2/3")), names(Some("3/3"))].concat();
        parts.sort();
        let mut whole = names(None);
        whole.sort();
        assert_eq!(whole.len(), 10);
        assert_eq!(parts, whole);
        assert!("0/3".parse::<Shard>().is_err());
        assert!("4/3".parse::<Shard>().is_err());
    }

    #[test]
    fn a_failure_is_read_from_the_output() {
        let failed = "test cold::tests::a_page ... FAILED";
        assert_eq!(failure(failed).as_deref(), Some("cold::tests::a_page"));
        let panics = "test table::tests::a_panic - should panic ... FAILED";
        assert_eq!(failure(panics).as_deref(), Some("table::tests::a_panic"));
        assert_eq!(failure("oracle    model").as_deref(), Some("model"));
        assert_eq!(failure("test cold::tests::a_page ... ok"), None);
    }
}
