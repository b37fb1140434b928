//! The sparse index of an object: encoding, decoding, and the part that holds a range.

use super::{CHECK_BYTES, VERSION};
use crate::limits::SAFE_INTEGER_MAX;
use crate::plan::{ColdPart, CorruptionError};
use crate::varint::{push_varint, take_varint};

/// An entry is two varints.
const ENTRY_BYTES_MIN: u64 = 2;

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
    pub(super) framed: bool,
    pub(super) head_bytes: u64,
    pub(super) body_bytes: u64,
    pub(super) units: u64,
    pub(super) block: u64,
    /// In order. The first is the beginning of the segment.
    pub(super) entries: Vec<Entry>,
    pub(super) checksums: Vec<u32>,
}

impl Index {
    pub(super) fn encode(&self) -> Vec<u8> {
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

    /// Returns at least the framed bytes of the first `units` units: those before the first entry
    /// at or after them.
    pub(crate) fn bytes_of(&self, units: u64) -> u64 {
        let at = self.entries.partition_point(|entry| entry.position < units);
        let entry = self.entries.get(at);
        entry.map_or(self.body_bytes, |entry| entry.bytes_before)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{self, Part, Plan, Shape};
    use crate::wire::Format;

    fn rendered(part: ColdPart, object: &[u8]) -> String {
        let plan = Plan {
            head: None,
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
