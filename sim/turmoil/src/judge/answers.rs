//! Answers: each must be allowed in a version between the one that was durable when it was asked
//! for and the last one.

use sim::ids::{Id as _, ObjectId};
use sim::model::{Mismatch, TurnFacts};
use sim::oracles::{Position, units};
use sim::request::{Request, Response};
use sim::segments::token;

use super::{Attempt, Judge, Name, Notable};

impl Judge {
    /// Judges a whole answer.
    ///
    /// # Errors
    ///
    /// When it could not be given at any time since it was asked for.
    pub(crate) fn answered(
        &mut self,
        attempt: usize,
        response: &Response,
        now: u64,
    ) -> Result<(), Mismatch> {
        self.over(attempt, now);
        let (name, request) = self.asked(attempt);
        let Attempt { sent_at, from, .. } = self.attempts[attempt];
        if response.header("Cache-Control").is_none() {
            return Err(mismatch("a Cache-Control", response));
        }
        if response.status >= 500 {
            let is_refusal = response.status == 503 && response.header("Retry-After").is_some();
            let damaged_at = self.names[name].damaged_at;
            let is_damaged = response.status == 500 && damaged_at.is_some_and(|at| at >= sent_at);
            return if is_refusal || is_damaged {
                Ok(())
            } else {
                let expected = "503 with Retry-After, or 500 of a damaged row, if anything";
                Err(mismatch(expected, response))
            };
        }
        if response.status == 408 && !request.body.is_empty() {
            // No rule of the machine decides about a body that came too slowly.
            return Ok(());
        }
        if matches!(response.status, 400 | 413)
            && self.names[name].model.refused(&request, response).is_ok()
        {
            return Ok(());
        }
        self.tell_source(attempt);
        let live = request.parameter("live").is_some();
        let changing = response.status < 300 && matches!(request.method, "PUT" | "POST" | "DELETE");
        let mut nearest = None;
        for version in from..self.names[name].versions.len() {
            let state = self.names[name].versions[version].state.clone();
            let then = Position::of(&state);
            let unchanged = TurnFacts::of_read(sent_at, false);
            if changing && let Some(next) = self.names[name].versions.get(version + 1) {
                let facts = TurnFacts {
                    now: next.cause.now,
                    dropped: next.cause.dropped,
                    hidden: next.cause.hidden,
                    sealed: next.cause.sealed,
                    attached: u64::from(!next.cause.dropped),
                    ..unchanged
                };
                let (position, open) = (
                    Position::of(&next.state),
                    next.cause.changes && !next.cause.shown,
                );
                let inherits = next.cause.inherits.clone();
                let model = &mut self.names[name].model;
                model.forking.inherits = inherits;
                let after = model.after(state.clone(), &request, response, &facts);
                model.forking.inherits = None;
                if open && after.is_ok_and(|after| Position::of(&after) == position) {
                    self.names[name].versions[version + 1].cause.shown = true;
                    return self.observe(name, &request, response, position);
                }
            }
            match self.names[name]
                .model
                .after(state, &request, response, &unchanged)
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
        // One turn can end an expired stream and create another.
        if live && matches!(response.status, 404 | 410) && self.has_turned_over(attempt) {
            return Ok(());
        }
        Err(nearest.unwrap_or_else(|| mismatch("an answer", response)))
    }

    /// Judges the beginning of an answer to a plain read that broke off.
    ///
    /// # Errors
    ///
    /// When it is not the beginning of an answer that could be given at any time since it was asked
    /// for.
    pub(crate) fn broke_off(
        &mut self,
        attempt: usize,
        response: &Response,
    ) -> Result<(), Mismatch> {
        let (name, request) = self.asked(attempt);
        let Attempt { sent_at, from, .. } = self.attempts[attempt];
        if !self.names[name].model.bounds.whole_reads || response.body.is_empty() {
            return Ok(());
        }
        let facts = TurnFacts::of_read(sent_at, true);
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

    /// Judges that the content in an answer is what was always shown there.
    pub(super) fn observe(
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

    /// Judges the answer of a long-poll that waited at the tail.
    pub(super) fn polled(
        &mut self,
        attempt: usize,
        response: &Response,
        now: u64,
    ) -> Result<(), Mismatch> {
        let (name, request) = self.asked(attempt);
        let Attempt { sent_at, from, .. } = self.attempts[attempt];
        let versions = &self.names[name].versions;
        let model = &self.names[name].model;
        let closed = response.is_true("Stream-Closed");
        for (at, version) in versions.iter().enumerate().skip(from) {
            let Some(incarnation) = &version.state.incarnation else {
                continue;
            };
            let next_offset = response.header("Stream-Next-Offset").and_then(token);
            let Some(next) =
                next_offset.and_then(|token| model.segments(incarnation.id).position_sent(token))
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
            // The versions in which it can have been at the tail.
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
                let (client, cursor) = (request.cursor(), response.cursor());
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

    /// Returns whether a stream has ended, or another begun, since the attempt began. A long-poll
    /// that reconnects then finds another stream, and is answered about the one that it knew.
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

    /// Returns when the version that an answer shows was no longer the last.
    pub(crate) fn outdated_at(&self, attempt: usize, response: &Response) -> Option<u64> {
        let Attempt { name, from, .. } = self.attempts[attempt];
        let Name {
            model, versions, ..
        } = &self.names[name];
        let next_offset = response.header("Stream-Next-Offset").and_then(token)?;
        let mut latest = None;
        for (at, version) in versions.iter().enumerate().skip(from) {
            let Some(incarnation) = &version.state.incarnation else {
                continue;
            };
            if model.segments(incarnation.id).position_sent(next_offset)
                == Some(incarnation.content.len())
            {
                latest = Some(at);
            }
        }
        versions.get(latest? + 1).map(|version| version.at)
    }
}

pub(super) fn mismatch(expected: &str, response: &Response) -> Mismatch {
    Mismatch {
        expected: expected.to_owned(),
        actual: response.line(),
    }
}
