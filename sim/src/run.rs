//! One run from its beginning to its end.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

use crate::choices::{Choices, Draw};
use crate::coverage::Coverage;
#[cfg(not(target_arch = "wasm32"))]
use crate::coverage::{Fault, Situation, Watermark};
use crate::digest::Digest;
use crate::engine::{Failure, Recorder};
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
            Source::Seed(number) => seed::<Self>(number, options),
            Source::Tape(bytes) => tape::<Self>(bytes, options),
        }
    }
}

/// A kind of run.
pub trait Simulation {
    type Settings: Debug;
    type Coverage;
    type World<'w, 't: 'w>: Running<Coverage = Self::Coverage>;

    fn draw(choices: &mut Choices<'_>) -> Self::Settings;

    fn world<'w, 't>(
        choices: &'w mut Choices<'t>,
        settings: Self::Settings,
        options: Options,
    ) -> Self::World<'w, 't>;
}

/// A world while it runs.
pub trait Running {
    type Coverage;

    /// Runs it to its end, or to the event with this number.
    fn run(&mut self, until: u64);

    fn events(&self) -> u64;

    fn recorder(&mut self) -> &mut Recorder<Self::Coverage>;

    fn state(&self) -> Vec<Section>;

    fn end(self) -> Ended<Self::Coverage>;
}

/// What is left of a world.
#[derive(Debug)]
pub struct Ended<C> {
    pub events: u64,
    pub operations: u64,
    pub answers_read: u64,
    pub simulated_ms: u64,
    pub recorder: Recorder<C>,
}

impl Simulation for Inner {
    type Settings = Settings;
    type Coverage = Coverage;
    type World<'w, 't: 'w> = World<'w, 't>;

    fn draw(choices: &mut Choices<'_>) -> Settings {
        Settings::draw(choices)
    }

    fn world<'w, 't>(
        choices: &'w mut Choices<'t>,
        settings: Settings,
        options: Options,
    ) -> World<'w, 't> {
        World::new(choices, settings, options.storage, options.traced)
    }
}

impl Running for World<'_, '_> {
    type Coverage = Coverage;

    fn run(&mut self, until: u64) {
        self.run(until);
    }

    fn events(&self) -> u64 {
        self.engine.events()
    }

    fn recorder(&mut self) -> &mut Recorder<Coverage> {
        &mut self.engine.recorder
    }

    fn state(&self) -> Vec<Section> {
        self.state()
    }

    fn end(self) -> Ended<Coverage> {
        Ended {
            events: self.engine.events(),
            operations: self.operation_count(),
            answers_read: self.answers_read(),
            simulated_ms: self.engine.simulated_ms(),
            recorder: self.engine.recorder,
        }
    }
}

/// Runs one seed.
#[must_use]
pub fn seed<S: Simulation>(seed: u64, options: Options) -> Outcome<S::Coverage> {
    drawn::<S>(Choices::from_seed(seed), options)
}

/// Runs one tape.
#[must_use]
pub fn tape<S: Simulation>(tape: &[u8], options: Options) -> Outcome<S::Coverage> {
    drawn::<S>(Choices::from_tape(tape), options)
}

fn drawn<S: Simulation>(mut choices: Choices<'_>, options: Options) -> Outcome<S::Coverage> {
    if options.logged {
        choices = choices.logged();
    }
    let settings = S::draw(&mut choices);
    within::<S>(&mut choices, settings, options)
}

/// Runs with these settings.
#[must_use]
pub fn within<S: Simulation>(
    choices: &mut Choices<'_>,
    settings: S::Settings,
    options: Options,
) -> Outcome<S::Coverage> {
    let shown = if options.traced {
        format!("{settings:#?}")
    } else {
        String::new()
    };
    let mut world = S::world(choices, settings, options);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run(options.until)));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let event = world.events();
        world.recorder().failure = Some(Failure {
            oracle: Oracle::Panic,
            expected: "no panic".to_owned(),
            actual: text.unwrap_or("a panic").to_owned(),
            event,
        });
    }
    let state = if options.traced {
        world.state()
    } else {
        Vec::new()
    };
    let Ended {
        events,
        operations,
        answers_read,
        simulated_ms,
        recorder,
    } = world.end();
    Outcome {
        hash: recorder.digest.value(),
        draws: choices.count(),
        tape: choices.tape(),
        log: choices.log(),
        events,
        operations,
        answers_read,
        simulated_ms,
        coverage: recorder.coverage,
        failure: recorder.failure,
        trace: recorder.trace.unwrap_or_default(),
        settings: shown,
        state,
    }
}

/// Returns the hashes of many seeds as one.
#[must_use]
pub fn combined_hash(first: u64, count: u64) -> u64 {
    let mut digest = Digest::default();
    for each in first..first + count {
        let outcome = seed::<Inner>(each, Options::default());
        digest.number(outcome.hash);
        digest.number(outcome.draws);
    }
    digest.value()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn each_seed_is_repeated_by_its_tape() {
        for number in 0..2_000 {
            let seeded = seed::<Inner>(number, Options::default());
            assert_eq!(seeded.failure, None, "seed {number}");
            let taped = tape::<Inner>(&seeded.tape, Options::default());
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
                let limits = Arc::make_mut(&mut settings.limits);
                limits.cold = false;
                limits.registry = false;
                limits.index = false;
                within::<Inner>(&mut choices, settings, Options::default())
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
            let outcome = within::<Inner>(&mut choices, settings, Options::default());
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
            let (one, other) = (
                seed::<Inner>(number, Options::default()),
                seed::<Inner>(number, sqlite),
            );
            assert_eq!(
                (one.hash, one.failure),
                (other.hash, other.failure),
                "seed {number}"
            );
        }
    }
}
