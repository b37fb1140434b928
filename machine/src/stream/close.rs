//! Closing (protocol 4.1, 5.3): durable, monotonic, idempotent.

use super::{Step, StepError, StreamState};
use crate::rows::{Closed, ProducerStamp};
use crate::wire::request::Append;
use crate::{Answer, Refusal};

impl StreamState {
    pub(super) fn close(&mut self, by: Option<ProducerStamp>, step: &mut Step) {
        assert!(self.row.closed.is_none(), "a stream closes once");
        self.row.closed = Some(Closed { by });
        step.row.save();
    }

    /// Answers a request to a closed stream. Only two kinds succeed: a retry of the request that
    /// closed it, and a request that closes it again without content.
    pub(super) fn append_to_closed(&self, append: &Append) -> Result<Answer, StepError> {
        let by = self
            .row
            .closed
            .as_ref()
            .and_then(|closed| closed.by.as_ref());
        let is_retry = append.producer.is_some() && append.producer.as_ref() == by;
        let is_close_only = append.close && append.body.is_empty() && append.producer.is_none();
        if is_close_only
            && append
                .expected_offset
                .is_none_or(|offset| self.is_tail(offset))
        {
            self.meets(&append.preconditions)?;
        } else if !is_retry {
            return Err(Refusal::Closed { tail: self.tail() }.into());
        }
        let answer = Answer::uncached(204).at(self.tail()).closed(true);
        Ok(answer.stamped(append.producer.as_ref()))
    }
}
