//! Notes what a turn shows: new subscriptions for the model, and situations.

use super::{Cause, Seen};
use crate::subscriptions::coverage::{Coverage, Situation};
use crate::subscriptions::model::{Follower, Model};
use crate::subscriptions::request::{Delivery, Kind};
use crate::subscriptions::view::Link;
use crate::subscriptions::world::Caller;

pub(super) fn notice(model: &mut Model, seen: &Seen<'_>, coverage: &mut Coverage) {
    if seen.compared.is_some() {
        coverage.cover(Situation::CostCompared);
    }
    if seen.id.is_none() {
        return;
    }
    for situation in situations(model, seen) {
        coverage.cover(situation);
    }
    let Some(life) = seen.life() else {
        return;
    };
    if seen.before.live().map(|head| head.incarnation) == Some(life.1) {
        return;
    }
    if let Some(Caller::Client {
        request, floors, ..
    }) = seen.caller
        && let Kind::Subscribe(asked) = &request.kind
    {
        let follower = Follower::new(asked.clone(), floors.clone(), seen.now.0);
        model.followers.insert(life, follower);
    }
}

fn situations(model: &Model, seen: &Seen<'_>) -> Vec<Situation> {
    let mut situations = Vec::new();
    let (before, after) = (&seen.before.head, &seen.after.head);
    match (before, after) {
        (Some(_), None) => situations.push(Situation::TombstoneGone),
        (Some(before), Some(after)) if before.incarnation != after.incarnation => {
            situations.push(Situation::Recreated);
        }
        _ => {}
    }
    let (old, new) = (seen.before.wake(), seen.after.wake());
    if let Some(old) = old {
        let has_ended = old.leased_until.is_some_and(|until| until <= seen.now);
        if has_ended && new.is_none_or(|new| new.id != old.id) {
            situations.push(Situation::LeaseEnded);
        }
    }
    if let Cause::Attempt { wake, is_done, .. } = seen.cause {
        if old.is_none_or(|old| old.id != wake.id) {
            situations.push(Situation::LateAnswer);
        } else if *is_done {
            situations.push(Situation::DoneInAnswer);
        }
    }
    if let (Some(before), Some(after), Some(life)) = (before, after, seen.life())
        && before.retry.failures < after.retry.failures
        && let Some(follower) = model.followers.get(&life)
        && matches!(&follower.asked.delivery, Delivery::Webhook(url) if url.contains("//127."))
        && !seen.limits.webhook_loopback
    {
        situations.push(Situation::ForbiddenLater);
    }
    for (name, link) in &seen.after.links {
        situations.extend(of_link(seen.before.links.get(name), link));
    }
    situations
}

fn of_link(before: Option<&Link>, after: &Link) -> Option<Situation> {
    let Some(before) = before else {
        return (!after.is_linking).then_some(Situation::LinkedLate);
    };
    if before.is_linking && !after.is_linking && !after.is_explicit {
        return Some(Situation::LinkedBackfill);
    }
    if !before.is_held && after.is_held {
        return Some(Situation::Held);
    }
    let is_other = before.incarnation.is_some() && after.incarnation.is_some();
    (is_other && before.incarnation != after.incarnation).then_some(Situation::StreamRecreated)
}
