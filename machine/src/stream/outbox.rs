//! What a stream leaves to others: events for the registry, rows of the admin index, objects of the
//! cold tier that nothing refers to. See [`crate::outbox`] for how it is carried out.

use super::followers::Moment;
use super::fork::release;
use super::{Step, Stream, StreamState};
use crate::admin;
use crate::control::{call_of, control_request};
use crate::outbox::{AT_ONCE, Change, Garbage, Queue, Task, TaskKind, registry};
use crate::router::name;
use crate::storage::Storage;
use crate::storage::rows::{SealedSegment, StreamRow, Unannounced};
use crate::subscription::glob::first_segment;
use crate::subscription::links::is_done;
use crate::wire::control::{DirectoryCall, directory_object, directory_shard, is_directory};
use crate::{CallOutcome, EffectId, Limits, Millis, StorageError, Turn, segment};

fn created_event(shard: u64, row: &StreamRow) -> TaskKind {
    registry::created(
        shard,
        row.incarnation,
        &row.name,
        &row.content_type,
        row.created_at,
        row.lineage.fork.as_ref().map(|fork| fork.source.clone()),
    )
}

fn created_change(row: &StreamRow) -> TaskKind {
    let (expires_at, ttl_seconds) = admin::expiry_columns(&row.expiry);
    TaskKind::Index(Change::Created {
        path: row.name.clone(),
        version: row.version,
        incarnation: row.incarnation.to_string(),
        content_type: row.content_type.clone(),
        created_at: row.created_at,
        forked_from: row
            .lineage
            .fork
            .as_ref()
            .map(|fork| fork.source.clone())
            .unwrap_or_default(),
        closed: row.closed.is_some(),
        expires_at,
        ttl_seconds,
    })
}

/// Returns the tasks that the stream's row stands for, because their receivers do not have the
/// creation yet.
pub(super) fn implied_tasks(row: &StreamRow, limits: &Limits) -> impl Iterator<Item = TaskKind> {
    let event = row.registered.filter(|_| row.unannounced.registry);
    let change = row.unannounced.index;
    let is_missing = row.unannounced.directory && is_listed_by(&row.name, limits);
    [
        event.map(|shard| created_event(shard, row)),
        change.then(|| created_change(row)),
        is_missing.then(|| registration(row)),
    ]
    .into_iter()
    .flatten()
}

/// Returns whether the directory lists a stream of this name. It does not list internal streams.
fn is_listed_by(name: &str, limits: &Limits) -> bool {
    limits.subscriptions && !name::is_internal(name)
}

fn directory_task(name: &str, call: &DirectoryCall) -> TaskKind {
    TaskKind::Call {
        to: directory_object(directory_shard(first_segment(name))),
        request: control_request(call),
        create: None,
    }
}

fn registration(row: &StreamRow) -> TaskKind {
    let call = DirectoryCall::Register {
        stream: row.name.clone(),
        incarnation: row.incarnation,
    };
    directory_task(&row.name, &call)
}

/// Returns the shard of the registry that lists a stream of this name. Internal streams have none.
pub(super) fn registry_shard(name: &str, limits: &Limits) -> Option<u64> {
    let registers = limits.registry && !name::is_internal(name);
    registers.then(|| name::registry_shard(name, limits))
}

impl Stream {
    /// Returns a version above that of every change that the index may still receive for former
    /// streams of this name.
    pub(super) fn next_version(&self, now: Millis) -> u64 {
        let last = self.outbox.version();
        last.map_or(now.0, |last| now.0.max(last + 1))
    }

    fn change_index(
        &mut self,
        due_at: Millis,
        change: Change,
        storage: &dyn Storage,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        if !self.limits.index {
            return Ok(());
        }
        let task = TaskKind::Index(change);
        self.outbox.add(due_at, task, storage, &self.limits, turn)?;
        Ok(())
    }

    /// Announces a new stream. Its row stands for the announcement, unless a task of a former
    /// stream comes before it.
    pub(super) fn announce_creation(
        &mut self,
        row: &mut StreamRow,
        storage: &dyn Storage,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        let unannounced = Unannounced {
            registry: row.registered.is_some(),
            index: self.limits.index,
            directory: true,
        };
        if self.outbox.is_empty() {
            row.unannounced = unannounced;
            implied_tasks(row, &self.limits).for_each(|task| self.outbox.add_implied(task));
            return Ok(());
        }
        let announced = StreamRow {
            unannounced,
            ..row.clone()
        };
        // This flag decides where a link begins, so it is set even if the outbox has the task.
        row.unannounced.directory = true;
        for task in implied_tasks(&announced, &self.limits) {
            self.outbox
                .add(AT_ONCE, task, storage, &self.limits, turn)?;
        }
        Ok(())
    }

    /// Announces that the stream was closed.
    pub(super) fn announce_closure(
        &mut self,
        storage: &dyn Storage,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        let closed = Change::Closed {
            path: state.row.name.clone(),
            version: state.row.version,
            incarnation: state.row.incarnation.to_string(),
        };
        self.change_index(AT_ONCE, closed, storage, turn)
    }

    /// Announces that a segment is in the cold tier, as the object with this key and size.
    pub(super) fn announce_segment(
        &mut self,
        now: Millis,
        row: &StreamRow,
        sealed: &SealedSegment,
        (key, bytes): (String, u64),
        storage: &dyn Storage,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        let change = Change::Stored {
            path: row.name.clone(),
            version: row.version,
            incarnation: row.incarnation.to_string(),
            segment: sealed.number,
            units: sealed.units,
            key,
            bytes,
            messages: sealed.messages,
            stored_at: now,
        };
        self.change_index(AT_ONCE, change, storage, turn)
    }

    /// Announces the end of a stream, or that it is hidden because forks still need it.
    pub(super) fn announce_end(
        &mut self,
        now: Millis,
        row: &StreamRow,
        storage: &dyn Storage,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        // The shard that has the creation, even if the number of shards has changed.
        if let Some(shard) = row.registered {
            let ended = registry::ended(shard, row.incarnation, &row.name);
            self.outbox
                .add(AT_ONCE, ended, storage, &self.limits, turn)?;
        }
        if is_listed_by(&row.name, &self.limits) {
            let call = DirectoryCall::Forget {
                stream: row.name.clone(),
                incarnation: row.incarnation,
            };
            let task = directory_task(&row.name, &call);
            self.outbox
                .add(AT_ONCE, task, storage, &self.limits, turn)?;
        }
        let ended = Change::Ended {
            path: row.name.clone(),
            version: row.version + 1,
            ended_at: now,
        };
        self.change_index(AT_ONCE, ended, storage, turn)
    }

    /// Leaves the segments of a removed stream to be collected, but not while they may still be
    /// read or put, and gives back what it has inherited. Its own segments begin with `first`.
    /// `retried` are those of several attempts.
    pub(super) fn leave(
        &mut self,
        now: Millis,
        row: &StreamRow,
        first: u64,
        retried: &[(u64, u64)],
        storage: &dyn Storage,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        // The stream's row is removed, so the tasks that it stands for need rows of their own. A
        // task that is under way is stored as it began, because the stream may have been closed
        // since then.
        for task in implied_tasks(row, &self.limits) {
            let queue = task.queue();
            if self.outbox.is_implied(&queue) {
                self.outbox.store_implied(&queue, turn);
            }
        }
        if let Some(fork) = &row.lineage.fork {
            let release = release(&fork.source, fork.incarnation, row.incarnation, &row.name);
            self.outbox
                .add(AT_ONCE, release, storage, &self.limits, turn)?;
        }
        if let Some(last) = row.segment.checked_sub(1).filter(|last| first <= *last) {
            self.discard(now, row, first..=last, 1..=1, storage, turn)?;
            for (segment, attempts) in retried {
                let segments = *segment..=*segment;
                self.discard(now, row, segments, 2..=*attempts, storage, turn)?;
            }
        }
        Ok(())
    }

    /// Schedules the deletion of objects that nothing refers to.
    pub(super) fn discard(
        &mut self,
        now: Millis,
        row: &StreamRow,
        segments: core::ops::RangeInclusive<u64>,
        attempts: core::ops::RangeInclusive<u64>,
        storage: &dyn Storage,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        let garbage = TaskKind::Collect(Garbage {
            prefix: segment::key_prefix(&row.name, row.incarnation),
            segments,
            attempts,
        });
        let due_at = now.plus(self.limits.collect_grace_ms);
        self.outbox
            .add(due_at, garbage, storage, &self.limits, turn)?;
        Ok(())
    }

    /// Handles the end of a call of another object.
    pub(super) fn call_finished(
        &mut self,
        now: Millis,
        effect: EffectId,
        outcome: &CallOutcome,
        storage: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        if self.waits_for(effect) {
            return self.source_answered(now, outcome, storage, step);
        }
        let status = match outcome {
            CallOutcome::Answered { status, .. } => Some(*status),
            CallOutcome::Failed => None,
        };
        if status == Some(404) && self.outbox.receiver_is_missing(effect) {
            return Ok(());
        }
        if self.page_arrived(now, effect, outcome, storage, step)? {
            return Ok(());
        }
        let present = self.presence();
        let (seed, limits) = (self.instance_seed, &self.limits);
        let turn = &mut step.turn;
        if self
            .links
            .call_finished(now, (effect, outcome), present, seed, limits, turn)
        {
            return Ok(());
        }
        let moment = Moment {
            now,
            present,
            instance_seed: seed,
            limits,
        };
        let (rows, ended) = (self.control_rows, (effect, outcome));
        if self.followers.call_finished(moment, ended, rows, turn) {
            return Ok(());
        }
        let task = self.outbox.task(effect);
        let is_done = task.is_some_and(|task| is_done(task, outcome));
        if !is_done {
            self.note_unanswered(effect, step);
        }
        let done = self.effect_finished(now, effect, is_done, storage, step)?;
        for task in done {
            self.note_followed(now, &task.what, outcome, storage, step)?;
            self.note_registered(&task, outcome, storage, step)?;
        }
        Ok(())
    }

    /// Handles the end of an effect of the outbox.
    pub(super) fn effect_finished(
        &mut self,
        now: Millis,
        effect: EffectId,
        is_done: bool,
        storage: &dyn Storage,
        step: &mut Step,
    ) -> Result<Vec<Task>, StorageError> {
        if !is_done {
            self.outbox
                .failed(effect, now, self.instance_seed, &self.limits);
            return Ok(Vec::new());
        }
        step.has_finished_task = true;
        let (state, limits) = (&mut self.state, &self.limits);
        let announced = |queue: &Queue| {
            let state = state.as_mut();
            let state = state.expect("the row of a stream stands for the task");
            state.note_announced(queue);
            // The row is written once, when the last receiver has the creation. If that is lost,
            // all receivers are called again.
            if implied_tasks(&state.row, limits).next().is_none() {
                step.row.save();
            }
        };
        let done = self.outbox.succeeded(effect, announced, &mut step.turn);
        let done = done.unwrap_or_default();
        for task in &done {
            self.purge_after(now, task, storage, &mut step.turn)?;
        }
        Ok(done)
    }

    /// Notes that the directory knows the stream, and links the subscriptions that it names.
    fn note_registered(
        &mut self,
        done: &Task,
        outcome: &CallOutcome,
        storage: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let TaskKind::Call { to, request, .. } = &done.what else {
            return Ok(());
        };
        if !is_directory(to) {
            return Ok(());
        }
        let Some(DirectoryCall::Register { incarnation, .. }) = call_of(request) else {
            return Ok(());
        };
        let state = self.state.as_mut();
        let Some(state) = state.filter(|state| state.row.incarnation == incarnation) else {
            return Ok(());
        };
        if core::mem::take(&mut state.row.unannounced.directory) {
            step.row.save();
        }
        self.link_interested(outcome, storage, step)
    }

    /// Schedules the removal of the stream's tombstone from the index. By then every earlier change
    /// of the index has arrived or is lost.
    fn purge_after(
        &mut self,
        now: Millis,
        done: &Task,
        storage: &dyn Storage,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        let TaskKind::Index(Change::Ended { path, version, .. }) = &done.what else {
            return Ok(());
        };
        let (path, version) = (path.clone(), *version);
        let due_at = now.plus(self.limits.collect_grace_ms);
        self.change_index(due_at, Change::Purged { path, version }, storage, turn)
    }
}

impl StreamState {
    /// Notes in the stream's row that a receiver has the creation.
    fn note_announced(&mut self, queue: &Queue) {
        let unannounced = &mut self.row.unannounced;
        let was_unannounced = match queue {
            Queue::Call(to) if is_directory(to) => core::mem::take(&mut unannounced.directory),
            Queue::Call(_) => core::mem::take(&mut unannounced.registry),
            Queue::Index => core::mem::take(&mut unannounced.index),
            Queue::Purge | Queue::Segments => false,
        };
        assert!(was_unannounced, "the row stands for the task");
    }
}
