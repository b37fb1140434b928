//! Appends (protocol 5.2). An append is a row, or several if its content does not fit into one. The
//! small appends of a turn share a row.

use core::ops::Range;

use bytes::Bytes;

use super::producer::{self, Admission};
use super::{Response, Step, StepError, Stream, StreamState, effect_of};
use crate::frames::Frames;
use crate::plan::FRAME_OVERHEAD;
use crate::rows::{AppendEnd, HotRow, HotTable, ProducerStamp, RowKey, Sums, Write, WriterColumns};
use crate::storage::{Storage, StorageError};
use crate::wire::request::{Append, Preconditions};
use crate::wire::text::Ending;
use crate::wire::{Format, content_type, json};
use crate::{Answer, Appended, Broadcast, CallId, Limits, Millis, Refusal, Turn};

/// The payload of a row whose position is not yet known.
struct Draft {
    units: u64,
    frames: Frames,
}

/// The rows of an append.
pub(super) struct Records(Vec<Draft>);

impl Records {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Stream {
    /// Runs appends one after the other. A seal ends the turn, because the storage does not show
    /// what it has changed.
    pub(super) fn append_all(
        &mut self,
        now: Millis,
        appends: &mut dyn Iterator<Item = (CallId, Append)>,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let is_closed = |stream: &Self| stream.state.as_ref().is_some_and(StreamState::is_closed);
        let was_closed = is_closed(self);
        for (id, append) in &mut *appends {
            let answer = self.append(now, append, rows, step);
            let effect = effect_of(id, answer.map(Response::Answer), false)?;
            step.turn.after_commit.push(effect);
            if step.opens_segment {
                break;
            }
        }
        step.turn.deferred = appends.collect();
        assert!(
            !step.turn.after_commit.is_empty(),
            "a turn of appends answers at least one"
        );
        if is_closed(self) && !was_closed {
            self.announce_closure(rows, &mut step.turn)?;
        }
        Ok(())
    }

    pub(super) fn append(
        &mut self,
        now: Millis,
        append: Append,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Answer, StepError> {
        let (state, _) = self.state_in_use(now, step)?;
        if state.is_closed() {
            return state.append_to_closed(&append);
        }
        // The protocol (5.2) fixes the order of these checks: closed, content type, sequence.
        if let Some(content_type) = append
            .content_type
            .as_deref()
            .filter(|_| !append.body.is_empty())
            && !content_type::matches(content_type, &state.row.content_type)
        {
            return Err(Refusal::ContentTypeMismatch {
                expected: state.row.content_type.clone(),
            }
            .into());
        }
        let tail = state.tail();
        if let Some(stamp) = &append.producer
            && let Admission::Duplicate(last) =
                producer::admit(stamp, state.last_state(&stamp.id, rows)?)?
        {
            return Ok(Answer::uncached(204)
                .at(tail)
                .producer(last.epoch, last.seq));
        }
        // Check preconditions after the duplicate check: for a retry they were met when it was
        // first sent.
        state.meets(&append.preconditions)?;
        state.ends_at(append.expected_offset)?;
        if append.stream_seq.is_some() {
            state
                .producers(rows)?
                .admit_stream_seq(append.stream_seq.as_deref(), tail)?;
        }
        let producer = append.producer.clone();
        let has_content = !append.body.is_empty();
        self.accept(now, append, rows, step)?;
        // A producer's append answers 200, and its duplicate 204 (protocol 5.2.1).
        let status = if producer.is_some() && has_content {
            200
        } else {
            204
        };
        let (state, _) = self.state()?;
        Ok(Answer::uncached(status)
            .at(state.tail())
            .closed(state.is_closed())
            .stamped(producer.as_ref()))
    }

    /// Appends the envelopes of a session.
    pub(super) fn append_envelopes(
        &mut self,
        now: Millis,
        body: Bytes,
        producer: ProducerStamp,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let append = Append {
            content_type: None,
            producer: Some(producer),
            stream_seq: None,
            expected_offset: None,
            preconditions: Preconditions::default(),
            close: false,
            body,
        };
        match self.accept(now, append, rows, step) {
            Ok(()) => Ok(()),
            Err(StepError::StorageError(unreadable)) => Err(unreadable),
            Err(StepError::Refused(refusal)) => {
                unreachable!("envelopes are an array of JSON: {refusal}")
            }
        }
    }

    /// Stores an append that keeps the rules, and shows it to the subscribers.
    fn accept(
        &mut self,
        now: Millis,
        append: Append,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StepError> {
        let (state, limits) = self.state()?;
        let from = state.tail();
        let mut pushed = None;
        let stands_alone = state.format != Format::Text || state.ending.divides(&append.body);
        if !append.body.is_empty() {
            let records =
                records(state.format, &append.body, limits)?.filter(|records| !records.is_empty());
            let records = records.ok_or(Refusal::Malformed("an empty array appends nothing"))?;
            pushed = state.push(
                now,
                records,
                append.producer.clone(),
                append.stream_seq,
                limits,
                &mut step.turn,
            );
            state.ending = Ending::after(state.ending, &append.body);
        }
        if append.close {
            state.close(append.producer, step);
        }
        state.seal_if_full(now, limits, rows, step)?;
        let live = state.live(from, pushed);
        let live = Broadcast {
            stands_alone,
            ..live
        };
        let live = live.with_end_and_cursor(now, state.is_closed(), limits);
        let turn = &mut step.turn;
        turn.broadcast = Some(match turn.broadcast.take() {
            Some(before) => before.followed_by(live, limits),
            None => live,
        });
        Ok(())
    }
}

/// Splits a body into records; `None` for an empty body.
pub(super) fn records(
    format: Format,
    body: &Bytes,
    limits: &Limits,
) -> Result<Option<Records>, Refusal> {
    if body.is_empty() {
        return Ok(None);
    }
    let drafts = match format {
        Format::Json => draft_messages(body, limits)?,
        Format::Text | Format::Binary => draft_bytes(body, limits),
    };
    Ok(Some(Records(drafts)))
}

impl StreamState {
    /// Writes the records at the tail. Returns their frames if they are small enough to be sent to
    /// subscribers.
    pub(super) fn push(
        &mut self,
        now: Millis,
        records: Records,
        producer: Option<ProducerStamp>,
        stream_seq: Option<String>,
        limits: &Limits,
        turn: &mut Turn,
    ) -> Option<Bytes> {
        let Records(drafts) = records;
        assert!(!drafts.is_empty(), "an append adds at least one row");
        let from = self.tail;
        let table = HotTable::of(self.row.segment);
        if !core::mem::replace(&mut self.tail.has_table, true) {
            turn.writes.push(Write::CreateHot(table));
        }
        // Frames for subscribers are built now. Larger ones are built when their row is written.
        let framed: u64 = drafts.iter().map(|draft| draft.frames.bytes()).sum();
        let is_handed_on = framed <= limits.frame_bytes_max;
        let last = drafts.len() - 1;
        let mut all = Vec::new();
        let mut key = RowKey::at(self.tail.position);
        for (index, draft) in drafts.into_iter().enumerate() {
            let bytes = draft.frames.bytes();
            assert!(
                key >= RowKey::at(self.tail.position) && key <= RowKey::last_at(self.tail.position),
                "a row's key has the position of its first unit"
            );
            assert!(bytes > 0, "a row has content");
            assert!(
                draft.units > 0 || index < last,
                "the last row of an append ends a record"
            );
            let frames = if is_handed_on {
                let made = draft.frames.make();
                all.push(made.clone());
                made.into()
            } else {
                draft.frames
            };
            // The append ends in its last row, so that whoever finds its end knows that all rows
            // are stored.
            let end = (index == last).then(|| AppendEnd {
                units: draft.units,
                producer: producer.clone(),
                stream_seq: stream_seq.clone(),
            });
            let row = HotRow {
                key,
                units: draft.units,
                bytes_before: self.tail.bytes,
                at: now,
                ends: end.into_iter().collect(),
                frames,
            };
            let unfolded = match turn.writes.last_mut() {
                Some(Write::InsertHot {
                    table: same,
                    row: before,
                }) if *same == table => before.fold(row, limits.fold_bytes_max),
                _ => Some(row),
            };
            turn.writes
                .extend(unfolded.map(|row| Write::InsertHot { table, row }));
            self.tail.position += draft.units;
            self.tail.bytes += bytes;
            key = if draft.units == 0 {
                key.next_part()
            } else {
                RowKey::at(self.tail.position)
            };
        }
        assert!(
            self.tail.position > from.position,
            "an append moves the tail"
        );
        assert_eq!(
            self.tail.bytes,
            from.bytes + framed,
            "the tail has moved by the size of the frames"
        );
        assert!(
            RowKey::at(self.tail.position) <= RowKey::LAST,
            "the position of the tail fits into a row's key"
        );
        self.tail.opened_at.get_or_insert(now);
        let appended = Sums {
            messages: match self.format {
                Format::Json => self.tail.position - from.position,
                Format::Text | Format::Binary => 1,
            },
            framed,
        };
        self.minutes.record(now, appended);
        turn.appended += Appended {
            messages: appended.messages,
            bytes: appended.bytes(),
        };
        self.touch_by_row(now);
        if let Some(producers) = &mut self.producers {
            producers.record(WriterColumns {
                at: now,
                producer,
                stream_seq,
            });
        }
        if !is_handed_on {
            return None;
        }
        Some(if all.len() == 1 {
            all.swap_remove(0)
        } else {
            all.concat().into()
        })
    }
}

/// Packs as many messages into a row as fit. A message larger than a row takes several rows.
fn draft_messages(body: &Bytes, limits: &Limits) -> Result<Vec<Draft>, Refusal> {
    let mut rows = MessageRows {
        body,
        row_bytes_max: limits.row_bytes_max,
        open: None,
        drafts: Vec::new(),
    };
    json::messages(body, |message| {
        rows.push(body.slice_ref(message.as_bytes()))
    })?;
    rows.finish();
    Ok(rows.drafts)
}

struct MessageRows<'a> {
    body: &'a Bytes,
    row_bytes_max: u64,
    open: Option<OpenRow>,
    drafts: Vec<Draft>,
}

/// A row that can take more messages.
struct OpenRow {
    /// The range from the beginning of the first message to the end of the last.
    text: Range<usize>,
    messages: u64,
    framed: u64,
}

impl MessageRows<'_> {
    fn push(&mut self, message: Bytes) {
        let framed = message.len() as u64 + FRAME_OVERHEAD;
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.framed + framed > self.row_bytes_max)
        {
            self.finish();
        }
        if framed > self.row_bytes_max {
            return spread(&message, 1, self.row_bytes_max, &mut self.drafts);
        }
        let begin = message.as_ptr().addr() - self.body.as_ptr().addr();
        let open = self.open.get_or_insert(OpenRow {
            text: begin..begin,
            messages: 0,
            framed: 0,
        });
        assert!(
            begin >= open.text.end,
            "messages come in the order of the body"
        );
        open.text.end = begin + message.len();
        open.messages += 1;
        open.framed += framed;
    }

    fn finish(&mut self) {
        if let Some(open) = self.open.take() {
            self.drafts.push(Draft {
                units: open.messages,
                frames: Frames::messages(self.body.slice(open.text), open.framed),
            });
        }
    }
}

/// Makes one frame, split over several rows if necessary, so that rows show where an append begins
/// and ends.
fn draft_bytes(bytes: &Bytes, limits: &Limits) -> Vec<Draft> {
    let mut drafts = Vec::new();
    spread(bytes, bytes.len() as u64, limits.row_bytes_max, &mut drafts);
    drafts
}

/// Splits one record over as many rows as it needs. The last row counts all of its units.
fn spread(record: &Bytes, units: u64, row_bytes_max: u64, drafts: &mut Vec<Draft>) {
    let row_bytes_max = usize::try_from(row_bytes_max).expect("a row fits into memory");
    let first = row_bytes_max - FRAME_OVERHEAD as usize;
    let taken = first.min(record.len());
    drafts.push(Draft {
        units: 0,
        frames: Frames::record(record.clone(), taken),
    });
    let mut rest = record.slice(taken..);
    while !rest.is_empty() {
        drafts.push(Draft {
            units: 0,
            frames: Frames::rest_of_record(rest.split_to(rest.len().min(row_bytes_max))),
        });
    }
    let last = drafts.last_mut().expect("a record has at least one row");
    last.units = units;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::push_frame;

    #[test]
    fn rows_stay_below_their_bound_and_lose_nothing() {
        for row_bytes_max in [8, 9, 20, 1_000] {
            let limits = Limits {
                row_bytes_max,
                ..Limits::DEFAULT
            };
            let messages = [
                "1",
                "22",
                "4444444444444444444444444444444444",
                "0",
                "88888888",
            ];
            let body = Bytes::from(format!(" [{}\n]", messages.join(" ,\t")));
            let drafts = draft_messages(&body, &limits).expect("the body is JSON");
            assert!(
                drafts
                    .iter()
                    .all(|draft| draft.frames.bytes() <= row_bytes_max)
            );
            assert!(
                drafts
                    .iter()
                    .all(|draft| draft.frames.bytes() == draft.frames.make().len() as u64)
            );
            assert_eq!(drafts.iter().map(|draft| draft.units).sum::<u64>(), 5);
            assert!(drafts.last().is_some_and(|draft| draft.units > 0));
            let mut expected = Vec::new();
            messages
                .iter()
                .for_each(|message| push_frame(&mut expected, message.as_bytes()));
            assert_eq!(
                drafts
                    .iter()
                    .flat_map(|draft| draft.frames.make())
                    .collect::<Vec<_>>(),
                expected
            );
        }
    }

    #[test]
    fn an_append_of_bytes_is_one_frame_over_all_of_its_rows() {
        for row_bytes_max in [5, 6, 8, 9, 1_000] {
            let limits = Limits {
                row_bytes_max,
                ..Limits::DEFAULT
            };
            for length in [1, 4, 5, 90] {
                let bytes: Vec<u8> = (0..length).collect();
                let drafts = draft_bytes(&bytes.clone().into(), &limits);
                let (last, parts) = drafts.split_last().expect("a row at least");
                assert_eq!(last.units, u64::from(length));
                assert!(parts.iter().all(|draft| draft.units == 0));
                let longest = drafts.iter().map(|draft| draft.frames.bytes()).max();
                assert!(longest <= Some(row_bytes_max));
                let mut expected = Vec::new();
                push_frame(&mut expected, &bytes);
                let frames: Vec<_> = drafts
                    .iter()
                    .flat_map(|draft| draft.frames.make())
                    .collect();
                assert_eq!(frames, expected);
            }
        }
    }
}
