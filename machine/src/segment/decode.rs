//! Decodes and verifies a whole object.

use super::blocks::Blocks;
use super::index::Index;
use super::{
    CHECK_BYTES, CONTEXT_LENGTH_AT, Context, FIXED_HEAD_BYTES, FRAMED_AT, INCARNATION_AT,
    LENGTH_BYTES, MAGIC, MAGIC_END, SEGMENT_AT, TRAILER_BYTES, VERSION,
};
use crate::plan::{self, CorruptionError};
use crate::rows::Incarnation;
use crate::wire::{Format, content_type};

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
