//! What remains to be done for others, whether the stream still exists or not: events for the
//! registry, rows of the admin index, objects of the cold tier that nothing refers to. Each is a
//! row from the turn that caused it until it is known to be done, so that it is done once at least,
//! whatever crashes; and each can be done twice without harm.

use std::collections::BTreeMap;

use super::seal::backoff;
use super::{Stream, StreamState};
use crate::message::{Change, Event};
use crate::router::name;
use crate::rows::{Garbage, Lane, StreamRow, Task, TaskKind, Unannounced, Write};
use crate::{Effect, EffectId, Limits, Millis, SendOutcome, Turn, segment};

/// Everything that remains to be done.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    /// Whether there is a table for them.
    has_table: bool,
    pending: BTreeMap<u64, Task>,
    last_id: u64,
    effects_begun: u64,
    /// By [`Lane`], in order.
    lanes: [QueueState; 3],
}

#[derive(Clone, Debug, Default)]
struct QueueState {
    effect: Option<InFlight>,
    /// How often in a row it has failed.
    failures: u64,
    /// Not to be tried again before.
    retry_at: Millis,
    /// Whether the registry has to be created first.
    registry_is_missing: bool,
}

#[derive(Clone, Debug)]
struct InFlight {
    id: EffectId,
    since: Millis,
    /// What is done when it has succeeded: chores that are over, or what remains of them.
    then: Vec<(u64, Option<Garbage>)>,
}

/// When a chore is due that follows those before it: the clock of the next instance may be behind
/// this one's, and would let what is added later go first.
const AT_ONCE: Millis = Millis(0);

/// What is told of a creation is in the head row, and has these ids; chores with rows of their own
/// have greater ones.
const OF_REGISTRY: u64 = 1;
const OF_INDEX: u64 = 2;

fn created_event(shard: u64, head: &StreamRow) -> Event {
    Event::created(
        shard,
        head.incarnation,
        &head.name,
        &head.content_type,
        head.created_at,
    )
}

fn created_change(head: &StreamRow) -> Change {
    Change::Created {
        path: head.name.clone(),
        version: head.version,
        incarnation: head.incarnation.to_string(),
        content_type: head.content_type.clone(),
        created_at: head.created_at,
    }
}

const fn slot(lane: Lane) -> usize {
    match lane {
        Lane::Registry => 0,
        Lane::Index => 1,
        Lane::Garbage => 2,
    }
}

impl Outbox {
    /// What a former instance has left to do. `tasks` is `None` where there is no table of them.
    pub(super) fn recall(head: Option<&StreamRow>, tasks: Option<Vec<Task>>) -> Self {
        let mut recalled = Self::default();
        if let Some(tasks) = tasks {
            recalled.has_table = true;
            recalled.last_id = tasks.last().map_or(0, |task| task.id);
            recalled.pending = tasks.into_iter().map(|task| (task.id, task)).collect();
        }
        if let Some(head) = head {
            recalled.note_unannounced(head);
        }
        recalled
    }

    /// What the head row says is to be told, before everything that has rows of its own.
    fn note_unannounced(&mut self, head: &StreamRow) {
        self.last_id = self.last_id.max(OF_INDEX);
        let mut note = |id: u64, what: TaskKind| {
            let due_at = AT_ONCE;
            self.pending.insert(id, Task { id, due_at, what });
        };
        if let Some(shard) = head.registered.filter(|_| head.unannounced.registry) {
            note(OF_REGISTRY, TaskKind::Registry(created_event(shard, head)));
        }
        if head.unannounced.index {
            note(OF_INDEX, TaskKind::Index(created_change(head)));
        }
    }

    /// The head row goes: what it says is to be told gets rows of its own.
    fn keep_unannounced(&mut self, head: &StreamRow, turn: &mut Turn) {
        let unannounced = [
            (head.unannounced.registry, OF_REGISTRY),
            (head.unannounced.index, OF_INDEX),
        ];
        for (_, id) in unannounced.into_iter().filter(|(is_untold, _)| *is_untold) {
            let Some(task) = self.pending.get(&id) else {
                continue;
            };
            if !self.has_table {
                self.has_table = true;
                turn.writes.push(Write::CreateOutbox);
            }
            turn.writes.push(Write::InsertTask(task.clone()));
        }
    }

    fn add(&mut self, due_at: Millis, what: TaskKind, turn: &mut Turn) {
        if !self.has_table {
            self.has_table = true;
            turn.writes.push(Write::CreateOutbox);
        }
        self.last_id += 1;
        let task = Task {
            id: self.last_id,
            due_at,
            what,
        };
        turn.writes.push(Write::InsertTask(task.clone()));
        self.pending.insert(task.id, task);
    }

    fn tell_index(&mut self, due_at: Millis, change: Change, limits: &Limits, turn: &mut Turn) {
        if limits.index {
            self.add(due_at, TaskKind::Index(change), turn);
        }
    }

    fn tell_registry(&mut self, event: Event, turn: &mut Turn) {
        self.add(AT_ONCE, TaskKind::Registry(event), turn);
    }

    /// A version above that of everything that the index may still be told of former streams of
    /// this name.
    pub(super) fn next_version(&self, now: Millis) -> u64 {
        let told = self.pending.values().filter_map(|task| match &task.what {
            TaskKind::Index(change) => Some(change.version()),
            TaskKind::Registry(_) | TaskKind::Garbage(_) => None,
        });
        told.map(|version| version + 1).fold(now.0, u64::max)
    }

    /// The registry's shard that is to be told of a stream of this name, if any.
    pub(super) fn registers(name: &str, limits: &Limits) -> Option<u64> {
        let registers = limits.registry && !name::is_registry(name);
        registers.then(|| name::registry_shard(name, limits))
    }

    /// A stream was created. What is to be told of that is in its head row, unless something of a
    /// former stream has to be told before it.
    pub(super) fn created(&mut self, head: &mut StreamRow, limits: &Limits, turn: &mut Turn) {
        if self.pending.is_empty() {
            head.unannounced = Unannounced {
                registry: head.registered.is_some(),
                index: limits.index,
            };
            return self.note_unannounced(head);
        }
        if let Some(shard) = head.registered {
            self.tell_registry(created_event(shard, head), turn);
        }
        self.tell_index(AT_ONCE, created_change(head), limits, turn);
    }

    pub(super) fn stored(
        &mut self,
        now: Millis,
        head: &StreamRow,
        sealed: &crate::rows::SealedSegment,
        object: (String, u64),
        limits: &Limits,
        turn: &mut Turn,
    ) {
        let (key, bytes) = object;
        let change = Change::Stored {
            path: head.name.clone(),
            version: head.version,
            incarnation: head.incarnation.to_string(),
            segment: sealed.number,
            units: sealed.units,
            key,
            bytes,
            messages: sealed.messages,
            stored_at: now,
        };
        self.tell_index(AT_ONCE, change, limits, turn);
    }

    /// The stream has ended. Its segments are to be collected, but not while they may still be read
    /// or put.
    pub(super) fn ended(
        &mut self,
        now: Millis,
        head: &StreamRow,
        retried: &[(u64, u64)],
        limits: &Limits,
        turn: &mut Turn,
    ) {
        self.keep_unannounced(head, turn);
        // The same shard as of the creation, however many there are by now.
        if let Some(shard) = head.registered {
            let ended = Event::ended(shard, head.incarnation, &head.name);
            self.tell_registry(ended, turn);
        }
        let (path, version) = (head.name.clone(), head.version + 1);
        let ended = Change::Ended {
            path,
            version,
            ended_at: now,
        };
        self.tell_index(AT_ONCE, ended, limits, turn);
        if let Some(last) = head.segment.checked_sub(1) {
            self.discard(now, head, 0..=last, 1..=1, limits, turn);
            for (segment, attempts) in retried {
                self.discard(now, head, *segment..=*segment, 2..=*attempts, limits, turn);
            }
        }
    }

    /// Objects that nothing refers to.
    pub(super) fn discard(
        &mut self,
        now: Millis,
        head: &StreamRow,
        segments: core::ops::RangeInclusive<u64>,
        attempts: core::ops::RangeInclusive<u64>,
        limits: &Limits,
        turn: &mut Turn,
    ) {
        let garbage = Garbage {
            prefix: segment::key_prefix(&head.name, head.incarnation),
            segments,
            attempts,
        };
        self.add(
            now.plus(limits.collect_grace_ms),
            TaskKind::Garbage(garbage),
            turn,
        );
    }

    /// Begins what is due and not under way. What has been under way for too long has failed.
    pub(super) fn work(
        &mut self,
        now: Millis,
        instance_seed: u64,
        limits: &Limits,
        turn: &mut Turn,
    ) {
        for lane in Lane::ALL {
            let queue = &self.lanes[slot(lane)];
            let lost = queue
                .effect
                .as_ref()
                .is_some_and(|effect| effect.since.plus(limits.reply_timeout_ms) <= now);
            if lost {
                self.failed(lane, now, instance_seed, limits);
            }
            let queue = &self.lanes[slot(lane)];
            if queue.effect.is_none() && queue.retry_at <= now {
                self.begin(lane, now, limits, turn);
            }
        }
    }

    fn begin(&mut self, lane: Lane, now: Millis, limits: &Limits, turn: &mut Turn) {
        let due = |task: &&Task| task.what.lane() == lane && task.due_at <= now;
        let mut due = self.pending.values().filter(due).peekable();
        let id = EffectId(self.effects_begun + 1);
        let mut then = Vec::new();
        let effect = match lane {
            Lane::Garbage => {
                let mut keys = Vec::new();
                let mut room = limits.collect_keys_max;
                while let Some(task) = due.next_if(|_| room > 0) {
                    if let TaskKind::Garbage(garbage) = &task.what {
                        let (first, rest) = garbage.split(room);
                        room -= first.len() as u64;
                        keys.extend(first);
                        then.push((task.id, rest));
                    }
                }
                (!keys.is_empty()).then_some(Effect::Collect { effect: id, keys })
            }
            Lane::Registry | Lane::Index => due.next().map(|task| {
                let message = match &task.what {
                    TaskKind::Registry(event) if self.lanes[slot(lane)].registry_is_missing => {
                        event.create_registry()
                    }
                    TaskKind::Registry(event) => {
                        then.push((task.id, None));
                        event.message()
                    }
                    TaskKind::Index(change) => {
                        then.push((task.id, None));
                        change.message()
                    }
                    TaskKind::Garbage(_) => unreachable!("garbage has a lane of its own"),
                };
                Effect::Send {
                    effect: id,
                    message,
                }
            }),
        };
        if let Some(effect) = effect {
            self.effects_begun += 1;
            self.lanes[slot(lane)].effect = Some(InFlight {
                id,
                since: now,
                then,
            });
            turn.after_commit.push(effect);
        }
    }

    fn failed(&mut self, lane: Lane, now: Millis, instance_seed: u64, limits: &Limits) {
        let queue = &mut self.lanes[slot(lane)];
        queue.effect = None;
        queue.failures += 1;
        queue.retry_at = now.plus(backoff(queue.failures, instance_seed, limits));
    }

    /// What of this flight is done with its success; `None` when nobody waits for it any more.
    fn succeeded(
        &mut self,
        now: Millis,
        effect: EffectId,
        state: Option<&mut StreamState>,
        limits: &Limits,
        turn: &mut Turn,
    ) -> Option<Lane> {
        let mut state = state;
        let lane = self.lane_of(effect)?;
        let queue = &mut self.lanes[slot(lane)];
        let in_flight = queue.effect.take();
        let then = in_flight.expect("the lane has an effect in flight").then;
        queue.failures = 0;
        for (id, rest) in then {
            match rest {
                None => {
                    let done = self.pending.remove(&id);
                    if !state.as_mut().is_some_and(|state| state.has_told(id)) {
                        turn.writes.push(Write::RemoveTask { id });
                    }
                    self.purge_after(now, done.as_ref(), limits, turn);
                }
                Some(rest) => {
                    if let Some(task) = self.pending.get_mut(&id) {
                        task.what = TaskKind::Garbage(rest);
                        turn.writes.push(Write::UpdateTask(task.clone()));
                    }
                }
            }
        }
        Some(lane)
    }

    /// Schedules the removal of the stream's tombstone from the index. By then every earlier change
    /// of the index has arrived or is lost.
    fn purge_after(&mut self, now: Millis, done: Option<&Task>, limits: &Limits, turn: &mut Turn) {
        if let Some(TaskKind::Index(change)) = done.map(|task| &task.what)
            && let Change::Ended { path, version, .. } = change
        {
            let (path, version) = (path.clone(), *version);
            let later = now.plus(limits.collect_grace_ms);
            self.tell_index(later, Change::Purged { path, version }, limits, turn);
        }
    }

    fn lane_of(&self, effect: EffectId) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| {
            self.lanes[slot(*lane)]
                .effect
                .as_ref()
                .is_some_and(|each| each.id == effect)
        })
    }

    /// Removes the table when it is not needed any more.
    pub(super) fn tidy(&mut self, turn: &mut Turn) {
        if self.has_table && self.pending.is_empty() {
            self.has_table = false;
            turn.writes.push(Write::DropOutbox);
        }
    }

    /// When there is something to do next.
    pub(super) fn wanted_at(&self, limits: &Limits) -> Option<Millis> {
        let lane_at = |lane: Lane| {
            let queue = &self.lanes[slot(lane)];
            if let Some(effect) = &queue.effect {
                return Some(effect.since.plus(limits.reply_timeout_ms));
            }
            let pending = self
                .pending
                .values()
                .filter(|task| task.what.lane() == lane);
            pending.map(|task| task.due_at.max(queue.retry_at)).min()
        };
        Lane::ALL.into_iter().filter_map(lane_at).min()
    }
}

impl StreamState {
    /// Notes in the head row that the creation has been told; false when it is not that row which
    /// says so.
    fn has_told(&mut self, task: u64) -> bool {
        let unannounced = &mut self.row.unannounced;
        let was_untold = match task {
            OF_REGISTRY => core::mem::take(&mut unannounced.registry),
            OF_INDEX => core::mem::take(&mut unannounced.index),
            _ => false,
        };
        if was_untold {
            self.save();
        }
        was_untold
    }
}

impl Stream {
    pub(super) fn collected(&mut self, now: Millis, effect: EffectId, done: bool, turn: &mut Turn) {
        if done {
            self.is_told = true;
            self.outbox
                .succeeded(now, effect, self.state.as_mut(), &self.limits, turn);
        } else if let Some(lane) = self.outbox.lane_of(effect) {
            self.outbox
                .failed(lane, now, self.instance_seed, &self.limits);
        }
    }

    pub(super) fn replied(
        &mut self,
        now: Millis,
        effect: EffectId,
        reply: SendOutcome,
        turn: &mut Turn,
    ) {
        let Some(lane) = self.outbox.lane_of(effect) else {
            return;
        };
        match reply {
            SendOutcome::Status(200..=299) => {
                self.is_told = true;
                self.outbox
                    .succeeded(now, effect, self.state.as_mut(), &self.limits, turn);
                self.outbox.lanes[slot(lane)].registry_is_missing = false;
            }
            SendOutcome::Status(404) if !self.outbox.lanes[slot(lane)].registry_is_missing => {
                let queue = &mut self.outbox.lanes[slot(lane)];
                queue.effect = None;
                queue.registry_is_missing = true;
            }
            SendOutcome::Status(_) | SendOutcome::Failed => {
                self.outbox
                    .failed(lane, now, self.instance_seed, &self.limits)
            }
        }
    }
}
