//! Conditional writes (RFC 9110, 13): requirements of a request on the current state of the stream.
//! Callers do not check them for a request that is already refused, or for a retry of one that was
//! accepted.

use super::StreamState;
use crate::Offset;
use crate::refusal::{Present, Refusal};
use crate::wire::entity_tag::{self, Reach};
use crate::wire::header;
use crate::wire::request::Preconditions;

impl StreamState {
    /// Checks `If-Match` with strong and `If-None-Match` with weak comparison (RFC 9110, 13.1.1,
    /// 13.1.2).
    pub(super) fn meets(&self, preconditions: &Preconditions) -> Result<(), Refusal> {
        let named = |list: &str, weak| {
            list.trim() == "*" || entity_tag::states(list, weak).any(|state| self.is_in(state))
        };
        let failed = match preconditions {
            Preconditions {
                if_match: Some(list),
                ..
            } if !named(list, false) => header::IF_MATCH,
            Preconditions {
                if_none_match: Some(list),
                ..
            } if named(list, true) => header::IF_NONE_MATCH,
            Preconditions { .. } => return Ok(()),
        };
        Err(Refusal::PreconditionFailed {
            header: failed,
            present: Some(Present {
                entity_tag: self.entity_tag(),
                tail: self.tail(),
                closed: self.is_closed(),
            }),
        })
    }

    /// Checks `Stream-Expected-Offset`.
    pub(super) fn ends_at(&self, expected: Option<Offset>) -> Result<(), Refusal> {
        match expected {
            Some(offset) if !self.is_tail(offset) => {
                Err(Refusal::TailElsewhere { tail: self.tail() })
            }
            _ => Ok(()),
        }
    }

    /// Returns the entity tag of the whole stream.
    pub(super) fn entity_tag(&self) -> String {
        entity_tag::entity_tag(
            self.row.incarnation,
            Offset::START,
            self.tail(),
            Reach::tail(self.is_closed()),
        )
    }

    fn is_in(&self, state: entity_tag::State<'_>) -> bool {
        state.incarnation == self.row.incarnation.to_string()
            && state.closed == self.is_closed()
            && self.is_tail(state.end)
    }
}

/// Checks preconditions when there is no stream: `If-Match` fails, `If-None-Match` is met.
pub(super) const fn check_without_stream(preconditions: &Preconditions) -> Result<(), Refusal> {
    if preconditions.if_match.is_some() {
        return Err(Refusal::PreconditionFailed {
            header: header::IF_MATCH,
            present: None,
        });
    }
    Ok(())
}
