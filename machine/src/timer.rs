//! The timers of a stream: when it needs a step without a request, and why.

use core::fmt;

use crate::Millis;

/// Why a stream needs a step without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerReason {
    /// The stream expires (protocol 5.1).
    Expiry,
    /// The open segment becomes old enough to be sealed.
    SegmentAge,
    /// The next attempt to store a sealed segment begins.
    Put,
    /// A task of the outbox starts.
    Task,
    /// A running effect of the outbox counts as lost.
    Reply,
    /// The creation of a fork has taken too long.
    Fork,
    /// A stored queue of the outbox gets its turn in memory.
    Rotation,
}

/// One entry of the table: the stream needs a step at this time or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// What the step is for.
    pub reason: TimerReason,
    /// When it is due.
    pub at: Millis,
}

/// At most one timer for each reason.
pub(crate) type Timers<const COUNT: usize> = [Option<Timer>; COUNT];

impl TimerReason {
    pub(crate) fn at(self, at: Option<Millis>) -> Option<Timer> {
        at.map(|at| Timer { reason: self, at })
    }
}

impl fmt::Display for TimerReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Expiry => "expiry",
            Self::SegmentAge => "segment-age",
            Self::Put => "put",
            Self::Task => "task",
            Self::Reply => "reply",
            Self::Fork => "fork",
            Self::Rotation => "rotation",
        })
    }
}
