//! CORS: which web pages may use the server, and the headers that say so in every answer.

use std::borrow::Cow;

use super::target::is_host;

/// The origins whose pages may use the server (`CORS_ORIGINS`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// Any origin.
    #[default]
    Any,
    /// These origins, in the spelling of browsers.
    Listed(Vec<String>),
}

/// Headers that pages of other origins may read.
const EXPOSED: &str = "Stream-Next-Offset, Stream-Cursor, Stream-Up-To-Date, Stream-Closed, Stream-TTL, Stream-Expires-At, \
     Stream-SSE-Data-Encoding, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, Producer-Received-Seq, ETag, Location, \
     Allow, Accept-Encoding, Date, Retry-After, WWW-Authenticate, X-Cache, Server-Timing";

/// Headers that pages of other origins may send: the server's own, and those that common libraries
/// add.
pub(crate) const ALLOWED: &str = "Authorization, Content-Type, If-Match, If-None-Match, Stream-TTL, Stream-Expires-At, Stream-Closed, \
     Stream-Seq, Stream-Expected-Offset, Stream-Forked-From, Stream-Fork-Offset, Stream-Fork-Sub-Offset, Producer-Id, \
     Producer-Epoch, Producer-Seq, X-Debug-Timing, Last-Event-ID, Cache-Control, Pragma, Idempotency-Key, X-Requested-With, \
     traceparent, tracestate, baggage";

impl Origins {
    /// Parses `*`, or a list of origins separated by commas.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text.trim() == "*" {
            return Some(Self::Any);
        }
        let origins = text.split(',').map(|each| origin(each.trim()));
        origins.collect::<Option<_>>().map(Self::Listed)
    }

    /// Returns whether pages of an origin may use the server. A request without an origin does not
    /// come from a page, and is allowed.
    #[must_use]
    pub fn admit(&self, origin: Option<&str>) -> bool {
        match (self, origin) {
            (Self::Any, _) | (_, None) => true,
            (Self::Listed(origins), Some(origin)) => origins.iter().any(|each| each == origin),
        }
    }

    /// Returns whether all answers to a method have the same CORS headers, unless a page appends.
    #[must_use]
    pub const fn are_any(&self) -> bool {
        matches!(self, Self::Any)
    }

    /// Returns the CORS headers of an answer. `method` and `origin` are those of the request.
    pub fn headers<'a>(
        &self,
        method: &str,
        origin: Option<&'a str>,
    ) -> impl Iterator<Item = (&'static str, Cow<'a, str>)> + use<'a> {
        let (vary, resource_policy, allowed) = match self {
            // Every page names its origin when it appends, and no cache keeps the answer. So others
            // that append do not need the permission.
            Self::Any if method == "POST" && origin.is_none() => (None, "cross-origin", None),
            Self::Any => (None, "cross-origin", Some("*")),
            // The answer depends on the origin, even if the request has none.
            Self::Listed(_) => {
                let allowed = origin.filter(|_| self.admit(origin));
                (Some(("Vary", "Origin")), "same-origin", allowed)
            }
        };
        let exposed = allowed.map(|_| ("Access-Control-Expose-Headers", EXPOSED));
        let allowed = allowed.map(|origin| ("Access-Control-Allow-Origin", origin));
        [
            Some(("Cross-Origin-Resource-Policy", resource_policy)),
            vary,
            allowed,
            exposed,
        ]
        .into_iter()
        .flatten()
        .map(|(name, value)| (name, Cow::Borrowed(value)))
    }
}

/// Returns an origin in the spelling of browsers: in lower case and without the default port.
fn origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (scheme, host) = text.split_once("://")?;
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let host = host.strip_suffix(default_port).unwrap_or(host);
    (is_host(host) && !host.ends_with(':')).then(|| format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &str, method: &str, origin: Option<&str>) -> Vec<(String, String)> {
        let origins = Origins::read(list).unwrap_or_default();
        let headers = origins.headers(method, origin);
        headers
            .map(|(name, value)| (name.to_owned(), value.into_owned()))
            .collect()
    }

    fn value(headers: &[(String, String)], name: &str) -> Option<String> {
        let found = headers.iter().find(|(each, _)| each == name);
        found.map(|(_, value)| value.clone())
    }

    #[test]
    fn a_list_holds_origins_and_nothing_else() {
        let listed = |list: &[&str]| {
            let origins = list.iter().map(|each| (*each).to_owned());
            Some(Origins::Listed(origins.collect()))
        };
        assert_eq!(Origins::read("*"), Some(Origins::Any));
        assert_eq!(
            Origins::read("https://App.example:443, http://localhost:3000 ,http://[::1]:80"),
            listed(&[
                "https://app.example",
                "http://localhost:3000",
                "http://[::1]"
            ])
        );
        for text in [
            "",
            "app.example",
            "https://app.example/",
            "https://*.example",
            "https://a, *",
            "null",
            "https://a,,https://b",
            "file://a",
            "https://u@a",
        ] {
            assert_eq!(Origins::read(text), None, "{text}");
        }
    }

    #[test]
    fn only_listed_origins_get_permission() {
        let list = "https://a.example";
        for (origin, allowed) in [
            (Some("https://a.example"), true),
            (Some("http://a.example"), false),
            (Some("https://a.example.evil"), false),
            (Some("null"), false),
            (None, false),
        ] {
            let added = headers(list, "GET", origin);
            let has_cors = added
                .iter()
                .any(|(name, _)| name.starts_with("Access-Control-"));
            assert_eq!(has_cors, allowed, "{origin:?}");
            assert_eq!(value(&added, "Vary").as_deref(), Some("Origin"));
            if allowed {
                assert_eq!(
                    value(&added, "Access-Control-Allow-Origin").as_deref(),
                    origin
                );
            }
        }
        for origin in [None, Some("https://a.example"), Some("null")] {
            let added = headers("*", "GET", origin);
            assert_eq!(
                value(&added, "Access-Control-Allow-Origin").as_deref(),
                Some("*")
            );
            assert_eq!(value(&added, "Vary"), None);
        }
        for (origin, allowed) in [(None, false), (Some("https://a.example"), true)] {
            let added = headers("*", "POST", origin);
            for name in [
                "Access-Control-Allow-Origin",
                "Access-Control-Expose-Headers",
            ] {
                assert_eq!(value(&added, name).is_some(), allowed, "{name} {origin:?}");
            }
            let policy = value(&added, "Cross-Origin-Resource-Policy");
            assert_eq!(policy.as_deref(), Some("cross-origin"));
        }
    }
}
