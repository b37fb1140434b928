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

#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

pub use coverage::{Coverage, Fault, Situation};
pub use settings::Settings;

use crate::choices::Choices;
#[cfg(not(target_arch = "wasm32"))]
use crate::coverage::Nothing;
use crate::engine::Recorder;
#[cfg(not(target_arch = "wasm32"))]
use crate::layer::{Layer, LayerOutcome, Source};
#[cfg(not(target_arch = "wasm32"))]
use crate::report;
#[cfg(not(target_arch = "wasm32"))]
use crate::run;
use crate::run::{Ended, Options, Running, Simulation};
use crate::trace::Section;
use world::World;

/// The layer of subscriptions.
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
            Source::Seed(number) => run::seed::<Self>(number, options),
            Source::Tape(bytes) => run::tape::<Self>(bytes, options),
        }
    }
}

impl Simulation for Subscriptions {
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
        World::new(choices, settings, options.traced)
    }
}

impl Running for World<'_, '_> {
    type Coverage = Coverage;

    fn run(&mut self, until: u64) {
        self.run(until);
    }

    fn events(&self) -> u64 {
        self.events
    }

    fn recorder(&mut self) -> &mut Recorder<Coverage> {
        &mut self.recorder
    }

    fn state(&self) -> Vec<Section> {
        self.state()
    }

    fn end(self) -> Ended<Coverage> {
        Ended {
            events: self.events,
            operations: self.settings.operations,
            answers_read: 0,
            simulated_ms: self.simulated_ms(),
            recorder: self.recorder,
        }
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
