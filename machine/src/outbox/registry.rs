//! Events of the registry: the calls by which a stream reports its creation and its end.

use serde::{Deserialize, Serialize};

use super::task::{Request, TaskKind};
use crate::Millis;
use crate::router::name;
use crate::storage::rows::Incarnation;
use crate::wire::header;

const APPLICATION_JSON: &str = "application/json";

/// A message of a registry stream.
#[derive(Serialize, Deserialize)]
struct StateEvent {
    r#type: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<StreamValue>,
    headers: EventHeaders,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StreamValue {
    path: String,
    content_type: String,
    created_at: Millis,
    /// The source of a fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forked_from: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct EventHeaders {
    operation: String,
}

/// Returns the event of a creation.
pub(crate) fn created(
    shard: u64,
    incarnation: Incarnation,
    path: &str,
    content_type: &str,
    created_at: Millis,
    forked_from: Option<String>,
) -> TaskKind {
    let event = StateEvent {
        r#type: "stream".to_owned(),
        key: path.to_owned(),
        value: Some(StreamValue {
            path: path.to_owned(),
            content_type: content_type.to_owned(),
            created_at,
            forked_from,
        }),
        headers: EventHeaders {
            operation: "insert".to_owned(),
        },
    };
    append(shard, incarnation.to_string(), 0, &event)
}

/// Returns the event of a stream's end.
pub(crate) fn ended(shard: u64, incarnation: Incarnation, path: &str) -> TaskKind {
    let event = StateEvent {
        r#type: "stream".to_owned(),
        key: path.to_owned(),
        value: None,
        headers: EventHeaders {
            operation: "delete".to_owned(),
        },
    };
    append(shard, format!("{incarnation}-end"), 0, &event)
}

/// Returns the call that appends an event. Each event has its own producer, so that it is appended
/// exactly once (protocol 5.2.1) even if the registry has forgotten the producer of the
/// incarnation's other event.
fn append(shard: u64, producer: String, seq: u64, event: &StateEvent) -> TaskKind {
    let header = |name: &str, value: String| (name.to_owned(), value);
    TaskKind::Call {
        to: name::of_registry_shard(shard),
        request: Request {
            method: "POST".to_owned(),
            headers: vec![
                header(header::CONTENT_TYPE, APPLICATION_JSON.to_owned()),
                header(header::PRODUCER_ID, producer),
                header(header::PRODUCER_EPOCH, "0".to_owned()),
                header(header::PRODUCER_SEQ, seq.to_string()),
            ],
            body: serde_json::to_string(event).expect("strings and numbers always become JSON"),
        },
        create: Some(APPLICATION_JSON.to_owned()),
    }
}

/// An event as outboxes without queues stored it.
#[derive(Deserialize)]
struct OlderEvent {
    producer: String,
    seq: u64,
    #[serde(default)]
    shard: u64,
    event: StateEvent,
}

/// Reads an event that an outbox without queues stored.
///
/// # Errors
/// When the text is no such event.
pub(crate) fn from_older(text: &str) -> serde_json::Result<TaskKind> {
    let OlderEvent {
        producer,
        seq,
        shard,
        event,
    } = serde_json::from_str(text)?;
    Ok(append(shard, producer, seq, &event))
}
