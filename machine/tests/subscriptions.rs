//! Subscriptions and the objects that they talk to, without faults: each call between objects is
//! carried out at once.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use machine::wire::request::{self, Parsed, RequestHead};
use machine::{
    AlarmChange, Answer, Body, CallId, CallOutcome, Context, Effect, EffectId, Input, Limits,
    MemoryRows, Millis, Object, StorageError, outbox,
};

const BEGINNING: Millis = Millis(1_800_000_000_000);
const JSON: (&str, &str) = ("Content-Type", "application/json");

#[derive(Default)]
struct Place {
    rows: MemoryRows,
    object: Option<Object>,
    alarm: Option<Millis>,
}

/// All objects by their names.
struct Server {
    now: Millis,
    limits: Limits,
    places: BTreeMap<String, Place>,
    wakes: u64,
    calls: u64,
    answers: BTreeMap<CallId, Answer>,
    /// The object, the effect and the receiver of each webhook that is not answered.
    webhooks: VecDeque<(String, EffectId, String)>,
    /// A receiver of calls that answers 200 without a readable body, as often as this.
    unreadable: (String, u64),
}

impl Server {
    fn new() -> Self {
        Self {
            now: BEGINNING,
            limits: Limits {
                subscriptions: true,
                webhook_loopback: true,
                ..Limits::DEFAULT
            },
            places: BTreeMap::new(),
            wakes: 0,
            calls: 0,
            answers: BTreeMap::new(),
            webhooks: VecDeque::new(),
            unreadable: (String::new(), 0),
        }
    }

    /// Sends a client's request to an object, and returns its answer.
    fn request(&mut self, method: &str, object: &str, path: &str, body: &str) -> Answer {
        let target = outbox::target(&format!("{object}{path}"));
        let call = self.send(object, method, &target, &[JSON], body);
        self.answers.remove(&call).expect("the call is answered")
    }

    fn send(
        &mut self,
        object: &str,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> CallId {
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
        match call {
            Ok(call) => self.step(object, Input::Call { id, call }),
            Err(refusal) => {
                self.answers.insert(id, Answer::refusal(&refusal));
            }
        }
        id
    }

    fn step(&mut self, name: &str, input: Input) {
        self.wakes += 1;
        let place = self.places.entry(name.to_owned()).or_default();
        let rows = (!place.rows.is_empty()).then_some(&place.rows);
        let mut object = place.object.take().unwrap_or_else(|| {
            let woken = Object::wake(self.now, &rows, &self.limits, self.wakes);
            woken.expect("memory can be read")
        });
        let context = Context {
            now: self.now,
            storage: &rows,
            subscribers: &|_| Ok(0),
            entropy: &|| [7; 32],
        };
        let turn = object.step(&context, input).expect("memory can be read");
        place.object = Some(object);
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
            Effect::Answer { call, answer } => {
                self.answers.insert(call, answer);
            }
            Effect::Call {
                effect,
                to,
                request,
            } => {
                let (unreadable, left) = &mut self.unreadable;
                let outcome = if *unreadable == to && *left > 0 {
                    *left -= 1;
                    let body = Bytes::from_static(b"?");
                    CallOutcome::Answered { status: 200, body }
                } else {
                    let headers = request.headers.iter();
                    let headers: Vec<_> = headers
                        .map(|(name, value)| (name.as_str(), value.as_str()))
                        .collect();
                    let target = outbox::target(&to);
                    let call = self.send(&to, &request.method, &target, &headers, &request.body);
                    match self.answers.remove(&call) {
                        Some(answer) => CallOutcome::Answered {
                            status: answer.status,
                            body: body(&answer).into(),
                        },
                        None => CallOutcome::Failed,
                    }
                };
                self.step(from, Input::CallFinished { effect, outcome });
            }
            Effect::Webhook { effect, webhook } => {
                self.webhooks
                    .push_back((from.to_owned(), effect, webhook.body));
            }
            Effect::Attach { .. }
            | Effect::Put(_)
            | Effect::Collect { .. }
            | Effect::Index { .. } => unreachable!("there is no such effect here"),
        }
    }

    /// Lets all alarms fire that are due by then.
    fn run_until(&mut self, until: Millis) {
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

    fn subscribe(&mut self, id: &str, body: &str) -> Answer {
        self.request("PUT", &format!("__ds/subscriptions/{id}"), "", body)
    }

    /// Forgets all that is in memory.
    fn sleep(&mut self) {
        for place in self.places.values_mut() {
            place.object = None;
        }
    }
}

fn body(answer: &Answer) -> Vec<u8> {
    match &answer.body {
        Body::Empty => Vec::new(),
        Body::Bytes(bytes) => bytes.clone(),
        Body::Plan(_) => unreachable!("nothing is read here"),
    }
}

fn json(answer: &Answer) -> serde_json::Value {
    serde_json::from_slice(&body(answer)).expect("the body is JSON")
}

fn code(answer: &Answer) -> String {
    let code = &json(answer)["error"]["code"];
    code.as_str().expect("the answer is an error").to_owned()
}

const PULL: &str = r#"{"type":"pull-wake","streams":["a"],"wake_stream":"w","lease_ttl_ms":1000}"#;
const HOOK: &str = r#"{"type":"webhook","pattern":"*","webhook":{"url":"http://127.0.0.1:2/"}}"#;

#[test]
fn a_claim_after_the_end_of_a_lease_does_not_wait_for_the_alarm() {
    let mut server = Server::new();
    server.request("PUT", "w", "", "[]");
    server.request("PUT", "a", "", "[]");
    assert_eq!(server.subscribe("s", PULL).status, 201);
    server.request("POST", "a", "", "1");
    let claim = |server: &mut Server| {
        server.request(
            "POST",
            "__ds/subscriptions/s",
            "/claim",
            r#"{"worker":"w"}"#,
        )
    };
    let first = json(&claim(&mut server))["generation"].as_u64();
    assert_eq!(code(&claim(&mut server)), "ALREADY_CLAIMED");
    server.now = server.now.plus(1_000);
    let second = json(&claim(&mut server))["generation"].as_u64();
    assert_eq!(second, first.map(|first| first + 1));
}

#[test]
fn no_subscription_follows_its_own_wake_stream() {
    let mut server = Server::new();
    let own = PULL.replace(r#"["a"]"#, r#"["a","/w/"]"#);
    assert_eq!(code(&server.subscribe("s", &own)), "INVALID_REQUEST");
    assert_eq!(server.subscribe("s", PULL).status, 201);
    let added = server.request(
        "POST",
        "__ds/subscriptions/s",
        "/streams",
        r#"{"streams":["w"]}"#,
    );
    assert_eq!(code(&added), "INVALID_REQUEST");
}

#[test]
fn a_subscription_that_was_asleep_still_names_the_key_that_signs() {
    let mut server = Server::new();
    let created = json(&server.subscribe("s", HOOK));
    let kid = created["webhook"]["signing"]["kid"].clone();
    assert!(kid.is_string());
    server.sleep();
    for method in ["GET", "PUT"] {
        let answer = server.request(method, "__ds/subscriptions/s", "", HOOK);
        assert_eq!(json(&answer)["webhook"]["signing"]["kid"], kid, "{method}");
        server.sleep();
    }
}

#[test]
fn an_answer_that_cannot_be_read_counts_for_nothing() {
    let mut server = Server::new();
    server.request("PUT", "a", "", "[1]");
    let tail = |server: &mut Server| {
        let head = server.request("HEAD", "a", "", "");
        head.header("Stream-Next-Offset").map(str::to_owned)
    };
    let acked = |server: &mut Server| {
        let described = server.request("GET", "__ds/subscriptions/s", "", "");
        let acked = &json(&described)["streams"][0]["acked_offset"];
        acked.as_str().map(str::to_owned)
    };
    // The stream, then a shard of the directory, which is asked again after a pause.
    server.unreadable = ("a".to_owned(), 1);
    let call = server.send(
        "__ds/subscriptions/s",
        "PUT",
        "/v1/stream/__ds/subscriptions/s",
        &[JSON],
        PULL,
    );
    assert!(!server.answers.contains_key(&call));
    let later = server.now.plus(20_000);
    server.run_until(later);
    assert_eq!(server.answers[&call].status, 201);
    assert_eq!(acked(&mut server), tail(&mut server));

    // A stream that the directory has not heard of asks it again, too.
    let directory = (0..16).map(|shard| format!("__ds/directory/{shard}"));
    let listed: Vec<_> = directory.collect();
    let before: Vec<_> = listed.iter().map(|name| rows_of(&server, name)).collect();
    server.request("PUT", "b", "", "[1]");
    let shard = (0..16).find(|at| rows_of(&server, &listed[*at]) != before[*at]);
    let shard = listed[shard.expect("the directory lists the stream")].clone();
    assert_eq!(server.request("DELETE", "b", "", "").status, 204);
    server.subscribe("hook", HOOK);
    server.unreadable = (shard, 2);
    server.request("PUT", "b", "", "[2]");
    let later = server.now.plus(60_000);
    server.run_until(later);
    let (_, _, webhook) = server.webhooks.pop_front().expect("a webhook was sent");
    assert!(webhook.contains(r#""path":"b""#), "{webhook}");
}

fn rows_of(server: &Server, name: &str) -> usize {
    let place = server.places.get(name);
    place.map_or(0, |place| place.rows.control().count())
}
