//! What the hosts of a run share: decisions, clock, durable state, and the record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machine::MemoryRows;
use sim::choices::Choices;
use sim::digest::Digest;
use sim::engine::Failure;
use sim::model::Mismatch;
use sim::oracles::Oracle;
use sim::settings::BEGINNING;
use sim::trace::{Line, Mark};
use tokio::sync::Notify;

use crate::cold::ColdTier;
use crate::coverage::{Coverage, Fault, Situation};
use crate::settings::Settings;
use crate::storage::{Logged, PageCache};

pub(crate) const SERVER: &str = "server";

/// Returns the name of a client's host.
pub(crate) fn client_host(client: u64) -> String {
    format!("client-{client}")
}

/// Returns milliseconds since 1970 on the present host.
pub(crate) fn now() -> u64 {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    BEGINNING + u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// The phases of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Clients send requests, and faults happen.
    Busy,
    /// Faults have ended; what is under way finishes.
    Healing,
    /// Everything is read once more.
    Reading,
    /// Clients no longer use the streams.
    Waiting,
}

/// The state that the hosts of a run share.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Mutex<Inner>>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) choices: Choices<'static>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) coverage: Coverage,
    pub(crate) digest: Digest,
    pub(crate) trace: Option<Vec<Line>>,
    /// The number of lines of the trace, even if it is not kept.
    pub(crate) events: u64,
    pub(crate) until: u64,
    pub(crate) failure: Option<Failure>,
    pub(crate) phase: Phase,
    /// The time of the last step's beginning, for use outside of hosts.
    pub(crate) now: u64,
    /// The rows of the streams and their alarms, as a crash of the process leaves them.
    pub(crate) disks: BTreeMap<String, Arc<MemoryRows>>,
    pub(crate) alarms: BTreeMap<String, u64>,
    /// What shards have after failed commits.
    pub(crate) page_caches: BTreeMap<usize, PageCache>,
    pub(crate) tier: ColdTier,
    /// When the alarms were last queried, and how often at that time.
    pub(crate) asked_due: (u64, u64),
    /// When the server last asked for the time, and how often at that time.
    asked_now: (u64, u64),
    pub(crate) storage_failed_at: u64,
    /// How often the server has asked for entropy.
    pub(crate) randoms: u64,
    /// Which server has loaded which stream.
    pub(crate) opened: BTreeSet<(u64, String)>,
    /// What has become durable and is not judged yet.
    pub(crate) log: Vec<Logged>,
    /// Counts the starts of the server.
    pub(crate) boot: u64,
    /// Whether the server has died. Its code may still run for the rest of the tick.
    pub(crate) dead: bool,
    pub(crate) crashed_at: u64,
    /// Asks the present server to end.
    pub(crate) end: Arc<Notify>,
    pub(crate) ending: bool,
    /// How many disturbances have begun, and how many go on.
    pub(crate) disturbances: u64,
    pub(crate) disturbed: u64,
    /// Requests and live reads that clients have under way.
    pub(crate) under_way: u64,
    /// Clients that have nothing left to do.
    pub(crate) idle: u64,
    pub(crate) operations: u64,
    /// How many faults have happened after the heal.
    broken_late: u64,
}

/// How often the time may be read within a millisecond.
const NOW_ASKED_MAX: u64 = 100_000;
/// How many faults of things that outlast the busy phase may happen after the heal.
const BROKEN_LATE_MAX: u64 = 3;

impl Shared {
    pub(crate) fn new(
        choices: Choices<'static>,
        settings: Settings,
        traced: bool,
        until: u64,
    ) -> Self {
        let mut coverage = Coverage::default();
        let on = |fault: &&Fault| settings.chance(**fault) > 0;
        Fault::ALL
            .iter()
            .filter(on)
            .for_each(|fault| coverage.fault_is_on(*fault));
        Self(Arc::new(Mutex::new(Inner {
            choices,
            settings: Arc::new(settings),
            coverage,
            digest: Digest::default(),
            trace: traced.then(Vec::new),
            events: 0,
            until,
            failure: None,
            phase: Phase::Busy,
            now: BEGINNING,
            disks: BTreeMap::new(),
            alarms: BTreeMap::new(),
            page_caches: BTreeMap::new(),
            tier: ColdTier::default(),
            asked_due: (0, 0),
            asked_now: (0, 0),
            storage_failed_at: 0,
            randoms: 0,
            opened: BTreeSet::new(),
            log: Vec::new(),
            boot: 0,
            dead: false,
            crashed_at: 0,
            end: Arc::new(Notify::new()),
            ending: false,
            disturbances: 0,
            disturbed: 0,
            under_way: 0,
            idle: 0,
            operations: 0,
            broken_late: 0,
        })))
    }

    /// Locks the shared state. The guard must not be held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.lock().settings)
    }
}

impl Inner {
    /// Draws whether a fault fires now.
    pub(crate) fn fault(&mut self, fault: Fault) -> bool {
        let chance = self.settings.chance(fault);
        let fires = self.phase == Phase::Busy && chance > 0 && self.choices.percent(chance);
        if fires {
            self.coverage.fired(fault);
        }
        fires
    }

    /// Draws whether a bit of a row flips that is read now.
    pub(crate) fn row_flips(&mut self) -> bool {
        let chance = self.settings.chance(Fault::RowFlips);
        let fires = self.phase == Phase::Busy && self.choices.fourth().percent(chance);
        if fires {
            self.coverage.fired(Fault::RowFlips);
        }
        fires
    }

    /// Draws like [`Self::fault`] for things that outlast the busy phase.
    pub(crate) fn fault_ever(&mut self, fault: Fault) -> bool {
        if self.phase == Phase::Busy {
            return self.fault(fault);
        }
        let chance = self.settings.chance(fault);
        let fires =
            self.broken_late < BROKEN_LATE_MAX && chance > 0 && self.choices.percent(chance);
        if fires {
            self.broken_late += 1;
            self.coverage.fired(fault);
        }
        fires
    }

    pub(crate) fn changed(&mut self, fault: Fault) {
        self.coverage.changed(fault);
    }

    pub(crate) fn cover(&mut self, situation: Situation) {
        self.coverage.cover(situation);
    }

    /// Returns whether the run goes on.
    pub(crate) fn goes_on(&self) -> bool {
        self.failure.is_none() && self.events < self.until
    }

    pub(crate) fn fail(&mut self, oracle: Oracle, expected: String, actual: String) {
        if self.failure.is_none() {
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

    pub(crate) fn check(&mut self, oracle: Oracle, verdict: Result<(), Mismatch>) {
        if let Err(Mismatch { expected, actual }) = verdict {
            self.fail(oracle, expected, actual);
        }
    }

    /// Fails when the server repeats an action without end at one time.
    pub(crate) fn asked_for_time(&mut self, now: u64) {
        let asked = if self.asked_now.0 == now {
            self.asked_now.1 + 1
        } else {
            0
        };
        self.asked_now = (now, asked);
        if asked > NOW_ASKED_MAX {
            let actual = format!("the server asks {asked} times at {now}");
            self.fail(Oracle::TimeGoesOn, "a server that rests".to_owned(), actual);
            // A host that never rests cannot be left in another way.
            panic!("the server does not rest");
        }
    }

    /// Notes an event.
    pub(crate) fn note(&mut self, who: &str, what: impl FnOnce() -> String) {
        // Outside of a host, turmoil would read the clock of this machine.
        let is_host = tokio::runtime::Handle::try_current().is_ok() && turmoil::in_simulation();
        let now = if is_host { now() } else { self.now };
        self.events += 1;
        self.digest.number(now);
        let events = self.events;
        // Everything noted is part of the run's hash.
        let text = what();
        self.digest.bytes(text.as_bytes());
        tracing::trace!(who, text, "event");
        if let Some(trace) = &mut self.trace {
            trace.push(Line {
                simulated_ms: now - BEGINNING,
                event: events,
                lane: who.to_owned(),
                text,
                mark: Mark::Point,
            });
        }
    }
}
