//! The group commit. The turns of all streams of a shard share a transaction. Their effects leave
//! only after its commit.
//!
//! Each turn is a savepoint in the transaction. A turn that fails takes back its own writes, and
//! drops its stream's instance. Turns before it stay, of the same stream and of others. The next
//! turn of the stream loads an instance from the open transaction.

use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use machine::{AlarmChange, Appended, Broadcast, CallId, Effect, Events, Turn, Write};

use crate::actor::{ActorState, Answered, Job, JobKind, Rendering, Reply, StreamActor, TurnError};
use crate::cold::EffectJob;
use crate::room::Reservation;
use crate::shards::WriterState;
use crate::storage::Writer;
use crate::streams::Streams;

/// The turns of one stream that wait for a commit.
type Waiting = (Arc<StreamActor>, Vec<(Job, Effects)>);

/// The turns that share one commit.
struct Batch<'a> {
    writer: &'a mut dyn Writer,
    jobs: usize,
    bytes: usize,
    /// Turns whose effects wait for the commit, by their stream.
    waiting: Vec<Waiting>,
    in_transaction: bool,
    in_turn: bool,
    /// Why the transaction is gone with all of its turns, if it is.
    lost: Option<io::Error>,
    sets_alarm: bool,
    #[cfg(feature = "test-routes")]
    test: Option<crate::test_routes::CommitTest>,
}

/// The effects of a turn, ready to be performed.
pub(crate) struct Effects {
    /// The instance whose turn it was. Outcomes are reported to no other.
    pub(crate) instance: u64,
    pub(crate) after_commit: Vec<(Effect, Option<Rendering>)>,
    pub(crate) broadcast: Option<Broadcast>,
    pub(crate) appended: Appended,
    pub(crate) events: Events,
}

impl Effects {
    /// Returns how many calls the turn answers.
    fn call_count(&self) -> usize {
        let effects = self.after_commit.iter();
        let calls = effects
            .filter(|(effect, _)| matches!(effect, Effect::Answer { .. } | Effect::Attach { .. }));
        calls.count()
    }
}

impl Streams {
    /// Runs jobs of a shard until its queue is empty or the batch is full, and commits them.
    pub(crate) fn run_batch(self: &Arc<Self>, shard: usize, writer: &mut WriterState) {
        let mut batch = Batch {
            writer: writer.connection(),
            jobs: 0,
            bytes: 0,
            waiting: Vec::new(),
            in_transaction: false,
            in_turn: false,
            lost: None,
            sets_alarm: false,
            #[cfg(feature = "test-routes")]
            test: None,
        };
        while batch.has_room(self)
            && let Some(actor) = self.next_ready(shard)
        {
            let waiting = self.run_jobs(&actor, &mut batch);
            if waiting.is_empty() {
                self.finish(&actor);
            } else {
                batch.waiting.push((actor, waiting));
            }
        }
        let (count, sets_alarm) = (batch.job_count(), batch.sets_alarm);
        let begun = tokio::time::Instant::now();
        let committed = batch.commit();
        let waiting = mem::take(&mut batch.waiting);
        match committed {
            Ok(false) => {}
            Ok(true) => {
                self.health.committed(shard);
                self.metrics.committed(begun.elapsed(), count);
            }
            Err(error) => {
                tracing::error!(shard, %error, "a commit failed");
                self.metrics.failed_turns.inc_by(count as u64);
                return self.fail_commit(shard, writer, waiting);
            }
        }
        for (actor, turns) in waiting {
            let mut state = actor.state.lock();
            for (job, effects) in turns {
                state.perform_effects(self, &actor, job, effects);
            }
            drop(state);
            self.finish(&actor);
        }
        if sets_alarm {
            self.alarms_changed.notify_one();
        }
        if let Err(error) = writer.connection().shrink() {
            tracing::error!(shard, %error, "free space could not be given back");
            self.fail_commit(shard, writer, Vec::new());
        }
    }

    /// Closes a shard after a commit whose outcome is unknown. So no turn runs again, and no client
    /// gets an answer that says either.
    fn fail_commit(
        self: &Arc<Self>,
        shard: usize,
        writer: &mut WriterState,
        waiting: Vec<Waiting>,
    ) {
        self.health.failed(shard);
        self.close_shard(shard, writer);
        for (actor, turns) in waiting {
            let mut state = actor.state.lock();
            state.reset();
            state.calls.clear();
            // Subscribers may have missed a turn. Detaching them makes their readers connect again.
            state.subscribers.clear();
            drop((state, turns));
            self.finish(&actor);
        }
    }

    /// Runs the jobs of one stream. Returns the turns that wait for the commit. If none does, the
    /// effects have been performed.
    fn run_jobs(
        self: &Arc<Self>,
        actor: &Arc<StreamActor>,
        batch: &mut Batch<'_>,
    ) -> Vec<(Job, Effects)> {
        let mut state = actor.state.lock();
        self.used(actor, &state);
        let mut waiting = Vec::new();
        // Reads before the first write of the stream need no commit. Others can run them.
        let is_next = |job: &mut Job, is_first: bool| !(is_first && job.only_reads());
        while batch.has_room(self) {
            let mut mailbox = actor.mailbox.lock();
            let is_first = waiting.is_empty();
            let next = mailbox.jobs.pop_front_if(|job| is_next(job, is_first));
            drop(mailbox);
            let Some(mut job) = next else { break };
            if !batch.begin(&mut state, &mut job) {
                continue;
            }
            let limits = &self.settings.limits;
            while batch.has_room(self) {
                let mut mailbox = actor.mailbox.lock();
                let next = mailbox
                    .jobs
                    .pop_front_if(|next| job.shares_turn_with(next, limits));
                drop(mailbox);
                let Some(mut next) = next else { break };
                batch.begin(&mut state, &mut next);
                job = job.followed_by(next);
            }
            self.run_job(actor, &mut state, job, batch, &mut waiting);
        }
        waiting
    }

    fn run_job(
        self: &Arc<Self>,
        actor: &Arc<StreamActor>,
        state: &mut ActorState,
        mut job: Job,
        batch: &mut Batch<'_>,
        waiting: &mut Vec<(Job, Effects)>,
    ) {
        if let JobKind::Encode(encoding) = job.kind {
            return ActorState::encode(actor, encoding, batch.writer, &mut batch.bytes);
        }
        #[cfg(feature = "test-routes")]
        if let JobKind::Test(test) = &mut job.kind {
            let rows = batch.writer.stream(&actor.name).ok();
            test.perform(state, &*self.platform, rows.as_deref());
        }
        let done = catch_unwind(AssertUnwindSafe(|| {
            if state.is_loading(&job) {
                let rows = batch.writer.stream(&actor.name)?;
                let upgrade = ActorState::upgrade(self, &*rows)?;
                drop(rows);
                if let Some(upgrade) = upgrade {
                    batch.write(&actor.name, &[upgrade], AlarmChange::Keep)?;
                }
            }
            let rows = batch.writer.stream(&actor.name)?;
            let mut turn = state.step(self, actor, &mut job, &*rows, waiting)?;
            drop(rows);
            let deferred = mem::take(&mut turn.deferred);
            let done = batch.carry_out(self, state, actor, &job, turn)?;
            state.defer(actor, deferred);
            Ok(done)
        }));
        match done.unwrap_or(Err(TurnError::Panicked)) {
            Ok((effects, has_written)) if has_written || !waiting.is_empty() => {
                waiting.push((job, effects));
            }
            Ok((effects, _)) => state.perform_effects(self, actor, job, effects),
            Err(error) => {
                batch.undo();
                state.fail(self, actor, &job, &error);
            }
        }
    }

    /// Fails the jobs of a stream whose shard is closed. Its instance is dropped, because it would
    /// wait for what is dropped here.
    pub(crate) fn fail_jobs(self: &Arc<Self>, actor: &Arc<StreamActor>) {
        let mut state = actor.state.lock();
        let jobs = mem::take(&mut actor.mailbox.lock().jobs);
        self.metrics.failed_turns.inc_by(jobs.len() as u64);
        for job in jobs {
            if let JobKind::Leave { subscriber, .. } = job.kind {
                state.subscribers.remove(subscriber);
            }
        }
        state.reset();
        state.calls.clear();
        drop(state);
        self.finish(actor);
    }
}

impl Batch<'_> {
    fn has_room(&self, streams: &Streams) -> bool {
        let bounds = &streams.bounds;
        self.jobs < bounds.batch_jobs_max
            && self.bytes < bounds.batch_bytes_max
            && self.lost.is_none()
    }

    /// Counts a job, and prepares it to run. Returns whether it is still of use.
    fn begin(&mut self, state: &mut ActorState, job: &mut Job) -> bool {
        self.jobs += 1;
        self.bytes += job.held.as_ref().map_or(0, Reservation::bytes);
        state.begin(job)
    }

    /// Counts the requests and other events whose turns wait for the commit.
    fn job_count(&self) -> usize {
        let turns = self.waiting.iter().flat_map(|(_, turns)| turns);
        turns.map(|(_, effects)| effects.call_count().max(1)).sum()
    }

    /// Writes a part of a turn into the open transaction. The first write opens it.
    fn write(&mut self, name: &str, writes: &[Write], alarm: AlarmChange) -> io::Result<()> {
        if !self.in_transaction {
            self.writer.begin()?;
            self.in_transaction = true;
        }
        if !self.in_turn {
            self.writer.begin_turn()?;
            self.in_turn = true;
        }
        self.writer.apply(name, writes, alarm)
    }

    /// Writes a turn into the open transaction. Returns the turn's effects, and whether it has
    /// written, also before it loaded an instance.
    fn carry_out(
        &mut self,
        streams: &Streams,
        state: &mut ActorState,
        actor: &StreamActor,
        job: &Job,
        turn: Turn,
    ) -> Result<(Effects, bool), TurnError> {
        // The alarm has fired, and the turn may set no other.
        let alarm = if turn.alarm == AlarmChange::Keep && job.kind.is_alarm() {
            AlarmChange::Clear
        } else {
            turn.alarm
        };
        if !turn.writes.is_empty() || alarm != AlarmChange::Keep {
            self.write(&actor.name, &turn.writes, alarm)?;
        }
        #[cfg(feature = "test-routes")]
        assert!(
            !matches!(job.kind, JobKind::Panic(_)),
            "asked for by a test"
        );
        #[cfg(feature = "test-routes")]
        if let JobKind::Commit(_, test) = &job.kind {
            self.test = Some(*test);
        }
        let changes_tables = turn.writes.iter().any(Write::changes_tables);
        let writer = &*self.writer;
        let frames = |span| {
            let rows = writer.stream(&actor.name)?;
            let frames = rows.frames(span);
            frames.map_err(|error| TurnError::from(error).at(&*rows))
        };
        let effects = state.prepare(streams, actor, turn, frames, &mut self.bytes)?;
        let mut has_rows = state.has_rows;
        if changes_tables {
            has_rows = !self.writer.stream(&actor.name)?.layout()?.is_empty();
        }
        // Nothing fails after this, because the turn could not be taken back any more.
        let has_written = self.in_turn;
        if has_written {
            self.writer.keep_turn()?;
            self.in_turn = false;
            self.sets_alarm |= matches!(alarm, AlarmChange::Set(_));
        }
        state.has_rows = has_rows;
        Ok((effects, has_written))
    }

    /// Takes back what a failed turn has written.
    fn undo(&mut self) {
        if mem::take(&mut self.in_turn)
            && let Err(error) = self.writer.undo_turn()
        {
            self.lost = Some(error);
        }
    }

    /// Makes the transaction durable, if there is one. Returns whether there was.
    ///
    /// # Errors
    /// When the outcome is unknown.
    fn commit(&mut self) -> io::Result<bool> {
        if let Some(error) = self.lost.take() {
            return Err(error);
        }
        #[cfg(feature = "test-routes")]
        if let Some(test) = self.test.take() {
            test.perform()?;
        }
        if !self.in_transaction {
            return Ok(false);
        }
        self.writer.commit()?;
        Ok(true)
    }
}

impl ActorState {
    /// Performs the effects of a durable turn. No other code does.
    pub(crate) fn perform_effects(
        &mut self,
        streams: &Arc<Streams>,
        actor: &StreamActor,
        job: Job,
        effects: Effects,
    ) {
        let calls: Vec<_> = job.kind.calls().collect();
        // It has the bodies of the calls, whose memory is free once they are answered.
        drop(job.kind);
        streams.metrics.count(&effects.events.events);
        if effects.appended != Appended::default() {
            let now = streams.platform.now();
            let mut traffic = streams.traffic.lock();
            traffic.record(now, &actor.name, effects.appended);
        }
        if let Some(broadcast) = &effects.broadcast {
            self.subscribers.broadcast(&actor.name, broadcast);
        }
        for (effect, rendering) in effects.after_commit {
            match effect {
                Effect::Answer { call, answer } => {
                    self.reply(call, Reply::Answered(Answered { answer, rendering }));
                }
                Effect::Put(_)
                | Effect::Collect { .. }
                | Effect::Call { .. }
                | Effect::Webhook { .. }
                | Effect::Index { .. }
                | Effect::Enqueue { .. } => {
                    if effects.instance == self.instance && self.machine.is_some() {
                        self.pending_effects += 1;
                    }
                    streams.effect_queue.push(EffectJob {
                        name: Arc::clone(&actor.name),
                        instance: effects.instance,
                        effect,
                    });
                }
                Effect::Attach { call, subscriber } => {
                    let attachment = self.subscribers.attach(streams, &actor.name, &subscriber);
                    self.reply(
                        call,
                        Reply::Attached {
                            subscriber,
                            attachment,
                        },
                    );
                }
            }
        }
        let waiting = calls.iter().filter(|call| self.calls.contains_key(call));
        self.held.extend(waiting);
        if let Some(reply_to) = job.reply_to {
            // The receiver may have gone.
            drop(reply_to.send(Reply::Done));
        }
    }

    fn reply(&mut self, call: CallId, reply: Reply) {
        self.held.remove(&call);
        if let Some(caller) = self.calls.remove(&call) {
            caller.reply(reply);
        }
    }
}
