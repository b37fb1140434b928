//! Counts the situations that turns and answers show.

use machine::segment::key_prefix;
use machine::{Turn, Write};

use super::World;
use crate::cold_tier::{self, Parts};
use crate::coverage::{Situation, Watermark};
use crate::ids::ObjectId;
use crate::oracles::{Source, Tagged};
use crate::request::{Request, Response};
use crate::segments::token;

impl World<'_, '_> {
    /// Counts the situations of segments and tiers in a turn.
    pub(super) fn note_tiers(&mut self, at: ObjectId, turn: &Turn) {
        let limits = &self.engine.settings.limits;
        let object = &self.objects[at];
        let rows = &object.platform.storage.rows;
        let closed = rows.head().is_some_and(|head| head.closed.is_some());
        let unstored = rows.segments().filter(|segment| segment.stored.is_none());
        let (mut waiting, mut tried) = (0, 0);
        for segment in unstored {
            waiting += 1;
            tried += u64::from(segment.attempts > 0);
        }
        let putting = self.cold.is_putting(at);
        let coverage = &mut self.engine.recorder.coverage;
        coverage.raise(
            Watermark::Segments,
            rows.head().map_or(0, |head| head.segment),
        );
        coverage.raise(Watermark::Unstored, waiting);
        coverage.raise(Watermark::Outbox, rows.tasks().count() as u64);
        for write in &turn.writes {
            match write {
                Write::InsertSegment(segment) => {
                    coverage.cover(Situation::Sealed);
                    if closed {
                        coverage.cover(Situation::SealedByClose);
                    } else if segment.bytes < limits.segment_bytes_max
                        && segment.messages < limits.segment_messages_max
                    {
                        coverage.cover(Situation::SealedByAge);
                    }
                    if waiting > 1 {
                        coverage.cover(if closed {
                            Situation::TwoUnstored
                        } else {
                            Situation::SealedDuringPut
                        });
                    }
                }
                Write::UpdateSegment(segment) => {
                    if let Some(stored) = &segment.stored {
                        coverage.cover(Situation::Stored);
                        if waiting > 1 {
                            coverage.cover(Situation::StoredAfterOutage);
                        }
                        if stored.attempt < segment.attempts {
                            coverage.cover(Situation::StoredByEarlier);
                        }
                    }
                }
                Write::InsertHot { .. } if tried > 0 => coverage.cover(Situation::AppendDuringPut),
                Write::InsertStream(head) => {
                    let prefix = key_prefix(&head.name, head.incarnation);
                    let of_name = prefix.split_inclusive('/').next().unwrap_or_default();
                    if self.cold.has_with_prefix(of_name) {
                        coverage.cover(Situation::CreatedDuringCollection);
                    }
                }
                Write::DropTables if putting => coverage.cover(Situation::DeletedDuringPut),
                Write::UpdateTask(task) if task.failures > 0 => {
                    coverage.cover(Situation::QueueUnloaded)
                }
                Write::UpdateTask(_) => coverage.cover(Situation::CollectionInBatches),
                Write::CreateStreamTable
                | Write::UpdateStream(_)
                | Write::InsertHot { .. }
                | Write::CreateSealedTables
                | Write::CreateHot(_)
                | Write::PutProducer { .. }
                | Write::ForgetProducers { .. }
                | Write::DropHot(_)
                | Write::Upgrade { .. }
                | Write::CreateOutbox
                | Write::InsertTask(_)
                | Write::RemoveTask { .. }
                | Write::DropOutbox
                | Write::CreateControl
                | Write::PutControl(_)
                | Write::RemoveControl { .. }
                | Write::DropControl
                | Write::CreateManifest
                | Write::InsertManifest(_)
                | Write::CreatePins
                | Write::PutPin(_)
                | Write::ForgetPins { .. }
                | Write::DropTables => {}
            }
        }
    }

    /// Compares the page of an answer, and its entity tag, with earlier ones of the same content.
    pub(super) fn same_page(&mut self, at: ObjectId, request: &Request, response: &Response) {
        let Some(incarnation) = &self.models[at].state.incarnation else {
            return;
        };
        let offset = request.parameter("offset");
        let (Some(end), 200, "GET", true) = (
            self.next_position(at, incarnation.id, response),
            response.status,
            request.method,
            offset != Some("now"),
        ) else {
            return;
        };
        let tail = incarnation.content.len();
        let start = offset
            .and_then(token)
            .map_or(0, |token| incarnation.segments.position_requested(token))
            .min(tail);
        let source = self.source(at, incarnation.id, start);
        self.same_tag(at, start, end, response);
        if start >= tail {
            return;
        }
        self.note_page(at, start, end);
        let is_whole = self.engine.settings.whole_reads && request.parameter("live").is_none();
        if !is_whole {
            let finding = self.checkers.pages.observe_end(source, tail, end);
            self.record(finding);
        }
    }

    /// Compares the entity tag of an answer with earlier ones of the same content.
    pub(super) fn same_tag(&mut self, at: ObjectId, start: u64, end: u64, response: &Response) {
        let incarnation = self.models[at].state.incarnation.as_ref();
        let (Some(incarnation), Some(tag)) = (incarnation, response.header("ETag")) else {
            return;
        };
        let tagged = Tagged {
            source: self.source(at, incarnation.id, start),
            end,
            is_tail: end == incarnation.content.len(),
            closed: response.is_true("Stream-Closed"),
        };
        let finding = self.checkers.pages.observe_tag(tagged, tag);
        self.record(finding);
    }

    fn source(&self, object: ObjectId, incarnation: u64, start: u64) -> Source {
        Source {
            object,
            epoch: self.objects[object].platform.epoch,
            incarnation,
            start,
        }
    }

    /// Counts which tiers a page comes from.
    fn note_page(&mut self, at: ObjectId, start: u64, end: u64) {
        let object = &self.objects[at];
        let Some(incarnation) = &self.models[at].state.incarnation else {
            return;
        };
        let Parts {
            cold,
            hot,
            from_middle,
        } = cold_tier::parts(&object.platform.storage.rows, incarnation, start, end);
        let inside = incarnation.content.begin(start) != start;
        let situations = [
            (cold + hot > 1, Situation::PageStitched),
            (cold > 0 && hot > 0, Situation::PageColdAndHot),
            (from_middle, Situation::PageFromMiddle),
            (inside, Situation::PageFromInside),
            (inside && from_middle, Situation::PageFromInsideCold),
        ];
        for (holds, situation) in situations {
            if holds {
                self.engine.cover(situation);
            }
        }
    }
}
