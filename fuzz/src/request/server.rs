//! All streams that the requests name, their clock, and the effects between them.

use std::collections::BTreeMap;

use bytes::Bytes;
use machine::outbox;
use machine::router::{self, Route, Settings, target};
use machine::wire::internal_headers;
use machine::wire::request::RequestHead;
use machine::{Answer, Call, CallOutcome, Input, Millis};

use super::latin;
use super::stream::{Named, check};
use super::wire::Request;
use super::{ALARMS_MAX, ROUNDS_MAX};
use crate::effects::{EffectJob, Outcome};
use crate::object::Object;

pub(super) struct Server {
    pub(super) settings: Settings,
    pub(super) now: Millis,
    /// How many reads succeed in the next turn.
    pub(super) reads_left: Option<u64>,
    pub(super) objects: BTreeMap<String, Named>,
}

impl Server {
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

    pub(super) fn sleep(&mut self) {
        self.objects
            .values_mut()
            .for_each(|named| named.object.sleep());
    }

    pub(super) fn wait(&mut self, milliseconds: u64) {
        self.now = self.now.plus(milliseconds % (1 << 40));
        for named in self.objects.values_mut() {
            for _ in 0..ALARMS_MAX {
                let Some(at) = named.object.alarm.take_if(|at| *at <= self.now) else {
                    break;
                };
                named.object.reads_left = self.reads_left.take();
                match named.object.step(self.now, Input::Alarm) {
                    Ok(turn) => {
                        assert!(turn.after_commit.is_empty(), "an alarm answers no call");
                        named.note_removal(&turn);
                    }
                    // The platform tries again.
                    Err(_) => named.object.alarm = Some(at),
                }
            }
        }
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
        let Some(mut named) = self.objects.remove(&name) else {
            return;
        };
        let job = named.object.jobs.remove(at as usize);
        let now = self.now;
        let report = job.carry_out(outcome, now, &mut named.object, |to, request| {
            self.deliver(to, request)
        });
        if let Some(input) = report {
            named.object.reads_left = self.reads_left.take();
            named.report(now, input);
        }
        self.objects.insert(name, named);
    }

    /// Answers the first call on its way with this status, without the called object.
    pub(super) fn answer_call(&mut self, status: u16) {
        for named in self.objects.values_mut() {
            let jobs = &mut named.object.jobs;
            let is_call = |job: &EffectJob| matches!(job, EffectJob::Call { .. });
            if let Some(at) = jobs.iter().position(is_call)
                && let EffectJob::Call { effect, .. } = jobs.remove(at)
            {
                let body = Bytes::new();
                let outcome = CallOutcome::Answered { status, body };
                return named.report(self.now, Input::CallFinished { effect, outcome });
            }
        }
    }

    /// Delivers a request to the object of a stream. Returns the status of the answer.
    pub(super) fn deliver(&mut self, to: String, request: outbox::Request) -> u16 {
        let url = outbox::url(&to);
        self.hand_over(
            to,
            &Request {
                method: request.method,
                url,
                headers: request.headers,
                body: request.body.into(),
            },
        )
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

    /// Checks that nothing is kept without a reference to it.
    pub(super) fn check_leftovers(&self) {
        for (name, named) in &self.objects {
            let object = &named.object;
            assert!(
                object.cold_is_tidy(),
                "{name} leaves objects in the cold tier"
            );
            assert!(
                !object.has_no_stream() || object.is_empty(),
                "{name} leaves rows"
            );
        }
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
        let to = match router::route(head, &self.settings) {
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
        self.hand_over(to.name, &handed);
    }

    /// Passes a request to the object of this name. Returns the status of its answer.
    pub(super) fn hand_over(&mut self, name: String, request: &Request) -> u16 {
        let limits = &self.settings.limits;
        let call = match request.parse(limits) {
            Ok(call) => call,
            Err(refusal) => {
                let answer = Answer::refusal(&refusal);
                check(request, &answer, b"");
                return answer.status;
            }
        };
        if is_of_forks(&call) {
            return 501;
        }
        let base = request.url.split(['?', '#']).next().unwrap_or_default();
        let again = Request::print(&call, base).parse(limits);
        assert_eq!(again.as_ref(), Ok(&call), "a call survives being printed");
        let named = self.objects.entry(name).or_insert_with(|| Named {
            object: Object::new(limits.clone()),
            incarnation: None,
            pages: BTreeMap::new(),
        });
        named.object.reads_left = self.reads_left.take();
        named.take(self.now, request, call)
    }

    pub(super) fn read_all(&mut self) {
        let now = self.now;
        for named in self.objects.values_mut() {
            named.read_all(now);
        }
    }
}

/// Returns whether a call creates a fork, or comes from one. The objects of this target have no
/// common cold tier, which forks need.
const fn is_of_forks(call: &Call) -> bool {
    match call {
        Call::Create(create) => create.fork.is_some(),
        Call::Fork(_) => true,
        Call::Append(_) | Call::Metadata | Call::Read(_) | Call::Delete(_) => false,
    }
}
