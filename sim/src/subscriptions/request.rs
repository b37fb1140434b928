//! Requests of clients, receivers and workers.

use bytes::Bytes;
use machine::wire::request::{self, Parsed, RequestHead};
use machine::{Call, Limits, outbox};
use serde_json::json;

use super::sessions::request::{SessionKind, stream_of};

/// The start of the URLs of this server.
pub const ORIGIN: &str = "https://streams.example";
/// The object that keeps the signing keys.
pub const KEYS: &str = "__ds/keys";

const SUBSCRIPTIONS: &str = "__ds/subscriptions/";
const PUBLIC_ORIGIN: &str = "X-Public-Origin";

/// A request to an object.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name of a stream or the id of a subscription.
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    CreateStream {
        content: Content,
        closed: bool,
        ttl_s: Option<u64>,
    },
    /// An append, and whether a claim of this subscription follows at once.
    Append {
        content: Content,
        then_claim: Option<String>,
    },
    Close,
    DeleteStream,
    Subscribe(Asked),
    Describe,
    Unsubscribe,
    AddStreams(Vec<String>),
    RemoveStream(String),
    Claim {
        worker: String,
    },
    Work(Work),
    PublicKeys,
    /// A request about a session, whose id is the name.
    Session(SessionKind),
}

/// What is appended.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    pub format: Format,
    /// How many messages.
    pub messages: u64,
    /// What the messages say, so that they differ.
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Bytes,
    Text,
}

impl Format {
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Bytes => "application/octet-stream",
            Self::Text => "text/plain",
        }
    }

    /// Returns the format of a content type.
    #[must_use]
    pub fn of(content_type: &str) -> Self {
        let mut others = [Self::Bytes, Self::Text].into_iter();
        let other = others.find(|format| format.content_type() == content_type);
        other.unwrap_or(Self::Json)
    }
}

impl Content {
    /// Returns the body of the request. JSON is a message alone, an array of messages, or one of
    /// messages that are arrays.
    fn body(self) -> String {
        let Self {
            format,
            messages,
            number,
        } = self;
        if messages == 0 {
            return String::new();
        }
        let mut all: Vec<_> = (0..messages)
            .map(|message| (number + message).to_string())
            .collect();
        match (format, number % 4) {
            (Format::Bytes | Format::Text, _) => all.join(","),
            (Format::Json, 1) if messages == 1 => all.remove(0),
            (Format::Json, 2) => format!("[[{}]]", all.join(",")),
            (Format::Json, _) => format!("[{}]", all.join(",")),
        }
    }
}

/// The configuration of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub delivery: Delivery,
    pub pattern: Option<String>,
    pub streams: Vec<String>,
    pub lease_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    Webhook(String),
    PullWake(String),
}

/// What a receiver or a worker asks for the wake that it has.
#[derive(Clone, Debug)]
pub struct Work {
    pub action: Action,
    pub token: Option<String>,
    pub wake: String,
    pub generation: u64,
    /// Streams and offsets.
    pub acks: Vec<(String, String)>,
    pub done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Callback,
    Ack,
    Release,
}

impl Action {
    const fn segment(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::Ack => "ack",
            Self::Release => "release",
        }
    }
}

/// Returns the name of the object of a subscription.
#[must_use]
pub fn object_of(id: &str) -> String {
    format!("{SUBSCRIPTIONS}{id}")
}

/// Returns the id of the subscription that an object is.
#[must_use]
pub fn id_of(object: &str) -> Option<&str> {
    object.strip_prefix(SUBSCRIPTIONS)
}

impl Request {
    /// Returns the name of the object that gets it.
    #[must_use]
    pub fn to(&self) -> String {
        match &self.kind {
            Kind::CreateStream { .. } | Kind::Append { .. } | Kind::Close | Kind::DeleteStream => {
                self.name.clone()
            }
            Kind::PublicKeys => KEYS.to_owned(),
            Kind::Session(_) => stream_of(&self.name),
            Kind::Subscribe(_)
            | Kind::Describe
            | Kind::Unsubscribe
            | Kind::AddStreams(_)
            | Kind::RemoveStream(_)
            | Kind::Claim { .. }
            | Kind::Work(_) => object_of(&self.name),
        }
    }

    /// Returns the call as the parser makes it; `None` if the parser refuses the request.
    #[must_use]
    pub fn call(&self, limits: &Limits) -> Option<Call> {
        let mut headers = vec![(PUBLIC_ORIGIN, ORIGIN.to_owned())];
        let is_of = |content: &Content| {
            let content_type = content.format.content_type().to_owned();
            ("Content-Type", content_type)
        };
        let path = |rest: &str| outbox::target(&format!("{}{rest}", self.to()));
        let (method, target, body) = match &self.kind {
            Kind::CreateStream {
                content,
                closed,
                ttl_s,
            } => {
                headers.push(is_of(content));
                headers.extend(closed.then(|| ("Stream-Closed", "true".to_owned())));
                headers.extend(ttl_s.map(|seconds| ("Stream-TTL", seconds.to_string())));
                ("PUT", path(""), content.body())
            }
            Kind::Append { content, .. } => {
                headers.push(is_of(content));
                ("POST", path(""), content.body())
            }
            Kind::Close => {
                headers.push(("Stream-Closed", "true".to_owned()));
                ("POST", path(""), String::new())
            }
            Kind::DeleteStream | Kind::Unsubscribe => ("DELETE", path(""), String::new()),
            Kind::Subscribe(asked) => ("PUT", path(""), asked.body()),
            Kind::Describe => ("GET", path(""), String::new()),
            Kind::AddStreams(streams) => (
                "POST",
                path("/streams"),
                json!({ "streams": streams }).to_string(),
            ),
            Kind::RemoveStream(stream) => {
                ("DELETE", path(&format!("/streams/{stream}")), String::new())
            }
            Kind::Claim { worker } => (
                "POST",
                path("/claim"),
                json!({ "worker": worker }).to_string(),
            ),
            Kind::Work(work) => {
                let token = work.token.iter();
                headers.extend(token.map(|token| ("Authorization", format!("Bearer {token}"))));
                (
                    "POST",
                    path(&format!("/{}", work.action.segment())),
                    work.body(),
                )
            }
            Kind::PublicKeys => ("GET", "/v1/stream/__ds/jwks.json".to_owned(), String::new()),
            Kind::Session(kind) => return kind.call(&self.name, limits),
        };
        parse(method, ORIGIN, &target, &headers, body, limits)
    }
}

impl Asked {
    fn body(&self) -> String {
        let mut body = json!({
            "streams": self.streams,
            "pattern": self.pattern,
            "lease_ttl_ms": self.lease_ms,
        });
        match &self.delivery {
            Delivery::Webhook(url) => {
                body["type"] = json!("webhook");
                body["webhook"] = json!({ "url": url });
            }
            Delivery::PullWake(stream) => {
                body["type"] = json!("pull-wake");
                body["wake_stream"] = json!(stream);
            }
        }
        body.to_string()
    }
}

impl Work {
    fn body(&self) -> String {
        let acks = self.acks.iter();
        let acks: Vec<_> = acks
            .map(|(stream, offset)| json!({ "stream": stream, "offset": offset }))
            .collect();
        json!({
            "wake_id": self.wake,
            "generation": self.generation,
            "acks": acks,
            "done": self.done,
        })
        .to_string()
    }
}

/// Parses a request as shells do.
pub(super) fn parse(
    method: &str,
    origin: &str,
    target: &str,
    headers: &[(impl AsRef<str>, String)],
    body: String,
    limits: &Limits,
) -> Option<Call> {
    let header = |name: &str| {
        let mut all = headers.iter();
        let found = all.find(|(each, _)| each.as_ref().eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    };
    let head = RequestHead {
        method,
        origin,
        target,
        header: &header,
    };
    match request::parse(head, limits).ok()? {
        Parsed::Whole(call) => Some(call),
        Parsed::AwaitsBody(awaits) => awaits.with_body(Bytes::from(body)).ok(),
    }
}
