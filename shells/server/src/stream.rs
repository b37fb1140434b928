//! One stream: its queue, its instance of the machine, its file and its readers.
//!
//! Whoever runs a [`Cell`] takes jobs from its queue until there is none, or enough, and then
//! commits what they have written, once. A turn leaves at once when nothing has been written before
//! it, and otherwise after that commit.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use machine::live_reader::{self, Frame};
use machine::plan::BodyWriter;
use machine::rows::{
    Former, HotTable, Incarnation, ProducerState, RowKey, RowMeta, SealedSegment, StreamRow, Task,
    WriterColumns,
};
use machine::wire::answer::Body;
use machine::{
    Answer, Broadcast, CallId, Class, Effect, Input, Millis, Rows, StorageError, Stream,
    Subscriber, Turn, Write,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::alarms;
use crate::cold::{EffectJob, EncodeError, Encoding};
use crate::platform::Platform;
use crate::room::Reservation;
use crate::storage::Database;
use crate::streams::Streams;

/// What a job comes back with. A job that fails comes back with nothing: its sender is dropped.
#[derive(Debug)]
pub(crate) enum Reply {
    Answered(Answered),
    Attached {
        line: Subscriber,
        subscription: Subscription,
    },
    Done,
}

/// An answer, with the stored rows that its body is to be made of.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) rendering: Option<BodyWriter>,
}

/// What a stream is to do.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) kind: JobKind,
    /// Taken when the job is first begun.
    pub(crate) reply_to: Option<oneshot::Sender<Reply>>,
    /// The room that its body takes.
    pub(crate) held: Option<Reservation>,
}

#[derive(Debug)]
pub(crate) enum JobKind {
    Input(Input),
    /// A reader has let go of its link.
    Leave {
        subscriber: u64,
        incarnation: Incarnation,
    },
    /// What became of an errand of one of its instances, which no other is to hear of.
    Outcome {
        instance: u64,
        outcome: Input,
    },
    /// A piece of a segment is to be encoded.
    Encode(Encoding),
    /// The same as an input, but that the code fails over it.
    #[cfg(feature = "test-routes")]
    Panic(Input),
    #[cfg(feature = "test-routes")]
    Test(crate::test_routes::Test),
}

impl JobKind {
    /// What the machine is told; the same again when the job has to be done over.
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

    /// The call that it is.
    const fn call(&self) -> Option<CallId> {
        match self {
            Self::Input(Input::Call { id, .. } | Input::Continue { id, .. }) => Some(*id),
            #[cfg(feature = "test-routes")]
            Self::Panic(Input::Call { id, .. }) => Some(*id),
            _ => None,
        }
    }

    const fn is_alarm(&self) -> bool {
        matches!(self, Self::Input(Input::Alarm))
    }
}

/// A stream that has something to do, a file that is open, or readers.
#[derive(Debug)]
pub(crate) struct StreamActor {
    pub(crate) name: Arc<str>,
    pub(crate) mailbox: Mutex<Mailbox>,
    pub(crate) state: Mutex<ActorState>,
}

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    pub(crate) jobs: VecDeque<Job>,
    /// Whether a thread has it, or is to have it.
    pub(crate) is_running: bool,
}

#[derive(Debug, Default)]
pub(crate) struct ActorState {
    /// Woken by the first job that needs it, and dropped when a turn fails.
    stream: Option<Stream>,
    /// Of that instance, or of the next.
    instance_seed: Option<u64>,
    /// Names that instance, and no other.
    instance: u64,
    /// What it has asked for and not heard of.
    pending_effects: u64,
    pub(crate) database: Option<Box<dyn Database>>,
    /// Whether the file is open if there is one.
    is_open: bool,
    /// Whether the database has the stream's tables, in the open transaction as the case may be.
    has_tables: bool,
    in_transaction: bool,
    pub(crate) subscribers: BTreeMap<u64, SubscriberSender>,
    /// Calls that this instance has not answered yet.
    calls: BTreeMap<CallId, oneshot::Sender<Reply>>,
}

/// The stream's end of a live reader's link.
#[derive(Debug)]
pub(crate) struct SubscriberSender {
    class: Class,
    incarnation: Incarnation,
    messages: mpsc::UnboundedSender<Arc<LiveMessage>>,
    held: Arc<AtomicUsize>,
    held_bytes_max: usize,
}

/// What a turn tells the readers of a class.
#[derive(Clone, Debug)]
pub(crate) struct LiveMessage {
    pub(crate) frame: Frame,
    pub(crate) body: Vec<u8>,
}

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Subscription {
    messages: mpsc::UnboundedReceiver<Arc<LiveMessage>>,
    held: Arc<AtomicUsize>,
    subscriber: u64,
    incarnation: Incarnation,
    name: Arc<str>,
    streams: Arc<Streams>,
}

/// So many bytes are held that the stream has let go.
const OVERFLOWED: usize = 1 << (usize::BITS - 1);

impl Subscription {
    /// The next thing that the reader's side is to hear.
    pub(crate) async fn next(&mut self) -> live_reader::Input {
        let message = self.messages.recv().await;
        if self.held.load(Ordering::Acquire) & OVERFLOWED != 0 {
            return live_reader::Input::Full;
        }
        let Some(message) = message else {
            return live_reader::Input::LineClosed;
        };
        self.held.fetch_sub(message.body.len(), Ordering::AcqRel);
        let LiveMessage { frame, body } = Arc::unwrap_or_clone(message);
        live_reader::Input::Message { frame, body }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.streams
            .leave(&self.name, self.subscriber, self.incarnation);
    }
}

impl SubscriberSender {
    /// Whether the reader is still to be told things.
    fn send(&self, message: &Arc<LiveMessage>) -> bool {
        // A message may go beyond the bound, but not find it reached: any message can be told to a
        // reader that reads.
        if self.held.load(Ordering::Acquire) >= self.held_bytes_max {
            self.held.fetch_or(OVERFLOWED, Ordering::AcqRel);
            return false;
        }
        self.held.fetch_add(message.body.len(), Ordering::AcqRel);
        self.messages.send(Arc::clone(message)).is_ok()
    }
}

#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    StorageError(#[from] StorageError),
    /// Of the storage, or for want of entropy.
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    EncodeError(#[from] EncodeError),
    #[error("the code has panicked")]
    Panicked,
}

/// What the jobs of one commit ask for, and are still to be given.
#[derive(Default)]
struct Batch {
    jobs: usize,
    bytes: usize,
    /// Jobs whose turns wait for the commit.
    waiting: Vec<(Job, Effects)>,
    /// What becomes of the alarm.
    alarm: Option<Option<Millis>>,
}

/// A turn's effects, ready to leave.
struct Effects {
    after_commit: Vec<(Effect, Option<BodyWriter>)>,
    live: Option<Broadcast>,
}

/// What the machine sees during a step.
struct View<'a> {
    database: Option<&'a dyn Database>,
    subscribers: &'a BTreeMap<u64, SubscriberSender>,
    waiting: &'a [(Job, Effects)],
}

impl Rows for View<'_> {
    fn former(&self) -> Result<Option<Former>, StorageError> {
        self.database.map_or(Ok(None), |database| database.former())
    }

    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        self.database.map_or(Ok(None), |database| database.head())
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        self.database
            .map_or(Ok(None), |database| database.at_or_before(table, key))
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        self.database
            .map_or(Ok(()), |database| database.writers(table, each))
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        self.database.map_or(Ok(None), |database| {
            database.first_at_or_after_bytes(table, after, bytes_before)
        })
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        self.database
            .map_or(Ok(None), |database| database.producer(id))
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        self.database
            .map_or(Ok(None), |database| database.segment(number))
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        self.database
            .map_or(Ok(()), |database| database.retried_segments(each))
    }

    fn outbox(&self) -> Result<Option<Vec<Task>>, StorageError> {
        self.database.map_or(Ok(None), |database| database.outbox())
    }

    /// With those that become readers by the commit.
    fn attached(&self, incarnation: Incarnation) -> Result<u64, StorageError> {
        let attached = self
            .subscribers
            .values()
            .filter(|subscriber| subscriber.incarnation == incarnation);
        let attaching = self
            .waiting
            .iter()
            .flat_map(|(_, effects)| &effects.after_commit)
            .filter(
                |(effect, _)| matches!(effect, Effect::Attach { line, .. } if line.incarnation == incarnation),
            );
        Ok(attached.count() as u64 + attaching.count() as u64)
    }
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
    /// Whether nothing would be lost with it.
    pub(crate) fn is_idle(&self) -> bool {
        self.database.is_none() && self.subscribers.is_empty() && self.pending_effects == 0
    }

    /// Closes the file, and forgets what can be found again in it. Readers stay, and so does an
    /// instance that is to hear something: however few files may be open, what it has asked for has
    /// not been in vain.
    pub(crate) fn sleep(&mut self, name: &str) {
        debug_assert!(
            !self.in_transaction,
            "nobody sleeps between a write and its commit"
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

    /// Does what there is to do, up to the next commit.
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

    /// One job: its step, its writes, and what leaves of it if nothing has to be waited for.
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
            self.subscribers.remove(subscriber);
        }
        #[cfg(feature = "test-routes")]
        if let JobKind::Test(test) = &mut job.kind {
            // Who is asked about a file should have it open; when that fails, there is nothing to
            // tell.
            drop(self.open(streams, actor));
            test.perform(self, &*streams.platform, |state| {
                state.roll_back(streams, actor, batch)
            });
        }
        let done = catch_unwind(AssertUnwindSafe(|| self.step(streams, actor, &job, batch)));
        match done.unwrap_or(Err(TurnError::Panicked)) {
            // What a removed alarm is about waits for the removal.
            Ok(effects) if self.in_transaction || batch.alarm.is_some() => {
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

    /// Whether the instance is still there that something is to be told to; it has one errand less
    /// then.
    fn is_current_instance(&mut self, instance: u64) -> bool {
        let is_current_instance = self.stream.is_some() && self.instance == instance;
        if is_current_instance {
            self.pending_effects = self.pending_effects.saturating_sub(1);
        }
        is_current_instance
    }

    /// Encodes a piece of a segment. Who has asked for it hears nothing when that fails.
    fn encode(
        &mut self,
        streams: &Arc<Streams>,
        actor: &StreamActor,
        encoding: Encoding,
        batch: &mut Batch,
    ) {
        let done = catch_unwind(AssertUnwindSafe(|| {
            self.open(streams, actor)?;
            let view = View {
                database: self.database.as_deref(),
                subscribers: &self.subscribers,
                waiting: &batch.waiting,
            };
            encoding.perform(&view, |span| {
                let frames = view
                    .database
                    .map_or(Ok(Vec::new()), |database| database.frames(span))?;
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
            let view = View {
                database: self.database.as_deref(),
                subscribers: &self.subscribers,
                waiting: &batch.waiting,
            };
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => {
                    let instance_seed = drawn(&mut self.instance_seed, &*streams.platform)?;
                    (self.instance, self.pending_effects) = (streams.instance(), 0);
                    none.insert(Stream::wake(
                        now,
                        &view,
                        &streams.settings.limits,
                        instance_seed,
                    )?)
                }
            };
            stream.step(now, input, &view, &mut turn)?;
        }
        self.write(streams, actor, &turn.writes)?;
        #[cfg(feature = "test-routes")]
        assert!(
            !matches!(job.kind, JobKind::Panic(_)),
            "asked for by a test"
        );
        match turn.alarm {
            // It has come, and no other is set.
            None if job.kind.is_alarm() => batch.alarm = Some(None),
            None => {}
            alarm => batch.alarm = alarm,
        }
        // As the rows are at the end of this turn: the next may remove them.
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

    /// Opens the file, if there is one.
    fn open(&mut self, streams: &Arc<Streams>, actor: &StreamActor) -> Result<(), TurnError> {
        if !self.is_open {
            self.has_tables = false;
            self.database = streams.storage.open(&actor.name)?;
            if let Some(database) = &self.database {
                self.has_tables = database.head()?.is_some() || database.outbox()?.is_some();
                streams.opened(actor);
            }
            self.is_open = true;
        }
        Ok(())
    }

    /// Brings rows of an earlier version to the present form, in the transaction of what follows.
    fn upgrade(&mut self, streams: &Arc<Streams>, actor: &StreamActor) -> Result<(), TurnError> {
        let view = View {
            database: self.database.as_deref(),
            subscribers: &self.subscribers,
            waiting: &[],
        };
        let write = Stream::upgrade(streams.platform.now(), &view)?;
        self.write(streams, actor, write.as_slice())
    }

    /// Writes into the open transaction, which is opened by the first write, as the file is made by
    /// that.
    fn write(
        &mut self,
        streams: &Arc<Streams>,
        actor: &StreamActor,
        writes: &[Write],
    ) -> Result<(), TurnError> {
        if writes.is_empty() {
            return Ok(());
        }
        if self.database.is_none() {
            self.database = Some(streams.storage.create(&actor.name)?);
            streams.opened(actor);
        }
        let Some(database) = &mut self.database else {
            return Ok(());
        };
        if !self.in_transaction {
            database.begin()?;
            self.in_transaction = true;
        }
        database.apply(writes)?;
        if writes.iter().any(Write::changes_tables) {
            self.has_tables = !database.tables()?.is_empty();
        }
        Ok(())
    }

    /// Takes back everything since the last commit. The jobs before the one that failed have told
    /// nobody anything: they are done over, in their order.
    fn roll_back(&mut self, streams: &Streams, actor: &StreamActor, batch: &mut Batch) {
        self.reset(streams, actor);
        batch.alarm = None;
        let mut mailbox = actor.mailbox.lock();
        for (job, _) in batch.waiting.drain(..).rev() {
            mailbox.jobs.push_front(job);
        }
    }

    /// Drops the instance and the connection, and with it what is not committed.
    fn reset(&mut self, streams: &Streams, actor: &StreamActor) {
        self.stream = None;
        self.instance_seed = None;
        self.pending_effects = 0;
        self.is_open = false;
        self.in_transaction = false;
        if self.database.take().is_some() {
            streams.closed(actor);
        }
    }

    /// Makes the batch durable, and lets its effects leave.
    fn commit(&mut self, streams: &Arc<Streams>, actor: &StreamActor, batch: Batch) {
        // A turn may set the alarm and write nothing.
        if self.in_transaction || matches!(batch.alarm, Some(Some(_))) {
            let begun = tokio::time::Instant::now();
            if let Err(error) = self.make_durable(streams, actor, &batch) {
                // Whether it is stored is unknown: nothing is done over, and nobody is told.
                tracing::error!(name = %actor.name, %error, "a commit failed");
                streams.health.failed(&actor.name);
                streams
                    .metrics
                    .failed_turns
                    .inc_by(batch.waiting.len() as u64);
                self.reset(streams, actor);
                self.calls.clear();
                // Nor readers, who may have missed something: their links are cut, by which they
                // dial again.
                self.subscribers.clear();
                return;
            }
            streams.health.committed(&actor.name);
            streams
                .metrics
                .committed(begun.elapsed(), batch.waiting.len());
        }
        let mut is_alarm_kept = false;
        if batch.alarm == Some(None)
            && let Err(error) = streams.storage.remove_alarm(&actor.name)
        {
            tracing::error!(name = %actor.name, %error, "an alarm could not be removed");
            is_alarm_kept = true;
        }
        for (mut job, effects) in batch.waiting {
            if is_alarm_kept && job.kind.is_alarm() {
                // By which it counts as failed, and comes again.
                job.reply_to = None;
            }
            self.perform_effects(streams, actor, job, effects);
        }
    }

    fn make_durable(
        &mut self,
        streams: &Streams,
        actor: &StreamActor,
        batch: &Batch,
    ) -> Result<(), TurnError> {
        if let Some(Some(at)) = batch.alarm {
            alarms::set(streams, &actor.name, at)?;
        }
        if std::mem::take(&mut self.in_transaction)
            && let Some(database) = &mut self.database
        {
            database.commit()?;
        }
        Ok(())
    }

    /// Carries out the effects of a turn that is durable: the one place that does.
    fn perform_effects(
        &mut self,
        streams: &Arc<Streams>,
        actor: &StreamActor,
        job: Job,
        effects: Effects,
    ) {
        // Before the answer: whoever has it may count on the room.
        drop((job.kind, job.held));
        if let Some(live) = &effects.live {
            self.broadcast(actor, live);
        }
        for (effect, rendering) in effects.after_commit {
            match effect {
                Effect::Answer { call, answer } => {
                    self.reply(call, Reply::Answered(Answered { answer, rendering }));
                }
                Effect::Put(_) | Effect::Collect { .. } | Effect::Send { .. } => {
                    self.pending_effects += 1;
                    streams.effect_queue.push(EffectJob {
                        name: Arc::clone(&actor.name),
                        instance: self.instance,
                        effect,
                    });
                }
                Effect::Attach { call, line } => {
                    let subscription = self.attach(streams, actor, &line);
                    self.reply(call, Reply::Attached { line, subscription });
                }
            }
        }
        if let Some(reply_to) = job.reply_to {
            // Who has gone meanwhile need not be told.
            drop(reply_to.send(Reply::Done));
        }
    }

    fn reply(&mut self, call: CallId, reply: Reply) {
        if let Some(reply_to) = self.calls.remove(&call) {
            drop(reply_to.send(reply));
        }
    }

    fn attach(
        &mut self,
        streams: &Arc<Streams>,
        actor: &StreamActor,
        line: &Subscriber,
    ) -> Subscription {
        let subscriber = streams.subscriber();
        let (sender, receiver) = mpsc::unbounded_channel();
        let held = Arc::new(AtomicUsize::new(0));
        self.subscribers.insert(
            subscriber,
            SubscriberSender {
                class: line.class,
                incarnation: line.incarnation,
                messages: sender,
                held: Arc::clone(&held),
                held_bytes_max: usize::try_from(line.head.held_bytes_max).unwrap_or(usize::MAX),
            },
        );
        Subscription {
            messages: receiver,
            held,
            subscriber,
            incarnation: line.incarnation,
            name: Arc::clone(&actor.name),
            streams: Arc::clone(streams),
        }
    }

    fn broadcast(&mut self, actor: &StreamActor, live: &Broadcast) {
        for class in [Class::Sse, Class::LongPoll] {
            let is_addressed = |subscriber: &SubscriberSender| {
                subscriber.class == class && subscriber.incarnation == live.incarnation
            };
            if !self.subscribers.values().any(is_addressed) {
                continue;
            }
            let encoded = live.message(class);
            let message = encoded.ok().and_then(|encoded| Frame::decode(&encoded));
            let Some((frame, body)) = message else {
                // Their links are cut, by which they dial again.
                tracing::error!(name = %actor.name, "a broadcast could not be made");
                self.subscribers
                    .retain(|_, subscriber| !is_addressed(subscriber));
                continue;
            };
            let ends = live.end.is_some();
            let message = Arc::new(LiveMessage { frame, body });
            self.subscribers.retain(|_, subscriber| {
                !is_addressed(subscriber) || (subscriber.send(&message) && !ends)
            });
        }
    }

    /// A stream that is no more leaves no file, and one that never was neither.
    fn delete_file_if_empty(&mut self, streams: &Streams, actor: &StreamActor) {
        if self.has_tables {
            return;
        }
        if let Some(database) = self.database.take() {
            streams.closed(actor);
            if let Err(error) = streams.storage.remove(&actor.name, database) {
                tracing::error!(name = %actor.name, %error, "the file of a stream that is no more could not be removed");
                self.reset(streams, actor);
            }
        }
    }

    /// The instance, by its nonce.
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
