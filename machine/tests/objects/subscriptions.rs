//! Subscriptions and the objects that they talk to.

use machine::{Answer, SigningSeed};

use crate::server::{Cost, JSON, Server, body};

pub(crate) fn json(answer: &Answer) -> serde_json::Value {
    serde_json::from_slice(&body(answer)).expect("the body is JSON")
}

pub(crate) fn code(answer: &Answer) -> String {
    let code = &json(answer)["error"]["code"];
    code.as_str().expect("the answer is an error").to_owned()
}

pub(crate) const PULL: &str =
    r#"{"type":"pull-wake","streams":["a"],"wake_stream":"w","lease_ttl_ms":1000}"#;
pub(crate) const HOOK: &str =
    r#"{"type":"webhook","pattern":"*","webhook":{"url":"http://127.0.0.1:2/"}}"#;

#[test]
fn a_claim_after_the_end_of_a_lease_does_not_wait_for_the_alarm() {
    let mut server = Server::new();
    server.request("PUT", "w", "", "[]");
    server.request("PUT", "a", "", "[]");
    assert_eq!(server.subscribe("s", PULL).status, 201);
    server.request("POST", "a", "", "1");
    let claim = |server: &mut Server| {
        server.request(
            "POST",
            "__ds/subscriptions/s",
            "/claim",
            r#"{"worker":"w"}"#,
        )
    };
    let first = json(&claim(&mut server))["generation"].as_u64();
    assert_eq!(code(&claim(&mut server)), "ALREADY_CLAIMED");
    server.now = server.now.plus(1_000);
    let second = json(&claim(&mut server))["generation"].as_u64();
    assert_eq!(second, first.map(|first| first + 1));
}

#[test]
fn no_subscription_follows_its_own_wake_stream() {
    let mut server = Server::new();
    let own = PULL.replace(r#"["a"]"#, r#"["a","/w/"]"#);
    assert_eq!(code(&server.subscribe("s", &own)), "INVALID_REQUEST");
    assert_eq!(server.subscribe("s", PULL).status, 201);
    let added = server.request(
        "POST",
        "__ds/subscriptions/s",
        "/streams",
        r#"{"streams":["w"]}"#,
    );
    assert_eq!(code(&added), "INVALID_REQUEST");
}

#[test]
fn a_subscription_that_was_asleep_still_names_the_key_that_signs() {
    let mut server = Server::new();
    let created = json(&server.subscribe("s", HOOK));
    let kid = created["webhook"]["signing"]["kid"].clone();
    assert!(kid.is_string());
    server.sleep();
    for method in ["GET", "PUT"] {
        let answer = server.request(method, "__ds/subscriptions/s", "", HOOK);
        assert_eq!(json(&answer)["webhook"]["signing"]["kid"], kid, "{method}");
        server.sleep();
    }
}

#[test]
fn webhooks_are_signed_with_the_key_that_the_operator_gives() {
    let mut server = Server::new();
    // RFC 8037, A.1 to A.3.
    server.limits.signing_key = SigningSeed::parse("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
    assert!(server.limits.signing_key.is_some());
    let created = json(&server.subscribe("s", HOOK));
    let kid = "ds_kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    assert_eq!(created["webhook"]["signing"]["kid"], kid);
    let keys = server.request("GET", "__ds/jwks.json", "", "");
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    assert_eq!(json(&keys)["keys"][0]["x"], x);
    assert!(json(&keys)["keys"][1].is_null());
}

#[test]
fn an_answer_that_cannot_be_read_counts_for_nothing() {
    let mut server = Server::new();
    server.request("PUT", "a", "", "[1]");
    let tail = |server: &mut Server| {
        let head = server.request("HEAD", "a", "", "");
        head.header("Stream-Next-Offset").map(str::to_owned)
    };
    let acked = |server: &mut Server| {
        let described = server.request("GET", "__ds/subscriptions/s", "", "");
        let acked = &json(&described)["streams"][0]["acked_offset"];
        acked.as_str().map(str::to_owned)
    };
    // The stream, then a shard of the directory, which is asked again after a pause.
    server.unreadable = ("a".to_owned(), 1);
    let call = server.send(
        "__ds/subscriptions/s",
        "PUT",
        "/v1/stream/__ds/subscriptions/s",
        &[JSON],
        PULL,
    );
    assert!(!server.answers.contains_key(&call));
    let later = server.now.plus(20_000);
    server.run_until(later);
    assert_eq!(server.answers[&call].status, 201);
    assert_eq!(acked(&mut server), tail(&mut server));

    // A stream that the directory has not heard of asks it again, too.
    let shard = shard_of(&mut server, "b");
    assert_eq!(server.request("DELETE", "b", "", "").status, 204);
    server.subscribe("hook", HOOK);
    server.unreadable = (shard, 2);
    server.request("PUT", "b", "", "[2]");
    let later = server.now.plus(60_000);
    server.run_until(later);
    let (_, _, webhook) = server.webhooks.pop_front().expect("a webhook was sent");
    assert!(webhook.contains(r#""path":"b""#), "{webhook}");
}

#[test]
fn a_stream_that_is_removed_and_added_again_begins_at_its_tail() {
    let mut server = Server::new();
    server.request("PUT", "w", "", "[]");
    server.request("PUT", "a", "", "[0]");
    let of_others = PULL.replace(r#"["a"]"#, r#"["z"]"#);
    assert_eq!(server.subscribe("s", &of_others).status, 201);
    let add = |server: &mut Server| {
        let target = "/v1/stream/__ds/subscriptions/s/streams";
        let streams = r#"{"streams":["a"]}"#;
        server.send("__ds/subscriptions/s", "POST", target, &[JSON], streams)
    };
    server.late = "a".to_owned();
    add(&mut server);
    let removed = server.request("DELETE", "__ds/subscriptions/s", "/streams/a", "");
    assert_eq!(removed.status, 204);
    server.request("POST", "a", "", "1");
    let added = add(&mut server);
    assert!(!server.answers.contains_key(&added));
    server.late.clear();
    server.bring_late_answer(0);
    assert_eq!(server.answers[&added].status, 204);

    let head = server.request("HEAD", "a", "", "");
    let described = server.request("GET", "__ds/subscriptions/s", "", "");
    let acked = &json(&described)["streams"][0]["acked_offset"];
    assert_eq!(acked.as_str(), head.header("Stream-Next-Offset"));
}

#[test]
fn a_late_call_that_ends_a_former_link_does_not_end_the_present_one() {
    let mut server = Server::new();
    server.request("PUT", "a", "", "[0]");
    let hook = HOOK.replace(r#""pattern":"*""#, r#""streams":["a"]"#);
    assert_eq!(server.subscribe("s", &hook).status, 201);
    server.recorded.0 = "a".to_owned();
    let removed = server.request("DELETE", "__ds/subscriptions/s", "/streams/a", "");
    assert_eq!(removed.status, 204);
    let [ends_link] = server.recorded.1.as_slice() else {
        panic!("{:?}", server.recorded);
    };
    let ends_link = ends_link.clone();
    let streams = r#"{"streams":["a"]}"#;
    let added = server.request("POST", "__ds/subscriptions/s", "/streams", streams);
    assert_eq!(added.status, 204);
    let call = server.send_call("a", &ends_link);
    assert_eq!(server.answers[&call].status, 200);
    server.request("POST", "a", "", "1");
    assert_eq!(server.webhooks.len(), 1);
    server.receive(200, r#"{"done":true}"#);

    let removed = server.request("DELETE", "__ds/subscriptions/s", "/streams/a", "");
    assert_eq!(removed.status, 204);
    assert_eq!(rows_of(&server, "a"), 0);
}

#[test]
fn a_late_call_of_a_former_subscription_does_not_replace_the_present_one() {
    let mut server = Server::new();
    let shard = shard_of(&mut server, "a");
    assert_eq!(server.request("DELETE", "a", "", "").status, 204);
    server.recorded.0.clone_from(&shard);
    assert_eq!(server.subscribe("s", HOOK).status, 201);
    let adds = server.recorded.1[0].clone();
    let deleted = server.request("DELETE", "__ds/subscriptions/s", "", "");
    assert_eq!(deleted.status, 204);
    server.now = server.now.plus(1_000);
    server.sleep();
    assert_eq!(server.subscribe("s", HOOK).status, 201);
    let call = server.send_call(&shard, &adds);
    assert_eq!(server.answers[&call].status, 200);
    server.request("PUT", "a", "", "[1]");
    assert_eq!(server.webhooks.len(), 1);
}

#[test]
fn a_stream_that_ends_before_the_directory_lists_it_is_not_followed_any_more() {
    let mut server = Server::new();
    let shard = shard_of(&mut server, "a");
    assert_eq!(server.subscribe("s", HOOK).status, 201);
    // The subscription asks the stream for itself when a former one has ended, but is not answered.
    server.unreadable = ("a".to_owned(), 1);
    assert_eq!(server.request("DELETE", "a", "", "").status, 204);
    server.unreadable = (shard, 100);
    assert_eq!(server.request("PUT", "a", "", "[1]").status, 201);
    let followed = |server: &mut Server| {
        let described = server.request("GET", "__ds/subscriptions/s", "", "");
        json(&described)["streams"].as_array().map(Vec::len)
    };
    let later = server.now.plus(20_000);
    server.run_until(later);
    assert_eq!(followed(&mut server), Some(1));
    assert_eq!(server.request("DELETE", "a", "", "").status, 204);
    server.unreadable.1 = 0;
    let later = server.now.plus(120_000);
    server.run_until(later);
    assert_eq!(followed(&mut server), Some(0));
}

/// Creates a stream, and returns the shard of the directory that lists it.
fn shard_of(server: &mut Server, stream: &str) -> String {
    let directory = (0..16).map(|shard| format!("__ds/directory/{shard}"));
    let shards: Vec<_> = directory.collect();
    let rows = |server: &Server| {
        shards
            .iter()
            .map(|it| rows_of(server, it))
            .collect::<Vec<_>>()
    };
    let before = rows(server);
    server.request("PUT", stream, "", "[1]");
    let after = rows(server);
    let changed = (0..16).find(|at| before[*at] != after[*at]);
    shards[changed.expect("the directory lists the stream")].clone()
}

#[test]
fn an_append_writes_one_row_with_any_number_of_subscriptions() {
    for count in [0, 1, 200, 5_000] {
        let mut server = Server::new();
        // Otherwise the first append tells only some of them.
        server.limits.link_calls_max = 10_000;
        server.request("PUT", "w", "", "[]");
        server.request("PUT", "a", "", "[0]");
        for id in 0..count {
            assert_eq!(server.subscribe(&format!("s{id}"), PULL).status, 201);
        }
        let mut append = || {
            server.turns.clear();
            assert_eq!(server.request("POST", "a", "", "1").status, 204);
            let (of, own) = &server.turns[0];
            assert_eq!(of, "a");
            (*own, server.cost("a"))
        };

        // The alarm is set once, in case that this instance does not live to see the calls end.
        // The row of the stream says when.
        let alarms = usize::from(count > 0);
        let alone = Cost {
            rows: 1,
            ..Cost::default()
        };
        let calls = Cost {
            calls: count,
            ..alone
        };
        let first = Cost {
            rows: 1 + alarms,
            alarms,
            ..calls
        };
        assert_eq!(append().0, first, "{count} idle subscriptions");
        assert_eq!(append().0, calls, "{count} that are busy from now on");
        for _ in 0..3 {
            assert_eq!(append(), (alone, alone), "{count} that hold");
        }
    }
}

#[test]
fn a_delivery_costs_a_few_rows_and_calls() {
    let mut server = Server::new();
    server.request("PUT", "a", "", "[0]");
    assert_eq!(server.subscribe("s", HOOK).status, 201);
    // The first one sets the alarm of the stream.
    server.request("POST", "a", "", "1");
    server.receive(200, r#"{"done":true}"#);
    for _ in 0..3 {
        server.turns.clear();
        assert_eq!(server.request("POST", "a", "", "1").status, 204);
        server.receive(200, r#"{"done":true}"#);
        // The append, and that the subscription knows of it.
        let stream = Cost {
            rows: 2,
            alarms: 0,
            calls: 1,
            webhooks: 0,
            ..Cost::default()
        };
        // The cursor and the wake, at the beginning and at the end. The alarm is set and removed.
        let subscription = Cost {
            rows: 4,
            alarms: 2,
            calls: 0,
            webhooks: 1,
            ..Cost::default()
        };
        assert_eq!(server.cost("a"), stream);
        assert_eq!(server.cost("__ds/subscriptions/s"), subscription);
        let all = server.turns.iter().map(|(_, cost)| *cost);
        let all = all.fold(Cost::default(), Cost::and);
        assert_eq!(all, stream.and(subscription));
    }
}

fn rows_of(server: &Server, name: &str) -> usize {
    let place = server.places.get(name);
    place.map_or(0, |place| place.rows.control().count())
}
