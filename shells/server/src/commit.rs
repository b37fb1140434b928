//! The group commit. It makes the writes of a batch of turns durable together, and performs their
//! effects only after that.

use std::mem;
use std::sync::Arc;

use machine::{AlarmChange, BodyWriter, Broadcast, CallId, Effect, Stream, Write};

use crate::actor::{ActorState, Answered, Job, Reply, StreamActor, TurnError, rows};
use crate::alarms;
use crate::cold::EffectJob;
use crate::streams::Streams;

/// The jobs that share one commit, and what they need from it.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) jobs: usize,
    pub(crate) bytes: usize,
    /// Jobs whose effects wait for the commit.
    pub(crate) waiting: Vec<(Job, Effects)>,
    /// The change of the alarm: `Some(None)` removes it.
    pub(crate) alarm: AlarmChange,
}

/// The effects of a turn, ready to be performed.
pub(crate) struct Effects {
    pub(crate) after_commit: Vec<(Effect, Option<BodyWriter>)>,
    pub(crate) live: Option<Broadcast>,
}

impl ActorState {
    /// Upgrades rows of an earlier version, in the transaction of the turn that wakes the instance.
    pub(crate) fn upgrade(
        &mut self,
        streams: &Arc<Streams>,
        actor: &StreamActor,
    ) -> Result<(), TurnError> {
        let storage = rows(self.database.as_deref());
        let write = Stream::upgrade(streams.platform.now(), &storage)?;
        self.write(streams, actor, write.as_slice())
    }

    /// Writes into the open transaction. The first write creates the file and opens the
    /// transaction.
    pub(crate) fn write(
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

    /// Undoes everything since the last commit. Earlier jobs of the batch have had no effect
    /// outside, so they return to the queue in their order and run again.
    pub(crate) fn roll_back(&mut self, streams: &Streams, actor: &StreamActor, batch: &mut Batch) {
        self.reset(streams, actor);
        batch.alarm = AlarmChange::Keep;
        let mut mailbox = actor.mailbox.lock();
        for (job, _) in batch.waiting.drain(..).rev() {
            mailbox.jobs.push_front(job);
        }
    }

    /// Makes the batch durable, and performs its effects.
    pub(crate) fn commit(&mut self, streams: &Arc<Streams>, actor: &StreamActor, batch: Batch) {
        // A turn may set the alarm and write nothing.
        if self.in_transaction || matches!(batch.alarm, AlarmChange::Set(_)) {
            let begun = tokio::time::Instant::now();
            if let Err(error) = self.make_durable(streams, actor, &batch) {
                // The batch may or may not be stored. So no job runs again, and no client gets an
                // answer that says either.
                tracing::error!(name = %actor.name, %error, "a commit failed");
                streams.health.failed(&actor.name);
                streams
                    .metrics
                    .failed_turns
                    .inc_by(batch.waiting.len() as u64);
                self.reset(streams, actor);
                self.calls.clear();
                // Subscribers may have missed a turn. Detaching them makes their readers connect
                // again.
                self.subscribers.clear();
                return;
            }
            streams.health.committed(&actor.name);
            streams
                .metrics
                .committed(begun.elapsed(), batch.waiting.len());
        }
        let mut is_alarm_kept = false;
        if batch.alarm == AlarmChange::Clear
            && let Err(error) = streams.storage.remove_alarm(&actor.name)
        {
            tracing::error!(name = %actor.name, %error, "an alarm could not be removed");
            is_alarm_kept = true;
        }
        for (mut job, effects) in batch.waiting {
            if is_alarm_kept && job.kind.is_alarm() {
                // Without a reply the alarm counts as failed, and fires again.
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
        if let AlarmChange::Set(at) = batch.alarm {
            alarms::set(streams, &actor.name, at)?;
        }
        if mem::take(&mut self.in_transaction)
            && let Some(database) = &mut self.database
        {
            database.commit()?;
        }
        Ok(())
    }

    /// Performs the effects of a durable turn. No other code does.
    pub(crate) fn perform_effects(
        &mut self,
        streams: &Arc<Streams>,
        actor: &StreamActor,
        job: Job,
        effects: Effects,
    ) {
        // Free the memory first, because a client that has the answer may rely on it being free.
        drop((job.kind, job.held));
        if let Some(live) = &effects.live {
            self.subscribers.broadcast(&actor.name, live);
        }
        for (effect, rendering) in effects.after_commit {
            match effect {
                Effect::Answer { call, answer } => {
                    self.reply(call, Reply::Answered(Answered { answer, rendering }));
                }
                Effect::Put(_)
                | Effect::Collect { .. }
                | Effect::Call { .. }
                | Effect::Index { .. } => {
                    self.pending_effects += 1;
                    streams.effect_queue.push(EffectJob {
                        name: Arc::clone(&actor.name),
                        instance: self.instance,
                        effect,
                    });
                }
                Effect::Attach { call, subscriber } => {
                    let subscription = self.subscribers.attach(streams, &actor.name, &subscriber);
                    self.reply(
                        call,
                        Reply::Attached {
                            subscriber,
                            subscription,
                        },
                    );
                }
            }
        }
        if let Some(reply_to) = job.reply_to {
            // The receiver may have gone.
            drop(reply_to.send(Reply::Done));
        }
    }

    fn reply(&mut self, call: CallId, reply: Reply) {
        if let Some(reply_to) = self.calls.remove(&call) {
            drop(reply_to.send(reply));
        }
    }
}
