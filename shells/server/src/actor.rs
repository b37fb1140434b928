//! One stream: its queue, its instance of the machine, and its subscribers.
//!
//! Only one thread at a time runs the jobs of a [`StreamActor`]. Jobs that only read run on any
//! thread, with a connection of their own, unless the stream has turns in an open transaction. All
//! others run in the batch of the stream's shard ([`crate::commit`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use machine::rows::Incarnation;
use machine::{
    AlarmChange, Answer, Append, Body, BodyWriter, CallId, Context, Effect, Input, Limits, Object,
    Span, StorageError, Subscriber, Turn, Write,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::cold::{EncodeError, Encoding};
use crate::commit::Effects;
use crate::page_cache::PageKey;
use crate::platform::Platform;
use crate::room::Reservation;
use crate::storage::{Reader, Rows};
use crate::streams::Streams;
use crate::subscribers::{Attachment, Subscribers};

/// The result of a job. A job that fails has no result: its sender is dropped.
#[derive(Debug)]
pub(crate) enum Reply {
    Answered(Answered),
    Attached {
        subscriber: Subscriber,
        attachment: Attachment,
    },
    Done,
}

/// An answer, and its body if that is not in the answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) rendering: Option<Rendering>,
}

/// The body of an answer with a plan.
#[derive(Debug)]
pub(crate) enum Rendering {
    /// Is written from stored rows and objects.
    Writer(Box<BodyWriter>),
    /// Was written for an earlier answer with the same entity tag.
    Page(Bytes),
}

/// The client of a call, or a stream that calls another.
#[derive(Debug)]
pub(crate) struct Caller {
    reply_to: oneshot::Sender<Reply>,
    held: Option<Reservation>,
}

impl Caller {
    /// Sends the result. First it frees the memory, because a client that has the answer may rely
    /// on it being free.
    pub(crate) fn reply(self, reply: Reply) {
        drop(self.held);
        // The receiver may have gone.
        drop(self.reply_to.send(reply));
    }
}

/// A unit of work for one stream.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) kind: JobKind,
    /// Where the result goes. While a call runs, `ActorState::calls` has this instead.
    pub(crate) reply_to: Option<oneshot::Sender<Reply>>,
    /// The memory that its body is counted in, which moves with `reply_to`.
    pub(crate) held: Option<Reservation>,
    /// What remains for the writer, if the job has already run without the writer.
    pub(crate) unwritten: Option<Unwritten>,
}

/// What remains for the writer of a job that was expected only to read.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// The upgrade of older rows. The job itself has not run.
    Upgrade,
    /// The writes of its turn.
    Turn(Box<Turn>),
}

#[derive(Debug)]
pub(crate) enum JobKind {
    Input(Input),
    /// A reader has dropped its attachment.
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
    /// The same as `Input`, but something happens to the commit.
    #[cfg(feature = "test-routes")]
    Commit(Input, crate::test_routes::CommitTest),
    #[cfg(feature = "test-routes")]
    Test(crate::test_routes::Test),
}

impl JobKind {
    /// Returns the machine's input. A job that is run again has the same input.
    pub(crate) fn input(&self) -> Option<Input> {
        match self {
            Self::Input(input) => Some(input.clone()),
            Self::Leave { incarnation, .. } => Some(Input::SubscriberLeft {
                incarnation: *incarnation,
            }),
            Self::Outcome { outcome, .. } => Some(outcome.clone()),
            Self::Encode(_) => None,
            #[cfg(feature = "test-routes")]
            Self::Panic(input) | Self::Commit(input, _) => Some(input.clone()),
            #[cfg(feature = "test-routes")]
            Self::Test(_) => None,
        }
    }

    /// Returns the ids of the calls that the job runs.
    pub(crate) fn calls(&self) -> impl Iterator<Item = CallId> {
        let input = match self {
            Self::Input(input) => Some(input),
            #[cfg(feature = "test-routes")]
            Self::Panic(input) | Self::Commit(input, _) => Some(input),
            #[cfg(feature = "test-routes")]
            Self::Test(_) => None,
            Self::Leave { .. } | Self::Outcome { .. } | Self::Encode(_) => None,
        };
        input.into_iter().flat_map(Input::calls)
    }

    pub(crate) const fn is_alarm(&self) -> bool {
        matches!(self, Self::Input(Input::Alarm))
    }
}

impl Job {
    /// Returns whether the next job runs in the same turn.
    pub(crate) fn shares_turn_with(&self, next: &Self, limits: &Limits) -> bool {
        if let (JobKind::Input(input), JobKind::Input(next)) = (&self.kind, &next.kind) {
            return input.shares_turn_with(next, limits);
        }
        false
    }

    /// Adds the next job, because both share a turn.
    pub(crate) fn followed_by(self, next: Self) -> Self {
        let (JobKind::Input(input), JobKind::Input(next)) = (self.kind, next.kind) else {
            unreachable!("only inputs share a turn");
        };
        Self {
            kind: JobKind::Input(input.followed_by(next)),
            ..self
        }
    }

    /// Returns whether the job can run without the writer.
    pub(crate) fn only_reads(&self) -> bool {
        if let JobKind::Input(input) = &self.kind {
            return input.only_reads() && self.unwritten.is_none();
        }
        matches!(self.kind, JobKind::Encode(_))
    }
}

/// A stream that has jobs, an instance in memory, or subscribers.
#[derive(Debug)]
pub(crate) struct StreamActor {
    pub(crate) name: Arc<str>,
    /// The number of the stream's shard.
    pub(crate) shard: usize,
    pub(crate) mailbox: Mutex<Mailbox>,
    pub(crate) state: Mutex<ActorState>,
}

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    pub(crate) jobs: VecDeque<Job>,
    /// Whether a thread runs the actor, the shard's queue has it, or its turns wait for a commit.
    pub(crate) is_scheduled: bool,
}

#[derive(Debug, Default)]
pub(crate) struct ActorState {
    /// The instance of the machine. The first job that needs it loads it. A failed turn drops it.
    pub(crate) machine: Option<Object>,
    /// The seed of the present instance, or of the next one.
    instance_seed: Option<u64>,
    /// The number of the present instance. No other instance has the same.
    pub(crate) instance: u64,
    /// Effects of the present instance whose outcome has not arrived.
    pub(crate) pending_effects: u64,
    /// Whether the stream has rows. An open transaction counts.
    pub(crate) has_rows: bool,
    pub(crate) subscribers: Subscribers,
    /// Calls of turns that are running, or wait for their commit or for another stream.
    pub(crate) calls: BTreeMap<CallId, Caller>,
    /// Those of them that have run without an answer, because the instance waits for another
    /// stream.
    pub(crate) held: BTreeSet<CallId>,
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
    #[error("{0}")]
    Damaged(String),
    #[error("the turn panicked")]
    Panicked,
}

impl TurnError {
    /// Returns the error of a question to these rows. They know whether a damaged row is its cause.
    pub(crate) fn at(self, rows: &dyn Rows) -> Self {
        rows.damage().map_or(self, Self::Damaged)
    }

    /// Returns the answer for the client whose request has failed. Without one it is answered 503.
    pub(crate) fn answer(&self) -> Option<Answer> {
        match self {
            Self::Damaged(_) => Some(Answer::internal("a stored row of the stream is damaged")),
            Self::StorageError(_) | Self::Io(_) | Self::EncodeError(_) | Self::Panicked => None,
        }
    }
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
    pub(crate) fn new(name: Arc<str>, shard: usize) -> Self {
        Self {
            name,
            shard,
            mailbox: Mutex::default(),
            state: Mutex::default(),
        }
    }
}

impl ActorState {
    /// Frees the memory of the maps that are empty.
    pub(crate) fn release_memory(&mut self) {
        if self.calls.is_empty() {
            self.calls = BTreeMap::new();
        }
        if self.held.is_empty() {
            self.held = BTreeSet::new();
        }
        self.subscribers.release_memory();
    }

    /// Returns whether the actor can be dropped without loss.
    pub(crate) fn is_idle(&self) -> bool {
        self.machine.is_none() && self.subscribers.is_empty() && self.pending_effects == 0
    }

    /// Drops the instance, which can be made from the rows again. Subscribers stay. Calls that wait
    /// for another stream are given up, and answered 503.
    pub(crate) fn reset(&mut self) {
        self.machine = None;
        self.instance_seed = None;
        self.pending_effects = 0;
        // Only the instance knew what these calls wait for.
        for call in mem::take(&mut self.held) {
            self.calls.remove(&call);
        }
    }

    /// Prepares a job to run. Returns whether it is still of use.
    pub(crate) fn begin(&mut self, job: &mut Job) -> bool {
        if let JobKind::Outcome { instance, .. } = &job.kind
            && !self.is_current_instance(*instance)
        {
            return false;
        }
        let id = job.kind.calls().next();
        if let Some(id) = id
            && let Some(reply_to) = job.reply_to.take()
        {
            let held = job.held.take();
            self.calls.insert(id, Caller { reply_to, held });
        }
        if let JobKind::Leave { subscriber, .. } = &job.kind {
            self.subscribers.remove(*subscriber);
        }
        true
    }

    /// Puts appends that a turn has left out before all other jobs, as if they had not run.
    pub(crate) fn defer(&mut self, actor: &StreamActor, appends: Vec<(CallId, Append)>) {
        let mut mailbox = actor.mailbox.lock();
        for input in Input::one_by_one(appends).rev() {
            let caller = input.calls().next().and_then(|id| self.calls.remove(&id));
            let (reply_to, held) =
                caller.map_or((None, None), |caller| (Some(caller.reply_to), caller.held));
            mailbox.jobs.push_front(Job {
                kind: JobKind::Input(input),
                reply_to,
                held,
                unwritten: None,
            });
        }
    }

    /// Returns whether the outcome belongs to the present instance, and if so counts its effect as
    /// finished.
    fn is_current_instance(&mut self, instance: u64) -> bool {
        let is_current_instance = self.machine.is_some() && self.instance == instance;
        if is_current_instance {
            self.pending_effects = self.pending_effects.saturating_sub(1);
        }
        is_current_instance
    }

    /// Runs the step of a job on the rows. `waiting` are the turns of the stream whose commit is
    /// open.
    pub(crate) fn step(
        &mut self,
        streams: &Streams,
        actor: &Arc<StreamActor>,
        job: &mut Job,
        rows: &dyn Rows,
        waiting: &[(Job, Effects)],
    ) -> Result<Turn, TurnError> {
        if let Some(Unwritten::Turn(turn)) = job.unwritten.take() {
            return Ok(*turn);
        }
        let Some(input) = job.kind.input() else {
            return Ok(Turn::default());
        };
        let turn = self.step_on(streams, actor, input, rows, waiting);
        turn.map_err(|error| error.at(rows))
    }

    /// Returns whether the turn of a job loads an instance.
    pub(crate) fn is_loading(&self, job: &Job) -> bool {
        self.machine.is_none() && job.kind.input().is_some()
    }

    /// Returns what a turn that loads an instance has to write first, if older code wrote the rows.
    pub(crate) fn upgrade(streams: &Streams, rows: &dyn Rows) -> Result<Option<Write>, TurnError> {
        Ok(Object::upgrade(streams.platform.now(), rows)?)
    }

    fn step_on(
        &mut self,
        streams: &Streams,
        actor: &Arc<StreamActor>,
        input: Input,
        rows: &dyn Rows,
        waiting: &[(Job, Effects)],
    ) -> Result<Turn, TurnError> {
        let now = streams.platform.now();
        if self.machine.is_none() {
            let instance_seed = drawn(&mut self.instance_seed, &*streams.platform)?;
            let limits = &streams.settings.limits;
            self.has_rows = !rows.layout()?.is_empty();
            self.machine = Some(Object::load(now, rows, limits, instance_seed)?);
            (self.instance, self.pending_effects) = (streams.instance(), 0);
            streams.loaded(actor);
        }
        let machine = self.machine.as_mut().expect("it was loaded just now");
        let subscribers = &self.subscribers;
        let context = Context {
            now,
            storage: rows,
            subscribers: &|incarnation| Ok(attached(subscribers, waiting, incarnation)),
            entropy: &|| streams.platform.entropy(),
        };
        Ok(machine.step(&context, input)?)
    }

    /// Makes the effects of a turn ready. Bodies are made from the rows as they are after this
    /// turn, because the next turn may remove them. `frames` reads the frames of a span. Adds their
    /// size to `bytes`.
    pub(crate) fn prepare(
        &self,
        streams: &Streams,
        actor: &StreamActor,
        turn: Turn,
        mut frames: impl FnMut(Span) -> Result<Vec<u8>, TurnError>,
        bytes: &mut usize,
    ) -> Result<Effects, TurnError> {
        let mut after_commit = Vec::with_capacity(turn.after_commit.len());
        for effect in turn.after_commit {
            let mut rendering = None;
            if let Effect::Answer { answer, .. } = &effect
                && let Body::Plan(plan) = &answer.body
            {
                let key = PageKey::of(&actor.name, answer);
                rendering = Some(match key.and_then(|key| streams.page_cache.get(&key)) {
                    Some(page) => {
                        streams.metrics.page_cache_hits.inc();
                        Rendering::Page(page)
                    }
                    None => Rendering::Writer(Box::new(plan.begin(|span| {
                        let frames = frames(span)?;
                        *bytes += frames.len();
                        Ok::<_, TurnError>(frames)
                    })?)),
                });
            }
            after_commit.push((effect, rendering));
        }
        Ok(Effects {
            instance: self.instance,
            after_commit,
            broadcast: turn.broadcast,
            appended: turn.appended,
            events: turn.events,
        })
    }

    /// Encodes a piece of a segment. On failure the sender of the reply is dropped.
    pub(crate) fn encode(
        actor: &StreamActor,
        encoding: Encoding,
        reader: &dyn Reader,
        bytes: &mut usize,
    ) {
        let done = catch_unwind(AssertUnwindSafe(|| {
            let rows = reader.stream(&actor.name)?;
            encoding.perform(&*rows, |span| {
                let frames = rows.frames(span)?;
                *bytes += frames.len();
                Ok(frames)
            })?;
            Ok(())
        }));
        if let Err(error) = done.unwrap_or(Err(TurnError::Panicked)) {
            tracing::error!(name = %actor.name, %error, "a segment could not be encoded");
        }
    }

    /// Drops the instance after a turn that failed, and answers its requests.
    pub(crate) fn fail(
        &mut self,
        streams: &Streams,
        actor: &StreamActor,
        job: &Job,
        error: &TurnError,
    ) {
        tracing::error!(name = %actor.name, %error, "a turn failed");
        if matches!(error, TurnError::Io(_)) {
            streams.health.failed(actor.shard);
        }
        let failed = job.kind.calls().count().max(1);
        streams.metrics.failed_turns.inc_by(failed as u64);
        self.reset();
        for id in job.kind.calls() {
            if let Some(caller) = self.calls.remove(&id)
                && let Some(answer) = error.answer()
            {
                let rendering = None;
                caller.reply(Reply::Answered(Answered { answer, rendering }));
            }
        }
    }

    /// The seed of the present instance, by which a test can tell instances apart.
    #[cfg(feature = "test-routes")]
    pub(crate) fn instance(&mut self, platform: &dyn Platform) -> io::Result<u64> {
        drawn(&mut self.instance_seed, platform)
    }
}

impl Streams {
    /// Runs the jobs of a stream that only read, up to the first one that does not.
    pub(crate) fn run_reads(self: &Arc<Self>, actor: &Arc<StreamActor>) {
        let mut state = actor.state.lock();
        self.used(actor, &state);
        let mut lent = None;
        let (mut jobs, mut bytes) = (0, 0);
        while jobs < self.bounds.batch_jobs_max && bytes < self.bounds.batch_bytes_max {
            let mut mailbox = actor.mailbox.lock();
            let next = mailbox.jobs.pop_front_if(|job| job.only_reads());
            drop(mailbox);
            let Some(mut job) = next else { break };
            jobs += 1;
            state.begin(&mut job);
            let connection = match &mut lent {
                Some(lent) => lent,
                none => match self.reader(actor.shard) {
                    Ok(reader) => none.insert(reader),
                    Err(error) => {
                        tracing::debug!(shard = actor.shard, %error, "a shard cannot be read");
                        drop(state);
                        return self.fail_jobs(actor);
                    }
                },
            };
            let reader = &*connection.connection;
            if let JobKind::Encode(encoding) = job.kind {
                ActorState::encode(actor, encoding, reader, &mut bytes);
                continue;
            }
            let done = catch_unwind(AssertUnwindSafe(|| {
                let rows = reader.stream(&actor.name)?;
                if state.is_loading(&job) && ActorState::upgrade(self, &*rows)?.is_some() {
                    job.unwritten = Some(Unwritten::Upgrade);
                    return Ok(None);
                }
                let turn = state.step(self, actor, &mut job, &*rows, &[])?;
                if !turn.writes.is_empty() || turn.alarm != AlarmChange::Keep {
                    job.unwritten = Some(Unwritten::Turn(Box::new(turn)));
                    return Ok(None);
                }
                let frames = |span| {
                    rows.frames(span)
                        .map_err(|error| TurnError::from(error).at(&*rows))
                };
                let effects = state.prepare(self, actor, turn, frames, &mut bytes);
                effects.map(Some)
            }));
            match done.unwrap_or(Err(TurnError::Panicked)) {
                Ok(Some(effects)) => state.perform_effects(self, actor, job, effects),
                Ok(None) => {
                    // The shard carries it out before anything else of the stream.
                    actor.mailbox.lock().jobs.push_front(job);
                    break;
                }
                Err(error) => {
                    state.fail(self, actor, &job, &error);
                    if !matches!(error, TurnError::Damaged(_)) {
                        // The cause may be the connection.
                        lent = None;
                    }
                }
            }
        }
        if let Some(lent) = lent {
            self.return_reader(actor.shard, lent);
        }
        drop(state);
        self.finish(actor);
    }
}

fn drawn(instance_seed: &mut Option<u64>, platform: &dyn Platform) -> io::Result<u64> {
    match *instance_seed {
        Some(instance_seed) => Ok(instance_seed),
        None => Ok(*instance_seed.insert(platform.random()?)),
    }
}
