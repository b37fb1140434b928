//! Deletion (protocol 5.4): at once and whole.

use super::{Stop, Stream};
use crate::{Answer, Turn};

impl Stream {
    pub(super) fn delete(&mut self, turn: &mut Turn) -> Result<Answer, Stop> {
        self.life()?;
        self.end(turn);
        Ok(Answer::uncached(204))
    }
}
