//! All errors caused by the client, and the table of their statuses and codes.

use thiserror::Error;

use crate::offset::Offset;

/// The reason for refusing a request. A refused request stores nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("{header} {rule}")]
    MalformedHeader {
        header: &'static str,
        rule: &'static str,
    },
    #[error("the bearer token is missing or wrong")]
    Unauthorized,
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("the stream does not exist")]
    StreamNotFound,
    #[error("there is nothing at this path; streams are at /v1/stream/<stream-id>")]
    PathNotFound,
    #[error("paths below __ds are reserved for control APIs")]
    Reserved,
    #[error("{0} are not supported by this server")]
    NotSupported(&'static str),
    #[error("this method is not supported here; allowed: {allow}")]
    MethodNotAllowed { allow: &'static str },
    #[error("the stream name is longer than {max} bytes")]
    NameTooLong { max: u64 },
    #[error("the body is larger than {max} bytes")]
    BodyTooLarge { max: u64 },
    #[error("a body must not have a Content-Encoding, because it is stored as it is")]
    ContentCoding,
    #[error("the body ended before its announced length")]
    BodyBrokenOff,
    #[error("the body arrived too slowly")]
    BodyTooSlow,
    #[error("the stream is closed")]
    Closed { tail: Offset },
    #[error("the stream exists with another {what}")]
    Exists { what: &'static str },
    #[error("the content type does not match the stream's: {expected}")]
    ContentTypeMismatch { expected: String },
    #[error("Stream-Seq is not above the last one")]
    SequenceRegression { tail: Offset },
    #[error("the tail is not at Stream-Expected-Offset")]
    TailElsewhere { tail: Offset },
    #[error("the stream is not in the state that {header} requires")]
    PreconditionFailed {
        header: &'static str,
        present: Option<Present>,
    },
    #[error("the producer's epoch is stale; the current one is {current}")]
    StaleEpoch { current: u64 },
    #[error("a new producer epoch begins with Producer-Seq 0")]
    EpochStartsAtZero,
    #[error("the producer's sequence has a gap: expected {expected}, received {received}")]
    SequenceGap { expected: u64, received: u64 },
}

/// The state of a stream that its entity tag identifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    pub entity_tag: String,
    pub tail: Offset,
    pub closed: bool,
}

impl Refusal {
    /// Returns the HTTP status, and a code for programs.
    #[must_use]
    pub const fn status_and_code(&self) -> (u16, &'static str) {
        match self {
            Self::Malformed(_) | Self::MalformedHeader { .. } => (400, "bad_request"),
            Self::EpochStartsAtZero => (400, "epoch_starts_at_zero"),
            Self::Unauthorized => (401, "unauthorized"),
            Self::Forbidden(_) => (403, "forbidden"),
            Self::StaleEpoch { .. } => (403, "stale_epoch"),
            Self::StreamNotFound => (404, "stream_not_found"),
            Self::PathNotFound => (404, "not_found"),
            Self::Reserved => (404, "reserved"),
            Self::MethodNotAllowed { .. } => (405, "method_not_allowed"),
            Self::Closed { .. } => (409, "stream_closed"),
            Self::Exists { .. } => (409, "stream_exists"),
            Self::ContentTypeMismatch { .. } => (409, "content_type_mismatch"),
            Self::SequenceRegression { .. } => (409, "sequence_regression"),
            Self::SequenceGap { .. } => (409, "sequence_gap"),
            Self::TailElsewhere { .. } => (409, "tail_elsewhere"),
            Self::PreconditionFailed { .. } => (412, "precondition_failed"),
            Self::BodyBrokenOff => (400, "body_broken_off"),
            Self::BodyTooSlow => (408, "body_too_slow"),
            Self::BodyTooLarge { .. } => (413, "body_too_large"),
            Self::NameTooLong { .. } => (414, "name_too_long"),
            Self::ContentCoding => (415, "content_encoding_not_supported"),
            Self::NotSupported(_) => (501, "not_supported"),
        }
    }
}
