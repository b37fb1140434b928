//! Who writes: idempotent producers (protocol 5.2.1) and `Stream-Seq` (protocol 5.2), which is scoped to the stream.

use std::collections::BTreeMap;

use super::Life;
use crate::Refusal;
use crate::rows::{ProducerStamp, Rows, Unreadable, WriterMark};

/// The last word of every writer.
#[derive(Clone, Debug, Default)]
pub(super) struct Writers {
    producers: BTreeMap<String, Last>,
    stream_seq: Option<String>,
}

/// A producer's current epoch and the highest sequence accepted in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

/// What becomes of a producer's request that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Accepted,
    /// The server has it already.
    Duplicate(Last),
}

impl Writers {
    /// The protocol's validation (5.2.1).
    pub(super) fn admit(&self, stamp: &ProducerStamp) -> Result<Admission, Refusal> {
        let Some(last) = self.producers.get(&stamp.id) else {
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
            return Ok(Admission::Duplicate(*last));
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
            self.producers.insert(
                stamp.id,
                Last {
                    epoch: stamp.epoch,
                    seq: stamp.seq,
                },
            );
        }
        if mark.stream_seq.is_some() {
            self.stream_seq = mark.stream_seq;
        }
    }
}

impl Life {
    /// Every writer's last word, read from the rows when this instance has not yet done so.
    pub(super) fn writers(&mut self, rows: &impl Rows) -> Result<&mut Writers, Unreadable> {
        let known = match self.writers.take() {
            Some(writers) => writers,
            None => {
                let mut writers = Writers::default();
                rows.writers(self.head.hot, &mut |mark| writers.record(mark))?;
                writers
            }
        };
        Ok(self.writers.insert(known))
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
            Ok(Admission::Duplicate(Last { epoch: 7, seq: 3 }))
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
