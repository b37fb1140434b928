//! Reads (protocol 5.6, 8): plans a page from rows and cold segments.
//!
//! A page ends at an entry of a segment's sparse index: the beginning of the first message or
//! append at or after a multiple of the index step. A read from an offset inside an append starts
//! at the beginning of that append. Both can be computed for hot rows and for cold segments. So a
//! page stays the same, and keeps its entity tag, when its segment moves to the cold tier.
//!
//! In private cache mode the answer to a plain read contains everything up to the current tail,
//! page by page, because clients treat the end of the answer as the end of the stream. In shared
//! mode the answer is one page, which caches can store.

use super::seal::{self, missing};
use super::{Response, Step, StepError, Stream, StreamState};
use crate::plan::{HotPart, Part, Plan, Rest, Shape};
use crate::rows::{HotTable, RowKey};
use crate::segment::Index;
use crate::storage::hot_table::HotTableReader;
use crate::storage::{Storage, StorageError};
use crate::wire::answer::Body;
use crate::wire::entity_tag::{self, Reach};
use crate::wire::request::{Read, StartOffset};
use crate::wire::text::{self, Ending};
use crate::wire::{CacheMode, Format, cache, header};
use crate::{Answer, Class, Limits, Millis, Offset, Refusal};

/// A planned page.
pub(super) struct Page {
    pub(super) end: Offset,
    pub(super) plan: Plan,
}

/// Where the content of a segment is stored.
pub(super) enum Source {
    HotTableReader(HotTable),
    Cold { key: String, index: Index },
}

/// A segment that has content.
pub(super) struct Segment {
    number: u64,
    /// Messages or bytes.
    units: u64,
    /// Framed bytes.
    bytes: u64,
    pub(super) source: Source,
}

impl Stream {
    pub(super) fn read(
        &mut self,
        now: Millis,
        read: Read,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Response, StepError> {
        let (state, limits) = self.state_in_use(now, step)?;
        let tail = state.tail();
        let resumed = match read.last_event_id {
            None => None,
            Some(id) => state.sent_place(id, rows)?,
        };
        if resumed == Some(tail) && state.is_closed() {
            // A browser reconnects when an event stream ends. It stops after a 204 (WHATWG HTML,
            // 9.2.3).
            let answer = Answer::uncached(204).at(tail);
            return Ok(Response::Answer(answer.up_to_date(true).closed(true)));
        }
        let start = match (resumed, read.from) {
            (Some(place), _) => place,
            (None, StartOffset::Start) => state.place(Offset::START, rows)?,
            (None, StartOffset::Now) => tail,
            (None, StartOffset::Offset(offset)) => state.place(offset, rows)?,
        };
        if start == tail {
            let is_cut =
                state.is_closed() && state.format == Format::Text && state.ending != Ending::Whole;
            if is_cut && read.live == Some(Class::Sse) && read.from != StartOffset::Now {
                let answer = state.event_page(tail, now, &read, limits);
                let answer = answer.at(tail).up_to_date(true).closed(true);
                return Ok(Response::Answer(
                    answer.body(Body::Plan(state.unfinished_end(rows)?)),
                ));
            }
            return Ok(state.read_at_tail(now, &read, limits));
        }
        let shape = if read.live == Some(Class::Sse) {
            Shape::Event
        } else {
            Shape::Body
        };
        let mut page = state.page(start, tail, shape, rows, limits)?;
        let answer = match read.live {
            Some(Class::Sse) => state.event_page(page.end, now, &read, limits),
            Some(Class::LongPoll) => {
                let answer =
                    state.page_answer(start, page.end, cache::long_poll(read.cache_mode, limits));
                if state.is_closed() && page.end == tail {
                    answer
                } else {
                    answer.cursor(state.cursor(now, &read, limits))
                }
            }
            None => {
                let end = match read.cache_mode {
                    CacheMode::Private => tail,
                    CacheMode::Shared => page.end,
                };
                let cache = cache::catch_up(read.cache_mode, end == tail, limits);
                let answer = state.page_answer(start, end, cache);
                if state.is_known(&answer, &read) {
                    return Ok(Response::Answer(not_modified(answer)));
                }
                page.plan.rest = state.rest(page.end, end);
                answer
            }
        };
        Ok(Response::Answer(answer.body(Body::Plan(page.plan))))
    }

    /// Returns the next page of an answer that has already begun.
    pub(super) fn read_on(
        &mut self,
        now: Millis,
        rest: Rest,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Response, StepError> {
        let (state, limits) = self.state()?;
        if state.row.incarnation != rest.incarnation {
            return Err(Refusal::StreamNotFound.into());
        }
        state.touch(now, limits, step);
        let mut page = state.page(rest.from, rest.to, Shape::Body, rows, limits)?;
        page.plan.continues = true;
        page.plan.rest = state.rest(page.end, rest.to);
        Ok(Response::Answer(
            Answer::uncached(200).body(Body::Plan(page.plan)),
        ))
    }
}

impl StreamState {
    fn read_at_tail(&self, now: Millis, read: &Read, limits: &Limits) -> Response {
        let tail = self.tail();
        Response::Answer(match read.live {
            Some(class) if !self.is_closed() => {
                return Response::Attach(self.attach(class, now, read, limits));
            }
            Some(Class::LongPoll) => Answer::uncached(204).at(tail).up_to_date(true).closed(true),
            Some(Class::Sse) => {
                let answer = self.event_page(tail, now, read, limits);
                // The head already has these headers, so that a client need not wait for the event
                // (protocol 8).
                answer.at(tail).up_to_date(true).closed(true)
            }
            None => {
                let answer = if read.from == StartOffset::Now {
                    // The answer has no content, so it has no entity tag (protocol 8).
                    let answer = Answer::uncached(200)
                        .with(header::CONTENT_TYPE, self.row.content_type.clone());
                    answer.at(tail).up_to_date(true).closed(self.is_closed())
                } else {
                    self.page_answer(
                        tail,
                        tail,
                        cache::catch_up(CacheMode::Private, true, limits),
                    )
                };
                if self.is_known(&answer, read) {
                    return Response::Answer(not_modified(answer));
                }
                match self.format {
                    Format::Json => answer.body(Body::Bytes(b"[]".to_vec())),
                    Format::Text | Format::Binary => answer,
                }
            }
        })
    }

    /// Returns the head of a page (protocol 5.6).
    fn page_answer(
        &self,
        start: Offset,
        end: Offset,
        cache_control: std::borrow::Cow<'static, str>,
    ) -> Answer {
        assert!(
            start <= end && end <= self.tail(),
            "an answer ends between its beginning and the tail"
        );
        let up_to_date = end == self.tail();
        let closed = up_to_date && self.is_closed();
        let reach = if up_to_date {
            Reach::tail(closed)
        } else {
            Reach::Page
        };
        Answer::new(200, cache_control)
            .with(header::CONTENT_TYPE, self.row.content_type.clone())
            .with(
                header::ETAG,
                entity_tag::entity_tag(self.row.incarnation, start, end, reach),
            )
            .at(end)
            .up_to_date(up_to_date)
            .closed(closed)
    }

    /// Returns whether the client already has the content of this answer.
    fn is_known(&self, answer: &Answer, read: &Read) -> bool {
        let tags = answer
            .header(header::ETAG)
            .zip(read.if_none_match.as_deref());
        tags.is_some_and(|(tag, if_none_match)| entity_tag::is_named_by(tag, if_none_match))
    }

    /// Returns the canonical offset of a place. The end of a segment and the beginning of the next
    /// one are the same place; the server only sends the former. An offset beyond the tail did not
    /// come from this stream, so its reader waits at the tail.
    fn place(&self, offset: Offset, rows: &dyn Storage) -> Result<Offset, StorageError> {
        let open = self.row.segment;
        let place = if offset.segment > open {
            self.tail()
        } else if offset.position == 0 {
            match offset.segment.checked_sub(1) {
                None => Offset::START,
                Some(before) => Offset::new(before, self.units(before, rows)?),
            }
        } else if offset.segment == open {
            offset.min(self.tail())
        } else {
            let units = self.units(offset.segment, rows)?;
            Offset::new(offset.segment, offset.position.min(units))
        };
        assert!(place <= self.tail(), "a read begins at or before the tail");
        assert!(
            place.position > 0 || place == Offset::START,
            "only the beginning of the stream has position 0"
        );
        Ok(place)
    }

    /// Returns the canonical offset if this stream can have sent `offset`; accepts both offsets of
    /// the boundary between two segments.
    pub(super) fn sent_place(
        &self,
        offset: Offset,
        rows: &dyn Storage,
    ) -> Result<Option<Offset>, StorageError> {
        let place = self.place(offset, rows)?;
        let is_start = offset.position == 0 && offset.segment <= self.row.segment;
        Ok((place == offset || is_start).then_some(place))
    }

    /// Returns the number of messages or bytes of a sealed segment.
    pub(super) fn units(&self, sealed: u64, rows: &dyn Storage) -> Result<u64, StorageError> {
        if sealed + 1 == self.row.segment {
            return Ok(self.sealed_units);
        }
        if sealed < self.inherited_segments() {
            return Ok(self.inherited(sealed, rows)?.units);
        }
        let segment = rows.segment(sealed)?.ok_or_else(|| missing(sealed))?;
        Ok(segment.units)
    }

    pub(super) fn segment(&self, number: u64, rows: &dyn Storage) -> Result<Segment, StorageError> {
        if number < self.inherited_segments() {
            let inherited = self.inherited(number, rows)?;
            let (owner, units) = (inherited.owner, inherited.units);
            let index = decoded(number, &inherited.index)?;
            if index.units() < units {
                return Err(another_index(number));
            }
            let key = seal::key(&owner.name, owner.incarnation, number, inherited.attempt);
            return Ok(Segment {
                number,
                units,
                bytes: index.bytes_of(units),
                source: Source::Cold { key, index },
            });
        }
        if number == self.row.segment {
            return Ok(Segment {
                number,
                units: self.tail.position,
                bytes: self.tail.bytes,
                source: Source::HotTableReader(HotTable::of(number)),
            });
        }
        let sealed = rows.segment(number)?.ok_or_else(|| missing(number))?;
        assert!(
            sealed.units > 0 && sealed.bytes > 0,
            "a sealed segment has content"
        );
        let source = match sealed.stored {
            None => Source::HotTableReader(HotTable::of(number)),
            Some(stored) => {
                let index = decoded(number, &stored.index)?;
                if index.units() != sealed.units {
                    return Err(another_index(number));
                }
                let key = seal::key(&self.row.name, self.row.incarnation, number, stored.attempt);
                Source::Cold { key, index }
            }
        };
        Ok(Segment {
            number,
            units: sealed.units,
            bytes: sealed.bytes,
            source,
        })
    }

    /// Returns the rest of an answer that ends at `to`, after a page that ends at `from`.
    fn rest(&self, from: Offset, to: Offset) -> Option<Rest> {
        (from < to).then_some(Rest {
            incarnation: self.row.incarnation,
            from,
            to,
        })
    }

    /// Plans the page that begins at `start`. `to` must be after `start`, and is the tail of this
    /// turn or of an earlier one.
    pub(super) fn page(
        &self,
        start: Offset,
        to: Offset,
        shape: Shape,
        rows: &dyn Storage,
        limits: &Limits,
    ) -> Result<Page, StorageError> {
        assert!(
            start < to && to <= self.tail(),
            "a page ends at or before the tail"
        );
        let mut budget = limits.chunk_bytes_max;
        let mut parts = Vec::new();
        let mut page_end = start;
        while page_end < to && budget > 0 && (parts.len() as u64) < limits.page_parts_max {
            let mut segment = self.segment(page_end.segment, rows)?;
            let mut from = page_end.position;
            if from == segment.units {
                segment = self.segment(page_end.segment + 1, rows)?;
                from = 0;
            }
            let cut = segment.cut(from, budget, parts.is_empty(), rows, limits)?;
            let Some((end, used)) = cut else { break };
            assert!(
                from < end && end <= segment.units,
                "a part of a page ends inside its segment"
            );
            // The segment may have grown since `to` was the tail.
            let end = if segment.number == to.segment {
                end.min(to.position)
            } else {
                end
            };
            if parts.is_empty() && shape == Shape::Event && self.format == Format::Text {
                parts = self.lead(&segment, from, rows)?;
                parts.push(segment.part(text::LEAD_BYTES, from, end, rows, limits)?);
            } else {
                parts.push(segment.part(0, from, end, rows, limits)?);
            }
            budget = budget.saturating_sub(used);
            page_end = Offset::new(segment.number, end);
            if end < segment.units {
                break;
            }
        }
        assert!(start < page_end, "a page has content");
        assert!(page_end <= to, "a page ends at or before its answer");
        Ok(Page {
            end: page_end,
            plan: Plan {
                head: None,
                parts,
                format: self.format,
                shape,
                continues: false,
                rest: None,
                is_last: self.is_closed() && page_end == self.tail(),
            },
        })
    }

    /// Plans the end of a closed text stream: the incomplete character after its last whole one.
    fn unfinished_end(&self, rows: &dyn Storage) -> Result<Plan, StorageError> {
        let beyond = Segment {
            number: self.row.segment,
            units: 0,
            bytes: 0,
            source: Source::HotTableReader(HotTable::of(self.row.segment)),
        };
        let mut parts = self.lead(&beyond, 0, rows)?;
        if self.tail.position > 0 {
            let lead = HotTableReader::new(HotTable::of(self.row.segment), rows)
                .lead(RowKey::at(self.tail.position), text::LEAD_BYTES)?;
            parts.push(Part::Hot(HotPart {
                spans: Vec::new(),
                skip: 0,
                count: 0,
                lead,
            }));
        }
        Ok(Plan {
            head: None,
            parts,
            format: self.format,
            shape: Shape::Event,
            continues: false,
            rest: None,
            is_last: true,
        })
    }

    /// Plans the last bytes of earlier segments that can belong to the character at `start`, if
    /// `segment` itself has too few bytes before it.
    fn lead(
        &self,
        segment: &Segment,
        start: u64,
        rows: &dyn Storage,
    ) -> Result<Vec<Part>, StorageError> {
        let begin = match &segment.source {
            Source::HotTableReader(_) if start == 0 => 0,
            Source::HotTableReader(table) => HotTableReader::new(*table, rows)
                .containing(start)?
                .key
                .position(),
            Source::Cold { index, .. } => index.floor(start).position,
        };
        let mut left = text::LEAD_BYTES.saturating_sub(begin);
        let mut parts = Vec::new();
        let mut number = segment.number;
        while left > 0 && number > 0 {
            number -= 1;
            let before = self.segment(number, rows)?;
            parts.push(match &before.source {
                Source::HotTableReader(table) => Part::Hot(HotPart {
                    spans: Vec::new(),
                    skip: 0,
                    count: 0,
                    lead: HotTableReader::new(*table, rows).lead(RowKey::at(before.units), left)?,
                }),
                Source::Cold { index, key } => Part::Cold(index.part_behind(
                    left,
                    number,
                    key.clone(),
                    before.units,
                    before.units,
                )),
            });
            left = left.saturating_sub(before.units);
        }
        parts.reverse();
        Ok(parts)
    }
}

impl Segment {
    /// Returns where the page ends in this segment and how much of `budget` it uses; `None` when
    /// nothing fits. The first part of a page always has content.
    fn cut(
        &self,
        start: u64,
        budget: u64,
        is_first: bool,
        rows: &dyn Storage,
        limits: &Limits,
    ) -> Result<Option<(u64, u64)>, StorageError> {
        assert!(start < self.units, "a page begins before its segment's end");
        let step = limits.index_block(self.bytes);
        // The largest multiple of the step at or before the row of `start`. The index locates
        // `start` no more precisely.
        let floor = match &self.source {
            Source::HotTableReader(table) => {
                HotTableReader::new(*table, rows)
                    .containing(start)?
                    .bytes_before
            }
            Source::Cold { index, .. } => index.floor(start).bytes_before,
        } / step
            * step;
        let room = floor.saturating_add(budget);
        if self.bytes <= room {
            return Ok(Some((self.units, self.bytes - floor)));
        }
        let within = match &self.source {
            Source::HotTableReader(table) => {
                entry_within(&HotTableReader::new(*table, rows), start, floor, room, step)?
            }
            Source::Cold { index, .. } => {
                let entry = index.within(room);
                (entry.position > start).then_some((entry.position, entry.bytes_before))
            }
        };
        if let Some((end, bytes)) = within {
            return Ok(Some((end, bytes - floor)));
        }
        if !is_first {
            return Ok(None);
        }
        // The first part must have content, even if that exceeds the budget.
        let behind = match &self.source {
            Source::HotTableReader(table) => {
                let row = HotTableReader::new(*table, rows)
                    .first_at_or_after_bytes(RowKey::last_at(start), floor + step)?;
                row.map(|row| row.key.position())
            }
            Source::Cold { index, .. } => index.behind(start).map(|entry| entry.position),
        };
        // A fork can inherit fewer units than the index has.
        let end = behind.map_or(self.units, |end| end.min(self.units));
        Ok(Some((end, budget)))
    }

    /// Returns about how many framed bytes there are from `start` to `end`: more or less by an
    /// entry of the index, or by a row.
    pub(super) fn framed_bytes(
        &self,
        start: u64,
        end: u64,
        rows: &dyn Storage,
    ) -> Result<u64, StorageError> {
        let before = |position: u64| match &self.source {
            _ if position == 0 => Ok(0),
            Source::Cold { index, .. } => Ok(index.bytes_of(position)),
            Source::HotTableReader(table) => {
                let row = HotTableReader::new(*table, rows).row(RowKey::last_at(position - 1))?;
                Ok(row.bytes_through())
            }
        };
        Ok(before(end)?.saturating_sub(before(start)?))
    }

    /// Plans the units from `start` to `end`, and up to `lead` bytes before them.
    fn part(
        &self,
        lead: u64,
        start: u64,
        end: u64,
        rows: &dyn Storage,
        limits: &Limits,
    ) -> Result<Part, StorageError> {
        assert!(
            start < end && end <= self.units,
            "a part lies inside its segment"
        );
        match &self.source {
            Source::Cold { key, index } => Ok(Part::Cold(index.part_behind(
                lead,
                self.number,
                key.clone(),
                start,
                end,
            ))),
            Source::HotTableReader(table) => {
                let hot = HotTableReader::new(*table, rows);
                let first = hot.containing(start)?;
                let last = hot.row(RowKey::last_at(end - 1))?;
                assert!(
                    first.key.position() <= start && end <= last.end(),
                    "the rows of a part have all of its units"
                );
                assert!(
                    last.key.position() < end,
                    "the last row of a part has one of its units"
                );
                Ok(Part::Hot(HotPart {
                    spans: hot.spans(first, last, limits.row_bytes_max)?,
                    skip: start - first.key.position(),
                    count: end - start,
                    lead: hot.lead(first.key, lead)?,
                }))
            }
        }
    }
}

/// Returns the last index entry after `start` with at most `room` framed bytes before it: its
/// position and those bytes. `floor` is the multiple of the step that `start` belongs to. The
/// segment must have a row that ends beyond `room`.
fn entry_within(
    hot: &HotTableReader<'_>,
    start: u64,
    floor: u64,
    room: u64,
    step: u64,
) -> Result<Option<(u64, u64)>, StorageError> {
    if room / step * step <= floor {
        return Ok(None);
    }
    let after = RowKey::last_at(start);
    let entry_at = |bytes_before: u64| {
        let multiple = bytes_before / step * step;
        if multiple > floor {
            hot.first_at_or_after_bytes(after, multiple)
        } else {
            Ok(None)
        }
    };
    let entry = match entry_at(room)? {
        Some(entry) if entry.bytes_before <= room => Some(entry),
        beyond => {
            // The entry is the one that covers the last row before `room`.
            let key = beyond.map_or(RowKey::LAST, |row| {
                RowKey::from_stored(row.key.stored() - 1)
            });
            let message = hot.row(key)?.key.position();
            entry_at(hot.row(RowKey::at(message))?.bytes_before)?
        }
    };
    Ok(entry.map(|entry| (entry.key.position(), entry.bytes_before)))
}

fn decoded(segment: u64, index: &[u8]) -> Result<Index, StorageError> {
    let index = Index::decode(index);
    index.map_err(|damaged| StorageError(format!("the index of segment {segment}: {damaged}")))
}

fn another_index(segment: u64) -> StorageError {
    StorageError(format!(
        "the index of segment {segment} is another segment's"
    ))
}

/// Turns an answer into a 304 (protocol 10.1).
fn not_modified(answer: Answer) -> Answer {
    let mut answer = answer.without_body();
    answer.status = 304;
    answer
}
