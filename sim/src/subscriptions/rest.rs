//! What holds once nothing is left to happen.

use super::request::{KEYS, id_of, object_of};
use super::view::Stage;
use super::world::{Caller, World};
use crate::oracles::Oracle;

const DIRECTORY: &str = "__ds/directory/";

impl World<'_, '_> {
    /// Checks what holds once receivers and workers have done everything.
    pub(super) fn check_rest(&mut self) {
        self.check_waiting();
        if let Some(lost) = self.model.never_offered(self.settings.skew_ms) {
            return self.fail(Oracle::Wakes, "each append offered in a wake", lost);
        }
        let ids: Vec<_> = self.objects.keys().filter_map(|name| id_of(name)).collect();
        let ids: Vec<_> = ids.into_iter().map(str::to_owned).collect();
        for id in ids {
            self.check_subscription(&id);
        }
        let mut objects = self.objects.iter();
        let left = objects.find_map(|(name, object)| {
            let task = object.disk.tasks().next()?;
            Some((format!("no task of {name}"), format!("{task:?}")))
        });
        if let Some((expected, actual)) = left {
            self.fail(Oracle::Orphans, expected, actual);
        }
    }

    /// Returns whether no call can have come after a later one in this run. A new instance does not
    /// wait for the calls of a former one.
    pub(super) fn is_in_order(&self) -> bool {
        !self.settings.has_faults() && !self.has_restarted
    }

    fn check_waiting(&mut self) {
        let waits = self.calls.iter().find(|(_, pending)| {
            let holder = pending.holder.as_ref();
            holder.is_some_and(|holder| self.is_present(holder))
        });
        if let Some((call, pending)) = waits {
            let who = match &pending.caller {
                Caller::Client { request, .. } => format!("a client of {}", request.name),
                Caller::Object { place, .. } => format!("the object {}", place.name),
                Caller::Consumer { run, .. } => format!("run {run} of the consumer"),
            };
            let actual = format!("{who} waits for {call}");
            self.fail(Oracle::Liveness, "an answer to each call", actual);
        }
    }

    /// Checks that a subscription follows what it should, up to the tails.
    fn check_subscription(&mut self, id: &str) {
        let view = self.durable_view(&object_of(id));
        let Some(head) = view.live() else {
            return;
        };
        if head.stage != Stage::Ready {
            let actual = format!("{:?}", head.stage);
            return self.fail(Oracle::Liveness, format!("{id} is ready"), actual);
        }
        if let Some(wake) = &head.wake {
            let actual = format!("{wake:?}");
            return self.fail(Oracle::Wakes, format!("no wake of {id} at rest"), actual);
        }
        let life = (id.to_owned(), head.incarnation);
        let Some(follower) = self.model.followers.get(&life) else {
            return self.fail(Oracle::Model, format!("a request for {id}"), "none");
        };
        for name in self.model.present.keys() {
            let Some((stream, known)) = self.model.present(name) else {
                continue;
            };
            // A stream that the directory finds tells nothing before its first append.
            let is_named = follower.named.get(name).copied().flatten().is_some();
            let link = view.links.get(name);
            let at_tail = link.is_some_and(|link| {
                link.incarnation == Some(stream.1)
                    && link.acked.unwrap_or_default() == known.tail
                    && !link.is_linking
            });
            if !at_tail && (is_named || link.is_some()) {
                let expected = format!("the cursor of {id} in {name} at {}", known.tail);
                return self.fail(Oracle::Wakes, expected, format!("{link:?}"));
            }
        }
        let gone = view
            .links
            .iter()
            .find(|(name, link)| !link.is_explicit && !self.model.present.contains_key(*name));
        if let Some((name, link)) = gone.filter(|_| self.is_in_order()) {
            let expected = format!("no link of {id} to {name}, which is gone");
            self.fail(Oracle::SubscriptionRows, expected, format!("{link:?}"));
        }
    }

    /// Checks that nothing is left of anything, but the keys and empty shards of the directory.
    pub(super) fn check_empty(&mut self) {
        self.check_waiting();
        self.check_no_sessions();
        for (name, object) in &self.objects {
            let rows = object
                .disk
                .control()
                .filter(|(key, _)| *key != "head")
                .count();
            let is_kept = name.starts_with(DIRECTORY) || name == KEYS;
            // A late call of a subscription or a stream that is gone by then leaves an entry.
            let is_clean = if is_kept {
                rows == 0
            } else {
                object.disk.is_empty()
            };
            let is_clean = is_clean || !self.is_in_order() && object.disk.head().is_none();
            let has_tasks = object.disk.tasks().next().is_some();
            if !is_clean || has_tasks {
                let actual = format!("{:?}", object.disk);
                let expected = format!("nothing of {name}");
                return self.fail(Oracle::SubscriptionRows, expected, actual);
            }
        }
    }
}
