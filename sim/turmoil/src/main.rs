//! The outer layer of the simulator: the server for one machine and real HTTP clients, on the
//! simulated network of `turmoil`. `cargo sim turmoil` runs it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "commands print what they find")]

mod client;
mod cold;
mod coverage;
mod flipped;
mod forking;
mod judge;
mod live;
mod meta;
mod platform;
mod run;
mod settings;
mod shared;
mod storage;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use run::Outer;
use sim::layer::{self, Seeds, Subject};
use sim::oracles::Oracle;
use sim::run::Options;
use sim::storage::Kind;

#[derive(Parser)]
#[command(
    name = "cargo sim turmoil",
    about = "The server and real HTTP clients on a simulated network"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run seeds until one fails
    Run {
        #[arg(long, default_value = "0..200")]
        seeds: Seeds,
        #[arg(long)]
        minutes: Option<f64>,
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Run one seed or tape again
    Replay {
        what: Subject,
        /// Print everything that happens
        #[arg(long)]
        trace: bool,
        /// Stop after this event
        #[arg(long)]
        until: Option<u64>,
        /// Print the settings
        #[arg(long)]
        state: bool,
    },
    /// Make a failing seed or tape small
    Shrink {
        what: Subject,
        #[arg(short, long, default_value = "bug.tape")]
        output: PathBuf,
    },
    /// Show that a seed is one run: from its tape, and in two processes that log everything
    Meta {
        #[arg(long, default_value = "0..10")]
        seeds: Seeds,
    },
    /// Look for a failure of one oracle, and write its shrunk tape
    #[command(hide = true)]
    Hunt {
        #[arg(long)]
        oracle: Oracle,
        #[arg(long)]
        seconds: u64,
        #[arg(long)]
        known: PathBuf,
    },
    /// Run every n-th of these seeds, and report to another process
    #[command(hide = true)]
    Work {
        seeds: Seeds,
        step: u64,
        #[arg(long)]
        minutes: Option<f64>,
    },
    /// Log everything that happens in these seeds
    #[command(hide = true)]
    Log { seeds: Seeds },
}

fn main() -> Result<ExitCode> {
    ensure!(
        cfg!(tokio_unstable),
        "this was built without `--cfg tokio_unstable`, by which a run would not be repeatable: use `cargo sim turmoil`"
    );
    // A panic is reported as a failure of its run.
    std::panic::set_hook(Box::new(|_| {}));
    let options = Options::default();
    match Arguments::parse().command {
        Command::Run {
            seeds,
            minutes,
            jobs,
        } => layer::run::<Outer>(Some(seeds), minutes, jobs, Kind::Map, None),
        Command::Replay {
            what,
            trace,
            until,
            state,
        } => {
            let options = Options {
                until: until.unwrap_or(u64::MAX),
                ..options
            };
            layer::replay::<Outer>(&what, trace, state, options)
        }
        Command::Shrink { what, output } => layer::shrink::<Outer>(&what, &output, options),
        Command::Meta { seeds } => meta::meta(seeds),
        Command::Hunt {
            oracle,
            seconds,
            known,
        } => layer::hunt::<Outer>(oracle, seconds, &known, options),
        Command::Work {
            seeds,
            step,
            minutes,
        } => layer::work::<Outer>(seeds, step, minutes, Kind::Map),
        Command::Log { seeds } => meta::log(seeds),
    }
}
