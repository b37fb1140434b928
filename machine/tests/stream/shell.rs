//! The smallest shell there is: rows in memory, one object, every turn durable at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::Bytes;
use machine::plan::{CorruptionError, Plan, Rest, Span};
use machine::rows::{
    HotRow, HotTable, Incarnation, ProducerStamp, ProducerState, RowKey, RowMeta, SealedSegment,
    StreamRow, Task, Write, WriterColumns,
};
use machine::segment::{Put, Receipt};
use machine::wire::answer::Body;
use machine::wire::request::{self, Parsed};
use machine::{
    AlarmChange, Answer, Broadcast, CallId, Effect, EffectId, Input, Limits, Message, Millis,
    Refusal, Rows, SendOutcome, StorageError, Stream,
};

#[derive(Default)]
pub(crate) struct Memory {
    head: RefCell<Option<StreamRow>>,
    hot: RefCell<BTreeMap<HotTable, BTreeMap<RowKey, HotRow>>>,
    segments: RefCell<Option<BTreeMap<u64, SealedSegment>>>,
    pub(crate) producers: RefCell<BTreeMap<String, (ProducerState, Millis)>>,
    pub(crate) outbox: RefCell<Option<BTreeMap<u64, Task>>>,
    pub(crate) attached: Cell<u64>,
    /// How many segments have been asked for.
    pub(crate) asked: Cell<u64>,
}

fn mark(row: &HotRow) -> RowMeta {
    RowMeta {
        key: row.key,
        units: row.units,
        bytes_before: row.bytes_before,
        bytes: row.frames.bytes(),
        at: row.at,
    }
}

impl Memory {
    fn table<T>(
        &self,
        table: HotTable,
        ask: impl FnOnce(&BTreeMap<RowKey, HotRow>) -> T,
    ) -> Result<T, StorageError> {
        let hot = self.hot.borrow();
        hot.get(&table)
            .map(ask)
            .ok_or_else(|| StorageError(format!("no such table: {table:?}")))
    }
}

impl Rows for Memory {
    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        Ok(self.head.borrow().clone())
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        self.table(table, |rows| {
            rows.range(..=key).next_back().map(|(_, row)| mark(row))
        })
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        self.table(table, |rows| {
            rows.values()
                .filter(|row| row.key > after && row.key == RowKey::at(row.key.position()))
                .find(|row| row.bytes_before >= bytes_before)
                .map(mark)
        })
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        self.table(table, |rows| {
            for row in rows.values() {
                each(WriterColumns {
                    at: row.at,
                    producer: row.producer.clone(),
                    stream_seq: row.stream_seq.clone(),
                });
            }
        })
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        Ok(self.producers.borrow().get(id).map(|(state, _)| *state))
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        self.asked.set(self.asked.get() + 1);
        let segments = self.segments.borrow();
        let segments = segments
            .as_ref()
            .ok_or_else(|| StorageError("no segments".to_owned()))?;
        Ok(segments.get(&number).cloned())
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        let segments = self.segments.borrow();
        let segments = segments
            .as_ref()
            .ok_or_else(|| StorageError("no segments".to_owned()))?;
        let retried = segments.values().filter(|segment| segment.attempts > 1);
        retried.for_each(|segment| each(segment.number, segment.attempts));
        Ok(())
    }

    fn outbox(&self) -> Result<Option<Vec<Task>>, StorageError> {
        let outbox = self.outbox.borrow();
        Ok(outbox
            .as_ref()
            .map(|outbox| outbox.values().cloned().collect()))
    }

    fn attached(&self, _: Incarnation) -> Result<u64, StorageError> {
        Ok(self.attached.get())
    }
}

impl Memory {
    fn apply(&self, write: Write) {
        let mut hot = self.hot.borrow_mut();
        let mut segments = self.segments.borrow_mut();
        let mut outbox = self.outbox.borrow_mut();
        match write {
            Write::CreateTables => {
                assert!(
                    hot.is_empty() && segments.is_none(),
                    "a stream is created once"
                );
                hot.insert(HotTable::of(0), BTreeMap::new());
            }
            Write::InsertStream(head) => {
                assert!(
                    self.head.replace(Some(head)).is_none(),
                    "there is one head row"
                )
            }
            Write::UpdateStream(head) => assert!(
                self.head.replace(Some(head)).is_some(),
                "there is a head row to update"
            ),
            Write::InsertHot { table, row } => {
                let rows = hot.get_mut(&table).expect("there is a table");
                assert!(rows.insert(row.key, row).is_none(), "a key is used once");
            }
            Write::CreateSealedTables => {
                assert!(segments.replace(BTreeMap::new()).is_none(), "made once")
            }
            Write::CreateHot(table) => {
                assert!(
                    hot.insert(table, BTreeMap::new()).is_none(),
                    "the table is free"
                )
            }
            Write::DropHot(table) => assert!(hot.remove(&table).is_some(), "there is a table"),
            Write::InsertSegment(segment) => {
                let segments = segments.as_mut().expect("there is a table");
                assert!(
                    segments.insert(segment.number, segment).is_none(),
                    "a segment is sealed once"
                );
            }
            Write::UpdateSegment(segment) => {
                let segments = segments.as_mut().expect("there is a table");
                assert!(
                    segments.insert(segment.number, segment).is_some(),
                    "there is such a segment"
                );
            }
            Write::PutProducer { stamp, used_at } => {
                let ProducerStamp { id, epoch, seq } = stamp;
                let state = (ProducerState { epoch, seq }, used_at);
                self.producers.borrow_mut().insert(id, state);
            }
            Write::ForgetProducers { used_at, most } => {
                let mut producers = self.producers.borrow_mut();
                let idle = producers.iter().filter(|(_, (_, used))| *used <= used_at);
                let mut idle: Vec<_> = idle.map(|(id, (_, used))| (*used, id.clone())).collect();
                idle.sort();
                idle.truncate(most as usize);
                for (_, id) in &idle {
                    producers.remove(id);
                }
            }
            Write::CreateOutbox => assert!(outbox.replace(BTreeMap::new()).is_none(), "made once"),
            Write::InsertTask(task) => {
                let outbox = outbox.as_mut().expect("there is a table");
                assert!(outbox.insert(task.id, task).is_none(), "an id is used once");
            }
            Write::UpdateTask(task) => {
                let outbox = outbox.as_mut().expect("there is a table");
                assert!(
                    outbox.insert(task.id, task).is_some(),
                    "there is such a chore"
                );
            }
            Write::RemoveTask { id } => {
                let outbox = outbox.as_mut().expect("there is a table");
                assert!(outbox.remove(&id).is_some(), "there is such a chore");
            }
            Write::DropOutbox => assert!(
                outbox.take().is_some_and(|outbox| outbox.is_empty()),
                "none is left"
            ),
            Write::Upgrade { .. } => panic!("there is nothing of version 0.1"),
            Write::DropTables => {
                assert!(hot.is_empty(), "each hot table is dropped by itself");
                segments.take();
                self.producers.borrow_mut().clear();
                self.head.replace(None);
            }
        }
    }

    fn frames(&self, span: Span, limits: &Limits) -> Result<Vec<u8>, StorageError> {
        self.table(span.table, |rows| {
            let rows: Vec<_> = rows
                .range(span.from..=span.to)
                .map(|(_, row)| row)
                .collect();
            let bytes: u64 = rows.iter().map(|row| row.frames.bytes()).sum();
            assert!(
                bytes <= limits.row_bytes_max || rows.len() == 1,
                "a span is fetched as one value"
            );
            rows.iter().flat_map(|row| row.frames.make()).collect()
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.borrow().is_none()
            && self.hot.borrow().is_empty()
            && self.segments.borrow().is_none()
            && self.outbox.borrow().is_none()
    }

    pub(crate) fn hot_tables(&self) -> usize {
        self.hot.borrow().len()
    }

    pub(crate) fn hot_rows(&self) -> usize {
        self.hot.borrow().values().map(BTreeMap::len).sum()
    }
}

/// An answer with its body made.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) body: Vec<u8>,
    pub(crate) attached: bool,
}

impl Answered {
    pub(crate) fn status(&self) -> u16 {
        self.answer.status
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.answer.header(name).unwrap_or_default()
    }

    /// All that a client is told.
    pub(crate) fn told(&self) -> (u16, String, String) {
        let headers = self.answer.headers();
        let headers: Vec<_> = headers
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        (self.status(), headers.join("\n"), self.text())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) struct Shell {
    pub(crate) rows: Memory,
    pub(crate) limits: Limits,
    pub(crate) now: Millis,
    pub(crate) alarm: Option<Millis>,
    pub(crate) live: Option<Broadcast>,
    /// Writes of the last turn.
    pub(crate) written: usize,
    /// The cold tier.
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    /// Bytes that answers have taken from it.
    pub(crate) fetched: u64,
    /// Asked for and not yet done.
    pub(crate) puts: Vec<Put>,
    pub(crate) collections: Vec<(EffectId, Vec<String>)>,
    pub(crate) messages: Vec<(EffectId, Message)>,
    stream: Option<Stream>,
    wakes: u64,
    /// Of the reader that was attached last.
    incarnation: Option<Incarnation>,
}

impl Shell {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            rows: Memory::default(),
            limits,
            now: Millis(1_800_000_000_000),
            alarm: None,
            live: None,
            written: 0,
            objects: BTreeMap::new(),
            fetched: 0,
            puts: Vec::new(),
            collections: Vec::new(),
            messages: Vec::new(),
            stream: None,
            wakes: 0,
            incarnation: None,
        }
    }

    pub(crate) fn sleep(&mut self) {
        self.stream = None;
    }

    /// What the instance holds in memory, as text.
    pub(crate) fn remembered_bytes(&self) -> usize {
        format!("{:?}", self.stream).len()
    }

    pub(crate) fn input(&mut self, input: Input) -> Vec<Effect> {
        let mut stream = self.stream.take().unwrap_or_else(|| {
            self.wakes += 1;
            Stream::wake(self.now, &self.rows, &self.limits, self.wakes)
                .expect("memory can be read")
        });
        let turn = stream
            .step(self.now, input, &self.rows)
            .expect("memory can be read");
        self.stream = Some(stream);
        self.written = turn.writes.len();
        turn.writes
            .into_iter()
            .for_each(|write| self.rows.apply(write));
        match turn.alarm {
            AlarmChange::Keep => {}
            AlarmChange::Set(at) => self.alarm = Some(at),
            AlarmChange::Clear => self.alarm = None,
        }
        self.live = turn.broadcast;
        let mut answers = Vec::new();
        for effect in turn.after_commit {
            match effect {
                Effect::Put(put) => self.puts.push(put),
                Effect::Collect { effect, keys } => self.collections.push((effect, keys)),
                Effect::Send { effect, message } => self.messages.push((effect, message)),
                Effect::Answer { .. } | Effect::Attach { .. } => answers.push(effect),
            }
        }
        answers
    }

    /// The object of a put, and its receipt.
    pub(crate) fn encode(&self, put: &Put) -> (Vec<u8>, Receipt) {
        let mut encoder = put.begin(&self.rows).expect("the rows are there");
        let length = encoder.length();
        let mut object = encoder.head().to_vec();
        while let Some(span) = encoder.next_span() {
            let frames = self
                .rows
                .frames(span, &self.limits)
                .expect("the rows are there");
            object.extend(encoder.push(frames).expect("the frames are whole"));
        }
        let (end, receipt) = encoder.finish().expect("all was pushed");
        object.extend(end);
        assert_eq!(object.len() as u64, length);
        (object, receipt)
    }

    /// Carries out the oldest put, and tells the stream.
    pub(crate) fn store(&mut self) {
        let put = self.puts.remove(0);
        let (object, receipt) = self.encode(&put);
        assert!(
            self.objects.insert(put.key, object).is_none(),
            "a key is used once"
        );
        self.input(Input::PutFinished {
            id: put.id,
            receipt: Some(receipt),
        });
    }

    /// Carries out everything that is asked for, until nothing is.
    pub(crate) fn settle(&mut self) {
        while !(self.puts.is_empty() && self.collections.is_empty() && self.messages.is_empty()) {
            if !self.puts.is_empty() {
                self.store();
            }
            for (effect, keys) in core::mem::take(&mut self.collections) {
                keys.iter().for_each(|key| drop(self.objects.remove(key)));
                self.input(Input::CollectFinished { effect, done: true });
            }
            for (effect, _) in core::mem::take(&mut self.messages) {
                let reply = SendOutcome::Status(200);
                self.input(Input::SendFinished { effect, reply });
            }
        }
    }

    /// The body of an answer, page by page.
    fn render(&mut self, plan: &Plan) -> Result<Vec<u8>, CorruptionError> {
        let (mut body, mut rest) = self.render_page(plan)?;
        while let Some(next) = rest {
            let (page, after) = self.read_on(next).expect("the stream is there");
            body.extend(page);
            rest = after;
        }
        Ok(body)
    }

    /// The next page of an answer, and what comes after it; `None` when the stream is no more.
    pub(crate) fn read_on(&mut self, rest: Rest) -> Option<(Vec<u8>, Option<Rest>)> {
        let id = CallId(0);
        let effect = self.input(Input::Continue { id, rest }).pop();
        let Some(Effect::Answer { answer, .. }) = effect else {
            panic!("a call is answered in its turn")
        };
        match &answer.body {
            Body::Plan(plan) => Some(self.render_page(plan).expect("nothing is damaged")),
            Body::Empty | Body::Bytes(_) => {
                assert_eq!(answer.status, 404);
                None
            }
        }
    }

    /// The head and the first page of the answer to a read, and what comes after that.
    pub(crate) fn begin_read(&mut self, query: &str) -> (Answer, Vec<u8>, Option<Rest>) {
        let effect = self
            .ask("GET", query, &[], b"")
            .expect("a read is well-formed");
        let Effect::Answer { answer, .. } = effect else {
            panic!("it is answered")
        };
        let Body::Plan(plan) = &answer.body else {
            panic!("it has content")
        };
        let (page, rest) = self.render_page(plan).expect("nothing is damaged");
        (answer, page, rest)
    }

    fn render_page(&mut self, plan: &Plan) -> Result<(Vec<u8>, Option<Rest>), CorruptionError> {
        let Ok(mut rendering) = plan.begin(|span| self.rows.frames(span, &self.limits)) else {
            panic!("the rows are there")
        };
        let mut body = Vec::new();
        while let Some(fetch) = rendering.advance(&mut body)? {
            let Some(object) = self.objects.get(&fetch.key) else {
                return Err(rendering.missing());
            };
            let range = fetch.offset as usize..(fetch.offset + fetch.length) as usize;
            self.fetched += fetch.length;
            for chunk in object.get(range).unwrap_or_default().chunks(7) {
                rendering.push(chunk, &mut body)?;
            }
            rendering.fetched()?;
        }
        Ok((body, rendering.rest()))
    }

    /// What a request is answered in its turn.
    fn ask(
        &mut self,
        method: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Effect, Refusal> {
        let target = format!("/v1/stream/s{query}");
        let header = |name: &str| {
            headers
                .iter()
                .find(|(each, _)| each.eq_ignore_ascii_case(name))
                .map(|(_, value)| (*value).to_owned())
        };
        let head = request::RequestHead {
            method,
            origin: "http://host",
            target: &target,
            header: &header,
        };
        let call = match request::parse(head, &self.limits)? {
            Parsed::Whole(call) => call,
            Parsed::AwaitsBody(awaits) => awaits.with_body(Bytes::copy_from_slice(body))?,
        };
        let effect = self
            .input(Input::Call {
                id: CallId(0),
                call,
            })
            .pop();
        Ok(effect.expect("a call is answered in its turn"))
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answered {
        let effect = match self.ask(method, query, headers, body) {
            Ok(effect) => effect,
            Err(refusal) => {
                return Answered {
                    answer: Answer::refusal(&refusal),
                    body: Vec::new(),
                    attached: false,
                };
            }
        };
        match effect {
            Effect::Put(_) | Effect::Collect { .. } | Effect::Send { .. } => {
                unreachable!("they are kept apart")
            }
            Effect::Attach { subscriber, .. } => {
                self.incarnation = Some(subscriber.incarnation);
                Answered {
                    answer: subscriber.answer,
                    body: Vec::new(),
                    attached: true,
                }
            }
            Effect::Answer { answer, .. } => {
                let body = match &answer.body {
                    Body::Empty => Vec::new(),
                    Body::Bytes(bytes) => bytes.clone(),
                    Body::Plan(plan) => match self.render(plan) {
                        Ok(body) => body,
                        Err(damaged) => {
                            return Answered {
                                answer: Answer::internal(&damaged.to_string()),
                                body: damaged.to_string().into_bytes(),
                                attached: false,
                            };
                        }
                    },
                };
                Answered {
                    answer,
                    body,
                    attached: false,
                }
            }
        }
    }

    pub(crate) fn put(&mut self, content_type: &str, headers: &[(&str, &str)]) -> Answered {
        let headers = [&[("Content-Type", content_type)], headers].concat();
        self.request("PUT", "", &headers, b"")
    }

    pub(crate) fn post(&mut self, content_type: &str, body: &[u8]) -> Answered {
        self.request("POST", "", &[("Content-Type", content_type)], body)
    }

    pub(crate) fn get(&mut self, query: &str) -> Answered {
        self.request("GET", query, &[], b"")
    }

    /// One page, as caches that many clients share get it.
    pub(crate) fn get_page(&mut self, query: &str) -> Answered {
        self.request("GET", query, &[("X-Cache-Mode", "shared")], b"")
    }

    /// The reader that was attached last leaves.
    pub(crate) fn leave(&mut self) {
        let incarnation = self.incarnation.take().expect("a reader was attached");
        assert!(self.input(Input::SubscriberLeft { incarnation }).is_empty());
    }

    /// Fires alarms until it is so.
    pub(crate) fn fire_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..100 {
            if is_so(self) {
                return;
            }
            self.fire();
        }
        panic!("it is never so");
    }

    /// Fires the alarm at its time.
    pub(crate) fn fire(&mut self) {
        let at = self.alarm.take().expect("an alarm is set");
        self.now = self.now.max(at);
        let effect = self.input(Input::Alarm);
        assert!(effect.is_empty());
    }
}
