//! An object under test: the stream machine on the simulated platform, and the arrival of requests.

use std::cell::Cell;
use std::collections::VecDeque;

use bytes::Bytes;
use machine::router::target;
use machine::rows::Incarnation;
use machine::segment::Put;
use machine::wire::request::{self, Parsed, RequestHead};
use machine::wire::{CacheMode, internal_headers};
use machine::{
    Answer, AppendQueue, Arrival, Body, Call, Class, EffectId, Guarded, Input, Limits, Storage,
    StorageError, Stream, outbox,
};

use super::Event;
use super::World;
use super::client::Received;
use crate::coverage::{Fault, Situation, Watermark};
use crate::ids::{CallId, ConnectionId, ObjectId};
use crate::model::{Model, State};
use crate::oracles::{Oracle, Position, Subject};
use crate::platform::{self, Program};
use crate::request::{Request, Response};
use crate::settings::Settings;
use crate::storage::{self, Store};

impl Program for Stream {
    type Storage = Store;
    type Snapshot = State;
    type Attachment = Attachment;
    type Answer = Received;
    type Message = Message;
    type Effect = ObjectEffect;
}

/// What an object keeps with a connection.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    pub(super) class: Class,
    pub(super) incarnation: Incarnation,
}

/// A request to others, in the background.
#[derive(Debug)]
pub enum ObjectEffect {
    Put(Put),
    Collect {
        effect: EffectId,
        keys: Vec<String>,
    },
    Call {
        effect: EffectId,
        to: String,
        request: outbox::Request,
    },
    Index {
        effect: EffectId,
        statements: Vec<outbox::Statement>,
    },
}

/// A message over a connection, and the state of the object when it was sent.
#[derive(Clone, Debug)]
pub struct Message {
    pub(super) bytes: Bytes,
    pub(super) position: Position,
}

/// A stream's object.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) url: String,
    pub(super) name: String,
    pub(super) platform: platform::Object<Stream>,
    /// How many turns it has had.
    pub(super) turns: u64,
    /// The appends that wait for a commit.
    pub(super) queue: AppendQueue,
    /// The numbers of the commits in flight that appends wait for.
    pub(super) append_commits: VecDeque<u64>,
}

impl Object {
    pub(super) fn new(name: &str, number: ObjectId, kind: storage::Kind) -> Self {
        Self {
            url: format!("https://streams.example/v1/stream/{name}"),
            name: name.to_owned(),
            platform: platform::Object::new(number, Store::new(kind)),
            turns: 0,
            queue: AppendQueue::default(),
            append_commits: VecDeque::new(),
        }
    }

    /// Empties the queue, because the object that held it has ended.
    pub(super) fn end_queue(&mut self) {
        self.queue = AppendQueue::default();
        self.append_commits.clear();
    }

    /// Returns what a checker sees of this object.
    pub(super) fn subject<'a>(&'a self, id: ObjectId, model: &'a Model) -> Subject<'a> {
        let instance = self.platform.instance.as_ref();
        Subject {
            id,
            name: &self.name,
            store: &self.platform.storage,
            alarm: &self.platform.alarm,
            producers_in_memory: instance.map_or(0, Stream::producers_in_memory),
            model,
        }
    }

    /// Drops the instance. Everything that it has written stays.
    pub(super) fn forget(&mut self, model: &mut Model) {
        self.platform.instance = None;
        let state = model.state.clone();
        model.restart(state.clone());
        self.platform.remember(state);
    }
}

/// An object has no faults after this many instances, because more show nothing new.
pub(super) const INSTANCES_MAX: u64 = 200;

/// A step reads each row a few times at most.
const STEP_READS_MAX: u64 = 1_000_000;

/// Returns the object's storage, which counts in `reads` and stops a step that reads without end.
pub(super) fn bounded<'a>(
    store: &'a Store,
    reads: &'a Cell<u64>,
) -> Guarded<'a, dyn Storage + 'a, impl Fn() -> Result<(), StorageError> + 'a> {
    Guarded::new(store.storage(), || {
        reads.update(|reads| reads + 1);
        if reads.get() > STEP_READS_MAX {
            return Err(StorageError("a step reads and reads".to_owned()));
        }
        Ok(())
    })
}

/// Returns how many readers are connected to this incarnation.
pub(super) fn attached(
    connections: &[(ConnectionId, Attachment)],
    incarnation: Incarnation,
) -> u64 {
    let connections = connections.iter();
    connections
        .filter(|(_, attachment)| attachment.incarnation == incarnation)
        .count() as u64
}

pub(super) fn response(answer: &Answer, body: Bytes) -> Response {
    let headers = answer
        .own_headers()
        .map(|(name, value)| (name.into(), value.to_owned()))
        .collect();
    Response {
        status: answer.status,
        headers,
        body,
    }
}

pub(super) fn plain(answer: &Answer) -> Response {
    let body = match &answer.body {
        Body::Bytes(bytes) => bytes.clone().into(),
        Body::Empty | Body::Plan(_) => Bytes::new(),
    };
    response(answer, body)
}

/// Returns whether an answer has further pages.
pub(super) const fn has_rest(answer: &Answer) -> bool {
    matches!(&answer.body, Body::Plan(plan) if plan.rest.is_some())
}

fn parsed(request: &Request, url: &str, settings: &Settings) -> Result<Parsed, machine::Refusal> {
    let limits = &settings.limits;
    let cache_mode = if settings.whole_reads {
        CacheMode::Private
    } else {
        CacheMode::Shared
    };
    // As the router sends it.
    let header = |name: &str| match name {
        internal_headers::CACHE_MODE => Some(cache_mode.name().to_owned()),
        _ => request.header(name).map(str::to_owned),
    };
    let url = request.url(url);
    let (origin, target) = target::split(&url);
    request::parse(
        RequestHead {
            method: request.method,
            origin,
            target,
            header: &header,
        },
        limits,
    )
}

impl World<'_, '_> {
    /// Handles the arrival of a request, except for its body.
    pub(super) fn arrive(&mut self, call: CallId) {
        let at = self.calls[call].object;
        let request = self.calls[call].request.clone();
        let object = &mut self.objects[at];
        self.calls[call].epoch = object.platform.epoch;
        object.platform.begun.push(call);
        match parsed(&request, &object.url, &self.engine.settings) {
            Err(refusal) => self.refuse(call, &Answer::refusal(&refusal), true),
            Ok(Parsed::Whole(whole)) => self.take_call(at, call, whole),
            Ok(Parsed::AwaitsBody(awaits)) => {
                self.calls[call].awaits = Some(awaits);
                if self.engine.fault(Fault::SlowBody) {
                    self.calls[call].turns_at_arrival = Some(self.objects[at].turns);
                    let delay = self.engine.choices.upto(self.engine.settings.delays.body);
                    self.engine.schedule(delay, Event::Body { call });
                } else {
                    self.body_complete(call);
                }
            }
        }
    }

    /// Handles the arrival of a request's body.
    pub(super) fn body_complete(&mut self, call: CallId) {
        let at = self.calls[call].object;
        let Some(awaits) = self.calls[call].awaits.take() else {
            return;
        };
        let body = self.calls[call].request.body.clone();
        if self.objects[at].platform.epoch != self.calls[call].epoch {
            if let Some(stale_instance) = self.calls[call].stale_instance.take() {
                self.continue_stale(call, *stale_instance, awaits.with_body(body));
            }
            return;
        }
        if self.calls[call]
            .turns_at_arrival
            .is_some_and(|turns| turns < self.objects[at].turns)
        {
            self.engine.cover(Situation::SlowBody);
            self.engine.changed(Fault::SlowBody);
        }
        match awaits.with_body(body) {
            Err(refusal) => self.refuse(call, &Answer::refusal(&refusal), true),
            Ok(whole) => self.take_call(at, call, whole),
        }
    }

    /// Runs a call, or lets it wait for a commit.
    fn take_call(&mut self, at: ObjectId, call: CallId, whole: Call) {
        let limits = &self.engine.settings.limits;
        match self.objects[at].queue.arrive(call.into(), whole, limits) {
            Arrival::Runs(input) => self.turn(at, input),
            Arrival::Waits => {
                let lane = format_args!("object {at}");
                self.engine.note(lane, || format!("c{call} waits"));
            }
            Arrival::Refused => {
                self.engine.cover(Situation::QueueFull);
                let answer = Answer::unavailable(&self.engine.settings.limits);
                self.refuse(call, &answer, false);
            }
        }
    }

    /// Runs the appends that have waited, as long as another commit may begin.
    pub(super) fn run_waiting(&mut self, at: ObjectId) {
        while self.engine.recorder.failure.is_none() {
            let limits = &self.engine.settings.limits;
            let Some(input) = self.objects[at].queue.next(limits) else {
                return;
            };
            if !groups_alike(&input, limits) {
                let expected = "appends to be grouped alike by both shells".to_owned();
                let actual = format!("{} in one turn", input.calls().count());
                return self.engine.fail(Oracle::Contract, expected, actual);
            }
            self.turn(at, input);
        }
    }

    /// Answers without a turn.
    pub(super) fn refuse(&mut self, call: CallId, answer: &Answer, judged: bool) {
        let at = self.calls[call].object;
        let response = plain(answer);
        if judged {
            let verdict = self.models[at].refused(&self.calls[call].request, &response);
            self.engine.check(Oracle::Model, verdict);
        }
        let position = Position::of(&self.models[at].state);
        self.hold_answer(
            at,
            call,
            Received {
                response,
                position,
                connection: None,
                fetching: None,
                sealed: None,
            },
        );
    }

    /// Judges how often a step has read its storage. Returns whether that was within bounds.
    pub(super) fn ends(&mut self, reads: u64) -> bool {
        self.engine.raise(Watermark::StepReads, reads);
        if reads > STEP_READS_MAX {
            let expected = format!("{STEP_READS_MAX} reads of storage at most");
            self.engine
                .fail(Oracle::StepEnds, expected, "another one".to_owned());
        }
        reads <= STEP_READS_MAX
    }
}

/// Returns whether a shell without a queue would run the same appends in one turn.
fn groups_alike(input: &Input, limits: &Limits) -> bool {
    let Input::Appends(appends) = input else {
        return true;
    };
    let mut waiting = Input::one_by_one(appends.clone());
    let Some(mut together) = waiting.next() else {
        return true;
    };
    for next in waiting {
        if !together.shares_turn_with(&next, limits) {
            return false;
        }
        together = together.followed_by(next);
    }
    together.calls().eq(input.calls())
}
