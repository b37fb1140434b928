//! Appending (protocol 5.2): one row, whatever it carries, as long as it fits.

use bytes::Bytes;

use super::producer::{self, Admission};
use super::{Life, Stop, Stream};
use crate::plan::{FRAME_OVERHEAD, push_frame, push_length};
use crate::rows::{HotRow, HotTable, ProducerStamp, RowKey, Rows, Write, WriterMark};
use crate::wire::request::Append;
use crate::wire::{Format, content_type, json};
use crate::{Answer, Limits, Millis, Refusal, Turn};

/// What an append adds: messages, or one run of bytes.
pub(super) enum Records<'a> {
    Messages(Vec<&'a str>),
    Bytes(&'a [u8]),
}

impl Records<'_> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Messages(messages) => messages.is_empty(),
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }
}

/// A row's payload before it has a place.
struct Draft {
    units: u64,
    frames: Vec<u8>,
}

impl Stream {
    pub(super) fn append(
        &mut self,
        now: Millis,
        append: Append,
        rows: &impl Rows,
        turn: &mut Turn,
    ) -> Result<Answer, Stop> {
        let (life, limits) = self.life_in_use(now)?;
        if life.is_closed() {
            return life.append_to_closed(&append);
        }
        // The order of conflicts is the protocol's (5.2): closed, content type, sequence.
        if let Some(content_type) = append.content_type.as_deref().filter(|_| !append.body.is_empty())
            && !content_type::matches(content_type, &life.head.content_type)
        {
            return Err(Refusal::ContentTypeMismatch {
                expected: life.head.content_type.clone(),
            }
            .into());
        }
        let tail = life.tail();
        if let Some(stamp) = &append.producer
            && let Admission::Duplicate(last) = producer::admit(stamp, life.last_word(&stamp.id, rows)?)?
        {
            return Ok(Answer::uncached(204).at(tail).producer(last.epoch, last.seq));
        }
        // Not before it is known that this is no retry: what a retry demands held when it was first sent.
        life.meets(&append.preconditions)?;
        life.ends_at(append.expected_offset)?;
        if append.stream_seq.is_some() {
            life.writers(rows)?
                .admit_stream_seq(append.stream_seq.as_deref(), tail)?;
        }
        let from = tail;
        let mut pushed = None;
        if !append.body.is_empty() {
            let records = life.records(&append.body)?.filter(|records| !records.is_empty());
            let records = records.ok_or(Refusal::Malformed("an empty array appends nothing"))?;
            pushed = life.push(
                now,
                &records,
                append.producer.clone(),
                append.stream_seq,
                limits,
                turn,
            );
        }
        if append.close {
            life.close(append.producer.clone());
        }
        life.seal_if_full(now, limits, rows, turn)?;
        let live = life.live(from, pushed);
        turn.live = Some(live.told_at(now, life.is_closed(), limits));
        // An append by a producer answers 200 so that it can be told from a duplicate (protocol 5.2.1).
        let status = if append.producer.is_some() && !append.body.is_empty() {
            200
        } else {
            204
        };
        Ok(Answer::uncached(status)
            .at(life.tail())
            .closed(life.is_closed())
            .stamped(append.producer.as_ref()))
    }
}

impl Life {
    /// Cuts a body into records; `None` for no body.
    pub(super) fn records<'a>(&self, body: &'a Bytes) -> Result<Option<Records<'a>>, Refusal> {
        if body.is_empty() {
            return Ok(None);
        }
        Ok(Some(match self.format {
            Format::Json => Records::Messages(json::messages(body)?),
            Format::Text | Format::Binary => Records::Bytes(body),
        }))
    }

    /// Writes the records at the tail. Returns their frames when readers at the tail are to be handed them.
    pub(super) fn push(
        &mut self,
        now: Millis,
        records: &Records<'_>,
        producer: Option<ProducerStamp>,
        stream_seq: Option<String>,
        limits: &Limits,
        turn: &mut Turn,
    ) -> Option<Bytes> {
        let before = self.tail.bytes;
        let drafts = match records {
            Records::Messages(messages) => draft_messages(messages, limits),
            Records::Bytes(bytes) => draft_bytes(bytes, limits),
        };
        let last = drafts.len().saturating_sub(1);
        let mut all = Vec::with_capacity(drafts.len());
        let mut key = RowKey::at(self.tail.position);
        for (index, draft) in drafts.into_iter().enumerate() {
            let frames = Bytes::from(draft.frames);
            let bytes = frames.len() as u64;
            all.push(frames.clone());
            turn.writes.push(Write::InsertHot {
                table: HotTable::of(self.head.segment),
                row: HotRow {
                    key,
                    units: draft.units,
                    bytes_before: self.tail.bytes,
                    at: now,
                    // On the last row, so that it is not there unless all of them are.
                    producer: producer.clone().filter(|_| index == last),
                    stream_seq: stream_seq.clone().filter(|_| index == last),
                    frames,
                },
            });
            self.tail.position += draft.units;
            self.tail.bytes += bytes;
            key = if draft.units == 0 {
                key.next_part()
            } else {
                RowKey::at(self.tail.position)
            };
        }
        self.tail.opened_at.get_or_insert(now);
        self.touch_by_row(now);
        if let Some(writers) = &mut self.writers {
            writers.record(WriterMark {
                at: now,
                producer,
                stream_seq,
            });
        }
        if self.tail.bytes - before > limits.frame_bytes_max {
            return None;
        }
        Some(if all.len() == 1 {
            all.swap_remove(0)
        } else {
            all.concat().into()
        })
    }
}

/// As many messages to a row as fit; a message that is larger than a row takes several.
fn draft_messages(messages: &[&str], limits: &Limits) -> Vec<Draft> {
    let row_bytes_max = usize::try_from(limits.row_bytes_max).unwrap_or(usize::MAX);
    let mut drafts = Vec::new();
    let total = messages
        .iter()
        .map(|message| message.len() + FRAME_OVERHEAD as usize)
        .sum::<usize>();
    let mut row = Draft {
        units: 0,
        frames: Vec::with_capacity(total.min(row_bytes_max)),
    };
    for message in messages {
        let framed = message.len() + FRAME_OVERHEAD as usize;
        if !row.frames.is_empty() && row.frames.len() + framed > row_bytes_max {
            drafts.push(core::mem::replace(
                &mut row,
                Draft {
                    units: 0,
                    frames: Vec::new(),
                },
            ));
        }
        push_frame(&mut row.frames, message.as_bytes());
        row.units += 1;
        if row.frames.len() > row_bytes_max {
            let whole = core::mem::take(&mut row.frames);
            let parts = whole.chunks(row_bytes_max);
            let last = parts.len() - 1;
            drafts.extend(parts.enumerate().map(|(index, part)| Draft {
                units: u64::from(index == last),
                frames: part.to_vec(),
            }));
            row.units = 0;
        }
    }
    if row.units > 0 {
        drafts.push(row);
    }
    drafts
}

/// One frame, whose rows are parts of it where it is larger than one, so that rows tell where an append begins and ends.
fn draft_bytes(bytes: &[u8], limits: &Limits) -> Vec<Draft> {
    let row_bytes_max = usize::try_from(limits.row_bytes_max).unwrap_or(usize::MAX);
    let payload_max = row_bytes_max.saturating_sub(FRAME_OVERHEAD as usize).max(1);
    let (first, mut rest) = bytes.split_at(bytes.len().min(payload_max));
    let mut frames = Vec::with_capacity(first.len() + FRAME_OVERHEAD as usize);
    push_length(&mut frames, bytes.len());
    frames.extend_from_slice(first);
    let mut drafts = vec![Draft { units: 0, frames }];
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.len().min(row_bytes_max.max(1)));
        drafts.push(Draft {
            units: 0,
            frames: part.to_vec(),
        });
        rest = after;
    }
    if let Some(last) = drafts.last_mut() {
        last.units = bytes.len() as u64;
    }
    drafts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stay_below_their_bound_and_lose_nothing() {
        for row_bytes_max in [8, 9, 20, 1_000] {
            let limits = Limits {
                row_bytes_max,
                ..Limits::DEFAULT
            };
            let messages = ["1", "22", "4444444444444444444444444444444444", "", "88888888"];
            let drafts = draft_messages(&messages, &limits);
            assert!(
                drafts
                    .iter()
                    .all(|draft| draft.frames.len() as u64 <= row_bytes_max)
            );
            assert_eq!(drafts.iter().map(|draft| draft.units).sum::<u64>(), 5);
            assert!(drafts.last().is_some_and(|draft| draft.units > 0));
            let mut expected = Vec::new();
            messages
                .iter()
                .for_each(|message| push_frame(&mut expected, message.as_bytes()));
            assert_eq!(
                drafts
                    .into_iter()
                    .flat_map(|draft| draft.frames)
                    .collect::<Vec<_>>(),
                expected
            );
        }
    }

    #[test]
    fn an_append_of_bytes_is_one_frame_over_all_of_its_rows() {
        for row_bytes_max in [1, 5, 8, 9, 1_000] {
            let limits = Limits {
                row_bytes_max,
                ..Limits::DEFAULT
            };
            for length in [1, 4, 5, 90] {
                let bytes: Vec<u8> = (0..length).collect();
                let drafts = draft_bytes(&bytes, &limits);
                let (last, parts) = drafts.split_last().expect("a row at least");
                assert_eq!(last.units, u64::from(length));
                assert!(parts.iter().all(|draft| draft.units == 0));
                let longest = drafts.iter().map(|draft| draft.frames.len() as u64).max();
                assert!(longest <= Some(row_bytes_max.max(FRAME_OVERHEAD + 1)));
                let mut expected = Vec::new();
                push_frame(&mut expected, &bytes);
                let frames: Vec<_> = drafts.into_iter().flat_map(|draft| draft.frames).collect();
                assert_eq!(frames, expected);
            }
        }
    }
}
