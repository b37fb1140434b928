//! The commands that both layers of the simulator share: they run many seeds, replay a run, shrink
//! a tape, and hunt for a planted fault.
#![expect(clippy::print_stdout, reason = "commands print what they find")]

mod hunt;
mod options;
mod repeats;
mod replay;
mod report;
mod run;
mod totals;
mod wasm;
mod watch;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

pub use hunt::hunt;
pub use options::{Seeds, Subject};
pub use repeats::repeats;
pub use replay::{replay, show_failure, shrink};
pub use report::report;
pub use run::{run, work};
pub use wasm::{cargo, wasm_module};

use crate::coverage::{Breakable, Counts, Listed};
use crate::report::World;
use crate::run::{Options, Outcome};

/// What decides a run.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    Seed(u64),
    Tape(&'a [u8]),
}

/// A layer of the simulator.
pub trait Layer {
    /// The prefix of the names of its tapes.
    const NAME: &'static str;
    /// The arguments of `cargo sim` that select this layer.
    const FLAG: &'static str;
    /// The command of a worker, see [`work`].
    const WORK: &'static str = "work";
    /// After this many runs, every situation must have occurred, and every fault must have changed
    /// something.
    const RUNS_FOR_ALL_SITUATIONS: u64;
    /// How many of the last events a report of a failure shows.
    const EVENTS_SHOWN: usize;
    /// How many runs a hunt makes before it gives up, even if the machine is slow.
    const HUNTED_RUNS_MIN: u64;
    const SHRINK_TRIES_MAX: u64;
    const SHRINK_TIME_MAX: Duration;
    /// The world in which a page replays its runs; `None` if no page can.
    const PAGE: Option<World> = None;

    type Situation: Listed;
    type Fault: Breakable;
    type Watermark: Listed;

    fn run(source: Source<'_>, options: Options) -> LayerOutcome<Self>;
}

/// The coverage of a layer.
pub type LayerCoverage<L> =
    Counts<<L as Layer>::Situation, <L as Layer>::Fault, <L as Layer>::Watermark>;

/// The outcome of a run of a layer.
pub type LayerOutcome<L> = Outcome<LayerCoverage<L>>;

/// Returns the directory of the workspace.
#[must_use]
pub fn root() -> &'static Path {
    let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
    sim.parent().unwrap_or(sim)
}

/// Makes the directory for what is found.
fn findings() -> Result<PathBuf> {
    let directory = root().join("target/sim-findings");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// Returns a number that follows from the git commit, so that each commit runs its own seeds.
fn commit_number() -> u64 {
    let commit = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(root())
        .output();
    let text = commit
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    // Half of the numbers leaves room for the seeds that follow.
    text.get(..16)
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .map_or(0, |number| number >> 1)
}

/// Reads the clock of this machine.
#[expect(
    clippy::disallowed_methods,
    reason = "the duration is not part of a run"
)]
#[must_use]
pub fn clock() -> Instant {
    Instant::now()
}
