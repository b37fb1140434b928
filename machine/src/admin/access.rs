//! Who may use the admin API.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::assertion::{self, Assertion};
use crate::router::{self, Settings, target};
use crate::wire::header;
use crate::wire::request::RequestHead;
use crate::{Millis, Refusal};

/// Where a request comes from, as its shell knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A connection of the server for one machine.
    Connection {
        /// Whether the other end has an address of this machine itself.
        is_loopback: bool,
    },
    /// A platform that hides where connections come from.
    Platform {
        /// The time of the request.
        now: Millis,
        /// What is known of its token of Cloudflare Access.
        proof: Proof,
    },
    /// A platform on which this request was admitted before.
    Admitted,
}

/// What a shell knows of the signature of an [`Assertion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing yet. The answer can be to check it.
    Unchecked,
    /// The key that it names has signed it.
    Valid,
    /// That key has not signed it.
    Wrong,
    /// The team has no such key.
    UnknownKey,
    /// The keys of the team could not be fetched.
    Unavailable,
}

impl Proof {
    /// Returns the proof of this name, as a shell in another language writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "valid" => Self::Valid,
            "wrong" => Self::Wrong,
            "unknown" => Self::UnknownKey,
            "unavailable" => Self::Unavailable,
            _ => return None,
        })
    }
}

/// How a request that is not refused goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// The shell checks the signature, and routes the request again.
    Verify(Assertion),
    /// It cannot be checked at the moment.
    Unavailable,
}

/// Headers in which a proxy names the client. Requests that a proxy on this machine forwards come
/// from a loopback address, too.
const OF_PROXIES: [&str; 3] = ["Forwarded", "X-Forwarded-For", "X-Real-IP"];

/// Admits a request, or refuses it.
pub(super) fn admit(
    head: RequestHead<'_>,
    caller: Caller,
    settings: &Settings,
) -> Result<Admission, Refusal> {
    if caller == Caller::Admitted {
        return Ok(Admission::Admitted);
    }
    refuse_other_sites(head, settings)?;
    if let (Caller::Platform { now, proof }, Some(access)) = (caller, &settings.access) {
        let has_bearer = (head.header)(header::AUTHORIZATION).is_some();
        let has_own_token = settings.admin_token.is_some() && has_bearer;
        if !has_own_token && let Some(token) = assertion::token(head) {
            let assertion = Assertion::read(&token, access, now, &settings.limits)?;
            return prove(assertion, proof);
        }
        if settings.admin_token.is_none() {
            return Err(Refusal::AccessDenied("is missing"));
        }
    }
    if let Some(token) = &settings.admin_token {
        return router::check_token(head, token.as_str()).map(|()| Admission::Admitted);
    }
    match caller {
        Caller::Platform { .. } if settings.admin_open => Ok(Admission::Admitted),
        Caller::Platform { .. } => Err(Refusal::Forbidden(
            "the admin API is closed until ADMIN_TOKEN is set",
        )),
        Caller::Connection { .. } if settings.has_tokens() => Err(Refusal::Forbidden(
            "the admin API is closed until ADMIN_TOKEN is set, because streams need a token",
        )),
        Caller::Connection { is_loopback } if is_loopback && is_addressed_as_loopback(head) => {
            Ok(Admission::Admitted)
        }
        Caller::Connection { .. } => Err(Refusal::Forbidden(
            "the admin API is open on this machine only, until ADMIN_TOKEN is set",
        )),
        Caller::Admitted => unreachable!("a request that was admitted is not checked again"),
    }
}

fn prove(assertion: Assertion, proof: Proof) -> Result<Admission, Refusal> {
    match proof {
        Proof::Unchecked => Ok(Admission::Verify(assertion)),
        Proof::Valid => Ok(Admission::Admitted),
        Proof::Wrong => Err(Refusal::AccessDenied("has a wrong signature")),
        Proof::UnknownKey => Err(Refusal::AccessDenied(
            "is signed with a key that its team does not have",
        )),
        Proof::Unavailable => Ok(Admission::Unavailable),
    }
}

/// Refuses what a page of another site has sent. A browser may add credentials to such a request,
/// or may be on a machine that is let in.
fn refuse_other_sites(head: RequestHead<'_>, settings: &Settings) -> Result<(), Refusal> {
    const REFUSED: Refusal = Refusal::Forbidden("pages of other sites may not use the admin API");
    let site = (head.header)("Sec-Fetch-Site");
    if site.is_some_and(|site| !matches!(site.as_str(), "same-origin" | "none")) {
        return Err(REFUSED);
    }
    let Some(origin) = (head.header)(header::ORIGIN) else {
        return Ok(());
    };
    let host = (head.header)("Host");
    let public = settings
        .public_url
        .as_deref()
        .map(|url| target::split(url).0);
    let own = [host.as_deref(), public.and_then(authority)];
    let authority = authority(&origin).ok_or(REFUSED)?;
    let is_own = own
        .into_iter()
        .flatten()
        .any(|own| own.eq_ignore_ascii_case(authority));
    if is_own { Ok(()) } else { Err(REFUSED) }
}

/// Returns the host and port of an origin.
fn authority(origin: &str) -> Option<&str> {
    origin.split_once("://").map(|(_, authority)| authority)
}

/// Returns whether the client has meant this machine. A page whose own name resolves to a loopback
/// address sends that name.
fn is_addressed_as_loopback(head: RequestHead<'_>) -> bool {
    let is_forwarded = OF_PROXIES
        .into_iter()
        .any(|name| (head.header)(name).is_some());
    let host = (head.header)("Host");
    !is_forwarded && host.is_some_and(|host| is_loopback_name(&host))
}

fn is_loopback_name(host: &str) -> bool {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address
            .parse::<Ipv6Addr>()
            .is_ok_and(|address| address.is_loopback());
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::super::assertion::tests::{NOW, access, claims, header as token_header, token_of};
    use super::*;

    const NEAR: Caller = Caller::Connection { is_loopback: true };
    const FAR: Caller = Caller::Connection { is_loopback: false };
    const PLATFORM: Caller = platform(Proof::Unchecked);

    const fn platform(proof: Proof) -> Caller {
        Caller::Platform { now: NOW, proof }
    }

    fn admission(
        headers: &[(&str, &str)],
        caller: Caller,
        settings: &Settings,
    ) -> Result<Admission, Refusal> {
        let header = |name: &str| {
            let found = headers
                .iter()
                .find(|(each, _)| each.eq_ignore_ascii_case(name));
            found.map(|(_, value)| (*value).to_owned())
        };
        let head = RequestHead {
            method: "POST",
            origin: "http://h",
            target: "/admin/api/streams",
            header: &header,
        };
        admit(head, caller, settings)
    }

    /// Returns the status of a refusal, and 0 if the request is admitted.
    fn status(headers: &[(&str, &str)], caller: Caller, settings: &Settings) -> u16 {
        match admission(headers, caller, settings) {
            Ok(Admission::Admitted) => 0,
            Ok(Admission::Verify(_)) => 1,
            Ok(Admission::Unavailable) => 503,
            Err(refusal) => refusal.status_and_code().0,
        }
    }

    fn with_token() -> Settings {
        Settings {
            admin_token: Some("secret".into()),
            auth_token: Some("other".into()),
            admin_open: true,
            ..Settings::default()
        }
    }

    #[test]
    fn the_token_is_asked_for_wherever_the_request_comes_from() {
        for caller in [NEAR, FAR, PLATFORM] {
            for (authorization, expected) in [
                (None, 401),
                (Some("Bearer other"), 401),
                (Some("Bearer secre"), 401),
                (Some("Bearer secret1"), 401),
                (Some("Basic secret"), 401),
                (Some("Bearer secret"), 0),
                (Some("bearer secret"), 0),
            ] {
                let mut headers = vec![("Host", "localhost")];
                headers.extend(authorization.map(|value| ("Authorization", value)));
                assert_eq!(
                    status(&headers, caller, &with_token()),
                    expected,
                    "{caller:?} {authorization:?}"
                );
            }
        }
    }

    #[test]
    fn without_a_token_only_this_machine_is_let_in() {
        let open = Settings::default();
        for (host, expected) in [
            ("localhost", 0),
            ("LOCALHOST:4437", 0),
            ("127.0.0.1:4437", 0),
            ("127.8.8.8", 0),
            ("[::1]:4437", 0),
            ("rebound.example", 403),
            ("rebound.example:4437", 403),
            ("localhost.example", 403),
            ("10.0.0.1", 403),
            ("[::2]", 403),
            ("[", 403),
            ("", 403),
        ] {
            assert_eq!(status(&[("Host", host)], NEAR, &open), expected, "{host}");
            assert_eq!(status(&[("Host", host)], FAR, &open), 403, "{host}");
        }
        assert_eq!(status(&[], NEAR, &open), 403);
        for name in OF_PROXIES {
            let headers = [("Host", "localhost"), (name, "for=10.0.0.1")];
            assert_eq!(status(&headers, NEAR, &open), 403, "{name}");
        }
    }

    #[test]
    fn a_token_for_streams_closes_the_api_on_one_machine() {
        let guarded = Settings {
            auth_token: Some("secret".into()),
            ..Settings::default()
        };
        let headers = [("Host", "localhost"), ("Authorization", "Bearer secret")];
        assert_eq!(status(&headers, NEAR, &guarded), 403);
    }

    #[test]
    fn the_platform_lets_everybody_in_only_if_it_is_told_so() {
        let closed = Settings::default();
        let open = Settings {
            admin_open: true,
            ..Settings::default()
        };
        let headers = [("Host", "localhost")];
        assert_eq!(status(&headers, PLATFORM, &closed), 403);
        assert_eq!(status(&headers, PLATFORM, &open), 0);
        // The setting is the Worker's.
        assert_eq!(status(&headers, FAR, &open), 403);
    }

    #[test]
    fn pages_of_other_sites_are_refused_even_with_the_token() {
        let settings = Settings {
            public_url: Some("https://streams.example/base".to_owned()),
            ..with_token()
        };
        for (name, value, expected) in [
            ("Sec-Fetch-Site", "same-origin", 0),
            ("Sec-Fetch-Site", "none", 0),
            ("Sec-Fetch-Site", "same-site", 403),
            ("Sec-Fetch-Site", "cross-site", 403),
            ("Sec-Fetch-Site", "", 403),
            ("Origin", "http://localhost:4437", 0),
            ("Origin", "https://LOCALHOST:4437", 0),
            ("Origin", "https://streams.example", 0),
            ("Origin", "http://localhost:4438", 403),
            ("Origin", "http://localhost", 403),
            ("Origin", "https://evil.example", 403),
            ("Origin", "https://evil.example/streams.example", 403),
            ("Origin", "null", 403),
            ("Origin", "", 403),
        ] {
            let headers = [
                ("Host", "localhost:4437"),
                ("Authorization", "Bearer secret"),
                (name, value),
            ];
            for caller in [NEAR, PLATFORM] {
                assert_eq!(
                    status(&headers, caller, &settings),
                    expected,
                    "{name}: {value}"
                );
            }
        }
        let without_host = [
            ("Authorization", "Bearer secret"),
            ("Origin", "http://localhost"),
        ];
        assert_eq!(status(&without_host, NEAR, &settings), 403);
    }

    #[test]
    fn a_token_of_access_opens_the_platform_once_its_signature_is_checked() {
        let guarded = Settings {
            access: Some(access()),
            admin_open: true,
            ..Settings::default()
        };
        let token = token_of(&token_header(), &claims());
        let cookie = format!("CF_Authorization={token}");
        let given = [("Host", "h"), ("Cookie", cookie.as_str())];
        for (proof, expected) in [
            (Proof::Unchecked, 1),
            (Proof::Valid, 0),
            (Proof::Wrong, 401),
            (Proof::UnknownKey, 401),
            (Proof::Unavailable, 503),
        ] {
            let header = [("Cf-Access-Jwt-Assertion", token.as_str())];
            assert_eq!(
                status(&given, platform(proof), &guarded),
                expected,
                "{proof:?}"
            );
            assert_eq!(
                status(&header, platform(proof), &guarded),
                expected,
                "{proof:?}"
            );
        }
        // A token whose claims do not hold is refused whatever its signature is.
        let mut late = claims();
        late["exp"] = 0.into();
        let late = token_of(&token_header(), &late);
        let given = [("Cf-Access-Jwt-Assertion", late.as_str())];
        for proof in [Proof::Unchecked, Proof::Valid] {
            assert_eq!(status(&given, platform(proof), &guarded), 401);
        }
        assert_eq!(status(&[], platform(Proof::Valid), &guarded), 401);
        assert_eq!(status(&[], Caller::Admitted, &guarded), 0);
        // The setting is the Worker's.
        let given = [("Cf-Access-Jwt-Assertion", token.as_str())];
        assert_eq!(status(&given, FAR, &guarded), 403);
    }

    #[test]
    fn either_of_both_tokens_opens_the_platform() {
        let both = Settings {
            access: Some(access()),
            ..with_token()
        };
        let token = token_of(&token_header(), &claims());
        let assertion = ("Cf-Access-Jwt-Assertion", token.as_str());
        for (headers, expected) in [
            (vec![], 401),
            (vec![("Authorization", "Bearer secret")], 0),
            (vec![("Authorization", "Bearer secret"), assertion], 0),
            (vec![("Authorization", "Bearer wrong"), assertion], 401),
            (vec![assertion], 1),
            (vec![("Cf-Access-Jwt-Assertion", "x")], 401),
        ] {
            assert_eq!(status(&headers, PLATFORM, &both), expected, "{headers:?}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused_even_with_a_token_of_access() {
        let guarded = Settings {
            access: Some(access()),
            ..Settings::default()
        };
        let token = token_of(&token_header(), &claims());
        let cookie = format!("CF_Authorization={token}");
        for foreign in [
            ("Sec-Fetch-Site", "cross-site"),
            ("Origin", "https://evil.example"),
            ("Origin", "null"),
        ] {
            let headers = [("Host", "h"), ("Cookie", cookie.as_str()), foreign];
            let caller = platform(Proof::Valid);
            assert_eq!(status(&headers, caller, &guarded), 403, "{foreign:?}");
        }
    }

    #[test]
    fn a_proof_is_read_by_its_name() {
        for (name, expected) in [
            ("valid", Some(Proof::Valid)),
            ("wrong", Some(Proof::Wrong)),
            ("unknown", Some(Proof::UnknownKey)),
            ("unavailable", Some(Proof::Unavailable)),
            ("Valid", None),
            ("", None),
        ] {
            assert_eq!(Proof::from_name(name), expected, "{name}");
        }
    }
}
