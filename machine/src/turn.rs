//! The input and the result of a step: inputs, the turn, and its effects.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::outbox;
use crate::plan::{CorruptionError, Rest};
use crate::segment;
use crate::storage::rows::Write;
use crate::storage::{Storage, StorageError, rows};
use crate::wire::{
    self,
    answer::Answer,
    fork::ForkCall,
    request::{Append, Call},
};
use crate::{Events, Offset, live_reader, stream};

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

/// Names one call of another object, one collection, one change of the index or one batch of
/// messages, within an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(pub u64);

/// How a call of another object ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The object answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The whole body.
        body: Bytes,
    },
    /// The call failed, or its outcome is unknown.
    Failed,
}

/// What a step may ask, beside its input.
pub struct Context<'a> {
    /// The time of the step.
    pub now: Millis,
    /// The rows as of the beginning of the step.
    pub storage: &'a dyn Storage,
    /// Counts the readers that are attached at the tail of an incarnation. Asked only when a TTL
    /// has run out.
    pub subscribers: &'a dyn Fn(rows::Incarnation) -> Result<u64, StorageError>,
    /// Returns random bytes that nobody can guess, and that differ each time. Asked only when a
    /// subscription or a key is created.
    pub entropy: &'a dyn Fn() -> [u8; 32],
}

/// What can happen to a stream.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client's request, parsed by [`wire::request`]. Its answer comes in this turn, or, if it
    /// forks a stream or is a call of a fork, in a later one.
    Call {
        /// Names the call in its answer.
        id: CallId,
        /// The request.
        call: Call,
    },
    /// Appends that waited for a commit, in order of arrival; see [`crate::AppendQueue`]. Each is
    /// answered as if it came alone. Those that the step leaves out are in [`Turn::deferred`].
    Appends(Vec<(CallId, Append)>),
    /// The next page of an answer is wanted. The machine answers with a plan. If the stream of the
    /// answer no longer exists, it answers with a refusal, and the shell breaks the response off.
    Continue {
        /// Names the call in its answer.
        id: CallId,
        /// The part of the answer that is still to be sent.
        rest: Rest,
    },
    /// A reader that was attached at the tail of this incarnation has left.
    SubscriberLeft {
        /// The incarnation that the reader was attached to.
        incarnation: rows::Incarnation,
    },
    /// The alarm of an earlier [`Turn`] has come due.
    Alarm,
    /// An [`Effect::Put`] has ended. It carries the encoder's receipt if the object is known to be
    /// stored.
    PutFinished {
        /// The attempt that has ended.
        id: segment::PutId,
        /// The encoder's receipt, if the object is known to be stored.
        receipt: Option<segment::Receipt>,
    },
    /// An [`Effect::Collect`] has ended: whether all of its objects are known to be deleted.
    CollectFinished {
        /// The collection.
        effect: EffectId,
        /// Whether all objects are known to be deleted.
        done: bool,
    },
    /// An [`Effect::Call`] or an [`Effect::Webhook`] has ended.
    CallFinished {
        /// The call.
        effect: EffectId,
        /// How it ended.
        outcome: CallOutcome,
    },
    /// An [`Effect::Index`] has ended: whether all of its statements are known to be executed.
    IndexFinished {
        /// The change of the index.
        effect: EffectId,
        /// Whether all statements are known to be executed.
        done: bool,
    },
    /// An [`Effect::Enqueue`] has ended: whether the queue is known to have all messages.
    EnqueueFinished {
        /// The effect.
        effect: EffectId,
        /// Whether the queue is known to have all messages.
        done: bool,
    },
}

impl Input {
    /// Returns the calls that it has, in order.
    pub fn calls(&self) -> impl Iterator<Item = CallId> {
        let (single, several) = match self {
            Self::Call { id, .. } | Self::Continue { id, .. } => (Some(*id), &[][..]),
            Self::Appends(appends) => (None, appends.as_slice()),
            Self::SubscriberLeft { .. }
            | Self::Alarm
            | Self::PutFinished { .. }
            | Self::CollectFinished { .. }
            | Self::CallFinished { .. }
            | Self::IndexFinished { .. }
            | Self::EnqueueFinished { .. } => (None, &[][..]),
        };
        single.into_iter().chain(several.iter().map(|(id, _)| *id))
    }

    /// Returns whether it asks for what is stored, and changes nothing. Its turn may still write: a
    /// use of a stream with a TTL is stored, and an expired stream is removed.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        match self {
            Self::Call {
                call: Call::Admin(call),
                ..
            } => call.only_reads(),
            Self::Call {
                call: Call::Control(call),
                ..
            } => call.only_reads(),
            Self::Call {
                call: Call::Session(call),
                ..
            } => call.only_reads(),
            Self::Continue { .. }
            | Self::Call {
                call:
                    Call::Metadata
                    | Call::Read(_)
                    | Call::Fork(ForkCall::Describe { .. } | ForkCall::Bound { .. }),
                ..
            } => true,
            Self::Call {
                call: Call::Create(_) | Call::Append(_) | Call::Delete(_) | Call::Fork(_),
                ..
            }
            | Self::Call {
                call: Call::Link(_),
                ..
            }
            | Self::Appends(_)
            | Self::SubscriberLeft { .. }
            | Self::Alarm
            | Self::PutFinished { .. }
            | Self::CollectFinished { .. }
            | Self::CallFinished { .. }
            | Self::IndexFinished { .. }
            | Self::EnqueueFinished { .. } => false,
        }
    }

    /// Returns whether it runs appends, so that others wait for its commit; see
    /// [`crate::AppendQueue`].
    #[must_use]
    pub const fn has_appends(&self) -> bool {
        matches!(
            self,
            Self::Appends(_)
                | Self::Call {
                    call: Call::Append(_),
                    ..
                }
        )
    }
}

/// The change of the stream's alarm.
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

/// The result of a step, for the shell to carry out in the order that the contract requires.
#[must_use]
#[derive(Debug, Default)]
pub struct Turn {
    /// Rows to write, at once and in one transaction.
    pub writes: Vec<Write>,
    /// The change of the alarm, in that same transaction.
    pub alarm: AlarmChange,
    /// Effects that leave once the transaction is durable.
    pub after_commit: Vec<Effect>,
    /// One broadcast to the subscribers.
    pub broadcast: Option<Broadcast>,
    /// What the turn has appended to the stream.
    pub appended: Appended,
    /// What operators count of the turn. Empty unless [`crate::Limits::metrics`] is set.
    pub events: Events,
    /// Appends that the step left out, because a segment was sealed before them. They come first in
    /// the next step.
    pub deferred: Vec<(CallId, Append)>,
}

/// How much was appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Messages of a JSON stream, appends of any other.
    pub messages: u64,
    /// Their bytes, without framing.
    pub bytes: u64,
}

impl core::ops::AddAssign for Appended {
    fn add_assign(&mut self, more: Self) {
        self.messages += more.messages;
        self.bytes += more.bytes;
    }
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
    Answer {
        /// The call to answer.
        call: CallId,
        /// The response.
        answer: Answer,
    },
    /// Attach the caller as a subscriber. From now on it gets each [`Turn::broadcast`], until it
    /// leaves.
    Attach {
        /// The call that attaches the reader.
        call: CallId,
        /// The reader.
        subscriber: Subscriber,
    },
    /// Store a segment in the cold tier, in the background, and report with [`Input::PutFinished`].
    Put(segment::Put),
    /// Delete these objects of the cold tier, including those that do not exist, and report with
    /// [`Input::CollectFinished`].
    Collect {
        /// Names the collection in its report.
        effect: EffectId,
        /// The keys of the objects.
        keys: Vec<String>,
    },
    /// Send a request to the object of the stream `to`, and report with [`Input::CallFinished`].
    Call {
        /// Names the call in its report.
        effect: EffectId,
        /// The canonical name of the other stream.
        to: String,
        /// The request.
        request: outbox::Request,
    },
    /// Execute statements on the admin index, in order and in one transaction, and report with
    /// [`Input::IndexFinished`].
    Index {
        /// Names the change in its report.
        effect: EffectId,
        /// The statements, in order.
        statements: Vec<outbox::Statement>,
    },
    /// Send these messages to the fan-out queue at once, and report with
    /// [`Input::EnqueueFinished`]. Its consumer runs a [`Delivery`](crate::fanout::Delivery) for
    /// each of them. Only if [`crate::Limits::fanout_queue`] is set.
    Enqueue {
        /// Names the effect in its report.
        effect: EffectId,
        /// The bodies of the messages.
        messages: Vec<String>,
    },
    /// Send a webhook in the background, and report with [`Input::CallFinished`].
    Webhook {
        /// Names the request in its report.
        effect: EffectId,
        /// The request.
        webhook: Webhook,
    },
}

/// A POST to a receiver outside (protocol 7.1). The shell follows no redirect, gives up after
/// `time_ms`, and reads no more than `answer_bytes_max` of the answer. A shell that resolves the
/// host itself asks [`may_connect`](crate::may_connect) about each address, and connects to one
/// that it has checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where to send it.
    pub url: String,
    /// Names and values, in order.
    pub headers: Vec<(&'static str, String)>,
    /// The whole body.
    pub body: String,
    /// The time limit of the whole request.
    pub time_ms: u64,
    /// Bytes of the answer that matter. A longer answer counts as one without a body.
    pub answer_bytes_max: u64,
}

/// The kind of a live read (protocol 5.7, 5.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// One answer when something is appended (protocol 5.7).
    LongPoll,
    /// A stream of events (protocol 5.8).
    Sse,
}

/// A reader at the tail. Class and incarnation are all that the shell must remember of it.
#[derive(Debug)]
pub struct Subscriber {
    /// The kind of live read.
    pub class: Class,
    /// The incarnation that the reader follows.
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
    /// The incarnation whose subscribers get it.
    pub incarnation: rows::Incarnation,
    /// The tail before this turn.
    pub from: Offset,
    /// The tail after it.
    pub next: Offset,
    /// Set if nothing follows.
    pub end: Option<StreamEnd>,
    /// What was appended, framed (see [`crate::plan`]), in pieces. `None` if it is too large to
    /// push. Readers then fetch it as a page.
    pub(crate) frames: Option<Vec<Bytes>>,
    /// Whether the appended text can be shown without the text before it. Only used for text
    /// events.
    pub(crate) stands_alone: bool,
    pub(crate) format: wire::Format,
    pub(crate) content_type: String,
    pub(crate) cursor: u64,
}

impl Broadcast {
    /// Returns the one message for all subscribers of a class; see [`live_reader::MessageHead`].
    ///
    /// # Errors
    /// Never, for frames that the machine has made itself.
    pub fn message(&self, class: Class) -> Result<Vec<u8>, CorruptionError> {
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
