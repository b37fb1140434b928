//! The alarm: one for all reasons, derived from the state after every step.

use super::{RowChange, Step, Stream, StreamState};
use crate::storage::StorageError;
use crate::timer::{Timer, TimerReason, Timers, alarm_for};
use crate::{AlarmChange, Context, Limits, Millis};

impl Stream {
    /// Handles the alarm. Another is set at the end of the step if one is still needed.
    pub(super) fn alarm(
        &mut self,
        context: &Context<'_>,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        step.fired_at = self.alarm_at.take();
        self.expire_if_due(context, step)?;
        let (now, rows) = (context.now, context.storage);
        self.end_overdue_creation(now, rows, step)?;
        match &mut self.state {
            Some(state) => state.seal_if_full(now, &self.limits, rows, step),
            None => Ok(()),
        }
    }

    /// Returns the table of timers. The alarm is never later than the earliest of them.
    pub fn timers(&self) -> impl Iterator<Item = Timer> {
        self.timer_table(None).into_iter().flatten()
    }

    /// Returns why the alarm is set. `None` if there is no alarm, or a former instance has set it.
    #[must_use]
    pub fn alarm_reason(&self) -> Option<TimerReason> {
        self.alarm_reason.filter(|_| self.alarm_at.is_some())
    }

    /// Returns the stream's timers. `opened_at` is the time of this turn if it opens a segment.
    fn timer_table(&self, opened_at: Option<Millis>) -> Timers<10> {
        let limits = &self.limits;
        let state = self.state.as_ref();
        let [expiry, age, put] = state.map_or([None; 3], |state| state.timers(opened_at, limits));
        let [task, reply, rotation] = self.outbox.timers(limits);
        let fork = TimerReason::Fork.at(self.creation_due_at());
        let link = TimerReason::Link.at(self.links.checks_at(self.presence(), limits));
        let delivery = TimerReason::Delivery.at(self.followers.checks_at(limits));
        let tombstone = TimerReason::Tombstone.at(self.session.forgets_at(limits));
        [
            expiry, age, put, task, reply, fork, rotation, link, delivery, tombstone,
        ]
    }

    /// Sets the alarm where [`alarm_for`] says so.
    pub(super) fn schedule_alarm(&mut self, now: Millis, step: &mut Step) {
        let timers = self.timer_table(step.opens_segment.then_some(now));
        let next = timers.into_iter().flatten().min_by_key(|timer| timer.at);
        match next {
            // The alarm was set for the case that a message is lost. It would find nothing to do.
            None if self.alarm_at.is_some() && (self.state.is_none() || step.has_finished_task) => {
                self.alarm_at = None;
                step.turn.alarm = AlarmChange::Clear;
            }
            None => {}
            Some(timer) => {
                let set = self.alarm_at;
                if let Some(at) = alarm_for(set, timer, step.fired_at, now, &self.limits) {
                    self.alarm_at = Some(at);
                    self.alarm_reason = Some(timer.reason);
                    step.turn.alarm = AlarmChange::Set(at);
                }
            }
        }
        self.arm_with_first_row(step);
        let limits = &self.limits;
        let latest = now.plus(limits.clock_skew_ms_max + limits.alarm_delay_ms_min);
        assert!(
            next.is_none_or(|timer| self.alarm_at.is_some_and(|at| at <= timer.at.max(latest))),
            "the alarm comes no later than the earliest timer"
        );
        if let Some(state) = &mut self.state
            && (state.row.alarm_at != self.alarm_at || step.row == RowChange::Insert)
        {
            state.row.alarm_at = self.alarm_at;
            step.row.save();
        }
    }

    /// Sets the alarm again in the turn that writes the first row, because the shell may have
    /// forgotten one that was set without rows.
    fn arm_with_first_row(&self, step: &mut Step) {
        let has_rows = self.has_rows();
        if let Some(at) = self.alarm_at.filter(|_| has_rows && !step.has_rows)
            && step.turn.alarm == AlarmChange::Keep
        {
            step.turn.alarm = AlarmChange::Set(at);
        }
    }
}

impl StreamState {
    /// Sets the timer of the age when a segment opens. This turn writes the row anyway, so the
    /// alarm adds no row. Later the timer counts from the first message, and waits until all
    /// sealed segments are stored.
    fn timers(&self, opened_at: Option<Millis>, limits: &Limits) -> Timers<3> {
        let opened_at = opened_at.filter(|_| self.row.writable);
        let is_deleted = self.row.lineage.deleted_at.is_some();
        let first_at = self.tail.opened_at.filter(|_| self.unstored.is_none());
        let ages_from = opened_at
            .or(first_at)
            .filter(|_| limits.cold && !is_deleted);
        let age_at = ages_from.map(|from| from.plus(limits.segment_age_ms_max));
        let put_at = self.unstored.as_ref().map(|unstored| unstored.retry_at);
        [
            TimerReason::Expiry.at(self.expiry_at(limits)),
            TimerReason::SegmentAge.at(age_at),
            TimerReason::Put.at(put_at),
        ]
    }
}
