//! The outbox: what remains to be done for others, whether the stream still exists or not.
//!
//! Each task is a row from the turn that caused it until it is known to be done. So it is done at
//! least once, even after crashes, and each can be done twice without harm. The tasks of a queue
//! are carried out one at a time and in order; see [`Queue`].
//!
//! An instance holds only the first tasks of some queues in memory (`outbox_queues_max`,
//! `outbox_tasks_max`), and reads the others when it comes to them.

pub(crate) mod index;
mod queue;
pub(crate) mod registry;
pub(crate) mod task;

pub use index::{Change, Statement, Value};
pub use task::{Garbage, ORIGIN, Queue, Request, Task, TaskKind, target, url};

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use queue::QueueState;

use crate::backoff::backoff;
use crate::storage::Storage;
use crate::storage::rows::Write;
use crate::timer::{TimerReason, Timers};
use crate::{EffectId, Limits, Millis, StorageError, Turn};

/// The id of a task that the stream's row stands for; see [`Outbox::add_implied`].
pub(crate) const IMPLIED_ID: u64 = 0;

/// The due time of a task that follows others in its queue. It is not `now`, because the clock of a
/// later instance may be behind, and the task would then wait for it.
pub(crate) const AT_ONCE: Millis = Millis(0);

/// All tasks of one object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    /// Whether there is a table of tasks.
    has_table: bool,
    /// The queues in memory. None of them is empty.
    queues: BTreeMap<Queue, QueueState>,
    /// Whether there may be stored queues that are not in memory.
    has_unloaded: bool,
    /// The last queue that was loaded from the storage. The search for the next one starts behind
    /// it.
    loaded_last: Option<Queue>,
    /// When a queue is unloaded next to make room for another one.
    rotates_at: Millis,
    /// How often in a row all effects had ended and no other task could start. The pause grows with
    /// it.
    idle_rotations: u64,
    effects_begun: u64,
    /// The highest version of a change that the index may still receive, if there is one.
    version: Option<u64>,
}

/// The first task of a queue.
pub(crate) struct Next {
    /// Since when it is under way.
    pub(crate) begun_at: Option<Millis>,
    /// When it starts, unless it is under way.
    pub(crate) starts_at: Millis,
}

fn index_version(what: &TaskKind) -> Option<u64> {
    match what {
        TaskKind::Index(change) => Some(change.version()),
        TaskKind::Call { .. } | TaskKind::Collect(_) => None,
    }
}

impl Outbox {
    /// Reads what former instances have left to do. `implied` are the tasks that the stream's row
    /// stands for; see [`Self::add_implied`]. `has_table` says whether the storage has tasks.
    ///
    /// # Errors
    /// When the tasks cannot be read.
    pub(crate) fn recall(
        implied: impl Iterator<Item = TaskKind>,
        has_table: bool,
        storage: &dyn Storage,
        limits: &Limits,
    ) -> Result<Self, StorageError> {
        let mut outbox = Self {
            has_table,
            has_unloaded: has_table,
            ..Self::default()
        };
        for what in implied {
            let queue = what.queue();
            if outbox.has_table && !outbox.queues.contains_key(&queue) {
                outbox.load_queue(&queue, storage, limits)?;
            }
            let stored = outbox.queues.get(&queue);
            let mut stored = stored.into_iter().flat_map(|state| &state.tasks);
            // It can be behind more tasks than are held in memory.
            let is_last = outbox.has_table
                && storage
                    .last_task(&queue)?
                    .is_some_and(|last| last.what == what);
            if !is_last && !stored.any(|task| task.what == what) {
                outbox.add_implied(what);
            }
        }
        if outbox.has_table {
            for queue in [Queue::Index, Queue::Purge] {
                let last = storage.last_task(&queue)?;
                let version = last.and_then(|task| index_version(&task.what));
                outbox.version = outbox.version.max(version);
            }
            outbox.load(&BTreeSet::new(), &BTreeSet::new(), storage, limits)?;
        }
        Ok(outbox)
    }

    /// Returns whether no task remains.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty() && !self.has_unloaded
    }

    /// Returns whether there is a table of tasks.
    pub(crate) const fn has_table(&self) -> bool {
        self.has_table
    }

    /// Returns how often in a row a task has failed, if this instance knows it.
    pub(crate) fn failures(&self, queue: &Queue, id: u64) -> Option<u64> {
        let state = self.queues.get(queue)?;
        let first = state.tasks.front()?;
        (first.id == id).then_some(state.failures)
    }

    /// Returns what is known of the first task of a queue.
    ///
    /// # Errors
    /// When the queue is not in memory, and cannot be read.
    pub(crate) fn next(
        &self,
        queue: &Queue,
        storage: &dyn Storage,
    ) -> Result<Option<Next>, StorageError> {
        if let Some(state) = self.queues.get(queue) {
            return Ok(Some(Next {
                begun_at: state.in_flight.as_ref().map(|effect| effect.since),
                starts_at: state.starts_at(),
            }));
        }
        if !self.has_unloaded {
            return Ok(None);
        }
        let stored = storage.tasks(queue, IMPLIED_ID, 1)?.into_iter().next();
        let first = stored.filter(|task| task.what.queue() == *queue);
        Ok(first.map(|task| Next {
            begun_at: None,
            starts_at: task.due_at,
        }))
    }

    /// Makes the first task of a queue due, whatever the pause after its last failure. Returns
    /// whether there is one that is not under way.
    ///
    /// # Errors
    /// When the queue has to be read first, and cannot be.
    pub(crate) fn hasten(
        &mut self,
        queue: &Queue,
        storage: &dyn Storage,
        limits: &Limits,
    ) -> Result<bool, StorageError> {
        if !self.queues.contains_key(queue) && self.has_unloaded {
            self.load_queue(queue, storage, limits)?;
        }
        let Some(state) = self.queues.get_mut(queue) else {
            return Ok(false);
        };
        if state.in_flight.is_some() {
            return Ok(false);
        }
        state.retry_at = AT_ONCE;
        if let Some(first) = state.tasks.front_mut() {
            // The row of a task that was unloaded after a failure has the end of its pause. The
            // task begins in this step, so the row needs no other time.
            first.due_at = AT_ONCE;
        }
        Ok(true)
    }

    /// Returns the highest version of a change that the index may still receive, if there is one.
    pub(crate) const fn version(&self) -> Option<u64> {
        self.version
    }

    /// Adds a task that has no own row, because the stream's row stands for it. It is the
    /// first task of its queue.
    pub(crate) fn add_implied(&mut self, what: TaskKind) {
        self.version = self.version.max(index_version(&what));
        let state = self.queues.entry(what.queue()).or_default();
        let id = IMPLIED_ID;
        assert!(
            state.tasks.front().is_none_or(|first| first.id > id),
            "a queue has at most one implied task, which comes first"
        );
        assert!(state.in_flight.is_none(), "nothing has been begun");
        state.is_implied = true;
        state.tasks.push_front(Task {
            id,
            due_at: AT_ONCE,
            failures: 0,
            what,
        });
    }

    /// Returns whether the stream's row stands for the first task of this queue, which has no row
    /// of its own.
    pub(crate) fn is_implied(&self, queue: &Queue) -> bool {
        let state = self.queues.get(queue);
        state.is_some_and(|state| state.is_implied)
    }

    /// Returns the name of the object that this effect of the outbox calls.
    pub(crate) fn receiver(&self, effect: EffectId) -> Option<&str> {
        let mut queues = self.queues.iter();
        let is_it = |state: &QueueState| state.in_flight.as_ref().is_some_and(|it| it.id == effect);
        match queues.find(|(_, state)| is_it(state))?.0 {
            Queue::Call(name) => Some(name),
            Queue::Index | Queue::Purge | Queue::Segments => None,
        }
    }

    /// Returns the first task that this effect of the outbox carries out.
    pub(crate) fn task(&self, effect: EffectId) -> Option<&TaskKind> {
        let mut queues = self.queues.values();
        let is_it =
            |state: &&QueueState| state.in_flight.as_ref().is_some_and(|it| it.id == effect);
        queues.find(is_it)?.tasks.front().map(|task| &task.what)
    }

    /// Returns whether a task that this step has finished was the last one of its queue.
    pub(crate) fn is_last(&self, queue: &Queue, id: u64) -> bool {
        let state = self.queues.get(queue);
        let state = state.expect("the queue of a finished task stays until the end of the step");
        assert!(id <= state.last_id, "a queue knows its last task");
        id == state.last_id
    }

    /// Gives the implied task of this queue its own row, because the stream's row is removed.
    pub(crate) fn store_implied(&mut self, queue: &Queue, turn: &mut Turn) {
        let state = self.queues.get_mut(queue);
        let state = state.expect("an implied task is in memory until it is done");
        assert!(state.is_implied, "the first task has no row yet");
        state.is_implied = false;
        let first = state.tasks.front().expect("an implied task is the first");
        let task = first.clone();
        self.store(task, turn);
    }

    /// Returns the id of an effect that is begun outside of the outbox.
    pub(crate) const fn next_effect(&mut self) -> EffectId {
        self.effects_begun += 1;
        EffectId(self.effects_begun)
    }

    /// Removes a task that has become needless. Returns false if it has begun, as far as this
    /// instance knows.
    ///
    /// # Errors
    /// When the queue has to be read first, and cannot be.
    pub(crate) fn remove(
        &mut self,
        queue: &Queue,
        id: u64,
        storage: &dyn Storage,
        limits: &Limits,
        turn: &mut Turn,
    ) -> Result<bool, StorageError> {
        if !self.queues.contains_key(queue) {
            self.load_queue(queue, storage, limits)?;
        }
        let Some(state) = self.queues.get_mut(queue) else {
            return Ok(false);
        };
        match state.tasks.iter().position(|task| task.id == id) {
            Some(at) => {
                let begun = state.in_flight.as_ref();
                if at < begun.map_or(0, |effect| effect.leaves.len()) {
                    return Ok(false);
                }
                state.tasks.remove(at);
                if at == 0 {
                    (state.failures, state.retry_at) = (0, AT_ONCE);
                }
            }
            None if !state.has_more => return Ok(false),
            None => {}
        }
        let queue = queue.clone();
        turn.writes.push(Write::RemoveTask { queue, id });
        Ok(true)
    }

    /// Adds a task to the end of its queue, and returns its id.
    ///
    /// # Errors
    /// When the queue has to be read first, and cannot be.
    pub(crate) fn add(
        &mut self,
        due_at: Millis,
        what: TaskKind,
        storage: &dyn Storage,
        limits: &Limits,
        turn: &mut Turn,
    ) -> Result<u64, StorageError> {
        self.version = self.version.max(index_version(&what));
        let queue = what.queue();
        if !self.queues.contains_key(&queue) && self.has_unloaded {
            self.load_queue(&queue, storage, limits)?;
        }
        let state = self.queues.entry(queue).or_default();
        state.last_id += 1;
        assert!(state.last_id <= Task::LAST_ID, "ids are never used up");
        let task = Task {
            id: state.last_id,
            due_at,
            failures: 0,
            what,
        };
        if state.has_more || state.tasks.len() as u64 >= limits.outbox_tasks_max {
            state.has_more = true;
        } else {
            assert!(
                state.tasks.back().is_none_or(|last| last.id < task.id),
                "a new task is the last of its queue"
            );
            state.read_to = task.id;
            state.tasks.push_back(task.clone());
        }
        let id = task.id;
        self.store(task, turn);
        Ok(id)
    }

    fn store(&mut self, task: Task, turn: &mut Turn) {
        if !self.has_table {
            self.has_table = true;
            turn.writes.push(Write::CreateOutbox);
        }
        turn.writes.push(Write::InsertTask(task));
    }

    /// Reads the first tasks of a queue. Leaves the queue out when it has none.
    fn load_queue(
        &mut self,
        queue: &Queue,
        storage: &dyn Storage,
        limits: &Limits,
    ) -> Result<(), StorageError> {
        assert!(
            !self.queues.contains_key(queue),
            "a queue in memory is newer than its rows"
        );
        let mut state = QueueState::default();
        state.read_from(IMPLIED_ID, queue, storage, limits)?;
        let Some(first) = state.tasks.front() else {
            return Ok(());
        };
        state.failures = first.failures;
        state.last_id = match storage.last_task(queue)? {
            Some(last) => last.id,
            None => unreachable!("the queue has a first task"),
        };
        self.queues.insert(queue.clone(), state);
        Ok(())
    }

    /// Loads stored queues while there is room for them. This step has removed the tasks of the
    /// queues that are `done`, and has changed those that it has `unloaded`.
    fn load(
        &mut self,
        done: &BTreeSet<Queue>,
        unloaded: &BTreeSet<Queue>,
        storage: &dyn Storage,
        limits: &Limits,
    ) -> Result<(), StorageError> {
        let has_room = |queues: &BTreeMap<_, _>| (queues.len() as u64) < limits.outbox_queues_max;
        if !has_room(&self.queues) && unloaded.is_empty() {
            return Ok(());
        }
        let mut has_wrapped = false;
        while self.has_unloaded {
            let next = match &self.loaded_last {
                None => storage.tasks(&Queue::first(), IMPLIED_ID, 1)?,
                Some(queue) => storage.tasks(queue, Task::LAST_ID + 1, 1)?,
            };
            let Some(task) = next.into_iter().next() else {
                self.loaded_last = None;
                if has_wrapped {
                    self.has_unloaded = !unloaded.is_empty();
                    return Ok(());
                }
                has_wrapped = true;
                continue;
            };
            let queue = task.what.queue();
            let is_known = self.queues.contains_key(&queue);
            if !is_known && !done.contains(&queue) && !unloaded.contains(&queue) {
                if !has_room(&self.queues) {
                    return Ok(());
                }
                self.load_queue(&queue, storage, limits)?;
            }
            self.loaded_last = Some(queue);
        }
        Ok(())
    }

    /// Starts what is due and not in flight, at the end of a step. An effect that has been in
    /// flight for too long counts as failed.
    ///
    /// # Errors
    /// When tasks cannot be read.
    pub(crate) fn start_due(
        &mut self,
        now: Millis,
        instance_seed: u64,
        storage: &dyn Storage,
        limits: &Limits,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        let lost_before = |since: Millis| since.plus(limits.reply_timeout_ms) <= now;
        for (queue, state) in &mut self.queues {
            if state
                .in_flight
                .as_ref()
                .is_some_and(|effect| lost_before(effect.since))
            {
                state.failed(now, instance_seed, limits);
            }
            if state.tasks.is_empty() && state.has_more {
                // Tasks that an earlier step stored can be read now.
                let from = state.read_to + 1;
                state.read_from(from, queue, storage, limits)?;
                // The storage still has the tasks that this step has removed.
                state.tasks.retain(|task| {
                    let (queue, id) = (queue.clone(), task.id);
                    !turn.writes.contains(&Write::RemoveTask { queue, id })
                });
                // The storage does not show the tasks of this step yet.
                state.has_more |= turn.writes.iter().any(|write| {
                    matches!(write, Write::InsertTask(task)
                        if task.what.queue() == *queue && task.id > state.read_to)
                });
            }
        }
        // The storage still has what this step removes.
        let is_done = |(_, state): &(&Queue, &QueueState)| state.is_empty();
        let done = self.queues.iter().filter(is_done);
        let done: BTreeSet<_> = done.map(|(queue, _)| queue.clone()).collect();
        self.queues.retain(|_, state| !state.is_empty());
        if self.queues.is_empty() {
            // An emptied map keeps a node, which has room for eleven queues.
            self.queues = BTreeMap::new();
        }
        let unloaded = self.unload(now, instance_seed, limits, turn);
        // A table that this step makes cannot be read before the commit.
        if self.has_unloaded && !turn.writes.contains(&Write::CreateOutbox) {
            self.load(&done, &unloaded, storage, limits)?;
        }
        for state in self.queues.values_mut() {
            if state.in_flight.is_none() && !state.tasks.is_empty() && state.starts_at() <= now {
                self.effects_begun += 1;
                self.idle_rotations = 0;
                let effect = state.start(EffectId(self.effects_begun), now, limits);
                turn.after_commit.push(effect);
            }
        }
        Ok(())
    }

    /// Unloads queues that have no room in memory, and from time to time one more, so that each
    /// stored queue has its turn. Returns them.
    fn unload(
        &mut self,
        now: Millis,
        instance_seed: u64,
        limits: &Limits,
        turn: &mut Turn,
    ) -> BTreeSet<Queue> {
        let room = limits.outbox_queues_max;
        let loaded = self.queues.len() as u64;
        let mut surplus = loaded.saturating_sub(room);
        if self.has_unloaded && self.rotates_at <= now {
            self.idle_rotations += 1;
            self.rotates_at = now.plus(backoff(self.idle_rotations, instance_seed, limits));
            surplus = surplus.max(u64::from(loaded == room));
        }
        if surplus == 0 {
            return BTreeSet::new();
        }
        // Other queues stay in memory. Only this instance knows that an effect is in flight, that a
        // task is implied, or that a receiver has to be created next.
        let may_go = |state: &QueueState| {
            let creates = state.receiver_is_missing && state.starts_at() <= now;
            state.in_flight.is_none() && !state.is_implied && !creates
        };
        let candidates = self.queues.iter().filter(|(_, state)| may_go(state));
        let starts = candidates.map(|(queue, state)| (state.starts_at(), queue.clone()));
        let mut starts: BinaryHeap<_> = starts.collect();
        let mut unloaded = BTreeSet::new();
        while surplus > 0
            && let Some((_, queue)) = starts.pop()
        {
            surplus -= 1;
            let state = self.queues.remove(&queue);
            let state = state.expect("the queue was just found");
            self.has_unloaded = true;
            unloaded.insert(queue);
            if let Some(first) = state.tasks.front().filter(|_| state.failures > 0) {
                turn.writes.push(Write::UpdateTask(Task {
                    due_at: state.starts_at(),
                    failures: state.failures,
                    ..first.clone()
                }));
            }
        }
        unloaded
    }

    /// Handles the success of an effect. Returns the tasks that are done, or `None` if the effect
    /// is no longer expected. Calls `announced` with the queue of a task that the stream's row
    /// stands for.
    pub(crate) fn succeeded(
        &mut self,
        effect: EffectId,
        announced: impl FnOnce(&Queue),
        turn: &mut Turn,
    ) -> Option<Vec<Task>> {
        let (queue, state) = self.in_flight(effect)?;
        let in_flight = state.in_flight.take();
        let leaves = in_flight
            .expect("the queue has this effect in flight")
            .leaves;
        state.failures = 0;
        state.receiver_is_missing = false;
        let was_implied = !leaves.is_empty() && core::mem::take(&mut state.is_implied);
        let mut done = Vec::new();
        // Only the last task of an effect can have something left.
        for rest in leaves {
            let first = state
                .tasks
                .front_mut()
                .expect("tasks in flight are in memory");
            match rest {
                Some(rest) => {
                    first.what = TaskKind::Collect(rest);
                    first.failures = 0;
                    turn.writes.push(Write::UpdateTask(first.clone()));
                }
                None => {
                    let task = state.tasks.pop_front().expect("it was there just now");
                    done.push(task);
                }
            }
        }
        if was_implied {
            assert_eq!(done.len(), 1, "an implied task is carried out alone");
            announced(&queue);
            return Some(done);
        }
        for task in &done {
            let (queue, id) = (queue.clone(), task.id);
            turn.writes.push(Write::RemoveTask { queue, id });
        }
        Some(done)
    }

    /// Handles the failure of an effect, or an unknown outcome.
    pub(crate) fn failed(
        &mut self,
        effect: EffectId,
        now: Millis,
        instance_seed: u64,
        limits: &Limits,
    ) {
        if let Some((_, state)) = self.in_flight(effect) {
            state.failed(now, instance_seed, limits);
        }
    }

    /// Handles a response to a call that says that its stream does not exist. Returns whether the
    /// machine creates that stream next. The call then follows without a pause.
    pub(crate) fn receiver_is_missing(&mut self, effect: EffectId) -> bool {
        let Some((_, state)) = self.in_flight(effect) else {
            return false;
        };
        let creates = state.tasks.front().is_some_and(
            |task| matches!(&task.what, TaskKind::Call { create, .. } if create.is_some()),
        );
        if !creates || state.receiver_is_missing {
            return false;
        }
        state.in_flight = None;
        state.receiver_is_missing = true;
        true
    }

    fn in_flight(&mut self, effect: EffectId) -> Option<(Queue, &mut QueueState)> {
        let mut queues = self.queues.iter_mut();
        let is_it = |state: &QueueState| state.in_flight.as_ref().is_some_and(|it| it.id == effect);
        let (queue, state) = queues.find(|(_, state)| is_it(state))?;
        Some((queue.clone(), state))
    }

    /// Removes the table when it is empty.
    pub(crate) fn remove_table_if_empty(&mut self, turn: &mut Turn) {
        if self.has_table && self.is_empty() {
            self.has_table = false;
            turn.writes.push(Write::DropOutbox);
        }
    }

    /// Returns when the outbox needs its next steps.
    pub(crate) fn timers(&self, limits: &Limits) -> Timers<3> {
        let (mut task_at, mut reply_at) = (None, None);
        for state in self.queues.values() {
            let (earliest, at) = match &state.in_flight {
                Some(effect) => (&mut reply_at, effect.since.plus(limits.reply_timeout_ms)),
                None => (&mut task_at, state.starts_at()),
            };
            *earliest = Some(earliest.map_or(at, |earliest: Millis| earliest.min(at)));
        }
        let has_room = (self.queues.len() as u64) < limits.outbox_queues_max;
        let rotates_at = if has_room { AT_ONCE } else { self.rotates_at };
        [
            TimerReason::Task.at(task_at),
            TimerReason::Reply.at(reply_at),
            TimerReason::Rotation.at(self.has_unloaded.then_some(rotates_at)),
        ]
    }
}
