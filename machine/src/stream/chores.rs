//! What remains to be done for others, whether the stream still exists or not: events for the registry, rows of the admin
//! index, objects of the cold tier that nothing refers to. Each is a row from the turn that caused it until it is known to be
//! done, so that it is done once at least, whatever crashes; and each can be done twice without harm.

use std::collections::BTreeMap;

use super::seal::backoff;
use super::{Life, Stream};
use crate::edge::name;
use crate::message::{Change, Event};
use crate::rows::{Chore, ChoreKind, Garbage, Head, Lane, Rows, Unreadable, Untold, Write};
use crate::{Flight, Gated, Limits, Millis, Reply, Turn, segment};

/// Everything that remains to be done.
#[derive(Clone, Debug, Default)]
pub(super) struct Chores {
    /// Whether there is a table for them.
    has_table: bool,
    pending: BTreeMap<u64, Chore>,
    last_id: u64,
    flights: u64,
    /// By [`Lane`], in order.
    lanes: [State; 3],
}

#[derive(Clone, Debug, Default)]
struct State {
    flight: Option<InFlight>,
    /// How often in a row it has failed.
    failures: u64,
    /// Not to be tried again before.
    retry_at: Millis,
    /// Whether the registry has to be created first.
    registry_is_missing: bool,
}

#[derive(Clone, Debug)]
struct InFlight {
    id: Flight,
    since: Millis,
    /// What is done when it has succeeded: chores that are over, or what remains of them.
    then: Vec<(u64, Option<Garbage>)>,
}

/// When a chore is due that follows those before it: the clock of the next instance may be behind this one's, and would let what
/// is added later go first.
const AT_ONCE: Millis = Millis(0);

/// What is told of a creation is in the head row, and has these ids; chores with rows of their own have greater ones.
const OF_REGISTRY: u64 = 1;
const OF_INDEX: u64 = 2;

fn created_event(shard: u64, head: &Head) -> Event {
    Event::created(
        shard,
        head.incarnation,
        &head.name,
        &head.content_type,
        head.created_at,
    )
}

fn created_change(head: &Head) -> Change {
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

impl Chores {
    /// What a former instance has left to do.
    pub(super) fn recall(head: Option<&Head>, rows: &impl Rows) -> Result<Self, Unreadable> {
        let mut recalled = Self::default();
        if let Some(chores) = rows.chores()? {
            recalled.has_table = true;
            recalled.last_id = chores.last().map_or(0, |chore| chore.id);
            recalled.pending = chores.into_iter().map(|chore| (chore.id, chore)).collect();
        }
        if let Some(head) = head {
            recalled.note_untold(head);
        }
        Ok(recalled)
    }

    /// What the head row says is to be told, before everything that has rows of its own.
    fn note_untold(&mut self, head: &Head) {
        self.last_id = self.last_id.max(OF_INDEX);
        let mut note = |id: u64, what: ChoreKind| {
            let due_at = AT_ONCE;
            self.pending.insert(id, Chore { id, due_at, what });
        };
        // Nothing in them can fail to become JSON.
        if let Some(shard) = head.registered.filter(|_| head.untold.registry) {
            let event = serde_json::to_string(&created_event(shard, head)).unwrap_or_default();
            note(OF_REGISTRY, ChoreKind::Registry(event));
        }
        if head.untold.index {
            let change = serde_json::to_string(&created_change(head)).unwrap_or_default();
            note(OF_INDEX, ChoreKind::Index(change));
        }
    }

    /// The head row goes: what it says is to be told gets rows of its own.
    fn keep_untold(&mut self, head: &Head, turn: &mut Turn) {
        let untold = [(head.untold.registry, OF_REGISTRY), (head.untold.index, OF_INDEX)];
        for (_, id) in untold.into_iter().filter(|(is_untold, _)| *is_untold) {
            let Some(chore) = self.pending.get(&id) else {
                continue;
            };
            if !self.has_table {
                self.has_table = true;
                turn.writes.push(Write::CreateChores);
            }
            turn.writes.push(Write::InsertChore(chore.clone()));
        }
    }

    fn add(&mut self, due_at: Millis, what: ChoreKind, turn: &mut Turn) {
        if !self.has_table {
            self.has_table = true;
            turn.writes.push(Write::CreateChores);
        }
        self.last_id += 1;
        let chore = Chore {
            id: self.last_id,
            due_at,
            what,
        };
        turn.writes.push(Write::InsertChore(chore.clone()));
        self.pending.insert(chore.id, chore);
    }

    fn tell_index(&mut self, due_at: Millis, change: &Change, limits: &Limits, turn: &mut Turn) {
        if limits.index {
            // Nothing in it can fail to become JSON.
            let change = serde_json::to_string(change).unwrap_or_default();
            self.add(due_at, ChoreKind::Index(change), turn);
        }
    }

    fn tell_registry(&mut self, event: &Event, turn: &mut Turn) {
        let event = serde_json::to_string(event).unwrap_or_default();
        self.add(AT_ONCE, ChoreKind::Registry(event), turn);
    }

    /// A version above that of everything that the index may still be told of former streams of this name.
    pub(super) fn next_version(&self, now: Millis) -> u64 {
        let told = self.pending.values().filter_map(|chore| match &chore.what {
            ChoreKind::Index(change) => serde_json::from_str::<Change>(change).ok(),
            ChoreKind::Registry(_) | ChoreKind::Garbage(_) => None,
        });
        told.map(|change| change.version() + 1).fold(now.0, u64::max)
    }

    /// The registry's shard that is to be told of a stream of this name, if any.
    pub(super) fn registers(name: &str, limits: &Limits) -> Option<u64> {
        let registers = limits.registry && !name::is_registry(name);
        registers.then(|| name::registry_shard(name, limits))
    }

    /// A stream was created. What is to be told of that is in its head row, unless something of a former stream has to be told
    /// before it.
    pub(super) fn created(&mut self, head: &mut Head, limits: &Limits, turn: &mut Turn) {
        if self.pending.is_empty() {
            head.untold = Untold {
                registry: head.registered.is_some(),
                index: limits.index,
            };
            return self.note_untold(head);
        }
        if let Some(shard) = head.registered {
            self.tell_registry(&created_event(shard, head), turn);
        }
        self.tell_index(AT_ONCE, &created_change(head), limits, turn);
    }

    pub(super) fn stored(
        &mut self,
        now: Millis,
        head: &Head,
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
        self.tell_index(AT_ONCE, &change, limits, turn);
    }

    /// The stream has ended. Its segments are to be collected, but not while they may still be read or put.
    pub(super) fn ended(
        &mut self,
        now: Millis,
        head: &Head,
        retried: &[(u64, u64)],
        limits: &Limits,
        turn: &mut Turn,
    ) {
        self.keep_untold(head, turn);
        // The same shard as of the creation, however many there are by now.
        if let Some(shard) = head.registered {
            let ended = Event::ended(shard, head.incarnation, &head.name);
            self.tell_registry(&ended, turn);
        }
        let (path, version) = (head.name.clone(), head.version + 1);
        let ended = Change::Ended {
            path,
            version,
            ended_at: now,
        };
        self.tell_index(AT_ONCE, &ended, limits, turn);
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
        head: &Head,
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
            ChoreKind::Garbage(garbage),
            turn,
        );
    }

    /// Begins what is due and not under way. What has been under way for too long has failed.
    pub(super) fn work(&mut self, now: Millis, nonce: u64, limits: &Limits, turn: &mut Turn) {
        for lane in Lane::ALL {
            let state = &self.lanes[slot(lane)];
            let lost = state
                .flight
                .as_ref()
                .is_some_and(|flight| flight.since.plus(limits.reply_timeout_ms) <= now);
            if lost {
                self.failed(lane, now, nonce, limits);
            }
            let state = &self.lanes[slot(lane)];
            if state.flight.is_none() && state.retry_at <= now {
                self.begin(lane, now, limits, turn);
            }
        }
    }

    fn begin(&mut self, lane: Lane, now: Millis, limits: &Limits, turn: &mut Turn) {
        let due = |chore: &&Chore| chore.what.lane() == lane && chore.due_at <= now;
        let mut due = self.pending.values().filter(due).peekable();
        let id = Flight(self.flights + 1);
        let mut then = Vec::new();
        let gated = match lane {
            Lane::Garbage => {
                let mut keys = Vec::new();
                let mut room = limits.collect_keys_max.max(1);
                while let Some(chore) = due.next_if(|_| room > 0) {
                    if let ChoreKind::Garbage(garbage) = &chore.what {
                        let (first, rest) = garbage.split(room);
                        room -= first.len() as u64;
                        keys.extend(first);
                        then.push((chore.id, rest));
                    }
                }
                (!keys.is_empty()).then_some(Gated::Collect { flight: id, keys })
            }
            Lane::Registry | Lane::Index => due.next().and_then(|chore| {
                let message = match &chore.what {
                    ChoreKind::Registry(event) => {
                        let event = serde_json::from_str::<Event>(event).ok();
                        if self.lanes[slot(lane)].registry_is_missing {
                            event.map(|event| event.create_registry())
                        } else {
                            then.push((chore.id, None));
                            event.map(|event| event.message())
                        }
                    }
                    ChoreKind::Index(change) => {
                        then.push((chore.id, None));
                        serde_json::from_str::<Change>(change)
                            .ok()
                            .map(|change| change.message())
                    }
                    ChoreKind::Garbage(_) => None,
                };
                message.map(|message| Gated::Send { flight: id, message })
            }),
        };
        if let Some(gated) = gated {
            self.flights += 1;
            self.lanes[slot(lane)].flight = Some(InFlight { id, since: now, then });
            turn.gated.push(gated);
        }
    }

    fn failed(&mut self, lane: Lane, now: Millis, nonce: u64, limits: &Limits) {
        let state = &mut self.lanes[slot(lane)];
        state.flight = None;
        state.failures += 1;
        state.retry_at = now.plus(backoff(state.failures, nonce, limits));
    }

    /// What of this flight is done with its success; `None` when nobody waits for it any more.
    fn landed(
        &mut self,
        now: Millis,
        flight: Flight,
        life: Option<&mut Life>,
        limits: &Limits,
        turn: &mut Turn,
    ) -> Option<Lane> {
        let mut life = life;
        let lane = self.lane_of(flight)?;
        let state = &mut self.lanes[slot(lane)];
        let then = state.flight.take().map(|flight| flight.then).unwrap_or_default();
        state.failures = 0;
        for (id, rest) in then {
            match rest {
                None => {
                    let done = self.pending.remove(&id);
                    if !life.as_mut().is_some_and(|life| life.has_told(id)) {
                        turn.writes.push(Write::RemoveChore { id });
                    }
                    self.purge_after(now, done.as_ref(), limits, turn);
                }
                Some(rest) => {
                    if let Some(chore) = self.pending.get_mut(&id) {
                        chore.what = ChoreKind::Garbage(rest);
                        turn.writes.push(Write::UpdateChore(chore.clone()));
                    }
                }
            }
        }
        Some(lane)
    }

    /// Has the mark of a stream's end removed from the index when no copy of what the index was told of the stream, the last of
    /// which has left by now, can be on its way any more.
    fn purge_after(&mut self, now: Millis, done: Option<&Chore>, limits: &Limits, turn: &mut Turn) {
        if let Some(ChoreKind::Index(change)) = done.map(|chore| &chore.what)
            && let Ok(Change::Ended { path, version, .. }) = serde_json::from_str(change)
        {
            let later = now.plus(limits.collect_grace_ms);
            self.tell_index(later, &Change::Purged { path, version }, limits, turn);
        }
    }

    fn lane_of(&self, flight: Flight) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| {
            self.lanes[slot(*lane)]
                .flight
                .as_ref()
                .is_some_and(|each| each.id == flight)
        })
    }

    /// Removes the table when it is not needed any more.
    pub(super) fn tidy(&mut self, turn: &mut Turn) {
        if self.has_table && self.pending.is_empty() {
            self.has_table = false;
            turn.writes.push(Write::DropChores);
        }
    }

    /// When there is something to do next.
    pub(super) fn wanted_at(&self, limits: &Limits) -> Option<Millis> {
        let lane_at = |lane: Lane| {
            let state = &self.lanes[slot(lane)];
            if let Some(flight) = &state.flight {
                return Some(flight.since.plus(limits.reply_timeout_ms));
            }
            let pending = self.pending.values().filter(|chore| chore.what.lane() == lane);
            pending.map(|chore| chore.due_at.max(state.retry_at)).min()
        };
        Lane::ALL.into_iter().filter_map(lane_at).min()
    }
}

impl Life {
    /// Notes in the head row that the creation has been told; false when it is not that row which says so.
    fn has_told(&mut self, chore: u64) -> bool {
        let untold = &mut self.head.untold;
        let was_untold = match chore {
            OF_REGISTRY => core::mem::take(&mut untold.registry),
            OF_INDEX => core::mem::take(&mut untold.index),
            _ => false,
        };
        if was_untold {
            self.save();
        }
        was_untold
    }
}

impl Stream {
    pub(super) fn collected(&mut self, now: Millis, flight: Flight, done: bool, turn: &mut Turn) {
        if done {
            self.is_told = true;
            self.chores
                .landed(now, flight, self.life.as_mut(), &self.limits, turn);
        } else if let Some(lane) = self.chores.lane_of(flight) {
            self.chores.failed(lane, now, self.nonce, &self.limits);
        }
    }

    pub(super) fn replied(&mut self, now: Millis, flight: Flight, reply: Reply, turn: &mut Turn) {
        let Some(lane) = self.chores.lane_of(flight) else {
            return;
        };
        match reply {
            Reply::Status(200..=299) => {
                self.is_told = true;
                self.chores
                    .landed(now, flight, self.life.as_mut(), &self.limits, turn);
                self.chores.lanes[slot(lane)].registry_is_missing = false;
            }
            Reply::Status(404) if !self.chores.lanes[slot(lane)].registry_is_missing => {
                let state = &mut self.chores.lanes[slot(lane)];
                state.flight = None;
                state.registry_is_missing = true;
            }
            Reply::Status(_) | Reply::Failed => self.chores.failed(lane, now, self.nonce, &self.limits),
        }
    }
}
