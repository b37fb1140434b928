//! What the operator sets, read strictly: a number that cannot be read is refused, and never replaced by a default.

use thiserror::Error;

use crate::Limits;
use crate::wire::CacheMode;

/// What the operator sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub limits: Limits,
    /// Guards every stream when it is set.
    pub auth_token: Option<String>,
    pub cache_mode: CacheMode,
    /// `Server-Timing` on every answer.
    pub debug_timing: bool,
}

/// A variable has a value that it cannot have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{variable} must be {rule}, not {value:?}")]
pub struct BadSetting {
    variable: &'static str,
    rule: String,
    value: String,
}

type Field = fn(&mut Limits) -> &mut u64;

/// The variables that set limits, with the least and the greatest value of each.
const LIMITS: [(&str, Field, u64, u64); 14] = [
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
    ("PUT_TIMEOUT_MS", |limits| &mut limits.put_timeout_ms, 1, DAY_MS),
    (
        "REPLY_TIMEOUT_MS",
        |limits| &mut limits.reply_timeout_ms,
        1,
        DAY_MS,
    ),
    ("RETRY_MIN_MS", |limits| &mut limits.retry_ms_min, 1, DAY_MS),
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
    /// Reads the variables; an empty one counts as absent.
    ///
    /// # Errors
    /// When a variable has a value that it cannot have.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadSetting> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut limits = Limits::DEFAULT;
        for (name, field, least, greatest) in LIMITS {
            if let Some(value) = variable(name) {
                *field(&mut limits) = number(name, value, least, greatest)?;
            }
        }
        let cache_mode = match variable("CACHE_MODE") {
            None => CacheMode::default(),
            Some(value) => CacheMode::from_name(&value).ok_or_else(|| BadSetting {
                variable: "CACHE_MODE",
                rule: "shared or private".to_owned(),
                value,
            })?,
        };
        let debug_timing = match variable("DEBUG_TIMING").as_deref() {
            None | Some("0") => false,
            Some("1") => true,
            Some(value) => {
                let (rule, value) = ("0 or 1".to_owned(), value.to_owned());
                return Err(BadSetting {
                    variable: "DEBUG_TIMING",
                    rule,
                    value,
                });
            }
        };
        Ok(Self {
            limits,
            auth_token: variable("AUTH_TOKEN"),
            cache_mode,
            debug_timing,
        })
    }
}

fn number(variable: &'static str, value: String, least: u64, greatest: u64) -> Result<u64, BadSetting> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value
        .parse::<u64>()
        .ok()
        .filter(|number| digits && (least..=greatest).contains(number));
    number.ok_or_else(|| BadSetting {
        variable,
        rule: format!("a whole number from {least} to {greatest}"),
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variable: &str, value: &str) -> Result<Settings, BadSetting> {
        Settings::read(&|name| (name == variable).then(|| value.to_owned()))
    }

    #[test]
    fn every_bad_number_is_refused_by_name() {
        for (name, ..) in LIMITS {
            for value in ["x", "-1", "+1", "1.5", "0", " 1", "1e3", "99999999999999999999"] {
                assert!(
                    read(name, value).is_err_and(|bad| bad.to_string().starts_with(name)),
                    "{name}={value}"
                );
            }
        }
        for (name, value) in [("CACHE_MODE", "public"), ("DEBUG_TIMING", "yes")] {
            assert!(read(name, value).is_err(), "{name}={value}");
        }
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
