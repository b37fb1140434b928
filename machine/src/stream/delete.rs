//! Deletion (protocol 5.4): at once and whole.

use super::{Stop, Stream};
use crate::wire::request::Preconditions;
use crate::{Answer, Millis, Rows, Turn};

impl Stream {
    pub(super) fn delete(
        &mut self,
        now: Millis,
        preconditions: &Preconditions,
        rows: &impl Rows,
        turn: &mut Turn,
    ) -> Result<Answer, Stop> {
        let (life, _) = self.life()?;
        life.meets(preconditions)?;
        self.end(now, rows, turn)?;
        Ok(Answer::uncached(204))
    }
}
