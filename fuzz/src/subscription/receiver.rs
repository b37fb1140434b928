//! Which URLs may be called, decided independently of the server.

use core::net::IpAddr;

/// Returns whether a webhook may go to a URL. `own` is a URL of the server.
pub(super) fn is_admitted(url: &str, own: &str, loopback_too: bool) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\' && byte != b'#';
    let (Some(host), Some(own_host)) = (host(url), host(own)) else {
        return false;
    };
    if !url.bytes().all(is_plain) {
        return false;
    }
    let is_loopback = is_loopback(&host);
    if is_loopback {
        return loopback_too;
    }
    url.starts_with("https://") && is_public(&host) && host != own_host
}

/// Returns the host of a URL in lower case, without port and brackets. `None` if there is a user.
fn host(url: &str) -> Option<String> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.split(['/', '?', '#']).next()?.to_ascii_lowercase();
    if authority.contains('@') {
        return None;
    }
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    Some(host.to_owned())
}

fn is_loopback(host: &str) -> bool {
    let address: Option<IpAddr> = host.parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

fn is_public(host: &str) -> bool {
    if let Ok(address) = host.parse() {
        return machine::may_connect(address, &machine::Limits::DEFAULT);
    }
    let labels: Vec<_> = host.split('.').collect();
    let last = labels.last().copied().unwrap_or_default();
    let is_private = matches!(
        last,
        "arpa"
            | "corp"
            | "home"
            | "internal"
            | "intranet"
            | "lan"
            | "local"
            | "localdomain"
            | "localhost"
            | "private"
    );
    // What ends in a number is an address for many clients.
    let is_number = last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit());
    labels.len() > 1 && !labels.contains(&"") && !is_private && !is_number
}
