//! An object as the platform runs it, whatever program runs on it: one event at a time, the writes
//! of a turn at once and durable later, an output gate, an alarm, connections that survive sleep,
//! and an end at any time.
//!
//! What a program is told, and what it answers, is its own affair ([`Program`]): [`crate::world`]
//! runs the stream machine on it.

mod alarm;

use std::collections::VecDeque;
use std::fmt::Debug;

pub use alarm::{Alarm, Due};

use crate::coverage::{Fault, Situation, Watermark};
use crate::engine::Engine;
use crate::ids::{CallId, ConnectionId, ObjectId};

/// What runs on an object, as far as the platform knows it. A value is the memory of one instance.
pub trait Program: Clone + Debug {
    /// The storage that an instance sees.
    type Storage: Storage;
    /// What is kept beside each commit, for those who judge what was kept.
    type Snapshot: Clone + Debug + Default;
    /// What is kept with a connection while the instance sleeps.
    type Attachment: Debug;
    type Answer: Debug;
    type Message: Debug;
    /// What it asks others to do.
    type Effect: Debug;
}

/// What an instance sees of its storage, and what of it is durable.
pub trait Storage: Debug {
    type Write: Debug;
    /// What a crash leaves.
    type Disk: Debug + Default;

    /// Makes a durable copy follow the writes of a commit.
    ///
    /// # Errors
    /// When one of them is refused.
    fn persist(disk: &mut Self::Disk, writes: &[Self::Write]) -> Result<(), String>;

    /// Goes back to what is durable.
    ///
    /// # Errors
    /// When the storage refuses to be restored.
    fn restore(&mut self, disk: &Self::Disk) -> Result<(), String>;
}

/// What can happen to an object of itself.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A commit is durable, and all before it.
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

/// Something that waits for the output gate.
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
    /// An effect, asked for by this instance.
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
    /// Milliseconds since 1970, at a moment of the world's time.
    pub fn read(&mut self, now: u64) -> u64 {
        self.last = self.last.max(now + self.ahead - self.behind);
        self.last
    }
}

/// What an instance leaves behind when it dies.
#[derive(Debug)]
pub struct Remains<P> {
    /// Its memory, if it had come to have any.
    pub instance: Option<P>,
    pub clock: Clock,
    /// The calls that it had begun and not answered.
    pub begun: Vec<CallId>,
    /// Whether some of its commits are lost.
    pub lost_commits: bool,
    /// Whether it goes on with the calls that it has begun.
    pub goes_on: bool,
    alarm_unhandled: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Object<P: Program> {
    /// Names it in its events.
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
    /// Calls that an instance has begun with and not answered.
    pub begun: Vec<CallId>,
    /// Lines whose end it holds, in the order in which they came.
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

    /// What was true when what is durable was written.
    #[must_use]
    pub const fn durable_snapshot(&self) -> &P::Snapshot {
        &self.durable_snapshot
    }

    /// Why it is not at rest; `None` when it is.
    #[must_use]
    pub fn pending(&self) -> Option<String> {
        // A commit that nobody waits for may be an alarm's, of which there is always another.
        let answers = self.held.iter();
        let answers = answers.filter(|held| !matches!(held.what, Outgoing::Effect { .. }));
        let count = answers.count();
        if count > 0 {
            return Some(format!("holds back {count} answers"));
        }
        (!self.begun.is_empty()).then(|| format!("has not answered {} calls", self.begun.len()))
    }

    /// How many commits are on their way.
    #[must_use]
    pub fn commits_pending(&self) -> usize {
        self.commits.len()
    }

    /// A new instance is about to be: its clock begins. Gives what that shows, and the number of
    /// the instance.
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

    /// The writes of a turn, which the storage has carried out, and its word on the alarm are on
    /// their way.
    pub fn commit<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
        writes: Vec<<P::Storage as Storage>::Write>,
        alarm: Option<Option<u64>>,
        handles_alarm: bool,
        snapshot: P::Snapshot,
    ) {
        self.issued += 1;
        let stalls = engine.fault(Fault::CommitStalls);
        let longest = if stalls {
            engine.settings.delays.stall
        } else {
            engine.settings.delays.commit
        };
        // Where all runs are enumerated, long enough for a crash to come first.
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
        let durable = Event::Durable {
            object: self.number,
            epoch,
            number,
        };
        engine.schedule_at(self.last_durable_at, durable.into());
    }

    /// What has been answered without a write is part of what is durable, or will be with the last
    /// commit.
    pub fn remember(&mut self, snapshot: P::Snapshot) {
        match self.commits.back_mut() {
            Some(commit) => commit.snapshot = snapshot,
            None => self.durable_snapshot = snapshot,
        }
    }

    /// A commit is durable, and all before it. Tells whether that is still of any interest.
    ///
    /// # Errors
    /// When the durable storage refuses what the instance's own did not.
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
        }
        engine.note("storage", || format!("durable {number}"));
        Ok(true)
    }

    /// The first commit on its way has arrived.
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

    /// Takes what is to leave once all that has been written so far is durable.
    pub fn hold(&mut self, what: Outgoing<P>, gated: bool) {
        let gate = if gated { self.issued } else { 0 };
        self.held.push_back(Held { gate, what });
    }

    /// The next thing that the gate holds no longer.
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

    /// The instance dies: of its commits on their way some first ones arrive, and everything else
    /// of it is gone. [`Self::settle_alarm`] looks after the alarm. The caller cuts its connections.
    ///
    /// # Errors
    /// When the storage cannot be restored.
    pub fn crash<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
    ) -> Result<Remains<P>, String> {
        let pending = self.commits.len();
        let kept = usize::try_from(engine.choices.upto(pending as u64)).unwrap_or(0);
        engine.note("object", || {
            format!("crashes with {pending} commits on their way, of which {kept} arrive")
        });
        engine.cover(Situation::Crash);
        for _ in 0..kept {
            self.persist(engine)?;
        }
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

    /// What a crash leaves to be done about the alarm.
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

    /// The number of the present instance, if there is one.
    #[must_use]
    pub fn present(&self) -> Option<u64> {
        self.instance.as_ref().map(|_| self.instances)
    }

    /// Whether an instance is there that has nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.commits.is_empty()
            && self.held.is_empty()
            && self.begun.is_empty()
            && self.instance.is_some()
    }
}
