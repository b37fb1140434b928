//! An object as the platform runs it: one event at a time, writes that are visible at once and
//! durable later, an output gate, an alarm, connections that survive sleep, and an end at any time.
//!
//! [`Program`] is what runs on it; [`crate::world`] runs the stream machine.

mod alarm;

use std::collections::VecDeque;
use std::fmt::Debug;

pub use alarm::{Alarm, Due};

use crate::coverage::{Fault, Situation, Watermark};
use crate::engine::Engine;
use crate::ids::{CallId, ConnectionId, ObjectId};
use crate::trace::{Mark, Span};

/// The program on an object. A value is the memory of one instance.
pub trait Program: Clone + Debug {
    /// The storage that an instance sees.
    type Storage: Storage;
    /// What is kept beside each commit, so that a crash can restore it together with the storage.
    type Snapshot: Clone + Debug + Default;
    /// What is kept with a connection while the instance sleeps.
    type Attachment: Debug;
    type Answer: Debug;
    type Message: Debug;
    /// A request to another object, in the background.
    type Effect: Debug;
}

/// The storage as an instance sees it, and the durable part of it.
pub trait Storage: Debug {
    type Write: Debug;
    /// The part of the storage that survives a crash.
    type Disk: Debug + Default;

    /// Applies the writes of a commit to the durable copy.
    ///
    /// # Errors
    ///
    /// When one of them is refused.
    fn persist(disk: &mut Self::Disk, writes: &[Self::Write]) -> Result<(), String>;

    /// Goes back to the durable copy.
    ///
    /// # Errors
    ///
    /// When the storage refuses to be restored.
    fn restore(&mut self, disk: &Self::Disk) -> Result<(), String>;
}

/// An event that the platform causes.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A commit and all before it become durable.
    Durable {
        object: ObjectId,
        epoch: u64,
        number: u64,
    },
    Crash {
        object: ObjectId,
        epoch: u64,
    },
    /// The instance is dropped if it has nothing to do.
    Idle {
        object: ObjectId,
        epoch: u64,
        cut_connections: bool,
    },
    Alarm {
        object: ObjectId,
        token: u64,
        again: bool,
    },
}

/// A turn's writes on their way to durability.
#[derive(Debug)]
struct Commit<P: Program> {
    number: u64,
    writes: Vec<<P::Storage as Storage>::Write>,
    alarm: Option<Option<u64>>,
    /// Whether it ends the handling of an alarm.
    handles_alarm: bool,
    snapshot: P::Snapshot,
}

/// Something that the output gate holds.
#[derive(Debug)]
struct Held<P: Program> {
    gate: u64,
    what: Outgoing<P>,
}

/// What leaves an object.
#[derive(Debug)]
pub enum Outgoing<P: Program> {
    Answer {
        call: CallId,
        answer: P::Answer,
    },
    Message {
        connection: ConnectionId,
        message: P::Message,
    },
    Close {
        connection: ConnectionId,
    },
    /// An effect of this instance.
    Effect {
        instance: u64,
        effect: P::Effect,
    },
}

/// An instance's own clock, which never goes back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    ahead: u64,
    behind: u64,
    last: u64,
}

impl Clock {
    /// Returns milliseconds since 1970 at a time of the world.
    pub fn read(&mut self, now: u64) -> u64 {
        self.last = self.last.max(now + self.ahead - self.behind);
        self.last
    }
}

/// What remains of an instance when it dies.
#[derive(Debug)]
pub struct Remains<P> {
    /// Its memory, if it had any.
    pub instance: Option<P>,
    pub clock: Clock,
    /// The calls that it had begun but not answered.
    pub begun: Vec<CallId>,
    /// Whether some of its commits are lost.
    pub lost_commits: bool,
    /// Whether it goes on with the calls that it has begun.
    pub goes_on: bool,
    alarm_unhandled: bool,
}

/// An object as the platform runs it.
#[derive(Debug)]
pub struct Object<P: Program> {
    /// The name of this object in its events.
    number: ObjectId,
    pub storage: P::Storage,
    disk: <P::Storage as Storage>::Disk,
    durable_snapshot: P::Snapshot,
    commits: VecDeque<Commit<P>>,
    issued: u64,
    committed: u64,
    last_durable_at: u64,
    held: VecDeque<Held<P>>,
    /// The memory of the present instance, if there is one.
    pub instance: Option<P>,
    pub clock: Clock,
    /// How many instances there have been.
    pub instances: u64,
    /// Counts the ends of instances that took everything in memory with them.
    pub epoch: u64,
    /// Calls that an instance has begun but not answered.
    pub begun: Vec<CallId>,
    /// Connections whose object's end it holds, in the order of their beginning.
    pub connections: Vec<(ConnectionId, P::Attachment)>,
    pub alarm: Alarm,
    pub last_crash_at: u64,
}

impl<P: Program> Object<P> {
    #[must_use]
    pub fn new(number: ObjectId, storage: P::Storage) -> Self {
        Self {
            number,
            storage,
            disk: Default::default(),
            durable_snapshot: P::Snapshot::default(),
            commits: VecDeque::new(),
            issued: 0,
            committed: 0,
            last_durable_at: 0,
            held: VecDeque::new(),
            instance: None,
            clock: Clock::default(),
            instances: 0,
            epoch: 0,
            begun: Vec::new(),
            connections: Vec::new(),
            alarm: Alarm::default(),
            last_crash_at: 0,
        }
    }

    /// Returns the snapshot that belongs to what is durable.
    #[must_use]
    pub const fn durable_snapshot(&self) -> &P::Snapshot {
        &self.durable_snapshot
    }

    /// Returns why it is not quiescent, or `None`.
    #[must_use]
    pub fn pending(&self) -> Option<String> {
        // Effects do not count: an alarm's commit may be on its way, and another alarm always
        // follows.
        let answers = self.held.iter();
        let answers = answers.filter(|held| !matches!(held.what, Outgoing::Effect { .. }));
        let count = answers.count();
        if count > 0 {
            return Some(format!("holds back {count} answers"));
        }
        (!self.begun.is_empty()).then(|| format!("has not answered {} calls", self.begun.len()))
    }

    /// Returns how many commits are on their way.
    #[must_use]
    pub fn commits_pending(&self) -> usize {
        self.commits.len()
    }

    /// Begins a new instance with its own clock. Returns the time of that clock and the number
    /// of the instance.
    pub fn begin_instance<E>(&mut self, engine: &mut Engine<'_, '_, E>) -> (u64, u64) {
        let skew = engine.settings.delays.skew;
        let (ahead, behind) = if skew > 0 {
            (engine.choices.upto(skew), engine.choices.upto(skew))
        } else {
            (0, 0)
        };
        let mut clock = Clock {
            ahead,
            behind,
            last: 0,
        };
        let now = clock.read(engine.now());
        if now < self.clock.last {
            engine.cover(Situation::ClockWentBack);
        }
        self.clock = clock;
        self.instances += 1;
        (now, self.instances)
    }

    /// Sends the writes of a turn on their way to durability, with its change of the alarm. The
    /// storage has applied the writes already. Returns the number of the commit.
    pub fn commit<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
        writes: Vec<<P::Storage as Storage>::Write>,
        alarm: Option<Option<u64>>,
        handles_alarm: bool,
        snapshot: P::Snapshot,
    ) -> u64 {
        self.issued += 1;
        let stalls = engine.fault(Fault::CommitStalls);
        let longest = if stalls {
            engine.settings.delays.stall
        } else {
            engine.settings.delays.commit
        };
        // Where all runs are enumerated, the delay is long enough for a crash to come first.
        let delay = if engine.settings.enumerated {
            1
        } else {
            engine.choices.upto(longest)
        };
        if stalls && delay > engine.settings.delays.commit {
            engine.changed(Fault::CommitStalls);
        }
        let (epoch, number) = (self.epoch, self.issued);
        self.commits.push_back(Commit {
            number,
            writes,
            alarm,
            handles_alarm,
            snapshot,
        });
        let pending = self.commits.len() as u64;
        self.last_durable_at = self.last_durable_at.max(engine.now() + delay);
        if pending == 3 {
            engine.cover(Situation::CommitsQueued);
        }
        engine.raise(Watermark::Commits, pending);
        let begins = Mark::Begins(commit(number));
        engine.note_as(begins, format_args!("object {}", self.number), || {
            format!("commit {number} is on its way")
        });
        let durable = Event::Durable {
            object: self.number,
            epoch,
            number,
        };
        engine.schedule_at(self.last_durable_at, durable.into());
        number
    }

    /// Updates the snapshot after a turn that wrote nothing. It belongs to the last commit on its
    /// way, or to what is durable.
    pub fn remember(&mut self, snapshot: P::Snapshot) {
        match self.commits.back_mut() {
            Some(commit) => commit.snapshot = snapshot,
            None => self.durable_snapshot = snapshot,
        }
    }

    /// Makes a commit and all before it durable. Returns whether the instance still exists.
    ///
    /// # Errors
    ///
    /// When the durable storage refuses what the instance's storage did not.
    pub fn durable<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
        epoch: u64,
        number: u64,
    ) -> Result<bool, String> {
        if self.epoch != epoch {
            return Ok(false);
        }
        while self
            .commits
            .front()
            .is_some_and(|commit| commit.number <= number)
        {
            self.persist(engine)?;
            self.note_durable(engine);
        }
        Ok(true)
    }

    /// Adds to the trace that the last commit is durable.
    fn note_durable<E>(&self, engine: &mut Engine<'_, '_, E>) {
        let number = self.committed;
        let (ends, lane) = (
            Mark::Ends(commit(number)),
            format_args!("object {}", self.number),
        );
        engine.note_as(ends, lane, || format!("commit {number} is durable"));
    }

    /// Makes the first commit on its way durable.
    fn persist<E: From<Event>>(&mut self, engine: &mut Engine<'_, '_, E>) -> Result<(), String> {
        let Some(commit) = self.commits.pop_front() else {
            return Ok(());
        };
        P::Storage::persist(&mut self.disk, &commit.writes)?;
        self.committed = commit.number;
        self.durable_snapshot = commit.snapshot;
        if commit.handles_alarm {
            self.alarm.handled();
        }
        if let Some(alarm) = commit.alarm {
            self.alarm_stored(engine, alarm);
        }
        Ok(())
    }

    /// Holds something until everything written so far is durable.
    pub fn hold(&mut self, what: Outgoing<P>, gated: bool) {
        let gate = if gated { self.issued } else { 0 };
        self.held.push_back(Held { gate, what });
    }

    /// Returns the next thing that the gate releases.
    pub fn released(&mut self) -> Option<Outgoing<P>> {
        let free = self
            .held
            .front()
            .is_some_and(|held| held.gate <= self.committed);
        if !free {
            return None;
        }
        let what = self.held.pop_front()?.what;
        if let Outgoing::Answer { call, .. } = &what {
            self.begun.retain(|each| each != call);
        }
        Some(what)
    }

    /// Ends the instance. Some of its commits on their way arrive, in order; everything else is
    /// lost. [`Self::settle_alarm`] looks after the alarm. The caller cuts the connections.
    ///
    /// # Errors
    ///
    /// When the storage cannot be restored.
    pub fn crash<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
    ) -> Result<Remains<P>, String> {
        let pending = self.commits.len();
        let kept = usize::try_from(engine.choices.upto(pending as u64)).unwrap_or(0);
        engine.cover(Situation::Crash);
        for _ in 0..kept {
            self.persist(engine)?;
            self.note_durable(engine);
        }
        let lane = format_args!("object {}", self.number);
        engine.note_as(Mark::Breaks, lane, || {
            format!("crashes with {pending} commits on their way, of which {kept} arrive")
        });
        let goes_on = pending == 0 && engine.fault(Fault::StaleInstance);
        let unanswered = self.held.iter().any(|held| {
            matches!(held.what, Outgoing::Answer { .. }) && held.gate <= self.committed
        });
        if kept > 0 && unanswered {
            engine.cover(Situation::CrashKeptUnanswered);
        }
        if kept < pending {
            engine.cover(Situation::CrashLostCommit);
        }
        let alarm_unhandled =
            self.alarm.is_handled() || self.commits.iter().any(|commit| commit.handles_alarm);
        self.commits.clear();
        self.held.clear();
        self.committed = self.issued;
        self.last_durable_at = engine.now();
        self.epoch += 1;
        self.last_crash_at = engine.now();
        self.alarm.restore();
        self.storage.restore(&self.disk)?;
        Ok(Remains {
            instance: self.instance.take(),
            clock: self.clock,
            begun: core::mem::take(&mut self.begun),
            lost_commits: kept < pending,
            goes_on,
            alarm_unhandled,
        })
    }

    /// Settles the alarm after a crash.
    pub fn settle_alarm<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
        remains: &Remains<P>,
    ) {
        if remains.alarm_unhandled {
            self.try_again(engine);
        } else {
            self.alarm_restored(engine);
        }
    }

    /// Returns the number of the present instance, if there is one.
    #[must_use]
    pub fn present(&self) -> Option<u64> {
        self.instance.as_ref().map(|_| self.instances)
    }

    /// Returns whether there is an instance and it has nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.commits.is_empty()
            && self.held.is_empty()
            && self.begun.is_empty()
            && self.instance.is_some()
    }
}

const fn commit(number: u64) -> Span {
    Span::new("commit", number)
}
