//! The admin API: its requests, and what it answers about all streams of the server.

use std::io;
use std::sync::Arc;

use futures_util::future;
use hyper::http::request::Parts;
use machine::admin::{
    self, AdminRoute, Caller, Listed, Listing, SEE_LOG, SubscriptionListing, ToObject,
};
use machine::wire::request::{self, RequestHead};
use machine::{Answer, CallOutcome};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clients::Client;
use crate::cold::call_object;
use crate::http::{Routed, Service, StreamRequest, direct, given};
use crate::streams::Streams;

impl Service {
    /// Routes a request of the admin API; `None` if it is not one.
    pub(crate) fn admin_route(
        &self,
        parts: &Parts,
        origin: &str,
        client: &Client,
    ) -> Option<AdminRoute> {
        let given = |name: &str| given(&parts.headers, name);
        let caller = Caller::Connection {
            is_loopback: client.is_loopback,
        };
        let target = parts.uri.path_and_query();
        let head = RequestHead {
            method: parts.method.as_str(),
            origin: self.streams.settings.location_base(origin),
            target: target.map_or("", |target| target.as_str()),
            header: &given,
        };
        admin::route(head, caller, &self.streams.settings)
    }

    /// Handles a request of the admin API, as far as its body is not needed.
    pub(crate) async fn admin(&self, parts: &Parts, origin: &str, route: AdminRoute) -> Routed {
        let streams = &self.streams;
        let now = streams.platform.now();
        let answer = match route {
            AdminRoute::Stream(to_object) => return self.admin_request(parts, origin, to_object),
            AdminRoute::Answered(answer) => answer,
            AdminRoute::Verify(_) | AdminRoute::Counts(_) => {
                unreachable!("only a platform asks other services")
            }
            AdminRoute::List(listing) => streams.list(listing).await,
            AdminRoute::ListSubscriptions(listing) => streams.list_subscriptions(&listing).await,
            AdminRoute::Hot { minutes, limit } => streams.traffic.lock().hot(now, minutes, limit),
            AdminRoute::System => {
                let readers = u64::try_from(streams.metrics.readers.get());
                let readers = readers.expect("a reader leaves once");
                streams.traffic.lock().system(now, readers)
            }
            AdminRoute::Health => streams.services().await,
        };
        Routed::Answered(direct(&answer))
    }

    /// Makes a request of the admin API one of its stream.
    fn admin_request(&self, parts: &Parts, origin: &str, to_object: ToObject) -> Routed {
        let header = |name: &str| match to_object.replaced(name) {
            Some(value) => value.map(str::to_owned),
            None => given(&parts.headers, name),
        };
        let head = RequestHead {
            method: to_object.method,
            origin: self.streams.settings.location_base(origin),
            target: &to_object.target(),
            header: &header,
        };
        match request::parse(head, &self.streams.settings.limits) {
            Ok(parsed) => Routed::ToStream(StreamRequest {
                parsed,
                is_live: false,
                is_timed: false,
                #[cfg(feature = "test-routes")]
                test: None,
                name: to_object.name,
            }),
            Err(refusal) => Routed::Answered(direct(&Answer::refusal(&refusal))),
        }
    }
}

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

    /// Answers with a page of the list of subscriptions.
    async fn list_subscriptions(self: &Arc<Self>, listing: &SubscriptionListing) -> Answer {
        let asked = listing.questions().map(|(to, question)| async move {
            let outcome = call_object(self, to, question).await;
            outcome.unwrap_or(CallOutcome::Failed)
        });
        let outcomes = future::join_all(asked).await;
        listing.answer(&outcomes, &self.settings.limits)
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

    async fn storage_service(self: &Arc<Self>) -> admin::Service {
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

fn service(name: &'static str, asked: Instant, error: Option<&str>) -> admin::Service {
    admin::Service {
        name,
        latency_ms: u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX),
        error: error.map(str::to_owned),
    }
}
