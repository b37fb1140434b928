//! Alarms: one is set whenever something is due, and alarms do not follow one another without end.

use std::collections::BTreeMap;

use machine::{AlarmChange, Limits, MemoryRows};

use super::Oracle;
use super::checker::{AfterTurn, Checker, Finding, Subject, violation};
use crate::coverage::{Coverage, Watermark};
use crate::ids::ObjectId;

/// The latest time that the platform's `setAlarm` can be given.
pub const ALARM_MAX: u64 = 8_640_000_000_000_000;

/// Most alarms in a row that find nothing to do. Such an alarm has come early, or by a clock that
/// is ahead of the instance's.
const IDLE_MAX: u64 = 1_000;

/// Most alarms in a row that only load a queue. While all queues of an outbox wait for a late time,
/// alarms load one after the other, with pauses that grow up to `retry_ms_max`.
const ROTATIONS_MAX: u64 = 1_000;

/// Most alarms in a row that are set again for the same or an earlier time, and so fire at once. A
/// new instance cannot know that, so a few are allowed.
const STALE_MAX: u64 = 8;

/// The effects of a turn on alarms.
#[derive(Clone, Copy, Debug)]
struct AlarmTurn {
    is_idle: bool,
    /// Whether the outbox has loaded another queue.
    rotates: bool,
    /// The time for which the instance believed the alarm to be set.
    believed: u64,
    now: u64,
    /// The time for which the turn sets the alarm.
    set: Option<u64>,
}

/// How many such alarms an object has had in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    /// Idle ones since the outbox has loaded another queue.
    idle: u64,
    /// Those that have only loaded another queue.
    rotations: u64,
    /// Of the last idle ones, those that were set again for a time that has passed.
    stale: u64,
}

/// Holds that alarms which change nothing do not follow one another without end, and that no alarm
/// is set beyond the times of the platform.
#[derive(Debug, Default)]
pub struct AlarmLoop {
    streaks: BTreeMap<ObjectId, Streak>,
}

impl AlarmLoop {
    fn observe(&mut self, object: ObjectId, turn: AlarmTurn) -> (Streak, Finding) {
        let AlarmTurn {
            believed, now, set, ..
        } = turn;
        let is_stale = turn.is_idle && set.is_some_and(|at| at <= now && at <= believed);
        let streak = self.streaks.entry(object).or_default();
        (streak.idle, streak.rotations) = match (turn.is_idle, turn.rotates) {
            (false, _) => (0, 0),
            (true, true) => (0, streak.rotations + 1),
            (true, false) => (streak.idle + 1, streak.rotations),
        };
        streak.stale = if is_stale { streak.stale + 1 } else { 0 };
        let finding = if streak.idle > IDLE_MAX {
            let expected = format!("{IDLE_MAX} alarms in a row that change nothing at most");
            violation(Oracle::AlarmLoop, expected, "another one")
        } else if streak.rotations > ROTATIONS_MAX {
            let expected = format!("{ROTATIONS_MAX} alarms in a row that load a queue at most");
            violation(Oracle::AlarmLoop, expected, "another one")
        } else if streak.stale > STALE_MAX {
            let expected = format!("an alarm set later than {believed}, which has come, by {now}");
            violation(Oracle::AlarmLoop, expected, format!("{set:?}"))
        } else {
            Ok(())
        };
        (*streak, finding)
    }
}

impl Checker for AlarmLoop {
    fn after_turn(&mut self, seen: &AfterTurn<'_>, coverage: &mut Coverage) -> Finding {
        let set = match seen.turn.alarm {
            AlarmChange::Set(at) => Some(at.0),
            AlarmChange::Keep | AlarmChange::Clear => None,
        };
        if let Some(at) = set.filter(|at| *at > ALARM_MAX) {
            let expected = format!("a time up to {ALARM_MAX}");
            return violation(Oracle::AlarmTime, expected, at.to_string());
        }
        let turn = AlarmTurn {
            is_idle: seen.is_idle_alarm,
            rotates: seen.rotates,
            believed: seen.alarm_believed,
            now: seen.now,
            set,
        };
        let (streak, finding) = self.observe(seen.subject.id, turn);
        coverage.raise(Watermark::IdleAlarms, streak.idle);
        coverage.raise(Watermark::StaleAlarms, streak.stale);
        finding
    }
}

/// Checks that an alarm is set, in time, for all work that needs no request.
#[derive(Debug, Default)]
pub struct AlarmsArmed {
    /// The time for which the present instance of each object believes the alarm to be set.
    believed: BTreeMap<ObjectId, u64>,
}

impl AlarmsArmed {
    /// Notes what the head row of an object says before a turn, and returns the belief of the
    /// instance.
    pub fn before_turn(&mut self, object: ObjectId, rows: &MemoryRows) -> u64 {
        let believed = self.believed.entry(object).or_default();
        if let Some(head) = rows.head() {
            *believed = head.alarm_at.map_or(0, |alarm| alarm.0);
        }
        *believed
    }

    /// Notes that a turn has set the alarm.
    pub fn set(&mut self, object: ObjectId, at: u64) {
        self.believed.insert(object, at);
    }

    /// Returns the latest time at which an instance of the object may believe the alarm to come.
    #[must_use]
    pub fn believed(&self, subject: Subject<'_>) -> u64 {
        let head = subject.store.rows.head();
        let stored = head.and_then(|head| head.alarm_at).map_or(0, |at| at.0);
        let set = self.believed.get(&subject.id).copied().unwrap_or(0);
        stored.max(set)
    }

    /// Judges the alarm of an object after a turn, by the clock of its instance.
    ///
    /// # Errors
    /// When something needs an alarm, and none is set in time.
    pub fn check(&self, subject: Subject<'_>, limits: &Limits, now: u64) -> Finding {
        let Some((latest, why)) = needs_alarm(subject, limits, now) else {
            return Ok(());
        };
        let alarm = subject.alarm;
        if alarm.abandoned && alarm.stored.is_none() {
            // The machine cannot know before the grace is over.
            let grace_ends = self.believed(subject).saturating_add(limits.alarm_grace_ms);
            if now <= grace_ends {
                return Ok(());
            }
        }
        if alarm.stored.is_some_and(|stored| stored <= latest) {
            return Ok(());
        }
        let expected = format!("an alarm by {latest}: {why}");
        violation(Oracle::AlarmArmed, expected, format!("{alarm:?}"))
    }
}

/// Returns the latest time for which an alarm must be set, and the reason.
fn needs_alarm(subject: Subject<'_>, limits: &Limits, now: u64) -> Option<(u64, &'static str)> {
    let rows = &subject.store.rows;
    let skew = subject.model.bounds.skew_ms;
    let mut needs = Vec::new();
    if let Some(incarnation) = &subject.model.state.incarnation
        && let Some((_, most)) = incarnation.ends(&subject.model.bounds)
    {
        let slack = incarnation.ttl_ms().unwrap_or(0) / limits.touch_slack_divisor;
        needs.push((most.saturating_add(slack), "the stream ends"));
    }
    let mut unstored = rows.segments().filter(|segment| segment.stored.is_none());
    if unstored.next().is_some() {
        let wait = limits
            .put_time_ms(u64::MAX, u64::MAX)
            .max(limits.retry_ms_max);
        needs.push((now + wait + skew, "a segment must be stored"));
    } else if let Some(row) = rows.rows().next().filter(|_| limits.cold) {
        let at = row.at.0.saturating_add(limits.segment_age_ms_max);
        needs.push((at, "the open segment grows old"));
    }
    let wait = limits.reply_timeout_ms.max(limits.retry_ms_max);
    // A task waits for those before it in its queue, which an instance with another clock may have
    // made due later.
    let mut last = None;
    for task in rows.tasks() {
        let due = match last {
            Some((queue, due)) if queue == task.what.queue() => task.due_at.max(due),
            _ => task.due_at,
        };
        last = Some((task.what.queue(), due));
        needs.push((due.0.max(now + wait + skew), "a task remains"));
    }
    let (latest, why) = needs.into_iter().min()?;
    let nearest = now + skew + limits.alarm_delay_ms_min;
    let latest = latest.max(nearest);
    (latest <= ALARM_MAX).then_some((latest, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Id as _;

    #[test]
    fn a_loop_is_noticed_and_a_pause_forgives_it() {
        let object = ObjectId::new(0);
        let stale = AlarmTurn {
            is_idle: true,
            rotates: false,
            believed: 10,
            now: 20,
            set: Some(10),
        };
        let useful = AlarmTurn {
            is_idle: false,
            ..stale
        };
        let mut alarms = AlarmLoop::default();
        for _ in 0..STALE_MAX {
            assert_eq!(alarms.observe(object, stale).1, Ok(()));
        }
        assert_eq!(alarms.observe(object, useful).1, Ok(()));
        for _ in 0..STALE_MAX {
            assert_eq!(alarms.observe(object, stale).1, Ok(()));
        }
        assert!(alarms.observe(object, stale).1.is_err());
    }

    #[test]
    fn alarms_that_load_queues_are_counted_apart_and_have_an_end_too() {
        let object = ObjectId::new(0);
        let idle = AlarmTurn {
            is_idle: true,
            rotates: false,
            believed: 10,
            now: 20,
            set: Some(30),
        };
        let rotates = AlarmTurn {
            rotates: true,
            ..idle
        };
        let mut alarms = AlarmLoop::default();
        for _ in 0..ROTATIONS_MAX {
            assert_eq!(alarms.observe(object, idle).1, Ok(()));
            assert_eq!(alarms.observe(object, rotates).1, Ok(()));
        }
        assert!(alarms.observe(object, rotates).1.is_err());
        let mut alarms = AlarmLoop::default();
        for _ in 0..IDLE_MAX {
            assert_eq!(alarms.observe(object, idle).1, Ok(()));
        }
        assert!(alarms.observe(object, idle).1.is_err());
    }
}
