//! Tests of writes that depend on the state of the stream: entity tags (RFC 9110, 13) and
//! `Stream-Expected-Offset`.

use machine::Limits;

use crate::shell::{Answered, Shell};
use crate::{BINARY, stream};

const CLOSE: (&str, &str) = ("Stream-Closed", "true");

/// Returns a stream whose segments are sealed after two appends of one byte.
fn sealing() -> Shell {
    let mut shell = Shell::new(Limits {
        cold: true,
        segment_bytes_max: 10,
        ..Limits::DEFAULT
    });
    assert_eq!(shell.put(BINARY, &[]).status(), 201);
    shell
}

fn append(shell: &mut Shell, headers: &[(&str, &str)]) -> Answered {
    let headers = [&[("Content-Type", BINARY)], headers].concat();
    shell.request("POST", "", &headers, b"x")
}

fn tag(shell: &mut Shell) -> String {
    shell
        .request("HEAD", "", &[], b"")
        .header("ETag")
        .to_owned()
}

fn tail(shell: &mut Shell) -> String {
    shell
        .request("HEAD", "", &[], b"")
        .header("Stream-Next-Offset")
        .to_owned()
}

/// The methods that write, and the status of each on a stream that stays open.
const WRITES: [(&str, u16); 3] = [("PUT", 200), ("POST", 204), ("DELETE", 204)];

fn write(shell: &mut Shell, method: &str, headers: &[(&str, &str)]) -> Answered {
    let headers = [&[("Content-Type", BINARY)], headers].concat();
    let body: &[u8] = if method == "POST" { b"x" } else { b"" };
    shell.request(method, "", &headers, body)
}

#[test]
fn a_tag_of_the_present_state_lets_every_write_through() {
    for (method, status) in WRITES {
        for form in [
            "whole",
            "in a list",
            "any",
            "of a page that reaches the tail",
        ] {
            let mut shell = stream(BINARY, &[]);
            append(&mut shell, &[]);
            let tag = tag(&mut shell);
            let list = match form {
                "in a list" => format!("\"x\", {tag}"),
                "any" => "*".to_owned(),
                "whole" => tag,
                _ => shell.get("?offset=-1").header("ETag").to_owned(),
            };
            let written = write(&mut shell, method, &[("If-Match", &list)]);
            assert_eq!(written.status(), status, "{method}: {form}");
        }
    }
}

#[test]
fn a_tag_of_another_state_stops_every_write() {
    for (method, _) in WRITES {
        let mut shell = stream(BINARY, &[]);
        append(&mut shell, &[]);
        let former = tag(&mut shell);
        shell.request("DELETE", "", &[], b"");
        shell.put(BINARY, &[]);
        let empty = tag(&mut shell);
        append(&mut shell, &[]);
        let present = tag(&mut shell);
        let closed = format!("{}:c\"", present.trim_end_matches('"'));
        let weak = format!("W/{present}");
        for list in [&empty, &former, &closed, &weak, "\"x\"", "x", ""] {
            let refused = write(&mut shell, method, &[("If-Match", list)]);
            assert_eq!(
                (refused.status(), shell.written),
                (412, 0),
                "{method} {list}"
            );
            assert_eq!(refused.header("ETag"), present);
            assert_eq!(refused.header("Stream-Next-Offset"), tail(&mut shell));
        }
        for list in ["*", &present, &weak, &format!("\"x\", {weak}")] {
            let refused = write(&mut shell, method, &[("If-None-Match", list)]);
            assert_eq!(
                (refused.status(), shell.written),
                (412, 0),
                "{method} {list}"
            );
        }
        assert_eq!(tag(&mut shell), present);
    }
}

#[test]
fn a_stream_that_is_not_there_matches_nothing() {
    let mut shell = Shell::new(Limits::DEFAULT);
    let refused = shell.put(BINARY, &[("If-Match", "*")]);
    assert_eq!((refused.status(), shell.written), (412, 0));
    assert_eq!(refused.header("ETag"), "");
    for method in ["POST", "DELETE"] {
        // It would be refused without a precondition, too (RFC 9110, 13.2.1).
        assert_eq!(
            write(&mut shell, method, &[("If-Match", "*")]).status(),
            404
        );
    }
    assert!(shell.rows.is_empty());
    assert_eq!(shell.put(BINARY, &[("If-None-Match", "*")]).status(), 201);
    for content_type in [BINARY, "text/plain"] {
        assert_eq!(
            shell.put(content_type, &[("If-None-Match", "*")]).status(),
            412
        );
    }
}

#[test]
fn closing_changes_the_state_that_a_tag_names() {
    let mut shell = stream(BINARY, &[]);
    append(&mut shell, &[]);
    let open = tag(&mut shell);
    assert_eq!(
        shell
            .request("POST", "", &[CLOSE, ("If-Match", &open)], b"")
            .status(),
        204
    );
    let closed = tag(&mut shell);
    let again = |shell: &mut Shell, tag: &str| {
        let headers = [CLOSE, ("If-Match", tag)];
        shell.request("POST", "", &headers, b"").status()
    };
    assert_eq!(again(&mut shell, &open), 412);
    assert_eq!(again(&mut shell, &closed), 204);
    let refused = append(&mut shell, &[("If-Match", &open)]);
    assert_eq!(
        (refused.status(), refused.header("Stream-Closed")),
        (409, "true"),
        "that a stream is closed comes first"
    );
    assert_eq!(
        write(&mut shell, "DELETE", &[("If-Match", &open)]).status(),
        412
    );
    assert_eq!(
        write(&mut shell, "DELETE", &[("If-Match", &closed)]).status(),
        204
    );
}

#[test]
fn an_append_is_made_at_the_offset_that_it_expects_and_nowhere_else() {
    let mut shell = stream(BINARY, &[]);
    let expecting =
        |shell: &mut Shell, offset: &str| append(shell, &[("Stream-Expected-Offset", offset)]);
    let start = tail(&mut shell);
    let first = expecting(&mut shell, &start);
    assert_eq!(first.status(), 204);
    for offset in [&start, "-1", "9999999999999999_9999999999999999"] {
        let refused = expecting(&mut shell, offset);
        assert_eq!((refused.status(), shell.written), (409, 0), "{offset}");
        assert_eq!(
            refused.header("Stream-Next-Offset"),
            first.header("Stream-Next-Offset")
        );
        assert_eq!(refused.header("Stream-Closed"), "");
    }
    let close = |shell: &mut Shell, offset: &str| {
        shell.request(
            "POST",
            "",
            &[CLOSE, ("Stream-Expected-Offset", offset)],
            b"",
        )
    };
    assert_eq!(close(&mut shell, &start).status(), 409);
    let tail = tail(&mut shell);
    for _ in 0..2 {
        assert_eq!(close(&mut shell, &tail).status(), 204, "also as a retry");
    }
    let refused = close(&mut shell, &start);
    assert_eq!(
        (refused.status(), refused.header("Stream-Closed")),
        (409, "true"),
        "that a stream is closed comes first"
    );
    assert_eq!(expecting(&mut shell, &tail).header("Stream-Closed"), "true");
}

#[test]
fn both_names_of_a_tail_are_the_tail() {
    for name in [
        "0000000000000000_0000000000000002",
        "0000000000000001_0000000000000000",
    ] {
        for header in ["Stream-Expected-Offset", "If-Match"] {
            let mut shell = sealing();
            let start = tag(&mut shell);
            append(&mut shell, &[]);
            append(&mut shell, &[]);
            let incarnation = start.split(':').next().unwrap_or_default();
            let tag = format!("{incarnation}:0000000000000000_0000000000000000:{name}\"");
            let value = if header == "If-Match" { &tag } else { name };
            assert_eq!(
                append(&mut shell, &[(header, value)]).status(),
                204,
                "{header}: {value}"
            );
            let refused = append(&mut shell, &[(header, value)]);
            assert!(matches!(refused.status(), 409 | 412), "{header}: {value}");
        }
    }
}

#[test]
fn a_retry_succeeds_with_any_expected_offset() {
    let mut shell = stream(BINARY, &[]);
    let (start, tag) = (tail(&mut shell), tag(&mut shell));
    let headers = [
        ("Producer-Id", "p"),
        ("Producer-Epoch", "0"),
        ("Producer-Seq", "0"),
        ("Stream-Seq", "a"),
        ("Stream-Expected-Offset", &start),
        ("If-Match", &tag),
    ];
    assert_eq!(append(&mut shell, &headers).status(), 200);
    shell.sleep();
    assert_eq!(append(&mut shell, &headers).status(), 204);
    let next = [&headers[..2], &[("Producer-Seq", "1")], &headers[4..5]].concat();
    assert_eq!(append(&mut shell, &next).status(), 409);
    assert_eq!(
        append(&mut shell, &[&next[..3], &[("If-Match", &tag)]].concat()).status(),
        412
    );
    assert_eq!(
        append(&mut shell, &next[..3]).status(),
        200,
        "a refused append uses no sequence number"
    );
}

#[test]
fn both_conditions_on_an_append_must_hold() {
    let mut shell = stream(BINARY, &[]);
    append(&mut shell, &[("Stream-Seq", "b")]);
    let tail = tail(&mut shell);
    for (seq, offset) in [("a", &*tail), ("c", "-1"), ("a", "-1")] {
        let headers = [("Stream-Seq", seq), ("Stream-Expected-Offset", offset)];
        let refused = append(&mut shell, &headers);
        assert_eq!((refused.status(), shell.written), (409, 0), "{headers:?}");
        assert_eq!(refused.header("Stream-Next-Offset"), tail);
    }
    let headers = [("Stream-Seq", "c"), ("Stream-Expected-Offset", &*tail)];
    assert_eq!(append(&mut shell, &headers).status(), 204);
}
