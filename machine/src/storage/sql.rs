//! The SQL text of every write and every query of a database that holds one stream. The server for
//! one machine has its own SQL text, for databases of many streams. It binds the same values and
//! reads the same columns.
//!
//! Integers stay below 2^53, because they pass through JavaScript's numbers in the Worker. An
//! incarnation has 64 bits and is stored as text. Columns that belong together and are all NULL
//! mean "none".

use super::activity::MILLIS_PER_MINUTE;
use super::port::StorageError;
use super::rows::{
    Activity, CONTROL_SCHEMA, Expiry, Former, HotTable, OUTBOX_SCHEMA, ProducerStamp, SCHEMA,
    SealedSegment, StreamRow, Write,
};
use crate::Millis;
use crate::outbox::task::Task;

pub use super::append_ends::encoded_ends;
pub use super::decode::{
    EachRow, appends_of, control, former, head, layout, manifest, minute, older_task, pin,
    producer, retried_segment, row_mark, sealed_producer, segment, sums, task, writers_of,
};

/// A value bound to a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `NULL`.
    Null,
    /// An `INTEGER`, at most 2^53 - 1.
    Integer(u64),
    /// A `TEXT`.
    Text(&'a str),
    /// A `BLOB`.
    Blob(&'a [u8]),
}

/// One row of an answer, column by column.
pub trait Columns {
    /// Returns the integer of a column; `None` for NULL.
    ///
    /// # Errors
    /// When there is no such column, or it is not an integer.
    fn integer(&self, column: usize) -> Result<Option<u64>, StorageError>;

    /// Returns the text of a column; `None` for NULL.
    ///
    /// # Errors
    /// When there is no such column, or it is not a text.
    fn text(&self, column: usize) -> Result<Option<String>, StorageError>;

    /// Returns the bytes of a column; `None` for NULL.
    ///
    /// # Errors
    /// When there is no such column, or it is not a blob.
    fn blob(&self, column: usize) -> Result<Option<Vec<u8>>, StorageError>;
}

/// Selects one row for each of the tables that tell layouts apart, with whether the table has
/// schema numbers. The last rows are the greatest and the least number of a hot table, or NULL.
pub(super) const TABLES: &str = "SELECT name, instr(sql, 'schema INTEGER') FROM sqlite_master WHERE type = 'table' \
     AND name IN ('stream', 'outbox', 'control', 'chores', 'hot_a', 'hot_b', 'producers', \
     'segments') \
     UNION ALL SELECT 'newest hot', max(CAST(substr(name, 5) AS INTEGER)) FROM sqlite_master \
     WHERE type = 'table' AND name GLOB 'hot_[0-9]*' \
     UNION ALL SELECT 'oldest hot', min(CAST(substr(name, 5) AS INTEGER)) FROM sqlite_master \
     WHERE type = 'table' AND name GLOB 'hot_[0-9]*'";

pub(super) const SCHEMA_OF_STREAM: &str = "SELECT schema FROM stream WHERE id = 1";

const UPDATE_SCHEMA: &str = "UPDATE stream SET schema = ? WHERE id = 1";

/// All rows of the outbox have the same number.
pub(super) const SCHEMA_OF_OUTBOX: &str = "SELECT schema FROM outbox LIMIT 1";

/// All rows of the control table have the same number.
pub(super) const SCHEMA_OF_CONTROL: &str = "SELECT schema FROM control LIMIT 1";

/// The schema number of rows that were written without one. An upgrade writes it. It never changes.
const FIRST_SCHEMA: u64 = 1;

/// Since this number a hot row can hold several appends.
const FOLDED_SCHEMA: u64 = 2;

/// Since this number there are forks.
const FORKS_SCHEMA: u64 = 3;

/// The head row; see [`head`]. The column `lineage` has lines: the lineage, the activity, and
/// whether the directory has the stream.
pub const HEAD: &str = "SELECT incarnation, content_type, created_at, ttl_seconds, expires_at, expires_at_text, name, version, registered, \
     segment, writable, stream_seq, touched_at, alarm_at, closed, closed_producer, closed_epoch, closed_seq, lineage \
     FROM stream WHERE id = 1";

const CREATE_STREAM: &str = "CREATE TABLE stream (id INTEGER PRIMARY KEY, schema INTEGER NOT NULL, incarnation TEXT NOT NULL, content_type TEXT NOT NULL, \
     created_at INTEGER NOT NULL, ttl_seconds INTEGER, expires_at INTEGER, expires_at_text TEXT, name TEXT NOT NULL, \
     version INTEGER NOT NULL, registered INTEGER NOT NULL, segment INTEGER NOT NULL, writable INTEGER NOT NULL, stream_seq TEXT, \
     touched_at INTEGER NOT NULL, alarm_at INTEGER, closed INTEGER NOT NULL, closed_producer TEXT, closed_epoch INTEGER, \
     closed_seq INTEGER, lineage TEXT)";

const INSERT_STREAM: &str = "INSERT INTO stream (id, incarnation, content_type, created_at, ttl_seconds, expires_at, expires_at_text, name, \
     version, registered, segment, writable, stream_seq, touched_at, alarm_at, closed, closed_producer, closed_epoch, closed_seq, \
     lineage, schema) \
     VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const UPDATE_STREAM: &str = "UPDATE stream SET registered = ?, segment = ?, writable = ?, stream_seq = ?, touched_at = ?, alarm_at = ?, closed = ?, \
     closed_producer = ?, closed_epoch = ?, closed_seq = ?, lineage = ? WHERE id = 1";

/// A sealed segment by its number; see [`segment`].
pub const SEGMENT: &str = "SELECT number, units, bytes, messages, attempts, attempted_at, stored, segment_index FROM segments WHERE number = ?";

const CREATE_SEGMENTS: &str = "CREATE TABLE segments (number INTEGER PRIMARY KEY, units INTEGER NOT NULL, bytes INTEGER NOT NULL, \
     messages INTEGER NOT NULL, attempts INTEGER NOT NULL, attempted_at INTEGER NOT NULL, stored INTEGER, segment_index BLOB, \
     append_ends BLOB)";

const INSERT_SEGMENT: &str = "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

const UPDATE_SEGMENT: &str = "UPDATE segments SET attempts = ?, attempted_at = ?, stored = ?, segment_index = ?, append_ends = ? \
     WHERE number = ?";

/// Where the appends of a segment end, by its number: one blob, or NULL.
pub const APPEND_ENDS: &str = "SELECT append_ends FROM segments WHERE number = ?";

const DROP_SEGMENTS: &str = "DROP TABLE IF EXISTS segments";

/// A producer's last accepted state in the sealed segments, by its id; see [`producer`].
pub const PRODUCER: &str = "SELECT epoch, seq FROM producers WHERE id = ?";

const CREATE_PRODUCERS: &str = "CREATE TABLE producers (id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, \
     used_at INTEGER NOT NULL) WITHOUT ROWID";

/// The index that finds idle producers without reading the others.
const CREATE_IDLE_PRODUCERS: &str = "CREATE INDEX idle_producers ON producers (used_at)";

const PUT_PRODUCER: &str = "INSERT OR REPLACE INTO producers VALUES (?, ?, ?, ?)";

const FORGET_PRODUCERS: &str = "DELETE FROM producers WHERE id IN \
     (SELECT id FROM producers WHERE used_at <= ? ORDER BY used_at, id LIMIT ?)";

const DROP_PRODUCERS: &str = "DROP TABLE IF EXISTS producers";

/// Number and attempts of the sealed segments that took more than one; see [`retried_segment`].
pub const RETRIED_SEGMENTS: &str =
    "SELECT number, attempts FROM segments WHERE attempts > 1 ORDER BY number";

/// Sealed segments from a number on, with a limit, without their indexes; see [`segment`].
pub const SEALED_SEGMENTS: &str = "SELECT number, units, bytes, messages, attempts, attempted_at, stored, x'' FROM segments \
     WHERE number >= ? ORDER BY number LIMIT ?";

/// Producers of the sealed segments behind an id, with a limit; see [`sealed_producer`].
pub const SEALED_PRODUCERS: &str =
    "SELECT id, epoch, seq, used_at FROM producers WHERE id > ? ORDER BY id LIMIT ?";

/// The sums of all sealed segments; see [`sums`].
pub const SEALED_SUMS: &str = "SELECT sum(messages), sum(bytes) FROM segments";

const CREATE_MANIFEST: &str =
    "CREATE TABLE manifest (first INTEGER PRIMARY KEY, body BLOB NOT NULL)";

const INSERT_MANIFEST: &str = "INSERT INTO manifest VALUES (?, ?)";

const DROP_MANIFEST: &str = "DROP TABLE IF EXISTS manifest";

/// The run of inherited segments that a segment belongs to; see [`manifest`].
pub const MANIFEST: &str =
    "SELECT first, body FROM manifest WHERE first <= ? ORDER BY first DESC LIMIT 1";

const CREATE_PINS: &str = "CREATE TABLE pins (fork TEXT PRIMARY KEY, name TEXT NOT NULL, released_at INTEGER) WITHOUT ROWID";

const PUT_PIN: &str = "INSERT OR REPLACE INTO pins VALUES (?, ?, ?)";

const FORGET_PINS: &str = "DELETE FROM pins WHERE released_at <= ?";

const DROP_PINS: &str = "DROP TABLE IF EXISTS pins";

/// A pin by the incarnation of its fork; see [`pin`].
pub const PIN: &str = "SELECT fork, name, released_at FROM pins WHERE fork = ?";

/// The number of pins that are not released.
pub const PINS: &str = "SELECT count(*) FROM pins WHERE released_at IS NULL";

/// The tasks from a queue and an id on, with a limit; see [`task`].
pub const TASKS: &str = "SELECT queue, id, due_at, failures, body FROM outbox WHERE (queue, id) >= (?, ?) \
     ORDER BY queue, id LIMIT ?";

/// The last task of a queue; see [`task`].
pub const LAST_TASK: &str =
    "SELECT queue, id, due_at, failures, body FROM outbox WHERE queue = ? ORDER BY id DESC LIMIT 1";

const CREATE_OUTBOX: &str = "CREATE TABLE outbox (queue TEXT NOT NULL, id INTEGER NOT NULL, schema INTEGER NOT NULL, \
     due_at INTEGER NOT NULL, failures INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID";

const INSERT_TASK: &str =
    "INSERT INTO outbox (due_at, failures, body, queue, id, schema) VALUES (?, ?, ?, ?, ?, ?)";

const UPDATE_TASK: &str =
    "UPDATE outbox SET due_at = ?, failures = ?, body = ? WHERE queue = ? AND id = ?";

const REMOVE_TASK: &str = "DELETE FROM outbox WHERE queue = ? AND id = ?";

const DROP_OUTBOX: &str = "DROP TABLE outbox";

/// The rows of the control table from a key on, with a limit; see [`control`].
pub const CONTROL: &str = "SELECT key, body FROM control WHERE key >= ? ORDER BY key LIMIT ?";

const CREATE_CONTROL: &str = "CREATE TABLE control (key TEXT PRIMARY KEY, schema INTEGER NOT NULL, \
     body TEXT NOT NULL) WITHOUT ROWID";

const PUT_CONTROL: &str = "INSERT OR REPLACE INTO control (key, body, schema) VALUES (?, ?, ?)";

const REMOVE_CONTROL: &str = "DELETE FROM control WHERE key = ?";

const DROP_CONTROL: &str = "DROP TABLE control";

/// All tasks of an outbox that had no queues; see [`older_task`].
pub(super) const OLDER_TASKS: &str = "SELECT id, lane, due_at, body, first_segment, last_segment, first_attempt, last_attempt \
     FROM chores ORDER BY id";

const DROP_OLDER_OUTBOX: &str = "DROP TABLE chores";

const DROP_STREAM: &str = "DROP TABLE stream";

/// The open segment, and whether it has a table. Only asked of version 0.1.
pub(super) const FORMER: &str = "SELECT segment, writable FROM stream WHERE id = 1";

fn create_hot(table: HotTable) -> String {
    format!(
        "CREATE TABLE hot_{} (key INTEGER PRIMARY KEY, units INTEGER NOT NULL, bytes_before INTEGER NOT NULL, \
         at INTEGER NOT NULL, producer TEXT, epoch INTEGER, seq INTEGER, stream_seq TEXT, frames BLOB NOT NULL, \
         ends BLOB)",
        table.segment()
    )
}

fn insert_hot(table: HotTable) -> String {
    format!(
        "INSERT INTO hot_{} (key, units, bytes_before, at, producer, epoch, seq, stream_seq, frames) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        table.segment()
    )
}

/// Returns the statement that inserts a row with its appends in the column `ends`, because the row
/// does not hold exactly one append.
fn insert_hot_folded(table: HotTable) -> String {
    format!(
        "INSERT INTO hot_{} (key, units, bytes_before, at, frames, ends) VALUES (?, ?, ?, ?, ?, ?)",
        table.segment()
    )
}

/// Returns the statement that inserts a row without a producer.
fn insert_hot_plain(table: HotTable) -> String {
    format!(
        "INSERT INTO hot_{} (key, units, bytes_before, at, frames) VALUES (?, ?, ?, ?, ?)",
        table.segment()
    )
}

fn drop_hot(table: HotTable) -> String {
    format!("DROP TABLE IF EXISTS hot_{}", table.segment())
}

/// Returns the query for the last row at or before a key. Binds the key; see [`row_mark`].
#[must_use]
pub fn at_or_before(table: HotTable) -> String {
    format!(
        "SELECT key, units, bytes_before, length(frames), at FROM hot_{} \
         WHERE key <= ? ORDER BY key DESC LIMIT 1",
        table.segment()
    )
}

/// Returns the query for the first row that follows a key, begins a message, and has at least a
/// given number of bytes before it. Binds the key and the bytes; see [`row_mark`].
#[must_use]
pub fn first_at_or_after_bytes(table: HotTable) -> String {
    // Twelve bits of the key tell the parts of one message apart.
    format!(
        "SELECT key, units, bytes_before, length(frames), at FROM hot_{} \
         WHERE key > ? AND bytes_before >= ? AND key & 4095 = 0 ORDER BY key LIMIT 1",
        table.segment()
    )
}

/// Returns the query for all rows that may name writers, in order. Binds nothing; see
/// [`writers_of`].
#[must_use]
pub fn writers(table: HotTable) -> String {
    format!(
        "SELECT producer, epoch, seq, stream_seq, at, ends FROM hot_{} \
         WHERE producer IS NOT NULL OR stream_seq IS NOT NULL OR ends IS NOT NULL ORDER BY key",
        table.segment()
    )
}

/// Returns the query for the appends of rows from a key on. Binds the key and a limit; see
/// [`appends_of`].
#[must_use]
pub fn appends(table: HotTable) -> String {
    format!(
        "SELECT key, units, ends FROM hot_{} WHERE key >= ? ORDER BY key LIMIT ?",
        table.segment()
    )
}

/// Returns the query for the sums of each minute. Binds a key, before which the rows are, and the
/// earliest time; see [`minute`].
#[must_use]
pub fn minutes(table: HotTable) -> String {
    format!(
        "SELECT at / {MILLIS_PER_MINUTE} AS minute, sum(units), sum(length(frames)) FROM hot_{} \
         WHERE key < ? AND at >= ? GROUP BY minute ORDER BY minute",
        table.segment()
    )
}

/// Returns the query for the joined frames of a span, as one blob. Binds the first and the last
/// key.
#[must_use]
pub fn frames(table: HotTable) -> String {
    // SQLite can only join texts. The cast turns the text back into the same bytes.
    format!(
        "SELECT CAST(group_concat(frames, '') AS BLOB) FROM \
         (SELECT frames FROM hot_{} WHERE key BETWEEN ? AND ? ORDER BY key)",
        table.segment()
    )
}

/// Hands over the statements that carry out a write, in order, each with what it binds.
///
/// # Errors
/// Returns the first error of `execute`.
pub fn statements<E>(
    write: &Write,
    mut execute: impl FnMut(&str, &[Value<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    match write {
        Write::CreateStreamTable => execute(CREATE_STREAM, &[]),
        Write::InsertStream(head) => {
            let incarnation = head.incarnation.to_string();
            let (ttl, at, at_text) = match &head.expiry {
                Expiry::Never => (Value::Null, Value::Null, Value::Null),
                Expiry::Sliding { seconds } => (Value::Integer(*seconds), Value::Null, Value::Null),
                Expiry::At { at, text } => (Value::Null, Value::Integer(at.0), Value::Text(text)),
            };
            let fixed = [
                Value::Text(&incarnation),
                Value::Text(&head.content_type),
                Value::Integer(head.created_at.0),
                ttl,
                at,
                at_text,
                Value::Text(&head.name),
                Value::Integer(head.version),
            ];
            let lineage = lineage(head);
            let mut values = [Value::Integer(SCHEMA); 20];
            values[..8].copy_from_slice(&fixed);
            values[8..19].copy_from_slice(&changeable(head, lineage.as_deref()));
            execute(INSERT_STREAM, &values)
        }
        Write::UpdateStream(head) => {
            let lineage = lineage(head);
            execute(UPDATE_STREAM, &changeable(head, lineage.as_deref()))
        }
        Write::InsertHot { table, row } => {
            let numbers = [row.key.stored(), row.units, row.bytes_before, row.at.0];
            let [key, units, bytes_before, at] = numbers.map(Value::Integer);
            let frames = row.frames.make();
            let frames = Value::Blob(&frames);
            let end = match row.ends.as_slice() {
                [] if row.units == 0 => None,
                [end] if end.units == row.units => Some(end),
                ends => {
                    let ends = encoded_ends(ends);
                    let values = [key, units, bytes_before, at, frames, Value::Blob(&ends)];
                    return execute(&insert_hot_folded(*table), &values);
                }
            };
            let named = end.filter(|end| end.producer.is_some() || end.stream_seq.is_some());
            let Some(end) = named else {
                return execute(
                    &insert_hot_plain(*table),
                    &[key, units, bytes_before, at, frames],
                );
            };
            let (producer, epoch, seq) = stamp(end.producer.as_ref());
            let stream_seq = end.stream_seq.as_deref().map_or(Value::Null, Value::Text);
            let values = [
                key,
                units,
                bytes_before,
                at,
                producer,
                epoch,
                seq,
                stream_seq,
                frames,
            ];
            execute(&insert_hot(*table), &values)
        }
        Write::CreateSealedTables => {
            execute(CREATE_SEGMENTS, &[])?;
            execute(CREATE_PRODUCERS, &[])?;
            execute(CREATE_IDLE_PRODUCERS, &[])
        }
        Write::CreateHot(table) => execute(&create_hot(*table), &[]),
        Write::DropHot(table) => execute(&drop_hot(*table), &[]),
        Write::InsertSegment(segment) => {
            let fixed = [
                segment.number,
                segment.units,
                segment.bytes,
                segment.messages,
            ]
            .map(Value::Integer);
            let mut values = [Value::Null; 9];
            values[..4].copy_from_slice(&fixed);
            values[4..].copy_from_slice(&attempted(segment));
            execute(INSERT_SEGMENT, &values)
        }
        Write::UpdateSegment(segment) => {
            let mut values = [Value::Integer(segment.number); 6];
            values[..5].copy_from_slice(&attempted(segment));
            execute(UPDATE_SEGMENT, &values)
        }
        Write::PutProducer { stamp, used_at } => execute(
            PUT_PRODUCER,
            &[
                Value::Text(&stamp.id),
                Value::Integer(stamp.epoch),
                Value::Integer(stamp.seq),
                Value::Integer(used_at.0),
            ],
        ),
        Write::ForgetProducers { used_at, most } => execute(
            FORGET_PRODUCERS,
            &[Value::Integer(used_at.0), Value::Integer(*most)],
        ),
        Write::CreateManifest => execute(CREATE_MANIFEST, &[]),
        Write::InsertManifest(row) => execute(
            INSERT_MANIFEST,
            &[Value::Integer(row.first), Value::Blob(&row.body)],
        ),
        Write::CreatePins => execute(CREATE_PINS, &[]),
        Write::PutPin(pin) => {
            let released_at = pin
                .released_at
                .map_or(Value::Null, |at| Value::Integer(at.0));
            let fork = pin.fork.to_string();
            let values = [Value::Text(&fork), Value::Text(&pin.name), released_at];
            execute(PUT_PIN, &values)
        }
        Write::ForgetPins { released_at } => execute(FORGET_PINS, &[Value::Integer(released_at.0)]),
        Write::CreateOutbox => execute(CREATE_OUTBOX, &[]),
        Write::InsertTask(task) => insert_task(task, execute),
        Write::UpdateTask(task) => execute(
            UPDATE_TASK,
            &[
                Value::Integer(task.due_at.0),
                Value::Integer(task.failures),
                Value::Text(&task.what.to_stored()),
                Value::Text(&task.what.queue().to_string()),
                Value::Integer(task.id),
            ],
        ),
        Write::RemoveTask { queue, id } => execute(
            REMOVE_TASK,
            &[Value::Text(&queue.to_string()), Value::Integer(*id)],
        ),
        Write::DropOutbox => execute(DROP_OUTBOX, &[]),
        Write::CreateControl => execute(CREATE_CONTROL, &[]),
        Write::PutControl(row) => execute(
            PUT_CONTROL,
            &[
                Value::Text(&row.key),
                Value::Text(&row.body),
                Value::Integer(CONTROL_SCHEMA),
            ],
        ),
        Write::RemoveControl { key } => execute(REMOVE_CONTROL, &[Value::Text(key)]),
        Write::DropControl => execute(DROP_CONTROL, &[]),
        Write::DropTables => {
            execute(DROP_SEGMENTS, &[])?;
            execute(DROP_PRODUCERS, &[])?;
            execute(DROP_MANIFEST, &[])?;
            execute(DROP_PINS, &[])?;
            execute(DROP_STREAM, &[])
        }
        Write::Upgrade { from, now } => {
            if let Some(former) = &from.former {
                upgrade_former(former, *now, &mut execute)?;
            }
            if from.stream == Some(0) {
                let number = format!(
                    "ALTER TABLE stream ADD COLUMN schema INTEGER NOT NULL DEFAULT {FIRST_SCHEMA}"
                );
                execute(&number, &[])?;
            }
            if from.stream.is_some_and(|schema| schema < SCHEMA) {
                if from.stream < Some(FOLDED_SCHEMA) {
                    // Sealed segments keep their tables until they are in the cold tier.
                    let former = from.former.map(|former| [former.a, former.b]);
                    let former = former.into_iter().flatten().flatten();
                    let hot = from.oldest_hot.zip(from.newest_hot);
                    let hot = hot.into_iter().flat_map(|(oldest, newest)| oldest..=newest);
                    for segment in former.chain(hot) {
                        let ends = format!("ALTER TABLE hot_{segment} ADD COLUMN ends BLOB");
                        execute(&ends, &[])?;
                    }
                }
                if from.stream < Some(FORKS_SCHEMA) {
                    execute("ALTER TABLE stream ADD COLUMN lineage TEXT", &[])?;
                    if from.has_segments {
                        execute("ALTER TABLE segments ADD COLUMN append_ends BLOB", &[])?;
                    }
                }
                execute(UPDATE_SCHEMA, &[Value::Integer(SCHEMA)])?;
            }
            if from.outbox == Some(0) {
                execute(CREATE_OUTBOX, &[])?;
                for task in &from.older_tasks {
                    insert_task(task, &mut execute)?;
                }
                execute(DROP_OLDER_OUTBOX, &[])?;
            }
            Ok(())
        }
    }
}

fn insert_task<E>(
    task: &Task,
    mut execute: impl FnMut(&str, &[Value<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    let values = [
        Value::Integer(task.due_at.0),
        Value::Integer(task.failures),
        Value::Text(&task.what.to_stored()),
        Value::Text(&task.what.queue().to_string()),
        Value::Integer(task.id),
        Value::Integer(OUTBOX_SCHEMA),
    ];
    execute(INSERT_TASK, &values)
}

/// Brings the tables of version 0.1 to the layout of those that follow.
fn upgrade_former<E>(
    former: &Former,
    now: Millis,
    mut execute: impl FnMut(&str, &[Value<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    for (name, segment) in [("hot_a", former.a), ("hot_b", former.b)] {
        if let Some(segment) = segment {
            execute(&format!("ALTER TABLE {name} RENAME TO hot_{segment}"), &[])?;
        }
    }
    if former.producers {
        let used_at = format!(
            "ALTER TABLE producers ADD COLUMN used_at INTEGER NOT NULL DEFAULT {}",
            now.0
        );
        execute(&used_at, &[])?;
        execute(CREATE_IDLE_PRODUCERS, &[])?;
    }
    Ok(())
}

fn attempted(segment: &SealedSegment) -> [Value<'_>; 5] {
    let (stored, index, append_ends) = match &segment.stored {
        None => (Value::Null, Value::Null, Value::Null),
        Some(stored) => (
            Value::Integer(stored.attempt),
            Value::Blob(&stored.index),
            Value::Blob(&stored.append_ends),
        ),
    };
    [
        Value::Integer(segment.attempts),
        Value::Integer(segment.attempted_at.0),
        stored,
        index,
        append_ends,
    ]
}

/// Bits of the column `registered`; the others are the number of the registry's shard.
pub(super) const REGISTERED: u64 = 1;
pub(super) const UNANNOUNCED_REGISTRY: u64 = 2;
pub(super) const UNANNOUNCED_INDEX: u64 = 4;
pub(super) const SHARD_SHIFT: u32 = 3;

fn changeable<'a>(head: &'a StreamRow, lineage: Option<&'a str>) -> [Value<'a>; 11] {
    let flag = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
    let registered = flag(head.registered.is_some(), REGISTERED)
        | head.registered.unwrap_or(0) << SHARD_SHIFT
        | flag(head.unannounced.registry, UNANNOUNCED_REGISTRY)
        | flag(head.unannounced.index, UNANNOUNCED_INDEX);
    let (producer, epoch, seq) = stamp(head.closed.as_ref().and_then(|closed| closed.by.as_ref()));
    [
        Value::Integer(registered),
        Value::Integer(head.segment),
        Value::Integer(u64::from(head.writable)),
        head.stream_seq.as_deref().map_or(Value::Null, Value::Text),
        Value::Integer(head.touched_at.0),
        head.alarm_at.map_or(Value::Null, |at| Value::Integer(at.0)),
        Value::Integer(u64::from(head.closed.is_some())),
        producer,
        epoch,
        seq,
        lineage.map_or(Value::Null, Value::Text),
    ]
}

/// The last line of the column `lineage`, if the directory has the stream.
pub(super) const LISTED: &str = "listed";

/// Returns the text of the column `lineage`: up to three lines, of which the last is not empty.
fn lineage(head: &StreamRow) -> Option<String> {
    let activity = head.activity.as_ref();
    let activity = activity.filter(|activity| **activity != Activity::default());
    let lines = [
        head.lineage.to_stored(),
        activity.map(Activity::to_stored),
        (!head.unannounced.directory).then(|| LISTED.to_owned()),
    ];
    let last = lines.iter().rposition(Option::is_some)?;
    let lines: Vec<_> = lines
        .into_iter()
        .take(last + 1)
        .map(Option::unwrap_or_default)
        .collect();
    Some(lines.join("\n"))
}

fn stamp(stamp: Option<&ProducerStamp>) -> (Value<'_>, Value<'_>, Value<'_>) {
    match stamp {
        None => (Value::Null, Value::Null, Value::Null),
        Some(stamp) => (
            Value::Text(&stamp.id),
            Value::Integer(stamp.epoch),
            Value::Integer(stamp.seq),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Millis;
    use crate::rows::{AppendEnd, HotRow, Incarnation, Layout, Lineage, RowKey, Sums, Unannounced};
    use bytes::Bytes;

    #[test]
    fn a_row_has_the_columns_that_its_appends_need() {
        let table = HotTable::of(0);
        let end = |units, stream_seq: Option<&str>| AppendEnd {
            units,
            producer: None,
            stream_seq: stream_seq.map(str::to_owned),
        };
        let statement = |units, ends: &[AppendEnd]| {
            let row = HotRow {
                key: RowKey::at(0),
                units,
                bytes_before: 0,
                at: Millis(1),
                ends: ends.to_vec(),
                frames: Bytes::new().into(),
            };
            let mut executed = Vec::new();
            let executes = |sql: &str, _: &[Value<'_>]| {
                executed.push(sql.to_owned());
                Ok::<_, StorageError>(())
            };
            statements(&Write::InsertHot { table, row }, executes).expect("nothing fails");
            executed
        };
        // An append that goes on in the next row.
        assert_eq!(statement(0, &[]), [insert_hot_plain(table)]);
        assert_eq!(statement(3, &[end(3, None)]), [insert_hot_plain(table)]);
        assert_eq!(statement(3, &[end(3, Some("1"))]), [insert_hot(table)]);
        let two = [end(1, None), end(2, None)];
        assert_eq!(statement(3, &two), [insert_hot_folded(table)]);
    }

    /// The head row of an open stream with this text in the column `lineage`.
    struct HeadColumns(Option<String>);

    impl Columns for HeadColumns {
        fn integer(&self, column: usize) -> Result<Option<u64>, StorageError> {
            // The columns of an expiry and of an alarm.
            Ok((![3, 4, 13].contains(&column)).then_some(0))
        }

        fn text(&self, column: usize) -> Result<Option<String>, StorageError> {
            Ok(match column {
                0 => Some(Incarnation(1).to_string()),
                18 => self.0.clone(),
                _ => Some("a".to_owned()),
            })
        }

        fn blob(&self, _: usize) -> Result<Option<Vec<u8>>, StorageError> {
            Ok(None)
        }
    }

    #[test]
    fn what_the_directory_has_of_a_stream_takes_a_line() {
        let read = |text: Option<&str>| head(&HeadColumns(text.map(str::to_owned)));
        let earlier = read(None).expect("the row is whole");
        let directory = true;
        let unannounced = Unannounced {
            directory,
            ..Unannounced::default()
        };
        assert_eq!(earlier.unannounced, unannounced);
        let activity = Activity {
            sums: Sums {
                messages: 1,
                framed: 6,
            },
            ..Activity::default()
        };
        let counted = activity.to_stored();
        let pinned = Lineage {
            has_pins: true,
            ..Lineage::default()
        };
        for (has_pins, counts, directory, text) in [
            (false, false, true, None),
            (true, false, true, Some("pins -".to_owned())),
            (false, true, true, Some(format!("\n{counted}"))),
            (false, false, false, Some("\n\nlisted".to_owned())),
            (true, false, false, Some("pins -\n\nlisted".to_owned())),
            (
                true,
                true,
                false,
                Some(format!("pins -\n{counted}\nlisted")),
            ),
        ] {
            let mut row = earlier.clone();
            row.unannounced.directory = directory;
            if has_pins {
                row.lineage = pinned.clone();
            }
            if counts {
                row.activity = Some(activity.clone());
            }
            assert_eq!(lineage(&row), text);
            assert_eq!(read(text.as_deref()).expect("the row is whole"), row);
        }
        for damaged in ["\n\n ", "\n\nliste", "\n\nlisted\n", "\nlisted"] {
            read(Some(damaged)).expect_err(damaged);
        }
    }

    #[test]
    fn an_upgrade_of_the_layout_before_changes_only_its_number() {
        let from = Layout {
            stream: Some(4),
            newest_hot: Some(2),
            oldest_hot: Some(1),
            has_segments: true,
            ..Layout::present(true, true, true)
        };
        let mut executed = Vec::new();
        let now = Millis(1);
        let upgrade = Write::Upgrade { from, now };
        statements(&upgrade, |sql, values| {
            executed.push((sql.to_owned(), format!("{values:?}")));
            Ok::<_, StorageError>(())
        })
        .expect("nothing fails");
        let number = format!("{:?}", [Value::Integer(5)]);
        assert_eq!(executed, [(UPDATE_SCHEMA.to_owned(), number)]);
    }
}
