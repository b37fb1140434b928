//! What the admin API shows of subscriptions and sessions, and what operators can do with them.

use bytes::Bytes;
use machine::wire::request::RequestHead;
use machine::{Answer, CallOutcome, Input, Limits, outbox};

use crate::server::{BEGINNING, Server, body};
use crate::sessions::{append, created, subscribe};
use crate::subscriptions::{HOOK, PULL, code, json};

/// Sends a request of the admin API to a subscription, as the router does.
fn inquire(server: &mut Server, id: &str, call: &str) -> Answer {
    let object = format!("__ds/subscriptions/{id}");
    let target = outbox::target(&object);
    let call = server.send(&object, "PATCH", &target, &[("X-Admin-Call", call)], "");
    server.answers.remove(&call).expect("the call is answered")
}

/// Returns the detail of a subscription. Checks that asking for it changes nothing.
fn detail(server: &mut Server, id: &str) -> serde_json::Value {
    let object = format!("__ds/subscriptions/{id}");
    let state = |server: &Server| {
        let place = &server.places[&object];
        (format!("{:?}", place.rows), place.alarm, server.calls)
    };
    let (rows, alarm, calls) = state(server);
    let answer = inquire(server, id, "subscription 100");
    assert_eq!(answer.status, 200);
    // The inquiry itself is the only call.
    assert_eq!(state(server), (rows, alarm, calls + 1));
    json(&answer)
}

#[test]
fn the_detail_of_a_pull_wake_follows_it_from_one_state_to_the_next() {
    let mut server = Server::new();
    server.request("PUT", "w", "", "[]");
    server.request("PUT", "a", "", "[]");
    assert_eq!(inquire(&mut server, "s", "subscription 100").status, 404);
    assert_eq!(inquire(&mut server, "s", "retry").status, 404);
    assert!(server.places["__ds/subscriptions/s"].rows.is_empty());
    server.subscribe("s", PULL);

    let idle = detail(&mut server, "s");
    for (name, expected) in [
        ("subscriptionId", serde_json::json!("s")),
        ("type", serde_json::json!("pull-wake")),
        ("pattern", serde_json::Value::Null),
        ("webhookUrl", serde_json::Value::Null),
        ("wakeStream", serde_json::json!("w")),
        ("description", serde_json::Value::Null),
        ("createdAt", serde_json::json!(BEGINNING.0)),
        ("leaseTtlMs", serde_json::json!(1_000)),
        ("status", serde_json::json!("active")),
        ("state", serde_json::json!("idle")),
        ("generation", serde_json::json!(0)),
        ("worker", serde_json::Value::Null),
        ("leaseEndsAt", serde_json::Value::Null),
        ("failures", serde_json::json!(0)),
        ("lastError", serde_json::Value::Null),
        ("attemptBeganAt", serde_json::Value::Null),
        ("nextAttemptAt", serde_json::Value::Null),
        ("outboxEmpty", serde_json::json!(true)),
        ("streamCount", serde_json::json!(1)),
        ("pendingCount", serde_json::json!(0)),
        ("hasMore", serde_json::json!(false)),
    ] {
        assert_eq!(idle[name], expected, "{name}");
    }
    let start = "0000000000000000_0000000000000000";
    assert_eq!(
        idle["streams"],
        serde_json::json!([{
            "streamId": "a",
            "linkType": "explicit",
            "ackedOffset": start,
            "tailOffset": start,
            "pending": false,
            "linking": false,
        }])
    );

    server.request("POST", "a", "", "1");
    let waking = detail(&mut server, "s");
    assert_eq!(waking["state"], "waking");
    assert_eq!(waking["generation"], 1);
    assert_eq!(waking["pendingCount"], 1);
    assert_eq!(waking["streams"][0]["pending"], true);
    assert_eq!(
        waking["streams"][0]["tailOffset"],
        "0000000000000000_0000000000000001"
    );

    let body = r#"{"worker":"w1"}"#;
    server.request("POST", "__ds/subscriptions/s", "/claim", body);
    let ends_at = server.now.plus(1_000);
    for _ in 0..2 {
        let live = detail(&mut server, "s");
        assert_eq!(live["state"], "live");
        assert_eq!(live["worker"], "w1");
        assert_eq!(live["leaseEndsAt"], ends_at.0);
        // What is overdue is told as it is: nothing ends because somebody looks.
        server.now = ends_at.plus(1);
        server.sleep();
    }

    server.request("DELETE", "__ds/subscriptions/s", "", "");
    assert_eq!(inquire(&mut server, "s", "subscription 100").status, 404);
    assert_eq!(
        code(&inquire(&mut server, "s", "retry")),
        "SUBSCRIPTION_NOT_FOUND"
    );
}

#[test]
fn the_streams_of_a_subscription_are_told_in_pages() {
    let mut server = Server::new();
    for name in ["a", "b", "c%2Fd"] {
        server.request("PUT", name, "", "[]");
    }
    server.subscribe("s", HOOK);
    let mut found = Vec::new();
    let mut call = "subscription 2".to_owned();
    loop {
        let page = json(&inquire(&mut server, "s", &call));
        let streams = page["streams"].as_array().expect("there are streams");
        found.extend(streams.iter().map(|stream| stream["streamId"].clone()));
        assert_eq!(page["streamCount"], 3);
        assert_eq!(page["hasMore"], page["nextCursor"].is_string());
        let Some(next) = page["nextCursor"].as_str() else {
            break;
        };
        assert_eq!(streams.len(), 2);
        call = format!("subscription 2 ={next}");
    }
    assert_eq!(found, ["a", "b", "c%2Fd"]);
}

/// Answers the webhook that is under way with this status.
fn answer_webhook(server: &mut Server, status: u16) {
    let (from, effect, _) = server.webhooks.pop_front().expect("a webhook was sent");
    let body = Bytes::from_static(br#"{"done":true}"#);
    let outcome = CallOutcome::Answered { status, body };
    server.step(&from, Input::CallFinished { effect, outcome });
}

#[test]
fn a_webhook_is_sent_again_as_soon_as_an_operator_asks_for_it() {
    let mut server = Server::new();
    server.request("PUT", "a", "", "[]");
    server.subscribe("s", HOOK);
    let retried = |server: &mut Server| json(&inquire(server, "s", "retry"))["retried"].clone();
    assert_eq!(retried(&mut server), false);
    server.request("POST", "a", "", "1");
    let under_way = detail(&mut server, "s");
    assert_eq!(under_way["webhookUrl"], "http://127.0.0.1:2/");
    assert_eq!(under_way["state"], "waking");
    assert_eq!(under_way["attemptBeganAt"], BEGINNING.0);
    assert!(under_way["nextAttemptAt"].is_null());
    assert_eq!(retried(&mut server), false);
    assert_eq!(server.webhooks.len(), 1);

    for failures in 1..=3 {
        answer_webhook(&mut server, 500);
        let failed = detail(&mut server, "s");
        assert_eq!(failed["status"], "failed");
        assert_eq!(failed["failures"], failures);
        assert_eq!(failed["lastError"], "the receiver answered 500");
        assert!(failed["attemptBeganAt"].is_null());
        let next_at = failed["nextAttemptAt"].as_u64().expect("one is to come");
        assert!(next_at > server.now.0);
        assert!(server.webhooks.is_empty());
        // An instance that has just been loaded has to fetch the key first.
        server.sleep();
        assert_eq!(detail(&mut server, "s")["nextAttemptAt"], next_at);
        assert_eq!(retried(&mut server), true);
        assert_eq!(server.webhooks.len(), 1, "the key is there at once");
    }
    answer_webhook(&mut server, 200);
    let done = detail(&mut server, "s");
    assert_eq!(done["state"], "idle");
    assert_eq!(done["status"], "active");
    assert_eq!(done["pendingCount"], 0);
    assert_eq!(done["failures"], 0);
    assert!(done["lastError"].is_null() && done["nextAttemptAt"].is_null());
    assert_eq!(retried(&mut server), false);
}

#[test]
fn a_delivery_that_was_lost_with_its_instance_can_be_retried() {
    let mut server = Server::new();
    server.request("PUT", "a", "", "[]");
    server.subscribe("s", HOOK);
    server.request("POST", "a", "", "1");
    server.webhooks.clear();
    server.sleep();
    let lost = detail(&mut server, "s");
    assert!(lost["attemptBeganAt"].is_null());
    assert!(lost["nextAttemptAt"].as_u64() > Some(server.now.0));
    assert_eq!(json(&inquire(&mut server, "s", "retry"))["retried"], true);
    assert_eq!(server.webhooks.len(), 1);
}

#[test]
fn a_wake_event_is_written_again_as_soon_as_an_operator_asks_for_it() {
    let mut server = Server::new();
    server.request("PUT", "a", "", "[]");
    server.subscribe("s", PULL);
    server.request("POST", "a", "", "1");
    let failed = detail(&mut server, "s");
    assert_eq!(failed["state"], "waking");
    assert_eq!(failed["status"], "failed");
    assert_eq!(failed["lastError"], "the wake stream answered 404");
    assert_eq!(failed["outboxEmpty"], false);
    let next_at = failed["nextAttemptAt"].as_u64().expect("one is to come");
    assert!(next_at > server.now.0);
    let events = |server: &mut Server| {
        let head = server.request("HEAD", "w", "", "");
        head.header("Stream-Next-Offset").map(str::to_owned)
    };
    server.request("PUT", "w", "", "[]");
    let before = events(&mut server);
    assert_eq!(json(&inquire(&mut server, "s", "retry"))["retried"], true);
    assert_ne!(events(&mut server), before);
    let written = detail(&mut server, "s");
    assert_eq!(written["status"], "active");
    assert_eq!(written["outboxEmpty"], true);
    assert!(written["nextAttemptAt"].is_null());
    assert_eq!(json(&inquire(&mut server, "s", "retry"))["retried"], false);
}

#[test]
fn all_subscriptions_are_listed_once_in_the_order_of_their_ids() {
    use machine::admin::{self, AdminRoute, Caller, SubscriptionListing};
    use machine::router::Settings;

    let mut server = Server::new();
    let mut ids: Vec<_> = (0..40).map(|at| format!("s{at}")).collect();
    ids.push("a%2Fb".to_owned());
    for id in &ids {
        let body = if id.len() == 2 { HOOK } else { PULL };
        assert_eq!(server.subscribe(id, body).status, 201);
    }
    ids.sort();
    let listing = |query: &str| -> SubscriptionListing {
        let header = |name: &str| (name == "Host").then(|| "localhost".to_owned());
        let target = format!("/admin/api/subscriptions?{query}");
        let head = RequestHead {
            method: "GET",
            origin: "http://localhost",
            target: &target,
            header: &header,
        };
        let caller = Caller::Connection { is_loopback: true };
        match admin::route(head, caller, &Settings::default()) {
            Some(AdminRoute::ListSubscriptions(listing)) => listing,
            other => panic!("{query} is a page of the list, not {other:?}"),
        }
    };
    let page = |server: &mut Server, query: &str| {
        let listing = listing(query);
        let questions: Vec<_> = listing.questions().collect();
        let outcomes = questions.into_iter().map(|(object, request)| {
            let (name, call) = &request.headers[0];
            let target = outbox::target(&object);
            let headers = [(name.as_str(), call.as_str())];
            let call = server.send(&object, &request.method, &target, &headers, "");
            let answer = server.answers.remove(&call).expect("the call is answered");
            CallOutcome::Answered {
                status: answer.status,
                body: body(&answer).into(),
            }
        });
        let outcomes: Vec<_> = outcomes.collect();
        json(&listing.answer(&outcomes, &Limits::DEFAULT))
    };
    server.sleep();
    for limit in [1, 7, 41, 100] {
        let mut found = Vec::new();
        let mut query = format!("limit={limit}");
        loop {
            let page = page(&mut server, &query);
            let entries = page["subscriptions"].as_array().expect("it is a list");
            assert!(entries.len() <= limit);
            for entry in entries {
                let id = entry["subscriptionId"].as_str().expect("it has an id");
                let pattern = entry["pattern"].as_str();
                assert_eq!(pattern, (id.len() == 2).then_some("*"), "{id}");
                assert_eq!(entry["createdAt"], BEGINNING.0);
                found.push(id.to_owned());
            }
            let Some(next) = page["nextCursor"].as_str() else {
                assert_eq!(page["hasMore"], false);
                break;
            };
            query = format!("limit={limit}&cursor={}", next.replace('%', "%25"));
            // A page goes on behind its cursor, whatever becomes of the entry there.
            server.request("DELETE", &format!("__ds/subscriptions/{next}"), "", "");
            let body = if next.len() == 2 { HOOK } else { PULL };
            assert_eq!(server.subscribe(next, body).status, 201);
        }
        assert_eq!(found, ids, "{limit}");
    }
}

/// Asks for the detail of a session, as the router does. Checks that this changes nothing.
fn session_detail(server: &mut Server, id: &str, call: &str) -> Answer {
    let object = format!("subscriptions/{id}");
    server.places.entry(object.clone()).or_default();
    let state = |server: &Server| {
        let place = &server.places[&object];
        (format!("{:?}", place.rows), place.alarm, server.calls)
    };
    let (rows, alarm, calls) = state(server);
    let target = outbox::target(&object);
    let asked = server.send(&object, "PATCH", &target, &[("X-Admin-Call", call)], "");
    // The question itself is the only call.
    assert_eq!(state(server), (rows, alarm, calls + 1));
    server.answers.remove(&asked).expect("the call is answered")
}

#[test]
fn the_detail_of_a_session_says_what_it_has_of_each_stream() {
    let mut server = Server::new();
    let id = created(&mut server);
    for (name, body) in [("a", "[1,2]"), ("b%20c", "[]"), ("d", "")] {
        server.request("PUT", name, "", body);
    }
    let start = "0000000000000000_0000000000000000";
    assert_eq!(subscribe(&mut server, &id, "a", Some("-1")), 204);
    assert_eq!(subscribe(&mut server, &id, "b c", None), 204);
    // Its stream cannot be understood at first.
    server.unreadable = ("d".to_owned(), 1);
    assert_eq!(subscribe(&mut server, &id, "d", None), 503);
    append(&mut server, "a", "3");
    let stream = format!("subscriptions/{id}");
    let head = server.request("HEAD", &stream, "", "");
    let tail = head.header("Stream-Next-Offset").expect("it has a tail");
    let content = server.request("GET", &stream, "?offset=-1", "");
    let content = body(&content);
    let envelopes: Vec<serde_json::Value> = serde_json::from_slice(&content).expect("JSON");
    let bytes = content.len() - (envelopes.len() + 1);

    for _ in 0..2 {
        let answer = session_detail(&mut server, &id, "session 100");
        assert_eq!(answer.status, 200);
        assert_eq!(
            json(&answer),
            serde_json::json!({
                "sessionId": id,
                "streamId": stream,
                "createdAt": BEGINNING.0,
                "expiresAt": BEGINNING.0 + 86_400_000,
                "ttlSeconds": 86_400,
                "tailOffset": tail,
                "messageCount": envelopes.len(),
                "totalBytes": bytes,
                "subscriberCount": 0,
                "outboxEmpty": false,
                "subscriptionCount": 3,
                "subscribedStreams": [
                    {
                        "streamId": "a",
                        "fromOffset": start,
                        "deliveredOffset": "0000000000000000_0000000000000003",
                        "linking": false,
                    },
                    {
                        "streamId": "b%20c",
                        "fromOffset": start,
                        "deliveredOffset": start,
                        "linking": false,
                    },
                    {
                        "streamId": "d",
                        "fromOffset": null,
                        "deliveredOffset": null,
                        "linking": true,
                    },
                ],
                "hasMore": false,
            })
        );
        // A later instance knows it from the rows.
        server.sleep();
    }
    let until = server.now.plus(60_000);
    server.run_until(until);
    let settled = json(&session_detail(&mut server, &id, "session 100"));
    assert_eq!(settled["outboxEmpty"], true);
    assert_eq!(settled["subscribedStreams"][2]["linking"], false);
    assert_eq!(settled["subscribedStreams"][2]["fromOffset"], start);
}

#[test]
fn the_streams_of_a_session_are_told_in_pages() {
    let mut server = Server::new();
    let id = created(&mut server);
    for name in ["a", "b%2Fc", "d"] {
        server.request("PUT", name, "", "");
        assert_eq!(subscribe(&mut server, &id, name, None), 204);
    }
    for limit in 1..=4 {
        let mut found = Vec::new();
        let mut call = format!("session {limit}");
        loop {
            let page = json(&session_detail(&mut server, &id, &call));
            let streams = page["subscribedStreams"].as_array().expect("a list");
            assert!(streams.len() <= limit);
            found.extend(streams.iter().map(|stream| stream["streamId"].clone()));
            assert_eq!(page["subscriptionCount"], 3);
            assert_eq!(page["hasMore"], page["nextCursor"].is_string());
            let Some(next) = page["nextCursor"].as_str() else {
                break;
            };
            call = format!("session {limit} ={}", next.replace('%', "%25"));
        }
        assert_eq!(found, ["a", "b%2Fc", "d"], "in pages of {limit}");
    }
}

#[test]
fn looking_at_a_session_neither_extends_nor_ends_it() {
    let mut server = Server::new();
    server.limits.session_ttl_seconds = 100;
    server.limits.session_tombstone_ms = 50_000;
    let unknown = "00000000-0000-4000-8000-000000000000";
    let missing = session_detail(&mut server, unknown, "session 100");
    assert_eq!(missing.status, 404);
    let id = created(&mut server);
    let ends_at = BEGINNING.0 + 100_000;
    for seconds in [0, 50, 99, 100, 105] {
        server.now = BEGINNING.plus(seconds * 1_000);
        let detail = json(&session_detail(&mut server, &id, "session 100"));
        // What is overdue is told as it is.
        assert_eq!(detail["expiresAt"], ends_at, "after {seconds} s");
    }
    let until = BEGINNING.plus(120_000);
    server.run_until(until);
    let expired = session_detail(&mut server, &id, "session 100");
    assert_eq!(expired.status, 410);
    assert_eq!(code(&expired), "session_expired");
    let until = BEGINNING.plus(600_000);
    server.run_until(until);
    let forgotten = session_detail(&mut server, &id, "session 100");
    assert_eq!(forgotten.status, 404);
    assert_eq!(code(&forgotten), "session_not_found");
}

#[test]
fn a_stream_counts_the_sessions_that_follow_it() {
    let mut server = Server::new();
    server.request("PUT", "a", "", "");
    let count = |server: &mut Server| {
        let target = outbox::target("a");
        let call = server.send("a", "PATCH", &target, &[("X-Admin-Call", "detail")], "");
        let answer = server.answers.remove(&call).expect("the call is answered");
        json(&answer)["sessionCount"].clone()
    };
    assert_eq!(count(&mut server), 0);
    let [one, other] = [created(&mut server), created(&mut server)];
    for session in [&one, &other] {
        assert_eq!(subscribe(&mut server, session, "a", None), 204);
    }
    server.sleep();
    assert_eq!(count(&mut server), 2);
    let answer = server.session("DELETE", &format!("/v1/sessions/{one}"), "");
    assert_eq!(answer.status, 204);
    assert_eq!(count(&mut server), 1);
}
