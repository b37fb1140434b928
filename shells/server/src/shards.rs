//! The shards of the storage: the queue of each, its connections, and what happens when its commit
//! fails.
//!
//! A shard is open or closed. After a failed commit it is closed, because the system may show what
//! is not durable. All of its requests are answered 503, until [`Storage::open`] has made
//! everything visible durable through a new connection.
//!
//! [`Storage::open`]: crate::storage::Storage::open

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::actor::StreamActor;
use crate::storage::{Reader, Writer};
use crate::streams::Streams;

/// One shard.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    queue: Mutex<Queue>,
    /// Held by the thread that runs a batch.
    writer: Mutex<WriterState>,
    readers: Mutex<Readers>,
    /// Whether it was used since [`Streams::take_use`].
    is_used: AtomicBool,
}

/// The streams that have jobs for the writer, in order of arrival.
#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Arc<StreamActor>>,
    /// Whether a thread runs the shard, or is scheduled to run it.
    is_running: bool,
}

#[derive(Debug, Default)]
pub(crate) struct WriterState {
    connection: Option<Box<dyn Writer>>,
    /// Attempts to open it since it was last open, and when the next may be made.
    failures: u32,
    open_at: Option<Instant>,
    /// Whether the server has ended.
    is_ended: bool,
}

#[derive(Debug, Default)]
struct Readers {
    is_open: bool,
    /// Counts how often the shard was closed. Connections from before are dropped.
    generation: u64,
    idle: Vec<Box<dyn Reader>>,
}

/// A connection for reads. It goes back with [`Streams::return_reader`].
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) connection: Box<dyn Reader>,
    generation: u64,
}

impl Streams {
    /// Adds a stream to the queue of its shard.
    pub(crate) fn enqueue(self: &Arc<Self>, actor: Arc<StreamActor>) {
        let number = actor.shard;
        let mut queue = self.shards[number].queue.lock();
        queue.ready.push_back(actor);
        if !mem::replace(&mut queue.is_running, true) {
            drop(queue);
            self.schedule_shard(number);
        }
    }

    fn schedule_shard(self: &Arc<Self>, number: usize) {
        let streams = Arc::clone(self);
        self.platform
            .work(Box::new(move || streams.run_shard(number)));
    }

    /// Returns the next stream of the shard's queue.
    pub(crate) fn next_ready(&self, number: usize) -> Option<Arc<StreamActor>> {
        self.shards[number].queue.lock().ready.pop_front()
    }

    /// Runs one batch of a shard. If streams are left, other shards come first.
    fn run_shard(self: &Arc<Self>, number: usize) {
        self.shards[number].is_used.store(true, Ordering::Relaxed);
        let mut writer = self.shards[number].writer.lock();
        match self.opened(number, &mut writer) {
            Ok(()) => self.run_batch(number, &mut writer),
            Err(error) => {
                tracing::debug!(shard = number, %error, "a shard is closed");
                let ready = mem::take(&mut self.shards[number].queue.lock().ready);
                for actor in ready {
                    self.fail_jobs(&actor);
                }
            }
        }
        drop(writer);
        let mut queue = self.shards[number].queue.lock();
        if queue.ready.is_empty() {
            queue.is_running = false;
        } else {
            drop(queue);
            self.schedule_shard(number);
        }
    }

    /// Opens a shard unless it is open.
    fn opened(&self, number: usize, writer: &mut WriterState) -> io::Result<()> {
        if writer.connection.is_some() {
            return Ok(());
        }
        if writer.is_ended || writer.open_at.is_some_and(|at| at > Instant::now()) {
            return Err(io::Error::other("the shard is closed"));
        }
        match self.storage.open(number) {
            Ok(connection) => {
                if writer.open_at.is_some() {
                    tracing::info!(shard = number, "a shard is open again");
                }
                *writer = WriterState {
                    connection: Some(connection),
                    ..WriterState::default()
                };
                self.shards[number].readers.lock().is_open = true;
                // A commit with an unknown outcome may have set one.
                self.alarms_changed.notify_one();
                Ok(())
            }
            Err(error) => {
                tracing::error!(shard = number, %error, "a shard cannot be opened");
                self.health.failed(number);
                let pause = self.bounds.reopen_pause;
                let pause = pause.saturating_mul(1 << writer.failures.min(16));
                let pause: Duration = pause.min(self.bounds.reopen_pause_max);
                writer.failures += 1;
                writer.open_at = Some(Instant::now() + pause);
                Err(error)
            }
        }
    }

    /// Closes a shard whose last commit has an unknown outcome.
    pub(crate) fn close_shard(&self, number: usize, writer: &mut WriterState) {
        self.close_readers(number);
        // The next request may open it.
        *writer = WriterState {
            open_at: Some(Instant::now()),
            ..WriterState::default()
        };
    }

    fn close_readers(&self, number: usize) {
        let mut readers = self.shards[number].readers.lock();
        *readers = Readers {
            generation: readers.generation + 1,
            ..Readers::default()
        };
    }

    /// Lends a connection for reads.
    ///
    /// # Errors
    /// When the shard is closed, or there is no further connection.
    pub(crate) fn reader(&self, number: usize) -> io::Result<Lent> {
        let shard = &self.shards[number];
        shard.is_used.store(true, Ordering::Relaxed);
        let mut readers = shard.readers.lock();
        if !readers.is_open {
            drop(readers);
            self.opened(number, &mut shard.writer.lock())?;
            readers = shard.readers.lock();
        }
        let generation = readers.generation;
        let idle = readers.idle.pop();
        drop(readers);
        let connection = match idle {
            Some(connection) => connection,
            None => self.storage.reader(number).inspect_err(|error| {
                tracing::error!(shard = number, %error, "a shard cannot be opened for reads");
            })?,
        };
        Ok(Lent {
            connection,
            generation,
        })
    }

    /// Takes a connection back. A few are kept.
    pub(crate) fn return_reader(&self, number: usize, lent: Lent) {
        let mut readers = self.shards[number].readers.lock();
        let is_kept = readers.is_open
            && readers.generation == lent.generation
            && readers.idle.len() < self.bounds.readers_kept_max;
        if is_kept {
            readers.idle.push(lent.connection);
        }
    }

    /// Uses a connection for reads.
    ///
    /// # Errors
    /// Also when the shard is closed.
    pub(crate) fn read_shard<T>(
        &self,
        number: usize,
        read: impl FnOnce(&dyn Reader) -> io::Result<T>,
    ) -> io::Result<T> {
        let lent = self.reader(number)?;
        let answer = read(&*lent.connection);
        self.return_reader(number, lent);
        answer
    }

    /// Returns whether a shard was used since the last call.
    pub(crate) fn take_use(&self, number: usize) -> bool {
        self.shards[number].is_used.swap(false, Ordering::Relaxed)
    }

    /// Frees what the connections of a shard keep in memory, unless they are busy.
    pub(crate) fn release_memory(&self, number: usize) {
        let shard = &self.shards[number];
        let idle = mem::take(&mut shard.readers.lock().idle);
        drop(idle);
        if let Some(mut writer) = shard.writer.try_lock()
            && let Some(connection) = &mut writer.connection
            && let Err(error) = connection.release_memory()
        {
            tracing::warn!(shard = number, %error, "the memory of a shard could not be freed");
        }
    }

    /// Opens every shard.
    ///
    /// # Errors
    /// The first error.
    pub(crate) fn open_shards(&self) -> io::Result<()> {
        for (number, shard) in self.shards.iter().enumerate() {
            self.opened(number, &mut shard.writer.lock())?;
        }
        Ok(())
    }

    /// Closes every shard for good. Waits for batches that are running.
    pub(crate) fn close_shards(&self) {
        for (number, shard) in self.shards.iter().enumerate() {
            let mut writer = shard.writer.lock();
            self.close_readers(number);
            writer.is_ended = true;
            if let Some(connection) = writer.connection.take()
                && let Err(error) = connection.close()
            {
                tracing::error!(shard = number, %error, "a shard could not be closed");
            }
        }
    }
}

impl WriterState {
    /// Returns the connection, which is open during a batch.
    pub(crate) fn connection(&mut self) -> &mut dyn Writer {
        let connection = self.connection.as_deref_mut();
        connection.expect("a batch runs only while its shard is open")
    }
}
