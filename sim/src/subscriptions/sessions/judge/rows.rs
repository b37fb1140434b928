//! What is left of sessions and streams that have ended.

use machine::MemoryRows;

use super::super::model::{Model, Session};
use super::super::request::{id_of, is_session};
use super::super::view::{View, followers, is_of_session};
use super::{Finding, violated, violation};
use crate::oracles::{Oracle, Violation};

/// Checks that a session that has ended gets nothing any more.
pub(in crate::subscriptions::sessions) fn ended(
    known: &Session,
    name: &str,
    exists: bool,
) -> Result<(), Violation> {
    if known.has_ended && exists {
        let expected = format!("nothing of {name}, which has ended");
        return Err(violated(Oracle::SessionRows, expected, "a stream"));
    }
    Ok(())
}

/// Checks that sessions have subscribed to nothing that has ended. What is newer than `old` may
/// still be under way.
pub(in crate::subscriptions::sessions) fn subscribed(
    model: &Model,
    objects: &[(&str, &MemoryRows)],
    old: u64,
) -> Finding {
    for (name, rows) in objects.iter().filter(|(name, _)| is_session(name)) {
        for (stream, row) in View::of(rows).subscribed {
            let is_old = model.present.get(&stream).is_none_or(|it| it.at < old);
            let followed = row.from.map(|from| from.incarnation);
            if is_old && model.present(&stream) != followed {
                let expected = format!("{name} without {stream}, which has ended");
                return violation(Oracle::SessionRows, expected, format!("{row:?}"));
            }
        }
    }
    Ok(())
}

/// Checks that both sides know the same subscriptions.
pub(in crate::subscriptions::sessions) fn in_step(objects: &[(&str, &MemoryRows)]) -> Finding {
    let mut listed = Vec::new();
    let mut followed = Vec::new();
    for (name, rows) in objects {
        if let Some(id) = id_of(name) {
            let subscribed = View::of(rows).subscribed.into_iter();
            listed
                .extend(subscribed.map(|(stream, row)| (stream, id.to_owned(), row.subscription)));
        }
        let sessions = followers(rows).into_iter();
        followed.extend(sessions.filter_map(|(session, subscription)| {
            Some((
                (*name).to_owned(),
                id_of(&session)?.to_owned(),
                subscription,
            ))
        }));
    }
    listed.sort();
    followed.sort();
    if listed == followed {
        return Ok(());
    }
    let actual = format!("{followed:?}");
    violation(
        Oracle::SessionRows,
        format!("the followers {listed:?}"),
        actual,
    )
}

/// Checks that nothing of sessions is left in the rows of an object.
pub(in crate::subscriptions::sessions) fn nothing(name: &str, rows: &MemoryRows) -> Finding {
    let left = rows.control().find(|(key, _)| is_of_session(key));
    if let Some((key, body)) = left.filter(|_| !name.starts_with("__ds/")) {
        let expected = format!("no rows of sessions in {name}");
        return violation(Oracle::SessionRows, expected, format!("{key}: {body}"));
    }
    if is_session(name) && !rows.is_empty() {
        let expected = format!("nothing of {name}");
        return violation(Oracle::SessionRows, expected, format!("{rows:?}"));
    }
    Ok(())
}
