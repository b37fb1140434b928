//! The state of a name: the stream that it names now, and those before it.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Bounds;
use super::content::Content;
use super::fork::ForkOf;
use crate::request::Request;
use crate::segments::{Segments, Tag, Token, spell, tag, token};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) id: String,
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

/// A stream from its creation to its end.
#[derive(Clone, Debug)]
pub struct Incarnation {
    /// Counts the creations of this name.
    pub id: u64,
    pub content_type: String,
    pub(super) ttl: Option<u64>,
    pub(super) expires: Option<(u64, String)>,
    /// The last use that certainly counts, and the last that may.
    pub(super) used: (u64, u64),
    /// Whether an instance has been lost since the last use.
    pub(super) forgot: bool,
    pub closed: bool,
    pub(super) closed_by: Option<Claim>,
    pub content: Rc<Content>,
    /// Where each append ends.
    pub(super) ends: Rc<Vec<u64>>,
    pub segments: Rc<Segments>,
    /// Present if it is a fork.
    pub fork: Option<ForkOf>,
    pub(super) producers: Rc<BTreeMap<String, (u64, u64)>>,
    /// The name of this incarnation in its entity tags, once one was seen.
    pub(super) named: Option<String>,
    /// The time of each producer's last append.
    pub(super) produced_at: Rc<BTreeMap<String, u64>>,
    pub(super) stream_seq: Option<String>,
}

impl Incarnation {
    /// Returns the time from which the stream may be gone, and the time from which it must be.
    #[must_use]
    pub fn ends(&self, bounds: &Bounds) -> Option<(u64, u64)> {
        if let Some((at, _)) = &self.expires {
            return Some((*at, *at));
        }
        let ttl_ms = self.ttl?.saturating_mul(1_000);
        let (early, late) = if self.forgot {
            (bounds.skew_ms, ttl_ms / bounds.slack_divisor)
        } else {
            (0, 0)
        };
        let least = self.used.0.saturating_add(ttl_ms).saturating_sub(early);
        Some((
            least,
            self.used.1.saturating_add(ttl_ms).saturating_add(late),
        ))
    }

    /// Returns the TTL in milliseconds.
    #[must_use]
    pub fn ttl_ms(&self) -> Option<u64> {
        self.ttl.map(|seconds| seconds.saturating_mul(1_000))
    }

    /// Returns the text of its `Stream-Expires-At`.
    #[must_use]
    pub fn expires(&self) -> Option<&str> {
        self.expires.as_ref().map(|(_, text)| text.as_str())
    }

    #[must_use]
    pub fn producers(&self) -> &BTreeMap<String, (u64, u64)> {
        &self.producers
    }

    #[must_use]
    pub fn stream_seq(&self) -> Option<&str> {
        self.stream_seq.as_deref()
    }

    /// Returns whether a condition of the request fails (RFC 9110, 13.1); `None` if that cannot be
    /// known because no entity tag of this incarnation was seen.
    pub(super) fn fails(&self, request: &Request) -> Option<bool> {
        let matched = request
            .header("If-Match")
            .map(|list| self.is_named_in(list, false));
        let unmatched = request
            .header("If-None-Match")
            .map(|list| self.is_named_in(list, true));
        match (matched, unmatched) {
            (Some(Some(false)), _) | (_, Some(Some(true))) => Some(true),
            (Some(None), _) | (_, Some(None)) => None,
            _ => Some(false),
        }
    }

    pub(super) fn is_named_in(&self, list: &str, weak: bool) -> Option<bool> {
        // A star means anything only if it is the whole list.
        if list == "*" {
            return Some(true);
        }
        let mut known = Some(false);
        for each in list.split(',').map(str::trim) {
            let strong = if weak {
                each.trim_start_matches("W/")
            } else {
                each
            };
            let names =
                |tag: &Tag<'_>| !tag.is_page && tag.closed == self.closed && self.is_at(tag.end);
            let Some(tag) = tag(strong).filter(names) else {
                continue;
            };
            match &self.named {
                Some(named) if named == tag.incarnation => return Some(true),
                Some(_) => {}
                None => known = None,
            }
        }
        known
    }

    /// Returns whether an offset is one of the names of the tail.
    pub(super) fn is_at(&self, offset: Token) -> bool {
        let tail = self.content.len();
        [true, false]
            .map(|earlier| self.segments.spell(tail, earlier))
            .contains(&spell(offset))
    }

    /// Returns whether `Stream-Expected-Offset` names something other than the tail.
    pub(super) fn ends_elsewhere(&self, request: &Request) -> bool {
        match request.header("Stream-Expected-Offset") {
            None => false,
            Some("-1") => !self.content.is_empty(),
            Some(text) => !token(text).is_some_and(|offset| self.is_at(offset)),
        }
    }

    /// Notes where an append ends, unless it is empty.
    pub(super) fn note_end(&mut self) {
        let length = self.content.len();
        if self.ends.last().copied().unwrap_or(0) < length {
            Rc::make_mut(&mut self.ends).push(length);
        }
    }

    pub(super) fn use_at(&mut self, now: u64) {
        self.used = (self.used.0.max(now), self.used.1.max(now));
        self.forgot = self.forgot && now < self.used.1;
    }

    pub(super) fn maybe_used_at(&mut self, now: u64) {
        self.used.1 = self.used.1.max(now);
    }
}

/// The part of the model that a crash can take back.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub incarnation: Option<Incarnation>,
    /// The last incarnation, if it has ended and forks still need it (protocol 4.2, 5.4).
    pub hidden: Option<Rc<Incarnation>>,
    /// The id of the last incarnation.
    pub last_incarnation: u64,
    pub history: Rc<Vec<Created>>,
}

/// A creation, as the registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    pub at: u64,
    pub content_type: String,
    /// The source of a fork.
    pub forked_from: Option<String>,
}
