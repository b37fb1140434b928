//! A directory gets another number of shards. One of version 0.1 is imported.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};

use harness::Running;
use machine::Millis;
use machine::router::Settings;
use rusqlite::Connection;
use server::reshard::{Resharded, reshard};
use sha2::{Digest as _, Sha256};

const CHAT: &str = include_str!("../../sqlite/tests/unnumbered/chat.sql");
const GONE: &str = include_str!("../../sqlite/tests/unnumbered/gone.sql");
const HEAD: &str = "Host: still\r\nConnection: close\r\nContent-Type: application/json\r\n";
const NOW: Millis = Millis(1_800_000_000_000);

fn start(data: &Path) -> Running {
    Running::start(data, Settings::read(&|_| None).unwrap(), None)
}

fn get(name: &str) -> String {
    format!("GET /v1/stream/{name} HTTP/1.1\r\n{HEAD}\r\n")
}

fn put(name: &str) -> String {
    format!("PUT /v1/stream/{name} HTTP/1.1\r\n{HEAD}Content-Length: 0\r\n\r\n")
}

fn append(name: &str, seq: u64) -> String {
    format!(
        "POST /v1/stream/{name} HTTP/1.1\r\n{HEAD}Producer-Id: p0\r\nProducer-Epoch: 3\r\n\
         Producer-Seq: {seq}\r\nContent-Length: 13\r\n\r\n{{\"message\":7}}"
    )
}

/// Makes the file of a stream as version 0.1 did.
fn former(data: &Path, name: &str, tables: &[&str]) -> PathBuf {
    let digest = Sha256::digest(name.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = data.join("streams").join(&digest[..2]);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{name}.{digest}.sqlite"));
    let connection = Connection::open(&path).unwrap();
    for text in tables {
        connection.execute_batch(text).unwrap();
    }
    path
}

fn index(data: &Path, alarms: &[(&str, i64)]) {
    let index = Connection::open(data.join("alarms.sqlite")).unwrap();
    index
        .execute_batch("CREATE TABLE alarms (name TEXT NOT NULL PRIMARY KEY, at INTEGER NOT NULL)")
        .unwrap();
    for alarm in alarms {
        index
            .execute("INSERT INTO alarms VALUES (?, ?)", *alarm)
            .unwrap();
    }
}

fn folders(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn alarms(data: &Path) -> Vec<(String, Option<i64>)> {
    let mut alarms = Vec::new();
    for file in fs::read_dir(data.join("shards")).unwrap() {
        let connection = Connection::open(file.unwrap().path()).unwrap();
        let mut statement = connection
            .prepare("SELECT name, alarm_at FROM streams")
            .unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        alarms.extend(rows.unwrap().map(Result::unwrap));
    }
    alarms.sort();
    alarms
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_version_0_1_is_imported() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    former(data, "chat", &[CHAT]);
    former(data, "gone", &[GONE]);
    former(data, "empty", &[]);
    index(data, &[("gone", 7)]);
    let done = reshard(data, 3, NOW).unwrap();
    let expected = Resharded {
        streams: 2,
        shards: 3,
        ..Resharded::default()
    };
    assert_eq!(done, expected);
    assert_eq!(folders(data), ["lock", "shards"]);
    let set = alarms(data);
    assert_eq!(set.len(), 2, "{set:?}");
    assert!(set.iter().all(|(_, at)| at.is_some()), "{set:?}");
    assert!(set.contains(&("gone".to_owned(), Some(7))), "{set:?}");

    let server = start(data);
    let page = server.exchange(&get("chat")).await;
    let messages: Vec<_> = (1..=6).map(|i| format!("{{\"message\":{i}}}")).collect();
    assert!(
        page.ends_with(&format!("[{}]", messages.join(","))),
        "{page}"
    );
    let duplicate = server.exchange(&append("chat", 2)).await;
    assert!(duplicate.starts_with("HTTP/1.1 204 "), "{duplicate}");
    let appended = server.exchange(&append("chat", 3)).await;
    assert!(appended.starts_with("HTTP/1.1 200 "), "{appended}");
    let gone = server.exchange(&get("gone")).await;
    assert!(gone.starts_with("HTTP/1.1 404 "), "{gone}");
    let created = server.exchange(&put("gone")).await;
    assert!(created.starts_with("HTTP/1.1 201 "), "{created}");
    server.stop().await;
}

#[test]
fn a_file_that_cannot_be_imported_stops_it_and_nothing_has_changed() {
    let later = "ALTER TABLE stream ADD COLUMN schema INTEGER NOT NULL DEFAULT 999";
    let other = "UPDATE stream SET name = 'other'";
    for (text, reason) in [
        (later, "its schema 999 is newer"),
        (other, "another stream"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = former(directory.path(), "chat", &[CHAT, text]);
        let before = fs::read(&path).unwrap();
        let error = reshard(directory.path(), 1, NOW).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(folders(directory.path()), ["lock", "streams"]);
    }
}

/// Returns what clients see of the streams.
async fn contents(data: &Path, names: &[String]) -> Vec<String> {
    let server = start(data);
    let mut pages = Vec::new();
    for name in names {
        pages.push(server.exchange(&get(name)).await);
        let duplicate = server.exchange(&append(name, 2)).await;
        assert!(duplicate.starts_with("HTTP/1.1 204 "), "{duplicate}");
    }
    server.stop().await;
    pages
}

#[tokio::test(start_paused = true)]
async fn another_number_of_shards_keeps_all_streams() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    reshard(&data.join("missing"), 1, NOW).unwrap_err();
    let names: Vec<_> = (0..20).map(|number| format!("s{number}")).collect();
    let server = start(data);
    for name in &names {
        server.exchange(&put(name)).await;
        for seq in 0..3 {
            let appended = server.exchange(&append(name, seq)).await;
            assert!(appended.starts_with("HTTP/1.1 200 "), "{appended}");
        }
    }
    server.stop().await;
    let before = contents(data, &names).await;
    let set = alarms(data);
    for count in [3, 1, 2] {
        let done = reshard(data, count, NOW).unwrap();
        // The registry is one of them, and so are twelve shards of the directory.
        assert_eq!((done.streams, done.shards, done.damaged), (33, count, 0));
        assert_eq!(folders(data), ["lock", "shards"]);
        assert_eq!(fs::read_dir(data.join("shards")).unwrap().count(), count);
        assert_eq!(alarms(data), set);
        assert_eq!(contents(data, &names).await, before);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_a_crash_has_ended_is_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let names = ["a".to_owned(), "b".to_owned()];
    let server = start(data);
    for name in &names {
        server.exchange(&put(name)).await;
        for seq in 0..3 {
            server.exchange(&append(name, seq)).await;
        }
    }
    server.stop().await;
    let before = contents(data, &names).await;
    let at = |name| data.join(name);
    // While the new files were made.
    fs::create_dir(at("shards.new")).unwrap();
    fs::write(at("shards.new").join("0.sqlite"), "half").unwrap();
    assert_eq!(contents(data, &names).await, before);
    reshard(data, 2, NOW).unwrap();
    assert_eq!(contents(data, &names).await, before);
    // Between the two renames.
    fs::rename(at("shards"), at("shards.old")).unwrap();
    fs::create_dir(at("shards.new")).unwrap();
    let config = harness::config(data, Settings::read(&|_| None).unwrap());
    let refused = harness::open(config).unwrap_err().to_string();
    assert!(refused.contains("interrupted"), "{refused}");
    reshard(data, 3, NOW).unwrap();
    assert_eq!(contents(data, &names).await, before);
    // Before the old files were removed.
    fs::create_dir(at("shards.old")).unwrap();
    assert_eq!(contents(data, &names).await, before);
    reshard(data, 1, NOW).unwrap();
    assert_eq!(folders(data), ["lock", "shards"]);
    assert_eq!(contents(data, &names).await, before);
}
