//! An object of the platform: a stream, or what is below `__ds`.

use std::sync::Arc;

use crate::control::{Control, has_head};
use crate::storage::rows::Write;
use crate::wire::request::Call;
use crate::{
    Context, Input, Limits, Millis, Storage, StorageError, Stream, Timer, TimerReason, Turn,
};

/// What lives in one object. It is known by its rows. Without rows, the first call decides.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all objects are streams")]
pub enum Object {
    /// A stream, or nothing.
    Stream(Stream),
    /// An object below `__ds` (protocol 6).
    Control(ControlObject),
}

/// An object below `__ds`: a subscription, a shard of the directory, or the keys.
#[derive(Clone, Debug)]
pub struct ControlObject(Control);

impl Object {
    /// Returns what brings older rows to the present layout; see [`Stream::upgrade`].
    ///
    /// # Errors
    /// When the rows cannot be read, or newer code wrote them.
    pub fn upgrade(now: Millis, rows: &dyn Storage) -> Result<Option<Write>, StorageError> {
        Stream::upgrade(now, rows)
    }

    /// Creates an instance over stored rows; see [`Stream::load`].
    ///
    /// # Errors
    /// When the rows cannot be read, or are not in the present layout.
    pub fn load(
        now: Millis,
        rows: &dyn Storage,
        limits: &Arc<Limits>,
        instance_seed: u64,
    ) -> Result<Self, StorageError> {
        let layout = rows.layout()?;
        let is_present = layout.schemas().all(|(schema, known)| schema == known);
        if is_present && has_head(&layout, rows)? {
            limits.check();
            let control = Control::recall(&layout, rows, limits, instance_seed)?;
            return Ok(Self::Control(ControlObject(control)));
        }
        Stream::load(now, rows, limits, instance_seed).map(Self::Stream)
    }

    /// Processes one input; see [`Stream::step`].
    ///
    /// # Errors
    /// When the rows cannot be read. The step is void then.
    pub fn step(&mut self, context: &Context<'_>, input: Input) -> Result<Turn, StorageError> {
        if let Self::Stream(stream) = self
            && let Input::Call { call, .. } = &input
            && let Call::Control(_) = call
        {
            let control = stream.become_control(call);
            *self = Self::Control(ControlObject(control));
        }
        match self {
            Self::Stream(stream) => stream.step(context, input),
            Self::Control(ControlObject(control)) => control.step(context, input),
        }
    }

    /// Returns the stream, if it is one.
    #[must_use]
    pub const fn stream(&self) -> Option<&Stream> {
        match self {
            Self::Stream(stream) => Some(stream),
            Self::Control(_) => None,
        }
    }

    /// Returns the table of timers. The alarm is never later than the earliest of them.
    #[must_use]
    pub fn timers(&self) -> Vec<Timer> {
        match self {
            Self::Stream(stream) => stream.timers().collect(),
            Self::Control(ControlObject(control)) => control.timers().collect(),
        }
    }

    /// Returns why the alarm is set. `None` if there is no alarm, or a former instance has set it.
    #[must_use]
    pub fn alarm_reason(&self) -> Option<TimerReason> {
        match self {
            Self::Stream(stream) => stream.alarm_reason(),
            Self::Control(ControlObject(control)) => control.alarm_reason(),
        }
    }
}
