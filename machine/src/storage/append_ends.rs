//! The column `ends` of a hot row: the appends that the row holds, as bytes.

use super::rows::{AppendEnd, ProducerStamp};
use crate::varint::{push_varint, take_varint};

/// Bits of an encoded append: which texts follow.
const HAS_PRODUCER: u64 = 1;
const HAS_STREAM_SEQ: u64 = 2;

/// Encodes the appends of a row. Each is its units and the bits above as varints; then id, epoch
/// and sequence of its producer; then its `Stream-Seq`. A text is its length as a varint, and its
/// bytes.
#[must_use]
pub fn encoded_ends(ends: &[AppendEnd]) -> Vec<u8> {
    fn push_text(bytes: &mut Vec<u8>, text: &str) {
        push_varint(bytes, text.len() as u64);
        bytes.extend_from_slice(text.as_bytes());
    }
    let mut bytes = Vec::new();
    for end in ends {
        push_varint(&mut bytes, end.units);
        let has = |is_there: bool, bit: u64| if is_there { bit } else { 0 };
        push_varint(
            &mut bytes,
            has(end.producer.is_some(), HAS_PRODUCER)
                | has(end.stream_seq.is_some(), HAS_STREAM_SEQ),
        );
        if let Some(ProducerStamp { id, epoch, seq }) = &end.producer {
            push_text(&mut bytes, id);
            push_varint(&mut bytes, *epoch);
            push_varint(&mut bytes, *seq);
        }
        if let Some(stream_seq) = &end.stream_seq {
            push_text(&mut bytes, stream_seq);
        }
    }
    bytes
}

/// Decodes one append; `None` when the bytes are malformed.
pub(super) fn take_end(bytes: &mut &[u8]) -> Option<AppendEnd> {
    fn take_text(bytes: &mut &[u8]) -> Option<String> {
        let length = usize::try_from(take_varint(bytes)?).ok()?;
        let (text, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        String::from_utf8(text.to_vec()).ok()
    }
    let units = take_varint(bytes)?;
    let has = take_varint(bytes)?;
    if has & !(HAS_PRODUCER | HAS_STREAM_SEQ) != 0 {
        return None;
    }
    let producer = if has & HAS_PRODUCER == 0 {
        None
    } else {
        Some(ProducerStamp {
            id: take_text(bytes)?,
            epoch: take_varint(bytes)?,
            seq: take_varint(bytes)?,
        })
    };
    let stream_seq = if has & HAS_STREAM_SEQ == 0 {
        None
    } else {
        Some(take_text(bytes)?)
    };
    Some(AppendEnd {
        units,
        producer,
        stream_seq,
    })
}
