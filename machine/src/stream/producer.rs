//! Who writes: idempotent producers (protocol 5.2.1) and `Stream-Seq` (protocol 5.2), which is scoped to the stream.

use std::collections::BTreeMap;

use super::Life;
use crate::Refusal;
use crate::rows::{HotTable, ProducerStamp, ProducerState, Rows, Unreadable, WriterMark};

/// The last word of the writers in the open segment, and of those before it that have been asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Writers {
    producers: BTreeMap<String, Known>,
    stream_seq: Option<String>,
}

/// What is known of a producer: its current epoch and the highest sequence accepted in it.
#[derive(Clone, Copy, Debug)]
struct Known {
    last: Option<ProducerState>,
    /// Whether that is of the open segment.
    is_open: bool,
}

/// What becomes of a producer's request that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Accepted,
    /// The server has it already.
    Duplicate(ProducerState),
}

impl Writers {
    /// The protocol's validation (5.2.1).
    pub(super) fn admit(&self, stamp: &ProducerStamp) -> Result<Admission, Refusal> {
        let Some(last) = self.producers.get(&stamp.id).and_then(|known| known.last) else {
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
            return Err(Refusal::StaleEpoch { current: last.epoch });
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

    /// The stamp of a stream's very first content, checked like any other.
    pub(super) fn admit_new(&self, stamp: Option<ProducerStamp>) -> Result<Option<ProducerStamp>, Refusal> {
        if let Some(stamp) = &stamp {
            self.admit(stamp)?;
        }
        Ok(stamp)
    }

    /// `Stream-Seq` must rise, byte by byte compared.
    pub(super) fn admit_stream_seq(&self, stream_seq: Option<&str>) -> Result<(), Refusal> {
        match (stream_seq, &self.stream_seq) {
            (Some(next), Some(last)) if next.as_bytes() <= last.as_bytes() => {
                Err(Refusal::SequenceRegression)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn record(&mut self, mark: WriterMark) {
        if let Some(stamp) = mark.producer {
            let last = ProducerState {
                epoch: stamp.epoch,
                seq: stamp.seq,
            };
            let known = Known {
                last: Some(last),
                is_open: true,
            };
            self.producers.insert(stamp.id, known);
        }
        if mark.stream_seq.is_some() {
            self.stream_seq = mark.stream_seq;
        }
    }
}

impl Writers {
    /// The open segment is sealed: what is to be kept of it. Forgets the producers, which can be asked for from now on.
    pub(super) fn seal(&mut self) -> (Vec<ProducerStamp>, Option<String>) {
        let producers = core::mem::take(&mut self.producers).into_iter();
        let stamps = producers
            .filter(|(_, known)| known.is_open)
            .filter_map(|(id, known)| {
                known.last.map(|last| ProducerStamp {
                    id,
                    epoch: last.epoch,
                    seq: last.seq,
                })
            });
        (stamps.collect(), self.stream_seq.clone())
    }
}

impl Life {
    /// Every writer's last word in the open segment, read from the rows when this instance has not yet done so.
    pub(super) fn writers(&mut self, rows: &impl Rows) -> Result<&mut Writers, Unreadable> {
        let known = match self.writers.take() {
            Some(writers) => writers,
            None => {
                let mut writers = Writers {
                    producers: BTreeMap::new(),
                    stream_seq: self.head.stream_seq.clone(),
                };
                rows.writers(HotTable::of(self.head.segment), &mut |mark| writers.record(mark))?;
                writers
            }
        };
        Ok(self.writers.insert(known))
    }

    /// The same, with this producer's last word in the sealed segments if it has none in the open one.
    pub(super) fn writers_and(
        &mut self,
        producer: &str,
        rows: &impl Rows,
    ) -> Result<&mut Writers, Unreadable> {
        let has_sealed = self.head.segment > 0;
        let writers = self.writers(rows)?;
        if has_sealed && !writers.producers.contains_key(producer) {
            let known = Known {
                last: rows.producer(producer)?,
                is_open: false,
            };
            writers.producers.insert(producer.to_owned(), known);
        }
        Ok(writers)
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
        let mut writers = Writers::default();
        assert_eq!(
            writers.admit(&stamp(7, 1)),
            Err(Refusal::SequenceGap {
                expected: 0,
                received: 1
            })
        );
        assert_eq!(writers.admit(&stamp(7, 0)), Ok(Admission::Accepted));
        writers.record(WriterMark {
            producer: Some(stamp(7, 3)),
            stream_seq: None,
        });
        assert_eq!(
            writers.admit(&stamp(6, 9)),
            Err(Refusal::StaleEpoch { current: 7 })
        );
        assert_eq!(writers.admit(&stamp(8, 1)), Err(Refusal::EpochStartsAtZero));
        assert_eq!(writers.admit(&stamp(8, 0)), Ok(Admission::Accepted));
        assert_eq!(
            writers.admit(&stamp(7, 2)),
            Ok(Admission::Duplicate(ProducerState { epoch: 7, seq: 3 }))
        );
        assert_eq!(writers.admit(&stamp(7, 4)), Ok(Admission::Accepted));
        assert_eq!(
            writers.admit(&stamp(7, 5)),
            Err(Refusal::SequenceGap {
                expected: 4,
                received: 5
            })
        );
    }

    #[test]
    fn stream_seq_is_compared_byte_by_byte() {
        let mut writers = Writers::default();
        writers.record(WriterMark {
            producer: None,
            stream_seq: Some("2".to_owned()),
        });
        assert_eq!(
            writers.admit_stream_seq(Some("10")),
            Err(Refusal::SequenceRegression)
        );
        assert_eq!(
            writers.admit_stream_seq(Some("2")),
            Err(Refusal::SequenceRegression)
        );
        assert_eq!(writers.admit_stream_seq(Some("20")), Ok(()));
        assert_eq!(writers.admit_stream_seq(None), Ok(()));
    }
}
