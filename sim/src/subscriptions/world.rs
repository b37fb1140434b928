//! A world of streams, subscriptions, the directory and the keys, with clients, receivers of
//! webhooks and workers. This file has what happens when; `object.rs` has the objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use machine::{Call, CallOutcome, EffectId, Input, Webhook};

use super::coverage::{Coverage, Fault, Situation};
use super::judge::Checkers;
use super::model::{Floors, Model};
use super::object::Object;
use super::receivers::Receivers;
use super::request::{Kind, Request};
use super::sessions::Sessions;
use super::settings::Settings;
use super::workers::Workers;
use crate::choices::Choices;
use crate::engine::{Failure, Recorder};
use crate::oracles::{Oracle, Violation};
use crate::settings::BEGINNING;
use crate::trace::{Mark, Span};

/// The most events of a run.
const EVENTS_MAX: u64 = 200_000;
/// The most faults of a run.
const FAULTS_MAX: u64 = 300;
/// The last question of a turn that storage can fail to answer. Few turns ask more.
const FAILING_READ_MAX: u64 = 30;

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// The next request of a client.
    Client,
    /// Somebody outside sends a request.
    Send(Box<Request>),
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
    /// A webhook arrives at its receiver.
    Webhook {
        at: Place,
        effect: EffectId,
        webhook: Box<Webhook>,
    },
    /// The queue brings a message to its consumer.
    Message {
        message: u64,
    },
    /// A call of the consumer has ended.
    Consumed {
        run: u64,
        outcome: CallOutcome,
    },
    /// A signature is verified again with the public keys of that time.
    Verify {
        signed: u64,
    },
    Alarm {
        name: String,
        at: u64,
        is_again: bool,
    },
    Crash {
        name: String,
    },
    /// The application puts right what only it can.
    Settle,
    /// Nothing has broken for so long that sessions have everything.
    SessionsRest,
}

/// An instance of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) instance: u64,
}

/// Who waits for the answer to a call.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    Client {
        request: Box<Request>,
        /// The number of the event in which it was sent.
        asked: u64,
        /// Its time.
        at: u64,
        /// What a subscription that is asked for must not be woken for.
        floors: Floors,
    },
    Object {
        place: Place,
        effect: EffectId,
        is_answered: bool,
    },
    /// The consumer of the queue.
    Consumer { run: u64, is_answered: bool },
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) caller: Caller,
    /// The instance that has it, once it has arrived.
    pub(super) holder: Option<Place>,
}

pub struct World<'w, 't> {
    pub(super) choices: &'w mut Choices<'t>,
    pub(super) settings: Settings,
    pub(super) now: u64,
    pub(super) events: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub(super) scheduled: u64,
    pub(super) objects: BTreeMap<String, Object>,
    pub(super) calls: BTreeMap<u64, Pending>,
    pub(super) next_call: u64,
    /// How often entropy was asked for. Each answer differs.
    pub(super) entropy: u64,
    pub(super) model: Model,
    pub(super) checkers: Checkers,
    pub(super) receivers: Receivers,
    pub(super) workers: Workers,
    pub(super) sessions: Sessions,
    /// What the next content says.
    pub(super) contents: u64,
    /// The configurations that clients have asked for, by id.
    pub(super) asked: BTreeMap<String, super::request::Asked>,
    pub(super) left: u64,
    /// A further pause before the next request.
    pub(super) pause_ms: u64,
    /// How often receivers and workers may still misbehave.
    pub(super) misbehaviours: u64,
    /// How many faults may still happen. A day of them would be a day of wakes and attempts.
    faults_left: u64,
    /// Whether the operator has started the server again while calls were under way.
    pub(super) has_restarted: bool,
    /// Whether faults are over.
    pub(super) is_calm: bool,
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
            queue: BTreeMap::new(),
            scheduled: 0,
            objects: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            entropy: 0,
            model: Model::default(),
            checkers: Checkers::default(),
            receivers: Receivers::default(),
            workers: Workers::default(),
            sessions: Sessions::default(),
            contents: 0,
            asked: BTreeMap::new(),
            left: settings.operations,
            pause_ms: 0,
            misbehaviours: settings.misbehaviours,
            faults_left: FAULTS_MAX,
            has_restarted: false,
            is_calm: false,
            recorder: Recorder::new(coverage, traced),
            settings,
        }
    }

    pub(super) fn run(&mut self, until: u64) {
        self.schedule(0, Event::Client);
        self.drain(until);
        if self.goes_on(until) {
            self.check_rest();
        }
        // In the end everything is deleted, and nothing may be left.
        if self.goes_on(until) {
            self.delete_all();
            self.drain(until);
        }
        if self.goes_on(until) {
            self.check_empty();
        }
    }

    fn goes_on(&self, until: u64) -> bool {
        self.recorder.failure.is_none() && self.events < until
    }

    fn drain(&mut self, until: u64) {
        while self.goes_on(until) {
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

    /// Takes the verdict of a checker.
    pub(super) fn judged(&mut self, finding: Result<(), Violation>) {
        if let Err(violation) = finding {
            self.fail(violation.oracle, violation.expected, violation.actual);
        }
    }

    pub(super) fn cover(&mut self, situation: Situation) {
        self.recorder.coverage.cover(situation);
    }

    /// Decides whether a fault happens.
    pub(super) fn fault(&mut self, fault: Fault) -> bool {
        let chance = self.settings.chance(fault);
        let happens = !self.is_calm && self.faults_left > 0 && self.choices.percent(chance);
        if happens {
            self.faults_left -= 1;
            self.note_as(Mark::Fault, "fault", || fault.text().to_owned());
            self.recorder.coverage.fired(fault);
            self.recorder.coverage.changed(fault);
        }
        happens
    }

    /// Decides whether a receiver or a worker misbehaves.
    pub(super) fn misbehaves(&mut self, fault: Fault) -> bool {
        let misbehaves = self.misbehaviours > 0 && self.fault(fault);
        self.misbehaviours -= u64::from(misbehaves);
        misbehaves
    }

    /// Decides whether storage fails in a turn. Returns the number of the question that it does not
    /// answer, from 0.
    pub(super) fn failing_read(&mut self) -> Option<u64> {
        let chance = self.settings.chance(Fault::Read);
        if self.is_calm || !self.choices.percent(chance) {
            return None;
        }
        self.recorder.coverage.fired(Fault::Read);
        Some(self.choices.magnitude(FAILING_READ_MAX))
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
            Event::Send(request) => self.send(*request),
            Event::Arrive { call, to, input } => self.arrive(call, &to, input),
            Event::Commit { at } => self.commit(&at),
            Event::Ended { at, input } | Event::Deferred { at, input } => {
                if self.is_present(&at) {
                    self.turn(&at.name, input);
                }
            }
            Event::Webhook {
                at,
                effect,
                webhook,
            } => self.received(&at, effect, &webhook),
            Event::Message { message } => self.bring(message),
            Event::Consumed { run, outcome } => self.consumed(run, &outcome),
            Event::Verify { signed } => self.verify_again(signed),
            Event::Alarm { name, at, is_again } => self.alarm(&name, at, is_again),
            Event::Crash { name } => self.crash(&name),
            Event::Settle => self.settle(),
            Event::SessionsRest => self.check_sessions(),
        }
    }

    /// Sends a request from outside.
    pub(super) fn send(&mut self, request: Request) {
        let Some(input) = request.call(&self.settings.limits) else {
            return;
        };
        self.next_call += 1;
        let call = self.next_call;
        let to = request.to();
        self.model.asked(&request);
        let span = Mark::Begins(of_call(call));
        self.note_as(span, "client", || {
            format!("c{call} to {to}: {:?}", request.kind)
        });
        let floors = if let Kind::Subscribe(asked) = &request.kind {
            self.floors(asked)
        } else {
            Floors::new()
        };
        let caller = Caller::Client {
            request: Box::new(request),
            asked: self.events,
            at: self.now,
            floors,
        };
        let holder = None;
        self.calls.insert(call, Pending { caller, holder });
        let delay = self.network_delay();
        self.schedule(delay, Event::Arrive { call, to, input });
    }

    /// Returns the names of streams that exist.
    pub(super) fn existing(&self) -> BTreeSet<String> {
        self.model.present.keys().cloned().collect()
    }
}

/// Returns the span of a call in a timeline.
pub(super) const fn of_call(call: u64) -> Span {
    Span::new("c", call)
}
