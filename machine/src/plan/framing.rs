//! The frames of stored records.
//!
//! A row holds frames: a length (32 bits, little-endian) and that many bytes. In a JSON stream a
//! frame is one message; in other streams it is one append. A frame that does not fit into one row
//! continues in the next rows. (Rows of an older version hold several frames for a large append.)

use core::fmt;

const LENGTH_BYTES: usize = 4;

/// Bytes that framing adds to each record.
pub(crate) const FRAME_OVERHEAD: u64 = LENGTH_BYTES as u64;

/// Appends one frame.
pub(crate) fn push_frame(frames: &mut Vec<u8>, payload: &[u8]) {
    push_length(frames, payload.len());
    frames.extend_from_slice(payload);
}

/// Appends the length that starts a frame.
pub(crate) fn push_length(frames: &mut Vec<u8>, length: usize) {
    // A record is at most one request's body. The limit for that is far below 4 GiB.
    let length = u32::try_from(length).expect("a frame is shorter than 4 GiB");
    frames.extend_from_slice(&length.to_le_bytes());
}

/// Stored bytes differ from those that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptionError {
    what: &'static str,
    /// The cold segment that the bytes belong to; `None` for rows.
    segment: Option<u64>,
}

impl CorruptionError {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self {
            what,
            segment: None,
        }
    }

    pub(super) const fn in_segment(self, segment: u64) -> Self {
        Self {
            segment: Some(segment),
            ..self
        }
    }
}

impl fmt::Display for CorruptionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.segment {
            Some(segment) => write!(formatter, "segment {segment} is damaged: {}", self.what),
            None => write!(formatter, "the stored rows are damaged: {}", self.what),
        }
    }
}

impl core::error::Error for CorruptionError {}

/// Returns where the payload of the frame at `at` begins and ends; `None` at the end of `frames`.
pub(super) fn frame_at(
    frames: &[u8],
    at: usize,
) -> Result<Option<(usize, usize)>, CorruptionError> {
    if at == frames.len() {
        return Ok(None);
    }
    let begin = at + LENGTH_BYTES;
    let length = frames
        .get(at..begin)
        .and_then(|bytes| <[u8; LENGTH_BYTES]>::try_from(bytes).ok());
    let length =
        u32::from_le_bytes(length.ok_or(CorruptionError::new("a frame length is truncated"))?);
    let end = usize::try_from(length)
        .ok()
        .and_then(|length| begin.checked_add(length));
    match end {
        Some(end) if end <= frames.len() => Ok(Some((begin, end))),
        _ => Err(CorruptionError::new("a frame is truncated")),
    }
}

/// Returns the smaller of a limit and a length in memory.
pub(crate) fn at_most(limit: u64, length: usize) -> usize {
    usize::try_from(limit).map_or(length, |limit| limit.min(length))
}

/// Iterates over the payloads of `frames`.
pub(crate) fn payloads(frames: &[u8]) -> impl Iterator<Item = Result<&[u8], CorruptionError>> {
    let mut at = 0;
    core::iter::from_fn(move || match frame_at(frames, at) {
        Ok(None) => None,
        Ok(Some((begin, end))) => {
            at = end;
            Some(Ok(&frames[begin..end]))
        }
        Err(damaged) => {
            at = frames.len();
            Some(Err(damaged))
        }
    })
}

pub(super) enum Chunk<'a> {
    /// A message begins.
    Begin,
    /// Bytes before the answer.
    Before(&'a [u8]),
    Bytes(&'a [u8]),
}

/// Selects the units of an answer from a sequence of frames.
#[derive(Debug)]
pub(super) struct FrameDecoder {
    framed: bool,
    skip: u64,
    count: u64,
    /// The bytes of the next frame's length that have arrived.
    length: [u8; LENGTH_BYTES],
    length_has: usize,
    /// Bytes of the current frame that have not arrived.
    left: u64,
}

impl FrameDecoder {
    pub(super) const fn new(framed: bool, skip: u64, count: u64) -> Self {
        Self {
            framed,
            skip,
            count,
            length: [0; LENGTH_BYTES],
            length_has: 0,
            left: if framed { 0 } else { u64::MAX },
        }
    }

    /// Decodes `bytes` and emits the selected units. Ignores everything after the last one.
    pub(super) fn push(&mut self, mut bytes: &[u8], json: bool, mut emit: impl FnMut(Chunk<'_>)) {
        while self.count > 0 || self.skip > 0 {
            if self.framed && self.length_has < LENGTH_BYTES {
                let Some((byte, rest)) = bytes.split_first() else {
                    return;
                };
                self.length[self.length_has] = *byte;
                self.length_has += 1;
                bytes = rest;
                if self.length_has < LENGTH_BYTES {
                    continue;
                }
                self.left = u64::from(u32::from_le_bytes(self.length));
                if json && self.skip == 0 {
                    emit(Chunk::Begin);
                }
                if !json && self.skip < self.left && self.count > 0 {
                    // The answer starts at the beginning of this append.
                    self.count = self.count.saturating_add(self.skip);
                    self.skip = 0;
                }
            }
            let (mut now, later) = bytes.split_at(at_most(self.left, bytes.len()));
            bytes = later;
            if self.framed {
                self.left -= now.len() as u64;
            }
            if json {
                if self.skip == 0 {
                    emit(Chunk::Bytes(now));
                }
            } else {
                let skipped = at_most(self.skip, now.len());
                self.skip -= skipped as u64;
                emit(Chunk::Before(&now[..skipped]));
                now = &now[skipped..];
                let taken = at_most(self.count, now.len());
                self.count -= taken as u64;
                emit(Chunk::Bytes(&now[..taken]));
            }
            if self.left > 0 {
                // All bytes are used.
                return;
            }
            self.length_has = 0;
            if json {
                if self.skip > 0 {
                    self.skip -= 1;
                } else {
                    self.count -= 1;
                }
            }
        }
    }

    pub(super) const fn finish(&self) -> Result<(), CorruptionError> {
        if self.count == 0 {
            Ok(())
        } else {
            Err(CorruptionError::new("there are fewer units than planned"))
        }
    }
}
