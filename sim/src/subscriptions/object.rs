//! The objects: their turns, commits, alarms and ends.

use std::cell::Cell;
use std::collections::VecDeque;

use machine::rows::Expiry;
use machine::{
    AlarmChange, Call, CallId, CallOutcome, Context, Effect, Guarded, Input, MemoryRows, Millis,
    Object as Machine, StorageError, Write,
};

use super::coverage::{Fault, Situation};
use super::judge::{Cause, Checkers, Departed, Seen, cost};
use super::request::{Kind, id_of};
use super::sessions;
use super::sessions::request::is_session;
use super::sessions::view::View as SessionView;
use super::view::{Stage, View, tail};
use super::world::{Caller, Event, Place, World, of_call};
use crate::oracles::Oracle;
use crate::trace::Mark;

/// A turn that is not durable yet.
pub(super) struct Turned {
    writes: Vec<Write>,
    alarm: Option<u64>,
    pub(super) effects: Vec<Effect>,
    /// What the oracles of departures know of the turn.
    pub(super) departed: Departed,
}

#[derive(Default)]
pub(super) struct Object {
    pub(super) rows: MemoryRows,
    pub(super) disk: MemoryRows,
    pub(super) machine: Option<Machine>,
    pub(super) instance: u64,
    /// How far the clock of the instance is ahead of the world's, and behind.
    clock: (u64, u64),
    alarm: Option<u64>,
    durable_alarm: Option<u64>,
    pub(super) turns: VecDeque<Turned>,
    /// What the rows say, if the object is a subscription.
    pub(super) view: View,
    /// Alarms in a row that found nothing to do.
    idle_alarms: u64,
}

impl Object {
    const fn time(&self, now: u64) -> Millis {
        Millis(now + self.clock.0 - self.clock.1)
    }
}

/// Bytes that differ each time.
fn entropy(count: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (part, number) in bytes.chunks_mut(8).zip(0..) {
        let mixed = (count * 4 + number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        part.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes
}

impl World<'_, '_> {
    pub(super) fn is_present(&self, at: &Place) -> bool {
        let object = self.objects.get(&at.name);
        object.is_some_and(|object| object.machine.is_some() && object.instance == at.instance)
    }

    pub(super) fn arrive(&mut self, call: u64, to: &str, input: Call) {
        let pending = self.calls.get(&call);
        if pending.is_some_and(|pending| pending.holder.is_none()) {
            let id = CallId(call);
            self.turn(to, Input::Call { id, call: input });
        }
    }

    /// Begins an instance, with a clock of its own.
    fn begin(&mut self, name: &str) {
        let skew = self.settings.skew_ms;
        let clock = if skew > 0 && self.fault(Fault::Clock) {
            (self.choices.upto(skew), self.choices.upto(skew))
        } else {
            (0, 0)
        };
        let object = self.objects.entry(name.to_owned()).or_default();
        object.instance += 1;
        object.clock = clock;
    }

    /// Lets an object take one turn.
    pub(super) fn turn(&mut self, name: &str, input: Input) {
        let calls: Vec<_> = input.calls().map(|id| id.0).collect();
        self.note(name, || summary(&input));
        let failing_read = self.failing_read();
        if self
            .objects
            .get(name)
            .is_none_or(|object| object.machine.is_none())
        {
            self.begin(name);
        }
        if let (true, Some(call)) = (is_session(name), calls.first()) {
            self.session_called(name, *call);
        }
        let world_now = self.now;
        let object = self.objects.get_mut(name).expect("the object has begun");
        let machine = object.machine.take();
        let place = Place {
            name: name.to_owned(),
            instance: object.instance,
        };
        for call in &calls {
            if let Some(pending) = self.calls.get_mut(call) {
                pending.holder = Some(place.clone());
            }
        }
        let now = object.time(world_now);
        let session_before = is_session(name).then(|| SessionView::of(&object.rows));
        let rows = (!object.rows.is_empty()).then_some(&object.rows);
        let reads = Cell::new(0);
        let storage = Guarded::new(&rows, || {
            let read = reads.replace(reads.get() + 1);
            if Some(read) == failing_read {
                return Err(StorageError("storage does not answer".to_owned()));
            }
            Ok(())
        });
        let entropies = Cell::new(self.entropy);
        let random = || entropy(entropies.replace(entropies.get() + 1));
        let context = Context {
            now,
            storage: &storage,
            subscribers: &|_| Ok(0),
            entropy: &random,
        };
        let limits = &self.settings.limits;
        let loaded = match machine {
            Some(machine) => Ok(machine),
            // Instances of all objects differ.
            None => Machine::load(now, &storage, limits, self.scheduled),
        };
        let is_alarm = matches!(input, Input::Alarm);
        let cause = Cause::of(
            &input,
            &place,
            &self.receivers.attempts,
            world_now + 2 * self.settings.skew_ms,
        );
        let twin = Checkers::twin(loaded.as_ref().ok(), &input, &self.calls, limits);
        let compared = cost::compare(&object.rows, &input, now, limits);
        let stepped = loaded.and_then(|mut machine| {
            let turn = machine.step(&context, input)?;
            Ok((machine, turn))
        });
        self.entropy = entropies.get();
        let has_failed = failing_read.is_some_and(|failing| failing < reads.get());
        let (machine, mut turn) = match stepped {
            Ok(stepped) if !has_failed => stepped,
            Ok(_) => {
                let expected = "a failed turn";
                return self.fail(Oracle::Contract, expected, "one that ignores its storage");
            }
            Err(_) if has_failed => {
                self.recorder.coverage.changed(Fault::Read);
                return self.lose_instance(name);
            }
            Err(error) => return self.fail(Oracle::Storage, "rows", error.to_string()),
        };
        let context = Context {
            storage: &rows,
            ..context
        };
        let expected = match twin.map(|twin| twin.writes(&context)).transpose() {
            Ok(expected) => expected,
            Err(error) => return self.fail(Oracle::Storage, "rows", error.to_string()),
        };
        object.machine = Some(machine);
        for write in &turn.writes {
            if let Err(reason) = object.rows.apply(write) {
                return self.fail(Oracle::Storage, "a write that fits", reason);
            }
        }
        for effect in &mut turn.after_commit {
            if let Err(reason) = sessions::render(effect, &object.rows) {
                return self.fail(Oracle::Storage, "an answer from rows", reason);
            }
        }
        let before = object.view.clone();
        if id_of(name).is_some() && !turn.writes.is_empty() {
            object.view = View::of(&object.rows);
        }
        let has_changed = turn.writes.len() > 1 || before != object.view;
        let is_idle = is_alarm && !has_changed && turn.after_commit.is_empty();
        object.idle_alarms = if is_idle { object.idle_alarms + 1 } else { 0 };
        let forgets_alarm = self.settings.alarms_in_rows && object.rows.is_empty();
        let changed = match turn.alarm {
            AlarmChange::Set(at) if !forgets_alarm => Some(at.0),
            AlarmChange::Keep | AlarmChange::Set(_) | AlarmChange::Clear => None,
        };
        if turn.alarm != AlarmChange::Keep {
            object.alarm = changed;
        }
        let after = object.view.clone();
        let idle_alarms = object.idle_alarms;
        let caller = calls.first().and_then(|call| self.calls.get(call));
        let seen = Seen {
            id: id_of(name),
            before: &before,
            after: &after,
            turn: &turn,
            calls: &self.calls,
            caller: caller.map(|pending| &pending.caller),
            cause: &cause,
            now,
            limits,
            expected: expected.as_deref(),
            compared: compared.as_ref(),
            idle_alarms,
        };
        let departed = Departed::new(&seen, world_now);
        let findings =
            self.checkers
                .after_turn(&mut self.model, &seen, &mut self.recorder.coverage);
        for finding in findings {
            self.judged(Err(finding));
        }
        if let Some(before) = session_before {
            self.session_turn(name, &before, &turn, now);
        }
        let object = self.objects.get_mut(name).expect("the object has begun");
        object.turns.push_back(Turned {
            writes: turn.writes,
            alarm: object.alarm,
            effects: turn.after_commit,
            departed,
        });
        if !turn.deferred.is_empty() {
            let at = place.clone();
            let input = Input::Appends(turn.deferred);
            self.schedule(0, Event::Deferred { at, input });
        }
        if let Some(at) = changed {
            self.arm(name, at);
        }
        let delay = self.choices.upto(self.settings.commit_ms);
        self.schedule(delay, Event::Commit { at: place });
    }

    fn arm(&mut self, name: &str, at: u64) {
        let name = name.to_owned();
        let mut delay = at.saturating_sub(self.now);
        if self.fault(Fault::AlarmLate) {
            delay += self.late();
        }
        if self.fault(Fault::AlarmTwice) {
            let name = name.clone();
            let again = delay + self.late();
            let is_again = true;
            self.schedule(again, Event::Alarm { name, at, is_again });
        }
        if self.fault(Fault::AlarmEarly) {
            delay = self.choices.upto(delay);
        }
        let is_again = false;
        self.schedule(delay, Event::Alarm { name, at, is_again });
    }

    pub(super) fn alarm(&mut self, name: &str, at: u64, is_again: bool) {
        let Some(object) = self.objects.get_mut(name) else {
            return;
        };
        if !is_again {
            if object.alarm != Some(at) {
                return;
            }
            object.alarm = None;
        }
        self.turn(name, Input::Alarm);
    }

    /// Makes the oldest turn durable, and sends its effects; or lets the object die.
    pub(super) fn commit(&mut self, at: &Place) {
        if !self.is_present(at) {
            return;
        }
        let crash = if self.fault(Fault::Crash) {
            1 + self.choices.upto(1)
        } else {
            0
        };
        if crash == 1 {
            self.cover(Situation::CrashLostTurn);
            return self.crash(&at.name);
        }
        let Some(object) = self.objects.get_mut(&at.name) else {
            return;
        };
        let Some(turned) = object.turns.pop_front() else {
            return;
        };
        let before = tail(&object.disk);
        let head = object.disk.head();
        let expires = head.is_some_and(|head| head.expiry != Expiry::Never);
        for write in &turned.writes {
            if let Err(reason) = object.disk.apply(write) {
                return self.fail(Oracle::Storage, "a write that fits", reason);
            }
        }
        object.durable_alarm = turned.alarm;
        let after = tail(&object.disk);
        self.recorder.digest.number(turned.writes.len() as u64);
        if before != after && !is_session(&at.name) {
            self.model.stream_is(&at.name, after);
            if expires && after.is_none() {
                self.cover(Situation::StreamExpired);
            }
        }
        if self.settings.sessions.are_there {
            self.session_committed(&at.name);
        }
        if let Some(follower) = turned
            .departed
            .ended
            .as_ref()
            .and_then(|ended| self.model.followers.get_mut(ended))
        {
            follower.is_deleted = true;
        }
        self.checkers.committed(&turned.departed);
        let sent = if crash == 2 {
            self.cover(Situation::CrashKeptTurn);
            self.choices.upto(turned.effects.len() as u64)
        } else {
            turned.effects.len() as u64
        };
        for (effect, _) in turned.effects.into_iter().zip(0..sent) {
            self.carry_out(at, effect, &turned.departed);
        }
        if crash == 2 {
            self.crash(&at.name);
        }
    }

    /// Loses the instance, and all that is not durable.
    pub(super) fn crash(&mut self, name: &str) {
        let object = self.objects.get_mut(name);
        if object.is_some_and(|object| object.machine.take().is_some()) {
            self.lose_instance(name);
        }
    }

    fn lose_instance(&mut self, name: &str) {
        let Some(object) = self.objects.get_mut(name) else {
            return;
        };
        object.machine = None;
        object.rows = object.disk.clone();
        if id_of(name).is_some() {
            object.view = View::of(&object.rows);
        }
        object.turns.clear();
        object.alarm = object.durable_alarm;
        let instance = object.instance;
        let alarm = object.alarm;
        let head = object.view.head.as_ref();
        let is_creating = head.is_some_and(|head| matches!(head.stage, Stage::Creating { .. }));
        self.note_as(Mark::Breaks, name, || "crashes".to_owned());
        if is_creating {
            self.cover(Situation::CrashCreating);
        }
        let is_its = |place: &Place| place.name == name && place.instance == instance;
        if self
            .receivers
            .attempts
            .keys()
            .any(|(place, _)| is_its(place))
        {
            self.cover(Situation::CrashAttempt);
        }
        self.receivers
            .attempts
            .retain(|(place, _), _| !is_its(place));
        if let Some(at) = alarm {
            self.arm(name, at);
        }
        let lost: Vec<_> = self
            .calls
            .iter()
            .filter(|(_, pending)| pending.holder.as_ref().is_some_and(is_its))
            .map(|(call, _)| *call)
            .collect();
        for call in lost {
            let pending = self.calls.remove(&call).expect("the call was found");
            match pending.caller {
                Caller::Client { request, .. } => {
                    let loses = Mark::Loses(of_call(call));
                    self.note_as(loses, "client", || format!("c{call} is not answered"));
                    self.model.ended(&request, self.events);
                    self.unanswered(*request);
                }
                Caller::Object {
                    place,
                    effect,
                    is_answered,
                } => {
                    if is_answered && !self.fault(Fault::Silence) {
                        let delay = self.network_delay();
                        self.call_ended(delay, place, effect, CallOutcome::Failed);
                    }
                }
                Caller::Consumer { run, .. } => {
                    let outcome = CallOutcome::Failed;
                    let delay = self.network_delay();
                    self.schedule(delay, Event::Consumed { run, outcome });
                }
            }
        }
    }

    /// Repeats what somebody must have done, once faults are over.
    fn unanswered(&mut self, request: super::request::Request) {
        let is_needed = matches!(request.kind, Kind::DeleteStream | Kind::Unsubscribe);
        if self.is_calm && is_needed {
            self.schedule(1_000, Event::Send(Box::new(request)));
        }
    }
}

/// Returns one line for the trace.
fn summary(input: &Input) -> String {
    match input {
        Input::Call { id, call } => {
            let text = format!("c{} {call:?}", id.0);
            text.chars().take(300).collect()
        }
        Input::CallFinished { effect, outcome } => {
            let outcome = match outcome {
                CallOutcome::Answered { status, body } => {
                    format!("{status} {}", String::from_utf8_lossy(body))
                }
                CallOutcome::Failed => "failed".to_owned(),
            };
            format!("call {} ended: {outcome}", effect.0)
        }
        Input::Alarm => "alarm".to_owned(),
        Input::Appends(appends) => format!("{} appends", appends.len()),
        Input::Continue { .. }
        | Input::SubscriberLeft { .. }
        | Input::PutFinished { .. }
        | Input::CollectFinished { .. }
        | Input::IndexFinished { .. }
        | Input::EnqueueFinished { .. } => format!("{input:?}"),
    }
}
