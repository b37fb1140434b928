//! The manifest of a fork: the segments that it inherits, as its source hands them over and as the
//! fork stores them.
//!
//! A manifest is a list of runs. A run is a row of the fork, and is encoded on its own. It begins
//! with varints: version (1), and the number of owners. Each owner follows: its name as the length
//! in bytes and the bytes, and its incarnation in 8 bytes, little-endian. Then come the segments,
//! in order and without gaps. Each is varints: units, framed bytes, the owner's place in the list,
//! the attempt that stored it, and the length of its index; then the index.

use bytes::{Buf, BufMut, Bytes};

use crate::Limits;
use crate::plan::CorruptionError;
use crate::rows::{Incarnation, ManifestRow};
use crate::varint::{push_varint, take_varint};

const VERSION: u64 = 1;
const MALFORMED: CorruptionError = CorruptionError::new("the manifest is malformed");

/// The stream whose segment it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) incarnation: Incarnation,
}

/// A segment in the cold tier that a fork inherits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InheritedSegment {
    /// Messages or bytes. A fork can inherit fewer of its last segment.
    pub(crate) units: u64,
    pub(crate) owner: Owner,
    /// The attempt that stored it.
    pub(crate) attempt: u64,
    /// The encoded index of its object.
    pub(crate) index: Bytes,
}

/// Encodes segments, from the first one of a stream on.
#[derive(Debug)]
pub(crate) struct ManifestWriter {
    /// Bytes of a run, unless it has a single segment.
    run_bytes_max: u64,
    rows: Vec<ManifestRow>,
    run: Run,
    /// The number of the next segment.
    next: u64,
}

#[derive(Debug, Default)]
struct Run {
    first: u64,
    owners: Vec<Owner>,
    segments: Vec<u8>,
}

impl Run {
    fn encode(self) -> ManifestRow {
        let mut body = Vec::with_capacity(self.segments.len());
        push_varint(&mut body, VERSION);
        push_varint(&mut body, self.owners.len() as u64);
        for owner in &self.owners {
            push_varint(&mut body, owner.name.len() as u64);
            body.extend_from_slice(owner.name.as_bytes());
            body.put_u64_le(owner.incarnation.0);
        }
        body.extend_from_slice(&self.segments);
        ManifestRow {
            first: self.first,
            body: body.into(),
        }
    }
}

impl ManifestWriter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            run_bytes_max: limits.manifest_bytes_max,
            rows: Vec::new(),
            run: Run::default(),
            next: 0,
        }
    }

    /// Adds the next segment.
    pub(crate) fn push(&mut self, segment: &InheritedSegment) {
        assert!(segment.units > 0, "an inherited segment has content");
        let bytes = self.run.segments.len() + segment.index.len();
        if bytes as u64 > self.run_bytes_max && self.next > self.run.first {
            self.end_run();
        }
        let owners = &mut self.run.owners;
        let owner = owners.iter().position(|owner| *owner == segment.owner);
        let owner = owner.unwrap_or_else(|| {
            owners.push(segment.owner.clone());
            owners.len() - 1
        });
        let bytes = &mut self.run.segments;
        let numbers = [segment.units, owner as u64, segment.attempt];
        for number in numbers {
            push_varint(bytes, number);
        }
        push_varint(bytes, segment.index.len() as u64);
        bytes.extend_from_slice(&segment.index);
        self.next += 1;
    }

    fn end_run(&mut self) {
        let next = Run {
            first: self.next,
            ..Run::default()
        };
        let run = core::mem::replace(&mut self.run, next);
        self.rows.push(run.encode());
    }

    /// Returns the runs, in order.
    pub(crate) fn finish(mut self) -> Vec<ManifestRow> {
        if self.next > self.run.first {
            self.end_run();
        }
        self.rows
    }
}

/// Returns the segment of this number in the run that has it.
pub(crate) fn find(row: &ManifestRow, number: u64) -> Result<InheritedSegment, CorruptionError> {
    let nth = number.checked_sub(row.first).ok_or(MALFORMED)?;
    let mut found = None;
    let mut index = 0;
    each(row, &mut |segment| {
        if index == nth {
            found = Some(segment);
        }
        index += 1;
        index <= nth
    })?;
    found.ok_or(MALFORMED)
}

/// Hands over the segments of a run, in order, until `take` returns false.
pub(crate) fn each(
    row: &ManifestRow,
    take: &mut dyn FnMut(InheritedSegment) -> bool,
) -> Result<(), CorruptionError> {
    let mut owners = Vec::new();
    let mut bytes = row.body.as_ref();
    let number = |bytes: &mut &[u8]| take_varint(bytes).ok_or(MALFORMED);
    if number(&mut bytes)? != VERSION {
        return Err(MALFORMED);
    }
    for _ in 0..number(&mut bytes)? {
        let length = number(&mut bytes)?;
        let name = taken(&mut bytes, length)?;
        let name = core::str::from_utf8(name).map_err(|_| MALFORMED)?;
        if bytes.len() < size_of::<u64>() {
            return Err(MALFORMED);
        }
        owners.push(Owner {
            name: name.to_owned(),
            incarnation: Incarnation(bytes.get_u64_le()),
        });
    }
    while !bytes.is_empty() {
        let (units, owner, attempt, length) = (
            number(&mut bytes)?,
            number(&mut bytes)?,
            number(&mut bytes)?,
            number(&mut bytes)?,
        );
        let owner = usize::try_from(owner).ok();
        let owner = owner.and_then(|owner| owners.get(owner)).ok_or(MALFORMED)?;
        let segment = InheritedSegment {
            units,
            owner: owner.clone(),
            attempt,
            index: row.body.slice_ref(taken(&mut bytes, length)?),
        };
        if units == 0 {
            return Err(MALFORMED);
        }
        if !take(segment) {
            return Ok(());
        }
    }
    Ok(())
}

fn taken<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], CorruptionError> {
    let length = usize::try_from(length).map_err(|_| MALFORMED)?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or(MALFORMED)?;
    *bytes = rest;
    Ok(taken)
}

/// Encodes runs for their way from the source to the fork: each is the number of its first segment
/// and its length as varints, and its body.
pub(crate) fn to_message(rows: &[ManifestRow], message: &mut Vec<u8>) {
    for row in rows {
        push_varint(message, row.first);
        push_varint(message, row.body.len() as u64);
        message.extend_from_slice(&row.body);
    }
}

/// Decodes the output of [`to_message`], and checks that the runs have this many segments.
pub(crate) fn from_message(
    message: &Bytes,
    segments: u64,
) -> Result<Vec<ManifestRow>, CorruptionError> {
    let (mut rows, mut bytes, mut next) = (Vec::new(), message.as_ref(), 0);
    while !bytes.is_empty() {
        let first = take_varint(&mut bytes).ok_or(MALFORMED)?;
        let length = take_varint(&mut bytes).ok_or(MALFORMED)?;
        let row = ManifestRow {
            first,
            body: message.slice_ref(taken(&mut bytes, length)?),
        };
        if first != next {
            return Err(MALFORMED);
        }
        each(&row, &mut |_| {
            next += 1;
            true
        })?;
        if next == first {
            return Err(MALFORMED);
        }
        rows.push(row);
    }
    if next == segments {
        Ok(rows)
    } else {
        Err(MALFORMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(number: u64, index_bytes: usize) -> InheritedSegment {
        InheritedSegment {
            units: number + 1,
            owner: Owner {
                name: format!("s{}", number / 3),
                incarnation: Incarnation(u64::MAX - number / 3),
            },
            attempt: number % 2,
            index: vec![u8::try_from(number % 251).unwrap(); index_bytes].into(),
        }
    }

    #[test]
    fn every_segment_is_found_in_its_run() {
        for (count, run_bytes, runs) in [(0, 9, 0), (1, 9, 1), (40, 9_000, 1), (9, 17, 9)] {
            let index_bytes = 9;
            let limits = Limits {
                manifest_bytes_max: run_bytes,
                ..Limits::DEFAULT
            };
            let mut writer = ManifestWriter::new(&limits);
            (0..count).for_each(|number| writer.push(&segment(number, index_bytes)));
            let rows = writer.finish();
            assert_eq!(rows.len(), runs);
            let mut message = Vec::new();
            to_message(&rows, &mut message);
            let message = Bytes::from(message);
            assert_eq!(from_message(&message, count), Ok(rows.clone()));
            assert_eq!(from_message(&message, count + 1), Err(MALFORMED));
            for number in 0..count {
                let row = rows.iter().rfind(|row| row.first <= number).unwrap();
                assert_eq!(find(row, number), Ok(segment(number, index_bytes)));
            }
        }
    }

    #[test]
    fn a_run_that_is_cut_or_changed_is_no_panic() {
        let mut writer = ManifestWriter::new(&Limits::DEFAULT);
        (0..4).for_each(|number| writer.push(&segment(number, 5)));
        let [row] = writer.finish().try_into().unwrap();
        for end in 0..row.body.len() {
            let cut = ManifestRow {
                first: 0,
                body: row.body.slice(..end),
            };
            assert_eq!(find(&cut, 3), Err(MALFORMED), "{end}");
            let mut changed = row.body.to_vec();
            changed[end] ^= 0x80;
            let changed = ManifestRow {
                first: 0,
                body: changed.into(),
            };
            drop(find(&changed, 3));
        }
    }
}
