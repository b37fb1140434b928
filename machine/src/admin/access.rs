//! Who may use the admin API.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::Refusal;
use crate::router::{self, Settings, target};
use crate::wire::header;
use crate::wire::request::RequestHead;

/// Where a request comes from, as its shell knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A connection of the server for one machine.
    Connection {
        /// Whether the other end has an address of this machine itself.
        is_loopback: bool,
    },
    /// A platform that hides where connections come from.
    Platform,
}

/// Headers by which a proxy tells for whom it asks. A proxy on this machine has a loopback address
/// of its own.
const OF_PROXIES: [&str; 3] = ["Forwarded", "X-Forwarded-For", "X-Real-IP"];

/// Admits a request, or refuses it.
pub(super) fn admit(
    head: RequestHead<'_>,
    caller: Caller,
    settings: &Settings,
) -> Result<(), Refusal> {
    refuse_other_sites(head, settings)?;
    if let Some(token) = &settings.admin_token {
        return router::check_token(head, token);
    }
    match caller {
        Caller::Platform if settings.admin_open => Ok(()),
        Caller::Platform => Err(Refusal::Forbidden(
            "the admin API is closed until ADMIN_TOKEN is set",
        )),
        Caller::Connection { .. } if settings.auth_token.is_some() => Err(Refusal::Forbidden(
            "the admin API is closed until ADMIN_TOKEN is set, because AUTH_TOKEN is",
        )),
        Caller::Connection { is_loopback } if is_loopback && is_addressed_as_loopback(head) => {
            Ok(())
        }
        Caller::Connection { .. } => Err(Refusal::Forbidden(
            "the admin API is open on this machine only, until ADMIN_TOKEN is set",
        )),
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
    use super::*;

    const NEAR: Caller = Caller::Connection { is_loopback: true };
    const FAR: Caller = Caller::Connection { is_loopback: false };

    fn status(headers: &[(&str, &str)], caller: Caller, settings: &Settings) -> u16 {
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
        match admit(head, caller, settings) {
            Ok(()) => 0,
            Err(refusal) => refusal.status_and_code().0,
        }
    }

    fn with_token() -> Settings {
        Settings {
            admin_token: Some("secret".to_owned()),
            auth_token: Some("other".to_owned()),
            admin_open: true,
            ..Settings::default()
        }
    }

    #[test]
    fn the_token_is_asked_for_wherever_the_request_comes_from() {
        for caller in [NEAR, FAR, Caller::Platform] {
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
            auth_token: Some("secret".to_owned()),
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
        assert_eq!(status(&headers, Caller::Platform, &closed), 403);
        assert_eq!(status(&headers, Caller::Platform, &open), 0);
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
            for caller in [NEAR, Caller::Platform] {
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
}
