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
//! 4. The `broadcast` leaves only when its turn is durable.
//! 5. [`Input::SubscriberLeft`], [`Input::PutFinished`], [`Input::CollectFinished`],
//!    [`Input::IndexFinished`], [`Input::EnqueueFinished`] and [`Input::CallFinished`] may come
//!    late, or never after a restart.
//! 6. The ends of effects of an earlier instance are not reported to a later one. The effects may
//!    still happen in the cold tier, at the registry or in the index.
//! 7. The alarm may come twice, late, early, or not at all. When the turn of an alarm fails, the
//!    shell delivers that alarm again after a pause. The platform of the Worker does this by
//!    itself; on one machine the pause is a bound of the server. This is the only thing that a
//!    shell tries again. A shell that reports the end of every call may forget the alarm of a
//!    stream without rows.
//! 8. The rows that the plan of an answer names are fetched in its turn ([`Plan::begin`]).
//!    If the plan has a rest, the shell asks for the next page with [`Input::Continue`] once the
//!    client has taken this one. Only the last page completes the body.
//! 9. When a step or the transaction fails, the shell drops the [`Stream`] and loads a new one from
//!    the rows.
//! 10. A put ([`segment::Put`]) has `time_ms` to end. Then the machine begins another attempt under
//!     another key, and does not wait for the earlier one. The shell may abandon a put after that
//!     time, or let it go on and report its outcome.
//! 11. An [`AppendQueue`] decides which calls run at once and which appends wait for a commit, and
//!     which share a turn. The shell tells it when a turn with appends has ended
//!     ([`AppendQueue::turn_ended`]) and when its commit has ([`AppendQueue::commit_ended`]), and
//!     runs what it gives out. It ends with the object. A shell that commits the turns of many
//!     inputs at once needs none: [`Input::shares_turn_with`] says which of the inputs that wait
//!     it hands over together, and the appends in [`Turn::deferred`] come before all others.
//! 12. The shell writes the [`Turn::events`] once the turn is durable, and may lose them. Nothing
//!     waits for them.
//! 13. The shell decides nothing: no protocol rule, no default and, except for 7, no retry lives in
//!     a shell.
//!
//! # One turn
//!
//! ```
//! use std::sync::Arc;
//!
//! use machine::wire::request::{self, Parsed, RequestHead};
//! use machine::{AlarmChange, CallId, Context, Effect, Input, Limits, MemoryRows, Millis};
//! use machine::{StorageError, Stream};
//!
//! fn main() -> Result<(), StorageError> {
//!     let (limits, now) = (Arc::new(Limits::DEFAULT), Millis(1_800_000_000_000));
//!     let mut rows = MemoryRows::default();
//!     let mut stream = Stream::load(now, &rows, &limits, 7)?;
//!
//!     // The router resolves a request's path; the object's side parses the rest.
//!     let header = |_name: &str| None;
//!     let target = "/v1/stream/log";
//!     let (method, origin) = ("GET", "http://localhost");
//!     let head = RequestHead { method, origin, target, header: &header };
//!     let Ok(Parsed::Whole(call)) = request::parse(head, &limits) else { unreachable!() };
//!
//!     let subscribers = |_incarnation| Ok(0);
//!     let entropy = || [0; 32];
//!     let context = Context {
//!         now,
//!         storage: &rows,
//!         subscribers: &subscribers,
//!         entropy: &entropy,
//!     };
//!     let turn = stream.step(&context, Input::Call { id: CallId(0), call })?;
//!
//!     // First the rows and the alarm, in one transaction; then the effects.
//!     assert!(turn.writes.is_empty() && turn.alarm == AlarmChange::Keep);
//!     for write in &turn.writes {
//!         rows.apply(write).map_err(StorageError)?;
//!     }
//!     for effect in turn.after_commit {
//!         let Effect::Answer { answer, .. } = effect else { unreachable!() };
//!         assert_eq!(answer.status, 404);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! `examples/minimal_shell.rs` is a whole shell: it creates a stream, appends to it and reads it.
//!
//! # The public face
//!
//! The modules are private, and callers import types from here. A module is public if its items
//! would be unclear without its name: [`admin`] and [`fanout`] are APIs of their own,
//! [`live_reader`] has an `Input` and an `Effect` too, [`outbox`] and [`sql`] have a `Value` each,
//! and [`router`], [`segment`], [`wire`] and [`sql`] have functions such as [`segment::key`].
//! [`rows`] is the schema of the stored rows, and [`table`] describes settings for programs that
//! print or read them.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod admin;
mod append_queue;
mod backoff;
mod control;
mod event;
pub mod fanout;
mod frames;
mod limits;
pub mod live_reader;
mod manifest;
mod object;
mod offset;
pub mod outbox;
mod plan;
mod refusal;
pub mod router;
pub mod segment;
mod storage;
mod stream;
mod subscription;
pub mod table;
mod timer;
mod turn;
mod varint;
pub mod wire;
mod words;

pub use append_queue::{AppendQueue, Arrival};
pub use event::{Event, EventKind, Events};
pub use frames::Frames;
pub use limits::Limits;
pub use object::{ControlObject, Object};
pub use offset::{Offset, OffsetError};
pub use plan::{
    BodyWriter, ColdPart, CorruptionError, Fetch, HotPart, Lead, Part, Plan, PlanHead, Rest, Shape,
    Span,
};
pub use refusal::{Present, Refusal};
#[cfg(feature = "memory")]
pub use storage::MemoryRows;
pub use storage::rows::{self, Write};
pub use storage::sql;
pub use storage::{Guarded, Storage, StorageError};
pub use stream::Stream;
pub use subscription::signing::SigningSeed;
pub use subscription::webhook_url::may_connect;
pub use timer::{Timer, TimerReason};
pub use turn::{
    AlarmChange, Appended, Broadcast, CallId, CallOutcome, Class, Context, Effect, EffectId, Input,
    Millis, StreamEnd, Subscriber, Turn, Webhook,
};
pub use wire::answer::{Answer, Body};
pub use wire::control::{ControlCall, LinkCall};
pub use wire::fork::{ForkCall, ForkRequest};
pub use wire::request::{Append, Call};
