//! Answers: status, headers, body.

use std::borrow::Cow;

use serde::Serialize;

use super::request::METHODS;
use super::{cache, header};
use crate::plan::Plan;
use crate::router::cors;
use crate::rows::ProducerStamp;
use crate::{Limits, Offset, Refusal};

/// Browser security headers of every answer (protocol 12.7). Stored content of any type must never
/// run as a page of the server's own origin: not as a script, not as a form, and not as a frame
/// that reaches others. The shell adds the headers that let other origins read an answer.
pub const COMMON_HEADERS: [(&str, &str); 2] = [
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "sandbox; default-src 'none'"),
];

/// The response to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body.
    pub body: Body,
}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// No body.
    Empty,
    /// The bytes of the body.
    Bytes(Vec<u8>),
    /// Rendered from stored rows, as they are at the end of the turn.
    Plan(Plan),
}

/// Who holds a wake (protocol 7.2).
#[derive(Serialize)]
struct Claim<'a> {
    current_holder: &'a str,
    generation: u64,
}

impl Answer {
    /// Creates an empty answer. `Cache-Control` is an argument because every answer must have it.
    #[must_use]
    pub fn new(status: u16, cache_control: Cow<'static, str>) -> Self {
        Self {
            status,
            headers: vec![(header::CACHE_CONTROL, cache_control)],
            body: Body::Empty,
        }
    }

    /// Creates an empty answer that caches must not store.
    #[must_use]
    pub fn uncached(status: u16) -> Self {
        Self::new(status, cache::NO_STORE)
    }

    /// Creates the answer to a refused request.
    #[must_use]
    pub fn refusal(refusal: &Refusal) -> Self {
        let (status, code) = refusal.status_and_code();
        let answer = Self::error(status, code, &refusal.to_string());
        match refusal {
            Refusal::Unauthorized
            | Refusal::AccessDenied(_)
            | Refusal::TokenRefused(_)
            | Refusal::TokenInvalid
            | Refusal::TokenExpired => answer.with(header::WWW_AUTHENTICATE, "Bearer"),
            Refusal::MethodNotAllowed { allow } => answer.with(header::ALLOW, *allow),
            Refusal::ContentCoding => answer.with(header::ACCEPT_ENCODING, "identity"),
            Refusal::Closed { tail } => answer.at(*tail).closed(true),
            Refusal::SequenceRegression { tail } | Refusal::TailElsewhere { tail } => {
                answer.at(*tail)
            }
            Refusal::AlreadyClaimed { holder, generation } => {
                let claim = Claim {
                    current_holder: holder,
                    generation: *generation,
                };
                Self::error_with(status, code, &refusal.to_string(), Some(claim))
            }
            Refusal::PreconditionFailed {
                present: Some(present),
                ..
            } => answer
                .with(header::ETAG, present.entity_tag.clone())
                .at(present.tail)
                .closed(present.closed),
            Refusal::StaleEpoch { current } => {
                answer.with(header::PRODUCER_EPOCH, current.to_string())
            }
            Refusal::SequenceGap { expected, received } => answer
                .with(header::PRODUCER_EXPECTED_SEQ, expected.to_string())
                .with(header::PRODUCER_RECEIVED_SEQ, received.to_string()),
            Refusal::Malformed(_)
            | Refusal::MalformedHeader { .. }
            | Refusal::BadParameter { .. }
            | Refusal::NotConfigured(_)
            | Refusal::Forbidden(_)
            | Refusal::NotPermitted(_)
            | Refusal::StreamNotFound
            | Refusal::SourceNotFound
            | Refusal::SourceDeleted
            | Refusal::SourceTooLarge(_)
            | Refusal::TooManyForks
            | Refusal::Gone
            | Refusal::InUse
            | Refusal::PathNotFound
            | Refusal::Reserved
            | Refusal::InvalidRequest(_)
            | Refusal::WebhookUrl(_)
            | Refusal::SubscriptionNotFound
            | Refusal::SessionNotFound
            | Refusal::SessionExpired
            | Refusal::TooManySubscriptions(_)
            | Refusal::SubscriptionExists
            | Refusal::Fenced
            | Refusal::NoPendingWork
            | Refusal::InvalidOffset(_)
            | Refusal::NotSupported(_)
            | Refusal::NameTooLong { .. }
            | Refusal::BodyTooLarge { .. }
            | Refusal::BodyBrokenOff
            | Refusal::BodyTooSlow
            | Refusal::Exists { .. }
            | Refusal::ContentTypeMismatch { .. }
            | Refusal::PreconditionFailed { present: None, .. }
            | Refusal::EpochStartsAtZero => answer,
        }
    }

    /// Creates the answer to a request that failed in the server. The client does not know whether
    /// the request took effect.
    #[must_use]
    pub fn internal(message: &str) -> Self {
        Self::error(500, "internal", message)
    }

    /// Creates the answer of a stream that is temporarily unavailable.
    #[must_use]
    pub fn unavailable(limits: &Limits) -> Self {
        Self::error(503, "unavailable", "the stream cannot answer at the moment")
            .with(header::RETRY_AFTER, limits.retry_after_s.to_string())
    }

    /// Creates the answer to OPTIONS, including a browser's CORS preflight. A page of an origin
    /// that is not allowed does not get the lists of methods and headers.
    #[must_use]
    pub(crate) fn preflight(is_admitted: bool, limits: &Limits) -> Self {
        let answer = Self::uncached(204).with(header::ALLOW, METHODS);
        if !is_admitted {
            return answer;
        }
        answer
            .with("Access-Control-Allow-Methods", METHODS)
            .with("Access-Control-Allow-Headers", cors::ALLOWED)
            .with(
                "Access-Control-Max-Age",
                limits.preflight_max_age_s.to_string(),
            )
    }

    fn error(status: u16, code: &'static str, message: &str) -> Self {
        Self::error_with(status, code, message, None)
    }

    fn error_with(
        status: u16,
        code: &'static str,
        message: &str,
        claim: Option<Claim<'_>>,
    ) -> Self {
        #[derive(Serialize)]
        struct Error<'a> {
            code: &'a str,
            message: &'a str,
            #[serde(flatten)]
            claim: Option<Claim<'a>>,
        }
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: Error<'a>,
        }
        let body = serde_json::to_vec(&Envelope {
            error: Error {
                code,
                message,
                claim,
            },
        })
        .expect("an error always serializes");
        Self::json(status, body)
    }

    /// Creates an answer of JSON that caches must not store.
    #[must_use]
    pub(crate) fn json(status: u16, body: Vec<u8>) -> Self {
        Self::uncached(status)
            .with(header::CONTENT_TYPE, "application/json")
            .body(Body::Bytes(body))
    }

    /// Creates the answer that has the public keys (protocol 6.5).
    #[must_use]
    pub(crate) fn public_keys(body: String, cache_control: String) -> Self {
        Self::new(200, cache_control.into())
            .with(header::CONTENT_TYPE, "application/jwk-set+json")
            .body(Body::Bytes(body.into_bytes()))
    }

    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub(crate) fn at(self, next: Offset) -> Self {
        self.with(header::STREAM_NEXT_OFFSET, next.to_string())
    }

    #[must_use]
    pub(crate) fn up_to_date(self, up_to_date: bool) -> Self {
        if up_to_date {
            self.with(header::STREAM_UP_TO_DATE, "true")
        } else {
            self
        }
    }

    #[must_use]
    pub(crate) fn closed(self, closed: bool) -> Self {
        if closed {
            self.with(header::STREAM_CLOSED, "true")
        } else {
            self
        }
    }

    #[must_use]
    pub(crate) fn cursor(self, cursor: u64) -> Self {
        self.with(header::STREAM_CURSOR, cursor.to_string())
    }

    /// Adds the highest accepted sequence of the producer (protocol 5.2.1).
    #[must_use]
    pub(crate) fn producer(self, epoch: u64, seq: u64) -> Self {
        self.with(header::PRODUCER_EPOCH, epoch.to_string())
            .with(header::PRODUCER_SEQ, seq.to_string())
    }

    #[must_use]
    pub(crate) fn stamped(self, stamp: Option<&ProducerStamp>) -> Self {
        match stamp {
            Some(stamp) => self.producer(stamp.epoch, stamp.seq),
            None => self,
        }
    }

    #[must_use]
    pub(crate) fn body(self, body: Body) -> Self {
        Self { body, ..self }
    }

    /// Removes the body, for requests such as HEAD.
    #[must_use]
    pub fn without_body(self) -> Self {
        self.body(Body::Empty)
    }

    /// Iterates over all headers of the answer.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.own_headers().chain(COMMON_HEADERS)
    }

    /// Iterates over the headers other than [`COMMON_HEADERS`].
    pub fn own_headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.headers
            .iter()
            .map(|(name, value)| (*name, value.as_ref()))
    }

    /// Returns the value of a header. The name must have the exact spelling of the constants in
    /// [`header`].
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .find(|(each, _)| *each == name)
            .map(|(_, value)| value)
    }
}
