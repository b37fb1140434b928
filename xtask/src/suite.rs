//! The suites of black-box tests, all run by vitest.

use crate::bundle::{self, Feature};
use crate::project::Project;
use crate::{page, server, setup};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// The shell under test.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shell {
    /// The Worker, in workerd
    Worker,
    /// The server for one machine
    Server,
}

impl Shell {
    const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Server => "server",
        }
    }

    pub(crate) fn build(self, project: &Project, feature: Option<Feature>) -> Result<()> {
        page::build(project)?;
        match self {
            Self::Worker => bundle::build(project, feature),
            Self::Server => server::build(project, feature),
        }
    }
}

/// What a shell does while it is killed.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    Appends { writers: u32 },
    Subscriptions,
}

pub(crate) fn conformance(
    project: &Project,
    shell: Shell,
    url: Option<String>,
    cold: bool,
    only: Option<String>,
) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "conformance", shell)?;
    match url {
        Some(_) if cold => {
            bail!("--cold starts a server with cold storage, so it takes no URL")
        }
        Some(url) => suite.environment("CONFORMANCE_TEST_URL", &url),
        None => shell.build(project, None)?,
    }
    if cold {
        suite.environment("CONFORMANCE_COLD", "1");
    }
    if let Some(only) = only {
        suite.argument(&format!("--testNamePattern={only}"));
    }
    suite.run()
}

pub(crate) fn implementation(
    project: &Project,
    shell: Shell,
    url: Option<String>,
    files: &[String],
) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "implementation", shell)?;
    match url {
        Some(url) => suite.environment("IMPLEMENTATION_TEST_URL", &url),
        None => {
            setup::chromium(project)?;
            shell.build(project, Some(Feature::TestRoutes))?;
            // One test checks that a server without the feature has no test routes.
            shell.build(project, None)?;
        }
    }
    for file in files {
        suite.argument(file);
    }
    suite.run()
}

pub(crate) fn admin_page(project: &Project, shell: Shell, files: &[String]) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "admin", shell)?;
    setup::chromium(project)?;
    shell.build(project, Some(Feature::TestRoutes))?;
    for file in files {
        suite.argument(file);
    }
    suite.run()
}

/// Makes the images of the admin page that the documentation shows.
pub(crate) fn admin_page_images(project: &Project) -> Result<ExitCode> {
    setup::node_packages(project)?;
    setup::chromium(project)?;
    Shell::Server.build(project, Some(Feature::TestRoutes))?;
    crate::project::run(
        project
            .command("node")
            .arg("tests/admin/images.mjs")
            .arg(project.path("docs/images"))
            .env("TEST_SHELL", Shell::Server.name()),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the server on what power cuts can leave on its disk.
pub(crate) fn power_cuts(project: &Project, images: u32, seed: u32) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "implementation", Shell::Server)?;
    Shell::Server.build(project, Some(Feature::TestRoutes))?;
    suite.environment("POWER_CUT_IMAGES", &images.to_string());
    suite.environment("POWER_CUT_SEED", &seed.to_string());
    suite.argument("power-cut");
    suite.run()
}

/// Kills a shell under load, again and again.
pub(crate) fn kills(project: &Project, shell: Shell, kills: u32, load: Load) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "implementation", shell)?;
    shell.build(project, Some(Feature::TestRoutes))?;
    match load {
        Load::Appends { writers } => {
            suite.environment("DURABILITY_KILLS", &kills.to_string());
            suite.environment("DURABILITY_WRITERS", &writers.to_string());
            suite.argument("durability");
            suite.argument("--testNamePattern=kills under load");
        }
        Load::Subscriptions => {
            suite.environment("SUBSCRIPTION_KILLS", &kills.to_string());
            suite.argument("subscription-kill");
        }
    }
    suite.run()
}

/// Compares the results of tiny programs on a real object with everything that a simulated one can
/// show.
pub(crate) fn fidelity(project: &Project) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "fidelity", Shell::Worker)?;
    let simulated = project
        .cargo()
        .args(["sim", "fidelity"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start the simulator")?;
    ensure!(
        simulated.status.success(),
        "the simulator cannot run the programs"
    );
    let file = project.path("target/fidelity/simulated.json");
    fs::create_dir_all(project.path("target/fidelity"))?;
    fs::write(&file, simulated.stdout)?;
    suite.environment("FIDELITY_SIMULATED", &file.display().to_string());
    suite.run()
}

pub(crate) fn perf(project: &Project, url: Option<String>) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "performance", Shell::Worker)?;
    match url {
        Some(url) => suite.environment("PERF_BASE_URL", &url),
        None => bundle::build(project, None)?,
    }
    suite.run()
}

pub(crate) struct Suite {
    name: &'static str,
    report: PathBuf,
    command: Command,
}

impl Suite {
    pub(crate) fn new(project: &Project, name: &'static str, shell: Shell) -> Result<Self> {
        setup::node_packages(project)?;
        let report = project.path(format!("target/reports/{name}-{}.json", shell.name()));
        let mut command = project.command(project.npm_program("vitest"));
        command
            .args([
                "run",
                "--config",
                &format!("tests/{name}/vitest.config.mjs"),
            ])
            .args(["--reporter=default", "--reporter=json"])
            // Both shells can be tested at once, and would share the file.
            .arg("--no-cache")
            .arg(format!("--outputFile.json={}", report.display()))
            .env("TEST_SHELL", shell.name());
        Ok(Self {
            name,
            report,
            command,
        })
    }

    pub(crate) fn environment(&mut self, key: &str, value: &str) {
        self.command.env(key, value);
    }

    fn argument(&mut self, argument: &str) {
        self.command.arg(argument);
    }

    /// Runs the suite. The last line says how many tests passed, also after a failure.
    pub(crate) fn run(mut self) -> Result<ExitCode> {
        let report = self.report;
        // What an earlier run left there must not be counted for this one.
        if report.exists() {
            fs::remove_file(&report)?;
        }
        let status = self.command.status().context("cannot start vitest")?;
        let text = fs::read_to_string(&report)
            .with_context(|| format!("{} did not run to its end", self.name))?;
        let counts =
            Counts::read(&serde_json::from_str(&text)?).context("vitest's report has no counts")?;
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

/// Lets the machine write traces of its live reader, and replays them on the JavaScript twin.
pub(crate) fn live_reader_traces(project: &Project) -> Result<ExitCode> {
    let traces = project.path("target/live-reader-traces.jsonl");
    let output = fs::File::create(&traces)?;
    crate::project::run(project.example("live_reader_traces")?.stdout(output))?;
    crate::project::run(
        project
            .command("node")
            .arg("tests/live-reader-traces.mjs")
            .arg(traces),
    )?;
    Ok(ExitCode::SUCCESS)
}
