//! All streams that the requests name, their clock, and the effects between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use machine::admin::{
    self, AdminRoute, Assertion, FoundKey, Listed, Service, TeamKeys, ToObject, Traffic,
};
use machine::outbox;
use machine::router::page::{self, Page};
use machine::router::{self, Route, Settings, target};
use machine::rows::Incarnation as IncarnationId;
use machine::wire::internal_headers;
use machine::wire::request::RequestHead;
use machine::{
    Answer, Body, Call, CallId, CallOutcome, Effect, EffectId, ForkCall, Input, Millis, Turn,
};
use sim::cold_tier;

use super::latin;
use super::stream::{Named, Source, check, check_common};
use super::wire::Request;
use super::{ALARMS_MAX, ROUNDS_MAX};
use crate::effects::{EffectJob, Outcome};
use crate::object::{Cold, Object};

/// A small number, so that busy streams push others out.
const STREAMS_COUNTED: usize = 4;

/// Instances of different streams get different seeds.
const SEEDS_OF_A_STREAM: u64 = 1 << 32;

pub(super) struct Server {
    pub(super) settings: Settings,
    pub(super) now: Millis,
    /// How many reads succeed in the next turn.
    pub(super) reads_left: Option<u64>,
    objects: BTreeMap<String, Named>,
    cold: Cold,
    /// The calls that are not answered yet.
    calls: BTreeMap<u64, Waiting>,
    traffic: Traffic,
    team_keys: TeamKeys,
    next_call: u64,
    /// Outcomes that have not been reported to their instances yet.
    reports: VecDeque<Report>,
}

/// A call that is not answered yet.
struct Waiting {
    /// The name of the called object.
    to: String,
    request: Request,
    call: Call,
    /// The effect that is the call. `None` if a client has sent it, or the caller has ended.
    caller: Option<Caller>,
    /// The length of the source when the call came, if it creates a fork.
    source: Option<(IncarnationId, u64)>,
}

struct Caller {
    name: String,
    instance: Option<u64>,
    effect: EffectId,
}

struct Report {
    name: String,
    /// The instance that began the effect. Another one does not get the report.
    instance: Option<u64>,
    input: Input,
}

impl Server {
    pub(super) fn new(settings: Settings, now: Millis) -> Self {
        Self {
            settings,
            now,
            reads_left: None,
            objects: BTreeMap::new(),
            cold: Cold::default(),
            calls: BTreeMap::new(),
            traffic: Traffic::new(now, STREAMS_COUNTED),
            team_keys: TeamKeys::default(),
            next_call: 0,
            reports: VecDeque::new(),
        }
    }

    /// Carries out a record that is a command. Returns whether it is one.
    pub(super) fn direct(&mut self, record: &[u8]) -> bool {
        let text = latin(record.get(..32).unwrap_or(record));
        let Some((word, number)) = text.split_once(' ') else {
            return false;
        };
        let number = number.trim().parse().unwrap_or(0);
        let outcome = Outcome::ALL.into_iter().find(|(name, _)| *name == word);
        match (word, outcome) {
            ("SLEEP", _) => {
                self.sleep();
                self.wait(number);
            }
            ("WAIT", _) => self.wait(number),
            ("FAIL", _) => self.reads_left = Some(number),
            ("ANSWERED", _) => self.answer_call(u16::try_from(number).unwrap_or(500)),
            (_, Some((_, outcome))) => self.run_job(number, outcome),
            _ => return false,
        }
        true
    }

    /// Ends all instances, and with them the calls that wait.
    pub(super) fn sleep(&mut self) {
        self.objects
            .values_mut()
            .for_each(|named| named.object.sleep());
        self.calls.clear();
    }

    pub(super) fn wait(&mut self, milliseconds: u64) {
        self.now = self.now.plus(milliseconds % (1 << 40));
        let names: Vec<_> = self.objects.keys().cloned().collect();
        for name in names {
            for _ in 0..ALARMS_MAX {
                let now = self.now;
                let object = self.objects.get_mut(&name).map(|named| &mut named.object);
                let object = object.expect("no object is ever removed");
                let Some(at) = object.alarm.take_if(|at| *at <= now) else {
                    break;
                };
                if !self.step(&name, Input::Alarm, None) {
                    // The platform tries again.
                    self.object(&name).alarm = Some(at);
                }
            }
        }
    }

    fn object(&mut self, name: &str) -> &mut Object {
        let named = self.objects.get_mut(name);
        &mut named.expect("no object is ever removed").object
    }

    /// Lets an object take a turn, and tells everybody of its answers. Returns whether its storage
    /// could be read. `direct` is the call of the input, if it is one.
    fn step(&mut self, name: &str, input: Input, direct: Option<u64>) -> bool {
        let done = self.one_step(name, input, direct);
        while let Some(report) = self.reports.pop_front() {
            if self.object(&report.name).instance() == report.instance {
                self.one_step(&report.name, report.input, None);
            }
        }
        done
    }

    fn one_step(&mut self, name: &str, input: Input, direct: Option<u64>) -> bool {
        let (now, reads_left) = (self.now, self.reads_left.take());
        let object = self.object(name);
        object.reads_left = reads_left;
        match object.step(now, input) {
            Ok(turn) => {
                self.settle_turn(name, &turn, direct);
                true
            }
            Err(unreadable) => {
                let lost = self.calls.extract_if(.., |_, waiting| waiting.to == name);
                for (_, waiting) in lost.collect::<Vec<_>>() {
                    let answer = Answer::internal(&unreadable.to_string());
                    check(&waiting.request, &answer, b"");
                    self.tell(waiting.caller, answer.status, Bytes::new());
                }
                false
            }
        }
    }

    /// Judges the answers of a turn, and hands them to their callers.
    fn settle_turn(&mut self, name: &str, turn: &Turn, direct: Option<u64>) {
        let now = self.now;
        self.traffic.record(now, name, turn.appended);
        let named = self.objects.get_mut(name);
        named.expect("no object is ever removed").note_removal(turn);
        for effect in &turn.after_commit {
            let (Effect::Answer { call: id, .. } | Effect::Attach { call: id, .. }) = effect else {
                panic!("only answers are left: {effect:?}");
            };
            let waiting = self.calls.remove(&id.0);
            let waiting = waiting.expect("a call is answered once");
            assert_eq!(waiting.to, name, "another object answers");
            // Only then has the turn nothing to do with other calls.
            let is_alone = direct == Some(id.0) && turn.after_commit.len() == 1;
            let is_created =
                matches!(effect, Effect::Answer { answer, .. } if answer.status == 201);
            let source = if is_created {
                self.source(name, &waiting)
            } else {
                None
            };
            let named = self.objects.get_mut(name);
            let named = named.expect("no object is ever removed");
            let answer = named.answered(
                now,
                (&waiting.request, &waiting.call),
                effect,
                turn,
                is_alone,
                source,
            );
            let body = match &answer.body {
                Body::Bytes(bytes) => bytes.clone().into(),
                Body::Empty | Body::Plan(_) => Bytes::new(),
            };
            self.tell(waiting.caller, answer.status, body);
        }
        if let Some(waiting) = direct.and_then(|id| self.calls.get(&id)) {
            let may_wait = matches!(
                waiting.call,
                Call::Create(_) | Call::Fork(ForkCall::Pin { .. })
            );
            assert!(may_wait, "a call is answered in its turn");
        }
    }

    fn tell(&mut self, caller: Option<Caller>, status: u16, body: Bytes) {
        let Some(caller) = caller else { return };
        let outcome = CallOutcome::Answered { status, body };
        self.reports.push_back(Report {
            name: caller.name,
            instance: caller.instance,
            input: Input::CallFinished {
                effect: caller.effect,
                outcome,
            },
        });
    }

    /// Returns what is known of the source of a fork that has just been created.
    fn source(&self, name: &str, waiting: &Waiting) -> Option<Source> {
        let Call::Create(create) = &waiting.call else {
            return None;
        };
        let asked = create.fork.as_ref()?;
        let head = self.objects.get(name)?.object.store.rows.head()?;
        let fork = head.lineage.fork.as_ref()?;
        assert_eq!(
            fork.source, asked.source,
            "a fork of the stream that was asked for"
        );
        let named = self.objects.get(&fork.source);
        let named = named.expect("a source is there");
        let incarnation = named.of(fork.incarnation);
        let incarnation = incarnation.expect("a source was created once");
        let known = waiting.source.filter(|(id, _)| *id == fork.incarnation);
        Some(Source {
            content: incarnation.clone(),
            length_then: known.map_or(0, |(_, length)| length),
        })
    }

    /// Ends one of the effects under way with this outcome.
    pub(super) fn run_job(&mut self, number: u64, outcome: Outcome) {
        let count = |named: &Named| named.object.jobs.len() as u64;
        let total: u64 = self.objects.values().map(count).sum();
        let Some(mut at) = number.checked_rem(total) else {
            return;
        };
        let owner = self.objects.iter().find(|(_, named)| {
            let is_here = at < count(named);
            at -= if is_here { 0 } else { count(named) };
            is_here
        });
        let Some(name) = owner.map(|(name, _)| name.clone()) else {
            return;
        };
        let now = self.now;
        let object = self.object(&name);
        let job = object.jobs.remove(at as usize);
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
            return self.run_call(caller, to, request, outcome);
        }
        let report = job.carry_out(outcome, now, object);
        self.check_kept();
        if let Some(input) = report {
            self.step(&name, input, None);
        }
    }

    fn run_call(&mut self, caller: Caller, to: String, request: outbox::Request, outcome: Outcome) {
        let is_told = outcome == Outcome::Done;
        let (awaited, other) = if is_told {
            (Some(caller), None)
        } else {
            (None, Some(caller))
        };
        if outcome.takes_effect() {
            self.deliver(to, request, awaited);
        }
        if let Some(caller) = other.filter(|_| outcome.is_reported()) {
            let outcome = CallOutcome::Failed;
            let effect = caller.effect;
            if self.object(&caller.name).instance() == caller.instance {
                self.step(&caller.name, Input::CallFinished { effect, outcome }, None);
            }
        }
    }

    /// Answers the first call on its way with this status, without the called object.
    pub(super) fn answer_call(&mut self, status: u16) {
        let is_call = |job: &EffectJob| matches!(job, EffectJob::Call { .. });
        let first = self.objects.iter_mut().find_map(|(name, named)| {
            let jobs = &mut named.object.jobs;
            let at = jobs.iter().position(is_call)?;
            Some((name.clone(), jobs.remove(at)))
        });
        if let Some((name, EffectJob::Call { effect, .. })) = first {
            let body = Bytes::new();
            let outcome = CallOutcome::Answered { status, body };
            self.step(&name, Input::CallFinished { effect, outcome }, None);
        }
    }

    /// Delivers a request to the object of a stream.
    fn deliver(&mut self, to: String, request: outbox::Request, caller: Option<Caller>) {
        let url = outbox::url(&to);
        let request = Request {
            method: request.method,
            url,
            headers: request.headers,
            body: request.body.into(),
        };
        self.hand_over(to, request, caller);
    }

    /// Carries out all remaining work without a failure. Returns whether it came to an end.
    pub(super) fn settle(&mut self) -> bool {
        self.reads_left = None;
        for _ in 0..ROUNDS_MAX {
            while self
                .objects
                .values()
                .any(|named| !named.object.jobs.is_empty())
            {
                self.run_job(0, Outcome::Done);
            }
            let alarms = self.objects.values().filter_map(|named| named.object.alarm);
            let Some(next) = alarms.min() else {
                return true;
            };
            self.now = self.now.max(next);
            self.wait(0);
        }
        false
    }

    /// Checks that no object is deleted that a stream or a fork needs.
    fn check_kept(&self) {
        let cold = self.cold.borrow();
        let missing = self
            .objects
            .values()
            .flat_map(|named| cold_tier::referenced(&named.object.store.rows))
            .find(|key| !cold.contains_key(key));
        assert_eq!(missing, None, "an object is missing");
    }

    /// Checks that nothing is kept without a reference to it.
    pub(super) fn check_leftovers(&self) {
        let mut referenced = BTreeSet::new();
        for (name, named) in &self.objects {
            let object = &named.object;
            assert!(
                !object.has_no_stream() || object.is_empty(),
                "{name} leaves rows"
            );
            let rows = &object.store.rows;
            referenced.extend(cold_tier::referenced(rows));
            let Some(head) = rows.head() else { continue };
            let pins = rows.pins().filter(|pin| pin.released_at.is_none());
            let pins: BTreeSet<_> = pins.map(|pin| pin.fork).collect();
            let others = self.objects.values();
            let heads = others.filter_map(|other| other.object.store.rows.head());
            let forks = heads.filter(|other| {
                let fork = other.lineage.fork.as_ref();
                let is_of =
                    |id| fork.is_some_and(|fork| fork.source == *name && fork.incarnation == id);
                is_of(head.incarnation)
            });
            let forks: BTreeSet<_> = forks.map(|fork| fork.incarnation).collect();
            assert_eq!(pins, forks, "{name} is pinned by its forks");
            assert!(!object.is_hidden() || !pins.is_empty(), "{name} is left");
        }
        let there: BTreeSet<_> = self.cold.borrow().keys().cloned().collect();
        assert_eq!(there, referenced, "the cold tier has what rows refer to");
    }

    /// Checks that nobody waits for an answer when all work is done.
    pub(super) fn check_answered(&self) {
        let waiting = self.calls.values().next();
        let waiting = waiting.map(|waiting| (&waiting.to, &waiting.request));
        assert!(waiting.is_none(), "{waiting:?} is not answered");
    }

    /// Handles a request as the router and the object do.
    pub(super) fn take(&mut self, request: &Request) {
        let header = |name: &str| request.header(name);
        let (origin, target) = target::split(&request.url);
        let head = RequestHead {
            method: &request.method,
            origin,
            target,
            header: &header,
        };
        check_page(request, target);
        let callers = [
            admin::Caller::Platform {
                now: self.now,
                proof: admin::Proof::Unchecked,
            },
            admin::Caller::Connection { is_loopback: true },
            admin::Caller::Connection { is_loopback: false },
        ];
        let routes = callers.map(|caller| admin::route(head, caller, &self.settings));
        let is_refused =
            |route: &Option<AdminRoute>| matches!(route, Some(AdminRoute::Answered(_)));
        let route = routes.iter().find(|route| !is_refused(route));
        if let Some(route) = route.unwrap_or(&routes[0]).clone() {
            let route = if let AdminRoute::Verify(assertion) = route {
                self.verified(head, &assertion)
            } else {
                route
            };
            return self.take_of_operator(request, route);
        }
        let to = match router::route(head, self.now, &self.settings) {
            Route::Answered(answer) => {
                // The parser must withstand even what the router refuses.
                let _ = request.parse(&self.settings.limits);
                return check(request, &answer, b"");
            }
            Route::Stream(to) => to,
        };
        // A client's internal headers never reach the object.
        let mut headers = request.headers.clone();
        if to.is_direct() {
            let is_changed = to.live || to.timing || to.needs_cors;
            assert!(!is_changed, "the answer needs something from the router");
        }
        for name in internal_headers::ALL {
            headers.retain(|(given, _)| !given.eq_ignore_ascii_case(name));
            let value = to.internal_header(name);
            headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        }
        let handed = Request {
            method: request.method.clone(),
            url: request.url.clone(),
            headers,
            body: request.body.clone(),
        };
        let limits = &self.settings.limits;
        if let Ok(Call::Read(read)) = handed.parse(limits) {
            assert_eq!(
                to.live,
                read.live.is_some(),
                "the router offers a connection to live reads"
            );
        }
        self.hand_over(to.name, handed, None);
    }

    /// Routes a request again with what is known of the signature of its token. The team has all
    /// keys whose names begin with `k`, and each of them signs with its name. Its keys cannot be
    /// fetched for one whose name begins with `x`.
    fn verified(&mut self, head: RequestHead<'_>, assertion: &Assertion) -> AdminRoute {
        let access = self.settings.access.as_ref();
        let url = access.expect("only a team has tokens").keys_url();
        assert!(url.starts_with("https://") && url.ends_with("/certs"));
        let (now, limits) = (self.now, &self.settings.limits);
        let is_held = assertion.key_id.starts_with('k');
        let mut found = self.team_keys.find(now, is_held, true, limits);
        if found == FoundKey::Fetch {
            if !assertion.key_id.starts_with('x') {
                self.team_keys.fetched(now);
            }
            found = self.team_keys.find(now, is_held, false, limits);
        }
        let proof = match found {
            FoundKey::Known if assertion.signature == assertion.key_id.as_bytes() => "valid",
            FoundKey::Known => "wrong",
            FoundKey::Unknown => "unknown",
            FoundKey::Unavailable => "unavailable",
            FoundKey::Fetch => unreachable!("they were fetched"),
        };
        let proof = admin::Proof::from_name(proof).expect("it is the name of a proof");
        let caller = admin::Caller::Platform { now, proof };
        let route = admin::route(head, caller, &self.settings);
        let route = route.expect("it is a path of the admin API");
        if let AdminRoute::Verify(_) = route {
            panic!("the signature was checked");
        }
        if proof == admin::Proof::Valid {
            let again = admin::route(head, admin::Caller::Admitted, &self.settings);
            assert_eq!(again.as_ref(), Some(&route), "it was admitted before");
        }
        route
    }

    /// Handles a request of the admin API as a process with all streams does.
    fn take_of_operator(&mut self, request: &Request, route: AdminRoute) {
        let answer = match route {
            AdminRoute::Stream(to) => return self.hand_over_for_operator(request, to),
            AdminRoute::Answered(answer) => answer,
            AdminRoute::Verify(_) => unreachable!("the signature was checked"),
            AdminRoute::Counts(counts) => {
                let analytics = self.settings.analytics.as_ref();
                let analytics = analytics.expect("only an account can be asked");
                assert!(analytics.url().starts_with("https://"));
                assert!(!format!("{analytics:?}").contains(&analytics.token));
                let quotes = counts.sql(self.now).matches('\'').count();
                assert!(matches!(quotes, 6 | 8), "a name stays within its quotes");
                // What the service answers comes with the request.
                let answer = String::from_utf8_lossy(&request.body);
                match counts.answer(self.now, &answer) {
                    Some(answer) => answer,
                    None => Answer::unavailable(&self.settings.limits),
                }
            }
            AdminRoute::List(listing) => {
                let asked = listing.statement().values;
                assert_eq!(
                    asked.len(),
                    3,
                    "the index is asked for a range and a number"
                );
                let range = listing.from.clone()..listing.before.clone();
                let names = if range.is_empty() {
                    Vec::new()
                } else {
                    let named = self.objects.range(range);
                    let most = usize::try_from(listing.names_read()).unwrap_or(usize::MAX);
                    let listed = |(name, named): (&String, &Named)| {
                        Listed::of_rows(name.clone(), named.object.store.rows.head())
                    };
                    named.take(most).map(listed).collect()
                };
                listing.answer(self.now, names)
            }
            AdminRoute::ListSubscriptions(listing) => {
                let questions = listing.questions();
                let outcomes = questions.map(|(to, question)| {
                    assert!(to.starts_with("__ds/directory/"), "{to}");
                    let headers = &question.headers;
                    assert!(headers.iter().all(|(_, value)| value.is_ascii()));
                    // What all shards answer comes with the request.
                    CallOutcome::Answered {
                        status: 200,
                        body: request.body.clone(),
                    }
                });
                listing.answer(&outcomes.collect::<Vec<_>>(), &self.settings.limits)
            }
            AdminRoute::Hot { minutes, limit } => self.traffic.hot(self.now, minutes, limit),
            AdminRoute::System => self.traffic.system(self.now, 0),
            AdminRoute::Health => {
                let services = self.objects.keys().take(2).enumerate();
                let services: Vec<_> = services
                    .map(|(index, _)| Service {
                        name: ["storage", "cold"][index],
                        latency_ms: index as u64,
                        error: (index > 0).then(|| "it does not answer".to_owned()),
                    })
                    .collect();
                admin::health(self.now, &services)
            }
        };
        let Body::Bytes(body) = &answer.body else {
            return check(request, &answer, b"");
        };
        check_common(request, &answer, body, true);
    }

    fn hand_over_for_operator(&mut self, request: &Request, to: ToObject) {
        let mut headers = request.headers.clone();
        headers.retain(|(name, _)| to.replaced(name).is_none());
        let replaced = to.replaced_names().filter_map(|name| {
            let value = to.replaced(name)??;
            Some((name.to_owned(), value.to_owned()))
        });
        headers.extend(replaced);
        let body = if to.has_body() {
            request.body.clone()
        } else {
            Bytes::new()
        };
        let handed = Request {
            method: to.method.to_owned(),
            url: format!("https://host{}", to.target()),
            headers,
            body,
        };
        self.hand_over(to.name, handed, None);
    }

    /// Passes a request to the object of this name.
    fn hand_over(&mut self, to: String, request: Request, caller: Option<Caller>) {
        let limits = &self.settings.limits;
        let call = match request.parse(limits) {
            Ok(call) => call,
            Err(refusal) => {
                let answer = Answer::refusal(&refusal);
                check(&request, &answer, b"");
                return self.tell(caller, answer.status, Bytes::new());
            }
        };
        if !matches!(call, Call::Fork(_) | Call::Admin(_) | Call::Session(_)) {
            let base = request.url.split(['?', '#']).next().unwrap_or_default();
            if matches!(call, Call::Control(_)) {
                return;
            }
            let again = Request::print(&call, base).parse(limits);
            assert_eq!(again.as_ref(), Ok(&call), "a call survives being printed");
        }
        let source = if let Call::Create(create) = &call {
            create.fork.as_ref()
        } else {
            None
        };
        let source = source.and_then(|fork| self.objects.get(&fork.source)?.extent());
        let number = self.objects.len() as u64;
        let cold = &self.cold;
        self.objects.entry(to.clone()).or_insert_with(|| {
            let mut object = Object::new(Arc::clone(limits));
            object.cold = Cold::clone(cold);
            object.first_seed = number * SEEDS_OF_A_STREAM;
            Named {
                object,
                incarnation: None,
                former: Vec::new(),
                pages: BTreeMap::new(),
            }
        });
        self.next_call += 1;
        let id = self.next_call;
        let waiting = Waiting {
            to: to.clone(),
            request,
            call: call.clone(),
            caller,
            source,
        };
        self.calls.insert(id, waiting);
        let input = Input::Call {
            id: CallId(id),
            call,
        };
        self.step(&to, input, Some(id));
    }

    pub(super) fn read_all(&mut self) {
        let now = self.now;
        for named in self.objects.values_mut() {
            named.read_all(now);
        }
        // Its instances have ended.
        self.calls.clear();
    }
}

/// Checks what the admin page answers, if the request is for it.
fn check_page(request: &Request, target: &str) {
    match page::page(&request.method, target) {
        None => {}
        Some(Page::Answered(answer)) => check(request, &answer, b""),
        Some(Page::File(file)) => {
            let is_plain = |name: &str| !name.is_empty() && name != ".." && name != ".";
            assert!(file.path.split('/').all(is_plain), "{}", file.path);
            let headers = file.headers();
            assert!(headers.iter().any(|(name, _)| *name == "Cache-Control"));
            let missing = file.missing(&request.method, "the command");
            assert_eq!(missing.status, 404);
            assert!(missing.header("Cache-Control").is_some());
        }
    }
}
