//! What an object has stored: ordered maps. On request SQLite executes the machine's SQL text
//! beside them. Then the machine reads from SQLite, and both must agree.

use machine::sql::{self, Value};
use machine::{MemoryRows, Span, Storage, StorageError, Write};

use crate::platform;

/// The largest integer that a JavaScript number holds exactly.
const INTEGER_MAX: u64 = (1 << 53) - 1;
/// The largest value that the platform stores.
const VALUE_BYTES_MAX: usize = 2_000_000;

/// The storage that the machine reads from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Map,
    Sqlite,
}

/// The storage as the present instance sees it.
#[derive(Debug)]
pub struct Store {
    pub rows: MemoryRows,
    #[cfg(not(target_arch = "wasm32"))]
    sqlite: Option<sqlite::Database>,
}

impl Store {
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::Map => Self {
                rows: MemoryRows::default(),
                #[cfg(not(target_arch = "wasm32"))]
                sqlite: None,
            },
            #[cfg(not(target_arch = "wasm32"))]
            Kind::Sqlite => Self {
                rows: MemoryRows::default(),
                sqlite: Some(database()),
            },
            #[cfg(target_arch = "wasm32")]
            Kind::Sqlite => panic!("there is no SQLite here"),
        }
    }

    /// Applies the writes of one turn.
    ///
    /// # Errors
    ///
    /// When the storage refuses one of them.
    pub fn apply(&mut self, writes: &[Write]) -> Result<(), String> {
        for write in writes {
            sql::statements(write, check)?;
            self.rows.apply(write)?;
        }
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            transact(sqlite, writes)?;
        }
        Ok(())
    }

    /// Returns the joined frames of the rows of a span.
    ///
    /// # Errors
    ///
    /// When the storage cannot be read.
    pub fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.frames(span);
        }
        self.rows.frames(span)
    }

    /// Returns the storage that the machine reads from.
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite;
        }
        &self.rows
    }

    /// Returns how many tables there are.
    #[must_use]
    pub fn table_count(&self) -> u64 {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            let tables = sqlite.tables().expect("a database in memory can be read");
            return tables.len() as u64;
        }
        self.rows.table_count()
    }
}

impl platform::Storage for Store {
    type Write = Write;
    type Disk = MemoryRows;

    fn persist(disk: &mut MemoryRows, writes: &[Write]) -> Result<(), String> {
        writes.iter().try_for_each(|write| disk.apply(write))
    }

    fn restore(&mut self, disk: &MemoryRows) -> Result<(), String> {
        self.rows.clone_from(disk);
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &mut self.sqlite {
            *sqlite = database();
            transact(sqlite, &disk.as_writes())?;
        }
        Ok(())
    }
}

/// Checks the platform's limits for every statement.
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

#[cfg(not(target_arch = "wasm32"))]
fn database() -> sqlite::Database {
    sqlite::Database::in_memory().expect("a database in memory can be opened")
}

/// Executes the statements in one transaction, as the object does.
#[cfg(not(target_arch = "wasm32"))]
fn transact(database: &sqlite::Database, writes: &[Write]) -> Result<(), String> {
    database
        .begin()
        .and_then(|()| database.apply(writes))
        .and_then(|()| database.commit())
        .map_err(|error| error.to_string())
}
