//! The alarm: one for all reasons, derived from the state after every step.

use super::{RowChange, Step, Stream, StreamState};
use crate::storage::StorageError;
use crate::timer::{Timer, TimerReason, Timers};
use crate::{AlarmChange, Context, Limits, Millis, Turn};

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
    fn timer_table(&self, opened_at: Option<Millis>) -> Timers<7> {
        let limits = &self.limits;
        let state = self.state.as_ref();
        let [expiry, age, put] = state.map_or([None; 3], |state| state.timers(opened_at, limits));
        let [task, reply, rotation] = self.outbox.timers(limits);
        let fork = TimerReason::Fork.at(self.creation_due_at());
        [expiry, age, put, task, reply, fork, rotation]
    }

    /// Sets the alarm when none is set, when it must come earlier, or when it seems to be lost.
    /// Never moves it later: an alarm that comes early finds nothing due and is set anew.
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
            Some(timer) => self.arm_for(timer, step.fired_at, now, &mut step.turn),
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
        let has_rows = self.state.is_some() || self.outbox.has_table();
        if let Some(at) = self.alarm_at.filter(|_| has_rows && !step.has_rows)
            && step.turn.alarm == AlarmChange::Keep
        {
            step.turn.alarm = AlarmChange::Set(at);
        }
    }

    fn arm_for(&mut self, timer: Timer, came: Option<Millis>, now: Millis, turn: &mut Turn) {
        let (limits, wanted) = (&self.limits, timer.at);
        let set = self
            .alarm_at
            .filter(|at| at.plus(limits.alarm_grace_ms) >= now);
        // The platform's clock may be ahead of ours. An alarm for a time that has already passed on
        // its clock would fire at once, in a loop. An alarm that fired long before its time tells
        // nothing about the clocks.
        let ahead = now.plus(limits.clock_skew_ms_max);
        let came = came.filter(|came| wanted <= *came && *came <= ahead);
        let passed = came.map_or(now, |came| came.max(now));
        let at = wanted.max(passed.plus(limits.alarm_delay_ms_min));
        if set.is_some_and(|set| set <= at) {
            return;
        }
        assert!(
            at >= now.plus(limits.alarm_delay_ms_min),
            "an alarm leaves time for other work"
        );
        assert!(at >= wanted, "an alarm does not come before its timer");
        self.alarm_at = Some(at);
        self.alarm_reason = Some(timer.reason);
        turn.alarm = AlarmChange::Set(at);
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
