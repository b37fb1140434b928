//! One queue of the outbox: its first tasks, and the effect that carries them out.

use std::collections::VecDeque;

use super::AT_ONCE;
use super::task::{Garbage, Queue, Request, Task, TaskKind};
use crate::backoff::backoff;
use crate::storage::Storage;
use crate::{Effect, EffectId, Limits, Millis, StorageError};

#[derive(Clone, Debug, Default)]
pub(super) struct QueueState {
    /// The first tasks.
    pub(super) tasks: VecDeque<Task>,
    /// Whether the first task has no own row, because the stream's row stands for it.
    pub(super) is_implied: bool,
    /// Whether there may be tasks behind these that are not in memory.
    pub(super) has_more: bool,
    /// The id of the last task of the queue.
    pub(super) last_id: u64,
    /// The id of the last task that was in memory.
    pub(super) read_to: u64,
    pub(super) in_flight: Option<InFlight>,
    /// How often in a row the first task has failed.
    pub(super) failures: u64,
    /// The first task does not start before this time.
    pub(super) retry_at: Millis,
    /// Whether the called stream has to be created first.
    pub(super) receiver_is_missing: bool,
}

#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) id: EffectId,
    pub(super) since: Millis,
    /// For each of the first tasks of the queue, what remains of it after success, if anything.
    pub(super) leaves: Vec<Option<Garbage>>,
}

impl QueueState {
    /// Returns when the first task may start.
    pub(super) fn starts_at(&self) -> Millis {
        let due_at = self.tasks.front().map_or(AT_ONCE, |task| task.due_at);
        due_at.max(self.retry_at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && !self.has_more
    }

    /// Reads the tasks from this id on, up to the limit for tasks in memory.
    pub(super) fn read_from(
        &mut self,
        id: u64,
        queue: &Queue,
        storage: &dyn Storage,
        limits: &Limits,
    ) -> Result<(), StorageError> {
        assert!(self.tasks.is_empty(), "the tasks before these are done");
        let limit = limits.outbox_tasks_max;
        let tasks = storage.tasks(queue, id, limit)?;
        assert!(
            tasks.len() as u64 <= limit,
            "storage returned more tasks than requested"
        );
        let own = tasks
            .into_iter()
            .take_while(|task| task.what.queue() == *queue);
        self.tasks = own.collect();
        self.has_more = self.tasks.len() as u64 == limit;
        self.read_to = self.tasks.back().map_or(self.read_to, |task| task.id);
        Ok(())
    }

    pub(super) fn failed(&mut self, now: Millis, instance_seed: u64, limits: &Limits) {
        let failed = self.in_flight.take();
        assert!(failed.is_some(), "what fails was in flight");
        self.failures += 1;
        self.retry_at = now.plus(backoff(self.failures, instance_seed, limits));
    }

    /// Starts the first task, or several where one effect can do them.
    pub(super) fn start(&mut self, effect: EffectId, now: Millis, limits: &Limits) -> Effect {
        assert!(self.in_flight.is_none(), "a queue has one effect at a time");
        assert!(self.starts_at() <= now, "a task starts when it is due");
        let first = self.tasks.front().expect("a queue that starts has a task");
        let (started, leaves) = match &first.what {
            TaskKind::Collect(_) => self.collect(effect, now, limits),
            TaskKind::Index(change) => {
                let statements = change.statements();
                (Effect::Index { effect, statements }, vec![None])
            }
            TaskKind::Call {
                to,
                request,
                create,
            } => {
                let creates = create.as_ref().filter(|_| self.receiver_is_missing);
                let (request, leaves) = match creates {
                    Some(content_type) => (Request::creation(content_type), Vec::new()),
                    None => (request.clone(), vec![None]),
                };
                let to = to.clone();
                let call = Effect::Call {
                    effect,
                    to,
                    request,
                };
                (call, leaves)
            }
        };
        assert!(
            leaves.len() <= self.tasks.len(),
            "only tasks in memory are in flight"
        );
        self.in_flight = Some(InFlight {
            id: effect,
            since: now,
            leaves,
        });
        started
    }

    fn collect(
        &self,
        effect: EffectId,
        now: Millis,
        limits: &Limits,
    ) -> (Effect, Vec<Option<Garbage>>) {
        let mut keys = Vec::new();
        let mut leaves = Vec::new();
        let mut room = limits.collect_keys_max;
        for task in self.tasks.iter().take_while(|task| task.due_at <= now) {
            let TaskKind::Collect(garbage) = &task.what else {
                unreachable!("a queue has one kind of tasks");
            };
            let (first, rest) = garbage.split(room);
            room -= first.len() as u64;
            keys.extend(first);
            leaves.push(rest);
            if room == 0 {
                break;
            }
        }
        assert!(
            !keys.is_empty(),
            "the first task is due, and names an object"
        );
        (Effect::Collect { effect, keys }, leaves)
    }
}
