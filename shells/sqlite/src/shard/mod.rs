//! Many streams in one database, with one commit for all of them.

mod checksum;
mod copy;
mod rows;
mod sql;
mod wal;

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use checksum::Place;
pub use copy::Copied;
use machine::admin::Listed;
use machine::rows::{CONTROL_SCHEMA, HotRow, HotTable, OUTBOX_SCHEMA, SCHEMA};
use machine::sql::{self as machine_sql, Columns, Value};
use machine::{AlarmChange, Millis, StorageError, Write};
pub use rows::StreamRows;
use rows::View;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Result};
use sql::{HAS_CONTROL, HAS_OUTBOX, HAS_STREAM};

use crate::statements::{Cells, Statements};

/// More than the statements of this dialect.
const STATEMENTS_KEPT: usize = 80;
/// How long a statement waits for another connection of the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Free pages that a file keeps, because the next appends need them.
const FREE_PAGES_KEPT: u64 = 256;
/// Free pages that are given back at once, so that it takes no longer than a commit.
const FREE_PAGES_MOVED: u64 = 512;

/// Size of the log at which the writer waits for reads. SQLite moves the log into the file by
/// itself, but can begin the log anew only while nobody reads from it. Without a wait, reads that
/// overlap would make it grow for ever.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// If reads outlast a wait, the writer waits again when the log has grown by this size.
const LOG_BYTES_MORE: u64 = 8 << 20;
/// How often the writer waits, and how long. Newer reads can take the place of the read that SQLite
/// waits for, and it then waits for them as well. So several short waits do more than a long one.
const LOG_WAITS: u32 = 4;
const LOG_WAIT: Duration = Duration::from_millis(50);

/// Which shard of which directory a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The random id of the directory.
    pub directory: String,
    /// The number of the shard, from 0.
    pub number: u64,
    /// How many shards the directory has.
    pub count: u64,
}

/// Why a shard's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite refuses it.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// Its content is not that of a shard, or it belongs elsewhere.
    #[error("{0}")]
    NotThis(String),
}

/// A connection to the database of a shard.
#[derive(Debug)]
pub struct Shard {
    statements: Statements,
    /// Whether rows were deleted since pages were last given back.
    has_freed: Cell<bool>,
    /// The log, if it writes.
    log: Option<Log>,
}

/// The log of a writer.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    /// Size at which the writer waits for reads.
    bytes_max: Cell<u64>,
}

impl Log {
    fn of(database: &Path) -> Self {
        Self {
            path: wal::of(database),
            bytes_max: Cell::new(LOG_BYTES_MAX),
        }
    }
}

impl Shard {
    /// Makes the file of a shard.
    ///
    /// # Errors
    /// When it exists, or cannot be written.
    pub fn create(path: &Path, identity: &Identity, cache_kib: u32) -> Result<Self, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        // To be set before the first table is made.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        configure(&connection, cache_kib)?;
        let shard = Self::new(connection, Some(Log::of(path)))?;
        shard.begin()?;
        shard.statements.0.execute_batch(sql::CREATE)?;
        let values = [
            Value::Integer(sql::FORMAT),
            Value::Text(&identity.directory),
            Value::Integer(identity.number),
            Value::Integer(identity.count),
        ];
        shard.statements.execute(sql::INSERT_IDENTITY, &values)?;
        shard.commit()?;
        Ok(shard)
    }

    /// Opens the file of a shard for reads and writes. Everything visible is written and synced
    /// before this returns: after a sync has failed, the system may show what it will never write.
    ///
    /// # Errors
    /// When it is another file, a durable part of its log is damaged, or it cannot be read, written
    /// or synced.
    pub fn open(path: &Path, identity: &Identity, cache_kib: u32) -> Result<Self, OpenError> {
        wal::settle(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        configure(&connection, cache_kib)?;
        let shard = Self::new(connection, Some(Log::of(path)))?;
        let format = shard.check(identity)?;
        if format < sql::FORMAT {
            shard.upgrade(format)?;
        }
        shard.checkpoint()?;
        Ok(shard)
    }

    /// Opens the file of a shard that is open for writes, for reads beside them.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open_reader(path: &Path, cache_kib: u32) -> Result<Self, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
        Ok(Self::new(connection, None)?)
    }

    /// Reads which shard a file is.
    ///
    /// # Errors
    /// When the file is not a shard, or cannot be read.
    pub fn identity(path: &Path) -> Result<Identity, OpenError> {
        // The last connection that is closed empties the log.
        wal::settle(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        sync_fully(&connection)?;
        let (_, identity) = Self::new(connection, None)?.stated()?;
        Ok(identity)
    }

    /// Brings a file of an earlier format to the present one.
    fn upgrade(&self, from: u64) -> Result<(), OpenError> {
        self.begin()?;
        for (_, statements) in sql::UPGRADES.iter().filter(|(format, _)| *format > from) {
            self.statements.0.execute_batch(statements)?;
        }
        self.statements
            .execute(sql::SET_FORMAT, &[Value::Integer(sql::FORMAT)])?;
        self.commit()?;
        Ok(())
    }

    fn new(connection: Connection, log: Option<Log>) -> Result<Self> {
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        // Otherwise SQLite compiles a statement again whenever a value is bound that may make
        // another plan better, which is at almost every execution.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        Ok(Self {
            statements: Statements(connection),
            has_freed: Cell::new(false),
            log,
        })
    }

    /// Reads the format of the file, and which shard it is.
    fn stated(&self) -> Result<(u64, Identity), OpenError> {
        let not_this = |error: StorageError| OpenError::NotThis(error.0);
        let stated = self.statements.one(sql::IDENTITY, &[], |row| {
            let number = |column| row.integer(column).map(Option::unwrap_or_default);
            let identity = Identity {
                directory: row.text(1)?.unwrap_or_default(),
                number: number(2)?,
                count: number(3)?,
            };
            Ok((number(0)?, identity))
        });
        let (format, identity) = stated
            .map_err(not_this)?
            .ok_or_else(|| OpenError::NotThis("it is not the file of a shard".to_owned()))?;
        let (first, present) = (sql::FIRST_FORMAT, sql::FORMAT);
        if (first..=present).contains(&format) {
            return Ok((format, identity));
        }
        let reason = if format > present {
            format!("newer than {present}, the newest that this version knows")
        } else {
            format!("older than {first}, the first that there was")
        };
        Err(OpenError::NotThis(format!(
            "its format {format} is {reason}"
        )))
    }

    /// Checks which shard a file is, and returns its format.
    fn check(&self, expected: &Identity) -> Result<u64, OpenError> {
        let (format, stated) = self.stated()?;
        if stated == *expected {
            return Ok(format);
        }
        Err(OpenError::NotThis(format!(
            "it is shard {} of {} of the directory {}, and not shard {} of {} of the directory {}",
            stated.number,
            stated.count,
            stated.directory,
            expected.number,
            expected.count,
            expected.directory
        )))
    }

    /// Moves everything from the log into the file, syncs the file, and empties the log.
    ///
    /// # Errors
    /// When a part may not be durable.
    pub fn checkpoint(&self) -> Result<(), OpenError> {
        if self.empty_log()? {
            return Ok(());
        }
        let busy = "its log is still being read".to_owned();
        Err(OpenError::NotThis(busy))
    }

    /// Moves everything from the log into the file, and empties the log. Returns whether no read
    /// has kept it from that.
    fn empty_log(&self) -> Result<bool> {
        let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
        let connection = &self.statements.0;
        let busy: i64 = connection.query_row(truncate, [], |row| row.get(0))?;
        Ok(busy == 0)
    }

    /// Closes the connection. The last one of a file moves everything into it.
    ///
    /// # Errors
    /// When it cannot be closed.
    pub fn close(self) -> Result<()> {
        self.statements.0.close().map_err(|(_, error)| error)
    }

    /// Returns the rows of a stream, with the writes of the open transaction. A reader can have the
    /// rows of one stream at a time, and they stay as they are until they are dropped.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn stream(&self, name: &str) -> Result<StreamRows<'_>, StorageError> {
        let is_reader = self.log.is_none();
        let view = is_reader.then(|| View::begin(&self.statements));
        let view = view.transpose()?;
        let known = self
            .statements
            .one(sql::STREAM, &[Value::Text(name)], |row| {
                Ok(row.integer(0)?.zip(row.integer(1)?))
            })?;
        Ok(StreamRows {
            statements: &self.statements,
            name: name.to_owned(),
            known: known.flatten(),
            damage: RefCell::default(),
            _view: view,
        })
    }

    /// Opens a transaction. [`Self::commit`] makes its writes durable all at once.
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

    /// Begins a turn in the open transaction.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn begin_turn(&self) -> Result<()> {
        self.statements.execute("SAVEPOINT turn", &[]).map(drop)
    }

    /// Ends a turn, and keeps its writes.
    ///
    /// # Errors
    /// When there is no turn.
    pub fn keep_turn(&self) -> Result<()> {
        self.statements.execute("RELEASE turn", &[]).map(drop)
    }

    /// Ends a turn, and takes its writes back.
    ///
    /// # Errors
    /// When the whole transaction is gone. SQLite rolls it back after some errors.
    pub fn undo_turn(&self) -> Result<()> {
        self.statements.execute("ROLLBACK TO turn", &[])?;
        self.keep_turn()
    }

    /// Carries out what a turn of a stream writes.
    ///
    /// # Errors
    /// When the database refuses a part. [`Self::undo_turn`] takes the others back.
    pub fn apply(&self, name: &str, writes: &[Write], alarm: AlarmChange) -> Result<()> {
        let known = self.stream(name).map_err(|error| refused(&error.0))?.known;
        let mut stream = Writing {
            shard: self,
            name,
            known,
        };
        for write in writes {
            stream.apply(write)?;
        }
        let at = match alarm {
            AlarmChange::Keep => return Ok(()),
            AlarmChange::Set(at) => Value::Integer(at.0),
            AlarmChange::Clear => Value::Null,
        };
        let values = [at, Value::Text(name)];
        self.statements
            .execute(sql::UPDATE_ALARM, &values)
            .map(drop)
    }

    /// Returns streams whose alarm is due, the earliest first, and the time of the next alarm that
    /// is not due.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn due(
        &self,
        now: Millis,
        limit: u64,
    ) -> Result<(Vec<String>, Option<Millis>), StorageError> {
        let now = Value::Integer(now.0.min(i64::MAX.unsigned_abs()));
        let mut names = Vec::new();
        self.statements
            .ask(sql::DUE, &[now, Value::Integer(limit)], |row| {
                names.extend(Cells(row).text(0)?);
                Ok(())
            })?;
        let next = self
            .statements
            .one(sql::NEXT_ALARM, &[now], |row| row.integer(0))?;
        Ok((names, next.flatten().map(Millis)))
    }

    /// Returns the streams from one name on and before another, at most `limit`, in order. A name
    /// can have tasks or control rows and no stream.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn list(&self, from: &str, before: &str, limit: u64) -> Result<Vec<Listed>, StorageError> {
        let range = [
            Value::Text(from),
            Value::Text(before),
            Value::Integer(limit),
        ];
        let names = self.statements.list(sql::NAMES, &range, |row| {
            let name = row.integer(0)?.zip(row.text(1)?);
            name.ok_or_else(|| StorageError("a stream has no name".to_owned()))
        })?;
        let listed = names.into_iter().map(|(id, name)| {
            let head = self
                .statements
                .one(sql::HEAD, &[Value::Integer(id)], |row| {
                    machine_sql::head(row)
                })?;
            Ok(Listed::of_rows(name, head.as_ref()))
        });
        listed.collect()
    }

    /// Frees the pages in memory that are also in the file.
    ///
    /// # Errors
    /// When they stay in memory.
    pub fn release_memory(&self) -> Result<()> {
        self.statements.0.execute_batch("PRAGMA shrink_memory")
    }

    /// Inserts a hot row.
    fn insert_place(&self, place: &Place<'_>, checksum: u64, frames: &[u8]) -> Result<()> {
        let is_small = frames.len() + place.ends.map_or(0, <[u8]>::len) <= sql::SMALL_BYTES_MAX;
        let large = if is_small {
            None
        } else {
            let values = [Value::Blob(frames)];
            self.statements.execute(sql::INSERT_LARGE, &values)?;
            Some(self.statements.0.last_insert_rowid().cast_unsigned())
        };
        let values = [
            Value::Integer(place.stream),
            Value::Integer(place.segment),
            Value::Integer(place.key),
            Value::Integer(place.units),
            Value::Integer(place.bytes_before),
            Value::Integer(place.bytes),
            Value::Integer(place.at),
            Value::Integer(checksum),
            place.ends.map_or(Value::Null, Value::Blob),
            large.map_or(Value::Null, Value::Integer),
            if is_small {
                Value::Blob(frames)
            } else {
                Value::Null
            },
        ];
        self.statements.execute(sql::INSERT_HOT, &values).map(drop)
    }

    /// Empties the log if it has become long. Waits a little for reads that go on meanwhile.
    ///
    /// # Errors
    /// When the outcome is unknown, as after a failed commit.
    pub fn bound_log(&self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        // There is no log before the first commit.
        let bytes = fs::metadata(&log.path).map_or(0, |file| file.len());
        if bytes < log.bytes_max.get() {
            return Ok(());
        }
        let connection = &self.statements.0;
        connection.busy_timeout(LOG_WAIT)?;
        let mut is_empty = false;
        for _ in 0..LOG_WAITS {
            is_empty = self.empty_log()?;
            if is_empty {
                break;
            }
        }
        connection.busy_timeout(BUSY_TIMEOUT)?;
        log.bytes_max.set(if is_empty {
            LOG_BYTES_MAX
        } else {
            bytes + LOG_BYTES_MORE
        });
        Ok(())
    }

    /// Gives free pages back to the system after deletions, a bounded number at a time.
    ///
    /// # Errors
    /// When the outcome is unknown, as after a failed commit.
    pub fn shrink(&self) -> Result<()> {
        if !self.has_freed.get() {
            return Ok(());
        }
        let connection = &self.statements.0;
        let free: i64 = connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
        let free = free.unsigned_abs().saturating_sub(FREE_PAGES_KEPT);
        self.has_freed.set(free > FREE_PAGES_MOVED);
        if free == 0 {
            return Ok(());
        }
        let pages = free.min(FREE_PAGES_MOVED);
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }
}

/// The stream of a turn that is being carried out.
struct Writing<'a> {
    shard: &'a Shard,
    name: &'a str,
    known: Option<(u64, u64)>,
}

impl Writing<'_> {
    fn apply(&mut self, write: &Write) -> Result<()> {
        match write {
            Write::CreateStreamTable => self.add_tables(HAS_STREAM),
            Write::CreateOutbox => self.add_tables(HAS_OUTBOX),
            Write::CreateControl => self.add_tables(HAS_CONTROL),
            Write::DropTables => {
                for statement in sql::DELETE_ROWS {
                    self.execute(statement)?;
                }
                self.remove_tables(HAS_STREAM)
            }
            Write::DropOutbox => {
                self.execute(sql::DELETE_OUTBOX)?;
                self.remove_tables(HAS_OUTBOX)
            }
            Write::DropControl => {
                self.execute(sql::DELETE_CONTROL)?;
                self.remove_tables(HAS_CONTROL)
            }
            // All streams share these tables.
            Write::CreateSealedTables
            | Write::CreateManifest
            | Write::CreatePins
            | Write::CreateHot(_) => Ok(()),
            Write::DropHot(table) => {
                self.shard.has_freed.set(true);
                let values = [self.id()?, Value::Integer(table.segment())];
                for statement in [sql::DELETE_LARGE, sql::DELETE_HOT] {
                    self.shard.statements.execute(statement, &values)?;
                }
                Ok(())
            }
            Write::InsertHot { table, row } => self.insert_hot(*table, row),
            Write::InsertStream(_) => self.one(write, sql::INSERT_HEAD),
            Write::UpdateStream(_) => self.one(write, sql::UPDATE_HEAD),
            Write::InsertSegment(_) => self.one(write, sql::INSERT_SEGMENT),
            Write::UpdateSegment(_) => self.one(write, sql::UPDATE_SEGMENT),
            Write::PutProducer { .. } => self.one(write, sql::PUT_PRODUCER),
            Write::ForgetProducers { .. } => self.any(write, sql::FORGET_PRODUCERS).map(drop),
            Write::InsertManifest(_) => self.one(write, sql::INSERT_MANIFEST),
            Write::PutPin(_) => self.one(write, sql::PUT_PIN),
            Write::ForgetPins { .. } => self.any(write, sql::FORGET_PINS).map(drop),
            Write::InsertTask(_) => self.one(write, sql::INSERT_TASK),
            Write::UpdateTask(_) => self.one(write, sql::UPDATE_TASK),
            Write::RemoveTask { .. } => self.one(write, sql::REMOVE_TASK),
            Write::PutControl(_) => self.one(write, sql::PUT_CONTROL),
            Write::RemoveControl { .. } => self.one(write, sql::REMOVE_CONTROL),
            Write::Upgrade { .. } => self.upgrade(),
        }
    }

    /// Upgrades older rows. Only their schema numbers change, because the columns of shards have
    /// never had another meaning.
    fn upgrade(&self) -> Result<()> {
        for (statement, schema) in [
            (sql::UPGRADE_STREAM, SCHEMA),
            (sql::UPGRADE_OUTBOX, OUTBOX_SCHEMA),
            (sql::UPGRADE_CONTROL, CONTROL_SCHEMA),
        ] {
            let values = [Value::Integer(schema), self.id()?];
            self.shard.statements.execute(statement, &values)?;
        }
        Ok(())
    }

    fn id(&self) -> Result<Value<'static>> {
        let (id, _) = self
            .known
            .ok_or_else(|| refused("there is no such stream"))?;
        Ok(Value::Integer(id))
    }

    fn execute(&self, statement: &str) -> Result<()> {
        self.shard
            .statements
            .execute(statement, &[self.id()?])
            .map(drop)
    }

    /// Executes a statement of this dialect with what the machine's own statement binds, and with
    /// the stream.
    fn any(&self, write: &Write, statement: &str) -> Result<usize> {
        let id = self.id()?;
        let mut changed = 0;
        machine_sql::statements(write, |_, values| {
            let values: Vec<_> = values.iter().copied().chain([id]).collect();
            changed += self.shard.statements.execute(statement, &values)?;
            Ok::<_, rusqlite::Error>(())
        })?;
        Ok(changed)
    }

    /// The same for a statement that must change one row.
    fn one(&self, write: &Write, statement: &str) -> Result<()> {
        match self.any(write, statement)? {
            1 => Ok(()),
            _ => Err(refused("a row that should be changed does not exist")),
        }
    }

    fn add_tables(&mut self, tables: u64) -> Result<()> {
        let statements = &self.shard.statements;
        let Some((id, others)) = self.known else {
            let values = [Value::Text(self.name), Value::Integer(tables)];
            statements.execute(sql::INSERT_STREAM, &values)?;
            let id = statements.0.last_insert_rowid().cast_unsigned();
            self.known = Some((id, tables));
            return Ok(());
        };
        if others & tables != 0 {
            return Err(refused("the stream has these tables already"));
        }
        self.set_tables(id, others | tables)
    }

    /// Removes tables of a stream. A stream without tables is deleted with its alarm, and its
    /// number is not used again.
    fn remove_tables(&mut self, tables: u64) -> Result<()> {
        self.shard.has_freed.set(true);
        let (id, others) = self
            .known
            .ok_or_else(|| refused("there is no such stream"))?;
        if others & !tables != 0 {
            return self.set_tables(id, others & !tables);
        }
        self.execute(sql::DELETE_STREAM)?;
        self.known = None;
        Ok(())
    }

    fn set_tables(&mut self, id: u64, tables: u64) -> Result<()> {
        let values = [Value::Integer(tables), Value::Integer(id)];
        self.shard.statements.execute(sql::UPDATE_TABLES, &values)?;
        self.known = Some((id, tables));
        Ok(())
    }

    fn insert_hot(&self, table: HotTable, row: &HotRow) -> Result<()> {
        let (id, _) = self
            .known
            .ok_or_else(|| refused("there is no such stream"))?;
        // Most rows hold one append that names nobody, or a part of one.
        let is_plain = match row.ends.as_slice() {
            [] => row.units == 0,
            [end] => end.units == row.units && end.producer.is_none() && end.stream_seq.is_none(),
            _ => false,
        };
        let ends = (!is_plain).then(|| machine_sql::encoded_ends(&row.ends));
        let frames = row.frames.make();
        let place = Place {
            stream: id,
            segment: table.segment(),
            key: row.key.stored(),
            units: row.units,
            bytes_before: row.bytes_before,
            bytes: frames.len() as u64,
            at: row.at.0,
            ends: ends.as_deref(),
        };
        let checksum = place.checksum(&frames);
        self.shard.insert_place(&place, checksum, &frames)
    }
}

/// An error for what SQLite itself would carry out.
fn refused(reason: &str) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(reason.into())
}

/// Sets the options of the connection that writes.
fn configure(connection: &Connection, cache_kib: u32) -> Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    sync_fully(connection)?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))
}

/// Makes commits and checkpoints return when they are on disk. On macOS this needs a full sync.
fn sync_fully(connection: &Connection) -> Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn no_statement_is_compiled_twice() {
        let place = tempfile::tempdir().expect("a directory");
        let identity = Identity {
            directory: "a".to_owned(),
            number: 0,
            count: 1,
        };
        let path = place.path().join("0.sqlite");
        let shard = Shard::create(&path, &identity, 256).expect("a shard");
        let statements = [
            (sql::STREAM, 1),
            (sql::HEAD, 1),
            (sql::NEWEST_HOT, 1),
            (sql::AT_OR_BEFORE, 3),
            (sql::FIRST_AT_OR_AFTER_BYTES, 4),
            (sql::FRAMES, 4),
            (sql::APPENDS, 4),
            (sql::DUE, 2),
        ];
        for (statement, count) in statements {
            for number in 0..10 {
                let values = vec![Value::Integer(number); count];
                let read = shard.statements.ask(statement, &values, |_| Ok(()));
                read.expect("the statement is valid");
            }
            let prepared = shard.statements.0.prepare_cached(statement);
            let prepared = prepared.expect("the statement is valid");
            assert_eq!(prepared.get_status(StatementStatus::Run), 10, "{statement}");
            let again = prepared.get_status(StatementStatus::RePrepare);
            assert_eq!(again, 0, "{statement}");
        }
    }
}
