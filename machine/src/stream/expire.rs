//! Expiry (protocol 5.1): `Stream-TTL` restarts with each use, `Stream-Expires-At` is fixed.
//!
//! Not every use is stored, because each stored use costs a row. A new use is stored only when it
//! is later than the stored one by a fraction of the TTL, the *slack*. A new instance assumes that
//! the stream was used until the end of the slack. So a stream never expires early, and late by at
//! most the slack.

use super::{Step, StepError, Stream, StreamState};
use crate::router::name;
use crate::rows::{Expiry, HotTable, Incarnation, StreamRow, Write};
use crate::storage::{Storage, StorageError};
use crate::{Broadcast, Context, Limits, Millis, StreamEnd};

const MILLIS_PER_SECOND: u64 = 1_000;

/// When the stream was last read or written.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastUse {
    /// The latest use that this instance knows, never earlier than the real one.
    last: Millis,
    /// The last use that a new instance would read from storage.
    stored: Millis,
}

impl LastUse {
    pub(super) const fn at(now: Millis) -> Self {
        Self {
            last: now,
            stored: now,
        }
    }

    /// Returns the last use that a new instance would read from storage.
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
        assert!(last >= stored, "a stored use has happened");
        Self { last, stored }
    }
}

/// Returns how far the last use may be ahead of the stored one.
fn slack(expiry: &Expiry, limits: &Limits) -> u64 {
    match expiry {
        Expiry::Sliding { seconds } => {
            seconds.saturating_mul(MILLIS_PER_SECOND) / limits.touch_slack_divisor
        }
        Expiry::Never | Expiry::At { .. } => 0,
    }
}

impl StreamState {
    /// Returns when the stream expires unless it is used again.
    pub(super) fn deadline(&self) -> Option<Millis> {
        if self.row.lineage.deleted_at.is_some() {
            return None;
        }
        match &self.row.expiry {
            Expiry::Never => None,
            Expiry::Sliding { seconds } => Some(
                self.used
                    .last
                    .plus(seconds.saturating_mul(MILLIS_PER_SECOND)),
            ),
            Expiry::At { at, .. } => Some(*at),
        }
    }

    fn is_due(&self, now: Millis) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// Records a read, or a write that stores nothing.
    pub(super) fn touch(&mut self, now: Millis, limits: &Limits, step: &mut Step) {
        self.used.last = self.used.last.max(now);
        if self.used.last > self.used.stored.plus(slack(&self.row.expiry, limits))
            && let Expiry::Sliding { .. } = self.row.expiry
        {
            self.row.touched_at = self.used.last;
            self.used.stored = self.used.last;
            step.row.save();
        }
    }

    /// Records a write that stores a row with its time.
    pub(super) fn touch_by_row(&mut self, now: Millis) {
        self.used.last = self.used.last.max(now);
        self.used.stored = self.used.stored.max(now);
        assert!(
            self.used.last >= self.used.stored,
            "a stored use has happened"
        );
    }

    /// Returns when the alarm for the expiry is due. The slack is added, so that the instance that
    /// wakes finds the stream expired.
    pub(super) fn expiry_at(&self, limits: &Limits) -> Option<Millis> {
        let wanted = self.deadline()?.plus(slack(&self.row.expiry, limits));
        (wanted.0 <= limits.alarm_at_max_ms).then_some(wanted)
    }
}

impl Stream {
    /// Ends a stream that has expired, so that the rest of this step finds no stream. A subscriber
    /// counts as use (protocol 5.1), except when the expiry is fixed.
    pub(super) fn expire_if_due(
        &mut self,
        context: &Context<'_>,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let now = context.now;
        let Some(state) = &mut self.state else {
            return Ok(());
        };
        if !state.is_due(now) {
            return Ok(());
        }
        let slides = matches!(state.row.expiry, Expiry::Sliding { .. });
        if slides && (context.subscribers)(state.row.incarnation)? > 0 {
            state.touch(now, &self.limits, step);
            // A TTL of 0 is due at once, and subscribers do not extend it.
            if !state.is_due(now) {
                return Ok(());
            }
        }
        self.end_or_hide(now, context.storage, step)
    }

    /// Records that a subscriber was present until now. Ignores subscribers of another incarnation.
    pub(super) fn reader_gone(&mut self, now: Millis, incarnation: Incarnation, step: &mut Step) {
        if let Some(state) = &mut self.state
            && state.row.incarnation == incarnation
            && state.row.lineage.deleted_at.is_none()
        {
            state.touch(now, &self.limits, step);
        }
    }

    /// Removes the stream with all of its content, and notifies its subscribers.
    pub(super) fn end(
        &mut self,
        now: Millis,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let Some(state) = self.state.take() else {
            return Ok(());
        };
        let mut retried = Vec::new();
        let first_own = state.inherited_segments();
        if state.row.segment > first_own {
            rows.retried_segments(&mut |segment, attempts| retried.push((segment, attempts)))?;
        }
        let turn = &mut step.turn;
        if state.row.lineage.deleted_at.is_none() {
            self.announce_end(now, &state.row, rows, turn)?;
        }
        self.leave(now, &state.row, first_own, &retried, rows, turn)?;
        if name::is_session(&state.row.name) {
            self.end_session(now, &state.row.name, rows, step)?;
        }
        let turn = &mut step.turn;
        let first = state
            .unstored
            .as_ref()
            .map(|unstored| unstored.segment.number);
        let first = first.unwrap_or(state.row.segment);
        assert!(
            first <= state.row.segment,
            "the tables are those of waiting segments and of the open one"
        );
        let tables = first..state.row.segment + u64::from(state.tail.has_table);
        turn.writes
            .extend(tables.map(|segment| Write::DropHot(HotTable::of(segment))));
        turn.writes.push(Write::DropTables);
        if state.row.lineage.deleted_at.is_none() {
            turn.broadcast = Some(Broadcast {
                end: Some(StreamEnd::Deleted),
                ..state.live(state.tail(), None)
            });
        }
        Ok(())
    }

    /// Returns the stream and records a use.
    pub(super) fn state_in_use(
        &mut self,
        now: Millis,
        step: &mut Step,
    ) -> Result<(&mut StreamState, &Limits), StepError> {
        let (state, limits) = self.state()?;
        state.touch(now, limits, step);
        Ok((state, limits))
    }
}
