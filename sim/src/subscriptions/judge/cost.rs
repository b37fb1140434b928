//! An append writes the same rows whether subscriptions and sessions follow its stream or not.
//!
//! What is compared are two new instances over the same rows, one of them without the rows of
//! links and of sessions, that get the same input. Both must ask for the same writes in the same
//! order, with two exceptions: the time of the alarm in the row of the stream, and a write of that
//! row that changes nothing else, because a link sets an alarm in case that a call is lost.

use std::sync::Arc;

use machine::rows::StreamRow;
use machine::{Call, Context, Input, Limits, MemoryRows, Millis, Object, StorageError, Write};

use super::{Finding, violation};
use crate::oracles::Oracle;
use crate::subscriptions::sessions::view::is_of_followers;

const SEED: u64 = 7;

/// What an append writes with subscriptions and without.
pub(in crate::subscriptions) struct Compared {
    with: Vec<Write>,
    without: Vec<Write>,
}

impl Compared {
    pub(super) fn judge(&self) -> Finding {
        // The stream had expired, so that this was its end.
        let is_end = self.without.contains(&Write::DropTables);
        if is_end || self.with == self.without {
            return Ok(());
        }
        let (expected, actual) = (format!("{:?}", self.without), format!("{:?}", self.with));
        violation(Oracle::AppendCost, expected, actual)
    }
}

/// Compares what an input writes, if it is an append and there are links.
pub(in crate::subscriptions) fn compare(
    rows: &MemoryRows,
    input: &Input,
    now: Millis,
    limits: &Arc<Limits>,
) -> Option<Compared> {
    let is_append = matches!(
        input,
        Input::Appends(_)
            | Input::Call {
                call: Call::Append(_),
                ..
            }
    );
    let is_link = |(key, _): (&str, &str)| key.starts_with("link/") || is_of_followers(key);
    if !is_append || !rows.control().any(is_link) {
        return None;
    }
    let mut without = MemoryRows::default();
    for write in rows.as_writes() {
        if !matches!(write, Write::CreateControl | Write::PutControl(_)) {
            without
                .apply(&write)
                .expect("the rows can be written again");
        }
    }
    let written = |rows: &MemoryRows| -> Result<Vec<Write>, StorageError> {
        let storage = (!rows.is_empty()).then_some(rows);
        let context = Context {
            now,
            storage: &storage,
            subscribers: &|_| Ok(0),
            entropy: &|| unreachable!("an append asks for no entropy"),
        };
        let mut object = Object::load(now, &storage, limits, SEED)?;
        let turn = object.step(&context, input.clone())?;
        let head = rows.head().cloned().map(without_alarm);
        let writes = turn.writes.into_iter().map(|write| {
            if let Write::UpdateStream(row) = write {
                Write::UpdateStream(without_alarm(row))
            } else {
                write
            }
        });
        let is_alarm =
            |write: &Write| matches!(write, Write::UpdateStream(row) if Some(row) == head.as_ref());
        Ok(writes.filter(|write| !is_alarm(write)).collect())
    };
    Some(Compared {
        with: written(rows).ok()?,
        without: written(&without).ok()?,
    })
}

fn without_alarm(row: StreamRow) -> StreamRow {
    StreamRow {
        alarm_at: None,
        ..row
    }
}
