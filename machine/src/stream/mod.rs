//! One stream's logic, one module per behaviour.

mod append;
mod close;
mod create;
mod delete;
mod expire;
pub(crate) mod live;
mod metadata;
mod producer;
mod read;

use crate::rows::{Expiry, Head, HotTable, Incarnation, RowKey, Rows, Unreadable, Write};
use crate::wire::cursor::mix;
use crate::wire::request::Call;
use crate::wire::{Format, content_type};
use crate::{Answer, Gated, Input, Limits, Line, Millis, Offset, Refusal, Turn};

/// An instance of a stream: what it remembers beyond its rows, all of which a new instance can find again.
#[derive(Clone, Debug)]
pub struct Stream {
    limits: Limits,
    /// This instance's share of entropy, from the shell.
    nonce: u64,
    /// How many streams this instance has created, so that each gets an incarnation of its own.
    created: u64,
    life: Option<Life>,
}

/// A stream that exists.
#[derive(Clone, Debug)]
struct Life {
    head: Head,
    format: Format,
    tail: Tail,
    used: expire::Used,
    /// For when the alarm was set that this step is about.
    alarm_came: Option<Millis>,
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

impl Stream {
    /// A new instance over stored rows. `nonce` must differ from instance to instance.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub fn wake(now: Millis, rows: &impl Rows, limits: &Limits, nonce: u64) -> Result<Self, Unreadable> {
        let life = match rows.head()? {
            None => None,
            Some(head) => Some(Life::recall(now, head, rows, limits)?),
        };
        Ok(Self {
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
                let gated = match self.call(now, call, rows, turn) {
                    Ok(Reply::Answer(answer)) => Gated::Answer { call: id, answer },
                    Ok(Reply::Attach(line)) => Gated::Attach { call: id, line },
                    Err(Stop::Refused(refusal)) => {
                        let answer = Answer::refusal(&refusal);
                        Gated::Answer {
                            call: id,
                            answer: if bodiless { answer.without_body() } else { answer },
                        }
                    }
                    Err(Stop::Unreadable(unreadable)) => return Err(unreadable),
                };
                turn.gated.push(gated);
            }
            Input::Gone { incarnation } => self.reader_gone(now, incarnation),
            Input::Alarm => self.alarm(now, rows, turn)?,
        }
        self.settle(now, turn);
        Ok(())
    }

    fn call(&mut self, now: Millis, call: Call, rows: &impl Rows, turn: &mut Turn) -> Result<Reply, Stop> {
        match call {
            Call::Create(create) => self.create(now, create, turn).map(Reply::Answer),
            Call::Append(append) => self.append(now, append, rows, turn).map(Reply::Answer),
            Call::Metadata => self.metadata().map(Reply::Answer),
            Call::Read(read) => self.read(now, read, rows),
            Call::Delete => self.delete(turn).map(Reply::Answer),
        }
    }

    /// The last act of every step: the alarm follows from the state, and the head row is written at most once.
    fn settle(&mut self, now: Millis, turn: &mut Turn) {
        let Some(life) = &mut self.life else { return };
        life.arm(now, &self.limits, turn);
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
    fn new(now: Millis, incarnation: Incarnation, content_type: String, expiry: Expiry) -> Self {
        let head = Head {
            incarnation,
            content_type,
            created_at: now,
            expiry,
            segment: 0,
            hot: HotTable::A,
            touched_at: now,
            alarm_at: None,
            closed: None,
        };
        Self {
            format: content_type::format(&head.content_type),
            head,
            tail: Tail::default(),
            used: expire::Used::at(now),
            alarm_came: None,
            writers: Some(producer::Writers::default()),
            unsaved: Unsaved::New,
        }
    }

    /// What a former instance has left behind.
    fn recall(now: Millis, head: Head, rows: &impl Rows, limits: &Limits) -> Result<Self, Unreadable> {
        let last = rows.at_or_before(head.hot, RowKey::LAST)?;
        let tail = last.map_or_else(Tail::default, |row| Tail {
            position: row.end(),
            bytes: row.bytes_through(),
        });
        Ok(Self {
            format: content_type::format(&head.content_type),
            alarm_came: None,
            used: expire::Used::recall(now, &head, last.map(|row| row.at), limits),
            head,
            tail,
            writers: None,
            unsaved: Unsaved::Nothing,
        })
    }

    /// The tail offset (protocol 2).
    const fn tail(&self) -> Offset {
        Offset::new(self.head.segment, self.tail.position)
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
