//! A run as JSON, for the page that replays it in a browser. The page runs the simulator in wasm,
//! so that it can go to any event by running up to there.

use serde::Serialize;

use crate::engine::Failure;
use crate::forks::Forks;
use crate::run::{self, Inner, Options, Outcome};
use crate::settings::BEGINNING;
use crate::subscriptions::Subscriptions;
use crate::trace::{Line, Section};

/// A world that the page can replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// One stream, with all that surrounds it.
    Stream,
    /// Streams and their forks.
    Forks,
    /// Streams and their subscriptions.
    Subscriptions,
}

impl World {
    /// Returns its number in calls of the wasm build.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Stream => 0,
            Self::Forks => 1,
            Self::Subscriptions => 2,
        }
    }

    /// Returns the world of a number.
    #[must_use]
    pub const fn numbered(number: u32) -> Self {
        match number {
            0 => Self::Stream,
            1 => Self::Forks,
            _ => Self::Subscriptions,
        }
    }
}

/// A run up to some event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// The hash of everything that happened, in hexadecimal.
    pub hash: String,
    pub draws: u64,
    pub events: u64,
    pub operations: u64,
    pub simulated_ms: u64,
    /// The time at which simulations begin, in milliseconds since 1970.
    pub beginning_ms: u64,
    pub failure: Option<Shown>,
    pub settings: String,
    pub trace: Vec<Line>,
    /// The state after the last event.
    pub state: Vec<Section>,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    pub oracle: &'static str,
    /// What holds unless the oracle fails.
    pub meaning: &'static str,
    pub expected: String,
    pub actual: String,
    /// The number of the event that showed it.
    pub event: u64,
}

impl From<Failure> for Shown {
    fn from(failure: Failure) -> Self {
        Self {
            oracle: failure.oracle.name(),
            meaning: failure.oracle.meaning(),
            expected: failure.expected,
            actual: failure.actual,
            event: failure.event,
        }
    }
}

impl<C> From<Outcome<C>> for Replay {
    fn from(outcome: Outcome<C>) -> Self {
        Self {
            hash: format!("{:016x}", outcome.hash),
            draws: outcome.draws,
            events: outcome.events,
            operations: outcome.operations,
            simulated_ms: outcome.simulated_ms,
            beginning_ms: BEGINNING,
            failure: outcome.failure.map(Shown::from),
            settings: outcome.settings,
            trace: outcome.trace,
            state: outcome.state,
        }
    }
}

/// Runs a tape up to an event.
#[must_use]
pub fn replay(world: World, tape: &[u8], until: u64) -> Replay {
    let options = Options {
        traced: true,
        until,
        ..Options::default()
    };
    match world {
        World::Stream => run::tape::<Inner>(tape, options).into(),
        World::Forks => run::tape::<Forks>(tape, options).into(),
        World::Subscriptions => run::tape::<Subscriptions>(tape, options).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_up_to_an_event_is_the_beginning_of_the_whole_run() {
        let tapes = [
            (
                World::Stream,
                run::seed::<Inner>(7, Options::default()).tape,
            ),
            (World::Forks, run::seed::<Forks>(7, Options::default()).tape),
            (
                World::Subscriptions,
                run::seed::<Subscriptions>(7, Options::default()).tape,
            ),
        ];
        for (world, tape) in tapes {
            let whole = replay(world, &tape, u64::MAX);
            for until in [0, 1, whole.events / 2, whole.events] {
                let part = replay(world, &tape, until);
                let begins = whole.trace.iter().take_while(|line| line.event <= until);
                let begins: Vec<_> = begins.cloned().collect();
                assert_eq!(part.trace[..begins.len()], begins, "{world:?} {until}");
                assert_eq!(part.events, until, "{world:?}");
            }
            assert_eq!(replay(world, &tape, whole.events).hash, whole.hash);
        }
    }

    #[test]
    fn each_begun_span_of_a_run_has_a_name_of_its_own() {
        use crate::trace::Mark;

        for seed in 0..50 {
            let options = Options {
                traced: true,
                ..Options::default()
            };
            let trace = run::seed::<Inner>(seed, options).trace;
            let mut begun: Vec<_> = trace
                .iter()
                .filter_map(|line| match line.mark {
                    Mark::Begins(span) => Some((line.lane.clone(), span.to_string())),
                    Mark::Point
                    | Mark::Ends(_)
                    | Mark::Loses(_)
                    | Mark::Breaks
                    | Mark::Fault
                    | Mark::Failure => None,
                })
                .collect();
            let count = begun.len();
            begun.sort();
            begun.dedup();
            assert!(count > 0, "seed {seed}");
            assert_eq!(begun.len(), count, "seed {seed}");
        }
    }
}
