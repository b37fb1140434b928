//! All objects, their clock, and what is under way between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use machine::router::{self, Route, Settings, target};
use machine::rows::{HotTable, RowKey};
use machine::wire::internal_headers;
use machine::wire::request::RequestHead;
use machine::{
    Answer, Body, Call, CallId, CallOutcome, ControlCall, Effect, EffectId, Input, Millis, Offset,
    Turn, outbox,
};
use serde_json::Value;

use super::fanout_queue::{CONSUMER, FanoutQueue};
use super::glob;
use super::judge::{Answered, Judge, SUBSCRIPTIONS, Seen, check_change};
use crate::effects::{EffectJob, Outcome};
use crate::object::{Cold, Object};
use crate::request::stream::check_common;
use crate::request::wire::Request;

/// Instances of different objects get different seeds.
const SEEDS_OF_AN_OBJECT: u64 = 1 << 32;
const STRAYS_MAX: usize = 8;
/// The greatest number of alarms of one object in one pause.
const ALARMS_MAX: usize = 8;
/// The greatest number of calls that are carried out at once.
const CALLS_MAX: usize = 300;
/// After this many alarms everything is stored and told, unless it fails for ever.
const ROUNDS_MAX: usize = 400;
/// Most of them that come only for what was refused before.
const ROUNDS_OF_REFUSED_MAX: usize = 20;

pub(super) struct Server {
    pub(super) settings: Settings,
    pub(super) now: Millis,
    /// How many reads succeed in the next turn.
    pub(super) reads_left: Option<u64>,
    /// Whether calls are carried out as soon as they are made.
    pub(super) is_eager: bool,
    pub(super) judge: Judge,
    objects: BTreeMap<String, Object>,
    cold: Cold,
    /// The calls that are not answered yet.
    calls: BTreeMap<u64, Waiting>,
    next_call: u64,
    /// Outcomes that have not been reported to their instances yet.
    reports: VecDeque<Report>,
    /// Requests of former instances, which can still arrive.
    strays: Vec<(String, outbox::Request)>,
    /// Objects whose last call was refused.
    refused: BTreeSet<String>,
    /// How many streams of each name have ended.
    ends: BTreeMap<String, u64>,
    pub(super) queue: FanoutQueue,
}

/// A call that is not answered yet.
struct Waiting {
    to: String,
    request: Request,
    /// `None` for a client, and when the caller has ended.
    caller: Option<Caller>,
    is_of_client: bool,
}

#[derive(Clone)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) instance: Option<u64>,
    pub(super) effect: EffectId,
}

struct Report {
    name: String,
    /// The instance that began the effect. Another one does not get the report.
    instance: Option<u64>,
    input: Input,
}

/// What a receiver of webhooks does.
pub(super) enum Receipt {
    Answers(u16, Vec<u8>),
    /// The request fails.
    Fails,
    /// Nobody ever hears of it.
    Vanishes,
}

impl Server {
    pub(super) fn new(settings: Settings, now: Millis) -> Self {
        Self {
            settings,
            now,
            reads_left: None,
            is_eager: true,
            judge: Judge::default(),
            objects: BTreeMap::new(),
            cold: Cold::default(),
            calls: BTreeMap::new(),
            next_call: 0,
            reports: VecDeque::new(),
            strays: Vec::new(),
            refused: BTreeSet::new(),
            ends: BTreeMap::new(),
            queue: FanoutQueue::default(),
        }
    }

    fn object(&mut self, name: &str) -> &mut Object {
        self.objects
            .get_mut(name)
            .expect("no object is ever removed")
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    pub(super) fn seen(&self, name: &str) -> Option<Seen> {
        Seen::read(&self.objects.get(name)?.store.rows)
    }

    /// Returns the turn of an input at an object, and leaves everything as it is.
    pub(super) fn glance(&self, name: &str, input: Input) -> Turn {
        match self.objects.get(name) {
            Some(object) => object.glance(self.now, input),
            None => Object::new(Arc::clone(&self.settings.limits)).glance(self.now, input),
        }
    }

    /// Returns the status and the body of the answer to an input, and leaves everything as it is.
    pub(super) fn glance_at_body(&self, name: &str, input: Input) -> (u16, Vec<u8>) {
        let object = &self.objects[name];
        let turn = object.glance(self.now, input);
        let answer = turn.after_commit.iter().find_map(|effect| match effect {
            Effect::Answer { answer, .. } => Some(answer),
            Effect::Attach { .. }
            | Effect::Put(_)
            | Effect::Collect { .. }
            | Effect::Call { .. }
            | Effect::Index { .. }
            | Effect::Enqueue { .. }
            | Effect::Webhook { .. } => None,
        });
        let answer = answer.expect("a read is answered");
        let body = match &answer.body {
            Body::Plan(plan) => {
                assert!(plan.rest.is_none(), "nothing here is longer than a page");
                object.render(plan)
            }
            Body::Bytes(_) | Body::Empty => body_of(answer),
        };
        (answer.status, body)
    }

    /// Returns bytes that no other call gets.
    pub(super) fn next_entropy(&mut self) -> [u8; 32] {
        self.next_call += 1;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.next_call.to_le_bytes());
        bytes
    }

    /// Returns how many streams of this name have ended.
    pub(super) fn ends_of(&self, stream: &str) -> u64 {
        self.ends.get(stream).copied().unwrap_or_default()
    }

    /// Checks that none of the objects' secrets is in what leaves.
    pub(super) fn assert_no_secret(&self, bytes: &[u8]) {
        assert_no_secret(&self.objects, bytes);
    }

    /// Ends an instance, and with it the calls that wait for it. What it has sent may still arrive.
    pub(super) fn sleep(&mut self, number: usize, is_told: bool) {
        let names = self.names();
        let Some(name) = number.checked_rem(names.len()).map(|at| &names[at]) else {
            return;
        };
        let object = self.object(name);
        let jobs = core::mem::take(&mut object.jobs);
        let (calls, others): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .partition(|job| matches!(job, EffectJob::Call { .. }));
        object.jobs = others;
        object.sleep();
        for job in calls {
            if let EffectJob::Call { to, request, .. } = job
                && self.strays.len() < STRAYS_MAX
            {
                self.strays.push((to, request));
            }
        }
        self.end_calls_of(name, is_told);
        self.report_all();
    }

    /// Ends the calls that wait for an object whose instance has ended.
    fn end_calls_of(&mut self, name: &str, is_told: bool) {
        let lost = self.calls.extract_if(.., |_, waiting| waiting.to == name);
        for (_, waiting) in lost.collect::<Vec<_>>() {
            // The queue waits for an answer only so long.
            let is_of_queue = |caller: &Caller| caller.name == CONSUMER;
            if is_told || waiting.caller.as_ref().is_some_and(is_of_queue) {
                self.tell(waiting.caller, CallOutcome::Failed);
            }
        }
    }

    /// Lets time pass, and then the alarms come that are due.
    pub(super) fn wait(&mut self, milliseconds: u64) {
        self.now = self.now.plus(milliseconds);
        for name in self.names() {
            for _ in 0..ALARMS_MAX {
                let now = self.now;
                let Some(at) = self.object(&name).alarm.take_if(|at| *at <= now) else {
                    break;
                };
                if !self.step(&name, Input::Alarm, None) {
                    // The platform tries again.
                    self.object(&name).alarm = Some(at);
                }
            }
        }
    }

    /// Lets an object take a turn, and tells everybody of its answers. Returns whether its storage
    /// could be read. `direct` is the call of the input, if it is one.
    pub(super) fn step(&mut self, name: &str, input: Input, direct: Option<u64>) -> bool {
        let done = self.one_step(name, input, direct);
        self.report_all();
        done
    }

    fn report_all(&mut self) {
        while let Some(report) = self.reports.pop_front() {
            if self.object(&report.name).instance() == report.instance {
                self.one_step(&report.name, report.input, None);
            }
        }
        while let Some((run, outcome)) = self.queue.ended.pop_front() {
            self.consumed(run, &outcome);
        }
    }

    fn one_step(&mut self, name: &str, input: Input, direct: Option<u64>) -> bool {
        let (now, reads_left) = (self.now, self.reads_left.take());
        let before = self.seen(name);
        let object = self.object(name);
        let is_control = name.starts_with("__ds/");
        let has_upkeep = direct.is_some() && is_control && reads_left.is_none();
        let upkeep = has_upkeep.then(|| object.upkeep(now)).flatten();
        let jobs = object.jobs.len();
        object.reads_left = reads_left;
        let Ok(turn) = object.step(now, input) else {
            self.end_calls_of(name, true);
            return false;
        };
        object.reads_left = None;
        if turn.writes.contains(&machine::Write::DropTables) {
            *self.ends.entry(name.to_owned()).or_default() += 1;
        }
        let after = self.seen(name);
        check_change(now, before.as_ref(), after.as_ref(), &self.settings.limits);
        if let Some(after) = &after {
            self.check_tails(after);
        }
        self.check_webhooks(name, jobs, after.as_ref());
        self.settle_turn(name, &turn, direct, (before, after, upkeep));
        true
    }

    /// Checks that a subscription knows of no more than streams have.
    fn check_tails(&self, seen: &Seen) {
        for (stream, link) in &seen.links {
            let (Some(incarnation), Some(known)) = (&link.incarnation, link.tail) else {
                continue;
            };
            if let Some((present, tail)) = self.tail(stream)
                && *incarnation == present
            {
                assert!(
                    known <= tail,
                    "{stream} has not been written as far as {known}"
                );
            }
        }
    }

    /// Returns the incarnation of a stream and its tail, if there is one, and its rows say it.
    fn tail(&self, stream: &str) -> Option<(String, Offset)> {
        let store = &self.objects.get(stream)?.store;
        let head = store.rows.head()?;
        if head.lineage.deleted_at.is_some() {
            return None;
        }
        let has_table = store.rows.table(HotTable::of(head.segment)).is_some();
        let last = has_table.then(|| {
            let rows = store.storage();
            rows.at_or_before(HotTable::of(head.segment), RowKey::LAST)
                .expect("a map can be read")
        });
        let tail = match (last.flatten(), head.segment.checked_sub(1)) {
            (Some(row), _) => Offset::new(head.segment, row.end()),
            (None, None) => Offset::START,
            (None, Some(sealed)) => {
                let segment = store
                    .rows
                    .segments()
                    .find(|segment| segment.number == sealed)?;
                Offset::new(sealed, segment.units)
            }
        };
        Some((head.incarnation.into(), tail))
    }

    /// Checks the webhooks that an object has sent since it had this many jobs.
    fn check_webhooks(&mut self, name: &str, jobs: usize, seen: Option<&Seen>) {
        let (now, limits) = (self.now, &self.settings.limits);
        let object = &self.objects[name];
        let webhooks = object
            .jobs
            .iter()
            .enumerate()
            .filter_map(|(at, job)| match job {
                EffectJob::Webhook { since, webhook, .. } => Some((at, *since, webhook)),
                EffectJob::Put { .. }
                | EffectJob::Upload { .. }
                | EffectJob::Collect { .. }
                | EffectJob::Call { .. }
                | EffectJob::Enqueue { .. }
                | EffectJob::Index { .. } => None,
            });
        let mut under_way = 0;
        for (at, since, webhook) in webhooks {
            let lost_at = since.plus(webhook.time_ms).plus(limits.webhook_grace_ms);
            under_way += u64::from(now < lost_at);
            if at >= jobs {
                let seen = seen.expect("only subscriptions send webhooks");
                self.judge.sent(now, name, webhook, seen, limits);
                assert_no_secret(&self.objects, webhook.body.as_bytes());
            }
        }
        let is_live = seen.is_some_and(Seen::is_live);
        assert!(under_way <= 1 || !is_live, "two webhooks are under way");
    }

    /// Judges the answers of a turn, and hands them to their callers.
    fn settle_turn(
        &mut self,
        name: &str,
        turn: &Turn,
        direct: Option<u64>,
        (before, after, upkeep): (Option<Seen>, Option<Seen>, Option<Vec<machine::Write>>),
    ) {
        let now = self.now;
        for effect in &turn.after_commit {
            let (id, answer) = match effect {
                Effect::Answer { call, answer } => (call.0, answer),
                Effect::Attach { call, subscriber } => (call.0, &subscriber.answer),
                Effect::Put(_)
                | Effect::Collect { .. }
                | Effect::Call { .. }
                | Effect::Index { .. }
                | Effect::Enqueue { .. }
                | Effect::Webhook { .. } => panic!("only answers are left: {effect:?}"),
            };
            let waiting = self.calls.remove(&id).expect("a call is answered once");
            assert_eq!(waiting.to, name, "another object answers");
            let body = self.object(name).body(now, answer).unwrap_or_default();
            if waiting.is_of_client {
                let is_alone = direct == Some(id) && turn.after_commit.len() == 1;
                let (origin, _) = target::split(&waiting.request.url);
                let is_local = ["localhost", "127.", "[::1]"].iter().any(|host| {
                    origin
                        .strip_prefix("http://")
                        .is_some_and(|rest| rest.starts_with(host))
                });
                let answered = Answered {
                    now,
                    to: name,
                    request: &waiting.request,
                    answer,
                    body: &body,
                    before: before.as_ref(),
                    after: after.as_ref(),
                    writes: &turn.writes,
                    upkeep: upkeep.as_deref().filter(|_| is_alone),
                    has_public_url: self.settings.public_url.is_some() || is_local,
                };
                self.judge.answered(&answered);
                assert_no_secret(&self.objects, &body);
            }
            let status = answer.status;
            let body = Bytes::from(body);
            self.tell(waiting.caller, CallOutcome::Answered { status, body });
        }
        if let Some(waiting) = direct.and_then(|id| self.calls.get(&id)) {
            let may_wait = name.starts_with(SUBSCRIPTIONS) || waiting.request.method == "PUT";
            let is_of_fork = waiting
                .request
                .header(internal_headers::FORK_CALL)
                .is_some();
            let is_of_session = waiting
                .request
                .header(internal_headers::SESSION_CALL)
                .is_some();
            assert!(
                may_wait || is_of_fork || is_of_session,
                "{:?} is not answered",
                waiting.request
            );
        }
    }

    fn tell(&mut self, caller: Option<Caller>, outcome: CallOutcome) {
        let Some(caller) = caller else { return };
        if caller.name == CONSUMER {
            self.queue.ended.push_back((caller.effect, outcome));
            return;
        }
        let is_done = matches!(
            outcome,
            CallOutcome::Answered {
                status: 200..=299,
                ..
            }
        );
        if is_done {
            self.refused.remove(&caller.name);
        } else {
            self.refused.insert(caller.name.clone());
        }
        self.reports.push_back(Report {
            name: caller.name,
            instance: caller.instance,
            input: Input::CallFinished {
                effect: caller.effect,
                outcome,
            },
        });
    }

    /// Returns the object and the place of a job: the one with this number of those that count.
    fn find_job(
        &self,
        number: usize,
        counts: impl Fn(&EffectJob) -> bool,
    ) -> Option<(String, usize)> {
        let jobs: Vec<_> = self
            .objects
            .iter()
            .flat_map(|(name, object)| {
                let places = object.jobs.iter().enumerate();
                places
                    .filter(|(_, job)| counts(job))
                    .map(move |(at, _)| (name, at))
            })
            .collect();
        let (name, at) = jobs.get(number.checked_rem(jobs.len())?)?;
        Some(((*name).clone(), *at))
    }

    /// Ends one of the effects under way with this outcome. A call can arrive twice.
    pub(super) fn run_job(&mut self, number: usize, outcome: Outcome, is_twice: bool) {
        let is_other = |job: &EffectJob| !matches!(job, EffectJob::Webhook { .. });
        let Some((name, at)) = self.find_job(number, is_other) else {
            return;
        };
        let now = self.now;
        let object = self.object(&name);
        let job = object.jobs.remove(at);
        if let EffectJob::Call {
            effect,
            to,
            request,
        } = job
        {
            let caller = Caller {
                instance: object.instance(),
                name,
                effect,
            };
            if is_twice {
                self.deliver(to.clone(), request.clone(), None);
            }
            return self.run_call(caller, to, request, outcome);
        }
        if let EffectJob::Enqueue { effect, messages } = job {
            return self.enqueue(&name, effect, messages, outcome);
        }
        if let Some(input) = job.carry_out(outcome, now, object) {
            self.step(&name, input, None);
        }
    }

    fn run_call(&mut self, caller: Caller, to: String, request: outbox::Request, outcome: Outcome) {
        let (awaited, other) = if outcome == Outcome::Done {
            (Some(caller), None)
        } else {
            (None, Some(caller))
        };
        if outcome.takes_effect() {
            self.deliver(to, request, awaited);
        }
        if other.is_some() && outcome.is_reported() {
            self.tell(other, CallOutcome::Failed);
            self.report_all();
        }
    }

    /// Carries out calls until none is left.
    pub(super) fn carry_out_calls(&mut self) {
        for _ in 0..CALLS_MAX {
            let is_call =
                |job: &EffectJob| matches!(job, EffectJob::Call { .. } | EffectJob::Enqueue { .. });
            let Some((name, at)) = self.find_job(0, is_call) else {
                return;
            };
            let object = self.object(&name);
            let (instance, job) = (object.instance(), object.jobs.remove(at));
            if let EffectJob::Enqueue { effect, messages } = job {
                self.enqueue(&name, effect, messages, Outcome::Done);
            } else if let EffectJob::Call {
                effect,
                to,
                request,
            } = job
            {
                let caller = Caller {
                    name,
                    instance,
                    effect,
                };
                self.deliver(to, request, Some(caller));
            }
        }
    }

    /// Answers a call with an error, without the called object.
    pub(super) fn refuse_call(&mut self, number: usize, status: u16) {
        let is_call = |job: &EffectJob| matches!(job, EffectJob::Call { .. });
        let Some((name, at)) = self.find_job(number, is_call) else {
            return;
        };
        if let EffectJob::Call { effect, .. } = self.object(&name).jobs.remove(at) {
            let body = Bytes::from_static(b"{\"error\":{}}");
            let outcome = CallOutcome::Answered { status, body };
            self.step(&name, Input::CallFinished { effect, outcome }, None);
        }
    }

    /// Ends a webhook.
    pub(super) fn receive(&mut self, number: usize, receipt: Receipt) {
        let is_webhook = |job: &EffectJob| matches!(job, EffectJob::Webhook { .. });
        let Some((name, at)) = self.find_job(number, is_webhook) else {
            return;
        };
        let EffectJob::Webhook { effect, .. } = self.object(&name).jobs.remove(at) else {
            unreachable!("it is a webhook");
        };
        let outcome = match receipt {
            Receipt::Answers(status, body) => CallOutcome::Answered {
                status,
                body: body.into(),
            },
            Receipt::Fails => CallOutcome::Failed,
            Receipt::Vanishes => return,
        };
        self.step(&name, Input::CallFinished { effect, outcome }, None);
    }

    /// Delivers a request of a former instance, or retries a delivery if there is no such
    /// request.
    pub(super) fn deliver_stray(&mut self, number: usize) {
        match number.checked_rem(self.strays.len()) {
            Some(at) => {
                let (to, request) = self.strays.remove(at);
                self.deliver(to, request, None);
            }
            // Without such a request, an operator retries a delivery.
            None => self.retry(number),
        }
    }

    /// Delivers a request of one object to another.
    pub(super) fn deliver(&mut self, to: String, request: outbox::Request, caller: Option<Caller>) {
        let request = Request {
            method: request.method,
            url: outbox::url(&to),
            headers: request.headers,
            body: request.body.into(),
        };
        let (origin, _) = target::split(&request.url);
        let call = request.parse_below(origin, &self.settings.limits);
        let call = call.expect("objects send valid requests");
        check_round_trip(&request, &call);
        self.hand_over(to, request, call, caller, false);
    }

    /// Handles a client's request as the router and the object do.
    pub(super) fn take(&mut self, request: Request) {
        let header = |name: &str| request.header(name);
        let (origin, target) = target::split(&request.url);
        let head = RequestHead {
            method: &request.method,
            origin,
            target,
            header: &header,
        };
        let to = match router::route(head, self.now, &self.settings) {
            Route::Answered(answer) => {
                // The parser must withstand even what the router refuses.
                let _ = request.parse(&self.settings.limits);
                return check_common(&request, &answer, &body_of(&answer), false);
            }
            Route::Stream(to) => to,
        };
        let mut headers = request.headers.clone();
        for name in internal_headers::ALL {
            headers.retain(|(given, _)| !given.eq_ignore_ascii_case(name));
            let value = to.internal_header(name);
            headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        }
        let base = self.settings.location_base(origin).to_owned();
        let request = Request { headers, ..request };
        match request.parse_below(&base, &self.settings.limits) {
            Ok(call) => self.hand_over(to.name, request, call, None, true),
            Err(refusal) => {
                let answer = Answer::refusal(&refusal);
                check_common(&request, &answer, &body_of(&answer), false);
            }
        }
        if self.is_eager {
            self.carry_out_calls();
        }
    }

    fn hand_over(
        &mut self,
        to: String,
        request: Request,
        call: Call,
        caller: Option<Caller>,
        is_of_client: bool,
    ) {
        let number = self.objects.len() as u64;
        let (limits, cold) = (&self.settings.limits, &self.cold);
        self.objects.entry(to.clone()).or_insert_with(|| {
            let mut object = Object::new(Arc::clone(limits));
            object.cold = Cold::clone(cold);
            object.first_seed = number * SEEDS_OF_AN_OBJECT;
            object
        });
        self.next_call += 1;
        let id = self.next_call;
        let waiting = Waiting {
            to: to.clone(),
            request,
            caller,
            is_of_client,
        };
        self.calls.insert(id, waiting);
        let input = Input::Call {
            id: CallId(id),
            call,
        };
        self.step(&to, input, Some(id));
    }

    /// Hands over a request that the router has made of another one.
    pub(super) fn hand_over_from_router(&mut self, to: String, request: Request) {
        let call = request.parse(&self.settings.limits);
        let call = call.expect("the router sends valid requests");
        self.hand_over(to, request, call, None, false);
    }

    /// Lets everything come to rest, without further failures, and checks that no subscription has
    /// missed anything.
    pub(super) fn settle(&mut self) {
        self.reads_left = None;
        self.strays.clear();
        self.refused.clear();
        let mut rounds_of_refused = 0;
        for _ in 0..ROUNDS_MAX {
            self.carry_out_all();
            let alarm = |is_refused: bool| {
                let objects = self.objects.iter();
                let objects =
                    objects.filter(|(name, _)| self.refused.contains(*name) == is_refused);
                objects.filter_map(|(_, object)| object.alarm).min()
            };
            // What is refused for ever must not keep the others from their rest.
            let next = alarm(false).or_else(|| {
                rounds_of_refused += 1;
                alarm(true).filter(|_| rounds_of_refused <= ROUNDS_OF_REFUSED_MAX)
            });
            let Some(next) = next else {
                break;
            };
            self.now = self.now.max(next);
            self.wait(0);
        }
        self.carry_out_all();
        let mut is_quiet = true;
        for (name, object) in &self.objects {
            let is_at_rest = object.alarm.is_none();
            is_quiet &= is_at_rest;
            assert!(
                is_at_rest || self.refused.contains(name),
                "{name} does not come to rest"
            );
        }
        if is_quiet {
            let waiting = self.calls.values().find(|waiting| waiting.is_of_client);
            let waiting = waiting.map(|waiting| &waiting.request);
            assert!(waiting.is_none(), "{waiting:?} is not answered");
            self.check_links();
            self.check_ends();
        }
        self.look_around(is_quiet);
    }

    /// Checks that no session is left, because all of them have expired by now, and that no stream
    /// has one.
    fn check_ends(&self) {
        for (object, place) in &self.objects {
            for (key, _) in place.store.rows.control() {
                let is_of_session = ["subscribed/", "follower", "expired"]
                    .iter()
                    .any(|prefix| key.starts_with(prefix));
                assert!(!is_of_session, "{object} still has {key}");
            }
        }
    }

    fn carry_out_all(&mut self) {
        self.consume();
        for _ in 0..CALLS_MAX {
            if self.find_job(0, |_| true).is_none() {
                return;
            }
            self.run_job(0, Outcome::Done, false);
            let is_done = br#"{"done":true}"#.to_vec();
            self.receive(0, Receipt::Answers(200, is_done));
        }
    }

    /// Returns whether a stream has linked a subscription, and has nothing to tell it yet.
    fn waits(&self, stream: &str, subscription: &str, seen: &Seen) -> bool {
        let id = subscription.strip_prefix(SUBSCRIPTIONS).unwrap_or_default();
        let key = format!("link/{id}/{}", seen.incarnation);
        let mut rows = self.objects[stream].store.rows.control();
        let Some((_, row)) = rows.find(|(each, _)| *each == key) else {
            return false;
        };
        let row: Value = serde_json::from_str(row).expect("a row is JSON");
        let told = row["told"]["offset"].as_str().map(|told| told.parse());
        let told = told.and_then(Result::ok).unwrap_or(Offset::START);
        self.tail(stream).is_some_and(|(_, tail)| tail <= told)
    }

    /// Checks that each subscription follows the streams that it should, and knows all of them.
    fn check_links(&self) {
        let limits = &self.settings.limits;
        let names = self.objects.keys().filter(|name| !name.starts_with("__"));
        let streams: Vec<_> = names.filter(|name| self.tail(name).is_some()).collect();
        for (name, object) in &self.objects {
            let Some(seen) = Seen::read(&object.store.rows).filter(Seen::is_live) else {
                continue;
            };
            assert!(seen.is_ready, "{name} is never ready");
            let matches = |stream: &str| {
                let pattern = seen.pattern.as_deref();
                pattern.is_some_and(|pattern| glob::matches(pattern, stream))
                    && seen.wake_stream.as_deref() != Some(stream)
            };
            let is_bounded = limits.subscription_links_max < streams.len() as u64 + 16
                || limits.stream_links_max < self.objects.len() as u64;
            for stream in &streams {
                let is_known = seen.links.contains_key(*stream) || self.waits(stream, name, &seen);
                assert!(
                    is_known || is_bounded || !matches(stream),
                    "{name} misses {stream}"
                );
            }
            for (stream, link) in &seen.links {
                assert!(link.is_explicit || matches(stream), "{name} has {stream}");
                assert!(!link.is_linking, "{name} still links {stream}");
                // Those that hold say nothing before the wake has ended.
                let waits = seen.wake_stream.is_some() && seen.wake.is_some();
                if let Some((incarnation, tail)) = self.tail(stream)
                    && !waits
                {
                    assert_eq!(
                        link.incarnation.as_ref(),
                        Some(&incarnation),
                        "{name} {stream}"
                    );
                    assert!(link.place() >= tail, "{name} does not hear of {stream}");
                }
            }
        }
    }
}

pub(super) fn body_of(answer: &Answer) -> Vec<u8> {
    match &answer.body {
        Body::Bytes(bytes) => bytes.clone(),
        Body::Empty | Body::Plan(_) => Vec::new(),
    }
}

/// Checks that a call between objects is the same after it is written again.
fn check_round_trip(request: &Request, call: &Call) {
    let (header, again) = match call {
        Call::Link(call) => (internal_headers::LINK_CALL, serde_json::to_string(call)),
        Call::Control(ControlCall::Notify(notify)) => (
            internal_headers::CONTROL_CALL,
            serde_json::to_string(notify),
        ),
        Call::Control(ControlCall::Directory(call)) => {
            (internal_headers::CONTROL_CALL, serde_json::to_string(call))
        }
        Call::Session(call) => (internal_headers::SESSION_CALL, serde_json::to_string(call)),
        Call::Control(_)
        | Call::Create(_)
        | Call::Append(_)
        | Call::Metadata
        | Call::Read(_)
        | Call::Delete(_)
        | Call::Fork(_)
        | Call::Admin(_) => return,
    };
    assert_eq!(request.header(header), again.ok());
}

/// Checks that none of the objects' secrets is in what leaves.
fn assert_no_secret(objects: &BTreeMap<String, Object>, bytes: &[u8]) {
    for object in objects.values() {
        for secret in object.secrets.borrow().iter() {
            let encoded = BASE64_URL_SAFE_NO_PAD.encode(secret);
            let listed = serde_json::to_vec(secret).expect("numbers are JSON");
            for needle in [encoded.as_bytes(), &listed[1..listed.len() - 1], secret] {
                let is_there = bytes.windows(needle.len()).any(|window| window == needle);
                assert!(!is_there, "a secret leaves");
            }
        }
    }
}
