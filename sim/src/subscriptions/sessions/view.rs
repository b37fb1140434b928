//! What the rows say of a session, and of the sessions that follow a stream.

use std::collections::BTreeMap;

use machine::rows::Incarnation;
use machine::{MemoryRows, Millis, Offset};
use serde::Deserialize;
use serde::de::DeserializeOwned;

const SUBSCRIBED: &str = "subscribed/";
const EXPIRED: &str = "expired";
const FOLLOWER: &str = "follower/";
const FOLLOWERS: &str = "followers";

/// The rows of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::subscriptions) struct View {
    pub(super) exists: bool,
    pub(super) expired_at: Option<Millis>,
    /// By the names of the streams.
    pub(super) subscribed: BTreeMap<String, Subscribed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Subscribed {
    pub(super) subscription: Incarnation,
    pub(super) from: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Place {
    pub(super) incarnation: Incarnation,
    pub(super) offset: Option<Offset>,
}

#[derive(Deserialize)]
struct Follower {
    subscription: Incarnation,
}

fn read<T: DeserializeOwned>(body: &str) -> T {
    serde_json::from_str(body).expect("a row of a session can be read")
}

impl View {
    pub(in crate::subscriptions) fn of(rows: &MemoryRows) -> Self {
        let mut view = Self {
            exists: rows.head().is_some(),
            ..Self::default()
        };
        for (key, body) in rows.control() {
            if key == EXPIRED {
                view.expired_at = Some(read(body));
            } else if let Some(stream) = key.strip_prefix(SUBSCRIBED) {
                view.subscribed.insert(stream.to_owned(), read(body));
            }
        }
        view
    }
}

/// Returns the sessions that follow a stream, and their subscriptions.
pub(super) fn followers(rows: &MemoryRows) -> BTreeMap<String, Incarnation> {
    let followers = rows.control().filter_map(|(key, body)| {
        let session = key.strip_prefix(FOLLOWER)?;
        Some((session.to_owned(), read::<Follower>(body).subscription))
    });
    followers.collect()
}

/// Returns whether a row is one of a session, or of the sessions that follow a stream.
pub(super) fn is_of_session(key: &str) -> bool {
    key == EXPIRED || key.starts_with(SUBSCRIBED) || is_of_followers(key)
}

/// Returns whether a row is one of the sessions that follow a stream.
pub(in crate::subscriptions) fn is_of_followers(key: &str) -> bool {
    key == FOLLOWERS || key.starts_with(FOLLOWER)
}
