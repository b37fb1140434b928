//! Many streams in one database: their rows stay apart, and damage is noticed.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use machine::outbox::{Garbage, Task, TaskKind};
use machine::rows::{
    Activity, AppendEnd, CONTROL_SCHEMA, ControlRow, Expiry, HotRow, HotTable, Incarnation, Layout,
    Lineage, ManifestRow, OUTBOX_SCHEMA, Pin, ProducerStamp, RowKey, SCHEMA, StreamRow,
    Unannounced,
};
use machine::{AlarmChange, Frames, Millis, Span, Storage as _, Stream, Write};
use rusqlite::Connection;
use sqlite::{Database, Identity, Shard};

const TABLE: HotTable = HotTable::of(0);

fn identity() -> Identity {
    Identity {
        directory: "d".to_owned(),
        number: 0,
        count: 1,
    }
}

fn head(name: &str) -> StreamRow {
    StreamRow {
        incarnation: Incarnation(7),
        name: name.to_owned(),
        content_type: "text/plain".to_owned(),
        created_at: Millis(1),
        expiry: Expiry::Never,
        version: 1,
        registered: None,
        unannounced: Unannounced::default(),
        segment: 0,
        writable: true,
        stream_seq: None,
        touched_at: Millis(1),
        alarm_at: None,
        closed: None,
        lineage: Lineage::default(),
        activity: Some(Activity::default()),
    }
}

fn creation(name: &str) -> Vec<Write> {
    vec![Write::CreateStreamTable, Write::InsertStream(head(name))]
}

fn row(position: u64, text: &str, producer: Option<u64>) -> Write {
    let stamp = producer.map(|seq| ProducerStamp {
        id: "p".to_owned(),
        epoch: 0,
        seq,
    });
    let units = text.len() as u64;
    Write::InsertHot {
        table: TABLE,
        row: HotRow {
            key: RowKey::at(position),
            units,
            bytes_before: position,
            at: Millis(5),
            ends: vec![AppendEnd {
                units,
                producer: stamp,
                stream_seq: None,
            }],
            frames: Frames::from(Bytes::copy_from_slice(text.as_bytes())),
        },
    }
}

fn turn(shard: &Shard, name: &str, writes: &[Write], alarm: AlarmChange) {
    shard.begin_turn().unwrap();
    shard.apply(name, writes, alarm).unwrap();
    shard.keep_turn().unwrap();
}

fn frames(shard: &Shard, name: &str) -> Result<Vec<u8>, machine::StorageError> {
    shard.stream(name).unwrap().frames(Span {
        table: TABLE,
        from: RowKey::at(0),
        to: RowKey::LAST,
    })
}

/// A shard with two streams, `a` and `b`, of two rows each.
fn shard(directory: &tempfile::TempDir) -> Shard {
    let path = directory.path().join("0.sqlite");
    let shard = Shard::create(&path, &identity(), 256).unwrap();
    shard.begin().unwrap();
    for name in ["a", "b"] {
        turn(&shard, name, &creation(name), AlarmChange::Keep);
        let rows = [row(0, &format!("one of {name},"), None)];
        turn(&shard, name, &rows, AlarmChange::Keep);
        let rows = [row(9, &format!("two of {name}."), Some(3))];
        turn(&shard, name, &rows, AlarmChange::Keep);
    }
    shard.commit().unwrap();
    shard
}

#[test]
fn streams_share_a_transaction_and_a_turn_can_be_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard(&directory);
    shard.begin().unwrap();
    turn(&shard, "a", &[row(18, "!", None)], AlarmChange::Keep);
    shard.begin_turn().unwrap();
    shard
        .apply("b", &[row(18, "?", None)], AlarmChange::Keep)
        .unwrap();
    shard
        .apply("b", &[row(18, "?", None)], AlarmChange::Keep)
        .unwrap_err();
    shard.undo_turn().unwrap();
    // The open transaction is visible here, and nowhere else.
    assert_eq!(frames(&shard, "a").unwrap(), b"one of a,two of a.!");
    let reader = Shard::open_reader(&directory.path().join("0.sqlite"), 256).unwrap();
    assert_eq!(frames(&reader, "a").unwrap(), b"one of a,two of a.");
    shard.commit().unwrap();
    assert_eq!(frames(&reader, "a").unwrap(), b"one of a,two of a.!");
    assert_eq!(frames(&reader, "b").unwrap(), b"one of b,two of b.");
    let mut writers = Vec::new();
    let rows = reader.stream("b").unwrap();
    rows.writers(TABLE, &mut |writer| writers.push(writer))
        .unwrap();
    assert_eq!(writers.len(), 1);
    assert_eq!(writers[0].producer.as_ref().unwrap().seq, 3);
}

#[test]
fn the_rows_of_a_reader_stay_as_they_are_until_they_are_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard(&directory);
    let reader = Shard::open_reader(&directory.path().join("0.sqlite"), 256).unwrap();
    let all = Span {
        table: TABLE,
        from: RowKey::at(0),
        to: RowKey::LAST,
    };
    let rows = reader.stream("a").unwrap();
    shard.begin().unwrap();
    turn(&shard, "a", &[row(18, "!", None)], AlarmChange::Keep);
    shard.commit().unwrap();
    assert_eq!(rows.frames(all).unwrap(), b"one of a,two of a.");
    // Of two at the same time, one would decide how long the other stays as it is.
    assert!(reader.stream("a").is_err());
    drop(rows);
    assert_eq!(frames(&reader, "a").unwrap(), b"one of a,two of a.!");
    // A reader holds nothing when it is not used, so the log can be emptied.
    shard.checkpoint().unwrap();
}

#[test]
fn large_rows_are_read_checked_and_deleted_like_small_ones() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.sqlite");
    let shard = Shard::create(&path, &identity(), 256).unwrap();
    let texts = ["s", "l", "s"].map(|text| text.repeat(if text == "l" { 50_000 } else { 500 }));
    shard.begin().unwrap();
    turn(&shard, "a", &creation("a"), AlarmChange::Keep);
    let mut position = 0;
    for text in &texts {
        turn(
            &shard,
            "a",
            &[row(position, text, Some(position))],
            AlarmChange::Keep,
        );
        position += text.len() as u64;
    }
    shard.commit().unwrap();
    assert_eq!(frames(&shard, "a").unwrap(), texts.concat().as_bytes());
    let connection = Connection::open(&path).unwrap();
    let change = |text: &str| assert_eq!(connection.execute(text, []).unwrap(), 1, "{text}");
    change("UPDATE large SET frames = substr(frames, 2)");
    frames(&shard, "a").unwrap_err();
    change("DELETE FROM large");
    frames(&shard, "a").unwrap_err();
    change(
        "INSERT INTO large SELECT large, CAST(printf('%.50000c', 'l') AS BLOB) FROM hot WHERE large > 0",
    );
    assert_eq!(frames(&shard, "a").unwrap(), texts.concat().as_bytes());
    shard.begin().unwrap();
    turn(&shard, "a", &[Write::DropHot(TABLE)], AlarmChange::Keep);
    shard.commit().unwrap();
    let left = connection.query_row("SELECT count(*) FROM large", [], |row| row.get::<_, i64>(0));
    assert_eq!(left.unwrap(), 0);
}

#[test]
fn a_number_is_not_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard(&directory);
    let id = |shard: &Shard, name: &str| {
        let _ = shard;
        let connection = Connection::open(directory.path().join("0.sqlite")).unwrap();
        connection.query_row("SELECT id FROM streams WHERE name = ?", [name], |row| {
            row.get::<_, i64>(0)
        })
    };
    let before = id(&shard, "b").unwrap();
    shard.begin().unwrap();
    let drop = [Write::DropHot(TABLE), Write::DropTables];
    turn(&shard, "b", &drop, AlarmChange::Keep);
    turn(&shard, "b", &creation("b"), AlarmChange::Keep);
    shard.commit().unwrap();
    assert!(id(&shard, "b").unwrap() > before);
    assert_eq!(frames(&shard, "b").unwrap(), b"");
    assert_eq!(shard.stream("b").unwrap().tables().unwrap(), ["stream"]);
}

#[test]
fn alarms_come_due_in_order_and_go_with_their_stream() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard(&directory);
    shard.begin().unwrap();
    turn(&shard, "a", &[], AlarmChange::Set(Millis(30)));
    turn(&shard, "b", &[], AlarmChange::Set(Millis(20)));
    shard.commit().unwrap();
    let due = |now| shard.due(Millis(now), 9).unwrap();
    assert_eq!(due(4), (vec![], Some(Millis(20))));
    assert_eq!(due(20), (vec!["b".to_owned()], Some(Millis(30))));
    assert_eq!(due(30), (vec!["b".to_owned(), "a".to_owned()], None));
    shard.begin().unwrap();
    turn(&shard, "a", &[], AlarmChange::Clear);
    let drop = [Write::DropHot(TABLE), Write::DropTables];
    turn(&shard, "b", &drop, AlarmChange::Keep);
    shard.commit().unwrap();
    assert_eq!(due(99), (vec![], None));
}

#[test]
fn every_changed_column_of_a_hot_row_is_noticed() {
    let changes = [
        "frames = CAST('one of x,' AS BLOB)",
        "units = units + 1",
        "bytes_before = bytes_before + 1",
        "bytes = bytes + 1",
        "at = at + 1",
        "key = key + 1",
        "segment = segment + 1",
        "ends = x'00'",
        "checksum = checksum + 1",
        // The row of another stream.
        "stream = stream + 1, key = 4096",
    ];
    for change in changes {
        let directory = tempfile::tempdir().unwrap();
        drop(shard(&directory));
        let path = directory.path().join("0.sqlite");
        let connection = Connection::open(&path).unwrap();
        let update = format!("UPDATE hot SET {change} WHERE stream = 1 AND key = 0");
        assert_eq!(connection.execute(&update, []).unwrap(), 1, "{change}");
        drop(connection);
        let shard = Shard::open(&path, &identity(), 256).unwrap();
        let read = |name: &str| {
            let rows = shard.stream(name).unwrap();
            let mut read = Ok(());
            for table in [0, 1].map(HotTable::of) {
                let (from, to) = (RowKey::at(0), RowKey::LAST);
                read = read.and_then(|()| rows.frames(Span { table, from, to }).map(drop));
                read = read.and_then(|()| rows.at_or_before(table, RowKey::at(8)).map(drop));
            }
            (read, rows.damage())
        };
        let (whole, damaged) = if change.contains("stream") {
            ("a", "b")
        } else {
            ("b", "a")
        };
        read(whole).0.unwrap();
        let (error, damage) = read(damaged);
        let error = error.expect_err(change).to_string();
        let damage = damage.expect(change);
        assert!(error.contains(&damage), "{change}: {error}");
        assert!(
            damage.contains(&format!("\"{damaged}\" is damaged: segment ")),
            "{damage}"
        );
    }
}

/// Bytes of a page and of its frame in the log, and of the log's header.
const PAGE: usize = 4_096;
const FRAME: usize = PAGE + 24;
const LOG_HEADER: usize = 32;

#[test]
fn a_damaged_log_is_dropped_only_where_a_power_cut_can_leave_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.sqlite");
    let shard = shard(&directory);
    shard.checkpoint().unwrap();
    for position in [18, 19, 20] {
        shard.begin().unwrap();
        turn(&shard, "a", &[row(position, "!", None)], AlarmChange::Keep);
        shard.commit().unwrap();
    }
    let log = fs::read(directory.path().join("0.sqlite-wal")).unwrap();
    let frames_of_log = (log.len() - LOG_HEADER) / FRAME;
    assert_eq!(frames_of_log, 3, "each commit changes one page");
    // Opens a copy, as after a power cut, with one byte changed or the log cut.
    let opened = |changed: Option<usize>, length: usize| {
        let other = tempfile::tempdir().unwrap();
        let copy = other.path().join("0.sqlite");
        fs::copy(&path, &copy).unwrap();
        let mut log = log[..length].to_vec();
        if let Some(at) = changed {
            log[at] ^= 1;
        }
        fs::write(other.path().join("0.sqlite-wal"), log).unwrap();
        let opened = Shard::open(&copy, &identity(), 256).map_err(|error| error.to_string());
        opened.map(|shard| frames(&shard, "a").unwrap().len() - 18)
    };
    assert_eq!(opened(None, log.len()), Ok(3));
    let in_frame = |frame: usize, at: usize| Some(LOG_HEADER + (frame - 1) * FRAME + at);
    for changed in [in_frame(1, 24 + 100), in_frame(1, 18), Some(25)] {
        let error = opened(changed, log.len()).unwrap_err();
        assert!(
            error.contains("0.sqlite-wal is damaged at frame "),
            "{error}"
        );
    }
    // The last commit may be torn, and any part of it may be there.
    assert_eq!(opened(in_frame(3, 24 + 100), log.len()), Ok(2));
    assert_eq!(opened(None, log.len() - 1), Ok(2));
    assert_eq!(opened(None, LOG_HEADER + 2 * FRAME), Ok(2));
    assert_eq!(opened(None, LOG_HEADER - 1), Ok(0));
}

/// A shard with the streams `a` and `b`, which have a task and a control row each.
fn with_tasks(directory: &tempfile::TempDir) -> Shard {
    let shard = shard(directory);
    shard.begin().unwrap();
    for name in ["a", "b"] {
        let task = Task {
            id: 1,
            due_at: Millis(9),
            failures: 0,
            what: TaskKind::Collect(Garbage {
                prefix: format!("{name}/"),
                segments: 0..=0,
                attempts: 1..=1,
            }),
        };
        let writes = [Write::CreateOutbox, Write::InsertTask(task)];
        turn(&shard, name, &writes, AlarmChange::Keep);
        let writes = [Write::CreateControl, put("k", name)];
        turn(&shard, name, &writes, AlarmChange::Keep);
    }
    shard.commit().unwrap();
    shard
}

fn put(key: &str, body: &str) -> Write {
    Write::PutControl(ControlRow {
        key: key.to_owned(),
        body: body.to_owned(),
    })
}

fn remove(key: &str) -> Write {
    let key = key.to_owned();
    Write::RemoveControl { key }
}

/// Sets the schema numbers of the stream `a`.
fn set_schema(directory: &tempfile::TempDir, table: &str, schema: u64) {
    let connection = Connection::open(directory.path().join("0.sqlite")).unwrap();
    let of = "(SELECT id FROM streams WHERE name = 'a')";
    let set = format!("UPDATE {table} SET schema = {schema} WHERE stream = {of}");
    assert_eq!(connection.execute(&set, []).unwrap(), 1);
}

fn load(shard: &Shard, name: &str) -> Result<Stream, machine::StorageError> {
    let rows = shard.stream(name).unwrap();
    Stream::load(Millis(9), &rows, &Arc::default(), 1)
}

#[test]
fn older_rows_of_a_stream_are_upgraded_and_keep_everything() {
    let directory = tempfile::tempdir().unwrap();
    let shard = with_tasks(&directory);
    let present = Layout {
        newest_hot: Some(0),
        ..Layout::present(true, true, true)
    };
    let before = all(&shard, "a");
    for (stream, outbox, control) in [
        (SCHEMA - 1, OUTBOX_SCHEMA, CONTROL_SCHEMA),
        (SCHEMA, OUTBOX_SCHEMA - 1, CONTROL_SCHEMA),
        (SCHEMA, OUTBOX_SCHEMA, CONTROL_SCHEMA - 1),
        (0, 0, 0),
    ] {
        set_schema(&directory, "heads", stream);
        set_schema(&directory, "outbox", outbox);
        set_schema(&directory, "control", control);
        let layout = Layout {
            stream: Some(stream),
            outbox: Some(outbox),
            control: Some(control),
            ..present.clone()
        };
        assert_eq!(shard.stream("a").unwrap().layout().unwrap(), layout);
        assert_eq!(shard.stream("b").unwrap().layout().unwrap(), present);
        assert!(load(&shard, "a").is_err() && load(&shard, "b").is_ok());
        let upgrade = Stream::upgrade(Millis(9), &shard.stream("a").unwrap());
        let upgrade = upgrade.unwrap().unwrap();
        shard.begin().unwrap();
        turn(&shard, "a", &[upgrade], AlarmChange::Keep);
        shard.commit().unwrap();
        assert_eq!(shard.stream("a").unwrap().layout().unwrap(), present);
        assert_eq!(all(&shard, "a"), before);
        assert!(load(&shard, "a").is_ok());
    }
}

/// Returns the row, the tasks, the control rows and the content of a stream, as text.
fn all(shard: &Shard, name: &str) -> String {
    let rows = shard.stream(name).unwrap();
    let tasks = rows.tasks(&machine::outbox::Queue::first(), 0, 9).unwrap();
    let control = rows.control("", 9).unwrap();
    let head = rows.head().unwrap();
    format!(
        "{head:?} {tasks:?} {control:?} {:?}",
        frames(shard, name).unwrap()
    )
}

#[test]
fn newer_rows_of_a_stream_are_not_read() {
    for table in ["heads", "outbox", "control"] {
        let directory = tempfile::tempdir().unwrap();
        let shard = with_tasks(&directory);
        set_schema(&directory, table, 7);
        let rows = shard.stream("a").unwrap();
        let error = Stream::upgrade(Millis(9), &rows).unwrap_err();
        assert!(error.0.contains("schema 7 is newer than"), "{error}");
        assert!(load(&shard, "a").is_err() && load(&shard, "b").is_ok());
    }
}

#[test]
fn copies_have_the_present_schema_and_leave_older_rows_as_they_are() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = with_tasks(&directory);
    let to = Shard::create(&other.path().join("0.sqlite"), &identity(), 256).unwrap();
    set_schema(&directory, "heads", 0);
    to.copy_from(&from, "a", Millis(9)).unwrap();
    let layout = to.stream("a").unwrap().layout().unwrap();
    assert_eq!(
        (layout.stream, layout.outbox, layout.control),
        (Some(SCHEMA), Some(OUTBOX_SCHEMA), Some(CONTROL_SCHEMA))
    );
    assert_eq!(all(&to, "a"), all(&from, "a"));
    assert_eq!(from.stream("a").unwrap().layout().unwrap().stream, Some(0));
    set_schema(&directory, "heads", 7);
    let error = to.copy_from(&from, "a", Millis(9)).unwrap_err().to_string();
    assert!(
        error.contains("the stream \"a\": its schema 7 is newer"),
        "{error}"
    );
}

/// Makes the file what code without forks has written.
fn without_forks(directory: &tempfile::TempDir) {
    let connection = Connection::open(directory.path().join("0.sqlite")).unwrap();
    connection
        .execute_batch(
            "DROP TABLE control; DROP TABLE manifest; DROP TABLE pins; \
             ALTER TABLE heads DROP COLUMN lineage; \
             ALTER TABLE segments DROP COLUMN append_ends; UPDATE shard SET format = 1;",
        )
        .unwrap();
}

/// What a fork stores.
fn fork_writes() -> Vec<Write> {
    vec![
        Write::CreateManifest,
        Write::InsertManifest(ManifestRow {
            first: 0,
            body: Bytes::from_static(b"zero"),
        }),
        Write::InsertManifest(ManifestRow {
            first: 4,
            body: Bytes::from_static(b"four"),
        }),
        Write::CreatePins,
        Write::PutPin(pin(7, None)),
        Write::PutPin(pin(8, Some(20))),
    ]
}

fn pin(fork: u64, released_at: Option<u64>) -> Pin {
    Pin {
        fork: Incarnation(fork),
        name: format!("fork {fork}"),
        released_at: released_at.map(Millis),
    }
}

#[test]
fn a_file_from_before_forks_is_upgraded_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    drop(shard(&directory));
    without_forks(&directory);
    let path = directory.path().join("0.sqlite");
    let shard = Shard::open(&path, &identity(), 256).unwrap();
    assert_eq!(frames(&shard, "a").unwrap(), b"one of a,two of a.");
    shard.begin().unwrap();
    turn(&shard, "a", &fork_writes(), AlarmChange::Keep);
    shard.commit().unwrap();
    drop(shard);
    let shard = Shard::open(&path, &identity(), 256).unwrap();
    assert_eq!(shard.stream("a").unwrap().pins().unwrap(), 1);
    takes_control_rows(&shard);
}

#[test]
fn a_file_from_before_forks_stays_as_it_is_if_it_is_refused_or_only_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    drop(shard(&directory));
    without_forks(&directory);
    let path = directory.path().join("0.sqlite");
    let format = || -> i64 {
        let connection = Connection::open(&path).unwrap();
        let format = connection.query_row("SELECT format FROM shard", [], |row| row.get(0));
        format.unwrap()
    };
    assert_eq!(Shard::identity(&path).unwrap(), identity());
    let elsewhere = Identity {
        directory: "another".to_owned(),
        ..identity()
    };
    Shard::open(&path, &elsewhere, 256).unwrap_err();
    assert_eq!(format(), 1);
    Shard::open(&path, &identity(), 256).unwrap();
    assert_eq!(format(), 3);
}

#[test]
fn inherited_segments_and_pins_belong_to_their_stream() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard(&directory);
    shard.begin().unwrap();
    turn(&shard, "a", &fork_writes(), AlarmChange::Keep);
    shard.commit().unwrap();
    let other = tempfile::tempdir().unwrap();
    let copy = Shard::create(&other.path().join("0.sqlite"), &identity(), 256).unwrap();
    copy.copy_from(&shard, "a", Millis(9)).unwrap();
    for shard in [&shard, &copy] {
        let rows = shard.stream("a").unwrap();
        let first = |segment| rows.manifest(segment).unwrap().map(|row| row.first);
        assert_eq!(
            [0, 3, 4, 9].map(first),
            [Some(0), Some(0), Some(4), Some(4)]
        );
        assert_eq!(rows.pin(Incarnation(7)).unwrap(), Some(pin(7, None)));
        assert_eq!(rows.pin(Incarnation(8)).unwrap(), Some(pin(8, Some(20))));
        assert_eq!(rows.pins().unwrap(), 1);
        let ends = rows.appends(TABLE, RowKey::at(9), 5).unwrap();
        assert_eq!(
            (ends.len(), ends[0].key, &ends[0].ends),
            (1, RowKey::at(9), &vec![9])
        );
    }
    let others = shard.stream("b").unwrap();
    assert_eq!(others.manifest(4).unwrap(), None);
    assert_eq!(others.pins().unwrap(), 0);
    shard.begin().unwrap();
    let released_at = Millis(20);
    turn(
        &shard,
        "a",
        &[Write::ForgetPins { released_at }],
        AlarmChange::Keep,
    );
    assert_eq!(
        shard.stream("a").unwrap().pin(Incarnation(8)).unwrap(),
        None
    );
    turn(
        &shard,
        "a",
        &[Write::DropHot(TABLE), Write::DropTables],
        AlarmChange::Keep,
    );
    assert_eq!(shard.stream("a").unwrap().pins().unwrap(), 0);
    shard.commit().unwrap();
}

fn takes_control_rows(shard: &Shard) {
    let layout = |shard: &Shard| shard.stream("a").unwrap().layout().unwrap().control;
    assert_eq!(layout(shard), None);
    shard.begin().unwrap();
    let writes = [Write::CreateControl, put("k", "{}")];
    turn(shard, "a", &writes, AlarmChange::Keep);
    shard.commit().unwrap();
    assert_eq!(layout(shard), Some(CONTROL_SCHEMA));
    assert_eq!(
        control(shard, "a", "", 9),
        [("k".to_owned(), "{}".to_owned())]
    );
}

fn control(shard: &Shard, name: &str, from: &str, limit: u64) -> Vec<(String, String)> {
    let rows = shard.stream(name).unwrap().control(from, limit).unwrap();
    rows.into_iter().map(|row| (row.key, row.body)).collect()
}

#[test]
fn a_file_from_before_the_control_table_is_upgraded_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let before = shard(&directory);
    before.begin().unwrap();
    turn(&before, "a", &fork_writes(), AlarmChange::Keep);
    before.commit().unwrap();
    drop(before);
    let path = directory.path().join("0.sqlite");
    let connection = Connection::open(&path).unwrap();
    let earlier = "DROP TABLE control; UPDATE shard SET format = 2;";
    connection.execute_batch(earlier).unwrap();
    drop(connection);
    let shard = Shard::open(&path, &identity(), 256).unwrap();
    assert_eq!(shard.stream("a").unwrap().pins().unwrap(), 1);
    takes_control_rows(&shard);
    drop(shard);
    let shard = Shard::open(&path, &identity(), 256).unwrap();
    assert_eq!(control(&shard, "a", "", 9).len(), 1);
    assert_eq!(frames(&shard, "a").unwrap(), b"one of a,two of a.");
}

#[test]
fn control_rows_belong_to_their_object_and_need_no_stream() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard(&directory);
    let rows = |of: &[(&str, &str)]| -> Vec<_> {
        let owned = |(key, body): &(&str, &str)| ((*key).to_owned(), (*body).to_owned());
        of.iter().map(owned).collect()
    };
    shard.begin().unwrap();
    for name in ["a", "b", "none"] {
        let writes = [
            Write::CreateControl,
            put("b", "of before"),
            put("\u{20ac}", name),
            put("B", name),
            put("a/b", name),
            put("b", name),
        ];
        turn(&shard, name, &writes, AlarmChange::Set(Millis(9)));
    }
    turn(&shard, "a", &[remove("a/b")], AlarmChange::Keep);
    for wrong in [remove("a/b"), Write::CreateControl] {
        shard.begin_turn().unwrap();
        shard.apply("a", &[wrong], AlarmChange::Keep).unwrap_err();
        shard.undo_turn().unwrap();
    }
    let drop = [Write::DropHot(TABLE), Write::DropTables];
    turn(&shard, "b", &drop, AlarmChange::Keep);
    shard.commit().unwrap();
    let of_a = rows(&[("B", "a"), ("b", "a"), ("\u{20ac}", "a")]);
    assert_eq!(control(&shard, "a", "", 9), of_a);
    assert_eq!(control(&shard, "a", "b", 1), of_a[1..2]);
    assert_eq!(control(&shard, "a", "c", 9), of_a[2..]);
    assert_eq!(control(&shard, "a", "", 0), []);
    let of_b = rows(&[("B", "b"), ("a/b", "b"), ("b", "b"), ("\u{20ac}", "b")]);
    assert_eq!(control(&shard, "b", "", 9), of_b);
    for name in ["b", "none"] {
        let rows = shard.stream(name).unwrap();
        assert_eq!(rows.tables().unwrap(), ["control"]);
        assert_eq!(rows.layout().unwrap(), Layout::present(false, false, true));
    }

    let other = tempfile::tempdir().unwrap();
    let copy = Shard::create(&other.path().join("0.sqlite"), &identity(), 256).unwrap();
    for name in ["a", "b", "none"] {
        copy.copy_from(&shard, name, Millis(9)).unwrap();
        assert_eq!(control(&copy, name, "", 9), control(&shard, name, "", 9));
    }
    assert_eq!(copy.due(Millis(9), 9).unwrap().0.len(), 3);

    // Without its last table the object is forgotten, with its alarm.
    copy.begin().unwrap();
    turn(&copy, "none", &[Write::DropControl], AlarmChange::Keep);
    copy.commit().unwrap();
    assert!(copy.stream("none").unwrap().layout().unwrap().is_empty());
    assert_eq!(control(&copy, "none", "", 9), []);
    assert_eq!(copy.due(Millis(9), 9).unwrap().0, ["a", "b"]);
}

#[test]
fn control_rows_of_a_database_of_their_own_are_imported() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard(&directory);
    for (name, stream) in [("c", creation("c")), ("none", vec![])] {
        let database = Database::in_memory().unwrap();
        database.apply(&stream).unwrap();
        let rows = [Write::CreateControl, put("k", name), put("a", "{}")];
        database.apply(&rows).unwrap();
        shard.import(&database, name, None, Millis(9)).unwrap();
        let imported = shard.stream(name).unwrap();
        let layout = Layout::present(!stream.is_empty(), false, true);
        assert_eq!(imported.layout().unwrap(), layout);
        let expected = [("a", "{}"), ("k", name)];
        let expected = expected.map(|(key, body)| (key.to_owned(), body.to_owned()));
        assert_eq!(control(&shard, name, "", 9), expected);
    }
}

#[test]
fn a_control_row_that_is_not_as_it_was_written_is_an_error() {
    for damage in ["key = x'ff'", "body = x'00'", "body = 7"] {
        let directory = tempfile::tempdir().unwrap();
        let shard = with_tasks(&directory);
        let connection = Connection::open(directory.path().join("0.sqlite")).unwrap();
        let of = "(SELECT id FROM streams WHERE name = 'a')";
        let update = format!("UPDATE control SET {damage} WHERE stream = {of}");
        assert_eq!(connection.execute(&update, []).unwrap(), 1);
        let read = shard.stream("a").unwrap().control("", 9);
        // SQLite makes a text of a number in such a column.
        assert_eq!(read.is_err(), damage != "body = 7", "{damage}");
        assert_eq!(control(&shard, "b", "", 9).len(), 1);
    }
}

/// Reads a stream from two threads. Each begins a read before the other one ends its own, so that
/// there is always one that goes on.
fn read_without_a_pause(path: &Path, ends: &AtomicBool) {
    let (to_first, first) = mpsc::channel();
    let (to_second, second) = mpsc::channel();
    to_first.send(()).unwrap();
    thread::scope(|scope| {
        for (turn, next) in [(first, to_second), (second, to_first)] {
            scope.spawn(move || {
                let reader = Shard::open_reader(path, 256).unwrap();
                while turn.recv().is_ok() && !ends.load(Ordering::Relaxed) {
                    let rows = reader.stream("a").unwrap();
                    // The other thread may have ended.
                    let _ = next.send(());
                    thread::sleep(Duration::from_millis(5));
                    drop(rows);
                }
            });
        }
    });
}

#[test]
fn reads_that_overlap_do_not_make_the_log_grow_for_ever() {
    const APPENDS: u64 = 200;
    const APPEND_BYTES: usize = 1 << 20;
    // The bound, and what is appended until the log is next emptied.
    const LOG_BYTES_MAX: u64 = 90 << 20;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.sqlite");
    drop(shard(&directory));
    let shard = Shard::open(&path, &identity(), 256).unwrap();
    let ends = AtomicBool::new(false);
    let mut longest = 0;
    thread::scope(|scope| {
        scope.spawn(|| read_without_a_pause(&path, &ends));
        let text = "x".repeat(APPEND_BYTES);
        for number in 0..APPENDS {
            let position = 18 + number * APPEND_BYTES as u64;
            shard.begin().unwrap();
            turn(
                &shard,
                "a",
                &[row(position, &text, None)],
                AlarmChange::Keep,
            );
            shard.commit().unwrap();
            shard.bound_log().unwrap();
            longest = longest.max(
                fs::metadata(path.with_extension("sqlite-wal"))
                    .unwrap()
                    .len(),
            );
        }
        ends.store(true, Ordering::Relaxed);
    });
    assert!(longest < LOG_BYTES_MAX, "the log had {longest} bytes");
}
