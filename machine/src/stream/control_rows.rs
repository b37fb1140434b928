//! The table of control rows of a stream. Subscriptions, followers and the own session share it.

use crate::Turn;
use crate::rows::{ControlRow, Write};

/// Whether there is a table of control rows. The first row makes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ControlRows {
    has_table: bool,
}

impl ControlRows {
    pub(super) const fn new(has_table: bool) -> Self {
        Self { has_table }
    }

    pub(super) const fn has_table(self) -> bool {
        self.has_table
    }

    /// Writes a row in place of the one with its key.
    pub(super) fn put(&mut self, row: ControlRow, turn: &mut Turn) {
        if !self.has_table {
            self.has_table = true;
            turn.writes.push(Write::CreateControl);
        }
        turn.writes.push(Write::PutControl(row));
    }

    pub(super) fn remove(self, key: String, turn: &mut Turn) {
        assert!(self.has_table, "a row is in a table");
        turn.writes.push(Write::RemoveControl { key });
    }

    /// Removes the table, which has no rows any more.
    pub(super) fn drop_if(&mut self, is_empty: bool, turn: &mut Turn) {
        if self.has_table && is_empty {
            self.has_table = false;
            turn.writes.push(Write::DropControl);
        }
    }
}
