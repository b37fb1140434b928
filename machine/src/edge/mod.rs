//! The router's decisions: which stream a request is for, whether it may pass, and how its answer may be cached.

pub mod name;
pub mod settings;

use subtle::ConstantTimeEq;

use crate::wire::request::{self, Head};
use crate::wire::{CacheMode, header};
use crate::{Answer, Limits, Refusal};
pub use settings::Settings;

/// Where stream URLs begin.
pub const STREAM_PREFIX: &str = "/v1/stream/";

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// It goes to the object of this stream.
    Stream(ToStream),
    /// It goes no further.
    Answered(Answer),
}

#[derive(Debug, PartialEq, Eq)]
pub struct ToStream {
    /// The canonical name, and the object's.
    pub name: String,
    /// Whether a line is to be offered to the object (`Upgrade: websocket`).
    pub live: bool,
    /// What `X-Cache-Mode` tells the object.
    pub cache_mode: CacheMode,
    /// Whether the answer is to have a `Server-Timing` header.
    pub timing: bool,
}

/// Decides on a request by its head alone.
#[must_use]
pub fn route(head: Head<'_>, settings: &Settings) -> Route {
    match stream_route(head, settings) {
        Ok(to_stream) => Route::Stream(to_stream),
        Err(Stop::Answered(answer)) => Route::Answered(answer),
        Err(Stop::Refused(refusal)) => {
            let answer = Answer::refusal(&refusal);
            Route::Answered(if head.method == "HEAD" {
                answer.without_body()
            } else {
                answer
            })
        }
    }
}

enum Stop {
    Refused(Refusal),
    Answered(Answer),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn stream_route(head: Head<'_>, settings: &Settings) -> Result<ToStream, Stop> {
    let id = stream_id(head.url)?;
    if head.method == "OPTIONS" {
        return Err(Stop::Answered(Answer::preflight(&settings.limits)));
    }
    // Before anything is said of the stream.
    authorize(head, settings)?;
    let name = name::canonical(id, &settings.limits)?;
    if name.split('/').next() == Some(name::CONTROL_PREFIX) {
        return Err(Refusal::Reserved.into());
    }
    if name == name::REGISTRY && matches!(head.method, "PUT" | "POST" | "DELETE") {
        return Err(Refusal::Forbidden("the registry is written by the server alone").into());
    }
    if !matches!(head.method, "GET" | "HEAD" | "PUT" | "POST" | "DELETE") {
        return Err(Refusal::MethodNotAllowed {
            allow: request::METHODS,
        }
        .into());
    }
    let timing = settings.debug_timing || request::asks_for_timing(head);
    Ok(ToStream {
        name,
        live: request::is_live(head.method, head.url),
        cache_mode: settings.cache_mode,
        timing,
    })
}

/// The canonical name of the stream at a URL.
pub(crate) fn stream_name(url: &str, limits: &Limits) -> Result<String, Refusal> {
    name::canonical(stream_id(url)?, limits)
}

/// Whether it is the URL by which streams tell the registry of themselves.
pub(crate) fn is_registry(url: &str) -> bool {
    stream_id(url) == Ok(name::REGISTRY)
}

fn stream_id(url: &str) -> Result<&str, Refusal> {
    let id = path(url).strip_prefix(STREAM_PREFIX);
    id.filter(|id| !id.is_empty()).ok_or(Refusal::PathNotFound)
}

/// The path of an absolute URL, as sent.
fn path(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = after_scheme.find('/').map_or("/", |at| &after_scheme[at..]);
    path.split(['?', '#']).next().unwrap_or_default()
}

/// Compares the bearer token in a time that does not depend on where it differs.
fn authorize(head: Head<'_>, settings: &Settings) -> Result<(), Refusal> {
    let Some(expected) = &settings.auth_token else {
        return Ok(());
    };
    let given = (head.header)(header::AUTHORIZATION).unwrap_or_default();
    let scheme_and_token = given
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = scheme_and_token.map_or("", |(_, token)| token.trim());
    if bool::from(token.as_bytes().ct_eq(expected.as_bytes())) {
        Ok(())
    } else {
        Err(Refusal::Unauthorized)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(auth_token: Option<&str>) -> Settings {
        let auth_token = auth_token.map(str::to_owned);
        Settings {
            limits: Limits::DEFAULT,
            auth_token,
            cache_mode: CacheMode::Private,
            debug_timing: false,
        }
    }

    fn status(method: &str, url: &str, authorization: Option<&str>, settings: &Settings) -> u16 {
        let header = |name: &str| {
            authorization
                .filter(|_| name == header::AUTHORIZATION)
                .map(str::to_owned)
        };
        match route(
            Head {
                method,
                url,
                header: &header,
            },
            settings,
        ) {
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
            ("GET", "/v1/stream/__ds/subscriptions/x", 404),
            ("GET", "/v1/stream/__dsx", 0),
            ("GET", "/v1/stream/__registry__", 0),
            ("POST", "/v1/stream/__registry__", 403),
            ("POST", "/v1/stream/%5F_registry__", 403),
            ("GET", "/v1/stream/%zz", 400),
        ] {
            assert_eq!(
                status(method, &format!("http://h{path}"), None, &open),
                expected,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn the_token_guards_everything_but_the_preflight() {
        let guarded = settings(Some("secret"));
        let url = "http://h/v1/stream/a";
        for (authorization, expected) in [
            (None, 401),
            (Some("secret"), 401),
            (Some("Bearer secre"), 401),
            (Some("Bearer secret2"), 401),
            (Some("Basic secret"), 401),
            (Some("Bearer secret"), 0),
            (Some("bearer  secret "), 0),
        ] {
            assert_eq!(
                status("GET", url, authorization, &guarded),
                expected,
                "{authorization:?}"
            );
        }
        assert_eq!(status("OPTIONS", url, None, &guarded), 204);
        assert_eq!(status("GET", "http://h/v1/stream/%zz", None, &guarded), 401);
    }
}
