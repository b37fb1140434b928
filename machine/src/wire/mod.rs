//! The wire format of the protocol: parsing of requests, and construction of answers.

pub mod answer;
pub(crate) mod cache;
pub mod content_type;
pub mod cursor;
pub(crate) mod entity_tag;
pub mod internal_headers;
pub(crate) mod json;
pub mod request;
pub mod sse;
pub(crate) mod text;

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
    #[default]
    Private,
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

    /// The headers of ordinary requests and answers, for shells that prepare them in advance.
    pub const FREQUENT: [&str; 21] = [
        CACHE_CONTROL,
        CACHE_MODE,
        LIVE_HEAD,
        TIMING,
        UPGRADE,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        DEBUG_TIMING,
        ETAG,
        IF_MATCH,
        IF_NONE_MATCH,
        PRODUCER_EPOCH,
        PRODUCER_ID,
        PRODUCER_SEQ,
        STREAM_CLOSED,
        STREAM_CURSOR,
        STREAM_EXPECTED_OFFSET,
        STREAM_NEXT_OFFSET,
        STREAM_SEQ,
        STREAM_UP_TO_DATE,
        AUTHORIZATION,
    ];

    pub const ACCEPT_ENCODING: &str = "Accept-Encoding";
    pub const ALLOW: &str = "Allow";
    pub const AUTHORIZATION: &str = "Authorization";
    pub const CACHE_CONTROL: &str = "Cache-Control";
    pub const CONTENT_ENCODING: &str = "Content-Encoding";
    pub const CONTENT_LENGTH: &str = "Content-Length";
    pub const CONTENT_TYPE: &str = "Content-Type";
    pub const DEBUG_TIMING: &str = "X-Debug-Timing";
    pub const ETAG: &str = "ETag";
    pub const IF_MATCH: &str = "If-Match";
    pub const IF_NONE_MATCH: &str = "If-None-Match";
    pub const LAST_EVENT_ID: &str = "Last-Event-ID";
    pub const LOCATION: &str = "Location";
    pub const ORIGIN: &str = "Origin";
    pub const PRAGMA: &str = "Pragma";
    pub const PRODUCER_EPOCH: &str = "Producer-Epoch";
    pub const PRODUCER_EXPECTED_SEQ: &str = "Producer-Expected-Seq";
    pub const PRODUCER_ID: &str = "Producer-Id";
    pub const PRODUCER_RECEIVED_SEQ: &str = "Producer-Received-Seq";
    pub const PRODUCER_SEQ: &str = "Producer-Seq";
    pub const RETRY_AFTER: &str = "Retry-After";
    pub const STREAM_CLOSED: &str = "Stream-Closed";
    pub const STREAM_CURSOR: &str = "Stream-Cursor";
    pub const STREAM_EXPIRES_AT: &str = "Stream-Expires-At";
    pub const STREAM_EXPECTED_OFFSET: &str = "Stream-Expected-Offset";
    pub const STREAM_NEXT_OFFSET: &str = "Stream-Next-Offset";
    pub const STREAM_SEQ: &str = "Stream-Seq";
    pub const STREAM_SSE_DATA_ENCODING: &str = "Stream-SSE-Data-Encoding";
    pub const STREAM_TTL: &str = "Stream-TTL";
    pub const STREAM_UP_TO_DATE: &str = "Stream-Up-To-Date";
    pub const TRANSFER_ENCODING: &str = "Transfer-Encoding";
    pub const WWW_AUTHENTICATE: &str = "WWW-Authenticate";
    pub const X_ACCEL_BUFFERING: &str = "X-Accel-Buffering";
}
