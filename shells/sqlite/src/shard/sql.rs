//! The SQL text of a shard. Every row names its stream, by the number in [`CREATE`]'s first table.
//!
//! Hot rows and producers are stored in the order of their streams, so that the rows of a stream
//! lie together, and their pages are free when the stream is deleted. For this their tables have no
//! row ids. In such a table SQLite reads whole rows to compare their keys. So the content of a
//! large hot row is in a table of its own, and segments, tasks and control rows are in ordinary
//! tables.

/// The number of this layout. Every change that earlier code could not read raises it. A file with
/// an earlier number is upgraded when it is opened, and one with a later number is refused as it
/// is. The rows have numbers of their own, because they change more often.
pub(super) const FORMAT: u64 = 3;
/// The number of the first layout.
pub(super) const FIRST_FORMAT: u64 = 1;
/// Since this number there are forks.
const FORKS_FORMAT: u64 = 2;
/// Since this number there is the control table.
const CONTROL_FORMAT: u64 = 3;

/// The tables that there are since [`FORKS_FORMAT`].
macro_rules! tables_of_forks {
    () => {
        "
CREATE TABLE manifest (stream INTEGER NOT NULL, first INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY
  KEY (stream, first));
CREATE TABLE pins (stream INTEGER NOT NULL, fork TEXT NOT NULL, name TEXT NOT NULL, released_at
  INTEGER, PRIMARY KEY (stream, fork));
"
    };
}

/// The table that there is since [`CONTROL_FORMAT`].
macro_rules! table_of_control {
    () => {
        "
CREATE TABLE control (stream INTEGER NOT NULL, key TEXT NOT NULL, schema INTEGER NOT NULL, body TEXT
  NOT NULL, PRIMARY KEY (stream, key));
"
    };
}

pub(super) const CREATE: &str = concat!(
    "
CREATE TABLE shard (format INTEGER NOT NULL, directory TEXT NOT NULL, number INTEGER NOT NULL,
  count INTEGER NOT NULL);
CREATE TABLE streams (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, tables
  INTEGER NOT NULL, alarm_at INTEGER);
CREATE INDEX alarms ON streams (alarm_at) WHERE alarm_at IS NOT NULL;
CREATE TABLE heads (stream INTEGER PRIMARY KEY, incarnation TEXT NOT NULL, content_type TEXT NOT
  NULL, created_at INTEGER NOT NULL, ttl_seconds INTEGER, expires_at INTEGER, expires_at_text
  TEXT, name TEXT NOT NULL, version INTEGER NOT NULL, registered INTEGER NOT NULL, segment INTEGER
  NOT NULL, writable INTEGER NOT NULL, stream_seq TEXT, touched_at INTEGER NOT NULL, alarm_at
  INTEGER, closed INTEGER NOT NULL, closed_producer TEXT, closed_epoch INTEGER, closed_seq
  INTEGER, schema INTEGER NOT NULL, lineage TEXT);
CREATE TABLE hot (stream INTEGER NOT NULL, segment INTEGER NOT NULL, key INTEGER NOT NULL, units
  INTEGER NOT NULL, bytes_before INTEGER NOT NULL, bytes INTEGER NOT NULL, at INTEGER NOT NULL,
  checksum INTEGER NOT NULL, ends BLOB, large INTEGER, frames BLOB, PRIMARY KEY (stream, segment,
  key)) WITHOUT ROWID;
CREATE TABLE large (id INTEGER PRIMARY KEY, frames BLOB NOT NULL);
CREATE TABLE segments (stream INTEGER NOT NULL, number INTEGER NOT NULL, units INTEGER NOT NULL,
  bytes INTEGER NOT NULL, messages INTEGER NOT NULL, attempts INTEGER NOT NULL, attempted_at
  INTEGER NOT NULL, stored INTEGER, segment_index BLOB, append_ends BLOB, PRIMARY KEY (stream,
  number));
CREATE TABLE producers (stream INTEGER NOT NULL, id TEXT NOT NULL, epoch INTEGER NOT NULL, seq
  INTEGER NOT NULL, used_at INTEGER NOT NULL, PRIMARY KEY (stream, id)) WITHOUT ROWID;
CREATE INDEX idle_producers ON producers (stream, used_at);
CREATE TABLE outbox (stream INTEGER NOT NULL, queue TEXT NOT NULL, id INTEGER NOT NULL, schema
  INTEGER NOT NULL, due_at INTEGER NOT NULL, failures INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (stream, queue, id));
",
    tables_of_forks!(),
    table_of_control!()
);

/// What brings the layout before each number to that number, in order.
pub(super) const UPGRADES: [(u64, &str); 2] = [
    (
        FORKS_FORMAT,
        concat!(
            "
ALTER TABLE heads ADD COLUMN lineage TEXT;
ALTER TABLE segments ADD COLUMN append_ends BLOB;
",
            tables_of_forks!()
        ),
    ),
    (CONTROL_FORMAT, table_of_control!()),
];

pub(super) const SET_FORMAT: &str = "UPDATE shard SET format = ?";

pub(super) const IDENTITY: &str = "SELECT format, directory, number, count FROM shard";
pub(super) const INSERT_IDENTITY: &str = "INSERT INTO shard VALUES (?, ?, ?, ?)";

/// Bits of the column `tables`: what a database of its own would have tables for.
pub(super) const HAS_STREAM: u64 = 1;
pub(super) const HAS_OUTBOX: u64 = 2;
pub(super) const HAS_CONTROL: u64 = 4;

pub(super) const STREAM: &str = "SELECT id, tables FROM streams WHERE name = ?";
pub(super) const NAMES: &str =
    "SELECT id, name FROM streams WHERE name >= ? AND name < ? ORDER BY name LIMIT ?";
pub(super) const INSERT_STREAM: &str = "INSERT INTO streams (name, tables) VALUES (?, ?)";
pub(super) const UPDATE_TABLES: &str = "UPDATE streams SET tables = ? WHERE id = ?";
pub(super) const DELETE_STREAM: &str = "DELETE FROM streams WHERE id = ?";
pub(super) const UPDATE_ALARM: &str = "UPDATE streams SET alarm_at = ? WHERE name = ?";
pub(super) const DUE: &str =
    "SELECT name FROM streams WHERE alarm_at <= ? ORDER BY alarm_at LIMIT ?";
pub(super) const NEXT_ALARM: &str = "SELECT min(alarm_at) FROM streams WHERE alarm_at > ?";

// Of the statements below, those that write bind what the machine's own statements bind, and then
// the stream.

pub(super) const HEAD: &str = "SELECT incarnation, content_type, created_at, ttl_seconds, expires_at, expires_at_text, name, version, \
     registered, segment, writable, stream_seq, touched_at, alarm_at, closed, closed_producer, closed_epoch, closed_seq, \
     lineage FROM heads WHERE stream = ?";
pub(super) const INSERT_HEAD: &str = "INSERT INTO heads (incarnation, content_type, created_at, ttl_seconds, expires_at, expires_at_text, name, \
     version, registered, segment, writable, stream_seq, touched_at, alarm_at, closed, closed_producer, closed_epoch, closed_seq, \
     lineage, schema, stream) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
pub(super) const UPDATE_HEAD: &str = "UPDATE heads SET registered = ?, segment = ?, writable = ?, stream_seq = ?, touched_at = ?, alarm_at = ?, \
     closed = ?, closed_producer = ?, closed_epoch = ?, closed_seq = ?, lineage = ? WHERE stream = ?";

/// The columns of a hot row without its frames, as [`machine::sql::row_mark`] reads them; then what
/// the checksum needs.
macro_rules! mark {
    () => {
        "SELECT key, units, bytes_before, bytes, at, ends, checksum FROM hot \
         WHERE stream = ? AND segment = ?"
    };
}

pub(super) const NEWEST_HOT: &str = "SELECT max(segment) FROM hot WHERE stream = ?";
pub(super) const SCHEMA_OF_STREAM: &str = "SELECT schema FROM heads WHERE stream = ?";
/// All rows of a stream's outbox have the same number.
pub(super) const SCHEMA_OF_OUTBOX: &str = "SELECT schema FROM outbox WHERE stream = ? LIMIT 1";
/// All rows of a stream's control table have the same number.
pub(super) const SCHEMA_OF_CONTROL: &str = "SELECT schema FROM control WHERE stream = ? LIMIT 1";
pub(super) const UPGRADE_STREAM: &str = "UPDATE heads SET schema = ? WHERE stream = ?";
pub(super) const UPGRADE_OUTBOX: &str = "UPDATE outbox SET schema = ? WHERE stream = ?";
pub(super) const UPGRADE_CONTROL: &str = "UPDATE control SET schema = ? WHERE stream = ?";
pub(super) const AT_OR_BEFORE: &str = concat!(mark!(), " AND key <= ? ORDER BY key DESC LIMIT 1");
// Twelve bits of the key tell the parts of one message apart.
pub(super) const FIRST_AT_OR_AFTER_BYTES: &str = concat!(
    mark!(),
    " AND key > ? AND bytes_before >= ? AND key & 4095 = 0 ORDER BY key LIMIT 1"
);
/// All rows that may name writers, with what the checksum needs.
pub(super) const WRITERS: &str = concat!(mark!(), " AND ends IS NOT NULL ORDER BY key");
/// The rows before a key that came at a time or later.
pub(super) const RECENT: &str = concat!(mark!(), " AND key < ? AND at >= ?");
pub(super) const FRAMES: &str = "SELECT key, units, bytes_before, bytes, at, ends, checksum, hot.frames, large.frames \
     FROM hot LEFT JOIN large ON large.id = hot.large WHERE stream = ? AND segment = ? AND key BETWEEN ? AND ? ORDER BY key";
pub(super) const INSERT_HOT: &str = "INSERT INTO hot (stream, segment, key, units, bytes_before, bytes, at, checksum, ends, large, frames) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
pub(super) const INSERT_LARGE: &str = "INSERT INTO large (frames) VALUES (?)";
pub(super) const DELETE_LARGE: &str = "DELETE FROM large WHERE id IN \
     (SELECT large FROM hot WHERE stream = ? AND segment = ? AND large IS NOT NULL)";
pub(super) const DELETE_HOT: &str = "DELETE FROM hot WHERE stream = ? AND segment = ?";

/// A hot row holds its content itself if content and appends have at most this many bytes. Such a
/// row fits into a page of 4 KiB, as SQLite divides pages for tables without row ids.
pub(super) const SMALL_BYTES_MAX: usize = 800;

pub(super) const SEGMENT: &str = "SELECT number, units, bytes, messages, attempts, attempted_at, stored, segment_index FROM segments \
     WHERE stream = ? AND number = ?";
pub(super) const RETRIED_SEGMENTS: &str =
    "SELECT number, attempts FROM segments WHERE stream = ? AND attempts > 1 ORDER BY number";
pub(super) const SEALED_SEGMENTS: &str = "SELECT number, units, bytes, messages, attempts, attempted_at, stored, x'' FROM segments \
     WHERE stream = ? AND number >= ? ORDER BY number LIMIT ?";
pub(super) const SEALED_SUMS: &str =
    "SELECT sum(messages), sum(bytes) FROM segments WHERE stream = ?";
pub(super) const INSERT_SEGMENT: &str = "INSERT INTO segments (number, units, bytes, messages, attempts, attempted_at, stored, segment_index, append_ends, stream) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
pub(super) const UPDATE_SEGMENT: &str = "UPDATE segments SET attempts = ?, attempted_at = ?, stored = ?, segment_index = ?, append_ends = ? \
     WHERE number = ? AND stream = ?";

pub(super) const APPENDS: &str = concat!(mark!(), " AND key >= ? ORDER BY key LIMIT ?");
pub(super) const APPEND_ENDS: &str =
    "SELECT append_ends FROM segments WHERE stream = ? AND number = ?";

pub(super) const MANIFEST: &str =
    "SELECT first, body FROM manifest WHERE stream = ? AND first <= ? ORDER BY first DESC LIMIT 1";
pub(super) const INSERT_MANIFEST: &str =
    "INSERT INTO manifest (first, body, stream) VALUES (?, ?, ?)";
pub(super) const PIN: &str =
    "SELECT fork, name, released_at FROM pins WHERE stream = ? AND fork = ?";
pub(super) const PINS: &str = "SELECT count(*) FROM pins WHERE stream = ? AND released_at IS NULL";
pub(super) const PUT_PIN: &str =
    "INSERT OR REPLACE INTO pins (fork, name, released_at, stream) VALUES (?, ?, ?, ?)";
pub(super) const FORGET_PINS: &str = "DELETE FROM pins WHERE released_at <= ? AND stream = ?";

pub(super) const PRODUCER: &str = "SELECT epoch, seq FROM producers WHERE stream = ? AND id = ?";
pub(super) const SEALED_PRODUCERS: &str = "SELECT id, epoch, seq, used_at FROM producers \
     WHERE stream = ? AND id > ? ORDER BY id LIMIT ?";
pub(super) const PUT_PRODUCER: &str =
    "INSERT OR REPLACE INTO producers (id, epoch, seq, used_at, stream) VALUES (?, ?, ?, ?, ?)";
pub(super) const FORGET_PRODUCERS: &str = "DELETE FROM producers WHERE stream = ?3 AND id IN \
     (SELECT id FROM producers WHERE stream = ?3 AND used_at <= ?1 ORDER BY used_at, id LIMIT ?2)";

pub(super) const TASKS: &str = "SELECT queue, id, due_at, failures, body FROM outbox \
     WHERE stream = ? AND (queue, id) >= (?, ?) ORDER BY queue, id LIMIT ?";
pub(super) const LAST_TASK: &str = "SELECT queue, id, due_at, failures, body FROM outbox \
     WHERE stream = ? AND queue = ? ORDER BY id DESC LIMIT 1";
pub(super) const INSERT_TASK: &str = "INSERT INTO outbox (due_at, failures, body, queue, id, schema, stream) VALUES (?, ?, ?, ?, ?, ?, ?)";
pub(super) const UPDATE_TASK: &str = "UPDATE outbox SET due_at = ?, failures = ?, body = ? WHERE queue = ? AND id = ? AND stream = ?";
pub(super) const REMOVE_TASK: &str = "DELETE FROM outbox WHERE queue = ? AND id = ? AND stream = ?";

pub(super) const CONTROL: &str =
    "SELECT key, body FROM control WHERE stream = ? AND key >= ? ORDER BY key LIMIT ?";
pub(super) const PUT_CONTROL: &str =
    "INSERT OR REPLACE INTO control (key, body, schema, stream) VALUES (?, ?, ?, ?)";
pub(super) const REMOVE_CONTROL: &str = "DELETE FROM control WHERE key = ? AND stream = ?";

/// What [`machine::Write::DropTables`] removes. The hot rows are gone before.
pub(super) const DELETE_ROWS: [&str; 5] = [
    "DELETE FROM heads WHERE stream = ?",
    "DELETE FROM segments WHERE stream = ?",
    "DELETE FROM producers WHERE stream = ?",
    "DELETE FROM manifest WHERE stream = ?",
    "DELETE FROM pins WHERE stream = ?",
];
pub(super) const DELETE_OUTBOX: &str = "DELETE FROM outbox WHERE stream = ?";
pub(super) const DELETE_CONTROL: &str = "DELETE FROM control WHERE stream = ?";
