//! Forks (protocol 4.2): several objects that call each other, one cold tier.

use std::collections::BTreeMap;

use bytes::Bytes;
use machine::wire::request::{self, Parsed};
use machine::{Answer, Body, CallId, CallOutcome, Effect, EffectId, Input, Limits};

use crate::shell::{Answered, Message, Shell};

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// Answers that a fork waits for.
type Awaited = (String, EffectId);

struct World {
    limits: Limits,
    objects: BTreeMap<String, Shell>,
    calls: u64,
    /// Calls of objects that are not answered yet, by their id.
    awaited: BTreeMap<CallId, Awaited>,
    /// Answers of clients.
    answers: BTreeMap<CallId, Answered>,
    /// Whether puts succeed.
    has_cold_tier: bool,
    /// Calls of objects so far.
    object_calls: u64,
}

impl World {
    fn new() -> Self {
        Self::with(Limits {
            cold: true,
            ..Limits::DEFAULT
        })
    }

    fn with(limits: Limits) -> Self {
        Self {
            limits,
            objects: BTreeMap::new(),
            calls: 0,
            awaited: BTreeMap::new(),
            answers: BTreeMap::new(),
            has_cold_tier: true,
            object_calls: 0,
        }
    }

    fn object(&mut self, name: &str) -> &mut Shell {
        let limits = self.limits.clone();
        let seed = 1_000 * (1 + self.objects.len() as u64);
        self.objects.entry(name.to_owned()).or_insert_with(|| {
            let mut shell = Shell::new(limits);
            name.clone_into(&mut shell.name);
            shell.loads = seed;
            shell
        })
    }

    fn id(&mut self) -> CallId {
        self.calls += 1;
        CallId(self.calls)
    }

    fn take(&mut self, name: &str, effects: Vec<Effect>) {
        for effect in effects {
            let Effect::Answer { call, answer } = effect else {
                panic!("{name} answers")
            };
            let Some((fork, effect)) = self.awaited.remove(&call) else {
                let answered = self.object(name).answered(Effect::Answer { call, answer });
                self.answers.insert(call, answered);
                continue;
            };
            let outcome = CallOutcome::Answered {
                status: answer.status,
                body: match answer.body {
                    Body::Bytes(bytes) => bytes.into(),
                    Body::Empty | Body::Plan(_) => Bytes::new(),
                },
            };
            let input = Input::CallFinished { effect, outcome };
            let effects = self.object(&fork).input(input);
            self.take(&fork, effects);
        }
    }

    /// Carries out effects until there are no more.
    fn settle(&mut self) {
        loop {
            let names: Vec<_> = self.objects.keys().cloned().collect();
            let mut is_idle = true;
            for name in names {
                let messages = core::mem::take(&mut self.object(&name).messages);
                for (effect, message) in messages {
                    is_idle = false;
                    self.deliver(&name, effect, message);
                }
                if self.has_cold_tier && !self.object(&name).puts.is_empty() {
                    is_idle = false;
                    let effects = self.object(&name).store_and_answer();
                    self.take(&name, effects);
                }
            }
            if is_idle {
                return;
            }
        }
    }

    fn deliver(&mut self, from: &str, effect: EffectId, message: Message) {
        let Message::Call(to, request) = message else {
            panic!("there is no index")
        };
        self.object_calls += 1;
        let target = machine::outbox::target(&to);
        let header = |name: &str| {
            let mut headers = request.headers.iter();
            let found = headers.find(|(each, _)| each == name);
            found.map(|(_, value)| value.clone())
        };
        let head = request::RequestHead {
            method: &request.method,
            origin: "http://object",
            target: &target,
            header: &header,
        };
        let Ok(Parsed::Whole(call)) = request::parse(head, &self.limits) else {
            panic!("forks send calls without a body")
        };
        let id = self.id();
        self.awaited.insert(id, (from.to_owned(), effect));
        let effects = self.object(&to).input(Input::Call { id, call });
        self.take(&to, effects);
    }

    /// Sends a request, and returns its id.
    fn send(&mut self, name: &str, method: &str, headers: &[(&str, &str)], body: &[u8]) -> CallId {
        self.send_to(name, method, "", headers, body)
    }

    fn send_to(
        &mut self,
        name: &str,
        method: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> CallId {
        let id = self.id();
        match self.object(name).begin(id, method, query, headers, body) {
            Ok(effects) => self.take(name, effects),
            Err(refusal) => {
                let answer = Answer::refusal(&refusal);
                let answered = self
                    .object(name)
                    .answered(Effect::Answer { call: id, answer });
                self.answers.insert(id, answered);
            }
        }
        id
    }

    fn answer(&mut self, id: CallId) -> Answered {
        self.answers.remove(&id).expect("the call is answered")
    }

    fn request(&mut self, name: &str, method: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
        let id = self.send(name, method, headers, body);
        self.settle();
        self.answer(id).status()
    }

    fn fork(
        &mut self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answered {
        let source = format!("/v1/stream/{source}");
        let headers = [&[("Stream-Forked-From", source.as_str())], headers].concat();
        let id = self.send(name, "PUT", &headers, body);
        self.settle();
        self.answer(id)
    }

    /// Returns the whole content.
    fn read(&mut self, name: &str) -> String {
        self.read_from(name, "?offset=-1")
    }

    fn read_from(&mut self, name: &str, query: &str) -> String {
        let cold: BTreeMap<_, _> = self
            .objects
            .values()
            .flat_map(|object| object.objects.clone())
            .collect();
        self.object(name).objects = cold;
        let answered = self.object(name).get(query);
        assert_eq!(answered.status(), 200, "{answered:?}");
        answered.text()
    }

    fn tail(&mut self, name: &str) -> String {
        let id = self.send(name, "HEAD", &[], b"");
        self.answer(id).header("Stream-Next-Offset").to_owned()
    }

    fn status(&mut self, name: &str) -> u16 {
        let id = self.send(name, "HEAD", &[], b"");
        self.answer(id).status()
    }

    /// Passes time, and fires the alarms that are due.
    fn pass(&mut self, milliseconds: u64) {
        let names: Vec<_> = self.objects.keys().cloned().collect();
        for name in names {
            let object = self.object(&name);
            object.now = object.now.plus(milliseconds);
            if object.alarm.is_some_and(|at| at <= object.now) {
                let effects = object.input(Input::Alarm);
                self.take(&name, effects);
            }
        }
        self.settle();
    }

    fn living_pins(&self, name: &str) -> usize {
        let pins = self.objects[name].rows.pins();
        pins.filter(|pin| pin.released_at.is_none()).count()
    }
}

fn json_source(messages: u64) -> World {
    let mut world = World::new();
    assert_eq!(
        world.request("a", "PUT", &[("Content-Type", JSON)], b""),
        201
    );
    for message in 0..messages {
        let body = format!("{message}");
        world.request("a", "POST", &[("Content-Type", JSON)], body.as_bytes());
    }
    world
}

#[test]
fn a_fork_has_its_sources_data_and_goes_its_own_way() {
    let mut world = json_source(3);
    let tail = world.tail("a");
    let forked = world.fork("b", "a", &[], b"");
    assert_eq!(forked.status(), 201);
    assert_eq!(forked.header("Content-Type"), JSON);
    assert_eq!(forked.header("Stream-Next-Offset"), tail);
    assert_eq!(world.read("b"), "[0,1,2]");
    world.request("a", "POST", &[("Content-Type", JSON)], b"\"source\"");
    world.request("b", "POST", &[("Content-Type", JSON)], b"\"fork\"");
    assert_eq!(world.read("a"), "[0,1,2,\"source\"]");
    assert_eq!(world.read("b"), "[0,1,2,\"fork\"]");
    assert!(world.tail("b") > tail);
    let query = format!("?offset={tail}");
    assert_eq!(world.read_from("b", &query), "[\"fork\"]");
    assert_eq!(world.living_pins("a"), 1);
    // The same in a new instance.
    world.object("b").sleep();
    world.object("a").sleep();
    assert_eq!(world.read("b"), "[0,1,2,\"fork\"]");
    assert_eq!(world.read("a"), "[0,1,2,\"source\"]");
}

#[test]
fn a_fork_leaves_its_source_at_any_offset() {
    for segment_messages_max in [1, 2, 3, 100] {
        let mut world = World::with(Limits {
            cold: true,
            segment_messages_max,
            ..Limits::DEFAULT
        });
        world.request("a", "PUT", &[("Content-Type", JSON)], b"");
        let mut offsets = vec![world.tail("a")];
        for message in 0..5 {
            let body = format!("{message}");
            world.request("a", "POST", &[("Content-Type", JSON)], body.as_bytes());
            offsets.push(world.tail("a"));
        }
        for (count, offset) in offsets.iter().enumerate() {
            let name = format!("f{count}");
            let forked = world.fork(&name, "a", &[("Stream-Fork-Offset", offset)], b"");
            assert_eq!(forked.status(), 201, "{offset}");
            assert_eq!(forked.header("Stream-Next-Offset"), offset);
            world.request(&name, "POST", &[("Content-Type", JSON)], b"[7,8]");
            let mut all: Vec<_> = (0..count).map(|message| message.to_string()).collect();
            all.extend(["7".to_owned(), "8".to_owned()]);
            assert_eq!(world.read(&name), format!("[{}]", all.join(",")));
        }
        assert_eq!(world.living_pins("a"), 6);
        assert_eq!(world.read("a"), "[0,1,2,3,4]");
    }
}

#[test]
fn a_sub_offset_cuts_an_append_wherever_it_is_stored() {
    for segment_messages_max in [1, 100] {
        let mut world = World::with(Limits {
            cold: true,
            segment_messages_max,
            ..Limits::DEFAULT
        });
        world.request("a", "PUT", &[("Content-Type", BYTES)], b"abcdef");
        world.request("a", "POST", &[("Content-Type", BYTES)], b"ghi");
        let start = "0000000000000000_0000000000000000";
        let at = |sub| {
            [
                ("Stream-Fork-Offset", start),
                ("Stream-Fork-Sub-Offset", sub),
            ]
        };
        assert_eq!(world.fork("b", "a", &at("4"), b"XY").status(), 201);
        assert_eq!(world.read("b"), "abcdXY");
        assert_eq!(world.fork("c", "b", &at("2"), b"").status(), 201);
        assert_eq!(world.read("c"), "ab");
        world.request("c", "POST", &[("Content-Type", BYTES)], b"Z");
        assert_eq!(world.read("c"), "abZ");
        assert_eq!(world.fork("d", "a", &at("6"), b"").status(), 201);
        assert_eq!(world.read("d"), "abcdef");
        // What follows the cut in the source is not the fork's.
        for (source, sub) in [("a", "7"), ("b", "5"), ("c", "3"), ("c", "9")] {
            assert_eq!(
                world.fork("e", source, &at(sub), b"").status(),
                400,
                "{source} {sub}"
            );
        }
        assert_eq!(
            world
                .fork("e", "a", &[("Stream-Fork-Sub-Offset", "1")], b"")
                .status(),
            400
        );
        assert_eq!(world.living_pins("a"), 2);
    }
}

#[test]
fn a_fork_knows_no_producer_of_its_source() {
    let mut world = World::new();
    let stamped = |seq: &'static str| {
        [
            ("Content-Type", JSON),
            ("Producer-Id", "p"),
            ("Producer-Epoch", "0"),
            ("Producer-Seq", seq),
            ("Stream-Seq", "7"),
        ]
    };
    world.request("a", "PUT", &[("Content-Type", JSON)], b"");
    assert_eq!(world.request("a", "POST", &stamped("0"), b"[1,2]"), 200);
    let inside = [
        ("Stream-Fork-Offset", "0000000000000000_0000000000000000"),
        ("Stream-Fork-Sub-Offset", "1"),
    ];
    assert_eq!(world.fork("b", "a", &inside, b"").status(), 201);
    assert_eq!(world.request("b", "POST", &stamped("0"), b"[3]"), 200);
    assert_eq!(world.request("b", "POST", &stamped("0"), b"[3]"), 204);
    assert_eq!(world.read("b"), "[1,3]");
}

#[test]
fn a_refused_fork_leaves_nothing_behind() {
    let mut world = json_source(2);
    let beyond = "9999999999999999_9999999999999999";
    type Refused<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], u16);
    let refused: [Refused<'_>; 5] = [
        ("a", &[("Content-Type", "text/plain")], b"", 409),
        ("a", &[("Stream-Fork-Offset", beyond)], b"", 400),
        ("a", &[("Content-Type", JSON)], b"{", 400),
        ("a", &[], b"not json", 400),
        ("missing", &[], b"", 404),
    ];
    for (source, headers, body, status) in refused {
        assert_eq!(world.fork("b", source, headers, body).status(), status);
        assert!(world.object("b").rows.is_empty());
    }
    assert_eq!(world.fork("a", "a", &[], b"").status(), 409);
    assert_eq!(world.fork("z", "z", &[], b"").status(), 404);
    assert_eq!(world.living_pins("a"), 0);
    assert_eq!(world.request("a", "DELETE", &[], b""), 204);
    assert_eq!(world.status("a"), 404);
}

#[test]
fn a_deleted_source_lives_on_for_its_forks() {
    let mut world = json_source(2);
    assert_eq!(world.fork("b", "a", &[], b"").status(), 201);
    assert_eq!(world.fork("c", "b", &[], b"").status(), 201);
    assert_eq!(world.request("a", "DELETE", &[], b""), 204);
    for method in ["GET", "HEAD", "DELETE"] {
        assert_eq!(world.request("a", method, &[], b""), 410, "{method}");
    }
    assert_eq!(
        world.request("a", "POST", &[("Content-Type", JSON)], b"1"),
        410
    );
    assert_eq!(
        world.request("a", "PUT", &[("Content-Type", JSON)], b""),
        409
    );
    assert_eq!(world.fork("d", "a", &[], b"").status(), 409);
    assert_eq!(world.request("b", "DELETE", &[], b""), 204);
    assert_eq!(world.status("b"), 410);
    world.object("a").sleep();
    world.object("b").sleep();
    assert_eq!(world.read("c"), "[0,1]");
    assert_eq!(world.request("c", "DELETE", &[], b""), 204);
    assert_eq!(
        ["a", "b", "c"].map(|name| world.status(name)),
        [404, 404, 404]
    );
    assert!(world.object("a").rows.is_freed());
    assert!(world.object("b").rows.is_freed());
}

#[test]
fn a_creation_that_is_cut_short_gives_its_pin_back() {
    let mut world = json_source(2);
    world.has_cold_tier = false;
    let source = [("Stream-Forked-From", "/v1/stream/a")];
    world.send("b", "PUT", &source, b"");
    world.settle();
    assert_eq!(
        world.living_pins("a"),
        1,
        "the source waits for the cold tier"
    );
    assert_eq!(world.status("b"), 404);
    // The fork's object restarts, and nobody asks again.
    world.object("b").sleep();
    world.awaited.clear();
    world.has_cold_tier = true;
    let limit = world.limits.fork_time_ms;
    for _ in 0..4 {
        world.pass(limit / 2);
    }
    assert_eq!(world.living_pins("a"), 0);
    assert_eq!(world.status("b"), 404);
    assert!(world.object("b").rows.is_empty());
    assert_eq!(world.request("a", "DELETE", &[], b""), 204);
    assert_eq!(world.status("a"), 404);
}

#[test]
fn equal_creations_at_once_make_one_fork() {
    let mut world = json_source(1);
    let source = ("Stream-Forked-From", "/v1/stream/a");
    let ids = [
        world.send("b", "PUT", &[source], b""),
        world.send("b", "PUT", &[source], b""),
        world.send("b", "PUT", &[source, ("Content-Type", "text/plain")], b""),
        world.send("b", "PUT", &[("Content-Type", JSON)], b""),
    ];
    world.settle();
    let statuses = ids.map(|id| world.answer(id).status());
    assert_eq!(statuses, [201, 200, 409, 409]);
    assert_eq!(world.living_pins("a"), 1);
}

#[test]
fn a_repeated_creation_is_recognised_however_the_source_has_changed() {
    let mut world = json_source(2);
    let asked: [(&str, &str); 1] = [("Stream-TTL", "60")];
    assert_eq!(world.fork("b", "a", &[], b"7").status(), 201);
    assert_eq!(world.fork("t", "a", &asked, b"").status(), 201);
    world.request("a", "POST", &[("Content-Type", JSON)], b"2");
    assert_eq!(world.fork("b", "a", &[], b"7").status(), 200);
    assert_eq!(world.fork("t", "a", &asked, b"").status(), 200);
    assert_eq!(world.fork("t", "a", &[], b"").status(), 409);
    assert_eq!(world.request("a", "DELETE", &[], b""), 204);
    assert_eq!(world.fork("b", "a", &[], b"7").status(), 200);
    let first = [("Stream-Fork-Offset", "0000000000000000_0000000000000001")];
    assert_eq!(world.fork("b", "a", &first, b"").status(), 409);
    let second = [("Stream-Fork-Offset", "0000000000000000_0000000000000002")];
    assert_eq!(world.fork("b", "a", &second, b"").status(), 200);
    let boundary = [("Stream-Fork-Offset", "0000000000000001_0000000000000000")];
    assert_eq!(world.fork("b", "a", &boundary, b"").status(), 200);
    assert_eq!(
        world.request("b", "PUT", &[("Content-Type", JSON)], b""),
        409
    );
}

#[test]
fn an_expired_source_is_kept_for_its_forks() {
    let mut world = World::new();
    let headers = [("Content-Type", JSON), ("Stream-TTL", "10")];
    world.request("a", "PUT", &headers, b"[1,2]");
    assert_eq!(
        world
            .fork("b", "a", &[("Stream-TTL", "1000")], b"")
            .status(),
        201
    );
    assert_eq!(world.fork("c", "a", &[], b"").status(), 201);
    let id = world.send("c", "HEAD", &[], b"");
    assert_eq!(world.answer(id).header("Stream-TTL"), "10");
    for _ in 0..8 {
        world.pass(3_000);
    }
    assert_eq!(world.status("a"), 410);
    assert_eq!(world.status("c"), 404, "the fork has expired by itself");
    assert_eq!(world.read("b"), "[1,2]");
    assert_eq!(world.living_pins("a"), 1);
    assert_eq!(world.request("b", "DELETE", &[], b""), 204);
    assert_eq!(world.status("a"), 404);
}

#[test]
fn a_fork_of_a_long_chain_reads_without_its_ancestors() {
    let mut world = json_source(1);
    let mut last = "a".to_owned();
    for depth in 0..20 {
        let name = format!("c{depth}");
        assert_eq!(world.fork(&name, &last, &[], b"").status(), 201);
        world.request(&name, "POST", &[("Content-Type", JSON)], b"1");
        last = name;
    }
    let calls = world.object_calls;
    let ones = ["1"; 20].join(",");
    assert_eq!(world.read(&last), format!("[0,{ones}]"));
    assert_eq!(world.object_calls, calls);
    // The chain is released from its end.
    let names: Vec<_> = (0..19).map(|depth| format!("c{depth}")).collect();
    for name in names.iter().map(String::as_str).chain(["a"]) {
        assert_eq!(world.request(name, "DELETE", &[], b""), 204);
        assert_eq!(world.status(name), 410);
    }
    assert_eq!(world.request(&last, "DELETE", &[], b""), 204);
    for name in names.iter().map(String::as_str).chain(["a"]) {
        assert_eq!(world.status(name), 404);
    }
}

#[test]
fn limits_bound_forks_and_chains() {
    let mut world = World::with(Limits {
        cold: true,
        forks_max: 2,
        fork_depth_max: 2,
        ..Limits::DEFAULT
    });
    world.request("a", "PUT", &[("Content-Type", JSON)], b"1");
    assert_eq!(world.fork("b", "a", &[], b"").status(), 201);
    assert_eq!(world.fork("c", "a", &[], b"").status(), 201);
    assert_eq!(world.fork("d", "a", &[], b"").status(), 429);
    assert_eq!(world.fork("e", "b", &[], b"").status(), 201);
    assert_eq!(world.fork("f", "e", &[], b"").status(), 409);
    assert_eq!(world.request("b", "DELETE", &[], b""), 204);
    assert_eq!(world.fork("d", "a", &[], b"").status(), 429);
    assert_eq!(world.request("e", "DELETE", &[], b""), 204);
    assert_eq!(world.fork("d", "a", &[], b"").status(), 201);
}
