//! `test`: runs everything that must pass, step by step, up to the first failure.

use crate::bundle;
use crate::project::{Project, output};
use crate::setup;
use anyhow::{Context as _, Result};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The limit on what a deployment uploads, compressed.
const GZIP_BYTES_MAX: u64 = 300_000;
const LOGS: &str = "target/test-logs";

struct Step {
    name: &'static str,
    work: Work,
}

enum Work {
    Programs(Vec<Command>),
    /// A program whose last line is the summary of its result.
    Summarised(Command),
    SizeLimit,
}

enum Outcome {
    Passed { detail: String },
    Failed { log: String },
}

pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    setup::build_tools(project)?;
    setup::node_packages(project)?;
    setup::chromium(project)?;
    fs::create_dir_all(project.path(LOGS))?;

    let start = now();
    let mut table = Vec::new();
    let mut passed = 0;
    let mut failed = 0;
    for step in steps(project)? {
        if failed > 0 {
            table.push(format!("{:<23}  not run", step.name));
            continue;
        }
        print!("{:<23}  ", step.name);
        io::stdout().flush()?;
        let step_start = now();
        let outcome = step.work.perform(project, step.name)?;
        let time = seconds(step_start.elapsed());
        let line = match outcome {
            Outcome::Passed { detail } => {
                passed += 1;
                format!("passed {time}  {detail}").trim_end().to_owned()
            }
            Outcome::Failed { log } => {
                failed += 1;
                println!(
                    "failed, and this is what it printed:\n\n{}\n",
                    log.trim_end()
                );
                print!("{:<23}  ", step.name);
                format!("failed {time}")
            }
        };
        println!("{line}");
        table.push(format!("{:<23}  {line}", step.name));
    }

    println!("\n{}\n", table.join("\n"));
    println!(
        "all steps together took {}",
        seconds(start.elapsed()).trim_start()
    );
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn steps(project: &Project) -> Result<Vec<Step>> {
    let cargo = |arguments: &[&str]| {
        let mut command = project.cargo();
        command.args(arguments);
        command
    };
    let program = std::env::current_exe().context("cannot find this program")?;
    let own = |arguments: &[&str]| {
        let mut command = project.command(&program);
        // The gate is about this project's server only.
        command
            .args(arguments)
            .env_remove("CONFORMANCE_TEST_URL")
            .env_remove("IMPLEMENTATION_TEST_URL");
        command
    };
    let lint = |arguments: &[&str]| {
        let mut command = cargo(&["clippy"]);
        command.args(arguments).args(["--", "--deny", "warnings"]);
        Work::Programs(vec![command])
    };
    let simulator = |arguments: &[&str]| {
        let mut command = cargo(&["sim"]);
        command.args(arguments);
        command
    };
    let wasm = [
        "--package",
        "durable-streams-worker",
        "--target",
        setup::WASM_TARGET,
    ];
    let mut dry_run = project.wrangler();
    dry_run.args(["deploy", "--dry-run", "--outdir", "target/deploy"]);
    let types = ["shells/worker/js", "tests/harness"].map(|directory| {
        let mut types = project.command(project.npm_program("tsc"));
        types.args(["--project", directory]);
        types
    });
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps", "--lib"]);
    documentation.env("RUSTDOCFLAGS", "--deny warnings");

    let step = |name, work| Step { name, work };
    Ok(vec![
        // Every later step builds what the committed lock file names.
        step(
            "lock file",
            Work::Programs(vec![cargo(&[
                "metadata",
                "--locked",
                "--format-version",
                "1",
            ])]),
        ),
        step(
            "format",
            Work::Programs(vec![cargo(&["fmt", "--all", "--check"])]),
        ),
        step("lint", lint(&["--workspace", "--all-targets"])),
        step("lint wasm", lint(&wasm)),
        step(
            "lint wasm test routes",
            lint(&[&wasm[..], &["--features", "test-routes"]].concat()),
        ),
        step(
            "lint server test routes",
            lint(&[
                "--package",
                "durable-streams-server",
                "--all-targets",
                "--features",
                "test-routes",
            ]),
        ),
        step("documentation", Work::Programs(vec![documentation])),
        step("unit tests", Work::Programs(unit_tests(project))),
        step("settings", Work::Summarised(own(&["settings"]))),
        step(
            "live reader traces",
            Work::Summarised(own(&["live-reader-traces"])),
        ),
        step("corpora", Work::Summarised(own(&["coverage"]))),
        step(
            "simulate",
            Work::Summarised(simulator(&["run", "--minutes", "1"])),
        ),
        step("simulator is sound", Work::Summarised(simulator(&["meta"]))),
        step(
            "planted faults stand",
            Work::Summarised(own(&["planted-faults", "--check"])),
        ),
        step(
            "planted faults caught",
            Work::Summarised(own(&["planted-faults", "--pick", "3"])),
        ),
        step(
            "outer layer is sound",
            Work::Summarised(simulator(&["turmoil", "--meta", "--seeds", "0..50"])),
        ),
        step(
            "outer layer",
            Work::Summarised(simulator(&["turmoil", "--seeds", "0..1000"])),
        ),
        step(
            "faults of the server",
            Work::Summarised(own(&["planted-faults", "--turmoil", "--check"])),
        ),
        step("simulator is true", Work::Summarised(own(&["fidelity"]))),
        step("build", Work::Summarised(own(&["build"]))),
        step(
            "build test routes",
            Work::Summarised(own(&["build", "--features", "test-routes"])),
        ),
        // After the build, which writes the declarations of the Rust code.
        step("types of JavaScript", Work::Programs(types.into())),
        step("deploy dry run", Work::Programs(vec![dry_run])),
        step("size", Work::SizeLimit),
        step("conformance", Work::Summarised(own(&["conformance"]))),
        step(
            "conformance cold",
            Work::Summarised(own(&["conformance", "--cold"])),
        ),
        step("implementation", Work::Summarised(own(&["implementation"]))),
        step("clients", Work::Summarised(own(&["clients"]))),
        step(
            "conformance server",
            Work::Summarised(own(&["conformance", "--shell", "server"])),
        ),
        step(
            "conformance server cold",
            Work::Summarised(own(&["conformance", "--shell", "server", "--cold"])),
        ),
        step(
            "implementation server",
            Work::Summarised(own(&["implementation", "--shell", "server"])),
        ),
        step(
            "clients server",
            Work::Summarised(own(&["clients", "--shell", "server"])),
        ),
    ])
}

/// Runs the unit tests. Uses nextest if it is installed. nextest leaves out the examples in the
/// documentation.
fn unit_tests(project: &Project) -> Vec<Command> {
    let mut nextest = project.cargo();
    if output(nextest.args(["nextest", "--version"])).is_none() {
        let mut tests = project.cargo();
        tests.args(["test", "--workspace"]);
        return vec![tests];
    }
    let mut tests = project.cargo();
    tests.args(["nextest", "run", "--workspace"]);
    let mut examples = project.cargo();
    examples.args(["test", "--workspace", "--doc"]);
    vec![tests, examples]
}

impl Work {
    fn perform(self, project: &Project, name: &str) -> Result<Outcome> {
        let log = project
            .path(LOGS)
            .join(name.replace(' ', "-"))
            .with_extension("log");
        match self {
            Self::Programs(commands) => {
                let file = File::create(&log)?;
                for mut command in commands {
                    let status = run_into(&mut command, &file)?;
                    if !status.success() {
                        return Ok(Outcome::failed(status, &fs::read_to_string(&log)?));
                    }
                }
                Ok(Outcome::Passed {
                    detail: String::new(),
                })
            }
            Self::Summarised(mut command) => {
                let status = run_into(&mut command, &File::create(&log)?)?;
                let log = fs::read_to_string(&log)?;
                if !status.success() {
                    return Ok(Outcome::failed(status, &log));
                }
                let last_line = log.lines().last().context("a step printed no summary")?;
                Ok(Outcome::Passed {
                    detail: last_line.to_owned(),
                })
            }
            Self::SizeLimit => {
                let bytes = bundle::deployed_gzip_bytes(project)?;
                let detail = format!("{bytes} bytes compressed, {GZIP_BYTES_MAX} allowed");
                Ok(if bytes < GZIP_BYTES_MAX {
                    Outcome::Passed { detail }
                } else {
                    Outcome::Failed { log: detail }
                })
            }
        }
    }
}

impl Outcome {
    /// Prints why a step failed. The status explains a failure that could not be written to the
    /// log, for example on a full disk.
    fn failed(status: ExitStatus, log: &str) -> Self {
        let log = format!("{}\n{status}", log.trim_end());
        Self::Failed { log }
    }
}

fn run_into(command: &mut Command, log: &File) -> Result<ExitStatus> {
    let program = command.get_program().to_owned();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))
}

#[allow(
    clippy::disallowed_methods,
    reason = "the duration of a step is only shown"
)]
fn now() -> Instant {
    Instant::now()
}

fn seconds(time: Duration) -> String {
    format!("{:>6.1} s", time.as_secs_f64())
}
