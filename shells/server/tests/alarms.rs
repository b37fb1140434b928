//! Alarms of streams that cannot be read delay no other.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod harness;

use std::time::Duration;

use harness::Running;
use machine::router::Settings;
use rusqlite::Connection;

const HEAD: &str = "Host: still\r\nConnection: close\r\nContent-Length: 0\r\n";
/// More than may be under way at the same time.
const DAMAGED: usize = 300;

#[tokio::test(start_paused = true)]
async fn many_failing_alarms_delay_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let settings = || Settings::read(&|_| None).unwrap();
    let server = Running::start(directory.path(), settings(), None);
    for number in 0..DAMAGED {
        let put = format!("PUT /v1/stream/d{number} HTTP/1.1\r\n{HEAD}Stream-TTL: 60\r\n\r\n");
        server.exchange(&put).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let put = format!("PUT /v1/stream/whole HTTP/1.1\r\n{HEAD}Stream-TTL: 61\r\n\r\n");
    server.exchange(&put).await;
    server.stop().await;
    for file in std::fs::read_dir(directory.path().join("shards")).unwrap() {
        let connection = Connection::open(file.unwrap().path()).unwrap();
        let damage = "UPDATE heads SET incarnation = 'none' WHERE name LIKE 'd%'";
        connection.execute(damage, []).unwrap();
    }
    let before = harness::streams(directory.path());
    assert_eq!(
        before.len(),
        DAMAGED + 18,
        "with the registry and 16 shards of the directory"
    );

    let server = Running::start(directory.path(), settings(), None);
    tokio::time::sleep(Duration::from_secs(80)).await;
    let head = format!("HEAD /v1/stream/d0 HTTP/1.1\r\n{HEAD}\r\n");
    let answer = server.exchange(&head).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    server.stop().await;
    let after = harness::streams(directory.path());
    assert_eq!(after.len(), DAMAGED + 17, "the whole stream has expired");
    assert!(!after.contains(&"whole".to_owned()));
}
