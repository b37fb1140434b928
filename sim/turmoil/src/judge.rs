//! Holds what clients are told against the reference model. The order of things is that of the
//! commits: each turn that became durable must be one that a client has asked for, exactly once,
//! and gives the next version of its stream. An answer must be one that the model allows in a
//! version between the one that was durable when it was asked for and the last one.

use std::rc::Rc;

use machine::rows::{Expiry, ProducerStamp};
use sim::cold_tier::{self, Objects};
use sim::ids::{Id as _, ObjectId};
use sim::model::{Bounds, Content, Incarnation, Mismatch, Model, State, TurnFacts};
use sim::oracles::{Delivery, Follower, OffsetLaw, Oracle, Position, units};
use sim::request::{Request, Response, excerpt};
use sim::segments::{spell, token};

use crate::settings::Settings;
use crate::storage::{Logged, Written};

/// A request whose answer does not come may still take effect after so long.
const LINGERS_MS: u64 = 60_000;

/// A request that was sent.
#[derive(Debug)]
struct Attempt {
    name: usize,
    request: Rc<Request>,
    sent_at: u64,
    /// The version of its stream that was durable then.
    from: usize,
    /// Whether all of it was sent.
    whole: bool,
    over_at: Option<u64>,
    /// Whether a turn was asked for by it.
    applied: bool,
}

/// What led to a version.
#[derive(Debug, Default)]
struct Cause {
    now: u64,
    dropped: bool,
    sealed: Option<(u64, u64)>,
    changes: bool,
    /// Whether somebody was told so.
    told: bool,
}

#[derive(Debug)]
struct Version {
    /// When it became durable.
    at: u64,
    state: State,
    cause: Cause,
}

#[derive(Debug)]
struct Name {
    model: Model,
    /// The first is that there is nothing.
    versions: Vec<Version>,
}

/// Something that is counted as a situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notable {
    CreatedAgain,
    DeletedUnderReader,
    ExpiredAlone,
    ExpiredAfterCrash,
    /// A part of an incarnation has been shown, as a page or in events.
    Shown {
        name: usize,
        incarnation: u64,
        from: u64,
        to: u64,
        live: bool,
    },
}

/// One reader of an event stream, in one of the incarnations that it may be a reader of.
#[derive(Debug)]
pub(crate) struct Reading {
    follower: Follower,
    /// The last version that it can have been told of.
    version: usize,
}

/// What a batch of events has brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) data: bool,
    pub(crate) pushed: bool,
    pub(crate) closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Judge {
    names: Vec<Name>,
    attempts: Vec<Attempt>,
    law: OffsetLaw,
    /// Broadcast reads under way, by name.
    pub(crate) readers: Vec<u64>,
    pub(crate) notable: Vec<Notable>,
}

/// The name of a stream.
pub(crate) fn stream(name: usize) -> String {
    format!("name-{name}")
}

impl Judge {
    pub(crate) fn new(settings: &Settings) -> Self {
        let limits = &settings.workload.limits;
        let bounds = Bounds {
            body_bytes: limits.append_bytes_max,
            page_bytes: limits.chunk_bytes_max,
            page_step: limits.index_step(),
            page_ends_max: limits.index_entries_max,
            whole_reads: settings.workload.whole_reads,
            slack_divisor: limits.touch_slack_divisor,
            skew_ms: 0,
            cursor_epoch_ms: limits.cursor_epoch_ms,
            cursor_interval_ms: limits.cursor_interval_ms,
        };
        let names = (0..settings.workload.names).map(|_| Name {
            model: Model::new(bounds.clone()),
            versions: vec![Version {
                at: 0,
                state: State::default(),
                cause: Cause::default(),
            }],
        });
        let names: Vec<_> = names.collect();
        Self {
            readers: vec![0; names.len()],
            names,
            attempts: Vec::new(),
            law: OffsetLaw::default(),
            notable: Vec::new(),
        }
    }

    pub(crate) fn incarnation(&self, name: usize) -> Option<&Incarnation> {
        self.names[name].model.state.incarnation.as_ref()
    }

    pub(crate) fn state(&self, name: usize) -> &State {
        &self.names[name].model.state
    }

    pub(crate) fn has_ended(&self, name: usize, now: u64) -> bool {
        let model = &self.names[name].model;
        let ends = self
            .incarnation(name)
            .and_then(|incarnation| incarnation.ends(&model.bounds));
        ends.is_some_and(|(least, _)| least <= now)
    }

    /// When a stream that nobody uses must be gone, at the latest.
    pub(crate) fn latest_end(&self, name: usize) -> Option<u64> {
        let model = &self.names[name].model;
        let incarnation = self.incarnation(name)?;
        let (_, most) = incarnation.ends(&model.bounds)?;
        Some(most.saturating_add(incarnation.ttl_ms().unwrap_or(0) / model.bounds.slack_divisor))
    }

    pub(crate) fn names(&self) -> usize {
        self.names.len()
    }

    /// A client sends a request.
    pub(crate) fn sent(&mut self, name: usize, request: &Rc<Request>, now: u64) -> usize {
        self.attempts.push(Attempt {
            name,
            request: Rc::clone(request),
            sent_at: now,
            from: self.names[name].versions.len() - 1,
            whole: true,
            over_at: None,
            applied: false,
        });
        self.attempts.len() - 1
    }

    /// It was cut before its end.
    pub(crate) fn cut(&mut self, attempt: usize) {
        self.attempts[attempt].whole = false;
    }

    /// Nobody waits for its answer any more.
    pub(crate) fn over(&mut self, attempt: usize, now: u64) {
        self.attempts[attempt].over_at.get_or_insert(now);
    }

    /// What has become durable.
    pub(crate) fn absorb(
        &mut self,
        logged: Logged,
        after_crash: bool,
        objects: &Objects,
    ) -> Result<(), (Oracle, Mismatch)> {
        match logged {
            Logged::Booted => {
                for name in &mut self.names {
                    let state = name.model.state.clone();
                    name.model.restart(state);
                }
            }
            Logged::Opened { name } => {
                if let Some(name) = self.index(&name) {
                    let state = self.names[name].model.state.clone();
                    self.names[name].model.restart(state);
                }
            }
            Logged::Committed { name, at, turns } => {
                let Some(name) = self.index(&name) else {
                    return Ok(());
                };
                for turn in &turns {
                    self.turn(name, at, turn, after_crash)?;
                    for (head, segment) in &turn.stored {
                        let Some(incarnation) = self.incarnation(name) else {
                            continue;
                        };
                        let held = cold_tier::holds(objects, head, incarnation, segment);
                        held.map_err(|mismatch| (Oracle::Segments, mismatch))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn index(&self, name: &str) -> Option<usize> {
        (0..self.names.len()).find(|each| stream(*each) == name)
    }

    fn is_under_way(attempt: &Attempt, now: u64) -> bool {
        attempt.over_at.is_none_or(|over| over + LINGERS_MS > now)
    }

    /// One turn becomes durable.
    fn turn(
        &mut self,
        name: usize,
        at: u64,
        turn: &Written,
        after_crash: bool,
    ) -> Result<(), (Oracle, Mismatch)> {
        let used = self
            .attempts
            .iter()
            .filter(|attempt| attempt.name == name && Self::is_under_way(attempt, turn.now))
            .count() as u64;
        let facts = TurnFacts {
            now: turn.now,
            // Whoever is under way may have used it at any time.
            attached: if turn.dropped { 0 } else { used },
            dropped: turn.dropped,
            kept: false,
            page_end: None,
            has_rest: false,
            sealed: turn.sealed,
        };
        let appends = !turn.records.is_empty() || turn.created.is_some() || turn.closes;
        let before = self.names[name].model.state.clone();
        if !appends && !turn.dropped {
            let verdict = self.names[name].model.turned(&facts);
            verdict.map_err(|mismatch| (Oracle::Model, mismatch))?;
            if turn.sealed.is_some() {
                self.push(name, at, turn, false);
            }
            return Ok(());
        }
        if !appends {
            let expired = self.names[name].model.alarm(&facts);
            match expired {
                Ok(()) => {
                    let awaited =
                        |attempt: &Attempt| attempt.name == name && attempt.over_at.is_none();
                    if !self.attempts.iter().any(awaited) {
                        self.notable.push(Notable::ExpiredAlone);
                    }
                    if after_crash {
                        self.notable.push(Notable::ExpiredAfterCrash);
                    }
                }
                Err(mismatch) => {
                    let response = Response {
                        status: 204,
                        headers: vec![("Cache-Control".into(), "no-store".to_owned())],
                        body: bytes::Bytes::new(),
                    };
                    let deletes = |attempt: &Attempt| attempt.request.method == "DELETE";
                    // One whose precondition fails has deleted nothing.
                    let candidates: Vec<_> = self.candidates(name, &deletes).collect();
                    let found = candidates.into_iter().find(|attempt| {
                        let request = &self.attempts[*attempt].request;
                        let model = &mut self.names[name].model;
                        model
                            .after(before.clone(), request, &response, &facts)
                            .is_ok()
                    });
                    let Some(attempt) = found else {
                        return Err((Oracle::Causes, mismatch));
                    };
                    let request = Rc::clone(&self.attempts[attempt].request);
                    let verdict = self.names[name].model.answered(&request, &response, &facts);
                    verdict.map_err(|mismatch| (Oracle::Model, mismatch))?;
                    self.attempts[attempt].applied = true;
                    if self.readers[name] > 0 {
                        self.notable.push(Notable::DeletedUnderReader);
                    }
                }
            }
            self.push(name, at, turn, true);
            return Ok(());
        }
        let mut nearest = None;
        let method = if turn.created.is_some() {
            "PUT"
        } else {
            "POST"
        };
        let asks = |attempt: &Attempt| attempt.request.method == method;
        let candidates: Vec<_> = self.candidates(name, &asks).collect();
        for attempt in candidates {
            let request = Rc::clone(&self.attempts[attempt].request);
            let response = answer(&request, turn);
            let model = &mut self.names[name].model;
            match model.after(before.clone(), &request, &response, &facts) {
                Ok(after) if wrote(&before, &after, &request, turn) => {
                    let verdict = model.answered(&request, &response, &facts);
                    verdict.map_err(|mismatch| (Oracle::Model, mismatch))?;
                    if turn.created.is_some() && model.incarnations() > 1 {
                        self.notable.push(Notable::CreatedAgain);
                    }
                    self.attempts[attempt].applied = true;
                    self.push(name, at, turn, true);
                    return Ok(());
                }
                Ok(_) => {}
                Err(mismatch) => nearest = Some(mismatch),
            }
        }
        let records: Vec<_> = turn.records.iter().map(|record| excerpt(record)).collect();
        Err((
            Oracle::Causes,
            Mismatch {
                expected: format!(
                    "a turn that one of the requests of {} asks for, once",
                    stream(name)
                ),
                actual: format!(
                    "{records:?} by {:?}, created {}, closes {}; nearest: {nearest:?}",
                    turn.writer,
                    turn.created.is_some(),
                    turn.closes
                ),
            },
        ))
    }

    /// Requests that may have asked for a turn.
    fn candidates(
        &self,
        name: usize,
        asks: &dyn Fn(&Attempt) -> bool,
    ) -> impl Iterator<Item = usize> {
        let attempts = self.attempts.iter().enumerate();
        attempts.filter_map(move |(number, attempt)| {
            let may = attempt.name == name && attempt.whole && !attempt.applied && asks(attempt);
            may.then_some(number)
        })
    }

    fn push(&mut self, name: usize, at: u64, turn: &Written, changes: bool) {
        let state = self.names[name].model.state.clone();
        self.names[name].versions.push(Version {
            at,
            state,
            cause: Cause {
                now: turn.now,
                dropped: turn.dropped,
                sealed: turn.sealed,
                changes,
                told: false,
            },
        });
    }

    /// A whole answer has come.
    ///
    /// # Errors
    /// When it is not one that could be given at any time since it was asked for.
    pub(crate) fn answered(
        &mut self,
        attempt: usize,
        response: &Response,
        now: u64,
    ) -> Result<(), Mismatch> {
        self.over(attempt, now);
        let Attempt {
            name,
            sent_at,
            from,
            ..
        } = self.attempts[attempt];
        let request = Rc::clone(&self.attempts[attempt].request);
        if response.header("Cache-Control").is_none() {
            return Err(mismatch("a Cache-Control", response));
        }
        if response.status >= 500 {
            let told = response.status == 503 && response.header("Retry-After").is_some();
            return if told {
                Ok(())
            } else {
                Err(mismatch("503 with Retry-After, if anything", response))
            };
        }
        if response.status == 408 && !request.body.is_empty() {
            // A body that came too slowly, as nothing of the machine's decides.
            return Ok(());
        }
        if matches!(response.status, 400 | 413)
            && self.names[name].model.refused(&request, response).is_ok()
        {
            return Ok(());
        }
        let live = request.parameter("live").is_some();
        let changing = response.status < 300 && matches!(request.method, "PUT" | "POST" | "DELETE");
        let mut nearest = None;
        for version in from..self.names[name].versions.len() {
            let state = self.names[name].versions[version].state.clone();
            let then = Position::of(&state);
            let told = TurnFacts {
                now: sent_at,
                attached: 1,
                dropped: false,
                kept: false,
                page_end: None,
                has_rest: false,
                sealed: None,
            };
            if changing && let Some(next) = self.names[name].versions.get(version + 1) {
                let facts = TurnFacts {
                    now: next.cause.now,
                    dropped: next.cause.dropped,
                    sealed: next.cause.sealed,
                    attached: u64::from(!next.cause.dropped),
                    ..told
                };
                let (position, open) = (
                    Position::of(&next.state),
                    next.cause.changes && !next.cause.told,
                );
                let after = self.names[name]
                    .model
                    .after(state.clone(), &request, response, &facts);
                if open && after.is_ok_and(|after| Position::of(&after) == position) {
                    self.names[name].versions[version + 1].cause.told = true;
                    return self.observe(name, &request, response, position);
                }
            }
            match self.names[name]
                .model
                .after(state, &request, response, &told)
            {
                Ok(after) if Position::of(&after) == then => {
                    if let Some(incarnation) = then
                        .incarnation()
                        .filter(|_| request.method == "GET" && response.status < 400)
                    {
                        self.names[name]
                            .model
                            .read_between(incarnation, sent_at, now);
                    }
                    return self.observe(name, &request, response, then);
                }
                Ok(after) => {
                    nearest = Some(Mismatch {
                        expected: format!(
                            "{then:?} to have become {:?}, once for each answer",
                            Position::of(&after)
                        ),
                        actual: response.line(),
                    });
                }
                Err(mismatch) => nearest = Some(mismatch),
            }
        }
        if live && matches!(response.status, 200 | 204) {
            return self.polled(attempt, response, now);
        }
        // One turn can end a stream whose time has come and begin another.
        if live && response.status == 404 && self.has_turned_over(attempt) {
            return Ok(());
        }
        Err(nearest.unwrap_or_else(|| mismatch("an answer", response)))
    }

    /// The beginning of an answer to a plain read has come, and no more will.
    ///
    /// # Errors
    /// When it is not the beginning of one that could be given at any time since it was asked for.
    pub(crate) fn broke_off(
        &mut self,
        attempt: usize,
        response: &Response,
    ) -> Result<(), Mismatch> {
        let Attempt {
            name,
            sent_at,
            from,
            ..
        } = self.attempts[attempt];
        let request = Rc::clone(&self.attempts[attempt].request);
        if !self.names[name].model.bounds.whole_reads || response.body.is_empty() {
            return Ok(());
        }
        let facts = TurnFacts {
            now: sent_at,
            attached: 1,
            dropped: false,
            kept: false,
            page_end: None,
            has_rest: true,
            sealed: None,
        };
        let mut nearest = None;
        for version in from..self.names[name].versions.len() {
            let state = self.names[name].versions[version].state.clone();
            match self.names[name]
                .model
                .after(state, &request, response, &facts)
            {
                Ok(_) => return Ok(()),
                Err(mismatch) => nearest = Some(mismatch),
            }
        }
        Err(nearest.unwrap_or_else(|| mismatch("the beginning of an answer", response)))
    }

    /// The content that an answer shows is what was ever shown there.
    fn observe(
        &mut self,
        name: usize,
        request: &Request,
        response: &Response,
        position: Position,
    ) -> Result<(), Mismatch> {
        let Some(incarnation) = position.incarnation() else {
            return Ok(());
        };
        let model = &self.names[name].model;
        let next = response.header("Stream-Next-Offset").and_then(token);
        let next = next.and_then(|token| model.segments(incarnation).position_sent(token));
        let shown = match (request.method, response.status) {
            ("GET", 200) => &response.body,
            ("POST", 200) => &request.body,
            ("POST", 204) if request.header("Producer-Id").is_none() => &request.body,
            _ => return Ok(()),
        };
        let Some(next) = next.filter(|_| !shown.is_empty()) else {
            return Ok(());
        };
        let Some(units) = units(model.content(incarnation), shown) else {
            return Err(mismatch("a body of the stream's type", response));
        };
        let from = next.saturating_sub(units.len() as u64);
        if request.method == "GET" {
            self.notable.push(Notable::Shown {
                name,
                incarnation,
                from,
                to: next,
                live: false,
            });
        }
        self.law
            .observe(ObjectId::new(name), incarnation, from, &units)
    }

    /// A long-poll that waited at the tail has come to its end.
    fn polled(&mut self, attempt: usize, response: &Response, now: u64) -> Result<(), Mismatch> {
        let Attempt {
            name,
            sent_at,
            from,
            ..
        } = self.attempts[attempt];
        let request = Rc::clone(&self.attempts[attempt].request);
        let versions = &self.names[name].versions;
        let model = &self.names[name].model;
        let closed = response.is_true("Stream-Closed");
        for (at, version) in versions.iter().enumerate().skip(from) {
            let Some(incarnation) = &version.state.incarnation else {
                continue;
            };
            let told = response.header("Stream-Next-Offset").and_then(token);
            let Some(next) =
                told.and_then(|token| model.segments(incarnation.id).position_sent(token))
            else {
                continue;
            };
            let up_to_date = next == incarnation.content.len();
            if response.is_true("Stream-Up-To-Date") != up_to_date
                || closed != (up_to_date && incarnation.closed)
                || next > incarnation.content.len()
            {
                continue;
            }
            // Where it can have been at the tail.
            let asked = match request.parameter("offset") {
                Some("-1") => Some(0),
                Some("now") | None => None,
                Some(text) => {
                    token(text).map(|token| incarnation.segments.position_requested(token))
                }
            };
            let started = versions[from..=at].iter().filter_map(|version| {
                let it = version
                    .state
                    .incarnation
                    .as_ref()
                    .filter(|it| it.id == incarnation.id)?;
                let tail = it.content.len();
                asked
                    .is_none_or(|asked| asked.min(tail) == tail)
                    .then_some(tail)
            });
            let starts: Vec<_> = started.collect();
            let holds = match response.status {
                204 => starts.contains(&next) && up_to_date && response.body.is_empty(),
                _ => starts.iter().any(|start| {
                    *start < next
                        && incarnation.content.page(*start, next).as_deref() == Some(&response.body)
                }),
            };
            if holds {
                let incarnation = incarnation.id;
                self.names[name]
                    .model
                    .read_between(incarnation, sent_at, now);
                let client = request
                    .parameter("cursor")
                    .and_then(|text| text.parse::<u64>().ok());
                let cursor = response
                    .header("Stream-Cursor")
                    .and_then(|text| text.parse::<u64>().ok());
                if !closed && (cursor.is_none() || cursor <= client) {
                    return Err(mismatch(&format!("a cursor beyond {client:?}"), response));
                }
                return Ok(());
            }
        }
        Err(mismatch(
            "what came at the tail since it was asked for, or nothing",
            response,
        ))
    }

    /// Whether a stream has ended, or another begun, since the attempt began. A long-poll whose
    /// connection was cut meanwhile finds another stream when it reconnects, and is answered for the
    /// one that it knew.
    pub(crate) fn has_turned_over(&self, attempt: usize) -> bool {
        let Attempt { name, from, .. } = self.attempts[attempt];
        let versions = &self.names[name].versions[from..];
        let mut incarnations = versions.iter().map(|version| {
            version
                .state
                .incarnation
                .as_ref()
                .map(|incarnation| incarnation.id)
        });
        let first = incarnations.next();
        incarnations.any(|incarnation| Some(incarnation) != first)
    }

    /// When the version that an answer tells of was no longer the last.
    pub(crate) fn outdated_at(&self, attempt: usize, response: &Response) -> Option<u64> {
        let Attempt { name, from, .. } = self.attempts[attempt];
        let Name { model, versions } = &self.names[name];
        let told = response.header("Stream-Next-Offset").and_then(token)?;
        let mut latest = None;
        for (at, version) in versions.iter().enumerate().skip(from) {
            let Some(incarnation) = &version.state.incarnation else {
                continue;
            };
            if model.segments(incarnation.id).position_sent(told) == Some(incarnation.content.len())
            {
                latest = Some(at);
            }
        }
        versions.get(latest? + 1).map(|version| version.at)
    }

    /// An event stream has begun: whatever incarnations it may be of.
    ///
    /// # Errors
    /// When there was none at any time since it was asked for.
    pub(crate) fn follows(
        &mut self,
        attempt: usize,
        response: &Response,
    ) -> Result<Vec<Reading>, Mismatch> {
        let Attempt { name, from, .. } = self.attempts[attempt];
        let request = Rc::clone(&self.attempts[attempt].request);
        let base64 = response.header("Stream-SSE-Data-Encoding") == Some("base64");
        let mut readings: Vec<Reading> = Vec::new();
        for (at, version) in self.names[name].versions.iter().enumerate().skip(from) {
            let Some(incarnation) = &version.state.incarnation else {
                continue;
            };
            let binary = matches!(*incarnation.content, Content::Run { text: false, .. });
            let tail = incarnation.content.len();
            let asked = incarnation.segments.begin(&request, tail);
            let position = asked.map(|asked| incarnation.content.begin(asked));
            let known = |reading: &Reading| {
                reading.follower.incarnation == incarnation.id
                    && reading.follower.position == position
            };
            if binary != base64 || readings.iter().any(known) {
                continue;
            }
            let mut follower = Follower::new(position, incarnation.id, base64);
            follower.cursor = request
                .parameter("cursor")
                .and_then(|text| text.parse::<u64>().ok())
                .map(|cursor| cursor + 1);
            readings.push(Reading {
                follower,
                version: at,
            });
        }
        let named = response.header("Content-Type") == Some("text/event-stream");
        if readings.is_empty() || !named {
            return Err(mismatch("an event stream of what there is", response));
        }
        if response.header("Cache-Control").is_none() {
            return Err(mismatch("a Cache-Control", response));
        }
        Ok(readings)
    }

    /// Some bytes of an event stream have come. Leaves the readings that they fit.
    ///
    /// # Errors
    /// When they fit none.
    pub(crate) fn told(
        &mut self,
        attempt: usize,
        readings: &mut Vec<Reading>,
        bytes: &[u8],
    ) -> Result<Progress, Mismatch> {
        let name = self.attempts[attempt].name;
        let Name { model, versions } = &self.names[name];
        let mut progress = Progress::default();
        let mut nearest = None;
        let mut seen = Vec::new();
        readings.retain_mut(|reading| {
            let incarnation = reading.follower.incarnation;
            let (content, segments) = (model.content(incarnation), model.segments(incarnation));
            let done = reading.follower.receive(bytes, content, segments);
            let verdict = done.and_then(|deliveries| {
                for delivery in deliveries {
                    let Delivery {
                        from, next, closed, ..
                    } = delivery;
                    let fits = (reading.version..versions.len()).find(|at| {
                        let of = versions[*at]
                            .state
                            .incarnation
                            .as_ref()
                            .filter(|it| it.id == incarnation);
                        of.is_some_and(|it| {
                            let at_tail = next == it.content.len();
                            delivery.up_to_date == at_tail && closed == (at_tail && it.closed)
                        })
                    });
                    let Some(fits) = fits else {
                        return Err(Mismatch {
                            expected: format!(
                                "what incarnation {incarnation} was since version {}",
                                reading.version
                            ),
                            actual: format!("{delivery:?}"),
                        });
                    };
                    progress.pushed |= reading.version < fits && next > from;
                    reading.version = fits;
                    progress.data |= next > from;
                    progress.closed |= closed;
                    seen.push((incarnation, from, next));
                }
                Ok(())
            });
            match verdict {
                Ok(()) => true,
                Err(mismatch) => {
                    nearest = Some(mismatch);
                    false
                }
            }
        });
        if let Some(mismatch) = nearest.filter(|_| readings.is_empty()) {
            return Err(mismatch);
        }
        for (incarnation, from, next) in seen {
            if readings
                .iter()
                .any(|reading| reading.follower.incarnation == incarnation)
            {
                let content = self.names[name].model.content(incarnation);
                let page = content.page(from, next).unwrap_or_default();
                if let Some(units) = units(content, &page) {
                    self.law
                        .observe(ObjectId::new(name), incarnation, from, &units)?;
                    self.notable.push(Notable::Shown {
                        name,
                        incarnation,
                        from,
                        to: next,
                        live: true,
                    });
                }
            }
        }
        Ok(progress)
    }

    /// Where a reader of an event stream goes on: offset, cursor, and whether it has come to the
    /// end.
    pub(crate) fn position(
        &self,
        attempt: usize,
        readings: &[Reading],
    ) -> Option<(String, Option<u64>, bool)> {
        let name = self.attempts[attempt].name;
        let reading = readings.first()?;
        let follower = &reading.follower;
        let segments = self.names[name].model.segments(follower.incarnation);
        let offset = segments.spell(follower.position?, true);
        Some((offset, follower.cursor, follower.finished))
    }

    /// Since when there is something that a reader has not been told, where it reads what is there
    /// now.
    pub(crate) fn behind_since(&self, attempt: usize, readings: &[Reading]) -> Option<u64> {
        let name = self.attempts[attempt].name;
        let present = self.incarnation(name)?.id;
        let since = |reading: &Reading| {
            let follower = &reading.follower;
            let position = follower
                .position
                .filter(|_| follower.incarnation == present)?;
            let mut later = self.names[name].versions[reading.version..].iter();
            let missed = later.find(|version| {
                let incarnation = version
                    .state
                    .incarnation
                    .as_ref()
                    .filter(|incarnation| incarnation.id == present);
                incarnation.is_some_and(|incarnation| {
                    incarnation.content.len() > position
                        || (incarnation.closed && !follower.finished)
                })
            });
            missed.map(|version| version.at)
        };
        let each: Option<Vec<_>> = readings.iter().map(since).collect();
        each?.into_iter().max()
    }

    /// Whether a stream that a reader reads is no more, or was not for a while.
    pub(crate) fn is_gone(&self, attempt: usize, readings: &[Reading]) -> bool {
        let name = self.attempts[attempt].name;
        let present = self.incarnation(name).map(|incarnation| incarnation.id);
        readings
            .iter()
            .any(|reading| present != Some(reading.follower.incarnation))
    }

    /// What a reader still lacks of its stream.
    pub(crate) fn lacks(&self, name: usize, readings: &[Reading]) -> Option<String> {
        let incarnation = self.incarnation(name)?;
        let reading = readings
            .iter()
            .find(|reading| reading.follower.incarnation == incarnation.id)?;
        let tail = incarnation.content.len();
        match reading.follower.position {
            Some(position)
                if position == tail && (reading.follower.finished || !incarnation.closed) =>
            {
                None
            }
            position => Some(format!(
                "is at {position:?} of {tail}, closed {}",
                incarnation.closed
            )),
        }
    }
}

fn mismatch(expected: &str, response: &Response) -> Mismatch {
    Mismatch {
        expected: expected.to_owned(),
        actual: response.line(),
    }
}

/// The answer that a turn which did this would give.
fn answer(request: &Request, turn: &Written) -> Response {
    let status = match request.method {
        "PUT" => 201,
        _ if request.header("Producer-Id").is_some() && !request.body.is_empty() => 200,
        _ => 204,
    };
    let mut headers = vec![
        ("Cache-Control".into(), "no-store".to_owned()),
        ("Stream-Next-Offset".into(), spell(turn.end)),
    ];
    if let Some(head) = &turn.created {
        headers.push(("Content-Type".into(), head.content_type.clone()));
        headers.push(("Location".into(), head.name.clone()));
    }
    if turn.closed {
        headers.push(("Stream-Closed".into(), "true".to_owned()));
    }
    for name in ["Producer-Epoch", "Producer-Seq"] {
        if let Some(value) = request.header(name) {
            headers.push((name.into(), value.to_owned()));
        }
    }
    Response {
        status,
        headers,
        body: bytes::Bytes::new(),
    }
}

/// Whether a turn has written what the model made of the request.
fn wrote(before: &State, after: &State, request: &Request, turn: &Written) -> bool {
    let Some(incarnation) = &after.incarnation else {
        return false;
    };
    let start = before
        .incarnation
        .as_ref()
        .filter(|it| it.id == incarnation.id);
    let start = start.map_or(0, |it| it.content.len());
    let new = usize::try_from(start).unwrap_or(usize::MAX);
    let same = match &*incarnation.content {
        Content::Messages(messages) => messages
            .get(new..)
            .is_some_and(|messages| messages.iter().eq(turn.records.iter())),
        Content::Run { bytes, .. } => bytes.get(new..) == Some(&*turn.records.concat()),
    };
    let stamp = |stamp: &ProducerStamp| {
        let (epoch, seq) = (stamp.epoch.to_string(), stamp.seq.to_string());
        (stamp.id.clone(), epoch, seq)
    };
    let writer = turn.writer.as_ref().map(stamp);
    let closer = turn.closed_by.as_ref().map(stamp);
    let claim = request.header("Producer-Id").map(|id| {
        let number = |name| request.header(name).unwrap_or_default().to_owned();
        (
            id.to_owned(),
            number("Producer-Epoch"),
            number("Producer-Seq"),
        )
    });
    let stamped = (turn.records.is_empty() || writer == claim) && (!turn.closes || closer == claim);
    let ordered = turn.created.is_some()
        || turn.records.is_empty()
        || turn.stream_seq.as_deref() == request.header("Stream-Seq");
    let expires = turn.created.as_ref().is_none_or(|head| {
        let (ttl, at) = match &head.expiry {
            Expiry::Never => (None, None),
            Expiry::Sliding { seconds } => (Some(seconds.to_string()), None),
            Expiry::At { text, .. } => (None, Some(text.as_str())),
        };
        request.header("Stream-TTL") == ttl.as_deref() && request.header("Stream-Expires-At") == at
    });
    same && stamped && ordered && expires && incarnation.closed == turn.closed
}
