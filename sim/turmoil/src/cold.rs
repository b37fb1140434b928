//! The server's cold tier, which outlives every server. A put or a deletion is done, not done, or
//! done late, and reported or not. A body comes in pieces, breaks off, or never comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Display, Formatter};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use machine::segment::key_prefix;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use sim::cold_tier::{self, DeleteOutcome, Deletes, Objects, PutOutcome, Report};
use sim::oracles::Oracle;
use tokio::time::sleep;

use crate::coverage::{Fault, Situation};
use crate::shared::{Inner, Shared, now};

/// The greatest number of pieces of a body.
const PIECES_MAX: u64 = 4;

/// The objects in the tier, and the puts and deletions under way.
#[derive(Debug, Default)]
pub(crate) struct ColdTier {
    pub(crate) objects: Objects,
    /// Every key that a put was ever begun for.
    begun: BTreeSet<String>,
    /// The changes under way, by the times at which they are done.
    coming: BTreeMap<(u64, u64), Coming>,
    count: u64,
}

#[derive(Debug)]
struct Coming {
    change: Change,
    /// Whether its caller no longer waits, so that it may have been broken off.
    cut: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Change {
    Put { key: String, bytes: Bytes },
    Delete { keys: Vec<String> },
}

/// The tasks that wait for a change.
struct Waiting {
    cut: Arc<AtomicBool>,
    at: u64,
    is_over: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_over {
            self.cut.store(true, Ordering::Relaxed);
        }
    }
}

impl ColdTier {
    pub(crate) fn is_still(&self) -> bool {
        self.coming.is_empty()
    }

    /// Returns whether there is an object whose key begins with `prefix`.
    fn has_with_prefix(&self, prefix: &str) -> bool {
        let next = self.objects.range(prefix.to_owned()..).next();
        next.is_some_and(|(key, _)| key.starts_with(prefix))
    }

    fn plan(&mut self, at: u64, change: Change) -> Waiting {
        let cut = Arc::new(AtomicBool::new(false));
        self.count += 1;
        let coming = Coming {
            change,
            cut: Arc::clone(&cut),
        };
        self.coming.insert((at, self.count), coming);
        Waiting {
            cut,
            at,
            is_over: false,
        }
    }
}

impl Inner {
    /// Returns the key of every object that a stream refers to.
    pub(crate) fn referenced(&self) -> BTreeSet<String> {
        self.disks
            .values()
            .flat_map(|disk| cold_tier::referenced(disk))
            .collect()
    }

    /// Carries out what is due.
    pub(crate) fn settle_tier(&mut self, now: u64) {
        while let Some(entry) = self
            .tier
            .coming
            .first_entry()
            .filter(|entry| entry.key().0 <= now)
        {
            let Coming { change, cut } = entry.remove();
            if cut.load(Ordering::Relaxed) && self.choices.upto(1) == 1 {
                self.cover(Situation::ColdCutOff);
                self.note("cold", || format!("{change:?} is broken off"));
                continue;
            }
            match change {
                Change::Put { key, bytes } => self.land(key, bytes),
                Change::Delete { keys } => self.delete(&keys),
            }
        }
    }

    fn land(&mut self, key: String, bytes: Bytes) {
        self.note("cold", || format!("{key} is stored, {} bytes", bytes.len()));
        let mut heads = self.disks.values().filter_map(|disk| disk.head());
        if !heads.any(|head| key.starts_with(&key_prefix(&head.name, head.incarnation))) {
            self.cover(Situation::PutAfterEnd);
        }
        self.tier.objects.insert(key, bytes);
    }

    fn delete(&mut self, keys: &[String]) {
        self.note("cold", || format!("{keys:?} are deleted"));
        let referenced = self.referenced();
        for key in keys {
            if referenced.contains(key) {
                let expected = "no object to be deleted that a stream refers to".to_owned();
                return self.fail(Oracle::Segments, expected, key.clone());
            }
            let was_there = self.tier.objects.remove(key).is_some();
            self.cover(if was_there {
                Situation::Collected
            } else {
                Situation::CollectionRepeated
            });
        }
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let choice = self.choices.upto(all.len() as u64 - 1);
        all[usize::try_from(choice).unwrap_or(0)]
    }

    /// Draws how long something takes without a fault.
    fn takes(&mut self) -> u64 {
        let most = self.settings.tier_ms;
        self.choices.upto(most)
    }

    fn takes_longer(&mut self, is_late: bool) -> u64 {
        let most = if is_late { self.settings.late_ms } else { 0 };
        self.choices.upto(most)
    }

    /// Returns whether the tier is overloaded.
    fn throttled(&mut self) -> Result<()> {
        if self.fault(Fault::Throttle) {
            self.changed(Fault::Throttle);
            self.cover(Situation::Throttled);
            return Err(failed("slow down"));
        }
        Ok(())
    }
}

fn failed(what: &'static str) -> Error {
    Error::Generic {
        store: "Bucket",
        source: what.into(),
    }
}

/// The tier as one server sees it.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) shared: Shared,
    pub(crate) boot: u64,
}

impl Display for Bucket {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("Bucket")
    }
}

/// The outcome of a request, the report on it, and the time of the report.
struct Asked<T> {
    waiting: Option<Waiting>,
    report: Report,
    reported_at: u64,
    answer: T,
}

/// A part of a body, and how long it takes.
enum Piece {
    Bytes(u64, Bytes),
    Broken(u64),
    Silence,
}

impl Bucket {
    /// Waits for ever if the server is dead, because nothing leaves a dead server.
    async fn leave(&self) {
        if self.shared.lock().alive(self.boot).is_err() {
            pending::<()>().await;
        }
    }

    /// Waits for the report.
    async fn wait<T>(&self, asked: Asked<T>) -> (Report, T) {
        let Asked {
            mut waiting,
            report,
            reported_at,
            answer,
        } = asked;
        match report {
            Report::Never => pending::<()>().await,
            Report::Failure => {}
            Report::Truth => {
                if let Some(waiting) = &waiting {
                    sleep(Duration::from_millis(waiting.at.saturating_sub(now()))).await;
                    let at = waiting.at.max(now());
                    self.shared.lock().settle_tier(at);
                }
            }
        }
        sleep(Duration::from_millis(reported_at.saturating_sub(now()))).await;
        if let Some(waiting) = &mut waiting {
            waiting.is_over = true;
        }
        (report, answer)
    }

    fn begin_put(&self, key: String, bytes: Bytes, mode: &PutMode) -> Result<Asked<()>> {
        let mut shared = self.shared.lock();
        shared.settle_tier(now());
        shared.note("cold", || format!("{key} is put, {} bytes", bytes.len()));
        if !shared.tier.begun.insert(key.clone()) || *mode != PutMode::Create {
            let expected = "a key that was never used, once".to_owned();
            shared.fail(Oracle::Keys, expected, format!("{key}, {mode:?}"));
        }
        if shared.tier.objects.contains_key(&key) && *mode == PutMode::Create {
            return Err(Error::AlreadyExists {
                path: key,
                source: "put before".into(),
            });
        }
        shared.throttled()?;
        let others = key.rsplit_once('-').map_or("", |(others, _)| others);
        if !key.ends_with("-1") && shared.tier.has_with_prefix(others) {
            shared.cover(Situation::PutStoredUnreported);
        }
        let takes = shared.takes();
        let outcome = if shared.fault(Fault::Put) {
            shared.changed(Fault::Put);
            let outcome = shared.one_of(&PutOutcome::BAD);
            shared.cover(match outcome.report {
                Report::Truth => Situation::PutLate,
                Report::Failure => Situation::PutFailed,
                Report::Never => Situation::PutUnanswered,
            });
            shared.note("cold", || format!("{key}: {outcome:?}"));
            outcome
        } else {
            PutOutcome::GOOD
        };
        let longer = shared.takes_longer(outcome.is_late);
        let change = Change::Put { key, bytes };
        let waiting = outcome
            .lands
            .then(|| shared.tier.plan(now() + takes + longer, change));
        Ok(Asked {
            waiting,
            report: outcome.report,
            reported_at: now() + takes,
            answer: (),
        })
    }

    fn begin_get(&self, path: &Path, options: &GetOptions) -> Result<Asked<GetResult>> {
        let mut shared = self.shared.lock();
        shared.settle_tier(now());
        let throttled = shared.throttled();
        if throttled.is_err() {
            // This holds even for a page whose beginning was sent.
            shared.disturbances += 1;
        }
        throttled?;
        let key = path.as_ref();
        let Some(object) = shared.tier.objects.get(key).cloned() else {
            shared.note("cold", || format!("{key} is asked for, and not there"));
            return Err(Error::NotFound {
                path: key.to_owned(),
                source: "no such object".into(),
            });
        };
        let size = object.len() as u64;
        let asked = options.range.as_ref().unwrap_or(&GetRange::Offset(0));
        let range = asked.as_range(size).map_err(|error| Error::Generic {
            store: "Bucket",
            source: error.into(),
        })?;
        let [from, to] =
            [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        let bytes = if options.head {
            Bytes::new()
        } else {
            object.slice(from..to)
        };
        shared.note("cold", || format!("{key} is asked for, {range:?}"));
        let takes = shared.takes();
        let mut report = Report::Truth;
        let mut ending = None;
        if shared.fault(Fault::Get) {
            shared.changed(Fault::Get);
            shared.disturbances += 1;
            let (situation, how) = shared.one_of(&[
                (Situation::GetFailed, (Report::Failure, false)),
                (Situation::GetCut, (Report::Truth, false)),
                (Situation::GetSilent, (Report::Truth, true)),
                (Situation::GetUnanswered, (Report::Never, false)),
            ]);
            shared.cover(situation);
            shared.note("cold", || format!("{key}: {}", situation.text()));
            report = how.0;
            if report == Report::Truth {
                ending = Some(if how.1 {
                    Piece::Silence
                } else {
                    Piece::Broken(0)
                });
            }
        }
        let payload = self.pieces(&mut shared, bytes, ending);
        let meta = ObjectMeta {
            location: path.clone(),
            last_modified: Default::default(),
            size,
            e_tag: None,
            version: None,
        };
        let answer = GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        };
        Ok(Asked {
            waiting: None,
            report,
            reported_at: now() + takes,
            answer,
        })
    }

    /// Makes a body that comes in parts, and only some of them if it breaks off.
    fn pieces(
        &self,
        shared: &mut Inner,
        bytes: Bytes,
        ending: Option<Piece>,
    ) -> BoxStream<'static, Result<Bytes>> {
        let mut rest = bytes;
        if ending.is_some() {
            let part = shared.choices.upto(rest.len() as u64);
            rest.truncate(usize::try_from(part).unwrap_or(0));
        }
        let trickles = shared.fault(Fault::Trickle);
        let count = 1 + if trickles {
            shared.choices.upto(PIECES_MAX - 1)
        } else {
            0
        };
        if trickles && count > 1 {
            shared.changed(Fault::Trickle);
        }
        let mut pieces = VecDeque::new();
        for left in (1..=count).rev() {
            let takes = if trickles { shared.takes() } else { 0 };
            let piece = rest.split_to(rest.len().div_ceil(usize::try_from(left).unwrap_or(1)));
            if !piece.is_empty() {
                pieces.push_back(Piece::Bytes(takes, piece));
            }
        }
        pieces.extend(ending);
        let shared = self.shared.clone();
        let pieces = stream::unfold(pieces, move |mut pieces| {
            let shared = shared.clone();
            async move {
                let (takes, piece) = match pieces.pop_front()? {
                    Piece::Bytes(takes, bytes) => (takes, Ok(bytes)),
                    Piece::Broken(takes) => (takes, Err(failed("the body breaks off, as drawn"))),
                    Piece::Silence => {
                        shared.lock().disturbances += 1;
                        return pending().await;
                    }
                };
                sleep(Duration::from_millis(takes)).await;
                if piece.is_err() {
                    shared.lock().disturbances += 1;
                }
                Some((piece, pieces))
            }
        });
        pieces.boxed()
    }

    fn begin_deletion(&self, paths: &[Path]) -> Result<Asked<Vec<Result<Path>>>> {
        let mut shared = self.shared.lock();
        shared.settle_tier(now());
        shared.note("cold", || format!("{paths:?} are to be deleted"));
        shared.throttled()?;
        let takes = shared.takes();
        let outcome = if shared.fault_ever(Fault::Collect) {
            shared.changed(Fault::Collect);
            shared.cover(Situation::CollectionFailed);
            shared.one_of(&DeleteOutcome::BAD)
        } else {
            DeleteOutcome::GOOD
        };
        let mut keys: Vec<_> = paths.iter().map(|path| path.as_ref().to_owned()).collect();
        match outcome.deletes {
            Deletes::None => keys.clear(),
            Deletes::AllButLast => drop(keys.pop()),
            Deletes::All => {}
        }
        let gone = if outcome.report == Report::Truth {
            paths.len()
        } else {
            0
        };
        let deleted = if outcome.deletes == Deletes::AllButLast {
            keys.len()
        } else {
            gone
        };
        let mut answer = Vec::new();
        for (at, path) in paths.iter().enumerate() {
            let is_there = shared.tier.objects.contains_key(path.as_ref());
            answer.push(if at >= deleted {
                Err(failed("not deleted, as drawn"))
            } else if !is_there && shared.choices.upto(1) == 1 {
                Err(Error::NotFound {
                    path: path.as_ref().to_owned(),
                    source: "no such object".into(),
                })
            } else {
                Ok(path.clone())
            });
        }
        let longer = shared.takes_longer(outcome.is_late);
        let change = Change::Delete { keys };
        Ok(Asked {
            waiting: Some(shared.tier.plan(now() + takes + longer, change)),
            report: outcome.report,
            reported_at: now() + takes,
            answer,
        })
    }

    async fn delete_all(&self, paths: Vec<Result<Path>>) -> Vec<Result<Path>> {
        let paths: Result<Vec<_>> = paths.into_iter().collect();
        self.leave().await;
        match paths.and_then(|paths| self.begin_deletion(&paths)) {
            Ok(asked) => self.wait(asked).await.1,
            Err(error) => vec![Err(error)],
        }
    }
}

fn unsupported<T>(operation: &str) -> Result<T> {
    Err(Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: "Bucket".to_owned(),
    })
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.leave().await;
        let bytes = payload
            .iter()
            .flat_map(|bytes| bytes.iter().copied())
            .collect();
        let asked = self.begin_put(location.as_ref().to_owned(), bytes, &options.mode)?;
        match self.wait(asked).await.0 {
            Report::Truth => Ok(PutResult {
                e_tag: None,
                version: None,
                extensions: Default::default(),
            }),
            Report::Failure | Report::Never => Err(failed("not stored, as drawn")),
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.leave().await;
        let asked = self.begin_get(location, &options)?;
        match self.wait(asked).await {
            (Report::Truth, found) => Ok(found),
            (Report::Failure | Report::Never, _) => Err(failed("not read, as drawn")),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let bucket = self.clone();
        let deleted = async move {
            let locations = locations.collect().await;
            stream::iter(bucket.delete_all(locations).await)
        };
        stream::once(deleted).flatten().boxed()
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unsupported("put_multipart_opts")
    }

    fn list(&self, _prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter([unsupported("list")]).boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&Path>) -> Result<ListResult> {
        unsupported("list_with_delimiter")
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        unsupported("copy_opts")
    }
}
