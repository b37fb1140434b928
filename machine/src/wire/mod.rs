//! The protocol as it is spelled on the wire: requests in, answers out.

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

/// How a stream's content type shapes its answers (protocol 5.8, 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// `application/json`: messages with boundaries.
    Json,
    /// `text/*`: bytes that SSE carries as they are.
    Text,
    /// Anything else: bytes that SSE carries as base64.
    Binary,
}

/// Whether answers may be kept by caches that serve many clients (protocol 10.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    #[default]
    Private,
    Shared,
}

impl CacheMode {
    /// The value of [`internal_headers::CACHE_MODE`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shared => "shared",
        }
    }

    /// Reads [`Self::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Private, Self::Shared]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// Header names, spelled as the protocol spells them (13.2).
pub mod header {
    use super::internal_headers::{CACHE_MODE, LIVE_HEAD, TIMING, UPGRADE};

    /// Those that ordinary requests and answers go by, for shells that can make use of knowing them
    /// in advance.
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
