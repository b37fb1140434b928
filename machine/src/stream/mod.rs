//! One stream's logic, one module per behaviour.

mod alarm;
mod append;
mod chores;
mod close;
mod create;
mod delete;
mod expire;
pub(crate) mod live;
mod metadata;
mod precondition;
mod producer;
mod read;
mod seal;

use crate::rows::{Expiry, Head, HotTable, Incarnation, RowKey, Rows, Unreadable, Untold, Write};
use crate::wire::cursor::mix;
use crate::wire::request::Call;
use crate::wire::text::Ending;
use crate::wire::{Format, content_type};
use crate::{Answer, CallId, Gated, Input, Limits, Line, Millis, Offset, Refusal, Turn};

/// An instance of a stream: what it remembers beyond its rows, all of which a new instance can find again.
#[derive(Clone, Debug)]
pub struct Stream {
    limits: Limits,
    /// This instance's share of entropy, from the shell.
    nonce: u64,
    /// How many streams this instance has created, so that each gets an incarnation of its own.
    created: u64,
    /// What the alarm was last set to, as far as this instance knows.
    alarm_at: Option<Millis>,
    /// For when the alarm was set that this step is about.
    alarm_came: Option<Millis>,
    chores: chores::Chores,
    /// Whether something that remained to be done was done in this step.
    is_told: bool,
    life: Option<Life>,
}

/// A stream that exists.
#[derive(Clone, Debug)]
struct Life {
    head: Head,
    format: Format,
    tail: Tail,
    used: expire::Used,
    /// How its text ends, where it is text.
    ending: Ending,
    /// Units of the last sealed segment.
    sealed_units: u64,
    /// The oldest of the sealed segments that are not in the cold tier yet. They are stored one after the other.
    unstored: Option<seal::Unstored>,
    /// Whether a segment was opened in this turn.
    opens: bool,
    /// Read from the rows by the first append that needs it.
    writers: Option<producer::Writers>,
    /// What this turn must do to the head row.
    unsaved: Unsaved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsaved {
    Nothing,
    Changed,
    New,
}

/// The end of the open segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tail {
    position: u64,
    /// Framed bytes in the segment.
    bytes: u64,
    /// When its first message came.
    opened_at: Option<Millis>,
}

/// What a stream is from its creation on.
struct About {
    incarnation: Incarnation,
    name: String,
    version: u64,
    registered: Option<u64>,
    content_type: String,
    expiry: Expiry,
}

/// How a call ends when it is not refused.
enum Reply {
    Answer(Answer),
    Attach(Line),
}

/// Why a call ends early.
enum Stop {
    Refused(Refusal),
    Unreadable(Unreadable),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Unreadable> for Stop {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable)
    }
}

/// What a call is told.
fn gated(call: CallId, reply: Result<Reply, Stop>, bodiless: bool) -> Result<Gated, Unreadable> {
    Ok(match reply {
        Ok(Reply::Answer(answer)) => Gated::Answer { call, answer },
        Ok(Reply::Attach(line)) => Gated::Attach { call, line },
        Err(Stop::Refused(refusal)) => {
            let answer = Answer::refusal(&refusal);
            let answer = if bodiless { answer.without_body() } else { answer };
            Gated::Answer { call, answer }
        }
        Err(Stop::Unreadable(unreadable)) => return Err(unreadable),
    })
}

impl Stream {
    /// What has to be written before an instance is woken over rows of an earlier version: nothing, but once.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub fn upgrade(now: Millis, rows: &impl Rows) -> Result<Option<Write>, Unreadable> {
        Ok(rows.former()?.map(|former| Write::Upgrade { former, now }))
    }

    /// A new instance over stored rows. `nonce` must differ from instance to instance.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub fn wake(now: Millis, rows: &impl Rows, limits: &Limits, nonce: u64) -> Result<Self, Unreadable> {
        let life = match rows.head()? {
            None => None,
            Some(head) => Some(Life::recall(now, head, rows, limits, nonce)?),
        };
        Ok(Self {
            alarm_at: life.as_ref().and_then(|life| life.head.alarm_at),
            alarm_came: None,
            chores: chores::Chores::recall(life.as_ref().map(|life| &life.head), rows)?,
            is_told: false,
            limits: limits.clone(),
            nonce,
            created: 0,
            life,
        })
    }

    /// Takes one input and says in `turn` what is to be done.
    ///
    /// # Errors
    /// When the rows cannot be read. The step is void then: the instance must be dropped and its turn with it.
    pub fn step(
        &mut self,
        now: Millis,
        input: Input,
        rows: &impl Rows,
        turn: &mut Turn,
    ) -> Result<(), Unreadable> {
        match input {
            Input::Call { id, call } => {
                self.expire_if_due(now, rows, turn)?;
                let bodiless = call == Call::Metadata;
                let reply = self.call(now, call, rows, turn);
                turn.gated.push(gated(id, reply, bodiless)?);
            }
            Input::Continue { id, rest } => {
                self.expire_if_due(now, rows, turn)?;
                let reply = self.read_on(now, rest, rows);
                turn.gated.push(gated(id, reply, false)?);
            }
            Input::Gone { incarnation } => self.reader_gone(now, incarnation),
            Input::Alarm => self.alarm(now, rows, turn)?,
            Input::Stored { id, receipt } => self.stored(now, id, receipt, rows, turn)?,
            Input::Collected { flight, done } => self.collected(now, flight, done, turn),
            Input::Replied { flight, reply } => self.replied(now, flight, reply, turn),
        }
        self.settle(now, turn);
        Ok(())
    }

    /// How many producers this instance holds in memory: no more than there are rows in the open segment.
    #[must_use]
    pub fn producers_in_memory(&self) -> u64 {
        let writers = self.life.as_ref().and_then(|life| life.writers.as_ref());
        writers.map_or(0, producer::Writers::producers)
    }

    fn call(&mut self, now: Millis, call: Call, rows: &impl Rows, turn: &mut Turn) -> Result<Reply, Stop> {
        match call {
            Call::Create(create) => self.create(now, create, rows, turn).map(Reply::Answer),
            Call::Append(append) => self.append(now, append, rows, turn).map(Reply::Answer),
            Call::Metadata => self.metadata().map(Reply::Answer),
            Call::Read(read) => self.read(now, read, rows),
            Call::Delete(preconditions) => self.delete(now, &preconditions, rows, turn).map(Reply::Answer),
        }
    }

    /// The last act of every step: what is due is begun, the alarm follows from the state, and the head row is written at most
    /// once.
    fn settle(&mut self, now: Millis, turn: &mut Turn) {
        if let Some(life) = &mut self.life {
            life.store(now, &self.limits, turn);
        }
        self.chores.work(now, self.nonce, &self.limits, turn);
        self.arm(now, turn);
        let Some(life) = &mut self.life else {
            self.chores.tidy(turn);
            return;
        };
        match life.unsaved {
            Unsaved::Nothing => {}
            Unsaved::Changed => turn.writes.push(Write::UpdateHead(life.head.clone())),
            Unsaved::New => turn.writes.push(Write::InsertHead(life.head.clone())),
        }
        life.unsaved = Unsaved::Nothing;
    }

    /// The stream, if there is one.
    fn life(&mut self) -> Result<(&mut Life, &Limits), Stop> {
        match &mut self.life {
            Some(life) => Ok((life, &self.limits)),
            None => Err(Refusal::StreamNotFound.into()),
        }
    }
}

impl Life {
    fn new(now: Millis, about: About) -> Self {
        let head = Head {
            incarnation: about.incarnation,
            name: about.name,
            content_type: about.content_type,
            created_at: now,
            expiry: about.expiry,
            version: about.version,
            registered: about.registered,
            untold: Untold::default(),
            segment: 0,
            writable: true,
            stream_seq: None,
            touched_at: now,
            alarm_at: None,
            closed: None,
        };
        Self {
            format: content_type::format(&head.content_type),
            head,
            tail: Tail::default(),
            ending: Ending::Whole,
            used: expire::Used::at(now),
            sealed_units: 0,
            unstored: None,
            opens: true,
            writers: Some(producer::Writers::default()),
            unsaved: Unsaved::New,
        }
    }

    /// What a former instance has left behind.
    fn recall(
        now: Millis,
        head: Head,
        rows: &impl Rows,
        limits: &Limits,
        nonce: u64,
    ) -> Result<Self, Unreadable> {
        let table = HotTable::of(head.segment);
        let last = if head.writable {
            rows.at_or_before(table, RowKey::LAST)?
        } else {
            None
        };
        let tail = match last {
            None => Tail::default(),
            Some(row) => Tail {
                position: row.end(),
                bytes: row.bytes_through(),
                opened_at: rows.at_or_before(table, RowKey::at(0))?.map(|row| row.at),
            },
        };
        let sealed_units = match head.segment.checked_sub(1) {
            None => 0,
            Some(sealed) => rows.segment(sealed)?.ok_or_else(|| seal::missing(sealed))?.units,
        };
        Ok(Self {
            format: content_type::format(&head.content_type),
            used: expire::Used::recall(now, &head, last.map(|row| row.at), limits),
            sealed_units,
            unstored: seal::unstored(&head, nonce, rows, limits)?,
            opens: false,
            ending: if last.is_none() && head.segment == 0 {
                Ending::Whole
            } else {
                Ending::Unknown
            },
            head,
            tail,
            writers: None,
            unsaved: Unsaved::Nothing,
        })
    }

    /// The tail offset (protocol 2). An offset is named by the content before it: until something is appended to the open segment,
    /// the tail is the end of the segment before, so that sealing changes no name.
    const fn tail(&self) -> Offset {
        match (self.tail.position, self.head.segment.checked_sub(1)) {
            (0, Some(sealed)) => Offset::new(sealed, self.sealed_units),
            (position, _) => Offset::new(self.head.segment, position),
        }
    }

    /// Whether an offset names the tail, by either of its names.
    fn is_tail(&self, offset: Offset) -> bool {
        offset == self.tail() || offset == Offset::new(self.head.segment, self.tail.position)
    }

    const fn is_closed(&self) -> bool {
        self.head.closed.is_some()
    }

    fn save(&mut self) {
        if self.unsaved == Unsaved::Nothing {
            self.unsaved = Unsaved::Changed;
        }
    }
}

/// Different for each creation by each instance.
const fn incarnation(nonce: u64, created: u64) -> Incarnation {
    Incarnation(mix(nonce ^ mix(created)))
}
