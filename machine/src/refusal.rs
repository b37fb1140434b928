//! All errors caused by the client, and the table of their statuses and codes.

use thiserror::Error;

use crate::offset::Offset;

/// The reason for refusing a request. A refused request stores nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// 400: the request violates a rule of HTTP or of the protocol.
    #[error("{0}")]
    Malformed(&'static str),
    /// 400: a header has an invalid value, or must not be here.
    #[error("{header} {rule}")]
    MalformedHeader {
        /// The name of the header.
        header: &'static str,
        /// What holds for the header, as the rest of a sentence.
        rule: &'static str,
    },
    /// 400: a parameter of the admin API.
    #[error("{name} {rule}")]
    BadParameter {
        /// The name of the parameter.
        name: String,
        /// What holds for the parameter, as the rest of a sentence.
        rule: String,
    },
    /// 401: the operator demands a token (protocol 12.1).
    #[error("the bearer token is missing or wrong")]
    Unauthorized,
    /// 401: the token of Cloudflare Access does not hold.
    #[error("the token of Cloudflare Access {0}")]
    AccessDenied(&'static str),
    /// 401: the token is not one that the operator's application has signed, or not valid now.
    #[error("the token {0}")]
    TokenRefused(&'static str),
    /// 403: the token is valid, but does not permit the request.
    #[error("the token does not permit {0}")]
    NotPermitted(&'static str),
    /// 403: the origin of a web page is not admitted, or a path is internal.
    #[error("{0}")]
    Forbidden(&'static str),
    /// 404: there is no stream of this name.
    #[error("the stream does not exist")]
    StreamNotFound,
    /// 404: there is no stream to fork (protocol 4.2).
    #[error("the source stream does not exist")]
    SourceNotFound,
    /// 409: the stream to fork was deleted, and lives on only for its forks (protocol 4.2).
    #[error("the source stream was deleted")]
    SourceDeleted,
    /// 409: the stream to fork exceeds a limit.
    #[error("the source stream {0}")]
    SourceTooLarge(&'static str),
    /// 429: the stream to fork has as many forks as it may have.
    #[error("the source stream has too many forks")]
    TooManyForks,
    /// 410: the stream was deleted, and lives on only for its forks (protocol 5.4).
    #[error("the stream was deleted")]
    Gone,
    /// 409: a PUT on a stream that was deleted and lives on for its forks (protocol 4.2).
    #[error("the stream was deleted, and its forks still need it")]
    InUse,
    /// 404: the path is not that of a stream.
    #[error("there is nothing at this path; streams are at /v1/stream/<stream-id>")]
    PathNotFound,
    /// 404: the path belongs to control APIs.
    #[error("paths below __ds are reserved for control APIs")]
    Reserved,
    /// 400: a request to a subscription (protocol 6 and 7).
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// 400: the URL of a webhook (protocol 12.8).
    #[error("the webhook URL is refused: {0}")]
    WebhookUrl(String),
    /// 401: a callback, an ack or a release without the token of the wake (protocol 7.3).
    #[error("the token is missing or not valid for this subscription")]
    TokenInvalid,
    /// 401: the token of the wake is too old.
    #[error("the token has expired")]
    TokenExpired,
    /// 404: there is no subscription of this id, or nothing at this path below `__ds`.
    #[error("the subscription does not exist")]
    SubscriptionNotFound,
    /// 409: the subscription exists with another configuration (protocol 6.2).
    #[error("the subscription exists with another configuration")]
    SubscriptionExists,
    /// 409: the request belongs to another wake than the one in flight (protocol 7.3).
    #[error("the wake is no longer in flight")]
    Fenced,
    /// 409: another worker holds the wake (protocol 7.2).
    #[error("the wake is claimed")]
    AlreadyClaimed {
        /// The worker.
        holder: String,
        /// The number of the wake.
        generation: u64,
    },
    /// 409: there is nothing to claim (protocol 7.2).
    #[error("nothing is pending")]
    NoPendingWork,
    /// 409: an offset that is acknowledged (protocol 7.1).
    #[error("{0}")]
    InvalidOffset(&'static str),
    /// 404: there is no session of this id.
    #[error("the session does not exist")]
    SessionNotFound,
    /// 410: the session has expired.
    #[error("the session has expired")]
    SessionExpired,
    /// 429: a stream or a session has as many subscriptions as it may have.
    #[error("{0}")]
    TooManySubscriptions(&'static str),
    /// 501: an optional part of the protocol that this server leaves out.
    #[error("{0} are not supported by this server")]
    NotSupported(&'static str),
    /// 503: a part of the admin API that needs something that the operator has not set up.
    #[error("{0}")]
    NotConfigured(&'static str),
    /// 405: the resource does not know the method.
    #[error("this method is not supported here; allowed: {allow}")]
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: &'static str,
    },
    /// 414: the name does not fit.
    #[error("the stream name is longer than {max} bytes")]
    NameTooLong {
        /// The limit in bytes.
        max: u64,
    },
    /// 413: the body, or the content that it makes, does not fit.
    #[error("the body is larger than {max} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        max: u64,
    },
    /// 415: the body is compressed.
    #[error("a body must not have a Content-Encoding, because it is stored as it is")]
    ContentCoding,
    /// 400: the client stopped in the middle of the body.
    #[error("the body ended before its announced length")]
    BodyBrokenOff,
    /// 408: the body took too long.
    #[error("the body arrived too slowly")]
    BodyTooSlow,
    /// 409: an append to a closed stream (protocol 5.2).
    #[error("the stream is closed")]
    Closed {
        /// The final offset.
        tail: Offset,
    },
    /// 409: a PUT on a stream with another configuration (protocol 5.1).
    #[error("the stream exists with another {what}")]
    Exists {
        /// The part that differs.
        what: &'static str,
    },
    /// 409: an append of another content type (protocol 5.2).
    #[error("the content type does not match the stream's: {expected}")]
    ContentTypeMismatch {
        /// The content type of the stream.
        expected: String,
    },
    /// 409: `Stream-Seq` does not increase (protocol 5.2).
    #[error("Stream-Seq is not above the last one")]
    SequenceRegression {
        /// The present tail.
        tail: Offset,
    },
    /// 409: the tail is not the one that the client expects.
    #[error("the tail is not at Stream-Expected-Offset")]
    TailElsewhere {
        /// The present tail.
        tail: Offset,
    },
    /// 412: `If-Match` or `If-None-Match` does not hold (RFC 9110, 13.1).
    #[error("the stream is not in the state that {header} requires")]
    PreconditionFailed {
        /// The header that does not hold.
        header: &'static str,
        /// The present state; `None` if there is no stream.
        present: Option<Present>,
    },
    /// 403: a newer producer has taken over (protocol 5.2.1).
    #[error("the producer's epoch is stale; the current one is {current}")]
    StaleEpoch {
        /// The present epoch.
        current: u64,
    },
    /// 400: the first append of an epoch has another sequence number (protocol 5.2.1).
    #[error("a new producer epoch begins with Producer-Seq 0")]
    EpochStartsAtZero,
    /// 409: an earlier append of the producer is missing (protocol 5.2.1).
    #[error("the producer's sequence has a gap: expected {expected}, received {received}")]
    SequenceGap {
        /// The next sequence number.
        expected: u64,
        /// The sequence number of the request.
        received: u64,
    },
}

/// The state of a stream that its entity tag identifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The entity tag of the whole stream.
    pub entity_tag: String,
    /// The tail.
    pub tail: Offset,
    /// Whether the stream is closed.
    pub closed: bool,
}

impl Refusal {
    /// Returns the HTTP status, and a code for programs.
    #[must_use]
    pub const fn status_and_code(&self) -> (u16, &'static str) {
        match self {
            Self::Malformed(_) | Self::MalformedHeader { .. } | Self::BadParameter { .. } => {
                (400, "bad_request")
            }
            Self::EpochStartsAtZero => (400, "epoch_starts_at_zero"),
            Self::Unauthorized => (401, "unauthorized"),
            Self::AccessDenied(_) => (401, "access_denied"),
            Self::TokenRefused(_) => (401, "token_refused"),
            Self::NotPermitted(_) => (403, "not_permitted"),
            Self::Forbidden(_) => (403, "forbidden"),
            Self::StaleEpoch { .. } => (403, "stale_epoch"),
            Self::StreamNotFound => (404, "stream_not_found"),
            Self::SourceNotFound => (404, "source_not_found"),
            Self::SourceDeleted => (409, "source_deleted"),
            Self::SourceTooLarge(_) => (409, "source_too_large"),
            Self::TooManyForks => (429, "too_many_forks"),
            Self::Gone => (410, "stream_gone"),
            Self::InUse => (409, "stream_in_use"),
            Self::PathNotFound => (404, "not_found"),
            Self::Reserved => (404, "reserved"),
            Self::InvalidRequest(_) => (400, "INVALID_REQUEST"),
            Self::WebhookUrl(_) => (400, "WEBHOOK_URL_REJECTED"),
            Self::TokenInvalid => (401, "TOKEN_INVALID"),
            Self::TokenExpired => (401, "TOKEN_EXPIRED"),
            Self::SubscriptionNotFound => (404, "SUBSCRIPTION_NOT_FOUND"),
            Self::SubscriptionExists => (409, "SUBSCRIPTION_ALREADY_EXISTS"),
            Self::Fenced => (409, "FENCED"),
            Self::AlreadyClaimed { .. } => (409, "ALREADY_CLAIMED"),
            Self::NoPendingWork => (409, "NO_PENDING_WORK"),
            Self::InvalidOffset(_) => (409, "INVALID_OFFSET"),
            Self::SessionNotFound => (404, "session_not_found"),
            Self::SessionExpired => (410, "session_expired"),
            Self::TooManySubscriptions(_) => (429, "too_many_subscriptions"),
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
            Self::NotConfigured(_) => (503, "not_configured"),
        }
    }
}
