//! The pages of appends that a session fetches from a stream that it follows.

use super::{Step, Stream, StreamState};
use crate::control::to_json;
use crate::plan::{PlanHead, Shape};
use crate::rows::Incarnation;
use crate::storage::{Storage, StorageError};
use crate::wire::Format;
use crate::wire::answer::Body;
use crate::wire::session::{PageAppend, PageHead};
use crate::{Answer, CallId, Effect, Limits, Offset, Refusal};

impl Stream {
    /// Answers a session with the appends behind a place.
    pub(super) fn page_of_appends(
        &self,
        id: CallId,
        (incarnation, from): (Incarnation, Offset),
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let present = self.presence();
        let answer = match present.filter(|present| present.incarnation == incarnation) {
            None => Answer::refusal(&Refusal::StreamNotFound),
            Some(_) => {
                let state = self.state.as_ref().expect("a stream that is present");
                state.page_of_appends(from, rows, &self.limits)?
            }
        };
        step.turn
            .after_commit
            .push(Effect::Answer { call: id, answer });
        Ok(())
    }
}

impl StreamState {
    /// Returns the place at which a session can begin. In a stream of bytes that is the end of an
    /// append.
    pub(super) fn append_boundary(
        &self,
        from: Offset,
        rows: &dyn Storage,
        limits: &Limits,
    ) -> Result<Option<Offset>, StorageError> {
        let Some(place) = self.sent_place(from, rows)? else {
            return Ok(None);
        };
        if self.format == Format::Json || place == Offset::START || place == self.tail() {
            return Ok(Some(place));
        }
        if place.segment < self.inherited_segments() {
            return Ok(Some(place));
        }
        let end = self.append_end(place.segment, place.position - 1, rows, limits)?;
        Ok((end == place.position).then_some(place))
    }

    /// Returns the answer with as many of the next appends as fit into a page of one segment. The
    /// ends of inherited appends are not known, so what a page has of them counts as one append.
    fn page_of_appends(
        &self,
        from: Offset,
        rows: &dyn Storage,
        limits: &Limits,
    ) -> Result<Answer, StorageError> {
        let mut head = PageHead {
            json: self.format == Format::Json,
            appends: Vec::new(),
        };
        let tail = self.tail();
        if from >= tail {
            return Ok(page_without_content(&head));
        }
        let page = self.page(from, tail, Shape::Body, rows, limits)?;
        let mut at = from;
        if at.position == self.units_of(at.segment, rows)? {
            at = Offset::new(at.segment + 1, 0);
        }
        let end = if page.end.segment == at.segment {
            page.end.position
        } else {
            self.units_of(at.segment, rows)?
        };
        let segment = self.segment(at.segment, rows)?;
        while at.position < end && (head.appends.len() as u64) < limits.delivery_appends_max {
            let append_end = if at.segment < self.inherited_segments() {
                end
            } else {
                self.append_end(at.segment, at.position, rows, limits)?
            };
            let bytes = segment.framed_bytes(at.position, append_end, rows)?;
            if append_end > end || bytes > limits.envelope_bytes_max {
                if head.appends.is_empty() {
                    head.appends.push(PageAppend {
                        end: Offset::new(at.segment, append_end),
                        units: None,
                    });
                    return Ok(page_without_content(&head));
                }
                break;
            }
            head.appends.push(PageAppend {
                end: Offset::new(at.segment, append_end),
                units: Some(append_end - at.position),
            });
            at.position = append_end;
        }
        let mut page = self.page(from, at, Shape::Body, rows, limits)?;
        assert_eq!(page.end, at, "a shorter page of the same place fits, too");
        page.plan.head = Some(Box::new(PlanHead(line(&head))));
        Ok(Answer::uncached(200).body(Body::Plan(page.plan)))
    }
}

fn page_without_content(head: &PageHead) -> Answer {
    Answer::uncached(200).body(Body::Bytes(line(head)))
}

fn line(head: &PageHead) -> Vec<u8> {
    (to_json(head) + "\n").into_bytes()
}
