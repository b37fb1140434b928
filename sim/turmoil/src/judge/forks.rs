//! Forks: what each has of its source, how long a source is kept, and why a fork is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use machine::rows::{Expiry, StreamRow};
use machine::{Limits, MemoryRows};
use sim::model::{Forking, Inheritance, Mismatch, source_of};
use sim::oracles::Oracle;
use sim::request::Request;

use super::{Judge, Notable, stream};

/// The limits of forks.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForkLimits {
    forks_max: u64,
    depth_max: u64,
    segments_max: u64,
}

impl ForkLimits {
    pub(super) const fn new(limits: &Limits) -> Self {
        Self {
            forks_max: limits.forks_max,
            depth_max: limits.fork_depth_max,
            segments_max: limits.fork_segments_max,
        }
    }
}

impl Judge {
    /// Returns the source that a request names, and the last version of it; `None` if the request
    /// creates no fork, or one of a stream that never exists.
    pub(super) fn source_of(&self, request: &Request) -> Option<(usize, usize)> {
        let source = self.index(source_of(request)?)?;
        Some((source, self.names[source].versions.len() - 1))
    }

    /// Tells the model of a name what it must know of the source, to judge a request.
    pub(super) fn tell_source(&mut self, attempt: usize) {
        let (name, request) = self.asked(attempt);
        let refusals = self.refusals(attempt, &request).unwrap_or_default();
        self.names[name].model.forking = Forking {
            inherits: None,
            refusals,
        };
    }

    /// Returns the statuses with which a fork may be refused because of its source: those of each
    /// version since the request was sent.
    fn refusals(&self, attempt: usize, request: &Request) -> Option<BTreeSet<u16>> {
        let asked = source_of(request)?;
        let attempt = &self.attempts[attempt];
        let Some((source, from)) = attempt.source.filter(|(source, _)| *source != attempt.name)
        else {
            return Some(BTreeSet::from([404]));
        };
        let mut refusals = BTreeSet::new();
        for version in &self.names[source].versions[from..] {
            let Some(incarnation) = &version.state.incarnation else {
                let is_hidden = version.state.hidden.is_some();
                refusals.insert(if is_hidden { 409 } else { 404 });
                continue;
            };
            refusals.extend(incarnation.refuses(request));
            let depth = incarnation.fork.as_ref().map_or(0, |fork| fork.depth);
            let segments = incarnation.segments.sealed() + 1;
            if depth >= self.forks.depth_max || segments > self.forks.segments_max {
                refusals.insert(409);
            }
        }
        let asks = |other: &&super::Attempt| source_of(&other.request) == Some(asked);
        if self.attempts.iter().filter(asks).count() as u64 > self.forks.forks_max {
            refusals.insert(429);
        }
        // The source may end and begin again while it is asked.
        if self.names[source].versions.len() > from + 1 {
            refusals.insert(404);
        }
        Some(refusals)
    }

    /// Returns what a fork has of its source that the server has created for a request; `None` if
    /// the request asks for another one.
    pub(super) fn inheritance(&self, attempt: usize, head: &StreamRow) -> Option<Inheritance> {
        let fork = head.lineage.fork.as_ref()?;
        let attempt = &self.attempts[attempt];
        let (source, from) = attempt
            .source
            .filter(|(source, _)| *source != attempt.name)?;
        if stream(source) != fork.source {
            return None;
        }
        let (_, id) = *self.machines.get(&fork.incarnation.0)?;
        let place = (fork.segments, fork.units);
        let versions = &self.names[source].versions[from..];
        let incarnations = versions.iter().filter_map(|version| {
            let incarnation = version.state.incarnation.as_ref();
            incarnation.filter(|incarnation| incarnation.id == id)
        });
        let found = incarnations
            .filter_map(|source| source.inheritance(&fork.source, &attempt.request, place))
            .find(|found| found.fork.depth <= self.forks.depth_max);
        // Requests can ask for the same content in different ways.
        let names_expiry = ["Stream-TTL", "Stream-Expires-At"]
            .iter()
            .any(|name| attempt.request.header(name).is_some());
        found.filter(|found| {
            found.fork.depth == fork.depth
                && found.fork.sub_offset == fork.sub_offset
                && names_expiry == (fork.asked_expiry != Expiry::Never)
        })
    }

    /// Notes that a stream was created, and judges that its source has not too many forks.
    pub(super) fn entered(
        &mut self,
        name: usize,
        head: &StreamRow,
        inherits: Option<&Rc<Inheritance>>,
    ) -> Result<(), (Oracle, Mismatch)> {
        let id = self.names[name].model.state.last_incarnation;
        self.machines.insert(head.incarnation.0, (name, id));
        let Some(inherits) = inherits else {
            return Ok(());
        };
        let fork = &inherits.fork;
        let forks = self.forks_of(&fork.source, fork.incarnation).len() as u64;
        if forks > self.forks.forks_max {
            let expected = format!("at most {} forks of {}", self.forks.forks_max, fork.source);
            return Err(mismatch(Oracle::ForkAnswers, expected, forks.to_string()));
        }
        let source = self.index(&fork.source);
        let source = source.and_then(|source| self.incarnation(source));
        let is_inside = source
            .is_some_and(|source| source.id == fork.incarnation && source.is_cut_inside(fork.cut));
        self.notable.push(Notable::Forked {
            deep: fork.depth > 1,
            inside: is_inside,
        });
        Ok(())
    }

    /// Returns the names whose streams are forks of an incarnation and have not ended for good.
    fn forks_of(&self, source: &str, incarnation: u64) -> Vec<String> {
        let names = self.names.iter().enumerate();
        let forks = names.filter(|(_, name)| {
            let state = &name.model.state;
            let present = state.incarnation.as_ref().or(state.hidden.as_deref());
            let fork = present.and_then(|present| present.fork.as_ref());
            fork.is_some_and(|fork| fork.source == source && fork.incarnation == incarnation)
        });
        forks.map(|(number, _)| stream(number)).collect()
    }

    /// Judges that an incarnation may leave the storage, or may stay hidden in it.
    pub(super) fn may_end(
        &self,
        name: usize,
        incarnation: u64,
        is_hidden: bool,
    ) -> Result<(), (Oracle, Mismatch)> {
        let forks = self.forks_of(&stream(name), incarnation);
        let asks = |attempt: &super::Attempt| attempt.source.is_some_and(|(it, _)| it == name);
        if is_hidden && !self.attempts.iter().any(asks) {
            let expected = format!("an end of {}, which nobody forks", stream(name));
            return Err(mismatch(
                Oracle::ForksFreed,
                expected,
                "it is hidden".to_owned(),
            ));
        }
        if !is_hidden && !forks.is_empty() {
            let expected = format!("{}, the source of {forks:?}", stream(name));
            return Err(mismatch(Oracle::Pins, expected, "it has ended".to_owned()));
        }
        Ok(())
    }

    /// Returns whether a stream has ended and must be kept for its forks.
    pub(crate) fn is_kept(&self, name: usize) -> bool {
        let hidden = self.names[name].model.state.hidden.as_ref();
        hidden.is_some_and(|hidden| !self.forks_of(&stream(name), hidden.id).is_empty())
    }
}

/// Judges that the source of each fork is there and keeps what the fork inherits.
pub(crate) fn keep(disks: &BTreeMap<String, Arc<MemoryRows>>) -> Result<(), Mismatch> {
    for (name, disk) in disks {
        let Some(head) = disk.head() else { continue };
        let Some(fork) = &head.lineage.fork else {
            continue;
        };
        let keeps = |source: &Arc<MemoryRows>| {
            let is_it = source
                .head()
                .is_some_and(|it| it.incarnation == fork.incarnation);
            let mut pins = source.pins();
            is_it && pins.any(|pin| pin.fork == head.incarnation && pin.released_at.is_none())
        };
        if !disks.get(&fork.source).is_some_and(keeps) {
            return Err(Mismatch {
                expected: format!("a pin of {name} in {}", fork.source),
                actual: "none".to_owned(),
            });
        }
    }
    Ok(())
}

/// Judges that pins are those of forks, once all work is done.
pub(crate) fn pins_at_rest(disks: &BTreeMap<String, Arc<MemoryRows>>) -> Result<(), Mismatch> {
    keep(disks)?;
    for (name, disk) in disks {
        let Some(head) = disk.head() else { continue };
        let pins = disk.pins().filter(|pin| pin.released_at.is_none());
        let pins: BTreeSet<_> = pins.map(|pin| pin.fork).collect();
        let heads = disks.values().filter_map(|disk| disk.head());
        let forks = heads.filter(|fork| {
            let fork = fork.lineage.fork.as_ref();
            fork.is_some_and(|fork| fork.source == *name && fork.incarnation == head.incarnation)
        });
        let forks: BTreeSet<_> = forks.map(|fork| fork.incarnation).collect();
        if pins != forks {
            return Err(Mismatch {
                expected: format!("{name} is pinned by {forks:?}"),
                actual: format!("{pins:?}"),
            });
        }
    }
    Ok(())
}

fn mismatch(oracle: Oracle, expected: String, actual: String) -> (Oracle, Mismatch) {
    (oracle, Mismatch { expected, actual })
}
