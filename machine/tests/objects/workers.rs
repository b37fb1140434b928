//! What receivers and workers ask of subscriptions, and what limits them.

use machine::{Answer, CallId};

use crate::server::{Cost, JSON, Server, body};
use crate::subscriptions::{HOOK, PULL, code, json};

const SUBSCRIPTION: &str = "__ds/subscriptions/s";

/// A subscription `s` by pull-wake of the streams `a` and `b`, and its wake stream `w`.
fn pull() -> Server {
    let mut server = Server::new();
    for stream in ["w", "a", "b"] {
        assert_eq!(server.request("PUT", stream, "", "[]").status, 201);
    }
    let both = PULL.replace(r#"["a"]"#, r#"["a","b"]"#);
    assert_eq!(server.subscribe("s", &both).status, 201);
    server
}

fn append(server: &mut Server, stream: &str) -> String {
    let answer = server.request("POST", stream, "", "1");
    assert_eq!(answer.status, 204);
    let tail = answer.header("Stream-Next-Offset");
    tail.expect("an append has an offset").to_owned()
}

fn claim(server: &mut Server) -> Answer {
    server.request("POST", SUBSCRIPTION, "/claim", r#"{"worker":"w"}"#)
}

/// Claims a wake. Returns it with a tail of `a` that the subscription does not know, because the
/// stream holds.
fn claim_and_append(server: &mut Server) -> (serde_json::Value, String) {
    append(server, "a");
    let claimed = json(&claim(server));
    append(server, "a");
    (claimed, append(server, "a"))
}

/// Sends an `ack`, a `release` or a `callback` with the token of a claim or a webhook.
fn send(server: &mut Server, resource: &str, claimed: &serde_json::Value, rest: &str) -> CallId {
    let target = format!("/v1/stream/{SUBSCRIPTION}/{resource}");
    let token = claimed
        .get("token")
        .or_else(|| claimed.get("callback_token"));
    let token = token.and_then(|token| token.as_str()).expect("a token");
    let bearer = format!("Bearer {token}");
    let of = format!(
        r#""wake_id":{},"generation":{}"#,
        claimed["wake_id"], claimed["generation"]
    );
    let headers = [JSON, ("Authorization", bearer.as_str())];
    server.send(
        SUBSCRIPTION,
        "POST",
        &target,
        &headers,
        &format!("{{{of}{rest}}}"),
    )
}

fn answer_of(server: &mut Server, call: CallId) -> Answer {
    server.answers.remove(&call).expect("the call is answered")
}

fn acks(of: &[(&str, &str)]) -> String {
    let acks = of.iter();
    let acks =
        acks.map(|(stream, offset)| format!(r#"{{"stream":"{stream}","offset":"{offset}"}}"#));
    format!(r#","acks":[{}]"#, acks.collect::<Vec<_>>().join(","))
}

fn status_of(server: &mut Server) -> String {
    let described = json(&server.request("GET", SUBSCRIPTION, "", ""));
    described["status"].as_str().expect("a status").to_owned()
}

#[test]
fn an_ack_whose_stream_does_not_answer_is_not_called_wrong() {
    let mut server = pull();
    let (claimed, tail) = claim_and_append(&mut server);
    server.unreadable = ("a".to_owned(), 1);
    let ack = acks(&[("a", &tail)]);
    let first = send(&mut server, "ack", &claimed, &ack);
    assert_eq!(answer_of(&mut server, first).status, 503);
    let second = send(&mut server, "ack", &claimed, &ack);
    assert_eq!(answer_of(&mut server, second).status, 200);
}

#[test]
fn an_ack_is_not_called_wrong_while_it_is_unclear_which_stream_there_is() {
    let mut server = pull();
    append(&mut server, "a");
    let claimed = json(&claim(&mut server));
    // The end of the stream makes one question, and the ack another one.
    server.late = "a".to_owned();
    assert_eq!(server.request("DELETE", "a", "", "").status, 204);
    assert_eq!(server.request("PUT", "a", "", "[]").status, 201);
    append(&mut server, "a");
    let ack = acks(&[("a", &append(&mut server, "a"))]);
    let first = send(&mut server, "ack", &claimed, &ack);
    server.late.clear();
    while server.late_answers() > 0 {
        server.bring_late_answer(0);
    }
    assert_eq!(answer_of(&mut server, first).status, 503);
    let second = send(&mut server, "ack", &claimed, &ack);
    assert_eq!(answer_of(&mut server, second).status, 200);
}

#[test]
fn a_claim_whose_streams_do_not_answer_is_not_told_that_nothing_is_pending() {
    let mut server = pull();
    server.unreadable = ("a".to_owned(), 1);
    assert_eq!(claim(&mut server).status, 503);
    assert_eq!(code(&claim(&mut server)), "NO_PENDING_WORK");
}

#[test]
fn acks_beyond_many_known_tails_ask_a_few_streams_at_a_time() {
    let mut server = pull();
    server.limits.asks_max = 1;
    server.sleep();
    append(&mut server, "a");
    let claimed = json(&claim(&mut server));
    let mut tails = ["a", "b"].map(|stream| {
        for _ in 0..2 {
            append(&mut server, stream);
        }
        (stream, append(&mut server, stream))
    });
    server.turns.clear();
    let beyond = tails
        .each_mut()
        .map(|(stream, tail)| (*stream, tail.as_str()));
    let call = send(&mut server, "ack", &claimed, &acks(&beyond));
    assert_eq!(answer_of(&mut server, call).status, 200);
    let own = server.turns.iter().filter(|(of, _)| of == SUBSCRIPTION);
    assert!(
        own.clone().all(|(_, cost)| cost.calls <= 1),
        "one at a time"
    );
    assert_eq!(own.map(|(_, cost)| cost.calls).sum::<usize>(), 2);
}

#[test]
fn claims_that_come_together_ask_each_stream_twice_at_most() {
    let mut server = pull();
    server.late = "a".to_owned();
    server.turns.clear();
    let target = format!("/v1/stream/{SUBSCRIPTION}/claim");
    let claims: Vec<_> = (0..20)
        .map(|_| server.send(SUBSCRIPTION, "POST", &target, &[JSON], r#"{"worker":"w"}"#))
        .collect();
    // The others came after the question, so that its answer could be too old for them.
    server.bring_late_answer(0);
    assert_eq!(code(&answer_of(&mut server, claims[0])), "NO_PENDING_WORK");
    assert!(!server.answers.contains_key(&claims[1]));
    server.late.clear();
    server.bring_late_answer(0);
    for claim in &claims[1..] {
        assert_eq!(code(&answer_of(&mut server, *claim)), "NO_PENDING_WORK");
    }
    assert_eq!(server.cost(SUBSCRIPTION).calls, 4);
}

#[test]
fn a_lease_does_not_end_while_the_streams_of_an_ack_are_asked() {
    let mut server = pull();
    let (claimed, tail) = claim_and_append(&mut server);
    server.now = server.now.plus(900);
    server.late = "a".to_owned();
    let call = send(&mut server, "ack", &claimed, &acks(&[("a", &tail)]));
    assert!(!server.answers.contains_key(&call));
    let later = server.now.plus(4_900);
    server.run_until(later);
    server.late.clear();
    server.bring_late_answer(0);
    assert_eq!(answer_of(&mut server, call).status, 200);
}

#[test]
fn an_ack_of_a_path_that_is_no_stream_is_refused_as_one_that_is_not_linked() {
    let mut server = pull();
    append(&mut server, "a");
    let claimed = json(&claim(&mut server));
    for path in ["", "z", "__ds/keys"] {
        let call = send(&mut server, "ack", &claimed, &acks(&[(path, "-1")]));
        assert_eq!(
            code(&answer_of(&mut server, call)),
            "INVALID_OFFSET",
            "{path}"
        );
    }
}

#[test]
fn only_the_event_of_the_last_wake_is_written_once_there_is_a_wake_stream() {
    let mut server = pull();
    assert_eq!(server.request("DELETE", "w", "", "").status, 204);
    append(&mut server, "a");
    for _ in 0..20 {
        let claimed = json(&claim(&mut server));
        let call = send(&mut server, "release", &claimed, "");
        assert_eq!(answer_of(&mut server, call).status, 204);
        server.now = server.now.plus(100);
    }
    assert_eq!(status_of(&mut server), "failed");
    assert!(tasks_of(&server) <= 2, "{}", tasks_of(&server));
    assert_eq!(server.request("PUT", "w", "", "[]").status, 201);
    let later = server.now.plus(600_000);
    server.run_until(later);
    let last = json(&claim(&mut server))["generation"].as_u64();
    let events = json(&server.request("GET", "w", "?offset=-1", ""));
    let events = events.as_array().expect("messages");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["generation"].as_u64(), last);
    assert_eq!(status_of(&mut server), "active");
}

fn tasks_of(server: &Server) -> usize {
    let place = &server.places[SUBSCRIPTION];
    place.rows.tasks().count()
}

#[test]
fn a_receiver_that_has_called_back_has_not_failed_if_its_answer_has() {
    let mut server = Server::new();
    server.request("PUT", "a", "", "[]");
    assert_eq!(server.subscribe("s", HOOK).status, 201);
    append(&mut server, "a");
    let (_, _, webhook) = &server.webhooks[0];
    let webhook: serde_json::Value = serde_json::from_str(webhook).expect("a webhook is JSON");
    let done = send(&mut server, "callback", &webhook, r#","done":true"#);
    assert_eq!(answer_of(&mut server, done).status, 200);
    server.receive(500, "");
    assert_eq!(status_of(&mut server), "active");
    // `a` is still behind the cursor, so that the next wake begins without a pause.
    assert_eq!(server.webhooks.len(), 1);
}

#[test]
fn each_subscription_has_its_turn_while_a_stream_changes_all_the_time() {
    let mut server = Server::new();
    server.limits.link_calls_max = 1;
    server.request("PUT", "w", "", "[]");
    server.request("PUT", "a", "", "[]");
    let names = ["s1", "s2", "s3"].map(|id| format!("__ds/subscriptions/{id}"));
    for id in ["s1", "s2", "s3"] {
        assert_eq!(server.subscribe(id, PULL).status, 201);
    }
    server.late.clone_from(&names[0]);
    append(&mut server, "a");
    append(&mut server, "a");
    server.late.clear();
    server.turns.clear();
    server.bring_late_answer(0);
    let mut called = Vec::new();
    for (name, _) in &server.turns {
        if names.contains(name) && !called.contains(name) {
            called.push(name.clone());
        }
    }
    let [first, second, third] = names;
    assert_eq!(called, [second, third, first]);
}

#[test]
fn what_is_stored_in_the_row_of_a_subscription_has_a_bound() {
    let mut server = pull();
    append(&mut server, "a");
    let worker = format!(r#"{{"worker":"{}"}}"#, "w".repeat(1_025));
    let refused = server.request("POST", SUBSCRIPTION, "/claim", &worker);
    assert_eq!(code(&refused), "INVALID_REQUEST");
    // Each space takes three bytes in the canonical name.
    let names = (0..600).map(|number| format!(r#""{number}{}z""#, " ".repeat(300)));
    let names = names.collect::<Vec<_>>().join(",");
    let large = PULL.replace(r#""a""#, &names);
    assert_eq!(code(&server.subscribe("t", &large)), "INVALID_REQUEST");
}

#[test]
fn a_pattern_does_not_keep_an_internal_stream_that_was_named() {
    let mut server = Server::new();
    server.request("PUT", "w", "", "[]");
    let session = json(&server.session("POST", "/v1/sessions", ""))["sessionId"].clone();
    let session = session.as_str().expect("an id");
    let streams = format!(r#""pattern":"**","streams":["subscriptions/{session}"]"#);
    let all = PULL.replace(r#""streams":["a"]"#, &streams);
    assert_eq!(server.subscribe("s", &all).status, 201);
    let path = format!("/streams/subscriptions%2F{session}");
    let removed = server.request("DELETE", SUBSCRIPTION, &path, "");
    assert_eq!(removed.status, 204);
    let described = json(&server.request("GET", SUBSCRIPTION, "", ""));
    let path = described["streams"][0]["path"].as_str();
    assert_ne!(path, Some(format!("subscriptions/{session}").as_str()));
}

#[test]
fn a_stream_that_takes_no_more_subscriptions_is_not_added_in_silence() {
    let mut server = Server::new();
    server.limits.stream_links_max = 1;
    for stream in ["w", "a", "b"] {
        server.request("PUT", stream, "", "[]");
    }
    assert_eq!(server.subscribe("first", PULL).status, 201);
    let other = PULL.replace(r#"["a"]"#, r#"["b"]"#);
    assert_eq!(server.subscribe("s", &other).status, 201);
    let added = server.request("POST", SUBSCRIPTION, "/streams", r#"{"streams":["a"]}"#);
    assert_eq!(added.status, 429);
    assert_eq!(code(&added), "too_many_subscriptions");
    let described = String::from_utf8(body(&server.request("GET", SUBSCRIPTION, "", "")));
    let described = described.expect("a description is text");
    assert!(!described.contains(r#""path":"a""#), "{described}");
}

#[test]
fn a_subscription_that_the_directory_does_not_take_does_not_come_to_be() {
    let mut server = Server::new();
    server.limits.directory_subscriptions_max = 1;
    server.request("PUT", "a", "", "[]");
    assert_eq!(server.subscribe("first", HOOK).status, 201);
    let refused = server.subscribe("s", HOOK);
    assert_eq!(code(&refused), "too_many_subscriptions");
    let described = server.request("GET", SUBSCRIPTION, "", "");
    assert_eq!(described.status, 404);
    assert_eq!(
        server
            .request("DELETE", "__ds/subscriptions/first", "", "")
            .status,
        204
    );
    assert_eq!(server.subscribe("s", HOOK).status, 201);
    server.turns.clear();
    append(&mut server, "a");
    assert_eq!(server.cost(SUBSCRIPTION).webhooks, 1);
    assert_eq!(server.cost("__ds/subscriptions/first"), Cost::default());
}
