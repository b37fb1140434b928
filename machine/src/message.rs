//! Messages that a stream sends to other objects: registry streams and the admin index.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::router::{STREAM_PREFIX, name};
use crate::rows::Incarnation;
use crate::storage::StorageError;
use crate::wire::header;
use crate::{Millis, Offset};

/// One message to one receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A request to the object of a registry stream, as any client would send it.
    Registry(Request),
    /// Statements for the index, to be executed in order and in one transaction.
    Index(Vec<Statement>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The name of the stream that it is sent to.
    pub stream: String,
    pub method: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// Where requests to other objects come from, as their URLs say it.
    pub const ORIGIN: &str = "http://object";

    /// The request's target.
    #[must_use]
    pub fn target(&self) -> String {
        format!("{STREAM_PREFIX}{}", self.stream)
    }

    /// The request's URL, for shells that send requests by URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}{}", Self::ORIGIN, self.target())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub sql: &'static str,
    pub values: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Integer(u64),
    Text(String),
}

impl From<u64> for Value {
    fn from(integer: u64) -> Self {
        Self::Integer(integer)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

const APPLICATION_JSON: &str = "application/json";

/// An event for a registry stream. It is stored as JSON until the registry has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Each event has a producer of its own, so that it is appended exactly once (protocol 5.2.1)
    /// even if the registry has already forgotten the producer of the incarnation's other event.
    producer: String,
    seq: u64,
    /// The shard of the registry that receives the event.
    #[serde(default, skip_serializing_if = "is_first")]
    shard: u64,
    event: StateEvent,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference; the lint depends on the size of a pointer"
)]
const fn is_first(shard: &u64) -> bool {
    *shard == 0
}

/// A message of the registry stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StateEvent {
    r#type: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<StreamValue>,
    headers: EventHeaders,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StreamValue {
    path: String,
    content_type: String,
    created_at: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EventHeaders {
    operation: String,
}

impl Event {
    pub(crate) fn created(
        shard: u64,
        incarnation: Incarnation,
        path: &str,
        content_type: &str,
        created_at: Millis,
    ) -> Self {
        let value = StreamValue {
            path: path.to_owned(),
            content_type: content_type.to_owned(),
            created_at,
        };
        Self::new(shard, incarnation.to_string(), path, Some(value), "insert")
    }

    pub(crate) fn ended(shard: u64, incarnation: Incarnation, path: &str) -> Self {
        Self::new(shard, format!("{incarnation}-end"), path, None, "delete")
    }

    fn new(
        shard: u64,
        producer: String,
        path: &str,
        value: Option<StreamValue>,
        operation: &str,
    ) -> Self {
        Self {
            producer,
            seq: 0,
            shard,
            event: StateEvent {
                r#type: "stream".to_owned(),
                key: path.to_owned(),
                value,
                headers: EventHeaders {
                    operation: operation.to_owned(),
                },
            },
        }
    }

    /// Returns the request that creates the registry stream of this event.
    pub(crate) fn create_registry(&self) -> Message {
        Message::Registry(Request {
            stream: name::of_registry_shard(self.shard),
            method: "PUT",
            headers: vec![(header::CONTENT_TYPE, APPLICATION_JSON.to_owned())],
            body: Vec::new(),
        })
    }

    pub(crate) fn message(&self) -> Message {
        Message::Registry(Request {
            stream: name::of_registry_shard(self.shard),
            method: "POST",
            headers: vec![
                (header::CONTENT_TYPE, APPLICATION_JSON.to_owned()),
                (header::PRODUCER_ID, self.producer.clone()),
                (header::PRODUCER_EPOCH, "0".to_owned()),
                (header::PRODUCER_SEQ, self.seq.to_string()),
            ],
            body: to_json(&self.event).into_bytes(),
        })
    }

    /// Returns the form in which the event is stored until the registry has it.
    pub(crate) fn to_stored(&self) -> String {
        to_json(self)
    }

    /// Reads what [`Self::to_stored`] has written.
    pub(crate) fn from_stored(text: &str) -> Result<Self, StorageError> {
        from_json(text)
    }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers always become JSON")
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, StorageError> {
    serde_json::from_str(text)
        .map_err(|error| StorageError(format!("a task of the outbox cannot be read: {error}")))
}

/// A change of the admin index (`migrations/0001_segments_admin.sql`). It is stored as JSON until
/// the index has it. A change that arrives late or twice has no effect, because a stream's row
/// keeps the highest version and a segment's row needs the row of its incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Change {
    Created {
        path: String,
        version: u64,
        incarnation: String,
        content_type: String,
        created_at: Millis,
    },
    Stored {
        path: String,
        version: u64,
        incarnation: String,
        segment: u64,
        units: u64,
        key: String,
        bytes: u64,
        messages: u64,
        stored_at: Millis,
    },
    /// Leaves a tombstone, which keeps older changes out until [`Self::Purged`].
    Ended {
        path: String,
        version: u64,
        ended_at: Millis,
    },
    Purged {
        path: String,
        version: u64,
    },
}

const INSERT_STREAM: &str = "INSERT INTO streams (path, incarnation, content_type, created_at, deleted_at, version) \
     VALUES (?, ?, ?, ?, NULL, ?) ON CONFLICT (path) DO UPDATE SET incarnation = excluded.incarnation, \
     content_type = excluded.content_type, created_at = excluded.created_at, deleted_at = NULL, version = excluded.version \
     WHERE excluded.version > streams.version";

const INSERT_SEGMENT: &str = "INSERT INTO segments (path, incarnation, segment, start_offset, end_offset, r2_key, bytes, messages, \
     created_at, version) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ? \
     WHERE EXISTS (SELECT 1 FROM streams WHERE path = ? AND incarnation = ? AND deleted_at IS NULL) \
     ON CONFLICT (path, incarnation, segment) DO NOTHING";

const END_STREAM: &str = "INSERT INTO streams (path, incarnation, content_type, created_at, deleted_at, version) \
     VALUES (?, '', '', 0, ?, ?) ON CONFLICT (path) DO UPDATE SET deleted_at = excluded.deleted_at, version = excluded.version \
     WHERE excluded.version > streams.version";

const END_SEGMENTS: &str = "DELETE FROM segments WHERE path = ? AND version < ?";

const PURGE_STREAM: &str =
    "DELETE FROM streams WHERE path = ? AND deleted_at IS NOT NULL AND version <= ?";

impl Change {
    /// Returns the form in which the change is stored until the index has it.
    pub(crate) fn to_stored(&self) -> String {
        to_json(self)
    }

    /// Reads what [`Self::to_stored`] has written.
    pub(crate) fn from_stored(text: &str) -> Result<Self, StorageError> {
        from_json(text)
    }

    pub(crate) const fn version(&self) -> u64 {
        match self {
            Self::Created { version, .. }
            | Self::Stored { version, .. }
            | Self::Ended { version, .. }
            | Self::Purged { version, .. } => *version,
        }
    }

    pub(crate) fn message(&self) -> Message {
        Message::Index(match self.clone() {
            Self::Created {
                path,
                version,
                incarnation,
                content_type,
                created_at,
            } => vec![Statement {
                sql: INSERT_STREAM,
                values: vec![
                    path.into(),
                    incarnation.into(),
                    content_type.into(),
                    created_at.0.into(),
                    version.into(),
                ],
            }],
            Self::Stored {
                path,
                version,
                incarnation,
                segment,
                units,
                key,
                bytes,
                messages,
                stored_at,
            } => vec![Statement {
                sql: INSERT_SEGMENT,
                values: vec![
                    path.clone().into(),
                    incarnation.clone().into(),
                    segment.into(),
                    Offset::new(segment, 0).to_string().into(),
                    Offset::new(segment, units).to_string().into(),
                    key.into(),
                    bytes.into(),
                    messages.into(),
                    stored_at.0.into(),
                    version.into(),
                    path.into(),
                    incarnation.into(),
                ],
            }],
            Self::Ended {
                path,
                version,
                ended_at,
            } => vec![
                Statement {
                    sql: END_STREAM,
                    values: vec![path.clone().into(), ended_at.0.into(), version.into()],
                },
                Statement {
                    sql: END_SEGMENTS,
                    values: vec![path.into(), version.into()],
                },
            ],
            Self::Purged { path, version } => vec![Statement {
                sql: PURGE_STREAM,
                values: vec![path.into(), version.into()],
            }],
        })
    }
}
