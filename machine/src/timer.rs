//! The timers of a stream: when it needs a step without a request, and why.

use core::fmt;

use crate::{Limits, Millis};

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
    /// A subscription may not know of the tail of a stream.
    Link,
    /// A client of a subscription has waited for too long, or a call that is no task counts as
    /// lost.
    Answer,
    /// The lease of a wake ends (protocol 7.3).
    Lease,
    /// A webhook is delivered, or its key is fetched.
    Attempt,
    /// A deleted subscription, or an expired session, is forgotten.
    Tombstone,
    /// A session may not have what was appended to a stream.
    Delivery,
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

/// Returns the time to set the alarm for, if it must be set: when none is set, when it must come
/// earlier, or when it seems to be lost. It is never moved later, because an alarm that comes early
/// finds nothing due and is set anew. `set` is the alarm that is set, and `fired` the one that the
/// step handles.
pub(crate) fn alarm_for(
    set: Option<Millis>,
    timer: Timer,
    fired: Option<Millis>,
    now: Millis,
    limits: &Limits,
) -> Option<Millis> {
    let wanted = timer.at;
    let set = set.filter(|at| at.plus(limits.alarm_grace_ms) >= now);
    // The platform's clock may be ahead of ours. An alarm for a time that has already passed on its
    // clock would fire at once, in a loop. An alarm that fired long before its time tells nothing
    // about the clocks.
    let ahead = now.plus(limits.clock_skew_ms_max);
    let fired = fired.filter(|fired| wanted <= *fired && *fired <= ahead);
    let passed = fired.map_or(now, |fired| fired.max(now));
    let at = wanted.max(passed.plus(limits.alarm_delay_ms_min));
    if set.is_some_and(|set| set <= at) {
        return None;
    }
    assert!(
        at >= now.plus(limits.alarm_delay_ms_min),
        "an alarm leaves time for other work"
    );
    assert!(at >= wanted, "an alarm does not come before its timer");
    Some(at)
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
            Self::Link => "link",
            Self::Answer => "answer",
            Self::Lease => "lease",
            Self::Attempt => "attempt",
            Self::Tombstone => "tombstone",
            Self::Delivery => "delivery",
        })
    }
}
