//! The smallest possible object: a stream over the simulator's storage, whose turns are durable at
//! once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use machine::segment::{self, Put, Receipt};
use machine::{
    AlarmChange, Answer, Body, CallId, Context, Effect, Guarded, Input, Limits, Millis, Plan,
    StorageError, Stream, Turn,
};
use sim::storage::{Kind, Store};

use crate::effects::EffectJob;

/// The length of the pieces that come from the cold tier.
const PIECE_BYTES: usize = 5;

/// Objects of the cold tier by their keys. All streams of a server share them.
pub(crate) type Cold = Rc<RefCell<BTreeMap<String, Vec<u8>>>>;

pub(crate) struct Object {
    pub(crate) limits: Limits,
    pub(crate) store: Store,
    stream: Option<Stream>,
    wakes: u64,
    /// What differs from stream to stream in the seeds of instances.
    pub(crate) first_seed: u64,
    pub(crate) alarm: Option<Millis>,
    /// How many more reads of the storage succeed; `None` for all.
    pub(crate) reads_left: Option<u64>,
    pub(crate) cold: Cold,
    /// In the order in which they were asked for.
    pub(crate) jobs: Vec<EffectJob>,
}

impl Object {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            store: Store::new(Kind::Map),
            stream: None,
            wakes: 0,
            first_seed: 0,
            alarm: None,
            reads_left: None,
            cold: Cold::default(),
            jobs: Vec::new(),
        }
    }

    /// Ends the instance. Effects under way may still be carried out, but are not reported.
    pub(crate) fn sleep(&mut self) {
        self.stream = None;
        let jobs = core::mem::take(&mut self.jobs);
        let left = jobs.into_iter().filter_map(|job| job.left_behind(self));
        self.jobs = left.collect();
    }

    /// Carries out one turn. Effects in the background move from the turn to `jobs`.
    ///
    /// # Errors
    ///
    /// When the storage cannot be read, as `reads_left` says. The instance is dropped with its
    /// turn.
    pub(crate) fn step(&mut self, now: Millis, input: Input) -> Result<Turn, StorageError> {
        let turn = self.try_step(now, input);
        if turn.is_err() {
            self.sleep();
        }
        turn
    }

    fn try_step(&mut self, now: Millis, input: Input) -> Result<Turn, StorageError> {
        let reads_left = Cell::new(self.reads_left);
        let storage = Guarded::new(self.store.storage(), || match reads_left.get() {
            Some(0) => Err(StorageError("as it was asked for".to_owned())),
            left => {
                reads_left.set(left.map(|left| left - 1));
                Ok(())
            }
        });
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                self.wakes += 1;
                let seed = self.first_seed + self.wakes;
                Stream::wake(now, &storage, &self.limits, seed)?
            }
        };
        let context = Context {
            now,
            storage: &storage,
            subscribers: &|_| Ok(0),
        };
        let mut turn = stream.step(&context, input)?;
        assert!(
            turn.needs_transaction()
                || turn.writes.len() + usize::from(turn.alarm != AlarmChange::Keep) <= 1,
            "several writes are one transaction"
        );
        if let AlarmChange::Set(_) = turn.alarm {
            assert!(stream.alarm_reason().is_some(), "an alarm has a reason");
        }
        let names: Vec<_> = stream
            .timers()
            .map(|timer| timer.reason.to_string())
            .collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(
            distinct.len(),
            names.len(),
            "timers have names of their own"
        );
        self.apply(&turn);
        self.stream = Some(stream);
        let mut answers = Vec::new();
        for effect in turn.after_commit {
            self.jobs
                .extend(EffectJob::asked(now, effect, &mut answers));
        }
        turn.after_commit = answers;
        Ok(turn)
    }

    fn apply(&mut self, turn: &Turn) {
        self.store
            .apply(&turn.writes)
            .expect("the storage accepts every write of the machine");
        match turn.alarm {
            AlarmChange::Keep => {}
            AlarmChange::Set(at) => self.alarm = Some(at),
            AlarmChange::Clear => self.alarm = None,
        }
    }

    /// Returns the object of a put, and its receipt; `None` when its rows are gone.
    pub(crate) fn encode(&self, put: &Put) -> Option<(Vec<u8>, Receipt)> {
        let mut encoder = put.begin(self.store.storage()).ok()?;
        let length = encoder.length();
        let mut object = encoder.head().to_vec();
        while let Some(span) = encoder.next_span() {
            let frames = self.store.frames(span).expect("a map can be read");
            object.extend(encoder.push(frames).expect("the frames are whole"));
        }
        let (end, receipt) = encoder.finish().expect("all was pushed");
        object.extend(end);
        assert_eq!(
            object.len() as u64,
            length,
            "the length is known beforehand"
        );
        let decoded = segment::decode(&object).expect("what is encoded can be decoded");
        assert_eq!(
            (decoded.incarnation, decoded.segment),
            (put.id.incarnation, put.id.segment)
        );
        Some((object, receipt))
    }

    /// Returns the body of an answer; `None` when the storage cannot be read for a later page. Must
    /// be called in the turn of the answer, which alone has the rows of the first page.
    pub(crate) fn body(&mut self, now: Millis, answer: &Answer) -> Option<Vec<u8>> {
        let plan = match &answer.body {
            Body::Empty => return Some(Vec::new()),
            Body::Bytes(bytes) => return Some(bytes.clone()),
            Body::Plan(plan) => plan,
        };
        let mut body = self.render(plan);
        let mut rest = plan.rest;
        while let Some(next) = rest {
            let id = CallId(0);
            let turn = self.step(now, Input::Continue { id, rest: next }).ok()?;
            let [Effect::Answer { answer, .. }] = turn.after_commit.as_slice() else {
                panic!("a read is answered: {:?}", turn.after_commit)
            };
            let Body::Plan(plan) = &answer.body else {
                panic!("the stream is there: {answer:?}")
            };
            let page = self.render(plan);
            assert!(!page.is_empty(), "a page has something");
            body.extend(page);
            rest = plan.rest;
        }
        Some(body)
    }

    fn render(&self, plan: &Plan) -> Vec<u8> {
        let frames = |span| self.store.frames(span);
        let mut rendering = plan.begin(frames).expect("a map can be read");
        let mut body = Vec::new();
        while let Some(fetch) = rendering.advance(&mut body).expect("the rows are whole") {
            let range = fetch.offset as usize..(fetch.offset + fetch.length) as usize;
            let cold = self.cold.borrow();
            let object = cold.get(&fetch.key).and_then(|object| object.get(range));
            let object = object.unwrap_or_else(|| panic!("{}", rendering.missing()));
            for piece in object.chunks(PIECE_BYTES) {
                rendering
                    .push(piece, &mut body)
                    .expect("the object is whole");
            }
            rendering.fetched().expect("the object has everything");
        }
        body
    }

    /// Returns the number of the present instance. `None` if no instance is in memory.
    pub(crate) const fn instance(&self) -> Option<u64> {
        match self.stream {
            Some(_) => Some(self.wakes),
            None => None,
        }
    }

    /// Returns whether nothing at all is stored in rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.store.rows.is_empty()
    }

    /// Returns whether no rows of a stream are stored. Tasks for other objects may be left.
    pub(crate) fn has_no_stream(&self) -> bool {
        let rows = &self.store.rows;
        rows.head().is_none()
            && rows.hot_tables().next().is_none()
            && rows.segments().next().is_none()
    }

    /// Returns whether the stream has ended, but stays for its forks.
    pub(crate) fn is_hidden(&self) -> bool {
        let head = self.store.rows.head();
        head.is_some_and(|head| head.lineage.deleted_at.is_some())
    }
}
