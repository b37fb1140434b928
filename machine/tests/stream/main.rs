//! Tests of a stream over time and over many rows, which are hard to do with a running server.

mod admin;
mod cold;
mod events;
mod forks;
mod outbox;
mod precondition;
mod shell;
mod whole;

use std::sync::Arc;

use machine::{Class, Input, Limits, MemoryRows, Millis, Stream, StreamEnd, Write};
use proptest::prelude::*;
use shell::Shell;

const BINARY: &str = "application/octet-stream";
const JSON: &str = "application/json";

fn stream(content_type: &str, headers: &[(&str, &str)]) -> Shell {
    let mut shell = Shell::new(Limits::DEFAULT);
    assert_eq!(shell.put(content_type, headers).status(), 201);
    shell
}

#[test]
fn an_append_is_one_write_and_the_first_of_a_segment_makes_its_table() {
    let mut shell = stream(JSON, &[]);
    assert_eq!(shell.rows.hot_tables().count(), 0);
    shell.post(JSON, b"1");
    assert_eq!((shell.written, shell.rows.hot_tables().count()), (2, 1));
    let batch = format!("[{}]", vec!["{\"n\":1}"; 100].join(","));
    shell.post(JSON, batch.as_bytes());
    assert_eq!(shell.written, 1);
    let headers = [
        ("Content-Type", JSON),
        ("Producer-Id", "p"),
        ("Producer-Epoch", "0"),
        ("Producer-Seq", "0"),
        ("Stream-Seq", "a"),
    ];
    assert_eq!(shell.request("POST", "", &headers, b"1").status(), 200);
    assert_eq!(shell.written, 1);
    let read = shell.get("");
    assert_eq!((read.status(), shell.written), (200, 0));
    assert_eq!(
        read.header("Stream-Next-Offset"),
        "0000000000000000_0000000000000102"
    );
}

#[test]
fn nothing_is_written_for_a_stream_that_is_not_there() {
    let mut shell = Shell::new(Limits::DEFAULT);
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        let answered = shell.request(method, "", &[("Content-Type", BINARY)], b"x");
        assert_eq!((answered.status(), shell.written), (404, 0), "{method}");
    }
    assert!(shell.rows.is_empty() && shell.alarm.is_none());
}

#[test]
fn a_refused_put_creates_nothing() {
    let mut shell = Shell::new(Limits::DEFAULT);
    let put = |shell: &mut Shell, headers: &[(&str, &str)], body: &[u8]| {
        shell.request("PUT", "", headers, body).status()
    };
    assert_eq!(put(&mut shell, &[("Content-Type", JSON)], b"{"), 400);
    let gap = [
        ("Content-Type", BINARY),
        ("Producer-Id", "p"),
        ("Producer-Epoch", "0"),
        ("Producer-Seq", "1"),
    ];
    assert_eq!(put(&mut shell, &gap, b"x"), 409);
    assert_eq!(put(&mut shell, &[("Content-Type", "nonsense")], b""), 400);
    assert_eq!(
        put(&mut shell, &[("Stream-Forked-From", "/v1/stream/a")], b""),
        501
    );
    assert!(shell.rows.is_empty());
    assert_eq!(shell.get("").status(), 404);
}

#[test]
fn a_ttl_slides_with_use_and_is_rarely_stored() {
    let mut shell = stream(BINARY, &[("Stream-TTL", "80")]);
    shell.post(BINARY, b"x");
    let mut stored = 0;
    for _ in 0..1_000 {
        shell.now = shell.now.plus(1_000);
        assert_eq!(shell.get("").status(), 200);
        stored += shell.written;
    }
    // The slack is 10 s, and the reads are 1 s apart.
    assert!((80..=100).contains(&stored), "{stored}");
    shell.now = shell.now.plus(79_999);
    assert_eq!(shell.request("HEAD", "", &[], b"").status(), 200);
    shell.now = shell.now.plus(1);
    assert_eq!(shell.request("HEAD", "", &[], b"").status(), 404);
    assert!(shell.rows.is_empty());
}

#[test]
fn an_instance_that_wakes_never_expires_a_stream_early() {
    for pause in [0, 1_000, 9_999, 10_000, 10_001, 40_000, 79_999] {
        let mut shell = stream(BINARY, &[("Stream-TTL", "80")]);
        shell.now = shell.now.plus(pause);
        assert_eq!(shell.get("").status(), 200);
        shell.sleep();
        shell.now = shell.now.plus(79_999);
        assert_eq!(shell.get("").status(), 200, "{pause}");
        shell.sleep();
        shell.now = shell.now.plus(80_000 + 10_000);
        assert_eq!(shell.get("").status(), 404, "{pause}");
    }
}

#[test]
fn the_alarm_ends_a_stream_that_gets_no_requests() {
    let mut shell = stream(BINARY, &[("Stream-TTL", "80")]);
    let created = shell.now;
    for _ in 0..20 {
        shell.now = shell.now.plus(7_000);
        shell.post(BINARY, b"x");
    }
    let last_used = shell.now;
    let mut fired = 0;
    while shell.alarm.is_some() {
        shell.sleep();
        shell.fire();
        fired += 1;
    }
    assert!(shell.rows.is_empty());
    assert!(
        shell.now >= last_used.plus(80_000) && shell.now <= last_used.plus(90_000),
        "{:?}",
        shell.now
    );
    assert!(shell.now > created && fired <= 4, "{fired}");
    assert_eq!(
        shell.broadcast.as_ref().and_then(|broadcast| broadcast.end),
        Some(StreamEnd::Deleted)
    );
}

#[test]
fn readers_at_the_tail_keep_a_sliding_stream_and_not_a_fixed_one() {
    let mut shell = stream(BINARY, &[("Stream-TTL", "80")]);
    assert!(shell.get("?offset=-1&live=sse").attached);
    shell.attached = 1;
    for _ in 0..5 {
        shell.sleep();
        shell.fire();
        assert!(!shell.rows.is_empty());
    }
    shell.now = shell.now.plus(40_000);
    shell.attached = 0;
    shell.leave();
    let left = shell.now;
    while shell.alarm.is_some() {
        shell.fire();
    }
    assert!(shell.rows.is_empty() && shell.now >= left.plus(80_000));

    let mut shell = stream(BINARY, &[("Stream-Expires-At", "2027-01-15T08:00:10Z")]);
    assert!(shell.get("?offset=-1&live=sse").attached);
    shell.attached = 1;
    shell.fire();
    assert!(shell.rows.is_empty());
    assert_eq!(shell.now, Millis(1_800_000_010_000));
}

#[test]
fn a_reader_of_a_deleted_stream_does_not_keep_its_successor() {
    let mut shell = stream(BINARY, &[("Stream-TTL", "80")]);
    assert!(shell.get("?offset=-1&live=sse").attached);
    shell.request("DELETE", "", &[], b"");
    shell.put(BINARY, &[("Stream-TTL", "80")]);
    shell.now = shell.now.plus(79_999);
    shell.leave();
    shell.now = shell.now.plus(1);
    assert_eq!(shell.request("HEAD", "", &[], b"").status(), 404);
}

#[test]
fn a_clock_behind_the_platforms_makes_no_alarm_loop() {
    let mut shell = stream(BINARY, &[("Stream-TTL", "1")]);
    shell.attached = 1;
    let mut platform = shell.now;
    for _ in 0..400 {
        let at = shell.alarm.take().expect("an alarm is set");
        platform = platform.plus(10).max(at);
        // The object's clock is 3 s behind the clock of the alarms.
        shell.now = Millis(platform.0 - 3_000);
        shell.input(Input::Alarm);
    }
    assert!(
        platform >= shell.now.plus(3_000) && platform.0 >= 1_800_000_000_000 + 99 * 1_000,
        "{platform:?}"
    );
}

#[test]
fn an_alarm_that_fired_too_early_fires_again_after_a_pause() {
    let mut shell = stream(BINARY, &[("Stream-Expires-At", "2027-01-15T08:00:10Z")]);
    let mut platform = shell.now;
    let mut came = 0;
    while let Some(at) = shell.alarm.take() {
        platform = platform.plus(1).max(at);
        // The object's clock is 3 s behind the clock of the alarms.
        shell.now = Millis(platform.0 - 3_000);
        shell.input(Input::Alarm);
        came += 1;
    }
    assert!(shell.rows.is_empty());
    assert!(
        came <= 5 && platform.0 <= 1_800_000_014_000,
        "{came} {platform:?}"
    );
}

#[test]
fn a_lost_alarm_is_set_again_by_the_next_event() {
    let mut shell = stream(BINARY, &[("Stream-TTL", "8")]);
    shell.alarm = None;
    shell.attached = 1;
    shell.now = shell.now.plus(200_000);
    shell.sleep();
    assert_eq!(shell.get("").status(), 200);
    assert!(shell.alarm.is_some_and(|at| at > shell.now));
}

#[test]
fn a_ttl_beyond_all_dates_needs_no_alarm() {
    // The longest TTL that ends before JavaScript's last date, and the longest of all.
    for (ttl, has_alarm) in [("6000000000000", true), ("9007199254740991", false)] {
        let mut shell = stream(BINARY, &[("Stream-TTL", ttl)]);
        assert_eq!(shell.alarm.is_some(), has_alarm, "{ttl}");
        assert!(
            shell
                .alarm
                .is_none_or(|at| at.0 <= shell.limits.alarm_at_max_ms),
            "{ttl}"
        );
        shell.now = shell.now.plus(1_000_000_000_000);
        assert_eq!(
            shell.request("HEAD", "", &[], b"").header("Stream-TTL"),
            ttl
        );
        assert_eq!(shell.get("").status(), 200);
    }
}

#[test]
fn a_ttl_of_zero_expires_at_once() {
    let mut shell = stream(BINARY, &[("Stream-TTL", "0")]);
    assert_eq!(shell.get("").status(), 404);
    assert!(shell.rows.is_empty() && shell.alarm.is_none());
}

#[test]
fn an_expired_stream_is_gone_even_when_the_request_that_finds_it_is_refused() {
    for (method, content_type, body) in
        [("PUT", JSON, "{"), ("POST", JSON, "{"), ("PUT", BINARY, "")]
    {
        let mut shell = stream(JSON, &[("Stream-TTL", "8")]);
        shell.post(JSON, b"1");
        shell.now = shell.now.plus(8_000);
        let headers = [("Content-Type", content_type)];
        let status = shell
            .request(method, "", &headers, body.as_bytes())
            .status();
        assert_eq!(
            shell.rows.is_empty(),
            status != 201,
            "{method} {body:?} {status}"
        );
        shell.sleep();
        assert_eq!(
            shell.get("").status(),
            if status == 201 { 200 } else { 404 },
            "{method} {body:?}"
        );
    }
}

#[test]
fn a_stream_created_anew_shares_nothing_with_the_old_one() {
    let mut shell = stream(BINARY, &[]);
    let mut tags = std::collections::BTreeSet::new();
    for round in 0..6 {
        shell.post(BINARY, b"same");
        assert!(
            tags.insert(shell.get("").header("ETag").to_owned()),
            "{tags:?}"
        );
        if round % 2 == 0 {
            shell.sleep();
        }
        assert_eq!(shell.request("DELETE", "", &[], b"").status(), 204);
        assert!(shell.rows.is_empty());
        shell.put(BINARY, &[]);
    }
}

#[test]
fn producers_are_remembered_over_a_sleep() {
    let mut shell = stream(BINARY, &[]);
    let append = |shell: &mut Shell, epoch: &str, seq: &str, stream_seq: &str| {
        let headers = [
            ("Content-Type", BINARY),
            ("Producer-Id", "p"),
            ("Producer-Epoch", epoch),
            ("Producer-Seq", seq),
            ("Stream-Seq", stream_seq),
        ];
        shell.request("POST", "", &headers, b"x").status()
    };
    assert_eq!(append(&mut shell, "1", "0", "a"), 200);
    assert_eq!(append(&mut shell, "1", "1", "b"), 200);
    shell.sleep();
    assert_eq!(append(&mut shell, "1", "1", "c"), 204);
    assert_eq!(append(&mut shell, "0", "2", "c"), 403);
    assert_eq!(append(&mut shell, "1", "3", "c"), 409);
    assert_eq!(append(&mut shell, "1", "2", "b"), 409);
    assert_eq!(append(&mut shell, "1", "2", "c"), 200);
    let close = [
        ("Stream-Closed", "true"),
        ("Producer-Id", "p"),
        ("Producer-Epoch", "1"),
        ("Producer-Seq", "3"),
    ];
    for _ in 0..2 {
        let closed = shell.request("POST", "", &close, b"");
        assert_eq!(
            (
                closed.status(),
                closed.header("Stream-Closed"),
                closed.header("Producer-Seq")
            ),
            (204, "true", "3")
        );
        shell.sleep();
    }
    assert_eq!(
        append(&mut shell, "1", "3", "d"),
        204,
        "the retry of what closed the stream"
    );
    let late = shell.post("text/plain", b"x");
    assert_eq!(
        (late.status(), late.header("Stream-Closed")),
        (409, "true"),
        "closed comes before the content type"
    );
}

#[test]
fn each_turn_broadcasts_its_changes_to_subscribers() {
    let mut shell = stream(JSON, &[]);
    shell.post(JSON, b"[1,[2]]");
    let broadcast = shell.broadcast.take().expect("an append is broadcast");
    assert_eq!(
        (
            broadcast.from.position,
            broadcast.next.position,
            broadcast.end
        ),
        (0, 2, None)
    );
    let (head, body) = machine::live_reader::MessageHead::decode(
        &broadcast.message(Class::Sse).expect("whole frames"),
    )
    .expect("a message");
    assert_eq!(
        (head.whole, String::from_utf8_lossy(&body).as_ref()),
        (true, "event: data\ndata:[1,[2]]\n\n")
    );
    let (head, body) = machine::live_reader::MessageHead::decode(
        &broadcast.message(Class::LongPoll).expect("whole frames"),
    )
    .expect("a message");
    assert_eq!(
        (head.status, String::from_utf8_lossy(&body).as_ref()),
        (Some(200), "[1,[2]]")
    );

    shell.limits.frame_bytes_max = 10;
    shell.sleep();
    shell.post(JSON, b"\"0123456789\"");
    let broadcast = shell.broadcast.take().expect("an append is broadcast");
    let (head, body) = machine::live_reader::MessageHead::decode(
        &broadcast.message(Class::Sse).expect("whole frames"),
    )
    .expect("a message");
    assert!(!head.whole && body.is_empty() && head.next.position == 3);

    shell.request("POST", "", &[("Stream-Closed", "true")], b"");
    let broadcast = shell.broadcast.take().expect("a close is broadcast");
    assert_eq!(
        (broadcast.from, broadcast.end),
        (broadcast.next, Some(StreamEnd::Closed))
    );
    shell.request("DELETE", "", &[], b"");
    assert_eq!(
        shell.broadcast.take().and_then(|broadcast| broadcast.end),
        Some(StreamEnd::Deleted)
    );
}

/// Returns the records of a page's body.
fn records(content_type: &str, body: &[u8]) -> Vec<u8> {
    if content_type == JSON {
        let values: Vec<serde_json::Value> = serde_json::from_slice(body).expect("an array");
        values
            .iter()
            .flat_map(|value| [value.to_string().into_bytes(), b"\n".to_vec()].concat())
            .collect()
    } else {
        body.to_vec()
    }
}

proptest! {
    /// For all sizes of appends, rows and pages, pages tile the stream, and a reader gets from any
    /// offset to the tail.
    #[test]
    fn pages_tile_the_stream(
        json in any::<bool>(),
        appends in prop::collection::vec(prop::collection::vec(0usize..60, 1..6), 1..12),
        row_bytes_max in 5u64..80,
        chunk_bytes_max in 1u64..120,
        sse in any::<bool>(),
    ) {
        let content_type = if json { JSON } else { "text/plain" };
        let mut shell = Shell::new(Limits { row_bytes_max, chunk_bytes_max, ..Limits::DEFAULT });
        shell.put(content_type, &[]);
        let mut whole = Vec::new();
        let mut begins = vec![0];
        for (index, sizes) in appends.iter().enumerate() {
            let letter = char::from(b'a' + (index % 26) as u8);
            let letter = letter.to_string();
            let message = |size: &usize| format!("\"{}\"", letter.repeat(*size));
            let messages: Vec<_> = sizes.iter().map(message).collect();
            let body = if json { format!("[{}]", messages.join(",")) } else { messages.concat() };
            let expected = if json { messages.join("\n") + "\n" } else { messages.concat() };
            whole.extend_from_slice(expected.as_bytes());
            begins.push(whole.len());
            prop_assert_eq!(shell.post(content_type, body.as_bytes()).status(), 204);
        }
        if !sse {
            let mut read = Vec::new();
            let mut offset = "-1".to_owned();
            loop {
                let page = shell.get_page(&format!("?offset={offset}"));
                prop_assert_eq!(page.status(), 200);
                read.extend(records(content_type, &page.body));
                if !json {
                    let end = begins.iter().position(|begin| *begin == read.len());
                    let begin = end.and_then(|end| begins.get(end.checked_sub(1)?));
                    let last = read.len() - begin.expect("a page ends where an append does");
                    prop_assert!((page.body.len() - last) as u64 <= chunk_bytes_max);
                }
                let next = page.header("Stream-Next-Offset");
                prop_assert!(next > offset.as_str() || page.body.is_empty());
                offset = next.to_owned();
                if page.header("Stream-Up-To-Date") == "true" {
                    break;
                }
            }
            prop_assert_eq!(&read, &whole);
            // From every single position.
            let tail: machine::Offset = offset.parse().expect("an offset");
            for position in 0..tail.position {
                let begin = machine::Offset::new(0, position);
                let page = shell.get_page(&format!("?offset={begin}"));
                let rest = records(content_type, &page.body);
                prop_assert!(!rest.is_empty());
                let skipped = if json {
                    let lines = whole.split_inclusive(|byte| *byte == b'\n');
                    lines.take(position as usize).map(<[u8]>::len).sum()
                } else {
                    // An offset inside an append is read from its beginning.
                    let before = |begin: &&usize| **begin <= position as usize;
                    *begins.iter().rfind(before).expect("the first is 0")
                };
                prop_assert!(whole[skipped..].starts_with(&rest));
            }
        } else {
            let mut read = String::new();
            let mut offset = "-1".to_owned();
            loop {
                let page = shell.get(&format!("?offset={offset}&live=sse"));
                if page.attached {
                    break;
                }
                let head = page.header("Stream-Subscriber");
                let head = machine::live_reader::LiveHead::from_header(head).expect("a head");
                let text = page.text();
                let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
                let data = data.collect::<Vec<_>>().join("\n");
                let records = records(content_type, data.as_bytes());
                read.push_str(&String::from_utf8_lossy(&records));
                offset = head.next.to_string();
            }
            prop_assert_eq!(read.as_bytes(), &whole[..]);
        }
    }
}

#[test]
fn an_event_stream_continues_from_an_event_of_this_stream_only() {
    let mut shell = stream("text/plain", &[]);
    shell.post("text/plain", b"abc");
    shell.post("text/plain", b"def");
    let last_seen = "0000000000000000_0000000000000003";
    let read = |shell: &mut Shell, query: &str, id: &str| {
        let query = format!("?live=sse&offset={query}");
        shell.request("GET", &query, &[("Last-Event-ID", id)], b"")
    };
    for query in ["-1", "now", "0000000000000000_0000000000000006"] {
        assert_eq!(
            read(&mut shell, query, last_seen).text(),
            "event: data\ndata:def\n\n"
        );
    }
    for id in [
        "",
        "x",
        "0000000000000000_0000000000000007",
        "0000000000000001_0000000000000001",
    ] {
        let page = read(&mut shell, "-1", id);
        assert!(page.text().contains("abc"), "{id}: {}", page.text());
        assert!(read(&mut shell, "now", id).attached, "{id}");
    }
    let end = "0000000000000000_0000000000000006";
    assert!(read(&mut shell, "-1", end).attached);
    assert_eq!(
        shell
            .request("POST", "", &[("Stream-Closed", "true")], b"")
            .status(),
        204
    );
    let ended = read(&mut shell, "-1", end);
    assert_eq!(
        (
            ended.status(),
            ended.header("Stream-Next-Offset"),
            ended.header("Stream-Closed")
        ),
        (204, end, "true")
    );
    assert_eq!(
        read(&mut shell, "now", "x").status(),
        200,
        "it has not received the end"
    );
}

#[test]
fn an_instance_does_not_load_from_a_damaged_open_segment() {
    let mut shell = stream(BINARY, &[]);
    shell.post(BINARY, b"abc");
    let damages: [fn(&mut Write); 4] = [
        |_| {},
        |write| {
            if let Write::InsertHot { row, .. } = write {
                row.units = 0;
            }
        },
        |write| {
            if let Write::InsertHot { row, .. } = write {
                row.units = 1_000;
            }
        },
        |write| {
            if let Write::InsertStream(row) = write {
                row.writable = false;
            }
        },
    ];
    let is_loaded = damages.map(|damage| {
        let mut rows = MemoryRows::default();
        for mut write in shell.rows.as_writes() {
            damage(&mut write);
            rows.apply(&write).expect("the rows take the write");
        }
        Stream::load(shell.now, &rows, &Arc::new(shell.limits.clone()), 1).is_ok()
    });
    assert_eq!(is_loaded, [true, false, false, false]);
}
