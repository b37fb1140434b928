//! Changes of the admin index, as statements of SQL.

use serde::{Deserialize, Serialize};

use crate::{Millis, Offset};

/// A statement for the index. The statements of one effect are executed in order and in one
/// transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The statement, with a `?` for each value.
    pub sql: &'static str,
    /// The values, in order.
    pub values: Vec<Value>,
}

/// A value bound to a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `NULL`.
    Null,
    /// An `INTEGER`, at most 2^53 - 1.
    Integer(u64),
    /// A `TEXT`.
    Text(String),
}

impl From<u64> for Value {
    fn from(integer: u64) -> Self {
        Self::Integer(integer)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A change of the admin index (`migrations/`). It is stored as JSON until
/// the index has it. A change that arrives late or twice has no effect, because a stream's row
/// keeps the highest version and a segment's row needs the row of its incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change", try_from = "StoredChange")]
pub enum Change {
    /// A stream was created.
    Created {
        /// The canonical name of the stream.
        path: String,
        /// The version of its row: 1 more than that of the former stream of this name.
        version: u64,
        /// The incarnation in hexadecimal.
        incarnation: String,
        /// The content type as the client wrote it.
        content_type: String,
        /// When it was created.
        created_at: Millis,
        /// The source of a fork. Empty if the stream is no fork.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        forked_from: String,
        /// Whether it was closed from the beginning.
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        closed: bool,
        /// Its fixed end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Millis>,
        /// The time without use after which it ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_seconds: Option<u64>,
    },
    /// A stream was closed.
    Closed {
        /// The canonical name of the stream.
        path: String,
        /// The version of its row.
        version: u64,
        /// The incarnation in hexadecimal.
        incarnation: String,
    },
    /// A segment was stored in the cold tier.
    Stored {
        /// The canonical name of the stream.
        path: String,
        /// The version of the stream's row.
        version: u64,
        /// The incarnation in hexadecimal.
        incarnation: String,
        /// The number of the segment.
        segment: u64,
        /// Units (messages or bytes) in the segment.
        units: u64,
        /// The key of the object.
        key: String,
        /// Framed bytes in the segment.
        bytes: u64,
        /// Messages in the segment, or appends if the content is bytes.
        messages: u64,
        /// When it was stored.
        stored_at: Millis,
    },
    /// Leaves a tombstone, which keeps older changes out until [`Self::Purged`].
    Ended {
        /// The canonical name of the stream.
        path: String,
        /// The version of the end.
        version: u64,
        /// When the stream was deleted or expired.
        ended_at: Millis,
    },
    /// Removes the tombstone.
    Purged {
        /// The canonical name of the stream.
        path: String,
        /// The version of the end.
        version: u64,
    },
}

/// A change as it is stored, with the fields of all kinds. A deserializer of an enum with a tag
/// would be several times as large.
#[derive(Deserialize)]
struct StoredChange {
    change: StoredKind,
    path: String,
    version: u64,
    incarnation: Option<String>,
    content_type: Option<String>,
    created_at: Option<Millis>,
    #[serde(default)]
    forked_from: String,
    #[serde(default)]
    closed: bool,
    expires_at: Option<Millis>,
    ttl_seconds: Option<u64>,
    segment: Option<u64>,
    units: Option<u64>,
    key: Option<String>,
    bytes: Option<u64>,
    messages: Option<u64>,
    stored_at: Option<Millis>,
    ended_at: Option<Millis>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredKind {
    Created,
    Closed,
    Stored,
    Ended,
    Purged,
}

/// A stored change lacks a field of its kind.
#[derive(Debug, thiserror::Error)]
#[error("a change of the index lacks a field")]
struct ChangeError;

impl TryFrom<StoredChange> for Change {
    type Error = ChangeError;

    fn try_from(stored: StoredChange) -> Result<Self, ChangeError> {
        let StoredChange { path, version, .. } = stored;
        Ok(match stored.change {
            StoredKind::Created => Self::Created {
                path,
                version,
                incarnation: stored.incarnation.ok_or(ChangeError)?,
                content_type: stored.content_type.ok_or(ChangeError)?,
                created_at: stored.created_at.ok_or(ChangeError)?,
                forked_from: stored.forked_from,
                closed: stored.closed,
                expires_at: stored.expires_at,
                ttl_seconds: stored.ttl_seconds,
            },
            StoredKind::Closed => Self::Closed {
                path,
                version,
                incarnation: stored.incarnation.ok_or(ChangeError)?,
            },
            StoredKind::Stored => Self::Stored {
                path,
                version,
                incarnation: stored.incarnation.ok_or(ChangeError)?,
                segment: stored.segment.ok_or(ChangeError)?,
                units: stored.units.ok_or(ChangeError)?,
                key: stored.key.ok_or(ChangeError)?,
                bytes: stored.bytes.ok_or(ChangeError)?,
                messages: stored.messages.ok_or(ChangeError)?,
                stored_at: stored.stored_at.ok_or(ChangeError)?,
            },
            StoredKind::Ended => Self::Ended {
                path,
                version,
                ended_at: stored.ended_at.ok_or(ChangeError)?,
            },
            StoredKind::Purged => Self::Purged { path, version },
        })
    }
}

const INSERT_STREAM: &str = "INSERT INTO streams (path, incarnation, content_type, created_at, deleted_at, version, forked_from, \
     closed, expires_at, ttl_seconds) \
     VALUES (?, ?, ?, ?, NULL, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET incarnation = excluded.incarnation, \
     content_type = excluded.content_type, created_at = excluded.created_at, deleted_at = NULL, version = excluded.version, \
     forked_from = excluded.forked_from, closed = excluded.closed, expires_at = excluded.expires_at, \
     ttl_seconds = excluded.ttl_seconds \
     WHERE excluded.version > streams.version";

const CLOSE_STREAM: &str =
    "UPDATE streams SET closed = 1 WHERE path = ? AND incarnation = ? AND deleted_at IS NULL";

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
    pub(crate) const fn version(&self) -> u64 {
        match self {
            Self::Created { version, .. }
            | Self::Closed { version, .. }
            | Self::Stored { version, .. }
            | Self::Ended { version, .. }
            | Self::Purged { version, .. } => *version,
        }
    }

    /// Returns the statements that carry out the change, in order.
    pub(crate) fn statements(&self) -> Vec<Statement> {
        let statements = match self.clone() {
            Self::Created {
                path,
                version,
                incarnation,
                content_type,
                created_at,
                forked_from,
                closed,
                expires_at,
                ttl_seconds,
            } => vec![Statement {
                sql: INSERT_STREAM,
                values: vec![
                    path.into(),
                    incarnation.into(),
                    content_type.into(),
                    created_at.0.into(),
                    version.into(),
                    forked_from.into(),
                    u64::from(closed).into(),
                    expires_at.map(|at| at.0).into(),
                    ttl_seconds.into(),
                ],
            }],
            Self::Closed {
                path, incarnation, ..
            } => vec![Statement {
                sql: CLOSE_STREAM,
                values: vec![path.into(), incarnation.into()],
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
        };
        for Statement { sql, values } in &statements {
            let places = sql.bytes().filter(|byte| *byte == b'?').count();
            assert_eq!(places, values.len(), "each place has a value: {sql}");
        }
        statements
    }
}
