//! Signed tokens: what nobody has signed is let in nowhere, and what is signed permits no more than
//! it says.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use machine::Millis;
use machine::router::{self, Route, Settings};
use machine::wire::request::RequestHead;
use serde_json::{Value, json};
use sha2::Sha256;

const NOW_SECONDS: u64 = 1_800_000_000;
const NOW: Millis = Millis(NOW_SECONDS * 1_000);
/// How far the clock of the issuer may be from that of the server.
const SKEW_SECONDS: u64 = 60;
const SECRET: &str = "a secret that has at least 32 bytes";
const METHODS: [(&str, &str); 5] = [
    ("GET", "read"),
    ("HEAD", "read"),
    ("POST", "append"),
    ("PUT", "create"),
    ("DELETE", "delete"),
];

/// Reads the input as a token, as the claims of a token, and as what chooses claims.
///
/// # Panics
/// When a request is let in without the right to it.
pub(crate) fn token(text: &str) {
    let settings = Settings {
        token_secrets: vec![SECRET.into()],
        ..Settings::default()
    };
    let settings = &settings;
    for token in [text.to_owned(), format!("{text}.e30.e30")] {
        assert_eq!(status("GET", "a", &token, None, settings), Some(401));
    }
    check(text, settings);
    let number = text.bytes().fold(0_u64, |number, byte| {
        number.wrapping_mul(257).wrapping_add(u64::from(byte))
    });
    check(&chosen(number, text).to_string(), settings);
}

/// Returns claims of which most hold.
fn chosen(number: u64, text: &str) -> Value {
    let words = ["read", "append", "create", "delete", "control", "fork"];
    let scope: Vec<_> = (0..words.len())
        .filter(|at| number >> at & 1 == 1)
        .map(|at| words[at])
        .collect();
    let (first, last) = (number >> 6 & 3, number >> 8 & 3);
    let pattern = ["a", "*", "**", text][usize::try_from(first).expect("two bits")];
    let mut claims = json!({
        "exp": NOW_SECONDS + (number >> 12 & 0xff) - 80,
        "scope": scope.join(" "),
        "streams": [pattern, "b"],
    });
    match last {
        0 => claims["nbf"] = json!(NOW_SECONDS + (number >> 20 & 0xff) - 128),
        1 => claims["streams"] = json!(pattern),
        _ => {}
    }
    claims
}

/// Signs claims, and checks that they permit no more than an independent reader sees in them.
fn check(claims: &str, settings: &Settings) {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(claims));
    let code = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length is fine");
    let code = code.chain_update(&signed).finalize().into_bytes();
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(code));
    let read: Value = serde_json::from_str(claims).unwrap_or_default();
    let has_word = |word: &str| {
        let scope = read["scope"].as_str().unwrap_or_default();
        scope.split(' ').any(|each| each == word)
    };
    let is_valid = read["aud"].is_null()
        && read["exp"]
            .as_u64()
            .is_some_and(|exp| exp + SKEW_SECONDS > NOW_SECONDS)
        && (read["nbf"].is_null()
            || read["nbf"]
                .as_u64()
                .is_some_and(|from| from <= NOW_SECONDS + SKEW_SECONDS));
    for (method, word) in METHODS {
        match status(method, "a", &token, None, settings) {
            None => assert!(is_valid && has_word(word), "{method} is let in by {claims}"),
            Some(401) => {}
            Some(403) => assert!(is_valid, "{claims} is not valid"),
            Some(status) => panic!("{method} is answered {status} with {claims}"),
        }
        let registry = status(method, "__registry__", &token, None, settings);
        // Only a pattern whose first segment is no wildcard can name it.
        let has_literal = |pattern: &Value| {
            let pattern = pattern.as_str().unwrap_or_default();
            let first = pattern.split('/').find(|segment| !segment.is_empty());
            first.is_some_and(|first| first.contains(|letter: char| letter != '*'))
        };
        let one = std::slice::from_ref(&read["streams"]);
        let patterns = read["streams"].as_array().map_or(one, Vec::as_slice);
        let names_it = patterns.iter().any(has_literal);
        assert!(
            registry.is_some() || names_it,
            "{claims} reads the registry"
        );
        let control = status(method, "__ds/subscriptions/s", &token, None, settings);
        assert!(control.is_some() || is_valid && has_word("control"));
    }
    let fork = status("PUT", "b", &token, Some("/v1/stream/a"), settings);
    assert!(fork.is_some() || is_valid && has_word("create") && has_word("fork"));
}

/// Returns the status of a refused request; `None` if it is let in.
fn status(
    method: &str,
    name: &str,
    token: &str,
    fork_of: Option<&str>,
    settings: &Settings,
) -> Option<u16> {
    let header = |name: &str| match name {
        "Authorization" => Some(format!("Bearer {token}")),
        "Stream-Forked-From" => fork_of.map(str::to_owned),
        _ => None,
    };
    let target = format!("{}{name}", router::STREAM_PREFIX);
    let head = RequestHead {
        method,
        origin: "http://host",
        target: &target,
        header: &header,
    };
    match router::route(head, NOW, settings) {
        Route::Stream(_) => None,
        Route::Answered(answer) => Some(answer.status),
    }
}
