//! Prints what live readers do on seeded inputs, one trace of JSON a line. The Worker's JavaScript
//! twin is held to them by `cargo xtask live-reader-traces`.
#![allow(clippy::print_stdout, reason = "prints for a test")]

use machine::live_reader::{Effect, Input, JITTER_END, LiveHead, LiveReader, MessageHead};
use machine::{Class, Millis, Offset, StreamEnd};
use serde_json::{Value, json};

struct Random(u64);

impl Random {
    /// Returns the next number of `SplitMix64`, below a bound.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick_of_network(&mut self) -> Input {
        if self.one_in(8) {
            Input::Disconnected
        } else {
            Input::Unanswered
        }
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        let index = self.below(all.len() as u64);
        all[usize::try_from(index).expect("an index is small")]
    }
}

fn head(random: &mut Random, class: Class, position: u64) -> LiveHead {
    let attached = class == Class::LongPoll || random.one_in(2);
    let up_to_date = attached || random.one_in(3);
    LiveHead {
        class,
        incarnation: random
            .pick(&["one", "one", "one", "one", "one", "two"])
            .to_owned(),
        attached,
        status: if class == Class::Sse { 200 } else { 204 },
        next: Offset::new(0, position),
        cursor: random.below(20),
        up_to_date,
        closed: up_to_date && !attached && random.one_in(4),
        age_ms_max: 1 + random.below(60_000),
        heartbeat_ms: 1 + random.below(15_000),
        held_bytes_max: 1_000,
        reconnect_base_ms: random.below(2_000),
        cache_control: random.pick(&["no-store", "private"]).to_owned(),
    }
}

fn message(random: &mut Random, class: Class, position: &mut u64) -> Input {
    let from = *position + u64::from(random.one_in(8));
    *position = from + random.below(5);
    let headers = [
        ("Stream-Cursor", "3"),
        ("Cache-Control", "public"),
        ("ETag", "\"a\""),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let long_poll = class == Class::LongPoll;
    Input::Message {
        head: MessageHead {
            from: Offset::new(0, from),
            next: Offset::new(0, *position),
            cursor: random.below(30),
            whole: !random.one_in(8),
            end: random.pick(&[
                None,
                None,
                None,
                None,
                Some(StreamEnd::Closed),
                Some(StreamEnd::Deleted),
            ]),
            status: long_poll.then_some(random.pick(&[200, 204, 404])),
            headers: if long_poll {
                headers.to_vec()
            } else {
                Vec::new()
            },
        },
        body: body(random),
    }
}

fn body(random: &mut Random) -> Vec<u8> {
    random
        .pick(&["", "event: data\ndata:a\n\n"])
        .as_bytes()
        .to_vec()
}

fn input(random: &mut Random, class: Class, position: &mut u64) -> Input {
    match random.below(24) {
        0..=5 => {
            let head = head(random, class, *position);
            let body = if head.attached {
                Vec::new()
            } else {
                body(random)
            };
            Input::Connected { head, body }
        }
        6..=10 => message(random, class, position),
        11..=14 => Input::Drained,
        15 => Input::Backpressure,
        16 | 17 => Input::Tick,
        18 | 19 => Input::Disconnected,
        20 => Input::HalfClosed,
        21 => Input::Unanswered,
        22 => Input::Forwarded {
            status: random.pick(&[200, 404, 499, 500, 503]),
        },
        _ if random.one_in(2) => Input::Ending,
        _ => Input::ClientGone,
    }
}

fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).expect("traces are text")
}

fn shown(input: &Input) -> Value {
    match input {
        Input::Connected { head, body } => {
            json!({"type": "connected", "head": head, "body": text(body)})
        }
        Input::Forwarded { status } => json!({"type": "forwarded", "status": status}),
        Input::Unanswered => json!({"type": "unanswered"}),
        Input::Message { head, body } => {
            json!({"type": "message", "head": head, "body": text(body)})
        }
        Input::Disconnected => json!({"type": "disconnected"}),
        Input::Drained => json!({"type": "drained"}),
        Input::Backpressure => json!({"type": "backpressure"}),
        Input::Tick => json!({"type": "tick"}),
        Input::HalfClosed => json!({"type": "half-closed"}),
        Input::Ending => json!({"type": "ending"}),
        Input::ClientGone => json!({"type": "client-gone"}),
    }
}

fn done(effect: &Effect) -> Value {
    match effect {
        Effect::Connect { from, after_ms } => {
            json!({"type": "connect", "from": from, "after_ms": after_ms})
        }
        Effect::Disconnect => json!({"type": "disconnect"}),
        Effect::Emit(bytes) => json!({"type": "emit", "bytes": text(bytes)}),
        Effect::Answer {
            status,
            headers,
            body,
        } => json!({"type": "answer", "status": status, "headers": headers, "body": text(body)}),
        Effect::RespondEmpty => json!({"type": "respond-empty"}),
        Effect::Forward => json!({"type": "forward"}),
        Effect::End => json!({"type": "end"}),
    }
}

fn trace(seed: u64) -> Value {
    let random = &mut Random(seed);
    let class = random.pick(&[Class::Sse, Class::Sse, Class::LongPoll]);
    let mut position = random.below(10);
    let mut first = head(random, class, position);
    "one".clone_into(&mut first.incarnation);
    let mut now = 1_000;
    let mut reader = LiveReader::new(Millis(now), &first);
    let mut steps = Vec::new();
    let mut next = Input::Connected {
        head: first.clone(),
        body: Vec::new(),
    };
    for _ in 0..30 {
        let jitter = random.below(JITTER_END);
        let input_shown = shown(&next);
        let effects = reader.step(Millis(now), jitter, next);
        let effects: Vec<_> = effects.iter().map(done).collect();
        steps.push(json!({
            "at": now, "jitter": jitter, "input": input_shown, "effects": effects,
            "deadline": reader.deadline().0, "ended": reader.is_ended(),
        }));
        if reader.is_ended() && random.one_in(2) {
            break;
        }
        now += if random.one_in(10) {
            random.below(20_000)
        } else {
            random.below(50)
        };
        next = input(random, class, &mut position);
        // Some readers have a bad network.
        if seed.is_multiple_of(8) && !random.one_in(4) {
            next = random.pick_of_network();
        }
        // Ticks that come exactly in time.
        if next == Input::Tick && random.one_in(2) {
            now = now.max(reader.deadline().0);
        }
    }
    json!({"seed": seed, "head": first, "steps": steps})
}

fn main() {
    println!(
        "{}",
        json!({"live_head": machine::wire::internal_headers::LIVE_HEAD})
    );
    for seed in 0..6_000 {
        println!("{}", trace(seed));
    }
}
