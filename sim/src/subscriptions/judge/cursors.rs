//! Cursors: where they begin, and how they move.

use machine::Offset;

use super::{Cause, Finding, Seen, violation};
use crate::oracles::Oracle;
use crate::subscriptions::model::{Life, Model, Wake};
use crate::subscriptions::request::{Action, Work};
use crate::subscriptions::view::Link;

/// Holds that a cursor only moves forward, by what a receiver or a worker has acknowledged, and
/// never past the durable tail. Acks apply all or not at all.
#[derive(Debug, Default)]
pub(super) struct Cursors;

impl Cursors {
    #[expect(clippy::unused_self, reason = "a checker is a value")]
    pub(super) fn after_turn(&self, model: &mut Model, seen: &Seen<'_>) -> Finding {
        let Some(life) = seen.life() else {
            return Ok(());
        };
        if seen.before.live().map(|head| head.incarnation) != Some(life.1) {
            return Ok(());
        }
        if let Some(follower) = model.followers.get_mut(&life) {
            for (stream, offset) in acknowledged(seen) {
                follower.acknowledges(stream, offset);
            }
        }
        for (work, _) in seen.worked().filter(|(_, is_accepted)| *is_accepted) {
            applied(work, seen)?;
        }
        for (stream, link) in &seen.after.links {
            let before = seen.before.links.get(stream);
            moved(model, &life, stream, before, link)?;
        }
        Ok(())
    }
}

/// Returns what the turn hears to be processed.
fn acknowledged(seen: &Seen<'_>) -> Vec<(Life, Offset)> {
    let mut all = Vec::new();
    for (work, _) in seen.worked().filter(|(_, is_accepted)| *is_accepted) {
        let acks = work.acks.iter();
        all.extend(acks.filter_map(|(stream, offset)| {
            let incarnation = seen.after.links.get(stream)?.incarnation?;
            Some(((stream.clone(), incarnation), offset.parse().ok()?))
        }));
    }
    let current = seen.before.wake().map(|wake| &wake.id);
    if let Cause::Attempt {
        wake,
        is_done: true,
        ..
    } = seen.cause
        && current == Some(&wake.id)
    {
        let streams = wake.streams.iter();
        all.extend(
            streams.filter_map(|stream| {
                Some(((stream.path.clone(), stream.incarnation?), stream.tail))
            }),
        );
    }
    all
}

/// Checks that all acks of an accepted request have taken effect.
fn applied(work: &Work, seen: &Seen<'_>) -> Finding {
    if work.action == Action::Release {
        return Ok(());
    }
    for (stream, offset) in &work.acks {
        let offset: Option<Offset> = offset.parse().ok();
        let link = seen.after.links.get(stream);
        let before = seen.before.links.get(stream);
        let is_same = before.map(|link| link.incarnation) == link.map(|link| link.incarnation);
        let acked = link.and_then(|link| link.acked);
        if offset.is_none() || is_same && acked < offset {
            let expected = format!("the cursor of {stream} at {offset:?} or later");
            return violation(Oracle::Cursors, expected, format!("{acked:?}"));
        }
    }
    Ok(())
}

fn moved(model: &Model, life: &Life, stream: &str, before: Option<&Link>, after: &Link) -> Finding {
    let Some(incarnation) = after.incarnation else {
        return Ok(());
    };
    let durable = model.tail(stream, incarnation);
    let told = after.tail.max(after.acked);
    if told > Some(Offset::START) && told > durable {
        let expected = format!("{stream} up to {durable:?}, which is durable");
        return violation(Oracle::Cursors, expected, format!("{told:?}"));
    }
    let Some(before) =
        before.filter(|before| before.incarnation == after.incarnation && !before.is_linking)
    else {
        return Ok(());
    };
    if after.acked < before.acked {
        let expected = format!("the cursor of {stream} at {:?} or later", before.acked);
        return violation(Oracle::Cursors, expected, format!("{:?}", after.acked));
    }
    let follower = model.followers.get(life);
    let is_acknowledged = after.acked.is_some_and(|acked| {
        let key = ((stream.to_owned(), incarnation), acked);
        follower.is_some_and(|follower| follower.acknowledged.contains(&key))
    });
    let is_moved = after.acked.unwrap_or_default() != before.acked.unwrap_or_default();
    if is_moved && !is_acknowledged {
        let expected = format!("the cursor of {stream} at {:?}", before.acked);
        let actual = format!("{:?}, which nobody has acknowledged", after.acked);
        return violation(Oracle::Cursors, expected, actual);
    }
    Ok(())
}

/// Holds that a wake offers nothing that was acknowledged before its subscription was asked for.
#[derive(Debug, Default)]
pub(in crate::subscriptions) struct NothingOld;

impl NothingOld {
    #[expect(clippy::unused_self, reason = "a checker is a value")]
    pub(in crate::subscriptions) fn offered(&self, model: &Model, wake: &Wake) -> Finding {
        let Some(follower) = model.followers.get(&wake.of) else {
            return Ok(());
        };
        for stream in wake.streams.iter().filter(|stream| stream.is_pending) {
            let Some(incarnation) = stream.incarnation else {
                continue;
            };
            let floor = follower.floors.get(&(stream.path.clone(), incarnation));
            if floor.is_some_and(|floor| stream.acked < Some(*floor)) {
                let expected = format!("{} from {floor:?} on", stream.path);
                let actual = format!("it begins behind {:?}", stream.acked);
                return violation(Oracle::NothingOld, expected, actual);
            }
        }
        Ok(())
    }
}
