//! The server's storage: one ordered map for each stream, and an index of alarms. What is committed
//! stays. A commit may fail with an unknown outcome, or be the last thing that a server does.

use std::io;

use machine::rows::{ProducerStamp, SealedSegment, StreamRow};
use machine::{MemoryRows, Millis, Span, StorageError, Write};
use server::{Database, Due, Storage};
use sim::oracles::Oracle;
use sim::platform::Storage as _;
use sim::storage::{Kind, Store};

use crate::coverage::{Fault, Situation};
use crate::shared::{Inner, SERVER, Shared, client_host, now};

/// How often the alarms may be queried within a millisecond.
const DUE_ASKED_MAX: u64 = 1_000;

/// What the storage has recorded, for the judge.
#[derive(Debug)]
pub(crate) enum Logged {
    Committed {
        name: String,
        at: u64,
        turns: Vec<Written>,
    },
    /// A stream restarts from what is durable.
    Opened { name: String },
    /// All streams restart.
    Booted,
}

/// What one turn has written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    pub(crate) now: u64,
    pub(crate) created: Option<StreamRow>,
    pub(crate) dropped: bool,
    /// The appended records.
    pub(crate) records: Vec<Vec<u8>>,
    pub(crate) writer: Option<ProducerStamp>,
    pub(crate) stream_seq: Option<String>,
    /// Whether it closed the stream.
    pub(crate) closes: bool,
    /// The producer that did, if there is one.
    pub(crate) closed_by: Option<ProducerStamp>,
    /// Number and length of the segment that it sealed.
    pub(crate) sealed: Option<(u64, u64)>,
    /// The segments that it says are stored, and their stream.
    pub(crate) stored: Vec<(StreamRow, SealedSegment)>,
    /// The end of the stream after the turn, and whether the stream is closed.
    pub(crate) end: (u64, u64),
    pub(crate) closed: bool,
}

/// One server's storage.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) shared: Shared,
    pub(crate) boot: u64,
}

/// The storage of one stream.
#[derive(Debug)]
struct Disk {
    shared: Shared,
    boot: u64,
    name: String,
    store: Store,
    turns: Vec<Written>,
}

fn failed(what: &str) -> io::Error {
    io::Error::other(format!("{what}: as drawn"))
}

impl Inner {
    /// Checks that this server still runs.
    ///
    /// # Errors
    ///
    /// When this server has ended.
    pub(crate) fn alive(&self, boot: u64) -> io::Result<()> {
        if self.dead || self.boot != boot {
            return Err(io::Error::other("the server has died"));
        }
        Ok(())
    }

    fn storage_fails(&mut self, boot: u64, what: &str) -> io::Result<()> {
        self.alive(boot)?;
        if self.fault(Fault::StorageFails) {
            self.changed(Fault::StorageFails);
            self.storage_failed_at = now();
            self.note("storage", || format!("{what} fails"));
            return Err(failed(what));
        }
        Ok(())
    }

    fn alarm_fails(&mut self, boot: u64, what: &str) -> io::Result<()> {
        self.alive(boot)?;
        if self.fault(Fault::AlarmFails) {
            self.changed(Fault::AlarmFails);
            self.storage_failed_at = now();
            self.note("storage", || format!("{what} fails"));
            return Err(failed(what));
        }
        Ok(())
    }

    /// Lets nothing leave the server any more.
    fn die(&mut self) {
        self.dead = true;
        self.disturbances += 1;
        for client in 0..self.settings.workload.clients {
            turmoil::partition(SERVER, client_host(client));
        }
    }

    fn store(&mut self, name: &str, store: &Store, turns: Vec<Written>) {
        self.note("storage", || {
            format!("{name}: a commit of {} turns", turns.len())
        });
        if turns.len() > 1 {
            self.cover(Situation::GroupCommit);
        }
        for turn in &turns {
            if turn.sealed.is_some() {
                self.cover(Situation::Sealed);
                if turn.closes {
                    self.cover(Situation::SealedByClose);
                }
            }
            for (_, segment) in &turn.stored {
                self.cover(Situation::Stored);
                if segment
                    .stored
                    .as_ref()
                    .is_some_and(|stored| stored.attempt > 1)
                {
                    self.cover(Situation::StoredAgain);
                }
            }
        }
        self.disks.insert(name.to_owned(), store.rows.clone());
        self.log.push(Logged::Committed {
            name: name.to_owned(),
            at: now(),
            turns,
        });
    }
}

impl Disks {
    fn disk(&self, name: &str, rows: Option<MemoryRows>) -> Box<dyn Database> {
        let mut store = Store::new(Kind::Map);
        if let Some(rows) = &rows {
            store.restore(rows).expect("maps can be restored");
        }
        Box::new(Disk {
            shared: self.shared.clone(),
            boot: self.boot,
            name: name.to_owned(),
            store,
            turns: Vec::new(),
        })
    }
}

impl Storage for Disks {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Database>>> {
        let mut shared = self.shared.lock();
        shared.storage_fails(self.boot, "opening")?;
        if shared.disks.contains_key(name) && !shared.opened.insert((self.boot, name.to_owned())) {
            shared.cover(Situation::PutToSleep);
        }
        shared.log.push(Logged::Opened {
            name: name.to_owned(),
        });
        let rows = shared.disks.get(name).cloned();
        drop(shared);
        Ok(rows.map(|rows| self.disk(name, Some(rows))))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Database>> {
        let mut shared = self.shared.lock();
        shared.storage_fails(self.boot, "creating")?;
        let was = shared.disks.insert(name.to_owned(), MemoryRows::default());
        if let Some(was) = was.filter(|was| !was.is_empty()) {
            shared.fail(
                Oracle::Storage,
                "no database to be made anew".to_owned(),
                format!("{was:?}"),
            );
        }
        drop(shared);
        Ok(self.disk(name, None))
    }

    fn remove(&self, name: &str, database: Box<dyn Database>) -> io::Result<()> {
        database.close()?;
        let mut shared = self.shared.lock();
        shared.storage_fails(self.boot, "removing")?;
        let was = shared.disks.remove(name);
        if let Some(was) = was.filter(|was| !was.is_empty()) {
            shared.fail(
                Oracle::Storage,
                "nothing to be removed".to_owned(),
                format!("{was:?}"),
            );
        }
        Ok(())
    }

    fn set_alarm(&self, name: &str, at: Millis) -> io::Result<()> {
        let mut shared = self.shared.lock();
        shared.alarm_fails(self.boot, "setting an alarm")?;
        shared.alarms.insert(name.to_owned(), at.0);
        Ok(())
    }

    fn remove_alarm(&self, name: &str) -> io::Result<()> {
        let mut shared = self.shared.lock();
        shared.alarm_fails(self.boot, "removing an alarm")?;
        shared.alarms.remove(name);
        Ok(())
    }

    fn due(&self, now: Millis) -> io::Result<Due> {
        let mut shared = self.shared.lock();
        let asked = (now.0, shared.asked_due.1 + 1);
        shared.asked_due = if shared.asked_due.0 == now.0 {
            asked
        } else {
            (now.0, 0)
        };
        if shared.asked_due.1 > DUE_ASKED_MAX {
            let actual = format!("{:?} at {}", shared.alarms, now.0);
            shared.fail(
                Oracle::TimeGoesOn,
                "alarms that are seen to".to_owned(),
                actual,
            );
            // A host that never rests cannot be left in another way.
            panic!("the server asks for alarms without end");
        }
        shared.alarm_fails(self.boot, "reading the alarms")?;
        let mut due: Vec<_> = shared
            .alarms
            .iter()
            .filter(|(_, at)| **at <= now.0)
            .collect();
        due.sort_by_key(|(_, at)| **at);
        let due = due.into_iter().map(|(name, _)| name.clone()).collect();
        Ok((due, shared.alarms.values().min().copied().map(Millis)))
    }
}

impl Database for Disk {
    fn rows(&self) -> &dyn machine::Storage {
        self.store.storage()
    }

    fn begin(&mut self) -> io::Result<()> {
        self.turns.clear();
        self.shared.lock().storage_fails(self.boot, "beginning")
    }

    fn apply(&mut self, writes: &[Write]) -> io::Result<()> {
        let others = !self.turns.is_empty();
        let mut shared = self.shared.lock();
        let mut fails = shared.storage_fails(self.boot, "writing");
        // Turns that share a commit are rare.
        for _ in 0..if others { 8 } else { 0 } {
            fails = fails.and_then(|()| shared.storage_fails(self.boot, "writing"));
        }
        if let Err(error) = fails {
            if others {
                shared.cover(Situation::GroupFailed);
            }
            return Err(error);
        }
        let was_closed = self
            .store
            .rows
            .head()
            .is_some_and(|head| head.closed.is_some());
        if let Err(reason) = self.store.apply(writes) {
            shared.fail(
                Oracle::Storage,
                "writes that can be carried out".to_owned(),
                reason.clone(),
            );
            return Err(io::Error::other(reason));
        }
        let written = written(&self.store, writes, was_closed);
        shared.note("storage", || {
            format!(
                "{}: a turn, {} records, created {}, dropped {}, closes {}",
                self.name,
                written.records.len(),
                written.created.is_some(),
                written.dropped,
                written.closes
            )
        });
        self.turns.push(written);
        Ok(())
    }

    fn commit(&mut self) -> io::Result<()> {
        let turns = std::mem::take(&mut self.turns);
        let mut shared = self.shared.lock();
        shared.alive(self.boot)?;
        if shared.fault(Fault::CommitFails) {
            shared.changed(Fault::CommitFails);
            shared.storage_failed_at = now();
            if shared.choices.upto(1) == 1 {
                shared.cover(Situation::CommitUnknownKept);
                shared.store(&self.name, &self.store, turns);
            } else {
                shared.cover(Situation::CommitUnknownLost);
            }
            shared.note("storage", || {
                format!("{}: the commit is reported as failed", self.name)
            });
            return Err(failed("committing"));
        }
        if shared.fault(Fault::CrashAtCommit) {
            shared.changed(Fault::CrashAtCommit);
            shared.die();
            if shared.choices.upto(1) == 1 {
                shared.cover(Situation::KeptUnanswered);
                shared.store(&self.name, &self.store, turns);
                shared.note("storage", || {
                    format!("{}: the server dies after it", self.name)
                });
                return Ok(());
            }
            shared.cover(Situation::LostCommit);
            shared.note("storage", || {
                format!("{}: the server dies before the commit", self.name)
            });
            return Err(failed("committing"));
        }
        shared.store(&self.name, &self.store, turns);
        Ok(())
    }

    fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError> {
        let mut shared = self.shared.lock();
        shared
            .storage_fails(self.boot, "reading")
            .map_err(|error| StorageError(error.to_string()))?;
        self.store.frames(span)
    }

    fn tables(&self) -> io::Result<Vec<String>> {
        Ok((0..self.store.table_count())
            .map(|table| table.to_string())
            .collect())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        if !self.turns.is_empty() {
            let mut shared = self.shared.lock();
            shared.fail(
                Oracle::Storage,
                "no open transaction at a close".to_owned(),
                self.name.clone(),
            );
        }
        Ok(())
    }
}

/// Splits joined frames into records.
pub(crate) fn framed(mut frames: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((length, rest)) = frames.split_at_checked(4) {
        let length = <[u8; 4]>::try_from(length).map_or(0, u32::from_le_bytes);
        let (record, rest) = rest.split_at(rest.len().min(length as usize));
        records.push(record.to_vec());
        frames = rest;
    }
    records
}

/// Returns what the writes of a turn say, in the state after them.
fn written(store: &Store, writes: &[Write], was_closed: bool) -> Written {
    let head = store.rows.head();
    let mut written = Written {
        now: now(),
        closed: head.is_some_and(|head| head.closed.is_some()),
        closed_by: head
            .and_then(|head| head.closed.as_ref())
            .and_then(|closed| closed.by.clone()),
        ..Written::default()
    };
    let mut frames = Vec::new();
    for write in writes {
        match write {
            Write::InsertStream(head) => written.created = Some(head.clone()),
            Write::DropTables => written.dropped = true,
            Write::InsertHot { row, .. } => {
                frames.extend_from_slice(&row.frames.make());
                assert!(
                    row.ends.len() <= 1,
                    "the server runs each append in its own turn"
                );
                if let Some(end) = row.ends.first() {
                    written.writer.clone_from(&end.producer);
                    written.stream_seq.clone_from(&end.stream_seq);
                }
            }
            Write::InsertSegment(segment) => written.sealed = Some((segment.number, segment.units)),
            Write::UpdateSegment(segment) if segment.stored.is_some() => {
                written
                    .stored
                    .extend(head.map(|head| (head.clone(), segment.clone())));
            }
            Write::CreateStreamTable
            | Write::UpdateStream(_)
            | Write::CreateSealedTables
            | Write::CreateHot(_)
            | Write::UpdateSegment(_)
            | Write::PutProducer { .. }
            | Write::ForgetProducers { .. }
            | Write::Upgrade { .. }
            | Write::DropHot(_)
            | Write::CreateOutbox
            | Write::InsertTask(_)
            | Write::UpdateTask(_)
            | Write::RemoveTask { .. }
            | Write::DropOutbox => {}
        }
    }
    written.closes = written.closed && (written.created.is_some() || !was_closed);
    written.records = framed(&frames);
    if let Some(head) = head {
        let row = store.rows.last_row();
        let end = row.map_or(0, |row| row.key.position() + row.units);
        // The content before the tail names it, which may be in a sealed segment.
        let is_empty = end == 0 || !head.writable;
        let sealed = store.rows.segments().last().filter(|_| is_empty);
        written.end = sealed.map_or((head.segment, end), |segment| {
            (segment.number, segment.units)
        });
    }
    written
}
