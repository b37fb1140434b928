//! Stored rows: they tile the open segment, and a name without a stream has no rows.

use machine::Write;
use machine::rows::RowKey;

use super::Oracle;
use super::checker::{AfterTurn, Checker, Finding, violation};
use crate::coverage::{Coverage, Situation, Watermark};

/// Holds that hot rows follow one another without gap or overlap and end at the tail, and that a
/// name without a stream has no rows and no tables.
#[derive(Debug, Default)]
pub struct RowsTile;

impl Checker for RowsTile {
    fn after_turn(&mut self, seen: &AfterTurn<'_>, coverage: &mut Coverage) -> Finding {
        let store = seen.subject.store;
        let rows = &store.rows;
        let Some(incarnation) = &seen.subject.model.state.incarnation else {
            let outbox = u64::from(rows.tasks().next().is_some());
            if rows.is_freed() && store.table_count() == outbox {
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
            }
        }
        if count > 1 {
            coverage.cover(Situation::SeveralRows);
        }
        if parts > 0 {
            coverage.cover(Situation::MessageOverRows);
        }
        coverage.raise(Watermark::Rows, rows.row_count());
        Ok(())
    }
}
