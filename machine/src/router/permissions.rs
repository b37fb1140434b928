//! Who may do what: the bearer token of a request, and what it permits (protocol 12.1).
//!
//! `AUTH_TOKEN` permits everything. A token that the operator's application has signed with a
//! secret of `JWT_SECRET` permits what its claims say. `docs/tokens.md` describes them.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{Settings, name};
use crate::subscription::glob::Glob;
use crate::wire::control::bearer;
use crate::wire::request::RequestHead;
use crate::wire::web_token::WebToken;
use crate::wire::{fork, header, json};
use crate::{Limits, Millis, Refusal};

/// Something that a token can permit. Its name is a word of the claim `scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// GET and HEAD of a stream.
    Read,
    /// PUT of a fork, with the stream as its source. The fork can be read, and keeps the content of
    /// its source alive.
    Fork,
    /// POST to a stream.
    Append,
    /// PUT of a stream.
    Create,
    /// DELETE of a stream.
    Delete,
    /// Requests about subscriptions and sessions. They can reach every stream.
    Control,
}

impl Action {
    const ALL: [Self; 6] = [
        Self::Read,
        Self::Fork,
        Self::Append,
        Self::Create,
        Self::Delete,
        Self::Control,
    ];

    /// Returns the action of a request for a stream. Other methods do nothing to a stream.
    fn of_method(method: &str) -> Option<Self> {
        match method {
            "GET" | "HEAD" => Some(Self::Read),
            "POST" => Some(Self::Append),
            "PUT" => Some(Self::Create),
            "DELETE" => Some(Self::Delete),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Fork => "fork",
            Self::Append => "append",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Control => "control",
        }
    }

    /// Returns what a token does not permit, as the rest of a sentence.
    const fn refusal(self) -> Refusal {
        Refusal::NotPermitted(match self {
            Self::Read => "reading this stream",
            Self::Fork => "forking the source stream",
            Self::Append => "appending to this stream",
            Self::Create => "creating this stream",
            Self::Delete => "deleting this stream",
            Self::Control => "requests about subscriptions and sessions",
        })
    }
}

/// What the sender of a request may do.
#[derive(Debug)]
pub(crate) enum Permissions {
    Everything,
    Claimed(Claimed),
}

/// What the claims of a token permit.
#[derive(Debug)]
pub(crate) struct Claimed {
    actions: Vec<Action>,
    streams: Vec<Glob>,
}

impl Permissions {
    /// Finds out what the token of a request permits.
    ///
    /// # Errors
    /// Fails when the operator demands a token, and the request has none that is valid.
    pub(crate) fn of(
        head: RequestHead<'_>,
        now: Millis,
        settings: &Settings,
    ) -> Result<Self, Refusal> {
        if !settings.has_tokens() {
            return Ok(Self::Everything);
        }
        let given = bearer(head);
        let given = given.as_deref().unwrap_or_default();
        if let Some(expected) = &settings.auth_token
            && is_same(given, expected.as_str())
        {
            return Ok(Self::Everything);
        }
        // What is not even shaped like a signed token is a wrong `AUTH_TOKEN`.
        if settings.token_secrets.is_empty() || !given.contains('.') {
            return Err(Refusal::Unauthorized);
        }
        Claimed::read(given, now, settings).map(Self::Claimed)
    }

    /// Refuses an action that is not permitted. `name` is the canonical name of a stream.
    fn check(&self, action: Action, name: &str) -> Result<(), Refusal> {
        match self {
            Self::Claimed(claimed) if !claimed.permits(action, name) => Err(action.refusal()),
            Self::Everything | Self::Claimed(_) => Ok(()),
        }
    }

    /// Refuses a request for a stream whose action is not permitted.
    pub(super) fn check_request(
        &self,
        head: RequestHead<'_>,
        name: &str,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let Some(action) = Action::of_method(head.method) else {
            return Ok(());
        };
        self.check(action, name)?;
        if action == Action::Create
            && let Some(source) = (head.header)(header::STREAM_FORKED_FROM)
            && let Ok(source) = fork::source_name(&source, limits)
        {
            // The object of the stream refuses what is no name of a source.
            self.check(Action::Fork, &source)?;
        }
        Ok(())
    }

    /// Refuses requests about subscriptions and sessions if they are not permitted.
    pub(crate) fn check_control(&self) -> Result<(), Refusal> {
        match self {
            Self::Claimed(claimed) if !claimed.actions.contains(&Action::Control) => {
                Err(Action::Control.refusal())
            }
            Self::Everything | Self::Claimed(_) => Ok(()),
        }
    }
}

impl Claimed {
    fn read(token: &str, now: Millis, settings: &Settings) -> Result<Self, Refusal> {
        let limits = &settings.limits;
        if token.len() as u64 > limits.stream_token_bytes_max {
            return Err(Refusal::TokenRefused("is too long"));
        }
        let read = WebToken::read(token);
        let read = read.ok_or(Refusal::TokenRefused("is not a JSON web token"))?;
        if !read.is_signed_with("HS256") {
            return Err(Refusal::TokenRefused("is not signed with plain HS256"));
        }
        let is_ours = settings.token_secrets.iter().any(|secret| {
            let key = Hmac::<Sha256>::new_from_slice(secret.as_str().as_bytes());
            let code = key.expect("a key can have any length");
            // The comparison takes the same time wherever the codes differ.
            let code = code.chain_update(read.signed.as_bytes());
            code.verify_slice(&read.signature).is_ok()
        });
        if !is_ours {
            return Err(Refusal::TokenRefused("has a wrong signature"));
        }
        let times = read.check_times(now, limits.stream_token_skew_ms_max);
        times.map_err(Refusal::TokenRefused)?;
        // A token for another service must not count here (RFC 7519, section 4.1.3).
        if read.claims.member("aud").is_some() {
            return Err(Refusal::TokenRefused(
                "has an audience, which may be another server",
            ));
        }
        let scope = read.claims.text("scope");
        let scope = scope.ok_or(Refusal::TokenRefused("has no scope"))?;
        // Words of later versions permit nothing here.
        let actions = Action::ALL
            .into_iter()
            .filter(|action| scope.split(' ').any(|word| word == action.name()));
        // A token that only permits `control` names no streams.
        let streams = read.claims.elements("streams").unwrap_or_default();
        if streams.len() as u64 > limits.stream_token_patterns_max {
            return Err(Refusal::TokenRefused("has too many patterns of streams"));
        }
        let streams = streams.iter().map(|pattern| {
            let pattern = json::text(pattern)?;
            Glob::parse(&pattern, limits).ok()
        });
        let streams: Option<Vec<_>> = streams.collect();
        Ok(Self {
            actions: actions.collect(),
            streams: streams.ok_or(Refusal::TokenRefused("has an invalid pattern of streams"))?,
        })
    }

    fn permits(&self, action: Action, name: &str) -> bool {
        // Patterns leave out empty segments, so one would match the names of many streams.
        if name.split('/').any(str::is_empty) {
            return false;
        }
        // Wildcards do not match the server's own streams. These contain the names of all streams,
        // and what sessions have subscribed to.
        let is_found_by = |pattern: &Glob| {
            (pattern.first_literal().is_some() || !name::is_internal(name)) && pattern.matches(name)
        };
        self.actions.contains(&action) && self.streams.iter().any(is_found_by)
    }
}

/// Refuses a request without this bearer token.
pub(crate) fn check_token(head: RequestHead<'_>, expected: &str) -> Result<(), Refusal> {
    let given = bearer(head);
    if is_same(given.as_deref().unwrap_or_default(), expected) {
        Ok(())
    } else {
        Err(Refusal::Unauthorized)
    }
}

/// Compares two tokens. The time does not depend on where they differ.
fn is_same(given: &str, expected: &str) -> bool {
    given.as_bytes().ct_eq(expected.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::router::{Route, Secret, route};

    const NOW: Millis = Millis(1_800_000_000_000);
    const SECRET: &str = "an old secret of at least 32 bytes";
    const NEXT_SECRET: &str = "the next secret of at least 32 bytes";

    fn settings(auth_token: Option<&str>) -> Settings {
        Settings {
            auth_token: auth_token.map(Secret::from),
            token_secrets: vec![NEXT_SECRET.into(), SECRET.into()],
            ..Settings::default()
        }
    }

    fn sign(secret: &str, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let code = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length is fine");
        let code = code.chain_update(&signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(code))
    }

    fn header() -> Value {
        json!({ "alg": "HS256", "typ": "JWT" })
    }

    fn claims(scope: &str, streams: &[&str]) -> Value {
        json!({ "exp": 1_800_000_100, "scope": scope, "streams": streams })
    }

    fn token(scope: &str, streams: &[&str]) -> String {
        sign(SECRET, &header(), &claims(scope, streams))
    }

    /// Returns the status and the reason of a refused request; `None` if it is let in.
    fn refusal_of(
        method: &str,
        target: &str,
        token: &str,
        fork_of: Option<&str>,
        settings: &Settings,
    ) -> Option<(u16, String)> {
        let header = |name: &str| match name {
            header::AUTHORIZATION => Some(format!("Bearer {token}")),
            header::STREAM_FORKED_FROM => fork_of.map(str::to_owned),
            _ => None,
        };
        let head = RequestHead {
            method,
            origin: "http://h",
            target,
            header: &header,
        };
        match route(head, NOW, settings) {
            Route::Stream(_) => None,
            Route::Answered(answer) => {
                let crate::Body::Bytes(body) = &answer.body else {
                    return Some((answer.status, String::new()));
                };
                Some((answer.status, String::from_utf8_lossy(body).into_owned()))
            }
        }
    }

    fn status(method: &str, target: &str, token: &str) -> u16 {
        let refused = refusal_of(method, target, token, None, &settings(None));
        refused.map_or(0, |(status, _)| status)
    }

    #[test]
    fn each_word_of_the_scope_permits_its_methods() {
        let target = "/v1/stream/a/b";
        for (scope, permitted) in [
            ("read", &["GET", "HEAD"][..]),
            ("fork", &[]),
            ("append", &["POST"]),
            ("create", &["PUT"]),
            ("delete", &["DELETE"]),
            ("control", &[]),
            ("read append", &["GET", "HEAD", "POST"]),
            ("create  read later", &["PUT", "GET", "HEAD"]),
            ("", &[]),
            ("Read", &[]),
            ("reads", &[]),
        ] {
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE"] {
                let expected = if permitted.contains(&method) { 0 } else { 403 };
                let given = status(method, target, &token(scope, &["a/*"]));
                assert_eq!(given, expected, "{method} with {scope:?}");
            }
        }
        assert_eq!(status("PATCH", target, &token("read", &["a/*"])), 405);
    }

    #[test]
    fn a_token_permits_only_streams_that_match_a_pattern() {
        for (streams, name, expected) in [
            (&["a"][..], "a", 0),
            (&["a"], "a/b", 403),
            (&["a/**"], "a/b/c", 0),
            (&["a/**"], "ab", 403),
            (&["a/*"], "%61/b", 0),
            (&["x", "a/*"], "a/b", 0),
            (&["**"], "a/b/c", 0),
            (&[], "a", 403),
            // Patterns leave out empty segments, and names have them.
            (&["a/b"], "a//b", 403),
            (&["a/b"], "/a/b", 403),
            (&["a/**"], "a/b/", 403),
            (&["**"], "/", 403),
        ] {
            let target = format!("/v1/stream/{name}");
            let given = status("GET", &target, &token("read", streams));
            assert_eq!(given, expected, "{name} with {streams:?}");
        }
        let one = json!({ "exp": 1_800_000_100, "scope": "read", "streams": "a" });
        let one = sign(SECRET, &header(), &one);
        assert_eq!(status("GET", "/v1/stream/a", &one), 0);
        let none = json!({ "exp": 1_800_000_100, "scope": "read" });
        let none = sign(SECRET, &header(), &none);
        assert_eq!(status("GET", "/v1/stream/a", &none), 403);
    }

    #[test]
    fn wildcards_do_not_match_the_servers_own_streams() {
        let session = "subscriptions/11111111-2222-4333-8444-555555555555";
        for (pattern, name, expected) in [
            ("**", "__registry__", 403),
            ("*", "__registry__", 403),
            ("*/**", "__registry__/1", 403),
            ("__registry__", "__registry__", 0),
            ("__registry__/**", "__registry__/1", 0),
            ("*/*", session, 403),
            (session, session, 0),
            ("subscriptions/*", session, 0),
            ("**", "subscriptions/other", 0),
        ] {
            let target = format!("/v1/stream/{name}");
            let given = status("GET", &target, &token("read", &[pattern]));
            assert_eq!(given, expected, "{name} with {pattern}");
        }
    }

    #[test]
    fn a_fork_needs_the_right_to_fork_its_source() {
        let settings = settings(None);
        for (scope, streams, expected) in [
            ("create fork", &["a", "b"][..], None),
            (
                "create read",
                &["a", "b"],
                Some("forking the source stream"),
            ),
            ("create fork", &["a"], Some("forking the source stream")),
            ("create fork", &["b"], Some("creating this stream")),
        ] {
            let token = token(scope, streams);
            for source in ["/v1/stream/b", " /v1/stream/%62 "] {
                let refused = refusal_of("PUT", "/v1/stream/a", &token, Some(source), &settings);
                assert_eq!(
                    refused.is_none(),
                    expected.is_none(),
                    "{scope} {streams:?} {source}"
                );
                if let (Some((status, body)), Some(expected)) = (refused, expected) {
                    assert_eq!(status, 403);
                    assert!(body.contains(expected), "{body}");
                }
            }
        }
        // Its object says what is wrong with it.
        let token = token("create", &["a"]);
        let malformed = refusal_of("PUT", "/v1/stream/a", &token, Some("b"), &settings);
        assert_eq!(malformed, None);
    }

    #[test]
    fn subscriptions_need_a_word_of_their_own() {
        let target = "/v1/stream/__ds/subscriptions/x";
        let all = token("read append create delete", &["**", "__ds/**"]);
        for method in ["GET", "PUT", "DELETE"] {
            assert_eq!(status(method, target, &all), 403);
            assert_eq!(status(method, target, &token("control", &[])), 0);
        }
        // What is malformed is not told without the right to use it.
        assert_eq!(
            status("GET", "/v1/stream/__ds/subscriptions/%zz", &all),
            403
        );
    }

    #[test]
    fn the_operators_token_permits_everything_beside_signed_ones() {
        let both = settings(Some("secret.with.dots"));
        let refused =
            |method, token: &str| refusal_of(method, "/v1/stream/a", token, None, &both).is_some();
        assert!(!refused("DELETE", "secret.with.dots"));
        assert!(!refused("GET", &token("read", &["a"])));
        assert!(refused("DELETE", &token("read", &["a"])));
        assert!(refused("GET", "secret.with.dot") && refused("GET", "wrong"));
    }

    #[test]
    fn a_token_that_does_not_hold_is_refused_with_a_reason() {
        let changed = |name: &str, value: Value| {
            let mut claims = claims("read", &["a"]);
            claims[name] = value;
            sign(SECRET, &header(), &claims)
        };
        let without = |name: &str| {
            let mut claims = claims("read", &["a"]);
            claims
                .as_object_mut()
                .expect("it is an object")
                .remove(name);
            sign(SECRET, &header(), &claims)
        };
        let with_header = |header: &Value| sign(SECRET, header, &claims("read", &["a"]));
        let many = vec!["a"; 101];
        let long = token("read", &[&"x".repeat(20_000)]);
        let whole = token("read", &["a"]);
        let (signed, signature) = whole.rsplit_once('.').expect("it has three parts");
        let pattern = "has an invalid pattern of streams";
        for (token, reason) in [
            (whole.clone(), None),
            (sign(NEXT_SECRET, &header(), &claims("read", &["a"])), None),
            (changed("exp", json!(1_799_999_941)), None),
            (changed("nbf", json!(1_800_000_060)), None),
            (
                sign("other secret", &header(), &claims("read", &["a"])),
                Some("has a wrong signature"),
            ),
            (format!("{signed}."), Some("has a wrong signature")),
            (
                format!("{}.{signature}", signed.replacen("ey", "ez", 1)),
                Some("is not signed with plain HS256"),
            ),
            (
                with_header(&json!({ "alg": "none" })),
                Some("is not signed with plain HS256"),
            ),
            (
                with_header(&json!({ "alg": "HS256", "crit": ["b64"] })),
                Some("is not signed with plain HS256"),
            ),
            (format!("{whole}.x"), Some("is not a JSON web token")),
            ("a.b".to_owned(), Some("is not a JSON web token")),
            (long, Some("is too long")),
            (changed("exp", json!(1_799_999_940)), Some("has expired")),
            (without("exp"), Some("has no valid end")),
            (
                changed("nbf", json!(1_800_000_061)),
                Some("is not valid yet"),
            ),
            (changed("aud", json!("here")), Some("has an audience")),
            (
                changed("exp", json!(1_800_000_100.5)),
                Some("has no valid end"),
            ),
            (without("scope"), Some("has no scope")),
            (changed("scope", json!(["read"])), Some("has no scope")),
            (changed("streams", json!(["a", 1])), Some(pattern)),
            (changed("streams", json!([""])), Some(pattern)),
            (changed("streams", json!({ "a": 1 })), Some(pattern)),
            (
                changed("streams", json!(many)),
                Some("has too many patterns of streams"),
            ),
        ] {
            let refused = refusal_of("GET", "/v1/stream/a", &token, None, &settings(None));
            match (refused, reason) {
                (None, None) => {}
                (Some((401, body)), Some(reason)) => assert!(body.contains(reason), "{body}"),
                (refused, reason) => panic!("{token}: {refused:?}, not {reason:?}"),
            }
        }
        let wrong = refusal_of("GET", "/v1/stream/a", "wrong", None, &settings(None));
        assert!(wrong.is_some_and(|(status, _)| status == 401));
    }

    proptest! {
        #[test]
        fn only_what_is_signed_is_let_in(
            flipped in 0_usize..300,
            bit in 0_u8..7,
        ) {
            let mut token = token("read append", &["a/**"]).into_bytes();
            let at = flipped % token.len();
            token[at] ^= 1 << bit;
            if let Ok(token) = String::from_utf8(token) {
                prop_assert_eq!(status("GET", "/v1/stream/a/b", &token), 401, "{}", token);
            }
        }
    }
}
