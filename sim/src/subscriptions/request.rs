//! Requests of clients, receivers and workers.

use bytes::Bytes;
use machine::wire::request::{self, Parsed, RequestHead};
use machine::{Call, Limits, outbox};
use serde_json::json;

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
        messages: u64,
        closed: bool,
        ttl_s: Option<u64>,
    },
    /// An append of so many messages, and whether a claim of this subscription follows at once.
    Append {
        messages: u64,
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
        let is_json = ("Content-Type", "application/json".to_owned());
        let path = |rest: &str| outbox::target(&format!("{}{rest}", self.to()));
        let (method, target, body) = match &self.kind {
            Kind::CreateStream {
                messages,
                closed,
                ttl_s,
            } => {
                headers.push(is_json);
                headers.extend(closed.then(|| ("Stream-Closed", "true".to_owned())));
                headers.extend(ttl_s.map(|seconds| ("Stream-TTL", seconds.to_string())));
                let body = (*messages > 0).then(|| messages_of(*messages));
                ("PUT", path(""), body.unwrap_or_default())
            }
            Kind::Append { messages, .. } => {
                headers.push(is_json);
                ("POST", path(""), messages_of(*messages))
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
        };
        parse(method, ORIGIN, &target, &headers, body, limits)
    }
}

fn messages_of(count: u64) -> String {
    let messages: Vec<_> = (0..count).map(|message| message.to_string()).collect();
    format!("[{}]", messages.join(","))
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
