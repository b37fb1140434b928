//! The turns that became durable: each must be one that a client has asked for, exactly once.

use std::rc::Rc;

use machine::rows::{Expiry, Incarnation, ProducerStamp, StreamRow};
use sim::cold_tier::{self, Objects};
use sim::model::{Content, Forking, Mismatch, State, TurnFacts};
use sim::oracles::Oracle;
use sim::request::{Request, Response, excerpt};
use sim::segments::spell;

use super::{Attempt, Cause, Judge, LINGERS_MS, Notable, Version, stream};
use crate::storage::{Logged, Written};

impl Judge {
    /// Takes what has become durable.
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
            Logged::Damaged { name, at } => {
                if let Some(name) = self.index(&name) {
                    self.names[name].damaged_at = Some(at);
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

    pub(super) fn index(&self, name: &str) -> Option<usize> {
        (0..self.names.len()).find(|each| stream(*each) == name)
    }

    pub(super) fn is_under_way(attempt: &Attempt, now: u64) -> bool {
        attempt.over_at.is_none_or(|over| over + LINGERS_MS > now)
    }

    /// Judges a turn that has become durable.
    pub(super) fn turn(
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
        let known = |fork: &Incarnation| self.machines.contains_key(&fork.0);
        if turn.released.iter().any(|fork| !known(fork)) {
            self.notable.push(Notable::Abandoned);
        }
        let ends = turn.dropped || turn.hides;
        if let Some(ended) = self.ended_by(name, turn) {
            self.may_end(name, ended, turn.hides)?;
        }
        let facts = TurnFacts {
            now: turn.now,
            // A request under way may have used the stream at any time.
            attached: if ends { 0 } else { used },
            dropped: ends,
            hidden: turn.hides,
            kept: false,
            page_end: None,
            has_rest: false,
            sealed: turn.sealed,
        };
        let appends = !turn.records.is_empty() || turn.created.is_some() || turn.closes;
        let before = self.names[name].model.state.clone();
        if !appends && turn.dropped && before.hidden.is_some() {
            self.names[name].model.state.hidden = None;
            self.notable.push(Notable::Freed);
            self.push(name, at, turn, false);
            return Ok(());
        }
        if !appends && !ends {
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
                    if turn.hides {
                        self.notable.push(Notable::ExpiredHidden);
                    }
                }
                Err(mismatch) => {
                    let response = Response {
                        status: 204,
                        headers: vec![("Cache-Control".into(), "no-store".to_owned())],
                        body: bytes::Bytes::new(),
                    };
                    let deletes = |attempt: &Attempt| attempt.request.method == "DELETE";
                    // A request whose precondition fails has deleted nothing.
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
                    if turn.hides {
                        self.notable.push(Notable::DeletedHidden);
                    }
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
            let inherits = match &turn.created {
                Some(head) => self.inheritance(attempt, head).map(Rc::new),
                None => None,
            };
            let is_fork = |head: &StreamRow| head.lineage.fork.is_some();
            if turn.created.as_ref().is_some_and(is_fork) && inherits.is_none() {
                continue;
            }
            let model = &mut self.names[name].model;
            model.forking = Forking {
                inherits: inherits.clone(),
                ..Forking::default()
            };
            match model.after(before.clone(), &request, &response, &facts) {
                Ok(after) if wrote(&before, &after, &request, turn) => {
                    let verdict = model.answered(&request, &response, &facts);
                    verdict.map_err(|mismatch| (Oracle::Model, mismatch))?;
                    if turn.created.is_some() && model.incarnations() > 1 {
                        self.notable.push(Notable::CreatedAgain);
                    }
                    self.attempts[attempt].applied = true;
                    self.push(name, at, turn, true);
                    if let Some(head) = &turn.created {
                        self.entered(name, head, inherits.as_ref())?;
                    }
                    let version = self.names[name].versions.last_mut();
                    version.expect("one was pushed").cause.inherits = inherits;
                    return Ok(());
                }
                Ok(_) => {}
                Err(mismatch) => nearest = Some(mismatch),
            }
        }
        if let Some([append, close]) = turn.apart() {
            self.turn(name, at, &append, after_crash)?;
            return self.turn(name, at, &close, after_crash);
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

    /// Returns the incarnation that a turn ends, or that it frees.
    fn ended_by(&self, name: usize, turn: &Written) -> Option<u64> {
        let state = &self.names[name].model.state;
        let present = state.incarnation.as_ref().or(state.hidden.as_deref());
        present
            .filter(|_| turn.dropped || turn.hides)
            .map(|present| present.id)
    }

    /// Returns the requests that may have asked for a turn.
    pub(super) fn candidates(
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

    pub(super) fn push(&mut self, name: usize, at: u64, turn: &Written, changes: bool) {
        let state = self.names[name].model.state.clone();
        self.names[name].versions.push(Version {
            at,
            state,
            cause: Cause {
                now: turn.now,
                dropped: turn.dropped || turn.hides,
                hidden: turn.hides,
                sealed: turn.sealed,
                inherits: None,
                changes,
                shown: false,
            },
        });
    }
}

/// Returns the answer that a turn with these writes gives.
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

/// Returns whether a turn has written what the model made of the request.
fn wrote(before: &State, after: &State, request: &Request, turn: &Written) -> bool {
    let Some(incarnation) = &after.incarnation else {
        return false;
    };
    let start = before
        .incarnation
        .as_ref()
        .filter(|it| it.id == incarnation.id);
    let inherited = incarnation.fork.as_ref().map_or(0, |fork| fork.cut);
    let start = start.map_or(inherited, |it| it.content.len());
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
        let own_ttl = incarnation.ttl_ms().map(|ms| (ms / 1_000).to_string());
        ttl == own_ttl && incarnation.expires() == at
    });
    same && stamped && ordered && expires && incarnation.closed == turn.closed
}
