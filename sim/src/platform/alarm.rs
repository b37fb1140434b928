//! The alarm of an object: stored with its transactions, and kept by a scheduler of the platform's
//! own, which hears of a change before the commit or after it.

use super::{Event, Object, Program};
use crate::coverage::{Fault, Situation, Watermark};
use crate::engine::Engine;

/// An alarm that fails is tried again after this, doubled each time (`alarm-scheduler.c++`).
const ALARM_RETRY_MS: u64 = 2_000;
/// Tries after the first.
const ALARM_RETRIES_MAX: u64 = 6;
/// The least time from setting an alarm to its coming.
const ALARM_DELAY_MS: u64 = 10;

/// See the module.
#[derive(Debug, Default)]
pub struct Alarm {
    /// As the present instance sees it.
    pub stored: Option<u64>,
    /// As a crash would leave it.
    durable: Option<u64>,
    /// What the scheduler goes by.
    scheduled: Option<u64>,
    /// Names the event that is in the queue for it.
    token: u64,
    tries: u64,
    /// Whether its handler is at work.
    handling: bool,
    /// Whether the stored alarm is gone when the handler has got through; until then it is none to
    /// whoever asks.
    deferred: bool,
    /// Whether the platform has given up an alarm, and none has been stored since.
    pub abandoned: bool,
}

impl Alarm {
    /// The handler has got through, and that is durable.
    pub(super) const fn handled(&mut self) {
        self.tries = 0;
    }

    /// What is not durable has never been.
    pub(super) const fn restore(&mut self) {
        self.stored = self.durable;
        self.handling = false;
        self.deferred = false;
    }

    pub(super) const fn is_handled(&self) -> bool {
        self.handling
    }

    /// What an instance is told that asks for it.
    #[must_use]
    pub const fn seen(&self) -> Option<u64> {
        if self.deferred { None } else { self.stored }
    }
}

/// An alarm that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The handler is called.
    Runs,
    /// The handler cannot be called, or fails at its first step.
    Fails,
}

impl<P: Program> Object<P> {
    /// A turn's word on the alarm: the scheduler hears of an earlier one at once, of a later one
    /// when it is durable.
    pub fn set_alarm<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
        alarm: Option<Option<u64>>,
        now: u64,
    ) {
        let Some(alarm) = alarm else { return };
        engine.note("object", || format!("alarm {alarm:?}, now {now}"));
        self.alarm.stored = alarm;
        self.alarm.deferred = false;
        let scheduled = self.alarm.scheduled;
        if alarm.is_some() && (scheduled.is_none() || alarm < scheduled) {
            self.schedule_alarm(engine, alarm);
        }
    }

    /// A turn's word on the alarm is durable.
    pub(super) fn alarm_stored<E: From<Event>>(
        &mut self,
        engine: &mut Engine<'_, '_, E>,
        alarm: Option<u64>,
    ) {
        self.alarm.durable = alarm;
        self.alarm.abandoned &= alarm.is_none();
        let scheduled = self.alarm.scheduled;
        // What a later commit says of it is what counts.
        if self.commits.iter().any(|commit| commit.alarm.is_some()) {
            return;
        }
        // Moving it later, or removing it, follows the commit, and may fail.
        if scheduled.is_some() && alarm.is_none_or(|alarm| scheduled < Some(alarm)) {
            if engine.fault(Fault::AlarmNotMoved) {
                engine.cover(Situation::AlarmNotMoved);
                engine.changed(Fault::AlarmNotMoved);
            } else {
                self.schedule_alarm(engine, alarm);
            }
        }
    }

    /// An alarm that was moved earlier by what a crash has lost now comes early; one that was moved
    /// later stands.
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
        // Not even an alarm of the past comes in no time.
        let when = when.max(engine.now() + ALARM_DELAY_MS);
        let alarm = Event::Alarm {
            object: self.number,
            token: self.alarm.token,
            again: false,
        };
        engine.schedule_at(when, alarm.into());
    }

    /// The scheduler's time has come; `None` when it has been told otherwise since.
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
            // One after the other.
            let alarm = Event::Alarm {
                object: self.number,
                token,
                again,
            };
            engine.schedule(ALARM_DELAY_MS, alarm.into());
            return None;
        }
        engine.note("object", || {
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

    /// The handler has got through, as far as it goes itself. Gives its word on the alarm, where it
    /// has set none: what was handled is gone.
    pub const fn alarm_ends(&mut self) -> Option<Option<u64>> {
        self.alarm.handling = false;
        if self.alarm.deferred {
            self.alarm.deferred = false;
            Some(None)
        } else {
            None
        }
    }

    /// The handler did not get through: the platform tries again, and gives up at last. An alarm
    /// that has been set meanwhile takes the place of another try.
    pub fn alarm_failed<E: From<Event>>(&mut self, engine: &mut Engine<'_, '_, E>) {
        self.alarm.handling = false;
        self.alarm.deferred = false;
        if self.alarm.scheduled.is_none() {
            self.try_again(engine);
        }
    }

    /// The handler of an alarm that was moved later, of which the scheduler had not heard, did not
    /// get through: now it hears.
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
            // One that has been set since is another alarm.
            if self.commits.iter().any(|commit| commit.alarm.is_some()) {
                return self.schedule_alarm(engine, self.alarm.stored);
            }
            self.alarm.stored = None;
            engine.note("object", || "alarm given up".to_owned());
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
