//! One request as text: read from the input, parsed by the machine, and printed again.

use bytes::Bytes;
use machine::outbox;
use machine::router::target;
use machine::rows::{Expiry, ProducerStamp};
use machine::wire::internal_headers;
use machine::wire::request::{
    self, Append, Create, Parsed, Preconditions, Read, RequestHead, StartOffset,
};
use machine::{Call, Class, Limits, Refusal};

use super::latin;

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Request {
    /// Reads a record. Returns `None` if an HTTP server would refuse it: for control characters, an
    /// invalid URL, or a header without a name.
    pub(crate) fn read(record: &[u8]) -> Option<Self> {
        let mut lines = record.split(|byte| *byte == b'\n');
        let first = latin(lines.next()?);
        let (method, path) = first.split_once(' ')?;
        let is_url = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        let is_token = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !text.is_empty() && text.bytes().all(plain)
        };
        if !is_url || !is_token(method) {
            return None;
        }
        let mut length = first.len() + 1;
        let mut headers = Vec::new();
        for line in lines {
            length += line.len() + 1;
            if line.is_empty() {
                break;
            }
            let line = latin(line);
            let (name, value) = line.split_once(':')?;
            let value = value.trim_matches([' ', '\t']);
            let is_value = value
                .chars()
                .all(|each| each == '\t' || !each.is_ascii_control());
            if !is_token(name) || !is_value {
                return None;
            }
            headers.push((name.to_owned(), value.to_owned()));
        }
        Some(Self {
            method: method.to_owned(),
            url: format!("https://host{path}"),
            headers,
            body: Bytes::copy_from_slice(record.get(length..).unwrap_or_default()),
        })
    }

    /// Returns the value of a header, or all values joined if it is given several times.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let values: Vec<_> = self
            .headers
            .iter()
            .filter(|(each, _)| each.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub(crate) fn parse(&self, limits: &Limits) -> Result<Call, Refusal> {
        let (origin, _) = target::split(&self.url);
        self.parse_below(origin, limits)
    }

    /// Parses a request of a client who knows the server by another URL.
    pub(crate) fn parse_below(&self, origin: &str, limits: &Limits) -> Result<Call, Refusal> {
        let header = |name: &str| self.header(name);
        let (_, target) = target::split(&self.url);
        let head = RequestHead {
            method: &self.method,
            origin,
            target,
            header: &header,
        };
        match request::parse(head, limits)? {
            Parsed::Whole(call) => Ok(call),
            Parsed::AwaitsBody(awaits) => awaits.with_body(self.body.clone()),
        }
    }

    /// Returns a request that asks for this call.
    pub(crate) fn print(call: &Call, base: &str) -> Self {
        let mut headers = Vec::new();
        let mut url = base.to_owned();
        let (method, body) = match call {
            Call::Create(create) => {
                url.clone_from(&create.location);
                headers.extend(print_create(create));
                ("PUT", create.body.clone())
            }
            Call::Append(append) => {
                headers.extend(print_append(append));
                ("POST", append.body.clone())
            }
            Call::Read(read) => {
                url.push_str(&print_query(read));
                headers.extend(
                    read.if_none_match
                        .clone()
                        .map(|tags| ("If-None-Match", tags)),
                );
                let id = read.last_event_id.map(|id| id.to_string());
                headers.extend(id.map(|id| ("Last-Event-ID", id)));
                headers.push((
                    internal_headers::CACHE_MODE,
                    read.cache_mode.name().to_owned(),
                ));
                ("GET", Bytes::new())
            }
            Call::Metadata => ("HEAD", Bytes::new()),
            Call::Delete(preconditions) => {
                headers.extend(print_preconditions(preconditions));
                ("DELETE", Bytes::new())
            }
            Call::Fork(_)
            | Call::Admin(_)
            | Call::Link(_)
            | Call::Control(_)
            | Call::Session(_) => {
                unreachable!("internal calls are not handed over")
            }
        };
        Self {
            method: method.to_owned(),
            url,
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            body,
        }
    }
}

type Printed = (&'static str, String);

fn print_create(create: &Create) -> Vec<Printed> {
    let names_type = create
        .fork
        .as_ref()
        .is_none_or(|fork| fork.has_content_type);
    let mut headers = Vec::new();
    headers.extend(names_type.then(|| ("Content-Type", create.content_type.clone())));
    if let Some(fork) = &create.fork {
        headers.push(("Stream-Forked-From", outbox::target(&fork.source)));
        let offset = fork.offset.map(|offset| offset.to_string());
        headers.extend(offset.map(|offset| ("Stream-Fork-Offset", offset)));
        headers.push(("Stream-Fork-Sub-Offset", fork.sub_offset.to_string()));
    }
    match &create.expiry {
        Expiry::Never => {}
        Expiry::Sliding { seconds } => headers.push(("Stream-TTL", seconds.to_string())),
        Expiry::At { text, .. } => headers.push(("Stream-Expires-At", text.clone())),
    }
    headers.extend(create.closed.then(|| ("Stream-Closed", "true".to_owned())));
    headers.extend(print_producer(create.producer.as_ref()));
    headers.extend(print_preconditions(&create.preconditions));
    headers
}

fn print_append(append: &Append) -> Vec<Printed> {
    let mut headers = Vec::new();
    headers.extend(
        append
            .content_type
            .clone()
            .map(|text| ("Content-Type", text)),
    );
    headers.extend(append.stream_seq.clone().map(|text| ("Stream-Seq", text)));
    let expected = append.expected_offset;
    headers.extend(expected.map(|offset| ("Stream-Expected-Offset", offset.to_string())));
    headers.extend(append.close.then(|| ("Stream-Closed", "true".to_owned())));
    headers.extend(print_producer(append.producer.as_ref()));
    headers.extend(print_preconditions(&append.preconditions));
    headers
}

fn print_producer(stamp: Option<&ProducerStamp>) -> Vec<Printed> {
    stamp.map_or_else(Vec::new, |stamp| {
        vec![
            ("Producer-Id", stamp.id.clone()),
            ("Producer-Epoch", stamp.epoch.to_string()),
            ("Producer-Seq", stamp.seq.to_string()),
        ]
    })
}

fn print_preconditions(preconditions: &Preconditions) -> impl Iterator<Item = Printed> {
    let lists = [
        ("If-Match", &preconditions.if_match),
        ("If-None-Match", &preconditions.if_none_match),
    ];
    lists
        .into_iter()
        .filter_map(|(name, list)| Some((name, list.clone()?)))
}

fn print_query(read: &Read) -> String {
    let from = match read.from {
        StartOffset::Start => "-1".to_owned(),
        StartOffset::Now => "now".to_owned(),
        StartOffset::Offset(offset) => offset.to_string(),
    };
    let live = match read.live {
        None => "",
        Some(Class::LongPoll) => "&live=long-poll",
        Some(Class::Sse) => "&live=sse",
    };
    let cursor = read
        .cursor
        .map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
    format!("?offset={from}{live}{cursor}")
}
