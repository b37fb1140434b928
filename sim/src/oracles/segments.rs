//! Sealed segments: together with the hot rows they tile the stream, and stored objects hold the
//! sealed content.

use machine::Write;

use super::Oracle;
use super::checker::{AfterTurn, Checker, Finding, Quiescent, finding, violation};
use crate::cold_tier;
use crate::coverage::Coverage;

/// Holds that segments and hot rows tile the stream. Also holds that the open segment stays below
/// its size, because the append that fills it seals it.
#[derive(Debug, Default)]
pub struct SegmentsTile;

impl Checker for SegmentsTile {
    fn after_turn(&mut self, seen: &AfterTurn<'_>, _coverage: &mut Coverage) -> Finding {
        let rows = &seen.subject.store.rows;
        let limits = seen.limits;
        if let Some(row) = rows.last_row().filter(|_| limits.cold) {
            let bytes = row.bytes_before + row.frames.bytes();
            if bytes >= limits.segment_bytes_max {
                let max = limits.segment_bytes_max;
                let expected = format!("an open segment of less than {max} bytes");
                return violation(Oracle::SegmentSize, expected, format!("{bytes} bytes"));
            }
        }
        let Some(incarnation) = &seen.subject.model.state.incarnation else {
            return Ok(());
        };
        if seen.turn.writes.is_empty() {
            return Ok(());
        }
        let mut verdict = cold_tier::tiles(rows, incarnation);
        for write in &seen.turn.writes {
            if let (Write::UpdateSegment(segment), Ok(()), Some(head)) =
                (write, &verdict, rows.head())
            {
                verdict = cold_tier::holds(seen.cold, head, incarnation, segment);
            }
        }
        finding(Oracle::Segments, verdict)
    }

    fn at_quiescence(&mut self, world: &Quiescent<'_>) -> Finding {
        for subject in &world.subjects {
            let rows = &subject.store.rows;
            let (Some(incarnation), Some(head)) = (&subject.model.state.incarnation, rows.head())
            else {
                continue;
            };
            for segment in rows.segments() {
                let held = cold_tier::holds(world.cold, head, incarnation, segment);
                finding(Oracle::Segments, held)?;
            }
        }
        Ok(())
    }
}
