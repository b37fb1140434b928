//! Rules that every turn must keep, independently of the stream.

use machine::Offset;

use super::Oracle;
use super::checker::{AfterTurn, Checker, Finding, violation};
use crate::coverage::Coverage;

/// Holds that an instance remembers at most one producer for each append of the open segment.
#[derive(Debug, Default)]
pub struct Memory;

impl Checker for Memory {
    fn after_turn(&mut self, seen: &AfterTurn<'_>, _coverage: &mut Coverage) -> Finding {
        let remembered = seen.subject.producers_in_memory;
        let stored = seen.subject.store.rows.open_append_count();
        if remembered <= stored {
            return Ok(());
        }
        let expected = format!(
            "{stored} producers in memory at most, one for each append of the open segment"
        );
        violation(Oracle::Memory, expected, remembered.to_string())
    }
}

/// Holds that readers at the tail get a broadcast of every change there.
#[derive(Debug, Default)]
pub struct Broadcasts;

impl Checker for Broadcasts {
    fn after_turn(&mut self, seen: &AfterTurn<'_>, _coverage: &mut Coverage) -> Finding {
        let (before, after) = (seen.before, seen.after);
        let Some(incarnation) = before.incarnation().filter(|_| before != after) else {
            return Ok(());
        };
        let broadcast = seen.turn.broadcast.as_ref();
        let is_complete = broadcast.is_some_and(|broadcast| {
            let ended = after.incarnation() != before.incarnation();
            let segments = seen.subject.model.segments(incarnation);
            let position =
                |offset: Offset| segments.position_sent((offset.segment, offset.position));
            position(broadcast.from) == Some(before.length)
                && (ended || position(broadcast.next) == Some(after.length))
        });
        if is_complete {
            return Ok(());
        }
        violation(
            Oracle::NoLostWake,
            format!("a broadcast from {before:?} to {after:?}"),
            format!("{broadcast:?}"),
        )
    }
}
