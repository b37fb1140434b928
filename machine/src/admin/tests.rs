use std::sync::Arc;

use super::*;
use crate::Millis;

const NEAR: Caller = Caller::Connection { is_loopback: true };
const PLATFORM: Caller = Caller::Platform {
    now: Millis(0),
    proof: Proof::Unchecked,
};

fn routed(method: &str, target: &str, caller: Caller) -> Option<AdminRoute> {
    let header = |name: &str| (name == "Host").then(|| "localhost".to_owned());
    let head = RequestHead {
        method,
        origin: "http://localhost",
        target,
        header: &header,
    };
    let settings = Settings {
        admin_open: true,
        ..Settings::default()
    };
    route(head, caller, &settings)
}

/// Returns the name, the method and the call of a request that goes to a stream, or the status.
fn sent(method: &str, target: &str) -> Result<(String, &'static str, String), u16> {
    match routed(method, target, NEAR).expect("the path is one of the API") {
        AdminRoute::Stream(to) => Ok((to.name, to.method, to.call)),
        AdminRoute::Answered(answer) => Err(answer.status),
        AdminRoute::Verify(_)
        | AdminRoute::List(_)
        | AdminRoute::ListSubscriptions(_)
        | AdminRoute::Hot { .. }
        | AdminRoute::System
        | AdminRoute::Counts(_)
        | AdminRoute::Health => panic!("{target} does not go to a stream"),
    }
}

#[test]
fn only_paths_of_the_api_are_routed() {
    for target in [
        "/",
        "/admin",
        "/admin/",
        "/admin/apis",
        "/v1/stream/admin/api",
        "*",
        "",
    ] {
        assert_eq!(routed("GET", target, NEAR), None, "{target}");
    }
    for target in [
        "/admin/api",
        "/admin/api/",
        "/admin/api/x",
        "/admin/api?a",
        "/admin/api/#",
    ] {
        assert!(routed("GET", target, NEAR).is_some(), "{target}");
    }
}

#[test]
fn the_last_word_says_what_is_wanted_of_a_stream() {
    for (target, name, call) in [
        ("/streams/a", "a", "detail"),
        ("/streams/a/b", "a/b", "detail"),
        ("/streams/a%2Fb", "a%2Fb", "detail"),
        ("/streams/%61", "a", "detail"),
        ("/streams/a/detail", "a", "detail"),
        ("/streams/segments", "segments", "detail"),
        ("/streams/segments/segments", "segments", "segments 50 -"),
        ("/streams/a/segments/detail", "a/segments", "detail"),
        ("/streams/a/segments?limit=7&after=3", "a", "segments 7 3"),
        (
            "/streams/a/producers?cursor=p+%20",
            "a",
            "producers 50 =p%2B%20",
        ),
        (
            "/streams/a/outbox?cursor=4/call/x",
            "a",
            "outbox 50 4 =call%2Fx",
        ),
        ("/metrics/streams/a/b/throughput", "a/b", "throughput 60"),
        (
            "/metrics/streams/a/throughput?minutes=5",
            "a",
            "throughput 5",
        ),
        ("/metrics/streams/a/subscribers", "a", "subscribers"),
    ] {
        let expected = (name.to_owned(), "PATCH", call.to_owned());
        assert_eq!(
            sent("GET", &format!("/admin/api{target}")),
            Ok(expected),
            "{target}"
        );
    }
    for (word, method, call) in [
        ("create", "PUT", "action"),
        ("append", "POST", "action"),
        ("close", "POST", "action"),
        ("delete", "DELETE", "action"),
        ("seal", "PATCH", "seal"),
    ] {
        let target = format!("/admin/api/streams/a/b/{word}");
        let expected = ("a/b".to_owned(), method, call.to_owned());
        assert_eq!(sent("POST", &target), Ok(expected), "{word}");
        assert_eq!(sent("GET", &target), Err(405), "{word}");
        let registry = format!("/admin/api/streams/__registry__/1/{word}");
        assert_eq!(sent("POST", &registry), Err(403), "{word}");
        assert_eq!(sent("POST", &format!("{target}?x=1")), Err(400), "{word}");
    }
    for (target, status) in [
        ("/streams/__ds/a", 404),
        ("/streams/", 404),
        ("/streams/%zz", 400),
        ("/streams/..", 400),
        ("/streams/a#", 400),
        ("/metrics/streams/a", 404),
        ("/metrics/streams//throughput", 404),
    ] {
        assert_eq!(
            sent("GET", &format!("/admin/api{target}")),
            Err(status),
            "{target}"
        );
    }
}

#[test]
fn the_id_of_a_subscription_is_one_segment_of_the_path() {
    for (target, id, call) in [
        ("/a", "a", "subscription 100"),
        ("/a%2Fb", "a%2Fb", "subscription 100"),
        ("/%61%2fb", "a%2Fb", "subscription 100"),
        ("/retry", "retry", "subscription 100"),
        ("/a?limit=7&cursor=b%20", "a", "subscription 7 =b%20"),
    ] {
        let object = format!("__ds/subscriptions/{id}");
        let expected = (object, "PATCH", call.to_owned());
        let target = format!("/admin/api/subscriptions{target}");
        assert_eq!(sent("GET", &target), Ok(expected), "{target}");
        assert_eq!(sent("POST", &target), Err(405), "{target}");
    }
    for (word, method, call) in [("retry", "PATCH", "retry"), ("delete", "DELETE", "action")] {
        let target = format!("/admin/api/subscriptions/a%2Fb/{word}");
        let object = "__ds/subscriptions/a%2Fb".to_owned();
        let expected = (object, method, call.to_owned());
        assert_eq!(sent("POST", &target), Ok(expected), "{word}");
        for method in ["GET", "PUT", "DELETE"] {
            assert_eq!(sent(method, &target), Err(405), "{method} {word}");
        }
        assert_eq!(sent("POST", &format!("{target}?x=1")), Err(400), "{word}");
    }
    for (target, status) in [
        ("/subscriptions/", 404),
        ("/subscriptions//retry", 404),
        ("/subscriptions/a/b", 404),
        ("/subscriptions/a/retry/b", 404),
        ("/subscriptions/a/", 404),
        ("/subscriptions/%zz", 400),
        ("/subscriptions/a?limit=0", 400),
        ("/subscriptions?prefix=a", 400),
        ("/subscriptionsx", 404),
    ] {
        let target = format!("/admin/api{target}");
        assert_eq!(sent("GET", &target), Err(status), "{target}");
    }
    let listed = routed("GET", "/admin/api/subscriptions", PLATFORM);
    assert!(matches!(listed, Some(AdminRoute::ListSubscriptions(_))));
    assert_eq!(sent("POST", "/admin/api/subscriptions"), Err(405));
}

#[test]
fn a_session_is_asked_by_its_id_and_deleted_as_by_its_owner() {
    let id = "01234567-89ab-4cde-8f01-23456789abcd";
    let name = format!("subscriptions/{id}");
    for (query, call) in [
        ("", "session 100"),
        ("?limit=7&cursor=a%2Fb", "session 7 =a%2Fb"),
    ] {
        let target = format!("/admin/api/sessions/{id}{query}");
        let expected = (name.clone(), "PATCH", call.to_owned());
        assert_eq!(sent("GET", &target), Ok(expected), "{target}");
        assert_eq!(sent("POST", &target), Err(405), "{target}");
    }
    let target = format!("/admin/api/sessions/{id}/delete");
    let expected = (name, "PATCH", "\"delete\"".to_owned());
    assert_eq!(sent("POST", &target), Ok(expected));
    assert_eq!(sent("GET", &target), Err(405));
    assert_eq!(sent("POST", &format!("{target}?x=1")), Err(400));
    let Some(AdminRoute::Stream(delete)) = routed("POST", &target, NEAR) else {
        panic!("it goes to the session");
    };
    assert_eq!(delete.replaced("x-session-call"), Some(Some("\"delete\"")));
    assert_eq!(delete.replaced("X-Admin-Call"), Some(None));
    assert!(!delete.has_body());
    for (target, status) in [
        ("/sessions/", 404),
        ("/sessions//delete", 404),
        ("/sessions/x", 404),
        ("/sessions/01234567-89AB-4cde-8f01-23456789abcd", 404),
        ("/sessions/01234567-89ab-4cde-8f01-23456789abcd/x", 404),
        (
            "/sessions/01234567-89ab-4cde-8f01-23456789abcd?limit=0",
            400,
        ),
        ("/sessions?prefix=a", 400),
        ("/sessionsx", 404),
    ] {
        let target = format!("/admin/api{target}");
        assert_eq!(sent("GET", &target), Err(status), "{target}");
    }
    let listed = routed("GET", "/admin/api/sessions", NEAR);
    assert!(matches!(listed, Some(AdminRoute::List(_))));
    assert_eq!(sent("POST", "/admin/api/sessions"), Err(405));
}

#[test]
fn a_server_without_subscriptions_has_none_to_show() {
    let header = |name: &str| (name == "Host").then(|| "localhost".to_owned());
    let mut settings = Settings::default();
    Arc::make_mut(&mut settings.limits).subscriptions = false;
    for target in ["/admin/api/subscriptions", "/admin/api/subscriptions/a"] {
        let head = RequestHead {
            method: "GET",
            origin: "http://localhost",
            target,
            header: &header,
        };
        let Some(AdminRoute::Answered(answer)) = route(head, NEAR, &settings) else {
            panic!("{target} is refused");
        };
        assert_eq!(answer.status, 501, "{target}");
    }
}

#[test]
fn an_object_gets_no_internal_header_of_a_client() {
    let Some(AdminRoute::Stream(close)) = routed("POST", "/admin/api/streams/a/close", NEAR) else {
        panic!("it goes to the stream");
    };
    assert_eq!(close.target(), "/v1/stream/a");
    assert_eq!(close.replaced("stream-closed"), Some(Some("true")));
    assert_eq!(close.replaced("x-admin-call"), Some(Some("action")));
    assert_eq!(close.replaced("X-Fork-Call"), Some(None));
    assert_eq!(close.replaced("upgrade"), Some(None));
    assert_eq!(close.replaced("Content-Type"), None);
    for name in close.replaced_names() {
        assert!(close.replaced(name).is_some(), "{name}");
    }
    let Some(AdminRoute::Stream(append)) = routed("POST", "/admin/api/streams/a/append", NEAR)
    else {
        panic!("it goes to the stream");
    };
    assert_eq!(append.replaced("Stream-Closed"), None);
    assert!(append.has_body() && close.has_body());
}

#[test]
fn a_platform_cannot_answer_what_only_one_process_knows() {
    for target in [
        "/admin/api/metrics/hot",
        "/admin/api/metrics/system",
        "/admin/api/streams",
        "/admin/api/sessions",
    ] {
        let on_platform = routed("GET", target, PLATFORM);
        let Some(AdminRoute::Answered(answer)) = on_platform else {
            panic!("{target} is answered");
        };
        assert_eq!(answer.status, 503, "{target}");
        let near = routed("GET", target, NEAR);
        assert!(!matches!(near, Some(AdminRoute::Answered(_))), "{target}");
    }
    let health = routed("GET", "/admin/api/health", PLATFORM);
    assert_eq!(health, Some(AdminRoute::Health));
}

#[test]
fn analytics_engine_answers_for_the_platform_what_no_object_knows() {
    let header = |_: &str| None;
    let settings = Settings {
        admin_open: true,
        analytics: Some(Analytics {
            account: "0a".to_owned(),
            token: "t".to_owned(),
        }),
        ..Settings::default()
    };
    let routed = |target, caller| {
        let head = RequestHead {
            method: "GET",
            origin: "http://h",
            target,
            header: &header,
        };
        route(head, caller, &settings)
    };
    let (minutes, limit) = (5, 10);
    let name = "a/b".to_owned();
    for (target, expected) in [
        ("/admin/api/metrics/hot", Counts::Hot { minutes, limit }),
        ("/admin/api/metrics/system", Counts::System),
        (
            "/admin/api/metrics/streams/a/b/throughput?minutes=61",
            Counts::Throughput { name, minutes: 61 },
        ),
    ] {
        for caller in [PLATFORM, Caller::Admitted] {
            let expected = Some(AdminRoute::Counts(expected.clone()));
            assert_eq!(routed(target, caller), expected, "{target}");
        }
    }
    // The object of the stream knows the last hour exactly.
    let recent = routed(
        "/admin/api/metrics/streams/a/throughput?minutes=60",
        PLATFORM,
    );
    assert!(matches!(recent, Some(AdminRoute::Stream(_))));
    for target in [
        "/admin/api/metrics/streams/a/throughput?minutes=1441",
        "/admin/api/metrics/hot?minutes=61",
    ] {
        let refused = routed(target, PLATFORM);
        assert!(matches!(refused, Some(AdminRoute::Answered(answer)) if answer.status == 400));
    }
}

#[test]
fn a_ratio_has_three_decimals() {
    for (count, period, expected) in [(0, 60, "0.000"), (1, 60, "0.016"), (600, 60, "10.000")] {
        assert_eq!(ratio(count, period), expected);
    }
}
