//! Linearizability in linear time: no answer is older than what clients knew when it was requested.

use std::collections::BTreeMap;

use super::Position;
use crate::ids::ObjectId;
use crate::model::Mismatch;

/// The latest state of each object that any client knows.
#[derive(Debug, Default)]
pub struct Recency {
    known: BTreeMap<ObjectId, Position>,
}

impl Recency {
    /// Returns the earliest state that the answer to a request sent now may show.
    #[must_use]
    pub fn floor(&self, object: ObjectId) -> Position {
        self.known.get(&object).copied().unwrap_or_default()
    }

    /// Notes what an answer shows that was given in a state.
    ///
    /// # Errors
    ///
    /// When that state is behind the floor of the request.
    pub fn observe(
        &mut self,
        object: ObjectId,
        floor: Position,
        state: Position,
        learned: Position,
    ) -> Result<(), Mismatch> {
        let known = self.known.entry(object).or_default();
        *known = (*known).max(learned);
        if state < floor {
            return Err(Mismatch {
                expected: format!("{floor:?} or later"),
                actual: format!("{state:?}"),
            });
        }
        Ok(())
    }
}
