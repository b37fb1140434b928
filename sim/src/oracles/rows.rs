//! Stored rows: they tile the open segment, and a name without a stream has no rows.

use machine::rows::{HotRow, HotTable, RowKey};
use machine::{Turn, Write};

use super::Oracle;
use super::checker::{AfterTurn, Checker, Finding, violation};
use crate::coverage::{Coverage, Situation, Watermark};

/// Holds that no row of several appends is larger than it may be, and that no two rows of a turn
/// could have been one.
fn folds(turn: &Turn, bytes_max: u64) -> Finding {
    let mut before: Option<(HotTable, &HotRow)> = None;
    for write in &turn.writes {
        let Write::InsertHot { table, row } = write else {
            continue;
        };
        let bytes = row.frames.bytes();
        if row.ends.len() > 1 && bytes > bytes_max {
            let expected = format!("appends that share {bytes_max} bytes at most");
            return violation(Oracle::Folds, expected, format!("a row of {bytes}"));
        }
        let is_whole = |row: &HotRow| {
            row.units > 0 && !row.ends.is_empty() && row.key == RowKey::at(row.key.position())
        };
        if let Some((former, previous)) = before
            && former == *table
            && is_whole(previous)
            && is_whole(row)
            && previous.frames.bytes() + bytes <= bytes_max
        {
            let expected = "one row for both appends".to_owned();
            return violation(Oracle::Folds, expected, format!("{previous:?} and {row:?}"));
        }
        before = Some((*table, row));
    }
    Ok(())
}

/// Holds that hot rows follow one another without gap or overlap and end at the tail, and that a
/// name without a stream has no rows and no tables but those of its tasks and control rows.
#[derive(Debug, Default)]
pub struct RowsTile;

impl Checker for RowsTile {
    fn after_turn(&mut self, seen: &AfterTurn<'_>, coverage: &mut Coverage) -> Finding {
        let store = seen.subject.store;
        let rows = &store.rows;
        let Some(incarnation) = &seen.subject.model.state.incarnation else {
            let outbox = u64::from(rows.tasks().next().is_some());
            let control = u64::from(rows.control().next().is_some());
            if rows.is_freed() && store.table_count() == outbox + control {
                return Ok(());
            }
            return violation(
                Oracle::StorageFreed,
                "nothing of a stream that is gone",
                format!("{} rows, {} tables", rows.row_count(), store.table_count()),
            );
        };
        if seen.turn.writes.is_empty() {
            return Ok(());
        }
        let (mut key, mut bytes) = (RowKey::at(0), 0);
        let mut broken = None;
        for row in rows.rows() {
            if row.key != key || row.bytes_before != bytes {
                broken = Some(format!(
                    "{} with {} before it",
                    row.key.stored(),
                    row.bytes_before
                ));
                break;
            }
            bytes += row.frames.bytes();
            key = if row.units == 0 {
                row.key.next_part()
            } else {
                RowKey::at(row.key.position() + row.units)
            };
        }
        let sealed = incarnation.segments.sealed();
        let tail = incarnation.content.len() - incarnation.segments.start(sealed).unwrap_or(0);
        if broken.is_none() && key != RowKey::at(tail) {
            broken = Some(format!("the tail at {tail}"));
        }
        if let Some(actual) = broken {
            let expected = format!("a row at {} with {bytes} before it", key.stored());
            return violation(Oracle::RowsTile, expected, actual);
        }
        let (mut count, mut parts) = (0, 0);
        for write in &seen.turn.writes {
            if let Write::InsertHot { row, .. } = write {
                count += 1;
                parts += u64::from(row.units == 0);
                if row.ends.len() > 1 {
                    coverage.cover(Situation::AppendsFolded);
                }
            }
        }
        if count > 1 {
            coverage.cover(Situation::SeveralRows);
        }
        if parts > 0 {
            coverage.cover(Situation::MessageOverRows);
        }
        coverage.raise(Watermark::Rows, rows.row_count());
        folds(seen.turn, seen.limits.fold_bytes_max)
    }
}
