//! The fields of a request, and the reasons to refuse it without asking the stream.

use super::Bounds;
use super::fork::{FORK_OFFSET, FORK_SUB_OFFSET, FORKED_FROM, ROOT};
use super::state::Claim;
use crate::request::Request;
use crate::segments::token;

const SAFE_INTEGER_MAX: u64 = 9_007_199_254_740_991;

/// Returns every status with which a request may be refused, independently of the stream.
pub(super) fn faults(request: &Request, bounds: &Bounds) -> Vec<u16> {
    let mut faults = Vec::new();
    let writes = matches!(request.method, "PUT" | "POST");
    if writes {
        let names = ["Producer-Id", "Producer-Epoch", "Producer-Seq"];
        let given = names
            .iter()
            .filter(|name| request.header(name).is_some())
            .count();
        if given != 0 && (given != 3 || claim(request).is_none()) {
            faults.push(400);
        }
        if request.body.len() as u64 > bounds.body_bytes {
            faults.push(413);
        }
        let named = request
            .header("Content-Type")
            .filter(|text| !text.trim().is_empty());
        let needed = request.method == "POST" && !request.body.is_empty();
        let ignored = request.method == "POST" && request.body.is_empty();
        let formed = named.map(|text| {
            essence(text)
                .split_once('/')
                .is_some_and(|(kind, of)| !kind.is_empty() && !of.is_empty())
        });
        if (formed == Some(false) && !ignored) || (formed.is_none() && needed) {
            faults.push(400);
        }
    }
    match request.method {
        "PUT" => {
            let (ttl, expires) = (
                request.header("Stream-TTL"),
                request.header("Stream-Expires-At"),
            );
            let bad_ttl = ttl.is_some_and(|text| {
                integer(text).is_none() || (text.len() > 1 && text.starts_with('0'))
            });
            let bad_expiry = expires.is_some_and(|text| time(text).is_none());
            let names = [FORKED_FROM, FORK_OFFSET, FORK_SUB_OFFSET];
            let [source, offset, sub_offset] = names.map(|name| request.header(name));
            let bad_sub = sub_offset.is_some_and(|text| {
                integer(text).is_none() || (text.len() > 1 && text.starts_with('0'))
            });
            let bad_fork = source.is_none() && (offset.is_some() || sub_offset.is_some())
                || source.is_some_and(|source| !source.starts_with(ROOT))
                || offset.is_some_and(|text| token(text).is_none());
            if bad_fork || bad_sub {
                faults.push(400);
            }
            if bad_ttl || bad_expiry || (ttl.is_some() && expires.is_some()) {
                faults.push(400);
            }
        }
        "POST" if request.body.is_empty() && !is_closed(request) => faults.push(400),
        "POST"
            if request
                .header("Stream-Expected-Offset")
                .is_some_and(|text| text != "-1" && token(text).is_none()) =>
        {
            faults.push(400);
        }
        "GET" => {
            let offset = request.parameter("offset");
            let live = request.parameter("live");
            let bad_offset =
                offset.is_some_and(|text| text != "-1" && text != "now" && token(text).is_none());
            let bad_live =
                live.is_some_and(|text| !matches!(text, "sse" | "long-poll") || offset.is_none());
            let repeated = request.parameters("offset").count() > 1;
            if bad_offset || bad_live || repeated {
                faults.push(400);
            }
        }
        _ => {}
    }
    faults
}

fn integer(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| digits && *number <= SAFE_INTEGER_MAX)
}

pub(super) fn claim(request: &Request) -> Option<Claim> {
    let id = request
        .header("Producer-Id")
        .filter(|id| !id.is_empty())?
        .to_owned();
    Some(Claim {
        id,
        epoch: integer(request.header("Producer-Epoch")?)?,
        seq: integer(request.header("Producer-Seq")?)?,
    })
}

pub(super) fn is_closed(request: &Request) -> bool {
    request
        .header("Stream-Closed")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

pub(super) fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_lowercase()
}

/// Parses a time as the workload writes it, `2027-01-02T03:04:05.678Z`, into milliseconds since
/// 1970.
#[must_use]
pub fn time(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to).and_then(integer);
    let shape = text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T';
    if !shape {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Counts from the first of March, because leap days then follow a pattern.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let seconds = (days.checked_sub(719_468)?) * 86_400
        + number(11, 13)? * 3_600
        + number(14, 16)? * 60
        + number(17, 19)?;
    Some(seconds * 1_000 + number(20, 23)?)
}
