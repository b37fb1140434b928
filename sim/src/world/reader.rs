//! The reader's side of live reads: an edge that runs the machine's `LiveReader`, and a client that
//! reads fast or slowly.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use machine::live_reader::{Effect, Input, JITTER_END, LiveHead, LiveReader, MessageHead};
use machine::wire::internal_headers;
use machine::{Class, Millis, Offset, StreamEnd};

use super::client::Received;
use super::object::Message;
use super::{Event, Phase, World};
use crate::coverage::{Fault, Situation, Watermark};
use crate::ids::{CallId, ConnectionId, Id, ObjectId, OperationId, ReaderId};
use crate::model::{Content, Model};
use crate::oracles::{self, Delivery, Follower, Oracle, Position};
use crate::request::{Request, Response};
use crate::trace::Mark;

/// One client's live read.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) object: ObjectId,
    operation: OperationId,
    /// The client's own call.
    call: CallId,
    request: Rc<Request>,
    slow: bool,
    /// How far the edge's clock is ahead.
    ahead: u64,
    tail: Option<LiveReader>,
    class: Class,
    held_bytes_max: u64,
    /// The answers to the first connection attempt, and to one that was forwarded.
    held: Option<Received>,
    forwarded: Option<Received>,
    connection: Option<ConnectionId>,
    /// The state of the object when it last sent anything.
    position: Position,
    queue: VecDeque<(Vec<u8>, Position)>,
    queued_bytes: u64,
    draining: bool,
    tick_at: u64,
    follower: Option<Follower>,
    attempts: u64,
    cut: bool,
    left: bool,
    over: bool,
}

impl Reader {
    pub(super) fn new(
        object: ObjectId,
        operation: OperationId,
        call: CallId,
        request: Rc<Request>,
        slow: bool,
        ahead: u64,
    ) -> Self {
        Self {
            object,
            operation,
            call,
            request,
            slow,
            ahead,
            tail: None,
            class: Class::LongPoll,
            held_bytes_max: 0,
            held: None,
            forwarded: None,
            connection: None,
            position: Position::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            draining: false,
            tick_at: u64::MAX,
            follower: None,
            attempts: 0,
            cut: false,
            left: false,
            over: false,
        }
    }

    /// Lets its client read as fast as it can from now on.
    pub(super) const fn hurry(&mut self) {
        self.slow = false;
    }

    /// Returns how far its client has read.
    pub(super) fn position(&self) -> u64 {
        self.follower
            .as_ref()
            .and_then(|follower| follower.position)
            .unwrap_or(0)
    }

    /// Returns what its client still lacks, or `None`.
    pub(super) fn pending(&self, model: &Model) -> Option<String> {
        let follower = self
            .follower
            .as_ref()
            .filter(|_| !self.over && !self.left)?;
        let incarnation = model
            .state
            .incarnation
            .as_ref()
            .filter(|incarnation| incarnation.id == follower.incarnation)?;
        let tail = incarnation.content.len();
        match follower.position {
            Some(position) if position == tail && (follower.finished || !incarnation.closed) => {
                None
            }
            position => Some(format!(
                "is at {position:?} of {tail}, closed {}",
                incarnation.closed
            )),
        }
    }
}

impl World<'_, '_> {
    /// Sends the edge's request, for the first time or again from an offset.
    pub(super) fn connect(&mut self, reader: ReaderId, from: Option<Offset>) {
        let it = &mut self.readers[reader];
        if it.left && it.tail.is_none() {
            return;
        }
        it.attempts += 1;
        self.engine
            .raise(Watermark::ConnectionAttempts, it.attempts);
        let request = match from {
            None => Rc::clone(&it.request),
            Some(offset) => Rc::new(it.request.from_offset(&offset.to_string())),
        };
        let (object, operation) = (it.object, it.operation);
        let call = self.call(object, operation, Some(reader), &request);
        let begins = Mark::Begins(call.span());
        self.engine
            .note_as(begins, format_args!("reader {reader}"), || {
                format!("connects with c{call} {}", request.line())
            });
        self.send(call);
    }

    /// Handles the answer to a connection attempt.
    pub(super) fn connected(&mut self, reader: ReaderId, call: CallId, received: Received) {
        let head = received
            .response
            .header(internal_headers::LIVE_HEAD)
            .and_then(LiveHead::from_header);
        let ends = Mark::Ends(call.span());
        self.engine
            .note_as(ends, format_args!("reader {reader}"), || {
                format!("c{call} ← {}", received.response.line())
            });
        let now = self.engine.now();
        let it = &mut self.readers[reader];
        it.position = received.position;
        if it.tail.is_none() {
            let Some(head) = &head else {
                it.over = true;
                let (call, left) = (it.call, it.left);
                if left {
                    return self.read_ends(reader);
                }
                let delay = self.engine.network_delay();
                return self.engine.schedule(delay, Event::Reply { call, received });
            };
            it.tail = Some(LiveReader::new(Millis(now + it.ahead), head));
            it.class = head.class;
            it.held_bytes_max = head.held_bytes_max;
            it.held = Some(received.clone());
            if head.class == Class::Sse {
                self.begin_following(reader, &received);
            }
        }
        let it = &mut self.readers[reader];
        let Some(head) = head else {
            let status = received.response.status;
            it.forwarded = Some(received);
            return self.step(reader, Input::Forwarded { status });
        };
        let body = if let Some(connection) = received.connection {
            if it.left || it.tail.as_ref().is_none_or(LiveReader::is_ended) {
                self.engine.cover(Situation::ConnectionUnwanted);
                self.disconnect(connection);
                if self.readers[reader].left {
                    self.step(reader, Input::ClientGone);
                }
                return;
            }
            it.connection = Some(connection);
            self.connections[connection].reader = Some(reader);
            Vec::new()
        } else {
            if head.class == Class::Sse && !received.response.body.is_empty() {
                self.engine.cover(Situation::EventsPaged);
            }
            received.response.body.to_vec()
        };
        self.step(reader, Input::Connected { head, body });
    }

    fn begin_following(&mut self, reader: ReaderId, received: &Received) {
        let it = &self.readers[reader];
        let (object, call) = (it.object, it.call);
        let Some(incarnation) = received.position.incarnation() else {
            return self.engine.fail(
                Oracle::Events,
                "a stream to follow".to_owned(),
                received.response.line(),
            );
        };
        let model = &self.models[object];
        let (segments, length) = (model.segments(incarnation), received.position.length);
        let known = received.sealed.map(|sealed| segments.up_to(sealed));
        let segments = known.as_ref().unwrap_or(segments);
        let begin = segments.begin(&it.request, length);
        let position = begin.map(|begin| model.content(incarnation).begin(begin));
        if segments.resumed(&it.request, length).is_some() {
            self.engine.cover(Situation::EventsResumed);
        }
        let binary = matches!(
            self.models[object].content(incarnation),
            Content::Run { text: false, .. }
        );
        let encoding = received.response.header("Stream-SSE-Data-Encoding");
        if (encoding == Some("base64")) != binary
            || received.response.header("Content-Type") != Some("text/event-stream")
        {
            return self.engine.fail(
                Oracle::Events,
                format!("an event stream, in base64: {binary}"),
                received.response.line(),
            );
        }
        let mut follower = Follower::new(position, incarnation, binary);
        // The server's cursor is beyond the client's.
        follower.cursor = it
            .request
            .parameter("cursor")
            .and_then(|text| text.parse::<u64>().ok())
            .map(|cursor| cursor + 1);
        self.readers[reader].follower = Some(follower);
        let client = self.operations[self.readers[reader].operation].client;
        self.clients[client].following = true;
        let floor = self.calls[call].floor;
        let known = received.position.known_to(0, false);
        self.note_learned(object, floor, received.position, known);
        self.advance();
    }

    /// Handles that a connection attempt failed, or that the edge cannot reach the object.
    pub(super) fn unanswered(&mut self, reader: ReaderId, call: CallId) {
        self.engine.cover(Situation::ConnectFailed);
        let loses = Mark::Loses(call.span());
        self.engine
            .note_as(loses, format_args!("reader {reader}"), || {
                format!("c{call} is not answered")
            });
        let it = &mut self.readers[reader];
        if it.tail.is_none() {
            it.over = true;
            let call = it.call;
            return self.lost(call);
        }
        if self.engine.choices.upto(1) == 0 {
            self.step(reader, Input::Unanswered);
        } else {
            let unavailable = Response {
                status: 503,
                ..Response::default()
            };
            let position = self.readers[reader].position;
            self.readers[reader].forwarded = Some(Received {
                response: unavailable,
                position,
                connection: None,
                fetching: None,
                sealed: None,
            });
            self.step(reader, Input::Forwarded { status: 503 });
        }
    }

    pub(super) fn message(&mut self, connection: ConnectionId, message: &Message) {
        let Some(reader) = self.connections[connection].reader else {
            return;
        };
        if self.readers[reader].connection != Some(connection) {
            return;
        }
        let Some((head, body)) = MessageHead::decode(&message.bytes) else {
            return self.engine.fail(
                Oracle::Contract,
                "a message that can be read".to_owned(),
                crate::request::excerpt(&message.bytes),
            );
        };
        self.engine.note(format_args!("reader {reader}"), || {
            format!(
                "connection {connection}: {head:?} {}",
                crate::request::excerpt(&body)
            )
        });
        let it = &mut self.readers[reader];
        it.position = message.position;
        if !head.whole {
            self.engine.cover(Situation::FrameNotWhole);
        } else if it.class == Class::Sse && !body.is_empty() {
            self.engine.cover(Situation::EventsPushed);
        }
        if it.class == Class::LongPoll {
            self.engine.cover(match head.end {
                None => Situation::LongPollWoken,
                Some(StreamEnd::Closed) => Situation::LongPollClosed,
                Some(StreamEnd::Deleted) => Situation::LongPollGone,
            });
        } else if head.end == Some(StreamEnd::Deleted) {
            self.engine.cover(Situation::EventsGone);
        }
        self.step(reader, Input::Message { head, body });
    }

    pub(super) fn connection_closed(&mut self, connection: ConnectionId) {
        let Some(reader) = self.connections[connection].reader else {
            return;
        };
        let it = &mut self.readers[reader];
        if it.connection != Some(connection) {
            return;
        }
        it.connection = None;
        it.cut = true;
        self.engine.note(format_args!("reader {reader}"), || {
            format!("connection {connection} is closed")
        });
        self.step(reader, Input::Disconnected);
    }

    pub(super) fn tick(&mut self, reader: ReaderId) {
        if self.readers[reader].tick_at == self.engine.now() {
            self.readers[reader].tick_at = u64::MAX;
            self.step(reader, Input::Tick);
        }
    }

    /// Lets the client leave before the response ends.
    pub(super) fn leave(&mut self, reader: ReaderId) {
        let it = &mut self.readers[reader];
        if it.over || it.left {
            return;
        }
        it.left = true;
        self.engine.cover(Situation::ReaderLeft);
        if self.phase == Phase::Busy {
            self.engine.changed(Fault::Leave);
        }
        self.engine.note(format_args!("reader {reader}"), || {
            "the client leaves".to_owned()
        });
        self.step(reader, Input::ClientGone);
        self.read_ends(reader);
    }

    /// Lets the client go on after a live read whose answer it has not seen to the end.
    fn read_ends(&mut self, reader: ReaderId) {
        let Reader {
            call, operation, ..
        } = self.readers[reader];
        if !self.operations[operation].done {
            let client = self.operations[operation].client;
            let ends = Mark::Ends(call.span());
            self.note_of_client(client, ends, || format!("the live read c{call} ends"));
        }
        self.finish(operation);
    }

    /// Passes one input to the live reader, and carries out its effects.
    fn step(&mut self, reader: ReaderId, input: Input) {
        let jitter = if self.engine.settings.limits.reconnect_base_ms == 0 {
            0
        } else {
            self.engine.choices.upto(JITTER_END - 1)
        };
        let now = self.engine.now();
        let is_tick = input == Input::Tick;
        let it = &mut self.readers[reader];
        let Some(tail) = &mut it.tail else { return };
        let effects = tail.step(Millis(now + it.ahead), jitter, input);
        let mut emitted = false;
        let aged = is_tick && tail.is_ended();
        for effect in effects {
            self.engine
                .recorder
                .digest
                .number(self.engine.now() ^ reader.number() as u64);
            match effect {
                Effect::Connect { from, after_ms } => {
                    self.engine.schedule(
                        after_ms,
                        Event::Connect {
                            reader,
                            from: Some(from),
                        },
                    );
                }
                Effect::Disconnect => {
                    if let Some(connection) = self.readers[reader].connection.take() {
                        self.disconnect(connection);
                    }
                }
                Effect::Emit(bytes) => {
                    if is_tick {
                        self.engine.cover(Situation::Heartbeat);
                    }
                    emitted = true;
                    let it = &mut self.readers[reader];
                    it.queued_bytes += bytes.len() as u64;
                    let position = it.position;
                    it.queue.push_back((bytes, position));
                }
                Effect::Answer {
                    status,
                    headers,
                    body,
                } => {
                    let headers = headers
                        .into_iter()
                        .map(|(name, value)| (name.into(), value))
                        .collect();
                    self.hand_over(
                        reader,
                        Response {
                            status,
                            headers,
                            body: body.into(),
                        },
                    );
                }
                Effect::RespondEmpty => {
                    let held = self.readers[reader].held.clone();
                    if let Some(Received {
                        mut response,
                        position,
                        ..
                    }) = held
                    {
                        if !self.readers[reader].left {
                            self.engine.cover(Situation::LongPollTimeout);
                        }
                        response.body = Bytes::new();
                        self.readers[reader].position = position;
                        self.hand_over(reader, response);
                    }
                }
                Effect::Forward => {
                    if let Some(forwarded) = self.readers[reader].forwarded.take() {
                        if self.readers[reader].cut {
                            self.engine.cover(Situation::LongPollReconnected);
                        }
                        self.readers[reader].position = forwarded.position;
                        self.hand_over(reader, forwarded.response);
                    }
                }
                Effect::End => {
                    if aged {
                        self.engine.cover(Situation::EventsAged);
                    }
                    self.readers[reader].over = true;
                }
            }
        }
        self.after_step(reader, emitted);
    }

    /// Passes on what was written, tells the live reader whether there is room, and sets the timer.
    fn after_step(&mut self, reader: ReaderId, emitted: bool) {
        if !self.readers[reader].slow {
            while self.read_chunk(reader) {}
        } else if !self.readers[reader].queue.is_empty() && !self.readers[reader].draining {
            self.readers[reader].draining = true;
            self.engine.changed(Fault::SlowReader);
            let delay = self.engine.choices.upto(5_000);
            self.engine.schedule(delay, Event::Drain { reader });
        }
        let it = &mut self.readers[reader];
        if it.over && it.queue.is_empty() {
            if it.class == Class::Sse {
                self.read_ends(reader);
            }
            return;
        }
        if emitted {
            self.pressure(reader);
        }
        let it = &mut self.readers[reader];
        let Some(tail) = it.tail.as_ref().filter(|tail| !tail.is_ended()) else {
            return;
        };
        let deadline = tail
            .deadline()
            .0
            .saturating_sub(it.ahead)
            .max(self.engine.now());
        if deadline < it.tick_at {
            it.tick_at = deadline;
            self.schedule_timer(deadline, reader);
        }
    }

    /// Schedules the edge's timer. It is never early.
    fn schedule_timer(&mut self, at: u64, reader: ReaderId) {
        self.engine.schedule_at(at, Event::Tick { reader });
    }

    fn pressure(&mut self, reader: ReaderId) {
        let it = &self.readers[reader];
        if it.over || it.class != Class::Sse {
            return;
        }
        if it.queued_bytes < it.held_bytes_max {
            self.step(reader, Input::Drained);
        } else {
            if it.connection.is_some() {
                self.engine.cover(Situation::ReaderFull);
            }
            self.step(reader, Input::Backpressure);
        }
    }

    pub(super) fn drain(&mut self, reader: ReaderId) {
        self.readers[reader].draining = false;
        while self.read_chunk(reader) && !self.readers[reader].slow {}
        self.pressure(reader);
        self.after_step(reader, false);
    }

    /// Lets the client read one chunk. Returns whether there may be another.
    fn read_chunk(&mut self, reader: ReaderId) -> bool {
        let it = &mut self.readers[reader];
        let Some((bytes, state)) = it.queue.pop_front() else {
            return false;
        };
        it.queued_bytes -= bytes.len() as u64;
        if it.left {
            return true;
        }
        let (object, operation, call) = (it.object, it.operation, it.call);
        let Some(follower) = &mut it.follower else {
            return true;
        };
        let incarnation = follower.incarnation;
        let model = &self.models[object];
        let received = follower.receive(
            &bytes,
            model.content(incarnation),
            model.segments(incarnation),
        );
        let cursor = follower.cursor;
        let deliveries = match received {
            Ok(deliveries) => deliveries,
            Err(mismatch) => {
                self.engine.check(Oracle::Events, Err(mismatch));
                return false;
            }
        };
        for Delivery {
            from,
            next,
            up_to_date,
            closed,
        } in deliveries
        {
            self.engine.note(format_args!("reader {reader}"), || {
                format!("the client is at {next}, up to date {up_to_date}, closed {closed}")
            });
            if state.incarnation() != Some(incarnation) {
                self.engine.fail(
                    Oracle::Events,
                    format!("incarnation {incarnation}"),
                    format!("{state:?}"),
                );
                return false;
            }
            let at_tail = next == state.length;
            if up_to_date != at_tail || closed != (at_tail && state.closed) {
                let actual = format!("at {next}: up to date {up_to_date}, closed {closed}");
                self.engine
                    .fail(Oracle::Events, format!("the state of {state:?}"), actual);
                return false;
            }
            if closed {
                self.engine.cover(Situation::EventsClosed);
            }
            let content = self.models[object].content(incarnation);
            let page = content.page(from, next).unwrap_or_default();
            let units = oracles::units(content, &page).unwrap_or_default();
            let verdict = self
                .checkers
                .offset_law
                .observe(object, incarnation, from, &units);
            self.engine.check(Oracle::OffsetLaw, verdict);
            let floor = self.calls[call].floor;
            self.note_learned(object, floor, state, state.known_to(next, closed));
            self.learn_position(operation, incarnation, next, cursor);
        }
        true
    }

    /// Gives a long-poll its answer.
    fn hand_over(&mut self, reader: ReaderId, response: Response) {
        let it = &mut self.readers[reader];
        it.over = true;
        let (call, position, left, object) = (it.call, it.position, it.left, it.object);
        if left {
            return;
        }
        let reason = self.fault_in_long_poll(reader, &response);
        if let Some(reason) = reason {
            self.engine.fail(Oracle::LongPoll, reason, response.line());
            return;
        }
        debug_assert!(
            object.number() < self.objects.len(),
            "readers read what there is"
        );
        self.schedule_reply(call, response, position);
    }

    /// Returns what is wrong with a long-poll's answer from the edge, or `None`.
    fn fault_in_long_poll(&self, reader: ReaderId, response: &Response) -> Option<String> {
        let it = &self.readers[reader];
        if response.status >= 400 {
            return None;
        }
        let bounds = &self.models[it.object].bounds;
        if let Err(mismatch) = bounds.keeps_in_caches(&it.request, response) {
            return Some(mismatch.expected);
        }
        let incarnation = it.position.incarnation().unwrap_or(0);
        let next_position =
            |response: &Response| self.next_position(it.object, incarnation, response);
        let Some(next) = next_position(response) else {
            return Some("Stream-Next-Offset".to_owned());
        };
        let closed = response.is_true("Stream-Closed");
        let start = it
            .held
            .as_ref()
            .and_then(|held| next_position(&held.response));
        let content = self.models[it.object].content(incarnation);
        if it
            .held
            .as_ref()
            .is_some_and(|held| held.position.incarnation() != it.position.incarnation())
        {
            // It reconnected to another stream of the same name, which answered for itself.
            return None;
        }
        let start = start.unwrap_or(next);
        if response.status == 204 && next != start {
            return Some(format!("the offset {start}, because nothing came"));
        }
        if response.status == 200 {
            let page = content.page(start, next);
            if page.as_deref() != Some(&response.body) || next == start {
                return Some(format!("the content from {start} to {next}"));
            }
        }
        let up_to_date = next == it.position.length;
        if response.is_true("Stream-Up-To-Date") != up_to_date {
            return Some(format!("Stream-Up-To-Date: {up_to_date}"));
        }
        if closed != (up_to_date && it.position.closed) {
            return Some(format!("Stream-Closed: {}", it.position.closed));
        }
        if !closed {
            let client = it
                .request
                .parameter("cursor")
                .and_then(|text| text.parse::<u64>().ok());
            let cursor = response
                .header("Stream-Cursor")
                .and_then(|text| text.parse::<u64>().ok());
            if cursor.is_none() || cursor <= client {
                return Some(format!("a cursor beyond {client:?}"));
            }
        }
        None
    }
}
