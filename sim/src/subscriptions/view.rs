//! What the rows of a subscription say. The oracles read them, and never the memory of an instance.

use std::collections::{BTreeMap, BTreeSet};

use machine::rows::Incarnation;
use machine::{MemoryRows, Millis, Offset};
use serde::Deserialize;

const HEAD: &str = "head";
const LINK: &str = "link/";

/// The rows of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub head: Option<Head>,
    pub links: BTreeMap<String, Link>,
}

#[derive(Deserialize)]
struct HeadRow {
    subscription: Outer,
}

#[derive(Deserialize)]
struct Outer {
    subscription: Head,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Head {
    pub incarnation: Incarnation,
    pub generation: u64,
    pub stage: Stage,
    pub wake: Option<Wake>,
    pub retry: Retry,
    pub config: Config,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Config {
    pub lease_ttl_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Creating { shards: BTreeSet<u64> },
    Ready,
    Deleted { at: Millis },
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Wake {
    pub id: String,
    pub holder: Option<String>,
    pub leased_until: Option<Millis>,
    pub is_delivered: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Retry {
    pub failures: u64,
    pub next_attempt_at: Option<Millis>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Link {
    pub is_explicit: bool,
    pub is_linking: bool,
    pub incarnation: Option<Incarnation>,
    pub acked: Option<Offset>,
    pub tail: Option<Offset>,
    pub is_held: bool,
}

impl View {
    /// Reads the rows of a subscription. Of any other object it has nothing.
    #[must_use]
    pub fn of(rows: &MemoryRows) -> Self {
        let mut view = Self::default();
        for (key, body) in rows.control() {
            if key == HEAD {
                let head: Option<HeadRow> = serde_json::from_str(body).ok();
                view.head = head.map(|row| row.subscription.subscription);
            } else if let Some(stream) = key.strip_prefix(LINK) {
                let link = serde_json::from_str(body);
                let link = link.expect("the row of a link can be read");
                view.links.insert(stream.to_owned(), link);
            }
        }
        view
    }

    /// Returns the head of a subscription that is not deleted.
    #[must_use]
    pub fn live(&self) -> Option<&Head> {
        let head = self.head.as_ref();
        head.filter(|head| !matches!(head.stage, Stage::Deleted { .. }))
    }

    #[must_use]
    pub fn wake(&self) -> Option<&Wake> {
        self.live()?.wake.as_ref()
    }
}

/// Returns the tail of a stream; `None` if there is none. Nothing is sealed in this world.
#[must_use]
pub fn tail(rows: &MemoryRows) -> Option<(Incarnation, Offset)> {
    let head = rows.head()?;
    let position = rows.rows().map(|row| row.units).sum();
    Some((head.incarnation, Offset::new(head.segment, position)))
}
