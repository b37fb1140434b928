//! Sessions and the streams that they follow.

use machine::Millis;
use machine::fanout::{Delivery, Next};
use serde_json::{Value, json};

use crate::server::{Cost, Server, body};

/// Creates a session, and returns its id.
pub(crate) fn created(server: &mut Server) -> String {
    let answer = server.session("POST", "/v1/sessions", "");
    assert_eq!(answer.status, 201);
    let id: Value = serde_json::from_slice(&body(&answer)).expect("JSON");
    id["sessionId"].as_str().expect("a text").to_owned()
}

pub(crate) fn subscribe(
    server: &mut Server,
    session: &str,
    stream: &str,
    from: Option<&str>,
) -> u16 {
    let body = json!({"sessionId": session, "streamId": stream, "from": from});
    let answer = server.session("POST", "/v1/subscriptions", &body.to_string());
    answer.status
}

fn unsubscribe(server: &mut Server, session: &str, stream: &str) -> u16 {
    let body = json!({"sessionId": session, "streamId": stream});
    let answer = server.session("DELETE", "/v1/subscriptions", &body.to_string());
    answer.status
}

/// Appends, and returns the tail.
pub(crate) fn append(server: &mut Server, stream: &str, content: &str) -> String {
    let answer = server.request("POST", stream, "", content);
    assert_eq!(answer.status, 204);
    answer
        .header("Stream-Next-Offset")
        .expect("an offset")
        .to_owned()
}

fn envelopes(server: &mut Server, session: &str) -> Vec<Value> {
    let stream = format!("subscriptions/{session}");
    let answer = server.request("GET", &stream, "?offset=-1", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&body(&answer)).expect("JSON")
}

fn subscribed(server: &mut Server, session: &str) -> Value {
    let answer = server.session("GET", &format!("/v1/subscriptions/{session}"), "");
    assert_eq!(answer.status, 200);
    serde_json::from_slice(&body(&answer)).expect("JSON")
}

#[test]
fn each_append_arrives_once_as_an_envelope() {
    let mut server = Server::new();
    let session = created(&mut server);
    assert_eq!(subscribe(&mut server, &session, "a", None), 404);
    server.request("PUT", "a", "", "[0]");
    assert_eq!(subscribe(&mut server, &session, "a", None), 204);
    assert_eq!(subscribe(&mut server, &session, "a", None), 204);
    let mut expected = Vec::new();
    for (content, payload, messages) in [
        ("1", json!(1), None),
        ("[2,3]", json!([2, 3]), Some(2)),
        ("[[4,5]]", json!([4, 5]), None),
        ("{\"a\":6}", json!({"a": 6}), None),
    ] {
        let offset = append(&mut server, "a", content);
        let mut envelope =
            json!({"stream": "a", "offset": offset, "type": "data", "payload": payload});
        if let Some(messages) = messages {
            envelope["messages"] = json!(messages);
        }
        expected.push(envelope);
        assert_eq!(envelopes(&mut server, &session), expected);
        server.sleep();
    }
    assert_eq!(subscribed(&mut server, &session), json!(["a"]));
}

#[test]
fn bytes_arrive_as_base64_and_a_large_append_without_content() {
    let mut server = Server::new();
    let session = created(&mut server);
    let text = ("Content-Type", "text/plain");
    let target = machine::outbox::target("t");
    server.send("t", "PUT", &target, &[text], "");
    assert_eq!(subscribe(&mut server, &session, "t", None), 204);
    server.send("t", "POST", &target, &[text], "ab");
    server.send("t", "POST", &target, &[text], &"x".repeat(300 << 10));
    server.send("t", "POST", &target, &[text], "c");
    let found = envelopes(&mut server, &session);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(
        (&found[0]["payload"], &found[0]["encoding"]),
        (&json!("YWI="), &json!("base64"))
    );
    assert_eq!(
        (&found[1]["payload"], &found[1]["omitted"]),
        (&Value::Null, &json!(true))
    );
    assert_eq!(found[2]["payload"], json!("Yw=="));
}

#[test]
fn a_subscription_from_an_offset_has_no_gap() {
    let mut server = Server::new();
    server.limits.delivery_appends_max = 2;
    let session = created(&mut server);
    server.request("PUT", "a", "", "[0]");
    let first = append(&mut server, "a", "1");
    for number in 2..8 {
        append(&mut server, "a", &number.to_string());
    }
    assert_eq!(subscribe(&mut server, &session, "a", Some("nonsense")), 400);
    assert_eq!(subscribe(&mut server, &session, "a", Some(&first)), 204);
    let payloads = |found: Vec<Value>| {
        let numbers = found.into_iter().map(|each| each["payload"].clone());
        numbers.collect::<Vec<_>>()
    };
    let expected: Vec<_> = (2..8).map(|number| json!(number)).collect();
    assert_eq!(payloads(envelopes(&mut server, &session)), expected);
    // What the session has already is not delivered again.
    assert_eq!(unsubscribe(&mut server, &session, "a"), 204);
    assert_eq!(unsubscribe(&mut server, &session, "a"), 204);
    assert_eq!(subscribed(&mut server, &session), json!([]));
    append(&mut server, "a", "8");
    assert_eq!(subscribe(&mut server, &session, "a", Some("-1")), 204);
    append(&mut server, "a", "9");
    let expected: Vec<_> = (2..10).map(|number| json!(number)).collect();
    assert_eq!(payloads(envelopes(&mut server, &session)), expected);
}

#[test]
fn a_session_that_begins_behind_all_others_is_told_by_a_later_instance() {
    let mut server = Server::new();
    let [one, other] = [created(&mut server), created(&mut server)];
    server.request("PUT", "a", "", "[0]");
    assert_eq!(subscribe(&mut server, &one, "a", None), 204);
    append(&mut server, "a", "1");
    // The stream has noted that all sessions have everything. Its next call is lost.
    server.unreadable = (format!("subscriptions/{other}"), 1);
    assert_eq!(subscribe(&mut server, &other, "a", Some("-1")), 204);
    assert_eq!(envelopes(&mut server, &other), Vec::<Value>::new());
    server.sleep();
    let until = Millis(server.now.0 + 600_000);
    server.run_until(until);
    assert_eq!(envelopes(&mut server, &other).len(), 2);
}

#[test]
fn both_sides_are_cleaned_up() {
    let mut server = Server::new();
    server.limits.session_ttl_seconds = 10;
    server.limits.session_tombstone_ms = 1_000_000;
    let [one, other] = [created(&mut server), created(&mut server)];
    server.request("PUT", "a", "", "");
    server.request("PUT", "b", "", "");
    for stream in ["a", "b"] {
        assert_eq!(subscribe(&mut server, &one, stream, None), 204);
        assert_eq!(subscribe(&mut server, &other, stream, None), 204);
    }
    // A stream that ends leaves all sessions.
    server.request("DELETE", "b", "", "");
    assert_eq!(subscribed(&mut server, &one), json!(["a"]));
    assert!(server.places["b"].rows.is_empty());
    // A session that is deleted, or expires, leaves its streams.
    let answer = server.session("DELETE", &format!("/v1/sessions/{one}"), "");
    assert_eq!(answer.status, 204);
    let gone = server.session("GET", &format!("/v1/sessions/{one}"), "");
    assert_eq!(gone.status, 404);
    let until = Millis(server.now.0 + 60_000);
    server.run_until(until);
    let expired = server.session("GET", &format!("/v1/sessions/{other}"), "");
    assert_eq!(expired.status, 410);
    assert_eq!(subscribe(&mut server, &other, "a", None), 410);
    server.request("DELETE", "a", "", "");
    let until = Millis(server.now.0 + 10_000_000);
    server.run_until(until);
    for (name, place) in &server.places {
        let is_kept = name.starts_with("__ds/directory/");
        assert!(is_kept || place.rows.is_empty(), "{name}: {:?}", place.rows);
    }
}

#[test]
fn a_session_describes_itself() {
    let mut server = Server::new();
    let session = created(&mut server);
    server.request("PUT", "a%20b", "", "");
    assert_eq!(subscribe(&mut server, &session, "a b", None), 204);
    let answer = server.session("GET", &format!("/v1/sessions/{session}"), "");
    let described: Value = serde_json::from_slice(&body(&answer)).expect("JSON");
    let now = server.now.0;
    assert_eq!(
        described,
        json!({
            "sessionId": session,
            "createdAt": now,
            "expiresAt": now + 86_400_000,
            "subscriptionCount": 1,
            "subscribedStreams": ["a%20b"],
        })
    );
}

#[test]
fn an_append_writes_the_same_rows_no_matter_who_listens() {
    let written = |sessions: u64| {
        let mut server = Server::new();
        server.request("PUT", "a", "", "");
        for _ in 0..sessions {
            let session = created(&mut server);
            assert_eq!(subscribe(&mut server, &session, "a", None), 204);
        }
        append(&mut server, "a", "0");
        let before = server.turns.len();
        append(&mut server, "a", "1");
        let (object, cost) = &server.turns[before];
        assert_eq!(object, "a");
        cost.rows
    };
    let alone = written(0);
    for sessions in [1, 200, 5_000] {
        assert_eq!(written(sessions), alone, "{sessions} sessions");
    }
}

#[test]
fn no_subscription_writes_its_wakes_to_a_session() {
    let mut server = Server::new();
    let session = created(&mut server);
    let config = json!({
        "type": "pull-wake",
        "wake_stream": format!("subscriptions/{session}"),
        "streams": ["a"],
    });
    assert_eq!(server.subscribe("s", &config.to_string()).status, 400);
}

/// As `docs/sessions.md` says.
#[test]
fn a_delivery_costs_two_calls_and_one_row() {
    let mut server = Server::new();
    server.request("PUT", "a", "", "");
    let session = created(&mut server);
    assert_eq!(subscribe(&mut server, &session, "a", None), 204);
    // The first one sets the alarm, and writes how far all sessions are.
    append(&mut server, "a", "1");
    for content in ["2", "[3,4]", "5"] {
        server.turns.clear();
        append(&mut server, "a", content);
        let one = Cost {
            rows: 1,
            calls: 1,
            ..Cost::default()
        };
        assert_eq!(
            server.cost("a"),
            one,
            "the append, and the call of the session"
        );
        let stream = format!("subscriptions/{session}");
        assert_eq!(
            server.cost(&stream),
            one,
            "the envelope, and the call for it"
        );
    }
}

/// Returns a server with a fan-out queue, the stream `a`, and sessions that follow it.
fn with_queue(sessions: u64) -> (Server, Vec<String>) {
    let mut server = Server::new();
    server.limits.fanout_queue = true;
    server.limits.fanout_queue_threshold = 2;
    server.request("PUT", "a", "", "[0]");
    let sessions = (0..sessions).map(|_| {
        let session = created(&mut server);
        assert_eq!(subscribe(&mut server, &session, "a", None), 204);
        session
    });
    let sessions = sessions.collect();
    (server, sessions)
}

fn payloads(server: &mut Server, session: &str) -> Vec<Value> {
    let found = envelopes(server, session).into_iter();
    found.map(|each| each["payload"].clone()).collect()
}

#[test]
fn many_sessions_are_told_through_the_queue() {
    let (mut server, sessions) = with_queue(2);
    append(&mut server, "a", "1");
    assert!(server.queue.is_empty(), "two are called by the stream");
    assert_eq!(payloads(&mut server, &sessions[0]), [json!(1)]);

    let (mut server, sessions) = with_queue(250);
    server.turns.clear();
    append(&mut server, "a", "1");
    let cost = server.cost("a");
    assert_eq!((cost.batches, cost.calls), (3, 0), "{cost:?}");
    assert_eq!(server.queue.len(), 250);
    for session in &sessions {
        assert_eq!(payloads(&mut server, session), [json!(null); 0]);
    }
    append(&mut server, "a", "2");
    // The messages of both appends, in the opposite order.
    server.queue.make_contiguous().reverse();
    assert_eq!(server.consume(), 500);
    for session in &sessions {
        assert_eq!(payloads(&mut server, session), [json!(1), json!(2)]);
    }
    // The next instance knows that the queue had all of them.
    append(&mut server, "a", "3");
    server.consume();
    server.sleep();
    server.turns.clear();
    assert_eq!(server.request("HEAD", "a", "", "").status, 200);
    server.consume();
    for session in &sessions {
        assert_eq!(
            payloads(&mut server, session),
            [json!(1), json!(2), json!(3)]
        );
    }
}

#[test]
fn an_append_while_batches_end_out_of_order_is_told_to_all_sessions() {
    let (mut server, sessions) = with_queue(3);
    server.limits.fanout_messages_max = 1;
    server.limits.fanout_batches_max = 2;
    server.sleep();
    server.queue_is_late = true;
    append(&mut server, "a", "1");
    append(&mut server, "a", "2");
    // The first batch ends while the round about the second append is behind its session.
    for at in [1, 1, 0] {
        assert_eq!(server.late_answers(), 2);
        server.bring_late_answer(at);
    }
    while server.late_answers() > 0 {
        server.bring_late_answer(0);
    }
    let head = server.request("HEAD", "a", "", "");
    let tail = head.header("Stream-Next-Offset").expect("there is a tail");
    for session in &sessions {
        let mut messages = server.queue.iter();
        assert!(messages.any(|(body, _)| body.contains(session) && body.contains(tail)));
    }
}

#[test]
fn a_message_about_another_stream_ends_a_subscription_that_has_just_begun() {
    let (mut server, _) = with_queue(0);
    server.limits.fanout_queue_threshold = 0;
    server.sleep();
    let session = created(&mut server);
    server.late = "a".to_owned();
    let body = json!({"sessionId": session, "streamId": "a"}).to_string();
    let subscribing = server.send_session("POST", "/v1/subscriptions", &body);
    server.late.clear();
    server.request("DELETE", "a", "", "");
    server.request("PUT", "a", "", "[1]");
    // The consumer brings it before the session knows where its subscription begins.
    let (message, _) = server.queue.back().expect("the stream tells the session");
    let limits = server.limits.clone();
    let (mut delivery, next) = Delivery::begin(message, 1, &limits);
    let Next::Call { to, request, .. } = next else {
        panic!("{next:?}");
    };
    let call = server.send_call(&to, &request);
    assert!(!server.answers.contains_key(&call));
    server.bring_late_answer(0);
    assert_eq!(server.answers[&subscribing].status, 204);
    let outcome = server.take_outcome(call);
    let next = delivery.called(&outcome, &limits);
    assert!(matches!(next, Next::Retry { .. }), "{next:?}");
    assert_eq!(subscribed(&mut server, &session), json!(["a"]));
    server.consume();
    assert_eq!(subscribed(&mut server, &session), json!([]));
}

#[test]
fn a_batch_has_at_most_as_many_bytes_as_the_queue_takes() {
    let (mut server, _) = with_queue(20);
    server.limits.fanout_bytes_max = 1_000;
    server.sleep();
    server.turns.clear();
    append(&mut server, "a", "1");
    let cost = server.cost("a");
    assert_eq!(server.queue.len(), 20);
    let bytes: usize = server.queue.iter().map(|(body, _)| body.len()).sum();
    assert!(cost.batches >= bytes.div_ceil(1_000), "{cost:?}, {bytes}");
    assert!(cost.batches < 20, "{cost:?}");
}

#[test]
fn the_stream_calls_the_sessions_when_the_queue_takes_nothing() {
    let (mut server, sessions) = with_queue(3);
    server.queue_is_full = true;
    append(&mut server, "a", "1");
    server.run_until(Millis(server.now.0 + 10_000));
    assert!(server.queue.is_empty());
    for session in &sessions {
        assert_eq!(payloads(&mut server, session), [json!(1)]);
    }
}

#[test]
fn a_session_that_does_not_answer_goes_back_to_its_stream() {
    let (mut server, sessions) = with_queue(3);
    append(&mut server, "a", "1");
    assert_eq!(server.consume(), 3);
    append(&mut server, "a", "2");
    server.silent = format!("subscriptions/{}", sessions[1]);
    assert_eq!(server.consume(), 2);
    for attempt in 2..server.limits.fanout_attempts_max {
        assert_eq!(server.consume(), 0, "{attempt}");
    }
    server.run_until(Millis(server.now.0 + 60_000));
    // The stream believes that the queue has told all sessions, and stores it.
    append(&mut server, "a", "3");
    assert_eq!(server.queue.len(), 4);
    server.run_until(Millis(server.now.0 + 60_000));
    assert_eq!(server.request("HEAD", "a", "", "").status, 200);
    server.sleep();
    // The message about the second append is given back.
    assert_eq!(server.consume(), 3);
    let expected = [json!(1), json!(2), json!(3)];
    for sleeps in [false, true] {
        let mut server = server.clone();
        if sleeps {
            // The next instance knows whom the queue could not tell, and tries that again.
            server.sleep();
            server.silent.clear();
        }
        server.queue.clear();
        server.run_until(Millis(server.now.0 + 120_000));
        assert_eq!(server.queue.len(), usize::from(sleeps));
        server.consume();
        assert_eq!(payloads(&mut server, &sessions[1]), expected);
    }
    // What is late then does no harm.
    server.run_until(Millis(server.now.0 + 120_000));
    server.silent.clear();
    assert_eq!(server.consume(), 1);
    assert_eq!(payloads(&mut server, &sessions[1]), expected);
}

#[test]
fn a_message_is_kept_while_neither_session_nor_stream_answers() {
    let (mut server, sessions) = with_queue(3);
    append(&mut server, "a", "1");
    server.silent = format!("subscriptions/{}", sessions[0]);
    for _ in 1..server.limits.fanout_attempts_max {
        server.consume();
    }
    let body = server.queue.front().expect("one is left").0.clone();
    let limits = server.limits.clone();
    let attempts = limits.fanout_attempts_max;
    let (mut delivery, _) = Delivery::begin(&body, attempts, &limits);
    let failed = machine::CallOutcome::Failed;
    let next = delivery.called(&failed, &limits);
    let Next::Call { to, .. } = next else {
        panic!("{next:?}");
    };
    assert_eq!(to, "a");
    let next = delivery.called(&failed, &limits);
    assert!(
        matches!(next, Next::Retry { after_seconds: 1.. }),
        "{next:?}"
    );
}

#[test]
fn a_body_of_another_version_is_never_acknowledged() {
    let limits = machine::Limits::DEFAULT;
    for body in ["", "{}", "null", "{\"session\":\"s\"}"] {
        for attempts in [1, 5, 100] {
            let (_, next) = Delivery::begin(body, attempts, &limits);
            assert!(matches!(next, Next::Retry { .. }), "{next:?}");
        }
    }
}

#[test]
fn a_session_that_takes_page_by_page_goes_back_to_its_stream_at_last() {
    let (mut server, sessions) = with_queue(3);
    server.limits.delivery_appends_max = 1;
    server.limits.fanout_calls_max = 2;
    server.sleep();
    for number in 1..6 {
        append(&mut server, "a", &number.to_string());
    }
    // Only the last messages are left: each is about all appends.
    let last = server.queue.split_off(server.queue.len() - 3);
    server.queue = last;
    assert_eq!(server.consume(), 3);
    server.run_until(Millis(server.now.0 + 10_000));
    let expected: Vec<_> = (1..6).map(|number| json!(number)).collect();
    for session in &sessions {
        assert_eq!(payloads(&mut server, session), expected);
    }
}

#[test]
fn the_queue_tells_the_stream_about_sessions_that_have_ended() {
    let (mut server, sessions) = with_queue(4);
    let path = format!("/v1/sessions/{}", sessions[0]);
    append(&mut server, "a", "1");
    assert_eq!(server.session("DELETE", &path, "").status, 204);
    assert_eq!(server.consume(), 4);
    let follows = |server: &Server| {
        let rows = server.places["a"].rows.control();
        let rows = rows.filter(|(key, _)| key.starts_with("follower/"));
        rows.count()
    };
    assert_eq!(follows(&server), 3);

    // A stream that ends tells its sessions through the queue, too.
    assert_eq!(server.request("DELETE", "a", "", "").status, 204);
    assert_eq!(server.queue.len(), 3);
    assert_eq!(server.consume(), 3);
    assert_eq!(follows(&server), 0);
    assert_eq!(subscribed(&mut server, &sessions[1]), json!([]));
    server.run_until(Millis(server.now.0 + 100_000_000));
    assert!(server.places["a"].rows.is_empty());
}
