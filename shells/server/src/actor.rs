//! One stream: its queue, its instance of the machine, its file and its subscribers.
//!
//! The thread that runs a [`StreamActor`] takes jobs from its queue until the queue is empty or the
//! batch is full, and then commits once ([`crate::commit`]). A turn that comes before the first
//! write of a batch is answered at once. Every other turn is answered after the commit.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use machine::rows::Incarnation;
use machine::{
    AlarmChange, Answer, Body, BodyWriter, CallId, Context, Effect, Input, Storage, StorageError,
    Stream, Subscriber, Turn,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::cold::{EncodeError, Encoding};
use crate::commit::{Batch, Effects};
use crate::platform::Platform;
use crate::room::Reservation;
use crate::storage::Database;
use crate::streams::Streams;
use crate::subscribers::{Subscribers, Subscription};

/// The result of a job. A job that fails has no result: its sender is dropped.
#[derive(Debug)]
pub(crate) enum Reply {
    Answered(Answered),
    Attached {
        subscriber: Subscriber,
        subscription: Subscription,
    },
    Done,
}

/// An answer, and the writer that makes its body from stored rows.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) rendering: Option<BodyWriter>,
}

/// A unit of work for one stream.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) kind: JobKind,
    /// Moved to `ActorState::calls` when a call runs for the first time.
    pub(crate) reply_to: Option<oneshot::Sender<Reply>>,
    /// The memory that its body is counted in.
    pub(crate) held: Option<Reservation>,
}

#[derive(Debug)]
pub(crate) enum JobKind {
    Input(Input),
    /// A reader has dropped its subscription.
    Leave {
        subscriber: u64,
        incarnation: Incarnation,
    },
    /// The outcome of an effect. Only the instance that asked for the effect may see it.
    Outcome {
        instance: u64,
        outcome: Input,
    },
    /// Encode a piece of a segment.
    Encode(Encoding),
    /// The same as `Input`, but the turn panics.
    #[cfg(feature = "test-routes")]
    Panic(Input),
    #[cfg(feature = "test-routes")]
    Test(crate::test_routes::Test),
}

impl JobKind {
    /// Returns the machine's input. A job that is run again has the same input.
    fn input(&self) -> Option<Input> {
        match self {
            Self::Input(input) => Some(input.clone()),
            Self::Leave { incarnation, .. } => Some(Input::SubscriberLeft {
                incarnation: *incarnation,
            }),
            Self::Outcome { outcome, .. } => Some(outcome.clone()),
            Self::Encode(_) => None,
            #[cfg(feature = "test-routes")]
            Self::Panic(input) => Some(input.clone()),
            #[cfg(feature = "test-routes")]
            Self::Test(_) => None,
        }
    }

    /// Returns the id of the call, if the job is a call.
    const fn call(&self) -> Option<CallId> {
        match self {
            Self::Input(Input::Call { id, .. } | Input::Continue { id, .. }) => Some(*id),
            #[cfg(feature = "test-routes")]
            Self::Panic(Input::Call { id, .. }) => Some(*id),
            _ => None,
        }
    }

    pub(crate) const fn is_alarm(&self) -> bool {
        matches!(self, Self::Input(Input::Alarm))
    }
}

/// A stream that has jobs, an open file, or subscribers.
#[derive(Debug)]
pub(crate) struct StreamActor {
    pub(crate) name: Arc<str>,
    pub(crate) mailbox: Mutex<Mailbox>,
    pub(crate) state: Mutex<ActorState>,
}

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    pub(crate) jobs: VecDeque<Job>,
    /// Whether a thread runs the actor, or is scheduled to run it.
    pub(crate) is_running: bool,
}

#[derive(Debug, Default)]
pub(crate) struct ActorState {
    /// The instance of the machine. The first job that needs it wakes it. A failed turn drops it.
    pub(crate) stream: Option<Stream>,
    /// The seed of the present instance, or of the next one.
    instance_seed: Option<u64>,
    /// The number of the present instance. No other instance has the same.
    pub(crate) instance: u64,
    /// Effects of the present instance whose outcome has not arrived.
    pub(crate) pending_effects: u64,
    pub(crate) database: Option<Box<dyn Database>>,
    /// Whether the storage was asked for the file. `database` is `None` if there is no file.
    is_open: bool,
    /// Whether the database has the stream's tables. An open transaction counts.
    pub(crate) has_tables: bool,
    pub(crate) in_transaction: bool,
    pub(crate) subscribers: Subscribers,
    /// Calls that are not answered yet.
    pub(crate) calls: BTreeMap<CallId, oneshot::Sender<Reply>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TurnError {
    #[error(transparent)]
    StorageError(#[from] StorageError),
    /// From the storage, or from the source of entropy.
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    EncodeError(#[from] EncodeError),
    #[error("the turn panicked")]
    Panicked,
}

/// Returns the storage for the machine. Without a file it is empty.
pub(crate) fn rows(database: Option<&dyn Database>) -> Option<&dyn Storage> {
    database.map(Database::rows)
}

/// Returns the number of subscribers of an incarnation, including those that turns of the present
/// batch attach.
fn attached(
    subscribers: &Subscribers,
    waiting: &[(Job, Effects)],
    incarnation: Incarnation,
) -> u64 {
    let attaching = waiting
        .iter()
        .flat_map(|(_, effects)| &effects.after_commit)
        .filter(|(effect, _)| {
            matches!(
                effect,
                Effect::Attach { subscriber, .. } if subscriber.incarnation == incarnation
            )
        });
    subscribers.count(incarnation) as u64 + attaching.count() as u64
}

impl StreamActor {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            mailbox: Mutex::default(),
            state: Mutex::default(),
        }
    }
}

impl ActorState {
    /// Returns whether the actor can be dropped without loss.
    pub(crate) fn is_idle(&self) -> bool {
        self.database.is_none() && self.subscribers.is_empty() && self.pending_effects == 0
    }

    /// Closes the file, and drops what can be read from it again. Subscribers stay. An instance
    /// that waits for an outcome stays too, so that a low limit on open files does not waste its
    /// effects.
    pub(crate) fn sleep(&mut self, name: &str) {
        debug_assert!(
            !self.in_transaction,
            "a file is closed only after the commit of its writes"
        );
        if self.pending_effects == 0 {
            self.stream = None;
            self.instance_seed = None;
        }
        self.is_open = false;
        if let Some(database) = self.database.take()
            && let Err(error) = database.close()
        {
            tracing::error!(%name, %error, "a stream's file could not be closed");
        }
    }

    /// Runs jobs until the queue is empty or the batch is full, and commits them.
    pub(crate) fn run_batch(&mut self, streams: &Arc<Streams>, actor: &StreamActor) {
        let bounds = &streams.bounds;
        let mut batch = Batch::default();
        while batch.jobs < bounds.batch_jobs_max && batch.bytes < bounds.batch_bytes_max {
            let Some(job) = actor.mailbox.lock().jobs.pop_front() else {
                break;
            };
            self.run_job(streams, actor, job, &mut batch);
        }
        self.commit(streams, actor, batch);
        self.delete_file_if_empty(streams, actor);
    }

    /// Runs one job: its step and its writes. If nothing waits for a commit, its effects are
    /// performed at once.
    fn run_job(
        &mut self,
        streams: &Arc<Streams>,
        actor: &StreamActor,
        mut job: Job,
        batch: &mut Batch,
    ) {
        batch.jobs += 1;
        if let JobKind::Outcome { instance, .. } = &job.kind
            && !self.is_current_instance(*instance)
        {
            return;
        }
        if let JobKind::Encode(encoding) = job.kind {
            return self.encode(streams, actor, encoding, batch);
        }
        batch.bytes += job.held.as_ref().map_or(0, Reservation::bytes);
        if let Some(id) = job.kind.call()
            && let Some(reply_to) = job.reply_to.take()
        {
            self.calls.insert(id, reply_to);
        }
        if let JobKind::Leave { subscriber, .. } = &job.kind {
            self.subscribers.remove(*subscriber);
        }
        #[cfg(feature = "test-routes")]
        if let JobKind::Test(test) = &mut job.kind {
            // Statistics need the open file. If it cannot be opened, they say so by being empty.
            drop(self.open(streams, actor));
            test.perform(self, &*streams.platform, |state| {
                state.roll_back(streams, actor, batch)
            });
        }
        let done = catch_unwind(AssertUnwindSafe(|| self.step(streams, actor, &job, batch)));
        match done.unwrap_or(Err(TurnError::Panicked)) {
            // A turn whose alarm fired waits until the alarm is removed from the index.
            Ok(effects) if self.in_transaction || batch.alarm != AlarmChange::Keep => {
                batch.waiting.push((job, effects))
            }
            Ok(effects) => self.perform_effects(streams, actor, job, effects),
            Err(error) => {
                tracing::error!(name = %actor.name, %error, "a turn failed");
                if matches!(error, TurnError::Io(_)) {
                    streams.health.failed(&actor.name);
                }
                streams.metrics.failed_turns.inc();
                self.roll_back(streams, actor, batch);
                if let Some(id) = job.kind.call() {
                    self.calls.remove(&id);
                }
            }
        }
    }

    /// Returns whether the outcome belongs to the present instance, and if so counts its effect as
    /// finished.
    fn is_current_instance(&mut self, instance: u64) -> bool {
        let is_current_instance = self.stream.is_some() && self.instance == instance;
        if is_current_instance {
            self.pending_effects = self.pending_effects.saturating_sub(1);
        }
        is_current_instance
    }

    /// Encodes a piece of a segment. On failure the sender of the reply is dropped.
    fn encode(
        &mut self,
        streams: &Arc<Streams>,
        actor: &StreamActor,
        encoding: Encoding,
        batch: &mut Batch,
    ) {
        let done = catch_unwind(AssertUnwindSafe(|| {
            self.open(streams, actor)?;
            let database = self.database.as_deref();
            encoding.perform(&rows(database), |span| {
                let frames = database.map_or(Ok(Vec::new()), |database| database.frames(span))?;
                batch.bytes += frames.len();
                Ok(frames)
            })?;
            Ok(())
        }));
        if let Err(error) = done.unwrap_or(Err(TurnError::Panicked)) {
            tracing::error!(name = %actor.name, %error, "a segment could not be encoded");
        }
    }

    fn step(
        &mut self,
        streams: &Arc<Streams>,
        actor: &StreamActor,
        job: &Job,
        batch: &mut Batch,
    ) -> Result<Effects, TurnError> {
        let mut turn = Turn::default();
        if let Some(input) = job.kind.input() {
            self.open(streams, actor)?;
            if self.stream.is_none() {
                self.upgrade(streams, actor)?;
            }
            let now = streams.platform.now();
            let storage = rows(self.database.as_deref());
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => {
                    let instance_seed = drawn(&mut self.instance_seed, &*streams.platform)?;
                    (self.instance, self.pending_effects) = (streams.instance(), 0);
                    none.insert(Stream::wake(
                        now,
                        &storage,
                        &streams.settings.limits,
                        instance_seed,
                    )?)
                }
            };
            let subscribers = &self.subscribers;
            let context = Context {
                now,
                storage: &storage,
                subscribers: &|incarnation| Ok(attached(subscribers, &batch.waiting, incarnation)),
            };
            turn = stream.step(&context, input)?;
        }
        self.write(streams, actor, &turn.writes)?;
        #[cfg(feature = "test-routes")]
        assert!(
            !matches!(job.kind, JobKind::Panic(_)),
            "asked for by a test"
        );
        match turn.alarm {
            // The alarm has fired, and the turn sets no other.
            AlarmChange::Keep if job.kind.is_alarm() => batch.alarm = AlarmChange::Clear,
            AlarmChange::Keep => {}
            alarm @ (AlarmChange::Set(_) | AlarmChange::Clear) => batch.alarm = alarm,
        }
        // Bodies are made from the rows as they are after this turn. The next turn may remove them.
        let mut after_commit = Vec::with_capacity(turn.after_commit.len());
        for effect in turn.after_commit {
            let rendering = match (&effect, &self.database) {
                (Effect::Answer { answer, .. }, Some(database)) => match &answer.body {
                    Body::Plan(plan) => Some(plan.begin(|span| {
                        let frames = database.frames(span);
                        batch.bytes += frames.as_ref().map_or(0, Vec::len);
                        frames
                    })?),
                    Body::Empty | Body::Bytes(_) => None,
                },
                _ => None,
            };
            after_commit.push((effect, rendering));
        }
        Ok(Effects {
            after_commit,
            live: turn.broadcast,
        })
    }

    /// Opens the stream's file, if there is one.
    fn open(&mut self, streams: &Arc<Streams>, actor: &StreamActor) -> Result<(), TurnError> {
        if !self.is_open {
            self.has_tables = false;
            self.database = streams.storage.open(&actor.name)?;
            if let Some(database) = &self.database {
                self.has_tables = !database.rows().layout()?.is_empty();
                streams.opened(actor);
            }
            self.is_open = true;
        }
        Ok(())
    }

    /// Drops the instance and the database, and with it all uncommitted writes.
    pub(crate) fn reset(&mut self, streams: &Streams, actor: &StreamActor) {
        self.stream = None;
        self.instance_seed = None;
        self.pending_effects = 0;
        self.is_open = false;
        self.in_transaction = false;
        if self.database.take().is_some() {
            streams.closed(actor);
        }
    }

    /// Deletes the file if it has no tables: the stream was deleted, or never created.
    fn delete_file_if_empty(&mut self, streams: &Streams, actor: &StreamActor) {
        if self.has_tables {
            return;
        }
        if let Some(database) = self.database.take() {
            streams.closed(actor);
            if let Err(error) = streams.storage.remove(&actor.name, database) {
                tracing::error!(name = %actor.name, %error, "the file of a deleted stream could not be removed");
                self.reset(streams, actor);
            }
        }
    }

    /// The seed of the present instance, by which a test can tell instances apart.
    #[cfg(feature = "test-routes")]
    pub(crate) fn instance(&mut self, platform: &dyn Platform) -> io::Result<u64> {
        drawn(&mut self.instance_seed, platform)
    }
}

fn drawn(instance_seed: &mut Option<u64>, platform: &dyn Platform) -> io::Result<u64> {
    match *instance_seed {
        Some(instance_seed) => Ok(instance_seed),
        None => Ok(*instance_seed.insert(platform.random()?)),
    }
}
