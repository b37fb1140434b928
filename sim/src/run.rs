//! One run from its beginning to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

use crate::choices::{Choices, Draw};
use crate::coverage::Coverage;
#[cfg(not(target_arch = "wasm32"))]
use crate::coverage::{Fault, Situation, Watermark};
use crate::digest::Digest;
use crate::engine::Failure;
#[cfg(not(target_arch = "wasm32"))]
use crate::layer::{Layer, Source};
use crate::oracles::Oracle;
#[cfg(not(target_arch = "wasm32"))]
use crate::report;
use crate::settings::Settings;
use crate::storage;
use crate::trace::{Line, Section};
use crate::world::World;

/// The options of a run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub storage: storage::Kind,
    /// Whether to keep a line for each thing that happens.
    pub traced: bool,
    /// The number of the event after which to stop.
    pub until: u64,
    /// Whether to keep every draw.
    pub logged: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            storage: storage::Kind::Map,
            traced: false,
            until: u64::MAX,
            logged: false,
        }
    }
}

/// The outcome of a run.
#[derive(Clone, Debug)]
pub struct Outcome<C = Coverage> {
    /// The hash of everything that happened.
    pub hash: u64,
    pub draws: u64,
    pub tape: Vec<u8>,
    /// Every draw, if they are kept.
    pub log: Vec<Draw>,
    pub events: u64,
    pub operations: u64,
    /// Where clients only write: how many of the offsets that appends were answered were read from.
    pub answers_read: u64,
    pub simulated_ms: u64,
    pub coverage: C,
    pub failure: Option<Failure>,
    pub trace: Vec<Line>,
    /// The settings, and the state at the end. Both are empty unless the run is traced.
    pub settings: String,
    pub state: Vec<Section>,
}

/// The inner layer: the state machine in a simulated Cloudflare.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Copy, Debug)]
pub struct Inner;

#[cfg(not(target_arch = "wasm32"))]
impl Layer for Inner {
    const NAME: &'static str = "seed";
    const FLAG: &'static str = "";
    const RUNS_FOR_ALL_SITUATIONS: u64 = 30_000;
    const EVENTS_SHOWN: usize = 40;
    const HUNTED_RUNS_MIN: u64 = 40_000;
    const SHRINK_TRIES_MAX: u64 = 30_000;
    const SHRINK_TIME_MAX: Duration = Duration::from_secs(15);
    const PAGE: Option<report::World> = Some(report::World::Stream);

    type Situation = Situation;
    type Fault = Fault;
    type Watermark = Watermark;

    fn run(source: Source<'_>, options: Options) -> Outcome {
        match source {
            Source::Seed(number) => seed(number, options),
            Source::Tape(bytes) => tape(bytes, options),
        }
    }
}

/// Runs one seed.
#[must_use]
pub fn seed(seed: u64, options: Options) -> Outcome {
    run(Choices::from_seed(seed), options)
}

/// Runs one tape.
#[must_use]
pub fn tape(tape: &[u8], options: Options) -> Outcome {
    run(Choices::from_tape(tape), options)
}

fn run(mut draws: Choices<'_>, options: Options) -> Outcome {
    if options.logged {
        draws = draws.logged();
    }
    choices(&mut draws, options)
}

/// Runs with these choices.
#[must_use]
pub fn choices(choices: &mut Choices<'_>, options: Options) -> Outcome {
    let settings = Settings::draw(choices);
    within(choices, settings, options)
}

/// Runs with these settings.
#[must_use]
pub fn within(choices: &mut Choices<'_>, settings: Settings, options: Options) -> Outcome {
    let shown = if options.traced {
        format!("{settings:#?}")
    } else {
        String::new()
    };
    let mut world = World::new(choices, settings, options.storage, options.traced);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run(options.until)));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic");
        world.engine.recorder.failure = Some(Failure {
            oracle: Oracle::Panic,
            expected: "no panic".to_owned(),
            actual: text.to_owned(),
            event: world.engine.events(),
        });
    }
    let state = if options.traced {
        world.state()
    } else {
        Vec::new()
    };
    let (operations, answers_read) = (world.operation_count(), world.answers_read());
    let engine = &mut world.engine;
    let (hash, events, simulated_ms) = (
        engine.recorder.digest.value(),
        engine.events(),
        engine.simulated_ms(),
    );
    let coverage = core::mem::take(&mut engine.recorder.coverage);
    let (failure, trace) = (
        engine.recorder.failure.take(),
        engine.recorder.trace.take().unwrap_or_default(),
    );
    drop(world);
    Outcome {
        hash,
        draws: choices.count(),
        tape: choices.tape(),
        log: choices.log(),
        events,
        operations,
        answers_read,
        simulated_ms,
        coverage,
        failure,
        trace,
        settings: shown,
        state,
    }
}

/// Returns the hashes of many seeds as one.
#[must_use]
pub fn combined_hash(first: u64, count: u64) -> u64 {
    let mut digest = Digest::default();
    for each in first..first + count {
        let outcome = seed(each, Options::default());
        digest.number(outcome.hash);
        digest.number(outcome.draws);
    }
    digest.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seed_is_repeated_by_its_tape() {
        for number in 0..2_000 {
            let seeded = seed(number, Options::default());
            assert_eq!(seeded.failure, None, "seed {number}");
            let taped = tape(&seeded.tape, Options::default());
            assert_eq!(
                (taped.hash, taped.draws, taped.tape),
                (seeded.hash, seeded.draws, seeded.tape),
                "seed {number}"
            );
        }
    }

    #[test]
    fn clients_notice_answers_that_leave_before_they_are_durable() {
        for oracle in [
            Oracle::Recency,
            Oracle::OffsetLaw,
            Oracle::ExactlyOnce,
            Oracle::Events,
            Oracle::LongPoll,
        ] {
            let notices = |number| {
                let mut choices = Choices::from_seed(number);
                let mut settings = Settings {
                    gated: false,
                    only: Some(oracle),
                    ..Settings::draw(&mut choices)
                };
                settings.limits.cold = false;
                settings.limits.registry = false;
                settings.limits.index = false;
                within(&mut choices, settings, Options::default())
                    .failure
                    .is_some()
            };
            assert!((0..3_000).any(notices), "{oracle}");
        }
    }

    #[test]
    fn every_answer_of_many_writers_can_be_read_from() {
        for number in 0..10 {
            let mut choices = Choices::from_seed(number);
            let settings = Settings::writers(&mut choices, 16, 20);
            let outcome = within(&mut choices, settings, Options::default());
            assert_eq!(outcome.failure, None, "seed {number}");
            assert!(outcome.answers_read >= 16 * 20, "seed {number}");
        }
    }

    #[test]
    fn both_storages_give_the_same_runs() {
        for number in 0..200 {
            let sqlite = Options {
                storage: storage::Kind::Sqlite,
                ..Options::default()
            };
            let (one, other) = (seed(number, Options::default()), seed(number, sqlite));
            assert_eq!(
                (one.hash, one.failure),
                (other.hash, other.failure),
                "seed {number}"
            );
        }
    }
}
