//! Turns the rows and parts of a plan into the body.

use std::collections::VecDeque;

use super::framing::{Chunk, CorruptionError, FrameDecoder, at_most};
use super::{ColdPart, Fetch, Lead, Part, Plan, Rest, Shape, Span, data_event};
use crate::wire::{Format, text};

impl Plan {
    /// Returns whether any part is in the cold tier.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Cold(_)))
    }

    /// Returns whether the rows of the plan are the whole body. Otherwise parts come from the cold
    /// tier, or further pages follow.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.is_cold() && self.rest.is_none()
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
            head: self
                .head
                .as_ref()
                .map(|head| head.0.clone())
                .unwrap_or_default(),
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
    /// What comes first, until it is written.
    head: Vec<u8>,
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
        out.append(&mut self.head);
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
