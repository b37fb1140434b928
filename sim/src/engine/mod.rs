//! The engine of a run: it draws decisions, schedules events, decides about faults, and records.

mod recorder;
mod scheduler;

pub use recorder::{Failure, Recorder};
use scheduler::{Scheduler, Taken};

use core::fmt::Display;

use crate::choices::Choices;
use crate::coverage::{Coverage, Fault, Situation, Watermark};
use crate::model::Mismatch;
use crate::oracles::Oracle;
use crate::settings::{BEGINNING, Settings};
use crate::trace::Mark;

/// The most events of a run. An instance whose clock is behind may get an alarm every few
/// milliseconds for a while.
const EVENTS_MAX: u64 = 1_000_000;
/// The most events for each operation of a long run.
const EVENTS_PER_OPERATION_MAX: u64 = 1_000;
/// A run in which only one oracle counts is cut short, because it may never fail.
const EVENTS_OF_ONE_ORACLE_MAX: u64 = 10_000;
/// The most events at one time.
const AT_ONCE_MAX: u64 = 20_000;

/// The engine of a run. `E` is the type of the events.
#[derive(Debug)]
pub struct Engine<'w, 't, E> {
    pub choices: &'w mut Choices<'t>,
    pub settings: Settings,
    pub recorder: Recorder<Coverage>,
    scheduler: Scheduler<E>,
}

impl<'w, 't, E> Engine<'w, 't, E> {
    /// Makes an engine for a run in which nothing has happened yet.
    #[must_use]
    pub fn new(choices: &'w mut Choices<'t>, settings: Settings, traced: bool) -> Self {
        let mut coverage = Coverage::default();
        let on = |fault: &&Fault| settings.faults.chance(**fault) > 0;
        Fault::ALL
            .iter()
            .filter(on)
            .for_each(|fault| coverage.fault_is_on(*fault));
        Self {
            choices,
            settings,
            recorder: Recorder::new(coverage, traced),
            scheduler: Scheduler::new(),
        }
    }

    /// Returns the simulated time in milliseconds since 1970.
    #[must_use]
    pub const fn now(&self) -> u64 {
        self.scheduler.now
    }

    /// Returns how many events have happened.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.scheduler.events
    }

    /// Takes the next event at its time; `None` when no event is left, or when the run is cut
    /// short.
    pub fn take_next(&mut self) -> Option<E> {
        let Taken {
            event,
            is_reordered,
            at_once,
        } = self.scheduler.take_next()?;
        if is_reordered {
            self.changed(Fault::Reorder);
            self.note_as(Mark::Fault, "fault", || Fault::Reorder.text().to_owned());
        }
        self.recorder.digest.number(self.now());
        self.raise(Watermark::EventsAtOnce, at_once);
        let events_max = EVENTS_MAX.max(self.settings.operations * EVENTS_PER_OPERATION_MAX);
        if at_once > AT_ONCE_MAX {
            self.fail(
                Oracle::TimeGoesOn,
                format!("{AT_ONCE_MAX} events at one time at most"),
                "another one".to_owned(),
            );
        } else if self.events() > events_max {
            self.fail(
                Oracle::RunEnds,
                "fewer events".to_owned(),
                "another one".to_owned(),
            );
        }
        let goes_on = self.settings.only.is_none() || self.events() <= EVENTS_OF_ONE_ORACLE_MAX;
        goes_on.then_some(event)
    }

    #[must_use]
    pub const fn simulated_ms(&self) -> u64 {
        self.scheduler.now - BEGINNING
    }

    pub fn schedule(&mut self, after: u64, event: E) {
        self.schedule_at(self.now() + after, event);
    }

    pub fn schedule_at(&mut self, at: u64, event: E) {
        let tie = if self.fault(Fault::Reorder) {
            1 + self.choices.upto(7)
        } else {
            0
        };
        self.scheduler.push(at, tie, event);
    }

    /// Draws whether a fault fires now.
    pub fn fault(&mut self, fault: Fault) -> bool {
        let percent = self.settings.faults.chance(fault);
        if percent == 0 || self.is_calm() {
            return false;
        }
        let fires = if self.settings.enumerated {
            self.choices.upto(1) == 1
        } else {
            self.choices.percent(percent)
        };
        if fires {
            self.recorder.coverage.fired(fault);
            // One that changes the order of events is noted where it has done so.
            if fault != Fault::Reorder {
                self.note_as(Mark::Fault, "fault", || fault.text().to_owned());
            }
        }
        fires
    }

    /// Counts that a fault has made a difference.
    pub fn changed(&mut self, fault: Fault) {
        self.recorder.coverage.changed(fault);
    }

    /// Returns whether this is a time between storms, in which nothing breaks.
    const fn is_calm(&self) -> bool {
        let (storm, calm) = (self.settings.storm_ms, self.settings.calm_ms);
        calm > 0 && self.simulated_ms() % (storm + calm) >= storm
    }

    pub fn network_delay(&mut self) -> u64 {
        self.choices.upto(self.settings.delays.network)
    }

    /// Records a failure, unless there is one already or only another oracle counts in this run.
    pub fn fail(&mut self, oracle: Oracle, expected: String, actual: String) {
        let counts = self.settings.only.is_none_or(|only| only == oracle);
        if counts {
            let failure = Failure {
                oracle,
                expected,
                actual,
                event: self.events(),
            };
            self.recorder.fail(self.simulated_ms(), failure);
        }
    }

    /// Records a failure of an oracle if its verdict is one.
    pub fn check(&mut self, oracle: Oracle, verdict: Result<(), Mismatch>) {
        if let Err(Mismatch { expected, actual }) = verdict {
            self.fail(oracle, expected, actual);
        }
    }

    /// Returns whether a trace is kept.
    #[must_use]
    pub const fn is_traced(&self) -> bool {
        self.recorder.trace.is_some()
    }

    /// Adds a line to the trace, if one is kept. `who` names its lane.
    pub fn note(&mut self, who: impl Display, what: impl FnOnce() -> String) {
        self.note_as(Mark::Point, who, what);
    }

    /// The same, for a line that means more to a timeline.
    pub fn note_as(&mut self, mark: Mark, who: impl Display, what: impl FnOnce() -> String) {
        let (simulated_ms, event) = (self.simulated_ms(), self.events());
        self.recorder.note(simulated_ms, event, mark, who, what);
    }

    pub fn cover(&mut self, situation: Situation) {
        self.recorder.coverage.cover(situation);
    }

    pub fn raise(&mut self, watermark: Watermark, height: u64) {
        self.recorder.coverage.raise(watermark, height);
    }
}
