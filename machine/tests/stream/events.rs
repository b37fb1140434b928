//! The events that operators count.

use machine::{EventKind, Limits};

use super::shell::Shell;
use super::{BINARY, JSON};

fn shell() -> Shell {
    Shell::new(Limits {
        cold: true,
        metrics: true,
        ..Limits::DEFAULT
    })
}

/// Takes the events since the last call, as text: kind, calls, messages, bytes and status.
fn taken(shell: &mut Shell) -> Vec<String> {
    let turns = core::mem::take(&mut shell.events);
    let events = turns.into_iter().flat_map(|turn| {
        assert!(turn.events.is_empty() || turn.weight == 1, "all are told");
        turn.events
    });
    let texts = events.map(|event| {
        format!(
            "{} {} {} {} {}",
            event.kind.name(),
            event.calls,
            event.messages,
            event.bytes,
            event.status
        )
    });
    texts.collect()
}

#[test]
fn every_use_of_a_stream_is_told_once() {
    let mut shell = shell();
    shell.put(JSON, &[]);
    assert_eq!(taken(&mut shell), ["create 1 0 0 0"]);
    shell.put(JSON, &[]);
    shell.request("HEAD", "", &[], b"");
    shell.request("PATCH", "", &[("X-Admin-Call", "detail")], b"");
    assert_eq!(taken(&mut shell), [""; 0]);
    shell.post(JSON, b"[1,22]");
    assert_eq!(taken(&mut shell), ["append 1 2 3 0"]);
    shell.get("");
    assert_eq!(taken(&mut shell), ["read 1 2 0 0"]);
    shell.post(BINARY, b"x");
    assert_eq!(taken(&mut shell), ["refuse 1 0 0 409"]);
    shell.request("POST", "", &[("Stream-Closed", "true")], b"");
    let mut events = taken(&mut shell);
    events.sort_unstable();
    assert_eq!(events, ["close 1 0 0 0", "seal 0 2 3 0"]);
    shell.store();
    assert_eq!(taken(&mut shell), ["store 0 2 3 0"]);
    shell.request("DELETE", "", &[], b"");
    assert_eq!(taken(&mut shell), ["delete 1 0 0 0"]);
    shell.get("");
    assert_eq!(taken(&mut shell), ["refuse 1 0 0 404"]);
}

#[test]
fn an_end_by_itself_is_no_deletion_and_its_request_is_refused() {
    let mut shell = shell();
    shell.put(BINARY, &[("Stream-TTL", "1")]);
    shell.post(BINARY, b"abc");
    shell.get("");
    let events = ["create 1 0 0 0", "append 1 1 3 0", "read 1 0 3 0"];
    assert_eq!(taken(&mut shell), events);
    shell.now = shell.now.plus(60_000);
    shell.request("DELETE", "", &[], b"");
    assert_eq!(taken(&mut shell), ["expire 0 0 0 0", "refuse 1 0 0 404"]);
}

#[test]
fn nothing_is_told_unless_somebody_listens() {
    let mut shell = Shell::new(Limits::DEFAULT);
    shell.put(JSON, &[]);
    shell.post(JSON, b"1");
    shell.get("");
    assert_eq!(taken(&mut shell), [""; 0]);
}

#[test]
fn the_name_of_a_stream_outlives_it_in_its_events() {
    let mut shell = shell();
    shell.put(JSON, &[]);
    shell.request("DELETE", "", &[], b"");
    let names = shell.events.iter().map(|turn| turn.stream.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["s", "s"]);
    let kinds = shell.events.iter().flat_map(|turn| &turn.events);
    let kinds: Vec<_> = kinds.map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Create, EventKind::Delete]);
}

#[test]
fn a_sample_tells_some_and_says_for_how_many_they_stand() {
    let mut shell = shell();
    shell.limits.metrics_sample = 3;
    shell.put(JSON, &[]);
    for _ in 0..300 {
        shell.post(JSON, b"1");
    }
    let told = shell.events.iter().filter(|turn| !turn.events.is_empty());
    let weights: Vec<_> = told.map(|turn| turn.weight).collect();
    assert!((60..140).contains(&weights.len()), "{}", weights.len());
    assert!(weights.iter().all(|weight| *weight == 3));
}
