//! `cargo sim`: runs the simulator, replays and shrinks runs, and shows that it notices faults.
#![expect(clippy::print_stdout, reason = "commands print what they find")]

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use sim::forks::Forks;
use sim::layer::{self, Seeds, Subject};
use sim::oracles::Oracle;
use sim::run::{Inner, Options};
use sim::storage;
use sim::subscriptions::Subscriptions;

#[derive(Parser)]
#[command(name = "cargo sim", about = "The simulator of the state machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run seeds until one fails or the time is up
    Run {
        /// A range like 0..1000; without it, seeds from a number that the git commit gives
        #[arg(long)]
        seeds: Option<Seeds>,
        #[arg(long)]
        minutes: Option<f64>,
        #[arg(long)]
        jobs: Option<usize>,
        #[arg(long, value_enum, default_value = "map")]
        storage: Storage,
        /// Write the tape of the seed that fails into this directory, and a page that replays it
        #[arg(long, value_name = "DIRECTORY")]
        report: Option<PathBuf>,
    },
    /// Write a page that replays one seed or tape in a browser
    Report {
        what: Subject,
        #[arg(short, long, default_value = "report.html")]
        output: PathBuf,
        /// The seed or tape is one of the world of forks
        #[arg(long)]
        forks: bool,
        /// The seed or tape is one of the world of subscriptions
        #[arg(long, conflicts_with = "forks")]
        subscriptions: bool,
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
        /// The seed or tape is one of the outer layer
        #[arg(long)]
        turmoil: bool,
        /// The seed or tape is one of the world of forks
        #[arg(long, conflicts_with = "turmoil")]
        forks: bool,
        /// The seed or tape is one of the world of subscriptions
        #[arg(long, conflicts_with_all = ["turmoil", "forks"])]
        subscriptions: bool,
    },
    /// Make a failing seed or tape small
    Shrink {
        what: Subject,
        #[arg(short, long, default_value = "bug.tape")]
        output: PathBuf,
        #[arg(long, value_enum, default_value = "map")]
        storage: Storage,
        /// The seed or tape is one of the outer layer
        #[arg(long)]
        turmoil: bool,
        /// The seed or tape is one of the world of forks
        #[arg(long, conflicts_with = "turmoil")]
        forks: bool,
        /// The seed or tape is one of the world of subscriptions
        #[arg(long, conflicts_with_all = ["turmoil", "forks"])]
        subscriptions: bool,
    },
    /// The outer layer: the server for one machine and real HTTP clients on a simulated network
    Turmoil {
        #[arg(long, default_value = "0..200")]
        seeds: Seeds,
        #[arg(long)]
        jobs: Option<usize>,
        /// Show instead that two processes log the same for these seeds
        #[arg(long)]
        meta: bool,
    },
    /// Show that a seed is one run: from its tape, in two processes, on both storages, native and
    /// in wasm
    Meta {
        #[arg(long, default_value = "0..2000")]
        seeds: Seeds,
    },
    /// Run everything that one client can do in this many operations, with a crash at every place
    Explore {
        #[arg(long)]
        ops: u64,
    },
    /// Run writers that only append to one stream of tiny segments under faults, and read from each
    /// offset that their appends were answered
    Writers {
        #[arg(long, default_value_t = 16)]
        writers: u64,
        /// Appends of each writer
        #[arg(long, default_value_t = 3_500)]
        appends: u64,
        #[arg(long, default_value = "0..2")]
        seeds: Seeds,
    },
    /// Run seeds of the world of forks, or everything that two names and one fork can do
    Forks {
        #[arg(long, default_value = "0..10000")]
        seeds: Seeds,
        #[arg(long)]
        minutes: Option<f64>,
        #[arg(long)]
        jobs: Option<usize>,
        /// Run one seed again
        #[arg(long)]
        seed: Option<u64>,
        /// Print everything that happens in it
        #[arg(long)]
        trace: bool,
        /// Run everything that fits into this many operations, with a crash at every place
        #[arg(long)]
        explore: Option<u64>,
        /// Write the tape of the seed that fails into this directory, and a page that replays it
        #[arg(long, value_name = "DIRECTORY")]
        report: Option<PathBuf>,
    },
    /// Run seeds of the world of subscriptions
    Subscriptions {
        #[arg(long, default_value = "0..10000")]
        seeds: Seeds,
        #[arg(long)]
        minutes: Option<f64>,
        #[arg(long)]
        jobs: Option<usize>,
        /// Run one seed again
        #[arg(long)]
        seed: Option<u64>,
        /// Print everything that happens in it
        #[arg(long)]
        trace: bool,
        /// Write the tape of the seed that fails into this directory, and a page that replays it
        #[arg(long, value_name = "DIRECTORY")]
        report: Option<PathBuf>,
    },
    /// Print everything that the programs of a file can show on a simulated object, as JSON
    Fidelity {
        #[arg(default_value = "tests/fidelity/programs.json")]
        programs: PathBuf,
    },
    /// List the oracles, and what each watches over
    Oracles,
    /// Run every n-th of these seeds, and report to another process
    #[command(hide = true)]
    Work {
        seeds: Seeds,
        step: u64,
        #[arg(long)]
        minutes: Option<f64>,
        #[arg(long, value_enum, default_value = "map")]
        storage: Storage,
    },
    /// The same in the world of forks
    #[command(hide = true)]
    WorkForks {
        seeds: Seeds,
        step: u64,
        #[arg(long)]
        minutes: Option<f64>,
    },
    /// The same in the world of subscriptions
    #[command(hide = true)]
    WorkSubscriptions {
        seeds: Seeds,
        step: u64,
        #[arg(long)]
        minutes: Option<f64>,
    },
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
        #[arg(long)]
        forks: bool,
        #[arg(long, conflicts_with = "forks")]
        subscriptions: bool,
        #[arg(long, value_enum, default_value = "map")]
        storage: Storage,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Storage {
    Map,
    Sqlite,
}

impl From<Storage> for storage::Kind {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::Map => Self::Map,
            Storage::Sqlite => Self::Sqlite,
        }
    }
}

fn options(storage: Storage) -> Options {
    Options {
        storage: storage.into(),
        ..Options::default()
    }
}

fn main() -> Result<ExitCode> {
    // A panic is reported as a failure of its run.
    std::panic::set_hook(Box::new(|_| {}));
    match Arguments::parse().command {
        Command::Run {
            seeds,
            minutes,
            jobs,
            storage,
            report,
        } => {
            let reports = report.as_deref();
            layer::run::<Inner>(seeds, minutes, jobs, storage.into(), reports)
        }
        Command::Report {
            what,
            output,
            forks,
            subscriptions,
        } => {
            if subscriptions {
                return layer::report::<Subscriptions>(&what, &output);
            }
            if forks {
                return layer::report::<Forks>(&what, &output);
            }
            layer::report::<Inner>(&what, &output)
        }
        Command::Work {
            seeds,
            step,
            minutes,
            storage,
        } => layer::work::<Inner>(seeds, step, minutes, storage.into()),
        Command::Replay {
            what,
            trace,
            until,
            state,
            storage,
            turmoil: false,
            forks,
            subscriptions,
        } => {
            let options = Options {
                until: until.unwrap_or(u64::MAX),
                ..options(storage)
            };
            if subscriptions {
                return layer::replay::<Subscriptions>(&what, trace, state, options);
            }
            if forks {
                return layer::replay::<Forks>(&what, trace, state, options);
            }
            layer::replay::<Inner>(&what, trace, state, options)
        }
        Command::Shrink {
            what,
            output,
            storage,
            turmoil: false,
            forks,
            subscriptions,
        } => {
            if subscriptions {
                return layer::shrink::<Subscriptions>(&what, &output, Options::default());
            }
            if forks {
                return layer::shrink::<Forks>(&what, &output, Options::default());
            }
            layer::shrink::<Inner>(&what, &output, options(storage))
        }
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
            let range = format!("--seeds={seeds}");
            let jobs = jobs.map(|jobs| format!("--jobs={jobs}"));
            commands::turmoil::turmoil([command.to_owned(), range].into_iter().chain(jobs))
        }
        Command::WorkForks {
            seeds,
            step,
            minutes,
        } => layer::work::<Forks>(seeds, step, minutes, storage::Kind::Map),
        Command::Forks {
            seeds,
            minutes,
            jobs,
            seed,
            trace,
            explore,
            report,
        } => match (explore, seed) {
            (Some(operations), _) => commands::explore::forks(operations),
            (None, Some(seed)) => {
                let subject = Subject::Seed(seed);
                layer::replay::<Forks>(&subject, trace, trace, Options::default())
            }
            (None, None) => {
                let (seeds, reports) = (Some(seeds), report.as_deref());
                layer::run::<Forks>(seeds, minutes, jobs, storage::Kind::Map, reports)
            }
        },
        Command::WorkSubscriptions {
            seeds,
            step,
            minutes,
        } => layer::work::<Subscriptions>(seeds, step, minutes, storage::Kind::Map),
        Command::Subscriptions {
            seeds,
            minutes,
            jobs,
            seed,
            trace,
            report,
        } => match seed {
            Some(seed) => {
                let subject = Subject::Seed(seed);
                layer::replay::<Subscriptions>(&subject, trace, trace, Options::default())
            }
            None => {
                let (seeds, reports) = (Some(seeds), report.as_deref());
                layer::run::<Subscriptions>(seeds, minutes, jobs, storage::Kind::Map, reports)
            }
        },
        Command::Meta { seeds } => commands::meta::meta(seeds),
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
            forks,
            subscriptions,
        } => {
            if subscriptions {
                let options = Options::default();
                return layer::hunt::<Subscriptions>(oracle, seconds, &known, options);
            }
            if forks {
                return layer::hunt::<Forks>(oracle, seconds, &known, Options::default());
            }
            layer::hunt::<Inner>(oracle, seconds, &known, options(storage))
        }
    }
}
