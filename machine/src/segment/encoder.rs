//! Encodes the rows of a sealed segment as an object, piece by piece.

use std::collections::VecDeque;

use bytes::Bytes;

use super::append_ends::AppendEnds;
use super::blocks::Blocks;
use super::index::{Entry, Index};
use super::{
    CHECK_BYTES, Context, FIXED_HEAD_BYTES, MAGIC, MAGIC_END, Put, PutId, TRAILER_BYTES, VERSION,
};
use crate::plan::{CorruptionError, Span};
use crate::rows::RowKey;
use crate::storage::hot_table::HotTableReader;
use crate::storage::{Storage, StorageError};

/// Proof that a segment was encoded completely. The shell returns it with the outcome of the put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) index: Bytes,
    /// Where its appends end.
    pub(crate) append_ends: Bytes,
    /// Size of the object.
    pub(crate) bytes: u64,
}

/// Encodes the rows of a sealed segment as an object, chunk by chunk.
#[derive(Debug)]
pub struct Encoder {
    head: Vec<u8>,
    spans: VecDeque<Span>,
    index: Index,
    append_ends: Bytes,
    blocks: Blocks,
    body: u64,
}

impl Put {
    /// Prepares the encoding from the rows' metadata.
    ///
    /// # Errors
    /// Fails when the rows cannot be read or do not match the segment. Nothing must be put then.
    pub fn begin(&self, rows: &dyn Storage) -> Result<Encoder, StorageError> {
        let hot = HotTableReader::new(self.table, rows);
        let last = hot.row(RowKey::LAST)?;
        if last.end() != self.units || last.bytes_through() != self.bytes {
            return Err(StorageError(
                "the rows of the sealed segment are gone".to_owned(),
            ));
        }
        let first = hot.row(RowKey::at(0))?;
        let mut entries = vec![Entry::default()];
        let mut after = first.key;
        let mut step = 1;
        while let Some(row) = rows.first_at_or_after_bytes(self.table, after, step * self.block)? {
            entries.push(Entry {
                position: row.key.position(),
                bytes_before: row.bytes_before,
            });
            assert!(row.key > after, "rows of an index increase");
            after = row.key;
            step = row.bytes_before / self.block + 1;
        }
        let head = head(self.id, &self.context);
        let blocks = usize::try_from(self.bytes.div_ceil(self.block))
            .map_err(|_| StorageError("the segment is too large".to_owned()))?;
        Ok(Encoder {
            spans: hot.spans(first, last, self.row_bytes_max)?.into(),
            index: Index {
                framed: true,
                head_bytes: head.len() as u64,
                body_bytes: self.bytes,
                units: self.units,
                block: self.block,
                entries,
                checksums: vec![0; blocks],
            },
            append_ends: AppendEnds::read(self, rows)?,
            head,
            blocks: Blocks::new(self.block),
            body: 0,
        })
    }
}

impl Encoder {
    /// Returns the length of the object in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        let index = self.index.encode().len() + TRAILER_BYTES;
        self.head.len() as u64 + self.index.body_bytes + index as u64
    }

    /// Returns the head, which is the start of the object.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Returns the rows whose frames to push next; `None` after the last ones.
    pub fn next_span(&mut self) -> Option<Span> {
        self.spans.pop_front()
    }

    /// Accepts the concatenated frames of a span and returns the next bytes of the object.
    ///
    /// # Errors
    /// Fails when the frames are longer than the segment.
    pub fn push(&mut self, frames: Vec<u8>) -> Result<Vec<u8>, CorruptionError> {
        self.body += frames.len() as u64;
        if self.body > self.index.body_bytes {
            return Err(CorruptionError::new(
                "the rows have more bytes than the sealed segment",
            ));
        }
        self.blocks.push(&frames);
        Ok(frames)
    }

    /// Returns the end of the object and the receipt.
    ///
    /// # Errors
    /// Fails when the segment was not pushed completely.
    pub fn finish(mut self) -> Result<(Vec<u8>, Receipt), CorruptionError> {
        let checksums = self.blocks.finish();
        if self.body != self.index.body_bytes || checksums.len() != self.index.checksums.len() {
            return Err(CorruptionError::new(
                "rows of the sealed segment are missing",
            ));
        }
        self.index.checksums = checksums;
        let index = self.index.encode();
        let mut end = index.clone();
        end.extend_from_slice(&length_of(&index));
        let check = crc32fast::hash(&end);
        end.extend_from_slice(&check.to_le_bytes());
        end.extend_from_slice(&MAGIC_END);
        let bytes = self.head.len() as u64 + self.body + end.len() as u64;
        let receipt = Receipt {
            index: index.into(),
            append_ends: self.append_ends,
            bytes,
        };
        Ok((end, receipt))
    }
}

/// Returns the length of a context or an index as stored.
fn length_of(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len())
        .expect("a context or an index is shorter than 4 GiB")
        .to_le_bytes()
}

fn head(id: PutId, context: &Context) -> Vec<u8> {
    let context = serde_json::to_vec(context).expect("a context always serializes");
    let mut head = Vec::with_capacity(FIXED_HEAD_BYTES + context.len() + CHECK_BYTES);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&[VERSION, 1, 0, 0]);
    head.extend_from_slice(&id.incarnation.0.to_le_bytes());
    head.extend_from_slice(&id.segment.to_le_bytes());
    head.extend_from_slice(&length_of(&context));
    head.extend_from_slice(&context);
    assert_eq!(
        head.len(),
        FIXED_HEAD_BYTES + context.len(),
        "the fixed part of the head has its length"
    );
    let check = crc32fast::hash(&head);
    head.extend_from_slice(&check.to_le_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{AppendEnd, HotRow, HotTable, Incarnation, Write};
    use crate::{MemoryRows, Millis};

    #[test]
    fn a_put_begins_only_with_all_rows_of_its_segment() {
        let table = HotTable::of(0);
        let row = HotRow {
            key: RowKey::at(0),
            units: 3,
            bytes_before: 0,
            at: Millis(1),
            ends: vec![AppendEnd {
                units: 3,
                producer: None,
                stream_seq: None,
            }],
            frames: Bytes::from_static(&[3, 0, 0, 0, 7, 8, 9]).into(),
        };
        let mut rows = MemoryRows::default();
        for write in [Write::CreateHot(table), Write::InsertHot { table, row }] {
            rows.apply(&write).expect("the table is empty");
        }
        let begins = |units, bytes| {
            let put = Put {
                id: PutId {
                    incarnation: Incarnation(1),
                    segment: 0,
                    attempt: 1,
                },
                key: String::new(),
                table,
                units,
                bytes,
                block: 64,
                row_bytes_max: 64,
                appends_read_max: 1,
                time_ms: 1,
                context: Context {
                    path: "log".to_owned(),
                    content_type: "text/plain".to_owned(),
                },
            };
            put.begin(&rows).is_ok()
        };
        assert!(begins(3, 7));
        assert!(!begins(4, 7));
        assert!(!begins(3, 8));
    }
}
