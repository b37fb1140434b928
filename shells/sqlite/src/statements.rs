//! Statements on a connection, with the machine's values and columns.

use machine::StorageError;
use machine::sql::{Columns, Value};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Result, Row, ToSql, params_from_iter};

/// A connection whose statements are prepared once.
#[derive(Debug)]
pub(crate) struct Statements(pub(crate) Connection);

impl Statements {
    /// Executes a statement. Returns how many rows it has changed.
    pub(crate) fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<usize> {
        let values = values.iter().map(|value| Bound(*value));
        let mut statement = self.0.prepare_cached(statement)?;
        statement.execute(params_from_iter(values))
    }

    /// Hands over the rows of a result, in order.
    pub(crate) fn ask(
        &self,
        statement: &str,
        values: &[Value<'_>],
        mut each: impl FnMut(&Row<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut statement = self.0.prepare_cached(statement).map_err(unreadable)?;
        let values = values.iter().map(|value| Bound(*value));
        let mut rows = statement
            .query(params_from_iter(values))
            .map_err(unreadable)?;
        while let Some(row) = rows.next().map_err(unreadable)? {
            each(row)?;
        }
        Ok(())
    }

    /// Decodes the last row of a result.
    pub(crate) fn one<T>(
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

    /// Decodes all rows of a result.
    pub(crate) fn list<T>(
        &self,
        statement: &str,
        values: &[Value<'_>],
        decode: impl Fn(&Cells<'_>) -> Result<T, StorageError>,
    ) -> Result<Vec<T>, StorageError> {
        let mut list = Vec::new();
        self.ask(statement, values, |row| {
            list.push(decode(&Cells(row))?);
            Ok(())
        })?;
        Ok(list)
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what `map_err` hands over"
)]
pub(crate) fn unreadable(error: rusqlite::Error) -> StorageError {
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

pub(crate) struct Cells<'a>(pub(crate) &'a Row<'a>);

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
