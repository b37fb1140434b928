//! The machine's storage port and its writes, over `rusqlite` connections: [`Database`] has the
//! rows of one stream, and [`Shard`] those of many. The server uses shards. The simulator uses
//! databases in memory.
#![forbid(unsafe_code)]

mod shard;
mod statements;

use bytes::Bytes;
use machine::outbox::{Queue, Task};
use machine::rows::{
    ControlRow, HotTable, Incarnation, Layout, ManifestRow, MinuteOfRows, Pin, ProducerStamp,
    ProducerState, RowAppends, RowKey, RowMeta, SealedSegment, StreamRow, Sums, WriterColumns,
};
use machine::sql::{self, Columns as _, Value};
use machine::{Millis, Span, Storage, StorageError, Write};
use rusqlite::{Connection, Result};
use statements::{Cells, Statements, unreadable};

pub use shard::{Copied, Identity, OpenError, Shard, StreamRows};

/// More than the statements of [`machine::sql`] for two segments. Statements of dropped tables are
/// evicted.
const STATEMENTS_KEPT: usize = 64;

/// The database of one stream.
#[derive(Debug)]
pub struct Database {
    statements: Statements,
}

impl Database {
    /// Uses a connection to a database that holds only this stream.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        Self {
            statements: Statements(connection),
        }
    }

    /// Opens a database in memory.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn in_memory() -> Result<Self> {
        Connection::open_in_memory().map(Self::new)
    }

    /// Closes the database, which moves everything into its one file.
    ///
    /// # Errors
    /// When it cannot be closed.
    pub fn close(self) -> Result<()> {
        self.statements.0.close().map_err(|(_, error)| error)
    }

    /// Opens a transaction. [`Self::commit`] makes its writes durable all at once. Reads see them
    /// before that.
    ///
    /// # Errors
    /// When the database cannot be locked or read.
    pub fn begin(&self) -> Result<()> {
        self.statements.execute("BEGIN IMMEDIATE", &[]).map(drop)
    }

    /// Commits the open transaction.
    ///
    /// # Errors
    /// When the commit failed. The transaction may or may not be durable.
    pub fn commit(&self) -> Result<()> {
        self.statements.execute("COMMIT", &[]).map(drop)
    }

    /// Applies writes, in a transaction if one is open.
    ///
    /// # Errors
    /// When the database refuses one of them. Those before it stay until the transaction is rolled
    /// back.
    pub fn apply(&self, writes: &[Write]) -> Result<()> {
        for write in writes {
            sql::statements(write, |statement, values| {
                self.statements.execute(statement, values).map(drop)
            })?;
        }
        Ok(())
    }

    /// Returns the joined frames of the rows of a span.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError> {
        let keys = [
            Value::Integer(span.from.stored()),
            Value::Integer(span.to.stored()),
        ];
        let frames = self
            .statements
            .one(&sql::frames(span.table), &keys, |row| {
                let bytes = row
                    .0
                    .get_ref(0)
                    .and_then(|bytes| Ok(bytes.as_blob()?.to_vec()));
                bytes.map_err(unreadable)
            })?;
        Ok(frames.unwrap_or_default())
    }

    /// Returns the name in the row of the stream, which every version has.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn name(&self) -> Result<Option<String>, OpenError> {
        let name = self
            .statements
            .one("SELECT name FROM stream WHERE id = 1", &[], |row| {
                row.text(0)
            });
        let name = name.map_err(|error| OpenError::NotThis(error.0))?;
        Ok(name.flatten())
    }

    /// Returns the names of the tables.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn tables(&self) -> Result<Vec<String>> {
        let names = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name";
        let mut statement = self.statements.0.prepare_cached(names)?;
        statement.query_map([], |row| row.get(0))?.collect()
    }
}

impl Storage for Database {
    fn layout(&self) -> Result<Layout, StorageError> {
        sql::layout(|statement, each| self.statements.ask(statement, &[], |row| each(&Cells(row))))
    }

    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        self.statements.one(sql::HEAD, &[], |row| sql::head(row))
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        let key = Value::Integer(key.stored());
        self.statements
            .one(&sql::at_or_before(table), &[key], |row| sql::row_mark(row))
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        let values = [after.stored(), bytes_before].map(Value::Integer);
        self.statements
            .one(&sql::first_at_or_after_bytes(table), &values, |row| {
                sql::row_mark(row)
            })
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        self.statements.ask(&sql::writers(table), &[], |row| {
            sql::writers_of(&Cells(row))?
                .into_iter()
                .for_each(&mut *each);
            Ok(())
        })
    }

    fn appends(
        &self,
        table: HotTable,
        from: RowKey,
        limit: u64,
    ) -> Result<Vec<RowAppends>, StorageError> {
        let values = [from.stored(), limit].map(Value::Integer);
        self.statements
            .list(&sql::appends(table), &values, |row| sql::appends_of(row))
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        self.statements
            .one(sql::PRODUCER, &[Value::Text(id)], |row| sql::producer(row))
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        self.statements
            .one(sql::SEGMENT, &[Value::Integer(number)], |row| {
                sql::segment(row)
            })
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        self.statements.ask(sql::RETRIED_SEGMENTS, &[], |row| {
            let (number, attempts) = sql::retried_segment(&Cells(row))?;
            each(number, attempts);
            Ok(())
        })
    }

    fn append_ends(&self, segment: u64) -> Result<Option<Bytes>, StorageError> {
        let values = [Value::Integer(segment)];
        let ends = self
            .statements
            .one(sql::APPEND_ENDS, &values, |row| row.blob(0))?;
        Ok(ends.flatten().map(Bytes::from))
    }

    fn manifest(&self, segment: u64) -> Result<Option<ManifestRow>, StorageError> {
        self.statements
            .one(sql::MANIFEST, &[Value::Integer(segment)], |row| {
                sql::manifest(row)
            })
    }

    fn pin(&self, fork: Incarnation) -> Result<Option<Pin>, StorageError> {
        let fork = fork.to_string();
        self.statements
            .one(sql::PIN, &[Value::Text(&fork)], |row| sql::pin(row))
    }

    fn pins(&self) -> Result<u64, StorageError> {
        let count = self.statements.one(sql::PINS, &[], |row| row.integer(0))?;
        Ok(count.flatten().unwrap_or_default())
    }

    fn tasks(&self, queue: &Queue, id: u64, limit: u64) -> Result<Vec<Task>, StorageError> {
        let queue = queue.to_string();
        let values = [
            Value::Text(&queue),
            Value::Integer(id),
            Value::Integer(limit),
        ];
        self.statements
            .list(sql::TASKS, &values, |row| sql::task(row))
    }

    fn last_task(&self, queue: &Queue) -> Result<Option<Task>, StorageError> {
        let queue = queue.to_string();
        self.statements
            .one(sql::LAST_TASK, &[Value::Text(&queue)], |row| sql::task(row))
    }

    fn control(&self, from: &str, limit: u64) -> Result<Vec<ControlRow>, StorageError> {
        let values = [Value::Text(from), Value::Integer(limit)];
        self.statements
            .list(sql::CONTROL, &values, |row| sql::control(row))
    }

    fn sealed_segments(&self, from: u64, limit: u64) -> Result<Vec<SealedSegment>, StorageError> {
        let values = [Value::Integer(from), Value::Integer(limit)];
        self.statements
            .list(sql::SEALED_SEGMENTS, &values, |row| sql::segment(row))
    }

    fn sealed_producers(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<Vec<(ProducerStamp, Millis)>, StorageError> {
        let values = [Value::Text(after), Value::Integer(limit)];
        self.statements.list(sql::SEALED_PRODUCERS, &values, |row| {
            sql::sealed_producer(row)
        })
    }

    fn sealed_sums(&self) -> Result<Sums, StorageError> {
        let sums = self
            .statements
            .one(sql::SEALED_SUMS, &[], |row| sql::sums(row))?;
        Ok(sums.expect("sums are one row"))
    }

    fn minutes(
        &self,
        table: HotTable,
        before: RowKey,
        since: Millis,
    ) -> Result<Vec<MinuteOfRows>, StorageError> {
        let values = [Value::Integer(before.stored()), Value::Integer(since.0)];
        self.statements
            .list(&sql::minutes(table), &values, |row| sql::minute(row))
    }
}
