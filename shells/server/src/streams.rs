//! All streams: schedules their actors, and bounds how many of their files are open.
//!
//! # Lock order
//!
//! 1. `StreamActor::state` of one stream. A thread holds it for a whole batch, its commit included.
//! 2. `Streams::actors`, the map.
//! 3. `StreamActor::mailbox`.
//!
//! A thread takes a lock only while it holds none that comes later. `Streams::open` may be taken
//! under the state, but never together with the map or a mailbox, and nothing is locked under it.
//! The state of a second stream is only tried ([`Streams::opened`]), because two threads that each
//! close the other's file would wait for each other. The storage has its own locks, which it
//! takes last.
//!
//! To find an actor and to queue a job for it is one step under the map's lock. An actor is removed
//! from the map under that lock too, and only when its mailbox is empty. So no job is queued for an
//! actor that is no longer in the map.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use machine::router::Settings;
use machine::rows::Incarnation;
use machine::{Call, CallId, Input, Rest};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::actor::{Job, JobKind, Reply, StreamActor};
use crate::cold::{EffectJob, EffectQueue, Encoding};
use crate::config::{Bounds, Config};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::platform::Platform;
use crate::room::Reservation;
use crate::storage::Storage;

#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) settings: Settings,
    pub(crate) bounds: Bounds,
    pub(crate) storage: Arc<dyn Storage>,
    /// An alarm was set. It may be the next one to fire.
    pub(crate) alarms_changed: Notify,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) effect_queue: EffectQueue,
    /// Streams that have jobs, an open file, or subscribers.
    actors: Mutex<HashMap<Arc<str>, Arc<StreamActor>>>,
    /// Streams whose file is open, the least recently used first.
    open: Mutex<LruCache<Arc<str>, Arc<StreamActor>>>,
    /// Places for further pages of answers that have begun, while they are made.
    pages_made: Arc<Semaphore>,
    calls: AtomicU64,
    instances: AtomicU64,
    subscribers: AtomicU64,
}

/// The queue of the stream is full.
#[derive(Debug)]
pub(crate) struct QueueFullError;

impl Streams {
    /// Returns the streams of a storage, and the receiver of their effects.
    pub(crate) fn new(
        config: &Config,
        platform: Arc<dyn Platform>,
        storage: Arc<dyn Storage>,
        cold: Option<Arc<dyn ObjectStore>>,
    ) -> (Self, UnboundedReceiver<EffectJob>) {
        let (effect_queue, effect_jobs) = EffectQueue::new(cold, config.bounds.puts_bytes_max);
        let mut settings = config.settings.clone();
        // The limits say which parts this shell has.
        settings.limits.cold = effect_queue.has_store();
        settings.limits.registry = true;
        settings.limits.index = false;
        let streams = Self {
            settings,
            bounds: config.bounds.clone(),
            storage,
            alarms_changed: Notify::new(),
            metrics: Metrics::new(),
            health: Health::new(config),
            platform,
            effect_queue,
            actors: Mutex::default(),
            open: Mutex::new(LruCache::unbounded()),
            pages_made: Arc::new(Semaphore::new(config.bounds.pages_made_max.max(1))),
            calls: AtomicU64::default(),
            instances: AtomicU64::default(),
            subscribers: AtomicU64::default(),
        };
        (streams, effect_jobs)
    }

    /// Gives a call an id.
    pub(crate) fn call(&self, call: Call) -> Input {
        let id = CallId(self.calls.fetch_add(1, Ordering::Relaxed));
        Input::Call { id, call }
    }

    /// Requests the next page of an answer. The queue has no bound for it, because each response
    /// requests one page at a time.
    pub(crate) fn read_on(self: &Arc<Self>, name: &str, rest: Rest) -> oneshot::Receiver<Reply> {
        let id = CallId(self.calls.fetch_add(1, Ordering::Relaxed));
        let (reply_to, reply) = oneshot::channel();
        let job = Job {
            kind: JobKind::Input(Input::Continue { id, rest }),
            reply_to: Some(reply_to),
            held: None,
        };
        drop(self.send(name, job, usize::MAX));
        reply
    }

    /// Waits for a place to make a further page of an answer that has begun. The page's rows exceed
    /// the memory for answers if there is no room, so that only a few are read at the same time.
    pub(crate) async fn make_page(&self) -> OwnedSemaphorePermit {
        let places = Arc::clone(&self.pages_made);
        let place = places.acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    /// Returns a number that no other instance of any stream has.
    pub(crate) fn instance(&self) -> u64 {
        self.instances.fetch_add(1, Ordering::Relaxed)
    }

    /// Reports the outcome of an effect to the instance that asked for it.
    pub(crate) fn report(self: &Arc<Self>, name: &str, instance: u64, outcome: Input) {
        self.send_always(name, JobKind::Outcome { instance, outcome });
    }

    /// Makes a stream encode a piece of a segment.
    pub(crate) fn encode(self: &Arc<Self>, name: &str, encoding: Encoding) {
        self.send_always(name, JobKind::Encode(encoding));
    }

    /// Returns a number that no other subscriber has. Numbers are not reused, because a stream may
    /// get a message about a subscriber that left long ago.
    pub(crate) fn subscriber(&self) -> u64 {
        self.subscribers.fetch_add(1, Ordering::Relaxed)
    }

    /// Fires a stream's alarm.
    pub(crate) fn alarm(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<oneshot::Receiver<Reply>, QueueFullError> {
        self.ask(name, JobKind::Input(Input::Alarm), None)
    }

    /// Queues the notice that a reader has dropped its subscription.
    pub(crate) fn leave(self: &Arc<Self>, name: &str, subscriber: u64, incarnation: Incarnation) {
        self.send_always(
            name,
            JobKind::Leave {
                subscriber,
                incarnation,
            },
        );
    }

    /// Queues a job beyond the bound. Subscribers and effects are bounded elsewhere.
    fn send_always(self: &Arc<Self>, name: &str, kind: JobKind) {
        let job = Job {
            kind,
            reply_to: None,
            held: None,
        };
        drop(self.send(name, job, usize::MAX));
    }

    /// Queues a job. The reply comes over the channel. If the job fails, the channel closes.
    pub(crate) fn ask(
        self: &Arc<Self>,
        name: &str,
        kind: JobKind,
        held: Option<Reservation>,
    ) -> Result<oneshot::Receiver<Reply>, QueueFullError> {
        let (reply_to, reply) = oneshot::channel();
        let job = Job {
            kind,
            reply_to: Some(reply_to),
            held,
        };
        self.send(name, job, self.bounds.queue_max).map(|()| reply)
    }

    /// Queues a job, and schedules the actor if it is not running.
    fn send(
        self: &Arc<Self>,
        name: &str,
        job: Job,
        queue_max: usize,
    ) -> Result<(), QueueFullError> {
        let mut actors = self.actors.lock();
        let actor = match actors.get(name) {
            Some(actor) => Arc::clone(actor),
            None => {
                let actor = Arc::new(StreamActor::new(name.into()));
                actors.insert(Arc::clone(&actor.name), Arc::clone(&actor));
                actor
            }
        };
        // The map stays locked, so the actor cannot be removed before it has the job.
        let mut mailbox = actor.mailbox.lock();
        if mailbox.jobs.len() >= queue_max {
            return Err(QueueFullError);
        }
        mailbox.jobs.push_back(job);
        if !std::mem::replace(&mut mailbox.is_running, true) {
            drop(mailbox);
            drop(actors);
            self.schedule(actor);
        }
        Ok(())
    }

    fn schedule(self: &Arc<Self>, actor: Arc<StreamActor>) {
        let streams = Arc::clone(self);
        self.platform.work(Box::new(move || streams.run(&actor)));
    }

    /// Runs one batch of a stream. If jobs are left, other streams come first.
    fn run(self: &Arc<Self>, actor: &Arc<StreamActor>) {
        let mut state = actor.state.lock();
        if state.database.is_some() {
            self.open.lock().promote(&actor.name);
        }
        state.run_batch(self, actor);
        let mut actors = self.actors.lock();
        let mut mailbox = actor.mailbox.lock();
        if !mailbox.jobs.is_empty() {
            drop((actors, mailbox, state));
            self.schedule(Arc::clone(actor));
            return;
        }
        mailbox.is_running = false;
        if state.is_idle() {
            actors.remove(&actor.name);
        }
    }

    /// Records that a stream's file is open, and closes files of other streams if there are too
    /// many. The bound is exceeded by at most one file for each thread of the pool.
    pub(crate) fn opened(&self, actor: &StreamActor) {
        let this = self.actors.lock().get(&actor.name).map(Arc::clone);
        let Some(this) = this else { return };
        let mut open = self.open.lock();
        open.put(Arc::clone(&actor.name), this);
        self.metrics.open_streams.set(gauge(open.len()));
        let mut tries = open.len();
        while open.len() > self.bounds.open_streams_max && tries > 0 {
            tries -= 1;
            let Some((name, victim)) = open.pop_lru() else {
                break;
            };
            drop(open);
            let closed = self.put_to_sleep(&victim);
            open = self.open.lock();
            if !closed {
                open.put(name, victim);
            }
        }
        self.metrics.open_streams.set(gauge(open.len()));
    }

    /// Closes the file of a stream, unless a thread runs the stream.
    fn put_to_sleep(&self, actor: &Arc<StreamActor>) -> bool {
        let Some(mut state) = actor.state.try_lock() else {
            return false;
        };
        state.sleep(&actor.name);
        let mut actors = self.actors.lock();
        let is_known = actors
            .get(&actor.name)
            .is_some_and(|known| Arc::ptr_eq(known, actor));
        if is_known && state.is_idle() && !actor.mailbox.lock().is_running {
            actors.remove(&actor.name);
        }
        true
    }

    /// Records that a stream's file is closed.
    pub(crate) fn closed(&self, actor: &StreamActor) {
        let mut open = self.open.lock();
        open.pop(&actor.name);
        self.metrics.open_streams.set(gauge(open.len()));
    }

    /// Uses the storage on a thread that may block.
    pub(crate) async fn ask_storage<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let streams = Arc::clone(self);
        let (reply_to, done) = oneshot::channel();
        self.platform
            .work(Box::new(move || drop(reply_to.send(act(&streams)))));
        Ok(done.await??)
    }

    /// Closes every file. Waits for streams that are running.
    pub(crate) fn close(&self) {
        loop {
            let Some((_, actor)) = self.open.lock().pop_lru() else {
                return;
            };
            actor.state.lock().sleep(&actor.name);
        }
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
