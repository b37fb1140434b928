//! Rows of earlier code are upgraded by the turn that loads their stream. Rows of later code are
//! answered 503 and stay as they are, and other streams are not affected.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod harness;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::Running;
use machine::Millis;
use machine::router::Settings;
use machine::rows::{OUTBOX_SCHEMA, SCHEMA};
use object_store::memory::InMemory;
use rusqlite::Connection;
use server::reshard::reshard;
use tracing_subscriber::fmt::MakeWriter;

const HEAD: &str = "Host: still\r\nConnection: close\r\nContent-Type: application/json\r\n";
const NEWER: u64 = 999;
const NOW: Millis = Millis(1_800_000_000_000);

/// The log of a test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn start(data: &Path, cold: &Arc<InMemory>) -> Running {
    // The second message seals a segment.
    let settings =
        Settings::read(&|name| (name == "SEGMENT_MAX_MESSAGES").then(|| "2".to_owned())).unwrap();
    Running::start(data, settings, Some(cold.clone()))
}

async fn send(server: &Running, method: &str, name: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "{method} /v1/stream/{name} HTTP/1.1\r\n{HEAD}Content-Length: {length}\r\n\r\n{body}"
    );
    server.exchange(&request).await
}

fn is(answer: &str, status: &str) {
    let line = format!("HTTP/1.1 {status} ");
    assert!(answer.starts_with(&line), "{answer}");
}

/// Returns the files of the shards.
fn files(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("shards")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn shards(data: &Path) -> impl Iterator<Item = Connection> {
    files(data)
        .into_iter()
        .map(|file| Connection::open(file).unwrap())
}

/// Sets the numbers of one stream.
fn set(data: &Path, table: &str, name: &str, schema: u64) {
    let of = "(SELECT id FROM streams WHERE name = ?)";
    let statement = format!("UPDATE {table} SET schema = {schema} WHERE stream = {of}");
    let changed = shards(data).map(|shard| shard.execute(&statement, [name]).unwrap());
    assert!(changed.sum::<usize>() > 0, "{table} has rows of {name}");
}

/// Returns the numbers of one stream: of its row, and of its tasks.
fn numbers(data: &Path, name: &str) -> [Vec<u64>; 2] {
    ["heads", "outbox"].map(|table| {
        let of = "(SELECT id FROM streams WHERE name = ?)";
        let statement = format!("SELECT DISTINCT schema FROM {table} WHERE stream = {of}");
        let mut numbers = Vec::new();
        for shard in shards(data) {
            let mut statement = shard.prepare(&statement).unwrap();
            let rows = statement.query_map([name], |row| row.get::<_, i64>(0));
            numbers.extend(rows.unwrap().map(|schema| schema.unwrap().unsigned_abs()));
        }
        numbers
    })
}

/// Returns everything that is stored of a stream, its alarm included.
fn stored(data: &Path, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    for shard in shards(data) {
        for table in [
            "heads",
            "outbox",
            "control",
            "hot",
            "segments",
            "producers",
            "streams",
        ] {
            let column = if table == "streams" { "id" } else { "stream" };
            let of = "(SELECT id FROM streams WHERE name = ?)";
            let statement = format!("SELECT * FROM {table} WHERE {column} = {of}");
            let mut statement = shard.prepare(&statement).unwrap();
            let columns = statement.column_count();
            let mut rows = statement.query([name]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let cells = (0..columns).map(|column| format!("{:?}", row.get_ref(column)));
                all.push(format!("{table} {}", cells.collect::<Vec<_>>().join(" ")));
            }
        }
    }
    all
}

fn set_format(data: &Path, format: u64) {
    let statement = format!("UPDATE shard SET format = {format}");
    for shard in shards(data) {
        assert_eq!(shard.execute(&statement, []).unwrap(), 1);
    }
}

/// Makes streams with a sealed and an open segment, and a deleted stream whose objects will be
/// deleted.
async fn streams(data: &Path, names: &[&str], deleted: &str) -> Arc<InMemory> {
    let cold = Arc::new(InMemory::new());
    let server = start(data, &cold);
    for name in names {
        is(&send(&server, "PUT", name, "").await, "201");
        for message in 0..3 {
            is(
                &send(&server, "POST", name, &message.to_string()).await,
                "204",
            );
        }
    }
    is(&send(&server, "PUT", deleted, "[1,2,3]").await, "201");
    tokio::time::sleep(Duration::from_secs(5)).await;
    is(&send(&server, "DELETE", deleted, "").await, "204");
    tokio::time::sleep(Duration::from_secs(5)).await;
    server.stop().await;
    assert_eq!(numbers(data, deleted), [vec![], vec![OUTBOX_SCHEMA]]);
    cold
}

/// Returns the body of an answer. One that is fetched from the cold tier comes in chunks.
fn body(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    if !head.contains("chunked") {
        return body.to_owned();
    }
    let lines: Vec<_> = body.split("\r\n").collect();
    lines
        .chunks(2)
        .filter_map(|chunk| chunk.get(1))
        .copied()
        .collect()
}

#[tokio::test(start_paused = true)]
async fn older_rows_are_upgraded_by_any_first_request_and_keep_everything() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let names = ["read", "appended", "metadata", "closed", "deleted"];
    let cold = streams(data, &names, "gone").await;
    for name in names {
        set(data, "heads", name, SCHEMA - 1);
    }
    set(data, "outbox", "gone", OUTBOX_SCHEMA - 1);

    let server = start(data, &cold);
    assert_eq!(body(&send(&server, "GET", "read", "").await), "[0,1,2]");
    is(&send(&server, "POST", "appended", "3").await, "204");
    is(&send(&server, "HEAD", "metadata", "").await, "200");
    is(&send(&server, "PUT", "closed", "").await, "200");
    is(&send(&server, "DELETE", "deleted", "").await, "204");
    is(&send(&server, "GET", "gone", "").await, "404");
    for name in ["read", "metadata", "closed"] {
        is(&send(&server, "POST", name, "3").await, "204");
    }
    for name in ["read", "appended", "metadata", "closed"] {
        let page = send(&server, "GET", name, "").await;
        assert_eq!(body(&page), "[0,1,2,3]", "{name}");
    }
    server.stop().await;
    for name in ["read", "appended", "metadata", "closed"] {
        assert_eq!(numbers(data, name), [vec![SCHEMA], vec![]], "{name}");
    }
    assert_eq!(numbers(data, "gone"), [vec![], vec![OUTBOX_SCHEMA]]);
}

#[tokio::test(start_paused = true)]
async fn newer_rows_are_answered_503_and_stay_and_other_streams_go_on() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).finish();
    let _logs = tracing::subscriber::set_default(subscriber);
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let cold = streams(data, &["newer", "other"], "gone").await;
    set(data, "heads", "newer", NEWER);
    set(data, "outbox", "gone", NEWER);
    let before = ["newer", "gone"].map(|name| stored(data, name));

    let server = start(data, &cold);
    for name in ["newer", "gone"] {
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
            let answer = send(&server, method, name, "3").await;
            is(&answer, "503");
            let answer = answer.to_ascii_lowercase();
            assert!(
                answer.contains("\r\ncache-control: no-store\r\n"),
                "{answer}"
            );
            assert!(answer.contains("\r\nretry-after: "), "{answer}");
            is(&send(&server, "POST", "other", "3").await, "204");
        }
    }
    // The alarm of the deletion comes, too, and changes nothing.
    tokio::time::sleep(Duration::from_secs(2 * 3_600)).await;
    let page = send(&server, "GET", "other", "").await;
    assert_eq!(body(&page), "[0,1,2,3,3,3,3,3,3,3,3,3,3]");
    server.stop().await;
    assert_eq!(["newer", "gone"].map(|name| stored(data, name)), before);
    for known in [SCHEMA, OUTBOX_SCHEMA] {
        let reason = format!("its schema {NEWER} is newer than {known}");
        assert!(log.text().contains(&reason), "{}", log.text());
    }
    // The release that wrote it finds it again.
    set(data, "heads", "newer", SCHEMA);
    let server = start(data, &cold);
    assert_eq!(body(&send(&server, "GET", "newer", "").await), "[0,1,2]");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_number_of_shards_upgrades_older_rows_and_refuses_newer_ones() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let cold = streams(data, &["a"], "gone").await;
    for (table, name) in [("heads", "a"), ("outbox", "gone")] {
        set(data, table, name, NEWER);
        let before = stored(data, name);
        let error = reshard(data, 1, NOW).unwrap_err().to_string();
        let reason = format!("the stream {name:?}: its schema {NEWER} is newer");
        assert!(error.contains(&reason), "{error}");
        assert_eq!(stored(data, name), before);
        set(data, table, name, 0);
    }
    reshard(data, 1, NOW).unwrap();
    assert_eq!(numbers(data, "a"), [vec![SCHEMA], vec![]]);
    assert_eq!(numbers(data, "gone"), [vec![], vec![OUTBOX_SCHEMA]]);
    let server = start(data, &cold);
    assert_eq!(body(&send(&server, "GET", "a", "").await), "[0,1,2]");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_of_another_layout_is_refused_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let cold = streams(data, &["a"], "gone").await;
    let contents = || -> Vec<_> {
        let files = files(data).into_iter();
        files.map(|file| fs::read(file).unwrap()).collect()
    };
    for (format, reason) in [
        (4, "its format 4 is newer than 3"),
        (0, "its format 0 is older than 1"),
    ] {
        set_format(data, format);
        let before = contents();
        let config = harness::config(data, Settings::read(&|_| None).unwrap());
        let error = harness::open(config).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        let error = reshard(data, 1, NOW).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert_eq!(contents(), before);
    }
    // An earlier layout is brought to the present one, whoever opens the file first.
    for opens in ["server", "reshard"] {
        for shard in shards(data) {
            shard.execute_batch("DROP TABLE control").unwrap();
        }
        set_format(data, 2);
        if opens == "reshard" {
            reshard(data, 1, NOW).unwrap();
        } else {
            start(data, &cold).stop().await;
        }
        for shard in shards(data) {
            let rows = shard.query_row("SELECT count(*) FROM control", [], |row| row.get(0));
            assert_eq!(rows, Ok(0_i64), "{opens}");
        }
    }
    let server = start(data, &cold);
    assert_eq!(body(&send(&server, "GET", "a", "").await), "[0,1,2]");
    server.stop().await;
}
