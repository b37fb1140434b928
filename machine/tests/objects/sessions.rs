//! Sessions and the streams that they follow.

use machine::Millis;
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
