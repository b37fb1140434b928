//! The router: selects the stream of a request, authorizes the request, and decides how its answer
//! may be cached.

pub(crate) mod cors;
mod edge_cache;
pub mod name;
pub mod page;
mod permissions;
mod secret;
pub mod settings;
pub mod target;

use percent_encoding::percent_decode_str;

use crate::wire::control::{self, RequiredToken};
use crate::wire::request::{self, RequestHead};
use crate::wire::{CacheMode, header, internal_headers};
use crate::{Answer, Limits, Millis, Refusal};
pub use cors::Origins;
pub use edge_cache::{EdgeCache, may_keep};
pub(crate) use permissions::{Permissions, check_token};
pub use secret::Secret;
pub use settings::{SettingError, Settings};

/// Prefix of stream URLs.
pub const STREAM_PREFIX: &str = "/v1/stream/";

/// The decision on a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// Send it to the object of this stream.
    Stream(ToStream),
    /// Respond without involving an object.
    Answered(Answer),
}

/// How to forward a request to the object of its stream.
#[derive(Debug, PartialEq, Eq)]
pub struct ToStream {
    /// The canonical name, which also names the object.
    pub name: String,
    /// Whether to offer the object a connection for live data.
    pub live: bool,
    /// Whether shared caches may store the answers.
    pub cache_mode: CacheMode,
    /// Whether the Worker's cache may answer instead of the object.
    pub edge_cache: EdgeCache,
    /// Whether to add a `Server-Timing` header to the answer.
    pub timing: bool,
    /// Whether to add CORS headers to the answer. The object adds those that do not depend on the
    /// origin.
    pub needs_cors: bool,
    /// Whether the operator has set the origin that clients use.
    pub has_public_origin: bool,
}

impl ToStream {
    /// Returns whether the object's answer is the client's answer as it is.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        !(self.live || self.timing || self.needs_cors) && self.edge_cache == EdgeCache::Unused
    }

    /// Returns the value of this internal header in the request to the object. `None` means that
    /// the header must be removed.
    #[must_use]
    pub fn internal_header(&self, name: &str) -> Option<&'static str> {
        match name {
            internal_headers::CACHE_MODE => {
                let is_default = self.cache_mode == CacheMode::default();
                (!is_default).then_some(self.cache_mode.name())
            }
            internal_headers::UPGRADE => self.live.then_some("websocket"),
            internal_headers::TIMING => self.timing.then_some("1"),
            internal_headers::PUBLIC_ORIGIN => self.has_public_origin.then_some("1"),
            _ => None,
        }
    }
}

/// Routes a request by its head. Tokens are valid at the time `now`, or not.
#[must_use]
pub fn route(head: RequestHead<'_>, now: Millis, settings: &Settings) -> Route {
    match stream_route(head, now, settings) {
        Ok(to_stream) => Route::Stream(to_stream),
        Err(Rejected::Answered(answer)) => Route::Answered(*answer),
        Err(Rejected::Refused(refusal)) => Route::Answered(refused(head.method, &refusal)),
    }
}

/// Returns the answer to a request of this method that is refused before it reaches a stream.
#[must_use]
pub fn refused(method: &str, refusal: &Refusal) -> Answer {
    let answer = Answer::refusal(refusal);
    if method == "HEAD" {
        answer.without_body()
    } else {
        answer
    }
}

enum Rejected {
    Refused(Refusal),
    Answered(Box<Answer>),
}

impl From<Refusal> for Rejected {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn stream_route(
    head: RequestHead<'_>,
    now: Millis,
    settings: &Settings,
) -> Result<ToStream, Rejected> {
    let origin = (head.header)(header::ORIGIN);
    let is_admitted = is_admitted(head, settings);
    let preflight = || {
        let answer = Answer::preflight(is_admitted, &settings.limits);
        Err(Rejected::Answered(Box::new(answer)))
    };
    // Clients never send a fragment (RFC 9112, 3.2).
    if head.target.contains('#') {
        return Err(Refusal::Malformed("the request target has a fragment").into());
    }
    if head.method == "OPTIONS" && (head.target == "*" || path(head.target) == "/") {
        return preflight();
    }
    if !head.target.starts_with('/') {
        return Err(Refusal::Malformed("the request target is not a path").into());
    }
    let id = stream_id(head.target)?;
    if head.method == "OPTIONS" {
        return preflight();
    }
    if is_control(id) {
        return control_route(head, id, is_admitted, now, settings);
    }
    // Authorize before any check that reveals something about the stream.
    let permissions = Permissions::of(head, now, settings)?;
    let name = name::canonical(id, &settings.limits)?;
    permissions.check_request(head, &name, &settings.limits)?;
    let writes = matches!(head.method, "PUT" | "POST" | "DELETE");
    if writes && name::is_internal(&name) {
        return Err(written_by_server(&name).into());
    }
    if !writes && !matches!(head.method, "GET" | "HEAD") {
        return Err(Refusal::MethodNotAllowed {
            allow: request::METHODS,
        }
        .into());
    }
    // Refuse the request itself: browsers send a simple POST without a preflight, so it is not
    // enough to omit the CORS headers.
    if writes && !is_admitted {
        return Err(Refusal::Forbidden("pages of this origin may not write here").into());
    }
    request::check_codings(head)?;
    request::refuse_announced(head, &settings.limits)?;
    let timing = settings.debug_timing || request::asks_for_timing(head);
    Ok(ToStream {
        live: request::is_live(head.method, head.target),
        cache_mode: settings.answers_cache_mode(),
        edge_cache: edge_cache::of(head, &name, settings),
        timing,
        needs_cors: !settings.cors_origins.are_any() || (head.method == "POST" && origin.is_some()),
        has_public_origin: settings.public_url.is_some(),
        name,
    })
}

/// Routes a request below `__ds` (protocol 6).
fn control_route(
    head: RequestHead<'_>,
    rest: &str,
    is_admitted: bool,
    now: Millis,
    settings: &Settings,
) -> Result<ToStream, Rejected> {
    if !settings.limits.subscriptions {
        return Err(Refusal::NotSupported("subscriptions").into());
    }
    let target = control::target(head.method, rest, &settings.limits);
    let token = target.as_ref().map(|target| target.token);
    // Without the server's token, nobody learns which requests are malformed.
    if matches!(token, Ok(RequiredToken::OfServer) | Err(_)) {
        Permissions::of(head, now, settings)?.check_control()?;
    }
    let target = target?;
    if target.token == RequiredToken::OfWake && control::bearer(head).is_none() {
        // Its object would say the same, after it was loaded.
        return Err(Refusal::TokenInvalid.into());
    }
    if !matches!(head.method, "GET" | "HEAD") && !is_admitted {
        return Err(Refusal::Forbidden("pages of this origin may not write here").into());
    }
    request::check_codings(head)?;
    request::refuse_announced(head, &settings.limits)?;
    Ok(ToStream {
        name: target.object,
        live: false,
        cache_mode: CacheMode::default(),
        edge_cache: EdgeCache::Unused,
        timing: settings.debug_timing || request::asks_for_timing(head),
        needs_cors: !settings.cors_origins.are_any() || head.method == "POST",
        has_public_origin: settings.public_url.is_some(),
    })
}

/// Returns the canonical name of the stream in a request's target.
pub(crate) fn stream_name(target: &str, limits: &Limits) -> Result<String, Refusal> {
    name::canonical(stream_id(target)?, limits)
}

/// Returns whether the path behind the prefix of streams belongs to control APIs (protocol 6).
fn is_control(id: &str) -> bool {
    let first = id.split('/').next().expect("a split has at least one part");
    percent_decode_str(first).eq(name::CONTROL_PREFIX.bytes())
}

/// Returns whether the name belongs to control APIs (protocol 6).
pub(crate) fn is_reserved(name: &str) -> bool {
    name.split('/').next() == Some(name::CONTROL_PREFIX)
}

/// Returns the path of a request's target behind the prefix of streams, if it belongs to control
/// APIs.
pub(crate) fn control_rest(target: &str) -> Option<&str> {
    stream_id(target).ok().filter(|id| is_control(id))
}

/// Returns whether the target is one to which streams send their registry events.
pub(crate) fn is_registry(target: &str) -> bool {
    stream_id(target).is_ok_and(name::is_registry)
}

fn stream_id(target: &str) -> Result<&str, Refusal> {
    let id = path(target).strip_prefix(STREAM_PREFIX);
    id.filter(|id| !id.is_empty()).ok_or(Refusal::PathNotFound)
}

/// Returns the path of a request's target, as sent.
pub(crate) fn path(target: &str) -> &str {
    target
        .split(['?', '#'])
        .next()
        .expect("a split has at least one part")
}

/// Returns whether pages of the request's origin may write.
pub(crate) fn is_admitted(head: RequestHead<'_>, settings: &Settings) -> bool {
    let origin = (head.header)(header::ORIGIN);
    settings.cors_origins.admit(origin.as_deref())
}

/// Returns the refusal of a client's write to one of the server's own streams.
pub(crate) fn written_by_server(name: &str) -> Refusal {
    Refusal::Forbidden(if name::is_registry(name) {
        "the registry is written by the server alone"
    } else {
        "the stream of a session is written by the server alone"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    fn settings(auth_token: Option<&str>) -> Settings {
        Settings {
            auth_token: auth_token.map(Secret::from),
            ..Settings::default()
        }
    }

    fn routed(method: &str, target: &str, headers: &[(&str, &str)], settings: &Settings) -> Route {
        let header = |name: &str| {
            let found = headers.iter().find(|(each, _)| *each == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let head = RequestHead {
            method,
            origin: "http://h",
            target,
            header: &header,
        };
        route(head, NOW, settings)
    }

    fn status(method: &str, target: &str, headers: &[(&str, &str)], settings: &Settings) -> u16 {
        match routed(method, target, headers, settings) {
            Route::Stream(_) => 0,
            Route::Answered(answer) => answer.status,
        }
    }

    #[test]
    fn only_streams_are_routed() {
        let open = settings(None);
        for (method, path, expected) in [
            ("GET", "/v1/stream/a", 0),
            ("GET", "/v1/stream/a/b?offset=-1", 0),
            ("GET", "/", 404),
            ("GET", "/v1/stream", 404),
            ("GET", "/v1/stream/", 404),
            ("GET", "/v2/stream/a", 404),
            ("OPTIONS", "/v1/stream/a", 204),
            ("PATCH", "/v1/stream/a", 405),
            ("GET", "/v1/stream/__ds/subscriptions/x", 0),
            ("GET", "/v1/stream/%5F_ds/subscriptions/x", 0),
            ("GET", "/v1/stream/__ds/jwks.json", 0),
            ("POST", "/v1/stream/__ds/jwks.json", 405),
            ("POST", "/v1/stream/__ds/subscriptions/x", 405),
            ("GET", "/v1/stream/__ds/subscriptions/x/claim", 405),
            ("PUT", "/v1/stream/__ds/subscriptions/%zz", 400),
            ("PUT", "/v1/stream/__ds/subscriptions/", 404),
            ("GET", "/v1/stream/__ds", 404),
            ("GET", "/v1/stream/__ds/keys", 404),
            ("PATCH", "/v1/stream/__ds/keys", 404),
            ("PATCH", "/v1/stream/__ds/directory/1", 404),
            ("PATCH", "/v1/stream/__ds/subscriptions/x", 405),
            ("GET", "/v1/stream/__dsx", 0),
            ("GET", "/v1/stream/__registry__", 0),
            ("POST", "/v1/stream/__registry__", 403),
            ("POST", "/v1/stream/%5F_registry__", 403),
            ("GET", "/v1/stream/__registry__/1", 0),
            ("PUT", "/v1/stream/__registry__/1", 403),
            ("POST", "/v1/stream/__registry__/255", 403),
            ("DELETE", "/v1/stream/%5F_registry__/2", 403),
            ("DELETE", "/v1/stream/__registry__/", 403),
            ("PUT", "/v1/stream/__registry__%2F1", 0),
            ("PUT", "/v1/stream/__registry__1", 0),
            ("PUT", "/v1/stream/a/__registry__/1", 0),
            ("GET", "/v1/stream/%zz", 400),
            ("GET", "/v1/stream/a#b", 400),
            ("GET", "/v1/stream/a?offset=-1#", 400),
            ("GET", "*", 400),
            ("GET", "", 400),
            ("GET", "?offset=-1", 400),
            ("GET", "http://h/v1/stream/a", 400),
            ("OPTIONS", "*", 204),
            ("OPTIONS", "/", 204),
            ("OPTIONS", "/v2", 404),
        ] {
            assert_eq!(
                status(method, path, &[], &open),
                expected,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn an_announced_body_that_is_too_large_goes_no_further() {
        let open = settings(None);
        for (method, length, expected) in [
            ("POST", "16777216", 0),
            ("POST", "16777217", 413),
            ("PUT", "99999999999999999", 413),
            ("GET", "16777217", 0),
        ] {
            let header = |name: &str| (name == header::CONTENT_LENGTH).then(|| length.to_owned());
            let head = RequestHead {
                method,
                origin: "http://h",
                target: "/v1/stream/a",
                header: &header,
            };
            let status = match route(head, NOW, &open) {
                Route::Stream(_) => 0,
                Route::Answered(answer) => answer.status,
            };
            assert_eq!(status, expected, "{method} {length}");
        }
    }

    #[test]
    fn the_token_guards_everything_but_the_preflight() {
        let guarded = settings(Some("secret"));
        let target = "/v1/stream/a";
        for (authorization, expected) in [
            (None, 401),
            (Some("secret"), 401),
            (Some("Bearer secre"), 401),
            (Some("Bearer secret2"), 401),
            (Some("Basic secret"), 401),
            (Some("Bearer secret"), 0),
            (Some("bearer  secret "), 0),
        ] {
            let headers = authorization.map(|value| (header::AUTHORIZATION, value));
            assert_eq!(
                status("GET", target, headers.as_slice(), &guarded),
                expected,
                "{authorization:?}"
            );
        }
        assert_eq!(status("OPTIONS", target, &[], &guarded), 204);
        assert_eq!(status("GET", "/v1/stream/%zz", &[], &guarded), 401);
    }

    #[test]
    fn requests_with_a_token_of_their_own_reach_no_object_without_it() {
        let guarded = settings(Some("secret"));
        let own = [(header::AUTHORIZATION, "Bearer of-a-wake")];
        for resource in ["callback", "ack", "release"] {
            let target = format!("/v1/stream/__ds/subscriptions/s/{resource}");
            assert_eq!(status("POST", &target, &[], &guarded), 401, "{resource}");
            assert_eq!(status("POST", &target, &own, &guarded), 0, "{resource}");
        }
    }

    #[test]
    fn no_shared_cache_keeps_an_answer_that_a_token_protects() {
        let shared = |auth_token: Option<&str>| Settings {
            cache_mode: CacheMode::Shared,
            ..settings(auth_token)
        };
        let headers = [(header::AUTHORIZATION, "Bearer secret")];
        for (token, mode) in [
            (None, CacheMode::Shared),
            (Some("secret"), CacheMode::Private),
        ] {
            let Route::Stream(to) = routed("GET", "/v1/stream/a", &headers, &shared(token)) else {
                panic!("it is let in")
            };
            assert_eq!(to.cache_mode, mode, "{token:?}");
            assert_eq!(
                matches!(to.edge_cache, EdgeCache::Asked(_)),
                mode == CacheMode::Shared
            );
        }
    }

    #[test]
    fn internal_headers_say_what_the_router_has_decided() {
        let to = |cache_mode, live, timing| ToStream {
            name: "a".to_owned(),
            live,
            cache_mode,
            edge_cache: EdgeCache::Unused,
            timing,
            needs_cors: false,
            has_public_origin: false,
        };
        let all = to(CacheMode::Shared, true, true);
        let none = to(CacheMode::Private, false, false);
        for (name, value) in [
            (internal_headers::CACHE_MODE, Some("shared")),
            (internal_headers::UPGRADE, Some("websocket")),
            (internal_headers::TIMING, Some("1")),
            (internal_headers::LIVE_HEAD, None),
        ] {
            assert_eq!(all.internal_header(name), value, "{name}");
            assert_eq!(none.internal_header(name), None, "{name}");
        }
    }

    #[test]
    fn pages_of_other_origins_cannot_write_when_origins_are_listed() {
        let listed = Settings {
            cors_origins: Origins::Listed(vec!["https://a.example".to_owned()]),
            ..Settings::default()
        };
        let target = "/v1/stream/a";
        for method in ["PUT", "POST", "DELETE", "GET", "HEAD"] {
            let writes = !matches!(method, "GET" | "HEAD");
            for (origin, may) in [
                ("https://a.example", true),
                ("http://a.example", false),
                ("https://evil.example", false),
                ("null", false),
                ("", false),
            ] {
                let headers = [(header::ORIGIN, origin)];
                let expected = if may || !writes { 0 } else { 403 };
                assert_eq!(
                    status(method, target, &headers, &listed),
                    expected,
                    "{method} {origin}"
                );
                assert_eq!(status(method, target, &headers, &Settings::default()), 0);
            }
            assert_eq!(status(method, target, &[], &listed), 0);
        }
        let preflight =
            |origin: &str| match routed("OPTIONS", target, &[(header::ORIGIN, origin)], &listed) {
                Route::Answered(answer) => answer,
                Route::Stream(_) => panic!("a preflight goes no further"),
            };
        let allow = "Access-Control-Allow-Methods";
        assert!(preflight("https://a.example").header(allow).is_some());
        assert!(preflight("https://evil.example").header(allow).is_none());
    }

    #[test]
    fn a_body_with_a_content_encoding_is_refused() {
        let open = settings(None);
        let target = "/v1/stream/a";
        for (name, value, expected) in [
            (header::TRANSFER_ENCODING, "chunked", 0),
            (header::TRANSFER_ENCODING, "Chunked", 0),
            (header::TRANSFER_ENCODING, "gzip, chunked", 501),
            (header::TRANSFER_ENCODING, "gzip", 501),
            (header::TRANSFER_ENCODING, "identity", 501),
            (header::TRANSFER_ENCODING, "chunked, gzip", 501),
            (header::TRANSFER_ENCODING, "chunked;x=1", 501),
            (header::TRANSFER_ENCODING, "chunked, chunked", 400),
            (header::CONTENT_ENCODING, "gzip", 415),
            (header::CONTENT_ENCODING, "br, gzip", 415),
            (header::CONTENT_ENCODING, "identity, gzip", 415),
            (header::CONTENT_ENCODING, "GZIP", 415),
            (header::CONTENT_ENCODING, "identity", 0),
            (header::CONTENT_ENCODING, "", 0),
        ] {
            for method in ["PUT", "POST"] {
                assert_eq!(
                    status(method, target, &[(name, value)], &open),
                    expected,
                    "{method} {name}: {value}"
                );
            }
        }
        let Route::Answered(answer) =
            routed("POST", target, &[(header::CONTENT_ENCODING, "br")], &open)
        else {
            panic!("it is refused")
        };
        assert_eq!(answer.header(header::ACCEPT_ENCODING), Some("identity"));
    }
}
