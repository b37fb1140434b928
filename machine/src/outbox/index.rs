//! Changes of the admin index, as statements of SQL.

use serde::{Deserialize, Serialize};

use crate::{Millis, Offset};

/// A statement for the index. The statements of one effect are executed in order and in one
/// transaction.
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
    pub(crate) const fn version(&self) -> u64 {
        match self {
            Self::Created { version, .. }
            | Self::Stored { version, .. }
            | Self::Ended { version, .. }
            | Self::Purged { version, .. } => *version,
        }
    }

    /// Returns the statements that carry out the change, in order.
    pub(crate) fn statements(&self) -> Vec<Statement> {
        match self.clone() {
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
        }
    }
}
