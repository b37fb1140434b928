//! The end of a run: no event is left, and nothing may remain to be done.

use super::{Event, Phase, World};
use crate::coverage::Situation;
use crate::ids::ObjectId;
use crate::oracles::{ALARM_MAX, Oracle, Quiescent};

/// How many requests make up for alarms that the platform has given up. Some of them fail.
const NUDGES_MAX: u64 = 40;

impl World<'_, '_> {
    /// Returns the work that an object has left.
    fn undone(&self, at: ObjectId) -> Option<String> {
        let object = &self.objects[at];
        let rows = &object.platform.storage.rows;
        if let Some(task) = rows.tasks().next() {
            return Some(format!("{task:?}"));
        }
        let mut unstored = rows.segments().filter(|segment| segment.stored.is_none());
        if let Some(segment) = unstored.next() {
            return Some(format!("{segment:?}"));
        }
        let limits = &self.engine.settings.limits;
        let aged = rows.rows().next().filter(|row| {
            let at = row.at.0.saturating_add(limits.segment_age_ms_max);
            limits.cold && at <= self.engine.now() && at <= ALARM_MAX
        });
        aged.map(|_| "an old open segment".to_owned())
    }

    /// Judges the world when no event is left. Returns whether the run is over.
    ///
    /// An object whose alarm the platform has given up gets a request first.
    pub(super) fn is_over(&mut self) -> bool {
        if self.phase != Phase::Waiting {
            return true;
        }
        let undone = self
            .objects
            .ids()
            .find_map(|at| Some((at, self.undone(at)?)));
        let Some((at, reason)) = undone else {
            self.judge_quiescence();
            if self.engine.settings.limits.cold {
                self.engine.cover(Situation::Settled);
            }
            return true;
        };
        let object = &self.objects[at];
        self.nudges += 1;
        if !object.platform.alarm.abandoned || self.nudges > NUDGES_MAX {
            self.engine.fail(
                Oracle::Liveness,
                format!("nothing left to be done by object {at}"),
                reason,
            );
            return true;
        }
        // A request must make the machine find by itself that its alarm is lost.
        let limits = &self.engine.settings.limits;
        let believed = self.checkers.alarms.believed(self.subject(at));
        let when = believed.max(self.engine.now())
            + limits.alarm_grace_ms
            + self.models[at].bounds.skew_ms
            + 1_000;
        let operation = self.begin_nudge(at);
        self.engine.schedule_at(when, Event::Retry { operation });
        false
    }

    fn judge_quiescence(&mut self) {
        let objects = self.objects.named();
        let subjects = objects.map(|(at, object)| object.subject(at, &self.models[at]));
        let world = Quiescent {
            subjects: subjects.collect(),
            cold: self.cold.objects(),
            listed: self.index.listed(),
            limits: &self.engine.settings.limits,
        };
        for violation in self.checkers.at_quiescence(&world) {
            self.record(Err(violation));
        }
    }
}
