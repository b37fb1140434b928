//! The operator's settings. Parsing is strict: an invalid number is an error, and is never replaced
//! by a default.

use std::sync::Arc;

use thiserror::Error;

use super::cors::Origins;
use super::secret::Secret;
use super::target;
use crate::admin::{Access, Analytics};
use crate::table::{Row, Scope, Setting, TextDefault, Value};
use crate::wire::CacheMode;
use crate::{Limits, SigningSeed};

/// The operator's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The limits, with the operator's numbers.
    pub limits: Arc<Limits>,
    /// If set, this token permits every request for streams.
    pub auth_token: Option<Secret>,
    /// The secrets that sign tokens which permit some requests for streams.
    pub token_secrets: Vec<Secret>,
    /// The token of the admin API; see [`crate::admin`].
    pub admin_token: Option<Secret>,
    /// Whether the Worker's admin API is open to everybody if there is no token for it.
    pub admin_open: bool,
    /// The application of Cloudflare Access that lets operators in.
    pub access: Option<Access>,
    /// How the Worker asks about the messages of all streams.
    pub analytics: Option<Analytics>,
    /// Whether shared caches may store the answers.
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
    /// The value is no secret, so the message contains it.
    #[error("{variable} must be {rule}, not {value:?}")]
    Shown {
        /// The name of the variable.
        variable: &'static str,
        /// What the value must be.
        rule: String,
        /// The value as it was set.
        value: String,
    },
    /// The value is a secret, so the message does not contain it.
    #[error("{variable} must be {rule}")]
    Secret {
        /// The name of the variable.
        variable: &'static str,
        /// What the value must be.
        rule: &'static str,
    },
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Arc::new(Limits {
                subscriptions: true,
                ..Limits::DEFAULT
            }),
            auth_token: None,
            token_secrets: Vec::new(),
            admin_token: None,
            admin_open: false,
            access: None,
            analytics: None,
            cache_mode: CacheMode::default(),
            debug_timing: false,
            public_url: None,
            cors_origins: Origins::default(),
        }
    }
}

/// The longest label of a host name (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// The settings that are no numbers.
const TEXTS: [Text; 15] = [
    Text {
        name: "CACHE_MODE",
        scope: Scope::Both,
        value: Value::Choice {
            options: &["private", "shared"],
            default: "private",
        },
        help: "How much one read returns, and who may cache it. `private`: a read without `live` \
               returns everything up to the tail. `shared`: it returns one page, and shared caches \
               may keep pages that can no longer change.",
    },
    Text {
        name: "CORS_ORIGINS",
        scope: Scope::Both,
        value: Value::Text {
            shape: "ORIGINS",
            default: TextDefault::Is("*"),
        },
        help: "The origins whose web pages may use the server, separated by commas. `*` means all.",
    },
    Text {
        name: "PUBLIC_URL",
        scope: Scope::Both,
        value: Value::Text {
            shape: "URL",
            default: TextDefault::Absent("the URL of the request"),
        },
        help: "The http or https URL that clients use, if a proxy in front of the server has \
               another name. The `Location` of a new stream starts with it. Webhooks need it, and the \
               admin API accepts pages of its host.",
    },
    Text {
        name: "AUTH_TOKEN",
        scope: Scope::Both,
        value: Value::Text {
            shape: "TOKEN",
            default: TextDefault::Secret("everyone is let in"),
        },
        help: "A secret. If it is set, every request for a stream needs `Authorization: Bearer \
               <token>`, with this token or one that a secret of `JWT_SECRET` has signed. Other users \
               of a machine can see flags, but not variables.",
    },
    Text {
        name: "JWT_SECRET",
        scope: Scope::Both,
        value: Value::Text {
            shape: "SECRETS",
            default: TextDefault::Secret("no such tokens are accepted"),
        },
        help: "A secret of at least 32 bytes, or several of them, separated by commas. Tokens that \
               one of them has signed permit what they say, for the streams that they name \
               (`docs/tokens.md`). If it is set, every request for a stream needs such a token or \
               `AUTH_TOKEN`.",
    },
    Text {
        name: "ADMIN_TOKEN",
        scope: Scope::Both,
        value: Value::Text {
            shape: "TOKEN",
            default: TextDefault::Secret("the API is closed, or open on the machine itself only"),
        },
        help: "A secret. Requests to the admin API need `Authorization: Bearer <token>`. \
               `docs/admin-api.md` says who may use it without a token.",
    },
    Text {
        name: "ADMIN_OPEN",
        scope: Scope::Worker,
        value: Value::Choice {
            options: &["0", "1"],
            default: "0",
        },
        help: "Whether everybody may use the admin API while there is neither `ADMIN_TOKEN` nor \
               `ACCESS_TEAM`.",
    },
    Text {
        name: "ACCESS_TEAM",
        scope: Scope::Worker,
        value: Value::Text {
            shape: "TEAM",
            default: TextDefault::Absent("Cloudflare Access lets nobody in"),
        },
        help: "The team of Cloudflare Access whose tokens open the admin API: the word before \
               `.cloudflareaccess.com`. Set it together with `ACCESS_AUD`.",
    },
    Text {
        name: "ACCESS_AUD",
        scope: Scope::Worker,
        value: Value::Text {
            shape: "TAG",
            default: TextDefault::Absent("Cloudflare Access lets nobody in"),
        },
        help: "The audience tag of the Access application that protects `/admin`.",
    },
    Text {
        name: "CF_ACCOUNT_ID",
        scope: Scope::Worker,
        value: Value::Text {
            shape: "ID",
            default: TextDefault::Absent("nobody is asked"),
        },
        help: "The account whose Analytics Engine the admin API asks about all streams. Set it \
               together with `METRICS_API_TOKEN`.",
    },
    Text {
        name: "METRICS_API_TOKEN",
        scope: Scope::Worker,
        value: Value::Text {
            shape: "TOKEN",
            default: TextDefault::Secret("nobody is asked"),
        },
        help: "A secret: an API token of that account with the permission *Account Analytics Read*.",
    },
    Text {
        name: "DEBUG_TIMING",
        scope: Scope::Both,
        value: Value::Choice {
            options: &["0", "1"],
            default: "0",
        },
        help: "Whether every answer has `Server-Timing`. A single request asks for it with \
               `X-Debug-Timing: 1`.",
    },
    Text {
        name: "SUBSCRIPTIONS",
        scope: Scope::Both,
        value: Value::Choice {
            options: &["0", "1"],
            default: "1",
        },
        help: "Whether there are subscriptions (`docs/subscriptions.md`). Without them, the \
               creation and the end of a stream cost a call less.",
    },
    Text {
        name: "WEBHOOK_ALLOW_LOOPBACK",
        scope: Scope::Both,
        value: Value::Choice {
            options: &["0", "1"],
            default: "0",
        },
        help: "Whether webhooks may go to the machine itself (`localhost`, `127.0.0.1`, `[::1]`), \
               also by http. For tests and development: whoever creates subscriptions then reaches \
               what listens there.",
    },
    Text {
        name: "WEBHOOK_SIGNING_KEY",
        scope: Scope::Both,
        value: Value::Text {
            shape: "SEED",
            default: TextDefault::Secret("the server makes keys, which follow each other"),
        },
        help: "A secret: the Ed25519 key that signs webhooks, as 32 bytes in base64url without \
               padding. `docs/subscriptions.md` says what a change of it does.",
    },
];

struct Text {
    name: &'static str,
    scope: Scope,
    value: Value,
    help: &'static str,
}

/// The variables of numbers that have no meaning on one machine, where the streams of a disk share
/// its commits, and every event is counted.
const OF_WORKER: [&str; 2] = ["COMMITS_IN_FLIGHT", "METRICS_SAMPLE"];

fn numbers(scope: Scope) -> impl Iterator<Item = Setting> {
    let is_asked = move |variable: &&str| (scope == Scope::Worker) == OF_WORKER.contains(variable);
    let rows = Limits::TABLE
        .iter()
        .filter(move |row| row.variable.as_ref().is_some_and(is_asked));
    rows.map(move |row| row.setting(&Limits::DEFAULT, scope))
}

/// Returns the settings that only the Worker reads.
#[must_use]
pub fn of_worker() -> Vec<Setting> {
    numbers(Scope::Worker).chain(texts(Scope::Worker)).collect()
}

/// Returns the settings that both shells read, in the order in which operators read them.
#[must_use]
pub fn table() -> Vec<Setting> {
    numbers(Scope::Both).chain(texts(Scope::Both)).collect()
}

fn texts(scope: Scope) -> impl Iterator<Item = Setting> {
    let texts = TEXTS.iter().filter(move |text| text.scope == scope);
    texts.map(|text| Setting {
        name: text.name,
        scope: text.scope,
        value: text.value.clone(),
        help: text.help.to_owned(),
    })
}

/// Sets the numbers that have a variable. An empty variable counts as absent.
///
/// # Errors
/// Fails when a variable has a value that is no whole number in the range of its row.
pub fn read_numbers<T>(
    numbers: &mut T,
    table: &[Row<T>],
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), SettingError> {
    for row in table {
        let Some(name) = row.variable else { continue };
        if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
            (row.set)(numbers, number(name, value, row.least, row.greatest)?);
        }
    }
    Ok(())
}

impl Settings {
    /// Parses the variables. An empty variable counts as absent, except for secrets: an empty
    /// secret is an error, because its operator wants protection.
    ///
    /// # Errors
    /// Fails when a variable has an invalid value.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        let token = |name| variable(name).map(|value| token(name, value)).transpose();
        let secret = |name| Ok(token(name)?.map(|token| Secret::from(&*token)));
        let (auth_token, admin_token) = (secret("AUTH_TOKEN")?, secret("ADMIN_TOKEN")?);
        let metrics_token = token("METRICS_API_TOKEN")?;
        let token_secrets = variable("JWT_SECRET").map(token_secrets).transpose()?;
        let signing_key = variable("WEBHOOK_SIGNING_KEY");
        let signing_key = signing_key.map(signing_seed).transpose()?;
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut limits = Limits {
            signing_key,
            ..Limits::DEFAULT
        };
        read_numbers(&mut limits, Limits::TABLE, &variable)?;
        if let Some((less, more)) = limits.disorder() {
            let name = |row: &Row<Limits>| row.variable.expect("only operators set them wrong");
            let rule = format!("at most {}, which is {}", name(more), (more.get)(&limits));
            return Err(bad(name(less), &rule, (less.get)(&limits).to_string()));
        }
        let cache_mode = match variable("CACHE_MODE") {
            None => CacheMode::default(),
            Some(value) => CacheMode::from_name(&value)
                .ok_or_else(|| bad("CACHE_MODE", "shared or private", value))?,
        };
        let flag = |name| match variable(name).as_deref() {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(value) => Err(bad(name, "0 or 1", value.to_owned())),
        };
        let (debug_timing, admin_open) = (flag("DEBUG_TIMING")?, flag("ADMIN_OPEN")?);
        limits.webhook_loopback = flag("WEBHOOK_ALLOW_LOOPBACK")?;
        limits.subscriptions = match variable("SUBSCRIPTIONS") {
            None => true,
            Some(_) => flag("SUBSCRIPTIONS")?,
        };
        let access = access(variable("ACCESS_TEAM"), variable("ACCESS_AUD"))?;
        let analytics = analytics(variable("CF_ACCOUNT_ID"), metrics_token)?;
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
            limits: Arc::new(limits),
            auth_token,
            token_secrets: token_secrets.unwrap_or_default(),
            admin_token,
            admin_open,
            access,
            analytics,
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

    /// Returns whether requests for streams need a token.
    pub(crate) const fn has_tokens(&self) -> bool {
        self.auth_token.is_some() || !self.token_secrets.is_empty()
    }

    /// Returns the cache mode of answers. It is private when requests need a token, because a
    /// shared cache would serve answers to clients without one.
    pub(super) const fn answers_cache_mode(&self) -> CacheMode {
        if self.has_tokens() {
            CacheMode::Private
        } else {
            self.cache_mode
        }
    }
}

/// Returns the error of a variable whose value breaks a rule.
#[must_use]
pub fn bad(variable: &'static str, rule: &str, value: String) -> SettingError {
    let rule = rule.to_owned();
    SettingError::Shown {
        variable,
        rule,
        value,
    }
}

/// Validates a token. White space around it would be lost in a request header.
fn token(variable: &'static str, value: String) -> Result<String, SettingError> {
    if value.is_empty() || value.trim() != value || value.chars().any(char::is_control) {
        return Err(SettingError::Secret {
            variable,
            rule: "a text without white space around it, or not set at all",
        });
    }
    Ok(value)
}

/// The least length that RFC 7518, section 3.2, demands.
const TOKEN_SECRET_BYTES_MIN: usize = 32;

fn token_secrets(value: String) -> Result<Vec<Secret>, SettingError> {
    let is_bad = |secret: &str| {
        secret.len() < TOKEN_SECRET_BYTES_MIN
            || secret.trim() != secret
            || secret.chars().any(char::is_control)
    };
    if value.split(',').any(is_bad) {
        return Err(SettingError::Secret {
            variable: "JWT_SECRET",
            rule: "a secret of at least 32 bytes without white space around it, several of them \
                   separated by commas, or not set at all",
        });
    }
    Ok(value.split(',').map(Secret::from).collect())
}

fn signing_seed(value: String) -> Result<SigningSeed, SettingError> {
    SigningSeed::parse(&value).ok_or(SettingError::Secret {
        variable: "WEBHOOK_SIGNING_KEY",
        rule: "32 bytes in base64url without padding, or not set at all",
    })
}

/// Returns the error of a variable that another one needs.
fn missing(variable: &'static str, other: &str) -> SettingError {
    bad(variable, &format!("set, because {other} is"), String::new())
}

fn analytics(
    account: Option<String>,
    token: Option<String>,
) -> Result<Option<Analytics>, SettingError> {
    match (account, token) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing("METRICS_API_TOKEN", "CF_ACCOUNT_ID")),
        (None, Some(_)) => Err(missing("CF_ACCOUNT_ID", "METRICS_API_TOKEN")),
        (Some(account), Some(_)) if !account.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            let rule = "the id of an account, which has letters and digits only";
            Err(bad("CF_ACCOUNT_ID", rule, account))
        }
        (Some(account), Some(token)) => Ok(Some(Analytics { account, token })),
    }
}

fn access(team: Option<String>, audience: Option<String>) -> Result<Option<Access>, SettingError> {
    let (team, audience) = match (team, audience) {
        (None, None) => return Ok(None),
        (Some(team), Some(audience)) => (team, audience),
        (Some(_), None) => return Err(missing("ACCESS_AUD", "ACCESS_TEAM")),
        (None, Some(_)) => return Err(missing("ACCESS_TEAM", "ACCESS_AUD")),
    };
    let is_of_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if team.len() > LABEL_BYTES_MAX || !team.bytes().all(is_of_label) {
        let rule = "a team such as example, for example.cloudflareaccess.com";
        return Err(bad("ACCESS_TEAM", rule, team));
    }
    if !audience.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let rule = "the audience tag of an Access application";
        return Err(bad("ACCESS_AUD", rule, audience));
    }
    Ok(Some(Access { team, audience }))
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
mod tests;
