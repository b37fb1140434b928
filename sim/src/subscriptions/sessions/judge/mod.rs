//! The oracles of sessions. They judge what a session answers, what its stream has, and what is
//! left of it.

pub(super) mod answers;
pub(super) mod envelopes;
pub(super) mod gaps;
pub(super) mod rows;
pub(super) mod writers;

use crate::oracles::{Oracle, Violation};
use crate::subscriptions::judge::{Finding, violation};

/// Returns a violation.
fn violated(oracle: Oracle, expected: impl Into<String>, actual: impl Into<String>) -> Violation {
    Violation {
        oracle,
        expected: expected.into(),
        actual: actual.into(),
    }
}
