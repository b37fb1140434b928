//! Simulated time and the queue of events.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::settings::BEGINNING;

#[derive(Debug)]
struct Scheduled<E> {
    at: u64,
    tie: u64,
    sequence: u64,
    event: E,
}

impl<E> Scheduled<E> {
    const fn key(&self) -> (u64, u64, u64) {
        (self.at, self.tie, self.sequence)
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    /// Orders the earliest last, because the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// An event that has been taken from the queue.
#[derive(Debug)]
pub(super) struct Taken<E> {
    pub(super) event: E,
    /// Whether an event that was scheduled later came before it at the same time.
    pub(super) is_reordered: bool,
    /// How many events have been taken at this time, this one included.
    pub(super) at_once: u64,
}

/// Time that jumps from event to event, without ticks and without threads.
#[derive(Debug)]
pub(super) struct Scheduler<E> {
    /// Milliseconds since 1970.
    pub(super) now: u64,
    queue: BinaryHeap<Scheduled<E>>,
    sequence: u64,
    /// The number of the last event taken.
    last: u64,
    at_once: u64,
    /// How many events have been taken.
    pub(super) events: u64,
}

impl<E> Scheduler<E> {
    pub(super) const fn new() -> Self {
        Self {
            now: BEGINNING,
            queue: BinaryHeap::new(),
            sequence: 0,
            last: 0,
            at_once: 0,
            events: 0,
        }
    }

    /// Adds an event. Events of the same time happen in the order of `tie`, and then in the order
    /// in which they were added.
    pub(super) fn push(&mut self, at: u64, tie: u64, event: E) {
        self.sequence += 1;
        self.queue.push(Scheduled {
            at: at.max(self.now),
            tie,
            sequence: self.sequence,
            event,
        });
    }

    /// Takes the next event and sets the time to its own.
    pub(super) fn take_next(&mut self) -> Option<Taken<E>> {
        let Scheduled {
            at,
            sequence,
            event,
            ..
        } = self.queue.pop()?;
        let mut is_reordered = false;
        if at > self.now {
            self.at_once = 0;
        } else {
            is_reordered = sequence < self.last;
        }
        self.now = at;
        self.last = sequence;
        self.at_once += 1;
        self.events += 1;
        Some(Taken {
            event,
            is_reordered,
            at_once: self.at_once,
        })
    }
}
