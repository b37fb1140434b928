//! Stream names and routes: every spelling of a name gives the same canonical name, different names
//! stay different, and `Host` does not select a stream.

use std::sync::Arc;

use core::time::Duration;

use machine::router::name::{CONTROL_PREFIX, canonical, is_registry};
use machine::router::target::{self, Named};
use machine::router::{self, EdgeCache, Route, Settings};
use machine::table::{Number as _, Scope};
use machine::wire::CacheMode;
use machine::wire::request::RequestHead;
use machine::{Limits, Millis};

use crate::token;

const NOW: Millis = Millis(1_800_000_000_000);

/// Reads the input as what follows the prefix of a stream URL.
///
/// # Panics
/// When a name is refused that could be read, or is read as another.
pub fn name(input: &[u8]) {
    let id = String::from_utf8_lossy(input);
    let limits = Limits {
        name_bytes_max: 64,
        ..Limits::DEFAULT
    };
    let read = canonical(&id, &limits);
    let expected = decoded(&id).filter(|segments| {
        let dots = segments
            .iter()
            .any(|segment| matches!(segment.as_slice(), b"." | b".."));
        let text = segments
            .iter()
            .all(|segment| std::str::from_utf8(segment).is_ok());
        text && !dots
    });
    match (&read, expected) {
        (Ok(name), Some(expected)) => {
            assert_eq!(canonical(name, &limits).as_ref(), Ok(name), "one spelling");
            assert_eq!(decoded(name), Some(expected), "the same name");
            assert!(name.len() as u64 <= limits.name_bytes_max);
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_graphic() && !br#""<>\^`{|}?#"#.contains(&byte))
            );
        }
        (Err(_), None) => {}
        (Err(refusal), Some(_)) => {
            let unbounded = Limits {
                name_bytes_max: u64::MAX,
                ..Limits::DEFAULT
            };
            let name = canonical(&id, &unbounded);
            let too_long = name.is_ok_and(|name| name.len() as u64 > limits.name_bytes_max);
            assert!(too_long, "{id:?} is refused: {refusal}");
        }
        (Ok(name), None) => panic!("{id:?} is read as {name:?}"),
    }
    route(&id, limits);
    host(&id);
    settings(&id);
    limits_table(&id);
    page(&id);
    edge_cache(&id);
    token::token(&id);
}

/// Checks that a setting is read whole, or refused with the variable's name, and that no message
/// shows a secret.
fn settings(text: &str) {
    let variables = [
        "AUTH_TOKEN",
        "CACHE_MODE",
        "CORS_ORIGINS",
        "DEBUG_TIMING",
        "JWT_SECRET",
        "MAX_APPEND_BYTES",
        "PUBLIC_URL",
    ];
    for variable in variables {
        match Settings::read(&|name| (name == variable).then(|| text.to_owned())) {
            Ok(settings) => {
                assert!(
                    settings
                        .auth_token
                        .is_none_or(|token| token.as_str() == text && !text.is_empty())
                );
                let base = settings.public_url.as_deref().unwrap_or("http://");
                assert!(base.starts_with("http") && !base.ends_with('/') || base == "http://");
            }
            Err(bad) => {
                let message = bad.to_string();
                assert!(message.starts_with(variable), "{message}");
                assert_eq!(
                    variable == "AUTH_TOKEN",
                    message == token_rule(),
                    "{message}"
                );
                // A short text can be a part of the rule.
                let is_shown =
                    variable == "JWT_SECRET" && text.len() > 80 && message.contains(text);
                assert!(!is_shown, "{message}");
            }
        }
    }
    for origin in text.split(',').map(str::trim) {
        let settings = Settings::read(&|name| (name == "CORS_ORIGINS").then(|| text.to_owned()));
        let Ok(settings) = settings else { continue };
        let origins = &settings.cors_origins;
        let permits = |method, origin| {
            let mut headers = origins.headers(method, origin);
            headers.any(|(name, _)| name == "Access-Control-Allow-Origin")
        };
        let may = origins.admit(Some(origin));
        for method in ["GET", "POST"] {
            assert_eq!(
                permits(method, Some(origin)),
                may,
                "{text:?} for {origin:?}"
            );
        }
        // Without an origin it is for everybody or for nobody, and never needed by an append.
        assert_eq!(permits("GET", None), origins.are_any(), "{text:?}");
        assert!(!permits("POST", None), "{text:?}");
    }
}

/// Checks that each limit is set and read alone, and that the setting that operators see agrees.
fn limits_table(text: &str) {
    let number = text.bytes().fold(0_u64, |number, byte| {
        number.wrapping_mul(257).wrapping_add(u64::from(byte))
    });
    for row in Limits::TABLE {
        let value = number.clamp(row.least, row.greatest);
        assert!(row.admits(value));
        let mut limits = Limits::default();
        (row.set)(&mut limits, value);
        assert_eq!((row.get)(&limits), value, "{}", row.field);
        (row.set)(&mut limits, (row.get)(&Limits::DEFAULT));
        assert_eq!(limits, Limits::DEFAULT, "{}", row.field);
        let setting = row.setting(&limits, Scope::Both);
        assert_eq!(setting.is_variable(), row.variable.is_some());
        assert!(!row.unit.value_name().is_empty());
    }
    let of_worker = router::settings::of_worker();
    for setting in router::settings::table().into_iter().chain(of_worker) {
        let rest = setting.help.strip_prefix(setting.summary());
        assert!(rest.is_some_and(|rest| rest.starts_with('.')));
    }
    let small = u32::try_from(number >> 32).expect("half of the bits");
    assert_eq!(u32::from_number(u64::from(small)), small);
    assert_eq!(u64::from(small), small.to_number());
    assert_eq!(usize::from_number(number).to_number(), number);
    let time = Duration::from_number(u64::from(small));
    assert_eq!(time.to_number(), u64::from(small));
    let pause = Limits::row("retry_base_ms");
    let value = number.clamp(pause.least, pause.greatest).to_string();
    let read = Settings::read(&|name| (name == "RETRY_MIN_MS").then(|| value.clone()));
    match read {
        Ok(settings) => settings.limits.check(),
        Err(bad) => assert!(bad.to_string().starts_with("RETRY_MIN_MS must be at most")),
    }
}

fn token_rule() -> String {
    let empty = |name: &str| (name == "AUTH_TOKEN").then(String::new);
    Settings::read(&empty)
        .expect_err("an empty token")
        .to_string()
}

/// Checks that a page of an unlisted origin cannot write.
fn page(origin: &str) {
    let list = "https://a.example,http://localhost:3000";
    let settings = Settings::read(&|name| (name == "CORS_ORIGINS").then(|| list.to_owned()));
    let settings = settings.expect("a list of origins");
    for method in ["OPTIONS", "PUT", "GET"] {
        let header = |name: &str| (name == "Origin").then(|| origin.to_owned());
        let head = RequestHead {
            method,
            origin: "http://host",
            target: "/v1/stream/a",
            header: &header,
        };
        let is_listed = list.split(',').any(|each| each == origin);
        match router::route(head, NOW, &settings) {
            Route::Stream(_) => assert!(is_listed || method == "GET"),
            Route::Answered(answer) => {
                let expected = if method == "OPTIONS" { 204 } else { 403 };
                assert_eq!(answer.status, expected);
                let allow = answer.header("Access-Control-Allow-Methods");
                assert_eq!(allow.is_some(), is_listed && method == "OPTIONS");
            }
        }
    }
}

/// Checks that the edge cache is used for pages only, and only when the client does not forbid it.
fn edge_cache(text: &str) {
    let settings = Settings {
        cache_mode: CacheMode::Shared,
        ..Settings::default()
    };
    let forbids = text
        .split(',')
        .map(str::trim)
        .any(|each| each.eq_ignore_ascii_case("no-cache") || each.eq_ignore_ascii_case("no-store"));
    let target = format!("/v1/stream/a?{}", text.replace('#', ""));
    for (target, forbids) in [("/v1/stream/a", forbids), (target.as_str(), false)] {
        for method in ["GET", "HEAD", "DELETE"] {
            let header = |name: &str| (name == "Cache-Control").then(|| text.to_owned());
            let head = RequestHead {
                method,
                origin: "http://host",
                target,
                header: &header,
            };
            if let Route::Stream(to) = router::route(head, NOW, &settings)
                && let EdgeCache::Asked(key) = to.edge_cache
            {
                assert!(method == "GET" && !forbids);
                assert!(key.starts_with("http://host/v1/stream/a?offset="), "{key}");
                assert!(!key.contains("now"));
            }
        }
    }
    if router::may_keep(200, text) {
        assert!(text.contains("max-age=") && !forbids, "{text:?}");
    }
    assert!(!router::may_keep(304, text));
}

/// Checks that the target alone selects the stream, and not `Host`.
fn host(text: &str) {
    let asked = "/v1/stream/asked";
    let named = |hosts: &[&str]| {
        let named = Named {
            absolute: None,
            hosts,
            needs_host: true,
        };
        target::origin(named, "local")
    };
    let origin = named(&[text]);
    let is_valid = origin.is_ok();
    assert!(
        !is_valid || !text.is_empty() && !text.contains(|each| "/?#@\\, \t\r\n".contains(each)),
        "{text:?} passes for a host"
    );
    for hosts in [&[][..], &[text, text], &["h", text], &[text, "h"]] {
        assert!(named(hosts).is_err(), "{hosts:?}");
    }
    let url = format!("http://{text}{asked}");
    match target::checked(&url, Some(text)) {
        Ok((origin, target)) => {
            assert!(is_valid, "both shells have one rule: {text:?}");
            assert_eq!((origin, target), (&url[..url.len() - asked.len()], asked));
        }
        Err(_) => assert!(!is_valid, "both shells have one rule: {text:?}"),
    }
}

/// Checks that the router decides by the name alone, and reveals nothing about it to a client
/// without a token.
fn route(id: &str, limits: Limits) {
    let first = id.split(['/', '?', '#']).next().unwrap_or_default();
    if canonical(first, &Limits::DEFAULT).as_deref() == Ok(CONTROL_PREFIX) {
        // The target `subscription` has these.
        return;
    }
    let settings = Settings {
        limits: Arc::new(Limits {
            subscriptions: true,
            ..limits
        }),
        auth_token: Some("secret".into()),
        cache_mode: CacheMode::Shared,
        ..Settings::default()
    };
    let target = format!("{}{id}?offset=-1&live=sse", router::STREAM_PREFIX);
    let end_of_path = id.find('?').unwrap_or(id.len());
    let name = canonical(&id[..end_of_path], &settings.limits);
    let first = id[..end_of_path].split(['/', '#']).next().and_then(decoded);
    let is_control = first.is_some_and(|first| first == [b"__ds"]);
    for method in ["GET", "POST"] {
        let with = |authorization: &str| {
            let header = |name: &str| (name == "Authorization").then(|| authorization.to_owned());
            router::route(
                RequestHead {
                    method,
                    origin: "https://host:8787",
                    target: &target,
                    header: &header,
                },
                NOW,
                &settings,
            )
        };
        match with("Bearer secret") {
            Route::Stream(to) => {
                assert_eq!(Ok(&to.name), name.as_ref());
                assert_eq!(to.cache_mode, CacheMode::Private, "a token protects it");
                assert!(!matches!(to.edge_cache, EdgeCache::Asked(_)));
                assert!(!id.contains('#'), "a fragment is never sent");
                assert!(!is_registry(&to.name) || method == "GET");
                assert!(to.name != "__ds" && !to.name.starts_with("__ds/"));
            }
            Route::Answered(answer) => {
                // These limits are those of a server without subscriptions.
                assert!((400..500).contains(&answer.status) || is_control && answer.status == 501);
                let reserved = name.as_ref().is_ok_and(|name| {
                    name == "__ds"
                        || name.starts_with("__ds/")
                        || is_registry(name) && method == "POST"
                });
                let fragment = id.contains('#');
                assert!(
                    name.is_err() || reserved || end_of_path == 0 || fragment,
                    "{id:?}"
                );
            }
        }
        let expected = match end_of_path {
            _ if id.contains('#') => 400,
            0 => 404,
            _ if is_control => 501,
            _ => 401,
        };
        for authorization in ["", "Bearer", "Bearer ", "Bearer secre", "Basic secret", id] {
            let is_token = authorization
                .split_once(' ')
                .is_some_and(|(scheme, token)| {
                    scheme.eq_ignore_ascii_case("bearer") && token.trim() == "secret"
                });
            match with(authorization) {
                Route::Answered(answer) => assert!(is_token || answer.status == expected),
                Route::Stream(_) => assert!(is_token, "{authorization:?} lets in"),
            }
        }
    }
}

/// Returns the bytes of each segment of a path; `None` if a percent sign is not followed by two
/// hexadecimal digits.
fn decoded(id: &str) -> Option<Vec<Vec<u8>>> {
    let mut segments = vec![Vec::new()];
    let mut rest = id.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'/' => segments.push(Vec::new()),
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                let digits = std::str::from_utf8(digits).ok()?;
                let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                segments
                    .last_mut()?
                    .push(u8::from_str_radix(digits, 16).ok().filter(|_| plain)?);
                rest = after;
            }
            _ => segments.last_mut()?.push(*byte),
        }
    }
    Some(segments)
}
