//! Generations, and who holds a wake.

use std::collections::BTreeMap;

use super::{Cause, Departed, Finding, Seen, violation};
use crate::oracles::Oracle;
use crate::subscriptions::model::Wake;
use crate::subscriptions::request::Action;
use crate::subscriptions::view::Head;

/// Holds that generations rise with each wake, also when the subscription is deleted and created
/// again; that a wake has one holder; and that no wake begins while another has its lease.
#[derive(Debug, Default)]
pub(super) struct Generations {
    /// The last wake of each subscription that anybody has heard of.
    last: BTreeMap<String, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    generation: u64,
    wake: String,
    holder: Option<String>,
}

impl Generations {
    #[expect(clippy::unused_self, reason = "a checker is a value")]
    pub(super) fn after_turn(&self, seen: &Seen<'_>) -> Finding {
        let (Some(before), Some(after)) = (&seen.before.head, &seen.after.head) else {
            return Ok(());
        };
        let is_new = match (&before.wake, &after.wake) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(after)) => before.id != after.id,
        };
        let rises = if is_new {
            after.generation > before.generation
        } else {
            after.generation == before.generation
        };
        if !rises {
            let expected = format!("a generation after {}", before.generation);
            return violation(Oracle::Generations, expected, format!("{after:?}"));
        }
        let holder = |head: &Head| head.wake.as_ref().and_then(|wake| wake.holder.clone());
        let held = holder(before);
        if !is_new && after.wake.is_some() && held.is_some() && holder(after) != held {
            let actual = format!("{:?}", holder(after));
            return violation(Oracle::Generations, format!("the holder {held:?}"), actual);
        }
        let until = before.wake.as_ref().and_then(|wake| wake.leased_until);
        let has_lease = until.is_some_and(|until| seen.now < until);
        if is_new && has_lease && !ends_wake(seen) {
            let expected = format!("the wake {:?} until its lease ends", before.wake);
            return violation(Oracle::Generations, expected, format!("{:?}", after.wake));
        }
        Ok(())
    }

    pub(super) fn committed(&mut self, departed: &Departed) {
        if let Some(id) = &departed.forgotten {
            // All its tokens have expired.
            self.last.remove(id);
        }
    }

    /// Judges a wake that leaves.
    pub(super) fn leaves(&mut self, wake: &Wake, holder: Option<&str>) -> Finding {
        let id = &wake.of.0;
        let last = self.last.get(id);
        let is_same = last.is_some_and(|last| last.wake == wake.id);
        let generation = last.map_or(0, |last| last.generation);
        let is_in_order = if is_same {
            wake.generation == generation
        } else {
            wake.generation > generation
        };
        if !is_in_order {
            let expected = format!("a generation of {id} after {last:?}");
            return violation(Oracle::Generations, expected, format!("{wake:?}"));
        }
        if let Some(last) = last.filter(|last| is_same && last.holder.is_some())
            && holder.is_some()
        {
            let expected = format!("one holder of {last:?}");
            return violation(Oracle::Generations, expected, format!("{holder:?}"));
        }
        let known = Known {
            generation: wake.generation,
            wake: wake.id.clone(),
            holder: holder.map(str::to_owned),
        };
        self.last.insert(id.clone(), known);
        Ok(())
    }
}

/// Returns whether the turn hears that the wake has ended.
fn ends_wake(seen: &Seen<'_>) -> bool {
    let is_done = matches!(seen.cause, Cause::Attempt { is_done: true, .. });
    let mut worked = seen.worked();
    let is_recreated = seen.before.live().map(|head| head.incarnation)
        != seen.after.live().map(|head| head.incarnation);
    is_done
        || is_recreated
        || worked
            .any(|(work, is_accepted)| is_accepted && (work.done || work.action == Action::Release))
}
