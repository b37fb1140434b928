//! The server's storage: shards with an ordered map for each stream, and the alarms.
//!
//! What is committed stays. A commit may be the last thing that a server does. A commit may fail
//! with an unknown outcome: its data may be lost, or be in a page cache. There the next server that
//! opens the shard finds it, unless the power was cut. A power cut takes with it everything that
//! was committed on top.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use machine::admin::Listed;
use machine::rows::{
    AppendEnd, HotRow, HotTable, Incarnation, ProducerStamp, SealedSegment, StreamRow,
};
use machine::{AlarmChange, MemoryRows, Millis, StorageError, Write};
use server::{Due, Reader, Rows, Storage, Writer};
use sim::oracles::Oracle;
use sim::platform::Storage as _;
use sim::storage::{Kind, Store};

use crate::coverage::{Fault, Situation};
use crate::judge::keep;
use crate::shared::{Inner, SERVER, Shared, client_host, now};
use crate::view::View;

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
    /// A stream's instance is made from the rows.
    Opened { name: String },
    /// The storage has told the server that a row of a stream is damaged.
    Damaged { name: String, at: u64 },
    /// All streams restart.
    Booted,
}

/// What one turn has written, or one of the appends that share a turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// Whether it shares the turn of the one before.
    pub(crate) is_further: bool,
    pub(crate) now: u64,
    pub(crate) created: Option<StreamRow>,
    pub(crate) dropped: bool,
    /// The forks whose pins it gave up.
    pub(crate) released: Vec<Incarnation>,
    /// Whether it ended the stream, which stays for its forks.
    pub(crate) hides: bool,
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

impl Written {
    /// Returns an append that closes its stream as an append and another request that closes it.
    /// The writes are the same.
    pub(crate) fn apart(&self) -> Option<[Self; 2]> {
        let may_be_two = self.closes && !self.records.is_empty() && self.created.is_none();
        may_be_two.then(|| {
            let append = Self {
                closes: false,
                closed: false,
                closed_by: None,
                sealed: None,
                ..self.clone()
            };
            let close = Self {
                is_further: true,
                records: Vec::new(),
                writer: None,
                stream_seq: None,
                ..self.clone()
            };
            [append, close]
        })
    }
}

/// The state of one stream in a shard.
#[derive(Clone, Debug, Default)]
struct Disk {
    rows: Arc<MemoryRows>,
    alarm: Option<u64>,
}

/// The commit of a stream that a page cache has, and nothing else.
#[derive(Debug)]
struct Cached {
    name: String,
    disk: Disk,
    turns: Vec<Written>,
}

/// What the page cache of a shard has after a failed commit.
#[derive(Debug)]
pub(crate) struct PageCache {
    /// The server whose commit failed.
    boot: u64,
    commit: Vec<Cached>,
    /// What the shard had before, by name. A power cut leaves this.
    durable: BTreeMap<String, Disk>,
}

/// One server's storage.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) shared: Shared,
    pub(crate) boot: u64,
}

/// The rows of a stream in an open transaction, and the turns that made them.
type Uncommitted = (Disk, Vec<Written>);

/// A connection to a shard.
#[derive(Debug)]
struct Connection {
    shared: Shared,
    boot: u64,
    shard: usize,
    /// The streams that the open transaction has changed, and their turns in order.
    open: BTreeMap<String, Uncommitted>,
    /// The stream of the open turn, as it was before.
    before: Option<(String, Option<Uncommitted>)>,
    in_transaction: bool,
    in_turn: bool,
    /// If it only reads: whether somebody has the rows of a stream. A connection of SQLite can have
    /// only one view at a time.
    viewed: Option<Arc<AtomicBool>>,
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

    pub(crate) fn storage_fails(&mut self, boot: u64, what: &str) -> io::Result<()> {
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

    /// Makes all rows count as those of an earlier release.
    pub(crate) fn age(&mut self) {
        for rows in self.disks.values_mut() {
            Arc::make_mut(rows).age();
        }
    }

    /// Returns the present state of a stream.
    fn disk(&self, name: &str) -> Disk {
        Disk {
            rows: self.disks.get(name).cloned().unwrap_or_default(),
            alarm: self.alarms.get(name).copied(),
        }
    }

    fn set_disk(&mut self, name: &str, disk: &Disk) {
        if disk.rows.is_empty() {
            self.disks.remove(name);
            self.alarms.remove(name);
            return;
        }
        self.disks.insert(name.to_owned(), Arc::clone(&disk.rows));
        match disk.alarm {
            Some(at) => self.alarms.insert(name.to_owned(), at),
            None => self.alarms.remove(name),
        };
    }

    /// Makes the commit of one stream durable.
    fn store(&mut self, name: &str, disk: &Disk, turns: Vec<Written>) {
        self.note("storage", || {
            format!("{name}: a commit of {} turns", turns.len())
        });
        if turns.iter().filter(|turn| !turn.is_further).count() > 1 {
            self.cover(Situation::GroupCommit);
        }
        for turn in &turns {
            if turn.is_further {
                self.cover(Situation::AppendsTogether);
                if turn.sealed.is_some() {
                    self.cover(Situation::SealedBehindAppends);
                }
            }
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
        self.set_disk(name, disk);
        self.check(Oracle::Pins, keep(&self.disks));
        self.log.push(Logged::Committed {
            name: name.to_owned(),
            at: now(),
            turns,
        });
    }

    /// Keeps the failed commit of a shard in its page cache.
    fn cache(&mut self, boot: u64, shard: usize, commit: Vec<Cached>) {
        let count = self.settings.shards;
        let names: Vec<_> = self.disks.keys().cloned().collect();
        let durable = names.into_iter().filter_map(|name| {
            let is_here = server::shard_of(&name, count) == shard;
            is_here.then(|| (name.clone(), self.disk(&name)))
        });
        let durable = durable.collect();
        let cached = PageCache {
            boot,
            commit,
            durable,
        };
        // Only a server that goes on after a failed commit has a second one.
        self.page_caches.entry(shard).or_insert(cached);
    }

    /// Opens a shard: a page cache becomes durable, or has been lost in a power cut.
    fn settle(&mut self, boot: u64, shard: usize) {
        let Some(cached) = self.page_caches.remove(&shard) else {
            return;
        };
        if cached.boot != boot && self.choices.third().upto(1) == 1 {
            self.cover(Situation::PageCacheLost);
            self.note("storage", || {
                format!("shard {shard}: the power cut has lost its page cache")
            });
            let count = self.settings.shards;
            let names: Vec<_> = self.disks.keys().cloned().collect();
            for name in names {
                if server::shard_of(&name, count) == shard {
                    self.set_disk(&name, &Disk::default());
                }
            }
            for (name, disk) in &cached.durable {
                self.set_disk(name, disk);
            }
            return;
        }
        self.cover(Situation::PageCacheKept);
        for Cached { name, disk, turns } in cached.commit {
            self.store(&name, &disk, turns);
        }
    }
}

impl Disks {
    fn connection(&self, shard: usize) -> Connection {
        Connection {
            shared: self.shared.clone(),
            boot: self.boot,
            shard,
            open: BTreeMap::new(),
            before: None,
            in_transaction: false,
            in_turn: false,
            viewed: None,
        }
    }
}

impl Storage for Disks {
    fn shards(&self) -> usize {
        self.shared.lock().settings.shards
    }

    fn open(&self, shard: usize) -> io::Result<Box<dyn Writer>> {
        let mut shared = self.shared.lock();
        shared.storage_fails(self.boot, "opening")?;
        shared.settle(self.boot, shard);
        drop(shared);
        Ok(Box::new(self.connection(shard)))
    }

    fn reader(&self, shard: usize) -> io::Result<Box<dyn Reader>> {
        self.shared
            .lock()
            .storage_fails(self.boot, "opening for reads")?;
        Ok(Box::new(Connection {
            viewed: Some(Arc::default()),
            ..self.connection(shard)
        }))
    }
}

impl Reader for Connection {
    fn stream(&self, name: &str) -> Result<Box<dyn Rows + '_>, StorageError> {
        let rows = match self.open.get(name) {
            Some((disk, _)) => Arc::clone(&disk.rows),
            None => self.shared.lock().disk(name).rows,
        };
        if let Some(viewed) = &self.viewed
            && viewed.swap(true, Ordering::Relaxed)
        {
            self.shared.lock().fail(
                Oracle::Storage,
                "one view at a time of a connection that reads".to_owned(),
                format!("a second one, of {name}"),
            );
        }
        Ok(Box::new(View::new(
            self.shared.clone(),
            self.boot,
            name,
            rows,
            self.viewed.clone(),
        )))
    }

    fn due(&self, now: Millis, limit: u64) -> io::Result<Due> {
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
        let count = shared.settings.shards;
        let here = shared
            .alarms
            .iter()
            .filter(|(name, _)| server::shard_of(name, count) == self.shard);
        let (mut due, later): (Vec<_>, Vec<_>) = here.partition(|(_, at)| **at <= now.0);
        due.sort_by_key(|(_, at)| **at);
        let due = due.into_iter().zip(0..limit);
        let due = due.map(|((name, _), _)| name.clone()).collect();
        Ok((due, later.into_iter().map(|(_, at)| Millis(*at)).min()))
    }

    /// No simulated client asks the admin API for a list.
    fn list(&self, _: &str, _: &str, _: u64) -> io::Result<Vec<Listed>> {
        Err(io::Error::other("the streams are not listed"))
    }
}

impl Writer for Connection {
    fn begin(&mut self) -> io::Result<()> {
        self.shared.lock().storage_fails(self.boot, "beginning")?;
        self.in_transaction = true;
        Ok(())
    }

    fn begin_turn(&mut self) -> io::Result<()> {
        if !self.in_transaction || self.in_turn {
            self.shared.lock().fail(
                Oracle::Storage,
                "a turn in a transaction, after the end of the one before".to_owned(),
                format!("in a turn: {}", self.in_turn),
            );
        }
        self.in_turn = true;
        Ok(())
    }

    fn apply(&mut self, name: &str, writes: &[Write], alarm: AlarmChange) -> io::Result<()> {
        let others = !self.open.is_empty();
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
            if append_ends(writes).count() > 1 {
                shared.cover(Situation::AppendsFoldedFailed);
            }
            return Err(error);
        }
        let was = self.open.get(name).cloned();
        let (mut disk, mut turns) = was
            .clone()
            .unwrap_or_else(|| (shared.disk(name), Vec::new()));
        self.before.get_or_insert_with(|| (name.to_owned(), was));
        let mut store = Store::new(Kind::Map);
        store.restore(&disk.rows).expect("maps can be restored");
        let before = store.rows.head().cloned();
        if let Err(reason) = store.apply(writes) {
            shared.fail(
                Oracle::Storage,
                "writes that can be carried out".to_owned(),
                reason.clone(),
            );
            return Err(io::Error::other(reason));
        }
        if matches!(writes, [Write::Upgrade { .. }]) {
            // The turn goes on.
            shared.cover(Situation::Upgraded);
            shared.note("storage", || format!("{name}: older rows are upgraded"));
            disk.rows = Arc::new(store.rows);
            self.open.insert(name.to_owned(), (disk, turns));
            return Ok(());
        }
        let written = written(&store, writes, before.as_ref());
        for part in &written {
            shared.note("storage", || {
                format!(
                    "{name}: {}, {} records, created {}, dropped {}, closes {}",
                    if part.is_further { "in it" } else { "a turn" },
                    part.records.len(),
                    part.created.is_some(),
                    part.dropped,
                    part.closes
                )
            });
        }
        if hot_rows(writes).any(|(_, row)| row.ends.len() > 1) {
            shared.cover(Situation::AppendsFolded);
        }
        if !self.open.is_empty() && !self.open.contains_key(name) {
            shared.cover(Situation::StreamsShareCommit);
        }
        turns.extend(written);
        disk.rows = Arc::new(store.rows);
        match alarm {
            AlarmChange::Keep => {}
            AlarmChange::Set(at) => disk.alarm = Some(at.0),
            AlarmChange::Clear => disk.alarm = None,
        }
        self.open.insert(name.to_owned(), (disk, turns));
        Ok(())
    }

    fn keep_turn(&mut self) -> io::Result<()> {
        self.in_turn = false;
        self.before = None;
        Ok(())
    }

    fn undo_turn(&mut self) -> io::Result<()> {
        self.in_turn = false;
        match self.before.take() {
            Some((name, Some(before))) => drop(self.open.insert(name, before)),
            Some((name, None)) => drop(self.open.remove(&name)),
            None => {}
        }
        Ok(())
    }

    fn commit(&mut self) -> io::Result<()> {
        let open = std::mem::take(&mut self.open);
        self.in_transaction = false;
        let mut shared = self.shared.lock();
        shared.alive(self.boot)?;
        let commit = open.into_iter();
        let commit = commit.map(|(name, (disk, turns))| Cached { name, disk, turns });
        let commit: Vec<_> = commit.collect();
        if shared.fault(Fault::CommitFails) {
            shared.changed(Fault::CommitFails);
            shared.storage_failed_at = now();
            if shared.choices.upto(1) == 1 {
                shared.cover(Situation::CommitUnknownKept);
                shared.cache(self.boot, self.shard, commit);
            } else {
                shared.cover(Situation::CommitUnknownLost);
            }
            let shard = self.shard;
            shared.note("storage", || {
                format!("shard {shard}: the commit is reported as failed")
            });
            return Err(failed("committing"));
        }
        let dies = shared.fault(Fault::CrashAtCommit);
        if dies {
            shared.changed(Fault::CrashAtCommit);
            shared.die();
            if shared.choices.upto(1) == 0 {
                shared.cover(Situation::LostCommit);
                shared.note("storage", || "the server dies before the commit".to_owned());
                return Err(failed("committing"));
            }
            shared.cover(Situation::KeptUnanswered);
        }
        for Cached { name, disk, turns } in commit {
            shared.store(&name, &disk, turns);
        }
        if dies {
            shared.note("storage", || "the server dies after the commit".to_owned());
        }
        Ok(())
    }

    fn shrink(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn release_memory(&mut self) -> io::Result<()> {
        let mut shared = self.shared.lock();
        shared.cover(Situation::MemoryFreed);
        if self.in_transaction {
            shared.fail(
                Oracle::Storage,
                "no open transaction when memory is freed".to_owned(),
                format!("shard {}", self.shard),
            );
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        if !self.open.is_empty() {
            self.shared.lock().fail(
                Oracle::Storage,
                "no open transaction at a close".to_owned(),
                format!("shard {}", self.shard),
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

/// Returns the hot rows that a turn writes.
fn hot_rows(writes: &[Write]) -> impl Iterator<Item = (HotTable, &HotRow)> {
    writes.iter().filter_map(|write| {
        if let Write::InsertHot { table, row } = write {
            return Some((*table, row));
        }
        None
    })
}

/// Returns the appends of a turn.
fn append_ends(writes: &[Write]) -> impl Iterator<Item = &AppendEnd> {
    hot_rows(writes).flat_map(|(_, row)| &row.ends)
}

/// Returns what each append of a turn has written.
fn appended(writes: &[Write]) -> Vec<Written> {
    let mut appends = Vec::new();
    // Of an append that goes on in the next row.
    let mut begun = Vec::new();
    for (table, row) in hot_rows(writes) {
        let frames = row.frames.make();
        if row.ends.len() < 2 {
            begun.extend_from_slice(&frames);
        }
        let mut rest = framed(&frames).into_iter();
        // A message is a unit. An append of bytes is one record.
        let are_messages = rest.len() as u64 == row.units;
        let mut position = row.key.position();
        for end in &row.ends {
            position += end.units;
            let mut records = framed(&std::mem::take(&mut begun));
            if row.ends.len() > 1 {
                let count = if are_messages { end.units } else { 1 };
                records.extend(
                    rest.by_ref()
                        .take(usize::try_from(count).unwrap_or(usize::MAX)),
                );
            }
            appends.push(Written {
                is_further: !appends.is_empty(),
                now: now(),
                records,
                writer: end.producer.clone(),
                stream_seq: end.stream_seq.clone(),
                end: (table.segment(), position),
                ..Written::default()
            });
        }
    }
    appends
}

/// Returns what the writes of a turn say, in the state after them: one for each append.
fn written(store: &Store, writes: &[Write], before: Option<&StreamRow>) -> Vec<Written> {
    let was_closed = before.is_some_and(|head| head.closed.is_some());
    let is_hidden = |head: &StreamRow| head.lineage.deleted_at.is_some();
    let was_hidden = before.is_some_and(is_hidden);
    let head = store.rows.head();
    let mut appends = appended(writes);
    let mut written = Written {
        now: now(),
        hides: head.is_some_and(is_hidden) && !was_hidden,
        closed: head.is_some_and(|head| head.closed.is_some()),
        closed_by: head
            .and_then(|head| head.closed.as_ref())
            .and_then(|closed| closed.by.clone()),
        ..appends.pop().unwrap_or_default()
    };
    for write in writes {
        match write {
            Write::InsertStream(head) => written.created = Some(head.clone()),
            Write::DropTables => written.dropped = true,
            Write::PutPin(pin) if pin.released_at.is_some() => written.released.push(pin.fork),
            Write::InsertSegment(segment) => written.sealed = Some((segment.number, segment.units)),
            Write::UpdateSegment(segment) if segment.stored.is_some() => {
                written
                    .stored
                    .extend(head.map(|head| (head.clone(), segment.clone())));
            }
            Write::CreateStreamTable
            | Write::InsertHot { .. }
            | Write::UpdateStream(_)
            | Write::CreateSealedTables
            | Write::CreateHot(_)
            | Write::UpdateSegment(_)
            | Write::PutProducer { .. }
            | Write::ForgetProducers { .. }
            | Write::Upgrade { .. }
            | Write::DropHot(_)
            | Write::CreateManifest
            | Write::InsertManifest(_)
            | Write::CreatePins
            | Write::PutPin(_)
            | Write::ForgetPins { .. }
            | Write::CreateOutbox
            | Write::InsertTask(_)
            | Write::UpdateTask(_)
            | Write::RemoveTask { .. }
            | Write::DropOutbox
            | Write::CreateControl
            | Write::PutControl(_)
            | Write::RemoveControl { .. }
            | Write::DropControl => {}
        }
    }
    written.closes = written.closed && (written.created.is_some() || !was_closed);
    if let Some(head) = head {
        let row = store.rows.last_row();
        let end = row.map_or(0, |row| row.key.position() + row.units);
        // The content before the tail names it, which may be in a sealed segment.
        let is_empty = end == 0 || !head.writable;
        let own = store.rows.segments().last();
        let own = own.map(|segment| (segment.number, segment.units));
        let fork = head.lineage.fork.as_ref();
        let inherited = fork.and_then(|fork| Some((fork.segments.checked_sub(1)?, fork.units)));
        let sealed = own.or(inherited).filter(|_| is_empty);
        written.end = sealed.unwrap_or((head.segment, end));
    }
    appends.push(written);
    appends
}
