//! JSON mode (protocol 9.1): how a body is cut into messages, stored in rows of any size, and given
//! back.

use std::sync::Arc;

use bytes::Bytes;
use machine::rows::Expiry;
use machine::wire::request::{Append, Create, Preconditions, Read, StartOffset};
use machine::wire::{CacheMode, internal_headers};
use machine::{Answer, Call, CallId, Class, Effect, Input, Limits, Millis, Offset};
use serde_json::Value;
use sim::choices::Choices;

use crate::event_stream::{self, Event};
use crate::grammar;
use crate::object::Object;

const NOW: Millis = Millis(1_800_000_000_000);
/// With these smallest rows, the part number of a message still fits into a key.
const BODY_BYTES_MAX: usize = 8_192;
/// The number of bytes of the input that decide; the rest is the body.
const DECISIONS: usize = 3;

/// Appends a body to a JSON stream and reads it back: as a whole, message by message, and as
/// events.
///
/// # Panics
///
/// When valid JSON is refused, invalid JSON is accepted, or other bytes come back.
/// bytes.
pub fn json(input: &[u8]) {
    let (decisions, body) = input.split_at(input.len().min(DECISIONS));
    let body = &body[..body.len().min(BODY_BYTES_MAX)];
    let mut choices = Choices::from_tape(decisions);
    let limits = Limits {
        row_bytes_max: choices.one_of(&[Limits::DEFAULT.row_bytes_max, 16, 64, 300]),
        chunk_bytes_max: choices.one_of(&[Limits::DEFAULT.chunk_bytes_max, 1, 20, 100]),
        ..Limits::DEFAULT
    };
    let initial = choices.upto(1) == 1;

    let expected = grammar::messages(body);
    let value = serde_json::from_slice::<Value>(body).ok();
    assert!(
        value.is_none() || expected.is_some(),
        "serde_json accepts what the grammar refuses"
    );
    let mut reader = Reader {
        object: Object::new(Arc::new(limits)),
    };
    let answer = if initial {
        reader.create(body)
    } else {
        assert_eq!(reader.create(b"").status, 201);
        reader.append(body)
    };
    let Some(expected) = expected else {
        // A PUT without a body creates an empty stream, so its body is never refused.
        let accepted = initial && body.is_empty();
        assert_eq!(answer.status, if accepted { 201 } else { 400 }, "not JSON");
        assert_eq!(
            reader.object.is_empty(),
            initial && !accepted,
            "a refusal stores nothing"
        );
        return;
    };
    if expected.is_empty() && !initial {
        assert_eq!(
            answer.status, 400,
            "an empty array appends nothing (protocol 9.1.2)"
        );
        return;
    }
    assert_eq!(answer.status, if initial { 201 } else { 204 }, "JSON");

    let mut single = Vec::new();
    let pages = reader.pages();
    for page in &pages {
        let messages = grammar::messages(page).expect("a page is an array");
        single.extend(messages.into_iter().map(<[u8]>::to_vec));
    }
    assert_eq!(single, expected, "each message keeps its bytes");
    if let Some(value) = value {
        let elements = match value {
            Value::Array(elements) => elements,
            other @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_)) => vec![other],
        };
        let read: Vec<Value> = pages
            .iter()
            .flat_map(|page| {
                serde_json::from_slice::<Vec<Value>>(page).expect("a page is an array")
            })
            .collect();
        assert_eq!(read, elements, "each message keeps its value");
    }
    reader.sleep();
    let seen: Vec<Event> = reader.events();
    let shown: Vec<String> = pages
        .iter()
        .map(|page| event_stream::as_seen(page))
        .collect();
    let data: Vec<_> = seen
        .into_iter()
        .inspect(|event| assert_eq!(event.name, "data"))
        .map(|event| event.data)
        .collect();
    assert_eq!(data, shown, "events show what pages hold");
}

/// A client of one stream.
struct Reader {
    object: Object,
}

impl Reader {
    fn sleep(&mut self) {
        self.object.sleep();
    }

    fn call(&mut self, call: Call) -> Option<Answer> {
        let input = Input::Call {
            id: CallId(0),
            call,
        };
        let turn = self.object.step(NOW, input).expect("a map can be read");
        turn.after_commit
            .into_iter()
            .find_map(|effect| match effect {
                Effect::Answer { answer, .. } => Some(answer),
                Effect::Attach { .. }
                | Effect::Put(_)
                | Effect::Collect { .. }
                | Effect::Call { .. }
                | Effect::Webhook { .. }
                | Effect::Index { .. }
                | Effect::Enqueue { .. } => None,
            })
    }

    fn create(&mut self, body: &[u8]) -> Answer {
        let create = Call::Create(Create {
            content_type: "application/json".to_owned(),
            expiry: Expiry::Never,
            closed: false,
            producer: None,
            body: Bytes::copy_from_slice(body),
            location: String::new(),
            name: "a".to_owned(),
            fork: None,
            preconditions: Preconditions::default(),
        });
        self.call(create).expect("a PUT is answered")
    }

    fn append(&mut self, body: &[u8]) -> Answer {
        let append = Call::Append(Append {
            content_type: Some("application/json".to_owned()),
            producer: None,
            stream_seq: None,
            expected_offset: None,
            preconditions: Preconditions::default(),
            // The shell refuses a POST without a body before the stream sees it, unless it closes.
            close: false,
            body: Bytes::copy_from_slice(if body.is_empty() { b" " } else { body }),
        });
        self.call(append).expect("a POST is answered")
    }

    /// Returns the bodies of all pages from the beginning to the tail.
    fn read(&mut self, live: Option<Class>) -> Vec<Vec<u8>> {
        let mut from = StartOffset::Start;
        let mut pages = Vec::new();
        let mut last = Offset::START;
        loop {
            let read = Call::Read(Read {
                from,
                live,
                last_event_id: None,
                cursor: None,
                if_none_match: None,
                cache_mode: CacheMode::Shared,
            });
            // The reader is attached, so this was the last page.
            let Some(answer) = self.call(read) else {
                return pages;
            };
            assert_eq!(answer.status, 200);
            let next = match live {
                Some(_) => {
                    let line = answer
                        .header(internal_headers::LIVE_HEAD)
                        .expect("an event stream has a line");
                    machine::live_reader::LiveHead::from_header(line)
                        .expect("the line is readable")
                        .next
                }
                None => {
                    let next = answer
                        .header("Stream-Next-Offset")
                        .expect("a page has a next offset");
                    next.parse().expect("the server sends valid offsets")
                }
            };
            if next == last {
                return pages;
            }
            assert!(next > last, "a page makes progress");
            last = next;
            pages.push(self.body(&answer));
            from = StartOffset::Offset(next);
        }
    }

    fn body(&mut self, answer: &Answer) -> Vec<u8> {
        let body = self.object.body(NOW, answer);
        body.expect("a map can be read")
    }

    fn pages(&mut self) -> Vec<Vec<u8>> {
        self.read(None)
    }

    fn events(&mut self) -> Vec<Event> {
        let pages = self.read(Some(Class::Sse));
        event_stream::events(&pages.concat())
    }
}
