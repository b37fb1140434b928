//! Cold segments: the format of the objects that hold sealed segments, and range reads of them.
//!
//! # Format, version 1
//!
//! All integers are little-endian. A *varint* stores seven bits per byte, lowest first; the high
//! bit is set on all bytes except the last. Checksums are CRC-32 (ISO-HDLC).
//!
//! | bytes | content |
//! | --- | --- |
//! | 4 | `DSsg` |
//! | 1 | version, 1 |
//! | 1 | 1: the body is frames, one per message or append; 0: plain bytes (older versions) |
//! | 2 | zero |
//! | 8 | incarnation of the stream |
//! | 8 | number of the segment |
//! | 4 | length n of the context |
//! | n | context: JSON with `path` and `contentType`, which identifies an object found on its own |
//! | 4 | checksum of all bytes before it |
//! | body | frames as in the rows (each message or append after its length in 32 bits), or plain bytes |
//! | index | see below |
//! | 4 | length of the index |
//! | 4 | checksum of the index and of its length |
//! | 4 | `DSsx` |
//!
//! The index begins with varints: version (1), kind of body as above, length of everything before
//! the body, length of the body, units (messages or bytes), length of a block, number of entries.
//! The entries follow, two varints each: the increase of the position and of the framed bytes
//! before it since the previous entry. An entry is the beginning of the first row at or after a
//! multiple of the block length in framed bytes. The checksums of the body's blocks come last, 4
//! bytes each. All blocks have the same length except the last. The segment's row holds the same
//! index, so any part can be fetched with one range request and verified.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::SAFE_INTEGER_MAX;
use crate::outbox::Garbage;
use crate::plan::{self, ColdPart, CorruptionError, Span};
use crate::rows::{HotTable, Incarnation, RowKey};
use crate::storage::hot_table::HotTableReader;
use crate::storage::{Storage, StorageError};
use crate::varint::{push_varint, take_varint};
use crate::wire::{Format, content_type};

const MAGIC: [u8; 4] = *b"DSsg";
const MAGIC_END: [u8; 4] = *b"DSsx";
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;
/// Bytes of the head before the context. It begins with the magic, the version, whether the body
/// consists of frames, and two bytes of 0.
const FIXED_HEAD_BYTES: usize = 28;
/// Where the fields of the head are.
const FRAMED_AT: usize = 5;
const INCARNATION_AT: usize = 8;
const SEGMENT_AT: usize = 16;
const CONTEXT_LENGTH_AT: usize = 24;
/// The trailer is the length of the index, its checksum, and the magic at the end.
const TRAILER_BYTES: usize = 12;
const LENGTH_BYTES: usize = 4;

/// An entry is two varints.
const ENTRY_BYTES_MIN: u64 = 2;

/// Each part of a key can be a file or directory name, which has at most 255 bytes. The stream's
/// name may be longer; it can be cut because the incarnation makes the key unique.
const NAME_BYTES_IN_KEY: usize = 180;

/// Returns the prefix of the keys of an incarnation's objects:
/// `<name in base64url>/<incarnation>/`.
#[must_use]
pub fn key_prefix(name: &str, incarnation: Incarnation) -> String {
    let name = name.as_bytes();
    let name = URL_SAFE_NO_PAD.encode(&name[..name.len().min(NAME_BYTES_IN_KEY)]);
    format!("{name}/{incarnation}/")
}

/// Returns the key of one attempt to store a segment.
#[must_use]
pub fn key(prefix: &str, segment: u64, attempt: u64) -> String {
    format!("{prefix}{segment:016}-{attempt}")
}

impl Garbage {
    /// Returns the keys of the first objects, at most `most`, and the remaining range.
    pub(crate) fn split(&self, most: u64) -> (Vec<String>, Option<Self>) {
        assert!(
            self.segments.start() == self.segments.end()
                || self.attempts.start() == self.attempts.end(),
            "the objects are attempts of one segment, or one attempt of each segment"
        );
        let pairs = self
            .segments
            .clone()
            .flat_map(|segment| self.attempts.clone().map(move |attempt| (segment, attempt)));
        let taken = usize::try_from(most).unwrap_or(usize::MAX);
        let keys = pairs
            .clone()
            .take(taken)
            .map(|(segment, attempt)| key(&self.prefix, segment, attempt))
            .collect();
        // One of the two ranges has a single element, so the remainder is again a pair of ranges.
        let mut pairs = pairs;
        let rest = pairs.nth(taken).map(|(segment, attempt)| Self {
            prefix: self.prefix.clone(),
            segments: segment..=*self.segments.end(),
            attempts: attempt..=*self.attempts.end(),
        });
        (keys, rest)
    }
}

/// Identifies one attempt to store a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PutId {
    /// The incarnation of the stream.
    pub incarnation: Incarnation,
    /// The number of the segment.
    pub segment: u64,
    /// The number of the attempt, from 0.
    pub attempt: u64,
}

/// A segment to store under a key that was never used before. If an object exists at the key, the
/// put must not overwrite it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The attempt.
    pub id: PutId,
    /// The key of the object.
    pub key: String,
    pub(crate) table: HotTable,
    pub(crate) units: u64,
    pub(crate) bytes: u64,
    pub(crate) block: u64,
    pub(crate) row_bytes_max: u64,
    /// Time limit of the put. After it the outcome is unknown and the next attempt starts.
    pub time_ms: u64,
    pub(crate) context: Context,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Context {
    pub(crate) path: String,
    pub(crate) content_type: String,
}

/// Proof that a segment was encoded completely. The shell returns it with the outcome of the put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) index: Bytes,
    /// Size of the object.
    pub(crate) bytes: u64,
}

/// Encodes the rows of a sealed segment as an object, chunk by chunk.
#[derive(Debug)]
pub struct Encoder {
    head: Vec<u8>,
    spans: VecDeque<Span>,
    index: Index,
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
        let index = Bytes::from(index);
        Ok((end, Receipt { index, bytes }))
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

/// Computes the checksums of consecutive blocks.
#[derive(Debug)]
struct Blocks {
    block: u64,
    filled: u64,
    hasher: crc32fast::Hasher,
    checksums: Vec<u32>,
}

impl Blocks {
    fn new(block: u64) -> Self {
        assert!(block > 0, "a block has at least one byte");
        Self {
            block,
            filled: 0,
            hasher: crc32fast::Hasher::new(),
            checksums: Vec::new(),
        }
    }

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = plan::at_most(self.block - self.filled, bytes.len());
            let (now, later) = bytes.split_at(room);
            self.hasher.update(now);
            self.filled += now.len() as u64;
            if self.filled == self.block {
                self.close();
            }
            bytes = later;
        }
    }

    fn close(&mut self) {
        let hasher = core::mem::replace(&mut self.hasher, crc32fast::Hasher::new());
        self.checksums.push(hasher.finalize());
        self.filled = 0;
    }

    fn finish(&mut self) -> Vec<u32> {
        if self.filled > 0 {
            self.close();
        }
        core::mem::take(&mut self.checksums)
    }
}

/// The beginning of a row: its position, and the segment's framed bytes before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Units of the segment before the row.
    pub position: u64,
    /// Framed bytes of the segment before the row.
    pub bytes_before: u64,
}

/// The sparse index of a segment's object: entries to find positions, and checksums of the blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    framed: bool,
    head_bytes: u64,
    body_bytes: u64,
    units: u64,
    block: u64,
    /// In order. The first is the beginning of the segment.
    entries: Vec<Entry>,
    checksums: Vec<u32>,
}

impl Index {
    fn encode(&self) -> Vec<u8> {
        assert_eq!(
            self.entries.first(),
            Some(&Entry::default()),
            "the first entry is the beginning of the segment"
        );
        assert_eq!(
            self.checksums.len() as u64,
            self.body_bytes.div_ceil(self.block),
            "each block has one checksum"
        );
        let mut bytes = vec![VERSION, u8::from(self.framed)];
        let numbers = [
            self.head_bytes,
            self.body_bytes,
            self.units,
            self.block,
            self.entries.len() as u64,
        ];
        for number in numbers {
            push_varint(&mut bytes, number);
        }
        let mut last = Entry::default();
        for entry in &self.entries {
            push_varint(&mut bytes, entry.position - last.position);
            push_varint(&mut bytes, entry.bytes_before - last.bytes_before);
            last = *entry;
        }
        for check in &self.checksums {
            bytes.extend_from_slice(&check.to_le_bytes());
        }
        bytes
    }

    /// Decodes an index and checks that its fields agree.
    ///
    /// # Errors
    /// Fails when the bytes are not a valid index.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, CorruptionError> {
        const NO_INDEX: CorruptionError = CorruptionError::new("the index is malformed");
        let (version, framed) = match bytes {
            [version, framed, rest @ ..] => {
                let head = (*version, *framed);
                bytes = rest;
                head
            }
            _ => return Err(NO_INDEX),
        };
        if version != VERSION || framed > 1 {
            return Err(NO_INDEX);
        }
        let mut number = || take_varint(&mut bytes).ok_or(NO_INDEX);
        let (head_bytes, body_bytes, units, block, count) =
            (number()?, number()?, number()?, number()?, number()?);
        let whole = block > 0
            && (framed == 1 || body_bytes == units)
            && head_bytes <= SAFE_INTEGER_MAX
            && body_bytes <= SAFE_INTEGER_MAX;
        if !whole || count == 0 || count > bytes.len() as u64 / ENTRY_BYTES_MIN {
            return Err(NO_INDEX);
        }
        let mut entries = Vec::new();
        let mut last = Entry::default();
        for index in 0..count {
            let mut rise = || take_varint(&mut bytes).ok_or(NO_INDEX);
            let entry = Entry {
                position: last.position.checked_add(rise()?).ok_or(NO_INDEX)?,
                bytes_before: last.bytes_before.checked_add(rise()?).ok_or(NO_INDEX)?,
            };
            let rises = if index == 0 {
                entry == Entry::default()
            } else {
                entry.position > last.position && entry.bytes_before > last.bytes_before
            };
            if !rises
                || entry.position >= units
                || (framed == 1 && entry.bytes_before >= body_bytes)
            {
                return Err(NO_INDEX);
            }
            entries.push(entry);
            last = entry;
        }
        if bytes.len() as u64
            != body_bytes
                .div_ceil(block)
                .saturating_mul(CHECK_BYTES as u64)
        {
            return Err(NO_INDEX);
        }
        let checksums = bytes
            .as_chunks::<CHECK_BYTES>()
            .0
            .iter()
            .map(|check| u32::from_le_bytes(*check))
            .collect();
        Ok(Self {
            framed: framed == 1,
            head_bytes,
            body_bytes,
            units,
            block,
            entries,
            checksums,
        })
    }

    /// Returns the number of messages or bytes in the segment.
    pub(crate) const fn units(&self) -> u64 {
        self.units
    }

    /// Returns the last entry at or before a position.
    #[must_use]
    pub fn floor(&self, position: u64) -> Entry {
        let at = self
            .entries
            .partition_point(|entry| entry.position <= position);
        *self.entries[..at].last().expect("the first entry is at 0")
    }

    /// Returns the first entry after a position.
    #[must_use]
    pub fn behind(&self, position: u64) -> Option<Entry> {
        let at = self
            .entries
            .partition_point(|entry| entry.position <= position);
        self.entries.get(at).copied()
    }

    /// Returns the last entry with at most `bytes_before` framed bytes before it.
    #[must_use]
    pub fn within(&self, bytes_before: u64) -> Entry {
        let at = self
            .entries
            .partition_point(|entry| entry.bytes_before <= bytes_before);
        *self.entries[..at].last().expect("the first entry is at 0")
    }

    /// Returns the part of the object under `key` with the units from `start` to `end`. It has at
    /// least one unit, and all are within the segment.
    #[must_use]
    pub fn part(&self, segment: u64, key: String, start: u64, end: u64) -> ColdPart {
        self.part_behind(0, segment, key, start, end)
    }

    /// Returns [`Self::part`] plus up to `lead` units before the append that contains `start`. The
    /// part may be empty.
    pub(crate) fn part_behind(
        &self,
        lead: u64,
        segment: u64,
        key: String,
        start: u64,
        end: u64,
    ) -> ColdPart {
        assert!(
            start <= end && end <= self.units,
            "a part lies inside its segment"
        );
        let (from, to, skip) = if self.framed {
            let floor = self.floor(self.floor(start).position.saturating_sub(lead));
            // Read up to the next entry, because the index does not locate the end of a message.
            let to = end
                .checked_sub(1)
                .and_then(|last| self.behind(last))
                .map_or(self.body_bytes, |entry| entry.bytes_before);
            (floor.bytes_before, to, start - floor.position)
        } else {
            let lead = lead.min(start);
            (start - lead, end, lead)
        };
        let first_block = from / self.block;
        let last_block = to.div_ceil(self.block);
        let begin = first_block * self.block;
        let until = (last_block * self.block).min(self.body_bytes);
        let block = |number: u64| usize::try_from(number).expect("the blocks fit into memory");
        ColdPart {
            segment,
            key,
            offset: self.head_bytes + begin,
            length: until - begin,
            block: self.block,
            checksums: self
                .checksums
                .get(block(first_block)..block(last_block))
                .expect("an index has a checksum for each block")
                .to_vec(),
            skip_bytes: from - begin,
            framed: self.framed,
            skip,
            count: end - start,
        }
    }
}

/// A decoded object: its identity and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The incarnation of the stream.
    pub incarnation: Incarnation,
    /// The number of the segment.
    pub segment: u64,
    /// The canonical name of the stream.
    pub path: String,
    /// The content type of the stream.
    pub content_type: String,
    /// The index that the object ends with.
    pub index: Index,
    /// The messages or appends. An object of an older version is one run of bytes.
    pub records: Vec<Vec<u8>>,
}

/// Decodes and verifies a whole object, for recovery and for tests.
///
/// # Errors
/// Fails when any part of the object violates the format.
pub fn decode(object: &[u8]) -> Result<Decoded, CorruptionError> {
    const SHORT: CorruptionError = CorruptionError::new("the object is too short");
    const NO_SEGMENT: CorruptionError = CorruptionError::new("the object is not a segment");
    let number = |at: usize| {
        let bytes = object
            .get(at..at + LENGTH_BYTES)
            .and_then(|bytes| <[u8; LENGTH_BYTES]>::try_from(bytes).ok());
        bytes.map(u32::from_le_bytes).ok_or(SHORT)
    };
    let long = |at: usize| {
        let (low, high) = (number(at)?, number(at + LENGTH_BYTES)?);
        Ok(u64::from(low) | u64::from(high) << u32::BITS)
    };
    let length = |value: u32| usize::try_from(value).map_err(|_| SHORT);
    let start = object.get(..INCARNATION_AT).ok_or(SHORT)?;
    let framed = start[FRAMED_AT];
    if start != [&MAGIC[..], &[VERSION, framed, 0, 0]].concat() || framed > 1 {
        return Err(NO_SEGMENT);
    }
    let context_end = FIXED_HEAD_BYTES
        .checked_add(length(number(CONTEXT_LENGTH_AT)?)?)
        .ok_or(SHORT)?;
    let head = object.get(..context_end).ok_or(SHORT)?;
    if number(context_end)? != crc32fast::hash(head) {
        return Err(CorruptionError::new("the head's checksum is wrong"));
    }
    let context: Context =
        serde_json::from_slice(&head[FIXED_HEAD_BYTES..]).map_err(|_| NO_SEGMENT)?;
    let trailer = object.len().checked_sub(TRAILER_BYTES).ok_or(SHORT)?;
    let index_begin = trailer
        .checked_sub(length(number(trailer)?)?)
        .ok_or(SHORT)?;
    let check = trailer + LENGTH_BYTES;
    if object[check + CHECK_BYTES..] != MAGIC_END
        || number(check)? != crc32fast::hash(&object[index_begin..check])
    {
        return Err(CorruptionError::new("the index's checksum is wrong"));
    }
    let index = Index::decode(&object[index_begin..trailer])?;
    let body = object
        .get(context_end + CHECK_BYTES..index_begin)
        .ok_or(SHORT)?;
    if index.head_bytes != (context_end + CHECK_BYTES) as u64
        || index.body_bytes != body.len() as u64
        || index.framed != (framed == 1)
    {
        return Err(CorruptionError::new("the index belongs to another object"));
    }
    let mut blocks = Blocks::new(index.block);
    blocks.push(body);
    if blocks.finish() != index.checksums {
        return Err(CorruptionError::new("a block's checksum is wrong"));
    }
    let records = if index.framed {
        plan::payloads(body)
            .map(|payload| payload.map(<[u8]>::to_vec))
            .collect::<Result<Vec<_>, _>>()?
    } else {
        vec![body.to_vec()]
    };
    let units = match content_type::format(&context.content_type) {
        Format::Json => records.len() as u64,
        Format::Text | Format::Binary => records.iter().map(|record| record.len() as u64).sum(),
    };
    if units != index.units {
        return Err(CorruptionError::new("the number of units is wrong"));
    }
    Ok(Decoded {
        incarnation: Incarnation(long(INCARNATION_AT)?),
        segment: long(SEGMENT_AT)?,
        path: context.path,
        content_type: context.content_type,
        index,
        records,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Part, Plan, Shape};
    use crate::rows::{HotRow, Write};
    use crate::{MemoryRows, Millis};

    fn rendered(part: ColdPart, object: &[u8]) -> String {
        let plan = Plan {
            parts: vec![Part::Cold(part)],
            format: Format::Binary,
            shape: Shape::Body,
            continues: false,
            rest: None,
            is_last: true,
        };
        let mut rendering = plan
            .begin(|_| Err("nothing is hot"))
            .expect("nothing is fetched");
        let mut body = Vec::new();
        let fetch = rendering
            .advance(&mut body)
            .expect("it is whole")
            .expect("a part");
        let from = usize::try_from(fetch.offset).expect("it is short");
        let length = usize::try_from(fetch.length).expect("it is short");
        rendering
            .push(&object[from..from + length], &mut body)
            .expect("it is whole");
        rendering.fetched().expect("it is whole");
        String::from_utf8(body).expect("it is text")
    }

    /// Returns an object that holds these bytes in one block, with an index entry for each
    /// beginning of an append.
    fn object(framed: bool, body: &[u8], units: u64, entries: Vec<Entry>) -> (Index, Vec<u8>) {
        let index = Index {
            framed,
            head_bytes: 3,
            body_bytes: body.len() as u64,
            units,
            block: 64,
            entries,
            checksums: vec![crc32fast::hash(body)],
        };
        let index = Index::decode(&index.encode()).expect("it is an index");
        (index, [b"..!", body].concat())
    }

    #[test]
    fn a_put_begins_only_with_all_rows_of_its_segment() {
        let table = HotTable::of(0);
        let row = HotRow {
            key: RowKey::at(0),
            units: 3,
            bytes_before: 0,
            at: Millis(1),
            ends: Vec::new(),
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

    #[test]
    fn an_index_whose_numbers_disagree_is_refused() {
        let (index, _) = object(false, b"hello", 5, vec![Entry::default()]);
        let is_read = |index: &Index| Index::decode(&index.encode()).is_ok();
        let beyond = SAFE_INTEGER_MAX + 1;
        let entry = |position, bytes_before| Entry {
            position,
            bytes_before,
        };
        let with_entries = |entries| Index {
            entries,
            ..index.clone()
        };
        let with_sizes = |head_bytes, body_bytes, units, block| Index {
            framed: units != body_bytes,
            head_bytes,
            body_bytes,
            units,
            block,
            ..index.clone()
        };
        assert!(is_read(&index));
        assert!(is_read(&with_entries(vec![entry(0, 0), entry(1, 1)])));
        assert!(is_read(&with_sizes(
            SAFE_INTEGER_MAX,
            beyond - 1,
            5,
            beyond
        )));
        for broken in [
            with_sizes(beyond, 5, 5, 64),
            with_sizes(3, beyond, 5, beyond),
            Index {
                framed: false,
                ..with_sizes(3, 5, 6, 64)
            },
            with_entries(vec![entry(0, 0), entry(0, 1)]),
            with_entries(vec![entry(0, 0), entry(1, 0)]),
            with_entries(vec![entry(0, 0), entry(5, 4)]),
        ] {
            assert!(!is_read(&broken), "{broken:?}");
        }
        // The numbers before the length of a block have one byte each.
        let mut bytes = index.encode();
        assert_eq!(u64::from(bytes[5]), index.block);
        bytes[5] = 0;
        assert!(Index::decode(&bytes).is_err());
    }

    #[test]
    fn objects_with_frames_and_without_can_be_read() {
        let mut frames = Vec::new();
        for append in ["hello ", "wide ", "world"] {
            plan::push_frame(&mut frames, append.as_bytes());
        }
        let (index, framed) = object(true, &frames, 16, vec![Entry::default()]);
        let part = |start| index.part(0, String::new(), start, 16);
        assert_eq!(rendered(part(6), &framed), "wide world");
        assert_eq!(rendered(part(9), &framed), "wide world");
        // An object of an older version, which does not record where appends end.
        let (index, plain) = object(false, b"hello wide world", 16, vec![Entry::default()]);
        let part = |start| index.part(0, String::new(), start, 16);
        assert_eq!(rendered(part(6), &plain), "wide world");
        assert_eq!(rendered(part(9), &plain), "e world");
    }
}
