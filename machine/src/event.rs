//! What operators count: the events of a turn, as data points of a time series.
//!
//! A turn has at most one event of each kind, and one refusal for each status, so that a turn with
//! many appends is one data point, too.

use std::collections::BTreeMap;

use crate::admin::json::{Object, quoted};
use crate::plan::{FRAME_OVERHEAD, Part};
use crate::rows::Write;
use crate::wire::Format;
use crate::wire::cursor::splitmix64;
use crate::{Answer, Appended, Body, Call, Effect, Input, Millis, StreamEnd, Turn};

/// The version of the layout of data points.
pub(crate) const SCHEMA: &str = "1";

/// The longest index that a data point can have.
const INDEX_BYTES_MAX: usize = 96;

/// The events of a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The canonical name of the stream. It is empty if no stream exists.
    pub stream: String,
    /// For how many events of its kind each of these stands.
    pub weight: u64,
    /// The events. Their number is small.
    pub events: Vec<Event>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What has happened.
    pub kind: EventKind,
    /// The requests that it stands for.
    pub calls: u64,
    /// Messages of a JSON stream, appends of any other. Reads of other streams do not count them.
    pub messages: u64,
    /// Bytes without framing. Reads of JSON streams do not count them.
    pub bytes: u64,
    /// How long it took. `None` is the time until the turn is durable, which the shell measures.
    pub duration_ms: Option<u64>,
    /// The status of a refusal, and otherwise 0.
    pub status: u16,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A stream was created.
    Create,
    /// Appends were stored.
    Append,
    /// A stream was closed after its creation.
    Close,
    /// A page was read.
    Read,
    /// A live reader waits at the tail.
    LiveStart,
    /// A live reader has left.
    LiveEnd,
    /// A stream was deleted.
    Delete,
    /// A stream has expired.
    Expire,
    /// A segment was sealed.
    Seal,
    /// A segment is in the cold tier.
    Store,
    /// A stream has refused a request.
    Refuse,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Create,
        Self::Append,
        Self::Close,
        Self::Read,
        Self::LiveStart,
        Self::LiveEnd,
        Self::Delete,
        Self::Expire,
        Self::Seal,
        Self::Store,
        Self::Refuse,
    ];

    /// Returns the name in data points.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Append => "append",
            Self::Close => "close",
            Self::Read => "read",
            Self::LiveStart => "live-start",
            Self::LiveEnd => "live-end",
            Self::Delete => "delete",
            Self::Expire => "expire",
            Self::Seal => "seal",
            Self::Store => "store",
            Self::Refuse => "refuse",
        }
    }
}

/// What an input asks for, as far as events depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Appends,
    Delete,
    Read,
    LiveEnd,
    Other,
}

impl Asked {
    /// Returns what the input asks for; `None` if the admin API asks, which nobody counts.
    pub(crate) const fn of(input: &Input) -> Option<Self> {
        Some(match input {
            Input::Call { call, .. } => match call {
                Call::Admin(_) | Call::Control(_) => return None,
                Call::Append(_) => Self::Appends,
                Call::Delete(_) => Self::Delete,
                Call::Read(_) => Self::Read,
                Call::Create(_)
                | Call::Metadata
                | Call::Fork(_)
                | Call::Link(_)
                | Call::Session(_) => Self::Other,
            },
            Input::Appends(_) => Self::Appends,
            Input::Continue { .. } => Self::Read,
            Input::SubscriberLeft { .. } => Self::LiveEnd,
            Input::Alarm
            | Input::PutFinished { .. }
            | Input::CollectFinished { .. }
            | Input::CallFinished { .. }
            | Input::IndexFinished { .. }
            | Input::EnqueueFinished { .. } => Self::Other,
        })
    }
}

/// Returns the events of a turn.
pub(crate) fn events(asked: Asked, now: Millis, turn: &Turn) -> Vec<Event> {
    let mut all = Vec::new();
    let mut refused: BTreeMap<u16, u64> = BTreeMap::new();
    let (mut succeeded, mut attached, mut read) = (0, 0, Appended::default());
    for effect in &turn.after_commit {
        if let Effect::Attach { .. } = effect {
            attached += 1;
        } else if let Effect::Answer { answer, .. } = effect {
            if answer.status >= 400 {
                *refused.entry(answer.status).or_default() += 1;
            } else {
                succeeded += 1;
                read += content(answer);
            }
        }
    }
    let mut push = |kind, calls, of: Appended, duration_ms| {
        all.push(Event {
            kind,
            calls,
            messages: of.messages,
            bytes: of.bytes,
            duration_ms,
            status: 0,
        });
    };
    let none = Appended::default();
    match turn.broadcast.as_ref().and_then(|live| live.end) {
        // An expired stream is gone before its request is handled.
        Some(StreamEnd::Deleted) if asked == Asked::Delete && succeeded > 0 => {
            push(EventKind::Delete, 1, none, None);
        }
        Some(StreamEnd::Deleted) => push(EventKind::Expire, 0, none, None),
        Some(StreamEnd::Closed) => push(EventKind::Close, 1, none, None),
        None => {}
    }
    for write in &turn.writes {
        if let Write::InsertStream(_) = write {
            push(EventKind::Create, 1, turn.appended, None);
        } else if let Write::InsertSegment(segment) = write {
            let sums = of_segment(segment.messages, segment.bytes);
            push(EventKind::Seal, 0, sums, None);
        } else if let Write::UpdateSegment(segment) = write
            && segment.stored.is_some()
        {
            let took = now.0.saturating_sub(segment.attempted_at.0);
            let sums = of_segment(segment.messages, segment.bytes);
            push(EventKind::Store, 0, sums, Some(took));
        }
    }
    match asked {
        Asked::Appends if turn.appended.messages > 0 => {
            push(EventKind::Append, succeeded, turn.appended, None);
        }
        Asked::Read if succeeded > 0 => push(EventKind::Read, succeeded, read, None),
        Asked::LiveEnd => push(EventKind::LiveEnd, 1, none, None),
        Asked::Appends | Asked::Delete | Asked::Read | Asked::Other => {}
    }
    if attached > 0 {
        push(EventKind::LiveStart, attached, none, None);
    }
    all.extend(refused.into_iter().map(|(status, calls)| Event {
        kind: EventKind::Refuse,
        calls,
        messages: 0,
        bytes: 0,
        duration_ms: None,
        status,
    }));
    all
}

/// Returns what an answer contains, as far as its plan says.
fn content(answer: &Answer) -> Appended {
    let Body::Plan(plan) = &answer.body else {
        return Appended::default();
    };
    let units = plan.parts.iter().map(|part| match part {
        Part::Hot(part) => part.count,
        Part::Cold(part) => part.count,
    });
    let units = units.sum();
    match plan.format {
        Format::Json => Appended {
            messages: units,
            bytes: 0,
        },
        Format::Text | Format::Binary => Appended {
            messages: 0,
            bytes: units,
        },
    }
}

const fn of_segment(messages: u64, framed: u64) -> Appended {
    Appended {
        messages,
        bytes: framed.saturating_sub(messages * FRAME_OVERHEAD),
    }
}

/// Returns whether the event of this number is one of the sample.
pub(crate) const fn is_sampled(instance_seed: u64, number: u64, weight: u64) -> bool {
    splitmix64(instance_seed ^ splitmix64(number)).is_multiple_of(weight)
}

impl Events {
    /// Returns the data points, as a JSON array. The shell puts the duration that it has measured
    /// in the place of `null`.
    #[must_use]
    pub fn points(&self) -> String {
        let name = quoted(&self.stream);
        let index = quoted(&index(&self.stream));
        let points = self.events.iter().map(|event| {
            let duration = event
                .duration_ms
                .map_or_else(|| "null".to_owned(), |took| took.to_string());
            let (kind, status) = (event.kind.name(), event.status);
            let blobs = format_args!("[\"{SCHEMA}\",\"{kind}\",{name},\"{status}\"]");
            let doubles = format_args!(
                "[{},{},{},{duration},{}]",
                event.calls, event.messages, event.bytes, self.weight
            );
            Object::new()
                .json("indexes", &format_args!("[{index}]"))
                .json("blobs", &blobs)
                .json("doubles", &doubles)
                .finish()
        });
        format!("[{}]", points.collect::<Vec<_>>().join(","))
    }
}

/// Returns the index of a stream's data points: its name, or as much of it as there is room for and
/// a digest. It has no character that has a meaning in a text of SQL.
pub(crate) fn index(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\'' | b'"' | b'\\');
    if name.len() <= INDEX_BYTES_MAX && name.bytes().all(is_plain) {
        return name.to_owned();
    }
    let digest = name
        .bytes()
        .fold(0, |digest, byte| splitmix64(digest ^ u64::from(byte)));
    let digest = format!("~{digest:016x}");
    let kept = name.bytes().take(INDEX_BYTES_MAX - digest.len());
    let kept = kept.map(|byte| char::from(if is_plain(byte) { byte } else { b'_' }));
    kept.chain(digest.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_have_the_layout_of_their_schema() {
        let event = Event {
            kind: EventKind::Append,
            calls: 2,
            messages: 3,
            bytes: 40,
            duration_ms: None,
            status: 0,
        };
        let refusal = Event {
            kind: EventKind::Refuse,
            calls: 1,
            messages: 0,
            bytes: 0,
            duration_ms: Some(7),
            status: 409,
        };
        let events = Events {
            stream: "a/b".to_owned(),
            weight: 5,
            events: vec![event, refusal],
        };
        assert_eq!(
            events.points(),
            "[{\"indexes\":[\"a/b\"],\"blobs\":[\"1\",\"append\",\"a/b\",\"0\"],\
             \"doubles\":[2,3,40,null,5]},\
             {\"indexes\":[\"a/b\"],\"blobs\":[\"1\",\"refuse\",\"a/b\",\"409\"],\
             \"doubles\":[1,0,0,7,5]}]"
        );
    }

    #[test]
    fn an_index_is_short_plain_and_differs_for_each_name() {
        assert_eq!(index("a/b%20c"), "a/b%20c");
        assert_eq!(index(""), "");
        let longest = "x".repeat(INDEX_BYTES_MAX);
        assert_eq!(index(&longest), longest);
        let names = [
            format!("{longest}y"),
            format!("{longest}z"),
            "it's".to_owned(),
            "it_s".to_owned(),
            "it\"s".to_owned(),
            "a\\".to_owned(),
            "x".repeat(1_024),
        ];
        let indexes: std::collections::BTreeSet<_> = names.iter().map(|name| index(name)).collect();
        assert_eq!(indexes.len(), names.len());
        for index in indexes {
            assert!(index.len() <= INDEX_BYTES_MAX && !index.contains(['\'', '"', '\\']));
        }
    }

    #[test]
    fn a_sample_has_about_its_share_of_all_events() {
        for weight in [1, 2, 10, 100] {
            let taken = (0..100_000).filter(|number| is_sampled(7, *number, weight));
            let expected = 100_000 / weight;
            let taken = taken.count() as u64;
            assert!(
                taken.abs_diff(expected) <= expected / 10,
                "{weight}: {taken}"
            );
            assert!(weight > 1 || taken == expected);
        }
    }
}
