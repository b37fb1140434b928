//! The cold tier, R2: puts that read their rows over time, reads in pieces, and deletions in
//! batches. Each is done, not done, or done late, and reported or not.

use std::cell::Cell;
use std::collections::BTreeSet;

use bytes::Bytes;
use machine::segment::{Encoder, Put, PutId, Receipt};
use machine::{Answer, Body, BodyWriter, CorruptionError, EffectId, Fetch, Input};

use super::World;
use super::client::Received;
use super::object::{ObjectEffect, bounded};
use super::rpc::Message;
use crate::cold_tier::{self, DeleteOutcome, Deletes, Objects, PutOutcome, Report};
use crate::coverage::{Fault, Situation, Watermark};
use crate::ids::{CallId, CollectionId, FetchId, Id as _, ObjectId, Table, UploadId};
use crate::oracles::{Oracle, Position};
use crate::trace::{Mark, Span};

/// The lane of the cold tier in a trace.
const LANE: &str = "cold tier";

fn span(upload: UploadId) -> Span {
    Span::new("put", upload.number() as u64)
}

/// An event of the cold tier.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// An upload reads its next rows.
    Upload { upload: UploadId },
    /// A put object appears.
    Land { upload: UploadId },
    /// The object that put it learns the outcome.
    PutReported { upload: UploadId, stored: bool },
    /// Objects are deleted.
    Delete { collection: CollectionId },
    /// The object that deleted them learns the outcome.
    Collected {
        collection: CollectionId,
        done: bool,
    },
    /// An answer fetches its next piece.
    Fetch { fetching: FetchId },
    /// A client has taken a page of its answer.
    Taken { fetching: FetchId },
}

/// The cold tier of the world.
#[derive(Debug, Default)]
pub(super) struct Cold {
    objects: Objects,
    /// Every key that a put was ever begun for.
    begun: BTreeSet<String>,
    uploads: Table<UploadId, Upload>,
    collections: Table<CollectionId, Collection>,
    fetchings: Table<FetchId, Fetching>,
}

/// An object that is being put.
#[derive(Debug)]
struct Upload {
    at: ObjectId,
    epoch: u64,
    instance: u64,
    id: PutId,
    key: String,
    /// The encoder, until all rows are read.
    encoder: Option<Encoder>,
    length: u64,
    bytes: Vec<u8>,
    receipt: Option<Receipt>,
    /// When it will be finished.
    ends_at: u64,
    trickles: bool,
    outcome: PutOutcome,
    over: bool,
}

/// Objects that will be deleted.
#[derive(Debug)]
struct Collection {
    at: ObjectId,
    instance: u64,
    effect: EffectId,
    keys: Vec<String>,
}

/// An answer whose body is partly in the cold tier, or has several pages.
#[derive(Debug)]
struct Fetching {
    at: ObjectId,
    epoch: u64,
    /// The incarnation, and how many of its segments were stored, when the present page was
    /// planned.
    then: (u64, u64),
    /// The state of the object when the answer began.
    position: Position,
    /// Whether the present page is partly in the cold tier.
    is_cold: bool,
    pages: u64,
    rendering: BodyWriter,
    body: Vec<u8>,
    asked: Option<(Fetch, u64)>,
    call: CallId,
    received: Option<Received>,
    ends_at: u64,
    trickles: bool,
}

impl Cold {
    pub(super) const fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Returns whether there is an object whose key begins with `prefix`.
    pub(super) fn has_with_prefix(&self, prefix: &str) -> bool {
        let next = self.objects.range(prefix.to_owned()..).next();
        next.is_some_and(|(key, _)| key.starts_with(prefix))
    }

    /// Returns the bytes that an answer needs from the cold tier.
    pub(super) fn range(&self, fetch: &Fetch) -> Option<&[u8]> {
        let (from, length) = (usize::try_from(fetch.offset), usize::try_from(fetch.length));
        let object = self.objects.get(&fetch.key)?;
        object.get(from.ok()?..from.ok()?.checked_add(length.ok()?)?)
    }

    /// Returns the incarnation that an answer is about.
    pub(super) fn incarnation_of(&self, fetching: FetchId) -> u64 {
        self.fetchings[fetching].position.incarnation().unwrap_or(0)
    }

    /// Returns whether a put of this object is under way.
    pub(super) fn is_putting(&self, at: ObjectId) -> bool {
        self.uploads
            .iter()
            .any(|upload| upload.at == at && !upload.over)
    }
}

impl World<'_, '_> {
    /// Begins an effect that has left its object.
    pub(super) fn begin_effect(&mut self, at: ObjectId, instance: u64, effect: ObjectEffect) {
        match effect {
            ObjectEffect::Put(put) => self.begin_put(at, instance, &put),
            ObjectEffect::Collect { effect, keys } => {
                self.begin_collection(at, instance, effect, keys)
            }
            ObjectEffect::Call {
                effect,
                to,
                request,
            } => self.begin_rpc(at, instance, effect, Message::Call { to, request }),
            ObjectEffect::Index { effect, statements } => {
                self.begin_rpc(at, instance, effect, Message::Index(statements))
            }
        }
    }

    pub(super) fn happen_in_cold(&mut self, event: Event) {
        match event {
            Event::Upload { upload } => self.upload(upload),
            Event::Land { upload } => self.land(upload),
            Event::PutReported { upload, stored } => self.put_reported(upload, stored),
            Event::Delete { collection } => self.delete_objects(collection),
            Event::Collected { collection, done } => self.objects_collected(collection, done),
            Event::Fetch { fetching } => self.fetch_more(fetching),
            Event::Taken { fetching } => self.read_on(fetching),
        }
    }

    fn begin_put(&mut self, at: ObjectId, instance: u64, put: &Put) {
        let begins = Mark::Begins(span(self.cold.uploads.next_id()));
        self.engine.note_as(begins, LANE, || {
            format!("object {at} puts {} ({:?})", put.key, put.id)
        });
        if !self.cold.begun.insert(put.key.clone()) {
            return self.engine.fail(
                Oracle::Keys,
                "a key that was never used".to_owned(),
                put.key.clone(),
            );
        }
        self.engine.raise(Watermark::PutAttempts, put.id.attempt);
        let others = put.key.rsplit_once('-').map_or("", |(others, _)| others);
        if put.id.attempt > 1 && self.cold.has_with_prefix(others) {
            self.engine.cover(Situation::PutStoredUnreported);
        }
        let trickles = self.engine.fault(Fault::Trickle);
        let duration = self
            .engine
            .choices
            .upto(self.engine.settings.delays.cold_tier);
        let platform = &self.objects[at].platform;
        let reads = Cell::new(0);
        let encoder = put.begin(&bounded(&platform.storage, &reads)).ok();
        let epoch = platform.epoch;
        let reads = reads.get();
        if !self.ends(reads) {
            return;
        }
        let upload = self.cold.uploads.next_id();
        self.cold.uploads.push(Upload {
            at,
            epoch,
            instance,
            id: put.id,
            key: put.key.clone(),
            length: encoder.as_ref().map_or(0, Encoder::length),
            bytes: encoder
                .as_ref()
                .map_or_else(Vec::new, |encoder| encoder.head().to_vec()),
            encoder,
            receipt: None,
            ends_at: self.engine.now() + duration,
            trickles,
            outcome: PutOutcome::GOOD,
            over: false,
        });
        self.engine.schedule(0, Event::Upload { upload }.into());
    }

    /// Ends an upload whose rows are gone.
    fn cut_upload(&mut self, upload: UploadId) {
        self.engine.cover(Situation::PutCut);
        self.engine.note_as(Mark::Loses(span(upload)), LANE, || {
            format!("the put {upload} cannot go on")
        });
        self.cold.uploads[upload].over = true;
        self.engine.schedule(
            0,
            Event::PutReported {
                upload,
                stored: false,
            }
            .into(),
        );
    }

    fn upload(&mut self, upload: UploadId) {
        let World {
            engine,
            objects,
            cold,
            ..
        } = self;
        let it = &mut cold.uploads[upload];
        let platform = &objects[it.at].platform;
        let Some(mut encoder) = it
            .encoder
            .take()
            .filter(|_| platform.present() == Some(it.instance))
        else {
            return self.cut_upload(upload);
        };
        while let Some(span) = encoder.next_span() {
            let frames = platform.storage.frames(span).ok();
            let piece = frames.and_then(|frames| encoder.push(frames).ok());
            let Some(piece) = piece else {
                return self.cut_upload(upload);
            };
            it.bytes.extend(piece);
            if it.trickles {
                engine.changed(Fault::Trickle);
                it.encoder = Some(encoder);
                let delay = engine.choices.upto(it.ends_at.saturating_sub(engine.now()));
                return engine.schedule(delay, Event::Upload { upload }.into());
            }
        }
        let Ok((end, receipt)) = encoder.finish() else {
            return self.cut_upload(upload);
        };
        it.bytes.extend(end);
        if it.bytes.len() as u64 != it.length {
            let actual = it.bytes.len().to_string();
            return engine.fail(
                Oracle::Contract,
                format!("an object of {} bytes", it.length),
                actual,
            );
        }
        it.receipt = Some(receipt);
        self.send_object(upload);
    }

    /// Draws the outcome of a put that has sent all of its object.
    fn send_object(&mut self, upload: UploadId) {
        let engine = &mut self.engine;
        let it = &mut self.cold.uploads[upload];
        let mut delay = engine.choices.upto(it.ends_at.saturating_sub(engine.now()));
        if engine.now() < crate::settings::BEGINNING + engine.settings.outage_ms {
            it.outcome = PutOutcome::BAD[0];
            engine.cover(Situation::PutFailed);
        } else if engine.fault(Fault::Put) {
            engine.changed(Fault::Put);
            let choice = engine.choices.upto(PutOutcome::BAD.len() as u64 - 1);
            it.outcome = PutOutcome::BAD[usize::try_from(choice).unwrap_or(0)];
            engine.cover(match it.outcome.report {
                Report::Truth => Situation::PutLate,
                Report::Failure => Situation::PutFailed,
                Report::Never => Situation::PutUnanswered,
            });
            engine.note(LANE, || {
                let PutOutcome {
                    lands,
                    is_late,
                    report,
                } = it.outcome;
                format!(
                    "{} lands {lands}, late {is_late}, report {report:?}",
                    it.key
                )
            });
        }
        if it.outcome.report == Report::Failure {
            let reported = Event::PutReported {
                upload,
                stored: false,
            };
            engine.schedule(delay, reported.into());
        }
        if it.outcome.is_late {
            delay += engine.choices.upto(engine.settings.delays.late);
        }
        if it.outcome.lands {
            engine.schedule(delay, Event::Land { upload }.into());
        } else {
            it.over = true;
            let loses = Mark::Loses(span(upload));
            engine.note_as(loses, LANE, || format!("{} is not stored", it.key));
        }
    }

    fn land(&mut self, upload: UploadId) {
        let it = &mut self.cold.uploads[upload];
        it.over = true;
        let platform = &self.objects[it.at].platform;
        // An instance that was lost in a crash may have been cut off in the middle.
        if platform.epoch != it.epoch && self.engine.choices.upto(1) == 1 {
            return;
        }
        let bytes = Bytes::from(core::mem::take(&mut it.bytes));
        self.engine.recorder.digest.bytes(&bytes);
        let ends = Mark::Ends(span(upload));
        self.engine
            .note_as(ends, LANE, || format!("{} is stored", it.key));
        let head = platform.storage.rows.head();
        if head.map(|head| head.incarnation) != Some(it.id.incarnation) {
            self.engine.cover(Situation::PutAfterEnd);
        }
        self.cold.objects.insert(it.key.clone(), bytes);
        if it.outcome.report == Report::Truth {
            let delay = self.engine.network_delay();
            let reported = Event::PutReported {
                upload,
                stored: true,
            };
            self.engine.schedule(delay, reported.into());
        }
    }

    fn put_reported(&mut self, upload: UploadId, stored: bool) {
        let it = &self.cold.uploads[upload];
        let (at, id) = (it.at, it.id);
        let receipt = it.receipt.clone().filter(|_| stored);
        let platform = &self.objects[at].platform;
        if platform.present() == Some(it.instance) {
            return self.turn(at, Input::PutFinished { id, receipt });
        }
        let rows = &platform.storage.rows;
        let is_present = rows
            .head()
            .is_some_and(|head| head.incarnation == id.incarnation);
        let mut waiting = rows.segments().filter(|segment| segment.stored.is_none());
        if stored && is_present && waiting.any(|segment| segment.number == id.segment) {
            self.engine.cover(Situation::CrashBetweenPutAndRow);
        }
    }

    fn begin_collection(
        &mut self,
        at: ObjectId,
        instance: u64,
        effect: EffectId,
        keys: Vec<String>,
    ) {
        self.engine
            .note(LANE, || format!("object {at} collects {keys:?}"));
        if keys.len() as u64 > self.engine.settings.limits.collect_keys_max.max(1) {
            return self.engine.fail(
                Oracle::Contract,
                "no more keys at once than agreed".to_owned(),
                keys.len().to_string(),
            );
        }
        let collection = self.cold.collections.next_id();
        self.cold.collections.push(Collection {
            at,
            instance,
            effect,
            keys,
        });
        let mut delay = self.engine.network_delay();
        let mut outcome = DeleteOutcome::GOOD;
        if self.engine.fault(Fault::Collect) {
            self.engine.changed(Fault::Collect);
            self.engine.cover(Situation::CollectionFailed);
            let choice = self
                .engine
                .choices
                .upto(DeleteOutcome::BAD.len() as u64 - 1);
            outcome = DeleteOutcome::BAD[usize::try_from(choice).unwrap_or(0)];
            if outcome.report == Report::Failure {
                let done = false;
                self.engine
                    .schedule(delay, Event::Collected { collection, done }.into());
            }
            match outcome.deletes {
                Deletes::None => return,
                Deletes::AllButLast => drop(self.cold.collections[collection].keys.pop()),
                Deletes::All => {}
            }
            if outcome.is_late {
                delay += self.engine.choices.upto(self.engine.settings.delays.late);
            }
        }
        self.engine
            .schedule(delay, Event::Delete { collection }.into());
        if outcome.report == Report::Truth {
            let done = true;
            self.engine
                .schedule(delay + 1, Event::Collected { collection, done }.into());
        }
    }

    fn delete_objects(&mut self, collection: CollectionId) {
        let objects = self.objects.iter();
        let all_rows = objects.map(|object| &object.platform.storage.rows);
        let referenced: BTreeSet<_> = all_rows.flat_map(cold_tier::referenced).collect();
        for key in &self.cold.collections[collection].keys {
            if referenced.contains(key) {
                return self.engine.fail(
                    Oracle::Segments,
                    "no object to be deleted that a stream refers to".to_owned(),
                    key.clone(),
                );
            }
            if self.cold.objects.remove(key).is_some() {
                self.engine.cover(Situation::Collected);
            } else {
                self.engine.cover(Situation::CollectionRepeated);
            }
        }
    }

    fn objects_collected(&mut self, collection: CollectionId, done: bool) {
        let it = &self.cold.collections[collection];
        let (at, effect) = (it.at, it.effect);
        if self.objects[at].platform.present() == Some(it.instance) {
            self.turn(at, Input::CollectFinished { effect, done });
        }
    }

    /// Plans the body of an answer. Its rows are fetched in this turn, its cold parts after the
    /// answer has left.
    pub(super) fn plan_fetching(
        &mut self,
        at: ObjectId,
        call: CallId,
        position: Position,
        answer: &Answer,
    ) -> Option<FetchId> {
        let Body::Plan(plan) = &answer.body else {
            return None;
        };
        if plan.is_whole() {
            return None;
        }
        let then = self.tiers_of(at);
        let platform = &self.objects[at].platform;
        let rendering = plan.begin(|span| platform.storage.frames(span)).ok()?;
        let fetching = self.cold.fetchings.push(Fetching {
            at,
            epoch: platform.epoch,
            then,
            position,
            is_cold: plan.is_cold(),
            pages: 1,
            rendering,
            body: Vec::new(),
            asked: None,
            call,
            received: None,
            ends_at: 0,
            trickles: false,
        });
        Some(fetching)
    }

    /// Returns the incarnation and the number of stored segments.
    fn tiers_of(&self, at: ObjectId) -> (u64, u64) {
        let rows = &self.objects[at].platform.storage.rows;
        let stored = rows.segments().filter(|segment| segment.stored.is_some());
        (
            rows.head().map_or(0, |head| head.incarnation.0),
            stored.count() as u64,
        )
    }

    /// Begins to fetch the body of an answer whose head has left its object.
    pub(super) fn fetch(&mut self, call: CallId, mut received: Received) {
        let Some(fetching) = received.fetching.take() else {
            return;
        };
        let trickles = self.engine.fault(Fault::Trickle);
        let duration = self
            .engine
            .choices
            .upto(self.engine.settings.delays.cold_tier);
        let it = &mut self.cold.fetchings[fetching];
        it.received = Some(received);
        it.call = call;
        it.trickles = trickles;
        it.ends_at = self.engine.now() + duration;
        let delay = self.engine.choices.upto(duration);
        self.engine
            .schedule(delay, Event::Fetch { fetching }.into());
    }

    fn fetch_more(&mut self, fetching: FetchId) {
        let it = &self.cold.fetchings[fetching];
        let at = it.at;
        // The instance that would pass it on may be gone.
        let is_orphan = self.objects[at].platform.epoch != it.epoch;
        let fails = it.is_cold && self.engine.fault(Fault::Get);
        if fails {
            self.engine.changed(Fault::Get);
            self.engine.cover(Situation::GetFailed);
        }
        if fails || is_orphan && self.engine.choices.upto(1) == 1 {
            return self.break_off(fetching);
        }
        loop {
            match self.fetch_piece(fetching) {
                Err(damaged) => {
                    return self.engine.fail(
                        Oracle::ColdAnswers,
                        "what was planned to be there until it is sent".to_owned(),
                        damaged.to_string(),
                    );
                }
                Ok(true) => return self.page_sent(fetching),
                Ok(false) => {}
            }
            let it = &self.cold.fetchings[fetching];
            if it.trickles {
                self.engine.changed(Fault::Trickle);
                let left = it.ends_at.saturating_sub(self.engine.now());
                let delay = self.engine.choices.upto(left);
                return self
                    .engine
                    .schedule(delay, Event::Fetch { fetching }.into());
            }
        }
    }

    /// Fetches one piece. Returns whether the page is complete.
    fn fetch_piece(&mut self, fetching: FetchId) -> Result<bool, CorruptionError> {
        let Cold {
            objects, fetchings, ..
        } = &mut self.cold;
        let it = &mut fetchings[fetching];
        let Some((fetch, taken)) = it.asked.take() else {
            it.asked = it.rendering.advance(&mut it.body)?.map(|fetch| (fetch, 0));
            return Ok(it.asked.is_none());
        };
        let object = objects
            .get(&fetch.key)
            .ok_or_else(|| it.rendering.missing())?;
        let left = fetch.length - taken;
        let piece = left.div_ceil(if it.trickles {
            1 + self.engine.choices.upto(2)
        } else {
            1
        });
        let (from, to) = (fetch.offset + taken, fetch.offset + taken + piece);
        let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
        let bytes = object.get(range).unwrap_or_default();
        it.rendering.push(bytes, &mut it.body)?;
        if piece == left {
            it.rendering.fetched()?;
        } else {
            it.asked = Some((fetch, taken + piece));
        }
        Ok(false)
    }

    /// Finishes a page. The client asks for the next one when it has taken this one.
    fn page_sent(&mut self, fetching: FetchId) {
        let it = &self.cold.fetchings[fetching];
        let Some(rest) = it.rendering.rest() else {
            return self.fetched(fetching);
        };
        self.engine
            .note(LANE, || format!("a page is sent, {rest:?} is not"));
        let slowest = self.engine.settings.delays.page;
        let delay = self.engine.choices.added().upto(slowest);
        self.engine
            .schedule(delay, Event::Taken { fetching }.into());
    }

    /// Asks any instance for the next page, because the client has taken this one.
    fn read_on(&mut self, fetching: FetchId) {
        let it = &self.cold.fetchings[fetching];
        let (at, id, pages) = (it.at, it.call.into(), it.pages);
        let Some(rest) = it.rendering.rest() else {
            return;
        };
        // The instance that passes it on may be gone.
        let is_orphan = self.objects[at].platform.epoch != it.epoch;
        if is_orphan {
            if self.engine.choices.added().upto(1) == 1 {
                return self.break_off(fetching);
            }
            self.engine.cover(Situation::WholeReadMoved);
        }
        self.turn_for(at, Input::Continue { id, rest }, Some(fetching));
        if self.engine.recorder.failure.is_none() && self.cold.fetchings[fetching].pages == pages {
            // Its stream has ended, or the turn has failed.
            self.break_off(fetching);
        }
    }

    /// Takes the plan of the next page, or the end of the answer.
    pub(super) fn next_page(&mut self, fetching: FetchId, answer: &Answer) {
        let Body::Plan(plan) = &answer.body else {
            return self.engine.cover(Situation::WholeReadGone);
        };
        let at = self.cold.fetchings[fetching].at;
        let then = self.tiers_of(at);
        let duration = self
            .engine
            .choices
            .added()
            .upto(self.engine.settings.delays.cold_tier);
        let platform = &self.objects[at].platform;
        let it = &mut self.cold.fetchings[fetching];
        let Ok(rendering) = plan.begin(|span| platform.storage.frames(span)) else {
            let expected = "rows that can be read".to_owned();
            return self
                .engine
                .fail(Oracle::Storage, expected, format!("{plan:?}"));
        };
        if it.then != then {
            self.engine.cover(Situation::ReadDuringDrop);
        }
        it.then = then;
        it.epoch = platform.epoch;
        it.is_cold = plan.is_cold();
        it.pages += 1;
        it.rendering = rendering;
        it.ends_at = self.engine.now() + duration;
        let delay = self.engine.choices.added().upto(duration);
        self.engine
            .schedule(delay, Event::Fetch { fetching }.into());
    }

    /// Breaks the client's connection off. What it has received must be the beginning of the body
    /// that the head promised.
    fn break_off(&mut self, fetching: FetchId) {
        let it = &self.cold.fetchings[fetching];
        let call = it.call;
        let promised = it.received.as_ref().map(|received| &received.response.body);
        if let Some(promised) = promised.filter(|promised| !promised.starts_with(&it.body)) {
            let expected = format!("the beginning of {}", crate::request::excerpt(promised));
            let actual = crate::request::excerpt(&it.body);
            return self.engine.fail(Oracle::ColdAnswers, expected, actual);
        }
        let delay = self.engine.network_delay();
        self.engine.schedule(delay, super::Event::Lost { call });
    }

    /// Finishes an answer, and compares its body with the promised one.
    fn fetched(&mut self, fetching: FetchId) {
        let now = self.tiers_of(self.cold.fetchings[fetching].at);
        let it = &mut self.cold.fetchings[fetching];
        if it.then != now {
            self.engine.cover(Situation::ReadDuringDrop);
        }
        if it.pages > 1 {
            self.engine.cover(Situation::WholeRead);
            let present = Position::of(&self.models[it.at].state);
            if present.incarnation() == it.position.incarnation() && present > it.position {
                self.engine.cover(Situation::WholeReadFixed);
            }
        }
        let Some(received) = it.received.take() else {
            return;
        };
        if received.response.body != it.body {
            let expected = crate::request::excerpt(&received.response.body);
            let actual = crate::request::excerpt(&it.body);
            return self.engine.fail(Oracle::ColdAnswers, expected, actual);
        }
        let call = it.call;
        let delay = self.engine.network_delay();
        self.engine
            .schedule(delay, super::Event::Reply { call, received });
    }
}
