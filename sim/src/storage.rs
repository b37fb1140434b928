//! What an object has stored: ordered maps, and beside them, when asked for, real SQLite that executes the machine's own
//! SQL text. Where both are there, the machine reads from SQLite and both must say the same.

use std::collections::BTreeMap;

use machine::plan::Plan;
use machine::rows::{Head, HotRow, HotTable, Incarnation, RowKey, RowMark, WriterMark};
use machine::sql::{self, Value};
use machine::{Rows, Unreadable, Write};

/// The largest integer that a JavaScript number holds exactly.
const INTEGER_MAX: u64 = (1 << 53) - 1;
/// The largest value that the platform stores.
const VALUE_BYTES_MAX: usize = 2_000_000;

/// Which storage the machine reads from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Map,
    Sqlite,
}

/// The rows in ordered maps, as strict as SQLite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    has_tables: bool,
    head: Option<Head>,
    hot: BTreeMap<HotTable, BTreeMap<RowKey, HotRow>>,
}

impl Shelf {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_tables && self.head.is_none() && self.hot.is_empty()
    }

    #[must_use]
    pub const fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// The rows of the open segment, in order.
    pub fn rows(&self) -> impl Iterator<Item = &HotRow> {
        let table = self.head.as_ref().and_then(|head| self.hot.get(&head.hot));
        table.into_iter().flat_map(BTreeMap::values)
    }

    /// The last row of the open segment.
    #[must_use]
    pub fn last_row(&self) -> Option<&HotRow> {
        self.hot
            .get(&self.head.as_ref()?.hot)?
            .last_key_value()
            .map(|(_, row)| row)
    }

    #[must_use]
    pub fn row_count(&self) -> u64 {
        self.hot.values().map(|table| table.len() as u64).sum()
    }

    fn apply(&mut self, write: &Write) -> Result<(), String> {
        match write {
            Write::CreateTables { hot } => {
                if self.has_tables || self.hot.contains_key(hot) {
                    return Err("the tables exist already".to_owned());
                }
                self.has_tables = true;
                self.hot.insert(*hot, BTreeMap::new());
            }
            Write::InsertHead(head) => {
                if !self.has_tables || self.head.is_some() {
                    return Err("there is no place for a head row".to_owned());
                }
                self.head = Some(head.clone());
            }
            Write::UpdateHead(new) => {
                if !self.has_tables {
                    return Err("there is no table of the head row".to_owned());
                }
                if let Some(head) = &mut self.head {
                    head.segment = new.segment;
                    head.hot = new.hot;
                    head.touched_at = new.touched_at;
                    head.alarm_at = new.alarm_at;
                    head.closed.clone_from(&new.closed);
                }
            }
            Write::InsertHot { table, row } => {
                let rows = self.hot.get_mut(table).ok_or("there is no such hot table")?;
                if rows.insert(row.key, row.clone()).is_some() {
                    return Err(format!("the key {} is taken", row.key.stored()));
                }
            }
            Write::DropTables => {
                if !self.has_tables {
                    return Err("there is no table to drop".to_owned());
                }
                *self = Self::default();
            }
        }
        Ok(())
    }

    /// The writes that make this of nothing.
    #[cfg(not(target_arch = "wasm32"))]
    fn as_writes(&self) -> Vec<Write> {
        let Some(head) = &self.head else { return Vec::new() };
        let mut writes = vec![
            Write::CreateTables { hot: head.hot },
            Write::InsertHead(head.clone()),
        ];
        writes.extend(self.rows().map(|row| Write::InsertHot {
            table: head.hot,
            row: row.clone(),
        }));
        writes
    }
}

/// What the present instance of an object sees of its storage.
#[derive(Debug)]
pub struct Store {
    pub shelf: Shelf,
    #[cfg(not(target_arch = "wasm32"))]
    sqlite: Option<sqlite::Sqlite>,
}

impl Store {
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::Map => Self {
                shelf: Shelf::default(),
                #[cfg(not(target_arch = "wasm32"))]
                sqlite: None,
            },
            #[cfg(not(target_arch = "wasm32"))]
            Kind::Sqlite => Self {
                shelf: Shelf::default(),
                sqlite: Some(sqlite::Sqlite::new()),
            },
            #[cfg(target_arch = "wasm32")]
            Kind::Sqlite => panic!("there is no SQLite here"),
        }
    }

    /// Carries out the writes of one turn.
    ///
    /// # Errors
    /// When the storage refuses one of them.
    pub fn apply(&mut self, writes: &[Write]) -> Result<(), String> {
        for write in writes {
            sql::statements(write, check)?;
            self.shelf.apply(write)?;
        }
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            sqlite.apply(writes)?;
        }
        Ok(())
    }

    /// Goes back to what is durable.
    ///
    /// # Errors
    /// When the storage refuses to be restored.
    pub fn restore(&mut self, durable: &Shelf) -> Result<(), String> {
        self.shelf.clone_from(durable);
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &mut self.sqlite {
            *sqlite = sqlite::Sqlite::new();
            sqlite.apply(&durable.as_writes())?;
        }
        Ok(())
    }

    /// The joined frames of the rows that a plan names.
    ///
    /// # Errors
    /// When the storage cannot be read.
    pub fn frames(&self, plan: &Plan) -> Result<Vec<u8>, Unreadable> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.frames(plan);
        }
        let mut frames = Vec::new();
        for span in &plan.spans {
            let table = self
                .shelf
                .hot
                .get(&span.table)
                .ok_or_else(|| Unreadable("no such table".to_owned()))?;
            table
                .range(span.from..=span.to)
                .for_each(|(_, row)| frames.extend_from_slice(&row.frames));
        }
        Ok(frames)
    }

    /// How many tables there are, where that can be told.
    #[must_use]
    pub fn table_count(&self) -> u64 {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.table_count();
        }
        u64::from(self.shelf.has_tables) + self.shelf.hot.len() as u64
    }
}

/// Makes a durable copy follow the writes of a commit.
///
/// # Errors
/// When one of them is refused, which the store did not do.
pub fn commit(durable: &mut Shelf, writes: &[Write]) -> Result<(), String> {
    writes.iter().try_for_each(|write| durable.apply(write))
}

/// What every statement must keep to on the platform.
fn check(statement: &str, values: &[Value<'_>]) -> Result<(), String> {
    for value in values {
        match value {
            Value::Integer(integer) if *integer > INTEGER_MAX => {
                return Err(format!(
                    "{integer} is bound, which JavaScript cannot hold: {statement}"
                ));
            }
            Value::Blob(bytes) if bytes.len() > VALUE_BYTES_MAX => {
                return Err(format!(
                    "{} bytes are bound, which is too much: {statement}",
                    bytes.len()
                ));
            }
            Value::Null | Value::Integer(_) | Value::Text(_) | Value::Blob(_) => {}
        }
    }
    Ok(())
}

impl Rows for Store {
    fn head(&self) -> Result<Option<Head>, Unreadable> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.head();
        }
        Ok(self.shelf.head.clone())
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMark>, Unreadable> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.at_or_before(table, key);
        }
        let rows = self
            .shelf
            .hot
            .get(&table)
            .ok_or_else(|| Unreadable("no such table".to_owned()))?;
        Ok(rows.range(..=key).next_back().map(|(_, row)| RowMark {
            key: row.key,
            units: row.units,
            bytes_before: row.bytes_before,
            bytes: row.frames.len() as u64,
            at: row.at,
        }))
    }

    fn writers(&self, table: HotTable, each: &mut dyn FnMut(WriterMark)) -> Result<(), Unreadable> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.writers(table, each);
        }
        let rows = self
            .shelf
            .hot
            .get(&table)
            .ok_or_else(|| Unreadable("no such table".to_owned()))?;
        for row in rows
            .values()
            .filter(|row| row.producer.is_some() || row.stream_seq.is_some())
        {
            each(WriterMark {
                producer: row.producer.clone(),
                stream_seq: row.stream_seq.clone(),
            });
        }
        Ok(())
    }

    /// Lines are not stored: the object answers this.
    fn attached(&self, _incarnation: Incarnation) -> Result<u64, Unreadable> {
        Ok(0)
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod sqlite {
    use machine::plan::Plan;
    use machine::rows::{Head, HotTable, RowKey, RowMark, WriterMark};
    use machine::sql::{self, Columns, Value};
    use machine::{Unreadable, Write};
    use rusqlite::types::{ToSqlOutput, ValueRef};
    use rusqlite::{Connection, Row, ToSql, params_from_iter};

    /// A database in memory.
    #[derive(Debug)]
    pub(super) struct Sqlite {
        connection: Connection,
    }

    impl Sqlite {
        pub(super) fn new() -> Self {
            let connection = Connection::open_in_memory().expect("a database in memory can be opened");
            connection.set_prepared_statement_cache_capacity(32);
            Self { connection }
        }

        /// In one transaction, as the object does.
        pub(super) fn apply(&self, writes: &[Write]) -> Result<(), String> {
            let transaction = self
                .connection
                .unchecked_transaction()
                .map_err(|error| error.to_string())?;
            for write in writes {
                sql::statements(write, |statement, values| {
                    let values = values.iter().map(|value| Bound(*value));
                    let mut statement = self
                        .connection
                        .prepare_cached(statement)
                        .map_err(|error| error.to_string())?;
                    statement
                        .execute(params_from_iter(values))
                        .map(drop)
                        .map_err(|error| error.to_string())
                })?;
            }
            transaction.commit().map_err(|error| error.to_string())
        }

        pub(super) fn frames(&self, plan: &Plan) -> Result<Vec<u8>, Unreadable> {
            let mut frames = Vec::new();
            for span in &plan.spans {
                let keys = [
                    Value::Integer(span.from.stored()),
                    Value::Integer(span.to.stored()),
                ];
                self.ask(sql::frames(span.table), &keys, |row| {
                    let bytes: Vec<u8> = row.get(0).map_err(unreadable)?;
                    frames.extend_from_slice(&bytes);
                    Ok(())
                })?;
            }
            Ok(frames)
        }

        pub(super) fn head(&self) -> Result<Option<Head>, Unreadable> {
            let mut exists = false;
            self.ask(sql::STREAM_EXISTS, &[], |_| {
                exists = true;
                Ok(())
            })?;
            let mut head = None;
            if exists {
                self.ask(sql::HEAD, &[], |row| {
                    head = Some(sql::head(&Cells(row))?);
                    Ok(())
                })?;
            }
            Ok(head)
        }

        pub(super) fn at_or_before(
            &self,
            table: HotTable,
            key: RowKey,
        ) -> Result<Option<RowMark>, Unreadable> {
            let mut mark = None;
            self.ask(sql::at_or_before(table), &[Value::Integer(key.stored())], |row| {
                mark = Some(sql::row_mark(&Cells(row))?);
                Ok(())
            })?;
            Ok(mark)
        }

        pub(super) fn writers(
            &self,
            table: HotTable,
            each: &mut dyn FnMut(WriterMark),
        ) -> Result<(), Unreadable> {
            self.ask(sql::writers(table), &[], |row| {
                each(sql::writer_mark(&Cells(row))?);
                Ok(())
            })
        }

        pub(super) fn table_count(&self) -> u64 {
            let count = "SELECT count(*) FROM sqlite_master WHERE type = 'table'";
            let count: i64 = self
                .connection
                .query_row(count, [], |row| row.get(0))
                .unwrap_or(-1);
            count.unsigned_abs()
        }

        fn ask(
            &self,
            statement: &str,
            values: &[Value<'_>],
            mut each: impl FnMut(&Row<'_>) -> Result<(), Unreadable>,
        ) -> Result<(), Unreadable> {
            let mut statement = self.connection.prepare_cached(statement).map_err(unreadable)?;
            let values = values.iter().map(|value| Bound(*value));
            let mut rows = statement.query(params_from_iter(values)).map_err(unreadable)?;
            while let Some(row) = rows.next().map_err(unreadable)? {
                each(row)?;
            }
            Ok(())
        }
    }

    fn unreadable(error: rusqlite::Error) -> Unreadable {
        Unreadable(error.to_string())
    }

    struct Bound<'a>(Value<'a>);

    impl ToSql for Bound<'_> {
        fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
            Ok(match self.0 {
                Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
                Value::Integer(integer) => ToSqlOutput::Borrowed(ValueRef::Integer(integer.cast_signed())),
                Value::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
                Value::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            })
        }
    }

    struct Cells<'a>(&'a Row<'a>);

    impl Columns for Cells<'_> {
        fn integer(&self, column: usize) -> Result<Option<u64>, Unreadable> {
            let value: Option<i64> = self.0.get(column).map_err(unreadable)?;
            Ok(value.map(i64::cast_unsigned))
        }

        fn text(&self, column: usize) -> Result<Option<String>, Unreadable> {
            self.0.get(column).map_err(unreadable)
        }
    }
}
