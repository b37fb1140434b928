//! At rest, each session has everything of the streams that it has subscribed to.

use machine::MemoryRows;

use super::super::model::Model;
use super::super::request::id_of;
use super::super::view::View;
use super::{Finding, violation};
use crate::oracles::Oracle;

/// Judges all sessions. What is newer than `old` may still be under way.
pub(in crate::subscriptions::sessions) fn judge(
    model: &Model,
    objects: &[(&str, &MemoryRows)],
    old: u64,
) -> Finding {
    for (name, rows) in objects {
        let Some(id) = id_of(name).filter(|_| rows.head().is_some()) else {
            continue;
        };
        for (stream, row) in View::of(rows).subscribed {
            let Some(from) = row.from else {
                let expected = format!("an answer of {stream} to {id}");
                return violation(Oracle::SessionGaps, expected, format!("{row:?}"));
            };
            let has = model.has(id, &stream, from);
            let life = (stream, from.incarnation);
            let appends = model.sources.get(&life).map_or(&[][..], Vec::as_slice);
            let is_missing = |append: &&super::super::model::Appended| {
                append.end > has && append.at < old && model.present(&life.0) == Some(life.1)
            };
            if let Some(missing) = appends.iter().find(is_missing) {
                let expected = format!("{id} has {} up to {}", life.0, missing.end);
                return violation(Oracle::SessionGaps, expected, format!("up to {has}"));
            }
        }
    }
    Ok(())
}
