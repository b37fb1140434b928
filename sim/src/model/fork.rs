//! Forks: what a fork has of its source, and why a source refuses one (protocol 4.2, 5.1).

use std::collections::BTreeSet;
use std::rc::Rc;

use super::content::{Content, extend};
use super::faults::{essence, time};
use super::state::Incarnation;
use crate::request::Request;
use crate::segments::{Segments, token};

/// The path of the streams on the server.
pub const ROOT: &str = "/v1/stream/";
pub const FORKED_FROM: &str = "Stream-Forked-From";
pub const FORK_OFFSET: &str = "Stream-Fork-Offset";
pub const FORK_SUB_OFFSET: &str = "Stream-Fork-Sub-Offset";

/// The source of a fork, and what the creation asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkOf {
    /// The name of the source, and its incarnation.
    pub source: String,
    pub incarnation: u64,
    /// The position of the fork offset.
    pub anchor: u64,
    pub sub_offset: u64,
    /// How many units are inherited.
    pub cut: u64,
    /// How many forks lie between the stream and one that is no fork: at least 1.
    pub depth: u64,
    pub(super) asked_ttl: Option<u64>,
    pub(super) asked_expires: Option<u64>,
}

/// What a fork has of its source.
#[derive(Clone, Debug)]
pub struct Inheritance {
    pub fork: ForkOf,
    pub content_type: String,
    pub(super) ttl: Option<u64>,
    pub(super) expires: Option<(u64, String)>,
    pub(super) content: Rc<Content>,
    pub(super) ends: Rc<Vec<u64>>,
    pub(super) segments: Rc<Segments>,
}

/// What is known of the source when a fork is to be created.
#[derive(Clone, Debug, Default)]
pub struct Forking {
    /// What the fork that was created has of it.
    pub inherits: Option<Rc<Inheritance>>,
    /// The statuses with which the creation may be refused.
    pub refusals: BTreeSet<u16>,
}

/// Returns the name of the source of a fork's creation; `None` if a request does not create one.
#[must_use]
pub fn source_of(request: &Request) -> Option<&str> {
    let path = request.header(FORKED_FROM);
    path.filter(|_| request.method == "PUT")
        .map(|path| path.strip_prefix(ROOT).unwrap_or(path))
}

pub(super) fn sub_offset(request: &Request) -> u64 {
    let text = request.header(FORK_SUB_OFFSET);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl ForkOf {
    /// Returns whether a PUT names the same source and the same place in it.
    pub(super) fn is_asked_for(&self, request: &Request, segments: &Segments) -> bool {
        let is_there = request.header(FORK_OFFSET).is_none_or(|text| {
            let place = token(text).and_then(|token| segments.place(token, self.cut));
            place == Some(self.anchor)
        });
        source_of(request) == Some(&self.source)
            && sub_offset(request) == self.sub_offset
            && is_there
    }
}

impl Incarnation {
    /// Returns the place of the fork offset and the number of units that a fork inherits, or the
    /// status with which it is refused.
    fn parting(&self, request: &Request) -> Result<(u64, u64), u16> {
        let tail = self.content.len();
        let anchor = match request.header(FORK_OFFSET) {
            None => Some(tail),
            Some(text) => token(text).and_then(|token| self.segments.place(token, tail)),
        };
        let anchor = anchor.ok_or(400_u16)?;
        let sub_offset = sub_offset(request);
        if sub_offset == 0 {
            return Ok((anchor, anchor));
        }
        // At most up to the end of the append that has the next unit.
        let end = self.ends.iter().find(|end| **end > anchor);
        let cut = anchor.checked_add(sub_offset);
        match (cut, end) {
            (Some(cut), Some(end)) if cut <= *end => Ok((anchor, cut)),
            _ => Err(400),
        }
    }

    /// Returns the statuses with which a fork of this stream may be refused, if any.
    #[must_use]
    pub fn refuses(&self, request: &Request) -> BTreeSet<u16> {
        let mut refusals = BTreeSet::new();
        if named_type(request).is_some_and(|text| essence(text) != essence(&self.content_type)) {
            refusals.insert(409);
        }
        refusals.extend(self.parting(request).err());
        let mut content = super::content::empty(&self.content_type);
        if !request.body.is_empty() && extend(&mut content, &request.body).is_none() {
            refusals.insert(400);
        }
        refusals
    }

    /// Returns what a fork of this stream inherits: everything before `(segments, units)`, the
    /// place at which the server has cut. `None` if the request asks for another place, or is
    /// refused.
    #[must_use]
    pub fn inheritance(
        &self,
        name: &str,
        request: &Request,
        (segments, units): (u64, u64),
    ) -> Option<Inheritance> {
        if !self.refuses(request).is_empty() {
            return None;
        }
        let (anchor, cut) = self.parting(request).ok()?;
        let mut inherited = self.segments.up_to(segments.saturating_sub(1));
        if let Some(last) = segments.checked_sub(1) {
            if inherited.sealed() != last || inherited.start(last)?.checked_add(units)? != cut {
                return None;
            }
            inherited.seal(cut);
        } else if cut != 0 {
            return None;
        }
        let ends = self.ends.iter().copied().filter(|end| *end < cut);
        let ends = ends.chain(Some(cut).filter(|cut| *cut > 0)).collect();
        Some(Inheritance {
            fork: ForkOf {
                source: name.to_owned(),
                incarnation: self.id,
                anchor,
                sub_offset: sub_offset(request),
                cut,
                depth: self.fork.as_ref().map_or(0, |fork| fork.depth) + 1,
                asked_ttl: asked_ttl(request),
                asked_expires: asked_expires(request).map(|(at, _)| at),
            },
            content_type: self.content_type.clone(),
            ttl: self.ttl,
            expires: self.expires.clone(),
            content: Rc::new(self.content.prefix(cut)),
            ends: Rc::new(ends),
            segments: Rc::new(inherited),
        })
    }

    /// Returns whether what is inherited ends inside an append of this stream.
    #[must_use]
    pub fn is_cut_inside(&self, cut: u64) -> bool {
        cut > 0 && !self.ends.contains(&cut)
    }
}

/// Returns the content type that a creation names.
pub(super) fn named_type(request: &Request) -> Option<&str> {
    let text = request.header("Content-Type");
    text.filter(|text| !text.trim().is_empty())
}

pub(super) fn asked_ttl(request: &Request) -> Option<u64> {
    let text = request.header("Stream-TTL");
    text.and_then(|text| text.parse().ok())
}

pub(super) fn asked_expires(request: &Request) -> Option<(u64, String)> {
    let text = request.header("Stream-Expires-At");
    text.and_then(|text| Some((time(text)?, text.to_owned())))
}
