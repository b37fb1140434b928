//! Sealing and storing: the way of a segment into the cold tier.
//!
//! Sealing is one turn: it fixes the boundary and opens the next segment, no matter how many sealed
//! segments wait. Storing follows in the background, one segment after the other, and is retried
//! until it succeeds. Before a put leaves, the row of the sealed segment records the
//! attempt and with it the key. The segment's rows stay until a put is known to have succeeded.

use super::{OpenSegment, Step, Stream, StreamState};
use crate::backoff::backoff;
use crate::router::name;
use crate::rows::{
    HotTable, Incarnation, ProducerStamp, SealedSegment, StoredSegment, StreamRow, Write,
};
use crate::segment::{self, Context, Put, PutId, Receipt};
use crate::storage::{Storage, StorageError};
use crate::wire::Format;
use crate::{Effect, Limits, Millis, Turn};

/// The oldest segment that is sealed and not stored.
#[derive(Clone, Debug)]
pub(super) struct Unstored {
    pub(super) segment: SealedSegment,
    /// When the next attempt begins, unless the put that is under way succeeds first.
    pub(super) retry_at: Millis,
}

impl Stream {
    /// Handles the end of a put. A put that is not known to have succeeded may still succeed, so it
    /// is tried again under another key.
    pub(super) fn stored(
        &mut self,
        now: Millis,
        id: PutId,
        receipt: Option<Receipt>,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let Some(state) = self
            .state
            .as_mut()
            .filter(|state| state.row.incarnation == id.incarnation)
        else {
            return Ok(());
        };
        let waits = |unstored: &mut Unstored| unstored.segment.number == id.segment;
        let Some(receipt) = receipt else {
            let unstored = state.unstored.as_mut();
            if let Some(unstored) =
                unstored.filter(|unstored| unstored.segment.number == id.segment)
                && id.attempt == unstored.segment.attempts
            {
                let pause = backoff(unstored.segment.attempts, self.instance_seed, &self.limits);
                unstored.retry_at = now.plus(pause);
            }
            return Ok(());
        };
        let Some(Unstored {
            segment: mut sealed,
            ..
        }) = state.unstored.take_if(waits)
        else {
            return Ok(());
        };
        sealed.stored = Some(StoredSegment {
            attempt: id.attempt,
            index: receipt.index,
            append_ends: receipt.append_ends,
        });
        assert!(
            (1..=sealed.attempts).contains(&id.attempt),
            "a put that ends was begun"
        );
        assert!(
            receipt.bytes > sealed.bytes,
            "an object is larger than its frames"
        );
        let turn = &mut step.turn;
        turn.writes.push(Write::UpdateSegment(sealed.clone()));
        turn.writes.push(Write::DropHot(HotTable::of(id.segment)));
        let row = state.row.clone();
        // Earlier attempts may have left objects under other keys, or may still do so.
        for others in [1..=id.attempt - 1, id.attempt + 1..=sealed.attempts] {
            if !others.is_empty() {
                let segments = id.segment..=id.segment;
                self.discard(now, &row, segments, others, rows, turn)?;
            }
        }
        let object = (
            key(&row.name, id.incarnation, id.segment, id.attempt),
            receipt.bytes,
        );
        self.announce_segment(now, &row, &sealed, object, rows, turn)?;
        let state = self.state.as_mut().expect("the stream was there just now");
        state.answer_pins(&sealed, rows, &self.limits, step)?;
        let next = id.segment + 1;
        if next < state.row.segment {
            let segment = rows.segment(next)?.ok_or_else(|| missing(next))?;
            state.unstored = Some(Unstored {
                segment,
                retry_at: now,
            });
        }
        state.seal_if_full(now, &self.limits, rows, step)
    }
}

impl StreamState {
    /// Seals the open segment when it has reached one of its limits, or when the stream is closed,
    /// no matter how many segments wait for the cold tier.
    pub(super) fn seal_if_full(
        &mut self,
        now: Millis,
        limits: &Limits,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let Some(opened_at) = self.tail.opened_at.filter(|_| limits.cold) else {
            return Ok(());
        };
        if self.row.lineage.deleted_at.is_some() {
            // No fork inherits from the open segment.
            return Ok(());
        }
        let is_full = self.tail.bytes >= limits.segment_bytes_max
            || self.messages() >= limits.segment_messages_max
            || opened_at.plus(limits.segment_age_ms_max) <= now
            || self.is_closed();
        if is_full {
            self.seal(now, limits, rows, step)?;
        }
        Ok(())
    }

    /// Returns the number of messages in the open segment. In byte streams it counts appends, each
    /// of which is one frame.
    pub(super) const fn messages(&self) -> u64 {
        match self.format {
            Format::Json => self.tail.position,
            Format::Text | Format::Binary => {
                (self.tail.bytes - self.tail.position) / crate::plan::FRAME_OVERHEAD
            }
        }
    }

    pub(super) fn seal(
        &mut self,
        now: Millis,
        limits: &Limits,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        assert!(self.row.writable, "only an open segment is sealed");
        assert!(self.tail.position > 0, "a sealed segment has content");
        assert!(self.tail.has_table, "content has a table");
        self.seal_minutes(now, rows)?;
        let turn = &mut step.turn;
        if self.row.segment == self.inherited_segments() {
            turn.writes.push(Write::CreateSealedTables);
        }
        // The rows that name the producers will be dropped.
        let producers = self.producers(rows)?;
        let (producers, stream_seq) = producers.seal();
        self.keep_producers(now, producers, limits, turn);
        self.row.stream_seq = stream_seq;
        let segment = SealedSegment {
            number: self.row.segment,
            units: self.tail.position,
            bytes: self.tail.bytes,
            messages: self.messages(),
            attempts: 0,
            attempted_at: now,
            stored: None,
        };
        turn.writes.push(Write::InsertSegment(segment.clone()));
        self.sealed_units = segment.units;
        self.unstored.get_or_insert(Unstored {
            segment,
            retry_at: now,
        });
        self.row.segment += 1;
        self.row.writable = !self.is_closed();
        self.tail = OpenSegment::default();
        // The row of the last append is no longer the newest row.
        self.row.touched_at = self.row.touched_at.max(self.used.stored());
        step.opens_segment = true;
        step.row.save();
        Ok(())
    }

    /// Stores the producers of the segment that is sealed, and forgets those that have been idle
    /// for too long (protocol 5.2.1). It removes only about as many producers as it adds, so that
    /// the work of sealing is bounded.
    fn keep_producers(
        &self,
        now: Millis,
        producers: Vec<(ProducerStamp, Millis)>,
        limits: &Limits,
        turn: &mut Turn,
    ) {
        if self.is_closed() {
            // A closed stream accepts no more appends.
            return;
        }
        let most = limits
            .producers_forgotten_max
            .max(2 * producers.len() as u64);
        // Store idle producers, too. An earlier segment's row of the same producer may look
        // younger, because clocks of instances differ, and would bring back its older state.
        let puts = producers.into_iter();
        turn.writes
            .extend(puts.map(|(stamp, used_at)| Write::PutProducer { stamp, used_at }));
        // The producers of a session say how far it is.
        if let Some(idle_since) = now.0.checked_sub(limits.producer_max_idle_ms)
            && !name::is_session(&self.row.name)
        {
            let used_at = Millis(idle_since);
            turn.writes.push(Write::ForgetProducers { used_at, most });
        }
    }

    /// Begins the next attempt to store what is due, oldest first, one at a time.
    pub(super) fn store(&mut self, now: Millis, limits: &Limits, turn: &mut Turn) {
        let Some(unstored) = self
            .unstored
            .as_mut()
            .filter(|unstored| unstored.retry_at <= now)
        else {
            return;
        };
        assert!(
            unstored.segment.number < self.row.segment,
            "a segment is sealed before it is stored"
        );
        let segment = &mut unstored.segment;
        segment.attempts += 1;
        segment.attempted_at = now;
        turn.writes.push(Write::UpdateSegment(segment.clone()));
        let time_ms = limits.put_time_ms(segment.bytes, segment.attempts);
        unstored.retry_at = now.plus(time_ms);
        turn.after_commit.push(Effect::Put(Put {
            id: PutId {
                incarnation: self.row.incarnation,
                segment: segment.number,
                attempt: segment.attempts,
            },
            key: key(
                &self.row.name,
                self.row.incarnation,
                segment.number,
                segment.attempts,
            ),
            table: HotTable::of(segment.number),
            units: segment.units,
            bytes: segment.bytes,
            block: limits.index_block(segment.bytes),
            row_bytes_max: limits.row_bytes_max,
            appends_read_max: limits.appends_read_max,
            time_ms,
            context: Context {
                path: self.row.name.clone(),
                content_type: self.row.content_type.clone(),
            },
        }));
    }
}

impl Unstored {
    /// Restores the state in a new instance. A put of the former one may be under way.
    pub(super) fn recall(segment: SealedSegment, instance_seed: u64, limits: &Limits) -> Self {
        let pause = backoff(segment.attempts, instance_seed, limits);
        Self {
            retry_at: segment.attempted_at.plus(pause),
            segment,
        }
    }
}

/// Finds the oldest segment of an incarnation that is sealed and not stored. Segments are stored in
/// order, so a binary search finds it.
pub(super) fn unstored(
    head: &StreamRow,
    instance_seed: u64,
    rows: &dyn Storage,
    limits: &Limits,
) -> Result<Option<Unstored>, StorageError> {
    let waits = |number: u64| -> Result<Option<SealedSegment>, StorageError> {
        let sealed = rows.segment(number)?.ok_or_else(|| missing(number))?;
        Ok(Some(sealed).filter(|sealed| sealed.stored.is_none()))
    };
    let fork = head.lineage.fork.as_ref();
    let first_own = fork.map_or(0, |fork| fork.segments);
    let last = head.segment.checked_sub(1);
    let Some(last) = last.filter(|last| first_own <= *last) else {
        return Ok(None);
    };
    let Some(mut oldest) = waits(last)? else {
        return Ok(None);
    };
    // All segments before `stored` are stored.
    let mut stored = first_own;
    while stored < oldest.number {
        let middle = stored.midpoint(oldest.number);
        match waits(middle)? {
            Some(waiting) => oldest = waiting,
            None => stored = middle + 1,
        }
    }
    Ok(Some(Unstored::recall(oldest, instance_seed, limits)))
}

pub(super) fn missing(number: u64) -> StorageError {
    StorageError(format!("there is no row of segment {number}"))
}

/// Returns the prefix of the keys of an incarnation's objects.
pub(super) fn key(name: &str, incarnation: Incarnation, segment: u64, attempt: u64) -> String {
    segment::key(&segment::key_prefix(name, incarnation), segment, attempt)
}
