//! Reads through a cache: they are recent enough, and hide none of the client's own writes.

use super::Position;
use crate::model::{Content, Mismatch};
use crate::request::{Response, excerpt};

/// How long a page may be shown after its stream has ended: `max-age` and `stale-while-revalidate`
/// as the protocol names them (10.1).
const SHOWN_MS_MAX: u64 = (60 + 300) * 1_000;

/// An answer to a plain read that has come through a cache.
#[derive(Clone, Copy, Debug)]
pub struct CachedRead<'a> {
    pub response: &'a Response,
    /// The state of the stream when it last confirmed the answer.
    pub position: Position,
    /// The latest state that any client knew when this one asked.
    pub floor: Position,
    /// The age of the request.
    pub age_ms: u64,
    pub is_live: bool,
    /// The content of the answer's incarnation, and the position of its next offset.
    pub content: &'a Content,
    pub next: u64,
}

impl CachedRead<'_> {
    /// Judges the answer.
    ///
    /// # Errors
    /// When the answer is older than it may be, hides what was written, or is not the content.
    pub fn check(&self) -> Result<(), Mismatch> {
        let mismatch = |expected: String, actual: String| Err(Mismatch { expected, actual });
        let line = || self.response.line();
        let page = super::units(self.content, &self.response.body).and_then(|units| {
            let from = self.next.checked_sub(units.len() as u64)?;
            self.content.page(from, self.next)
        });
        // An answer without new content may have no body.
        let is_content =
            self.response.body.is_empty() || page.is_some_and(|page| page == self.response.body);
        if !is_content {
            return mismatch(
                format!("the content up to {}", self.next),
                excerpt(&self.response.body),
            );
        }
        let is_former =
            self.position.incarnation() != self.floor.incarnation() && self.position < self.floor;
        if (is_former || self.is_live) && self.age_ms > SHOWN_MS_MAX {
            let expected = format!(
                "nothing of {:?} when {:?} is known",
                self.position, self.floor
            );
            return mismatch(expected, format!("{} after {} ms", line(), self.age_ms));
        }
        if self.is_live || !self.response.is_true("Stream-Up-To-Date") {
            return Ok(());
        }
        // The client stops reading here, so nothing that was written may be hidden.
        if self.position < self.floor {
            return mismatch(format!("{:?} or later, up to date", self.floor), line());
        }
        let is_closed = self.response.is_true("Stream-Closed");
        if self.next != self.position.length || is_closed != self.position.closed {
            return mismatch(
                format!("to be up to date only at {:?}", self.position),
                line(),
            );
        }
        Ok(())
    }
}
