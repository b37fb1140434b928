//! Files of earlier code are upgraded. Files of later code are not changed.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod harness;

use std::path::{Path, PathBuf};

use harness::Running;
use machine::router::Settings;
use rusqlite::Connection;

const CHAT: &str = include_str!("../../sqlite/tests/unnumbered/chat.sql");
const GONE: &str = include_str!("../../sqlite/tests/unnumbered/gone.sql");
const HEAD: &str = "Host: still\r\nConnection: close\r\nContent-Type: application/json\r\n";

fn start(data: &Path) -> Running {
    Running::start(data, Settings::read(&|_| None).unwrap(), None)
}

fn get(name: &str) -> String {
    format!("GET /v1/stream/{name} HTTP/1.1\r\n{HEAD}\r\n")
}

fn put(name: &str) -> String {
    format!("PUT /v1/stream/{name} HTTP/1.1\r\n{HEAD}Content-Length: 0\r\n\r\n")
}

fn append(seq: u64) -> String {
    format!(
        "POST /v1/stream/chat HTTP/1.1\r\n{HEAD}Producer-Id: p0\r\nProducer-Epoch: 3\r\n\
         Producer-Seq: {seq}\r\nContent-Length: 13\r\n\r\n{{\"message\":7}}"
    )
}

/// Returns the path of a stream's file.
fn file(data: &Path, name: &str) -> PathBuf {
    let folders = std::fs::read_dir(data.join("streams")).unwrap();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    let mut paths = files.map(|file| file.unwrap().path());
    let is_named = |path: &PathBuf| {
        let file = path.file_name().unwrap().to_str().unwrap();
        file.starts_with(&format!("{name}."))
    };
    paths.find(is_named).unwrap()
}

/// Returns everything in a database, as text.
fn dump(path: &Path) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let read = |statement: &str| {
        let mut statement = connection.prepare(statement).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let cells = (0..columns).map(|column| format!("{:?}", row.get_ref(column).unwrap()));
            Ok(cells.collect::<Vec<_>>().join(" "))
        });
        rows.unwrap().map(Result::unwrap).collect::<Vec<_>>()
    };
    let mut all = read("SELECT name, sql FROM sqlite_master ORDER BY name");
    for table in [
        "stream",
        "chores",
        "hot_0",
        "hot_1",
        "segments",
        "producers",
    ] {
        all.extend(read(&format!("SELECT * FROM {table}")));
    }
    all
}

/// Puts these tables in the place of a stream's file.
async fn replace(data: &Path, name: &str, tables: &[&str]) -> PathBuf {
    let server = start(data);
    let created = server.exchange(&put(name)).await;
    assert!(created.starts_with("HTTP/1.1 201 "), "{created}");
    server.stop().await;
    let path = file(data, name);
    std::fs::remove_file(&path).unwrap();
    let connection = Connection::open(&path).unwrap();
    for text in tables {
        connection.execute_batch(text).unwrap();
    }
    path
}

#[tokio::test(start_paused = true)]
async fn a_file_without_a_schema_number_is_upgraded_by_the_first_request() {
    let directory = tempfile::tempdir().unwrap();
    let path = replace(directory.path(), "chat", &[CHAT]).await;
    let server = start(directory.path());
    let page = server.exchange(&get("chat")).await;
    let messages: Vec<_> = (1..=6).map(|i| format!("{{\"message\":{i}}}")).collect();
    assert!(
        page.ends_with(&format!("[{}]", messages.join(","))),
        "{page}"
    );
    let duplicate = server.exchange(&append(2)).await;
    assert!(duplicate.starts_with("HTTP/1.1 204 "), "{duplicate}");
    let appended = server.exchange(&append(3)).await;
    assert!(appended.starts_with("HTTP/1.1 200 "), "{appended}");
    server.stop().await;
    let connection = Connection::open(&path).unwrap();
    let present = [
        ("stream", machine::rows::SCHEMA),
        ("outbox", machine::rows::OUTBOX_SCHEMA),
    ];
    for (table, present) in present {
        let schema = connection.query_row(&format!("SELECT schema FROM {table}"), [], |row| {
            row.get::<_, i64>(0)
        });
        assert_eq!(schema.unwrap().cast_unsigned(), present);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outbox_without_a_stream_is_upgraded_too() {
    let directory = tempfile::tempdir().unwrap();
    replace(directory.path(), "gone", &[GONE]).await;
    let server = start(directory.path());
    let gone = server.exchange(&get("gone")).await;
    assert!(gone.starts_with("HTTP/1.1 404 "), "{gone}");
    let created = server.exchange(&put("gone")).await;
    assert!(created.starts_with("HTTP/1.1 201 "), "{created}");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_of_later_code_is_answered_503_and_stays_as_it_is() {
    let stream = [
        "ALTER TABLE stream ADD COLUMN schema INTEGER NOT NULL DEFAULT 999",
        "ALTER TABLE stream DROP COLUMN schema",
    ];
    let outbox = [
        "CREATE TABLE outbox (schema INTEGER NOT NULL); INSERT INTO outbox VALUES (999)",
        "DROP TABLE outbox",
    ];
    for [later, back] in [stream, outbox] {
        let directory = tempfile::tempdir().unwrap();
        let path = replace(directory.path(), "chat", &[CHAT, later]).await;
        let before = dump(&path);
        let server = start(directory.path());
        let delete = format!("DELETE /v1/stream/chat HTTP/1.1\r\n{HEAD}\r\n");
        for request in [get("chat"), append(3), put("chat"), delete] {
            let answer = server.exchange(&request).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.contains("cache-control: no-store"), "{answer}");
        }
        // Its alarm is due, too.
        tokio::time::sleep(std::time::Duration::from_secs(600)).await;
        server.stop().await;
        assert_eq!(dump(&path), before);
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(back).unwrap();
        drop(connection);
        let server = start(directory.path());
        let page = server.exchange(&get("chat")).await;
        assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
        server.stop().await;
    }
}
