//! Headers between the Worker's router, a stream's object and the reader's side of a live read.
//!
//! They are no part of the protocol. The router removes all of them from a client's request and
//! sets those that [`crate::router::ToStream::internal_header`] names. The reader's side removes
//! [`LIVE_HEAD`] from the response.

/// Router to object: the cache mode of answers, as [`super::CacheMode::name`] spells it. Absent
/// means private.
pub const CACHE_MODE: &str = "X-Cache-Mode";

/// Router to object: offers a line, because the platform lets only an upgrade carry a WebSocket.
pub const UPGRADE: &str = "Upgrade";

/// Router to object: the response is to say how long the object took.
pub const TIMING: &str = "X-Object-Timing";

/// Object to the reader's side: [`crate::live_reader::LiveHead`] as JSON, in each answer to a live
/// read that goes on. `shells/worker/js/tail.mjs` has its name too.
pub const LIVE_HEAD: &str = "Stream-Line";

/// What no client can set.
pub const ALL: [&str; 4] = [CACHE_MODE, UPGRADE, TIMING, LIVE_HEAD];
