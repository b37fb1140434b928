//! The reference model of subscriptions, derived from the protocol (6 and 7): which appends were
//! acknowledged, which streams each subscription follows since when, and what its receivers and
//! workers were offered and have acknowledged. It knows nothing of links, calls, leases or rows.
//!
//! A moment is the number of the event in which something happened.

use std::collections::{BTreeMap, BTreeSet};

use machine::Offset;
use machine::rows::Incarnation;

use super::request::{Asked, Delivery, Kind, Request};

/// A stream or a subscription: its name, and which one of that name.
pub type Life = (String, Incarnation);

#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The streams that exist.
    pub present: BTreeMap<String, Incarnation>,
    pub streams: BTreeMap<Life, Stream>,
    pub followers: BTreeMap<Life, Follower>,
    /// The requests to remove a stream from a subscription.
    removals: BTreeMap<(String, String), Removals>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Removals {
    under_way: u64,
    /// When the last one was answered or lost.
    ended: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// What is durable.
    pub tail: Offset,
    pub appends: Vec<Appended>,
}

/// An acknowledged append.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// When it was asked for.
    pub asked: u64,
    /// When it was acknowledged.
    pub answered: u64,
    /// The offset behind it.
    pub end: Offset,
    /// The time at which it was asked for.
    pub at: u64,
}

/// The acknowledged ends of the streams that a new subscription must not be woken for.
pub type Floors = BTreeMap<Life, Offset>;

/// A subscription.
#[derive(Clone, Debug)]
pub struct Follower {
    pub asked: Asked,
    /// Since when it exists for clients.
    pub since: Option<u64>,
    /// The time of its creation.
    pub at: u64,
    pub is_deleted: bool,
    /// Since when it follows streams that were named; `None` while that is unknown.
    pub named: BTreeMap<String, Option<u64>>,
    pub floors: Floors,
    /// What receivers and workers were offered or have acknowledged: from an offset to another.
    pub offered: BTreeMap<Life, Vec<(Offset, Offset)>>,
    /// Offsets up to which they said that they are done.
    pub acknowledged: BTreeSet<(Life, Offset)>,
}

/// A wake as its receiver or worker sees it.
#[derive(Clone, Debug)]
pub struct Wake {
    /// The subscription.
    pub of: Life,
    pub id: String,
    pub generation: u64,
    pub token: String,
    pub streams: Vec<Offered>,
    pub lease_ms: u64,
}

/// A stream of a wake.
#[derive(Clone, Debug)]
pub struct Offered {
    pub path: String,
    /// Which stream of that name it is; `None` if there is none.
    pub incarnation: Option<Incarnation>,
    pub acked: Option<Offset>,
    pub tail: Offset,
    pub is_pending: bool,
}

/// Returns whether a pattern matches a name (protocol 6.2).
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    fn rest(pattern: &[&str], name: &[&str]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ["**", after @ ..] => (0..=name.len()).any(|skipped| rest(after, &name[skipped..])),
            [first, after @ ..] => name.split_first().is_some_and(|(one, others)| {
                (*first == "*" || first == one) && rest(after, others)
            }),
        }
    }
    let pattern: Vec<_> = pattern.split('/').collect();
    let name: Vec<_> = name.split('/').collect();
    rest(&pattern, &name)
}

impl Asked {
    /// Returns whether the pattern includes a stream. None includes the own wake stream.
    #[must_use]
    pub fn matches(&self, stream: &str) -> bool {
        let is_own = matches!(&self.delivery, Delivery::PullWake(own) if own == stream);
        let pattern = self.pattern.as_deref();
        !is_own && pattern.is_some_and(|pattern| matches(pattern, stream))
    }
}

impl Follower {
    #[must_use]
    pub fn new(asked: Asked, floors: Floors, at: u64) -> Self {
        let named = asked.streams.iter().map(|stream| (stream.clone(), None));
        Self {
            named: named.collect(),
            asked,
            since: None,
            at,
            is_deleted: false,
            floors,
            offered: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
        }
    }

    /// Returns since when it follows a stream for sure; `None` if it may not.
    #[must_use]
    pub fn follows(&self, stream: &str) -> Option<u64> {
        let by_pattern = self.since.filter(|_| self.asked.matches(stream));
        let by_name = self.named.get(stream).copied().flatten();
        by_pattern.into_iter().chain(by_name).min()
    }

    /// Returns whether receivers or workers know of what ends at this offset.
    #[must_use]
    pub fn knows(&self, stream: &Life, end: Offset) -> bool {
        let offered = self.offered.get(stream).into_iter().flatten();
        let mut all = offered.map(|(from, to)| (*from, *to));
        all.any(|(from, to)| from < end && end <= to)
    }

    /// Notes that everything up to an offset was acknowledged.
    pub fn acknowledges(&mut self, stream: Life, offset: Offset) {
        let offered = self.offered.entry(stream.clone()).or_default();
        offered.push((Offset::START, offset));
        self.acknowledged.insert((stream, offset));
    }
}

impl Model {
    /// Notes which stream of a name is durable, and its tail.
    pub fn stream_is(&mut self, name: &str, is: Option<(Incarnation, Offset)>) {
        match is {
            Some((incarnation, tail)) => {
                self.present.insert(name.to_owned(), incarnation);
                let stream = self.streams.entry((name.to_owned(), incarnation));
                stream.or_default().tail = tail;
            }
            None => drop(self.present.remove(name)),
        }
    }

    /// Returns the stream of a name that exists.
    #[must_use]
    pub fn present(&self, name: &str) -> Option<(Life, &Stream)> {
        let life = (name.to_owned(), *self.present.get(name)?);
        self.streams.get(&life).map(|stream| (life, stream))
    }

    /// Returns the tail of a stream, if that very one exists or has existed.
    #[must_use]
    pub fn tail(&self, name: &str, incarnation: Incarnation) -> Option<Offset> {
        let stream = self.streams.get(&(name.to_owned(), incarnation));
        stream.map(|stream| stream.tail)
    }

    /// Notes that a client asks for something.
    pub fn asked(&mut self, request: &Request) {
        let Kind::RemoveStream(stream) = &request.kind else {
            return;
        };
        let key = (request.name.clone(), stream.clone());
        self.removals.entry(key).or_default().under_way += 1;
        for ((id, _), follower) in &mut self.followers {
            if *id == request.name {
                follower.named.insert(stream.clone(), None);
            }
        }
    }

    /// Notes that a request was answered, or will not be, and has no effect from now on.
    pub fn ended(&mut self, request: &Request, now: u64) {
        if let Kind::RemoveStream(stream) = &request.kind {
            let key = (request.name.clone(), stream.clone());
            let removals = self.removals.get_mut(&key).expect("it was asked for");
            removals.under_way -= 1;
            removals.ended = now;
        }
    }

    /// Notes that a subscription follows streams that were named, from now on. The request that
    /// named them was asked earlier.
    pub fn named(&mut self, follower: &Life, streams: &[String], (asked, now): (u64, u64)) {
        let Some(known) = self.followers.get_mut(follower) else {
            return;
        };
        for stream in streams {
            let key = (follower.0.clone(), stream.clone());
            let is_removed = self
                .removals
                .get(&key)
                .is_some_and(|removals| removals.under_way > 0 || removals.ended >= asked);
            let since = known.named.entry(stream.clone()).or_default();
            if since.is_none() && !is_removed {
                *since = Some(now);
            }
        }
    }

    /// Notes what a wake offers.
    pub fn offered(&mut self, wake: &Wake) {
        let Some(follower) = self.followers.get_mut(&wake.of) else {
            return;
        };
        for offered in &wake.streams {
            if let Some(incarnation) = offered.incarnation {
                let life = (offered.path.clone(), incarnation);
                let from = offered.acked.unwrap_or(Offset::START);
                let known = follower.offered.entry(life).or_default();
                known.push((from, offered.tail));
            }
        }
    }

    /// Returns an acknowledged append that a subscription was never offered, although it follows
    /// the stream. What is as close to its creation as clocks differ may count as older.
    #[must_use]
    pub fn never_offered(&self, skew_ms: u64) -> Option<String> {
        let live = self.followers.iter().filter(|(_, it)| !it.is_deleted);
        let all = live
            .flat_map(|(id, follower)| self.present.keys().map(move |name| (id, follower, name)));
        all.filter_map(|(id, follower, name)| {
            let since = follower.follows(name)?;
            let (life, stream) = self.present(name)?;
            let is_new = |append: &&Appended| {
                append.asked >= since && append.at >= follower.at + 2 * skew_ms
            };
            let mut new = stream.appends.iter().filter(is_new);
            let lost = new.find(|append| !follower.knows(&life, append.end))?;
            Some(format!(
                "{} was not offered {name} up to {}",
                id.0, lost.end
            ))
        })
        .next()
    }

    /// Returns an append that was acknowledged before this moment, which a subscription follows
    /// and has not processed, as its cursor shows, if it has one.
    #[must_use]
    pub fn pending_before(
        &self,
        follower: &Life,
        moment: u64,
        cursor: impl Fn(&Life) -> Option<Option<Offset>>,
    ) -> Option<String> {
        let known = self.followers.get(follower).filter(|it| !it.is_deleted)?;
        let mut names = self.present.keys();
        names.find_map(|name| {
            let since = known.follows(name)?;
            let (life, stream) = self.present(name)?;
            let acked = cursor(&life)?.unwrap_or(Offset::START);
            let mut new = stream.appends.iter();
            let is_new =
                |it: &&Appended| it.asked >= since && it.answered < moment && it.end > acked;
            let pending = new.find(is_new)?;
            Some(format!("{name} has events up to {}", pending.end))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_segments() {
        assert!(matches("a/*", "a/1") && !matches("a/*", "a/b/2") && !matches("a/*", "a"));
        assert!(matches("a/**", "a") && matches("a/**", "a/b/2") && matches("**", "b/1"));
        assert!(matches("**/2", "a/b/2") && !matches("*/1", "a/b/1"));
    }
}
