//! All objects of a server, without faults: each call between objects is carried out at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use machine::fanout::{Delivery, Next};
use machine::router::Settings;
use machine::wire::request::{self, Parsed, RequestHead};
use machine::wire::session::{self, SessionRoute};
use machine::{
    AlarmChange, Answer, Body, Call, CallId, CallOutcome, Context, Effect, EffectId, Input, Limits,
    MemoryRows, Millis, Object, Refusal, StorageError, Turn, outbox,
};

pub(crate) const BEGINNING: Millis = Millis(1_800_000_000_000);
pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

#[derive(Clone, Default)]
pub(crate) struct Place {
    pub(crate) rows: MemoryRows,
    object: Option<Object>,
    pub(crate) alarm: Option<Millis>,
}

/// The object that has called another one, and the effect.
type Caller = (String, EffectId);

#[derive(Clone)]
enum Work {
    Call(Caller, String, outbox::Request),
    Finished(Caller, CallOutcome),
    Enqueued(Caller, bool),
}

/// All objects by their names.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) now: Millis,
    pub(crate) limits: Limits,
    pub(crate) places: BTreeMap<String, Place>,
    loads: u64,
    pub(crate) calls: u64,
    pub(crate) answers: BTreeMap<CallId, Answer>,
    /// Who waits for the answer to a call between objects.
    callers: BTreeMap<CallId, Caller>,
    /// What follows from the steps so far.
    work: VecDeque<Work>,
    /// Each turn so far: its object, and what it cost.
    pub(crate) turns: Vec<(String, Cost)>,
    /// The object, the effect and the receiver of each webhook that is not answered.
    pub(crate) webhooks: VecDeque<(String, EffectId, String)>,
    /// The messages of the fan-out queue, and how often it has brought each.
    pub(crate) queue: VecDeque<(String, u64)>,
    /// Whether the queue takes nothing.
    pub(crate) queue_is_full: bool,
    /// An object that does not answer the consumer of the queue.
    pub(crate) silent: String,
    /// A receiver of calls that answers 200 without a readable body, as often as this.
    pub(crate) unreadable: (String, u64),
    /// A receiver, and the requests of other objects that it has had.
    pub(crate) recorded: (String, Vec<outbox::Request>),
    /// A receiver whose answers to other objects are late.
    pub(crate) late: String,
    /// Whether the answers of the fan-out queue are late.
    pub(crate) queue_is_late: bool,
    /// These answers.
    late_answers: Vec<Work>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Writes, each of which is a row.
    pub(crate) rows: usize,
    /// Changes of the alarm.
    pub(crate) alarms: usize,
    /// Calls of other objects.
    pub(crate) calls: usize,
    /// Requests to receivers.
    pub(crate) webhooks: usize,
    /// Batches of messages for the fan-out queue.
    pub(crate) batches: usize,
}

impl Cost {
    fn of(turn: &Turn) -> Self {
        let count = |is_it: fn(&&Effect) -> bool| turn.after_commit.iter().filter(is_it).count();
        Self {
            rows: turn.writes.len(),
            alarms: usize::from(turn.alarm != AlarmChange::Keep),
            calls: count(|effect| matches!(effect, Effect::Call { .. })),
            webhooks: count(|effect| matches!(effect, Effect::Webhook { .. })),
            batches: count(|effect| matches!(effect, Effect::Enqueue { .. })),
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            alarms: self.alarms + other.alarms,
            calls: self.calls + other.calls,
            webhooks: self.webhooks + other.webhooks,
            batches: self.batches + other.batches,
        }
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self {
            now: BEGINNING,
            limits: Limits {
                subscriptions: true,
                webhook_loopback: true,
                ..Limits::DEFAULT
            },
            places: BTreeMap::new(),
            loads: 0,
            calls: 0,
            answers: BTreeMap::new(),
            callers: BTreeMap::new(),
            work: VecDeque::new(),
            turns: Vec::new(),
            webhooks: VecDeque::new(),
            queue: VecDeque::new(),
            queue_is_full: false,
            silent: String::new(),
            unreadable: (String::new(), 0),
            recorded: (String::new(), Vec::new()),
            late: String::new(),
            queue_is_late: false,
            late_answers: Vec::new(),
        }
    }

    /// Sends a client's request to an object, and returns its answer.
    pub(crate) fn request(&mut self, method: &str, object: &str, path: &str, body: &str) -> Answer {
        let target = outbox::target(&format!("{object}{path}"));
        let call = self.send(object, method, &target, &[JSON], body);
        self.answers.remove(&call).expect("the call is answered")
    }

    /// Sends a client's request about sessions, and returns its answer.
    pub(crate) fn session(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let call = self.send_session(method, path, body);
        self.answers.remove(&call).expect("the call is answered")
    }

    pub(crate) fn send_session(&mut self, method: &str, path: &str, body: &str) -> CallId {
        let head = RequestHead {
            method,
            origin: "http://127.0.0.1:1",
            target: path,
            header: &|_| None,
        };
        let settings = Settings {
            limits: Arc::new(self.limits.clone()),
            ..Settings::default()
        };
        self.calls += 1;
        let mut entropy = [0; 32];
        entropy[..8].copy_from_slice(&self.calls.to_le_bytes());
        let body = Some(body.as_bytes());
        match session::route(head, body, &|| entropy, self.now, &settings) {
            Some(SessionRoute::Object { to, call }) => {
                self.send_call(&to, &session::session_request(&call))
            }
            Some(SessionRoute::Answered(answer)) => {
                let id = CallId(self.calls);
                self.answered(id, answer);
                id
            }
            Some(SessionRoute::AwaitsBody(_)) | None => panic!("{path} has a body"),
        }
    }

    pub(crate) fn send(
        &mut self,
        object: &str,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> CallId {
        let (id, call) = self.parse(method, target, headers, body);
        match call {
            Ok(call) => self.step(object, Input::Call { id, call }),
            Err(refusal) => self.answered(id, Answer::refusal(&refusal)),
        }
        id
    }

    fn parse(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (CallId, Result<Call, Refusal>) {
        let header = |name: &str| {
            let mut headers = headers.iter();
            let found = headers.find(|(each, _)| each.eq_ignore_ascii_case(name));
            found.map(|(_, value)| (*value).to_owned())
        };
        let head = RequestHead {
            method,
            origin: "http://127.0.0.1:1",
            target,
            header: &header,
        };
        self.calls += 1;
        let id = CallId(self.calls);
        let body = Bytes::copy_from_slice(body.as_bytes());
        let call = request::parse(head, &self.limits).and_then(|parsed| match parsed {
            Parsed::Whole(call) => Ok(call),
            Parsed::AwaitsBody(awaits) => awaits.with_body(body),
        });
        (id, call)
    }

    /// Runs a step, and what follows from it.
    pub(crate) fn step(&mut self, name: &str, input: Input) {
        self.step_once(name, input);
        self.work_off();
    }

    fn work_off(&mut self) {
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Call(caller, to, request) => self.call(caller, &to, &request),
                Work::Finished((from, effect), outcome) => {
                    self.step_once(&from, Input::CallFinished { effect, outcome });
                }
                Work::Enqueued((from, effect), done) => {
                    self.step_once(&from, Input::EnqueueFinished { effect, done });
                }
            }
        }
    }

    /// Lets the consumer handle each message of the fan-out queue once. Returns how many were
    /// acknowledged.
    pub(crate) fn consume(&mut self) -> usize {
        let messages = core::mem::take(&mut self.queue);
        let mut acknowledged = 0;
        for (body, attempts) in messages {
            let attempts = attempts + 1;
            let limits = self.limits.clone();
            let (mut delivery, mut next) = Delivery::begin(&body, attempts, &limits);
            next = loop {
                let Next::Call { to, request, .. } = next else {
                    break next;
                };
                let outcome = self.outcome_of(&to, &request);
                next = delivery.called(&outcome, &limits);
            };
            if next == Next::Acknowledge {
                acknowledged += 1;
            } else {
                self.queue.push_back((body, attempts));
            }
        }
        acknowledged
    }

    pub(crate) fn outcome_of(&mut self, to: &str, request: &outbox::Request) -> CallOutcome {
        if to == self.silent {
            return CallOutcome::Failed;
        }
        let call = self.send_call(to, request);
        self.take_outcome(call)
    }

    /// Sends a request of an object, or of the consumer of the queue.
    pub(crate) fn send_call(&mut self, to: &str, request: &outbox::Request) -> CallId {
        let headers = request.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let target = outbox::target(to);
        self.send(to, &request.method, &target, &headers, &request.body)
    }

    pub(crate) fn take_outcome(&mut self, call: CallId) -> CallOutcome {
        let answer = self.answers.remove(&call).expect("the call is answered");
        CallOutcome::Answered {
            status: answer.status,
            body: body(&answer).into(),
        }
    }

    fn call(&mut self, caller: Caller, to: &str, request: &outbox::Request) {
        let (recorded, requests) = &mut self.recorded;
        if recorded == to {
            requests.push(request.clone());
        }
        let (unreadable, left) = &mut self.unreadable;
        if unreadable == to && *left > 0 {
            *left -= 1;
            let body = Bytes::from_static(b"?");
            let outcome = CallOutcome::Answered { status: 200, body };
            self.work.push_back(Work::Finished(caller, outcome));
            return;
        }
        let headers = request.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let target = outbox::target(to);
        let (id, call) = self.parse(&request.method, &target, &headers, &request.body);
        self.callers.insert(id, caller.clone());
        match call {
            Ok(call) => self.step_once(to, Input::Call { id, call }),
            Err(refusal) => self.answered(id, Answer::refusal(&refusal)),
        }
        if to == self.late {
            let is_it = |work: &Work| matches!(work, Work::Finished(of, _) if *of == caller);
            let at = self.work.iter().rposition(is_it);
            let answer = at.and_then(|at| self.work.remove(at));
            let answer = answer.expect("the call is answered");
            self.late_answers.push(answer);
        }
    }

    /// Brings one of the answers that are late, counted from the oldest.
    pub(crate) fn bring_late_answer(&mut self, at: usize) {
        let late = self.late_answers.remove(at);
        self.work.push_back(late);
        self.work_off();
    }

    pub(crate) fn late_answers(&self) -> usize {
        self.late_answers.len()
    }

    fn answered(&mut self, id: CallId, answer: Answer) {
        match self.callers.remove(&id) {
            None => {
                self.answers.insert(id, answer);
            }
            Some(caller) => {
                let outcome = CallOutcome::Answered {
                    status: answer.status,
                    body: body(&answer).into(),
                };
                self.work.push_back(Work::Finished(caller, outcome));
            }
        }
    }

    fn step_once(&mut self, name: &str, input: Input) {
        self.loads += 1;
        let place = self.places.entry(name.to_owned()).or_default();
        let rows = (!place.rows.is_empty()).then_some(&place.rows);
        let mut object = place.object.take().unwrap_or_else(|| {
            let loaded = Object::load(self.now, &rows, &Arc::new(self.limits.clone()), self.loads);
            loaded.expect("memory can be read")
        });
        let context = Context {
            now: self.now,
            storage: &rows,
            subscribers: &|_| Ok(0),
            entropy: &|| [7; 32],
        };
        let turn = object.step(&context, input).expect("memory can be read");
        place.object = Some(object);
        self.turns.push((name.to_owned(), Cost::of(&turn)));
        for write in &turn.writes {
            let applied = place.rows.apply(write).map_err(StorageError);
            applied.expect("the rows take the write");
        }
        match turn.alarm {
            AlarmChange::Keep => {}
            AlarmChange::Set(at) => place.alarm = Some(at),
            AlarmChange::Clear => place.alarm = None,
        }
        for effect in turn.after_commit {
            self.carry_out(name, effect);
        }
    }

    fn carry_out(&mut self, from: &str, effect: Effect) {
        match effect {
            Effect::Answer { call, mut answer } => {
                if let Body::Plan(plan) = &answer.body {
                    let rows = &self.places[from].rows;
                    let frames = |span| rows.frames(span);
                    let mut writer = plan.begin(frames).expect("the rows are there");
                    let mut bytes = Vec::new();
                    let fetch = writer.advance(&mut bytes).expect("the rows are whole");
                    assert!(fetch.is_none() && plan.rest.is_none(), "pages are small");
                    answer.body = Body::Bytes(bytes);
                }
                self.answered(call, answer);
            }
            Effect::Call {
                effect,
                to,
                request,
            } => {
                let caller = (from.to_owned(), effect);
                self.work.push_back(Work::Call(caller, to, request));
            }
            Effect::Webhook { effect, webhook } => {
                self.webhooks
                    .push_back((from.to_owned(), effect, webhook.body));
            }
            Effect::Enqueue { effect, messages } => {
                let done = !self.queue_is_full;
                if done {
                    let messages = messages.into_iter().map(|body| (body, 0));
                    self.queue.extend(messages);
                }
                let answer = Work::Enqueued((from.to_owned(), effect), done);
                if self.queue_is_late {
                    self.late_answers.push(answer);
                } else {
                    self.work.push_back(answer);
                }
            }
            Effect::Attach { .. }
            | Effect::Put(_)
            | Effect::Collect { .. }
            | Effect::Index { .. } => unreachable!("there is no such effect here"),
        }
    }

    /// Lets all alarms fire that are due by then.
    pub(crate) fn run_until(&mut self, until: Millis) {
        loop {
            let due = self.places.iter().filter_map(|(name, place)| {
                let at = place.alarm.filter(|at| *at <= until)?;
                Some((at, name.clone()))
            });
            let Some((at, name)) = due.min() else {
                break;
            };
            self.now = self.now.max(at);
            self.places.get_mut(&name).expect("it has an alarm").alarm = None;
            self.step(&name, Input::Alarm);
        }
        self.now = until;
    }

    /// Returns what an object has cost since the turns were cleared.
    pub(crate) fn cost(&self, name: &str) -> Cost {
        let own = self.turns.iter().filter(|(of, _)| of == name);
        own.fold(Cost::default(), |sum, (_, cost)| sum.and(*cost))
    }

    /// Answers the only webhook that is under way.
    pub(crate) fn receive(&mut self, status: u16, body: &'static str) {
        let webhook = self.webhooks.pop_front();
        let (subscription, effect, _) = webhook.expect("a webhook was sent");
        let body = Bytes::from_static(body.as_bytes());
        let outcome = CallOutcome::Answered { status, body };
        self.step(&subscription, Input::CallFinished { effect, outcome });
    }

    pub(crate) fn subscribe(&mut self, id: &str, body: &str) -> Answer {
        self.request("PUT", &format!("__ds/subscriptions/{id}"), "", body)
    }

    /// Forgets all that is in memory.
    pub(crate) fn sleep(&mut self) {
        for place in self.places.values_mut() {
            place.object = None;
        }
    }
}

pub(crate) fn body(answer: &Answer) -> Vec<u8> {
    match &answer.body {
        Body::Empty => Vec::new(),
        Body::Bytes(bytes) => bytes.clone(),
        Body::Plan(_) => unreachable!("nothing is read here"),
    }
}
