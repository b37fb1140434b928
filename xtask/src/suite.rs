//! The suites of black-box tests, all run by vitest.

use crate::bundle::{self, Feature};
use crate::project::Project;
use crate::setup;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fs;
use std::process::{Command, ExitCode};

/// The groups of the conformance suite on what the server does not have yet. The one on subscriptions is behind an option of the
/// suite's own, which tests/conformance reads from the environment.
const NOT_YET: &str = "^(?!Fork)";

pub(crate) fn conformance(
    project: &Project,
    url: Option<String>,
    all: bool,
    only: Option<String>,
) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "conformance")?;
    match url {
        Some(url) => suite.environment("CONFORMANCE_TEST_URL", &url),
        None => bundle::build(project, None)?,
    }
    if all {
        suite.environment("CONFORMANCE_SUBSCRIPTIONS", "1");
    } else {
        suite.argument(&format!(
            "--testNamePattern={}",
            only.as_deref().unwrap_or(NOT_YET)
        ));
    }
    suite.run()
}

pub(crate) fn implementation(project: &Project, url: Option<String>, files: &[String]) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "implementation")?;
    match url {
        Some(url) => suite.environment("IMPLEMENTATION_TEST_URL", &url),
        None => {
            bundle::build(project, Some(Feature::TestRoutes))?;
            // One test asks this one whether it really knows no test routes.
            bundle::build(project, None)?;
        }
    }
    for file in files {
        suite.argument(file);
    }
    suite.run()
}

pub(crate) fn perf(project: &Project, url: Option<String>) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "performance")?;
    match url {
        Some(url) => suite.environment("PERF_BASE_URL", &url),
        None => bundle::build(project, None)?,
    }
    suite.run()
}

struct Suite<'a> {
    project: &'a Project,
    name: &'static str,
    command: Command,
}

impl<'a> Suite<'a> {
    fn new(project: &'a Project, name: &'static str) -> Result<Self> {
        setup::node_packages(project)?;
        let mut command = project.command(project.npm_program("vitest"));
        command
            .args(["run", "--config", &format!("tests/{name}/vitest.config.mjs")])
            .args(["--reporter=default", "--reporter=json"])
            .arg(format!(
                "--outputFile.json={}",
                project.path(report_path(name)).display()
            ));
        Ok(Self {
            project,
            name,
            command,
        })
    }

    fn environment(&mut self, key: &str, value: &str) {
        self.command.env(key, value);
    }

    fn argument(&mut self, argument: &str) {
        self.command.arg(argument);
    }

    /// Runs the suite. The last line says how many tests passed, whatever the outcome.
    fn run(mut self) -> Result<ExitCode> {
        let report = self.project.path(report_path(self.name));
        // What an earlier run left there must not be counted for this one.
        if report.exists() {
            fs::remove_file(&report)?;
        }
        let status = self.command.status().context("cannot start vitest")?;
        let text =
            fs::read_to_string(&report).with_context(|| format!("{} did not run to its end", self.name))?;
        let counts = Counts::read(&serde_json::from_str(&text)?).context("vitest's report has no counts")?;
        let passed = status.success() && counts.failed == 0 && counts.passed > 0;
        if !passed && counts.failed == 0 {
            println!(
                "{}: {}",
                self.name,
                if status.success() {
                    "no test ran"
                } else {
                    "failed outside of its tests"
                }
            );
        }
        println!("{}: {}", self.name, counts.summary());
        Ok(if passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn report_path(name: &str) -> String {
    format!("target/reports/{name}.json")
}

struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    fn read(report: &Value) -> Option<Self> {
        let count = |key| report.get(key).and_then(Value::as_u64);
        Some(Self {
            passed: count("numPassedTests")?,
            failed: count("numFailedTests")?,
            skipped: count("numPendingTests")? + count("numTodoTests")?,
        })
    }

    fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}
