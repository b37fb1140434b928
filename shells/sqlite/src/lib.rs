//! The rows of a stream in SQLite: the machine's storage port and its writes, over a `rusqlite`
//! connection. The server uses it with one file per stream, the simulator with databases in memory.
#![forbid(unsafe_code)]

use machine::outbox::{Queue, Task};
use machine::rows::{
    HotTable, Layout, ProducerState, RowKey, RowMeta, SealedSegment, StreamRow, WriterColumns,
};
use machine::sql::{self, Columns, Value};
use machine::{Span, Storage, StorageError, Write};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Result, Row, ToSql, params_from_iter};

/// More than the statements of [`machine::sql`] for two segments. Statements of dropped tables are
/// evicted.
const STATEMENTS_KEPT: usize = 64;

/// The database of one stream.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
}

impl Database {
    /// Uses a connection to a database that holds only this stream.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        Self { connection }
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
        self.connection.close().map_err(|(_, error)| error)
    }

    /// Opens a transaction. [`Self::commit`] makes its writes durable all at once. Reads see them
    /// before that.
    ///
    /// # Errors
    /// When the database cannot be locked or read.
    pub fn begin(&self) -> Result<()> {
        self.execute("BEGIN IMMEDIATE", &[])
    }

    /// Commits the open transaction.
    ///
    /// # Errors
    /// When the commit failed. The transaction may or may not be durable.
    pub fn commit(&self) -> Result<()> {
        self.execute("COMMIT", &[])
    }

    /// Applies writes, in a transaction if one is open.
    ///
    /// # Errors
    /// When the database refuses one of them. Those before it stay until the transaction is rolled
    /// back.
    pub fn apply(&self, writes: &[Write]) -> Result<()> {
        for write in writes {
            sql::statements(write, |statement, values| self.execute(statement, values))?;
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
        let frames = self.one(&sql::frames(span.table), &keys, |row| {
            let bytes = row
                .0
                .get_ref(0)
                .and_then(|bytes| Ok(bytes.as_blob()?.to_vec()));
            bytes.map_err(unreadable)
        })?;
        Ok(frames.unwrap_or_default())
    }

    /// Decodes the last row of a result.
    fn one<T>(
        &self,
        statement: &str,
        values: &[Value<'_>],
        decode: impl Fn(&Cells<'_>) -> Result<T, StorageError>,
    ) -> Result<Option<T>, StorageError> {
        let mut answer = None;
        self.ask(statement, values, |row| {
            answer = Some(decode(&Cells(row))?);
            Ok(())
        })?;
        Ok(answer)
    }

    /// Returns the names of the tables.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn tables(&self) -> Result<Vec<String>> {
        let names = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name";
        let mut statement = self.connection.prepare_cached(names)?;
        statement.query_map([], |row| row.get(0))?.collect()
    }

    fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<()> {
        let values = values.iter().map(|value| Bound(*value));
        let mut statement = self.connection.prepare_cached(statement)?;
        statement.execute(params_from_iter(values)).map(drop)
    }

    fn ask(
        &self,
        statement: &str,
        values: &[Value<'_>],
        mut each: impl FnMut(&Row<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut statement = self
            .connection
            .prepare_cached(statement)
            .map_err(unreadable)?;
        let values = values.iter().map(|value| Bound(*value));
        let mut rows = statement
            .query(params_from_iter(values))
            .map_err(unreadable)?;
        while let Some(row) = rows.next().map_err(unreadable)? {
            each(row)?;
        }
        Ok(())
    }
}

impl Storage for Database {
    fn layout(&self) -> Result<Layout, StorageError> {
        sql::layout(|statement, each| self.ask(statement, &[], |row| each(&Cells(row))))
    }

    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        self.one(sql::HEAD, &[], |row| sql::head(row))
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        let key = Value::Integer(key.stored());
        self.one(&sql::at_or_before(table), &[key], |row| sql::row_mark(row))
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        let values = [after.stored(), bytes_before].map(Value::Integer);
        self.one(&sql::first_at_or_after_bytes(table), &values, |row| {
            sql::row_mark(row)
        })
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        self.ask(&sql::writers(table), &[], |row| {
            sql::writers_of(&Cells(row))?
                .into_iter()
                .for_each(&mut *each);
            Ok(())
        })
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        self.one(sql::PRODUCER, &[Value::Text(id)], |row| sql::producer(row))
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        self.one(sql::SEGMENT, &[Value::Integer(number)], |row| {
            sql::segment(row)
        })
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        self.ask(sql::RETRIED_SEGMENTS, &[], |row| {
            let (number, attempts) = sql::retried_segment(&Cells(row))?;
            each(number, attempts);
            Ok(())
        })
    }

    fn tasks(&self, queue: &Queue, id: u64, limit: u64) -> Result<Vec<Task>, StorageError> {
        let queue = queue.to_string();
        let values = [
            Value::Text(&queue),
            Value::Integer(id),
            Value::Integer(limit),
        ];
        let mut tasks = Vec::new();
        self.ask(sql::TASKS, &values, |row| {
            tasks.push(sql::task(&Cells(row))?);
            Ok(())
        })?;
        Ok(tasks)
    }

    fn last_task(&self, queue: &Queue) -> Result<Option<Task>, StorageError> {
        let queue = queue.to_string();
        self.one(sql::LAST_TASK, &[Value::Text(&queue)], |row| sql::task(row))
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what `map_err` hands over"
)]
fn unreadable(error: rusqlite::Error) -> StorageError {
    StorageError(error.to_string())
}

struct Bound<'a>(Value<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Integer(integer) => {
                ToSqlOutput::Borrowed(ValueRef::Integer(integer.cast_signed()))
            }
            Value::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Value::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

struct Cells<'a>(&'a Row<'a>);

impl Columns for Cells<'_> {
    fn integer(&self, column: usize) -> Result<Option<u64>, StorageError> {
        let value: Option<i64> = self.0.get(column).map_err(unreadable)?;
        Ok(value.map(i64::cast_unsigned))
    }

    fn text(&self, column: usize) -> Result<Option<String>, StorageError> {
        self.0.get(column).map_err(unreadable)
    }

    fn blob(&self, column: usize) -> Result<Option<Vec<u8>>, StorageError> {
        self.0.get(column).map_err(unreadable)
    }
}
