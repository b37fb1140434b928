//! The admin index, D1: the meaning of its statements, in ordered maps. On request SQLite executes
//! their text, too, with the project's own migrations, and both must agree.

use std::collections::BTreeMap;

use machine::outbox::{Statement, Value};

use crate::storage::Kind;

/// The admin index of the world.
#[derive(Debug)]
pub(super) struct Index {
    streams: BTreeMap<String, Listed>,
    /// By path, incarnation and number.
    segments: BTreeMap<(String, String, u64), Segment>,
    #[cfg(not(target_arch = "wasm32"))]
    sqlite: Option<rusqlite::Connection>,
}

/// A row of `streams`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    incarnation: String,
    content_type: String,
    created_at: u64,
    deleted_at: Option<u64>,
    version: u64,
    forked_from: String,
    closed: bool,
    expires_at: Option<u64>,
    ttl_seconds: Option<u64>,
}

/// A row of `segments`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    start: String,
    end: String,
    key: String,
    bytes: u64,
    messages: u64,
    created_at: u64,
    version: u64,
}

/// The values of a statement, in order.
struct Values<'a>(core::slice::Iter<'a, Value>);

impl Values<'_> {
    fn integer(&mut self) -> Result<u64, String> {
        match self.0.next() {
            Some(Value::Integer(integer)) => Ok(*integer),
            other => Err(format!("{other:?} is bound, and no integer")),
        }
    }

    fn optional(&mut self) -> Result<Option<u64>, String> {
        match self.0.next() {
            Some(Value::Null) => Ok(None),
            Some(Value::Integer(integer)) => Ok(Some(*integer)),
            other => Err(format!("{other:?} is bound, and no integer")),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(text.clone()),
            other => Err(format!("{other:?} is bound, and no text")),
        }
    }
}

impl Index {
    pub(super) fn new(kind: Kind) -> Self {
        #[cfg(target_arch = "wasm32")]
        let _ = kind;
        Self {
            streams: BTreeMap::new(),
            segments: BTreeMap::new(),
            #[cfg(not(target_arch = "wasm32"))]
            sqlite: (kind == Kind::Sqlite).then(sqlite::open),
        }
    }

    /// Returns the rows of both tables in order, each as a text.
    pub(super) fn listed(&self) -> (Vec<String>, Vec<String>) {
        let streams = self.streams.iter().map(|(path, row)| {
            format!(
                "{path} {} {} {} {} {:?} {:?} {:?}",
                row.incarnation,
                row.content_type,
                row.created_at,
                row.closed,
                row.expires_at,
                row.ttl_seconds,
                row.deleted_at
            )
        });
        let segments = self.segments.iter();
        let segments = segments.map(|((path, incarnation, number), row)| {
            format!(
                "{path} {incarnation} {number} {} {} {} {} {}",
                row.start, row.end, row.key, row.bytes, row.messages
            )
        });
        let mut segments: Vec<_> = segments.collect();
        segments.sort();
        (streams.collect(), segments)
    }

    /// Executes the statements of one message. Returns how many rows they have changed.
    ///
    /// # Errors
    ///
    /// When a statement is unknown, or its text means something else.
    pub(super) fn execute(&mut self, statements: &[Statement]) -> Result<u64, String> {
        let mut changed = 0;
        for statement in statements {
            changed += self.one(statement)?;
        }
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(connection) = &self.sqlite {
            sqlite::execute(connection, statements)?;
            let found = sqlite::rows(connection).map_err(|error| error.to_string())?;
            let meant = self.rows();
            if found != meant {
                return Err(format!("SQLite has {found:?}, where {meant:?} is meant"));
            }
        }
        Ok(changed)
    }

    fn one(&mut self, statement: &Statement) -> Result<u64, String> {
        let mut values = Values(statement.values.iter());
        let sql = statement.sql;
        if sql.starts_with("INSERT INTO streams") {
            let path = values.text()?;
            let listed = if statement.values.len() == 9 {
                Listed {
                    incarnation: values.text()?,
                    content_type: values.text()?,
                    created_at: values.integer()?,
                    deleted_at: None,
                    version: values.integer()?,
                    forked_from: values.text()?,
                    closed: values.integer()? == 1,
                    expires_at: values.optional()?,
                    ttl_seconds: values.optional()?,
                }
            } else {
                let before = self.streams.get(&path);
                Listed {
                    incarnation: before.map_or_else(String::new, |row| row.incarnation.clone()),
                    content_type: before.map_or_else(String::new, |row| row.content_type.clone()),
                    created_at: before.map_or(0, |row| row.created_at),
                    deleted_at: Some(values.integer()?),
                    version: values.integer()?,
                    forked_from: before.map_or_else(String::new, |row| row.forked_from.clone()),
                    closed: before.is_some_and(|row| row.closed),
                    expires_at: before.and_then(|row| row.expires_at),
                    ttl_seconds: before.and_then(|row| row.ttl_seconds),
                }
            };
            if self
                .streams
                .get(&path)
                .is_some_and(|row| row.version >= listed.version)
            {
                return Ok(0);
            }
            self.streams.insert(path, listed);
            Ok(1)
        } else if sql.starts_with("UPDATE streams SET closed") {
            let (path, incarnation) = (values.text()?, values.text()?);
            let row = self.streams.get_mut(&path);
            let is_it =
                |row: &&mut Listed| row.incarnation == incarnation && row.deleted_at.is_none();
            let Some(row) = row.filter(is_it) else {
                return Ok(0);
            };
            row.closed = true;
            Ok(1)
        } else if sql.starts_with("INSERT INTO segments") {
            let (path, incarnation, number) = (values.text()?, values.text()?, values.integer()?);
            let segment = Segment {
                start: values.text()?,
                end: values.text()?,
                key: values.text()?,
                bytes: values.integer()?,
                messages: values.integer()?,
                created_at: values.integer()?,
                version: values.integer()?,
            };
            let live = self
                .streams
                .get(&path)
                .is_some_and(|row| row.incarnation == incarnation && row.deleted_at.is_none());
            let key = (path, incarnation, number);
            if !live || self.segments.contains_key(&key) {
                return Ok(0);
            }
            self.segments.insert(key, segment);
            Ok(1)
        } else if sql.starts_with("DELETE FROM segments") {
            let (path, version) = (values.text()?, values.integer()?);
            let before = self.segments.len();
            self.segments
                .retain(|(each, ..), segment| *each != path || segment.version >= version);
            Ok((before - self.segments.len()) as u64)
        } else if sql.starts_with("DELETE FROM streams") {
            let (path, version) = (values.text()?, values.integer()?);
            let before = self.streams.len();
            self.streams.retain(|each, row| {
                *each != path || row.deleted_at.is_none() || row.version > version
            });
            Ok((before - self.streams.len()) as u64)
        } else {
            Err(format!("{sql} is not known"))
        }
    }

    /// Returns all rows as text.
    #[cfg(not(target_arch = "wasm32"))]
    fn rows(&self) -> Vec<String> {
        let number = |number: Option<u64>| number.map_or_else(String::new, |it| it.to_string());
        let streams = self.streams.iter().map(|(path, row)| {
            format!(
                "{path} {} {} {} {} {} {} {} {} {}",
                row.incarnation,
                row.content_type,
                row.created_at,
                number(row.deleted_at),
                row.version,
                row.forked_from,
                u64::from(row.closed),
                number(row.expires_at),
                number(row.ttl_seconds)
            )
        });
        let segments = self
            .segments
            .iter()
            .map(|((path, incarnation, number), row)| {
                format!(
                    "{path} {incarnation} {number} {} {} {} {} {} {} {}",
                    row.start,
                    row.end,
                    row.key,
                    row.bytes,
                    row.messages,
                    row.created_at,
                    row.version
                )
            });
        streams.chain(segments).collect()
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod sqlite {
    use machine::outbox::{Statement, Value};
    use rusqlite::types::{ToSqlOutput, ValueRef};
    use rusqlite::{Connection, Result, ToSql, params_from_iter};

    const MIGRATIONS: [&str; 3] = [
        include_str!("../../../migrations/0001_segments_admin.sql"),
        include_str!("../../../migrations/0002_forks.sql"),
        include_str!("../../../migrations/0003_admin.sql"),
    ];

    struct Bound<'a>(&'a Value);

    impl ToSql for Bound<'_> {
        fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
            Ok(match self.0 {
                Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
                Value::Integer(integer) => ToSqlOutput::from(integer.cast_signed()),
                Value::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            })
        }
    }

    pub(super) fn open() -> Connection {
        let connection = Connection::open_in_memory().expect("a database in memory can be opened");
        for migration in MIGRATIONS {
            connection
                .execute_batch(migration)
                .expect("the migrations can be applied");
        }
        connection
    }

    /// Executes statements in order and in one transaction, as the index does.
    pub(super) fn execute(
        connection: &Connection,
        statements: &[Statement],
    ) -> core::result::Result<(), String> {
        let run = || {
            let transaction = connection.unchecked_transaction()?;
            for statement in statements {
                let mut prepared = transaction.prepare_cached(statement.sql)?;
                prepared.execute(params_from_iter(statement.values.iter().map(Bound)))?;
            }
            transaction.commit()
        };
        run().map_err(|error| error.to_string())
    }

    /// Returns all rows as text.
    pub(super) fn rows(connection: &Connection) -> Result<Vec<String>> {
        let mut rows = Vec::new();
        for query in [
            "SELECT concat_ws(' ', path, incarnation, content_type, created_at, coalesce(deleted_at, ''), version, forked_from, \
             closed, coalesce(expires_at, ''), coalesce(ttl_seconds, '')) \
             FROM streams ORDER BY path",
            "SELECT concat_ws(' ', path, incarnation, segment, start_offset, end_offset, r2_key, bytes, messages, created_at, version) \
             FROM segments ORDER BY path, incarnation, segment",
        ] {
            let mut query = connection.prepare_cached(query)?;
            let mut found = query.query([])?;
            while let Some(row) = found.next()? {
                rows.push(row.get(0)?);
            }
        }
        Ok(rows)
    }
}
