//! Tests of sealing, storing and reading segments.

use std::collections::BTreeMap;

use machine::segment::{self, Index};
use machine::{Input, Limits, Millis, Offset, TimerReason};
use proptest::prelude::*;

use crate::shell::{Answered, Message, Shell};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

fn limits() -> Limits {
    Limits {
        cold: true,
        segment_messages_max: 3,
        ..Limits::DEFAULT
    }
}

fn stream(content_type: &str, limits: Limits) -> Shell {
    let mut shell = Shell::new(limits);
    assert_eq!(shell.put(content_type, &[]).status(), 201);
    shell
}

fn next(answered: &Answered) -> Offset {
    answered
        .header("Stream-Next-Offset")
        .parse()
        .expect("an offset")
}

#[test]
fn each_timer_has_a_reason_and_the_alarm_has_that_of_the_earliest() {
    use TimerReason::{Expiry, Put, SegmentAge, Task};
    let mut shell = Shell::new(limits());
    shell.limits.touch_slack_divisor = 10;
    let day_ms = shell.limits.segment_age_ms_max;
    let (start, ttl_ms) = (shell.now, 2 * day_ms);
    let ttl = (ttl_ms / 1_000).to_string();
    assert_eq!(shell.put(TEXT, &[("Stream-TTL", &ttl)]).status(), 201);
    // The new segment has no message that could become old. Its alarm is set all the same.
    let expiry = (Expiry, start.plus(ttl_ms / 10 * 11));
    assert_eq!(shell.timers(), (vec![expiry], Some(SegmentAge)));
    shell.post(TEXT, b"a");
    let age = (SegmentAge, start.plus(day_ms));
    assert_eq!(shell.timers(), (vec![expiry, age], Some(SegmentAge)));
    shell.now = shell.now.plus(day_ms);
    shell.input(Input::Alarm);
    let put = (Put, shell.now.plus(shell.puts[0].time_ms));
    let expiry = (Expiry, start.plus(ttl_ms / 10 * 11));
    assert_eq!(shell.timers(), (vec![expiry, put], Some(Put)));
    // The object that a lost put may have stored is collected later.
    shell.now = put.1;
    shell.input(Input::Alarm);
    shell.puts.remove(0);
    shell.store();
    let (timers, reason) = shell.timers();
    let task = (Task, shell.now.plus(shell.limits.collect_grace_ms));
    assert!(timers.contains(&task), "{timers:?}");
    assert_eq!(reason, Some(Put), "an alarm is never moved to a later time");
    // A new instance does not know why the former one has set the alarm.
    shell.sleep();
    shell.get("?offset=-1");
    assert_eq!(shell.timers().1, None);
}

#[test]
fn the_append_that_fills_a_segment_seals_it_and_no_append_waits() {
    let mut shell = stream(JSON, limits());
    for (body, expected) in [("1", (0, 1)), ("2", (0, 2)), ("3", (0, 3)), ("4", (1, 1))] {
        let answered = shell.post(JSON, body.as_bytes());
        assert_eq!(next(&answered), Offset::new(expected.0, expected.1));
    }
    // The first put is under way, and the next segment is sealed all the same.
    shell.post(JSON, b"[5,6,7,8,9]");
    assert_eq!(next(&shell.post(JSON, b"10")), Offset::new(2, 1));
    assert_eq!((shell.puts.len(), shell.objects.len()), (1, 0));
    assert_eq!(shell.get("?offset=-1").text(), "[1,2,3,4,5,6,7,8,9,10]");
    shell.store();
    assert_eq!((shell.puts.len(), shell.objects.len()), (1, 1));
    shell.store();
    assert_eq!((shell.rows.row_count(), shell.objects.len()), (1, 2));
    assert_eq!(shell.get("?offset=-1").text(), "[1,2,3,4,5,6,7,8,9,10]");
    // The end of a segment is the beginning of the next.
    for (offset, expected) in [
        (Offset::new(0, 3), "[4,5,6,7,8,9,10]"),
        (Offset::new(1, 0), "[4,5,6,7,8,9,10]"),
        (Offset::new(0, 2), "[3,4,5,6,7,8,9,10]"),
        (Offset::new(1, 6), "[10]"),
        (Offset::new(2, 0), "[10]"),
        (Offset::new(2, 1), "[]"),
    ] {
        assert_eq!(
            shell.get(&format!("?offset={offset}")).text(),
            expected,
            "{offset}"
        );
    }
}

/// While the cold tier stores nothing, segments keep their size and wait. They are stored in order,
/// and a new instance finds the oldest without reading each.
#[test]
fn segments_keep_their_size_while_many_wait() {
    const COUNT: u64 = 40;
    let mut shell = stream(JSON, limits());
    let fail = |shell: &mut Shell| {
        for put in core::mem::take(&mut shell.puts) {
            let (id, receipt) = (put.id, None);
            shell.input(Input::PutFinished { id, receipt });
        }
    };
    for count in 0..COUNT {
        let answered = shell.post(JSON, b"[1,2,3]");
        assert_eq!(next(&answered), Offset::new(count, 3));
        fail(&mut shell);
        shell.sleep();
    }
    assert_eq!(shell.rows.hot_tables().count(), COUNT as usize);
    assert_eq!(shell.get("?offset=-1").status(), 200);
    shell.sleep();
    shell.asked.set(0);
    shell.fire_until(|shell| !shell.puts.is_empty());
    let asked = shell.asked.get();
    assert!(asked < 20, "{asked} questions on waking");
    for stored in 1..=COUNT {
        assert_eq!(shell.puts.len(), 1, "one at a time");
        assert_eq!(shell.puts[0].id.segment, stored - 1, "the oldest first");
        shell.store();
        if stored % 7 == 0 {
            shell.sleep();
            shell.puts.clear();
            shell.fire_until(|shell| !shell.puts.is_empty());
        }
    }
    assert_eq!(
        (shell.rows.hot_tables().count(), shell.rows.row_count()),
        (0, 0)
    );
    // Deleted while some wait.
    for _ in 0..3 {
        shell.post(JSON, b"[1,2,3]");
    }
    shell.sleep();
    assert_eq!(shell.request("DELETE", "", &[], b"").status(), 204);
    assert_eq!(shell.rows.hot_tables().count(), 0);
}

#[test]
fn a_seal_changes_no_answer() {
    // Requests of one age, so that all answers have the same cursor.
    let limits = Limits {
        cursor_interval_ms: u64::MAX,
        ..limits()
    };
    let mut shell = stream(JSON, limits);
    shell.post(JSON, b"[1,2]");
    let tail = Offset::new(0, 2);
    let ask = |shell: &mut Shell| {
        let mut answers = vec![shell.request("HEAD", "", &[], &[])];
        for query in ["?offset=-1", "?offset=now", &format!("?offset={tail}")] {
            for live in ["", "&live=long-poll", "&live=sse"] {
                answers.push(shell.get(&format!("{query}{live}")));
            }
        }
        answers.iter().map(Answered::received).collect::<Vec<_>>()
    };
    let before = ask(&mut shell);
    shell.now = shell.now.plus(shell.limits.segment_age_ms_max);
    shell.fire();
    assert_eq!(shell.puts.len(), 1, "the segment is sealed by its age");
    assert_eq!(ask(&mut shell), before, "and not stored");
    shell.store();
    assert_eq!(ask(&mut shell), before, "and stored");
    let tag = shell
        .request("HEAD", "", &[], &[])
        .header("ETag")
        .to_owned();
    let known = shell.request("GET", "?offset=-1", &[("If-None-Match", &tag)], &[]);
    assert_eq!(known.status(), 304);
    // The other offset of the same place. An older version sent it.
    let by_other_name = shell.get(&format!("?offset={}", Offset::new(1, 0)));
    let by_name = shell.get(&format!("?offset={tail}"));
    assert_eq!(by_other_name.received(), by_name.received());
    let close = [("Stream-Closed", "true")];
    assert_eq!(next(&shell.request("POST", "", &close, b"")), tail);
}

#[test]
fn closing_seals_and_leaves_nothing_hot() {
    let mut shell = stream(TEXT, limits());
    shell.post(TEXT, b"a");
    let headers = [("Content-Type", TEXT), ("Stream-Closed", "true")];
    let answered = shell.request("POST", "", &headers, b"b");
    assert_eq!(next(&answered), Offset::new(0, 2));
    shell.store();
    assert_eq!((shell.rows.row_count(), shell.puts.len()), (0, 0));
    shell.sleep();
    let page = shell.get("?offset=-1");
    assert_eq!(
        (page.text().as_str(), page.header("Stream-Closed")),
        ("ab", "true")
    );
    assert_eq!(shell.post(TEXT, b"c").status(), 409);
}

#[test]
fn a_stream_closed_while_a_put_is_under_way_has_both_segments_stored() {
    let mut shell = stream(JSON, limits());
    shell.post(JSON, b"[1,2,3]");
    shell.request(
        "POST",
        "",
        &[("Content-Type", JSON), ("Stream-Closed", "true")],
        b"4",
    );
    assert_eq!(shell.puts.len(), 1);
    for _ in 0..2 {
        shell.sleep();
        assert_eq!(shell.get("?offset=-1").text(), "[1,2,3,4]");
        shell.now = shell.now.plus(shell.limits.put_timeout_ms);
        shell.puts.clear();
        shell.fire();
        shell.store();
    }
    assert_eq!((shell.rows.row_count(), shell.puts.len()), (0, 0));
    assert_eq!(shell.get("?offset=-1").text(), "[1,2,3,4]");
}

#[test]
fn a_quiet_stream_is_moved_by_the_alarm() {
    let mut shell = stream(JSON, limits());
    let armed = shell
        .alarm
        .expect("set with the stream, when it costs nothing");
    shell.post(JSON, b"1");
    assert_eq!((shell.alarm, shell.written), (Some(armed), 2));
    shell.sleep();
    shell.fire();
    shell.settle();
    assert_eq!((shell.rows.row_count(), shell.objects.len()), (0, 1));
    assert_eq!(shell.get("?offset=-1").text(), "[1]");
    // Readers that know the end of the sealed segment continue from there.
    shell.post(JSON, b"2");
    let broadcast = shell.broadcast.take().expect("an append is broadcast");
    assert_eq!(
        (broadcast.from, broadcast.next),
        (Offset::new(0, 1), Offset::new(1, 1))
    );
}

#[test]
fn a_put_of_unknown_outcome_is_tried_under_another_key_and_collected() {
    let mut shell = stream(JSON, limits());
    shell.post(JSON, b"[1,2,3]");
    let first = shell.puts.remove(0);
    let (object, receipt) = shell.encode(&first);
    // The put takes effect, and reports that it has failed.
    shell.objects.insert(first.key.clone(), object);
    shell.input(Input::PutFinished {
        id: first.id,
        receipt: None,
    });
    assert!(shell.puts.is_empty(), "there is a pause");
    shell.fire();
    assert_ne!(shell.puts[0].key, first.key);
    shell.store();
    assert_eq!(shell.objects.len(), 2);
    // The first put may report late, which changes nothing.
    shell.input(Input::PutFinished {
        id: first.id,
        receipt: Some(receipt),
    });
    assert_eq!(shell.get("?offset=-1").text(), "[1,2,3]");
    let grace = shell.limits.collect_grace_ms;
    while shell.objects.len() > 1 {
        shell.fire();
        shell.settle();
    }
    assert!(shell.now >= Millis(1_800_000_000_000).plus(grace));
    assert!(!shell.objects.contains_key(&first.key));
    assert_eq!(shell.get("?offset=-1").text(), "[1,2,3]");
}

#[test]
fn a_put_that_is_never_answered_is_tried_again() {
    for sleeps in [false, true] {
        let mut shell = stream(JSON, limits());
        shell.post(JSON, b"[1,2,3]");
        let first = shell.puts.remove(0);
        if sleeps {
            shell.sleep();
        }
        shell.fire();
        assert_eq!(shell.puts.len(), 1);
        assert_ne!(shell.puts[0].key, first.key);
        shell.store();
        assert_eq!(shell.get("?offset=-1").text(), "[1,2,3]");
    }
}

#[test]
fn producers_are_remembered_over_sealing() {
    let mut shell = stream(JSON, limits());
    let post = |shell: &mut Shell, seq: &str, stream_seq: &str| {
        let headers = [
            ("Content-Type", JSON),
            ("Producer-Id", "p"),
            ("Producer-Epoch", "0"),
            ("Producer-Seq", seq),
            ("Stream-Seq", stream_seq),
        ];
        shell.request("POST", "", &headers, b"[1,2,3]").status()
    };
    assert_eq!(post(&mut shell, "0", "a"), 200);
    shell.settle();
    for sleeps in [false, true] {
        if sleeps {
            shell.sleep();
        }
        assert_eq!(post(&mut shell, "0", "b"), 204);
        assert_eq!(post(&mut shell, "1", "a"), 409);
        assert_eq!(post(&mut shell, "2", "b"), 409);
    }
    assert_eq!(post(&mut shell, "1", "b"), 200);
}

#[test]
fn idle_producers_are_forgotten_when_a_segment_is_sealed_in_bounded_work() {
    let mut shell = stream(
        JSON,
        Limits {
            producer_max_idle_ms: 1_000,
            producers_forgotten_max: 40,
            ..limits()
        },
    );
    let post = |shell: &mut Shell, producer: usize, seq: &str| {
        let id = format!("producer-{producer}");
        let headers = [
            ("Content-Type", JSON),
            ("Producer-Id", id.as_str()),
            ("Producer-Epoch", "0"),
            ("Producer-Seq", seq),
        ];
        shell.request("POST", "", &headers, b"1").status()
    };
    for producer in 0..99 {
        assert_eq!(post(&mut shell, producer, "0"), 200);
        shell.settle();
    }
    assert_eq!(shell.rows.producers().count(), 99);
    shell.now = shell.now.plus(999);
    assert_eq!(post(&mut shell, 98, "1"), 200);
    shell.now = shell.now.plus(1);
    // All producers are known until a segment is sealed. A seal removes only a bounded number.
    assert_eq!(post(&mut shell, 0, "0"), 204);
    for left in [59, 19, 1, 1] {
        shell.sleep();
        shell.post(JSON, b"[1,2,3]");
        shell.settle();
        assert_eq!(shell.rows.producers().count(), left);
    }
    // A forgotten producer begins again. A remembered one continues.
    assert_eq!(post(&mut shell, 0, "1"), 409);
    assert_eq!(post(&mut shell, 0, "0"), 200);
    assert_eq!(post(&mut shell, 98, "1"), 204);
    assert_eq!(post(&mut shell, 98, "2"), 200);
}

/// Sends refused and repeated appends, each of another producer.
#[test]
fn appends_that_store_nothing_leave_nothing_in_memory() {
    let by = |producer: usize, seq: &'static str| {
        let id = format!("producer-{producer}");
        move |shell: &mut Shell, body: &[u8]| {
            let headers = [
                ("Content-Type", JSON),
                ("Producer-Id", id.as_str()),
                ("Producer-Epoch", "0"),
                ("Producer-Seq", seq),
                ("Stream-Seq", "a"),
            ];
            shell.request("POST", "", &headers, body).status()
        }
    };
    let mut shell = stream(JSON, limits());
    let headers = [("Content-Type", JSON), ("Stream-Seq", "b")];
    for producer in 0..100 {
        let id = format!("producer-{producer}");
        let stamp = [
            ("Content-Type", JSON),
            ("Producer-Id", id.as_str()),
            ("Producer-Epoch", "0"),
            ("Producer-Seq", "0"),
        ];
        assert_eq!(shell.request("POST", "", &stamp, b"1").status(), 200);
        shell.settle();
    }
    assert_eq!(
        shell.request("POST", "", &headers, b"[1,2,3]").status(),
        204
    );
    shell.settle();
    let before = shell.remembered_bytes();
    for producer in 0..100 {
        assert_eq!(by(producer, "0")(&mut shell, b"1"), 204, "a duplicate");
        assert_eq!(by(producer, "2")(&mut shell, b"1"), 409, "a gap");
    }
    for producer in 100..1_100 {
        assert_eq!(by(producer, "1")(&mut shell, b"1"), 409, "a gap");
        assert_eq!(
            by(producer, "0")(&mut shell, b"1"),
            409,
            "Stream-Seq does not rise"
        );
    }
    let after = shell.remembered_bytes();
    assert!(after <= before, "{before} bytes have become {after}");
}

#[test]
fn a_deleted_stream_leaves_nothing() {
    let mut shell = stream(JSON, limits());
    shell.post(JSON, b"[1,2,3]");
    shell.settle();
    shell.post(JSON, b"[4,5,6]");
    // Deleted while a put is under way. The put ends when it is no longer expected.
    let put = shell.puts.remove(0);
    let (object, receipt) = shell.encode(&put);
    assert_eq!(shell.request("DELETE", "", &[], b"").status(), 204);
    shell.objects.insert(put.key, object);
    shell.input(Input::PutFinished {
        id: put.id,
        receipt: Some(receipt),
    });
    assert_eq!(shell.objects.len(), 2);
    // Created anew meanwhile, under other keys.
    assert_eq!(shell.put(JSON, &[]).status(), 201);
    shell.post(JSON, b"[7,8,9]");
    shell.settle();
    assert_eq!(shell.objects.len(), 3);
    shell.sleep();
    while shell.objects.len() > 1 {
        shell.fire();
        shell.settle();
    }
    assert_eq!(shell.get("?offset=-1").text(), "[7,8,9]");
    shell.request("DELETE", "", &[], b"");
    while !shell.rows.is_empty() {
        shell.fire();
        shell.settle();
    }
    assert!(shell.objects.is_empty());
    assert_eq!(shell.alarm, None);
}

#[test]
fn many_objects_are_collected_in_batches() {
    let limits = Limits {
        collect_keys_max: 2,
        ..limits()
    };
    let mut shell = stream(JSON, limits);
    for _ in 0..5 {
        shell.post(JSON, b"[1,2,3]");
        shell.settle();
    }
    shell.request("DELETE", "", &[], b"");
    shell.fire_until(|shell| !shell.collections.is_empty());
    for left in [3, 1, 0] {
        // A batch that fails is tried again after a pause.
        let (effect, _) = shell.collections.remove(0);
        shell.input(Input::CollectFinished {
            effect,
            done: false,
        });
        assert!(shell.collections.is_empty());
        shell.fire_until(|shell| !shell.collections.is_empty());
        let (effect, keys) = shell.collections.remove(0);
        assert!(keys.len() <= 2);
        keys.iter().for_each(|key| drop(shell.objects.remove(key)));
        shell.input(Input::CollectFinished { effect, done: true });
        assert_eq!(shell.objects.len(), left);
    }
    assert!(shell.rows.is_empty());
}

fn requests(shell: &mut Shell, status: u16) -> Vec<String> {
    let messages = core::mem::take(&mut shell.messages);
    let sent = messages.iter().map(|(_, message)| match message {
        Message::Call(_, request) => {
            let header = |name: &str| request.headers.iter().find(|(each, _)| *each == name);
            let seq = header("Producer-Seq").map_or("-", |(_, seq)| seq);
            format!("{} {seq} {}", request.method, request.body)
        }
        Message::Index(statements) => format!("{statements:?}"),
    });
    let sent = sent.collect();
    for (effect, message) in messages {
        shell.answer(effect, &message, status);
    }
    sent
}

#[test]
fn the_registry_gets_events_in_order_and_is_created_when_it_is_missing() {
    let limits = Limits {
        registry: true,
        ..Limits::DEFAULT
    };
    let mut shell = stream(JSON, limits);
    shell.request("DELETE", "", &[], b"");
    let created = r#"POST 0 {"type":"stream","key":"s","value":{"path":"s","contentType":"application/json","createdAt":1800000000000},"headers":{"operation":"insert"}}"#;
    let deleted = r#"POST 0 {"type":"stream","key":"s","headers":{"operation":"delete"}}"#;
    assert_eq!(requests(&mut shell, 404), [created]);
    assert_eq!(requests(&mut shell, 201), ["PUT - "]);
    // The answer is lost. The event is sent again, and recognised by its producer.
    assert_eq!(requests(&mut shell, 503), [created]);
    assert!(shell.messages.is_empty());
    shell.sleep();
    shell.fire();
    assert_eq!(requests(&mut shell, 200), [created]);
    assert_eq!(requests(&mut shell, 200), [deleted]);
    assert!(shell.rows.is_empty() && shell.messages.is_empty());
}

/// Returns the receivers of the messages on their way.
fn receivers(shell: &Shell) -> Vec<String> {
    let messages = shell.messages.iter().map(|(_, message)| match message {
        Message::Call(to, request) => format!("{} {to}", request.method),
        Message::Index(_) => "index".to_owned(),
    });
    messages.collect()
}

/// A shard that is missing is created like the registry. The end of a stream goes to the shard that
/// has its creation, even if the number of shards has changed.
#[test]
fn a_stream_reports_to_one_shard_even_if_the_number_changes() {
    let shards = |registry_shards: u64| Limits {
        registry: true,
        registry_shards,
        ..Limits::DEFAULT
    };
    let mut shell = stream(JSON, shards(256));
    let first = receivers(&shell).remove(0);
    assert!(first.starts_with("POST __registry__/"), "{first}");
    requests(&mut shell, 404);
    assert_eq!(receivers(&shell), [first.replace("POST", "PUT")]);
    requests(&mut shell, 201);
    assert_eq!(receivers(&shell), core::slice::from_ref(&first));
    shell.limits = shards(1);
    shell.sleep();
    shell.messages.clear();
    assert_eq!(shell.request("DELETE", "", &[], b"").status(), 204);
    for _ in ["insert", "delete"] {
        assert_eq!(receivers(&shell), core::slice::from_ref(&first));
        requests(&mut shell, 200);
    }
    assert!(shell.rows.is_empty() && shell.messages.is_empty());
    assert_eq!(shell.put(JSON, &[]).status(), 201);
    assert_eq!(receivers(&shell), ["POST __registry__"]);
}

/// Found by the simulator: tasks of an instance whose clock was behind were sent first.
#[test]
fn the_registry_gets_events_in_order_when_a_clock_is_behind() {
    let limits = Limits {
        registry: true,
        ..Limits::DEFAULT
    };
    let mut shell = stream(JSON, limits);
    shell.request("DELETE", "", &[], b"");
    let first = shell.messages.remove(0).1;
    shell.sleep();
    shell.now = Millis(shell.now.0 - 10);
    assert_eq!(shell.put(JSON, &[]).status(), 201);
    assert_eq!(shell.messages.remove(0).1, first);
}

#[test]
fn the_index_learns_of_streams_and_segments_and_forgets_them() {
    let limits = Limits {
        index: true,
        ..limits()
    };
    let mut shell = stream(JSON, limits);
    shell.post(JSON, b"[1,2,3]");
    shell.store();
    let sent = requests(&mut shell, 200);
    assert!(sent[0].contains("INSERT INTO streams"), "{sent:?}");
    let sent = requests(&mut shell, 200);
    assert!(sent[0].contains("INSERT INTO segments"), "{sent:?}");
    shell.request("DELETE", "", &[], b"");
    let sent = requests(&mut shell, 200);
    assert!(sent[0].contains("DELETE FROM segments"), "{sent:?}");
    shell.fire_until(|shell| !shell.messages.is_empty());
    let sent = requests(&mut shell, 200);
    assert!(sent[0].contains("DELETE FROM streams"), "{sent:?}");
    shell.fire_until(|shell| shell.rows.is_empty() || shell.collections.len() == 1);
    shell.settle();
    assert!(shell.rows.is_empty());
}

#[test]
fn a_damaged_object_is_reported_with_its_segment() {
    let limits = Limits {
        index_step_bytes: 16,
        ..limits()
    };
    let mut shell = stream(JSON, limits);
    shell.post(JSON, br#"["aaaaaaaaaaaa","bbbbbbbbbbbb","cccccccccccc"]"#);
    shell.store();
    let whole = shell.get("?offset=-1").body;
    let (key, object) = shell.objects.pop_first().expect("an object");
    for at in 0..object.len() {
        let mut damaged = object.clone();
        damaged[at] ^= 1;
        assert!(segment::decode(&damaged).is_err(), "{at}");
        shell.objects.insert(key.clone(), damaged);
        let page = shell.get("?offset=-1");
        // Parts of the object that the answer does not use may be damaged.
        let is_known = page.status() == 500 && page.text().contains("segment 0 is damaged");
        assert!(is_known || page.body == whole, "{at}: {}", page.text());
    }
    for length in 0..object.len() {
        assert!(segment::decode(&object[..length]).is_err(), "{length}");
    }
    shell.objects.clear();
    assert!(
        shell
            .get("?offset=-1")
            .text()
            .contains("segment 0 is damaged: the object is missing")
    );
}

#[test]
fn a_read_from_the_middle_takes_little_more_than_it_answers() {
    for content_type in [JSON, "application/octet-stream"] {
        let limits = Limits {
            cold: true,
            segment_bytes_max: 16 << 20,
            ..Limits::DEFAULT
        };
        let mut shell = stream(content_type, limits);
        let message = format!("\"{}\"", "x".repeat(998));
        let batch = format!("[{}]", vec![message; 100].join(","));
        while shell.puts.is_empty() {
            shell.post(content_type, batch.as_bytes());
        }
        shell.store();
        let units = if content_type == JSON {
            8_123
        } else {
            8_123_456
        };
        shell.fetched = 0;
        let page = shell.get(&format!("?offset={}", Offset::new(0, units)));
        let ratio = shell.fetched as f64 / page.body.len() as f64;
        assert!(
            page.body.len() > 900_000 && ratio < 1.2,
            "{} {ratio}",
            page.body.len()
        );
    }
}

#[test]
fn an_index_is_bounded_for_every_step() {
    let limits = Limits {
        index_step_bytes: 1,
        index_entries_max: 10,
        segment_messages_max: 1_000,
        ..limits()
    };
    let mut shell = stream(JSON, limits);
    let messages: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    for batch in messages.chunks(10) {
        shell.post(JSON, format!("[{}]", batch.join(",")).as_bytes());
    }
    let put = shell.puts[0].clone();
    let (object, _) = shell.encode(&put);
    shell.store();
    let records: usize = messages.iter().map(|message| message.len() + 4).sum();
    assert!(
        object.len() - records < 200,
        "{} bytes for {records}",
        object.len()
    );
    for from in [0, 1, 499, 990, 999] {
        let page = shell.get(&format!("?offset={}", Offset::new(0, from)));
        assert_eq!(
            page.text(),
            format!("[{}]", messages[from as usize..].join(","))
        );
    }
}

proptest! {
    /// For all sizes and all orders of storing: every page has the same content and entity tag, hot
    /// or cold, and a reader gets from every offset to the end of the stream.
    #[test]
    fn where_content_is_makes_no_difference(
        json in any::<bool>(),
        appends in prop::collection::vec(
            (prop::collection::vec(0usize..40, 1..6), 0usize..3),
            1..16,
        ),
        row_bytes_max in 8u64..80,
        chunk_bytes_max in 4u64..150,
        index_step_bytes in 1u64..80,
        index_entries_max in 1u64..20,
        segment_bytes_max in 1u64..400,
        segment_messages_max in 1u64..20,
        page_parts_max in 1u64..5,
        closes in any::<bool>(),
    ) {
        let content_type = if json { JSON } else { TEXT };
        let mut shell = stream(content_type, Limits {
            cold: true,
            row_bytes_max,
            chunk_bytes_max,
            index_step_bytes,
            index_entries_max,
            segment_bytes_max,
            segment_messages_max,
            page_parts_max,
            ..Limits::DEFAULT
        });
        let mut units: Vec<String> = Vec::new();
        // The answers so far, and the number of units before each.
        let mut offsets = vec![(Offset::START, 0)];
        // Offsets inside appends, and the number of units before the append.
        let mut inside = Vec::new();
        let last = appends.len() - 1;
        for (index, (sizes, stores)) in appends.iter().enumerate() {
            let letter = char::from(b'a' + (index % 26) as u8).to_string();
            let message = |size: &usize| format!("\"{}\"", letter.repeat(*size));
            let messages: Vec<_> = sizes.iter().map(message).collect();
            let body = if json { format!("[{}]", messages.join(",")) } else { messages.concat() };
            let closed = if closes && index == last { "true" } else { "false" };
            let headers = [("Content-Type", content_type), ("Stream-Closed", closed)];
            let answered = shell.request("POST", "", &headers, body.as_bytes());
            prop_assert_eq!(answered.status(), 204);
            if json {
                units.extend(messages);
            } else {
                units.extend(messages.concat().chars().map(String::from));
            }
            let (end, before) = (next(&answered), offsets.last().map_or(0, |(_, before)| *before));
            if !json {
                inside.push((Offset::new(end.segment, end.position - 1), before));
            }
            offsets.push((end, units.len()));
            for _ in 0..*stores {
                if !shell.puts.is_empty() {
                    shell.store();
                }
            }
        }
        let expected = |from: usize| units[from..].concat();
        let text = |page: &Answered| if json {
            let body = page.text();
            body.trim_start_matches('[').trim_end_matches(']').replace("\",\"", "\"\"")
        } else {
            page.text()
        };
        let mut pages: BTreeMap<String, (Vec<u8>, String, Offset)> = BTreeMap::new();
        loop {
            for (offset, before) in offsets.iter().chain(&inside) {
                let mut read = String::new();
                let mut at = *offset;
                let mut turns = 0;
                loop {
                    let page = shell.get_page(&format!("?offset={at}"));
                    prop_assert_eq!(page.status(), 200, "{} {}", at, page.text());
                    if !json {
                        let is_known = offsets.iter().any(|(sent, _)| *sent == next(&page));
                        prop_assert!(is_known, "{} is where an append ends", next(&page));
                    }
                    read += &text(&page);
                    let known = (page.body.clone(), page.header("ETag").to_owned(), next(&page));
                    let before = pages.insert(at.to_string(), known.clone());
                    if let Some(before) = before {
                        prop_assert_eq!(before, known, "{}", at);
                    }
                    at = next(&page);
                    turns += 1;
                    prop_assert!(turns <= 4_000, "the reader makes progress");
                    if page.header("Stream-Up-To-Date") == "true" {
                        break;
                    }
                }
                prop_assert_eq!(read, expected(*before));
            }
            if shell.puts.is_empty() {
                break;
            }
            shell.store();
        }
        for object in shell.objects.values() {
            prop_assert!(segment::decode(object).is_ok());
        }
        shell.sleep();
        prop_assert_eq!(text(&shell.get("?offset=-1")).is_empty(), units.concat().is_empty());
    }

    #[test]
    fn hostile_bytes_are_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        prop_assert!(segment::decode(&bytes).is_err());
        if let Ok(index) = Index::decode(&bytes) {
            prop_assert!(index.floor(u64::MAX).position >= index.within(0).position);
            prop_assert!(index.behind(u64::MAX).is_none());
        }
        let mut shell = stream(JSON, limits());
        shell.post(JSON, br#"["a","b","c"]"#);
        shell.store();
        let (_, mut object) = shell.objects.pop_first().expect("an object");
        let at = at.index(object.len());
        object[at] ^= 1 << bit;
        prop_assert!(segment::decode(&object).is_err());
    }
}

/// With the registry, the index and the cold tier: two tables, the stream's row, and the same row
/// again when both have the creation. One alarm is set for the case that a message is lost, and is
/// removed.
#[test]
fn a_stream_that_is_not_used_again_costs_three_writes_and_one_alarm() {
    let limits = Limits {
        registry: true,
        index: true,
        ..limits()
    };
    let mut shell = Shell::new(limits);
    assert_eq!(shell.put(JSON, &[]).status(), 201);
    assert_eq!((shell.written, shell.messages.len()), (2, 2));
    assert!(shell.alarm.is_some());
    let mut written = 0;
    for (effect, message) in core::mem::take(&mut shell.messages) {
        shell.answer(effect, &message, 200);
        written += shell.written;
    }
    assert_eq!((written, shell.alarm), (1, None));
    // Nothing is sent twice. Later events have rows of their own.
    shell.sleep();
    shell.get("");
    assert!(shell.messages.is_empty());
    assert_eq!(shell.request("DELETE", "", &[], b"").status(), 204);
    shell.settle();
    shell.fire_until(|shell| shell.rows.is_empty() || !shell.messages.is_empty());
}

/// An announcement that the stream's row stands for outlives the stream, and is sent before the
/// end.
#[test]
fn a_creation_is_announced_after_a_sleep_and_after_the_end() {
    let limits = Limits {
        registry: true,
        ..Limits::DEFAULT
    };
    for deletes in [false, true] {
        let mut shell = stream(JSON, limits.clone());
        shell.messages.clear();
        if deletes {
            shell.request("DELETE", "", &[], b"");
        }
        shell.sleep();
        shell.fire();
        let sent = requests(&mut shell, 200);
        assert!(sent[0].contains("insert"), "{sent:?}");
        if deletes {
            let sent = requests(&mut shell, 200);
            assert!(sent[0].contains("delete"), "{sent:?}");
            assert!(shell.rows.is_empty());
        }
        shell.sleep();
        shell.get("");
        assert!(shell.messages.is_empty());
    }
}
