//! Deletion (protocol 5.4): immediate and complete.

use super::{StepError, Stream};
use crate::wire::request::Preconditions;
use crate::{Answer, Millis, Storage, Turn};

impl Stream {
    pub(super) fn delete(
        &mut self,
        now: Millis,
        preconditions: &Preconditions,
        rows: &dyn Storage,
        turn: &mut Turn,
    ) -> Result<Answer, StepError> {
        let (state, _) = self.state()?;
        state.meets(preconditions)?;
        self.end(now, rows, turn)?;
        Ok(Answer::uncached(204))
    }
}
