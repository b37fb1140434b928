//! Parsing of requests on a stream URL into [`Call`]s.

mod body;
mod read;
mod write;

use crate::admin::AdminCall;
use crate::limits::SAFE_INTEGER_MAX;
use crate::{Limits, Refusal, router};

use super::control::{self, ControlCall, LinkCall};
use super::fork::ForkCall;
use super::session::{self, SessionCall};
use super::{header, internal_headers};

pub use body::{AwaitsBody, BodyBound, announced_bytes};
pub(crate) use body::{check_codings, refuse_announced};
pub(crate) use read::read;
pub use read::{Read, StartOffset, is_live};
pub use write::{Append, Create, Preconditions};

/// The parts of a request that a shell has before the body.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// Start of `Location`: scheme and authority, or the operator's `PUBLIC_URL`. Has no other use.
    pub origin: &'a str,
    /// Path and query, as sent.
    pub target: &'a str,
    /// Returns the value of a header. The name is case-insensitive.
    pub header: &'a dyn Fn(&str) -> Option<String>,
}

/// An operation on a stream (protocol 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// PUT.
    Create(Create),
    /// POST.
    Append(Append),
    /// HEAD.
    Metadata,
    /// GET.
    Read(Read),
    /// DELETE.
    Delete(Preconditions),
    /// A call of a fork, which no client can send.
    Fork(ForkCall),
    /// A call of the admin API, which comes from the router alone.
    Admin(AdminCall),
    /// A call of a subscription, which no client can send.
    Link(LinkCall),
    /// A request to an object below `__ds` (protocol 6).
    Control(ControlCall),
    /// A call about a session, which comes from the router or from another object.
    Session(SessionCall),
}

/// A request parsed as far as possible without its body.
#[derive(Debug)]
pub enum Parsed {
    /// The request has no body that matters.
    Whole(Call),
    /// The request is complete once its body is there.
    AwaitsBody(AwaitsBody),
}

/// Parses the method, the query and the headers.
///
/// # Errors
/// Fails when the request is malformed, or its `Content-Length` is too large.
pub fn parse(head: RequestHead<'_>, limits: &Limits) -> Result<Parsed, Refusal> {
    if let Some(rest) = router::control_rest(head.target) {
        let (call, has_body) = control::parse(head, rest, limits)?;
        return if has_body {
            body::awaits(Call::Control(call), head, limits)
        } else {
            Ok(Parsed::Whole(Call::Control(call)))
        };
    }
    match head.method {
        "PUT" => body::awaits(Call::Create(write::create(head, limits)?), head, limits),
        "POST" => body::awaits(Call::Append(write::append(head, limits)?), head, limits),
        "GET" => Ok(Parsed::Whole(Call::Read(read(head)?))),
        "HEAD" => Ok(Parsed::Whole(Call::Metadata)),
        "DELETE" => Ok(Parsed::Whole(Call::Delete(write::preconditions(head)))),
        INTERNAL_METHOD => internal(head).map(Parsed::Whole),
        _ => Err(Refusal::MethodNotAllowed { allow: METHODS }),
    }
}

fn internal(head: RequestHead<'_>) -> Result<Call, Refusal> {
    if let Some(call) = (head.header)(internal_headers::ADMIN_CALL) {
        return AdminCall::from_header(&call).map(Call::Admin);
    }
    if let Some(call) = (head.header)(internal_headers::LINK_CALL) {
        let call = serde_json::from_str(&call);
        return call.map(Call::Link).map_err(|_| Refusal::MalformedHeader {
            header: internal_headers::LINK_CALL,
            rule: "is not a call of this version",
        });
    }
    if let Some(call) = (head.header)(internal_headers::SESSION_CALL) {
        return session::from_header(&call).map(Call::Session);
    }
    match (head.header)(internal_headers::FORK_CALL) {
        Some(call) => ForkCall::from_header(&call).map(Call::Fork),
        None => Err(Refusal::MethodNotAllowed { allow: METHODS }),
    }
}

/// The method of calls between objects, and of calls of the admin API. The protocol does not use
/// it.
pub(crate) const INTERNAL_METHOD: &str = "PATCH";

/// The methods of a stream URL.
pub(crate) const METHODS: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";

/// Returns whether the request asks for a `Server-Timing` header.
#[must_use]
pub(crate) fn asks_for_timing(head: RequestHead<'_>) -> bool {
    (head.header)(header::DEBUG_TIMING).is_some_and(|value| value.trim() == "1")
}

/// Parses decimal digits up to 2^53-1. Accepts nothing else, such as a sign.
pub(crate) fn safe_integer(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return None;
    }
    text.parse()
        .ok()
        .filter(|number| *number <= SAFE_INTEGER_MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    pub(super) fn parsed(
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Parsed, Refusal> {
        let header = |name: &str| {
            headers
                .iter()
                .find(|(each, _)| each.eq_ignore_ascii_case(name))
                .map(|(_, value)| (*value).to_owned())
        };
        parse(
            RequestHead {
                method,
                origin: "http://h",
                target,
                header: &header,
            },
            &Limits::DEFAULT,
        )
    }

    pub(super) fn posted(headers: &[(&str, &str)], body: &'static [u8]) -> Result<Call, Refusal> {
        match parsed("POST", "/v1/stream/a", headers)? {
            Parsed::AwaitsBody(awaits) => awaits.with_body(Bytes::from_static(body)),
            Parsed::Whole(call) => Ok(call),
        }
    }
}
