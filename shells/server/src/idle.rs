//! Frees the memory of streams and of shards that nobody has used for a while.

use std::mem;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::streams::Streams;

/// Frees memory until the server ends.
pub(crate) async fn run(streams: Arc<Streams>, mut ending: watch::Receiver<bool>) {
    let idle = streams.bounds.stream_idle;
    let mut checks = tokio::time::interval_at(Instant::now() + idle, idle);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut were_used = vec![false; streams.shard_count()];
    while !*ending.borrow() {
        tokio::select! {
            biased;
            _ = ending.changed() => {}
            _ = checks.tick() => {
                if streams.has_idle() {
                    let it = Arc::clone(&streams);
                    streams.platform.work(Box::new(move || it.unload_idle()));
                }
                for (shard, was_used) in were_used.iter_mut().enumerate() {
                    let is_used = streams.take_use(shard);
                    if mem::replace(was_used, is_used) && !is_used {
                        let it = Arc::clone(&streams);
                        streams.platform.work(Box::new(move || it.release_memory(shard)));
                    }
                }
            }
        }
    }
}
