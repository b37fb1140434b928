//! Entity tags: one names one state of one stream.

use std::collections::{BTreeMap, BTreeSet};

use super::Oracle;
use super::checker::{Finding, violation};
use crate::ids::ObjectId;

/// The state that an entity tag was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub object: ObjectId,
    pub incarnation: u64,
    pub end: u64,
    pub closed: bool,
}

/// Holds that an entity tag names one state.
#[derive(Debug, Default)]
pub struct EntityTags {
    named: BTreeMap<String, Named>,
    /// States of open streams that a tag was sent for.
    open: BTreeSet<Named>,
}

impl EntityTags {
    /// Notes that a tag was sent for a state.
    ///
    /// # Errors
    /// When it was sent for another one before.
    pub fn observe(&mut self, tag: &str, named: Named) -> Finding {
        if !named.closed {
            self.open.insert(named);
        }
        match self.named.insert(tag.to_owned(), named) {
            Some(before) if before != named => violation(
                Oracle::EntityTags,
                format!("{tag} for {before:?} only"),
                format!("{named:?}"),
            ),
            _ => Ok(()),
        }
    }

    /// Returns whether a tag was sent for the same content before the stream was closed.
    #[must_use]
    pub fn was_open(&self, named: Named) -> bool {
        let open = Named {
            closed: false,
            ..named
        };
        named.closed && self.open.contains(&open)
    }
}
