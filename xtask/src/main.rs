//! The project's commands: `cargo xtask <command>`.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command speaks to the one who typed it"
)]

mod bundle;
mod dev;
mod gate;
mod project;
mod setup;
mod suite;

use clap::{Parser, Subcommand};
use project::Project;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Build, run and test the Worker"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need; they call it themselves
    Setup,
    /// Build the Worker into target/worker
    Build {
        /// Build a variant instead, into a directory of its own
        #[arg(long)]
        features: Option<bundle::Feature>,
    },
    /// Run the Worker on this machine, its data kept in .wrangler/state
    Dev {
        #[arg(long, default_value_t = 8787)]
        port: u16,
    },
    /// Run the protocol's conformance suite
    Conformance {
        /// Test this server instead of starting one
        #[arg(long, env = "CONFORMANCE_TEST_URL")]
        url: Option<String>,
        /// Run the groups on forks and subscriptions too
        #[arg(long)]
        all: bool,
        /// Run only the tests whose full name matches this regular expression
        #[arg(long, conflicts_with = "all")]
        only: Option<String>,
    },
    /// Run the durability, concurrency and protocol tests
    Implementation {
        /// Test this server instead of starting some
        #[arg(long, env = "IMPLEMENTATION_TEST_URL")]
        url: Option<String>,
        /// Run only the test files whose path contains one of these
        files: Vec<String>,
    },
    /// Measure the latency of appends and reads
    Perf {
        /// Measure this server instead of starting one
        #[arg(long, env = "PERF_BASE_URL")]
        url: Option<String>,
    },
    /// Run everything that must pass
    Test,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = Project::locate().and_then(|project| execute(&project, arguments.command));
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn execute(project: &Project, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Setup => setup::all(project).map(|()| ExitCode::SUCCESS),
        Command::Build { features } => bundle::build(project, features).map(|()| ExitCode::SUCCESS),
        Command::Dev { port } => dev::serve(project, port),
        Command::Conformance { url, all, only } => suite::conformance(project, foreign(url), all, only),
        Command::Implementation { url, files } => suite::implementation(project, foreign(url), &files),
        Command::Perf { url } => suite::perf(project, foreign(url)),
        Command::Test => gate::run(project),
    }
}

/// A variable that is set to nothing names no server.
fn foreign(url: Option<String>) -> Option<String> {
    url.filter(|url| !url.is_empty())
}
