//! The request header `X-Test-Op`, by which tests inspect and break streams. It needs the feature
//! `test-routes`, which no release has.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use machine::rows::StoredSegment;
use machine::{Answer, Object, StorageError, segment};
use tokio::sync::oneshot;

use crate::actor::{ActorState, JobKind};
use crate::http::{Outgoing, response, unavailable};
use crate::platform::Platform;
use crate::storage::Rows;
use crate::streams::Streams;

/// A test operation on a stream.
#[derive(Debug)]
pub(crate) enum Test {
    /// Drop the instance, and detach every subscriber.
    Reset,
    /// Send statistics.
    Stats(oneshot::Sender<String>),
    /// The operation was performed.
    Done,
}

/// What happens to the commit of a request's turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CommitTest {
    /// It takes five seconds.
    Slow,
    /// It fails, with an unknown outcome.
    Fails,
}

impl CommitTest {
    /// Reads the value of the header.
    pub(crate) fn named(operation: &str) -> Option<Self> {
        match operation {
            "slow-commit" => Some(Self::Slow),
            "failed-commit" => Some(Self::Fails),
            _ => None,
        }
    }

    pub(crate) fn perform(self) -> io::Result<()> {
        match self {
            Self::Slow => {
                thread::sleep(Duration::from_secs(5));
                Ok(())
            }
            Self::Fails => Err(io::Error::other("asked for by a test")),
        }
    }
}

impl Test {
    /// Performs the operation.
    pub(crate) fn perform(
        &mut self,
        state: &mut ActorState,
        platform: &dyn Platform,
        rows: Option<&dyn Rows>,
    ) {
        match std::mem::replace(self, Self::Done) {
            Self::Done => {}
            Self::Reset => {
                state.reset();
                state.subscribers.clear();
            }
            Self::Stats(reply_to) => {
                let tables = rows.map(|rows| rows.tables());
                let segments = rows.map(stored_segments);
                let timers = state.machine.iter().flat_map(Object::timers);
                let timers: Vec<_> = timers
                    .map(|timer| format!("\"{}\":{}", timer.reason, timer.at.0))
                    .collect();
                let stats = format!(
                    "{{\"instance\":\"{:016x}\",\"subscribers\":{},\"timers\":{{{}}},\"tables\":{:?},\"segments\":[{}]}}",
                    state.instance(platform).unwrap_or_default(),
                    state.subscribers.len(),
                    timers.join(","),
                    tables.and_then(Result::ok).unwrap_or_default(),
                    segments.and_then(Result::ok).unwrap_or_default().join(","),
                );
                drop(reply_to.send(stats));
            }
        }
    }
}

/// Returns the segments that are known to be stored, each as JSON.
fn stored_segments(rows: &dyn Rows) -> Result<Vec<String>, StorageError> {
    let mut stored = Vec::new();
    let Some(head) = rows.head()? else {
        return Ok(stored);
    };
    let prefix = segment::key_prefix(&head.name, head.incarnation);
    for number in 0.. {
        let Some(sealed) = rows.segment(number)? else {
            break;
        };
        if let Some(StoredSegment { attempt, .. }) = sealed.stored {
            let key = segment::key(&prefix, number, attempt);
            stored.push(format!(
                "{{\"segment\":{number},\"units\":{},\"messages\":{},\"key\":{key:?},\"incarnation\":\"{}\"}}",
                sealed.units, sealed.messages, head.incarnation
            ));
        }
    }
    Ok(stored)
}

pub(crate) async fn answer(
    streams: &Arc<Streams>,
    name: &str,
    asked: Option<&str>,
) -> Option<Outgoing> {
    match asked? {
        "reset" => {
            let done = streams
                .ask(name, JobKind::Test(Test::Reset), None)
                .ok()?
                .await;
            Some(done.map_or_else(
                |_| unavailable(streams),
                |_| response(&Answer::uncached(204), Vec::new()),
            ))
        }
        "stats" => {
            let (reply_to, stats) = oneshot::channel();
            drop(streams.ask(name, JobKind::Test(Test::Stats(reply_to)), None));
            let stats = stats.await;
            Some(stats.map_or_else(
                |_| unavailable(streams),
                |stats| response(&Answer::uncached(200), stats.into_bytes()),
            ))
        }
        _ => None,
    }
}
