//! Forks: several objects that call each other by name, over one cold tier.
//!
//! The world is smaller than that of one stream ([`crate::world`]): it has no caches, connections
//! or readers at the tail. It has what forks depend on: names that appear and come again, chains,
//! calls that are lost, late, doubled or never reported, and objects that die between any two
//! steps. A turn is judged when it becomes durable.

pub mod coverage;
mod judge;
pub mod model;
mod outside;
mod read;
pub mod request;
mod rest;
mod settings;
mod state;
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

/// The layer of forks.
#[derive(Clone, Copy, Debug)]
pub struct Forks;

#[cfg(not(target_arch = "wasm32"))]
impl Layer for Forks {
    const NAME: &'static str = "forks";
    const FLAG: &'static str = " --forks";
    const WORK: &'static str = "work-forks";
    const RUNS_FOR_ALL_SITUATIONS: u64 = 3_000;
    const HUNTED_RUNS_MIN: u64 = 20_000;
    const EVENTS_SHOWN: usize = 60;
    const SHRINK_TRIES_MAX: u64 = 30_000;
    const SHRINK_TIME_MAX: Duration = Duration::from_secs(15);
    const PAGE: Option<report::World> = Some(report::World::Forks);

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

impl Simulation for Forks {
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
            let seeded = Forks::run(Source::Seed(seed), Options::default());
            assert_eq!(seeded.failure, None, "seed {seed}");
            let taped = Forks::run(Source::Tape(&seeded.tape), Options::default());
            assert_eq!((taped.hash, taped.draws), (seeded.hash, seeded.draws));
        }
    }
}
