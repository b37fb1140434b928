//! All streams: schedules their actors, and bounds how many instances are in memory.
//!
//! # Lock order
//!
//! 1. The writer of one shard. A thread holds it for a whole batch, its commit included.
//! 2. `StreamActor::state` of one stream. A thread holds it while it runs the stream's jobs, and
//!    again while it performs their effects.
//! 3. `Streams::actors`, the map.
//! 4. `StreamActor::mailbox`.
//! 5. The queue of a shard, its readers, `Streams::loaded`, and `Streams::traffic`. Nothing is
//!    locked under these.
//!
//! A thread takes a lock only while it holds none that comes later. There is one exception: a
//! thread that runs reads holds a state when it finds its shard closed, and opens it. It holds no
//! state of a stream that the shard's batch has, because only one thread at a time runs a stream
//! (`Mailbox::is_scheduled`). The state of a second stream is only tried (`Streams::unload`).
//!
//! To find an actor and to queue a job for it is one step under the map's lock. An actor is removed
//! from the map under that lock too, and only when its mailbox is empty. So no job is queued for an
//! actor that is no longer in the map.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use machine::admin::Traffic;
use machine::router::Settings;
use machine::rows::Incarnation;
use machine::{Call, CallId, Input, Rest};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::actor::{ActorState, Job, JobKind, Reply, StreamActor};
use crate::cold::{EffectJob, EffectQueue, Encoding};
use crate::config::{Bounds, Config};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::page_cache::PageCache;
use crate::platform::Platform;
use crate::room::Reservation;
use crate::shards::Shard;
use crate::storage::{Storage, shard_of};
use crate::webhooks::Webhooks;

/// How many streams are looked at when there are too many in memory. It is more than one, so that
/// their number falls again after all of them were busy.
const EVICTIONS_TRIED: usize = 4;

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
    pub(crate) webhooks: Webhooks,
    pub(crate) shards: Vec<Shard>,
    /// Streams that have jobs, an instance in memory, or subscribers.
    actors: Mutex<HashMap<Arc<str>, Arc<StreamActor>>>,
    /// Streams with an instance in memory, the least recently used first.
    loaded: Mutex<LruCache<Arc<str>, Loaded>>,
    pub(crate) page_cache: PageCache,
    /// Places for further pages of answers that have begun, while they are made.
    pages_made: Arc<Semaphore>,
    calls: AtomicU64,
    instances: AtomicU64,
    subscribers: AtomicU64,
    /// What was appended in the last minutes.
    pub(crate) traffic: Mutex<Traffic>,
}

/// A stream with an instance in memory.
#[derive(Debug)]
struct Loaded {
    actor: Arc<StreamActor>,
    used_at: Instant,
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
        let limits = Arc::make_mut(&mut settings.limits);
        limits.cold = effect_queue.has_store();
        limits.registry = true;
        limits.metrics = true;
        limits.index = false;
        let webhooks = Webhooks::new(&settings.limits, &config.bounds);
        let traffic = Mutex::new(Traffic::new(
            platform.now(),
            config.bounds.traffic_streams_max,
        ));
        let streams = Self {
            settings,
            bounds: config.bounds.clone(),
            shards: (0..storage.shards()).map(|_| Shard::default()).collect(),
            storage,
            alarms_changed: Notify::new(),
            metrics: Metrics::new(),
            health: Health::new(config),
            platform,
            effect_queue,
            webhooks,
            actors: Mutex::default(),
            loaded: Mutex::new(LruCache::unbounded()),
            page_cache: PageCache::new(config.bounds.page_cache_bytes_max),
            pages_made: Arc::new(Semaphore::new(config.bounds.pages_made_max.max(1))),
            calls: AtomicU64::default(),
            instances: AtomicU64::default(),
            subscribers: AtomicU64::default(),
            traffic,
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
            unwritten: None,
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

    /// Queues the notice that a reader has dropped its attachment.
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
            unwritten: None,
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
            unwritten: None,
        };
        self.send(name, job, self.bounds.queue_max).map(|()| reply)
    }

    /// Queues a job, and schedules the actor unless it is scheduled.
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
                let actor = Arc::new(StreamActor::new(
                    name.into(),
                    shard_of(name, self.shards.len()),
                ));
                actors.insert(Arc::clone(&actor.name), Arc::clone(&actor));
                actor
            }
        };
        // The map stays locked, so the actor cannot be removed before it has the job.
        let mut mailbox = actor.mailbox.lock();
        if mailbox.jobs.len() >= queue_max {
            return Err(QueueFullError);
        }
        let only_reads = job.only_reads();
        mailbox.jobs.push_back(job);
        if !mem::replace(&mut mailbox.is_scheduled, true) {
            drop(mailbox);
            drop(actors);
            self.schedule(actor, only_reads);
        }
        Ok(())
    }

    /// Makes a thread run the actor: for reads any, and otherwise that of its shard.
    fn schedule(self: &Arc<Self>, actor: Arc<StreamActor>, only_reads: bool) {
        if !only_reads {
            return self.enqueue(actor);
        }
        let streams = Arc::clone(self);
        self.platform
            .work(Box::new(move || streams.run_reads(&actor)));
    }

    /// Ends a run of an actor, whose turns are all durable or undone. If jobs are left, it runs
    /// again after other streams.
    pub(crate) fn finish(self: &Arc<Self>, actor: &Arc<StreamActor>) {
        let mut state = actor.state.lock();
        let mut actors = self.actors.lock();
        let mut mailbox = actor.mailbox.lock();
        if let Some(next) = mailbox.jobs.front() {
            let only_reads = next.only_reads();
            drop((mailbox, actors, state));
            return self.schedule(Arc::clone(actor), only_reads);
        }
        mailbox.is_scheduled = false;
        // Emptied queues and maps keep their memory, which adds up over many quiet streams.
        mailbox.jobs = VecDeque::new();
        state.release_memory();
        if !state.has_rows && state.pending_effects == 0 {
            // Nothing is gained by an instance of a stream that does not exist.
            state.reset();
        }
        if state.is_idle() {
            actors.remove(&actor.name);
        }
        drop((mailbox, actors));
        if state.machine.is_none() {
            self.loaded.lock().pop(&actor.name);
        }
        drop(state);
        self.keep_few_loaded();
    }

    /// Records that a stream is used.
    pub(crate) fn used(&self, actor: &Arc<StreamActor>, state: &ActorState) {
        if state.machine.is_some() {
            self.loaded(actor);
        }
    }

    /// Records that a stream has an instance in memory, which is used now.
    pub(crate) fn loaded(&self, actor: &Arc<StreamActor>) {
        let loaded = Loaded {
            actor: Arc::clone(actor),
            used_at: Instant::now(),
        };
        self.loaded.lock().put(Arc::clone(&actor.name), loaded);
    }

    /// Drops instances if there are too many in memory. Streams that are running are left out, and
    /// looked at again when they have run.
    fn keep_few_loaded(&self) {
        let mut loaded = self.loaded.lock();
        let mut tries = EVICTIONS_TRIED;
        while loaded.len() > self.bounds.loaded_streams_max && tries > 0 {
            tries -= 1;
            let Some((name, victim)) = loaded.pop_lru() else {
                break;
            };
            drop(loaded);
            let is_unloaded = self.unload(&victim.actor);
            loaded = self.loaded.lock();
            if !is_unloaded {
                loaded.put(name, victim);
            }
        }
        self.metrics.loaded_streams.set(gauge(loaded.len()));
    }

    /// Returns whether a stream in memory has not been used for [`Bounds::stream_idle`].
    pub(crate) fn has_idle(&self) -> bool {
        self.is_idle(&self.loaded.lock(), Instant::now())
    }

    /// Returns whether the stream that has not been used for longest is idle.
    fn is_idle(&self, loaded: &LruCache<Arc<str>, Loaded>, now: Instant) -> bool {
        let oldest = loaded.peek_lru();
        oldest.is_some_and(|(_, oldest)| now - oldest.used_at >= self.bounds.stream_idle)
    }

    /// Drops the instances of all idle streams. An instance that runs, or waits for an outcome, is
    /// not idle.
    pub(crate) fn unload_idle(&self) {
        let now = Instant::now();
        let mut loaded = self.loaded.lock();
        while self.is_idle(&loaded, now) {
            let (_, oldest) = loaded.pop_lru().expect("a stream is idle");
            drop(loaded);
            if !self.unload(&oldest.actor) {
                self.loaded(&oldest.actor);
            }
            loaded = self.loaded.lock();
        }
        self.metrics.loaded_streams.set(gauge(loaded.len()));
    }

    /// Drops the instance of a stream, unless the stream is running or waits for an outcome.
    fn unload(&self, actor: &Arc<StreamActor>) -> bool {
        let Some(mut state) = actor.state.try_lock() else {
            return false;
        };
        let mut actors = self.actors.lock();
        if state.pending_effects > 0 || actor.mailbox.lock().is_scheduled {
            return false;
        }
        state.reset();
        let is_known = actors
            .get(&actor.name)
            .is_some_and(|known| Arc::ptr_eq(known, actor));
        if is_known && state.is_idle() {
            actors.remove(&actor.name);
        }
        true
    }

    pub(crate) const fn shard_count(&self) -> usize {
        self.shards.len()
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
