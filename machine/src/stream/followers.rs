//! The sessions that follow a stream (`docs/sessions.md`).
//!
//! Each has a row from its subscription on. An append writes nothing for them. After it, the stream
//! tells each session its tail. The session fetches what it lacks, stores it, and then answers. A
//! stream calls its sessions in rounds, some at a time, so that a step's work does not grow with
//! their number. One row says how far all of them are, so that a later instance does not call them
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::control_rows::ControlRows;
use super::{Step, Stream, StreamState};
use crate::backoff::backoff;
use crate::control::{answered, each_row, json_answer, stored, to_json};
use crate::outbox::Outbox;
use crate::plan::{PlanHead, Shape};
use crate::rows::{ControlRow, Incarnation};
use crate::storage::{Storage, StorageError};
use crate::wire::Format;
use crate::wire::answer::Body;
use crate::wire::control::{Place, Presence};
use crate::wire::session::{
    DeliverAnswer, FollowAnswer, PageAppend, PageHead, SessionCall, session_request,
};
use crate::{Answer, CallId, CallOutcome, Effect, EffectId, Limits, Millis, Offset, Refusal, Turn};

const FOLLOWER: &str = "follower/";

/// The key of the row that says how far all sessions are.
const DELIVERED: &str = "followers";

/// All sessions that follow one name, by the names of their streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Followers {
    followers: BTreeMap<String, Follower>,
    /// What the row says that all sessions have, and when this instance wrote it.
    delivered: Option<Place>,
    delivered_at: Millis,
    /// Whether a session has answered since then. Otherwise there is nothing to be said.
    has_answered: bool,
    /// What the last round that has told each session has told them; `None` before the first one.
    told: Option<Option<Presence>>,
    round: Option<Round>,
    /// The oldest call is the first.
    in_flight: BTreeMap<EffectId, InFlight>,
    /// When to call sessions again that have failed, or have taken only a part.
    retries: BTreeSet<(Millis, String)>,
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
    /// What it has, of the incarnation in the row.
    has: Offset,
    /// The call that tells it.
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
    from: Place,
    /// What [`DELIVERED`] said then, if that was more. It counts for this session once it says
    /// something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delivered_before: Option<Place>,
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
}

#[derive(Clone, Debug)]
struct InFlight {
    session: String,
    since: Millis,
}

impl Follower {
    fn new(row: FollowerRow) -> Self {
        let from = row.from.offset.filter(|_| !row.is_unsure);
        Self {
            has: from.unwrap_or(Offset::START),
            row,
            in_flight: None,
            retry_at: None,
            failures: 0,
        }
    }

    fn is_behind(&self, present: Option<Presence>) -> bool {
        match present {
            None => true,
            Some(present) => {
                present.incarnation != self.row.from.incarnation || self.has < present.tail
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

    /// Tells a session again at this time.
    fn retry(&mut self, session: &str, at: Millis) {
        if let Some(follower) = self.followers.get_mut(session) {
            assert!(
                follower.retry_at.is_none() && follower.in_flight.is_none(),
                "a session has at most one call in flight"
            );
            follower.retry_at = Some(at);
            self.retries.insert((at, session.to_owned()));
        }
    }

    /// Returns the session that a call has told. The call has ended.
    fn told_by(&mut self, call: &InFlight) -> &mut Follower {
        let follower = self.followers.get_mut(&call.session);
        let follower = follower.expect("a call ends with its subscription");
        let told = follower.in_flight.take();
        assert!(told.is_some(), "a call that ends was in flight");
        follower
    }

    fn failed(&mut self, call: &InFlight, moment: Moment<'_>) {
        let follower = self.told_by(call);
        follower.failures += 1;
        let pause = backoff(follower.failures, moment.instance_seed, moment.limits);
        self.retry(&call.session, moment.now.plus(pause));
    }

    fn has_room(&self, limits: &Limits) -> bool {
        (self.in_flight.len() as u64) < limits.deliveries_max
    }

    /// Tells a session how the stream is.
    fn deliver(&mut self, session: &str, moment: Moment<'_>, outbox: &mut Outbox, turn: &mut Turn) {
        let Moment { now, present, .. } = moment;
        let Some(follower) = self.followers.get_mut(session) else {
            return;
        };
        if follower.in_flight.is_some() || !follower.is_behind(present) {
            return;
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
    }

    /// Tells the sessions how the stream is now, at the end of a step.
    pub(super) fn tell(
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
        if self.followers.is_empty() {
            (self.round, self.told) = (None, None);
            if self.delivered.take().is_some() {
                rows.remove(DELIVERED.to_owned(), turn);
            }
            return;
        }
        while self.has_room(limits)
            && let Some((at, session)) = self.retries.first().cloned()
            && at <= now
        {
            self.retries.pop_first();
            if let Some(follower) = self.followers.get_mut(&session) {
                follower.retry_at = None;
            }
            self.deliver(&session, moment, outbox, turn);
        }
        while self.has_room(limits) {
            let round = match self.round.take() {
                Some(round) => round,
                None if self.told == Some(present) => break,
                None => Round {
                    behind: None,
                    present,
                },
            };
            let from = match &round.behind {
                None => Bound::Unbounded,
                Some(session) => Bound::Excluded(session.clone()),
            };
            let next = self.followers.range((from, Bound::Unbounded));
            let mut next = next.filter(|(_, follower)| follower.retry_at.is_none());
            match next
                .find(|(_, follower)| follower.is_behind(present) && follower.in_flight.is_none())
            {
                Some((session, _)) => {
                    let session = session.clone();
                    self.deliver(&session, moment, outbox, turn);
                    let behind = Some(session);
                    self.round = Some(Round { behind, ..round });
                }
                None => self.told = Some(round.present),
            }
        }
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
        let is_done = self.in_flight.is_empty() && self.retries.is_empty() && self.round.is_none();
        let Some(present) = present.filter(|_| is_done && self.told == Some(present)) else {
            return;
        };
        let delivered = Some(Place::from(present));
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

    /// Returns when the sessions need the next step: for a retry, and in case that this instance
    /// does not live to see the end of a call.
    pub(super) fn checks_at(&self, limits: &Limits) -> Option<Millis> {
        let check_ms = limits.link_check_ms.max(limits.reply_timeout_ms);
        let oldest = self.in_flight.values().next();
        let oldest = oldest.map(|call| call.since.plus(check_ms));
        let retry = self.retries.first().filter(|_| self.has_room(limits));
        oldest.into_iter().chain(retry.map(|(at, _)| *at)).min()
    }

    /// Handles the end of a call. Returns whether it is one of these.
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
                let follower = self.told_by(&call);
                follower.failures = 0;
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
        let from = Place {
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

    /// Ends a session's interest in the stream.
    pub(super) fn unfollow(&mut self, session: &str, subscription: Incarnation, step: &mut Step) {
        let follower = self.followers.followers.get(session);
        if follower.is_some_and(|follower| follower.row.subscription == subscription) {
            let rows = self.control_rows;
            self.followers.remove(session, rows, &mut step.turn);
        }
    }

    /// Answers a session with the appends behind a place.
    pub(super) fn page_of_appends(
        &self,
        id: CallId,
        (incarnation, from): (Incarnation, Offset),
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let present = self.presence();
        let answer = match present.filter(|present| present.incarnation == incarnation) {
            None => Answer::refusal(&Refusal::StreamNotFound),
            Some(_) => {
                let state = self.state.as_ref().expect("a stream that is present");
                state.page_of_appends(from, rows, &self.limits)?
            }
        };
        step.turn
            .after_commit
            .push(Effect::Answer { call: id, answer });
        Ok(())
    }

    /// Answers a call of a session.
    pub(super) fn answer_session(id: CallId, answer: &impl Serialize, step: &mut Step) {
        let answer = json_answer(200, answer);
        let effect = Effect::Answer { call: id, answer };
        step.turn.after_commit.push(effect);
    }
}

impl StreamState {
    /// Returns the place at which a session can begin. In a stream of bytes that is the end of an
    /// append.
    fn append_boundary(
        &self,
        from: Offset,
        rows: &dyn Storage,
        limits: &Limits,
    ) -> Result<Option<Offset>, StorageError> {
        let Some(place) = self.sent_place(from, rows)? else {
            return Ok(None);
        };
        if self.format == Format::Json || place == Offset::START || place == self.tail() {
            return Ok(Some(place));
        }
        if place.segment < self.inherited_segments() {
            return Ok(Some(place));
        }
        let end = self.append_end(place.segment, place.position - 1, rows, limits)?;
        Ok((end == place.position).then_some(place))
    }

    /// Returns the answer with as many of the next appends as fit into a page of one segment. The
    /// ends of inherited appends are not known, so what a page has of them counts as one append.
    fn page_of_appends(
        &self,
        from: Offset,
        rows: &dyn Storage,
        limits: &Limits,
    ) -> Result<Answer, StorageError> {
        let mut head = PageHead {
            json: self.format == Format::Json,
            appends: Vec::new(),
        };
        let tail = self.tail();
        if from >= tail {
            return Ok(page_without_content(&head));
        }
        let page = self.page(from, tail, Shape::Body, rows, limits)?;
        let mut at = from;
        if at.position == self.units_of(at.segment, rows)? {
            at = Offset::new(at.segment + 1, 0);
        }
        let end = if page.end.segment == at.segment {
            page.end.position
        } else {
            self.units_of(at.segment, rows)?
        };
        let segment = self.segment(at.segment, rows)?;
        while at.position < end && (head.appends.len() as u64) < limits.delivery_appends_max {
            let append_end = if at.segment < self.inherited_segments() {
                end
            } else {
                self.append_end(at.segment, at.position, rows, limits)?
            };
            let bytes = segment.framed_bytes(at.position, append_end, rows)?;
            if append_end > end || bytes > limits.envelope_bytes_max {
                if head.appends.is_empty() {
                    head.appends.push(PageAppend {
                        end: Offset::new(at.segment, append_end),
                        units: None,
                    });
                    return Ok(page_without_content(&head));
                }
                break;
            }
            head.appends.push(PageAppend {
                end: Offset::new(at.segment, append_end),
                units: Some(append_end - at.position),
            });
            at.position = append_end;
        }
        let mut page = self.page(from, at, Shape::Body, rows, limits)?;
        assert_eq!(page.end, at, "a shorter page of the same place fits, too");
        page.plan.head = Some(Box::new(PlanHead(line(&head))));
        Ok(Answer::uncached(200).body(Body::Plan(page.plan)))
    }
}

fn page_without_content(head: &PageHead) -> Answer {
    Answer::uncached(200).body(Body::Bytes(line(head)))
}

fn line(head: &PageHead) -> Vec<u8> {
    (to_json(head) + "\n").into_bytes()
}
