//! Parsing of requests on a stream URL into [`Call`]s.

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{CacheMode, content_type, header, internal_headers};
use crate::limits::SAFE_INTEGER_MAX;
use crate::offset::Offset;
use crate::rows::{Expiry, ProducerStamp};
use crate::{Class, Limits, Millis, Refusal, router};

/// The parts of a request that a shell has before the body.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// Start of `Location`: scheme and authority, or the operator's `PUBLIC_URL`. Has no other use.
    pub origin: &'a str,
    /// Path and query, as sent.
    pub target: &'a str,
    /// Returns the value of a header. The name is case-insensitive.
    pub header: &'a dyn Fn(&str) -> Option<String>,
}

/// An operation on a stream (protocol 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// PUT.
    Create(Create),
    /// POST.
    Append(Append),
    /// HEAD.
    Metadata,
    /// GET.
    Read(Read),
    /// DELETE.
    Delete(Preconditions),
}

/// PUT (protocol 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// The content type, or the default if the client sends none.
    pub content_type: String,
    /// When the stream ends by itself.
    pub expiry: Expiry,
    /// Whether the stream is closed from the beginning.
    pub closed: bool,
    /// The producer of the initial content.
    pub producer: Option<ProducerStamp>,
    /// The initial content. May be empty.
    pub body: Bytes,
    /// The stream's own URL.
    pub location: String,
    /// The stream's name in its canonical spelling.
    pub name: String,
    /// Conditions on the stream that exists.
    pub preconditions: Preconditions,
}

/// POST (protocol 5.2, 5.3). An empty body means that the request only closes the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Present if there is a body.
    pub content_type: Option<String>,
    /// The producer of the append.
    pub producer: Option<ProducerStamp>,
    /// `Stream-Seq`.
    pub stream_seq: Option<String>,
    /// The tail that the client expects, as either of the two offsets of a segment boundary.
    pub expected_offset: Option<Offset>,
    /// Conditions on the state before the append.
    pub preconditions: Preconditions,
    /// Whether the stream closes after the append.
    pub close: bool,
    /// The content.
    pub body: Bytes,
}

/// Conditions of a write on the current state of the stream (RFC 9110, 13.1): two lists of entity
/// tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// The `If-Match` header.
    pub if_match: Option<String>,
    /// The `If-None-Match` header.
    pub if_none_match: Option<String>,
}

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

/// A request parsed as far as possible without its body.
#[derive(Debug)]
pub enum Parsed {
    /// The request has no body that matters.
    Whole(Call),
    /// The request is complete once its body is there.
    AwaitsBody(AwaitsBody),
}

/// A PUT or POST whose body, of at most `bytes_max` bytes, must still be read.
#[derive(Debug)]
pub struct AwaitsBody {
    /// The greatest body.
    pub bytes_max: u64,
    call: Call,
}

/// Parses the method, the query and the headers.
///
/// # Errors
/// Fails when the request is malformed, or its `Content-Length` is too large.
pub fn parse(head: RequestHead<'_>, limits: &Limits) -> Result<Parsed, Refusal> {
    match head.method {
        "PUT" => awaits_body(Call::Create(create(head, limits)?), head, limits),
        "POST" => awaits_body(Call::Append(append(head, limits)?), head, limits),
        "GET" => Ok(Parsed::Whole(Call::Read(read(head)?))),
        "HEAD" => Ok(Parsed::Whole(Call::Metadata)),
        "DELETE" => Ok(Parsed::Whole(Call::Delete(preconditions(head)))),
        _ => Err(Refusal::MethodNotAllowed { allow: METHODS }),
    }
}

/// The methods of a stream URL.
pub(crate) const METHODS: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";

/// Returns the `Content-Length`.
#[must_use]
pub fn announced_bytes(head: RequestHead<'_>) -> Option<u64> {
    (head.header)(header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok())
}

/// Refuses a body whose `Content-Length` is too large.
pub(crate) fn refuse_announced(head: RequestHead<'_>, limits: &Limits) -> Result<(), Refusal> {
    let max = body_bytes_max(head, limits);
    let needs_body = matches!(head.method, "PUT" | "POST");
    match announced_bytes(head) {
        Some(length) if needs_body && length > max => Err(Refusal::BodyTooLarge { max }),
        Some(_) | None => Ok(()),
    }
}

fn body_bytes_max(head: RequestHead<'_>, limits: &Limits) -> u64 {
    if router::is_registry(head.target) {
        limits.registry_bytes_max()
    } else {
        limits.append_bytes_max
    }
}

fn awaits_body(call: Call, head: RequestHead<'_>, limits: &Limits) -> Result<Parsed, Refusal> {
    refuse_announced(head, limits)?;
    Ok(Parsed::AwaitsBody(AwaitsBody {
        bytes_max: body_bytes_max(head, limits),
        call,
    }))
}

impl AwaitsBody {
    /// Adds the body and returns the call.
    ///
    /// # Errors
    /// Fails when the body is too large, or missing where it is required.
    pub fn with_body(self, body: Bytes) -> Result<Call, Refusal> {
        if body.len() as u64 > self.bytes_max {
            return Err(self.too_large());
        }
        match self.call {
            Call::Create(create) => Ok(Call::Create(Create { body, ..create })),
            Call::Append(append) if body.is_empty() => {
                if append.close {
                    Ok(Call::Append(append))
                } else {
                    Err(Refusal::Malformed(
                        "the body is empty; only a request with Stream-Closed: true may have none",
                    ))
                }
            }
            Call::Append(append) => match &append.content_type {
                None => Err(Refusal::MalformedHeader {
                    header: header::CONTENT_TYPE,
                    rule: "is missing",
                }),
                Some(text) if !content_type::is_well_formed(text) => Err(MALFORMED_CONTENT_TYPE),
                Some(_) => Ok(Call::Append(Append { body, ..append })),
            },
            call @ (Call::Metadata | Call::Read(_) | Call::Delete(_)) => Ok(call),
        }
    }

    /// Returns the refusal of a body that has exceeded `bytes_max`.
    #[must_use]
    pub const fn too_large(&self) -> Refusal {
        Refusal::BodyTooLarge {
            max: self.bytes_max,
        }
    }

    /// Returns the size limit of the body in bytes.
    #[must_use]
    pub const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Returns the refusal of a body that ended before its announced length. Nothing of it is
    /// stored.
    #[must_use]
    pub const fn broken_off(&self) -> Refusal {
        Refusal::BodyBrokenOff
    }

    /// Returns the refusal of a body that did not arrive in time. Nothing of it is stored.
    #[must_use]
    pub const fn too_slow(&self) -> Refusal {
        Refusal::BodyTooSlow
    }
}

const MALFORMED_CONTENT_TYPE: Refusal = Refusal::MalformedHeader {
    header: header::CONTENT_TYPE,
    rule: "is not of the form type/subtype",
};

fn create(head: RequestHead<'_>, limits: &Limits) -> Result<Create, Refusal> {
    if (head.header)("Stream-Forked-From").is_some() {
        return Err(Refusal::NotSupported("forks"));
    }
    let content_type = match (head.header)(header::CONTENT_TYPE) {
        None => content_type::DEFAULT.to_owned(),
        Some(text) if text.trim().is_empty() => content_type::DEFAULT.to_owned(),
        Some(text) if !content_type::is_well_formed(&text) => return Err(MALFORMED_CONTENT_TYPE),
        Some(text) if text.len() as u64 > limits.content_type_bytes_max => {
            return Err(Refusal::MalformedHeader {
                header: header::CONTENT_TYPE,
                rule: "is too long",
            });
        }
        Some(text) => text,
    };
    Ok(Create {
        content_type,
        expiry: expiry(head)?,
        closed: is_closed(head),
        producer: producer(head, limits)?,
        body: Bytes::new(),
        location: format!("{}{}", head.origin, router::path(head.target)),
        name: router::stream_name(head.target, limits)?,
        preconditions: preconditions(head),
    })
}

fn append(head: RequestHead<'_>, limits: &Limits) -> Result<Append, Refusal> {
    Ok(Append {
        content_type: (head.header)(header::CONTENT_TYPE).filter(|text| !text.trim().is_empty()),
        producer: producer(head, limits)?,
        stream_seq: stream_seq(head, limits)?,
        expected_offset: expected_offset(head)?,
        preconditions: preconditions(head),
        close: is_closed(head),
        body: Bytes::new(),
    })
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

/// Refuses a body with a content coding. It would be stored in its coded form, and readers would
/// not know the coding.
pub(crate) fn check_codings(head: RequestHead<'_>) -> Result<(), Refusal> {
    let codings = |name| {
        let list = (head.header)(name).unwrap_or_default();
        let codings = list.split(',').map(|each| each.trim().to_ascii_lowercase());
        codings.filter(|each| !each.is_empty()).collect::<Vec<_>>()
    };
    let transfer = codings(header::TRANSFER_ENCODING);
    if transfer.iter().any(|each| each != "chunked") {
        return Err(Refusal::NotSupported("transfer codings other than chunked"));
    }
    if transfer.len() > 1 {
        return Err(Refusal::Malformed("the body is chunked more than once"));
    }
    let content = codings(header::CONTENT_ENCODING);
    if matches!(head.method, "PUT" | "POST") && content.iter().any(|each| each != "identity") {
        return Err(Refusal::ContentCoding);
    }
    Ok(())
}

/// Returns whether the request asks for a `Server-Timing` header.
#[must_use]
pub(crate) fn asks_for_timing(head: RequestHead<'_>) -> bool {
    (head.header)(header::DEBUG_TIMING).is_some_and(|value| value.trim() == "1")
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

/// Parses `Stream-Closed`: only `true`, in any case, counts (protocol 4.1).
fn is_closed(head: RequestHead<'_>) -> bool {
    (head.header)(header::STREAM_CLOSED)
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
}

fn expiry(head: RequestHead<'_>) -> Result<Expiry, Refusal> {
    let ttl = (head.header)(header::STREAM_TTL);
    let expires_at = (head.header)(header::STREAM_EXPIRES_AT);
    match (ttl, expires_at) {
        (None, None) => Ok(Expiry::Never),
        (Some(_), Some(_)) => Err(Refusal::Malformed(
            "Stream-TTL and Stream-Expires-At exclude each other",
        )),
        (Some(text), None) => {
            let rule = "must be a whole number of seconds without sign or leading zeros";
            let plain = text == "0" || !text.starts_with('0');
            let seconds = safe_integer(&text).filter(|_| plain);
            let seconds = seconds.ok_or(Refusal::MalformedHeader {
                header: header::STREAM_TTL,
                rule,
            })?;
            Ok(Expiry::Sliding { seconds })
        }
        (None, Some(text)) => {
            const NANOS_PER_MILLI: i128 = 1_000_000;

            let rule = "must be an RFC 3339 time";
            let at = OffsetDateTime::parse(text.trim(), &Rfc3339);
            let at = at.map_err(|_| Refusal::MalformedHeader {
                header: header::STREAM_EXPIRES_AT,
                rule,
            })?;
            let millis = at.unix_timestamp_nanos() / NANOS_PER_MILLI;
            // A time before 1970 has passed, and so has 0.
            let at = Millis(u64::try_from(millis).unwrap_or(0));
            Ok(Expiry::At {
                at,
                text: text.trim().to_owned(),
            })
        }
    }
}

/// Parses the three producer headers. Either all are present or none (protocol 5.2.1).
fn producer(head: RequestHead<'_>, limits: &Limits) -> Result<Option<ProducerStamp>, Refusal> {
    let names = [
        header::PRODUCER_ID,
        header::PRODUCER_EPOCH,
        header::PRODUCER_SEQ,
    ];
    let (id, epoch, seq) = match names.map(|name| (head.header)(name)) {
        [None, None, None] => return Ok(None),
        [Some(id), Some(epoch), Some(seq)] => (id, epoch, seq),
        _ => {
            return Err(Refusal::Malformed(
                "Producer-Id, Producer-Epoch and Producer-Seq go together",
            ));
        }
    };
    if id.is_empty() {
        return Err(Refusal::MalformedHeader {
            header: header::PRODUCER_ID,
            rule: "must not be empty",
        });
    }
    if id.len() as u64 > limits.producer_id_bytes_max {
        return Err(Refusal::MalformedHeader {
            header: header::PRODUCER_ID,
            rule: "is too long",
        });
    }
    let number = |header, text: &str| {
        safe_integer(text).ok_or(Refusal::MalformedHeader {
            header,
            rule: "must be a whole number up to 2^53-1",
        })
    };
    Ok(Some(ProducerStamp {
        id,
        epoch: number(header::PRODUCER_EPOCH, &epoch)?,
        seq: number(header::PRODUCER_SEQ, &seq)?,
    }))
}

fn stream_seq(head: RequestHead<'_>, limits: &Limits) -> Result<Option<String>, Refusal> {
    match (head.header)(header::STREAM_SEQ) {
        Some(text) if text.is_empty() => Err(Refusal::MalformedHeader {
            header: header::STREAM_SEQ,
            rule: "must not be empty",
        }),
        Some(text) if text.len() as u64 > limits.stream_seq_bytes_max => {
            Err(Refusal::MalformedHeader {
                header: header::STREAM_SEQ,
                rule: "is too long",
            })
        }
        text => Ok(text),
    }
}

fn expected_offset(head: RequestHead<'_>) -> Result<Option<Offset>, Refusal> {
    let Some(text) = (head.header)(header::STREAM_EXPECTED_OFFSET) else {
        return Ok(None);
    };
    match text.trim() {
        "-1" => Ok(Some(Offset::START)),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Refusal::MalformedHeader {
                header: header::STREAM_EXPECTED_OFFSET,
                rule: "is not an offset that this server gave",
            }),
    }
}

fn preconditions(head: RequestHead<'_>) -> Preconditions {
    Preconditions {
        if_match: (head.header)(header::IF_MATCH),
        if_none_match: (head.header)(header::IF_NONE_MATCH),
    }
}

/// Parses decimal digits up to 2^53-1. Accepts nothing else, such as a sign.
fn safe_integer(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return None;
    }
    text.parse()
        .ok()
        .filter(|number| *number <= SAFE_INTEGER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Parsed, Refusal> {
        let header = |name: &str| {
            headers
                .iter()
                .find(|(each, _)| each.eq_ignore_ascii_case(name))
                .map(|(_, value)| (*value).to_owned())
        };
        parse(
            RequestHead {
                method,
                origin: "http://h",
                target,
                header: &header,
            },
            &Limits::DEFAULT,
        )
    }

    fn posted(headers: &[(&str, &str)], body: &'static [u8]) -> Result<Call, Refusal> {
        match parsed("POST", "/v1/stream/a", headers)? {
            Parsed::AwaitsBody(awaits) => awaits.with_body(Bytes::from_static(body)),
            Parsed::Whole(call) => Ok(call),
        }
    }

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

    #[test]
    fn producer_headers_are_all_or_none_and_bounded() {
        let max = "9007199254740991";
        let over = "9007199254740992";
        let post = |id: &str, epoch: &str, seq: &str| {
            posted(
                &[
                    ("content-type", "text/plain"),
                    ("producer-id", id),
                    ("producer-epoch", epoch),
                    ("producer-seq", seq),
                ],
                b"x",
            )
        };
        assert!(post("p", max, max).is_ok());
        for (id, epoch, seq) in [
            ("", "0", "0"),
            ("p", over, "0"),
            ("p", "0", over),
            ("p", "-1", "0"),
            ("p", "0", "1.0"),
            ("p", "", "0"),
            ("p", "0", "1e3"),
        ] {
            assert!(post(id, epoch, seq).is_err(), "{id} {epoch} {seq}");
        }
        assert!(
            posted(
                &[("content-type", "text/plain"), ("producer-id", "p")],
                b"x"
            )
            .is_err()
        );
    }

    #[test]
    fn the_registry_takes_events_that_are_larger_than_any_append() {
        let limits = Limits {
            append_bytes_max: 1,
            ..Limits::DEFAULT
        };
        let bytes_max = |target: &str| {
            let head = RequestHead {
                method: "POST",
                origin: "http://h",
                target,
                header: &|_| None,
            };
            match parse(head, &limits) {
                Ok(Parsed::AwaitsBody(awaits)) => awaits.bytes_max,
                Ok(Parsed::Whole(_)) | Err(_) => 0,
            }
        };
        assert_eq!(bytes_max("/v1/stream/a/__registry__"), 1);
        for target in ["/v1/stream/__registry__", "/v1/stream/__registry__/1"] {
            assert!(bytes_max(target) > 2 * limits.name_bytes_max, "{target}");
        }
    }

    #[test]
    fn ttl_is_a_plain_decimal() {
        let ttl = |text: &str| parsed("PUT", "/v1/stream/s", &[("stream-ttl", text)]).is_ok();
        for text in ["0", "1", "3600", "9007199254740991"] {
            assert!(ttl(text), "{text}");
        }
        for text in [
            "",
            "+1",
            "01",
            "00",
            "1.0",
            "3.6e3",
            "-1",
            " 1",
            "9007199254740992",
        ] {
            assert!(!ttl(text), "{text}");
        }
    }

    #[test]
    fn the_expected_offset_is_one_that_this_server_could_have_given() {
        let expected = |text: &str| -> Result<Option<Offset>, Refusal> {
            let headers = [("content-type", "a/b"), ("stream-expected-offset", text)];
            let call = posted(&headers, b"x")?;
            let Call::Append(append) = call else {
                panic!("{call:?}")
            };
            Ok(append.expected_offset)
        };
        let offset = Offset::new(1, 2);
        assert_eq!(expected(&offset.to_string()), Ok(Some(offset)));
        assert_eq!(expected("-1"), Ok(Some(Offset::START)));
        for text in ["", "now", "0_0", "7", &format!("{offset}, {offset}")] {
            assert_eq!(
                expected(text).map_err(|refusal| refusal.status_and_code().0),
                Err(400),
                "{text}"
            );
        }
    }

    #[test]
    fn a_body_may_be_missing_only_when_closing() {
        assert!(posted(&[], b"").is_err());
        assert!(posted(&[("stream-closed", "yes")], b"").is_err());
        assert!(
            posted(
                &[("stream-closed", "TRUE"), ("content-type", "no type")],
                b""
            )
            .is_ok()
        );
        assert!(posted(&[], b"x").is_err());
    }

    #[test]
    fn a_large_body_is_refused_by_its_announcement_and_by_its_size() {
        let max = Limits::DEFAULT.append_bytes_max;
        assert!(
            parsed(
                "POST",
                "/v1/stream/s",
                &[("content-length", &max.to_string())]
            )
            .is_ok()
        );
        let refused = parsed(
            "POST",
            "/v1/stream/s",
            &[("content-length", &(max + 1).to_string())],
        );
        assert_eq!(refused.err(), Some(Refusal::BodyTooLarge { max }));
        let Ok(Parsed::AwaitsBody(awaits)) = parsed("PUT", "/v1/stream/s", &[]) else {
            panic!()
        };
        let body = Bytes::from(vec![0; 1 + usize::try_from(max).unwrap()]);
        assert_eq!(awaits.with_body(body), Err(Refusal::BodyTooLarge { max }));
    }
}
