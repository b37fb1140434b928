//! Pages: they end at the same position, and content keeps its entity tag, whether it is hot or
//! cold.

use std::collections::BTreeMap;

use super::Oracle;
use super::checker::{Finding, violation};
use crate::ids::ObjectId;

/// The content that an answer is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    pub object: ObjectId,
    pub epoch: u64,
    pub incarnation: u64,
    pub start: u64,
}

/// The entity tag of some content depends on this and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tagged {
    pub source: Source,
    pub end: u64,
    pub is_tail: bool,
    pub closed: bool,
}

/// Holds that pages and entity tags are the same in both tiers.
#[derive(Debug, Default)]
pub struct Pages {
    /// The end of the page from each source of a stream of each length.
    ends: BTreeMap<(Source, u64), u64>,
    tags: BTreeMap<Tagged, String>,
}

impl Pages {
    /// Notes where a page of a stream of length `tail` ended.
    ///
    /// # Errors
    /// When the same page ended elsewhere before.
    pub fn observe_end(&mut self, source: Source, tail: u64, end: u64) -> Finding {
        let before = *self.ends.entry((source, tail)).or_insert(end);
        if before == end {
            return Ok(());
        }
        let expected = format!("a page from {} to {before}, as before", source.start);
        violation(Oracle::SamePages, expected, end.to_string())
    }

    /// Notes the entity tag of some content.
    ///
    /// # Errors
    /// When the same content had another tag before.
    pub fn observe_tag(&mut self, tagged: Tagged, tag: &str) -> Finding {
        let before = self.tags.entry(tagged).or_insert_with(|| tag.to_owned());
        if before == tag {
            return Ok(());
        }
        let (start, end) = (tagged.source.start, tagged.end);
        let expected = format!("the tag {before} of {start} to {end}, as before");
        violation(Oracle::SameTags, expected, tag)
    }
}
