//! The objects below `__ds` (protocol 6): subscriptions, the directory of streams, and the keys
//! that sign webhooks.
//!
//! Each is a state machine like [`crate::Stream`]. What it stores is in the table of control rows:
//! the row `head`, and rows of its own kind.

mod directory;
mod keys;

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::admin::SubscriptionInquiry;
use crate::outbox::{AT_ONCE, Outbox, Queue, Request, Task, TaskKind};
use crate::rows::{ControlRow, Layout, Write};
use crate::storage::{Storage, StorageError};
use crate::subscription::Subscription;
use crate::subscription::links::is_done;
use crate::timer::{Timer, alarm_for};
use crate::wire::control::{ControlCall, LinkCall};
use crate::wire::internal_headers;
use crate::wire::request::{Call, INTERNAL_METHOD};
use crate::{
    AlarmChange, Answer, CallId, CallOutcome, Context, Effect, EffectId, Input, Limits, Millis,
    Refusal, TimerReason, Turn,
};
use directory::Directory;
use keys::Keys;

/// The key of the row that each such object has.
pub(crate) const HEAD: &str = "head";

/// Rows that are read at a time.
const PAGE_ROWS: u64 = 1_000;

/// An object below `__ds`.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    limits: Arc<Limits>,
    instance_seed: u64,
    /// What the alarm was last set to, as far as this instance knows.
    alarm_at: Option<Millis>,
    alarm_reason: Option<TimerReason>,
    /// What the head row says of it.
    stored_alarm_at: Option<Millis>,
    outbox: Outbox,
    /// Whether there is a table of control rows.
    has_table: bool,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Subscription(Box<Subscription>),
    Directory(Directory),
    Keys(Keys),
}

/// The head row of an object. It says what the object is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum HeadRow {
    Subscription {
        alarm_at: Option<Millis>,
        subscription: Box<crate::subscription::Head>,
    },
    Directory,
    Keys {
        ring: keys::Ring,
    },
}

/// What one step may use, and what it has done so far.
pub(crate) struct Step<'a> {
    pub(crate) now: Millis,
    pub(crate) storage: &'a dyn Storage,
    /// Whether there is a table of control rows.
    pub(crate) has_table: bool,
    pub(crate) limits: &'a Limits,
    pub(crate) instance_seed: u64,
    pub(crate) entropy: &'a dyn Fn() -> [u8; 32],
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) turn: Turn,
}

impl Step<'_> {
    /// Reads the rows from this key on, at most `limit`.
    fn rows(&self, from: &str, limit: u64) -> Result<Vec<ControlRow>, StorageError> {
        if self.has_table {
            self.storage.control(from, limit)
        } else {
            Ok(Vec::new())
        }
    }

    /// Answers a call.
    pub(crate) fn answer(&mut self, call: CallId, answer: Answer) {
        self.turn.after_commit.push(Effect::Answer { call, answer });
    }

    /// Refuses a call.
    pub(crate) fn refuse(&mut self, call: CallId, refusal: &Refusal) {
        self.answer(call, Answer::refusal(refusal));
    }

    /// Calls another object once. The answer, if there is one, comes to this instance only.
    pub(crate) fn call(&mut self, to: String, request: Request) -> EffectId {
        let effect = self.outbox.next_effect();
        self.turn.after_commit.push(Effect::Call {
            effect,
            to,
            request,
        });
        effect
    }

    /// Calls another object until it has answered. Returns the id of the task in its queue.
    pub(crate) fn task(&mut self, to: String, request: Request) -> Result<u64, StorageError> {
        let task = TaskKind::Call {
            to,
            request,
            create: None,
        };
        let turn = &mut self.turn;
        self.outbox
            .add(AT_ONCE, task, self.storage, self.limits, turn)
    }

    /// Removes a task that has become needless, unless it has begun.
    pub(crate) fn remove_task(&mut self, queue: &Queue, id: u64) -> Result<(), StorageError> {
        let turn = &mut self.turn;
        self.outbox
            .remove(queue, id, self.storage, self.limits, turn)?;
        Ok(())
    }

    /// Makes the first task of a queue due, whatever the pause after its last failure. Returns
    /// whether there is one that is not under way.
    pub(crate) fn hasten(&mut self, queue: &Queue) -> Result<bool, StorageError> {
        self.outbox.hasten(queue, self.storage, self.limits)
    }
}

/// Returns a request of one of our objects to another one.
fn internal_request(header: &str, call: String) -> Request {
    assert!(call.is_ascii(), "the value of a header is ASCII");
    Request {
        method: INTERNAL_METHOD.to_owned(),
        headers: vec![(header.to_owned(), call)],
        body: String::new(),
    }
}

/// Returns the request that carries this call to an object below `__ds`.
pub(crate) fn control_request(call: &impl Serialize) -> Request {
    internal_request(internal_headers::CONTROL_CALL, to_json(call))
}

/// Returns the request that carries this call to the object of a stream.
pub(crate) fn link_request(call: &LinkCall) -> Request {
    internal_request(internal_headers::LINK_CALL, to_json(call))
}

/// Reads the call of [`link_request`] back, or of [`control_request`].
pub(crate) fn call_of<T: DeserializeOwned>(request: &Request) -> Option<T> {
    let (_, call) = request.headers.first()?;
    serde_json::from_str(call).ok()
}

/// Returns a value as JSON, without characters beyond ASCII if its texts have none.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers always become JSON")
}

/// Returns an answer with a JSON body that no cache keeps.
pub(crate) fn json_answer(status: u16, value: &impl Serialize) -> Answer {
    let body = to_json(value).into_bytes();
    Answer::json(status, body)
}

/// Reads what an object answered; `None` if the call failed.
pub(crate) fn answered<T: DeserializeOwned>(outcome: &CallOutcome) -> Option<T> {
    match outcome {
        CallOutcome::Answered { status: 200, body } => serde_json::from_slice(body).ok(),
        CallOutcome::Answered { .. } | CallOutcome::Failed => None,
    }
}

/// Reads the body of a stored row.
pub(crate) fn stored<T: DeserializeOwned>(row: &ControlRow) -> Result<T, StorageError> {
    serde_json::from_str(&row.body)
        .map_err(|error| StorageError(format!("the row {:?} cannot be read: {error}", row.key)))
}

/// Hands over all rows whose key begins with `prefix`, in order.
pub(crate) fn each_row(
    storage: &dyn Storage,
    prefix: &str,
    each: &mut dyn FnMut(&str, &ControlRow) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let mut from = prefix.to_owned();
    loop {
        let rows = storage.control(&from, PAGE_ROWS)?;
        for row in &rows {
            match row.key.strip_prefix(prefix) {
                Some(rest) => each(rest, row)?,
                None => return Ok(()),
            }
        }
        match rows.last() {
            Some(last) if rows.len() as u64 == PAGE_ROWS => from = after(&last.key),
            Some(_) | None => return Ok(()),
        }
    }
}

/// Returns the first key behind this one.
pub(crate) fn after(key: &str) -> String {
    format!("{key}\0")
}

/// Returns whether the rows are those of an object below `__ds`.
pub(crate) fn has_head(layout: &Layout, storage: &dyn Storage) -> Result<bool, StorageError> {
    if layout.control.is_none() {
        return Ok(false);
    }
    let rows = storage.control(HEAD, 1)?;
    Ok(rows.first().is_some_and(|row| row.key == HEAD))
}

impl Control {
    /// Creates the object that a call is for, without anything stored. `None` if the call is not
    /// for an object below `__ds`.
    pub(crate) fn for_call(call: &Call, limits: &Arc<Limits>, instance_seed: u64) -> Option<Self> {
        let Call::Control(call) = call else {
            return None;
        };
        let kind = match call {
            ControlCall::Subscription(_) | ControlCall::Inquiry(_) | ControlCall::Notify(_) => {
                Kind::Subscription(Box::default())
            }
            ControlCall::Directory(_) => Kind::Directory(Directory::default()),
            ControlCall::PublicKeys | ControlCall::SigningKey => Kind::Keys(Keys::default()),
        };
        Some(Self {
            limits: Arc::clone(limits),
            instance_seed,
            alarm_at: None,
            alarm_reason: None,
            stored_alarm_at: None,
            outbox: Outbox::default(),
            has_table: false,
            kind,
        })
    }

    /// Creates an instance over stored rows.
    pub(crate) fn recall(
        layout: &Layout,
        storage: &dyn Storage,
        limits: &Arc<Limits>,
        instance_seed: u64,
    ) -> Result<Self, StorageError> {
        let rows = storage.control(HEAD, 1)?;
        let head = rows.first().filter(|row| row.key == HEAD);
        let head = head.ok_or_else(|| StorageError("the head row is missing".to_owned()))?;
        let (alarm_at, kind) = match stored(head)? {
            HeadRow::Subscription {
                alarm_at,
                subscription,
            } => {
                let subscription = Subscription::recall(*subscription, storage)?;
                (alarm_at, Kind::Subscription(Box::new(subscription)))
            }
            HeadRow::Directory => (None, Kind::Directory(Directory::recall(storage, limits)?)),
            HeadRow::Keys { ring } => (None, Kind::Keys(Keys::recall(ring))),
        };
        let has_tasks = layout.outbox.is_some();
        Ok(Self {
            limits: Arc::clone(limits),
            instance_seed,
            alarm_at,
            alarm_reason: None,
            stored_alarm_at: alarm_at,
            outbox: Outbox::recall(core::iter::empty(), has_tasks, storage, limits)?,
            has_table: true,
            kind,
        })
    }

    /// Processes one input.
    pub(crate) fn step(
        &mut self,
        context: &Context<'_>,
        input: Input,
    ) -> Result<Turn, StorageError> {
        if let Input::Call { id, call } = &input
            && let Call::Control(ControlCall::Inquiry(inquiry)) = call
            && inquiry.only_reads()
        {
            return self.inspect(context, *id, inquiry);
        }
        let is_alarm = matches!(input, Input::Alarm);
        let fired_at = self.alarm_at.take_if(|_| is_alarm);
        let mut step = Step {
            now: context.now,
            storage: context.storage,
            has_table: self.has_table,
            limits: &self.limits,
            instance_seed: self.instance_seed,
            entropy: context.entropy,
            outbox: &mut self.outbox,
            turn: Turn::default(),
        };
        act(&mut self.kind, &mut step, input)?;
        let (limits, now) = (&self.limits, context.now);
        let mut rows = match &mut self.kind {
            Kind::Subscription(subscription) => subscription.advance(&mut step)?,
            Kind::Directory(directory) => directory.changes(),
            Kind::Keys(keys) => keys.changes(),
        };
        let mut turn = step.turn;
        self.outbox
            .start_due(now, self.instance_seed, context.storage, limits, &mut turn)?;
        self.schedule_alarm(fired_at, now, &mut turn);
        self.write(&mut rows, &mut turn);
        self.outbox.remove_table_if_empty(&mut turn);
        Ok(turn)
    }

    /// Answers what an operator wants to know. Unlike every other step it begins nothing that is
    /// due and moves no alarm, so that looking at a subscription changes nothing.
    fn inspect(
        &self,
        context: &Context<'_>,
        id: CallId,
        inquiry: &SubscriptionInquiry,
    ) -> Result<Turn, StorageError> {
        let Kind::Subscription(subscription) = &self.kind else {
            unreachable!("the path of a call names the object")
        };
        let answer = subscription.inspect(context.now, &self.outbox, context.storage, inquiry)?;
        let mut turn = Turn::default();
        turn.after_commit.push(Effect::Answer { call: id, answer });
        Ok(turn)
    }

    /// Returns the table of timers.
    pub(crate) fn timers(&self) -> impl Iterator<Item = Timer> {
        let own = match &self.kind {
            Kind::Subscription(subscription) => {
                subscription.timers(self.outbox.is_empty(), &self.limits)
            }
            Kind::Directory(_) | Kind::Keys(_) => [None; 4],
        };
        own.into_iter()
            .chain(self.outbox.timers(&self.limits))
            .flatten()
    }

    /// Returns why the alarm is set.
    pub(crate) fn alarm_reason(&self) -> Option<TimerReason> {
        self.alarm_reason.filter(|_| self.alarm_at.is_some())
    }

    fn schedule_alarm(&mut self, fired_at: Option<Millis>, now: Millis, turn: &mut Turn) {
        let next = self.timers().min_by_key(|timer| timer.at);
        match next {
            None if self.alarm_at.is_some() => {
                self.alarm_at = None;
                turn.alarm = AlarmChange::Clear;
            }
            None => {}
            Some(timer) => {
                if let Some(at) = alarm_for(self.alarm_at, timer, fired_at, now, &self.limits) {
                    self.alarm_at = Some(at);
                    self.alarm_reason = Some(timer.reason);
                    turn.alarm = AlarmChange::Set(at);
                }
            }
        }
    }

    /// Writes the changed rows, and the head if it or the alarm has changed.
    fn write(&mut self, rows: &mut Changes, turn: &mut Turn) {
        let head = match &self.kind {
            Kind::Subscription(subscription) => {
                subscription.head().map(|head| HeadRow::Subscription {
                    alarm_at: self.alarm_at,
                    subscription: Box::new(head.clone()),
                })
            }
            Kind::Directory(_) => Some(HeadRow::Directory),
            Kind::Keys(keys) => keys.ring().map(|ring| HeadRow::Keys { ring: ring.clone() }),
        };
        let Some(head) = head else {
            assert!(rows.rows.is_empty(), "an object with rows has a head");
            if self.has_table && rows.head {
                self.has_table = false;
                let key = HEAD.to_owned();
                turn.writes.push(Write::RemoveControl { key });
                turn.writes.push(Write::DropControl);
            }
            return;
        };
        let has_alarm = matches!(self.kind, Kind::Subscription(_));
        // An alarm that has fired is not set any more. A later instance must not count on it.
        rows.head |= has_alarm && self.alarm_at != self.stored_alarm_at;
        rows.head |= !self.has_table && !rows.rows.is_empty();
        if !rows.head && rows.rows.is_empty() {
            return;
        }
        if !self.has_table {
            self.has_table = true;
            turn.writes.push(Write::CreateControl);
        }
        for (key, body) in core::mem::take(&mut rows.rows) {
            turn.writes.push(match body {
                Some(body) => Write::PutControl(ControlRow { key, body }),
                None => Write::RemoveControl { key },
            });
        }
        if rows.head {
            self.stored_alarm_at = self.alarm_at;
            let key = HEAD.to_owned();
            let body = to_json(&head);
            turn.writes
                .push(Write::PutControl(ControlRow { key, body }));
        }
    }
}

/// The rows that a step has changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Whether the head row has changed.
    pub(crate) head: bool,
    /// Keys, and the new bodies of their rows; `None` for a row that is removed.
    pub(crate) rows: Vec<(String, Option<String>)>,
}

fn act(kind: &mut Kind, step: &mut Step<'_>, input: Input) -> Result<(), StorageError> {
    match (kind, input) {
        (
            Kind::Subscription(subscription),
            Input::Call {
                id,
                call: Call::Control(call),
            },
        ) => match call {
            ControlCall::Subscription(call) => subscription.call(step, id, call),
            ControlCall::Inquiry(inquiry) => subscription.inquired(step, id, &inquiry),
            ControlCall::Notify(notify) => subscription.notified(step, id, notify),
            ControlCall::Directory(_) | ControlCall::PublicKeys | ControlCall::SigningKey => {
                unreachable!("the path of a call names the object")
            }
        },
        (
            Kind::Directory(directory),
            Input::Call {
                id,
                call: Call::Control(ControlCall::Directory(call)),
            },
        ) => directory.call(step, id, call),
        (
            Kind::Keys(keys),
            Input::Call {
                id,
                call: Call::Control(call),
            },
        ) => {
            keys.call(step, id, &call);
            Ok(())
        }
        (Kind::Subscription(subscription), Input::CallFinished { effect, outcome }) => {
            if subscription.call_finished(step, effect, &outcome)? {
                return Ok(());
            }
            let task = step.outbox.task(effect);
            let is_done = task.is_some_and(|task| is_done(task, &outcome));
            let is_needless = !is_done && task.is_some_and(|task| subscription.is_needless(task));
            if !is_done && !is_needless {
                subscription.task_failed(step, effect, &outcome);
                let (now, seed) = (step.now, step.instance_seed);
                step.outbox.failed(effect, now, seed, step.limits);
                return Ok(());
            }
            let implied = |_: &_| unreachable!("no task is implied");
            let done = step.outbox.succeeded(effect, implied, &mut step.turn);
            for task in done.into_iter().flatten().filter(|_| is_done) {
                finish_task(subscription, step, task, &outcome)?;
            }
            Ok(())
        }
        // Nothing is due but what `advance` finds, or it belongs to an earlier instance.
        (_, Input::Alarm | Input::CallFinished { .. }) => Ok(()),
        (_, input) => unreachable!("an object below `__ds` does not take {input:?}"),
    }
}

fn finish_task(
    subscription: &mut Subscription,
    step: &mut Step<'_>,
    task: Task,
    outcome: &CallOutcome,
) -> Result<(), StorageError> {
    match task.what {
        TaskKind::Call { to, request, .. } => {
            let is_last = step.outbox.is_last(&Queue::Call(to.clone()), task.id);
            subscription.task_finished(step, &to, &request, outcome, is_last)
        }
        TaskKind::Index(_) | TaskKind::Collect(_) => {
            unreachable!("an object below `__ds` only calls others")
        }
    }
}
