//! The alarm of an object. It is stored with the object's transactions. A scheduler of the platform
//! learns of a change before the commit or after it.

use super::{Event, Object, Program};
use crate::coverage::{Fault, Situation, Watermark};
use crate::engine::Engine;

/// An alarm that fails is tried again after this pause, which doubles each time
/// (`alarm-scheduler.c++`).
const ALARM_RETRY_MS: u64 = 2_000;
/// The number of tries after the first.
const ALARM_RETRIES_MAX: u64 = 6;
/// The least time between setting an alarm and its handler.
const ALARM_DELAY_MS: u64 = 10;

/// The alarm of an object.
#[derive(Debug, Default)]
pub struct Alarm {
    /// The alarm as the present instance sees it.
    pub stored: Option<u64>,
    /// The alarm as a crash would leave it.
    durable: Option<u64>,
    /// The time by which the scheduler acts.
    scheduled: Option<u64>,
    /// The name of its event in the queue.
    token: u64,
    tries: u64,
    /// Whether the handler is running.
    handling: bool,
    /// Whether the stored alarm is removed when the handler ends. Until then the object sees none.
    deferred: bool,
    /// Whether the platform has given up the alarm, and none has been stored since.
    pub abandoned: bool,
}

impl Alarm {
    /// Notes that the handler has ended and its commit is durable.
    pub(super) const fn handled(&mut self) {
        self.tries = 0;
    }

    /// Forgets what is not durable.
    pub(super) const fn restore(&mut self) {
        self.stored = self.durable;
        self.handling = false;
        self.deferred = false;
    }

    pub(super) const fn is_handled(&self) -> bool {
        self.handling
    }

    /// Returns the alarm as the object may read it.
    #[must_use]
    pub const fn seen(&self) -> Option<u64> {
        if self.deferred { None } else { self.stored }
    }
}

/// An alarm whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The handler is called.
    Runs,
    /// The handler cannot be called, or fails in its first step.
    Fails,
}

impl<P: Program> Object<P> {
    /// Takes a turn's change of the alarm. The scheduler learns of an earlier time at once, and of
    /// a later one when it is durable.
    pub fn set_alarm<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
        alarm: Option<Option<u64>>,
        now: u64,
    ) {
        let Some(alarm) = alarm else { return };
        let text = || format!("alarm {alarm:?}, now {now}");
        engine.note(format_args!("object {}", self.number), text);
        self.alarm.stored = alarm;
        self.alarm.deferred = false;
        let scheduled = self.alarm.scheduled;
        if alarm.is_some() && (scheduled.is_none() || alarm < scheduled) {
            self.schedule_alarm(engine, alarm);
        }
    }

    /// Notes that a turn's change of the alarm is durable.
    pub(super) fn alarm_stored<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
        alarm: Option<u64>,
    ) {
        self.alarm.durable = alarm;
        self.alarm.abandoned &= alarm.is_none();
        let scheduled = self.alarm.scheduled;
        // A later commit overrules this one.
        if self.commits.iter().any(|commit| commit.alarm.is_some()) {
            return;
        }
        // Moving an alarm to a later time, or removing it, happens after the commit and may fail.
        if scheduled.is_some() && alarm.is_none_or(|alarm| scheduled < Some(alarm)) {
            if engine.fault(Fault::AlarmNotMoved) {
                engine.cover(Situation::AlarmNotMoved);
                engine.changed(Fault::AlarmNotMoved);
            } else {
                self.schedule_alarm(engine, alarm);
            }
        }
    }

    /// Restores the scheduler after a crash. An alarm that a lost commit had moved to an earlier
    /// time comes early. One that it had moved to a later time is unchanged.
    pub(super) fn alarm_restored<E: From<Event>>(&mut self, engine: &mut Engine<'_, '_, E>) {
        let (durable, scheduled) = (self.alarm.durable, self.alarm.scheduled);
        if durable.is_some() && (scheduled.is_none() || durable < scheduled) {
            self.schedule_alarm(engine, durable);
        }
    }

    fn schedule_alarm<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
        alarm: Option<u64>,
    ) {
        self.alarm.token += 1;
        self.alarm.scheduled = alarm;
        let Some(mut when) = alarm else { return };
        if engine.fault(Fault::AlarmLate) {
            let late = engine.choices.upto(engine.settings.delays.alarm_late);
            if late > 0 {
                engine.cover(Situation::AlarmLate);
                engine.changed(Fault::AlarmLate);
            }
            when += late;
        } else if engine.fault(Fault::AlarmEarly) {
            let early = engine.choices.upto(engine.settings.delays.alarm_early);
            if early > 0 && when > engine.now() + early {
                engine.cover(Situation::AlarmEarly);
                engine.changed(Fault::AlarmEarly);
            }
            when = when.saturating_sub(early);
        }
        // Even an alarm in the past does not come at once.
        let when = when.max(engine.now() + ALARM_DELAY_MS);
        let alarm = Event::Alarm {
            object: self.number,
            token: self.alarm.token,
            again: false,
        };
        engine.schedule_at(when, alarm.into());
    }

    /// Handles the scheduler's event; `None` if the alarm has been changed since.
    pub fn alarm_due<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
        token: u64,
        again: bool,
    ) -> Option<Due> {
        if !again && self.alarm.token != token {
            return None;
        }
        if self.alarm.handling {
            // Handlers run one after the other.
            let alarm = Event::Alarm {
                object: self.number,
                token,
                again,
            };
            engine.schedule(ALARM_DELAY_MS, alarm.into());
            return None;
        }
        engine.note(format_args!("object {}", self.number), || {
            if again { "alarm, once more" } else { "alarm" }.to_owned()
        });
        engine.cover(Situation::AlarmFired);
        if again {
            engine.cover(Situation::AlarmTwice);
            engine.changed(Fault::AlarmTwice);
            self.alarm.handling = true;
            return Some(Due::Runs);
        }
        self.alarm.scheduled = None;
        if engine.fault(Fault::AlarmTwice) {
            let delay = engine.choices.upto(5_000);
            let alarm = Event::Alarm {
                object: self.number,
                token,
                again: true,
            };
            engine.schedule(delay, alarm.into());
        }
        if engine.fault(Fault::AlarmFails) {
            engine.changed(Fault::AlarmFails);
            return Some(Due::Fails);
        }
        let due = engine.now() + engine.settings.delays.alarm_early;
        self.alarm.handling = true;
        self.alarm.deferred = self.alarm.stored.is_some_and(|stored| stored <= due);
        Some(Due::Runs)
    }

    /// Notes that the handler has ended. Returns the change of the alarm if the handler made none:
    /// a handled alarm is removed.
    pub const fn alarm_ends(&mut self) -> Option<Option<u64>> {
        self.alarm.handling = false;
        if self.alarm.deferred {
            self.alarm.deferred = false;
            Some(None)
        } else {
            None
        }
    }

    /// Notes that the handler failed. The platform tries again, and gives up in the end. An alarm
    /// that has been set meanwhile takes the place of another try.
    pub fn alarm_failed<E: From<Event>>(&mut self, engine: &mut Engine<'_, '_, E>) {
        self.alarm.handling = false;
        self.alarm.deferred = false;
        if self.alarm.scheduled.is_none() {
            self.try_again(engine);
        }
    }

    /// Tells the scheduler of an alarm whose move to a later time had failed, because its handler
    /// failed too.
    pub fn alarm_stands<E: From<Event>>(&mut self, engine: &mut Engine<'_, '_, E>) {
        if self.alarm.scheduled.is_none() && self.alarm.stored.is_some() {
            self.schedule_alarm(engine, self.alarm.stored);
        }
    }

    pub(super) fn try_again<E: From<Event>>(&mut self, engine: &mut Engine<'_, '_, E>) {
        self.alarm.tries += 1;
        let tries = self.alarm.tries;
        engine.raise(Watermark::AlarmTries, tries);
        if tries > ALARM_RETRIES_MAX {
            self.alarm.tries = 0;
            self.alarm.durable = None;
            self.alarm.abandoned = true;
            // An alarm that has been set since is another one.
            if self.commits.iter().any(|commit| commit.alarm.is_some()) {
                return self.schedule_alarm(engine, self.alarm.stored);
            }
            self.alarm.stored = None;
            engine.note(format_args!("object {}", self.number), || {
                "alarm given up".to_owned()
            });
            self.schedule_alarm(engine, None);
            engine.cover(Situation::AlarmAbandoned);
            return;
        }
        engine.cover(Situation::AlarmRetried);
        let pause = ALARM_RETRY_MS << (tries - 1);
        let jitter = if engine.settings.enumerated {
            0
        } else {
            engine.choices.upto(pause / 4)
        };
        let when = engine.now() + pause + jitter;
        self.schedule_alarm(engine, Some(when));
    }
}
