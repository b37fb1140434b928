//! The calls of the admin API on one stream.

use machine::rows::StreamRow;
use machine::{Limits, Millis, Write};
use proptest::prelude::*;
use serde_json::Value;

use super::shell::{Message, Shell};
use super::{BINARY, JSON};

const MINUTE: u64 = 60_000;

fn limits() -> Limits {
    Limits {
        cold: true,
        registry: true,
        ..Limits::DEFAULT
    }
}

fn stream(content_type: &str, headers: &[(&str, &str)]) -> Shell {
    let mut shell = Shell::new(limits());
    assert_eq!(shell.put(content_type, headers).status(), 201);
    shell
}

fn ask(shell: &mut Shell, call: &str) -> (u16, Value) {
    let answered = shell.request("PATCH", "", &[("X-Admin-Call", call)], b"");
    let body = serde_json::from_slice(&answered.body).expect("every answer is JSON");
    (answered.status(), body)
}

fn told(shell: &mut Shell, call: &str) -> Value {
    let (status, body) = ask(shell, call);
    assert_eq!(status, 200, "{call}: {body}");
    body
}

/// What was appended: when, how many messages and how many bytes.
type Appended = (Millis, u64, u64);

fn sums<'a>(appended: impl Iterator<Item = &'a Appended>) -> (u64, u64) {
    appended.fold((0, 0), |(messages, bytes), (_, more, size)| {
        (messages + more, bytes + size)
    })
}

/// Checks the counts of a stream, as a whole and minute by minute.
fn check(shell: &mut Shell, appended: &[Appended]) {
    let detail = told(shell, "detail");
    let all = sums(appended.iter());
    assert_eq!(
        (
            detail["messageCount"].as_u64(),
            detail["totalBytes"].as_u64()
        ),
        (Some(all.0), Some(all.1)),
        "{detail}"
    );
    let throughput = told(shell, "throughput 60");
    let buckets = throughput["buckets"].as_array().expect("there are buckets");
    assert_eq!(buckets.len(), 60);
    for (at, bucket) in buckets.iter().enumerate() {
        let minute = shell.now.0 / MINUTE - 59 + at as u64;
        let of_minute = appended.iter().filter(|(at, ..)| at.0 / MINUTE == minute);
        let (messages, bytes) = sums(of_minute);
        let expected = [minute * MINUTE, messages, bytes].map(Some);
        let found = ["timestamp", "messages", "bytes"].map(|name| bucket[name].as_u64());
        assert_eq!(found, expected, "{throughput}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn counts_are_true_whatever_happens(
        is_json in any::<bool>(),
        steps in proptest::collection::vec((0..6_u8, 1..40_u64), 1..60),
    ) {
        let content_type = if is_json { JSON } else { BINARY };
        let limits = Limits {
            row_bytes_max: 64,
            segment_bytes_max: 300,
            segment_messages_max: 20,
            ..limits()
        };
        let mut shell = Shell::new(limits);
        prop_assert_eq!(shell.put(content_type, &[]).status(), 201);
        let mut appended = Vec::new();
        for (action, size) in steps {
            match action {
                0 | 1 => {
                    let (body, messages, bytes) = if is_json {
                        let body = vec!["1"; size as usize].join(",");
                        (format!("[{body}]"), size, size)
                    } else {
                        ("x".repeat(3 * size as usize), 1, 3 * size)
                    };
                    shell.post(content_type, body.as_bytes());
                    appended.push((shell.now, messages, bytes));
                }
                2 => {
                    // What is under way is lost, and tried again.
                    shell.puts.clear();
                    shell.now = shell.now.plus(size * MINUTE / 4);
                }
                3 => {
                    shell.puts.clear();
                    shell.sleep();
                }
                4 => {
                    let has_content = told(&mut shell, "detail")["openSegment"].is_object();
                    let sealed = told(&mut shell, "seal");
                    prop_assert_eq!(sealed["sealed"].as_bool(), Some(has_content));
                    prop_assert!(told(&mut shell, "detail")["openSegment"].is_null());
                }
                _ => shell.settle(),
            }
            check(&mut shell, &appended);
        }
    }
}

#[test]
fn asking_writes_nothing_and_is_no_use() {
    let mut shell = stream(JSON, &[("Stream-TTL", "60")]);
    shell.post(JSON, b"1");
    shell.settle();
    let asked = shell.now;
    let calls = [
        "detail",
        "segments 9 -",
        "producers 9",
        "outbox 9",
        "throughput 60",
        "subscribers",
    ];
    for _ in 0..5 {
        shell.now = shell.now.plus(11_000);
        for call in calls {
            told(&mut shell, call);
            assert_eq!(shell.written, 0, "{call}");
        }
    }
    assert_eq!(
        told(&mut shell, "detail")["expiresAt"].as_u64(),
        Some(asked.0 + 60_000)
    );
    shell.now = asked.plus(60_000);
    for call in calls {
        let (status, _) = ask(&mut shell, call);
        // The outbox still has the registry's event.
        assert_eq!(status, if call == "outbox 9" { 200 } else { 404 }, "{call}");
    }
}

#[test]
fn sealing_needs_a_cold_tier_and_content() {
    let mut shell = stream(JSON, &[]);
    assert_eq!(told(&mut shell, "seal")["sealed"], false);
    assert_eq!(shell.written, 0);
    shell.post(JSON, b"[1,2]");
    let tail = shell.get("").header("Stream-Next-Offset").to_owned();
    let sealed = told(&mut shell, "seal");
    assert_eq!(sealed["sealed"], true);
    assert_eq!(sealed["tailOffset"], tail);
    shell.settle();
    assert_eq!(shell.get("").text(), "[1,2]");
    let page = told(&mut shell, "segments 9 -");
    let key = page["segments"][0]["r2Key"].as_str();
    assert!(shell.objects.contains_key(key.expect("it is stored")));
    assert_eq!(
        told(&mut shell, "segments 9 0")["segments"].to_string(),
        "[]"
    );
    shell.sleep();
    shell.limits.cold = false;
    shell.post(JSON, b"3");
    let (status, refused) = ask(&mut shell, "seal");
    assert_eq!(
        (status, refused["error"]["code"].as_str()),
        (503, Some("not_configured"))
    );
}

#[test]
fn what_earlier_code_has_sealed_is_counted_from_its_segments() {
    let mut shell = stream(BINARY, &[]);
    for body in [&b"one"[..], b"three"] {
        shell.post(BINARY, body);
        told(&mut shell, "seal");
        shell.settle();
    }
    shell.sleep();
    let head = shell.rows.head().expect("there is a stream").clone();
    let earlier = StreamRow {
        activity: None,
        ..head
    };
    shell
        .rows
        .apply(&Write::UpdateStream(earlier))
        .expect("the row is there");
    let counts = |shell: &mut Shell| {
        let detail = told(shell, "detail");
        ["segmentCount", "messageCount", "totalBytes"].map(|name| detail[name].as_u64())
    };
    assert_eq!(counts(&mut shell), [2, 2, 8].map(Some));
    shell.post(BINARY, b"4444");
    assert_eq!(counts(&mut shell), [2, 3, 12].map(Some));
    told(&mut shell, "seal");
    shell.sleep();
    assert_eq!(counts(&mut shell), [3, 3, 12].map(Some));
    let throughput = told(&mut shell, "throughput 1");
    assert_eq!(throughput["buckets"][0]["bytes"], 4);
    assert_eq!(throughput["avgMessagesPerMinute"], 1.0);
}

#[test]
fn the_index_learns_once_that_a_stream_is_closed() {
    let limits = Limits {
        index: true,
        ..limits()
    };
    let mut shell = Shell::new(limits);
    assert_eq!(shell.put(BINARY, &[]).status(), 201);
    shell.settle();
    for _ in 0..2 {
        let close = [("Stream-Closed", "true")];
        assert_eq!(shell.request("POST", "", &close, b"").status(), 204);
    }
    let statements = shell
        .messages
        .iter()
        .filter_map(|(_, message)| match message {
            Message::Index(statements) => Some(statements),
            Message::Call(..) => None,
        });
    let statements: Vec<_> = statements.flatten().map(|each| each.sql).collect();
    assert_eq!(statements.len(), 1, "{statements:?}");
    assert!(statements[0].starts_with("UPDATE streams SET closed = 1"));
    shell.settle();
    assert_eq!(told(&mut shell, "outbox 9")["tasks"].to_string(), "[]");
}
