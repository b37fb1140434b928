//! One turn of an object: the step, its judgement, and its commit.

use std::cell::Cell;
use std::fmt::Debug;

use machine::admin::AdminCall;
use machine::rows::StreamRow;
use machine::{
    AlarmChange, Answer, Context, Effect, Input, Millis, Stream, TimerReason, Turn, Write,
};

use super::object::{INSTANCES_MAX, attached, bounded};
use super::{World, operator};
use crate::coverage::{Fault, Situation};
use crate::ids::{CallId, FetchId, Id, ObjectId};
use crate::model::{Mismatch, TurnFacts};
use crate::oracles::{Oracle, Position};

/// Why a turn happens, as far as its judgement depends on that.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    pub(super) calls: Vec<CallId>,
    /// Whether appends wait for its commit.
    pub(super) has_appends: bool,
    /// The answer whose next page is asked for.
    pub(super) page_of: Option<FetchId>,
    pub(super) is_alarm: bool,
    /// The call of an operator.
    pub(super) operator: Option<AdminCall>,
    /// Whether a reader has left.
    pub(super) is_gone: bool,
    pub(super) is_idle_alarm: bool,
    /// Whether the outbox has loaded another queue because its turn came.
    pub(super) rotates: bool,
    /// The time for which the instance believed the alarm to be set.
    pub(super) alarm_believed: u64,
}

impl World<'_, '_> {
    /// Handles one input of an object in one turn.
    pub(super) fn turn(&mut self, at: ObjectId, input: Input) {
        let is_operator = operator::call_of(&input).is_some();
        self.turn_for(at, input, None);
        if !is_operator && self.engine.recorder.failure.is_none() {
            self.draw_operator(at);
        }
    }

    /// Handles one input, which may ask for the next page of an answer.
    pub(super) fn turn_for(&mut self, at: ObjectId, input: Input, page_of: Option<FetchId>) {
        let operator = operator::call_of(&input);
        let calls = match page_of {
            // Nobody retries an operator's call.
            None if operator.is_some() => Vec::new(),
            None => input.calls().map(CallId::from).collect(),
            // The page is judged as a part of its answer.
            Some(_) => Vec::new(),
        };
        let has_appends = input.has_appends();
        let is_alarm = matches!(input, Input::Alarm);
        let shown = if self.engine.is_traced() {
            summary(&input, &calls)
        } else {
            String::new()
        };
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
            return self.turn_failed(at, &calls, consumes);
        }
        if self.objects[at].platform.instance.is_none() && !self.load(at) {
            return;
        }
        let object = &mut self.objects[at];
        object.turns += 1;
        let platform = &mut object.platform;
        let rows = &platform.storage.rows;
        let alarm_believed = self.checkers.alarms.before_turn(at, rows);
        let now = platform.clock.read(self.engine.now());
        let incarnation = rows.head().map(|head| head.incarnation);
        let count = |incarnation| attached(&platform.connections, incarnation);
        let attached = match &input {
            // A reader of an earlier stream of this name does not concern the present one.
            Input::SubscriberLeft { incarnation: gone } if incarnation != Some(*gone) => 0,
            Input::SubscriberLeft { .. }
            | Input::Call { .. }
            | Input::Appends(_)
            | Input::Continue { .. }
            | Input::Alarm
            | Input::PutFinished { .. }
            | Input::CollectFinished { .. }
            | Input::CallFinished { .. }
            | Input::IndexFinished { .. }
            | Input::EnqueueFinished { .. } => incarnation.map_or(0, count),
        };
        let before = Position::of(&self.models[at].state);
        let Some(stream) = &mut platform.instance else {
            return;
        };
        let rotates_at = rotation(stream);
        let reads = Cell::new(0);
        let done = stream.step(
            &Context {
                now: Millis(now),
                storage: &bounded(&platform.storage, &reads),
                subscribers: &|incarnation| Ok(count(incarnation)),
                entropy: &|| -> [u8; 32] { unreachable!("there are no subscriptions here") },
            },
            input,
        );
        let rotates = rotates_at != rotation(stream);
        if !self.ends(reads.get()) {
            return;
        }
        let mut turn = match done {
            Ok(turn) => turn,
            Err(error) => return self.unreadable(error.to_string()),
        };
        let platform = &mut self.objects[at].platform;
        let used = |head: Option<&StreamRow>| head.map(|head| (head.incarnation, head.touched_at));
        let used_before = used(platform.storage.rows.head());
        if let Err(reason) = platform.storage.apply(&turn.writes) {
            return self.refused_by_storage(reason);
        }
        // An alarm that begins an effect, such as another put, is not idle.
        let is_idle_alarm = is_alarm
            && turn.after_commit.is_empty()
            && used_before == used(platform.storage.rows.head());
        self.digest_turn(&turn);
        self.engine.note(format_args!("object {at}"), || {
            format!("turn: {shown}; {}", written(&turn))
        });
        let facts = TurnFacts {
            now,
            attached,
            dropped: turn.writes.contains(&Write::DropTables),
            hidden: false,
            kept: false,
            page_end: None,
            has_rest: false,
            sealed: sealed(&turn),
        };
        let cause = Cause {
            calls,
            has_appends,
            page_of,
            is_alarm,
            operator,
            is_gone,
            is_idle_alarm,
            rotates,
            alarm_believed,
        };
        self.judge_turn(at, &cause, &turn, facts, before);
        if has_appends {
            self.objects[at].queue.turn_ended(&mut turn);
        }
        if facts.sealed.is_some() {
            self.note_forgotten(at, now);
        }
        if self.engine.recorder.failure.is_some() {
            return;
        }
        self.commit(at, turn, ended, now, &cause, before);
    }

    /// Sends the writes of a turn on their way, and the effects that follow them.
    fn commit(
        &mut self,
        at: ObjectId,
        turn: Turn,
        ended: Option<Option<u64>>,
        now: u64,
        cause: &Cause,
        before: Position,
    ) {
        let alarm = match turn.alarm {
            AlarmChange::Keep => ended,
            AlarmChange::Set(at) => Some(Some(at.0)),
            AlarmChange::Clear => Some(None),
        };
        let platform = &mut self.objects[at].platform;
        if let (AlarmChange::Set(_), Some(stream)) = (turn.alarm, &platform.instance) {
            let timers = || format!("timers: {}", timers(stream));
            self.engine.note(format_args!("object {at}"), timers);
        }
        let snapshot = self.models[at].state.clone();
        if turn.writes.is_empty() && alarm.is_none() {
            platform.remember(snapshot);
        } else {
            let handles_alarm = ended.is_some();
            let has_written = !turn.writes.is_empty();
            let number = platform.commit(
                &mut self.engine,
                turn.writes,
                alarm,
                handles_alarm,
                snapshot,
            );
            if cause.has_appends && has_written {
                self.objects[at].append_commits.push_back(number);
            }
        }
        let platform = &mut self.objects[at].platform;
        platform.set_alarm(&mut self.engine, alarm, now);
        if let Some(Some(alarm)) = alarm {
            self.checkers.alarms.set(at, alarm);
        }
        if let Some(live) = &turn.broadcast {
            self.broadcast(at, live, before);
        }
        for effect in turn.after_commit {
            match (cause.page_of, effect) {
                (Some(fetching), Effect::Answer { answer, .. }) => {
                    self.next_page(fetching, &answer)
                }
                (None, Effect::Answer { call, .. }) if call == operator::CALL => {}
                (_, effect) => self.carry_out(at, effect),
            }
        }
        self.release(at);
        let limits = &self.engine.settings.limits;
        let finding = self.checkers.alarms.check(self.subject(at), limits, now);
        self.record(finding);
        self.inject_faults(at);
    }

    /// Judges which producers a seal has forgotten.
    fn note_forgotten(&mut self, at: ObjectId, now: u64) {
        let idle_ms = self.engine.settings.limits.producer_max_idle_ms;
        let rows = &self.objects[at].platform.storage.rows;
        let knows = |producer: &str| rows.knows(producer);
        let (forgotten, left) = self.models[at].forget(now, idle_ms, knows);
        if forgotten > 0 {
            self.engine.cover(Situation::ProducersForgotten);
        }
        let limits = &self.engine.settings.limits;
        let verdict = left.and_then(|left| {
            if left > 0 && forgotten < limits.producers_forgotten_max {
                return Err(Mismatch {
                    expected: "idle producers to be forgotten when a segment is sealed".to_owned(),
                    actual: format!("{left} are left, and {forgotten} were forgotten"),
                });
            }
            Ok(())
        });
        self.engine.check(Oracle::Producers, verdict);
    }

    /// Loads a new instance over what is stored. Returns whether that worked.
    fn load(&mut self, at: ObjectId) -> bool {
        let platform = &mut self.objects[at].platform;
        let (now, number) = platform.begin_instance(&mut self.engine);
        let nonce = number << 8 | at.number() as u64;
        match Stream::load(
            Millis(now),
            platform.storage.storage(),
            &self.engine.settings.limits,
            nonce,
        ) {
            Ok(stream) => {
                platform.instance = Some(stream);
                true
            }
            Err(error) => {
                self.unreadable(error.to_string());
                false
            }
        }
    }

    fn unreadable(&mut self, reason: String) {
        let expected = "rows that can be read".to_owned();
        self.engine.fail(Oracle::Storage, expected, reason);
    }

    fn digest_turn(&mut self, turn: &Turn) {
        for write in &turn.writes {
            self.engine.recorder.digest.number(match write {
                Write::CreateStreamTable => 1,
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
                Write::RemoveTask { id, .. } => 15 ^ id << 8,
                Write::DropOutbox => 16,
                Write::Upgrade { .. } => 17,
                Write::CreateManifest => 19,
                Write::InsertManifest(row) => 20 ^ row.first << 8,
                Write::CreatePins => 21,
                Write::PutPin(pin) => 22 ^ pin.fork.0 << 8,
                Write::ForgetPins { released_at } => 23 ^ released_at.0 << 8,
                Write::CreateControl => 24,
                Write::PutControl(row) => 25 ^ (row.body.len() as u64) << 8,
                Write::RemoveControl { key } => 26 ^ (key.len() as u64) << 8,
                Write::DropControl => 27,
            });
        }
        match turn.alarm {
            AlarmChange::Keep => {}
            AlarmChange::Set(at) => self.engine.recorder.digest.number(at.0),
            AlarmChange::Clear => self.engine.recorder.digest.number(0),
        }
    }

    /// Takes a turn back: nothing of it is stored or sent, and the instance is dropped.
    fn turn_failed(&mut self, at: ObjectId, calls: &[CallId], consumes: bool) {
        self.engine.cover(Situation::TurnFailed);
        self.engine.changed(Fault::TurnFails);
        self.engine
            .note(format_args!("object {at}"), || "a turn fails".to_owned());
        self.objects[at].forget(&mut self.models[at]);
        if consumes {
            self.objects[at].platform.alarm_failed(&mut self.engine);
        }
        let answer = Answer::unavailable(&self.engine.settings.limits);
        for call in calls {
            self.refuse(*call, &answer, false);
        }
    }
}

/// Returns when the outbox of a stream loads another queue next.
fn rotation(stream: &Stream) -> Option<Millis> {
    let mut timers = stream.timers();
    let rotation = timers.find(|timer| timer.reason == TimerReason::Rotation);
    rotation.map(|timer| timer.at)
}

/// Returns number and length of the segment that a turn has sealed.
fn sealed(turn: &Turn) -> Option<(u64, u64)> {
    turn.writes.iter().find_map(|write| {
        let Write::InsertSegment(segment) = write else {
            return None;
        };
        Some((segment.number, segment.units))
    })
}

/// Returns the cause of a turn for the trace.
fn summary(input: &Input, calls: &[CallId]) -> String {
    let calls: Vec<_> = calls.iter().map(|call| format!("c{call}")).collect();
    format!("{} {}", variant(input), calls.join(" "))
        .trim_end()
        .to_owned()
}

/// Returns what a turn writes for the trace.
fn written(turn: &Turn) -> String {
    if turn.writes.is_empty() {
        return "writes nothing".to_owned();
    }
    let writes: Vec<_> = turn.writes.iter().map(variant).collect();
    format!("writes {}", writes.join(", "))
}

/// Returns the name of a variant.
fn variant(value: &impl Debug) -> String {
    let shown = format!("{value:?}");
    let end = shown.find(|each: char| !each.is_alphanumeric());
    shown[..end.unwrap_or(shown.len())].to_owned()
}

/// Returns the timers of a stream as text, with what its alarm is set for.
fn timers(stream: &Stream) -> String {
    let timers = stream.timers();
    let timers: Vec<_> = timers
        .map(|timer| format!("{} at {}", timer.reason, timer.at.0))
        .collect();
    let reason = stream.alarm_reason();
    let reason = reason.map_or_else(|| "nothing".to_owned(), |reason| reason.to_string());
    format!("{}; the alarm is for {reason}", timers.join(", "))
}
