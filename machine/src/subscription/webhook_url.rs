//! Which URLs webhooks may go to (protocol 6.2 and 12.8).
//!
//! Whoever may create a subscription chooses a URL that the server then calls from inside its own
//! network. So only what is plainly the URL of a public host is accepted. A name can still resolve
//! to an address that is not public: a shell that resolves names asks [`may_connect`] before each
//! connection. No shell follows redirects.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::Limits;

/// Why webhooks may not go to a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum UrlError {
    /// It is longer than the limits allow.
    #[error("the URL is longer than {max} bytes")]
    TooLong {
        /// The limit.
        max: u64,
    },
    /// It has a character that a URL has only percent-encoded.
    #[error("the URL has a character that has to be percent-encoded")]
    Character,
    /// It has a fragment.
    #[error("the URL has a fragment")]
    Fragment,
    /// Its scheme is not one of the web.
    #[error("the URL does not start with https://")]
    Scheme,
    /// It has no TLS.
    #[error("the URL must be https")]
    Insecure,
    /// It has a user or a password.
    #[error("the URL has a user")]
    User,
    /// Its port is not a number from 1 to 65535.
    #[error("the port of the URL is not a number from 1 to 65535")]
    Port,
    /// Its host is none, or has an unusual spelling.
    #[error("the host of the URL is neither a domain name nor an IP address in its usual form")]
    Host,
    /// Its host is a name of private networks.
    #[error("the host of the URL is not a public name")]
    PrivateName,
    /// Its host is an address that is not public.
    #[error("the host of the URL is not a public address")]
    PrivateAddress,
    /// It leads to this server.
    #[error("the URL is one of this server")]
    Own,
}

/// The host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// In lower case.
    Name(String),
    Address(IpAddr),
}

const SECURE: &str = "https://";
const INSECURE: &str = "http://";
const SECURE_PORT: u16 = 443;
const INSECURE_PORT: u16 = 80;
const LOOPBACK_NAME: &str = "localhost";
/// The longest name of the domain name system, and its longest label (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Names that only private networks resolve, and all names below them: RFC 6761 and 6762, and what
/// ICANN does not delegate. `arpa` has `home.arpa` and names of the network itself.
const PRIVATE_NAMES: [&str; 10] = [
    "arpa",
    "corp",
    "home",
    "internal",
    "intranet",
    "lan",
    "local",
    "localdomain",
    LOOPBACK_NAME,
    "private",
];

/// Checks that webhooks may go to a URL. `own_host` is the host of this server, with its port if it
/// has one.
///
/// # Errors
/// Fails with a reason when they may not.
pub(crate) fn check(url: &str, own_host: Option<&str>, limits: &Limits) -> Result<(), UrlError> {
    let max = limits.webhook_url_bytes_max;
    if url.len() as u64 > max {
        return Err(UrlError::TooLong { max });
    }
    let (scheme, rest, scheme_port) = if let Some(rest) = url.strip_prefix(SECURE) {
        (SECURE, rest, SECURE_PORT)
    } else if let Some(rest) = url.strip_prefix(INSECURE) {
        (INSECURE, rest, INSECURE_PORT)
    } else {
        return Err(UrlError::Scheme);
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(authority_end);
    check_target(target)?;
    if authority.contains('@') {
        return Err(UrlError::User);
    }
    let (host, port) = split_port(authority)?;
    let host = parse_host(host)?;
    let port = port.map_or(Ok(scheme_port), parse_port)?;
    if own_host.is_some_and(|own| is_own(&host, port, own)) {
        return Err(UrlError::Own);
    }
    let is_allowed_loopback = limits.webhook_loopback && host.is_loopback();
    if !is_allowed_loopback {
        host.check_public()?;
        if scheme == INSECURE {
            return Err(UrlError::Insecure);
        }
    }
    Ok(())
}

/// Returns the host of a URL, with its port if it has one.
pub(crate) fn host_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    (!host.is_empty()).then_some(host)
}

/// Returns whether a webhook may connect to an address.
#[must_use]
pub fn may_connect(address: IpAddr, limits: &Limits) -> bool {
    is_public(address) || limits.webhook_loopback && address.is_loopback()
}

/// Returns whether an address is one of the public internet that a webhook can go to.
///
/// The ranges are those that the registries of special addresses (RFC 6890) do not call globally
/// reachable, and those whose addresses stand for others.
#[must_use]
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

impl Host {
    fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == LOOPBACK_NAME,
            Self::Address(address) => address.is_loopback(),
        }
    }

    fn check_public(&self) -> Result<(), UrlError> {
        match self {
            Self::Name(name) => {
                let is_below = |private: &&str| {
                    let rest = name.strip_suffix(*private);
                    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                };
                let is_private = PRIVATE_NAMES.iter().any(is_below);
                // A resolver completes a single label by the domain of its own network.
                if is_private || !name.contains('.') {
                    return Err(UrlError::PrivateName);
                }
            }
            Self::Address(address) => {
                if !is_public(*address) {
                    return Err(UrlError::PrivateAddress);
                }
            }
        }
        Ok(())
    }
}

/// Checks path and query (RFC 3986, 3.3 and 3.4).
fn check_target(target: &str) -> Result<(), UrlError> {
    let mut bytes = target.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'#' => return Err(UrlError::Fragment),
            b'%' => {
                let mut digit = || bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit());
                if !(digit() && digit()) {
                    return Err(UrlError::Character);
                }
            }
            b'"' | b'<' | b'>' | b'[' | b'\\' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                return Err(UrlError::Character);
            }
            byte if !byte.is_ascii_graphic() => return Err(UrlError::Character),
            _ => {}
        }
    }
    Ok(())
}

/// Splits an authority without a user into host and port.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    let host_end = if authority.starts_with('[') {
        authority.find(']').ok_or(UrlError::Host)? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(host_end);
    if rest.is_empty() {
        return Ok((host, None));
    }
    let port = rest.strip_prefix(':').ok_or(UrlError::Host)?;
    Ok((host, Some(port)))
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    // `parse` would take a plus sign.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let port = text.parse().ok().filter(|_| is_number);
    port.ok_or(UrlError::Port)
}

fn parse_host(text: &str) -> Result<Host, UrlError> {
    if let Some(address) = text.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or(UrlError::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| UrlError::Host)?;
        return Ok(Host::Address(address.into()));
    }
    let name = text.to_ascii_lowercase();
    let last_label = name.rsplit('.').next().unwrap_or(&name);
    if is_number(last_label) {
        // Clients read such a host as an address, in any of its forms. This takes only the usual
        // one.
        let address: Ipv4Addr = name.parse().map_err(|_| UrlError::Host)?;
        return Ok(Host::Address(address.into()));
    }
    if name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label) {
        Ok(Host::Name(name))
    } else {
        Err(UrlError::Host)
    }
}

/// Returns whether a host that ends in this label is an address for clients (URL Standard, "ends in
/// a number").
fn is_number(label: &str) -> bool {
    let is_decimal = !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit());
    let hexadecimal = label.strip_prefix("0x");
    is_decimal || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_label(label: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(is_plain)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Returns whether a host is that of this server. On its own machine other servers listen on other
/// ports. Elsewhere a port may lead here, too.
fn is_own(host: &Host, port: u16, own: &str) -> bool {
    let Ok((own, own_port)) = split_port(own) else {
        return false;
    };
    let Ok(own) = parse_host(own.strip_suffix('.').unwrap_or(own)) else {
        return false;
    };
    if !(host.is_loopback() && own.is_loopback()) {
        return *host == own;
    }
    match own_port.map(parse_port) {
        Some(Ok(own_port)) => port == own_port,
        Some(Err(_)) | None => matches!(port, SECURE_PORT | INSECURE_PORT),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    let is_special = match a {
        // This network, private, loopback.
        0 | 10 | 127 => true,
        // Addresses that providers share among their customers. One cloud has its metadata there.
        100 => (64..128).contains(&b),
        // A cloud's host answers its guests at this public address.
        168 => (b, c, d) == (63, 129, 16),
        // Link-local, with the metadata of most clouds.
        169 => b == 254,
        172 => (16..32).contains(&b),
        192 => match (b, c) {
            // Protocol assignments, documentation, relays of 6to4, private.
            (0, 0 | 2) | (88, 99) | (168, _) => true,
            // The sinks of reverse lookups, and relays of multicast.
            (31, 196) | (52, 193) | (175, 48) => true,
            _ => false,
        },
        // Benchmarks, documentation.
        198 => matches!((b, c), (18 | 19, _) | (51, 100)),
        203 => (b, c) == (0, 113),
        // Multicast, reserved, broadcast.
        224.. => true,
        _ => false,
    };
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // All others are loopback, unspecified, link-local, unique local, multicast, unassigned, or
    // stand for IPv4 addresses.
    let is_global_unicast = segments[0] & 0xe000 == 0x2000;
    let is_special = match segments[0] {
        // Protocol assignments, with Teredo and ORCHID; documentation.
        0x2001 => segments[1] < 0x0200 || segments[1] == 0x0db8,
        // 6to4.
        0x2002 => true,
        // Documentation.
        0x3fff => segments[1] < 0x1000,
        _ => false,
    };
    is_global_unicast && !is_special
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::UrlError::{
        Character, Fragment, Host as Malformed, Insecure, Own, Port, PrivateAddress, PrivateName,
        Scheme, User,
    };
    use super::*;

    const OWN: Option<&str> = Some("streams.example.com");

    const STRICT: Limits = Limits::DEFAULT;
    const WITH_LOOPBACK: Limits = Limits {
        webhook_loopback: true,
        ..Limits::DEFAULT
    };

    fn verdict(url: &str, own: Option<&str>, limits: &Limits) -> Result<(), UrlError> {
        check(url, own, limits)
    }

    const ACCEPTED: [&str; 20] = [
        "https://hooks.example.com",
        "https://hooks.example.com/",
        "https://hooks.example.com/a/b?c=d&e=%20/?:@!$'()*+,;~",
        "https://hooks.example.com?c",
        "https://Hooks.Example.COM/A",
        "https://hooks.example.com:8443/a",
        "https://hooks.example.com:1/",
        "https://hooks.example.com:65535/",
        "https://xn--bcher-kva.example/",
        "https://1.example.com/",
        "https://10.0.0.1.example.com/",
        "https://localhost.example.com/",
        "https://internal.example.com/local",
        "https://notlocal.example/@user",
        "https://93.184.215.14/hook",
        "https://100.63.255.255/",
        "https://172.15.0.1/",
        "https://192.0.1.1/",
        "https://[2606:4700::1111]/hook",
        "https://[2a00:1450:4001:80b::200e]:8443/",
    ];

    const REFUSED: [(&str, UrlError); 120] = [
        // Schemes.
        ("", Scheme),
        ("hooks.example.com", Scheme),
        ("//hooks.example.com/", Scheme),
        ("https:hooks.example.com", Scheme),
        ("https:/hooks.example.com", Scheme),
        ("HTTPS://hooks.example.com", Scheme),
        (" https://hooks.example.com", Scheme),
        ("ftp://hooks.example.com", Scheme),
        ("file:///etc/passwd", Scheme),
        ("javascript:alert(1)", Scheme),
        ("http://hooks.example.com/", Insecure),
        ("http://93.184.215.14/", Insecure),
        // Characters.
        ("https://hooks.example.com/a b", Character),
        ("https://hooks.example.com/a\tb", Character),
        ("https://hooks.example.com/a\r\nHost: b", Character),
        ("https://hooks.example.com/\0", Character),
        ("https://hooks.example.com/\u{7f}", Character),
        ("https://hooks.example.com/ü", Character),
        ("https://hooks.example.com/a\\b", Character),
        ("https://hooks.example.com/%", Character),
        ("https://hooks.example.com/%4", Character),
        ("https://hooks.example.com/%zz", Character),
        ("https://hooks.example.com/?a=\"b\"", Character),
        ("https://hooks.example.com/<a>", Character),
        ("https://hooks.example.com/?a[]=1", Character),
        ("https://hooks.example.com/{a}", Character),
        ("https://hooks.example.com/#a", Fragment),
        ("https://hooks.example.com#a", Fragment),
        ("https://hooks.example.com/?a#", Fragment),
        // Users.
        ("https://user@hooks.example.com/", User),
        ("https://user:password@hooks.example.com/", User),
        ("https://hooks.example.com@10.0.0.1/", User),
        ("https://@hooks.example.com/", User),
        // Ports.
        ("https://hooks.example.com:", Port),
        ("https://hooks.example.com:/", Port),
        ("https://hooks.example.com:0/", Port),
        ("https://hooks.example.com:00443/", Port),
        ("https://hooks.example.com:65536/", Port),
        ("https://hooks.example.com:+443/", Port),
        ("https://hooks.example.com:-1/", Port),
        ("https://hooks.example.com:443:80/", Port),
        ("https://hooks.example.com:https/", Port),
        ("https://[2606:4700::1111]:0/", Port),
        // Hosts in unusual spellings.
        ("https://", Malformed),
        ("https:///hook", Malformed),
        ("https://?a", Malformed),
        ("https://.", Malformed),
        ("https://hooks..example.com/", Malformed),
        ("https://.example.com/", Malformed),
        ("https://hooks.example.com./", Malformed),
        ("https://localhost./", Malformed),
        ("https://10.0.0.1./", Malformed),
        ("https://-a.example.com/", Malformed),
        ("https://a-.example.com/", Malformed),
        ("https://a_b.example.com/", Malformed),
        ("https://hooks.example.com\\@10.0.0.1/", User),
        ("https://hooks.example.com\\.evil.example/", Malformed),
        ("https://hooks example.com/", Malformed),
        ("https://hooks\t.example.com/", Malformed),
        ("https://bücher.example/", Malformed),
        ("https://ⓛocalhost.example/", Malformed),
        ("https://hooks%2eexample.com/", Malformed),
        ("https://%6c%6f%63%61%6c%68%6f%73%74/", Malformed),
        ("https://hooks.example.com,10.0.0.1/", Malformed),
        ("https://*.example.com/", Malformed),
        // Addresses in unusual forms.
        ("https://2130706433/", Malformed),
        ("https://1572395042/", Malformed),
        ("https://0x7f000001/", Malformed),
        ("https://0x7f.0.0.1/", Malformed),
        ("https://0X7F.0.0.0X1/", Malformed),
        ("https://127.0.0.0x/", Malformed),
        ("https://0177.0.0.1/", Malformed),
        ("https://93.184.215.014/", Malformed),
        ("https://017700000001/", Malformed),
        ("https://127.1/", Malformed),
        ("https://93.184.1/", Malformed),
        ("https://0/", Malformed),
        ("https://1.2.3.4.5/", Malformed),
        ("https://256.1.1.1/", Malformed),
        ("https://a.1/", Malformed),
        ("https://[::1/", Malformed),
        ("https://::1/", Malformed),
        ("https://[]/", Malformed),
        ("https://[93.184.215.14]/", Malformed),
        ("https://[fe80::1%25eth0]/", Malformed),
        ("https://[fe80::1%eth0]/", Malformed),
        ("https://[2606:4700::1111]a/", Malformed),
        ("https://[v1.a]/", Malformed),
        // Private names.
        ("https://localhost/", PrivateName),
        ("https://LOCALHOST:8443/", PrivateName),
        ("http://localhost/", PrivateName),
        ("https://a.localhost/", PrivateName),
        ("https://printer.local/", PrivateName),
        (
            "https://metadata.google.internal/computeMetadata/v1/",
            PrivateName,
        ),
        ("https://router.home.arpa/", PrivateName),
        ("https://localhost.localdomain/", PrivateName),
        ("https://intranet/", PrivateName),
        ("https://metadata/", PrivateName),
        // Private addresses.
        ("http://10.0.0.1/hook", PrivateAddress),
        ("https://127.0.0.1/", PrivateAddress),
        ("http://127.0.0.1:8080/", PrivateAddress),
        ("https://0.0.0.0/", PrivateAddress),
        ("https://192.168.1.1/", PrivateAddress),
        ("https://172.31.255.255/", PrivateAddress),
        ("https://169.254.169.254/latest/meta-data/", PrivateAddress),
        ("https://100.100.100.200/latest/meta-data/", PrivateAddress),
        ("https://255.255.255.255/", PrivateAddress),
        ("https://[::1]/", PrivateAddress),
        ("https://[::]/", PrivateAddress),
        ("https://[0:0:0:0:0:0:0:1]/", PrivateAddress),
        ("https://[::ffff:10.0.0.1]/", PrivateAddress),
        ("https://[::ffff:5db8:d70e]/", PrivateAddress),
        ("https://[::127.0.0.1]/", PrivateAddress),
        ("https://[fd00:ec2::254]/", PrivateAddress),
        ("https://[64:ff9b::a9fe:a9fe]/", PrivateAddress),
        // This server.
        ("https://streams.example.com/", Own),
        ("https://STREAMS.example.com/v1/stream/a", Own),
        ("https://streams.example.com:8443/", Own),
        ("http://streams.example.com/", Own),
        ("https://streams.example.com", Own),
    ];

    #[test]
    fn webhooks_go_only_to_public_hosts() {
        for url in ACCEPTED {
            assert_eq!(verdict(url, OWN, &STRICT), Ok(()), "{url}");
            assert_eq!(verdict(url, OWN, &WITH_LOOPBACK), Ok(()), "{url}");
        }
        for (url, error) in REFUSED {
            assert_eq!(verdict(url, OWN, &STRICT), Err(error), "{url}");
        }
    }

    #[test]
    fn loopback_is_reached_only_where_it_is_allowed() {
        for url in [
            "http://localhost:3000/hook",
            "https://localhost/",
            "http://LocalHost/",
            "http://127.0.0.1:8080/",
            "https://127.0.0.1/",
            "http://127.255.255.254/",
            "http://[::1]:8080/",
            "https://[::1]/",
        ] {
            assert_eq!(verdict(url, OWN, &WITH_LOOPBACK), Ok(()), "{url}");
            assert!(verdict(url, OWN, &STRICT).is_err(), "{url}");
        }
        for (url, error) in [
            ("http://10.0.0.1/hook", PrivateAddress),
            ("http://hooks.example.com/", Insecure),
            ("http://localhost.example.com/", Insecure),
            ("http://a.localhost/", PrivateName),
            ("http://0.0.0.0/", PrivateAddress),
            ("http://[::]/", PrivateAddress),
            ("http://[::ffff:127.0.0.1]/", PrivateAddress),
            ("http://[::127.0.0.1]/", PrivateAddress),
            ("http://2130706433/", Malformed),
            ("http://127.1/", Malformed),
            ("http://0x7f.0.0.1/", Malformed),
            ("http://localhost./", Malformed),
            ("http://user@localhost/", User),
            ("http://localhost:0/", Port),
            ("http://169.254.169.254/", PrivateAddress),
        ] {
            assert_eq!(verdict(url, OWN, &WITH_LOOPBACK), Err(error), "{url}");
        }
    }

    #[test]
    fn a_webhook_never_goes_to_the_server_itself() {
        for (url, own) in [
            ("https://a.example/", "a.example"),
            ("https://a.example/", "A.Example."),
            ("https://a.example:8443/", "a.example:443"),
            ("https://93.184.215.14/", "93.184.215.14:8080"),
            ("https://[2606:4700:0::1111]/", "[2606:4700::1111]:443"),
            ("http://127.0.0.1:8787/", "127.0.0.1:8787"),
            ("http://localhost:8787/", "127.0.0.1:8787"),
            ("http://[::1]:8787/", "localhost:8787"),
            ("https://localhost/", "localhost"),
            ("http://localhost/", "localhost"),
        ] {
            assert_eq!(
                verdict(url, Some(own), &WITH_LOOPBACK),
                Err(Own),
                "{url} {own}"
            );
            assert_eq!(verdict(url, Some(own), &STRICT), Err(Own), "{url} {own}");
        }
        for (url, own) in [
            ("https://a.example/", "b.example"),
            ("https://b.a.example/", "a.example"),
            ("https://a.example/", "not a host"),
            ("https://a.example/", "[a"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8787"),
            ("http://localhost:8080/", "localhost"),
        ] {
            assert_eq!(
                verdict(url, Some(own), &WITH_LOOPBACK),
                Ok(()),
                "{url} {own}"
            );
        }
        assert_eq!(
            verdict("https://streams.example.com/", None, &STRICT),
            Ok(())
        );
    }

    #[test]
    fn the_length_is_bounded() {
        let limits = Limits {
            webhook_url_bytes_max: 19,
            ..STRICT
        };
        assert_eq!(verdict("https://a.example/1", None, &limits), Ok(()));
        let error = check("https://a.example/12", None, &limits).unwrap_err();
        assert_eq!(error, UrlError::TooLong { max: 19 });
        assert_eq!(error.to_string(), "the URL is longer than 19 bytes");
        let label = |length| format!("https://{}.example/", "a".repeat(length));
        assert_eq!(verdict(&label(63), None, &STRICT), Ok(()));
        assert_eq!(verdict(&label(64), None, &STRICT), Err(Malformed));
        let name = |labels| format!("https://{}example/", "a.".repeat(labels));
        assert_eq!(verdict(&name(123), None, &STRICT), Ok(()));
        assert_eq!(verdict(&name(124), None, &STRICT), Err(Malformed));
    }

    #[test]
    fn the_host_of_a_base_has_its_port() {
        assert_eq!(host_of("https://a.example/base"), Some("a.example"));
        assert_eq!(host_of("http://127.0.0.1:8787"), Some("127.0.0.1:8787"));
        assert_eq!(host_of("a.example"), None);
        assert_eq!(host_of("http:///a"), None);
    }

    /// The first and the last address of each range, and the addresses beside it if they are
    /// public.
    #[test]
    fn special_ranges_are_not_public() {
        for (first, last, before, after) in [
            ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0")),
            (
                "10.0.0.0",
                "10.255.255.255",
                Some("9.255.255.255"),
                Some("11.0.0.0"),
            ),
            (
                "100.64.0.0",
                "100.127.255.255",
                Some("100.63.255.255"),
                Some("100.128.0.0"),
            ),
            (
                "127.0.0.0",
                "127.255.255.255",
                Some("126.255.255.255"),
                Some("128.0.0.0"),
            ),
            (
                "168.63.129.16",
                "168.63.129.16",
                Some("168.63.129.15"),
                Some("168.63.129.17"),
            ),
            (
                "169.254.0.0",
                "169.254.255.255",
                Some("169.253.255.255"),
                Some("169.255.0.0"),
            ),
            (
                "172.16.0.0",
                "172.31.255.255",
                Some("172.15.255.255"),
                Some("172.32.0.0"),
            ),
            (
                "192.0.0.0",
                "192.0.0.255",
                Some("191.255.255.255"),
                Some("192.0.1.0"),
            ),
            (
                "192.0.2.0",
                "192.0.2.255",
                Some("192.0.1.255"),
                Some("192.0.3.0"),
            ),
            (
                "192.31.196.0",
                "192.31.196.255",
                Some("192.31.195.255"),
                Some("192.31.197.0"),
            ),
            (
                "192.52.193.0",
                "192.52.193.255",
                Some("192.52.192.255"),
                Some("192.52.194.0"),
            ),
            (
                "192.88.99.0",
                "192.88.99.255",
                Some("192.88.98.255"),
                Some("192.88.100.0"),
            ),
            (
                "192.168.0.0",
                "192.168.255.255",
                Some("192.167.255.255"),
                Some("192.169.0.0"),
            ),
            (
                "192.175.48.0",
                "192.175.48.255",
                Some("192.175.47.255"),
                Some("192.175.49.0"),
            ),
            (
                "198.18.0.0",
                "198.19.255.255",
                Some("198.17.255.255"),
                Some("198.20.0.0"),
            ),
            (
                "198.51.100.0",
                "198.51.100.255",
                Some("198.51.99.255"),
                Some("198.51.101.0"),
            ),
            (
                "203.0.113.0",
                "203.0.113.255",
                Some("203.0.112.255"),
                Some("203.0.114.0"),
            ),
            (
                "224.0.0.0",
                "255.255.255.255",
                Some("223.255.255.255"),
                None,
            ),
            (
                "::",
                "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                None,
                Some("2000::"),
            ),
            (
                "2001::",
                "2001:1ff:ffff::",
                Some("2000:ffff::"),
                Some("2001:200::"),
            ),
            (
                "2001:db8::",
                "2001:db8:ffff::",
                Some("2001:db7:ffff::"),
                Some("2001:db9::"),
            ),
            ("2002::", "2002:ffff::", Some("2001:ffff::"), Some("2003::")),
            (
                "3fff::",
                "3fff:fff:ffff::",
                Some("3ffe:ffff::"),
                Some("3fff:1000::"),
            ),
            (
                "4000::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                Some("3fff:ffff::"),
                None,
            ),
        ] {
            let is_public = |address: &str| is_public(address.parse().unwrap());
            assert!(!is_public(first) && !is_public(last), "{first} {last}");
            for beside in [before, after].into_iter().flatten() {
                assert!(is_public(beside), "{beside}");
            }
        }
    }

    #[test]
    fn addresses_that_stand_for_others_are_not_public() {
        for address in [
            "::1",
            "::8.8.8.8",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::8.8.8.8",
            "100::1",
            "2001::1",
            "2001:20::1",
            "2002:808:808::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "2606:4700:4700::1111", "2001:4860:4860::8888"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_webhook_connects_to_public_addresses_and_if_allowed_to_this_machine() {
        for (address, strict, with_loopback) in [
            ("203.0.114.1", true, true),
            ("2606:4700::1111", true, true),
            ("127.0.0.1", false, true),
            ("::1", false, true),
            ("10.0.0.1", false, false),
            ("169.254.169.254", false, false),
            ("::ffff:10.0.0.1", false, false),
            ("fd00::1", false, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(may_connect(address, &STRICT), strict, "{address}");
            assert_eq!(
                may_connect(address, &WITH_LOOPBACK),
                with_loopback,
                "{address}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(
            url in "(https?://)?[a-z0-9.:@\\[\\]/?#%\\\\ ü-]{0,40}",
            own in "[a-z0-9.:\\[\\]]{0,12}",
        ) {
            for limits in [&STRICT, &WITH_LOOPBACK] {
                if check(&url, Some(&own), limits).is_ok() {
                    prop_assert!(url.bytes().all(|byte| byte.is_ascii_graphic()));
                }
            }
        }

        #[test]
        fn an_address_is_accepted_if_it_is_public(v4: u32, v6: u128) {
            let (v4, v6) = (Ipv4Addr::from(v4), Ipv6Addr::from(v6));
            let verdict = |url: &str| check(url, None, &STRICT).is_ok();
            prop_assert_eq!(verdict(&format!("https://{v4}/")), is_public(v4.into()));
            prop_assert_eq!(verdict(&format!("https://[{v6}]/")), is_public(v6.into()));
            prop_assert!(!is_public(v4.to_ipv6_mapped().into()));
            prop_assert!(!is_public(v4.to_ipv6_compatible().into()));
            prop_assert!(!is_public(v4.into()) || !v4.is_private() && !v4.is_loopback());
        }
    }
}
