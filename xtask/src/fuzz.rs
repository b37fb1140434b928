//! `fuzz`: libFuzzer on a target, from the committed corpus.

use crate::corpus;
use crate::project::{Project, run};
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the programs are built: `fuzz/sancov.toml` says so.
const PROGRAMS: &str = "target/fuzz/x86_64-unknown-linux-gnu/sim";
const FINDINGS: &str = "target/fuzz-findings";

/// What is fuzzed: `fuzz/src`.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Target {
    /// The bytes are the tape of a whole simulated run
    Sequence,
    /// The same on SQLite
    SequenceOnSqlite,
    /// The bytes are the tape of a run of the world of forks
    Forks,
    /// Requests as they come over the wire
    Request,
    /// Subscriptions, and everything that they talk to
    Subscription,
    /// Bodies of JSON streams
    Json,
    /// Offsets
    Offset,
    /// Event streams
    Sse,
    /// Names of streams, and routes
    Name,
    /// Stored rows
    Row,
    /// Objects of the cold tier
    Segment,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Sequence => "sequence",
            Self::SequenceOnSqlite => "sequence-on-sqlite",
            Self::Forks => "forks",
            Self::Request => "request",
            Self::Subscription => "subscription",
            Self::Json => "json",
            Self::Offset => "offset",
            Self::Sse => "sse",
            Self::Name => "name",
            Self::Row => "row",
            Self::Segment => "segment",
        }
    }

    /// Returns the name of the committed corpus.
    const fn corpus(self) -> &'static str {
        match self {
            Self::Sequence | Self::SequenceOnSqlite => "sequence",
            Self::Forks
            | Self::Request
            | Self::Subscription
            | Self::Json
            | Self::Offset
            | Self::Sse
            | Self::Name
            | Self::Row
            | Self::Segment => self.name(),
        }
    }

    /// Returns the length beyond which inputs find nothing that shorter ones do not.
    const fn input_bytes_max(self) -> u32 {
        match self {
            Self::Sequence | Self::SequenceOnSqlite | Self::Forks | Self::Request | Self::Json => {
                2_048
            }
            Self::Subscription => 1_024,
            Self::Sse | Self::Row | Self::Segment => 512,
            Self::Offset | Self::Name => 128,
        }
    }
}

pub(crate) fn fuzz(project: &Project, target: Target, minutes: f64) -> Result<ExitCode> {
    let program = build(project, target)?;
    let grown = grown(project, target)?;
    let corpus = corpus::unpack(project, target.corpus())?;
    let before = findings(project)?;
    let seconds = (minutes * 60.0).ceil();
    let mut command = project.command(program);
    command
        .args([&grown, &corpus])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", target.input_bytes_max()))
        .arg(format!("-artifact_prefix={FINDINGS}/{}-", target.name()))
        // Try inputs of any length from the beginning, because a run of the simulator needs long
        // ones.
        .args(["-len_control=0", "-print_final_stats=1"]);
    let dictionary = format!("fuzz/{}.dict", target.name());
    if project.path(&dictionary).exists() {
        command.arg(format!("-dict={dictionary}"));
    }
    let status = command.status().context("cannot start the fuzzer")?;
    let after = findings(project)?;
    for finding in after.difference(&before) {
        let file = Path::new(FINDINGS).join(finding);
        advise(target, &file);
    }
    Ok(if status.success() {
        println!(
            "no failure; what was learned is in {}, and --merge adds it to the corpus",
            grown.display()
        );
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn advise(target: Target, file: &Path) {
    let file = file.display();
    println!("\nthe input that failed is kept in {file}");
    match target {
        Target::Sequence => println!(
            "to see it again:   cargo sim replay {file} --trace\nto make it small:  cargo sim shrink {file} -o bug.tape"
        ),
        Target::SequenceOnSqlite => println!(
            "to see it again:   cargo sim replay {file} --trace --storage sqlite\n\
             to make it small:  cargo sim shrink {file} -o bug.tape --storage sqlite"
        ),
        Target::Forks => println!(
            "to see it again:   cargo sim replay {file} --forks --trace\n\
             to make it small:  cargo sim shrink {file} --forks -o bug.tape"
        ),
        Target::Request
        | Target::Subscription
        | Target::Json
        | Target::Offset
        | Target::Sse
        | Target::Name
        | Target::Row
        | Target::Segment => {
            println!(
                "to see it again:   cargo xtask fuzz {} --input {file}",
                target.name()
            );
        }
    }
}

/// Unpacks the committed corpus of a target.
pub(crate) fn unpack(project: &Project, target: Target) -> Result<ExitCode> {
    let directory = corpus::unpack(project, target.corpus())?;
    println!("{}", directory.display());
    Ok(ExitCode::SUCCESS)
}

/// Adds files to the committed corpus of a target, or makes it those of a directory.
pub(crate) fn put(
    project: &Project,
    target: Target,
    files: &[PathBuf],
    replace: Option<&Path>,
) -> Result<ExitCode> {
    let (count, bytes) = match replace {
        Some(directory) => corpus::pack(project, target.corpus(), directory)?,
        None => corpus::add(project, target.corpus(), files)?,
    };
    println!("{}: {count} inputs, {bytes} bytes", target.corpus());
    Ok(ExitCode::SUCCESS)
}

/// Runs one input again.
pub(crate) fn replay(project: &Project, target: Target, input: &Path) -> Result<ExitCode> {
    let input = std::path::absolute(input)?;
    let status = project
        .command(build(project, target)?)
        .arg(input)
        .status()
        .context("cannot start the fuzzer")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Makes the committed corpus the smallest that reaches everything that it and the fuzzers' finds
/// reach.
pub(crate) fn merge(project: &Project, target: Target) -> Result<ExitCode> {
    let program = build(project, target)?;
    let corpus = corpus::unpack(project, target.corpus())?;
    let fresh = tempfile::tempdir_in(project.path("target"))?;
    run(project
        .command(program)
        // Ignore how often something is reached, because that would keep too many inputs.
        .args(["-merge=1", "-use_counters=0", "-len_control=0"])
        .arg(format!("-max_len={}", target.input_bytes_max()))
        .args([fresh.path(), &corpus, &grown(project, target)?]))?;
    let (count, bytes) = corpus::pack(project, target.corpus(), fresh.path())?;
    println!("{}: {count} inputs, {bytes} bytes", target.name());
    Ok(ExitCode::SUCCESS)
}

fn build(project: &Project, target: Target) -> Result<PathBuf> {
    let mut cargo = project.cargo_with("fuzz/sancov.toml");
    cargo.args(["build", "--quiet", "--profile", "sim"]);
    cargo.args([
        "--package",
        "fuzz",
        "--features",
        "libfuzzer",
        "--bin",
        target.name(),
    ]);
    run(&mut cargo)?;
    Ok(project.path(PROGRAMS).join(target.name()))
}

/// Returns the directory where the fuzzer keeps its finds.
fn grown(project: &Project, target: Target) -> Result<PathBuf> {
    let directory = project.path("target/fuzz-corpus").join(target.name());
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn findings(project: &Project) -> Result<BTreeSet<OsString>> {
    let directory = project.path(FINDINGS);
    fs::create_dir_all(&directory)?;
    let entries = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name()));
    entries
        .collect::<Result<_, _>>()
        .context("cannot read what was found")
}
