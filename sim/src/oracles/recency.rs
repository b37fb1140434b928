//! Linearizability, in linear time: an answer is never behind what was known when it was asked for.

use std::collections::BTreeMap;

use super::Position;
use crate::ids::ObjectId;
use crate::model::Mismatch;

/// The latest state of each object that any client knows of.
#[derive(Debug, Default)]
pub struct Recency {
    known: BTreeMap<ObjectId, Position>,
}

impl Recency {
    /// What an answer to a request that is sent now must not be behind.
    #[must_use]
    pub fn floor(&self, object: ObjectId) -> Position {
        self.known.get(&object).copied().unwrap_or_default()
    }

    /// Takes what an answer that was given in a state tells.
    ///
    /// # Errors
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
