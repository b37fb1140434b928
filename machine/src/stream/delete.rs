//! Deletion (protocol 5.4): immediate and complete, unless forks still inherit from the stream.

use super::{Step, StepError, Stream};
use crate::wire::request::Preconditions;
use crate::{Answer, Millis, Storage};

impl Stream {
    pub(super) fn delete(
        &mut self,
        now: Millis,
        preconditions: &Preconditions,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Answer, StepError> {
        let (state, _) = self.state()?;
        state.meets(preconditions)?;
        self.end_or_hide(now, rows, step)?;
        Ok(Answer::uncached(204))
    }
}
