//! Lookup of rows in one hot table.

use super::port::{Storage, StorageError};
use super::rows::{HotTable, RowKey, RowMeta};
use crate::plan::{FRAME_OVERHEAD, Lead, Span};

/// Looks up rows in one hot table. The table has rows from the beginning of the segment without a
/// gap.
pub(crate) struct HotTableReader<'a> {
    table: HotTable,
    rows: &'a dyn Storage,
}

impl<'a> HotTableReader<'a> {
    pub(crate) const fn new(table: HotTable, rows: &'a dyn Storage) -> Self {
        Self { table, rows }
    }

    /// Returns the last row at or before `key`.
    pub(crate) fn row(&self, key: RowKey) -> Result<RowMeta, StorageError> {
        let row = self.rows.at_or_before(self.table, key)?;
        let row =
            row.ok_or_else(|| StorageError(format!("no row at or before {}", key.stored())))?;
        assert!(row.key <= key, "storage returned a row after the key");
        Ok(row)
    }

    /// Returns the first row of the message or append that contains the unit at `position`.
    pub(crate) fn containing(&self, position: u64) -> Result<RowMeta, StorageError> {
        let row = self.row(RowKey::at(position))?;
        let begin = RowKey::at(row.key.position());
        if row.key == begin {
            Ok(row)
        } else {
            self.row(begin)
        }
    }

    /// Returns the rows that hold the last `bytes` bytes of content before `key`, in order.
    pub(crate) fn lead(&self, key: RowKey, bytes: u64) -> Result<Vec<Lead>, StorageError> {
        let (mut lead, mut left, mut before) = (Vec::new(), bytes, key.stored());
        while left > 0 && before > 0 {
            let row = self.row(RowKey::from_stored(before - 1))?;
            let is_begin = row.key == RowKey::at(row.key.position());
            let framed = is_begin && row.units > 0;
            let content = if framed {
                row.units
            } else if is_begin {
                row.bytes - FRAME_OVERHEAD.min(row.bytes)
            } else {
                row.bytes
            };
            let span = Span {
                table: self.table,
                from: row.key,
                to: row.key,
            };
            lead.push(Lead {
                span,
                bytes: content.min(left),
                framed,
            });
            left -= content.min(left);
            before = row.key.stored();
        }
        assert_eq!(
            lead.iter().map(|row| row.bytes).sum::<u64>() + left,
            bytes,
            "the rows before a place have the bytes that were requested"
        );
        lead.reverse();
        Ok(lead)
    }

    /// Returns the last row such that all rows from `first` to it have at most `bytes_max` bytes
    /// together; at least `first`. Bytes increase with keys, so a binary search finds it.
    fn last_fitting(
        &self,
        first: &RowMeta,
        last: &RowMeta,
        bytes_max: u64,
    ) -> Result<RowMeta, StorageError> {
        let fits = |row: &RowMeta| row.bytes_through() - first.bytes_before <= bytes_max;
        if fits(last) {
            return Ok(*last);
        }
        // `low` fits, the row at `high` does not, and there is no row after `low` up to `floor`.
        let (mut low, mut floor, mut high) = (*first, first.key.stored(), last.key.stored());
        while high - floor > 1 {
            let middle = floor + (high - floor) / 2;
            let row = self.row(RowKey::from_stored(middle))?;
            if row.key > low.key && !fits(&row) {
                high = row.key.stored();
            } else {
                low = row;
                floor = middle;
            }
        }
        assert!(
            first.key <= low.key && low.key <= last.key,
            "the last fitting row is one of the rows"
        );
        Ok(low)
    }

    /// Groups the rows from `first` to `last` into spans of at most `bytes_max`, or of one row.
    pub(crate) fn spans(
        &self,
        first: RowMeta,
        last: RowMeta,
        bytes_max: u64,
    ) -> Result<Vec<Span>, StorageError> {
        assert!(first.key <= last.key, "a span has at least one row");
        let mut spans = Vec::new();
        let mut from = first;
        loop {
            let to = self.last_fitting(&from, &last, bytes_max)?;
            spans.push(Span {
                table: self.table,
                from: from.key,
                to: to.key,
            });
            if to.key >= last.key {
                return Ok(spans);
            }
            from = self.row(to.next_key())?;
            if from.key <= to.key {
                return Err(StorageError(format!("no row after {}", to.key.stored())));
            }
        }
    }

    /// Returns the first row after `after` that begins a message and has at least `bytes_before`
    /// framed bytes before it.
    pub(crate) fn first_at_or_after_bytes(
        &self,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        let row = self
            .rows
            .first_at_or_after_bytes(self.table, after, bytes_before)?;
        if let Some(row) = &row {
            assert!(
                row.key > after && row.bytes_before >= bytes_before,
                "storage returned a row that was not requested"
            );
        }
        Ok(row)
    }
}
