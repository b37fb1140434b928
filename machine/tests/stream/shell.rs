//! The smallest shell: rows in memory, one object, and turns that are durable at once.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use machine::outbox::{Request, Statement};
use machine::rows::Incarnation;
use machine::segment::{Put, Receipt};
use machine::wire::request::{self, Parsed};
use machine::{
    AlarmChange, Answer, Body, Broadcast, CallId, CallOutcome, Context, CorruptionError, Effect,
    EffectId, Guarded, Input, Limits, MemoryRows, Millis, Plan, Refusal, Rest, Span, StorageError,
    Stream, TimerReason,
};

/// An answer with its body.
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

    /// Returns everything that a client receives.
    pub(crate) fn received(&self) -> (u16, String, String) {
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

/// A message of a stream to another object, or to the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Call(String, Request),
    Index(Vec<Statement>),
}

pub(crate) struct Shell {
    /// The name of the stream.
    pub(crate) name: String,
    pub(crate) rows: MemoryRows,
    /// How many readers are at the tail.
    pub(crate) attached: u64,
    /// How many questions the storage was asked.
    pub(crate) asked: Cell<u64>,
    pub(crate) limits: Limits,
    pub(crate) now: Millis,
    pub(crate) alarm: Option<Millis>,
    pub(crate) broadcast: Option<Broadcast>,
    /// The events of all turns.
    pub(crate) events: Vec<machine::Events>,
    /// Writes of the last turn.
    pub(crate) written: usize,
    /// The cold tier.
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    /// Bytes that answers have taken from it.
    pub(crate) fetched: u64,
    /// Effects that are not done yet.
    pub(crate) puts: Vec<Put>,
    pub(crate) collections: Vec<(EffectId, Vec<String>)>,
    pub(crate) messages: Vec<(EffectId, Message)>,
    stream: Option<Stream>,
    /// The seed of the last instance.
    pub(crate) loads: u64,
    /// The incarnation of the reader that was attached last.
    incarnation: Option<Incarnation>,
}

impl Shell {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            name: "s".to_owned(),
            rows: MemoryRows::default(),
            attached: 0,
            asked: Cell::new(0),
            limits,
            now: Millis(1_800_000_000_000),
            alarm: None,
            broadcast: None,
            events: Vec::new(),
            written: 0,
            objects: BTreeMap::new(),
            fetched: 0,
            puts: Vec::new(),
            collections: Vec::new(),
            messages: Vec::new(),
            stream: None,
            loads: 0,
            incarnation: None,
        }
    }

    pub(crate) fn sleep(&mut self) {
        self.stream = None;
    }

    /// Returns what the instance holds in memory, as text.
    pub(crate) fn remembered_bytes(&self) -> usize {
        format!("{:?}", self.stream).len()
    }

    pub(crate) fn input(&mut self, input: Input) -> Vec<Effect> {
        // As on one machine, where a stream has a file only from its creation on.
        let rows = (!self.rows.is_empty()).then_some(&self.rows);
        let storage = Guarded::new(&rows, || {
            self.asked.set(self.asked.get() + 1);
            Ok(())
        });
        let mut stream = self.stream.take().unwrap_or_else(|| {
            self.loads += 1;
            Stream::load(
                self.now,
                &storage,
                &Arc::new(self.limits.clone()),
                self.loads,
            )
            .expect("memory can be read")
        });
        let context = Context {
            now: self.now,
            storage: &storage,
            subscribers: &|_| Ok(self.attached),
            entropy: &|| -> [u8; 32] { unreachable!("there are no subscriptions here") },
        };
        let turn = stream.step(&context, input).expect("memory can be read");
        self.stream = Some(stream);
        self.written = turn.writes.len();
        self.events.push(turn.events);
        for write in &turn.writes {
            self.rows.apply(write).expect("the rows take the write");
        }
        match turn.alarm {
            AlarmChange::Keep => {}
            AlarmChange::Set(at) => self.alarm = Some(at),
            AlarmChange::Clear => self.alarm = None,
        }
        if self.rows.is_empty() {
            self.alarm = None;
        }
        self.broadcast = turn.broadcast;
        let mut answers = Vec::new();
        for effect in turn.after_commit {
            match effect {
                Effect::Put(put) => self.puts.push(put),
                Effect::Collect { effect, keys } => self.collections.push((effect, keys)),
                Effect::Call {
                    effect,
                    to,
                    request,
                } => self.messages.push((effect, Message::Call(to, request))),
                Effect::Index { effect, statements } => {
                    self.messages.push((effect, Message::Index(statements)))
                }
                Effect::Webhook { .. } => unreachable!("a stream sends no webhooks"),
                Effect::Enqueue { .. } => unreachable!("there is no fan-out queue here"),
                Effect::Answer { .. } | Effect::Attach { .. } => answers.push(effect),
            }
        }
        answers
    }

    fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError> {
        let frames = self.rows.frames(span)?;
        assert!(
            frames.len() as u64 <= self.limits.row_bytes_max || span.from == span.to,
            "a span is fetched as one value"
        );
        Ok(frames)
    }

    /// Returns the timers, and the reason of the alarm.
    pub(crate) fn timers(&self) -> (Vec<(TimerReason, Millis)>, Option<TimerReason>) {
        let stream = self.stream.as_ref().expect("the object is awake");
        let timers = stream.timers().map(|timer| (timer.reason, timer.at));
        (timers.collect(), stream.alarm_reason())
    }

    /// Returns the object of a put, and its receipt.
    pub(crate) fn encode(&self, put: &Put) -> (Vec<u8>, Receipt) {
        let mut encoder = put.begin(&self.rows).expect("the rows are there");
        let length = encoder.length();
        let mut object = encoder.head().to_vec();
        while let Some(span) = encoder.next_span() {
            let frames = self.frames(span).expect("the rows are there");
            object.extend(encoder.push(frames).expect("the frames are whole"));
        }
        let (end, receipt) = encoder.finish().expect("all was pushed");
        object.extend(end);
        assert_eq!(object.len() as u64, length);
        (object, receipt)
    }

    /// Carries out the oldest put, and reports its end to the stream.
    pub(crate) fn store(&mut self) {
        self.store_and_answer();
    }

    /// Carries out the oldest put. Returns the answers that have waited for it.
    pub(crate) fn store_and_answer(&mut self) -> Vec<Effect> {
        let put = self.puts.remove(0);
        let (object, receipt) = self.encode(&put);
        assert!(
            self.objects.insert(put.key, object).is_none(),
            "a key is used once"
        );
        self.input(Input::PutFinished {
            id: put.id,
            receipt: Some(receipt),
        })
    }

    /// Carries out all effects, until there are no more.
    pub(crate) fn settle(&mut self) {
        while !(self.puts.is_empty() && self.collections.is_empty() && self.messages.is_empty()) {
            if !self.puts.is_empty() {
                self.store();
            }
            for (effect, keys) in core::mem::take(&mut self.collections) {
                keys.iter().for_each(|key| drop(self.objects.remove(key)));
                self.input(Input::CollectFinished { effect, done: true });
            }
            for (effect, message) in core::mem::take(&mut self.messages) {
                self.answer(effect, &message, 200);
            }
        }
    }

    /// Ends a message with this status. For the index, 200 stands for success.
    pub(crate) fn answer(&mut self, effect: EffectId, message: &Message, status: u16) {
        self.input(match message {
            Message::Call(..) => Input::CallFinished {
                effect,
                outcome: CallOutcome::Answered {
                    status,
                    body: Bytes::new(),
                },
            },
            Message::Index(_) => Input::IndexFinished {
                effect,
                done: status == 200,
            },
        });
    }

    /// Returns the body of an answer, page by page.
    fn render(&mut self, plan: &Plan) -> Result<Vec<u8>, CorruptionError> {
        let (mut body, mut rest) = self.render_page(plan)?;
        while let Some(next) = rest {
            let (page, after) = self.read_on(next).expect("the stream is there");
            body.extend(page);
            rest = after;
        }
        Ok(body)
    }

    /// Returns the next page of an answer, and the rest after it; `None` when the stream has ended.
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

    /// Returns the head and the first page of the answer to a read, and the rest after that.
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
        let Ok(mut rendering) = plan.begin(|span| self.frames(span)) else {
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

    /// Sends a request, and returns the answer of its turn.
    fn ask(
        &mut self,
        method: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Effect, Refusal> {
        let effects = self.begin(CallId(0), method, query, headers, body)?;
        Ok(effects
            .into_iter()
            .next_back()
            .expect("a call is answered in its turn"))
    }

    /// Sends a request, and returns the answers of its turn.
    pub(crate) fn begin(
        &mut self,
        id: CallId,
        method: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Vec<Effect>, Refusal> {
        let target = format!("/v1/stream/{}{query}", self.name);
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
        Ok(self.input(Input::Call { id, call }))
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
        self.answered(effect)
    }

    /// Returns what a client gets.
    pub(crate) fn answered(&mut self, effect: Effect) -> Answered {
        match effect {
            Effect::Put(_)
            | Effect::Collect { .. }
            | Effect::Call { .. }
            | Effect::Webhook { .. }
            | Effect::Index { .. }
            | Effect::Enqueue { .. } => {
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

    /// Returns one page, as a shared cache gets it.
    pub(crate) fn get_page(&mut self, query: &str) -> Answered {
        self.request("GET", query, &[("X-Cache-Mode", "shared")], b"")
    }

    /// Lets the reader that was attached last leave.
    pub(crate) fn leave(&mut self) {
        let incarnation = self.incarnation.take().expect("a reader was attached");
        assert!(self.input(Input::SubscriberLeft { incarnation }).is_empty());
    }

    /// Fires alarms until the condition holds.
    pub(crate) fn fire_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..100 {
            if is_so(self) {
                return;
            }
            self.fire();
        }
        panic!("the condition never holds");
    }

    /// Fires the alarm at its time.
    pub(crate) fn fire(&mut self) {
        let at = self.alarm.take().expect("an alarm is set");
        self.now = self.now.max(at);
        let effect = self.input(Input::Alarm);
        assert!(effect.is_empty());
    }
}
