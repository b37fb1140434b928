//! Rows of earlier code are upgraded to the present layout. Rows of later code are not changed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use machine::outbox::{Queue, Task, TaskKind};
use machine::rows::{
    AppendEnd, CONTROL_SCHEMA, ControlRow, Former, HotRow, HotTable, Layout, OUTBOX_SCHEMA,
    ProducerStamp, RowKey, SCHEMA, StreamRow,
};
use machine::{Millis, Storage, Stream, Write};
use rusqlite::Connection;
use sqlite::Database;

const CHAT: &str = include_str!("unnumbered/chat.sql");
const SCHEMA_1: &str = include_str!("schema-1/chat.sql");
const GONE: &str = include_str!("unnumbered/gone.sql");

fn database(tables: &str) -> Database {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(tables).unwrap();
    Database::new(connection)
}

/// Returns a stream of version 0.1, in its tables.
fn former(open: u64, writable: bool, tables: &[(&str, u64)]) -> Database {
    let mut text = format!(
        "CREATE TABLE stream (id INTEGER PRIMARY KEY, incarnation TEXT NOT NULL, content_type TEXT NOT NULL, \
         created_at INTEGER NOT NULL, ttl_seconds INTEGER, expires_at INTEGER, expires_at_text TEXT, name TEXT NOT NULL, \
         version INTEGER NOT NULL, registered INTEGER NOT NULL, segment INTEGER NOT NULL, writable INTEGER NOT NULL, \
         stream_seq TEXT, touched_at INTEGER NOT NULL, alarm_at INTEGER, closed INTEGER NOT NULL, closed_producer TEXT, \
         closed_epoch INTEGER, closed_seq INTEGER); \
         CREATE TABLE segments (number INTEGER PRIMARY KEY, units INTEGER NOT NULL, bytes INTEGER NOT NULL, \
         messages INTEGER NOT NULL, attempts INTEGER NOT NULL, attempted_at INTEGER NOT NULL, stored INTEGER, \
         segment_index BLOB); \
         CREATE TABLE producers (id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID; \
         INSERT INTO producers VALUES ('p', 1, 2); \
         INSERT INTO stream VALUES (1, '00000000000000ff', 'text/plain', 1, NULL, NULL, NULL, 's', 1, 0, {open}, {writable}, \
         NULL, 1, NULL, {}, NULL, NULL, NULL);",
        !writable
    );
    for (table, position) in tables {
        text.push_str(&format!(
            "CREATE TABLE {table} (key INTEGER PRIMARY KEY, units INTEGER NOT NULL, bytes_before INTEGER NOT NULL, \
             at INTEGER NOT NULL, producer TEXT, epoch INTEGER, seq INTEGER, stream_seq TEXT, frames BLOB NOT NULL); \
             INSERT INTO {table} (key, units, bytes_before, at, frames) VALUES (0, {position}, 0, 1, x'00');"
        ));
    }
    database(&text)
}

/// Upgrades older rows to the present layout.
fn upgrade(database: &Database) {
    let now = Millis(1_000);
    let write = Stream::upgrade(now, database).unwrap().unwrap();
    database.apply(&[write]).unwrap();
    assert_eq!(Stream::upgrade(now, database).unwrap(), None, "once");
    let layout = database.layout().unwrap();
    assert!(layout.stream.is_none_or(|schema| schema == SCHEMA));
    assert!(layout.outbox.is_none_or(|schema| schema == OUTBOX_SCHEMA));
    assert!(layout.control.is_none_or(|schema| schema == CONTROL_SCHEMA));
    assert_eq!(layout.former, None::<Former>);
    assert_eq!(layout.older_tasks, []);
}

fn all_tasks(database: &Database) -> Vec<Task> {
    database.tasks(&Queue::first(), 0, 10).unwrap()
}

/// Returns where the rows of each former table are after the upgrade.
fn upgraded(database: &Database) -> Vec<(u64, u64)> {
    upgrade(database);
    let mut found = Vec::new();
    for segment in 0..9 {
        let table = HotTable::of(segment);
        if let Ok(Some(row)) = database.at_or_before(table, RowKey::LAST) {
            found.push((segment, row.units));
        }
    }
    found
}

#[test]
fn the_rows_of_each_segment_of_version_0_1_are_found_again() {
    for (open, writable, tables, expected) in [
        (0, true, &[("hot_a", 10)][..], &[(0, 10)][..]),
        (4, true, &[("hot_a", 14)], &[(4, 14)]),
        (
            4,
            true,
            &[("hot_a", 14), ("hot_b", 13)],
            &[(3, 13), (4, 14)],
        ),
        (
            5,
            true,
            &[("hot_a", 14), ("hot_b", 15)],
            &[(4, 14), (5, 15)],
        ),
        // The stream is closed. Its last segment is sealed, and an earlier one may still wait.
        (5, false, &[], &[]),
        (5, false, &[("hot_a", 14)], &[(4, 14)]),
        (
            5,
            false,
            &[("hot_a", 14), ("hot_b", 13)],
            &[(3, 13), (4, 14)],
        ),
        (1, false, &[("hot_a", 10)], &[(0, 10)]),
    ] {
        assert_eq!(
            upgraded(&former(open, writable, tables)),
            expected,
            "{open} {writable}"
        );
    }
}

#[test]
fn a_producer_of_version_0_1_is_known_and_counts_as_used_at_the_upgrade() {
    let database = former(2, true, &[("hot_a", 1)]);
    upgraded(&database);
    for (used_at, most, is_known) in [(999, 9, true), (1_000, 0, true), (1_000, 1, false)] {
        let used_at = Millis(used_at);
        database
            .apply(&[Write::ForgetProducers { used_at, most }])
            .unwrap();
        assert_eq!(database.producer("p").unwrap().is_some(), is_known);
    }
}

#[test]
fn rows_without_a_number_get_one_and_keep_everything_else() {
    let database = database(CHAT);
    assert_eq!(database.layout().unwrap().stream, Some(0));
    assert_eq!(database.layout().unwrap().outbox, Some(0));
    upgrade(&database);
    let row: StreamRow = database.head().unwrap().unwrap();
    assert_eq!(
        (row.name.as_str(), row.segment, row.writable),
        ("chat", 1, true)
    );
    let tasks = all_tasks(&database);
    assert!(matches!(tasks[0].what, TaskKind::Collect(_)) && tasks.len() == 1);
    let producer = database.producer("p1").unwrap().unwrap();
    assert_eq!((producer.epoch, producer.seq), (3, 1));
    for (segment, end) in [(0, 4), (1, 2)] {
        let table = HotTable::of(segment);
        let last = database.at_or_before(table, RowKey::LAST).unwrap().unwrap();
        assert_eq!(last.end(), end);
    }
    // New rows have the number, too.
    database.apply(&[Write::UpdateStream(row)]).unwrap();
    let task = Task {
        id: 9,
        ..tasks[0].clone()
    };
    database.apply(&[Write::InsertTask(task)]).unwrap();
    let layout = Layout {
        newest_hot: Some(1),
        oldest_hot: Some(0),
        has_segments: true,
        ..Layout::present(true, true, false)
    };
    assert_eq!(database.layout().unwrap(), layout);
}

/// Rows of schema 1 keep everything, and a row with several appends can follow them.
#[test]
fn several_appends_share_a_row_behind_those_of_schema_1() {
    let database = database(SCHEMA_1);
    assert_eq!(database.layout().unwrap().stream, Some(1));
    upgrade(&database);
    let table = HotTable::of(1);
    let stamp = |id: &str, seq| {
        Some(ProducerStamp {
            id: id.to_owned(),
            epoch: 3,
            seq,
        })
    };
    let end = |producer: Option<ProducerStamp>, stream_seq: Option<&str>| AppendEnd {
        units: 1,
        producer,
        stream_seq: stream_seq.map(str::to_owned),
    };
    let row = HotRow {
        key: RowKey::at(2),
        units: 3,
        bytes_before: 34,
        at: Millis(1_800_000_000_000),
        ends: vec![
            end(stamp("p1", 3), None),
            end(None, None),
            end(stamp("p0", 3), Some("0009")),
        ],
        frames: bytes::Bytes::from_static(b"frames of three appends").into(),
    };
    database.apply(&[Write::InsertHot { table, row }]).unwrap();
    let mut writers = Vec::new();
    database
        .writers(table, &mut |writer| writers.push(writer))
        .unwrap();
    let writers = writers.into_iter().map(|writer| {
        let producer = writer.producer.map(|stamp| (stamp.id, stamp.seq));
        (producer, writer.stream_seq)
    });
    let expected = [
        (Some(("p1".to_owned(), 2)), Some("0005".to_owned())),
        (Some(("p0".to_owned(), 2)), Some("0006".to_owned())),
        (Some(("p1".to_owned(), 3)), None),
        (Some(("p0".to_owned(), 3)), Some("0009".to_owned())),
    ];
    assert_eq!(writers.collect::<Vec<_>>(), expected);
    let last = database.at_or_before(table, RowKey::LAST).unwrap().unwrap();
    assert_eq!((last.key, last.end()), (RowKey::at(2), 5));
}

#[test]
fn the_newest_hot_table_is_found_by_its_number() {
    let database = Database::in_memory().unwrap();
    for (segment, newest) in [(9, 9), (10, 10), (2, 10)] {
        let create = Write::CreateHot(HotTable::of(segment));
        database.apply(&[create]).unwrap();
        assert_eq!(database.layout().unwrap().newest_hot, Some(newest));
    }
}

#[test]
fn an_outbox_without_a_stream_gets_a_number() {
    let database = database(GONE);
    upgrade(&database);
    assert_eq!(
        database.layout().unwrap(),
        Layout::present(false, true, false)
    );
    assert_eq!(all_tasks(&database).len(), 1);
}

/// Checks that tasks of each kind, from an outbox without queues, are there after the upgrade.
#[test]
fn the_tasks_of_an_older_outbox_are_found_again() {
    const TASKS: &str = r#"CREATE TABLE chores (id INTEGER PRIMARY KEY, lane INTEGER NOT NULL,
        due_at INTEGER NOT NULL, body TEXT NOT NULL, first_segment INTEGER, last_segment INTEGER,
        first_attempt INTEGER, last_attempt INTEGER);
        INSERT INTO chores VALUES
        (3, 0, 0, '{"producer":"ff","seq":0,"event":{"type":"stream","key":"s","value":{"path":"s",
            "contentType":"text/plain","createdAt":1},"headers":{"operation":"insert"}}}',
            NULL, NULL, NULL, NULL),
        (4, 0, 0, '{"producer":"ff-end","seq":0,"shard":2,"event":{"type":"stream","key":"s",
            "headers":{"operation":"delete"}}}', NULL, NULL, NULL, NULL),
        (5, 1, 0, '{"change":"ended","path":"s","version":7,"ended_at":9}',
            NULL, NULL, NULL, NULL),
        (6, 1, 50, '{"change":"purged","path":"s","version":7}', NULL, NULL, NULL, NULL),
        (7, 2, 60, 's/ff/', 0, 4, 1, 1);"#;
    let database = database(TASKS);
    upgrade(&database);
    let tasks = all_tasks(&database);
    let found = tasks.iter().map(|task| {
        let detail = match &task.what {
            TaskKind::Call { request, .. } => {
                let producer = &request.headers[1];
                assert_eq!(producer.0, "Producer-Id");
                format!("{} {} {}", request.method, producer.1, request.body)
            }
            TaskKind::Index(change) => format!("{change:?}"),
            TaskKind::Collect(garbage) => format!("{garbage:?}"),
        };
        (
            task.what.queue().to_string(),
            task.id,
            task.due_at.0,
            detail,
        )
    });
    let found: Vec<_> = found.collect();
    let expected = [
        (
            "call/__registry__",
            3,
            0,
            "POST ff {\"type\":\"stream\",\"key\":\"s\",\"value\":{",
        ),
        (
            "call/__registry__/2",
            4,
            0,
            "POST ff-end {\"type\":\"stream\",\"key\":\"s\",\"headers\":",
        ),
        (
            "index",
            5,
            0,
            "Ended { path: \"s\", version: 7, ended_at: Millis(9) }",
        ),
        ("purge", 6, 50, "Purged { path: \"s\", version: 7 }"),
        (
            "segments",
            7,
            60,
            "Garbage { prefix: \"s/ff/\", segments: 0..=4, attempts: 1..=1 }",
        ),
    ];
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(
            (found.0.as_str(), found.1, found.2),
            (expected.0, expected.1, expected.2)
        );
        assert!(found.3.starts_with(expected.3), "{found:?}");
    }
    assert_eq!(database.tables().unwrap(), ["outbox"]);
}

#[test]
fn rows_in_the_present_layout_are_left_alone() {
    let database = Database::in_memory().unwrap();
    assert_eq!(Stream::upgrade(Millis(1), &database).unwrap(), None);
    assert!(database.layout().unwrap().is_empty());
    database
        .apply(&[
            Write::CreateStreamTable,
            Write::CreateOutbox,
            Write::CreateControl,
        ])
        .unwrap();
    assert_eq!(Stream::upgrade(Millis(1), &database).unwrap(), None);
    assert_eq!(
        database.layout().unwrap(),
        Layout::present(true, true, true)
    );
}

/// Rows of schema 4 keep everything, and say that the directory does not have the stream.
#[test]
fn a_stream_of_schema_4_is_missing_in_the_directory() {
    const TABLE: &str = "CREATE TABLE stream (id INTEGER PRIMARY KEY, schema INTEGER NOT NULL, \
         incarnation TEXT NOT NULL, content_type TEXT NOT NULL, created_at INTEGER NOT NULL, \
         ttl_seconds INTEGER, expires_at INTEGER, expires_at_text TEXT, name TEXT NOT NULL, \
         version INTEGER NOT NULL, registered INTEGER NOT NULL, segment INTEGER NOT NULL, \
         writable INTEGER NOT NULL, stream_seq TEXT, touched_at INTEGER NOT NULL, \
         alarm_at INTEGER, closed INTEGER NOT NULL, closed_producer TEXT, closed_epoch INTEGER, \
         closed_seq INTEGER, lineage TEXT);";
    const HEAD: &str = "INSERT INTO stream VALUES (1, 4, '00000000000000ff', 'text/plain', 1, NULL, NULL, \
         NULL, 's', 1, 0, 0, 1, NULL, 1, NULL, 0, NULL, NULL, NULL,";
    for (lineage, has_pins) in [("NULL", false), ("'pins -'", true)] {
        let database = database(&format!("{TABLE} {HEAD} {lineage});"));
        assert_eq!(database.layout().unwrap().stream, Some(4));
        let before = database.head().unwrap().unwrap();
        upgrade(&database);
        let mut row = database.head().unwrap().unwrap();
        assert_eq!(row, before);
        assert_eq!(row.lineage.has_pins, has_pins);
        assert!(row.unannounced.directory && !row.unannounced.registry);
        row.unannounced.directory = false;
        database.apply(&[Write::UpdateStream(row.clone())]).unwrap();
        assert_eq!(database.head().unwrap(), Some(row));
    }
}

#[test]
fn control_rows_are_read_in_order_with_or_without_a_stream() {
    let database = Database::in_memory().unwrap();
    let put = |key: &str, body: &str| {
        Write::PutControl(ControlRow {
            key: key.to_owned(),
            body: body.to_owned(),
        })
    };
    let writes = [
        Write::CreateControl,
        put("b", "1"),
        put("\u{20ac}", "2"),
        put("B", "3"),
        put("a/b", "4"),
        put("b", "5"),
    ];
    database.apply(&writes).unwrap();
    assert_eq!(database.tables().unwrap(), ["control"]);
    let present = Layout::present(false, false, true);
    assert_eq!(database.layout().unwrap(), present);
    let keys = |from: &str, limit| {
        let rows = database.control(from, limit).unwrap();
        rows.into_iter().map(|row| row.key).collect::<Vec<_>>()
    };
    assert_eq!(keys("", 9), ["B", "a/b", "b", "\u{20ac}"]);
    assert_eq!(keys("b", 1), ["b"]);
    assert_eq!(database.control("b", 1).unwrap()[0].body, "5");
    let key = "b".to_owned();
    let writes = [
        Write::CreateStreamTable,
        Write::RemoveControl { key },
        Write::DropTables,
    ];
    database.apply(&writes).unwrap();
    assert_eq!(keys("a/b", 9), ["a/b", "\u{20ac}"]);
    database.apply(&[Write::DropControl]).unwrap();
    assert!(database.layout().unwrap().is_empty());
}

#[test]
fn rows_of_later_code_and_rows_that_were_not_upgraded_wake_nothing() {
    let now = Millis(1_800_000_000_000);
    let load = |database: &Database| Stream::load(now, database, &Arc::default(), 1);
    let older = database(CHAT);
    let error = load(&older).expect_err("the rows are older");
    assert!(error.0.contains("schema is 0"), "{error}");
    upgrade(&older);
    assert!(load(&older).is_ok());
    let later = |table: &str| match table {
        "stream" => {
            format!("{CHAT} ALTER TABLE stream ADD COLUMN schema INTEGER NOT NULL DEFAULT 7;")
        }
        "control" => "CREATE TABLE control (schema INTEGER NOT NULL); \
                      INSERT INTO control VALUES (7);"
            .to_owned(),
        _ => "CREATE TABLE outbox (queue TEXT, schema INTEGER NOT NULL); \
              INSERT INTO outbox VALUES ('of a later queue', 7);"
            .to_owned(),
    };
    for table in ["stream", "outbox", "control"] {
        let database = database(&later(table));
        let error = Stream::upgrade(now, &database).expect_err("the rows are later");
        assert!(error.0.contains("schema 7 is newer than"), "{error}");
        load(&database).expect_err("the rows are later");
    }
}
