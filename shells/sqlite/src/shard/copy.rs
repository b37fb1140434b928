//! Copies whole streams into a shard: from another shard, or from a database of their own.

use machine::outbox::Task;
use machine::rows::{AppendEnd, HotTable, ProducerStamp};
use machine::sql::{self as machine_sql, Columns, Value};
use machine::{AlarmChange, Millis, Storage, StorageError, Stream, Write};
use rusqlite::Result;

use super::checksum::{self, Place};
use super::{OpenError, Shard, refused};
use crate::Database;
use crate::statements::{Cells, Statements, unreadable};

const NAMES: &str = "SELECT name FROM streams ORDER BY id";
const ALARM: &str = "SELECT alarm_at FROM streams WHERE id = ?";
const HOT: &str = "SELECT key, units, bytes_before, bytes, at, ends, checksum, coalesce(hot.frames, large.frames), segment \
     FROM hot LEFT JOIN large ON large.id = hot.large WHERE stream = ? ORDER BY segment, key";
const SEGMENTS: &str = "SELECT number FROM segments ORDER BY number";
const PRODUCERS: &str = "SELECT id, epoch, seq, used_at FROM producers";
const MANIFEST: &str = "SELECT first, body FROM manifest ORDER BY first";
const PINS: &str = "SELECT fork, name, released_at FROM pins ORDER BY fork";
const OUTBOX: &str = "SELECT queue, id, due_at, failures, body FROM outbox ORDER BY queue, id";
const CONTROL: &str = "SELECT key, body FROM control ORDER BY key";
const TABLES: &str = "SELECT name FROM sqlite_master WHERE type = 'table'";

/// What a copy of a stream has come across.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Hot rows that are damaged. They are damaged in the copy, too.
    pub damaged: u64,
}

/// A hot row as it is stored.
struct Raw {
    segment: u64,
    key: u64,
    units: u64,
    bytes_before: u64,
    at: u64,
    ends: Option<Vec<u8>>,
    frames: Vec<u8>,
}

impl Shard {
    /// Makes writes fast and unsafe. The file must be synced as a whole after it is closed.
    ///
    /// # Errors
    /// When SQLite refuses it.
    pub fn without_syncs(&self) -> Result<()> {
        self.statements.0.pragma_update(None, "synchronous", "OFF")
    }

    /// Returns the names of all streams.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn names(&self) -> Result<Vec<String>, OpenError> {
        names(&self.statements, NAMES).map_err(damaged)
    }

    /// Copies a stream of another shard into this one, in a transaction of its own. The other shard
    /// stays as it is.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn copy_from(&self, from: &Self, name: &str, now: Millis) -> Result<Copied, OpenError> {
        let upgrade = Stream::upgrade(now, &from.stream(name).map_err(damaged)?);
        let upgrade = upgrade
            .map_err(|error| OpenError::NotThis(format!("the stream {name:?}: {}", error.0)))?;
        let Some(upgrade) = upgrade else {
            return self.copy_present(from, name);
        };
        // Older rows are upgraded in a transaction that is rolled back.
        from.begin()?;
        let upgraded = from.apply(name, &[upgrade], AlarmChange::Keep);
        let copied = upgraded
            .map_err(OpenError::from)
            .and_then(|()| self.copy_present(from, name));
        from.statements.execute("ROLLBACK", &[])?;
        copied
    }

    fn copy_present(&self, from: &Self, name: &str) -> Result<Copied, OpenError> {
        let rows = from.stream(name).map_err(damaged)?;
        let Some((id, _)) = rows.known else {
            return Ok(Copied::default());
        };
        let layout = rows.layout().map_err(damaged)?;
        let mut writes = Vec::new();
        if layout.stream.is_some() {
            let head = rows.head().map_err(damaged)?;
            writes.push(Write::CreateStreamTable);
            writes.extend(head.map(Write::InsertStream));
        }
        // Rows of another stream are left out.
        let of = |statement: &str| statement.replace(" ORDER BY", " WHERE stream = ?1 ORDER BY");
        let id = [Value::Integer(id)];
        rest(
            &from.statements,
            [&of(SEGMENTS), &format!("{PRODUCERS} WHERE stream = ?1")],
            layout.outbox.map(|_| of(OUTBOX)).as_deref(),
            &id,
            |number| with_ends(&rows, number),
            &mut writes,
        )
        .map_err(damaged)?;
        lineage(
            &from.statements,
            [&of(MANIFEST), &of(PINS)],
            &id,
            &mut writes,
        )
        .map_err(damaged)?;
        let control = layout.control.map(|_| of(CONTROL));
        self::control(&from.statements, control.as_deref(), &id, &mut writes).map_err(damaged)?;
        let alarm = from
            .statements
            .one(ALARM, &id, |row| row.integer(0))
            .map_err(damaged)?
            .flatten();
        let alarm = alarm.map_or(AlarmChange::Keep, |at| AlarmChange::Set(Millis(at)));
        self.begin()?;
        self.apply(name, &writes, alarm)?;
        let to = self.stream(name).map_err(damaged)?;
        let mut copied = Copied::default();
        from.statements
            .ask(HOT, &id, |row| {
                let row = Cells(row);
                let table = HotTable::of(row.integer(8)?.unwrap_or_default());
                let raw = raw(&row, table.segment(), row.blob(5)?, row.blob(7)?)?;
                let checksum = row.integer(6)?.unwrap_or_default();
                let is_whole = rows.checked(table, &row).is_ok()
                    && checksum::frames_match(checksum, &raw.frames);
                copied.damaged += u64::from(!is_whole);
                self.insert_raw(to.known, &raw, is_whole)
                    .map_err(unreadable)
            })
            .map_err(damaged)?;
        self.commit()?;
        Ok(copied)
    }

    /// Copies the stream of a database of its own into this shard, in a transaction of its own. The
    /// database stays as it is. `alarm_at` is the alarm of the stream, if it is known. Without one
    /// it is set for the beginning of time: the stream then finds out what it needs.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn import(
        &self,
        from: &Database,
        name: &str,
        alarm_at: Option<Millis>,
        now: Millis,
    ) -> Result<(), OpenError> {
        // Older tables are upgraded in a transaction that is rolled back.
        from.begin()?;
        let imported = self.import_upgraded(from, name, alarm_at, now);
        from.statements.execute("ROLLBACK", &[])?;
        imported
    }

    fn import_upgraded(
        &self,
        from: &Database,
        name: &str,
        alarm_at: Option<Millis>,
        now: Millis,
    ) -> Result<(), OpenError> {
        let upgrade = Stream::upgrade(now, from).map_err(damaged)?;
        from.apply(upgrade.as_slice())?;
        let layout = from.layout().map_err(damaged)?;
        let mut writes = Vec::new();
        let mut alarm_at = alarm_at;
        if layout.stream.is_some() {
            let head = from.head().map_err(damaged)?;
            let stored = head.as_ref().and_then(|head| head.alarm_at);
            alarm_at = alarm_at.into_iter().chain(stored).min();
            writes.push(Write::CreateStreamTable);
            writes.extend(head.map(Write::InsertStream));
        }
        let tables = names(&from.statements, TABLES).map_err(damaged)?;
        let has = |table: &str| tables.iter().any(|each| each == table);
        let no_rows = "SELECT 1 WHERE false";
        rest(
            &from.statements,
            [
                if has("segments") { SEGMENTS } else { no_rows },
                if has("producers") { PRODUCERS } else { no_rows },
            ],
            has("outbox").then_some(OUTBOX),
            &[],
            |number| with_ends(from, number),
            &mut writes,
        )
        .map_err(damaged)?;
        lineage(
            &from.statements,
            [
                if has("manifest") { MANIFEST } else { no_rows },
                if has("pins") { PINS } else { no_rows },
            ],
            &[],
            &mut writes,
        )
        .map_err(damaged)?;
        let control = has("control").then_some(CONTROL);
        self::control(&from.statements, control, &[], &mut writes).map_err(damaged)?;
        if writes.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let alarm = AlarmChange::Set(alarm_at.unwrap_or(Millis(0)));
        self.apply(name, &writes, alarm)?;
        let to = self.stream(name).map_err(damaged)?;
        for table in &tables {
            let segment = table.strip_prefix("hot_").and_then(|it| it.parse().ok());
            if let Some(segment) = segment {
                self.import_hot(from, table, segment, to.known)
                    .map_err(damaged)?;
            }
        }
        self.commit()?;
        Ok(())
    }

    fn import_hot(
        &self,
        from: &Database,
        table: &str,
        segment: u64,
        to: Option<(u64, u64)>,
    ) -> Result<(), StorageError> {
        let columns = format!("SELECT name FROM pragma_table_info('{table}')");
        let columns = names(&from.statements, &columns)?;
        // Only tables that were appended to since rows can hold several appends have this column.
        let ends = if columns.iter().any(|column| column == "ends") {
            "ends"
        } else {
            "NULL"
        };
        let hot = format!(
            "SELECT key, units, bytes_before, frames, at, producer, epoch, seq, stream_seq, {ends} \
             FROM {table} ORDER BY key"
        );
        from.statements.ask(&hot, &[], |row| {
            let row = Cells(row);
            let ends = match row.blob(9)? {
                Some(ends) => Some(ends),
                None => named(&row)?,
            };
            let raw = raw(&row, segment, ends, row.blob(3)?)?;
            self.insert_raw(to, &raw, true).map_err(unreadable)
        })
    }

    fn insert_raw(&self, to: Option<(u64, u64)>, raw: &Raw, is_whole: bool) -> Result<()> {
        let (id, _) = to.ok_or_else(|| refused("there is no such stream"))?;
        let place = Place {
            stream: id,
            segment: raw.segment,
            key: raw.key,
            units: raw.units,
            bytes_before: raw.bytes_before,
            bytes: raw.frames.len() as u64,
            at: raw.at,
            ends: raw.ends.as_deref(),
        };
        let checksum = place.checksum(&raw.frames);
        let checksum = if is_whole { checksum } else { !checksum };
        self.insert_place(&place, checksum, &raw.frames)
    }
}

/// Reads segments, producers and tasks as the writes that make them.
fn rest(
    from: &Statements,
    [segments, producers]: [&str; 2],
    outbox: Option<&str>,
    values: &[Value<'_>],
    segment: impl Fn(u64) -> Result<Option<machine::rows::SealedSegment>, StorageError>,
    writes: &mut Vec<Write>,
) -> Result<(), StorageError> {
    let mut numbers = Vec::new();
    from.ask(segments, bound(segments, values), |row| {
        numbers.extend(Cells(row).integer(0)?);
        Ok(())
    })?;
    for number in numbers {
        writes.extend(segment(number)?.map(Write::InsertSegment));
    }
    from.ask(producers, bound(producers, values), |row| {
        let row = Cells(row);
        let number = |column| row.integer(column).map(Option::unwrap_or_default);
        writes.push(Write::PutProducer {
            stamp: ProducerStamp {
                id: row.text(0)?.unwrap_or_default(),
                epoch: number(1)?,
                seq: number(2)?,
            },
            used_at: Millis(number(3)?),
        });
        Ok(())
    })?;
    if let Some(outbox) = outbox {
        let mut tasks: Vec<Task> = Vec::new();
        from.ask(outbox, bound(outbox, values), |row| {
            tasks.push(machine_sql::task(&Cells(row))?);
            Ok(())
        })?;
        writes.push(Write::CreateOutbox);
        writes.extend(tasks.into_iter().map(Write::InsertTask));
    }
    Ok(())
}

/// Reads a segment's row with the ends of its appends.
fn with_ends(
    rows: &impl Storage,
    number: u64,
) -> Result<Option<machine::rows::SealedSegment>, StorageError> {
    let mut segment = rows.segment(number)?;
    let stored = segment.as_mut().and_then(|segment| segment.stored.as_mut());
    if let Some(stored) = stored {
        stored.append_ends = rows.append_ends(number)?.unwrap_or_default();
    }
    Ok(segment)
}

/// Reads inherited segments and pins as the writes that make them.
fn lineage(
    from: &Statements,
    [manifest, pins]: [&str; 2],
    values: &[Value<'_>],
    writes: &mut Vec<Write>,
) -> Result<(), StorageError> {
    from.ask(manifest, bound(manifest, values), |row| {
        writes.push(Write::InsertManifest(machine_sql::manifest(&Cells(row))?));
        Ok(())
    })?;
    from.ask(pins, bound(pins, values), |row| {
        writes.push(Write::PutPin(machine_sql::pin(&Cells(row))?));
        Ok(())
    })
}

/// Reads the control table as the writes that make it.
fn control(
    from: &Statements,
    rows: Option<&str>,
    values: &[Value<'_>],
    writes: &mut Vec<Write>,
) -> Result<(), StorageError> {
    let Some(rows) = rows else {
        return Ok(());
    };
    writes.push(Write::CreateControl);
    from.ask(rows, bound(rows, values), |row| {
        writes.push(Write::PutControl(machine_sql::control(&Cells(row))?));
        Ok(())
    })
}

/// Binds values only to statements that have a place for them.
fn bound<'a, 'b>(statement: &str, values: &'a [Value<'b>]) -> &'a [Value<'b>] {
    if statement.contains('?') { values } else { &[] }
}

fn names(from: &Statements, statement: &str) -> Result<Vec<String>, StorageError> {
    let mut names = Vec::new();
    from.ask(statement, &[], |row| {
        names.extend(Cells(row).text(0)?);
        Ok(())
    })?;
    Ok(names)
}

fn raw(
    row: &Cells<'_>,
    segment: u64,
    ends: Option<Vec<u8>>,
    frames: Option<Vec<u8>>,
) -> Result<Raw, StorageError> {
    let number = |column| row.integer(column).map(Option::unwrap_or_default);
    Ok(Raw {
        segment,
        key: number(0)?,
        units: number(1)?,
        bytes_before: number(2)?,
        at: number(4)?,
        ends,
        frames: frames.unwrap_or_default(),
    })
}

/// Encodes the one append of a row in columns 5 to 8, if it names a writer.
fn named(row: &Cells<'_>) -> Result<Option<Vec<u8>>, StorageError> {
    let number = |column| row.integer(column).map(Option::unwrap_or_default);
    let producer = match row.text(5)? {
        Some(id) => Some(ProducerStamp {
            id,
            epoch: number(6)?,
            seq: number(7)?,
        }),
        None => None,
    };
    let end = AppendEnd {
        units: number(1)?,
        producer,
        stream_seq: row.text(8)?,
    };
    let is_named = end.producer.is_some() || end.stream_seq.is_some();
    Ok(is_named.then(|| machine_sql::encoded_ends(&[end])))
}

fn damaged(error: StorageError) -> OpenError {
    OpenError::NotThis(error.0)
}
