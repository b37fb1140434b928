//! What an object has stored: ordered maps, and beside them, when asked for, real SQLite that
//! executes the machine's own SQL text. Where both are there, the machine reads from SQLite and
//! both must say the same.

use std::collections::BTreeMap;
use std::ops::Bound;

use machine::plan::Span;
#[cfg(not(target_arch = "wasm32"))]
use machine::rows::ProducerStamp;
use machine::rows::{
    HotRow, HotTable, Incarnation, ProducerState, RowKey, RowMeta, SealedSegment, StreamRow, Task,
    WriterColumns,
};
use machine::sql::{self, Value};
use machine::{Millis, Rows, StorageError, Write};

use crate::platform;

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
    head: Option<StreamRow>,
    hot: BTreeMap<HotTable, BTreeMap<RowKey, HotRow>>,
    /// Segments and producers, once there are tables for them.
    sealed: Option<Sealed>,
    outbox: Option<BTreeMap<u64, Task>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sealed {
    segments: BTreeMap<u64, SealedSegment>,
    producers: BTreeMap<String, (ProducerState, Millis)>,
}

impl Shelf {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_freed() && self.outbox.is_none()
    }

    /// Whether there is nothing of a stream, but for what remains to be done.
    #[must_use]
    pub fn is_freed(&self) -> bool {
        !self.has_tables && self.head.is_none() && self.hot.is_empty() && self.sealed.is_none()
    }

    /// The sealed segments, in order.
    pub fn segments(&self) -> impl Iterator<Item = &SealedSegment> {
        self.sealed
            .iter()
            .flat_map(|sealed| sealed.segments.values())
    }

    /// Whether a producer is known, from the sealed segments or from the open one.
    #[must_use]
    pub fn knows(&self, producer: &str) -> bool {
        let sealed = self.sealed.as_ref();
        let is_named = |row: &HotRow| {
            row.producer
                .as_ref()
                .is_some_and(|stamp| stamp.id == producer)
        };
        sealed.is_some_and(|sealed| sealed.producers.contains_key(producer))
            || self.rows().any(is_named)
    }

    /// What remains to be done, in order.
    pub fn outbox(&self) -> impl Iterator<Item = &Task> {
        self.outbox.iter().flat_map(BTreeMap::values)
    }

    /// The hot tables that there are, in order.
    pub fn hot_tables(&self) -> impl Iterator<Item = HotTable> {
        self.hot.keys().copied()
    }

    /// The rows of one hot table, in order; `None` when there is no such table.
    pub fn table(&self, table: HotTable) -> Option<impl Iterator<Item = &HotRow>> {
        self.hot.get(&table).map(BTreeMap::values)
    }

    #[must_use]
    pub const fn head(&self) -> Option<&StreamRow> {
        self.head.as_ref()
    }

    /// The rows of the open segment, in order.
    pub fn rows(&self) -> impl Iterator<Item = &HotRow> {
        let open = self.head.as_ref().filter(|head| head.writable);
        let table = open.and_then(|head| self.hot.get(&HotTable::of(head.segment)));
        table.into_iter().flat_map(BTreeMap::values)
    }

    /// How many rows the open segment has.
    #[must_use]
    pub fn open_row_count(&self) -> u64 {
        let open = self.head.as_ref().filter(|head| head.writable);
        let table = open.and_then(|head| self.hot.get(&HotTable::of(head.segment)));
        table.map_or(0, |table| table.len() as u64)
    }

    /// The last row of the open segment.
    #[must_use]
    pub fn last_row(&self) -> Option<&HotRow> {
        let open = self.head.as_ref().filter(|head| head.writable)?;
        let table = self.hot.get(&HotTable::of(open.segment))?;
        table.last_key_value().map(|(_, row)| row)
    }

    #[must_use]
    pub fn row_count(&self) -> u64 {
        self.hot.values().map(|table| table.len() as u64).sum()
    }

    fn apply(&mut self, write: &Write) -> Result<(), String> {
        match write {
            Write::CreateTables => {
                if self.has_tables || !self.hot.is_empty() {
                    return Err("the tables exist already".to_owned());
                }
                self.has_tables = true;
                self.hot.insert(HotTable::of(0), BTreeMap::new());
            }
            Write::InsertStream(head) => {
                if !self.has_tables || self.head.is_some() {
                    return Err("there is no place for a head row".to_owned());
                }
                self.head = Some(head.clone());
            }
            Write::UpdateStream(new) => {
                if !self.has_tables {
                    return Err("there is no table of the head row".to_owned());
                }
                if let Some(head) = &mut self.head {
                    head.unannounced = new.unannounced;
                    head.segment = new.segment;
                    head.writable = new.writable;
                    head.stream_seq.clone_from(&new.stream_seq);
                    head.touched_at = new.touched_at;
                    head.alarm_at = new.alarm_at;
                    head.closed.clone_from(&new.closed);
                }
            }
            Write::InsertHot { table, row } => {
                let rows = self
                    .hot
                    .get_mut(table)
                    .ok_or("there is no such hot table")?;
                if rows.insert(row.key, row.clone()).is_some() {
                    return Err(format!("the key {} is taken", row.key.stored()));
                }
            }
            Write::CreateHot(table) => {
                if self.hot.insert(*table, BTreeMap::new()).is_some() {
                    return Err("the hot table exists already".to_owned());
                }
            }
            Write::DropHot(table) => drop(self.hot.remove(table)),
            Write::CreateSealedTables => {
                if self.sealed.replace(Sealed::default()).is_some() {
                    return Err("the tables of sealed segments exist already".to_owned());
                }
            }
            Write::InsertSegment(segment) => {
                let segments = &mut self.sealed()?.segments;
                if segments.insert(segment.number, segment.clone()).is_some() {
                    return Err(format!("the segment {} exists already", segment.number));
                }
            }
            Write::UpdateSegment(new) => {
                if let Some(segment) = self.sealed()?.segments.get_mut(&new.number) {
                    segment.attempts = new.attempts;
                    segment.attempted_at = new.attempted_at;
                    segment.stored.clone_from(&new.stored);
                }
            }
            Write::PutProducer { stamp, used_at } => {
                let state = ProducerState {
                    epoch: stamp.epoch,
                    seq: stamp.seq,
                };
                self.sealed()?
                    .producers
                    .insert(stamp.id.clone(), (state, *used_at));
            }
            Write::ForgetProducers { used_at, most } => {
                let producers = &mut self.sealed()?.producers;
                let idle = producers.iter().filter(|(_, (_, used))| used <= used_at);
                let mut idle: Vec<_> = idle.map(|(id, (_, used))| (*used, id.clone())).collect();
                idle.sort();
                idle.truncate(usize::try_from(*most).unwrap_or(usize::MAX));
                for (_, id) in &idle {
                    producers.remove(id);
                }
            }
            Write::CreateOutbox => {
                if self.outbox.replace(BTreeMap::new()).is_some() {
                    return Err("the table of chores exists already".to_owned());
                }
            }
            Write::InsertTask(task) => {
                let outbox = self.outbox.as_mut().ok_or("there is no table of chores")?;
                if outbox.insert(task.id, task.clone()).is_some() {
                    return Err(format!("the chore {} exists already", task.id));
                }
            }
            Write::UpdateTask(new) => {
                let outbox = self.outbox.as_mut().ok_or("there is no table of chores")?;
                if let Some(task) = outbox.get_mut(&new.id) {
                    task.clone_from(new);
                }
            }
            Write::RemoveTask { id } => {
                let outbox = self.outbox.as_mut().ok_or("there is no table of chores")?;
                outbox.remove(id);
            }
            Write::DropOutbox => {
                if self.outbox.take().is_none() {
                    return Err("there is no table of chores to drop".to_owned());
                }
            }
            Write::Upgrade { .. } => return Err("there is nothing of version 0.1".to_owned()),
            Write::DropTables => {
                if !self.has_tables || !self.hot.is_empty() {
                    return Err("there are no tables to drop, or hot ones are left".to_owned());
                }
                *self = Self {
                    outbox: self.outbox.take(),
                    ..Self::default()
                };
            }
        }
        Ok(())
    }

    /// The writes that make this of nothing.
    #[cfg(not(target_arch = "wasm32"))]
    fn as_writes(&self) -> Vec<Write> {
        let mut writes = Vec::new();
        if let Some(outbox) = &self.outbox {
            writes.push(Write::CreateOutbox);
            writes.extend(outbox.values().cloned().map(Write::InsertTask));
        }
        let Some(head) = &self.head else {
            return writes;
        };
        writes.extend([Write::CreateTables, Write::InsertStream(head.clone())]);
        if !self.hot.contains_key(&HotTable::of(0)) {
            writes.push(Write::DropHot(HotTable::of(0)));
        }
        for (table, rows) in &self.hot {
            if *table != HotTable::of(0) {
                writes.push(Write::CreateHot(*table));
            }
            writes.extend(rows.values().map(|row| Write::InsertHot {
                table: *table,
                row: row.clone(),
            }));
        }
        if let Some(sealed) = &self.sealed {
            writes.push(Write::CreateSealedTables);
            writes.extend(sealed.segments.values().cloned().map(Write::InsertSegment));
            writes.extend(sealed.producers.iter().map(|(id, state)| {
                let (state, used_at) = state;
                Write::PutProducer {
                    stamp: ProducerStamp {
                        id: id.clone(),
                        epoch: state.epoch,
                        seq: state.seq,
                    },
                    used_at: *used_at,
                }
            }));
        }
        writes
    }

    fn sealed(&mut self) -> Result<&mut Sealed, String> {
        self.sealed
            .as_mut()
            .ok_or_else(|| "there are no tables of sealed segments".to_owned())
    }
}

/// What the present instance of an object sees of its storage.
#[derive(Debug)]
pub struct Store {
    pub shelf: Shelf,
    #[cfg(not(target_arch = "wasm32"))]
    sqlite: Option<sqlite::Database>,
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
                sqlite: Some(database()),
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
            transact(sqlite, writes)?;
        }
        Ok(())
    }

    /// The joined frames of the rows of a span.
    ///
    /// # Errors
    /// When the storage cannot be read.
    pub fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.frames(span);
        }
        let mut rows = self
            .table(span.table)?
            .range(span.from..=span.to)
            .peekable();
        if rows.peek().is_none() {
            return Err(StorageError("no rows to be joined".to_owned()));
        }
        let mut frames = Vec::new();
        rows.for_each(|(_, row)| frames.extend_from_slice(&row.frames.make()));
        Ok(frames)
    }

    fn table(&self, table: HotTable) -> Result<&BTreeMap<RowKey, HotRow>, StorageError> {
        let rows = self.shelf.hot.get(&table);
        rows.ok_or_else(|| StorageError("no such table".to_owned()))
    }

    fn sealed(&self) -> Result<&Sealed, StorageError> {
        let sealed = self.shelf.sealed.as_ref();
        sealed.ok_or_else(|| StorageError("no such table".to_owned()))
    }

    /// How many tables there are, where that can be told.
    #[must_use]
    pub fn table_count(&self) -> u64 {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            let tables = sqlite.tables().expect("a database in memory can be read");
            return tables.len() as u64;
        }
        let sealed = if self.shelf.sealed.is_some() { 2 } else { 0 };
        let others = u64::from(self.shelf.has_tables) + u64::from(self.shelf.outbox.is_some());
        others + self.shelf.hot.len() as u64 + sealed
    }
}

impl platform::Storage for Store {
    type Write = Write;
    type Disk = Shelf;

    fn persist(disk: &mut Shelf, writes: &[Write]) -> Result<(), String> {
        writes.iter().try_for_each(|write| disk.apply(write))
    }

    fn restore(&mut self, disk: &Shelf) -> Result<(), String> {
        self.shelf.clone_from(disk);
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &mut self.sqlite {
            *sqlite = database();
            transact(sqlite, &disk.as_writes())?;
        }
        Ok(())
    }
}

fn situation(row: &HotRow) -> RowMeta {
    RowMeta {
        key: row.key,
        units: row.units,
        bytes_before: row.bytes_before,
        bytes: row.frames.bytes(),
        at: row.at,
    }
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
    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.head();
        }
        Ok(self.shelf.head.clone())
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.at_or_before(table, key);
        }
        Ok(self
            .table(table)?
            .range(..=key)
            .next_back()
            .map(|(_, row)| situation(row)))
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.first_at_or_after_bytes(table, after, bytes_before);
        }
        let behind = self
            .table(table)?
            .range((Bound::Excluded(after), Bound::Unbounded));
        let mut messages = behind.filter(|(key, _)| **key == RowKey::at(key.position()));
        Ok(messages
            .find(|(_, row)| row.bytes_before >= bytes_before)
            .map(|(_, row)| situation(row)))
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.producer(id);
        }
        Ok(self.sealed()?.producers.get(id).map(|(state, _)| *state))
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.segment(number);
        }
        Ok(self.sealed()?.segments.get(&number).cloned())
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.retried_segments(each);
        }
        let segments = self.sealed()?.segments.values();
        let retried = segments.filter(|segment| segment.attempts > 1);
        retried.for_each(|segment| each(segment.number, segment.attempts));
        Ok(())
    }

    fn outbox(&self) -> Result<Option<Vec<Task>>, StorageError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.outbox();
        }
        let outbox = self.shelf.outbox.as_ref();
        Ok(outbox.map(|outbox| outbox.values().cloned().collect()))
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(sqlite) = &self.sqlite {
            return sqlite.writers(table, each);
        }
        for row in self
            .table(table)?
            .values()
            .filter(|row| row.producer.is_some() || row.stream_seq.is_some())
        {
            each(WriterColumns {
                at: row.at,
                producer: row.producer.clone(),
                stream_seq: row.stream_seq.clone(),
            });
        }
        Ok(())
    }

    /// Lines are not stored: the object answers this.
    fn attached(&self, _incarnation: Incarnation) -> Result<u64, StorageError> {
        Ok(0)
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn database() -> sqlite::Database {
    sqlite::Database::in_memory().expect("a database in memory can be opened")
}

/// In one transaction, as the object does.
#[cfg(not(target_arch = "wasm32"))]
fn transact(database: &sqlite::Database, writes: &[Write]) -> Result<(), String> {
    database
        .begin()
        .and_then(|()| database.apply(writes))
        .and_then(|()| database.commit())
        .map_err(|error| error.to_string())
}
