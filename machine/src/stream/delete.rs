//! Deletion (protocol 5.4): at once and whole.

use super::{Stop, Stream};
use crate::{Answer, Millis, Rows, Turn};

impl Stream {
    pub(super) fn delete(&mut self, now: Millis, rows: &impl Rows, turn: &mut Turn) -> Result<Answer, Stop> {
        self.life()?;
        self.end(now, rows, turn)?;
        Ok(Answer::uncached(204))
    }
}
