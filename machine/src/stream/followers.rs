//! The sessions that follow a stream (`docs/sessions.md`).
//!
//! Each has a row from its subscription on. An append writes nothing for them. After it, the stream
//! notifies each session of its tail. The session fetches what it lacks, stores it, and then
//! answers. A stream calls its sessions in rounds, some at a time, so that a step's work does not
//! grow with their number. A stream with many sessions sends messages to the fan-out queue instead.
//! It calls a session itself only if the queue has failed to. One row has the last place that all
//! sessions know, or that the queue has messages about. So a later instance does not notify them
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::control_rows::ControlRows;
use super::{Step, Stream};
use crate::backoff::backoff;
use crate::control::{answered, each_row, json_answer, stored, to_json};
use crate::fanout::Notice;
use crate::outbox::Outbox;
use crate::rows::{ControlRow, Incarnation};
use crate::storage::{Storage, StorageError};
use crate::wire::control::{Presence, StreamPosition};
use crate::wire::session::{DeliverAnswer, FollowAnswer, SessionCall, session_request};
use crate::{CallId, CallOutcome, Effect, EffectId, Limits, Millis, Offset, Turn};

const FOLLOWER: &str = "follower/";

/// The key of the row with the last place that all sessions know, or that the queue has messages
/// about.
const DELIVERED: &str = "followers";

/// All sessions that follow one name, by the names of their streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Followers {
    followers: BTreeMap<String, Follower>,
    /// The place in the row [`DELIVERED`].
    delivered: Option<StreamPosition>,
    /// When this instance wrote that row.
    delivered_at: Millis,
    /// Whether a session has answered since then, or the queue has taken a batch. Otherwise there
    /// is nothing to be stored.
    has_answered: bool,
    /// What the last complete round has delivered to all sessions; `None` before the first one.
    notified: Option<Option<Presence>>,
    round: Option<Round>,
    /// The oldest call is the first.
    in_flight: BTreeMap<EffectId, InFlight>,
    /// What is on its way to the queue. The oldest batch is the first.
    batches: BTreeMap<EffectId, Batch>,
    /// When to call sessions again that have failed, or have taken only a part.
    retries: BTreeSet<(Millis, String)>,
    /// Whether the last step has begun as many calls as it may. Their ends begin more.
    stops_short: bool,
}

/// What a step knows of the stream and of its limits.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) now: Millis,
    pub(super) present: Option<Presence>,
    pub(super) instance_seed: u64,
    pub(super) limits: &'a Limits,
}

#[derive(Clone, Debug)]
struct Follower {
    row: FollowerRow,
    /// The session has everything before this offset, or the queue has a message that says so. It
    /// is an offset of the incarnation in the row.
    has: Offset,
    /// Whether the session has answered a call about this subscription, or the queue has a message
    /// about it.
    is_sure: bool,
    /// Whether the session has ended the subscription before `is_sure` was true.
    has_left: bool,
    /// The call or the batch that notifies it.
    in_flight: Option<EffectId>,
    retry_at: Option<Millis>,
    failures: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FollowerRow {
    /// The name of the stream, which the object does not know without a stream.
    stream: String,
    /// The incarnation of the subscription.
    subscription: Incarnation,
    /// Where it began.
    from: StreamPosition,
    /// The place in the row [`DELIVERED`] when the subscription began or the queue failed to
    /// deliver, if this session may lack content before that place. The row counts for it once the
    /// place changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delivered_before: Option<StreamPosition>,
    /// Whether it has replaced another subscription of its session. A late call may have brought
    /// back a former subscription. Only the session knows that, so the stream calls it at once.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    is_unsure: bool,
}

#[derive(Clone, Debug)]
struct Round {
    /// The round goes on behind this session.
    behind: Option<String>,
    present: Option<Presence>,
    /// Whether it has passed sessions that another round has to notify.
    is_partial: bool,
}

#[derive(Clone, Debug)]
struct InFlight {
    session: String,
    since: Millis,
}

#[derive(Clone, Debug)]
struct Batch {
    sessions: Vec<String>,
    present: Option<Presence>,
    since: Millis,
}

impl Follower {
    fn new(row: FollowerRow) -> Self {
        let from = row.from.offset.filter(|_| !row.is_unsure);
        Self {
            has: from.unwrap_or(Offset::START),
            is_sure: !row.is_unsure,
            has_left: false,
            row,
            in_flight: None,
            retry_at: None,
            failures: 0,
        }
    }

    /// Returns whether a round has to notify it.
    fn is_due(&self, present: Option<Presence>) -> bool {
        self.retry_at.is_none() && self.in_flight.is_none() && self.is_behind(present)
    }

    fn is_behind(&self, present: Option<Presence>) -> bool {
        match present {
            None => true,
            Some(present) => {
                present.incarnation != self.row.from.incarnation
                    || !self.is_sure
                    || self.has < present.tail
            }
        }
    }
}

impl Followers {
    /// Reads the rows. `has_table` says whether there is a table of control rows.
    pub(super) fn recall(has_table: bool, storage: &dyn Storage) -> Result<Self, StorageError> {
        let mut all = Self::default();
        if !has_table {
            return Ok(all);
        }
        each_row(storage, DELIVERED, &mut |_, row| {
            all.delivered = Some(stored(row)?);
            Ok(())
        })?;
        let delivered = all.delivered;
        each_row(storage, FOLLOWER, &mut |session, row| {
            let mut follower = Follower::new(stored(row)?);
            let row = &follower.row;
            let delivered = delivered
                .filter(|place| place.incarnation == row.from.incarnation)
                .filter(|place| row.delivered_before != Some(*place))
                .and_then(|place| place.offset);
            follower.has = follower.has.max(delivered.unwrap_or(Offset::START));
            all.followers.insert(session.to_owned(), follower);
            Ok(())
        })?;
        Ok(all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.followers.is_empty() && self.delivered.is_none()
    }

    /// Returns how many sessions follow the name.
    pub(super) fn count(&self) -> u64 {
        self.followers.len() as u64
    }

    fn key(session: &str) -> String {
        format!("{FOLLOWER}{session}")
    }

    fn remove(&mut self, session: &str, rows: ControlRows, turn: &mut Turn) {
        if let Some(follower) = self.followers.remove(session) {
            rows.remove(Self::key(session), turn);
            // The same subscription can come back before its answer.
            if let Some(effect) = follower.in_flight {
                self.in_flight.remove(&effect);
            }
            if let Some(at) = follower.retry_at {
                self.retries.remove(&(at, session.to_owned()));
            }
        }
    }

    /// Schedules the next call of a session.
    fn retry(&mut self, session: &str, at: Millis) {
        let follower = self.follower(session);
        assert!(
            follower.retry_at.is_none() && follower.in_flight.is_none(),
            "a session has at most one call in flight"
        );
        follower.retry_at = Some(at);
        self.retries.insert((at, session.to_owned()));
    }

    fn follower(&mut self, session: &str) -> &mut Follower {
        let follower = self.followers.get_mut(session);
        follower.expect("the stream notifies only sessions that follow it")
    }

    /// Returns the session that a call has notified. The call has ended.
    fn notified_by(&mut self, call: &InFlight) -> &mut Follower {
        let follower = self.followers.get_mut(&call.session);
        let follower = follower.expect("a call ends with its subscription");
        let ended = follower.in_flight.take();
        assert!(ended.is_some(), "a call that ends was in flight");
        follower
    }

    fn failed(&mut self, call: &InFlight, moment: Moment<'_>) {
        self.notified_by(call);
        self.retry_later(&call.session, moment);
    }

    /// Notifies a session again after a pause.
    fn retry_later(&mut self, session: &str, moment: Moment<'_>) {
        let follower = self.follower(session);
        follower.failures += 1;
        let pause = backoff(follower.failures, moment.instance_seed, moment.limits);
        self.retry(session, moment.now.plus(pause));
    }

    fn has_room(&self, limits: &Limits) -> bool {
        (self.in_flight.len() as u64) < limits.deliveries_max
    }

    fn uses_queue(&self, limits: &Limits) -> bool {
        limits.fanout_queue && self.count() > limits.fanout_queue_threshold
    }

    /// Returns whether a round may go on.
    fn has_room_for_round(&self, limits: &Limits) -> bool {
        if self.uses_queue(limits) {
            (self.batches.len() as u64) < limits.fanout_batches_max
        } else {
            self.has_room(limits)
        }
    }

    /// Lets the queue notify these sessions, as many of them as fit into a batch.
    /// Returns the last one.
    fn enqueue(
        &mut self,
        mut sessions: Vec<String>,
        moment: Moment<'_>,
        outbox: &mut Outbox,
        turn: &mut Turn,
    ) -> String {
        let Moment { now, present, .. } = moment;
        let effect = outbox.next_effect();
        let mut messages = Vec::new();
        let mut bytes = 0;
        for session in &sessions {
            let follower = self.follower(session);
            let notice = Notice {
                session: session.clone(),
                stream: follower.row.stream.clone(),
                subscription: follower.row.subscription,
                present,
            };
            let message = notice.to_text();
            bytes += message.len() as u64;
            if bytes > moment.limits.fanout_bytes_max && !messages.is_empty() {
                break;
            }
            follower.in_flight = Some(effect);
            messages.push(message);
        }
        sessions.truncate(messages.len());
        let last = sessions.last().expect("a batch has a message").clone();
        let batch = Batch {
            sessions,
            present,
            since: now,
        };
        self.batches.insert(effect, batch);
        turn.after_commit.push(Effect::Enqueue { effect, messages });
        last
    }

    /// Handles the end of a batch: `done` says whether the queue is known to have it. If it may not
    /// have it, the stream calls these sessions itself.
    fn batch_finished(&mut self, effect: EffectId, done: bool, moment: Moment<'_>) {
        let Some(batch) = self.batches.remove(&effect) else {
            return;
        };
        for session in &batch.sessions {
            let follower = self.followers.get_mut(session);
            let Some(follower) = follower.filter(|it| it.in_flight == Some(effect)) else {
                continue;
            };
            follower.in_flight = None;
            if !done {
                self.retry_later(session, moment);
                continue;
            }
            if follower.has_left {
                self.retry(session, moment.now);
                continue;
            }
            follower.is_sure = true;
            if let Some(present) = batch.present
                && present.incarnation == follower.row.from.incarnation
            {
                follower.has = follower.has.max(present.tail);
            }
        }
        self.has_answered |= done;
        if batch.present != moment.present {
            // A round since then has left these sessions out, and may still be under way.
            self.notified = None;
            if let Some(round) = &mut self.round {
                round.is_partial = true;
            }
        }
    }

    /// Notifies a session that is behind the stream. Returns whether it is.
    fn deliver(
        &mut self,
        session: &str,
        moment: Moment<'_>,
        outbox: &mut Outbox,
        turn: &mut Turn,
    ) -> bool {
        let Moment { now, present, .. } = moment;
        let follower = self.follower(session);
        if follower.in_flight.is_some() || !follower.is_behind(present) {
            return false;
        }
        let effect = outbox.next_effect();
        follower.in_flight = Some(effect);
        let call = SessionCall::Deliver {
            stream: follower.row.stream.clone(),
            subscription: follower.row.subscription,
            present,
        };
        self.in_flight.insert(
            effect,
            InFlight {
                session: session.to_owned(),
                since: now,
            },
        );
        turn.after_commit.push(Effect::Call {
            effect,
            to: session.to_owned(),
            request: session_request(&call),
        });
        true
    }

    /// Notifies the sessions of how the stream is now, at the end of a step.
    pub(super) fn notify(
        &mut self,
        moment: Moment<'_>,
        rows: &mut ControlRows,
        outbox: &mut Outbox,
        turn: &mut Turn,
    ) {
        let Moment {
            now,
            present,
            limits,
            ..
        } = moment;
        while let Some(oldest) = self.in_flight.first_entry()
            && oldest.get().since.plus(limits.reply_timeout_ms) <= now
        {
            let lost = oldest.remove();
            self.failed(&lost, moment);
        }
        while let Some((effect, oldest)) = self.batches.first_key_value()
            && oldest.since.plus(limits.reply_timeout_ms) <= now
        {
            self.batch_finished(*effect, false, moment);
        }
        if self.followers.is_empty() {
            (self.round, self.notified) = (None, None);
            if self.delivered.take().is_some() {
                rows.remove(DELIVERED.to_owned(), turn);
            }
            return;
        }
        let mut left = limits.deliveries_per_step_max;
        while left > 0
            && self.has_room(limits)
            && let Some((at, session)) = self.retries.first().cloned()
            && at <= now
        {
            self.retries.pop_first();
            self.follower(&session).retry_at = None;
            left -= u64::from(self.deliver(&session, moment, outbox, turn));
        }
        while left > 0 && self.has_room_for_round(limits) {
            let round = match self.round.take() {
                Some(round) => round,
                None if self.notified == Some(present) => break,
                None => Round {
                    behind: None,
                    present,
                    is_partial: false,
                },
            };
            let from = match &round.behind {
                None => Bound::Unbounded,
                Some(session) => Bound::Excluded(session.clone()),
            };
            let due = self.followers.range((from, Bound::Unbounded));
            let mut due = due.filter(|(_, follower)| follower.is_due(present));
            let Some((session, _)) = due.next() else {
                self.notified = (!round.is_partial).then_some(round.present);
                continue;
            };
            let session = session.clone();
            let behind = Some(if self.uses_queue(limits) {
                let others = (1..limits.fanout_messages_max).zip(due);
                let others = others.map(|(_, (session, _))| session.clone());
                let sessions = [session].into_iter().chain(others).collect();
                self.enqueue(sessions, moment, outbox, turn)
            } else {
                let is_behind = self.deliver(&session, moment, outbox, turn);
                assert!(is_behind, "the session is behind");
                session
            });
            left -= 1;
            self.round = Some(Round { behind, ..round });
        }
        self.stops_short = left == 0;
        self.note_delivered(moment, rows, turn);
    }

    /// Stores how far all sessions are. Not after each append, because it costs a row.
    fn note_delivered(&mut self, moment: Moment<'_>, rows: &mut ControlRows, turn: &mut Turn) {
        let Moment {
            now,
            present,
            limits,
            ..
        } = moment;
        let is_under_way = !self.in_flight.is_empty() || !self.batches.is_empty();
        let is_done = !is_under_way && self.retries.is_empty() && self.round.is_none();
        let Some(present) = present.filter(|_| is_done && self.notified == Some(present)) else {
            return;
        };
        let delivered = Some(StreamPosition::from(present));
        let is_new = self
            .delivered
            .is_none_or(|before| before.incarnation != present.incarnation);
        let is_due = is_new || self.delivered_at.plus(limits.link_check_ms) <= now;
        if self.has_answered && delivered != self.delivered && is_due {
            self.delivered = delivered;
            self.delivered_at = now;
            self.has_answered = false;
            let key = DELIVERED.to_owned();
            let body = to_json(&delivered);
            rows.put(ControlRow { key, body }, turn);
        }
    }

    /// Returns when the sessions need the next step: for a retry, or because the instance may end
    /// before a call does.
    pub(super) fn checks_at(&self, limits: &Limits) -> Option<Millis> {
        let check_ms = limits.link_check_ms.max(limits.reply_timeout_ms);
        let call = self.in_flight.values().next().map(|call| call.since);
        let batch = self.batches.values().next().map(|batch| batch.since);
        let oldest = call.into_iter().chain(batch).min();
        let oldest = oldest.map(|since| since.plus(check_ms));
        let may_retry = self.has_room(limits) && !self.stops_short;
        let retry = self.retries.first().filter(|_| may_retry);
        oldest.into_iter().chain(retry.map(|(at, _)| *at)).min()
    }

    /// Handles the end of a call. Returns false if the call was not one of a session.
    pub(super) fn call_finished(
        &mut self,
        moment: Moment<'_>,
        (effect, outcome): (EffectId, &CallOutcome),
        rows: ControlRows,
        turn: &mut Turn,
    ) -> bool {
        let Some(call) = self.in_flight.remove(&effect) else {
            return false;
        };
        match answered(outcome) {
            None => self.failed(&call, moment),
            Some(DeliverAnswer::Ended) => self.remove(&call.session, rows, turn),
            Some(DeliverAnswer::Has(offset)) => {
                let follower = self.notified_by(&call);
                follower.failures = 0;
                follower.is_sure = true;
                follower.has = follower.has.max(offset);
                let is_behind = follower.is_behind(moment.present);
                self.has_answered = true;
                if is_behind {
                    self.retry(&call.session, moment.now);
                }
            }
        }
        true
    }
}

impl Stream {
    /// Lets a session follow the stream. A session that follows it already stays where it is.
    pub(super) fn follow(
        &mut self,
        (session, subscription): (String, Incarnation),
        stream: String,
        (incarnation, from): (Option<Incarnation>, Option<Offset>),
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<FollowAnswer, StorageError> {
        let known = self.followers.followers.get(&session);
        if let Some(known) = known.filter(|known| known.row.subscription == subscription) {
            return Ok(FollowAnswer::Follows(known.row.from));
        }
        let is_asked = |present: &Presence| incarnation.is_none_or(|it| it == present.incarnation);
        let Some(present) = self.presence().filter(is_asked) else {
            return Ok(FollowAnswer::NotFound);
        };
        let is_new = known.is_none();
        if is_new && self.followers.count() >= self.limits.stream_sessions_max {
            return Ok(FollowAnswer::TooMany);
        }
        let state = self.state.as_ref().expect("a stream that is present");
        let offset = match from {
            None => present.tail,
            Some(from) => match state.append_boundary(from, rows, &self.limits)? {
                Some(offset) => offset,
                None => return Ok(FollowAnswer::NoSuchOffset),
            },
        };
        let from = StreamPosition {
            incarnation: present.incarnation,
            offset: Some(offset),
        };
        let is_unsure = !is_new;
        let delivered = self.followers.delivered;
        let row = FollowerRow {
            stream,
            subscription,
            from,
            delivered_before: delivered.filter(|it| is_unsure || it.offset > from.offset),
            is_unsure,
        };
        let rows = self.control_rows;
        self.followers.remove(&session, rows, &mut step.turn);
        let key = Followers::key(&session);
        let body = to_json(&row);
        self.control_rows
            .put(ControlRow { key, body }, &mut step.turn);
        let follower = Follower::new(row);
        let is_behind = follower.is_behind(Some(present));
        self.followers.followers.insert(session.clone(), follower);
        if is_behind {
            self.followers.retry(&session, Millis(0));
        }
        Ok(FollowAnswer::Follows(from))
    }

    /// Ends a session's interest in the stream. If a late call may have brought this subscription
    /// back in place of another one, it stays until the session has heard of it.
    pub(super) fn unfollow(&mut self, session: &str, subscription: Incarnation, step: &mut Step) {
        let follower = self.followers.followers.get_mut(session);
        let Some(follower) = follower.filter(|it| it.row.subscription == subscription) else {
            return;
        };
        if follower.is_sure {
            let rows = self.control_rows;
            self.followers.remove(session, rows, &mut step.turn);
        } else {
            follower.has_left = true;
        }
    }

    /// Calls a session to which the fan-out queue could not deliver. The row [`DELIVERED`] does not
    /// count for this session any more, because it includes what the queue should have delivered.
    pub(super) fn undelivered(
        &mut self,
        now: Millis,
        session: &str,
        subscription: Incarnation,
        step: &mut Step,
    ) {
        let moment = Moment {
            now,
            present: self.presence(),
            instance_seed: self.instance_seed,
            limits: &self.limits,
        };
        let followers = &mut self.followers;
        let follower = followers.followers.get_mut(session);
        let Some(follower) = follower.filter(|it| it.row.subscription == subscription) else {
            return;
        };
        let is_called = follower.retry_at.is_some()
            || follower
                .in_flight
                .is_some_and(|effect| !followers.batches.contains_key(&effect));
        if is_called {
            return;
        }
        let delivered = followers.delivered;
        if follower.row.delivered_before != delivered {
            follower.row.delivered_before = delivered;
            let key = Followers::key(session);
            let body = to_json(&follower.row);
            self.control_rows
                .put(ControlRow { key, body }, &mut step.turn);
        }
        let failures = follower.failures;
        *follower = Follower::new(follower.row.clone());
        follower.failures = failures;
        followers.retry_later(session, moment);
    }

    /// Handles the end of an [`Effect::Enqueue`].
    pub(super) fn enqueue_finished(&mut self, now: Millis, effect: EffectId, done: bool) {
        let moment = Moment {
            now,
            present: self.presence(),
            instance_seed: self.instance_seed,
            limits: &self.limits,
        };
        self.followers.batch_finished(effect, done, moment);
    }

    /// Answers a call of a session.
    pub(super) fn answer_session(id: CallId, answer: &impl Serialize, step: &mut Step) {
        let answer = json_answer(200, answer);
        let effect = Effect::Answer { call: id, answer };
        step.turn.after_commit.push(effect);
    }
}
