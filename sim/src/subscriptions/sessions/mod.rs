//! Sessions: clients subscribe them to streams, and each append arrives in the stream of the
//! session as an envelope.
//!
//! A stream with many of them tells them through a queue, which may bring messages late, twice and
//! in any order. They share the streams, the calls and everything that breaks with subscriptions. A
//! run draws whether it has any. All of their decisions are on the second tape, and those on the
//! queue on the third, so that older tapes have none.

pub(super) mod judge;
mod model;
mod queue;
pub(super) mod request;
mod settings;
pub(super) mod view;
mod workload;

use machine::{Answer, Body, Effect, MemoryRows, Millis, Turn};

use super::coverage::Situation;
use super::outside::code_of;
use super::request::Kind;
use super::world::{Caller, World};
use judge::answers::{Asking, Seen};
use model::Model;
use request::{SessionKind, is_session};
use view::View;

pub use settings::Settings;

/// What the world knows of sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    pub(super) model: Model,
    /// How many ids clients have asked for.
    created: u64,
    queue: queue::FanoutQueue,
}

/// Writes the content of an answer that comes from rows, as they are after the turn.
pub(super) fn render(effect: &mut Effect, rows: &MemoryRows) -> Result<(), String> {
    let Effect::Answer { answer, .. } = effect else {
        return Ok(());
    };
    let Body::Plan(plan) = &answer.body else {
        return Ok(());
    };
    let mut bytes = Vec::new();
    let writer = plan.begin(|span| rows.frames(span));
    let mut writer = writer.map_err(|error| error.to_string())?;
    let fetch = writer.advance(&mut bytes);
    let fetch = fetch.map_err(|error| error.to_string())?;
    if fetch.is_some() || plan.rest.is_some() {
        return Err("an answer of more than one hot page".to_owned());
    }
    answer.body = Body::Bytes(bytes);
    Ok(())
}

impl World<'_, '_> {
    /// Judges a turn of a session. Nothing of it has left yet.
    pub(super) fn session_turn(&mut self, name: &str, before: &View, turn: &Turn, now: Millis) {
        let rows = &self.objects[name].rows;
        let after = View::of(rows);
        let id = request::id_of(name).expect("the object is a session");
        let mut answered = Vec::new();
        for effect in &turn.after_commit {
            if let Effect::Answer { call, answer } = effect
                && let Some(pending) = self.calls.get(&call.0)
                && let Caller::Client { request, asked, .. } = &pending.caller
                && let Kind::Session(kind) = &request.kind
            {
                answered.push(Asking {
                    call: call.0,
                    kind,
                    asked: *asked,
                    answer,
                });
            }
        }
        let seen = Seen {
            id,
            before,
            after: &after,
            answered: &answered,
            now,
            skew_ms: self.settings.skew_ms,
            limits: &self.settings.limits,
        };
        let findings = self.sessions.model.judge_turn(&seen, &self.model);
        let has_expired = before.exists && !after.exists && after.expired_at.is_some();
        let is_forgotten = before.expired_at.is_some() && after.expired_at.is_none();
        for finding in findings {
            self.judged(Err(finding));
        }
        if has_expired {
            self.cover(Situation::SessionExpired);
        }
        if is_forgotten {
            self.cover(Situation::SessionForgotten);
        }
    }

    /// Notes that a client's call has begun, if it is to subscribe a session.
    pub(super) fn session_called(&mut self, name: &str, call: u64) {
        self.sessions.model.asking = None;
        if let Some(pending) = self.calls.get(&call)
            && let Caller::Client { request, .. } = &pending.caller
            && let Kind::Session(SessionKind::Subscribe { stream, from }) = &request.kind
            && is_session(name)
        {
            let tail = self.model.present(stream);
            let tail = tail.map(|(life, known)| (life.1, known.tail));
            let model = &mut self.sessions.model;
            model.subscribes(stream, (call, *from), tail);
        }
    }

    /// Judges what is durable of an object.
    pub(super) fn session_committed(&mut self, name: &str) {
        let rows = &self.objects[name].disk;
        let finding = if is_session(name) {
            let finding = self.sessions.model.session_is(name, rows);
            finding.map(|envelopes| {
                for situation in envelopes {
                    self.recorder.coverage.cover(situation);
                }
            })
        } else {
            let now = (self.events, self.now);
            let limit = self.settings.limits.envelope_bytes_max;
            self.sessions.model.source_is(name, rows, now, limit);
            if self.sessions.model.followers_are(name, rows) {
                self.recorder.coverage.cover(Situation::FormerSubscription);
            }
            Ok(())
        };
        self.judged(finding);
    }

    /// Notes what a client learns. `at` is when it has asked.
    pub(super) fn session_answered(
        &mut self,
        id: &str,
        kind: &SessionKind,
        answer: &Answer,
        text: &str,
        at: u64,
    ) {
        let code = code_of(text);
        let situation = match (kind, answer.status, code.as_str()) {
            (SessionKind::Create, 201, _) => Some(Situation::SessionCreated),
            (SessionKind::Delete, 204, _) => Some(Situation::SessionDeleted),
            (SessionKind::Subscribe { from: None, .. }, 204, _) => {
                Some(Situation::SessionSubscribed)
            }
            (SessionKind::Subscribe { from: Some(_), .. }, 204, _) => {
                Some(Situation::SessionSubscribedFrom)
            }
            (SessionKind::Subscribe { .. }, 400, _) => Some(Situation::SessionNoSuchOffset),
            (SessionKind::Subscribe { .. }, 429, _) => Some(Situation::SessionLimit),
            (SessionKind::Subscribe { .. }, 404, "stream_not_found") => {
                Some(Situation::SessionNoStream)
            }
            (SessionKind::Unsubscribe { .. }, 204, _) => Some(Situation::SessionUnsubscribed),
            (SessionKind::Read, 200, _) => Some(Situation::SessionRead),
            (_, 410, _) => Some(Situation::SessionGone),
            (_, 404, "session_not_found") => Some(Situation::SessionUnknown),
            _ => None,
        };
        if let Some(situation) = situation {
            self.cover(situation);
        }
        if matches!(answer.status, 200..=299) {
            self.sessions.model.used(id, at);
        }
    }

    /// Checks what sessions have once nothing has broken for a while.
    pub(super) fn check_sessions(&mut self) {
        let old = self.now.saturating_sub(self.settings.rest_ms() / 2);
        let rows: Vec<_> = self
            .objects
            .iter()
            .map(|(name, object)| (name.as_str(), &object.disk))
            .collect();
        let model = &self.sessions.model;
        let mut finding = judge::gaps::judge(model, &rows, old);
        finding = finding.and_then(|()| judge::rows::subscribed(model, &rows, old));
        if self.is_in_order() {
            finding = finding.and_then(|()| judge::rows::in_step(&rows));
        }
        let is_live =
            |(name, rows): &(&str, &MemoryRows)| is_session(name) && rows.head().is_some();
        if rows.iter().any(is_live) {
            self.recorder.coverage.cover(Situation::SessionAtRest);
        }
        self.judged(finding);
    }

    /// Checks that nothing is left of any session.
    pub(super) fn check_no_sessions(&mut self) {
        let mut objects = self.objects.iter();
        let finding =
            objects.try_for_each(|(name, object)| judge::rows::nothing(name, &object.disk));
        self.judged(finding);
    }

    /// Judges whether a client may write the stream of a session.
    pub(super) fn session_write(&mut self, is_let_in: bool) {
        self.cover(Situation::SessionWriteRefused);
        self.judged(judge::writers::let_in(is_let_in));
    }
}
