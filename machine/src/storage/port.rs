//! The storage port: what the machine asks of the storage.

use bytes::Bytes;

use super::rows::{
    ControlRow, HotTable, Incarnation, Layout, ManifestRow, MinuteOfRows, Pin, ProducerStamp,
    ProducerState, RowAppends, RowKey, RowMeta, SealedSegment, StreamRow, Sums, WriterColumns,
};
use crate::Millis;
use crate::outbox::task::{Queue, Task};

/// The storage could not be read. The step is void, and the instance must be dropped.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the storage could not be read: {0}")]
pub struct StorageError(pub String);

/// What the machine asks of the storage. Answers are synchronous, and true as of the beginning of
/// the step.
pub trait Storage {
    /// Reads which tables there are. This is the first question. The other questions are only asked
    /// of tables in the present layout.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn layout(&self) -> Result<Layout, StorageError>;

    /// Reads the row of the stream. Only asked if there is a table for it.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn head(&self) -> Result<Option<StreamRow>, StorageError>;

    /// Reads the metadata of the last row at or before `key`.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError>;

    /// Reads the metadata of the first row after `after` that begins a message and has at least
    /// `bytes_before` framed bytes of its segment before it.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError>;

    /// Hands over every row that names a producer or a `Stream-Seq`, in order of keys.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError>;

    /// Reads the appends of at most `limit` rows from `from` on, in order of keys.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn appends(
        &self,
        table: HotTable,
        from: RowKey,
        limit: u64,
    ) -> Result<Vec<RowAppends>, StorageError>;

    /// Reads the last state of a producer in the sealed segments. Only asked if a segment is
    /// sealed.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError>;

    /// Reads the row of a sealed segment. Only asked if a segment is sealed.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError>;

    /// Hands over number and attempts of every sealed segment that took more than one attempt. Only
    /// asked if a segment is sealed.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError>;

    /// Reads where the appends of a segment in the cold tier end; `None` if earlier code stored it.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn append_ends(&self, segment: u64) -> Result<Option<Bytes>, StorageError>;

    /// Reads the run of inherited segments that this segment belongs to: the last one that begins
    /// at or before it. Only asked of a fork that has inherited segments.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn manifest(&self, segment: u64) -> Result<Option<ManifestRow>, StorageError>;

    /// Reads the pin of a fork, released or not. Only asked if there is a table of pins.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn pin(&self, fork: Incarnation) -> Result<Option<Pin>, StorageError>;

    /// Counts the pins that are not released. Only asked if there is a table of pins.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn pins(&self) -> Result<u64, StorageError>;

    /// Reads the tasks of the outbox from this queue and id on, at most `limit`, in the order of
    /// queues and ids. Only asked if there is a table of tasks.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn tasks(&self, queue: &Queue, id: u64, limit: u64) -> Result<Vec<Task>, StorageError>;

    /// Reads the task of this queue with the greatest id. Only asked if there is a table of tasks.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn last_task(&self, queue: &Queue) -> Result<Option<Task>, StorageError>;

    /// Reads the rows of the control table from this key on, at most `limit`, in order of keys.
    /// Only asked if there is a control table.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn control(&self, from: &str, limit: u64) -> Result<Vec<ControlRow>, StorageError>;

    /// Reads the sealed segments from this number on, at most `limit`, in order and without their
    /// indexes. Only asked if a segment is sealed.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn sealed_segments(&self, from: u64, limit: u64) -> Result<Vec<SealedSegment>, StorageError>;

    /// Reads the producers of the sealed segments behind this id, at most `limit`, in order, with
    /// the times of their last appends. Only asked if a segment is sealed.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn sealed_producers(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<Vec<(ProducerStamp, Millis)>, StorageError>;

    /// Sums up messages and framed bytes of all sealed segments. Only asked if a segment is sealed
    /// and the row of the stream does not have the sums.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn sealed_sums(&self) -> Result<Sums, StorageError>;

    /// Sums up the rows of each minute, of those before the key `before` that came at `since` or
    /// later.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn minutes(
        &self,
        table: HotTable,
        before: RowKey,
        since: Millis,
    ) -> Result<Vec<MinuteOfRows>, StorageError>;
}

/// `None` is an empty storage, without tables.
impl<S: Storage + ?Sized> Storage for Option<&S> {
    fn layout(&self) -> Result<Layout, StorageError> {
        self.map_or(Ok(Layout::default()), S::layout)
    }

    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        self.map_or(Ok(None), S::head)
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        self.map_or(Ok(None), |storage| storage.at_or_before(table, key))
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        self.map_or(Ok(None), |storage| {
            storage.first_at_or_after_bytes(table, after, bytes_before)
        })
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        self.map_or(Ok(()), |storage| storage.writers(table, each))
    }

    fn appends(
        &self,
        table: HotTable,
        from: RowKey,
        limit: u64,
    ) -> Result<Vec<RowAppends>, StorageError> {
        self.map_or(Ok(Vec::new()), |storage| {
            storage.appends(table, from, limit)
        })
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        self.map_or(Ok(None), |storage| storage.producer(id))
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        self.map_or(Ok(None), |storage| storage.segment(number))
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        self.map_or(Ok(()), |storage| storage.retried_segments(each))
    }

    fn append_ends(&self, segment: u64) -> Result<Option<Bytes>, StorageError> {
        self.map_or(Ok(None), |storage| storage.append_ends(segment))
    }

    fn manifest(&self, segment: u64) -> Result<Option<ManifestRow>, StorageError> {
        self.map_or(Ok(None), |storage| storage.manifest(segment))
    }

    fn pin(&self, fork: Incarnation) -> Result<Option<Pin>, StorageError> {
        self.map_or(Ok(None), |storage| storage.pin(fork))
    }

    fn pins(&self) -> Result<u64, StorageError> {
        self.map_or(Ok(0), S::pins)
    }

    fn tasks(&self, queue: &Queue, id: u64, limit: u64) -> Result<Vec<Task>, StorageError> {
        self.map_or(Ok(Vec::new()), |storage| storage.tasks(queue, id, limit))
    }

    fn last_task(&self, queue: &Queue) -> Result<Option<Task>, StorageError> {
        self.map_or(Ok(None), |storage| storage.last_task(queue))
    }

    fn control(&self, from: &str, limit: u64) -> Result<Vec<ControlRow>, StorageError> {
        self.map_or(Ok(Vec::new()), |storage| storage.control(from, limit))
    }

    fn sealed_segments(&self, from: u64, limit: u64) -> Result<Vec<SealedSegment>, StorageError> {
        self.map_or(Ok(Vec::new()), |storage| {
            storage.sealed_segments(from, limit)
        })
    }

    fn sealed_producers(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<Vec<(ProducerStamp, Millis)>, StorageError> {
        self.map_or(Ok(Vec::new()), |storage| {
            storage.sealed_producers(after, limit)
        })
    }

    fn sealed_sums(&self) -> Result<Sums, StorageError> {
        self.map_or(Ok(Sums::default()), S::sealed_sums)
    }

    fn minutes(
        &self,
        table: HotTable,
        before: RowKey,
        since: Millis,
    ) -> Result<Vec<MinuteOfRows>, StorageError> {
        self.map_or(Ok(Vec::new()), |storage| {
            storage.minutes(table, before, since)
        })
    }
}

/// A storage that calls `before` ahead of each question, and passes the question on only if that
/// returns `Ok`. Tests use it to count questions, to bound them, and to inject failures.
#[derive(Debug)]
pub struct Guarded<'a, S: ?Sized, F> {
    storage: &'a S,
    before: F,
}

impl<'a, S, F> Guarded<'a, S, F>
where
    S: Storage + ?Sized,
    F: Fn() -> Result<(), StorageError>,
{
    /// Guards `storage`.
    pub const fn new(storage: &'a S, before: F) -> Self {
        Self { storage, before }
    }

    fn ask(&self) -> Result<&'a S, StorageError> {
        (self.before)().map(|()| self.storage)
    }
}

impl<S, F> Storage for Guarded<'_, S, F>
where
    S: Storage + ?Sized,
    F: Fn() -> Result<(), StorageError>,
{
    fn layout(&self) -> Result<Layout, StorageError> {
        self.ask()?.layout()
    }

    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        self.ask()?.head()
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        self.ask()?.at_or_before(table, key)
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        self.ask()?
            .first_at_or_after_bytes(table, after, bytes_before)
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        self.ask()?.writers(table, each)
    }

    fn appends(
        &self,
        table: HotTable,
        from: RowKey,
        limit: u64,
    ) -> Result<Vec<RowAppends>, StorageError> {
        self.ask()?.appends(table, from, limit)
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        self.ask()?.producer(id)
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        self.ask()?.segment(number)
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        self.ask()?.retried_segments(each)
    }

    fn append_ends(&self, segment: u64) -> Result<Option<Bytes>, StorageError> {
        self.ask()?.append_ends(segment)
    }

    fn manifest(&self, segment: u64) -> Result<Option<ManifestRow>, StorageError> {
        self.ask()?.manifest(segment)
    }

    fn pin(&self, fork: Incarnation) -> Result<Option<Pin>, StorageError> {
        self.ask()?.pin(fork)
    }

    fn pins(&self) -> Result<u64, StorageError> {
        self.ask()?.pins()
    }

    fn tasks(&self, queue: &Queue, id: u64, limit: u64) -> Result<Vec<Task>, StorageError> {
        self.ask()?.tasks(queue, id, limit)
    }

    fn last_task(&self, queue: &Queue) -> Result<Option<Task>, StorageError> {
        self.ask()?.last_task(queue)
    }

    fn control(&self, from: &str, limit: u64) -> Result<Vec<ControlRow>, StorageError> {
        self.ask()?.control(from, limit)
    }

    fn sealed_segments(&self, from: u64, limit: u64) -> Result<Vec<SealedSegment>, StorageError> {
        self.ask()?.sealed_segments(from, limit)
    }

    fn sealed_producers(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<Vec<(ProducerStamp, Millis)>, StorageError> {
        self.ask()?.sealed_producers(after, limit)
    }

    fn sealed_sums(&self) -> Result<Sums, StorageError> {
        self.ask()?.sealed_sums()
    }

    fn minutes(
        &self,
        table: HotTable,
        before: RowKey,
        since: Millis,
    ) -> Result<Vec<MinuteOfRows>, StorageError> {
        self.ask()?.minutes(table, before, since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryRows, Write};

    #[test]
    fn segments_of_several_attempts_are_found_behind_an_option() {
        let segment = SealedSegment {
            number: 3,
            units: 1,
            bytes: 5,
            messages: 1,
            attempts: 2,
            attempted_at: Millis(0),
            stored: None,
        };
        let mut rows = MemoryRows::default();
        for write in [Write::CreateSealedTables, Write::InsertSegment(segment)] {
            rows.apply(&write).expect("the rows take the write");
        }
        let mut found = Vec::new();
        let asked = Some(&rows).retried_segments(&mut |number, attempts| {
            found.push((number, attempts));
        });
        asked.expect("memory can be read");
        assert_eq!(found, [(3, 2)]);
    }
}
