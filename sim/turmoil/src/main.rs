//! The outer layer of the simulator: the server for one machine, as it is, and real HTTP clients,
//! on the simulated network of `turmoil`. What `cargo sim turmoil` runs.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "what it finds is told on the terminal")]

mod client;
mod cold;
mod commands;
mod coverage;
mod judge;
mod live;
mod platform;
mod run;
mod settings;
mod shared;
mod storage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use sim::oracles::Oracle;

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
    /// Show that a seed is one run: two processes that log everything
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
    /// Run every so many of these seeds, and tell another process of them
    #[command(hide = true)]
    Work { seeds: Seeds, step: u64 },
    /// Log everything that happens in these seeds
    #[command(hide = true)]
    Log { seeds: Seeds },
}

/// A range of seeds.
#[derive(Clone, Copy, Debug)]
struct Seeds {
    first: u64,
    end: u64,
}

impl FromStr for Seeds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (first, end) = text.split_once("..").context("a range is written A..B")?;
        Ok(Self {
            first: first.parse()?,
            end: end.parse()?,
        })
    }
}

/// A seed, or a file with a tape.
#[derive(Clone, Debug)]
enum Subject {
    Seed(u64),
    Tape(PathBuf),
}

impl FromStr for Subject {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text
            .parse()
            .map_or_else(|_| Self::Tape(text.into()), Self::Seed))
    }
}

fn main() -> Result<ExitCode> {
    ensure!(
        cfg!(tokio_unstable),
        "this was built without `--cfg tokio_unstable`, by which a run would not be repeatable: use `cargo sim turmoil`"
    );
    // What panics is reported as a failure, with the run that it happened in.
    std::panic::set_hook(Box::new(|_| {}));
    match Arguments::parse().command {
        Command::Run { seeds, jobs } => commands::run(seeds, jobs),
        Command::Replay {
            what,
            trace,
            until,
            state,
        } => commands::replay(&what, trace, until, state),
        Command::Shrink { what, output } => commands::shrink(&what, &output),
        Command::Meta { seeds } => commands::meta(seeds),
        Command::Hunt {
            oracle,
            seconds,
            known,
        } => commands::hunt(oracle, seconds, &known),
        Command::Work { seeds, step } => commands::work(seeds, step),
        Command::Log { seeds } => commands::log(seeds),
    }
}
