//! What the admin API asks of the storage, and what is asked of the control table: both dialects
//! answer as the rows in memory do.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use bytes::Bytes;
use machine::admin::Listed;
use machine::rows::{
    Activity, AppendEnd, ControlRow, Expiry, HotRow, HotTable, Incarnation, Lineage, MinuteOfRows,
    Minutes, ProducerStamp, RowKey, SealedSegment, StoredSegment, StreamRow, Unannounced,
};
use machine::{AlarmChange, Frames, MemoryRows, Millis, Storage, Write};
use sqlite::{Database, Identity, Shard};

const MINUTE: u64 = 60_000;
const TABLE: HotTable = HotTable::of(2);

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
        segment: 2,
        writable: true,
        stream_seq: None,
        touched_at: Millis(1),
        alarm_at: None,
        closed: None,
        lineage: Lineage::default(),
        activity: Some(Activity::from_stored("3 40 1 3 40").expect("it is well-formed")),
    }
}

fn creation(name: &str) -> Vec<Write> {
    vec![Write::CreateStreamTable, Write::InsertStream(head(name))]
}

fn segment(number: u64, attempts: u64) -> Write {
    Write::InsertSegment(SealedSegment {
        number,
        units: 10 + number,
        bytes: 20 + number,
        messages: 2,
        attempts,
        attempted_at: Millis(number),
        stored: (attempts > 0).then(|| StoredSegment {
            attempt: attempts,
            index: Bytes::from_static(b"index"),
            append_ends: Bytes::from_static(b"ends"),
        }),
    })
}

fn producer(id: &str, seq: u64) -> Write {
    let (id, epoch) = (id.to_owned(), 1);
    Write::PutProducer {
        stamp: ProducerStamp { id, epoch, seq },
        used_at: Millis(seq),
    }
}

fn row(position: u64, at: u64, text: &str) -> Write {
    let units = text.len() as u64;
    Write::InsertHot {
        table: TABLE,
        row: HotRow {
            key: RowKey::at(position),
            units,
            bytes_before: position,
            at: Millis(at),
            ends: vec![AppendEnd {
                units,
                producer: None,
                stream_seq: None,
            }],
            frames: Frames::from(Bytes::copy_from_slice(text.as_bytes())),
        },
    }
}

fn put(key: &str, body: &str) -> Write {
    let (key, body) = (key.to_owned(), body.to_owned());
    Write::PutControl(ControlRow { key, body })
}

fn writes() -> Vec<Write> {
    let mut writes = creation("a");
    writes.extend([
        Write::CreateControl,
        put("b", "{}"),
        put("\u{ffff}", "1"),
        put("\u{1f600}", "2"),
        put("B", "3"),
        put("a/b", "4"),
        put("a", "5"),
        put("b", "6"),
        Write::RemoveControl {
            key: "a".to_owned(),
        },
        Write::CreateSealedTables,
        segment(0, 2),
        segment(1, 0),
        producer("p", 1),
        producer("P", 2),
        producer("é", 3),
        Write::CreateHot(TABLE),
        row(0, 5 * MINUTE, "one"),
        row(3, 6 * MINUTE - 1, "two"),
        row(6, 6 * MINUTE, "three"),
        row(11, 6 * MINUTE, "late"),
    ]);
    writes
}

/// Returns all answers as text.
fn asked(storage: &dyn Storage) -> String {
    let mut answers = vec![format!("{:?}", storage.head().unwrap())];
    for (from, limit) in [(0, 9), (0, 1), (1, 1), (2, 9)] {
        let segments = storage.sealed_segments(from, limit).unwrap();
        answers.push(format!("{segments:?}"));
    }
    for (after, limit) in [("", 9), ("", 2), ("P", 1), ("p", 9), ("é", 9)] {
        let producers = storage.sealed_producers(after, limit).unwrap();
        answers.push(format!("{producers:?}"));
    }
    answers.push(format!("{:?}", storage.layout().unwrap().control));
    for (from, limit) in [("", 9), ("", 2), ("", 0), ("a", 1), ("b", 9), ("c", 9)] {
        let rows = storage.control(from, limit).unwrap();
        answers.push(format!("{rows:?}"));
    }
    answers.push(format!("{:?}", storage.sealed_sums().unwrap()));
    for (before, since) in [
        (11, 0),
        (11, 6 * MINUTE),
        (6, 0),
        (0, 0),
        (99, 5 * MINUTE + 1),
    ] {
        let minutes = storage.minutes(TABLE, RowKey::at(before), Millis(since));
        answers.push(format!("{:?}", minutes.unwrap()));
    }
    answers.join("\n")
}

fn shard(directory: &tempfile::TempDir) -> Shard {
    let identity = Identity {
        directory: "d".to_owned(),
        number: 0,
        count: 1,
    };
    let path = directory.path().join("0.sqlite");
    Shard::create(&path, &identity, 256).unwrap()
}

fn turn(shard: &Shard, name: &str, writes: &[Write]) {
    shard.begin().unwrap();
    shard.begin_turn().unwrap();
    shard.apply(name, writes, AlarmChange::Keep).unwrap();
    shard.keep_turn().unwrap();
    shard.commit().unwrap();
}

#[test]
fn both_dialects_answer_as_the_rows_in_memory() {
    let mut memory = MemoryRows::default();
    for write in writes() {
        memory.apply(&write).unwrap();
    }
    let expected = asked(&memory);
    let minutes = memory.minutes(TABLE, RowKey::at(11), Millis(0)).unwrap();
    let of = |minute, units| MinuteOfRows {
        minute,
        units,
        bytes: units,
    };
    assert_eq!(minutes, [of(5, 6), of(6, 5)]);
    assert_eq!(Minutes::of(Millis(6 * MINUTE - 1)), 5);

    let database = Database::in_memory().unwrap();
    database.begin().unwrap();
    database.apply(&writes()).unwrap();
    database.commit().unwrap();
    assert_eq!(asked(&database), expected);

    let directory = tempfile::tempdir().unwrap();
    let shard = shard(&directory);
    // Streams before and behind it must not be mixed up with it.
    for name in ["0", "b"] {
        turn(&shard, name, &writes());
    }
    turn(&shard, "a", &writes());
    assert_eq!(asked(&shard.stream("a").unwrap()), expected);
}

#[test]
fn a_shard_lists_names_in_order_also_those_without_a_stream() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard(&directory);
    for name in ["b", "a%2Fb", "a_b", "a/b", "c"] {
        turn(&shard, name, &creation(name));
    }
    turn(&shard, "ab", &[Write::CreateOutbox]);
    turn(&shard, "bb", &[Write::CreateControl]);
    let listed = |from: &str, before: &str, limit| {
        let listed = shard.list(from, before, limit).unwrap();
        let names = listed.iter().map(|listed| listed.name().to_owned());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(listed("", "\u{7f}", 9), "a%2Fb a/b a_b ab b bb c");
    assert_eq!(listed("a", "b", 3), "a%2Fb a/b a_b");
    assert_eq!(listed("a_", "a`", 9), "a_b");
    assert_eq!(listed("b", "c", 9), "b bb");
    assert_eq!(listed("d", "\u{7f}", 9), "");
    let all = shard.list("ab", "b!", 9).unwrap();
    let expected = [
        Listed::of_rows("ab".to_owned(), None),
        Listed::of_rows("b".to_owned(), Some(&head("b"))),
    ];
    assert_eq!(all, expected);
}
