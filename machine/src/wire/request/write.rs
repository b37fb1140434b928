//! PUT, POST and the conditions of DELETE.

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{RequestHead, safe_integer};
use crate::offset::Offset;
use crate::rows::{Expiry, ProducerStamp};
use crate::wire::fork::{self, ForkRequest};
use crate::wire::{content_type, header};
use crate::{Limits, Millis, Refusal, router};

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
    /// What the stream is to be a fork of, if anything.
    pub fork: Option<Box<ForkRequest>>,
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

pub(super) const MALFORMED_CONTENT_TYPE: Refusal = Refusal::MalformedHeader {
    header: header::CONTENT_TYPE,
    rule: "is not of the form type/subtype",
};

pub(super) fn create(head: RequestHead<'_>, limits: &Limits) -> Result<Create, Refusal> {
    let given = (head.header)(header::CONTENT_TYPE).filter(|text| !text.trim().is_empty());
    let has_content_type = given.is_some();
    let content_type = match given {
        None => content_type::DEFAULT.to_owned(),
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
        fork: fork::fork(head, has_content_type, limits)?.map(Box::new),
        preconditions: preconditions(head),
    })
}

pub(super) fn append(head: RequestHead<'_>, limits: &Limits) -> Result<Append, Refusal> {
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

pub(super) fn preconditions(head: RequestHead<'_>) -> Preconditions {
    Preconditions {
        if_match: (head.header)(header::IF_MATCH),
        if_none_match: (head.header)(header::IF_NONE_MATCH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request::Call;
    use crate::wire::request::tests::{parsed, posted};

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
}
