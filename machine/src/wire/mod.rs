//! The wire format of the protocol: parsing of requests, and construction of answers.

pub(crate) mod answer;
pub(crate) mod cache;
pub mod content_type;
pub(crate) mod control;
pub(crate) mod cursor;
pub(crate) mod entity_tag;
pub(crate) mod fork;
pub mod internal_headers;
pub(crate) mod json;
pub mod request;
pub mod session;
pub mod sse;
pub(crate) mod text;
pub(crate) mod web_token;

pub use answer::COMMON_HEADERS;

/// The format in which a stream is read, derived from its content type (protocol 5.8, 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// `application/json`: messages with boundaries.
    Json,
    /// `text/*`: bytes that SSE carries as text.
    Text,
    /// All other types: bytes that SSE carries as base64.
    Binary,
}

/// Whether shared caches may store answers (protocol 10.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Only the client itself may store answers.
    #[default]
    Private,
    /// Shared caches may store answers that are the same for all clients.
    Shared,
}

impl CacheMode {
    /// Returns the value of [`internal_headers::CACHE_MODE`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shared => "shared",
        }
    }

    /// Parses the output of [`Self::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Private, Self::Shared]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// Header names, in the protocol's spelling (13.2).
pub mod header {
    use super::internal_headers::{CACHE_MODE, LIVE_HEAD, TIMING, UPGRADE};

    /// The headers that a shell often sets, so that it can prepare them in advance.
    pub const FREQUENT: [&str; 13] = [
        CACHE_CONTROL,
        CACHE_MODE,
        LIVE_HEAD,
        TIMING,
        UPGRADE,
        CONTENT_TYPE,
        ETAG,
        PRODUCER_EPOCH,
        PRODUCER_SEQ,
        STREAM_CLOSED,
        STREAM_CURSOR,
        STREAM_NEXT_OFFSET,
        STREAM_UP_TO_DATE,
    ];

    /// The codings that the client accepts.
    pub const ACCEPT_ENCODING: &str = "Accept-Encoding";
    /// The methods that the resource supports.
    pub const ALLOW: &str = "Allow";
    /// The bearer token (protocol 12.1).
    pub const AUTHORIZATION: &str = "Authorization";
    /// Who may store the answer, and for how long (protocol 10.1).
    pub const CACHE_CONTROL: &str = "Cache-Control";
    /// The coding of a body.
    pub const CONTENT_ENCODING: &str = "Content-Encoding";
    /// The bytes in a body.
    pub const CONTENT_LENGTH: &str = "Content-Length";
    /// The media type of a body, which on a PUT becomes that of the stream.
    pub const CONTENT_TYPE: &str = "Content-Type";
    /// Asks for `Server-Timing`.
    pub const DEBUG_TIMING: &str = "X-Debug-Timing";
    /// The entity tag of an answer (protocol 10.1).
    pub const ETAG: &str = "ETag";
    /// Writes only if the stream is in one of these states (RFC 9110, 13.1.1).
    pub const IF_MATCH: &str = "If-Match";
    /// Answers or writes only if the stream is in none of these states (RFC 9110, 13.1.2).
    pub const IF_NONE_MATCH: &str = "If-None-Match";
    /// The last event that a reconnecting browser has seen.
    pub const LAST_EVENT_ID: &str = "Last-Event-ID";
    /// The URL of a created stream.
    pub const LOCATION: &str = "Location";
    /// The origin of the web page that sends the request.
    pub const ORIGIN: &str = "Origin";
    /// An older way to keep caches away.
    pub const PRAGMA: &str = "Pragma";
    /// The epoch of a producer (protocol 5.2.1).
    pub const PRODUCER_EPOCH: &str = "Producer-Epoch";
    /// The next sequence number, in the refusal of a gap (protocol 5.2.1).
    pub const PRODUCER_EXPECTED_SEQ: &str = "Producer-Expected-Seq";
    /// The name of a producer (protocol 5.2.1).
    pub const PRODUCER_ID: &str = "Producer-Id";
    /// The sequence number of the request, in the refusal of a gap (protocol 5.2.1).
    pub const PRODUCER_RECEIVED_SEQ: &str = "Producer-Received-Seq";
    /// The sequence number of an append in its epoch (protocol 5.2.1).
    pub const PRODUCER_SEQ: &str = "Producer-Seq";
    /// The pause before the next attempt, in seconds.
    pub const RETRY_AFTER: &str = "Retry-After";
    /// Closes the stream, or says that it is closed (protocol 4.1).
    pub const STREAM_CLOSED: &str = "Stream-Closed";
    /// The cursor of a live answer (protocol 10.1).
    pub const STREAM_CURSOR: &str = "Stream-Cursor";
    /// The time at which the stream expires (protocol 5.1).
    pub const STREAM_EXPIRES_AT: &str = "Stream-Expires-At";
    /// The tail at which an append must begin.
    pub const STREAM_EXPECTED_OFFSET: &str = "Stream-Expected-Offset";
    /// The offset after the content.
    pub const STREAM_NEXT_OFFSET: &str = "Stream-Next-Offset";
    /// The source of a fork (protocol 4.2).
    pub const STREAM_FORKED_FROM: &str = "Stream-Forked-From";
    /// Where a fork leaves its source (protocol 4.2).
    pub const STREAM_FORK_OFFSET: &str = "Stream-Fork-Offset";
    /// Units after the fork offset that a fork still inherits (protocol 4.2).
    pub const STREAM_FORK_SUB_OFFSET: &str = "Stream-Fork-Sub-Offset";
    /// The writer's sequence, which must increase (protocol 5.2).
    pub const STREAM_SEQ: &str = "Stream-Seq";
    /// The encoding of the data of events (protocol 5.8).
    pub const STREAM_SSE_DATA_ENCODING: &str = "Stream-SSE-Data-Encoding";
    /// The time to live in seconds (protocol 5.1).
    pub const STREAM_TTL: &str = "Stream-TTL";
    /// Whether the answer ends at the tail.
    pub const STREAM_UP_TO_DATE: &str = "Stream-Up-To-Date";
    /// The coding of a message on its way.
    pub const TRANSFER_ENCODING: &str = "Transfer-Encoding";
    /// How to authenticate, in a 401.
    pub const WWW_AUTHENTICATE: &str = "WWW-Authenticate";
    /// Keeps proxies from buffering an event stream.
    pub const X_ACCEL_BUFFERING: &str = "X-Accel-Buffering";
}
