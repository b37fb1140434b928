//! The course of a run: its time, the queue of what is to happen, its decisions, and what is kept
//! of it. No ticks and no threads: the next event is taken, and the time is set to its own.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::choices::Choices;
use crate::digest::Digest;
use crate::marks::{Fault, Mark, Marks, Watermark};
use crate::model::Mismatch;
use crate::oracles::Oracle;
use crate::settings::{BEGINNING, Settings};

/// No run goes on for longer. An instance whose clock is behind may take an alarm every few
/// milliseconds for a while.
const EVENTS_MAX: u64 = 1_000_000;
/// Where there are very many operations, for so many times that number.
const EVENTS_PER_OPERATION_MAX: u64 = 1_000;
/// Nor one in which only one oracle is listened to.
const EVENTS_UNHEARD_MAX: u64 = 10_000;
/// What happens at one time comes to an end.
const AT_ONCE_MAX: u64 = 20_000;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub oracle: Oracle,
    pub expected: String,
    pub actual: String,
    /// Number of the event that showed it.
    pub event: u64,
}

#[derive(Debug)]
struct Scheduled<E> {
    at: u64,
    tie: u64,
    sequence: u64,
    event: E,
}

impl<E> Scheduled<E> {
    const fn key(&self) -> (u64, u64, u64) {
        (self.at, self.tie, self.sequence)
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    /// The earliest is the greatest, for the heap gives that first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// See the module. `E` is what can happen.
#[derive(Debug)]
pub struct Course<'w, 't, E> {
    pub choices: &'w mut Choices<'t>,
    pub settings: Settings,
    /// Milliseconds since 1970.
    pub now: u64,
    queue: BinaryHeap<Scheduled<E>>,
    sequence: u64,
    /// The number of the last event taken.
    last: u64,
    /// How many events have been taken at this time.
    at_once: u64,
    pub events: u64,
    pub digest: Digest,
    pub marks: Marks,
    pub failure: Option<Failure>,
    pub trace: Option<Vec<String>>,
}

impl<'w, 't, E> Course<'w, 't, E> {
    /// A course on which nothing has happened yet.
    #[must_use]
    pub fn new(choices: &'w mut Choices<'t>, settings: Settings, traced: bool) -> Self {
        let mut marks = Marks::default();
        let on = |fault: &&Fault| settings.faults.chance(**fault) > 0;
        Fault::ALL
            .iter()
            .filter(on)
            .for_each(|fault| marks.fault_is_on(*fault));
        Self {
            choices,
            settings,
            now: BEGINNING,
            queue: BinaryHeap::new(),
            sequence: 0,
            last: 0,
            at_once: 0,
            events: 0,
            digest: Digest::default(),
            marks,
            failure: None,
            trace: traced.then(Vec::new),
        }
    }

    /// The next event, when it happens; `None` when nothing is left to happen.
    pub fn take_next(&mut self) -> Option<E> {
        let Scheduled {
            at,
            sequence,
            event,
            ..
        } = self.queue.pop()?;
        if at > self.now {
            self.at_once = 0;
        } else if sequence < self.last {
            self.changed(Fault::Reorder);
        }
        self.now = at;
        self.last = sequence;
        self.at_once += 1;
        self.events += 1;
        self.digest.number(at);
        self.marks.reach(Watermark::EventsAtOnce, self.at_once);
        if self.at_once > AT_ONCE_MAX {
            self.fail(
                Oracle::TimeGoesOn,
                format!("{AT_ONCE_MAX} events at one time at most"),
                "another one".to_owned(),
            );
        } else if self.events > EVENTS_MAX.max(self.settings.operations * EVENTS_PER_OPERATION_MAX)
        {
            self.fail(
                Oracle::RunEnds,
                "fewer events".to_owned(),
                "another one".to_owned(),
            );
        }
        // A world that only one oracle judges may go on when it should have failed long ago.
        let goes_on = self.settings.only.is_none() || self.events <= EVENTS_UNHEARD_MAX;
        goes_on.then_some(event)
    }

    #[must_use]
    pub const fn simulated_ms(&self) -> u64 {
        self.now - BEGINNING
    }

    pub fn schedule(&mut self, after: u64, event: E) {
        self.schedule_at(self.now + after, event);
    }

    pub fn schedule_at(&mut self, at: u64, event: E) {
        let tie = if self.fault(Fault::Reorder) {
            1 + self.choices.upto(7)
        } else {
            0
        };
        self.sequence += 1;
        self.queue.push(Scheduled {
            at: at.max(self.now),
            tie,
            sequence: self.sequence,
            event,
        });
    }

    /// Whether something breaks now.
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
            self.marks.fired(fault);
        }
        fires
    }

    /// What broke has made a difference.
    pub const fn changed(&mut self, fault: Fault) {
        self.marks.changed(fault);
    }

    /// Whether it is a time between storms.
    const fn is_calm(&self) -> bool {
        let (storm, calm) = (self.settings.storm_ms, self.settings.calm_ms);
        calm > 0 && (self.now - BEGINNING) % (storm + calm) >= storm
    }

    pub fn network_delay(&mut self) -> u64 {
        self.choices.upto(self.settings.delays.network)
    }

    pub fn fail(&mut self, oracle: Oracle, expected: String, actual: String) {
        let heard = self.settings.only.is_none_or(|only| only == oracle);
        if heard && self.failure.is_none() {
            self.note("!!", || {
                format!("{oracle}: expected {expected}, but {actual}")
            });
            self.failure = Some(Failure {
                oracle,
                expected,
                actual,
                event: self.events,
            });
        }
    }

    pub fn check(&mut self, oracle: Oracle, verdict: Result<(), Mismatch>) {
        if let Err(Mismatch { expected, actual }) = verdict {
            self.fail(oracle, expected, actual);
        }
    }

    pub fn note(&mut self, who: &str, what: impl FnOnce() -> String) {
        let seconds = self.simulated_ms() / 1_000;
        let millis = self.simulated_ms() % 1_000;
        let events = self.events;
        if let Some(trace) = &mut self.trace {
            trace.push(format!(
                "{seconds:>6}.{millis:03} e{events:<5} {who:<10} {}",
                what()
            ));
        }
    }

    pub const fn hit(&mut self, mark: Mark) {
        self.marks.hit(mark);
    }
}
