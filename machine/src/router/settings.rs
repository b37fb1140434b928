//! The operator's settings. Parsing is strict: an invalid number is an error, and is never replaced
//! by a default.

use thiserror::Error;

use super::cors::Origins;
use super::target;
use crate::Limits;
use crate::wire::CacheMode;

/// The operator's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub limits: Limits,
    /// If set, every request must carry this token.
    pub auth_token: Option<String>,
    pub cache_mode: CacheMode,
    /// Whether every answer has a `Server-Timing` header.
    pub debug_timing: bool,
    /// The URL that clients use, if a proxy in front of the server has another name. It starts
    /// every `Location`. Has no slash at the end.
    pub public_url: Option<String>,
    /// The origins whose web pages may use the server.
    pub cors_origins: Origins,
}

/// A variable has an invalid value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingError {
    #[error("{variable} must be {rule}, not {value:?}")]
    Shown {
        variable: &'static str,
        rule: String,
        value: String,
    },
    /// The value is a secret, so the message does not contain it.
    #[error("{variable} must be {rule}")]
    Secret {
        variable: &'static str,
        rule: &'static str,
    },
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::DEFAULT,
            auth_token: None,
            cache_mode: CacheMode::default(),
            debug_timing: false,
            public_url: None,
            cors_origins: Origins::default(),
        }
    }
}

type Field = fn(&mut Limits) -> &mut u64;

/// The variables that set limits, each with its smallest and largest value.
const LIMITS: [(&str, Field, u64, u64); 16] = [
    (
        "MAX_APPEND_BYTES",
        |limits| &mut limits.append_bytes_max,
        1,
        100 << 20,
    ),
    (
        "MAX_CHUNK_BYTES",
        |limits| &mut limits.chunk_bytes_max,
        1,
        16 << 20,
    ),
    (
        "LONG_POLL_TIMEOUT_MS",
        |limits| &mut limits.long_poll_timeout_ms,
        1,
        300_000,
    ),
    (
        "SSE_MAX_AGE_MS",
        |limits| &mut limits.sse_max_age_ms,
        100,
        3_600_000,
    ),
    (
        "SSE_HEARTBEAT_MS",
        |limits| &mut limits.sse_heartbeat_ms,
        100,
        3_600_000,
    ),
    (
        "REGISTRY_SHARDS",
        |limits| &mut limits.registry_shards,
        1,
        256,
    ),
    (
        "SEGMENT_MAX_BYTES",
        |limits| &mut limits.segment_bytes_max,
        1,
        1 << 30,
    ),
    (
        "SEGMENT_MAX_MESSAGES",
        |limits| &mut limits.segment_messages_max,
        1,
        1_000_000_000,
    ),
    (
        "SEGMENT_MAX_AGE_MS",
        |limits| &mut limits.segment_age_ms_max,
        1,
        YEAR_MS,
    ),
    (
        "INDEX_STEP_BYTES",
        |limits| &mut limits.index_step_bytes,
        1,
        16 << 20,
    ),
    (
        "PRODUCER_MAX_IDLE_MS",
        |limits| &mut limits.producer_max_idle_ms,
        1,
        10 * YEAR_MS,
    ),
    (
        "PUT_TIMEOUT_MS",
        |limits| &mut limits.put_timeout_ms,
        1,
        DAY_MS,
    ),
    (
        "REPLY_TIMEOUT_MS",
        |limits| &mut limits.reply_timeout_ms,
        1,
        DAY_MS,
    ),
    (
        "RETRY_MIN_MS",
        |limits| &mut limits.retry_base_ms,
        1,
        DAY_MS,
    ),
    ("RETRY_MAX_MS", |limits| &mut limits.retry_ms_max, 1, DAY_MS),
    (
        "COLLECT_GRACE_MS",
        |limits| &mut limits.collect_grace_ms,
        1,
        YEAR_MS,
    ),
];

const DAY_MS: u64 = 86_400_000;
const YEAR_MS: u64 = 365 * DAY_MS;

impl Settings {
    /// Parses the variables. An empty variable counts as absent, except for the token: an empty
    /// token is an error, because its operator wants protection.
    ///
    /// # Errors
    /// Fails when a variable has an invalid value.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        let auth_token = variable("AUTH_TOKEN").map(token).transpose()?;
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut limits = Limits::DEFAULT;
        for (name, field, least, greatest) in LIMITS {
            if let Some(value) = variable(name) {
                *field(&mut limits) = number(name, value, least, greatest)?;
            }
        }
        let cache_mode = match variable("CACHE_MODE") {
            None => CacheMode::default(),
            Some(value) => CacheMode::from_name(&value)
                .ok_or_else(|| bad("CACHE_MODE", "shared or private", value))?,
        };
        let debug_timing = match variable("DEBUG_TIMING").as_deref() {
            None | Some("0") => false,
            Some("1") => true,
            Some(value) => return Err(bad("DEBUG_TIMING", "0 or 1", value.to_owned())),
        };
        let public_url = variable("PUBLIC_URL").map(public_url).transpose()?;
        let cors_origins = match variable("CORS_ORIGINS") {
            None => Origins::default(),
            Some(value) => Origins::read(&value).ok_or_else(|| {
                let rule =
                    "* or a list of origins such as https://app.example,http://localhost:3000";
                bad("CORS_ORIGINS", rule, value)
            })?,
        };
        Ok(Self {
            limits,
            auth_token,
            cache_mode,
            debug_timing,
            public_url,
            cors_origins,
        })
    }

    /// Returns the start of `Location` for a request to this origin.
    #[must_use]
    pub fn location_base<'a>(&'a self, origin: &'a str) -> &'a str {
        self.public_url.as_deref().unwrap_or(origin)
    }

    /// Returns the cache mode of answers. It is private when there is a token, because a shared
    /// cache would serve answers to clients without it.
    pub(super) const fn answers_cache_mode(&self) -> CacheMode {
        if self.auth_token.is_some() {
            CacheMode::Private
        } else {
            self.cache_mode
        }
    }
}

fn bad(variable: &'static str, rule: &str, value: String) -> SettingError {
    let rule = rule.to_owned();
    SettingError::Shown {
        variable,
        rule,
        value,
    }
}

/// Validates a token. White space around it would be lost in a request header.
fn token(value: String) -> Result<String, SettingError> {
    if value.is_empty() || value.trim() != value || value.chars().any(char::is_control) {
        return Err(SettingError::Secret {
            variable: "AUTH_TOKEN",
            rule: "a text without white space around it, or not set at all, which lets everyone in",
        });
    }
    Ok(value)
}

fn public_url(value: String) -> Result<String, SettingError> {
    let url = value.strip_suffix('/').unwrap_or(&value);
    let (origin, path) = target::split(url);
    let host = origin
        .strip_prefix("https://")
        .or_else(|| origin.strip_prefix("http://"));
    let path_is_plain = path.bytes().all(|byte| byte.is_ascii_graphic())
        && !path.contains(['?', '#', '"', '<', '>']);
    if host.is_some_and(target::is_host) && path_is_plain {
        return Ok(url.to_owned());
    }
    let rule = "an http or https URL without query and fragment, such as https://streams.example";
    Err(bad("PUBLIC_URL", rule, value))
}

fn number(
    variable: &'static str,
    value: String,
    least: u64,
    greatest: u64,
) -> Result<u64, SettingError> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value
        .parse::<u64>()
        .ok()
        .filter(|number| digits && (least..=greatest).contains(number));
    number.ok_or_else(|| {
        let rule = format!("a whole number from {least} to {greatest}");
        bad(variable, &rule, value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variable: &str, value: &str) -> Result<Settings, SettingError> {
        Settings::read(&|name| (name == variable).then(|| value.to_owned()))
    }

    #[test]
    fn every_bad_number_is_refused_by_name() {
        for (name, ..) in LIMITS {
            for value in [
                "x",
                "-1",
                "+1",
                "1.5",
                "0",
                " 1",
                "1e3",
                "99999999999999999999",
            ] {
                assert!(
                    read(name, value).is_err_and(|bad| bad.to_string().starts_with(name)),
                    "{name}={value}"
                );
            }
        }
        for (name, value) in [
            ("CACHE_MODE", "public"),
            ("DEBUG_TIMING", "yes"),
            ("PUBLIC_URL", "streams.example"),
            ("PUBLIC_URL", "https://"),
            ("PUBLIC_URL", "ftp://streams.example"),
            ("PUBLIC_URL", "https://user@streams.example"),
            ("PUBLIC_URL", "https://streams.example/?a"),
            ("PUBLIC_URL", "https://streams.example/a b"),
            ("CORS_ORIGINS", "app.example"),
            ("CORS_ORIGINS", "https://app.example/path"),
        ] {
            assert!(
                read(name, value).is_err_and(|bad| bad.to_string().starts_with(name)),
                "{name}={value}"
            );
        }
    }

    #[test]
    fn a_token_is_never_empty_and_never_shown() {
        for value in ["", " ", " s3cret", "s3cret\n", "s3\u{7f}cret"] {
            let told = read("AUTH_TOKEN", value).map_err(|bad| bad.to_string());
            assert!(
                told.is_err_and(|told| told.starts_with("AUTH_TOKEN") && !told.contains("cret")),
                "{value:?}"
            );
        }
        assert_eq!(
            read("AUTH_TOKEN", "s3 cret").map(|settings| settings.auth_token),
            Ok(Some("s3 cret".to_owned()))
        );
        assert_eq!(Settings::read(&|_| None), Ok(Settings::default()));
    }

    #[test]
    fn the_public_url_is_where_locations_begin() {
        for (value, base) in [
            ("https://streams.example", "https://streams.example"),
            ("https://streams.example/", "https://streams.example"),
            ("http://[::1]:80/a/b/", "http://[::1]:80/a/b"),
        ] {
            let settings = read("PUBLIC_URL", value).unwrap_or_default();
            assert_eq!(settings.location_base("http://h"), base);
        }
        assert_eq!(Settings::default().location_base("http://h"), "http://h");
    }

    #[test]
    fn defaults_lie_within_their_bounds() {
        let mut defaults = Limits::DEFAULT;
        for (name, field, least, greatest) in LIMITS {
            assert!((least..=greatest).contains(field(&mut defaults)), "{name}");
        }
        assert_eq!(
            Settings::read(&|_| None).map(|settings| settings.limits),
            Ok(Limits::DEFAULT)
        );
        assert_eq!(
            read("MAX_CHUNK_BYTES", "7").map(|settings| settings.limits.chunk_bytes_max),
            Ok(7)
        );
    }
}
