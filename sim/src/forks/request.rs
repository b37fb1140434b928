//! Requests of clients.

use bytes::Bytes;
use machine::wire::request::{self, Parsed, RequestHead};
use machine::{Call, Limits};

use super::model::{Asked, Expiry, Format};
use super::outside::path;
use crate::workload::timestamp;

#[derive(Clone, Debug)]
pub struct Request {
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Create(Asked),
    Append(Posted),
    Delete,
    /// From this offset, or from the beginning.
    Read {
        from: Option<String>,
    },
    Head,
}

/// An append, or a close if it has no body.
#[derive(Clone, Debug)]
pub struct Posted {
    pub format: Format,
    pub body: Vec<u8>,
    /// Id, epoch and sequence.
    pub producer: Option<(u64, u64, u64)>,
    pub stream_seq: Option<u64>,
    pub close: bool,
}

impl Request {
    /// Returns the call as the parser makes it; `None` if the parser refuses the request.
    #[must_use]
    pub fn call(&self, limits: &Limits) -> Option<Call> {
        let mut headers: Vec<(&str, String)> = Vec::new();
        let (method, query, body) = match &self.kind {
            Kind::Create(asked) => {
                headers.extend(asked_headers(asked));
                ("PUT", String::new(), asked.body.clone())
            }
            Kind::Append(posted) => {
                headers.extend(posted_headers(posted));
                ("POST", String::new(), posted.body.clone())
            }
            Kind::Delete => ("DELETE", String::new(), Vec::new()),
            Kind::Read { from } => {
                let from = from.as_deref().unwrap_or("-1");
                ("GET", format!("?offset={from}"), Vec::new())
            }
            Kind::Head => ("HEAD", String::new(), Vec::new()),
        };
        parse(
            method,
            &format!("{}{query}", path(&self.name)),
            &headers,
            body,
            limits,
        )
    }
}

/// Parses a request as shells do.
pub(super) fn parse(
    method: &str,
    target: &str,
    headers: &[(&str, String)],
    body: Vec<u8>,
    limits: &Limits,
) -> Option<Call> {
    let header = |name: &str| {
        let mut all = headers.iter();
        let found = all.find(|(each, _)| each.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    };
    let head = RequestHead {
        method,
        origin: "http://host",
        target,
        header: &header,
    };
    match request::parse(head, limits).ok()? {
        Parsed::Whole(call) => Some(call),
        Parsed::AwaitsBody(awaits) => awaits.with_body(Bytes::from(body)).ok(),
    }
}

fn asked_headers(asked: &Asked) -> Vec<(&'static str, String)> {
    let mut headers = Vec::new();
    if let Some(format) = asked.format {
        headers.push(("Content-Type", format.content_type().to_owned()));
    }
    match asked.expiry {
        Expiry::Never => {}
        Expiry::Ttl(seconds) => headers.push(("Stream-TTL", seconds.to_string())),
        Expiry::At(at) => headers.push(("Stream-Expires-At", timestamp(at))),
    }
    if asked.closed {
        headers.push(("Stream-Closed", "true".to_owned()));
    }
    if let Some(fork) = &asked.fork {
        headers.push(("Stream-Forked-From", path(&fork.source)));
        let offset = fork.offset.clone();
        headers.extend(offset.map(|offset| ("Stream-Fork-Offset", offset)));
        if fork.sub_offset > 0 {
            headers.push(("Stream-Fork-Sub-Offset", fork.sub_offset.to_string()));
        }
    }
    headers
}

fn posted_headers(posted: &Posted) -> Vec<(&'static str, String)> {
    let mut headers = vec![("Content-Type", posted.format.content_type().to_owned())];
    if let Some((id, epoch, seq)) = posted.producer {
        headers.push(("Producer-Id", format!("p{id}")));
        headers.push(("Producer-Epoch", epoch.to_string()));
        headers.push(("Producer-Seq", seq.to_string()));
    }
    if let Some(seq) = posted.stream_seq {
        headers.push(("Stream-Seq", format!("{seq:08}")));
    }
    if posted.close {
        headers.push(("Stream-Closed", "true".to_owned()));
    }
    headers
}
