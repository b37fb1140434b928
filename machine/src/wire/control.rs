//! Requests below `__ds` (protocol 6), and the messages between streams, subscriptions and the
//! objects that serve both.

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::internal_headers;
use super::request::{INTERNAL_METHOD, RequestHead};
use crate::admin::SubscriptionInquiry;
use crate::router::name;
use crate::rows::Incarnation;
use crate::wire::header;
use crate::{Limits, Millis, Offset, Refusal};

/// The object that keeps the signing keys.
pub(crate) const KEYS: &str = "__ds/keys";

const SUBSCRIPTIONS: &str = "__ds/subscriptions/";
const DIRECTORY: &str = "__ds/directory/";

/// How many objects share the directory of streams. It is no setting, because the stored entries
/// would be in the wrong objects after a change.
pub(crate) const DIRECTORY_SHARDS: u64 = 16;

/// Returns the name of the object of a subscription. `id` is its id in canonical spelling.
pub(crate) fn subscription_object(id: &str) -> String {
    format!("{SUBSCRIPTIONS}{id}")
}

/// Returns the name of a shard of the directory.
pub(crate) fn directory_object(shard: u64) -> String {
    format!("{DIRECTORY}{shard}")
}

/// Returns whether the object is a shard of the directory.
pub(crate) fn is_directory(object: &str) -> bool {
    object.starts_with(DIRECTORY)
}

/// Returns the shard that lists a stream, or that has the patterns with this first segment.
pub(crate) fn directory_shard(first_segment: &str) -> u64 {
    u64::from(crc32fast::hash(first_segment.as_bytes())) % DIRECTORY_SHARDS
}

/// A request to an object below `__ds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlCall {
    /// A client's request to a subscription.
    Subscription(SubscriptionCall),
    /// A request of the admin API to a subscription.
    Inquiry(SubscriptionInquiry),
    /// A stream notifies a subscription of what it has.
    Notify(Notify),
    /// A call of the directory.
    Directory(DirectoryCall),
    /// The public keys (protocol 6.5).
    PublicKeys,
    /// A subscription wants the key that signs at the moment.
    SigningKey,
}

impl ControlCall {
    /// Adds the body.
    pub(super) fn with_body(self, body: Bytes) -> Self {
        match self {
            Self::Subscription(call) => Self::Subscription(SubscriptionCall { body, ..call }),
            Self::Inquiry(_)
            | Self::Notify(_)
            | Self::Directory(_)
            | Self::PublicKeys
            | Self::SigningKey => self,
        }
    }

    /// Returns whether the call changes nothing.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        match self {
            Self::Subscription(call) => call.action == Action::Describe,
            Self::Inquiry(inquiry) => inquiry.only_reads(),
            Self::Directory(DirectoryCall::Subscriptions { .. }) => true,
            Self::Notify(_) | Self::Directory(_) | Self::PublicKeys | Self::SigningKey => false,
        }
    }
}

/// A client's request to a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionCall {
    /// The id in canonical spelling, as in the name of the object.
    pub name: String,
    /// The id that the client has chosen.
    pub id: String,
    /// The start of URLs that the client may be given; `None` if the operator has not said which
    /// it is.
    pub base: Option<String>,
    /// The bearer token.
    pub token: Option<String>,
    /// What is asked for.
    pub action: Action,
    /// The body, if the action has one.
    pub body: Bytes,
}

/// What a client asks of a subscription (protocol 6.2 to 6.4, 7.1 and 7.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// PUT.
    Create,
    /// GET.
    Describe,
    /// DELETE.
    Delete,
    /// POST `streams`.
    AddStreams,
    /// DELETE `streams/:path`, with the rest of the path as sent.
    RemoveStream(String),
    /// POST `callback`.
    Callback,
    /// POST `claim`.
    Claim,
    /// POST `ack`.
    Ack,
    /// POST `release`.
    Release,
}

impl Action {
    const fn has_body(&self) -> bool {
        match self {
            Self::Create
            | Self::AddStreams
            | Self::Callback
            | Self::Claim
            | Self::Ack
            | Self::Release => true,
            Self::Describe | Self::Delete | Self::RemoveStream(_) => false,
        }
    }

    const fn token(&self) -> RequiredToken {
        match self {
            Self::Callback | Self::Ack | Self::Release => RequiredToken::OfWake,
            Self::Create
            | Self::Describe
            | Self::Delete
            | Self::AddStreams
            | Self::RemoveStream(_)
            | Self::Claim => RequiredToken::OfServer,
        }
    }
}

/// A stream as a subscription sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The incarnation of the stream.
    pub incarnation: Incarnation,
    /// Its tail.
    pub tail: Offset,
}

/// A place in a stream that a subscription knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPosition {
    /// The incarnation of the stream.
    pub incarnation: Incarnation,
    /// The offset; `None` is before the first one, which the protocol writes as `-1`.
    pub offset: Option<Offset>,
}

/// What a stream notifies a subscription of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// The name of the stream.
    pub stream: String,
    /// The incarnation of the subscription.
    pub subscription: Incarnation,
    /// What the subscription knew before, as far as the stream knows.
    #[serde(rename = "told")]
    pub known: Option<StreamPosition>,
    /// The stream as it is; `None` if it does not exist.
    pub present: Option<Presence>,
}

/// What a subscription answers to [`Notify`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotifyAnswer {
    /// The stream sends no notification until it is asked.
    pub hold: bool,
    /// The subscription does not exist any more, or has no interest in the stream.
    pub unlink: bool,
}

/// What a subscription asks of the object of a stream, whether there is a stream or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkCall {
    /// Asks the stream to notify the subscription from now on. Leaves an existing link as it is.
    Link {
        /// The name of the stream.
        stream: String,
        /// The id of the subscription, in canonical spelling.
        subscription: String,
        /// Its incarnation.
        incarnation: Incarnation,
        /// When the subscription was created, if its pattern makes the link.
        pattern_since: Option<Millis>,
        /// Whether the subscription names the stream, so that the link outlives it.
        is_named: bool,
    },
    /// Asks the stream to notify the subscription no more.
    Unlink {
        /// The id of the subscription, in canonical spelling.
        subscription: String,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Whether the link stays if there is a stream, which may have been created after the end
        /// that the subscription knows of.
        if_absent: bool,
    },
    /// Asks how the stream is now, and ends a hold.
    Ask {
        /// The id of the subscription, in canonical spelling.
        subscription: String,
        /// Its incarnation.
        incarnation: Incarnation,
    },
}

/// The answer to a [`LinkCall`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkAnswer {
    /// Where the subscription begins, or what it knows now; `None` if there is no stream, or if it
    /// does not have the link that a subscription asks about.
    #[serde(rename = "told")]
    pub known: Option<StreamPosition>,
    /// The stream as it is; `None` if it does not exist.
    pub present: Option<Presence>,
    /// The stream has as many subscriptions as it may have.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub refused: bool,
}

/// A call of a shard of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirectoryCall {
    /// A stream was created. The answer is [`Interested`].
    Register {
        /// Its name.
        stream: String,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// A stream has ended.
    Forget {
        /// Its name.
        stream: String,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// A subscription has been created. The answer is a [`Listed`] page.
    Add {
        /// The subscription.
        subscription: Interest,
        /// The page begins behind this stream.
        after: Option<String>,
    },
    /// A subscription was deleted.
    Remove {
        /// The id of the subscription, in canonical spelling.
        subscription: String,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// Some of the subscriptions, for the admin API. The answer is [`Interested`].
    Subscriptions {
        /// The page begins behind this id.
        after: Option<String>,
        /// The greatest number of entries.
        limit: u64,
    },
}

/// A subscription in the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interest {
    /// The id of the subscription, in canonical spelling.
    pub subscription: String,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// When it was created.
    pub since: Millis,
    /// How many subscriptions of this id came before it, as far as its object remembers.
    #[serde(default)]
    pub predecessors: u64,
    /// Its pattern, if it has one.
    pub pattern: Option<String>,
    /// A stream that the pattern leaves out.
    pub except: Option<String>,
}

/// Some of the subscriptions: those whose patterns match a stream, or those of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interested {
    /// In the order of their ids.
    pub subscriptions: Vec<Interest>,
}

/// Some of the streams that match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// Their names, in order.
    pub streams: Vec<String>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
    /// Whether the directory has as many subscriptions as it may have.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub is_refused: bool,
}

/// The key that signs at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SigningKeyAnswer {
    /// The private key, as base64url.
    pub seed: String,
    /// The key signs nothing after this time.
    pub until: Millis,
}

/// A control path, below `__ds`.
enum ControlPath {
    PublicKeys,
    Subscription { id: String, resource: Resource },
    Keys,
    Directory,
}

enum Resource {
    Itself,
    Streams,
    Stream(String),
    Callback,
    Claim,
    Ack,
    Release,
}

const NOT_FOUND: Refusal = Refusal::SubscriptionNotFound;

/// Reads the rest of a path behind the prefix of streams, as sent.
fn control_path(rest: &str, limits: &Limits) -> Result<ControlPath, Refusal> {
    let mut segments = rest.splitn(5, '/');
    let first = segments.next();
    assert!(first.is_some(), "a split has at least one part");
    match (segments.next(), segments.next()) {
        (Some("jwks.json"), None) => Ok(ControlPath::PublicKeys),
        (Some("keys"), None) => Ok(ControlPath::Keys),
        (Some("directory"), Some(_)) if segments.next().is_none() => Ok(ControlPath::Directory),
        (Some("subscriptions"), Some(id)) if !id.is_empty() => {
            let id = name::canonical(id, limits)?;
            let resource = match (segments.next(), segments.next()) {
                (None, _) => Resource::Itself,
                (Some("streams"), None | Some("")) => Resource::Streams,
                (Some("streams"), Some(path)) => Resource::Stream(path.to_owned()),
                (Some("callback"), None) => Resource::Callback,
                (Some("claim"), None) => Resource::Claim,
                (Some("ack"), None) => Resource::Ack,
                (Some("release"), None) => Resource::Release,
                _ => return Err(NOT_FOUND),
            };
            Ok(ControlPath::Subscription { id, resource })
        }
        _ => Err(NOT_FOUND),
    }
}

impl Resource {
    fn action(self, method: &str) -> Result<Action, Refusal> {
        let (action, allow) = match (self, method) {
            (Self::Itself, "PUT") => return Ok(Action::Create),
            (Self::Itself, "GET") => return Ok(Action::Describe),
            (Self::Itself, "DELETE") => return Ok(Action::Delete),
            (Self::Itself, _) => (None, "GET, PUT, DELETE, OPTIONS"),
            (Self::Streams, "POST") => (Some(Action::AddStreams), ""),
            (Self::Stream(path), "DELETE") => (Some(Action::RemoveStream(path)), ""),
            (Self::Stream(_), _) => (None, "DELETE, OPTIONS"),
            (Self::Callback, "POST") => (Some(Action::Callback), ""),
            (Self::Claim, "POST") => (Some(Action::Claim), ""),
            (Self::Ack, "POST") => (Some(Action::Ack), ""),
            (Self::Release, "POST") => (Some(Action::Release), ""),
            (Self::Streams | Self::Callback | Self::Claim | Self::Ack | Self::Release, _) => {
                (None, "POST, OPTIONS")
            }
        };
        action.ok_or(Refusal::MethodNotAllowed { allow })
    }
}

/// A client's request below `__ds`, as the router sees it.
#[derive(Debug)]
pub(crate) struct ControlTarget {
    /// The object to send it to.
    pub(crate) object: String,
    pub(crate) token: RequiredToken,
}

/// The token that a request below `__ds` must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequiredToken {
    None,
    /// The server's, if it has one.
    OfServer,
    /// That of a wake, which the subscription checks.
    OfWake,
}

/// Returns where a client's request goes. `rest` is the path behind the prefix of streams, as sent.
pub(crate) fn target(method: &str, rest: &str, limits: &Limits) -> Result<ControlTarget, Refusal> {
    match control_path(rest, limits)? {
        ControlPath::PublicKeys if matches!(method, "GET" | "HEAD") => Ok(ControlTarget {
            object: KEYS.to_owned(),
            token: RequiredToken::None,
        }),
        ControlPath::PublicKeys => Err(Refusal::MethodNotAllowed {
            allow: "GET, HEAD, OPTIONS",
        }),
        ControlPath::Subscription { id, resource } => {
            let action = resource.action(method)?;
            Ok(ControlTarget {
                object: subscription_object(&id),
                token: action.token(),
            })
        }
        ControlPath::Keys | ControlPath::Directory => Err(NOT_FOUND),
    }
}

/// Parses a request to an object below `__ds`. Returns whether its body must be read.
pub(crate) fn parse(
    head: RequestHead<'_>,
    rest: &str,
    limits: &Limits,
) -> Result<(ControlCall, bool), Refusal> {
    let path = control_path(rest, limits)?;
    if head.method == INTERNAL_METHOD {
        let call = (head.header)(internal_headers::CONTROL_CALL).unwrap_or_default();
        let malformed = |_| Refusal::MalformedHeader {
            header: internal_headers::CONTROL_CALL,
            rule: "is not a call of this version",
        };
        let call = match path {
            ControlPath::Keys => ControlCall::SigningKey,
            ControlPath::Directory => {
                ControlCall::Directory(serde_json::from_str(&call).map_err(malformed)?)
            }
            ControlPath::Subscription { .. }
                if let Some(inquiry) = (head.header)(internal_headers::ADMIN_CALL) =>
            {
                ControlCall::Inquiry(SubscriptionInquiry::from_header(&inquiry)?)
            }
            ControlPath::Subscription { .. } => {
                ControlCall::Notify(serde_json::from_str(&call).map_err(malformed)?)
            }
            ControlPath::PublicKeys => return Err(NOT_FOUND),
        };
        return Ok((call, false));
    }
    match path {
        ControlPath::PublicKeys => Ok((ControlCall::PublicKeys, false)),
        ControlPath::Keys | ControlPath::Directory => Err(NOT_FOUND),
        ControlPath::Subscription { id, resource } => {
            let action = resource.action(head.method)?;
            let has_body = action.has_body();
            let decoded = percent_decode_str(&id).decode_utf8_lossy().into_owned();
            let is_public = (head.header)(internal_headers::PUBLIC_ORIGIN).is_some();
            let base = is_public || is_loopback(head.origin);
            let call = SubscriptionCall {
                name: id,
                id: decoded,
                base: base.then(|| head.origin.to_owned()),
                token: bearer(head),
                action,
                body: Bytes::new(),
            };
            Ok((ControlCall::Subscription(call), has_body))
        }
    }
}

pub(crate) fn bearer(head: RequestHead<'_>) -> Option<String> {
    let given = (head.header)(header::AUTHORIZATION)?;
    let (scheme, token) = given.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}

/// Returns whether the host of an origin is this machine.
pub(crate) fn is_loopback(origin: &str) -> bool {
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(rest) => return rest.split(']').next() == Some("::1"),
        None => host.split(':').next().unwrap_or(host),
    };
    let address: Option<core::net::Ipv4Addr> = host.parse().ok();
    host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}
