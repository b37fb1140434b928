//! The reference model of sessions: what was appended to each stream, and how far each session is.
//! It knows the durable content of streams, and nothing of calls, pages, rounds or retries.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machine::rows::{HotRow, Incarnation};
use machine::{MemoryRows, Offset};
use serde_json::{Value, json};

use super::judge::answers::{self, Seen};
use super::judge::{envelopes, rows as session_rows};
use super::request::id_of;
use super::view::{Place, View, followers};
use crate::oracles::Violation;
use crate::subscriptions::coverage::Situation;
use crate::subscriptions::model::{Life, Model as Streams};

/// The bytes in front of each stored record.
const FRAME_HEAD: usize = 4;

#[derive(Debug, Default)]
pub(in crate::subscriptions) struct Model {
    pub(super) sources: BTreeMap<Life, Vec<Appended>>,
    /// Which stream of a name exists.
    pub(super) present: BTreeMap<String, Present>,
    /// By their ids.
    pub(super) sessions: BTreeMap<String, Session>,
    /// The request that has begun each subscription, by session and incarnation.
    pub(super) begun: BTreeMap<(String, Incarnation), Begun>,
    /// The subscriptions of each session that each stream has known, the present one last.
    followers: BTreeMap<(String, String), Vec<Incarnation>>,
    /// The request to subscribe that a turn handles.
    pub(super) asking: Option<(String, Begun)>,
}

/// An append that is durable.
#[derive(Clone, Debug)]
pub(super) struct Appended {
    /// The position of its first unit.
    pub(super) start: u64,
    /// The offset behind it.
    pub(super) end: Offset,
    content: Content,
    /// Whether it is too large for an envelope. `None` if it shares its row.
    is_too_large: Option<bool>,
    /// The event in which it became durable, and its time.
    pub(super) since: u64,
    pub(super) at: u64,
}

#[derive(Clone, Debug)]
enum Content {
    Messages(Vec<Value>),
    Bytes(Vec<u8>),
}

/// Which stream of a name exists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present {
    pub(super) incarnation: Option<Incarnation>,
    /// The event since which that is so, and its time.
    pub(super) since: u64,
    pub(super) at: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    pub(super) exists: bool,
    pub(super) has_ended: bool,
    /// The last use that a client knows of.
    pub(super) used_at: Option<u64>,
    /// How many envelopes were read from its rows.
    pub(super) envelopes: u64,
    /// The last envelope of each stream.
    pub(super) has: BTreeMap<Life, Offset>,
}

/// The request that begins a subscription.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) call: u64,
    pub(super) from: Option<Offset>,
    /// The stream and its durable tail at that time.
    pub(super) tail: Option<(Incarnation, Offset)>,
}

impl Appended {
    /// Returns the envelopes of which one is right, for a session that has everything before a
    /// place.
    pub(super) fn envelopes(&self, stream: &str, base: Offset) -> Vec<Value> {
        let envelope = json!({ "stream": stream, "offset": self.end.to_string(), "type": "data" });
        let known = if base.segment == self.end.segment {
            base.position.saturating_sub(self.start)
        } else {
            0
        };
        let known = usize::try_from(known).unwrap_or(0);
        let mut whole = envelope.clone();
        match &self.content {
            Content::Messages(messages) => match &messages[known..] {
                [single] => whole["payload"] = single.clone(),
                several => {
                    whole["payload"] = json!(several);
                    whole["messages"] = json!(several.len());
                }
            },
            Content::Bytes(bytes) => {
                whole["payload"] = json!(STANDARD.encode(&bytes[known..]));
                whole["encoding"] = json!("base64");
            }
        }
        let mut without = envelope;
        without["payload"] = Value::Null;
        without["omitted"] = json!(true);
        match self.is_too_large.filter(|_| known == 0) {
            Some(true) => vec![without],
            Some(false) => vec![whole],
            None => vec![whole, without],
        }
    }
}

/// Returns the records of a row.
pub(super) fn records(row: &HotRow) -> Vec<Vec<u8>> {
    let frames = row.frames.make();
    let (mut records, mut rest) = (Vec::new(), &frames[..]);
    while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD>() {
        let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(0);
        let (record, after) = after.split_at(length);
        records.push(record.to_vec());
        rest = after;
    }
    records
}

/// Returns the appends of a row.
fn appends(
    row: &HotRow,
    segment: u64,
    is_json: bool,
    (since, at): (u64, u64),
    limit: u64,
) -> Vec<Appended> {
    let mut records = records(row).into_iter();
    let mut start = row.key.position();
    let is_too_large = (row.ends.len() == 1).then(|| row.frames.bytes() > limit);
    let appends = row.ends.iter().map(|end| {
        let content = if is_json {
            let count = usize::try_from(end.units).unwrap_or(0);
            let messages = records.by_ref().take(count);
            let parse = |message: Vec<u8>| {
                serde_json::from_slice(&message).expect("a stored message is JSON")
            };
            Content::Messages(messages.map(parse).collect())
        } else {
            Content::Bytes(records.next().expect("an append has content"))
        };
        let begins = start;
        start += end.units;
        Appended {
            start: begins,
            end: Offset::new(segment, start),
            content,
            is_too_large,
            since,
            at,
        }
    });
    appends.collect()
}

impl Model {
    /// Notes what is durable of a stream that sessions can subscribe to.
    pub(super) fn source_is(
        &mut self,
        name: &str,
        rows: &MemoryRows,
        (event, at): (u64, u64),
        limit: u64,
    ) {
        let head = rows.head();
        let incarnation = head.map(|head| head.incarnation);
        let present = self.present.get(name);
        if present.and_then(|present| present.incarnation) != incarnation {
            let present = Present {
                incarnation,
                since: event,
                at,
            };
            self.present.insert(name.to_owned(), present);
        }
        let Some(head) = head else {
            return;
        };
        let known = self.sources.entry((name.to_owned(), head.incarnation));
        let known = known.or_default();
        let is_json = head.content_type == "application/json";
        for row in rows.rows() {
            if known
                .last()
                .is_none_or(|last| last.end.position <= row.key.position())
            {
                known.extend(appends(row, head.segment, is_json, (event, at), limit));
            }
        }
    }

    /// Notes which sessions follow a stream. Returns whether a subscription has come back after
    /// another one of its session.
    pub(super) fn followers_are(&mut self, name: &str, rows: &MemoryRows) -> bool {
        let mut comes_back = false;
        for (session, subscription) in followers(rows) {
            let known = self.followers.entry((name.to_owned(), session));
            let known = known.or_default();
            if known.last() != Some(&subscription) {
                comes_back |= known.contains(&subscription);
                known.push(subscription);
            }
        }
        comes_back
    }

    /// Returns which stream of a name exists.
    pub(super) fn present(&self, name: &str) -> Option<Incarnation> {
        self.present.get(name)?.incarnation
    }

    /// Returns what a session has of a stream that it follows from a place.
    pub(super) fn has(&self, id: &str, stream: &str, from: Place) -> Offset {
        let life = (stream.to_owned(), from.incarnation);
        let known = self.sessions.get(id);
        let last = known.and_then(|known| known.has.get(&life)).copied();
        last.max(from.offset).unwrap_or(Offset::START)
    }

    /// Notes what is durable of a session. Returns what its new envelopes show.
    pub(super) fn session_is(
        &mut self,
        name: &str,
        rows: &MemoryRows,
    ) -> Result<Vec<Situation>, Violation> {
        let id = id_of(name).expect("the object is a session");
        let view = View::of(rows);
        let known = self.sessions.entry(id.to_owned()).or_default();
        session_rows::ended(known, name, view.exists)?;
        if view.exists {
            known.exists = true;
            return envelopes::arrived(self, id, rows, &view);
        }
        known.has_ended |= known.exists;
        known.exists = false;
        Ok(Vec::new())
    }

    /// Notes the request to subscribe that the next turn of a session handles.
    pub(super) fn subscribes(
        &mut self,
        stream: &str,
        (call, from): (u64, Option<Offset>),
        tail: Option<(Incarnation, Offset)>,
    ) {
        self.asking = Some((stream.to_owned(), Begun { call, from, tail }));
    }

    /// Notes a use that a client knows of.
    pub(super) fn used(&mut self, id: &str, at: u64) {
        let session = self.sessions.entry(id.to_owned()).or_default();
        session.used_at = session.used_at.max(Some(at));
    }

    /// Judges a turn of a session.
    pub(super) fn judge_turn(&mut self, seen: &Seen<'_>, streams: &Streams) -> Vec<Violation> {
        if let Some((stream, begun)) = self.asking.take()
            && !seen.before.subscribed.contains_key(&stream)
            && let Some(row) = seen.after.subscribed.get(&stream)
        {
            let key = (seen.id.to_owned(), row.subscription);
            self.begun.insert(key, begun);
        }
        let findings = [
            answers::answered(self, seen, streams),
            answers::begins(self, seen),
            answers::ends(self, seen),
        ];
        findings.into_iter().filter_map(Result::err).collect()
    }
}
