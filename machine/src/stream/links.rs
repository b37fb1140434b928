//! The subscriptions of a stream (protocol 6 and 7).
//!
//! Each subscription has a row with the place in the stream of which it was last notified. If that
//! is not the present tail, the stream notifies the subscription. So an append writes nothing for
//! its subscriptions, and an instance finds interrupted notifications in the rows. The rows belong
//! to the name of the stream, and outlive the stream.

use core::ops::Bound;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Step, Stream};
use crate::backoff::backoff;
use crate::control::{answered, control_request, each_row, json_answer, stored, to_json};
use crate::outbox::{AT_ONCE, Outbox};
use crate::rows::{ControlRow, HotTable, Incarnation, RowKey, Write};
use crate::storage::{Storage, StorageError};
use crate::wire::control::{
    Interested, LinkAnswer, LinkCall, Notify, NotifyAnswer, Presence, StreamPosition,
    subscription_object,
};
use crate::{CallId, CallOutcome, Effect, EffectId, Limits, Millis, Offset, Turn};

const LINK: &str = "link/";

/// All subscriptions of one name. The directory may name a former subscription of an id after the
/// present one has linked the stream, so each has a link of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<LinkKey, Link>,
    /// The links whose subscriptions do not hold and may not know how the stream is now, without
    /// those with a call in flight. A step looks at no others.
    active: BTreeSet<LinkKey>,
    /// The links whose subscriptions do not hold, and know how the stream was at the last step.
    /// They become active when it changes.
    idle: BTreeSet<LinkKey>,
    last_present: Option<Presence>,
    /// The link that was called last. The next call is that of a link behind it, so that each has
    /// its turn while the stream changes all the time.
    called_last: Option<LinkKey>,
    /// The oldest call is the first.
    in_flight: BTreeMap<EffectId, LinkKey>,
    /// The stream of the last step that has looked at all links.
    tidied: Option<Option<Incarnation>>,
}

/// The id of a subscription, and its incarnation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LinkKey {
    id: String,
    incarnation: Incarnation,
}

impl LinkKey {
    fn new(id: &str, incarnation: Incarnation) -> Self {
        let id = id.to_owned();
        Self { id, incarnation }
    }

    /// Returns the key of the row.
    fn row(&self) -> String {
        format!("{LINK}{}/{}", self.id, self.incarnation)
    }
}

#[derive(Clone, Debug)]
struct Link {
    row: LinkRow,
    in_flight: Option<InFlight>,
    failures: u64,
    retry_at: Millis,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    effect: EffectId,
    since: Millis,
    known: Option<StreamPosition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LinkRow {
    /// The name of the stream, which the object does not know without a stream.
    stream: String,
    /// The incarnation of the subscription.
    incarnation: Incarnation,
    /// The place that the subscription knows; `None` if it knows that the stream does not exist.
    #[serde(rename = "told")]
    known: Option<StreamPosition>,
    /// Whether the subscription gets no notification until it asks.
    is_held: bool,
    /// Whether the directory links the subscription again when a stream of this name is created.
    is_by_pattern: bool,
    /// Whether a notification of a creation or an end may have arrived although its answer was
    /// lost. Then the subscription may know of another stream than `known` says.
    is_unsure: bool,
    /// Whether the subscription has ended the link. That call may be late, and the subscription may
    /// have linked the stream again since then. So the stream notifies it once more, and removes
    /// the link if the answer says so.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    is_leaving: bool,
}

impl LinkRow {
    /// Returns whether the subscription knows of another stream, or of none.
    fn is_of_other(&self, present: Option<Presence>) -> bool {
        let known = self.known.map(|known| known.incarnation);
        known != present.map(|present| present.incarnation)
    }

    /// Returns whether the subscription does not know how the stream is now.
    fn is_behind(&self, present: Option<Presence>) -> bool {
        let known = self.known.and_then(|known| known.offset);
        let from = known.unwrap_or(Offset::START);
        let has_more = present.is_some_and(|present| from < present.tail);
        self.is_unsure || self.is_of_other(present) || has_more
    }
}

impl Link {
    const fn is_active(&self) -> bool {
        !self.row.is_held && self.in_flight.is_none()
    }

    const fn new(row: LinkRow) -> Self {
        Self {
            row,
            in_flight: None,
            failures: 0,
            retry_at: Millis(0),
        }
    }

    /// Returns whether the link means nothing, because there is no stream.
    const fn is_needless(&self, present: Option<Presence>) -> bool {
        let row = &self.row;
        let knows_none = row.known.is_none() && !row.is_unsure && self.in_flight.is_none();
        present.is_none() && row.is_by_pattern && knows_none
    }
}

impl From<Presence> for StreamPosition {
    fn from(present: Presence) -> Self {
        Self {
            incarnation: present.incarnation,
            offset: Some(present.tail),
        }
    }
}

impl Links {
    /// Reads the rows. `has_table` says whether there is a table of control rows.
    pub(super) fn recall(has_table: bool, storage: &dyn Storage) -> Result<Self, StorageError> {
        let mut links = Self::default();
        if has_table {
            each_row(storage, LINK, &mut |key, row| {
                let row: LinkRow = stored(row)?;
                let id = key.rsplit_once('/').map_or(key, |(id, _)| id);
                links.insert(LinkKey::new(id, row.incarnation), Link::new(row));
                Ok(())
            })?;
        }
        Ok(links)
    }

    fn insert(&mut self, key: LinkKey, link: Link) {
        if link.is_active() {
            self.active.insert(key.clone());
        }
        self.idle.remove(&key);
        self.links.insert(key, link);
        self.tidied = None;
    }

    /// Notes whether a link that has changed is active.
    fn note(&mut self, key: &LinkKey) {
        self.idle.remove(key);
        if self.links.get(key).is_some_and(Link::is_active) {
            self.active.insert(key.clone());
        } else {
            self.active.remove(key);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Notes that the subscription names the stream.
    fn name(&mut self, key: &LinkKey, turn: &mut Turn) {
        if let Some(link) = self.links.get_mut(key)
            && link.row.is_by_pattern
        {
            link.row.is_by_pattern = false;
            turn.writes.push(Write::PutControl(row(key, &link.row)));
        }
    }

    /// Notes that the subscription has ended the link.
    fn leave(&mut self, key: &LinkKey, turn: &mut Turn) {
        self.end_call(key);
        if let Some(link) = self.links.get_mut(key) {
            (link.failures, link.retry_at) = (0, AT_ONCE);
            (link.row.is_leaving, link.row.is_held, link.row.is_unsure) = (true, false, true);
            turn.writes.push(Write::PutControl(row(key, &link.row)));
        }
        self.note(key);
    }

    fn remove(&mut self, key: &LinkKey, turn: &mut Turn) {
        turn.writes.push(Write::RemoveControl { key: key.row() });
        self.end_call(key);
        self.links.remove(key);
        self.active.remove(key);
        self.idle.remove(key);
    }

    /// Takes the call of a link that is in flight, if there is one. Its end means nothing any more.
    fn end_call(&mut self, key: &LinkKey) -> Option<InFlight> {
        let call = self.links.get_mut(key)?.in_flight.take()?;
        self.in_flight.remove(&call.effect);
        Some(call)
    }

    /// Removes the links that are no longer needed. Marks the links as unsure whose subscriptions
    /// must learn of a creation or an end.
    pub(super) fn tidy(&mut self, present: Option<Presence>, turn: &mut Turn) {
        let incarnation = present.map(|present| present.incarnation);
        if present.is_some() && self.tidied == Some(incarnation) {
            return;
        }
        self.tidied = Some(incarnation);
        for (key, link) in &mut self.links {
            if link.row.is_of_other(present) && !link.row.is_unsure {
                link.row.is_unsure = true;
                turn.writes.push(Write::PutControl(row(key, &link.row)));
            }
        }
        let needless = self
            .links
            .iter()
            .filter(|(_, link)| link.is_needless(present));
        let needless: Vec<_> = needless.map(|(key, _)| key.clone()).collect();
        for key in needless {
            self.remove(&key, turn);
        }
    }

    /// Notifies the subscriptions of how the stream is now, at the end of a step.
    pub(super) fn notify(
        &mut self,
        now: Millis,
        present: Option<Presence>,
        instance_seed: u64,
        outbox: &mut Outbox,
        limits: &Limits,
        turn: &mut Turn,
    ) {
        while let Some((since, key)) = self.oldest_call()
            && since.plus(limits.reply_timeout_ms) <= now
        {
            let lost = key.clone();
            self.failed(&lost, now, instance_seed, limits);
        }
        if self.last_present != present {
            self.last_present = present;
            self.active.append(&mut self.idle);
        }
        let (mut called, mut up_to_date) = (Vec::new(), Vec::new());
        let last = self.called_last.clone();
        let after_last = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let after_last = self.active.range((after_last, Bound::Unbounded));
        let active = self.active.iter();
        let up_to_last = active.take_while(|key| Some(*key) <= last.as_ref());
        for key in after_last.chain(up_to_last) {
            if self.in_flight.len() as u64 >= limits.link_calls_max {
                break;
            }
            let link = self.links.get_mut(key);
            let link = link.expect("an active link is one of all links");
            assert!(
                link.is_active(),
                "a link that holds or is called is not active"
            );
            if !link.row.is_behind(present) {
                up_to_date.push(key.clone());
                continue;
            }
            if link.retry_at > now {
                continue;
            }
            called.push(key.clone());
            let effect = outbox.next_effect();
            link.in_flight = Some(InFlight {
                effect,
                since: now,
                known: present.map(StreamPosition::from),
            });
            self.in_flight.insert(effect, key.clone());
            self.called_last = Some(key.clone());
            let notify = Notify {
                stream: link.row.stream.clone(),
                subscription: link.row.incarnation,
                known: link.row.known,
                present,
            };
            turn.after_commit.push(Effect::Call {
                effect,
                to: subscription_object(&key.id),
                request: control_request(&notify),
            });
        }
        for key in called {
            self.active.remove(&key);
        }
        for key in up_to_date {
            self.active.remove(&key);
            self.idle.insert(key);
        }
    }

    /// Returns the time of the oldest call in flight, and its link.
    fn oldest_call(&self) -> Option<(Millis, &LinkKey)> {
        let (effect, key) = self.in_flight.first_key_value()?;
        let call = self.links.get(key).and_then(|link| link.in_flight);
        let call = call.expect("a call in flight is that of a link");
        assert_eq!(
            call.effect, *effect,
            "a link has at most one call in flight"
        );
        Some((call.since, key))
    }

    fn failed(&mut self, key: &LinkKey, now: Millis, instance_seed: u64, limits: &Limits) {
        self.end_call(key);
        if let Some(link) = self.links.get_mut(key) {
            link.failures += 1;
            link.retry_at = now.plus(backoff(link.failures, instance_seed, limits));
        }
        self.note(key);
    }

    /// Returns when the subscriptions need the next step: for a retry, or because the instance may
    /// end before a call does.
    pub(super) fn checks_at(&self, present: Option<Presence>, limits: &Limits) -> Option<Millis> {
        let has_room = (self.in_flight.len() as u64) < limits.link_calls_max;
        // Before that the call does not count as lost.
        let check_ms = limits.link_check_ms.max(limits.reply_timeout_ms);
        let of = |key: &LinkKey| self.links.get(key);
        let calls = self.oldest_call().map(|(since, _)| since.plus(check_ms));
        // Without room, the end of a call is the next step.
        let active = has_room.then(|| self.active.iter().filter_map(of));
        let waiting = active.into_iter().flatten();
        let waiting = waiting.filter(|link| link.row.is_behind(present));
        let waiting = waiting.map(|link| link.retry_at);
        // Without a stream, those that hold can be needless, too.
        let mut all = present.is_none().then(|| self.links.values()).into_iter();
        let has_needless = all.any(|mut links| links.any(|link| link.is_needless(present)));
        let needless = has_needless.then_some(AT_ONCE);
        calls.into_iter().chain(waiting).chain(needless).min()
    }

    /// Handles the end of a call. Returns false if the call was not one of a subscription.
    pub(super) fn call_finished(
        &mut self,
        now: Millis,
        (effect, outcome): (EffectId, &CallOutcome),
        present: Option<Presence>,
        instance_seed: u64,
        limits: &Limits,
        turn: &mut Turn,
    ) -> bool {
        let Some(key) = self.in_flight.get(&effect).cloned() else {
            return false;
        };
        let Some(NotifyAnswer { hold, unlink }) = answered(outcome) else {
            self.failed(&key, now, instance_seed, limits);
            return true;
        };
        let call = self.end_call(&key).expect("the call is in flight");
        // The subscription does not know of a stream that has begun since then.
        let is_new = call.known.is_none() && present.is_some();
        if unlink && !is_new {
            self.remove(&key, turn);
            return true;
        }
        let link = self.links.get_mut(&key);
        let link = link.expect("a call in flight is that of a link");
        let mut notified = LinkRow {
            known: call.known,
            is_held: hold,
            is_unsure: false,
            is_leaving: false,
            ..link.row.clone()
        };
        notified.is_unsure = notified.is_of_other(present);
        link.failures = 0;
        if notified != link.row {
            turn.writes.push(Write::PutControl(row(&key, &notified)));
            link.row = notified;
        }
        self.note(&key);
        true
    }
}

fn row(key: &LinkKey, row: &LinkRow) -> ControlRow {
    ControlRow {
        key: key.row(),
        body: to_json(row),
    }
}

impl Stream {
    /// Returns the stream as subscriptions see it. One that was deleted, and lives on for its
    /// forks, does not exist for them.
    pub(super) fn presence(&self) -> Option<Presence> {
        let state = self.state.as_ref()?;
        let is_deleted = state.row.lineage.deleted_at.is_some();
        (!is_deleted).then(|| Presence {
            incarnation: state.row.incarnation,
            tail: state.tail(),
        })
    }

    /// Answers a call of a subscription.
    pub(super) fn call_of_subscription(
        &mut self,
        id: CallId,
        call: LinkCall,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let present = self.presence();
        let answer = match call {
            LinkCall::Unlink {
                subscription,
                incarnation,
                if_absent,
            } => {
                let key = LinkKey::new(&subscription, incarnation);
                let is_kept = if_absent && present.is_some();
                if !is_kept {
                    self.links.leave(&key, &mut step.turn);
                }
                LinkAnswer::default()
            }
            LinkCall::Link {
                stream,
                subscription,
                incarnation,
                pattern_since,
                is_named,
            } => {
                let known = match pattern_since {
                    Some(since) => {
                        let state = self.state.as_ref();
                        let is_listed = state.is_some_and(|state| !state.row.unannounced.directory);
                        self.place_since(since, is_listed, rows)?
                    }
                    None => present.map(StreamPosition::from),
                };
                if !is_named && present.is_none() {
                    Self::answer_subscription(id, LinkAnswer::default(), step);
                    return Ok(());
                }
                let of = (subscription.as_str(), incarnation);
                let known = self.link(&stream, of, known, !is_named, step);
                if is_named {
                    let key = LinkKey::new(&subscription, incarnation);
                    self.links.name(&key, &mut step.turn);
                }
                LinkAnswer {
                    known: known.flatten(),
                    present,
                    refused: known.is_none(),
                }
            }
            LinkCall::Ask {
                subscription,
                incarnation,
            } => {
                let key = LinkKey::new(&subscription, incarnation);
                // The answer to a call that is under way would be older than this one.
                self.links.end_call(&key);
                let mut known = None;
                if let Some(link) = self.links.links.get_mut(&key) {
                    known = present.map(StreamPosition::from);
                    // If this answer is lost, the stream notifies the subscription again.
                    if link.row.is_held {
                        link.row.is_held = false;
                        let write = Write::PutControl(row(&key, &link.row));
                        step.turn.writes.push(write);
                    }
                }
                self.links.note(&key);
                LinkAnswer {
                    known,
                    present,
                    refused: false,
                }
            }
        };
        Self::answer_subscription(id, answer, step);
        Ok(())
    }

    fn answer_subscription(id: CallId, answer: LinkAnswer, step: &mut Step) {
        let answer = json_answer(200, &answer);
        let effect = Effect::Answer { call: id, answer };
        step.turn.after_commit.push(effect);
    }

    /// Links a subscription that is not linked yet. Returns what it knows now, or `None` if there
    /// are too many.
    fn link(
        &mut self,
        stream: &str,
        (subscription, incarnation): (&str, Incarnation),
        known: Option<StreamPosition>,
        is_by_pattern: bool,
        step: &mut Step,
    ) -> Option<Option<StreamPosition>> {
        let key = LinkKey::new(subscription, incarnation);
        let linked = self.links.links.get(&key);
        let is_leaving = linked.is_some_and(|link| link.row.is_leaving);
        if let Some(link) = linked.filter(|_| !is_leaving) {
            return Some(link.row.known);
        }
        let links = self.links.links.len() as u64;
        if !is_leaving && links >= self.limits.stream_links_max {
            return None;
        }
        self.links.end_call(&key);
        let link = Link::new(LinkRow {
            stream: stream.to_owned(),
            incarnation,
            known,
            is_held: false,
            is_by_pattern,
            // If the link has not been ended, the subscription does not know this place.
            is_unsure: is_leaving,
            is_leaving: false,
        });
        self.control_rows.put(row(&key, &link.row), &mut step.turn);
        self.links.insert(key, link);
        Some(known)
    }

    /// Links the subscriptions whose patterns match a stream that the directory has just learned
    /// of.
    pub(super) fn link_interested(
        &mut self,
        outcome: &CallOutcome,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        let name = state.row.name.clone();
        let interested: Interested =
            answered(outcome).expect("a task is done once its answer can be read");
        for interest in interested.subscriptions {
            let known = self.place_since(interest.since, false, rows)?;
            // A stream with as many subscriptions as it may have takes no more of them.
            let subscription = (interest.subscription.as_str(), interest.incarnation);
            self.link(&name, subscription, known, true, step);
        }
        Ok(())
    }

    /// Returns the place where a subscription begins that a pattern links. Content from before
    /// `since`, the time of its creation, is not new to it. `is_listed` says that the directory
    /// knew the stream first. The place is the tail then.
    fn place_since(
        &self,
        since: Millis,
        is_listed: bool,
        rows: &dyn Storage,
    ) -> Result<Option<StreamPosition>, StorageError> {
        let Some(present) = self.presence() else {
            return Ok(None);
        };
        let state = self.state.as_ref().expect("a stream that is present");
        let before_all = StreamPosition {
            incarnation: present.incarnation,
            offset: None,
        };
        if state.row.created_at >= since && !is_listed {
            return Ok(Some(before_all));
        }
        if is_listed {
            return Ok(Some(present.into()));
        }
        if !state.tail.has_table {
            return Ok(Some(present.into()));
        }
        // The rows of the open segment that came before the subscription.
        let table = HotTable::of(state.row.segment);
        let (mut old, mut new) = (0, state.tail.position);
        let is_new = |position| -> Result<bool, StorageError> {
            let row = rows.at_or_before(table, RowKey::last_at(position))?;
            Ok(row.is_some_and(|row| row.at >= since))
        };
        if new == 0 || !is_new(new - 1)? {
            return Ok(Some(present.into()));
        }
        if is_new(0)? {
            // What was sealed may be new, too.
            return Ok(Some(if state.row.segment == 0 {
                StreamPosition {
                    offset: Some(Offset::START),
                    ..before_all
                }
            } else {
                before_all
            }));
        }
        // The last old unit, and the first new one.
        new -= 1;
        while new - old > 1 {
            let middle = old + (new - old) / 2;
            if is_new(middle)? {
                new = middle;
            } else {
                old = middle;
            }
        }
        Ok(Some(StreamPosition {
            incarnation: present.incarnation,
            offset: Some(Offset::new(state.row.segment, new)),
        }))
    }
}
