//! The project's commands: `cargo xtask <command>`.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "commands print what they do"
)]

mod browser;
mod bundle;
mod ci;
mod clients;
mod corpus;
mod cost;
mod coverage;
mod dev;
mod fuzz;
mod libraries;
#[cfg(test)]
mod line_length;
mod mutation;
mod page;
mod peers;
mod planted_faults;
mod project;
mod server;
mod settings;
mod setup;
mod suite;
mod workspace;

use clap::{Parser, Subcommand};
use planted_faults::Layer;
use project::Project;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Build, run and test the Worker, and test the server"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need; they call it themselves
    Setup,
    /// Build a shell into target/worker or target/server
    Build {
        /// The shell to build
        #[arg(long, default_value = "worker")]
        shell: suite::Shell,
        /// Build a variant instead, into its own directory
        #[arg(long)]
        features: Option<bundle::Feature>,
    },
    /// Run the Worker on this machine, its data kept in .wrangler/state
    Dev {
        #[arg(long, default_value_t = 8787)]
        port: u16,
        /// A page of `cargo sim report`, to which the admin page links
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// Run the protocol's conformance suite
    Conformance {
        /// The shell to test
        #[arg(long, default_value = "worker")]
        shell: suite::Shell,
        /// Test this server instead of starting one
        #[arg(long, env = "CONFORMANCE_TEST_URL")]
        url: Option<String>,
        /// Start the server with R2 and D1, and seal a segment every three messages
        #[arg(long)]
        cold: bool,
        /// Run only the tests whose full name matches this regular expression
        #[arg(long)]
        only: Option<String>,
    },
    /// Run the durability, concurrency and protocol tests
    Implementation {
        /// The shell to test; tests that only the other shell can pass are skipped
        #[arg(long, default_value = "worker")]
        shell: suite::Shell,
        /// Test this server instead of starting some
        #[arg(long, env = "IMPLEMENTATION_TEST_URL")]
        url: Option<String>,
        /// Run only the test files whose path contains one of these
        files: Vec<String>,
    },
    /// Use the admin page in Chromium
    AdminPage {
        /// The shell to test; tests that only the other shell can pass are skipped
        #[arg(long, default_value = "server")]
        shell: suite::Shell,
        /// Make the images of the documentation instead
        #[arg(long, conflicts_with = "files")]
        images: bool,
        /// Run only the test files whose path contains one of these
        files: Vec<String>,
    },
    /// Record the server's writes and syncs, and start it on what power cuts can leave of them
    PowerCuts {
        /// How many images of the disk to make; half of them are of servers with failing syncs
        #[arg(long, default_value_t = 500)]
        images: u32,
        /// The number that faults and images are drawn with
        #[arg(long, default_value_t = 1)]
        seed: u32,
    },
    /// Kill a shell under load, and check after each kill that nothing is lost or doubled
    Kills {
        /// The shell to test
        #[arg(long, default_value = "worker")]
        shell: suite::Shell,
        #[arg(long, default_value_t = 200)]
        kills: u32,
        #[arg(long, default_value_t = 32)]
        writers: u32,
        /// Kill it while it delivers webhooks and workers claim wakes
        #[arg(long, conflicts_with = "writers")]
        subscriptions: bool,
    },
    /// Run published clients, which are installed for it, against a shell
    Clients {
        /// The shell to test
        #[arg(long, default_value = "worker")]
        shell: suite::Shell,
        /// Run the tests of the clients' own repository too, from this checkout of it
        #[arg(long, value_name = "DIRECTORY")]
        upstream: Option<PathBuf>,
    },
    /// Run tiny programs on a simulated object and on a real one, and compare what they show
    Fidelity,
    /// Open the pages of this project in Chromium, such as the report of a simulation
    Browser {
        /// Make the images of the documentation, too
        #[arg(long)]
        images: bool,
    },
    /// Measure the latency of appends and reads
    Perf {
        /// Measure this server instead of starting one
        #[arg(long, env = "PERF_BASE_URL")]
        url: Option<String>,
        /// Measure the server for one machine beside others of the same protocol, which are
        /// installed for it
        #[arg(long, conflicts_with = "url")]
        peers: bool,
        /// How many times each server is measured
        #[arg(long, default_value_t = 5, requires = "peers")]
        rounds: u32,
    },
    /// Print what a stream costs in a month on Cloudflare, from counted figures and the price list
    Cost(cost::Load),
    /// Run libFuzzer on a target, from its committed corpus
    Fuzz {
        target: fuzz::Target,
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Run this input alone
        #[arg(long, conflicts_with = "minutes")]
        input: Option<PathBuf>,
        /// Instead of looking for more, add the finds to the committed corpus, and make it small
        #[arg(long, conflicts_with_all = ["minutes", "input"])]
        merge: bool,
    },
    /// Read or change the packed corpus of a fuzz target
    Corpus {
        #[command(subcommand)]
        command: Corpus,
    },
    /// Show which regions of the machine the replay of the corpora reaches, and fail when those are
    /// too few
    Coverage {
        /// Write the report that is committed
        #[arg(long)]
        write: bool,
    },
    /// Hold the live reader in JavaScript to traces of the one in Rust
    LiveReaderTraces,
    /// Check that the documentation, wrangler.toml and the tests have the settings of the table
    Settings {
        /// Write them from the table instead
        #[arg(long)]
        write: bool,
    },
    /// Show that planted faults are noticed
    PlantedFaults {
        /// Only those whose name contains this
        name: Option<String>,
        /// Only this many, as the git commit picks them
        #[arg(long)]
        pick: Option<usize>,
        /// Build none: check that each patch applies and that each tape passes on the clean code
        #[arg(long)]
        check: bool,
        /// Give up on one after this many seconds of an idle machine: 60, or 300 when fuzzing
        #[arg(long)]
        seconds: Option<u64>,
        /// Those of the outer layer, which are planted in the server
        #[arg(long, conflicts_with = "fuzz")]
        turmoil: bool,
        /// Let the fuzzer find them, from an empty corpus, instead of drawing seeds
        #[arg(long, conflicts_with = "check")]
        fuzz: bool,
    },
    /// Change the machine in one place after the other, and show which tests notice
    Mutation {
        /// Only the mutants whose place or change contains one of these, such as wire/cache.rs
        filters: Vec<String>,
        /// How many of them to try, drawn at random; without it, all
        #[arg(long)]
        sample: Option<usize>,
        /// The number that the sample is drawn with; without it, one that the git commit gives
        #[arg(long)]
        seed: Option<u64>,
        /// Only one part of them, such as 1/4
        #[arg(long, value_name = "PART/PARTS")]
        shard: Option<mutation::Shard>,
    },
    /// Run everything that must pass
    Test,
}

#[derive(Subcommand)]
enum Corpus {
    /// Unpack the inputs into target/corpus, and print where
    Unpack { target: fuzz::Target },
    /// Add files
    Add {
        target: fuzz::Target,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Make the files of a directory the inputs, in the place of those that are there
    Pack {
        target: fuzz::Target,
        directory: PathBuf,
    },
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
        Command::Build { shell, features } => {
            shell.build(project, features).map(|()| ExitCode::SUCCESS)
        }
        Command::Dev { port, report } => dev::serve(project, port, report.as_deref()),
        Command::Conformance {
            shell,
            url,
            cold,
            only,
        } => suite::conformance(project, shell, non_empty(url), cold, only),
        Command::Implementation { shell, url, files } => {
            suite::implementation(project, shell, non_empty(url), &files)
        }
        Command::AdminPage { images: true, .. } => suite::admin_page_images(project),
        Command::AdminPage { shell, files, .. } => suite::admin_page(project, shell, &files),
        Command::PowerCuts { images, seed } => suite::power_cuts(project, images, seed),
        Command::Kills {
            shell,
            kills,
            writers,
            subscriptions,
        } => {
            let load = if subscriptions {
                suite::Load::Subscriptions
            } else {
                suite::Load::Appends { writers }
            };
            suite::kills(project, shell, kills, load)
        }
        Command::Clients { shell, upstream } => {
            clients::clients(project, shell, upstream.as_deref())
        }
        Command::Fidelity => suite::fidelity(project),
        Command::Browser { images } => browser::browser(project, images),
        Command::Perf {
            peers: true,
            rounds,
            ..
        } => peers::compare(project, rounds),
        Command::Perf { url, .. } => suite::perf(project, non_empty(url)),
        Command::Cost(load) => cost::cost(project, &load),
        Command::Fuzz {
            target,
            minutes,
            input,
            merge,
        } => match input {
            Some(input) => fuzz::replay(project, target, &input),
            None if merge => fuzz::merge(project, target),
            None => fuzz::fuzz(project, target, minutes),
        },
        Command::Corpus { command } => match command {
            Corpus::Unpack { target } => fuzz::unpack(project, target),
            Corpus::Add { target, files } => fuzz::put(project, target, &files, None),
            Corpus::Pack { target, directory } => fuzz::put(project, target, &[], Some(&directory)),
        },
        Command::Coverage { write } => coverage::coverage(project, write),
        Command::LiveReaderTraces => suite::live_reader_traces(project),
        Command::Settings { write } => settings::settings(project, write),
        Command::PlantedFaults {
            name,
            pick,
            check,
            seconds,
            turmoil,
            fuzz,
        } => {
            let layer = if turmoil { Layer::Outer } else { Layer::Inner };
            let bugs = planted_faults::picked(project, layer, name.as_deref(), pick)?;
            let longest = Duration::from_secs(seconds.unwrap_or(if fuzz { 300 } else { 60 }));
            if check {
                planted_faults::check(project, &bugs)
            } else if fuzz {
                planted_faults::fuzz(project, &bugs, longest)
            } else {
                planted_faults::draw(project, &bugs, longest)
            }
        }
        Command::Mutation {
            filters,
            sample,
            seed,
            shard,
        } => {
            let seed = seed.unwrap_or_else(|| planted_faults::commit_number(project));
            let selection = mutation::Selection {
                filters,
                sample,
                seed,
                shard,
            };
            mutation::mutation(project, &selection)
        }
        Command::Test => ci::run(project),
    }
}

/// Treats an empty URL variable as unset.
fn non_empty(url: Option<String>) -> Option<String> {
    url.filter(|url| !url.is_empty())
}
