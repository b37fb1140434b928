//! Sessions: a client holds one connection, to the stream of its session, and everything that is
//! appended to the streams that it has subscribed to arrives there.
//!
//! Sessions are no part of the protocol. `docs/sessions.md` describes their routes. A session is
//! the stream `subscriptions/<session id>` with a TTL, and what it has subscribed to is in rows of
//! its object.

use serde::{Deserialize, Serialize};

use super::control::{Presence, StreamPosition};
use super::internal_headers;
use super::request::{self, BodyBound, INTERNAL_METHOD, RequestHead};
use crate::outbox::Request;
use crate::router::{self, Permissions, Settings, name};
use crate::rows::Incarnation;
use crate::{Answer, Limits, Millis, Offset, Refusal};

const SESSIONS: &str = "/v1/sessions";
const SUBSCRIPTIONS: &str = "/v1/subscriptions";

/// The decision on a request of a client about sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionRoute {
    /// Send this call to the object `to`. The object's answer is the client's.
    Object {
        /// The name of the object.
        to: String,
        /// The call, for shells that send requests as [`session_request`] says.
        call: SessionCall,
    },
    /// Read the body, and route the request again with it.
    AwaitsBody(BodyBound),
    /// Respond with this.
    Answered(Answer),
}

/// Routes a request by its head and its body; `None` if its path is not one of sessions. `entropy`
/// returns random bytes that nobody can guess. It is asked for the id of a new session.
#[must_use]
pub fn route(
    head: RequestHead<'_>,
    body: Option<&[u8]>,
    entropy: &dyn Fn() -> [u8; 32],
    now: Millis,
    settings: &Settings,
) -> Option<SessionRoute> {
    let path = router::path(head.target);
    let resource = Resource::read(path)?;
    let decided = decide(head, resource, body, entropy, now, settings);
    Some(
        decided.unwrap_or_else(|refusal| {
            SessionRoute::Answered(router::refused(head.method, &refusal))
        }),
    )
}

enum Resource<'a> {
    Sessions,
    Session(&'a str),
    Subscriptions,
    SubscriptionsOf(&'a str),
    Nothing,
}

impl<'a> Resource<'a> {
    fn read(path: &'a str) -> Option<Self> {
        let below = |prefix: &str| -> Option<&'a str> { path.strip_prefix(prefix) };
        for (prefix, all, one) in [
            (
                SESSIONS,
                Self::Sessions,
                Self::Session as fn(&'a str) -> Self,
            ),
            (SUBSCRIPTIONS, Self::Subscriptions, Self::SubscriptionsOf),
        ] {
            match below(prefix) {
                None => {}
                Some("") => return Some(all),
                Some(rest) => match rest.strip_prefix('/') {
                    None => {}
                    Some(id) if id.is_empty() || id.contains('/') => return Some(Self::Nothing),
                    Some(id) => return Some(one(id)),
                },
            }
        }
        None
    }

    const fn methods(&self) -> &'static str {
        match self {
            Self::Sessions => "POST, OPTIONS",
            Self::Session(_) => "GET, DELETE, OPTIONS",
            Self::Subscriptions => "POST, DELETE, OPTIONS",
            Self::SubscriptionsOf(_) => "GET, OPTIONS",
            Self::Nothing => "OPTIONS",
        }
    }
}

fn decide(
    head: RequestHead<'_>,
    resource: Resource<'_>,
    body: Option<&[u8]>,
    entropy: &dyn Fn() -> [u8; 32],
    now: Millis,
    settings: &Settings,
) -> Result<SessionRoute, Refusal> {
    let limits = &settings.limits;
    let is_admitted = router::is_admitted(head, settings);
    if head.target.contains('#') {
        return Err(Refusal::Malformed("the request target has a fragment"));
    }
    if head.method == "OPTIONS" {
        let answer = Answer::preflight(is_admitted, limits);
        return Ok(SessionRoute::Answered(answer));
    }
    Permissions::of(head, now, settings)?.check_control()?;
    if head.method != "GET" && !is_admitted {
        return Err(Refusal::Forbidden(
            "pages of this origin may not write here",
        ));
    }
    let (id, call) = match (&resource, head.method) {
        (Resource::Nothing, _) => return Err(Refusal::PathNotFound),
        (Resource::Sessions, "POST") => {
            let id = session_id(entropy());
            (id.clone(), SessionCall::Create { id })
        }
        (Resource::Session(id), "GET") => ((*id).to_owned(), SessionCall::Describe),
        (Resource::Session(id), "DELETE") => ((*id).to_owned(), SessionCall::Delete),
        (Resource::SubscriptionsOf(id), "GET") => ((*id).to_owned(), SessionCall::List),
        (Resource::Subscriptions, method @ ("POST" | "DELETE")) => {
            let bound = BodyBound {
                bytes_max: limits.session_request_bytes_max,
            };
            request::check_codings(head)?;
            let Some(body) = body else {
                return Ok(SessionRoute::AwaitsBody(bound));
            };
            if body.len() as u64 > bound.bytes_max {
                return Err(bound.too_large());
            }
            subscription_call(method, body, limits)?
        }
        _ => {
            let allow = resource.methods();
            return Err(Refusal::MethodNotAllowed { allow });
        }
    };
    let to = session_stream(&id).ok_or(Refusal::SessionNotFound)?;
    Ok(SessionRoute::Object { to, call })
}

/// The body of a request to subscribe, or to end it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubscriptionBody {
    session_id: String,
    stream_id: String,
    #[serde(default)]
    from: Option<String>,
}

fn subscription_call(
    method: &str,
    body: &[u8],
    limits: &Limits,
) -> Result<(String, SessionCall), Refusal> {
    const SHAPE: Refusal =
        Refusal::InvalidRequest("the body must be {\"sessionId\":string,\"streamId\":string}");
    let body: SubscriptionBody = serde_json::from_slice(body).map_err(|_| SHAPE)?;
    if body.session_id.is_empty() || body.stream_id.is_empty() {
        return Err(SHAPE);
    }
    let stream = name::canonical(&body.stream_id, limits)?;
    if router::is_reserved(&stream) {
        return Err(Refusal::Reserved);
    }
    if name::is_session(&stream) {
        return Err(Refusal::InvalidRequest(
            "a session cannot subscribe to the stream of a session",
        ));
    }
    let call = if method == "DELETE" {
        SessionCall::Unsubscribe { stream }
    } else {
        let from = match body.from.as_deref() {
            None | Some("now") => None,
            Some("-1") => Some(Offset::START),
            Some(text) => Some(text.parse().map_err(|_| {
                Refusal::InvalidRequest("from must be an offset of the stream, -1 or now")
            })?),
        };
        SessionCall::Subscribe { stream, from }
    };
    Ok((body.session_id, call))
}

/// Returns a UUID of version 4 (RFC 9562, 5.4).
fn session_id(entropy: [u8; 32]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&entropy[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut id = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        id.push_str(&format!("{byte:02x}"));
    }
    id
}

/// Returns the name of a session's stream; `None` if this is not the id of a session.
pub(crate) fn session_stream(id: &str) -> Option<String> {
    let stream = format!("{}{id}", name::SESSION_PREFIX);
    name::is_session(&stream).then_some(stream)
}

/// Returns the request that carries this call to an object.
#[must_use]
pub fn session_request(call: &SessionCall) -> Request {
    let (header, call) = to_header(call);
    Request {
        method: INTERNAL_METHOD.to_owned(),
        headers: vec![(header.to_owned(), call)],
        body: String::new(),
    }
}

/// Returns the header that carries this call to an object, and its value.
pub(crate) fn to_header(call: &SessionCall) -> (&'static str, String) {
    let call = serde_json::to_string(call).expect("texts and numbers always become JSON");
    assert!(call.is_ascii(), "the value of a header is ASCII");
    (internal_headers::SESSION_CALL, call)
}

/// Reads the value of [`internal_headers::SESSION_CALL`].
pub(super) fn from_header(call: &str) -> Result<SessionCall, Refusal> {
    serde_json::from_str(call).map_err(|_| Refusal::MalformedHeader {
        header: internal_headers::SESSION_CALL,
        rule: "is not a call of this version",
    })
}

/// A request about a session, which no client can send to an object itself. The first ones go to
/// the object of the session, the others to the object of a stream that it has subscribed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionCall {
    /// Creates the session.
    Create {
        /// Its id.
        id: String,
    },
    /// Describes it.
    Describe,
    /// Ends it.
    Delete,
    /// Lists what it has subscribed to.
    List,
    /// Subscribes it to a stream. Does nothing if it is subscribed already.
    Subscribe {
        /// The canonical name of the stream.
        stream: String,
        /// Where to begin; `None` is the tail.
        from: Option<Offset>,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The canonical name of the stream.
        stream: String,
    },
    /// A stream says what it has. The session answers once it has it, too.
    Deliver {
        /// The name of the stream.
        stream: String,
        /// The incarnation of the subscription.
        subscription: Incarnation,
        /// The stream as it is; `None` if it does not exist.
        present: Option<Presence>,
    },
    /// The session wants what comes after a place.
    Follow {
        /// The name of the stream.
        stream: String,
        /// The name of the session's stream.
        session: String,
        /// The incarnation of the subscription. One that begins anew has another.
        subscription: Incarnation,
        /// The incarnation of the stream, if the session knows it.
        incarnation: Option<Incarnation>,
        /// Where to begin; `None` is the tail.
        from: Option<Offset>,
    },
    /// The session wants nothing more.
    Unfollow {
        /// The name of the session's stream.
        session: String,
        /// The incarnation of the subscription.
        subscription: Incarnation,
    },
    /// The fan-out queue could not notify the session. The stream does it.
    Undelivered {
        /// The name of the session's stream.
        session: String,
        /// The incarnation of the subscription.
        subscription: Incarnation,
    },
    /// The session asks for appends. The answer is a line that says where each of them ends, and
    /// the content.
    Page {
        /// The incarnation of the stream.
        incarnation: Incarnation,
        /// Where to begin.
        from: Offset,
    },
}

impl SessionCall {
    /// Returns whether the call changes nothing. It may still count as use.
    #[must_use]
    pub const fn only_reads(&self) -> bool {
        matches!(self, Self::Describe | Self::List | Self::Page { .. })
    }
}

/// What a stream answers to [`SessionCall::Follow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FollowAnswer {
    /// The session follows from here.
    Follows(StreamPosition),
    /// There is no such stream.
    NotFound,
    /// No append ends at this offset.
    NoSuchOffset,
    /// The stream has as many sessions as it may have.
    TooMany,
}

/// What a session answers to [`SessionCall::Deliver`]. A stream answers [`SessionCall::Unfollow`]
/// and [`SessionCall::Undelivered`] with [`DeliverAnswer::Ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeliverAnswer {
    /// The session has everything before this offset.
    Has(Offset),
    /// There is no such subscription any more.
    Ended,
}

/// The first line of a page of appends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PageHead {
    /// Whether the content is JSON: an array of messages.
    pub json: bool,
    /// The appends, in order.
    pub appends: Vec<PageAppend>,
}

/// One append of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PageAppend {
    /// The tail after it.
    pub end: Offset,
    /// Its messages, or its bytes. `None` if it is too large for a page, which then has no content.
    pub units: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(method: &str, target: &str, body: Option<&str>) -> Result<(String, String), u16> {
        let head = RequestHead {
            method,
            origin: "http://h",
            target,
            header: &|_| None,
        };
        let body = body.map(str::as_bytes);
        match route(head, body, &|| [0xff; 32], Millis(0), &Settings::default()) {
            None => Err(0),
            Some(SessionRoute::Object { to, call }) => {
                let request = session_request(&call);
                assert_eq!(request.method, INTERNAL_METHOD);
                Ok((to, request.headers[0].1.clone()))
            }
            Some(SessionRoute::AwaitsBody(_)) => Err(1),
            Some(SessionRoute::Answered(answer)) => Err(answer.status),
        }
    }

    #[test]
    fn a_session_gets_a_random_uuid() {
        let (to, call) = routed("POST", "/v1/sessions", None).expect("it is routed");
        assert_eq!(to, "subscriptions/ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(
            call,
            "{\"create\":{\"id\":\"ffffffff-ffff-4fff-bfff-ffffffffffff\"}}"
        );
    }

    #[test]
    fn paths_and_methods_say_what_is_asked() {
        let id = "01234567-89ab-4cde-8f01-23456789abcd";
        let body = |stream: &str, from: &str| {
            format!("{{\"sessionId\":\"{id}\",\"streamId\":\"{stream}\"{from}}}")
        };
        let ok = |method: &str, target: &str, body: Option<&str>| {
            let (to, call) = routed(method, target, body).expect(target);
            assert_eq!(to, format!("subscriptions/{id}"));
            call
        };
        assert_eq!(
            ok("GET", &format!("/v1/sessions/{id}"), None),
            "\"describe\""
        );
        assert_eq!(
            ok("DELETE", &format!("/v1/sessions/{id}"), None),
            "\"delete\""
        );
        assert_eq!(
            ok("GET", &format!("/v1/subscriptions/{id}"), None),
            "\"list\""
        );
        let all = "/v1/subscriptions";
        assert_eq!(
            ok("DELETE", all, Some(&body("a b", ""))),
            "{\"unsubscribe\":{\"stream\":\"a%20b\"}}"
        );
        let from = ",\"from\":\"-1\"";
        let start = serde_json::to_string(&Offset::START).expect("an offset");
        assert_eq!(
            ok("POST", all, Some(&body("a/b", from))),
            format!("{{\"subscribe\":{{\"stream\":\"a/b\",\"from\":{start}}}}}")
        );
        for (method, target, sent, status) in [
            ("POST", "/v1/subscriptions", None, 1),
            ("GET", "/v1/sessions", None, 405),
            ("POST", "/v1/sessions/", None, 404),
            ("GET", "/v1/sessions/x", None, 404),
            ("GET", "/v1/sessions/x/y", None, 404),
            (
                "GET",
                "/v1/sessions/01234567-89AB-4cde-8f01-23456789abcd",
                None,
                404,
            ),
            ("GET", "/v1/sessionsx", None, 0),
            ("GET", "/v1/stream/a", None, 0),
            ("OPTIONS", "/v1/sessions", None, 204),
            ("POST", all, Some("{}".to_owned()), 400),
            ("POST", all, Some("[".to_owned()), 400),
            ("POST", all, Some(body("", "")), 400),
            ("POST", all, Some(body("%zz", "")), 400),
            ("POST", all, Some(body("__ds/x", "")), 404),
            (
                "POST",
                all,
                Some(body(&format!("subscriptions/{id}"), "")),
                400,
            ),
            ("POST", all, Some(body("a", ",\"from\":\"x\"")), 400),
        ] {
            let sent = sent.as_deref();
            assert_eq!(
                routed(method, target, sent),
                Err(status),
                "{method} {target} {sent:?}"
            );
        }
    }
}
