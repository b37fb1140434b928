//! The smallest possible object: a stream, or what is below `__ds`, over the simulator's storage.
//! Its turns are durable at once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use machine::segment::{self, Put, Receipt};
use machine::{
    AlarmChange, Answer, Body, CallId, CallOutcome, Context, Effect, EffectId, Guarded, Input,
    Limits, Millis, Plan, StorageError, Turn, Write,
};
use sim::storage::{Kind, Store};

use crate::effects::EffectJob;

/// The length of the pieces that come from the cold tier.
const PIECE_BYTES: usize = 5;

/// Objects of the cold tier by their keys. All streams of a server share them.
pub(crate) type Cold = Rc<RefCell<BTreeMap<String, Vec<u8>>>>;

pub(crate) struct Object {
    pub(crate) limits: Arc<Limits>,
    pub(crate) store: Store,
    machine: Option<machine::Object>,
    loads: u64,
    /// What differs from stream to stream in the seeds of instances.
    pub(crate) first_seed: u64,
    pub(crate) alarm: Option<Millis>,
    /// How many more reads of the storage succeed; `None` for all.
    pub(crate) reads_left: Option<u64>,
    pub(crate) cold: Cold,
    /// In the order in which they were asked for.
    pub(crate) jobs: Vec<EffectJob>,
    /// The random bytes that the object has asked for. They are its secrets.
    pub(crate) secrets: RefCell<Vec<[u8; 32]>>,
}

impl Object {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self {
            limits,
            store: Store::new(Kind::Map),
            machine: None,
            loads: 0,
            first_seed: 0,
            alarm: None,
            reads_left: None,
            cold: Cold::default(),
            jobs: Vec::new(),
            secrets: RefCell::default(),
        }
    }

    /// Ends the instance. Effects under way may still be carried out, but are not reported.
    pub(crate) fn sleep(&mut self) {
        self.machine = None;
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
        let mut machine = match self.machine.take() {
            Some(machine) => machine,
            None => {
                self.loads += 1;
                let seed = self.first_seed + self.loads;
                machine::Object::load(now, &storage, &self.limits, seed)?
            }
        };
        let context = Context {
            now,
            storage: &storage,
            subscribers: &|_| Ok(0),
            entropy: &|| self.secret(),
        };
        let mut turn = machine.step(&context, input)?;
        assert!(
            turn.needs_transaction()
                || turn.writes.len() + usize::from(turn.alarm != AlarmChange::Keep) <= 1,
            "several writes are one transaction"
        );
        if let AlarmChange::Set(_) = turn.alarm {
            assert!(machine.alarm_reason().is_some(), "an alarm has a reason");
        }
        let timers = machine.timers();
        let names: Vec<_> = timers
            .iter()
            .map(|timer| timer.reason.to_string())
            .collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(
            distinct.len(),
            names.len(),
            "timers have names of their own"
        );
        check_events(&turn);
        self.apply(&turn);
        self.machine = Some(machine);
        let mut answers = Vec::new();
        for effect in turn.after_commit {
            self.jobs
                .extend(EffectJob::asked(now, effect, &mut answers));
        }
        turn.after_commit = answers;
        Ok(turn)
    }

    /// Returns 32 bytes that no other call returns.
    fn secret(&self) -> [u8; 32] {
        let mut secrets = self.secrets.borrow_mut();
        let mut secret = [0; 32];
        for (index, part) in secret.chunks_exact_mut(8).enumerate() {
            let number = (self.first_seed << 16) + ((secrets.len() as u64) << 3) + index as u64;
            part.copy_from_slice(&scrambled(number).to_le_bytes());
        }
        secrets.push(secret);
        secret
    }

    /// Returns what a step would write that nobody has asked for, and leaves everything as it is.
    /// `None` when the storage cannot be read.
    pub(crate) fn upkeep(&self, now: Millis) -> Option<Vec<Write>> {
        let rows = self.store.storage();
        let seed = self.first_seed + self.loads + 1;
        let mut machine = match &self.machine {
            Some(machine) => machine.clone(),
            None => machine::Object::load(now, rows, &self.limits, seed).ok()?,
        };
        let context = Context {
            now,
            storage: rows,
            subscribers: &|_| Ok(0),
            entropy: &|| -> [u8; 32] { unreachable!("nobody has asked for anything") },
        };
        let nothing = Input::CallFinished {
            effect: EffectId(u64::MAX),
            outcome: CallOutcome::Failed,
        };
        machine.step(&context, nothing).ok().map(|turn| turn.writes)
    }

    /// Returns the turn of an input, and leaves everything as it is.
    pub(crate) fn glance(&self, now: Millis, input: Input) -> Turn {
        let rows = self.store.storage();
        let seed = self.first_seed + self.loads + 1;
        let mut machine = match &self.machine {
            Some(machine) => machine.clone(),
            None => machine::Object::load(now, rows, &self.limits, seed).expect("it can be read"),
        };
        let context = Context {
            now,
            storage: rows,
            subscribers: &|_| Ok(0),
            entropy: &|| -> [u8; 32] { unreachable!("nothing is made") },
        };
        machine.step(&context, input).expect("it can be read")
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

    /// Renders a page.
    pub(crate) fn render(&self, plan: &Plan) -> Vec<u8> {
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
        match self.machine {
            Some(_) => Some(self.loads),
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

/// Checks the data points of a turn.
fn check_events(turn: &Turn) {
    let events = &turn.events;
    let points: serde_json::Value =
        serde_json::from_str(&events.points()).expect("data points are JSON");
    let points = points.as_array().expect("data points are a list");
    assert_eq!(points.len(), events.events.len());
    for (point, event) in points.iter().zip(&events.events) {
        let index = point["indexes"][0]
            .as_str()
            .expect("a data point has an index");
        assert!(
            index.len() <= 96 && !index.contains(['\'', '\\']),
            "{index}"
        );
        assert_eq!(point["blobs"][1], event.kind.name());
        assert_eq!(point["blobs"][2], *events.stream);
        assert_eq!(point["doubles"][0], event.calls);
        assert_eq!(point["doubles"].as_array().map(Vec::len), Some(5));
    }
}

/// Returns a number that seems random.
const fn scrambled(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
