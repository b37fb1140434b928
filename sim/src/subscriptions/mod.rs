//! Subscriptions: streams, subscriptions, the directory and the keys, which call each other by
//! name, with receivers of webhooks and workers around them.
//!
//! Nothing is sealed and nothing is forked here; other worlds have that. This one has what
//! subscriptions depend on: names and ids that appear and come again, calls and webhooks that are
//! lost, late, doubled or never reported, receivers and workers that do anything, keys that rotate,
//! clocks that differ, and objects that die between any two steps. In some of its runs clients have
//! sessions, too.

pub mod coverage;
mod judge;
mod keys;
pub mod model;
mod object;
mod outside;
mod receivers;
pub mod request;
mod rest;
pub mod sessions;
mod settings;
mod state;
pub mod view;
mod workers;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

pub use coverage::{Coverage, Fault, Situation};
pub use settings::Settings;

use crate::choices::Choices;
#[cfg(not(target_arch = "wasm32"))]
use crate::coverage::Nothing;
use crate::engine::Failure;
#[cfg(not(target_arch = "wasm32"))]
use crate::layer::{Layer, LayerOutcome, Source};
use crate::oracles::Oracle;
#[cfg(not(target_arch = "wasm32"))]
use crate::report;
use crate::run::{Options, Outcome};
use world::World;

/// The layer of subscriptions.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Copy, Debug)]
pub struct Subscriptions;

#[cfg(not(target_arch = "wasm32"))]
impl Layer for Subscriptions {
    const NAME: &'static str = "subscriptions";
    const FLAG: &'static str = " --subscriptions";
    const WORK: &'static str = "work-subscriptions";
    const RUNS_FOR_ALL_SITUATIONS: u64 = 3_000;
    const HUNTED_RUNS_MIN: u64 = 30_000;
    const EVENTS_SHOWN: usize = 60;
    const SHRINK_TRIES_MAX: u64 = 30_000;
    const SHRINK_TIME_MAX: Duration = Duration::from_secs(15);
    const PAGE: Option<report::World> = Some(report::World::Subscriptions);

    type Situation = Situation;
    type Fault = Fault;
    type Watermark = Nothing;

    fn run(source: Source<'_>, options: Options) -> LayerOutcome<Self> {
        match source {
            Source::Seed(number) => seed(number, options),
            Source::Tape(bytes) => tape(bytes, options),
        }
    }
}

/// Runs one seed.
#[must_use]
pub fn seed(seed: u64, options: Options) -> Outcome<Coverage> {
    run(Choices::from_seed(seed), options)
}

/// Runs one tape.
#[must_use]
pub fn tape(tape: &[u8], options: Options) -> Outcome<Coverage> {
    run(Choices::from_tape(tape), options)
}

fn run(mut choices: Choices<'_>, options: Options) -> Outcome<Coverage> {
    if options.logged {
        choices = choices.logged();
    }
    let settings = Settings::draw(&mut choices);
    within(&mut choices, settings, options)
}

/// Runs with these settings.
#[must_use]
pub fn within(
    choices: &mut Choices<'_>,
    settings: Settings,
    options: Options,
) -> Outcome<Coverage> {
    let operations = settings.operations;
    let shown = if options.traced {
        format!("{settings:#?}")
    } else {
        String::new()
    };
    let mut world = World::new(choices, settings, options.traced);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run(options.until)));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        world.failure = Some(Failure {
            oracle: Oracle::Panic,
            expected: "no panic".to_owned(),
            actual: text.unwrap_or("a panic").to_owned(),
            event: world.events,
        });
    }
    let state = if options.traced {
        world.state()
    } else {
        Vec::new()
    };
    let (hash, events) = (world.digest.value(), world.events);
    let simulated_ms = world.now - crate::settings::BEGINNING;
    let coverage = core::mem::take(&mut world.coverage);
    let (failure, trace) = (world.failure.take(), world.trace.take());
    drop(world);
    Outcome {
        hash,
        draws: choices.count(),
        tape: choices.tape(),
        log: choices.log(),
        events,
        operations,
        answers_read: 0,
        simulated_ms,
        coverage,
        failure,
        trace: trace.unwrap_or_default(),
        settings: shown,
        state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seed_is_repeated_by_its_tape() {
        for seed in 0..300 {
            let seeded = Subscriptions::run(Source::Seed(seed), Options::default());
            assert_eq!(seeded.failure, None, "seed {seed}");
            let taped = Subscriptions::run(Source::Tape(&seeded.tape), Options::default());
            assert_eq!((taped.hash, taped.draws), (seeded.hash, seeded.draws));
        }
    }
}
