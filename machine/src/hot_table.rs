//! Finding rows in one hot table.

use crate::plan::{FRAME_OVERHEAD, Span};
use crate::rows::{HotTable, RowKey, RowMeta, Rows, StorageError};

/// One hot table that has rows, from the segment's first on, with none missing.
pub(crate) struct HotTableReader<'a, R> {
    table: HotTable,
    rows: &'a R,
}

impl<'a, R: Rows> HotTableReader<'a, R> {
    pub(crate) const fn new(table: HotTable, rows: &'a R) -> Self {
        Self { table, rows }
    }

    /// The last row at or before `key`.
    pub(crate) fn row(&self, key: RowKey) -> Result<RowMeta, StorageError> {
        let row = self.rows.at_or_before(self.table, key)?;
        row.ok_or_else(|| StorageError(format!("no row at or before {}", key.stored())))
    }

    /// The row where the message or append begins that a unit belongs to.
    pub(crate) fn containing(&self, position: u64) -> Result<RowMeta, StorageError> {
        let row = self.row(RowKey::at(position))?;
        let begin = RowKey::at(row.key.position());
        if row.key == begin {
            Ok(row)
        } else {
            self.row(begin)
        }
    }

    /// The rows before `key` that have the last `bytes` bytes of content there, in order, and how
    /// many each has of them.
    pub(crate) fn lead(&self, key: RowKey, bytes: u64) -> Result<Vec<(Span, u64)>, StorageError> {
        let (mut lead, mut left, mut before) = (Vec::new(), bytes, key.stored());
        while left > 0 && before > 0 {
            let row = self.row(RowKey::from_stored(before - 1))?;
            let is_begin = row.key == RowKey::at(row.key.position());
            let content = row.bytes
                - if is_begin {
                    FRAME_OVERHEAD.min(row.bytes)
                } else {
                    0
                };
            let span = Span {
                table: self.table,
                from: row.key,
                to: row.key,
            };
            lead.push((span, content.min(left)));
            left -= content.min(left);
            before = row.key.stored();
        }
        lead.reverse();
        Ok(lead)
    }

    /// The last row that lies, with all from `first` on, within `bytes_max`; at least `first`
    /// itself. Keys and bytes rise together, so that it is found by halving.
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
        // `low` fits, the row at `high` does not, and there is no row behind `low` up to `floor`.
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
        Ok(low)
    }

    /// The rows from `first` to `last` in groups of at most `bytes_max`, or of one row.
    pub(crate) fn spans(
        &self,
        first: RowMeta,
        last: RowMeta,
        bytes_max: u64,
    ) -> Result<Vec<Span>, StorageError> {
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
        }
    }

    /// The first row behind `after` that begins a message and has at least so many bytes before it.
    pub(crate) fn first_at_or_after_bytes(
        &self,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        self.rows
            .first_at_or_after_bytes(self.table, after, bytes_before)
    }
}
