//! What the admin API answers about all streams of the server.

use std::io;
use std::sync::Arc;

use machine::Answer;
use machine::admin::{self, Listed, Listing, Service};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::streams::Streams;

/// The reason for an error that the log describes.
const SEE_LOG: &str = "it does not answer; the log has the reason";

impl Streams {
    /// Answers with a page of the list of streams.
    pub(crate) async fn list(self: &Arc<Self>, listing: Listing) -> Answer {
        let (streams, asked) = (Arc::clone(self), listing.clone());
        match self.on_thread(move || streams.names(&asked)).await {
            Ok(names) => listing.answer(self.platform.now(), names),
            Err(error) => {
                tracing::error!(%error, "the streams cannot be listed");
                Answer::unavailable(&self.settings.limits)
            }
        }
    }

    /// Reads the names of a page from all shards.
    fn names(&self, listing: &Listing) -> io::Result<Vec<Listed>> {
        let mut names = Vec::new();
        for shard in 0..self.shard_count() {
            let of_shard = self.read_shard(shard, |reader| {
                reader.list(&listing.from, &listing.before, listing.names_read())
            });
            names.extend(of_shard?);
        }
        names.sort_by(|one, other| one.name().cmp(other.name()));
        let most = usize::try_from(listing.names_read()).unwrap_or(usize::MAX);
        names.truncate(most);
        Ok(names)
    }

    /// Answers which parts of the server are available.
    pub(crate) async fn services(self: &Arc<Self>) -> Answer {
        let mut services = vec![self.storage_service().await];
        if self.effect_queue.has_store() {
            let asked = Instant::now();
            let answered = self.probe_cold_tier().await;
            services.push(service("cold", asked, answered.err().as_deref()));
        }
        admin::health(self.platform.now(), &services)
    }

    async fn storage_service(self: &Arc<Self>) -> Service {
        let asked = Instant::now();
        let (streams, now) = (Arc::clone(self), self.platform.now());
        let read = self.on_thread(move || {
            (0..streams.shard_count()).try_for_each(|shard| {
                let due = streams.read_shard(shard, |reader| reader.due(now, 1));
                due.map(drop)
            })
        });
        let error = match read.await {
            Ok(()) => self.health.trouble(),
            Err(error) => {
                tracing::error!(%error, "a shard cannot be read");
                Some(SEE_LOG)
            }
        };
        service("storage", asked, error)
    }

    /// Runs a closure on a thread that may block.
    async fn on_thread<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (reply_to, reply) = oneshot::channel();
        // The receiver may have gone.
        self.platform
            .work(Box::new(move || drop(reply_to.send(run()))));
        reply.await.map_err(io::Error::other)?
    }
}

fn service(name: &'static str, asked: Instant, error: Option<&str>) -> Service {
    Service {
        name,
        latency_ms: u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX),
        error: error.map(str::to_owned),
    }
}
