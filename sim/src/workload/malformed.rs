//! Requests that are refused, whatever the stream is.

use bytes::Bytes;

use super::{Context, timestamp};
use crate::choices::Choices;
use crate::request::Request;

pub(super) fn malformed(choices: &mut Choices<'_>, context: &Context<'_>) -> Request {
    let mut request = Request::new("GET");
    match choices.upto(12) {
        0 => request.query.push(("offset", "0_0".to_owned())),
        1 => request.query.push(("live", "sse".to_owned())),
        2 => request
            .query
            .extend([("offset", "-1".to_owned()), ("live", "ws".to_owned())]),
        3 => request
            .query
            .extend([("offset", "-1".to_owned()), ("offset", "now".to_owned())]),
        4 => request
            .query
            .extend([("offset", "-1".to_owned()), ("cursor", "x".to_owned())]),
        5 => request.query.push(("offset", String::new())),
        choice => {
            let body = Bytes::from_static(b"[1");
            let content_type = (
                "Content-Type",
                context
                    .incarnation
                    .map_or("application/json", |incarnation| &incarnation.content_type)
                    .to_owned(),
            );
            request = match choice {
                6 => Request {
                    method: "PUT",
                    headers: vec![("Stream-TTL", "01".to_owned())],
                    ..request
                },
                7 => Request {
                    method: "PUT",
                    headers: vec![
                        ("Stream-TTL", "9".to_owned()),
                        ("Stream-Expires-At", timestamp(context.now + 9_000)),
                    ],
                    ..request
                },
                8 => Request {
                    method: "PUT",
                    headers: vec![("Content-Type", "application/json".to_owned())],
                    body,
                    ..request
                },
                9 => Request {
                    method: "POST",
                    headers: vec![content_type],
                    ..request
                },
                10 => Request {
                    method: "POST",
                    headers: vec![content_type, ("Producer-Id", "p0".to_owned())],
                    body,
                    ..request
                },
                11 => Request {
                    method: "POST",
                    body,
                    ..request
                },
                _ => Request {
                    method: "POST",
                    headers: vec![content_type],
                    body,
                    ..request
                },
            };
        }
    }
    request
}
