//! Runs the cases that the live reader and its JavaScript twin share.

use std::collections::BTreeMap;

use machine::live_reader::{Effect, Input, LiveHead, LiveReader, MessageHead};
use machine::{Class, Millis};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Cases {
    head: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    class: Class,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    at: u64,
    #[serde(default)]
    jitter: u64,
    input: Map<String, Value>,
    effects: Vec<Value>,
    deadline: Option<u64>,
}

/// Replaces the short names of offsets by offsets.
fn cases() -> Cases {
    let text = include_str!("../../tests/live-reader-cases.json");
    let mut written_out = String::new();
    let mut parts = text.split('@');
    written_out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        match part[..digits].parse::<u64>() {
            Ok(position) => written_out.push_str(&machine::Offset::new(0, position).to_string()),
            Err(_) => written_out.push('@'),
        }
        written_out.push_str(&part[digits..]);
    }
    serde_json::from_str(&written_out).expect("the cases are JSON of the expected form")
}

fn head(defaults: &Map<String, Value>, class: Class, given: &Value) -> LiveHead {
    let mut head = defaults.clone();
    let class = serde_json::to_value(class).expect("a class is a string");
    let age = head["age_ms_max"][class.as_str().expect("a class is a string")].clone();
    head.insert("class".to_owned(), class);
    head.insert("age_ms_max".to_owned(), age);
    head.extend(given.as_object().expect("a head is an object").clone());
    serde_json::from_value(head.into()).expect("a head has all its fields")
}

fn body(input: &Map<String, Value>) -> Vec<u8> {
    input["body"]
        .as_str()
        .expect("a body is a string")
        .as_bytes()
        .to_vec()
}

fn input(defaults: &Map<String, Value>, class: Class, input: &Map<String, Value>) -> Input {
    match input["type"].as_str().expect("an input has a type") {
        "connected" => Input::Connected {
            head: head(defaults, class, &input["head"]),
            body: body(input),
        },
        "forwarded" => Input::Forwarded {
            status: serde_json::from_value(input["status"].clone()).expect("a status"),
        },
        "unanswered" => Input::Unanswered,
        "message" => {
            let head: MessageHead = serde_json::from_value(input["head"].clone()).expect("a head");
            Input::Message {
                head,
                body: body(input),
            }
        }
        "disconnected" => Input::Disconnected,
        "drained" => Input::Drained,
        "backpressure" => Input::Backpressure,
        "half-closed" => Input::HalfClosed,
        "ending" => Input::Ending,
        "tick" => Input::Tick,
        "client-gone" => Input::ClientGone,
        other => panic!("no such input: {other}"),
    }
}

fn shown(effect: Effect) -> Value {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the cases are text");
    match effect {
        Effect::Connect { from, after_ms } => {
            json!({"type": "connect", "from": from, "after_ms": after_ms})
        }
        Effect::Disconnect => json!({"type": "disconnect"}),
        Effect::Emit(bytes) => json!({"type": "emit", "text": text(bytes)}),
        Effect::Answer {
            status,
            headers,
            body,
        } => {
            json!({"type": "answer", "status": status, "headers": headers, "body": text(body)})
        }
        Effect::RespondEmpty => json!({"type": "respond-empty"}),
        Effect::Forward => json!({"type": "forward"}),
        Effect::End => json!({"type": "end"}),
    }
}

#[test]
fn every_case_goes_as_written() {
    let Cases {
        head: defaults,
        cases,
    } = cases();
    let mut inputs_seen = BTreeMap::new();
    for Case { name, class, steps } in cases {
        let first = head(&defaults, class, &steps[0].input["head"]);
        let mut tail = LiveReader::new(Millis(steps[0].at), &first);
        for (index, step) in steps.iter().enumerate() {
            let input = input(&defaults, class, &step.input);
            *inputs_seen
                .entry(step.input["type"].to_string())
                .or_insert(0) += 1;
            let effects: Vec<_> = tail
                .step(Millis(step.at), step.jitter, input)
                .into_iter()
                .map(shown)
                .collect();
            assert_eq!(effects, step.effects, "{name}, step {index}");
            if let Some(deadline) = step.deadline {
                assert_eq!(
                    tail.deadline(),
                    Millis(deadline),
                    "{name}, deadline after step {index}"
                );
            }
        }
    }
    assert_eq!(
        inputs_seen.len(),
        9,
        "every kind of input is in some case: {inputs_seen:?}"
    );
}
