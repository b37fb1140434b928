//! The plan of a read.
//!
//! The machine never reads the payload of old records. It answers a read with a [`Plan`], which
//! names the rows and the parts of cold segments; the shell fetches them, and a [`BodyWriter`]
//! turns them into the body.

mod body_writer;
mod framing;

use crate::Offset;
use crate::rows::{HotTable, Incarnation, RowKey};
use crate::wire::{Format, sse, text};

pub use body_writer::BodyWriter;
pub use framing::CorruptionError;
use framing::frame_at;
pub(crate) use framing::{FRAME_OVERHEAD, at_most, payloads, push_frame, push_length};

/// How the records are rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The body of a catch-up or long-poll answer: a JSON array, or the plain bytes.
    Body,
    /// One SSE `data` event (protocol 5.8).
    Event,
}

/// Consecutive rows of one hot table, small enough to be fetched as one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The table of the rows.
    pub table: HotTable,
    /// The key of the first row.
    pub from: RowKey,
    /// The key of the last row.
    pub to: RowKey,
}

/// Rows of one hot table, and the units (messages or bytes) to take from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotPart {
    /// In order. Their frames are concatenated.
    pub spans: Vec<Span>,
    /// Units from the start of the first row to the start of the read. If this is inside an append,
    /// the answer starts at the beginning of that append.
    pub skip: u64,
    /// Units in the answer, counted from the start of the read.
    pub count: u64,
    /// Rows before the first one, in order. They can hold the start of a character that the answer
    /// completes.
    pub lead: Vec<Lead>,
}

/// A row before those of an answer, and how many of its last bytes of content to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The row.
    pub span: Span,
    /// How many of its last bytes of content to keep.
    pub bytes: u64,
    /// Whether the row holds whole frames, whose lengths are not content. A part of a large append
    /// ends with content.
    pub framed: bool,
}

impl Lead {
    /// Adds the bytes of the row to the bytes before an answer.
    fn keep(self, frames: &[u8], lead: &mut Vec<u8>) -> Result<(), CorruptionError> {
        let last = |bytes: &[u8]| bytes.len() - at_most(self.bytes, bytes.len());
        if !self.framed {
            text::keep_last(lead, &frames[last(frames)..]);
            return Ok(());
        }
        for payload in payloads(frames) {
            let payload = payload?;
            text::keep_last(lead, &payload[last(payload)..]);
        }
        Ok(())
    }
}

/// Blocks of one segment's object, and the units to take from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdPart {
    /// The number of the segment.
    pub segment: u64,
    /// The key of the object.
    pub key: String,
    /// The byte range in the object: whole blocks, each with its checksum.
    pub offset: u64,
    /// Bytes in the range.
    pub length: u64,
    /// Bytes of a block; the last block of an object may be shorter.
    pub block: u64,
    /// A checksum (CRC-32) for each block of the range.
    pub checksums: Vec<u32>,
    /// Bytes of the first block before the first frame.
    pub skip_bytes: u64,
    /// Whether the bytes are frames. Objects of an older version hold plain bytes, and a read of
    /// those starts at the exact byte.
    pub framed: bool,
    /// Units from the start of the first frame to the start of the read.
    pub skip: u64,
    /// Units in the answer, counted from the start of the read.
    pub count: u64,
}

/// Consecutive content from one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// From the rows of a segment.
    Hot(HotPart),
    /// From an object of the cold tier.
    Cold(ColdPart),
}

/// The part of an answer that follows the pages sent so far. The shell requests the next page with
/// [`crate::Input::Continue`] after the client has read the previous one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The incarnation that the answer is about.
    pub incarnation: Incarnation,
    /// Where the pages sent so far end.
    pub from: Offset,
    /// Where the answer ends, as its headers state.
    pub to: Offset,
}

/// Bytes before the content of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanHead(pub(crate) Vec<u8>);

/// The parts that make up a page, and how to render them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What comes before the content, if another object reads the page.
    pub head: Option<Box<PlanHead>>,
    /// In order of their offsets.
    pub parts: Vec<Part>,
    /// The format of the stream.
    pub format: Format,
    /// How the records are rendered.
    pub shape: Shape,
    /// Whether this page continues an answer.
    pub continues: bool,
    /// The rest of the answer after this page; `None` on the last page.
    pub rest: Option<Rest>,
    /// Whether the stream is closed and ends here, so that an incomplete character stays
    /// incomplete.
    pub is_last: bool,
}

/// A byte range of a cold object that an answer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The key of the object.
    pub key: String,
    /// The first byte to fetch.
    pub offset: u64,
    /// Bytes to fetch.
    pub length: u64,
}

/// Returns the body of a catch-up or long-poll answer. Works in place: the write position never
/// passes the read position, because a comma and two brackets are shorter than the lengths that
/// they replace.
pub(crate) fn body(format: Format, mut frames: Vec<u8>) -> Result<Vec<u8>, CorruptionError> {
    let json = format == Format::Json;
    if json && frames.is_empty() {
        return Ok(b"[]".to_vec());
    }
    let (mut read, mut write) = (0, 0);
    while let Some((begin, end)) = frame_at(&frames, read)? {
        assert!(write < begin, "the body overwrites frames not yet read");
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

/// Returns one SSE `data` event; empty if there are no records.
pub(crate) fn event(format: Format, frames: &[u8]) -> Result<Vec<u8>, CorruptionError> {
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
    Ok(data_event(format, &payload))
}

fn data_event(format: Format, payload: &[u8]) -> Vec<u8> {
    match format {
        Format::Json | Format::Text => sse::text_event("data", payload),
        Format::Binary => sse::binary_event("data", payload),
    }
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

    /// Renders rows that hold `frames`.
    fn rendered(
        format: Format,
        shape: Shape,
        skip: u64,
        count: u64,
        frames: &[u8],
    ) -> Result<Vec<u8>, CorruptionError> {
        let span = Span {
            table: HotTable::of(0),
            from: RowKey::at(0),
            to: RowKey::LAST,
        };
        let plan = Plan {
            head: None,
            parts: vec![Part::Hot(HotPart {
                spans: vec![span],
                skip,
                count,
                lead: Vec::new(),
            })],
            format,
            shape,
            continues: false,
            rest: None,
            is_last: true,
        };
        let mut body = Vec::new();
        let fetch = plan
            .begin(|_| Ok::<_, CorruptionError>(frames.to_vec()))?
            .advance(&mut body)?;
        assert_eq!(fetch, None);
        Ok(body)
    }

    #[test]
    fn json_is_an_array_of_the_messages_as_they_are() {
        let frames = framed(&[b"1.0", b"{\"b\":1,\"a\":2}", b"12345678901234567890"]);
        let whole = rendered(Format::Json, Shape::Body, 0, 3, &frames);
        assert_eq!(
            whole.as_deref(),
            Ok(&b"[1.0,{\"b\":1,\"a\":2},12345678901234567890]"[..])
        );
        let part = rendered(Format::Json, Shape::Body, 1, 1, &frames);
        assert_eq!(part.as_deref(), Ok(&b"[{\"b\":1,\"a\":2}]"[..]));
    }

    #[test]
    fn an_append_is_read_from_its_beginning() {
        let frames = framed(&[b"hello ", b"wide ", b"world"]);
        for (skip, count, expected) in [
            (0, 16, "hello wide world"),
            (4, 7, "hello wide "),
            (5, 6, "hello wide "),
            (6, 10, "wide world"),
            (15, 1, "world"),
        ] {
            let rendered = rendered(Format::Binary, Shape::Body, skip, count, &frames);
            assert_eq!(rendered.as_deref(), Ok(expected.as_bytes()), "{skip}");
        }
    }

    #[test]
    fn damaged_rows_are_reported_and_never_panic() {
        let whole = framed(&[b"abc", b"defg"]);
        for length in 0..whole.len() {
            for shape in [Shape::Body, Shape::Event] {
                for format in [Format::Json, Format::Text, Format::Binary] {
                    let units = if format == Format::Json { 2 } else { 7 };
                    let cut = rendered(format, shape, 0, units, &whole[..length]);
                    assert!(cut.is_err(), "{length} {shape:?} {format:?}");
                }
            }
        }
        assert!(rendered(Format::Binary, Shape::Body, 0, 9, &[0xff; 9]).is_err());
    }

    #[test]
    fn lengths_of_frames_are_not_text_before_an_event() {
        let span = Span {
            table: HotTable::of(0),
            from: RowKey::at(0),
            to: RowKey::at(0),
        };
        for (frames, framed, bytes, expected) in [
            (
                framed(&[b"ab\xf0", b"\x9f", b"\x98"]),
                true,
                3,
                &b"\xf0\x9f\x98"[..],
            ),
            (framed(&[b"a", b"b"]), true, 2, b"ab"),
            (b"ab\xf0\x9f\x98".to_vec(), false, 3, b"\xf0\x9f\x98"),
        ] {
            let row = Lead {
                span,
                bytes,
                framed,
            };
            let mut lead = Vec::new();
            row.keep(&frames, &mut lead).expect("the row is whole");
            assert_eq!(lead, expected);
        }
    }

    #[test]
    fn events_carry_text_as_lines_and_bytes_as_base64() {
        let text = rendered(
            Format::Text,
            Shape::Event,
            0,
            9,
            &framed(&[b"a\r\n b\rc", b"\nd"]),
        );
        assert_eq!(
            text.as_deref(),
            Ok(&b"event: data\ndata:a\ndata:  b\ndata:c\ndata:d\n\n"[..])
        );
        let bytes = rendered(
            Format::Binary,
            Shape::Event,
            0,
            3,
            &framed(&[&[1, 2], &[3]]),
        );
        assert_eq!(bytes.as_deref(), Ok(&b"event: data\ndata:AQID\n\n"[..]));
    }
}
