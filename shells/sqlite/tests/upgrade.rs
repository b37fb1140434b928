//! A database of version 0.1, which had two alternating hot tables, still works.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use machine::rows::{Former, HotTable, RowKey};
use machine::{Millis, Write};
use rusqlite::Connection;
use sqlite::Database;

/// The tables of version 0.1, with a stream in them.
fn former(open: u64, writable: bool, tables: &[(&str, u64)]) -> Database {
    let connection = Connection::open_in_memory().unwrap();
    connection
        .execute_batch(
            "CREATE TABLE stream (id INTEGER PRIMARY KEY, incarnation TEXT NOT NULL, content_type TEXT NOT NULL, \
             created_at INTEGER NOT NULL, ttl_seconds INTEGER, expires_at INTEGER, expires_at_text TEXT, name TEXT NOT NULL, \
             version INTEGER NOT NULL, registered INTEGER NOT NULL, segment INTEGER NOT NULL, writable INTEGER NOT NULL, \
             stream_seq TEXT, touched_at INTEGER NOT NULL, alarm_at INTEGER, closed INTEGER NOT NULL, closed_producer TEXT, \
             closed_epoch INTEGER, closed_seq INTEGER); \
             CREATE TABLE segments (number INTEGER PRIMARY KEY, units INTEGER NOT NULL, bytes INTEGER NOT NULL, \
             messages INTEGER NOT NULL, attempts INTEGER NOT NULL, attempted_at INTEGER NOT NULL, stored INTEGER, \
             segment_index BLOB); \
             CREATE TABLE producers (id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID; \
             INSERT INTO producers VALUES ('p', 1, 2);",
        )
        .unwrap();
    connection
        .execute(
            "INSERT INTO stream VALUES (1, '00000000000000ff', 'text/plain', 1, NULL, NULL, NULL, 's', 1, 0, ?, ?, NULL, 1, \
             NULL, ?, NULL, NULL, NULL)",
            (open.cast_signed(), writable, !writable),
        )
        .unwrap();
    for (table, position) in tables {
        connection
            .execute_batch(&format!(
                "CREATE TABLE {table} (key INTEGER PRIMARY KEY, units INTEGER NOT NULL, bytes_before INTEGER NOT NULL, \
                 at INTEGER NOT NULL, producer TEXT, epoch INTEGER, seq INTEGER, stream_seq TEXT, frames BLOB NOT NULL); \
                 INSERT INTO {table} (key, units, bytes_before, at, frames) VALUES (0, {position}, 0, 1, x'00')"
            ))
            .unwrap();
    }
    Database::new(connection)
}

/// Returns where the rows of each former table are after the upgrade.
fn upgraded(database: &Database) -> Vec<(u64, u64)> {
    let former = database.former().unwrap().unwrap();
    let now = Millis(1_000);
    database.apply(&[Write::Upgrade { former, now }]).unwrap();
    assert_eq!(database.former().unwrap(), None, "upgraded once");
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
fn the_rows_of_each_segment_are_found_again() {
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
fn a_producer_is_known_and_counts_as_used_at_the_upgrade() {
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
fn a_database_of_the_present_form_is_left_alone() {
    let database = Database::in_memory().unwrap();
    assert_eq!(database.former().unwrap(), None);
    database.apply(&[Write::CreateTables]).unwrap();
    assert_eq!(database.former().unwrap(), None);
    let closed = former(5, false, &[]);
    assert_eq!(closed.former().unwrap(), None::<Former>);
}
