//! The body of a PUT or POST: its bound, its codings, and whether it may be missing.

use bytes::Bytes;

use super::write::MALFORMED_CONTENT_TYPE;
use super::{Append, Call, Create, Parsed, RequestHead};
use crate::wire::{content_type, header};
use crate::{Limits, Refusal, router};

/// A PUT or POST whose body, of at most `bytes_max` bytes, must still be read.
#[derive(Debug)]
pub struct AwaitsBody {
    /// The bound of the body.
    pub bound: BodyBound,
    call: Call,
}

/// The bound of a body that must still be read, and the refusals of one that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyBound {
    /// The greatest body, in bytes.
    pub bytes_max: u64,
}

impl BodyBound {
    /// Returns the refusal of a body that has exceeded `bytes_max`.
    #[must_use]
    pub const fn too_large(self) -> Refusal {
        Refusal::BodyTooLarge {
            max: self.bytes_max,
        }
    }

    /// Returns the refusal of a body that ended before its announced length. Nothing of it is
    /// stored.
    #[must_use]
    pub const fn broken_off(self) -> Refusal {
        Refusal::BodyBrokenOff
    }

    /// Returns the refusal of a body that did not arrive in time. Nothing of it is stored.
    #[must_use]
    pub const fn too_slow(self) -> Refusal {
        Refusal::BodyTooSlow
    }
}

/// Returns the `Content-Length`.
#[must_use]
pub fn announced_bytes(head: RequestHead<'_>) -> Option<u64> {
    (head.header)(header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok())
}

/// Refuses a body whose `Content-Length` is too large.
pub(crate) fn refuse_announced(head: RequestHead<'_>, limits: &Limits) -> Result<(), Refusal> {
    let max = body_bytes_max(head, limits);
    let needs_body = matches!(head.method, "PUT" | "POST");
    match announced_bytes(head) {
        Some(length) if needs_body && length > max => Err(Refusal::BodyTooLarge { max }),
        Some(_) | None => Ok(()),
    }
}

fn body_bytes_max(head: RequestHead<'_>, limits: &Limits) -> u64 {
    if router::control_rest(head.target).is_some() {
        limits.subscription_bytes_max
    } else if router::is_registry(head.target) {
        limits.registry_bytes_max()
    } else {
        limits.append_bytes_max
    }
}

pub(super) fn awaits(
    call: Call,
    head: RequestHead<'_>,
    limits: &Limits,
) -> Result<Parsed, Refusal> {
    refuse_announced(head, limits)?;
    let bound = BodyBound {
        bytes_max: body_bytes_max(head, limits),
    };
    Ok(Parsed::AwaitsBody(AwaitsBody { bound, call }))
}

impl AwaitsBody {
    /// Adds the body and returns the call.
    ///
    /// # Errors
    /// Fails when the body is too large, or missing where it is required.
    pub fn with_body(self, body: Bytes) -> Result<Call, Refusal> {
        if body.len() as u64 > self.bound.bytes_max {
            return Err(self.bound.too_large());
        }
        match self.call {
            Call::Create(create) => Ok(Call::Create(Create { body, ..create })),
            Call::Append(append) if body.is_empty() => {
                if append.close {
                    Ok(Call::Append(append))
                } else {
                    Err(Refusal::Malformed(
                        "the body is empty; only a request with Stream-Closed: true may have none",
                    ))
                }
            }
            Call::Append(append) => match &append.content_type {
                None => Err(Refusal::MalformedHeader {
                    header: header::CONTENT_TYPE,
                    rule: "is missing",
                }),
                Some(text) if !content_type::is_well_formed(text) => Err(MALFORMED_CONTENT_TYPE),
                Some(_) => Ok(Call::Append(Append { body, ..append })),
            },
            Call::Control(call) => Ok(Call::Control(call.with_body(body))),
            call @ (Call::Metadata
            | Call::Read(_)
            | Call::Delete(_)
            | Call::Fork(_)
            | Call::Admin(_)
            | Call::Link(_)
            | Call::Session(_)) => Ok(call),
        }
    }
}

/// Refuses a body with a content coding. It would be stored in its coded form, and readers would
/// not know the coding.
pub(crate) fn check_codings(head: RequestHead<'_>) -> Result<(), Refusal> {
    let codings = |name| {
        let list = (head.header)(name).unwrap_or_default();
        let codings = list.split(',').map(|each| each.trim().to_ascii_lowercase());
        codings.filter(|each| !each.is_empty()).collect::<Vec<_>>()
    };
    let transfer = codings(header::TRANSFER_ENCODING);
    if transfer.iter().any(|each| each != "chunked") {
        return Err(Refusal::NotSupported("transfer codings other than chunked"));
    }
    if transfer.len() > 1 {
        return Err(Refusal::Malformed("the body is chunked more than once"));
    }
    let content = codings(header::CONTENT_ENCODING);
    if matches!(head.method, "PUT" | "POST") && content.iter().any(|each| each != "identity") {
        return Err(Refusal::ContentCoding);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request::parse;
    use crate::wire::request::tests::{parsed, posted};

    #[test]
    fn the_registry_takes_events_that_are_larger_than_any_append() {
        let limits = Limits {
            append_bytes_max: 1,
            ..Limits::DEFAULT
        };
        let bytes_max = |target: &str| {
            let head = RequestHead {
                method: "POST",
                origin: "http://h",
                target,
                header: &|_| None,
            };
            match parse(head, &limits) {
                Ok(Parsed::AwaitsBody(awaits)) => awaits.bound.bytes_max,
                Ok(Parsed::Whole(_)) | Err(_) => 0,
            }
        };
        assert_eq!(bytes_max("/v1/stream/a/__registry__"), 1);
        for target in ["/v1/stream/__registry__", "/v1/stream/__registry__/1"] {
            assert!(bytes_max(target) > 2 * limits.name_bytes_max, "{target}");
        }
    }

    #[test]
    fn a_body_may_be_missing_only_when_closing() {
        assert!(posted(&[], b"").is_err());
        assert!(posted(&[("stream-closed", "yes")], b"").is_err());
        assert!(
            posted(
                &[("stream-closed", "TRUE"), ("content-type", "no type")],
                b""
            )
            .is_ok()
        );
        assert!(posted(&[], b"x").is_err());
    }

    #[test]
    fn a_large_body_is_refused_by_its_announcement_and_by_its_size() {
        let max = Limits::DEFAULT.append_bytes_max;
        assert!(
            parsed(
                "POST",
                "/v1/stream/s",
                &[("content-length", &max.to_string())]
            )
            .is_ok()
        );
        let refused = parsed(
            "POST",
            "/v1/stream/s",
            &[("content-length", &(max + 1).to_string())],
        );
        assert_eq!(refused.err(), Some(Refusal::BodyTooLarge { max }));
        let Ok(Parsed::AwaitsBody(awaits)) = parsed("PUT", "/v1/stream/s", &[]) else {
            panic!()
        };
        let body = Bytes::from(vec![0; 1 + usize::try_from(max).unwrap()]);
        assert_eq!(awaits.with_body(body), Err(Refusal::BodyTooLarge { max }));
    }
}
