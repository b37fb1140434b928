//! Deletion (protocol 5.4): immediate and complete.

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
        self.end(now, rows, step)?;
        Ok(Answer::uncached(204))
    }
}
