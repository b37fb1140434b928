//! What holds between objects: always, and at rest.

use std::collections::BTreeSet;

use machine::MemoryRows;

use super::world::{Caller, World};
use crate::cold_tier::referenced;
use crate::oracles::Oracle;

impl World<'_, '_> {
    /// Checks that the source of each fork is there and keeps what the fork inherits.
    pub(super) fn check_pins(&mut self) {
        let mut lost = None;
        for (name, object) in &self.objects {
            let Some(head) = object.disk.head() else {
                continue;
            };
            let Some(fork) = &head.lineage.fork else {
                continue;
            };
            let source = self.objects.get(&fork.source).map(|source| &source.disk);
            let keeps = |source: &MemoryRows| {
                let is_it = source
                    .head()
                    .is_some_and(|head| head.incarnation == fork.incarnation);
                let mut pins = source.pins();
                is_it && pins.any(|pin| pin.fork == head.incarnation && pin.released_at.is_none())
            };
            if !source.is_some_and(keeps) {
                lost = Some(format!("{name} has none in {}", fork.source));
            }
        }
        if let Some(lost) = lost {
            self.fail(Oracle::Pins, "a pin for each fork", lost);
        }
    }

    /// Carries out a deletion in the cold tier.
    pub(super) fn delete(&mut self, keys: &[String]) {
        self.note("cold tier", || format!("{keys:?} are deleted"));
        let objects = self.objects.values();
        let needed: BTreeSet<_> = objects
            .flat_map(|object| referenced(&object.disk))
            .collect();
        for key in keys {
            self.cold.remove(key);
            if needed.contains(key) {
                return self.fail(Oracle::ForkObjects, format!("the object {key}"), "deleted");
            }
        }
    }

    /// Checks what holds once all work is done.
    pub(super) fn check_rest(&mut self) {
        self.check_waiting();
        self.check_kept();
        let names: Vec<_> = self.objects.keys().cloned().collect();
        for name in names {
            let disk = self.objects[&name].disk.clone();
            if self.recorder.failure.is_none() {
                self.check_content(&name, &disk);
            }
        }
        let objects = self.objects.values();
        let needed: BTreeSet<_> = objects
            .flat_map(|object| referenced(&object.disk))
            .collect();
        let there: BTreeSet<_> = self.cold.keys().cloned().collect();
        if needed != there {
            let missing: Vec<_> = needed.difference(&there).collect();
            let left: Vec<_> = there.difference(&needed).collect();
            self.fail(
                Oracle::ForkObjects,
                "the objects of segments",
                format!("missing {missing:?}, left over {left:?}"),
            );
        }
    }

    fn check_waiting(&mut self) {
        let waits = self.calls.iter().find(|(_, pending)| {
            let holder = pending.holder.as_ref();
            holder.is_some_and(|holder| self.is_present(holder))
        });
        if let Some((call, pending)) = waits {
            let who = match &pending.caller {
                Caller::Client(request) => format!("a client of {}", request.name),
                Caller::Reader => "a reader".to_owned(),
                Caller::Object { place, .. } => format!("the object {}", place.name),
            };
            let actual = format!("{who} waits for {call}");
            self.fail(Oracle::Liveness, "an answer to each call", actual);
        }
    }

    /// Checks that streams are kept exactly as long as they exist or are needed, and that pins are
    /// those of forks.
    fn check_kept(&mut self) {
        for (name, object) in &self.objects {
            let Some(index) = self.model.present.get(name).copied() else {
                if !object.disk.is_empty() {
                    let actual = format!("{:?}", object.disk);
                    let expected = format!("nothing of {name}");
                    return self.fail(Oracle::ForksFreed, expected, actual);
                }
                continue;
            };
            let forks = self.model.forks_of(index).map(|fork| fork.machine);
            let forks: BTreeSet<_> = forks.collect();
            if self.model.incarnations[index].hidden && forks.is_empty() {
                let expected = format!("nothing of {name}");
                return self.fail(Oracle::ForksFreed, expected, "it is kept without forks");
            }
            let pins = object.disk.pins().filter(|pin| pin.released_at.is_none());
            let pins: BTreeSet<_> = pins.map(|pin| pin.fork).collect();
            if pins != forks {
                let expected = format!("{name} is pinned by {forks:?}");
                return self.fail(Oracle::Pins, expected, format!("{pins:?}"));
            }
            if object.disk.tasks().next().is_some() {
                let actual = format!("{:?}", object.disk.tasks().next());
                return self.fail(Oracle::Orphans, format!("no task of {name}"), actual);
            }
        }
    }

    /// Checks that nothing is left of anything.
    pub(super) fn check_empty(&mut self) {
        let left = self
            .objects
            .iter()
            .find(|(_, object)| !object.disk.is_empty());
        if let Some((name, object)) = left {
            let actual = format!("{:?}", object.disk);
            return self.fail(Oracle::ForksFreed, format!("nothing of {name}"), actual);
        }
        if let Some(key) = self.cold.keys().next().cloned() {
            self.fail(Oracle::ForkObjects, "no object", key);
        }
    }
}
