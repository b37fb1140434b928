//! The stream machine on a simulated object: a turn of it, and what becomes of what the turn says.

use std::cell::Cell;

use bytes::Bytes;
use machine::plan::{CorruptionError, Plan};
use machine::router::target;
use machine::rows::{Incarnation, StreamRow};
use machine::segment::Put;
use machine::storage::Guarded;
use machine::wire::answer::Body;
use machine::wire::request::{self, Parsed, RequestHead};
use machine::wire::{CacheMode, internal_headers};
use machine::{
    AlarmChange, Answer, Broadcast, Class, Context, Effect, EffectId, Input, Millis, Storage,
    StorageError, Stream, Turn, Write,
};

use super::Event;
use super::World;
use super::client::Received;
use super::cold::Cold;
use super::connection::Connection;
use super::stale_instance::StaleInstance;
use crate::coverage::{Fault, Situation, Watermark};
use crate::ids::{CallId, ConnectionId, FetchId, Id, ObjectId};
use crate::model::{Bounds, Model, State, TurnFacts};
use crate::oracles::{AlarmTurn, Oracle, Position};
use crate::platform::{self, Due, Outgoing, Program};
use crate::request::{Request, Response};
use crate::settings::Settings;
use crate::storage::{self, Store};

impl Program for Stream {
    type Storage = Store;
    type Snapshot = State;
    type Attachment = Attachment;
    type Answer = Received;
    type Message = Message;
    type Effect = ObjectEffect;
}

/// What an object keeps with a connection.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    pub(super) class: Class,
    pub(super) incarnation: Incarnation,
}

/// What an object asks of others, in the background.
#[derive(Debug)]
pub enum ObjectEffect {
    Put(Put),
    Collect {
        effect: EffectId,
        keys: Vec<String>,
    },
    Send {
        effect: EffectId,
        message: machine::Message,
    },
}

/// What goes over a connection, and what the object was when it said so.
#[derive(Clone, Debug)]
pub struct Message {
    pub(super) bytes: Bytes,
    pub(super) position: Position,
}

/// A stream's object.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) url: String,
    pub(super) name: String,
    /// For when the present instance takes the alarm to be set: what its head row says, or what it
    /// has set since.
    pub(super) alarm_set_at: u64,
    pub(super) platform: platform::Object<Stream>,
    turns: u64,
    pub(super) model: Model,
}

impl Object {
    pub(super) fn new(
        name: &str,
        number: ObjectId,
        settings: &Settings,
        kind: storage::Kind,
    ) -> Self {
        let limits = &settings.limits;
        let bounds = Bounds {
            body_bytes: limits.append_bytes_max,
            page_bytes: limits.chunk_bytes_max,
            page_step: limits.index_step(),
            page_ends_max: limits.index_entries_max,
            whole_reads: settings.whole_reads,
            slack_divisor: limits.touch_slack_divisor,
            skew_ms: settings.delays.skew * 2,
            cursor_epoch_ms: limits.cursor_epoch_ms,
            cursor_interval_ms: limits.cursor_interval_ms,
        };
        Self {
            url: format!("https://streams.example/v1/stream/{name}"),
            name: name.to_owned(),
            alarm_set_at: 0,
            platform: platform::Object::new(number, Store::new(kind)),
            turns: 0,
            model: Model::new(bounds),
        }
    }

    /// The instance is no more, but all that it has written is.
    fn forget(&mut self) {
        self.platform.instance = None;
        let state = self.model.state.clone();
        self.model.restart(state.clone());
        self.platform.remember(state);
    }

    pub(super) fn state(&self) -> String {
        let rows = &self.platform.storage.rows;
        let mut state = format!(
            "{}\n  epoch {}, {} commits on their way, {} connections, alarm {:?}\n  head {:?}\n",
            self.url,
            self.platform.epoch,
            self.platform.commits_pending(),
            self.platform.connections.len(),
            self.platform.alarm,
            rows.head(),
        );
        let rows: Vec<_> = rows.rows().collect();
        for row in rows.iter().rev().take(ROWS_SHOWN).rev() {
            state.push_str(&format!(
                "  row {} units {} before {} at {} {:?} {:?} {}\n",
                row.key.stored(),
                row.units,
                row.bytes_before,
                row.at.0,
                row.producer,
                row.stream_seq,
                crate::request::excerpt(&row.frames.make()),
            ));
        }
        state
    }
}

/// How many of the last rows a dump of the state has.
const ROWS_SHOWN: usize = 12;

/// An object that dies all the time shows nothing new after so many times.
const INSTANCES_MAX: u64 = 200;

/// The latest time that the platform's `setAlarm` can be given.
pub(super) const ALARM_MAX: u64 = 8_640_000_000_000_000;

/// A step reads each row a few times at most.
const STEP_READS_MAX: u64 = 1_000_000;

/// The object's storage, which stops a step that reads without end. Counts in `reads`.
pub(super) fn bounded<'a>(
    store: &'a Store,
    reads: &'a Cell<u64>,
) -> Guarded<'a, dyn Storage + 'a, impl Fn() -> Result<(), StorageError> + 'a> {
    Guarded::new(store.storage(), || {
        reads.update(|reads| reads + 1);
        if reads.get() > STEP_READS_MAX {
            return Err(StorageError("a step reads and reads".to_owned()));
        }
        Ok(())
    })
}

/// How many readers are connected to this incarnation.
fn attached(connections: &[(ConnectionId, Attachment)], incarnation: Incarnation) -> u64 {
    let connections = connections.iter();
    connections
        .filter(|(_, attachment)| attachment.incarnation == incarnation)
        .count() as u64
}

fn response(answer: &Answer, body: Bytes) -> Response {
    let headers = answer
        .own_headers()
        .map(|(name, value)| (name.into(), value.to_owned()))
        .collect();
    Response {
        status: answer.status,
        headers,
        body,
    }
}

pub(super) fn plain(answer: &Answer) -> Response {
    let body = match &answer.body {
        Body::Bytes(bytes) => bytes.clone().into(),
        Body::Empty | Body::Plan(_) => Bytes::new(),
    };
    response(answer, body)
}

/// Whether an answer has further pages.
pub(super) const fn has_rest(answer: &Answer) -> bool {
    matches!(&answer.body, Body::Plan(plan) if plan.rest.is_some())
}

fn parsed(request: &Request, url: &str, settings: &Settings) -> Result<Parsed, machine::Refusal> {
    let limits = &settings.limits;
    let cache_mode = if settings.whole_reads {
        CacheMode::Private
    } else {
        CacheMode::Shared
    };
    // As the router tells it.
    let header = |name: &str| match name {
        internal_headers::CACHE_MODE => Some(cache_mode.name().to_owned()),
        _ => request.header(name).map(str::to_owned),
    };
    let url = request.url(url);
    let (origin, target) = target::split(&url);
    request::parse(
        RequestHead {
            method: request.method,
            origin,
            target,
            header: &header,
        },
        limits,
    )
}

impl World<'_, '_> {
    /// A request has come, all but its body.
    pub(super) fn arrive(&mut self, call: CallId) {
        let at = self.calls[call].object;
        let request = self.calls[call].request.clone();
        let object = &mut self.objects[at];
        self.calls[call].epoch = object.platform.epoch;
        object.platform.begun.push(call);
        match parsed(&request, &object.url, &self.engine.settings) {
            Err(refusal) => self.refuse(call, &Answer::refusal(&refusal), true),
            Ok(Parsed::Whole(whole)) => {
                self.turn(
                    at,
                    Input::Call {
                        id: call.into(),
                        call: whole,
                    },
                    Some(call),
                );
            }
            Ok(Parsed::AwaitsBody(awaits)) => {
                self.calls[call].awaits = Some(awaits);
                if self.engine.fault(Fault::SlowBody) {
                    self.calls[call].turns_at_arrival = Some(self.objects[at].turns);
                    let delay = self.engine.choices.upto(self.engine.settings.delays.body);
                    self.engine.schedule(delay, Event::Body { call });
                } else {
                    self.body_complete(call);
                }
            }
        }
    }

    /// A request's body is there.
    pub(super) fn body_complete(&mut self, call: CallId) {
        let at = self.calls[call].object;
        let Some(awaits) = self.calls[call].awaits.take() else {
            return;
        };
        let body = self.calls[call].request.body.clone();
        if self.objects[at].platform.epoch != self.calls[call].epoch {
            if let Some(stale_instance) = self.calls[call].stale_instance.take() {
                self.continue_stale(call, *stale_instance, awaits.with_body(body));
            }
            return;
        }
        if self.calls[call]
            .turns_at_arrival
            .is_some_and(|turns| turns < self.objects[at].turns)
        {
            self.engine.cover(Situation::SlowBody);
            self.engine.changed(Fault::SlowBody);
        }
        match awaits.with_body(body) {
            Err(refusal) => self.refuse(call, &Answer::refusal(&refusal), true),
            Ok(whole) => self.turn(
                at,
                Input::Call {
                    id: call.into(),
                    call: whole,
                },
                Some(call),
            ),
        }
    }

    /// Answers without a turn.
    fn refuse(&mut self, call: CallId, answer: &Answer, judged: bool) {
        let at = self.calls[call].object;
        let response = plain(answer);
        if judged {
            let verdict = self.objects[at]
                .model
                .refused(&self.calls[call].request, &response);
            self.engine.check(Oracle::Model, verdict);
        }
        let position = Position::of(&self.objects[at].model.state);
        self.hold_answer(
            at,
            call,
            Received {
                response,
                position,
                connection: None,
                fetching: None,
            },
        );
    }

    /// Whether what was done with so many reads was not stopped for them.
    pub(super) fn ends(&mut self, reads: u64) -> bool {
        self.engine.raise(Watermark::StepReads, reads);
        if reads > STEP_READS_MAX {
            let expected = format!("{STEP_READS_MAX} reads of storage at most");
            self.engine
                .fail(Oracle::StepEnds, expected, "another one".to_owned());
        }
        reads <= STEP_READS_MAX
    }

    /// One turn: the input, the writes, and what is to leave when they are durable.
    pub(super) fn turn(&mut self, at: ObjectId, input: Input, call: Option<CallId>) {
        self.turn_for(at, input, call, None);
    }

    /// The same, where the input may be for the next page of an answer.
    pub(super) fn turn_for(
        &mut self,
        at: ObjectId,
        input: Input,
        call: Option<CallId>,
        page_of: Option<FetchId>,
    ) {
        let is_alarm = matches!(input, Input::Alarm);
        // The machine handles an alarm in one turn.
        let ended = is_alarm
            .then(|| self.objects[at].platform.alarm_ends())
            .flatten();
        let consumes = ended.is_some();
        let is_gone = matches!(input, Input::SubscriberLeft { .. });
        if self.objects[at].platform.instances < INSTANCES_MAX
            && self.engine.fault(Fault::TurnFails)
        {
            if is_alarm && !consumes {
                self.objects[at].platform.alarm_stands(&mut self.engine);
            }
            return self.turn_failed(at, call, consumes);
        }
        if self.objects[at].platform.instance.is_none() && !self.wake(at) {
            return;
        }
        let object = &mut self.objects[at];
        object.turns += 1;
        if let Some(head) = object.platform.storage.rows.head() {
            object.alarm_set_at = head.alarm_at.map_or(0, |alarm| alarm.0);
        }
        let platform = &mut object.platform;
        let now = platform.clock.read(self.engine.now());
        let incarnation = platform.storage.rows.head().map(|head| head.incarnation);
        let count = |incarnation| attached(&platform.connections, incarnation);
        let attached = incarnation.map_or(0, count);
        // Who was a reader of a former stream under this name is nothing to the present one.
        let attached = match &input {
            Input::SubscriberLeft { incarnation: gone } if incarnation != Some(*gone) => 0,
            Input::SubscriberLeft { .. }
            | Input::Call { .. }
            | Input::Continue { .. }
            | Input::Alarm
            | Input::PutFinished { .. }
            | Input::CollectFinished { .. }
            | Input::SendFinished { .. } => attached,
        };
        let before = Position::of(&object.model.state);
        let alarm_came = object.alarm_set_at;
        let Some(stream) = &mut platform.instance else {
            return;
        };
        let reads = Cell::new(0);
        let done = stream.step(
            &Context {
                now: Millis(now),
                storage: &bounded(&platform.storage, &reads),
                subscribers: &|incarnation| Ok(count(incarnation)),
            },
            input,
        );
        let reads = reads.get();
        if !self.ends(reads) {
            return;
        }
        let turn = match done {
            Ok(turn) => turn,
            Err(error) => {
                return self.engine.fail(
                    Oracle::Storage,
                    "rows that can be read".to_owned(),
                    error.to_string(),
                );
            }
        };
        let Object { platform, .. } = &mut self.objects[at];
        let used = |head: Option<&StreamRow>| head.map(|head| (head.incarnation, head.touched_at));
        let used_before = used(platform.storage.rows.head());
        if let Err(reason) = platform.storage.apply(&turn.writes) {
            return self.engine.fail(
                Oracle::Storage,
                "writes that can be carried out".to_owned(),
                reason,
            );
        }
        let remembered = platform
            .instance
            .as_ref()
            .map_or(0, Stream::producers_in_memory);
        let stored = platform.storage.rows.open_row_count();
        if remembered > stored {
            let expected = format!(
                "{stored} producers in memory at most, one for each row of the open segment"
            );
            return self
                .engine
                .fail(Oracle::Memory, expected, remembered.to_string());
        }
        if let AlarmChange::Set(at) = turn.alarm
            && at.0 > ALARM_MAX
        {
            return self.engine.fail(
                Oracle::AlarmTime,
                format!("a time up to {ALARM_MAX}"),
                at.0.to_string(),
            );
        }
        // One that tries a put again, say, is not idle, however often that is in vain.
        let idle_alarm = is_alarm
            && turn.after_commit.is_empty()
            && used_before == used(platform.storage.rows.head());
        let alarms = AlarmTurn {
            is_idle: idle_alarm,
            came: alarm_came,
            now: self.engine.now(),
            set: match turn.alarm {
                AlarmChange::Set(at) => Some(at.0),
                AlarmChange::Keep | AlarmChange::Clear => None,
            },
        };
        let (streak, verdict) = self.alarm_loop.after_turn(at, alarms);
        let coverage = &mut self.engine.recorder.coverage;
        coverage.raise(Watermark::IdleAlarms, streak.idle);
        coverage.raise(Watermark::StaleAlarms, streak.stale);
        if verdict.is_err() {
            return self.engine.check(Oracle::AlarmLoop, verdict);
        }
        let dropped = turn.writes.contains(&Write::DropTables);
        self.digest_turn(&turn);
        let alarm = match turn.alarm {
            AlarmChange::Keep => ended,
            AlarmChange::Set(at) => Some(Some(at.0)),
            AlarmChange::Clear => Some(None),
        };
        let wrote = !turn.writes.is_empty() || alarm.is_some();
        let facts = TurnFacts {
            now,
            attached,
            dropped,
            kept: false,
            page_end: None,
            has_rest: false,
            sealed: sealed(&turn),
        };
        self.judge_turn(
            at,
            (call, page_of),
            &turn,
            facts,
            (is_alarm, is_gone),
            before,
        );
        if facts.sealed.is_some() {
            self.note_forgotten(at, now);
        }
        if self.engine.recorder.failure.is_some() {
            return;
        }
        let Object {
            platform, model, ..
        } = &mut self.objects[at];
        let snapshot = model.state.clone();
        if wrote {
            platform.commit(&mut self.engine, turn.writes, alarm, consumes, snapshot);
        } else {
            platform.remember(snapshot);
        }
        platform.set_alarm(&mut self.engine, alarm, now);
        if let Some(Some(alarm)) = alarm {
            self.objects[at].alarm_set_at = alarm;
        }
        if let Some(live) = &turn.broadcast {
            self.broadcast(at, live, before);
        }
        for gated in turn.after_commit {
            match (page_of, gated) {
                (Some(fetching), Effect::Answer { answer, .. }) => {
                    self.next_page(fetching, &answer)
                }
                (_, gated) => self.carry_out(at, gated),
            }
        }
        self.release(at);
        self.check_armed(at, now);
        self.inject_faults(at);
    }

    /// A segment was sealed: the producers that the object does not know any more are those that
    /// were idle.
    fn note_forgotten(&mut self, at: ObjectId, now: u64) {
        let limits = &self.engine.settings.limits;
        let idle_ms = limits.producer_max_idle_ms;
        let Object {
            platform, model, ..
        } = &mut self.objects[at];
        let rows = &platform.storage.rows;
        let (forgotten, left) = model.forget(now, idle_ms, |producer| rows.knows(producer));
        if forgotten > 0 {
            self.engine.cover(Situation::ProducersForgotten);
        }
        let limits = &self.engine.settings.limits;
        let verdict = left.and_then(|left| {
            if left > 0 && forgotten < limits.producers_forgotten_max {
                return Err(crate::model::Mismatch {
                    expected: "idle producers to be forgotten when a segment is sealed".to_owned(),
                    actual: format!("{left} are left, and {forgotten} were forgotten"),
                });
            }
            Ok(())
        });
        self.engine.check(Oracle::Producers, verdict);
    }

    /// A new instance over what is stored.
    fn wake(&mut self, at: ObjectId) -> bool {
        let platform = &mut self.objects[at].platform;
        let (now, number) = platform.begin_instance(&mut self.engine);
        let nonce = number << 8 | at.number() as u64;
        match Stream::wake(
            Millis(now),
            platform.storage.storage(),
            &self.engine.settings.limits,
            nonce,
        ) {
            Ok(stream) => {
                platform.instance = Some(stream);
                true
            }
            Err(unreadable) => {
                self.engine.fail(
                    Oracle::Storage,
                    "rows that can be read".to_owned(),
                    unreadable.to_string(),
                );
                false
            }
        }
    }

    fn digest_turn(&mut self, turn: &Turn) {
        for write in &turn.writes {
            self.engine.recorder.digest.number(match write {
                Write::CreateTables => 1,
                Write::InsertStream(head) => 2 ^ head.created_at.0,
                Write::UpdateStream(head) => 3 ^ head.touched_at.0,
                Write::InsertHot { row, .. } => 4 ^ row.key.stored(),
                Write::DropTables => 5,
                Write::CreateSealedTables => 6,
                Write::CreateHot(table) => 7 ^ table.segment() << 8,
                Write::DropHot(table) => 8 ^ table.segment() << 8,
                Write::InsertSegment(segment) => 9 ^ segment.units << 8,
                Write::UpdateSegment(segment) => 10 ^ segment.attempts << 8,
                Write::PutProducer { stamp, .. } => 11 ^ stamp.seq << 8,
                Write::ForgetProducers { used_at, .. } => 18 ^ used_at.0 << 8,
                Write::CreateOutbox => 12,
                Write::InsertTask(task) => 13 ^ task.id << 8,
                Write::UpdateTask(task) => 14 ^ task.id << 8,
                Write::RemoveTask { id } => 15 ^ id << 8,
                Write::DropOutbox => 16,
                Write::Upgrade { .. } => 17,
            });
        }
        match turn.alarm {
            AlarmChange::Keep => {}
            AlarmChange::Set(at) => self.engine.recorder.digest.number(at.0),
            AlarmChange::Clear => self.engine.recorder.digest.number(0),
        }
    }

    fn carry_out(&mut self, at: ObjectId, gated: Effect) {
        let position = Position::of(&self.objects[at].model.state);
        match gated {
            Effect::Put(put) => self.hold_effect(at, ObjectEffect::Put(put)),
            Effect::Collect { effect, keys } => {
                self.hold_effect(at, ObjectEffect::Collect { effect, keys })
            }
            Effect::Send { effect, message } => {
                self.hold_effect(at, ObjectEffect::Send { effect, message })
            }
            Effect::Answer { call, answer } => {
                let call = CallId::from(call);
                match rendered(&self.objects[at].platform.storage, &self.cold, &answer) {
                    Ok(mut response) => {
                        let fetching = self.plan_fetching(at, call, position, &answer);
                        if has_rest(&answer) {
                            let asked = self.calls[call].request.parameter("offset");
                            let promised = self.objects[at].model.promised(asked);
                            response.body = promised.unwrap_or_default().into();
                        }
                        let received = Received {
                            response,
                            position,
                            connection: None,
                            fetching,
                        };
                        self.hold_answer(at, call, received);
                    }
                    Err(damaged) => {
                        self.engine.fail(
                            Oracle::Storage,
                            "what can be rendered".to_owned(),
                            damaged,
                        );
                    }
                }
            }
            Effect::Attach { call, subscriber } => {
                let call = CallId::from(call);
                let platform = &mut self.objects[at].platform;
                let number = self.connections.push(Connection {
                    object: at,
                    epoch: platform.epoch,
                    reader: None,
                    arrives_at: 0,
                    finished: false,
                });
                let attachment = Attachment {
                    class: subscriber.class,
                    incarnation: subscriber.incarnation,
                };
                platform.connections.push((number, attachment));
                let connections = platform.connections.len() as u64;
                self.engine.raise(Watermark::Connections, connections);
                let response = plain(&subscriber.answer);
                self.hold_answer(
                    at,
                    call,
                    Received {
                        response,
                        position,
                        connection: Some(number),
                        fetching: None,
                    },
                );
            }
        }
    }

    fn hold_effect(&mut self, at: ObjectId, effect: ObjectEffect) {
        let platform = &mut self.objects[at].platform;
        let instance = platform.instances;
        platform.hold(Outgoing::Effect { instance, effect }, true);
    }

    fn hold_answer(&mut self, at: ObjectId, call: CallId, received: Received) {
        self.engine.note("object", || {
            format!("c{call} is answered {}", received.response.line())
        });
        self.note_answer(call, &received.response);
        let answer = Outgoing::Answer {
            call,
            answer: received,
        };
        self.objects[at]
            .platform
            .hold(answer, self.engine.settings.gated);
        self.release(at);
    }

    /// One message to each connection of the incarnation.
    fn broadcast(&mut self, at: ObjectId, live: &Broadcast, before: Position) {
        let after = Position::of(&self.objects[at].model.state);
        let position = if live.end == Some(machine::StreamEnd::Deleted) {
            before
        } else {
            after
        };
        for class in [Class::Sse, Class::LongPoll] {
            let attached = self.objects[at].platform.connections.iter();
            let connections: Vec<ConnectionId> = attached
                .filter(|(connection, attachment)| {
                    attachment.class == class
                        && attachment.incarnation == live.incarnation
                        && !self.connections[*connection].finished
                })
                .map(|(connection, _)| *connection)
                .collect();
            if connections.is_empty() {
                continue;
            }
            let message = match live.message(class) {
                Ok(bytes) => Message {
                    bytes: bytes.into(),
                    position,
                },
                Err(damaged) => {
                    return self.engine.fail(
                        Oracle::Storage,
                        "frames that can be sent".to_owned(),
                        damaged.to_string(),
                    );
                }
            };
            for connection in connections {
                let gated = self.engine.settings.gated;
                let platform = &mut self.objects[at].platform;
                let message = message.clone();
                platform.hold(
                    Outgoing::Message {
                        connection,
                        message,
                    },
                    gated,
                );
                if live.end.is_some() {
                    platform.hold(Outgoing::Close { connection }, gated);
                    self.connections[connection].finished = true;
                }
            }
        }
    }

    /// A turn fails: nothing of it is stored, nobody is told, and the instance is dropped.
    fn turn_failed(&mut self, at: ObjectId, call: Option<CallId>, consumes: bool) {
        self.engine.cover(Situation::TurnFailed);
        self.engine.changed(Fault::TurnFails);
        self.engine.note("object", || "a turn fails".to_owned());
        self.objects[at].forget();
        if consumes {
            self.objects[at].platform.alarm_failed(&mut self.engine);
        }
        if let Some(call) = call {
            self.refuse(
                call,
                &Answer::unavailable(&self.engine.settings.limits.clone()),
                false,
            );
        }
    }

    /// What may befall an instance after a turn.
    fn inject_faults(&mut self, at: ObjectId) {
        if self.objects[at].platform.instances > INSTANCES_MAX {
            return;
        }
        let epoch = self.objects[at].platform.epoch;
        if self.engine.fault(Fault::Crash) {
            let longest = self.engine.settings.delays.commit * 2;
            let delay = self.engine.choices.upto(longest);
            let crash = platform::Event::Crash { object: at, epoch };
            self.engine.schedule(delay, crash.into());
        }
        for (fault, cut_connections) in [(Fault::Hibernate, false), (Fault::Evict, true)] {
            if self.engine.fault(fault) {
                let delay = self
                    .engine
                    .choices
                    .upto(self.engine.settings.delays.commit + self.engine.settings.delays.network);
                let idle = platform::Event::Idle {
                    object: at,
                    epoch,
                    cut_connections,
                };
                self.engine.schedule(delay, idle.into());
            }
        }
    }

    /// The platform does something with an object.
    pub(super) fn happen_to_object(&mut self, event: platform::Event) {
        match event {
            platform::Event::Durable {
                object: at,
                epoch,
                number,
            } => match self.objects[at]
                .platform
                .durable(&mut self.engine, epoch, number)
            {
                Ok(true) => self.release(at),
                Ok(false) => {}
                Err(reason) => self.refused_by_storage(reason),
            },
            platform::Event::Crash { object: at, epoch } => self.crash(at, epoch),
            platform::Event::Idle {
                object: at,
                epoch,
                cut_connections,
            } => self.idle(at, epoch, cut_connections),
            platform::Event::Alarm {
                object: at,
                token,
                again,
            } => match self.objects[at]
                .platform
                .alarm_due(&mut self.engine, token, again)
            {
                None => {}
                Some(Due::Fails) => {
                    self.objects[at].forget();
                    self.objects[at].platform.alarm_failed(&mut self.engine);
                }
                Some(Due::Runs) => self.turn(at, Input::Alarm, None),
            },
        }
    }

    fn refused_by_storage(&mut self, reason: String) {
        self.engine.fail(
            Oracle::Storage,
            "writes that can be carried out".to_owned(),
            reason,
        );
    }

    fn crash(&mut self, at: ObjectId, epoch: u64) {
        let Object {
            platform, model, ..
        } = &mut self.objects[at];
        if platform.epoch != epoch {
            return;
        }
        let state = model.state.clone();
        let mut remains = match platform.crash(&mut self.engine) {
            Ok(remains) => remains,
            Err(reason) => return self.refused_by_storage(reason),
        };
        let (present, back) = (
            Position::of(&state),
            Position::of(platform.durable_snapshot()),
        );
        if remains.lost_commits {
            if present.incarnation().is_some()
                && back < present
                && back.incarnation() != present.incarnation()
            {
                self.engine.cover(Situation::CrashLostCreation);
            }
            if present.incarnation().is_none() && back.incarnation().is_some() {
                self.engine.cover(Situation::CrashLostDeletion);
            }
        }
        if remains.lost_commits || !remains.begun.is_empty() || !platform.connections.is_empty() {
            self.engine.changed(Fault::Crash);
        }
        model.restart(platform.durable_snapshot().clone());
        for call in core::mem::take(&mut remains.begun) {
            if remains.goes_on && self.calls[call].awaits.is_some() {
                let stale_instance = StaleInstance {
                    stream: remains.instance.clone(),
                    state: state.clone(),
                    clock: remains.clock,
                };
                self.calls[call].stale_instance = Some(Box::new(stale_instance));
                self.engine.changed(Fault::StaleInstance);
                continue;
            }
            self.calls[call].awaits = None;
            let delay = self.engine.network_delay();
            self.engine.schedule(delay, Event::Lost { call });
        }
        self.cut_connections(at);
        self.objects[at]
            .platform
            .settle_alarm(&mut self.engine, &remains);
    }

    /// The instance sleeps, if it is idle: hibernates with its connections, or is moved without them.
    fn idle(&mut self, at: ObjectId, epoch: u64, cut_connections: bool) {
        let platform = &self.objects[at].platform;
        if platform.epoch != epoch || !platform.is_idle() {
            return;
        }
        self.engine.note("object", || {
            if cut_connections {
                "is moved"
            } else {
                "hibernates"
            }
            .to_owned()
        });
        self.objects[at].forget();
        self.engine.changed(if cut_connections {
            Fault::Evict
        } else {
            Fault::Hibernate
        });
        if cut_connections {
            self.engine.cover(Situation::Evicted);
            self.objects[at].platform.epoch += 1;
            self.cut_connections(at);
        } else if !self.objects[at].platform.connections.is_empty() {
            self.engine.cover(Situation::Hibernated);
        }
    }
}

/// Number and length of the segment that a turn has sealed.
fn sealed(turn: &Turn) -> Option<(u64, u64)> {
    turn.writes.iter().find_map(|write| {
        let Write::InsertSegment(segment) = write else {
            return None;
        };
        Some((segment.number, segment.units))
    })
}

pub(super) fn rendered(store: &Store, cold: &Cold, answer: &Answer) -> Result<Response, String> {
    match &answer.body {
        Body::Plan(plan) => Ok(response(answer, render(store, cold, plan)?)),
        Body::Bytes(_) | Body::Empty => Ok(plain(answer)),
    }
}

/// The body of a plan, from what is there at this moment.
fn render(store: &Store, cold: &Cold, plan: &Plan) -> Result<Bytes, String> {
    let begun = plan.begin(|span| store.frames(span));
    let mut rendering = begun.map_err(|unreadable| unreadable.to_string())?;
    let mut body = Vec::new();
    let mut on = || {
        while let Some(fetch) = rendering.advance(&mut body)? {
            let bytes = cold.range(&fetch).ok_or_else(|| rendering.missing())?;
            rendering.push(bytes, &mut body)?;
            rendering.fetched()?;
        }
        Ok::<_, CorruptionError>(())
    };
    on().map_err(|damaged| damaged.to_string())?;
    Ok(body.into())
}
