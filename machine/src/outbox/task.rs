//! Tasks: work that a stream leaves to others, stored until it is known to be done.

use core::fmt;
use core::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::index::Change;
use crate::router::STREAM_PREFIX;
use crate::wire::header;
use crate::{Millis, StorageError};

/// The receiver of a task. The tasks of one queue are carried out one at a time and in the order in
/// which they were added. Queues do not wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// Calls of the object of this stream.
    Call(String),
    /// Changes of the admin index.
    Index,
    /// Removals of tombstones from the admin index. They wait for a grace period, and the other
    /// changes must not wait behind them.
    Purge,
    /// Objects of the cold tier that nothing refers to.
    Segments,
}

impl Queue {
    /// Returns the first queue in their order.
    #[must_use]
    pub const fn first() -> Self {
        Self::Call(String::new())
    }

    /// Reads what [`fmt::Display`] writes.
    ///
    /// # Errors
    /// When the text names no queue of this version.
    pub fn from_stored(text: &str) -> Result<Self, StorageError> {
        match text {
            "index" => Ok(Self::Index),
            "purge" => Ok(Self::Purge),
            "segments" => Ok(Self::Segments),
            text => match text.strip_prefix("call/") {
                Some(name) => Ok(Self::Call(name.to_owned())),
                None => Err(StorageError(format!(
                    "a task of the outbox is in the unknown queue {text:?}"
                ))),
            },
        }
    }
}

/// As stored. The order of the texts is the order of the queues.
impl fmt::Display for Queue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(name) => write!(formatter, "call/{name}"),
            Self::Index => formatter.write_str("index"),
            Self::Purge => formatter.write_str("purge"),
            Self::Segments => formatter.write_str("segments"),
        }
    }
}

/// One row of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Tasks of one queue are numbered in the order in which they were added.
    pub id: u64,
    /// The task does not start before this time.
    pub due_at: Millis,
    /// How often in a row the task has failed, as far as that was stored.
    pub failures: u64,
    /// The work to do.
    pub what: TaskKind,
}

impl Task {
    /// At or after every id.
    pub const LAST_ID: u64 = (1 << 53) - 1;

    /// Reads a stored task.
    ///
    /// # Errors
    /// When this version writes no such row. The message names the queue and the id.
    pub fn from_stored(
        queue: &str,
        id: u64,
        due_at: Millis,
        failures: u64,
        body: &str,
    ) -> Result<Self, StorageError> {
        let unreadable = |error: &dyn fmt::Display| {
            StorageError(format!(
                "task {id} of the outbox's queue {queue:?} cannot be read: {error}"
            ))
        };
        let what: TaskKind = serde_json::from_str(body).map_err(|error| unreadable(&error))?;
        let queue = Queue::from_stored(queue)?;
        if what.queue() != queue {
            return Err(unreadable(&format_args!("it belongs to {}", what.queue())));
        }
        Ok(Self {
            id,
            due_at,
            failures,
            what,
        })
    }
}

/// What a task does. Stored as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Calls the object of another stream. A response in the range of 2xx ends the task; after any
    /// other the call is repeated.
    Call {
        /// The name of the stream.
        to: String,
        /// The request to send.
        request: Request,
        /// Creates the stream with this content type when the response is 404, and then repeats
        /// the call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        create: Option<String>,
    },
    /// Changes rows of the admin index.
    Index(Change),
    /// Deletes objects of the cold tier.
    Collect(Garbage),
}

impl TaskKind {
    /// Returns the queue that the task belongs to.
    #[must_use]
    pub fn queue(&self) -> Queue {
        match self {
            Self::Call { to, .. } => Queue::Call(to.clone()),
            Self::Index(Change::Purged { .. }) => Queue::Purge,
            Self::Index(
                Change::Created { .. }
                | Change::Closed { .. }
                | Change::Stored { .. }
                | Change::Ended { .. },
            ) => Queue::Index,
            Self::Collect(_) => Queue::Segments,
        }
    }

    /// Returns the form in which the task is stored.
    #[must_use]
    pub fn to_stored(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always become JSON")
    }
}

/// A request to the object of another stream. It is like a client's request, and its path is
/// [`target`] of that stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The HTTP method.
    pub method: String,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: String,
}

impl Request {
    /// Returns the request that creates a stream of this content type.
    pub(crate) fn creation(content_type: &str) -> Self {
        Self {
            method: "PUT".to_owned(),
            headers: vec![(header::CONTENT_TYPE.to_owned(), content_type.to_owned())],
            body: String::new(),
        }
    }
}

/// Where requests to other objects come from, as their URLs say it.
pub const ORIGIN: &str = "http://object";

/// Returns the target of a request to the object of this stream.
#[must_use]
pub fn target(stream: &str) -> String {
    format!("{STREAM_PREFIX}{stream}")
}

/// Returns the URL of a request to the object of this stream, for shells that send requests by URL.
#[must_use]
pub fn url(stream: &str) -> String {
    format!("{ORIGIN}{}", target(stream))
}

/// Objects that puts may have left behind: each of these attempts of each of these segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// The prefix of their keys; see [`crate::segment::key_prefix`].
    pub prefix: String,
    /// The segments whose objects to delete.
    pub segments: RangeInclusive<u64>,
    /// The attempts of each segment whose objects to delete.
    pub attempts: RangeInclusive<u64>,
}
