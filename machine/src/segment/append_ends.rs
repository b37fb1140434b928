//! Where the appends of a segment end. A fork can begin inside an append, but not beyond its end
//! (protocol 4.2). The segment's row keeps the ends, because its object has none.

use bytes::Bytes;

use super::Put;
use crate::plan::CorruptionError;
use crate::rows::{HotTable, RowKey};
use crate::storage::{Storage, StorageError};
use crate::varint::{push_varint, take_varint};

/// Encodes the ends of consecutive appends: runs of two varints, how many units an append has and
/// how many appends in a row have that many.
#[derive(Debug, Default)]
pub(crate) struct AppendEnds {
    bytes: Vec<u8>,
    units: u64,
    appends: u64,
}

impl AppendEnds {
    fn push(&mut self, units: u64) {
        assert!(units > 0, "an append has content");
        if units != self.units {
            self.end_run();
        }
        self.units = units;
        self.appends += 1;
    }

    fn end_run(&mut self) {
        if self.appends > 0 {
            push_varint(&mut self.bytes, self.units);
            push_varint(&mut self.bytes, self.appends);
        }
        self.appends = 0;
    }

    /// Reads the ends of all appends of a sealed segment from its rows. Returns no bytes if they
    /// would not fit into a row: a fork may then begin anywhere in the segment.
    pub(crate) fn read(put: &Put, rows: &dyn Storage) -> Result<Bytes, StorageError> {
        let mut ends = Self::default();
        // Units of the last append that are in earlier rows.
        let mut begun = 0;
        let from = (put.table, RowKey::at(0));
        each_row(
            from,
            rows,
            put.appends_read_max,
            &mut |_, units, row_ends| {
                let mut left = units;
                for end in row_ends {
                    ends.push(begun + end);
                    begun = 0;
                    left -= end;
                }
                begun += left;
                true
            },
        )?;
        if begun > 0 {
            let unended = "the last append of the sealed segment has no end";
            return Err(StorageError(unended.to_owned()));
        }
        ends.end_run();
        if ends.bytes.len() as u64 > put.row_bytes_max {
            ends.bytes.clear();
        }
        Ok(ends.bytes.into())
    }
}

/// Hands over position, units and ends of the rows from a key on, until `take` returns false.
fn each_row(
    (table, from): (HotTable, RowKey),
    rows: &dyn Storage,
    limit: u64,
    take: &mut dyn FnMut(u64, u64, &[u64]) -> bool,
) -> Result<(), StorageError> {
    let mut from = from;
    loop {
        let page = rows.appends(table, from, limit)?;
        for row in &page {
            assert!(row.key >= from, "rows come in the order of their keys");
            assert!(
                row.ends.iter().sum::<u64>() <= row.units,
                "what ends in a row is in it"
            );
            if !take(row.key.position(), row.units, &row.ends) {
                return Ok(());
            }
            from = row.key.next_part();
        }
        if (page.len() as u64) < limit {
            return Ok(());
        }
    }
}

/// Returns where the append with the unit at `position` ends, from the rows of its segment. `from`
/// is the row with that unit. Reads at most `limit` rows at once.
pub(crate) fn in_rows(
    from: (HotTable, RowKey),
    position: u64,
    rows: &dyn Storage,
    limit: u64,
) -> Result<u64, StorageError> {
    let mut found = None;
    each_row(from, rows, limit, &mut |begin, _, ends| {
        let mut at = begin;
        found = ends.iter().find_map(|units| {
            at += units;
            (at > position).then_some(at)
        });
        found.is_none()
    })?;
    found.ok_or_else(|| StorageError(format!("no append ends after {position}")))
}

/// Returns where the append with the unit at `position` ends, from the ends that
/// [`AppendEnds::read`] returned.
pub(crate) fn in_ends(mut ends: &[u8], position: u64) -> Result<u64, CorruptionError> {
    const MALFORMED: CorruptionError = CorruptionError::new("the ends of appends are malformed");
    let mut at: u64 = 0;
    while !ends.is_empty() {
        let units = take_varint(&mut ends).filter(|units| *units > 0);
        let (units, appends) = units.zip(take_varint(&mut ends)).ok_or(MALFORMED)?;
        let end = units
            .checked_mul(appends)
            .and_then(|run| at.checked_add(run));
        let end = end.ok_or(MALFORMED)?;
        if position < end {
            return Ok(at + ((position - at) / units + 1) * units);
        }
        at = end;
    }
    Err(MALFORMED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_each_append_is_found() {
        let appends = [1, 1, 1, 7, 2, 2, 1, 300, 300];
        let mut ends = AppendEnds::default();
        appends.iter().for_each(|units| ends.push(*units));
        ends.end_run();
        let mut begin = 0;
        for units in appends {
            for position in begin..begin + units {
                assert_eq!(in_ends(&ends.bytes, position), Ok(begin + units));
            }
            begin += units;
        }
        assert!(
            in_ends(&ends.bytes, begin).is_err(),
            "there is no such unit"
        );
        assert!(in_ends(&ends.bytes[..3], begin).is_err());
        assert!(in_ends(&[0, 1], 0).is_err());
    }
}
