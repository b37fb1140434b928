//! Idempotent producers (protocol 5.2.1), and `Stream-Seq` (protocol 5.2), which applies to the
//! whole stream.

use core::ops::Bound;
use std::collections::BTreeMap;

use super::StreamState;
use crate::rows::{HotTable, ProducerStamp, ProducerState, StreamRow, WriterColumns};
use crate::storage::{Storage, StorageError};
use crate::{Millis, Offset, Refusal};

/// The last accepted state of each producer in the open segment. Only a stored append adds a
/// producer, so the rows of the segment bound its size.
#[derive(Clone, Debug, Default)]
pub(super) struct Producers {
    producers: BTreeMap<String, ProducerEntry>,
    stream_seq: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct ProducerEntry {
    last: ProducerState,
    used_at: Millis,
}

/// The outcome of a producer's request that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Accepted,
    /// The request was accepted before.
    Duplicate(ProducerState),
}

/// Validates a producer's request against its last accepted one (protocol 5.2.1).
pub(super) fn admit(
    stamp: &ProducerStamp,
    last: Option<ProducerState>,
) -> Result<Admission, Refusal> {
    let Some(last) = last else {
        return if stamp.seq == 0 {
            Ok(Admission::Accepted)
        } else {
            Err(Refusal::SequenceGap {
                expected: 0,
                received: stamp.seq,
            })
        };
    };
    if stamp.epoch < last.epoch {
        return Err(Refusal::StaleEpoch {
            current: last.epoch,
        });
    }
    if stamp.epoch > last.epoch {
        return if stamp.seq == 0 {
            Ok(Admission::Accepted)
        } else {
            Err(Refusal::EpochStartsAtZero)
        };
    }
    if stamp.seq <= last.seq {
        return Ok(Admission::Duplicate(last));
    }
    let expected = last.seq + 1;
    if stamp.seq == expected {
        Ok(Admission::Accepted)
    } else {
        Err(Refusal::SequenceGap {
            expected,
            received: stamp.seq,
        })
    }
}

impl Producers {
    /// Creates the state before the open segment has rows.
    pub(super) fn before(row: &StreamRow) -> Self {
        Self {
            producers: BTreeMap::new(),
            stream_seq: row.stream_seq.clone(),
        }
    }

    pub(super) fn producers(&self) -> u64 {
        self.producers.len() as u64
    }

    /// Checks that `Stream-Seq` increases in byte order.
    pub(super) fn admit_stream_seq(
        &self,
        stream_seq: Option<&str>,
        tail: Offset,
    ) -> Result<(), Refusal> {
        match (stream_seq, &self.stream_seq) {
            (Some(next), Some(last)) if next.as_bytes() <= last.as_bytes() => {
                Err(Refusal::SequenceRegression { tail })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn record(&mut self, mark: WriterColumns) {
        if let Some(ProducerStamp { id, epoch, seq }) = mark.producer {
            let known = ProducerEntry {
                last: ProducerState { epoch, seq },
                used_at: mark.at,
            };
            let before = self.producers.insert(id, known);
            assert!(
                before.is_none_or(|before| (before.last.epoch, before.last.seq) < (epoch, seq)),
                "a producer's epoch and sequence only increase"
            );
        }
        if mark.stream_seq.is_some() {
            self.stream_seq = mark.stream_seq;
        }
    }

    /// Returns the last appends of the producers behind this id, at most `limit`, in order, with
    /// their times.
    pub(super) fn after(
        &self,
        id: &str,
        limit: u64,
    ) -> impl Iterator<Item = (ProducerStamp, Millis)> {
        let behind = (Bound::Excluded(id), Bound::Unbounded);
        let producers = self.producers.range::<str, _>(behind).zip(0..limit);
        producers.map(|((id, entry), _)| {
            let ProducerState { epoch, seq } = entry.last;
            let id = id.clone();
            (ProducerStamp { id, epoch, seq }, entry.used_at)
        })
    }

    /// Returns the state to store when the open segment is sealed, and forgets the producers. From
    /// now on they are looked up in storage.
    pub(super) fn seal(&mut self) -> (Vec<(ProducerStamp, Millis)>, Option<String>) {
        let producers = core::mem::take(&mut self.producers).into_iter();
        let stamps = producers.map(|(id, ProducerEntry { last, used_at })| {
            let ProducerState { epoch, seq } = last;
            (ProducerStamp { id, epoch, seq }, used_at)
        });
        (stamps.collect(), self.stream_seq.clone())
    }
}

impl StreamState {
    /// Returns the producers of the open segment. Reads them from the rows if this instance has not
    /// done so.
    pub(super) fn producers(&mut self, rows: &dyn Storage) -> Result<&mut Producers, StorageError> {
        let known = match self.producers.take() {
            Some(producers) => producers,
            None => {
                let mut producers = Producers::before(&self.row);
                rows.writers(HotTable::of(self.row.segment), &mut |mark| {
                    producers.record(mark)
                })?;
                producers
            }
        };
        Ok(self.producers.insert(known))
    }

    /// Returns the last accepted state of a producer, from the open or a sealed segment. Does not
    /// keep the result in memory, because a client can ask for any number of producers without
    /// storing anything.
    pub(super) fn last_state(
        &mut self,
        producer: &str,
        rows: &dyn Storage,
    ) -> Result<Option<ProducerState>, StorageError> {
        let has_sealed = self.row.segment > self.inherited_segments();
        match self.producers(rows)?.producers.get(producer) {
            Some(known) => Ok(Some(known.last)),
            None if has_sealed => rows.producer(producer),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(epoch: u64, seq: u64) -> ProducerStamp {
        ProducerStamp {
            id: "p".to_owned(),
            epoch,
            seq,
        }
    }

    #[test]
    fn the_protocols_table() {
        assert_eq!(
            admit(&stamp(7, 1), None),
            Err(Refusal::SequenceGap {
                expected: 0,
                received: 1
            })
        );
        assert_eq!(admit(&stamp(7, 0), None), Ok(Admission::Accepted));
        let state = ProducerState { epoch: 7, seq: 3 };
        let last = Some(state);
        assert_eq!(
            admit(&stamp(6, 9), last),
            Err(Refusal::StaleEpoch { current: 7 })
        );
        assert_eq!(admit(&stamp(8, 1), last), Err(Refusal::EpochStartsAtZero));
        assert_eq!(admit(&stamp(8, 0), last), Ok(Admission::Accepted));
        assert_eq!(admit(&stamp(7, 2), last), Ok(Admission::Duplicate(state)));
        assert_eq!(admit(&stamp(7, 4), last), Ok(Admission::Accepted));
        assert_eq!(
            admit(&stamp(7, 5), last),
            Err(Refusal::SequenceGap {
                expected: 4,
                received: 5
            })
        );
    }

    #[test]
    fn stream_seq_is_compared_byte_by_byte() {
        let mut producers = Producers::default();
        producers.record(WriterColumns {
            at: Millis(0),
            producer: None,
            stream_seq: Some("2".to_owned()),
        });
        let tail = Offset::new(0, 7);
        for lower in ["10", "2"] {
            assert_eq!(
                producers.admit_stream_seq(Some(lower), tail),
                Err(Refusal::SequenceRegression { tail })
            );
        }
        assert_eq!(producers.admit_stream_seq(Some("20"), tail), Ok(()));
        assert_eq!(producers.admit_stream_seq(None, tail), Ok(()));
    }
}
