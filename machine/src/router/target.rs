//! The origin and the target of a request. The target selects the stream. The origin only starts
//! `Location` (RFC 9112, 3.2).

use core::net::Ipv6Addr;

use crate::Refusal;

/// The parts of an HTTP/1 request that name the server.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Scheme and authority of a target in absolute form. They take precedence over `Host` (RFC
    /// 9112, 3.2.2).
    pub absolute: Option<(&'a str, &'a str)>,
    /// The values of all `Host` header lines.
    pub hosts: &'a [&'a str],
    /// Whether the version is HTTP/1.1, which requires a `Host`.
    pub needs_host: bool,
}

/// Returns the origin of a request as `scheme://authority`, or `local` as its authority if the
/// request has none.
///
/// # Errors
/// Fails unless there is exactly one valid `Host`, or none in HTTP/1.0. A valid target in absolute
/// form does not excuse an invalid `Host`.
pub fn origin(named: Named<'_>, local: &str) -> Result<String, Refusal> {
    let host = match named.hosts {
        [] if named.needs_host => return Err(MISSING),
        [] => local,
        [host] if is_host(host) => host,
        [_] => return Err(MALFORMED),
        _ => return Err(Refusal::Malformed("there is more than one Host header")),
    };
    match named.absolute {
        None => Ok(format!("http://{host}")),
        Some((scheme, authority)) => {
            let scheme = scheme.to_ascii_lowercase();
            if !matches!(scheme.as_str(), "http" | "https") || !is_host(authority) {
                return Err(Refusal::Malformed(
                    "the request target names neither a path nor an HTTP URL",
                ));
            }
            Ok(format!("{scheme}://{authority}"))
        }
    }
}

/// Splits a URL that a platform has built from `Host` and the target, as [`split`] does.
///
/// # Errors
/// Fails when `Host` is missing or malformed, because the URL is not reliable then.
pub fn checked<'a>(url: &'a str, host: Option<&str>) -> Result<(&'a str, &'a str), Refusal> {
    let host = host.ok_or(MISSING)?;
    let authority_of = |origin: &'a str| {
        origin
            .split_once("://")
            .map_or(origin, |(_, authority)| authority)
    };
    let (origin, target) = match url.strip_suffix('*') {
        // The target `*` follows the host without a slash.
        Some(origin) if authority_of(origin) == host => (origin, "*"),
        _ => split(url),
    };
    let authority = authority_of(origin);
    // The two differ when the target is in absolute form.
    if is_host(host) && is_host(authority) {
        Ok((origin, target))
    } else {
        Err(MALFORMED)
    }
}

/// Splits an absolute URL into origin and target.
#[must_use]
pub fn split(url: &str) -> (&str, &str) {
    let authority_at = url.find("://").map_or(0, |at| at + "://".len());
    let length = url[authority_at..].find(['/', '?', '#']);
    match length {
        Some(length) => url.split_at(authority_at + length),
        None => (url, "/"),
    }
}

const MISSING: Refusal = Refusal::Malformed("the Host header is missing");
const MALFORMED: Refusal =
    Refusal::Malformed("the Host header is not of the form host or host:port");

/// Returns whether the text is a `uri-host [ ":" port ]` (RFC 9110, 7.2). Rejects sub-delims, which
/// no real host has. A comma, for example, could be two header values joined by a proxy.
pub(super) fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return false;
            };
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => return is_port(port),
                None => return port.is_empty(),
            }
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    !host.is_empty() && is_registered_name(host) && is_port(port)
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn is_registered_name(host: &str) -> bool {
    let mut bytes = host.bytes();
    while let Some(byte) = bytes.next() {
        let allowed = match byte {
            b'%' => {
                let mut digit = || bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit());
                digit() && digit()
            }
            _ => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'),
        };
        if !allowed {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for host in [
            "h",
            "localhost:4437",
            "streams.example",
            "a_b.c-d~:80",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:65535",
            "h:",
            "caf%C3%A9",
        ] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "x?",
            "x/v1/stream/v?",
            "x#",
            "x\\y",
            "a b",
            "a, b",
            "a,b",
            "user@h",
            "h:80:80",
            "h:x",
            "h:+1",
            "h:65536",
            "[::1",
            "::1",
            "[::1]x",
            "[h]",
            "[::1%25lo]",
            "é",
            "%zz",
            "a%2",
            "h\t",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn exactly_one_host_names_the_origin() {
        let ask = |absolute, hosts: &[&str], needs_host| {
            let named = Named {
                absolute,
                hosts,
                needs_host,
            };
            origin(named, "local:1").ok()
        };
        assert_eq!(ask(None, &["h:1"], true).as_deref(), Some("http://h:1"));
        assert_eq!(ask(None, &[], true), None);
        assert_eq!(ask(None, &["h", "h"], true), None);
        assert_eq!(ask(None, &["h", "h"], false), None);
        assert_eq!(ask(None, &["x?"], false), None);
        assert_eq!(ask(None, &[], false).as_deref(), Some("http://local:1"));
        let absolute = Some(("HTTPS", "other:2"));
        assert_eq!(
            ask(absolute, &["h"], true).as_deref(),
            Some("https://other:2")
        );
        assert_eq!(ask(absolute, &[], true), None);
        assert_eq!(ask(absolute, &["x?"], true), None);
        assert_eq!(ask(Some(("ftp", "other")), &["h"], true), None);
        assert_eq!(ask(Some(("http", "u@other")), &["h"], true), None);
    }

    #[test]
    fn a_url_is_split_where_its_authority_ends() {
        for (url, origin, target) in [
            ("http://h/a?b", "http://h", "/a?b"),
            ("http://h", "http://h", "/"),
            ("https://h:1?a/b", "https://h:1", "?a/b"),
            ("http://h#a", "http://h", "#a"),
        ] {
            assert_eq!(split(url), (origin, target));
        }
        assert_eq!(checked("http://h/a", Some("h")), Ok(("http://h", "/a")));
        assert!(checked("http://x/v1/stream/v?/v1/stream/u", Some("x/v1/stream/v?")).is_err());
        assert!(checked("http://x?/v1/stream/u", Some("x?")).is_err());
        assert!(checked("http://h/a", None).is_err());
        assert_eq!(checked("http://h*", Some("h")), Ok(("http://h", "*")));
        assert_eq!(
            checked("http://h/a/h*", Some("h")),
            Ok(("http://h", "/a/h*"))
        );
    }
}
