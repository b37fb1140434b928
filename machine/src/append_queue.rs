//! The queue of appends: while commits are in flight, further appends wait, and the next turn takes
//! them together.

use std::collections::VecDeque;

use crate::wire::request::Append;
use crate::{Call, CallId, Input, Limits, Turn};

/// What a waiting append takes beside its body, in bytes: its headers, roughly.
const APPEND_OVERHEAD_BYTES: u64 = 512;

/// The appends of one object that wait, in order of arrival, and the commits that they wait for.
/// The shell asks it what to do with each call, and tells it when a commit begins and ends.
#[derive(Debug, Default)]
pub struct AppendQueue {
    waiting: VecDeque<(CallId, Append)>,
    /// Bytes of the appends that wait: their bodies, and the overhead of each.
    bytes: u64,
    commits_in_flight: u64,
}

/// What happens to a call that has arrived.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and most calls run"
)]
pub enum Arrival {
    /// It runs now.
    Runs(Input),
    /// It waits. [`AppendQueue::next`] gives it out later.
    Waits,
    /// Too much waits already. It is answered with [`crate::Answer::unavailable`].
    Refused,
}

impl AppendQueue {
    /// Takes a call. An append waits while as many commits are in flight as `Limits` allows, or
    /// behind others that wait. Every other call runs at once.
    pub fn arrive(&mut self, id: CallId, call: Call, limits: &Limits) -> Arrival {
        let append = match call {
            Call::Append(append) => append,
            call @ (Call::Create(_)
            | Call::Metadata
            | Call::Read(_)
            | Call::Delete(_)
            | Call::Fork(_)
            | Call::Admin(_)
            | Call::Link(_)
            | Call::Control(_)
            | Call::Session(_)) => {
                return Arrival::Runs(Input::Call { id, call });
            }
        };
        if self.waiting.is_empty() && self.has_room_for_commit(limits) {
            let call = Call::Append(append);
            return Arrival::Runs(Input::Call { id, call });
        }
        let bytes = self.bytes.saturating_add(cost(&append));
        let is_full = bytes > limits.waiting_bytes_max && !self.waiting.is_empty();
        if is_full {
            return Arrival::Refused;
        }
        self.bytes = bytes;
        self.waiting.push_back((id, append));
        Arrival::Waits
    }

    /// Notes that a turn with appends has ended. If it has written anything, its commit is in
    /// flight now. Appends that the turn left out wait again, before all others.
    pub fn turn_ended(&mut self, turn: &mut Turn) {
        if !turn.writes.is_empty() {
            self.commits_in_flight += 1;
        }
        for (id, append) in core::mem::take(&mut turn.deferred).into_iter().rev() {
            self.bytes += cost(&append);
            self.waiting.push_front((id, append));
        }
    }

    /// Returns how many commits of turns with appends are in flight.
    #[must_use]
    pub const fn commits_in_flight(&self) -> u64 {
        self.commits_in_flight
    }

    /// Notes that the commit of a turn with appends is durable, or has failed.
    pub fn commit_ended(&mut self) {
        assert!(self.commits_in_flight > 0, "a commit ends once");
        self.commits_in_flight -= 1;
    }

    /// Returns the appends of the next turn, if any wait and another commit may begin: at most
    /// `turn_calls_max`, and at most `turn_bytes_max` unless it is a single one.
    pub fn next(&mut self, limits: &Limits) -> Option<Input> {
        if self.waiting.is_empty() || !self.has_room_for_commit(limits) {
            return None;
        }
        let (mut appends, mut bytes) = (Vec::new(), 0);
        while let Some((_, append)) = self.waiting.front() {
            if !appends.is_empty() && !shares_turn(appends.len() as u64, bytes, append, limits) {
                break;
            }
            bytes += cost(append);
            appends.extend(self.waiting.pop_front());
        }
        assert!(bytes <= self.bytes, "every append was counted when it came");
        self.bytes -= bytes;
        Some(Input::Appends(appends))
    }

    const fn has_room_for_commit(&self, limits: &Limits) -> bool {
        self.commits_in_flight < limits.commits_in_flight_max
    }
}

impl Input {
    /// Returns whether an input that waits right behind this one runs in the same turn. A shell
    /// that commits many turns at once needs no [`AppendQueue`], and asks this instead.
    #[must_use]
    pub fn shares_turn_with(&self, next: &Self, limits: &Limits) -> bool {
        let Some(append) = next.single_append() else {
            return false;
        };
        let several = if let Self::Appends(appends) = self {
            appends.as_slice()
        } else {
            &[]
        };
        let (mut calls, mut bytes) = (0, 0);
        let several = several.iter().map(|(_, append)| append);
        for append in self.single_append().into_iter().chain(several) {
            calls += 1;
            bytes += cost(append);
        }
        calls > 0 && shares_turn(calls, bytes, append, limits)
    }

    /// Adds the input that waits right behind this one, because both share a turn.
    ///
    /// # Panics
    /// When one of them runs no appends.
    #[must_use]
    pub fn followed_by(self, next: Self) -> Self {
        let mut appends = self.into_appends();
        appends.extend(next.into_appends());
        Self::Appends(appends)
    }

    /// Returns the inputs that run appends one by one.
    pub fn one_by_one(appends: Vec<(CallId, Append)>) -> impl DoubleEndedIterator<Item = Self> {
        appends.into_iter().map(|(id, append)| {
            let call = Call::Append(append);
            Self::Call { id, call }
        })
    }

    const fn single_append(&self) -> Option<&Append> {
        if let Self::Call {
            call: Call::Append(append),
            ..
        } = self
        {
            Some(append)
        } else {
            None
        }
    }

    fn into_appends(self) -> Vec<(CallId, Append)> {
        match self {
            Self::Call {
                id,
                call: Call::Append(append),
            } => vec![(id, append)],
            Self::Appends(appends) => appends,
            Self::Call { .. }
            | Self::Continue { .. }
            | Self::SubscriberLeft { .. }
            | Self::Alarm
            | Self::PutFinished { .. }
            | Self::CollectFinished { .. }
            | Self::CallFinished { .. }
            | Self::IndexFinished { .. }
            | Self::EnqueueFinished { .. } => panic!("only appends share a turn"),
        }
    }
}

/// Returns whether a turn with so much has room for another append.
fn shares_turn(calls: u64, bytes: u64, next: &Append, limits: &Limits) -> bool {
    calls < limits.turn_calls_max && bytes + cost(next) <= limits.turn_bytes_max
}

fn cost(append: &Append) -> u64 {
    append.body.len() as u64 + APPEND_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Write;
    use crate::wire::request::Preconditions;

    const LIMITS: Limits = Limits {
        commits_in_flight_max: 1,
        turn_calls_max: 2,
        waiting_bytes_max: 3 * (APPEND_OVERHEAD_BYTES + 1),
        ..Limits::DEFAULT
    };

    fn append(bytes: usize) -> Append {
        Append {
            content_type: None,
            producer: None,
            stream_seq: None,
            expected_offset: None,
            preconditions: Preconditions::default(),
            close: false,
            body: Bytes::from(vec![0; bytes]),
        }
    }

    fn arrives(queue: &mut AppendQueue, id: u64, bytes: usize) -> &'static str {
        match queue.arrive(CallId(id), Call::Append(append(bytes)), &LIMITS) {
            Arrival::Runs(input) => {
                assert!(input.has_appends());
                "runs"
            }
            Arrival::Waits => "waits",
            Arrival::Refused => "refused",
        }
    }

    fn next(queue: &mut AppendQueue) -> Option<Vec<u64>> {
        let input = queue.next(&LIMITS)?;
        assert!(input.has_appends());
        Some(input.calls().map(|id| id.0).collect())
    }

    fn written() -> Turn {
        Turn {
            writes: vec![Write::CreateOutbox],
            ..Turn::default()
        }
    }

    #[test]
    fn appends_wait_for_the_commit_and_leave_in_order() {
        let mut queue = AppendQueue::default();
        assert_eq!(arrives(&mut queue, 1, 1), "runs");
        queue.turn_ended(&mut written());
        assert_eq!([2, 3, 4].map(|id| arrives(&mut queue, id, 1)), ["waits"; 3]);
        let read = queue.arrive(CallId(9), Call::Metadata, &LIMITS);
        assert!(matches!(read, Arrival::Runs(input) if !input.has_appends()));
        assert_eq!(next(&mut queue), None, "the commit is in flight");
        queue.commit_ended();
        assert_eq!(next(&mut queue), Some(vec![2, 3]));
        // A seal has put the second one off.
        let mut turn = written();
        turn.deferred.push((CallId(3), append(1)));
        queue.turn_ended(&mut turn);
        assert_eq!(next(&mut queue), None);
        queue.commit_ended();
        assert_eq!(next(&mut queue), Some(vec![3, 4]));
        assert_eq!((queue.waiting.len(), queue.bytes), (0, 0));
        // A turn that writes nothing has no commit to wait for.
        queue.turn_ended(&mut Turn::default());
        assert_eq!(arrives(&mut queue, 5, 1), "runs");
    }

    fn single(id: u64, bytes: usize) -> Input {
        let call = Call::Append(append(bytes));
        Input::Call {
            id: CallId(id),
            call,
        }
    }

    #[test]
    fn appends_that_wait_behind_each_other_share_a_turn_within_its_bounds() {
        let limits = Limits {
            turn_calls_max: 3,
            turn_bytes_max: 3 * (APPEND_OVERHEAD_BYTES + 1),
            ..Limits::DEFAULT
        };
        let mut turn = single(1, 1);
        for id in [2, 3] {
            let next = single(id, 1);
            assert!(turn.shares_turn_with(&next, &limits));
            turn = turn.followed_by(next);
        }
        assert!(turn.has_appends());
        let ids: Vec<_> = turn.calls().map(|id| id.0).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert!(
            !turn.shares_turn_with(&single(4, 0), &limits),
            "three calls"
        );
        let two = single(1, 1).followed_by(single(2, 1));
        assert!(!two.shares_turn_with(&single(3, 2), &limits), "a byte more");
        let large = single(1, 10_000);
        assert!(!large.shares_turn_with(&single(2, 0), &limits), "alone");
        let read = Input::Call {
            id: CallId(5),
            call: Call::Metadata,
        };
        assert!(!read.shares_turn_with(&single(6, 0), &limits));
        assert!(!single(6, 0).shares_turn_with(&read, &limits));
        assert!(!single(6, 0).shares_turn_with(&Input::Alarm, &limits));
        let Input::Appends(appends) = two else {
            unreachable!("they were joined")
        };
        let apart: Vec<_> = Input::one_by_one(appends)
            .map(|input| input.calls().next())
            .collect();
        assert_eq!(apart, [Some(CallId(1)), Some(CallId(2))]);
    }

    #[test]
    fn what_waits_is_bounded_but_a_single_append_always_may() {
        let mut queue = AppendQueue::default();
        queue.turn_ended(&mut written());
        let large = usize::try_from(LIMITS.waiting_bytes_max).unwrap();
        assert_eq!(arrives(&mut queue, 1, large), "waits");
        assert_eq!(arrives(&mut queue, 2, 1), "refused");
        queue.commit_ended();
        assert_eq!(next(&mut queue), Some(vec![1]));
        queue.turn_ended(&mut written());
        assert_eq!(
            [3, 4, 5, 6].map(|id| arrives(&mut queue, id, 1)),
            ["waits", "waits", "waits", "refused"]
        );
    }
}
