//! Fires the alarms of streams as they come due.
//!
//! A bounded number of alarms is under way at the same time. One whose turn fails comes again after
//! a pause that doubles with each failure, so that it delays no other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Bounds;
use crate::storage::Due;
use crate::streams::Streams;

/// The longest pause between two polls, because the clock may be set forward.
const POLL_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A stream whose alarm has failed.
#[derive(Debug)]
struct Paused {
    failures: u32,
    until: Instant,
}

#[derive(Debug, Default)]
struct Alarms {
    under_way: BTreeSet<String>,
    /// Ends with the stream's name, and whether its turn has succeeded.
    turns: JoinSet<(String, bool)>,
    paused: BTreeMap<String, Paused>,
    /// Whether the last poll left out some that may fire when another turn has ended.
    has_more: bool,
}

/// Fires alarms until the server ends.
pub(crate) async fn run(streams: Arc<Streams>, mut ending: watch::Receiver<bool>) {
    let mut alarms = Alarms::default();
    let mut poll_at = Instant::now();
    while !*ending.borrow() {
        if Instant::now() >= poll_at && alarms.has_room(&streams.bounds) {
            let pause = alarms.poll(&streams).await;
            poll_at = Instant::now() + pause;
        }
        tokio::select! {
            biased;
            _ = ending.changed() => {}
            Some(ended) = alarms.turns.join_next(), if !alarms.turns.is_empty() => {
                if let Ok((name, done)) = ended {
                    alarms.ended(&streams.bounds, name, done);
                    if alarms.has_more || !done {
                        poll_at = Instant::now();
                    }
                }
            }
            () = streams.alarms_changed.notified() => poll_at = Instant::now(),
            () = tokio::time::sleep_until(poll_at), if alarms.has_room(&streams.bounds) => {}
        }
    }
}

impl Alarms {
    fn has_room(&self, bounds: &Bounds) -> bool {
        self.under_way.len() < bounds.alarms_max
    }

    /// Fires what is due, and returns how long to wait before the next poll.
    async fn poll(&mut self, streams: &Arc<Streams>) -> Duration {
        let now = Instant::now();
        let retry_max = streams.bounds.alarm_retry_max;
        self.paused
            .retain(|_, paused| paused.until + retry_max > now);
        self.has_more = false;
        let mut pause = POLL_PAUSE_MAX;
        for shard in 0..streams.shard_count() {
            // Ask for more than can fire, because alarms that are busy or paused are due for
            // longest.
            let busy = self.under_way.len() + self.paused.len();
            let limit = (streams.bounds.alarms_max + busy) as u64;
            let (due, next) = match due(streams, shard, limit).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::error!(shard, %error, "the alarms of a shard cannot be read");
                    pause = pause.min(streams.bounds.alarm_retry);
                    continue;
                }
            };
            if let Some(next) = next {
                let left = next.0.saturating_sub(streams.platform.now().0);
                pause = pause.min(Duration::from_millis(left));
            }
            for name in due {
                if self.under_way.contains(&name) {
                    // It may have been set anew in that turn.
                    self.has_more = true;
                    continue;
                }
                if let Some(paused) = self.paused.get(&name).filter(|it| it.until > now) {
                    pause = pause.min(paused.until - now);
                    continue;
                }
                if !self.has_room(&streams.bounds) {
                    self.has_more = true;
                    break;
                }
                self.fire(streams, name);
            }
        }
        pause
    }

    fn fire(&mut self, streams: &Arc<Streams>, name: String) {
        let reply = streams.alarm(&name);
        self.under_way.insert(name.clone());
        self.turns.spawn(async move {
            let done = match reply {
                Ok(reply) => reply.await.is_ok(),
                Err(_) => false,
            };
            (name, done)
        });
    }

    fn ended(&mut self, bounds: &Bounds, name: String, done: bool) {
        self.under_way.remove(&name);
        if done {
            self.paused.remove(&name);
            return;
        }
        let failures = self.paused.get(&name).map_or(0, |paused| paused.failures);
        let doubled = bounds.alarm_retry.saturating_mul(1 << failures.min(16));
        let until = Instant::now() + doubled.min(bounds.alarm_retry_max);
        let failures = failures + 1;
        self.paused.insert(name, Paused { failures, until });
    }
}

/// Asks a shard for due alarms, on a thread that may block.
async fn due(streams: &Arc<Streams>, shard: usize, limit: u64) -> io::Result<Due> {
    let (it, now) = (Arc::clone(streams), streams.platform.now());
    let (reply_to, due) = oneshot::channel();
    streams.platform.work(Box::new(move || {
        let due = it.read_shard(shard, |reader| reader.due(now, limit));
        drop(reply_to.send(due));
    }));
    due.await.map_err(io::Error::other)?
}
