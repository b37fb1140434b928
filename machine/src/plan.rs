//! Framing of stored records, and the plan of a read.
//!
//! A row holds frames: a length (32 bits, little-endian) and that many bytes. In a JSON stream a frame is one message;
//! otherwise it is a run of bytes without meaning. The machine never touches the payload of old records: a read is
//! answered with a [`Plan`], the shell fetches the rows that it names, and [`Plan::render`] makes the body of them.

use crate::rows::{HotTable, RowKey};
use crate::wire::{Format, sse};

const LENGTH_BYTES: usize = 4;

/// Bytes that framing adds to each record.
pub const FRAME_OVERHEAD: u64 = LENGTH_BYTES as u64;

/// Appends one frame.
pub(crate) fn push_frame(frames: &mut Vec<u8>, payload: &[u8]) {
    // A record is at most one request's body, which is bounded far below 4 GiB.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    frames.extend_from_slice(&length.to_le_bytes());
    frames.extend_from_slice(payload);
}

/// Stored bytes that are no sequence of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored rows are damaged: {0}")]
pub struct Damaged(&'static str);

/// The bounds of the first frame at or after `at`: where its payload begins and ends.
fn frame_at(frames: &[u8], at: usize) -> Result<Option<(usize, usize)>, Damaged> {
    if at == frames.len() {
        return Ok(None);
    }
    let begin = at + LENGTH_BYTES;
    let length = frames
        .get(at..begin)
        .and_then(|bytes| <[u8; LENGTH_BYTES]>::try_from(bytes).ok());
    let length = u32::from_le_bytes(length.ok_or(Damaged("a frame's length is cut"))?);
    let end = usize::try_from(length)
        .ok()
        .and_then(|length| begin.checked_add(length));
    match end {
        Some(end) if end <= frames.len() => Ok(Some((begin, end))),
        _ => Err(Damaged("a frame is cut")),
    }
}

/// The payloads of `frames`.
fn payloads(frames: &[u8]) -> impl Iterator<Item = Result<&[u8], Damaged>> {
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

/// What the body is made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The body of a catch-up or long-poll answer: a JSON array, or the bytes themselves.
    Body,
    /// One SSE `data` event (protocol 5.8).
    Event,
}

/// Consecutive rows of one hot table, small enough to be fetched as one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub table: HotTable,
    pub from: RowKey,
    pub to: RowKey,
}

/// Which rows make up an answer, and which units of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In order; their frames are to be joined before rendering.
    pub spans: Vec<Span>,
    /// Units (messages or bytes) of the first row that come before the answer.
    pub skip: u64,
    /// Units that belong to the answer.
    pub take: u64,
    pub format: Format,
    pub shape: Shape,
}

impl Plan {
    /// The answer's body, made from the joined frames of all spans.
    ///
    /// # Errors
    /// When the bytes are no frames, or fewer units than planned.
    pub fn render(&self, frames: Vec<u8>) -> Result<Vec<u8>, Damaged> {
        let frames = self.cut(frames)?;
        match self.shape {
            Shape::Body => body(self.format, frames),
            Shape::Event => event(self.format, &frames),
        }
    }

    /// Drops the frames, and parts of frames, that do not belong to the answer.
    fn cut(&self, mut frames: Vec<u8>) -> Result<Vec<u8>, Damaged> {
        if self.format == Format::Json {
            let mut at = 0;
            for _ in 0..self.skip {
                at = frame_at(&frames, at)?
                    .ok_or(Damaged("fewer messages than planned"))?
                    .1;
            }
            let begin = at;
            for _ in 0..self.take {
                at = frame_at(&frames, at)?
                    .ok_or(Damaged("fewer messages than planned"))?
                    .1;
            }
            frames.truncate(at);
            if begin > 0 {
                frames.drain(..begin);
            }
            return Ok(frames);
        }
        let short = Damaged("fewer bytes than planned");
        let bytes = body(self.format, frames)?;
        let begin = usize::try_from(self.skip).map_err(|_| short)?;
        let take = usize::try_from(self.take).map_err(|_| short)?;
        let mut bytes = bytes;
        if bytes.len() < begin.saturating_add(take) {
            return Err(short);
        }
        bytes.truncate(begin + take);
        bytes.drain(..begin);
        let mut cut = Vec::with_capacity(bytes.len() + LENGTH_BYTES);
        push_frame(&mut cut, &bytes);
        Ok(cut)
    }
}

/// The body of a catch-up or long-poll answer. Works in place: what is written never overtakes what is read, for a comma
/// and two brackets take less room than the lengths that they replace.
pub(crate) fn body(format: Format, mut frames: Vec<u8>) -> Result<Vec<u8>, Damaged> {
    let json = format == Format::Json;
    if json && frames.is_empty() {
        return Ok(b"[]".to_vec());
    }
    let (mut read, mut write) = (0, 0);
    while let Some((begin, end)) = frame_at(&frames, read)? {
        if json {
            frames[write] = if write == 0 { b'[' } else { b',' };
            write += 1;
        }
        frames.copy_within(begin..end, write);
        write += end - begin;
        read = end;
    }
    if json {
        frames[write] = b']';
        write += 1;
    }
    frames.truncate(write);
    Ok(frames)
}

/// One SSE `data` event; nothing at all for no records.
pub(crate) fn event(format: Format, frames: &[u8]) -> Result<Vec<u8>, Damaged> {
    if frames.is_empty() {
        return Ok(Vec::new());
    }
    let mut payload = Vec::with_capacity(frames.len());
    for (index, record) in payloads(frames).enumerate() {
        if format == Format::Json {
            payload.push(if index == 0 { b'[' } else { b',' });
        }
        payload.extend_from_slice(record?);
    }
    if format == Format::Json {
        payload.push(b']');
    }
    Ok(match format {
        Format::Json | Format::Text => sse::text_event("data", &payload),
        Format::Binary => sse::binary_event("data", &payload),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(records: &[&[u8]]) -> Vec<u8> {
        let mut frames = Vec::new();
        for record in records {
            push_frame(&mut frames, record);
        }
        frames
    }

    fn plan(format: Format, shape: Shape, skip: u64, take: u64) -> Plan {
        Plan {
            spans: Vec::new(),
            skip,
            take,
            format,
            shape,
        }
    }

    #[test]
    fn json_is_an_array_of_the_messages_as_they_are() {
        let frames = framed(&[b"1.0", b"{\"b\":1,\"a\":2}", b"12345678901234567890"]);
        let whole = plan(Format::Json, Shape::Body, 0, 3).render(frames.clone());
        assert_eq!(
            whole.as_deref(),
            Ok(&b"[1.0,{\"b\":1,\"a\":2},12345678901234567890]"[..])
        );
        let part = plan(Format::Json, Shape::Body, 1, 1).render(frames);
        assert_eq!(part.as_deref(), Ok(&b"[{\"b\":1,\"a\":2}]"[..]));
    }

    #[test]
    fn bytes_are_cut_anywhere() {
        let frames = framed(&[b"hello ", b"world"]);
        assert_eq!(
            plan(Format::Binary, Shape::Body, 4, 4).render(frames).as_deref(),
            Ok(&b"o wo"[..])
        );
    }

    #[test]
    fn damaged_rows_are_told_and_never_panic() {
        let whole = framed(&[b"abc", b"defg"]);
        for length in 0..whole.len() {
            for shape in [Shape::Body, Shape::Event] {
                for format in [Format::Json, Format::Text, Format::Binary] {
                    let units = if format == Format::Json { 2 } else { 7 };
                    let cut = plan(format, shape, 0, units).render(whole[..length].to_vec());
                    assert!(cut.is_err(), "{length} {shape:?} {format:?}");
                }
            }
        }
        assert!(
            plan(Format::Binary, Shape::Body, 0, 1)
                .render(vec![0xff; 9])
                .is_err()
        );
    }

    #[test]
    fn events_carry_text_as_lines_and_bytes_as_base64() {
        let text = plan(Format::Text, Shape::Event, 0, 9).render(framed(&[b"a\r\n b\rc", b"\nd"]));
        assert_eq!(
            text.as_deref(),
            Ok(&b"event: data\ndata:a\ndata:  b\ndata:c\ndata:d\n\n"[..])
        );
        let bytes = plan(Format::Binary, Shape::Event, 0, 3).render(framed(&[&[1, 2], &[3]]));
        assert_eq!(bytes.as_deref(), Ok(&b"event: data\ndata:AQID\n\n"[..]));
    }
}
