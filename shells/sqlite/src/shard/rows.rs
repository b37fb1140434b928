//! The rows of one stream in a shard, as the machine asks for them.

use std::cell::RefCell;

use bytes::Bytes;
use machine::outbox::{Queue, Task};
use machine::rows::{
    ControlRow, HotTable, Incarnation, Layout, ManifestRow, MinuteOfRows, MinutesOfRows, Pin,
    ProducerStamp, ProducerState, RowAppends, RowKey, RowMeta, SealedSegment, StreamRow, Sums,
    WriterColumns,
};
use machine::sql::{self as machine_sql, Columns, Value};
use machine::{Millis, Span, Storage, StorageError};

use super::checksum::{self, Place};
use super::sql::{self, HAS_CONTROL, HAS_OUTBOX, HAS_STREAM};
use crate::statements::{Cells, Statements, unreadable};

/// The rows of one stream. Without rows it is an empty storage.
#[derive(Debug)]
pub struct StreamRows<'a> {
    pub(super) statements: &'a Statements,
    pub(super) name: String,
    /// The stream's number, and the bits of its tables.
    pub(super) known: Option<(u64, u64)>,
    /// The last damage that a question came across.
    pub(super) damage: RefCell<Option<String>>,
    pub(super) _view: Option<View<'a>>,
}

/// A transaction that reads. Without one, each statement takes locks of its own and frees them,
/// which costs as much as a short statement.
#[derive(Debug)]
pub(super) struct View<'a>(&'a Statements);

impl<'a> View<'a> {
    pub(super) fn begin(statements: &'a Statements) -> Result<Self, StorageError> {
        // Fails if the last view has not ended, whose rows would be old.
        statements.execute("BEGIN", &[]).map_err(unreadable)?;
        Ok(Self(statements))
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if self.0.execute("COMMIT", &[]).is_err() {
            drop(self.0.execute("ROLLBACK", &[]));
        }
    }
}

impl StreamRows<'_> {
    /// Returns what is damaged, if a question failed because a row is not what was written.
    pub fn damage(&self) -> Option<String> {
        self.damage.borrow().clone()
    }

    /// Returns the joined frames of the rows of a span.
    ///
    /// # Errors
    /// When the rows cannot be read, or are damaged.
    pub fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError> {
        let values = [
            self.stream(),
            Value::Integer(span.table.segment()),
            Value::Integer(span.from.stored()),
            Value::Integer(span.to.stored()),
        ];
        let mut frames = Vec::new();
        self.statements.ask(sql::FRAMES, &values, |row| {
            let cells = Cells(row);
            let checksum = self.checked(span.table, &cells)?;
            // Either column has the content.
            let part = [7, 8].into_iter().find_map(|column| {
                let part = row.get_ref(column).ok()?;
                part.as_blob_or_null().ok()?
            });
            let part = part.filter(|part| checksum::frames_match(checksum, part));
            frames.extend_from_slice(part.ok_or_else(|| self.damaged(span.table, &cells))?);
            Ok(())
        })?;
        Ok(frames)
    }

    /// Returns the names of the tables that a database of its own would have.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub fn tables(&self) -> Result<Vec<String>, StorageError> {
        let mut names = Vec::new();
        let layout = self.layout()?;
        if layout.control.is_some() {
            names.push("control".to_owned());
        }
        if layout.outbox.is_some() {
            names.push("outbox".to_owned());
        }
        if layout.stream.is_some() {
            names.push("stream".to_owned());
        }
        let mut segments = Vec::new();
        let hot = "SELECT DISTINCT segment FROM hot WHERE stream = ? ORDER BY segment";
        self.statements.ask(hot, &[self.stream()], |row| {
            segments.extend(Cells(row).integer(0)?);
            Ok(())
        })?;
        names.extend(segments.iter().map(|segment| format!("hot_{segment}")));
        Ok(names)
    }

    /// Returns the number of the stream. A stream without a row in `streams` gets 0, which no row
    /// has.
    fn stream(&self) -> Value<'static> {
        Value::Integer(self.known.map_or(0, |(id, _)| id))
    }

    /// Checks the metadata of a hot row, and returns the row's checksum.
    pub(super) fn checked(&self, table: HotTable, row: &Cells<'_>) -> Result<u64, StorageError> {
        let number = |column| row.integer(column).map(Option::unwrap_or_default);
        let ends = row.blob(5)?;
        let place = Place {
            stream: self.known.map_or(0, |(id, _)| id),
            segment: table.segment(),
            key: number(0)?,
            units: number(1)?,
            bytes_before: number(2)?,
            bytes: number(3)?,
            at: number(4)?,
            ends: ends.as_deref(),
        };
        let checksum = number(6)?;
        if place.matches(checksum) {
            Ok(checksum)
        } else {
            Err(self.damaged(table, row))
        }
    }

    fn damaged(&self, table: HotTable, row: &Cells<'_>) -> StorageError {
        let key = row.integer(0).ok().flatten().unwrap_or_default();
        let reason = format!(
            "a row of the stream {:?} is damaged: segment {}, key {key}",
            self.name,
            table.segment()
        );
        self.damage.replace(Some(reason.clone()));
        StorageError(reason)
    }

    /// Returns the schema number of the rows of one table, if there is a row.
    fn schema(&self, statement: &str) -> Result<Option<u64>, StorageError> {
        let schema = self
            .statements
            .one(statement, &[self.stream()], |row| row.integer(0))?;
        Ok(schema.flatten())
    }

    fn mark(
        &self,
        statement: &str,
        table: HotTable,
        values: &[u64],
    ) -> Result<Option<RowMeta>, StorageError> {
        let mut bound = vec![self.stream(), Value::Integer(table.segment())];
        bound.extend(values.iter().copied().map(Value::Integer));
        self.statements.one(statement, &bound, |row| {
            self.checked(table, row)?;
            machine_sql::row_mark(row)
        })
    }
}

/// The columns `key`, `units` and `ends` of a hot row, where the machine's decoder expects them.
struct AppendCells<'a>(&'a Cells<'a>);

impl Columns for AppendCells<'_> {
    fn integer(&self, column: usize) -> Result<Option<u64>, StorageError> {
        self.0.integer(column)
    }

    fn text(&self, _: usize) -> Result<Option<String>, StorageError> {
        Ok(None)
    }

    fn blob(&self, _: usize) -> Result<Option<Vec<u8>>, StorageError> {
        self.0.blob(5)
    }
}

/// The columns `ends` and `at` of a hot row, where the machine's decoder expects them.
struct WriterCells<'a>(&'a Cells<'a>);

impl Columns for WriterCells<'_> {
    fn integer(&self, column: usize) -> Result<Option<u64>, StorageError> {
        if column == 4 {
            self.0.integer(4)
        } else {
            Ok(None)
        }
    }

    fn text(&self, _: usize) -> Result<Option<String>, StorageError> {
        Ok(None)
    }

    fn blob(&self, column: usize) -> Result<Option<Vec<u8>>, StorageError> {
        if column == 5 {
            self.0.blob(5)
        } else {
            Ok(None)
        }
    }
}

impl Storage for StreamRows<'_> {
    fn layout(&self) -> Result<Layout, StorageError> {
        let Some((_, tables)) = self.known else {
            return Ok(Layout::default());
        };
        let newest_hot = self
            .statements
            .one(sql::NEWEST_HOT, &[self.stream()], |row| row.integer(0))?;
        // Without a row there is nothing to upgrade.
        let present = Layout::present(
            tables & HAS_STREAM != 0,
            tables & HAS_OUTBOX != 0,
            tables & HAS_CONTROL != 0,
        );
        let stored = |schema: Option<u64>, statement| match schema {
            None => Ok(None),
            Some(schema) => Ok(self.schema(statement)?.or(Some(schema))),
        };
        Ok(Layout {
            stream: stored(present.stream, sql::SCHEMA_OF_STREAM)?,
            outbox: stored(present.outbox, sql::SCHEMA_OF_OUTBOX)?,
            control: stored(present.control, sql::SCHEMA_OF_CONTROL)?,
            newest_hot: newest_hot.flatten(),
            ..present
        })
    }

    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        let values = [self.stream()];
        self.statements
            .one(sql::HEAD, &values, |row| machine_sql::head(row))
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        self.mark(sql::AT_OR_BEFORE, table, &[key.stored()])
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        let values = [after.stored(), bytes_before];
        self.mark(sql::FIRST_AT_OR_AFTER_BYTES, table, &values)
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        let values = [self.stream(), Value::Integer(table.segment())];
        self.statements.ask(sql::WRITERS, &values, |row| {
            let row = Cells(row);
            self.checked(table, &row)?;
            let writers = machine_sql::writers_of(&WriterCells(&row))?;
            writers.into_iter().for_each(&mut *each);
            Ok(())
        })
    }

    fn appends(
        &self,
        table: HotTable,
        from: RowKey,
        limit: u64,
    ) -> Result<Vec<RowAppends>, StorageError> {
        let values = [
            self.stream(),
            Value::Integer(table.segment()),
            Value::Integer(from.stored()),
            Value::Integer(limit),
        ];
        let mut appends = Vec::new();
        self.statements.ask(sql::APPENDS, &values, |row| {
            let row = Cells(row);
            self.checked(table, &row)?;
            appends.push(machine_sql::appends_of(&AppendCells(&row))?);
            Ok(())
        })?;
        Ok(appends)
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        let values = [self.stream(), Value::Text(id)];
        self.statements
            .one(sql::PRODUCER, &values, |row| machine_sql::producer(row))
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        let values = [self.stream(), Value::Integer(number)];
        self.statements
            .one(sql::SEGMENT, &values, |row| machine_sql::segment(row))
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        let values = [self.stream()];
        self.statements.ask(sql::RETRIED_SEGMENTS, &values, |row| {
            let (number, attempts) = machine_sql::retried_segment(&Cells(row))?;
            each(number, attempts);
            Ok(())
        })
    }

    fn append_ends(&self, segment: u64) -> Result<Option<Bytes>, StorageError> {
        let values = [self.stream(), Value::Integer(segment)];
        let ends = self
            .statements
            .one(sql::APPEND_ENDS, &values, |row| row.blob(0))?;
        Ok(ends.flatten().map(Bytes::from))
    }

    fn manifest(&self, segment: u64) -> Result<Option<ManifestRow>, StorageError> {
        let values = [self.stream(), Value::Integer(segment)];
        self.statements
            .one(sql::MANIFEST, &values, |row| machine_sql::manifest(row))
    }

    fn pin(&self, fork: Incarnation) -> Result<Option<Pin>, StorageError> {
        let fork = fork.to_string();
        let values = [self.stream(), Value::Text(&fork)];
        self.statements
            .one(sql::PIN, &values, |row| machine_sql::pin(row))
    }

    fn pins(&self) -> Result<u64, StorageError> {
        let values = [self.stream()];
        let count = self
            .statements
            .one(sql::PINS, &values, |row| row.integer(0))?;
        Ok(count.flatten().unwrap_or_default())
    }

    fn tasks(&self, queue: &Queue, id: u64, limit: u64) -> Result<Vec<Task>, StorageError> {
        let queue = queue.to_string();
        let values = [
            self.stream(),
            Value::Text(&queue),
            Value::Integer(id),
            Value::Integer(limit),
        ];
        self.statements
            .list(sql::TASKS, &values, |row| machine_sql::task(row))
    }

    fn last_task(&self, queue: &Queue) -> Result<Option<Task>, StorageError> {
        let queue = queue.to_string();
        let values = [self.stream(), Value::Text(&queue)];
        self.statements
            .one(sql::LAST_TASK, &values, |row| machine_sql::task(row))
    }

    fn control(&self, from: &str, limit: u64) -> Result<Vec<ControlRow>, StorageError> {
        let values = [self.stream(), Value::Text(from), Value::Integer(limit)];
        self.statements
            .list(sql::CONTROL, &values, |row| machine_sql::control(row))
    }

    fn sealed_segments(&self, from: u64, limit: u64) -> Result<Vec<SealedSegment>, StorageError> {
        let values = [self.stream(), Value::Integer(from), Value::Integer(limit)];
        self.statements.list(sql::SEALED_SEGMENTS, &values, |row| {
            machine_sql::segment(row)
        })
    }

    fn sealed_producers(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<Vec<(ProducerStamp, Millis)>, StorageError> {
        let values = [self.stream(), Value::Text(after), Value::Integer(limit)];
        self.statements.list(sql::SEALED_PRODUCERS, &values, |row| {
            machine_sql::sealed_producer(row)
        })
    }

    fn sealed_sums(&self) -> Result<Sums, StorageError> {
        let sums = self
            .statements
            .one(sql::SEALED_SUMS, &[self.stream()], |row| {
                machine_sql::sums(row)
            })?;
        Ok(sums.expect("sums are one row"))
    }

    fn minutes(
        &self,
        table: HotTable,
        before: RowKey,
        since: Millis,
    ) -> Result<Vec<MinuteOfRows>, StorageError> {
        let values = [
            self.stream(),
            Value::Integer(table.segment()),
            Value::Integer(before.stored()),
            Value::Integer(since.0),
        ];
        let mut minutes = MinutesOfRows::default();
        self.statements.ask(sql::RECENT, &values, |row| {
            let row = Cells(row);
            self.checked(table, &row)?;
            minutes.add(&machine_sql::row_mark(&row)?);
            Ok(())
        })?;
        Ok(minutes.finish())
    }
}
