//! The rows of one stream in memory: for tests, and for everything that simulates storage.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::port::{Storage, StorageError};
use bytes::Bytes;

use super::rows::{
    ControlRow, HotRow, HotTable, Incarnation, Layout, ManifestRow, MinuteOfRows, MinutesOfRows,
    Pin, ProducerStamp, ProducerState, RowAppends, RowKey, RowMeta, SealedSegment, StoredSegment,
    StreamRow, Sums, Write, WriterColumns,
};
use crate::Millis;
use crate::outbox::task::{Queue, Task};
use crate::plan::Span;

/// The rows of one stream in ordered maps. It refuses every write that SQLite refuses, and those
/// that change a row that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryRows {
    has_tables: bool,
    head: Option<StreamRow>,
    hot: BTreeMap<HotTable, BTreeMap<RowKey, HotRow>>,
    /// Segments and producers, once there are tables for them.
    sealed: Option<Sealed>,
    /// Inherited segments, once there is a table for them.
    manifest: Option<BTreeMap<u64, ManifestRow>>,
    /// Pins of forks, once there is a table for them.
    pins: Option<BTreeMap<Incarnation, Pin>>,
    outbox: Option<BTreeMap<(Queue, u64), Task>>,
    /// The bodies of the control rows, once there is a table for them.
    control: Option<BTreeMap<String, String>>,
    is_older: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sealed {
    segments: BTreeMap<u64, SealedSegment>,
    producers: BTreeMap<String, (ProducerState, Millis)>,
}

impl MemoryRows {
    /// Returns whether nothing at all is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_freed() && self.outbox.is_none() && self.control.is_none()
    }

    /// Returns whether nothing of a stream is stored. Tasks and control rows may be left.
    #[must_use]
    pub fn is_freed(&self) -> bool {
        !self.has_tables
            && self.head.is_none()
            && self.hot.is_empty()
            && self.sealed.is_none()
            && self.manifest.is_none()
            && self.pins.is_none()
    }

    /// Makes the rows count as those of earlier code, until they are upgraded. Earlier code did not
    /// notify the directory of the stream.
    pub fn age(&mut self) {
        if let Some(head) = &mut self.head {
            head.unannounced.directory = true;
        }
        self.is_older = !self.is_empty();
    }

    /// Returns the sealed segments, in order.
    pub fn segments(&self) -> impl Iterator<Item = &SealedSegment> {
        self.sealed
            .iter()
            .flat_map(|sealed| sealed.segments.values())
    }

    /// Returns the pins, released or not, in order of their forks' incarnations.
    pub fn pins(&self) -> impl Iterator<Item = &Pin> {
        self.pins.iter().flat_map(BTreeMap::values)
    }

    /// Returns the runs of inherited segments, in order.
    pub fn manifest(&self) -> impl Iterator<Item = &ManifestRow> {
        self.manifest.iter().flat_map(BTreeMap::values)
    }

    /// Returns the producers of the sealed segments, in order of their ids.
    pub fn producers(&self) -> impl Iterator<Item = &str> {
        let sealed = self.sealed.iter();
        sealed.flat_map(|sealed| sealed.producers.keys().map(String::as_str))
    }

    /// Returns whether a producer is known, from the sealed segments or from the open one.
    #[must_use]
    pub fn knows(&self, producer: &str) -> bool {
        let sealed = self.sealed.as_ref();
        let is_named = |row: &HotRow| {
            let mut writers = row.writers().filter_map(|writer| writer.producer);
            writers.any(|stamp| stamp.id == producer)
        };
        sealed.is_some_and(|sealed| sealed.producers.contains_key(producer))
            || self.rows().any(is_named)
    }

    /// Returns the tasks of the outbox, in order.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.outbox.iter().flat_map(BTreeMap::values)
    }

    /// Returns keys and bodies of the control rows, in order.
    pub fn control(&self) -> impl Iterator<Item = (&str, &str)> {
        let rows = self.control.iter().flatten();
        rows.map(|(key, body)| (key.as_str(), body.as_str()))
    }

    /// Returns the hot tables, in order.
    pub fn hot_tables(&self) -> impl Iterator<Item = HotTable> {
        self.hot.keys().copied()
    }

    /// Returns the rows of one hot table, in order; `None` when there is no such table.
    pub fn table(&self, table: HotTable) -> Option<impl Iterator<Item = &HotRow>> {
        self.hot.get(&table).map(BTreeMap::values)
    }

    /// Returns the row of the stream, if there is one.
    #[must_use]
    pub const fn head(&self) -> Option<&StreamRow> {
        self.head.as_ref()
    }

    /// Returns the rows of the open segment, in order.
    pub fn rows(&self) -> impl Iterator<Item = &HotRow> {
        let open = self.head.as_ref().filter(|head| head.writable);
        let table = open.and_then(|head| self.hot.get(&HotTable::of(head.segment)));
        table.into_iter().flat_map(BTreeMap::values)
    }

    /// Returns the number of appends that end in the open segment.
    #[must_use]
    pub fn open_append_count(&self) -> u64 {
        self.rows().map(|row| row.ends.len() as u64).sum()
    }

    /// Returns the last row of the open segment.
    #[must_use]
    pub fn last_row(&self) -> Option<&HotRow> {
        let open = self.head.as_ref().filter(|head| head.writable)?;
        let table = self.hot.get(&HotTable::of(open.segment))?;
        table.last_key_value().map(|(_, row)| row)
    }

    /// Returns the number of rows in all hot tables.
    #[must_use]
    pub fn row_count(&self) -> u64 {
        self.hot.values().map(|table| table.len() as u64).sum()
    }

    /// Returns the number of tables.
    #[must_use]
    pub fn table_count(&self) -> u64 {
        let sealed = if self.sealed.is_some() { 2 } else { 0 };
        let others = [
            self.has_tables,
            self.outbox.is_some(),
            self.control.is_some(),
            self.manifest.is_some(),
            self.pins.is_some(),
        ];
        let others: u64 = others.map(u64::from).iter().sum();
        others + self.hot.len() as u64 + sealed
    }

    /// Returns the joined frames of the rows of a span.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError> {
        let rows = self.hot_table(span.table)?.range(span.from..=span.to);
        let frames: Vec<_> = rows.map(|(_, row)| row.frames.make()).collect();
        if frames.is_empty() {
            return Err(StorageError("no rows to be joined".to_owned()));
        }
        Ok(frames.concat())
    }

    /// Carries out one write.
    ///
    /// # Errors
    /// When it contradicts the stored rows, with the reason. A part of it may have been
    /// carried out.
    pub fn apply(&mut self, write: &Write) -> Result<(), String> {
        if self.is_older != matches!(write, Write::Upgrade { .. }) {
            return Err("only older rows are upgraded, and before anything else".to_owned());
        }
        match write {
            Write::CreateStreamTable => {
                if !self.is_freed() {
                    return Err("the tables exist already".to_owned());
                }
                self.has_tables = true;
                Ok(())
            }
            Write::InsertStream(row) => {
                if !self.has_tables {
                    return Err("there is no table of the stream".to_owned());
                }
                free(self.head.replace(row.clone()).is_none(), "row of a stream")
            }
            Write::UpdateStream(new) => {
                let row = self.head.as_mut().ok_or("there is no stream")?;
                *row = StreamRow {
                    incarnation: row.incarnation,
                    name: row.name.clone(),
                    content_type: row.content_type.clone(),
                    created_at: row.created_at,
                    expiry: row.expiry.clone(),
                    version: row.version,
                    ..new.clone()
                };
                Ok(())
            }
            Write::InsertHot { table, row } => {
                let rows = there(self.hot.get_mut(table), "hot table")?;
                free(rows.insert(row.key, row.clone()).is_none(), "hot row")
            }
            Write::CreateHot(table) => free(
                self.hot.insert(*table, BTreeMap::new()).is_none(),
                "hot table",
            ),
            Write::DropHot(table) => there(self.hot.remove(table), "hot table").map(drop),
            Write::CreateSealedTables => free(
                self.sealed.replace(Sealed::default()).is_none(),
                "table of segments",
            ),
            Write::InsertSegment(segment) => {
                let segments = &mut self.sealed_mut()?.segments;
                let is_free = segments.insert(segment.number, segment.clone()).is_none();
                free(is_free, "segment")
            }
            Write::UpdateSegment(new) => {
                let segments = &mut self.sealed_mut()?.segments;
                let segment = there(segments.get_mut(&new.number), "segment")?;
                segment.attempts = new.attempts;
                segment.attempted_at = new.attempted_at;
                segment.stored.clone_from(&new.stored);
                Ok(())
            }
            Write::PutProducer { stamp, used_at } => {
                let ProducerStamp { id, epoch, seq } = stamp.clone();
                let state = ProducerState { epoch, seq };
                let producers = &mut self.sealed_mut()?.producers;
                producers.insert(id, (state, *used_at));
                Ok(())
            }
            Write::ForgetProducers { used_at, most } => {
                let producers = &mut self.sealed_mut()?.producers;
                let idle = producers.iter().filter(|(_, (_, used))| used <= used_at);
                let mut idle: Vec<_> = idle.map(|(id, (_, used))| (*used, id.clone())).collect();
                idle.sort();
                for ((_, id), _) in idle.iter().zip(0..*most) {
                    producers.remove(id);
                }
                Ok(())
            }
            Write::CreateManifest => free(
                self.manifest.replace(BTreeMap::new()).is_none(),
                "table of inherited segments",
            ),
            Write::InsertManifest(row) => {
                let rows = there(self.manifest.as_mut(), "table of inherited segments")?;
                let former = rows.insert(row.first, row.clone());
                free(former.is_none(), "run of inherited segments")
            }
            Write::CreatePins => free(
                self.pins.replace(BTreeMap::new()).is_none(),
                "table of pins",
            ),
            Write::PutPin(pin) => {
                let pins = there(self.pins.as_mut(), "table of pins")?;
                pins.insert(pin.fork, pin.clone());
                Ok(())
            }
            Write::ForgetPins { released_at } => {
                let pins = there(self.pins.as_mut(), "table of pins")?;
                pins.retain(|_, pin| pin.released_at.is_none_or(|at| at > *released_at));
                Ok(())
            }
            Write::CreateOutbox => free(
                self.outbox.replace(BTreeMap::new()).is_none(),
                "table of tasks",
            ),
            Write::InsertTask(task) => {
                let former = self.tasks_mut()?.insert(task_key(task), task.clone());
                free(former.is_none(), "task")
            }
            Write::UpdateTask(new) => {
                there(self.tasks_mut()?.get_mut(&task_key(new)), "task")?.clone_from(new);
                Ok(())
            }
            Write::RemoveTask { queue, id } => {
                let task = self.tasks_mut()?.remove(&(queue.clone(), *id));
                there(task, "task").map(drop)
            }
            Write::DropOutbox => match self.outbox.take() {
                Some(outbox) if outbox.is_empty() => Ok(()),
                Some(outbox) => Err(format!("{} tasks are dropped", outbox.len())),
                None => Err("there is no table of tasks".to_owned()),
            },
            Write::CreateControl => free(
                self.control.replace(BTreeMap::new()).is_none(),
                "control table",
            ),
            Write::PutControl(ControlRow { key, body }) => {
                self.control_mut()?.insert(key.clone(), body.clone());
                Ok(())
            }
            Write::RemoveControl { key } => {
                there(self.control_mut()?.remove(key), "control row").map(drop)
            }
            Write::DropControl => match self.control.take() {
                Some(control) if control.is_empty() => Ok(()),
                Some(control) => Err(format!("{} control rows are dropped", control.len())),
                None => Err("there is no control table".to_owned()),
            },
            Write::Upgrade { .. } => {
                self.is_older = false;
                Ok(())
            }
            Write::DropTables => {
                if !self.has_tables || !self.hot.is_empty() {
                    return Err("there are no tables to drop, or hot ones are left".to_owned());
                }
                *self = Self {
                    outbox: self.outbox.take(),
                    control: self.control.take(),
                    ..Self::default()
                };
                Ok(())
            }
        }
    }

    /// Returns the writes that create these rows in an empty storage.
    #[must_use]
    pub fn as_writes(&self) -> Vec<Write> {
        let mut writes = Vec::new();
        if let Some(outbox) = &self.outbox {
            writes.push(Write::CreateOutbox);
            writes.extend(outbox.values().cloned().map(Write::InsertTask));
        }
        if let Some(control) = &self.control {
            writes.push(Write::CreateControl);
            writes.extend(control.iter().map(|(key, body)| {
                let (key, body) = (key.clone(), body.clone());
                Write::PutControl(ControlRow { key, body })
            }));
        }
        let Some(head) = &self.head else {
            return writes;
        };
        writes.extend([Write::CreateStreamTable, Write::InsertStream(head.clone())]);
        if let Some(rows) = &self.manifest {
            writes.push(Write::CreateManifest);
            writes.extend(rows.values().cloned().map(Write::InsertManifest));
        }
        if let Some(pins) = &self.pins {
            writes.push(Write::CreatePins);
            writes.extend(pins.values().cloned().map(Write::PutPin));
        }
        for (table, rows) in &self.hot {
            writes.push(Write::CreateHot(*table));
            writes.extend(rows.values().map(|row| Write::InsertHot {
                table: *table,
                row: row.clone(),
            }));
        }
        if let Some(sealed) = &self.sealed {
            writes.push(Write::CreateSealedTables);
            writes.extend(sealed.segments.values().cloned().map(Write::InsertSegment));
            writes.extend(sealed.producers.iter().map(|(id, (state, used_at))| {
                let ProducerState { epoch, seq } = *state;
                let stamp = ProducerStamp {
                    id: id.clone(),
                    epoch,
                    seq,
                };
                Write::PutProducer {
                    stamp,
                    used_at: *used_at,
                }
            }));
        }
        writes
    }

    fn hot_table(&self, table: HotTable) -> Result<&BTreeMap<RowKey, HotRow>, StorageError> {
        there(self.hot.get(&table), "hot table").map_err(StorageError)
    }

    fn sealed(&self) -> Result<&Sealed, StorageError> {
        there(self.sealed.as_ref(), "table of segments").map_err(StorageError)
    }

    fn sealed_mut(&mut self) -> Result<&mut Sealed, String> {
        there(self.sealed.as_mut(), "table of segments")
    }

    fn stored_tasks(&self) -> Result<&BTreeMap<(Queue, u64), Task>, StorageError> {
        there(self.outbox.as_ref(), "table of tasks").map_err(StorageError)
    }

    fn tasks_mut(&mut self) -> Result<&mut BTreeMap<(Queue, u64), Task>, String> {
        there(self.outbox.as_mut(), "table of tasks")
    }

    fn control_mut(&mut self) -> Result<&mut BTreeMap<String, String>, String> {
        there(self.control.as_mut(), "control table")
    }
}

fn there<T>(found: Option<T>, what: &str) -> Result<T, String> {
    found.ok_or_else(|| format!("there is no such {what}"))
}

fn free(is_free: bool, what: &str) -> Result<(), String> {
    if is_free {
        Ok(())
    } else {
        Err(format!("there is such a {what} already"))
    }
}

impl Storage for MemoryRows {
    fn layout(&self) -> Result<Layout, StorageError> {
        let present = Layout::present(
            self.has_tables,
            self.outbox.is_some(),
            self.control.is_some(),
        );
        let age = u64::from(self.is_older);
        Ok(Layout {
            stream: present.stream.map(|schema| schema - age),
            outbox: present.outbox.map(|schema| schema - age),
            control: present.control.map(|schema| schema - age),
            newest_hot: self.hot.keys().next_back().map(|table| table.segment()),
            oldest_hot: self.hot.keys().next().map(|table| table.segment()),
            has_segments: self.sealed.is_some(),
            ..present
        })
    }

    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        Ok(self.head.clone())
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        let row = self.hot_table(table)?.range(..=key).next_back();
        Ok(row.map(|(_, row)| meta(row)))
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let mut rows = self.hot_table(table)?.range(behind).map(|(_, row)| row);
        let row = rows.find(|row| {
            row.key == RowKey::at(row.key.position()) && row.bytes_before >= bytes_before
        });
        Ok(row.map(meta))
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        for row in self.hot_table(table)?.values() {
            row.writers().for_each(&mut *each);
        }
        Ok(())
    }

    fn appends(
        &self,
        table: HotTable,
        from: RowKey,
        limit: u64,
    ) -> Result<Vec<RowAppends>, StorageError> {
        let rows = self.hot_table(table)?.range(from..).zip(0..limit);
        let appends = rows.map(|((key, row), _)| RowAppends {
            key: *key,
            units: row.units,
            ends: row.ends.iter().map(|end| end.units).collect(),
        });
        Ok(appends.collect())
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        Ok(self.sealed()?.producers.get(id).map(|(state, _)| *state))
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        let mut segment = self.sealed()?.segments.get(&number).cloned();
        let stored = segment.as_mut().and_then(|segment| segment.stored.as_mut());
        if let Some(StoredSegment { append_ends, .. }) = stored {
            append_ends.clear();
        }
        Ok(segment)
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        let segments = self.sealed()?.segments.values();
        let retried = segments.filter(|segment| segment.attempts > 1);
        retried.for_each(|segment| each(segment.number, segment.attempts));
        Ok(())
    }

    fn append_ends(&self, segment: u64) -> Result<Option<Bytes>, StorageError> {
        let segment = self.sealed()?.segments.get(&segment);
        let stored = segment.and_then(|segment| segment.stored.as_ref());
        Ok(stored.map(|stored| stored.append_ends.clone()))
    }

    fn manifest(&self, segment: u64) -> Result<Option<ManifestRow>, StorageError> {
        let rows = there(self.manifest.as_ref(), "table of inherited segments");
        let row = rows.map_err(StorageError)?.range(..=segment).next_back();
        Ok(row.map(|(_, row)| row.clone()))
    }

    fn pin(&self, fork: Incarnation) -> Result<Option<Pin>, StorageError> {
        let pins = there(self.pins.as_ref(), "table of pins").map_err(StorageError)?;
        Ok(pins.get(&fork).cloned())
    }

    fn pins(&self) -> Result<u64, StorageError> {
        let pins = there(self.pins.as_ref(), "table of pins").map_err(StorageError)?;
        let kept = pins.values().filter(|pin| pin.released_at.is_none());
        Ok(kept.count() as u64)
    }

    fn tasks(&self, queue: &Queue, id: u64, limit: u64) -> Result<Vec<Task>, StorageError> {
        let tasks = self.stored_tasks()?.range((queue.clone(), id)..);
        let tasks = tasks.zip(0..limit);
        Ok(tasks.map(|((_, task), _)| task.clone()).collect())
    }

    fn last_task(&self, queue: &Queue) -> Result<Option<Task>, StorageError> {
        let all = (queue.clone(), 0)..=(queue.clone(), Task::LAST_ID);
        let last = self.stored_tasks()?.range(all).next_back();
        Ok(last.map(|(_, task)| task.clone()))
    }

    fn control(&self, from: &str, limit: u64) -> Result<Vec<ControlRow>, StorageError> {
        let rows = there(self.control.as_ref(), "control table").map_err(StorageError)?;
        let behind = (Bound::Included(from), Bound::Unbounded);
        let rows = rows.range::<str, _>(behind).zip(0..limit);
        let rows = rows.map(|((key, body), _)| ControlRow {
            key: key.clone(),
            body: body.clone(),
        });
        Ok(rows.collect())
    }

    fn sealed_segments(&self, from: u64, limit: u64) -> Result<Vec<SealedSegment>, StorageError> {
        let segments = self.sealed()?.segments.range(from..).zip(0..limit);
        let segments = segments.map(|((_, segment), _)| {
            let mut segment = segment.clone();
            if let Some(stored) = &mut segment.stored {
                stored.index.clear();
                stored.append_ends.clear();
            }
            segment
        });
        Ok(segments.collect())
    }

    fn sealed_producers(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<Vec<(ProducerStamp, Millis)>, StorageError> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let producers = self.sealed()?.producers.range::<str, _>(behind);
        let stamps = producers.zip(0..limit).map(|((id, (state, used_at)), _)| {
            let (id, ProducerState { epoch, seq }) = (id.clone(), *state);
            (ProducerStamp { id, epoch, seq }, *used_at)
        });
        Ok(stamps.collect())
    }

    fn sealed_sums(&self) -> Result<Sums, StorageError> {
        let segments = self.sealed()?.segments.values();
        Ok(segments.fold(Sums::default(), |sums, segment| Sums {
            messages: sums.messages + segment.messages,
            framed: sums.framed + segment.bytes,
        }))
    }

    fn minutes(
        &self,
        table: HotTable,
        before: RowKey,
        since: Millis,
    ) -> Result<Vec<MinuteOfRows>, StorageError> {
        let mut minutes = MinutesOfRows::default();
        let rows = self.hot_table(table)?.range(..before);
        let recent = rows.filter(|(_, row)| since <= row.at);
        recent.for_each(|(_, row)| minutes.add(&meta(row)));
        Ok(minutes.finish())
    }
}

fn task_key(task: &Task) -> (Queue, u64) {
    (task.what.queue(), task.id)
}

fn meta(row: &HotRow) -> RowMeta {
    RowMeta {
        key: row.key,
        units: row.units,
        bytes_before: row.bytes_before,
        bytes: row.frames.bytes(),
        at: row.at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Guarded;

    fn put(key: &str, body: &str) -> Write {
        Write::PutControl(ControlRow {
            key: key.to_owned(),
            body: body.to_owned(),
        })
    }

    fn remove(key: &str) -> Write {
        let key = key.to_owned();
        Write::RemoveControl { key }
    }

    fn applied(writes: &[Write]) -> MemoryRows {
        let mut rows = MemoryRows::default();
        for write in writes {
            rows.apply(write).expect("the rows take the write");
        }
        rows
    }

    #[test]
    fn control_rows_are_read_in_the_order_of_the_bytes_of_their_keys() {
        let writes = [
            Write::CreateControl,
            put("b", "1"),
            put("\u{20ac}", "2"),
            put("a/b", "3"),
            put("B", "4"),
            put("b", "5"),
            put("a", "6"),
            remove("a"),
        ];
        let rows = applied(&writes);
        let all = [("B", "4"), ("a/b", "3"), ("b", "5"), ("\u{20ac}", "2")];
        assert_eq!(rows.control().collect::<Vec<_>>(), all);
        let from = |from: &str, limit| {
            let plain = Storage::control(&rows, from, limit).expect("memory can be read");
            let guarded = Guarded::new(&rows, || Ok(())).control(from, limit);
            assert_eq!(guarded.expect("memory can be read"), plain);
            let optional = Some(&rows).control(from, limit);
            assert_eq!(optional.expect("memory can be read"), plain);
            let keys = plain.into_iter().map(|row| row.key);
            keys.collect::<Vec<_>>()
        };
        assert_eq!(from("", 9), ["B", "a/b", "b", "\u{20ac}"]);
        assert_eq!(from("a/b", 2), ["a/b", "b"]);
        assert_eq!(from("a/c", 1), ["b"]);
        assert_eq!(from("", 0), [""; 0]);
        let none = None::<&MemoryRows>.control("", 9);
        assert_eq!(none.expect("nothing is read"), []);
        assert_eq!(applied(&rows.as_writes()), rows);
        let refuses = Guarded::new(&rows, || Err(StorageError("refused".to_owned())));
        refuses.control("", 9).expect_err("the guard refuses");
    }

    #[test]
    fn the_control_table_refuses_what_contradicts_it() {
        let mut rows = MemoryRows::default();
        Storage::control(&rows, "", 1).expect_err("there is no table");
        for early in [put("a", "1"), remove("a"), Write::DropControl] {
            rows.apply(&early).expect_err("there is no table");
        }
        let mut rows = applied(&[Write::CreateControl, put("a", "1")]);
        for wrong in [Write::CreateControl, remove("b")] {
            rows.apply(&wrong).expect_err("it contradicts the rows");
        }
        let mut rows = applied(&[Write::CreateControl, put("a", "1")]);
        rows.apply(&Write::DropControl).expect_err("a row is left");
    }

    #[test]
    fn control_rows_stay_without_a_stream() {
        let writes = [
            Write::CreateControl,
            put("a", "1"),
            Write::CreateStreamTable,
        ];
        let mut rows = applied(&writes);
        assert_eq!((rows.is_freed(), rows.table_count()), (false, 2));
        rows.apply(&Write::DropTables).expect("there are tables");
        assert!(rows.is_freed() && !rows.is_empty());
        assert_eq!(rows.control().collect::<Vec<_>>(), [("a", "1")]);
        let layout = Layout::present(false, false, true);
        assert_eq!(rows.layout().expect("memory can be read"), layout);
        assert!(!layout.is_empty() && Layout::default().is_empty());
        rows.age();
        let older = rows.layout().expect("memory can be read");
        assert_eq!(older.schemas().collect::<Vec<_>>(), [(0, 1)]);
        let now = Millis(1);
        let upgrade = Write::Upgrade { from: older, now };
        for write in [upgrade, remove("a"), Write::DropControl] {
            rows.apply(&write).expect("the rows take the write");
        }
        assert!(rows.is_empty());
        assert!(Write::CreateControl.changes_tables() && Write::DropControl.changes_tables());
        assert!(!put("a", "1").changes_tables() && !remove("a").changes_tables());
    }
}
