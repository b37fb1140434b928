//! Requests of clients about sessions. They go through the router, as in the shells.

use std::sync::Arc;

use machine::router::{self, Route};
use machine::wire::request::RequestHead;
use machine::wire::session::{SessionRoute, route, session_request};
use machine::{Call, Limits, Millis, Offset, outbox};
use serde_json::json;

use crate::subscriptions::request::{ORIGIN, parse};

const PREFIX: &str = "subscriptions/";
const JSON: &str = "application/json";
/// The router needs the time for tokens only, and this world has none.
const NOW: Millis = Millis(0);

#[derive(Clone, Debug)]
pub enum SessionKind {
    Create,
    Describe,
    Delete,
    List,
    Subscribe {
        stream: String,
        /// `None` is the tail.
        from: Option<Offset>,
    },
    Unsubscribe {
        stream: String,
    },
    /// A read of the session's stream.
    Read,
    /// Something that clients may not do to the session's stream, by this method.
    Write(&'static str),
}

/// Returns the id of a session by its number.
pub(super) fn id(number: u64) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

/// Returns random bytes that give a session this id.
fn entropy_of(id: &str) -> [u8; 32] {
    let mut entropy = [0; 32];
    let number = u32::from_str_radix(&id[..8], 16).unwrap_or(0);
    entropy[..4].copy_from_slice(&number.to_be_bytes());
    entropy
}

/// Returns the name of the stream of a session.
pub(in crate::subscriptions) fn stream_of(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// Returns the id of the session that an object is.
pub(super) fn id_of(object: &str) -> Option<&str> {
    object.strip_prefix(PREFIX)
}

/// Returns whether an object is a session.
pub(in crate::subscriptions) fn is_session(object: &str) -> bool {
    id_of(object).is_some()
}

impl SessionKind {
    /// Returns the call as the router and the parser make it; `None` if one of them refuses it.
    pub(in crate::subscriptions) fn call(&self, id: &str, limits: &Limits) -> Option<Call> {
        let settings = router::Settings {
            limits: Arc::new(limits.clone()),
            ..router::Settings::default()
        };
        let body = |stream: &str| json!({ "sessionId": id, "streamId": stream });
        let (method, target, body) = match self {
            Self::Create => ("POST", "/v1/sessions".to_owned(), None),
            Self::Describe => ("GET", format!("/v1/sessions/{id}"), None),
            Self::Delete => ("DELETE", format!("/v1/sessions/{id}"), None),
            Self::List => ("GET", format!("/v1/subscriptions/{id}"), None),
            Self::Subscribe { stream, from } => {
                let mut body = body(stream);
                if let Some(from) = from {
                    let is_start = *from == Offset::START;
                    let from = if is_start {
                        "-1".to_owned()
                    } else {
                        from.to_string()
                    };
                    body["from"] = json!(from);
                }
                ("POST", "/v1/subscriptions".to_owned(), Some(body))
            }
            Self::Unsubscribe { stream } => {
                ("DELETE", "/v1/subscriptions".to_owned(), Some(body(stream)))
            }
            Self::Read => return on_stream("GET", id, &settings),
            Self::Write(method) => return on_stream(method, id, &settings),
        };
        let body = body.map(|body| body.to_string());
        let head = RequestHead {
            method,
            origin: ORIGIN,
            target: &target,
            header: &|_| None,
        };
        let body = body.as_deref().map(str::as_bytes);
        let Some(SessionRoute::Object { to, call }) =
            route(head, body, &|| entropy_of(id), NOW, &settings)
        else {
            return None;
        };
        assert_eq!(to, stream_of(id), "the request is for this session");
        let request = session_request(&call);
        let target = outbox::target(&to);
        let (method, headers) = (&request.method, &request.headers);
        parse(method, ORIGIN, &target, headers, request.body, limits)
    }
}

/// Returns a request for the stream of a session, if the router lets it in.
fn on_stream(method: &str, id: &str, settings: &router::Settings) -> Option<Call> {
    let mut target = outbox::target(&stream_of(id));
    if method == "GET" {
        target.push_str("?offset=-1");
    }
    let headers = [("Content-Type", JSON.to_owned())];
    let header = |name: &str| {
        let is_it = name.eq_ignore_ascii_case("content-type");
        is_it.then(|| JSON.to_owned())
    };
    let head = RequestHead {
        method,
        origin: ORIGIN,
        target: &target,
        header: &header,
    };
    match router::route(head, NOW, settings) {
        Route::Stream(_) => {
            let body = if method == "GET" { "" } else { "[0]" }.to_owned();
            parse(method, ORIGIN, &target, &headers, body, &settings.limits)
        }
        Route::Answered(_) => None,
    }
}
