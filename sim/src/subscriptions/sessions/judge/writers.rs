//! Nobody but the server writes the streams of sessions.

use machine::rows::{HotRow, ProducerStamp};

use super::super::view::{Place, View};
use super::{Finding, violated, violation};
use crate::oracles::{Oracle, Violation};

/// Judges whether a client may write the stream of a session.
pub(in crate::subscriptions::sessions) fn let_in(is_let_in: bool) -> Finding {
    if is_let_in {
        let expected = "the refusal of a client that writes the stream of a session";
        return violation(Oracle::SessionWriters, expected, "it is let in");
    }
    Ok(())
}

/// Returns the stream that an append to a session comes from, where its subscription begins, and
/// the stamp.
pub(super) fn of<'a>(
    row: &'a HotRow,
    view: &'a View,
) -> Result<(&'a str, Place, &'a ProducerStamp), Violation> {
    let stamp = match &row.ends[..] {
        [end] => end.producer.as_ref(),
        _ => None,
    };
    let source = stamp.and_then(|stamp| {
        let mut subscribed = view.subscribed.iter();
        subscribed.find_map(|(name, row)| {
            let from = row.from?;
            let is_its = from.incarnation.to_string() == stamp.id;
            is_its.then_some((name.as_str(), from, stamp))
        })
    });
    source.ok_or_else(|| {
        let expected = "an append of the server, for a subscription";
        violated(Oracle::SessionWriters, expected, format!("{row:?}"))
    })
}
