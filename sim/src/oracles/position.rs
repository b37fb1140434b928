//! What an answer tells of the state of a name.

use crate::model::State;

/// A state of a name, as far as an answer tells it. Later states are greater: incarnations follow one
/// another with nothing in between, a stream grows, and is closed once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Odd while an incarnation lasts, even before and after.
    rank: u64,
    pub length: u64,
    pub closed: bool,
}

impl Position {
    /// The whole state.
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

    /// The same, as far as an answer goes that tells less.
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

    /// The incarnation that it is a state of.
    #[must_use]
    pub const fn incarnation(self) -> Option<u64> {
        if self.rank % 2 == 1 {
            Some(self.rank / 2 + 1)
        } else {
            None
        }
    }
}
