//! Clients: each does one thing at a time, retries failed requests, and remembers its answers.

use std::rc::Rc;

use machine::wire::request::AwaitsBody;

use super::caching::Way;
use super::reader::Reader;
use super::stale_instance::StaleInstance;
use super::{Event, Phase, World};
use crate::coverage::{Fault, Situation, Watermark};
use crate::ids::{
    CacheId, CallId, ClientId, ConnectionId, FetchId, Id, ObjectId, OperationId, ReaderId, RpcId,
    Table,
};
use crate::model::Model;
use crate::oracles::{self, ExactlyOnce, Marked, Named, Oracle, Position};
use crate::request::{Request, Response};
use crate::segments::token;
use crate::trace::Mark;
use crate::workload::{self, Action, Claim, Context, Knowledge};

/// An answer, and the state of the object when it was made.
#[derive(Clone, Debug)]
pub struct Received {
    pub(super) response: Response,
    pub(super) position: Position,
    /// The connection that comes with it.
    pub(super) connection: Option<ConnectionId>,
    /// The fetch of its body, if that is partly in the cold tier.
    pub(super) fetching: Option<FetchId>,
    /// How many segments were sealed when an object made it. A seal after that gives the tail
    /// another name, which the object did not know.
    pub(super) sealed: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Client {
    /// Whether it has something left to do.
    pub(super) busy: bool,
    /// Whether it follows an event stream. The run does not wait until it has ended.
    pub(super) following: bool,
    /// The cache that its requests go through.
    pub(super) cache: Option<CacheId>,
    /// What it knows of each name.
    knowledge: Table<ObjectId, Knowledge>,
}

impl Client {
    pub(super) fn new(names: usize) -> Self {
        let mut knowledge = Table::default();
        for _ in 0..names {
            knowledge.push(Knowledge::default());
        }
        Self {
            busy: true,
            following: false,
            cache: None,
            knowledge,
        }
    }
}

/// Something that a client does, in several attempts if needed.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) client: ClientId,
    object: ObjectId,
    request: Rc<Request>,
    marker: Option<String>,
    claim: Option<Claim>,
    sent_at: u64,
    attempts: u64,
    /// Requests sent, copies included.
    sent: u64,
    /// The incarnations in which it was acknowledged, each with the status.
    acknowledged: Vec<(u64, u16)>,
    /// Whether an answer was lost.
    unknown: bool,
    pub(super) done: bool,
    /// The offset with which an append was answered.
    offset: Option<String>,
    /// What is read once more at the end, if it is part of that.
    last: Option<Last>,
}

/// A read at the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// All pages from the beginning.
    All,
    /// One page from the offset with which this operation was answered. The later operations
    /// follow.
    Answered(OperationId),
}

/// One request on its way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) object: ObjectId,
    /// Its operation, unless an object has sent it.
    operation: Option<OperationId>,
    /// The edge that connects, unless the client sends it itself.
    pub(super) reader: Option<ReaderId>,
    pub(super) request: Rc<Request>,
    /// The latest state that any client knew when it was sent.
    pub(super) floor: Position,
    pub(super) epoch: u64,
    pub(super) awaits: Option<AwaitsBody>,
    pub(super) stale_instance: Option<Box<StaleInstance>>,
    /// The object's number of turns when the request arrived before its body.
    pub(super) turns_at_arrival: Option<u64>,
    /// The message that it carries, if an object has sent it.
    pub(super) rpc: Option<RpcId>,
    pub(super) way: Way,
}

impl Call {
    /// Returns the operation of a client's call.
    pub(super) fn operation(&self) -> OperationId {
        self.operation
            .expect("a client's call is part of an operation")
    }
}

impl World<'_, '_> {
    /// Lets a client begin its next operation.
    pub(super) fn think(&mut self, client: ClientId) {
        self.clients[client].following = false;
        let done = self.operation_count() >= self.engine.settings.operations;
        if self.phase != Phase::Busy || done {
            self.clients[client].busy = false;
            self.advance();
            return;
        }
        let name = self.engine.choices.upto(self.engine.settings.names - 1);
        let object = ObjectId::new(usize::try_from(name).expect("a run has few names"));
        let Model { state, bounds, .. } = &self.models[object];
        let ends = state
            .incarnation
            .as_ref()
            .and_then(|incarnation| incarnation.ends(bounds));
        let context = Context {
            settings: &self.engine.settings,
            incarnation: state.incarnation.as_ref(),
            has_ended: ends.is_some_and(|(least, _)| least <= self.engine.now()),
            knowledge: &self.clients[client].knowledge[object],
            operation: self.operations.len() as u64,
            now: self.engine.now(),
        };
        let next = workload::next(self.engine.choices, context);
        let (request, marker, claim, pause) = match next {
            Action::Send {
                request,
                marker,
                claim,
            } => (request, marker, claim, None),
            Action::Wait(pause) => (Request::default(), None, None, Some(pause)),
        };
        let operation = self.begin(client, object, request, marker, claim);
        match pause {
            Some(pause) => {
                self.engine.note(format_args!("client {client}"), || {
                    format!("waits for {pause} ms")
                });
                self.operations[operation].done = true;
                self.engine.schedule(pause, Event::Think { client });
            }
            None => self.attempt(operation),
        }
    }

    fn begin(
        &mut self,
        client: ClientId,
        object: ObjectId,
        request: Request,
        marker: Option<String>,
        claim: Option<Claim>,
    ) -> OperationId {
        self.operations.push(Operation {
            client,
            object,
            request: Rc::new(request),
            marker,
            claim,
            sent_at: self.engine.now(),
            attempts: 0,
            sent: 0,
            acknowledged: Vec::new(),
            unknown: false,
            done: false,
            offset: None,
            last: None,
        })
    }

    /// Sends an operation's request, for the first time or again.
    pub(super) fn attempt(&mut self, operation: OperationId) {
        let Operation { object, client, .. } = self.operations[operation];
        let request = Rc::clone(&self.operations[operation].request);
        self.operations[operation].attempts += 1;
        self.operations[operation].sent += 1;
        self.engine
            .raise(Watermark::Attempts, self.operations[operation].attempts);
        let call = self.call(object, operation, None, &request);
        self.note_of_client(client, Mark::Begins(call.span()), || {
            format!("c{call} {} on name {object}", request.line())
        });
        if self.ask_cache(call, client) {
            return;
        }
        let request = Rc::clone(&self.calls[call].request);
        if request.method == "GET"
            && request
                .parameter("live")
                .is_some_and(|live| matches!(live, "sse" | "long-poll"))
        {
            let reader = self.readers.next_id();
            let slow = self.engine.fault(Fault::SlowReader);
            let ahead = self.engine.choices.upto(self.engine.settings.delays.skew);
            self.readers
                .push(Reader::new(object, operation, call, request, slow, ahead));
            if self.engine.fault(Fault::Leave) {
                let after = self.engine.choices.magnitude(20_000);
                self.engine.schedule(after, Event::Leave { reader });
            }
            let delay = self.engine.network_delay();
            self.engine
                .schedule(delay, Event::Connect { reader, from: None });
            return;
        }
        self.send(call);
        if self.engine.fault(Fault::Duplicate) {
            self.engine.cover(Situation::DuplicateInFlight);
            self.operations[operation].sent += 1;
            let copy = self.call(object, operation, None, &request);
            self.calls[copy].way = self.calls[call].way.clone();
            self.note_of_client(client, Mark::Begins(copy.span()), || {
                format!("c{copy} is a copy of c{call}")
            });
            if self.send(copy) {
                self.engine.changed(Fault::Duplicate);
            }
        }
    }

    pub(super) fn call(
        &mut self,
        object: ObjectId,
        operation: impl Into<Option<OperationId>>,
        reader: Option<ReaderId>,
        request: &Rc<Request>,
    ) -> CallId {
        self.calls.push(Call {
            object,
            operation: operation.into(),
            reader,
            request: Rc::clone(request),
            floor: self.checkers.recency.floor(object),
            epoch: 0,
            awaits: None,
            stale_instance: None,
            turns_at_arrival: None,
            rpc: None,
            way: Way::Direct,
        })
    }

    /// Sends a call's request. Returns whether it will arrive.
    pub(super) fn send(&mut self, call: CallId) -> bool {
        let delay = self.engine.network_delay();
        let lost = self.engine.fault(Fault::RequestLost);
        if lost {
            self.engine.cover(Situation::RequestLost);
            self.engine.changed(Fault::RequestLost);
            self.engine.note("network", || format!("c{call} is lost"));
            self.engine.schedule(delay + 1_000, Event::Lost { call });
        } else {
            self.engine.schedule(delay, Event::Arrive { call });
        }
        !lost
    }

    pub(super) fn reply(&mut self, call: CallId, received: Received) {
        if let Some(reader) = self.calls[call].reader {
            return self.connected(reader, call, received);
        }
        if let Some(rpc) = self.calls[call].rpc {
            return self.message_answered(rpc, call, &received);
        }
        let Some(received) = self.pass_cache(call, received) else {
            return;
        };
        let client = self.operations[self.calls[call].operation()].client;
        self.note_of_client(client, Mark::Ends(call.span()), || {
            format!("c{call} ← {}", received.response.line())
        });
        if !self.observe_cached(call, &received) {
            self.note_known(self.calls[call].object, self.calls[call].floor, &received);
        }
        self.observe(call, &received);
        let status = received.response.status;
        let operation = &mut self.operations[self.calls[call].operation()];
        let success = (200..300).contains(&status);
        if let (true, Some(incarnation)) = (success, received.position.incarnation()) {
            operation.acknowledged.push((incarnation, status));
            let offset = received.response.header("Stream-Next-Offset");
            operation.offset = offset
                .filter(|_| operation.marker.is_some())
                .map(str::to_owned);
        }
        if status >= 500 {
            operation.unknown = true;
            return self.failed(call);
        }
        let crashed = self.objects[operation.object].platform.last_crash_at > operation.sent_at;
        if operation.unknown
            && crashed
            && status == 204
            && operation.claim.is_some()
            && !operation.request.body.is_empty()
        {
            self.engine.cover(Situation::DuplicateAfterCrash);
        }
        self.settle(call, &received.response);
    }

    pub(super) fn lost(&mut self, call: CallId) {
        if let Some(reader) = self.calls[call].reader {
            return self.unanswered(reader, call);
        }
        if let Some(rpc) = self.calls[call].rpc {
            return self.message_lost(rpc);
        }
        if self.is_in_background(call) {
            return;
        }
        let client = self.operations[self.calls[call].operation()].client;
        self.note_of_client(client, Mark::Loses(call.span()), || {
            format!("c{call} is not answered")
        });
        self.operations[self.calls[call].operation()].unknown = true;
        self.failed(call);
    }

    /// Adds a line about a client to the trace.
    pub(super) fn note_of_client(
        &mut self,
        client: ClientId,
        mark: Mark,
        what: impl FnOnce() -> String,
    ) {
        let lane = format_args!("client {client}");
        self.engine.note_as(mark, lane, what);
    }

    /// Schedules another attempt, or gives up.
    fn failed(&mut self, call: CallId) {
        let number = self.calls[call].operation();
        let operation = &self.operations[number];
        if operation.done {
            return;
        }
        if operation.attempts <= self.engine.settings.retries || operation.last.is_some() {
            let pause = self
                .engine
                .choices
                .upto(self.engine.settings.delays.think / 4);
            self.engine
                .schedule(pause, Event::Retry { operation: number });
        } else {
            self.finish(number);
        }
    }

    fn settle(&mut self, call: CallId, response: &Response) {
        let number = self.calls[call].operation();
        let operation = &self.operations[number];
        if operation.done {
            return;
        }
        let (client, last) = (operation.client, operation.last);
        self.learn(number, response);
        let Some(last) = last else {
            return self.finish(number);
        };
        let object = self.operations[number].object;
        self.operations[number].done = true;
        let offset = response.header("Stream-Next-Offset");
        match (
            last,
            offset.filter(|_| !response.is_true("Stream-Up-To-Date")),
        ) {
            (Last::All, Some(offset)) => self.read_once_more(client, object, offset, Last::All),
            (Last::All, None) => self.has_read(),
            (Last::Answered(operation), _) => self.read_from_answers(Some(operation)),
        }
    }

    fn has_read(&mut self) {
        self.unread = self.unread.saturating_sub(1);
        self.advance();
    }

    /// Reads from each offset with which an append after this operation was answered.
    fn read_from_answers(&mut self, after: Option<OperationId>) {
        let answered = self
            .operations
            .named_after(after)
            .find_map(|(number, operation)| {
                Some((number, operation.object, operation.offset.clone()?))
            });
        match answered {
            Some((number, object, offset)) => {
                self.answers_read += 1;
                self.read_once_more(self.first_client(), object, &offset, Last::Answered(number));
            }
            None => self.has_read(),
        }
    }

    /// Ends an operation. Its client goes on.
    pub(super) fn finish(&mut self, number: OperationId) {
        let operation = &mut self.operations[number];
        if operation.done {
            return;
        }
        operation.done = true;
        let client = operation.client;
        let pause = self.engine.choices.upto(self.engine.settings.delays.think);
        self.engine.schedule(pause, Event::Think { client });
    }

    fn learn(&mut self, operation: OperationId, response: &Response) {
        let Operation { client, object, .. } = self.operations[operation];
        let request = Rc::clone(&self.operations[operation].request);
        self.clients[client].knowledge[object].learn(&request, response);
    }

    pub(super) fn learn_position(
        &mut self,
        operation: OperationId,
        incarnation: u64,
        position: u64,
        cursor: Option<u64>,
    ) {
        let Operation { client, object, .. } = self.operations[operation];
        let earlier = self.engine.choices.upto(1) == 1;
        let spelled = self.models[object]
            .segments(incarnation)
            .spell(position, earlier);
        let knowledge = &mut self.clients[client].knowledge[object];
        knowledge.learn_offset(&spelled);
        knowledge.cursor = cursor
            .map(|cursor| cursor.to_string())
            .or_else(|| knowledge.cursor.take());
    }

    /// Returns the position of the offset in an answer, counted from the beginning of the stream.
    pub(super) fn next_position(
        &self,
        object: ObjectId,
        incarnation: u64,
        response: &Response,
    ) -> Option<u64> {
        let token = response.header("Stream-Next-Offset").and_then(token)?;
        self.models[object]
            .segments(incarnation)
            .position_sent(token)
    }

    /// Compares the content of an answer with everything that was shown before.
    fn observe(&mut self, call: CallId, received: &Received) {
        let object = self.calls[call].object;
        let request = Rc::clone(&self.calls[call].request);
        let Received {
            response,
            position: state,
            ..
        } = received;
        if matches!(response.status, 400 | 413 | 500..) {
            return;
        }
        let Some(incarnation) = state.incarnation() else {
            return;
        };
        let content = self.models[object].content(incarnation);
        let next = self.next_position(object, incarnation, response);
        let shown = match request.method {
            "GET" if response.status == 200 => Some(&response.body),
            // A 204 to a producer means a duplicate, and its offset is not that of the data.
            "POST" | "PUT"
                if matches!(response.status, 201 | 200 | 204) && request.method == "POST" =>
            {
                let appended = response.status == 200 || request.header("Producer-Id").is_none();
                let acknowledged = appended && !request.body.is_empty();
                Some(&request.body).filter(|_| acknowledged)
            }
            _ => None,
        };
        let (Some(shown), Some(next)) = (shown, next) else {
            return;
        };
        let Some(units) = oracles::units(content, shown) else {
            return self.engine.fail(
                Oracle::OffsetLaw,
                "a body of the stream's type".to_owned(),
                response.line(),
            );
        };
        let from = next.saturating_sub(units.len() as u64);
        let verdict = self
            .checkers
            .offset_law
            .observe(object, incarnation, from, &units);
        self.engine.check(Oracle::OffsetLaw, verdict);
    }

    /// Compares the state in an answer with everything that was known when it was requested.
    pub(super) fn note_known(&mut self, object: ObjectId, floor: Position, received: &Received) {
        let Received {
            response,
            position: state,
            ..
        } = received;
        if matches!(response.status, 400 | 413 | 500..) {
            return;
        }
        let state = *state;
        let next = state
            .incarnation()
            .and_then(|incarnation| self.next_position(object, incarnation, response));
        let learned = state.known_to(next.unwrap_or(0), response.is_true("Stream-Closed"));
        self.note_learned(object, floor, state, learned);
    }

    pub(super) fn note_learned(
        &mut self,
        object: ObjectId,
        floor: Position,
        state: Position,
        learned: Position,
    ) {
        let verdict = self.checkers.recency.observe(object, floor, state, learned);
        self.engine.check(Oracle::Recency, verdict);
    }

    /// Counts and judges an answer when it is made.
    pub(super) fn note_answer(&mut self, call: CallId, response: &Response) {
        let object = self.calls[call].object;
        let request = Rc::clone(&self.calls[call].request);
        let body = |text: &str| {
            response
                .body
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        self.same_page(object, &request, response);
        if let Some(incarnation) = &self.models[object].state.incarnation
            && request.method == "HEAD"
        {
            let tail = incarnation.content.len();
            self.same_tag(object, 0, tail, response);
        }
        let has = |name: &str| response.header(name).is_some();
        self.note_conditions(object, &request, response);
        match (request.method, response.status) {
            ("GET", 204) if request.parameter("live") == Some("sse") => {
                self.engine.cover(Situation::EventsNotAgain)
            }
            (_, 412) => self.engine.cover(Situation::PreconditionFailed),
            (_, 304) => self.engine.cover(Situation::NotModified),
            (_, 400) => self.engine.cover(Situation::BadRequest),
            (_, 413) => self.engine.cover(Situation::TooLarge),
            ("POST", 403) => self.engine.cover(Situation::EpochFenced),
            ("POST", 409) if has("Producer-Expected-Seq") => {
                self.engine.cover(Situation::SequenceGap)
            }
            ("POST", 409) if has("Stream-Closed") => self.engine.cover(Situation::AppendToClosed),
            ("POST", 409) if body("tail_elsewhere") => self.engine.cover(Situation::TailElsewhere),
            ("POST", 409) if body("sequence_regression") => {
                self.engine.cover(Situation::SequenceRegression)
            }
            // An append that closes is answered 200 the first time.
            ("POST", 204)
                if has("Producer-Seq") && has("Stream-Closed") && !request.body.is_empty() =>
            {
                self.engine.cover(Situation::ClosingRepeated);
            }
            ("POST", 204) if has("Producer-Seq") && !has("Stream-Closed") => {
                self.engine.cover(Situation::Duplicate)
            }
            ("POST", 200)
                if request.header("Producer-Seq") == Some("0")
                    && request.header("Producer-Epoch") != Some("0") =>
            {
                self.engine.cover(Situation::EpochRaised);
            }
            ("PUT", 200) => self.engine.cover(Situation::Confirmed),
            ("PUT", 409) => self.engine.cover(Situation::ExistsOtherwise),
            ("PUT", 201) if self.models[object].state.last_incarnation > 1 => {
                self.engine.cover(Situation::CreatedAgain)
            }
            ("GET", 200) if has("Stream-Next-Offset") && !has("Stream-Up-To-Date") => {
                self.engine.cover(Situation::PageCut)
            }
            _ => {}
        }
    }

    /// Counts writes with a condition that were not refused.
    fn note_conditions(&mut self, object: ObjectId, request: &Request, response: &Response) {
        if !matches!(request.method, "PUT" | "POST" | "DELETE") || response.status >= 300 {
            return;
        }
        let is_duplicate = request.method == "POST"
            && response.status == 204
            && response.header("Producer-Seq").is_some();
        if let Some(expected) = request.header("Stream-Expected-Offset") {
            let is_open = !response.is_true("Stream-Closed");
            if is_duplicate && is_open && response.header("Stream-Next-Offset") != Some(expected) {
                self.engine.cover(Situation::ConditionalDuplicate);
            } else if !request.body.is_empty() {
                self.engine.cover(Situation::TailExpected);
                let incarnation = self.models[object].state.incarnation.as_ref();
                let names = incarnation.and_then(|incarnation| {
                    let position = incarnation.segments.position_requested(token(expected)?);
                    Some([true, false].map(|earlier| incarnation.segments.spell(position, earlier)))
                });
                if let Some([end, _]) = names.filter(|[end, start]| end != start) {
                    self.engine.cover(if expected == end {
                        Situation::TailAsEnd
                    } else {
                        Situation::TailAsStart
                    });
                }
            }
        }
        if request.header("If-Match").is_some_and(|list| list != "*") {
            self.engine.cover(Situation::PreconditionMet);
        }
    }

    /// Judges the entity tag of an answer that leaves.
    pub(super) fn note_tag(&mut self, call: CallId, received: &Received) {
        let Call {
            object, request, ..
        } = &self.calls[call];
        let (object, request) = (*object, Rc::clone(request));
        let response = &received.response;
        let Some(incarnation) = received.position.incarnation() else {
            return;
        };
        let next = self.next_position(object, incarnation, response);
        if let (Some(tag), Some(end)) = (response.header("ETag"), next) {
            let named = Named {
                object,
                incarnation,
                end,
                closed: response.is_true("Stream-Closed"),
            };
            if request.method == "GET" && self.checkers.entity_tags.was_open(named) {
                self.engine.cover(Situation::ChangedByClose);
            }
            let finding = self.checkers.entity_tags.observe(tag, named);
            self.record(finding);
        }
    }

    /// Begins a request whose only purpose is to wake the object.
    pub(super) fn begin_nudge(&mut self, object: ObjectId) -> OperationId {
        let operation = self.begin(
            self.first_client(),
            object,
            Request::new("HEAD"),
            None,
            None,
        );
        self.operations[operation].done = true;
        operation
    }

    /// Begins to read a name once more, by the first client.
    pub(super) fn read_all(&mut self, object: ObjectId) {
        self.unread += 1;
        self.read_once_more(self.first_client(), object, "-1", Last::All);
    }

    /// Begins to read from each offset that writers were answered.
    pub(super) fn read_all_answers(&mut self) {
        self.unread += 1;
        self.read_from_answers(None);
    }

    fn read_once_more(&mut self, client: ClientId, object: ObjectId, offset: &str, last: Last) {
        let mut request = Request::new("GET");
        request.query.push(("offset", offset.to_owned()));
        let operation = self.begin(client, object, request, None, None);
        self.operations[operation].last = Some(last);
        self.attempt(operation);
    }

    /// Judges that acknowledged appends are there, and that a producer's append is there once.
    pub(super) fn exactly_once(&mut self) {
        let mut appends = ExactlyOnce::default();
        for (object, model) in self.models.named() {
            for incarnation in 1..=model.incarnations() {
                appends.count(object, incarnation, model.content(incarnation));
            }
        }
        let mut verdict = Ok(());
        for (number, operation) in self.operations.named() {
            let Some(marker) = &operation.marker else {
                continue;
            };
            let claim = operation.claim.as_ref();
            let marked = Marked {
                operation: number,
                object: operation.object,
                marker,
                claim,
                is_post: operation.request.method == "POST",
                sent: operation.sent,
                acknowledged: &operation.acknowledged,
            };
            let model = &self.models[operation.object];
            for incarnation in 1..=model.incarnations() {
                let forgotten = |claim: &Claim| model.has_forgotten(incarnation, &claim.id);
                let judged = appends.judge(&marked, incarnation, claim.is_some_and(forgotten));
                verdict = verdict.and(judged);
            }
        }
        self.engine.check(Oracle::ExactlyOnce, verdict);
    }
}
