//! Appends of one stream that wait together share a turn, and its row.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use harness::Running;
use machine::router::Settings;
use object_store::memory::InMemory;
use rusqlite::Connection;

const HEAD: &str = "Host: still\r\nConnection: close\r\nContent-Type: application/json\r\n";

fn start(data: &Path, cold: &Arc<InMemory>, segment_messages: u64) -> Running {
    let messages = segment_messages.to_string();
    let settings =
        Settings::read(&|name| (name == "SEGMENT_MAX_MESSAGES").then(|| messages.clone()));
    Running::start(data, settings.unwrap(), Some(cold.clone()))
}

async fn send(server: &Running, method: &str, name: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "{method} /v1/stream/{name} HTTP/1.1\r\n{HEAD}Content-Length: {length}\r\n\r\n{body}"
    );
    server.exchange(&request).await
}

/// Sends appends of numbers from 0 at the same time. Returns the answers.
async fn together(server: &Running, name: &str, count: usize) -> Vec<String> {
    let bodies: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    let appends = bodies.iter().map(|body| send(server, "POST", name, body));
    join_all(appends).await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

fn next_offset(answer: &str) -> String {
    let lines = answer.to_ascii_lowercase();
    let mut offsets = lines
        .split("\r\n")
        .filter_map(|line| line.strip_prefix("stream-next-offset: "));
    offsets.next().unwrap().to_owned()
}

/// Returns the messages of a stream, sorted.
async fn messages(server: &Running, name: &str) -> Vec<u64> {
    let answer = send(server, "GET", name, "").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let is_chunked = head.contains("chunked");
    let lines: Vec<_> = body.split("\r\n").collect();
    let body: String = if is_chunked {
        let parts = lines.chunks(2).filter_map(|chunk| chunk.get(1));
        parts.copied().collect()
    } else {
        body.to_owned()
    };
    let mut messages: Vec<u64> = serde_json::from_str(&body).unwrap();
    messages.sort_unstable();
    messages
}

fn shards(data: &Path) -> Vec<Connection> {
    let files = fs::read_dir(data.join("shards")).unwrap();
    files
        .map(|file| Connection::open(file.unwrap().path()).unwrap())
        .collect()
}

/// Returns the number of hot rows of a stream.
fn row_count(data: &Path, name: &str) -> i64 {
    let statement = "SELECT count(*) FROM hot JOIN streams ON streams.id = hot.stream \
                     WHERE streams.name = ?";
    let shards = shards(data);
    let counts = shards.iter().map(|shard| {
        let count = shard.query_row(statement, [name], |row| row.get::<_, i64>(0));
        count.unwrap()
    });
    counts.sum()
}

#[tokio::test(start_paused = true)]
async fn appends_that_wait_together_share_a_row_and_each_gets_its_own_answer() {
    let directory = tempfile::tempdir().unwrap();
    let cold = Arc::new(InMemory::new());
    let server = start(directory.path(), &cold, 1_000);
    send(&server, "PUT", "a", "").await;
    let answers = together(&server, "a", 64).await;
    assert!(answers.iter().all(|answer| status(answer) == "204"));
    let offsets: BTreeSet<_> = answers.iter().map(|answer| next_offset(answer)).collect();
    assert_eq!(offsets.len(), 64, "{offsets:?}");
    assert_eq!(messages(&server, "a").await, (0..64).collect::<Vec<_>>());
    server.stop().await;
    let rows = row_count(directory.path(), "a");
    assert!(rows <= 4, "{rows} rows of 64 appends");
}

#[tokio::test(start_paused = true)]
async fn appends_that_a_seal_leaves_out_run_next_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let cold = Arc::new(InMemory::new());
    // Every third message seals a segment, which ends the turn.
    let server = start(directory.path(), &cold, 3);
    send(&server, "PUT", "a", "").await;
    let answers = together(&server, "a", 64).await;
    assert!(answers.iter().all(|answer| status(answer) == "204"));
    let offsets: BTreeSet<_> = answers.iter().map(|answer| next_offset(answer)).collect();
    assert_eq!(offsets.len(), 64, "{offsets:?}");
    assert_eq!(messages(&server, "a").await, (0..64).collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_turn_of_several_appends_fails_all_of_them_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let cold = Arc::new(InMemory::new());
    let server = start(directory.path(), &cold, 1_000);
    for name in ["a", "b"] {
        send(&server, "PUT", name, "").await;
    }
    server.stop().await;
    let set = |schema: u64| {
        let of = "(SELECT id FROM streams WHERE name = 'a')";
        let set = format!("UPDATE heads SET schema = {schema} WHERE stream = {of}");
        for shard in shards(directory.path()) {
            shard.execute(&set, []).unwrap();
        }
    };
    // Its turns fail, because they cannot load it.
    set(999);
    let server = start(directory.path(), &cold, 1_000);
    let (failed, stored) = tokio::join!(together(&server, "a", 32), together(&server, "b", 32));
    assert!(failed.iter().all(|answer| status(answer) == "503"));
    assert!(stored.iter().all(|answer| status(answer) == "204"));
    assert_eq!(messages(&server, "b").await, (0..32).collect::<Vec<_>>());
    server.stop().await;
    set(machine::rows::SCHEMA);
    let server = start(directory.path(), &cold, 1_000);
    assert!(messages(&server, "a").await.is_empty());
    server.stop().await;
}
