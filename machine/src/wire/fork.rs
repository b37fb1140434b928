//! Forking: the headers of the request that forks a stream (protocol 4.2, 5.1), and the calls by
//! which the fork and its source agree.
//!
//! The fork asks first ([`ForkCall::Describe`], and [`ForkCall::Bound`] of the owner of an
//! inherited segment if need be). These calls change nothing, and most refusals follow from their
//! answers. Then it pins what it inherits ([`ForkCall::Pin`]). It gives the pin back with
//! [`ForkCall::Release`].

use bytes::Bytes;

use super::request::{INTERNAL_METHOD, RequestHead, safe_integer};
use super::{header, internal_headers};
use crate::manifest;
use crate::outbox::Request;
use crate::plan::CorruptionError;
use crate::router::{self, name};
use crate::rows::{Expiry, Incarnation, ManifestRow};
use crate::words::{self, Words};
use crate::{Limits, Offset, Refusal};

/// The headers of a PUT that forks a stream (protocol 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkRequest {
    /// The canonical name of the source: `Stream-Forked-From`.
    pub source: String,
    /// `Stream-Fork-Offset`; `None` is the source's tail.
    pub offset: Option<Offset>,
    /// `Stream-Fork-Sub-Offset`, in units (messages or bytes).
    pub sub_offset: u64,
    /// Whether the request names a content type. Otherwise the fork has that of its source.
    pub has_content_type: bool,
}

/// Returns the canonical name of the source in `Stream-Forked-From`.
pub(crate) fn source_name(text: &str, limits: &Limits) -> Result<String, Refusal> {
    let text = text.trim();
    if text.contains(['?', '#']) {
        return Err(Refusal::MalformedHeader {
            header: header::STREAM_FORKED_FROM,
            rule: "must be the path of a stream, without a query",
        });
    }
    router::stream_name(text, limits).map_err(|refusal| {
        if refusal == Refusal::PathNotFound {
            Refusal::MalformedHeader {
                header: header::STREAM_FORKED_FROM,
                rule: "must be the path of a stream of this server, such as /v1/stream/a",
            }
        } else {
            refusal
        }
    })
}

/// Parses the headers of a fork.
pub(super) fn fork(
    head: RequestHead<'_>,
    has_content_type: bool,
    limits: &Limits,
) -> Result<Option<ForkRequest>, Refusal> {
    let names = [
        header::STREAM_FORKED_FROM,
        header::STREAM_FORK_OFFSET,
        header::STREAM_FORK_SUB_OFFSET,
    ];
    let (source, offset, sub_offset) = match names.map(|name| (head.header)(name)) {
        [None, None, None] => return Ok(None),
        [None, ..] => {
            return Err(Refusal::Malformed(
                "Stream-Fork-Offset and Stream-Fork-Sub-Offset need Stream-Forked-From",
            ));
        }
        [Some(source), offset, sub_offset] => (source, offset, sub_offset),
    };
    let source = source_name(&source, limits)?;
    if router::is_reserved(&source) {
        return Err(Refusal::Reserved);
    }
    if name::is_registry(&source) {
        return Err(Refusal::Forbidden("a registry cannot be forked"));
    }
    if name::is_session(&source) {
        return Err(Refusal::Forbidden("a session cannot be forked"));
    }
    let offset = match offset {
        None => None,
        Some(text) => Some(text.trim().parse().map_err(|_| Refusal::MalformedHeader {
            header: header::STREAM_FORK_OFFSET,
            rule: "is not an offset that this server gave",
        })?),
    };
    let sub_offset = match sub_offset {
        None => 0,
        Some(text) => {
            let is_plain = text == "0" || !text.starts_with('0');
            let number = safe_integer(&text).filter(|_| is_plain);
            number.ok_or(Refusal::MalformedHeader {
                header: header::STREAM_FORK_SUB_OFFSET,
                rule: "must be a whole number without sign or leading zeros",
            })?
        }
    };
    Ok(Some(ForkRequest {
        source,
        offset,
        sub_offset,
        has_content_type,
    }))
}

/// A call of a fork to its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForkCall {
    /// Asks what a fork at this offset would inherit.
    Describe {
        /// The fork offset; `None` is the tail.
        offset: Option<Offset>,
        /// Units after it.
        sub_offset: u64,
    },
    /// Asks where the append with this unit ends. Sent to the owner of an inherited segment.
    Bound {
        /// The incarnation of the owner.
        incarnation: Incarnation,
        /// The segment, and the position of the unit.
        at: Offset,
    },
    /// Asks to keep what comes before `place`.
    Pin {
        /// The incarnation of the fork.
        fork: Incarnation,
        /// The canonical name of the fork.
        name: String,
        /// The incarnation of the source.
        source: Incarnation,
        /// Where the fork leaves the source.
        place: Offset,
    },
    /// Gives a pin back.
    Release {
        /// The incarnation of the fork.
        fork: Incarnation,
        /// The canonical name of the fork.
        name: String,
        /// The incarnation of the source.
        source: Incarnation,
    },
}

impl ForkCall {
    /// Returns the request that carries the call.
    pub(crate) fn request(&self) -> Request {
        let call = match self {
            Self::Describe { offset, sub_offset } => Words::new("describe")
                .optional(offset.as_ref())
                .word(sub_offset),
            Self::Bound { incarnation, at } => Words::new("bound").word(incarnation).word(at),
            Self::Pin {
                fork,
                name,
                source,
                place,
            } => Words::new("pin")
                .word(fork)
                .word(name)
                .word(source)
                .word(place),
            Self::Release { fork, name, source } => {
                Words::new("release").word(fork).word(name).word(source)
            }
        };
        Request {
            method: INTERNAL_METHOD.to_owned(),
            headers: vec![(internal_headers::FORK_CALL.to_owned(), call.finish())],
            body: String::new(),
        }
    }

    /// Reads what [`Self::request`] writes.
    pub(super) fn from_header(text: &str) -> Result<Self, Refusal> {
        Self::read(words::Reader::new(text)).ok_or(Refusal::MalformedHeader {
            header: internal_headers::FORK_CALL,
            rule: "is not a call of this version",
        })
    }

    fn read(mut words: words::Reader<'_>) -> Option<Self> {
        Some(match words.word()? {
            "describe" => Self::Describe {
                offset: words.optional()?,
                sub_offset: words.parse()?,
            },
            "bound" => Self::Bound {
                incarnation: words.incarnation()?,
                at: words.parse()?,
            },
            "pin" => Self::Pin {
                fork: words.incarnation()?,
                name: words.word()?.to_owned(),
                source: words.incarnation()?,
                place: words.parse()?,
            },
            "release" => Self::Release {
                fork: words.incarnation()?,
                name: words.word()?.to_owned(),
                source: words.incarnation()?,
            },
            _ => return None,
        })
    }
}

/// Why a source refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceRefusal {
    NotFound,
    Deleted,
    OffsetBeyondTail,
    NoSuchOffset,
    SubOffsetTooLarge,
    TooDeep,
    TooLong,
    TooManyForks,
}

impl SourceRefusal {
    const ALL: [(&str, Self); 8] = [
        ("not-found", Self::NotFound),
        ("deleted", Self::Deleted),
        ("offset-beyond-tail", Self::OffsetBeyondTail),
        ("no-such-offset", Self::NoSuchOffset),
        ("sub-offset-too-large", Self::SubOffsetTooLarge),
        ("too-deep", Self::TooDeep),
        ("too-long", Self::TooLong),
        ("too-many-forks", Self::TooManyForks),
    ];

    fn word(self) -> &'static str {
        let word = Self::ALL.iter().find(|(_, each)| *each == self);
        let (word, _) = word.expect("each refusal has a word");
        word
    }

    fn from_word(word: &str) -> Option<Self> {
        let refusal = Self::ALL.iter().find(|(each, _)| *each == word);
        refusal.map(|(_, refusal)| *refusal)
    }
}

impl From<SourceRefusal> for Refusal {
    fn from(refusal: SourceRefusal) -> Self {
        match refusal {
            SourceRefusal::NotFound => Self::SourceNotFound,
            SourceRefusal::Deleted => Self::SourceDeleted,
            SourceRefusal::OffsetBeyondTail => Self::MalformedHeader {
                header: header::STREAM_FORK_OFFSET,
                rule: "is beyond the source's tail",
            },
            SourceRefusal::NoSuchOffset => Self::MalformedHeader {
                header: header::STREAM_FORK_OFFSET,
                rule: "is not an offset of the source",
            },
            SourceRefusal::SubOffsetTooLarge => Self::MalformedHeader {
                header: header::STREAM_FORK_SUB_OFFSET,
                rule: "is beyond the end of the append at the fork offset",
            },
            SourceRefusal::TooDeep => Self::SourceTooLarge("is at the end of too long a chain"),
            SourceRefusal::TooLong => Self::SourceTooLarge("has too many segments"),
            SourceRefusal::TooManyForks => Self::TooManyForks,
        }
    }
}

/// What a source says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) incarnation: Incarnation,
    pub(crate) content_type: String,
    pub(crate) expiry: Expiry,
    /// How many forks lie between the source and a stream that is no fork.
    pub(crate) depth: u64,
    /// The canonical fork offset.
    pub(crate) fork_offset: Offset,
    pub(crate) place: ForkPoint,
}

/// Where a fork leaves its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ForkPoint {
    /// The canonical offset.
    At(Offset),
    /// In a segment that the source has inherited itself. Its owner knows where its appends end.
    InInherited {
        owner: String,
        incarnation: Incarnation,
        /// The first unit after the fork offset.
        from: Offset,
        /// Units of the segment that the source has.
        units: u64,
    },
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ForkAnswer {
    Refused(SourceRefusal),
    Described(Description),
    /// The position after the append.
    Bound(u64),
    /// Followed by the manifest.
    Pinned,
    Released,
}

impl Description {
    /// Encodes it as a line of words, the last of which are the expiry, and a line with the content
    /// type.
    fn lines(&self) -> String {
        let words = Words::new("described")
            .word(self.incarnation)
            .word(self.depth)
            .word(self.fork_offset);
        let words = match &self.place {
            ForkPoint::At(place) => words.word("at").word(place),
            ForkPoint::InInherited {
                owner,
                incarnation,
                from,
                units,
            } => words
                .word("in")
                .word(owner)
                .word(incarnation)
                .word(from)
                .word(units),
        };
        format!("{}\n{}", words.expiry(&self.expiry), self.content_type)
    }

    fn read(mut words: words::Reader<'_>, content_type: &str) -> Option<Self> {
        let (incarnation, depth) = (words.incarnation()?, words.parse()?);
        let fork_offset = words.parse()?;
        let place = match words.word()? {
            "at" => ForkPoint::At(words.parse()?),
            "in" => ForkPoint::InInherited {
                owner: words.word()?.to_owned(),
                incarnation: words.incarnation()?,
                from: words.parse()?,
                units: words.parse()?,
            },
            _ => return None,
        };
        Some(Self {
            incarnation,
            content_type: content_type.to_owned(),
            expiry: words.expiry()?,
            depth,
            fork_offset,
            place,
        })
    }
}

impl ForkAnswer {
    /// Encodes an answer: lines of text, and the manifest.
    pub(crate) fn encode(&self, manifest: &[ManifestRow]) -> Vec<u8> {
        let text = match self {
            Self::Refused(refusal) => Words::new("refused").word(refusal.word()).finish(),
            Self::Described(described) => described.lines(),
            Self::Bound(end) => Words::new("bound").word(end).finish(),
            Self::Pinned => "pinned".to_owned(),
            Self::Released => "released".to_owned(),
        };
        let mut bytes = text.into_bytes();
        bytes.push(b'\n');
        manifest::to_message(manifest, &mut bytes);
        bytes
    }

    /// Decodes an answer, and returns the rest of its bytes.
    pub(crate) fn decode(bytes: &Bytes) -> Option<(Self, Bytes)> {
        let (line, mut rest) = take_line(bytes)?;
        let mut words = words::Reader::new(&line);
        let answer = match words.word()? {
            "refused" => Self::Refused(SourceRefusal::from_word(words.word()?)?),
            "described" => {
                let (content_type, after) = take_line(&rest)?;
                rest = after;
                Self::Described(Description::read(words, &content_type)?)
            }
            "bound" => Self::Bound(words.parse()?),
            "pinned" => Self::Pinned,
            "released" => Self::Released,
            _ => return None,
        };
        Some((answer, rest))
    }
}

fn take_line(bytes: &Bytes) -> Option<(String, Bytes)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8(bytes[..end].to_vec()).ok()?;
    Some((line, bytes.slice(end + 1..)))
}

/// Decodes the manifest of an answer.
pub(crate) fn inherited(rest: &Bytes, place: Offset) -> Result<Vec<ManifestRow>, CorruptionError> {
    manifest::from_message(rest, segments_before(place))
}

/// Returns how many segments have content before a canonical offset.
pub(crate) const fn segments_before(place: Offset) -> u64 {
    if place.position == 0 {
        0
    } else {
        place.segment + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Millis;

    fn offset() -> Offset {
        Offset::new(3, 4)
    }

    #[test]
    fn calls_are_read_as_they_were_sent() {
        let (fork, source) = (Incarnation(1), Incarnation(u64::MAX));
        let name = "a/b".to_owned();
        for call in [
            ForkCall::Describe {
                offset: None,
                sub_offset: 0,
            },
            ForkCall::Describe {
                offset: Some(offset()),
                sub_offset: 7,
            },
            ForkCall::Bound {
                incarnation: fork,
                at: offset(),
            },
            ForkCall::Pin {
                fork,
                name: name.clone(),
                source,
                place: offset(),
            },
            ForkCall::Release { fork, name, source },
        ] {
            let request = call.request();
            let [(_, text)] = request.headers.as_slice() else {
                panic!("a call is one header");
            };
            assert_eq!(ForkCall::from_header(text), Ok(call));
            for malformed in ["", "describe", "of a later version", "pin 1 2"] {
                assert!(ForkCall::from_header(malformed).is_err(), "{malformed}");
            }
        }
    }

    #[test]
    fn answers_are_read_as_they_were_sent() {
        let described = |place, expiry| {
            ForkAnswer::Described(Description {
                incarnation: Incarnation(9),
                content_type: "text/plain; charset=utf-8".to_owned(),
                expiry,
                depth: 2,
                fork_offset: offset(),
                place,
            })
        };
        let inherited = ForkPoint::InInherited {
            owner: "a%20b".to_owned(),
            incarnation: Incarnation(5),
            from: offset(),
            units: 6,
        };
        let at = Expiry::At {
            at: Millis(7),
            text: "2027-01-01 00:00:00Z".to_owned(),
        };
        let refusals = SourceRefusal::ALL.map(|(_, refusal)| ForkAnswer::Refused(refusal));
        let others = [
            described(ForkPoint::At(offset()), Expiry::Sliding { seconds: 5 }),
            described(inherited, at),
            ForkAnswer::Bound(8),
            ForkAnswer::Pinned,
            ForkAnswer::Released,
        ];
        for answer in refusals.into_iter().chain(others) {
            let bytes = Bytes::from([answer.encode(&[]), b"rest".to_vec()].concat());
            let rest = Bytes::from_static(b"rest");
            assert_eq!(ForkAnswer::decode(&bytes), Some((answer, rest)));
        }
        for malformed in ["", "pinned", "refused\n", "refused so\n", "described\n\n"] {
            let bytes = Bytes::copy_from_slice(malformed.as_bytes());
            assert_eq!(ForkAnswer::decode(&bytes), None, "{malformed}");
        }
    }
}
