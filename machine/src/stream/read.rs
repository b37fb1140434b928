//! Reading (protocol 5.6, 8): a plan of the rows that make up a page.

use super::{Life, Reply, Stop, Stream};
use crate::plan::{Plan, Shape, Span};
use crate::rows::{RowKey, RowMark, Rows, Unreadable};
use crate::wire::answer::Body;
use crate::wire::request::{From, Read};
use crate::wire::{CacheMode, Format, cache, entity_tag, header};
use crate::{Answer, Class, Limits, Millis, Offset};

/// What a page holds.
struct Page {
    end: Offset,
    plan: Plan,
}

impl Stream {
    pub(super) fn read(&mut self, now: Millis, read: Read, rows: &impl Rows) -> Result<Reply, Stop> {
        let (life, limits) = self.life_in_use(now)?;
        let tail = life.tail();
        let start = match read.from {
            From::Start => Offset::START,
            From::Now => tail,
            // What lies beyond the tail was never given by this stream; its reader waits for what comes.
            From::Offset(offset) => offset.min(tail),
        };
        if start == tail {
            return Ok(life.read_at_tail(now, &read, limits));
        }
        let shape = if read.live == Some(Class::Sse) {
            Shape::Event
        } else {
            Shape::Body
        };
        let page = life.page(start, shape, rows, limits)?;
        let answer = match read.live {
            Some(Class::Sse) => life.event_page(page.end, now, &read, limits),
            Some(Class::LongPoll) => {
                let answer = life.page_answer(start, page.end, cache::long_poll(read.cache_mode, limits));
                if life.is_closed() && page.end == tail {
                    answer
                } else {
                    answer.cursor(life.cursor(now, &read, limits))
                }
            }
            None => {
                let cache = cache::catch_up(read.cache_mode, page.end == tail, limits);
                let answer = life.page_answer(start, page.end, cache);
                if life.is_known(&answer, &read) {
                    return Ok(Reply::Answer(not_modified(answer)));
                }
                answer
            }
        };
        Ok(Reply::Answer(answer.body(Body::Plan(page.plan))))
    }
}

impl Life {
    fn read_at_tail(&self, now: Millis, read: &Read, limits: &Limits) -> Reply {
        let tail = self.tail();
        Reply::Answer(match read.live {
            Some(class) if !self.is_closed() => return Reply::Attach(self.attach(class, now, read, limits)),
            Some(Class::LongPoll) => Answer::uncached(204).at(tail).up_to_date(true).closed(true),
            Some(Class::Sse) => {
                let answer = self.event_page(tail, now, read, limits);
                // Said in the head already, so that nobody need wait for the event (protocol 8).
                answer.at(tail).up_to_date(true).closed(true)
            }
            None => {
                let answer = if read.from == From::Now {
                    // Names no content, so that there is nothing to be tagged (protocol 8).
                    let answer =
                        Answer::uncached(200).with(header::CONTENT_TYPE, self.head.content_type.clone());
                    answer.at(tail).up_to_date(true).closed(self.is_closed())
                } else {
                    self.page_answer(tail, tail, cache::catch_up(CacheMode::Private, true, limits))
                };
                if self.is_known(&answer, read) {
                    return Reply::Answer(not_modified(answer));
                }
                match self.format {
                    Format::Json => answer.body(Body::Bytes(b"[]".to_vec())),
                    Format::Text | Format::Binary => answer,
                }
            }
        })
    }

    /// The head of a page (protocol 5.6).
    fn page_answer(
        &self,
        start: Offset,
        end: Offset,
        cache_control: std::borrow::Cow<'static, str>,
    ) -> Answer {
        let up_to_date = end == self.tail();
        let closed = up_to_date && self.is_closed();
        Answer::new(200, cache_control)
            .with(header::CONTENT_TYPE, self.head.content_type.clone())
            .with(
                header::ETAG,
                entity_tag::entity_tag(self.head.incarnation, start, end, closed),
            )
            .at(end)
            .up_to_date(up_to_date)
            .closed(closed)
    }

    /// Whether the client has the content of this answer already.
    fn is_known(&self, answer: &Answer, read: &Read) -> bool {
        let tags = answer.header(header::ETAG).zip(read.if_none_match.as_deref());
        tags.is_some_and(|(tag, if_none_match)| entity_tag::is_named_by(tag, if_none_match))
    }

    /// The page that begins at `start`, which is before the tail.
    fn page(
        &self,
        start: Offset,
        shape: Shape,
        rows: &impl Rows,
        limits: &Limits,
    ) -> Result<Page, Unreadable> {
        let first = self.row(RowKey::at(start.position), rows)?;
        let skip = start.position - first.key.position();
        // Bytes can be cut anywhere; messages cannot, and neither should the text of one append where SSE shows it.
        let cut_anywhere = self.format != Format::Json && shape == Shape::Body;
        let (last, end) = if cut_anywhere {
            let end = start
                .position
                .saturating_add(limits.chunk_bytes_max.max(1))
                .min(self.tail.position);
            (self.row(RowKey::at(end - 1), rows)?, end)
        } else {
            let last = self.last_within(&first, limits.chunk_bytes_max, rows)?;
            (last, last.end())
        };
        let plan = Plan {
            spans: self.spans(first, last, rows, limits)?,
            skip,
            take: end - start.position,
            format: self.format,
            shape,
        };
        Ok(Page {
            end: Offset::new(self.head.segment, end),
            plan,
        })
    }

    /// The last row that ends a message and lies, with all from `first` on, within `bytes_max`; at least the one that ends
    /// the first message.
    fn last_within(&self, first: &RowMark, bytes_max: u64, rows: &impl Rows) -> Result<RowMark, Unreadable> {
        let last = self.last_fitting(first, bytes_max, rows)?;
        if last.units > 0 {
            return Ok(last);
        }
        // The boundary falls into a message of several rows.
        let position = last.key.position();
        let before = if position > first.key.position() {
            position - 1
        } else {
            position
        };
        self.row(RowKey::last_at(before), rows)
    }

    /// The last row that lies, with all from `first` on, within `bytes_max`; at least `first` itself. Keys and bytes rise
    /// together, so that it is found by halving.
    fn last_fitting(&self, first: &RowMark, bytes_max: u64, rows: &impl Rows) -> Result<RowMark, Unreadable> {
        let fits = |row: &RowMark| row.bytes_through() - first.bytes_before <= bytes_max;
        let tail = self.row(RowKey::LAST, rows)?;
        if fits(&tail) {
            return Ok(tail);
        }
        // `low` fits, the row at `high` does not, and there is no row behind `low` up to `floor`.
        let (mut low, mut floor, mut high) = (*first, first.key.stored(), tail.key.stored());
        while high - floor > 1 {
            let middle = floor + (high - floor) / 2;
            let row = self.row(RowKey::from_stored(middle), rows)?;
            if row.key > low.key && !fits(&row) {
                high = row.key.stored();
            } else {
                low = row;
                floor = middle;
            }
        }
        Ok(low)
    }

    /// The rows from `first` to `last` in groups that can be fetched as one value each.
    fn spans(
        &self,
        first: RowMark,
        last: RowMark,
        rows: &impl Rows,
        limits: &Limits,
    ) -> Result<Vec<Span>, Unreadable> {
        let table = self.head.hot;
        let mut spans = Vec::new();
        let mut from = first;
        loop {
            let fits = |row: &RowMark| row.bytes_through() - from.bytes_before <= limits.row_bytes_max;
            let to = if fits(&last) {
                last
            } else {
                self.last_fitting(&from, limits.row_bytes_max, rows)?
            };
            spans.push(Span {
                table,
                from: from.key,
                to: to.key,
            });
            if to.key >= last.key {
                return Ok(spans);
            }
            from = self.row(to.next_key(), rows)?;
        }
    }

    /// The last row at or before `key`: there is one, for the stream has content before its tail and none is missing.
    fn row(&self, key: RowKey, rows: &impl Rows) -> Result<RowMark, Unreadable> {
        let row = rows.at_or_before(self.head.hot, key)?;
        row.ok_or_else(|| Unreadable(format!("no row at or before {}", key.stored())))
    }
}

/// The client has it (protocol 10.1).
fn not_modified(answer: Answer) -> Answer {
    let mut answer = answer.without_body();
    answer.status = 304;
    answer
}
