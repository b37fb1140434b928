//! Headers between the router, the objects of streams and the reader's side of a live read.
//!
//! They are not part of the protocol. The router removes all of them from a client's request and
//! sets those that [`crate::router::ToStream::internal_header`] names, or
//! [`crate::admin::ToObject::replaced`]. The reader's side removes
//! [`LIVE_HEAD`] from the response.

/// Router to object: the cache mode of answers, as [`super::CacheMode::name`] spells it. Absent
/// means private.
pub const CACHE_MODE: &str = "X-Cache-Mode";

/// Router to object: offers a connection for live data. The platform requires an upgrade for a
/// WebSocket.
pub const UPGRADE: &str = "Upgrade";

/// Router to object: asks for the time that the object takes.
pub const TIMING: &str = "X-Object-Timing";

/// Object to object: a call between a fork and its source.
pub const FORK_CALL: &str = "X-Fork-Call";

/// Router to object: a call of the admin API, or that the request is an action of the admin API.
pub const ADMIN_CALL: &str = "X-Admin-Call";

/// Object to the object of a stream: a call of a subscription.
pub const LINK_CALL: &str = "X-Link-Call";

/// Object to object: a call of a subscription, of the directory or of the keys.
pub const CONTROL_CALL: &str = "X-Control-Call";

/// Router to object, and object to object: a call about a session.
pub const SESSION_CALL: &str = "X-Session-Call";

/// Router to object: the operator has set the origin that clients use.
pub const PUBLIC_ORIGIN: &str = "X-Public-Origin";

/// Object to the reader's side: [`crate::live_reader::LiveHead`] as JSON, in each answer to a live
/// read that continues. `shells/worker/js/live_reader.mjs` repeats the name.
pub const LIVE_HEAD: &str = "Stream-Subscriber";

/// All internal headers. Clients cannot set them.
pub const ALL: [&str; 10] = [
    CACHE_MODE,
    UPGRADE,
    TIMING,
    FORK_CALL,
    ADMIN_CALL,
    LINK_CALL,
    CONTROL_CALL,
    SESSION_CALL,
    PUBLIC_ORIGIN,
    LIVE_HEAD,
];
