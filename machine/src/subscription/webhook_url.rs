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
mod tests;
