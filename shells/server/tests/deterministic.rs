//! Tests that the server runs without a network, a clock and threads, as a simulation needs.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod harness;

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use harness::Running;
use machine::router::Settings;
use object_store::ObjectStore as _;
use object_store::memory::InMemory;

/// Runs a server for a short time, and returns what clients saw.
async fn life() -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let cold = Arc::new(InMemory::new());
    // The second message seals a segment.
    let settings =
        Settings::read(&|name| (name == "SEGMENT_MAX_MESSAGES").then(|| "2".to_owned())).unwrap();
    let server = Running::start(directory.path(), settings, Some(cold.clone()));

    let head = "Host: still\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let put =
        format!("PUT /v1/stream/a HTTP/1.1\r\n{head}Stream-TTL: 300\r\nContent-Length: 0\r\n\r\n");
    let post = format!("POST /v1/stream/a HTTP/1.1\r\n{head}Content-Length: 7\r\n\r\n{{\"a\":1}}");
    let events = format!("GET /v1/stream/a?offset=-1&live=sse HTTP/1.1\r\n{head}\r\n");
    let poll = format!("GET /v1/stream/a?offset=now&live=long-poll HTTP/1.1\r\n{head}\r\n");
    let page = format!("GET /v1/stream/a HTTP/1.1\r\n{head}\r\n");

    let mut seen = vec![server.exchange(&put).await, server.exchange(&post).await];
    let (read, polled, appended) =
        tokio::join!(server.exchange(&events), server.exchange(&poll), async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            server.exchange(&post).await
        });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let objects: Vec<_> = cold.list(None).try_collect().await.unwrap();
    assert_eq!(objects.len(), 1);
    seen.extend([read, polled, appended, server.exchange(&page).await]);
    // The stream is idle until its alarm deletes it. Only the registry still knows it.
    tokio::time::sleep(Duration::from_secs(400)).await;
    seen.push(server.exchange(&page).await);
    seen.push(
        server
            .exchange(&page.replace("/a ", "/__registry__ "))
            .await,
    );
    tokio::time::sleep(Duration::from_secs(2 * 3_600)).await;
    let left: Vec<_> = cold.list(None).try_collect().await.unwrap();
    // The segment of the registry, which has two messages by now.
    assert!(
        left.iter().all(|object| !objects.contains(object)),
        "{left:?}"
    );
    server.stop().await;
    // The directory has forgotten the stream.
    let left = ["__ds/directory/3", "__registry__"];
    assert_eq!(harness::streams(directory.path()), left);
    seen
}

#[tokio::test(start_paused = true)]
async fn a_run_takes_no_time_and_repeats_exactly() {
    let [created, first, read, polled, second, page, gone, registry] =
        <[String; 8]>::try_from(life().await).unwrap();
    assert!(created.starts_with("HTTP/1.1 201 "), "{created}");
    assert!(first.starts_with("HTTP/1.1 204 "), "{first}");
    assert!(second.starts_with("HTTP/1.1 204 "), "{second}");
    assert_eq!(read.matches("data:[{\"a\":1}]").count(), 2, "{read}");
    assert_eq!(read.matches(": heartbeat").count(), 3, "{read}");
    assert!(
        read.ends_with("0\r\n\r\n"),
        "the event stream comes to its end: {read}"
    );
    assert!(
        polled.starts_with("HTTP/1.1 200 ") && polled.ends_with("[{\"a\":1}]"),
        "{polled}"
    );
    // The answer is chunked, because all of the stream is cold by now.
    let body = page.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(
        body, "10\r\n[{\"a\":1},{\"a\":1}\r\n1\r\n]\r\n0\r\n\r\n",
        "{page}"
    );
    assert!(gone.starts_with("HTTP/1.1 404 "), "{gone}");
    for operation in ["insert", "delete"] {
        let headers = format!("\"headers\":{{\"operation\":\"{operation}\"}}");
        assert_eq!(registry.matches(&headers).count(), 1, "{registry}");
    }
    let again = life().await;
    assert_eq!(
        vec![created, first, read, polled, second, page, gone, registry],
        again
    );
}
