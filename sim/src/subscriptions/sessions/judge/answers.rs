//! What clients are told: a session is subscribed as they were answered, and a session or a
//! subscription ends only for a reason that they know.

use machine::{Answer, Limits, Millis, Offset};
use serde_json::Value;

use super::super::model::Model;
use super::super::request::SessionKind;
use super::super::view::View;
use super::{Finding, violation};
use crate::oracles::Oracle;
use crate::subscriptions::model::Model as Streams;
use crate::subscriptions::outside::{code_of, text_of};

const MILLIS_PER_SECOND: u64 = 1_000;

/// A turn of a session whose writes are applied. Nothing of it has left yet.
pub(in crate::subscriptions::sessions) struct Seen<'a> {
    pub(in crate::subscriptions::sessions) id: &'a str,
    pub(in crate::subscriptions::sessions) before: &'a View,
    pub(in crate::subscriptions::sessions) after: &'a View,
    /// The requests of clients that it answers.
    pub(in crate::subscriptions::sessions) answered: &'a [Asking<'a>],
    /// The clock of the object.
    pub(in crate::subscriptions::sessions) now: Millis,
    pub(in crate::subscriptions::sessions) skew_ms: u64,
    pub(in crate::subscriptions::sessions) limits: &'a Limits,
}

/// A client's request and its answer.
pub(in crate::subscriptions::sessions) struct Asking<'a> {
    pub(in crate::subscriptions::sessions) call: u64,
    pub(in crate::subscriptions::sessions) kind: &'a SessionKind,
    /// The event in which it was sent.
    pub(in crate::subscriptions::sessions) asked: u64,
    pub(in crate::subscriptions::sessions) answer: &'a Answer,
}

impl Asking<'_> {
    fn text(&self) -> String {
        text_of(self.answer)
    }

    fn is_good(&self) -> bool {
        matches!(self.answer.status, 200..=299)
    }
}

/// Judges the answers of a turn.
pub(in crate::subscriptions::sessions) fn answered(
    model: &Model,
    seen: &Seen<'_>,
    streams: &Streams,
) -> Finding {
    for asking in seen.answered {
        let status = asking.answer.status;
        let is_right = match status {
            410 => {
                // It may be forgotten in the same turn.
                let expired_at = seen.before.expired_at.or(seen.after.expired_at);
                !seen.after.exists && expired_at.is_some()
            }
            404 if code_of(&asking.text()) == "session_not_found" => {
                !seen.after.exists && seen.after.expired_at.is_none()
            }
            // Some calls of other objects have failed.
            503 => true,
            200..=299 => is_done(seen, asking),
            400..=499 => is_refused(model, seen, asking, streams),
            _ => false,
        };
        if !is_right {
            let expected = format!("another answer of {} to {:?}", seen.id, asking.kind);
            let actual = format!("{status} {}", asking.text());
            return violation(Oracle::SessionAnswers, expected, actual);
        }
    }
    Ok(())
}

/// Returns whether what a client is told is so.
fn is_done(seen: &Seen<'_>, asking: &Asking<'_>) -> bool {
    let from = |stream: &str| seen.after.subscribed.get(stream).and_then(|row| row.from);
    let is_answered = asking.answer.status == 204;
    let json: Value = serde_json::from_str(&asking.text()).unwrap_or_default();
    let lists = |listed: &Value| {
        let subscribed = seen.after.subscribed.iter();
        let subscribed = subscribed.filter(|(_, row)| row.from.is_some());
        let names: Vec<_> = subscribed.map(|(stream, _)| stream.clone()).collect();
        *listed == serde_json::json!(names)
    };
    match asking.kind {
        SessionKind::Delete => is_answered && !seen.after.exists && seen.after.expired_at.is_none(),
        SessionKind::Subscribe { stream, .. } => is_answered && from(stream).is_some(),
        SessionKind::Unsubscribe { stream } => {
            is_answered && !seen.after.subscribed.contains_key(stream)
        }
        SessionKind::Create => seen.after.exists,
        SessionKind::Read => seen.after.exists,
        SessionKind::Describe => seen.after.exists && lists(&json["subscribedStreams"]),
        SessionKind::List => seen.after.exists && lists(&json),
        SessionKind::Write(_) => false,
    }
}

/// Returns whether a request may be refused. One that has found a subscription that began earlier
/// ends with it.
fn is_refused(model: &Model, seen: &Seen<'_>, asking: &Asking<'_>, streams: &Streams) -> bool {
    let limits = seen.limits;
    let (stream, from) = match asking.kind {
        // Its stream does not exist.
        SessionKind::Read => return asking.answer.status == 404 && !seen.after.exists,
        SessionKind::Subscribe { stream, from } => (stream, from),
        SessionKind::Create
        | SessionKind::Describe
        | SessionKind::Delete
        | SessionKind::List
        | SessionKind::Unsubscribe { .. }
        | SessionKind::Write(_) => return false,
    };
    let before = seen.before.subscribed.get(stream);
    let key = before.map(|row| (seen.id.to_owned(), row.subscription));
    let begun = key.and_then(|key| model.begun.get(&key));
    let is_first = begun.is_some_and(|begun| begun.call == asking.call);
    let present = model.present.get(stream);
    let is_old = present.is_some_and(|it| it.incarnation.is_some() && it.since < asking.asked);
    match asking.answer.status {
        404 => !(is_first && is_old),
        400 => {
            let life = streams.present(stream).map(|(life, _)| life);
            let appends = life.and_then(|life| model.sources.get(&life));
            let was_there = |from: &Offset| {
                let mut all = appends.into_iter().flatten();
                *from == Offset::START
                    || all.any(|append| append.end == *from && append.since < asking.asked)
            };
            !(is_first && is_old) || from.is_some_and(|from| !was_there(&from))
        }
        429 => {
            let is_full = seen.before.subscribed.len() as u64 >= limits.session_streams_max;
            is_full || model.sessions.len() as u64 >= limits.stream_sessions_max
        }
        _ => false,
    }
}

/// Checks where subscriptions begin.
pub(in crate::subscriptions::sessions) fn begins(model: &Model, seen: &Seen<'_>) -> Finding {
    for (stream, row) in &seen.after.subscribed {
        let before = seen.before.subscribed.get(stream);
        let is_same = before.is_some_and(|before| before.subscription == row.subscription);
        let is_known = is_same && before.is_some_and(|before| before.from.is_some());
        if is_known && before != Some(row) {
            let expected = format!("{} in {stream} as it began: {before:?}", seen.id);
            return violation(Oracle::SessionAnswers, expected, format!("{row:?}"));
        }
        let Some(from) = row.from.filter(|_| !is_known) else {
            continue;
        };
        let Some(begun) = model.begun.get(&(seen.id.to_owned(), row.subscription)) else {
            let expected = format!("a request to subscribe {} to {stream}", seen.id);
            return violation(Oracle::SessionAnswers, expected, format!("{row:?}"));
        };
        let offset = from.offset.unwrap_or(Offset::START);
        let is_right = match begun.from {
            Some(asked) => offset == asked,
            None => begun
                .tail
                .is_none_or(|(of, tail)| of != from.incarnation || offset >= tail),
        };
        if !is_right {
            let expected = format!("{} in {stream} as asked for: {begun:?}", seen.id);
            return violation(Oracle::SessionAnswers, expected, format!("{row:?}"));
        }
    }
    Ok(())
}

/// Checks why a session or a subscription ends.
pub(in crate::subscriptions::sessions) fn ends(model: &Model, seen: &Seen<'_>) -> Finding {
    let (before, after, now) = (seen.before, seen.after, seen.now);
    let mut asked = seen.answered.iter().filter(|asking| asking.is_good());
    if before.exists && !after.exists {
        if asked.any(|asking| matches!(asking.kind, SessionKind::Delete)) {
            return Ok(());
        }
        return expires(model, seen);
    }
    if let Some(at) = before.expired_at
        && after.expired_at.is_none()
        && now < at.plus(seen.limits.session_tombstone_ms)
    {
        let expected = format!("{} remembered since {at:?}", seen.id);
        return violation(Oracle::SessionAnswers, expected, format!("not at {now:?}"));
    }
    for (stream, row) in &before.subscribed {
        let is_there = after.subscribed.get(stream);
        if is_there.is_some_and(|now| now.subscription == row.subscription) {
            continue;
        }
        let is_asked = asked.clone().any(|asking| {
            matches!(asking.kind, SessionKind::Unsubscribe { stream: ended } if ended == stream)
        });
        // A subscription that has not begun is refused.
        let has_ended = row
            .from
            .is_none_or(|from| model.present(stream) != Some(from.incarnation));
        if !is_asked && !has_ended {
            let expected = format!("{} subscribed to {stream}: {row:?}", seen.id);
            return violation(Oracle::SessionAnswers, expected, "it ends");
        }
    }
    Ok(())
}

/// Checks that a session which nobody deletes has expired.
fn expires(model: &Model, seen: &Seen<'_>) -> Finding {
    let limits = seen.limits;
    let known = model.sessions.get(seen.id);
    let used_at = known.and_then(|known| known.used_at).unwrap_or(0);
    let ends_at = used_at + limits.session_ttl_seconds * MILLIS_PER_SECOND;
    let is_early = seen.now.0 + 2 * seen.skew_ms < ends_at;
    let is_forgotten = limits.session_tombstone_ms > 0 && seen.after.expired_at != Some(seen.now);
    if is_early || is_forgotten {
        let expected = format!("{} until {ends_at}, and remembered", seen.id);
        let actual = format!("{:?} at {:?}", seen.after, seen.now);
        return violation(Oracle::SessionAnswers, expected, actual);
    }
    Ok(())
}
