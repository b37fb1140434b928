//! GET: where a read begins, and how it goes on.

use super::{RequestHead, safe_integer};
use crate::offset::Offset;
use crate::wire::{CacheMode, header, internal_headers};
use crate::{Class, Refusal};

/// GET (protocol 5.6, 5.7, 5.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Where the read begins.
    pub from: StartOffset,
    /// Whether and how the reader waits at the tail.
    pub live: Option<Class>,
    /// The `id` of the last event that an SSE client has seen. It takes precedence over `from`,
    /// unless this stream cannot have sent it.
    pub last_event_id: Option<Offset>,
    /// The client's echo of the last cursor.
    pub cursor: Option<u64>,
    /// The `If-None-Match` header.
    pub if_none_match: Option<String>,
    /// Whether shared caches may store the answer.
    pub cache_mode: CacheMode,
}

impl Read {
    /// Returns the same read, continued from the reader's current position.
    #[must_use]
    pub fn again_from(&self, position: Offset) -> Self {
        Self {
            from: StartOffset::Offset(position),
            last_event_id: None,
            ..self.clone()
        }
    }
}

/// Where a read begins (protocol 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOffset {
    /// The beginning of the stream.
    Start,
    /// The present tail.
    Now,
    /// This offset.
    Offset(Offset),
}

pub(crate) fn read(head: RequestHead<'_>) -> Result<Read, Refusal> {
    let query = query(head.target);
    let live = match parameter(query, "live", "the live parameter is given twice")?.as_deref() {
        None => None,
        Some("long-poll") => Some(Class::LongPoll),
        Some("sse") => Some(Class::Sse),
        Some(_) => return Err(Refusal::Malformed("live must be long-poll or sse")),
    };
    let from = match parameter(query, "offset", "the offset parameter is given twice")?.as_deref() {
        None if live.is_some() => return Err(Refusal::Malformed("a live read needs an offset")),
        None | Some("-1") => StartOffset::Start,
        Some("now") => StartOffset::Now,
        Some(text) => StartOffset::Offset(
            text.parse()
                .map_err(|_| Refusal::Malformed("the offset is malformed"))?,
        ),
    };
    let last_event_id = (head.header)(header::LAST_EVENT_ID).filter(|_| live == Some(Class::Sse));
    Ok(Read {
        from,
        live,
        last_event_id: last_event_id.and_then(|id| id.trim().parse().ok()),
        cursor: cursor(query),
        if_none_match: (head.header)(header::IF_NONE_MATCH),
        cache_mode: (head.header)(internal_headers::CACHE_MODE)
            .and_then(|name| CacheMode::from_name(&name))
            .unwrap_or_default(),
    })
}

/// Parses the client's echo of the last cursor. A value that this server cannot have sent is
/// ignored (protocol 10.1), because it says nothing about what the client has seen.
fn cursor(query: &str) -> Option<u64> {
    let text = parameter(query, "cursor", "").ok().flatten()?;
    let cursor = safe_integer(&text)?;
    (cursor.to_string() == text).then_some(cursor)
}

/// Returns whether the target asks for a live read.
#[must_use]
pub fn is_live(method: &str, target: &str) -> bool {
    method == "GET"
        && form_urlencoded::parse(query(target).as_bytes()).any(|(name, _)| name == "live")
}

/// Returns the query of a target, without the fragment.
fn query(target: &str) -> &str {
    let target = target.split_once('#').map_or(target, |(target, _)| target);
    target.split_once('?').map_or("", |(_, query)| query)
}

fn parameter(query: &str, name: &str, repeated: &'static str) -> Result<Option<String>, Refusal> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(each, _)| each == name);
    let first = values.next().map(|(_, value)| value.into_owned());
    if values.next().is_some() {
        Err(Refusal::Malformed(repeated))
    } else {
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SAFE_INTEGER_MAX;
    use crate::wire::request::tests::parsed;
    use crate::wire::request::{Call, Parsed};

    #[test]
    fn offsets_and_modes() {
        let read = |query: &str| match parsed("GET", &format!("/v1/stream/s?{query}"), &[]) {
            Ok(Parsed::Whole(Call::Read(read))) => Ok((read.from, read.live, read.cursor)),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal),
        };
        assert_eq!(read(""), Ok((StartOffset::Start, None, None)));
        assert_eq!(read("offset=-1"), Ok((StartOffset::Start, None, None)));
        assert_eq!(
            read("offset=now&live=sse&cursor=7"),
            Ok((StartOffset::Now, Some(Class::Sse), Some(7)))
        );
        let offset = Offset::new(1, 2);
        assert_eq!(
            read(&format!("offset={offset}")),
            Ok((StartOffset::Offset(offset), None, None))
        );
        for query in [
            "offset=",
            "offset=-1&offset=now",
            "live=sse",
            "offset=-1&live=",
            "offset=-1&live=ws",
            "offset=0_0",
            "offset=-1%00",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
    }

    #[test]
    fn an_event_stream_goes_on_from_the_last_event() {
        let read = |query: &str, id: &str| match parsed(
            "GET",
            &format!("/s{query}"),
            &[("last-event-id", id)],
        ) {
            Ok(Parsed::Whole(Call::Read(read))) => read.last_event_id,
            other => panic!("{other:?}"),
        };
        let offset = Offset::new(1, 2);
        assert_eq!(
            read("?offset=-1&live=sse", &offset.to_string()),
            Some(offset)
        );
        for id in ["", "now", "-1", "7", "0_0"] {
            assert_eq!(read("?offset=-1&live=sse", id), None, "{id}");
        }
        for query in ["", "?offset=-1", "?offset=-1&live=long-poll"] {
            assert_eq!(read(query, &offset.to_string()), None, "{query}");
        }
    }

    #[test]
    fn a_cursor_that_was_never_given_counts_as_none() {
        let cursor =
            |query: &str| match parsed("GET", &format!("/v1/stream/s?offset=-1&{query}"), &[]) {
                Ok(Parsed::Whole(Call::Read(read))) => read.cursor,
                other => panic!("{query}: {other:?}"),
            };
        assert_eq!(cursor("cursor=0"), Some(0));
        assert_eq!(cursor("cursor=9007199254740991"), Some(SAFE_INTEGER_MAX));
        for query in [
            "cursor=",
            "cursor=abc",
            "cursor=-1",
            "cursor=%2B1",
            "cursor=+1",
            "cursor=01",
            "cursor=1.0",
            "cursor=1e3",
            "cursor=9007199254740992",
            "cursor=99999999999999999999999",
            "cursor=1&cursor=2",
            "cursor=1&cursor=1",
        ] {
            assert_eq!(cursor(query), None, "{query}");
        }
    }

    #[test]
    fn a_fragment_asks_for_nothing() {
        for target in ["/s?offset=-1#&live=sse", "/s#?live=sse"] {
            assert!(!is_live("GET", target), "{target}");
            let Ok(Parsed::Whole(Call::Read(read))) = parsed("GET", target, &[]) else {
                panic!("{target} is a read")
            };
            assert_eq!(
                (read.from, read.live),
                (StartOffset::Start, None),
                "{target}"
            );
        }
        assert!(is_live("GET", "/s?offset=-1&live=sse#end"));
    }
}
