//! What a connection shows of one stream: its rows, and bits of them that flip.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use machine::outbox::{Queue, Task};
use machine::rows::{
    ControlRow, HotTable, Incarnation, Layout, ManifestRow, MinuteOfRows, Pin, ProducerStamp,
    ProducerState, RowAppends, RowKey, RowMeta, SealedSegment, StreamRow, Sums, WriterColumns,
};
use machine::{MemoryRows, Millis, Span, StorageError};
use server::Rows;
use sim::oracles::Oracle;

use crate::coverage::{Fault, Situation};
use crate::flipped;
use crate::shared::{Inner, Shared, now};
use crate::storage::Logged;

/// The rows of one stream, as a connection shows them.
#[derive(Debug)]
pub(crate) struct View {
    shared: Shared,
    boot: u64,
    name: String,
    rows: Arc<MemoryRows>,
    damage: RefCell<Option<String>>,
    viewed: Option<Arc<AtomicBool>>,
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(viewed) = &self.viewed {
            viewed.store(false, Ordering::Relaxed);
        }
    }
}

impl View {
    /// `viewed` is whether somebody has a view of the connection, if it only reads.
    pub(crate) fn new(
        shared: Shared,
        boot: u64,
        name: &str,
        rows: Arc<MemoryRows>,
        viewed: Option<Arc<AtomicBool>>,
    ) -> Self {
        Self {
            shared,
            boot,
            name: name.to_owned(),
            rows,
            damage: RefCell::default(),
            viewed,
        }
    }

    /// Tells the judge of damage that a shard has noticed.
    fn flipped(&self, shared: &mut Inner, read: flipped::Read) -> Result<Vec<u8>, StorageError> {
        if read.frames.is_err() {
            shared.changed(Fault::RowFlips);
            shared.storage_failed_at = now();
            shared.log.push(Logged::Damaged {
                name: self.name.clone(),
                at: now(),
            });
            if !read
                .damage
                .as_ref()
                .is_some_and(|damage| damage.contains(&self.name))
            {
                shared.fail(
                    Oracle::Storage,
                    format!("damage that names {}", self.name),
                    format!("{:?}", read.damage),
                );
            }
        }
        self.damage.replace(read.damage);
        read.frames
    }
}

impl Rows for View {
    fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError> {
        let mut shared = self.shared.lock();
        shared
            .storage_fails(self.boot, "reading")
            .map_err(|error| StorageError(error.to_string()))?;
        if shared.row_flips()
            && let Some(read) = flipped::read(&self.name, &self.rows, span, shared.choices.fourth())
        {
            let name = &self.name;
            shared.note("storage", || format!("{name}: a bit of a row has flipped"));
            return self.flipped(&mut shared, read);
        }
        self.rows.frames(span)
    }

    fn tables(&self) -> Result<Vec<String>, StorageError> {
        Ok((0..self.rows.table_count())
            .map(|table| table.to_string())
            .collect())
    }

    fn damage(&self) -> Option<String> {
        self.damage.borrow().clone()
    }
}

impl machine::Storage for View {
    /// Only an instance that is loaded asks this.
    fn layout(&self) -> Result<Layout, StorageError> {
        let mut shared = self.shared.lock();
        shared
            .storage_fails(self.boot, "reading")
            .map_err(|error| StorageError(error.to_string()))?;
        if !self.rows.is_empty() && !shared.opened.insert((self.boot, self.name.clone())) {
            shared.cover(Situation::PutToSleep);
        }
        shared.log.push(Logged::Opened {
            name: self.name.clone(),
        });
        self.rows.layout()
    }

    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        machine::Storage::head(&*self.rows)
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        self.rows.at_or_before(table, key)
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        self.rows
            .first_at_or_after_bytes(table, after, bytes_before)
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        self.rows.writers(table, each)
    }

    fn appends(
        &self,
        table: HotTable,
        from: RowKey,
        limit: u64,
    ) -> Result<Vec<RowAppends>, StorageError> {
        self.rows.appends(table, from, limit)
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        self.rows.producer(id)
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        self.rows.segment(number)
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        self.rows.retried_segments(each)
    }

    fn append_ends(&self, segment: u64) -> Result<Option<Bytes>, StorageError> {
        self.rows.append_ends(segment)
    }

    fn manifest(&self, segment: u64) -> Result<Option<ManifestRow>, StorageError> {
        machine::Storage::manifest(&*self.rows, segment)
    }

    fn pin(&self, fork: Incarnation) -> Result<Option<Pin>, StorageError> {
        self.rows.pin(fork)
    }

    fn pins(&self) -> Result<u64, StorageError> {
        machine::Storage::pins(&*self.rows)
    }

    fn tasks(&self, queue: &Queue, id: u64, limit: u64) -> Result<Vec<Task>, StorageError> {
        machine::Storage::tasks(&*self.rows, queue, id, limit)
    }

    fn last_task(&self, queue: &Queue) -> Result<Option<Task>, StorageError> {
        self.rows.last_task(queue)
    }

    fn control(&self, from: &str, limit: u64) -> Result<Vec<ControlRow>, StorageError> {
        machine::Storage::control(&*self.rows, from, limit)
    }

    fn sealed_segments(&self, from: u64, limit: u64) -> Result<Vec<SealedSegment>, StorageError> {
        self.rows.sealed_segments(from, limit)
    }

    fn sealed_producers(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<Vec<(ProducerStamp, Millis)>, StorageError> {
        self.rows.sealed_producers(after, limit)
    }

    fn sealed_sums(&self) -> Result<Sums, StorageError> {
        self.rows.sealed_sums()
    }

    fn minutes(
        &self,
        table: HotTable,
        before: RowKey,
        since: Millis,
    ) -> Result<Vec<MinuteOfRows>, StorageError> {
        self.rows.minutes(table, before, since)
    }
}
