//! Slow effects: puts and deletions in the cold tier, and requests to other streams. Also bodies
//! that are partly cold or have several pages.
//!
//! The machine decides what to do, and what to do after a failure. This module retries nothing, and
//! reports an unknown outcome as a failure.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use machine::outbox::{self, Request};
use machine::segment::{Encoder, Put, Receipt};
use machine::wire::request::{self, Parsed, RequestHead};
use machine::{
    Answer, Body, BodyWriter, CallOutcome, CorruptionError, Effect, Fetch, Input, Rest, Span,
    Storage, StorageError,
};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    WriteMultipart,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::actor::{Answered, JobKind, Rendering, Reply};
use crate::config::Bounds;
use crate::streams::Streams;

/// The queue of effects, and the cold tier if there is one.
#[derive(Debug)]
pub(crate) struct EffectQueue {
    store: Option<Arc<dyn ObjectStore>>,
    effect_jobs: mpsc::UnboundedSender<EffectJob>,
    /// Bytes of segments that may be in memory while they are put.
    room: Arc<Semaphore>,
    room_bytes: u32,
}

/// An effect that an instance of a stream asked for. Its outcome is reported to that instance.
#[derive(Debug)]
pub(crate) struct EffectJob {
    pub(crate) name: Arc<str>,
    pub(crate) instance: u64,
    pub(crate) effect: Effect,
}

/// Why a put has no receipt.
#[derive(Debug, thiserror::Error)]
enum PutError {
    #[error(transparent)]
    Store(#[from] Error),
    #[error(transparent)]
    Path(#[from] object_store::path::Error),
    #[error("the segment's rows could not be read")]
    Rows,
    #[error("there is no cold tier")]
    NoTier,
    #[error("the cold tier did not answer in time")]
    Late,
}

/// Why a page cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    CorruptionError(#[from] CorruptionError),
    #[error(transparent)]
    Store(#[from] Error),
    #[error(transparent)]
    Path(#[from] object_store::path::Error),
    #[error("there is no cold tier")]
    NoTier,
    #[error("the cold tier did not answer in time")]
    Late,
    #[error("the stream has ended, or its turn has failed")]
    Gone,
}

impl FetchError {
    /// Returns the answer for a client that has received nothing yet.
    pub(crate) fn answer(&self, streams: &Streams) -> Answer {
        match self {
            Self::CorruptionError(damaged) => Answer::internal(&damaged.to_string()),
            Self::Store(_) | Self::Path(_) | Self::NoTier | Self::Late | Self::Gone => {
                Answer::unavailable(&streams.settings.limits)
            }
        }
    }
}

impl EffectQueue {
    /// Returns the queue and its receiver.
    pub(crate) fn new(
        store: Option<Arc<dyn ObjectStore>>,
        room_bytes: usize,
    ) -> (Self, mpsc::UnboundedReceiver<EffectJob>) {
        let (effect_jobs, jobs) = mpsc::unbounded_channel();
        let room_bytes = u32::try_from(room_bytes.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let queue = Self {
            store,
            effect_jobs,
            room: Arc::new(Semaphore::new(
                usize::try_from(room_bytes).unwrap_or(usize::MAX),
            )),
            room_bytes,
        };
        (queue, jobs)
    }

    pub(crate) const fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Queues an effect of a durable turn. Its outcome goes to [`Streams::report`], unless the
    /// server ends first.
    pub(crate) fn push(&self, job: EffectJob) {
        drop(self.effect_jobs.send(job));
    }

    /// Waits until `bytes` more fit in memory. A put that is larger than all of the room takes all
    /// of it.
    async fn room_for(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .min(self.room_bytes);
        Arc::clone(&self.room).acquire_many_owned(bytes).await.ok()
    }
}

/// Performs effects until the server ends, and drops those under way then. The machine treats their
/// outcome as unknown.
pub(crate) async fn run(
    streams: Arc<Streams>,
    mut effect_jobs: mpsc::UnboundedReceiver<EffectJob>,
    mut ending: watch::Receiver<bool>,
) {
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = ending.wait_for(|ending| *ending) => break,
            Some(ended) = under_way.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "an effect panicked");
                }
            }
            Some(job) = effect_jobs.recv() => {
                under_way.spawn(carry_out(Arc::clone(&streams), job));
            }
        }
    }
    under_way.shutdown().await;
}

async fn carry_out(streams: Arc<Streams>, job: EffectJob) {
    let EffectJob {
        name,
        instance,
        effect,
    } = job;
    let outcome = match effect {
        Effect::Put(put) => {
            let id = put.id;
            let receipt = put_segment(&streams, &name, put).await;
            Input::PutFinished { id, receipt }
        }
        Effect::Collect { effect, keys } => {
            let done = collect(&streams, &name, keys).await;
            Input::CollectFinished { effect, done }
        }
        Effect::Call {
            effect,
            to,
            request,
        } => {
            let outcome = call_object(&streams, to, request).await;
            let outcome = outcome.unwrap_or(CallOutcome::Failed);
            Input::CallFinished { effect, outcome }
        }
        Effect::Webhook { effect, webhook } => {
            let outcome = streams.webhooks.send(webhook).await;
            Input::CallFinished { effect, outcome }
        }
        Effect::Index { .. } => unreachable!("the limits say that there is no index"),
        Effect::Enqueue { .. } => unreachable!("the limits say that there is no fan-out queue"),
        Effect::Answer { .. } | Effect::Attach { .. } => return,
    };
    streams.report(&name, instance, outcome);
}

/// Stores a segment, within the time that the machine allows. Without a receipt the outcome is
/// unknown.
async fn put_segment(streams: &Arc<Streams>, name: &str, put: Put) -> Option<Receipt> {
    let (key, metrics) = (put.key.clone(), &streams.metrics);
    let time = Duration::from_millis(put.time_ms);
    let put = tokio::time::timeout(time, try_put(streams, name, put));
    match put.await.unwrap_or(Err(PutError::Late)) {
        Ok((receipt, bytes)) => {
            metrics.cold_puts.inc();
            metrics.cold_put_bytes.inc_by(bytes);
            Some(receipt)
        }
        Err(error) => {
            metrics.cold_put_failures.inc();
            tracing::warn!(%name, key, %error, "a segment could not be stored, or the outcome is unknown");
            None
        }
    }
}

async fn try_put(streams: &Arc<Streams>, name: &str, put: Put) -> Result<(Receipt, u64), PutError> {
    let store = streams
        .effect_queue
        .store
        .as_ref()
        .ok_or(PutError::NoTier)?;
    let path = Path::parse(&put.key)?;
    let mut encoded = encode(streams, name, Work::Begin(put)).await?;
    let length = match &encoded.next {
        Next::Piece(encoder) => encoder.length(),
        Next::Receipt(_) => 0,
    };
    let bounds = &streams.bounds;
    let _room = streams
        .effect_queue
        .room_for(length.min(bounds.put_whole_bytes_max))
        .await;
    let mut upload = Upload::begin(&**store, &path, length, bounds).await?;
    let receipt = loop {
        if let Err(error) = upload.push(encoded.piece.into()).await {
            upload.abort().await;
            return Err(error.into());
        }
        match encoded.next {
            Next::Piece(encoder) => match encode(streams, name, Work::Continue(encoder)).await {
                Ok(next) => encoded = next,
                Err(error) => {
                    upload.abort().await;
                    return Err(error);
                }
            },
            Next::Receipt(receipt) => break receipt,
        }
    };
    upload.finish(&**store, &path).await?;
    Ok((receipt, length))
}

/// An object on its way into the cold tier.
enum Upload {
    Whole(Vec<Bytes>),
    Parts(WriteMultipart),
}

impl Upload {
    async fn begin(
        store: &dyn ObjectStore,
        path: &Path,
        length: u64,
        bounds: &Bounds,
    ) -> Result<Self, Error> {
        if length <= bounds.put_whole_bytes_max {
            return Ok(Self::Whole(Vec::new()));
        }
        let upload = store.put_multipart(path).await?;
        Ok(Self::Parts(WriteMultipart::new_with_chunk_size(
            upload,
            bounds.put_part_bytes,
        )))
    }

    async fn push(&mut self, piece: Bytes) -> Result<(), Error> {
        match self {
            Self::Whole(pieces) => pieces.push(piece),
            Self::Parts(parts) => {
                parts.wait_for_capacity(1).await?;
                parts.put(piece);
            }
        }
        Ok(())
    }

    async fn finish(self, store: &dyn ObjectStore, path: &Path) -> Result<(), Error> {
        match self {
            Self::Whole(pieces) => {
                let payload: PutPayload = pieces.into_iter().collect();
                let options = PutOptions::from(PutMode::Create);
                store.put_opts(path, payload, options).await?;
            }
            Self::Parts(parts) => drop(parts.finish().await?),
        }
        Ok(())
    }

    /// Discards the parts. If this fails, or the server ends first, the store's own rule for
    /// incomplete uploads removes them.
    async fn abort(self) {
        if let Self::Parts(parts) = self {
            drop(parts.abort().await);
        }
    }
}

/// Makes the stream encode the next piece of a segment, between its other jobs.
async fn encode(streams: &Arc<Streams>, name: &str, work: Work) -> Result<Encoded, PutError> {
    let (reply_to, encoded) = oneshot::channel();
    streams.encode(name, Encoding { work, reply_to });
    encoded.await.map_err(|_| PutError::Rows)
}

/// A piece of a segment to encode. The stream does this, because it has the rows.
#[derive(Debug)]
pub(crate) struct Encoding {
    work: Work,
    /// Dropped if the rows do not exist.
    reply_to: oneshot::Sender<Encoded>,
}

#[derive(Debug)]
enum Work {
    Begin(Put),
    Continue(Box<Encoder>),
}

#[derive(Debug)]
struct Encoded {
    piece: Vec<u8>,
    next: Next,
}

#[derive(Debug)]
enum Next {
    Piece(Box<Encoder>),
    Receipt(Receipt),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error(transparent)]
    StorageError(#[from] StorageError),
    #[error(transparent)]
    CorruptionError(#[from] CorruptionError),
}

impl Encoding {
    /// Encodes the piece. `frames` reads the frames of a span of the stream's rows.
    ///
    /// # Errors
    /// When the rows no longer exist, or are damaged.
    pub(crate) fn perform(
        self,
        rows: &dyn Storage,
        frames: impl FnOnce(Span) -> Result<Vec<u8>, StorageError>,
    ) -> Result<(), EncodeError> {
        let (piece, next) = match self.work {
            Work::Begin(put) => {
                let encoder = put.begin(rows)?;
                (encoder.head().to_vec(), Next::Piece(Box::new(encoder)))
            }
            Work::Continue(mut encoder) => match encoder.next_span() {
                Some(span) => (encoder.push(frames(span)?)?, Next::Piece(encoder)),
                None => {
                    let (end, receipt) = encoder.finish()?;
                    (end, Next::Receipt(receipt))
                }
            },
        };
        // The receiver may have timed out.
        drop(self.reply_to.send(Encoded { piece, next }));
        Ok(())
    }
}

/// Deletes objects. Returns whether all of them are known to be deleted.
async fn collect(streams: &Streams, name: &str, keys: Vec<String>) -> bool {
    let time = Duration::from_millis(streams.settings.limits.reply_timeout_ms);
    let collected = tokio::time::timeout(time, try_collect(streams, keys));
    match collected.await.unwrap_or(Err(PutError::Late)) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%name, %error, "objects could not be deleted, or the outcome is unknown");
            false
        }
    }
}

async fn try_collect(streams: &Streams, keys: Vec<String>) -> Result<(), PutError> {
    let store = streams
        .effect_queue
        .store
        .as_ref()
        .ok_or(PutError::NoTier)?;
    let paths = keys
        .iter()
        .map(Path::parse)
        .collect::<Result<Vec<_>, _>>()?;
    let mut deleted = store.delete_stream(stream::iter(paths.into_iter().map(Ok)).boxed());
    let mut outcome = Ok(());
    while let Some(each) = deleted.next().await {
        match each {
            // An object that does not exist counts as deleted.
            Ok(_) | Err(Error::NotFound { .. }) => {
                streams.metrics.cold_collected.inc();
            }
            Err(error) => outcome = Err(error.into()),
        }
    }
    outcome
}

/// Sends a request to another stream. Returns how the call ended, if there is an answer.
pub(crate) async fn call_object(
    streams: &Arc<Streams>,
    to: String,
    request: Request,
) -> Option<CallOutcome> {
    let target = outbox::target(&to);
    let header = |name: &str| {
        let found = request.headers.iter().find(|(each, _)| each == name);
        found.map(|(_, value)| value.clone())
    };
    let head = RequestHead {
        method: &request.method,
        origin: outbox::ORIGIN,
        target: &target,
        header: &header,
    };
    let call = match request::parse(head, &streams.settings.limits) {
        Ok(Parsed::Whole(call)) => Ok(call),
        Ok(Parsed::AwaitsBody(awaits)) => awaits.with_body(request.body.into()),
        Err(refusal) => Err(refusal),
    };
    let call = match call {
        Ok(call) => call,
        Err(refusal) => return Some(answered(Answer::refusal(&refusal))),
    };
    let reply = streams.ask(&to, JobKind::Input(streams.call(call)), None);
    match reply.ok()?.await.ok()? {
        Reply::Answered(Answered {
            answer,
            rendering: Some(rendering),
        }) => Some(CallOutcome::Answered {
            status: answer.status,
            body: rendered(streams, &to, rendering).await.ok()?,
        }),
        Reply::Answered(it) => Some(answered(it.answer)),
        Reply::Attached { .. } | Reply::Done => None,
    }
}

fn answered(answer: Answer) -> CallOutcome {
    CallOutcome::Answered {
        status: answer.status,
        body: match answer.body {
            Body::Bytes(bytes) => bytes.into(),
            Body::Empty => Bytes::new(),
            Body::Plan(_) => unreachable!("a plan has a writer"),
        },
    }
}

/// A body that is produced page by page. At most one page of rows and one block from the cold tier
/// are in memory.
pub(crate) struct Pages {
    streams: Arc<Streams>,
    name: Arc<str>,
    /// The writer of the present page.
    writer: BodyWriter,
    source: Source,
}

type Pieces = BoxStream<'static, object_store::Result<Bytes>>;

/// Where the next bytes of a body come from.
enum Source {
    /// The body writer has bytes ready.
    Here,
    /// A request to the cold tier, not sent yet.
    Due(Fetch),
    /// The response of the cold tier, as it arrives.
    Coming(Pieces),
    /// The next page, not requested from the stream yet.
    Next(Rest),
    /// The body is complete.
    End,
}

impl Pages {
    pub(crate) fn new(streams: &Arc<Streams>, name: &str, writer: BodyWriter) -> Self {
        Self {
            streams: Arc::clone(streams),
            name: name.into(),
            writer,
            source: Source::Here,
        }
    }

    /// Returns the next bytes, checked to be as they were stored. Returns `None` at the end.
    ///
    /// # Errors
    /// When an object is damaged, the cold tier does not answer, or the stream was deleted.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let mut written = Vec::new();
        let mut making = None;
        while written.is_empty() {
            match &mut self.source {
                Source::Here => {
                    let fetch = self.writer.advance(&mut written)?;
                    self.source = match (fetch, self.writer.rest()) {
                        (Some(fetch), _) => Source::Due(fetch),
                        (None, Some(rest)) => Source::Next(rest),
                        (None, None) => Source::End,
                    };
                }
                Source::Next(rest) => {
                    // Held until the rows of the page are counted, or it turns out to have none.
                    making = Some(self.streams.make_page().await);
                    let reply = self.streams.read_on(&self.name, *rest).await;
                    let Ok(Reply::Answered(Answered {
                        rendering: Some(Rendering::Writer(writer)),
                        ..
                    })) = reply
                    else {
                        return Err(FetchError::Gone);
                    };
                    self.writer = *writer;
                    self.source = Source::Here;
                }
                Source::Due(fetch) => {
                    drop(making.take());
                    let pieces = self.streams.fetch(fetch).await?;
                    self.source = Source::Coming(pieces.ok_or_else(|| self.writer.missing())?);
                }
                Source::Coming(pieces) => {
                    match self.streams.in_time(pieces.next()).await?.transpose()? {
                        Some(piece) => {
                            self.streams
                                .metrics
                                .cold_fetched_bytes
                                .inc_by(piece.len() as u64);
                            self.writer.push(&piece, &mut written)?;
                        }
                        None => {
                            self.writer.fetched()?;
                            self.source = Source::Here;
                        }
                    }
                }
                Source::End => return Ok(None),
            }
        }
        // The frames of small messages are several times as large, and the page may stay in memory.
        written.shrink_to_fit();
        Ok(Some(written.into()))
    }
}

/// Returns a whole body.
///
/// # Errors
/// When an object is damaged, or the cold tier does not answer.
pub(crate) async fn rendered(
    streams: &Arc<Streams>,
    name: &str,
    rendering: Rendering,
) -> Result<Bytes, FetchError> {
    let mut pages = match rendering {
        Rendering::Page(page) => return Ok(page),
        Rendering::Writer(writer) => Pages::new(streams, name, *writer),
    };
    let first = pages.next().await?.unwrap_or_default();
    let mut whole = BytesMut::from(first);
    while let Some(bytes) = pages.next().await? {
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.freeze())
}

impl Streams {
    /// Requests a range of an object. Returns `None` if the object does not exist.
    async fn fetch(&self, fetch: &Fetch) -> Result<Option<Pieces>, FetchError> {
        let store = self.effect_queue.store.as_ref().ok_or(FetchError::NoTier)?;
        self.metrics.cold_fetches.inc();
        let path = Path::parse(&fetch.key)?;
        let end = fetch.offset + fetch.length;
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(fetch.offset..end)));
        match self.in_time(store.get_opts(&path, options)).await? {
            Ok(found) => Ok(Some(found.into_stream())),
            Err(Error::NotFound { .. }) => Ok(None),
            // Stores refuse a range outside the object with different errors. Treat them all as an
            // empty range.
            Err(error) => match self.in_time(store.head(&path)).await? {
                Ok(object) if object.size < end => Ok(Some(stream::empty().boxed())),
                _ => Err(error.into()),
            },
        }
    }

    /// Asks the cold tier for an object that does not exist.
    ///
    /// # Errors
    /// The reason, when it does not answer.
    pub(crate) async fn probe_cold_tier(&self) -> Result<(), String> {
        let store = self.effect_queue.store.as_ref();
        let store = store.ok_or_else(|| FetchError::NoTier.to_string())?;
        match self
            .in_time(store.head(&Path::from(machine::admin::PROBE_KEY)))
            .await
        {
            Ok(Ok(_) | Err(Error::NotFound { .. })) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(late) => Err(late.to_string()),
        }
    }

    /// Waits for the cold tier, with a time limit.
    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, FetchError> {
        let time = self.bounds.fetch_timeout;
        tokio::time::timeout(time, answer)
            .await
            .map_err(|_| FetchError::Late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    async fn put(store: &dyn ObjectStore, pieces: usize, piece: usize) -> Vec<u8> {
        let path = Path::from("name/incarnation/0-1");
        let (length, bounds) = ((pieces * piece) as u64, Bounds::default());
        let mut upload = Upload::begin(store, &path, length, &bounds).await.unwrap();
        assert_eq!(
            matches!(upload, Upload::Parts(_)),
            length > bounds.put_whole_bytes_max
        );
        for number in 0..pieces {
            let fill = u8::try_from(number % 256).unwrap();
            upload.push(vec![fill; piece].into()).await.unwrap();
        }
        upload.finish(store, &path).await.unwrap();
        let stored = store.get(&path).await.unwrap();
        stored.bytes().await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn an_object_is_the_same_whole_and_in_parts() {
        for pieces in [3, 33] {
            let expected: Vec<u8> = (0..pieces)
                .flat_map(|number| vec![u8::try_from(number).unwrap(); 1_000_000])
                .collect();
            assert!(put(&InMemory::new(), pieces, 1_000_000).await == expected);
            let place = tempfile::tempdir().unwrap();
            let directory = crate::object_stores::DirectoryStore::take(
                place.path(),
                tokio::runtime::Handle::current(),
            )
            .unwrap();
            assert!(put(&directory, pieces, 1_000_000).await == expected);
        }
    }

    #[tokio::test]
    async fn an_upload_that_is_given_up_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let directory = crate::object_stores::DirectoryStore::take(
            place.path(),
            tokio::runtime::Handle::current(),
        )
        .unwrap();
        let path = Path::from("name/incarnation/0-1");
        let bounds = Bounds::default();
        let length = bounds.put_whole_bytes_max + 1;
        let mut upload = Upload::begin(&directory, &path, length, &bounds)
            .await
            .unwrap();
        upload.push(vec![7; 9_000_000].into()).await.unwrap();
        upload.abort().await;
        assert!(directory.get(&path).await.is_err());
    }
}
