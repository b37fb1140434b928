//! The session of a stream (`docs/sessions.md`): what it has subscribed to, and the envelopes that
//! arrive.
//!
//! An envelope is an append whose producer is the incarnation of its source, and whose epoch and
//! sequence are the place behind it. So the last append of a producer says how far the session is,
//! and storing an envelope and moving on are one write.

use std::collections::BTreeMap;
use std::ops::Bound;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::admin::{page, paged};
use super::control_rows::ControlRows;
use super::{Step, StepError, Stream, incarnation};
use crate::admin::expiry_columns;
use crate::admin::json::{Object, quoted};
use crate::control::{answered, call_of, each_row, stored, to_json};
use crate::outbox::{AT_ONCE, TaskKind, target};
use crate::router::name;
use crate::rows::{ControlRow, Expiry, Incarnation, ProducerStamp};
use crate::storage::{Storage, StorageError};
use crate::wire::control::{Presence, StreamPosition};
use crate::wire::json;
use crate::wire::request::{Create, Preconditions};
use crate::wire::session::{
    DeliverAnswer, FollowAnswer, PageAppend, PageHead, SessionCall, session_request, session_stream,
};
use crate::{
    Answer, CallId, CallOutcome, Context, Effect, EffectId, Limits, Millis, Offset, Refusal, Turn,
};

const SUBSCRIBED: &str = "subscribed/";

/// The key of the row that an expired session leaves for a while.
const EXPIRED: &str = "expired";

/// What the session has subscribed to.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    /// By the name of the stream.
    sources: BTreeMap<String, Source>,
    /// When the session of this name has expired.
    expired_at: Option<Millis>,
    /// How many subscriptions this instance has made, so that each gets its own incarnation.
    subscribed: u64,
}

#[derive(Clone, Debug)]
struct Source {
    row: SourceRow,
    fetch: Option<Fetch>,
    /// Clients that wait until the stream has answered.
    subscribing: Vec<CallId>,
    /// Calls of the stream that are answered once the session has everything before the given tail.
    delivering: Vec<(CallId, Option<Presence>)>,
    /// Whether the stream has called for a former subscription while this one was under way. A late
    /// call may have put that one in its place, so the stream has to be asked again.
    is_doubtful: bool,
}

/// A call for a page of appends.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    effect: EffectId,
    since: Millis,
    from: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SourceRow {
    /// The incarnation of the subscription.
    subscription: Incarnation,
    /// Where it began; `None` until the stream has answered.
    from: Option<StreamPosition>,
}

impl Source {
    const fn new(row: SourceRow) -> Self {
        Self {
            row,
            fetch: None,
            subscribing: Vec::new(),
            delivering: Vec::new(),
            is_doubtful: false,
        }
    }
}

impl Session {
    /// Reads the rows. `has_table` says whether there is a table of control rows.
    pub(super) fn recall(has_table: bool, storage: &dyn Storage) -> Result<Self, StorageError> {
        let mut session = Self::default();
        if !has_table {
            return Ok(session);
        }
        each_row(storage, SUBSCRIBED, &mut |stream, row| {
            let source = Source::new(stored(row)?);
            session.sources.insert(stream.to_owned(), source);
            Ok(())
        })?;
        each_row(storage, EXPIRED, &mut |_, row| {
            session.expired_at = Some(stored(row)?);
            Ok(())
        })?;
        Ok(session)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.expired_at.is_none()
    }

    fn put(stream: &str, source: &Source, rows: &mut ControlRows, turn: &mut Turn) {
        let key = format!("{SUBSCRIBED}{stream}");
        let body = to_json(&source.row);
        rows.put(ControlRow { key, body }, turn);
    }

    fn remove(&mut self, stream: &str, rows: ControlRows, turn: &mut Turn) -> Option<Source> {
        let source = self.sources.remove(stream)?;
        rows.remove(format!("{SUBSCRIBED}{stream}"), turn);
        Some(source)
    }

    /// Returns when the memory of an expired session ends.
    pub(super) fn forgets_at(&self, limits: &Limits) -> Option<Millis> {
        let expired_at = self.expired_at?;
        Some(expired_at.plus(limits.session_tombstone_ms))
    }
}

fn answer(call: CallId, answer: Answer, turn: &mut Turn) {
    turn.after_commit.push(Effect::Answer { call, answer });
}

impl Stream {
    /// Answers a call about a session.
    pub(super) fn call_of_session(
        &mut self,
        now: Millis,
        id: CallId,
        call: SessionCall,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let done = match call {
            SessionCall::Create { id: session } => self.create_session(now, &session, rows, step),
            SessionCall::Describe => self.describe_session(now, step),
            SessionCall::List => self.list_subscriptions(now, step),
            SessionCall::Delete => self.delete_session(now, rows, step),
            SessionCall::Subscribe { stream, from } => {
                match self.subscribe(now, id, stream, from, rows, step) {
                    Ok(None) => return Ok(()),
                    Ok(Some(answer)) => Ok(answer),
                    Err(error) => Err(error),
                }
            }
            SessionCall::Unsubscribe { stream } => self.unsubscribe(now, &stream, rows, step),
            SessionCall::Deliver {
                stream,
                subscription,
                present,
            } => return self.delivery(now, id, (stream, subscription), present, rows, step),
            SessionCall::Follow {
                stream,
                session,
                subscription,
                incarnation,
                from,
            } => {
                let place = (incarnation, from);
                let what = self.follow((session, subscription), stream, place, rows, step)?;
                Self::answer_session(id, &what, step);
                return Ok(());
            }
            SessionCall::Unfollow {
                session,
                subscription,
            } => {
                self.unfollow(&session, subscription, step);
                Self::answer_session(id, &DeliverAnswer::Ended, step);
                return Ok(());
            }
            SessionCall::Undelivered {
                session,
                subscription,
            } => {
                self.undelivered(now, &session, subscription, step);
                Self::answer_session(id, &DeliverAnswer::Ended, step);
                return Ok(());
            }
            SessionCall::Page { incarnation, from } => {
                return self.page_of_appends(id, (incarnation, from), rows, step);
            }
        };
        let done = match done {
            Ok(answer) => answer,
            Err(StepError::Refused(refusal)) => Answer::refusal(&refusal),
            Err(StepError::StorageError(unreadable)) => return Err(unreadable),
        };
        answer(id, done, &mut step.turn);
        Ok(())
    }

    fn create_session(
        &mut self,
        now: Millis,
        id: &str,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Answer, StepError> {
        let name = session_stream(id).expect("the router has chosen the id");
        let create = Create {
            content_type: "application/json".to_owned(),
            expiry: Expiry::Sliding {
                seconds: self.limits.session_ttl_seconds,
            },
            closed: false,
            producer: None,
            body: Bytes::new(),
            location: target(&name),
            name,
            fork: None,
            preconditions: Preconditions::default(),
        };
        let created = self.create(now, create, rows, step)?;
        let body = Object::new().text("sessionId", id).finish();
        Ok(Answer::json(created.status, body.into_bytes()))
    }

    /// Returns the session, and records a use.
    fn session_in_use(&mut self, now: Millis, step: &mut Step) -> Result<&mut Session, StepError> {
        if self.state.is_none() {
            return Err(self.session.refusal().into());
        }
        self.state_in_use(now, step)?;
        Ok(&mut self.session)
    }

    fn describe_session(&mut self, now: Millis, step: &mut Step) -> Result<Answer, StepError> {
        self.session_in_use(now, step)?;
        let streams = self.session.streams();
        let (count, streams) = (streams.len() as u64, array(&streams));
        let (state, _) = self.state()?;
        Ok(Object::new()
            .text("sessionId", id_of(&state.row.name))
            .number("createdAt", state.row.created_at.0)
            .number_or_null("expiresAt", state.deadline().map(|at| at.0))
            .number("subscriptionCount", count)
            .json("subscribedStreams", &streams)
            .answer())
    }

    /// Answers what an operator wants to know of a session. Unlike every other step it begins
    /// nothing that is due and moves no alarm, so that looking at a session changes nothing.
    pub(super) fn inspect_session(
        &mut self,
        context: &Context<'_>,
        id: CallId,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Turn, StorageError> {
        let done = match self.session_detail(context, after, limit) {
            Ok(object) => object.answer(),
            Err(StepError::Refused(refusal)) => Answer::refusal(&refusal),
            Err(StepError::StorageError(unreadable)) => return Err(unreadable),
        };
        let mut turn = Turn::default();
        answer(id, done, &mut turn);
        Ok(turn)
    }

    fn session_detail(
        &mut self,
        context: &Context<'_>,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Object, StepError> {
        let rows = context.storage;
        let Some(state) = &self.state else {
            return Err(self.session.refusal().into());
        };
        let head = &state.row;
        let (_, ttl_seconds) = expiry_columns(&head.expiry);
        let sums = state.sums(rows)?;
        let object = Object::new()
            .text("sessionId", id_of(&head.name))
            .text("streamId", &head.name)
            .number("createdAt", head.created_at.0)
            .number_or_null("expiresAt", state.deadline().map(|at| at.0))
            .number_or_null("ttlSeconds", ttl_seconds)
            .text("tailOffset", &state.tail().to_string())
            .number("messageCount", sums.messages)
            .number("totalBytes", sums.bytes())
            .number("subscriberCount", (context.subscribers)(head.incarnation)?)
            .flag("outboxEmpty", self.outbox.is_empty())
            .number("subscriptionCount", self.session.sources.len() as u64);
        let (page, has_more) = self.session.page(after, limit);
        let next = page.last().filter(|_| has_more);
        let next = next.map(|(stream, _)| quoted(stream));
        let mut streams = Vec::with_capacity(page.len());
        for (stream, from) in page {
            let delivered = from.map(|from| self.has(from, rows)).transpose()?;
            let from = from.and_then(|from| from.offset);
            let from = from.map(|offset| offset.to_string());
            let delivered_text = delivered.map(|offset| offset.to_string());
            let described = Object::new()
                .text("streamId", &stream)
                .text_or_null("fromOffset", from.as_deref())
                .text_or_null("deliveredOffset", delivered_text.as_deref())
                .flag("linking", delivered.is_none());
            streams.push(described);
        }
        let object = object.array("subscribedStreams", streams);
        Ok(paged(object, next, has_more))
    }

    fn list_subscriptions(&mut self, now: Millis, step: &mut Step) -> Result<Answer, StepError> {
        let session = self.session_in_use(now, step)?;
        let body = array(&session.streams());
        Ok(Answer::json(200, body.into_bytes()))
    }

    fn delete_session(
        &mut self,
        now: Millis,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Answer, StepError> {
        self.session_in_use(now, step)?;
        step.deletes_session = true;
        self.end(now, rows, step)?;
        Ok(Answer::uncached(204))
    }

    /// Subscribes the session. Answers later if the stream has to answer first.
    fn subscribe(
        &mut self,
        now: Millis,
        id: CallId,
        stream: String,
        from: Option<Offset>,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Option<Answer>, StepError> {
        let session = self.session_in_use(now, step)?;
        match session.sources.get_mut(&stream) {
            Some(source) if source.row.from.is_some() => return Ok(Some(Answer::uncached(204))),
            Some(source) => {
                source.subscribing.push(id);
                return Ok(None);
            }
            None => {}
        }
        if self.session.sources.len() as u64 >= self.limits.session_streams_max {
            return Err(Refusal::TooManySubscriptions(
                "the session has subscribed to as many streams as it may",
            )
            .into());
        }
        // The seed is inverted, so that no stream of this instance gets the same incarnation.
        let subscription = incarnation(!self.instance_seed, self.session.subscribed);
        self.session.subscribed += 1;
        let mut source = Source::new(SourceRow {
            subscription,
            from: None,
        });
        source.subscribing.push(id);
        let turn = &mut step.turn;
        Session::put(&stream, &source, &mut self.control_rows, turn);
        self.session.sources.insert(stream.clone(), source);
        self.ask_to_follow(stream, subscription, (None, from), rows, step)?;
        Ok(None)
    }

    fn ask_to_follow(
        &mut self,
        stream: String,
        subscription: Incarnation,
        (incarnation, from): (Option<Incarnation>, Option<Offset>),
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let state = self.state.as_ref().expect("the session exists");
        let call = SessionCall::Follow {
            stream: stream.clone(),
            session: state.row.name.clone(),
            subscription,
            incarnation,
            from,
        };
        self.session_task(stream, &call, rows, step)
    }

    fn session_task(
        &mut self,
        to: String,
        call: &SessionCall,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let task = TaskKind::Call {
            to,
            request: session_request(call),
            create: None,
        };
        let turn = &mut step.turn;
        self.outbox.add(AT_ONCE, task, rows, &self.limits, turn)?;
        Ok(())
    }

    fn unsubscribe(
        &mut self,
        now: Millis,
        stream: &str,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Answer, StepError> {
        self.session_in_use(now, step)?;
        let state = self.state.as_ref().expect("the session exists");
        let session = state.row.name.clone();
        self.end_subscription(&session, stream, rows, step)?;
        Ok(Answer::uncached(204))
    }

    /// Ends a subscription, and adds the task that notifies the stream.
    fn end_subscription(
        &mut self,
        session: &str,
        stream: &str,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let control_rows = self.control_rows;
        let removed = self.session.remove(stream, control_rows, &mut step.turn);
        let Some(source) = removed else {
            return Ok(());
        };
        for id in source.subscribing {
            answer(id, Answer::unavailable(&self.limits), &mut step.turn);
        }
        for (id, _) in source.delivering {
            Self::answer_session(id, &DeliverAnswer::Ended, step);
        }
        let call = SessionCall::Unfollow {
            session: session.to_owned(),
            subscription: source.row.subscription,
        };
        self.session_task(stream.to_owned(), &call, rows, step)
    }

    /// Ends all subscriptions of a session that ends. An expired session is remembered for a while.
    pub(super) fn end_session(
        &mut self,
        now: Millis,
        session: &str,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let streams: Vec<_> = self.session.sources.keys().cloned().collect();
        for stream in streams {
            self.end_subscription(session, &stream, rows, step)?;
        }
        if !step.deletes_session && self.limits.session_tombstone_ms > 0 {
            self.session.expired_at = Some(now);
            let key = EXPIRED.to_owned();
            let body = to_json(&now);
            self.control_rows
                .put(ControlRow { key, body }, &mut step.turn);
        }
        Ok(())
    }

    /// Forgets an expired session when it is time.
    pub(super) fn forget_session(&mut self, now: Millis, turn: &mut Turn) {
        let forgets_at = self.session.forgets_at(&self.limits);
        if forgets_at.is_some_and(|at| at <= now) {
            self.session.expired_at = None;
            self.control_rows.remove(EXPIRED.to_owned(), turn);
        }
    }

    /// Handles the end of a task of the session: the answer of a stream that it follows.
    pub(super) fn note_followed(
        &mut self,
        now: Millis,
        task: &TaskKind,
        outcome: &CallOutcome,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let Some((stream, subscription)) = followed_by(task) else {
            return Ok(());
        };
        let source = self.session.sources.get_mut(&stream);
        let Some(source) = source.filter(|source| source.row.subscription == subscription) else {
            return Ok(());
        };
        let subscribing = core::mem::take(&mut source.subscribing);
        let what = answered(outcome).expect("a task is done once its answer can be read");
        let refusal = match what {
            FollowAnswer::Follows(place) => {
                if source.row.from.is_none() {
                    source.row.from = Some(place);
                    let turn = &mut step.turn;
                    Session::put(&stream, source, &mut self.control_rows, turn);
                }
                let delivering = core::mem::take(&mut source.delivering);
                for id in subscribing {
                    answer(id, Answer::uncached(204), &mut step.turn);
                }
                if core::mem::take(&mut source.is_doubtful) {
                    let place = (Some(place.incarnation), place.offset);
                    self.ask_to_follow(stream.clone(), subscription, place, rows, step)?;
                }
                for (id, present) in delivering {
                    if present.is_some_and(|it| it.incarnation == place.incarnation) {
                        let of = (stream.clone(), subscription);
                        self.delivery(now, id, of, present, rows, step)?;
                    } else {
                        // The stream has ended meanwhile. It calls again after this answer, and
                        // that call ends the subscription.
                        answer(id, Answer::unavailable(&self.limits), &mut step.turn);
                    }
                }
                return Ok(());
            }
            FollowAnswer::NotFound => Refusal::StreamNotFound,
            FollowAnswer::NoSuchOffset => {
                Refusal::InvalidRequest("from is no offset at which an append of the stream ends")
            }
            FollowAnswer::TooMany => {
                Refusal::TooManySubscriptions("the stream has as many sessions as it may have")
            }
        };
        let removed = self
            .session
            .remove(&stream, self.control_rows, &mut step.turn);
        let removed = removed.expect("it was there just now");
        for id in subscribing {
            answer(id, Answer::refusal(&refusal), &mut step.turn);
        }
        for (id, _) in removed.delivering {
            Self::answer_session(id, &DeliverAnswer::Ended, step);
        }
        Ok(())
    }

    /// Answers 503 to the clients that wait for a stream which has not answered. The task is
    /// retried, so the subscription can still begin.
    pub(super) fn note_unanswered(&mut self, effect: EffectId, step: &mut Step) {
        let Some((stream, _)) = self.outbox.task(effect).and_then(followed_by) else {
            return;
        };
        let Some(source) = self.session.sources.get_mut(&stream) else {
            return;
        };
        for id in core::mem::take(&mut source.subscribing) {
            answer(id, Answer::unavailable(&self.limits), &mut step.turn);
        }
    }

    /// Handles a [`SessionCall::Deliver`]. Answers once the session has everything before the tail.
    fn delivery(
        &mut self,
        now: Millis,
        id: CallId,
        (stream, subscription): (String, Incarnation),
        present: Option<Presence>,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let Some(source) = self.session.sources.get_mut(&stream) else {
            Self::answer_session(id, &DeliverAnswer::Ended, step);
            return Ok(());
        };
        let row = source.row.clone();
        let Some(from) = row.from else {
            // The stream has not yet answered where the subscription begins.
            if row.subscription == subscription {
                source.delivering.push((id, present));
            } else {
                source.is_doubtful = true;
                Self::answer_session(id, &DeliverAnswer::Ended, step);
            }
            return Ok(());
        };
        let has = self.has(from, rows)?;
        if row.subscription != subscription {
            // A call that came late has brought back a former subscription.
            let place = (Some(from.incarnation), Some(has));
            self.ask_to_follow(stream, row.subscription, place, rows, step)?;
            Self::answer_session(id, &DeliverAnswer::Ended, step);
            return Ok(());
        }
        let Some(present) = present.filter(|it| it.incarnation == from.incarnation) else {
            let control_rows = self.control_rows;
            let removed = self.session.remove(&stream, control_rows, &mut step.turn);
            let removed = removed.expect("it was there just now");
            for (id, _) in removed.delivering {
                Self::answer_session(id, &DeliverAnswer::Ended, step);
            }
            Self::answer_session(id, &DeliverAnswer::Ended, step);
            return Ok(());
        };
        if present.tail <= has {
            Self::answer_session(id, &DeliverAnswer::Has(has), step);
            return Ok(());
        }
        let timeout = self.limits.reply_timeout_ms;
        let source = self.session.sources.get_mut(&stream);
        let source = source.expect("it was there just now");
        source.delivering.push((id, Some(present)));
        let is_lost = |fetch: Fetch| fetch.since.plus(timeout) <= now;
        if source.fetch.is_none_or(is_lost) {
            let effect = self.outbox.next_effect();
            source.fetch = Some(Fetch {
                effect,
                since: now,
                from: has,
            });
            let page = SessionCall::Page {
                incarnation: from.incarnation,
                from: has,
            };
            step.turn.after_commit.push(Effect::Call {
                effect,
                to: stream,
                request: session_request(&page),
            });
        }
        Ok(())
    }

    /// Returns what the session has of a stream that it follows from a place.
    fn has(&mut self, from: StreamPosition, rows: &dyn Storage) -> Result<Offset, StorageError> {
        let state = self.state.as_mut().expect("the session exists");
        let last = state.last_state(&from.incarnation.to_string(), rows)?;
        let last = last.map(|last| Offset::new(last.epoch, last.seq));
        Ok(from.offset.max(last).unwrap_or(Offset::START))
    }

    /// Returns whether a call is for a page of appends.
    pub(super) fn is_fetch(&self, effect: EffectId) -> bool {
        self.session.fetched_by(effect).is_some()
    }

    /// Stores a page of appends as envelopes. Returns whether the call was for one.
    pub(super) fn page_arrived(
        &mut self,
        now: Millis,
        effect: EffectId,
        outcome: &CallOutcome,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<bool, StorageError> {
        let Some(stream) = self.session.fetched_by(effect) else {
            return Ok(false);
        };
        let source = self.session.sources.get_mut(&stream);
        let source = source.expect("it was there just now");
        let fetch = source.fetch.take().expect("it was there just now");
        let delivering = core::mem::take(&mut source.delivering);
        let from = source
            .row
            .from
            .expect("a stream is asked once it has answered");
        let mut has = self.has(from, rows)?;
        let Some(page) = EnvelopePage::read(&stream, outcome) else {
            for (id, _) in delivering {
                answer(id, Answer::unavailable(&self.limits), &mut step.turn);
            }
            return Ok(true);
        };
        assert_eq!(has, fetch.from, "one page is fetched at a time");
        if let Some(end) = page.end {
            let producer = ProducerStamp {
                id: from.incarnation.to_string(),
                epoch: end.segment,
                seq: end.position,
            };
            self.append_envelopes(now, page.envelopes.into(), producer, rows, step)?;
            has = end;
        }
        for (id, _) in delivering {
            Self::answer_session(id, &DeliverAnswer::Has(has), step);
        }
        Ok(true)
    }
}

impl Session {
    /// Returns the refusal of a call about a session that does not exist.
    const fn refusal(&self) -> Refusal {
        if self.expired_at.is_some() {
            Refusal::SessionExpired
        } else {
            Refusal::SessionNotFound
        }
    }

    /// Returns the streams behind this one, at most `limit`, with the places where the
    /// subscriptions began, and whether there are more.
    fn page(
        &self,
        after: Option<&str>,
        limit: u64,
    ) -> (Vec<(String, Option<StreamPosition>)>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.sources.range::<str, _>((from, Bound::Unbounded));
        let read = behind.zip(0..=limit);
        let read = read.map(|((stream, source), _)| (stream.clone(), source.row.from));
        page(read.collect(), limit)
    }

    /// Returns the streams that the session has subscribed to.
    fn streams(&self) -> Vec<&str> {
        let sources = self.sources.iter();
        let subscribed = sources.filter(|(_, source)| source.row.from.is_some());
        subscribed.map(|(stream, _)| stream.as_str()).collect()
    }

    fn fetched_by(&self, effect: EffectId) -> Option<String> {
        let mut sources = self.sources.iter();
        let is_it = |source: &Source| source.fetch.is_some_and(|fetch| fetch.effect == effect);
        let (stream, _) = sources.find(|(_, source)| is_it(source))?;
        Some(stream.clone())
    }
}

/// Returns the stream that a task asks to be followed, and the incarnation of the subscription.
fn followed_by(task: &TaskKind) -> Option<(String, Incarnation)> {
    let TaskKind::Call { request, .. } = task else {
        return None;
    };
    match call_of(request)? {
        SessionCall::Follow {
            stream,
            subscription,
            ..
        } => Some((stream, subscription)),
        SessionCall::Create { .. }
        | SessionCall::Describe
        | SessionCall::Delete
        | SessionCall::List
        | SessionCall::Subscribe { .. }
        | SessionCall::Unsubscribe { .. }
        | SessionCall::Deliver { .. }
        | SessionCall::Unfollow { .. }
        | SessionCall::Undelivered { .. }
        | SessionCall::Page { .. } => None,
    }
}

/// Returns the id of the session with this stream.
fn id_of(stream: &str) -> &str {
    let id = stream.strip_prefix(name::SESSION_PREFIX);
    id.expect("the call is for the object of a session")
}

fn array(texts: &[&str]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(","))
}

/// The envelopes of a page of appends.
struct EnvelopePage {
    /// The place behind the page; `None` if it is empty.
    end: Option<Offset>,
    /// A JSON array.
    envelopes: String,
}

impl EnvelopePage {
    /// Reads the answer of a stream; `None` if it has no page.
    fn read(stream: &str, outcome: &CallOutcome) -> Option<Self> {
        let CallOutcome::Answered { status: 200, body } = outcome else {
            return None;
        };
        let line = body.iter().position(|byte| *byte == b'\n')?;
        let head: PageHead = serde_json::from_slice(&body[..line]).ok()?;
        let content = &body[line + 1..];
        let mut messages = Vec::new();
        if head.json && !content.is_empty() {
            json::messages(content, |message| messages.push(message.to_owned())).ok()?;
        }
        let (mut messages, mut bytes) = (messages.as_slice(), content);
        let mut envelopes = Vec::new();
        for PageAppend { end, units } in &head.appends {
            let envelope = Object::new()
                .text("stream", stream)
                .text("offset", &end.to_string())
                .text("type", "data");
            let Some(units) = *units else {
                let envelope = envelope.json("payload", &"null").flag("omitted", true);
                envelopes.push(envelope.finish());
                continue;
            };
            let count = usize::try_from(units).ok()?;
            envelopes.push(if head.json {
                let (payload, rest) = messages.split_at_checked(count)?;
                messages = rest;
                match payload {
                    [single] => envelope.json("payload", single),
                    several => envelope
                        .json("payload", &format_args!("[{}]", several.join(",")))
                        .number("messages", units),
                }
                .finish()
            } else {
                let (payload, rest) = bytes.split_at_checked(count)?;
                bytes = rest;
                let payload = STANDARD.encode(payload);
                let envelope = envelope.text("payload", &payload);
                envelope.text("encoding", "base64").finish()
            });
        }
        let is_whole = messages.is_empty() && (head.json || bytes.is_empty());
        is_whole.then(|| Self {
            end: head.appends.last().map(|last| last.end),
            envelopes: format!("[{}]", envelopes.join(",")),
        })
    }
}
