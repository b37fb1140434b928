//! `coverage`: shows which regions of the machine the replay of the corpora reaches.

use crate::project::Project;
use anyhow::{Context as _, Result, ensure};
use llvm_profparser::coverage::SourceLocation;
use llvm_profparser::coverage::coverage_mapping::CoverageMapping;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

/// The share of the machine's regions, in thousandths, that a replay must reach.
const FLOOR: u64 = 948;
const REPORT: &str = "fuzz/COVERAGE.md";

/// The regions of one file, and how often each was entered.
type Regions = BTreeMap<SourceLocation, usize>;

struct Total {
    covered: u64,
    all: u64,
}

impl Total {
    fn of<'a>(regions: impl Iterator<Item = &'a usize>) -> Self {
        let mut total = Self { covered: 0, all: 0 };
        for count in regions {
            total.all += 1;
            total.covered += u64::from(*count > 0);
        }
        total
    }

    fn thousandths(&self) -> u64 {
        (self.covered * 1_000)
            .checked_div(self.all)
            .unwrap_or(1_000)
    }

    fn percent(&self) -> String {
        format!("{}.{} %", self.thousandths() / 10, self.thousandths() % 10)
    }
}

pub(crate) fn coverage(project: &Project, write: bool) -> Result<ExitCode> {
    let files = measure(project)?;
    let total = Total::of(files.values().flat_map(BTreeMap::values));
    ensure!(total.all > 0, "no region of the machine was found");
    if write {
        fs::write(project.path(REPORT), report(project, &files)?)?;
    }
    for (name, regions) in &files {
        let total = Total::of(regions.values());
        println!(
            "{name:<36} {:>5} of {:>5}  {:>7}",
            total.covered,
            total.all,
            total.percent()
        );
    }
    println!(
        "{} of {} regions of the machine, {}; at least {}.{} %",
        total.covered,
        total.all,
        total.percent(),
        FLOOR / 10,
        FLOOR % 10
    );
    Ok(if total.thousandths() >= FLOOR {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the tests that replay the corpora, and reads their profiles.
fn measure(project: &Project) -> Result<BTreeMap<String, Regions>> {
    let test = build(project)?;
    let profile = project.path("target/corpora.profraw");
    let status = project
        .command(&test)
        .args(["--quiet", "tests::"])
        .env("LLVM_PROFILE_FILE", &profile)
        .status()
        .context("cannot start the replay")?;
    ensure!(status.success(), "the replay failed");

    let profile = llvm_profparser::merge_profiles(&[profile])?;
    let programs = [test];
    let mapping = CoverageMapping::new(&programs, &profile, false)?;
    let sources = project.path("machine/src");
    let report =
        mapping.generate_subreport(|paths| paths.iter().any(|path| path.starts_with(&sources)))?;
    let mut files = BTreeMap::new();
    for (path, result) in report.files {
        if let Ok(name) = path.strip_prefix(&sources) {
            files.insert(name.display().to_string(), result.hits);
        }
    }
    Ok(files)
}

/// Returns the program with the tests.
fn build(project: &Project) -> Result<PathBuf> {
    let mut cargo = project.cargo_with("fuzz/coverage.toml");
    cargo.args(["test", "--quiet", "--no-run"]);
    cargo.args(["--package", "fuzz", "--lib", "--message-format", "json"]);
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "the replay does not build");
    let printed = String::from_utf8(output.stdout)?;
    let mut messages = printed
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let program = messages.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.context("cargo named no program")
}

fn report(project: &Project, files: &BTreeMap<String, Regions>) -> Result<String> {
    let total = Total::of(files.values().flat_map(BTreeMap::values));
    let mut text = format!(
        "# What the corpora reach\n\n\
         Written by `cargo xtask coverage --write`. A region is a stretch of code without a branch. The replay of `fuzz/corpus` enters\n\
         {} of the machine's {}: {}.\n\n\
         | file of `machine/src` | regions | entered | |\n| --- | ---: | ---: | ---: |\n",
        total.covered,
        total.all,
        total.percent()
    );
    for (name, regions) in files {
        let total = Total::of(regions.values());
        writeln!(
            text,
            "| `{name}` | {} | {} | {} |",
            total.all,
            total.covered,
            total.percent()
        )?;
    }
    text.push_str(
        "\n## Where it does not reach\n\nEach line holds a region that is never entered.\n",
    );
    for (name, regions) in files {
        let source = fs::read_to_string(project.path("machine/src").join(name))?;
        let lines: Vec<_> = source.lines().collect();
        let missed = regions.iter().filter(|(_, count)| **count == 0);
        let mut missed: Vec<_> = missed.map(|(region, _)| region.line_start).collect();
        missed.dedup();
        if !missed.is_empty() {
            writeln!(text, "\n`{name}`\n\n```rust")?;
            for number in missed {
                writeln!(
                    text,
                    "{number:>4}  {}",
                    lines.get(number - 1).unwrap_or(&"").trim()
                )?;
            }
            text.push_str("```\n");
        }
    }
    Ok(text)
}
