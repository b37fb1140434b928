//! A stream's object as the platform runs it: one event at a time, a turn's writes at once and durable later, an output
//! gate, an alarm, lines, and an end at any time.

use std::collections::VecDeque;

use bytes::Bytes;
use machine::plan::Plan;
use machine::rows::{Head, HotTable, Incarnation, RowKey, RowMark, WriterMark};
use machine::tail;
use machine::wire::answer::Body;
use machine::wire::request::{self, Head as RequestHead, Parsed};
use machine::{
    Answer, CallId, Class, Gated, Input, Limits, Live, Millis, Rows, Stream, Turn, Unreadable, Write,
};
use std::cell::Cell;

use super::client::Received;
use super::{Event, World};
use crate::marks::{Mark, Watermark};
use crate::model::{Bounds, Facts, Model, State};
use crate::oracle::Place;
use crate::request::{Request, Response};
use crate::settings::Settings;
use crate::storage::{self, Shelf, Store};

/// An alarm that fails is tried again after this, doubled each time.
const ALARM_RETRY_MS: u64 = 2_000;
/// The least time from setting an alarm to its coming.
const ALARM_DELAY_MS: u64 = 10;
const ALARM_TRIES_MAX: u64 = 6;
/// The latest time that the platform's `setAlarm` can be given.
const ALARM_MAX: u64 = 8_640_000_000_000_000;

/// A turn's writes on their way to durability.
#[derive(Debug)]
struct Commit {
    number: u64,
    writes: Vec<Write>,
    alarm: Option<Option<u64>>,
    /// Whether it ends the handling of an alarm.
    handles_alarm: bool,
    state: State,
}

/// The platform's alarm of one object.
#[derive(Debug, Default)]
struct Alarm {
    /// As the present instance sees it.
    stored: Option<u64>,
    /// As a crash would leave it.
    durable: Option<u64>,
    /// What the scheduler goes by.
    scheduled: Option<u64>,
    /// Names the event that is in the queue for it.
    token: u64,
    tries: u64,
    /// Whether the platform has given up an alarm, and none has been stored since.
    abandoned: bool,
}

/// Something that waits for the output gate.
#[derive(Debug)]
struct Held {
    gate: u64,
    what: Outgoing,
}

#[derive(Debug)]
enum Outgoing {
    Answer { call: usize, received: Received },
    Message { line: usize, bytes: Bytes, place: Place },
    Close { line: usize },
}

/// A line between an edge and an object.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) object: usize,
    epoch: u64,
    class: Class,
    incarnation: Incarnation,
    /// Who holds the other end, once it has got there.
    pub(super) reader: Option<usize>,
    /// Nothing arrives before what was sent before it.
    arrives_at: u64,
    /// Whether the object has closed its end.
    finished: bool,
}

/// What a dead instance goes on with.
#[derive(Debug)]
pub(super) struct Zombie {
    stream: Option<Stream>,
    state: State,
    clock: Clock,
}

#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    ahead: u64,
    behind: u64,
    last: u64,
}

impl Clock {
    fn read(&mut self, now: u64) -> u64 {
        self.last = self.last.max(now + self.ahead - self.behind);
        self.last
    }
}

#[derive(Debug)]
pub(super) struct Object {
    pub(super) url: String,
    store: Store,
    durable: Shelf,
    durable_state: State,
    commits: VecDeque<Commit>,
    issued: u64,
    committed: u64,
    last_durable_at: u64,
    held: VecDeque<Held>,
    stream: Option<Stream>,
    clock: Clock,
    instances: u64,
    turns: u64,
    /// Counts the ends of instances that took everything in memory with them.
    epoch: u64,
    /// Requests that an instance has begun with and not answered.
    begun: Vec<usize>,
    lines: Vec<usize>,
    alarm: Alarm,
    pub(super) last_crash_at: u64,
    /// The latest state that any client knows of.
    pub(super) known: Place,
    pub(super) model: Model,
}

impl Object {
    pub(super) fn new(name: u64, settings: &Settings, kind: storage::Kind) -> Self {
        let limits = &settings.limits;
        let bounds = Bounds {
            body_bytes: limits.append_bytes_max,
            page_bytes: limits.chunk_bytes_max,
            slack_divisor: limits.touch_slack_divisor,
            skew_ms: settings.delays.skew * 2,
            cursor_epoch_ms: limits.cursor_epoch_ms,
            cursor_interval_ms: limits.cursor_interval_ms,
        };
        Self {
            url: format!("https://streams.example/v1/stream/name-{name}"),
            store: Store::new(kind),
            durable: Shelf::default(),
            durable_state: State::default(),
            commits: VecDeque::new(),
            issued: 0,
            committed: 0,
            last_durable_at: 0,
            held: VecDeque::new(),
            stream: None,
            clock: Clock::default(),
            instances: 0,
            turns: 0,
            epoch: 0,
            begun: Vec::new(),
            lines: Vec::new(),
            alarm: Alarm::default(),
            last_crash_at: 0,
            known: Place::default(),
            model: Model::new(bounds),
        }
    }

    pub(super) fn pending(&self) -> Option<String> {
        // A commit that nobody waits for may be an alarm's, of which there is always another.
        if !self.held.is_empty() {
            return Some(format!("holds back {} answers", self.held.len()));
        }
        (!self.begun.is_empty()).then(|| format!("has not answered {} calls", self.begun.len()))
    }

    pub(super) fn state(&self) -> String {
        let mut state = format!(
            "{}\n  epoch {}, {} commits on their way, {} lines, alarm {:?}\n  head {:?}\n",
            self.url,
            self.epoch,
            self.commits.len(),
            self.lines.len(),
            self.alarm,
            self.store.shelf.head(),
        );
        let rows: Vec<_> = self.store.shelf.rows().collect();
        for row in rows.iter().rev().take(ROWS_SHOWN).rev() {
            state.push_str(&format!(
                "  row {} units {} before {} at {} {:?} {:?} {}\n",
                row.key.stored(),
                row.units,
                row.bytes_before,
                row.at.0,
                row.producer,
                row.stream_seq,
                crate::request::excerpt(&row.frames),
            ));
        }
        state
    }
}

/// How many of the last rows a dump of the state has.
const ROWS_SHOWN: usize = 12;

/// An object that dies all the time shows nothing new after so many times.
const INSTANCES_MAX: u64 = 200;

/// What the machine is shown of an object.
struct View<'a> {
    store: &'a Store,
    lines: &'a [(Incarnation, u64)],
}

impl Rows for View<'_> {
    fn head(&self) -> Result<Option<Head>, Unreadable> {
        self.store.head()
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMark>, Unreadable> {
        self.store.at_or_before(table, key)
    }

    fn writers(&self, table: HotTable, each: &mut dyn FnMut(WriterMark)) -> Result<(), Unreadable> {
        self.store.writers(table, each)
    }

    fn attached(&self, incarnation: Incarnation) -> Result<u64, Unreadable> {
        let counts = self.lines.iter().filter(|(each, _)| *each == incarnation);
        Ok(counts.map(|(_, count)| count).sum())
    }
}

/// The storage of a dead instance: whoever touches it is stopped.
#[derive(Default)]
struct Grave {
    touched: Cell<bool>,
}

impl Grave {
    fn touch<T>(&self) -> Result<T, Unreadable> {
        self.touched.set(true);
        Err(Unreadable("this instance is dead".to_owned()))
    }
}

impl Rows for Grave {
    fn head(&self) -> Result<Option<Head>, Unreadable> {
        self.touch()
    }

    fn at_or_before(&self, _table: HotTable, _key: RowKey) -> Result<Option<RowMark>, Unreadable> {
        self.touch()
    }

    fn writers(&self, _table: HotTable, _each: &mut dyn FnMut(WriterMark)) -> Result<(), Unreadable> {
        self.touch()
    }

    fn attached(&self, _incarnation: Incarnation) -> Result<u64, Unreadable> {
        self.touch()
    }
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

fn plain(answer: &Answer) -> Response {
    let body = match &answer.body {
        Body::Bytes(bytes) => bytes.clone().into(),
        Body::Empty | Body::Plan(_) => Bytes::new(),
    };
    response(answer, body)
}

fn parsed(request: &Request, url: &str, limits: &Limits) -> Result<Parsed, machine::Refusal> {
    let header = |name: &str| request.header(name).map(str::to_owned);
    request::parse(
        RequestHead {
            method: request.method,
            url: &request.url(url),
            header: &header,
        },
        limits,
    )
}

impl World<'_, '_> {
    /// A request has come, all but its body.
    pub(super) fn arrive(&mut self, call: usize) {
        let at = self.calls[call].object;
        let request = self.calls[call].request.clone();
        let object = &mut self.objects[at];
        self.calls[call].epoch = object.epoch;
        object.begun.push(call);
        match parsed(&request, &object.url, &self.settings.limits) {
            Err(refusal) => self.refuse(call, &Answer::refusal(&refusal), true),
            Ok(Parsed::Whole(whole)) => {
                self.turn(
                    at,
                    Input::Call {
                        id: CallId(call as u64),
                        call: whole,
                    },
                    Some(call),
                );
            }
            Ok(Parsed::AwaitsBody(awaits)) => {
                self.calls[call].awaits = Some(awaits);
                if self.fault(self.settings.faults.slow_body) {
                    self.calls[call].turns_at_arrival = Some(self.objects[at].turns);
                    let delay = self.choices.upto(self.settings.delays.body);
                    self.schedule(delay, Event::Body { call });
                } else {
                    self.body_complete(call);
                }
            }
        }
    }

    /// A request's body is there.
    pub(super) fn body_complete(&mut self, call: usize) {
        let at = self.calls[call].object;
        let Some(awaits) = self.calls[call].awaits.take() else {
            return;
        };
        let body = self.calls[call].request.body.clone();
        if self.objects[at].epoch != self.calls[call].epoch {
            if let Some(zombie) = self.calls[call].zombie.take() {
                self.haunt(call, *zombie, awaits.with_body(body));
            }
            return;
        }
        if self.calls[call]
            .turns_at_arrival
            .is_some_and(|turns| turns < self.objects[at].turns)
        {
            self.hit(Mark::SlowBody);
        }
        match awaits.with_body(body) {
            Err(refusal) => self.refuse(call, &Answer::refusal(&refusal), true),
            Ok(whole) => self.turn(
                at,
                Input::Call {
                    id: CallId(call as u64),
                    call: whole,
                },
                Some(call),
            ),
        }
    }

    /// Answers without a turn.
    fn refuse(&mut self, call: usize, answer: &Answer, judged: bool) {
        let at = self.calls[call].object;
        let response = plain(answer);
        if judged {
            let verdict = self.objects[at]
                .model
                .refused(&self.calls[call].request, &response);
            self.check("model", verdict);
        }
        let place = Place::of(&self.objects[at].model.state);
        self.hold_answer(
            at,
            call,
            Received {
                response,
                place,
                line: None,
            },
        );
    }

    /// A dead instance goes on with a request that it had begun: it may compute, but never touch its storage.
    fn haunt(&mut self, call: usize, zombie: Zombie, whole: Result<machine::Call, machine::Refusal>) {
        let Zombie {
            stream,
            state,
            mut clock,
        } = zombie;
        let at = self.calls[call].object;
        let now = clock.read(self.now);
        let grave = Grave::default();
        let refused = whole.is_err();
        let answered = match whole {
            Err(refusal) => Some(Answer::refusal(&refusal)),
            Ok(whole) => stream.and_then(|mut stream| {
                let mut turn = Turn::default();
                let input = Input::Call {
                    id: CallId(call as u64),
                    call: whole,
                };
                let done = stream.step(Millis(now), input, &grave, &mut turn);
                let quiet = turn.writes.is_empty() && turn.alarm.is_none() && !grave.touched.get();
                match turn.gated.pop() {
                    Some(Gated::Answer { answer, .. }) if done.is_ok() && quiet => Some(answer),
                    _ => None,
                }
            }),
        };
        let Some(answer) = answered else {
            self.hit(Mark::ZombieKilled);
            self.note("zombie", || format!("c{call} is stopped at its storage"));
            let delay = self.network_delay();
            self.schedule(delay, Event::Lost { call });
            return;
        };
        self.hit(Mark::ZombieAnswered);
        let response = plain(&answer);
        self.note("zombie", || format!("c{call} {}", response.line()));
        let place = Place::of(&state);
        let model = &mut self.objects[at].model;
        let facts = Facts {
            now,
            attached: 0,
            dropped: false,
            kept: false,
            page_end: None,
        };
        let request = &self.calls[call].request;
        let verdict = if refused {
            model.refused(request, &response)
        } else {
            model.answered_in(state, request, &response, &facts)
        };
        self.check("model", verdict);
        let delay = self.network_delay();
        self.schedule(
            delay,
            Event::Reply {
                call,
                received: Received {
                    response,
                    place,
                    line: None,
                },
            },
        );
    }

    /// One turn: the input, the writes, and what is to leave when they are durable.
    fn turn(&mut self, at: usize, input: Input, call: Option<usize>) {
        self.turn_of(at, input, call, false);
    }

    /// `consumes` says whether the turn handles the stored alarm, which is gone when the turn is durable.
    fn turn_of(&mut self, at: usize, input: Input, call: Option<usize>, consumes: bool) {
        let is_alarm = matches!(input, Input::Alarm);
        if self.objects[at].instances < INSTANCES_MAX && self.fault(self.settings.faults.turn_fails) {
            return self.turn_failed(at, call, consumes);
        }
        if self.objects[at].stream.is_none() && !self.wake(at) {
            return;
        }
        let object = &mut self.objects[at];
        object.turns += 1;
        let now = object.clock.read(self.now);
        let mut counts: Vec<(Incarnation, u64)> = Vec::new();
        for line in &object.lines {
            let incarnation = self.lines[*line].incarnation;
            match counts.iter_mut().find(|(each, _)| *each == incarnation) {
                Some((_, count)) => *count += 1,
                None => counts.push((incarnation, 1)),
            }
        }
        let view = View {
            store: &object.store,
            lines: &counts,
        };
        let incarnation = object.store.shelf.head().map(|head| head.incarnation);
        let attached = incarnation.map_or(0, |incarnation| view.attached(incarnation).unwrap_or(0));
        // Who was a reader of a former stream under this name is nothing to the present one.
        let attached = match &input {
            Input::Gone { incarnation: gone } if incarnation != Some(*gone) => 0,
            Input::Gone { .. } | Input::Call { .. } | Input::Alarm => attached,
        };
        let before = Place::of(&object.model.state);
        let mut turn = Turn::default();
        let Some(stream) = &mut object.stream else { return };
        if let Err(unreadable) = stream.step(Millis(now), input, &view, &mut turn) {
            return self.fail(
                "storage",
                "rows that can be read".to_owned(),
                unreadable.to_string(),
            );
        }
        if let Err(reason) = object.store.apply(&turn.writes) {
            return self.fail("storage", "writes that can be carried out".to_owned(), reason);
        }
        if let Some(Some(at)) = turn.alarm
            && at.0 > ALARM_MAX
        {
            return self.fail("alarm", format!("a time up to {ALARM_MAX}"), at.0.to_string());
        }
        let dropped = turn.writes.contains(&Write::DropTables);
        self.digest_turn(&turn);
        let alarm = match (consumes, turn.alarm) {
            // What was due is gone once it is handled.
            (true, alarm) => Some(alarm.flatten().map(|at| at.0)),
            (false, alarm) => alarm.map(|alarm| alarm.map(|at| at.0)),
        };
        let wrote = !turn.writes.is_empty() || alarm.is_some();
        if wrote {
            self.objects[at].issued += 1;
        }
        let facts = Facts {
            now,
            attached,
            dropped,
            kept: false,
            page_end: None,
        };
        self.judge_turn(at, call, &turn, facts, is_alarm, before);
        if self.failure.is_some() {
            return;
        }
        if wrote {
            self.commit(at, turn.writes, alarm, consumes);
        } else {
            self.objects[at].remember();
        }
        self.set_alarm(at, alarm, now);
        if let Some(live) = &turn.live {
            self.broadcast(at, live, before);
        }
        for gated in turn.gated {
            self.carry_out(at, gated);
        }
        self.release(at);
        self.check_armed(at, now);
        self.misfortune(at);
    }

    /// A new instance over what is stored.
    fn wake(&mut self, at: usize) -> bool {
        let skew = self.settings.delays.skew;
        let (ahead, behind) = if skew > 0 {
            (self.choices.upto(skew), self.choices.upto(skew))
        } else {
            (0, 0)
        };
        let object = &mut self.objects[at];
        let mut clock = Clock {
            ahead,
            behind,
            last: 0,
        };
        let now = clock.read(self.now);
        if now < object.clock.last {
            self.marks.hit(Mark::ClockWentBack);
        }
        object.clock = clock;
        object.instances += 1;
        let nonce = object.instances << 8 | at as u64;
        match Stream::wake(Millis(now), &object.store, &self.settings.limits, nonce) {
            Ok(stream) => {
                object.stream = Some(stream);
                true
            }
            Err(unreadable) => {
                self.fail(
                    "storage",
                    "rows that can be read".to_owned(),
                    unreadable.to_string(),
                );
                false
            }
        }
    }

    fn digest_turn(&mut self, turn: &Turn) {
        for write in &turn.writes {
            self.digest.number(match write {
                Write::CreateTables { .. } => 1,
                Write::InsertHead(head) => 2 ^ head.created_at.0,
                Write::UpdateHead(head) => 3 ^ head.touched_at.0,
                Write::InsertHot { row, .. } => 4 ^ row.key.stored(),
                Write::DropTables => 5,
            });
        }
        if let Some(alarm) = turn.alarm {
            self.digest.number(alarm.map_or(0, |at| at.0));
        }
    }

    /// The turn against the reference, and against what must hold of every turn.
    fn judge_turn(
        &mut self,
        at: usize,
        call: Option<usize>,
        turn: &Turn,
        facts: Facts,
        is_alarm: bool,
        before: Place,
    ) {
        let model_life = self.objects[at].model.state.life.clone();
        let object = &mut self.objects[at];
        let verdict = match call {
            None if is_alarm => object.model.alarm(&facts),
            None => {
                object.model.gone(facts.now, facts.attached);
                Ok(())
            }
            Some(call) => {
                let request = &self.calls[call].request;
                let (response, kept, page_end) = match turn.gated.as_slice() {
                    [Gated::Answer { answer, .. }] => match rendered(&object.store, answer) {
                        Ok(response) => {
                            let head = response.header("Stream-Line").and_then(tail::Head::from_header);
                            (response, false, head.map(|head| head.next.position))
                        }
                        Err(damaged) => {
                            return self.fail("storage", "rows that can be rendered".to_owned(), damaged);
                        }
                    },
                    [Gated::Attach { line, .. }] => (plain(&line.answer), true, None),
                    _ => {
                        return self.fail(
                            "contract",
                            "one answer to one call".to_owned(),
                            format!("{:?}", turn.gated),
                        );
                    }
                };
                object.model.answered(
                    request,
                    &response,
                    &Facts {
                        kept,
                        page_end,
                        ..facts
                    },
                )
            }
        };
        self.check("model", verdict);
        self.check_rows(at, turn);
        let object = &self.objects[at];
        let after = Place::of(&object.model.state);
        if facts.dropped {
            let deleted = call.is_some_and(|call| self.calls[call].request.method == "DELETE");
            if facts.attached > 0 {
                self.marks.hit(if deleted {
                    Mark::DeletedUnderReader
                } else {
                    Mark::ExpiredUnderReader
                });
            }
            if !deleted {
                self.marks.hit(if is_alarm {
                    Mark::ExpiredByAlarm
                } else {
                    Mark::ExpiredByCall
                });
                let ends = model_life.and_then(|life| life.ends(&self.objects[at].model.bounds));
                if ends.is_some_and(|(least, most)| least < most && facts.now > least + 1) {
                    self.marks.hit(Mark::ExpiredLate);
                }
            }
        } else if facts.attached > 0 {
            let ends = model_life.and_then(|life| life.ends(&self.objects[at].model.bounds));
            if ends.is_some_and(|(_, most)| facts.now >= most) {
                self.marks.hit(Mark::KeptByReader);
            }
        }
        // Every reader at the tail is told of everything that happens there.
        if before != after && before.life().is_some() {
            let told = turn.live.as_ref().is_some_and(|live| {
                let ended = after.life() != before.life();
                live.from.position == before.position && (ended || live.next.position == after.position)
            });
            if !told {
                self.fail(
                    "no lost wake",
                    format!("a broadcast from {before:?} to {after:?}"),
                    format!("{:?}", turn.live),
                );
            }
        }
        self.marks.reach(Watermark::Units, after.position);
        self.marks
            .reach(Watermark::Lives, self.objects[at].model.state.last_life);
    }

    /// Rows follow one another without gap or overlap, and end at the tail; where there is no stream there is nothing.
    fn check_rows(&mut self, at: usize, turn: &Turn) {
        let object = &self.objects[at];
        let shelf = &object.store.shelf;
        let Some(life) = &object.model.state.life else {
            if !shelf.is_empty() || object.store.table_count() != 0 {
                let left = format!(
                    "{} rows, {} tables",
                    shelf.row_count(),
                    object.store.table_count()
                );
                self.fail(
                    "storage freed",
                    "nothing of a stream that is no more".to_owned(),
                    left,
                );
            }
            return;
        };
        if !turn.writes.is_empty() {
            let (mut key, mut bytes) = (RowKey::at(0), 0);
            let mut broken = None;
            for row in shelf.rows() {
                if row.key != key || row.bytes_before != bytes {
                    broken = Some(format!(
                        "{} with {} before it",
                        row.key.stored(),
                        row.bytes_before
                    ));
                    break;
                }
                bytes += row.frames.len() as u64;
                key = if row.units == 0 {
                    row.key.next_part()
                } else {
                    RowKey::at(row.key.position() + row.units)
                };
            }
            let tail = life.content.len();
            if broken.is_none() && key != RowKey::at(tail) {
                broken = Some(format!("the tail at {tail}"));
            }
            if let Some(actual) = broken {
                return self.fail(
                    "rows tile",
                    format!("a row at {} with {bytes} before it", key.stored()),
                    actual,
                );
            }
            let inserted = turn.writes.iter().filter_map(|write| match write {
                Write::InsertHot { row, .. } => Some(row.units),
                Write::CreateTables { .. }
                | Write::InsertHead(_)
                | Write::UpdateHead(_)
                | Write::DropTables => None,
            });
            let (mut count, mut parts) = (0, 0);
            for units in inserted {
                count += 1;
                parts += u64::from(units == 0);
            }
            let rows = shelf.row_count();
            if count > 1 {
                self.hit(Mark::SeveralRows);
            }
            if parts > 0 {
                self.hit(Mark::MessageOverRows);
            }
            self.marks.reach(Watermark::Rows, rows);
        }
    }

    /// Whenever a stream will end by itself, an alarm is set for it, and not too late.
    fn check_armed(&mut self, at: usize, now: u64) {
        let object = &self.objects[at];
        let Some(life) = &object.model.state.life else {
            return;
        };
        let Some((_, most)) = life.ends(&object.model.bounds) else {
            return;
        };
        let limits = &self.settings.limits;
        if object.alarm.abandoned && object.alarm.stored.is_none() {
            let believed = object
                .store
                .shelf
                .head()
                .and_then(|head| head.alarm_at)
                .map_or(0, |at| at.0);
            if now <= believed.saturating_add(limits.alarm_grace_ms) {
                return;
            }
        }
        let slack = life.ttl_ms().unwrap_or(0) / limits.touch_slack_divisor;
        let nearest = now + object.model.bounds.skew_ms + limits.alarm_delay_ms_min;
        let latest = most.saturating_add(slack).max(nearest);
        if latest > ALARM_MAX {
            return;
        }
        if object.alarm.stored.is_none_or(|stored| stored > latest) {
            self.fail(
                "alarm armed",
                format!("an alarm by {latest}"),
                format!("{:?}", self.objects[at].alarm),
            );
        }
    }

    /// When a stream that nobody uses must be gone, and its storage free.
    pub(super) fn latest_end(&self, at: usize) -> Option<u64> {
        let object = &self.objects[at];
        let life = object.model.state.life.as_ref()?;
        let (_, most) = life.ends(&object.model.bounds)?;
        let slack = life.ttl_ms().unwrap_or(0) / self.settings.limits.touch_slack_divisor;
        let alarm = object.alarm.stored?;
        let end = most.saturating_add(slack).max(alarm).max(self.now);
        let delays = self.settings.limits.alarm_delay_ms_min * 2 + self.settings.delays.skew * 4 + 1_000;
        let near = end < self.now + 10_000_000;
        (near && !object.alarm.abandoned).then(|| end + delays + self.settings.delays.commit * 2)
    }

    pub(super) fn judge_expiry(&mut self) {
        for at in 0..self.objects.len() {
            let now = self.now;
            let object = &self.objects[at];
            let Some(life) = &object.model.state.life else {
                continue;
            };
            let ended = life
                .ends(&object.model.bounds)
                .is_some_and(|(_, most)| most.saturating_add(1_000) < now);
            if ended && !object.alarm.abandoned && self.latest_end(at).is_some_and(|end| end <= now) {
                let state = self.objects[at].state();
                self.fail(
                    "expiry",
                    "the storage of an expired stream to be free".to_owned(),
                    state,
                );
            }
        }
    }

    fn commit(&mut self, at: usize, writes: Vec<Write>, alarm: Option<Option<u64>>, handles_alarm: bool) {
        let stalls = self.fault(self.settings.faults.commit_stalls);
        let longest = if stalls {
            self.settings.delays.stall
        } else {
            self.settings.delays.commit
        };
        // Where all runs are enumerated, long enough for a crash to come first.
        let delay = if self.settings.enumerated {
            1
        } else {
            self.choices.upto(longest)
        };
        let object = &mut self.objects[at];
        let (epoch, number) = (object.epoch, object.issued);
        let state = object.model.state.clone();
        object.commits.push_back(Commit {
            number,
            writes,
            alarm,
            handles_alarm,
            state,
        });
        let pending = object.commits.len() as u64;
        object.last_durable_at = object.last_durable_at.max(self.now + delay);
        let when = object.last_durable_at;
        if pending == 3 {
            self.marks.hit(Mark::CommitsQueued);
        }
        self.marks.reach(Watermark::Commits, pending);
        self.schedule_at(
            when,
            Event::Durable {
                object: at,
                epoch,
                number,
            },
        );
    }

    pub(super) fn durable(&mut self, at: usize, epoch: u64, number: u64) {
        if self.objects[at].epoch != epoch {
            return;
        }
        while self.objects[at]
            .commits
            .front()
            .is_some_and(|commit| commit.number <= number)
        {
            self.persist(at);
        }
        self.note("storage", || format!("durable {number}"));
        self.release(at);
    }

    /// The first commit on its way has arrived.
    fn persist(&mut self, at: usize) {
        let object = &mut self.objects[at];
        let Some(commit) = object.commits.pop_front() else {
            return;
        };
        let done = storage::commit(&mut object.durable, &commit.writes);
        object.committed = commit.number;
        object.durable_state = commit.state;
        if commit.handles_alarm {
            object.alarm.tries = 0;
        }
        if let Some(alarm) = commit.alarm {
            object.alarm.durable = alarm;
            object.alarm.abandoned &= alarm.is_none();
            let scheduled = object.alarm.scheduled;
            // Moving it later, or removing it, follows the commit, and may fail.
            if scheduled.is_some() && alarm.is_none_or(|alarm| scheduled < Some(alarm)) {
                if self.fault(self.settings.faults.alarm_not_moved) {
                    self.hit(Mark::AlarmNotMoved);
                } else {
                    self.schedule_alarm(at, alarm);
                }
            }
        }
        if let Err(reason) = done {
            self.fail("storage", "writes that can be carried out".to_owned(), reason);
        }
    }

    /// Lets out what the gate holds no longer.
    fn release(&mut self, at: usize) {
        loop {
            let object = &mut self.objects[at];
            if object
                .held
                .front()
                .is_none_or(|held| held.gate > object.committed)
            {
                return;
            }
            let Some(held) = object.held.pop_front() else {
                return;
            };
            match held.what {
                Outgoing::Answer { call, received } => {
                    object.begun.retain(|each| *each != call);
                    self.digest.number(u64::from(received.response.status));
                    self.digest.bytes(&received.response.body);
                    let delay = self.network_delay();
                    if self.fault(self.settings.faults.answer_lost) {
                        self.hit(Mark::AnswerLost);
                        self.note("network", || format!("c{call} loses its answer"));
                        if let Some(line) = received.line {
                            self.hang_up(line);
                        }
                        self.schedule(delay + 1_000, Event::Lost { call });
                    } else {
                        if let Some(line) = received.line {
                            self.lines[line].arrives_at = self.now + delay;
                        }
                        self.schedule(delay, Event::Reply { call, received });
                    }
                }
                Outgoing::Message { line, bytes, place } => {
                    self.digest.bytes(&bytes);
                    if self.fault(self.settings.faults.line_cut) {
                        self.hit(Mark::LineCut);
                        self.hang_up(line);
                        self.close_line(line);
                    } else {
                        let when = self.arrival(line);
                        self.schedule_at(when, Event::Message { line, bytes, place });
                    }
                }
                Outgoing::Close { line } => {
                    self.close_line(line);
                    self.hang_up(line);
                }
            }
        }
    }

    /// When what is sent over a line now gets to the other end.
    fn arrival(&mut self, line: usize) -> u64 {
        let delay = self.network_delay();
        let line = &mut self.lines[line];
        // Strictly after what went before, whatever is reordered.
        line.arrives_at = (line.arrives_at + 1).max(self.now + delay);
        line.arrives_at
    }

    /// The reader's side of a line learns that it is closed.
    fn close_line(&mut self, line: usize) {
        let when = self.arrival(line);
        self.schedule_at(when, Event::LineClosed { line });
    }

    /// The object learns that a line is closed, some time.
    pub(super) fn hang_up(&mut self, line: usize) {
        let late = self.fault(self.settings.faults.gone_late);
        let delay = if late {
            self.choices.upto(60_000)
        } else {
            self.network_delay()
        };
        self.schedule(delay, Event::LineGone { line });
    }

    pub(super) fn line_gone(&mut self, line: usize) {
        let Line {
            object: at,
            epoch,
            incarnation,
            ..
        } = self.lines[line];
        if self.objects[at].epoch != epoch || !self.objects[at].lines.contains(&line) {
            return;
        }
        self.note("object", || format!("line {line} is gone"));
        self.turn(at, Input::Gone { incarnation }, None);
        // The platform counts it until then.
        self.objects[at].lines.retain(|each| *each != line);
    }

    fn carry_out(&mut self, at: usize, gated: Gated) {
        let place = Place::of(&self.objects[at].model.state);
        match gated {
            Gated::Answer { call, answer } => {
                let call = usize::try_from(call.0).unwrap_or(0);
                match rendered(&self.objects[at].store, &answer) {
                    Ok(response) => self.hold_answer(
                        at,
                        call,
                        Received {
                            response,
                            place,
                            line: None,
                        },
                    ),
                    Err(damaged) => self.fail("storage", "rows that can be rendered".to_owned(), damaged),
                }
            }
            Gated::Attach { call, line } => {
                let call = usize::try_from(call.0).unwrap_or(0);
                let number = self.lines.len();
                let object = &mut self.objects[at];
                self.lines.push(Line {
                    object: at,
                    epoch: object.epoch,
                    class: line.class,
                    incarnation: line.incarnation,
                    reader: None,
                    arrives_at: 0,
                    finished: false,
                });
                object.lines.push(number);
                let lines = object.lines.len() as u64;
                self.marks.reach(Watermark::Lines, lines);
                let response = plain(&line.answer);
                self.hold_answer(
                    at,
                    call,
                    Received {
                        response,
                        place,
                        line: Some(number),
                    },
                );
            }
        }
    }

    /// The commit that must be durable before what is said now may leave.
    fn gate(&self, at: usize) -> u64 {
        if self.settings.gated {
            self.objects[at].issued
        } else {
            0
        }
    }

    fn hold_answer(&mut self, at: usize, call: usize, received: Received) {
        self.note("object", || {
            format!("c{call} is answered {}", received.response.line())
        });
        self.note_answer(call, &received.response);
        let gate = self.gate(at);
        self.objects[at].held.push_back(Held {
            gate,
            what: Outgoing::Answer { call, received },
        });
        self.release(at);
    }

    /// One message to each line of the incarnation.
    fn broadcast(&mut self, at: usize, live: &Live, before: Place) {
        let after = Place::of(&self.objects[at].model.state);
        let place = if live.end == Some(machine::End::Gone) {
            before
        } else {
            after
        };
        for class in [Class::Sse, Class::LongPoll] {
            let mine =
                |line: &Line| line.class == class && line.incarnation == live.incarnation && !line.finished;
            let lines: Vec<usize> = self.objects[at]
                .lines
                .iter()
                .copied()
                .filter(|line| mine(&self.lines[*line]))
                .collect();
            if lines.is_empty() {
                continue;
            }
            let message: Bytes = match live.message(class) {
                Ok(message) => message.into(),
                Err(damaged) => {
                    return self.fail(
                        "storage",
                        "frames that can be sent".to_owned(),
                        damaged.to_string(),
                    );
                }
            };
            for line in lines {
                let gate = self.gate(at);
                let held = &mut self.objects[at].held;
                held.push_back(Held {
                    gate,
                    what: Outgoing::Message {
                        line,
                        bytes: message.clone(),
                        place,
                    },
                });
                if live.end.is_some() {
                    held.push_back(Held {
                        gate,
                        what: Outgoing::Close { line },
                    });
                    self.lines[line].finished = true;
                }
            }
        }
    }

    /// A turn fails: nothing of it is stored, nobody is told, and the instance is dropped.
    fn turn_failed(&mut self, at: usize, call: Option<usize>, consumes: bool) {
        self.hit(Mark::TurnFailed);
        self.note("object", || "a turn fails".to_owned());
        self.forget(at);
        if consumes {
            self.alarm_failed(at);
        }
        if let Some(call) = call {
            self.refuse(call, &Answer::unavailable(&self.settings.limits.clone()), false);
        }
    }

    /// The instance is no more, but all that it has written is.
    fn forget(&mut self, at: usize) {
        let object = &mut self.objects[at];
        object.stream = None;
        let state = object.model.state.clone();
        object.model.restart(state);
        object.remember();
    }

    /// What may befall an instance after a turn.
    fn misfortune(&mut self, at: usize) {
        let faults = &self.settings.faults;
        let (crash, hibernate, evict) = (faults.crash, faults.hibernate, faults.evict);
        if self.objects[at].instances > INSTANCES_MAX {
            return;
        }
        let epoch = self.objects[at].epoch;
        if self.fault(crash) {
            let longest = self.settings.delays.commit * 2;
            let delay = self.choices.upto(longest);
            self.schedule(delay, Event::Crash { object: at, epoch });
        }
        for (chance, cut_lines) in [(hibernate, false), (evict, true)] {
            if self.fault(chance) {
                let delay = self
                    .choices
                    .upto(self.settings.delays.commit + self.settings.delays.network);
                self.schedule(
                    delay,
                    Event::Idle {
                        object: at,
                        epoch,
                        cut_lines,
                    },
                );
            }
        }
    }

    pub(super) fn crash(&mut self, at: usize, epoch: u64) {
        if self.objects[at].epoch != epoch {
            return;
        }
        let pending = self.objects[at].commits.len();
        let kept = usize::try_from(self.choices.upto(pending as u64)).unwrap_or(0);
        self.note("object", || {
            format!("crashes with {pending} commits on their way, of which {kept} arrive")
        });
        self.hit(Mark::Crash);
        let present = Place::of(&self.objects[at].model.state);
        let had_pending = pending > 0;
        for _ in 0..kept {
            self.persist(at);
        }
        let zombie = !had_pending && self.fault(self.settings.faults.zombie);
        let object = &mut self.objects[at];
        let unanswered = object
            .held
            .iter()
            .any(|held| matches!(held.what, Outgoing::Answer { .. }) && held.gate <= object.committed);
        if kept > 0 && unanswered {
            self.marks.hit(Mark::CrashKeptUnanswered);
        }
        if kept < pending {
            self.marks.hit(Mark::CrashLostCommit);
            let back = Place::of(&object.durable_state);
            if present.life().is_some() && back < present && back.life() != present.life() {
                self.marks.hit(Mark::CrashLostCreation);
            }
            if present.life().is_none() && back.life().is_some() {
                self.marks.hit(Mark::CrashLostDeletion);
            }
        }
        let alarm_unhandled = object.commits.iter().any(|commit| commit.handles_alarm);
        let stream = object.stream.take();
        let restored = object.store.restore(&object.durable);
        let (state, clock) = (object.model.state.clone(), object.clock);
        object.commits.clear();
        object.held.clear();
        object.committed = object.issued;
        object.last_durable_at = self.now;
        object.epoch += 1;
        object.last_crash_at = self.now;
        object.alarm.stored = object.alarm.durable;
        object.model.restart(object.durable_state.clone());
        let begun = core::mem::take(&mut object.begun);
        if let Err(reason) = restored {
            return self.fail("storage", "to be restored".to_owned(), reason);
        }
        for call in begun {
            if zombie && self.calls[call].awaits.is_some() {
                let zombie = Zombie {
                    stream: stream.clone(),
                    state: state.clone(),
                    clock,
                };
                self.calls[call].zombie = Some(Box::new(zombie));
                continue;
            }
            self.calls[call].awaits = None;
            let delay = self.network_delay();
            self.schedule(delay, Event::Lost { call });
        }
        self.cut_lines(at);
        if alarm_unhandled {
            self.alarm_failed(at);
        } else {
            // An alarm that was moved earlier by what is lost now comes early; one that was moved later stands.
            let alarm = &self.objects[at].alarm;
            let (durable, scheduled) = (alarm.durable, alarm.scheduled);
            if durable.is_some() && (scheduled.is_none() || durable < scheduled) {
                self.schedule_alarm(at, durable);
            }
        }
    }

    fn cut_lines(&mut self, at: usize) {
        for line in core::mem::take(&mut self.objects[at].lines) {
            self.close_line(line);
        }
    }

    /// The instance sleeps, if it is idle: hibernates with its lines, or is moved without them.
    pub(super) fn idle(&mut self, at: usize, epoch: u64, cut_lines: bool) {
        let object = &self.objects[at];
        let busy = !object.commits.is_empty() || !object.held.is_empty() || !object.begun.is_empty();
        if object.epoch != epoch || busy || object.stream.is_none() {
            return;
        }
        self.note("object", || {
            if cut_lines { "is moved" } else { "hibernates" }.to_owned()
        });
        self.forget(at);
        if cut_lines {
            self.hit(Mark::Evicted);
            self.objects[at].epoch += 1;
            self.cut_lines(at);
        } else if !self.objects[at].lines.is_empty() {
            self.hit(Mark::Hibernated);
        }
    }

    /// The turn's word on the alarm: moved earlier at once, later when it is durable.
    fn set_alarm(&mut self, at: usize, alarm: Option<Option<u64>>, now: u64) {
        let Some(alarm) = alarm else { return };
        self.note("object", || format!("alarm {alarm:?}, now {now}"));
        let object = &mut self.objects[at];
        object.alarm.stored = alarm;
        let scheduled = object.alarm.scheduled;
        if alarm.is_some() && (scheduled.is_none() || alarm < scheduled) {
            self.schedule_alarm(at, alarm);
        }
    }

    fn schedule_alarm(&mut self, at: usize, alarm: Option<u64>) {
        let object = &mut self.objects[at];
        object.alarm.token += 1;
        object.alarm.scheduled = alarm;
        let token = object.alarm.token;
        let Some(mut when) = alarm else { return };
        if self.fault(self.settings.faults.alarm_late) {
            let late = self.choices.upto(self.settings.delays.alarm_late);
            if late > 0 {
                self.hit(Mark::AlarmLate);
            }
            when += late;
        } else if self.fault(self.settings.faults.alarm_early) {
            let early = self.choices.upto(self.settings.delays.alarm_early);
            if early > 0 && when > self.now + early {
                self.hit(Mark::AlarmEarly);
            }
            when = when.saturating_sub(early);
        }
        // Not even an alarm of the past comes in no time.
        let when = when.max(self.now + ALARM_DELAY_MS);
        self.schedule_at(
            when,
            Event::Alarm {
                object: at,
                token,
                again: false,
            },
        );
    }

    pub(super) fn alarm(&mut self, at: usize, token: u64, again: bool) {
        if !again && self.objects[at].alarm.token != token {
            return;
        }
        self.note("object", || {
            if again { "alarm, once more" } else { "alarm" }.to_owned()
        });
        self.hit(Mark::AlarmFired);
        if again {
            self.hit(Mark::AlarmTwice);
        } else {
            self.objects[at].alarm.scheduled = None;
            if self.fault(self.settings.faults.alarm_twice) {
                let delay = self.choices.upto(5_000);
                self.schedule(
                    delay,
                    Event::Alarm {
                        object: at,
                        token,
                        again: true,
                    },
                );
            }
            if self.fault(self.settings.faults.alarm_fails) {
                self.forget(at);
                self.alarm_failed(at);
                return;
            }
        }
        let due = self.now + self.settings.delays.alarm_early;
        let consumes = !again && self.objects[at].alarm.stored.is_some_and(|stored| stored <= due);
        self.turn_of(at, Input::Alarm, None, consumes);
    }

    /// The handler did not get through: the platform tries again, and gives up at last.
    fn alarm_failed(&mut self, at: usize) {
        let object = &mut self.objects[at];
        object.alarm.tries += 1;
        let tries = object.alarm.tries;
        self.marks.reach(Watermark::AlarmTries, tries);
        if tries >= ALARM_TRIES_MAX {
            object.alarm.tries = 0;
            object.alarm.durable = None;
            object.alarm.abandoned = true;
            // One that has been set since is another alarm.
            if object.commits.iter().any(|commit| commit.alarm.is_some()) {
                let stored = object.alarm.stored;
                return self.schedule_alarm(at, stored);
            }
            object.alarm.stored = None;
            self.note("object", || "alarm given up".to_owned());
            self.schedule_alarm(at, None);
            self.hit(Mark::AlarmAbandoned);
            return;
        }
        self.hit(Mark::AlarmRetried);
        let pause = ALARM_RETRY_MS << tries;
        let jitter = if self.settings.enumerated {
            0
        } else {
            self.choices.upto(pause / 4)
        };
        let when = self.now + pause + jitter;
        self.schedule_alarm(at, Some(when));
    }
}

impl Object {
    /// What has been answered without a write is part of what is durable, or will be with the last commit.
    fn remember(&mut self) {
        let state = self.model.state.clone();
        match self.commits.back_mut() {
            Some(commit) => commit.state = state,
            None => self.durable_state = state,
        }
    }
}

fn rendered(store: &Store, answer: &Answer) -> Result<Response, String> {
    match &answer.body {
        Body::Plan(plan) => Ok(response(answer, render(store, plan)?)),
        Body::Bytes(_) | Body::Empty => Ok(plain(answer)),
    }
}

fn render(store: &Store, plan: &Plan) -> Result<Bytes, String> {
    let frames = store.frames(plan).map_err(|unreadable| unreadable.to_string())?;
    plan.render(frames)
        .map(Bytes::from)
        .map_err(|damaged| damaged.to_string())
}
