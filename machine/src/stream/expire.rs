//! Expiry (protocol 5.1): `Stream-TTL` slides with use, `Stream-Expires-At` stands.
//!
//! A use is not worth a row. What is stored is a recent use, and a new one is stored only when it
//! lies further ahead of that than a fraction of the TTL, the *slack*. An instance that wakes
//! assumes that the stream was used until the slack had run out, so that it never expires early,
//! and late by the slack at most.

use super::{StepError, Stream, StreamState};
use crate::rows::{Expiry, HotTable, Incarnation, Rows, StorageError, StreamRow, Write};
use crate::{Broadcast, Limits, Millis, StreamEnd, Turn};

/// When the stream was last read or written.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastUse {
    /// As far as this instance knows; never before the true time.
    last: Millis,
    /// As a new instance would find it.
    stored: Millis,
}

impl LastUse {
    pub(super) const fn at(now: Millis) -> Self {
        Self {
            last: now,
            stored: now,
        }
    }

    /// As a new instance would find it.
    pub(super) const fn stored(&self) -> Millis {
        self.stored
    }

    pub(super) fn recall(
        now: Millis,
        head: &StreamRow,
        last_append: Option<Millis>,
        limits: &Limits,
    ) -> Self {
        let stored = head.touched_at.max(last_append.unwrap_or_default());
        let last = stored
            .plus(slack(&head.expiry, limits))
            .min(now.max(stored));
        Self { last, stored }
    }
}

/// How far the last use may run ahead of the stored one.
fn slack(expiry: &Expiry, limits: &Limits) -> u64 {
    match expiry {
        Expiry::Sliding { seconds } => seconds.saturating_mul(1_000) / limits.touch_slack_divisor,
        Expiry::Never | Expiry::At { .. } => 0,
    }
}

impl StreamState {
    /// When the stream ends, if nobody uses it again.
    fn deadline(&self) -> Option<Millis> {
        match &self.row.expiry {
            Expiry::Never => None,
            Expiry::Sliding { seconds } => Some(self.used.last.plus(seconds.saturating_mul(1_000))),
            Expiry::At { at, .. } => Some(*at),
        }
    }

    fn is_due(&self, now: Millis) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// Notes a read, or a write that stores nothing.
    pub(super) fn touch(&mut self, now: Millis, limits: &Limits) {
        self.used.last = self.used.last.max(now);
        if self.used.last > self.used.stored.plus(slack(&self.row.expiry, limits))
            && let Expiry::Sliding { .. } = self.row.expiry
        {
            self.row.touched_at = self.used.last;
            self.used.stored = self.used.last;
            self.save();
        }
    }

    /// Notes a write whose row carries its time.
    pub(super) fn touch_by_row(&mut self, now: Millis) {
        self.used.last = self.used.last.max(now);
        self.used.stored = self.used.stored.max(now);
    }

    /// When an alarm is to come for it: with the slack, so that whoever wakes finds the stream
    /// expired.
    pub(super) fn expiry_at(&self, limits: &Limits) -> Option<Millis> {
        let wanted = self.deadline()?.plus(slack(&self.row.expiry, limits));
        (wanted.0 <= limits.alarm_at_max_ms).then_some(wanted)
    }
}

impl Stream {
    /// Ends a stream whose time has come, so that whatever follows in this step finds none. A
    /// stream with readers at its tail is in use (protocol 5.1), unless its end is fixed.
    pub(super) fn expire_if_due(
        &mut self,
        now: Millis,
        rows: &impl Rows,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        let Some(state) = &mut self.state else {
            return Ok(());
        };
        if !state.is_due(now) {
            return Ok(());
        }
        let slides = matches!(state.row.expiry, Expiry::Sliding { .. });
        if slides && rows.attached(state.row.incarnation)? > 0 {
            state.touch(now, &self.limits);
            // A TTL of 0 is due even now; its readers keep nothing alive.
            if !state.is_due(now) {
                return Ok(());
            }
        }
        self.end(now, rows, turn)
    }

    /// A reader was there until now. One of a former incarnation has nothing to do with this one.
    pub(super) fn reader_gone(&mut self, now: Millis, incarnation: Incarnation) {
        if let Some(state) = &mut self.state
            && state.row.incarnation == incarnation
        {
            state.touch(now, &self.limits);
        }
    }

    /// Removes the stream and everything stored of it, and tells its readers.
    pub(super) fn end(
        &mut self,
        now: Millis,
        rows: &impl Rows,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        let Some(state) = self.state.take() else {
            return Ok(());
        };
        let mut retried = Vec::new();
        if state.row.segment > 0 {
            rows.retried_segments(&mut |segment, attempts| retried.push((segment, attempts)))?;
        }
        self.outbox
            .ended(now, &state.row, &retried, &self.limits, turn);
        let first = state
            .unstored
            .as_ref()
            .map(|unstored| unstored.segment.number);
        let first = first.unwrap_or(state.row.segment);
        let tables = first..state.row.segment + u64::from(state.row.writable);
        turn.writes
            .extend(tables.map(|segment| Write::DropHot(HotTable::of(segment))));
        turn.writes.push(Write::DropTables);
        turn.broadcast = Some(Broadcast {
            end: Some(StreamEnd::Deleted),
            ..state.live(state.tail(), None)
        });
        Ok(())
    }

    /// The stream, noted as used.
    pub(super) fn life_in_use(
        &mut self,
        now: Millis,
    ) -> Result<(&mut StreamState, &Limits), StepError> {
        let (state, limits) = self.state()?;
        state.touch(now, limits);
        Ok((state, limits))
    }
}
