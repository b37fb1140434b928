//! `test`: runs everything that must pass, up to the first failure.
//!
//! The machine is kept busy, because most steps cannot use every core all the time: what downloads
//! runs beside what compiles, steps that wait for a server run side by side, and what only computes
//! takes the processors that these leave.

use crate::bundle;
use crate::libraries;
use crate::project::{NATIVE_PACKAGES, Project, WORKER, output};
use crate::setup;
use anyhow::{Context as _, Result};
use std::fs::{self, File};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The limit on what a deployment uploads, compressed. The tokens of Cloudflare Access take 9 KB of
/// it, the events for Analytics Engine with its answers 12 KB, and signed tokens 4 KB.
const GZIP_BYTES_MAX: u64 = 690_000;
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

/// Steps that run one after the other.
struct Lane {
    steps: Vec<Step>,
    priority: Priority,
}

/// How a lane competes with the others of its stage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Priority {
    Usual,
    /// It gets the processors that no usual lane wants, so that tests keep their timing.
    Background,
}

impl Lane {
    const fn new(steps: Vec<Step>) -> Self {
        Self {
            steps,
            priority: Priority::Usual,
        }
    }

    const fn background(steps: Vec<Step>) -> Self {
        Self {
            steps,
            priority: Priority::Background,
        }
    }
}

/// Lanes that run side by side.
type Stage = Vec<Lane>;

enum Outcome {
    Passed { detail: String },
    Failed { log: String },
}

/// What the table at the end says of a step.
struct Row {
    verdict: Verdict,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    NotRun,
}

pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    // The first lint for wasm needs it.
    setup::wasm_target(project)?;
    fs::create_dir_all(project.path(LOGS))?;

    let start = now();
    let failure = AtomicBool::new(false);
    let mut table = Vec::new();
    for stage in stages(project)? {
        table.extend(run_stage(project, stage, &failure)?);
    }

    let count = |verdict| table.iter().filter(|row| row.verdict == verdict).count();
    let rows: Vec<_> = table.iter().map(|row| row.text.as_str()).collect();
    println!("\n{}\n", rows.join("\n"));
    println!(
        "all steps together took {}",
        seconds(start.elapsed()).trim_start()
    );
    let (passed, failed) = (count(Verdict::Passed), count(Verdict::Failed));
    if failed == 0 {
        match libraries::keep(project) {
            Ok(count) => println!("{count} built libraries are kept for other clones"),
            Err(error) => println!("built libraries are not kept for other clones: {error:#}"),
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_stage(project: &Project, stage: Stage, failure: &AtomicBool) -> Result<Vec<Row>> {
    thread::scope(|scope| {
        let lanes: Vec<_> = stage
            .into_iter()
            .map(|lane| scope.spawn(move || run_lane(project, lane, failure)))
            .collect();
        let mut rows = Vec::new();
        for lane in lanes {
            rows.extend(lane.join().expect("a lane does not panic")?);
        }
        Ok(rows)
    })
}

/// Prints a line for each step when it ends. After a failure in any lane no further step starts.
fn run_lane(project: &Project, lane: Lane, failure: &AtomicBool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for Step { name, work } in lane.steps {
        if failure.load(Ordering::Relaxed) {
            rows.push(Row {
                verdict: Verdict::NotRun,
                text: format!("{name:<24}  not run"),
            });
            continue;
        }
        let start = now();
        let outcome = work
            .perform(project, name, lane.priority)
            .inspect_err(|_| {
                failure.store(true, Ordering::Relaxed);
            })?;
        let time = seconds(start.elapsed());
        let row = match outcome {
            Outcome::Passed { detail } => {
                let text = format!("{name:<24}  passed {time}  {detail}");
                println!("{}", text.trim_end());
                Row {
                    verdict: Verdict::Passed,
                    text: text.trim_end().to_owned(),
                }
            }
            Outcome::Failed { log } => {
                failure.store(true, Ordering::Relaxed);
                let text = format!("{name:<24}  failed {time}");
                println!(
                    "{text}, and this is what it printed:\n\n{}\n",
                    log.trim_end()
                );
                Row {
                    verdict: Verdict::Failed,
                    text,
                }
            }
        };
        rows.push(row);
    }
    Ok(rows)
}

fn stages(project: &Project) -> Result<Vec<Stage>> {
    let cargo = |arguments: &[&str]| {
        let mut command = project.cargo();
        command.args(arguments);
        command
    };
    let program = std::env::current_exe().context("cannot find this program")?;
    let own = |arguments: &[&str]| {
        let mut command = project.command(&program);
        // The steps test the servers of this project, not one that the environment names.
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
    let simulator_build = |package: &str| {
        let mut command = project.cargo_sim();
        command.args(["build", "--profile", "sim", "--package", package]);
        command
    };
    let wasm = ["--package", WORKER, "--target", setup::WASM_TARGET];
    let mut dry_run = project.wrangler();
    dry_run.args(["deploy", "--dry-run", "--outdir", "target/deploy"]);
    let types = ["shells/worker/js", "sim/report", "tests/harness", "admin"].map(|directory| {
        let mut types = project.command(project.npm_program("tsc"));
        types.args(["--project", directory]);
        types
    });
    let documentation = [&NATIVE_PACKAGES[..], &wasm].map(|packages| {
        let mut documentation = cargo(&["doc", "--no-deps", "--lib"]);
        documentation
            .args(packages)
            .env("RUSTDOCFLAGS", "--deny warnings");
        documentation
    });

    let step = |name, work| Step { name, work };
    let own_step = |name, arguments: &[&str]| step(name, Work::Summarised(own(arguments)));
    let compiled = vec![
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
        step(
            "lint",
            lint(&[&NATIVE_PACKAGES[..], &["--all-targets"]].concat()),
        ),
        step("lint wasm", lint(&wasm)),
        step(
            "lint wasm test routes",
            lint(&[&wasm[..], &["--features", "test-routes"]].concat()),
        ),
        // With the features of all packages, so that only the server is checked again.
        step(
            "lint server test routes",
            lint(
                &[
                    &NATIVE_PACKAGES[..],
                    &["--all-targets"],
                    &["--features", "durable-streams-server/test-routes"],
                ]
                .concat(),
            ),
        ),
        step("documentation", Work::Programs(documentation.into())),
        step("unit tests", Work::Programs(unit_tests(project))),
        own_step("settings", &["settings"]),
        own_step("live reader traces", &["live-reader-traces"]),
    ];
    let installed = vec![own_step("tools", &["setup"])];
    // For that long on every core, so that it runs alone.
    let simulated = vec![step(
        "simulate",
        // The page of a seed that fails is kept with the logs.
        Work::Summarised(simulator(&["run", "--minutes", "1", "--report", LOGS])),
    )];
    let faults = vec![
        own_step("pages in a browser", &["browser"]),
        // Both build in `target/planted-faults`, so they must not run side by side.
        own_step("planted faults caught", &["planted-faults", "--pick", "3"]),
    ];
    let checked = vec![
        step(
            "forks explored",
            Work::Summarised(simulator(&["forks", "--explore", "3"])),
        ),
        own_step("planted faults stand", &["planted-faults", "--check"]),
        step(
            "outer layer is sound",
            Work::Summarised(simulator(&["turmoil", "--meta", "--seeds", "0..50"])),
        ),
        step(
            "outer layer",
            Work::Summarised(simulator(&["turmoil", "--seeds", "0..1000"])),
        ),
        own_step(
            "faults of the server",
            &["planted-faults", "--turmoil", "--check"],
        ),
        own_step("corpora", &["coverage"]),
    ];
    // Cargo runs one build of a profile at a time, for whatever target. So each profile has a lane.
    // Suites begin when all is built, because their own builds would wait for others.
    let release_builds = vec![
        own_step("build", &["build"]),
        own_step("build test routes", &["build", "--features", "test-routes"]),
        // After the build, which writes the declarations of the Rust code.
        step("types of JavaScript", Work::Programs(types.into())),
        step("deploy dry run", Work::Programs(vec![dry_run])),
        step("size", Work::SizeLimit),
        step(
            "build server",
            Work::Programs(vec![own(&["build", "--shell", "server"])]),
        ),
    ];
    let simulator_lane = vec![
        step(
            "build server test routes",
            Work::Programs(vec![own(&[
                "build",
                "--shell",
                "server",
                "--features",
                "test-routes",
            ])]),
        ),
        step(
            "build simulator",
            Work::Programs(vec![simulator_build("sim")]),
        ),
        step(
            "build outer layer",
            Work::Programs(vec![simulator_build("sim-turmoil")]),
        ),
        // The other lane takes longer, and links its last program on one processor.
        step("simulator is sound", Work::Summarised(simulator(&["meta"]))),
        step(
            "forks",
            Work::Summarised(simulator(&[
                "forks", "--seeds", "0..5000", "--report", LOGS,
            ])),
        ),
        step(
            "subscriptions",
            Work::Summarised(simulator(&[
                "subscriptions",
                "--seeds",
                "0..5000",
                "--report",
                LOGS,
            ])),
        ),
    ];
    let worker = vec![own_step("implementation", &["implementation"])];
    let server = vec![own_step(
        "implementation server",
        &["implementation", "--shell", "server"],
    )];
    let both = vec![
        own_step("simulator is true", &["fidelity"]),
        own_step("conformance", &["conformance"]),
        own_step("conformance cold", &["conformance", "--cold"]),
        own_step("clients", &["clients"]),
        own_step("conformance server", &["conformance", "--shell", "server"]),
        own_step(
            "conformance server cold",
            &["conformance", "--shell", "server", "--cold"],
        ),
        own_step("clients server", &["clients", "--shell", "server"]),
    ];
    let admin = vec![
        own_step("admin page", &["admin-page"]),
        // The page is the same there; what it asks for is answered by other code.
        own_step(
            "admin page worker",
            &[
                "admin-page",
                "--shell",
                "worker",
                "admin-pages",
                "admin-sessions",
                "admin-subscriptions",
                "admin-tokens",
            ],
        ),
    ];
    Ok(vec![
        vec![Lane::new(compiled), Lane::new(installed)],
        vec![Lane::new(release_builds), Lane::new(simulator_lane)],
        vec![
            Lane::new(worker),
            Lane::new(server),
            Lane::new(both),
            Lane::new(admin),
            Lane::background(faults),
            Lane::background(checked),
        ],
        vec![Lane::new(simulated)],
    ])
}

/// The tests that nextest runs. The step `simulator is sound` repeats the same seeds from their
/// tapes.
const UNIT_TESTS: &str = "not test(=run::tests::each_seed_is_repeated_by_its_tape)";

/// Runs the unit tests. Uses nextest if it is installed. nextest leaves out the examples in the
/// documentation. The Worker has no unit tests.
fn unit_tests(project: &Project) -> Vec<Command> {
    let mut nextest = project.cargo();
    if output(nextest.args(["nextest", "--version"])).is_none() {
        let mut tests = project.cargo();
        tests.arg("test").args(NATIVE_PACKAGES);
        return vec![tests];
    }
    let mut tests = project.cargo();
    tests
        .args(["nextest", "run", "--filterset", UNIT_TESTS])
        .args(NATIVE_PACKAGES)
        // The step `corpora` builds its tests in another way, and runs them.
        .args(["--exclude", "fuzz"]);
    let mut examples = project.cargo();
    examples.args(["test", "--doc"]).args(NATIVE_PACKAGES);
    vec![tests, examples]
}

impl Work {
    fn perform(self, project: &Project, name: &str, priority: Priority) -> Result<Outcome> {
        let log = project
            .path(LOGS)
            .join(name.replace(' ', "-"))
            .with_extension("log");
        match self {
            Self::Programs(commands) => {
                let file = File::create(&log)?;
                for command in commands {
                    let status = run_into(command, priority, &file)?;
                    if !status.success() {
                        return Ok(Outcome::failed(status, &fs::read_to_string(&log)?));
                    }
                }
                Ok(Outcome::Passed {
                    detail: String::new(),
                })
            }
            Self::Summarised(command) => {
                let status = run_into(command, priority, &File::create(&log)?)?;
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

fn run_into(command: Command, priority: Priority, log: &File) -> Result<ExitStatus> {
    let mut command = match priority {
        Priority::Usual => command,
        Priority::Background => in_background(&command),
    };
    let program = command.get_program().to_owned();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// Returns a command that does the same at the lowest priority.
fn in_background(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nice.env(name, value),
            None => nice.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        nice.current_dir(directory);
    }
    nice
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
