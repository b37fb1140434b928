//! A world of several objects that call each other, and one cold tier. Each object has its rows,
//! what of them is durable, and turns that wait to become durable. A turn's effects leave after
//! its commit. A crash takes the object back to what is durable.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;

use bytes::Bytes;
use machine::{
    AlarmChange, BodyWriter, Call, CallId, Context, Effect, EffectId, Guarded, Input, MemoryRows,
    Millis, StorageError, Stream, Write,
};

use super::coverage::{Coverage, Fault, Situation};
use super::model::Model;
use super::request::Request;
use super::settings::Settings;
use crate::choices::Choices;
use crate::engine::{Failure, Recorder};
use crate::oracles::Oracle;
use crate::settings::BEGINNING;
use crate::trace::{Mark, Span};

/// The most events of a run.
const EVENTS_MAX: u64 = 200_000;
/// The last question of a turn that storage can fail to answer. Few turns ask more.
const FAILING_READ_MAX: u64 = 30;

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// The next request of a client.
    Client,
    /// A request or a call arrives at an object.
    Arrive {
        call: u64,
        to: String,
        input: Call,
    },
    /// The oldest turn of an object that is not durable becomes durable.
    Commit {
        at: Place,
    },
    /// An effect of an object has ended.
    Ended {
        at: Place,
        input: Input,
    },
    /// Appends that a turn has left out come again.
    Deferred {
        at: Place,
        input: Input,
    },
    /// A client has the answer to a read, up to the cold content.
    Page {
        call: u64,
        writer: Box<BodyWriter>,
    },
    Land {
        key: String,
        object: Bytes,
    },
    Delete {
        keys: Vec<String>,
    },
    Alarm {
        name: String,
        at: u64,
        is_again: bool,
    },
    Crash {
        name: String,
    },
}

/// An instance of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) instance: u64,
}

/// Who waits for the answer to a call.
#[derive(Debug)]
pub(super) enum Caller {
    Client(Box<Request>),
    /// A read that goes on.
    Reader,
    Object {
        place: Place,
        effect: EffectId,
        is_answered: bool,
    },
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) caller: Caller,
    /// The instance that has it, once it has arrived.
    pub(super) holder: Option<Place>,
    /// The number of commits when it arrived.
    pub(super) arrived: u64,
    pub(super) arrived_at: u64,
}

/// A turn that is not durable yet.
pub(super) struct Turned {
    pub(super) writes: Vec<Write>,
    pub(super) alarm: Option<u64>,
    pub(super) effects: Vec<Effect>,
    /// When it was made.
    pub(super) at: u64,
    /// Whether an expired stream ends in it.
    pub(super) ends_expired: bool,
    /// The bodies of reads, whose rows were taken in the turn.
    pub(super) bodies: BTreeMap<u64, BodyWriter>,
}

#[derive(Default)]
pub(super) struct Object {
    pub(super) rows: MemoryRows,
    pub(super) disk: MemoryRows,
    pub(super) stream: Option<Stream>,
    pub(super) instance: u64,
    alarm: Option<u64>,
    durable_alarm: Option<u64>,
    pub(super) turns: VecDeque<Turned>,
    /// Calls of sources that it waits for.
    pub(super) waits_for: BTreeSet<EffectId>,
}

pub struct World<'w, 't> {
    pub(super) choices: &'w mut Choices<'t>,
    pub(super) settings: Settings,
    pub(super) now: u64,
    pub(super) events: u64,
    /// The number of commits so far.
    pub(super) clock: u64,
    queue: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(super) objects: BTreeMap<String, Object>,
    pub(super) cold: BTreeMap<String, Bytes>,
    pub(super) calls: BTreeMap<u64, Pending>,
    pub(super) readings: BTreeMap<u64, super::read::Reading>,
    pub(super) next_call: u64,
    pub(super) model: Model,
    pub(super) requests: Vec<Request>,
    pub(super) left: u64,
    /// A further pause before the next request.
    pub(super) pause_ms: u64,
    /// The next new unit.
    pub(super) units: u64,
    /// Whether faults are over.
    pub(super) is_calm: bool,
    /// Whether the crash of an enumerated run has happened.
    pub(super) has_crashed: bool,
    pub(super) recorder: Recorder<Coverage>,
}

impl<'w, 't> World<'w, 't> {
    pub(super) fn new(choices: &'w mut Choices<'t>, settings: Settings, traced: bool) -> Self {
        let mut coverage = Coverage::default();
        for fault in Fault::ALL {
            if settings.chance(*fault) > 0 {
                coverage.fault_is_on(*fault);
            }
        }
        Self {
            choices,
            now: BEGINNING,
            events: 0,
            clock: 0,
            queue: BTreeMap::new(),
            scheduled: 0,
            objects: BTreeMap::new(),
            cold: BTreeMap::new(),
            calls: BTreeMap::new(),
            readings: BTreeMap::new(),
            next_call: 0,
            model: Model::default(),
            requests: Vec::new(),
            left: settings.operations,
            pause_ms: 0,
            units: 0,
            is_calm: false,
            has_crashed: false,
            recorder: Recorder::new(coverage, traced),
            settings,
        }
    }

    pub(super) fn run(&mut self, until: u64) {
        self.schedule(0, Event::Client);
        self.drain(until);
        self.is_calm = true;
        if self.recorder.failure.is_none() && self.events < until {
            self.check_rest();
        }
        // In the end everything is deleted, and nothing may be left.
        if self.recorder.failure.is_none() && self.events < until {
            self.delete_all();
            self.drain(until);
        }
        if self.recorder.failure.is_none() && self.events < until {
            self.check_rest();
            self.check_empty();
        }
    }

    fn drain(&mut self, until: u64) {
        while self.recorder.failure.is_none() && self.events < until {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                return;
            };
            self.now = self.now.max(at);
            self.events += 1;
            self.recorder.digest.number(self.now);
            if self.events > EVENTS_MAX {
                return self.fail(Oracle::RunEnds, "an end", "too many events");
            }
            self.happen(event);
        }
    }

    pub(super) fn schedule(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.queue
            .insert((self.now.saturating_add(delay), self.scheduled), event);
    }

    /// Adds a line to the trace, if one is kept. `who` names its lane.
    pub(super) fn note(&mut self, who: impl Display, what: impl FnOnce() -> String) {
        self.note_as(Mark::Point, who, what);
    }

    /// The same, for a line that means more to a timeline.
    pub(super) fn note_as(&mut self, mark: Mark, who: impl Display, what: impl FnOnce() -> String) {
        let (simulated_ms, event) = (self.simulated_ms(), self.events);
        self.recorder.note(simulated_ms, event, mark, who, what);
    }

    pub(super) fn simulated_ms(&self) -> u64 {
        self.now - BEGINNING
    }

    pub(super) fn fail(
        &mut self,
        oracle: Oracle,
        expected: impl Into<String>,
        actual: impl Into<String>,
    ) {
        let failure = Failure {
            oracle,
            expected: expected.into(),
            actual: actual.into(),
            event: self.events,
        };
        self.recorder.fail(self.simulated_ms(), failure);
    }

    pub(super) fn cover(&mut self, situation: Situation) {
        self.recorder.coverage.cover(situation);
    }

    /// Decides whether a fault happens.
    pub(super) fn fault(&mut self, fault: Fault) -> bool {
        let chance = self.settings.chance(fault);
        let happens = !self.is_calm && self.choices.percent(chance);
        if happens {
            self.note_as(Mark::Fault, "fault", || fault.text().to_owned());
            self.recorder.coverage.fired(fault);
            self.recorder.coverage.changed(fault);
        }
        happens
    }

    /// Decides whether storage fails in a turn. Returns the number of the question that it does not
    /// answer, from 0.
    fn failing_read(&mut self) -> Option<u64> {
        let chance = self.settings.chance(Fault::Read);
        let choices = self.choices.fourth();
        if self.is_calm || !choices.percent(chance) {
            return None;
        }
        self.recorder.coverage.fired(Fault::Read);
        Some(choices.magnitude(FAILING_READ_MAX))
    }

    pub(super) fn network_delay(&mut self) -> u64 {
        self.choices.upto(self.settings.network_ms)
    }

    pub(super) fn late(&mut self) -> u64 {
        self.choices.upto(self.settings.late_ms)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Client => self.client(),
            Event::Arrive { call, to, input } => self.arrive(call, &to, input),
            Event::Commit { at } => self.commit(&at),
            Event::Ended { at, input } => {
                if self.is_present(&at) {
                    self.ended(&at, &input);
                    self.turn(&at.name, input);
                }
            }
            Event::Deferred { at, input } => {
                if self.is_present(&at) {
                    self.turn(&at.name, input);
                }
            }
            Event::Page { call, writer } => self.page(call, *writer),
            Event::Land { key, object } => self.land(key, object),
            Event::Delete { keys } => self.delete(&keys),
            Event::Alarm { name, at, is_again } => self.alarm(&name, at, is_again),
            Event::Crash { name } => self.crash(&name),
        }
    }

    pub(super) fn is_present(&self, at: &Place) -> bool {
        let object = self.objects.get(&at.name);
        object.is_some_and(|object| object.stream.is_some() && object.instance == at.instance)
    }

    fn ended(&mut self, at: &Place, input: &Input) {
        if let (Some(object), Input::CallFinished { effect, .. }) =
            (self.objects.get_mut(&at.name), input)
        {
            object.waits_for.remove(effect);
        }
    }

    fn arrive(&mut self, call: u64, to: &str, input: Call) {
        let is_expected = self
            .calls
            .get(&call)
            .is_some_and(|pending| pending.holder.is_none());
        if !is_expected {
            return;
        }
        self.notice_call(to, &input);
        let id = CallId(call);
        self.turn(to, Input::Call { id, call: input });
    }

    /// Lets an object take one turn.
    pub(super) fn turn(&mut self, name: &str, input: Input) {
        let now = Millis(self.now);
        let calls: Vec<_> = input.calls().map(|id| id.0).collect();
        let ends_expired = matches!(
            input,
            Input::Call { .. } | Input::Appends(_) | Input::Continue { .. } | Input::Alarm
        );
        self.note(name, || summary(&input));
        let failing_read = self.failing_read();
        let object = self.objects.entry(name.to_owned()).or_default();
        let stream = object.stream.take();
        if stream.is_none() {
            object.instance += 1;
        }
        let place = Place {
            name: name.to_owned(),
            instance: object.instance,
        };
        for call in calls {
            if let Some(pending) = self.calls.get_mut(&call) {
                pending.holder = Some(place.clone());
                if pending.arrived_at == 0 {
                    (pending.arrived, pending.arrived_at) = (self.clock, self.now);
                }
            }
        }
        let rows = (!object.rows.is_empty()).then_some(&object.rows);
        let reads = Cell::new(0);
        let storage = Guarded::new(&rows, || {
            let read = reads.replace(reads.get() + 1);
            if Some(read) == failing_read {
                return Err(StorageError("storage does not answer".to_owned()));
            }
            Ok(())
        });
        let context = Context {
            now,
            storage: &storage,
            subscribers: &|_| Ok(0),
            entropy: &|| -> [u8; 32] { unreachable!("there are no subscriptions here") },
        };
        let loaded = match stream {
            Some(stream) => Ok(stream),
            None => {
                // Instances of all objects differ.
                let seed = self.scheduled;
                Stream::load(now, &storage, &self.settings.limits, seed)
            }
        };
        let stepped = loaded.and_then(|mut stream| {
            let turn = stream.step(&context, input)?;
            Ok((stream, turn))
        });
        let (stream, turn) = match stepped {
            Ok(stepped) => stepped,
            Err(_) if failing_read.is_some_and(|failing| failing < reads.get()) => {
                self.recorder.coverage.changed(Fault::Read);
                return self.lose_instance(name);
            }
            Err(error) => return self.fail(Oracle::Storage, "rows", error.to_string()),
        };
        if failing_read.is_some_and(|failing| failing < reads.get()) {
            return self.fail(
                Oracle::Contract,
                "a failed turn",
                "one that ignores its storage",
            );
        }
        object.stream = Some(stream);
        for write in &turn.writes {
            if let Err(reason) = object.rows.apply(write) {
                return self.fail(Oracle::Storage, "a write that fits", reason);
            }
        }
        let forgets_alarm = self.settings.alarms_in_rows && object.rows.is_empty();
        let changed = match turn.alarm {
            AlarmChange::Keep => None,
            AlarmChange::Set(_) if forgets_alarm => {
                object.alarm = None;
                None
            }
            AlarmChange::Set(at) => {
                object.alarm = Some(at.0);
                Some(at.0)
            }
            AlarmChange::Clear => {
                object.alarm = None;
                None
            }
        };
        let mut bodies = BTreeMap::new();
        for effect in &turn.after_commit {
            if let Effect::Answer { call, answer } = effect
                && let machine::Body::Plan(plan) = &answer.body
            {
                match plan.begin(|span| object.rows.frames(span)) {
                    Ok(body) => drop(bodies.insert(call.0, body)),
                    Err(error) => {
                        return self.fail(Oracle::Storage, "rows", error.to_string());
                    }
                }
            }
        }
        object.turns.push_back(Turned {
            writes: turn.writes,
            alarm: object.alarm,
            effects: turn.after_commit,
            at: self.now,
            ends_expired,
            bodies,
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
        let is_again = false;
        self.schedule(delay, Event::Alarm { name, at, is_again });
    }

    fn alarm(&mut self, name: &str, at: u64, is_again: bool) {
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
    fn commit(&mut self, at: &Place) {
        if !self.is_present(at) {
            return;
        }
        let crash = self.crash_here();
        if crash == 1 {
            self.cover(Situation::CrashLostTurn);
            return self.crash(&at.name);
        }
        let Some(object) = self.objects.get_mut(&at.name) else {
            return;
        };
        let Some(mut turned) = object.turns.pop_front() else {
            return;
        };
        let before = object.disk.clone();
        for write in &turned.writes {
            if let Err(reason) = object.disk.apply(write) {
                return self.fail(Oracle::Storage, "a write that fits", reason);
            }
        }
        object.durable_alarm = turned.alarm;
        self.clock += 1;
        self.recorder.digest.number(turned.writes.len() as u64);
        self.judge(&at.name, &before, &turned);
        if self.recorder.failure.is_some() {
            return;
        }
        let effects = core::mem::take(&mut turned.effects);
        let sent = if crash == 2 {
            self.cover(Situation::CrashKeptTurn);
            self.choices.upto(effects.len() as u64)
        } else {
            effects.len() as u64
        };
        for (effect, _) in effects.into_iter().zip(0..sent) {
            self.carry_out(at, effect, &mut turned.bodies);
        }
        if crash == 2 {
            self.crash(&at.name);
        }
    }

    /// Decides whether the object dies now: 1 before the commit, 2 after it.
    fn crash_here(&mut self) -> u64 {
        if self.settings.is_enumerated {
            if self.has_crashed || self.is_calm {
                return 0;
            }
            let crash = self.choices.upto(2);
            self.has_crashed = crash > 0;
            return crash;
        }
        if self.fault(Fault::Crash) {
            1 + self.choices.upto(1)
        } else {
            0
        }
    }

    /// Loses the instance, and all that is not durable.
    pub(super) fn crash(&mut self, name: &str) {
        let Some(object) = self.objects.get_mut(name) else {
            return;
        };
        if object.stream.take().is_some() {
            self.lose_instance(name);
        }
    }

    fn lose_instance(&mut self, name: &str) {
        let Some(object) = self.objects.get_mut(name) else {
            return;
        };
        object.rows = object.disk.clone();
        object.turns.clear();
        object.alarm = object.durable_alarm;
        let is_waiting = !object.waits_for.is_empty();
        object.waits_for.clear();
        let instance = object.instance;
        let alarm = object.alarm;
        self.note_as(Mark::Breaks, name, || "crashes".to_owned());
        if is_waiting {
            self.cover(Situation::CrashWaiting);
        }
        if let Some(at) = alarm {
            self.arm(name, at);
        }
        let lost: Vec<_> = self
            .calls
            .iter()
            .filter(|(_, pending)| {
                let holder = pending.holder.as_ref();
                holder.is_some_and(|it| it.name == name && it.instance == instance)
            })
            .map(|(call, _)| *call)
            .collect();
        for call in lost {
            if let Some(pending) = self.calls.remove(&call) {
                if !matches!(pending.caller, Caller::Object { .. }) {
                    let loses = Mark::Loses(of_call(call));
                    self.note_as(loses, "client", || format!("c{call} is not answered"));
                }
                self.lost(pending.caller);
            }
        }
    }
}

/// Returns the span of a call in a timeline.
pub(super) const fn of_call(call: u64) -> Span {
    Span::new("c", call)
}

/// Returns what a call asks for.
pub(super) fn what(call: &Call) -> String {
    match call {
        Call::Create(create) => format!(
            "PUT {} {:?} {:?}",
            create.content_type,
            create.fork,
            String::from_utf8_lossy(&create.body)
        ),
        Call::Append(append) => format!(
            "POST {:?} {:?}{}",
            String::from_utf8_lossy(&append.body),
            append.producer,
            if append.close { " close" } else { "" }
        ),
        Call::Metadata => "HEAD".to_owned(),
        Call::Read(read) => format!("GET {:?}", read.from),
        Call::Delete(_) => "DELETE".to_owned(),
        Call::Fork(call) => format!("{call:?}"),
        Call::Admin(call) => format!("{call:?}"),
        Call::Link(call) => format!("{call:?}"),
        Call::Control(call) => format!("{call:?}"),
        Call::Session(call) => format!("{call:?}"),
    }
}

/// Returns one line for the trace.
fn summary(input: &Input) -> String {
    match input {
        Input::Call { id, call } => format!("c{} {}", id.0, what(call)),
        Input::Appends(appends) => format!("{} appends", appends.len()),
        Input::Continue { id, rest } => format!("c{} continues {rest:?}", id.0),
        Input::CallFinished { effect, outcome } => {
            let outcome = match outcome {
                machine::CallOutcome::Answered { status, body } => {
                    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
                    format!("{status} {}", String::from_utf8_lossy(line))
                }
                machine::CallOutcome::Failed => "failed".to_owned(),
            };
            format!("call {} ended: {outcome}", effect.0)
        }
        Input::PutFinished { id, receipt } => format!(
            "put of segment {} attempt {} ended: {}",
            id.segment,
            id.attempt,
            receipt.is_some()
        ),
        Input::Alarm => "alarm".to_owned(),
        Input::SubscriberLeft { .. }
        | Input::CollectFinished { .. }
        | Input::IndexFinished { .. }
        | Input::EnqueueFinished { .. } => format!("{input:?}"),
    }
}
