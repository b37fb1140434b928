//! One stream's logic, one module per behaviour.

mod admin;
mod alarm;
mod append;
mod append_page;
mod close;
mod control_rows;
mod create;
mod delete;
mod expire;
mod followers;
mod fork;
mod links;
pub(crate) mod live;
mod metadata;
mod outbox;
mod precondition;
mod producer;
mod read;
mod seal;
mod session;
mod source;

use std::sync::Arc;

use crate::admin::AdminCall;
use crate::control::Control;
use crate::event::{self, Asked};
use crate::outbox::Outbox;
use crate::rows::{
    Activity, Expiry, HotTable, Incarnation, Lineage, RowKey, RowMeta, StreamRow, Unannounced,
    Write,
};
use crate::storage::{Storage, StorageError};
use crate::wire::cursor::splitmix64;
use crate::wire::request::Call;
use crate::wire::text::Ending;
use crate::wire::{Format, content_type};
use crate::{
    Answer, CallId, Context, Effect, Event, Events, Input, Limits, Millis, Offset, Refusal,
    Subscriber, TimerReason, Turn,
};

/// An instance of a stream. A new instance can derive everything in it from the rows.
#[derive(Clone, Debug)]
pub struct Stream {
    limits: Arc<Limits>,
    /// A random number from the shell that differs from instance to instance.
    instance_seed: u64,
    /// How many streams this instance has created, so that each gets its own incarnation.
    created: u64,
    /// What the alarm was last set to, as far as this instance knows.
    alarm_at: Option<Millis>,
    /// Why this instance has set the alarm.
    alarm_reason: Option<TimerReason>,
    outbox: Outbox,
    /// The subscriptions of its name.
    links: links::Links,
    /// The sessions that follow its name.
    followers: followers::Followers,
    /// Its session, if its name is that of one.
    session: session::Session,
    control_rows: control_rows::ControlRows,
    /// Events of this instance, with those that are not sampled.
    events_seen: u64,
    /// A creation that waits for its source.
    forking: Option<Box<fork::Forking>>,
    state: Option<StreamState>,
}

// A server keeps thousands of instances in memory.
const _: () = assert!(size_of::<Stream>() <= 1_400, "an instance is small");

/// A stream that exists.
#[derive(Clone, Debug)]
struct StreamState {
    row: StreamRow,
    format: Format,
    tail: OpenSegment,
    used: expire::LastUse,
    /// How its text ends, where it is text.
    ending: Ending,
    /// Units of the last sealed segment.
    sealed_units: u64,
    /// The oldest sealed segment that is not in the cold tier yet. Segments are stored one after
    /// the other.
    unstored: Option<seal::Unstored>,
    /// Read from the rows when the first append needs it.
    producers: Option<producer::Producers>,
    /// When its content was appended.
    minutes: admin::OpenMinutes,
    /// Pins of forks that are not answered yet.
    waiting_pins: Vec<source::WaitingPin>,
}

/// What one step has done so far. It ends with the step; what outlives it is in [`Stream`].
#[derive(Default)]
struct Step {
    turn: Turn,
    /// Whether there were rows before it.
    has_rows: bool,
    row: RowChange,
    /// Whether the stream has opened a segment.
    opens_segment: bool,
    /// The time for which the alarm was set, if the step handles it.
    fired_at: Option<Millis>,
    /// Whether an effect of the outbox has succeeded.
    has_finished_task: bool,
    /// Whether its owner deletes a session.
    deletes_session: bool,
}

/// What the end of a step does to the stream's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RowChange {
    #[default]
    Keep,
    Update,
    Insert,
}

impl RowChange {
    /// Notes that the row has changed.
    fn save(&mut self) {
        if *self == Self::Keep {
            *self = Self::Update;
        }
    }
}

/// The end of the open segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct OpenSegment {
    /// Whether the first row makes the table. Earlier code made it when the segment was opened.
    has_table: bool,
    position: u64,
    /// Framed bytes in the segment.
    bytes: u64,
    /// When its first message arrived.
    opened_at: Option<Millis>,
}

/// The properties that a stream gets at its creation.
struct Creation {
    incarnation: Incarnation,
    name: String,
    version: u64,
    registered: Option<u64>,
    content_type: String,
    expiry: Expiry,
}

/// How a call ends when it is not refused.
enum Response {
    Answer(Answer),
    Attach(Subscriber),
}

/// Why a call ends early.
enum StepError {
    Refused(Refusal),
    StorageError(StorageError),
}

impl From<Refusal> for StepError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StorageError> for StepError {
    fn from(unreadable: StorageError) -> Self {
        Self::StorageError(unreadable)
    }
}

/// Returns the effect that answers a call.
fn effect_of(
    call: CallId,
    reply: Result<Response, StepError>,
    bodiless: bool,
) -> Result<Effect, StorageError> {
    Ok(match reply {
        Ok(Response::Answer(answer)) => Effect::Answer { call, answer },
        Ok(Response::Attach(subscriber)) => Effect::Attach { call, subscriber },
        Err(StepError::Refused(refusal)) => {
            let answer = Answer::refusal(&refusal);
            let answer = if bodiless {
                answer.without_body()
            } else {
                answer
            };
            Effect::Answer { call, answer }
        }
        Err(StepError::StorageError(unreadable)) => return Err(unreadable),
    })
}

impl Stream {
    /// Returns what brings older rows to the present layout, if they are older. It is written in
    /// the turn that loads the instance, before the instance is loaded.
    ///
    /// # Errors
    /// When the rows cannot be read, or newer code wrote them.
    pub fn upgrade(now: Millis, rows: &dyn Storage) -> Result<Option<Write>, StorageError> {
        let from = rows.layout()?;
        if let Some((newer, known)) = from.schemas().find(|(schema, known)| schema > known) {
            return Err(StorageError(format!(
                "its schema {newer} is newer than {known}, the newest that this version knows"
            )));
        }
        let is_older = from.schemas().any(|(schema, known)| schema < known);
        Ok(is_older.then_some(Write::Upgrade { from, now }))
    }

    /// Creates an instance over stored rows. `instance_seed` must differ from instance to instance.
    ///
    /// # Errors
    /// When the rows cannot be read, or are not in the present layout.
    pub fn load(
        now: Millis,
        rows: &dyn Storage,
        limits: &Arc<Limits>,
        instance_seed: u64,
    ) -> Result<Self, StorageError> {
        limits.check();
        let layout = rows.layout()?;
        if let Some((schema, known)) = layout.schemas().find(|(schema, known)| schema != known) {
            let other = format!("its schema is {schema}, and not {known}");
            return Err(StorageError(other));
        }
        let has_control = layout.control.is_some();
        let row = layout.stream.map(|_| rows.head()).transpose()?.flatten();
        let state = match row {
            None => None,
            Some(row) => {
                let has_table = layout.newest_hot == Some(row.segment);
                let recalled =
                    StreamState::recall(now, row, has_table, rows, limits, instance_seed);
                Some(recalled?)
            }
        };
        let row = state.as_ref().map(|state| &state.row);
        let implied = row.into_iter();
        let implied = implied.flat_map(|row| outbox::implied_tasks(row, limits));
        Ok(Self {
            alarm_at: row.and_then(|row| row.alarm_at),
            alarm_reason: None,
            outbox: Outbox::recall(implied, layout.outbox.is_some(), rows, limits)?,
            links: links::Links::recall(has_control, rows)?,
            followers: followers::Followers::recall(has_control, rows)?,
            session: session::Session::recall(has_control, rows)?,
            control_rows: control_rows::ControlRows::new(has_control),
            limits: Arc::clone(limits),
            instance_seed,
            created: 0,
            events_seen: 0,
            forking: None,
            state,
        })
    }

    /// Processes one input, and returns what the shell must do.
    ///
    /// # Errors
    /// When the rows cannot be read. The step is void then: the instance must be dropped and its
    /// turn with it.
    pub fn step(&mut self, context: &Context<'_>, input: Input) -> Result<Turn, StorageError> {
        if let Input::Call { id, call } = &input
            && let Call::Admin(AdminCall::Session { after, limit }) = call
        {
            return self.inspect_session(context, *id, after.as_deref(), *limit);
        }
        let before = self.place();
        let asked = Asked::of(&input).filter(|_| self.limits.metrics);
        let name_before = asked.and_then(|_| self.name());
        let mut step = Step {
            has_rows: self.has_rows(),
            ..Step::default()
        };
        self.act(context, input, &mut step)?;
        let mut turn = self.settle(context, step)?;
        self.check_turn(before, &turn);
        if let Some(asked) = asked {
            let stream = self.name().or(name_before).unwrap_or_default();
            turn.events = self.sampled(stream, event::events(asked, context.now, &turn));
        }
        Ok(turn)
    }

    fn name(&self) -> Option<String> {
        self.state.as_ref().map(|state| state.row.name.clone())
    }

    /// Returns the events that are in the sample.
    fn sampled(&mut self, stream: String, events: Vec<Event>) -> Events {
        let weight = self.limits.metrics_sample;
        let mut events = events;
        events.retain(|_| {
            self.events_seen += 1;
            event::is_sampled(self.instance_seed, self.events_seen, weight)
        });
        Events {
            stream,
            weight,
            events,
        }
    }

    fn act(
        &mut self,
        context: &Context<'_>,
        input: Input,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let (now, rows) = (context.now, context.storage);
        match input {
            Input::Call {
                id,
                call: Call::Append(append),
            } => {
                self.expire_if_due(context, step)?;
                self.append_all(now, &mut core::iter::once((id, append)), rows, step)?;
            }
            Input::Call {
                id,
                call: Call::Create(create),
            } => {
                self.expire_if_due(context, step)?;
                self.begin_create(now, (id, create), rows, step)?;
            }
            Input::Call {
                id,
                call: Call::Fork(call),
            } => {
                self.expire_if_due(context, step)?;
                self.call_of_fork(now, id, call, rows, step)?;
            }
            Input::Call {
                id,
                call: Call::Link(call),
            } => {
                self.expire_if_due(context, step)?;
                self.call_of_subscription(id, call, rows, step)?;
            }
            Input::Call {
                id,
                call: Call::Session(call),
            } => {
                self.expire_if_due(context, step)?;
                self.call_of_session(now, id, call, rows, step)?;
            }
            Input::Call {
                id,
                call: Call::Admin(call),
            } => {
                self.expire_if_due(context, step)?;
                let reply = self.admin(context, call, step);
                step.turn.after_commit.push(effect_of(id, reply, false)?);
            }
            Input::Call { id, call } => {
                self.expire_if_due(context, step)?;
                let bodiless = call == Call::Metadata;
                let reply = self.call(now, call, rows, step);
                step.turn.after_commit.push(effect_of(id, reply, bodiless)?);
            }
            Input::Appends(appends) => {
                self.expire_if_due(context, step)?;
                self.append_all(now, &mut appends.into_iter(), rows, step)?;
            }
            Input::Continue { id, rest } => {
                self.expire_if_due(context, step)?;
                let reply = self.read_on(now, rest, rows, step);
                step.turn.after_commit.push(effect_of(id, reply, false)?);
            }
            Input::SubscriberLeft { incarnation } => self.reader_gone(now, incarnation, step),
            Input::Alarm => self.alarm(context, step)?,
            Input::PutFinished { id, receipt } => self.stored(now, id, receipt, rows, step)?,
            Input::CollectFinished { effect, done } | Input::IndexFinished { effect, done } => {
                self.effect_finished(now, effect, done, rows, step)?;
            }
            Input::CallFinished { effect, outcome } => {
                if self.is_fetch(effect) {
                    // An envelope does not bring back an expired session.
                    self.expire_if_due(context, step)?;
                }
                self.call_finished(now, effect, &outcome, rows, step)?;
            }
            Input::EnqueueFinished { effect, done } => {
                self.enqueue_finished(now, effect, done);
            }
        }
        Ok(())
    }

    /// Returns whether anything is stored.
    const fn has_rows(&self) -> bool {
        self.state.is_some() || self.outbox.has_table() || self.control_rows.has_table()
    }

    /// Returns the object below `__ds` that a call is for. The path of the call says that this is
    /// no stream.
    ///
    /// # Panics
    /// When there is a stream, or the call is for one.
    pub(crate) fn become_control(&self, call: &Call) -> Control {
        assert!(!self.has_rows(), "an object below `__ds` is never a stream");
        let control = Control::for_call(call, &self.limits, self.instance_seed);
        control.expect("the call is for an object below `__ds`")
    }

    /// Returns the incarnation and its tail, if there is a stream.
    fn place(&self) -> Option<(Incarnation, Offset)> {
        let state = self.state.as_ref()?;
        Some((state.row.incarnation, state.tail()))
    }

    /// Checks what holds after every step. `before` is the place at its beginning.
    fn check_turn(&self, before: Option<(Incarnation, Offset)>, turn: &Turn) {
        let Some(state) = &self.state else { return };
        let (incarnation, tail) = (state.row.incarnation, state.tail());
        assert!(
            before.is_none_or(|(former, from)| former != incarnation || from <= tail),
            "a tail never moves back"
        );
        assert_eq!(
            state.row.alarm_at, self.alarm_at,
            "the row of the stream has its alarm"
        );
        assert!(
            state.row.writable || state.is_closed(),
            "an open stream has an open segment"
        );
        assert!(
            state
                .unstored
                .as_ref()
                .is_none_or(|unstored| unstored.segment.number < state.row.segment),
            "only sealed segments wait to be stored"
        );
        assert!(
            turn.broadcast
                .as_ref()
                .is_none_or(|live| live.incarnation != incarnation || live.next == tail),
            "subscribers learn the tail of the turn"
        );
    }

    /// Returns how many producers this instance holds in memory: at most one for each row of the
    /// open segment.
    #[must_use]
    pub fn producers_in_memory(&self) -> u64 {
        let producers = self
            .state
            .as_ref()
            .and_then(|state| state.producers.as_ref());
        producers.map_or(0, producer::Producers::producers)
    }

    fn call(
        &mut self,
        now: Millis,
        call: Call,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Response, StepError> {
        match call {
            Call::Create(_) => unreachable!("creations are run by `begin_create`"),
            Call::Append(_) => unreachable!("appends are run by `append_all`"),
            Call::Fork(_) => unreachable!("calls of forks are run by `call_of_fork`"),
            Call::Admin(_) => unreachable!("calls of the admin API are run by `admin`"),
            Call::Link(_) => unreachable!("calls of subscriptions are run by their own function"),
            Call::Session(_) => unreachable!("calls about sessions are run by their own function"),
            Call::Control(_) => unreachable!("the path of such a call names no stream"),
            Call::Metadata => self.metadata().map(Response::Answer),
            Call::Read(read) => self.read(now, read, rows, step),
            Call::Delete(preconditions) => self
                .delete(now, &preconditions, rows, step)
                .map(Response::Answer),
        }
    }

    /// Finishes every step: begins what is due, derives the alarm from the state, and writes the
    /// stream's row at most once.
    fn settle(&mut self, context: &Context<'_>, mut step: Step) -> Result<Turn, StorageError> {
        let now = context.now;
        let turn = &mut step.turn;
        if let Some(state) = &mut self.state {
            state.store(now, &self.limits, turn);
        }
        self.outbox
            .start_due(now, self.instance_seed, context.storage, &self.limits, turn)?;
        let present = self.presence();
        // A request that changes nothing leaves it to the alarm.
        if step.fired_at.is_some() || !step.turn.writes.is_empty() {
            self.links.tidy(present, &mut step.turn);
        }
        self.links.notify(
            now,
            present,
            self.instance_seed,
            &mut self.outbox,
            &self.limits,
            &mut step.turn,
        );
        let moment = followers::Moment {
            now,
            present,
            instance_seed: self.instance_seed,
            limits: &self.limits,
        };
        let (rows, outbox) = (&mut self.control_rows, &mut self.outbox);
        self.followers.notify(moment, rows, outbox, &mut step.turn);
        self.forget_session(now, &mut step.turn);
        self.schedule_alarm(now, &mut step);
        let Some(state) = &self.state else {
            self.outbox.remove_table_if_empty(&mut step.turn);
            let is_empty =
                self.links.is_empty() && self.followers.is_empty() && self.session.is_empty();
            self.control_rows.drop_if(is_empty, &mut step.turn);
            return Ok(step.turn);
        };
        assert!(
            !step.opens_segment || step.row != RowChange::Keep,
            "the turn that opens a segment writes the stream's row"
        );
        let writes = &mut step.turn.writes;
        match step.row {
            RowChange::Keep => {}
            RowChange::Update => writes.push(Write::UpdateStream(state.row.clone())),
            RowChange::Insert => {
                assert!(
                    writes.contains(&Write::CreateStreamTable),
                    "the turn that creates a stream makes its table"
                );
                writes.push(Write::InsertStream(state.row.clone()));
            }
        }
        Ok(step.turn)
    }

    /// Returns the stream, if there is one.
    fn state(&mut self) -> Result<(&mut StreamState, &Limits), StepError> {
        match &mut self.state {
            Some(state) if state.row.lineage.deleted_at.is_some() => Err(Refusal::Gone.into()),
            Some(state) => Ok((state, &self.limits)),
            None => Err(Refusal::StreamNotFound.into()),
        }
    }
}

impl StreamState {
    fn new(now: Millis, about: Creation) -> Self {
        let head = StreamRow {
            incarnation: about.incarnation,
            name: about.name,
            content_type: about.content_type,
            created_at: now,
            expiry: about.expiry,
            version: about.version,
            registered: about.registered,
            unannounced: Unannounced::default(),
            segment: 0,
            writable: true,
            stream_seq: None,
            touched_at: now,
            alarm_at: None,
            closed: None,
            lineage: Lineage::default(),
            activity: Some(Activity::default()),
        };
        Self {
            format: content_type::format(&head.content_type),
            row: head,
            tail: OpenSegment::default(),
            ending: Ending::Whole,
            used: expire::LastUse::at(now),
            sealed_units: 0,
            unstored: None,
            producers: Some(producer::Producers::default()),
            minutes: admin::OpenMinutes::default(),
            waiting_pins: Vec::new(),
        }
    }

    /// Reads what an earlier instance has left unfinished.
    fn recall(
        now: Millis,
        head: StreamRow,
        has_table: bool,
        rows: &dyn Storage,
        limits: &Limits,
        instance_seed: u64,
    ) -> Result<Self, StorageError> {
        let table = HotTable::of(head.segment);
        let last = if has_table {
            rows.at_or_before(table, RowKey::LAST)?
        } else {
            None
        };
        let is_damaged = |row: RowMeta| row.end() == 0 || row.bytes_through() < row.end();
        let is_sealed = !head.writable;
        if last.is_some_and(is_damaged) || is_sealed && (last.is_some() || head.closed.is_none()) {
            return Err(StorageError("the last segment is damaged".to_owned()));
        }
        let tail = match last {
            None => OpenSegment {
                has_table,
                ..OpenSegment::default()
            },
            Some(row) => OpenSegment {
                has_table,
                position: row.end(),
                bytes: row.bytes_through(),
                opened_at: rows.at_or_before(table, RowKey::at(0))?.map(|row| row.at),
            },
        };
        let fork = head.lineage.fork.as_ref();
        let inherited = fork.map_or(0, |fork| fork.segments);
        let sealed_units = match head.segment.checked_sub(1) {
            None => 0,
            Some(sealed) if sealed < inherited => fork.map_or(0, |fork| fork.units),
            Some(sealed) => {
                rows.segment(sealed)?
                    .ok_or_else(|| seal::missing(sealed))?
                    .units
            }
        };
        Ok(Self {
            format: content_type::format(&head.content_type),
            used: expire::LastUse::recall(now, &head, last.map(|row| row.at), limits),
            sealed_units,
            unstored: seal::unstored(&head, instance_seed, rows, limits)?,
            ending: if last.is_none() && head.segment == 0 {
                Ending::Whole
            } else {
                Ending::Unknown
            },
            // Without rows there is nothing to be read.
            producers: (!has_table).then(|| producer::Producers::before(&head)),
            minutes: admin::OpenMinutes::recall(tail.position),
            waiting_pins: Vec::new(),
            row: head,
            tail,
        })
    }

    /// Returns the tail offset (protocol 2). An offset is named by the content before it. Until the
    /// open segment has content, the tail is the end of the segment before it, so that sealing
    /// changes no name.
    const fn tail(&self) -> Offset {
        match (self.tail.position, self.row.segment.checked_sub(1)) {
            (0, Some(sealed)) => Offset::new(sealed, self.sealed_units),
            (position, _) => Offset::new(self.row.segment, position),
        }
    }

    /// Returns whether an offset names the tail, by either of its names.
    fn is_tail(&self, offset: Offset) -> bool {
        offset == self.tail() || offset == Offset::new(self.row.segment, self.tail.position)
    }

    const fn is_closed(&self) -> bool {
        self.row.closed.is_some()
    }
}

/// Returns a new incarnation. It differs for each creation and for each instance.
const fn incarnation(instance_seed: u64, created: u64) -> Incarnation {
    Incarnation(splitmix64(instance_seed ^ splitmix64(created)))
}
