//! Frames of stored records, and the plan of a read.
//!
//! A row holds frames: a length (32 bits, little-endian) and that many bytes. In a JSON stream a
//! frame is one message; in other streams it is one append. A frame that does not fit into one row
//! continues in the next rows. (Rows of an older version hold several frames for a large append.)
//! The machine never reads the payload of old records. It answers a read with a [`Plan`], which
//! names the rows and the parts of cold segments; the shell fetches them, and a [`BodyWriter`]
//! turns them into the body.

use core::fmt;
use std::collections::VecDeque;

use crate::Offset;
use crate::rows::{HotTable, Incarnation, RowKey};
use crate::wire::{Format, sse, text};

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

    const fn in_segment(self, segment: u64) -> Self {
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
fn frame_at(frames: &[u8], at: usize) -> Result<Option<(usize, usize)>, CorruptionError> {
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

/// The parts that make up a page, and how to render them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
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

impl Plan {
    /// Returns whether any part is in the cold tier.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Cold(_)))
    }

    /// Fetches the rows of the plan. Call this in the turn that made the plan, because the next
    /// turn may drop the rows. Objects in the cold tier stay for at least
    /// [`crate::Limits::collect_grace_ms`].
    ///
    /// # Errors
    /// Returns the errors of `frames`, which reads the concatenated frames of a span.
    pub fn begin<E>(
        &self,
        mut frames: impl FnMut(Span) -> Result<Vec<u8>, E>,
    ) -> Result<BodyWriter, E> {
        let mut parts = VecDeque::with_capacity(self.parts.len());
        for part in &self.parts {
            parts.push_back(match part {
                Part::Cold(cold) => Pending::Cold(cold.clone()),
                Part::Hot(hot) => {
                    let mut lead = Vec::new();
                    for row in &hot.lead {
                        lead.push((*row, frames(row.span)?));
                    }
                    let mut joined = Vec::new();
                    for span in &hot.spans {
                        let frames = frames(*span)?;
                        if joined.is_empty() {
                            joined = frames;
                        } else {
                            joined.extend_from_slice(&frames);
                        }
                    }
                    Pending::Hot {
                        lead,
                        frames: joined,
                        skip: hot.skip,
                        count: hot.count,
                    }
                }
            });
        }
        Ok(BodyWriter {
            parts,
            fetching: None,
            format: self.format,
            shape: self.shape,
            rest: self.rest,
            started: self.continues,
            is_last: self.is_last,
            lead: Vec::new(),
            payload: Vec::new(),
        })
    }
}

#[derive(Debug)]
enum Pending {
    Hot {
        lead: Vec<(Lead, Vec<u8>)>,
        frames: Vec<u8>,
        skip: u64,
        count: u64,
    },
    Cold(ColdPart),
}

/// Writes one page of an answer's body, chunk by chunk. It holds one block of a cold object at a
/// time, until the block's checksum is verified.
#[derive(Debug)]
pub struct BodyWriter {
    parts: VecDeque<Pending>,
    fetching: Option<BlockReader>,
    format: Format,
    shape: Shape,
    rest: Option<Rest>,
    is_last: bool,
    /// Whether the answer already contains a message.
    started: bool,
    /// The last bytes before the answer. Only text events use them.
    lead: Vec<u8>,
    /// The content of the event so far.
    payload: Vec<u8>,
}

impl BodyWriter {
    /// Writes everything up to the next cold part, and returns the range to fetch for it; `None`
    /// when the page is complete.
    ///
    /// # Errors
    /// Fails when rows are damaged.
    pub fn advance(&mut self, out: &mut Vec<u8>) -> Result<Option<Fetch>, CorruptionError> {
        while let Some(part) = self.parts.pop_front() {
            match part {
                Pending::Hot {
                    lead,
                    frames,
                    skip,
                    count,
                } => {
                    for (row, frames) in lead {
                        row.keep(&frames, &mut self.lead)?;
                    }
                    let mut decoder = FrameDecoder::new(true, skip, count);
                    out.reserve(frames.len());
                    self.cut(&mut decoder, &frames, out);
                    decoder.finish()?;
                }
                Pending::Cold(part) => {
                    let fetch = Fetch {
                        key: part.key.clone(),
                        offset: part.offset,
                        length: part.length,
                    };
                    self.fetching = Some(BlockReader::new(part));
                    return Ok(Some(fetch));
                }
            }
        }
        match (self.shape, self.format) {
            (Shape::Body, _) if self.rest.is_some() => {}
            (Shape::Body, Format::Json) => {
                out.extend_from_slice(if self.started { b"]" } else { b"[]" })
            }
            (Shape::Body, Format::Text | Format::Binary) => {}
            (Shape::Event, format) => {
                let mut payload = core::mem::take(&mut self.payload);
                if format == Format::Text {
                    payload = text::shown(&self.lead, payload, self.is_last);
                }
                if !payload.is_empty() {
                    if format == Format::Json {
                        payload.push(b']');
                    }
                    out.extend_from_slice(&data_event(format, &payload));
                }
            }
        }
        Ok(None)
    }

    /// Returns the rest of the answer after this page.
    #[must_use]
    pub const fn rest(&self) -> Option<Rest> {
        self.rest
    }

    /// Accepts the next bytes, in chunks of any length, of the range that [`Self::advance`]
    /// returned, and writes the blocks that are complete.
    ///
    /// # Errors
    /// Fails when the object is damaged.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CorruptionError> {
        let Some(mut fetching) = self.fetching.take() else {
            return Err(CorruptionError::new(
                "more bytes arrived than were requested",
            ));
        };
        while let Some(block) = fetching.block(&mut bytes)? {
            let skipped = at_most(fetching.skip_bytes, block.len());
            fetching.skip_bytes -= skipped as u64;
            self.cut(&mut fetching.decoder, &block[skipped..], out);
        }
        self.fetching = Some(fetching);
        Ok(())
    }

    /// Finishes the range that [`Self::advance`] returned.
    ///
    /// # Errors
    /// Fails when the object had fewer bytes than the range.
    pub fn fetched(&mut self) -> Result<(), CorruptionError> {
        let Some(fetching) = self.fetching.take() else {
            return Ok(());
        };
        if fetching.left > 0 {
            return Err(fetching.damaged("the object is truncated"));
        }
        let segment = fetching.segment;
        fetching
            .decoder
            .finish()
            .map_err(|damaged| damaged.in_segment(segment))
    }

    /// Returns the error for an object that does not exist.
    #[must_use]
    pub fn missing(&self) -> CorruptionError {
        let damaged = CorruptionError::new("the object is missing");
        match &self.fetching {
            Some(fetching) => damaged.in_segment(fetching.segment),
            None => damaged,
        }
    }

    fn cut(&mut self, decoder: &mut FrameDecoder, bytes: &[u8], out: &mut Vec<u8>) {
        let json = self.format == Format::Json;
        let target = match self.shape {
            Shape::Body => out,
            Shape::Event => &mut self.payload,
        };
        let (started, lead) = (&mut self.started, &mut self.lead);
        decoder.push(bytes, json, |chunk| match chunk {
            Chunk::Begin if json => {
                target.push(if *started { b',' } else { b'[' });
                *started = true;
            }
            Chunk::Begin => {}
            Chunk::Before(bytes) => text::keep_last(lead, bytes),
            Chunk::Bytes(bytes) => target.extend_from_slice(bytes),
        });
    }
}

/// Reads one range of an object and verifies its blocks.
#[derive(Debug)]
struct BlockReader {
    segment: u64,
    block: u64,
    checksums: VecDeque<u32>,
    /// Bytes of the range that have not arrived.
    left: u64,
    /// The part of the current block that has arrived.
    held: Vec<u8>,
    skip_bytes: u64,
    decoder: FrameDecoder,
}

impl BlockReader {
    fn new(part: ColdPart) -> Self {
        assert!(part.block > 0, "a block has at least one byte");
        assert_eq!(
            part.checksums.len() as u64,
            part.length.div_ceil(part.block),
            "each block has one checksum"
        );
        assert!(
            part.skip_bytes <= part.length,
            "the first frame begins inside the range"
        );
        Self {
            segment: part.segment,
            block: part.block,
            checksums: part.checksums.into(),
            left: part.length,
            held: Vec::new(),
            skip_bytes: part.skip_bytes,
            decoder: FrameDecoder::new(part.framed, part.skip, part.count),
        }
    }

    /// Returns the next verified block; `None` when more bytes must arrive first.
    fn block(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, CorruptionError> {
        let whole = self.block.min(self.held.len() as u64 + self.left);
        let room = whole - self.held.len() as u64;
        let (now, later) = bytes.split_at(at_most(room, bytes.len()));
        self.held.extend_from_slice(now);
        self.left -= now.len() as u64;
        *bytes = later;
        if whole == 0 && !later.is_empty() {
            return Err(self.damaged("more bytes arrived than were requested"));
        }
        if whole == 0 || (self.held.len() as u64) < whole {
            return Ok(None);
        }
        if self.checksums.pop_front() != Some(crc32fast::hash(&self.held)) {
            return Err(self.damaged("a checksum is wrong"));
        }
        Ok(Some(core::mem::take(&mut self.held)))
    }

    const fn damaged(&self, what: &'static str) -> CorruptionError {
        CorruptionError::new(what).in_segment(self.segment)
    }
}

enum Chunk<'a> {
    /// A message begins.
    Begin,
    /// Bytes before the answer.
    Before(&'a [u8]),
    Bytes(&'a [u8]),
}

/// Selects the units of an answer from a sequence of frames.
#[derive(Debug)]
struct FrameDecoder {
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
    const fn new(framed: bool, skip: u64, count: u64) -> Self {
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
    fn push(&mut self, mut bytes: &[u8], json: bool, mut emit: impl FnMut(Chunk<'_>)) {
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

    const fn finish(&self) -> Result<(), CorruptionError> {
        if self.count == 0 {
            Ok(())
        } else {
            Err(CorruptionError::new("there are fewer units than planned"))
        }
    }
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
