//! The Durable Streams state machine.
//!
//! [`Stream`] holds one stream's logic and nothing else: no async, no clock, no entropy, no I/O. A
//! shell hands it one [`Input`] at a time, together with its [`Context`]: the time, the
//! [`Storage`], and the subscribers. It carries out the [`Turn`] that comes back. The reader's side
//! of a live read is a second, smaller machine, [`live_reader::LiveReader`].
//!
//! # The executor's contract
//!
//! 1. One input at a time; a step runs to completion.
//! 2. `writes` and `alarm` of a turn are applied in one transaction before anything of that turn
//!    leaves.
//! 3. `after_commit` effects leave in order, each only after its turn is durable, or never.
//! 4. The `live` broadcast leaves only when its turn is durable.
//! 5. [`Input::SubscriberLeft`], [`Input::PutFinished`], [`Input::CollectFinished`] and
//!    [`Input::CallFinished`] may come late, or never after a restart.
//! 6. The ends of effects of an earlier instance are not reported to a later one. The effects may
//!    still happen in the cold tier, at the registry or in the index.
//! 7. The alarm may come twice, late, early, or not at all. When the turn of an alarm fails, the
//!    shell delivers that alarm again after a pause. The platform of the Worker does this by
//!    itself; on one machine the pause is a bound of the server. This is the only thing that a
//!    shell tries again.
//! 8. The rows that the plan of an answer names are fetched in its turn ([`plan::Plan::begin`]).
//!    If the plan has a rest, the shell asks for the next page with [`Input::Continue`] once the
//!    client has taken this one. Only the last page completes the body.
//! 9. When a step or the transaction fails, the shell drops the [`Stream`] and wakes a new one from
//!    the rows.
//! 10. A put ([`segment::Put`]) has `time_ms` to end. Then the machine begins another attempt under
//!     another key, and does not wait for the earlier one. The shell may abandon a put after that
//!     time, or let it go on and report its outcome.
//! 11. The shell decides nothing: no protocol rule, no default and, except for 7, no retry lives in
//!     a shell.
#![forbid(unsafe_code)]

mod backoff;
pub mod frames;
pub mod limits;
pub mod live_reader;
pub mod offset;
pub mod outbox;
pub mod plan;
pub mod refusal;
pub mod router;
pub mod segment;
pub mod storage;
mod stream;
pub mod table;
pub mod wire;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use limits::Limits;
pub use offset::Offset;
pub use refusal::Refusal;
pub use storage::rows::{self, Write};
pub use storage::sql;
pub use storage::{Storage, StorageError};
pub use stream::Stream;
pub use wire::answer::Answer;
pub use wire::request::Call;

/// Wall time in milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// Returns the time `milliseconds` later, or the end of time if that is beyond it.
    #[must_use]
    pub const fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

/// Names one call in flight; chosen by the shell, unique within an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Names one call of another object, one collection or one change of the index, within an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(pub u64);

/// How a call of another object ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The object answered with this status.
    Status(u16),
    /// The call failed, or its outcome is unknown.
    Failed,
}

/// What a step may ask, beside its input.
pub struct Context<'a> {
    pub now: Millis,
    /// The rows as of the beginning of the step.
    pub storage: &'a dyn Storage,
    /// Counts the readers that are attached at the tail of an incarnation. Asked only when a TTL
    /// has run out.
    pub subscribers: &'a dyn Fn(rows::Incarnation) -> Result<u64, StorageError>,
}

/// What can happen to a stream.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client's request, parsed by [`wire::request`].
    Call { id: CallId, call: Call },
    /// The next page of an answer is wanted. The machine answers with a plan. If the stream of the
    /// answer no longer exists, it answers with a refusal, and the shell breaks the response off.
    Continue { id: CallId, rest: plan::Rest },
    /// A reader that was attached at the tail of this incarnation has left.
    SubscriberLeft { incarnation: rows::Incarnation },
    /// The alarm of an earlier [`Turn`] has come due.
    Alarm,
    /// An [`Effect::Put`] has ended. It carries the encoder's receipt if the object is known to be
    /// stored.
    PutFinished {
        id: segment::PutId,
        receipt: Option<segment::Receipt>,
    },
    /// An [`Effect::Collect`] has ended: whether all of its objects are known to be deleted.
    CollectFinished { effect: EffectId, done: bool },
    /// An [`Effect::Call`] has ended.
    CallFinished {
        effect: EffectId,
        outcome: CallOutcome,
    },
    /// An [`Effect::Index`] has ended: whether all of its statements are known to be executed.
    IndexFinished { effect: EffectId, done: bool },
}

/// What a turn does with the stream's alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlarmChange {
    /// Leaves it as it is.
    #[default]
    Keep,
    /// Sets it for this time, in place of the one that is set.
    Set(Millis),
    /// Removes it.
    Clear,
}

/// What one step asks of the shell, grouped by what must happen before what.
#[must_use]
#[derive(Debug, Default)]
pub struct Turn {
    /// Rows to write, at once and in one transaction.
    pub writes: Vec<Write>,
    /// What happens to the alarm, in that same transaction.
    pub alarm: AlarmChange,
    /// What leaves once the transaction is durable.
    pub after_commit: Vec<Effect>,
    /// One broadcast to the readers at the tail.
    pub broadcast: Option<Broadcast>,
}

impl Turn {
    /// Returns whether the writes and the alarm need a transaction. A single statement is one by
    /// itself.
    #[must_use]
    pub fn needs_transaction(&self) -> bool {
        let single = matches!(
            self.writes.as_slice(),
            [] | [Write::InsertStream(_) | Write::UpdateStream(_) | Write::InsertHot { .. }]
        );
        !single || self.alarm != AlarmChange::Keep
    }
}

/// An effect that leaves only after its turn is durable.
#[derive(Debug)]
pub enum Effect {
    /// Answer a call.
    Answer { call: CallId, answer: Answer },
    /// Attach the caller as a subscriber. From now on it gets each [`Turn::broadcast`], until it
    /// leaves.
    Attach {
        call: CallId,
        subscriber: Subscriber,
    },
    /// Store a segment in the cold tier, in the background, and report with [`Input::PutFinished`].
    Put(segment::Put),
    /// Delete these objects of the cold tier, including those that do not exist, and report with
    /// [`Input::CollectFinished`].
    Collect { effect: EffectId, keys: Vec<String> },
    /// Send a request to the object of the stream `to`, and report with [`Input::CallFinished`].
    Call {
        effect: EffectId,
        to: String,
        request: outbox::Request,
    },
    /// Execute statements on the admin index, in order and in one transaction, and report with
    /// [`Input::IndexFinished`].
    Index {
        effect: EffectId,
        statements: Vec<outbox::Statement>,
    },
}

/// What kind of live read a reader at the tail waits in (protocol 5.7, 5.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    LongPoll,
    Sse,
}

/// A reader at the tail. Class and incarnation are all that the shell must remember of it.
#[derive(Debug)]
pub struct Subscriber {
    pub class: Class,
    pub incarnation: rows::Incarnation,
    /// The head for the reader's side.
    pub head: live_reader::LiveHead,
    /// The response for the client of the reader's side: the head of the event stream, or the
    /// answer of a long-poll that times out. It carries `head`, too, in
    /// [`wire::internal_headers::LIVE_HEAD`].
    pub answer: Answer,
}

/// What a turn sends to every subscriber of this incarnation.
#[derive(Clone, Debug)]
pub struct Broadcast {
    pub incarnation: rows::Incarnation,
    /// The tail before this turn.
    pub from: Offset,
    /// The tail after it.
    pub next: Offset,
    /// Set if nothing follows.
    pub end: Option<StreamEnd>,
    /// What was appended, framed (see [`plan`]). `None` if it is too large to push. Readers then
    /// fetch it as a page.
    pub(crate) frames: Option<Bytes>,
    /// Whether the appended text can be shown without the text before it. Only used for text
    /// events.
    pub(crate) stands_alone: bool,
    pub(crate) format: wire::Format,
    pub(crate) content_type: String,
    pub(crate) cursor: u64,
}

impl Broadcast {
    /// Returns the one message for all subscribers of a class; see [`live_reader::Frame`].
    ///
    /// # Errors
    /// Never, for frames that the machine has made itself.
    pub fn message(&self, class: Class) -> Result<Vec<u8>, plan::CorruptionError> {
        stream::live::message(self, class)
    }
}

/// Why subscribers get nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamEnd {
    /// The stream was closed: `next` is its final offset (protocol 4.1).
    Closed,
    /// The stream was deleted or has expired (protocol 5.4).
    Deleted,
}
