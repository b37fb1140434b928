//! Plain reads in private cache mode: one answer up to the tail of its turn, over as many pages as
//! it takes.

use machine::{Answer, Limits, Millis, Offset, Rest};
use proptest::prelude::*;

use crate::shell::{Answered, Shell};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// Returns limits by which each message has its own page.
fn limits() -> Limits {
    Limits {
        cold: true,
        chunk_bytes_max: 4,
        index_step_bytes: 1,
        segment_messages_max: 3,
        ..Limits::DEFAULT
    }
}

fn stream(content_type: &str, headers: &[(&str, &str)], limits: Limits) -> Shell {
    let mut shell = Shell::new(limits);
    assert_eq!(shell.put(content_type, headers).status(), 201);
    shell
}

fn next(answer: &Answer) -> &str {
    answer.header("Stream-Next-Offset").expect("an offset")
}

/// Returns the body after a first page, and the number of pages.
fn remaining(shell: &mut Shell, mut rest: Option<Rest>) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut pages) = (Vec::new(), 0);
    while let Some(next) = rest {
        let (page, after) = shell.read_on(next)?;
        assert!(!page.is_empty());
        assert_eq!(shell.written, 0, "a read writes nothing");
        body.extend(page);
        pages += 1;
        rest = after;
    }
    Some((body, pages))
}

#[test]
fn a_plain_read_returns_everything_up_to_its_tail() {
    let mut shell = stream(JSON, &[], limits());
    for message in ["1", "22", "333", "4", "5", "6", "7"] {
        let tail = shell.post(JSON, message.as_bytes());
        let (answer, first, rest) = shell.begin_read("?offset=-1");
        assert_eq!(next(&answer), tail.header("Stream-Next-Offset"));
        assert_eq!(answer.header("Stream-Up-To-Date"), Some("true"));
        assert_eq!(answer.header("Stream-Closed"), None);
        assert_eq!(answer.header("Cache-Control"), Some("private, no-cache"));
        assert_eq!(first, if rest.is_none() { &b"[1]"[..] } else { b"[1" });
    }
    let (_, _, rest) = shell.begin_read("?offset=-1");
    let (body, pages) = remaining(&mut shell, rest).expect("the stream is there");
    assert_eq!(body, b",22,333,4,5,6,7]");
    assert_eq!(pages, 6);
    // In both tiers.
    shell.settle();
    assert_eq!(shell.get("?offset=-1").text(), "[1,22,333,4,5,6,7]");
    let from = format!("?offset={}", Offset::new(0, 2));
    assert_eq!(shell.get(&from).text(), "[333,4,5,6,7]");
}

#[test]
fn the_head_of_a_whole_read_is_that_of_head() {
    for closed in [false, true] {
        let mut shell = stream(TEXT, &[], limits());
        shell.post(TEXT, b"some words");
        shell.post(TEXT, b" and more");
        if closed {
            shell.request("POST", "", &[("Stream-Closed", "true")], b"");
        }
        let head = shell.request("HEAD", "", &[], b"");
        let (answer, _, rest) = shell.begin_read("");
        assert!(rest.is_some());
        for name in [
            "Content-Type",
            "ETag",
            "Stream-Next-Offset",
            "Stream-Closed",
        ] {
            assert_eq!(head.answer.header(name), answer.header(name), "{name}");
        }
        assert_eq!(answer.header("Stream-Closed").is_some(), closed);
    }
}

#[test]
fn the_end_of_an_answer_is_fixed_when_it_begins() {
    for (content_type, appends, expected) in [
        (JSON, ["1", "2", "3", "4", "5", "6"], "[1,2,3,4]"),
        (
            TEXT,
            ["abc", "defgh", "ijkl", "m", "no", "p"],
            "abcdefghijklm",
        ),
    ] {
        for closes in [false, true] {
            for stores in [false, true] {
                let mut shell = stream(content_type, &[], limits());
                let mut tail = String::new();
                for append in &appends[..4] {
                    let answered = shell.post(content_type, append.as_bytes());
                    tail = answered.header("Stream-Next-Offset").to_owned();
                }
                let (answer, mut body, mut rest) = shell.begin_read("?offset=-1");
                assert_eq!(next(&answer), tail);
                let mut later = appends[4..].iter();
                while let Some(next) = rest {
                    if let Some(append) = later.next() {
                        shell.post(content_type, append.as_bytes());
                    } else if closes {
                        shell.request("POST", "", &[("Stream-Closed", "true")], b"");
                    }
                    if stores {
                        shell.settle();
                    }
                    shell.sleep();
                    let (page, after) = shell.read_on(next).expect("the stream is there");
                    body.extend(page);
                    rest = after;
                }
                assert_eq!(String::from_utf8_lossy(&body), expected);
                // The next read continues where the answer ended.
                let on = shell.get(&format!("?offset={tail}")).text();
                let both = expected.to_owned() + &on;
                let both = both.replace("][", ",");
                assert_eq!(both, shell.get("").text());
            }
        }
    }
}

#[test]
fn an_answer_breaks_off_when_its_stream_has_ended() {
    type Ends = fn(&mut Shell);
    let deletes: Ends = |shell| {
        assert_eq!(shell.request("DELETE", "", &[], b"").status(), 204);
    };
    let replaces: Ends = |shell| {
        assert_eq!(shell.request("DELETE", "", &[], b"").status(), 204);
        assert_eq!(shell.put(TEXT, &[]).status(), 201);
        shell.post(TEXT, b"quite another text");
    };
    let expires: Ends = |shell| shell.now = Millis(shell.now.0 + 60_000);
    for ends in [deletes, replaces, expires] {
        for sleeps in [false, true] {
            let mut shell = stream(TEXT, &[("Stream-TTL", "60")], limits());
            shell.post(TEXT, b"some text");
            shell.post(TEXT, b" that is long");
            let (_, _, rest) = shell.begin_read("");
            let rest = rest.expect("more than a page");
            ends(&mut shell);
            if sleeps {
                shell.sleep();
                // An instance that has just been loaded expires a stream late.
                shell.now = Millis(shell.now.0 + 60_000 / shell.limits.touch_slack_divisor);
            }
            if sleeps && shell.get("").status() == 200 {
                // The second stream is younger.
                assert_eq!(shell.get("").text(), "quite another text");
            }
            assert!(shell.read_on(rest).is_none());
        }
    }
}

#[test]
fn each_page_that_a_client_reads_is_a_use() {
    let mut shell = stream(TEXT, &[("Stream-TTL", "60")], limits());
    let text = "a long text ".repeat(10);
    for append in text.as_bytes().chunks(4) {
        shell.post(TEXT, append);
    }
    let (_, mut body, mut rest) = shell.begin_read("");
    let begun = shell.now;
    while let Some(next) = rest {
        shell.now = shell.now.plus(50_000);
        let (page, after) = shell.read_on(next).expect("the stream is in use");
        body.extend(page);
        rest = after;
    }
    assert_eq!(String::from_utf8_lossy(&body), text);
    assert!(shell.now > begun.plus(600_000));
}

#[test]
fn a_tag_names_the_whole_range() {
    let mut shell = stream(JSON, &[], limits());
    for message in ["1", "2", "3", "4", "5"] {
        shell.post(JSON, message.as_bytes());
    }
    let tag = shell.get("").header("ETag").to_owned();
    let again = |shell: &mut Shell| -> Answered {
        shell.request("GET", "", &[("If-None-Match", tag.as_str())], b"")
    };
    let known = again(&mut shell);
    assert_eq!((known.status(), known.body.len()), (304, 0));
    assert_eq!(known.header("Stream-Up-To-Date"), "true");
    shell.post(JSON, b"6");
    let grown = again(&mut shell);
    assert_eq!(
        (grown.status(), grown.text().as_str()),
        (200, "[1,2,3,4,5,6]")
    );
}

#[test]
fn what_caches_may_keep_and_live_reads_stay_pages() {
    let mut shell = stream(JSON, &[], limits());
    for message in ["1", "2", "3", "4", "5"] {
        shell.post(JSON, message.as_bytes());
    }
    let shared = shell.request("GET", "", &[("X-Cache-Mode", "shared")], b"");
    assert_eq!(shared.text(), "[1]");
    assert!(
        shared
            .header("Cache-Control")
            .starts_with("public, max-age")
    );
    let polled = shell.get("?offset=-1&live=long-poll");
    assert_eq!(polled.text(), "[1]");
    for page in [shared, polled] {
        assert_eq!(page.header("Stream-Up-To-Date"), "");
        assert_eq!(
            page.header("Stream-Next-Offset"),
            Offset::new(0, 1).to_string()
        );
    }
}

proptest! {
    /// For any appends, seals and puts between its pages, an answer has what the stream held when
    /// it began, from any offset that was ever sent.
    #[test]
    fn an_answer_is_what_was_there_when_it_began(
        json in any::<bool>(),
        appends in prop::collection::vec(
            (prop::collection::vec(0usize..40, 1..6), 0usize..3),
            1..16,
        ),
        later in prop::collection::vec((0usize..40, 0usize..3, any::<bool>()), 0..20),
        row_bytes_max in 8u64..80,
        chunk_bytes_max in 1u64..150,
        index_step_bytes in 1u64..80,
        segment_bytes_max in 1u64..400,
        segment_messages_max in 1u64..20,
        page_parts_max in 1u64..5,
        from in any::<prop::sample::Index>(),
    ) {
        let content_type = if json { JSON } else { TEXT };
        let mut shell = stream(content_type, &[], Limits {
            cold: true,
            row_bytes_max,
            chunk_bytes_max,
            index_step_bytes,
            segment_bytes_max,
            segment_messages_max,
            page_parts_max,
            ..Limits::DEFAULT
        });
        let mut messages: Vec<String> = Vec::new();
        let mut offsets = vec![(Offset::START.to_string(), 0)];
        for (sizes, stores) in &appends {
            let message = |(index, size): (usize, &usize)| {
                format!("\"{}\"", (index + messages.len()).to_string().repeat(*size))
            };
            let batch: Vec<_> = sizes.iter().enumerate().map(message).collect();
            let body = if json { format!("[{}]", batch.join(",")) } else { batch.concat() };
            messages.extend(batch);
            let answered = shell.post(content_type, body.as_bytes());
            offsets.push((answered.header("Stream-Next-Offset").to_owned(), messages.len()));
            for _ in 0..*stores {
                if !shell.puts.is_empty() {
                    shell.store();
                }
            }
        }
        let (offset, before) = &offsets[from.index(offsets.len() - 1)];
        let tail = shell.request("HEAD", "", &[], b"");
        let (answer, mut body, mut rest) = shell.begin_read(&format!("?offset={offset}"));
        prop_assert_eq!(next(&answer), tail.header("Stream-Next-Offset"));
        let mut later = later.iter();
        while let Some(next) = rest {
            if let Some((size, stores, sleeps)) = later.next() {
                shell.post(content_type, format!("\"{}\"", "z".repeat(*size)).as_bytes());
                for _ in 0..*stores {
                    if !shell.puts.is_empty() {
                        shell.store();
                    }
                }
                if *sleeps {
                    shell.sleep();
                }
            }
            let Some((page, after)) = shell.read_on(next) else {
                return Err(TestCaseError::fail("the stream is there"));
            };
            prop_assert!(after.is_none_or(|after| after.from > next.from && after.to == next.to));
            body.extend(page);
            rest = after;
        }
        let expected = if json {
            format!("[{}]", messages[*before..].join(","))
        } else {
            messages[*before..].concat()
        };
        prop_assert_eq!(String::from_utf8_lossy(&body), expected);
    }
}

#[test]
fn a_page_that_no_longer_reaches_the_tail_has_changed() {
    let mut shell = stream(JSON, &[], limits());
    shell.post(JSON, b"1");
    let shared = |shell: &mut Shell, tag: &str| {
        let headers = [("X-Cache-Mode", "shared"), ("If-None-Match", tag)];
        shell.request("GET", "?offset=-1", &headers, b"")
    };
    let at_tail = shared(&mut shell, "\"none\"");
    assert_eq!(at_tail.header("Stream-Up-To-Date"), "true");
    shell.post(JSON, b"2");
    // A 304 would keep the Stream-Up-To-Date that the client has stored.
    let page = shared(&mut shell, at_tail.header("ETag"));
    assert_eq!((page.status(), page.text().as_str()), (200, "[1]"));
    assert_eq!(page.header("Stream-Up-To-Date"), "");
    assert_eq!(shared(&mut shell, page.header("ETag")).status(), 304);
}
