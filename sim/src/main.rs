//! `cargo sim`: runs the simulator, replays, shrinks, and shows that it notices.
#![expect(clippy::print_stdout, reason = "what it finds is told on the terminal")]

mod commands;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use commands::mutants::Layer;
use serde::Deserialize;
use sim::oracles::Oracle;
use sim::storage;

#[derive(Parser)]
#[command(name = "cargo sim", about = "The simulator of the state machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run seeds until one fails or time is up
    Run {
        /// A range like 0..1000; without it, as many as fit, from the number that the git commit
        /// gives
        #[arg(long)]
        seeds: Option<Seeds>,
        #[arg(long)]
        minutes: Option<f64>,
        #[arg(long)]
        jobs: Option<usize>,
        #[arg(long, value_enum, default_value = "map")]
        storage: Storage,
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
        /// Print settings and the objects' state at the end
        #[arg(long)]
        state: bool,
        #[arg(long, value_enum, default_value = "map")]
        storage: Storage,
        /// It is one of the outer layer
        #[arg(long)]
        turmoil: bool,
    },
    /// Make a failing seed or tape small
    Shrink {
        what: Subject,
        #[arg(short, long, default_value = "bug.tape")]
        output: PathBuf,
        #[arg(long, value_enum, default_value = "map")]
        storage: Storage,
        /// It is one of the outer layer
        #[arg(long)]
        turmoil: bool,
    },
    /// The outer layer: the server for one machine and real HTTP clients on a simulated network
    Turmoil {
        #[arg(long, default_value = "0..200")]
        seeds: Seeds,
        #[arg(long)]
        jobs: Option<usize>,
        /// Show that these seeds are the same in two processes that log everything, instead
        #[arg(long)]
        meta: bool,
    },
    /// Show that a seed is one run: twice in this process, in two processes, on both storages,
    /// native and in wasm
    Meta {
        #[arg(long, default_value = "0..2000")]
        seeds: Seeds,
    },
    /// Show that planted faults are noticed
    Mutants {
        /// Only those whose name contains this
        name: Option<String>,
        /// Only so many, as the git commit picks them
        #[arg(long)]
        pick: Option<usize>,
        /// Build nothing: check that each patch applies and that each tape passes on the clean
        /// machine
        #[arg(long)]
        check: bool,
        /// Give up on one after so many seconds: 60, or 300 when fuzzing
        #[arg(long)]
        seconds: Option<u64>,
        /// Those of the outer layer, which are planted in the server
        #[arg(long, conflicts_with = "fuzz")]
        turmoil: bool,
        /// Let the fuzzer find them, from an empty corpus, instead of drawing seeds
        #[arg(long, conflicts_with = "check")]
        fuzz: bool,
    },
    /// Run everything that one client can do in so many operations, with a crash at every place
    Explore {
        #[arg(long)]
        ops: u64,
    },
    /// Run writers that only append to one stream of tiny segments, while everything breaks, and
    /// read from each offset they were told
    Writers {
        #[arg(long, default_value_t = 16)]
        writers: u64,
        /// Of each writer
        #[arg(long, default_value_t = 3_500)]
        appends: u64,
        #[arg(long, default_value = "0..2")]
        seeds: Seeds,
    },
    /// Print everything that the programs of a file can show on a simulated object, as JSON
    Fidelity {
        #[arg(default_value = "tests/fidelity/programs.json")]
        programs: PathBuf,
    },
    /// Print what each oracle watches over
    Oracles,
    /// Print the hash of each seed
    #[command(hide = true)]
    Hashes { seeds: Seeds },
    /// Look for a failure of one oracle, and write its shrunk tape
    #[command(hide = true)]
    Hunt {
        #[arg(long)]
        oracle: Oracle,
        #[arg(long)]
        seconds: u64,
        #[arg(long)]
        known: PathBuf,
        #[arg(long, value_enum, default_value = "map")]
        storage: Storage,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Storage {
    Map,
    Sqlite,
}

impl Storage {
    /// As it is written on the command line.
    const fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Sqlite => "sqlite",
        }
    }
}

impl From<Storage> for storage::Kind {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::Map => Self::Map,
            Storage::Sqlite => Self::Sqlite,
        }
    }
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

impl Subject {
    /// As another program is told of it, wherever that runs.
    fn absolute(&self) -> Result<String> {
        Ok(match self {
            Self::Seed(seed) => seed.to_string(),
            Self::Tape(path) => std::path::absolute(path)?.display().to_string(),
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed(seed) => write!(formatter, "{seed}"),
            Self::Tape(path) => write!(formatter, "{}", path.display()),
        }
    }
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
    // What panics is reported as a failure, with the run that it happened in.
    std::panic::set_hook(Box::new(|_| {}));
    match Arguments::parse().command {
        Command::Run {
            seeds,
            minutes,
            jobs,
            storage,
        } => commands::run::run(seeds, minutes, jobs, storage.into()),
        Command::Replay {
            what,
            trace,
            until,
            state,
            storage,
            turmoil: false,
        } => commands::replay::replay(&what, trace, until, state, storage.into()),
        Command::Shrink {
            what,
            output,
            storage,
            turmoil: false,
        } => commands::replay::shrink(&what, &output, storage.into()),
        Command::Replay {
            what,
            trace,
            until,
            state,
            ..
        } => {
            let mut arguments = vec!["replay".to_owned(), what.absolute()?];
            arguments.extend(trace.then(|| "--trace".to_owned()));
            arguments.extend(state.then(|| "--state".to_owned()));
            arguments.extend(until.map(|until| format!("--until={until}")));
            commands::turmoil::turmoil(arguments)
        }
        Command::Shrink { what, output, .. } => {
            let output = std::path::absolute(output)?.display().to_string();
            let arguments = [
                "shrink".to_owned(),
                what.absolute()?,
                "--output".to_owned(),
                output,
            ];
            commands::turmoil::turmoil(arguments)
        }
        Command::Turmoil { seeds, jobs, meta } => {
            let command = if meta { "meta" } else { "run" };
            let range = format!("--seeds={}..{}", seeds.first, seeds.end);
            let jobs = jobs.map(|jobs| format!("--jobs={jobs}"));
            commands::turmoil::turmoil([command.to_owned(), range].into_iter().chain(jobs))
        }
        Command::Meta { seeds } => commands::meta::meta(seeds),
        Command::Mutants {
            name,
            pick,
            check,
            seconds,
            turmoil,
            fuzz,
        } => {
            let layer = if turmoil { Layer::Outer } else { Layer::Inner };
            let bugs = commands::mutants::picked(layer, name.as_deref(), pick)?;
            if check {
                commands::mutants::check(&bugs)
            } else if fuzz {
                commands::mutants::fuzz(&bugs, Duration::from_secs(seconds.unwrap_or(300)))
            } else {
                commands::mutants::draw(&bugs, Duration::from_secs(seconds.unwrap_or(60)))
            }
        }
        Command::Explore { ops } => commands::explore::explore(ops),
        Command::Writers {
            writers,
            appends,
            seeds,
        } => commands::writers::writers(writers, appends, seeds),
        Command::Fidelity { programs } => commands::fidelity::fidelity(&programs),
        Command::Oracles => {
            for oracle in Oracle::ALL {
                println!("{oracle:<16} {}", oracle.meaning());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Hashes { seeds } => commands::meta::hashes(seeds),
        Command::Hunt {
            oracle,
            seconds,
            known,
            storage,
        } => commands::mutants::hunt(oracle, seconds, &known, storage.into()),
    }
}
