//! The SQL text of every row written and every question asked: constant strings, used by every shell.
//!
//! Integers stay below 2^53, for they travel through JavaScript's numbers on one of the shells; an incarnation, which has 64
//! bits, is stored as text. A key-value pair of columns that is all NULL means "none".

use crate::Millis;
use crate::rows::{
    Closed, Expiry, Head, HotTable, Incarnation, ProducerStamp, RowKey, RowMark, Unreadable, Write,
    WriterMark,
};

/// A value bound to a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    Integer(u64),
    Text(&'a str),
    Blob(&'a [u8]),
}

/// One row of an answer, column by column.
pub trait Columns {
    /// `None` for NULL.
    ///
    /// # Errors
    /// When the column is no integer, or there is none.
    fn integer(&self, column: usize) -> Result<Option<u64>, Unreadable>;

    /// `None` for NULL.
    ///
    /// # Errors
    /// When the column is no text, or there is none.
    fn text(&self, column: usize) -> Result<Option<String>, Unreadable>;
}

/// Whether there is a stream at all: one row if so. Asked before anything else, for without a stream there are no tables.
pub const STREAM_EXISTS: &str = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'stream'";

/// The head row; see [`head`].
pub const HEAD: &str = "SELECT incarnation, content_type, created_at, ttl_seconds, expires_at, expires_at_text, segment, hot, \
     touched_at, alarm_at, closed, closed_producer, closed_epoch, closed_seq FROM stream WHERE id = 1";

const CREATE_STREAM: &str = "CREATE TABLE stream (id INTEGER PRIMARY KEY, incarnation TEXT NOT NULL, content_type TEXT NOT NULL, \
     created_at INTEGER NOT NULL, ttl_seconds INTEGER, expires_at INTEGER, expires_at_text TEXT, segment INTEGER NOT NULL, \
     hot INTEGER NOT NULL, touched_at INTEGER NOT NULL, alarm_at INTEGER, closed INTEGER NOT NULL, closed_producer TEXT, \
     closed_epoch INTEGER, closed_seq INTEGER)";

const INSERT_STREAM: &str = "INSERT INTO stream (id, incarnation, content_type, created_at, ttl_seconds, expires_at, expires_at_text, \
     segment, hot, touched_at, alarm_at, closed, closed_producer, closed_epoch, closed_seq) \
     VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const UPDATE_STREAM: &str = "UPDATE stream SET segment = ?, hot = ?, touched_at = ?, alarm_at = ?, closed = ?, closed_producer = ?, \
     closed_epoch = ?, closed_seq = ? WHERE id = 1";

const DROP_STREAM: &str = "DROP TABLE stream";

/// The statements of one hot table.
struct Hot {
    create: &'static str,
    insert: &'static str,
    /// For a row that names no writer.
    insert_plain: &'static str,
    at_or_before: &'static str,
    writers: &'static str,
    frames: &'static str,
    drop: &'static str,
}

// The two tables differ in nothing but their names, and SQL has no parameters for names.
macro_rules! hot {
    ($table:literal) => {
        Hot {
            create: concat!(
                "CREATE TABLE ",
                $table,
                " (key INTEGER PRIMARY KEY, units INTEGER NOT NULL, bytes_before INTEGER NOT NULL, at INTEGER NOT NULL, \
                 producer TEXT, epoch INTEGER, seq INTEGER, stream_seq TEXT, frames BLOB NOT NULL)"
            ),
            insert: concat!("INSERT INTO ", $table, " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"),
            insert_plain: concat!(
                "INSERT INTO ",
                $table,
                " (key, units, bytes_before, at, frames) VALUES (?, ?, ?, ?, ?)"
            ),
            at_or_before: concat!(
                "SELECT key, units, bytes_before, length(frames), at FROM ",
                $table,
                " WHERE key <= ? ORDER BY key DESC LIMIT 1"
            ),
            writers: concat!(
                "SELECT producer, epoch, seq, stream_seq FROM ",
                $table,
                " WHERE producer IS NOT NULL OR stream_seq IS NOT NULL ORDER BY key"
            ),
            // One value for all rows. Joining makes text of them, byte by byte, and the cast undoes it.
            frames: concat!(
                "SELECT CAST(group_concat(frames, '') AS BLOB) FROM (SELECT frames FROM ",
                $table,
                " WHERE key BETWEEN ? AND ? ORDER BY key)"
            ),
            drop: concat!("DROP TABLE IF EXISTS ", $table),
        }
    };
}

const HOT_A: Hot = hot!("hot_a");
const HOT_B: Hot = hot!("hot_b");

const fn hot(table: HotTable) -> &'static Hot {
    match table {
        HotTable::A => &HOT_A,
        HotTable::B => &HOT_B,
    }
}

/// The last row at or before a key. Binds the key; see [`row_mark`].
#[must_use]
pub const fn at_or_before(table: HotTable) -> &'static str {
    hot(table).at_or_before
}

/// All rows that name a writer, in order. Binds nothing; see [`writer_mark`].
#[must_use]
pub const fn writers(table: HotTable) -> &'static str {
    hot(table).writers
}

/// The joined frames of a span, as one blob. Binds the first and the last key.
#[must_use]
pub const fn frames(table: HotTable) -> &'static str {
    hot(table).frames
}

/// Hands over the statements that carry out a write, in order, each with what it binds.
///
/// # Errors
/// What `execute` fails with, at once.
pub fn statements<E>(
    write: &Write,
    mut execute: impl FnMut(&'static str, &[Value<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    match write {
        Write::CreateTables { hot: table } => {
            execute(CREATE_STREAM, &[])?;
            execute(hot(*table).create, &[])
        }
        Write::InsertHead(head) => {
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
            ];
            let mut values = [Value::Null; 14];
            values[..6].copy_from_slice(&fixed);
            values[6..].copy_from_slice(&changeable(head));
            execute(INSERT_STREAM, &values)
        }
        Write::UpdateHead(head) => execute(UPDATE_STREAM, &changeable(head)),
        Write::InsertHot { table, row } => {
            let numbers = [row.key.stored(), row.units, row.bytes_before, row.at.0];
            let [key, units, bytes_before, at] = numbers.map(Value::Integer);
            let frames = Value::Blob(&row.frames);
            if row.producer.is_none() && row.stream_seq.is_none() {
                return execute(hot(*table).insert_plain, &[key, units, bytes_before, at, frames]);
            }
            let (producer, epoch, seq) = stamp(row.producer.as_ref());
            let stream_seq = row.stream_seq.as_deref().map_or(Value::Null, Value::Text);
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
            execute(hot(*table).insert, &values)
        }
        Write::DropTables => {
            execute(HOT_A.drop, &[])?;
            execute(HOT_B.drop, &[])?;
            execute(DROP_STREAM, &[])
        }
    }
}

fn changeable(head: &Head) -> [Value<'_>; 8] {
    let (producer, epoch, seq) = stamp(head.closed.as_ref().and_then(|closed| closed.by.as_ref()));
    [
        Value::Integer(head.segment),
        Value::Integer(match head.hot {
            HotTable::A => 0,
            HotTable::B => 1,
        }),
        Value::Integer(head.touched_at.0),
        head.alarm_at.map_or(Value::Null, |at| Value::Integer(at.0)),
        Value::Integer(u64::from(head.closed.is_some())),
        producer,
        epoch,
        seq,
    ]
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

/// Reads a row of [`HEAD`].
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn head(row: &impl Columns) -> Result<Head, Unreadable> {
    let incarnation = Incarnation::from_text(&required(row.text(0)?)?);
    let incarnation = incarnation.ok_or_else(|| Unreadable("the incarnation is not one".to_owned()))?;
    let expiry = match (row.integer(3)?, row.integer(4)?) {
        (None, None) => Expiry::Never,
        (Some(seconds), _) => Expiry::Sliding { seconds },
        (None, Some(at)) => Expiry::At {
            at: Millis(at),
            text: required(row.text(5)?)?,
        },
    };
    let closed = required(row.integer(10)?)? != 0;
    Ok(Head {
        incarnation,
        content_type: required(row.text(1)?)?,
        created_at: Millis(required(row.integer(2)?)?),
        expiry,
        segment: required(row.integer(6)?)?,
        hot: if required(row.integer(7)?)? == 0 {
            HotTable::A
        } else {
            HotTable::B
        },
        touched_at: Millis(required(row.integer(8)?)?),
        alarm_at: row.integer(9)?.map(Millis),
        closed: if closed {
            Some(Closed {
                by: stamp_at(row, 11)?,
            })
        } else {
            None
        },
    })
}

/// Reads a row of [`at_or_before`].
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn row_mark(row: &impl Columns) -> Result<RowMark, Unreadable> {
    Ok(RowMark {
        key: RowKey::from_stored(required(row.integer(0)?)?),
        units: required(row.integer(1)?)?,
        bytes_before: required(row.integer(2)?)?,
        bytes: required(row.integer(3)?)?,
        at: Millis(required(row.integer(4)?)?),
    })
}

/// Reads a row of [`writers`].
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn writer_mark(row: &impl Columns) -> Result<WriterMark, Unreadable> {
    Ok(WriterMark {
        producer: stamp_at(row, 0)?,
        stream_seq: row.text(3)?,
    })
}

fn stamp_at(row: &impl Columns, column: usize) -> Result<Option<ProducerStamp>, Unreadable> {
    let Some(id) = row.text(column)? else {
        return Ok(None);
    };
    Ok(Some(ProducerStamp {
        id,
        epoch: required(row.integer(column + 1)?)?,
        seq: required(row.integer(column + 2)?)?,
    }))
}

fn required<T>(value: Option<T>) -> Result<T, Unreadable> {
    value.ok_or_else(|| Unreadable("a column is NULL that never is".to_owned()))
}
