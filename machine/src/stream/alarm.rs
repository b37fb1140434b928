//! The alarm: one for all reasons, derived from the state after every step.

use super::{Stream, Unsaved};
use crate::storage::StorageError;
use crate::{AlarmChange, Context, Millis, Turn};

impl Stream {
    /// Handles the alarm. Another is set at the end of the step if one is still needed.
    pub(super) fn alarm(
        &mut self,
        context: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<(), StorageError> {
        self.fired_at = self.alarm_at.take();
        self.expire_if_due(context, turn)?;
        let (now, rows) = (context.now, context.storage);
        match &mut self.state {
            Some(state) => state.seal_if_full(now, &self.limits, rows, turn),
            None => Ok(()),
        }
    }

    /// Returns when the stream needs a step without a request.
    fn wanted_at(&mut self, now: Millis) -> Option<Millis> {
        let limits = &self.limits;
        let state = self.state.as_mut().and_then(|state| {
            // Set the age alarm when a segment opens. This turn writes the row anyway, so the alarm
            // adds no row.
            let opens = core::mem::take(&mut state.opens) && state.row.writable && limits.cold;
            let age = opens.then(|| now.plus(limits.segment_age_ms_max));
            let times = [state.expiry_at(limits), state.seal_or_store_at(limits), age];
            times.into_iter().flatten().min()
        });
        [state, self.outbox.wanted_at(limits)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Sets the alarm when none is set, when it must come earlier, or when it seems to be lost.
    /// Never moves it later: an alarm that comes early finds nothing due and is set anew.
    pub(super) fn schedule_alarm(&mut self, now: Millis, turn: &mut Turn) {
        let wanted = self.wanted_at(now);
        let came = self.fired_at.take();
        let has_finished_task = core::mem::take(&mut self.has_finished_task);
        match wanted {
            // The alarm was set for the case that a message is lost. It would find nothing to do.
            None if self.alarm_at.is_some() && (self.state.is_none() || has_finished_task) => {
                self.alarm_at = None;
                turn.alarm = AlarmChange::Clear;
            }
            None => {}
            Some(wanted) => self.arm_for(wanted, came, now, turn),
        }
        if let Some(state) = &mut self.state
            && (state.row.alarm_at != self.alarm_at || state.unsaved == Unsaved::New)
        {
            state.row.alarm_at = self.alarm_at;
            state.save();
        }
    }

    fn arm_for(&mut self, wanted: Millis, came: Option<Millis>, now: Millis, turn: &mut Turn) {
        let limits = &self.limits;
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
        self.alarm_at = Some(at);
        turn.alarm = AlarmChange::Set(at);
    }
}
