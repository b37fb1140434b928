//! The state of a name, as far as an answer shows it.

use crate::model::State;

/// A state of a name, as far as an answer shows it. Later states are greater: incarnations follow
/// one another, a stream grows, and is closed once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Odd while an incarnation lasts, even before and after it.
    rank: u64,
    pub length: u64,
    pub closed: bool,
}

impl Position {
    /// Returns the whole state.
    #[must_use]
    pub fn of(state: &State) -> Self {
        match &state.incarnation {
            None => Self {
                rank: state.last_incarnation * 2,
                ..Self::default()
            },
            Some(incarnation) => Self {
                rank: incarnation.id * 2 - 1,
                length: incarnation.content.len(),
                closed: incarnation.closed,
            },
        }
    }

    /// Returns the same state with the length and closure that an answer shows.
    #[must_use]
    pub fn known_to(self, length: u64, closed: bool) -> Self {
        if self.incarnation().is_none() {
            self
        } else {
            Self {
                length,
                closed,
                ..self
            }
        }
    }

    /// Returns the incarnation of this state; `None` if there is no stream.
    #[must_use]
    pub const fn incarnation(self) -> Option<u64> {
        if self.rank % 2 == 1 {
            Some(self.rank / 2 + 1)
        } else {
            None
        }
    }
}
